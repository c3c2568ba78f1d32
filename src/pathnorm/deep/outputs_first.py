"""One form for all linear maps of a graph: weights with the outputs first, so that rows are neurons.

Some layers keep their weight the other way round: transposed convolutions, the ``Conv1D`` of GPT-2, products
``x @ W``. Their weights are turned on the way from the module to the state and back, and the graph is rewritten to
read them turned; everything in between sees one convention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["put_outputs_first", "turned_state"]

_aten = torch.ops.aten
_PRODUCTS = frozenset({_aten.addmm.default, _aten.mm.default, _aten.matmul.default})
_TRANSPOSED = frozenset({_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input})
_VIEWS = frozenset({_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default})


def turned_state(state: Mapping[str, Tensor], turned: Collection[str]) -> dict[str, Tensor]:
    """Return the state with the first two dimensions of the entries ``turned`` swapped; its own inverse."""
    return {key: value.transpose(0, 1) if key in turned else value for key, value in state.items()}


def put_outputs_first(graph: fx.Graph, state_keys: Mapping[str, str]) -> frozenset[str]:
    """Rewrite ``graph`` in place and return the state keys that it now expects turned."""
    turned = _turn_tables(graph, state_keys)
    for node in list(graph.nodes):
        weight = _own_weight(node, state_keys)
        if weight is None:
            continue
        if node.target in _TRANSPOSED:
            _read_turned(graph, node, weight)
        else:
            _as_linear(graph, node, weight)
        turned.append(state_keys[weight.name])
    return frozenset(turned)


def _turn_tables(graph: fx.Graph, state_keys: Mapping[str, str]) -> list[str]:
    """Turn the tables of embeddings, which may also be the weight of a linear layer."""
    turned = []
    for table in [node for node in graph.nodes if node.name in state_keys]:
        users = list(table.users)
        known = all(
            user.target in (_aten.embedding.default, _aten.linear.default)
            and user.args[0 if user.target is _aten.embedding.default else 1] is table
            for user in users
        )
        if not known or sum(user.target is _aten.embedding.default for user in users) != 1:
            continue
        for user in users:
            _read_turned(graph, user, table)
        turned.append(state_keys[table.name])
    return turned


def _read_turned(graph: fx.Graph, node: fx.Node, weight: fx.Node) -> None:
    with graph.inserting_before(node):
        back = graph.call_function(_aten.transpose.int, (weight, 0, 1))
    node.replace_input_with(weight, back)


def _own_weight(node: fx.Node, state_keys: Mapping[str, str]) -> fx.Node | None:
    """Return the weight of a layer that keeps its inputs first, if nothing else reads it."""
    if node.target in _TRANSPOSED:
        at = 1
    elif node.target in _PRODUCTS and not node.kwargs:
        at = len(node.args) - 1
    else:
        return None
    weight = node.args[at]
    if not isinstance(weight, fx.Node) or weight.name not in state_keys or len(weight.users) > 1:
        return None
    is_matrix = node.target in _TRANSPOSED or weight.meta["val"].ndim == 2
    return weight if is_matrix and node.args[at - 1] is not weight else None


def _as_linear(graph: fx.Graph, node: fx.Node, weight: fx.Node) -> None:
    """Replace ``bias + x @ weight`` by a linear call; rows that were flattened for it keep their shape."""
    bias = node.args[0] if node.target is _aten.addmm.default else None
    inputs: Any = node.args[-2]
    restored = _restored(node, inputs)
    arguments = (inputs.args[0] if restored else inputs, weight, *(() if bias is None else (bias,)))
    with graph.inserting_before(node):
        linear = graph.call_function(_aten.linear.default, arguments)
    linear.meta["val"] = (restored[0] if restored else node).meta["val"]
    for old in (*restored, node):
        old.replace_all_uses_with(linear)
        graph.erase_node(old)
    if restored and not inputs.users:
        graph.erase_node(inputs)


def _restored(node: fx.Node, inputs: fx.Node) -> list[fx.Node]:
    """Return the views behind a product that undo the flattening before it; empty if that is not what they do."""
    if inputs.target not in _VIEWS:
        return []
    before = [str(size) for size in inputs.args[0].meta["val"].shape]  # type: ignore[union-attr]
    if before[-1] != str(inputs.meta["val"].shape[-1]):
        return []
    wanted = [*before[:-1], str(node.meta["val"].shape[-1])]
    views = list(node.users)
    undone = all(user.target in _VIEWS and [str(n) for n in user.meta["val"].shape] == wanted for user in views)
    return views if views and undone else []
