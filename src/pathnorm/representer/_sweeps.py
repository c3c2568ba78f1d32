"""Kernel of the exact search: sweeps of a direction w once around a data point, or around a line through two.

A sweep works in orthonormal coordinates (p, q, t) about the hinge m, with w in the plane of p and q; t is the coordinate
along the line through the points m and n, and zero in the plane. Points are *mirrored* to p >= 0; as w turns from the p
axis by half a circle it meets the mirrored points in the order of their angles, and at *vertex* k, where w is orthogonal
to it, the moment ``U = sum_active R (p, q, t)`` loses ``R_k (p, q, t)_k``, whether k turns on or off. On the *arc* after
j vertices, mirrored points before rank j are on the negative side of w, the others on the positive. The second half of
the circle is a second turn with ``U - X'R`` in place of U, as ``h(-w) = h(w) - w'X'R``.

In space a *face* is where w leaves the plane of p and q to one side, with the hinge on m or on n: its moment differs from
that of the arc along t alone.
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


class Scratch(NamedTuple):
    """Work arrays of a sweep.

    p, q, t : array (N,), coordinates of the mirrored points; side : array (N,), 1, -1 if mirrored, 0 if on the line
    about : array (3, N), coordinates about the hinge; axes : array (3, 3), rows p, q, t
    keys : array (2, N); ranks : array (3, N), of which the first is the order of the points; bins : array (B + 1,)
    arcs : array (3, 2 N), largest square on each arc, and w there; local : array (2 N,), for which hinges (bits)
    U, start, turned : array (3, D), moments of the arc, of the first arc, and X'R in these coordinates
    mass : array (2, D), sum of the active pulls on the arc and on the first arc
    line : array (4, D), what the points on the line add along t: for hinge m below and above, for n below and above
    """

    p: Any
    q: Any
    t: Any
    side: Any
    about: Any
    axes: Any
    keys: Any
    ranks: Any
    bins: Any
    arcs: Any
    local: Any
    U: Any
    start: Any
    turned: Any
    mass: Any
    line: Any

    @classmethod
    def empty(cls, n: int, outputs: int) -> Scratch:
        """Arrays for n points."""
        bins = 1 << max(1, n - 1).bit_length()
        points, moments = np.zeros((4, n)), np.zeros((3, 3, outputs))
        return cls(
            p=points[0],
            q=points[1],
            t=points[2],
            side=points[3],
            about=np.zeros((3, n)),
            axes=np.eye(3),
            keys=np.zeros((2, n)),
            ranks=np.zeros((3, n), np.int64),
            bins=np.zeros(bins + 1, np.int64),
            arcs=np.zeros((3, 2 * n)),
            local=np.zeros(2 * n, np.int64),
            U=moments[0],
            start=moments[1],
            turned=moments[2],
            mass=np.zeros((2, outputs)),
            line=np.zeros((4, outputs)),
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
def _rank(p, q, side, keys, ranks, bins):
    """Order the mirrored points by angle; returns how many are off the line.

    Keys in [-1, 1] grow with the angle, at about an even rate, so that one pass of buckets nearly sorts them.
    """
    n, cells = p.size, bins.size - 1
    pmax, qmax = 0.0, 0.0
    for k in range(n):
        pmax, qmax = max(pmax, p[k]), max(qmax, abs(q[k]))
    pmax, qmax = max(pmax, 1e-30 * qmax), max(qmax, 1e-30 * pmax)
    if pmax == 0.0:
        return 0
    ip, iq = 1.0 / pmax, 1.0 / qmax
    for k in range(n):
        keys[1, k] = q[k] * iq / (p[k] * ip + abs(q[k]) * iq + 1e-300)
    for c in range(cells + 1):
        bins[c] = 0
    half = 0.5 * cells
    for k in range(n):
        c = min(int((keys[1, k] + 1.0) * half), cells - 1)
        ranks[2, k] = c
        if side[k] != 0.0:
            bins[c + 1] += 1
    for c in range(cells):
        bins[c + 1] += bins[c]
    count = bins[cells]
    for k in range(n):
        if side[k] != 0.0:
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
def _begin(s, pulls, length):
    """Moments of the first arc, and what the points on the line add."""
    outputs = pulls.shape[1]
    for o in range(outputs):
        for i in range(3):
            s.start[i, o] = 0.0
        s.mass[1, o] = 0.0
        for i in range(4):
            s.line[i, o] = 0.0
    for k in range(pulls.shape[0]):
        if s.side[k] > 0.0:
            for o in range(outputs):
                r = pulls[k, o]
                s.start[0, o] += r * s.p[k]
                s.start[1, o] += r * s.q[k]
                s.start[2, o] += r * s.t[k]
                s.mass[1, o] += r
        elif s.side[k] == 0.0:
            for o in range(outputs):
                for i in range(2):
                    t = s.t[k] - i * length
                    s.line[2 * i, o] += pulls[k, o] * min(t, 0.0)
                    s.line[2 * i + 1, o] += pulls[k, o] * max(t, 0.0)


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
def _local(s, pulls, length, w, vertex, on):
    """Bits 1 and 2: no face with hinge m, or n, rises from this point of the arc along +t or -t.

    vertex : the point that is at zero, or -1; on : whether it is active on the arc
    """
    bits, square = 0, 0.0
    wp, wq = w
    for hinge in range(2):
        shift = hinge * length
        below, above, square = 0.0, 0.0, 0.0
        for o in range(pulls.shape[1]):
            h = s.U[0, o] * wp + s.U[1, o] * wq
            z = s.U[2, o] - shift * s.mass[0, o]
            down, up = z + s.line[2 * hinge, o], z + s.line[2 * hinge + 1, o]
            if vertex >= 0:
                at = s.side[vertex] * s.t[vertex] - shift
                have = at if on else 0.0
                down += pulls[vertex, o] * (min(at, 0.0) - have)
                up += pulls[vertex, o] * (max(at, 0.0) - have)
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
def _inside(s, v, shift, passed, count):
    """Whether v lies in the face at the arc after ``passed`` vertices: all points on the side where the arc is."""
    v0, v1, v2 = v
    for r in range(passed, count):
        k = s.ranks[0, r]
        if s.p[k] * v0 + s.q[k] * v1 + (s.t[k] - s.side[k] * shift) * v2 < 0.0:
            return False
    for r in range(passed - 1, -1, -1):
        k = s.ranks[0, r]
        if s.p[k] * v0 + s.q[k] * v1 + (s.t[k] - s.side[k] * shift) * v2 > 0.0:
            return False
    return True


@njit(**INNER)
def _faces(s, second, line, arc, ends, found):
    """Enter the stationary points that lie in one of the four faces at an arc.

    arc : (vertices passed, vertices, sign of w); ends : the vertices at the ends of the arc, or -1
    """
    a, b, c = second
    passed, count, sign = arc
    low, high = ends
    wrap = 1.0 if passed < count else -1.0
    for face in range(4):
        hinge = line[1] if face >= 2 else line[0]
        shift = line[2] if face >= 2 else 0.0
        floor = max(line[3], found.square[hinge, 1])
        z, zz = 0.0, 0.0
        for o in range(s.line.shape[1]):
            z = s.U[2, o] + s.line[face, o] - shift * s.mass[0, o]
            zz += z * z
        top = a + c + zz
        if top <= floor:
            continue
        v0, v1, v2 = s.U[0, 0], s.U[1, 0], z
        if s.line.shape[1] > 1:
            xz, yz = 0.0, 0.0
            for o in range(s.line.shape[1]):
                z = s.U[2, o] + s.line[face, o] - shift * s.mass[0, o]
                xz += s.U[0, o] * z
                yz += s.U[1, o] * z
            # The Frobenius norm bounds the eigenvalue, and is cheaper.
            if a * a + c * c + zz * zz + 2.0 * (b * b + xz * xz + yz * yz) <= floor * floor:
                continue
            top, v0, v1, v2 = _leading(a, b, xz, c, yz, zz)
        up = (v2 > 0.0) == (face & 1 == 1)
        if low >= 0:
            # The ends of the arc reject nearly all, before anything else needs to be known.
            below = s.p[low] * v0 + s.q[low] * v1 + (s.t[low] - s.side[low] * shift) * v2
            above = wrap * (s.p[high] * v0 + s.q[high] * v1 + (s.t[high] - s.side[high] * shift) * v2)
            if ((below > 0.0) == up) | ((above < 0.0) == up):
                continue
        norm = np.sqrt(v0 * v0 + v1 * v1 + v2 * v2)
        if top <= floor or norm == 0.0:
            continue
        if not up:
            norm = -norm
        v0, v1, v2 = v0 / norm, v1 / norm, v2 / norm
        if _inside(s, (v0, v1, v2), shift, passed, count):
            _enter(found, s.axes, hinge, (top, sign * v0, sign * v1, sign * v2), True)


@njit(**INNER)
def _turn(s, pulls, found, line, turn, count):
    """Half a circle: maxima of the arcs into ``arcs`` and ``local``, those of the faces into ``found``.

    line : (m, n, length, floor), n < 0 in the plane, N where it is no hinge; arcs below the floor have square 0
    """
    n, length, floor = line[1], line[2], line[3]
    outputs = pulls.shape[1]
    for o in range(outputs):
        s.mass[0, o] = s.mass[1, o]
        for i in range(3):
            s.U[i, o] = s.start[i, o] - turn * s.turned[i, o]
    low, high, wrap = -1, -1, 1.0
    high_before = True
    for passed in range(1 if count else 0, count + 1):
        a, b, c = 0.0, 0.0, 0.0
        if passed:
            low = s.ranks[0, passed - 1]
            high = s.ranks[0, passed] if passed < count else s.ranks[0, 0]
            wrap = 1.0 if passed < count else -1.0
        for o in range(outputs):
            if passed:
                r = pulls[low, o]
                s.U[0, o] -= r * s.p[low]
                s.U[1, o] -= r * s.q[low]
                s.U[2, o] -= r * s.t[low]
                s.mass[0, o] -= r * s.side[low]
            up, uq = s.U[0, o], s.U[1, o]
            a += up * up
            b += up * uq
            c += uq * uq
        if passed:
            arc = turn * count + passed - 1
            s.arcs[0, arc] = 0.0
            high_now = False
            if a + c > floor:
                pl, ql, ph, qh = s.p[low], s.q[low], s.p[high], s.q[high]
                # Squares at the high end, and slopes at both; the arc may be long only where vertices are few.
                high_now = a * qh * qh - 2.0 * b * ph * qh + c * ph * ph > floor * (ph * ph + qh * qh)
                rises = b * (pl * pl - ql * ql) + (c - a) * pl * ql <= 0.0
                falls = b * (ph * ph - qh * qh) + (c - a) * ph * qh >= 0.0
                if high_now or high_before or (rises and falls) or wrap * (pl * ph + ql * qh) <= 0.0:
                    square, wp, wq, end = _arc_maximum((a, b, c), (pl, ql), (wrap * ph, wrap * qh))
                    if square > floor:
                        s.arcs[0, arc], s.arcs[1, arc], s.arcs[2, arc] = square, wp, wq
                        s.local[arc] = 1
                        if n >= 0:
                            vertex = -1 if end == 0 else (low if end < 0 else high)
                            on = end != 0 and (s.side[vertex] > 0.0) == (end > 0 and wrap > 0.0)
                            s.local[arc] = _local(s, pulls, length, (wp, wq), vertex, on)
            high_before = high_now
        if n >= 0:
            _faces(s, (a, b, c), line, (passed, count, 1.0 - 2.0 * turn), (low, high), found)


@njit(**INNER)
def _sweep(s, data, found, line):
    """All of a circle; of its arcs, those that are higher than their neighbours and a local maximum for a hinge."""
    m, n, length, floor = line
    count = _rank(s.p, s.q, s.side, s.keys, s.ranks, s.bins)
    if count == 0 and n < 0:
        return
    _begin(s, data.pulls, length)
    for turn in range(data.turns):
        _turn(s, data.pulls, found, line, turn, count)
    arcs = data.turns * count
    for j in range(arcs):
        square = s.arcs[0, j]
        if square <= floor or square < s.arcs[0, (j - 1) % arcs] or square < s.arcs[0, (j + 1) % arcs]:
            continue
        local = s.local[j] & 1 if n == found.square.shape[0] - 1 else s.local[j]
        sign = 1.0 if j < count else -1.0
        candidate = (square, sign * s.arcs[1, j], sign * s.arcs[2, j], 0.0)
        _enter(found, s.axes, n if local == 2 else m, candidate, local > 0)


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
def _project(s, near):
    """Coordinates of all points, mirrored unless on the line, which is no wider than ``near``."""
    a0, a1, a2 = s.axes[0, 0], s.axes[0, 1], s.axes[0, 2]
    b0, b1, b2 = s.axes[1, 0], s.axes[1, 1], s.axes[1, 2]
    e0, e1, e2 = s.axes[2, 0], s.axes[2, 1], s.axes[2, 2]
    for k in range(s.p.size):
        x, y, z = s.about[0, k], s.about[1, k], s.about[2, k]
        p, q, t = x * a0 + y * a1 + z * a2, x * b0 + y * b1 + z * b2, x * e0 + y * e1 + z * e2
        on_line = (abs(p) <= near) & (abs(q) <= near)
        sign = -1.0 if (p < 0.0) | ((p == 0.0) & (q < 0.0)) else 1.0
        keep = 0.0 if on_line else sign
        s.p[k], s.q[k], s.t[k], s.side[k] = keep * p, keep * q, t if on_line else sign * t, keep


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
                    s.turned[axis, o] = 0.0
                    for j in range(d):
                        s.turned[axis, o] += s.axes[axis, j] * data.moment[j, o]
            _project(s, _ON_LINE * reach if d == 3 else 0.0)
            _sweep(s, data, found, (m, other, length, lower))
