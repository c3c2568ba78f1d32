"""Kernel of the exact search: sweeps of a direction w once around a data point, or around a line through two.

A sweep works in orthonormal coordinates (p, q, t) about the hinge m, with w in the plane of p and q; t is along the
line through the points m and n, and zero in the plane. Points are *mirrored* to p >= 0; as w turns from the p axis by
half a circle it meets the mirrored points in the order of their angles, and at *vertex* k, where w is orthogonal to
it, the moment ``U = sum_active R (p, q, t)`` loses ``R_k (p, q, t)_k``, whether k turns on or off. On the *arc* after j
vertices, mirrored points before rank j are on the negative side of w, the others on the positive. The second half of
the circle is a second turn with ``U - X'R`` in place of U, as ``h(-w) = h(w) - w'X'R``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER, OUTER
from pathnorm.representer._faces import FIRST_MASS, LINE, MASS, SIDE, START, TURNED, P, Q, T, enter, faces, local

__all__ = ["sweeps"]

_MOVES = 16  # per point, that insertion sort may take before merge sort takes over
_ON_LINE = 1e-14  # distance from a line, relative to the data, below which a point is on it


@njit(**INNER)
def _merge_sort(keys, ranks, count):
    """Sort the first rows, ``count`` entries, from bottom up; the second rows are spare."""
    width = 1
    while width < count:
        for left in range(0, count, 2 * width):
            middle, stop = min(left + width, count), min(left + 2 * width, count)
            i, j = left, middle
            for r in range(left, stop):
                if i < middle and (j >= stop or keys[0, i] <= keys[0, j]):
                    keys[1, r], ranks[1, r] = keys[0, i], ranks[0, i]
                    i += 1
                else:
                    keys[1, r], ranks[1, r] = keys[0, j], ranks[0, j]
                    j += 1
        for r in range(count):
            keys[0, r], ranks[0, r] = keys[1, r], ranks[1, r]
        width *= 2


@njit(**INNER)
def _rank(points, keys, ranks, bins):
    """Order the mirrored points by angle; returns how many are off the line.

    Keys in [-1, 1] grow with the angle, at about an even rate, so that one pass of buckets nearly sorts them.
    """
    n, cells = points.shape[1], bins.size - 1
    pmax, qmax = 0.0, 0.0
    for k in range(n):
        pmax, qmax = max(pmax, points[P, k]), max(qmax, abs(points[Q, k]))
    pmax, qmax = max(pmax, 1e-30 * qmax, 1e-300), max(qmax, 1e-30 * pmax, 1e-300)
    ip, iq = 1.0 / pmax, 1.0 / qmax
    for k in range(n):
        keys[1, k] = points[Q, k] * iq / (points[P, k] * ip + abs(points[Q, k]) * iq + 1e-300)
    for c in range(cells + 1):
        bins[c] = 0
    half = 0.5 * cells
    for k in range(n):
        c = min(int((keys[1, k] + 1.0) * half), cells - 1)
        ranks[2, k] = c
        if points[SIDE, k] != 0.0:
            bins[c + 1] += 1
    for c in range(cells):
        bins[c + 1] += bins[c]
    count = bins[cells]
    for k in range(n):
        if points[SIDE, k] != 0.0:
            r = bins[ranks[2, k]]
            bins[ranks[2, k]] = r + 1
            keys[0, r], ranks[0, r] = keys[1, k], k
    left = _MOVES * count
    for r in range(1, count):
        key, k = keys[0, r], ranks[0, r]
        i = r
        while i > 0 and keys[0, i - 1] > key:
            keys[0, i], ranks[0, i] = keys[0, i - 1], ranks[0, i - 1]
            i -= 1
        keys[0, i], ranks[0, i] = key, k
        left -= r - i
        if left < 0:
            _merge_sort(keys, ranks, count)
            break
    return count


@njit(**INNER)
def _begin(points, sums, pulls, length):
    """Moments of the first arc, and what the points on the line add."""
    outputs = pulls.shape[1]
    for o in range(outputs):
        for i in range(3):
            sums[START + i, o] = 0.0
        sums[FIRST_MASS, o] = 0.0
        for i in range(4):
            sums[LINE + i, o] = 0.0
    for k in range(pulls.shape[0]):
        if points[SIDE, k] > 0.0:
            for o in range(outputs):
                r = pulls[k, o]
                sums[START, o] += r * points[P, k]
                sums[START + 1, o] += r * points[Q, k]
                sums[START + 2, o] += r * points[T, k]
                sums[FIRST_MASS, o] += r
        elif points[SIDE, k] == 0.0:
            for o in range(outputs):
                for i in range(2):
                    t = points[T, k] - i * length
                    sums[LINE + 2 * i, o] += pulls[k, o] * min(t, 0.0)
                    sums[LINE + 2 * i + 1, o] += pulls[k, o] * max(t, 0.0)


@njit(**INNER)
def _arc_maximum(second, low, high):
    """Maximum of ``w'UU'w`` on a closed arc: square, w, and 0 inside, -1 at its low end, 1 at its high end.

    second : (a, b, c), entries of the 2 x 2 matrix UU'; low, high : (p, q) of the vertices, the latter reversed where
    the arc ends at the antipode
    """
    a, b, c = second
    pl, ql = low
    ph, qh = high
    half = 0.5 * (a - c)
    root = np.sqrt(half * half + b * b)
    # The leading eigenvector, from whichever row does not cancel.
    vp, vq = (half + root, b) if half > 0.0 else (b, root - half)
    below, above = vp * pl + vq * ql, vp * ph + vq * qh
    if (below < 0.0 and above > 0.0) or (below > 0.0 and above < 0.0):
        norm = np.sqrt(vp * vp + vq * vq)
        if below > 0.0:
            norm = -norm
        return 0.5 * (a + c) + root, vp / norm, vq / norm, 0
    rl, rh = pl * pl + ql * ql, ph * ph + qh * qh
    at_low = (a * ql * ql - 2.0 * b * pl * ql + c * pl * pl) / rl
    at_high = (a * qh * qh - 2.0 * b * ph * qh + c * ph * ph) / rh
    if at_low >= at_high:
        norm = np.sqrt(rl)
        return at_low, -ql / norm, pl / norm, -1
    norm = np.sqrt(rh)
    return at_high, -qh / norm, ph / norm, 1


@njit(**INNER)
def _pass(points, sums, pulls, k):
    """Moment and active pulls behind vertex k, if there is one; entries (a, b, c) of the 2 x 2 matrix UU'."""
    a, b, c = 0.0, 0.0, 0.0
    for o in range(pulls.shape[1]):
        if k >= 0:
            r = pulls[k, o]
            sums[0, o] -= r * points[P, k]
            sums[1, o] -= r * points[Q, k]
            sums[2, o] -= r * points[T, k]
            sums[MASS, o] -= r * points[SIDE, k]
        a += sums[0, o] * sums[0, o]
        b += sums[0, o] * sums[1, o]
        c += sums[1, o] * sums[1, o]
    return a, b, c


