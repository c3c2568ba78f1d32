"""Compress a trained network without labels and without retraining, and say what was proved.

state -> solve -> sparsify -> verify -> report: the neuron groups are read off the graph, a
lossless stage removes what is provably redundant, widths are allocated to the budget, every
layer is reconstructed from fewer neurons, the module is cut, and old and new are compared on
data that was kept back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep.accuracy import require_classes
from pathnorm.deep.arguments import check_arguments, the_budget
from pathnorm.deep.blocks import GRAM_BYTES
from pathnorm.deep.budget import meet_budget
from pathnorm.deep.coupling import Attention
from pathnorm.deep.data import Batches, split_batches
from pathnorm.deep.describe import describe
from pathnorm.deep.edge import export_edge
from pathnorm.deep.export import to_onnx
from pathnorm.deep.graph import ModelGraph, clean_copy
from pathnorm.deep.latency import measure_ms
from pathnorm.deep.lossless import remove_redundant
from pathnorm.deep.plan import CACHE_BYTES, plan_of
from pathnorm.deep.recipe import make_recipe, save_compression
from pathnorm.deep.reduce import Progress, Reduction, Setup
from pathnorm.deep.selectors import Scores
from pathnorm.deep.sensitivity import Outputs, output_metrics
from pathnorm.deep.surgery import cut
from pathnorm.deep.survey import device_of, survey
from pathnorm.deep.trial import Trial, halves
from pathnorm.deep.uniform import everyone, same_places
from pathnorm.errors import UnsupportedModelError
from pathnorm.report.edge import EdgeRecord
from pathnorm.report.plan import PlanRecord
from pathnorm.report.records import CompressionRecord

__all__ = ["METRIC_BATCHES", "Compression", "compress"]

METRIC_BATCHES = 4
_LATENCY_BATCH = 32


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
    example : torch.Tensor
        Two samples.
    dense : torch.nn.Module or None
        The given model: itself, not a copy.
    """

    model: nn.Module
    record: CompressionRecord
    recipe: dict[str, Any]
    example: Tensor
    dense: nn.Module | None = field(default=None, repr=False)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write ``model.safetensors``, ``recipe.json`` and ``record.json``; see :func:`pathnorm.deep.load`."""
        return save_compression(self.model, self.recipe, self.record, Path(folder), force=force)

    def to_onnx(self, path: str | Path) -> Path:
        """Write an ONNX model with a free batch size and check it against torch where onnxruntime is installed."""
        return to_onnx(self.model, self.example, Path(path))

    def edge(
        self,
        folder: str | Path,
        data: Any,
        *,
        dense: nn.Module | None = None,
        batch_size: int = 128,
        force: bool = False,
    ) -> EdgeRecord:
        """Write the given and the smaller network as ONNX in fp32 and in int8, and measure all four.

        A fifth of ``data`` is kept back for the errors; the rest sets the ranges of int8. See
        :func:`pathnorm.deep.edge.export_edge` for what is checked and raised.

        Parameters
        ----------
        data : array, tensor, DataLoader or list of batches
            Unlabelled, e.g. what the network was compressed with.
        dense : torch.nn.Module
            The network before; the one that was given to :func:`compress` (as it is now) if None.
        """
        before = self.dense if dense is None else dense
        if before is None:
            raise ValueError(
                "The network before compression is needed. This Compression does not hold it: give dense=."
            )
        parts = split_batches(
            data, heldout=0.2, batch_size=batch_size, seed=self.record.seed, device=torch.device("cpu")
        )
        return export_edge({"dense": before, "compressed": self.model}, parts, Path(folder), force=force)


def compress(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    model: nn.Module,
    data: Any,
    *,
    params: float | None = None,
    macs: float | None = None,
    error: float | None = None,
    accuracy_drop: float | None = None,
    latency_ms: float | None = None,
    widths: float | Mapping[str, int] | None = None,
    selector: str | Scores = "backward",
    skip: Sequence[str] = (),
    streams: bool = False,
    uniform: bool = False,
    attention: Attention = "heads",
    seed: int = 0,
    labels: Any = None,
    heldout: float = 0.2,
    round_to: int = 1,
    outputs: Outputs = "values",
    slide: int = 0,
    path_norm_cap: float = 2.0,
    max_positions: int | None = 64,
    batch_size: int = 128,
    latency_batch: int = 1,
    gram_bytes: int = GRAM_BYTES,
    progress: Progress | None = None,
    on_plan: Callable[[PlanRecord], None] | None = None,
) -> Compression:
    """Return a smaller network of the same class that computes nearly the same function.

    Every treated layer minimises ``||Psi - Phi V||_F`` over output weights V with few non-zero
    neurons: Phi are the features of the compressed prefix, Psi the outputs of the original
    network. Exactly one of the budgets ``params``, ``macs``, ``error``, ``accuracy_drop``, ``latency_ms`` and
    ``widths`` must be given.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified.
    data : array, tensor, DataLoader or list of batches
        Unlabelled calibration data, scaled as in training. Labels that a loader yields are used like ``labels``.
    params, macs : float
        Largest share of the parameters, or of the multiply-accumulates, of the whole network.
    error : float
        Largest relative output error ``||f - f_new|| / ||f - mean f||``, on calibration and held-out data.
    accuracy_drop : float
        Largest fall of accuracy in percentage points, on one half of the held-out samples. Needs labels. The
        accuracies in the record are from the other half, which the choice of widths does not see.
    latency_ms : float
        Longest median time of ``latency_batch`` samples on this machine, with torch's number of threads as it is.
    widths : float or mapping
        Share of every group to keep, or neurons by group name (groups not named keep all).
    selector : {"backward", "lasso", "forward", "magnitude"} or callable
        How neurons are chosen; a callable maps a layer problem to one score per neuron.
    skip : sequence of str
        Module paths of layers whose neurons are left alone.
    streams : bool
        Whether the channels of residual streams may be removed as well: all layers that write into a stream lose the
        same ones. Gates, squeeze-excite, depthwise convolutions and concatenations are followed in any case.
    uniform : bool
        Whether groups in the same place of every block get the same width, as models that are built from one number
        for all blocks need it. Configurations in the style of transformers are corrected then, so that
        ``save_pretrained`` and ``from_pretrained`` work on the result.
    attention : {"heads", "values"}
        What is removed from attention: heads, or channels of the values and of the output projection, as many in every
        head. The second needs a forward that takes the number of channels per head from its tensors.
    labels : array
        One class per sample of an array ``data``, for the report and for ``accuracy_drop`` only.
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
        Output positions of a convolution that enter the moments and the output metric, per batch; None for all.
    batch_size : int
        Samples per batch when ``data`` is an array.
    latency_batch : int
        Samples per batch for ``latency_ms``; drawn again and again from the held-out data if it has fewer.
    gram_bytes : int
        Layers whose Gram matrix in float64 would take more are treated in blocks of neurons, one by one; 2 GiB are
        16,384 features. What is held at once is several times that.
    progress : callable
        Called with ``(stage, done, total)``.
    on_plan : callable
        Called with the :class:`~pathnorm.report.plan.PlanRecord` before any pass over the data.

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
    budget = the_budget(
        params=params, macs=macs, error=error, accuracy_drop=accuracy_drop, latency_ms=latency_ms, widths=widths
    )
    check_arguments(
        selector=selector,
        heldout=heldout,
        path_norm_cap=path_norm_cap,
        outputs=outputs,
        attention=attention,
        slide=slide,
        counts={"round_to": round_to, "latency_batch": latency_batch, "gram_bytes": gram_bytes},
    )
    device = device_of(model)
    calibration, held = split_batches(data, labels, heldout=heldout, batch_size=batch_size, seed=seed, device=device)
    seen = survey(
        model,
        calibration,
        skip=skip,
        streams=streams,
        uniform=uniform,
        attention=attention,
        gram_bytes=gram_bytes,
    )
    seen.require(outputs)
    graph, state, found, example, costs = seen.graph, seen.state, seen.neurons, seen.example, seen.costs
    search = held
    if accuracy_drop is not None:
        require_classes(graph, held)
        search, held = halves(held, divide=graph.batch_size is None)
    if on_plan is not None:
        on_plan(plan_of(seen, calibration))
    start, alive = remove_redundant(found.groups, state)
    setup = Setup(
        graph=graph,
        neurons=found,
        state=state,
        start=start,
        alive=everyone(found.groups) if uniform else alive,
        metrics=output_metrics(
            graph,
            start,
            found.groups,
            calibration.first(METRIC_BATCHES),
            outputs=outputs,
            max_positions=max_positions,
            seed=seed,
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
        cache_bytes=CACHE_BYTES,
        seed=seed,
        progress=progress or (lambda stage, done, total: None),
        ties=same_places(found.groups) if uniform else None,
        gram_bytes=gram_bytes,
    )
    batch = _timed_batch(held, None if latency_ms is None else latency_batch)
    trial = Trial(clean_copy(model), search, batch, measure_ms)
    met = meet_budget(setup, budget, trial=trial, costs=costs, widths=widths, round_to=round_to)
    reduction = met.reduction
    small = cut(model, reduction.state, found.groups, reduction.keep, turned=graph.turned)
    _check_surgery(graph, reduction, small, example)
    record = describe(setup, met, (model, small), trial=trial, costs=costs, budget=budget, started=started)
    return Compression(small, record, make_recipe(model, small), example, model)


def _timed_batch(held: Batches, size: int | None) -> Tensor:
    """Return ``size`` held-out samples, or what the first batch has of 32."""
    batch = next(iter(held))
    if size is None:
        return batch[:_LATENCY_BATCH]
    return torch.cat([batch] * -(-size // batch.shape[0]))[:size]


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
