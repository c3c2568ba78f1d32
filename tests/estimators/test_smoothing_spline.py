"""The cubic smoothing spline: dense formulas, scipy, and what a change of units must not change."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.interpolate import CubicSpline, make_smoothing_spline
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from pathnorm.estimators._spline_filter import merge, smooth
from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor

SEEDS = st.integers(0, 10**6)


def sample(seed, n, noise=0.3):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    return x, np.sin(9.0 * x) + noise * rng.standard_normal(n), rng.uniform(0.3, 3.0, n)


def cardinal_splines(sites):
    """Values and roughness of the natural splines that are one at one site: ``int f''^2 = y' E y``."""
    basis = CubicSpline(sites, np.eye(sites.size), bc_type="natural")
    bends = basis(sites, 2)
    gaps = np.diff(sites)
    # f'' is linear between sites, so Simpson's rule is exact.
    middle = 0.5 * (bends[1:] + bends[:-1])
    return sum(
        g * (np.outer(lo, lo) + 4.0 * np.outer(mi, mi) + np.outer(hi, hi)) / 6.0
        for g, lo, mi, hi in zip(gaps, bends[:-1], middle, bends[1:], strict=True)
    )


def hat_matrix(x, weights, lam):
    """The smoother matrix of all N samples, duplicates included, by dense algebra."""
    sites, which = np.unique(x, return_inverse=True)
    spread = np.eye(sites.size)[which]
    normal = spread.T @ (weights[:, None] * spread) + lam * cardinal_splines(sites)
    return spread @ np.linalg.solve(normal, spread.T * weights)


