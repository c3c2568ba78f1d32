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
# Sums in any order: what lets them run over several samples at a time.
_SUMS: dict[str, Any] = _PLAIN | {"fastmath": {"reassoc", "contract"}}


def best_offsets(T: Any, R: Any, hinge: Any, height: Any) -> None:
    """For every direction the sample through which the best hinge goes, and the height there.

    T (C, N) holds projections; R (N, D) sums to zero. Writes hinge (C,), the sample, and height (C,), ``||h||``.
    """
    # numpy sorts several times faster than a kernel does.
    _best_offsets(np.ascontiguousarray(T), np.argsort(T, axis=1), np.ascontiguousarray(R), hinge, height)


@njit(**_SORTS)
def _best_offsets(T, orders, R, hinge, height):
    directions, samples = T.shape
    outputs = R.shape[1]
    zeroth, first = np.empty(outputs), np.empty(outputs)
    for k in range(directions):
        order = orders[k]
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
def _along(F, w, base, t):
    """``t_n = w' x_n - base``; samples are the columns of F (d, N), so this runs over several at a time."""
    features, samples = F.shape
    t[:] = -base
    for j in range(features):
        weight = w[j]
        if weight != 0.0:
            row = F[j]
            for n in range(samples):
                t[n] += weight * row[n]


@njit(**_SUMS)
def _dot(one, other):
    total = 0.0
    for n in range(one.size):
        total += one[n] * other[n]
    return total


@njit(**_PLAIN)
def _offset(F, r, w, t):
    """Best hinge for one direction and one output: the sample and ``|h|``."""
    samples = F.shape[1]
    _along(F, w, 0.0, t)
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
def _moment(F, r, t, stuck, count, u, active):
    """Sum of ``r_n (x_n - x_m)`` over active samples into u; returns the sum of their r. Overwrites active (N,)."""
    features, samples = F.shape
    for n in range(samples):
        active[n] = r[n] if t[n] > 0.0 else 0.0
    for i in range(count):
        active[stuck[i]] = 0.0
    total = 0.0
    for n in range(samples):
        total += active[n]
    for j in range(features):
        u[j] = _dot(F[j], active) - total * F[j, stuck[0]]
    return total


@njit(**_PLAIN)
def _project(v, Q, rank, inner):
    """Remove from v its part in the span of the first rows of Q, twice for rounding; inner (d,) takes that part."""
    inner[:] = 0.0
    for _ in range(2):
        for i in range(rank):
            part = 0.0
            for j in range(v.size):
                part += Q[i, j] * v[j]
            inner[i] += part
            for j in range(v.size):
                v[j] -= part * Q[i, j]


@njit(**_PLAIN)
def _norm(v):
    total = 0.0
    for j in range(v.size):
        total += v[j] * v[j]
    return np.sqrt(total)


@njit(**_PLAIN)
def _span(F, stuck, count, Q, triangle, work):
    """Orthonormal rows Q spanning ``x_i - x_m`` over the hinge; drops dependent samples. Returns the size of the hinge.

    ``x_i - x_m = sum_j triangle[j, i] Q_j``.
    """
    rank = 0
    m = stuck[0]
    for i in range(1, count):
        for j in range(work.size):
            work[j] = F[j, stuck[i]] - F[j, m]
        before = _norm(work)
        _project(work, Q, rank, triangle[:, rank])
        after = _norm(work)
        if after > 1e-9 * before and after > 0.0:
            for j in range(work.size):
                Q[rank, j] = work[j] / after
            triangle[rank, rank] = after
            stuck[rank + 1] = stuck[i]
            rank += 1
    return rank + 1


@njit(**_PLAIN)
def _sift(keys, which, at, stop):
    """Move the entry of a min-heap down to its place."""
    key, value = keys[at], which[at]
    while True:
        child = 2 * at + 1
        if child >= stop:
            break
        if child + 1 < stop and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[at], which[at] = keys[child], which[child]
        at = child
    keys[at], which[at] = key, value


