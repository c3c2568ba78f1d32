"""Neurons in one cell of the samples: those that are active on the same rows are linear together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neurons", "blocks", "merge_cells"]

Matrix = NDArray[np.float64]
Bits = NDArray[np.uint8]

_ENTRIES = 2**22  # of a block of features
_TIE = 2.0**-46  # of |w|'|x| + |b|: within so much of a hinge, some roundings, a sample is on it
_PARALLEL = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """``sum_k v_k (w_k' x - b_k)_+ + A' x + c`` with unit w_k, so that the path norm is ``sum_k ||v_k||``."""

    W: Matrix
    b: Matrix
    V: Matrix
    A: Matrix
    c: Matrix

    @property
    def masses(self) -> Matrix:
        """Path norms (K,) of the neurons."""
        return np.asarray(np.linalg.norm(self.V, axis=1))

    def features(self, X: Matrix) -> Matrix:
        """What the neurons give (N, K)."""
        return np.maximum(X @ self.W.T - self.b, 0.0)

    def keep(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen neurons, and the affine part."""
        return replace(self, W=self.W[chosen], b=self.b[chosen], V=self.V[chosen])

    def to_affine(self, chosen: NDArray[np.bool_]) -> Self:
        """Replace the chosen neurons by what they are where all of them are active."""
        moved = replace(self, A=self.A + self.W[chosen].T @ self.V[chosen], c=self.c - self.b[chosen] @ self.V[chosen])
        return moved.keep(~chosen)

    def flip(self, chosen: NDArray[np.bool_]) -> Self:
        """Turn the chosen neurons around: ``(t)_+ = (-t)_+ + t``."""
        sign = np.where(chosen, -1.0, 1.0)
        linear = np.where(chosen, 1.0, 0.0)[:, None] * self.V
        return replace(
            self,
            W=sign[:, None] * self.W,
            b=sign * self.b,
            A=self.A + self.W.T @ linear,
            c=self.c - self.b @ linear,
        )


def blocks(X: Matrix, columns: int) -> Iterator[Matrix]:
    """Rows of X, so many at once that a matrix with so many columns stays small."""
    step = max(64, _ENTRIES // max(columns, 1))
    for start in range(0, X.shape[0], step):
        yield X[start : start + step]


def merge_cells(neurons: Neurons, X: Matrix, *, affine: bool) -> Neurons:
    """Drop dead neurons and make one of all with one cell and one output direction; the values on X stay.

    With ``affine``, neurons that are active everywhere become affine, and cells are equal up to complement. For
    neurons ``v_k = c_k u`` of one cell the new neuron is ``u (p' x - q)_+``, ``p = sum c_k w_k``, ``q = sum c_k b_k``;
    by the triangle inequality ``||p|| <= sum c_k``.
    """
    above, below = _patterns(neurons, X)
    alive = np.asarray(above.any(axis=1))
    neurons, above, below = neurons.keep(alive), above[alive], below[alive]
    turned = np.zeros(neurons.b.size, dtype=np.bool_)
    if affine:
        everywhere = ~np.asarray(below.any(axis=1))
        neurons, above, below = neurons.to_affine(everywhere), above[~everywhere], below[~everywhere]
        # Of a cell and its complement the one without the first sample that is off the hinge is taken.
        turned = _first_bit(above) < _first_bit(below)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for k in range(turned.size):
        groups[(below[k] if turned[k] else above[k]).tobytes()].append(k)
    masses, leader = neurons.masses, np.arange(turned.size)
    for members in groups.values():
        if len(members) > 1:
            _lead(neurons.V / masses[:, None], masses, members, leader)
    if (leader == np.arange(leader.size)).all():
        return neurons
    return _join(neurons.flip(turned != turned[leader]), leader)


def _lead(directions: Matrix, masses: Matrix, members: list[int], leader: NDArray[np.int64]) -> None:
    """Write into ``leader`` the most massive neuron of each output direction among the members of one cell."""
    rest = np.array(members)
    rest = rest[np.argsort(-masses[rest], kind="stable")]
    while rest.size:
        same = np.linalg.norm(directions[rest] - directions[rest[0]], axis=1) <= _PARALLEL
        same[0] = True
        leader[rest[same]] = rest[0]
        rest = rest[~same]


def _join(neurons: Neurons, leader: NDArray[np.int64]) -> Neurons:
    masses = neurons.masses
    heads, group = np.unique(leader, return_inverse=True)
    P, q = np.zeros((heads.size, neurons.W.shape[1])), np.zeros(heads.size)
    np.add.at(P, group, masses[:, None] * neurons.W)
    np.add.at(q, group, masses * neurons.b)
    norms = np.linalg.norm(P, axis=1)
    alone = np.bincount(group) == 1
    # A sum that cancels has no hinge between samples: its values are rounding.
    some = norms > 1e-14 * np.bincount(group, masses)
    scale = np.where(some, norms, 1.0)
    joined = replace(
        neurons,
        W=np.where(alone[:, None], neurons.W[heads], P / scale[:, None]),
        b=np.where(alone, neurons.b[heads], q / scale),
        V=neurons.V[heads] * np.where(alone, 1.0, norms / masses[heads])[:, None],
    )
    return joined.keep(some)


def _patterns(neurons: Neurons, X: Matrix) -> tuple[Bits, Bits]:
    """Packed rows (K, N / 8): samples clearly above each hinge, and clearly below. A sample on it is in neither."""
    above, below = [], []
    count = neurons.b.size
    for rows in blocks(X, count):
        inner = rows @ neurons.W.T - neurons.b
        reach = _TIE * (np.abs(rows) @ np.abs(neurons.W).T + np.abs(neurons.b))
        above.append(np.packbits((inner > reach).T, axis=1))
        below.append(np.packbits((inner < -reach).T, axis=1))
    return np.concatenate(above, axis=1), np.concatenate(below, axis=1)


def _first_bit(bits: Bits) -> NDArray[np.int64]:
    """Place of the first bit that is set in each row, behind the end if none is."""
    there = bits != 0
    byte = np.where(there.any(axis=1), there.argmax(axis=1), bits.shape[1])
    padded = np.append(bits, np.ones((bits.shape[0], 1), dtype=np.uint8), axis=1)
    first = np.take_along_axis(padded, byte[:, None], axis=1)
    return np.asarray(8 * byte + np.unpackbits(first, axis=1).argmax(axis=1))
