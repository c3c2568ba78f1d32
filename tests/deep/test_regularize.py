"""The differentiable path norm: values against hand-made folding, derivatives, and what weight decay it equals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import PathNormRegularizer, balance, lam_from_weight_decay, path_norm
from pathnorm.errors import UnsupportedModelError


def number(tensor: torch.Tensor) -> float:
    return float(tensor.detach())


def test_value_of_a_plain_network_by_hand(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    first, second, third = model[0], model[2], model[4]
    expected = number(
        (first.weight.norm(dim=1) * second.weight.norm(dim=0)).sum()
        + (second.weight.norm(dim=1) * third.weight.norm(dim=0)).sum()
    )
    assert number(PathNormRegularizer(model, x)()) == pytest.approx(expected, rel=1e-5)
    with_bias = torch.cat([first.weight, first.bias[:, None]], 1).norm(dim=1) * second.weight.norm(dim=0)
    penalty = PathNormRegularizer(model, x, biases=True, lam={"0": 2.0})
    assert number(penalty()) == pytest.approx(2.0 * number(with_bias.sum()), rel=1e-5)


def test_folded_coordinates_are_those_of_the_folded_network(build, sample):
    """Each BatchNorm is folded into its convolution by torch's own rule; the plain formula is then applied."""
    model, x = build("residual").double(), sample("residual", 5).double()
    twin = nn.ModuleList()
    for block in model.blocks:
        twin.append(
            nn.ModuleList(
                [
                    torch.nn.utils.fuse_conv_bn_eval(block.conv1, block.bn1),
                    torch.nn.utils.fuse_conv_bn_eval(block.conv2, block.bn2),
                ]
            )
        )
    for biases in (False, True):
        expected = 0.0
        for first, second in twin:
            rows = first.weight.flatten(1)
            rows = torch.cat([rows, first.bias[:, None]], 1) if biases else rows
            expected += number((rows.norm(dim=1) * second.weight.transpose(0, 1).flatten(1).norm(dim=1)).sum())
        found = path_norm(model, x, biases=biases)
        assert found.total == pytest.approx(expected, rel=1e-12)
        assert number(PathNormRegularizer(model, x, biases=biases)()) == pytest.approx(expected, rel=1e-12)


def test_the_scale_in_front_of_a_batch_norm_has_no_gradient(build, sample):
    model, x = build("residual").double(), sample("residual", 5).double()
    PathNormRegularizer(model, x)().backward()
    block = model.blocks[0]
    assert block.conv1.weight.grad is None or not block.conv1.weight.grad.any()
    along = (block.conv2.weight.grad * block.conv2.weight).flatten(1).sum(1)
    assert number(along.abs().max()) < 1e-12
    assert number(block.conv2.weight.grad.abs().max()) > 1e-3
    assert number(block.bn1.weight.grad.abs().min()) > 1e-3


