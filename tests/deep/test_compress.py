from __future__ import annotations

import copy
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathnorm.deep import compress, refit
from pathnorm.deep.moments import Moments
from pathnorm.errors import BudgetError, DataError, UnsupportedModelError

FAST = {"batch_size": 64}


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_half_the_parameters_beats_no_refit_and_meets_the_budget(kind, build, sample):
    model, data = build(kind), sample(kind, 400)
    made = compress(model, data, params=0.6, **FAST)
    record = made.record
    assert type(made.model) is type(model)
    assert sum(p.numel() for p in made.model.parameters()) == record.params_after
    finest = max(record.params_before / sum(group.width_before for group in record.groups), 1)
    assert 0.6 * record.params_before - 2 * finest <= record.params_after <= 0.6 * record.params_before
    with torch.no_grad():
        assert made.model(data[:5]).shape == model(data[:5]).shape
    assert record.output_error_heldout < 0.8
    for group in record.groups:
        assert group.dual <= group.primal and group.gap <= 1e-6
        assert group.width_lower_bound <= group.width_after <= group.width_before
        assert group.path_norm_lower_bound <= group.path_norm_after * (1 + 1e-6)
        assert len(group.error_curve) == group.width_lossless + 1
    json.loads(record.to_json())


@pytest.mark.parametrize("selector", ["backward", "forward", "lasso", "magnitude", lambda problem: problem.cost])
def test_every_selector_meets_the_macs_budget(selector, build, sample):
    made = compress(build("mlp"), sample("mlp", 300), macs=0.5, selector=selector, **FAST)
    assert made.record.macs_after <= 0.5 * made.record.macs_before
    assert made.record.selector == (selector if isinstance(selector, str) else "<lambda>")


def test_refitting_is_worth_it(build, sample):
    """The same neurons with their old output weights are much worse."""
    model, data = build("mlp"), sample("mlp", 500)
    made = compress(model, data, widths=0.5, **FAST)
    with torch.no_grad():
        truth = model(data)
        plain = copy.deepcopy(made.model)
        for index in (0, 2):
            rows = (
                [int(torch.isclose(model[index].weight[:, :1], row[:1]).nonzero()[0, 0]) for row in plain[index].weight]
                if index == 0
                else None
            )
            if rows is not None:
                plain[2].weight = nn.Parameter(model[2].weight[:, rows][: plain[2].out_features].clone())
        error = (made.model(data) - truth).norm() / (truth - truth.mean(0)).norm()
        worse = (plain(data) - truth).norm() / (truth - truth.mean(0)).norm()
    assert error < worse


def test_error_budget_holds_on_heldout_data_and_removes_something(build, sample):
    made = compress(build("mlp"), sample("mlp", 600), error=0.3, **FAST)
    assert made.record.output_error_heldout <= 0.3
    assert made.record.params_after < made.record.params_before


def test_redundant_neurons_cost_nothing(build, sample):
    model = build("mlp")
    with torch.no_grad():
        model[0].weight[10:] = 2.0 * model[0].weight[:10]
        model[0].bias[10:] = 2.0 * model[0].bias[:10]
    made = compress(model, sample("mlp", 400), widths={"0": 10}, **FAST)
    first = made.record.groups[0]
    assert (first.width_before, first.width_lossless, first.width_after) == (20, 10, 10)
    assert "budget: widths given for 1 of the groups" in str(made.record)
    assert made.record.output_error_heldout < 1e-4


def test_widths_round_to_multiples(build, sample):
    made = compress(build("chain"), sample("chain", 300), params=0.7, round_to=4, **FAST)
    assert all(group.width_after % 4 == 0 for group in made.record.groups)


def test_path_norm_cap_holds(build, sample):
    made = compress(build("mlp"), sample("mlp", 300), widths=0.3, path_norm_cap=0.4, **FAST)
    assert all(group.path_norm_after <= 0.4 * group.path_norm_before * (1 + 1e-9) for group in made.record.groups)


