"""Distribute a budget over the layers: the widths with the smallest predicted output error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathnorm.deep.cost import Cost
from pathnorm.deep.uniform import Ties, pooled, shared_cost, spread
from pathnorm.errors import BudgetError

__all__ = ["allocate", "allocate_error", "convex_minorant"]

Array = NDArray[np.float64]
Widths = NDArray[np.intp]


def allocate(
    curves: Sequence[Array],
    cost: Cost,
    budget: float,
    *,
    round_to: int = 1,
    reference: float | None = None,
    name: str = "cost",
    ties: Ties | None = None,
) -> Widths:
    """Return widths that minimise ``sum_g curve_g[k_g]`` subject to ``cost(k) <= budget``.

    Greedy on the convex minorants of the curves: the neuron with the smallest growth of the
    error per unit of cost goes first (for a linear cost this is the Lagrangian solution). The
    slack that is left is then filled with the neurons that gain most.

    Parameters
    ----------
    curves : sequence of ndarray
        ``curve_g[k]`` is the predicted squared output error with k neurons, ``k = 0 .. K_g``.
    round_to : int
        Widths are multiples of it, or the full width.
    reference : float
        Cost of the network, for the message of the error; the cost of the full widths if None.
    ties : sequence of sequences of int
        Groups that get one width; every group its own if None.

    Raises
    ------
    BudgetError
        If even the smallest widths cost more than ``budget``.
    """
    if ties is not None:
        joint = shared_cost(cost, ties)
        return spread(
            allocate(pooled(curves, ties), joint, budget, round_to=round_to, reference=reference, name=name), ties
        )
    full = np.array([curve.size - 1 for curve in curves], dtype=np.intp)
    ladders = [_ladder(int(size), round_to) for size in full]
    smallest = np.array([ladder[0] for ladder in ladders], dtype=np.intp)
    if cost(smallest) > budget:
        whole = cost(full) if reference is None else reference
        raise BudgetError(
            f"The budget must be reachable by removing neurons of the treated layers. Asked for {name} <= "
            f"{budget / whole:.4f} of the network; the smallest reachable is {cost(smallest) / whole:.4f}. "
            "Ask for more, or remove names from skip."
        )
    hulls = [convex_minorant(curve, ladder) for curve, ladder in zip(curves, ladders, strict=True)]
    rung = np.array([ladder.size - 1 for ladder in ladders])
    widths = full.copy()
    while cost(widths) > budget:
        index = _cheapest_removal(hulls, ladders, rung, cost.marginal(widths))
        rung[index] -= 1
        widths[index] = ladders[index][rung[index]]
    while (added := _best_addition(hulls, ladders, rung, (cost, widths, budget))) is not None:
        rung[added] += 1
        widths[added] = ladders[added][rung[added]]
    return widths


def allocate_error(
    curves: Sequence[Array], cost: Cost, error: float, *, round_to: int = 1, ties: Ties | None = None
) -> Widths:
    """Return widths of small cost whose predicted squared output error ``sum_g curve_g[k_g]`` stays below ``error``.

    The same greedy order as :func:`allocate`, stopped by the error instead of the cost.
    """
    if ties is not None:
        joint = shared_cost(cost, ties)
        return spread(allocate_error(pooled(curves, ties), joint, error, round_to=round_to), ties)
    widths = np.array([curve.size - 1 for curve in curves], dtype=np.intp)
    ladders = [_ladder(int(size), round_to) for size in widths]
    hulls = [convex_minorant(curve, ladder) for curve, ladder in zip(curves, ladders, strict=True)]
    rung = np.array([ladder.size - 1 for ladder in ladders])
    while True:
        index = _cheapest_removal(hulls, ladders, rung, cost.marginal(widths))
        if index < 0:
            return widths
        rung[index] -= 1
        if sum(hull[at] for hull, at in zip(hulls, rung, strict=True)) > error:
            return widths
        widths[index] = ladders[index][rung[index]]


def convex_minorant(curve: Array, ladder: Widths) -> Array:
    """Return the largest convex function below ``curve`` at the widths ``ladder``."""
    x = ladder.astype(np.float64)
    y = curve[ladder]
    hull: list[int] = []
    for i in range(x.size):
        while len(hull) > 1 and (y[hull[-1]] - y[hull[-2]]) * (x[i] - x[hull[-1]]) >= (y[i] - y[hull[-1]]) * (
            x[hull[-1]] - x[hull[-2]]
        ):
            hull.pop()
        hull.append(i)
    return np.interp(x, x[hull], y[hull])


def _ladder(width: int, round_to: int) -> Widths:
    """Return the allowed widths in increasing order: multiples of ``round_to`` and the full width."""
    steps = np.arange(round_to, width + 1, round_to, dtype=np.intp)
    return np.unique(np.append(steps, width))


def _cheapest_removal(hulls: list[Array], ladders: list[Widths], rung: Widths, marginal: Array) -> int:
    best, choice = np.inf, -1
    for index, (hull, ladder) in enumerate(zip(hulls, ladders, strict=True)):
        at = rung[index]
        if at == 0:
            continue
        saved = marginal[index] * (ladder[at] - ladder[at - 1])
        rate = (hull[at - 1] - hull[at]) / max(saved, 1e-300)
        if rate < best:
            best, choice = rate, index
    return choice


def _best_addition(
    hulls: list[Array], ladders: list[Widths], rung: Widths, limit: tuple[Cost, Widths, float]
) -> int | None:
    """Return the group whose next neuron fits and gains most per unit of cost, or None."""
    cost, widths, budget = limit
    spent = cost(widths)
    marginal = cost.marginal(widths)
    best, choice = -np.inf, None
    for index, (hull, ladder) in enumerate(zip(hulls, ladders, strict=True)):
        at = rung[index]
        if at + 1 == ladder.size:
            continue
        extra = marginal[index] * (ladder[at + 1] - ladder[at])
        if spent + extra > budget + 1e-9:
            continue
        rate = (hull[at] - hull[at + 1]) / max(extra, 1e-300)
        if rate > best:
            best, choice = rate, index
    return choice
