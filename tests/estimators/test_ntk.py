"""The tangent kernel against its definition, and its ridge regression against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import KernelCenterer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pathnorm.estimators.ntk import NTKRegressor, relu_ntk


def sample(seed, n, d, noise=0.2):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.sin(2.0 * X[:, 0]) + X[:, -1] + noise * rng.standard_normal(n)


def ridge(X, y, alpha):
    """The same regression by scikit-learn: returns it as a function, and its smoother matrix."""
    scaler, centerer = StandardScaler().fit(X), KernelCenterer()
    Z = scaler.transform(X)
    gram = centerer.fit_transform(relu_ntk(Z, Z))
    model = KernelRidge(alpha=alpha, kernel="precomputed").fit(gram, y - y.mean())
    hat = gram @ np.linalg.inv(gram + alpha * np.eye(len(y))) + 1.0 / len(y)
    return lambda points: model.predict(centerer.transform(relu_ntk(scaler.transform(points), Z))) + y.mean(), hat


@pytest.mark.parametrize(("x", "z"), [(0.3, 1.2), (-1.0, 2.0), (0.7, 0.7), (-3.0, 4.0)])
def test_the_kernel_is_the_expected_product_of_gradients_for_one_input(x, z):
    # (w, b) in polar coordinates: the mean of r^2 is two, and the angle is uniform.
    def product(angle):
        w, b = np.cos(angle), np.sin(angle)
        at_x, at_z = w * x + b, w * z + b
        both = float(at_x > 0.0 and at_z > 0.0)
        return 2.0 * both * (2.0 * at_x * at_z + (x * z + 1.0)) / (2.0 * np.pi)

    kinks = [np.arctan2(-t * s, s) for t in (x, z) for s in (1.0, -1.0)]
    expected = quad(product, -np.pi, np.pi, points=kinks, limit=200, epsabs=1e-12)[0]
    assert relu_ntk(np.array([[x]]), np.array([[z]]))[0, 0] == pytest.approx(expected, rel=1e-9)


def test_the_kernel_is_the_limit_of_wide_networks():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, 4))
    w, b, v = rng.standard_normal((200_000, 4)), rng.standard_normal(200_000), rng.standard_normal(200_000)
    active = X @ w.T / 2.0 + b
    outer, inner = np.maximum(active, 0.0), v * (active > 0.0)
    wide = 2.0 * (outer @ outer.T + (inner @ inner.T) * (X @ X.T / 4.0 + 1.0)) / 200_000
    kernel = relu_ntk(X, X)
    np.testing.assert_allclose(wide, kernel, atol=0.03 * kernel.max())


def test_the_kernel_keeps_its_digits_for_neighbours():
    # |x| = 0: k = 2 |u|^2 and falls linearly in the distance at the diagonal.
    X = np.array([[0.0], [1e-9], [3e-9]])
    fall = 2.0 - relu_ntk(X[:1], X)[0]
    np.testing.assert_allclose(fall[1:], 1e-9 * np.array([1.0, 3.0]) / np.pi, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 100.0])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_scikit_learn_gives_the_same_function_at_a_given_alpha(d, alpha):
    X, y = sample(1, 70, d)
    X[:, 0] = 5.0 + 1e3 * X[:, 0]
    other, hat = ridge(X, y, alpha)
    model = NTKRegressor(alpha).fit(X, y)
    points = X[::-1] * 1.3
    np.testing.assert_allclose(model.predict(points), other(points), atol=1e-7)
    assert model.df_ == pytest.approx(np.trace(hat), rel=1e-8)
    assert model.alpha_ == alpha


@pytest.mark.parametrize(("seed", "noise"), [(2, 0.2), (3, 1.5), (4, 1e-3)])
def test_gcv_finds_the_minimum_of_the_dense_criterion(seed, noise):
    X, y = sample(seed, 50, 2, noise)
    model = NTKRegressor().fit(X, y)

    # Down to a tenth of the residual degrees of freedom: the criterion may fall further, towards interpolation.
    def criterion(alpha, least=0.0):
        _, hat = ridge(X, y, alpha)
        left = len(y) - np.trace(hat)
        return len(y) * np.sum((y - hat @ y) ** 2) / left**2 if left > least * len(y) else np.inf

    assert model.gcv_ <= min(criterion(alpha, 0.1) for alpha in np.logspace(-6.0, 5.0, 401)) * (1 + 1e-6)
    if np.isfinite(model.alpha_):
        assert model.gcv_ == pytest.approx(criterion(model.alpha_), rel=1e-6)


def test_units_do_not_matter_and_an_input_that_does_not_vary_is_ignored():
    X, y = sample(5, 100, 3)
    here = NTKRegressor().fit(X, y)
    there = NTKRegressor().fit(X * [1e-6, 1e6, -1.0] + [0.0, 1e7, 3.0], 1e4 * y - 7.0)
    np.testing.assert_allclose(
        there.predict(X * [1e-6, 1e6, -1.0] + [0.0, 1e7, 3.0]), 1e4 * here.predict(X) - 7.0, atol=1e-2
    )
    assert there.gcv_ == pytest.approx(1e8 * here.gcv_, rel=1e-6)
    constant = np.full((100, 1), 0.1)
    model = NTKRegressor(0.3).fit(np.hstack([X, constant]), y)
    moved = np.hstack([X, constant + 1e-16])
    np.testing.assert_allclose(model.predict(moved), model.predict(np.hstack([X, constant])), atol=1e-10)


def test_small_alpha_interpolates_and_infinite_alpha_is_the_mean():
    X, y = sample(6, 60, 2)
    np.testing.assert_allclose(NTKRegressor(1e-12).fit(X, y).predict(X), y, atol=1e-7)
    model = NTKRegressor(np.inf).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y.mean())
    assert model.df_ == 1.0


def test_one_sample_and_constant_targets():
    np.testing.assert_array_equal(NTKRegressor().fit([[1.0, 2.0]], [3.0]).predict([[5.0, 5.0]]), 3.0)
    X, _ = sample(7, 30, 2)
    model = NTKRegressor().fit(X, np.full(30, 0.1))
    np.testing.assert_allclose(model.predict(X), 0.1, rtol=1e-14)
    assert model.df_ == 1.0


def test_more_centers_come_closer_to_the_whole_problem():
    X, y = sample(8, 400, 2)
    points, _ = sample(9, 200, 2)
    whole = NTKRegressor().fit(X, y).predict(points)
    misses = [
        np.abs(NTKRegressor(max_centers=k, random_state=0).fit(X, y).predict(points) - whole).mean()
        for k in (5, 30, 200)
    ]
    assert misses[0] > misses[1] > misses[2]
    assert misses[2] < 0.05


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, "aic", None])
def test_a_bad_alpha_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="alpha must be"):
        NTKRegressor(bad).fit([[0.0], [1.0]], [0.0, 1.0])


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="max_centers must be"):
        NTKRegressor(max_centers=0).fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="X contains NaN"):
        NTKRegressor().fit([[0.0], [np.nan]], [0.0, 1.0])


@parametrize_with_checks([NTKRegressor(), NTKRegressor(0.1, max_centers=12, random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
