"""Exact solutions over BV²(R) for the squared loss by exchanging knots.

On a working set of knots with given signs the problem is a tridiagonal system (:mod:`pathnorm.solvers._reduced`). Its
dual curve is priced at every site (:mod:`pathnorm.solvers._pricing`): the worst site of each excursion beyond lam
becomes a knot, knots whose jump got the wrong sign are dropped, and both go on until neither happens: then the
optimality conditions hold. Cells of many sites come first, so that few passes over the sites remain.

Active sets for trend filtering: [HC15] Han, Curtis, "Primal-dual active-set methods for isotonic regression and trend
filtering", 2015. Safeguard: [LBRN06] Lee, Battle, Raina, Ng, "Efficient sparse coding algorithms", NeurIPS 2006.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import CertificateWarning
from pathnorm.problems._moments import SITES_PER_CELL, Cells, Data
from pathnorm.problems.losses import Squared
from pathnorm.problems.samples import Samples
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers._pricing import gather, price
from pathnorm.solvers._reduced import Working, descend
from pathnorm.solvers.solution import Solution, Status
from pathnorm.spaces import LinearSpline
from pathnorm.spaces.spline import disjoint_pairs

__all__ = ["Knots", "exchange_knots", "finish", "knot_exchange", "spline_at"]

Vector = NDArray[np.float64]
_NONE = Working(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty((0, 6)))
_NO_DATA = Data(np.empty(0), np.empty(0), np.empty(0))
_COARSE_TOL = 1e-6
_HASTY = 0.3  # share of the safety margin that all passes but the last take
_FEW_CELLS = 1024  # on which nothing is gained by moving knots before the sites are looked at
_FEW_NODES = 4096  # of which all segments are summed faster than it takes to find those that are known
_CLOSE = 0.2  # knots that stand for one: so much closer to each other than to their neighbours
_PATIENCE = 30  # exchanges without a lower objective: rounding errors, not progress


class Knots(NamedTuple):
    """Sites that are knots, both ends of the data among them, with the signs of their jumps (0 at the ends)."""

    node: NDArray[np.int64]
    sign: Vector

    @classmethod
    def ends(cls, last: int) -> Knots:
        """No knot inside."""
        return cls(np.array([0, last]), np.zeros(2))

    @classmethod
    def of(cls, spline: LinearSpline, x: Vector) -> Knots:
        """Knots of a spline, each at the nearest site on its left."""
        node = np.searchsorted(x, spline.knots, side="right") - 1
        keep = (node > 0) & (node < x.size - 1) & (spline.jumps != 0.0)
        node, first = np.unique(node[keep], return_index=True)
        last = x.size - 1
        sign = np.sign(spline.jumps[keep])[first]
        return cls(np.concatenate(([0], node, [last])), np.concatenate(([0.0], sign, [0.0])))


class _State(NamedTuple):
    """Optimum of a working set: values (K,) at its knots, and twice the decrease of the objective from f = 0."""

    work: Working
    theta: Vector
    decrease: float


def knot_exchange(
    problem: BV2Problem, *, start: LinearSpline | None = None, tol: float = 1e-9, max_iter: int = 500
) -> Solution:
    """Solve a :class:`~pathnorm.problems.BV2Problem` with squared loss to a certified relative gap of ``tol``.

    Parameters
    ----------
    problem : BV2Problem
        What is minimised.
    start : LinearSpline, optional
        Where to start, for example the solution of a larger ``lam``; only its knots matter.
    tol : float
        Largest relative gap to accept; what is reached is usually near 1e-12.
    max_iter : int
        Largest number of exchanges.

    Returns
    -------
    Solution
        ``coef`` is a :class:`~pathnorm.spaces.LinearSpline`, all of whose knots are at the data.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    if not isinstance(problem.loss, Squared):
        raise TypeError(
            f"knot_exchange minimises the squared loss; got {type(problem.loss).__name__}. "
            "Use pathnorm.solvers.bv2, which picks the solver for the loss."
        )
    samples = problem.samples
    if problem.lam == 0.0 or samples.x.size < 3:
        return finish(problem, _interpolant(samples.x, samples.y), tol, 0, exhausted=False)
    begin = None if start is None else Knots.of(start, samples.x)
    knots, theta, n_iter = exchange_knots(samples.data, samples.levels, problem.lam, begin, tol, max_iter)
    spline = spline_at(samples, knots.node, theta)
    return finish(problem, spline, tol, n_iter, exhausted=n_iter >= max_iter)


def finish(problem: BV2Problem, spline: LinearSpline, tol: float, n_iter: int, *, exhausted: bool) -> Solution:
    """Certify an answer; warn if the gap is larger than ``tol``."""
    certificate = problem.certify(spline)
    status = Status.CONVERGED
    if certificate.gap > tol:
        status = Status.MAX_ITER if exhausted else Status.STALLED
        message = f"{status.value} Relative gap {certificate.gap:.2e}, tol {tol:.2e}, {n_iter} iterations."
        warnings.warn(message, CertificateWarning, stacklevel=3)
    return Solution(problem, spline, certificate, status, n_iter)


