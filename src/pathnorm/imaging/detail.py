"""A small known detail put into an image: whether it is kept or removed, and what appears elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pathnorm.imaging.perturbations import norm_of

__all__ = ["GLYPHS", "Detail", "insert", "seen_of"]

# A disc and two letters, 3 x 3 to 5 x 5 pixels.
GLYPHS = {
    "disc": (".###.", "#####", "#####", "#####", ".###."),
    "T": ("#####", "..#..", "..#..", "..#..", "..#.."),
    "x": ("#.#", ".#.", "#.#"),
}
_NEAR = 2


@dataclass(frozen=True)
class Detail:
    """A detail in an image.

    Attributes
    ----------
    glyph : str
    row, column : int
        Of its upper left corner.
    contrast : float
        What is added to the image at its pixels.
    image : Tensor of shape (H, W)
        The contrast at its pixels, zero elsewhere.
    """

    glyph: str
    row: int
    column: int
    contrast: float
    image: Tensor

    @property
    def near(self) -> Tensor:
        """Pixels (H, W) at most two away from it."""
        here = (self.image != 0).double()[None, None]
        return torch.nn.functional.max_pool2d(here, 2 * _NEAR + 1, 1, _NEAR)[0, 0] > 0


def insert(shape: tuple[int, int], glyph: str, contrast: float, rng: np.random.Generator) -> Detail:
    """Return a detail at a random place with a margin to the border.

    Raises
    ------
    ValueError
        If the image is too small for it.
    """
    pattern = torch.tensor([[float(mark == "#") for mark in line] for line in GLYPHS[glyph]], dtype=torch.float64)
    room = [size - extent for size, extent in zip(shape, pattern.shape, strict=True)]
    margin = [min(max(size // 8, 2), left // 2) for size, left in zip(shape, room, strict=True)]
    if min(room) < 1:
        raise ValueError(f"A detail of {tuple(pattern.shape)} pixels must fit the image. Got one of {shape}.")
    row, column = (int(rng.integers(low, left - low + 1)) for low, left in zip(margin, room, strict=True))
    image = torch.zeros(shape, dtype=torch.float64)
    image[row : row + pattern.shape[0], column : column + pattern.shape[1]] = contrast * pattern
    return Detail(glyph, row, column, contrast, image)


def seen_of(detail: Detail, change: Tensor) -> tuple[float, float]:
    """Return the share of the contrast that a change of the reconstruction shows, and what it shows elsewhere.

    The first is ``Re <change, d> / ||d||^2``: 1 if the detail is all there, 0 if nothing is. The second is the energy
    of the change more than two pixels away from the detail, relative to ``||d||^2``.
    """
    energy = norm_of(detail.image) ** 2
    share = float((change.real * detail.image).sum()) / energy
    return share, norm_of(change[~detail.near]) ** 2 / energy
