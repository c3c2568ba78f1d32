"""Linear splines: values, total variation of the slope, and the network that each of them is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.spaces import LinearSpline, ShallowNet

SEEDS = st.integers(0, 10**6)
DECADES = st.sampled_from([0.0, 2.0, 5.0])


def random_spline(seed, decades=0.0, count=None):
    """Gaps between knots, and jumps, over so many decades; and the jumps."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30)) if count is None else count
    gaps = 10.0 ** rng.uniform(-decades, decades, count)
    jumps = rng.standard_normal(count) * 10.0 ** rng.uniform(-0.2 * decades, 0.2 * decades, count)
    knots = rng.standard_normal() + np.cumsum(gaps)
    slopes = rng.standard_normal() + np.concatenate(([0.0], np.cumsum(jumps)))
    values = rng.standard_normal() + np.concatenate(([0.0], np.cumsum(slopes[1:-1] * np.diff(knots))))
    return LinearSpline(knots, values, slopes[0], slopes[-1]), jumps


def around(spline, seed, count=200):
    """Points before, at, between and behind the knots, and the size of what is summed there."""
    rng = np.random.default_rng(seed)
    first, last = spline.knots[0], spline.knots[-1]
    span = last - first + 1.0
    x = np.concatenate((rng.uniform(first - span, last + span, count), spline.knots, [first - span, last + span]))
    size = np.abs(spline.values).max() + (spline.tv2 + abs(spline.left_slope)) * 4.0 * span
    return x, float(size)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_values_are_those_of_the_naive_sum(seed):
    spline, jumps = random_spline(seed)
    x, size = around(spline, seed)
    first = spline.knots[0]
    naive = [
        spline.values[0]
        + spline.left_slope * (t - first)
        + sum(jump * max(t - knot, 0.0) for knot, jump in zip(spline.knots, jumps, strict=True))
        for t in x
    ]
    np.testing.assert_allclose(spline(x), naive, atol=1e-13 * size)
    np.testing.assert_allclose(spline.jumps, jumps, atol=1e-9)
    assert spline.tv2 == pytest.approx(np.abs(jumps).sum(), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, decades=DECADES)
def test_the_network_is_the_same_function_and_its_path_norm_is_tv2(seed, decades):
    spline, _ = random_spline(seed, decades)
    network = spline.to_network()
    x, size = around(spline, seed)
    assert network.path_norm() == pytest.approx(spline.tv2, rel=1e-10)
    np.testing.assert_allclose(network(x[:, None])[:, 0], spline(x), atol=1e-13 * size)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, decades=DECADES)
def test_neurons_are_balanced_and_one_for_each_knot(seed, decades):
    spline, jumps = random_spline(seed, decades)
    network = spline.to_network()
    assert network.n_neurons == spline.n_knots == jumps.size
    np.testing.assert_array_equal(np.abs(network.W[:, 0]), np.abs(network.V[:, 0]))
    weight_decay = 0.5 * (np.sum(network.W**2) + np.sum(network.V**2))
    assert weight_decay == pytest.approx(spline.tv2, rel=1e-12)
    np.testing.assert_allclose(network.b / network.W[:, 0], spline.knots, rtol=1e-14)


def test_neurons_face_away_from_the_middle():
    # At most half of them are active anywhere: no cancellation between large terms.
    spline, _ = random_spline(3, 0.0, count=21)
    network = spline.to_network()
    active = (spline.knots[:, None] - 1e-9) @ network.W.T - network.b > 0.0
    assert active.sum(axis=1).max() <= 11


def test_a_far_network_keeps_its_digits():
    # In seconds since 1970; one neuron per knot that all face one way would lose four digits more.
    knots = 1.7e9 + np.arange(1000.0)
    values = np.random.default_rng(0).standard_normal(1000)
    spline = LinearSpline(knots, values, 0.0, 0.0)
    x = np.linspace(knots[0] - 10.0, knots[-1] + 10.0, 777)
    np.testing.assert_allclose(spline.to_network()(x[:, None])[:, 0], spline(x), atol=2e-3)
    near = LinearSpline(knots - 1.7e9, values, 0.0, 0.0)
    np.testing.assert_allclose(near.to_network()(x[:, None] - 1.7e9)[:, 0], near(x - 1.7e9), atol=1e-9)


def test_linear_beyond_the_knots():
    spline = LinearSpline([1.0, 2.0], [5.0, 3.0], left_slope=0.5, right_slope=-4.0)
    np.testing.assert_array_equal(spline([-1.0, 1.0, 1.5, 2.0, 4.0]), [4.0, 5.0, 4.0, 3.0, -5.0])
    np.testing.assert_array_equal(spline.slopes, [0.5, -2.0, -4.0])
    np.testing.assert_array_equal(spline.jumps, [-2.5, -2.0])
    assert spline.tv2 == 4.5


def test_arrays_of_any_shape():
    spline, _ = random_spline(0)
    x = np.random.default_rng(0).uniform(-50.0, 50.0, (3, 4, 5))
    assert spline(x).shape == (3, 4, 5)
    np.testing.assert_array_equal(spline(x).ravel(), spline(x.ravel()))
    assert spline(0.25).shape == ()
    assert spline([]).shape == (0,)


