"""``pathnorm fit --target``: a certified ReLU network for a table with many columns."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnorm.cli.arguments import count, natural, number
from pathnorm.cli.output import Outcome, Progress, progress_bars, stage, talk
from pathnorm.errors import MissingExtraError
from pathnorm.report.folder import new_folder, refuse_existing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pathnorm.estimators.describe_table import HeldOut
    from pathnorm.estimators.table_fit import TableFit, TableOptions
    from pathnorm.report.network import NetworkRecord
    from pathnorm.tables import Column, Frame

__all__ = ["LOSSES", "OPTIONAL_FILES", "add_table_options", "fit_columns", "given_options"]

LOSSES = ("squared", "huber", "absolute", "quantile", "poisson", "logistic", "squared_hinge")
OPTIONAL_FILES = frozenset({"report.html", "path.csv"})

_TEST_SIZE, _FOLDS = 0.2, 5

# Options of this form alone, by the name that argparse gives them; None is "not given".
_OWN = (
    "task",
    "features",
    "drop",
    "id",
    "categorical",
    "numeric",
    "interactions",
    "affine",
    "relaxed",
    "max_neurons",
    "test_size",
    "folds",
    "jobs",
)


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with ``--target``."""
    many = parser.add_argument_group("many columns")
    many.add_argument("--target", metavar="NAME", help="column to predict from the others")
    many.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        help="auto: classes for text, booleans, and whole numbers with at most ten different values",
    )
    many.add_argument("--features", metavar="NAMES", type=_names, help="a,b,c; without it all columns")
    many.add_argument("--drop", metavar="NAMES", type=_names, help="columns to leave out")
    many.add_argument("--id", metavar="NAME", help="column that names rows in predictions.csv and is no feature")
    many.add_argument("--categorical", metavar="NAMES", type=_names, help="columns to take as text")
    many.add_argument("--numeric", metavar="NAMES", type=_names, help="columns of numbers; other cells are missing")
    many.add_argument("--interactions", type=int, choices=(1, 2), help="neurons see at most that many features")
    many.add_argument("--affine", choices=("free", "ridge", "none"), help="penalty of the affine part")
    many.add_argument("--relaxed", action="store_true", default=None, help="refit output weights without penalty")
    many.add_argument("--max-neurons", metavar="K", type=natural, help="at most K neurons")
    many.add_argument("--test-size", metavar="R", type=_part, help=f"share of the rows to hold out ({_TEST_SIZE:g})")
    many.add_argument("--folds", metavar="F", type=_folds, help=f"of the cross-validation that chooses lam ({_FOLDS})")
    many.add_argument("--jobs", metavar="N", type=count, help="folds at a time (1)")


