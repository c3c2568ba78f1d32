"""Bring every neuron group to its width, layer after layer, in the original network's coordinates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor, fx

from pathnorm.deep.blocks import GRAM_BYTES, gram_bytes
from pathnorm.deep.cost import Cost
from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.data import Batches
from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.lossless import outgoing_weight
from pathnorm.deep.moments import feature_count, output_gain
from pathnorm.deep.neuron_group import Consumer, NeuronGroup, Neurons
from pathnorm.deep.replay import Replay
from pathnorm.deep.selectors import Scores, rank_neurons
from pathnorm.deep.sensitivity import PROBED_SHARES, Outputs, output_curves
from pathnorm.deep.sequential import (
    LayerState,
    collect,
    first_touched,
    input_norms,
    layer_error,
    layer_state,
    leave_out,
    write_consumer,
    write_group,
    written_coef,
)
from pathnorm.deep.slide import slide, start_of
from pathnorm.deep.uniform import Ties
from pathnorm.problems.reconstruction import LayerReconstruction, Refit
from pathnorm.solvers.elimination import backward_elimination
from pathnorm.solvers.ranking import Ranking, error_curve

__all__ = ["LayerFacts", "Progress", "Reduction", "Setup", "parts_within", "predicted_curves", "reduce_network"]

Array = NDArray[np.float64]
# Of the runs that predict output errors: batches, and multiply-accumulates unless there are fewer samples than these.
_PROBE_BATCHES, _PROBE_MACS, _PROBE_LEAST = 3, 5e12, 16
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a reduction works on.

    Attributes
    ----------
    state : dict
        The original network.
    start : dict
        The same function after the lossless stage; removed neurons have zero output weights.
    alive : dict
        Group name -> neurons that the lossless stage left.
    metrics : dict
        Group name -> root of the output metric for each consumer.
    max_positions : int or None
        Output positions of a convolution used per batch, drawn anew for each batch.
    path_norm_cap : float
        Largest path norm of a refitted layer, relative to the layer's own.
    ties : sequence of sequences of int or None
        Groups that get one width.
    gram_bytes : int
        Bytes of the largest Gram matrix.
    """

    graph: ModelGraph
    neurons: Neurons
    state: dict[str, Tensor]
    start: dict[str, Tensor]
    alive: dict[str, Tensor]
    metrics: dict[str, list[Tensor]]
    calibration: Batches
    heldout: Batches
    selector: str | Scores
    max_positions: int | None
    path_norm_cap: float
    ridge: float
    repair: bool
    slide_steps: int
    outputs: Outputs
    cache_bytes: int
    seed: int
    progress: Progress
    ties: Ties | None = None
    gram_bytes: int = GRAM_BYTES

    def metric(self, group: NeuronGroup, current: State) -> Array:
        """Return the root of the output metric over all consumers of a group, stacked.

        Outputs that nothing reads any more count nothing.
        """
        unread = unread_outputs(self.neurons.groups, current, {c.layer.weight for c in group.consumers})
        parts = []
        for consumer, part in zip(group.consumers, self.metrics[group.name], strict=True):
            gone = unread.get(consumer.layer.weight)
            root = part.numpy()
            parts.append(root if gone is None or bool(gone.all()) else np.where(gone.numpy()[:, None], 0.0, root))
        stacked: Array = block_diag(*parts)
        return stacked

    def alive_indices(self, group: NeuronGroup) -> NDArray[np.intp]:
        """Return the neurons that the lossless stage left."""
        return self.alive[group.name].cpu().numpy().astype(np.intp)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What happened to one group: its problem over the neurons alive, the ranking, the refit.

    ``coef_before`` are the output weights in the given network, all neurons.
    """

    group: NeuronGroup
    problem: LayerReconstruction
    alive: NDArray[np.intp]
    ranking: Ranking
    refit: Refit
    coef_before: Array
    cost: Array
    path_norm_after: float
    error_calibration: float
    error_heldout: float
    slid: bool


@dataclass(frozen=True, slots=True)
class Reduction:
    """A state in the original shapes, the neurons kept per group, and the facts per group."""

    state: dict[str, Tensor]
    keep: dict[str, Tensor]
    layers: tuple[LayerFacts, ...] = field(repr=False)


def predicted_curves(setup: Setup, *, limit_bytes: int, macs: Cost) -> list[Array]:
    """Return the predicted squared output error of every group as a function of its width.

    One pass over the data per set of groups whose moments fit into ``limit_bytes``; ``macs`` are those of the network.
    """
    curves: list[Array] = []
    groups = setup.neurons.groups
    probes = _probes(setup, macs)
    done = 0
    for part in parts_within(groups, limit_bytes):
        setup.progress("measuring layers", done, len(groups))
        replay = Replay(setup.graph, setup.start, setup.calibration, cache_bytes=0)
        consumers = [consumer for group in part for consumer in group.consumers]
        found = collect(replay, setup.start, consumers, max_positions=setup.max_positions, seed=setup.seed)
        sums = list(found)[::-1]
        del found
        layers, rankings = [], []
        for group in part:
            layer = layer_state(group, tuple(sums.pop() for _ in group.consumers), setup.start)
            layer = layer.restrict(setup.alive_indices(group))
            layers.append(layer)
            rankings.append(backward_elimination(layer.problem.measured_in(setup.metric(group, setup.start))))
        curves += output_curves(setup.graph, setup.start, layers, rankings, probes)
        done += len(part)
    setup.progress("measuring layers", done, done)
    return curves


def _probes(setup: Setup, macs: Cost) -> list[Tensor]:
    """Return the samples on which the network is run with every group compressed alone, at several widths.

    The first batches; of a network that would take minutes for them only as many samples as its size allows.
    """
    full = macs(np.array([group.width for group in setup.neurons.groups]))
    # From a group to the output it is half of the network on average.
    each = max(1.0, 0.5 * len(PROBED_SHARES) * len(setup.neurons.groups) * full)
    left = max(_PROBE_LEAST, int(_PROBE_MACS / each))
    found: list[Tensor] = []
    for batch in setup.calibration.first(_PROBE_BATCHES):
        found.append(batch[:left])
        left -= found[-1].shape[0]
        if left == 0:
            break
    return found


def reduce_network(setup: Setup, widths: Mapping[str, int]) -> Reduction:
    """Bring every group to its width; layers that read changed channels are refitted on the way.

    Parameters
    ----------
    widths : mapping
        Group name -> neurons to keep, at most the number alive.
    """
    graph, current = setup.graph, dict(setup.start)
    replay = Replay(graph, setup.state, setup.calibration, cache_bytes=setup.cache_bytes)
    check = Replay(graph, setup.state, setup.heldout, cache_bytes=setup.cache_bytes // 4)
    events: list[tuple[int, NeuronGroup | Consumer]] = [
        (_first(graph, group.consumers), group) for group in setup.neurons.groups
    ]
    # A layer that reads a stream further on is refitted once more when its turn comes.
    for group in setup.neurons.groups:
        first = _first(graph, group.consumers)
        for later in [_whole(consumer) for consumer in group.consumers if group.coupled]:
            at = graph.index(later.layer.node)
            if at > first and 8 * feature_count(later) ** 2 <= setup.gram_bytes:
                events.append((at, later))
    if setup.repair:
        events += [(_first(graph, [reader]), reader) for reader in _worth_repairing(setup, widths)]
    keep: dict[str, Tensor] = {}
    facts: list[LayerFacts] = []
    events.sort(key=lambda event: event[0])
    for count, (_, item) in enumerate(events):
        setup.progress("compressing", count, len(events))
        if isinstance(item, NeuronGroup):
            fact = _reduce_group(setup, replay, check, (item, widths[item.name]), current)
            keep[item.name] = torch.from_numpy(fact.alive[fact.refit.keep])
            facts.append(fact)
        else:
            _repair(setup, replay, item, current)
    setup.progress("compressing", len(events), len(events))
    return Reduction(current, keep, tuple(facts))


def _reduce_group(
    setup: Setup, replay: Replay, check: Replay, target: tuple[NeuronGroup, int], current: dict[str, Tensor]
) -> LayerFacts:
    """Select, refit and write one group into ``current``."""
    group, width = target
    slides = setup.slide_steps > 0 and not group.coupled
    cut = start_of(setup.graph, group) if slides else first_touched(setup.graph, group)
    full = _layer(setup, replay, group, current, cut=cut)
    alive = setup.alive_indices(group)
    layer = full.restrict(alive)
    before = written_coef(group, setup.state, setup.state)
    cap = setup.path_norm_cap * full.problem.path_norm(before)
    order = rank_neurons(layer.problem.measured_in(setup.metric(group, current)), setup.selector).order
    ranking = Ranking(order, error_curve(layer.problem, order))
    if width == alive.size and all(current[key] is setup.start[key] for key in current):
        # Nothing in front of the layer has changed and nothing is removed: its weights are right as they are.
        coef = (
            written_coef(group, current, setup.state).reshape(group.width, -1)[alive].reshape(layer.problem.cross.shape)
        )
        refit = Refit(np.arange(alive.size), coef, layer.problem.error(coef), 0.0)
    else:
        refit = layer.problem.refit(ranking.order[:width], ridge=setup.ridge, cap=cap)
        write_group(layer, refit.coef, current, setup.state)
        if group.mixed and refit.keep.size < group.width:
            refit = _refit_what_is_left(setup, replay, (layer, refit, cap), current)
    slid = False
    if slides and refit.keep.size < group.width:
        keep = torch.from_numpy(alive[refit.keep])
        slid = slide(replay, group, keep, current, steps=setup.slide_steps)
    return LayerFacts(
        group=group,
        problem=layer.problem,
        alive=alive,
        ranking=ranking,
        refit=refit,
        coef_before=before,
        cost=full.problem.cost,
        path_norm_after=_path_norm(group, current, setup.state) if slid else layer.problem.path_norm(refit.coef),
        error_calibration=layer_error(replay, current, group) if slid else float(np.sqrt(refit.error)),
        error_heldout=layer_error(check, current, group),
        slid=slid,
    )


def _layer(setup: Setup, replay: Replay, group: NeuronGroup, current: dict[str, Tensor], *, cut: int) -> LayerState:
    """Return the layer problem of a group as the network stands."""
    sums = collect(
        replay,
        current,
        group.consumers,
        max_positions=setup.max_positions,
        seed=setup.seed,
        cut=cut,
    )
    return layer_state(group, sums, setup.state)


def _refit_what_is_left(
    setup: Setup, replay: Replay, chosen: tuple[LayerState, Refit, float], current: dict[str, Tensor]
) -> Refit:
    """Refit a group once more, with the operations that mix its neurons told which are left."""
    layer, refit, cap = chosen
    group = layer.group
    left = layer.alive[refit.keep]
    leave_out(group, left, current)
    again = _layer(setup, replay, group, current, cut=first_touched(setup.graph, group)).restrict(left)
    found = again.problem.refit(np.arange(left.size), ridge=setup.ridge, cap=cap)
    write_group(again, found.coef, current, setup.state)
    coef = np.zeros((layer.alive.size, layer.problem.block, refit.coef.shape[1]))
    coef[refit.keep] = found.coef.reshape(left.size, layer.problem.block, -1)
    return replace(found, keep=refit.keep, coef=coef.reshape(refit.coef.shape))


def _path_norm(group: NeuronGroup, state: State, original: State) -> float:
    """Return the path norm of a group as its weights stand."""
    coef = written_coef(group, state, original).reshape(group.width, -1)
    return float(input_norms(group, state).cpu().numpy() @ np.linalg.norm(coef, axis=1))


def _repair(setup: Setup, replay: Replay, reader: Consumer, current: dict[str, Tensor]) -> None:
    """Refit a layer that reads changed channels, close to its own weights; columns of zeros stay as they are.

    Minimises ``1/2 ||Psi - Phi V||^2 + rho/2 ||V - V_0||^2`` with V_0 the weights it has.
    """
    # Few rows are enough for a step that stays close to the weights there are.
    (sums,) = collect(replay, current, [reader], max_positions=setup.max_positions, seed=setup.seed, diagonal=True)
    gram, cross, _ = sums.central(intercept=reader.has_intercept)
    gain = output_gain(reader, setup.state)
    own = (current[reader.layer.weight].double().flatten(1) * gain[:, None]).T
    free = _used_features(reader, current[reader.layer.weight])
    system = gram[free][:, free]
    scale = float(system.diagonal().mean()) if system.numel() else 0.0
    if not scale > 0.0:
        return
    system = system + 1e-4 * scale * torch.eye(system.shape[0], dtype=gram.dtype, device=gram.device)
    step = torch.zeros_like(own)
    step[free] = torch.linalg.solve(system, (cross - gram @ own)[free])
    write_consumer(reader, own + step, sums, current, setup.state)


def _used_features(reader: Consumer, weight: Tensor) -> Tensor:
    """Return which features come from channels with any weight."""
    used = (weight != 0).transpose(0, 1).flatten(1).any(1)
    return used.repeat_interleave(weight[0, 0].numel())


def _whole(consumer: Consumer) -> Consumer:
    """The same layer with everything it reads."""
    return Consumer(consumer.layer, torch.arange(consumer.layer.fan_in), consumer.site)


def unread_outputs(groups: Sequence[NeuronGroup], state: State, weights: Collection[str]) -> dict[str, Tensor]:
    """Return, for those of ``weights`` that belong to producers, which of their rows have no output weight left."""
    found: dict[str, Tensor] = {}
    for group in groups:
        for producer in group.producers:
            key = producer.layer.weight
            if key in weights:
                silent = (outgoing_weight(group, state) == 0.0)[producer.neurons.clamp_min(0)]
                found[key] = found.get(key, False) | (silent & (producer.neurons != NO_NEURON))
    return found


def _worth_repairing(setup: Setup, widths: Mapping[str, int]) -> list[Consumer]:
    """Return the readers behind the first consumer that changes, but for the producers of groups.

    Refitting those as well was measured to gain nothing: the consumers behind them correct more.
    """
    changed = [
        first_touched(setup.graph, group)
        for group in setup.neurons.groups
        if widths[group.name] < setup.alive[group.name].numel()
    ]
    if not changed:
        return []
    dirty: set[fx.Node] = set()
    for node in setup.graph.nodes[min(changed) :]:
        if setup.graph.index(node) in changed or any(source in dirty for source in node.all_input_nodes):
            dirty.add(node)
    producers = {producer.layer.node for group in setup.neurons.groups for producer in group.producers}
    return [
        reader
        for reader in setup.neurons.readers
        if reader.layer.source in dirty and reader.layer.node not in producers
    ]


def _first(graph: ModelGraph, consumers: Sequence[Consumer]) -> int:
    return min(graph.index(consumer.layer.node) for consumer in consumers)


def parts_within(groups: Sequence[NeuronGroup], limit_bytes: int) -> list[list[NeuronGroup]]:
    """Split the groups so that the Gram matrices of a part fit into ``limit_bytes``."""
    parts: list[list[NeuronGroup]] = [[]]
    spent = 0
    for group in groups:
        need = gram_bytes(group)
        if parts[-1] and spent + need > limit_bytes:
            parts.append([])
            spent = 0
        parts[-1].append(group)
        spent += need
    return parts
