"""``pathnorm demo``: train, compress, compare and verify on handwritten digits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pathnorm
from pathnorm.cli.arguments import add_common
from pathnorm.cli.output import Outcome, progress_bars, talk
from pathnorm.report.folder import refuse_existing

__all__ = ["add_demo"]


def add_demo(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "demo",
        help="train, compress, compare and verify a small network on handwritten digits",
        description="Train, compress, compare and verify a small network on handwritten digits.",
    )
    parser.set_defaults(verb=_demo)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("pathnorm-demo"),
        help="folder to write (pathnorm-demo)",
    )
    add_common(parser)


def _demo(arguments: argparse.Namespace) -> Outcome:
    _ = pathnorm.compress  # says which extra is missing
    from pathnorm.demo.run import run_demo

    refuse_existing(arguments.out, force=arguments.force)
    with progress_bars() as progress:
        result = run_demo(arguments.out, seed=arguments.seed, force=arguments.force, progress=progress)
    talk(f"written to {arguments.out}")
    return Outcome(result.table(), {"verb": "demo", "out": str(arguments.out)} | result.to_dict())
