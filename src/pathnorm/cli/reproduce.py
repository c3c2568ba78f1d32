"""``pathnorm reproduce``: run the experiments behind the claims of the theory, and say which hold."""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pathnorm
from pathnorm.cli.arguments import add_common
from pathnorm.cli.output import Outcome, talk
from pathnorm.errors import PathnormError
from pathnorm.report.folder import refuse_existing
from pathnorm.report.page import render_page, write_page
from pathnorm.report.table import wrap

__all__ = ["add_reproduce"]

_WIDTH, _STDERR = 100, 2
HOLDS, FAILS, BROKEN = "holds", "DOES NOT HOLD", "not run"


class Experiment(NamedTuple):
    """A module of ``experiments/``: its name and the first line of its docstring."""

    name: str
    claim: str


def add_reproduce(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "reproduce",
        help="run the experiments behind the claims of the theory; without a name, list them",
        description="Run the experiments behind the claims of the theory, each with its numbers, a figure and a "
        "verdict; without a name, list them. The exit status is 0 if all claims hold and 1 if one does not.",
    )
    parser.set_defaults(verb=_reproduce)
    parser.add_argument("names", metavar="NAME", nargs="*", help="experiments, see the list")
    parser.add_argument("--all", action="store_true", help="every experiment, one after the other")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="seconds each; too small for the verdicts to mean anything")
    size.add_argument("--full", action="store_true", help="longer, with more seeds or larger sizes")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("pathnorm-reproduce"),
        help="folder to write (pathnorm-reproduce)",
    )
    add_common(parser, seed=False)


def _reproduce(arguments: argparse.Namespace) -> Outcome:
    root = _root()
    known = {item.name: item for item in _experiments(root)}
    if arguments.all and arguments.names:
        raise ValueError("--all runs every experiment. Give names or --all, not both.")
    if not arguments.all and not arguments.names:
        return _listing(tuple(known.values()))
    names = tuple(known) if arguments.all else tuple(dict.fromkeys(arguments.names))
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"Experiments must be among these: {', '.join(known)}. Got {', '.join(unknown)}.")
    out = arguments.out.resolve()
    refuse_existing(out, force=arguments.force)
    out.mkdir(parents=True, exist_ok=True)
    size = ["--quick"] if arguments.quick else ["--full"] if arguments.full else []
    rows = []
    for place, name in enumerate(names, 1):
        talk(f"{name} ({place} of {len(names)}): {known[name].claim}")
        rows.append(_run(root, known[name], out, size))
    held = sum(row["outcome"] == HOLDS for row in rows)
    summary = f"{held} of {len(rows)} hold"
    if arguments.quick:
        summary += ", at sizes too small to say anything of the claims"
    _page(rows, summary, out)
    talk(f"written to {arguments.out}: JSON and figure of each, index.html")
    data = {"verb": "reproduce", "out": str(arguments.out), "holding": held, "experiments": rows}
    return Outcome("\n".join([*_lines(rows), "", summary]), data, status=0 if held == len(rows) else 1)


def _root() -> Path:
    """Return the folder that ``experiments`` lies in: in the wheel, or beside ``src`` in a checkout."""
    package = Path(pathnorm.__file__).resolve().parent
    for root in (package / "_reproduce", package.parents[1]):
        if (root / "experiments" / "_claim.py").is_file():
            return root
    raise PathnormError(
        "The experiments must lie beside the package. None were found at "
        f"{package / '_reproduce'} or {package.parents[1]}. Install a wheel of pathnorm, or run from a checkout."
    )


def _experiments(root: Path) -> Iterator[Experiment]:
    """Read names and claims without running anything."""
    for path in sorted((root / "experiments").glob("[a-z]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield Experiment(path.stem, doc.partition("\n")[0].replace("``", ""))


def _run(root: Path, item: Experiment, out: Path, size: Sequence[str]) -> dict[str, Any]:
    """Run one in a process of its own, so that none depends on what ran before; it talks to stderr."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    # Small problems: several threads of BLAS only wait for each other.
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment
    # -P: a folder of the same name where the user stands is not what is meant.
    command = [sys.executable, "-P", "-m", f"experiments.{item.name}", "--out", str(out), *size]
    path = out / f"{item.name}.json"
    before = _stamp(path)
    done = subprocess.run(command, env=environment, stdout=_STDERR, check=False)
    row: dict[str, Any] = {"name": item.name, "claim": item.claim}
    if done.returncode not in (0, 1) or not path.exists() or _stamp(path) == before:
        return row | {"outcome": BROKEN, "predicted": "", "measured": f"it ended with status {done.returncode}"}
    found = json.loads(path.read_text(encoding="utf-8"))
    verdict = found["verdict"]
    return row | {
        "outcome": HOLDS if verdict["holds"] else FAILS,
        "predicted": verdict["predicted"],
        "measured": verdict["measured"],
        "seconds": found.get("seconds"),
    }


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _listing(known: Sequence[Experiment]) -> Outcome:
    width = max(len(item.name) for item in known)
    lines = []
    for item in known:
        lines += wrap(item.claim, width=_WIDTH, indent=f"{item.name:{width}}  ", hang=" " * (width + 2))
    lines += ["", "Run some with: pathnorm reproduce NAME ... --out DIR, or all with --all."]
    return Outcome("\n".join(lines), {"verb": "reproduce", "experiments": [item._asdict() for item in known]})


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        seconds = f"  {row['seconds']:.0f} s" if row.get("seconds") is not None else ""
        lines.append(f"{row['name']}: {row['outcome']}{seconds}")
        for key in ("predicted", "measured"):
            if row[key]:
                lines += wrap(row[key], width=_WIDTH, indent=f"  {key + ':':11}", hang=" " * 13)
    return lines


def _page(rows: Sequence[dict[str, Any]], summary: str, out: Path) -> None:
    """Write a page of verdicts and figures."""
    shown = [row | {"figure": (out / f"{row['name']}.png").exists()} for row in rows]
    values = {"rows": shown, "summary": summary, "version": pathnorm.__version__}
    write_page(out / "index.html", render_page("experiments.html", values))
