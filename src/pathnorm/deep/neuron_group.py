"""Neuron groups: the neurons of one layer, or of layers that are coupled, and everything that acts on or reads them.

A group is what compression removes together: rows of the producers, entries of BatchNorms, kernels and scales, and
blocks of columns of every consumer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON, STREAM
from pathnorm.deep.graph import State
from pathnorm.deep.labels import LabelMap
from pathnorm.deep.layers import Layer
from pathnorm.errors import UnsupportedModelError
from pathnorm.report.records import SkippedGroup

__all__ = [
    "IDENTITIES",
    "POSITIVELY_HOMOGENEOUS",
    "BatchNorm",
    "Consumer",
    "NeuronGroup",
    "Neurons",
    "Producer",
    "Rows",
    "Site",
]

_HOMOGENEOUS = frozenset({"relu", "leaky_relu"})
# Operations f with f(a x) = a f(x) for a > 0 on the way from the layer to its readers.
POSITIVELY_HOMOGENEOUS = frozenset(
    "relu leaky_relu getitem view _unsafe_view reshape flatten permute transpose t squeeze unsqueeze expand clone "
    "contiguous alias slice select narrow max_pool2d max_pool2d_with_indices avg_pool2d "
    "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean amax amin sum upsample_nearest2d "
    "upsample_bilinear2d dropout abs".split()
)
IDENTITIES = frozenset({"clone", "alias", "contiguous", "detach", "dropout"})


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """State keys of a BatchNorm in evaluation mode: an affine map per channel."""

    weight: str | None
    bias: str | None
    mean: str
    variance: str
    eps: float

    @property
    def name(self) -> str:
        """Module path."""
        return self.mean.rpartition(".")[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """The state entries with one value per channel."""
        return tuple(key for key in (self.weight, self.bias, self.mean, self.variance) if key is not None)

    def gain(self, state: State) -> Tensor:
        """Return ``gamma / sqrt(var + eps)`` in float64."""
        scale = 1.0 / torch.sqrt(state[self.variance].double() + self.eps)
        return scale if self.weight is None else scale * state[self.weight].double()

    def shift(self, state: State) -> Tensor:
        """Return the constant that the map adds."""
        shift = -state[self.mean].double() * self.gain(state)
        return shift if self.bias is None else shift + state[self.bias].double()


@dataclass(frozen=True, slots=True)
class Site:
    """Where the output of a consumer is compared with the original network.

    The value at ``node`` is the consumer's output times the gain of ``norm`` (if any), plus
    terms that do not depend on the consumer, e.g. the residual stream.
    """

    node: fx.Node
    norm: BatchNorm | None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A layer that reads the neurons of a group.

    ``neurons`` holds, for every input channel of the layer, the index of the neuron in the group, ``NO_NEURON`` where
    the channel belongs to another one.
    """

    layer: Layer
    neurons: Tensor
    site: Site

    @property
    def has_intercept(self) -> bool:
        """Whether a constant can be added to every output: own bias, or the mean of the BatchNorm behind."""
        return self.layer.bias is not None or self.site.norm is not None

    @property
    def whole(self) -> bool:
        """Whether the layer reads nothing but the group."""
        return not bool((self.neurons == NO_NEURON).any())

    def channels(self, chosen: Tensor) -> Tensor:
        """Return which input channels hold the neurons that ``chosen`` (K,) of bool marks."""
        return (self.neurons != NO_NEURON) & chosen.to(self.neurons.device)[self.neurons.clamp_min(0)]


@dataclass(frozen=True, slots=True)
class Producer:
    """A layer whose output channels are neurons of a group, with the BatchNorm right behind it.

    ``neurons`` holds the index of the neuron for every output channel, ``NO_NEURON`` for those of other groups.
    """

    layer: Layer
    norm: BatchNorm | None
    neurons: Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """A state entry with one slice along ``dim`` for every channel; ``NO_NEURON`` for channels of others."""

    key: str
    dim: int
    neurons: Tensor


