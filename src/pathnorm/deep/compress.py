"""Compress a trained network without labels and without retraining, and say what was proved.

state -> solve -> sparsify -> verify -> report: the neuron groups are read off the graph, a
lossless stage removes what is provably redundant, widths are allocated to the budget, every
layer is reconstructed from fewer neurons, the module is cut, and old and new are compared on
data that was kept back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep.budget import meet_budget
from pathnorm.deep.cost import macs_cost, params_cost
from pathnorm.deep.data import Batches, split_batches
from pathnorm.deep.describe import describe
from pathnorm.deep.export import to_onnx
from pathnorm.deep.graph import ModelGraph, State, clean_copy, state_of, trace
from pathnorm.deep.groups import NeuronGroup, Neurons, find_neurons
from pathnorm.deep.lossless import remove_redundant
from pathnorm.deep.recipe import make_recipe, save_compression
from pathnorm.deep.reduce import Progress, Reduction, Setup
from pathnorm.deep.selectors import SELECTORS, Scores
from pathnorm.deep.sensitivity import Outputs, output_metrics
from pathnorm.deep.surgery import cut, sliced_state
from pathnorm.errors import DataError, UnsupportedModelError
from pathnorm.report.records import CompressionRecord, SkippedGroup

__all__ = ["Compression", "compress"]

_CACHE_BYTES = 2 * 2**30
_PROBE_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Compression:
    """A smaller network of the same class and the record of how it was made.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode, on the device of the given model.
    record : CompressionRecord
    recipe : dict
        The edits that turn a fresh model of the factory into one of the new shapes.
    """

    model: nn.Module
    record: CompressionRecord
    recipe: dict[str, Any]
    example: Tensor

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write ``model.safetensors``, ``recipe.json`` and ``record.json``; see :func:`pathnorm.deep.load`."""
        return save_compression(self.model, self.recipe, self.record, Path(folder), force=force)

    def to_onnx(self, path: str | Path) -> Path:
        """Write an ONNX model with a free batch size and check it against torch where onnxruntime is installed."""
        return to_onnx(self.model, self.example, Path(path))


