"""Handwritten digits that ship with scikit-learn, and three small networks trained on them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DigitsCNN",
    "DigitsMLP",
    "DigitsResNet",
    "DigitsSplit",
    "Progress",
    "accuracy",
    "digits_cnn",
    "digits_mlp",
    "digits_resnet",
    "load_split",
    "one_thread",
    "train",
]

Model = TypeVar("Model", bound=nn.Module)

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` while something takes long."""

N_TEST = 500
BATCH = 64
LEARNING_RATE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class DigitsSplit:
    """Images (N, 1, 8, 8) and labels (N,) to train on, and others kept for the test.

    The grey values 0 to 16 are standardised with the mean and the standard deviation of
    all training pixels: two numbers for the whole data set, none per pixel or per image.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_split(seed: int) -> DigitsSplit:
    """Return a split of the 1797 digits, stratified by label: 1297 to train on, 500 to test on."""
    digits = load_digits()
    images = digits.images.astype(np.float64)[:, None]
    parts = train_test_split(images, digits.target, test_size=N_TEST, random_state=seed, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = parts
    mean, std = train_images.mean(), train_images.std()
    return DigitsSplit(
        train_images=torch.from_numpy((train_images - mean) / std).float(),
        train_labels=torch.from_numpy(train_labels).long(),
        test_images=torch.from_numpy((test_images - mean) / std).float(),
        test_labels=torch.from_numpy(test_labels).long(),
    )


class DigitsCNN(nn.Module):
    """VGG style: two pairs of conv-BatchNorm-ReLU with pooling, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 2 * 2, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.max_pool2d(F.relu(self.bn4(self.conv4(x))), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class DigitsMLP(nn.Module):
    """Three linear layers, 64-256-256-10, with ReLU in between: the setting of the theory."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Add the two convolutions to the shortcut, then ReLU."""
        interior = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(interior)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A stem and three residual blocks of widths 32, 64 and 128; only block interiors are free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.block1 = BasicBlock(32, 32)
        self.block2 = BasicBlock(32, 64, stride=2)
        self.block3 = BasicBlock(64, 128, stride=2)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def digits_cnn() -> DigitsCNN:
    """Return an untrained convolutional network, interior widths 32, 32, 64, 64, 128."""
    return DigitsCNN()


def digits_mlp() -> DigitsMLP:
    """Return an untrained multilayer perceptron, interior widths 256, 256."""
    return DigitsMLP()


def digits_resnet() -> DigitsResNet:
    """Return an untrained residual network, block interiors 32, 64, 128."""
    return DigitsResNet()


def train(
    model: Model,
    split: DigitsSplit,
    *,
    seed: int,
    epochs: int = 30,
    weight_decay: float = 1e-3,
    progress: Progress | None = None,
) -> Model:
    """Return a copy of the model trained from fresh weights, in ``eval`` mode.

    Minimises the mean cross-entropy plus ``weight_decay / 2`` times the squares of all parameters by
    SGD with Nesterov momentum 0.9 under a cosine schedule; images are shifted by at most one
    pixel. Initial weights, order and shifts come from ``seed``: the same seed gives the same
    network, and torch's global random state is left as it was.
    """
    with one_thread():
        return _train(model, split, seed=seed, epochs=epochs, weight_decay=weight_decay, progress=progress)


def _train(
    model: Model,
    split: DigitsSplit,
    *,
    seed: int,
    epochs: int,
    weight_decay: float,
    progress: Progress | None,
) -> Model:
    model = _fresh_copy(model, seed).train()
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(split.train_labels) / BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * steps))
    for epoch in range(epochs):
        for batch in torch.randperm(len(split.train_labels), generator=generator).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            logits = model(_shift(split.train_images[batch], generator))
            F.cross_entropy(logits, split.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress("train", epoch + 1, epochs)
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is at their label, in ``eval`` mode."""
    with _evaluating(model), torch.no_grad():
        guesses = torch.cat([model(batch).argmax(1) for batch in images.split(256)])
    return float((guesses == labels).double().mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block.

    Networks this small gain nothing from more, lose much on a busy machine, and would
    depend on the number of cores through the order of sums.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into ``eval`` mode and give every module its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _fresh_copy(model: Model, seed: int) -> Model:
    """Return a copy whose every layer has been initialised anew from ``seed``."""
    model = copy.deepcopy(model)
    # reset_parameters offers no generator; seeding the CPU one alone leaves accelerators untouched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return model.requires_grad_(True)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by at most one pixel along each axis, half the time not; background comes in."""
    n, height, width = len(images), images.shape[2], images.shape[3]
    padded = F.pad(images, (1, 1, 1, 1), value=float(images.min()))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    offsets = torch.tensor([0, 1, 1, 2])
    rows, columns = offsets[torch.randint(0, 4, (2, n), generator=generator)]
    return windows[torch.arange(n), :, rows, columns]
