"""Compiled loops over rays and pixels (Joseph 1982)."""

from __future__ import annotations

import math

from numba import njit

__all__ = ["back_project", "project"]


@njit(cache=True)
def project(image, sinogram, angles, spacing, centre):
    """Add line integrals of ``image`` (H, W) to ``sinogram`` (V, T); both C-ordered."""
    height, width = image.shape
    for view in range(angles.size):
        cos, sin = math.cos(angles[view]), math.sin(angles[view])
        along_columns = abs(sin) >= abs(cos)
        length = 1.0 / (abs(sin) if along_columns else abs(cos))
        for detector in range(sinogram.shape[1]):
            t = (detector - centre) * spacing
            total = 0.0
            if along_columns:
                place = (t - (0.0 - 0.5 * (width - 1)) * cos) / sin + 0.5 * (height - 1)
                step = -cos / sin
                for column in range(width):
                    at = place + column * step
                    low = math.floor(at)
                    share = at - low
                    if 0 <= low < height:
                        total += (1.0 - share) * image[low, column]
                    if 0 <= low + 1 < height:
                        total += share * image[low + 1, column]
            else:
                place = (t - (0.0 - 0.5 * (height - 1)) * sin) / cos + 0.5 * (width - 1)
                step = -sin / cos
                for row in range(height):
                    at = place + row * step
                    low = math.floor(at)
                    share = at - low
                    if 0 <= low < width:
                        total += (1.0 - share) * image[row, low]
                    if 0 <= low + 1 < width:
                        total += share * image[row, low + 1]
            sinogram[view, detector] += length * total


@njit(cache=True)
def back_project(sinogram, image, angles, spacing, centre):
    """Add what :func:`project` reads of every pixel: the loops are the same, with source and goal exchanged."""
    height, width = image.shape
    for view in range(angles.size):
        cos, sin = math.cos(angles[view]), math.sin(angles[view])
        along_columns = abs(sin) >= abs(cos)
        length = 1.0 / (abs(sin) if along_columns else abs(cos))
        for detector in range(sinogram.shape[1]):
            value = length * sinogram[view, detector]
            if value == 0.0:
                continue
            t = (detector - centre) * spacing
            if along_columns:
                place = (t - (0.0 - 0.5 * (width - 1)) * cos) / sin + 0.5 * (height - 1)
                step = -cos / sin
                for column in range(width):
                    at = place + column * step
                    low = math.floor(at)
                    share = at - low
                    if 0 <= low < height:
                        image[low, column] += (1.0 - share) * value
                    if 0 <= low + 1 < height:
                        image[low + 1, column] += share * value
            else:
                place = (t - (0.0 - 0.5 * (height - 1)) * sin) / cos + 0.5 * (width - 1)
                step = -sin / cos
                for row in range(height):
                    at = place + row * step
                    low = math.floor(at)
                    share = at - low
                    if 0 <= low < width:
                        image[row, low] += (1.0 - share) * value
                    if 0 <= low + 1 < width:
                        image[row, low + 1] += share * value
