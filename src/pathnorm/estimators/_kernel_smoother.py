"""Smoothing in a reproducing kernel (semi-)Hilbert space with a free finite-dimensional part.

``f(x) = sum_j c_j k(x, z_j) + P(x) a`` with centres z and ``P(z)' c = 0``, the minimiser over c and a of
``sum_i (y_i - f(x_i))^2 + lam * c' k(z, z) c``. With all samples as centres that is the minimiser over all functions
(representer theorem); the kernel need only be positive definite on the c that are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.linalg import eigh  # scipy's refuses matrices without rows before 1.14
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.linalg import qr, solve, solve_triangular
from sklearn.utils import check_random_state

from pathnorm.estimators._gcv import Choice, Spectrum, Targets

__all__ = ["Array", "KernelSmoother", "draw_centers"]

Array = NDArray[np.float64]

_ROWS = 2048  # of kernel values held at a time
_NEGLIGIBLE = 1e-13  # of the largest eigenvalue


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSmoother:
    """A fitted smoother, callable on inputs (M, d)."""

    kernel: Callable[[Array, Array], Array]  # (M, d), (K, d) -> (M, K)
    free: Callable[[Array], Array]  # (M, d) -> (M, p), independent columns on the centres
    centers: Array  # (K, d)
    coef: Array  # (K,)
    free_coef: Array  # (p,)
    offset: float
    choice: Choice

    def __call__(self, inputs: Array) -> Array:
        values = [
            self.kernel(rows, self.centers) @ self.coef + self.free(rows) @ self.free_coef for rows in _rows(inputs)
        ]
        return np.concatenate(values) + self.offset

    @classmethod
    def fit(
        cls,
        kernel: Callable[[Array, Array], Array],
        free: Callable[[Array], Array],
        inputs: Array,
        y: Array,
        *,
        centers: NDArray[np.intp],
        lam: float | None,
    ) -> KernelSmoother:
        """Fit at ``lam``, or at the choice of GCV; ``centers`` are indices of samples, ascending."""
        targets = Targets.scaled(y)
        solve_for = _all_centers if centers.size == len(y) else _some_centers
        coef, free_coef, choice = solve_for(kernel, free, inputs, targets, centers, lam)
        return cls(
            kernel=kernel,
            free=free,
            centers=inputs[centers],
            coef=targets.unit * coef,
            free_coef=targets.unit * free_coef,
            offset=targets.offset,
            choice=choice._replace(gcv=choice.gcv * targets.unit**2),
        )


def draw_centers(n_samples: int, max_centers: int, random_state: int | RandomState | None) -> NDArray[np.intp]:
    """Indices of all samples, or of ``max_centers`` drawn at random."""
    if not max_centers >= 1:
        raise ValueError(
            f"max_centers must be at least 1; got {max_centers!r}. Time grows with its cube, memory with its square."
        )
    if n_samples <= max_centers:
        return np.arange(n_samples)
    return np.sort(check_random_state(random_state).permutation(n_samples)[:max_centers]).astype(np.intp)


def _rows(inputs: Array) -> Iterator[Array]:
    return (inputs[start : start + _ROWS] for start in range(0, len(inputs), _ROWS))


def _all_centers(
    kernel: Callable[[Array, Array], Array],
    free: Callable[[Array], Array],
    inputs: Array,
    targets: Targets,
    _: NDArray[np.intp],
    lam: float | None,
) -> tuple[Array, Array, Choice]:
    """Eigenvectors of the kernel on the complement of the free part diagonalise the smoother."""
    gram, basis = kernel(inputs, inputs), free(inputs)
    p = basis.shape[1]
    orthogonal, triangle = qr(basis)
    rest = orthogonal[:, p:]
    energies, rotation = eigh(rest.T @ gram @ rest)
    vectors = rest @ rotation
    spectrum = Spectrum(
        energies=np.maximum(energies, 0.0),
        projections=vectors.T @ targets.values,
        n_samples=len(inputs),
        n_free=p,
        noise_floor=targets.noise_floor,
    )
    choice = spectrum.choose() if lam is None else spectrum.judge(lam)
    # The residual is lam * c, also where lam is infinite.
    coef = vectors @ (spectrum.projections / (1.0 + spectrum.energies / choice.lam)) / choice.lam
    free_coef = solve_triangular(triangle[:p], orthogonal[:, :p].T @ (targets.values - gram @ coef))
    return coef, free_coef, choice


def _some_centers(
    kernel: Callable[[Array, Array], Array],
    free: Callable[[Array], Array],
    inputs: Array,
    targets: Targets,
    centers: NDArray[np.intp],
    lam: float | None,
) -> tuple[Array, Array, Choice]:
    """The same over fewer coefficients, from moments summed over blocks of samples."""
    at_centers = free(inputs[centers])
    p = at_centers.shape[1]
    rest = qr(at_centers)[0][:, p:]
    energies, rotation = eigh(rest.T @ kernel(inputs[centers], inputs[centers]) @ rest)
    kept = energies > _NEGLIGIBLE * energies.max(initial=0.0)
    # Coordinates in which the penalty is lam times the squared length.
    whiten = rest @ (rotation[:, kept] / np.sqrt(energies[kept]))
    moments = np.zeros((p + whiten.shape[1] + 1,) * 2)
    start = 0
    for rows in _rows(inputs):
        y = targets.values[start : start + len(rows), None]
        features = np.hstack([free(rows), kernel(rows, inputs[centers]) @ whiten, y])
        moments += features.T @ features
        start += len(rows)

    reduced = solve(moments[:p, :p], moments[:p, p:], assume_a="pos")
    schur = moments[p:, p:] - moments[p:, :p] @ reduced
    energies, vectors = eigh(schur[:-1, :-1])
    kept = energies > _NEGLIGIBLE * energies.max(initial=0.0)
    energies, vectors = energies[kept], vectors[:, kept]
    cross = vectors.T @ schur[:-1, -1]
    projections = cross / np.sqrt(energies)
    spectrum = Spectrum(
        energies=energies,
        projections=projections,
        n_samples=len(inputs),
        n_free=p,
        outside=max(0.0, float(schur[-1, -1] - projections @ projections)),
        noise_floor=targets.noise_floor,
    )
    choice = spectrum.choose() if lam is None else spectrum.judge(lam)
    theta = vectors @ (cross / (energies + choice.lam))
    return whiten @ theta, reduced[:, -1] - reduced[:, :-1] @ theta, choice
