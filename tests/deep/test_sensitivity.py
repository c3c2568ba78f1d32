from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.sensitivity import output_metrics


@pytest.mark.parametrize("outputs", ["values", "logits"])
def test_metric_of_the_last_hidden_layer_is_the_one_in_closed_form(outputs):
    """Behind the consumer is ``W relu(z)``: J = W diag(z > 0), so S = E[J' F J] is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    data = torch.randn(4000, 6)
    graph, state = trace(model, data[:2]), state_of(model)
    groups = find_neurons(graph, state, data[:2]).groups
    (root,) = output_metrics(graph, state, groups, data.split(500), outputs=outputs, seed=0)["0"]
    with torch.no_grad():
        z = model[2](model[1](model[0](data)))
        jacobian = model[4].weight[None] * (z > 0)[:, None, :]
        if outputs == "values":
            fisher = torch.eye(3).expand(len(data), 3, 3)
        else:
            p = F.softmax(model(data), 1)
            fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        expected = (jacobian.transpose(1, 2) @ fisher @ jacobian).mean(0).double().numpy()
    values, vectors = np.linalg.eigh(expected)
    values = np.maximum(values, 1e-3 * values[-1])
    expected = (vectors * (values / values.mean())) @ vectors.T
    np.testing.assert_allclose(root.numpy() @ root.numpy().T, expected, atol=0.06 * np.abs(expected).max())


def test_directions_that_the_output_ignores_do_not_count(sample):
    """Two halves of a layer feed outputs of very different size; the loud half's neurons are kept."""
    torch.manual_seed(1)
    first, second, last = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 2)
    with torch.no_grad():
        second.weight.zero_()
        second.weight[:4, :6] = 0.5 * torch.randn(4, 6)
        second.weight[4:, 6:] = torch.randn(4, 6)
        last.weight.zero_()
        last.weight[0, :4], last.weight[1, 4:] = 10.0, 1e-3
    model = nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), last).eval()
    made = compress(model, sample("mlp", 600), widths={"0": 3})
    kept = made.model[0].weight[:, 0]
    assert all(any(torch.isclose(value, original) for original in first.weight[:6, 0]) for value in kept)


def test_logits_need_classes(build, sample):
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(ValueError, match=r"shape \(N, classes\)"):
        compress(model, sample("chain", 100), params=0.5, outputs="logits")
    with pytest.raises(ValueError, match=r"'values' or 'logits'\. Got 'classes'"):
        compress(build("mlp"), sample("mlp", 100), params=0.5, outputs="classes")


def test_a_metric_of_some_positions_is_that_of_all_up_to_chance(build):
    model = build("chain")
    data = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    graph, state = trace(model, data[:2]), state_of(model)
    groups = find_neurons(graph, state, data[:2]).groups
    every, some = (
        output_metrics(graph, state, groups, data.split(64), outputs="values", max_positions=limit, seed=0)
        for limit in (None, 6)
    )
    for group in groups:
        for whole, part in zip(every[group.name], some[group.name], strict=True):
            first, second = whole @ whole.T, part @ part.T
            assert float((first - second).norm() / first.norm()) < 0.25
    names = [group.name for group in groups if group.consumers[0].layer.geometry is None]
    assert names and all(torch.equal(every[name][0], some[name][0]) for name in names)
