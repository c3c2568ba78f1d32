"""The compiled loop over rays and pixels (Joseph 1982), for integrals and for their adjoint."""

from __future__ import annotations

import math

from numba import njit

__all__ = ["follow_rays"]


@njit(cache=True)
def follow_rays(image, sinogram, angles, spacing, centre, adjoint):
    """Add the integrals of ``image`` (H, W) to ``sinogram`` (V, T), or the adjoint of ``sinogram`` to ``image``.

    Both C-ordered. One loop for the two directions: what the first reads is what the second writes.
    """
    height, width = image.shape
    for view in range(angles.size):
        cos, sin = math.cos(angles[view]), math.sin(angles[view])
        along_columns = abs(sin) >= abs(cos)
        length = 1.0 / (abs(sin) if along_columns else abs(cos))
        for detector in range(sinogram.shape[1]):
            t = (detector - centre) * spacing
            if along_columns:
                place, step = _line(t, sin, cos, height, width)
            else:
                place, step = _line(t, cos, sin, width, height)
            if adjoint:
                value = length * sinogram[view, detector]
                if along_columns:
                    _write(image, place, step, value)
                else:
                    _write(image.T, place, step, value)
            elif along_columns:
                sinogram[view, detector] += length * _read(image, place, step)
            else:
                sinogram[view, detector] += length * _read(image.T, place, step)


@njit(cache=True)
def _line(t, across, along, rows, columns):
    """Where a ray crosses the first column, as a row with a fraction, and how far it moves per column."""
    return (t + 0.5 * (columns - 1) * along) / across + 0.5 * (rows - 1), -along / across


@njit(cache=True)
def _read(image, place, step):
    """Sum over columns of what lies on a ray, between the two rows next to it."""
    rows, columns = image.shape
    total = 0.0
    for column in range(columns):
        at = place + column * step
        low = math.floor(at)
        share = at - low
        if 0 <= low < rows:
            total += (1.0 - share) * image[low, column]
        if 0 <= low + 1 < rows:
            total += share * image[low + 1, column]
    return total


@njit(cache=True)
def _write(image, place, step, value):
    """Add a value to the pixels that :func:`_read` reads, with the same weights."""
    if value == 0.0:
        return
    rows, columns = image.shape
    for column in range(columns):
        at = place + column * step
        low = math.floor(at)
        share = at - low
        if 0 <= low < rows:
            image[low, column] += (1.0 - share) * value
        if 0 <= low + 1 < rows:
            image[low + 1, column] += share * value
