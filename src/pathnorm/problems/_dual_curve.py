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

from pathnorm.problems._moments import INNER, OUTER, SITES_PER_CELL, Cells, Data, residual, sweep

__all__ = ["DualCurve", "dual_curve", "metric_line"]

Vector = NDArray[np.float64]


@njit(**INNER)
def _run(x, i, end, pieces, piece):
    """Piece that begins at or before x_i, not before ``piece``, and the first site of the next, ``end`` at most."""
    while x[i] >= pieces[0, piece]:
        piece += 1
    if x[end - 1] < pieces[0, piece]:
        return piece, end
    while x[i] < pieces[0, piece]:
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


@njit(**INNER)
def _residual_sites(data, first, stop, line):
    """Sums ``w r``, ``w r d`` and ``w r^2`` of the residual; line : (origin, level, slope) of f."""
    x, y, weight = data.x[first:stop], data.y[first:stop], data.weight[first:stop]
    origin, level, slope = line
    s0, s1, s2 = 0.0, 0.0, 0.0
    for k in range(x.size):
        d = x[k] - origin
        r = y[k] - level - slope * d
        nu = r if weight.size == 0 else weight[k] * r
        s0 += nu
        s1 += nu * d
        s2 += nu * r
    return s0, s1, s2


@njit(**OUTER)
def _states(data, cells, pieces, line, states):
    """Write the dual curve at the cells; return the sums over all sites of nu, of nu (x - x_0) and of nu r.

    pieces : array (4, K + 1), of each piece of f: right end, origin, value there, slope
    line : (position, level, slope), added to f
    states : array (m + 1, 3), v and its slope at the left end of each cell, and how far it may leave its chord inside
    """
    x, count, piece = data.x, cells.moments.shape[0], 0
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
            level, slope = _line_at(pieces, piece, line, origin)
            if i == begin and stop == end:
                s0, s1 = residual(cells.moments, c, level, slope)
                # sum w r^2 = sum w r y - sum w r f
                s2 = cells.moments[c, 5] - level * (cells.moments[c, 3] + s0) - slope * (cells.moments[c, 4] + s1)
                zeroth, first, squares = s0, s1, max(s2, 0.0)
            else:
                s0, s1, s2 = _residual_sites(data, i, stop, (origin, level, slope))
                zeroth, first, squares = zeroth + s0, first + s1, squares + s2
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
def _trace(data, pieces, line, states, drift, at_knots):
    """Write v at the knots, the right ends of the pieces, without the drift; return the largest |v - drift|.

    drift : array (2, K + 2), value at the left end of each piece and slope; its last column begins with a floor: cells
    where |v| is certain not to exceed it are left out, and no less is returned
    """
    x, last, piece = data.x, data.x.size - 1, 0
    count, floor = states.shape[0] - 1, drift[0, drift.shape[1] - 1]
    for c in range(count):
        i = c * SITES_PER_CELL
        end = last if c == count - 1 else i + SITES_PER_CELL
        while x[i] >= pieces[0, piece]:
            piece += 1
        height = max(abs(states[c, 0]), abs(states[c + 1, 0]))
        if height + states[c, 2] <= floor and x[end] < pieces[0, piece]:
            continue
        v, rate = states[c, 0], states[c, 1]
        while i < end:
            piece, stop = _run(x, i, end, pieces, piece)
            level, slope = _line_at(pieces, piece, line, x[i])
            begin = x[0] if piece == 0 else pieces[0, piece - 1]
            off, tilt = drift[0, piece] + drift[1, piece] * (x[i] - begin), drift[1, piece]
            v, rate, peak = sweep(data, i, stop, (v - off, rate - tilt), (x[i], level, slope))
            floor = max(floor, peak)
            v, rate = v + off + tilt * (x[stop] - x[i]), rate + tilt
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
    product : float
        ``sum nu r`` with nu the weighted residuals as corrected, and r the residuals without their line.
    squares : float
        ``sum nu^2 / w``.
    removed : float
        ``sum w (line)^2``, what the least squares line took of the residuals.
    """

    peak: float
    at_knots: Vector
    product: float
    squares: float
    removed: float


def dual_curve(
    data: Data, levels: list[Cells], pieces: Vector, floor: float = 0.0, *, through: Vector | None = None
) -> DualCurve:
    """Curve of ``y - f``; where ``|v| <= floor`` is certain it is not evaluated.

    Rounding errors of the data make the curve of many samples drift. With ``through`` (K,), its values at the knots
    that lie on a site are made these, by masses on those sites that are smaller than a rounding error.

    levels : moments of the data, the finest first
    """
    states = np.empty((levels[0].moments.shape[0] + 1, 3))
    zeroth, first, _ = _states(data, levels[0], pieces, (0.0, 0.0, 0.0), states)
    line, removed = _regression(levels[-1], zeroth, first)
    squares = _states(data, levels[0], pieces, line, states)[2]
    at_knots, drift = np.zeros(pieces.shape[1] - 1), np.zeros((2, pieces.shape[1] + 1))
    if data.x[-1] <= data.x[0]:
        return DualCurve(floor, at_knots, squares, squares, removed)
    drift[0, -1] = floor
    peak = _trace(data, pieces, line, states, drift, at_knots)
    if through is None:
        return DualCurve(peak, at_knots, squares, squares, removed)
    x, knots = data.x, pieces[0, :-1]
    at = np.searchsorted(x, knots)
    site = (at > 0) & (at < x.size - 1)
    site &= x[np.minimum(at, x.size - 1)] == knots
    index = np.concatenate(([0], at[site], [x.size - 1]))
    off = np.concatenate(([0.0], (at_knots - through)[site], [0.0]))
    edges = np.clip(np.concatenate((x[:1], knots, x[-1:])), x[0], x[-1])
    heights, lengths = np.interp(edges, x[index], off), np.diff(edges)
    drift[0, :-1] = heights[:-1]
    np.divide(np.diff(heights), lengths, out=drift[1, :-1], where=lengths > 0.0)
    states[:, 2] += np.abs(off).max()
    corrected = at_knots - drift[0, 1:-1]
    peak = _trace(data, pieces, line, states, drift, at_knots)
    slopes = np.concatenate(([0.0], np.diff(off) / np.diff(x[index]), [0.0]))
    mass = np.diff(slopes)
    piece = np.searchsorted(knots, x[index], side="right")
    level = pieces[2, piece] + pieces[3, piece] * (x[index] - pieces[1, piece])
    residual_there = data.y[index] - level - (line[1] + line[2] * (x[index] - line[0]))
    product = squares - float(mass @ residual_there)
    weight = data.weight[index] if data.weight.size else np.ones(index.size)
    return DualCurve(peak, corrected, product, 2.0 * product - squares + float(mass @ (mass / weight)), removed)


def metric_line(cells: Cells, metric: Cells) -> tuple[float, float, float]:
    """Position, value and slope of the line whose product with the metric has the sums of w y and w y d."""
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
