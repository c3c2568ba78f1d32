"""A run in a process of its own: it may fail, hang or be killed, and the next one starts from the same state."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks._harness import RESULTS, environment, write_json

__all__ = ["RefusedError", "Rows", "isolated", "one_thread", "stopwatch", "versions_of"]

Row = dict[str, Any]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class RefusedError(Exception):
    """A method that is not run on a case, with the reason."""


def one_thread() -> None:
    """One thread for everything: what is imported later reads the environment, what is there already is told."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    threadpool_limits(limits=1)


def stopwatch() -> Callable[[], dict[str, float]]:
    """Start the clocks; the answer reads them: seconds, and those of the processor, free of other programs."""
    wall, processor = time.perf_counter(), time.process_time()

    def read() -> dict[str, float]:
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}

    return read


def versions_of(packages: list[str]) -> Row:
    """The environment, with a note instead of a version where a peer is not installed."""
    there, missing = [], []
    for name in packages:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
        else:
            there.append(name)
    found = environment(there, threads=1)
    found["versions"] |= dict.fromkeys(missing, "not installed")
    return found


def isolated(action: Callable[[], Row], *, seconds: float) -> Row:
    """Result of a call in a forked process, or ``{"failure": why}``; the process is killed at the limit.

    Modules that the parent has imported need no import in the child.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(action, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {"failure": f"more than {seconds:g} s", "capped": True}
        return dict(receiver.recv())
    except EOFError:
        process.join()
        code = process.exitcode or 0
        return {"failure": f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"}
    finally:
        process.kill()
        process.join()
        receiver.close()


def _child(action: Callable[[], Row], sender: Connection) -> None:
    with contextlib.suppress(AttributeError):  # Linux: do not outlive the parent
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    threadpool_limits(limits=1)
    warnings.simplefilter("ignore")  # what is wrong with an answer is measured, not believed
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            found = action()
        except RefusedError as refusal:
            found = {"failure": str(refusal), "refused": True}
        except Exception as error:  # noqa: BLE001 - whatever a method raises is its result
            found = {"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    sender.send(_plain(found))
    sender.close()


def _plain(value: Any) -> Any:
    """Numbers that JSON knows: no numpy, no NaN, no infinity."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Rows:
    """The rows of a benchmark, those of earlier runs among them, written after each new one."""

    def __init__(self, name: str, key: tuple[str, ...], *, folder: Path = RESULTS) -> None:
        self.name, self.key, self.folder = name, key, folder
        path = self.folder / f"{name}.json"
        self.rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []

    def find(self, row: Row) -> Row | None:
        """The row of a case that is there already."""
        name = tuple(row[part] for part in self.key)
        return next((old for old in self.rows if tuple(old[part] for part in self.key) == name), None)

    def add(self, row: Row) -> None:
        """Put a row in the place of an older one of its case."""
        old = self.find(row)
        if old is None:
            self.rows.append(row)
        else:
            self.rows[self.rows.index(old)] = row

    def write(self, payload: Row) -> Path:
        """Write the rows, after what is said of all of them."""
        return write_json(self.name, payload | {"rows": self.rows}, folder=self.folder)
