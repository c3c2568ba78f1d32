"""What one operation does to the distance between two of its inputs.

Every rule returns a proved bound, or says in words why there is none. Operations that only move data, and linear
maps with non-negative weights such as averages, are run on tensors that reveal their norm, so no formula is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pathnorm.deep.operator_norms import Geometry, convolution_norm, linear_norm, nonnegative_norm
from pathnorm.deep.slopes import NOT_LIPSCHITZ, slope_range

__all__ = ["CONVOLUTIONS", "Call", "Gain", "batch_norm_gain", "call_of", "circular_gain", "gain", "layer_gain", "terms"]

CONVOLUTIONS = frozenset("convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split())
_MOVES = frozenset(
    "view _unsafe_view reshape flatten unflatten permute transpose t swapaxes movedim squeeze unsqueeze expand "
    "expand_as view_as slice select narrow split split_with_sizes chunk unbind tensor_split constant_pad_nd pad "
    "pixel_shuffle pixel_unshuffle channel_shuffle flip roll rot90 repeat tile repeat_interleave index_select gather "
    "index take diagonal tril triu im2col upsample_nearest1d upsample_nearest2d upsample_nearest3d".split()
)
_NON_NEGATIVE = frozenset(
    "mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
    "col2im".split()
)
_PRODUCTS = frozenset(
    "mul div matmul mm bmm addmm baddbmm linear einsum glu dot mv outer scaled_dot_product_attention "
    "cross cdist cosine_similarity bilinear prelu".split()
) | {*CONVOLUTIONS}
_OF_ONE = frozenset({"scaled_dot_product_attention", "glu"})  # multiply an activation with itself
_EITHER = frozenset("mul div matmul mm bmm addmm einsum".split())  # whichever argument is the activation


@dataclass(frozen=True, slots=True)
class Gain:
    """A bound on how much an operation of one activation stretches distances, and how it was found."""

    norm: float
    method: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of the network.

    Attributes
    ----------
    name : str
        Without overload.
    arguments : dict
        By their names in the schema, with defaults; activations are nodes, everything else is a value.
    shapes : dict
        Node -> shape, of the activations among the arguments.
    shape : tuple of int
        Of the result, the first one if there are several.
    run : callable
        The operation with its only activation replaced.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: Mapping[fx.Node, tuple[int, ...]]
    shape: tuple[int, ...]
    run: Callable[[Tensor], Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first activation."""
        return next(iter(self.shapes.values()))

    def is_constant(self, *names: str) -> bool:
        """Say whether none of the arguments depends on the network's input."""
        return not any(isinstance(self.arguments.get(name), fx.Node) for name in names)


Values = Mapping[fx.Node, Any]
Shapes = Mapping[fx.Node, tuple[int, ...]]


def call_of(node: fx.Node, name: str, values: Values, shapes: Shapes) -> Call:
    """Return the call at ``node``; ``values`` are those that do not depend on the network's input."""

    def read(source: fx.Node) -> Any:
        return values.get(source, source)

    args, kwargs = fx.map_arg(node.args, read), dict(fx.map_arg(node.kwargs, read))
    active = {source: shapes[source] for source in node.all_input_nodes if source not in values}
    arguments: dict[str, Any] = {}
    schema = getattr(node.target, "_schema", None)
    for place, argument in enumerate(schema.arguments if schema is not None else ()):
        given = args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = given

    def run(tensor: Tensor) -> Any:
        def fill(source: fx.Node) -> Any:
            return values.get(source, tensor)

        return node.target(*fx.map_arg(node.args, fill), **fx.map_arg(node.kwargs, fill))  # type: ignore[operator]

    return Call(name, arguments, active, shapes[node], run)


def gain(call: Call) -> Gain | str:
    """Return the bound for an operation of one activation, or why there is none."""
    if call.name not in _EITHER and not isinstance(next(iter(call.arguments.values()), None), fx.Node):
        return f"applies {call.name} to a constant, with an activation as a parameter"
    slopes = slope_range(call.name, call.arguments)
    if slopes is not None:
        return Gain(max(abs(slopes[0]), abs(slopes[1])) * max(1.0, _only(call)), "largest slope")
    if call.name in _MOVES:
        return Gain(_repetition(call), "repetitions")
    if call.name in _NON_NEGATIVE:
        return Gain(nonnegative_norm(call.run, call.input_shape), "non-negative matrix")
    if call.name in CONVOLUTIONS or call.name == "linear":
        return layer_gain(call)
    if call.name in _RULES:
        return _RULES[call.name](call)
    if call.name in _OF_ONE:
        return f"multiplies activations with activations ({call.name})"
    if call.name in NOT_LIPSCHITZ:
        return f"applies {call.name}, which is not Lipschitz"
    return f"applies {call.name}, for which no bound is known"


