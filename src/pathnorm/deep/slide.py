"""Sliding: the neurons that are left move, to reconstruct the layer better than a selection can.

Selection keeps some of the original neurons; sliding then moves their input weights, biases and
output weights together by local descent on the layer's own reconstruction error, as in sliding
Frank-Wolfe (Denoyelle, Duval, Peyre, Soubies 2019). Each layer sees its own inputs and its own original
outputs alone: no labels, and no gradient through the rest of the network.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, fx

from pathnorm.deep.graph import ModelGraph, State, op_name
from pathnorm.deep.mixing import is_kept_key
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.replay import Replay, Values
from pathnorm.deep.surgery import sliced_state

__all__ = ["readouts", "slide", "start_of"]

_RATE = 2e-3
_WARM_UP = 0.2
_SHORTEST = 6  # below, the warm-up has no length and the schedule divides by it


def start_of(graph: ModelGraph, group: NeuronGroup) -> int:
    """Return the index of the first operation whose weights move."""
    return graph.index(group.producer.node)


def readouts(graph: ModelGraph, group: NeuronGroup) -> tuple[fx.Node, ...]:
    """Return where the layer is compared: its sites, behind a ReLU that is all that reads a site."""
    found = []
    for consumer in group.consumers:
        users = list(consumer.site.node.users)
        follows = len(users) == 1 and op_name(users[0]) in {"relu", "relu_"}
        found.append(users[0] if follows else consumer.site.node)
    return tuple(dict.fromkeys(found))


def slide(replay: Replay, group: NeuronGroup, keep: Tensor, current: dict[str, Tensor], *, steps: int) -> bool:
    """Move the kept neurons of a group by ``steps`` steps of Adam; entries of ``current`` are replaced.

    Minimises ``mean ||h - h_new||^2`` over the readouts h, with the learning rate following one cycle.

    Parameters
    ----------
    replay : Replay
        Whose cache stands at :func:`start_of` the group.
    keep : torch.Tensor of int
        Neurons with non-zero output weights.

    Returns
    -------
    bool
        Whether they moved. Nothing is changed if the objective on the first batch did not fall, or if the
        graph states its widths and cannot run without the removed neurons.
    """
    graph = replay.graph
    small = sliced_state(current, [group], {group.name: keep})
    small.update({key: value for key, value in current.items() if is_kept_key(key)})
    moving = {key: small[key].clone().requires_grad_(True) for key in _moving_keys(group, small)}
    _freeze_removed_inputs(moving[group.producer.weight])
    ends = readouts(graph, group)
    span = (start_of(graph, group), max(graph.index(node) for node in ends) + 1)

    def loss(pair: tuple[Values, Values]) -> Tensor:
        wanted, inputs = pair
        got = graph.run({**small, **moving}, inputs, span=span, keep=ends)
        return torch.stack([(got[node] - wanted[node]).square().mean() for node in ends]).sum()

    pairs = replay.targets(current, span=span, keep=ends)
    first = next(pairs)
    try:
        with torch.no_grad():
            before = float(loss(first))
    except RuntimeError:
        return False
    optimizer = torch.optim.Adam(moving.values(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=max(steps, _SHORTEST), pct_start=_WARM_UP
    )
    with torch.enable_grad():
        for pair in itertools.islice(pairs, steps):
            optimizer.zero_grad()
            loss(pair).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        moved = float(loss(first)) < before
    if moved:
        _write(group, keep, moving, current)
    return moved


def _freeze_removed_inputs(weight: Tensor) -> None:
    """Keep the columns of inputs that were removed before (zero in every row) at zero."""
    used = (weight.detach() != 0).transpose(0, 1).flatten(1).any(1)
    mask = used.view(1, -1, *[1] * (weight.ndim - 2)).to(weight.dtype)
    weight.register_hook(lambda gradient: gradient * mask)


def _moving_keys(group: NeuronGroup, state: State) -> list[str]:
    """Return the tensors that move: input weights, output weights, biases or offsets of BatchNorms."""
    keys = [group.producer.weight, group.producer.bias]
    if group.norm is not None:
        keys += [group.norm.weight, group.norm.bias]
    for consumer in group.consumers:
        offset = consumer.layer.bias
        if offset is None and consumer.site.norm is not None:
            offset = consumer.site.norm.bias
        keys += [consumer.layer.weight, offset]
    return [key for key in dict.fromkeys(keys) if key is not None and state[key].is_floating_point()]


def _write(group: NeuronGroup, keep: Tensor, moved: State, current: dict[str, Tensor]) -> None:
    """Scatter the moved tensors back into the original shapes."""
    rows = {item.key for item in group.rows}
    columns = {consumer.layer.weight: consumer.neurons for consumer in group.consumers}
    for key, value in moved.items():
        full = current[key].clone()
        if key in rows:
            full[keep.to(full.device)] = value.detach()
        elif key in columns:
            full[:, torch.isin(columns[key], keep).nonzero().flatten().to(full.device)] = value.detach()
        else:
            full = value.detach().clone()
        current[key] = full
