"""Exact dual search: the largest response of the pulls to a single neuron, over all neurons.

``M = max over |w| = 1 and b of |h(w, b)|`` with ``h(w, b) = sum_n R_n (w'x_n - b)_+``; a dual point is feasible if and
only if ``M <= lam``. For fixed w the map in b is piecewise linear with kinks at the data, so some best hinge passes
through a data point, and ``h = U'w`` on every cell of the arrangement of the data as seen from there: the best w of a
cell is the leading left singular vector of U if it lies inside, else it is on a face, recursively. In one dimension
that is a running sum, in the plane a sweep around every point, in space a sweep around the line through every two.

Convex formulations of networks over such arrangements: [PE20] Pilanci, Ergen, "Neural networks are convex
regularizers", ICML 2020.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.representer._faces import Found, Pulls, Scratch
from pathnorm.representer._sweeps import sweeps

__all__ = ["Peaks", "exact_cost", "exact_search", "exact_search_structured"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Index = NDArray[np.int64]
_SPARE = 2  # candidates kept for each that is asked for: one atom may be found at several of its hinges
_SAME = 1e-6  # distance of directions, and of hinges relative to the data, below which atoms are one
_NEAR = 1e-3  # distance of directions of one hinge below which they are one peak
_BALANCED = 64.0 * float(np.finfo(np.float64).eps)  # |X'R| that is rounding, relative to its terms
_SLICE = 0.05  # seconds between two looks at the deadline
# Seconds on one core, measured for one output: per point, per point and level of the sort, for each dimension.
_COST = {1: (3e-7, 3e-8), 2: (3e-8, 1.8e-9), 3: (6e-8, 2.5e-9)}
_SINGULAR = 4.0  # times more where faces need singular vectors


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Local maxima of ``|h(w, w'x_m)|``, largest first.

    value : the largest, and the maximum over all neurons if all hinges were searched
    W : array (C, d) of unit directions; hinges : array (C,), points m on the hinges; heights : array (C,)
    """

    value: float
    W: Matrix
    hinges: Index
    heights: Vector


class _Candidates(NamedTuple):
    """Squared heights (C,), directions (C, d) and hinges (C,)."""

    square: Vector
    w: Matrix
    hinge: Index

    @classmethod
    def none(cls, d: int) -> Self:
        return cls(np.empty(0), np.empty((0, d)), np.empty(0, np.int64))

    def join(self, *others: Self) -> Self:
        parts = (self, *others)
        return type(self)(
            np.concatenate([part.square for part in parts]),
            np.concatenate([part.w for part in parts]),
            np.concatenate([part.hinge for part in parts]),
        )

    def best(self, count: int) -> Self:
        order = np.argsort(-self.square, kind="stable")[:count]
        return type(self)(self.square[order], self.w[order], self.hinge[order])

    def embed(self, features: Sequence[int], d: int) -> Self:
        w = np.zeros((self.hinge.size, d))
        w[:, features] = self.w
        return type(self)(self.square, w, self.hinge)


def exact_search(
    X: ArrayLike,
    R: ArrayLike,
    *,
    count: int = 40,
    hinges: ArrayLike | None = None,
    threads: int | None = None,
    deadline: float | None = None,
) -> Peaks | None:
    """Maximum over all neurons of ``|sum_n R_n (w'x_n - b)_+|``, exact up to rounding, in at most three dimensions.

    O(N log N) in one dimension, O(N² log N) in two, O(N³ log N) in three; see :func:`exact_cost`.

    Parameters
    ----------
    X, R : array (N, d), (N, D)
        Points, and pulls whose columns sum to zero; ``X'R`` need not vanish.
    count : int
        Largest number of local maxima to return, at most two for each hinge.
    hinges : array of int, optional
        Look only at hinges through these points: the value is then a lower bound.
    threads : int, optional
        Two, or one on a machine with one core.
    deadline : float, optional
        Time on :func:`time.perf_counter` at which to give up.

    Returns
    -------
    Peaks or None
        None if the deadline passed.
    """
    data = _Data.of(X, R)
    n, d = data.x.shape
    if d > 3:
        raise ValueError(
            f"exact_search needs at most 3 features, got {d}. "
            "Search neurons of few features (exact_search_structured) or bound the maximum instead."
        )
    chosen = np.arange(n) if hinges is None else np.unique(np.asarray(hinges, dtype=np.int64))
    if chosen.size and not 0 <= chosen[0] <= chosen[-1] < n:
        raise ValueError(f"hinges are indices of the {n} points, got {chosen[0]} to {chosen[-1]}.")
    clock = _Clock(deadline)
    capacity = _SPARE * count
    if d == 1:
        found: list[_Candidates | None] = [_line(data, chosen, capacity)]
    else:
        workers = min(_threads(threads), max(1, chosen.size))
        found = _share(lambda k: _sweep(data, chosen, slice(k, None, workers), capacity, clock), workers)
    return _report(data, found, count)


