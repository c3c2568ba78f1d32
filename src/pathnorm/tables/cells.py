"""One cell of text at a time: what it is, and its value. The slow way, for the head of a table and for odd cells."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Literal

__all__ = ["MISSING", "TIME_UNIT", "Kind", "kind_of_cell", "number", "seconds"]

Kind = Literal["missing", "number", "time", "text"]

TIME_UNIT = "seconds since 1970-01-01 UTC"

MISSING = frozenset(
    "|NA|N/A|n/a|#N/A|#N/A N/A|#NA|na|NaN|nan|-nan|-NaN|NULL|null|None|NaT|1.#IND|-1.#IND|1.#QNAN|-1.#QNAN".split("|")
)

# float() also takes 1_000, and fromisoformat() also takes 20200131.
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?inf(inity)?\s*", re.IGNORECASE)
_DATE = re.compile(r"\s*\d{4}-\d\d-\d\d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def kind_of_cell(cell: str, decimal: str) -> Kind:
    """Say what a cell holds."""
    if cell.strip() in MISSING:
        return "missing"
    if number(cell, decimal) is not None:
        return "number"
    return "text" if seconds(cell) is None else "time"


def number(cell: str, decimal: str) -> float | None:
    """Value of a cell, NaN where it is missing, None where it is not a number."""
    if cell.strip() in MISSING:
        return math.nan
    text = cell if decimal == "." else cell.replace(decimal, ".")
    return float(text) if _NUMBER.fullmatch(text) else None


def seconds(cell: str) -> float | None:
    """Seconds since 1970 of an ISO date, NaN where it is missing, None where it is none. Without a zone it is UTC."""
    if cell.strip() in MISSING:
        return math.nan
    if not _DATE.match(cell):
        return None
    try:
        time = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
