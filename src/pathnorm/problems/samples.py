"""Samples of a function of one variable, in the order of x."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.errors import DataError
from pathnorm.problems._moments import Cells, Data, pyramid

__all__ = ["Samples"]

Vector = NDArray[np.float64]
_LINE_SAMPLES = 4096
_CHUNK = 1 << 15


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples ``(x_i, y_i)`` with weights, sorted by x.

    Parameters
    ----------
    x, y : array (n,)
        Sorted by x.
    weight : array (n,), or (0,) where every weight is one
    spread : float
        ``sum w (y - mean)^2 / 2`` of the samples that were merged: what the squared loss keeps of them.
    count : int
        Samples before merging.
    """

    x: Vector
    y: Vector
    weight: Vector
    spread: float
    count: int

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> Samples:
        """Check and sort; samples of weight zero are left out. Nothing of the caller's is kept or written to."""
        x, y = _vector(x, "x"), _vector(y, "y")
        if x.size != y.size:
            raise DataError(f"x and y must have the same length; got {x.size} and {y.size}.")
        w = np.empty(0)
        if weight is not None:
            w = _vector(weight, "sample_weight")
            if w.size != x.size:
                raise DataError(f"sample_weight must have one entry per sample, {x.size}; got {w.size}.")
            if w.size and w.min() < 0.0:
                raise DataError(f"sample_weight must not be negative; got {w.min():g}.")
            if w.size and w.min() == 0.0:
                keep = w > 0.0
                x, y, w = x[keep], y[keep], w[keep]
        if x.size == 0:
            raise DataError("at least one sample is needed whose sample_weight is not zero; got none.")
        if not (x[1:] >= x[:-1]).all():
            order = np.argsort(x, kind="stable")
            x, y, w = x[order], y[order], w[order] if w.size else w
        return cls(x, y, w, 0.0, x.size)

    @cached_property
    def weights(self) -> Vector:
        """Weights (n,), written out."""
        return self.weight if self.weight.size else np.ones(self.x.size)

    @cached_property
    def line(self) -> tuple[float, float, float]:
        """Position, value and slope of a least squares line through some thousand of the samples."""
        step = -(-self.x.size // _LINE_SAMPLES)
        x, y = self.x[::step], self.y[::step]
        w = self.weight[::step] if self.weight.size else np.ones(x.size)
        mean = x[0] + np.average(x - x[0], weights=w)
        level = np.average(y, weights=w)
        second = w @ (x - mean) ** 2
        slope = w @ ((x - mean) * (y - level)) / second if second > 0.0 else 0.0
        return (float(mean), float(level), float(slope)) if np.isfinite(slope) else (float(x[0]), float(level), 0.0)

    @cached_property
    def data(self) -> Data:
        """What the kernels read: targets measured from the line, which takes their size and leaves their noise."""
        position, level, slope = self.line
        y = np.empty(self.x.size)
        for k in range(0, y.size, _CHUNK):  # what is in between stays in the cache
            part = slice(k, k + _CHUNK)
            np.subtract(self.x[part], position, out=y[part])
            y[part] *= slope
            y[part] += level
            np.subtract(self.y[part], y[part], out=y[part])
        return Data(self.x, y, self.weight)

    @cached_property
    def levels(self) -> list[Cells]:
        """Moments of ever larger cells; one pass over the data, made once."""
        return pyramid(self.data)

    @cached_property
    def scale(self) -> float:
        """Size of the targets: of the common line over the data, plus the root mean square off it."""
        position, level, slope = self.line
        top = self.levels[-1].moments
        ends = level + slope * (self.x[[0, -1]] - position)
        return float(np.abs(ends).max() + np.sqrt(top[:, 5].sum() / top[:, 0].sum()))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of the first sample at each distinct x."""
        new = np.ones(self.x.size, dtype=np.bool_)
        np.greater(self.x[1:], self.x[:-1], out=new[1:])
        return np.flatnonzero(new)

    @property
    def distinct(self) -> bool:
        """Whether no two samples share an x."""
        return bool((self.x[1:] > self.x[:-1]).all())

    def merged(self) -> Samples:
        """One sample per distinct x, of their total weight and at their weighted mean."""
        if self.distinct:
            return self
        starts, w = self.starts, self.weights
        total = np.add.reduceat(w, starts)
        mean = np.add.reduceat(w * self.y, starts) / total
        off = self.y - np.repeat(mean, np.diff(np.append(starts, self.x.size)))
        spread = self.spread + 0.5 * float(np.sum(w * off * off))
        return Samples(self.x[starts], mean, total, spread, self.count)

    def join(self, other: Samples) -> Samples:
        """Both together; in the order of x, and of arrival where x is the same."""
        if other.x[0] < self.x[-1]:
            at = np.searchsorted(self.x, other.x, side="right")
        else:
            at = np.full(other.x.size, self.x.size)
        weight = np.empty(0)
        if self.weight.size or other.weight.size:
            weight = np.insert(self.weights, at, other.weights)
        return Samples(
            np.insert(self.x, at, other.x),
            np.insert(self.y, at, other.y),
            weight,
            self.spread + other.spread,
            self.count + other.count,
        )

    def with_targets(self, y: Vector, weight: Vector | None = None) -> Samples:
        """Other targets, and other weights if given, at the same x."""
        return replace(self, y=y, weight=self.weight if weight is None else weight, spread=0.0)


def _vector(array: ArrayLike, name: str) -> Vector:
    vector = np.array(array, dtype=np.float64)
    if vector.ndim == 2 and vector.shape[1] == 1:
        vector = vector[:, 0].copy()
    if vector.ndim != 1:
        raise DataError(f"{name} must be one-dimensional or a single column; got shape {vector.shape}.")
    # A sum is finite unless an entry is not, or it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(vector.sum())
    if suspicious and not np.isfinite(vector).all():
        bad = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise DataError(f"{name} must be finite; got {vector[bad]} at position {bad}. Drop or impute such samples.")
    return vector
