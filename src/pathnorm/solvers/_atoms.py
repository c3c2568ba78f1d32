"""The neurons that a solver holds: unit input weights, hinges that pass through samples, output weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from pathnorm.problems.variation import RBV2Problem
from pathnorm.spaces import ShallowNet

__all__ = ["Atoms", "Iterate", "objective", "snapped"]

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Atoms:
    """Neurons ``v_k (w_k' x - w_k' x_m)_+`` with ``m = stuck[k, 0]``.

    Attributes
    ----------
    W : array (K, d)
        Rows of unit length.
    stuck : array (K, d + 1)
        Samples through which the hinge goes, ``size`` (K,) of them; the others are -1.
    size : array (K,)
    V : array (K, D)
    """

    W: Matrix
    stuck: Indices
    size: Indices
    V: Matrix

    @classmethod
    def none(cls, problem: RBV2Problem) -> Atoms:
        """No neurons."""
        d, D = problem.n_features, problem.n_outputs
        return cls(np.zeros((0, d)), np.zeros((0, d + 1), np.int64), np.zeros(0, np.int64), np.zeros((0, D)))

    def __len__(self) -> int:
        return len(self.W)

    def biases(self, X: Matrix) -> Matrix:
        """``b`` (K,)."""
        return np.asarray(np.einsum("kd,kd->k", self.W, X[self.stuck[:, 0]]))

    def features(self, X: Matrix) -> Matrix:
        """Outputs (N, K) of the neurons."""
        T = X @ self.W.T
        T -= self.biases(X)
        return np.maximum(T, 0.0, out=T)

    def select(self, keep: NDArray[np.bool_] | Indices) -> Atoms:
        """Some of them."""
        return Atoms(self.W[keep], self.stuck[keep], self.size[keep], self.V[keep])

    def join(self, other: Atoms) -> Atoms:
        """These and those."""
        return Atoms(
            np.concatenate((self.W, other.W)),
            np.concatenate((self.stuck, other.stuck)),
            np.concatenate((self.size, other.size)),
            np.concatenate((self.V, other.V)),
        )

    def with_outputs(self, V: Matrix) -> Atoms:
        """The same directions with other output weights."""
        return replace(self, V=V)

    def path_norm(self) -> float:
        """``sum_k ||v_k||``, as input weights have unit length."""
        return float(np.linalg.norm(self.V, axis=1).sum())

    def faces(self, X: Matrix) -> list[Matrix]:
        """For each neuron an orthonormal basis (d, e) of the weights that keep its hinge and its features."""
        bases = []
        for w, stuck, size in zip(self.W, self.stuck, self.size, strict=True):
            seen = np.flatnonzero(w)
            basis = np.zeros((w.size, seen.size))
            basis[seen, np.arange(seen.size)] = 1.0
            if size > 1:
                edges = (X[stuck[1:size]] - X[stuck[0]])[:, seen]
                full, triangle = qr(edges.T, mode="full")[:2] if seen.size > 1 else (np.eye(1), edges.T)
                diagonal = np.abs(np.diag(triangle))
                rank = int((diagonal > 1e-9 * max(float(diagonal.max()), 1e-300)).sum()) if diagonal.size else 0
                left = full[:, rank:]
                if left.shape[1] == 0 or np.linalg.norm(left.T @ w[seen]) < 1.0 - 1e-6:
                    left = w[seen, None]  # rounding has the last word: only the length is free
                reduced = np.zeros((w.size, left.shape[1]))
                reduced[seen] = left
                basis = reduced
            bases.append(basis)
        return bases


@dataclass(frozen=True, slots=True, eq=False)
class Iterate:
    """A network in centred coordinates with its outputs on the samples and its objective."""

    atoms: Atoms
    A: Matrix
    c: Matrix
    outputs: Matrix
    value: float

    @classmethod
    def of(cls, problem: RBV2Problem, atoms: Atoms, A: Matrix, c: Matrix) -> Iterate:
        """Evaluate."""
        outputs = atoms.features(problem.X) @ atoms.V + c
        if problem.affine != "none":
            outputs += problem.X @ A
        return cls(atoms, A, c, outputs, objective(problem, outputs, atoms.path_norm(), A))

    def highest(self, problem: RBV2Problem, R: Matrix) -> float:
        """Largest ``||h||`` of the neurons at hand: no dual norm can be less."""
        h = self.atoms.features(problem.X).T @ R
        return float(np.linalg.norm(h, axis=1).max(initial=0.0))

    def network(self, problem: RBV2Problem) -> ShallowNet:
        """The network in the coordinates of the user."""
        atoms = self.atoms
        return problem.uncentred(ShallowNet(atoms.W, atoms.biases(problem.X), atoms.V, self.A, self.c))


def objective(problem: RBV2Problem, outputs: Matrix, path_norm: float, A: Matrix) -> float:
    """Objective from its parts; infinite where it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = problem.data_loss(outputs) + problem.lam * path_norm
    if problem.affine == "ridge":
        value += 0.5 * problem.ridge * float((A**2).sum())
    return value if np.isfinite(value) else float("inf")


def snapped(problem: RBV2Problem, W: Matrix, b: Matrix, V: Matrix) -> Atoms:
    """Neurons with unit rows W, each hinge moved to the nearest sample."""
    hinges = np.empty(len(W), np.int64)
    step = max(1, 4_000_000 // problem.n_samples)
    for first in range(0, len(W), step):
        rows = slice(first, first + step)
        hinges[rows] = np.abs(W[rows] @ problem.X.T - b[rows, None]).argmin(axis=1)
    stuck = np.full((len(W), problem.n_features + 1), -1)
    stuck[:, 0] = hinges
    return Atoms(W, stuck, np.ones(len(W), np.int64), V)
