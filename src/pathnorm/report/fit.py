"""What is said about a fit of one variable: the spline, its proof, its path, and the linear method beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.fields import JsonRecord, certified, exact, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BandRecord", "DualRecord", "FitRecord", "PathRecord", "Picture", "SmootherRecord", "SplineRecord"]

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplineRecord:
    """Continuous, piecewise linear function: ``slopes`` (K + 1,) go from left to right of the knots (K,)."""

    knots: Numbers = exact()
    values: Numbers = exact()
    slopes: Numbers = exact()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRecord:
    """Solutions along lam, and the criterion that chose among them; smaller scores are better.

    ``losses`` are without the penalty; ``errors`` are standard errors of the scores, for cross-validation.
    """

    criterion: str = exact()
    lams: Numbers = exact()
    n_knots: tuple[int, ...] = exact()
    dof: tuple[int, ...] = exact()
    losses: Numbers = exact()
    tv2: Numbers = exact()
    gaps: Numbers = certified()
    scores: Numbers = measured()
    errors: Numbers = measured(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class SmootherRecord:
    """The cubic smoothing spline of the same data, with lam chosen by generalised cross-validation.

    ``x`` and ``y`` are its values on a grid, for the picture; ``residual_dof`` is N minus its degrees of freedom.
    """

    lam: float = exact()
    dof: float = exact()
    rmse: float = measured()
    gcv: float = measured()
    x: Numbers = exact(repr=False)
    y: Numbers = exact(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandRecord:
    """Pointwise confidence limits at ``x``, and what they cover."""

    method: str = exact()
    level: float = exact()
    covers: str = exact()
    x: Numbers = exact(repr=False)
    lower: Numbers = measured(repr=False)
    upper: Numbers = measured(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DualRecord:
    """The dual curve over lam, ``v(x) / lam``, on a grid: within [-1, 1], and +-1 at every knot."""

    x: Numbers = exact(repr=False)
    v: Numbers = exact(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The samples as a figure needs them: some of them, and quantiles of all of them in columns of equal width.

    Attributes
    ----------
    x, y, residual : tuple of float
        Samples drawn without replacement, all of them if they are few; residuals are ``y`` minus the fitted mean.
    levels : tuple of float
        Levels of the quantiles; without columns if all samples are there.
    columns : tuple of float
        Middle of each column that has samples.
    y_quantiles, residual_quantiles : tuple of tuple of float
        One tuple per level.
    fit_x, fit_y : tuple of float
        The fitted mean (or quantile), on a grid with the knots.
    """

    x: Numbers = exact()
    y: Numbers = exact()
    residual: Numbers = exact()
    levels: Numbers = exact(default=())
    columns: Numbers = exact(default=())
    y_quantiles: tuple[Numbers, ...] = exact(default=())
    residual_quantiles: tuple[Numbers, ...] = exact(default=())
    fit_x: Numbers = exact()
    fit_y: Numbers = exact()


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecord(JsonRecord):
    """What was proved and what was measured when a function of one variable was fitted.

    Attributes
    ----------
    x_name, y_name, weight_name : str, str, str or None
        Columns.
    x_unit : str
        Unit that was given to x when it was read, or nothing.
    x_is_time : bool
        Whether x is seconds since 1970.
    rows, rows_dropped : int
        Rows of the table, and those left out because a value was missing.
    n_samples, n_distinct : int
        Samples of positive weight, and different x among them.
    loss, parameter : str, float or None
        And its delta or quantile.
    lam, lam_max : float
        From ``lam_max`` on the fit is affine.
    chosen_by : str
        ``given``, or the criterion.
    n_knots, dof : int
        Neurons of the network, and the degrees of freedom of the fit.
    tv2 : float
        ``TV(f')``, the path norm of the network.
    primal, dual, gap : float
        ``dual <= optimum <= primal`` over ``scope``; the gap is relative to the primal.
    tol : float
        The gap that was asked for.
    rmse, r2 : float
        Of the fitted mean (or quantile) on the samples it was fitted to, with their weights.
    gcv : float or None
        ``rmse^2 / (1 - dof / n_samples)^2``, for the squared loss.
    noise : float
        Standard deviation of the noise at unit weight, estimated without a fit.
    smoother_left_out : str
        Why there is no smoothing spline, if there is none.
    seconds, seconds_fit : float
        In all, and of them for the fit and the choice of lam.
    """

    x_name: str = exact()
    y_name: str = exact()
    weight_name: str | None = exact(default=None)
    x_unit: str = exact(default="")
    x_is_time: bool = exact(default=False)
    rows: int = exact()
    rows_dropped: int = exact(default=0)
    n_samples: int = exact()
    n_distinct: int = exact()
    loss: str = exact()
    parameter: float | None = exact(default=None)
    lam: float = exact()
    lam_max: float = exact()
    chosen_by: str = exact()
    one_standard_error: bool = exact(default=False)
    sparsest: bool = exact(default=False)
    n_knots: int = exact()
    dof: int = exact()
    tv2: float = exact()
    primal: float = certified()
    dual: float = certified()
    gap: float = certified()
    scope: str = exact()
    tol: float = exact()
    rmse: float = measured()
    r2: float = measured()
    gcv: float | None = measured()
    noise: float = measured()
    seconds: float = measured()
    seconds_fit: float = measured()
    peak_memory_mb: float = measured()
    spline: SplineRecord = exact(repr=False)
    picture: Picture = exact(repr=False)
    path: PathRecord | None = exact(default=None, repr=False)
    smoother: SmootherRecord | None = exact(default=None, repr=False)
    smoother_left_out: str = exact(default="")
    band: BandRecord | None = exact(default=None, repr=False)
    dual_curve: DualRecord | None = exact(default=None, repr=False)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with every figure; return its path."""
        from pathnorm.report.fit_render import write_html

        return write_html(self, Path(path))

    def plot(self) -> Figure:
        """Return the overview figure: samples and fit, residuals, path and dual curve."""
        from pathnorm.report.fit_plots import overview

        return overview(self)

    def __str__(self) -> str:
        from pathnorm.report.fit_render import text_table

        return text_table(self)
