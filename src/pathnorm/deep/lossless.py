"""The lossless stage: neurons whose removal provably does not change the function.

Proofs from the weights alone, so they hold for every input:

- *silent*: no output weight is non-zero, or the neuron is constantly zero (zero input weights and
  an activation that maps the remaining constant to zero);
- *collinear*: two neurons with the same input weights up to a positive factor and a positively
  homogeneous path (or with equal input weights and any path) differ by that factor for every
  input; one of them takes over the other's output weights. Coupled neurons are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import State
from pathnorm.deep.neuron_group import POSITIVELY_HOMOGENEOUS, NeuronGroup

__all__ = ["input_rows", "outgoing_weight", "remove_redundant", "silent_neurons"]

_TOLERANCE = 1e-6
_ZERO_AT_ZERO = POSITIVELY_HOMOGENEOUS | frozenset(
    "gelu silu tanh elu celu selu mish hardswish relu6 hardtanh softshrink hardshrink tanhshrink softsign sin square "
    "sqrt sign erf".split()
)


def remove_redundant(groups: Sequence[NeuronGroup], state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a state with the same function, and per group the neurons that are still needed.

    Every group keeps at least one neuron.

    Returns
    -------
    state : dict
        In the original shapes; removed neurons have zero output weights.
    alive : dict
        Group name -> sorted indices of the neurons that are needed.
    """
    current = dict(state)
    alive: dict[str, Tensor] = {}
    for group in groups:
        if group.mixed:  # a neuron that nothing reads still counts in what the others are divided by
            alive[group.name] = torch.arange(group.width)
            continue
        gone = _merge_collinear(group, current) | silent_neurons(group, current)
        if bool(gone.all()):
            gone[0] = False
        alive[group.name] = (~gone).nonzero().flatten()
        for consumer in group.consumers:
            weight = current[consumer.layer.weight]
            columns = consumer.channels(gone).to(weight.device)
            if bool(columns.any()):
                current[consumer.layer.weight] = _masked(weight, columns)
    return current, alive


def _masked(weight: Tensor, columns: Tensor) -> Tensor:
    shape = [1, -1] + [1] * (weight.ndim - 2)
    return torch.where(columns.view(shape), torch.zeros_like(weight), weight)


def input_rows(group: NeuronGroup, state: State) -> Tensor:
    """Return each neuron's affine map of the layer's input, (K, fan-in + 1), BatchNorm folded in."""
    weight = state[group.producer.weight].double().flatten(1)
    bias = torch.zeros(group.width, dtype=torch.float64, device=weight.device)
    if group.producer.bias is not None:
        bias = state[group.producer.bias].double()
    if group.norm is not None:
        gain = group.norm.gain(state)
        weight, bias = weight * gain[:, None], bias * gain + group.norm.shift(state)
    return torch.cat([weight, bias[:, None]], 1)


def silent_neurons(group: NeuronGroup, state: State) -> Tensor:
    """Return which neurons have no output weight or are constantly zero."""
    gone = outgoing_weight(group, state) == 0.0
    if not group.coupled and set(group.activations) <= _ZERO_AT_ZERO:
        rows = input_rows(group, state).cpu()
        no_weight = (rows[:, :-1] == 0.0).all(1)
        closed = "relu" in group.activations and group.activations[_first_acting(group)] == "relu"
        gone |= no_weight & ((rows[:, -1] == 0.0) | (closed & (rows[:, -1] <= 0.0)))
    return gone


def outgoing_weight(group: NeuronGroup, state: State) -> Tensor:
    """Return the sum of the absolute output weights of every neuron, (K,)."""
    outgoing = torch.zeros(group.width, dtype=torch.float64)
    for consumer in group.consumers:
        weight = state[consumer.layer.weight].double().abs().transpose(0, 1).flatten(1).sum(1).cpu()
        own = consumer.neurons != NO_NEURON
        outgoing.index_add_(0, consumer.neurons[own], weight[own])
    return outgoing


def _first_acting(group: NeuronGroup) -> int:
    """Return the position of the first operation that is not a mere passing on of the BatchNorm's result."""
    names = list(group.activations)
    return next((i for i, name in enumerate(names) if name not in {"getitem", "clone", "alias"}), 0)


def _merge_collinear(group: NeuronGroup, current: dict[str, Tensor]) -> Tensor:
    """Let one neuron of every collinear set take over the output weights of the others."""
    if group.coupled:
        return torch.zeros(group.width, dtype=torch.bool)
    rows = input_rows(group, current).cpu()
    norms = rows.norm(dim=1)
    gone = torch.zeros(group.width, dtype=torch.bool)
    homogeneous = not group.not_homogeneous
    directions = rows / norms.clamp_min(1e-300)[:, None]
    close = ((directions @ directions.T) >= 1.0 - _TOLERANCE) & (norms > 0)[:, None] & (norms > 0)[None, :]
    close.fill_diagonal_(False)
    for first, second in np.argwhere(torch.triu(close).numpy()):
        if gone[first] or gone[second]:
            continue
        factor = float(norms[second] / norms[first]) if homogeneous else 1.0
        if float((rows[second] - factor * rows[first]).norm()) > _TOLERANCE * float(norms[second]):
            continue
        for consumer in group.consumers:
            weight = current[consumer.layer.weight].clone()
            source = (consumer.neurons == int(second)).nonzero().flatten()
            target = (consumer.neurons == int(first)).nonzero().flatten()
            weight[:, target] += factor * weight[:, source]
            current[consumer.layer.weight] = weight
        gone[second] = True
    return gone
