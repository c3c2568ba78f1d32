"""Weight decay is never below the path norm, and equal to it where neurons are balanced.

``1/2 (||w||^2 + ||v||^2) >= ||w|| ||v||`` with equality iff the norms agree; a positive factor moves between them and
the function stays [Grandvalet 1998; Neyshabur, Tomioka, Srebro 2015; Parhi & Nowak 2023].
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm import sparsify
from pathnorm.problems import RBV2Problem
from pathnorm.solvers import rbv2
from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)


def decay(net):
    return 0.5 * float((net.W**2).sum() + (net.V**2).sum())


def rescaled(net, factors):
    return ShallowNet(net.W * factors[:, None], net.b * factors, net.V / factors[:, None], net.A, net.c)


def balanced(net):
    return rescaled(net, np.sqrt(np.linalg.norm(net.V, axis=1) / np.linalg.norm(net.W, axis=1)))


def random_net(rng):
    count, inputs, outputs = (int(rng.integers(1, 6)) for _ in range(3))
    shapes = ((count, inputs), count, (count, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_half_the_sum_of_squares_is_at_least_the_path_norm_and_equal_if_balanced(seed):
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    assert decay(net) >= net.path_norm() * (1.0 - 1e-12)
    best = balanced(net)
    assert np.isclose(decay(best), net.path_norm(), rtol=1e-12)
    assert np.isclose(best.path_norm(), net.path_norm(), rtol=1e-12)
    points = rng.standard_normal((7, net.W.shape[1]))
    np.testing.assert_allclose(best(points), net(points), atol=1e-10)
    factors = 10.0 ** rng.uniform(-2.0, 2.0, net.n_neurons)
    other = rescaled(net, factors)
    assert np.isclose(other.path_norm(), net.path_norm(), rtol=1e-12)
    assert decay(other) >= decay(best) * (1.0 - 1e-12)
    # Off balance by a factor of c the excess is known: (c^2 + c^-2) / 2.
    off = rescaled(best, factors)
    mass = np.linalg.norm(best.W, axis=1) ** 2
    assert np.isclose(decay(off), float(mass @ (factors**2 + factors**-2.0)) / 2.0, rtol=1e-10)


def test_the_certified_optimum_is_below_the_weight_decay_of_every_network():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    problem = RBV2Problem.from_samples(X, y, lam=0.3)
    solution = rbv2(problem, tol=1e-7)
    best = balanced(solution.coef)
    trained = problem.data_loss(best(X)) + 0.3 * decay(best)
    assert np.isclose(trained, solution.certificate.primal, rtol=1e-9)
    for _ in range(200):
        shapes = ((5, 2), 5, (5, 1), (2, 1), 1)
        net = ShallowNet(*(0.5 * rng.standard_normal(shape) for shape in shapes))
        assert problem.data_loss(net(X)) + 0.3 * decay(net) >= solution.certificate.dual
    few = sparsify(solution.coef, X)
    assert np.isclose(decay(few), few.path_norm(), rtol=1e-10)