def exact_search_structured(
    X: ArrayLike,
    R: ArrayLike,
    *,
    order: int,
    count: int = 40,
    threads: int | None = None,
    deadline: float | None = None,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> Peaks | None:
    """Maximum over all neurons whose w has at most ``order`` non-zero entries, exact in any dimension.

    One-dimensional searches for order 1; planar ones over pairs of features for order 2, O(d² N² log N). Arguments and
    result as for :func:`exact_search`, and

    Parameters
    ----------
    order : 1 or 2
        Largest number of features that a neuron sees.
    pairs : iterable of (int, int), optional
        The pairs that neurons of two features may see; every single feature is searched too.
    """
    if order not in (1, 2):
        raise ValueError(f"order is the number of features a neuron sees, 1 or 2; got {order}.")
    data = _Data.of(X, R)
    n, d = data.x.shape
    varying = {int(j) for j in np.flatnonzero(np.ptp(data.x, axis=0) > 0.0)}
    planes = _planes(varying, d, pairs) if order == 2 else []
    clock = _Clock(deadline)
    capacity, everything = _SPARE * count, np.arange(n)
    single = set(varying) if pairs is not None or order == 1 else varying - {j for plane in planes for j in plane}
    begin = _Candidates.none(d)
    for j in sorted(single):
        if clock.over():
            return None
        begin = begin.join(_line(data.part([j]), everything, capacity).embed([j], d)).best(capacity)
    workers = min(_threads(threads), max(1, len(planes)))

    def work(k: int) -> _Candidates | None:
        mine = begin if k == 0 else _Candidates.none(d)
        for plane in planes[k::workers]:
            floor = float(mine.square[capacity - 1]) if mine.square.size >= capacity else 0.0
            new = _sweep(data.part(plane), everything, slice(None), capacity, clock, floor)
            if new is None:
                return None
            mine = mine.join(new.embed(plane, d)).best(capacity)
        return mine

    return _report(data, _share(work, workers), count)


def exact_cost(n: int, d: int, *, outputs: int = 1) -> float:
    """Seconds that :func:`exact_search` takes on one core, to within a factor of two; infinite from d = 4 on."""
    if d not in _COST:
        return float("inf")
    step, level = _COST[d]
    sweeps_of = (1.0, float(n), 0.5 * n * n)[d - 1] * (_SINGULAR if d == 3 and outputs > 1 else 1.0)
    return sweeps_of * n * (step * (0.75 + 0.25 * outputs) + level * float(np.log2(n + 1.0)))


class _Data(NamedTuple):
    """Points and pulls, scaled by powers of two to about one; ``pulls`` is what the kernels need."""

    x: Matrix
    pulls: Matrix
    scale: float  # of the heights

    @classmethod
    def of(cls, X: ArrayLike, R: ArrayLike) -> Self:
        x, pulls = np.ascontiguousarray(X, dtype=np.float64), np.ascontiguousarray(R, dtype=np.float64)
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0 or pulls.ndim != 2 or pulls.shape[0] != x.shape[0]:
            raise ValueError(f"X (N, d) and R (N, D) need one row per point, got shapes {x.shape} and {pulls.shape}.")
        if not (np.isfinite(x).all() and np.isfinite(pulls).all()):
            raise ValueError("X and R need finite entries, got NaN or infinity. Drop or impute these rows first.")
        # The first point as origin: differences of integers stay exact, those of a mean would not.
        x = x - x[0]
        reach, pull = float(np.abs(x).max()), float(np.abs(pulls).max(initial=0.0))
        across, along = int(np.frexp(reach)[1]), int(np.frexp(pull)[1])
        return cls(np.ldexp(x, -across), np.ldexp(pulls, -along), float(np.ldexp(1.0, across + along)))

    def part(self, features: Sequence[int]) -> Self:
        return type(self)(np.ascontiguousarray(self.x[:, list(features)]), self.pulls, self.scale)

    def moment(self) -> tuple[Matrix, int]:
        """X'R, and the number of turns to sweep: one if it vanishes up to rounding."""
        moment = self.x.T @ self.pulls
        terms = np.abs(self.x).max(axis=1) @ np.linalg.norm(self.pulls, axis=1)
        return moment, 1 if float(np.abs(moment).max(initial=0.0)) <= _BALANCED * terms else 2


class _Clock(NamedTuple):
    deadline: float | None

    def over(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline


def _threads(threads: int | None) -> int:
    return min(2, os.cpu_count() or 1) if threads is None else max(1, threads)


def _share(work: Callable[[int], _Candidates | None], workers: int) -> list[_Candidates | None]:
    if workers == 1:
        return [work(0)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(workers)))


def _planes(varying: set[int], d: int, pairs: Iterable[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Pairs of features that both vary."""
    if pairs is None:
        return list(itertools.combinations(sorted(varying), 2))
    planes = {(min(i, j), max(i, j)) for i, j in pairs}
    wrong = [pair for pair in planes if not 0 <= pair[0] < pair[1] < d]
    if wrong:
        raise ValueError(f"pairs are of two different features among 0 .. {d - 1}, got {wrong[0]}.")
    return sorted(pair for pair in planes if varying.issuperset(pair))


def _line(data: _Data, chosen: Index, capacity: int) -> _Candidates:
    """Local maxima in one dimension: h at every point is a sum of sums from the right."""
    x = data.x[:, 0]
    order = np.argsort(x, kind="stable")
    gaps = np.diff(x[order])
    mass = np.cumsum(data.pulls[order][:0:-1], axis=0)
    steps = np.concatenate((np.zeros_like(data.pulls[:1]), mass * gaps[::-1, None]))
    right = np.cumsum(steps, axis=0)[::-1]  # h(1, x)
    distinct = np.concatenate(([True], gaps > 0.0))
    moment, turns = data.moment()
    found = []
    for sign, h in ((1.0, right), (-1.0, right - moment))[:turns]:
        square = np.einsum("no,no->n", h, h)[distinct]
        padded = np.concatenate(([0.0], square, [0.0]))
        peak = (square > 0.0) & (square >= padded[:-2]) & (square >= padded[2:])
        if chosen.size < x.size:
            # Without its neighbours every point stands for itself; any of equal points is as good.
            at = np.searchsorted(x[order][distinct], x[chosen])
            square, hinge = square[at], chosen
            peak = square > 0.0
        else:
            hinge = order[distinct]
        found.append(_Candidates(square[peak], np.full((peak.sum(), 1), sign), hinge[peak]).best(capacity))
    return found[0].join(*found[1:])


def _sweep(
    data: _Data, chosen: Index, share: slice, capacity: int, clock: _Clock, floor: float = 0.0
) -> _Candidates | None:
    """Sweeps around a share of the chosen hinges, or the lines through them; None if the deadline passes.

    What is not among the best so far is skipped, so the first slices are short.
    """
    n, d = data.x.shape
    moment, turns = data.moment()
    outputs = data.pulls.shape[1]
    pulls = Pulls(data.x, data.pulls, moment, turns)
    found, scratch = Found.empty(n), Scratch.empty(n, outputs)
    mine = np.ascontiguousarray(chosen[share])
    limit = max(1, int(_SLICE * n / max(exact_cost(n, d, outputs=outputs), 1e-9)))
    at, size = 0, 1
    while at < mine.size:
        if clock.over():
            return None
        stop = min(mine.size, at + size)
        sweeps(pulls, chosen, mine[at:stop], floor, scratch, found)
        floor = max(floor, _floor(found, capacity))
        at, size = stop, min(2 * size, limit)
    return _gather(found, d, floor)


def _floor(found: Found, capacity: int) -> float:
    """The square that a candidate must exceed to be among the best ``capacity``."""
    squares = found.square[:-1].ravel()
    return float(np.partition(squares, -capacity)[-capacity]) if squares.size > capacity else 0.0


def _gather(found: Found, d: int, floor: float) -> _Candidates:
    """What was found, the best of all included although it may not have passed as a local maximum."""
    row, slot = np.nonzero((found.square[:-1] >= floor) & (found.square[:-1] > 0.0))
    best = found.square[-1, 0]
    square, w, hinge = found.square[row, slot], found.w[row, slot, :d], row.astype(np.int64)
    if best > square.max(initial=0.0):
        square, w, hinge = np.append(square, best), np.vstack((w, found.w[-1:, 0, :d])), np.append(hinge, found.hinge)
    return _Candidates(square, np.ascontiguousarray(w), hinge)


def _report(data: _Data, found: list[_Candidates | None], count: int) -> Peaks | None:
    """Distinct candidates, evaluated directly."""
    done = [part for part in found if part is not None]
    if len(done) < len(found):
        return None
    best = done[0].join(*done[1:]).best(sum(part.square.size for part in done))
    chosen = _distinct(data.x, best, count)
    w, hinge = best.w[chosen], best.hinge[chosen]
    norms = np.linalg.norm(w, axis=1, keepdims=True)
    w = w / np.where(norms > 0.0, norms, 1.0)
    heights, flipped = _heights(data, w, hinge)
    w = np.where((flipped > heights)[:, None], -w, w)
    heights = np.maximum(heights, flipped)
    order = np.argsort(-heights, kind="stable")
    heights = heights[order] * data.scale
    return Peaks(float(heights[0]) if heights.size else 0.0, w[order], hinge[order], heights)


def _distinct(x: Matrix, found: _Candidates, count: int) -> Index:
    """Ranks of the first ``count`` different atoms, two for each hinge at most; w and -w are one atom."""
    kept: list[int] = []
    offsets = np.einsum("cj,cj->c", found.w, x[found.hinge])
    atoms = np.column_stack((found.w, offsets))
    seen: dict[int, list[Vector]] = {}
    for c in range(found.hinge.size):
        if len(kept) == count:
            break
        # Threads may have found one direction of a hinge each, or the same one.
        directions = seen.setdefault(int(found.hinge[c]), [])
        if len(directions) == 2 or (directions and float(np.abs(directions[0] - found.w[c]).max()) < _NEAR):
            continue
        directions.append(found.w[c])
        apart = [np.abs(atoms[kept] - sign * atoms[c]).max(axis=1).min(initial=np.inf) for sign in (1.0, -1.0)]
        if min(apart) >= _SAME:
            kept.append(c)
    return np.asarray(kept, dtype=np.int64)


def _heights(data: _Data, w: Matrix, hinge: Index) -> tuple[Vector, Vector]:
    """``|h|`` at (w, w'x_m) and at (-w, -w'x_m)."""
    up, down = np.empty(hinge.size), np.empty(hinge.size)
    for c in range(hinge.size):
        along = (data.x - data.x[hinge[c]]) @ w[c]
        up[c] = np.linalg.norm(np.maximum(along, 0.0) @ data.pulls)
        down[c] = np.linalg.norm(np.maximum(-along, 0.0) @ data.pulls)
    return up, down
