"""Reconstruct a layer's outputs from fewer neurons: the least-squares side of compression.

Everything is computed from the moments ``Phi' Phi``, ``Phi' Psi``, ``Psi' Psi``, so the
cost does not depend on the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["LayerReconstruction", "Refit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Refit:
    """Least-squares output weights over some neurons.

    ``coef`` (P, D) is zero outside ``keep``; ``error`` is ``||Psi - Phi V||^2 / ||Psi||^2``;
    ``ridge`` is what was added to the Gram matrix, relative to its mean diagonal.
    """

    keep: NDArray[np.intp]
    coef: Array
    error: float
    ridge: float


@dataclass(frozen=True, slots=True)
class LayerReconstruction:
    """``min_V 1/2 ||Psi - Phi V||_F^2`` over V with few non-zero blocks of rows.

    Attributes
    ----------
    gram : ndarray, shape (P, P)
        Neuron-major: rows ``k * block .. (k + 1) * block`` belong to neuron k.
    cross : ndarray, shape (P, D)
    outer : ndarray, shape (D, D)
        ``Psi' Psi``.
    block : int
        Features per neuron: k^2 for a convolution, 1 for a linear layer.
    cost : ndarray, shape (K,)
        ``c_k = ||w_k||``, the norm of the neuron's input weights.
    """

    gram: Array
    cross: Array
    outer: Array
    block: int
    cost: Array

    @property
    def energy(self) -> float:
        """``||Psi||_F^2``."""
        return max(float(np.trace(self.outer)), 0.0)

    @property
    def n_neurons(self) -> int:
        """Number of neurons, K."""
        return int(self.gram.shape[0]) // self.block

    def rows(self, keep: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows of the neurons ``keep``."""
        return (np.asarray(keep)[:, None] * self.block + np.arange(self.block)).ravel()

    def regularised_gram(self, ridge: float) -> Array:
        """Return ``G + ridge * mean(diag G) * I``."""
        size = self.gram.shape[0]
        scale = max(float(np.trace(self.gram)) / size, float(np.finfo(np.float64).tiny))
        regularised: Array = self.gram + ridge * scale * np.eye(size)
        return regularised

    def error(self, coef: Array) -> float:
        """Return ``||Psi - Phi V||^2 / ||Psi||^2`` (0 if Psi is zero)."""
        if self.energy <= 0.0:
            return 0.0
        residual = self.energy - 2.0 * np.vdot(coef, self.cross) + np.vdot(coef, self.gram @ coef)
        return max(float(residual), 0.0) / self.energy

    def path_norm(self, coef: Array) -> float:
        """Return ``sum_k c_k ||V_k||_F``."""
        norms = np.linalg.norm(coef.reshape(self.n_neurons, self.block * coef.shape[1]), axis=1)
        return float(self.cost @ norms)

    def refit(self, keep: NDArray[np.intp], *, ridge: float = 0.0, cap: float = np.inf) -> Refit:
        """Return the least-squares weights over the neurons ``keep``.

        Minimises ``1/2 ||Psi - Phi V||^2 + rho/2 sum_k c_k^2 ||V_k||^2`` where rho is the smallest of
        ``ridge``, 10 ``ridge``, ... for which the Cholesky factor exists and the path norm stays
        below ``cap``; weights c_k relative to their mean.

        Parameters
        ----------
        keep : ndarray of int
        ridge : float
            Relative to the mean diagonal of the Gram matrix.
        cap : float
            Largest path norm allowed.
        """
        keep = np.sort(np.asarray(keep, dtype=np.intp))
        rows = self.rows(keep)
        coef = np.zeros_like(self.cross)
        if rows.size == 0:
            return Refit(keep, coef, self.error(coef), 0.0)
        gram = self.gram[np.ix_(rows, rows)]
        scale = float(np.trace(gram)) / rows.size
        if scale <= 0.0:
            return Refit(keep, coef, self.error(coef), 0.0)
        shape = np.repeat((self.cost[keep] / self.cost[keep].mean()) ** 2, self.block)
        relative = max(ridge, 1e-10)
        while True:
            try:
                system = gram + np.diag(relative * scale * shape)
                factor = scipy.linalg.cho_factor(system, lower=True, check_finite=False)
                coef[rows] = scipy.linalg.cho_solve(factor, self.cross[rows], check_finite=False)
            except scipy.linalg.LinAlgError:
                relative *= 10.0
                continue
            if self.path_norm(coef) <= cap or relative > 1e6:
                return Refit(keep, coef, self.error(coef), relative)
            relative *= 10.0

    def restrict(self, keep: NDArray[np.intp]) -> LayerReconstruction:
        """Return the problem over the neurons ``keep`` alone; itself if these are all, in order."""
        if np.array_equal(keep, np.arange(self.cost.size)):
            return self
        rows = self.rows(keep)
        return LayerReconstruction(
            gram=self.gram[np.ix_(rows, rows)],
            cross=self.cross[rows],
            outer=self.outer,
            block=self.block,
            cost=self.cost[keep],
        )

    def measured_in(self, root: Array) -> LayerReconstruction:
        """Return the problem whose error is ``||(Psi - Phi V) S^(1/2)||``, for a root (D, D) of the metric S."""
        return LayerReconstruction(self.gram, self.cross @ root, root.T @ self.outer @ root, self.block, self.cost)

    def ranks(self, tolerance: float) -> tuple[int, int]:
        """Return the numerical ranks of Phi and Psi: singular values above ``tolerance`` times the largest."""
        return _rank(self.gram, tolerance), _rank(self.outer, tolerance)

    def width_lower_bound(self, error: float) -> int:
        """Return the width below which no choice of neurons reaches ``error`` (relative, squared).

        Eckart-Young: K neurons span at most ``K * block`` dimensions, so they leave at least
        ``sum_{i > K block} sigma_i(Psi)^2``.
        """
        tail = self._tail()
        reached = np.flatnonzero(tail <= error + 1e-12)
        needed = int(reached[0]) if reached.size else tail.size - 1
        return min(-(-needed // self.block), self.n_neurons)

    def least_error(self, width: int) -> float:
        """Return the error (relative, squared) that no ``width`` neurons can go below (Eckart-Young)."""
        return float(self.least_errors(np.array([width]))[0])

    def least_errors(self, widths: NDArray[np.intp]) -> Array:
        """Return :meth:`least_error` of several widths, from one eigendecomposition."""
        tail = self._tail()
        found: Array = tail[np.minimum(widths * self.block, tail.size - 1)]
        return found

    def _tail(self) -> Array:
        """Return ``sum_{i > r} sigma_i(Psi)^2 / ||Psi||^2`` for r = 0 .. D."""
        values = np.clip(np.linalg.eigvalsh(self.outer)[::-1], 0.0, None)
        total = float(values.sum())
        if total <= 0.0:
            return np.zeros(values.size + 1)
        tail: Array = np.clip(np.concatenate([[1.0], 1.0 - np.cumsum(values) / total]), 0.0, 1.0)
        return tail


def _rank(gram: Array, tolerance: float) -> int:
    values = np.linalg.eigvalsh(gram)
    return int((values > max(float(values[-1]), 0.0) * tolerance**2).sum()) if values.size else 0
