"""How a number is written, and the sentence that sums up a compression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathnorm.report.records import CompressionRecord

__all__ = [
    "MISSING",
    "byte_size",
    "count",
    "decimal",
    "percent",
    "percent_interval",
    "points",
    "points_interval",
    "ratio",
    "summary",
    "tiny",
]

MISSING = "n/a"


def count(value: int) -> str:
    """Write an integer with separators: ``113,994``."""
    return f"{value:,}"


def decimal(value: float | None, *, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, without an exponent where it fits."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    # Rounding first: 9.996 has three significant digits as 10.0, not as 10.00.
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent >= 6 or exponent < -4:
        return f"{value:.{max(digits - 2, 0)}e}"
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}"


def tiny(value: float | None) -> str:
    """Write a relative gap, which spans many orders of magnitude: ``3e-08``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "0" if value == 0 else f"{value:.0e}"


def percent(value: float | None, *, digits: int = 1) -> str:
    """Write a share as a percentage: ``49.9 %``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:.{digits}f} %"


def percent_interval(interval: tuple[float, float] | None, *, digits: int = 1) -> str:
    """Write an interval of shares as percentages: ``3.1 to 3.7 %``."""
    if interval is None or not all(math.isfinite(end) for end in interval):
        return MISSING
    low, high = (f"{100 * end:.{digits}f}" for end in interval)
    return f"{low} to {high} %"


def points_interval(interval: tuple[float, float] | None) -> str:
    """Write an interval of changes of accuracy: ``-0.8 to +0.4 points``."""
    if interval is None or not all(math.isfinite(end) for end in interval):
        return MISSING
    low, high = map(_signed, interval)
    return f"{low} to {high} points"


def _signed(change: float) -> str:
    """Write a change of a share in percentage points; one that rounds to zero has no sign."""
    return "0.0" if abs(100 * change) < 0.05 else f"{100 * change:+.1f}"


def points(before: float | None, after: float | None) -> str:
    """Write a change of accuracy in percentage points: ``-0.2 points``."""
    if before is None or after is None or not math.isfinite(after - before):
        return MISSING
    return f"{_signed(after - before)} points"


def ratio(before: float, after: float) -> str:
    """Write what is left: ``49.9 %``."""
    return percent(after / before) if before > 0 else MISSING


def byte_size(value: int) -> str:
    """Write a file size: ``456 kB``."""
    size = float(value)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{decimal(size)} {unit}"
        size /= 1000
    return f"{decimal(size)} GB"


def summary(record: CompressionRecord) -> str:
    """Return one plain sentence: what is left, and what it costs on held-out samples."""
    parts = (
        f"The network keeps {ratio(record.params_before, record.params_after)} of its parameters "
        f"({count(record.params_before)} to {count(record.params_after)}) and "
        f"{ratio(record.macs_before, record.macs_after)} of its multiply-accumulates"
    )
    held = f"on {count(record.samples_heldout)} held-out samples"
    cost = f"its outputs differ by {percent(record.output_error_heldout)}"
    interval = percent_interval(record.output_error_interval)
    if interval != MISSING:
        cost += f" (95 % interval {interval})"
    if record.accuracy_before is not None and record.accuracy_after is not None:
        cost += f", and accuracy goes from {percent(record.accuracy_before)} to {percent(record.accuracy_after)}"
    elif record.agreement_heldout is not None:
        cost += f", and it gives the same answer on {percent(record.agreement_heldout)} of them"
    return f"{parts}; {held} {cost}."