def compress(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    model: nn.Module,
    data: Any,
    *,
    params: float | None = None,
    macs: float | None = None,
    error: float | None = None,
    widths: float | Mapping[str, int] | None = None,
    selector: str | Scores = "backward",
    skip: Sequence[str] = (),
    seed: int = 0,
    labels: Any = None,
    heldout: float = 0.2,
    round_to: int = 1,
    outputs: Outputs = "values",
    slide: int = 0,
    path_norm_cap: float = 2.0,
    max_positions: int | None = 64,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Compression:
    """Return a smaller network of the same class that computes nearly the same function.

    Every treated layer minimises ``||Psi - Phi V||_F`` over output weights V with few non-zero
    neurons: Phi are the features of the compressed prefix, Psi the outputs of the original
    network. Exactly one budget must be given.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified.
    data : array, tensor, DataLoader or list of batches
        Unlabelled calibration data, scaled as in training. Labels that a loader yields are used for
        the report only.
    params, macs : float
        Largest share of the parameters, or of the multiply-accumulates, of the whole network.
    error : float
        Largest relative output error ``||f - f_new|| / ||f - mean f||``, on calibration and held-out data.
    widths : float or mapping
        Share of every group to keep, or neurons by group name (groups not named keep all).
    selector : {"backward", "lasso", "forward", "magnitude"} or callable
        How neurons are chosen; a callable maps a layer problem to one score per neuron.
    skip : sequence of str
        Module paths of layers whose neurons are left alone.
    labels : array
        One class per sample of an array ``data``, for the report only.
    heldout : float
        Share of the data kept back for verification.
    round_to : int
        Widths become multiples of it, or stay as they are.
    outputs : {"values", "logits"}
        What the network's outputs are: values, or the logits of classes. Decides which errors of a layer
        matter when neurons are chosen and widths are allocated.
    slide : int
        Steps of local descent per layer after the refit, in which the kept neurons move to reconstruct the
        layer's own outputs better; no labels, no gradient through other layers. 0 for none.
    path_norm_cap : float
        Largest path norm of a refitted layer relative to the layer's own.
    max_positions : int or None
        Output positions of a convolution that enter the moments, per batch; None for all.
    batch_size : int
        Samples per batch when ``data`` is an array.
    progress : callable
        Called with ``(stage, done, total)``.

    Raises
    ------
    ValueError
        If not exactly one budget is given, or an argument is out of range.
    DataError, TraceError, UnsupportedModelError, BudgetError
        See :mod:`pathnorm.errors`.

    References
    ----------
    Shenouda, Parhi, Lee, Nowak (2024), the theorem on layer widths; ``docs/compress.md`` goes through the steps.
    """
    started = time.perf_counter()
    budget = _budget(params=params, macs=macs, error=error, widths=widths)
    _check_arguments(
        selector=selector,
        heldout=heldout,
        round_to=round_to,
        path_norm_cap=path_norm_cap,
        outputs=outputs,
        slide=slide,
    )
    device = _device(model)
    calibration, held = split_batches(data, labels, heldout=heldout, batch_size=batch_size, seed=seed, device=device)
    example = _example(calibration)
    graph = trace(model, example)
    state = state_of(clean_copy(model))
    if outputs == "logits" and graph.output_node.meta["val"].ndim != 2:
        shape = tuple(graph.output_node.meta["val"].shape)
        raise ValueError(f"outputs='logits' needs outputs of shape (N, classes). The model's have shape {shape}.")
    found = _usable(graph, model, state, find_neurons(graph, state, example, skip=skip), example)
    start, alive = remove_redundant(found.groups, state)
    setup = Setup(
        graph=graph,
        neurons=found,
        state=state,
        start=start,
        alive=alive,
        metrics=output_metrics(
            graph, start, found.groups, calibration.first(_PROBE_BATCHES), outputs=outputs, seed=seed
        ),
        calibration=calibration,
        heldout=held,
        selector=selector,
        max_positions=max_positions,
        path_norm_cap=path_norm_cap,
        ridge=1e-8,
        repair=True,
        slide_steps=slide,
        outputs=outputs,
        cache_bytes=_CACHE_BYTES,
        seed=seed,
        progress=progress or (lambda stage, done, total: None),
    )
    costs = (params_cost(model, found.groups), macs_cost(graph, found.labels, found.groups))
    reduction = meet_budget(setup, budget, costs=costs, widths=widths, round_to=round_to)
    small = cut(model, reduction.state, found.groups, reduction.keep)
    _check_surgery(graph, reduction, small, example)
    record = describe(setup, reduction, (model, small), costs=costs, budget=budget, started=started)
    return Compression(small, record, make_recipe(model, small), example)


def _budget(**given: Any) -> dict[str, Any]:
    """Return the one budget that was given."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise ValueError(
            f"Exactly one of params, macs, error and widths must be given. Got {', '.join(chosen) or 'none'}. "
            "For example compress(model, data, params=0.5)."
        )
    (name, value), *_ = chosen.items()
    if name != "widths" and not 0.0 < float(value) <= 1.0:
        raise ValueError(f"{name} must be a share in (0, 1]. Got {value!r}. {name}=0.5 halves the network.")
    return chosen


def _check_arguments(
    *, selector: str | Scores, heldout: float, round_to: int, path_norm_cap: float, outputs: str, slide: int
) -> None:
    if not callable(selector) and selector not in SELECTORS:
        raise ValueError(f"selector must be one of {', '.join(SELECTORS)} or a callable. Got {selector!r}.")
    if not 0.0 < heldout < 1.0:
        raise ValueError(f"heldout must be a share in (0, 1). Got {heldout!r}.")
    if outputs not in ("values", "logits"):
        raise ValueError(f"outputs must be 'values' or 'logits'. Got {outputs!r}.")
    if slide < 0:
        raise ValueError(f"slide must be a number of steps, 0 for none. Got {slide!r}.")
    if round_to < 1:
        raise ValueError(f"round_to must be a positive integer. Got {round_to!r}.")
    if not path_norm_cap > 0.0:
        raise ValueError(f"path_norm_cap must be positive. Got {path_norm_cap!r}. Use float('inf') for none.")


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise UnsupportedModelError("The model must have parameters to compress. It has none.")
    return parameter.device


def _example(calibration: Batches) -> Tensor:
    """Return two samples, the smallest batch that leaves the batch size free."""
    batch = next(iter(calibration))
    if not bool(torch.isfinite(batch).all()):
        raise DataError("Data must be finite. The first batch holds NaN or Inf. Clean the data first.")
    return batch[:2] if batch.shape[0] > 1 else torch.cat([batch, batch])


def _usable(graph: ModelGraph, model: nn.Module, state: State, found: Neurons, example: Tensor) -> Neurons:
    """Leave alone the groups whose width is written into the model's own code.

    Each group is tried without its last neuron; a forward that fails then could not run the result.
    """
    twin = clean_copy(model)
    groups: list[NeuronGroup] = []
    skipped = list(found.skipped)
    for group in found.groups:
        reason = None if group.width > 1 else "a single neuron cannot be removed"
        if reason is None:
            small = sliced_state(state, [group], {group.name: torch.arange(group.width - 1)})
            try:
                with torch.no_grad():
                    torch.func.functional_call(twin, small, (example,))
            except Exception as error:  # noqa: BLE001  (the model's own code may raise anything)
                reason = f"the model's forward does not run with another width: {str(error).splitlines()[0][:120]}"
        if reason is None:
            groups.append(group)
        else:
            skipped.append(SkippedGroup(name=group.name, width=group.width, reason=reason))
    if not groups:
        listing = "; ".join(f"{item.name}: {item.reason}" for item in skipped)
        raise UnsupportedModelError(
            "The model must have neurons between two linear or convolution layers that can be removed. "
            f"None of its layers qualifies ({listing or 'it has no such layer'})."
        )
    return Neurons(tuple(groups), tuple(skipped), found.readers, found.labels)


def _check_surgery(graph: ModelGraph, reduction: Reduction, small: nn.Module, example: Tensor) -> None:
    """The cut module must compute what the uncut graph with zero columns computes."""
    with torch.no_grad():
        expected, got = graph.outputs(reduction.state, example), small(example)
    scale = float(expected.abs().max()) or 1.0
    if float((got - expected).abs().max()) > 1e-3 * scale:
        raise UnsupportedModelError(
            "The smaller module must compute the same outputs as the original graph with zero weights. They differ by "
            f"{float((got - expected).abs().max()) / scale:.1e}: the model's forward depends on its widths."
        )