def terms(call: Call) -> tuple[list[tuple[fx.Node, float]], bool] | str:
    """Return (activation, factor) of every term of an operation that joins tensors, and whether they are orthogonal.

    The bound of the result is the sum of factor times bound, or the root of the sum of squares if orthogonal.
    """
    if call.name in {"cat", "stack"}:
        parts = [part for part in call.arguments["tensors"] if isinstance(part, fx.Node)]
        return [(part, 1.0) for part in parts], True
    if call.name in {"add", "sub", "rsub"}:
        first, second = call.arguments["self"], call.arguments["other"]
        scales = (1.0, abs(float(call.arguments["alpha"])))
        pairs = zip((first, second), scales if call.name != "rsub" else scales[::-1], strict=True)
        found = [(part, scale * _spread(call, part)) for part, scale in pairs if isinstance(part, fx.Node)]
        return found, False
    if call.name in {"maximum", "minimum", "where"} and call.is_constant("condition"):
        parts = [part for key in ("self", "other") if isinstance(part := call.arguments[key], fx.Node)]
        return [(part, _spread(call, part)) for part in parts], True
    if call.name in _PRODUCTS:
        return f"multiplies activations with activations ({call.name})"
    if call.name in NOT_LIPSCHITZ | {"where", "masked_fill"}:
        return f"applies {call.name} with a condition on activations, which can jump"
    return f"applies {call.name} to several activations, for which no bound is known"


def layer_gain(call: Call, scale: Tensor | None = None) -> Gain | str:
    """Return the norm of a linear or convolution layer, its outputs multiplied by ``scale`` (width,) if given."""
    weight = call.arguments["weight"]
    if isinstance(weight, fx.Node):
        return "has a weight that depends on the input"
    if scale is not None:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    if call.name == "linear":
        return Gain(linear_norm(weight), "singular values")
    axes = weight.ndim - 2
    transposed = "transpose" in call.name or bool(call.arguments.get("transposed", False))
    geometry = _geometry(call.arguments, weight)
    # A transposed convolution is the transpose of the convolution from its outputs to its inputs.
    size = (call.shape if transposed else call.input_shape)[-axes:]
    found = convolution_norm(weight, geometry, size=size, groups=int(call.arguments["groups"]))
    return Gain(found.upper, found.method)


def circular_gain(call: Call, pads: list[int], shape: tuple[int, ...], scale: Tensor | None = None) -> Gain | None:
    """Return the norm of a convolution together with the circular padding before it, of an input of ``shape``.

    None unless the padding gives as many outputs as inputs, before the stride.
    """
    weight = call.arguments["weight"]
    if isinstance(weight, fx.Node) or "transpose" in call.name or call.arguments.get("transposed", False):
        return None
    taps, stride, padding, dilation = _geometry(call.arguments, weight)
    sums = [pads[place] + pads[place + 1] for place in range(0, len(pads), 2)][::-1]
    if any(padding) or sums != [far * (count - 1) for far, count in zip(dilation, taps, strict=True)]:
        return None
    if scale is not None:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    found = convolution_norm(
        weight,
        (taps, stride, padding, dilation),
        size=shape[-len(taps) :],
        groups=int(call.arguments["groups"]),
        circular=True,
    )
    return Gain(found.upper, f"{found.method}, with its circular padding")


def batch_norm_gain(call: Call) -> Tensor | str:
    """Return the factors (channels,) of a BatchNorm in evaluation mode."""
    arguments = call.arguments
    mean, variance, training = arguments.get("running_mean"), arguments.get("running_var"), arguments.get("training")
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or training:
        return "normalises by the statistics of the batch"
    scale, weight = 1.0 / torch.sqrt(variance + float(arguments["eps"])), arguments["weight"]
    if weight is not None and not isinstance(weight, Tensor):
        return "has a weight that depends on the input"
    return scale if weight is None else scale * weight


