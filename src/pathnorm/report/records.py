"""What a verb says about its answer: frozen records of plain numbers.

Every field carries its ``kind`` in the dataclass metadata: ``exact`` (counted or
computed), ``certified`` (a bound that is proved) or ``measured`` (observed on data,
true of that data only).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.fields import JsonRecord, certified, exact, kind_of, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BudgetCheck", "CompressionRecord", "Frontier", "GroupRecord", "SkippedGroup", "kind_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Width, path norm and error that one selector reaches on one layer.

    ``errors`` are relative, ``||Psi - Phi V||_F / ||Psi||_F`` on calibration data, with the features of the
    compressed prefix: at full width they need not be zero;
    ``bound`` is the Eckart-Young error below which no layer of that width can go.
    """

    group: str
    selector: str
    widths: tuple[int, ...]
    errors: tuple[float, ...] = measured()
    path_norms: tuple[float, ...] = measured()
    bound: tuple[float, ...] = certified()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedGroup:
    """Neurons that were left alone, and why."""

    name: str
    width: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """What happened to the neurons between one producer and its consumers.

    Attributes
    ----------
    name : str
        Module path of the producing layer.
    consumers : tuple of str
        Module paths of the layers that read the neurons.
    width_before, width_lossless, width_after : int
        Neurons in the given model, after the lossless stage, and in the answer.
    silent : int
        Neurons whose feature was zero on all calibration data (no proof off the data).
    rank_features, rank_outputs : int
        Numerical ranks of Phi and Psi: eigenvalues of the Gram matrix above
        ``rank_tolerance**2`` times the largest.
    width_bound : int
        ``rank_features * rank_outputs``: that many neurons suffice for the same outputs
        with no larger path norm [SPLN24].
    width_lower_bound : int
        No layer with fewer neurons reaches ``error_calibration`` (Eckart-Young).
    error_calibration, error_heldout : float
        ``||Psi - Phi V||_F / ||Psi||_F``, outputs centred where the layer has a free bias;
        features of the compressed prefix against outputs of the original model.
    lam, primal, dual, gap : float
        Multitask-lasso certificate of the layer, see ``path_norm_lower_bound``.
    path_norm_before, path_norm_after, path_norm_lower_bound : float
        ``sum_k ||w_k|| ||v_k||`` of the layer; the last is proved by the dual: no layer over
        these features with an error as small has a smaller path norm.
    ridge : float
        Ridge of the refit relative to the mean eigenvalue of the Gram matrix.
    slid : bool
        Whether the neurons were moved after the refit; errors and path norm are then those of the moved
        layer, while the certificate and the lower bound of the path norm speak of the original neurons
        at the refit's error.
    theorem_applies, theorem_reason : bool, str
        Whether the layer-width theorem covers this layer, and why or why not.
    error_curve : tuple of float
        Relative error after keeping ``k`` neurons, ``k = 0 .. width_lossless``, with the features of
        the compressed prefix.
    """

    name: str
    consumers: tuple[str, ...]
    width_before: int = exact()
    width_lossless: int = exact()
    width_after: int = exact()
    silent: int = measured()
    rank_features: int = measured()
    rank_outputs: int = measured()
    rank_tolerance: float = exact()
    width_bound: int = measured()
    width_lower_bound: int = certified()
    error_calibration: float = measured()
    error_heldout: float = measured()
    lam: float = exact()
    primal: float = certified()
    dual: float = certified()
    gap: float = certified()
    path_norm_before: float = exact()
    path_norm_after: float = exact()
    path_norm_lower_bound: float = certified()
    ridge: float = exact()
    slid: bool = exact(default=False)
    theorem_applies: bool = exact()
    theorem_reason: str = exact()
    error_curve: tuple[float, ...] = measured(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCheck:
    """How a budget that has to be measured was met: what was seen while widths were chosen.

    Attributes
    ----------
    name : {"accuracy_drop", "latency_ms"}
    before, after : float
        Accuracy (a share), or latency in ms, of the given and of the accepted network.
    change_interval : tuple of float or None
        95 % interval of ``after - before`` (paired) of accuracies; optimistic, as the choice has seen these samples.
    samples : int
        Held-out samples that the choice has seen, or samples per batch of the latency.
    rounds : int
        Networks that were tried.
    note : str
        What may be concluded, in words.
    """

    name: str
    before: float = measured()
    after: float = measured()
    change_interval: tuple[float, float] | None = measured(default=None)
    samples: int = exact()
    rounds: int = exact()
    note: str = exact()

    def __str__(self) -> str:
        from pathnorm.report.numbers import decimal, percent, points_interval
        from pathnorm.report.table import wrap

        if self.name == "accuracy_drop":
            seen = f"accuracy {percent(self.before)} -> {percent(self.after)} on {self.samples} samples"
            seen += f" (95 %: {points_interval(self.change_interval)})"
        else:
            seen = f"{decimal(self.before)} -> {decimal(self.after)} ms for {self.samples} samples"
        return "\n".join(wrap(f"seen by the choice of widths: {seen}, {self.rounds} tried. {self.note}", width=100))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRecord(JsonRecord):
    """What was proved and what was measured while a network was made smaller.

    Attributes
    ----------
    groups : tuple of GroupRecord
        One per treated neuron group, in forward order.
    skipped : tuple of SkippedGroup
        Neurons left alone, each with its reason.
    params_before, params_after, macs_before, macs_after : int
        Whole network; multiply-accumulates are for one sample.
    bytes_before, bytes_after : int
        Size of the weights as safetensors.
    output_error_heldout : float
        ``||f - f_new||_F / ||f||_F`` on the held-out slice, outputs centred over samples.
    output_error_interval : tuple of float
        95 % bootstrap interval of the same over held-out samples.
    agreement_heldout : float or None
        Share of held-out samples with the same arg max (outputs of shape (N, classes)).
    accuracy_before, accuracy_after : float or None
        On held-out samples, when labels were given.
    accuracy_change_interval : tuple of float or None
        95 % interval of ``accuracy_after - accuracy_before`` (paired).
    latency_ms_before, latency_ms_after : float
        Median of interleaved runs with ``latency_batch`` samples on ``latency_threads`` threads.
    budget : dict
        The budget asked for, e.g. ``{"params": 0.5}``; ``{"widths": {group: neurons}}`` if widths were given.
    check : BudgetCheck or None
        What was measured while widths were chosen, for the budgets ``accuracy_drop`` and ``latency_ms``. Everything
        else in the record was measured afterwards: accuracies on samples that the choice has not seen.
    """

    groups: tuple[GroupRecord, ...]
    skipped: tuple[SkippedGroup, ...]
    params_before: int = exact()
    params_after: int = exact()
    macs_before: int = exact()
    macs_after: int = exact()
    bytes_before: int = exact()
    bytes_after: int = exact()
    output_error_heldout: float = measured()
    output_error_interval: tuple[float, float] = measured()
    agreement_heldout: float | None = measured()
    accuracy_before: float | None = measured()
    accuracy_after: float | None = measured()
    accuracy_change_interval: tuple[float, float] | None = measured()
    latency_ms_before: float = measured()
    latency_ms_after: float = measured()
    latency_batch: int = exact()
    latency_threads: int = exact()
    samples_calibration: int = exact()
    samples_heldout: int = exact()
    budget: dict[str, float | dict[str, int]] = exact()
    selector: str = exact()
    outputs: str = exact(default="values")
    slide_steps: int = exact(default=0)
    seed: int = exact()
    seconds: float = measured()
    peak_memory_mb: float = measured()
    frontiers: tuple[Frontier, ...] = field(default=(), repr=False)
    check: BudgetCheck | None = measured(default=None)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with the figures of :meth:`plot`; return its path."""
        from pathnorm.report.render import write_html

        return write_html(self, Path(path))

    def plot(self) -> Figure:
        """Return the overview figure: width per layer, error curves and frontier."""
        from pathnorm.report.plots import overview

        return overview(self)

    def __str__(self) -> str:
        from pathnorm.report.render import text_table

        return text_table(self)
