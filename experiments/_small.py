"""Small networks on MNIST and CIFAR-10, trained by plain stochastic gradient descent with any optimiser around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

from benchmarks._harness import data_root
from benchmarks.cifar_resnet import load_cifar10
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import NeuronNorms, neuron_norms
from pathnorm.deep.regularize import live_state

__all__ = [
    "ACTIVE",
    "Data",
    "active_neurons",
    "cifar10",
    "cnn",
    "concrete",
    "diabetes",
    "digits",
    "evaluate",
    "fit",
    "mlp",
    "mnist",
    "norms_of",
]

# A neuron counts as active if its mass ||w|| ||v|| is above this share of the largest of its layer.
ACTIVE = 1e-3
BATCH = 100
Data = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def mnist(count: int) -> Data:
    """The first ``count`` training digits (n, 784), centred and scaled, their labels, and all 10,000 of the test."""
    folder = data_root() / "mnist"

    def read(split: str, sheets: int, most: int) -> tuple[Tensor, Tensor]:
        parts = []
        for index in range(sheets):
            sheet = np.asarray(Image.open(folder / f"{split}_{index}.webp").convert("L"))
            rows, columns = sheet.shape[0] // 28, sheet.shape[1] // 28
            parts.append(sheet.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 784))
            if sum(part.shape[0] for part in parts) >= most:
                break
        labels = np.load(folder / f"{split}_labels.npy")[:most].astype(np.int64)
        images = torch.from_numpy(np.concatenate(parts)[:most]).float()
        return (images / 255 - 0.1307) / 0.3081, torch.from_numpy(labels)

    return *read("train", 6, count), *read("test", 1, 10_000)


def digits(count: int) -> Data:
    """Digits of scikit-learn in the place of MNIST for quick runs: (n, 784), standardised, and 297 to test."""
    found = load_digits()
    images = F.interpolate(torch.from_numpy(found.images).float()[:, None], (28, 28)).reshape(-1, 784)
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(found.target.astype(np.int64))
    count = min(count, 1_500)
    return images[:count], labels[:count], images[1_500:], labels[1_500:]


def cifar10(count: int, test: int) -> Data:
    """The first images of both splits, normalised (n, 3, 32, 32), with labels."""
    root = data_root()
    return *load_cifar10(root, "train", count), *load_cifar10(root, "test", test)


def concrete() -> Data:
    """Concrete strength, 927 samples to train and 103 to test (the first standard split), all columns standardised."""
    table = np.loadtxt(data_root() / "uci_regression" / "concrete.txt")
    order = np.random.RandomState(1).choice(np.arange(len(table)), len(table), replace=False)
    cut = round(0.9 * len(table))
    table = (table - table[order[:cut]].mean(0)) / table[order[:cut]].std(0)
    rows = torch.from_numpy(table[order]).float()
    return rows[:cut, :-1], rows[:cut, -1:], rows[cut:, :-1], rows[cut:, -1:]


def diabetes() -> Data:
    """The first eight columns of scikit-learn's diabetes table in the place of concrete for quick runs."""
    table = load_diabetes()
    x, y = (torch.from_numpy(part).float() for part in (table.data[:, :8], table.target[:, None]))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    return x[:400], y[:400], x[400:], y[400:]


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(width: int = 16) -> nn.Sequential:
    """Six convolutions with BatchNorm in three resolutions, and a linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for after in (width, 2 * width, 4 * width):
        for source in (before, after):
            layers += [nn.Conv2d(source, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    *,
    epochs: int,
    seed: int = 0,
    loss: Loss = F.cross_entropy,
    after: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Minimise the mean ``loss``; ``after`` is called with 0, 1, .., epochs, and may step a scheduler."""
    images, labels = data[:2]
    after(0)
    for epoch in range(epochs):
        model.train()
        generator = torch.Generator().manual_seed(1_000 * seed + epoch)
        for chunk in torch.randperm(labels.numel(), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss(model(images[chunk]), labels[chunk]).backward()
            optimizer.step()
        model.eval()
        after(epoch + 1)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in evaluation mode."""
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            outputs = model(x)
            loss += float(F.cross_entropy(outputs, y, reduction="sum"))
            right += int((outputs.argmax(1) == y).sum())
    return loss / labels.numel(), right / labels.numel()


@torch.no_grad()
def norms_of(model: nn.Module, groups: tuple[NeuronGroup, ...]) -> dict[str, NeuronNorms]:
    """Norms of the neurons of every group, biases included, in the coordinates in which weight decay acts."""
    state = live_state(model)
    return {group.name: neuron_norms(group, state, biases=True, batch_norm="gain") for group in groups}


def active_neurons(norms: NeuronNorms) -> int:
    masses = norms.masses
    return int((masses > ACTIVE * masses.max()).sum()) if float(masses.max()) > 0.0 else 0
