"""How much of a layer's path norm is needed for its outputs: weights that are found, and a bound that is proved.

For a relative error ``eps`` let ``p(eps)`` be the smallest ``sum_k c_k ||V_k||`` among the output weights V with
``||Psi - Phi V|| <= eps ||Psi||``. The multitask lasso with multiplier lambda bounds it from both sides:

- for every lambda, weak duality gives ``p(eps) >= (dual(lambda) - eps^2 ||Psi||^2 / 2) / lambda``;
- the layer's own weights V_0 have no error, so ``V_0 + t (V_lambda - V_0)`` has ``t`` times the error of V_lambda and
  is feasible for ``t = min(1, eps / error)``.

Both are tight at the lambda whose solution has the error ``eps``, which is searched for.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pathnorm.deep.selectors import lasso_problem
from pathnorm.errors import CertificateWarning
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.multitask_lasso import multitask_lasso

__all__ = ["PathNormRange", "path_norm_range"]

Array = NDArray[np.float64]

_FREE = 1e-9
_STEP, _MOST_STEPS, _REFINEMENTS = 5.0, 9, 4
_TOL = 1e-4


@dataclass(frozen=True, slots=True)
class PathNormRange:
    """``lower <= p(eps) <= found <= current``, up to rounding."""

    current: float
    found: float
    lower: float


def path_norm_range(problem: LayerReconstruction, coef: Array, *, error: float) -> PathNormRange:
    """Return bounds on the smallest path norm with a relative error of ``error``.

    Parameters
    ----------
    problem : LayerReconstruction
        With ``Psi = Phi coef``.
    coef : ndarray, shape (P, D)
        The layer's own output weights.
    error : float
        ``||Psi - Phi V|| / ||Psi||``, in (0, 1).
    """
    current = problem.path_norm(coef)
    if not problem.energy > 0.0:  # the intercept alone gives such outputs
        return PathNormRange(current, 0.0, 0.0)
    paid = _Paid(problem, coef)
    allowed = 0.5 * error**2 * problem.energy
    lam = 0.5 * lasso_problem(paid.problem, 1.0).lam_max if paid.problem.n_neurons else 0.0
    found, lower, start = current, 0.0, None
    known: list[tuple[float, float]] = []
    for step in range(_MOST_STEPS + _REFINEMENTS):
        if not lam > 0.0:
            break
        with warnings.catch_warnings():
            # A loose gap is part of the answer: the two bounds then stay apart.
            warnings.simplefilter("ignore", CertificateWarning)
            solution = multitask_lasso(lasso_problem(paid.problem, lam), start=start, tol=_TOL)
        start = solution.coef
        lower = max(lower, (solution.certificate.dual - allowed) / lam)
        whole = paid.widen(start)
        missed = math.sqrt(problem.error(whole))
        blend = coef + min(1.0, error / max(missed, 1e-300)) * (whole - coef)
        found = min(found, problem.path_norm(blend))
        known.append((math.log(lam), math.log(max(missed, 1e-300))))
        if found - lower <= 1e-3 * found:
            break
        lam = _next_lam(known, math.log(error), more=step < _MOST_STEPS)
    return PathNormRange(current, found, min(lower, found))


def _next_lam(known: list[tuple[float, float]], wanted: float, *, more: bool) -> float:
    """Return the lambda to try next, 0 for none: below all until the error is small enough, then in between."""
    above = [point for point in known if point[1] > wanted]
    below = [point for point in known if point[1] <= wanted]
    if not below:
        return math.exp(known[-1][0]) / _STEP if more else 0.0
    if not above:
        return math.exp(known[-1][0]) * _STEP if more and len(below) == 1 else 0.0
    (x0, y0), (x1, y1) = max(below), min(above)
    share = min(max((wanted - y0) / (y1 - y0), 0.1), 0.9)
    return math.exp(x0 + share * (x1 - x0))


class _Paid:
    """The problem over the neurons that cost something; the others are fitted without a penalty.

    With F the free rows and ``S = G_FF^+ G_FP`` the paid rows see ``G_PP - G_PF S``, and ``V_F`` follows them.
    """

    def __init__(self, problem: LayerReconstruction, coef: Array) -> None:
        top = float(problem.cost.max(initial=0.0))
        paid = problem.cost > _FREE * top
        self._coef = coef
        self._paid, self._free = problem.rows(np.flatnonzero(paid)), problem.rows(np.flatnonzero(~paid))
        gram = problem.gram[np.ix_(self._paid, self._paid)]
        self._follow = np.zeros((self._free.size, self._paid.size))
        if self._free.size:
            between = problem.gram[np.ix_(self._free, self._paid)]
            self._follow = scipy.linalg.pinvh(problem.gram[np.ix_(self._free, self._free)]) @ between
            gram = gram - between.T @ self._follow
        own = coef[self._paid]
        cross = gram @ own
        self.problem = LayerReconstruction(gram, cross, own.T @ cross, problem.block, problem.cost[paid])

    def widen(self, coef: Array) -> Array:
        """Return the coefficients of all neurons."""
        full = np.empty_like(self._coef)
        full[self._paid] = coef
        full[self._free] = self._coef[self._free] + self._follow @ (self._coef[self._paid] - coef)
        return full
