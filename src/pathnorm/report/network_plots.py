"""Figures of a network that was fitted to a table, out of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.report.network import NetworkPathRecord, NetworkRecord
from pathnorm.report.numbers import count, decimal
from pathnorm.report.style import INK, PALETTE, dress, new_figure
from pathnorm.report.table import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MOST_CLASSES",
    "MOST_FEATURES",
    "directions",
    "features",
    "held_out",
    "n_outside",
    "path",
    "plain_numbers",
    "short",
    "tints",
]

Vector = NDArray[np.float64]

FIT, OTHER = PALETTE[0], PALETTE[1]

MOST_FEATURES = 20
MOST_CLASSES = 15

_NAME = 30
_LAMBDA = "\N{GREEK SMALL LETTER LAMDA}"


def path(record: NetworkRecord) -> Figure:
    """Return held-out loss and neurons against lambda, with the choice marked."""
    if record.path is None:
        raise ValueError("A path is needed; lambda was given, so the record has none. Let cross-validation choose it.")
    figure = new_figure(10.0, 3.3)
    left, right = figure.subplots(1, 2)
    found = record.path
    scores, errors = np.array(found.scores), np.nan_to_num(np.array(found.errors))
    left.fill_between(
        found.lams, scores - errors, scores + errors, color=FIT, alpha=0.2, linewidth=0, label="one standard error"
    )
    _along_lam(left, record, found, scores)
    left.set_ylabel("held-out loss per row")
    left.legend(frameon=False, labelcolor=INK, fontsize=9)
    # The worst fits would flatten what matters.
    low, high = float((scores - errors).min()), float((scores + errors).max())
    if low > 0.0 and high > 5.0 * low:
        left.set_yscale("log")
        left.yaxis.set_major_formatter(lambda value, _: decimal(value, digits=2))
        left.yaxis.set_minor_formatter(lambda value, _: decimal(value, digits=2) if high < 20.0 * low else "")
    _along_lam(right, record, found, np.array(found.n_neurons))
    right.set_ylabel("neurons, mean over folds")
    right.set_ylim(bottom=0)
    return figure


def _along_lam(axes: Axes, record: NetworkRecord, found: NetworkPathRecord, values: Vector) -> None:
    axes.plot(found.lams, values, color=FIT, linewidth=1.6, marker="o", markersize=3)
    at = int(np.argmin(np.abs(np.array(found.lams) - record.lam)))
    axes.plot([found.lams[at]], [values[at]], marker="o", markersize=7, color=FIT, zorder=4)
    axes.axvline(record.lam, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    if len(found.lams) > 1:
        axes.set_xscale("log")
    axes.set_xlabel(f"{_LAMBDA}; chosen: {decimal(record.lam)}")
    dress(axes)


# ------------------------------------------------------------------------------ held-out rows


def held_out(record: NetworkRecord) -> Figure:
    """Return observed against predicted values, or calibration and confusion of classes."""
    if record.task == "regression":
        figure = new_figure(9.0, 4.6)
        left, right = figure.subplots(1, 2)
        _draw_observed(left, record)
        _draw_residuals(right, record)
        return figure
    few = len(record.classes) <= MOST_CLASSES
    if record.picture.forecast and few:
        figure = new_figure(9.5, 4.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
        _draw_calibration(left, record)
        _draw_confusion(right, record)
    else:
        side = 4.2 + 0.25 * max(len(record.classes) - 4, 0) if few else 6.0
        figure = new_figure(min(side + 1.5, 9.0), min(side, 7.0))
        _draw_confusion(figure.add_subplot(), record)
    return figure


def _draw_observed(axes: Axes, record: NetworkRecord) -> None:
    observed, predicted = np.array(record.picture.observed), np.array(record.picture.predicted)
    ends = _ends(record)
    axes.plot(ends, ends, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    size = 3.6 if observed.size <= 400 else 2.2
    axes.plot(
        predicted, observed, linestyle="none", marker="o", markersize=size, markeredgewidth=0, color=FIT, alpha=0.5
    )
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    name = shorten(record.target, _NAME)
    axes.set_xlabel(f"{name}, predicted")
    axes.set_ylabel(f"{name}, observed")
    plain_numbers(axes)
    dress(axes)


def n_outside(record: NetworkRecord) -> int:
    """Number of the drawn rows that lie beyond what :func:`held_out` shows."""
    if record.task != "regression":
        return 0
    low, high = _ends(record)
    pairs = zip(record.picture.observed, record.picture.predicted, strict=True)
    return sum(not low <= min(pair) <= max(pair) <= high for pair in pairs)


def _ends(record: NetworkRecord) -> tuple[float, float]:
    """Limits with nearly all observations inside; a few wild predictions do not decide them."""
    values = np.concatenate((record.picture.observed, record.picture.predicted))
    low, high = np.quantile(np.array(record.picture.observed), (0.01, 0.99))
    reach = high - low
    low, high = max(float(values.min()), low - 0.3 * reach), min(float(values.max()), high + 0.3 * reach)
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return float(low - margin), float(high + margin)


def _draw_residuals(axes: Axes, record: NetworkRecord) -> None:
    residual = np.array(record.picture.observed) - np.array(record.picture.predicted)
    width = min(float(np.abs(residual).max()), 3.0 * float(np.quantile(np.abs(residual), 0.8))) or 1.0
    bins = min(max(int(np.sqrt(residual.size) * 1.5), 8), 50)
    axes.hist(np.clip(residual, -width, width), bins=bins, range=(-width, width), color=FIT, alpha=0.75)
    axes.axvline(0.0, color=INK, linewidth=1.0, linestyle=(0, (5, 3)))
    axes.set_xlabel("observed - predicted")
    axes.set_ylabel("held-out rows")
    plain_numbers(axes)
    dress(axes, along="y")


def _draw_calibration(axes: Axes, record: NetworkRecord) -> None:
    picture = record.picture
    forecast, frequency, rows = (np.array(part) for part in (picture.forecast, picture.frequency, picture.counts))
    axes.plot([0.0, 1.0], [0.0, 1.0], color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    # Wilson's interval, which is not empty where all rows are of one class.
    z = 1.96
    middle = (frequency + z**2 / (2.0 * rows)) / (1.0 + z**2 / rows)
    half = z * np.sqrt(frequency * (1.0 - frequency) / rows + z**2 / (4.0 * rows**2)) / (1.0 + z**2 / rows)
    low, high = frequency - np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0) - frequency
    axes.errorbar(
        forecast,
        frequency,
        yerr=np.maximum(np.vstack((low, high)), 0.0),
        color=FIT,
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1.0,
        label=f"groups of {count(int(rows.min()))} rows or more",
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    name = shorten(record.classes[1], _NAME)
    axes.set_xlabel(f"probability of {name}, predicted")
    axes.set_ylabel(f"share of {name}, observed")
    dress(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left")


def _draw_confusion(axes: Axes, record: NetworkRecord) -> None:
    table = np.array(record.picture.confusion, dtype=np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    axes.imshow(shares, cmap=tints(one_sided=True), vmin=0.0, vmax=1.0, aspect="auto")
    names = [shorten(name, 16) for name in record.classes]
    few = len(names) <= MOST_CLASSES
    if few:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.55 else "#3a404b"
            axes.text(column, row, count(int(table[row, column])), ha="center", va="center", color=colour, fontsize=10)
        turned = 45.0 if max(map(len, names)) * len(names) > 40 else 0.0
        axes.set_xticks(range(len(names)), names, rotation=turned, ha="right" if turned else "center")
        axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"{shorten(record.target, _NAME)}, predicted")
    axes.set_ylabel("observed")
    dress(axes)
    axes.grid(visible=False)
    axes.tick_params(length=0)


# ------------------------------------------------------------------------------ features


def features(record: NetworkRecord) -> Figure:
    """Return the features by their share in the bending, and their mean slopes, both per standard deviation."""
    found = record.features
    shares, slopes = np.array(found.shares), np.array(found.slopes)
    order = _ranked(shares, slopes)
    figure = new_figure(10.0, max(0.9 + 0.27 * order.size, 2.0))
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(order.size)[::-1]
    left.barh(rows, 100.0 * shares[order], color=FIT, height=0.7)
    left.set_yticks(rows, [shorten(found.names[place], _NAME) for place in order])
    left.set_xlabel("share in the bending, %")
    left.set_xlim(left=0.0)
    colours = [FIT if slope >= 0.0 else OTHER for slope in slopes[order]]
    right.barh(rows, slopes[order], color=colours, height=0.7)
    right.axvline(0.0, color=INK, linewidth=1.0)
    right.set_xlabel("mean slope per standard deviation" + (", norm over outputs" if _many_outputs(record) else ""))
    for axes in (left, right):
        dress(axes, along="x")
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.01 if order.size > 5 else 0.1)
    plain_numbers(right, y=False)
    return figure


def _many_outputs(record: NetworkRecord) -> bool:
    return len(record.classes) > 2


def _ranked(shares: Vector, slopes: Vector) -> NDArray[np.int64]:
    """The features that matter most, by shares in bending and in slopes together."""
    sizes = np.abs(slopes)
    weight = shares / max(shares.sum(), 1e-300) + sizes / max(sizes.sum(), 1e-300)
    order = np.argsort(-weight, kind="stable")[:MOST_FEATURES]
    return order[np.lexsort((-sizes[order], -shares[order]))]


def directions(record: NetworkRecord) -> Figure:
    """Return the directions in which the function bends, most massive first, as weights of the features."""
    found = record.features
    if not found.directions:
        raise ValueError("There is no direction to draw; the network has no neuron. A smaller lam gives some.")
    weights = np.array(found.directions)
    masses = np.array(found.masses)
    # Features by their part in what is drawn.
    part = masses @ np.abs(weights)
    used = np.argsort(-part, kind="stable")[:MOST_FEATURES]
    used = used[part[used] > 0.0]
    weights = weights[:, used]
    figure = new_figure(10.0, 1.9 + 0.27 * len(masses))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.0, 3.2))
    rows = np.arange(len(masses))
    left.barh(rows, 100.0 * masses, color=FIT, height=0.7)
    left.invert_yaxis()
    left.set_yticks(rows, [str(row + 1) for row in rows])
    left.set_xlabel("share of the path norm, %")
    left.set_ylabel("direction")
    dress(left, along="x")
    limit = float(np.abs(weights).max())
    image = right.imshow(weights, cmap=tints(), vmin=-limit, vmax=limit, aspect="auto")
    right.set_xticks(range(used.size), [shorten(found.names[place], _NAME) for place in used], rotation=40, ha="right")
    dress(right)
    right.grid(visible=False)
    right.tick_params(length=0)
    bar = figure.colorbar(image, ax=right, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    return figure


# ------------------------------------------------------------------------------ helpers


def tints(*, one_sided: bool = False) -> Any:
    """Colour maps that fit the page: paper to blue, or orange over paper to blue."""
    from matplotlib.colors import LinearSegmentedColormap

    if one_sided:
        return LinearSegmentedColormap.from_list("share", ["#f3f4f6", FIT])
    return LinearSegmentedColormap.from_list("sign", [OTHER, "#f3f4f6", FIT])


def plain_numbers(axes: Axes, *, x: bool = True, y: bool = True) -> None:
    """Numbers on the axes as people write them."""
    for axis in [*([axes.xaxis] if x else []), *([axes.yaxis] if y else [])]:
        axis.set_major_formatter(lambda value, _: short(value))
    if x and max(map(abs, axes.get_xlim())) >= 10_000:
        axes.tick_params(axis="x", labelrotation=30.0)


def short(value: float) -> str:
    """Write a number on an axis."""
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.6g}"
