"""What a compression would do and need, said before any pass over the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pathnorm.deep.blocks import GRAM_BYTES
from pathnorm.deep.budget import MOMENT_BYTES
from pathnorm.deep.coupling import Attention
from pathnorm.deep.data import Batches, split_batches
from pathnorm.deep.graph import ModelGraph
from pathnorm.deep.moments import feature_count
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.reduce import parts_within
from pathnorm.deep.survey import Survey, device_of, survey
from pathnorm.report.plan import PlannedGroup, PlanRecord

__all__ = ["CACHE_BYTES", "moment_bytes", "plan", "plan_of"]

CACHE_BYTES = 2 * 2**30
_SUM_BYTES = 8


def plan(  # noqa: PLR0913  (a public front door)
    model: nn.Module,
    data: Any,
    *,
    skip: Sequence[str] = (),
    streams: bool = False,
    uniform: bool = False,
    attention: Attention = "heads",
    heldout: float = 0.2,
    batch_size: int = 128,
    gram_bytes: int = GRAM_BYTES,
    seed: int = 0,
) -> PlanRecord:
    """Return groups, costs, memory and passes of :func:`pathnorm.compress` with the same arguments.

    Runs two samples through the network and nothing else. A few samples are enough, if ``samples`` and
    ``cache_bytes`` of the answer do not matter.

    Parameters
    ----------
    model : torch.nn.Module
    data : array, tensor, DataLoader or list of batches
        As for :func:`pathnorm.compress`.
    skip : sequence of str
        Module paths of layers whose neurons are left alone.
    streams, uniform : bool
        Whether the channels of residual streams may be removed as well; whether all blocks get the same widths.
    attention : {"heads", "values"}
        What is removed from attention.
    heldout : float
        Share of the data kept back.
    batch_size : int
        Samples per batch when ``data`` is an array.
    gram_bytes : int
        Layers whose Gram matrix would take more are treated in blocks.

    Raises
    ------
    DataError, TraceError, UnsupportedModelError
        See :mod:`pathnorm.errors`.
    """
    calibration, _ = split_batches(data, heldout=heldout, batch_size=batch_size, seed=seed, device=device_of(model))
    seen = survey(
        model,
        calibration,
        skip=skip,
        streams=streams,
        uniform=uniform,
        attention=attention,
        gram_bytes=gram_bytes,
    )
    return plan_of(seen, calibration)


def plan_of(found: Survey, calibration: Batches) -> PlanRecord:
    """Return the plan for a network that has been surveyed."""
    groups = tuple(_planned(group, found) for group in found.neurons.groups)
    full = [group.width for group in groups]
    need = {group.name: group.moment_bytes for group in groups}
    parts = parts_within(found.neurons.groups, MOMENT_BYTES)
    samples = _samples(calibration)
    return PlanRecord(
        groups=groups,
        skipped=found.neurons.skipped,
        params=round(found.costs[0](full)),
        macs=round(found.costs[1](full)),
        moment_bytes=max(sum(need[group.name] for group in part) for part in parts),
        moment_limit=MOMENT_BYTES,
        problem_bytes=sum(group.problem_bytes for group in groups),
        passes_predict=len(parts),
        passes_reduce=len(groups),
        passes_repair=_repairs(found),
        cache_bytes=min(CACHE_BYTES, math.ceil(samples * _bytes_at_cuts(found))),
        cache_limit=CACHE_BYTES,
        samples=samples,
        batches=len(calibration),
    )


def moment_bytes(features: int, outputs: int) -> int:
    """Return the bytes of the float64 sums of one layer: ``8 (P^2 + P D + D^2 + P + D + 1)``."""
    return _SUM_BYTES * (features**2 + features * outputs + outputs**2 + features + outputs + 1)


def _planned(group: NeuronGroup, found: Survey) -> PlannedGroup:
    features = tuple(feature_count(consumer) for consumer in group.consumers)
    outputs = tuple(consumer.layer.width for consumer in group.consumers)
    return PlannedGroup(
        name=group.name,
        consumers=tuple(consumer.layer.name for consumer in group.consumers),
        width=group.width,
        features=features,
        outputs=outputs,
        gram_bytes=sum(_SUM_BYTES * size**2 for size in features),
        moment_bytes=sum(moment_bytes(p, d) for p, d in zip(features, outputs, strict=True)),
        problem_bytes=_SUM_BYTES * (sum(features) ** 2 + sum(features) * sum(outputs) + sum(outputs) ** 2),
    )


def _repairs(found: Survey) -> int:
    """Return how many layers may be refitted without being reduced: plain readers, and those of a stream again."""
    groups = found.neurons.groups
    producers = {producer.layer.node for group in groups for producer in group.producers}
    plain = sum(reader.layer.node not in producers for reader in found.neurons.readers)
    return plain + sum(len(group.consumers) - 1 for group in groups if group.coupled)


def _samples(calibration: Batches) -> int:
    """Return the number of samples, without loading those that a dataset would have to make."""
    if any(isinstance(chunk, int) for chunk in calibration.chunks):
        return calibration.count()
    return sum(len(chunk) for chunk in calibration.chunks)


def _bytes_at_cuts(found: Survey) -> float:
    """Return the most bytes per sample that are alive where a group is read, in two networks."""
    graph = found.graph
    cuts = [min(graph.index(c.layer.node) for c in group.consumers) for group in found.neurons.groups]
    return 2.0 * max(_alive(graph, found, cut) for cut in cuts) / found.example.shape[0]


def _alive(graph: ModelGraph, found: Survey, cut: int) -> int:
    """Return the bytes of the values computed before ``cut`` and read from there on, for the example."""
    total = 0
    for position, node in enumerate(graph.nodes[:cut]):
        value = node.meta.get("val")
        known = node.op == "call_function" or node.name == graph.input_name
        if known and isinstance(value, Tensor) and graph.last_use[position] >= cut:
            shape = tuple(found.example.shape) if node.name == graph.input_name else found.neurons.labels.shapes[node]
            total += math.prod(shape) * value.element_size()
    return total
