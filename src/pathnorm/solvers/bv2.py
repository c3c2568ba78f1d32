"""Solutions over BV²(R) for any loss, the largest useful lam, and the whole path between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems.losses import Huber, Logistic, Pinball, Poisson, Squared
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers.augmented_lagrangian import augmented_lagrangian
from pathnorm.solvers.knot_exchange import knot_exchange
from pathnorm.solvers.proximal_newton import proximal_newton
from pathnorm.solvers.solution import Solution
from pathnorm.spaces import LinearSpline

__all__ = ["bv2", "bv2_lam_max", "bv2_lams", "bv2_noise", "bv2_solutions"]

Vector = NDArray[np.float64]
_SOLVERS: dict[type, Callable[..., Solution]] = {
    Squared: knot_exchange,
    Huber: proximal_newton,
    Logistic: proximal_newton,
    Poisson: proximal_newton,
    Pinball: augmented_lagrangian,
}
_HUGE = 1e280  # a lam that no slope jump is worth
_TRIPLES = 100_000


def bv2(problem: BV2Problem, *, start: LinearSpline | None = None, tol: float = 1e-9) -> Solution:
    """Solve a :class:`~pathnorm.problems.BV2Problem` with the solver for its loss, to a relative gap of ``tol``.

    Squared: :func:`~pathnorm.solvers.knot_exchange.knot_exchange`; Huber, logistic, Poisson:
    :func:`~pathnorm.solvers.proximal_newton.proximal_newton`; absolute, quantile:
    :func:`~pathnorm.solvers.augmented_lagrangian.augmented_lagrangian`.
    """
    if type(problem.loss) not in _SOLVERS:
        names = ", ".join(kind.__name__ for kind in _SOLVERS)
        raise TypeError(f"no solver for a loss of type {type(problem.loss).__name__}; there are solvers for {names}.")
    if not tol > 0.0:
        raise ValueError(f"tol must be > 0; got {tol!r}. A tol of 1e-9 is within reach of float64 data.")
    return _SOLVERS[type(problem.loss)](problem, start=start, tol=tol)


def bv2_lam_max(problem: BV2Problem) -> float:
    """Smallest ``lam`` whose solution is affine: ``max |v|`` of the dual curve at the best affine fit.

    In closed form for the squared loss. For a loss with kinks the dual curve need not be unique; this is the largest
    value of one of them, so that the solution is affine from there on.
    """
    if problem.samples.merged().x.size < 3:
        return 0.0
    if isinstance(problem.loss, Squared):
        return problem.lam_max
    return problem.curve(bv2(problem.with_lam(_HUGE), tol=1e-8).coef).peak


def bv2_noise(problem: BV2Problem) -> float:
    """Standard deviation of the noise at unit weight, from the median absolute second difference [GSJ86].

    Each sample is compared with the line through its neighbours; the median ignores the kinks of the signal. Zero for
    fewer than three distinct x.

    References
    ----------
    .. [GSJ86] Gasser, Sroka, Jennen-Steinmetz, "Residual variance and residual pattern in nonlinear regression",
       Biometrika 73, 1986.
    """
    samples = problem.samples.merged()
    if samples.x.size < 3:
        return 0.0
    middle = np.arange(1, samples.x.size - 1, -(-samples.x.size // _TRIPLES))
    x, y, w = samples.x, samples.data.y, samples.weights
    gap = x[middle + 1] - x[middle - 1]
    left, right = (x[middle + 1] - x[middle]) / gap, (x[middle] - x[middle - 1]) / gap
    off = y[middle] - left * y[middle - 1] - right * y[middle + 1]
    size = np.sqrt(1.0 / w[middle] + left**2 / w[middle - 1] + right**2 / w[middle + 1])
    return float(np.median(np.abs(off) / size) / 0.6744897501960817)


def bv2_lams(problem: BV2Problem, count: int) -> Vector:
    """``count`` values of lam from ``lam_max`` down to where noise alone asks for a knot every sqrt(N) samples or so.

    Over m samples a distance h apart, noise of size sigma lifts the dual curve by about ``sigma h m^(3/2) / 8``.
    """
    largest = bv2_lam_max(problem)
    samples = problem.samples.merged()
    if largest <= 0.0 or samples.x.size < 3:
        return np.full(1, largest)
    spacing = (samples.x[-1] - samples.x[0]) / samples.x.size
    span = max(20.0, float(np.sqrt(samples.x.size)))
    noise = bv2_noise(problem) if isinstance(problem.loss, (Squared, Huber)) else _pull_size(problem)
    smallest = noise * float(np.sqrt(samples.weights.mean())) * spacing * span**1.5 / 8.0
    smallest = min(max(smallest, 1e-12 * largest), 1e-2 * largest)
    return np.geomspace(largest, smallest, count)


def _pull_size(problem: BV2Problem) -> float:
    """Root mean square pull at the best affine fit."""
    affine = bv2(problem.with_lam(_HUGE), tol=1e-6).coef
    pull = problem.loss.pull(problem.samples.y, affine(problem.samples.x))
    return float(np.sqrt(np.average(pull**2, weights=problem.samples.weights)))


def bv2_solutions(problem: BV2Problem, lams: Sequence[float], *, tol: float = 1e-9) -> list[Solution]:
    """Solutions for several ``lam`` in the order given, each started from the next larger one."""
    solutions: dict[int, Solution] = {}
    start = None
    for i in sorted(range(len(lams)), key=lambda i: -float(lams[i])):
        solutions[i] = bv2(problem.with_lam(lams[i]), start=start, tol=tol)
        start = solutions[i].coef
    return [solutions[i] for i in range(len(lams))]
