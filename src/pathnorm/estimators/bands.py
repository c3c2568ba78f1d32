"""Confidence bands of a fit over BV²(R)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from pathnorm.problems._dual_points import Hats, knots_and_ends
from pathnorm.problems.losses import Logistic, Poisson, Squared
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers.bv2 import bv2
from pathnorm.spaces import LinearSpline

__all__ = ["BANDS", "Band", "bootstrap_band", "conditional_band"]

BANDS = ("conditional", "bootstrap")
Vector = NDArray[np.float64]


class Band(NamedTuple):
    """Limits (M,) at each x, one x at a time."""

    lower: Vector
    upper: Vector


def conditional_band(problem: BV2Problem, spline: LinearSpline, at: Vector, level: float) -> Band:
    """Band of the fit given its knots and the signs of their jumps.

    Given those the values at the knots are ``G^-1 (B'Wy + constant)`` with G tridiagonal, so their covariance is
    ``sigma^2 G^-1``; sigma^2 is the residual sum of squares over N minus the degrees of freedom.
    """
    if not isinstance(problem.loss, Squared):
        raise ValueError(
            f"the conditional band belongs to the squared loss; the loss is {type(problem.loss).__name__}. "
            'Use method="bootstrap".'
        )
    samples, f = problem.samples, spline(at)
    if samples.x.size < 3:
        return Band(np.full_like(f, -np.inf), np.full_like(f, np.inf))
    knots, _ = knots_and_ends(spline, samples.x[0], samples.x[-1])
    residual = samples.y - spline(samples.x)
    squares = float(samples.weights @ residual**2) + 2.0 * samples.spread
    left_over = samples.count - knots.size
    if left_over <= 0:
        return Band(np.full_like(f, -np.inf), np.full_like(f, np.inf))
    gram = Hats(knots, samples.x).gram(samples.weights)
    variance, covariance = _inverse_band(gram[1], gram[0, 1:])
    j = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, knots.size - 2)
    right = (at - knots[j]) / (knots[j + 1] - knots[j])
    left = 1.0 - right
    spread = left**2 * variance[j] + 2.0 * left * right * covariance[j] + right**2 * variance[j + 1]
    half = ndtri(0.5 * (1.0 + level)) * np.sqrt(squares / left_over * np.maximum(spread, 0.0))
    return Band(f - half, f + half)


def _inverse_band(diagonal: Vector, off: Vector) -> tuple[Vector, Vector]:
    """Diagonal (K,) and first off-diagonal (K - 1,) of the inverse of a positive definite tridiagonal matrix."""
    count = diagonal.size
    forward, backward = diagonal.copy(), diagonal.copy()
    for k in range(1, count):
        forward[k] -= off[k - 1] ** 2 / forward[k - 1]
        backward[count - 1 - k] -= off[count - 1 - k] ** 2 / backward[count - k]
    inverse = 1.0 / (forward + backward - diagonal)
    return inverse, -off / forward[:-1] * inverse[1:]


def bootstrap_band(
    problem: BV2Problem, spline: LinearSpline, at: Vector, level: float, *, n_boot: int, rng: np.random.Generator
) -> Band:
    """Basic bootstrap band: quantiles of refit minus fit, mirrored around the fit."""
    if n_boot < 2:
        raise ValueError(f"n_boot must be at least 2; got {n_boot}. 200 give stable 95 % limits.")
    f = spline(at)
    off = np.empty((n_boot, at.size))
    draw = _Draws(problem, spline, rng)
    for k in range(n_boot):
        resampled = problem.with_targets(draw())
        off[k] = bv2(resampled, start=spline, tol=1e-6).coef(at) - f
    low, high = np.quantile(off, (0.5 * (1.0 - level), 0.5 * (1.0 + level)), axis=0)
    return Band(f - high, f - low)


class _Draws:
    """New targets at the same x, from the fitted model."""

    def __init__(self, problem: BV2Problem, spline: LinearSpline, rng: np.random.Generator) -> None:
        samples = problem.samples
        self._loss, self._rng, self._weights = problem.loss, rng, samples.weights
        self._f = spline(samples.x)
        residual = np.sqrt(self._weights) * (samples.y - self._f)
        left_over = max(residual.size - spline.n_knots - 2, 1)
        residual -= residual.mean()
        self._residual = residual * np.sqrt(residual.size / left_over)

    def __call__(self) -> Vector:
        if isinstance(self._loss, Logistic):
            # A merged sample of weight w is the mean of w of them.
            trials: NDArray[np.int64] = np.maximum(np.rint(self._weights), 1.0).astype(np.int64)
            return np.divide(self._rng.binomial(trials, expit(self._f)), trials)
        if isinstance(self._loss, Poisson):
            return np.asarray(self._rng.poisson(self._weights * np.exp(self._f)) / self._weights)
        drawn = self._rng.choice(self._residual, self._residual.size)
        return np.asarray(self._f + drawn / np.sqrt(self._weights))
