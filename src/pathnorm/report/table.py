"""Plain-text tables: columns that line up, and text that wraps."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

__all__ = ["SHORT_KIND", "align", "shorten", "wrap"]

SHORT_KIND = {"exact": "exact", "certified": "cert.", "measured": "meas."}

_SEPARATOR = "  "


def align(
    rows: Sequence[Sequence[str]],
    *,
    head: Sequence[Sequence[str]],
    left: Collection[int] = (0,),
    width: int | None = None,
) -> list[str]:
    """Return lines of a table: the columns in ``left`` flush left, the others flush right.

    If ``width`` is given, the cells of the first column are shortened so that a line fits.
    """
    everything = [*head, *rows]
    widths = [max(len(row[j]) for row in everything) for j in range(len(head[0]))]
    if width is not None:
        others = sum(widths[1:]) + len(_SEPARATOR) * (len(widths) - 1)
        widths[0] = max(min(widths[0], width - others), 8)

    def line(row: Sequence[str]) -> str:
        cells = [shorten(row[0], widths[0]), *row[1:]]
        padded = [
            cell.ljust(size) if j in left else cell.rjust(size)
            for j, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        return _SEPARATOR.join(padded).rstrip()

    full = sum(widths) + len(_SEPARATOR) * (len(widths) - 1)
    return [*map(line, head), "-" * full, *map(line, rows)]


def shorten(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` characters; the end tells more than the start."""
    if len(text) <= width:
        return text
    return ".." + text[len(text) - width + 2 :]


def wrap(text: str, *, width: int, indent: str = "", hang: str | None = None) -> list[str]:
    """Return the lines of ``text``, the first after ``indent`` and the others after ``hang``."""
    # A number stays with its percent sign.
    lines = textwrap.wrap(
        text.replace(" %", "\0%"),
        width=width,
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace("\0", " ") for line in lines] or [indent.rstrip()]
