"""The solution with the fewest knots: the same values at the sites, the same norm, half the knots of every run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.problems import BV2Problem
from pathnorm.representer import sparsest
from pathnorm.solvers import knot_exchange
from pathnorm.spaces import LinearSpline

SEEDS = st.integers(0, 10**6)


def from_jumps(sites, jumps, slope=0.3):
    """Spline with a knot at every site; jumps may be zero."""
    slopes = slope + np.concatenate(([0.0], np.cumsum(jumps)))
    values = 1.0 + np.concatenate(([0.0], np.cumsum(slopes[1:-1] * np.diff(sites))))
    return LinearSpline(sites, values, slopes[0], slopes[-1])


def exact(jumps, sites, slope=0.3):
    """The same without the knots that have no jump, whose slopes differ by rounding errors."""
    keep = np.asarray(jumps) != 0.0
    spline = from_jumps(sites, jumps, slope)
    return LinearSpline(sites[keep], spline.values[keep], spline.left_slope, spline.right_slope)


def irregular(seed, n):
    return np.cumsum(np.random.default_rng(seed).uniform(0.2, 2.0, n))


def fewest(jumps):
    """``sum ceil(p / 2)`` over runs of p jumps of one sign at consecutive sites."""
    runs = [(sign, len(list(run))) for sign, run in itertools.groupby(np.sign(jumps))]
    return sum(-(-length // 2) for sign, length in runs if sign != 0.0)


def assert_sparsest(spline, sites, count):
    best = sparsest(spline, sites)
    np.testing.assert_allclose(best(sites), spline(sites), rtol=1e-11, atol=1e-11 * np.abs(spline(sites)).max())
    ends = np.array([sites[0] - 10.0, sites[-1] + 10.0])
    np.testing.assert_allclose(best(ends), spline(ends), rtol=1e-11)
    assert best.tv2 == pytest.approx(spline.tv2, rel=1e-9)
    assert best.n_knots == count
    return best


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_run_of_knots_becomes_half_as_many(length, sign):
    sites = irregular(length, 12)
    jumps = np.zeros(12)
    jumps[3 : 3 + length] = sign * np.random.default_rng(length).uniform(0.5, 2.0, length)
    assert_sparsest(exact(jumps, sites), sites, -(-length // 2))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (3, 2), (4, 4), (1, 4)])
def test_adjacent_runs_of_opposite_sign_are_not_mixed(first, second):
    sites = irregular(7, 14)
    jumps = np.zeros(14)
    jumps[2 : 2 + first] = 1.0
    jumps[2 + first : 2 + first + second] = -1.5
    assert_sparsest(exact(jumps, sites), sites, -(-first // 2) - (-second // 2))


def test_a_site_without_a_knot_parts_two_runs():
    sites = irregular(8, 10)
    jumps = np.zeros(10)
    jumps[[2, 4, 6]] = 1.0
    spline = exact(jumps, sites)
    best = assert_sparsest(spline, sites, 3)
    np.testing.assert_array_equal(best.knots, spline.knots)
    # Without the sites between them the three are a run.
    assert_sparsest(spline, sites[[0, 2, 4, 6, 9]], 2)


def test_a_pair_becomes_its_barycentre():
    best = sparsest(LinearSpline([1.0, 2.0], [0.0, 1.0], 0.0, 4.0), [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(best.knots, [(1.0 * 1.0 + 2.0 * 3.0) / 4.0])
    np.testing.assert_allclose(best([0.0, 1.0, 2.0, 3.0]), [0.0, 0.0, 1.0, 5.0], atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_random_patterns_of_runs(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 40))
    sites = irregular(seed, n)
    jumps = rng.choice([-1.0, 0.0, 1.0], n, p=[0.4, 0.2, 0.4]) * rng.uniform(0.1, 3.0, n)
    jumps[[0, -1]] = 0.0
    if not jumps.any():
        jumps[1] = 1.0
    assert_sparsest(exact(jumps, sites), sites, fewest(jumps))


def lines_through(sites, values):
    """Slopes of the segments between the sites."""
    return np.diff(values) / np.diff(sites)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_no_spline_with_fewer_knots_has_these_values(length):
    # Between two sites whose segment slopes differ from both neighbours f needs a knot in every open pair of
    # segments: a knot bends f inside at most one stretch, so every two jumps of the interpolant need one.
    sites = irregular(20 + length, length + 4)
    jumps = np.zeros(length + 4)
    jumps[2 : 2 + length] = 1.0 + np.random.default_rng(length).random(length)
    spline = exact(jumps, sites)
    best = sparsest(spline, sites)
    values = spline(sites)
    slopes = lines_through(sites, values)
    # Three sites that are not on a line have a knot strictly inside: the disjoint triples that bend count the knots.
    triples, k = 0, 0
    while k + 2 < sites.size:
        if abs(slopes[k + 1] - slopes[k]) > 1e-9:
            triples, k = triples + 1, k + 2
        else:
            k += 1
    assert triples == best.n_knots == -(-length // 2)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 200), share=st.sampled_from([0.1, 1e-2, 1e-4, 1e-6]))
def test_a_solution_stays_a_solution(seed, n, share):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    # Without much noise neighbouring knots have one sign.
    problem = BV2Problem.from_samples(x, np.sin(9.0 * x) + 0.01 * rng.standard_normal(n), 1.0)
    problem = problem.with_lam(share * problem.lam_max)
    spline = knot_exchange(problem, tol=1e-8).coef
    best = sparsest(spline, problem.samples.x)
    assert best.n_knots <= spline.n_knots
    np.testing.assert_allclose(best(x), spline(x), atol=1e-9)
    assert best.tv2 == pytest.approx(spline.tv2, rel=1e-8)
    before, after = problem.certify(spline), problem.certify(best)
    assert after.primal == pytest.approx(before.primal, rel=1e-8)
    assert after.gap <= 2e-8
    # Again there is nothing to merge.
    assert sparsest(best, problem.samples.x).n_knots == best.n_knots


def test_knots_off_the_sites_and_lines_are_left_alone():
    sites = np.arange(5.0)
    line = LinearSpline([2.0], [1.0], 3.0, 3.0)
    assert sparsest(line, sites) is line
    off = LinearSpline([1.3, 1.7], [0.0, 1.0], 0.0, 4.0)
    np.testing.assert_array_equal(sparsest(off, sites).knots, off.knots)
    beyond = LinearSpline([4.0, 5.0], [0.0, 1.0], 0.0, 4.0)
    np.testing.assert_array_equal(sparsest(beyond, sites).knots, beyond.knots)


def test_the_spline_that_was_given_is_not_written_to():
    spline = exact(np.array([0.0, 1.0, 1.0, 0.0]), np.arange(4.0))
    knots, values = spline.knots.copy(), spline.values.copy()
    sparsest(spline, np.arange(4.0))
    np.testing.assert_array_equal(spline.knots, knots)
    np.testing.assert_array_equal(spline.values, values)
