"""From a budget to widths to a reduced network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathnorm.deep.accuracy import meet_accuracy
from pathnorm.deep.allocate import allocate, allocate_error
from pathnorm.deep.cost import Cost
from pathnorm.deep.data import Batches
from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.latency import meet_latency
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.reduce import Reduction, Setup, predicted_curves, reduce_network
from pathnorm.deep.trial import Met, Trial, named

__all__ = ["MOMENT_BYTES", "meet_budget"]

MOMENT_BYTES = 2 * 2**30
_ERROR_ROUNDS = 5


def meet_budget(
    setup: Setup,
    budget: Mapping[str, Any],
    *,
    trial: Trial,
    costs: tuple[Cost, Cost],
    widths: float | Mapping[str, int] | None,
    round_to: int,
) -> Met:
    """Reduce the network to the one budget that is given; say how it was met if it had to be measured.

    Parameters
    ----------
    budget : mapping
        One of ``params``, ``macs``, ``error``, ``widths``, ``accuracy_drop``, ``latency_ms``.
    trial : Trial
        What accuracy and latency are measured with.
    costs : (params, macs)

    Raises
    ------
    BudgetError
        If the budget is smaller than what is left with one neuron per group, or too short a time.
    """
    if widths is not None:
        return Met(reduce_network(setup, _given_widths(setup, widths, round_to)))
    curves = predicted_curves(setup, limit_bytes=MOMENT_BYTES, macs=costs[1])
    name, share = next(iter(budget.items()))
    if name == "error":
        return Met(_meet_error(setup, curves, float(share), cost=costs[1], round_to=round_to))
    if name == "accuracy_drop":
        return meet_accuracy(setup, trial, curves, float(share), cost=costs[1], round_to=round_to)
    if name == "latency_ms":
        return meet_latency(setup, trial, curves, float(share), round_to=round_to)
    cost = costs[0] if name == "params" else costs[1]
    full = np.array([group.width for group in setup.neurons.groups])
    chosen = allocate(
        curves, cost, float(share) * cost(full), round_to=round_to, reference=cost(full), name=name, ties=setup.ties
    )
    return Met(reduce_network(setup, named(setup, chosen)))


def _meet_error(
    setup: Setup, curves: list[NDArray[np.float64]], error: float, *, cost: Cost, round_to: int
) -> Reduction:
    """Tighten or loosen the predicted error until the measured one just stays below ``error``.

    The prediction adds squared errors of single layers, which ignores that later layers
    correct earlier ones: the measured ratio rescales it.
    """
    accepted = None
    low, high, target = 0.0, np.inf, error
    for _ in range(_ERROR_ROUNDS):
        reduction = reduce_network(
            setup, named(setup, allocate_error(curves, cost, target**2, round_to=round_to, ties=setup.ties))
        )
        measured = max(
            _output_error(setup.graph, setup.state, reduction.state, batches)
            for batches in (setup.calibration, setup.heldout)
        )
        if measured <= error:
            accepted, low = reduction, target
        else:
            high = target
        if measured <= error and (measured > 0.95 * error or (measured == 0.0 and target > 1.0)):
            break
        guess = target * error / max(measured, 1e-3 * error)
        target = min(max(guess, 1.02 * low), 0.98 * high) if np.isfinite(high) else max(guess, 1.02 * low)
    if accepted is None:
        accepted = reduce_network(setup, {name: int(kept.numel()) for name, kept in setup.alive.items()})
    return accepted


def _output_error(graph: ModelGraph, original: State, current: State, batches: Batches) -> float:
    """Return ``||f - f_new||_F / ||f - mean f||_F``, one pass."""
    sums = torch.zeros(3, dtype=torch.float64)  # missed energy, energy, samples
    mean: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            before = graph.outputs(original, batch).double()
            missed = (graph.outputs(current, batch).double() - before).square().sum()
            sums += torch.stack([missed, before.square().sum(), missed.new_tensor(before.shape[0])]).cpu()
            mean.append(before.sum(0).cpu())
    total = torch.stack(mean).sum(0)
    sum_over_ranks(sums, total)
    energy = sums[1] - total.square().sum() / sums[2]
    return float(torch.sqrt(sums[0] / energy.clamp_min(1e-300)))


def _given_widths(setup: Setup, widths: float | Mapping[str, int], round_to: int) -> dict[str, int]:
    groups = {group.name: group.width for group in setup.neurons.groups}
    if isinstance(widths, Mapping):
        unknown = sorted(set(widths) - set(groups))
        wrong = sorted(name for name, width in widths.items() if name in groups and not 1 <= width <= groups[name])
        if unknown or wrong:
            raise ValueError(
                f"widths must map groups to between 1 and their number of neurons. Unknown: {unknown or 'none'}; "
                f"out of range: {wrong or 'none'}. The groups are: {groups}."
            )
        asked = {**groups, **widths}
        names = list(groups)
        for members in setup.ties or ():
            different = {names[index]: asked[names[index]] for index in members}
            if len(set(different.values())) > 1:
                raise ValueError(
                    f"With uniform=True, widths must be the same in every block. Got {different}. Name all of them."
                )
    else:
        if not 0.0 < widths <= 1.0:
            raise ValueError(f"widths must be a share in (0, 1] or a mapping. Got {widths!r}.")
        asked = {
            name: min(max(round(width * widths / round_to) * round_to, 1), width) for name, width in groups.items()
        }
    return {name: min(width, int(setup.alive[name].numel())) for name, width in asked.items()}
