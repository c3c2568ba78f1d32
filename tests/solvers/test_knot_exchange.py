"""Exact BV² regression: an interior point method, brute force, and what must not change the answer."""

from __future__ import annotations

import itertools
import warnings

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import CertificateWarning
from pathnorm.problems import BV2Problem
from pathnorm.solvers import Status, bv2_lam_max, bv2_solutions, knot_exchange
from pathnorm.solvers.knot_exchange import finish
from pathnorm.spaces import LinearSpline

SEEDS = st.integers(0, 10**6)


def sample(seed, n, *, duplicates=False, weighted=False, noise=0.3):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    if duplicates:
        x = np.round(30.0 * x) / 30.0
    y = np.sin(9.0 * x) + noise * rng.standard_normal(n)
    return x, y, rng.uniform(0.3, 3.0, n) if weighted else None


def problem_at(share, x, y, weights=None):
    """The problem at this share of lam_max."""
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights)
    return problem.with_lam(share * problem.lam_max)


def interior_point(x, y, weights, lam):
    """Optimum and values at the distinct x."""
    sites, which = np.unique(x, return_inverse=True)
    root = np.ones(x.size) if weights is None else np.sqrt(weights)
    values = cvxpy.Variable(sites.size)
    slopes = cvxpy.multiply(1.0 / np.diff(sites), cvxpy.diff(values))
    losses = 0.5 * cvxpy.sum_squares(cvxpy.multiply(root, y - values[which]))
    program = cvxpy.Problem(cvxpy.Minimize(losses + lam * cvxpy.norm1(cvxpy.diff(slopes))))
    accuracy = {f"tol_{name}": 1e-11 for name in ("gap_abs", "gap_rel", "feas")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside cvxpy
        best = float(program.solve(solver=cvxpy.CLARABEL, **accuracy))
    return best, sites, values.value


# ------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(("duplicates", "weighted"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("share", [0.5, 0.05, 2e-3, 1e-4])
def test_an_interior_point_method_finds_the_same(share, duplicates, weighted):
    x, y, weights = sample(1, 150, duplicates=duplicates, weighted=weighted)
    problem = problem_at(share, x, y, weights)
    solution = knot_exchange(problem)
    best, sites, values = interior_point(x, y, weights, problem.lam)
    assert solution.certificate.primal == pytest.approx(best, rel=1e-7)
    np.testing.assert_allclose(solution.coef(sites), values, atol=2e-4)
    assert solution.status is Status.CONVERGED
    assert solution.converged


def splines_of_every_sign_pattern(x, y, weights, lam):
    """Optima given knots and signs, for every choice of both, whose signs are right: the best of them is the answer."""
    n = x.size
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=n - 2):
        signs = np.array(signs)
        knots = x[1:-1][signs != 0.0]
        columns = np.column_stack([np.ones(n), x - x[0], *(np.maximum(x - t, 0.0) for t in knots)])
        kept = signs[signs != 0.0]
        normal = columns.T @ (weights[:, None] * columns)
        right = columns.T @ (weights * y) - lam * np.concatenate(([0.0, 0.0], kept))
        coef = np.linalg.solve(normal, right)
        if (coef[2:] * kept >= 0.0).all():
            fit = columns @ coef
            yield 0.5 * weights @ (y - fit) ** 2 + lam * np.abs(coef[2:]).sum(), fit


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 6), share=st.sampled_from([0.9, 0.3, 0.03, 1e-3]))
def test_brute_force_over_knots_and_signs_finds_the_same(seed, n, share):
    rng = np.random.default_rng(seed)
    x, y, weights = np.sort(rng.uniform(0.0, 1.0, n)), rng.standard_normal(n), rng.uniform(0.5, 2.0, n)
    x += 0.02 * np.arange(n)
    problem = problem_at(share, x, y, weights)
    best, fit = min(splines_of_every_sign_pattern(x, y, weights, problem.lam), key=lambda pair: pair[0])
    solution = knot_exchange(problem)
    assert solution.certificate.primal == pytest.approx(best, rel=1e-9)
    np.testing.assert_allclose(solution.coef(x), fit, atol=1e-7)


