"""``pathnorm fit``: an optimal linear spline through two columns of a table, or a network for many."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnorm.cli.arguments import add_common, number, positive
from pathnorm.cli.fit_table import LOSSES as NETWORK_LOSSES
from pathnorm.cli.fit_table import add_table_options, fit_columns, given_options
from pathnorm.cli.output import Outcome, Progress, progress_bars, stage, talk
from pathnorm.errors import MissingExtraError
from pathnorm.report.folder import new_folder, refuse_existing

if TYPE_CHECKING:
    from pathnorm.estimators import BV2Regressor
    from pathnorm.report.fit import FitRecord
    from pathnorm.tables import Table

__all__ = ["add_fit"]

CRITERIA = ("sure", "gcv", "bic", "cv")
LOSSES = ("squared", "huber", "absolute", "quantile", "logistic", "poisson")
OPTIONAL_FILES = frozenset({"report.html", "path.csv"})


def add_fit(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "fit",
        help="fit the optimal linear spline to two columns of a table, or a ReLU network to many, with a proof",
        description="Fit what minimises loss + lambda * path norm over all functions: what a ReLU network with weight "
        "decay converges to, with a proof. With --x and --y the answer is a linear spline, with --target a network "
        "that reads all other columns.",
    )
    parser.set_defaults(verb=_fit)
    parser.add_argument("table", metavar="TABLE", help=".csv, .tsv or .parquet, packed with gzip or not; - is stdin")
    parser.add_argument("--weight", metavar="NAME", help="column of weights, not negative")
    parser.add_argument(
        "--lam",
        metavar="L",
        type=_lam,
        help="a number, or how to choose it: cv, and for one variable sure, gcv or bic (sure for the squared loss "
        "there, else cv)",
    )
    parser.add_argument("--one-se", action="store_true", help="with cv: the simplest fit within one standard error")
    parser.add_argument("--loss", choices=sorted({*LOSSES, *NETWORK_LOSSES}), help="squared, or logistic for classes")
    parser.add_argument("--delta", metavar="D", type=positive, help="huber: residuals up to D count squared (1)")
    parser.add_argument("--quantile", metavar="Q", type=_between, help="quantile: which one (0.5)")
    one = parser.add_argument_group("one variable")
    one.add_argument("--x", metavar="NAME", help="column, or its position from 0; dates are welcome")
    one.add_argument("--y", metavar="NAME", help="column, or its position from 0")
    one.add_argument("--sparsest", action="store_true", help="the fewest knots among the solutions")
    one.add_argument("--band", choices=("none", "conditional", "bootstrap"), help="95 %% confidence band (none)")
    one.add_argument("--no-smoother", action="store_true", help="no smoothing spline beside it, which saves time")
    one.add_argument("--drop-missing", action="store_true", help="leave out rows that lack a value")
    add_table_options(parser)
    table = parser.add_argument_group("about the table")
    table.add_argument("--delimiter", metavar="C", type=_delimiter, help="instead of telling it from the first lines")
    header = table.add_mutually_exclusive_group()
    header.add_argument("--header", action="store_true", default=None, help="the first line holds names")
    header.add_argument("--no-header", dest="header", action="store_false", help="the first line holds values")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder to write; without it the result is only printed"
    )
    add_common(parser)


def _fit(arguments: argparse.Namespace) -> Outcome:
    _refuse_mixtures(arguments)
    if arguments.target is not None:
        return fit_columns(arguments)
    return _fit_spline(arguments)


def _fit_spline(arguments: argparse.Namespace) -> Outcome:
    arguments.loss = arguments.loss or "squared"
    arguments.band = arguments.band or "none"
    _refuse_misfits(arguments)
    out: Path | None = arguments.out
    if out is not None:
        refuse_existing(out, force=arguments.force)
    started = time.perf_counter()
    with progress_bars() as progress:
        table = _read(arguments, progress)
        for remark in table.remarks:
            talk(remark)
        if table.dropped:
            talk(f"{table.dropped:,} of {table.rows:,} rows lack a value and are left out")
        with stage(progress, "fit"):
            regressor, seconds = _fitted(arguments, table)
        record = _described(arguments, table, regressor, (started, seconds), progress)
        files: list[str] = []
        if out is not None:
            with stage(progress, "report"):
                files = _write(record, out, force=arguments.force)
    if out is not None:
        talk(f"written to {out}: {', '.join(files)}")
    data = {"verb": "fit", "out": None if out is None else str(out), "files": files, "record": record.to_dict()}
    return Outcome(str(record), data)


def _refuse_mixtures(arguments: argparse.Namespace) -> None:
    """Tell the two forms of the verb apart, and refuse options of the one in the other, before any work."""
    one = [
        option
        for option, given in (
            ("--x", arguments.x is not None),
            ("--y", arguments.y is not None),
            ("--sparsest", arguments.sparsest),
            ("--band", arguments.band is not None),
            ("--no-smoother", arguments.no_smoother),
            ("--drop-missing", arguments.drop_missing),
            (f"--lam {arguments.lam}", arguments.lam in ("sure", "gcv", "bic")),
        )
        if given
    ]
    many = given_options(arguments)
    if arguments.loss is not None and arguments.loss not in LOSSES:
        many.append(f"--loss {arguments.loss}")
    forms = "Give --x and --y for a spline of one variable, or --target for a network that reads many columns."
    if arguments.target is not None:
        if one:
            raise ValueError(f"{one[0]} goes with --x and --y; got --target. {forms}")
    elif arguments.x is None or arguments.y is None:
        got = ", ".join([*one, *many]) or "neither"
        raise ValueError(f"--x and --y, or --target, are needed; got {got}. {forms}")
    elif many:
        raise ValueError(f"{many[0]} goes with --target; got --x and --y. {forms}")


def _refuse_misfits(arguments: argparse.Namespace) -> None:
    """Refuse options that would have no effect, before any work."""
    pairs = (
        (arguments.delta is not None, "--delta", arguments.loss == "huber", "--loss huber", f"--loss {arguments.loss}"),
        (arguments.quantile is not None, "--quantile", arguments.loss == "quantile", "--loss quantile",
         f"--loss {arguments.loss}"),
        (arguments.one_se, "--one-se", _criterion(arguments) == "cv", "--lam cv", f"--lam {arguments.lam}"),
        (_criterion(arguments) in ("sure", "gcv"), f"--lam {_criterion(arguments)}", arguments.loss == "squared",
         "--loss squared", f"--loss {arguments.loss}"),
        (arguments.band == "conditional", "--band conditional", arguments.loss == "squared", "--loss squared",
         f"--loss {arguments.loss}"),
    )  # fmt: skip
    for given, option, fits, needed, received in pairs:
        if given and not fits:
            raise ValueError(f"{option} goes with {needed}; got {received}. Leave one of them out.")


def _criterion(arguments: argparse.Namespace) -> str | None:
    """The criterion asked for, None where lambda is given."""
    if arguments.lam is None:
        return "cv" if arguments.one_se or arguments.loss != "squared" else "sure"
    return arguments.lam if isinstance(arguments.lam, str) else None


def _read(arguments: argparse.Namespace, progress: Progress | None) -> Table:
    from pathnorm.tables import read_table

    columns = [arguments.x, arguments.y] + ([] if arguments.weight is None else [arguments.weight])
    return read_table(
        sys.stdin.buffer if arguments.table == "-" else arguments.table,
        columns,
        delimiter=arguments.delimiter,
        header=arguments.header,
        drop_missing=arguments.drop_missing,
        progress=progress,
    )


def _fitted(arguments: argparse.Namespace, table: Table) -> tuple[BV2Regressor, float]:
    """The fitted regressor, and the seconds that it took."""
    from pathnorm.estimators import BV2Regressor, BV2RegressorCV

    options = {
        "loss": arguments.loss,
        "delta": 1.0 if arguments.delta is None else arguments.delta,
        "quantile": 0.5 if arguments.quantile is None else arguments.quantile,
        "sparsest": arguments.sparsest,
    }
    criterion = _criterion(arguments)
    regressor: BV2Regressor
    if criterion is None:
        regressor = BV2Regressor(arguments.lam, **options)
    else:
        regressor = BV2RegressorCV(criterion=criterion, one_standard_error=arguments.one_se, **options)
    started = time.perf_counter()
    regressor.fit(*table.columns)
    return regressor, time.perf_counter() - started


def _described(
    arguments: argparse.Namespace,
    table: Table,
    regressor: BV2Regressor,
    clock: tuple[float, float],
    progress: Progress | None,
) -> FitRecord:
    from pathnorm.estimators.describe import Origin, describe_fit

    origin = Origin(
        x=table.names[0],
        y=table.names[1],
        weight=table.names[2] if len(table.names) > 2 else None,
        x_unit=table.unit,
        x_is_time=bool(table.unit),
        rows=table.rows,
        dropped=table.dropped,
        started=clock[0],
    )
    return describe_fit(
        regressor,
        origin=origin,
        band=None if arguments.band == "none" else arguments.band,
        smoother=not arguments.no_smoother,
        seconds_fit=clock[1],
        seed=arguments.seed,
        progress=progress,
    )


# ------------------------------------------------------------------------------ files


def _write(record: FitRecord, out: Path, *, force: bool) -> list[str]:
    """Write the folder and return the names of its files."""
    with new_folder(out, force=force, stale=OPTIONAL_FILES) as made:
        (made / "record.json").write_text(record.to_json(), encoding="utf-8")
        (made / "spline.json").write_text(_spline_json(record), encoding="utf-8")
        spline = record.spline
        _write_csv(
            made / "spline.csv",
            ("knot", "value", "slope_left", "slope_right"),
            (spline.knots, spline.values, spline.slopes[:-1], spline.slopes[1:]),
        )
        if record.path is not None:
            path = record.path
            names = ("lams", "n_knots", "dof", "losses", "tv2", "gaps", "scores")
            heads = ("lam", "knots", "dof", "loss", "path_norm", "gap", path.criterion)
            _write_csv(made / "path.csv", heads, tuple(getattr(path, name) for name in names))
        try:
            record.to_html(made / "report.html")
        except MissingExtraError as error:
            talk(f"no report.html: {error}")
        return sorted(path.name for path in made.iterdir())


def _spline_json(record: FitRecord) -> str:
    """The function alone: what ``pathnorm.LinearSpline`` takes, and what it is a function of."""
    spline = record.spline
    data = {
        "x": record.x_name,
        "x_unit": record.x_unit,
        "y": record.y_name,
        "scale": {"logistic": "log-odds", "poisson": "log-mean"}.get(record.loss, "values"),
        "knots": spline.knots,
        "values": spline.values,
        "left_slope": spline.slopes[0],
        "right_slope": spline.slopes[-1],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _write_csv(path: Path, names: tuple[str, ...], columns: tuple[tuple[float, ...], ...]) -> None:
    # repr gives every digit that a float needs and no more.
    lines = (",".join(map(repr, row)) for row in zip(*columns, strict=True))
    path.write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------ arguments


def _lam(text: str) -> float | str:
    if text in CRITERIA:
        return text
    try:
        value = number(text)
    except argparse.ArgumentTypeError:
        value = -1.0
    if value < 0.0:
        raise argparse.ArgumentTypeError(f"a number >= 0 or one of {', '.join(CRITERIA)} is needed, got {text!r}")
    return value


def _between(text: str) -> float:
    value = number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"a number between 0 and 1 is needed, got {text}; the median is 0.5")
    return value


def _delimiter(text: str) -> str:
    mark = {"\\t": "\t", "tab": "\t", "space": " "}.get(text, text)
    if len(mark) != 1 or (not mark.isprintable() and mark != "\t"):
        raise argparse.ArgumentTypeError(f"one character, tab or space is needed, got {text!r}")
    return mark