def test_same_seed_same_answer(build, sample):
    one, two = (compress(build("chain"), sample("chain", 300), params=0.6, seed=3, **FAST) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    )


def test_the_callers_model_data_and_random_state_are_untouched(build, sample):
    model, data = build("chain").train(), sample("chain", 300)
    model.conv1.weight.requires_grad_(False)
    model(data[:4]).sum().backward()
    calls = []
    handle = model.fc1.register_forward_hook(lambda *args: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    held, drawn = data.clone(), torch.get_rng_state()
    compress(model, data, params=0.6, **FAST)
    assert model.training and model.bn1.training and not model.conv1.weight.requires_grad
    assert torch.equal(drawn, torch.get_rng_state()) and torch.equal(held, data)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(grads[name], p.grad) for name, p in model.named_parameters() if name in grads)
    assert len(model.fc1._forward_hooks) == 1
    handle.remove()


def test_frozen_parameters_and_no_grad_make_no_difference(build, sample):
    data = sample("chain", 300)
    free = compress(build("chain"), data, params=0.6, **FAST)
    frozen_model = build("chain").requires_grad_(False)
    with torch.no_grad():
        frozen = compress(frozen_model, data, params=0.6, **FAST)
    assert frozen.record.params_after == free.record.params_after < free.record.params_before
    assert not any(p.requires_grad for p in frozen.model.parameters())
    torch.testing.assert_close(free.model(data[:3]), frozen.model(data[:3]))


def test_loaders_lists_and_arrays_are_data(build, sample):
    model, data = build("mlp"), sample("mlp", 320)
    labels = torch.arange(320) % 4
    loader = DataLoader(TensorDataset(data, labels), batch_size=40, shuffle=True)
    for given in (loader, [data[:160], data[160:]], data.numpy()):
        record = compress(model, given, widths=0.5, **FAST).record
        assert record.samples_calibration + record.samples_heldout == 320
        assert (record.accuracy_before is not None) == (given is loader)


def test_labels_are_only_reported(build, sample):
    model, data = build("mlp"), sample("mlp", 300)
    with torch.no_grad():
        labels = model(data).argmax(1).numpy()
    with_labels = compress(model, data, params=0.6, labels=labels, **FAST)
    without = compress(model, data, params=0.6, **FAST)
    assert with_labels.record.accuracy_before == 1.0
    assert with_labels.record.accuracy_after == with_labels.record.agreement_heldout
    assert without.record.accuracy_before is None
    assert torch.equal(with_labels.model(data), without.model(data))


def test_a_forward_that_states_its_width_is_refused_by_name(sample):
    class Stated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)).view(-1, 8))))

    made = compress(Stated(), sample("mlp", 200), params=0.9, **FAST)
    assert [group.name for group in made.record.groups] == ["b"]
    assert "does not run with another width" in {s.name: s.reason for s in made.record.skipped}["a"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Exactly one of params, .*accuracy_drop, .*Got none"),
        ({"params": 0.5, "macs": 0.5}, ValueError, "Got params, macs"),
        ({"params": 50}, ValueError, r"share in \(0, 1\]. Got 50"),
        ({"params": 0.5, "selector": "best"}, ValueError, "selector must be one of backward.*'best'"),
        ({"params": 0.5, "skip": ["fc"]}, ValueError, "Unknown: fc"),
        ({"params": 0.01}, BudgetError, "smallest reachable is 0.0"),
        ({"widths": {"7": 3}}, ValueError, "Unknown: \\['7'\\]"),
        ({"widths": {"0": 0}}, ValueError, "out of range: \\['0'\\]"),
        ({"params": 0.5, "labels": np.zeros(3)}, DataError, "300 samples, 3 labels"),
        ({"params": 0.5, "heldout": 1.0}, ValueError, "heldout"),
        ({"params": 0.5, "round_to": 0}, ValueError, "round_to"),
    ],
)
def test_bad_arguments(arguments, error, message, build, sample):
    with pytest.raises(error, match=message):
        compress(build("mlp"), sample("mlp", 300), **arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 6), "at least two samples"),
        (torch.zeros(1, 6), "at least two samples"),
        (torch.zeros(30, 6, dtype=torch.uint8), "floating point.*uint8"),
        (torch.full((300, 6), float("nan")), "NaN or Inf"),
        (torch.zeros(12, 6), "need at least"),
        ([], "list of batches"),
        (iter([torch.zeros(4, 6)]), "Turn an iterator into a list"),
        ({"x": 1}, "Turn an iterator|array, a tensor"),
        ([{"x": 1}, {"x": 2}], "A batch must be a tensor"),
    ],
)
def test_bad_data(data, message, build):
    with pytest.raises(DataError, match=message):
        compress(build("mlp"), data, params=0.5)


