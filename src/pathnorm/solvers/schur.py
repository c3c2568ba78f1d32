"""Schur complements of block matrices: the step that forward and backward selection share.

On ``(G, C)`` a step orthogonalises the waiting neurons against a chosen one; on ``(G^-1, G^-1 C)``
the same step removes one from the least-squares fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Complements", "block_energies"]

Array = NDArray[np.float64]

# Columns that wait before the matrices are updated: one pass over them by BLAS-3 instead of one per block.
_WAITING = 192


def block_energies(matrix: Array, rows: Array, block: int) -> Array:
    """Return ``tr(R_k' M_kk^-1 R_k)`` for every block k of ``matrix`` (P, P) and ``rows`` (P, D)."""
    blocks = rows.reshape(matrix.shape[0] // block, block, -1)
    return _energies(_diagonal_blocks(matrix, block), blocks @ blocks.transpose(0, 2, 1))


class Complements:
    """A matrix (P, P) and rows (P, D) from which blocks are dropped, the others orthogonalised against them.

    Dropping block g replaces M by ``M - M_:g M_gg^-1 M_g:`` and R by ``R - M_:g M_gg^-1 R_g``, without the rows and
    columns of g. With M in memory a thousand steps would read it a thousand times, so steps wait: with
    ``A_s = M_:g``, ``B_s = A_s M_gg^-1``, ``S_s = M_gg^-1 R_g`` as they were at step s,

        M = M_0 - A B'    R = R_0 - A S    R R' = Q_0 - A W' - W A'    W_s = R S_s' - A_s S_s S_s' / 2

    which gives single columns of M and of R R', all that a step needs, from ``A``, ``B``, ``W`` (P, w). The diagonal
    blocks of M and of R R' are kept up to date; M, R and ``Q_0 = R_0 R_0'`` are brought up when w is large.

    Parameters
    ----------
    matrix : ndarray of shape (P, P)
        Symmetric and positive definite.
    rows : ndarray of shape (P, D)
    block : int
        Rows of a block; P is a multiple of it.
    """

    def __init__(self, matrix: Array, rows: Array, block: int) -> None:
        self._block, self._count = block, matrix.shape[0] // block
        if rows.shape[1] > rows.shape[0]:  # only R R' matters
            rows = np.asarray(np.linalg.qr(rows.T, mode="r"), dtype=np.float64).T
        self._start(np.array(matrix), np.array(rows), np.arange(self._count))

    def energies(self) -> Array:
        """Return ``tr(R_k' M_kk^-1 R_k)`` (K,) of all blocks; NaN where a block was dropped."""
        found = np.full(self._count, np.nan)
        found[self._names] = _energies(self._diagonal, self._squares)
        found[self._names[self._gone]] = np.nan
        return found

    def drop(self, name: int) -> None:
        """Drop a block, by its number among all of them."""
        if self._used + self._block > self._columns.shape[1] or 2 * int(self._gone.sum()) > self._names.size:
            self._bring_up()
        place, block, used = int(np.searchsorted(self._names, name)), self._block, self._used
        here, done, new = slice(place * block, (place + 1) * block), slice(0, used), slice(used, used + block)
        A, B, W = self._columns, self._scaled, self._mixed
        column = self._matrix[:, here] - A[:, done] @ B[here, done].T
        products = self._products[:, here] - A[:, done] @ W[here, done].T - W[:, done] @ A[here, done].T
        pivot = column[here]
        half = np.linalg.solve(pivot, products.T).T  # R S'
        A[:, new] = column
        B[:, new] = np.linalg.solve(pivot, column.T).T
        W[:, new] = half - 0.5 * (column @ np.linalg.solve(pivot, half[here]))
        self._solved[new] = np.linalg.solve(pivot, self._rows[here] - A[here, done] @ self._solved[done])
        a, b, w = (part[:, new].reshape(-1, block, block) for part in (A, B, W))
        mixed = a @ w.transpose(0, 2, 1)
        self._diagonal -= a @ b.transpose(0, 2, 1)
        self._squares -= mixed + mixed.transpose(0, 2, 1)
        # So that what is left of it in the arrays divides by nothing.
        self._diagonal[place] = np.eye(block)
        self._used += block
        self._gone[place] = True

    def _bring_up(self) -> None:
        kept = np.repeat(~self._gone, self._block)
        A, B = self._columns[kept, : self._used], self._scaled[kept, : self._used]
        matrix = self._matrix[np.ix_(kept, kept)]
        matrix -= A @ B.T
        rows = self._rows[kept]
        rows -= A @ self._solved[: self._used]
        self._start(matrix, rows, self._names[~self._gone])

    def _start(self, matrix: Array, rows: Array, names: NDArray[np.intp]) -> None:
        size, block = matrix.shape[0], self._block
        self._matrix, self._rows, self._names = matrix, rows, names
        self._products = rows @ rows.T
        self._diagonal = _diagonal_blocks(matrix, block)
        self._squares = _diagonal_blocks(self._products, block)
        self._gone = np.zeros(names.size, dtype=bool)
        width = min(max(_WAITING // block, 1) * block, size)
        self._columns, self._scaled, self._mixed = (np.empty((size, width), order="F") for _ in range(3))
        self._solved = np.empty((width, rows.shape[1]))
        self._used = 0


def _diagonal_blocks(matrix: Array, block: int) -> Array:
    """Return a copy of the diagonal blocks (K, block, block)."""
    count = matrix.shape[0] // block
    found: Array = matrix.reshape(count, block, count, block)[np.arange(count), :, np.arange(count), :].copy()
    return found


def _energies(diagonal: Array, squares: Array) -> Array:
    """Return ``tr(M_kk^-1 Q_kk)`` (K,)."""
    if diagonal.shape[1] == 1:
        plain: Array = squares[:, 0, 0] / diagonal[:, 0, 0]
        return plain
    found: Array = np.trace(np.linalg.solve(diagonal, squares), axis1=1, axis2=2)
    return found
