"""Kernels of the branch and bound over hinges (:mod:`pathnorm.representer.branch_and_bound`).

A node of the search is a simplicial cone of hinges ``(w, b)``: the non-negative combinations of nv = d + 1 vertices
with unit w. A point x_n sees the vertex i at ``tau_ni = w_i . x_n - b_i``. Where these have one sign it enters as one
linear function or not at all, on the whole cone and on every cone inside; only the others, the *open* points, are
looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER, OUTER
from pathnorm.representer._cone_bound import Work, cone_bound

__all__ = ["Lists", "Points", "Stack", "match", "search", "workspace"]

_DEPTH = 512


class Points(NamedTuple):
    """What is searched: X (N, d), pulls R (N, D)."""

    X: Any
    R: Any


class Stack(NamedTuple):
    """Cones to look at, the next one on top.

    vertices (depth, nv, d + 1), rows (w, b); linear (depth, D, d + 1), sum of R_n (x_n, -1) over points that are on;
    bound (depth,); first, length (depth,): the list of its parent's open points; fresh (depth,): the vertex that its
    parent has not.
    """

    vertices: Any
    linear: Any
    bound: Any
    first: Any
    length: Any
    fresh: Any


class Lists(NamedTuple):
    """Open points of the cones on the path to the current one, each list behind its parent's.

    index (size,); tau (size, nv), in memory order; pull (size,), of the current cone alone
    """

    index: Any
    tau: Any
    pull: Any


def workspace(shape: tuple[int, int, int], size: int) -> tuple[Stack, Lists, Work]:
    """Empty arrays for N, d, D and ``size`` places in the lists."""
    _, d, n_out = shape
    nv = d + 1
    ints = [np.zeros(_DEPTH, np.int64) for _ in range(3)]
    stack = Stack(np.empty((_DEPTH, nv, nv)), np.empty((_DEPTH, n_out, nv)), np.empty(_DEPTH), *ints)
    lists = Lists(np.empty(size, np.int64), np.empty((size, nv)), np.empty(size))
    square = np.zeros((nv, nv))
    work = Work(
        np.ones(n_out),
        np.empty((nv, n_out)),
        np.empty((4, n_out)),
        square,
        square.copy(),
        *(np.zeros(nv) for _ in range(10)),
    )
    return stack, lists, work


@njit(**INNER)
def _sort_points(points, stack, lists, top):
    """List the points open on the cone ``top`` behind its parent's list; add those that are on to its linear part."""
    X, R = points
    nv, d, n_out = X.shape[1] + 1, X.shape[1], R.shape[1]
    k, begin = stack.fresh[top], stack.first[top]
    out = stop = begin + stack.length[top]
    for p in range(begin, stop):
        n = lists.index[p]
        t = -stack.vertices[top, k, d]
        for c in range(d):
            t += stack.vertices[top, k, c] * X[n, c]
        low = high = t
        for i in range(nv):
            s = lists.tau[p, i]
            lists.tau[out, i] = s
            if i != k:
                low, high = min(low, s), max(high, s)
        if high <= 0.0:
            continue
        if low >= 0.0:
            for o in range(n_out):
                for c in range(d):
                    stack.linear[top, o, c] += R[n, o] * X[n, c]
                stack.linear[top, o, d] -= R[n, o]
            continue
        lists.tau[out, k] = t
        lists.index[out] = n
        out += 1
    return out - stop


@njit(**INNER)
def _spread(work, share):
    """Into ``work.factor``: how much h turns away from ``side`` along the edges, by its share."""
    nv, n_out = work.values.shape
    for i in range(nv):
        for j in range(i):
            s = 0.0
            if share > 0.0:
                for o in range(n_out):
                    s += (work.values[i, o] - work.values[j, o]) ** 2
            work.factor[i, j] = 0.5 * share * np.sqrt(s)


@njit(**INNER)
def _add_errors(points, lists, work, share, span):
    """Add to ``work.factor`` what the interpolation along the edges contributes to the error at ``work.at``."""
    at, cost, nv = work.at, work.factor, work.at.size
    for p in range(span[0], span[1]):
        q = max(lists.pull[p], 0.0)
        if share > 0.0:
            s, n = 0.0, lists.index[p]
            for o in range(work.side.size):
                s += (points.R[n, o] - lists.pull[p] * work.side[o]) ** 2
            q += share * np.sqrt(s)
        for i in range(nv):
            s = at[i] * lists.tau[p, i] if q > 0.0 else 0.0
            if s > 0.0:
                for j in range(nv):
                    t = -at[j] * lists.tau[p, j]
                    if t > 0.0:
                        cost[max(i, j), min(i, j)] += q * min(s, t)


