"""Ascent of ``|h(w, b)|`` on the arrangement of the samples, to a local maximum and the samples that its hinge touches.

``h(w, b) = sum_n r_n (w' x_n - b)_+`` with ``sum r = 0``. On a cell of the arrangement h is linear in w; a sample whose
hinge function bends h upwards never stops an ascent, one that bends it downwards (``r_n`` against the sign of h) may
hold it: then it joins the hinge and the ascent goes on in the face of directions that keep it there. Every arc is
climbed to its exact maximum, so the height never falls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["ascend", "best_offsets"]

# These sort, so they allocate.
_SORTS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_PLAIN: dict[str, Any] = _SORTS | {"no_cpython_wrapper": True}


@njit(**_SORTS)
def best_offsets(T, R, hinge, height):
    """For every direction the sample through which the best hinge goes, and the height there.

    T (C, N) holds projections; R (N, D) sums to zero. Writes hinge (C,), the sample, and height (C,), ``||h||``.
    """
    directions, samples = T.shape
    outputs = R.shape[1]
    zeroth, first = np.empty(outputs), np.empty(outputs)
    for k in range(directions):
        order = np.argsort(T[k])
        zeroth[:] = 0.0
        first[:] = 0.0
        best, where = -1.0, order[samples - 1]
        for i in range(samples - 1, -1, -1):
            n = order[i]
            t = T[k, n]
            square = 0.0
            for q in range(outputs):
                value = first[q] - t * zeroth[q]
                square += value * value
                zeroth[q] += R[n, q]
                first[q] += t * R[n, q]
            if square > best:
                best, where = square, n
        hinge[k] = where
        height[k] = np.sqrt(best)


@njit(**_PLAIN)
def _offset(X, r, w, t):
    """Best hinge for one direction and one output: the sample and ``|h|``."""
    samples, features = X.shape
    for n in range(samples):
        total = 0.0
        for j in range(features):
            total += X[n, j] * w[j]
        t[n] = total
    order = np.argsort(t)
    zeroth = first = 0.0
    best, where = -1.0, order[samples - 1]
    for i in range(samples - 1, -1, -1):
        n = order[i]
        value = abs(first - t[n] * zeroth)
        zeroth += r[n]
        first += t[n] * r[n]
        if value > best:
            best, where = value, n
    return where, best


@njit(**_PLAIN)
def _moment(X, r, t, on, m, u):
    """Sum of ``r_n (x_n - x_m)`` over active samples into u; returns the sum of their r."""
    samples, features = X.shape
    u[:] = 0.0
    total = 0.0
    for n in range(samples):
        if t[n] > 0.0 and not on[n]:
            total += r[n]
            for j in range(features):
                u[j] += r[n] * X[n, j]
    for j in range(features):
        u[j] -= total * X[m, j]
    return total


@njit(**_PLAIN)
def _project(v, Q, rank):
    """Remove from v its part in the span of the first rows of Q, twice for rounding."""
    for _ in range(2):
        for i in range(rank):
            inner = 0.0
            for j in range(v.size):
                inner += Q[i, j] * v[j]
            for j in range(v.size):
                v[j] -= inner * Q[i, j]


@njit(**_PLAIN)
def _norm(v):
    total = 0.0
    for j in range(v.size):
        total += v[j] * v[j]
    return np.sqrt(total)


@njit(**_PLAIN)
def _span(X, stuck, count, Q, work):
    """Orthonormal rows Q spanning ``x_i - x_m`` over the hinge; drops dependent samples. Returns (count, rank)."""
    rank, kept = 0, 1
    m = stuck[0]
    for i in range(1, count):
        for j in range(work.size):
            work[j] = X[stuck[i], j] - X[m, j]
        before = _norm(work)
        _project(work, Q, rank)
        after = _norm(work)
        if after > 1e-9 * before and after > 0.0:
            for j in range(work.size):
                Q[rank, j] = work[j] / after
            rank += 1
            stuck[kept] = stuck[i]
            kept += 1
    return kept, rank


@njit(**_SORTS)
def _climb(X, r, sign, w, g, u, t, on, stuck, count, eps):
    """Go along the great circle from w towards the unit tangent g to the first maximum of ``sign h``.

    Returns (cosine, sine, sample that holds it or -1).
    """
    samples, features = X.shape
    m = stuck[0]
    level = slope = 0.0  # u' w and u' g of the moment that is valid after the start
    for j in range(features):
        level += u[j] * w[j]
        slope += u[j] * g[j]
    level *= sign
    slope *= sign
    crossing = np.empty(samples)
    which = np.empty(samples, np.int64)
    speed = np.empty(samples)
    offset = 0.0
    for j in range(features):
        offset += g[j] * X[m, j]
    found = 0
    for n in range(samples):
        if on[n]:
            continue
        tau = -offset
        for j in range(features):
            tau += g[j] * X[n, j]
        if abs(tau) <= 1e-300:
            continue
        if abs(t[n]) <= eps:
            # On the hinge by coincidence: it switches on at once if it moves up.
            if tau > eps and t[n] <= 0.0:
                slope += sign * r[n] * tau
                if slope <= 0.0 and sign * r[n] < 0.0:
                    return 1.0, 0.0, n
            elif tau < -eps and t[n] > 0.0:
                slope -= sign * r[n] * tau
                if slope <= 0.0 and sign * r[n] < 0.0:
                    return 1.0, 0.0, n
            continue
        ratio = -t[n] / tau  # tangent of the angle of the crossing, in (0, pi)
        crossing[found] = -1.0 / ratio  # minus the cotangent grows with the angle
        which[found] = n
        speed[found] = tau
        found += 1
    order = np.argsort(crossing[:found])
    for i in range(found + 1):
        # Stationary at tan(angle) = slope / level; the slope falls to zero there.
        peak = -level / slope if slope > 0.0 else -np.inf
        if slope <= 0.0:
            return 1.0, 0.0, -1
        if i == found or peak <= crossing[order[i]]:
            norm = np.sqrt(level * level + slope * slope)
            return level / norm, slope / norm, -1
        q = order[i]
        n = which[q]
        tau = speed[q]
        change = sign * r[n] if t[n] <= 0.0 else -sign * r[n]
        level += change * t[n]
        slope += change * tau
        # The slope of h along the arc at this angle, after the crossing.
        cotangent = -crossing[q]
        norm = np.sqrt(1.0 + cotangent * cotangent)
        cosine, sine = cotangent / norm, 1.0 / norm
        if slope * cosine - level * sine <= 0.0:
            return cosine, sine, n
    return 1.0, 0.0, -1


@njit(**_PLAIN)
def _release(X, r, sign, u, total, w, stuck, count, tol):
    """Index in the hinge of the sample that should leave, -1 if none, -2 if the offset should move; and its side.

    Multipliers s with ``gradient + sum_i s_i (x_i, -1) = (mu w, 0)`` must lie between ``sign r_i`` and zero.
    """
    features = w.size
    m = stuck[0]
    free = count - 1
    if free > 0:
        D = np.empty((features, free))
        for i in range(free):
            for j in range(features):
                D[j, i] = X[stuck[i + 1], j] - X[m, j]
        height = 0.0
        for j in range(features):
            height += u[j] * w[j]
        rest = np.empty(features)
        for j in range(features):
            rest[j] = -sign * (u[j] - height * w[j])
        multipliers = np.linalg.lstsq(D, rest)[0]
    else:
        multipliers = np.empty(0)
    own = -sign * total
    for i in range(free):
        own -= multipliers[i]
    worst, leaving, side = tol, -1, False
    for i in range(count):
        s = own if i == 0 else multipliers[i - 1]
        limit = sign * r[stuck[i]]
        if s > worst:
            worst, leaving, side = s, i, False
        if min(limit, 0.0) - s > worst:
            worst, leaving, side = min(limit, 0.0) - s, i, True
    if leaving == 0 and count == 1:
        return -2, side
    return leaving, side


@njit(**_SORTS)
def _ascend_one(X, r, w, stuck, most, scale, budget):
    """Ascend from the unit direction w in place; returns the size of the hinge and the signed height."""
    samples, features = X.shape
    u, g, work, t = np.empty(features), np.empty(features), np.empty(features), np.empty(samples)
    Q = np.empty((features, features))
    on = np.zeros(samples, np.bool_)
    eps = 1e-12 * scale
    m, height = _offset(X, r, w, t)
    stuck[0] = m
    count = 1
    value = 0.0
    largest = 0.0
    for n in range(samples):
        largest = max(largest, abs(r[n]))
    for _ in range(budget):
        count, rank = _span(X, stuck, count, Q, work)
        m = stuck[0]
        on[:] = False
        for i in range(count):
            on[stuck[i]] = True
        base = 0.0
        for j in range(features):
            base += w[j] * X[m, j]
        for n in range(samples):
            t[n] = -base
            for j in range(features):
                t[n] += w[j] * X[n, j]
        total = _moment(X, r, t, on, m, u)
        value = 0.0
        for j in range(features):
            value += u[j] * w[j]
        sign = 1.0 if value >= 0.0 else -1.0
        for j in range(features):
            g[j] = sign * (u[j] - value * w[j])
        _project(g, Q, rank)
        size = _norm(g)
        if size > 1e-10 * largest * scale and size > 1e-13 * _norm(u) and rank < features - 1:
            for j in range(features):
                g[j] /= size
            inner = 0.0
            for j in range(features):
                inner += g[j] * w[j]
            for j in range(features):
                g[j] -= inner * w[j]
            cosine, sine, holder = _climb(X, r, sign, w, g, u, t, on, stuck, count, eps)
            if sine > 1e-14 or holder >= 0:
                for j in range(features):
                    w[j] = cosine * w[j] + sine * g[j]
                size = _norm(w)
                for j in range(features):
                    w[j] /= size
                if holder >= 0 and count < most:
                    stuck[count] = holder
                    count += 1
                continue
        leaving, side = _release(X, r, sign, u, total, w, stuck, count, 1e-9 * largest)
        if leaving == -1:
            break
        if leaving == -2:
            new, better = _offset(X, r, w, t)
            if better <= abs(value) * (1.0 + 1e-12):
                break
            stuck[0] = new
            continue
        # It leaves to the side that gains: a nudge in w, far below what can be seen, decides how it counts.
        count -= 1
        for i in range(leaving, count):
            stuck[i] = stuck[i + 1]
        stuck[count] = -1
    return count, value


@njit(**_SORTS)
def ascend(X, R, A, W, stuck, size, height, scale, budget):
    """Ascend from every row of W (C, d), in place, for the output directions A (C, D), unit rows.

    Writes stuck (C, d + 1): the samples of the hinge, and size (C,): how many; height (C,): the signed height of
    ``h' a`` there. ``scale`` is the largest norm of a sample.
    """
    samples, outputs = R.shape
    r = np.empty(samples)
    for k in range(W.shape[0]):
        for n in range(samples):
            total = 0.0
            for q in range(outputs):
                total += R[n, q] * A[k, q]
            r[n] = total
        size[k], height[k] = _ascend_one(X, r, W[k], stuck[k], X.shape[1], scale, budget)
