"""The figure of a frontier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathnorm.report.frontier import FrontierRecord
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["frontier_curves"]


def frontier_curves(record: FrontierRecord) -> Figure:
    """Return predicted error against the parameters that are left, and against the multiply-accumulates."""
    figure = new_figure(10.0, 3.7)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, record, "params", "parameters left, %")
    _draw(right, record, "macs", "multiply-accumulates left, %")
    left.set_ylabel("predicted error of the outputs, %")
    left.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _draw(axes: Axes, record: FrontierRecord, name: str, label: str) -> None:
    """Draw the widths chosen for this budget as a line, those chosen for the other one as single marks."""
    for index, budget in enumerate(("params", "macs")):
        # An error of zero has no place on a logarithmic axis.
        drawn = [point for point in record.points if point.budget == budget and point.error > 0.0]
        own = budget == name
        axes.plot(
            [100.0 * getattr(point, name) for point in drawn],
            [100.0 * point.error for point in drawn],
            color=PALETTE[index],
            marker=MARKERS[index],
            markersize=4 if own else 3,
            linewidth=1.6 if own else 0.0,
            alpha=1.0 if own else 0.6,
            label=f"widths chosen for {'parameters' if budget == 'params' else 'multiply-accumulates'}",
            zorder=3 if own else 2,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlim(0.0, 102.0)
    axes.set_xlabel(label)
    dress(axes)
