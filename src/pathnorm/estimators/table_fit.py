"""From the columns of a table to a certified network: target, split, encoding, fit, and what stands beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from pathnorm.errors import DataError
from pathnorm.estimators.baselines import Baseline, fitted_baselines
from pathnorm.estimators.relu import CLASSIFICATION, REGRESSION, ReLUClassifier, ReLURegressor
from pathnorm.estimators.relu_cv import ReLUClassifierCV, ReLURegressorCV
from pathnorm.estimators.tabular import Encoding, fit_encoding

__all__ = ["FEW_VALUES", "ColumnLike", "TableFit", "TableOptions", "Target", "fit_table", "target_of"]

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

FEW_VALUES = 10

_KINDS = {"number": "numbers", "time": "dates", "boolean": "booleans", "text": "text"}


class ColumnLike(Protocol):
    """A named column: float64 with NaN for ``number`` and ``time``, text with None for ``boolean`` and ``text``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def values(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def n_missing(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """What is asked for; ``lam=None`` is the choice by cross-validation, ``affine=None`` what suits the data."""

    task: str = "auto"
    lam: float | None = None
    one_standard_error: bool = False
    loss: str | None = None
    delta: float = 1.0
    quantile: float = 0.5
    interactions: int | None = None
    affine: str | None = None
    relaxed: bool = False
    max_neurons: int | None = None
    test_size: float = 0.2
    folds: int = 5
    jobs: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What is to be predicted, for the rows that have it.

    Attributes
    ----------
    name, task, rule, loss : str
        ``rule`` says why it is that task.
    rows : array (N,)
        Positions in the table.
    values : array (N,)
        Numbers, or labels.
    """

    name: str
    task: str
    rule: str
    loss: str
    rows: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableFit:
    """A network and the models beside it, fitted to the training rows.

    Attributes
    ----------
    model : ReLURegressor or ReLUClassifier
        Or one of their versions that choose lam.
    encoding : Encoding
    target : Target
    train, test : array
        Places within ``target.rows``.
    X_train, X_test : array
        Encoded.
    weights : array (N,) or None
    baselines : tuple of Baseline
    affine : str
    unknown : dict of str to int
        Categories in the test rows that the training rows lack.
    seconds_fit : float
    remarks : tuple of str
    """

    model: ReLURegressor | ReLUClassifier
    encoding: Encoding
    target: Target
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    X_train: Matrix
    X_test: Matrix
    weights: Vector | None
    baselines: tuple[Baseline, ...]
    affine: str
    unknown: dict[str, int]
    seconds_fit: float
    remarks: tuple[str, ...]


def fit_table(
    columns: Sequence[ColumnLike],
    target: ColumnLike,
    *,
    weight: ColumnLike | None = None,
    options: TableOptions | None = None,
    progress: Progress | None = None,
) -> TableFit:
    """Hold rows out, encode the columns, and fit the network and the baselines to the other rows.

    Parameters
    ----------
    columns : sequence of ColumnLike
        Features.
    target : ColumnLike
        Rows without a value in it are left out.
    weight : ColumnLike, optional
    options : TableOptions, optional
    progress : callable, optional
        Called with a stage, what is done and the whole.

    Raises
    ------
    DataError
        If the columns cannot support it: one class, too few rows, no feature left, a weight that is missing.
    ValueError
        If task, loss and target do not go together.

    Warns
    -----
    CertificateWarning
        If the gap did not reach the tolerance.
    """
    options = options or TableOptions()
    tell = progress or (lambda *_: None)
    goal = target_of(target, options)
    train, test = _split(goal, options)
    weights = None if weight is None else _weights(weight, goal)
    table = np.empty((goal.rows.size, len(columns)), dtype=object)
    for place, column in enumerate(columns):
        table[:, place] = column.values[goal.rows]
    encoding = fit_encoding(table[train], [c.name for c in columns], [c.kind for c in columns])
    X, Z = encoding.transform(table[train]), encoding.transform(table[test])
    affine, remarks = _affine(goal, X, options)
    model = _model(goal, affine, options)
    tell("network", 0, 1)
    started = time.perf_counter()
    model.fit(X, goal.values[train], sample_weight=None if weights is None else weights[train])
    seconds = time.perf_counter() - started
    tell("network", 1, 1)
    tell("baselines", 0, 1)
    baselines = fitted_baselines(
        X,
        goal.values[train],
        task=goal.task,
        loss=goal.loss,
        quantile=options.quantile,
        weights=None if weights is None else weights[train],
        seed=options.seed,
    )
    tell("baselines", 1, 1)
    return TableFit(
        model=model,
        encoding=encoding,
        target=goal,
        train=train,
        test=test,
        X_train=X,
        X_test=Z,
        weights=weights,
        baselines=baselines,
        affine=affine,
        unknown=encoding.unknown(table[test]),
        seconds_fit=seconds,
        remarks=tuple(remarks),
    )


# ------------------------------------------------------------------------------ target


def target_of(column: ColumnLike, options: TableOptions) -> Target:
    """Tell the task, and take the rows that have a target.

    Text and booleans are classes, and so are whole numbers with at most ten different values, unless ``task`` or
    ``loss`` says otherwise; everything else is regression.
    """
    text = column.kind in ("text", "boolean")
    there = np.array([value is not None for value in column.values]) if text else ~np.isnan(column.values)
    rows = np.flatnonzero(there)
    if rows.size == 0:
        raise DataError(f"The target {column.name!r} must have values; it is empty. Name another column.")
    values = column.values[rows]
    task, rule = _task(column, values, options)
    if task == "regression":
        if text:
            raise ValueError(
                f"Regression needs a target of numbers; {column.name!r} holds {_KINDS[column.kind]}. "
                "Give --task classification, or leave it out."
            )
        numbers = values.astype(np.float64)
        if np.ptp(numbers) == 0.0:
            raise DataError(
                f"The target must vary; {column.name!r} is {numbers[0]:g} in every row. Name another column."
            )
    else:
        values = values.astype(str) if text else _labels(values)
        _refuse_classes(column.name, values)
    loss = options.loss or {"regression": "squared", "classification": "logistic"}[task]
    fitting = REGRESSION if task == "regression" else CLASSIFICATION
    if loss not in fitting:
        raise ValueError(
            f"--loss {loss} does not go with {task}, which takes {', '.join(fitting)}; it is {task} because: {rule}. "
            "Give --task, or another loss."
        )
    return Target(name=column.name, task=task, rule=rule, loss=loss, rows=rows, values=values)


def _task(column: ColumnLike, values: NDArray[Any], options: TableOptions) -> tuple[str, str]:
    if options.task != "auto":
        return options.task, "as asked"
    if column.kind in ("text", "boolean"):
        return "classification", f"the target holds {_KINDS[column.kind]}"
    if options.loss is not None:
        return "regression" if options.loss in REGRESSION else "classification", "by the loss"
    distinct = np.unique(values)
    if column.kind == "number" and distinct.size <= FEW_VALUES and (distinct == np.round(distinct)).all():
        return "classification", f"the target holds whole numbers with {distinct.size} different values"
    return "regression", f"the target holds {_KINDS[column.kind]}"


def _labels(values: Vector) -> NDArray[Any]:
    whole = (values == np.round(values)).all() and np.abs(values).max() < 2.0**53
    return values.astype(np.int64) if whole else np.array([f"{value:.17g}" for value in values])


def _refuse_classes(name: str, labels: NDArray[Any]) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if classes.size < 2:
        raise DataError(
            f"At least two classes are needed to tell them apart; {name!r} is {str(classes[0])!r} in every row. "
            "Name another target."
        )
    if counts.min() < 2:
        rare = str(classes[counts.argmin()])
        raise DataError(
            f"Every class needs two rows, one to hold out; {rare!r} of {name!r} has one (there are {classes.size} "
            "classes). Merge rare classes, leave these rows out, or give --task regression if it is a number."
        )


# ------------------------------------------------------------------------------ rows


def _split(goal: Target, options: TableOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of training and test rows, each in the order of the table; classes are held out in proportion."""
    count = goal.rows.size
    classes = np.unique(goal.values).size if goal.task == "classification" else 1
    n_test = int(np.ceil(options.test_size * count))
    least = max(2, classes)
    folds = options.folds if options.lam is None else 2
    if n_test < least or count - n_test < max(least, folds):
        raise DataError(
            f"At least {least} rows to test and {max(least, folds)} to fit are needed; {count} rows with --test-size "
            f"{options.test_size:g} give {n_test} and {count - n_test}. Change --test-size or --folds."
        )
    labels = goal.values if goal.task == "classification" else None
    train, test = train_test_split(np.arange(count), test_size=n_test, stratify=labels, random_state=options.seed)
    return np.sort(train), np.sort(test)


def _weights(column: ColumnLike, goal: Target) -> Vector:
    if column.kind != "number":
        raise DataError(f"Weights must be numbers; {column.name!r} holds {_KINDS[column.kind]}. Name another column.")
    weights = column.values[goal.rows].astype(np.float64)
    bad = np.isnan(weights) | (weights < 0.0)
    if bad.any():
        row = int(goal.rows[int(bad.argmax())]) + 1
        raise DataError(
            f"Weights must be numbers that are not negative; row {row} of {column.name!r} has "
            f"{'none' if np.isnan(weights[bad.argmax()]) else f'{weights[bad.argmax()]:g}'}. Correct it."
        )
    return weights


# ------------------------------------------------------------------------------ model


def _affine(goal: Target, X: Matrix, options: TableOptions) -> tuple[str, list[str]]:
    if options.affine is not None:
        return options.affine, []
    if goal.task == "classification":
        return "ridge", []
    rows, features = X.shape
    if options.lam is None:
        rows -= -(-rows // options.folds)
    if features + 1 < rows:
        return "free", []
    remark = (
        f"with {features} features a free affine part meets all of {rows} rows, so it has a ridge; "
        "--affine free insists"
    )
    return "ridge", [remark]


def _model(goal: Target, affine: str, options: TableOptions) -> Any:
    common: dict[str, Any] = {
        "loss": goal.loss,
        "interactions": options.interactions,
        "affine": affine,
        "relaxed": options.relaxed,
        "max_neurons": options.max_neurons,
        "random_state": options.seed,
    }
    regression = goal.task == "regression"
    if regression:
        common |= {"delta": options.delta, "quantile": options.quantile}
    if options.lam is not None:
        return (ReLURegressor if regression else ReLUClassifier)(options.lam, **common)
    return (ReLURegressorCV if regression else ReLUClassifierCV)(
        cv=options.folds, one_standard_error=options.one_standard_error, n_jobs=options.jobs, **common
    )
