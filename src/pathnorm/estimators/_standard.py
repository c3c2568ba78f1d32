"""Standardised coordinates, and networks in and out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pathnorm.spaces import ShallowNet

__all__ = ["Standard"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Standard:
    """``x -> (x - mean) / scale``, feature by feature.

    Attributes
    ----------
    mean, scale : array (d,)
        Constant features have scale one.
    """

    mean: Matrix
    scale: Matrix

    @classmethod
    def of(cls, X: Matrix, weights: Matrix | None, *, on: bool) -> Self:
        """Mean and standard deviation of samples (N, d); zeros and ones if it is off."""
        if not on:
            return cls(np.zeros(X.shape[1]), np.ones(X.shape[1]))
        # Scaled by the largest entry first, so that squares of huge features do not overflow.
        largest = np.abs(X).max(axis=0)
        unit = np.where(largest > 0.0, largest, 1.0)
        scaled = X / unit
        mean = np.average(scaled, axis=0, weights=weights)
        spread = np.sqrt(np.average((scaled - mean) ** 2, axis=0, weights=weights))
        # What rounding alone can cause is not variation.
        varies = spread > 1e-14 * np.sqrt(len(X))
        return cls(mean * unit, np.where(varies, spread, 1.0) * unit)

    def transform(self, X: Matrix) -> Matrix:
        """Standardised samples (M, d)."""
        return np.asarray((X - self.mean) / self.scale)

    def outer(self, net: ShallowNet) -> ShallowNet:
        """The network as a function of the features as they came."""
        W, A = net.W / self.scale, net.A / self.scale[:, None]
        return ShallowNet(W, net.b + W @ self.mean, net.V, A, net.c - self.mean @ A)

    def inner(self, net: ShallowNet) -> ShallowNet:
        """The network as a function of standardised features; inverse of :meth:`outer`."""
        W, A = net.W * self.scale, net.A * self.scale[:, None]
        return ShallowNet(W, net.b - net.W @ self.mean, net.V, A, net.c + self.mean @ net.A)
