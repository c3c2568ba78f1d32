"""Figures of a fit of one variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.report.fit import FitRecord, PathRecord, Picture
from pathnorm.report.numbers import count, decimal, percent
from pathnorm.report.picture import MOST_POINTS
from pathnorm.report.style import INK, PALETTE, dress, new_figure
from pathnorm.report.table import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dual_curve", "fit", "n_outside", "overview", "path", "plot_spline", "residuals"]

Vector = NDArray[np.float64]

FIT, SMOOTHER, SAMPLES = PALETTE[0], PALETTE[1], PALETTE[5]

# Beyond this many knots they are ticks below the samples, and beyond MOST_TICKS they are left out.
MOST_MARKED = 120
MOST_TICKS = 2000

_DAY = 86400.0  # dates on an axis are days
_WIDE, _WIDER = 5.0, 20.0  # largest score over smallest, from where its axis is logarithmic, and has ticks enough
_FLAT = 20.0
_LOOSE = 3.0  # heights of the middle of the samples that an axis reaches to both sides
_SCORES = {"sure": "SURE", "gcv": "GCV", "bic": "BIC", "cv": "cross-validated loss"}


def overview(record: FitRecord) -> Figure:
    """Return one figure: samples and fit above; below it residuals and, if there are, dual curve and path."""
    lower = [_draw_residuals]
    lower += [_draw_dual] if record.dual_curve is not None else []
    lower += [_draw_knots, _draw_scores] if record.path is not None else []
    height = 2.6 * ((len(lower) + 1) // 2)
    figure = new_figure(11.0, 4.6 + height)
    grid = figure.add_gridspec(1 + (len(lower) + 1) // 2, 2, height_ratios=[4.6] + [2.6] * ((len(lower) + 1) // 2))
    _draw_fit(figure.add_subplot(grid[0, :]), record)
    for place, draw in enumerate(lower):
        last = place == len(lower) - 1 and place % 2 == 0
        draw(figure.add_subplot(grid[1 + place // 2, slice(None) if last else place % 2]), record)
    return figure


def fit(record: FitRecord) -> Figure:
    """Return the samples with the fit, its knots, its band and the smoothing spline beside it."""
    figure = new_figure(10.0, 4.6)
    _draw_fit(figure.add_subplot(), record)
    return figure


def n_outside(record: FitRecord) -> int:
    """Number of the drawn samples that lie above or below what :func:`fit` shows."""
    low, high = _bounds(record.picture.y, record.picture.y_quantiles, record.picture.fit_y)
    return sum(not low <= value <= high for value in record.picture.y)


def residuals(record: FitRecord) -> Figure:
    """Return the residuals over x."""
    figure = new_figure(10.0, 2.9)
    _draw_residuals(figure.add_subplot(), record)
    return figure


def path(record: FitRecord) -> Figure:
    """Return the knots and the criterion against lambda, with the choice marked."""
    figure = new_figure(10.0, 3.3)
    left, right = figure.subplots(1, 2)
    _draw_knots(left, record)
    _draw_scores(right, record)
    return figure


def dual_curve(record: FitRecord) -> Figure:
    """Return the dual curve over lambda, which stays within [-1, 1] and touches an end at every knot."""
    figure = new_figure(10.0, 2.7)
    _draw_dual(figure.add_subplot(), record)
    return figure


def plot_spline(
    x: ArrayLike,
    y: ArrayLike,
    grid: ArrayLike,
    fitted: ArrayLike,
    knots: ArrayLike,
    band: Sequence[ArrayLike] | None = None,
) -> Figure:
    """Return samples x, y (N,) with a fit on a grid (M,), its knots (K,) and a band of limits (M,)."""
    figure = new_figure(9.0, 4.4)
    axes = figure.add_subplot()
    x, y, grid, fitted, knots = (np.asarray(part, dtype=np.float64) for part in (x, y, grid, fitted, knots))
    some: slice | NDArray[np.int64] = slice(None)
    if x.size > MOST_POINTS:
        some = np.random.default_rng(0).choice(x.size, MOST_POINTS, replace=False)
    _draw_samples(axes, x[some], y[some], x.size)
    if band is not None:
        low, high = (np.asarray(limit, dtype=np.float64) for limit in band)
        axes.fill_between(grid, low, high, color=FIT, alpha=0.2, linewidth=0, label="band", zorder=2)
    _draw_curve(axes, grid, fitted, knots)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    dress(axes)
    _legend(axes)
    return figure


# ------------------------------------------------------------------------------ axes


def _draw_fit(axes: Axes, record: FitRecord) -> None:
    picture, on = record.picture, _Axis(record)
    bounds = _bounds(picture.y, picture.y_quantiles, picture.fit_y)
    if picture.columns:
        _draw_quantiles(axes, on(picture.columns), picture, picture.y_quantiles)
    _draw_samples(axes, on(picture.x), np.array(picture.y), record.n_samples)
    if record.band is not None:
        band = record.band
        axes.fill_between(
            on(band.x),
            band.lower,
            band.upper,
            color=FIT,
            alpha=0.2,
            linewidth=0,
            label=f"{percent(band.level, digits=0)} band, {band.method}",
            zorder=2,
        )
    if record.smoother is not None:
        axes.plot(
            on(record.smoother.x),
            record.smoother.y,
            color=SMOOTHER,
            linewidth=1.5,
            linestyle=(0, (4, 2)),
            label="smoothing spline",
            zorder=3,
        )
    _draw_curve(axes, on(picture.fit_x), np.array(picture.fit_y), on(_bends(record)[0]))
    axes.set_ylim(*bounds)
    axes.set_ylabel(shorten(record.y_name, 40))
    on.name(axes)
    dress(axes)
    _legend(axes)


def _draw_residuals(axes: Axes, record: FitRecord) -> None:
    picture, on = record.picture, _Axis(record)
    if picture.columns:
        _draw_quantiles(axes, on(picture.columns), picture, picture.residual_quantiles)
    _draw_samples(axes, on(picture.x), np.array(picture.residual), record.n_samples)
    axes.axhline(0.0, color=INK, linewidth=1.0, zorder=3)
    axes.set_ylim(*_bounds(picture.residual, picture.residual_quantiles))
    axes.set_ylabel("residual")
    on.name(axes)
    dress(axes)


def _draw_samples(axes: Axes, x: Vector, y: Vector, total: int) -> None:
    drawn = f"{count(total)} samples" if x.size == total else f"{count(x.size)} of {count(total)} samples"
    size = 3.6 if x.size <= 400 else 2.0
    axes.plot(
        x, y, linestyle="none", marker="o", markersize=size, markeredgewidth=0, color=SAMPLES, alpha=0.6, label=drawn
    )


def _draw_quantiles(axes: Axes, x: Vector, picture: Picture, rows: Sequence[Sequence[float]]) -> None:
    """Shade what lies between the outer, and between the inner, quantiles of every sample in a column."""
    levels = picture.levels
    for outer in range(len(levels) // 2):
        low, high = rows[outer], rows[-1 - outer]
        label = f"{percent(levels[-1 - outer] - levels[outer], digits=0)} of all samples"
        axes.fill_between(x, low, high, color=SAMPLES, alpha=0.15 + 0.15 * outer, linewidth=0, label=label, zorder=1)


def _draw_curve(axes: Axes, x: Vector, y: Vector, knots: Vector) -> None:
    """The fit with its knots: marks for a few, ticks along the edge for many."""
    width = 2.0 if knots.size <= MOST_MARKED else 1.2
    axes.plot(x, y, color=FIT, linewidth=width, label="BV\N{SUPERSCRIPT TWO} fit", zorder=4)
    if knots.size == 0:
        return
    label = f"{count(knots.size)} knot{'s' * (knots.size != 1)}"
    if knots.size <= MOST_MARKED:
        at = np.interp(knots, x, y)
        size = 6 if knots.size <= 40 else 4
        axes.plot(knots, at, linestyle="none", marker="o", markersize=size, color=FIT, label=label, zorder=5)
    elif knots.size <= MOST_TICKS:
        edge = axes.get_xaxis_transform()
        axes.plot(
            knots,
            np.full(knots.size, 0.015),
            transform=edge,
            linestyle="none",
            marker="|",
            markersize=8,
            markeredgewidth=0.7,
            color=FIT,
            label=label,
            zorder=5,
        )
    else:
        axes.plot([], [], linestyle="none", label=f"{label}, not drawn")


def _draw_knots(axes: Axes, record: FitRecord) -> None:
    found = _path(record)
    axes.step(found.lams, found.n_knots, where="mid", color=FIT, linewidth=1.6)
    axes.plot([record.lam], [_at(found, record.lam, found.n_knots)], marker="o", markersize=7, color=FIT, zorder=4)
    _along_lam(axes, record)
    if max(found.n_knots) > 60:
        axes.set_yscale("symlog", linthresh=10.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(bottom=0)
    axes.yaxis.get_major_locator().set_params(**({} if max(found.n_knots) > 60 else {"integer": True}))
    axes.set_ylabel("knots")


def _draw_scores(axes: Axes, record: FitRecord) -> None:
    found = _path(record)
    scores = np.array([np.nan if score is None else score for score in found.scores], dtype=np.float64)
    label = _SCORES.get(found.criterion, found.criterion)
    finite = scores[np.isfinite(scores)]
    if finite.size:
        best = float(finite.min())
        if best > 0.0:
            _magnify(axes, finite)
        elif np.ptp(finite) > _FLAT * (np.median(finite) - best) > 0.0:
            # The worst fits would flatten all that matters.
            axes.set_yscale("symlog", linthresh=float(np.median(finite) - best) / _FLAT)
            scores, label = scores - best, f"{label} above its smallest"
    if found.errors:
        errors = np.array(found.errors, dtype=np.float64)
        low, high = scores - errors, scores + errors
        axes.fill_between(found.lams, low, high, color=FIT, alpha=0.2, linewidth=0, label="one standard error")
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    axes.plot(found.lams, scores, color=FIT, linewidth=1.6, marker="o", markersize=3)
    axes.plot([record.lam], [_at(found, record.lam, scores)], marker="o", markersize=7, color=FIT, zorder=4)
    if axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5))
        axes.yaxis.get_offset_text().set_color(INK)
    _along_lam(axes, record)
    axes.set_ylabel(label)


def _magnify(axes: Axes, scores: Vector) -> None:
    """A logarithmic axis where the scores span a lot; the minimum would look flat."""
    spread = float(scores.max() / scores.min())
    if spread < _WIDE:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: decimal(value, digits=2))
    axes.yaxis.set_minor_formatter(lambda value, _: decimal(value, digits=2) if spread < _WIDER else "")


def _along_lam(axes: Axes, record: FitRecord) -> None:
    if min(_path(record).lams) > 0.0:
        axes.set_xscale("log")
    axes.axvline(record.lam, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlabel(f"\N{GREEK SMALL LETTER LAMDA}; chosen: {decimal(record.lam)}")
    dress(axes)


def _draw_dual(axes: Axes, record: FitRecord) -> None:
    assert record.dual_curve is not None
    on, curve = _Axis(record), record.dual_curve
    for end in (-1.0, 1.0):
        axes.axhline(end, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    axes.plot(on(curve.x), curve.v, color=PALETTE[2], linewidth=1.6, zorder=3)
    knots, signs = _bends(record)
    if 0 < knots.size <= MOST_MARKED:
        axes.plot(
            on(knots),
            signs,
            linestyle="none",
            marker="o",
            markersize=6,
            color=FIT,
            clip_on=False,
            zorder=4,
        )
    axes.set_ylim(-1.15, 1.15)
    axes.set_yticks([-1.0, 0.0, 1.0])
    axes.set_ylabel("dual curve / \N{GREEK SMALL LETTER LAMDA}")
    on.name(axes)
    dress(axes)


# ------------------------------------------------------------------------------ helpers


class _Axis:
    """The x axis: numbers as they are, times as dates."""

    def __init__(self, record: FitRecord) -> None:
        self._time, self._name, self._unit = record.x_is_time, record.x_name, record.x_unit

    def __call__(self, x: Sequence[float] | Vector) -> Vector:
        values = np.array(x, dtype=np.float64)
        return values / _DAY if self._time else values

    def name(self, axes: Axes) -> None:
        axes.set_xlabel(shorten(self._name, 40) + (", UTC" if self._time else ""))
        if self._time:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator()  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _bounds(
    y: Sequence[float], quantiles: Sequence[Sequence[float]], fitted: Sequence[float] = ()
) -> tuple[float, float]:
    """Limits that a few samples far off do not decide; most of the samples, the quantiles and the fit are inside."""
    values = np.array(y, dtype=np.float64)
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    inside = np.concatenate([np.array(row, dtype=np.float64) for row in (*quantiles, fitted, (low, high))])
    reach = _LOOSE * max(high - middle, middle - low)
    ends = (max(values.min(), low - reach), min(values.max(), high + reach))
    bottom, top = float(min(inside.min(), ends[0])), float(max(inside.max(), ends[1]))
    margin = 0.05 * (top - bottom) or max(abs(top), 1.0) * 0.05
    return bottom - margin, top + margin


def _bends(record: FitRecord) -> tuple[Vector, Vector]:
    """Knots at which the slope does jump, and the signs of the jumps."""
    jumps = np.diff(np.array(record.spline.slopes, dtype=np.float64))
    there = jumps != 0.0
    return np.array(record.spline.knots, dtype=np.float64)[there], np.sign(jumps[there])


def _path(record: FitRecord) -> PathRecord:
    if record.path is None:
        raise ValueError("A path is needed; lambda was given, so the record has none. Let a criterion choose it.")
    return record.path


def _at(found: PathRecord, lam: float, values: Any) -> float:
    return float(values[int(np.argmin(np.abs(np.array(found.lams) - lam)))])


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False, labelcolor=INK, ncols=6, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0.2, fontsize=9
    )
