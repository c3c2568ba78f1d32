"""What a shallow network is made of: its measure, its directions, its Lipschitz constant, its formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.spaces import RadonMeasure, ShallowNet

SEEDS = st.integers(0, 10**6)


def random_net(seed, neurons=5, inputs=3, outputs=2):
    rng = np.random.default_rng(seed)
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


def some_net(seed):
    rng = np.random.default_rng(seed)
    return random_net(seed, *(int(rng.integers(*ends)) for ends in ((0, 8), (1, 5), (1, 4))))


def assert_same_measure(first, second):
    """Equal up to the order of atoms of one size."""
    assert first.total == pytest.approx(second.total, rel=1e-10)
    for name in ("directions", "offsets", "masses"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-9)


# ------------------------------------------------------------------------------ measure


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_the_function_is_its_measure_up_to_an_affine_function(seed):
    net = some_net(seed)
    measure = net.radon_measure()
    X = np.random.default_rng(seed).standard_normal((30, net.W.shape[1]))
    rest = net(X) - 0.5 * np.abs(X @ measure.directions.T - measure.offsets) @ measure.masses
    basis = np.column_stack([np.ones(30), X])
    np.testing.assert_allclose(basis @ np.linalg.lstsq(basis, rest)[0], rest, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(measure.directions, axis=1), 1.0, rtol=1e-12)
    assert (np.diff(measure.sizes) <= 0.0).all()
    for row in measure.directions:
        assert row[np.flatnonzero(row)[0]] > 0.0
    assert measure.total == pytest.approx(net.path_norm(), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_scaling_splitting_and_turning_neurons_change_nothing(seed):
    net, rng = random_net(seed), np.random.default_rng(seed)
    scale, share = rng.uniform(0.1, 10.0, 5), rng.uniform(0.1, 0.9, 5)[:, None]
    turn = rng.choice([-1.0, 1.0], 5)
    order = rng.permutation(11)
    split = ShallowNet(
        W=np.concatenate([scale[:, None] * net.W, turn[:, None] * net.W, np.zeros((1, 3))])[order],
        b=np.concatenate([scale * net.b, turn * net.b, [-1.0]])[order],
        V=np.concatenate([share * net.V / scale[:, None], (1.0 - share) * net.V, np.ones((1, 2))])[order],
        A=rng.standard_normal((3, 2)),
        c=net.c,
    )
    assert_same_measure(split.radon_measure(), net.radon_measure())


def test_one_hinge_is_one_atom_and_what_cancels_is_gone():
    half = 0.5**0.5
    net = ShallowNet(
        W=[[0.0, -2.0], [0.0, 1.0], [half, half], [-half, -half], [3.0, 0.0]],
        b=[-2.0, 1.0, 0.5, -0.5, 0.0],
        V=[[1.0], [3.0], [2.0], [-2.0], [-1.0]],
        A=np.zeros((2, 1)),
        c=[0.0],
    )
    measure = net.radon_measure()
    np.testing.assert_allclose(measure.directions, [[0.0, 1.0], [1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(measure.offsets, [1.0, 0.0])
    np.testing.assert_allclose(measure.masses, [[5.0], [-3.0]])
    assert measure.total == pytest.approx(8.0)
    assert net.path_norm() == pytest.approx(12.0)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"directions \(K, d\), offsets \(K,\) .* got \(2, 3\), \(1,\), \(2, 1\)"):
        RadonMeasure(np.ones((2, 3)), np.ones(1), np.ones((2, 1)))


def test_a_measure_cannot_be_written_to():
    measure = random_net(0).radon_measure()
    assert isinstance(measure, RadonMeasure)
    with pytest.raises(ValueError, match="read-only"):
        measure.masses[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        measure.masses = None


# ------------------------------------------------------------------------------ directions


def test_directions_gather_offsets_and_opposite_sides_near_the_equator():
    angles = np.array([0.5, 0.5 + 1e-9, np.pi / 2 - 1e-9, -np.pi / 2 + 1e-9, -0.3])
    measure = RadonMeasure(
        np.column_stack([np.cos(angles), np.sin(angles)]),
        np.arange(5.0),
        np.array([[3.0], [-1.0], [1.0], [2.0], [0.5]]),
    )
    directions, masses = measure.directions_by_mass()
    np.testing.assert_allclose(masses, [4.0, 3.0, 0.5])
    expected = np.array([[np.cos(0.5), np.sin(0.5)], [0.0, 1.0], [np.cos(0.3), -np.sin(0.3)]])
    np.testing.assert_allclose(np.abs(np.sum(directions * expected, axis=1)), 1.0, atol=1e-15)
    assert measure.directions_by_mass(angle=0.0).masses.size == 5
    assert measure.directions_by_mass(angle=0.9).masses.size == 2


def test_a_direction_is_the_mean_of_its_atoms_on_one_side():
    angles = np.radians([80.0, -80.0])  # twenty degrees apart, as -80 is 100
    measure = RadonMeasure(np.column_stack([np.cos(angles), np.sin(angles)]), np.zeros(2), np.ones((2, 1)))
    directions, masses = measure.directions_by_mass(angle=0.4)
    np.testing.assert_allclose(np.abs(directions), [[0.0, 1.0]], atol=1e-15)
    np.testing.assert_allclose(masses, [2.0])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, angle=st.floats(0.0, 1.5))
def test_directions_keep_the_mass(seed, angle):
    measure = some_net(seed).radon_measure()
    directions, masses = measure.directions_by_mass(angle=angle)
    assert masses.sum() == pytest.approx(measure.total)
    assert (np.diff(masses) <= 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)


@pytest.mark.parametrize("angle", [-0.1, 2.0, float("nan")])
def test_angles_that_are_none_are_refused(angle):
    with pytest.raises(ValueError, match=r"angle must be radians in \[0, pi/2\)"):
        random_net(0).radon_measure().directions_by_mass(angle=angle)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_subspace_is_where_the_function_bends(seed):
    rng = np.random.default_rng(seed)
    plane = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    small = random_net(seed, 9, 2, 2)
    net = ShallowNet(small.W @ plane.T, small.b, small.V, rng.standard_normal((6, 2)), small.c)
    found = net.radon_measure().subspace()
    assert found.dimension == 2
    assert found.values.sum() == pytest.approx(net.path_norm())
    assert found.shares.sum() == pytest.approx(1.0)
    kept = found.vectors[:, :2]
    np.testing.assert_allclose(kept @ kept.T, plane @ plane.T, atol=1e-7)
    X, across = rng.standard_normal((5, 6)), found.vectors[:, 3]
    second = net(X + across) - 2.0 * net(X) + net(X - across)
    np.testing.assert_allclose(second, 0.0, atol=1e-10)


def test_a_function_that_never_bends_has_no_direction():
    measure = random_net(0, neurons=0).radon_measure()
    assert measure.total == 0.0
    assert measure.directions_by_mass().masses.size == 0
    assert measure.subspace().dimension == 0


# ------------------------------------------------------------------------------ Lipschitz constants


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_slopes_lie_between_the_measured_and_the_certified_constant(seed):
    net, rng = some_net(seed), np.random.default_rng(seed)
    X = rng.standard_normal((200, net.W.shape[1]))
    Y = X + rng.exponential(1e-1, (200, 1)) * rng.standard_normal(X.shape)
    moved, distance = np.linalg.norm(net(X) - net(Y), axis=1), np.linalg.norm(X - Y, axis=1)
    rounding = 1e-14 * (1.0 + np.abs(net(X)).max())
    upper, lower = net.lipschitz_upper(), net.lipschitz_lower(X)
    assert (moved <= upper * distance * (1 + 1e-9) + rounding).all()
    assert lower <= upper * (1 + 1e-12)
    assert upper <= (np.linalg.norm(net.A, 2) + net.path_norm()) * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_measured_constant_is_the_largest_gradient(seed):
    net = some_net(seed)
    X = np.random.default_rng(seed).standard_normal((20, net.W.shape[1]))
    step, largest = 1e-6, 0.0
    for x in X:
        if net.n_neurons and np.abs(net.W @ x - net.b).min() < 1e-4:
            return
        moves = step * np.eye(x.size)
        jacobian = (net(x + moves) - net(x - moves)) / (2 * step)
        largest = max(largest, np.linalg.norm(jacobian, 2))
    assert net.lipschitz_lower(X) == pytest.approx(largest, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, neurons=st.integers(0, 7), outputs=st.integers(1, 2))
def test_of_one_input_the_constant_is_exact(seed, neurons, outputs):
    rng = np.random.default_rng(seed)
    net = random_net(seed, neurons, 1, outputs)
    twice = rng.integers(0, max(neurons, 1), 2) if neurons else []
    net = ShallowNet(  # with hinges that coincide
        np.concatenate([net.W, -net.W[twice]]),
        np.concatenate([net.b, -net.b[twice]]),
        np.concatenate([net.V, rng.standard_normal((len(twice), outputs))]),
        net.A,
        net.c,
    )
    hinges = np.unique(net.b / net.W[:, 0])
    ends = np.concatenate([[-1e3], hinges, [1e3]])
    middles = 0.5 * (ends[1:] + ends[:-1])[:, None]
    assert net.lipschitz_upper() == pytest.approx(net.lipschitz_lower(middles), rel=1e-12)


def test_the_measured_constant_is_right_on_a_hinge():
    # x + (-x)_+ - (x)_+ = 0: with both neurons off at zero the slope would be one.
    net = ShallowNet([[-1.0], [1.0]], [0.0, 0.0], [[1.0], [-1.0]], [[1.0]], [0.0])
    assert net.lipschitz_lower([[0.0]]) == 0.0
    assert net.lipschitz_upper() == 0.0


def test_the_bound_knows_that_neurons_face_each_other():
    # |x| in three dimensions: slope one, path norm two.
    net = ShallowNet([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [0.0, 0.0], [[1.0], [1.0]], np.zeros((3, 1)), [0.0])
    assert net.lipschitz_upper() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least one row"):
        net.lipschitz_lower(np.zeros((0, 3)))


# ------------------------------------------------------------------------------ formula


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, inputs=st.integers(1, 3), neurons=st.integers(0, 5))
def test_the_formula_is_the_function(seed, inputs, neurons):
    net = random_net(seed, neurons, inputs, 1)
    names = ["a", "b", "c"][:inputs]
    head, _, body = net.formula(names, digits=15).partition("=")
    assert head == f"f({', '.join(names)}) "
    for x in np.random.default_rng(seed).standard_normal((4, inputs)):
        value = eval(" ".join(body.split()), {"max": max}, dict(zip(names, x, strict=True)))
        assert value == pytest.approx(net(x[None])[0, 0], rel=1e-10, abs=1e-10)


def test_the_formula_reads_as_an_additive_model():
    net = ShallowNet(
        W=[[0.0, -1.0], [2.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]],
        b=[1.0, 0.0, -1.0, 5.0, 1.0],
        V=[[1.0], [-3.0], [0.25], [0.5], [9.0]],
        A=[[0.0], [-1.0]],
        c=[0.25],
    )
    assert net.formula(["age", "income"]) == (
        "f(age, income) =\n"
        "    0.5 - income\n"
        "  - 6*max(0, age)\n"
        "  + 2.5*max(0, 0.6*age + 0.8*income - 1)\n"
        "  + max(0, -income - 1)"
    )


def test_the_formula_of_several_outputs_has_vectors():
    net = ShallowNet([[1.0]], [2.0], [[1.0, -2.0]], [[0.0, 0.5]], [0.0, 0.0])
    assert net.formula() == "f(x) =\n    [0, 0.5]*x\n  + [1, -2]*max(0, x - 2)"
    assert ShallowNet(np.zeros((0, 2)), [], np.zeros((0, 1)), np.zeros((2, 1)), [0.0]).formula() == "f(x1, x2) =\n    0"


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one name for each of the 3 inputs; got 1"):
        random_net(0).formula(["x"])
    with pytest.raises(ValueError, match="digits must be at least 1; got 0"):
        random_net(0).formula(digits=0)
