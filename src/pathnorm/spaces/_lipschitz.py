"""Lipschitz constants of shallow networks, from the Euclidean norm to the Euclidean norm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["lower", "upper"]

Matrix = NDArray[np.float64]

_ENTRIES = 2**21  # of the Jacobians that are held at once
_TIE = 2.0**-46  # of |w|'|x| + |b|: within so much of a hinge, some roundings, x is on it


def upper(W: Matrix, b: Matrix, V: Matrix, A: Matrix) -> float:
    """A bound that holds everywhere; exact for one input."""
    if W.shape[0] == 0:
        return _norm(A)
    if W.shape[1] == 1:
        return _largest_slope(W[:, 0], b, V, A[0])
    norms, sizes = np.linalg.norm(W, axis=1), np.linalg.norm(V, axis=1)
    masses = norms * sizes
    some = masses > 0.0
    # ||sum_k s_k w_k v_k'|| with |s_k| <= 1 is at most the product of the norms of W and V, whatever the scales of the
    # neurons; balanced ones make it at most the path norm too.
    root = np.sqrt(masses[some])[:, None]
    product = _norm(W[some] / norms[some, None] * root) * _norm(V[some] / sizes[some, None] * root)
    spread = min(float(masses.sum()), product, _norm(W) * _norm(V))
    return min(_norm(A) + spread, _norm(A + 0.5 * (W.T @ V)) + 0.5 * spread)


def lower(W: Matrix, b: Matrix, V: Matrix, A: Matrix, X: Matrix) -> float:
    """The largest norm of the Jacobians at X."""
    if X.shape[0] == 0:
        raise ValueError("X must have at least one row, at which the gradient is taken; got none. Give samples.")
    if W.shape[0] == 0:
        return _norm(A)
    inputs, outputs = A.shape
    # On a hinge the Jacobian is that of a cell beside it: all neurons are then decided in one direction of leaving.
    leaving = W @ np.random.default_rng(0).standard_normal(inputs) > 0.0
    patterns = []
    step = max(1, _ENTRIES // W.shape[0])
    for start in range(0, X.shape[0], step):
        rows = X[start : start + step]
        inner = rows @ W.T - b
        reach = _TIE * (np.abs(rows) @ np.abs(W).T + np.abs(b))
        active = np.where(np.abs(inner) <= reach, leaving, inner > 0.0)
        patterns.append(np.unique(active, axis=0))
    active = np.unique(np.concatenate(patterns), axis=0)
    worst, step = 0.0, max(1, _ENTRIES // (outputs * max(W.shape)))
    for start in range(0, active.shape[0], step):
        some = active[start : start + step]
        jacobians = (some[:, None, :] * V.T).reshape(-1, W.shape[0]) @ W
        worst = max(worst, _largest_norm(jacobians.reshape(-1, outputs, inputs) + A.T))
    return worst


def _largest_norm(matrices: Matrix) -> float:
    """The largest operator norm, by the Gram matrices of the shorter sides."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.transpose(0, 2, 1)
    grams = matrices @ matrices.transpose(0, 2, 1)
    return float(np.sqrt(max(np.linalg.eigvalsh(grams).max(), 0.0)))


def _largest_slope(w: Matrix, b: Matrix, V: Matrix, a: Matrix) -> float:
    """The largest slope of a function of one variable: the hinges cut the line into at most K + 1 pieces."""
    there = w != 0.0
    w, b, V = w[there], b[there], V[there]
    hinges = b / w
    order = np.argsort(hinges)
    # Between two neurons with one hinge there is no piece.
    ends = np.append(np.diff(hinges[order]) > 0.0, True)
    # Far to the left the neurons with w < 0 are active; every hinge adds |w| v to the slope.
    first = a + np.minimum(w, 0.0) @ V
    slopes = np.vstack([first, first + np.cumsum((np.abs(w)[:, None] * V)[order], axis=0)[ends]])
    return float(np.linalg.norm(slopes, axis=1).max())


def _norm(matrix: Matrix) -> float:
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
