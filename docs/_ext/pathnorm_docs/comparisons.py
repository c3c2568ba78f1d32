"""What was aimed at and what was reached, from the JSON of the benchmarks: aims that were missed come first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathnorm_docs.gallery import experiments
from pathnorm_docs.words import REPOSITORY, escaped, table

__all__ = ["Aim", "aims", "claims", "page", "without_aims"]


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim of one benchmark; ``met`` is None where not every case has been run."""

    benchmark: str
    text: str
    measured: str
    met: bool | None
    remark: str


def aims(folder: Path = REPOSITORY / "benchmarks" / "results") -> list[Aim]:
    """Every aim that a benchmark has written down, in the order of the files."""
    found = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            found += [_aim(path.stem, row) for row in data.get("aims", ())]
    return found


def without_aims(folder: Path = REPOSITORY / "benchmarks" / "results") -> list[str]:
    """Benchmarks that compare but have not written down what they aim at."""
    return sorted({path.stem for path in folder.glob("*.json")} - {aim.benchmark for aim in aims(folder)})


def _aim(benchmark: str, row: dict[str, Any]) -> Aim:
    if "aim" in row:
        return Aim(benchmark, str(row["aim"]), _number(row.get("measured")), row.get("met"), str(row.get("note", "")))
    # Of the transformers: our loss or accuracy at one point against that of the nearest peer.
    text = f"{row['network']}, {row['point']}: better {row['measure']} than every peer"
    ahead, peer = _number(row.get("ahead_by")), str(row.get("nearest_peer", ""))
    return Aim(benchmark, text, f"ahead by {ahead}", row.get("met"), f"nearest: {peer}" if peer else "")


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "not run"


def page() -> str:
    """How many aims were met, then those that were not, then those not fully run, then those that were."""
    found = aims()
    rows = []
    for name in dict.fromkeys(aim.benchmark for aim in found):
        mine = [aim.met for aim in found if aim.benchmark == name]
        rows.append([f"`benchmarks.{name}`", *(str(mine.count(state)) for state in (True, False, None))])
    every = [aim.met for aim in found]
    rows.append(["all", *(f"**{every.count(state)}**" for state in (True, False, None))])
    parts = [table(["benchmark", "met", "missed", "not fully run"], rows)]
    if rest := without_aims():
        parts.append(f"Without an aim of their own: {', '.join(f'`{name}`' for name in rest)}.")
    for title, state in (("Aims that were missed", False), ("Not fully run", None), ("Aims that were met", True)):
        parts += [f"## {title}", _listed([aim for aim in found if aim.met is state])]
    return "\n\n".join(parts)


def _listed(found: list[Aim]) -> str:
    if not found:
        return "None."
    rows = [[f"`{aim.benchmark}`", escaped(aim.text), escaped(aim.measured), escaped(aim.remark)] for aim in found]
    return table(["benchmark", "aim", "measured", "remark"], rows)


def claims() -> str:
    """The claims of the theory that did not come out as predicted, and how many did."""
    judged = [each for each in experiments() if each.holds is not None]
    held = sum(bool(each.holds) for each in judged)
    rows = [[each.name, escaped(each.predicted), escaped(each.measured)] for each in judged if not each.holds]
    head = f"{held} of {len(judged)} claims hold as predicted. Those that do not:"
    return f"{head}\n\n{table(['experiment', 'predicted', 'measured'], rows)}" if rows else head
