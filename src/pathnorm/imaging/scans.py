"""Images and their noisy measurements, which an audit runs on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging.measurements import checked_operator
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.perturbations import Samples, norm_of

__all__ = ["Scans", "psnr"]


@dataclass(frozen=True)
class Scans:
    """Images and measurements ``y = A x + noise``, one tensor each, in double precision.

    Attributes
    ----------
    noise : float
        Standard deviation of a measurement's noise; of a complex one the root of the mean squared modulus.
    """

    operator: Operator
    images: tuple[Tensor, ...]
    data: tuple[Tensor, ...]
    noise: float
    seed: int

    @classmethod
    def of(cls, operator: Operator, images: Any, *, noise: float, seed: int) -> Scans:
        """Measure images (B, H, W).

        Raises
        ------
        DataError
            If an image is not finite or zero everywhere.
        ValueError
            If shapes do not fit, the noise is not positive, or A and A_adjoint are not adjoint.
        """
        if not (math.isfinite(noise) and noise > 0.0):
            raise ValueError(
                f"The noise must have a positive standard deviation: perturbations and residuals are measured by it. "
                f"Got {noise}."
            )
        batch = torch.as_tensor(images).detach().cpu()
        if batch.ndim != 3 or batch.numel() == 0:
            raise ValueError(f"Images must have shape (B, H, W) with B at least 1. Got {tuple(batch.shape)}.")
        complex_image = getattr(operator, "complex_image", None)
        if batch.is_complex() and complex_image is False:
            raise ValueError(f"This operator measures real images. Got {batch.dtype}; hand over their moduli.")
        batch = batch.to(torch.complex128 if batch.is_complex() or complex_image else torch.float64)
        if complex_image is None and operator.A_adjoint(operator.A(batch[0])).is_complex():
            batch = batch.to(torch.complex128)
        for index, image in enumerate(batch):
            _require_image(index, image)
        scans = cls(operator, tuple(batch), (), noise, seed)
        found = cls(operator, scans.images, scans.measured_by(operator), noise, seed)
        checked_operator(operator, found.data[0], seed)
        return found

    @property
    def samples(self) -> Samples:
        """What was measured of an image."""
        return Samples.of(self.operator, self.data[0])

    @property
    def noise_size(self) -> float:
        """Root of the expected squared norm of the noise."""
        return self.noise * math.sqrt(self.samples.count)

    def noise_of(self, index: int, operator: Operator, clean: Tensor) -> Tensor:
        """Return the noise of one image: the same wherever masks overlap."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
        return self.noise * Samples.of(operator, clean).draw(generator)

    def measured_by(self, operator: Operator) -> tuple[Tensor, ...]:
        """Return the measurements of all images by an operator."""
        clean = [operator.A(image) for image in self.images]
        return tuple(y + self.noise_of(index, operator, y) for index, y in enumerate(clean))


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return ``20 log10(max |truth| sqrt(n) / ||image - truth||)`` in dB, n the number of pixels."""
    error = norm_of(image - truth)
    if error == 0.0:
        return math.inf
    return 20.0 * math.log10(float(truth.abs().max()) * math.sqrt(truth.numel()) / error)


def _require_image(index: int, image: Tensor) -> None:
    if not bool(torch.isfinite(image).all()):
        raise DataError(f"Images must be finite. Image {index} has NaN or infinity; leave it out.")
    if not bool((image != 0).any()):
        raise DataError(f"Images must not be zero everywhere: errors are relative to them. Image {index} is.")
