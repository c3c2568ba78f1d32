"""Shallow ReLU networks with an affine part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ShallowNet"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ShallowNet:
    """``f(x) = sum_k v_k (w_k' x - b_k)_+ + A' x + c``.

    Biases and the affine part carry no penalty.

    Parameters
    ----------
    W : array (K, d)
        Input weights; rows are neurons.
    b : array (K,)
        Biases.
    V : array (K, D)
        Output weights; rows are neurons.
    A : array (d, D)
    c : array (D,)
        The affine part.
    """

    W: Matrix
    b: Matrix
    V: Matrix
    A: Matrix
    c: Matrix

    def __post_init__(self) -> None:
        for name in ("W", "b", "V", "A", "c"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        (neurons, inputs), outputs = self._two(self.W, "W"), self.c.size
        expected = {"b": (neurons,), "V": (neurons, outputs), "A": (inputs, outputs), "c": (outputs,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} beside W of shape {self.W.shape} and c of shape {self.c.shape}; "
                    f"got {getattr(self, name).shape}. Rows of W and V are neurons."
                )

    @staticmethod
    def _two(array: Matrix, name: str) -> tuple[int, ...]:
        if array.ndim != 2:
            raise ValueError(f"{name} must have two dimensions, neurons by inputs; got shape {array.shape}.")
        return array.shape

    @property
    def n_neurons(self) -> int:
        """Number of neurons K."""
        return int(self.W.shape[0])

    def __call__(self, X: ArrayLike) -> Matrix:
        """Outputs (N, D) at X (N, d)."""
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.W.shape[1]:
            raise ValueError(f"X must have shape (N, {self.W.shape[1]}); got {X.shape}. Reshape one column to (N, 1).")
        hidden = np.maximum(X @ self.W.T - self.b, 0.0)
        return np.asarray(hidden @ self.V + X @ self.A + self.c)

    def path_norm(self) -> float:
        """``sum_k ||v_k|| ||w_k||``, the least half sum of squared weights over rescalings of the neurons."""
        return float(np.linalg.norm(self.V, axis=1) @ np.linalg.norm(self.W, axis=1))
