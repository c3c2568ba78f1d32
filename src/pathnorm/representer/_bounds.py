"""Kernels of the branch and bound over hinges (:mod:`pathnorm.representer.branch_and_bound`).

A node is a simplicial cone of hinges ``(w, b)``: the non-negative combinations of nv = d + 1 vertices with unit w. A
point x_n sees the vertex i at ``tau_ni = w_i . x_n - b_i``. Where these have one sign it enters as one linear function
or not at all, on the whole cone and on every cone inside; only the others, the *open* points, are looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER, OUTER

__all__ = ["Best", "Lists", "Points", "Stack", "Work", "match", "search", "workspace"]

_DEPTH = 512
_STEPS = 8  # improvements of the minorants before a node is split
_PIVOT = 1e-14
_SLACK = 1e-12


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


class Work(NamedTuple):
    """Scratch: side (D,), values (nv, D), error (4, D), gram, factor (nv, nv), the rest (nv,).

    Of the scalar problem on a cone, at the vertices: form (linear part, as a vector in (w, b)), upper (without the
    pulls < 0), ell (bounding function), at (its maximiser, as weights of the vertices), piece (the next function).
    """

    side: Any
    values: Any
    error: Any
    gram: Any
    factor: Any
    passive: Any
    reach: Any
    trial: Any
    form: Any
    upper: Any
    ell: Any
    at: Any
    piece: Any
    mixed: Any
    there: Any


class Best(NamedTuple):
    """Largest value known: value (1,), shared by all threads; own (1,) at point (d + 1,), found by this one."""

    value: Any
    own: Any
    point: Any


def workspace(shape: tuple[int, int, int], size: int) -> tuple[Stack, Lists, Work]:
    """Empty arrays for N, d, D and ``size`` places in the lists."""
    _, d, n_out = shape
    nv = d + 1
    ints = [np.zeros(_DEPTH, np.int64) for _ in range(3)]
    stack = Stack(np.empty((_DEPTH, nv, nv)), np.empty((_DEPTH, n_out, nv)), np.empty(_DEPTH), *ints)
    lists = Lists(np.empty(size, np.int64), np.empty((size, nv)), np.empty(size))
    square = np.zeros((nv, nv))
    work = Work(np.ones(n_out), np.empty((nv, n_out)), np.empty((4, n_out)), square, square.copy(), *(np.zeros(nv) for _ in range(10)))
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
def _majorise(vertices, top, lists, form, begin, stop, out):
    """Into ``out``: the linear part and, for pulls > 0, the linear interpolation, at the vertices."""
    nv, tau, pull = out.size, lists.tau, lists.pull
    for i in range(nv):
        out[i] = 0.0
        for c in range(nv):
            out[i] += form[c] * vertices[top, i, c]
    for p in range(begin, stop):
        q = pull[p]
        if q > 0.0:
            for i in range(nv):
                out[i] += q * max(tau[p, i], 0.0)


@njit(**INNER)
def _minorise(lists, upper, begin, stop, at, out):
    """Into ``out``: ``upper`` and, for pulls < 0, the linear piece in force at the point ``at``.

    Returns the sum by which the interpolation of the pulls > 0 is too large there.
    """
    nv, tau, pull = out.size, lists.tau, lists.pull
    for i in range(nv):
        out[i] = upper[i]
    excess = 0.0
    for p in range(begin, stop):
        q, t = pull[p], 0.0
        for i in range(nv):
            t += at[i] * tau[p, i]
        if q > 0.0:
            on = 0.0
            for i in range(nv):
                on += at[i] * max(tau[p, i], 0.0)
            excess += q * (on - max(t, 0.0))
        elif t > 0.0:
            for i in range(nv):
                out[i] += q * tau[p, i]
    return excess


@njit(**INNER)
def _solve_passive(gram, factor, passive, ell, out):
    """Solve the passive rows of ``gram out = ell``; zero elsewhere."""
    nv, L = ell.size, factor
    for i in range(nv):
        out[i] = 0.0
        if passive[i] == 0.0:
            continue
        z = ell[i]
        for j in range(i + 1):
            if passive[j] == 0.0:
                continue
            s = gram[i, j]
            for k in range(j):
                s -= passive[k] * L[i, k] * L[j, k]
            if i == j:
                L[i, i] = np.sqrt(max(s, _PIVOT))
            else:
                L[i, j] = s / L[j, j]
                z -= L[i, j] * out[j]
        out[i] = z / L[i, i]
    for i in range(nv - 1, -1, -1):
        if passive[i] != 0.0:
            z = out[i]
            for k in range(i + 1, nv):
                if passive[k] != 0.0:
                    z -= L[k, i] * out[k]
            out[i] = z / L[i, i]


@njit(**INNER)
def _over_cone(work, ell, out):
    """Maximum of ``ell . a / |W^T a|`` over a >= 0, from above, and its point ``out`` with |W^T a| = 1.

    It is min |u| subject to w_i . u >= ell_i, by active sets on the multipliers a, u = W^T a; what rounding leaves
    infeasible is lifted along the mean direction, so the bound holds wherever the iteration stops.
    """
    nv, gram, passive, trial = ell.size, work.gram, work.passive, work.trial
    worst, k = 0.0, -1
    for i in range(nv):
        passive[i] = out[i] = 0.0
        if ell[i] > worst:
            worst, k = ell[i], i
    if k < 0:
        return 0.0
    negligible, norm, lift = _SLACK * worst, 0.0, 0.0
    for _ in range(4 * nv):
        passive[k] = 1.0
        leave = k
        while leave >= 0:
            _solve_passive(gram, work.factor, passive, ell, trial)
            step, leave = 1.0, -1
            for i in range(nv):
                if passive[i] != 0.0 and trial[i] <= 0.0:
                    s = out[i] / max(out[i] - trial[i], 1e-300)
                    if leave < 0 or s < step:
                        step, leave = s, i
            for i in range(nv):
                out[i] += step * (trial[i] - out[i])
            if leave >= 0:
                passive[leave] = out[leave] = 0.0
        worst, k, lift, norm = negligible, -1, 0.0, 0.0
        for i in range(nv):
            s = 0.0
            for j in range(nv):
                s += gram[i, j] * out[j]
            norm += out[i] * s
            s = ell[i] - s
            lift = max(lift, s / work.reach[i])
            if s > worst and passive[i] == 0.0:
                worst, k = s, i
        if k < 0:
            break
    norm = np.sqrt(max(norm, 1e-300))
    for i in range(nv):
        out[i] /= norm
    return norm + lift


@njit(**INNER)
def _geometry(vertices, top, gram, reach):
    """Gram matrix of the directions; ``reach``: their products with the mean direction. Returns the least of these."""
    nv = reach.size
    total = 0.0
    for i in range(nv):
        reach[i] = 0.0
        for j in range(nv):
            s = 0.0
            for c in range(nv - 1):
                s += vertices[top, i, c] * vertices[top, j, c]
            gram[i, j] = s
            reach[i] += s
        total += reach[i]
    least = 1.0
    for i in range(nv):
        reach[i] /= np.sqrt(total)
        least = min(least, reach[i])
    return least


@njit(**INNER)
def _note(vertices, top, best, at, value):
    """Keep the point ``at`` if its value is the largest so far."""
    if value > best.own[0]:
        best.own[0] = value
        for c in range(at.size):
            best.point[c] = 0.0
            for i in range(at.size):
                best.point[c] += at[i] * vertices[top, i, c]
    best.value[0] = max(best.value[0], value)


@njit(**INNER)
def _dot(a, b):
    s = 0.0
    for k in range(a.size):
        s += a[k] * b[k]
    return s


@njit(**INNER)
def _search_step(work, relaxed, bound, limit):
    """Best mixture of the functions ``ell`` and ``piece``: goes there and returns its bound, with maximiser ``at``."""
    ell, piece, mixed, there = work.ell, work.piece, work.mixed, work.there
    low, high, slope_low, slope_high = 0.0, 1.0, relaxed - bound, 0.0
    t, best_t, first = 1.0, 0.0, bound
    for trial in range(5):
        for i in range(ell.size):
            mixed[i] = (1.0 - t) * ell[i] + t * piece[i]
        value = _over_cone(work, mixed, there)
        slope = 0.0
        for i in range(ell.size):
            slope += (piece[i] - ell[i]) * there[i]
        if value < bound:
            bound, best_t = value, t
            for i in range(ell.size):
                work.at[i] = there[i]
        if bound <= limit or (trial == 0 and slope <= 0.0):
            break
        if slope > 0.0:
            high, slope_high = t, slope
        else:
            low, slope_low = t, slope
        t = low + (high - low) * min(max(slope_low / (slope_low - slope_high), 0.1), 0.9)
    if bound < first:
        for i in range(ell.size):
            ell[i] += best_t * (piece[i] - ell[i])
    return bound


@njit(**INNER)
def _scalar_bound(vertices, top, lists, work, best, span, limit):
    """Bound the sum of pull_n (tau_n)_+ over the cone, |w| = 1; stop once it is below limit or cannot get there.

    The pulls > 0 are interpolated from the vertices, which is their concave envelope. For the pulls < 0 any slopes in
    [0, 1] give a bound that is convex in the slopes: it is minimised by steps towards the pieces in force at the
    maximiser [Frank, Wolfe 1956], with a search along each step.
    """
    ell, at, (begin, stop) = work.ell, work.at, span
    _majorise(vertices, top, lists, work.form, begin, stop, work.upper)
    for i in range(at.size):
        at[i] = 1.0
    _minorise(lists, work.upper, begin, stop, at, ell)
    bound = _over_cone(work, ell, at)
    for _ in range(_STEPS):
        if bound <= limit or bound == 0.0:
            break
        excess = _minorise(lists, work.upper, begin, stop, at, work.piece)
        relaxed = _dot(work.piece, at)
        _note(vertices, top, best, at, relaxed - excess)
        if relaxed > limit or relaxed > bound * (1.0 - 1e-9):
            break
        value = _search_step(work, relaxed, bound, limit)
        if value >= bound:
            break
        bound = value
    return bound


@njit(**INNER)
def _split_edge(points, vertices, top, lists, work, share, span):
    """The two vertices between which the interpolation is worst at the maximiser; else the longest edge.

    What is across depends on all of the cone: it counts by its share, and with it every point of the cone.
    """
    at, cost, values, nv, (n_out,) = work.at, work.factor, work.values, work.at.size, work.side.shape
    for i in range(nv):
        for j in range(i):
            cost[i, j] = 0.0
            if share > 0.0:
                for o in range(n_out):
                    cost[i, j] += (values[i, o] - values[j, o]) ** 2
                cost[i, j] = 0.5 * share * np.sqrt(cost[i, j])
    if share > 0.0:
        for i in range(nv):
            at[i] = 1.0
    for p in range(span[0], span[1]):
        q = max(lists.pull[p], 0.0)
        if share > 0.0:
            s, n = 0.0, lists.index[p]
            for o in range(n_out):
                s += (points.R[n, o] - lists.pull[p] * work.side[o]) ** 2
            q += share * np.sqrt(s)
        if q > 0.0:
            for i in range(nv):
                s = at[i] * lists.tau[p, i]
                if s > 0.0:
                    for j in range(nv):
                        t = -at[j] * lists.tau[p, j]
                        if t > 0.0:
                            cost[max(i, j), min(i, j)] += q * min(s, t)
    a, b, worst = 0, 1, 0.0
    for i in range(nv):
        for j in range(i):
            if cost[i, j] > worst:
                worst, a, b = cost[i, j], i, j
    if worst == 0.0:
        for i in range(nv):
            for j in range(i):
                s = 0.0
                for c in range(nv):
                    s += (vertices[top, i, c] - vertices[top, j, c]) ** 2
                if s > worst:
                    worst, a, b = s, i, j
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


@njit(**INNER)
def _vertex_values(points, vertices, top, lists, linear, span, values):
    """Into ``values`` (nv, D): h at the vertices. Returns the largest of their norms."""
    R, (nv, n_out), (begin, stop) = points.R, values.shape, span
    for i in range(nv):
        for o in range(n_out):
            s = 0.0
            for c in range(nv):
                s += linear[top, o, c] * vertices[top, i, c]
            values[i, o] = s
    for p in range(begin, stop):
        n = lists.index[p]
        for i in range(nv):
            t = lists.tau[p, i]
            if t > 0.0:
                for o in range(n_out):
                    values[i, o] += R[n, o] * t
    largest = 0.0
    for i in range(nv):
        s = 0.0
        for o in range(n_out):
            s += values[i, o] ** 2
        largest = max(largest, s)
    return np.sqrt(largest)


@njit(**INNER)
def _turn(values, side):
    """Into ``side``: direction of the mean of ``values``, which are replaced by their parts across it.

    Returns the largest norm of these, and the largest value along -side.
    """
    nv, n_out = values.shape
    norm, back, across = 0.0, 0.0, 0.0
    for o in range(n_out):
        side[o] = 0.0
        for i in range(nv):
            side[o] += values[i, o]
        norm += side[o] ** 2
    norm = np.sqrt(norm)
    for o in range(n_out):
        side[o] = side[o] / norm if norm > 0.0 else (1.0 if o == 0 else 0.0)
    for i in range(nv):
        along, square = 0.0, 0.0
        for o in range(n_out):
            along += side[o] * values[i, o]
        for o in range(n_out):
            values[i, o] -= along * side[o]
            square += values[i, o] ** 2
        back, across = max(back, -along), max(across, square)
    return back, np.sqrt(across)


@njit(**INNER)
def _errors(points, lists, side, span, error):
    """Into ``error`` (4, D): how much the interpolation of the open points can be off, upwards and downwards.

    Rows 0, 1 for the outputs, rows 2, 3 for their parts across ``side``. Returns the error along -side.
    """
    R, n_out, nv, (begin, stop) = points.R, side.size, lists.tau.shape[1], span
    back = 0.0
    for o in range(n_out):
        error[0, o] = error[1, o] = error[2, o] = error[3, o] = 0.0
    for p in range(begin, stop):
        n, low, high = lists.index[p], 0.0, 0.0
        for i in range(nv):
            low, high = max(low, -lists.tau[p, i]), max(high, lists.tau[p, i])
        gap = low * high / (low + high)
        back += max(lists.pull[p], 0.0) * gap
        for o in range(n_out):
            q = gap * R[n, o]
            error[0, o] += max(q, 0.0)
            error[1, o] += max(-q, 0.0)
            q -= gap * lists.pull[p] * side[o]
            error[2, o] += max(q, 0.0)
            error[3, o] += max(-q, 0.0)
    return back


@njit(**INNER)
def _norm_of_worst(error, row):
    s = 0.0
    for o in range(error.shape[1]):
        s += max(error[row, o], error[row + 1, o]) ** 2
    return np.sqrt(s)


@njit(**INNER)
def _project(points, stack, lists, work, top, span):
    """Pulls and linear part along ``side``."""
    side, n_out, R = work.side, work.side.size, points.R
    for p in range(span[0], span[1]):
        n, q = lists.index[p], 0.0
        for o in range(n_out):
            q += side[o] * R[n, o]
        lists.pull[p] = q
    for c in range(work.form.size):
        s = 0.0
        for o in range(n_out):
            s += side[o] * stack.linear[top, o, c]
        work.form[c] = s


@njit(**INNER)
def _cone_bound(points, stack, lists, work, best, top, span, limit):
    """Bound |h| on the cone ``top``; for D = 1, h along the given side. Also returns the share that is across.

    For D > 1 the part along the mean direction gets the scalar bound and the part across it, which is small on a small
    cone, one from the vertices; on a large cone the largest norm at a vertex and the errors in between may be less.
    """
    least = _geometry(stack.vertices, top, work.gram, work.reach)
    if work.side.size == 1:
        _project(points, stack, lists, work, top, span)
        return _scalar_bound(stack.vertices, top, lists, work, best, span, limit), 0.0
    largest = _vertex_values(points, stack.vertices, top, lists, stack.linear, span, work.values)
    back, across = _turn(work.values, work.side)
    _project(points, stack, lists, work, top, span)
    back += _errors(points, lists, work.side, span, work.error)
    across = (across + _norm_of_worst(work.error, 2)) / least
    whole = (largest + _norm_of_worst(work.error, 0)) / least
    inner = np.sqrt(max(limit * limit - across * across, 0.0))
    along = max(_scalar_bound(stack.vertices, top, lists, work, best, span, inner), back / least)
    bound = np.sqrt(along * along + across * across)
    return min(bound, whole), across / max(bound, 1e-300)


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
            bound, share = _cone_bound(points, stack, lists, work, best, top, span, limit)
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

    X (N, d) in order; left, heap (N,) scratch. Adds m e e^T to ``moment`` for every mass m moved by e; returns their sum.
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