@njit(**INNER)
def _turn(s, pulls, found, line, turn, count):
    """Half a circle: maxima of the arcs into ``arcs``, those of the faces into ``found``.

    line : (m, n, length, floor), n < 0 in the plane, N where it is no hinge; arcs below the floor have square 0
    """
    points, sums, ranks = s.points, s.sums, s.ranks
    n, length, floor = line[1], line[2], line[3]
    for o in range(pulls.shape[1]):
        sums[MASS, o] = sums[FIRST_MASS, o]
        for i in range(3):
            sums[i, o] = sums[START + i, o] - turn * sums[TURNED + i, o]
    low, high, wrap = -1, -1, 1.0
    high_before = True
    for passed in range(min(1, count), count + 1):
        if passed:
            low = ranks[0, passed - 1]
            high = ranks[0, passed] if passed < count else ranks[0, 0]
            wrap = 1.0 if passed < count else -1.0
        a, b, c = _pass(points, sums, pulls, low)
        if passed:
            arc = turn * count + passed - 1
            s.arcs[0, arc] = 0.0
            high_now = False
            if a + c > floor:
                pl, ql, ph, qh = points[P, low], points[Q, low], points[P, high], points[Q, high]
                # Squares at the high end, and slopes at both; the arc may be long only where vertices are few.
                high_now = a * qh * qh - 2.0 * b * ph * qh + c * ph * ph > floor * (ph * ph + qh * qh)
                rises = b * (pl * pl - ql * ql) + (c - a) * pl * ql <= 0.0
                falls = b * (ph * ph - qh * qh) + (c - a) * ph * qh >= 0.0
                if high_now or high_before or (rises and falls) or wrap * (pl * ph + ql * qh) <= 0.0:
                    square, wp, wq, end = _arc_maximum((a, b, c), (pl, ql), (wrap * ph, wrap * qh))
                    if square > floor:
                        s.arcs[0, arc], s.arcs[1, arc], s.arcs[2, arc] = square, wp, wq
                        s.arcs[3, arc] = 1
                        if n >= 0:
                            vertex = -1 if end == 0 else (low if end < 0 else high)
                            on = end != 0 and (points[SIDE, vertex] > 0.0) == (end > 0 and wrap > 0.0)
                            s.arcs[3, arc] = local(points, sums, pulls, length, (wp, wq), (vertex, on))
            high_before = high_now
        if n >= 0:
            faces(s, (a, b, c), line, (passed, count, 1.0 - 2.0 * turn), (low, high), found)


