"""Coil sensitivities from the middle of k-space: what the coils see of the image's lowest frequencies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging.operators import _PLANE, _require_finite

__all__ = ["calibration_block", "estimate_coils"]

_MOST, _FEWEST = 32, 4


def estimate_coils(kspace: Any, mask: Any = None, *, block: tuple[int, int] | None = None) -> Tensor:
    """Return sensitivities (C, H, W) with ``sum_c |S_c|^2 = 1`` at every pixel.

    Every coil's image of the lowest frequencies, under a Hann window, over the root of the sum of their squares
    [Roemer et al. 1990; McKenzie et al. 2002]. Sensitivities are taken to be smoother than the window's width; their
    common phase is that of the low-resolution image, so that the image reconstructed with them is nearly real.

    Parameters
    ----------
    kspace : array of shape (C, H, W)
        Complex, the zero frequency in the middle, zero where nothing was sampled.
    mask : array of shape (H, W), optional
        True where k-space was sampled; where any coil is not zero if not given.
    block : (rows, columns), optional
        Frequencies around the middle to use, all of which must be sampled; the largest such block of at most 32 rows
        and columns if not given.

    Raises
    ------
    DataError
        If k-space is not finite, or too little of its middle was sampled.
    ValueError
        If k-space is not complex or shapes do not fit.
    """
    data = torch.as_tensor(kspace)
    if data.ndim != 3 or not data.is_complex():
        raise ValueError(
            f"k-space must be complex of shape (C, H, W). Got {data.dtype} of shape {tuple(data.shape)}; one coil has "
            "C = 1."
        )
    data = data.to(torch.complex128)
    _require_finite("k-space", data)
    shape = (int(data.shape[1]), int(data.shape[2]))
    sampled = (data != 0).any(0) if mask is None else torch.as_tensor(mask).bool()
    if tuple(sampled.shape) != shape:
        raise ValueError(f"A mask must have k-space's shape {shape}. Got {tuple(sampled.shape)}.")
    rows, columns = calibration_block(sampled) if block is None else block
    middle = _middle(shape, (rows, columns))
    if min(rows, columns) < _FEWEST or not bool(sampled[middle].all()):
        raise DataError(
            f"Sensitivities need a block of at least {_FEWEST} x {_FEWEST} sampled frequencies in the middle of "
            f"k-space. Got {rows} x {columns}. Give coils= from a calibration scan."
        )
    low = torch.zeros_like(data)
    low[(slice(None), *middle)] = data[(slice(None), *middle)] * _window(rows)[:, None] * _window(columns)
    seen = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(low, dim=_PLANE), norm="ortho"), dim=_PLANE)
    size = torch.linalg.vector_norm(seen, dim=0)
    if not bool((size > 0.0).any()):
        raise DataError("The middle of k-space must not be zero. Got no signal there.")
    # Where no coil sees anything, all see alike: the norm of the operator stays one.
    flat = torch.full_like(seen, len(seen) ** -0.5)
    return torch.where(size > 0.0, seen / size.clamp_min(torch.finfo(size.dtype).tiny), flat)


def calibration_block(mask: Tensor) -> tuple[int, int]:
    """Return rows and columns of the largest block around the middle of which everything was sampled.

    Both at most 32 and at most the image; a block of k rows starts k // 2 above the zero frequency.
    """
    best = (0, 0)
    columns = min(_MOST, int(mask.shape[1]))
    for rows in range(1, min(_MOST, int(mask.shape[0])) + 1):
        shape = (int(mask.shape[0]), int(mask.shape[1]))
        while columns > 0 and not bool(mask[_middle(shape, (rows, columns))].all()):
            columns -= 1
        if min(rows, columns) > min(best) or (min(rows, columns) == min(best) and rows * columns > best[0] * best[1]):
            best = (rows, columns)
    return best


def _middle(shape: tuple[int, int], block: tuple[int, int]) -> tuple[slice, slice]:
    starts = [size // 2 - count // 2 for size, count in zip(shape, block, strict=True)]
    return slice(starts[0], starts[0] + block[0]), slice(starts[1], starts[1] + block[1])


def _window(count: int) -> Tensor:
    """Hann's window without its zeros, largest at the zero frequency."""
    offset = torch.arange(count, dtype=torch.float64) - count // 2
    return torch.cos(torch.pi * offset / (count + 2)).square()
