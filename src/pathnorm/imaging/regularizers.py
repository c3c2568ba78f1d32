"""Sparsity of images: isotropic total variation and orthonormal wavelets, with what their certificates need.

A regulariser is ``R(x) = sum over groups of |K x|`` with a linear K; its dual variables q have the shape of ``K x`` and
are feasible where every group of q has at most the length lam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pywt
import scipy.fft
import torch
from torch import Tensor

__all__ = ["Regularizer", "TotalVariation", "Wavelet"]


class Regularizer(Protocol):
    """A sum of lengths of groups of ``K x``."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def norm_squared(self) -> float:
        """At least the largest singular value of K, squared."""
        ...

    def K(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return what is to be sparse."""
        ...

    def K_adjoint(self, q: Tensor) -> Tensor:  # noqa: N802
        """Return the adjoint: an image."""
        ...

    def lengths(self, q: Tensor) -> Tensor:
        """Return the lengths of the groups."""
        ...

    def preimage(self, image: Tensor, q: Tensor) -> Tensor | None:
        """Return a point near q with ``K* q = image``; None if there is none."""
        ...


@dataclass(frozen=True)
class TotalVariation:
    """Isotropic total variation ``sum sqrt(|x_down - x|^2 + |x_right - x|^2)``, no difference across the border."""

    name: str = "tv"
    norm_squared: float = 8.0

    def K(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return forward differences (2, H, W)."""
        found = x.new_zeros(2, *x.shape)
        found[0, :-1] = x[1:] - x[:-1]
        found[1, :, :-1] = x[:, 1:] - x[:, :-1]
        return found

    def K_adjoint(self, q: Tensor) -> Tensor:  # noqa: N802
        """Return minus the divergence."""
        found = torch.zeros_like(q[0])
        found[:-1] -= q[0, :-1]
        found[1:] += q[0, :-1]
        found[:, :-1] -= q[1, :, :-1]
        found[:, 1:] += q[1, :, :-1]
        return found

    def lengths(self, q: Tensor) -> Tensor:
        """Return the length of q at every pixel."""
        # torch's own norm along a leading dimension takes thirty times as long for complex numbers.
        squares = q.real.square() + q.imag.square() if q.is_complex() else q.square()
        return sum(squares[1:], squares[0]).sqrt()

    def preimage(self, image: Tensor, q: Tensor) -> Tensor | None:
        """Return the point next to q with ``K* q = image``; None if there is none, as where the mean is not zero.

        ``q + K (K* K)^-1 (image - K* q)``: a Poisson equation, solved by cosine transforms.
        """
        if abs(complex(image.mean().item())) > 1e-9 * float(image.abs().mean() + 1e-300):
            return None
        missing = (image - self.K_adjoint(q)).cpu().numpy()
        grid = [2.0 - 2.0 * np.cos(np.pi * np.arange(size) / size) for size in missing.shape]
        eigenvalues = grid[0][:, None] + grid[1][None, :]
        eigenvalues[0, 0] = 1.0
        spectrum = scipy.fft.dctn(missing, norm="ortho") / eigenvalues
        spectrum[0, 0] = 0.0
        potential = torch.from_numpy(np.asarray(scipy.fft.idctn(spectrum, norm="ortho"))).to(image)
        return q + self.K(potential)


@dataclass(frozen=True)
class Wavelet:
    """l1 norm of all coefficients of an orthonormal wavelet transform with periodic borders, the coarsest included."""

    wavelet: str = "db4"
    levels: int = 4
    name: str = "wavelet"
    norm_squared: float = 1.0

    def K(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return the coefficients as an array of the image's shape."""
        levels = self._levels(x.shape)
        found = pywt.wavedec2(x.cpu().numpy(), self.wavelet, mode="periodization", level=levels)
        return torch.from_numpy(pywt.coeffs_to_array(found)[0]).to(x)

    def K_adjoint(self, q: Tensor) -> Tensor:  # noqa: N802
        """Return the image of coefficients: the inverse transform."""
        parts = _slices(q.shape, self._levels(q.shape))
        found = pywt.array_to_coeffs(q.cpu().numpy(), parts, output_format="wavedec2")
        return torch.from_numpy(np.asarray(pywt.waverec2(found, self.wavelet, mode="periodization"))).to(q)

    def lengths(self, q: Tensor) -> Tensor:
        """Return the modulus of every coefficient."""
        return q.abs()

    def preimage(self, image: Tensor, q: Tensor) -> Tensor:
        """Return the coefficients of the image: K is orthonormal."""
        return self.K(image)

    def _levels(self, shape: tuple[int, ...]) -> int:
        # Deeper than this, every coefficient would feel the border.
        deepest = pywt.dwt_max_level(min(shape), pywt.Wavelet(self.wavelet).dec_len)
        levels = min(self.levels, max(int(deepest), 1))
        while levels > 0 and any(size % 2**levels for size in shape):
            levels -= 1
        if levels == 0:
            raise ValueError(
                f"An orthonormal wavelet transform needs an image with two even sizes. Got {tuple(shape)}. "
                "Crop or pad it by a row or a column."
            )
        return levels


def _slices(shape: tuple[int, ...], levels: int) -> list[object]:
    """Where the bands lie in an array of the image's shape, as PyWavelets wants to be told."""
    height, width = shape[0] >> levels, shape[1] >> levels
    found: list[object] = [(slice(0, height), slice(0, width))]
    for _ in range(levels):
        low, high = (slice(0, height), slice(0, width)), (slice(height, 2 * height), slice(width, 2 * width))
        found.append({"da": (high[0], low[1]), "ad": (low[0], high[1]), "dd": (high[0], high[1])})
        height, width = 2 * height, 2 * width
    return found
