"""The CIFAR-10 ResNets of the frontier: cases, Torch-Pruning 1.6.1 on them, and one epoch of training.

Torch-Pruning's scores are used at their defaults, with one ratio for all layers (``global_pruning=False``, as in its
examples) or one threshold for the whole network (``global_pruning=True``). Those that need data see images and no
labels; what had to be repaired of them is told in ``benchmarks/_torch_pruning.py``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks._harness import data_root, wilson
from benchmarks._isolated import Rows, stopwatch
from benchmarks._torch_pruning import PEERS
from benchmarks.cifar_resnet import BasicBlock, accuracy, load_cifar10, load_resnet
from pathnorm.deep import Frontier, frontier, plan

__all__ = [
    "INTERIOR",
    "KEY",
    "READING",
    "SETTINGS",
    "STREAMS",
    "VARIANTS",
    "Case",
    "Data",
    "Pruner",
    "Row",
    "count_macs",
    "kept_by_shortcuts",
    "projected",
    "shaped",
    "tune",
]

Row = dict[str, Any]
KEY = ("network", "coupling", "factor_asked", "method", "repair", "tuned")
INTERIOR, STREAMS = "interior", "streams"
READING: dict[str, Any] = {"max_positions": 16, "batch_size": 100}  # of calibration images, by pathnorm
SETTINGS: dict[str, Any] = {"outputs": "logits"} | READING
# LAMP ranks the channels of one layer like the magnitude: it differs with one threshold for the whole network only.
VARIANTS = {
    "tp-magnitude-local": ("magnitude", False),
    "tp-magnitude-global": ("magnitude", True),
    "tp-bn-scale-local": ("bn-scale", False),
    "tp-bn-scale-global": ("bn-scale", True),
    "tp-lamp-global": ("lamp", True),
    "tp-activation-local": ("activation", False),
    "tp-activation-global": ("activation", True),
    "tp-obdc-local": ("obdc", False),
    "tp-obdc-global": ("obdc", True),
}
_FROM_WEIGHTS = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(),
    "bn-scale": lambda: tp.importance.BNScaleImportance(),
    "lamp": lambda: tp.importance.LAMPImportance(),
}
_MOST = 0.98
_ROUNDS = 12
_PAD, _BATCH, _RATE, _DECAY = 4, 128, 0.01, 1e-4


@dataclass(frozen=True, slots=True)
class Data:
    """Calibration images, training images with labels, test images with labels."""

    images: Tensor
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, root: Path, samples: int, tuning: int, test: int) -> Data:
        """Read them; calibration images are the first training images."""
        train = load_cifar10(root, "train", max(samples, tuning))
        return cls(train[0][:samples], (train[0][:tuning], train[1][:tuning]), load_cifar10(root, "test", test))


@dataclass
class Case:
    """One network, cut in one way: what all methods share."""

    depth: int
    coupling: str
    data: Data
    store: Path
    rows: Rows
    quick: bool = False

    @cached_property
    def original(self) -> nn.Module:
        """The trained network."""
        return load_resnet(self.depth, data_root())

    @cached_property
    def model(self) -> nn.Module:
        """What is cut."""
        return projected(self.original, self.data.images[:500]) if self.coupling == STREAMS else self.original

    @cached_property
    def pruner(self) -> Pruner:
        """Torch-Pruning, its scores filled as they are needed."""
        return Pruner(self.model, self.coupling, self.data.images)

    @cached_property
    def frontier(self) -> tuple[Frontier, dict[str, float]]:
        """The curves that ours takes its widths from, the same for all factors, and the time they took."""
        read = stopwatch()
        return frontier(self.model, self.data.images, streams=self.coupling == STREAMS, **SETTINGS), read()

    @property
    def name(self) -> str:
        """As in the rows."""
        return f"ResNet-{self.depth}"

    def dense(self) -> float:
        """Return the accuracy of the trained network, from its row if there is one."""
        key = self.key(1.0, "dense") | {"coupling": INTERIOR}
        found = self.rows.find(key)
        if found is None:
            self.rows.add(found := key | self.measured(self.original))
        return float(found["accuracy"])

    def key(self, factor: float, method: str, repair: str = "none", *, tuned: bool = False) -> Row:
        """Return what names a row."""
        values = (self.name, self.coupling, factor, method, repair, tuned)
        return dict(zip(KEY, values, strict=True))

    def measured(self, model: nn.Module) -> Row:
        """Return size and accuracy; pathnorm's count of multiply-accumulates is checked against one by hooks."""
        macs, params = count_macs(model), sum(parameter.numel() for parameter in model.parameters())
        counted = plan(model, self.data.images[:10]).macs
        if macs != counted:
            raise AssertionError(f"{macs} multiply-accumulates by hooks, {counted} by pathnorm")
        images, labels = self.data.test
        reached = accuracy(model, images, labels)
        whole = sum(parameter.numel() for parameter in self.original.parameters())
        return {
            "factor_macs": count_macs(self.original) / macs,
            "macs": macs,
            "factor_params": whole / params,
            "params": params,
            "accuracy": reached,
            "interval": wilson(reached, labels.numel()),
        }

    def path(self, key: Row) -> Path:
        """Return where the network of a row is kept."""
        return self.store / ("_".join(str(key[part]) for part in KEY) + ".pt")

    def keep(self, key: Row, model: nn.Module) -> None:
        """Keep the network of a row."""
        self.store.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), self.path(key))

    def again(self, key: Row) -> nn.Module | None:
        """Return the network of a row, or None if it has not been kept."""
        path = self.path(key)
        return shaped(self.model, torch.load(path, weights_only=True)) if path.exists() else None


