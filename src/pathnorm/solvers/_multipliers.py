"""The method of multipliers for pinball losses: how sharp the kinks are made, and the affine start.

Kinks are rounded off around shifted targets, and the pulls of a solution shift the targets of the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems._affine import AffineFit
from pathnorm.problems.losses import Pinball, SmoothedPinball
from pathnorm.problems.variation import RBV2Problem
from pathnorm.solvers._atoms import objective

__all__ = ["MULTIPLIER_STEPS", "affine_pinball", "sharpnesses"]

Matrix = NDArray[np.float64]

MULTIPLIER_STEPS, _SHARPER = 40, 7


def affine_pinball(problem: RBV2Problem) -> tuple[AffineFit, Matrix]:
    """The best affine function under a pinball loss and its feasible pulls, by the method of multipliers."""
    loss = problem.loss
    assert isinstance(loss, Pinball)
    G, R, fit = np.zeros_like(problem.Y), np.zeros_like(problem.Y), None
    for sharpness in sharpnesses(problem, 20 * MULTIPLIER_STEPS):
        smooth = problem.with_loss(SmoothedPinball(loss.low, loss.high, sharpness), problem.Y + G / sharpness)
        fit = smooth.fit_affine()
        G = smooth.loss.pull(smooth.Y, fit.outputs)
        R = problem.repaired(problem.weights[:, None] * G)
        primal = objective(problem, fit.outputs, 0.0, fit.A)
        if primal - problem.dual_value(R) <= 1e-10 * abs(primal):
            break
    assert fit is not None
    return fit, R


def sharpnesses(problem: RBV2Problem, count: int) -> Iterator[float]:
    """How sharp the kinks are, step after step: sharper at first, and then no more, as multipliers do the rest."""
    spread = max(float(np.abs(problem.Y - np.median(problem.Y, axis=0)).mean()), 1e-12)
    for i in range(count):
        yield 10.0 / spread * 2.0 ** min(i, _SHARPER)
