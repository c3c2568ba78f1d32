"""What is known about the labels of a graph: which neuron each entry of each tensor belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON, Attention, Coupling, Tied, Unions
from pathnorm.deep.layers import Layer

__all__ = ["LabelMap", "constant_along", "constant_over", "labels_along"]


@dataclass(slots=True)
class LabelMap:
    """The labels of every node, the layers, and what was not understood.

    Attributes
    ----------
    labels : dict
        Node -> integer tensor of the value's shape (batch of the example), ``NO_NEURON``
        where an entry is no neuron. Nodes without any neuron are absent.
    layers : dict
        Node -> :class:`Layer`.
    offsets : dict
        Layer node -> label of its first neuron.
    reasons : dict
        Label offset of a layer -> why its neurons cannot be removed.
    shapes : dict
        Node -> shape of the value for the example batch.
    carriers : dict
        Label offset of a layer -> nodes whose values hold its neurons, in forward order.
    coupling : {"none", "interior", "streams"}
        Which channels may be coupled, see :mod:`pathnorm.deep.coupling`.
    attention : {"heads", "values"}
        What of an attention is a neuron.
    unions : Unions
        The labels that only go together. The labels of nodes are not rewritten.
    tied : list of Tied
        Parameters with one entry per channel that are no layer's: depthwise kernels, BatchNorms, channel scales.
    parts : dict
        Node that returns several tensors -> the labels of each.
    mixed : list of Tied
        What an operation that mixes the channels has to leave out once they are gone, see :mod:`pathnorm.deep.mixing`.
    shared : set of str
        Weights that are used more than once, every use of which is understood.
    heads : list of torch.Tensor
        Labels of the neurons that are heads of an attention.
    refused : dict
        Module path of a layer whose own neurons cannot be treated -> their number and why.
    """

    labels: dict[fx.Node, Tensor] = field(default_factory=dict)
    layers: dict[fx.Node, Layer] = field(default_factory=dict)
    offsets: dict[fx.Node, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    carriers: dict[int, list[fx.Node]] = field(default_factory=dict)
    coupling: Coupling = "none"
    attention: Attention = "heads"
    unions: Unions = field(default_factory=Unions)
    tied: list[Tied] = field(default_factory=list)
    parts: dict[fx.Node, tuple[Tensor, ...]] = field(default_factory=dict)
    mixed: list[Tied] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)
    heads: list[Tensor] = field(default_factory=list)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)

    def owners(self, labels: Tensor) -> set[int]:
        """Return the offsets of the layers that ``labels`` belong to."""
        found = torch.unique(labels[labels != NO_NEURON])
        if found.numel() == 0:
            return set()
        starts = torch.tensor(self._starts, dtype=torch.int64)
        return {self._starts[i] for i in torch.unique(torch.searchsorted(starts, found, right=True) - 1).tolist()}

    def block(self, labels: Tensor, reason: str) -> None:
        """Record why the owners of ``labels`` must stay; the first reason wins."""
        for offset in self.owners(labels):
            self.reasons.setdefault(offset, reason)

    def tie(self, keys: Sequence[tuple[str, int]], labels: Tensor, dim: int) -> bool:
        """Tie parameters, given with their channel dimension, to the channels along ``dim`` of ``labels``."""
        along = labels_along(labels, dim)
        if along is None:
            return False
        self.tied += [Tied(key, channel, along) for key, channel in keys]
        return True

    def add_layer(self, layer: Layer, shape: tuple[int, ...]) -> None:
        """Give the outputs of ``layer`` fresh labels."""
        offset = self._starts[-1] + self._widths() if self._starts else 0
        self._starts.append(offset)
        self.layers[layer.node] = layer
        self.offsets[layer.node] = offset
        ids = torch.arange(offset, offset + layer.width)
        dim = layer.channel_dim % len(shape)
        view = [1] * len(shape)
        view[dim] = layer.width
        self.labels[layer.node] = ids.view(view).expand(shape)

    def _widths(self) -> int:
        return list(self.layers.values())[-1].width


def constant_along(labels: Tensor, dim: int) -> bool:
    """Whether labels do not differ along ``dim``."""
    return bool((labels == labels.narrow(dim, 0, 1)).all())


def constant_over(labels: Tensor, dims: Sequence[int]) -> Tensor | None:
    """Return the labels reduced over ``dims``, ignoring entries that are no neuron; None if they differ."""
    result = labels
    for dim in dims:
        high = result.amax(dim, keepdim=True)
        filled = torch.where(result == NO_NEURON, high, result)
        if bool((filled != high).any()):
            return None
        result = high
    return result


def labels_along(labels: Tensor, dim: int) -> Tensor | None:
    """Return the label at every place along ``dim``, (size,); None if other dimensions tell neurons apart."""
    constant = constant_over(labels, [other for other in range(labels.ndim) if other != dim % labels.ndim])
    return None if constant is None else constant.flatten()
