"""Some solution has at most N - d - 1 neurons, and D times as many for D outputs.

Shallow networks with a free affine part: [Parhi & Nowak 2021, Theorem 1]; several outputs: [Shenouda, Parhi, Lee, Nowak
2024]. From any network one goes there without raising the path norm, so from any solution too.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm import sparsify
from pathnorm.problems import BV2Problem
from pathnorm.solvers import knot_exchange
from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)


def random_net(rng, neurons, inputs, outputs):
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


def projected(net, X):
    """Features off the affine functions of X."""
    basis, sizes, _ = np.linalg.svd(np.column_stack([np.ones(len(X)), X]), full_matrices=False)
    basis = basis[:, sizes > 1e-10 * sizes[0]]
    features = np.maximum(X @ net.W.T - net.b, 0.0)
    return features - basis @ (basis.T @ features)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_the_number_is_at_most_the_rank_of_the_features_times_that_of_the_outputs(seed):
    rng = np.random.default_rng(seed)
    neurons, inputs, outputs, rows = (int(rng.integers(*ends)) for ends in ((1, 120), (1, 5), (1, 4), (2, 25)))
    net, X = random_net(rng, neurons, inputs, outputs), rng.standard_normal((rows, inputs))
    found = sparsify(net, X)
    rank = np.linalg.matrix_rank(projected(net, X), tol=1e-9)
    assert found.n_neurons <= rank * np.linalg.matrix_rank(net.V)
    assert found.n_neurons <= max(rows - inputs - 1, 0) * outputs
    assert found.path_norm() <= net.path_norm() * (1 + 1e-12)
    np.testing.assert_allclose(found(X), net(X), atol=1e-9)
    kept = projected(found, X)
    outer = np.einsum("nk,kd->ndk", kept, found.V).reshape(rows * outputs, -1)
    assert np.linalg.matrix_rank(outer, tol=1e-11 * np.linalg.norm(outer)) == found.n_neurons


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(12, 1, 1), (20, 3, 1), (15, 2, 2), (9, 9, 1)])
def test_generic_values_need_the_whole_number(rows, inputs, outputs):
    # Independent of any algorithm: values of D (N - d - 1) dimensions cannot come from fewer neurons for all networks.
    rng = np.random.default_rng(rows)
    X = rng.standard_normal((rows, inputs))
    net = random_net(rng, 600, inputs, outputs)
    bound = outputs * max(rows - inputs - 1, 0)
    assert sparsify(net, X).n_neurons <= bound
    if inputs > 1:
        assert sparsify(net, X).n_neurons == bound


@pytest.mark.parametrize("affine", ["free", "none"])
def test_inputs_that_depend_on_each_other_count_once(affine):
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((2, 6))
    X = rng.standard_normal((25, 2)) @ plane + rng.standard_normal(6)
    net = random_net(rng, 500, 6, 1)
    found = sparsify(net, X, affine=affine)
    assert found.n_neurons == (25 - 2 - 1 if affine == "free" else 25)
    np.testing.assert_allclose(found(X), net(X), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, lam=st.floats(1e-3, 10.0))
def test_no_objective_rises(seed, lam):
    rng = np.random.default_rng(seed)
    net, X = random_net(rng, 80, 2, 1), rng.standard_normal((30, 2))
    y = rng.standard_normal((30, 1))
    found = sparsify(net, X)
    for loss in (lambda z: 0.5 * (z - y) ** 2, lambda z: np.logaddexp(0.0, -np.sign(y) * z), lambda z: np.abs(z - y)):
        before, after = (loss(part(X)).sum() + lam * part.path_norm() for part in (net, found))
        assert after <= before * (1 + 1e-9)


def test_samples_no_more_than_the_affine_functions_need_no_neuron():
    rng = np.random.default_rng(0)
    net, X = random_net(rng, 50, 7, 2), rng.standard_normal((8, 7))
    found = sparsify(net, X)
    assert found.n_neurons == 0
    np.testing.assert_allclose(found(X), net(X), atol=1e-9)


@pytest.mark.parametrize("lam", [1e-3, 1e-2, 1e-1])
def test_a_certified_solution_split_into_many_neurons_comes_back_as_one(lam):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1.0, 1.0, 60))
    problem = BV2Problem.from_samples(x, np.sin(6.0 * x) + 0.1 * rng.standard_normal(60), lam)
    spline = knot_exchange(problem, tol=1e-10).coef
    best = spline.to_network()
    # Every knot becomes two neurons that may face the other way: another affine part, the same norm, still the least.
    share, turn = rng.uniform(0.1, 0.9, best.n_neurons), rng.choice([-1.0, 1.0], best.n_neurons)
    knots, jumps = best.b / best.W[:, 0], np.abs(best.W[:, 0]) * best.V[:, 0]
    many = ShallowNet(
        np.tile(turn, 2)[:, None],
        np.tile(turn * knots, 2),
        np.concatenate([share * jumps, (1.0 - share) * jumps])[:, None],
        best.A,
        best.c,
    )
    found = sparsify(many, x[:, None])
    assert found.n_neurons <= best.n_neurons
    np.testing.assert_allclose(found(x[:, None]), many(x[:, None]), atol=1e-10)
    assert found.path_norm() == pytest.approx(spline.tv2, rel=1e-9)
