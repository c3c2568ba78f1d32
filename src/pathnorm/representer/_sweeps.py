"""Kernel of the exact search: sweeps of a direction w once around a data point, or around a line through two.

A sweep works in orthonormal coordinates (p, q, t) about the hinge m, with w in the plane of p and q; t is along the line
through the points m and n, and zero in the plane. Points are *mirrored* to p >= 0; as w turns from the p axis by half a
circle it meets the mirrored points in the order of their angles, and at *vertex* k, where w is orthogonal to it, the
moment ``U = sum_active R (p, q, t)`` loses ``R_k (p, q, t)_k``, whether k turns on or off. On the *arc* after j vertices,
mirrored points before rank j are on the negative side of w, the others on the positive. The second half of the circle
is a second turn with ``U - X'R`` in place of U, as ``h(-w) = h(w) - w'X'R``.

In space a *face* is where w leaves the plane of p and q to one side, with the hinge on m or on n: its moment differs
from that of the arc along t alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER, OUTER

__all__ = ["Found", "Pulls", "Scratch", "sweeps"]

_MOVES = 16  # per point, that insertion sort may take before merge sort takes over
_ON_LINE = 1e-14  # distance from a line, relative to the data, below which a point is on it
_SAME = 1e-6  # squared distance of directions that are one
_FLAT = 1e-9  # relative slope that still is a maximum


class Pulls(NamedTuple):
    """What is searched: points x (N, d), pulls (N, D), ``moment = X'R`` (d, D), and turns: 1 if it vanishes, else 2."""

    x: Any
    pulls: Any
    moment: Any
    turns: Any


class Found(NamedTuple):
    """The two best directions of every hinge, by squared height.

    square : array (N + 1, 2), largest first; the last row is the best of all, whether a local maximum or not, and
        infinity, so that nothing is entered for a hinge N
    w : array (N + 1, 2, 3)
    hinge : array (1,), of the last row
    """

    square: Any
    w: Any
    hinge: Any

    @classmethod
    def empty(cls, n: int) -> Found:
        """Nothing found."""
        square = np.zeros((n + 1, 2))
        square[n, 1] = np.inf
        return cls(square, np.zeros((n + 1, 2, 3)), np.zeros(1, np.int64))


# Rows of ``Scratch.points`` and of ``Scratch.sums``: few arrays, as each is nine arguments of every call.
_P, _Q, _T, _SIDE = 0, 1, 2, 3
_START, _TURNED, _MASS, _FIRST_MASS, _LINE = 3, 6, 9, 10, 11


class Scratch(NamedTuple):
    """Work arrays of a sweep.

    points : array (4, N), p, q and t of the mirrored points, and 1, -1 if mirrored, 0 if on the line
    about : array (3, N), coordinates about the hinge; axes : array (3, 3), rows p, q, t
    keys : array (2, N); ranks : array (3, N), of which the first is the order of the points; bins : array (B + 1,)
    arcs : array (4, 2 N), largest square on each arc, w there, and for which hinges it is a local maximum (bits)
    sums : array (15, D), rows p, q, t of the moments of the arc, of the first arc, and of all (X'R); then the active
        pulls of the arc and of the first arc; then what points on the line add along t, for m below and above, for n
    """

    points: Any
    about: Any
    axes: Any
    keys: Any
    ranks: Any
    bins: Any
    arcs: Any
    sums: Any

    @classmethod
    def empty(cls, n: int, outputs: int) -> Scratch:
        """Arrays for n points."""
        bins = 1 << max(1, n - 1).bit_length()
        return cls(
            points=np.zeros((4, n)),
            about=np.zeros((3, n)),
            axes=np.eye(3),
            keys=np.zeros((2, n)),
            ranks=np.zeros((3, n), np.int64),
            bins=np.zeros(bins + 1, np.int64),
            arcs=np.zeros((4, 2 * n)),
            sums=np.zeros((15, outputs)),
        )


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
        pmax, qmax = max(pmax, points[_P, k]), max(qmax, abs(points[_Q, k]))
    pmax, qmax = max(pmax, 1e-30 * qmax, 1e-300), max(qmax, 1e-30 * pmax, 1e-300)
    ip, iq = 1.0 / pmax, 1.0 / qmax
    for k in range(n):
        keys[1, k] = points[_Q, k] * iq / (points[_P, k] * ip + abs(points[_Q, k]) * iq + 1e-300)
    for c in range(cells + 1):
        bins[c] = 0
    half = 0.5 * cells
    for k in range(n):
        c = min(int((keys[1, k] + 1.0) * half), cells - 1)
        ranks[2, k] = c
        if points[_SIDE, k] != 0.0:
            bins[c + 1] += 1
    for c in range(cells):
        bins[c + 1] += bins[c]
    count = bins[cells]
    for k in range(n):
        if points[_SIDE, k] != 0.0:
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
            sums[_START + i, o] = 0.0
        sums[_FIRST_MASS, o] = 0.0
        for i in range(4):
            sums[_LINE + i, o] = 0.0
    for k in range(pulls.shape[0]):
        if points[_SIDE, k] > 0.0:
            for o in range(outputs):
                r = pulls[k, o]
                sums[_START, o] += r * points[_P, k]
                sums[_START + 1, o] += r * points[_Q, k]
                sums[_START + 2, o] += r * points[_T, k]
                sums[_FIRST_MASS, o] += r
        elif points[_SIDE, k] == 0.0:
            for o in range(outputs):
                for i in range(2):
                    t = points[_T, k] - i * length
                    sums[_LINE + 2 * i, o] += pulls[k, o] * min(t, 0.0)
                    sums[_LINE + 2 * i + 1, o] += pulls[k, o] * max(t, 0.0)


