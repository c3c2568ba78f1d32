"""VGG for CIFAR-10 and its training: stochastic gradient descent with weight decay, in a run that can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["Training", "augmented", "convolutions", "cross_entropy", "load", "train", "vgg"]

# Simonyan and Zisserman (2015), configuration E; "M" halves the image.
_VGG19 = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M")


@dataclass(frozen=True)
class Training:
    """Momentum 0.9, learning rate from a warm-up of a tenth of the run down to zero along a cosine."""

    epochs: int
    lr: float = 0.05
    weight_decay: float = 5e-4
    batch: int = 128
    seed: int = 0


def vgg(narrower: int = 1, *, n_classes: int = 10) -> nn.Sequential:
    """VGG-19 with BatchNorm and one linear layer at the end; every layer ``narrower`` times narrower."""
    layers: list[nn.Module] = []
    before = 3
    for entry in _VGG19:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        after = entry // narrower
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, n_classes))


def convolutions(model: nn.Sequential) -> list[str]:
    """Names of the convolutions, in forward order."""
    return [name for name, layer in model.named_children() if isinstance(layer, nn.Conv2d)]


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by up to four pixels, zeros coming in, and mirror half of them."""
    n, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    shift = torch.randint(0, 9, (2, n), generator=generator)
    rows = shift[0][:, None] + torch.arange(height)
    cols = shift[1][:, None] + torch.arange(width)
    mirrored = torch.rand(n, generator=generator) < 0.5
    cols = torch.where(mirrored[:, None], cols.flip(1), cols)
    index = torch.arange(n)
    rows, cols, index = (t.to(images.device) for t in (rows, cols, index))
    # Advanced indices around a slice put the channels last.
    return padded[index[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def load(path: Path, narrower: int) -> nn.Sequential:
    """The trained network of a safetensors file, in evaluation mode."""
    model = vgg(narrower)
    model.load_state_dict(load_file(path))
    return model.eval()


def train(
    model: nn.Sequential, images: Tensor, labels: Tensor, plan: Training, *, checkpoint: Path
) -> Iterator[dict[str, Any]]:
    """Train in place; yield one row per epoch. A run that was cut off goes on from ``checkpoint``."""
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=0.9, weight_decay=plan.weight_decay, nesterov=True
    )
    steps = math.ceil(labels.numel() / plan.batch)
    total, warm = plan.epochs * steps, max(1, plan.epochs * steps // 10)

    def rate(step: int) -> float:
        return (step + 1) / warm if step < warm else 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (total - warm)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        first = saved["epoch"]
    for epoch in range(first, plan.epochs):
        generator = torch.Generator().manual_seed(plan.seed * 100_003 + epoch)
        order = torch.randperm(labels.numel(), generator=generator)
        model.train()
        started, loss_sum, right = time.perf_counter(), 0.0, 0
        for chunk in order.split(plan.batch):
            x = augmented(images[chunk], generator).to(device).contiguous(memory_format=torch.channels_last)
            y = labels[chunk].to(device)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                outputs = model(x)
            loss = F.cross_entropy(outputs.float(), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            loss_sum += float(loss.detach()) * y.numel()
            right += int((outputs.argmax(1) == y).sum())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "epoch": epoch + 1,
            },
            partial,
        )
        partial.replace(checkpoint)
        yield {
            "epoch": epoch + 1,
            "loss": loss_sum / labels.numel(),
            "accuracy": right / labels.numel(),
            "seconds": time.perf_counter() - started,
        }
    model.eval()


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 250) -> tuple[float, float]:
    """Mean loss and accuracy in evaluation mode."""
    device = next(model.parameters()).device
    loss, right = 0.0, 0
    with torch.no_grad():
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            outputs, truth = model(x.to(device)), y.to(device)
            loss += float(F.cross_entropy(outputs, truth, reduction="sum"))
            right += int((outputs.argmax(1) == truth).sum())
    return loss / labels.numel(), right / labels.numel()


def save(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