@pytest.mark.parametrize("lam", [1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize("n", [5, 40, 100])
def test_scipy_gives_the_same_spline_at_a_given_lam(n, lam):
    x, y, weights = sample(0, n)
    order = np.argsort(x)
    other = make_smoothing_spline(x[order], y[order], weights[order], lam=lam)
    spline = SmoothingSplineRegressor(lam).fit(x[:, None], y, weights)
    points = np.linspace(x.min(), x.max(), 501)
    np.testing.assert_allclose(spline.predict(points[:, None]), other(points), atol=1e-8)
    assert spline.lam_ == pytest.approx(lam, rel=1e-14)


def exact_smoother(x, y, weights, lam):
    """Fit and degrees of freedom in rational arithmetic, by the equations of Reinsch."""
    x, y, weights, lam = (
        [Fraction(v) for v in x],
        [Fraction(v) for v in y],
        [Fraction(v) for v in weights],
        Fraction(lam),
    )
    n = len(x)
    gap = [b - a for a, b in pairwise(x)]
    Q = [{j: 1 / gap[j], j + 1: -1 / gap[j] - 1 / gap[j + 1], j + 2: 1 / gap[j + 1]} for j in range(n - 2)]
    system = [
        [sum(lam * Q[i].get(k, 0) * Q[j].get(k, 0) / weights[k] for k in range(n)) for j in range(n - 2)]
        for i in range(n - 2)
    ]
    for j in range(n - 2):
        system[j][j] += (gap[j] + gap[j + 1]) / 3
        if j:
            system[j][j - 1] += gap[j] / 6
            system[j - 1][j] += gap[j] / 6
    # Right-hand sides: Q' y and Q', so that the fit and the whole smoother matrix come out.
    rows = [
        row + [sum(v * y[k] for k, v in Q[i].items())] + [Q[i].get(k, Fraction(0)) for k in range(n)]
        for i, row in enumerate(system)
    ]
    for i in range(n - 2):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(n - 2):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    bends = [row[n - 2 :] for row in rows]
    fit = [float(y[k] - lam / weights[k] * sum(Q[j].get(k, 0) * bends[j][0] for j in range(n - 2))) for k in range(n)]
    shrunk = sum(lam / weights[k] * Q[j].get(k, 0) * bends[j][1 + k] for k in range(n) for j in range(n - 2))
    return np.array(fit), float(n - shrunk)


@pytest.mark.parametrize("lam", [1e-40, 1e-20, 1e-9, 1e-4, 1.0, 1e6])
@pytest.mark.parametrize("smallest", [1e-1, 1e-6, 1e-12])
def test_no_digits_are_lost_to_small_gaps_or_extreme_lam(smallest, lam):
    rng = np.random.default_rng(0)
    gaps = np.array([1.0, smallest, 0.5, smallest, 2.0 * smallest, 1.0, smallest, 0.3])
    sites = np.concatenate([[0.0], np.cumsum(gaps)])
    y, weights = rng.standard_normal(9), rng.uniform(0.5, 2.0, 9)
    fitted, slopes = np.empty(9), np.empty(9)
    _, residual_dof = smooth(np.diff(sites), weights, y, 1.0 / lam, np.empty((9, 5)), fitted, slopes)
    fit, dof = exact_smoother(sites, y, weights, lam)
    np.testing.assert_allclose(fitted, fit, atol=2e-15)
    assert 9.0 - residual_dof == pytest.approx(dof, abs=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 30), log_lam=st.floats(-12.0, 0.0))
def test_fit_degrees_of_freedom_and_criterion_are_those_of_the_dense_smoother(seed, n, log_lam):
    x, y, weights = sample(seed, n)
    x = np.round(x, 2)  # some sites twice
    if np.unique(x).size < 3:
        return
    spline = SmoothingSplineRegressor(10.0**log_lam).fit(x, y, weights)
    A = hat_matrix(x, weights, 10.0**log_lam)
    relative = weights / weights.mean()
    gcv = n * np.sum(relative * (y - A @ y) ** 2) / (n - np.trace(A)) ** 2 * weights.mean()
    np.testing.assert_allclose(spline.predict(x), A @ y, atol=1e-7)
    assert spline.df_ == pytest.approx(np.trace(A), abs=1e-6)
    if n - np.trace(A) > 0.1:
        assert spline.gcv_ == pytest.approx(gcv, rel=1e-5)


@pytest.mark.parametrize(("seed", "noise"), [(1, 0.3), (2, 1.5), (3, 0.01), (4, 0.3)])
def test_gcv_finds_the_minimum_of_the_dense_criterion(seed, noise):
    x, y, weights = sample(seed, 45, noise)
    x = np.round(x, 2)
    spline = SmoothingSplineRegressor().fit(x, y, weights)

    # Down to a tenth of the residual degrees of freedom: the criterion may fall further, towards interpolation.
    def criterion(lam, least=0.0):
        A = hat_matrix(x, weights, lam)
        left = y.size - np.trace(A)
        return y.size * np.sum(weights * (y - A @ y) ** 2) / left**2 if left > least * y.size else np.inf

    grid = [criterion(lam, 0.1) for lam in np.logspace(-8.0, 2.0, 401)]
    assert spline.gcv_ <= min(grid) * (1 + 1e-6)
    if np.isfinite(spline.lam_):
        assert criterion(spline.lam_) == pytest.approx(spline.gcv_, rel=1e-6)


def test_the_roughness_of_the_answer_is_that_of_a_minimiser():
    # d/dt objective(f + t g) = 0 for every g: tested on the natural splines through the same sites.
    x, y, weights = sample(5, 12)
    x.sort()
    spline = SmoothingSplineRegressor(1e-3).fit(x, y, weights).spline_
    bend = spline.derivative(2)
    rng = np.random.default_rng(0)
    for _ in range(3):
        other = CubicSpline(x, rng.standard_normal(12), bc_type="natural")
        rough = sum(quad(lambda t: float(bend(t) * other(t, 2)), a, b)[0] for a, b in pairwise(x))  # noqa: B023
        assert 1e-3 * rough == pytest.approx(np.sum(weights * (y - spline(x)) * other(x)), rel=1e-7)


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1e5, 1.7e9), (-1.0, 3.0)])
@pytest.mark.parametrize("n", [30, 3000])
def test_units_of_x_do_not_matter(n, scale, shift):
    x, y, weights = sample(6, n)
    here, there = SmoothingSplineRegressor().fit(x, y, weights), SmoothingSplineRegressor()
    there.fit(scale * x + shift, y, weights)
    np.testing.assert_allclose(there.predict(scale * x + shift), here.predict(x), atol=1e-6)
    assert there.df_ == pytest.approx(here.df_, rel=1e-4)
    assert there.lam_ == pytest.approx(here.lam_ * abs(scale) ** 3, rel=1e-4)


