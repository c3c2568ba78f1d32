"""Neuron groups: the neurons of one layer, everything that acts on them, everything that reads them.

A group is what compression removes together: rows of the producer, entries of the
BatchNorm that follows, and blocks of columns of every consumer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.labels import LabelMap, Layer, channels_read, propagate
from pathnorm.report.records import SkippedGroup

__all__ = ["POSITIVELY_HOMOGENEOUS", "BatchNorm", "Consumer", "NeuronGroup", "Neurons", "Site", "find_neurons"]

_HOMOGENEOUS = frozenset({"relu", "leaky_relu"})
# Operations f with f(a x) = a f(x) for a > 0 on the way from the layer to its readers.
POSITIVELY_HOMOGENEOUS = frozenset(
    "relu leaky_relu getitem view _unsafe_view reshape flatten permute transpose t squeeze unsqueeze expand clone "
    "contiguous alias slice select narrow max_pool2d max_pool2d_with_indices avg_pool2d "
    "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean amax amin sum upsample_nearest2d "
    "upsample_bilinear2d dropout abs".split()
)
_IDENTITIES = frozenset({"clone", "alias", "contiguous", "detach", "dropout"})


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
    """A layer that reads the neurons of a group and nothing else.

    ``neurons`` holds, for every input channel of the layer, the index of the neuron in the group.
    """

    layer: Layer
    neurons: Tensor
    site: Site

    @property
    def has_intercept(self) -> bool:
        """Whether a constant can be added to every output: own bias, or the mean of the BatchNorm behind."""
        return self.layer.bias is not None or self.site.norm is not None


@dataclass(frozen=True, slots=True)
class NeuronGroup:
    """The neurons of one producer.

    Attributes
    ----------
    producer : Layer
        Its rows are the neurons.
    norm : BatchNorm or None
        Acts on the neurons before they are read.
    activations : tuple of str
        Operations that act on the neurons, in forward order.
    consumers : tuple of Consumer
        Every layer that reads them.
    """

    producer: Layer
    norm: BatchNorm | None
    activations: tuple[str, ...]
    consumers: tuple[Consumer, ...]

    @property
    def name(self) -> str:
        """Module path of the producer."""
        return self.producer.name

    @property
    def width(self) -> int:
        """Number of neurons, K."""
        return self.producer.width

    @property
    def not_homogeneous(self) -> tuple[str, ...]:
        """Operations on the neurons that do not commute with a positive factor, in forward order."""
        return tuple(name for name in self.activations if name not in POSITIVELY_HOMOGENEOUS)

    def theorem(self) -> tuple[bool, str]:
        """Say whether the layer-width theorem covers the group, and why or why not [SPLN24]."""
        acting = [name for name in self.activations if name not in _IDENTITIES]
        odd = sorted({name for name in acting if name in _NONLINEAR and name not in _HOMOGENEOUS})
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
    "reciprocal softshrink hardshrink tanhshrink softsign log1p expm1 mul div".split()
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


def find_neurons(graph: ModelGraph, state: State, example: Tensor, *, skip: Collection[str] = ()) -> Neurons:
    """Return the neuron groups of a network and the neurons left alone.

    Parameters
    ----------
    skip : collection of str
        Module paths of producers to leave alone.

    Raises
    ------
    ValueError
        If ``skip`` names a module that is no linear or convolution layer of the network.
    """
    found = propagate(graph, state, example)
    names = {layer.name for layer in found.layers.values()}
    unknown = sorted(set(skip) - names)
    if unknown:
        raise ValueError(
            f"skip must name linear or convolution layers of the model. Unknown: {', '.join(unknown)}. "
            f"The model has: {', '.join(sorted(names))}."
        )
    groups: list[NeuronGroup] = []
    skipped: list[SkippedGroup] = []
    for node, layer in found.layers.items():
        result = "listed in skip" if layer.name in skip else _group(graph, found, layer, found.offsets[node])
        if isinstance(result, NeuronGroup):
            groups.append(result)
        else:
            skipped.append(SkippedGroup(name=layer.name, width=layer.width, reason=result))
    groups.sort(key=lambda group: min(graph.index(consumer.layer.node) for consumer in group.consumers))
    consumed = {consumer.layer.node for group in groups for consumer in group.consumers}
    readers = tuple(
        Consumer(layer, torch.arange(layer.fan_in), _site(graph, layer))
        for node, layer in found.layers.items()
        if node not in consumed
    )
    return Neurons(tuple(groups), tuple(skipped), readers, found)


def _group(graph: ModelGraph, found: LabelMap, producer: Layer, offset: int) -> NeuronGroup | str:
    """Follow the labels of one producer to its consumers, or say why they cannot be removed."""
    if offset in found.reasons:
        return found.reasons[offset]
    norm: BatchNorm | None = None
    activations: list[str] = []
    consumers: list[Consumer] = []
    for node in found.carriers[offset]:
        for user in node.users:
            if user in found.layers:
                consumer = _consumer(graph, found, found.layers[user], offset, producer.width)
                if isinstance(consumer, str):
                    return consumer
                if all(other.layer.node is not consumer.layer.node for other in consumers):
                    consumers.append(consumer)
            elif (this := _batch_norm(graph, user)) is not None:
                if norm is not None or node is not producer.node:
                    return f"{this.name} is a second normalisation or does not follow the layer directly"
                norm = this
            elif user in found.labels and op_name(user) not in activations:
                activations.append(op_name(user))
    refusal = _refusal(graph, producer, norm) if consumers else "no layer reads them"
    return refusal or NeuronGroup(producer, norm, tuple(activations), tuple(consumers))


def _refusal(graph: ModelGraph, producer: Layer, norm: BatchNorm | None) -> str | None:
    """Say why the tensors of a producer and its BatchNorm cannot be sliced; None if they can."""
    if norm is not None and len(producer.node.users) > 1:
        return f"read before and after {norm.name}"
    keys = [producer.bias, *(norm.keys if norm else ())]
    shared = [key for key in keys if key is not None and _uses(graph, key) > 1]
    return f"{shared[0]} is used more than once" if shared else None


def _consumer(graph: ModelGraph, found: LabelMap, layer: Layer, offset: int, width: int) -> Consumer | str:
    channels = channels_read(layer, found.labels[layer.source])
    if channels is None:
        return f"{layer.name} reads them in an order that is not per channel"
    neurons = channels - offset
    if bool(((neurons < 0) | (neurons >= width)).any()):
        return f"{layer.name} reads them together with other channels"
    counts = torch.bincount(neurons, minlength=width)
    if bool((counts != counts[0]).any()):
        return f"{layer.name} reads some neurons more often than others"
    return Consumer(layer, neurons, _site(graph, layer))


def _site(graph: ModelGraph, layer: Layer) -> Site:
    """Follow the consumer's output through BatchNorm, identities and one addition."""
    norm: BatchNorm | None = None
    node = layer.node
    while len(node.users) == 1:
        (user,) = node.users
        this = _batch_norm(graph, user)
        if this is not None and norm is None and node is layer.node:
            if any(_uses(graph, key) > 1 for key in this.keys):
                break
            norm = this
        elif op_name(user) == "add" and user.kwargs.get("alpha", 1) == 1 and len(user.all_input_nodes) == 2:
            return Site(user, norm)
        elif op_name(user) not in _IDENTITIES and not (op_name(user) == "getitem" and _batch_norm(graph, node)):
            break
        node = user
    return Site(node, norm)


def _batch_norm(graph: ModelGraph, node: fx.Node) -> BatchNorm | None:
    """Read a BatchNorm call; None if ``node`` is none with running statistics."""
    name = op_name(node)
    if name not in {"batch_norm", "_native_batch_norm_legit_no_training"}:
        return None
    keys = [graph.state_key(argument) for argument in node.args[1:5]]
    if keys[2] is None or keys[3] is None:
        return None
    return BatchNorm(keys[0], keys[1], keys[2], keys[3], eps=float(node.args[-1 if name[0] == "_" else 7]))  # type: ignore[arg-type]


def _uses(graph: ModelGraph, key: str) -> int:
    return sum(len(node.users) for node in graph.nodes if graph.state_keys.get(node.name) == key)
