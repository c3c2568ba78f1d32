"""Which column of a table a name means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pathnorm.errors import DataError

__all__ = ["find_columns", "refuse_kind"]

_MOST_NAMES = 20


def find_columns(wanted: Sequence[str], names: Sequence[str], width: int) -> tuple[int, ...]:
    """Return the position of each wanted column, given by its name or by its position from 0.

    Raises
    ------
    ValueError
        If there is no such column, or more than one, or one is wanted twice.
    """
    found = tuple(_find(name, names, width) for name in wanted)
    if len(set(found)) < len(found):
        raise ValueError(f"Different columns are needed; got {', '.join(map(repr, wanted))}. Name each once.")
    return found


def _find(name: str, names: Sequence[str], width: int) -> int:
    places = [place for place, known in enumerate(names) if known == name]
    if len(places) > 1:
        raise ValueError(
            f"A name that one column bears is needed; {name!r} is the name of {len(places)} columns. "
            f"Give a position instead: {' or '.join(map(str, places))}."
        )
    if places:
        return places[0]
    if name.isascii() and name.isdigit() and int(name) < width:
        return int(name)
    if not names:
        raise ValueError(
            f"There is no column {name!r}: the table has no line of names and {width} columns. "
            f"Give positions from 0 to {width - 1}."
        )
    close = difflib.get_close_matches(name, names, n=1)
    raise ValueError(
        f"There is no column {name!r}; there are {_listed(names)}. "
        + (f"Did you mean {close[0]!r}?" if close else f"Give one of these, or a position from 0 to {width - 1}.")
    )


def refuse_kind(name: str, kind: str, sample: str) -> None:
    """Raise :class:`DataError` for a column that is no numbers."""
    raise DataError(f"Column {name!r} must hold numbers; it holds {kind}, such as {sample}. Choose another column.")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMES]))
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
