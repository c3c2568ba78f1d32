"""The same deep network with the smallest squared weights: every homogeneous neuron balanced."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pathnorm.deep.graph import State, state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import plain_module, two_examples
from pathnorm.errors import UnsupportedModelError
from pathnorm.norms.balance import Block, balancing_scales

__all__ = ["balance"]

_M = TypeVar("_M", bound=nn.Module)


def balance(
    model: _M, example_inputs: Tensor, *, biases: bool = False, skip: Sequence[str] = (), tol: float = 1e-11
) -> _M:
    """A copy of ``model`` that computes the same function with the least sum of squared weights.

    Minimises ``sum ||W||^2`` over the positive scales of all neurons in groups, a convex problem in their logarithms
    with one solution, at which ``||w_k|| = ||v_k||`` for every neuron: neural balance. Neurons behind a BatchNorm have
    the input weight ``gamma_k``. A neuron without output weights, or that is zero for every input, becomes zero on both
    sides. One without input weights but with a bias is a constant and stays as it is, unless ``biases`` counts its
    bias.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified; the copy has its mode, its device and its dtype.
    example_inputs : torch.Tensor, shape (n, ...)
        To trace the graph, and to compare the outputs before and after.
    biases : bool
        Whether the bias is part of ``w_k`` (and beta, behind a BatchNorm).
    skip : sequence of str
        Module paths of layers whose neurons keep their scale.
    tol : float
        Largest ``| ||w_k||^2 - ||v_k||^2 | / (||w_k||^2 + ||v_k||^2)``, before the weights are rounded to their dtype.

    Raises
    ------
    UnsupportedModelError
        If an activation is not positively homogeneous, a BatchNorm has no gain, or no neuron is in a group; the message
        names it.
    TraceError
        If the model cannot be traced.

    References
    ----------
    Parhi, Nowak (2023), *Deep learning meets sparse regularization*, neural balance theorem.
    """
    module = plain_module(model)
    example = two_examples(example_inputs)
    graph, state = trace(module, example), state_of(module)
    neurons = find_neurons(graph, state, example, skip=tuple(skip))
    groups = neurons.require_groups()
    _require_scalable(groups)
    blocks = _blocks(groups, state, biases=biases)
    scales, gone = _scales(groups, state, blocks, tol=tol)
    twin = copy.deepcopy(module)
    new: dict[str, Tensor] = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for index, group in enumerate(groups):
            _rescale(group, new, torch.from_numpy(scales[index]), torch.from_numpy(gone[index]))
        before, after = graph.outputs(state, example), graph.outputs(state_of(twin), example)
    scale = float(before.abs().max()) or 1.0
    if not float((after - before).abs().max()) <= 1e-3 * scale:
        raise UnsupportedModelError(
            "Rescaled neurons must give the same outputs. They differ by "
            f"{float((after - before).abs().max()) / scale:.1e} of the largest output. Leave groups out with skip, "
            "or use a wider dtype."
        )
    return twin  # type: ignore[return-value]  # the module inside a wrapper


def _require_scalable(groups: Sequence[NeuronGroup]) -> None:
    for group in groups:
        if group.not_homogeneous:
            raise UnsupportedModelError(
                "A neuron can be rescaled if only positively homogeneous operations act on it. On those of "
                f"{group.name} acts {', '.join(group.not_homogeneous)}. Leave them out with skip=[{group.name!r}]."
            )
        if group.norm is not None and group.norm.weight is None:
            raise UnsupportedModelError(
                f"A neuron behind a BatchNorm is rescaled by its gain. {group.norm.name} has none (affine=False). "
                f"Leave it out with skip=[{group.name!r}]."
            )


def _blocks(groups: Sequence[NeuronGroup], state: State, *, biases: bool) -> list[Block]:
    """Squared weights of every layer that a neuron writes or reads, summed over kernels and positions."""
    rows = {group.producer.weight: index for index, group in enumerate(groups) if group.norm is None}
    readers = {consumer.layer.weight: (i, consumer) for i, group in enumerate(groups) for consumer in group.consumers}
    blocks = []
    for key in dict.fromkeys((*rows, *readers)):
        squares = state[key].double().square()
        squares = squares.flatten(2).sum(2) if squares.ndim > 2 else squares
        column = None
        if key in readers:
            column, consumer = readers[key]
            summed = squares.new_zeros(squares.shape[0], groups[column].width)
            squares = summed.index_add_(1, consumer.neurons.to(squares.device), squares)
        else:
            squares = squares.sum(1, keepdim=True)
        blocks.append(Block(squares.cpu().numpy(), rows.get(key), column))
    for index, group in enumerate(groups):
        keys = [group.producer.bias] if group.norm is None else [group.norm.bias]
        keys = keys if biases else []
        keys += [] if group.norm is None else [group.norm.weight]
        for name in keys:
            if name is not None:
                blocks.append(Block(state[name].double().square().cpu().numpy()[:, None], index, None))
    return blocks


def _scales(
    groups: Sequence[NeuronGroup], state: State, blocks: Sequence[Block], *, tol: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log scales per group, and the neurons that the function does not need."""
    shifted = []
    for group in groups:
        key = group.producer.bias if group.norm is None else group.norm.bias
        shifted.append(np.zeros(group.width, bool) if key is None else (state[key] != 0).cpu().numpy())
    gone = [~(a & b) for a, b in zip(_not_zero(shifted, blocks), _needed(shifted, blocks), strict=True)]
    kept = [_without(block, gone) for block in blocks]
    # What remains without input weights is a constant: its scale is fixed, like that of an input.
    constant = [~mask for mask in gone]
    for block in kept:
        if block.row is not None:
            constant[block.row] = constant[block.row] & (block.squares.sum(1) == 0.0)
    fixed = [
        Block(block.squares[:, constant[block.column]], block.row, None)
        for block in kept
        if block.column is not None and constant[block.column].any()
    ]
    kept = [_without(block, constant) for block in kept] + fixed
    return balancing_scales([group.width for group in groups], kept, tol=tol), gone


