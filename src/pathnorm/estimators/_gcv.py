"""The smoothing parameter that generalised cross-validation chooses.

For a linear smoother ``fit = A y`` of N samples, ``GCV = N ||y - A y||^2 / (N - trace A)^2``.
[CW79] Craven, Wahba, "Smoothing noisy data with spline functions", Numer. Math. 31, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

__all__ = ["Choice", "Spectrum", "Targets", "score", "search", "wanted"]

_STEP = math.log(10.0)  # the criterion changes over decades of lam: a power of lam is a length
_XTOL = 1e-6  # on log(lam)
# Residual degrees of freedom per penalised direction where the search ends. With fewer the criterion is a quotient of
# two small numbers, and small by chance often enough.
_LEAST_RESIDUAL_SHARE = 1e-2
_TIE = 1e-9


class Choice(NamedTuple):
    """What a criterion says about one smoothing parameter."""

    lam: float
    gcv: float
    dof: float


class Targets(NamedTuple):
    """Targets ``offset + unit * values`` with values of mean zero in [-1, 1]."""

    values: NDArray[np.float64]
    offset: float
    unit: float

    @classmethod
    def scaled(cls, y: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> Targets:
        """Take off the weighted mean and divide by what is largest then."""
        offset = float(np.average(y, weights=weights))
        unit = float(np.max(np.abs(y - offset))) or 1.0
        return cls((y - offset) / unit, offset, unit)

    @property
    def noise_floor(self) -> float:
        """Squared rounding error of ``values``: y was rounded before its mean was taken off."""
        return (4.0 * float(np.finfo(np.float64).eps) * max(1.0, abs(self.offset) / self.unit)) ** 2


def wanted(name: str, value: object) -> float | None:
    """The smoothing parameter asked for; None where GCV is to choose it."""
    if isinstance(value, str) and value == "gcv":
        return None
    if not isinstance(value, bool) and isinstance(value, Real) and float(value) > 0.0:
        return float(value)
    raise ValueError(
        f'{name} must be "gcv" or a number > 0; got {value!r}. '
        f"A small {name} interpolates, {name}=inf leaves only what is not penalised."
    )


def score(rss: float, residual_dof: float, n_samples: int, noise_floor: float) -> float:
    """``N RSS / (N - dof)^2``, infinite where no residual degrees of freedom are left.

    ``noise_floor`` is added to each squared residual: of two fits that are both exact up to rounding, the
    smoother one is better. ``N - dof`` is an argument because near interpolation the difference has no digits.
    """
    return n_samples * (rss + n_samples * noise_floor) / residual_dof**2 if residual_dof > 0.0 else math.inf


def search(criterion: Callable[[float], Choice], high: float, n_penalised: float, *, decades: int) -> Choice:
    """Least GCV over ``log(lam)``: a scan from ``high`` down, then Brent's method in the two best valleys.

    The scan ends after ``decades``, or before less than a hundredth of the ``n_penalised`` directions is smoothed
    away. The criterion may have several local minima; of equally good ones the smoothest is taken, and ``lam = inf`` is
    always a candidate.
    """
    best, scan = criterion(math.inf), [criterion(high)]
    stiff = best.dof
    for k in range(1, decades + 1):
        choice = criterion(high * math.exp(-k * _STEP))
        if choice.dof - stiff > (1.0 - _LEAST_RESIDUAL_SHARE) * n_penalised:
            break
        scan.append(choice)
    inner = [k for k in range(1, len(scan) - 1) if scan[k].gcv <= min(scan[k - 1].gcv, scan[k + 1].gcv)]
    valleys = sorted(inner, key=lambda k: scan[k].gcv)[:2]
    found = [_refine(criterion, scan[k + 1].lam, scan[k - 1].lam) for k in valleys]
    for choice in sorted([*scan, *found], key=lambda choice: -choice.lam):
        if choice.gcv < (1.0 - _TIE) * best.gcv:
            best = choice
    return best


def _refine(criterion: Callable[[float], Choice], low: float, high: float) -> Choice:
    bounds = (math.log(low), math.log(high))
    best = minimize_scalar(lambda log_lam: criterion(math.exp(log_lam)).gcv, bounds=bounds, options={"xatol": _XTOL})
    return criterion(math.exp(best.x))


class Spectrum(NamedTuple):
    """A quadratically penalised least-squares fit in the coordinates that make it diagonal.

    Coordinate k of the fit is ``energies[k] / (energies[k] + lam) * projections[k]``; ``n_free`` more are not
    penalised, and ``outside`` is the squared norm of the part of the targets that no coordinate reaches.
    """

    energies: NDArray[np.float64]  # (K,), >= 0
    projections: NDArray[np.float64]  # (K,)
    n_samples: int
    n_free: int
    outside: float = 0.0
    noise_floor: float = 0.0

    def judge(self, lam: float) -> Choice:
        """GCV and degrees of freedom at ``lam``."""
        left = 1.0 / (1.0 + self.energies / lam)
        rss = float(np.sum((left * self.projections) ** 2)) + self.outside
        residual_dof = self.n_samples - self.n_free - self.energies.size + float(left.sum())
        gcv = score(rss, residual_dof, self.n_samples, self.noise_floor)
        return Choice(lam, gcv, self.n_samples - residual_dof)

    def choose(self) -> Choice:
        """The choice of GCV among fits from almost unpenalised to almost free of penalised parts."""
        total = float(self.energies.sum())
        if not total > 0.0:
            return self.judge(1.0)
        return search(self.judge, 1e4 * total, self.energies.size, decades=18)
