"""A budget in percentage points of accuracy, met on held-out samples that the report then leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathnorm.deep.allocate import allocate_error
from pathnorm.deep.cost import Cost
from pathnorm.deep.data import Batches
from pathnorm.deep.graph import ModelGraph
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.reduce import Reduction, Setup, reduce_network
from pathnorm.deep.trial import Met, Trial, named
from pathnorm.deep.verify import compare_outputs
from pathnorm.errors import DataError
from pathnorm.report.records import BudgetCheck

__all__ = ["meet_accuracy", "require_classes"]

_ROUNDS = 8
_FIRST_TARGET = 0.1
_CLOSE = 1.05


def require_classes(graph: ModelGraph, held: Batches) -> None:
    """Refuse data without labels, and networks whose outputs are not one score per class.

    Raises
    ------
    ValueError, DataError
    """
    shape = tuple(graph.output_node.meta["val"].shape)
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"accuracy_drop needs outputs of shape (N, classes). The model's have shape {shape}.")
    labels = held.labels()
    if labels is None:
        raise ValueError(
            "accuracy_drop needs one class per sample. Got data without labels. Give labels=..., or batches that are "
            "pairs of inputs and labels; without labels, give error=... instead."
        )
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"Labels must be one class index per sample. Got {labels.dtype} of shape {tuple(labels.shape)}. "
            "Convert them to integers."
        )


def meet_accuracy(
    setup: Setup, trial: Trial, curves: Sequence[NDArray[np.float64]], drop: float, *, cost: Cost, round_to: int
) -> Met:
    """Reduce the network until its accuracy on ``trial.search`` has fallen by just at most ``drop`` points.

    The predicted output error is the knob: it is doubled or halved until one network is good enough and one is
    not, and bisected on a logarithmic scale between them.
    """
    right = _right(trial.model, trial.search)
    ends = [tuple(min(least, curve.size - 1) for curve in curves) for least in (round_to, math.inf)]
    drops: dict[tuple[int, ...], float] = {}
    best: Reduction | None = None
    low, high, target = 0.0, math.inf, _FIRST_TARGET
    while len(drops) < _ROUNDS and high > _CLOSE * low:
        chosen = allocate_error(curves, cost, target**2, round_to=round_to, ties=setup.ties)
        widths = tuple(chosen.tolist())
        if widths not in drops:
            reduction = reduce_network(setup, named(setup, chosen))
            lost = right - _right(trial.network(setup, reduction), trial.search)
            drops[widths] = float(100.0 * lost[0] / right[1])
            if drops[widths] <= drop:
                best = reduction
        if drops[widths] <= drop:
            low = target
        else:
            high = target
        if widths == ends[0 if low == target else 1]:
            break
        target = 2.0 * low if math.isinf(high) else 0.5 * high if low == 0.0 else math.sqrt(low * high)
    if best is None:
        best = reduce_network(setup, {name: int(kept.numel()) for name, kept in setup.alive.items()})
    return Met(best, _check(setup, trial, best, drop, rounds=len(drops)))


def _right(model: nn.Module, batches: Batches) -> torch.Tensor:
    """Return how many samples a network gets right and how many there are, over all ranks."""
    labels = batches.labels()
    assert labels is not None
    counts = torch.zeros(2, dtype=torch.float64)
    at = 0
    with torch.no_grad():
        for batch in batches:
            answers = model(batch).argmax(1).cpu()
            counts[0] += (answers == labels[at : at + answers.numel()].cpu()).sum()
            at += answers.numel()
    counts[1] = at
    sum_over_ranks(counts)
    return counts


def _check(setup: Setup, trial: Trial, reduction: Reduction, drop: float, *, rounds: int) -> BudgetCheck:
    seen = compare_outputs(trial.model, trial.network(setup, reduction), trial.search, seed=setup.seed)
    assert seen.accuracy_before is not None and seen.accuracy_after is not None
    lost = 100.0 * (seen.accuracy_before - seen.accuracy_after)
    return BudgetCheck(
        name="accuracy_drop",
        before=seen.accuracy_before,
        after=seen.accuracy_after,
        change_interval=seen.accuracy_change_interval,
        samples=seen.samples,
        rounds=rounds,
        note=(
            f"Widths were chosen on {seen.samples} held-out samples (one is {100.0 / seen.samples:.2g} points): there "
            f"accuracy falls by {lost:.2g} points where {drop:g} were allowed, and an interval from them is "
            "optimistic. Accuracies and errors reported as held out are from the other half of the held-out data, "
            "which the choice has not seen; there the drop may exceed the budget."
        ),
    )
