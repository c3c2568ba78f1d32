"""Figures of an audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pathnorm.report.audit import AuditRecord, GroupAudit
from pathnorm.report.plots import MOST_IN_LEGEND, MOST_NAMED, shades
from pathnorm.report.style import INK, PALETTE, dress, new_figure
from pathnorm.report.table import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["balance", "error_curves", "histograms", "overview", "ranks", "shares", "spectra", "widths"]

ALL, ACTIVE, FINE, COARSE = "#dfe3ea", "#a9b4c6", PALETTE[0], "#1c4f9c"

# Curves are drawn down to this, relative to their start.
_FLOOR = 1e-6
_BINS = 40


def overview(record: AuditRecord) -> Figure:
    """Return one figure with the widths, the balance, the shares of the path norm and the masses."""
    height = _height(record.groups)
    figure = new_figure(13.0, 2 * height)
    axes = figure.subplots(2, 2)
    _draw_widths(axes[0, 0], record.groups)
    _draw_balance(axes[0, 1], record.groups)
    _draw_shares(axes[1, 0], record.groups)
    _draw_curves(axes[1, 1], [(group.name, group.masses) for group in record.groups], "neuron", "mass")
    return figure


def widths(record: AuditRecord) -> Figure:
    """Return bars of each layer's neurons: all, active, and predicted for two errors, with the bound below them."""
    figure = new_figure(9.0, _height(record.groups))
    _draw_widths(figure.add_subplot(), record.groups)
    return figure


def shares(record: AuditRecord) -> Figure:
    """Return each layer's share of the path norm, and the Gini coefficient of its neurons' masses."""
    figure = new_figure(9.0, _height(record.groups))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    _draw_shares(left, record.groups)
    right.barh(range(len(record.groups)), [group.gini for group in record.groups], height=0.6, color=PALETTE[2])
    right.set_xlim(0, 1)
    right.set_xlabel("Gini coefficient")
    right.tick_params(left=False, labelleft=False)
    dress(right, along="x")
    return figure


def balance(record: AuditRecord) -> Figure:
    """Return the distribution of the balance of each layer's neurons."""
    figure = new_figure(9.0, _height(record.groups))
    _draw_balance(figure.add_subplot(), record.groups)
    return figure


def histograms(record: AuditRecord) -> Figure:
    """Return how the balance and the masses of all neurons of the network are distributed."""
    figure = new_figure(11.0, 3.2)
    left, right = figure.subplots(1, 2)
    counts = [sum(column) for column in zip(*(group.balance_counts for group in record.groups), strict=True)]
    step = 2.0 / len(counts)
    left.bar([-1.0 + step * (index + 0.5) for index in range(len(counts))], counts, width=0.9 * step, color=PALETTE[0])
    left.axvline(0.0, color=INK, linewidth=0.8)
    left.set_xlim(-1.04, 1.04)
    left.set_xlabel("balance")
    left.set_ylabel("neurons")
    masses = [mass for group in record.groups for mass in group.masses]
    top = max(masses, default=0.0)
    if top > 0.0:
        floor = max(min(mass for mass in masses if mass > 0.0), _FLOOR * top)
        span = max(math.log10(top / floor), 1.0)
        edges = [top * 10.0 ** (-span * (1.0 - index / _BINS)) for index in range(_BINS + 1)]
        # Those below the floor, zeros included, are in the first bin.
        right.hist([max(mass, edges[0]) for mass in masses], bins=edges, rwidth=0.9, color=PALETTE[2])
        right.set_xscale("log")
    right.set_xlabel("mass ||w|| ||v||")
    right.set_ylabel("neurons")
    for axes in (left, right):
        dress(axes, along="y")
        axes.yaxis.get_major_locator().set_params(integer=True)
    return figure


def spectra(record: AuditRecord) -> Figure:
    """Return the sorted masses of the neurons, and the singular values of the input weights, of each layer."""
    figure = new_figure(11.0, 3.9)
    left, right = figure.subplots(1, 2)
    _draw_curves(left, [(group.name, group.masses) for group in record.groups], "neuron", "mass")
    _draw_curves(
        right,
        [(group.name, group.input_singular_values) for group in record.groups],
        "direction",
        "singular value of the input weights",
    )
    return figure


