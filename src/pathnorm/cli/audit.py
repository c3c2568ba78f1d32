"""``pathnorm audit``: say what a trained network needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pathnorm
from pathnorm.cli.arguments import add_common, count, natural
from pathnorm.cli.model_arguments import add_model, add_reading, read_data, read_model
from pathnorm.cli.output import Outcome, progress_bars, talk, write_record
from pathnorm.report.folder import refuse_existing

__all__ = ["add_audit"]


def add_audit(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "audit",
        help="say which neurons of a trained PyTorch network are needed, and what is proved about it",
        description="Say which neurons of a trained PyTorch network are needed, and what is proved about it.",
    )
    parser.set_defaults(verb=_audit)
    add_model(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write report.html and record.json to")
    parser.add_argument("--biases", action="store_true", help="biases are part of the input weights")
    positions = parser.add_mutually_exclusive_group()
    positions.add_argument(
        "--max-positions", metavar="N", type=count, default=64, help="output positions of a convolution per batch (64)"
    )
    positions.add_argument("--all-positions", action="store_true", help="use all of them")
    parser.add_argument(
        "--attack-samples", metavar="N", type=natural, default=16, help="samples to attack, 0 for none (16)"
    )
    add_reading(parser)
    add_common(parser)


def _audit(arguments: argparse.Namespace) -> Outcome:
    audit = pathnorm.audit  # first, because it says which extra is missing
    out: Path | None = arguments.out
    if out is not None:
        refuse_existing(out, force=arguments.force)
    model = read_model(arguments)
    data = read_data(arguments)
    with progress_bars() as progress:
        record = audit(
            model,
            data,
            biases=arguments.biases,
            skip=tuple(arguments.skip),
            max_positions=None if arguments.all_positions else arguments.max_positions,
            batch_size=arguments.batch_size,
            attack_samples=arguments.attack_samples,
            seed=arguments.seed,
            progress=progress,
        )
    report: dict[str, Any] = {"verb": "audit"}
    if out is not None:
        files = write_record(record, out, force=arguments.force)
        talk(f"written to {out}: {', '.join(files)}")
        report |= {"out": str(out), "files": files}
    return Outcome(str(record), report | {"record": record.to_dict()})