# ------------------------------------------------------------------------------------------------- certified everywhere


def positions(kind, rng, n):
    if kind == "grid":
        return np.arange(n) / n
    if kind == "cauchy":
        return rng.standard_cauchy(n)
    if kind == "near-duplicate":
        half = rng.uniform(0.0, 1.0, (n + 1) // 2)
        return np.concatenate((half, half + 10.0 ** rng.uniform(-14.0, -6.0, half.size)))[:n]
    if kind == "duplicate":
        return rng.integers(0, max(n // 3, 3), n) / 7.0
    if kind == "unix time":
        return 1.7e9 + np.round(rng.uniform(0.0, 3e6, n), 3)
    return rng.uniform(0.0, 1.0, n)


@pytest.mark.parametrize("kind", ["uniform", "grid", "cauchy", "near-duplicate", "duplicate", "unix time"])
def test_every_instance_is_certified(kind):
    rng = np.random.default_rng(len(kind))
    for _ in range(36):
        n = int(10.0 ** rng.uniform(0.5, 3.5))
        x = positions(kind, rng, n)
        rank = np.argsort(np.argsort(x)) / n
        y = np.sin(9.0 * rank) + rng.choice([0.0, 0.05, 0.5]) * rng.standard_normal(n)
        y = rng.choice([1.0, 1e-6, 1e6]) * (y - y.mean())
        weights = rng.uniform(0.1, 10.0, n) if rng.random() < 0.3 else None
        problem = problem_at(10.0 ** rng.uniform(-5.0, 0.0), x, y, weights)
        # Slopes of noise over a gap of 1e-14 leave fewer digits to values that are not at a knot.
        tol = 1e-7 if kind == "near-duplicate" else 1e-9
        solution = knot_exchange(problem, tol=tol)
        assert solution.certificate.gap <= tol
        assert solution.coef.n_knots < max(2, problem.samples.x.size)


# The sites are summed in cells of 64, and those in ever larger ones, of 16, when there are more than 512.
SIZES = [63, 64, 65, 127, 128, 129, 191, 192, 193, 64 * 512 - 1, 64 * 512, 64 * 512 + 1, 64 * 513 + 1]


@pytest.mark.parametrize("n", [*SIZES, 64 * 16 * 512 + 65])
def test_sizes_around_those_of_the_cells(n):
    x, y, weights = sample(n, n, weighted=n % 2 == 1)
    for share in (0.3, 1e-2, 1e-4):
        solution = knot_exchange(problem_at(share, x, y, weights))
        assert solution.certificate.gap <= 1e-10
        assert solution.coef.n_knots > 0


def test_samples_that_all_lie_in_few_cells():
    # Distances between neighbours over twelve decades: most of the cells have no length to speak of.
    rng = np.random.default_rng(0)
    x = np.cumsum(10.0 ** rng.uniform(-12.0, 0.0, 5000))
    y = np.sin(np.arange(5000) / 300.0) + 0.1 * rng.standard_normal(5000)
    for share in (0.1, 1e-3, 1e-5):
        assert knot_exchange(problem_at(share, x, y)).certificate.gap <= 1e-9


# ------------------------------------------------------------------------------------------------- lam at its ends


def test_one_sample_is_met():
    solution = knot_exchange(BV2Problem.from_samples([3.0], [2.0], 1.0))
    np.testing.assert_array_equal(solution.coef([-1e9, 3.0, 1e9]), [2.0, 2.0, 2.0])
    assert (solution.certificate.primal, solution.certificate.dual) == (0.0, 0.0)
    twice = knot_exchange(BV2Problem.from_samples([3.0, 3.0], [2.0, 4.0], 1.0, sample_weight=[1.0, 3.0]))
    assert twice.coef(0.0) == 3.5
    assert twice.certificate.primal == pytest.approx(0.5 * (1.5**2 + 3.0 * 0.5**2))
    assert twice.certificate.gap == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("lam", [0.0, 1e-9, 1.0, 1e9])
def test_two_samples_are_joined_by_a_line(lam):
    solution = knot_exchange(BV2Problem.from_samples([2.0, 1.0], [5.0, 3.0], lam))
    np.testing.assert_allclose(solution.coef([0.0, 1.0, 2.0, 3.0]), [1.0, 3.0, 5.0, 7.0], atol=1e-14)
    assert solution.coef.n_knots == 0
    assert solution.certificate.primal == pytest.approx(0.0, abs=1e-25)


@pytest.mark.parametrize("lam", [0.0, 0.01, 0.1, 0.2, 1.0])
def test_three_samples_by_hand(lam):
    # Second difference 2 with pull lam (1, -2, 1): the jump falls by 6 lam, to nothing at lam = 1/3.
    solution = knot_exchange(BV2Problem.from_samples([0.0, 1.0, 2.0], [0.0, 0.0, 2.0], lam))
    jump = max(2.0 - 6.0 * lam, 0.0)
    pull = min(lam, 1.0 / 3.0)
    np.testing.assert_allclose(solution.coef([0.0, 1.0, 2.0]), [-pull, 2.0 * pull, 2.0 - pull], atol=1e-14)
    assert solution.coef.tv2 == pytest.approx(jump, abs=1e-12)
    assert solution.certificate.primal == pytest.approx(3.0 * pull**2 + lam * jump, abs=1e-14)
    assert solution.certificate.gap <= 1e-12


@pytest.mark.parametrize("n", [3, 100, 1000])
def test_lam_zero_interpolates(n):
    x, y, _ = sample(2, n)
    solution = knot_exchange(BV2Problem.from_samples(x, y, 0.0))
    np.testing.assert_allclose(solution.coef(x), y, atol=1e-12)
    assert solution.coef.n_knots == n - 2
    assert solution.certificate.primal == pytest.approx(0.0, abs=1e-20)
    # Beyond the data the first and last line go on.
    order = np.argsort(x)
    (a, b), (u, v) = x[order[:2]], y[order[:2]]
    assert solution.coef(a - 1.0) == pytest.approx(u - (v - u) / (b - a), rel=1e-9)
    doubled = knot_exchange(BV2Problem.from_samples(np.tile(x, 2), np.concatenate((y, y + 2.0)), 0.0))
    np.testing.assert_allclose(doubled.coef(x), y + 1.0, atol=1e-12)
    assert doubled.certificate.primal == pytest.approx(n)
    assert doubled.certificate.gap <= 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 300), weighted=st.booleans(), duplicates=st.booleans())
def test_the_fit_is_affine_from_lam_max_on_and_not_below(seed, n, weighted, duplicates):
    x, y, weights = sample(seed, n, weighted=weighted, duplicates=duplicates)
    if np.unique(x).size < 3:
        x = np.arange(float(n))
    line = np.polynomial.Polynomial.fit(x, y, 1, w=None if weights is None else np.sqrt(weights))
    for share in (1.0 + 1e-9, 1.1, 1e6):
        solution = knot_exchange(problem_at(share, x, y, weights))
        assert solution.coef.n_knots == 0
        np.testing.assert_allclose(solution.coef(x), line(x), atol=1e-9)
        assert solution.certificate.gap <= 1e-12
    below = knot_exchange(problem_at(1.0 - 1e-4, x, y, weights))
    assert below.coef.n_knots >= 1
    assert below.coef.tv2 > 0.0


def test_lam_max_of_few_samples_is_zero():
    assert bv2_lam_max(BV2Problem.from_samples([1.0, 1.0, 2.0], [0.0, 4.0, 1.0], 1.0)) == 0.0
    assert bv2_lam_max(BV2Problem.from_samples([0.0, 1.0, 2.0], [0.0, 0.0, 2.0], 1.0)) == pytest.approx(1.0 / 3.0)


# ------------------------------------------------------------------------------------------------- properties


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    share=st.sampled_from([0.3, 1e-2, 1e-4]),
    x_unit=st.sampled_from([1e-6, 1.0, 1e5]),
    y_unit=st.sampled_from([1e-9, 1.0, 1e6]),
    w_unit=st.sampled_from([1e-4, 1.0, 1e3]),
    shift=st.sampled_from([0.0, -2.0, 1e3]),
)
def test_units_do_not_matter(seed, share, x_unit, y_unit, w_unit, shift):
    x, y, weights = sample(seed, 200, weighted=True)
    here = problem_at(share, x, y, weights)
    there = BV2Problem.from_samples(
        x_unit * (x + shift),
        y_unit * (y + 3.0 * x - shift),
        here.lam * x_unit * y_unit * w_unit,
        sample_weight=w_unit * weights,
    )
    one, other = knot_exchange(here), knot_exchange(there)
    expected = y_unit * (one.coef(x) + 3.0 * x - shift)
    np.testing.assert_allclose(other.coef(x_unit * (x + shift)), expected, atol=1e-6 * y_unit)
    assert other.certificate.primal == pytest.approx(w_unit * y_unit**2 * one.certificate.primal, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, share=st.sampled_from([0.3, 1e-2, 1e-4]))