@njit(**_PLAIN)
def _climb(F, r, sign, w, g, u, t, on, stuck, eps, keys, which, speed):
    """Go along the great circle from w towards the unit tangent g to the first maximum of ``sign h``.

    Returns (cosine, sine, sample that holds it or -1). Samples are met in the order of minus the cotangent of the
    angle, taken from a heap: most climbs end after a few.
    """
    features, samples = F.shape
    m = stuck[0]
    level = slope = offset = 0.0  # u' w and u' g of the moment that is valid after the start
    for j in range(features):
        level += u[j] * w[j]
        slope += u[j] * g[j]
        offset += g[j] * F[j, m]
    level *= sign
    slope *= sign
    _along(F, g, offset, speed)
    found = 0
    for n in range(samples):
        if on[n]:
            continue
        tau = speed[n]
        if abs(tau) <= 1e-300:
            continue
        if abs(t[n]) <= eps:
            # On the hinge by coincidence: it switches at once if it moves to the other side.
            change = 0.0
            if tau > eps and t[n] <= 0.0:
                change = sign * r[n] * tau
            elif tau < -eps and t[n] > 0.0:
                change = -sign * r[n] * tau
            slope += change
            if change < 0.0 and slope <= 0.0:
                return 1.0, 0.0, n
            continue
        keys[found] = tau / t[n]
        which[found] = n
        found += 1
    if slope <= 0.0:
        return 1.0, 0.0, -1
    for at in range(found // 2 - 1, -1, -1):
        _sift(keys, which, at, found)
    cosine, sine = 1.0, 0.0
    while True:
        if found == 0 and slope <= 0.0:
            return cosine, sine, -1
        # Stationary where the tangent of the angle is slope / level; nowhere if the slope is not positive.
        if found == 0 or -level <= keys[0] * slope:
            norm = np.sqrt(level * level + slope * slope)
            return level / norm, slope / norm, -1
        n, cotangent = which[0], -keys[0]
        found -= 1
        keys[0], which[0] = keys[found], which[found]
        _sift(keys, which, 0, found)
        change = sign * r[n] if t[n] <= 0.0 else -sign * r[n]
        level += change * t[n]
        slope += change * speed[n]
        norm = np.sqrt(1.0 + cotangent * cotangent)
        cosine, sine = cotangent / norm, 1.0 / norm
        # The slope of h along the arc at this angle, after the crossing.
        if slope * cosine - level * sine <= 0.0:
            return cosine, sine, n


@njit(**_PLAIN)
def _release(r, sign, u, total, w, stuck, count, Q, triangle, s, tol):
    """Index in the hinge of the sample that should leave, -1 if none, -2 if the offset should move.

    Multipliers s with ``gradient + sum_i s_i (x_i, -1) = (mu w, 0)`` must lie between ``sign r_i`` and zero.
    """
    features, free = w.size, count - 1
    height = 0.0
    for j in range(features):
        height += u[j] * w[j]
    own = -sign * total
    for i in range(free - 1, -1, -1):
        part = 0.0
        for j in range(features):
            part -= sign * Q[i, j] * (u[j] - height * w[j])
        for k in range(i + 1, free):
            part -= triangle[i, k] * s[k]
        s[i] = part / triangle[i, i]
    for i in range(free):
        own -= s[i]
    worst, leaving = tol, -1
    for i in range(count):
        multiplier = own if i == 0 else s[i - 1]
        excess = max(multiplier, min(sign * r[stuck[i]], 0.0) - multiplier)
        if excess > worst:
            worst, leaving = excess, i
    return -2 if leaving == 0 and count == 1 else leaving


@njit(**_PLAIN)
def _ascend_one(F, r, w, stuck, most, scale, budget):
    """Ascend from the unit direction w in place; returns the size of the hinge and the signed height."""
    features, samples = F.shape
    u, g, work, s = np.empty(features), np.empty(features), np.empty(features), np.empty(features)
    t, keys, speed, active = np.empty(samples), np.empty(samples), np.empty(samples), np.empty(samples)
    which = np.empty(samples, np.int64)
    Q, triangle = np.empty((features, features)), np.empty((features, features))
    on = np.zeros(samples, np.bool_)
    eps = 1e-12 * scale
    stuck[0], _ = _offset(F, r, w, t)
    count = 1
    value = largest = best = 0.0
    idle = 0
    for n in range(samples):
        largest = max(largest, abs(r[n]))
    for _ in range(budget):
        count = _span(F, stuck, count, Q, triangle, work)
        m = stuck[0]
        on[:] = False
        for i in range(count):
            on[stuck[i]] = True
        base = 0.0
        for j in range(features):
            base += w[j] * F[j, m]
        _along(F, w, base, t)
        total = _moment(F, r, t, stuck, count, u, active)
        value = 0.0
        for j in range(features):
            value += u[j] * w[j]
        # Where many hinges meet samples may come and go at one place for ever.
        idle = 0 if abs(value) > best * (1.0 + 1e-13) else idle + 1
        best = max(best, abs(value))
        if idle > 2 * features + 4:
            break
        sign = 1.0 if value >= 0.0 else -1.0
        for j in range(features):
            g[j] = sign * (u[j] - value * w[j])
        _project(g, Q, count - 1, work)
        size = _norm(g)
        if size > 1e-10 * largest * scale and size > 1e-13 * _norm(u) and count < features:
            inner = 0.0
            for j in range(features):
                g[j] /= size
                inner += g[j] * w[j]
            for j in range(features):
                g[j] -= inner * w[j]
            cosine, sine, holder = _climb(F, r, sign, w, g, u, t, on, stuck, eps, keys, which, speed)
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
        leaving = _release(r, sign, u, total, w, stuck, count, Q, triangle, s, 1e-9 * largest)
        if leaving == -1:
            break
        if leaving == -2:
            new, better = _offset(F, r, w, t)
            if better <= abs(value) * (1.0 + 1e-12):
                break
            stuck[0] = new
            continue
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
    F = np.ascontiguousarray(X.T)
    for k in range(W.shape[0]):
        for n in range(samples):
            total = 0.0
            for q in range(outputs):
                total += R[n, q] * A[k, q]
            r[n] = total
        size[k], height[k] = _ascend_one(F, r, W[k], stuck[k], X.shape[1], scale, budget)
