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
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import CertificateWarning
from pathnorm.problems._moments import SITES_PER_CELL, Cells, Data
from pathnorm.problems.losses import Squared
from pathnorm.problems.samples import Samples
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers._pricing import on_cells, on_sites, price_cells, price_sites
from pathnorm.solvers._reduced import Working, descend
from pathnorm.solvers.solution import Solution, Status
from pathnorm.spaces import LinearSpline

__all__ = ["Knots", "exchange_knots", "finish", "knot_exchange", "spline_at"]

Vector = NDArray[np.float64]
_NONE = Working(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty((0, 6)))
_COARSE_TOL = 1e-6
_HASTY = 0.3  # share of the safety margin that all passes but the last take
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
    knots = _from_coarse(levels, lam, data.x.size - 1) if start is None else start
    level = _Level(lambda node, sign, old: on_sites(data, levels[0], node, sign, old), data.x, lam)
    blank = np.empty(data.x.size, np.int64), np.empty(data.x.size)
    state = level.solve(knots.node.copy(), knots.sign.copy(), _NONE)
    bound = lam * (1.0 + min(0.1 * tol, 1e-10))
    trust, stuck, n_iter, best = _HASTY, 0, 0, -np.inf
    while n_iter < max_iter:
        n_iter += 1
        count, _ = price_sites(data, levels[0], (state.work, state.theta), lam, (bound, trust), *blank)
        if count == 0:
            if trust == 1.0:
                break
            trust = 1.0
            continue
        state = level.exchange(state, blank[0][:count], blank[1][:count])
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


def _exchange_cells(cells: Cells, knots: Knots, lam: float) -> Knots:
    count = cells.moments.shape[0]
    level = _Level(lambda node, sign, old: on_cells(cells, node, sign, old), cells.nodes, lam)
    blank = np.empty(count, np.int64), np.empty(count)
    state = level.solve(knots.node.copy(), knots.sign.copy(), _NONE)
    for _ in range(_PATIENCE):
        new = price_cells(cells, state.work, state.theta, lam, lam * (1.0 + _COARSE_TOL), *blank)
        if new == 0:
            break
        before = state.decrease
        state = level.exchange(state, blank[0][:new], blank[1][:new])
        if state.decrease <= before:
            break
    return Knots(state.work.node, state.work.sign)


@dataclass(frozen=True, slots=True)
class _Level:
    """Working sets on the sites, or on the ends of cells.

    gather : ``(node, sign, old) -> Working``; positions : array, of the nodes
    """

    gather: Callable[[NDArray[np.int64], Vector, Working], Working]
    positions: Vector
    lam: float

    def solve(self, node: NDArray[np.int64], sign: Vector, old: Working) -> _State:
        """Solve; drop every knot whose jump has the wrong sign, all at once, until there is none."""
        count = node.size
        work = self.gather(node, sign, old)
        return _State(*descend(work, np.empty(count), np.ones(count, dtype=np.bool_), self.lam))

    def exchange(self, state: _State, node: NDArray[np.int64], sign: Vector) -> _State:
        """Optimum with new knots; the objective falls unless ``state`` was optimal up to rounding."""
        nodes, signs, fresh = _unite((state.work.node, state.work.sign), (node, sign))
        best = self.solve(nodes.copy(), signs.copy(), state.work)
        gone, near, near_sign, used = self._barycentres(state, node, sign)
        if near.size:
            keep = np.ones(state.work.node.size, dtype=np.bool_)
            keep[gone] = False
            fewer, fewer_signs, _ = _unite(
                (state.work.node[keep], state.work.sign[keep]),
                (np.concatenate((node[~used], near)), np.concatenate((sign[~used], near_sign))),
            )
            trial = self.solve(fewer, fewer_signs, state.work)
            best = max(best, trial, key=lambda one: one.decrease)
        if best.decrease > state.decrease:
            return best
        union = self.gather(nodes, signs, state.work)
        theta = np.interp(union.position, state.work.position, state.theta)
        return _State(*descend(union, theta, fresh, self.lam))

    def _barycentres(
        self, state: _State, node: NDArray[np.int64], sign: Vector
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Vector, NDArray[np.bool_]]:
        """Knots in pairs with jumps of one sign and an excursion between; nodes next to their barycentres.

        Two knots that stand for one have it as their barycentre, up to the square of their distance; the worst node of
        the excursion would only halve that distance. Also returned are the signs, and which of the new knots are those
        of the excursions.
        """
        work = state.work
        segment = np.searchsorted(work.node, node) - 1
        twin = (work.sign[segment] == sign) & (work.sign[segment + 1] == sign)
        length = np.diff(work.position)
        apart = np.minimum(length[np.maximum(segment - 1, 0)], length[np.minimum(segment + 1, length.size - 1)])
        twin &= length[segment] <= _CLOSE * apart
        segment, sign = segment[twin], sign[twin]
        if segment.size == 0:
            return segment, node[:0], sign, twin
        jumps = np.diff(np.diff(state.theta) / np.diff(work.position))
        left, right = jumps[segment - 1], jumps[segment]
        at = (left * work.position[segment] + right * work.position[segment + 1]) / (left + right)
        near = np.searchsorted(self.positions, at)
        near = np.clip(np.concatenate((near - 1, near)), 1, self.positions.size - 2)
        return np.concatenate((segment, segment + 1)), near, np.tile(sign, 2), twin


def _unite(
    old: tuple[NDArray[np.int64], Vector], new: tuple[NDArray[np.int64], Vector]
) -> tuple[NDArray[np.int64], Vector, NDArray[np.bool_]]:
    """Nodes and signs of both, sorted, those of ``old`` where both have one; and which nodes are new."""
    node, first = np.unique(np.concatenate((old[0], new[0])), return_index=True)
    return node, np.concatenate((old[1], new[1]))[first], first >= old[0].size


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
        close = np.flatnonzero(np.diff(spline.knots) * (jumps[1:] + jumps[:-1]) < resolution)
        if close.size == 0:
            break
        # Every second of a run of close pairs.
        alone = np.append(True, np.diff(close) > 1)
        run = np.arange(close.size) - np.maximum.accumulate(np.where(alone, np.arange(close.size), 0))
        spline = spline.merge_knots(close[run % 2 == 0])
    return spline


def _interpolant(x: Vector, y: Vector) -> LinearSpline:
    """The linear spline through all samples; constant if there is one."""
    if x.size == 1:
        return LinearSpline(x, y, 0.0, 0.0)
    rates = np.diff(y) / np.diff(x)
    inner = slice(1, -1) if x.size > 2 else slice(0, 1)
    return LinearSpline(x[inner], y[inner], rates[0], rates[-1])
