"""The one column of a function of one variable."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["as_column", "refuse_columns"]


def as_column(X: ArrayLike) -> ArrayLike:
    """A vector as one column; all else is left to the validation."""
    shape = getattr(X, "shape", None)
    if len(np.asarray(X).shape if shape is None else shape) == 1:
        return np.asarray(X).reshape(-1, 1)
    return X


def refuse_columns(X: NDArray[np.float64], name: str) -> None:
    """Raise unless X has one column."""
    if X.shape[1] != 1:
        raise ValueError(
            f"{name} needs X with one column; got shape {X.shape}. Choose a column, or use a method for several inputs."
        )
