from __future__ import annotations

import copy
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pathnorm.deep import compress, frontier
from pathnorm.deep.reduce import _probes, predicted_curves
from pathnorm.errors import BudgetError

FAST = {"batch_size": 64}
# Measured errors were 0.9 to 1.2 times the predicted ones over three seeds of this network.
FACTOR = 1.5


@pytest.fixture(scope="module")
def trained():
    """A network that was trained on a smooth function, and inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
        inputs = torch.rand(1500, 5) * 2.0 - 1.0
        targets = torch.stack([torch.sin(3.0 * inputs[:, 0]) * inputs[:, 1], inputs[:, 2:].square().sum(1)], 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
    assert float(loss.detach()) < 0.01
    return model.eval(), inputs


@pytest.fixture(scope="module")
def found(trained):
    return frontier(*trained, points=10, **FAST)


def of(found, name):
    return [point for point in found.points if point.budget == name]


def test_points_go_from_the_whole_network_to_one_neuron_per_group(found):
    for name in ("params", "macs"):
        points = of(found, name)
        assert points[0].widths == {"0": 40, "2": 30} and points[0].error == 0.0 and getattr(points[0], name) == 1.0
        assert set(points[-1].widths.values()) == {1}
        for larger, smaller in itertools.pairwise(points):
            assert getattr(smaller, name) < getattr(larger, name) and smaller.error > larger.error


def test_shares_are_those_of_the_networks(found):
    for point in found.points:
        one, two = point.widths["0"], point.widths["2"]
        assert point.macs * found.record.macs_full == pytest.approx(5 * one + one * two + 2 * two)
        params = 6 * one + (one + 1) * two + 2 * (two + 1)
        assert point.params * found.record.params_full == pytest.approx(params)


def test_errors_are_sums_of_squares_of_the_groups_curves(found):
    point = of(found, "params")[4]
    squares = [float(curve[width]) for curve, width in zip(found.curves, point.widths.values(), strict=True)]
    assert point.error == pytest.approx(sum(squares) ** 0.5)
    assert [curve.size for curve in found.curves] == [41, 31]
    for curve in found.curves:
        assert (np.diff(curve) <= 0.0).all()


def test_predicted_errors_are_of_the_size_of_measured_ones(trained, found):
    for share in (0.6, 0.35, 0.15):
        point = found.at(params=share)
        measured = compress(*trained, widths=point.widths, **FAST).record.output_error_heldout
        assert point.error / FACTOR < measured < FACTOR * point.error


def test_widths_are_those_that_compress_chooses(trained, found):
    for budget in ({"params": 0.4}, {"macs": 0.3}):
        made = compress(*trained, **budget, **FAST).record
        point = found.at(**budget)
        assert {group.name: group.width_after for group in made.groups} == point.widths
        assert point.params == pytest.approx(made.params_after / made.params_before)
        assert point.macs == pytest.approx(made.macs_after / made.macs_before)


def test_curves_are_those_that_compress_computes(trained, found, monkeypatch):
    seen = []

    def spy(*args, **kwargs):
        seen.append(predicted_curves(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr("pathnorm.deep.budget.predicted_curves", spy)
    compress(*trained, params=0.5, **FAST)
    for one, other in zip(found.curves, *seen, strict=True):
        np.testing.assert_array_equal(one, other)


def test_budgets_hold_and_are_used(found):
    for share in (0.9, 0.5, 0.2):
        assert share - 0.05 < found.at(params=share).params <= share
        assert share - 0.05 < found.at(macs=share).macs <= share
    errors = [found.at(error=error) for error in (0.3, 0.1, 0.03)]
    assert all(point.error <= error for point, error in zip(errors, (0.3, 0.1, 0.03), strict=True))
    assert errors[0].macs < errors[1].macs < errors[2].macs < 1.0
    assert errors[0].error > 0.2


def test_compress_makes_the_network_of_a_point(trained, found):
    point = of(found, "macs")[5]
    made = found.compress(point, selector="magnitude")
    same = compress(*trained, widths=point.widths, selector="magnitude", **FAST)
    assert made.record.selector == "magnitude"
    assert {group.name: group.width_after for group in made.record.groups} == point.widths
    pairs = zip(made.model.state_dict().values(), same.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_lossless_removal_takes_costs_nothing(trained):
    model, inputs = trained
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight[20:], model[0].bias[20:] = 2.0 * model[0].weight[:20], 2.0 * model[0].bias[:20]
    whole = of(frontier(model, inputs, points=3, **FAST), "params")[0]
    assert whole.widths == {"0": 20, "2": 30} and whole.error == 0.0 and whole.params < 0.8


def test_rounding_and_skipping(trained):
    found = frontier(*trained, points=6, round_to=4, skip=["2"], **FAST)
    assert found.record.widths_full == {"0": 40}
    assert all(point.widths["0"] % 4 == 0 for point in (*found.points, found.at(params=0.7), found.at(error=0.1)))
    assert {item.name for item in found.record.skipped} == {"2", "4"}


def test_networks_with_convolutions_and_streams(build, sample):
    model = build("residual")
    before = copy.deepcopy(model.state_dict())
    data, drawn = sample("residual", 300), torch.get_rng_state()
    found = frontier(model, data, points=5, **FAST)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert torch.equal(drawn, torch.get_rng_state())
    made = found.compress(found.at(macs=0.6))
    assert made.record.macs_after <= 0.6 * made.record.macs_before


def test_budgets_are_evenly_spaced(build, sample):
    """Here a neuron's share of the parameters is not its share of the multiply-accumulates."""
    found = frontier(build("chain"), sample("chain", 300), points=5, **FAST)
    for name in ("params", "macs"):
        shares = [getattr(point, name) for point in of(found, name)]
        budgets = np.linspace(1.0, shares[-1], 5)
        assert all(budget - 1.0 / 15 < share <= budget + 1e-12 for share, budget in zip(shares, budgets, strict=True))


