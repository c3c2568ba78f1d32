"""Upper bounds of the dual norm over all hinges, in any dimension.

The dual norm of pulls R (N, D) at data X (N, d) is ``M = max ||h(w, b)||`` over ``||w|| = 1`` and b, with
``h(w, b) = sum_n R_n (w . x_n - b)_+``. It is what a certificate over the function space needs, from above. Branch and
bound covers the hinges by simplicial cones in (w, b), where ``h`` is homogeneous: on a cone it is one linear function
plus the points whose sign changes there. Of these the convex terms are interpolated from the vertices, and the concave
ones replaced by linear functions whose slopes are optimised, so a cone where no convex term is left is solved exactly.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.representer._bounds import Points, match, search, workspace
from pathnorm.representer._cone_bound import Best

__all__ = ["Bracket", "branch_and_bound", "cheap_bound"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
_SAFETY = 1e-12
_SLICE = 1_000_000  # passes over points between two looks at the clock
_MIN_CONES = 32  # to share among threads
_ROOM = 40  # lists of open points, in multiples of all points
_TINY = 1e-300
_GROWTH = 6.0, 30.0  # of the work from one pass to the next, at least and at most


@dataclass(frozen=True, slots=True, eq=False)
class Bracket:
    """``lower <= M <= upper``.

    Attributes
    ----------
    lower : float
        Largest value seen, or the incumbent that was given.
    upper : float
        Proved, up to rounding.
    w, b : array (d,), float
        Where the largest value seen is attained; NaN if none above the incumbent was.
    nodes : int
        Cones that were bounded.
    complete : bool
        Whether ``upper <= lower * (1 + tol)``.
    """

    lower: float
    upper: float
    w: Vector
    b: float
    nodes: int
    complete: bool


def branch_and_bound(
    X: ArrayLike,
    R: ArrayLike,
    *,
    incumbent: float = 0.0,
    tol: float = 1e-3,
    seconds: float = 10.0,
    threads: int | None = None,
    target: float | None = None,
) -> Bracket:
    """Bracket the dual norm ``max ||sum_n R_n (w . x_n - b)_+||`` over all ``||w|| = 1`` and b.

    Whenever it stops, ``upper`` holds. Coarse tolerances come first, so that there is something to return early.

    Parameters
    ----------
    X : array (N, d)
        Data.
    R : array (N,) or (N, D)
        Pulls, whose columns sum to zero. If ``X.T @ R`` vanishes too, opposite hinges have equal values and half of
        them are searched.
    incumbent : float
        A known lower bound of M. The better, the faster.
    tol : float
        Stop once ``upper <= lower (1 + tol)``.
    seconds : float
        Wall clock to spend.
    threads : int, optional
        Default: the number of processors, two at most.
    target : float, optional
        Stop once ``upper <= target``.
    """
    data, pulls = _checked(X, R)
    run = _Run(data, pulls, incumbent=incumbent, target=0.0 if target is None else target, threads=threads)
    deadline = time.perf_counter() + seconds
    pass_tol, rate = max(run.tolerance(), tol), data.shape[1] / 2.0
    while not run.done(tol) and time.perf_counter() < deadline:
        began = time.perf_counter()
        if not run.sweep(pass_tol, deadline):
            break
        spent, left = time.perf_counter() - began, deadline - time.perf_counter()
        growth = min(max(_GROWTH[0], left / (4.0 * spent)), _GROWTH[1])
        pass_tol = max(tol, pass_tol * growth ** (-1.0 / rate))
    return run.bracket(tol)


def cheap_bound(X: ArrayLike, R: ArrayLike) -> float:
    """Upper bound of the dual norm in any dimension, in O(N d^2 + N D log N).

    The columns of R sum to zero, so ``h(w, b) = 1/2 sum_n R_n |w . x_n - b| + 1/2 (X.T R).T w``. Two bounds of the
    first sum, of which the smaller is returned. (1) The absolute value does not increase the spread about the mean:
    ``1/2 ||R|| sigma_max(X - mean)``, spectral norms. (2) Per output, move the positive pulls onto the negative ones,
    masses m_k over displacements e_k; the absolute value is 1-Lipschitz, so any such plan bounds the sum by
    ``1/2 sum m_k |w . e_k| <= 1/2 sqrt(sum m_k  lambda_max(sum m_k e_k e_k^T))``. The plan matches neighbours in the
    order of a k-d tree, and is the smaller bound when the signs of R alternate in space, as for a residual.
    """
    data, pulls = _checked(X, R)
    data = data - data.mean(0)
    affine = _largest_singular_value(data.T @ pulls)
    spread = _largest_singular_value(data) * _largest_singular_value(pulls)
    order = _nearby_order(data)
    plan = math.sqrt(sum(_transport(data[order], pulls[order, o]) ** 2 for o in range(pulls.shape[1])))
    return 0.5 * (min(spread, plan) + affine) * (1.0 + _SAFETY)


def _checked(X: ArrayLike, R: ArrayLike) -> tuple[Matrix, Matrix]:
    """Data and pulls (N, D) that sum to zero."""
    data, pulls = np.array(X, dtype=np.float64), np.array(R, dtype=np.float64)
    pulls = pulls.reshape(-1, 1) if pulls.ndim == 1 else pulls
    if data.ndim != 2 or pulls.ndim != 2 or data.shape[0] != pulls.shape[0] or 0 in data.shape + pulls.shape:
        raise ValueError(f"X (N, d) and R (N,) or (N, D) are needed; got shapes {data.shape} and {pulls.shape}.")
    total = np.abs(pulls.sum(0)).max()
    if not total <= 1e-6 * np.abs(pulls).sum() or not np.isfinite(data).all():
        raise ValueError(
            f"X must be finite and the columns of R must sum to zero; a column sums to {total:.3g}. "
            "Subtract its mean: the constant function is free."
        )
    return data, pulls - pulls.mean(0)


def _largest_singular_value(A: Matrix) -> float:
    return float(math.sqrt(max(np.linalg.eigvalsh(A.T @ A if A.shape[0] > A.shape[1] else A @ A.T)[-1], 0.0)))


def _nearby_order(X: Matrix) -> NDArray[np.int64]:
    """Points in the order of the leaves of a k-d tree that halves the widest coordinate."""
    order, blocks = np.arange(X.shape[0]), [(0, X.shape[0])]
    while blocks:
        lo, hi = blocks.pop()
        if hi - lo > 2:
            part = order[lo:hi]
            k, mid = int(np.argmax(np.ptp(X[part], axis=0))), (hi - lo) // 2
            order[lo:hi] = part[np.argpartition(X[part, k], mid)]
            blocks += [(lo, lo + mid), (lo + mid, hi)]
    return order


def _transport(X: Matrix, r: Vector) -> float:
    """Bound (2) of :func:`cheap_bound` for one output and points in order."""
    d = X.shape[1]
    moment = np.zeros((d, d))
    mass = match(np.ascontiguousarray(X), np.ascontiguousarray(r), np.empty(r.size), np.empty(r.size, np.int64), moment)
    return math.sqrt(mass * max(float(np.linalg.eigvalsh(moment)[-1]), 0.0))


def _cover(X: Matrix, *, both: bool) -> Matrix:
    """Simplicial cones (m, d + 1, d + 1) that cover all hinges on one side at least of which there are points.

    Directions in one orthant times a range of b that ends where the data do: prisms, each cut into d simplices. With
    ``both`` all directions, else half of them.
    """
    d, cones = X.shape[1], []
    for signs in itertools.product((1.0, -1.0), repeat=d - 1):
        W = np.diag((1.0, *signs))
        for rows in (W, -W) if both else (W,):
            reach = rows @ X.T
            low, high = np.c_[rows, reach.min(1)], np.c_[rows, reach.max(1)]
            cones += [np.r_[low[: k + 1], high[k:]] for k in range(d)]
    while len(cones) < _MIN_CONES:
        cones = [half for cone in cones for half in _halves(cone)]
    return np.array(cones)


def _halves(cone: Matrix) -> tuple[Matrix, Matrix]:
    length = np.linalg.norm(cone[:, None] - cone[None], axis=2)
    i, j = np.unravel_index(int(np.argmax(length)), length.shape)
    middle = cone[i] + cone[j]
    middle /= np.linalg.norm(middle[:-1])
    one, other = cone.copy(), cone.copy()
    one[i] = other[j] = middle
    return one, other


class _Run:
    """Everything that is known while the cones are searched."""

    def __init__(self, X: Matrix, R: Matrix, *, incumbent: float, target: float, threads: int | None) -> None:
        n, d = X.shape
        # One scale for all tolerances inside; h is homogeneous in both.
        self.mean = X.mean(0)
        X = X - self.mean
        self.scale = float(np.abs(X).max()) or 1.0
        size = float(np.abs(R).max()) or 1.0
        self.unit = self.scale * size
        X, R = X / self.scale, R / size
        # Lists keep this order: neighbours are open together, and pulls of one sign follow each other.
        order = _nearby_order(X)
        order = order[np.argsort(R[order, 0] > 0.0, kind="stable")]
        X, R = np.ascontiguousarray(X[order]), np.ascontiguousarray(R[order])
        self.points = Points(X, R)
        self.incumbent = incumbent / self.unit
        self.value = np.array([self.incumbent])
        self.target = target / self.unit
        bound = cheap_bound(X, R)
        affine = np.abs(X.T @ R).max() > 1e-9 * bound
        cones = _cover(X, both=bool(affine))
        # sides of a scalar h: maximise h, and -h
        sides = (1.0, -1.0) if R.shape[1] == 1 else (1.0,)
        self.tasks = [(cone, side) for cone in cones for side in sides]
        self.upper = np.full(len(self.tasks), bound)
        self.nodes = 0
        self.lock = Lock()
        threads = min(os.cpu_count() or 1, 2) if threads is None else threads
        self.spaces = [workspace((n, d, R.shape[1]), _ROOM * n + 4096) for _ in range(max(1, threads))]
        self.best = [Best(self.value, np.zeros(1), np.full(d + 1, np.nan), np.zeros(1)) for _ in self.spaces]
        # Nothing to do, but compiled when it returns: not on the clock.
        search(self.points, *self.spaces[0], self.best[0], np.ones(2), np.zeros(3, np.int64))

    def tolerance(self) -> float:
        """One to begin with."""
        return min(1.0, float(self.upper.max()) / max(2.0 * float(self.value[0]), _TINY))

    def done(self, tol: float) -> bool:
        """Whether the bound is as close as wanted."""
        top = max(float(self.upper.max()), self.value[0])
        return bool(top <= max(self.target, self.value[0] * (1.0 + tol)))

    def sweep(self, tol: float, deadline: float) -> bool:
        """Lower the bound of every cone to (1 + tol) times the best value, or the target; False if time ran out."""
        queue = iter(np.argsort(-self.upper))

        def work(k: int) -> bool:
            while True:
                with self.lock:
                    task = next(queue, None)
                if task is None:
                    return True
                if not self._search(int(task), k, 1.0 + tol, deadline):
                    return False

        if len(self.spaces) == 1:
            return work(0)
        with ThreadPoolExecutor(len(self.spaces)) as pool:
            return all(list(pool.map(work, range(len(self.spaces)))))

    def _search(self, task: int, k: int, factor: float, deadline: float) -> bool:
        stack, lists, scratch = self.spaces[k]
        limits = np.array([self.target, factor])
        if self.upper[task] <= max(self.target, self.value[0] * factor):
            return True
        X, (cone, side) = self.points.X, self.tasks[task]
        n, d = X.shape
        lists.index[:n] = np.arange(n)
        lists.tau[:n] = X @ cone[:, :d].T - cone[:, d]
        stack.vertices[0], stack.linear[0], stack.bound[0] = cone, 0.0, self.upper[task]
        stack.first[0], stack.length[0], stack.fresh[0] = 0, n, 0
        scratch.side[:] = side
        state, closed = np.array([1, 0, _SLICE]), 0.0
        while state[0]:
            state[2] = _SLICE
            closed = max(closed, search(self.points, stack, lists, scratch, self.best[k], limits, state))
            if time.perf_counter() > deadline:
                break
        self.upper[task] = min(self.upper[task], max(closed, float(stack.bound[: state[0]].max(initial=0.0))))
        with self.lock:
            self.nodes += int(state[1])
        return not state[0]

    def bracket(self, tol: float) -> Bracket:
        """What is known by now, in the caller's units."""
        found = max(self.best, key=lambda best: float(best.own[0])).point
        w, b = found[:-1] / np.linalg.norm(found[:-1]), float(found[-1] / np.linalg.norm(found[:-1]))
        X, R = self.points
        value = float(np.linalg.norm(np.maximum(X @ w - b, 0.0) @ R))
        lower = max(value, self.incumbent) if math.isfinite(value) else self.incumbent
        upper = max(float(self.upper.max()) * (1.0 + _SAFETY), lower)
        if not value >= self.incumbent:
            w, b = np.full(w.size, np.nan), math.nan
        return Bracket(
            lower=lower * self.unit,
            upper=upper * self.unit,
            w=w,
            b=b * self.scale + float(w @ self.mean),
            nodes=self.nodes,
            complete=bool(upper <= lower * (1.0 + tol) * (1.0 + 2.0 * _SAFETY)),
        )