@dataclass(frozen=True, slots=True)
class NeuronGroup:
    """Neurons that are removed together.

    Attributes
    ----------
    producers : tuple of Producer
        One, or all that write into a residual stream or the two sides of a gate.
    activations : tuple of str
        Operations that act on the neurons, in forward order.
    consumers : tuple of Consumer
        Every layer that reads them.
    tied : tuple of Rows
        What else has an entry per neuron: depthwise kernels, BatchNorms behind a sum, channel scales.
    mixed : tuple of Rows
        Operations over all neurons, as LayerNorm is, by the state entry that says which are left.
    block : str
        Which of the neurons these are, where a layer is treated in blocks.
    heads : bool
        Whether each neuron is a head of an attention, or all heads that share keys and values.
    """

    producers: tuple[Producer, ...]
    activations: tuple[str, ...]
    consumers: tuple[Consumer, ...]
    tied: tuple[Rows, ...] = ()
    mixed: tuple[Rows, ...] = ()
    block: str = ""
    heads: bool = False

    @property
    def producer(self) -> Layer:
        """The first producer; in a group that is not coupled its rows are the neurons."""
        return self.producers[0].layer

    @property
    def norm(self) -> BatchNorm | None:
        """The BatchNorm right behind the first producer."""
        return self.producers[0].norm

    @property
    def coupled(self) -> bool:
        """Whether more than the rows of one layer, its BatchNorm and columns of layers of their own is involved."""
        plain = self.producers[0].layer.width == self.width
        several = len(self.producers) > 1 or bool(self.tied) or bool(self.mixed)
        return several or not plain or not all(c.whole for c in self.consumers)

    @property
    def rows(self) -> tuple[Rows, ...]:
        """Every state entry with a slice per neuron."""
        own = [
            Rows(key, 0, producer.neurons)
            for producer in self.producers
            for key in (producer.layer.weight, producer.layer.bias, *(producer.norm.keys if producer.norm else ()))
            if key is not None
        ]
        return (*own, *self.tied)

    @property
    def name(self) -> str:
        """Module path of the first producer, and the block of its neurons if there are several."""
        return self.producer.name + self.block

    @property
    def width(self) -> int:
        """Number of neurons, K."""
        return int(self.producers[0].neurons.max()) + 1

    @property
    def not_homogeneous(self) -> tuple[str, ...]:
        """Operations on the neurons that do not commute with a positive factor, in forward order."""
        return tuple(name for name in self.activations if name not in POSITIVELY_HOMOGENEOUS)

    def theorem(self) -> tuple[bool, str]:
        """Say whether the layer-width theorem covers the group, and why or why not [SPLN24]."""
        acting = [name for name in self.activations if name not in IDENTITIES]
        odd = sorted({name for name in acting if name in _NONLINEAR and name not in _HOMOGENEOUS})
        if self.block:
            return False, "the layer is treated in blocks"
        if self.coupled:
            return False, "the neurons are coupled with those of other layers"
        if self.norm is not None:
            return False, "BatchNorm stands between the weights and the neurons"
        if odd:
            return False, f"{', '.join(odd)} is not homogeneous"
        if not set(acting) & _HOMOGENEOUS:
            return False, "no homogeneous activation acts on the neurons"
        if any(consumer.site.norm is not None for consumer in self.consumers):
            return False, "BatchNorm follows the consumer, so its weights are scale-free"
        return True, "homogeneous, no normalisation; assumes a global minimiser of weight decay"


_NONLINEAR = frozenset(
    "relu relu6 leaky_relu gelu silu tanh sigmoid elu celu selu softplus mish hardswish hardsigmoid hardtanh "
    "threshold log_sigmoid clamp clamp_min clamp_max abs exp log sqrt rsqrt square pow sin cos erf sign "
    "reciprocal softshrink hardshrink tanhshrink softsign log1p expm1 mul div var logsumexp".split()
)


@dataclass(frozen=True, slots=True)
class Neurons:
    """All neurons of a network.

    Attributes
    ----------
    groups : tuple of NeuronGroup
        Those that can be removed, in the order in which their first consumer runs.
    skipped : tuple of SkippedGroup
        Those left alone, with reasons.
    readers : tuple of Consumer
        Every other layer with weights of its own, reading any channels: can be refitted, not pruned.
    labels : LabelMap
    """

    groups: tuple[NeuronGroup, ...]
    skipped: tuple[SkippedGroup, ...]
    readers: tuple[Consumer, ...]
    labels: LabelMap

    def require_groups(self) -> tuple[NeuronGroup, ...]:
        """Return the groups.

        Raises
        ------
        UnsupportedModelError
            If there is none; it says for every layer why.
        """
        if self.groups:
            return self.groups
        layers: dict[str, list[str]] = {}
        for item in self.skipped:
            layers.setdefault(item.reason, []).append(item.name)
        listing = "; ".join(f"{_listed(names)}: {reason}" for reason, names in layers.items())
        summed = self.labels.coupling == "interior" and any(STREAM in reason for reason in layers)
        raise UnsupportedModelError(
            "The model must have neurons between two linear or convolution layers that can be removed. "
            f"None of its layers qualifies ({listing or 'it has no such layer'})."
            f"{' Channels of residual streams can be removed with streams=True.' if summed else ''}"
        )


def _listed(names: list[str], most: int = 3) -> str:
    """Put the first of many names into words."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
