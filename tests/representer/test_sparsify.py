"""Fewer neurons, the same values on the samples, no larger path norm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from pathnorm import sparsify
from pathnorm.representer._caratheodory import independent
from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)
AFFINE = st.sampled_from(["free", "none"])


def random_net(rng, neurons, inputs, outputs):
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


def random_case(seed):
    """A network with copies, dead, zero and all-active neurons, and samples of which some lie on hinges."""
    rng = np.random.default_rng(seed)
    neurons, inputs, outputs, rows = (int(rng.integers(*ends)) for ends in ((0, 40), (1, 5), (1, 4), (1, 30)))
    net = random_net(rng, neurons, inputs, outputs)
    X = rng.standard_normal((rows, inputs))
    W, b, V = net.W.copy(), net.b.copy(), net.V.copy()
    for k in range(neurons):
        kind = rng.integers(0, 10)
        if kind == 0:
            b[k] = 50.0 * rng.choice([-1.0, 1.0])
        elif kind == 1:
            W[k] = 0.0
        elif kind == 2:
            V[k] = 0.0
        elif kind == 3:
            b[k] = W[k] @ X[rng.integers(rows)]
        elif kind == 4:
            j, scale = rng.integers(neurons), rng.choice([-2.0, 0.5])
            W[k], b[k] = scale * W[j], scale * b[j]
        elif kind == 5:
            V[k] = rng.uniform() * V[rng.integers(neurons)]
    return ShallowNet(W, b, V, net.A, net.c), X


def assert_same_values(first, second, X, tol=1e-10):
    expected = second(X)
    np.testing.assert_allclose(first(X), expected, atol=tol * max(np.abs(expected).max(), 1.0), rtol=0.0)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, affine=AFFINE)
def test_values_stay_the_norm_does_not_grow_and_a_second_call_changes_nothing(seed, affine):
    net, X = random_case(seed)
    found = sparsify(net, X, affine=affine)
    assert_same_values(found, net, X)
    assert found.path_norm() <= net.path_norm() * (1 + 1e-12)
    assert found.n_neurons <= net.n_neurons
    np.testing.assert_allclose(np.linalg.norm(found.W, axis=1), np.linalg.norm(found.V, axis=1))
    again = sparsify(found, X, affine=affine)
    assert again.n_neurons == found.n_neurons
    for name in ("W", "b", "V", "A", "c"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=1e-9, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_the_affine_part_can_be_left_alone(seed):
    net, X = random_case(seed)
    found = sparsify(net, X, affine="none")
    np.testing.assert_array_equal(found.A, net.A)
    still = ~net.W.any(axis=1)
    np.testing.assert_allclose(found.c, net.c + np.maximum(-net.b[still], 0.0) @ net.V[still], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, affine=AFFINE)
def test_order_scales_and_copies_of_neurons_do_not_matter_to_what_is_proved(seed, affine):
    net, X = random_case(seed)
    rng = np.random.default_rng(seed)
    order, scale = rng.permutation(2 * net.n_neurons), rng.uniform(0.1, 10.0, (2 * net.n_neurons, 1))
    twice = ShallowNet(
        (scale * np.concatenate([net.W, net.W]))[order],
        (scale[:, 0] * np.concatenate([net.b, net.b]))[order],
        (np.concatenate([0.3 * net.V, 0.7 * net.V]) / scale)[order],
        net.A,
        net.c,
    )
    found = sparsify(twice, X, affine=affine)
    assert_same_values(found, net, X)
    assert found.path_norm() <= net.path_norm() * (1 + 1e-12)
    assert found.n_neurons <= net.n_neurons


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_rows_twice_shifts_and_scales_of_the_inputs_do_not_matter_to_what_is_proved(seed):
    net, X = random_case(seed)
    rng = np.random.default_rng(seed)
    scale, shift = 10.0 ** rng.integers(-3, 4, X.shape[1]), rng.standard_normal(X.shape[1])
    moved = ShallowNet(net.W / scale, net.b + net.W @ shift, net.V, net.A / scale[:, None], net.c - shift @ net.A)
    rows = scale * (X + shift)
    np.testing.assert_allclose(moved(rows), net(X), atol=1e-9)
    found = sparsify(moved, np.concatenate([rows, rows]))
    assert_same_values(found, moved, rows)
    assert found.path_norm() <= moved.path_norm() * (1 + 1e-12)
    assert found.n_neurons <= max(len(X) - 1 - X.shape[1], 0) * net.c.size


# ------------------------------------------------------------------------------ steps


def plane_net(*neurons, outputs=1):
    """Neurons as (w1, w2, b, v)."""
    W, b, V = [n[:2] for n in neurons], [n[2] for n in neurons], [np.atleast_1d(n[3]) for n in neurons]
    return ShallowNet(W, b, V, np.zeros((2, outputs)), np.zeros(outputs))


GRID = np.array([(x, y) for x in (-1.0, 0.0, 1.0, 2.0) for y in (-1.0, 0.0, 1.0)])


def test_dead_neurons_go_and_those_always_active_become_affine():
    net = plane_net((1.0, 0.0, 5.0, 1.0), (2.0, 1.0, -9.0, 3.0), (0.0, 0.0, -2.0, 0.5))
    found = sparsify(net, GRID)
    assert found.n_neurons == 0
    np.testing.assert_allclose(found.A[:, 0], [6.0, 3.0])
    np.testing.assert_allclose(found.c, [28.0])
    kept = sparsify(net, GRID, affine="none")
    assert kept.n_neurons == 1
    np.testing.assert_allclose(kept.c, [1.0])


def test_neurons_of_one_cell_become_their_sum():
    # All hinges pass between the columns of the grid at 0 and at 1; the third faces the other way.
    net = plane_net((1.0, 0.1, 0.4, 2.0), (1.0, -0.1, 0.6, 1.0), (-1.0, 0.0, -0.5, 0.5))
    found = sparsify(net, GRID)
    assert found.n_neurons == 1
    scale = found.W[0, 0] * found.V[0, 0]
    np.testing.assert_allclose(found.W[0] * found.V[0, 0], [3.5, 0.1], atol=1e-14)
    np.testing.assert_allclose(found.b[0] * found.V[0, 0], 2.0 * 0.4 + 0.6 + 0.25)
    assert scale > 0.0
    assert found.path_norm() == pytest.approx(np.hypot(3.5, 0.1))
    assert_same_values(found, net, GRID, 1e-14)
    assert sparsify(net, GRID, affine="none").n_neurons == 2


def test_opposite_signs_and_other_output_directions_are_not_added():
    # Eight rows, so that the two columns are independent.
    pair = [(1.0, 0.1, 0.4, 2.0), (1.0, -0.1, 0.6, -1.0)]
    assert sparsify(plane_net(*pair), GRID).path_norm() == pytest.approx(plane_net(*pair).path_norm())
    vectors = [(1.0, 0.1, 0.4, [1.0, 0.0]), (1.0, -0.1, 0.6, [0.0, 1.0]), (1.0, 0.0, 0.5, [2.0, 0.0])]
    found = sparsify(plane_net(*vectors, outputs=2), GRID)
    assert found.n_neurons == 2
    assert sorted(np.flatnonzero(row)[0] for row in found.V) == [0, 1]


def test_hinges_through_samples_share_a_cell_whatever_the_rounding():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (40, 2))
    hinge = X[7]
    W = np.array([np.cos(0.3 + 1e-7 * np.arange(3)), np.sin(0.3 + 1e-7 * np.arange(3))]).T
    net = ShallowNet(W, W @ hinge * (1.0 + 1e-16), np.ones((3, 1)), np.zeros((2, 1)), [0.0])
    found = sparsify(net, X)
    assert found.n_neurons == 1
    assert_same_values(found, net, X, 1e-13)


# ------------------------------------------------------------------------------ Carathéodory


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(0, 12), count=st.integers(1, 150))
def test_caratheodory_keeps_the_sum_and_lowers_the_cost(seed, rows, count):
    rng = np.random.default_rng(seed)
    columns, cost = rng.standard_normal((rows, count)), rng.exponential(1.0, count)
    m = independent(columns, cost, 1e-10)
    assert m.min() >= 0.0
    assert np.count_nonzero(m) <= min(rows, count)
    np.testing.assert_allclose(columns @ m, columns.sum(axis=1), atol=1e-11)
    chosen = columns[:, m > 0.0]
    assert chosen.shape[1] == (np.linalg.matrix_rank(chosen) if chosen.size else 0)
    best = linprog(cost, A_eq=columns, b_eq=columns.sum(axis=1)).fun if rows else 0.0
    assert best - 1e-9 <= cost @ m <= cost.sum() * (1 + 1e-12)


def test_at_an_optimum_the_norm_stays_and_the_number_falls():
    # Cost a' columns with a fixed: every positive combination of one sum costs the same.
    rng = np.random.default_rng(0)
    columns = rng.exponential(1.0, (6, 80))
    cost = rng.exponential(1.0, 6) @ columns
    m = independent(columns, cost, 1e-12)
    assert np.count_nonzero(m) <= 6
    assert cost @ m == pytest.approx(cost.sum(), rel=1e-12)


def test_large_networks_and_many_samples():
    rng = np.random.default_rng(0)
    net, X = random_net(rng, 1500, 8, 1), rng.standard_normal((150, 8))
    found = sparsify(net, X)
    assert found.n_neurons == 141
    assert_same_values(found, net, X, 1e-11)
    assert found.path_norm() < 0.6 * net.path_norm()
    net, X = random_net(rng, 30, 2, 3), rng.standard_normal((40_000, 2))
    assert_same_values(sparsify(net, X), net, X, 1e-11)


def test_features_of_many_scales_and_networks_that_cancel():
    rng = np.random.default_rng(1)
    net, X = random_net(rng, 300, 3, 1), rng.standard_normal((60, 3))
    wide = ShallowNet(net.W, net.b, net.V * 10.0 ** rng.uniform(-9, 3, (300, 1)), net.A, net.c)
    found = sparsify(wide, X)
    assert found.n_neurons <= 56
    assert_same_values(found, wide, X, 1e-10)
    double = ShallowNet(
        np.concatenate([net.W, net.W]),
        np.concatenate([net.b, net.b]),
        np.concatenate([1e4 * net.V, (1.0 - 1e4) * net.V]),
        net.A,
        net.c,
    )
    assert sparsify(double, X).path_norm() <= 1.01e-1 * double.path_norm()
    assert_same_values(sparsify(double, X), net, X, 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((4, 3))}, r"shape \(N, 2\) with N >= 1; got \(4, 3\)"),
        ({"X": np.zeros((0, 2))}, r"got \(0, 2\)"),
        ({"X": np.full((4, 2), np.nan)}, "X must be finite"),
        ({"net": ShallowNet([[np.inf, 0.0]], [0.0], [[1.0]], np.zeros((2, 1)), [0.0])}, "finite weights"),
        ({"affine": "ridge"}, "'free' or 'none'; got 'ridge'"),
        ({"tol": -1.0}, r"tol must be in \[0, 1\); got -1"),
        ({"tol": float("nan")}, "got nan"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"net": plane_net((1.0, 0.0, 0.5, 1.0)), "X": GRID} | change
    with pytest.raises(ValueError, match=message):
        sparsify(arguments.pop("net"), arguments.pop("X"), **arguments)


def test_a_larger_tolerance_gives_fewer_neurons_within_it():
    rng = np.random.default_rng(2)
    net, X = random_net(rng, 200, 2, 1), rng.standard_normal((100, 2))
    fine, coarse = sparsify(net, X), sparsify(net, X, tol=1e-2)
    assert coarse.n_neurons < fine.n_neurons
    change = coarse(X) - net(X)
    assert np.linalg.norm(change) <= 1e-2 * np.linalg.norm(net(X))
