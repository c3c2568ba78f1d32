"""What every experiment has in common: a claim that can fail, numbers, one figure, a verdict.

An experiment is a module with ``run(scale) -> Row`` and ``draw(payload, path)``; its docstring says the claim in the
first line, then where it comes from and what is measured. ``run`` returns the numbers and, under ``"verdict"``, what
was predicted, what was measured, and whether the second is the first. :func:`main` does the rest.
"""

from __future__ import annotations

import argparse
import enum
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._harness import environment, write_json

__all__ = ["OUT", "Row", "Scale", "interval", "main", "slope"]

OUT = Path(__file__).resolve().parent / "results"
Row = dict[str, Any]


class Scale(enum.Enum):
    """How long an experiment may take: seconds, minutes on two cores, or as long as the claim deserves."""

    QUICK = "quick"
    DEFAULT = "default"
    FULL = "full"

    def pick(self, quick: Any, default: Any, full: Any = None) -> Any:
        """Return one of three settings; ``full`` is that of the default if it is None."""
        return {Scale.QUICK: quick, Scale.DEFAULT: default, Scale.FULL: default if full is None else full}[self]


def interval(values: Sequence[float], *, level: float = 0.95) -> list[float]:
    """Mean of independent values and its t interval: ``[mean, low, high]``; with one value all three are it."""
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return [float(found.mean())] * 3
    half = stats.t.ppf(0.5 + level / 2, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return [float(found.mean()), float(found.mean() - half), float(found.mean() + half)]


def slope(x: Sequence[float], y: Any, *, level: float = 0.95) -> list[float]:
    """Least-squares slope of ``log y`` against ``log x`` and its interval: ``[slope, low, high]``.

    ``y`` is (m,) or (seeds, m) with m the length of ``x``. With several seeds each has its slope and the interval is
    that of their mean; with one it is the regression's own.
    """
    u, v = np.log(np.asarray(x, dtype=float)), np.log(np.atleast_2d(np.asarray(y, dtype=float)))
    centred = u - u.mean()
    slopes = v @ centred / (centred @ centred)
    if len(slopes) > 1:
        return interval(slopes.tolist(), level=level)
    value = float(slopes[0])
    left = v[0] - v[0].mean() - value * centred
    spread = np.sqrt(left @ left / max(1, len(u) - 2) / (centred @ centred))
    half = float(stats.t.ppf(0.5 + level / 2, max(1, len(u) - 2)) * spread)
    return [value, value - half, value + half]


def main(
    name: str,
    doc: str,
    run: Callable[[Scale], Row],
    draw: Callable[[Row, Path], None],
    argv: Sequence[str] | None = None,
    *,
    packages: Sequence[str] = ("pathnorm", "numpy", "scipy"),
) -> int:
    """Run an experiment from its command line, write JSON and figure; 0 if the claim holds, 1 if not.

    A quick run is for tests: it writes where ``--out`` says and never over the committed results.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="seconds; too small to say anything, needs --out")
    size.add_argument("--full", action="store_true", help="longer, with more seeds or larger sizes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and figure go (experiments/results)")
    options = parser.parse_args(argv)
    if options.quick and options.out is None:
        parser.error("--quick needs --out DIR, so that it does not replace the committed results")
    scale = Scale.QUICK if options.quick else Scale.FULL if options.full else Scale.DEFAULT
    wall, processor = time.perf_counter(), time.process_time()
    payload = run(scale)
    verdict = payload["verdict"]
    head = {
        "command": f"python -m experiments.{name}" + {Scale.QUICK: " --quick", Scale.FULL: " --full"}.get(scale, ""),
        "claim": doc.strip().partition("\n")[0],
        "verdict": {key: verdict[key] for key in ("holds", "predicted", "measured")} | verdict,
        "scale": scale.value,
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "environment": environment(list(packages), threads=1),
    }
    folder = options.out or OUT
    payload = head | {key: value for key, value in payload.items() if key != "verdict"}
    draw(payload, write_json(name, payload, folder=folder).with_suffix(".png"))
    outcome = "holds" if verdict["holds"] else "DOES NOT HOLD"
    print(f"{name}: {outcome}\n  predicted: {verdict['predicted']}\n  measured:  {verdict['measured']}")
    sys.stdout.flush()
    return 0 if verdict["holds"] else 1
