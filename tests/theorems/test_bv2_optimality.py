"""A spline is a solution over BV²(R) if and only if its dual curve is at ``lam`` at the knots and crosses it nowhere.

With ``nu_i = -w_i d loss / d f`` and ``v(t) = sum_{x_i > t} nu_i (x_i - t)``: ``sum nu = sum nu x = 0``, ``|v| <= lam``
everywhere and ``v = lam sign(jump)`` at every knot. All of it is computed here from the definition.
"""

from __future__ import annotations

import numpy as np
import pytest

from pathnorm.problems import BV2Problem
from pathnorm.solvers import bv2
from pathnorm.spaces import LinearSpline


def sample(seed, n, loss):
    rng = np.random.default_rng(seed)
    x, weights = rng.uniform(0.0, 1.0, n), rng.uniform(0.5, 2.0, n)
    f = np.sin(9.0 * x)
    if loss == "logistic":
        return x, (rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * f))).astype(float), weights
    if loss == "poisson":
        return x, rng.poisson(np.exp(f)).astype(float), weights
    return x, f + 0.3 * rng.standard_normal(n), weights


def minus_derivative(loss, y, f):
    if loss == "squared":
        return y - f
    if loss == "huber":
        return np.clip(y - f, -1.0, 1.0)
    return y - (1.0 / (1.0 + np.exp(-f)) if loss == "logistic" else np.exp(f))


def curve(x, nu, points):
    return np.array([np.sum(nu * np.maximum(x - t, 0.0)) for t in points])


@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "poisson"])
@pytest.mark.parametrize("share", [0.2, 0.01])
def test_the_dual_curve_of_a_solution(loss, share):
    x, y, weights = sample(0, 120, loss)
    lam = share * 2.0
    spline = bv2(BV2Problem.from_samples(x, y, lam, sample_weight=weights, loss=loss), tol=1e-10).coef
    nu = weights * minus_derivative(loss, y, spline(x))
    assert abs(nu.sum()) < 1e-4 * lam
    assert abs((nu * x).sum()) < 1e-4 * lam
    everywhere = np.concatenate((x, np.linspace(-0.5, 1.5, 2001)))
    assert np.abs(curve(x, nu, everywhere)).max() <= lam * (1.0 + 1e-4)
    assert spline.n_knots > 0
    np.testing.assert_allclose(curve(x, nu, spline.knots), lam * np.sign(spline.jumps), atol=1e-4 * lam)


def test_the_dual_curve_of_a_solution_to_the_last_digits():
    x, y, weights = sample(1, 300, "squared")
    lam = 0.01
    spline = bv2(BV2Problem.from_samples(x, y, lam, sample_weight=weights)).coef
    nu = weights * (y - spline(x))
    assert np.abs(curve(x, nu, x)).max() <= lam * (1.0 + 1e-9)
    np.testing.assert_allclose(curve(x, nu, spline.knots), lam * np.sign(spline.jumps), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_where_the_dual_curve_crosses_lam_the_objective_can_fall(seed):
    # The other direction: a spline with a violated condition is not optimal, and the violation shows the way.
    x, y, weights = sample(2, 60, "squared")
    problem = BV2Problem.from_samples(x, y, 0.02, sample_weight=weights)
    rng = np.random.default_rng(seed)
    knots = np.sort(rng.choice(x, 6, replace=False))
    spline = LinearSpline(knots, rng.standard_normal(6), 0.0, 0.0)
    line = np.polynomial.Polynomial.fit(x, y - spline(x), 1, w=np.sqrt(weights))
    slope = (line(1.0) - line(0.0)).item()
    spline = LinearSpline(knots, spline.values + line(knots), slope, slope)
    nu = weights * (y - spline(x))
    v = curve(x, nu, x)
    worst = int(np.argmax(np.abs(v)))
    assert np.abs(v[worst]) > 0.02
    bend = LinearSpline([x[worst]], [0.0], 0.0, 1e-6 * np.sign(v[worst]))
    moved = LinearSpline(
        np.union1d(knots, x[worst]),
        spline(np.union1d(knots, x[worst])) + bend(np.union1d(knots, x[worst])),
        spline.left_slope,
        spline.right_slope + bend.right_slope,
    )
    assert problem.value(moved) < problem.value(spline)
    assert problem.certify(spline).gap > 1e-3
