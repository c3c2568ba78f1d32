"""Arguments that verbs share, and how their texts become values."""

from __future__ import annotations

import argparse
import math

__all__ = ["add_common", "count", "natural", "number", "numbers", "positive", "share", "size"]


def add_common(parser: argparse.ArgumentParser, *, seed: bool = True) -> None:
    """Add what every verb takes; a verb whose seeds are fixed takes none."""
    if seed:
        parser.add_argument("--seed", metavar="S", type=natural, default=0)
    parser.add_argument("--force", action="store_true", help="replace the output folder if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def share(text: str) -> float:
    """A number in (0, 1]."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1 is needed, got {text}; half is 0.5")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"a positive number is needed, got {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a number is needed, got {text!r}")
    return value


def natural(text: str) -> int:
    """A whole number from 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number is needed, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1."""
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {text}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(number(part) for part in text.split(","))


def size(text: str) -> tuple[int, int]:
    """Height and width, as in 224x224."""
    height, _, width = text.lower().partition("x")
    try:
        return count(height), count(width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"height and width as 224x224 are needed, got {text!r}") from None