@njit(**INNER)
def _enter(found, axes, hinge, candidate, keep):
    """Enter a direction given in the coordinates of the sweep: for its hinge if ``keep``, and as the best of all."""
    square, p, q, t = candidate
    w0 = p * axes[0, 0] + q * axes[1, 0] + t * axes[2, 0]
    w1 = p * axes[0, 1] + q * axes[1, 1] + t * axes[2, 1]
    w2 = p * axes[0, 2] + q * axes[1, 2] + t * axes[2, 2]
    best, w = found.square, found.w
    last = best.shape[0] - 1
    if square > best[last, 0]:
        best[last, 0] = square
        w[last, 0, 0], w[last, 0, 1], w[last, 0, 2] = w0, w1, w2
        found.hinge[0] = hinge
    if not keep or hinge == last:
        return
    slot = 1
    for i in range(2):
        d0, d1, d2 = w[hinge, i, 0] - w0, w[hinge, i, 1] - w1, w[hinge, i, 2] - w2
        if best[hinge, i] > 0.0 and d0 * d0 + d1 * d1 + d2 * d2 < _SAME:
            slot = i
            break
    if square <= best[hinge, slot]:
        return
    if slot == 1 and square > best[hinge, 0]:
        best[hinge, 1] = best[hinge, 0]
        for i in range(3):
            w[hinge, 1, i] = w[hinge, 0, i]
        slot = 0
    best[hinge, slot] = square
    w[hinge, slot, 0], w[hinge, slot, 1], w[hinge, slot, 2] = w0, w1, w2


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
def _local(points, sums, pulls, length, w, vertex):
    """Bits 1 and 2: no face with hinge m, or n, rises from this point of the arc along +t or -t.

    vertex : the point that is at zero, or -1; and whether it is active on the arc
    """
    bits = 0
    wp, wq = w
    k, on = vertex
    for hinge in range(2):
        shift = hinge * length
        below, above, square = 0.0, 0.0, 0.0
        for o in range(pulls.shape[1]):
            h = sums[0, o] * wp + sums[1, o] * wq
            z = sums[2, o] - shift * sums[_MASS, o]
            down, up = z + sums[_LINE + 2 * hinge, o], z + sums[_LINE + 2 * hinge + 1, o]
            if k >= 0:
                at = points[_SIDE, k] * points[_T, k] - shift
                have = at if on else 0.0
                down += pulls[k, o] * (min(at, 0.0) - have)
                up += pulls[k, o] * (max(at, 0.0) - have)
            below += h * down
            above += h * up
            square += h * h
        if above <= _FLAT * square and below >= -_FLAT * square:
            bits += 1 + hinge
    return bits


