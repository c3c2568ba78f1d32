"""The record of a network that was fitted to a table, and its predictions for the rows held out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.estimators.describe import peak_memory_mb
from pathnorm.estimators.holdout import RESAMPLES, Interval, class_scores, regression_scores
from pathnorm.estimators.relu import ReLUClassifier
from pathnorm.estimators.table_fit import ColumnLike, TableFit, TableOptions
from pathnorm.report.network import (
    ColumnRecord,
    FeatureRecord,
    HeldOutPicture,
    NetworkPathRecord,
    NetworkRecord,
    ScoreRecord,
)

__all__ = ["HeldOut", "describe_table", "held_out"]

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

MOST_POINTS = 2000
MOST_DIRECTIONS = 12

_GROUPS, _GROUP_ROWS = 10, 10
_ONE_DIRECTION = 0.01  # radians within which directions count as one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """What the network says of the rows held out.

    Attributes
    ----------
    rows : array (M,)
        Positions in the table.
    observed, predicted : array (M,)
        Values, or labels.
    probabilities : array (M, C) or None
    classes : tuple of str
    """

    rows: NDArray[np.int64]
    observed: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: Matrix | None
    classes: tuple[str, ...]


def held_out(fit: TableFit) -> HeldOut:
    """Predict the rows held out."""
    model = fit.model
    classes: tuple[str, ...] = ()
    probabilities = None
    if isinstance(model, ReLUClassifier):
        classes = tuple(map(str, model.classes_))
        probabilities = model.predict_proba(fit.X_test) if model.loss == "logistic" else None
    return HeldOut(
        rows=fit.target.rows[fit.test],
        observed=fit.target.values[fit.test],
        predicted=model.predict(fit.X_test),
        probabilities=probabilities,
        classes=classes,
    )


def describe_table(
    fit: TableFit,
    predictions: HeldOut,
    *,
    columns: Sequence[ColumnLike],
    options: TableOptions,
    rows: int,
    weight_name: str | None = None,
    started: float | None = None,
) -> NetworkRecord:
    """Return what was proved and what was measured.

    Parameters
    ----------
    fit : TableFit
    predictions : HeldOut
    columns : sequence of ColumnLike
        The features, as :func:`pathnorm.estimators.table_fit.fit_table` had them.
    options : TableOptions
    rows : int
        Of the table.
    weight_name : str, optional
    started : float, optional
        ``time.perf_counter()`` when reading began.
    """
    model, certificate = fit.model, fit.model.certificate_
    path = getattr(model, "path_", None)
    scores = _scores(fit, predictions, options)
    lam_max = float(model.lam_max_)
    return NetworkRecord(
        target=fit.target.name,
        task=fit.target.task,
        task_rule=fit.target.rule,
        classes=predictions.classes,
        weight_name=weight_name,
        rows=rows,
        rows_without_target=rows - fit.target.rows.size,
        n_train=fit.train.size,
        n_test=fit.test.size,
        columns=_columns(fit, columns),
        unknown=tuple(fit.unknown.items()),
        loss=fit.target.loss,
        parameter={"huber": options.delta, "quantile": options.quantile}.get(fit.target.loss),
        interactions=options.interactions,
        affine=fit.affine,
        relaxed=options.relaxed,
        max_neurons=options.max_neurons,
        lam=float(model.solution_.problem.lam),
        lam_max=lam_max,
        chosen_by="given" if path is None else "cv",
        one_standard_error=options.one_standard_error,
        sentence=model.summary(),
        n_neurons=model.n_neurons_,
        path_norm=float(model.solution_.coef.path_norm()),
        primal=float(certificate.primal),
        dual=float(certificate.dual),
        gap=float(certificate.gap),
        scope=certificate.scope,
        method=certificate.method,
        violation=_finite(certificate.violation),
        proved=_finite(certificate.proved),
        tol=model.tol,
        scores=scores,
        baselines=tuple((beside.key, beside.words) for beside in fit.baselines),
        resamples=RESAMPLES,
        seed=options.seed,
        features=_features(fit),
        picture=_picture(fit, predictions, options.seed),
        path=None if path is None else _path(path, options.folds),
        seconds_fit=fit.seconds_fit,
        seconds=time.perf_counter() - started if started is not None else fit.seconds_fit,
        peak_memory_mb=peak_memory_mb(),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _columns(fit: TableFit, columns: Sequence[ColumnLike]) -> tuple[ColumnRecord, ...]:
    made = np.bincount(fit.encoding.sources, minlength=len(columns))
    return tuple(
        ColumnRecord(
            name=column.name,
            kind=column.kind,
            n_missing=column.n_missing,
            n_features=int(made[place]),
            left_out=fit.encoding.dropped.get(place, ""),
        )
        for place, column in enumerate(columns)
    )


def _path(path: Any, folds: int) -> NetworkPathRecord:
    return NetworkPathRecord(
        folds=folds,
        lams=tuple(path.lams.tolist()),
        scores=tuple(path.scores.tolist()),
        errors=tuple(path.errors.tolist()),
        n_neurons=tuple(np.asarray(path.n_neurons, dtype=np.float64).tolist()),
    )


# ------------------------------------------------------------------------------ scores


def _scores(fit: TableFit, predictions: HeldOut, options: TableOptions) -> tuple[ScoreRecord, ...]:
    models = [("network", fit.model), *((beside.key, beside.model) for beside in fit.baselines)]
    rows = []
    for key, model in models:
        found = _of_classes(fit, model, options) if predictions.classes else _of_values(fit, model, options)
        rows += [
            ScoreRecord(model=key, metric=metric, value=score.value, low=score.low, high=score.high)
            for metric, score in found.items()
        ]
    return tuple(rows)


def _of_values(fit: TableFit, model: Any, options: TableOptions) -> dict[str, Interval]:
    loss = fit.target.loss
    return regression_scores(
        fit.target.values[fit.test].astype(np.float64),
        model.predict(fit.X_test),
        weights=None if fit.weights is None else fit.weights[fit.test],
        loss=loss,
        parameter={"huber": options.delta, "quantile": options.quantile}.get(loss),
        seed=options.seed,
    )


def _of_classes(fit: TableFit, model: Any, options: TableOptions) -> dict[str, Interval]:
    known = np.unique(fit.target.values)
    two = known.size == 2
    network = isinstance(model, ReLUClassifier)
    probabilities = None if network and model.loss != "logistic" else model.predict_proba(fit.X_test)
    if not two:
        margin = None
    else:
        margin = model.decision_function(fit.X_test) if network else probabilities[:, 1]  # type: ignore[index]
    return class_scores(
        np.searchsorted(known, fit.target.values[fit.test]),
        np.searchsorted(known, model.predict(fit.X_test)),
        probabilities=probabilities,
        margin=margin,
        weights=None if fit.weights is None else fit.weights[fit.test],
        seed=options.seed,
    )


# ------------------------------------------------------------------------------ pictures


def _picture(fit: TableFit, predictions: HeldOut, seed: int) -> HeldOutPicture:
    if not predictions.classes:
        some: Any = slice(None)
        if predictions.rows.size > MOST_POINTS:
            some = np.sort(np.random.default_rng(seed).choice(predictions.rows.size, MOST_POINTS, replace=False))
        return HeldOutPicture(
            observed=tuple(predictions.observed[some].astype(np.float64).tolist()),
            predicted=tuple(predictions.predicted[some].tolist()),
        )
    known = np.unique(fit.target.values)
    observed, predicted = (np.searchsorted(known, part) for part in (predictions.observed, predictions.predicted))
    confusion = np.zeros((known.size, known.size), dtype=int)
    np.add.at(confusion, (observed, predicted), 1)
    forecast, frequency, counts = _calibration(predictions, observed)
    return HeldOutPicture(
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        forecast=forecast,
        frequency=frequency,
        counts=counts,
    )


def _calibration(
    predictions: HeldOut, observed: NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Groups of equal size by the probability of the second of two classes."""
    if predictions.probabilities is None or len(predictions.classes) != 2:
        return (), (), ()
    p = predictions.probabilities[:, 1]
    groups = np.array_split(np.argsort(p, kind="stable"), min(_GROUPS, max(p.size // _GROUP_ROWS, 1)))
    return (
        tuple(float(p[group].mean()) for group in groups),
        tuple(float(observed[group].mean()) for group in groups),
        tuple(group.size for group in groups),
    )


def _features(fit: TableFit) -> FeatureRecord:
    model, names = fit.model, fit.encoding.names
    inner = model.solution_.coef
    mass = np.linalg.norm(inner.V, axis=1) @ np.abs(inner.W) if inner.n_neurons else np.zeros(len(names))
    total = float(mass.sum())
    found = inner.radon_measure().directions_by_mass(angle=_ONE_DIRECTION)
    masses = found.masses / found.masses.sum() if found.masses.size else found.masses
    return FeatureRecord(
        names=names,
        shares=tuple((mass / total if total > 0.0 else mass).tolist()),
        slopes=tuple(_slopes(fit).tolist()),
        directions=tuple(tuple(row) for row in found.directions[:MOST_DIRECTIONS].tolist()),
        masses=tuple(masses[:MOST_DIRECTIONS].tolist()),
        n_directions=len(found.masses),
    )


def _slopes(fit: TableFit) -> Vector:
    """Mean gradient over the training rows, per standard deviation; norms over several outputs."""
    net = fit.model.network_
    active = (fit.X_train @ net.W.T > net.b).mean(axis=0)
    slopes = (net.A + (net.W * active[:, None]).T @ net.V) * fit.model.standard_.scale[:, None]
    return slopes[:, 0] if slopes.shape[1] == 1 else np.asarray(np.linalg.norm(slopes, axis=1))