def test_a_knot_without_a_jump_is_no_neuron():
    line = LinearSpline([0.0], [1.0], 2.0, 2.0)
    assert (line.n_knots, line.tv2, line.to_network().n_neurons) == (0, 0.0, 0)
    np.testing.assert_array_equal(line.to_network()([[-3.0], [4.0]])[:, 0], [-5.0, 9.0])
    some = LinearSpline([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], 1.0, 0.0)
    assert (some.n_knots, some.tv2, some.to_network().n_neurons) == (1, 1.0, 1)
    np.testing.assert_array_equal(some.to_network()([[-1.0], [1.5], [5.0]])[:, 0], [-1.0, 1.5, 2.0])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, decades=st.sampled_from([0.0, 1.5]))
def test_merging_knots_of_one_sign_changes_nothing_outside_them(seed, decades):
    rng = np.random.default_rng(seed)
    plain, jumps = random_spline(seed, decades, count=12)
    signs = np.repeat(rng.choice([-1.0, 1.0], 6), 2)
    slopes = plain.left_slope + np.concatenate(([0.0], np.cumsum(signs * np.abs(jumps))))
    values = np.concatenate(([0.0], np.cumsum(slopes[1:-1] * np.diff(plain.knots))))
    spline = LinearSpline(plain.knots, values, slopes[0], slopes[-1])
    first = 2 * rng.choice(6, rng.integers(1, 7), replace=False)
    merged = spline.merge_knots(np.sort(first))

    assert merged.knots.size == 12 - first.size
    assert merged.tv2 == pytest.approx(spline.tv2, rel=1e-8)
    x, size = around(spline, seed)
    inside = np.zeros(x.size, dtype=bool)
    for k in first:
        inside |= (x > spline.knots[k]) & (x < spline.knots[k + 1])
        assert np.sum((merged.knots >= spline.knots[k]) & (merged.knots <= spline.knots[k + 1])) == 1
    np.testing.assert_allclose(merged(x[~inside]), spline(x[~inside]), atol=1e-12 * size)


def test_two_knots_become_the_one_where_the_lines_meet():
    spline = LinearSpline([0.0, 3.0], [0.0, 3.0], left_slope=0.0, right_slope=4.0)
    merged = spline.merge_knots([0])
    # The jumps are 1 at 0 and 3 at 3: their barycentre.
    np.testing.assert_allclose(merged.knots, [2.25])
    np.testing.assert_allclose(merged.values, [0.0])
    np.testing.assert_allclose(merged.jumps, [4.0])


def test_merging_two_knots_without_jumps():
    line = LinearSpline([0.0, 1.0, 2.0], [0.0, 2.0, 4.0], 2.0, 2.0)
    merged = line.merge_knots([1])
    assert merged.knots.size == 2
    np.testing.assert_array_equal(merged([-1.0, 0.5, 3.0]), [-2.0, 1.0, 6.0])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, step=st.floats(0.0, 1.0))
def test_towards_another_spline(seed, step):
    here, there = random_spline(seed)[0], random_spline(seed + 1)[0]
    between = here.towards(there, step)
    x = np.linspace(-60.0, 60.0, 501)
    np.testing.assert_allclose(between(x), (1.0 - step) * here(x) + step * there(x), atol=1e-9)
    assert between.tv2 <= (1.0 - step) * here.tv2 + step * there.tv2 + 1e-8
    np.testing.assert_array_equal(between.knots, np.union1d(here.knots, there.knots))


@pytest.mark.parametrize(
    ("knots", "values", "left", "right", "message"),
    [
        ([0.0, 1.0], [0.0], 0.0, 0.0, r"same length, at least 1; got shapes \(2,\) and \(1,\)"),
        ([], [], 0.0, 0.0, r"got shapes \(0,\)"),
        ([[0.0, 1.0]], [[0.0, 1.0]], 0.0, 0.0, r"got shapes \(1, 2\)"),
        (0.0, 1.0, 0.0, 0.0, r"got shapes \(\) and \(\)"),
        ([0.0, np.nan], [0.0, 1.0], 0.0, 0.0, "must be finite"),
        ([0.0, np.inf], [0.0, 1.0], 0.0, 0.0, "must be finite"),
        ([0.0, 1.0], [0.0, np.nan], 0.0, 0.0, "must be finite"),
        ([0.0, 1.0], [0.0, 1.0], np.inf, 0.0, "must be finite"),
        ([0.0, 1.0], [0.0, 1.0], 0.0, np.nan, "must be finite"),
        ([1.0, 0.0], [0.0, 1.0], 0.0, 0.0, "strictly increasing"),
        ([1.0, 1.0], [0.0, 1.0], 0.0, 0.0, "strictly increasing"),
    ],
)
def test_what_is_no_spline_is_refused(knots, values, left, right, message):
    with pytest.raises(ValueError, match=message):
        LinearSpline(knots, values, left, right)


def test_nothing_can_be_written_to():
    knots, values = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    spline = LinearSpline(knots, values, 0, 1)
    knots[0], values[0] = -9.0, -9.0
    np.testing.assert_array_equal(spline.knots, [0.0, 1.0])
    np.testing.assert_array_equal(spline.values, [2.0, 3.0])
    for array in (spline.knots, spline.values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        spline.left_slope = 2.0
    network = spline.to_network()
    assert isinstance(network, ShallowNet)
    with pytest.raises(ValueError, match="read-only"):
        network.W[0] = 7.0


def test_plain_numbers_make_the_same_spline():
    spline, _ = random_spline(5)
    again = LinearSpline(**spline.to_dict())
    x, _ = around(spline, 5)
    np.testing.assert_array_equal(again(x), spline(x))
    assert all(isinstance(number, float) for number in spline.to_dict()["knots"])
