"""Operations that move entries or change them one by one: run on labels, and followed back to a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import ModelGraph, op_name
from pathnorm.deep.label_map import LabelMap, labels_along

__all__ = ["ENTRYWISE", "MOVES", "executed", "parameter_behind"]

MOVES = frozenset(
    "view _unsafe_view reshape flatten permute transpose t squeeze unsqueeze expand clone contiguous alias "
    "slice select narrow detach lift_fresh_copy constant_pad_nd pad pixel_shuffle pixel_unshuffle "
    "channel_shuffle flip roll movedim unflatten swapaxes".split()
)
ENTRYWISE = frozenset(
    "relu relu6 leaky_relu gelu silu tanh sigmoid elu celu selu softplus mish hardswish hardsigmoid hardtanh "
    "threshold log_sigmoid clamp clamp_min clamp_max abs neg exp log sqrt rsqrt square pow sin cos erf sign "
    "reciprocal softshrink hardshrink tanhshrink dropout softsign log1p expm1 _to_copy to type_as".split()
)
_MOVED = MOVES | {"index"}  # rows of a table, as the positions of a window have them
# What a parameter is followed through; sums and products are entrywise where the other operand is a number.
_FOLLOWED = _MOVED | ENTRYWISE | {"add", "sub", "rsub", "mul", "div"}


def executed(node: fx.Node, labels: Mapping[fx.Node, Tensor], found: LabelMap) -> Tensor:
    """Run a data-movement operation on the labels; padding brings entries that are no neuron."""

    def read(source: fx.Node) -> Any:
        if source in labels:
            return labels[source].contiguous()
        value = source.meta["pathnorm_indices" if name == "index" else "pathnorm_value"]
        # Only where tensors are put beside each other: those that hold no neuron.
        return torch.full(found.shapes[source], NO_NEURON) if value is None and source in found.shapes else value

    name = op_name(node)
    args = list(fx.map_arg(node.args, read))
    kwargs = dict(fx.map_arg(node.kwargs, read))
    if name == "constant_pad_nd":
        args[2:3] = [NO_NEURON]
    elif name == "pad":
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        if mode == "constant":
            args, kwargs = args[:2], {"value": NO_NEURON}
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    return result  # type: ignore[no-any-return]


def parameter_behind(graph: ModelGraph, source: fx.Node, found: LabelMap, dim: int) -> tuple[str, int] | None:
    """Return the parameter, and its dimension, whose entries lie along ``dim`` of ``source``.

    On the way they are moved, or changed one by one, as in ``1 + weight``.
    """
    chain: list[fx.Node] = []
    node = source
    while graph.state_key(node) is None:
        before = [other for other in node.all_input_nodes if op_name(other) != "sym_size"]
        if op_name(node) == "index":
            del before[1:]  # the indices
        if op_name(node) not in _FOLLOWED or len(before) != 1 or before[0] not in found.shapes:
            return None
        chain.append(node)
        (node,) = before
    key, shape = graph.state_key(node), found.shapes[node]
    size = found.shapes[source][dim]
    for channel in [at for at in range(len(shape)) if shape[at] == size]:
        view = [1] * len(shape)
        view[channel] = size
        ride = {node: torch.arange(size).view(view).expand(shape)}
        for step in reversed(chain):
            moved = op_name(step) in _MOVED
            ride[step] = executed(step, ride, found) if moved else ride[step.all_input_nodes[0]]
        along = labels_along(ride[source], dim)
        if along is not None and torch.equal(along, torch.arange(size)):
            return str(key), channel
    return None
