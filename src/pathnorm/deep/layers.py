"""Linear and convolution calls of a graph as layers: a matrix of weights whose rows are neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from pathnorm.deep.coupling import Coupling
from pathnorm.deep.graph import ModelGraph, State, op_name

__all__ = ["Layer", "arguments_of", "as_tuple", "layer_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear or ungrouped convolution layer whose weights are its own.

    ``geometry`` is ``(kernel, stride, padding, dilation)`` of a convolution, None for linear.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    bias: str | None
    width: int
    fan_in: int
    geometry: tuple[tuple[int, int], ...] | None

    @property
    def name(self) -> str:
        """Module path of the layer."""
        return self.weight.rpartition(".")[0] or self.weight

    @property
    def channel_dim(self) -> int:
        """Dimension of the neurons in the layer's input and output."""
        return -1 if self.geometry is None else 1


def layer_of(graph: ModelGraph, node: fx.Node, state: State, coupling: Coupling = "none") -> Layer | str | None:
    """Return the layer computed by ``node``, a reason why it cannot be treated, or None if it is none."""
    name = op_name(node)
    if name not in {"conv1d", "conv2d", "convolution", "linear"} or (name == "conv1d" and coupling == "none"):
        return None
    arguments = arguments_of(node)
    weight_key = graph.state_key(arguments["weight"])
    bias = arguments.get("bias")
    bias_key = graph.state_key(bias)
    if weight_key is None or (bias is not None and bias_key is None):
        return "its weight is computed from other tensors (parametrisation)"
    if len(arguments["weight"].users) > 1:
        return f"its weight {weight_key} is used more than once"
    weight = state[weight_key]
    geometry = None
    if name != "linear":
        if arguments.get("groups", 1) != 1:
            return "grouped convolution"
        if weight.ndim not in ((4,) if coupling == "none" else (3, 4)) or arguments.get("transposed", False):
            return "only one- and two-dimensional convolutions are treated"
        padding = arguments.get("padding", (0, 0))
        if isinstance(padding, str):
            return "convolution with padding given as text"
        geometry = _geometry(weight, arguments)
    return Layer(
        node=node,
        source=arguments["input"],
        weight=weight_key,
        bias=bias_key,
        width=int(weight.shape[0]),
        fan_in=int(weight.shape[1]),
        geometry=geometry,
    )


def _geometry(weight: Tensor, arguments: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, padding and dilation; a one-dimensional convolution is one over an image of height one."""
    steps = [_pair(arguments.get(key, default)) for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    if weight.ndim == 4:
        return ((int(weight.shape[2]), int(weight.shape[3])), *steps)
    (stride, _), (padding, _), (dilation, _) = steps
    return ((1, int(weight.shape[2])), (1, stride), (0, padding), (1, dilation))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by their schema names."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {**named, **node.kwargs}


def _pair(value: Any) -> tuple[int, int]:
    values = as_tuple(value)
    return (int(values[0]), int(values[-1]))


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return a list or a single number as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