def test_a_sample_twice_is_one_of_weight_two(seed, share):
    x, y, _ = sample(seed, 80)
    counts = np.random.default_rng(seed).integers(1, 4, 80)
    weighted = problem_at(share, x, y, counts.astype(float))
    repeated = BV2Problem.from_samples(np.repeat(x, counts), np.repeat(y, counts), weighted.lam)
    one, other = knot_exchange(weighted), knot_exchange(repeated)
    np.testing.assert_allclose(one.coef(x), other.coef(x), atol=1e-9)
    assert one.certificate.primal == pytest.approx(other.certificate.primal, rel=1e-11)
    # Two samples at one x count as their mean, and what they differ by as a constant.
    apart = BV2Problem.from_samples(np.tile(x, 2), np.concatenate((y + 0.5, y - 0.5)), 2.0 * weighted.lam)
    mean = knot_exchange(BV2Problem.from_samples(x, y, weighted.lam))
    solution = knot_exchange(apart)
    np.testing.assert_allclose(solution.coef(x), mean.coef(x), atol=1e-9)
    assert solution.certificate.primal == pytest.approx(2.0 * mean.certificate.primal + 80 * 0.25, rel=1e-11)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, share=st.sampled_from([0.3, 1e-2, 1e-4]), weighted=st.booleans())
