"""Which output channels of a layer another tool has left: rows of a weight found in a larger one.

Weights that were only sliced keep their bits. An item is one entry of a linear layer, one kernel of a
convolution; a row of the small weight comes from a row of the large one that holds all its items, and the
columns follow. Nothing has to be known about the layers in between, so residual streams need no rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["surviving_rows"]

Codes = NDArray[np.uint64]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MOST_COLUMNS = 64


def surviving_rows(
    small: Tensor, large: Tensor, sides: Sequence[tuple[Tensor, Tensor]] = ()
) -> NDArray[np.intp] | None:
    """Return, for every row of ``small``, the row of ``large`` of which it is a slice; None if there is none.

    Parameters
    ----------
    small : torch.Tensor, shape (d, p, ...)
    large : torch.Tensor, shape (D, P, ...)
        With ``d <= D``, ``p <= P`` and the same kernel.
    sides : sequence of pairs of tensors, shapes (d,) and (D,)
        Entries that belong to the rows, such as biases and BatchNorm statistics. They decide only where the
        weights leave a choice, because tools estimate such statistics anew.
    """
    if small.dtype != large.dtype or small.shape[2:] != large.shape[2:]:
        return None
    few, many = _codes(small), _codes(large)
    same_columns = few.shape[1] == many.shape[1]
    candidates = _rows_equal(few, many) if same_columns else _rows_hold(few, many)
    for part, whole in sides:
        agree = _codes(part[:, None])[:, 0][:, None] == _codes(whole[:, None])[:, 0][None, :]
        narrowed = candidates & agree
        undecided = (candidates.sum(1) > 1) & narrowed.any(1)
        candidates[undecided] = narrowed[undecided]
    rows = _assign(candidates)
    if rows is None or same_columns:
        return rows
    columns_found = np.isin(_digest(few.T), _digest(many[rows].T)).all()
    return rows if columns_found else None


def _rows_equal(few: Codes, many: Codes) -> NDArray[np.bool_]:
    """Return which rows are equal, (d, D)."""
    equal: NDArray[np.bool_] = _digest(few)[:, None] == _digest(many)[None, :]
    return equal


def _rows_hold(few: Codes, many: Codes) -> NDArray[np.bool_]:
    """Return which rows of ``many`` hold all items of a row of ``few``, (d, D), by some of its columns."""
    columns = np.unique(np.linspace(0, few.shape[1] - 1, _MOST_COLUMNS).round().astype(np.intp))
    items, place = np.unique(few[:, columns], return_inverse=True)
    place = place.reshape(few.shape[0], columns.size)
    held = np.zeros((few.shape[0], many.shape[0]), dtype=np.bool_)
    for row, codes in enumerate(many):
        held[:, row] = np.isin(items, codes)[place].all(1)
    return held


def _assign(candidates: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """Choose one row each, in increasing order where that is possible, none twice."""
    free = np.ones(candidates.shape[1], dtype=np.bool_)
    rows, last = np.empty(candidates.shape[0], dtype=np.intp), -1
    for index, allowed in enumerate(candidates):
        choice = np.flatnonzero(allowed & free)
        if choice.size == 0:
            return None
        behind = choice[choice > last]
        last = int(behind[0] if behind.size else choice[0])
        rows[index], free[last] = last, False
    return rows


def _codes(weight: Tensor) -> Codes:
    """Return a hash of every item, (rows, columns)."""
    bits = weight.detach().cpu().contiguous().view(_BITS[weight.element_size()])
    items = bits.flatten(2) if bits.ndim > 2 else bits[:, :, None]
    return _digest(items.numpy().astype(np.int64).view(np.uint64))


def _digest(items: Codes) -> Codes:
    """Return one hash per entry of all axes but the last, which is mixed with random odd factors."""
    factors = np.random.default_rng(0).integers(0, 2**63, size=items.shape[-1], dtype=np.uint64) * np.uint64(2) + 1
    mixed = items ^ (items >> np.uint64(15))
    total: Codes = (mixed * factors).sum(-1, dtype=np.uint64)
    total ^= total >> np.uint64(31)
    return total * np.uint64(0x9E3779B97F4A7C15)
