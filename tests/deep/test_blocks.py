"""Layers whose Gram matrix does not fit: blocks of neurons, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pathnorm.deep import compress, sequential
from pathnorm.deep.blocks import gram_bytes, in_blocks
from pathnorm.deep.graph import trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.moments import Moments
from pathnorm.deep.plan import plan

WIDTH = 24


def made(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, WIDTH), nn.GELU(), nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 4))
        # Only a third of the first neurons is needed.
        for layer, dim in ((model[0], 0), (model[2], 1)):
            layer.weight.data = layer.weight.data.narrow(dim, 0, WIDTH // 3).repeat_interleave(3, dim)
        model[0].bias.data = model[0].bias.data[: WIDTH // 3].repeat_interleave(3)
    return model.eval()


def draws(n=300):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def largest(monkeypatch):
    """The side of the largest Gram matrix that is formed."""
    sides = []
    zeros = Moments.zeros

    def noted(n_features, n_targets, device, **options):
        sides.append(n_features)
        return zeros(n_features, n_targets, device, **options)

    monkeypatch.setattr(sequential.Moments, "zeros", noted)
    return sides


def test_no_gram_matrix_is_larger_than_what_fits(largest):
    limit = 8 * 8**2
    model, data = made(), draws()
    compression = compress(model, data, widths=0.5, gram_bytes=limit)
    assert max(largest) <= 8
    names = [group.name for group in compression.record.groups]
    assert names == ["0[0:8]", "0[8:16]", "0[16:24]", "2[0:8]", "2[8:16]"]
    assert {group.theorem_reason for group in compression.record.groups} == {"the layer is treated in blocks"}
    assert (compression.model[0].out_features, compression.model[2].out_features) == (12, 8)
    assert max(group.gap for group in compression.record.groups) < 1e-5
    whole = compress(model, data, widths=0.5)
    assert max(largest) == WIDTH
    # Choosing within blocks is worse than over the whole layer, but both have to find that a third is enough.
    assert compression.record.groups[0].error_calibration < 0.1
    assert whole.record.output_error_heldout <= compression.record.output_error_heldout + 1e-6
    assert compression.record.output_error_heldout < 3 * whole.record.output_error_heldout


def test_blocks_of_redundant_neurons_lose_nothing():
    model, data = made(), draws()
    compression = compress(model, data, widths={"0[0:12]": 4, "0[12:24]": 4}, gram_bytes=8 * 12**2)
    with torch.no_grad():
        wanted, got = model(data), compression.model(data)
    assert compression.model[0].out_features == 8
    assert float((got - wanted).norm() / (wanted - wanted.mean(0)).norm()) < 1e-4


def test_blocks_partition_the_neurons():
    model, data = made(), draws(4)
    graph = trace(model, data, outputs_first=True)
    neurons = find_neurons(graph, graph.state_of(model), data, coupling="interior")
    parts = in_blocks(neurons, 8 * 5**2)
    first = [group for group in parts.groups if group.name.startswith("0[")]
    held = np.stack([group.producers[0].neurons.numpy() >= 0 for group in first])
    assert np.array_equal(held.sum(0), np.ones(WIDTH))
    assert [group.width for group in first] == [4, 5, 5, 5, 5]
    assert all(gram_bytes(group) <= 8 * 5**2 for group in parts.groups)
    assert in_blocks(neurons, 10**9).groups == neurons.groups
    # A single neuron is the smallest block; readers that do not fit are not refitted.
    assert all(group.width == 1 for group in in_blocks(neurons, 1).groups) and not in_blocks(neurons, 1).readers


def test_the_plan_counts_blocks():
    record = plan(made(), draws(), gram_bytes=8 * 8**2)
    assert [group.features for group in record.groups] == [(8,)] * 5
    assert record.passes_reduce == 5


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="gram_bytes must be a positive number of bytes"):
        compress(made(), draws(), widths=0.5, gram_bytes=0)
