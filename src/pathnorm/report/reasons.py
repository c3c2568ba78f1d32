"""Lines of text that say why: one per reason, not per layer, as fifty layers usually share three reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pathnorm.report.records import SkippedGroup
from pathnorm.report.table import wrap

__all__ = ["few", "skipped_lines", "theorem_lines"]

# A terminal shows so many; the page and the record have them all.
MOST_REASONS = 8


class Judged(Protocol):
    """A layer that the theorem on layer widths covers or not."""

    @property
    def name(self) -> str: ...
    @property
    def theorem_applies(self) -> bool: ...
    @property
    def theorem_reason(self) -> str: ...


def theorem_lines(groups: Sequence[Judged], *, width: int) -> list[str]:
    """Return which layers the theorem covers, and why or why not."""
    lines = ["the theorem on layer widths"]
    for verdict, applies in (("applies", True), ("does not apply", False)):
        by_reason: dict[str, list[str]] = {}
        for group in groups:
            if group.theorem_applies is applies:
                by_reason.setdefault(group.theorem_reason, []).append(group.name)
        for reason, names in list(by_reason.items())[:MOST_REASONS]:
            lines += wrap(f"{verdict}: {reason} ({few(names)})", width=width, indent="  ", hang="    ")
        rest = list(by_reason.values())[MOST_REASONS:]
        if rest:
            lines.append(f"  {verdict}: {sum(map(len, rest))} layers more, each with its reason in the record")
    return lines


def skipped_lines(skipped: Sequence[SkippedGroup], *, width: int) -> list[str]:
    """Return which neurons were left alone, and why."""
    by_reason: dict[str, list[str]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason, []).append(f"{item.name} [{item.width}]")
    lines = []
    for reason, names in by_reason.items():
        lines += wrap(f"{few(names)}: {reason}", width=width, indent="  ", hang="    ")
    return lines


def few(names: Sequence[str], *, most: int = 8) -> str:
    """Join names, and count those beyond ``most``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