@njit(**INNER)
def _lengths(vertices, top, cost):
    """Into ``cost``: squared lengths of the edges."""
    for i in range(cost.shape[0]):
        for j in range(i):
            cost[i, j] = 0.0
            for c in range(cost.shape[0]):
                cost[i, j] += (vertices[top, i, c] - vertices[top, j, c]) ** 2


@njit(**INNER)
def _worst_edge(cost):
    a, b = 1, 0
    for i in range(cost.shape[0]):
        for j in range(i):
            if cost[i, j] > cost[a, b]:
                a, b = i, j
    return a, b


@njit(**INNER)
def _split_edge(points, vertices, top, lists, work, share, span):
    """The edge along which the interpolation is worst at the maximiser; the longest, if it is right there.

    What is across depends on all of the cone: it counts by its share, and with it every point of the cone.
    """
    _spread(work, share)
    if share > 0.0:
        for i in range(work.at.size):
            work.at[i] = 1.0
    _add_errors(points, lists, work, share, span)
    a, b = _worst_edge(work.factor)
    if work.factor[a, b] == 0.0:
        _lengths(vertices, top, work.factor)
        a, b = _worst_edge(work.factor)
    return a, b


@njit(**INNER)
def _split(stack, top, a, b, first, length):
    """Put the halves of the cone ``top`` in its place and on top of it."""
    nv, n_out = stack.vertices.shape[1], stack.linear.shape[1]
    new = top + 1
    norm = 0.0
    for i in range(nv):
        for c in range(nv):
            stack.vertices[new, i, c] = stack.vertices[top, i, c]
    for c in range(nv):
        s = stack.vertices[top, a, c] + stack.vertices[top, b, c]
        stack.vertices[top, a, c] = s
        if c < nv - 1:
            norm += s * s
    norm = np.sqrt(norm)
    for c in range(nv):
        stack.vertices[top, a, c] /= norm
        stack.vertices[new, b, c] = stack.vertices[top, a, c]
    for o in range(n_out):
        for c in range(nv):
            stack.linear[new, o, c] = stack.linear[top, o, c]
    stack.bound[new] = stack.bound[top]
    stack.fresh[top], stack.fresh[new] = a, b
    stack.first[top] = stack.first[new] = first
    stack.length[top] = stack.length[new] = length


@njit(**OUTER)
def search(points, stack, lists, work, best, limits, state):
    """Go on with the cones on the stack until it is empty or ``state[2]`` passes over points are used up.

    limits: value below which nothing matters, and 1 + tol. state (3,): number of cones on the stack, cones seen so
    far, passes left. Returns the largest bound of a cone that needs no more work, or has no room for it.
    """
    closed = 0.0
    while state[0] > 0 and state[2] > 0:
        top = state[0] - 1
        limit = max(limits[0], best.value[0] * limits[1])
        if stack.bound[top] > limit:
            begin = stack.first[top] + stack.length[top]
            count = _sort_points(points, stack, lists, top)
            span = (begin, begin + count)
            state[1] += 1
            state[2] -= stack.length[top] + 2 * count + 20
            best.limit[0] = limit
            bound, share = cone_bound(points, stack, lists, work, best, top, span)
            stack.bound[top] = min(stack.bound[top], bound)
            limit = max(limits[0], best.value[0] * limits[1])
            room = top + 2 <= stack.bound.size and begin + 2 * count < lists.index.size
            if stack.bound[top] > limit and room:
                a, b = _split_edge(points, stack.vertices, top, lists, work, share, span)
                _split(stack, top, a, b, begin, count)
                state[0] = top + 2
                continue
        closed = max(closed, stack.bound[top])
        state[0] = top
    return closed


@njit(**OUTER)
def match(X, r, left, heap, moment):
    """Move positive onto negative pulls, each to the last one before that is unmatched.

    X (N, d) in order; left, heap (N,) scratch. Adds m e e^T to ``moment`` for every mass m moved by e, and returns the
    sum of these masses.
    """
    mass, size = 0.0, 0
    for n in range(r.size):
        s = r[n]
        while size > 0 and s != 0.0 and (s > 0.0) != (left[heap[size - 1]] > 0.0):
            m = heap[size - 1]
            move = min(abs(s), abs(left[m]))
            mass += move
            for i in range(X.shape[1]):
                for j in range(X.shape[1]):
                    moment[i, j] += move * (X[n, i] - X[m, i]) * (X[n, j] - X[m, j])
            left[m] -= np.copysign(move, left[m])
            s -= np.copysign(move, s)
            if left[m] == 0.0:
                size -= 1
        if s != 0.0:
            left[n] = s
            heap[size] = n
            size += 1
    return mass
