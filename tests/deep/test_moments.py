from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress
from pathnorm.deep.data import split_batches
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.moments import features_of, reconstruction, rows_of, split_coef, stack_coef
from pathnorm.deep.replay import Replay
from pathnorm.deep.sequential import collect, layer_error, layer_state, write_group, written_coef
from pathnorm.errors import DataError

CPU = torch.device("cpu")


def prepared(kind, build, sample, n=200):
    model, data = build(kind), sample(kind, n)
    graph, state = trace(model, data[:2]), state_of(model)
    found = find_neurons(graph, state, data[:2])
    calibration, _ = split_batches(data, heldout=0.1, batch_size=33, seed=0, device=CPU)
    return graph, state, found, calibration


def test_features_times_weights_are_the_layers_outputs(build, sample):
    graph, state, found, _ = prepared("chain", build, sample)
    batch = sample("chain", 4)
    for consumer in [c for group in found.groups for c in group.consumers]:
        layer = consumer.layer
        with torch.no_grad():
            values = graph.run(
                state,
                graph.start(batch),
                span=(0, graph.index(layer.node) + 1),
                keep=(layer.source, layer.node),
            )
            rows = features_of(layer, values[layer.source]) @ state[layer.weight].flatten(1).T + state[layer.bias]
        torch.testing.assert_close(rows, rows_of(layer, values[layer.node]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), bias=False),
        nn.Conv2d(3, 4, 1, bias=False),
        nn.Conv2d(3, 4, 5, stride=3, bias=False),
    ],
)
def test_chosen_positions_are_rows_of_all_positions(layer, sample):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), layer)
    batch = sample("chain", 5)
    graph = trace(model, batch)
    (consumer,) = find_neurons(graph, state_of(model), batch).groups[0].consumers
    with torch.no_grad():
        inputs = model[1](model[0](batch))
        outputs = layer(inputs)
        positions = torch.randperm(outputs[0, 0].numel())[:4]
        rows = features_of(consumer.layer, inputs, positions) @ layer.weight.flatten(1).T
        torch.testing.assert_close(rows, rows_of(consumer.layer, outputs, positions))
        torch.testing.assert_close(
            features_of(consumer.layer, inputs).view(5, -1, layer.weight[0].numel())[:, positions].flatten(0, 1),
            features_of(consumer.layer, inputs, positions),
        )


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_the_original_weights_reconstruct_the_original_outputs(kind, build, sample):
    """With an unchanged prefix, V from the state has zero error in the layer problem of its moments."""
    graph, state, found, calibration = prepared(kind, build, sample)
    replay = Replay(graph, state, calibration, cache_bytes=0)
    for group in found.groups:
        layer = layer_state(group, collect(replay, state, group.consumers, max_positions=None, seed=0), state)
        assert layer.problem.error(written_coef(group, state, state)) < 1e-10
        written = dict(state)
        write_group(layer, written_coef(group, state, state), written, state)
        for consumer in group.consumers:
            torch.testing.assert_close(
                written[consumer.layer.weight], state[consumer.layer.weight], rtol=1e-4, atol=1e-5
            )
            if consumer.layer.bias is not None:
                torch.testing.assert_close(
                    written[consumer.layer.bias], state[consumer.layer.bias], rtol=1e-3, atol=1e-4
                )


