"""Activation patterns ``1[X w >= b]`` of neurons on samples: what convex reformulations are written in."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["activation_patterns"]

Matrix = NDArray[np.float64]
Patterns = NDArray[np.bool_]
Key = tuple[int, ...]

_ON = 1e-9  # distance from a hinge, relative to the spread of the samples, that is none
_MOST_HINGES = 200_000


def activation_patterns(X: ArrayLike, *, count: int | None = None, seed: int = 0) -> Patterns:
    """Distinct patterns ``1[w' x_n >= b]`` (P, N) over directions and offsets, sorted; all of them without a count.

    Hinges cut the samples in two, so samples in general position have ``2 sum_{k <= d} C(N - 1, k)`` patterns, and the
    complement of a pattern is one too [Cover 1965]. Every cell of (w, b) reaches a hinge through as many independent
    samples as determine it: enumeration goes over these, and on the samples of such a hinge over the patterns of fewer
    dimensions. Both optima of [EP21], with cone constraints on every pattern or with none, are sums over these rows.

    Parameters
    ----------
    X : array (N, d)
    count : int, optional
        Draw hinges instead, as many as that, through samples and in normal directions; equal patterns count once, so
        fewer may come back.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        If all are asked for and there are too many hinges to look at.

    References
    ----------
    .. [EP21] Ergen, Pilanci, "Convex geometry and duality of over-parameterized neural networks", JMLR 22, 2021.
    """
    points = np.asarray(X, dtype=np.float64)
    if points.ndim != 2 or 0 in points.shape or not np.isfinite(points).all():
        raise ValueError(f"X must have shape (N, d), finite and not empty; got shape {points.shape}.")
    if count is not None and count < 1:
        raise ValueError(f"count must be >= 1, or None for all patterns; got {count!r}.")
    sites, place = np.unique(points, axis=0, return_inverse=True)
    sites = _scaled(sites)
    found = _enumerated(sites) if count is None else _drawn(sites, count, seed)
    return np.unique(found[:, place.ravel()], axis=0)


def _scaled(X: Matrix) -> Matrix:
    """Centred, every feature of size one: patterns do not depend on either."""
    X = X - X.mean(axis=0)
    size = np.abs(X).max(axis=0)
    return np.asarray(X / np.where(size > 0.0, size, 1.0))


def _drawn(X: Matrix, count: int, seed: int) -> Patterns:
    rng = np.random.default_rng(seed)
    T = X @ rng.normal(size=(X.shape[1], count))
    return np.asarray((T >= T[rng.integers(len(X), size=count), np.arange(count)]).T)


def _enumerated(X: Matrix) -> Patterns:
    known: dict[Key, Patterns] = {}
    return _patterns(X, tuple(range(len(X))), known)


def _patterns(X: Matrix, chosen: Key, known: dict[Key, Patterns]) -> Patterns:
    """Patterns (P, n) of the chosen samples, which are distinct."""
    if chosen in known:
        return known[chosen]
    coordinates = _coordinates(X[list(chosen)])
    n, d = coordinates.shape
    if comb(n, d) > _MOST_HINGES:
        raise ValueError(
            f"{n} samples in {d} dimensions have {comb(n, d)} hinges to look at, more than {_MOST_HINGES}. "
            "Draw some patterns with count= instead."
        )
    rows = [np.array([[False], [True]]).repeat(n, axis=1)]
    for held in combinations(range(n), d) if d else ():
        hinge = _hinge(coordinates[list(held)])
        if hinge is None:
            continue
        side = coordinates @ hinge[:-1] - hinge[-1]
        on = np.abs(side) <= _ON
        inner = _patterns(X, tuple(k for k, at in zip(chosen, on, strict=True) if at), known)
        for sign in (1.0, -1.0):
            block = np.tile(sign * side > 0.0, (len(inner), 1))
            block[:, on] = inner
            rows.append(block)
    known[chosen] = np.unique(np.concatenate(rows), axis=0)
    return known[chosen]


def _coordinates(X: Matrix) -> Matrix:
    """The samples in a basis of the directions that they span."""
    X = X - X.mean(axis=0)
    _, singular, right = np.linalg.svd(X, full_matrices=False)
    rank = int((singular > _ON * max(float(singular.max(initial=0.0)), 1e-300)).sum())
    return np.asarray(X @ right[:rank].T)


def _hinge(X: Matrix) -> Matrix | None:
    """Unit w and b (d + 1,) of the hinge through d samples (d, d), if they determine one."""
    edges = X[1:] - X[0]
    _, singular, right = np.linalg.svd(np.vstack((edges, np.zeros((1, X.shape[1])))))
    if edges.size and singular[len(edges) - 1] <= _ON * singular[0]:
        return None
    w = right[-1]
    return np.append(w, w @ X[0])