def test_the_mirrored_data_has_the_mirrored_fit(seed, share, weighted):
    x, y, weights = sample(seed, 150, weighted=weighted)
    here = problem_at(share, x, y, weights)
    there = BV2Problem.from_samples(-x, y, here.lam, sample_weight=weights)
    down = BV2Problem.from_samples(x, -y, here.lam, sample_weight=weights)
    fit = knot_exchange(here).coef(x)
    np.testing.assert_allclose(knot_exchange(there).coef(-x), fit, atol=1e-8)
    np.testing.assert_allclose(knot_exchange(down).coef(x), -fit, atol=1e-8)
    assert there.lam_max == pytest.approx(here.lam_max, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, share=st.sampled_from([0.1, 1e-3]))
def test_the_order_of_the_samples_does_not_matter(seed, share):
    x, y, weights = sample(seed, 100, weighted=True, duplicates=True)
    order = np.random.default_rng(seed).permutation(100)
    here = problem_at(share, x, y, weights)
    there = BV2Problem.from_samples(x[order], y[order], here.lam, sample_weight=weights[order])
    np.testing.assert_allclose(knot_exchange(there).coef(x), knot_exchange(here).coef(x), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 400), share=st.sampled_from([0.5, 0.03, 1e-3]), weighted=st.booleans())
