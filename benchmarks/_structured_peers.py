"""Peers that remove feed-forward neurons and heads of a transformer: one score per unit, no refit of weights.

All remove the same number of units from every block, so that only the choice, and what is done about it, differ.

- magnitude: mean over the layers of a unit of their squared weights, Torch-Pruning's ``GroupMagnitudeImportance``.
- wanda: ``|W_ij| ||X_j||`` averaged over the outputs i of the layer that reads the units and summed over the channels j
  of a head, with the inputs of the network as pruned so far. Sun et al. (2023), in the structured form (Wanda-sp) of An
  et al. (2023).
- flap: variance ``Var(X_j) ||W_:j||^2`` of what a channel contributes, summed over a head, on the dense network; the
  mean of what is removed goes into the bias. An et al. (2023), with as much removed from every layer (their UL-UM).
- flap-squared: as flap, with the squares of a head's channels summed, as the authors' released code has it for heads.
- random: the least that a score should be better than.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._small_models import Block, Transformer

__all__ = ["PARTS", "PEERS", "Part", "Peer", "prune"]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Units of a block: the layers that make them, the layer that reads them, channels per unit."""

    producers: tuple[nn.Linear, ...]
    consumer: nn.Linear
    size: int

    @property
    def units(self) -> int:
        return self.consumer.in_features // self.size

    def left(self, removed: float) -> int:
        """Return how many units stay when a share is removed."""
        return self.units - round(removed * self.units)

    def per_unit(self, channels: Tensor) -> Tensor:
        """Sum what belongs to the channels over those of a unit."""
        return channels.view(self.units, self.size).sum(1)

    def cut(self, keep: Tensor, mean: Tensor | None) -> None:
        """Keep the units ``keep`` (sorted) in place; what the others give on average goes into the bias, if given."""
        stays = torch.zeros(self.units, dtype=torch.bool)
        stays[keep] = True
        channels = stays.repeat_interleave(self.size)
        if mean is not None:
            lost = self.consumer.weight.data[:, ~channels].double() @ mean[~channels]
            self.consumer.bias.data = (self.consumer.bias.data.double() + lost).to(self.consumer.bias.dtype)
        for layer in self.producers:
            layer.weight.data, layer.bias.data = layer.weight.data[channels], layer.bias.data[channels]
            layer.out_features = layer.weight.shape[0]
        self.consumer.weight.data = self.consumer.weight.data[:, channels]
        self.consumer.in_features = self.consumer.weight.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Moments of the channels that a layer reads, over samples and positions, float64."""

    mean: Tensor
    variance: Tensor
    squared: Tensor  # ||X_j||^2


Score = Callable[[Part, Inputs, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A score per unit; whether inputs are those of the pruned network, and whether the bias makes up for the mean."""

    score: Score
    sequential: bool = False
    bias: bool = False


def _feed_forward(block: Block) -> Part:
    return Part((block.up,), block.down, 1)


def _heads(block: Block) -> Part:
    own = block.attention
    return Part((own.query, own.key, own.value), own.out, own.head_dim)


PARTS: dict[str, Callable[[Block], Part]] = {"heads": _heads, "ffn": _feed_forward}


def prune(model: Transformer, data: Tensor, peer: Peer, *, removed: Mapping[str, float], seed: int = 0) -> Transformer:
    """Return a copy with a share of the units removed from every block.

    Parameters
    ----------
    data : torch.Tensor
        Unlabelled inputs of the network.
    removed : mapping
        Share of the units to remove by the names of :data:`PARTS`.
    """
    small = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        stream = [small.stem(batch) for batch in data.split(_BATCH)]
        for block in small.blocks:
            parts = {name: PARTS[name](block) for name in removed}
            moments, after = _observe(block, parts, stream)
            for name, part in parts.items():
                scores = peer.score(part, moments[name], generator)
                keep = scores.topk(part.left(removed[name])).indices.sort().values
                part.cut(keep, moments[name].mean if peer.bias else None)
            stream = [block(x) for x in stream] if peer.sequential else after
    return small


def _observe(block: Block, parts: Mapping[str, Part], stream: list[Tensor]) -> tuple[dict[str, Inputs], list[Tensor]]:
    """Return the moments of what the consumers read, and the block's outputs."""
    sums: dict[str, list[Tensor]] = {}

    def add(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].flatten(0, -2).double()
            new = [torch.tensor(float(len(rows))), rows.sum(0), rows.square().sum(0)]
            sums[name] = [old + more for old, more in zip(sums[name], new, strict=True)] if name in sums else new

        return hook

    hooks = [part.consumer.register_forward_pre_hook(add(name)) for name, part in parts.items()]
    try:
        after = [block(x) for x in stream]
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(*found) for name, found in sums.items()}, after


def _moments(count: Tensor, total: Tensor, squared: Tensor) -> Inputs:
    mean = total / count
    return Inputs(mean=mean, variance=(squared - count * mean.square()) / (count - 1), squared=squared)


def _magnitude(part: Part, inputs: Inputs, generator: torch.Generator) -> Tensor:
    rows = [layer.weight.double().square().sum(1) for layer in part.producers]
    columns = part.consumer.weight.double().square().sum(0)
    return part.per_unit(torch.stack([*rows, columns]).mean(0))


def _wanda(part: Part, inputs: Inputs, generator: torch.Generator) -> Tensor:
    return part.per_unit((part.consumer.weight.double().abs() * inputs.squared.sqrt()).mean(0))


def _variance(part: Part, inputs: Inputs) -> Tensor:
    return inputs.variance * part.consumer.weight.double().square().sum(0)


def _flap(part: Part, inputs: Inputs, generator: torch.Generator) -> Tensor:
    return part.per_unit(_variance(part, inputs))


def _flap_squared(part: Part, inputs: Inputs, generator: torch.Generator) -> Tensor:
    return part.per_unit(_variance(part, inputs).square())


def _random(part: Part, inputs: Inputs, generator: torch.Generator) -> Tensor:
    return torch.rand(part.units, generator=generator)


PEERS: dict[str, Peer] = {
    "magnitude": Peer(score=_magnitude),
    "wanda": Peer(score=_wanda, sequential=True),
    "flap": Peer(score=_flap, bias=True),
    "flap-squared": Peer(score=_flap_squared, bias=True),
    "random": Peer(score=_random),
}