def test_columns_json_text_and_figure(found):
    columns = found.columns()
    assert list(columns) == ["budget", "params", "macs", "error", "width:0", "width:2"]
    assert {len(column) for column in columns.values()} == {len(found.points)}
    assert columns["width:2"][3] == found.points[3].widths["2"]
    data = json.loads(found.to_json())
    assert data["points"][2] == {
        "budget": "params",
        **{name: getattr(found.points[2], name) for name in ("params", "macs", "error", "widths")},
    }
    lines = str(found).splitlines()
    assert len(lines) > len(found.points) and max(map(len, lines)) <= 100
    pytest.importorskip("matplotlib")
    figure = found.plot()
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("parameters left, %", "multiply-accumulates left, %")
    for axes, name, index in ((left, "params", 0), (right, "macs", 1)):
        points = [point for point in of(found, name) if point.error > 0.0]
        drawn = axes.lines[index]
        assert list(drawn.get_xdata()) == pytest.approx([100 * getattr(point, name) for point in points])
        assert list(drawn.get_ydata()) == pytest.approx([100 * point.error for point in points])


def test_arguments_out_of_range_are_refused(trained, found):
    for wrong in ({}, {"params": 0.5, "macs": 0.5}, {"params": 0.0}, {"error": 1.5}):
        with pytest.raises(ValueError, match="Exactly one of params, macs and error"):
            found.at(**wrong)
    with pytest.raises(BudgetError, match=r"params <= 0\.0010 .* smallest reachable"):
        found.at(params=0.001)
    for wrong in ({"points": 1}, {"round_to": 0}, {"heldout": 0.0}, {"outputs": "classes"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            frontier(*trained, **wrong)


def test_a_large_network_is_probed_with_fewer_samples():
    batches = [torch.zeros(30, 2), torch.zeros(30, 2), torch.zeros(30, 2), torch.zeros(30, 2)]
    setup = SimpleNamespace(
        neurons=SimpleNamespace(groups=[SimpleNamespace(width=4), SimpleNamespace(width=4)]),
        calibration=SimpleNamespace(first=lambda count: batches[:count]),
    )
    for macs, sizes in ((1.0, [30, 30, 30]), (5e12 / 3 / 40.5, [30, 10]), (1e12, [16])):
        found = _probes(setup, lambda widths, macs=macs: macs)
        assert [batch.shape[0] for batch in found] == sizes
