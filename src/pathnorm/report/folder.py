"""Write a folder as a whole: built beside its place and moved there when everything was written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pathnorm.errors import OutputFolderError

__all__ = ["new_folder", "refuse_existing"]


def refuse_existing(folder: Path, *, force: bool) -> None:
    """Raise :class:`OutputFolderError` unless ``folder`` is absent, empty, or may be written over."""
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"The output must be a folder. {folder} is a file. Give another name.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputFolderError(
            f"The output folder must be new or empty. {folder} has files in it. Give another folder, or "
            "force=True (--force) to replace the files of the same names."
        )


@contextmanager
def new_folder(folder: Path, *, force: bool = False, stale: Collection[str] = ()) -> Iterator[Path]:
    """Give a draft folder to write to; on success its files move into ``folder``.

    Files in ``folder`` that are not written again stay, except those named ``stale``.

    Raises
    ------
    OutputFolderError
        If ``folder`` has files and ``force`` is false, or something cannot be written (e.g. a full disk).
        Whatever the error, an interruption included, nothing half-written is left.
    """
    refuse_existing(folder, force=force)
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield draft
        refuse_existing(folder, force=force)
        folder.mkdir(exist_ok=True)
        written = sorted(path.name for path in draft.iterdir())
        for name in set(stale) - set(written):
            (folder / name).unlink(missing_ok=True)
        for name in written:
            os.replace(draft / name, folder / name)
    except OutputFolderError:
        raise
    except OSError as error:
        raise OutputFolderError(
            f"The output must be written completely. Writing {folder} failed: {error.strerror or error}. "
            "Nothing half-written was left; free some space or choose another place."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
