"""Layers that are too wide for their Gram matrix: groups of neurons split into blocks that are treated one by one.

Each block is reduced with the others held where they are, as a layer that reads several groups is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.moments import feature_count
from pathnorm.deep.neuron_group import Consumer, NeuronGroup, Neurons

__all__ = ["GRAM_BYTES", "gram_bytes", "in_blocks"]

GRAM_BYTES = 2 * 2**30


def gram_bytes(group: NeuronGroup) -> int:
    """Return the size of the Gram matrices of a group's consumers in float64."""
    return sum(8 * feature_count(consumer) ** 2 for consumer in group.consumers)


def in_blocks(neurons: Neurons, limit: int) -> Neurons:
    """Split every group whose Gram matrices take more than ``limit`` bytes; one neuron is the smallest block.

    Layers that are only refitted, and would need more than that, are left as they are.
    """
    groups = tuple(part for group in neurons.groups for part in _blocks(group, limit))
    readers = tuple(reader for reader in neurons.readers if 8 * feature_count(reader) ** 2 <= limit)
    return replace(neurons, groups=groups, readers=readers)


def _blocks(group: NeuronGroup, limit: int) -> list[NeuronGroup]:
    count = min(math.ceil(math.sqrt(gram_bytes(group) / limit)), group.width)
    # Operations that mix the neurons would have to be told about all blocks at once.
    if count < 2 or group.mixed:
        return [group]
    edges = [group.width * at // count for at in range(count + 1)]
    return [_block(group, first, stop) for first, stop in itertools.pairwise(edges)]


def _block(group: NeuronGroup, first: int, stop: int) -> NeuronGroup:
    def own(neurons: Tensor) -> Tensor:
        inside = (neurons >= first) & (neurons < stop)
        return torch.where(inside, neurons - first, NO_NEURON)

    return replace(
        group,
        producers=tuple(replace(producer, neurons=own(producer.neurons)) for producer in group.producers),
        consumers=tuple(Consumer(c.layer, own(c.neurons), c.site) for c in group.consumers),
        tied=tuple(replace(rows, neurons=own(rows.neurons)) for rows in group.tied),
        block=f"[{first}:{stop}]",
    )