@njit(**INNER)
def _collect(arcs, line, found, axes, halves):
    """Enter the arcs that are higher than their neighbours, if a local maximum for a hinge.

    halves : (arcs in half a circle, halves)
    """
    m, n, _, floor = line
    total = halves[0] * halves[1]
    for j in range(total):
        square = arcs[0, j]
        if square <= floor or square < arcs[0, (j - 1) % total] or square < arcs[0, (j + 1) % total]:
            continue
        bits = int(arcs[3, j])
        if n == found.square.shape[0] - 1:
            bits &= 1
        sign = 1.0 if j < halves[0] else -1.0
        enter(found, axes, n if bits == 2 else m, (square, sign * arcs[1, j], sign * arcs[2, j], 0.0), bits > 0)


@njit(**INNER)
def _set_axes(axes, about, n):
    """Axes with t through point n; returns its distance, 0 where it is the hinge."""
    e0, e1, e2 = about[0, n], about[1, n], about[2, n]
    length = np.sqrt(e0 * e0 + e1 * e1 + e2 * e2)
    if length == 0.0:
        return 0.0
    e0, e1, e2 = e0 / length, e1 / length, e2 / length
    if abs(e0) <= abs(e1) and abs(e0) <= abs(e2):
        a0, a1, a2 = 0.0, e2, -e1
    elif abs(e1) <= abs(e2):
        a0, a1, a2 = -e2, 0.0, e0
    else:
        a0, a1, a2 = e1, -e0, 0.0
    norm = np.sqrt(a0 * a0 + a1 * a1 + a2 * a2)
    a0, a1, a2 = a0 / norm, a1 / norm, a2 / norm
    axes[0, 0], axes[0, 1], axes[0, 2] = a0, a1, a2
    axes[1, 0], axes[1, 1], axes[1, 2] = e1 * a2 - e2 * a1, e2 * a0 - e0 * a2, e0 * a1 - e1 * a0
    axes[2, 0], axes[2, 1], axes[2, 2] = e0, e1, e2
    return length


@njit(**INNER)
def _project(points, about, axes, near):
    """Coordinates of all points, mirrored unless on the line, which is no wider than ``near``."""
    a0, a1, a2 = axes[0, 0], axes[0, 1], axes[0, 2]
    b0, b1, b2 = axes[1, 0], axes[1, 1], axes[1, 2]
    e0, e1, e2 = axes[2, 0], axes[2, 1], axes[2, 2]
    for k in range(points.shape[1]):
        x, y, z = about[0, k], about[1, k], about[2, k]
        p, q, t = x * a0 + y * a1 + z * a2, x * b0 + y * b1 + z * b2, x * e0 + y * e1 + z * e2
        on_line = (abs(p) <= near) & (abs(q) <= near)
        sign = -1.0 if (p < 0.0) | ((p == 0.0) & (q < 0.0)) else 1.0
        keep = 0.0 if on_line else sign
        points[P, k], points[Q, k], points[T, k], points[SIDE, k] = (
            keep * p,
            keep * q,
            t if on_line else sign * t,
            keep,
        )


@njit(**OUTER)
def sweeps(data, hinges, mine, floor, s, found):
    """Sweep around the points ``mine``, in space around the lines through them; only squares above ``floor`` matter.

    A line through two hinges is swept once, by a rule that gives each about half of its lines. hinges : all of them,
    sorted; mine : some of them; s and found as they were before, or empty
    """
    x, n_points, d = data.x, data.x.shape[0], data.x.shape[1]
    for m in mine:
        reach = 0.0
        for axis in range(d):
            for k in range(n_points):
                s.about[axis, k] = x[k, axis] - x[m, axis]
                reach = max(reach, abs(s.about[axis, k]))
        at = 0
        for n in range(n_points if d == 3 else 1):
            length, lower, other = 0.0, floor, -1
            if d == 3:
                while at < hinges.size - 1 and hinges[at] < n:
                    at += 1
                both = hinges[at] == n
                other = n if both else n_points
                length = 0.0 if both and (m < n) == ((m + n) % 2 == 0) else _set_axes(s.axes, s.about, n)
                if length == 0.0:
                    continue
                lower = max(floor, min(found.square[m, 1], found.square[other, 1]))
            for axis in range(3):
                for o in range(data.pulls.shape[1]):
                    s.sums[TURNED + axis, o] = 0.0
                    for j in range(d):
                        s.sums[TURNED + axis, o] += s.axes[axis, j] * data.moment[j, o]
            _project(s.points, s.about, s.axes, _ON_LINE * reach if d == 3 else 0.0)
            count = _rank(s.points, s.keys, s.ranks, s.bins)
            _begin(s.points, s.sums, data.pulls, length)
            line = (m, other, length, lower)
            for turn in range(data.turns if count > 0 or d == 3 else 0):
                _turn(s, data.pulls, found, line, turn, count)
            _collect(s.arcs, line, found, s.axes, (count, data.turns))
