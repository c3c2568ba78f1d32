"""The record of a fitted BV² regressor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathnorm.estimators.bv2 import BV2Regressor
from pathnorm.estimators.selection import BV2Path
from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor
from pathnorm.problems.losses import Pinball
from pathnorm.problems.samples import Samples
from pathnorm.report.fit import BandRecord, DualRecord, FitRecord, PathRecord, SmootherRecord, SplineRecord
from pathnorm.report.picture import picture_of
from pathnorm.solvers.bv2 import bv2_noise
from pathnorm.spaces import LinearSpline

__all__ = ["MOST_SMOOTHED", "Origin", "describe_fit", "peak_memory_mb"]

Vector = NDArray[np.float64]

GRID = 600
MOST_SMOOTHED = 1_000_000  # beyond, the smoothing spline would take longer than all the rest

_COVERS = {
    "conditional": "the mean of the fit at one x, its knots held fixed; not the bias of the penalty",
    "bootstrap": "the mean of the fit at one x, the choice of its knots included, lambda held fixed; approximate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where samples came from: names of the columns, and rows read and left out."""

    x: str = "x"
    y: str = "y"
    weight: str | None = None
    x_unit: str = ""
    x_is_time: bool = False
    rows: int = 0
    dropped: int = 0
    started: float | None = None  # time.perf_counter() when reading began


