"""Measure how much the network's output reacts to the error of one layer.

For every group: the error curve over all widths from one elimination, on the original
network, times the measured response of the output to that group alone being compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.sequential import LayerState, write_group
from pathnorm.solvers.ranking import Ranking

__all__ = ["output_curves"]

Array = NDArray[np.float64]
_PROBED_SHARES = (0.25, 0.5, 0.75)


def output_curves(
    graph: ModelGraph,
    original: State,
    layers: Sequence[LayerState],
    rankings: Sequence[Ranking],
    probes: Iterable[Tensor],
) -> list[Array]:
    """Return, per group, the predicted squared relative output error for every width ``k = 0 .. K``.

    Each group is compressed alone to a quarter, a half and three quarters of its width and the
    output error is measured on ``probes``; in between, the ratio of output error to layer error
    is interpolated linearly in the width.
    """
    variants = [_variants(layer, ranking, original) for layer, ranking in zip(layers, rankings, strict=True)]
    missed = torch.zeros(len(layers), max(len(group) for group in variants), dtype=torch.float64)
    energy = torch.zeros(1, dtype=torch.float64)
    order = sorted(range(len(layers)), key=lambda index: _cut(graph, layers[index]))
    with torch.no_grad():
        for batch in probes:
            values: dict[fx.Node, Any] = graph.start(batch)
            reference = graph.outputs(original, batch).double()
            energy += float((reference - reference.mean(0, keepdim=True)).square().sum())
            at = 0
            for index in order:
                cut = _cut(graph, layers[index])
                values, at = graph.run(original, values, span=(at, cut)), cut
                for which, (_, state) in enumerate(variants[index]):
                    result = _finish(graph, state, values, cut)
                    missed[index, which] += float((result.double() - reference).square().sum())
    sum_over_ranks(missed, energy)
    response = (missed / energy.clamp_min(1e-300)).numpy()
    return [
        _curve(ranking.errors, [width for width, _ in group], response[index, : len(group)])
        for index, (ranking, group) in enumerate(zip(rankings, variants, strict=True))
    ]


def _cut(graph: ModelGraph, layer: LayerState) -> int:
    return min(graph.index(consumer.layer.node) for consumer in layer.group.consumers)


def _variants(layer: LayerState, ranking: Ranking, original: State) -> list[tuple[int, dict[str, Tensor]]]:
    """Return the states in which this group alone is compressed, with their widths."""
    count = ranking.order.size
    widths = sorted({min(max(round(share * count), 1), count) for share in _PROBED_SHARES})
    found = []
    for width in widths:
        state = dict(original)
        write_group(layer, layer.problem.refit(ranking.order[:width]).coef, state, original)
        found.append((width, state))
    return found


def _finish(graph: ModelGraph, state: State, values: dict[fx.Node, Any], cut: int) -> Tensor:
    node = graph.output_node
    result = graph.run(state, values, span=(cut, len(graph.nodes)), keep=(node,))[node]
    return result  # type: ignore[no-any-return]


def _curve(errors: Array, widths: list[int], response: Array) -> Array:
    """Multiply the layer's error curve with the interpolated ratio of output to layer error."""
    local = np.maximum(errors[widths], 1e-12)
    ratio = np.interp(np.arange(errors.size), widths, response / local)
    curve = errors * ratio
    return np.minimum.accumulate(curve)
