"""The dual curve ``v(t) = sum_{x_i > t} nu_i (x_i - t)`` of a residual, to nearly full precision.

``nu_i = w_i (y_i - f(x_i))``. Residuals are summed over cells in float64, the cells in extended precision, and the
curve inside a cell starts from there: rounding errors do not grow with the number of samples. The least squares line
of the residuals is removed on the way, so that v vanishes at both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pathnorm.problems._moments import INNER, OUTER, SITES_PER_CELL, Cells, Data, add_sites, residual, sweep

__all__ = ["DualCurve", "dual_curve", "metric_line"]

Vector = NDArray[np.float64]


@njit(**INNER)
def _run(x, i, end, pieces, piece):
    """Piece that x_i lies in, not before ``piece``, and the first site beyond it, ``end`` at most."""
    while x[i] > pieces[0, piece]:
        piece += 1
    if x[end - 1] <= pieces[0, piece]:
        return piece, end
    while x[i] <= pieces[0, piece]:
        i += 1
    return piece, i


@njit(**INNER)
def _line_at(pieces, piece, line, x):
    """Value at x and slope of a piece of f, after ``line`` was added."""
    level = pieces[2, piece] + pieces[3, piece] * (x - pieces[1, piece])
    return level + line[1] + line[2] * (x - line[0]), pieces[3, piece] + line[2]


@njit(**INNER)
def _add(total, rest, term):
    """Compensated sum: total + rest + term, as a number and what it has lost [Neumaier 1974]."""
    new = total + term
    if abs(total) >= abs(term):
        return new, rest + ((total - new) + term)
    return new, rest + ((term - new) + total)


@njit(**OUTER)
def _states(data, cells, pieces, line, states):
    """Write the dual curve at the cells; return the sums over all sites of nu, of nu (x - x_0) and of nu r.

    pieces : array (4, K + 1), of each piece of f: right end, origin, value there, slope
    line : (position, level, slope), added to f
    states : array (m + 1, 3), v and its slope at the left end of each cell, and how far it may leave its chord inside
    """
    x, count, piece = data.x, cells.moments.shape[0], 0
    row = np.empty((1, 6))
    v, v_rest, rate, rate_rest, moment, moment_rest, total, total_rest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(count):
        states[c, 0], states[c, 1] = v + v_rest, rate + rate_rest
        i = c * SITES_PER_CELL
        end = x.size if c == count - 1 else i + SITES_PER_CELL
        origin, length = x[i], cells.nodes[c + 1] - x[i]
        zeroth, first, squares = 0.0, 0.0, 0.0
        begin = i
        while i < end:
            piece, stop = _run(x, i, end, pieces, piece)
            for k in range(6):
                row[0, k] = cells.moments[c, k] if stop - begin == end - begin and i == begin else 0.0
            if i != begin or stop != end:
                add_sites(data, i, stop, origin, row, 0)
            level, slope = _line_at(pieces, piece, line, origin)
            s0, s1 = residual(row, 0, level, slope)
            zeroth += s0
            first += s1
            # sum w r^2 = sum w r y - sum w r f
            squares += max(row[0, 5] - level * (row[0, 3] + s0) - slope * (row[0, 4] + s1), 0.0)
            i = stop
        v, v_rest = _add(v, v_rest, length * (rate + rate_rest + zeroth) - first)
        rate, rate_rest = _add(rate, rate_rest, zeroth)
        moment, moment_rest = _add(moment, moment_rest, first + (origin - x[0]) * zeroth)
        total, total_rest = _add(total, total_rest, squares)
        # Inside a cell of length h, |v - chord| <= h/4 sum |nu|: the kernel of the second derivative is at most h/4.
        squares += 1e-14 * cells.moments[c, 5]
        states[c, 2] = 0.25 * length * math.sqrt(cells.moments[c, 0] * squares)
    states[count, 0], states[count, 1], states[count, 2] = v + v_rest, rate + rate_rest, 0.0
    return rate + rate_rest, moment + moment_rest, total + total_rest


@njit(**OUTER)
def _trace(data, pieces, line, states, floor, at_knots):
    """Write v at the knots, the right ends of the pieces; return the largest |v|, or ``floor`` if that is larger."""
    x, last, piece = data.x, data.x.size - 1, 0
    count = states.shape[0] - 1
    for c in range(count):
        i = c * SITES_PER_CELL
        end = last if c == count - 1 else i + SITES_PER_CELL
        while x[i] > pieces[0, piece]:
            piece += 1
        height = max(abs(states[c, 0]), abs(states[c + 1, 0]))
        if height + states[c, 2] <= floor and x[end] <= pieces[0, piece]:
            continue
        v, rate = states[c, 0], states[c, 1]
        while i < end:
            piece, stop = _run(x, i, end, pieces, piece)
            level, slope = _line_at(pieces, piece, line, x[i])
            v, rate, peak = sweep(data, i, stop, (v, rate), (x[i], level, slope))
            floor = max(floor, peak)
            knot = piece
            while pieces[0, knot] <= x[stop]:  # v is linear between sites
                at_knots[knot] = v - (x[stop] - pieces[0, knot]) * rate
                knot += 1
            i = stop
    return floor


@dataclass(frozen=True, slots=True, eq=False)
class DualCurve:
    """The curve of a residual.

    Attributes
    ----------
    peak : float
        ``max |v|``, or the floor given if that is larger.
    at_knots : array (K,)
        v at the knots of f.
    squares : float
        ``sum w r^2`` of the residual without its least squares line.
    removed : float
        ``sum w (line)^2``, what that line took.
    line : tuple of float
        Position, value there and slope.
    """

    peak: float
    at_knots: Vector
    squares: float
    removed: float
    line: tuple[float, float, float]


def dual_curve(data: Data, levels: list[Cells], pieces: Vector, floor: float = 0.0) -> DualCurve:
    """Curve of ``y - f``; where ``|v| <= floor`` is certain it is not evaluated.

    levels : moments of the data, the finest first
    """
    cells = levels[0]
    states = np.empty((cells.moments.shape[0] + 1, 3))
    zeroth, first, _ = _states(data, cells, pieces, (0.0, 0.0, 0.0), states)
    line, removed = _regression(levels[-1], zeroth, first)
    squares = _states(data, cells, pieces, line, states)[2]
    at_knots = np.zeros(pieces.shape[1] - 1)
    peak = _trace(data, pieces, line, states, floor, at_knots) if data.x[-1] > data.x[0] else floor
    return DualCurve(peak, at_knots, squares, removed, line)


def metric_line(cells: Cells, metric: Cells) -> tuple[float, float, float]:
    """Line whose product with the metric has the same sums ``w y`` and ``w y d`` as the cells: position, value, slope."""
    sums = cells.moments[:, 3:5].astype(np.longdouble)
    start = cells.nodes[:-1].astype(np.longdouble) - cells.nodes[0]
    return _regression(metric, sums[:, 0].sum(), (sums[:, 1] + start * sums[:, 0]).sum())[0]


def _regression(cells: Cells, zeroth: float, first: float) -> tuple[tuple[float, float, float], float]:
    """Line with the given sums of ``w y`` and ``w y (x - x_0)``, and its weighted sum of squares.

    Its position is the weighted mean of x.
    """
    weight = cells.moments[:, :3].astype(np.longdouble)
    start = cells.nodes[:-1].astype(np.longdouble) - cells.nodes[0]
    total = weight[:, 0].sum()
    mean = (weight[:, 1] + start * weight[:, 0]).sum() / total
    d = start - mean
    second = (weight[:, 2] + 2.0 * d * weight[:, 1] + d * d * weight[:, 0]).sum()
    c0 = zeroth / total
    c1 = (first - mean * zeroth) / second if second > 0.0 else 0.0 * c0
    return (float(cells.nodes[0] + mean), float(c0), float(c1)), float(c0 * c0 * total + c1 * c1 * second)
