"""Solutions over BV²(R) for the absolute and quantile losses, which have a kink.

The augmented Lagrangian rounds the kink off around the last pulls g: with targets ``y + g / sharpness`` the loss is an
asymmetric Huber loss, which :mod:`pathnorm.solvers.proximal_newton` minimises; the pulls there are the next g [R76].
As for any linear program the iteration ends after finitely many rounds once the loss is sharp enough. What is left of
the rounding goes when the spline is made to meet exactly those targets whose pull lies inside its bounds.
[R76] Rockafellar, "Augmented Lagrangians and applications of the proximal point algorithm", Math. Oper. Res. 1, 1976.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems._dual_points import Hats, knots_and_ends
from pathnorm.problems.losses import Pinball, SmoothedPinball
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers.knot_exchange import finish
from pathnorm.solvers.proximal_newton import newton_steps, require_positive_lam
from pathnorm.solvers.solution import Solution
from pathnorm.spaces import LinearSpline

__all__ = ["augmented_lagrangian"]

Vector = NDArray[np.float64]
_GROWTH = 4.0
_PATIENCE = 10  # rounds without a smaller gap
_INNER_TOL, _INNER_STEPS = 1e-7, 40


def augmented_lagrangian(
    problem: BV2Problem, *, start: LinearSpline | None = None, tol: float = 1e-9, max_iter: int = 60
) -> Solution:
    """Solve a :class:`~pathnorm.problems.BV2Problem` with absolute or quantile loss to a gap of ``tol``.

    Parameters
    ----------
    problem : BV2Problem
        What is minimised; ``lam`` must be positive.
    start : LinearSpline, optional
        Where to start, for example the solution of a larger ``lam``.
    tol : float
        Largest relative gap to accept.
    max_iter : int
        Largest number of rounds.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    loss, samples = problem.loss, problem.samples
    if not isinstance(loss, Pinball):
        raise TypeError(f"augmented_lagrangian minimises the pinball loss; got {type(loss).__name__}.")
    require_positive_lam(problem)
    median = float(np.quantile(samples.y, loss.high / (loss.high - loss.low)))
    spline = LinearSpline(samples.x[:1], np.array([median]), 0.0, 0.0) if start is None else start
    size = float(np.median(np.abs(samples.y - spline(samples.x)))) or samples.scale or 1.0
    sharpness, pull = (loss.high - loss.low) / size, np.zeros(samples.x.size)
    best, best_gap, n_iter, idle = spline, np.inf, 0, 0
    while n_iter < max_iter and best_gap > tol and idle < _PATIENCE:
        n_iter, idle = n_iter + 1, idle + 1
        smooth = SmoothedPinball(loss.low, loss.high, sharpness)
        shifted = replace(problem, samples=samples.with_targets(samples.y + pull / sharpness), loss=smooth)
        spline, _ = newton_steps(shifted, spline, spline, _INNER_TOL, _INNER_STEPS)
        pull = smooth.pull(shifted.samples.y, spline(samples.x))
        for candidate in (spline, _meeting(problem, loss, spline, pull)):
            gap = problem.certify(candidate).gap
            if gap < best_gap:
                best, best_gap, idle = candidate, gap, 0
        sharpness *= _GROWTH
    return finish(problem, best, tol, n_iter, exhausted=n_iter >= max_iter)


def _meeting(problem: BV2Problem, loss: Pinball, spline: LinearSpline, pull: Vector) -> LinearSpline:
    """The spline with the same knots that meets the targets whose pull is not at a bound."""
    samples = problem.samples
    x, y = samples.x, samples.y
    slack = 1e-6 * (loss.high - loss.low)
    meets = ((pull > loss.low + slack) & (pull < loss.high - slack)).astype(np.float64)
    if meets.sum() < 2.0 or x[0] == x[-1]:
        return spline
    knots, _ = knots_and_ends(spline, x[0], x[-1])
    hats, old = Hats(knots, x), spline(knots)
    off = meets * (y - hats(old))
    values = old + hats.solve(meets, hats.sums(off))
    rates = np.diff(values) / np.diff(knots)
    kept = slice(1, -1) if knots.size > 2 else slice(0, 1)
    return LinearSpline(knots[kept], values[kept], rates[0], rates[-1])
