"""The problem on a working set of knots with given signs: one symmetric positive definite tridiagonal system.

The unknowns are the values theta at the knots (hat basis), so the matrix is well conditioned however close knots lie;
given the signs of the slope jumps the penalty is linear. A wrong sign shows in the answer: its knot is dropped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from pathnorm.problems._moments import INNER, OUTER, add_cell

__all__ = ["Working", "descend"]

_ROUNDS = 4


class Working(NamedTuple):
    """Knots, both ends of the data among them, and the segments between them.

    node : array (K,) of int, position of each knot among the nodes of the level
    sign : array (K,), sign of each slope jump, 0 at both ends
    position : array (K,)
    moments : array (K, 6), of the segment that begins at each knot; the last row is not used
    """

    node: Any
    sign: Any
    position: Any
    moments: Any


@njit(**INNER)
def _solve(work, count, lam, theta, ratio):
    """Minimise over the values at the first ``count`` knots; return ``g' theta``, twice the decrease from f = 0.

    theta, ratio : array (K,), written
    """
    position, sign, moments = work.position, work.sign, work.moments
    diagonal, right = 0.0, 0.0  # of the current row, before elimination
    previous_off, previous = 0.0, 0.0
    for j in range(count):
        off, next_diagonal, next_right = 0.0, 0.0, 0.0
        if j < count - 1:
            h = position[j + 1] - position[j]
            s1, s2 = moments[j, 1] / h, moments[j, 2] / (h * h)
            y1 = moments[j, 4] / h
            pull = lam / h * (sign[j] - sign[j + 1])
            diagonal += moments[j, 0] - 2.0 * s1 + s2
            off = s1 - s2
            next_diagonal = s2
            right += moments[j, 3] - y1 + pull
            next_right = y1 - pull
        work.moments[j, 5] = right  # kept for the value below; YY is not needed in a working set
        pivot = diagonal - previous_off * previous
        ratio[j] = off / pivot
        theta[j] = (right - previous_off * (theta[j - 1] if j > 0 else 0.0)) / pivot
        previous_off, previous = off, ratio[j]
        diagonal, right = next_diagonal, next_right
    decrease = theta[count - 1] * moments[count - 1, 5]
    for j in range(count - 2, -1, -1):
        theta[j] -= ratio[j] * theta[j + 1]
        decrease += theta[j] * moments[j, 5]
    return decrease


@njit(**INNER)
def _jump(position, theta, j):
    right = (theta[j + 1] - theta[j]) / (position[j + 1] - position[j])
    return right - (theta[j] - theta[j - 1]) / (position[j] - position[j - 1])


@njit(**INNER)
def _drop(work, count, theta, flags):
    """Remove the marked ones of the first ``count`` knots, merge the segments they separated; return how many are left.

    flags : array (2, K) of bool, which knots are fresh and which are marked
    """
    m = 1
    for j in range(1, count):
        if flags[1, j]:
            add_cell(work.moments, j, work.position[j] - work.position[m - 1], work.moments, m - 1)
            continue
        work.node[m], work.sign[m], work.position[m] = work.node[j], work.sign[j], work.position[j]
        for k in range(6):
            work.moments[m, k] = work.moments[j, k]
        theta[m], flags[0, m] = theta[j], flags[0, j]
        m += 1
    return m


@njit(**INNER)
def _line_search(work, count, theta, step, lam):
    """Exact minimiser t in (0, 1] of the objective along ``theta + t step``, given that t = 1 solves with these signs.

    Knots whose jump vanishes on the way get the other sign; the one at which the search stops, if it stops at a kink,
    is returned, or -1.
    """
    position, sign, moments = work.position, work.sign, work.moments
    curvature, kick = 0.0, 0.0
    for j in range(count - 1):
        a, b = step[j], (step[j + 1] - step[j]) / (position[j + 1] - position[j])
        curvature += a * a * moments[j, 0] + 2.0 * a * b * moments[j, 1] + b * b * moments[j, 2]
    derivative = -curvature
    while True:
        t, kink = 1.0, -1
        for j in range(1, count - 1):
            jump, change = _jump(position, theta, j), _jump(position, step, j)
            # A knot that was crossed has the other sign by now and is not met again.
            if jump * sign[j] > 0.0 and change * sign[j] < 0.0 and -jump / change < t:
                t, kink, kick = -jump / change, j, 2.0 * lam * abs(change)
        if kink < 0 or derivative + t * curvature >= 0.0:
            return min(1.0, -derivative / curvature), -1
        derivative += kick
        if derivative + t * curvature >= 0.0:
            return t, kink
        sign[kink] = -sign[kink]


@njit(**OUTER)
def descend(work, flags, values, lam):
    """Solve on the working set; a fresh knot whose jump has the wrong sign is dropped, all of them at once.

    The others are moved by a feature-sign search, which never raises the objective: their jumps go no further than an
    exact line search allows. With every knot fresh there is no such search and the start plays no part.

    flags : array (2, K) of bool, first which knots are fresh
    values : array (4, K), first where to start: the optimum without the fresh knots

    Returns how many knots are left, and twice the decrease from f = 0. The knots are in the front of ``work``, their
    values in that of ``values[0]``; the rest of all arguments is overwritten.
    """
    theta, target, ratio, step = values[0], values[1], values[2], values[3]
    count, decrease = work.node.size, 0.0
    # Every round drops a knot or lowers the objective; the bound is for rounding errors that undo it.
    for _ in range(_ROUNDS * count + 64):
        decrease = _solve(work, count, lam, target, ratio)
        new, old = 0, 0
        for j in range(1, count - 1):
            wrong = _jump(work.position, target, j) * work.sign[j] <= 0.0
            flags[1, j] = wrong and flags[0, j]
            new += flags[1, j]
            old += wrong and not flags[0, j]
        flags[1, count - 1] = False
        if new == 0 and old == 0:
            break
        if new == 0:
            for j in range(count):
                step[j] = target[j] - theta[j]
            t, stopped = _line_search(work, count, theta, step, lam)
            for j in range(count):
                theta[j] += t * step[j]
                flags[0, j] = False
            if stopped >= 0:
                flags[1, stopped] = True
                new = 1
        if new > 0:
            count = _drop(work, count, theta, flags)
    for j in range(count):
        theta[j] = target[j]
    return count, decrease
