"""An upper bound on the Lipschitz constant of a network, from the Euclidean norm to the Euclidean norm.

The graph is walked once. Every value gets a constant L such that it moves by no more than ``L ||x - x'||`` when the
input moves from x to x': operations multiply L by a bound of their own (:mod:`pathnorm.deep.lipschitz_rules`),
additions add. Three pairs are taken together because the product of their norms is far too large: a layer and its
BatchNorm, circular padding and the convolution behind it, and two linear layers with an activation in between.

Distances are those of whole batches. A network that treats every sample on its own has the same constant for one
sample; one that does not is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pathnorm.deep.double import double_precision
from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.lipschitz_rules import (
    CONVOLUTIONS,
    Call,
    Gain,
    batch_norm_gain,
    call_of,
    circular_gain,
    gain,
    layer_gain,
    terms,
)
from pathnorm.deep.operator_norms import linear_norm
from pathnorm.deep.slopes import slope_range

__all__ = ["LayerGain", "LipschitzBound", "lipschitz_upper"]

_JOINING = frozenset("add sub rsub cat stack maximum minimum where".split())
_BATCH_NORM = frozenset({"batch_norm", "_native_batch_norm_legit_no_training"})
_ROUNDING = 1.0 + 1e-11  # of the products and sums along the walk, thousands of nodes


@dataclass(frozen=True, slots=True)
class LayerGain:
    """How much one operation can stretch distances.

    Attributes
    ----------
    name : str
        Module path.
    operation : str
        ATen operation; ``"conv2d + batch_norm"`` where both are one map, ``"linear to linear"`` where two linear
        layers have a smaller bound than the product of their norms.
    norm : float
    method : str
        How the norm was found; begins with ``"loose"`` where a far smaller number is typical.
    """

    name: str
    operation: str
    norm: float
    method: str


@dataclass(frozen=True, slots=True)
class LipschitzBound:
    """An upper bound on the Lipschitz constant of a network.

    Attributes
    ----------
    upper : float or None
        None where none is proved.
    reason : str
        Why there is none, naming the module and the operation; empty otherwise.
    layers : tuple of LayerGain
        What the layers contribute, in forward order, up to where the bound ends.
    """

    upper: float | None
    reason: str
    layers: tuple[LayerGain, ...]


@dataclass(slots=True)
class _Walk:
    """What is known of the nodes visited so far.

    ``values`` of nodes that do not depend on the input, ``shapes`` of all tensors, ``bounds`` of the nodes that do
    depend on it: a constant, or why there is none.
    """

    graph: ModelGraph
    values: dict[fx.Node, Any] = field(default_factory=dict)
    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    floating: dict[fx.Node, bool] = field(default_factory=dict)
    bounds: dict[fx.Node, float | str] = field(default_factory=dict)
    records: dict[fx.Node, list[LayerGain]] = field(default_factory=dict)

    def call(self, node: fx.Node) -> Call:
        """Return the operation at ``node`` with its constant arguments."""
        return call_of(node, op_name(node), self.values, self.shapes)

    def where(self, node: fx.Node) -> str:
        """Return the module path of an operation."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack and "metadata_hook" not in str(stack[-1][0]) else ""
        for source in node.all_input_nodes:
            key = self.graph.state_key(source)
            if key is not None:
                return key.rpartition(".")[0] or key
        return path or "the model"

    def record(self, node: fx.Node, operation: str, found: Gain) -> None:
        """Add a line on the operation at ``node``."""
        line = LayerGain(self.where(node), operation, found.norm, found.method)
        self.records.setdefault(node, []).append(line)


def lipschitz_upper(graph: ModelGraph, state: State, example: Tensor) -> LipschitzBound:
    """Return a bound on ``||f(x) - f(x')|| / ||x - x'||`` over all pairs of samples of the example's shape.

    Parameters
    ----------
    example : torch.Tensor, shape (n, ...)
        A batch that the network accepts; two samples are used. Only its shape and the constants of the network
        matter for the bound.
    """
    if not example.is_floating_point():
        return LipschitzBound(None, "not certifiable: the input consists of integers, which have no slopes", ())
    doubled, exact = double_precision(graph, state)
    batch = example.detach().cpu().double()
    batch = batch if graph.batch_size is not None else batch[:2]
    walk = _Walk(doubled)
    for key in doubled.state_keys.values():
        if not bool(exact[key].isfinite().all()):
            return LipschitzBound(None, f"not certifiable: {key} is not finite", ())
    with torch.no_grad():
        mixing = _mixes_samples(doubled, exact, batch)
        if mixing:
            return LipschitzBound(None, f"not certifiable: {mixing}", ())
        _measure(walk, exact, batch)
    for node in doubled.nodes:
        if node.op == "call_function" and node not in walk.values:
            walk.bounds[node] = _bound(walk, node)
    layers = tuple(line for node in doubled.nodes for line in walk.records.get(node, ()))
    result = walk.bounds.get(doubled.output_node, 0.0)
    if isinstance(result, float) and not math.isfinite(result):
        result = "the norms multiply to more than float64 holds"
    if isinstance(result, str):
        return LipschitzBound(None, f"not certifiable: {result}", layers)
    return LipschitzBound(result * _ROUNDING, "", layers)


