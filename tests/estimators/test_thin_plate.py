"""Thin-plate smoothing splines: scipy, the cubic spline, dense normal equations, and changes of coordinates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator
from scipy.stats import ortho_group
from sklearn.utils.estimator_checks import parametrize_with_checks

from pathnorm.estimators._gcv import Targets
from pathnorm.estimators._kernel_smoother import _all_centers, _some_centers
from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor
from pathnorm.estimators.thin_plate import ThinPlateRegressor, _minus_radius, _polynomial, _thin_plate

KERNELS = {1: "cubic", 2: "thin_plate_spline", 3: "linear", 5: "linear"}


def sample(seed, n, d, noise=0.2):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1.0, 1.0, (n, d))
    return X, np.sin(3.0 * X[:, 0]) + X[:, -1] + noise * rng.standard_normal(n)


def hat_matrix(X, lam):
    """Column n is the fit to the n-th unit vector, by scipy."""
    return RBFInterpolator(X, np.eye(len(X)), smoothing=lam, kernel=KERNELS[X.shape[1]], degree=1)(X)


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_scipy_gives_the_same_function_at_a_given_lam(d, lam):
    X, y = sample(0, 60, d)
    X = 50.0 + 7.0 * X
    points = 50.0 + 10.0 * np.random.default_rng(1).uniform(-1.0, 1.0, (40, d))
    other = RBFInterpolator(X, y, smoothing=lam, kernel=KERNELS[d], degree=1)
    spline = ThinPlateRegressor(lam).fit(X, y)
    np.testing.assert_allclose(spline.predict(points), other(points), atol=1e-6)
    assert spline.lam_ == pytest.approx(lam, rel=1e-14)
    assert spline.degree_ == 1


@pytest.mark.parametrize(("d", "noise"), [(1, 0.2), (2, 0.2), (2, 1.5), (3, 0.2)])
def test_gcv_finds_the_minimum_of_the_dense_criterion(d, noise):
    X, y = sample(2, 40, d, noise)
    spline = ThinPlateRegressor().fit(X, y)

    # Down to a tenth of the residual degrees of freedom: the criterion may fall further, towards interpolation.
    def criterion(lam, least=0.0):
        A = hat_matrix(X, lam)
        left = len(y) - np.trace(A)
        return len(y) * np.sum((y - A @ y) ** 2) / left**2 if left > least * len(y) else np.inf

    assert spline.gcv_ <= min(criterion(lam, 0.1) for lam in np.logspace(-5.0, 5.0, 201)) * (1 + 1e-6)
    if np.isfinite(spline.lam_):
        assert spline.gcv_ == pytest.approx(criterion(spline.lam_), rel=1e-6)
        assert spline.df_ == pytest.approx(np.trace(hat_matrix(X, spline.lam_)), rel=1e-6)


def test_one_input_is_the_cubic_smoothing_spline():
    # int f''^2 = 12 c' |x_i - x_j|^3 c.
    X, y = sample(3, 150, 1)
    spline, plate = SmoothingSplineRegressor().fit(X, y), ThinPlateRegressor().fit(X, y)
    assert plate.lam_ == pytest.approx(12.0 * spline.lam_, rel=1e-3)
    assert plate.df_ == pytest.approx(spline.df_, rel=1e-4)
    assert plate.gcv_ == pytest.approx(spline.gcv_, rel=1e-8)
    points = np.linspace(-3.0, 3.0, 99)[:, None]
    np.testing.assert_allclose(plate.predict(points), spline.predict(points), atol=1e-5)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_rotations_translations_and_units_do_not_matter(d):
    X, y = sample(4, 80, d)
    turn = 1e6 * ortho_group.rvs(d, random_state=5)
    move = np.full(d, 3e6)
    here, there = ThinPlateRegressor().fit(X, y), ThinPlateRegressor().fit(X @ turn + move, -10.0 * y + 4.0)
    np.testing.assert_allclose(there.predict(X @ turn + move), -10.0 * here.predict(X) + 4.0, atol=1e-4)
    assert there.df_ == pytest.approx(here.df_, rel=1e-4)
    assert there.lam_ == pytest.approx(here.lam_ * 1e6 ** (2 if d == 2 else 1), rel=1e-3)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 2), (4, 5), (8, 7), (200, 10)])
def test_few_samples_leave_only_the_constants_free(n, d):
    X, y = sample(5, n, d)
    spline = ThinPlateRegressor().fit(X, y)
    assert spline.degree_ == (1 if n > d + 1 else 0)
    assert 1.0 <= spline.df_ <= n
    through = ThinPlateRegressor(1e-12).fit(X, y)
    np.testing.assert_allclose(through.predict(X), y, atol=1e-8)
    free = ThinPlateRegressor(np.inf).fit(X, y)
    if n <= d + 1:
        np.testing.assert_allclose(free.predict(X), y.mean())
    else:
        basis = np.column_stack([np.ones(n), X])
        np.testing.assert_allclose(free.predict(X), basis @ np.linalg.lstsq(basis, y)[0], atol=1e-10)


def test_one_sample_is_a_constant():
    spline = ThinPlateRegressor().fit([[1.0, 2.0]], [3.0])
    np.testing.assert_array_equal(spline.predict([[1.0, 2.0], [-7.0, 0.0]]), 3.0)
    assert (spline.df_, spline.degree_) == (1.0, 0)


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_affine_data_are_reproduced(d):
    X, _ = sample(6, 50, d)
    slope = np.arange(1.0, d + 1.0)
    spline = ThinPlateRegressor().fit(X, X @ slope + 1e3)
    np.testing.assert_allclose(spline.predict(10.0 * X), 10.0 * X @ slope + 1e3, atol=1e-9)
    assert spline.df_ == pytest.approx(d + 1.0, abs=1e-3)


def test_samples_in_a_plane_give_no_slope_across_it():
    X, y = sample(7, 60, 2)
    X = np.column_stack([X, X[:, 0]])
    spline = ThinPlateRegressor(0.1).fit(X, y)
    points = np.array([[0.2, 0.1, 0.2]])
    across = np.array([[1.0, 0.0, -1.0]])
    values = spline.predict(points + np.array([[1e-3], [-1e-3]]) * across)
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_repeated_rows_are_no_special_case():
    X, y = sample(8, 50, 2)
    spline = ThinPlateRegressor().fit(np.vstack([X, X]), np.concatenate([y, y + 0.3]))
    np.testing.assert_allclose(spline.predict(X).mean(), y.mean() + 0.15, atol=1e-8)
    assert spline.df_ <= 50.0


@pytest.mark.parametrize("lam", [1e-3, 1.0])
def test_a_subset_of_centers_minimises_over_its_span(lam):
    X, y = sample(9, 300, 2)
    spline = ThinPlateRegressor(lam, max_centers=40, random_state=0).fit(X, y)
    centers = spline.centers_
    assert centers.shape == (40, 2)
    # The optimality conditions of the same problem with the constraint P(z)' c = 0, solved densely.
    features = np.hstack([_thin_plate(X, centers), np.ones((300, 1)), X])
    penalty = np.zeros((43, 43))
    penalty[:40, :40] = _thin_plate(centers, centers)
    side = np.vstack([np.ones(40), centers.T, np.zeros((0, 40))])
    side = np.hstack([side, np.zeros((3, 3))])
    system = np.block([[features.T @ features + lam * penalty, side.T], [side, np.zeros((3, 3))]])
    coef = np.linalg.lstsq(system, np.concatenate([features.T @ y, np.zeros(3)]))[0][:43]
    np.testing.assert_allclose(spline.predict(X), features @ coef, atol=1e-6)
    hat = np.column_stack(
        [ThinPlateRegressor(lam, max_centers=40, random_state=0).fit(X, e).predict(X) for e in np.eye(300)[:2]]
    )
    assert 0.0 < hat[0, 0] < 1.0
    rss = np.sum((y - features @ coef) ** 2)
    assert spline.gcv_ == pytest.approx(300 * rss / (300 - spline.df_) ** 2, rel=1e-6)


@pytest.mark.parametrize("lam", [None, 1e-4, 1.0, np.inf])
def test_both_ways_to_fit_agree_where_all_samples_are_centers(lam):
    X, y = sample(10, 90, 3)
    free = lambda rows: _polynomial(np.eye(3), rows)  # noqa: E731
    every = np.arange(90)
    one = _all_centers(_minus_radius, free, X, Targets.scaled(y), every, lam)
    other = _some_centers(_minus_radius, free, X, Targets.scaled(y), every, lam)
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
    assert one[2].dof == pytest.approx(other[2].dof, rel=1e-6)
    assert one[2].gcv == pytest.approx(other[2].gcv, rel=1e-6)


def test_more_centers_come_closer_to_the_whole_problem():
    X, y = sample(11, 400, 2)
    points, _ = sample(12, 200, 2)
    whole = ThinPlateRegressor().fit(X, y).predict(points)
    misses = [
        np.abs(ThinPlateRegressor(max_centers=k, random_state=0).fit(X, y).predict(points) - whole).mean()
        for k in (10, 40, 160)
    ]
    assert misses[0] > misses[1] > misses[2]
    assert misses[2] < 0.01


def test_the_draw_of_centers_is_reproducible_and_uses_all_samples_in_the_loss():
    X, y = sample(13, 5000, 2)
    one, other = (ThinPlateRegressor(max_centers=30, random_state=1).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    y_other = y + 1.0 * (np.arange(5000) % 2)
    np.testing.assert_allclose(
        np.mean(ThinPlateRegressor(1.0, max_centers=30, random_state=1).fit(X, y_other).predict(X)),
        y_other.mean(),
        atol=1e-8,
    )


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, "aic", None])
def test_a_bad_lam_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="lam must be"):
        ThinPlateRegressor(bad).fit([[0.0], [1.0]], [0.0, 1.0])


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="max_centers must be"):
        ThinPlateRegressor(max_centers=0).fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="X contains NaN"):
        ThinPlateRegressor().fit([[0.0], [np.nan]], [0.0, 1.0])


@parametrize_with_checks([ThinPlateRegressor(), ThinPlateRegressor(0.1, max_centers=12, random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