def ranks(record: AuditRecord) -> Figure:
    """Return the effective ranks of features and outputs of each layer at two tolerances."""
    groups = [group for group in record.groups if group.reconstruction is not None]
    figure = new_figure(10.5, _height(groups))
    left, right = figure.subplots(1, 2, sharey=True)
    facts = [group.reconstruction for group in groups if group.reconstruction is not None]
    pairs = (
        (left, "Phi", [(fact.rank_features, fact.coarse_rank_features) for fact in facts]),
        (right, "Psi", [(fact.rank_outputs, fact.coarse_rank_outputs) for fact in facts]),
    )
    places = range(len(groups))
    for axes, name, values in pairs:
        if axes is left:
            sizes = [len(fact.error_curve) - 1 for fact in facts]
            total = [
                fact.features // max(group.width, 1) * size
                for fact, group, size in zip(facts, groups, sizes, strict=True)
            ]
            axes.barh(places, total, height=0.82, color=ALL, label="features of active neurons")
        fine, coarse = (f"at {value:.0e}" for value in (facts[0].rank_tolerance, facts[0].coarse_tolerance))
        axes.barh(places, [pair[0] for pair in values], height=0.56, color=ACTIVE, label=fine)
        axes.barh(places, [pair[1] for pair in values], height=0.3, color=FINE, label=coarse)
        axes.set_xlabel(f"rank of {name}")
        _dress_layers(axes, groups, named=axes is left)
        _legend_above(axes)
    return figure


def error_curves(record: AuditRecord) -> Figure:
    """Return the relative error of each layer against the share of its active neurons that are kept."""
    figure = new_figure(9.0, 3.9)
    axes = figure.add_subplot()
    drawn = [
        (group.name, fact.error_curve)
        for group in record.groups
        if (fact := group.reconstruction) is not None and len(fact.error_curve) > 1
    ]
    colours = shades(len(drawn))
    named = len(drawn) <= MOST_IN_LEGEND
    for colour, (name, curve) in zip(colours, drawn, strict=True):
        width = len(curve) - 1
        axes.plot(
            [kept / width for kept in range(width + 1)],
            curve,
            color=colour,
            linewidth=1.6 if named else 0.9,
            label=shorten(name, 24),
        )
    for error in (0.01, 0.05):
        axes.axhline(error, color=INK, linewidth=0.8, linestyle=(0, (5, 3)))
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.3)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of active neurons kept")
    axes.set_ylabel("relative error of the layer")
    dress(axes)
    _name_curves(axes, len(drawn))
    return figure


# ------------------------------------------------------------------------------ axes


def _draw_widths(axes: Axes, groups: Sequence[GroupAudit]) -> None:
    places = range(len(groups))
    axes.barh(places, [group.width for group in groups], height=0.84, color=ALL, label="all")
    axes.barh(places, [group.active for group in groups], height=0.62, color=ACTIVE, label="active")
    looked = [(place, fact) for place, group in enumerate(groups) if (fact := group.reconstruction) is not None]
    bound = 0
    for index, (height, colour) in enumerate(((0.42, FINE), (0.2, COARSE))):
        if not looked or index >= len(looked[0][1].predicted):
            break
        error = looked[0][1].predicted[index].error
        predicted = [fact.predicted[index].width for _, fact in looked]
        axes.barh(
            [place for place, _ in looked], predicted, height=height, color=colour, label=f"{100 * error:g} % error"
        )
        bound = index
    if looked:
        axes.plot(
            [fact.predicted[bound].lower_bound for _, fact in looked],
            [place for place, _ in looked],
            linestyle="none",
            marker="|",
            markersize=11 if len(groups) <= MOST_NAMED else 4,
            markeredgewidth=2,
            color=PALETTE[1],
            label=f"{100 * looked[0][1].predicted[bound].error:g} %: at least",
        )
    axes.set_xlabel("neurons")
    _dress_layers(axes, groups)
    _legend_above(axes)


