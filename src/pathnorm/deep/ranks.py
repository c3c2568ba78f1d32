"""Sums over the processes of an initialised group; without one, nothing happens."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["sum_over_ranks"]


def sum_over_ranks(*tensors: Tensor) -> None:
    """Add up ``tensors`` over all ranks, in place."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
