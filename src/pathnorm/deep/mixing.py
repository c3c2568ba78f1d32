"""Operations that mix channels, run over those that are left.

A LayerNorm divides by what all channels have in common, so a channel that leaves changes it for the others. In the
graph, which keeps its shapes, an entry of the state tells such an operation which channels are left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["is_kept_key", "kept_key", "run_kept"]

_PREFIX = "kept:"


def kept_key(node: fx.Node) -> str:
    """Return the state entry that says which channels ``node`` has left, if any are gone."""
    return f"{_PREFIX}{node.name}"


def is_kept_key(key: str) -> bool:
    """Whether a state entry is no tensor of the module."""
    return key.startswith(_PREFIX)


def run_kept(name: str, arguments: dict[str, Any], kept: Tensor) -> Tensor:
    """Return what the operation ``name`` gives over the channels ``kept`` (K,) of bool; the others become zero.

    Parameters
    ----------
    arguments : dict
        By the names of the ATen schema.
    """
    x: Tensor = arguments["input"] if "input" in arguments else arguments["self"]
    if name == "mean":
        dim = arguments["dim"][0] if isinstance(arguments["dim"], (list, tuple)) else arguments["dim"]
        shape = [1] * x.ndim
        shape[dim] = -1
        share = kept.to(x.dtype).view(shape) * (kept.numel() / kept.sum())
        return (x * share).mean(dim, keepdim=bool(arguments.get("keepdim", False)))
    part = x[..., kept]
    weight = arguments.get("weight")
    if name == "linear":
        return torch.nn.functional.linear(part, arguments["weight"][:, kept], arguments.get("bias"))
    weight = None if weight is None else weight[kept]
    if name == "rms_norm":
        normalised = torch.nn.functional.rms_norm(part, part.shape[-1:], weight, arguments.get("eps"))
    else:
        bias = arguments.get("bias")
        normalised = torch.nn.functional.layer_norm(
            part, part.shape[-1:], weight, None if bias is None else bias[kept], arguments.get("eps", 1e-5)
        )
    full = x.new_zeros(x.shape)
    full[..., kept] = normalised
    return full
