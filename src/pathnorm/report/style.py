"""The look of the figures, drawn without touching the state of matplotlib's interactive interface."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pathnorm.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MARKERS", "PALETTE", "dress", "inline_svg", "new_figure"]

# Middle tones, told apart in print and by colour-blind readers, on light and on dark paper.
PALETTE = ("#3b7dd8", "#e08214", "#2a9d72", "#b0589f", "#c94f4f", "#8a8d93")
INK, GRID = "#20242c", "#c9ced8"
MARKERS = "osD^vP"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Figures need the package 'matplotlib', which is not installed. "
            "Install it with: pip install 'pathnorm[plot]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def dress(axes: Axes, *, along: str = "both") -> None:
    """Give axes the style of the reports: two spines, a quiet grid, one ink."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=along, color=GRID, linewidth=0.6)  # type: ignore[arg-type]


def inline_svg(figure: Figure, *, salt: str = "0") -> str:
    """Return the figure as an SVG element that takes the colours of the page around it.

    ``salt`` keeps the ids of several figures on one page apart, and the same from run to run.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": f"pathnorm-{salt}", "svg.fonttype": "path"}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").replace(GRID, "var(--grid)")
