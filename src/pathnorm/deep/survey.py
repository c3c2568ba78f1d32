"""What a network is made of, before any data goes through it: graph, neurons, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pathnorm.deep.blocks import GRAM_BYTES, in_blocks
from pathnorm.deep.configs import builds_itself
from pathnorm.deep.cost import Cost, macs_cost, params_cost
from pathnorm.deep.coupling import Attention, Coupling
from pathnorm.deep.data import Batches
from pathnorm.deep.graph import ModelGraph, State, clean_copy, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.neuron_group import NeuronGroup, Neurons
from pathnorm.deep.surgery import cut
from pathnorm.deep.uniform import same_places
from pathnorm.errors import DataError, UnsupportedModelError
from pathnorm.report.records import SkippedGroup

__all__ = ["Survey", "device_of", "survey"]

# Parameters above which a network is tried by its shapes alone, without copies of its weights.
_LARGE = 5_000_000


@dataclass(frozen=True, slots=True)
class Survey:
    """A network as compression sees it.

    Attributes
    ----------
    example : torch.Tensor
        Two samples, the smallest batch that leaves the batch size free.
    costs : (params, macs)
    """

    graph: ModelGraph
    state: dict[str, Tensor]
    neurons: Neurons
    example: Tensor
    costs: tuple[Cost, Cost]

    def require(self, outputs: str) -> None:
        """Refuse logits where the outputs are not one score per class.

        Raises
        ------
        ValueError
        """
        shape = tuple(self.graph.output_node.meta["val"].shape)
        if outputs == "logits" and len(shape) != 2:
            raise ValueError(f"outputs='logits' needs outputs of shape (N, classes). The model's have shape {shape}.")


def survey(
    model: nn.Module,
    calibration: Batches,
    *,
    skip: Sequence[str] = (),
    streams: bool = False,
    uniform: bool = False,
    attention: Attention = "heads",
    gram_bytes: int = GRAM_BYTES,
) -> Survey:
    """Trace a network and find the neurons that can be removed; reads one batch, and runs two samples of it.

    With ``uniform``, neurons whose number the model's own configuration cannot state are left alone. Groups whose Gram
    matrices take more than ``gram_bytes`` come in blocks.

    Raises
    ------
    DataError, TraceError, UnsupportedModelError
        See :mod:`pathnorm.errors`.
    """
    example = _example(calibration)
    graph = trace(model, example, outputs_first=True)
    state = graph.state_of(clean_copy(model))
    coupling: Coupling = "streams" if streams else "interior"
    found = find_neurons(graph, state, example, skip=skip, coupling=coupling, attention=attention)
    found = _usable(model, graph, state, found, example)
    if uniform:
        found = _stated_in_config(model, graph, state, found)
    found = in_blocks(found, gram_bytes)
    costs = (params_cost(model, found.groups), macs_cost(graph, found.labels, found.groups))
    return Survey(graph, state, found, example, costs)


def device_of(model: nn.Module) -> torch.device:
    """Return where the model is.

    Raises
    ------
    UnsupportedModelError
        If it has no parameters.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise UnsupportedModelError("The model must have parameters to compress. It has none.")
    return parameter.device


def _example(calibration: Batches) -> Tensor:
    batch = next(iter(calibration))
    if not bool(torch.isfinite(batch).all()):
        raise DataError("Data must be finite. The first batch holds NaN or Inf. Clean the data first.")
    return batch[:2] if batch.shape[0] > 1 else torch.cat([batch, batch])


def _usable(model: nn.Module, graph: ModelGraph, state: State, found: Neurons, example: Tensor) -> Neurons:
    """Leave alone the groups whose width is written into the model's own code.

    Each group is tried without its last neuron, beside those tried before; a forward that fails then could not run the
    result.
    """
    groups: list[NeuronGroup] = []
    skipped = list(found.skipped)
    shapes = None
    if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
        shapes = _Network(clean_copy(model).to("meta"), {key: value.to("meta") for key, value in state.items()})
    for group in found.groups:
        reason = "a single neuron cannot be removed" if group.width == 1 else None
        # Not every operation works on shapes alone, so that the network itself has the last word.
        tried = [*groups, group]
        if reason is None and (shapes is None or _fails(shapes, graph, tried, example.to("meta")) is not None):
            error = _fails(_Network(model, state), graph, tried, example)
            if error is not None:
                reason = f"the model's forward does not run with another width: {error}"
        if reason is None:
            groups.append(group)
        else:
            skipped.append(SkippedGroup(name=group.name, width=group.width, reason=reason))
    return _with(found, groups, skipped)


@dataclass(frozen=True, slots=True)
class _Network:
    model: nn.Module
    state: State


def _fails(network: _Network, graph: ModelGraph, groups: Sequence[NeuronGroup], example: Tensor) -> str | None:
    """Return how the network fails without the last neuron of every group, None if it runs."""
    keep = {group.name: torch.arange(group.width - 1) for group in groups}
    try:
        with torch.no_grad():
            cut(network.model, network.state, groups, keep, turned=graph.turned)(example)
    except Exception as error:  # noqa: BLE001  (the model's own code may raise anything)
        return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return None


def _stated_in_config(model: nn.Module, graph: ModelGraph, state: State, found: Neurons) -> Neurons:
    """Leave alone the groups without which the model could not be built from its configuration."""
    if not builds_itself(model):
        return found  # it could not be before, so nothing is lost
    groups = list(found.groups)
    skipped = list(found.skipped)
    for members in same_places(found.groups):
        alike = [found.groups[index] for index in members]
        keep = {group.name: torch.arange(group.width - 1) for group in alike}
        if builds_itself(cut(model, state, alike, keep, turned=graph.turned)):
            continue
        groups = [group for group in groups if all(group is not other for other in alike)]
        reason = "the model's configuration cannot state another width here, which uniform=True asks for"
        skipped += [SkippedGroup(name=group.name, width=group.width, reason=reason) for group in alike]
    return _with(found, groups, skipped)


def _with(found: Neurons, groups: Sequence[NeuronGroup], skipped: Sequence[SkippedGroup]) -> Neurons:
    neurons = replace(found, groups=tuple(groups), skipped=tuple(skipped))
    neurons.require_groups()
    return neurons