def describe_fit(
    regressor: BV2Regressor,
    *,
    origin: Origin | None = None,
    band: str | None = None,
    smoother: bool = True,
    seconds_fit: float = float("nan"),
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> FitRecord:
    """Return what can be said about a fitted regressor and the samples that it saw.

    Parameters
    ----------
    regressor : BV2Regressor or BV2RegressorCV
        Fitted.
    origin : Origin, optional
        Names, for what people read.
    band : {"conditional", "bootstrap"}, optional
        Adds a 95 % band, see :meth:`pathnorm.BV2Regressor.band`.
    smoother : bool
        Whether to fit the cubic smoothing spline for comparison, which is done for the squared loss and up to
        ``MOST_SMOOTHED`` samples.
    seconds_fit : float
        Time that the fit took.
    seed : int
        Of the bootstrap, and of which samples are drawn in figures.
    progress : callable, optional
        Called with a stage, what is done and the whole.
    """
    origin = origin or Origin()
    started = time.perf_counter() if origin.started is None else origin.started
    tell = progress or (lambda *_: None)
    samples, problem = regressor.samples_, regressor.solution_.problem
    mean = _mean(regressor, samples)
    rmse, r2 = _accuracy(samples, mean)
    squared = regressor.loss == "squared"
    grid = _grid(samples, regressor.spline_)
    other, left_out = None, _why_not(regressor, samples, smoother)
    if not left_out:
        tell("smoothing spline", 0, 1)
        other = _smoother(samples, GRID)
        tell("smoothing spline", 1, 1)
    limits = None
    if band is not None:
        tell("band", 0, 1)
        limits = _band(regressor, grid, band, seed)
        tell("band", 1, 1)
    path = getattr(regressor, "path_", None)
    lam = float(problem.lam)
    return FitRecord(
        x_name=origin.x,
        y_name=origin.y,
        weight_name=origin.weight,
        x_unit=origin.x_unit,
        x_is_time=origin.x_is_time,
        rows=origin.rows or samples.count,
        rows_dropped=origin.dropped,
        n_samples=samples.x.size,
        n_distinct=int(samples.starts.size),
        loss=regressor.loss,
        parameter={"huber": regressor.delta, "quantile": regressor.quantile}.get(regressor.loss),
        lam=lam,
        lam_max=float(regressor.lam_max_),
        chosen_by="given" if path is None else regressor.criterion,
        one_standard_error=bool(getattr(regressor, "one_standard_error", False)),
        sparsest=regressor.sparsest,
        n_knots=regressor.n_knots_,
        dof=int(regressor.dof_),
        tv2=regressor.spline_.tv2,
        primal=float(regressor.certificate_.primal),
        dual=float(regressor.certificate_.dual),
        gap=float(regressor.certificate_.gap),
        scope=regressor.certificate_.scope,
        tol=float(regressor.tol),
        rmse=rmse,
        r2=r2,
        gcv=_gcv(rmse, float(regressor.dof_), samples.x.size) if squared else None,
        noise=float(bv2_noise(problem) if path is None else regressor.noise_),
        seconds_fit=seconds_fit,
        spline=_spline(regressor.spline_),
        picture=picture_of(samples.x, samples.y, mean, (grid, regressor.predict(grid)), seed=seed),
        path=None if path is None else _path(path, regressor.criterion),
        smoother=other,
        smoother_left_out=left_out,
        band=limits,
        dual_curve=_dual_curve(regressor, grid),
        peak_memory_mb=peak_memory_mb(),
        seconds=time.perf_counter() - started,
    )


def _mean(regressor: BV2Regressor, samples: Samples) -> Vector:
    """Fitted mean, or quantile, of every sample."""
    return regressor.predict(samples.x)


def _accuracy(samples: Samples, mean: Vector) -> tuple[float, float]:
    """Root mean square of the residuals, and the share of the variance that is explained."""
    weight = samples.weight if samples.weight.size else None
    square = float(np.average((samples.y - mean) ** 2, weights=weight))
    centre = float(np.average(samples.y, weights=weight))
    variance = float(np.average((samples.y - centre) ** 2, weights=weight))
    return square**0.5, 1.0 - square / variance if variance > 0.0 else float("nan")


def _gcv(rmse: float, dof: float, count: int) -> float:
    left = 1.0 - dof / count
    return (rmse / left) ** 2 if left > 1e-9 else float("nan")


def _grid(samples: Samples, spline: LinearSpline) -> Vector:
    """Places at which a curve is drawn: evenly spaced, and the knots if they are not too many."""
    low, high = samples.x[0], samples.x[-1]
    even = np.linspace(low, high, GRID)
    knots = spline.knots[(spline.knots > low) & (spline.knots < high)]
    return np.union1d(even, knots) if knots.size <= 4 * GRID else np.unique(even)


def _why_not(regressor: BV2Regressor, samples: Samples, wanted: bool) -> str:
    if not wanted:
        return "it was not asked for"
    if regressor.loss != "squared":
        return f"it belongs to the squared loss, and the loss is {regressor.loss}"
    if samples.x.size > MOST_SMOOTHED:
        return f"it is fitted to {MOST_SMOOTHED:,} samples at most"
    return ""


def _smoother(samples: Samples, count: int) -> SmootherRecord:
    other = SmoothingSplineRegressor().fit(samples.x, samples.y, samples.weight if samples.weight.size else None)
    rmse, _ = _accuracy(samples, other.predict(samples.x))
    grid = np.unique(np.linspace(samples.x[0], samples.x[-1], count))
    return SmootherRecord(
        lam=float(other.lam_),
        dof=float(other.df_),
        rmse=rmse,
        gcv=_gcv(rmse, float(other.df_), samples.x.size),
        x=tuple(grid.tolist()),
        y=tuple(other.predict(grid).tolist()),
    )


def _band(regressor: BV2Regressor, grid: Vector, method: str, seed: int) -> BandRecord:
    level = 0.95
    lower, upper = regressor.band(grid, level=level, method=method, random_state=seed)
    return BandRecord(
        method=method,
        level=level,
        covers=_COVERS[method],
        x=tuple(grid.tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
    )


def _spline(spline: LinearSpline) -> SplineRecord:
    return SplineRecord(
        knots=tuple(spline.knots.tolist()), values=tuple(spline.values.tolist()), slopes=tuple(spline.slopes.tolist())
    )


def _path(path: BV2Path, criterion: str) -> PathRecord:
    assert path.scores is not None
    return PathRecord(
        criterion=criterion,
        lams=tuple(path.lams.tolist()),
        n_knots=tuple(path.n_knots.tolist()),
        dof=tuple(path.dof.tolist()),
        losses=tuple(path.losses.tolist()),
        tv2=tuple(path.tv2.tolist()),
        gaps=tuple(path.gaps.tolist()),
        scores=tuple(path.scores.tolist()),
        errors=() if path.errors is None else tuple(path.errors.tolist()),
    )


def _dual_curve(regressor: BV2Regressor, grid: Vector) -> DualRecord | None:
    """The dual curve on a grid, by running sums: good to the eye, not to the last digit as in the certificate.

    Where the loss has a kink the residuals alone do not give it; with very many knots there is nothing to see.
    """
    problem = regressor.solution_.problem
    samples, lam = problem.samples, float(problem.lam)
    if isinstance(problem.loss, Pinball) or lam <= 0.0 or samples.starts.size < 3 or regressor.n_knots_ > GRID // 2:
        return None
    pull = samples.weights * problem.loss.pull(samples.y, regressor.spline_(samples.x))
    origin = samples.x[0]
    # Sums from the left are minus those from the right: pulls are orthogonal to affine functions.
    zeroth = np.concatenate(([0.0], np.cumsum(pull)))
    first = np.concatenate(([0.0], np.cumsum(pull * (samples.x - origin))))
    before = np.searchsorted(samples.x, grid, side="right")
    v = ((grid - origin) * zeroth[before] - first[before]) / lam
    return DualRecord(x=tuple(grid.tolist()), v=tuple(v.tolist()))


def peak_memory_mb() -> float:
    """Return the peak resident memory of the process; NaN where the platform does not tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
