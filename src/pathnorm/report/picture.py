"""The samples of a fit, made small enough for a figure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathnorm.report.fit import Picture

__all__ = ["COLUMNS", "LEVELS", "MOST_POINTS", "picture_of"]

Vector = NDArray[np.float64]

MOST_POINTS = 2000
COLUMNS = 240
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def picture_of(x: Vector, y: Vector, mean: Vector, curve: tuple[Vector, Vector], *, seed: int = 0) -> Picture:
    """Return the picture of samples x, y (N,) with fitted ``mean`` (N,), and of the fit as a ``curve`` (x, y)."""
    residual = y - mean
    some: slice | NDArray[np.int64] = slice(None)
    columns, quantiles = np.empty(0), np.empty((2, len(LEVELS), 0))
    if x.size > MOST_POINTS:
        some = np.sort(np.random.default_rng(seed).choice(x.size, MOST_POINTS, replace=False))
        columns, quantiles = _quantiles(x, y, residual)
    return Picture(
        x=tuple(x[some].tolist()),
        y=tuple(y[some].tolist()),
        residual=tuple(residual[some].tolist()),
        levels=LEVELS if columns.size else (),
        columns=tuple(columns.tolist()),
        y_quantiles=tuple(tuple(row.tolist()) for row in quantiles[0] if columns.size),
        residual_quantiles=tuple(tuple(row.tolist()) for row in quantiles[1] if columns.size),
        fit_x=tuple(curve[0].tolist()),
        fit_y=tuple(curve[1].tolist()),
    )


def _quantiles(x: Vector, y: Vector, residual: Vector) -> tuple[Vector, Vector]:
    """Middles (C,) of the columns that have samples, and quantiles (2, levels, C) of y and of the residual in them."""
    low, high = float(x.min()), float(x.max())
    width = (high - low) / COLUMNS
    if not width > 0.0:
        return np.empty(0), np.empty((2, len(LEVELS), 0))
    # A radix sort of small integers costs less than one of x, and nothing if x is sorted already.
    place = np.minimum((x - low) / width, COLUMNS - 1).astype(np.int16)
    order = None if (place[1:] >= place[:-1]).all() else np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place, minlength=COLUMNS))
    middles, found = [], []
    for column, (begin, end) in enumerate(zip(np.concatenate(([0], ends[:-1])), ends, strict=True)):
        if end > begin:
            here = slice(begin, end) if order is None else order[begin:end]
            middles.append(low + (column + 0.5) * width)
            found.append([np.quantile(values[here], LEVELS) for values in (y, residual)])
    return np.array(middles), np.moveaxis(np.array(found), 0, 2)
