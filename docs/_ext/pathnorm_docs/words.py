"""Texts that are made elsewhere, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["REPOSITORY", "escaped", "table"]

REPOSITORY = Path(__file__).resolve().parents[3]

_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def escaped(text: str) -> str:
    """Return a plain text as Markdown that shows it; what stands between backticks stays code."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(
        f"`{part.strip('`')}`" if k % 2 else re.sub(r"([\\*_\[\]<>#|$~{}^])", r"\\\1", part)
        for k, part in enumerate(parts)
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)