def given_options(arguments: argparse.Namespace) -> list[str]:
    """Options of this form that were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in _OWN if getattr(arguments, name) is not None]


def fit_columns(arguments: argparse.Namespace) -> Outcome:
    """Run the verb."""
    _refuse_misfits(arguments)
    out: Path | None = arguments.out
    if out is not None:
        refuse_existing(out, force=arguments.force)
    started = time.perf_counter()
    options = _options(arguments)
    with progress_bars() as progress:
        frame = _read(arguments, progress)
        columns, target, weight, names = _chosen(arguments, frame)
        fit, record, held = _fitted((columns, target, weight), options, (frame.rows, started), progress)
        for remark in _remarks(frame, fit, record):
            talk(remark)
        files: list[str] = []
        if out is not None:
            with stage(progress, "report"):
                files = _write((fit, record, held), names, out, force=arguments.force)
    if out is not None:
        talk(f"written to {out}: {', '.join(files)}")
    data = {"verb": "fit", "out": None if out is None else str(out), "files": files, "record": record.to_dict()}
    return Outcome(str(record), data)


def _refuse_misfits(arguments: argparse.Namespace) -> None:
    """Refuse options that would have no effect, before any work."""
    given = arguments.lam is not None and arguments.lam != "cv"
    loss = f"--loss {arguments.loss}" if arguments.loss else "no --loss"
    pairs = (
        (arguments.delta is not None, "--delta", arguments.loss == "huber", "--loss huber", loss),
        (arguments.quantile is not None, "--quantile", arguments.loss == "quantile", "--loss quantile", loss),
        (arguments.one_se, "--one-se", not given, "--lam cv", f"--lam {arguments.lam}"),
        (arguments.folds is not None, "--folds", not given, "--lam cv", f"--lam {arguments.lam}"),
        (arguments.jobs is not None, "--jobs", not given, "--lam cv", f"--lam {arguments.lam}"),
    )
    for is_given, option, fits, needed, received in pairs:
        if is_given and not fits:
            raise ValueError(f"{option} goes with {needed}; got {received}. Leave one of them out.")
    if given and not arguments.lam > 0.0:
        raise ValueError(f"--lam must be > 0 for a network; got {arguments.lam:g}. Take a small number instead.")
    regression = arguments.loss in ("squared", "huber", "absolute", "quantile", "poisson")
    if arguments.loss and arguments.task == ("classification" if regression else "regression"):
        raise ValueError(
            f"--loss {arguments.loss} does not go with --task {arguments.task}. Leave one of them out, or change it."
        )


def _options(arguments: argparse.Namespace) -> TableOptions:
    from pathnorm.estimators.table_fit import TableOptions

    return TableOptions(
        task=arguments.task or "auto",
        lam=arguments.lam if isinstance(arguments.lam, float) else None,
        one_standard_error=arguments.one_se,
        loss=arguments.loss,
        delta=1.0 if arguments.delta is None else arguments.delta,
        quantile=0.5 if arguments.quantile is None else arguments.quantile,
        interactions=arguments.interactions,
        affine=arguments.affine,
        relaxed=bool(arguments.relaxed),
        max_neurons=arguments.max_neurons,
        test_size=_TEST_SIZE if arguments.test_size is None else arguments.test_size,
        folds=_FOLDS if arguments.folds is None else arguments.folds,
        jobs=arguments.jobs,
        seed=arguments.seed,
    )


# ------------------------------------------------------------------------------ columns


def _read(arguments: argparse.Namespace, progress: Progress | None) -> Frame:
    from pathnorm.tables import read_frame

    return read_frame(
        sys.stdin.buffer if arguments.table == "-" else arguments.table,
        delimiter=arguments.delimiter,
        header=arguments.header,
        categorical=arguments.categorical or (),
        numeric=arguments.numeric or (),
        progress=progress,
    )


def _chosen(arguments: argparse.Namespace, frame: Frame) -> tuple[list[Column], Column, Column | None, Column | None]:
    """Features, target, weights, and names of rows."""
    single = {
        role: frame.place(name)
        for role, name in (("--target", arguments.target), ("--weight", arguments.weight), ("--id", arguments.id))
        if name is not None
    }
    dropped = {frame.place(name) for name in arguments.drop or ()}
    roles: dict[int, str] = dict.fromkeys(dropped, "--drop")
    for role, place in single.items():
        if place in roles:
            raise ValueError(
                f"A column has one part to play; {frame.names[place]!r} is given to {roles[place]} and {role}. "
                "Leave one of them out."
            )
        roles[place] = role
    if arguments.features is None:
        places = [place for place in range(len(frame.columns)) if place not in roles]
    else:
        places = list(dict.fromkeys(frame.place(name) for name in arguments.features))
        for place in places:
            if place in roles:
                raise ValueError(
                    f"A column has one part to play; {frame.names[place]!r} is given to --features and {roles[place]}. "
                    "Leave one of them out."
                )
    if not places:
        raise ValueError("At least one column besides the target is needed as a feature; there is none. Name some.")
    columns = [frame.columns[place] for place in places]
    target, weight, names = (
        frame.columns[single[role]] if role in single else None for role in ("--target", "--weight", "--id")
    )
    assert target is not None
    return columns, target, weight, names


def _fitted(
    chosen: tuple[list[Column], Column, Column | None],
    options: TableOptions,
    origin: tuple[int, float],
    progress: Progress | None,
) -> tuple[TableFit, NetworkRecord, HeldOut]:
    from pathnorm.estimators.describe_table import describe_table, held_out
    from pathnorm.estimators.table_fit import fit_table

    columns, target, weight = chosen
    fit = fit_table(columns, target, weight=weight, options=options, progress=progress)
    with stage(progress, "scores"):
        held = held_out(fit)
        record = describe_table(
            fit,
            held,
            columns=columns,
            options=options,
            rows=origin[0],
            weight_name=None if weight is None else weight.name,
            started=origin[1],
        )
    return fit, record, held


def _remarks(frame: Frame, fit: TableFit, record: NetworkRecord) -> list[str]:
    """What was guessed, left out or filled in."""
    out = [*frame.remarks]
    out.append(f"{record.task}: {record.task_rule}")
    for kind, words in (("text", "text"), ("boolean", "booleans"), ("time", "dates, in seconds since 1970-01-01 UTC")):
        names = [repr(column.name) for column in record.columns if column.kind == kind and not column.left_out]
        if names:
            out.append(f"taken as {words}: {_listed(names)}")
    out += [f"{column.name!r} is left out: {column.left_out}" for column in record.columns if column.left_out]
    if record.rows_without_target:
        out.append(f"{record.rows_without_target:,} of {record.rows:,} rows have no target and are left out")
    filled = [f"{column.n_missing:,} in {column.name!r}" for column in record.columns if column.n_missing]
    if filled:
        out.append(f"missing values: {_listed(filled)}; filled with medians, or a category of their own")
    out += [
        f"{rows:,} of the rows held out {'has' if rows == 1 else 'have'} a value of {name!r} that no training row has"
        for name, rows in record.unknown
    ]
    return [*out, *fit.remarks]


def _listed(parts: Sequence[str], most: int = 8) -> str:
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


# ------------------------------------------------------------------------------ files


def _write(
    results: tuple[TableFit, NetworkRecord, HeldOut], names: Column | None, out: Path, *, force: bool
) -> list[str]:
    """Write the folder and return the names of its files."""
    fit, record, held = results
    with new_folder(out, force=force, stale=OPTIONAL_FILES) as made:
        (made / "record.json").write_text(record.to_json(), encoding="utf-8")
        _write_json(made / "network.json", _network(fit, record))
        _write_json(made / "preprocess.json", fit.encoding.describe())
        _write_predictions(made / "predictions.csv", held, names)
        text = fit.model.network_.formula(list(fit.encoding.names), digits=6)
        (made / "formula.txt").write_text(f"{_scale(record)}\n\n{text}\n", encoding="utf-8")
        if record.path is not None:
            path = record.path
            rows = zip(path.lams, path.scores, path.errors, path.n_neurons, strict=True)
            _write_rows(made / "path.csv", ("lam", "score", "error", "neurons"), [list(map(repr, row)) for row in rows])
        try:
            record.to_html(made / "report.html", figures=_figures(fit, record))
        except MissingExtraError as error:
            talk(f"no report.html: {error}")
        return sorted(path.name for path in made.iterdir())


def _network(fit: TableFit, record: NetworkRecord) -> dict[str, Any]:
    """What ``ShallowNet.load`` takes, and what it is a function of."""
    return fit.model.network_.to_dict() | {
        "inputs_are": "the encoded features that preprocess.json describes, in this order",
        "input_names": list(fit.encoding.names),
        "outputs_are": _scale(record),
        "output_names": _outputs(record),
    }


def _outputs(record: NetworkRecord) -> list[str]:
    """The target, or the classes that have an output each."""
    if record.task == "regression":
        return [record.target]
    return [record.classes[1]] if len(record.classes) == 2 else list(record.classes)


def _scale(record: NetworkRecord) -> str:
    """What the values of the network are, in words."""
    if record.task == "regression":
        return f"{'log-mean' if record.loss == 'poisson' else 'prediction'} of {record.target}"
    if len(record.classes) == 2:
        what = "log-odds" if record.loss == "logistic" else "margin"
        return f"{what} of {record.target} being {record.classes[1]} rather than {record.classes[0]}"
    what = "logits" if record.loss == "logistic" else "margins"
    return f"{what} of {record.target} being {', '.join(record.classes)}"


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_predictions(path: Path, held: HeldOut, names: Column | None) -> None:
    """One line per row held out; rows are counted from 1, without the line of names."""
    heads = ["row", *([] if names is None else [names.name]), "observed", "predicted"]
    heads += [f"probability {label}" for label in held.classes] if held.probabilities is not None else []
    rows = []
    for k, place in enumerate(held.rows.tolist()):
        name = [] if names is None else [_cell(names.values[place])]
        shares = [] if held.probabilities is None else [repr(share) for share in held.probabilities[k].tolist()]
        rows.append([str(place + 1), *name, _cell(held.observed[k]), _cell(held.predicted[k]), *shares])
    _write_rows(path, heads, rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float):
        # repr gives every digit that a float needs and no more; whole numbers were written without a point.
        return "" if plain != plain else repr(int(plain)) if plain.is_integer() and abs(plain) < 1e15 else repr(plain)
    return str(plain)


def _write_rows(path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)


def _figures(fit: TableFit, record: NetworkRecord) -> list[tuple[Figure, str]]:
    """Figures that need the network itself."""
    from pathnorm.report.effects import effect_captions, plot_effects, plot_function
    from pathnorm.report.landscape import plot_landscape

    figures: list[tuple[Figure, str]] = []
    names, features = fit.encoding.names, len(fit.encoding.names)
    scale = _scale(record)
    if features <= 2:
        text = f"The function: {scale}."
        if features == 2:
            text += " Left: f with its hinges and the training rows; right: the measure that its second derivative is."
        figures.append((plot_function(fit.model, names), text))
    many = len(record.classes) > 2
    if features > 1 and record.features.shares and any(record.features.slopes):
        first = f" Of {record.classes[0]!r}, the first class." if many else ""
        figures.append(
            (plot_effects(fit.model, names), f"{effect_captions(fit.model)} In units of the {scale}.{first}")
        )
    if features == 2 and record.loss not in ("absolute", "quantile"):
        text = (
            "The proof: the dual function over lambda, for every direction and offset of a neuron. The network is "
            "optimal if it is nowhere above one, up to the tolerance; neurons may only be where it is one."
        )
        figures.append((plot_landscape(fit.model), text.replace("lambda", "\N{GREEK SMALL LETTER LAMDA}")))
    return figures


# ------------------------------------------------------------------------------ arguments


def _names(text: str) -> tuple[str, ...]:
    """Names between commas; one with a comma in it stands in double quotes."""
    names = tuple(name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row)
    if not names or not all(names):
        raise argparse.ArgumentTypeError(f"names between commas are needed, got {text!r}")
    return names


def _part(text: str) -> float:
    value = number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1 is needed, got {text}; a fifth is 0.2")
    return value


def _folds(text: str) -> int:
    value = natural(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"at least 2 folds are needed, got {text}")
    return value
