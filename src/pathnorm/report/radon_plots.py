"""Figures of a network of two inputs: the function with its hinges, and the measure that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.report.numbers import count, decimal
from pathnorm.report.style import GRID, INK, PALETTE, dress, new_figure
from pathnorm.spaces import RadonMeasure, ShallowNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_measure"]

Vector = NDArray[np.float64]
Box = tuple[float, float, float, float]

UP, DOWN, SAMPLES = PALETTE[0], PALETTE[1], PALETTE[5]

MOST_SAMPLES = 2000
MOST_LINES = 300

_GRID = 201
_LEVELS = 15
_LARGEST_DOT, _SMALLEST_DOT = 260.0, 8.0  # square points


def plot_measure(net: ShallowNet, X: ArrayLike | None = None, *, output: int = 0) -> Figure:
    """Return two panels: f with its hinge lines and the samples, and the measure on direction and offset.

    A hinge is the line ``w' x = b``: a point (angle of w, b) on the right. Blue hinges bend f up, orange ones down; the
    area of a dot and the width of a line grow with the mass. Hinges too far off to be seen on the left are counted.

    Parameters
    ----------
    net : ShallowNet
        Of two inputs.
    X : array (N, 2), optional
        Samples; they also say which part of the plane is shown. Without them it is where the hinges are.
    output : int
        Which of several outputs is shown.
    """
    if net.W.shape[1] != 2:
        raise ValueError(
            f"The measure can be drawn for 2 inputs; the network has {net.W.shape[1]}. "
            "Look at its radon_measure(), directions_by_mass() and subspace() instead."
        )
    if not 0 <= output < net.c.size:
        raise ValueError(f"output must be one of 0 to {net.c.size - 1}; got {output}. Outputs are counted from zero.")
    measure = net.radon_measure()
    samples = None if X is None else np.asarray(X, dtype=np.float64)
    if samples is not None and (samples.ndim != 2 or samples.shape[1] != 2 or samples.shape[0] == 0):
        raise ValueError(f"X must have shape (N, 2) with N >= 1; got {samples.shape}. Rows are samples.")
    figure = new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
    mass = measure.masses[:, output]
    _draw_function(left, net, _box(measure, samples), output)
    _draw_hinges(left, measure, mass)
    if samples is not None:
        _draw_samples(left, samples)
    _draw_measure(right, measure, mass, _farthest(left))
    return figure


def _draw_function(axes: Axes, net: ShallowNet, box: Box, output: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    x, y = np.linspace(box[0], box[1], _GRID), np.linspace(box[2], box[3], _GRID)
    points = np.column_stack([part.ravel() for part in np.meshgrid(x, y)])
    values = net(points)[:, output].reshape(_GRID, _GRID)
    low, high = float(values.min()), float(values.max())
    margin = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
    # One hue, so that the two colours of the hinges keep their meaning.
    shades = LinearSegmentedColormap.from_list("paper", ["#8a8d93", "#c3c6cc", "#fbfbfd"])
    levels = MaxNLocator(_LEVELS).tick_values(low - margin, high + margin)
    areas = axes.contourf(x, y, values, levels=levels, cmap=shades)
    bar = axes.figure.colorbar(areas, ax=axes, pad=0.02, shrink=0.9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlim(box[0], box[1])
    axes.set_ylim(box[2], box[3])
    axes.set_xlabel("x\N{SUBSCRIPT ONE}")
    axes.set_ylabel("x\N{SUBSCRIPT TWO}")
    dress(axes)
    axes.grid(visible=False)


def _draw_hinges(axes: Axes, measure: RadonMeasure, mass: Vector) -> None:
    from matplotlib.collections import LineCollection

    # Most massive first, so those left out bend f least.
    chosen = slice(0, MOST_LINES)
    directions, offsets, mass = measure.directions[chosen], measure.offsets[chosen], mass[chosen]
    if mass.size == 0:
        return
    x, y = axes.get_xlim(), axes.get_ylim()
    middle, reach = np.array([sum(x), sum(y)]) / 2.0, float(np.hypot(x[1] - x[0], y[1] - y[0]))
    foot = middle + (offsets - directions @ middle)[:, None] * directions
    along = reach * directions[:, ::-1] * [-1.0, 1.0]
    share = np.abs(mass) / np.abs(mass).max(initial=np.finfo(np.float64).tiny)
    lines = LineCollection(
        list(np.stack([foot - along, foot + along], axis=1)),
        colors=[UP if value > 0.0 else DOWN for value in mass],
        linewidths=list(0.6 + 2.4 * share),
        alpha=list(0.3 + 0.6 * share),
        zorder=2,
    )
    axes.add_collection(lines, autolim=False)


def _draw_samples(axes: Axes, X: Vector) -> None:
    if X.shape[0] > MOST_SAMPLES:
        X = X[np.random.default_rng(0).choice(X.shape[0], MOST_SAMPLES, replace=False)]
    size = 14.0 if X.shape[0] <= 400 else 5.0
    axes.scatter(X[:, 0], X[:, 1], s=size, color=INK, edgecolors="white", linewidths=0.5, zorder=3)


def _draw_measure(axes: Axes, measure: RadonMeasure, mass: Vector, farthest: float) -> None:
    size = np.abs(mass)
    angle = np.degrees(np.arctan2(measure.directions[:, 1], measure.directions[:, 0]))
    area = np.maximum(_LARGEST_DOT * size / size.max(initial=np.finfo(np.float64).tiny), _SMALLEST_DOT)
    for chosen, colour, label in ((mass > 0.0, UP, "bends up"), (mass < 0.0, DOWN, "bends down")):
        axes.scatter(
            angle[chosen],
            measure.offsets[chosen],
            s=area[chosen],
            color=colour,
            alpha=0.75,
            edgecolors="white",
            linewidths=0.6,
            label=f"{label}: {count(int(chosen.sum()))}, mass {decimal(float(size[chosen].sum()))}",
            zorder=3,
        )
    # The cylinder is cut at the vertical: its two edges are one direction, with offsets of opposite sign.
    for edge in (-90.0, 90.0):
        axes.axvline(edge, color=GRID, linewidth=1.2, zorder=1)
    axes.set_xlim(-96.0, 96.0)
    axes.set_xticks([-90.0, -45.0, 0.0, 45.0, 90.0], [f"{tick:g}\N{DEGREE SIGN}" for tick in (-90, -45, 0, 45, 90)])
    axes.set_xlabel("direction of w")
    beyond = np.abs(measure.offsets) > farthest
    near = measure.offsets[~beyond]
    if near.size:
        low, high = float(near.min()), float(near.max())
        margin = 0.12 * (high - low) or 0.1 * farthest
        axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("offset b" + (f", {count(int(beyond.sum()))} out of sight" if beyond.any() else ""))
    dress(axes)
    legend = axes.legend(
        frameon=False, labelcolor=INK, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0.2, fontsize=9
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[40.0])


def _farthest(axes: Axes) -> float:
    """Distance from the origin beyond which a hinge cannot be seen."""
    x, y = (np.abs(limits).max() for limits in (axes.get_xlim(), axes.get_ylim()))
    return float(np.hypot(x, y))


def _box(measure: RadonMeasure, samples: Vector | None) -> Box:
    """Limits with a margin: of the samples, or of the points of the hinges that are nearest to the origin."""
    points = measure.offsets[:, None] * measure.directions if samples is None else samples
    if not points.shape[0]:
        return (-1.0, 1.0, -1.0, 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * (high - low)
    if samples is None:
        # Hinges are seen from around, in a square.
        half = max(float((high - low).max()), 1e-3 * float(np.abs(points).max()), 1e-300) * 0.8
        margin = half - (high - low) / 2.0
    margin = np.where(margin + (high - low) > 0.0, margin, np.maximum(np.abs(low), 1.0) * 0.5)
    return (low[0] - margin[0], high[0] + margin[0], low[1] - margin[1], high[1] + margin[1])
