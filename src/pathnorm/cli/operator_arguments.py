"""Arguments of the verbs that measure images: which operator, and the arrays it is made of."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.cli.arguments import number, positive, size
from pathnorm.errors import DataError

if TYPE_CHECKING:
    from pathnorm.imaging import Operator

__all__ = ["OPERATORS", "add_operator_arguments", "images_from", "measurements_from", "operator_from", "read_arrays"]

Arrays = Mapping[str, NDArray[Any]]

OPERATORS = ("mri", "radon", "blur", "identity")

# Names under which files keep the measurements of each operator, and images.
_MEASUREMENTS = {
    "mri": ("ksp", "kspace", "y"),
    "radon": ("sinogram", "y"),
    "blur": ("y", "measurements", "blurred"),
    "identity": ("y", "measurements", "noisy"),
}
_IMAGES = ("images", "image", "x")
_COILS = ("coils", "maps", "sensitivities")


def add_operator_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which operator measures, and what its file may not say."""
    parser.add_argument("--operator", choices=OPERATORS, required=True, help="what was measured of the image")
    group = parser.add_argument_group(
        "operator",
        "The arrays are read from the .npz: mri takes mask (else where k-space is not zero) and coils (else one coil, "
        "or an estimate from the low frequencies); radon takes angles; blur takes kernel.",
    )
    group.add_argument("--image-size", metavar="HxW", type=size, help="of the image, where the file does not tell")
    group.add_argument("--degrees", action="store_true", help="radon: angles are in degrees, not radians")
    group.add_argument("--spacing", metavar="S", type=positive, help="radon: between detectors, in pixels (1)")
    group.add_argument("--centre", metavar="C", type=number, help="radon: the detector of the origin (the middle)")


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file, by name; nothing in it is executed.

    Raises
    ------
    ValueError
        If there is no such file.
    DataError
        If it is not an .npz of plain arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The arrays must be in an .npz file. {path} is none. Check the name.")
    # Opened here, because numpy leaves a broken archive open.
    with path.open("rb") as stream:
        try:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                with content:
                    return {name: content[name] for name in content.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} must be an .npz file of plain arrays, but reading it failed: {error}. Arrays of Python "
                "objects are refused; save numbers with numpy.savez."
            ) from error
    raise DataError(f"{path} must be an .npz file of named arrays. It holds one array; save it with numpy.savez.")


def measurements_from(options: argparse.Namespace, arrays: Arrays) -> NDArray[Any]:
    """Return the measurements of one image, of the shape that the operator's ``A`` returns."""
    names = _MEASUREMENTS[options.operator]
    found = _first(arrays, names)
    if found is None:
        raise DataError(_missing(f"measurements for --operator {options.operator}", names, arrays))
    if options.operator == "mri":
        return _kspace(found)
    if found.ndim != 2:
        raise DataError(f"The measurements must have two dimensions. Got shape {found.shape}.")
    return found


def images_from(arrays: Arrays) -> NDArray[Any]:
    """Return the images (B, H, W); one (H, W) is a batch of one."""
    found = _first(arrays, _IMAGES)
    if found is None:
        raise DataError(_missing("images", _IMAGES, arrays))
    if found.ndim not in (2, 3):
        raise DataError(f"Images must have shape (B, H, W). Got {found.shape}.")
    return found if found.ndim == 3 else found[None]


def operator_from(options: argparse.Namespace, arrays: Arrays) -> Operator:
    """Return the operator that the options name, made of the arrays.

    Raises
    ------
    DataError
        If an array is missing; the operator's own errors if one does not fit.
    """
    return {"mri": _mri, "radon": _radon, "blur": _blur, "identity": _identity}[options.operator](options, arrays)


def _mri(options: argparse.Namespace, arrays: Arrays) -> Operator:
    import torch

    from pathnorm.imaging import FourierMRI

    kspace = _first(arrays, _MEASUREMENTS["mri"])
    kspace = None if kspace is None else _kspace(kspace)
    mask = arrays.get("mask")
    if mask is None:
        if kspace is None:
            raise DataError(_missing("a mask, or k-space to read it from,", ("mask", "ksp", "kspace"), arrays))
        mask = np.any(kspace != 0, axis=0)
    if mask.ndim == 1:  # whole lines: one entry per column
        mask = np.broadcast_to(mask, (_image_shape(options, arrays)[0], mask.size))
    coils = _first(arrays, _COILS)
    if coils is not None:
        return FourierMRI(torch.from_numpy(mask.copy()), torch.from_numpy(_kspace(coils)))
    if kspace is None or kspace.shape[0] == 1:
        return FourierMRI(torch.from_numpy(mask.copy()))
    from pathnorm.imaging.coils import estimate_coils

    return FourierMRI(torch.from_numpy(mask.copy()), estimate_coils(torch.from_numpy(kspace)))


def _radon(options: argparse.Namespace, arrays: Arrays) -> Operator:
    from pathnorm.imaging import Radon

    angles = _first(arrays, ("angles", "theta"))
    if angles is None:
        raise DataError(_missing("angles", ("angles", "theta"), arrays))
    sinogram = _first(arrays, _MEASUREMENTS["radon"])
    spacing = options.spacing if options.spacing is not None else _scalar(arrays, "spacing")
    centre = options.centre if options.centre is not None else _scalar(arrays, "centre")
    return Radon(
        _image_shape(options, arrays),
        np.deg2rad(angles) if options.degrees else angles,
        detectors=None if sinogram is None or sinogram.ndim != 2 else sinogram.shape[1],
        spacing=1.0 if spacing is None else spacing,
        centre=centre,
    )


def _blur(options: argparse.Namespace, arrays: Arrays) -> Operator:
    import torch

    from pathnorm.imaging import Blur

    kernel = arrays.get("kernel")
    if kernel is None:
        raise DataError(_missing("the blur's kernel", ("kernel",), arrays))
    return Blur(torch.from_numpy(kernel), _image_shape(options, arrays))


def _identity(options: argparse.Namespace, arrays: Arrays) -> Operator:
    from pathnorm.imaging import Identity

    return Identity(_image_shape(options, arrays))


def _image_shape(options: argparse.Namespace, arrays: Arrays) -> tuple[int, int]:
    """Return what was asked for, else the shape of the images, else what the measurements tell."""
    if options.image_size is not None:
        height, width = options.image_size
        return int(height), int(width)
    found = _first(arrays, _IMAGES)
    if found is None or found.ndim < 2:
        found = _first(arrays, _MEASUREMENTS[options.operator])
        if found is None or found.ndim < 2:
            raise DataError("The size of the image must be known. The file does not tell it; give --image-size HxW.")
        if options.operator == "radon":  # detectors that span the image from side to side
            return int(found.shape[-1]), int(found.shape[-1])
    return int(found.shape[-2]), int(found.shape[-1])


def _kspace(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim not in (2, 3):
        raise DataError(f"k-space and coils must have shape (C, H, W), or (H, W) for one coil. Got {values.shape}.")
    return values if values.ndim == 3 else values[None]


def _scalar(arrays: Arrays, name: str) -> float | None:
    found = arrays.get(name)
    if found is None:
        return None
    if found.size != 1:
        raise DataError(f"{name!r} must be one number. Got shape {found.shape}.")
    return float(found.reshape(()))


def _first(arrays: Arrays, names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _missing(what: str, names: tuple[str, ...], arrays: Arrays) -> str:
    return (
        f"The .npz must have {what} under one of {', '.join(names)}. Got {', '.join(sorted(arrays)) or 'nothing'}. "
        "Save the array under one of these names."
    )
