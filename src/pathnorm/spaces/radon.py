"""The measure behind a shallow network: on which hyperplanes it bends, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DirectionMasses", "RadonMeasure", "Subspace", "measure_of"]

Matrix = NDArray[np.float64]

_SAME = 1e-12  # atoms nearer than this, relative to their offsets, are one up to rounding
_CANCELLED = 1e-14
_FEW = 32


class DirectionMasses(NamedTuple):
    """Unit directions (M, d), most massive first, and their total masses (M,)."""

    directions: Matrix
    masses: Matrix


class Subspace(NamedTuple):
    """Eigenvalues (d,) from the largest, eigenvectors (d, d) as columns, shares of the trace (d,), and a dimension."""

    values: Matrix
    vectors: Matrix
    shares: Matrix
    dimension: int


@dataclass(frozen=True, slots=True, eq=False)
class RadonMeasure:
    """``sum_k m_k delta(w_k, b_k)``: f is affine plus ``sum_k m_k |w_k' x - b_k| / 2``.

    The second derivative in the Radon domain is even: (w, b) and (-w, -b) are one hyperplane and one atom. Directions
    are on the half-sphere where the first coordinate that is not zero is positive, and the most massive atom is first.

    Parameters
    ----------
    directions : array (K, d)
        Unit normals w_k of the hyperplanes.
    offsets : array (K,)
        Their distances b_k from the origin, with sign.
    masses : array (K, D)
        Jumps m_k of the normal derivative, one for each output.
    """

    directions: Matrix
    offsets: Matrix
    masses: Matrix

    def __post_init__(self) -> None:
        for name in ("directions", "offsets", "masses"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        shapes = [part.shape for part in (self.directions, self.offsets, self.masses)]
        if [len(shape) for shape in shapes] != [2, 1, 2] or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(
                "A measure has directions (K, d), offsets (K,) and masses (K, D); "
                f"got {', '.join(map(str, shapes))}. Rows are atoms."
            )

    @property
    def sizes(self) -> Matrix:
        """Euclidean norms (K,) of the masses."""
        return np.asarray(np.linalg.norm(self.masses, axis=1))

    @property
    def total(self) -> float:
        """Total variation ``sum_k ||m_k||`` of the measure, the R-BV² seminorm of f [PN21]."""
        return float(self.sizes.sum())

    def directions_by_mass(self, *, angle: float = 1e-6) -> DirectionMasses:
        """Total mass along each direction, whatever the offsets.

        From the most massive atom on, an atom joins the direction to which it has at most ``angle`` radians, or becomes
        a new one. A direction is the mean of its atoms, weighted with their masses.
        """
        if not 0.0 <= angle < np.pi / 2.0:
            raise ValueError(f"angle must be radians in [0, pi/2); got {angle}. A degree is 0.0175.")
        # The chord is exact to rounding for small angles, where the cosine is not.
        order = np.argsort(-self.sizes, kind="stable")
        directions, sizes = self.directions[order], self.sizes[order]
        group, sign = _gather(directions, 2.0 * np.sin(angle / 2.0))
        totals = np.bincount(group, sizes).astype(np.float64)
        means = np.zeros((totals.size, directions.shape[1]))
        np.add.at(means, group, (sign * sizes)[:, None] * directions)
        means = _upper_half(means / np.linalg.norm(means, axis=1, keepdims=True))[0]
        order = np.argsort(-totals, kind="stable")
        return DirectionMasses(means[order], totals[order])

    def subspace(self, *, tol: float = 1e-6) -> Subspace:
        """In which directions f bends: the spectrum of ``sum_k ||m_k|| w_k w_k'``.

        The dimension counts the shares above ``tol``. f is affine along every eigenvector of share zero.
        """
        moment = (self.directions * self.sizes[:, None]).T @ self.directions
        values, vectors = np.linalg.eigh(moment)
        values = np.maximum(values[::-1], 0.0)
        total = values.sum()
        shares = values / total if total > 0.0 else np.zeros_like(values)
        return Subspace(values, vectors[:, ::-1], shares, int((shares > tol).sum()))


def measure_of(W: Matrix, b: Matrix, V: Matrix) -> RadonMeasure:
    """The measure of the neurons ``v_k (w_k' x - b_k)_+``; those with one hyperplane become one atom."""
    norms = np.linalg.norm(W, axis=1)
    sizes = norms * np.linalg.norm(V, axis=1)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0.0]
    norms, sizes = norms[order], sizes[order]
    directions, flip = _upper_half(W[order] / norms[:, None])
    # Adding zero turns -0.0 into 0.0.
    offsets, masses = flip * b[order] / norms + 0.0, norms[:, None] * V[order]
    scale = 1.0 + np.abs(offsets)
    group, _ = _gather(np.column_stack([directions, offsets]) / scale[:, None], _SAME)
    # (t)_+ and (-t)_+ bend alike, so masses are added whatever the sides the neurons face.
    total = np.zeros((group.max(initial=-1) + 1, V.shape[1]))
    np.add.at(total, group, masses)
    first = np.unique(group, return_index=True)[1]
    found = np.linalg.norm(total, axis=1)
    order = np.argsort(-found, kind="stable")
    order = order[found[order] > _CANCELLED * np.bincount(group, sizes, minlength=found.size)[order]]
    return RadonMeasure(directions[first][order], offsets[first][order], total[order])


def _upper_half(directions: Matrix) -> tuple[Matrix, Matrix]:
    """Directions (K, d) with the first coordinate that is not zero up to rounding made positive, and the signs (K,)."""
    there = np.abs(directions) > _SAME
    first = np.take_along_axis(directions, there.argmax(axis=1)[:, None], axis=1)[:, 0]
    sign = np.where(first < 0.0, -1.0, 1.0)
    return directions * sign[:, None] + 0.0, sign


def _gather(points: Matrix, radius: float) -> tuple[NDArray[np.int64], Matrix]:
    """Give each point (K, d), in order, to the nearest earlier leader within ``radius`` up to sign, or make it one.

    Returns the groups (K,), numbered as they appear, and the signs that turn the points to their leaders' side.
    """
    count, dimension = points.shape
    group, sign = np.zeros(count, dtype=np.int64), np.ones(count)
    # A shadow on a line is never farther than the points are: it leaves few leaders where the radius is small.
    probe = np.random.default_rng(0).standard_normal(dimension)
    shadows, squares = np.abs(points @ probe) / np.linalg.norm(probe), np.einsum("kd,kd->k", points, points)
    leaders, members = np.zeros_like(points), np.zeros(count, dtype=np.int64)
    found = 0
    for k in range(count):
        near = np.flatnonzero(np.abs(shadows[members[:found]] - shadows[k]) <= radius * (1.0 + 1e-9) + 1e-15)
        if near.size > _FEW:
            # So does the distance by products, which has lost half of the digits.
            close = squares[members[:found]] + squares[k] - 2.0 * np.abs(leaders[:found] @ points[k])
            near = near[close[near] <= radius * radius + 1e-10]
        others = leaders[near]
        along, against = (np.linalg.norm(others - side * points[k], axis=1) for side in (1.0, -1.0))
        distance = np.minimum(along, against)
        if near.size and distance.min() <= radius:
            best = int(distance.argmin())
            group[k], sign[k] = near[best], 1.0 if along[best] <= against[best] else -1.0
        else:
            leaders[found], members[found], group[k] = points[k], k, found
            found += 1
    return group, sign
