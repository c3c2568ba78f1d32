"""Figures: what is drawn, and that nothing global is touched."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys

import pytest

from pathnorm.report import plots, style


@pytest.mark.parametrize("n_groups", [1, 5, 55])
@pytest.mark.parametrize("frontiers", [True, False])
def test_every_figure_can_be_drawn(make_record, n_groups, frontiers):
    record = make_record(n_groups, frontiers=frontiers)
    figure = plots.overview(record)
    assert len(figure.axes) == (4 if frontiers else 2)
    figure.savefig(io.BytesIO(), format="png")
    plots.error_curves(record).savefig(io.BytesIO(), format="png")


def test_the_bars_are_the_widths(make_record):
    record = make_record(3)
    axes = plots.widths(record).axes[0]
    lengths = [bar.get_width() for bar in axes.patches]
    assert lengths == [g.width_before for g in record.groups] + [g.width_after for g in record.groups]


def test_the_chosen_width_is_marked_on_its_curve(make_record):
    record = make_record(1)
    group = record.groups[0]
    mark = plots.error_curves(record).axes[0].lines[1]
    assert mark.get_xdata()[0] == group.width_after / group.width_before
    assert mark.get_ydata()[0] == group.error_curve[group.width_after]


def test_no_selector_is_drawn_below_the_bound(make_record):
    left, right = plots.frontier(make_record()).axes
    *selectors, bound = left.lines
    for line in selectors:
        assert all(a >= b for a, b in zip(line.get_ydata(), bound.get_ydata(), strict=True))
    assert len(right.lines) == len(selectors) == 3


def test_a_bound_of_zero_is_not_drawn_on_the_edge(make_record):
    record = make_record()
    items = tuple(
        dataclasses.replace(item, bound=(*item.bound[:-1], 0.0), errors=(*item.errors[:-1], 0.0))
        for item in record.frontiers
    )
    figure = plots.frontier(dataclasses.replace(record, frontiers=items))
    last = figure.axes[0].lines[-1].get_ydata()[-1]
    assert last != last  # nan: left out
    figure.savefig(io.BytesIO(), format="png")


def test_a_frontier_that_is_not_there_is_refused_by_name(make_record):
    with pytest.raises(ValueError, match=r"'nowhere'.*'features\.0'"):
        plots.frontier(make_record(), group="nowhere")
    with pytest.raises(ValueError, match="no layer"):
        plots.frontier(make_record(frontiers=False))


def test_the_dense_network_is_a_reference_line(points):
    axes = plots.accuracy_against_params(points).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["pathnorm", "magnitude + BN", "dense"]
    assert axes.lines[0].get_xdata().tolist() == [11_350, 28_400, 56_900]


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="At least one"):
        plots.accuracy_against_params([])


def test_a_figure_becomes_one_svg_element_without_its_own_ink(make_record):
    svg = style.inline_svg(plots.widths(make_record(2)))
    assert svg.startswith("<svg")
    assert svg.count("<svg") == svg.count("</svg>") == 1
    assert "currentColor" in svg
    assert style.INK not in svg
    assert style.GRID not in svg


def test_drawing_leaves_the_settings_of_matplotlib_alone(make_record, points):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    style.inline_svg(plots.accuracy_against_params(points))
    plots.overview(make_record()).savefig(io.BytesIO(), format="png")
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_imported():
    code = "import sys, pathnorm.report.plots as p; p.new_figure(1, 1)\n"
    code += "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
