"""Parallel-beam tomography: line integrals of an image, and their exact adjoint."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging._rays import follow_rays
from pathnorm.imaging.operators import _image_shape, _require_shape

__all__ = ["Radon"]


class Radon:
    """Integrals along the lines ``x cos(a) + y sin(a) = t``, by interpolation between neighbouring pixels.

    Every line crosses the columns, or the rows where these are steeper, and reads each between the two pixels next to
    it (Joseph 1982). The adjoint runs through the same numbers in the other direction, so that the two agree to
    rounding. Pixels have side 1; the origin is the middle of the image, x grows with the column and y with the row.

    Parameters
    ----------
    shape : (H, W)
    angles : array (V,)
        Radians, one per view.
    detectors : int, optional
        Values of t per view; enough for the diagonal if not given.
    spacing : float
        Between detectors, in pixels.
    centre : float, optional
        The detector, counted from 0, on which the origin falls; the middle one if not given.
    """

    complex_image = False

    def __init__(
        self,
        shape: tuple[int, int],
        angles: Any,
        *,
        detectors: int | None = None,
        spacing: float = 1.0,
        centre: float | None = None,
    ) -> None:
        self.image_shape = _image_shape(shape)
        self.angles: NDArray[np.float64] = np.array(angles, dtype=np.float64)
        if self.angles.ndim != 1 or self.angles.size == 0:
            raise ValueError(f"Angles must be radians of shape (V,), V at least 1. Got shape {self.angles.shape}.")
        if not np.isfinite(self.angles).all():
            raise DataError("Angles must be finite. Got NaN or infinity.")
        if not (math.isfinite(spacing) and spacing > 0.0):
            raise ValueError(f"Detectors must have a positive spacing. Got {spacing}.")
        count = 2 * math.ceil(math.hypot(*self.image_shape) / spacing / 2) + 1 if detectors is None else int(detectors)
        if count < 1:
            raise ValueError(f"There must be at least one detector. Got {count}.")
        self.spacing = float(spacing)
        self.centre = (count - 1) / 2 if centre is None else float(centre)
        self.data_shape = (self.angles.size, count)

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return the sinogram (..., V, detectors) of an image."""
        _require_shape("The image", x, self.image_shape)
        return _linear(x, self, adjoint=False)

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        """Return the back-projection (..., H, W) of a sinogram, without any filter."""
        _require_shape("The sinogram", y, self.data_shape)
        return _linear(y, self, adjoint=True)

    def norm(self) -> float:
        """Return an upper bound on the largest singular value, from the largest row and column sums."""
        rows = self.A(torch.ones(self.image_shape, dtype=torch.float64)).max()
        columns = self.A_adjoint(torch.ones(self.data_shape, dtype=torch.float64)).max()
        return math.sqrt(float(rows) * float(columns))

    def _map(self, values: NDArray[Any], *, adjoint: bool) -> NDArray[Any]:
        shape = self.image_shape if adjoint else self.data_shape
        flat = np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))
        found = np.zeros((flat.shape[0], *shape), dtype=flat.dtype)
        for one, other in zip(flat, found, strict=True):
            image, sinogram = (other, one) if adjoint else (one, other)
            follow_rays(image, sinogram, self.angles, self.spacing, self.centre, adjoint)
        return found.reshape(*values.shape[:-2], *shape)


def _linear(x: Tensor, operator: Radon, *, adjoint: bool) -> Tensor:
    found: Tensor = _Linear.apply(x, operator, adjoint)  # type: ignore[no-untyped-call]
    return found


class _Linear(torch.autograd.Function):
    """The operator or its adjoint; the derivative of one is the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Radon, adjoint: bool) -> Tensor:
        ctx.operator, ctx.adjoint = operator, adjoint
        values = x.detach().cpu().numpy()
        if np.iscomplexobj(values):
            found = operator._map(values.real, adjoint=adjoint) + 1j * operator._map(values.imag, adjoint=adjoint)
        else:
            found = operator._map(values, adjoint=adjoint)
        return torch.from_numpy(found.astype(values.dtype, copy=False)).to(x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _linear(gradients[0], ctx.operator, adjoint=not ctx.adjoint), None, None