def _draw_shares(axes: Axes, groups: Sequence[GroupAudit]) -> None:
    axes.barh(range(len(groups)), [100 * group.path_norm_share for group in groups], height=0.6, color=PALETTE[0])
    axes.set_xlabel("share of the path norm, %")
    _dress_layers(axes, groups)


def _draw_balance(axes: Axes, groups: Sequence[GroupAudit]) -> None:
    """A line over the range, a bar over the middle half, a tick at the median."""
    few = len(groups) <= MOST_NAMED
    for place, group in enumerate(groups):
        low, _, first, median, third, _, high = group.balance
        axes.plot([low, high], [place, place], color=ACTIVE, linewidth=1.4 if few else 0.7, solid_capstyle="butt")
        axes.barh(place, third - first, left=first, height=0.5, color=PALETTE[0], zorder=2.5)
        axes.plot([median], [place], marker="|", markersize=11 if few else 4, markeredgewidth=2, color=INK, zorder=3)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_xlim(-1.04, 1.04)
    axes.set_xlabel("balance: (in - out) / (in + out) of the squared weights")
    _dress_layers(axes, groups)


def _draw_curves(axes: Axes, curves: Sequence[tuple[str, Sequence[float]]], what: str, value: str) -> None:
    """One sorted curve per layer, relative to its largest value, against the share of its entries."""
    colours = shades(len(curves))
    named = len(curves) <= MOST_IN_LEGEND
    for colour, (name, values) in zip(colours, curves, strict=True):
        top = max(values, default=0.0)
        if top <= 0.0:
            continue
        places = [(index + 1) / len(values) for index in range(len(values))]
        relative = [item / top if item > _FLOOR * top else float("nan") for item in values]
        axes.plot(
            places,
            relative,
            color=colour,
            linewidth=1.6 if named else 0.9,
            marker="o" if len(values) == 1 else None,
            label=shorten(name, 24),
        )
    axes.set_yscale("log")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(top=1.4)
    if axes.get_ylim()[0] > 0.05:
        axes.set_ylim(bottom=0.05)
    axes.set_xlabel(f"{what}, largest first, as a share of all")
    axes.set_ylabel(f"{value}, relative")
    dress(axes)
    _name_curves(axes, len(curves))


# ------------------------------------------------------------------------------ style


def _height(groups: Sequence[GroupAudit]) -> float:
    per_layer = 0.42 if len(groups) <= MOST_NAMED else 0.11
    return max(2.6, 1.2 + per_layer * len(groups))


def _dress_layers(axes: Axes, groups: Sequence[GroupAudit], *, named: bool = True) -> None:
    """Layers from top to bottom, with their names where there is room for them."""
    axes.set_ylim(len(groups) - 0.4, -0.6)
    if len(groups) <= MOST_NAMED:
        if named:
            axes.set_yticks(list(range(len(groups))), [shorten(group.name, 26) for group in groups])
        else:
            axes.tick_params(labelleft=False)
    elif named:
        axes.set_ylabel("layer, in forward order")
    dress(axes, along="x")


def _legend_above(axes: Axes) -> None:
    bars, names = axes.get_legend_handles_labels()
    # Lines are listed before bars, whatever was drawn first.
    order = sorted(range(len(names)), key=lambda index: "at least" in names[index])
    axes.legend(
        [bars[index] for index in order],
        [names[index] for index in order],
        frameon=False,
        labelcolor=INK,
        ncols=5,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderpad=0.2,
        columnspacing=1.2,
    )


def _name_curves(axes: Axes, number: int) -> None:
    if 0 < number <= MOST_IN_LEGEND:
        axes.legend(frameon=False, labelcolor=INK, loc="lower left", fontsize=8)
    elif number:
        axes.set_title(f"{number} layers, first (light) to last (dark)", color=INK, fontsize=9, loc="left")
