"""Streaming second moments of a layer: Gram ``Phi' Phi``, cross ``Phi' Psi``, energy ``||Psi||^2``.

This is the one module in which activations become float64 matrices. Features are the
inputs of a consumer in the *current* network (patches for convolutions), targets are what the
consumer has to deliver so that the values at its site equal those of the *original* network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import block_diag
from torch import Tensor

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import State
from pathnorm.deep.labels import Layer
from pathnorm.deep.neuron_group import Consumer, NeuronGroup
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.problems.reconstruction import LayerReconstruction

__all__ = [
    "Moments",
    "Others",
    "accumulate",
    "draw_positions",
    "feature_count",
    "features_of",
    "output_gain",
    "own_features",
    "reconstruction",
    "split_coef",
    "stack_coef",
    "targets_of",
]

_CHUNK_BYTES = 64 * 2**20


@dataclass(slots=True)
class Moments:
    """Sums over rows in float64: of features (P,), targets (D,), and their products.

    ``gram`` (P, P), ``cross`` (P, D) and ``outer`` (D, D), the Gram matrix of the targets, or its diagonal (D,)
    alone: that of a layer with a vocabulary for outputs would take tens of gigabytes.
    """

    count: Tensor
    features: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor
    outer: Tensor

    @classmethod
    def zeros(cls, n_features: int, n_targets: int, device: torch.device, *, diagonal: bool = False) -> Moments:
        """Return empty sums; of the Gram matrix of the targets only the ``diagonal`` if so asked."""

        def zero(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        p, d = n_features, n_targets
        return cls(zero(1), zero(p), zero(d), zero(p, p), zero(p, d), zero(d) if diagonal else zero(d, d))

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features (n, P), targets (n, D)."""
        features, targets = features.double(), targets.double()
        self.count += features.shape[0]
        self.features += features.sum(0)
        self.targets += targets.sum(0)
        self.gram.addmm_(features.T, features)
        self.cross.addmm_(features.T, targets)
        if self.outer.ndim == 1:
            self.outer += targets.square().sum(0)
        else:
            self.outer.addmm_(targets.T, targets)

    def sum_over_ranks(self) -> None:
        """Add the sums of all processes, if a process group is initialised."""
        sum_over_ranks(self.count, self.features, self.targets, self.gram, self.cross, self.outer)

    def first_order(self) -> Moments:
        """Return the sums without the products, which are most of the memory and in the layer problem already."""
        nothing = self.gram.new_zeros(0, 0)
        return Moments(self.count, self.features, self.targets, nothing, nothing, nothing)

    def central(self, *, intercept: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return Gram, cross and outer, of the deviations from the mean if there is an ``intercept``."""
        if not intercept:
            return self.gram, self.cross, self.outer
        n = self.count.clamp_min(1.0)
        return (
            self.gram - torch.outer(self.features, self.features) / n,
            self.cross - torch.outer(self.features, self.targets) / n,
            self.outer - (self.targets**2 if self.outer.ndim == 1 else torch.outer(self.targets, self.targets)) / n,
        )


@dataclass(frozen=True, slots=True)
class Others:
    """What a layer reads besides the features ``own`` (P,) of bool: the coefficients (P - own, D) of the rest."""

    own: Tensor
    coef: Tensor


def features_of(layer: Layer, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the rows that a layer multiplies: (n * positions, P), P = channels * kernel.

    Only the output ``positions`` of a convolution, if given.
    """
    if layer.geometry is None:
        return inputs.reshape(-1, inputs.shape[-1])
    return layer.geometry.patches(inputs, positions)


def draw_positions(
    layer: Layer, shape: Sequence[int], limit: int | None, generator: torch.Generator, device: torch.device
) -> Tensor | None:
    """Draw the output positions of a batch to use, given the shape of the layer's outputs; None for all."""
    if layer.geometry is None or limit is None:
        return None
    total = math.prod(shape[2:])
    return None if total <= limit else torch.randperm(total, generator=generator)[:limit].to(device)


def rows_of(layer: Layer, outputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return a layer's outputs as rows (n * positions, D), in the order of :func:`features_of`."""
    if layer.geometry is None:
        return outputs.reshape(-1, outputs.shape[-1])
    flat = outputs.flatten(2)
    if positions is not None:
        flat = flat[:, :, positions]
    return flat.transpose(1, 2).reshape(-1, outputs.shape[1])


def output_gain(consumer: Consumer, state: State) -> Tensor:
    """Return the gain (D,) between the consumer's output and its site."""
    if consumer.site.norm is None:
        return torch.ones(consumer.layer.width, dtype=torch.float64, device=state[consumer.layer.weight].device)
    return consumer.site.norm.gain(state)


def targets_of(consumer: Consumer, sites: tuple[Tensor, Tensor], outputs: Tensor, gain: Tensor) -> Tensor:
    """Return what ``gain * output`` has to be, as a tensor of the output's shape.

    The site of the current network misses the original one by ``sites[0] - sites[1]``; the
    consumer is the only term that can make up for it.
    """
    shape = [1] * outputs.ndim
    shape[consumer.layer.channel_dim] = -1
    return sites[0] - sites[1] + outputs * gain.to(outputs.dtype).view(shape)


def accumulate(
    sums: Moments,
    layer: Layer,
    inputs: Tensor,
    targets: Tensor,
    positions: Tensor | None = None,
    *,
    others: Others | None = None,
) -> None:
    """Add one batch, in pieces whose matrices stay small.

    Parameters
    ----------
    inputs : torch.Tensor
        What the layer reads.
    targets : torch.Tensor
        Of the shape of the layer's output.
    positions : torch.Tensor of int or None
        Output positions to use (flattened rows and columns); all if None.
    others : Others
        The features that are not looked at; what they give is taken off the targets.
    """
    rows = max(targets[0].numel() // layer.width, 1) if positions is None else positions.numel()
    features = sums.features.numel() + (0 if others is None else others.coef.shape[0])
    step = max(1, _CHUNK_BYTES // (8 * rows * max(features, layer.width)))
    for part, wanted in zip(inputs.split(step), targets.split(step), strict=True):
        found, goal = features_of(layer, part, positions), rows_of(layer, wanted, positions)
        if others is not None:
            goal = goal.double() - found[:, ~others.own].double() @ others.coef
            found = found[:, others.own]
        sums.add(found, goal)


def reconstruction(group: NeuronGroup, moments: Sequence[Moments], cost: Tensor) -> LayerReconstruction:
    """Return the layer problem of a group, consumers stacked: block-diagonal Gram, neuron-major rows."""
    grams, crosses, outers, owners = [], [], [], []
    for consumer, sums in zip(group.consumers, moments, strict=True):
        gram, cross, outer = (part.cpu().numpy() for part in sums.central(intercept=consumer.has_intercept))
        grams.append(gram)
        crosses.append(cross)
        outers.append(outer)
        owners.append(feature_owners(consumer).numpy())
    order = np.argsort(np.concatenate(owners), kind="stable")
    gram = block_diag(*grams)[np.ix_(order, order)]
    return LayerReconstruction(
        gram=np.ascontiguousarray(gram),
        cross=np.ascontiguousarray(block_diag(*crosses)[order]),
        outer=block_diag(*outers),
        block=gram.shape[0] // group.width,
        cost=cost.double().cpu().numpy(),
    )


def split_coef(group: NeuronGroup, coef: np.ndarray) -> list[Tensor]:
    """Return the coefficients (P_j, D_j) of every consumer from the stacked, neuron-major ones."""
    owners = [feature_owners(consumer).numpy() for consumer in group.consumers]
    order = np.argsort(np.concatenate(owners), kind="stable")
    plain = np.empty_like(coef)
    plain[order] = coef
    parts, row, col = [], 0, 0
    for consumer, owner in zip(group.consumers, owners, strict=True):
        parts.append(torch.from_numpy(plain[row : row + owner.size, col : col + consumer.layer.width].copy()))
        row, col = row + owner.size, col + consumer.layer.width
    return parts


def stack_coef(group: NeuronGroup, parts: Sequence[Tensor]) -> np.ndarray:
    """Invert :func:`split_coef`."""
    owners = [feature_owners(consumer).numpy() for consumer in group.consumers]
    order = np.argsort(np.concatenate(owners), kind="stable")
    stacked: np.ndarray = block_diag(*(part.double().cpu().numpy() for part in parts))
    return stacked[order]


def feature_owners(consumer: Consumer) -> Tensor:
    """Return the neuron of every feature (P,) that a group has in a consumer, in the order of :func:`features_of`."""
    owners = consumer.neurons.repeat_interleave(_per_channel(consumer))
    return owners[owners != NO_NEURON]


def feature_count(consumer: Consumer) -> int:
    """Return the number of features (P,) that a group has in a consumer."""
    return int((consumer.neurons != NO_NEURON).sum()) * _per_channel(consumer)


def own_features(consumer: Consumer) -> Tensor:
    """Return which of all features that a consumer reads belong to the group."""
    return (consumer.neurons != NO_NEURON).repeat_interleave(_per_channel(consumer))


def _per_channel(consumer: Consumer) -> int:
    geometry = consumer.layer.geometry
    return 1 if geometry is None else geometry.taps
