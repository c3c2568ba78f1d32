"""``pathnorm compress``: make a trained network smaller."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import pathnorm
from pathnorm.cli.arguments import add_common, count, natural, number, positive, share
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
    budget.add_argument(
        "--accuracy-drop",
        metavar="P",
        type=_points,
        help="percentage points that the accuracy on half of the held-out samples may fall by; needs labels",
    )
    budget.add_argument(
        "--latency-ms", metavar="T", type=positive, help="longest median time of a batch on this machine"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and the memory and passes it needs, and stop"
    )
    parser.add_argument(
        "--labels", metavar="L", help=".npy or .npz array of labels, for the report and --accuracy-drop only"
    )
    parser.add_argument(
        "--latency-batch", metavar="N", type=count, default=1, help="samples per batch for --latency-ms (1)"
    )
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
    parser.add_argument("--streams", action="store_true", help="remove channels of residual streams as well")
    parser.add_argument(
        "--attention", choices=("heads", "values"), default="heads", help="what is removed from attention"
    )
    parser.add_argument("--uniform", action="store_true", help="give the same layers of all blocks the same width")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument(
        "--edge", action="store_true", help="also write edge/: both networks as ONNX in fp32 and int8, measured"
    )
    add_common(parser)


def _points(text: str) -> float:
    """Percentage points from 0."""
    value = number(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"percentage points between 0 and 100 are needed, got {text}")
    return value


def _compress(arguments: argparse.Namespace) -> Outcome:
    compress = pathnorm.compress  # first, because it says which extra is missing
    from pathnorm.deep.edge import require_onnxruntime

    out: Path = arguments.out
    if arguments.dry_run:
        return _plan(arguments)
    refuse_existing(out, force=arguments.force)
    if arguments.edge:
        require_onnxruntime()
    model = read_model(arguments)
    data = read_data(arguments)
    labels = _labels(arguments, data)
    with progress_bars() as progress:
        result = compress(
            model,
            data,
            params=arguments.params,
            macs=arguments.macs,
            error=arguments.error,
            accuracy_drop=arguments.accuracy_drop,
            latency_ms=arguments.latency_ms,
            selector=arguments.selector,
            skip=tuple(arguments.skip),
            streams=arguments.streams,
            uniform=arguments.uniform,
            attention=arguments.attention,
            seed=arguments.seed,
            labels=labels,
            round_to=arguments.round_to,
            outputs=arguments.outputs,
            slide=arguments.slide,
            batch_size=arguments.batch_size,
            latency_batch=arguments.latency_batch,
            progress=progress,
            on_plan=lambda plan: talk(f"plan: {plan.line()}"),
        )
    files = _write(result, out, onnx=arguments.onnx, force=arguments.force)
    report = {"verb": "compress", "out": str(out), "files": files, "record": result.record.to_dict()}
    text = str(result.record)
    _forget(out / "edge")
    if arguments.edge:
        edge = result.edge(out / "edge", data, batch_size=arguments.batch_size, force=arguments.force)
        files.append("edge")
        report["edge"] = edge.to_dict()
        text += f"\n\n{edge}"
    talk(f"written to {out}: {', '.join(files)}")
    return Outcome(text, report)


def _plan(arguments: argparse.Namespace) -> Outcome:
    """Say what would be done."""
    from pathnorm.deep.plan import plan

    found = plan(
        read_model(arguments),
        read_data(arguments),
        skip=tuple(arguments.skip),
        streams=arguments.streams,
        uniform=arguments.uniform,
        attention=arguments.attention,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    return Outcome(str(found), {"verb": "compress", "plan": found.to_dict()})


def _labels(arguments: argparse.Namespace, data: Any) -> Any:
    """Return the labels, if a file of them is given."""
    from pathnorm.deep import sources

    if arguments.labels is None:
        return None
    if not hasattr(data, "shape"):
        raise ValueError(
            "--labels goes with an array or a folder of images; the data is a DataLoader. "
            "Let its batches be pairs of inputs and labels instead."
        )
    return sources.load_labels(arguments.labels, limit=arguments.samples)


def _forget(edge: Path) -> None:
    """Remove what an earlier run exported of another model."""
    from pathnorm.deep.edge import EDGE_FILES

    if edge.is_dir():
        for name in EDGE_FILES:
            (edge / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            edge.rmdir()  # unless something else is in it


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
