"""``pathnorm compress``: make a trained network smaller."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pathnorm
from pathnorm.cli.arguments import add_common, count, natural, positive, share
from pathnorm.cli.model_arguments import add_model, add_reading, read_data, read_model
from pathnorm.cli.output import Outcome, progress_bars, talk
from pathnorm.errors import MissingExtraError
from pathnorm.report.folder import new_folder, refuse_existing

__all__ = ["add_compress"]

SELECTORS = ("backward", "forward", "lasso", "magnitude")

OPTIONAL_FILES = frozenset({"report.html", "model.onnx"})


def add_compress(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "compress",
        help="make a trained PyTorch network smaller, from unlabelled data, without retraining",
        description="Make a trained PyTorch network smaller, from unlabelled data, without retraining.",
    )
    parser.set_defaults(verb=_compress)
    add_model(parser)
    budget = parser.add_argument_group("budget (one of)").add_mutually_exclusive_group(required=True)
    budget.add_argument("--params", metavar="R", type=share, help="keep this share of the parameters: 0.5")
    budget.add_argument("--macs", metavar="R", type=share, help="keep this share of the multiply-accumulates")
    budget.add_argument("--error", metavar="E", type=positive, help="relative output error to stay below")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    parser.add_argument("--labels", metavar="L", help=".npy or .npz array of labels, for the report only")
    parser.add_argument("--selector", choices=SELECTORS, default="backward", help="how neurons are chosen")
    parser.add_argument(
        "--outputs",
        choices=("values", "logits"),
        default="values",
        help="what the network's outputs are: decides which errors matter",
    )
    parser.add_argument(
        "--slide", metavar="N", type=natural, default=0, help="N local steps in which kept neurons move, per layer"
    )
    parser.add_argument("--round-to", metavar="N", type=count, default=1, help="widths are multiples of N")
    add_reading(parser)
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    add_common(parser)


def _compress(arguments: argparse.Namespace) -> Outcome:
    compress = pathnorm.compress  # first, because it says which extra is missing
    from pathnorm.deep import sources

    out: Path = arguments.out
    refuse_existing(out, force=arguments.force)
    model = read_model(arguments)
    data = read_data(arguments)
    labels = None
    if arguments.labels is not None:
        if not hasattr(data, "shape"):
            raise ValueError(
                "--labels goes with an array or a folder of images; the data is a DataLoader. "
                "Let its batches be pairs of inputs and labels instead."
            )
        labels = sources.load_labels(arguments.labels, limit=arguments.samples)
    with progress_bars() as progress:
        result = compress(
            model,
            data,
            params=arguments.params,
            macs=arguments.macs,
            error=arguments.error,
            selector=arguments.selector,
            skip=tuple(arguments.skip),
            seed=arguments.seed,
            labels=labels,
            round_to=arguments.round_to,
            outputs=arguments.outputs,
            slide=arguments.slide,
            batch_size=arguments.batch_size,
            progress=progress,
        )
    files = _write(result, out, onnx=arguments.onnx, force=arguments.force)
    talk(f"written to {out}: {', '.join(files)}")
    report = {"verb": "compress", "out": str(out), "files": files, "record": result.record.to_dict()}
    return Outcome(str(result.record), report)


def _write(result: Any, out: Path, *, onnx: bool, force: bool) -> list[str]:
    """Write the folder and return the names of its files."""
    # A file that an earlier run left and this one does not make would belong to another model.
    with new_folder(out, force=force, stale=OPTIONAL_FILES) as made:
        result.save(made)
        try:
            result.record.to_html(made / "report.html")
        except MissingExtraError as error:
            talk(f"no report.html: {error}")
        if onnx:
            result.to_onnx(made / "model.onnx")
        return sorted(path.name for path in made.iterdir())
