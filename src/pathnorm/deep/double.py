"""The same network in float64, on the processor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from pathnorm.deep.graph import ModelGraph, State

__all__ = ["double_precision", "in_batches"]

_T = TypeVar("_T")


def double_precision(graph: ModelGraph, state: State) -> tuple[ModelGraph, dict[str, Tensor]]:
    """Return the graph and the state with every floating tensor in float64, and everything on the processor."""
    copied: dict[fx.Node, fx.Node] = {}
    target = fx.Graph()
    for node in graph.nodes:
        copied[node] = twin = target.node_copy(node, copied.__getitem__)
        twin.args, twin.kwargs = _changed(twin.args), _changed(twin.kwargs)
        if _makes_floats(node):
            twin.kwargs = {**twin.kwargs, "dtype": torch.float64}
    nodes = tuple(copied[node] for node in graph.nodes)
    names = {node.name: copied[node].name for node in graph.nodes}
    doubled = dataclasses.replace(
        graph,
        nodes=nodes,
        state_keys={names[name]: key for name, key in graph.state_keys.items()},
        constants={names[name]: _double(value) for name, value in graph.constants.items()},
        input_name=names[graph.input_name],
    )
    return doubled, {key: _double(value) for key, value in state.items()}


def in_batches(graph: ModelGraph, inputs: Tensor, size: int) -> Iterable[tuple[Tensor, int]]:
    """Split ``inputs`` into batches that the graph accepts, each with how many of its samples are new.

    Of ``size`` samples, or of as many as the graph insists on: then the last batch repeats its last sample.
    """
    for part in inputs.split(graph.batch_size or size):
        missing = (graph.batch_size or part.shape[0]) - part.shape[0]
        yield (torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part), part.shape[0]


def _makes_floats(node: fx.Node) -> bool:
    """Say whether an operation such as ``ones`` makes a floating tensor of a type that no argument tells."""
    schema, made = getattr(node.target, "_schema", None), node.meta.get("val")
    if schema is None or not isinstance(made, Tensor) or not made.is_floating_point():
        return False
    named = any(argument.name == "dtype" for argument in schema.arguments)
    return named and not any("Tensor" in str(argument.type) for argument in schema.arguments)


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _changed(value: _T) -> _T:
    """Replace floating types and devices among the arguments of an operation."""

    def change(item: Any) -> Any:
        if isinstance(item, torch.dtype) and item.is_floating_point:
            return torch.float64
        if isinstance(item, torch.device):
            return torch.device("cpu")
        if isinstance(item, (list, tuple)):
            return type(item)(change(entry) for entry in item)
        if isinstance(item, dict):
            return {key: change(entry) for key, entry in item.items()}
        return item

    return change(value)  # type: ignore[no-any-return]
