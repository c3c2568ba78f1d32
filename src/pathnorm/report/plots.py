"""Figures of a compression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pathnorm.report.comparison import ComparisonPoint
from pathnorm.report.records import CompressionRecord, Frontier, GroupRecord
from pathnorm.report.style import GRID, INK, MARKERS, PALETTE, dress, new_figure
from pathnorm.report.table import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_against_params", "error_curves", "frontier", "overview", "shades", "widths"]

AFTER, BEFORE = PALETTE[0], "#a9b4c6"

# Beyond this many layers their names no longer fit beside bars or in a legend.
MOST_NAMED = 30
MOST_IN_LEGEND = 10


def overview(record: CompressionRecord) -> Figure:
    """Return one figure with the widths, the error curves and, if there is one, the frontier."""
    names = list(dict.fromkeys(item.group for item in record.frontiers))
    rows = 2 if names else 1
    height = _bars_height(record.groups)
    figure = new_figure(11.0, height + (3.6 if names else 0.0))
    grid = figure.add_gridspec(rows, 2, height_ratios=[height, 3.6][:rows])
    _draw_widths(figure.add_subplot(grid[0, 0]), record.groups)
    _draw_error_curves(figure.add_subplot(grid[0, 1]), record.groups)
    if names:
        chosen = [item for item in record.frontiers if item.group == names[0]]
        _draw_frontier(figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1]), chosen)
    return figure


def widths(record: CompressionRecord) -> Figure:
    """Return bars of the neurons of each layer, before and after."""
    figure = new_figure(9.0, _bars_height(record.groups))
    _draw_widths(figure.add_subplot(), record.groups)
    return figure


def error_curves(record: CompressionRecord) -> Figure:
    """Return the relative error of each layer against the share of its neurons that are kept."""
    figure = new_figure(9.0, 3.8)
    _draw_error_curves(figure.add_subplot(), record.groups)
    return figure


def frontier(record: CompressionRecord, *, group: str | None = None) -> Figure:
    """Return error against width, and path norm against error, of one layer for each selector.

    The layer is the first one that has a frontier unless ``group`` names another.
    """
    names = list(dict.fromkeys(item.group for item in record.frontiers))
    if not names or (group is not None and group not in names):
        raise ValueError(
            f"A frontier of {'some layer' if group is None else repr(group)} is needed; the record has "
            f"frontiers of {', '.join(map(repr, names)) or 'no layer'}. Name one of those."
        )
    chosen = [item for item in record.frontiers if item.group == (group or names[0])]
    figure = new_figure(10.0, 3.7)
    left, right = figure.subplots(1, 2)
    _draw_frontier(left, right, chosen)
    return figure


def accuracy_against_params(points: Sequence[ComparisonPoint]) -> Figure:
    """Return accuracy against parameters, one line per method and the dense network as a reference."""
    if not points:
        raise ValueError("At least one ComparisonPoint is needed, got none. Pass the points to compare.")
    figure = new_figure(9.0, 4.0)
    axes = figure.add_subplot()
    dense = next((point for point in points if point.is_dense), None)
    methods = dict.fromkeys(point.method for point in points if not point.is_dense)
    for index, method in enumerate(methods):
        mine = sorted((point for point in points if point.method == method), key=lambda point: point.params)
        axes.plot(
            [point.params for point in mine],
            [100 * point.accuracy for point in mine],
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            linewidth=1.8,
            markersize=6,
            label=method,
            clip_on=False,
            zorder=3,
        )
    if dense is not None:
        axes.axhline(100 * dense.accuracy, color=INK, linestyle=(0, (5, 3)), linewidth=1.1, label="dense", zorder=2)
        axes.plot([dense.params], [100 * dense.accuracy], color=INK, marker="*", markersize=11, zorder=4)
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    dress(axes)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    return figure


# ------------------------------------------------------------------------------ axes


def _draw_widths(axes: Axes, groups: Sequence[GroupRecord]) -> None:
    """Wide pale bars for before, narrow strong ones inside for after, ticks for the lower bound."""
    positions = range(len(groups))
    before = axes.barh(positions, [g.width_before for g in groups], height=0.78, color=BEFORE, label="before")
    after = axes.barh(positions, [g.width_after for g in groups], height=0.44, color=AFTER, label="after")
    (bound,) = axes.plot(
        [g.width_lower_bound for g in groups],
        positions,
        linestyle="none",
        marker="|",
        markersize=11 if len(groups) <= MOST_NAMED else 4,
        markeredgewidth=2,
        color=INK,
        label="lower bound at this error",
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    if len(groups) <= MOST_NAMED:
        axes.set_yticks(list(positions), [shorten(g.name, 26) for g in groups])
    else:
        axes.set_ylabel("layer, in forward order")
    axes.set_xlabel("neurons")
    dress(axes, along="x")
    axes.legend(
        handles=[before, after, bound],
        frameon=False,
        labelcolor=INK,
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderpad=0.2,
    )


def _draw_error_curves(axes: Axes, groups: Sequence[GroupRecord]) -> None:
    drawn = [group for group in groups if len(group.error_curve) > 1]
    named = len(drawn) <= MOST_IN_LEGEND
    colours = shades(len(drawn))
    for index, group in enumerate(drawn):
        width = len(group.error_curve) - 1
        axes.plot(
            [kept / width for kept in range(width + 1)],
            [max(error, 0.0) for error in group.error_curve],
            color=colours[index],
            linewidth=1.6 if named else 0.9,
            label=shorten(group.name, 24),
        )
        kept = min(group.width_after, width)
        axes.plot(
            [kept / width],
            [max(group.error_curve[kept], 0.0)],
            color=colours[index],
            marker="o",
            markersize=6 if named else 3,
            clip_on=False,
            zorder=3,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of neurons kept")
    axes.set_ylabel("relative error of the layer")
    dress(axes)
    if named and drawn:
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")
    elif drawn:
        axes.set_title(f"{len(drawn)} layers, first (light) to last (dark)", color=INK, fontsize=9, loc="left")


def _draw_frontier(error_axes: Axes, norm_axes: Axes, items: Sequence[Frontier]) -> None:
    """Error against width with the bound, and path norm against error: what the lasso is best at."""
    positive = [error for item in items for error in item.errors if error > 0]
    floor = min(positive, default=1e-3) / 2
    for index, item in enumerate(items):
        style = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 3.5,
            "linewidth": 1.6,
            "label": item.selector,
        }
        error_axes.plot(item.widths, [max(error, floor) for error in item.errors], **style)  # type: ignore[arg-type]
        norm_axes.plot([max(error, floor) for error in item.errors], item.path_norms, **style)  # type: ignore[arg-type]
    widest = max(items, key=lambda item: len(item.widths))
    shaded = [max(value, floor) for value in widest.bound]
    error_axes.fill_between(widest.widths, shaded, floor, color=GRID, alpha=0.55, linewidth=0)
    # A bound of zero lies below a logarithmic axis, not on its edge.
    bound = [value if value > 0 else math.nan for value in widest.bound]
    error_axes.plot(widest.widths, bound, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="lower bound")
    error_axes.set_yscale("log")
    error_axes.set_ylim(bottom=floor)
    error_axes.set_xlabel(f"neurons of {shorten(widest.group, 30)}")
    error_axes.set_ylabel("relative error")
    norm_axes.set_xscale("log")
    norm_axes.set_xlabel("relative error")
    norm_axes.set_ylabel("path norm")
    for axes in (error_axes, norm_axes):
        dress(axes)
    error_axes.legend(frameon=False, labelcolor=INK)


# ------------------------------------------------------------------------------ style


def _bars_height(groups: Sequence[GroupRecord]) -> float:
    per_layer = 0.42 if len(groups) <= MOST_NAMED else 0.11
    return max(2.6, 1.2 + per_layer * len(groups))


def shades(number: int) -> list[str]:
    """Return the palette for a few curves, and one hue from light to dark for many."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    light, dark = (0x9E, 0xC5, 0xF4), (0x1C, 0x55, 0xA8)
    shades = []
    for index in range(number):
        part = index / max(number - 1, 1)
        mixed = (math.floor(a + part * (b - a)) for a, b in zip(light, dark, strict=True))
        shades.append("#" + "".join(f"{value:02x}" for value in mixed))
    return shades