def _not_zero(shifted: Sequence[np.ndarray], blocks: Sequence[Block]) -> list[np.ndarray]:
    """Neurons with a bias, or with a weight on an input or on such a neuron; all others are zero for every input."""
    found = [mask.copy() for mask in shifted]
    for _ in range(len(shifted) + 1):
        for block in blocks:
            if block.row is not None:
                read = block.squares if block.column is None else block.squares[:, found[block.column]]
                found[block.row] |= (read > 0.0).any(1)
    return found


def _needed(shifted: Sequence[np.ndarray], blocks: Sequence[Block]) -> list[np.ndarray]:
    """Neurons from which non-zero weights lead to an output."""
    found = [np.zeros_like(mask) for mask in shifted]
    for _ in range(len(shifted) + 1):
        for block in blocks:
            if block.column is not None:
                written = block.squares if block.row is None else block.squares[found[block.row]]
                found[block.column] |= (written > 0.0).any(0)
    return found


def _without(block: Block, gone: Sequence[np.ndarray]) -> Block:
    squares = block.squares
    if block.row is not None:
        squares = squares * ~gone[block.row][:, None]
    if block.column is not None:
        squares = squares * ~gone[block.column]
    return Block(squares, block.row, block.column)


def _rescale(group: NeuronGroup, state: Mapping[str, Tensor], scale: Tensor, gone: Tensor) -> None:
    """Multiply what is in front of the neurons by ``exp(scale)`` and what is behind by its inverse, in place."""
    front, behind = scale.exp(), (-scale).exp()
    front[gone], behind[gone] = 0.0, 0.0
    keys = (group.producer.weight, group.producer.bias)
    if group.norm is not None:
        keys = (group.norm.weight or "", group.norm.bias)
    for key in keys:
        if key is not None:
            _multiply(state[key], front, 0)
    for consumer in group.consumers:
        _multiply(state[consumer.layer.weight], behind[consumer.neurons.cpu()], 1)


def _multiply(tensor: Tensor, factor: Tensor, dim: int) -> None:
    shape = [1] * tensor.ndim
    shape[dim] = -1
    tensor.copy_((tensor.double() * factor.to(tensor.device).view(shape)).to(tensor.dtype))
