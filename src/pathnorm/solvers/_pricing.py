"""Pricing: the dual curve at every site, and the worst site of each of its excursions beyond lam."""

from __future__ import annotations

import math

from numba import njit

from pathnorm.problems._moments import INNER, OUTER, SITES_PER_CELL, residual, segment_of_cells, segment_of_sites, sweep

__all__ = ["gather", "price"]


@njit(**INNER)
def _start(work, theta, lam, j):
    """Dual curve at the left end of segment j, and its slope there: v passes through lam * sign at both knots."""
    h = work.position[j + 1] - work.position[j]
    level, slope = theta[j], (theta[j + 1] - theta[j]) / h
    zeroth, first = residual(work.moments, j, level, slope)
    left, right = lam * work.sign[j], lam * work.sign[j + 1]
    return left, (right - left + first) / h - zeroth, level, slope


@njit(**INNER)
def _record(node, v, bound, excursion, new):
    """Extend or close the current excursion ``(node of the worst, its |v|, sign, count of new knots)``."""
    worst, height, side, count = excursion
    new_node, new_sign = new
    here = 1 if v > bound else (-1 if v < -bound else 0)
    if side != 0 and here != side:
        new_node[count], new_sign[count] = worst, side
        count += 1
    if here != 0 and (here != side or abs(v) > height):
        return node, abs(v), here, count
    return worst, height, here, count


@njit(**INNER)
def _price_cells(cells, state, lam, bound, new):
    """Number of new knots at nodes."""
    work, theta = state
    nodes, moments = cells.nodes, cells.moments
    count = 0
    for j in range(work.node.size - 1):
        v, rate, level, slope = _start(work, theta, lam, j)
        excursion = (-1, 0.0, 0, count)
        for c in range(work.node[j], work.node[j + 1] - 1):
            at = level + slope * (nodes[c] - work.position[j])
            zeroth, first = residual(moments, c, at, slope)
            v += (nodes[c + 1] - nodes[c]) * (rate + zeroth) - first
            rate += zeroth
            if abs(v) > bound or excursion[2] != 0:
                excursion = _record(c + 1, v, bound, excursion, new)
        count = _record(-1, 0.0, bound, excursion, new)[3]
    return count


@njit(**INNER)
def _leap(cells, c, v, rate, level, slope):
    """Dual curve and its slope behind cell c, and how far it can leave its chord inside.

    Inside a cell of length h, ``|v - chord| <= h/4 sum w|r| <= h/4 sqrt(S0 sum w r^2)``: the kernel of the second
    derivative is at most h/4.
    """
    moments = cells.moments
    zeroth, first = residual(moments, c, level, slope)
    # sum w r^2 = sum w r y - sum w r f
    squares = moments[c, 5] - level * (moments[c, 3] + zeroth) - slope * (moments[c, 4] + first)
    h = cells.nodes[c + 1] - cells.nodes[c]
    # A rounding error of the squares must not make the bound too small.
    sway = 0.25 * h * math.sqrt(moments[c, 0] * (max(squares, 0.0) + 1e-14 * moments[c, 5]))
    return v + h * (rate + zeroth) - first, rate + zeroth, sway


@njit(**INNER)
def _price_sites(data, cells, state, lam, bounds, new):
    """Numbers of new knots and of sites seen; cells inside which ``|v| < lam`` is certain are leapt over."""
    n_sites, n_cells = data.x.size, cells.moments.shape[0]
    work, theta = state
    bound, trust = bounds
    count, seen = 0, 0
    for j in range(work.node.size - 1):
        v, rate, level, slope = _start(work, theta, lam, j)
        line = (work.position[j], level, slope)
        excursion = (-1, 0.0, 0, count)
        i, end = work.node[j], work.node[j + 1] - 1
        c = min(i // SITES_PER_CELL, n_cells - 1)
        while i < end:
            stop = n_sites if c == n_cells - 1 else (c + 1) * SITES_PER_CELL
            if i == c * SITES_PER_CELL and stop <= end and excursion[2] == 0:
                at = level + slope * (cells.nodes[c] - work.position[j])
                ahead, ahead_rate, sway = _leap(cells, c, v, rate, at, slope)
                if max(abs(v), abs(ahead)) + trust * sway < lam:
                    v, rate, i, c = ahead, ahead_rate, stop, c + 1
                    continue
            stop = min(stop, end)
            seen += stop - i
            # All sites at once where nothing happens, else one by one.
            pace = stop - i if excursion[2] == 0 else 1
            while i < stop:
                ahead, ahead_rate, peak = sweep(data, i, i + pace, (v, rate), line)
                if pace > 1 and peak > bound:
                    pace = 1
                    continue
                v, rate, i = ahead, ahead_rate, i + pace
                if pace == 1:
                    excursion = _record(i, v, bound, excursion, new)
            c += 1
        count = _record(-1, 0.0, bound, excursion, new)[3]
    return count, seen


@njit(**OUTER)
def price(data, cells, state, lam, bounds, new):
    """Evaluate the dual curve; write one new knot for each excursion beyond ``lam``, where it is largest.

    Without data the curve is evaluated at the nodes of the cells, else at every site that needs it.

    state : (work, theta)
    bounds : (where an excursion begins, share of the safety margin to keep); a share of 1 misses none
    new : (nodes, signs), written

    Returns the number of new knots, and of sites seen.
    """
    if data.x.size == 0:
        return _price_cells(cells, state, lam, bounds[0], new), 0
    return _price_sites(data, cells, state, lam, bounds, new)


@njit(**OUTER)
def gather(data, cells, node, segments, moments):
    """Write the moments of the given segments between nodes, rows zero before; nodes are sites, or ends of cells."""
    for j in segments:
        if data.x.size == 0:
            segment_of_cells(cells, node[j], node[j + 1], moments, j)
        else:
            stop = data.x.size if j == node.size - 2 else node[j + 1]
            segment_of_sites(data, cells, node[j], stop, moments, j)
