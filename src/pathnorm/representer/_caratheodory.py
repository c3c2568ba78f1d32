"""Carathéodory: a positive combination of vectors is one of independent vectors, at no higher cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lstsq, qr, solve_triangular

__all__ = ["independent"]

Matrix = NDArray[np.float64]

_SMALLEST_BATCH = 64


def independent(columns: Matrix, cost: Matrix, tol: float) -> Matrix:
    """Multipliers ``m >= 0`` (K,) with ``columns @ m = columns @ 1``, independent columns where m > 0, less cost.

    Where columns are dependent, ``columns @ z = 0`` with ``cost' z >= 0`` for z or -z, and going from m along -z until
    the first multiplier is zero makes one column free. z is the direction in which the cost falls fastest. So the
    number left is at most the rank of the columns (R, K), and ``cost' m <= cost' 1``.

    Columns count as dependent where a combination with unit coefficients is shorter than ``tol``. Beside independent
    ones the others are taken a batch at a time, so that one factorisation frees many and none is larger than needed.
    """
    count = cost.size
    multipliers = np.ones(count)
    order, rank, mix = _dependence(columns, tol)
    size = max(_SMALLEST_BATCH, rank // 4)
    batch, waiting, mix = order[: rank + size], order[rank + size :], mix[:, :size]
    while True:
        multipliers[batch] = _eliminate(multipliers[batch], cost[batch], _null_space(mix))
        if not waiting.size:
            break
        batch = np.append(batch[multipliers[batch] > 0.0], waiting[:size])
        order, _, mix = _dependence(columns[:, batch], tol)
        batch, waiting = batch[order], waiting[size:]
    return _settle(columns, cost, multipliers)


def _dependence(columns: Matrix, tol: float) -> tuple[NDArray[np.int64], int, Matrix]:
    """An order of the columns (R, K), how many of the first are independent, and the others as their combinations."""
    count = columns.shape[1]
    if columns.shape[0] == 0:
        return np.arange(count), 0, np.zeros((0, count))
    triangle, order = qr(columns, mode="r", pivoting=True, check_finite=False)
    rank = int((np.abs(np.diag(triangle)) > tol).sum())
    if rank == 0:  # LAPACK may complain
        return order.astype(np.int64), 0, np.zeros((0, count))
    mix = solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:], check_finite=False)
    return order.astype(np.int64), rank, mix


def _null_space(mix: Matrix) -> Matrix:
    """Orthonormal basis (K, m) of the combinations that give nothing."""
    return np.asarray(np.linalg.qr(np.vstack([-mix, np.eye(mix.shape[1])]))[0])


def _eliminate(multipliers: Matrix, cost: Matrix, null: Matrix) -> Matrix:
    """Set as many multipliers to zero as ``null`` (K, m) has columns.

    After each, a reflection of the basis gathers what the freed coordinate has of it in one column, which is dropped:
    the rest stays orthonormal and moves that coordinate no more.
    """
    multipliers = multipliers.copy()
    while null.shape[1]:
        slope = cost @ null
        steep = np.linalg.norm(slope)
        direction = null @ (slope / steep) if steep > 1e-13 * np.linalg.norm(cost) else null[:, -1]
        if direction.max() < -direction.min() and steep <= 1e-13 * np.linalg.norm(cost):
            direction = -direction
        rising = direction > 1e-14 * np.abs(direction).max()
        ratios = np.full(multipliers.size, np.inf)
        ratios[rising] = multipliers[rising] / direction[rising]
        freed = int(ratios.argmin())
        multipliers = np.maximum(multipliers - ratios[freed] * direction, 0.0)
        multipliers[freed] = 0.0
        row = null[freed].copy()
        row[-1] += np.copysign(np.linalg.norm(row), row[-1])
        null = null - np.outer(null @ row, (2.0 / (row @ row)) * row)
        null = null[:, :-1]
        null[freed] = 0.0
    return multipliers


def _settle(columns: Matrix, cost: Matrix, multipliers: Matrix) -> Matrix:
    """Remove the rounding of many steps: the multipliers of independent columns are unique."""
    chosen = multipliers > 0.0
    if not chosen.any() or columns.shape[0] == 0:
        return multipliers
    missing = columns.sum(axis=1) - columns[:, chosen] @ multipliers[chosen]
    settled = multipliers.copy()
    settled[chosen] += lstsq(columns[:, chosen], missing, check_finite=False, lapack_driver="gelsy")[0]
    better = settled.min() >= 0.0 and cost @ settled <= max(cost.sum(), cost @ multipliers)
    return settled if better else multipliers
