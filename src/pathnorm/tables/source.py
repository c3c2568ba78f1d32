"""Bytes of a table: a file or a pipe, packed with gzip or not; what it is, its first bytes tell."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pathnorm.errors import DataError, MissingExtraError

__all__ = ["Progress", "Source", "need_pyarrow", "open_source"]

Progress = Callable[[str, int, int], None]

_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A stream with a name for messages; ``size`` is that of the file, 0 for a pipe."""

    name: str
    stream: Any  # an io.BufferedReader
    file: BinaryIO
    size: int
    parquet: bool

    def report(self, progress: Progress | None) -> None:
        """Tell how many megabytes of the file were read."""
        if progress is not None and self.size:
            total = max(self.size // _MEGABYTE, 1)
            progress("reading, MB", min(self.file.tell() // _MEGABYTE, total), total)


@contextmanager
def open_source(source: str | Path | BinaryIO) -> Iterator[Source]:
    """Open a path, or take a stream of bytes, which stays open.

    Raises
    ------
    ValueError
        If there is no such file.
    DataError
        If it is empty, a spreadsheet, or cut off.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else "standard input"
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                yield _unpacked(name, file, os.fstat(file.fileno()).st_size)
        else:
            yield _unpacked(name, source, 0)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"A file with a table is needed; {name} is not one: {error.strerror}.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} must be a whole gzip file; it is damaged: {error}. Fetch it again.") from None


def _unpacked(name: str, file: BinaryIO, size: int) -> Source:
    stream: Any = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    if stream.peek(2)[:2] == _GZIP:
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
    magic = stream.peek(4)[:4]
    if not magic:
        raise DataError(f"A table with at least one row is needed; {name} is empty. Check the file.")
    if magic == _ZIP:
        raise DataError(
            f"A CSV or Parquet table is needed; {name} is a spreadsheet or a zip file. Save it as CSV first."
        )
    return Source(name, stream, file, size, magic == _PARQUET)


def need_pyarrow() -> None:
    """Raise :class:`MissingExtraError` unless pyarrow is installed."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Reading tables needs the package 'pyarrow', which is not installed. "
            "Install it with: pip install 'pathnorm[tables]'."
        ) from error
