"""The plan says beforehand what the work then does: bytes, passes, groups and costs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pathnorm.deep import budget, compress, moments, reduce, replay
from pathnorm.deep.plan import moment_bytes, plan
from pathnorm.errors import UnsupportedModelError
from pathnorm.report.numbers import byte_size

FAST = {"batch_size": 64}
DOCS = Path(__file__).parents[2] / "docs" / "compress.md"


def _bytes(sums):
    parts = (sums.count, sums.features, sums.targets, sums.gram, sums.cross, sums.outer)
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("kind", ["chain", "branching", "mlp"])
def test_the_estimate_is_what_is_allocated(kind, build, sample, monkeypatch):
    made, held = [], []
    zeros, collect = moments.Moments.zeros.__func__, reduce.collect

    def counted(cls, *args, **options):
        made.append(zeros(cls, *args, **options))
        return made[-1]

    def one_pass(*args, **options):
        made.clear()
        found = collect(*args, **options)
        held.append(sum(map(_bytes, made)))
        return found

    monkeypatch.setattr(moments.Moments, "zeros", classmethod(counted))
    monkeypatch.setattr(reduce, "collect", one_pass)
    facts = []
    describe = importlib.import_module("pathnorm.deep.describe")._group_record
    monkeypatch.setattr(
        "pathnorm.deep.describe._group_record", lambda setup, fact, at: facts.append(fact) or describe(setup, fact, at)
    )
    model, data = build(kind), sample(kind, 400)
    found = plan(model, data, **FAST)
    compress(model, data, params=0.7, **FAST)
    kept = [fact.problem.gram.nbytes + fact.problem.cross.nbytes + fact.problem.outer.nbytes for fact in facts]
    assert kept == [group.problem_bytes for group in found.groups] and sum(kept) == found.problem_bytes
    assert held[0] == found.moment_bytes == sum(group.moment_bytes for group in found.groups)
    assert held[found.passes_predict : found.passes_predict + 1] == [found.groups[0].moment_bytes]
    assert set(held[found.passes_predict :]) >= {group.moment_bytes for group in found.groups}
    assert len(held) <= found.passes_predict + found.passes_reduce + found.passes_repair


@pytest.mark.parametrize("streams", [False, True])
def test_one_reduction_takes_no_more_passes_than_planned(streams, build, sample, monkeypatch):
    passes = []
    collect = reduce.collect
    monkeypatch.setattr(reduce, "collect", lambda *args, **options: passes.append(1) or collect(*args, **options))
    model, data = build("residual"), sample("residual", 300)
    found = plan(model, data, streams=streams, **FAST)
    compress(model, data, widths=0.7, streams=streams, **FAST)
    assert found.passes_reduce == len(found.groups) < len(passes) <= found.passes_reduce + found.passes_repair


@pytest.mark.parametrize("limit", [1, 9 * 20**2, 10**9])
def test_the_byte_limit_decides_the_passes(limit, build, sample, monkeypatch):
    passes = []
    collect = reduce.collect

    def one_pass(*args, **options):
        passes.append(sum(_bytes(sums) for sums in collect(*args, **options)))
        return collect(*args, **options)

    monkeypatch.setattr(budget, "MOMENT_BYTES", limit)
    monkeypatch.setattr(importlib.import_module("pathnorm.deep.plan"), "MOMENT_BYTES", limit)
    monkeypatch.setattr(reduce, "collect", one_pass)
    model, data = build("mlp"), sample("mlp", 300)
    found = plan(model, data, **FAST)
    assert found.passes_predict == (2 if limit < 10**9 else 1)
    compress(model, data, params=0.7, **FAST)
    assert max(passes[: found.passes_predict]) == found.moment_bytes
    assert passes[found.passes_predict] == found.groups[0].moment_bytes


@pytest.mark.parametrize("kind", ["residual", "mlp"])
def test_the_cache_stays_below_the_estimate_and_comes_near_it(kind, build, sample, monkeypatch):
    most = []
    sweep = replay.Replay.sweep

    def watched(self, *args, **options):
        yield from sweep(self, *args, **options)
        most.append(sum(map(replay._bytes, self._cache.values())))

    monkeypatch.setattr(replay.Replay, "sweep", watched)
    model, data = build(kind), sample(kind, 400)
    found = plan(model, data, **FAST)
    compress(model, data, widths=0.5, **FAST)
    assert 0.5 * found.cache_bytes <= max(most) <= found.cache_bytes
    assert found.samples == 320


def test_groups_and_costs_are_those_of_the_record(build, sample):
    model, data = build("residual"), sample("residual", 300)
    found, record = plan(model, data, **FAST), compress(model, data, params=0.8, **FAST).record
    assert [(g.name, g.width, g.consumers) for g in found.groups] == [
        (g.name, g.width_before, g.consumers) for g in record.groups
    ]
    assert found.skipped == record.skipped
    assert (found.params, found.macs) == (record.params_before, record.macs_before)
    assert found.samples == record.samples_calibration
    for group, layer in zip(found.groups, (model.blocks[0].conv2, model.blocks[1].conv2), strict=True):
        assert group.features == (90,) and group.outputs == (6,)
        assert group.gram_bytes == 8 * 90**2 and layer.weight[0].numel() == 90


def test_compress_tells_its_plan_first(build, sample):
    model, data = build("mlp"), sample("mlp", 300)
    told = []
    compress(model, data, params=0.8, on_plan=told.append, progress=lambda *stage: told.append(stage), **FAST)
    assert told[0] == plan(model, data, **FAST)
    assert not any(type(item) is type(told[0]) for item in told[1:])


def test_nothing_but_two_samples_is_run_and_no_data_loaded(build, sample):
    class Watched(Dataset):
        read: set[int]

        def __len__(self):
            return 300

        def __getitem__(self, index):
            self.read.add(index)
            return sample("mlp", 300)[index]

    data = Watched()
    data.read = set()
    found = plan(build("mlp"), DataLoader(data, batch_size=10))
    assert found.samples == 240 and found.batches == 24
    assert len(data.read) == 10
    sizes = []
    model = build("mlp")
    model.register_forward_hook(lambda module, args, result: sizes.append(args[0].shape[0]))
    plan(model, sample("mlp", 300))
    assert sizes == []  # the caller's model is not even run


def test_a_few_samples_will_do(build, sample):
    few, many = (plan(build("mlp"), sample("mlp", n)) for n in (2, 300))
    assert (few.groups, few.skipped, few.params, few.macs) == (many.groups, many.skipped, many.params, many.macs)


def test_the_plan_prints_fits_a_terminal_and_is_json(build, sample):
    found = plan(build("residual"), sample("residual", 300))
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()
    assert "blocks.0.conv1" in text and "left alone" in text and "64.8 kB" in text
    assert json.loads(found.to_json())["groups"][0]["features"] == [90]
    assert found.line().startswith("2 groups; moments 140 kB at once") and "\n" not in found.line()


def test_a_network_without_neurons_is_refused(sample):
    with pytest.raises(UnsupportedModelError, match="None of its layers qualifies"):
        plan(nn.Sequential(nn.Linear(6, 3)), sample("mlp", 50))


def test_the_figures_in_the_docs_are_those_of_the_functions():
    """A network shaped like LLaMA-7B: 32 layers, 4096 wide, 11008 neurons between them."""
    neurons, layer = torch.arange(11008), SimpleNamespace(geometry=None)
    groups = [SimpleNamespace(consumers=[SimpleNamespace(layer=layer, neurons=neurons)]) for _ in range(32)]
    parts = reduce.parts_within(groups, budget.MOMENT_BYTES)
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    assert len(parts) == 16 and "16 passes" in text
    assert f"{8 * 11008**2 / 1e9:.2f} GB" in text
    assert f"{moment_bytes(11008, 4096) / 1e9:.2f} GB" in text
    assert f"{len(parts[0]) * moment_bytes(11008, 4096) / 1e9:.2f} GB" in text
    results = DOCS.parents[1] / "benchmarks" / "results" / "scale.json"
    if results.exists():
        found = json.loads(results.read_text(encoding="utf-8"))
        seen = ", ".join(f"{item['seconds_per_gflop']:.3f}" for item in found["moments"]["result"][:2])
        assert f"{seen} and {found['moments']['result'][2]['seconds_per_gflop']:.3f} s per GFLOP" in text
        assert f"{found['network']['result']['seconds_adding']} s adding" in text
        assert f"{found['network']['result']['resident_growth_mb']} MB: the rest" in text
        for item in found["edge"]["result"]["files"]:
            assert f"| {item['name']} | {byte_size(item['bytes'])} | {item['latency_ms']:.2f} |" in text
