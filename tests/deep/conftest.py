"""Small networks with random weights; BatchNorms have statistics that are not trivial."""

from __future__ import annotations

import importlib.util
import itertools
import socket
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Chain(nn.Module):
    """Convolution, BatchNorm, pooling, a functional flatten and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=1)
        self.act = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(12 * 4, 16)
        self.fc2 = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.conv2(x))
        x = F.avg_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), 0.3, self.training))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 10), Block(6, 10))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Branching(nn.Module):
    """Two layers read the same neurons; one goes through another order of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 5, 1)
        self.right = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(F.max_pool2d(self.first(x), 2), 0.1)
        return self.left(h).amax((2, 3)) + self.right(h.permute(0, 2, 3, 1).flatten(1))


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def build():
    """Return ``build(kind, seed)``: a seeded network of this file in evaluation mode."""
    kinds = {"chain": Chain, "residual": Residual, "branching": Branching, "mlp": lambda: mlp(6, 20, 14, 4)}

    def make(kind: str, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = kinds[kind]()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    nn.init.normal_(module.running_mean, std=0.3)
                    nn.init.uniform_(module.running_var, 0.5, 2.0)
        return model.eval()

    return make


@pytest.fixture
def sample():
    """Return ``sample(kind, n, seed)``: inputs for the networks of ``build``."""

    def draw(kind: str, n: int = 300, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (n, 6) if kind == "mlp" else (n, 2, 8, 8)
        return torch.randn(shape, generator=generator)

    return draw


@pytest.fixture
def two_ranks(tmp_path):
    """Return ``two_ranks(script)``: run it in two processes with arguments rank, port and folder; return the folder."""

    def run(script: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        (tmp_path / "work.py").write_text(script)
        workers = [
            subprocess.Popen([sys.executable, str(tmp_path / "work.py"), str(rank), port, str(tmp_path)])
            for rank in range(2)
        ]
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
        return tmp_path

    return run


@pytest.fixture(scope="session")
def torchvision_operators():
    """Let torchvision be imported beside a torch of another build, whose operators it does not find."""
    if importlib.util.find_spec("torchvision") is None:
        yield
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
        yield library
        return
    yield
