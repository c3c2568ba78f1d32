"""The slopes of functions that act on each entry alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["NOT_LIPSCHITZ", "slope_range"]

Range = tuple[float, float]

IDENTITY: Range = (1.0, 1.0)
_UNIT: Range = (0.0, 1.0)

# The largest slopes of gelu at sqrt(2), of its tanh form, of silu and of mish, rounded up; slopes at x and -x of the
# first three add up to one.
_GELU = 0.5 * (1.0 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi) + 1e-12
_GELU_TANH = 1.1289931
_SILU = 1.09984
_MISH = (-0.11253, 1.0885)
_SELU = 1.0507009873554805 * 1.6732632423543772

_FIXED: dict[str, Range] = {
    **dict.fromkeys(
        "clone alias contiguous detach dropout feature_dropout alpha_dropout lift_fresh_copy _to_copy to".split(),
        IDENTITY,
    ),
    **dict.fromkeys(
        "relu relu6 tanh hardtanh clamp clamp_min clamp_max softshrink softsign tanhshrink log_sigmoid atan".split(),
        _UNIT,
    ),
    **dict.fromkeys(("abs", "sin", "cos"), (-1.0, 1.0)),
    "neg": (-1.0, -1.0),
    "sigmoid": (0.0, 0.25),
    "silu": (1.0 - _SILU, _SILU),
    "mish": _MISH,
    "selu": (0.0, _SELU),
    "hardswish": (-0.5, 1.5),
    "hardsigmoid": (0.0, 1.0 / 6.0),
    "erf": (0.0, 2.0 / math.sqrt(math.pi)),
}

NOT_LIPSCHITZ = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt pow square reciprocal sign sgn round floor ceil trunc frac "
    "hardshrink threshold celu softplus fmod remainder heaviside bernoulli argmax argmin argsort tan sinh cosh "
    "eq ne lt le gt ge logical_not logical_and logical_or var std".split()
)


def _elu(arguments: Mapping[str, Any]) -> Range:
    right = float(arguments["scale"])
    left = right * float(arguments["alpha"]) * float(arguments["input_scale"])
    return min(0.0, left, right), max(0.0, left, right)


def _gelu(arguments: Mapping[str, Any]) -> Range:
    largest = _GELU if arguments["approximate"] == "none" else _GELU_TANH
    return 1.0 - largest, largest


def _kinked(slope: float) -> Range:
    return min(slope, 1.0), max(slope, 1.0)


def _celu(arguments: Mapping[str, Any]) -> Range | None:
    return _UNIT if float(arguments["alpha"]) > 0.0 else None


def _softplus(arguments: Mapping[str, Any]) -> Range | None:
    # It jumps where it goes over to the identity: by 2e-9 at the usual threshold, where the function meant counts.
    return _UNIT if float(arguments["threshold"]) >= 20.0 else None


def _threshold(arguments: Mapping[str, Any]) -> Range | None:
    return _UNIT if float(arguments["threshold"]) == float(arguments["value"]) else None


_WITH_ARGUMENTS: dict[str, Callable[[Mapping[str, Any]], Range | None]] = {
    "leaky_relu": lambda arguments: _kinked(float(arguments["negative_slope"])),
    "rrelu": lambda arguments: _kinked(0.5 * (float(arguments["lower"]) + float(arguments["upper"]))),
    "elu": _elu,
    "gelu": _gelu,
    "celu": _celu,
    "softplus": _softplus,
    "threshold": _threshold,
}


def slope_range(name: str, arguments: Mapping[str, Any]) -> Range | None:
    """Return the smallest and the largest slope of an operation in evaluation mode, or a little more.

    None if ``name`` does not act on each entry alone, or has no bounded slope with these arguments.
    """
    if name in _WITH_ARGUMENTS:
        return _WITH_ARGUMENTS[name](arguments)
    return _FIXED.get(name)
