"""The digits, their networks and the training loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathnorm.demo.digits import (
    DigitsSplit,
    accuracy,
    digits_cnn,
    digits_mlp,
    digits_resnet,
    load_split,
    train,
)

FACTORIES = [digits_cnn, digits_mlp, digits_resnet]


@pytest.fixture(scope="module")
def split() -> DigitsSplit:
    return load_split(0)


def small(split: DigitsSplit, n: int = 320) -> DigitsSplit:
    return DigitsSplit(split.train_images[:n], split.train_labels[:n], split.test_images, split.test_labels)


def test_split_is_disjoint_stratified_and_standardised(split):
    assert split.train_images.shape == (1297, 1, 8, 8)
    assert split.test_images.shape == (500, 1, 8, 8)
    assert split.train_images.dtype == torch.float32
    assert split.train_labels.dtype == torch.int64
    assert abs(split.train_images.mean().item()) < 1e-5
    assert abs(split.train_images.std(correction=0).item() - 1) < 1e-5
    share = torch.bincount(split.test_labels) / len(split.test_labels)
    assert ((share - torch.bincount(split.train_labels) / len(split.train_labels)).abs() < 0.005).all()
    train_rows = {image.numpy().tobytes() for image in split.train_images}
    assert not any(image.numpy().tobytes() in train_rows for image in split.test_images)


def test_split_depends_on_the_seed_alone(split):
    assert torch.equal(load_split(0).test_images, split.test_images)
    assert not torch.equal(load_split(1).test_labels, split.test_labels)


@pytest.mark.parametrize("factory", FACTORIES)
def test_networks_map_images_to_ten_logits(factory):
    assert factory().eval()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("factory", FACTORIES)
def test_two_epochs_beat_guessing(factory, split):
    model = train(factory(), split, seed=0, epochs=2)
    assert not model.training
    assert accuracy(model, split.test_images, split.test_labels) > 0.7


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_same_seed_gives_the_same_network(factory, split):
    part = small(split)
    first = train(factory(), part, seed=3, epochs=1).state_dict()
    again = train(factory(), part, seed=3, epochs=1).state_dict()
    other = train(factory(), part, seed=4, epochs=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_model_and_the_global_random_state_alone(split):
    model = digits_cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    train(model, small(split), seed=0, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_uses_one_thread_and_gives_the_others_back(split):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        used = []
        train(
            digits_mlp(),
            small(split),
            seed=0,
            epochs=1,
            progress=lambda *call: used.append(torch.get_num_threads()),
        )
        assert used == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_weight_decay_makes_the_weights_smaller(split):
    def squared(weight_decay: float) -> float:
        model = train(digits_mlp(), split, seed=0, epochs=3, weight_decay=weight_decay)
        return sum(float(parameter.detach().square().sum()) for parameter in model.parameters())

    assert squared(1e-2) < squared(0.0)


def test_progress_counts_the_epochs(split):
    calls: list[tuple[str, int, int]] = []
    train(digits_mlp(), small(split), seed=0, epochs=3, progress=lambda *call: calls.append(call))
    assert calls == [("train", 1, 3), ("train", 2, 3), ("train", 3, 3)]


def test_accuracy_is_taken_in_eval_mode_and_gives_every_mode_back(split):
    model = digits_cnn().train()
    model.bn2.eval()
    with torch.no_grad():
        model.bn1.running_mean.fill_(5.0)
    running = model.bn1.running_mean.clone()
    found = accuracy(model, split.test_images, split.test_labels)
    assert model.training and model.bn1.training and not model.bn2.training
    assert torch.equal(model.bn1.running_mean, running)
    with torch.no_grad():
        guesses = model.eval()(split.test_images).argmax(1)
    assert found == pytest.approx((guesses == split.test_labels).float().mean().item())


def test_accuracy_of_a_constant_guess_is_the_share_of_that_label(split):
    class Always(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(torch.full((len(x),), 7), 10).float()

    share = (split.test_labels == 7).float().mean().item()
    assert accuracy(Always(), split.test_images, split.test_labels) == pytest.approx(share)