def _geometry(arguments: Mapping[str, Any], weight: Tensor) -> Geometry:
    axes = weight.ndim - 2
    taps = tuple(weight.shape[2:])

    def per_axis(value: Any) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        return tuple(int(values[min(axis, len(values) - 1)]) for axis in range(axes))

    stride, dilation = per_axis(arguments["stride"]), per_axis(arguments["dilation"])
    padding = arguments["padding"]
    if isinstance(padding, str):  # "same" pads one more behind than before where the sum is odd
        total = [far * (count - 1) if padding == "same" else 0 for far, count in zip(dilation, taps, strict=True)]
        padding = [(one + 1) // 2 for one in total]
    return taps, stride, per_axis(padding), dilation


def _repetition(call: Call) -> float:
    """Return the root of how often an operation that moves data repeats an entry: run it on the entries' numbers."""
    numbers = torch.arange(1, math.prod(call.input_shape) + 1, dtype=torch.float64).view(call.input_shape)
    result = call.run(numbers)
    if call.name in {"pad", "constant_pad_nd"} and call.arguments.get("mode", "constant") == "constant":
        # What is padded with may look like a number of an entry.
        result = torch.nn.functional.pad(numbers, [int(side) for side in call.arguments["pad"]], value=0.0)
    parts = result if isinstance(result, (list, tuple)) else [result]
    read = torch.cat([part.flatten() for part in parts]).long()
    return math.sqrt(int(torch.bincount(read)[1:].max())) if bool(read.any()) else 0.0


def _spread(call: Call, part: fx.Node) -> float:
    """Return the root of how often broadcasting repeats an activation."""
    return math.sqrt(math.prod(call.shape) / max(math.prod(call.shapes[part]), 1))


def _only(call: Call) -> float:
    return _spread(call, next(iter(call.shapes)))


def _times(call: Call) -> Gain | str:
    factor = call.arguments["other"] if call.is_constant("other") else call.arguments["self"]
    largest = float(factor.abs().max()) if isinstance(factor, Tensor) else abs(float(factor))
    return Gain(largest * _only(call), "largest factor")


def _divided(call: Call) -> Gain | str:
    if not call.is_constant("other"):
        return "divides by activations (div)"
    if call.arguments.get("rounding_mode") is not None:
        return "rounds (div)"
    divisor = call.arguments["other"]
    least = float(divisor.abs().min()) if isinstance(divisor, Tensor) else abs(float(divisor))
    return Gain(_only(call) / least, "smallest divisor") if least > 0.0 else "divides by zero (div)"


def _matrix(call: Call) -> Gain | str:
    """A product of matrices, one of which is constant."""
    keys = ("mat1", "mat2") if call.name == "addmm" else ("self", "mat2" if "mat2" in call.arguments else "other")
    if call.name == "addmm" and not call.is_constant("self"):
        return "adds an activation inside addmm, for which no bound is known"
    (active,) = [call.arguments[key] for key in keys if not call.is_constant(key)]
    (constant,) = [call.arguments[key] for key in keys if call.is_constant(key)]
    shape = call.shapes[active]
    if len(shape) < 2:
        return f"applies {call.name} to a vector, for which no bound is known"
    norm = float(constant.norm()) if constant.ndim == 1 else linear_norm(constant)
    batch = math.prod(torch.broadcast_shapes(shape[:-2], constant.shape[:-2]))
    scale = abs(float(call.arguments.get("alpha", 1)))
    return Gain(scale * norm * math.sqrt(batch / math.prod(shape[:-2])), "singular values")


def _contraction(call: Call) -> Gain | str:
    """An einsum of one activation and constants: the norm is at most that of the absolute values."""
    sizes = [part.abs() if isinstance(part, Tensor) else part for part in call.arguments["tensors"]]

    def apply(tensor: Tensor) -> Tensor:
        parts = [part if isinstance(part, Tensor) else tensor for part in sizes]
        result: Tensor = torch.einsum(call.arguments["equation"], *parts)
        return result

    return Gain(nonnegative_norm(apply, call.input_shape), "absolute values")


def _softmax(call: Call) -> Gain | str:
    # Row i of diag(p) - p p' has absolute sum 2 p_i (1 - p_i).
    return Gain(0.5, "Gershgorin")


def _log_softmax(call: Call) -> Gain | str:
    # The Jacobian 1 - 1 p' is an oblique projection, of norm ||1|| ||p|| at most.
    shape = call.input_shape
    return Gain(math.sqrt(shape[int(call.arguments["dim"])] if shape else 1), "oblique projection")


def _normalised(call: Call) -> Gain | str:
    """LayerNorm, GroupNorm, InstanceNorm, RMSNorm: steepest, with slope 1 / sqrt(eps), where the input is constant.

    With s^2 = mean(u^2) + eps and u the centred input, the Jacobian (1 - u u' / (n s^2)) / s has norm 1 / s.
    """
    arguments = call.arguments
    weight, eps = arguments["weight"], arguments["eps"]
    if isinstance(weight, fx.Node):
        return "has a weight that depends on the input"
    if call.name == "instance_norm" and not arguments["use_input_stats"]:
        factors = batch_norm_gain(call)
        return factors if isinstance(factors, str) else Gain(float(factors.abs().max()), "largest factor")
    if eps is None or float(eps) <= 0.0:
        return f"normalises without a fixed eps > 0 ({call.name}), which is not Lipschitz"
    largest = 1.0 if weight is None else float(weight.abs().max())
    return Gain(largest / math.sqrt(float(eps)), "loose: largest factor / sqrt(eps)")


def _batch_norm(call: Call) -> Gain | str:
    factors = batch_norm_gain(call)
    return factors if isinstance(factors, str) else Gain(float(factors.abs().max()), "largest factor")


def _prelu(call: Call) -> Gain | str:
    return Gain(max(1.0, float(call.arguments["weight"].abs().max())), "largest slope")


def _largest(call: Call) -> Gain | str:
    # With another tensor, entry by entry; else over dimensions.
    return Gain(_only(call) if "other" in call.arguments else 1.0, "a maximum is no steeper than its entries")


def _masked(call: Call) -> Gain | str:
    return Gain(_only(call), "entries are kept or dropped")


def _norm(call: Call) -> Gain | str:
    if float(call.arguments["ord"]) < 2.0:
        return f"applies a norm of order {call.arguments['ord']}, for which no bound is known"
    return Gain(1.0, "triangle inequality")


def _max_pool(call: Call) -> Gain | str:
    """Root of how many windows an entry can be the maximum of."""
    axes = int(call.name[8])

    def axis(key: str, place: int) -> int:
        value = call.arguments[key] or call.arguments["kernel_size"]  # no stride: that of the kernel
        return int(value[min(place, len(value) - 1)]) if isinstance(value, (list, tuple)) else int(value)

    windows = 1
    for place in range(axes):
        taps, stride, dilation = (axis(key, place) for key in ("kernel_size", "stride", "dilation"))
        # Positions of an entry relative to its windows: taps that are a multiple of the stride apart.
        windows *= -(-taps // (stride // math.gcd(stride, dilation)))
    return Gain(math.sqrt(windows), "overlap of the windows")


def _adaptive_max_pool(call: Call) -> Gain | str:
    axes = int(call.name[len("adaptive_max_pool")])
    windows = 1
    for size, count in zip(call.input_shape[-axes:], call.shape[-axes:], strict=True):
        hits = torch.zeros(size, dtype=torch.int64)
        for place in range(count):
            hits[place * size // count : -(-(place + 1) * size // count)] += 1
        windows *= int(hits.max())
    return Gain(math.sqrt(windows), "overlap of the windows")


_RULES: dict[str, Callable[[Call], Gain | str]] = {
    "mul": _times,
    "div": _divided,
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm"), _matrix),
    "einsum": _contraction,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "logsumexp": _largest,
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(
        "layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm".split(), _normalised
    ),
    "prelu": _prelu,
    **dict.fromkeys("amax amin max min".split(), _largest),
    "masked_fill": _masked,
    "linalg_vector_norm": _norm,
    **dict.fromkeys(
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices".split(), _max_pool
    ),
    **dict.fromkeys("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d".split(), _adaptive_max_pool),
}
