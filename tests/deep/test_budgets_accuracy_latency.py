"""Budgets that have to be measured: points of accuracy, and milliseconds from a clock of the test's own."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathnorm.deep import compress
from pathnorm.deep.data import split_batches
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.latency import LatencyTable, latency_table, measure_ms
from pathnorm.deep.trial import halves
from pathnorm.errors import BudgetError, DataError

FAST = {"batch_size": 64}
CPU = torch.device("cpu")


@pytest.fixture
def labelled(build, sample):
    """A network, inputs, and labels that it mostly gets right."""

    def make(n=800, noise=0.1):
        model, data = build("mlp"), sample("mlp", n)
        with torch.no_grad():
            model[4].bias -= model(data).mean(0)  # every class is the answer for some
            labels = model(data).argmax(1)
        rng = np.random.default_rng(0)
        wrong = torch.from_numpy(rng.random(n) < noise)
        return model, data, torch.where(wrong, (labels + 1) % 4, labels)

    return make


def _macs_in_us(models, batch):
    """A clock: one ms, and one for every hundred weights that a sample meets."""
    return [1.0 + sum(p.numel() for p in model.parameters()) * batch.shape[0] / 100.0 for model in models]


@pytest.fixture
def clock(monkeypatch):
    """Let compress measure with ``clock.measure``; note what was measured."""

    clock = SimpleNamespace(measure=_macs_in_us, batches=[])

    def measure(models, batch):
        clock.batches.append(batch.shape[0])
        return clock.measure(models, batch)

    monkeypatch.setattr(importlib.import_module("pathnorm.deep.compress"), "measure_ms", measure)
    return clock


# ------------------------------------------------------------------------------ accuracy


def _correct(model, data, labels):
    with torch.no_grad():
        return float((model(data).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("drop", [0.0, 2.0, 10.0])
def test_the_drop_on_the_samples_of_the_choice_is_at_most_the_budget(drop, labelled):
    model, data, labels = labelled()
    made = compress(model, data, accuracy_drop=drop, labels=labels, heldout=0.5, **FAST)
    check = made.record.check
    _, held = split_batches(data, labels, heldout=0.5, batch_size=64, seed=0, device=CPU)
    search, report = (torch.cat([part for chunk in half.chunks for part in [chunk]]) for half in halves(held))
    before, after = (_correct(net, data[search], labels[search]) for net in (model, made.model))
    assert (check.name, check.samples) == ("accuracy_drop", search.numel())
    assert (check.before, check.after) == (before, after)
    assert 100 * (before - after) <= drop + 1e-9
    assert check.change_interval[0] <= after - before <= check.change_interval[1]
    before, after = (_correct(net, data[report], labels[report]) for net in (model, made.model))
    assert (made.record.accuracy_before, made.record.accuracy_after) == (before, after)
    assert made.record.samples_heldout == report.numel()
    assert "has not seen" in check.note and "optimistic" in check.note
    assert made.record.budget == {"accuracy_drop": drop}
    assert made.record.params_after < made.record.params_before or drop == 0.0


def test_a_larger_drop_leaves_a_smaller_network(labelled):
    model, data, labels = labelled()
    sizes = [
        compress(model, data, accuracy_drop=drop, labels=labels, heldout=0.5, **FAST).record.macs_after
        for drop in (1.0, 8.0, 40.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_drop_that_everything_stays_below_keeps_one_neuron_per_group(labelled):
    model, data, labels = labelled(400)
    record = compress(model, data, accuracy_drop=99.0, labels=labels, **FAST).record
    assert [group.width_after for group in record.groups] == [1, 1]
    assert record.check.rounds <= 8


def test_labels_of_a_loader_are_labels(labelled):
    model, data, labels = labelled(400)
    loader = DataLoader(TensorDataset(data, labels), batch_size=40)
    record = compress(model, loader, accuracy_drop=5.0, heldout=0.4).record
    assert record.check.samples == record.samples_heldout == 80


def test_accuracy_needs_labels_and_one_score_per_class(labelled, build, sample):
    model, data, labels = labelled(200)
    with pytest.raises(ValueError, match=r"one class per sample.*without labels"):
        compress(model, data, accuracy_drop=1.0, **FAST)
    with pytest.raises(DataError, match=r"one class index per sample.*float"):
        compress(model, data, accuracy_drop=1.0, labels=labels.double(), **FAST)
    images = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    with pytest.raises(ValueError, match=r"outputs of shape \(N, classes\)"):
        compress(images, sample("chain", 100), accuracy_drop=1.0, labels=torch.zeros(100, dtype=int), **FAST)
    for wrong in (-0.1, 100.0):
        with pytest.raises(ValueError, match="percentage points"):
            compress(model, data, accuracy_drop=wrong, labels=labels, **FAST)


def test_halves_share_nothing_and_leave_nothing_out():
    held = split_batches(torch.randn(101, 3), heldout=0.5, batch_size=16, seed=0, device=CPU)[1]
    one, two = (torch.cat(list(part.chunks)) for part in halves(held))
    assert abs(one.numel() - two.numel()) <= len(held)
    assert sorted(torch.cat([one, two]).tolist()) == sorted(torch.cat(list(held.chunks)).tolist())
    whole = [part.chunks for part in halves(held, divide=False)]
    assert sum(map(len, whole)) == len(held) and all(len(chunk) == 16 for chunk in whole[0])
    single = split_batches([torch.randn(4, 3)] * 2, heldout=0.5, batch_size=1, seed=0, device=CPU)[1]
    with pytest.raises(DataError, match="Got one"):
        halves(single)


# ------------------------------------------------------------------------------ latency


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
def test_the_network_fits_the_time_and_uses_it(share, build, sample, clock):
    model = build("mlp")
    limit = share * _macs_in_us([model], torch.zeros(1, 6))[0]
    record = compress(model, sample("mlp", 300), latency_ms=limit, **FAST).record
    assert 0.85 * limit <= record.latency_ms_after <= limit < record.latency_ms_before
    assert (record.check.name, record.check.samples, record.latency_batch) == ("latency_ms", 1, 1)
    assert record.check.after == record.latency_ms_after
    assert set(clock.batches) == {1}
    assert record.budget == {"latency_ms": limit}


def test_the_time_counts_for_the_batch_that_is_asked_for(build, sample, clock):
    record = compress(build("mlp"), sample("mlp", 300), latency_ms=100.0, latency_batch=70, **FAST).record
    assert set(clock.batches) == {70} and record.latency_batch == 70
    assert record.latency_ms_after <= 100.0 < record.latency_ms_before


def test_a_budget_that_is_met_already_removes_nothing_and_says_so(build, sample, clock):
    record = compress(build("mlp"), sample("mlp", 300), latency_ms=6.0, **FAST).record
    assert record.params_after == record.params_before
    assert "The given network meets the budget as well" in record.check.note


def test_only_what_costs_time_is_removed(build, sample, clock):
    clock.measure = lambda models, batch: [1.0 + model[2].out_features / 14 for model in models]
    record = compress(build("mlp"), sample("mlp", 300), latency_ms=1.5, **FAST).record
    assert [group.width_after for group in record.groups] == [20, 7]


def _slower(model, factor):
    """A clock for which reduced weights take more time than the networks that widths are tried on."""

    def refitted(net):
        return not torch.equal(net[4].weight, model[4].weight[:, : net[4].in_features])

    def measure(models, batch):
        times = _macs_in_us(models, batch)
        return [t * (factor if refitted(net) else 1.0) for t, net in zip(times, models, strict=True)]

    return measure


def test_a_slower_real_network_makes_the_widths_tighter(build, sample, clock):
    model = build("mlp")
    clock.measure = _slower(model, 1.3)
    made = compress(model, sample("mlp", 300), latency_ms=4.0, **FAST)
    assert 3.4 < made.record.latency_ms_after <= 4.0
    assert _macs_in_us([made.model], torch.zeros(1, 6))[0] < 3.2


def test_a_time_that_cannot_be_reached_is_refused_with_what_can(build, sample, clock):
    model, data = build("mlp"), sample("mlp", 300)
    with pytest.raises(BudgetError, match=r"latency_ms <= 0.5 for 1 samples; with the fewest neurons they take 1"):
        compress(model, data, latency_ms=0.5, **FAST)
    clock.measure = _slower(model, 50.0)
    with pytest.raises(BudgetError, match=r"after 2 reductions they take \d+\.?\d* ms"):
        compress(model, data, latency_ms=4.0, **FAST)
    with pytest.raises(ValueError, match="positive time"):
        compress(model, data, latency_ms=0.0, **FAST)
    with pytest.raises(ValueError, match="latency_batch"):
        compress(model, data, latency_ms=1.0, latency_batch=0, **FAST)


def _table(build, sample, measure, kind="mlp"):
    model, batch = build(kind), sample(kind, 4)
    graph, state = trace(model, batch), state_of(model)
    groups = find_neurons(graph, state, batch).groups
    return latency_table(model, state, groups, batch, smallest=[1] * len(groups), measure=measure), groups


def test_the_table_is_exact_for_times_that_add_up(build, sample):
    def measure(models, batch):
        return [2.0 + 0.1 * model[0].out_features + 0.3 * model[2].out_features for model in models]

    table, _ = _table(build, sample, measure)
    assert table.full_ms == pytest.approx(2.0 + 2.0 + 4.2)
    for widths in ([20, 14], [1, 14], [20, 1], [7, 9], [13, 2]):
        assert table(widths) == pytest.approx(2.0 + 0.1 * widths[0] + 0.3 * widths[1], rel=1e-3)
        np.testing.assert_allclose(table.marginal(np.array(widths)), [0.1, 0.3], rtol=1e-2)


def test_the_table_is_exact_where_all_groups_keep_the_same_share(build, sample):
    """Times of layers between two groups do not add up: both groups claim them."""
    table, groups = _table(build, sample, _macs_in_us)
    for share in (0.25, 0.5, 0.75):
        widths = [max(round(share * group.width), 1) for group in groups]
        exact = 1.0 + 4 * (6 * widths[0] + widths[0] + widths[0] * widths[1] + widths[1] + 4 * widths[1] + 4) / 100
        assert table(widths) == pytest.approx(exact, rel=1e-3)


def test_a_width_that_happens_to_be_slow_leaves_the_table_monotone(build, sample):
    def measure(models, batch):
        times = _macs_in_us(models, batch)
        return [t + 8.0 * (net[2].out_features == 7) for t, net in zip(times, models, strict=True)]

    table, groups = _table(build, sample, measure)
    for index, group in enumerate(groups):
        full = [other.width for other in groups]
        times = []
        for width in range(1, group.width + 1):
            full[index] = width
            times.append(table(full))
        assert (np.diff(times) > 0).all()
        assert (table.marginal(np.array(full)) > 0).all()


def test_a_staircase_is_followed_from_the_side_that_is_dearer():
    table = LatencyTable(10.0, (np.array([2.0, 4.0, 8.0]),), (np.array([5.0, 4.0, 0.0]),))
    assert [table([k]) for k in (2, 3, 4, 6, 8)] == [5.0, 5.5, 6.0, 8.0, 10.0]
    assert [table.marginal(np.array([k]))[0] for k in (2, 3, 4, 5, 8)] == [0.5, 0.5, 1.0, 1.0, 1.0]


def test_times_are_medians_after_a_warm_up_with_runs_in_turn():
    order = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            assert torch.is_inference_mode_enabled()
            order.append(self.name)
            return x

    ticks = iter(np.cumsum([0.0] + [9.0, 0.0, 9.0, 0.0] + [1.0, 0.0, 5.0, 0.0] * 2 + [7.0, 0.0, 5.0, 0.0]))
    times = measure_ms([Named("a"), Named("b")], torch.zeros(1), repeats=3, warm_up=1, clock=lambda: float(next(ticks)))
    assert order == ["a", "b"] * 4
    assert times == [1000.0, 5000.0]
