"""Dual points that fit the knots of an answer.

At a solution the dual curve passes through ``lam sign(jump)`` at every knot and vanishes at both ends: one equation for
every hat function B_j on the knots, ``sum_i w_i g_i B_j(x_i) = lam d TV(f') / d f(t_j)``. Rounding errors of an answer
violate it, and where a loss has a kink the derivative is a choice that it decides. Both are mended by adding
``metric * c`` to the pulls, with c a spline on the same knots: a tridiagonal system.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, solveh_banded

from pathnorm.problems.losses import Pinball
from pathnorm.problems.samples import Samples
from pathnorm.spaces import LinearSpline

__all__ = ["Hats", "fit_to_knots", "knots_and_ends", "pulls_at_kinks"]

Vector = NDArray[np.float64]
_MEETS = 1e-9  # of the size of the targets


def pulls_at_kinks(samples: Samples, loss: Pinball, spline: LinearSpline) -> tuple[Vector, Vector]:
    """Pulls (n,) per unit of weight, undecided where the spline meets the target; and where it does, as a metric."""
    f = spline(samples.x)
    meets = np.abs(samples.y - f) <= _MEETS * samples.scale
    pull = np.where(meets, 0.5 * (loss.low + loss.high), loss.pull(samples.y, f))
    return pull, meets.astype(np.float64)


def fit_to_knots(samples: Samples, pull: Vector, metric: Vector, spline: LinearSpline, lam: float) -> Vector:
    """Pulls (n,) corrected in proportion to the metric so that their curve is ``lam sign(jump)`` at every knot."""
    x, weight = samples.x, samples.weights
    if x[-1] == x[0]:
        return pull
    knots, wanted = _target(spline, x[0], x[-1], lam)
    hats = Hats(knots, x)
    values = hats.solve(weight * metric, wanted - hats.sums(weight * pull))
    return np.asarray(pull + metric * hats(values))


class Hats:
    """Piecewise linear functions on the knots (K,), ends of the data among them, as seen at the samples x (n,)."""

    def __init__(self, knots: Vector, x: Vector) -> None:
        self._count = knots.size
        self._j = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
        self._right = (x - knots[self._j]) / (knots[self._j + 1] - knots[self._j])

    def __call__(self, values: Vector) -> Vector:
        """Values (n,) at the samples, given those at the knots (K,)."""
        return np.asarray(values[self._j] * (1.0 - self._right) + values[self._j + 1] * self._right)

    def sums(self, nu: Vector) -> Vector:
        """``sum_i nu_i B_j(x_i)`` for every hat function (K,)."""
        left = np.bincount(self._j, nu * (1.0 - self._right), self._count)
        return np.asarray(left + np.bincount(self._j + 1, nu * self._right, self._count))

    def gram(self, weight: Vector) -> Vector:
        """``sum_i weight_i B_j(x_i) B_k(x_i)`` as an upper band (2, K): above the diagonal, and the diagonal."""
        left, right = 1.0 - self._right, self._right
        band = np.zeros((2, self._count))
        band[1] = np.bincount(self._j, weight * left * left, self._count)
        band[1] += np.bincount(self._j + 1, weight * right * right, self._count)
        band[0, 1:] = np.bincount(self._j, weight * left * right, self._count)[: self._count - 1]
        return band

    def solve(self, weight: Vector, right_side: Vector) -> Vector:
        """Values c (K,) with ``sum_i weight_i c(x_i) B_j(x_i)`` equal to the right side; zeros if that fails."""
        band = self.gram(weight)
        # Hats without a sample pass their equation to the others.
        band[1] += 1e-14 * band[1].max() + np.finfo(np.float64).tiny
        try:
            values = np.asarray(solveh_banded(band, right_side))
        except LinAlgError:
            return np.zeros(self._count)
        return values if np.isfinite(values).all() else np.zeros(self._count)


def knots_and_ends(spline: LinearSpline, first: float, last: float) -> tuple[Vector, Vector]:
    """Kinks (K,) between the ends of the data, both ends included, and the jumps there, zero at the ends."""
    jumps = spline.jumps
    inside = (spline.knots > first) & (spline.knots < last) & (jumps != 0.0)
    return np.concatenate(([first], spline.knots[inside], [last])), np.concatenate(([0.0], jumps[inside], [0.0]))


def _target(spline: LinearSpline, first: float, last: float, lam: float) -> tuple[Vector, Vector]:
    """Knots (K,) with both ends of the data, and ``lam d TV(f') / d f(t_j)`` (K,)."""
    knots, jumps = knots_and_ends(spline, first, last)
    sign = np.sign(jumps)
    pull = lam * np.diff(sign) / np.diff(knots)
    return knots, np.append(pull, 0.0) - np.append(0.0, pull)
