"""Where the dual norm is large: many local maxima of ``||h(w, b)||``, by scans and ascents. A search, never a proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pathnorm.representer._ascent import ascend, best_offsets

__all__ = ["Found", "LocalSearch"]

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

_FEW = 300  # samples up to which every ascent goes to its end
_SAMPLES = 6000  # beyond, a search looks at that many samples and is checked on all
_ARCS, _FEWER_ARCS = 200, 40  # arcs of one ascent: from a neuron, and from a drawn direction where there are many
_SCAN_ENTRIES = 4_000_000  # projections held at a time
_RISES = 10  # steps on all samples after a search on some of them
_OUTPUT_ROUNDS = 3  # ascents per neuron for several outputs, each along the output direction of the last


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Neurons, with unit input weights ``W`` (C, d); ``stuck`` (C, d + 1) samples on the hinge, ``size`` (C,) of them.

    ``h`` (C, D) is ``h(w, b)``; the first neurons belong to the starts, one to one.
    """

    W: Matrix
    stuck: Indices
    size: Indices
    h: Matrix

    @property
    def heights(self) -> Matrix:
        """``||h||`` (C,)."""
        return np.asarray(np.linalg.norm(self.h, axis=1))


class LocalSearch:
    """Search over the neurons of a problem; the samples are prepared once.

    Parameters
    ----------
    X : array (N, d)
    interactions : int or None
        Neurons see at most that many features.
    seed : int
        Of the directions that are drawn.
    """

    def __init__(self, X: Matrix, *, interactions: int | None = None, seed: int = 0) -> None:
        self.X = np.ascontiguousarray(X)
        self.rng = np.random.default_rng(seed)
        self.varying = np.flatnonzero(np.ptp(X, axis=0) > 0.0)
        order = X.shape[1] if interactions is None else min(interactions, self.varying.size)
        self.views = [np.array(seen) for seen in combinations(self.varying.tolist(), order)] if interactions else []
        self.interactions = interactions

    def __call__(self, R: Matrix, *, starts: Matrix | None = None, scans: int = 256, climbs: int = 32) -> Found:
        """Local maxima for pulls R (N, D).

        Parameters
        ----------
        R : array (N, D)
            Columns that sum to zero.
        starts : array (K, d), optional
            Directions to start from; what they lead to comes first, in their order.
        scans : int
            Directions that are drawn.
        climbs : int
            How many of them are climbed, the best ones.
        """
        given = np.zeros((0, self.X.shape[1])) if starts is None else starts
        if self.varying.size == 0 or not R.any():
            return self._described(R, given.copy(), None)
        rows = self._rows()
        X, pulls = (self.X, R) if rows is None else (self.X[rows], _balanced(R[rows]))
        if self.interactions:
            pieces = self._structured(X, pulls, given, (scans, climbs))
        else:
            drawn = self._drawn(X, self.varying, scans)
            best, _ = _scan(X, pulls, drawn, climbs)
            first = _climbed(X, pulls, given, _ARCS)
            second = _climbed(X, pulls, drawn[best], _FEWER_ARCS if X.shape[1] > 3 and len(X) > _FEW else _ARCS)
            pieces = (
                np.concatenate((first[0], second[0])),
                np.concatenate((first[1], second[1])),
                np.concatenate((first[2], second[2])),
            )
        W, stuck, size = pieces
        if rows is not None:
            # On all samples: the same directions, the best hinge for each.
            hinge = np.empty(len(W), np.int64)
            for block in _blocks(len(W), len(self.X)):
                best_offsets(W[block] @ self.X.T, R, hinge[block], np.empty(len(W[block])))
                if not self.interactions:
                    W[block] = _risen(self.X, R, W[block], hinge[block])
                    best_offsets(W[block] @ self.X.T, R, hinge[block], np.empty(len(W[block])))
            stuck = np.full((len(W), self.X.shape[1] + 1), -1)
            stuck[:, 0] = hinge
            size = np.ones(len(W), np.int64)
        return self._described(R, W, (stuck, size))

    def _rows(self) -> Indices | None:
        samples = len(self.X)
        return None if samples <= 2 * _SAMPLES else np.sort(self.rng.choice(samples, _SAMPLES, replace=False))

    def _drawn(self, X: Matrix, seen: Indices, count: int) -> Matrix:
        """Directions on the given features: half of them normal, half of them between two samples."""
        W = np.zeros((count, self.X.shape[1]))
        i, j = self.rng.integers(len(X), size=(2, count))
        scale = np.std(X[:, seen], axis=0)
        scale = np.where(scale > 0.0, scale, 1.0)
        between = X[i][:, seen] - X[j][:, seen]
        between[~between.any(axis=1)] = 1.0
        W[:, seen] = np.where(np.arange(count)[:, None] % 2 == 0, self.rng.normal(size=between.shape) / scale, between)
        return np.asarray(W / np.linalg.norm(W, axis=1, keepdims=True))

    def _structured(
        self, X: Matrix, R: Matrix, given: Matrix, effort: tuple[int, int]
    ) -> tuple[Matrix, Indices, Indices]:
        """The search for neurons that see one or two features: scans in every view, climbs in those that look best."""
        scans, climbs = effort
        d = X.shape[1]
        views = self.views
        if len(views) * len(X) > 40_000_000 // max(scans, 1):
            few = max(1, 40_000_000 // max(scans, 1) // len(X))
            views = [views[i] for i in self.rng.choice(len(views), few, replace=False)]
        per_view = max(8, scans // max(len(views), 1))
        drawn = np.concatenate([self._drawn(X, seen, per_view) for seen in views])
        if self.interactions == 1:
            single = np.abs(drawn[::per_view])  # two directions per feature
            drawn = np.concatenate((single, -single))
        best, _ = _scan(X, R, drawn, max(climbs, 2 * d))
        W = np.concatenate((given, drawn[best]))
        stuck = np.full((len(W), d + 1), -1)
        size = np.zeros(len(W), np.int64)
        for seen, members in _by_view(W, self.varying, self.interactions or 0):
            inside = np.ascontiguousarray(X[:, seen]), R, np.ascontiguousarray(W[members][:, seen])
            small, touch, count = _climbed(*inside, _ARCS)
            W[members] = 0.0
            W[np.ix_(members, seen)] = small
            stuck[members, : touch.shape[1]] = touch
            size[members] = count
        return W, stuck, size

    def _described(self, R: Matrix, W: Matrix, hinges: tuple[Indices, Indices] | None) -> Found:
        if hinges is None:
            hinges = np.full((len(W), self.X.shape[1] + 1), -1), np.ones(len(W), np.int64)
            hinges[0][:, 0] = 0
        h = np.zeros((len(W), R.shape[1]))
        for block in _blocks(len(W), len(self.X)):
            b = np.einsum("kd,kd->k", W[block], self.X[hinges[0][block, 0]])
            h[block] = np.maximum(self.X @ W[block].T - b, 0.0).T @ R
        return Found(W, hinges[0], hinges[1], h)


def _balanced(R: Matrix) -> Matrix:
    return np.asarray(R - R.mean(axis=0))


def _blocks(count: int, samples: int) -> Iterator[slice]:
    step = max(1, _SCAN_ENTRIES // max(samples, 1))
    for first in range(0, count, step):
        yield slice(first, min(count, first + step))


def _scan(X: Matrix, R: Matrix, W: Matrix, keep: int) -> tuple[Indices, Matrix]:
    """The best directions, largest first, and the heights of all of them."""
    hinge, height = np.empty(len(W), np.int64), np.empty(len(W))
    for block in _blocks(len(W), len(X)):
        best_offsets(W[block] @ X.T, R, hinge[block], height[block])
    return np.argsort(-height)[:keep], height


def _climbed(X: Matrix, R: Matrix, starts: Matrix, arcs: int) -> tuple[Matrix, Indices, Indices]:
    """Ascend from every start; duplicates among the samples count as one."""
    if not len(starts):
        return starts.copy(), np.zeros((0, X.shape[1] + 1), np.int64), np.zeros(0, np.int64)
    _, first, inverse = np.unique(X, axis=0, return_index=True, return_inverse=True)
    if first.size < len(X):
        sums = np.zeros((first.size, R.shape[1]))
        np.add.at(sums, inverse.ravel(), R)
        sites, pulls = np.ascontiguousarray(X[first]), sums
    else:
        first, sites, pulls = np.arange(len(X)), X, np.ascontiguousarray(R)
    count, d = starts.shape
    W = starts.copy()
    stuck, size, height = np.full((count, d + 1), -1), np.zeros(count, np.int64), np.zeros(count)
    scale = float(np.linalg.norm(sites, axis=1).max())
    directions = np.ones((count, 1))
    outputs = R.shape[1]
    for _ in range(1 if outputs == 1 else _OUTPUT_ROUNDS):
        if outputs > 1:
            directions = _output_directions(sites, pulls, W)
        stuck[:] = -1
        ascend(sites, pulls, directions, W, stuck, size, height, scale, arcs)
    return W, np.where(stuck >= 0, first[stuck], -1), size


def _risen(X: Matrix, R: Matrix, W: Matrix, hinge: Indices) -> Matrix:
    """A few steps up the gradient of ``||h||`` on all samples, hinges held at theirs."""
    best, blend = np.full(len(W), -1.0), np.full((len(W), 1), 0.5)
    kept, trial = W.copy(), W.copy()
    uphill = np.zeros_like(W)
    for _ in range(_RISES):
        T = X @ trial.T
        T -= np.einsum("kd,kd->k", trial, X[hinge])
        h = np.maximum(T, 0.0).T @ R
        height = np.linalg.norm(h, axis=1)
        better = height > best
        pulls = (T > 0.0) * (R @ (h / np.maximum(height, 1e-300)[:, None]).T)
        gradient = pulls.T @ X - pulls.sum(axis=0)[:, None] * X[hinge]
        gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-300)
        kept[better], best[better], uphill[better] = trial[better], height[better], gradient[better]
        blend = np.where(better[:, None], np.minimum(0.9, 1.5 * blend), 0.4 * blend)
        trial = (1.0 - blend) * kept + blend * uphill
        trial /= np.maximum(np.linalg.norm(trial, axis=1, keepdims=True), 1e-300)
    return kept


def _output_directions(X: Matrix, R: Matrix, W: Matrix) -> Matrix:
    """Unit rows along ``h`` at the best hinge of each direction."""
    hinge, height = np.empty(len(W), np.int64), np.empty(len(W))
    T = W @ X.T
    best_offsets(T, R, hinge, height)
    h = np.maximum(T - T[np.arange(len(W)), hinge][:, None], 0.0) @ R
    norms = np.linalg.norm(h, axis=1, keepdims=True)
    fallback = np.full_like(h, h.shape[1] ** -0.5)
    return np.where(norms > 0.0, h / np.maximum(norms, 1e-300), fallback)


def _by_view(W: Matrix, varying: Indices, order: int) -> Iterator[tuple[Indices, Indices]]:
    """Neurons grouped by the features that they see, padded to ``order`` features."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, w in enumerate(W):
        seen = np.flatnonzero(w)[:order].tolist()
        for j in varying:
            if len(seen) >= min(order, varying.size):
                break
            if j not in seen:
                seen.append(int(j))
        groups.setdefault(tuple(sorted(seen)), []).append(k)
    for view, members in groups.items():
        yield np.array(view), np.array(members)
