"""Shallow ReLU networks with an affine part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.spaces import _formula, _lipschitz, _shallow_io, _shallow_onnx, _shallow_torch
from pathnorm.spaces.radon import RadonMeasure, measure_of

if TYPE_CHECKING:
    from torch import nn

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
        X = self._inputs(X)
        hidden = np.maximum(X @ self.W.T - self.b, 0.0)
        return np.asarray(hidden @ self.V + X @ self.A + self.c)

    def _inputs(self, X: ArrayLike) -> Matrix:
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.W.shape[1]:
            raise ValueError(f"X must have shape (N, {self.W.shape[1]}); got {X.shape}. Reshape one column to (N, 1).")
        return X

    def path_norm(self) -> float:
        """``sum_k ||v_k|| ||w_k||``, the least half sum of squared weights over rescalings of the neurons."""
        return float(np.linalg.norm(self.V, axis=1) @ np.linalg.norm(self.W, axis=1))

    def radon_measure(self) -> RadonMeasure:
        """The measure on directions and offsets that the second derivative of f is: one atom per hinge.

        Its total mass is the path norm without what cancels: neurons with one hinge are one atom, and those that face
        each other across it count as equal up to an affine function.
        """
        return measure_of(self.W, self.b, self.V)

    def lipschitz_upper(self) -> float:
        """Certified bound on ``||f(x) - f(y)|| / ||x - y||``: the least of several; exact for one input.

        The Jacobian is ``A' + sum_k s_k v_k w_k'`` with every s_k 0 or 1, hence within ``||sum_k +-v_k w_k'|| / 2`` of
        ``A' + sum_k v_k w_k' / 2``, and a signed sum is bounded by the path norm and by the product of the operator
        norms of balanced W and V. The bound holds for all x, also those far from any data.
        """
        return _lipschitz.upper(self.W, self.b, self.V, self.A)

    def lipschitz_lower(self, X: ArrayLike) -> float:
        """Measured: the largest operator norm of the Jacobian at X (N, d). No Lipschitz constant of f is smaller."""
        return _lipschitz.lower(self.W, self.b, self.V, self.A, self._inputs(X))

    def formula(self, names: Sequence[str] | None = None, *, digits: int = 4) -> str:
        """The function as text, most massive neuron first, one per line, inner weights of norm one.

        For one output the right-hand side is a Python expression in the ``names`` of the d inputs. Where neurons read
        one or two inputs each it reads as an additive model.
        """
        return _formula.text(self.W, self.b, self.V, self.A, self.c, names=names, digits=digits)

    @classmethod
    def from_torch(cls, module: nn.Module) -> Self:
        """The network that a torch module is, in float64: Linear, ReLU, Linear, nested as it may be.

        Flatten, Identity and Dropout in evaluation mode are passed over; a single Linear is an affine function; and
        what :meth:`to_torch` gives comes back with the same numbers.

        Raises
        ------
        ValueError
            If a layer is another, or one of these with a ``forward`` of its own; the message names it.
        """
        return cls(**_shallow_torch.arrays_of(module))

    def to_torch(self) -> nn.Module:
        """A float64 torch module of plain layers that computes the same function.

        Without the linear part A it is ``nn.Sequential(Linear, ReLU, Linear)``. With it, it is a
        :class:`pathnorm.deep.shallow.ShallowModule`, these layers beside a Linear without bias named ``skip``: made of
        neurons, 2d of them, it would enter the path norm. Without neurons it is a Linear.
        """
        return _shallow_torch.module_of(self.W, self.b, self.V, self.A, self.c)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; :meth:`from_dict` gives the same network, to the last bit."""
        return _shallow_io.record_of(self.W, self.b, self.V, self.A, self.c)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The network that :meth:`to_dict` described; anything else is a ValueError."""
        return cls(**_shallow_io.arrays_of(record))

    def save(self, path: str | Path) -> Path:
        """Write :meth:`to_dict` as JSON; a reader of ``path`` sees the old file or the whole new one."""
        return _shallow_io.write(self.to_dict(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The network that :meth:`save` wrote. Nothing in the file is executed; a foreign file is a ValueError."""
        return cls(**_shallow_io.read(Path(path)))

    def to_onnx(self, path: str | Path, *, dtype: Literal["float64", "float32"] = "float64") -> Path:
        """Write an ONNX model with input ``x`` (N, d), N free, and output ``y`` (N, D); needs the extra ``onnx``.

        Double precision is exact to rounding and runs on any CPU; ask for float32 where a device knows no other.
        """
        return _shallow_onnx.write((self.W, self.b, self.V, self.A, self.c), Path(path), dtype=dtype)
