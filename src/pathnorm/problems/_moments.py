"""Moments of runs of sites: all that a squared loss needs to know of the data where f is linear.

A *cell* is a run of sites; its six moments about its left end t are, with ``d = x - t``, ``S0 = sum w``,
``S1 = sum w d``, ``S2 = sum w d^2``, ``Y0 = sum w y``, ``Y1 = sum w y d`` and ``YY = sum w y^2``. Moments of neighbours
add up after a shift of origin, whoever summed them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray

__all__ = [
    "INNER",
    "OUTER",
    "SITES_PER_CELL",
    "Cells",
    "Data",
    "add_cell",
    "add_sites",
    "cells_of",
    "pyramid",
    "residual",
    "segment_of_cells",
    "segment_of_sites",
    "sweep",
]

SITES_PER_CELL = 64
_RATIO, _TOP = 16, 512  # cells per cell of the next level, and cells of the last level at most
_SITES_PER_THREAD = 1 << 19
Vector = NDArray[np.float64]
# Called from Python; and called from kernels only: without wrappers for Python and C, which take longer to compile
# than the code. Kernels allocate nothing, so they need no reference counts (_nrt), which take as long again. Division
# by zero gives infinity, as in numpy.
OUTER: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
INNER: dict[str, Any] = OUTER | {"no_cpython_wrapper": True}
# Sums may be reordered, which is what lets them run in vector registers; NaN and infinity keep their meaning.
_REORDER = {"reassoc", "contract", "nsz"}
_FUSE = {"contract", "nnan"}


class Data(NamedTuple):
    """Data at sorted sites.

    x, y : array (n,)
    weight : array (n,), or (0,) where every weight is one
    """

    x: Any
    y: Any
    weight: Any


class Cells(NamedTuple):
    """A partition of the sites into m runs.

    nodes : array (m + 1,), the left ends and the very last site, which belongs to the last cell
    moments : array (m, 6)
    """

    nodes: Any
    moments: Any


@njit(fastmath=_REORDER, **INNER)
def add_sites(data, first, stop, origin, out, k):
    """Add the moments of the sites first .. stop - 1 about ``origin`` to row k."""
    x, y, weight = data.x, data.y, data.weight
    s0, s1, s2, y0, y1, yy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if weight.size == 0:
        for i in range(first, stop):
            d, r = x[i] - origin, y[i]
            s1 += d
            s2 += d * d
            y0 += r
            y1 += r * d
            yy += r * r
        s0 = float(stop - first)
    else:
        for i in range(first, stop):
            d, r = x[i] - origin, y[i]
            wd, wr = weight[i] * d, weight[i] * r
            s0 += weight[i]
            s1 += wd
            s2 += wd * d
            y0 += wr
            y1 += wr * d
            yy += wr * r
    out[k, 0] += s0
    out[k, 1] += s1
    out[k, 2] += s2
    out[k, 3] += y0
    out[k, 4] += y1
    out[k, 5] += yy


@njit(**INNER)
def add_cell(moments, c, shift, out, k):
    """Add the moments in row c, of a cell that begins ``shift`` to the right, to those in row k of ``out``."""
    out[k, 2] += moments[c, 2] + shift * (2.0 * moments[c, 1] + shift * moments[c, 0])
    out[k, 1] += moments[c, 1] + shift * moments[c, 0]
    out[k, 0] += moments[c, 0]
    out[k, 4] += moments[c, 4] + shift * moments[c, 3]
    out[k, 3] += moments[c, 3]
    out[k, 5] += moments[c, 5]


@njit(**OUTER)
def _cells_of_sites(data, first, stop, moments):
    """Fill ``moments[first:stop]``, zero before; the last of all the cells takes the remaining sites."""
    n = data.x.size
    for c in range(first, stop):
        i = c * SITES_PER_CELL
        end = n if c == moments.shape[0] - 1 else i + SITES_PER_CELL
        add_sites(data, i, end, data.x[i], moments, c)


@njit(**INNER)
def segment_of_cells(cells, first, stop, out, k):
    """Moments of the cells first .. stop - 1 about the left end of the first, into row k, zero before."""
    for c in range(first, stop):
        add_cell(cells.moments, c, cells.nodes[c] - cells.nodes[first], out, k)


@njit(**INNER)
def segment_of_sites(data, cells, first, stop, out, k):
    """Moments of the sites first .. stop - 1 about x[first], into row k, zero before.

    Whole cells are taken where there are, single sites elsewhere.
    """
    origin = data.x[first]
    last_cell = cells.moments.shape[0] - 1
    head = min((first + SITES_PER_CELL - 1) // SITES_PER_CELL, last_cell + 1)
    tail = min(stop // SITES_PER_CELL, last_cell)
    if stop == data.x.size and head <= last_cell:
        tail = last_cell + 1
    if head >= tail:
        add_sites(data, first, stop, origin, out, k)
        return
    add_sites(data, first, head * SITES_PER_CELL, origin, out, k)
    for c in range(head, tail):
        add_cell(cells.moments, c, cells.nodes[c] - origin, out, k)
    if tail <= last_cell:
        add_sites(data, tail * SITES_PER_CELL, stop, origin, out, k)


@njit(**OUTER)
def _coarsen(cells, ratio, nodes, moments):
    """Write cells of ``ratio`` cells each into ``nodes`` (m + 1,) and ``moments`` (m, 6), zero before."""
    fine, count = cells.moments.shape[0], moments.shape[0]
    for c in range(count):
        nodes[c] = cells.nodes[c * ratio]
        segment_of_cells(cells, c * ratio, min(fine, (c + 1) * ratio), moments, c)
    nodes[count] = cells.nodes[fine]


@njit(**INNER)
def residual(moments, c, level, slope):
    """Sums ``w r`` and ``w r d`` of the residual over a cell on which f is ``level + slope d``."""
    zeroth = moments[c, 3] - level * moments[c, 0] - slope * moments[c, 1]
    return zeroth, moments[c, 4] - level * moments[c, 1] - slope * moments[c, 2]


@njit(fastmath=_FUSE, **INNER)
def sweep(data, first, stop, curve, line):
    """Dual curve at site ``stop`` and its slope before it, coming from site ``first``; and the largest |v| on the way.

    The curve is ``v(t) = sum_{x_i < t} w_i (y_i - f(x_i)) (t - x_i)``.

    curve : (v, rate) before ``first`` is passed; line : (position, level, slope) of f
    """
    # Slices count from zero, which spares a test for negative indices at every site.
    x, y, weight = data.x[first : stop + 1], data.y[first:stop], data.weight[first:stop]
    v, rate = curve
    position, level, slope = line
    peak = 0.0
    if weight.size == 0:
        for k in range(y.size):
            rate += y[k] - level - slope * (x[k] - position)
            v += (x[k + 1] - x[k]) * rate
            if abs(v) > peak:
                peak = abs(v)
    else:
        for k in range(y.size):
            rate += weight[k] * (y[k] - level - slope * (x[k] - position))
            v += (x[k + 1] - x[k]) * rate
            if abs(v) > peak:
                peak = abs(v)
    return v, rate, peak


def cells_of(data: Data) -> Cells:
    """Cells of :data:`SITES_PER_CELL` sites; large data is shared among threads."""
    count = max(1, data.x.size // SITES_PER_CELL)
    moments = np.zeros((count, 6))
    threads = min(get_num_threads(), data.x.size // _SITES_PER_THREAD)
    if threads > 1:
        bounds = [count * k // threads for k in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda k: _cells_of_sites(data, bounds[k], bounds[k + 1], moments), range(threads)))
    else:
        _cells_of_sites(data, 0, count, moments)
    return Cells(np.append(data.x[: count * SITES_PER_CELL : SITES_PER_CELL], data.x[-1]), moments)


def pyramid(data: Data) -> list[Cells]:
    """Cells, and cells of 16 cells, and so on, until they are few."""
    levels = [cells_of(data)]
    while levels[-1].moments.shape[0] > _TOP:
        count = -(-levels[-1].moments.shape[0] // _RATIO)
        coarse = Cells(np.empty(count + 1), np.zeros((count, 6)))
        _coarsen(levels[-1], _RATIO, coarse.nodes, coarse.moments)
        levels.append(coarse)
    return levels