def exchange_knots(
    data: Data, levels: list[Cells], lam: float, start: Knots | None, tol: float, max_iter: int
) -> tuple[Knots, Vector, int]:
    """Knots, values there measured from the common line, and the number of exchanges; ``data`` has at least 3 sites."""
    knots = _from_coarse(levels, lam, data.x.size - 1) if start is None else _from_near(levels[0], lam, start)
    level = _Level(data, levels[0], data.x, lam)
    state = level.solve(knots.node.copy(), knots.sign.copy(), _NONE)
    bound = lam * (1.0 + min(0.1 * tol, 1e-10))
    trust, stuck, n_iter, best = _HASTY, 0, 0, -np.inf
    while n_iter < max_iter:
        n_iter += 1
        new = level.price(state, bound, trust)
        if new.node.size == 0:
            if trust == 1.0:
                break
            trust = 1.0
            continue
        state = level.exchange(state, new)
        # The objective cannot tell the last digits of the dual curve; a few more exchanges often do.
        stuck = 0 if state.decrease > best else stuck + 1
        best = max(best, state.decrease)
        if stuck > _PATIENCE:
            break
        trust = _HASTY
    return Knots(state.work.node, state.work.sign), state.theta, n_iter


def _from_coarse(levels: list[Cells], lam: float, last: int) -> Knots:
    """Knots of the solution whose knots are ends of cells, found on ever finer cells."""
    knots = Knots.ends(levels[-1].moments.shape[0])
    for cells, finer in zip(levels[::-1], [*levels[-2::-1], None], strict=True):
        knots = _exchange_cells(cells, knots, lam)
        if finer is not None:
            ratio = -(-finer.moments.shape[0] // cells.moments.shape[0])
            knots = Knots(np.minimum(knots.node * ratio, finer.moments.shape[0]), knots.sign)
    node = knots.node * SITES_PER_CELL
    node[-1] = last
    return Knots(node, knots.sign)


def _from_near(cells: Cells, lam: float, start: Knots) -> Knots:
    """Knots for a start at another lam: first moved on the ends of cells, then back to the site where one was near."""
    count = cells.moments.shape[0]
    if count < _FEW_CELLS:
        return start
    cell, first = np.unique(np.minimum(start.node // SITES_PER_CELL, count), return_index=True)
    cell[-1] = count
    moved = _exchange_cells(cells, Knots(cell, start.sign[first]), lam)
    node = moved.node * SITES_PER_CELL
    node[-1] = start.node[-1]
    at = np.minimum(np.searchsorted(start.node, node), start.node.size - 1)
    before = start.node[np.maximum(at - 1, 0)]
    nearest = np.where(node - before < start.node[at] - node, before, start.node[at])
    node = np.where(np.abs(nearest - node) <= SITES_PER_CELL, nearest, node)
    node, first = np.unique(node, return_index=True)
    return Knots(node, moved.sign[first])


def _exchange_cells(cells: Cells, knots: Knots, lam: float) -> Knots:
    level = _Level(_NO_DATA, cells, cells.nodes, lam)
    state = level.solve(knots.node.copy(), knots.sign.copy(), _NONE)
    for _ in range(_PATIENCE):
        new = level.price(state, lam * (1.0 + _COARSE_TOL), 1.0)
        if new.node.size == 0:
            break
        before = state.decrease
        state = level.exchange(state, new, twins=False)
        if state.decrease <= before:
            break
    return Knots(state.work.node, state.work.sign)


class _Level:
    """Working sets on nodes: the sites, or without data the ends of cells."""

    def __init__(self, data: Data, cells: Cells, positions: Vector, lam: float) -> None:
        self._data, self._cells, self._lam = data, cells, lam
        self._positions = positions
        self._new = Knots(np.empty(positions.size, np.int64), np.empty(positions.size))

    def price(self, state: _State, bound: float, trust: float) -> Knots:
        """One new knot for each excursion of the dual curve beyond ``bound``."""
        count, _ = price(self._data, self._cells, (state.work, state.theta), self._lam, (bound, trust), self._new)
        return Knots(self._new.node[:count], self._new.sign[:count])

    def solve(self, node: NDArray[np.int64], sign: Vector, old: Working) -> _State:
        """Solve; drop every knot whose jump has the wrong sign, all at once, until there is none."""
        flags = np.ones((2, node.size), dtype=np.bool_)
        return self._descend(self._gather(node, sign, old), flags, np.empty((4, node.size)))

    def exchange(self, state: _State, new: Knots, *, twins: bool = True) -> _State:
        """Optimum with new knots; the objective falls unless ``state`` was optimal up to rounding.

        With ``twins`` also with two knots that stand for one replaced by their barycentre, if that is better.
        """
        old = Knots(state.work.node, state.work.sign)
        union, fresh = _unite(old, new)
        best = self.solve(union.node.copy(), union.sign.copy(), state.work)
        if twins:
            fewer = self._with_barycentres(state, old, new)
            if fewer is not None:
                best = max(best, self.solve(*fewer, state.work), key=lambda one: one.decrease)
        if best.decrease > state.decrease:
            return best
        work = self._gather(*union, state.work)
        values = np.empty((4, fresh.size))
        values[0] = np.interp(work.position, state.work.position, state.theta)
        return self._descend(work, np.stack((fresh, fresh)), values)

    def _gather(self, node: NDArray[np.int64], sign: Vector, old: Working) -> Working:
        """Working set with these knots; the segments it shares with the old one are not summed again."""
        moments = np.zeros((node.size, 6))
        todo = np.arange(node.size - 1)
        if old.node.size and self._positions.size > _FEW_NODES:
            at = np.minimum(np.searchsorted(old.node, node[:-1]), old.node.size - 2)
            known = (old.node[at] == node[:-1]) & (old.node[at + 1] == node[1:])
            moments[:-1][known] = old.moments[at[known]]
            todo = todo[~known]
        gather(self._data, self._cells, node, todo, moments)
        return Working(node, sign, self._positions[node], moments)

    def _descend(self, work: Working, flags: NDArray[np.bool_], values: Vector) -> _State:
        count, decrease = descend(work, flags, values, self._lam)
        kept = Working(*(part[:count] for part in work))
        return _State(kept, values[0, :count], decrease)

    def _with_barycentres(self, state: _State, old: Knots, new: Knots) -> Knots | None:
        """Both, but for pairs of knots with jumps of one sign and an excursion between: those next to their barycentre.

        Two knots that stand for one have it as their barycentre, up to the square of their distance; the worst node of
        the excursion would only halve that distance. None if there is no such pair.
        """
        work = state.work
        segment = np.searchsorted(work.node, new.node) - 1
        twin = (work.sign[segment] == new.sign) & (work.sign[segment + 1] == new.sign)
        length = np.diff(work.position)
        apart = np.minimum(length[np.maximum(segment - 1, 0)], length[np.minimum(segment + 1, length.size - 1)])
        twin &= length[segment] <= _CLOSE * apart
        segment, sign = segment[twin], new.sign[twin]
        if segment.size == 0:
            return None
        jumps = np.diff(np.diff(state.theta) / length)
        left, right = jumps[segment - 1], jumps[segment]
        at = (left * work.position[segment] + right * work.position[segment + 1]) / (left + right)
        near = np.searchsorted(self._positions, at)
        near = np.clip(np.append(near - 1, near), 1, self._positions.size - 2)
        keep = np.ones(old.node.size, dtype=np.bool_)
        keep[segment] = keep[segment + 1] = False
        left_over = Knots(old.node[keep], old.sign[keep])
        node, first = np.unique(np.append(new.node[~twin], near), return_index=True)
        rest = Knots(node, np.append(new.sign[~twin], np.tile(sign, 2))[first])
        unknown = np.isin(node, left_over.node, invert=True)
        return _unite(left_over, Knots(rest.node[unknown], rest.sign[unknown]))[0]


def _unite(old: Knots, new: Knots) -> tuple[Knots, NDArray[np.bool_]]:
    """Both, in order, and which knots are new; no node is in both."""
    fresh = np.zeros(old.node.size + new.node.size, dtype=np.bool_)
    fresh[np.searchsorted(old.node, new.node) + np.arange(new.node.size)] = True
    node, sign = np.empty(fresh.size, np.int64), np.empty(fresh.size)
    node[fresh], sign[fresh] = new
    kept = ~fresh
    node[kept], sign[kept] = old
    return Knots(node, sign), fresh


def spline_at(samples: Samples, node: NDArray[np.int64], theta: Vector) -> LinearSpline:
    """The spline with values ``theta``, measured from the line of the samples, at knots (K,) that include both ends."""
    position, level, slope = samples.line
    knots = samples.x[node]
    values = theta + (level + slope * (knots - position))
    rates = np.diff(theta) / np.diff(knots) + slope
    if node.size == 2:
        return LinearSpline(knots[:1], values[:1], rates[0], rates[0])
    return _resolved(LinearSpline(knots[1:-1], values[1:-1], rates[0], rates[-1]))


def _resolved(spline: LinearSpline) -> LinearSpline:
    """Merge neighbouring knots that are closer than their values can tell the slope between them."""
    resolution = 64.0 * float(np.finfo(np.float64).eps) * float(np.abs(spline.values).max())
    while spline.knots.size > 1:
        jumps = np.abs(spline.jumps)
        close = np.diff(spline.knots) * (jumps[1:] + jumps[:-1]) < resolution
        if not close.any():
            break
        spline = spline.merge_knots(disjoint_pairs(close))
    return spline


def _interpolant(x: Vector, y: Vector) -> LinearSpline:
    """The linear spline through all samples; constant if there is one."""
    if x.size == 1:
        return LinearSpline(x, y, 0.0, 0.0)
    rates = np.diff(y) / np.diff(x)
    inner = slice(1, -1) if x.size > 2 else slice(0, 1)
    return LinearSpline(x[inner], y[inner], rates[0], rates[-1])
