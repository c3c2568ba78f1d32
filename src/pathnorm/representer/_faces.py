"""Faces next to a sweep, and the arrays that a sweep works on.

In space a face is where w leaves the plane of a sweep (:mod:`pathnorm.representer._sweeps`) to one side, with the hinge
on one of the two points of the line; its moment differs from that of the arc along t alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pathnorm.problems._moments import INNER

__all__ = [
    "FIRST_MASS",
    "LINE",
    "MASS",
    "SIDE",
    "START",
    "TURNED",
    "Found",
    "P",
    "Pulls",
    "Q",
    "Scratch",
    "T",
    "enter",
    "faces",
    "local",
]

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
P, Q, T, SIDE = 0, 1, 2, 3
START, TURNED, MASS, FIRST_MASS, LINE = 3, 6, 9, 10, 11


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
def enter(found, axes, hinge, candidate, keep):
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
def local(points, sums, pulls, length, w, vertex):
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
            z = sums[2, o] - shift * sums[MASS, o]
            down, up = z + sums[LINE + 2 * hinge, o], z + sums[LINE + 2 * hinge + 1, o]
            if k >= 0:
                at = points[SIDE, k] * points[T, k] - shift
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
        if points[P, k] * v0 + points[Q, k] * v1 + (points[T, k] - points[SIDE, k] * shift) * v2 > 0.0:
            return False
    for r in range(passed, count):
        k = ranks[0, r]
        if points[P, k] * v0 + points[Q, k] * v1 + (points[T, k] - points[SIDE, k] * shift) * v2 < 0.0:
            return False
    for r in range(passed - 1, -1, -1):
        k = ranks[0, r]
        if points[P, k] * v0 + points[Q, k] * v1 + (points[T, k] - points[SIDE, k] * shift) * v2 > 0.0:
            return False
    return True


@njit(forceinline=True, **INNER)
def _possible(points, sums, perp, length, wrap, ends, floors):
    """Bits of the faces at an arc, for one output, that neither the floors nor the ends of the arc rule out.

    Nearly all are ruled out, in no order that a processor could predict: no branches here.
    """
    low, high = ends
    u0, u1 = sums[0, 0], sums[1, 0]
    near, far = u0 * points[P, low] + u1 * points[Q, low], wrap * (u0 * points[P, high] + u1 * points[Q, high])
    bits = 0
    for hinge in range(2):
        shift = hinge * length
        tl, th = points[T, low] - points[SIDE, low] * shift, wrap * (points[T, high] - points[SIDE, high] * shift)
        for above in range(2):
            z = sums[2, 0] + sums[LINE + 2 * hinge + above, 0] - shift * sums[MASS, 0]
            up = (z > 0.0) == (above == 1)
            possible = (perp + z * z > floors[hinge]) & ((near + z * tl < 0.0) == up) & ((far + z * th > 0.0) == up)
            bits |= int(possible) << (2 * hinge + above)
    return bits


@njit(forceinline=True, **INNER)
def faces(s, second, line, arc, ends, found):
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
            z = sums[2, o] + sums[LINE + face, o] - shift * sums[MASS, o]
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
                enter(found, s.axes, hinge, (top, sign * v0, sign * v1, sign * v2), True)
