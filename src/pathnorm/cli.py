"""The command line: ``pathnorm compress`` and ``pathnorm demo``.

Results go to stdout, as a table or as one JSON object; talk, warnings and progress go to stderr. The exit
status is 0 if it went well, 1 if the run failed, 2 for misuse and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pathnorm
from pathnorm.errors import MissingExtraError, PathnormError
from pathnorm.report.folder import new_folder, refuse_existing

if TYPE_CHECKING:
    from pathnorm.deep.images import ImageOptions

__all__ = ["entry", "main"]

Progress = Callable[[str, int, int], None]

SELECTORS = ("backward", "forward", "lasso", "magnitude")


OPTIONAL_FILES = frozenset({"report.html", "model.onnx"})


class Outcome(NamedTuple):
    """What a verb has to say: for people, and for programs."""

    text: str
    data: dict[str, Any]


def entry() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it went well, 1 if it failed, 2 for misuse, 130 after Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what it had to say
        return 0 if stop.code is None else int(stop.code)
    try:
        with _short_warnings():
            outcome: Outcome = arguments.verb(arguments)
        _say(outcome, as_json=arguments.json)
    except KeyboardInterrupt:
        print("pathnorm: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone. Python would complain again when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PathnormError, ValueError, TypeError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"pathnorm: error: {error}", file=sys.stderr)
        # The library's own failures are those of the run; the others are about what was asked for.
        return 1 if isinstance(error, (PathnormError, OSError)) else 2
    return 0


# ------------------------------------------------------------------------------ verbs


def _compress(arguments: argparse.Namespace) -> Outcome:
    compress = pathnorm.compress  # first, because it says which extra is missing
    from pathnorm.deep import sources

    out: Path = arguments.out
    refuse_existing(out, force=arguments.force)
    model = sources.load_model(arguments.factory, arguments.weights)
    data = sources.load_data(arguments.data, images=_image_options(arguments), limit=arguments.samples)
    labels = None
    if arguments.labels is not None:
        if not hasattr(data, "shape"):
            raise ValueError(
                "--labels goes with an array or a folder of images; the data is a DataLoader. "
                "Let its batches be pairs of inputs and labels instead."
            )
        labels = sources.load_labels(arguments.labels, limit=arguments.samples)
    with _progress() as progress:
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
    print(f"pathnorm: written to {out}: {', '.join(files)}", file=sys.stderr)
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
            print(f"pathnorm: no report.html: {error}", file=sys.stderr)
        if onnx:
            result.to_onnx(made / "model.onnx")
        return sorted(path.name for path in made.iterdir())


def _demo(arguments: argparse.Namespace) -> Outcome:
    _ = pathnorm.compress  # says which extra is missing
    from pathnorm.demo.run import run_demo

    refuse_existing(arguments.out, force=arguments.force)
    with _progress() as progress:
        result = run_demo(arguments.out, seed=arguments.seed, force=arguments.force, progress=progress)
    print(f"pathnorm: written to {arguments.out}", file=sys.stderr)
    return Outcome(result.table(), {"verb": "demo", "out": str(arguments.out)} | result.to_dict())


def _image_options(arguments: argparse.Namespace) -> ImageOptions | None:
    from pathnorm.deep.images import ImageOptions

    if arguments.image_size is None and arguments.mean is None and arguments.std is None:
        return None
    channels = len(arguments.mean or arguments.std or (0, 0, 0))
    return ImageOptions(
        size=arguments.image_size,
        mean=arguments.mean or (0.0,) * channels,
        std=arguments.std or (1.0,) * channels,
    )


# ------------------------------------------------------------------------------ output


def _say(outcome: Outcome, *, as_json: bool) -> None:
    print(json.dumps(outcome.data, allow_nan=False) if as_json else outcome.text)
    sys.stdout.flush()


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show warnings as one line on stderr, without the line of code they come from."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(f"pathnorm: {category.__name__}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Give a callback that draws bars on a terminal, and None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ModuleNotFoundError:  # bars are a comfort, not a need
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total, visible=done < total)

        yield report


# ------------------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pathnorm", description="Make a trained network smaller, and say what is known about the result."
    )
    parser.add_argument("--version", action="version", version=f"pathnorm {pathnorm.__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_compress(verbs)
    _add_demo(verbs)
    return parser


def _add_compress(verbs: Any) -> None:
    parser = verbs.add_parser(
        "compress",
        help="make a trained PyTorch network smaller, from unlabelled data, without retraining",
        description="Make a trained PyTorch network smaller, from unlabelled data, without retraining.",
    )
    parser.set_defaults(verb=_compress)
    parser.add_argument("factory", metavar="FACTORY", help="package.module:callable or file.py:callable")
    parser.add_argument(
        "--weights", metavar="W", required=True, help="a safetensors file, or a state dict of torch.save"
    )
    parser.add_argument(
        "--data",
        metavar="D",
        required=True,
        help=".npy or .npz (file.npz:key), folder of images, or package.module:callable giving a DataLoader",
    )
    budget = parser.add_argument_group("budget (one of)").add_mutually_exclusive_group(required=True)
    budget.add_argument("--params", metavar="R", type=_share, help="keep this share of the parameters: 0.5")
    budget.add_argument("--macs", metavar="R", type=_share, help="keep this share of the multiply-accumulates")
    budget.add_argument("--error", metavar="E", type=_positive, help="relative output error to stay below")
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
        "--slide", metavar="N", type=_natural, default=0, help="N local steps in which kept neurons move, per layer"
    )
    parser.add_argument("--skip", metavar="NAME", nargs="+", action="extend", default=[], help="layers to leave alone")
    parser.add_argument("--round-to", metavar="N", type=_count, default=1, help="widths are multiples of N")
    parser.add_argument("--samples", metavar="N", type=_count, help="use the first N samples only")
    parser.add_argument("--batch-size", metavar="B", type=_count, default=128)
    images = parser.add_argument_group("for a folder of images")
    images.add_argument("--image-size", metavar="HxW", type=_size, help="resize to this height and width")
    images.add_argument("--mean", metavar="M,M,M", type=_numbers, help="subtracted after scaling to [0, 1]")
    images.add_argument("--std", metavar="S,S,S", type=_numbers, help="divided by afterwards")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    _add_common(parser)


def _add_demo(verbs: Any) -> None:
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
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", metavar="S", type=_natural, default=0)
    parser.add_argument("--force", action="store_true", help="replace the output folder if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1 is needed, got {text}; half is 0.5")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"a positive number is needed, got {text}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a number is needed, got {text!r}")
    return value


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a whole number is needed, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    value = _natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {text}")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return _count(height), _count(width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"height and width as 224x224 are needed, got {text!r}") from None
