"""The convex problem of an implicit representation: one hidden ReLU layer on Fourier features, few Fourier samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.problems import RBV2Problem
from pathnorm.problems.certificate import Certificate
from pathnorm.representer import DualNorm, dual_norm
from pathnorm.representer.local_search import LocalSearch
from pathnorm.spaces import ShallowNet

__all__ = ["FourierRidgeProblem", "features_at", "fourier_frequencies", "unit_rows"]

Matrix = NDArray[np.float64]
Complex = NDArray[np.complex128]


def fourier_frequencies(dimension: int, cutoff: float) -> NDArray[np.intp]:
    """Return one of every pair ``(k, -k)`` of integer frequencies with ``0 < ||k||_2 <= cutoff``: (m, dimension)."""
    most = int(cutoff)
    grid = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * dimension, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, dimension)
    length = np.linalg.norm(grid, axis=1)
    leading = np.array([next((value for value in row if value), 0) for row in grid])
    kept = grid[(length <= cutoff) & (leading > 0)]
    order = np.lexsort((*kept.T, np.linalg.norm(kept, axis=1)))
    return np.asarray(kept[order], dtype=np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class FourierRidgeProblem:
    """``min_f 1/2 sum_k |F f(k) - y_k|^2 + lam sum_j ||w_j|| |v_j|`` over networks of any width on Fourier features.

    ``F f(k)`` is the mean of ``f(x) exp(-2 pi i k . x)`` over the pixels, for all frequencies with ``||k||_inf <= K``:
    the loss is half the mean squared error of the low-pass image, whatever the number of pixels is. The features are
    ``gamma(x) = (cos 2 pi k . x, sin 2 pi k . x)`` with ``0 < ||k||_2 <= cutoff``. Biases and the constant carry no
    penalty, as in R-BV²; the constant is solved for. [NO24, NO25] state the problem for continuous x; here x runs
    through the pixels, for which everything is exact.

    Its dual, with ``h(w, b) = sum_x r(x) (w . gamma(x) - b)_+`` and ``r = F* q``: maximise ``Re <q, y> - ||q||^2 / 2``
    over q with ``q_0 = 0`` and ``|h(w, b)| <= lam`` for all b and all w of length one. At the optimum ``q = y - F f``.

    Parameters
    ----------
    samples : complex array (2 K + 1,) or (2 K + 1, 2 K + 1)
        Zero frequency in the middle.
    shape : tuple
        Pixels of the image, as many dimensions as ``samples``.
    cutoff : float
    lam : float
    gamma : array (N, d)
        Features of all pixels, rows first.

    References
    ----------
    .. [NO24] Najaf, Ongie, "Towards a sampling theory for implicit neural representations", arXiv 2405.18410, 2024.
    .. [NO25] Najaf, Ongie, "Sampling theory for super-resolution with implicit neural representations", arXiv
       2506.09949, 2025.
    """

    samples: Complex
    shape: tuple[int, ...]
    cutoff: float
    lam: float
    gamma: Matrix

    @classmethod
    def from_samples(cls, samples: Any, shape: tuple[int, ...], *, cutoff: float, lam: float) -> FourierRidgeProblem:
        """Check the samples and make the features; see :func:`fit_fourier_ridge` for what is raised."""
        y = np.asarray(samples)
        if not np.iscomplexobj(y):
            raise ValueError(
                "Fourier samples must be complex: an image that is not even has a phase. Got real numbers; hand over "
                "the samples, not their modulus."
            )
        y, shape = y.astype(np.complex128), tuple(int(size) for size in shape)
        if y.ndim not in (1, 2) or len(set(y.shape)) != 1 or y.shape[0] % 2 == 0:
            raise ValueError(
                "Samples must have shape (2 K + 1,) or (2 K + 1, 2 K + 1), zero frequency in the middle. Got "
                f"{y.shape}."
            )
        if len(shape) != y.ndim or min(shape) < y.shape[0]:
            raise ValueError(
                f"The image must have {y.ndim} sizes of at least {y.shape[0]}, or its frequencies fall together. Got "
                f"{shape}."
            )
        if not np.isfinite(y).all():
            raise DataError("Samples must be finite. Got NaN or infinity.")
        if not y.any():
            raise DataError("Samples must not all be zero: the image would be zero.")
        if not (math.isfinite(cutoff) and cutoff >= 1.0):
            raise ValueError(f"cutoff must be a frequency of at least 1. Got {cutoff}.")
        if not (math.isfinite(lam) and lam > 0.0):
            raise ValueError(f"lam must be positive and finite. Got {lam}.")
        return cls(y, shape, float(cutoff), float(lam), features_at(_pixels(shape), cutoff))

    def low_pass(self, images: Matrix) -> Complex:
        """Return the samples ``F f`` of images (K, N), one array of the shape of ``samples`` for each."""
        axes = tuple(range(1, 1 + len(self.shape)))
        spectrum = np.fft.fftn(images.reshape(-1, *self.shape), axes=axes, norm="forward")
        return np.asarray(spectrum[np.ix_(np.arange(len(images)), *self._places())])

    def pulls(self, residual: Complex) -> Matrix:
        """Return ``r = F* q`` (N, 1) for the residual with its zero frequency left out: the sum over pixels is zero."""
        spectrum = np.zeros(self.shape, dtype=np.complex128)
        spectrum[np.ix_(*self._places())] = self.without_mean(residual)
        r = np.fft.ifftn(spectrum, norm="backward").real
        return np.asarray((r - r.mean()).reshape(-1, 1))

    def residual(self, net: ShallowNet) -> Complex:
        """Return ``y - F f``."""
        return np.asarray(self.samples - self.low_pass(net(self.gamma).T)[0])

    def value(self, net: ShallowNet) -> float:
        """Return the objective."""
        return 0.5 * float((np.abs(self.residual(net)) ** 2).sum()) + self.lam * net.path_norm()

    def dual_bound(self, residual: Complex, upper: float) -> float:
        """Return the best lower bound of the optimum along q, given that ``|h| <= upper`` for its pulls."""
        q = self.without_mean(residual)
        energy = float((np.abs(q) ** 2).sum())
        # What no real image with a free constant can change is left over whatever is chosen.
        middle = tuple(size // 2 for size in self.samples.shape)
        rest = 0.5 * float(self.samples[middle].imag ** 2)
        if energy == 0.0:
            return rest
        along = float((q.conj() * self.samples).sum().real)
        step = min(max(along / energy, 0.0), self.lam / upper if upper > 0.0 else math.inf)
        return rest + step * along - 0.5 * step**2 * energy

    def certify(self, net: ShallowNet, *, seconds: float = 30.0, tol: float = 1e-6, seed: int = 0) -> Certificate:
        """Return the objective of a network and a lower bound on that of any other, from the network alone.

        Every neuron there is is bounded where the features span up to five dimensions, see
        :func:`pathnorm.representer.dual_norm`; beyond that the bound holds over the neurons that a search found, and
        ``proved`` says what little is certain.
        """
        residual = self.residual(net)
        R = self.pulls(residual)
        search = LocalSearch(self.gamma, seed=seed)
        height = float(search(R, starts=unit_rows(net.W), scans=1024, climbs=96).heights.max(initial=0.0))
        norm = dual_norm(_samples_problem(self), R, seconds=seconds, tol=0.1 * tol, found=height)
        return self._certificate(self.value(net), residual, norm)

    def _certificate(self, primal: float, residual: Complex, norm: DualNorm) -> Certificate:
        proof = min(primal, self.dual_bound(residual, norm.upper))
        certain = Certificate(primal=primal, dual=proof, scope="function_space", method=norm.method)
        searched = norm.method == "search"
        return Certificate(
            primal=primal,
            dual=min(primal, self.dual_bound(residual, norm.lower)) if searched else proof,
            scope="dictionary" if searched else "function_space",
            method=norm.method,
            violation=norm.lower / self.lam - 1.0,
            proved=certain.gap,
        )

    def _places(self) -> list[NDArray[np.intp]]:
        """Where the sampled frequencies are in a discrete Fourier transform."""
        most = self.samples.shape[0] // 2
        return [np.arange(-most, most + 1) % size for size in self.shape]

    def without_mean(self, q: Complex) -> Complex:
        """Return samples with a zero at the zero frequency."""
        left = q.copy()
        left[tuple(size // 2 for size in q.shape)] = 0.0
        return left


def features_at(points: Matrix, cutoff: float) -> Matrix:
    """Return ``cos`` and ``sin`` of ``2 pi k . x`` for all frequencies k up to the cutoff, at points (n, dimension)."""
    phase = 2.0 * np.pi * points @ fourier_frequencies(points.shape[1], cutoff).T
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def _pixels(shape: tuple[int, ...]) -> Matrix:
    axes = np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def _samples_problem(problem: FourierRidgeProblem) -> RBV2Problem:
    """The neurons over these features, as the search for the largest of them takes them."""
    zero = np.zeros((len(problem.gamma), 1))
    return RBV2Problem.from_samples(problem.gamma, zero, lam=problem.lam, affine="none")


def unit_rows(W: Matrix) -> Matrix:
    """Return W with rows of length one."""
    return np.asarray(W / np.maximum(np.linalg.norm(W, axis=1, keepdims=True), 1e-300))