def test_any_start_leads_to_the_same_answer(seed, n, share, weighted):
    x, y, weights = sample(seed, n, weighted=weighted)
    problem = problem_at(share, x, y, weights)
    cold = knot_exchange(problem)
    rng = np.random.default_rng(seed)
    knots = np.sort(rng.uniform(-0.5, 1.5, 10))
    larger = knot_exchange(problem.with_lam(7.0 * problem.lam)).coef
    smaller = knot_exchange(problem.with_lam(0.1 * problem.lam)).coef
    wild = LinearSpline(knots, 10.0 * rng.standard_normal(10), 0.0, 0.0)
    for start in (cold.coef, larger, smaller, wild, LinearSpline([0.5], [0.0], 0.0, 0.0)):
        before = start.values.copy()
        warm = knot_exchange(problem, start=start)
        np.testing.assert_array_equal(start.values, before)
        assert warm.certificate.primal == pytest.approx(cold.certificate.primal, rel=1e-11)
        np.testing.assert_allclose(warm.coef(x), cold.coef(x), atol=1e-6)
        assert warm.certificate.gap <= 1e-9


def test_a_start_spares_exchanges():
    x, y, _ = sample(5, 20_000)
    problem = problem_at(1e-3, x, y)
    cold = knot_exchange(problem)
    warm = knot_exchange(problem, start=cold.coef)
    assert warm.n_iter < cold.n_iter


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 300), share=st.sampled_from([0.5, 0.03, 1e-3, 1e-6]))
def test_fewer_knots_than_samples_and_all_of_them_at_data(seed, n, share):
    x, y, _ = sample(seed, n)
    spline = knot_exchange(problem_at(share, x, y)).coef
    assert spline.n_knots <= n - 2
    kinks = spline.knots[spline.jumps != 0.0]
    assert np.isin(kinks, x).all()
    assert (kinks > x.min()).all()
    assert (kinks < x.max()).all()


def test_the_path_is_monotone_and_in_the_order_of_the_lams():
    x, y, weights = sample(6, 500, weighted=True)
    problem = problem_at(1.0, x, y, weights)
    lams = problem.lam * np.array([1e-3, 0.5, 1e-4, 1.0, 0.03])
    solutions = bv2_solutions(problem, lams)
    assert [solution.problem.lam for solution in solutions] == list(lams)
    order = np.argsort(lams)
    tv2 = np.array([solution.coef.tv2 for solution in solutions])[order]
    losses = np.array([solution.certificate.primal for solution in solutions])[order] - np.sort(lams) * tv2
    assert (np.diff(tv2) < 0.0).all()
    assert (np.diff(losses) > 0.0).all()
    for solution, lam in zip(solutions, lams, strict=True):
        assert solution.certificate.primal == pytest.approx(
            knot_exchange(problem.with_lam(lam)).certificate.primal, rel=1e-11
        )


# ------------------------------------------------------------------------------------------------- refusals


def test_an_exhausted_budget_is_a_status_and_a_warning():
    x, y, _ = sample(7, 5000)
    problem = problem_at(1e-4, x, y)
    best = knot_exchange(problem)
    with pytest.warns(CertificateWarning, match=r"budget was used up.*raise max_iter.*Relative gap .* 1 iterations"):
        stopped = knot_exchange(problem, max_iter=1)
    assert stopped.status is Status.MAX_ITER
    assert not stopped.converged
    assert stopped.n_iter == 1
    assert stopped.certificate.gap > 1e-9
    assert stopped.certificate.dual <= best.certificate.primal <= stopped.certificate.primal


def test_a_gap_that_stays_is_a_status_and_a_warning():
    x, y, _ = sample(8, 100)
    problem = problem_at(0.1, x, y)
    with pytest.warns(CertificateWarning, match="stopped falling"):
        solution = finish(problem, LinearSpline([0.5], [0.0], 0.0, 0.0), 1e-9, 7, exhausted=False)
    assert solution.status is Status.STALLED
    assert not solution.converged
    assert (solution.n_iter, solution.problem) == (7, problem)


def test_other_losses_are_sent_elsewhere():
    problem = BV2Problem.from_samples([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], 1.0, loss="huber")
    with pytest.raises(TypeError, match=r"squared loss; got Huber\. Use pathnorm\.solvers\.bv2"):
        knot_exchange(problem)
