"""What the benchmarks share: where data lies, what ran them, how a result is kept and shown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "data_root", "environment", "print_table", "spread", "wilson", "write_json"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def data_root() -> Path:
    """Return the folder with the real data: ``PATHNORM_DATA``, else ``../shared/data``."""
    root = Path(os.environ.get("PATHNORM_DATA") or ROOT.parent / "shared" / "data")
    if not root.is_dir():
        raise FileNotFoundError(
            f"The benchmark data must lie in a folder. {root} is none. Set PATHNORM_DATA to the folder that holds it."
        )
    return root


def environment(packages: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Return what the numbers depend on besides the code: versions, processor, threads."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "versions": {name: metadata.version(name) for name in packages},
    }


def write_json(name: str, payload: dict[str, Any], *, folder: Path = RESULTS) -> Path:
    """Write ``folder/name.json`` in one step, so that a killed run leaves the old result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(payload, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def spread(values: Iterable[float], *, digits: int = 4) -> dict[str, float]:
    """Return mean, smallest and largest of some numbers."""
    found = list(values)
    return {
        "mean": round(sum(found) / len(found), digits),
        "min": round(min(found), digits),
        "max": round(max(found), digits),
    }


def wilson(share: float, count: int) -> list[float]:
    """Return Wilson's 95 % interval of a binomial share."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return [middle - half, middle + half]


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in plain text; the first column to the left, the others to the right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for number, row in enumerate(table):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
