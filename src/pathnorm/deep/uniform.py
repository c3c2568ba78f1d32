"""Groups that get the same width: those in the same place of every block, told by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathnorm.deep.cost import Cost
from pathnorm.deep.neuron_group import NeuronGroup

__all__ = ["Ties", "everyone", "place", "pooled", "same_places", "shared_cost", "spread"]

Array = NDArray[np.float64]
Widths = NDArray[np.intp]
# Indices of the groups that get one width; every group is in one set.
Ties = Sequence[Sequence[int]]


def place(name: str) -> str:
    """Return a module path with its numbers left out."""
    return re.sub(r"\d+", "*", name)


def same_places(groups: Sequence[NeuronGroup]) -> Ties:
    """Return the groups with the same place in their block, and the same width."""
    found: dict[tuple[str, int], list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault((place(group.name), group.width), []).append(index)
    return tuple(tuple(members) for members in found.values())


def everyone(groups: Sequence[NeuronGroup]) -> dict[str, Tensor]:
    """Return all neurons of every group: where blocks have different numbers of redundant ones, all take part."""
    return {group.name: torch.arange(group.width) for group in groups}


def pooled(curves: Sequence[Array], ties: Ties) -> list[Array]:
    """Return the error of each set of groups as a function of their common width."""
    return [np.sum([curves[index] for index in members], axis=0) for members in ties]


def spread(widths: Widths, ties: Ties) -> Widths:
    """Return the width of every group."""
    found = np.empty(sum(map(len, ties)), dtype=np.intp)
    for width, members in zip(widths, ties, strict=True):
        found[list(members)] = width
    return found


def shared_cost(cost: Cost, ties: Ties) -> Cost:
    """Return ``cost`` as a function of the common widths."""
    return cast(Cost, _SharedCost(cost, ties))  # all that is asked of a cost is its value and its marginal


@dataclass(frozen=True, slots=True)
class _SharedCost:
    cost: Cost
    ties: Ties

    def __call__(self, widths: Widths) -> float:
        return self.cost(spread(widths, self.ties))

    def marginal(self, widths: Widths) -> Array:
        slopes = self.cost.marginal(spread(widths, self.ties))
        return np.array([slopes[list(members)].sum() for members in self.ties])