def test_streamed_moments_are_those_of_all_samples_at_once(build, sample):
    graph, state, found, calibration = prepared("mlp", build, sample)
    group = found.groups[0]
    (sums,) = collect(
        Replay(graph, state, calibration, cache_bytes=0),
        state,
        group.consumers,
        max_positions=None,
        seed=0,
    )
    with torch.no_grad():
        x = torch.cat(list(calibration))
        phi = F.relu(F.linear(x, state["0.weight"], state["0.bias"])).double()
        psi = F.linear(phi, state["2.weight"].double(), state["2.bias"].double())
    phi, psi = phi - phi.mean(0), psi - psi.mean(0)
    problem = reconstruction(group, [sums], torch.ones(group.width))
    np.testing.assert_allclose(problem.gram, (phi.T @ phi).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(problem.cross, (phi.T @ psi).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(problem.energy, float(psi.square().sum()), rtol=1e-5)


@pytest.mark.parametrize("cache_bytes", [0, 40_000, 10**9])
def test_the_cache_changes_nothing(cache_bytes, build, sample):
    """Sequential sweeps with no, a partial and a full cache give the same moments."""
    graph, state, found, calibration = prepared("residual", build, sample)
    current = dict(state)
    replay = Replay(graph, state, calibration, cache_bytes=cache_bytes)
    results = []
    for group in found.groups:
        sums = collect(replay, current, group.consumers, max_positions=None, seed=0)
        layer = layer_state(group, sums, state)
        results.append(layer.problem.gram)
        write_group(layer, layer.problem.refit(np.arange(4)).coef, current, state)
    plain = Replay(graph, state, calibration, cache_bytes=0)
    again = collect(plain, current, found.groups[-1].consumers, max_positions=None, seed=0)
    np.testing.assert_allclose(layer_state(found.groups[-1], again, state).problem.gram, results[-1], rtol=1e-6)


def test_coefficients_of_two_readers_survive_stacking(build, sample):
    _, _, found, _ = prepared("branching", build, sample)
    (group,) = found.groups
    parts = [torch.randn(c.layer.fan_in * (1), c.layer.width, dtype=torch.float64) for c in group.consumers]
    for back, part in zip(split_coef(group, stack_coef(group, parts)), parts, strict=True):
        assert torch.equal(back, part)


def test_infinite_activations_are_refused_by_name(build, sample):
    graph, state, found, calibration = prepared("mlp", build, sample)
    broken = {**state, "0.weight": torch.full_like(state["0.weight"], float("inf"))}
    with pytest.raises(DataError, match="2 holds NaN or Inf"):
        collect(
            Replay(graph, broken, calibration, cache_bytes=0),
            broken,
            found.groups[0].consumers,
            max_positions=None,
            seed=0,
        )


def test_too_few_samples_say_how_many_more(build, sample):
    graph, state, found, calibration = prepared("mlp", build, sample, n=12)
    group = found.groups[0]
    sums = collect(Replay(graph, state, calibration, cache_bytes=0), state, group.consumers, max_positions=None, seed=0)
    with pytest.raises(DataError, match=r"at least 21 rows.*gives 11"):
        layer_state(group, sums, state)


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_the_error_in_the_network_is_the_error_in_the_moments(kind, build, sample):
    """Weights, gains and intercepts are written back right: the network errs as the refit says."""
    graph, state, found, calibration = prepared(kind, build, sample)
    for group in found.groups:
        current = dict(state)
        replay = Replay(graph, state, calibration, cache_bytes=10**8)
        layer = layer_state(group, collect(replay, current, group.consumers, max_positions=None, seed=0), state)
        refit = layer.problem.refit(np.arange(group.width // 2))
        write_group(layer, refit.coef, current, state)
        assert refit.error > 1e-4
        if len(group.consumers) == 1:
            np.testing.assert_allclose(layer_error(replay, current, group), np.sqrt(refit.error), rtol=1e-4)


def test_a_sweep_may_go_back_behind_the_cache(build, sample):
    graph, state, found, calibration = prepared("residual", build, sample)
    replay = Replay(graph, state, calibration, cache_bytes=10**8)
    early, late = found.groups
    first = collect(replay, state, early.consumers, max_positions=None, seed=0)
    collect(replay, state, late.consumers, max_positions=None, seed=0)
    again = collect(replay, state, early.consumers, max_positions=None, seed=0)
    assert torch.equal(first[0].gram, again[0].gram)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("kind", ["chain", "residual", "mlp"])
def test_moments_and_networks_on_a_gpu_are_those_of_the_processor(kind, build, sample):
    model, data = build(kind), sample(kind, 200)
    here = compress(model, data, widths=0.5, max_positions=None)
    there = compress(copy.deepcopy(model).cuda(), data, widths=0.5, max_positions=None)
    assert next(there.model.parameters()).is_cuda
    for one, two in zip(here.record.groups, there.record.groups, strict=True):
        assert one.width_after == two.width_after
        assert one.error_calibration == pytest.approx(two.error_calibration, rel=1e-2, abs=1e-4)
