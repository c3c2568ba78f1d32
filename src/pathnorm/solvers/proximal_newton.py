"""Solutions over BV²(R) for smooth losses: Newton steps on the loss, the penalty kept exact [LSS14].

Every step replaces the loss by its quadratic model at the current f, which :mod:`pathnorm.solvers.knot_exchange` solves
exactly, and goes as far along the segment to that solution as the objective falls.
[LSS14] Lee, Sun, Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM J. Optim. 24, 2014.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.problems.losses import Huber, Logistic, Poisson
from pathnorm.problems.samples import Samples
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers.knot_exchange import Knots, exchange_knots, finish, spline_at
from pathnorm.solvers.solution import Solution
from pathnorm.spaces import LinearSpline

__all__ = ["newton_steps", "proximal_newton", "require_positive_lam"]

Vector = NDArray[np.float64]
_CURVATURE = 1e-10  # least curvature of the model, relative to the largest
_SHORTEST = 1e-10
_NARROWING = 4.0


def proximal_newton(
    problem: BV2Problem, *, start: LinearSpline | None = None, tol: float = 1e-9, max_iter: int = 200
) -> Solution:
    """Solve a :class:`~pathnorm.problems.BV2Problem` with Huber, logistic or Poisson loss to a gap of ``tol``.

    Parameters
    ----------
    problem : BV2Problem
        What is minimised; ``lam`` must be positive.
    start : LinearSpline, optional
        Where to start, for example the solution of a larger ``lam``.
    tol : float
        Largest relative gap to accept.
    max_iter : int
        Largest number of Newton steps.

    Raises
    ------
    DataError
        If there is no solution: classes that a threshold separates, or counts that are all zero.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    require_positive_lam(problem)
    _check_solvable(problem)
    spline = affine_start(problem) if start is None else start
    if start is None and isinstance(problem.loss, Huber):
        spline = start = _from_wider(problem, problem.loss.delta, spline)
    spline, n_iter = newton_steps(problem, spline, start, tol, max_iter)
    return finish(problem, spline, tol, n_iter, exhausted=n_iter >= max_iter)


def require_positive_lam(problem: BV2Problem) -> None:
    """Refuse ``lam = 0``, at which only the squared loss has an answer worth the name."""
    if problem.lam <= 0.0:
        raise ValueError(
            f"lam must be positive for this loss; got {problem.lam!r}. Only the squared loss interpolates."
        )


def _from_wider(problem: BV2Problem, delta: float, spline: LinearSpline) -> LinearSpline:
    """Rough solutions for ever smaller delta, the first of the size of the residuals: Newton's model fits those."""
    width = float(np.median(np.abs(problem.samples.y - spline(problem.samples.x))))
    while width > _NARROWING * delta:
        spline, _ = newton_steps(replace(problem, loss=Huber(width)), spline, spline, 1e-3, 20)
        width /= _NARROWING
    return spline


def newton_steps(
    problem: BV2Problem, spline: LinearSpline, start: LinearSpline | None, tol: float, max_iter: int
) -> tuple[LinearSpline, int]:
    """Newton steps until the certified gap is at most ``tol`` or the objective falls no more; and their number."""
    value, n_iter = problem.value(spline), 0
    knots = None if start is None else Knots.of(start, problem.samples.merged().x)
    while n_iter < max_iter:
        n_iter += 1
        target, knots = _newton(problem, spline, knots)
        new, reached = _search(problem, spline, target, value)
        small = value - reached <= 1e-3 * tol * abs(value)
        stuck = reached >= value
        spline, value = new, reached
        if stuck or (small and problem.certify(spline).gap <= tol):
            break
    return spline, n_iter


def affine_start(problem: BV2Problem) -> LinearSpline:
    """The best constant for the mean of the targets."""
    mean = float(np.average(problem.samples.y, weights=problem.samples.weights))
    if isinstance(problem.loss, Logistic):
        mean = float(np.log(mean / (1.0 - mean)))
    elif isinstance(problem.loss, Poisson):
        mean = float(np.log(mean))
    elif isinstance(problem.loss, Huber):
        mean = float(np.median(problem.samples.y))
    return LinearSpline(problem.samples.x[:1], np.array([mean]), 0.0, 0.0)


def _newton(problem: BV2Problem, spline: LinearSpline, knots: Knots | None) -> tuple[LinearSpline, Knots]:
    """Minimiser of the penalty and the quadratic model of the loss around ``spline``."""
    samples, loss = problem.samples, problem.loss
    f = spline(samples.x)
    curvature = loss.curvature(samples.y, f)
    curvature = np.maximum(curvature, _CURVATURE * curvature.max() if curvature.any() else 1.0)
    working = f + loss.pull(samples.y, f) / curvature
    model = samples.with_targets(working, samples.weights * curvature).merged()
    return solve_model(model, problem.lam, knots)


def solve_model(model: Samples, lam: float, knots: Knots | None) -> tuple[LinearSpline, Knots]:
    """Minimiser over BV² for the squared loss, and its knots."""
    if model.x.size < 3:
        ends = Knots.ends(model.x.size - 1)
        if model.x.size == 1:
            return LinearSpline(model.x, model.y, 0.0, 0.0), ends
        return spline_at(model, ends.node, model.data.y), ends
    knots, theta, _ = exchange_knots(model.data, model.levels, lam, knots, 1e-9, 200)
    return spline_at(model, knots.node, theta), knots


def _search(
    problem: BV2Problem, spline: LinearSpline, target: LinearSpline, value: float
) -> tuple[LinearSpline, float]:
    """Where the largest step 1, 1/2, 1/4, ... towards ``target`` leads that does not raise the objective."""
    step = 1.0
    while step > _SHORTEST:
        new = target if step == 1.0 else spline.towards(target, step)
        with np.errstate(over="ignore"):
            reached = problem.value(new)
        if reached <= value:
            return new, reached
        step *= 0.5
    return spline, value


def _check_solvable(problem: BV2Problem) -> None:
    """Refuse data for which the objective falls forever along some affine function."""
    x, y = problem.samples.x, problem.samples.y
    if isinstance(problem.loss, Logistic):
        zeros, ones = x[y < 1.0], x[y > 0.0]
        missing = min(zeros.size, ones.size) == 0
        if missing or (x[0] < x[-1] and (zeros.max() <= ones.min() or ones.max() <= zeros.min())):
            raise DataError(
                "the logistic loss has no minimiser when one threshold on x separates the classes, or when there is "
                "one class only: the log-odds would grow without end. Use more data, or the squared loss."
            )
    if isinstance(problem.loss, Poisson):
        positive = x[y > 0.0]
        alone = positive.size == 0 or (positive[0] == positive[-1] and positive[0] in (x[0], x[-1]))
        if alone and (positive.size == 0 or x[0] < x[-1]):
            raise DataError(
                "the Poisson loss has no minimiser when all counts are zero, or all but those at one end: the "
                "log-mean would fall without end. Use more data, or the squared loss."
            )
