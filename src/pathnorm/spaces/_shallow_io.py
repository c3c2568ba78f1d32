"""Shallow networks as plain numbers and as JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["arrays_of", "read", "record_of", "replace_file", "write"]

Matrix = NDArray[np.float64]

_FORMAT, _VERSION = "pathnorm.ShallowNet", 1


def record_of(W: Matrix, b: Matrix, V: Matrix, A: Matrix, c: Matrix) -> dict[str, Any]:
    """Plain numbers; the sizes are there because a network without neurons has empty lists."""
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "neurons": W.shape[0],
        "inputs": W.shape[1],
        "outputs": c.size,
        **{name: array.tolist() for name, array in zip("WbVAc", (W, b, V, A, c), strict=True)},
    }


def arrays_of(record: Any, source: str = "the dictionary") -> dict[str, Matrix]:
    """W, b, V, A, c out of what :func:`record_of` gave; ``source`` is how errors call it."""
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format", "no 'format'") if isinstance(record, dict) else f"a {type(record).__name__}"
        raise _foreign(source, f"Got {found!r:.80}")
    version = record.get("version")
    if version != _VERSION:
        raise ValueError(
            f"{source} must have version {_VERSION} of the format {_FORMAT}. Got version {version!r:.80}. "
            "Read it with the release of pathnorm that wrote it, or a later one."
        )
    neurons, inputs, outputs = (_size(record, name, source) for name in ("neurons", "inputs", "outputs"))
    shapes = {"W": (neurons, inputs), "b": (neurons,), "V": (neurons, outputs), "A": (inputs, outputs), "c": (outputs,)}
    return {name: _array(record.get(name), shape, f"{name} of {source}") for name, shape in shapes.items()}


def _size(record: dict[str, Any], name: str, source: str) -> int:
    size = record.get(name)
    if type(size) is not int or size < 0:
        raise _foreign(source, f"Got {name} = {size!r:.80}")
    return size


def _array(value: Any, shape: tuple[int, ...], name: str) -> Matrix:
    wanted = f"{name} must be nested lists of numbers of shape {shape}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{wanted}. Got rows of unequal length. Restore the original.") from error
    if array.dtype.kind not in "iuf" or not isinstance(value, list):
        raise ValueError(f"{wanted}. Got something that is not a number. Restore the original.")
    # An empty list has lost its other sizes.
    if array.shape != shape and not (array.size == 0 == np.prod(shape)):
        raise ValueError(f"{wanted}. Got shape {array.shape}. Restore the original.")
    return array.reshape(shape).astype(np.float64)


def _foreign(source: str, got: str) -> ValueError:
    return ValueError(
        f"{source} must be a network as ShallowNet.to_dict gives it and ShallowNet.save writes it, with format "
        f"{_FORMAT!r}. {got}. Choose another, or write this one again."
    )


def write(record: dict[str, Any], path: Path) -> Path:
    """Write JSON, in which Python's floats keep every bit."""
    try:
        text = json.dumps(record, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            "A network must have finite weights to be saved: JSON has no NaN and no infinity. Got one that is not "
            "finite. Find out where its training diverged."
        ) from error
    return replace_file(path, text.encode("ascii"))


def read(path: Path) -> dict[str, Matrix]:
    """W, b, V, A, c out of a file."""
    data, source = path.read_bytes(), f"The file {path}"
    try:
        record = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _foreign(source, f"It is not JSON, or not all of it: {error!s:.120}") from error
    return arrays_of(record, source)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def replace_file(path: Path, data: bytes) -> Path:
    """Write beside ``path``, then move there: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        # mkstemp makes the file private; a network is as readable as any other file.
        draft.chmod(0o644)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path