def test_units_of_y_and_of_the_weights_do_not_matter():
    x, y, weights = sample(7, 200)
    here = SmoothingSplineRegressor().fit(x, y, weights)
    there = SmoothingSplineRegressor().fit(x, 1e8 * y - 3e7, 1e-5 * weights)
    np.testing.assert_allclose(there.predict(x), 1e8 * here.predict(x) - 3e7, rtol=1e-6, atol=10.0)
    assert there.lam_ == pytest.approx(1e-5 * here.lam_, rel=1e-3)
    assert there.gcv_ == pytest.approx(1e11 * here.gcv_, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_repeated_sample_weighs_twice(seed):
    x, y, _ = sample(seed, 20)
    counts = np.random.default_rng(seed).integers(0, 4, 20)
    counts[:3] = 1
    one = SmoothingSplineRegressor(1e-4).fit(x, y, counts)
    other = SmoothingSplineRegressor(1e-4).fit(np.repeat(x, counts), np.repeat(y, counts))
    np.testing.assert_allclose(one.predict(x), other.predict(x), atol=1e-10)
    assert one.df_ == pytest.approx(other.df_, abs=1e-9)


def test_a_sample_of_weight_zero_is_absent():
    x, y, weights = sample(8, 60)
    weights[::3] = 0.0
    y_other = np.where(weights == 0.0, 1e6, y)
    one = SmoothingSplineRegressor().fit(x, y_other, weights)
    other = SmoothingSplineRegressor().fit(x[weights > 0], y[weights > 0], weights[weights > 0])
    assert one.lam_ == other.lam_
    np.testing.assert_array_equal(one.predict(x), other.predict(x))


def test_sites_that_almost_coincide_act_as_one_site():
    x, y, _ = sample(9, 500)
    twice = np.concatenate([x, x])
    targets = np.concatenate([y, y + 0.5])
    exact = SmoothingSplineRegressor().fit(twice, targets)
    for gap in (1e-15, 1e-13, 1e-12, 1e-10):
        near = SmoothingSplineRegressor().fit(np.concatenate([x, x + gap]), targets)
        np.testing.assert_allclose(near.predict(x), exact.predict(x), atol=1e-6)
        assert near.df_ == pytest.approx(exact.df_, rel=1e-4)
        assert np.isfinite(near.predict(np.linspace(-1.0, 2.0, 999))).all()


def test_runs_of_equal_sites_are_merged_into_their_weighted_mean():
    sites = np.array([0.0, 0.1, 0.15, 0.3, 0.3])
    weights, values = np.array([1.0, 2.0, 1.0, 1.0, 3.0]), np.array([5.0, 1.0, 4.0, 0.0, 2.0])
    count, within = merge(sites, weights, values, 0.1)
    # A run is measured from its first site: 0.15 starts one.
    assert count == 3
    np.testing.assert_allclose(sites[:3], [0.0, 0.15, 0.3])
    np.testing.assert_allclose(weights[:3], [3.0, 1.0, 4.0])
    np.testing.assert_allclose(values[:3], [7.0 / 3.0, 4.0, 1.5])
    assert within == pytest.approx(2.0 / 3.0 * 16.0 + 0.75 * 4.0)


@pytest.mark.parametrize("n", [10_000, 100_000])
def test_many_irregular_sites(n):
    # Gaps of 1e-10 and less among n uniform sites; the risk of the best smoother is about sigma^2 df / N.
    x, y, _ = sample(10, n)
    spline = SmoothingSplineRegressor().fit(x, y)
    assert np.diff(np.sort(x)).min() < 1e-8
    risk = np.mean((spline.predict(x) - np.sin(9.0 * x)) ** 2)
    assert 10.0 < spline.df_ < 60.0
    assert risk < 3.0 * 0.09 * spline.df_ / n
    assert spline.gcv_ == pytest.approx(0.09, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_a_line_is_reproduced(n, offset):
    x, *_ = sample(11, n)
    y = 3.0 * x + offset
    spline = SmoothingSplineRegressor().fit(x, y)
    points = np.array([-5.0, 0.5, 7.0])
    expected = 3.0 * points + offset if n > 1 else np.full(3, y[0])
    accuracy = (1.0 + offset) * 1e-15 * (10.0 / np.ptp(x) if n > 1 else 1.0)
    np.testing.assert_allclose(spline.predict(points), expected, atol=10.0 * accuracy)
    assert spline.df_ == pytest.approx(min(n, 2), abs=1e-3)


def test_few_sites():
    constant = SmoothingSplineRegressor().fit([[2.0], [2.0], [2.0]], [1.0, 2.0, 6.0])
    np.testing.assert_allclose(constant.predict([[-1e6], [2.0], [5.0]]), 3.0)
    assert (constant.lam_, constant.df_, constant.gcv_) == (np.inf, 1.0, pytest.approx(3.0 * 14.0 / 4.0))
    line = SmoothingSplineRegressor(1.0).fit([1.0, 1.0, 3.0], [0.0, 2.0, 5.0])
    np.testing.assert_allclose(line.predict([0.0, 1.0, 3.0, 4.0]), [-1.0, 1.0, 5.0, 7.0])
    assert (line.lam_, line.df_) == (np.inf, 2.0)
    # With one residual degree of freedom every lam has the same criterion: the smoothest fit is taken.
    bent = SmoothingSplineRegressor().fit([0.0, 0.4, 1.0], [0.0, 1.0, 0.3])
    assert bent.lam_ == np.inf
    assert bent.df_ == pytest.approx(2.0)


@pytest.mark.parametrize("n", [3, 50, 5000])
def test_small_lam_interpolates_and_large_lam_is_the_least_squares_line(n):
    x, y, weights = sample(12, n)
    through = SmoothingSplineRegressor(1e-200).fit(x, y, weights)
    np.testing.assert_allclose(through.predict(x), y, atol=1e-9)
    assert through.df_ == pytest.approx(n)
    line = np.polynomial.Polynomial.fit(x, y, 1, w=np.sqrt(weights))
    for lam in (1e12, np.inf):
        spline = SmoothingSplineRegressor(lam).fit(x, y, weights)
        np.testing.assert_allclose(spline.predict(x), line(x), atol=1e-7)
        assert spline.df_ == pytest.approx(2.0, abs=1e-6)


def test_the_spline_is_natural_and_linear_beyond_the_data():
    x, y, _ = sample(13, 50)
    spline = SmoothingSplineRegressor().fit(x, y).spline_
    lo, hi = x.min(), x.max()
    beyond = np.array([lo - 100.0, lo - 1e-6, hi + 1e-6, hi + 100.0])
    np.testing.assert_allclose(spline(beyond, 2), 0.0, atol=1e-12)
    np.testing.assert_allclose(spline(np.array([lo, hi]), 2), 0.0, atol=1e-6)
    for order in (0, 1):
        np.testing.assert_allclose(spline(np.sort(x) - 1e-12, order), spline(np.sort(x), order), atol=1e-6)
    np.testing.assert_allclose(spline(lo - 2.0), spline(lo) - 2.0 * spline(lo, 1))


def test_vectors_and_columns_are_the_same_and_more_columns_are_refused():
    x, y, _ = sample(14, 30)
    one, other = SmoothingSplineRegressor().fit(list(x), y), SmoothingSplineRegressor().fit(x[:, None], y)
    np.testing.assert_array_equal(one.predict(x[:, None]), other.predict(x))
    assert one.n_features_in_ == other.n_features_in_ == 1
    with pytest.raises(ValueError, match=r"one column; got shape \(15, 2\)"):
        SmoothingSplineRegressor().fit(x.reshape(15, 2), y[:15])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, "aic", None, True])
