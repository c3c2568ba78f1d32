"""Repair a network that another tool has pruned: refit every layer to the original network's outputs, without labels.

state -> solve -> verify -> report: layers are paired with those of the original, each is refitted in forward
order within the weights that are left, and the result is compared with the original on data kept back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep.arguments import check_heldout
from pathnorm.deep.data import Batches, split_batches
from pathnorm.deep.masked_rows import energy, fitted_intercept, missed, refit_rows
from pathnorm.deep.moments import Moments, accumulate, draw_positions, output_gain, targets_of
from pathnorm.deep.neuron_norms import two_examples
from pathnorm.deep.outputs_first import turned_state
from pathnorm.deep.pruned_pairs import LayerPair, Network, bare_copy, masked_again, pair_layers, unpaired
from pathnorm.deep.reduce import Progress
from pathnorm.deep.replay import Replay
from pathnorm.deep.surgery import install
from pathnorm.deep.verify import compare_outputs
from pathnorm.errors import DataError, UnsupportedModelError
from pathnorm.report.refit import RefitLayer, RefitRecord

__all__ = ["Refitted", "refit"]

_CACHE_BYTES = 2 * 2**30
_RIDGES = (1e-9, 1e-6, 1e-4, 1e-2, 1e-1)
# Below this, what is left of an error is the rounding of float32 activations.
_EXACT = 1e-5


@dataclass(frozen=True, slots=True)
class Refitted:
    """A pruned network with other weights and the record of what that changed.

    Attributes
    ----------
    model : torch.nn.Module
        Class and shapes of the pruned model, in evaluation mode, with the same zeros. Masks of
        ``torch.nn.utils.prune`` are on it as on the pruned model.
    record : RefitRecord
    """

    model: nn.Module
    record: RefitRecord


def refit(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    original: nn.Module,
    pruned: nn.Module,
    data: Any,
    *,
    kept: Mapping[str, Any] | None = None,
    labels: Any = None,
    heldout: float = 0.2,
    max_positions: int | None = 64,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Refitted:
    """Return the pruned network with weights that follow the original's outputs, layer by layer.

    In forward order every linear or convolution layer minimises, over the weights that are left to it,

        1/2 ||Psi - Phi V - 1 b'||_F^2 + rho/2 ||V - V_0||_F^2

    where Phi is what the layer reads in the network refitted so far, V_0 are the weights it has and Psi is what it
    has to deliver so that the values behind it, after its BatchNorm and its residual stream, equal those of the
    original network in the output channels that are left. Of a few rho, and of V_0 itself, the one with the
    smallest held-out error stays: no layer gets worse on held-out data.

    Parameters
    ----------
    original : torch.nn.Module
        The network before pruning. One tensor in, one tensor out. Not modified.
    pruned : torch.nn.Module
        The same network with masks of ``torch.nn.utils.prune``, with zeros, or with fewer channels. Weights that
        are zero (or masked) stay so. Not modified.
    data : array, tensor, DataLoader or list of batches
        Unlabelled calibration data, scaled as in training. Labels that a loader yields are used for the report only.
    kept : mapping
        Module path -> output channels of the original that the pruned layer still has, in its order. Needed only for
        layers with fewer channels whose weights are no longer exact slices of the original's.
    labels : array
        One class per sample of an array ``data``, for the report only.
    heldout : float
        Share of the data kept back.
    max_positions : int or None
        Output positions of a convolution that enter the moments, per batch; None for all.
    batch_size : int
        Samples per batch when ``data`` is an array.
    progress : callable
        Called with ``(stage, done, total)``.

    Raises
    ------
    ValueError
        If an argument is out of range, or ``kept`` does not fit.
    UnsupportedModelError
        If the networks do not belong together, or it cannot be found which channels are left.
    DataError, TraceError
        See :mod:`pathnorm.errors`.

    References
    ----------
    He, Zhang, Sun (2017), channel pruning with least-squares reconstruction; ``docs/refit.md``.
    """
    started = time.perf_counter()
    check_heldout(heldout)
    if max_positions is not None and max_positions < 1:
        raise ValueError(f"max_positions must be a positive integer, or None for all. Got {max_positions!r}.")
    device = _device(original, pruned)
    calibration, held = split_batches(data, labels, heldout=heldout, batch_size=batch_size, seed=seed, device=device)
    before, _ = bare_copy(original)
    twin, masks = bare_copy(pruned)
    example = two_examples(next(iter(calibration)))
    old, new = Network.of(before, example), Network.of(twin, example)
    _require_same_outputs(old, new, example)
    pairs = pair_layers(old, new, turned_state(masks, new.graph.turned), kept or {})
    run = _Run(old, new, dict(new.state), calibration, held, max_positions, seed)
    report = progress or (lambda stage, done, total: None)
    layers = []
    for count, pair in enumerate(pairs):
        report("refitting", count, len(pairs))
        layers.append(run.refit_layer(pair))
    report("refitting", len(pairs), len(pairs))
    result = bare_copy(twin)[0]
    install(result, turned_state(run.current, new.graph.turned))
    first, last = (compare_outputs(before, network, held, seed=seed) for network in (twin, result))
    record = RefitRecord(
        layers=tuple(layers),
        skipped=unpaired(new),
        output_error_before=first.output_error,
        output_error_after=last.output_error,
        output_error_interval_before=first.output_error_interval,
        output_error_interval_after=last.output_error_interval,
        agreement_before=first.agreement,
        agreement_after=last.agreement,
        accuracy_original=first.accuracy_before,
        accuracy_before=first.accuracy_after,
        accuracy_after=last.accuracy_after,
        samples_calibration=calibration.count(),
        samples_heldout=last.samples,
        max_positions=max_positions,
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    return Refitted(masked_again(result, masks), record)


class _Run:
    """Both networks over the same data; ``current`` is the pruned one as refitted so far."""

    def __init__(
        self,
        old: Network,
        new: Network,
        current: dict[str, Tensor],
        calibration: Batches,
        held: Batches,
        max_positions: int | None,
        seed: int,
    ) -> None:
        self.current = current
        self._original = old.state
        self._max_positions, self._seed = max_positions, seed
        # A network is its own original here: one run each, and ``current`` changes behind the cut only.
        self._replays = tuple(
            (
                Replay(old.graph, old.state, batches, cache_bytes=limit),
                Replay(new.graph, current, batches, cache_bytes=limit),
            )
            for batches, limit in ((calibration, _CACHE_BYTES * 2 // 5), (held, _CACHE_BYTES // 10))
        )

    def refit_layer(self, pair: LayerPair) -> RefitLayer:
        """Refit one layer, write it into ``current`` if it gains, and say what happened."""
        sums, check = (self._moments(pair, replays) for replays in self._replays)
        layer, gain = pair.new.layer, output_gain(pair.new, self.current)
        start = (self.current[layer.weight].double().flatten(1) * gain[:, None]).T
        constant = torch.zeros_like(gain) if layer.bias is None else gain * self.current[layer.bias].double()
        scales = tuple(energy(part, intercept=pair.new.has_intercept) for part in (sums, check))
        errors = _relative((missed(sums, start, constant), missed(check, start, constant)), scales)
        best, ridge, note = errors, None, "already exact" if errors[1] <= _EXACT else "no gain on held-out data"
        if errors[1] > _EXACT:
            for candidate in _RIDGES:
                coef, intercept = _solved(pair, sums, (start, constant), candidate)
                if coef is None:
                    continue
                reached = _relative((missed(sums, coef, intercept), missed(check, coef, intercept)), scales)
                if reached[1] < best[1]:
                    best, ridge, chosen = reached, candidate, (coef, intercept)
        if ridge is not None:
            self._write(pair, gain, *chosen)
        return RefitLayer(
            name=layer.name,
            width_original=pair.old.layer.width,
            width=layer.width,
            weights=self.current[layer.weight].numel(),
            weights_left=int((self.current[layer.weight] != 0).sum()),
            error_calibration_before=errors[0],
            error_calibration_after=best[0],
            error_heldout_before=errors[1],
            error_heldout_after=best[1],
            ridge=ridge,
            refitted=ridge is not None,
            note="" if ridge is not None else note,
        )

    def _moments(self, pair: LayerPair, replays: tuple[Replay, Replay]) -> Moments:
        """Return the moments of a layer: features of the network as refitted so far, targets of the original."""
        new, old, layer = pair.new, pair.old, pair.new.layer
        graphs = tuple(replay.graph for replay in replays)
        cuts = tuple(graph.index(side.layer.node) for graph, side in zip(graphs, (old, new), strict=True))
        stops = tuple(graph.index(side.site.node) + 1 for graph, side in zip(graphs, (old, new), strict=True))
        wanted = replays[0].sweep(self._original, cut=cuts[0], stop=stops[0], keep=(old.site.node,))
        found = replays[1].sweep(
            self.current, cut=cuts[1], stop=stops[1], keep=(layer.source, layer.node, new.site.node)
        )
        gain = output_gain(new, self.current)
        kept = pair.kept.to(gain.device)
        sums = Moments.zeros(pair.support.shape[1], layer.width, gain.device, diagonal=True)
        generator = torch.Generator().manual_seed(self._seed)
        for (before, _), (after, _) in zip(wanted, found, strict=True):
            site = before[old.site.node].index_select(layer.channel_dim, kept)
            outputs = after[layer.node]
            if site.shape != after[new.site.node].shape:
                raise UnsupportedModelError(
                    f"Behind {layer.name} both networks must have values of the same shape in the channels that are "
                    f"left. They have {tuple(site.shape)} and {tuple(after[new.site.node].shape)}."
                )
            targets = targets_of(new, (site, after[new.site.node]), outputs, gain)
            positions = draw_positions(layer, outputs.shape, self._max_positions, generator, outputs.device)
            accumulate(sums, layer, after[layer.source], targets, positions)
        sums.sum_over_ranks()
        if not all(bool(torch.isfinite(part).all()) for part in (sums.gram, sums.cross, sums.outer)):
            raise DataError(
                f"Activations must be finite. The input or output of {layer.name} holds NaN or Inf. "
                "Check the data's scaling and the networks' weights."
            )
        return sums

    def _write(self, pair: LayerPair, gain: Tensor, coef: Tensor, intercept: Tensor) -> None:
        """Write weights and constants where they may change; entries are replaced."""
        layer, norm = pair.new.layer, pair.new.site.norm
        inverse = torch.where(pair.support.any(1) | pair.free, 1.0 / gain, torch.zeros_like(gain))
        old = self.current[layer.weight]
        weight = torch.where(pair.support, (coef * inverse).T.to(old.dtype), old.flatten(1))
        self.current[layer.weight] = weight.reshape(old.shape)
        key = layer.bias or (norm.mean if norm else None)
        if key is not None:
            constant = self.current[key]
            fresh = intercept * inverse if layer.bias is not None else constant.double() - intercept * inverse
            self.current[key] = torch.where(pair.free, fresh.to(constant.dtype), constant)


def _solved(pair: LayerPair, sums: Moments, start: tuple[Tensor, Tensor], ridge: float) -> tuple[Tensor | None, Tensor]:
    """Return weights and constants in units of the site; outputs whose constant may change are fitted centred."""
    coef, intercept = start[0].clone(), start[1].clone()
    for outputs, centred in ((pair.free, True), (~pair.free, False)):
        if not bool((pair.support & outputs[:, None]).any()):
            continue
        gram, cross, _ = sums.central(intercept=centred)
        part = refit_rows(gram, cross[:, outputs], start[0][:, outputs], pair.support[outputs], ridge=ridge)
        if part is None:
            return None, intercept
        coef[:, outputs] = part
    return coef, torch.where(pair.free, fitted_intercept(sums, coef), intercept)


def _relative(missed_energy: tuple[float, float], scales: tuple[float, ...]) -> tuple[float, float]:
    """Return ``||Psi - ...|| / ||Psi||`` on calibration and on held-out data."""
    one, other = ((part / max(scale, 1e-300)) ** 0.5 for part, scale in zip(missed_energy, scales, strict=True))
    return one, other


def _device(original: nn.Module, pruned: nn.Module) -> torch.device:
    """Return where both networks are."""
    found = {parameter.device for model in (original, pruned) for parameter in model.parameters()}
    if len(found) != 1:
        raise UnsupportedModelError(
            "Both networks must have parameters on one device. They are on "
            f"{', '.join(sorted(map(str, found))) or 'none'}. Move one of them with .to(device)."
        )
    return found.pop()


def _require_same_outputs(original: Network, pruned: Network, example: Tensor) -> None:
    shapes = [tuple(network.graph.output_node.meta["val"].shape[1:]) for network in (original, pruned)]
    if shapes[0] != shapes[1]:
        raise UnsupportedModelError(
            f"Both networks must have outputs of one shape. The original's have {shapes[0]} per sample, the pruned "
            f"one's {shapes[1]}. Outputs of the whole network must not be pruned."
        )
