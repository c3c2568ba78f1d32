"""Say which neuron each entry of each tensor belongs to.

Every output channel of every linear or convolution layer is a neuron with its own integer
label. The labels ride through the graph: operations that only move data are executed on
the labels themselves, so no rule is needed for ``view``, ``flatten``, ``permute`` or
``slice``; operations that act on each entry, or on each channel, pass them on. Anything
else reads neurons in a way that is not understood, which is recorded by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pathnorm.deep.attention_labels import ATTENTION
from pathnorm.deep.coupling import NO_NEURON, STREAM, Attention, Coupling, Tied
from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.label_map import LabelMap, constant_along, constant_over, labels_along
from pathnorm.deep.layers import CONVOLUTIONS, TRANSPOSED, Layer, arguments_of, as_tuple, layer_of, weight_of
from pathnorm.deep.mixing import kept_key
from pathnorm.deep.moves import ENTRYWISE, MOVES, executed, parameter_behind
from pathnorm.deep.norm_labels import NORMS

__all__ = ["NO_NEURON", "LabelMap", "Layer", "channels_read", "layer_of", "propagate"]

_SUMS = frozenset({"add", "sub", "addcmul", "addcdiv"})
_BINARY = _SUMS | frozenset("mul div minimum maximum where masked_fill".split())
_SPLITS = frozenset("split split_with_sizes chunk unbind".split())
_POOLING = frozenset(
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest2d upsample_bilinear2d".split()
)
_REDUCTIONS = frozenset("mean sum amax amin norm linalg_vector_norm var std logsumexp".split())


def propagate(
    graph: ModelGraph,
    state: State,
    example: Tensor,
    *,
    coupling: Coupling = "none",
    attention: Attention = "heads",
) -> LabelMap:
    """Return the labels of all neurons, found by running the graph once on ``example``."""
    found = LabelMap(coupling=coupling, attention=attention)
    with torch.no_grad():
        _record_shapes(graph, state, example, found)
    for node in graph.nodes:
        if node.op == "call_function":
            _visit(graph, node, state, found)
    for node in graph.nodes[-1].all_input_nodes:
        if node in found.labels:
            found.block(found.labels[node], "these are the model's outputs")
    for node, labels in found.labels.items():
        for offset in found.owners(labels):
            found.carriers.setdefault(offset, []).append(node)
    return found


def _visit(graph: ModelGraph, node: fx.Node, state: State, found: LabelMap) -> None:
    sources = [source for source in node.all_input_nodes if source in found.labels or source in found.parts]
    if found.coupling != "none" and (behind := _grouped(graph, node, state, found)) is not None:
        found.labels[node] = behind
        return
    layer = layer_of(graph, node, state, found.coupling)
    if layer is not None:
        _visit_layer(graph, node, layer, found)
        return
    if not sources or op_name(node) == "sym_size":
        return
    if op_name(node) in _SPLITS and found.coupling != "none":
        found.parts[node] = tuple(executed(node, found.labels, found))
        return
    labels = _passed_on(graph, node, found)
    if isinstance(labels, str):
        for source in sources:
            for held in found.parts.get(source, (found.labels.get(source),)):
                if held is not None:
                    found.block(held, labels)
    elif labels is not None:
        found.labels[node] = labels


def _visit_layer(graph: ModelGraph, node: fx.Node, layer: Layer | str, found: LabelMap) -> None:
    """Give the outputs of a layer labels of their own, or block what a layer that cannot be treated reads."""
    if isinstance(layer, Layer):
        if layer.source in found.labels and channels_read(layer, found.labels[layer.source]) is None:
            found.block(found.labels[layer.source], f"{layer.name} reads them in an order that is not per channel")
        found.add_layer(layer, found.shapes[node])
    elif not _reads_shared(graph, node, found):
        width = found.shapes[node][1 if op_name(node) in CONVOLUTIONS | TRANSPOSED else -1]
        name = _label(graph, node)
        found.refused.setdefault(name, (width, layer))
        for source in node.all_input_nodes:
            if source in found.labels:
                found.block(found.labels[source], f"read by {name}: {layer}")


def _reads_shared(graph: ModelGraph, node: fx.Node, found: LabelMap) -> bool:
    """Whether ``node`` reads neurons by the table that they were looked up in, as the head of a language model does.

    The columns go with the neurons; the weights are not refitted, because the table would change with them.
    """
    if op_name(node) != "linear" or found.coupling != "streams":
        return False
    held = weight_of(node)
    key = graph.state_key(held)
    tables = [other for other, layer in found.layers.items() if layer.weight == key and layer.looks_up]
    inputs = found.labels.get(arguments_of(node)["input"])
    if key is None or len(tables) != 1 or len(held.users) != 2 or inputs is None:
        return False
    channels = labels_along(inputs, -1)
    rows = found.layers[tables[0]]
    offset = found.offsets[tables[0]]
    own = torch.arange(offset, offset + rows.width)
    if channels is None or not found.unions.join(channels, own):
        return False
    found.mixed.append(Tied(kept_key(node), 0, channels))
    found.shared.add(key)
    return True


def _grouped(graph: ModelGraph, node: fx.Node, state: State, found: LabelMap) -> Tensor | None:
    """Return the labels behind a convolution in groups, whose kernels are tied to the channels that they read.

    The channels of a group stay or go together; a depthwise convolution has one in each.
    """
    if op_name(node) not in CONVOLUTIONS:
        return None
    arguments = arguments_of(node)
    given = [graph.state_key(arguments[name]) for name in ("weight", "bias") if arguments.get(name) is not None]
    keys = [key for key in given if key is not None]
    labels, groups = found.labels.get(arguments["input"]), arguments.get("groups", 1)
    if labels is None or groups == 1 or arguments.get("transposed", False) or len(keys) < len(given):
        return None
    constant = constant_over(labels, [0, *range(2, labels.ndim)])
    if constant is None or not found.unions.join_along(constant.reshape(groups, -1), 1):
        return None
    rows = state[keys[0]].shape[0] // groups
    behind = constant.reshape(groups, -1)[:, 0].repeat_interleave(rows)
    behind = behind.reshape(1, -1, *[1] * (labels.ndim - 2)).expand(found.shapes[node])
    return behind if found.tie([(key, 0) for key in keys], behind, 1) else None


def _passed_on(graph: ModelGraph, node: fx.Node, found: LabelMap) -> Tensor | str | None:
    """Return the labels of the result of ``node``, None if it belongs to no neuron, or why they cannot be known."""
    name = op_name(node)
    shape = found.shapes.get(node)
    first = node.all_input_nodes[0]
    labels = found.labels.get(first)
    if name == "getitem" and first in found.parts:
        return found.parts[first][node.args[1]]  # type: ignore[index]
    if name == "getitem" and labels is not None:
        return labels if shape == tuple(labels.shape) else f"several results of {first.name}"
    if shape is None:
        return f"operation {name} is not understood"
    if name == "cat" and found.coupling != "none":
        return _joined_with_parameters(graph, node, found)
    if name in MOVES and labels is not None:
        return executed(node, found.labels, found)
    if name in ENTRYWISE and labels is not None and shape == tuple(labels.shape):
        return labels
    if name in _BINARY:
        return _combined(graph, node, found, shape)
    if name in ATTENTION and found.coupling != "none":
        return ATTENTION[name](graph, node, found, shape)
    if name in NORMS and labels is not None:
        return NORMS[name](graph, node, found, labels)
    if name in _POOLING and labels is not None:
        constant = constant_over(labels, range(2, labels.ndim)) if len(shape) == labels.ndim else None
        return f"{name} over mixed channels" if constant is None else constant.expand(shape)
    if name in _REDUCTIONS and labels is not None and arguments_of(node).get("dim") is not None:
        return _reduced(node, found, labels, shape)
    return f"operation {name} is not understood"


def _reduced(node: fx.Node, found: LabelMap, labels: Tensor, shape: tuple[int, ...]) -> Tensor | str | None:
    """Labels of a mean, sum, norm or extreme value over other dimensions than that of the channels."""
    name = op_name(node)
    dims = [dim % labels.ndim for dim in as_tuple(arguments_of(node)["dim"])]
    constant = None if 0 in dims else constant_over(labels, dims)
    if constant is None and name == "mean" and found.coupling != "none" and len(dims) == 1:
        return _averaged(node, found, labels, dims[0])
    return f"{name} over channels" if constant is None else constant.reshape(shape)


def _averaged(node: fx.Node, found: LabelMap, labels: Tensor, dim: int) -> str | None:
    """Record a mean over the channels, which is taken over those that are left; its result belongs to none."""
    channels = labels_along(labels, dim)
    if channels is None or bool((channels == NO_NEURON).any()):
        return "mean over mixed channels"
    found.mixed.append(Tied(kept_key(node), 0, channels))
    return None


def _joined_with_parameters(graph: ModelGraph, node: fx.Node, found: LabelMap) -> Tensor:
    """Labels of tensors put one behind the other: parameters, such as a class token, take those of the others."""
    tensors = list(node.args[0])  # type: ignore[arg-type]
    along: Any = node.args[1] if len(node.args) > 1 else 0
    labels = dict(found.labels)
    known = next(source for source in tensors if source in labels)
    varying = [dim for dim in range(1, labels[known].ndim) if not constant_along(labels[known], dim)]
    if len(varying) == 1 and varying[0] != int(along) % labels[known].ndim:
        for source in tensors:
            if source in labels or source not in found.shapes:
                continue
            behind = parameter_behind(graph, source, found, varying[0] - labels[known].ndim)
            if behind is not None and found.tie([behind], labels[known], varying[0]):
                constant = labels[known][
                    tuple(slice(None) if d == varying[0] else slice(1) for d in range(labels[known].ndim))
                ]
                labels[source] = constant.expand(found.shapes[source])
    return executed(node, labels, found)


def _combined(graph: ModelGraph, node: fx.Node, found: LabelMap, shape: tuple[int, ...]) -> Tensor | str:
    """Labels of an operation on several tensors: equal or coupled ones, beside values shared by all or tied to them."""
    name = op_name(node)
    tensors = [source for source in node.all_input_nodes if found.shapes.get(source) is not None]
    labelled = [found.labels[source] for source in tensors if source in found.labels]
    plain = [source for source in tensors if source not in found.labels]
    couples = found.coupling == "streams" or (found.coupling == "interior" and name not in _SUMS)
    if couples and len(labelled) > 1:
        labelled = [other.broadcast_to(shape) for other in labelled]
    result = labelled[0]
    if tuple(result.shape) != shape:
        return f"{name} broadcasts the neurons"
    for other in labelled[1:]:
        same = other.shape == result.shape and found.unions.joins(result, other)
        if not same and not (couples and found.unions.join(result, other)):
            return f"{name} couples them with {STREAM}"
    varying = [dim for dim in range(1, len(shape)) if not constant_along(result, dim)]
    for source in plain:
        other_shape = found.shapes[source]
        padded = (1,) * (len(shape) - len(other_shape)) + other_shape
        across = [dim for dim in varying if padded[dim] != 1]
        if not across:
            continue
        if found.coupling != "none" and 0 < len(across) < len(varying):
            # Different for the channels within a head, say, so these stay together.
            for dim in across:
                found.unions.join_along(result, dim)
            continue
        behind = None
        if found.coupling != "none" and len(varying) == 1 and padded[varying[0]] == shape[varying[0]]:
            behind = parameter_behind(graph, source, found, varying[0] - len(shape))
        if behind is not None and found.tie([behind], result, varying[0]):
            continue
        what = STREAM if source.op == "call_function" else f"the tensor {source.name}"
        return f"{name} couples them with {what}"
    return result


def channels_read(layer: Layer, labels: Tensor) -> Tensor | None:
    """Return the label of each input channel of ``layer``, or None where a channel mixes neurons."""
    return labels_along(labels, layer.channel_dim)


def _record_shapes(graph: ModelGraph, state: State, example: Tensor, found: LabelMap) -> None:
    """Run the graph once; keep shapes of tensors, and the values of indices and of everything else."""
    values = graph.start(example)
    for node in graph.nodes:
        if node.op == "call_function":
            values = graph.run(state, values, span=(graph.index(node), graph.index(node) + 1), keep=(node,))
        key = graph.state_key(node)
        value = state[key] if key is not None else graph.constants.get(node.name, values.get(node))
        if isinstance(value, (tuple, list)):
            value = value[0]
        if isinstance(value, Tensor):
            found.shapes[node] = tuple(value.shape)
            node.meta["pathnorm_value"] = None
            node.meta["pathnorm_indices"] = None if value.is_floating_point() else value.cpu()
        else:
            node.meta["pathnorm_value"] = node.meta["pathnorm_indices"] = value


def _label(graph: ModelGraph, node: fx.Node) -> str:
    """Return the module path of a layer that is refused, or the operation's name."""
    for source in node.all_input_nodes:
        key = graph.state_key(source)
        if key is not None:
            return key.rpartition(".")[0] or key
    return op_name(node)
