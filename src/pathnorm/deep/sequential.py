"""Layer after layer: features of the compressed prefix, outputs of the original network.

Every layer solves the reconstruction problem of its own moments, so an error made early is
corrected by the layers behind it instead of being carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.mixing import kept_key
from pathnorm.deep.moments import (
    Moments,
    Others,
    accumulate,
    draw_positions,
    feature_count,
    output_gain,
    own_features,
    reconstruction,
    split_coef,
    stack_coef,
    targets_of,
)
from pathnorm.deep.neuron_group import Consumer, NeuronGroup, Producer
from pathnorm.deep.replay import Replay
from pathnorm.errors import DataError
from pathnorm.problems.reconstruction import LayerReconstruction

__all__ = [
    "LayerState",
    "collect",
    "first_touched",
    "input_norms",
    "layer_error",
    "layer_state",
    "leave_out",
    "write_consumer",
    "write_group",
    "written_coef",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerState:
    """First moments of every consumer of a group, and the problem over the neurons ``alive``."""

    group: NeuronGroup
    moments: tuple[Moments, ...]
    problem: LayerReconstruction
    alive: NDArray[np.intp]

    def restrict(self, alive: NDArray[np.intp]) -> LayerState:
        """Return the same layer over some of its neurons."""
        return LayerState(self.group, self.moments, self.problem.restrict(alive), self.alive[alive])

    def widen(self, coef: Array) -> Array:
        """Return the coefficients of all neurons of the group, zero for those that are not alive."""
        block = self.problem.block
        full = np.zeros((self.group.width, block, coef.shape[1]))
        full[self.alive] = coef.reshape(self.alive.size, block, -1)
        return full.reshape(-1, coef.shape[1])


def collect(
    replay: Replay,
    current: State,
    targets: Sequence[Consumer],
    *,
    max_positions: int | None,
    seed: int,
    cut: int | None = None,
    diagonal: bool = False,
) -> tuple[Moments, ...]:
    """Return the moments of ``targets`` (consumers of one group), one streaming pass.

    The cache of ``replay`` moves to the first target, or to ``cut`` before it. With ``diagonal`` the products of
    outputs are not summed, only their squares.
    """
    graph, original = replay.graph, replay.original
    if cut is None:
        cut = min(graph.index(consumer.layer.node) for consumer in targets)
    stop = max(graph.index(consumer.site.node) for consumer in targets) + 1
    keep = {node for c in targets for node in (c.layer.source, c.layer.node, c.site.node)}
    gains = [output_gain(consumer, original) for consumer in targets]
    others = [_others(consumer, current, original) for consumer in targets]
    generator = torch.Generator().manual_seed(seed)
    sums: list[Moments] = []
    for before, after in replay.sweep(current, cut=cut, stop=stop, keep=keep):
        for index, consumer in enumerate(targets):
            layer = consumer.layer
            inputs, outputs = after[layer.source], after[layer.node]
            wanted = targets_of(
                consumer, (before[consumer.site.node], after[consumer.site.node]), outputs, gains[index]
            )
            if index == len(sums):
                sums.append(Moments.zeros(feature_count(consumer), layer.width, inputs.device, diagonal=diagonal))
            accumulate(
                sums[index],
                layer,
                inputs,
                wanted,
                draw_positions(layer, outputs.shape, max_positions, generator, outputs.device),
                others=others[index],
            )
    for consumer, total in zip(targets, sums, strict=True):
        total.sum_over_ranks()
        _require_finite(consumer, total)
    return tuple(sums)


def _others(consumer: Consumer, current: State, original: State) -> Others | None:
    """Return what a layer reads besides the group, which stays as it is."""
    if consumer.whole:
        return None
    coef = (current[consumer.layer.weight].double().flatten(1) * output_gain(consumer, original)[:, None]).T
    own = own_features(consumer).to(coef.device)
    return Others(own, coef[~own])


def layer_state(group: NeuronGroup, moments: tuple[Moments, ...], original: State) -> LayerState:
    """Return the layer problem of a group, weighted by the norms of its input weights.

    Raises
    ------
    DataError
        If the moments are of fewer rows than there are features.
    """
    for consumer, sums in zip(group.consumers, moments, strict=True):
        _require_full_rank(consumer, sums)
    problem = reconstruction(group, moments, input_norms(group, original))
    return LayerState(group, tuple(sums.first_order() for sums in moments), problem, np.arange(group.width))


def input_norms(group: NeuronGroup, state: State) -> Tensor:
    """Return ``c_k``, shape (K,): norm of the row with its bias, or of (gamma, beta) behind a BatchNorm.

    A BatchNorm makes the kernel scale-free, so its gain and offset are the neuron's input weights.
    Neurons with (nearly) no input weight get ``1e-6`` of the largest norm, so that weights stay positive. The rows of
    a coupled neuron are taken together.
    """
    total = torch.zeros(group.width, dtype=torch.float64, device=state[group.producer.weight].device)
    for producer in group.producers:
        own = producer.neurons != NO_NEURON
        squared = _squared_rows(producer, state).to(total)
        total.index_add_(0, producer.neurons[own].to(total.device), squared[own.to(total.device)])
    norms = total.sqrt()
    largest = float(norms.max())
    return norms.clamp_min(1e-6 * largest if largest > 0.0 else 1.0)


def _squared_rows(producer: Producer, state: State) -> Tensor:
    layer, norm = producer.layer, producer.norm
    if norm is None:
        squared = state[layer.weight].double().flatten(1).square().sum(1)
        offset = layer.bias
    else:
        ones = torch.ones(layer.width, dtype=torch.float64)
        squared = ones if norm.weight is None else state[norm.weight].double().square()
        offset = norm.bias
    return squared if offset is None else squared + state[offset].double().square()


def written_coef(group: NeuronGroup, state: State, original: State) -> Array:
    """Return the output weights V of a state, stacked and neuron-major, times the gain behind each consumer."""
    parts = []
    for consumer in group.consumers:
        gain = output_gain(consumer, original)
        coef = (state[consumer.layer.weight].double().flatten(1) * gain[:, None]).T
        parts.append(coef[own_features(consumer).to(coef.device)])
    return stack_coef(group, parts)


def write_group(layer: LayerState, coef: Array, current: dict[str, Tensor], original: State) -> None:
    """Write refitted output weights of the neurons alive into ``current`` (entries are replaced)."""
    parts = split_coef(layer.group, layer.widen(coef))
    for consumer, part, sums in zip(layer.group.consumers, parts, layer.moments, strict=True):
        write_consumer(consumer, part, sums, current, original)


def write_consumer(
    consumer: Consumer, coef: Tensor, sums: Moments, current: dict[str, Tensor], original: State
) -> None:
    """Write ``coef`` (P, D) of the group's features, in units of the site, and the intercept that goes with it.

    Outputs whose gain is zero do not reach the site; their weights become zero.
    """
    layer, gain = consumer.layer, output_gain(consumer, original)
    dead = gain.abs() <= 1e-12 * gain.abs().max()
    inverse = torch.where(dead, torch.zeros_like(gain), 1.0 / torch.where(dead, torch.ones_like(gain), gain))
    old = original[layer.weight]
    coef = coef.to(gain.device)
    weight = current[layer.weight].flatten(1).clone()
    weight[:, own_features(consumer).to(weight.device)] = (coef * inverse).T.to(old.dtype)
    current[layer.weight] = weight.reshape(old.shape)
    if not consumer.has_intercept:
        return
    count = sums.count.clamp_min(1.0)
    intercept = (sums.targets / count - coef.T @ (sums.features / count)) * inverse
    if layer.bias is not None:
        current[layer.bias] = intercept.to(old.dtype)
    elif consumer.site.norm is not None:
        mean = current[consumer.site.norm.mean]
        current[consumer.site.norm.mean] = (mean.double() - intercept).to(mean.dtype)


def first_touched(graph: ModelGraph, group: NeuronGroup) -> int:
    """Return the position of the first operation that changes when neurons of a group go: one that reads or mixes."""
    mixed = {rows.key for rows in group.mixed}
    nodes = [consumer.layer.node for consumer in group.consumers]
    return min(graph.index(node) for node in [*nodes, *(node for node in graph.nodes if kept_key(node) in mixed)])


def leave_out(group: NeuronGroup, keep: NDArray[np.intp], current: dict[str, Tensor]) -> None:
    """Tell the operations that mix the neurons of a group which are left (entries of ``current`` are replaced)."""
    gone = torch.ones(group.width, dtype=torch.bool)
    gone[torch.from_numpy(keep)] = False
    for rows in group.mixed:
        lost = ((rows.neurons != NO_NEURON) & gone[rows.neurons.clamp_min(0)]).to(current[group.producer.weight].device)
        current[rows.key] = ~lost if rows.key not in current else current[rows.key] & ~lost


def layer_error(replay: Replay, current: State, group: NeuronGroup) -> float:
    """Return the relative error of a group's outputs on the batches of ``replay``, consumers stacked."""
    graph = replay.graph
    cut = first_touched(graph, group)
    stop = max(graph.index(consumer.site.node) for consumer in group.consumers) + 1
    keep = {node for c in group.consumers for node in (c.layer.node, c.site.node)}
    gains = [output_gain(consumer, replay.original) for consumer in group.consumers]
    missed, second = 0.0, 0.0
    first = [torch.zeros_like(gain) for gain in gains]
    rows = [0] * len(gains)
    for before, after in replay.sweep(current, cut=cut, stop=stop, keep=keep):
        for index, consumer in enumerate(group.consumers):
            sites = (before[consumer.site.node], after[consumer.site.node])
            wanted = targets_of(consumer, sites, after[consumer.layer.node], gains[index]).double()
            channel = consumer.layer.channel_dim % wanted.ndim
            missed += float((sites[0] - sites[1]).double().square().sum())
            second += float(wanted.square().sum())
            first[index] += wanted.sum([dim for dim in range(wanted.ndim) if dim != channel])
            rows[index] += wanted.numel() // wanted.shape[channel]
    for consumer, total, count in zip(group.consumers, first, rows, strict=True):
        if consumer.has_intercept:
            second -= float(total.square().sum()) / max(count, 1)
    return float(np.sqrt(missed / second)) if second > 0.0 else 0.0


def _require_finite(consumer: Consumer, sums: Moments) -> None:
    if not all(bool(torch.isfinite(part).all()) for part in (sums.gram, sums.cross, sums.outer)):
        raise DataError(
            f"Activations must be finite. The input or output of {consumer.layer.name} holds NaN or Inf on the "
            "calibration data. Check the data's scaling and the network's weights."
        )


def _require_full_rank(consumer: Consumer, sums: Moments) -> None:
    """Refuse moments of fewer rows than there are features."""
    needed, rows = sums.features.numel() + 1, int(sums.count)
    if rows < needed:
        raise DataError(
            f"The moments of {consumer.layer.name} have {sums.features.numel()} features and need at least {needed} "
            f"rows (samples x positions) to have full rank. The calibration data gives {rows}: multiply the number of "
            f"samples by {-(-needed // max(rows, 1))} or list the layer's producer in skip."
        )