@pytest.mark.parametrize("coordinates", ["folded", "gain"])
def test_derivative_by_finite_differences(coordinates, build, sample):
    model, x = build("branching").double(), sample("branching", 5).double()
    penalty = PathNormRegularizer(model, x, biases=True, batch_norm=coordinates)
    penalty().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        slope = 0.0 if parameter.grad is None else number((parameter.grad * direction).sum())
        with torch.no_grad():
            parameter += 1e-6 * direction
            high = number(penalty())
            parameter -= 2e-6 * direction
            low = number(penalty())
            parameter += 1e-6 * direction
        assert (high - low) / 2e-6 == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_zero_neurons_have_a_gradient_that_is_a_number(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    with torch.no_grad():
        model[0].weight[3] = 0.0
        model[2].weight[:, 3] = 0.0
        model[2].weight[5] = 0.0
    PathNormRegularizer(model, x)().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert not model[0].weight.grad[3].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    model = nn.Sequential(nn.Linear(300, 20, bias=False), nn.ReLU(), nn.Linear(20, 4, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(30.0)  # squares sum to 270,000: more than float16 has
        model[2].weight.fill_(1.0)
    expected = 20 * (300 * 900.0) ** 0.5 * 2.0
    half = model.to(dtype)
    value = PathNormRegularizer(half, torch.randn(2, 300, dtype=dtype))()
    assert value.dtype == torch.float32
    assert number(value) == pytest.approx(expected, rel=1e-3)


def test_frozen_parts_are_constants_and_shared_weights_are_named(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    model[0].weight.requires_grad_(False)
    PathNormRegularizer(model, x)().backward()
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(F.relu(self.b(self.a(F.relu(self.a(x))))))

    found = PathNormRegularizer(Shared(), torch.randn(2, 4))
    assert [group.name for group in found.groups] == ["b"]
    all_shared = nn.Sequential(tied := nn.Linear(4, 4), nn.ReLU(), tied)
    with pytest.raises(UnsupportedModelError, match="None of its layers qualifies"):
        PathNormRegularizer(all_shared, torch.randn(2, 4))


class FeedForward(nn.Module):
    """One encoder layer as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def test_the_feed_forward_block_of_a_transformer_is_a_group():
    model, x = FeedForward(), torch.randn(3, 5, 8)
    penalty = PathNormRegularizer(model, x)
    assert [group.name for group in penalty.groups] == ["up"]
    expected = (model.up.weight.norm(dim=1) * model.down.weight.norm(dim=0)).sum()
    assert number(penalty()) == pytest.approx(number(expected), rel=1e-5)
    assert [g.name for g in PathNormRegularizer(nn.TransformerEncoderLayer(8, 2, 16), x).groups] == ["linear1"]


def test_arguments_are_checked(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    with pytest.raises(ValueError, match="Unknown: nine"):
        PathNormRegularizer(model, x, lam={"nine": 1.0})
    with pytest.raises(ValueError, match="a number from 0"):
        PathNormRegularizer(model, x, lam=-1.0)
    with pytest.raises(ValueError, match="'folded' or 'gain'"):
        PathNormRegularizer(model, x, batch_norm="neither")
    with pytest.raises(ValueError, match="at least one sample"):
        PathNormRegularizer(model, x[:0])


# ------------------------------------------------------------------ weight decay as path norms


@pytest.mark.parametrize("kind", ["mlp", "residual", "branching"])
def test_at_balance_weight_decay_is_the_path_norm_and_elsewhere_more(kind, build, sample):
    model, x, decay = build(kind).double(), sample(kind, 5).double(), 3e-3
    schedule = lam_from_weight_decay(model, x, decay, biases=True)
    penalty = PathNormRegularizer(model, x, lam=schedule.lam, biases=True, batch_norm="gain")

    def both(network):
        own = PathNormRegularizer(network, x, lam=schedule.lam, biases=True, batch_norm="gain")
        named = dict(network.named_parameters())
        rest = sum(0.5 * mu * number(named[name].square().sum()) for name, mu in schedule.decay.items())
        plain = 0.5 * decay * sum(number(p.square().sum()) for p in named.values())
        return plain, number(own()) + rest

    plain, ours = both(model)
    assert number(penalty()) > 0.0
    assert ours < plain * (1.0 - 1e-4)
    plain, ours = both(balance(model, x, biases=True))
    assert ours == pytest.approx(plain, rel=1e-10)


def test_shares_of_a_chain_and_sums(build, sample):
    model, x = build("mlp"), sample("mlp", 5)
    mean = lam_from_weight_decay(model, x, 0.1, biases=False)
    assert mean.lam == {"0": 0.05, "2": 0.05}
    assert mean.decay == pytest.approx(
        {"0.weight": 0.05, "4.weight": 0.05, "0.bias": 0.1, "2.bias": 0.1, "4.bias": 0.1}
    )
    total = lam_from_weight_decay(model, x, 0.1, loss="sum", n_samples=50, biases=False)
    assert total.lam == pytest.approx({"0": 2.5, "2": 2.5})
    groups = mean.param_groups(model)
    assert sorted(group["weight_decay"] for group in groups) == pytest.approx([0.0, 0.05, 0.1])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    torch.optim.SGD(groups, lr=0.1)
    with pytest.raises(ValueError, match="needs n_samples"):
        lam_from_weight_decay(model, x, 0.1, loss="sum")
    with pytest.raises(ValueError, match="a number from 0"):
        lam_from_weight_decay(model, x, -0.1)
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        lam_from_weight_decay(model, x, 0.1, loss="none")
