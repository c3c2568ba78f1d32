"""What the command line says: results on stdout, talk, warnings and progress on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pathnorm.errors import MissingExtraError
from pathnorm.report.folder import new_folder

__all__ = ["Outcome", "Progress", "progress_bars", "say", "short_warnings", "stage", "talk", "write_record"]

Progress = Callable[[str, int, int], None]


class Outcome(NamedTuple):
    """What a verb has to say: for people, and for programs; ``status`` is 1 if what was checked does not hold."""

    text: str
    data: dict[str, Any]
    status: int = 0


def talk(text: str) -> None:
    """Say something beside the result."""
    print(f"pathnorm: {text}", file=sys.stderr)


def say(outcome: Outcome, *, as_json: bool) -> None:
    """Print the result."""
    print(json.dumps(outcome.data, allow_nan=False) if as_json else outcome.text)
    sys.stdout.flush()


def write_record(record: Any, out: Path, *, force: bool) -> list[str]:
    """Write a record and, where what draws it is installed, its page; return the names of the files."""
    with new_folder(out, force=force, stale={"report.html"}) as made:
        (made / "record.json").write_text(record.to_json(), encoding="utf-8")
        try:
            record.to_html(made / "report.html")
        except MissingExtraError as error:
            talk(f"no report.html: {error}")
        return sorted(path.name for path in made.iterdir())


@contextmanager
def short_warnings() -> Iterator[None]:
    """Show warnings as one line on stderr, without the line of code they come from."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(f"pathnorm: {category.__name__}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Give a callback that draws bars on a terminal, and None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ModuleNotFoundError:  # bars are a comfort, not a need
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total, visible=done < total)

        yield report


@contextmanager
def stage(progress: Progress | None, name: str) -> Iterator[None]:
    """Show that something is going on, though not how far it is."""
    if progress is not None:
        progress(name, 0, 1)
    yield
    if progress is not None:
        progress(name, 1, 1)
