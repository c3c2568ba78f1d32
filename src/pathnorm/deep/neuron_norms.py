"""How large the weights in front of and behind every neuron of a group are, as differentiable functions of a state.

Two coordinates for a neuron behind a BatchNorm. The kernel in front of a BatchNorm has no scale of its own: in training
the running deviation follows it, so ``||w_k|| / sigma_k`` is a property of the direction alone.

- ``"gain"``: the neuron's input weight is what is trained and has a scale, ``(gamma_k, beta_k)``; output weights are
  the parameters as they are. These are the coordinates in which weight decay acts, the proximal step and the balance.
- ``"folded"``: the BatchNorms are folded in, so that a neuron is the map that it is in evaluation mode: input weight
  ``gamma_k / sigma_k w_k``, output weights times the gain of the BatchNorm behind the consumer. This is the path norm
  of the function. As the deviation follows the kernel, the derivative along the scale of a kernel is zero, and gamma,
  beta, and the output weights relative to each other carry the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pathnorm.deep.graph import State, state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.neuron_group import BatchNorm, NeuronGroup, Neurons

__all__ = [
    "Coordinates",
    "NeuronNorms",
    "PathNorms",
    "neuron_norms",
    "neurons_of",
    "path_norm",
    "plain_module",
    "two_examples",
    "widened",
]

Coordinates = Literal["folded", "gain"]


@dataclass(frozen=True, slots=True)
class NeuronNorms:
    """``inputs`` (K,) are ``||w_k||``, ``outputs`` (K,) are ``||v_k||``, stacked over all consumers."""

    inputs: Tensor
    outputs: Tensor

    @property
    def masses(self) -> Tensor:
        """``||w_k|| ||v_k||``, shape (K,)."""
        return self.inputs * self.outputs

    @property
    def imbalance(self) -> Tensor:
        """``(||w_k||^2 - ||v_k||^2) / (||w_k||^2 + ||v_k||^2)`` in [-1, 1], shape (K,); 0 where both are zero."""
        w, v = self.inputs.square(), self.outputs.square()
        total = w + v
        return torch.where(total > 0.0, (w - v) / torch.where(total > 0.0, total, 1.0), torch.zeros_like(total))


@dataclass(frozen=True, slots=True)
class PathNorms:
    """Path norm ``sum_k ||w_k|| ||v_k||`` of every neuron group of a network, and their sum.

    Attributes
    ----------
    groups : dict
        Name of the producing layer -> path norm, in forward order.
    skipped : dict
        Layers whose neurons are not in a group -> why.
    """

    groups: dict[str, float]
    skipped: dict[str, str]

    @property
    def total(self) -> float:
        """Sum over the groups."""
        return float(sum(self.groups.values()))


def path_norm(
    model: nn.Module, example_inputs: Tensor, *, biases: bool = False, batch_norm: Coordinates = "folded"
) -> PathNorms:
    """Path norms of the network's neuron groups, in float64.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified.
    example_inputs : torch.Tensor, shape (n, ...)
        Only to trace the graph.
    biases : bool
        Whether the bias is part of a neuron's input weight. The path norm of the theory leaves it out.
    batch_norm : {"folded", "gain"}
        What the input weight of a neuron behind a BatchNorm is: see :mod:`pathnorm.deep.neuron_norms`.
    """
    neurons = neurons_of(model, example_inputs)
    state = {key: value.double() for key, value in state_of(plain_module(model)).items()}
    norms = {
        group.name: float(neuron_norms(group, state, biases=biases, batch_norm=batch_norm).masses.sum())
        for group in neurons.groups
    }
    return PathNorms(norms, {item.name: item.reason for item in neurons.skipped})


def neuron_norms(
    group: NeuronGroup, state: State, *, biases: bool = False, batch_norm: Coordinates = "folded"
) -> NeuronNorms:
    """Norms of the input and output weights of the neurons of ``group``; the gradient at a zero weight is zero."""
    if batch_norm not in ("folded", "gain"):
        raise ValueError(f"batch_norm must be 'folded' or 'gain'. Got {batch_norm!r}.")
    folded = batch_norm == "folded"
    return NeuronNorms(
        _root(_input_squares(group, state, biases=biases, folded=folded)),
        _root(_output_squares(group, state, folded=folded)),
    )


def plain_module(model: nn.Module) -> nn.Module:
    """The module inside ``DistributedDataParallel``, ``DataParallel`` or ``torch.compile``; else the module itself."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def two_examples(inputs: Tensor) -> Tensor:
    """Return two samples, the smallest batch that leaves the batch size free; a single one is taken twice."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 1 or inputs.shape[0] < 1:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"example_inputs must be a tensor with at least one sample along its first axis. Got {got}.")
    return inputs[:2] if inputs.shape[0] > 1 else torch.cat([inputs, inputs])


def neurons_of(model: nn.Module, example_inputs: Tensor, *, skip: tuple[str, ...] = ()) -> Neurons:
    """Trace a model and find its neuron groups; the same graph as that of compression."""
    module, example = plain_module(model), two_examples(example_inputs)
    graph = trace(module, example)
    return find_neurons(graph, state_of(module), example, skip=skip)


def _input_squares(group: NeuronGroup, state: State, *, biases: bool, folded: bool) -> Tensor:
    rows = widened(state[group.producer.weight]).flatten(1).square().sum(1)
    bias = None if group.producer.bias is None else widened(state[group.producer.bias])
    if group.norm is None:
        return rows + bias.square() if biases and bias is not None else rows
    gamma, beta, scale, mean = _affine(group.norm, state)
    squares = gamma.square()
    if not folded:
        return squares + beta.square() if biases else squares
    ratio = rows.detach() * scale.square()
    squares = squares * ratio
    if biases:
        offset = ((0.0 if bias is None else bias.detach()) - mean) * scale
        squares = squares + (beta + gamma * offset).square()
    return squares


def _output_squares(group: NeuronGroup, state: State, *, folded: bool) -> Tensor:
    total: Tensor | None = None
    for consumer in group.consumers:
        weight = widened(state[consumer.layer.weight])
        squares = weight.square().flatten(2).sum(2) if weight.ndim > 2 else weight.square()
        if folded and consumer.site.norm is not None:
            gamma, _, scale, _ = _affine(consumer.site.norm, state)
            row = squares.sum(1)
            # Equal to one, and it takes the derivative along the scale of the row out.
            follows = torch.where(row > 0.0, row.detach() / torch.where(row > 0.0, row, 1.0), 1.0)
            squares = squares * ((gamma * scale).square() * follows)[:, None]
        per_channel = squares.sum(0)
        if total is None:
            total = per_channel.new_zeros(group.width)
        total = total.index_add(0, consumer.neurons.to(per_channel.device), per_channel)
    assert total is not None
    return total


def _affine(norm: BatchNorm, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gamma, beta, one over the deviation, and the mean; the last two without gradient."""
    variance = widened(state[norm.variance]).detach()
    gamma = torch.ones_like(variance) if norm.weight is None else widened(state[norm.weight])
    beta = torch.zeros_like(variance) if norm.bias is None else widened(state[norm.bias])
    return gamma, beta, torch.rsqrt(variance + norm.eps), widened(state[norm.mean]).detach()


def _root(squares: Tensor) -> Tensor:
    positive = squares > 0.0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), torch.zeros_like(squares))


def widened(tensor: Tensor) -> Tensor:
    """At least single precision: squares of half-precision weights over- and underflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
