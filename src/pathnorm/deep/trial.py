"""What a budget that has to be measured is measured with, while widths are still being chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnorm.deep.data import Batches
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.reduce import Reduction, Setup
from pathnorm.deep.surgery import cut
from pathnorm.errors import DataError
from pathnorm.report.records import BudgetCheck

__all__ = ["Measure", "Met", "Trial", "halves", "named"]

Measure = Callable[[Sequence[nn.Module], Tensor], list[float]]


@dataclass(frozen=True, slots=True)
class Trial:
    """The given network, and what tried networks are measured on.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode, without hooks.
    search : Batches
        Held-out samples that the choice may see.
    batch : torch.Tensor
        The batch whose latency counts.
    measure : callable
        Maps networks and a batch to their times in ms.
    """

    model: nn.Module
    search: Batches
    batch: Tensor
    measure: Measure

    def network(self, setup: Setup, reduction: Reduction) -> nn.Module:
        """Return the network that a reduction would give."""
        return cut(self.model, reduction.state, setup.neurons.groups, reduction.keep, turned=setup.graph.turned)

    def times(self, *models: nn.Module) -> list[float]:
        """Return the times of networks in ms, averaged over the ranks so that all of them choose alike."""
        sums = torch.tensor([*self.measure(models, self.batch), 1.0], dtype=torch.float64)
        sum_over_ranks(sums)
        return [float(value) for value in sums[:-1] / sums[-1]]


@dataclass(frozen=True, slots=True)
class Met:
    """A reduction that meets the budget, and how it was met if that had to be measured."""

    reduction: Reduction
    check: BudgetCheck | None = None


def named(setup: Setup, widths: NDArray) -> dict[str, int]:  # type: ignore[type-arg]
    """Return group name -> width."""
    return {group.name: int(width) for group, width in zip(setup.neurons.groups, widths, strict=True)}


def halves(held: Batches, *, divide: bool = True) -> tuple[Batches, Batches]:
    """Return every other held-out sample, and the rest; whole batches where batches are given or not to be divided.

    Raises
    ------
    DataError
        If there is only one sample, or one batch.
    """
    divisible = divide and all(not isinstance(chunk, int) and len(chunk) > 1 for chunk in held.chunks)
    if not divisible and len(held.chunks) < 2:
        raise DataError(
            "A budget on accuracy needs held-out data for the choice and others for the report, so at least two "
            "samples of an array, or two batches of a list, must be held out. Got one. Give more data, or raise "
            "heldout."
        )
    parts = (
        [tuple(chunk[start::2] for chunk in held.chunks) for start in (0, 1)]
        if divisible
        else [held.chunks[start::2] for start in (0, 1)]
    )
    search, report = (Batches(held.source, part, held.device) for part in parts)
    return search, report
