"""Rescaling the neurons of a deep network changes its squared weights and nothing else; at their least it is balanced.

The function is invariant under ``(w_k, v_k) -> (s w_k, v_k / s)`` at any neuron of any layer, and at a minimiser of
weight decay ``||w_k|| = ||v_k||`` [Parhi & Nowak 2023; Yang et al. 2022]: otherwise a rescaling would have less decay
at the same loss. The path norm of one layer is invariant under rescalings of its own neurons; those of its neighbours
move it.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathnorm.deep import balance
from pathnorm.deep.neuron_norms import neuron_norms, neurons_of

X = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.LeakyReLU(0.2), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    ).double()


@pytest.fixture(scope="module")
def groups():
    return neurons_of(network(0), X).groups


def norms(groups, model):
    return {group.name: neuron_norms(group, model.state_dict()) for group in groups}


@torch.no_grad()
def rescale(model, layer, factors):
    model[layer].weight *= factors[:, None]
    model[layer].bias *= factors
    model[layer + 2].weight /= factors


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), layer=st.sampled_from([0, 2, 4]))
def test_the_function_and_the_norm_of_the_layer_do_not_see_its_own_scale(seed, layer, groups):
    model = network(seed % 50)
    before, outputs = norms(groups, model), model(X).detach()
    width = model[layer].out_features
    factors = torch.exp(torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    rescale(model, layer, factors)
    after = norms(groups, model)
    torch.testing.assert_close(model(X).detach(), outputs, rtol=1e-10, atol=1e-12)
    name = str(layer)
    torch.testing.assert_close(after[name].masses, before[name].masses, rtol=1e-12, atol=0.0)
    assert not torch.allclose(after[name].inputs, before[name].inputs)


def test_gradient_descent_with_weight_decay_ends_balanced_and_balancing_it_gains_nothing(groups):
    model = network(1)
    y = torch.sin(2.0 * X[:, :2])
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9)

    def objective(network):
        weights = sum(p.square().sum() for name, p in network.named_parameters() if name.endswith("weight"))
        return 10.0 * F.mse_loss(network(X), y) + 0.05 * weights

    def excess():
        found = norms(groups, model).values()
        half = sum(0.5 * float((n.inputs.square() + n.outputs.square()).sum()) for n in found)
        return half / sum(float(n.masses.sum()) for n in found) - 1.0

    start = excess()
    for _ in range(2500):
        optimizer.zero_grad()
        objective(model).backward()
        optimizer.step()
    assert float(F.mse_loss(model(X).detach(), y)) < 0.6 * float(y.var())
    assert excess() < 2e-3 < 0.05 < start  # steps of a fixed size go on crossing kinks
    balanced = balance(model, X)
    before, after = (float(objective(m).detach()) for m in (model, balanced))
    assert after <= before * (1.0 + 1e-12)
    assert after == pytest.approx(before, rel=1e-3)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_all_rescalings_of_a_network_have_the_same_balanced_form(seed):
    model, other = network(seed % 50), network(seed % 50)
    generator = torch.Generator().manual_seed(seed)
    for layer in (0, 2, 4):
        width = other[layer].out_features
        rescale(other, layer, torch.exp(torch.randn(width, dtype=torch.float64, generator=generator)))
    for a, b in zip(balance(model, X).parameters(), balance(other, X).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