def _mixes_samples(graph: ModelGraph, state: State, batch: Tensor) -> str:
    """Say that another first sample changes the outputs of the others, or that outputs do not come one per sample."""
    if batch.shape[0] < 2:
        return ""
    changed = batch.clone()
    changed[0] = 1.0 - 2.0 * changed[0]
    before, after = graph.outputs(state, batch), graph.outputs(state, changed)
    if before.ndim == 0 or before.shape[0] != batch.shape[0]:
        return "the output has no entry per sample"
    differs = float((before[1:] - after[1:]).abs().max()) if before.numel() else 0.0
    mixes = differs > 1e-9 * float(before.abs().max())
    return "the output of a sample depends on the other samples of its batch" if mixes else ""


def _measure(walk: _Walk, state: State, batch: Tensor) -> None:
    """Run the graph once; keep shapes and the values that do not depend on the input."""
    graph = walk.graph
    alive: dict[fx.Node, Any] = graph.start(batch)
    for place, node in enumerate(graph.nodes):
        if node.op == "call_function":
            alive = graph.run(state, alive, span=(place, place + 1), keep=(node,))
        elif node.op == "output":
            continue
        key = graph.state_key(node)
        value = state[key] if key is not None else graph.constants.get(node.name, alive.get(node))
        if node.name == graph.input_name:
            walk.bounds[node] = 1.0
        elif not any(source in walk.floating for source in node.all_input_nodes) or op_name(node) == "sym_size":
            walk.values[node] = value
            continue
        first = next((part for part in value if part is not None), None) if isinstance(value, (tuple, list)) else value
        walk.floating[node] = isinstance(first, Tensor) and first.is_floating_point()
        walk.shapes[node] = tuple(first.shape) if isinstance(first, Tensor) else ()


def _bound(walk: _Walk, node: fx.Node) -> float | str:
    """Return the constant of one node, or why there is none."""
    active = [source for source in node.all_input_nodes if source in walk.bounds]
    refused = next((bound for source in active if isinstance(bound := walk.bounds[source], str)), None)
    if refused is not None:
        return refused
    name = _operation(node)
    if name == "getitem":
        # BatchNorm and other normalisations also return statistics, of which nothing is known here.
        second = node.args[1] != 0 and _operation(active[0]) not in {"split", "split_with_sizes", "chunk", "unbind"}
        proved = walk.floating[node] and not second
        return walk.bounds[active[0]] if proved else f"{walk.where(active[0])} gives more than its output"
    if _pending(walk, node):
        return math.inf  # never read: the BatchNorm behind takes both together
    call = walk.call(node)
    if not walk.floating[node]:
        return f"{walk.where(node)} applies {name}, whose values are integers"
    if _occurrences(node, active) > 1 or name in _JOINING:
        joined = terms(call)
        if isinstance(joined, str):
            return f"{walk.where(node)} {joined}"
        parts, orthogonal = joined
        sizes = [factor * _number(walk, part) for part, factor in parts]
        return math.hypot(*sizes) if orthogonal else math.fsum(sizes)
    return _bound_of_one(walk, node, call)


def _bound_of_one(walk: _Walk, node: fx.Node, call: Call) -> float | str:
    """Return the constant of an operation of one activation."""
    layer, operation = node, call.name
    scale: Tensor | None = None
    if call.name in _BATCH_NORM and _pending(walk, call.arguments["input"]):
        layer, factors = call.arguments["input"], batch_norm_gain(call)
        scale = factors if isinstance(factors, Tensor) else None  # it is one, or nothing was pending
        operation = f"{_operation(layer)} + batch_norm"
        call = walk.call(layer)
    source = next(iter(call.shapes))
    found: Gain | str | None = None
    if call.name in CONVOLUTIONS and _operation(source) == "pad":
        padding = walk.call(source)
        if padding.arguments["mode"] == "circular":
            found = circular_gain(call, list(padding.arguments["pad"]), padding.input_shape, scale)
            if found is not None:
                walk.records.pop(source, None)  # the padding is part of this map
                source = next(iter(padding.shapes))
    if found is None:
        found = gain(call) if scale is None else layer_gain(call, scale)
    if isinstance(found, str):
        return f"{walk.where(layer)} {found}"
    total = found.norm * _number(walk, source)
    if found.norm != 1.0 or call.name in CONVOLUTIONS or call.name == "linear":
        walk.record(layer, operation.replace("_native_batch_norm_legit_no_training", "batch_norm"), found)
    if call.name == "linear":
        pair = _two_layers(walk, call, scale)
        if pair is not None and pair[0].norm * _number(walk, pair[1]) < total:
            total = pair[0].norm * _number(walk, pair[1])
            walk.record(layer, "linear to linear", pair[0])
    return total


