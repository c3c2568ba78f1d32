"""Networks of the usual shapes with random weights: what a compression costs does not depend on what they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._small_models import Block

__all__ = ["SHAPES", "Shape"]

VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)
VOCABULARY, CONTEXT = 50_257, 128


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with BatchNorm (He, Zhang, Ren, Sun 2016)."""

    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = 4 * inner
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        self.short = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.short(x))


def resnet50() -> nn.Module:
    """ResNet-50 for 224 x 224 images and 1,000 classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for inner, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(Bottleneck(before, inner, stride if index == 0 else 1))
            before = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))


def vgg19() -> nn.Module:
    """VGG-19 with BatchNorm for CIFAR-10."""
    layers: list[nn.Module] = []
    before = 3
    for width in VGG19:
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Base(nn.Module):
    """Twelve blocks of width 768 with twelve heads, on patches of 16 x 16 or on words."""

    def __init__(self, *, words: bool) -> None:
        super().__init__()
        self.words = words
        self.embed = nn.Embedding(VOCABULARY, 768) if words else nn.Conv2d(3, 768, 16, 16)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT if words else 196, 768))
        self.blocks = nn.Sequential(*(Block(768, 12, causal=words) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, VOCABULARY if words else 1000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if not self.words:
            x = x.flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x + self.position))
        # Of the words, the last one only: calibration needs no logits of the others.
        return self.head(x[:, -1] if self.words else x.mean(1))


@dataclass(frozen=True, slots=True)
class Shape:
    """A network, its inputs, the calibration samples, and output positions of a convolution per batch."""

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    samples: int
    batch: int
    words: bool = False

    def draw(self, n: int, seed: int) -> Tensor:
        """Return n random inputs: smooth images, or words."""
        rows = torch.Generator().manual_seed(seed)
        if self.words:
            return torch.randint(VOCABULARY, (n, *self.inputs), generator=rows)
        coarse = torch.randn(n, 3, 8, 8, generator=rows)
        smooth = F.interpolate(coarse, self.inputs[1:], mode="bilinear", align_corners=False)
        return smooth + 0.1 * torch.randn(n, *self.inputs, generator=rows)

    def network(self) -> nn.Module:
        """Return the network with random weights; BatchNorm statistics are those of 32 inputs."""
        torch.manual_seed(0)
        model = self.make()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
        if norms:
            with torch.no_grad():
                model.train()(self.draw(32, seed=1))
        return model.eval()


SHAPES = {
    "VGG-19, 32 x 32": Shape(vgg19, (3, 32, 32), 1600, 128),
    "ResNet-50, 224 x 224": Shape(resnet50, (3, 224, 224), 256, 32),
    "ViT-B/16, 224 x 224": Shape(lambda: Base(words=False), (3, 224, 224), 80, 16),
    "GPT-2 small, 128 words": Shape(lambda: Base(words=True), (CONTEXT,), 160, 16, words=True),
}
