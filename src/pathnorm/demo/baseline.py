"""The usual way to make a network smaller: weight magnitude, then BatchNorm statistics anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pathnorm.deep.cost import macs_cost, params_cost
from pathnorm.deep.graph import State, state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.surgery import cut
from pathnorm.errors import BudgetError

__all__ = ["Pruned", "magnitude_prune", "recalibrate_batch_norm"]

Model = TypeVar("Model", bound=nn.Module)

_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A network pruned by magnitude: ``floor(ratio * K)`` neurons, at least one, of every group."""

    model: nn.Module
    ratio: float
    params: int
    macs: int


def magnitude_prune(model: nn.Module, images: Tensor, *, params: int) -> Pruned:
    """Return the largest copy with at most ``params`` parameters and one ratio for all widths.

    Neurons are ranked by the squares of everything that goes when they go: their input
    weights and bias, their BatchNorm scale, their output weights. Weights stay as they were and
    BatchNorm statistics are taken anew from the images; no label is read.

    Raises
    ------
    BudgetError
        If one neuron per group is still more than ``params``.
    """
    example = images[:2]
    graph, state = trace(model, example), state_of(model)
    neurons = find_neurons(graph, state, example)
    groups = neurons.groups
    count = params_cost(model, groups)
    widths, ratio = [1] * len(groups), 0.0
    if count(widths) > params:
        raise BudgetError(
            f"The budget must leave one neuron per layer, which takes {count(widths)} parameters. "
            f"Got a budget of {params}. Raise it to that number at least."
        )
    for candidate in _ratios(groups):
        wider = [max(1, math.floor(candidate * group.width + 1e-9)) for group in groups]
        if count(wider) > params:
            break
        widths, ratio = wider, candidate
    keep = {
        group.name: _magnitudes(state, group).topk(width).indices.sort().values
        for group, width in zip(groups, widths, strict=True)
    }
    return Pruned(
        model=recalibrate_batch_norm(cut(model, state, groups, keep), images),
        ratio=ratio,
        params=count(widths),
        macs=macs_cost(graph, neurons.labels, groups)(widths),
    )


def recalibrate_batch_norm(model: Model, images: Tensor) -> Model:
    """Return a copy whose BatchNorm statistics are those of the images, averaged over batches.

    No weight changes and no label is read. Batches have equal sizes up to one image, so
    that the plain average over batches is the average over images.
    """
    model = copy.deepcopy(model).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    with torch.no_grad():
        for batch in images.tensor_split(math.ceil(len(images) / _BATCH)):
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _ratios(groups: Sequence[NeuronGroup]) -> list[float]:
    """Return the ratios at which some width changes, in rising order."""
    return sorted({kept / group.width for group in groups for kept in range(1, group.width + 1)})


def _magnitudes(state: State, group: NeuronGroup) -> Tensor:
    """Return, per neuron, the sum of squares of the weights that are removed with it."""
    rows = [group.producer.weight, group.producer.bias, group.norm.weight if group.norm else None]
    total = torch.zeros(group.width, dtype=torch.float64)
    for key in rows:
        if key is not None:
            total += state[key].double().reshape(group.width, -1).square().sum(1)
    for consumer in group.consumers:
        columns = state[consumer.layer.weight].double().transpose(0, 1).flatten(1).square().sum(1)
        total.index_add_(0, consumer.neurons, columns)
    return total
