"""A budget in milliseconds: what the width of a layer costs on this machine, and widths that fit.

The time that a network takes depends on its widths and not on its weights. So widths are tried on
networks that are cut but not refitted, and only the widths that fit are reduced, then measured again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from pathnorm.deep.allocate import allocate
from pathnorm.deep.cost import Cost
from pathnorm.deep.graph import State, clean_copy
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.reduce import Setup, reduce_network
from pathnorm.deep.surgery import cut
from pathnorm.deep.trial import Measure, Met, Trial, named
from pathnorm.deep.uniform import Ties
from pathnorm.errors import BudgetError
from pathnorm.report.records import BudgetCheck

__all__ = ["LatencyTable", "latency_table", "measure_ms", "meet_latency"]

Array = NDArray[np.float64]
Widths = NDArray[np.intp]

_SHARES = (0.0, 0.25, 0.5, 0.75)
_FLOOR = 1e-4
_ROUNDS = 8
_REDUCTIONS = 4
_CLOSE = 0.95
_NOTE = (
    "Latencies in the record were measured again after the choice, on this machine and with this number of threads: "
    "elsewhere, or under another load, they differ."
)


def measure_ms(
    models: Sequence[nn.Module],
    batch: Tensor,
    *,
    repeats: int = 15,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the median time of every network on one batch, in ms; runs are interleaved after a warm-up.

    With torch's number of threads as it is, see :func:`torch.set_num_threads`.
    """
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for _ in range(warm_up + repeats):
            for model, taken in zip(models, times, strict=True):
                _wait(batch)
                start = clock()
                model(batch)
                _wait(batch)
                taken.append(1e3 * (clock() - start))
    return [statistics.median(taken[warm_up:]) for taken in times]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Predicted latency ``full_ms - sum_g saved_g(k_g)``, piecewise linear in every width.

    Attributes
    ----------
    knots : tuple of ndarray
        Per group, the widths that were measured and the full width, increasing.
    saved : tuple of ndarray
        Per group, the ms that those widths save; strictly decreasing to zero.
    """

    full_ms: float
    knots: tuple[Array, ...]
    saved: tuple[Array, ...]

    def __call__(self, widths: Sequence[int] | NDArray[np.intp]) -> float:
        """Return the latency at the given widths, in ms."""
        gains = (np.interp(k, x, y) for k, x, y in zip(widths, self.knots, self.saved, strict=True))
        return self.full_ms - float(sum(gains))

    def marginal(self, widths: NDArray[np.intp]) -> Array:
        """Return the ms of one neuron of each group; at a knot, the larger of the slopes on its sides."""
        found = np.empty(len(self.knots))
        for index, (k, x, y) in enumerate(zip(widths, self.knots, self.saved, strict=True)):
            slopes = -np.diff(y) / np.diff(x)
            last = slopes.size - 1
            sides = [np.searchsorted(x, k, side=side) - 1 for side in ("left", "right")]
            found[index] = max(slopes[min(max(side, 0), last)] for side in sides)
        return found


def latency_table(
    model: nn.Module,
    state: State,
    groups: Sequence[NeuronGroup],
    batch: Tensor,
    *,
    smallest: Sequence[int],
    turned: Collection[str] = (),
    measure: Measure = measure_ms,
) -> LatencyTable:
    """Measure the whole network with one group narrowed at a time, on a coarse grid of widths.

    What single groups save does not add up where one layer lies between two of them: both claim its
    time. So all groups are narrowed together as well, and the savings of single groups are scaled to
    add up to that, at every share of the grid.

    Parameters
    ----------
    smallest : sequence of int
        The least width of every group.
    turned : collection of str
        State keys that the module keeps with the first two dimensions swapped.
    measure : callable
        Maps networks and a batch to their times in ms.
    """
    grid = [
        [min(max(round(share * group.width), least), group.width) for share in _SHARES]
        for group, least in zip(groups, smallest, strict=True)
    ]
    narrow = [([group], [[k] for k in widths]) for group, widths in zip(groups, grid, strict=True)]
    narrow.append((list(groups), [list(widths) for widths in zip(*grid, strict=True)]))
    twin = clean_copy(model)
    times = np.array(
        [
            measure([twin, *(narrowed(model, state, part, widths, turned=turned) for widths in each)], batch)
            for part, each in narrow
        ]
    )
    saved = np.maximum(1.0 - times[:, 1:] / times[:, :1], 0.0)
    apart, joint = saved[:-1].sum(0), saved[-1]
    scaled = np.where(apart > 0.0, saved[:-1] * (joint / np.where(apart > 0.0, apart, 1.0)), joint / len(groups))
    full_ms = float(np.median(times[:, 0]))
    curves = [_curve(widths, row, group.width) for widths, row, group in zip(grid, scaled, groups, strict=True)]
    return LatencyTable(full_ms, tuple(x for x, _ in curves), tuple(full_ms * y for _, y in curves))


def meet_latency(setup: Setup, trial: Trial, curves: Sequence[Array], limit_ms: float, *, round_to: int) -> Met:
    """Reduce the network until a batch takes at most ``limit_ms`` on this machine.

    Raises
    ------
    BudgetError
        If it takes longer even with the fewest neurons, or after every reduction that was tried.
    """
    smallest = np.array([min(round_to, curve.size - 1) for curve in curves], dtype=np.intp)
    table = latency_table(
        trial.model,
        setup.start,
        setup.neurons.groups,
        trial.batch,
        smallest=smallest.tolist(),
        turned=setup.graph.turned,
        measure=lambda models, _: trial.times(*models),
    )
    least = _tried(setup, trial, smallest)
    if least > limit_ms:
        raise _unreachable(trial, limit_ms, f"with the fewest neurons they take {least:.3g} ms", table.full_ms)
    widths, rounds = _search(setup, trial, curves, limit_ms, table=table, smallest=smallest, round_to=round_to)
    for done in range(1, _REDUCTIONS + 1):
        reduction = reduce_network(setup, named(setup, widths))
        before, after = trial.times(trial.model, trial.network(setup, reduction))
        if after <= limit_ms:
            check = BudgetCheck(
                name="latency_ms",
                before=before,
                after=after,
                samples=int(trial.batch.shape[0]),
                rounds=rounds + done,
                note=f"The given network meets the budget as well. {_NOTE}" if before <= limit_ms else _NOTE,
            )
            return Met(reduction, check)
        target = max(table(widths) * _CLOSE * limit_ms / after, table(smallest))
        wider, widths = widths, _allocate(curves, table, target, round_to=round_to, ties=setup.ties)
        if np.array_equal(wider, widths):
            break
    raise _unreachable(trial, limit_ms, f"after {done} reductions they take {after:.3g} ms", table.full_ms)


def _search(
    setup: Setup,
    trial: Trial,
    curves: Sequence[Array],
    limit_ms: float,
    *,
    table: LatencyTable,
    smallest: Widths,
    round_to: int,
) -> tuple[Widths, int]:
    """Return the widest allocation that was measured to fit, and how many were measured.

    The table is wrong by about as much at neighbouring widths: what it missed shifts the next target.
    """
    low, high, target = table(smallest), table([curve.size - 1 for curve in curves]), limit_ms
    best, rounds = smallest, 0
    while rounds < _ROUNDS:
        rounds += 1
        target = min(max(target, low), high)
        widths = _allocate(curves, table, target, round_to=round_to, ties=setup.ties)
        taken = _tried(setup, trial, widths)
        if taken <= limit_ms:
            best, low = widths, target
            if taken > _CLOSE * limit_ms or target == high:
                break
        else:
            high = target
        margin = 0.05 * (high - low)
        target = min(max(target + limit_ms - taken, low + margin), high - margin)
    return best, rounds


def _allocate(
    curves: Sequence[Array], table: LatencyTable, target: float, *, round_to: int, ties: Ties | None
) -> Widths:
    # All that is asked of a cost is its value and its marginal.
    return allocate(curves, cast(Cost, table), target, round_to=round_to, name="latency_ms", ties=ties)


def _tried(setup: Setup, trial: Trial, widths: Widths) -> float:
    """Return the time of a network of the given widths."""
    return trial.times(
        narrowed(trial.model, setup.start, setup.neurons.groups, widths.tolist(), turned=setup.graph.turned)
    )[0]


def _unreachable(trial: Trial, limit_ms: float, found: str, full_ms: float) -> BudgetError:
    return BudgetError(
        f"The budget must be reachable by removing neurons of the treated layers. Asked for latency_ms <= {limit_ms:g} "
        f"for {trial.batch.shape[0]} samples; {found}, and {full_ms:.3g} ms in the given network. "
        "Ask for more, or remove names from skip."
    )


def narrowed(
    model: nn.Module,
    state: State,
    groups: Sequence[NeuronGroup],
    widths: Sequence[int],
    *,
    turned: Collection[str] = (),
) -> nn.Module:
    """Return a copy of the network in which groups hold their first neurons only: right in time, not in value."""
    keep = {group.name: torch.arange(width) for group, width in zip(groups, widths, strict=True)}
    return cut(model, state, groups, keep, turned=turned)


def _curve(widths: list[int], saved: Array, full: int) -> tuple[Array, Array]:
    """Return knots and savings that decrease to zero at the full width, after noise in the measurements."""
    inner = sorted(set(widths) - {full})
    if not inner:
        return np.array([0.0, full]), np.array([_FLOOR, 0.0])
    means = [float(saved[[at for at, other in enumerate(widths) if other == width]].mean()) for width in inner]
    knots = np.array([*inner, full], dtype=np.float64)
    falling = np.array([*isotonic_regression(means, increasing=False).x, 0.0])
    return knots, falling + _FLOOR * (full - knots) / full


def _wait(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)