def count_macs(model: nn.Module) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image, counted as they run."""
    macs: list[int] = []

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        macs.append(output[0].numel() * layer.weight[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return sum(macs)


class _ProjectedBlock(nn.Module):
    """The same function as a block that subsamples and pads: a strided 1x1 convolution with rows of the identity."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        after, before = block.conv2.out_channels, block.conv1.in_channels
        self.shortcut = nn.Conv2d(before, after, 1, block.stride, bias=False)
        with torch.no_grad():
            self.shortcut.weight.zero_()
            self.shortcut.weight[block.extra // 2 :][:before, :, 0, 0] = torch.eye(before)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(branch + self.shortcut(x))


def projected(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy with convolutions for shortcuts, checked on the images: streams of the padded ones cannot be cut.

    Raises
    ------
    AssertionError
        If the outputs differ.
    """
    twin = copy.deepcopy(model).eval()
    for layer in (twin.layer1, twin.layer2, twin.layer3):
        for place, block in enumerate(layer):
            if block.extra:
                layer[place] = _ProjectedBlock(block)
    with torch.no_grad():
        expected, got = model(images), twin(images)
    gap = float((expected - got).abs().max() / expected.abs().max())
    if gap > 1e-6:
        raise AssertionError(f"The converted shortcuts change the outputs by {gap:.1e} of the largest.")
    return twin.eval()


def kept_by_shortcuts(model: nn.Module, pruned: nn.Module) -> dict[str, Tensor]:
    """Return the channels that converted shortcuts still have, which their own rows of zeros and ones do not show.

    They are those of the second convolution of the block, known by the four numbers of each in its BatchNorm.
    """
    kept = {}
    for path, block in pruned.named_modules():
        if isinstance(block, _ProjectedBlock):
            small, large = (
                torch.stack((norm.weight, norm.bias, norm.running_mean, norm.running_var), 1)
                for norm in (block.bn2, model.get_submodule(path).bn2)
            )
            same = (small[:, None] == large[None]).all(2)
            if not bool((same.sum(1) == 1).all()):
                raise AssertionError(f"The channels of {path} are not told apart by their BatchNorm.")
            kept[f"{path}.shortcut"] = same.int().argmax(1)
    return kept


@dataclass(slots=True)
class Pruner:
    """Torch-Pruning on one network: scores are filled once, every ratio is a cut of a copy.

    Attributes
    ----------
    coupling : str
        ``INTERIOR``: the first convolutions of the blocks; ``STREAMS``: all layers but the last.
    images : torch.Tensor
        Unlabelled, for the scores that need data.
    """

    model: nn.Module
    coupling: str
    images: Tensor
    _scored: dict[str, tuple[nn.Module, Any]] = field(default_factory=dict, repr=False)
    _macs: dict[tuple[str, float], int] = field(default_factory=dict, repr=False)

    def to_budget(self, variant: str, macs: float) -> tuple[nn.Module, float]:
        """Return the smallest network tried that has not fewer than ``macs``, and its ratio.

        The ratio is bisected; the multiply-accumulates move in steps, which are rounded in the peer's favour. With
        one threshold they need not fall with the ratio, as layers are left whole that would lose all channels.
        """
        low, high, best, least = 0.0, _MOST, 0.0, float("inf")
        for _ in range(_ROUNDS):
            ratio = (low + high) / 2
            found = self.macs(variant, ratio)
            if found >= macs:
                low = ratio
                if found < least:
                    best, least = ratio, found
            else:
                high = ratio
        return self.cut(variant, best), best

    def macs(self, variant: str, ratio: float) -> int:
        """Return the multiply-accumulates at a ratio; one ratio for all layers gives the same for every score."""
        score, whole = VARIANTS[variant]
        name = score if whole else ""
        if (name, ratio) not in self._macs:
            self._macs[name, ratio] = count_macs(self.cut(variant, ratio))
        return self._macs[name, ratio]

    def cut(self, variant: str, ratio: float) -> nn.Module:
        """Return a pruned copy."""
        score, whole = VARIANTS[variant]
        if score not in self._scored:
            self._scored[score] = self._fill(score)
        model, importance = copy.deepcopy(self._scored[score])
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # OBDC asks whether there is one
        for group in list(self._pruner(model, importance, ratio=ratio, whole=whole).step(interactive=True)):
            group.prune()
        model.zero_grad(set_to_none=True)
        for module in model.modules():
            vars(module).pop("_importance", None)
        return model.eval()

    def _fill(self, score: str) -> tuple[nn.Module, Any]:
        model = copy.deepcopy(self.model).eval()
        if score in _FROM_WEIGHTS:
            return model, _FROM_WEIGHTS[score]()
        importance = PEERS[f"tp-{score}"].score(model, self.images, torch.zeros(0))
        if score == "obdc":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its backward hooks
                importance.fill(model, self._pruner(model, importance, ratio=0.5, whole=False), self.images)
            model.zero_grad(set_to_none=True)
        return model, importance

    def _pruner(self, model: nn.Module, importance: Any, *, ratio: float, whole: bool) -> Any:
        return tp.pruner.BasePruner(
            model,
            self.images[:2],
            importance=importance,
            global_pruning=whole,
            pruning_ratio=ratio,
            ignored_layers=[
                layer
                for name, layer in model.named_modules()
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and not self._free(name)
            ],
        )

    def _free(self, name: str) -> bool:
        return name != "linear" if self.coupling == STREAMS else name.endswith(".conv1")


def shaped(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``model`` with the tensors of ``state``, whatever their shapes."""
    twin = copy.deepcopy(model)
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        owner = twin.get_submodule(path)
        kept = nn.Parameter(value.clone()) if name in ("weight", "bias") else value.clone()
        setattr(owner, name, kept)
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = layer.weight.shape[:2]
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = layer.weight.numel()
    return twin.eval()


def tune(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> nn.Module:
    """Return a copy after one epoch of training with labels: SGD, cosine to zero, shifted and mirrored images."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(labels.numel(), generator=generator)
    batches = order.split(_BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for chosen in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(_augmented(images[chosen], generator)), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by up to four pixels, zeros (the mean) coming in, and mirror half of them."""
    count, _, height, width = images.shape
    padded = F.pad(images, (_PAD,) * 4)
    down, right = torch.randint(2 * _PAD + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.where(mirrored[:, None], torch.arange(width).flip(0), torch.arange(width))
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
