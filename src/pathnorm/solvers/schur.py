"""Schur complements of block matrices: the step that forward and backward selection share.

On ``(G, C)`` a step orthogonalises the waiting neurons against a chosen one; on ``(G^-1, G^-1 C)``
the same step removes one from the least-squares fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["block_energies", "drop_block"]

Array = NDArray[np.float64]


def block_energies(matrix: Array, rows: Array, block: int) -> Array:
    """Return ``tr(R_k' M_kk^-1 R_k)`` for every block k of ``matrix`` (P, P) and ``rows`` (P, D)."""
    if block == 1:
        plain: Array = np.einsum("kd,kd->k", rows, rows) / np.diagonal(matrix)
        return plain
    count = matrix.shape[0] // block
    diagonal = matrix.reshape(count, block, count, block)[np.arange(count), :, np.arange(count), :]
    blocks = rows.reshape(count, block, -1)
    energies: Array = np.einsum("kbd,kbd->k", blocks, np.linalg.solve(diagonal, blocks))
    return energies


def drop_block(matrix: Array, rows: Array, index: int, block: int) -> tuple[Array, Array]:
    """Return the Schur complements of block ``index``: both matrices without it."""
    gone = slice(index * block, (index + 1) * block)
    rest = np.r_[0 : gone.start, gone.stop : matrix.shape[0]]
    column = matrix[rest, gone]
    solved = np.linalg.solve(matrix[gone, gone], np.hstack([column.T, rows[gone]]))
    width = rest.size
    return matrix[np.ix_(rest, rest)] - column @ solved[:, :width], rows[rest] - column @ solved[:, width:]
