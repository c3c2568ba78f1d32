"""The lossless stage must not change the function, for any input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.lossless import remove_redundant
from pathnorm.deep.surgery import cut


def reduced(model, example):
    graph, state = trace(model, example), state_of(model)
    groups = find_neurons(graph, state, example).groups
    current, alive = remove_redundant(groups, state)
    return cut(model, current, groups, alive), alive


def assert_same(model, small, inputs, tolerance=1e-5):
    with torch.no_grad():
        expected, got = model(inputs), small(inputs)
    assert float((expected - got).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_nothing_is_removed_where_nothing_is_redundant(kind, build, sample):
    model = build(kind)
    small, alive = reduced(model, sample(kind, 2))
    assert all(kept.numel() == kept.max() + 1 for kept in alive.values())
    assert_same(model, small, sample(kind, 50), 1e-6)


def test_collinear_and_silent_neurons_of_a_linear_layer_go(build, sample):
    model = build("mlp")
    with torch.no_grad():
        first, second = model[0], model[2]
        first.weight[3], first.bias[3] = 2.5 * first.weight[1], 2.5 * first.bias[1]  # collinear
        first.weight[4], first.bias[4] = -first.weight[1], -first.bias[1]  # opposite: another neuron
        first.weight[5], first.bias[5] = 0.0, -1.0  # constantly zero
        first.weight[6], first.bias[6] = 0.0, 1.0  # constant, not zero
        second.weight[:, 7] = 0.0  # never read
    small, alive = reduced(model, sample("mlp", 2))
    assert sorted(set(range(20)) - set(alive["0"].tolist())) == [3, 5, 7]
    assert_same(model, small, 10 * sample("mlp", 200))


def test_collinear_channels_behind_batch_norm_go(build, sample):
    model = build("residual")
    block = model.blocks[0]
    with torch.no_grad():
        block.conv1.weight[2] = 3.0 * block.conv1.weight[0]
        block.bn1.running_mean[2] = 3.0 * block.bn1.running_mean[0]
        scale = torch.sqrt(block.bn1.running_var + block.bn1.eps)
        block.bn1.weight[2] = block.bn1.weight[0] * scale[2] / scale[0] * 0.4 / 3.0
        block.bn1.bias[2] = 0.4 * block.bn1.bias[0]
        block.bn1.weight[5], block.bn1.bias[5] = 0.0, -0.2
    small, alive = reduced(model, sample("residual", 2))
    assert sorted(set(range(10)) - set(alive["blocks.0.conv1"].tolist())) == [2, 5]
    assert_same(model, small, 5 * sample("residual", 60))


@pytest.mark.parametrize(("activation", "merged"), [(nn.ReLU, True), (nn.GELU, False), (nn.Tanh, False)])
def test_scaled_copies_merge_only_through_homogeneous_activations(activation, merged, sample):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 2.0 * model[0].weight[0], 2.0 * model[0].bias[0]
        model[0].weight[2], model[0].bias[2] = model[0].weight[3], model[0].bias[3]  # equal: merges always
    small, alive = reduced(model, sample("mlp", 2))
    gone = set(range(8)) - set(alive["0"].tolist())
    assert gone == ({1, 3} if merged else {3})
    assert_same(model, small, 4 * sample("mlp", 200))


def test_one_neuron_always_stays(sample):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    small, alive = reduced(model, sample("mlp", 2))
    assert alive["0"].tolist() == [0]
    assert_same(model, small, sample("mlp", 50))
