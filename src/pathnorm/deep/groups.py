"""Find the neuron groups of a network: follow the labels of a layer to what acts on its neurons and what reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON, Attention, Coupling, joined
from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.labels import LabelMap, channels_read, propagate
from pathnorm.deep.layers import Layer
from pathnorm.deep.neuron_group import (
    IDENTITIES,
    BatchNorm,
    Consumer,
    NeuronGroup,
    Neurons,
    Producer,
    Rows,
    Site,
)
from pathnorm.report.records import SkippedGroup

__all__ = ["find_neurons"]


def find_neurons(
    graph: ModelGraph,
    state: State,
    example: Tensor,
    *,
    skip: Collection[str] = (),
    coupling: Coupling = "none",
    attention: Attention = "heads",
) -> Neurons:
    """Return the neuron groups of a network and the neurons left alone.

    Parameters
    ----------
    skip : collection of str
        Module paths of producers to leave alone.
    coupling : {"none", "interior", "streams"}
        Whether neurons that meet others are left alone, followed through gates, or through residual streams as well.
    attention : {"heads", "values"}
        What of an attention is a neuron.

    Raises
    ------
    ValueError
        If ``skip`` names a module that is no linear or convolution layer of the network.
    """
    found = propagate(graph, state, example, coupling=coupling, attention=attention)
    names = {layer.name for layer in found.layers.values()}
    unknown = sorted(set(skip) - names)
    if unknown:
        raise ValueError(
            f"skip must name linear or convolution layers of the model. Unknown: {', '.join(unknown)}. "
            f"The model has: {', '.join(sorted(names))}."
        )
    total = sum(layer.width for layer in found.layers.values())
    roots = found.unions.representatives(total)
    groups: list[NeuronGroup] = []
    skipped: list[SkippedGroup] = []
    for members in _components(found, roots):
        listed = any(layer.name in skip for layer in members)
        result = "listed in skip" if listed else _group(graph, found, members, roots)
        if isinstance(result, NeuronGroup):
            groups.append(result)
        else:
            skipped += [SkippedGroup(name=layer.name, width=layer.width, reason=result) for layer in members]
    skipped += [
        SkippedGroup(name=name, width=width, reason=reason)
        for name, (width, reason) in found.refused.items()
        if name not in names
    ]
    groups.sort(key=lambda group: min(graph.index(consumer.layer.node) for consumer in group.consumers))
    consumed = {consumer.layer.node for group in groups for consumer in group.consumers}
    readers = tuple(
        Consumer(layer, torch.arange(layer.fan_in), _site(graph, layer))
        for node, layer in found.layers.items()
        if node not in consumed and not layer.looks_up
    )
    return Neurons(tuple(groups), tuple(skipped), readers, found)


def _components(found: LabelMap, roots: Tensor) -> list[list[Layer]]:
    """Return the layers that share representatives of labels, in forward order of their first."""
    layers = list(found.layers.values())
    homes = joined([roots[found.offsets[layer.node] :][: layer.width] for layer in layers])
    return [[layer for layer, at in zip(layers, homes, strict=True) if at == home] for home in dict.fromkeys(homes)]


def _group(graph: ModelGraph, found: LabelMap, members: list[Layer], roots: Tensor) -> NeuronGroup | str:
    """Follow the labels of coupled producers to their consumers, or say why they cannot be removed."""
    offsets = [found.offsets[layer.node] for layer in members]
    for offset in offsets:
        if offset in found.reasons:
            return found.reasons[offset]
    owned = [roots[offset : offset + layer.width] for layer, offset in zip(members, offsets, strict=True)]
    neurons = torch.unique(owned[0])
    index = torch.full((roots.numel(),), NO_NEURON)
    index[neurons] = torch.arange(neurons.numel())
    if any(not _even(index[labels], neurons.numel()) for labels in owned):
        return f"coupled with {members[1].name if len(members) > 1 else 'itself'} in part only"
    producers = tuple(
        Producer(layer, _norm_behind(graph, layer), index[labels]) for layer, labels in zip(members, owned, strict=True)
    )
    nodes = sorted({node for offset in offsets for node in found.carriers[offset]}, key=graph.index)
    activations: list[str] = []
    consumers: dict[fx.Node, Consumer] = {}
    for node in nodes:
        for user in node.users:
            if user in found.layers:
                consumer = _consumer(graph, found, found.layers[user], roots, index)
                if isinstance(consumer, str):
                    return consumer
                consumers.setdefault(user, consumer)
            elif _batch_norm(graph, user) is None and user in found.labels and op_name(user) not in activations:
                activations.append(op_name(user))
    mixed = [Rows(item.key, item.dim, _indexed(item.labels, roots, index)) for item in found.mixed]
    norms = [key for producer in producers if producer.norm for key in producer.norm.keys]
    tied = [
        Rows(item.key, item.dim, _indexed(item.labels, roots, index)) for item in found.tied if item.key not in norms
    ]
    for producer in producers:
        tied += [Rows(other, 0, producer.neurons) for other in graph.aliases.get(producer.layer.weight, ())]
    group = NeuronGroup(
        producers,
        tuple(activations),
        tuple(consumers.values()),
        tuple(rows for rows in tied if bool((rows.neurons != NO_NEURON).any())),
        tuple(rows for rows in mixed if bool((rows.neurons != NO_NEURON).any())),
        heads=any(bool((_indexed(labels, roots, index) != NO_NEURON).any()) for labels in found.heads),
    )
    return _refusal(graph, found, group, nodes) or group


def _refusal(graph: ModelGraph, found: LabelMap, group: NeuronGroup, nodes: Sequence[fx.Node]) -> str | None:
    """Say why the tensors of a group cannot be sliced; None if they can."""
    if not group.consumers:
        return "no layer reads them"
    if found.coupling == "none":
        norms = [norm for node in nodes for user in node.users if (norm := _batch_norm(graph, user)) is not None]
        other = next((norm for norm in norms if norm != group.norm), None)
        if other is not None:
            return f"{other.name} is a second normalisation or does not follow the layer directly"
        if group.norm is not None and len(group.producer.node.users) > 1:
            return f"read before and after {group.norm.name}"
    for rows in group.rows:
        if _uses(graph, rows.key) > 1 and rows.key not in found.shared:
            return f"{rows.key} is used more than once"
        if not _even(rows.neurons[rows.neurons != NO_NEURON], group.width):
            return f"{rows.key} has more entries for some neurons than for others"
    return None


def _even(neurons: Tensor, width: int) -> bool:
    """Whether every neuron occurs, and all equally often."""
    if bool((neurons == NO_NEURON).any()):
        return False
    counts = torch.bincount(neurons, minlength=width)
    return counts.numel() == width and bool((counts == counts[0]).all()) and bool(counts[0] > 0)


def _consumer(graph: ModelGraph, found: LabelMap, layer: Layer, roots: Tensor, index: Tensor) -> Consumer | str:
    channels = channels_read(layer, found.labels[layer.source])
    if channels is None:
        return f"{layer.name} reads them in an order that is not per channel"
    neurons = _indexed(channels, roots, index)
    own = neurons[neurons != NO_NEURON]
    if found.coupling == "none" and own.numel() < neurons.numel():
        return f"{layer.name} reads them together with other channels"
    if not _even(own, int(index.max()) + 1):
        return f"{layer.name} reads some neurons more often than others"
    return Consumer(layer, neurons, _site(graph, layer))


def _indexed(labels: Tensor, roots: Tensor, index: Tensor) -> Tensor:
    """Return the neuron of every label, ``NO_NEURON`` for those of other groups."""
    return torch.where(labels == NO_NEURON, labels, index[roots[labels.clamp_min(0)]])


def _norm_behind(graph: ModelGraph, layer: Layer) -> BatchNorm | None:
    """Return the BatchNorm that reads a layer's output."""
    return next((norm for user in layer.node.users if (norm := _batch_norm(graph, user)) is not None), None)


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
        elif op_name(user) not in IDENTITIES and not (op_name(user) == "getitem" and _batch_norm(graph, node)):
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