def _two_layers(walk: _Walk, last: Call, scale: Tensor | None) -> tuple[Gain, fx.Node] | None:
    """Return the bound from the input of one linear layer to the output of the next, and that input's node.

    With slopes between ``m - r`` and ``m + r`` the Jacobian is ``m V'W + r sum_k t_k v_k w_k'``, ``|t_k| <= 1``. The
    sum is at most ``sum_k ||w_k|| ||v_k||``, and at most ``||W|| ||V||`` however the neurons are scaled.
    """
    lowest, highest = 1.0, 1.0
    gains: Tensor | float = 1.0
    node = last.arguments["input"]
    while _operation(node) != "linear":
        if node.op != "call_function":
            return None
        if _operation(node) == "getitem" and _operation(node.all_input_nodes[0]) in _BATCH_NORM:
            node = node.all_input_nodes[0]
        call = walk.call(node)
        if len(call.shapes) != 1 or _occurrences(node, list(call.shapes)) != 1 or call.shape != call.input_shape:
            return None
        slopes = slope_range(call.name, call.arguments)
        if slopes is not None:
            ends = [one * other for one in (lowest, highest) for other in slopes]
            lowest, highest = min(ends), max(ends)
        elif call.name in _BATCH_NORM and len(call.shape) == 2 and isinstance(factors := batch_norm_gain(call), Tensor):
            gains = gains * factors
        else:
            return None
        node = next(iter(call.shapes))
    first = walk.call(node)
    weight, outer = first.arguments["weight"], last.arguments["weight"]
    source = first.arguments["input"]
    if not isinstance(weight, Tensor) or not isinstance(outer, Tensor) or list(first.shapes) != [source]:
        return None
    inner = weight * (gains.view(-1, 1) if isinstance(gains, Tensor) else gains)
    outer = outer if scale is None else outer * scale.view(-1, 1)
    middle, radius = 0.5 * (lowest + highest), 0.5 * (highest - lowest)
    norms, sizes = inner.norm(dim=1), outer.norm(dim=0)
    masses = norms * sizes
    some = masses > 0.0
    root = masses[some].sqrt()
    balanced = linear_norm(inner[some] * (root / norms[some]).view(-1, 1)) * linear_norm(
        outer[:, some] * (root / sizes[some])
    )
    spread = min(float(masses.sum()), balanced, linear_norm(inner) * linear_norm(outer))
    largest = max(abs(lowest), abs(highest))
    rounding = 2.0**-50 * inner.shape[0] * float(inner.norm() * outer.norm())  # of the product
    split = abs(middle) * (linear_norm(outer @ inner) + rounding) + radius * spread
    norm = min(split, largest * spread) * (1.0 + 1e-12)
    return Gain(norm, f"path norm of the neurons of {walk.where(node)}"), source


def _pending(walk: _Walk, node: Any) -> bool:
    """Say whether a layer is read by a BatchNorm alone, whose factors multiply the layer's outputs."""
    if not isinstance(node, fx.Node) or len(node.users) != 1 or node in walk.values:
        return False
    (user,) = node.users
    if _operation(user) not in _BATCH_NORM or _operation(node) not in CONVOLUTIONS | {"linear"}:
        return False
    call, behind = walk.call(node), walk.call(user)
    weight = call.arguments["weight"]
    transposed = "transpose" in call.name or bool(call.arguments.get("transposed", False))
    return (
        not transposed
        and isinstance(weight, Tensor)
        and weight.ndim == len(call.shape)  # then the outputs are the channels of the BatchNorm
        and list(call.shapes) == [call.arguments["input"]]
        and list(behind.shapes) == [node]
        and isinstance(batch_norm_gain(behind), Tensor)
    )


def _operation(node: fx.Node) -> str:
    """Return the operation at a node; empty for inputs, whatever they are called."""
    return op_name(node) if node.op == "call_function" else ""


def _occurrences(node: fx.Node, active: list[fx.Node]) -> int:
    found = 0

    def count(source: fx.Node) -> fx.Node:
        nonlocal found
        found += source in active
        return source

    fx.map_arg((node.args, node.kwargs), count)
    return found


def _number(walk: _Walk, node: fx.Node) -> float:
    """Return a constant that is known not to be refused."""
    bound = walk.bounds[node]
    return bound if isinstance(bound, float) else math.inf
