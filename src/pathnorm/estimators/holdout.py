"""Scores on rows that no model saw, with bootstrap intervals over these rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "Interval", "class_scores", "regression_scores"]

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# A score of rows under weights (B, M), one value for each row of weights.
Metric = Callable[[Matrix], Vector]

RESAMPLES = 1000

_ENTRIES = 4_000_000  # of resampled weights held at a time
_LEVELS = (0.025, 0.975)
_SMALLEST = 1e-15


class Interval(NamedTuple):
    """A score, and the middle 95 % of it over bootstrap samples of the rows."""

    value: float
    low: float
    high: float


def regression_scores(
    y: Vector,
    predicted: Vector,
    *,
    weights: Vector | None = None,
    loss: str = "squared",
    parameter: float | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """R², root mean squared and mean absolute error of predictions (M,); for other losses their mean loss first.

    Parameters
    ----------
    y, predicted : array (M,)
    weights : array (M,), optional
    loss : str
        ``huber`` and ``quantile`` add their loss, with ``parameter`` delta or the quantile.
    parameter : float, optional
    seed : int
        Of the bootstrap; one seed gives every model the same samples of rows.
    """
    error, centred = y - predicted, y - y.mean()

    def r2(w: Matrix) -> Vector:
        total = w.sum(axis=1)
        spread = w @ centred**2 - (w @ centred) ** 2 / total
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(spread > 0.0, 1.0 - (w @ error**2) / spread, np.nan))

    metrics: dict[str, Metric] = {}
    if loss in ("huber", "quantile"):
        metrics["loss"] = _mean_of(_losses(error, loss, float(parameter or 0.0)))
    metrics["r2"] = r2
    metrics["rmse"] = lambda w: np.asarray(np.sqrt(_mean_of(error**2)(w)))
    metrics["mae"] = _mean_of(np.abs(error))
    return _intervals(metrics, np.ones(len(y)) if weights is None else weights, seed)


def class_scores(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    *,
    probabilities: Matrix | None = None,
    margin: Vector | None = None,
    weights: Vector | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Accuracy, log-loss if there are probabilities (M, C), and the area under the ROC curve if there are margins.

    Parameters
    ----------
    labels, predicted : array (M,)
        Positions of classes.
    probabilities : array (M, C), optional
    margin : array (M,), optional
        For two classes: anything that grows with the probability of the second.
    weights : array (M,), optional
    seed : int
        Of the bootstrap.
    """
    metrics: dict[str, Metric] = {"accuracy": _mean_of((labels == predicted).astype(np.float64))}
    if probabilities is not None:
        chosen = np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST)
        metrics["log_loss"] = _mean_of(-np.log(chosen))
    if margin is not None:
        metrics["auc"] = _area(labels == 1, margin)
    return _intervals(metrics, np.ones(len(labels)) if weights is None else weights, seed)


def _losses(error: Vector, loss: str, parameter: float) -> Vector:
    if loss == "quantile":
        return np.asarray(np.maximum(parameter * error, (parameter - 1.0) * error))
    size = np.abs(error)
    return np.asarray(np.where(size <= parameter, 0.5 * size**2, parameter * (size - 0.5 * parameter)))


def _mean_of(values: Vector) -> Metric:
    return lambda w: np.asarray((w @ values) / w.sum(axis=1))


def _area(positive: NDArray[np.bool_], margin: Vector) -> Metric:
    """Area under the ROC curve: the chance that a row of the second class has the larger margin, ties counting half."""
    order = np.argsort(margin, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(margin[order]) > 0.0)))
    is_positive = positive[order].astype(np.float64)

    def area(w: Matrix) -> Vector:
        ordered = w[:, order]
        above = np.add.reduceat(ordered * is_positive, starts, axis=1)
        below = np.add.reduceat(ordered * (1.0 - is_positive), starts, axis=1)
        won = (above * (np.cumsum(below, axis=1) - 0.5 * below)).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(won / (above.sum(axis=1) * below.sum(axis=1)))

    return area


def _intervals(metrics: dict[str, Metric], weights: Vector, seed: int) -> dict[str, Interval]:
    found: dict[str, list[Vector]] = {name: [] for name in metrics}
    for counts in _resamples(len(weights), seed):
        for name, metric in metrics.items():
            found[name].append(metric(counts * weights))
    out = {}
    for name, metric in metrics.items():
        values = np.concatenate(found[name])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, _LEVELS) if values.size else (np.nan, np.nan)
        out[name] = Interval(float(metric(weights[None, :])[0]), float(low), float(high))
    return out


def _resamples(rows: int, seed: int) -> Iterator[Matrix]:
    """How often each row is in a bootstrap sample: (B, M), a few samples at a time."""
    rng = np.random.default_rng(seed)
    step, done = max(1, min(RESAMPLES, _ENTRIES // rows)), 0
    while done < RESAMPLES:
        size = min(step, RESAMPLES - done)
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
        done += size
