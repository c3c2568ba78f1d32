"""A balanced copy of a deep network: same outputs, least squared weights, what cannot be rescaled is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import balance
from pathnorm.deep.neuron_norms import neuron_norms, neurons_of
from pathnorm.errors import UnsupportedModelError


def imbalances(model, x, *, biases=False, skip=()):
    state = model.state_dict()
    return {
        group.name: float(neuron_norms(group, state, biases=biases, batch_norm="gain").imbalance.abs().max())
        for group in neurons_of(model, x, skip=skip).groups
    }


def squares(model):
    return sum(
        float(p.detach().double().square().sum()) for name, p in model.named_parameters() if name.endswith("weight")
    )


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "residual", "branching"])
def test_balanced_with_the_same_outputs(kind, biases, build, sample):
    model, x = build(kind).double(), sample(kind, 20).double()
    before = copy.deepcopy(model.state_dict())
    small = balance(model, x, biases=biases)
    assert max(imbalances(model, x, biases=biases).values()) > 1e-2
    assert max(imbalances(small, x, biases=biases).values()) < 1e-8
    with torch.no_grad():
        assert small(x).numpy() == pytest.approx(model(x).numpy(), rel=1e-10, abs=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if not biases:
        assert squares(small) < squares(model)
    again = balance(small, x, biases=biases)
    for a, b in zip(again.parameters(), small.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), rel=1e-8, abs=1e-12)


def test_single_precision_keeps_outputs_to_its_own_precision(build, sample):
    model, x = build("residual"), sample("residual", 20)
    small = balance(model, x)
    with torch.no_grad():
        assert float((small(x) - model(x)).abs().max()) < 1e-5 * float(model(x).abs().max())
    assert max(imbalances(small, x).values()) < 1e-6
    assert {p.dtype for p in small.parameters()} == {torch.float32}


def test_training_mode_and_the_gradient_flow_are_kept(build, sample):
    model = build("residual").train()
    small = balance(model, sample("residual"))
    assert small.training
    assert all(p.requires_grad for p in small.parameters())
    assert model.training


def test_gelu_is_refused_by_name_and_left_out_on_request(build, sample):
    model, x = build("chain"), sample("chain")
    with pytest.raises(UnsupportedModelError, match=r"fc1 acts gelu.*skip=\['fc1'\]"):
        balance(model, x)
    small = balance(model, x, skip=["fc1"])
    assert torch.equal(small.fc2.weight, model.fc2.weight)
    assert max(imbalances(small, x, skip=("fc1",)).values()) < 1e-6
    with torch.no_grad():
        assert small(x).numpy() == pytest.approx(model(x).numpy(), rel=1e-4, abs=1e-5)


def test_a_batch_norm_without_gain_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    with pytest.raises(UnsupportedModelError, match=r"1 has none \(affine=False\)"):
        balance(model, torch.randn(2, 1, 8, 8))


class Wired(nn.Module):
    """Three layers; single weights can be cut by hand."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(3, 5, bias=bias), nn.Linear(5, 5, bias=bias), nn.Linear(5, 2)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def test_neurons_that_the_function_does_not_need_become_zero_on_both_sides():
    model = Wired().double()
    with torch.no_grad():
        model.c.weight[:, 0] = 0.0  # b0 reaches no output
        model.b.weight[1:, 1] = 0.0  # a1 is read by b0 alone
        model.a.weight[2] = 0.0  # a2 is zero for every input
        model.a.bias[2] = 0.0
    x = torch.randn(50, 3, dtype=torch.float64)
    small = balance(model, x)
    with torch.no_grad():
        assert small(x).numpy() == pytest.approx(model(x).numpy(), rel=1e-12, abs=1e-13)
    assert not small.b.weight[0].any()
    assert not small.a.weight[1].any()
    assert not small.b.weight[:, 2].any()
    assert max(imbalances(small, x).values()) < 1e-8


def test_a_constant_neuron_stays_and_counts_as_an_input():
    model = Wired().double()
    with torch.no_grad():
        model.a.weight[0] = 0.0  # relu(bias) for every input
        model.a.bias[0] = 2.0
        model.b.weight[1, 1:] = 0.0  # b1 sees the constant alone
        model.b.bias[1] = 0.0
        model.b.weight[1, 0] = 0.7
    x = torch.randn(50, 3, dtype=torch.float64)
    small = balance(model, x)
    with torch.no_grad():
        assert small(x).numpy() == pytest.approx(model(x).numpy(), rel=1e-12, abs=1e-13)
    found = neuron_norms(neurons_of(small, x).groups[0], small.state_dict()).imbalance
    assert float(found[0]) == -1.0  # no input weights
    assert float(found[1:].abs().max()) < 1e-8
    assert imbalances(small, x)["b"] < 1e-8
    # With the bias as a part of the input weight there is no constant, and every neuron is balanced.
    assert max(imbalances(balance(model, x, biases=True), x, biases=True).values()) < 1e-8


def test_a_wrapped_module_gives_the_module_inside(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    small = balance(nn.DataParallel(model), x)
    assert type(small) is type(model)
