"""Gram matrices of what every layer reads, in one pass over the data.

A batch flows through the graph once; at each layer the rows that it multiplies are added to a Gram matrix in float64
and forgotten. As the network is its own prefix, ``Psi = Phi V``, and the weights give everything else:
``Phi' Psi = G V`` and ``Psi' Psi = V' G V``. Where the Gram matrices do not fit into a byte limit together, the layers
are split and the data are read once per part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor

from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.moments import draw_positions, feature_owners, features_of
from pathnorm.deep.neuron_group import Consumer, NeuronGroup
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.errors import DataError

__all__ = ["InputGram", "input_grams", "layer_gram", "parts_of"]

Array = NDArray[np.float64]

_CHUNK_BYTES = 64 * 2**20


@dataclass(slots=True)
class InputGram:
    """Sums over the rows that a layer reads: their number, the features (P,), and their products (P, P).

    ``reach`` (channels,) is the largest absolute value of each input channel at all positions, those that are not
    sampled included. Without ``gram`` only the reach is known.
    """

    count: Tensor
    features: Tensor
    gram: Tensor | None
    reach: Tensor

    @classmethod
    def zeros(cls, consumer: Consumer, state: State, *, gram: bool) -> InputGram:
        """Return empty sums."""
        weight = state[consumer.layer.weight]
        size = int(weight[0].numel())

        def zero(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=weight.device)

        return cls(zero(1), zero(size), zero(size, size) if gram else None, zero(consumer.layer.fan_in))

    def add(self, consumer: Consumer, inputs: Tensor, positions: Tensor | None) -> None:
        """Add what the layer reads in one batch, in pieces whose feature matrix stays small."""
        dim = consumer.layer.channel_dim % inputs.ndim
        others = [axis for axis in range(inputs.ndim) if axis != dim]
        self.reach = torch.maximum(self.reach, inputs.abs().amax(others).double())
        if self.gram is None:
            return
        rows = max(inputs[0].numel() // inputs.shape[dim], 1) if positions is None else positions.numel()
        step = max(1, _CHUNK_BYTES // (8 * rows * self.features.numel()))
        for part in inputs.split(step):
            features = features_of(consumer.layer, part, positions).double()
            self.count += features.shape[0]
            self.features += features.sum(0)
            self.gram.addmm_(features.T, features)

    def central(self, *, intercept: bool) -> Tensor:
        """Return the Gram matrix, of the deviations from the mean if there is an ``intercept``."""
        assert self.gram is not None
        if not intercept:
            return self.gram
        return self.gram - torch.outer(self.features, self.features) / self.count.clamp_min(1.0)


def parts_of(groups: Sequence[NeuronGroup], sizes: Sequence[int], limit: int) -> list[list[NeuronGroup]]:
    """Split the groups, in order, so that the sizes of each part add up to at most ``limit``.

    A group that is larger than ``limit`` counts nothing: its Gram matrices are not formed. There is one part at least.
    """
    parts: list[list[NeuronGroup]] = [[]]
    spent = 0
    for group, size in zip(groups, sizes, strict=True):
        need = size if size <= limit else 0
        if parts[-1] and spent + need > limit:
            parts.append([])
            spent = 0
        parts[-1].append(group)
        spent += need
    return parts


@torch.no_grad()
def input_grams(
    graph: ModelGraph,
    state: State,
    batches: Iterable[Tensor],
    consumers: Sequence[tuple[Consumer, bool]],
    *,
    shapes: Sequence[tuple[int, ...]],
    max_positions: int | None,
    seed: int,
) -> list[InputGram]:
    """Return the sums of every consumer over the batches, each of which flows through the graph once.

    Parameters
    ----------
    consumers : sequence of (Consumer, bool)
        With whether to form the Gram matrix.
    shapes : sequence of tuple of int
        Shapes of the consumers' outputs, which say how many positions a convolution has.
    max_positions : int or None
        Output positions of a convolution used per batch, drawn anew for each batch; all if None.

    Raises
    ------
    DataError
        If a batch or what a layer reads is not finite.
    """
    sums = [InputGram.zeros(consumer, state, gram=wanted) for consumer, wanted in consumers]
    order = sorted(range(len(consumers)), key=lambda index: graph.index(consumers[index][0].layer.node))
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        if not bool(torch.isfinite(batch).all()):
            raise DataError("Data must be finite. A batch holds NaN or Inf. Clean the data first.")
        values, at = graph.start(batch), 0
        for index in order:
            consumer = consumers[index][0]
            stop = graph.index(consumer.layer.node)
            # Up to the layer and no further: what it reads is still there, and everything older is gone.
            values = graph.run(state, values, span=(at, stop))
            at = stop
            inputs = values[consumer.layer.source]
            positions = draw_positions(consumer.layer, shapes[index], max_positions, generator, inputs.device)
            sums[index].add(consumer, inputs, positions)
    for (consumer, _), total in zip(consumers, sums, strict=True):
        sum_over_ranks(total.count, total.features, total.reach, *([] if total.gram is None else [total.gram]))
        if not bool(torch.isfinite(total.reach).all()):
            raise DataError(
                f"Activations must be finite. The input of {consumer.layer.name} holds NaN or Inf on these data. "
                "Check the data's scaling and the network's weights."
            )
    return sums


def layer_gram(group: NeuronGroup, sums: Sequence[InputGram], *, centred: bool = True) -> Array:
    """Return the Gram matrix of a group, neuron-major, consumers stacked as blocks of a block-diagonal matrix.

    Features are centred where the consumer has an intercept, unless ``centred`` is false.
    """
    grams, owners = [], []
    for consumer, total in zip(group.consumers, sums, strict=True):
        grams.append(total.central(intercept=centred and consumer.has_intercept).cpu().numpy())
        owners.append(feature_owners(consumer).cpu().numpy())
    order = np.argsort(np.concatenate(owners), kind="stable")
    stacked = grams[0] if len(grams) == 1 else block_diag(*grams)
    return np.ascontiguousarray(stacked[np.ix_(order, order)])
