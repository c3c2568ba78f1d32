"""Linear and convolution calls of a graph as layers: a matrix of weights whose rows are neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from pathnorm.deep.coupling import Coupling
from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.patches import Geometry

__all__ = ["CONVOLUTIONS", "TRANSPOSED", "Layer", "arguments_of", "as_tuple", "layer_of", "weight_of"]

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_LAYERS = CONVOLUTIONS | TRANSPOSED | {"linear", "embedding"}
_COUPLED_ONLY = (
    frozenset({"conv1d", "conv3d", "embedding"}) | TRANSPOSED
)  # known to compression, not to the norms of an audit


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear or ungrouped convolution layer whose weights are its own; ``geometry`` is None for a linear one.

    A table of embeddings ``looks_up`` its columns: it has rows that are neurons, and reads none.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    bias: str | None
    width: int
    fan_in: int
    geometry: Geometry | None
    looks_up: bool = False

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
    if name in _RECURRENT:
        return f"{name}: the state of a recurrent layer is read again at every step"
    if name not in _LAYERS or (coupling == "none" and name in _COUPLED_ONLY):
        return None
    arguments = arguments_of(node)
    held = weight_of(node)
    weight_key = graph.state_key(held)
    bias = arguments.get("bias")
    bias_key = graph.state_key(bias)
    if weight_key is None or (bias is not None and bias_key is None):
        return "its weight is computed from other tensors (parametrisation)"
    looks_up = name == "embedding"
    if len(held.users) > 1 and not looks_up:
        return f"its weight {weight_key} is used more than once"
    weight = state[weight_key]
    geometry = None
    if name not in {"linear", "embedding"}:
        if arguments.get("groups", 1) != 1:
            return "grouped convolution"
        if arguments.get("transposed", False):
            return "transposed convolution"
        if coupling == "none" and weight.ndim != 4:
            return "only two-dimensional convolutions are treated"
        geometry = _geometry(weight, arguments, transposed=name in TRANSPOSED)
        if geometry is None:
            return "transposed convolution whose padding exceeds the reach of its kernel"
    return Layer(
        node=node,
        source=arguments["indices" if looks_up else "input"],
        weight=weight_key,
        bias=bias_key,
        width=int(weight.shape[0]),
        fan_in=int(weight.shape[1]),
        geometry=geometry,
        looks_up=looks_up,
    )


def weight_of(node: fx.Node) -> fx.Node:
    """Return what holds the weight of a layer; transposed convolutions read it turned."""
    weight: fx.Node = arguments_of(node)["weight"]
    turned = isinstance(weight, fx.Node) and op_name(weight) == "transpose" and weight.args[1:] == (0, 1)
    return weight.all_input_nodes[0] if turned else weight


def _geometry(weight: Tensor, arguments: dict[str, Any], *, transposed: bool) -> Geometry | None:
    axes = weight.ndim - 2
    kernel = tuple(int(size) for size in weight.shape[2:])

    def per_axis(key: str, default: int) -> tuple[int, ...]:
        values = as_tuple(arguments.get(key, default))
        return tuple(int(values[at if len(values) > 1 else 0]) for at in range(axes))

    stride, dilation = per_axis("stride", 1), per_axis("dilation", 1)
    if transposed:
        return Geometry.of_transposed(kernel, stride, per_axis("padding", 0), dilation, per_axis("output_padding", 0))
    text = arguments.get("padding", 0)
    return Geometry.of_convolution(kernel, stride, text if isinstance(text, str) else per_axis("padding", 0), dilation)


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by their schema names."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {**named, **node.kwargs}


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return a list or a single number as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
