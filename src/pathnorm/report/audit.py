"""What is said about a trained network: its neurons, layer by layer, and the whole.

Fields are ``exact`` (counted or computed from the weights), ``certified`` (proved from the weights for every input, or
a bound proved on the data of the audit) or ``measured`` (observed on these data, true of them only).
"""

# ruff: noqa: RUF009 - field() under a shorter name

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnorm.report.fields import JsonRecord, certified, exact, measured
from pathnorm.report.records import SkippedGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pathnorm.report.audit_summary import Finding

__all__ = ["AuditRecord", "GroupAudit", "LipschitzLayer", "PredictedWidth", "ReconstructionAudit"]

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedWidth:
    """Neurons that a layer needs for its own outputs up to a relative error, and the fewest that any choice needs.

    Attributes
    ----------
    error : float
        ``||Psi - Phi V||_F / ||Psi||_F``.
    width : int
        Neurons after ranking and least squares over those kept.
    lower_bound : int
        No layer with fewer neurons reaches the error on these data (Eckart-Young).
    """

    error: float = exact()
    width: int = measured()
    lower_bound: int = certified()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionAudit:
    """The layer behind a group as a reconstruction problem ``Psi = Phi V``, over its active neurons.

    Attributes
    ----------
    rows, features : int
        Rows (samples x positions) and features (neurons x kernel), of the consumer that has fewest rows to spare.
    enough_rows : bool
        Whether every consumer has more rows than features; otherwise ranks and widths say how few the data are.
    rank_features, rank_outputs : int
        Singular values of Phi and Psi above ``rank_tolerance`` times the largest.
    coarse_rank_features, coarse_rank_outputs : int
        The same at ``coarse_tolerance``.
    width_bound : int
        ``rank_features * rank_outputs``: that many neurons suffice for the same outputs with no larger path norm.
    predicted : tuple of PredictedWidth
        Without compressing anything: the features are those of the network as it is.
    ranking : str
        ``backward`` elimination, or ``one-shot`` where the layer is too large for it.
    error_curve : tuple of float
        Relative error after keeping k of the active neurons, k = 0, 1, ...
    target_error : float
        Error at which the path norm is asked to be small.
    path_norm_found : float or None
        Path norm of output weights that were found with an error of at most ``target_error``.
    path_norm_lower_bound : float or None
        No output weights over these neurons with such an error have a smaller path norm (multitask-lasso dual).
    excess_found, excess_most : float or None
        Share of the layer's path norm that is not needed for its outputs up to ``target_error``: at least
        ``excess_found``, because better weights were found, and at most ``excess_most``, because of the dual.
    subgradient_residual : float or None
        ``||(I - P) S|| / ||S||`` with ``S_k = c_k v_k / ||v_k||`` and P the projection on the row space of Phi. Zero if
        V is a stationary point of the smallest path norm with these outputs [SPLN24]; zero for certain where Phi has
        full column rank, because the outputs then determine V.
    note : str
        What was not computed, and why.
    """

    rows: int = exact()
    features: int = exact()
    enough_rows: bool = exact()
    rank_features: int = measured()
    rank_outputs: int = measured()
    rank_tolerance: float = exact()
    coarse_rank_features: int = measured()
    coarse_rank_outputs: int = measured()
    coarse_tolerance: float = exact()
    width_bound: int = measured()
    predicted: tuple[PredictedWidth, ...]
    ranking: str = exact()
    error_curve: Numbers = measured(repr=False)
    target_error: float = exact()
    path_norm_found: float | None = certified()
    path_norm_lower_bound: float | None = certified()
    excess_found: float | None = certified()
    excess_most: float | None = certified()
    subgradient_residual: float | None = measured()
    note: str = exact(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAudit:
    """The neurons between one producer and its consumers.

    Attributes
    ----------
    name : str
        Module path of the producing layer.
    consumers, activations : tuple of str
        Layers that read the neurons, and operations that act on them.
    theorem_applies, theorem_reason : bool, str
        Whether the layer-width theorem covers this layer, and why or why not.
    width : int
    active : int
        Neither dead by the weights nor zero on all data.
    dead_proved : int
        Zero for every input, or without output weights.
    dead_measured : int
        Others whose feature was zero on all data.
    duplicates_proved : int
        Collinear with another neuron, by the weights: it can take over their output weights.
    duplicates_measured : int
        Active neurons whose feature is proportional to that of another one on these data (cosine at least
        ``1 - 1e-6``); those proved are among them as a rule.
    balance : tuple of float
        Minimum, 5, 25, 50, 75, 95 % quantile and maximum of ``(||w||^2 - ||v||^2) / (||w||^2 + ||v||^2)`` over the
        neurons with weights, in the coordinates of weight decay: 0 for every neuron at its stationary points.
    balance_worst : float
        The largest absolute value of it.
    balance_counts : tuple of int
        Neurons by their balance, in bins of equal width from -1 to 1.
    path_norm, path_norm_share : float
        ``sum_k ||w_k|| ||v_k||`` with BatchNorms folded in, and its share of the total over all groups.
    masses : tuple of float
        ``||w_k|| ||v_k||``, largest first.
    gini : float
        Gini coefficient of the masses: 0 if all are equal, near 1 if few neurons carry all.
    input_singular_values : tuple of float
        Of the matrix of input weights, BatchNorm folded in, largest first.
    directions : float
        Its participation ratio ``(sum s^2)^2 / sum s^4``: how many directions the layer looks along.
    reconstruction : ReconstructionAudit or None
        What the data say about the layer's outputs.
    missing : str
        Why there is no ``reconstruction``.
    """

    name: str
    consumers: tuple[str, ...]
    activations: tuple[str, ...]
    theorem_applies: bool = exact()
    theorem_reason: str = exact()
    width: int = exact()
    active: int = measured()
    dead_proved: int = certified()
    dead_measured: int = measured()
    duplicates_proved: int = certified()
    duplicates_measured: int | None = measured()
    balance: Numbers = exact()
    balance_worst: float = exact()
    balance_counts: tuple[int, ...] = exact(repr=False)
    path_norm: float = exact()
    path_norm_share: float = exact()
    masses: Numbers = exact(repr=False)
    gini: float = exact()
    input_singular_values: Numbers = exact(repr=False)
    directions: float = exact()
    reconstruction: ReconstructionAudit | None
    missing: str = exact(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class LipschitzLayer:
    """How much one operation can stretch distances; ``method`` says how the norm was bounded."""

    name: str
    operation: str = exact()
    norm: float = certified()
    method: str = exact()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord(JsonRecord):
    """What was proved and what was measured about a trained network.

    Attributes
    ----------
    groups : tuple of GroupAudit
        One per neuron group, in forward order.
    skipped : tuple of SkippedGroup
        Neurons that are not in a group, each with its reason.
    params, macs : int
        Whole network; multiply-accumulates are for one sample.
    neurons, active, dead_proved, duplicates_proved : int
        Sums over the groups.
    path_norm : float
        Sum over the groups.
    biases : bool
        Whether the biases are part of the input weights in path norms and balance.
    lipschitz_upper : float or None
        No two inputs are driven further apart than this factor (Euclidean norms); None if nothing is proved.
    lipschitz_reason : str
        Why there is no bound, naming the layer; empty if there is one.
    lipschitz_layers : tuple of LipschitzLayer
        What each layer contributes, in forward order, up to where the bound ends.
    lipschitz_lower : float or None
        A ratio that was attained, by an attack from ``attack_samples`` samples.
    samples : int
        Samples read; all of the data.
    passes : int
        Times the data were read.
    max_positions : int or None
        Output positions of a convolution that enter the moments, per batch.
    """

    groups: tuple[GroupAudit, ...]
    skipped: tuple[SkippedGroup, ...]
    params: int = exact()
    macs: int = exact()
    neurons: int = exact()
    active: int = measured()
    dead_proved: int = certified()
    duplicates_proved: int = certified()
    path_norm: float = exact()
    biases: bool = exact()
    lipschitz_upper: float | None = certified()
    lipschitz_reason: str = exact()
    lipschitz_layers: tuple[LipschitzLayer, ...] = field(default=(), repr=False)
    lipschitz_lower: float | None = measured()
    attack_samples: int = exact()
    samples: int = exact()
    passes: int = exact()
    max_positions: int | None = exact()
    seed: int = exact()
    seconds: float = measured()
    peak_memory_mb: float = measured()

    @property
    def summary(self) -> tuple[Finding, ...]:
        """Plain sentences on what is safe to remove and what is not certifiable, each with its kind."""
        from pathnorm.report.audit_summary import findings

        return findings(self)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain Python objects, the summary included; values that are not finite become ``None``."""
        summary = [{"kind": finding.kind, "text": finding.text} for finding in self.summary]
        return JsonRecord.to_dict(self) | {"summary": summary}

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with figures; return its path."""
        from pathnorm.report.audit_render import write_html

        return write_html(self, Path(path))

    def plot(self) -> Figure:
        """Return the overview figure: widths, share of the path norm, balance and masses per layer."""
        from pathnorm.report.audit_plots import overview

        return overview(self)

    def __str__(self) -> str:
        from pathnorm.report.audit_render import text_table

        return text_table(self)
