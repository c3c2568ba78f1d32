"""Measure how much the network's output reacts to the error of one layer.

To which directions of a layer's outputs: :func:`output_metrics`, from gradients of the output.
To which layers: :func:`output_curves`, the error curve over all widths from one elimination, times the
measured response of the output to that group alone being compressed. Neither needs labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx

from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.moments import draw_positions, rows_of
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.sequential import LayerState, write_group
from pathnorm.solvers.ranking import Ranking

__all__ = ["PROBED_SHARES", "output_curves", "output_metrics"]

Array = NDArray[np.float64]
Outputs = Literal["values", "logits"]
PROBED_SHARES = (0.25, 0.5, 0.75)
_DIRECTIONS = 4
_METRIC_FLOOR = 1e-3


def output_metrics(
    graph: ModelGraph,
    original: State,
    groups: Sequence[NeuronGroup],
    probes: Iterable[Tensor],
    *,
    outputs: Outputs,
    max_positions: int | None = None,
    seed: int,
) -> dict[str, list[Tensor]]:
    """Return, per group name, a square root (D, D) of the output metric for each consumer.

    An error e at a consumer's site changes the network's output by about ``J e``; the metric is
    ``S = E[J' F J]`` over samples and positions, with F the identity for values and the Fisher matrix
    ``diag(p) - p p'`` of the softmax for logits. It is estimated with random directions v,
    ``E[v v'] = F``, as ``E[g g']``, ``g = J' v``. Its eigenvalues are bounded from below by 1e-3 of the
    largest and scaled to mean one. Ranking neurons by ``||(Psi - Phi V) S^(1/2)||`` lets the output decide
    which errors matter.

    Parameters
    ----------
    max_positions : int or None
        Output positions of a convolution that enter, per batch and direction; None for all.
    """
    consumers = [consumer for group in groups for consumer in group.consumers]
    sites = [consumer.site.node for consumer in consumers]
    generator, places = (torch.Generator().manual_seed(seed) for _ in range(2))
    sums: dict[fx.Node, Tensor] = {}
    for batch in probes:
        with torch.enable_grad():
            inputs, state = _differentiable(batch, original)
            node = graph.output_node
            values = graph.run(state, graph.start(inputs), span=(0, len(graph.nodes)), keep=(*sites, node))
            for _ in range(_DIRECTIONS):
                direction = _direction(values[node].detach(), outputs, generator)
                gradients = torch.autograd.grad(
                    values[node], [values[site] for site in sites], direction, retain_graph=True, allow_unused=True
                )
                for consumer, site, gradient in zip(consumers, sites, gradients, strict=True):
                    if gradient is not None:
                        layer = consumer.layer
                        positions = draw_positions(layer, gradient.shape, max_positions, places, gradient.device)
                        rows = rows_of(layer, gradient, positions).double()
                        sums[site] = sums.get(site, 0.0) + rows.T @ rows
    for total in sums.values():
        sum_over_ranks(total)
    return {
        group.name: [_square_root(sums.get(c.site.node), c.layer.width) for c in group.consumers] for group in groups
    }


def _differentiable(batch: Tensor, state: State) -> tuple[Tensor, State]:
    """Return inputs, or where these are token ids weights, that gradients flow from."""
    if batch.is_floating_point():
        return batch.detach().clone().requires_grad_(True), state
    return batch, {
        key: value.detach().requires_grad_(True) if value.is_floating_point() else value for key, value in state.items()
    }


def _direction(result: Tensor, outputs: Outputs, generator: torch.Generator) -> Tensor:
    """Draw one direction per sample whose second moment is the identity, or the Fisher matrix of logits."""
    if outputs == "values":
        return torch.randn(result.shape, generator=generator).to(result)
    shares = result.softmax(1)
    drawn = torch.multinomial(shares.cpu(), 1, generator=generator).flatten().to(result.device)
    return F.one_hot(drawn, result.shape[1]) - shares


def _square_root(metric: Tensor | None, width: int) -> Tensor:
    if metric is None or not float(metric.diagonal().sum()) > 0.0:
        return torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(metric.cpu())
    values = values.clamp_min(_METRIC_FLOOR * float(values[-1]))
    root: Tensor = vectors * (values / values.mean()).sqrt()
    return root


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
    is interpolated linearly in the width. The squared error is used for logits as well: the divergence of the
    softmax comes from a few samples and allocated widths at random when it was tried.
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
    widths = sorted({min(max(round(share * count), 1), count) for share in PROBED_SHARES})
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