def test_a_bad_lam_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="lam must be"):
        SmoothingSplineRegressor(bad).fit([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])


def test_bad_samples_are_refused_by_name():
    with pytest.raises(ValueError, match="X contains NaN"):
        SmoothingSplineRegressor().fit([[0.0], [np.nan]], [0.0, 1.0])
    with pytest.raises(ValueError, match="y contains NaN"):
        SmoothingSplineRegressor().fit([[0.0], [1.0]], [0.0, np.nan])
    with pytest.raises(ValueError, match="sample_weight must be"):
        SmoothingSplineRegressor().fit([[0.0], [1.0]], [0.0, 1.0], [1.0, -1.0])
    # Newer versions of scikit-learn see this one first.
    with pytest.raises(ValueError, match=r"(?i)sample.weights? must"):
        SmoothingSplineRegressor().fit([[0.0], [1.0]], [0.0, 1.0], [0.0, 0.0])


class OfFirstColumn(RegressorMixin, BaseEstimator):
    """The estimator checks want several columns: the spline of the first one."""

    def __init__(self, lam="gcv"):
        self.lam = lam

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, y_numeric=True)
        self.spline_ = SmoothingSplineRegressor(self.lam).fit(X[:, :1], y, sample_weight)
        return self

    def predict(self, X):
        check_is_fitted(self)
        return self.spline_.predict(validate_data(self, X, reset=False)[:, :1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # one column of ten
        return tags


def one_choice_per_sample(estimator):
    reason = "more samples are more degrees of freedom for GCV; at a given lam this holds"
    return {"check_sample_weight_equivalence_on_dense_data": reason} if estimator.lam == "gcv" else {}


@parametrize_with_checks([OfFirstColumn(), OfFirstColumn(0.1)], expected_failed_checks=one_choice_per_sample)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
