"""Channels that can only be removed together: what gates, residual streams and shared scales do to labels.

Where two neurons meet in one entry of a tensor (``a + b``, ``a * b``) neither goes without the other. The pairs are
collected while the labels ride through the graph; their connected components are the neurons of a coupled group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["NO_NEURON", "STREAM", "Attention", "Coupling", "Tied", "Unions", "joined"]

NO_NEURON = -1
STREAM = "other channels (residual stream)"  # what neurons are coupled with where sums are not followed

# "none": neurons that meet others stay. "interior": products couple, sums do not, so that gates and squeeze-excite
# are followed and residual streams are left alone. "streams": sums couple as well.
Coupling = Literal["none", "interior", "streams"]

# What of an attention is a neuron: a head, or one channel of the values of all heads, which leaves as many heads.
Attention = Literal["heads", "values"]


@dataclass(frozen=True, slots=True)
class Tied:
    """A parameter with one slice along ``dim`` for each channel that has the label ``labels[i]``."""

    key: str
    dim: int
    labels: Tensor


@dataclass(slots=True)
class Unions:
    """Sets of labels, given by pairs that belong together."""

    _pairs: list[Tensor] = field(default_factory=list)

    def join(self, first: Tensor, second: Tensor) -> bool:
        """Join two tensors of labels entry by entry; False if an entry is a neuron in one and none in the other."""
        if torch.equal(first, second):
            return True
        one, two = first.flatten().long(), second.flatten().long()
        base = int(max(one.max(), two.max())) + 2
        codes = torch.unique((one + 1) * base + two + 1)
        pairs = torch.stack((codes // base - 1, codes % base - 1))
        if bool(((pairs == NO_NEURON).sum(0) == 1).any()):
            return False
        self._pairs.append(pairs[:, (pairs[0] != pairs[1]) & (pairs[0] != NO_NEURON)])
        return True

    def join_along(self, labels: Tensor, dim: int) -> bool:
        """Join all labels that differ in their place along ``dim`` only."""
        length = labels.shape[dim] - 1
        return length == 0 or self.join(labels.narrow(dim, 0, length), labels.narrow(dim, 1, length))

    def joins(self, first: Tensor, second: Tensor) -> bool:
        """Whether two tensors of labels are the same, entry by entry, up to what has been joined."""
        if torch.equal(first, second):
            return True
        count = int(max(first.max(), second.max())) + 1
        roots = torch.cat((self.representatives(count), torch.tensor([NO_NEURON])))  # NO_NEURON is the last index
        return bool((roots[first] == roots[second]).all())

    def representatives(self, count: int) -> Tensor:
        """Return, for the labels ``0 .. count - 1``, the smallest label of the set that each belongs to."""
        if not self._pairs:
            return torch.arange(count)
        one, two = torch.cat(self._pairs, 1).numpy()
        # Labels below ``count`` may be joined through larger ones.
        everyone = max(count, 1 + max(one.max(initial=0), two.max(initial=0)))
        component = _components(one, two, everyone)
        smallest = np.full(component.max() + 1, everyone)
        np.minimum.at(smallest, component, np.arange(everyone))
        return torch.from_numpy(smallest[component][:count])


def joined(owned: Sequence[Tensor]) -> list[int]:
    """Return a component for every set of labels; sets with a label in common are in one."""
    owner = np.repeat(np.arange(len(owned)), [labels.numel() for labels in owned])
    labels = torch.cat(list(owned)).numpy() if owned else np.zeros(0, dtype=np.int64)
    count = len(owned) + int(labels.max(initial=-1)) + 1
    return [int(home) for home in _components(owner, len(owned) + labels, count)[: len(owned)]]


def _components(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    links = coo_array((np.ones(first.size, dtype=np.int8), (first, second)), shape=(count, count))
    component: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return component