def test_a_model_without_interior_neurons_names_every_layer(sample):
    with pytest.raises(UnsupportedModelError, match=r"None of its layers qualifies.*: these are the model's outputs"):
        compress(nn.Sequential(nn.Linear(6, 3)), sample("mlp", 50), params=0.5)
    with pytest.raises(UnsupportedModelError, match="must have parameters"):
        compress(nn.ReLU(), sample("mlp", 50), params=0.5)


class Branches(nn.Module):
    """Sums of two branches, as RepVGG trains: all channels belong to sums."""

    def __init__(self, blocks=6):
        super().__init__()
        widths = (6, *[5] * blocks)
        self.a = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.b = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        for a, b in zip(self.a, self.b, strict=True):
            x = torch.relu(a(x) + b(x))
        return self.head(x)


def test_where_only_sums_can_be_cut_the_way_is_said(sample):
    message = r"\(a\.0, b\.0, a\.1 and 9 more: add .*\(residual stream\); head: .*\)\. Channels .* streams=True\.$"
    with pytest.raises(UnsupportedModelError, match=message):
        compress(Branches(), sample("mlp", 50), params=0.5)
    assert compress(Branches(), sample("mlp", 50), params=0.8, streams=True).record.params_after > 0
    with pytest.raises(UnsupportedModelError, match=r"qualifies \(head: these are the model's outputs\)\.$"):
        compress(nn.Sequential(OrderedDict(head=nn.Linear(6, 3))), sample("mlp", 50), params=0.5)


def test_a_layer_that_keeps_everything_behind_an_unchanged_prefix_keeps_its_weights(build, sample):
    model = build("mlp")
    made = compress(model, sample("mlp", 300), widths={"2": 7}, **FAST)
    assert torch.equal(made.model[0].weight, model[0].weight)
    first, second = made.record.groups
    assert first.width_after == first.width_before and first.error_calibration < 1e-4 < second.error_calibration


class Pooled(nn.Module):
    """One branch beside a stream, and a head on the mean over positions."""

    def __init__(self, outputs):
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(3, 60), nn.Linear(60, 12), nn.Linear(12, 60)
        self.head = nn.Linear(60, outputs)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def pooled(outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pooled(outputs).eval(), torch.randn(40, 9, 3, generator=torch.Generator().manual_seed(1))


def test_a_layer_that_is_only_repaired_needs_few_rows():
    """A head behind a mean over positions sees one row per sample, fewer than it has features."""
    record = compress(*pooled(2), widths={"up": 6}).record
    assert record.groups[0].width_after == 6 and record.output_error_heldout < 0.5


def test_a_layer_that_is_only_repaired_may_have_a_vocabulary_of_outputs(monkeypatch):
    """No products of its outputs are formed: of 50,257 words they would take 20 GB."""
    sizes = []
    add = Moments.add

    def noted(sums, features, targets):
        sizes.append((targets.shape[1], sums.outer.numel()))
        add(sums, features, targets)

    monkeypatch.setattr(Moments, "add", noted)
    made = compress(*pooled(300), widths={"up": 6})
    assert {outer for outputs, outer in sizes if outputs == 300} == {300}
    sizes.clear()
    refit(pooled(300)[0], made.model, pooled(300)[1])
    assert {outer for outputs, outer in sizes if outputs == 300} == {300}
