"""What numpy and torch do not spell alike, and sums over blocks of rows.

Everything else in the problems and solvers is written with operators that both have. The
library is picked from the array itself, so torch is never imported for a numpy user.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.linalg import lapack

__all__ = [
    "Array",
    "Blocks",
    "add_to_diagonal",
    "float64_copy",
    "inverse_psd",
    "is_torch",
    "namespace",
    "positions",
]

# A float64 numpy array or torch tensor: no type that mypy knows covers both.
Array: TypeAlias = Any


def is_torch(array: object) -> bool:
    """Whether ``array`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def namespace(array: Array) -> Any:
    """The library of ``array``: its ``isfinite`` and its ``linalg`` carry the same names."""
    return sys.modules["torch"] if is_torch(array) else np


def float64_copy(array: Array) -> Array:
    """A float64 copy, detached from the caller's memory and from any autograd graph."""
    if is_torch(array):
        torch = sys.modules["torch"]
        return array.detach().to(dtype=torch.float64, copy=True)
    return np.array(array, dtype=np.float64, order="C")


def positions(mask: Array) -> Array:
    """Indices of the true entries of a mask (K,)."""
    return mask.nonzero().flatten() if is_torch(mask) else np.flatnonzero(mask)


def add_to_diagonal(matrix: Array, values: Array) -> None:
    """``matrix += diag(values)``, in place."""
    if is_torch(matrix):
        matrix.diagonal().add_(values)
    else:
        matrix[np.diag_indices_from(matrix)] += values


def inverse_psd(matrix: Array) -> Array | None:
    """Inverse of a symmetric positive definite matrix by Cholesky; None where there is none."""
    if is_torch(matrix):
        torch = sys.modules["torch"]
        factor, info = torch.linalg.cholesky_ex(matrix)
        return None if info > 0 else torch.cholesky_inverse(factor)
    if matrix.shape[0] == 0:  # LAPACK complains
        return matrix
    # The transpose of a symmetric C-ordered matrix is itself in Fortran order: no copy.
    factor, info = lapack.dpotrf(matrix.T, lower=1)
    if info != 0:
        return None
    lower, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A partition of the rows of a coefficient array into contiguous blocks, one per neuron.

    Attributes
    ----------
    sizes : tuple of int
        Rows of each of the K blocks, in order.
    owner : array (P,)
        Neuron that each row belongs to; lives in the library and on the device of the data.
    """

    sizes: tuple[int, ...]
    owner: Array

    @classmethod
    def of(cls, sizes: tuple[int, ...], like: Array) -> Blocks:
        """Blocks of the given sizes for arrays of the kind of ``like``."""
        owner: Array = np.repeat(np.arange(len(sizes)), sizes)
        if is_torch(like):
            owner = sys.modules["torch"].from_numpy(owner).to(like.device)
        return cls(sizes, owner)

    def select(self, neurons: Array) -> tuple[Array, Blocks]:
        """Rows of the given neurons (sorted indices), and the partition of those rows alone."""
        chosen = neurons.tolist()
        if len(chosen) == len(self.sizes):
            return positions(self.owner >= 0), self
        member = self.owner < 0
        member |= namespace(self.owner).isin(self.owner, neurons)
        return positions(member), Blocks.of(tuple(self.sizes[k] for k in chosen), self.owner)

    def sum(self, rows: Array) -> Array:
        """Sums of ``rows`` (P, ...) over each block: (K, ...)."""
        count = len(self.sizes)
        if count == rows.shape[0]:
            return rows
        if len(set(self.sizes)) == 1:
            return rows.reshape(count, self.sizes[0], *rows.shape[1:]).sum(1)
        if is_torch(rows):
            return rows.new_zeros(count, *rows.shape[1:]).index_add_(0, self.owner, rows)
        starts = np.cumsum((0, *self.sizes[:-1]))
        return np.add.reduceat(rows, starts, axis=0)

    def spread(self, values: Array) -> Array:
        """Each neuron's value (K,) on every one of its rows: (P,)."""
        return values if len(self.sizes) == len(self.owner) else values[self.owner]

    def norms(self, rows: Array) -> Array:
        """Frobenius norm of each block of ``rows`` (P, D): (K,)."""
        return self.sum((rows * rows).sum(1)) ** 0.5
