"""Bounds of ``|h(w, b)|`` over one cone of hinges (see :mod:`pathnorm.representer._bounds`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER

__all__ = ["Best", "Work", "cone_bound"]

_STEPS = 8  # improvements of the minorants before a cone is split
_PIVOT = 1e-14
_SLACK = 1e-12


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
    """Largest value known: value (1,), shared by all threads; own (1,) at point (d + 1,), found by this one.

    limit (1,): the bound that would be enough now.
    """

    value: Any
    own: Any
    point: Any
    limit: Any


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
def _settle(work, ell, out, leave):
    """Move ``out`` towards the solution for the passive rows; those that become negative on the way leave."""
    passive, trial = work.passive, work.trial
    while leave >= 0:
        _solve_passive(work.gram, work.factor, passive, ell, trial)
        step, leave = 1.0, -1
        for i in range(ell.size):
            if passive[i] != 0.0 and trial[i] <= 0.0:
                s = out[i] / max(out[i] - trial[i], 1e-300)
                if leave < 0 or s < step:
                    step, leave = s, i
        for i in range(ell.size):
            out[i] += step * (trial[i] - out[i])
        if leave >= 0:
            passive[leave] = out[leave] = 0.0


@njit(**INNER)
def _over_cone(work, ell, out):
    """Maximum of ``ell . a / |W^T a|`` over a >= 0, from above, and its point ``out`` with |W^T a| = 1.

    It is min |u| subject to w_i . u >= ell_i, by active sets on the multipliers a, u = W^T a; what rounding leaves
    infeasible is lifted along the mean direction, so the bound holds wherever the iteration stops.
    """
    nv, gram, passive = ell.size, work.gram, work.passive
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
        _settle(work, ell, out, k)
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
        relaxed = 0.0
        for i in range(at.size):
            relaxed += work.piece[i] * at[i]
        _note(vertices, top, best, at, relaxed - excess)
        if relaxed > limit or relaxed > bound * (1.0 - 1e-9):
            break
        value = _search_step(work, relaxed, bound, limit)
        if value >= bound:
            break
        bound = value
    return bound


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
def cone_bound(points, stack, lists, work, best, top, span):
    """Bound |h| on the cone ``top``; for D = 1, h along the given side. Also returns the share that is across.

    For D > 1 the part along the mean direction gets the scalar bound and the part across it, which is small on a small
    cone, one from the vertices; on a large cone the largest norm at a vertex and the errors in between may be less.
    """
    limit = best.limit[0]
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
