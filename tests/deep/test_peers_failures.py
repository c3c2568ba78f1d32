"""What has been seen to go wrong in other pruning tools, one test each."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress, load
from pathnorm.deep.data import split_batches


class Small(nn.Module):
    """Convolutions with BatchNorm and a bias in front of it, and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.fc1, self.fc2 = nn.Linear(10, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return self.fc2(F.relu(self.fc1(x)))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Small()
        for name, tensor in made.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_()
            elif "bn" in name and ("var" in name or name.endswith("weight")):
                tensor.uniform_(0.5, 2.0)
            elif "bn" in name and name.endswith("bias"):
                tensor.normal_()
    return made.eval()


@pytest.fixture
def images():
    return torch.randn(160, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def test_output_classes_are_never_removed(model, images):
    compression = compress(model, images, widths=0.3)
    assert compression.model.fc2.out_features == 5 and compression.model(images).shape == (160, 5)
    assert {item.name: item.reason for item in compression.record.skipped}["fc2"] == "these are the model's outputs"
    with pytest.raises(ValueError, match="Unknown"):
        compress(model, images, widths={"fc2": 2})


def test_a_frozen_model_is_not_left_as_it_is(model, images):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    compression = compress(model, images, params=0.5)
    assert sum(p.numel() for p in compression.model.parameters()) <= 0.5 * sum(p.numel() for p in model.parameters())
    assert not any(parameter.requires_grad for parameter in compression.model.parameters())


@pytest.mark.parametrize("budget", ["params", "macs"])
@pytest.mark.parametrize("share", [0.9, 0.55, 0.25])
def test_budgets_are_not_overshot(model, images, budget, share):
    record = compress(model, images, **{budget: share}).record
    counts = {"params": (record.params_before, record.params_after), "macs": (record.macs_before, record.macs_after)}
    before, after = counts[budget]
    assert after <= share * before


def test_what_is_removed_is_gone_from_memory_and_file(model, images, tmp_path):
    compression = compress(model, images, widths=0.5)
    shapes = {key: tuple(value.shape) for key, value in compression.model.state_dict().items()}
    assert shapes["conv2.weight"] == (5, 4, 3, 3) and shapes["bn2.running_var"] == (5,)
    assert not any("mask" in key for key in shapes)
    compression.save(tmp_path / "small")
    stored = sum(value.numel() * value.element_size() for value in compression.model.state_dict().values())
    assert (tmp_path / "small" / "model.safetensors").stat().st_size < 1.2 * stored + 4096


def test_constants_in_front_of_a_batch_norm_are_made_up_for(model, images):
    """A channel that is constant but not zero leaves a constant behind, in front of BatchNorms without a bias too."""
    with torch.no_grad():
        model.bn1.weight[:4] = 0.0
        model.bn1.bias[:4] = torch.tensor([1.0, 2.0, 0.5, 3.0])
    bare = copy.deepcopy(model)
    bare.conv2.bias = None
    for given in (model, bare):
        compression = compress(given, images, widths={"conv1": 4})
        # The padding of conv2 sees the constant end at the border, which no constant behind it can make up for.
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        with torch.no_grad():
            wanted = given.bn2(given.conv2(F.relu(given.bn1(given.conv1(images)))))[inner]
            small = compression.model
            got = small.bn2(small.conv2(F.relu(small.bn1(small.conv1(images)))))[inner]
        assert float((got - wanted).norm() / wanted.norm()) < 0.2
        assert float((got - wanted).mean((0, 2, 3)).abs().max()) < 0.15 * float(wanted.std())


def test_a_saved_network_holds_no_pickle_and_loads_without_its_class_being_trusted(model, images, tmp_path):
    compression = compress(model, images, widths=0.5)
    compression.save(tmp_path / "small")
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == ["model.safetensors", "recipe.json", "record.json"]
    for path in (tmp_path / "small").iterdir():
        head = path.read_bytes()[:2]
        assert head != b"PK" and not head.startswith(b"\x80")
    assert torch.equal(load(Small, tmp_path / "small")(images), compression.model(images))


def test_one_run_leaves_nothing_behind_for_the_next(model, images):
    before = copy.deepcopy(model.state_dict())
    hooks = [len(module._forward_hooks) for module in model.modules()]
    generator = torch.get_rng_state()
    first = compress(model, images, widths=0.5)
    compress(model, 3.0 * images + 1.0, macs=0.3)
    again = compress(model, images, widths=0.5)
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in first.model.state_dict().items())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert torch.equal(generator, torch.get_rng_state()) and torch.is_grad_enabled()


def test_every_calibration_batch_counts(model, images):
    """The moments of ten batches are those of one, and another first batch changes the answer."""
    one = compress(model, images, widths=0.5, batch_size=160, max_positions=None)
    ten = compress(model, images, widths=0.5, batch_size=16, max_positions=None)
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(ten.model.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    parts, _ = split_batches(images, heldout=0.2, batch_size=16, seed=0, device=torch.device("cpu"))
    assert parts.count() == 128
    other = images.clone()
    other[:80] *= 3.0
    moved = compress(model, other, widths=0.5, batch_size=16)
    assert not torch.equal(moved.model.conv2.weight, ten.model.conv2.weight)


def test_grouped_queries_do_not_crash():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.num_key_value_heads = 4, 2
            self.embed, self.q, self.out = nn.Linear(3, 8), nn.Linear(8, 16), nn.Linear(16, 8)
            self.k, self.v, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(x)
            q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.head(x + self.out(y.transpose(1, 2).flatten(2)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Grouped().eval()
    data = torch.randn(100, 6, 3, generator=torch.Generator().manual_seed(2))
    small = compress(network, data, widths=0.5).model
    assert (small.q.out_features, small.k.out_features, small.num_heads, small.num_key_value_heads) == (8, 4, 2, 1)
    assert small(data).shape == network(data).shape
