"""Labels behind attention, as one operation or written out in products of matrices.

The channels that a product sums over cannot be told apart behind it: all channels of a head stay or go together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import ModelGraph, op_name
from pathnorm.deep.label_map import LabelMap, constant_along, constant_over
from pathnorm.deep.layers import arguments_of
from pathnorm.deep.moves import parameter_behind

__all__ = ["ATTENTION"]

_LEFT_ALONE = "queries and keys are left alone with attention='values'"


def _behind_attention(graph: ModelGraph, node: fx.Node, found: LabelMap, shape: tuple[int, ...]) -> Tensor | str:
    """Labels behind dot-product attention: those of the values.

    All channels of a head stay or go together, or else the values' channels of one number in all heads.
    """
    arguments = arguments_of(node)
    inputs = [found.labels.get(arguments[name]) for name in ("query", "key", "value")]
    heads: list[Tensor] = []
    for labels in inputs:
        constant = None if labels is None or labels.ndim != 4 else constant_over(labels, (0, 2))
        if constant is None or bool((constant == NO_NEURON).any()):
            return "attention over mixed channels"
        channels = constant[0, :, 0]
        heads.append(channels.repeat_interleave(shape[1] // channels.shape[0], 0))
    mask = arguments.get("attn_mask")
    sizes = found.shapes.get(mask, ())  # type: ignore[arg-type]
    if len(sizes) > 2 and sizes[-3] != 1:  # a mask for every head, as a table of positions gives
        behind = None if mask in found.labels else parameter_behind(graph, mask, found, -3)  # type: ignore[arg-type]
        if behind is None or found.attention == "values" or not found.tie([behind], heads[0][:, :1], 0):
            return "the mask of the attention differs between heads"
    if found.attention == "values":
        for labels in heads[:2]:
            found.block(labels, _LEFT_ALONE)
        found.unions.join_along(heads[2], 0)
    else:
        found.unions.join_along(torch.cat(heads, 1), 1)
        found.heads.append(heads[2])
    return heads[2][None, :, None].expand(shape)


def _behind_product(_graph: ModelGraph, node: fx.Node, found: LabelMap, shape: tuple[int, ...]) -> Tensor | str | None:
    """Labels behind a product of two tensors over some of their dimensions, none of them a weight.

    Queries times keys sum over the channels of a head, which become one neuron; attention times values sums over
    places. With ``attention="values"`` the first product belongs to no neuron, and the second couples the channels of
    one number in all heads.
    """
    named = _dimensions(node, found)
    if named is None:
        return f"operation {op_name(node)} is not understood"
    sources, letters, result = named
    pairs = list(zip(sources, letters, strict=True))
    held = [(_thin(found.labels[source]), own) for source, own in pairs if source in found.labels]
    if any(bool((labels == NO_NEURON).any()) for labels, _ in held):
        return f"{op_name(node)} over mixed channels"
    summed = [
        (labels, dim)
        for labels, own in held
        for dim, letter in enumerate(own)
        if letter not in result and labels.shape[dim] > 1
    ]
    if summed and len(held) == 1:
        return f"{op_name(node)} over channels"
    if summed and found.attention == "values":
        for labels, _ in held:
            found.block(labels, _LEFT_ALONE)
        return None
    for labels, dim in summed:
        found.unions.join_along(labels, dim)
    first, last = torch.broadcast_tensors(*[_in_order(labels, own, result) for labels, own in (held[0], held[-1])])
    for source, own in pairs:
        if source not in found.labels:
            sizes = _in_order(torch.empty(found.shapes[source], device="meta"), own, result).shape
            _join_where_others_differ(found, last, sizes)
    found.unions.join(first, last)
    if summed:
        found.heads.append(last)
    behind: Tensor = last.expand(shape)
    return behind


def _behind_softmax(_graph: ModelGraph, node: fx.Node, found: LabelMap, shape: tuple[int, ...]) -> Tensor | str:
    """Labels behind a softmax over other dimensions than that of the channels."""
    labels = found.labels[node.all_input_nodes[0]]
    return labels if constant_along(labels, arguments_of(node)["dim"]) else f"{op_name(node)} over channels"


def _thin(labels: Tensor) -> Tensor:
    """Leave one place of every dimension along which labels do not differ."""
    for dim in range(labels.ndim):
        if constant_along(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def _dimensions(node: fx.Node, found: LabelMap) -> tuple[list[fx.Node], list[str], str] | None:
    """Return the two factors, a letter for each of their dimensions, and those of the result."""
    if op_name(node) == "einsum":
        equation, sources = str(node.args[0]).replace(" ", ""), list(node.args[1])  # type: ignore[arg-type]
        inputs, arrow, result = equation.partition("->")
        letters = inputs.split(",")
        if len(sources) != 2 or not arrow or "." in equation or any(len(set(own)) < len(own) for own in letters):
            return None
        return sources, letters, result
    sources = list(node.args[:2])
    sizes = [len(found.shapes[source]) for source in sources]
    if min(sizes) < 2:
        return None
    batch = "abcdefgh"[: max(sizes) - 2]
    letters = [batch[len(batch) - size + 2 :] + own for size, own in zip(sizes, ("mk", "kn"), strict=True)]
    return sources, letters, batch + "mn"


def _in_order(labels: Tensor, own: str, result: str) -> Tensor:
    """Put dimensions in the order of ``result``; what it lacks has one place left, what ``own`` lacks gets one."""
    kept = [letter for letter in result if letter in own]
    summed = [letter for letter in own if letter not in result]
    labels = labels.permute([own.index(letter) for letter in kept + summed])
    for _ in summed:
        labels = labels.select(-1, 0)
    for dim, letter in enumerate(result):
        if letter not in own:
            labels = labels.unsqueeze(dim)
    return labels


def _join_where_others_differ(found: LabelMap, labels: Tensor, other: torch.Size) -> None:
    """A factor of its own for every head ties the channels of one number in all heads."""
    for dim in range(labels.ndim):
        if other[dim] != 1 and labels.shape[dim] > 1:
            found.unions.join_along(labels, dim)


ATTENTION: dict[str, Callable[[ModelGraph, fx.Node, LabelMap, tuple[int, ...]], Tensor | str | None]] = {
    "scaled_dot_product_attention": _behind_attention,
    **dict.fromkeys(("matmul", "bmm", "einsum"), _behind_product),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _behind_softmax),
}