@njit(**INNER)
def _leading(xx, xy, xz, yy, yz, zz):
    """Largest eigenvalue of a symmetric 3 x 3 matrix and a vector, in closed form."""
    mean = (xx + yy + zz) / 3.0
    x, y, z = xx - mean, yy - mean, zz - mean
    spread = np.sqrt((x * x + y * y + z * z + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
    if spread <= 1e-15 * mean:
        return mean, 1.0, 0.0, 0.0
    determinant = x * (y * z - yz * yz) - xy * (xy * z - yz * xz) + xz * (xy * yz - y * xz)
    cosine = min(1.0, max(-1.0, 0.5 * determinant / (spread * spread * spread)))
    shift = 2.0 * spread * np.cos(np.arccos(cosine) / 3.0)
    x, y, z = x - shift, y - shift, z - shift
    # The longest column of the adjugate.
    dx, dy, dz = y * z - yz * yz, x * z - xz * xz, x * y - xy * xy
    if dx >= dy and dx >= dz:
        return mean + shift, dx, xz * yz - xy * z, xy * yz - xz * y
    if dy >= dz:
        return mean + shift, xz * yz - xy * z, dy, xy * xz - x * yz
    return mean + shift, xy * yz - xz * y, xy * xz - x * yz, dz


@njit(**INNER)
def _inside(points, ranks, v, shift, passed, count):
    """Whether v lies in the face at the arc after ``passed`` vertices: all points on the side where the arc is."""
    v0, v1, v2 = v
    if passed:
        k = ranks[0, passed - 1]
        if points[_P, k] * v0 + points[_Q, k] * v1 + (points[_T, k] - points[_SIDE, k] * shift) * v2 > 0.0:
            return False
    for r in range(passed, count):
        k = ranks[0, r]
        if points[_P, k] * v0 + points[_Q, k] * v1 + (points[_T, k] - points[_SIDE, k] * shift) * v2 < 0.0:
            return False
    for r in range(passed - 1, -1, -1):
        k = ranks[0, r]
        if points[_P, k] * v0 + points[_Q, k] * v1 + (points[_T, k] - points[_SIDE, k] * shift) * v2 > 0.0:
            return False
    return True


@njit(forceinline=True, **INNER)
def _possible(points, sums, perp, length, wrap, ends, floors):
    """Bits of the faces at an arc, for one output, that neither the floors nor the ends of the arc rule out.

    Nearly all are ruled out, in no order that a processor could predict: no branches here.
    """
    low, high = ends
    u0, u1 = sums[0, 0], sums[1, 0]
    near, far = u0 * points[_P, low] + u1 * points[_Q, low], wrap * (u0 * points[_P, high] + u1 * points[_Q, high])
    bits = 0
    for hinge in range(2):
        shift = hinge * length
        tl, th = points[_T, low] - points[_SIDE, low] * shift, wrap * (points[_T, high] - points[_SIDE, high] * shift)
        for above in range(2):
            z = sums[2, 0] + sums[_LINE + 2 * hinge + above, 0] - shift * sums[_MASS, 0]
            up = (z > 0.0) == (above == 1)
            possible = (perp + z * z > floors[hinge]) & ((near + z * tl < 0.0) == up) & ((far + z * th > 0.0) == up)
            bits |= int(possible) << (2 * hinge + above)
    return bits


@njit(forceinline=True, **INNER)
def _faces(s, second, line, arc, ends, found):
    """Enter the stationary points that lie in one of the four faces at an arc.

    arc : (vertices passed, vertices, sign of w); ends : the vertices at the ends of the arc, or -1
    """
    points, sums, ranks = s.points, s.sums, s.ranks
    a, b, c = second
    passed, count, sign = arc
    outputs = sums.shape[1]
    floors = max(line[3], found.square[line[0], 1]), max(line[3], found.square[line[1], 1])
    bits = 15
    if outputs == 1 and count:
        bits = _possible(points, sums, a + c, line[2], 1.0 if passed < count else -1.0, ends, floors)
        if bits == 0:
            return
    for face in range(4):
        if not bits >> face & 1:
            continue
        hinge = line[1] if face >= 2 else line[0]
        shift, floor = (face >> 1) * line[2], floors[face >> 1]
        xz, yz, zz, z = 0.0, 0.0, 0.0, 0.0
        for o in range(outputs):
            z = sums[2, o] + sums[_LINE + face, o] - shift * sums[_MASS, o]
            xz += sums[0, o] * z
            yz += sums[1, o] * z
            zz += z * z
        top = a + c + zz
        # The trace bounds the largest eigenvalue, so does the Frobenius norm.
        if top <= floor or a * a + c * c + zz * zz + 2.0 * (b * b + xz * xz + yz * yz) <= floor * floor:
            continue
        v0, v1, v2 = sums[0, 0], sums[1, 0], z
        if outputs > 1:
            top, v0, v1, v2 = _leading(a, b, xz, c, yz, zz)
        norm = np.sqrt(v0 * v0 + v1 * v1 + v2 * v2)
        if (v2 > 0.0) != (face & 1 == 1):
            norm = -norm
        if top > floor and norm != 0.0:
            v0, v1, v2 = v0 / norm, v1 / norm, v2 / norm
            if _inside(points, ranks, (v0, v1, v2), shift, passed, count):
                _enter(found, s.axes, hinge, (top, sign * v0, sign * v1, sign * v2), True)


@njit(**INNER)
def _turn(s, pulls, found, line, turn, count):
    """Half a circle: maxima of the arcs into ``arcs``, those of the faces into ``found``.

    line : (m, n, length, floor), n < 0 in the plane, N where it is no hinge; arcs below the floor have square 0
    """
    points, sums, ranks = s.points, s.sums, s.ranks
    n, length, floor = line[1], line[2], line[3]
    outputs = pulls.shape[1]
    for o in range(outputs):
        sums[_MASS, o] = sums[_FIRST_MASS, o]
        for i in range(3):
            sums[i, o] = sums[_START + i, o] - turn * sums[_TURNED + i, o]
    low, high, wrap = -1, -1, 1.0
    high_before = True
    for passed in range(min(1, count), count + 1):
        a, b, c = 0.0, 0.0, 0.0
        if passed:
            low = ranks[0, passed - 1]
            high = ranks[0, passed] if passed < count else ranks[0, 0]
            wrap = 1.0 if passed < count else -1.0
        for o in range(outputs):
            if passed:
                r = pulls[low, o]
                sums[0, o] -= r * points[_P, low]
                sums[1, o] -= r * points[_Q, low]
                sums[2, o] -= r * points[_T, low]
                sums[_MASS, o] -= r * points[_SIDE, low]
            up, uq = sums[0, o], sums[1, o]
            a += up * up
            b += up * uq
            c += uq * uq
        if passed:
            arc = turn * count + passed - 1
            s.arcs[0, arc] = 0.0
            high_now = False
            if a + c > floor:
                pl, ql, ph, qh = points[_P, low], points[_Q, low], points[_P, high], points[_Q, high]
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
                            on = end != 0 and (points[_SIDE, vertex] > 0.0) == (end > 0 and wrap > 0.0)
                            s.arcs[3, arc] = _local(points, sums, pulls, length, (wp, wq), (vertex, on))
            high_before = high_now
        if n >= 0:
            _faces(s, (a, b, c), line, (passed, count, 1.0 - 2.0 * turn), (low, high), found)


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
        _enter(found, axes, n if bits == 2 else m, (square, sign * arcs[1, j], sign * arcs[2, j], 0.0), bits > 0)


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
        points[_P, k], points[_Q, k], points[_T, k], points[_SIDE, k] = (
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
                    s.sums[_TURNED + axis, o] = 0.0
                    for j in range(d):
                        s.sums[_TURNED + axis, o] += s.axes[axis, j] * data.moment[j, o]
            _project(s.points, s.about, s.axes, _ON_LINE * reach if d == 3 else 0.0)
            count = _rank(s.points, s.keys, s.ranks, s.bins)
            _begin(s.points, s.sums, data.pulls, length)
            line = (m, other, length, lower)
            for turn in range(data.turns if count > 0 or d == 3 else 0):
                _turn(s, data.pulls, found, line, turn, count)
            _collect(s.arcs, line, found, s.axes, (count, data.turns))
