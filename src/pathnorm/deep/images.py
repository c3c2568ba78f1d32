"""A folder of images as one array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pathnorm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageOptions", "load_images"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

# The array is held in memory, because every layer goes through it again.
MOST_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How an image becomes an array.

    Attributes
    ----------
    size : tuple of int or None
        Height and width to resize to, aspect ratio not kept; None if all images have one size.
    mean, std : tuple of float
        Subtracted from, and divided out of, each channel after scaling to [0, 1]. One entry means grey
        images, three mean colour.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Check that the channels agree."""
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(
                f"Mean and std must have one entry (grey) or three (colour) each, got {len(self.mean)} and "
                f"{len(self.std)}. Give both for every channel."
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"Every std must be positive, got {self.std}. Use 1 to leave a channel as it is.")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"The image size must be positive, got {self.size}. Give height and width.")


def load_images(folder: Path, *, options: ImageOptions, limit: int | None = None) -> np.ndarray:
    """Return the images below ``folder``, sorted by path, as float32 (N, channels, height, width)."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())[:limit]
    if not paths:
        raise DataError(f"{folder} must hold images ({', '.join(sorted(SUFFIXES))}), but it has none. Check the path.")
    first = _read(paths[0], options)
    needed = first.nbytes * len(paths)
    if needed > MOST_BYTES:
        raise DataError(
            f"The images must fit in {MOST_BYTES / 1024**3:.0f} GB of memory, but the {len(paths)} images of "
            f"{folder} "
            f"need {needed / 1024**3:.1f} GB. Take fewer, make them smaller, or give a DataLoader."
        )
    images = np.empty((len(paths), *first.shape), dtype=np.float32)
    images[0] = first
    for index, path in enumerate(paths[1:], start=1):
        image = _read(path, options)
        if image.shape != first.shape:
            raise DataError(
                f"All images must have one size: {paths[0].name} has {first.shape[1]}x{first.shape[2]}, "
                f"{path.name} has "
                f"{image.shape[1]}x{image.shape[2]}. Give a size to resize to."
            )
        images[index] = image
    return images


def _read(path: Path, options: ImageOptions) -> np.ndarray:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Reading images needs the package 'pillow', which is not installed. "
            "Install it with: pip install 'pathnorm[cli]'."
        ) from error
    try:
        with Image.open(path) as opened:
            image = _convert(opened, options)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} must be an image, but reading it failed: {error}. Remove or replace it.") from error
    pixels = np.asarray(image, dtype=np.float32) / 255
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    mean = np.asarray(options.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(options.std, dtype=np.float32)[:, None, None]
    scaled: np.ndarray = (channels - mean) / std
    return scaled


def _convert(image: Image.Image, options: ImageOptions) -> Image.Image:
    from PIL import Image

    converted = image.convert("L" if len(options.mean) == 1 else "RGB")
    if options.size is None:
        return converted
    height, width = options.size
    return converted.resize((width, height), Image.Resampling.BILINEAR)
