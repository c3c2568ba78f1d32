"""Adaptive linear splines: the solutions of learning problems over BV²(R)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.spaces.shallow import ShallowNet

__all__ = ["LinearSpline", "disjoint_pairs"]

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LinearSpline:
    """Continuous piecewise linear function ``f: R -> R``, linear beyond its first and last knot.

    ``TV(f')``, the second-order total variation, is the sum of its absolute slope jumps. It equals the smallest path
    norm of a ReLU network that represents f, which :meth:`to_network` attains [PN21, Thm 1].

    Parameters
    ----------
    knots : array (K,), K >= 1
        Strictly increasing. A function without a kink is given by one knot and two equal slopes.
    values : array (K,)
        Values at the knots.
    left_slope, right_slope : float
        Slopes before the first knot and behind the last.

    References
    ----------
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    """

    knots: Vector
    values: Vector
    left_slope: float
    right_slope: float

    def __post_init__(self) -> None:
        knots, values = (np.array(part, dtype=np.float64) for part in (self.knots, self.values))
        if knots.ndim != 1 or knots.size == 0 or values.shape != knots.shape:
            raise ValueError(
                "knots and values must be arrays of the same length, at least 1; got shapes "
                f"{knots.shape} and {values.shape}. A function without a kink has one knot and two equal slopes."
            )
        slopes = (float(self.left_slope), float(self.right_slope))
        if not (np.isfinite(knots).all() and np.isfinite(values).all() and np.isfinite(slopes).all()):
            raise ValueError("knots, values and slopes must be finite; got NaN or infinity.")
        if not (np.diff(knots) > 0.0).all():
            raise ValueError(
                "knots must be strictly increasing; got equal or unordered ones. Sort and merge them first."
            )
        for name, value in zip(("knots", "values", "left_slope", "right_slope"), (knots, values, *slopes), strict=True):
            object.__setattr__(self, name, value)
        for array in (knots, values):
            array.flags.writeable = False

    @property
    def slopes(self) -> Vector:
        """Slopes (K + 1,), from left to right."""
        inner = np.diff(self.values) / np.diff(self.knots)
        return np.concatenate(([self.left_slope], inner, [self.right_slope]))

    @property
    def jumps(self) -> Vector:
        """Slope jumps (K,) at the knots: the weights of the measure ``f''``."""
        return np.diff(self.slopes)

    @property
    def tv2(self) -> float:
        """Second-order total variation ``TV(f')``, the sum of the absolute jumps."""
        return float(np.abs(self.jumps).sum())

    @property
    def n_knots(self) -> int:
        """Knots at which the slope does jump: neurons of :meth:`to_network`."""
        return int(np.count_nonzero(self.jumps))

    def __call__(self, x: ArrayLike) -> Vector:
        """Values at ``x``, an array of any shape."""
        x = np.asarray(x, dtype=np.float64)
        y: Vector = np.asarray(np.interp(x, self.knots, self.values))
        first, last = self.knots[0], self.knots[-1]
        left, right = x < first, x > last
        if left.any():
            y = np.where(left, self.values[0] + self.left_slope * (x - first), y)
        if right.any():
            y = np.where(right, self.values[-1] + self.right_slope * (x - last), y)
        return y

    def towards(self, other: LinearSpline, step: float) -> LinearSpline:
        """``(1 - step) self + step other``, with the knots of both."""
        knots = np.union1d(self.knots, other.knots)
        return LinearSpline(
            knots,
            (1.0 - step) * self(knots) + step * other(knots),
            (1.0 - step) * self.left_slope + step * other.left_slope,
            (1.0 - step) * self.right_slope + step * other.right_slope,
        )

    def merge_knots(self, first: ArrayLike) -> LinearSpline:
        """Replace knots ``first_k`` and ``first_k + 1`` by one, where the lines before and behind the two meet.

        The pairs must be disjoint. If the jumps of a pair have one sign, the lines meet between the two knots, nothing
        changes outside them, and TV(f') stays the same.
        """
        j = np.asarray(first, dtype=np.int64)
        slopes, gap = self.slopes, self.knots[j + 1] - self.knots[j]
        before, behind = slopes[j], slopes[j + 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = (self.values[j + 1] - self.values[j] - behind * gap) / (before - behind)
        shift = np.clip(np.nan_to_num(shift, nan=0.0), 0.0, gap)
        knots, values = self.knots.copy(), self.values.copy()
        knots[j] += shift
        values[j] += before * shift
        keep = np.ones(knots.size, dtype=np.bool_)
        keep[j + 1] = False
        return LinearSpline(knots[keep], values[keep], self.left_slope, self.right_slope)

    def to_network(self) -> ShallowNet:
        """The balanced ReLU network of smallest path norm that is this function.

        One neuron per knot, ``|w_k| = |v_k| = sqrt|jump_k|``. Neurons face away from the middle knot, so few of them
        are active at any x and no digits are lost to cancellation.
        """
        jumps = self.jumps
        keep = jumps != 0.0
        knots, jumps, middle = self.knots[keep], jumps[keep], self.knots.size // 2
        anchor, slope = self.knots[middle], self.slopes[middle]
        # To the right of the anchor segment (t - x)_+ would be active, to the left (x - t)_+.
        side = np.where(knots >= anchor, 1.0, -1.0)
        size = np.sqrt(np.abs(jumps))
        return ShallowNet(
            W=(side * size)[:, None],
            b=side * size * knots,
            V=(np.sign(jumps) * size)[:, None],
            A=np.array([[slope]]),
            c=np.array([self.values[middle] - slope * anchor]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "knots": self.knots.tolist(),
            "values": self.values.tolist(),
            "left_slope": self.left_slope,
            "right_slope": self.right_slope,
        }


def disjoint_pairs(joined: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Every second of each run of ``joined`` (K - 1,) pairs (k, k + 1): those that can be merged at once."""
    index = np.arange(joined.size)
    begins = ~joined | np.append(True, ~joined[:-1])
    rank = index - np.maximum.accumulate(np.where(begins, index, 0))
    return np.flatnonzero(joined & (rank % 2 == 0))
