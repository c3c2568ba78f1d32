"""What a verb says about its answer: frozen records of plain numbers.

Every field carries its ``kind`` in the dataclass metadata: ``exact`` (counted or
computed), ``certified`` (a bound that is proved) or ``measured`` (observed on data,
true of that data only).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CompressionRecord", "Frontier", "GroupRecord", "SkippedGroup", "kind_of"]


def _exact(**kwargs: Any) -> Any:
    return field(metadata={"kind": "exact"}, **kwargs)


def _certified(**kwargs: Any) -> Any:
    return field(metadata={"kind": "certified"}, **kwargs)


def _measured(**kwargs: Any) -> Any:
    return field(metadata={"kind": "measured"}, **kwargs)


def kind_of(record: type, name: str) -> str:
    """Return ``exact``, ``certified`` or ``measured`` for a field of a record class."""
    for item in fields(record):
        if item.name == name:
            return str(item.metadata.get("kind", "exact"))
    raise KeyError(name)


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
    errors: tuple[float, ...] = _measured()
    path_norms: tuple[float, ...] = _measured()
    bound: tuple[float, ...] = _certified()


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
    width_before: int = _exact()
    width_lossless: int = _exact()
    width_after: int = _exact()
    silent: int = _measured()
    rank_features: int = _measured()
    rank_outputs: int = _measured()
    rank_tolerance: float = _exact()
    width_bound: int = _measured()
    width_lower_bound: int = _certified()
    error_calibration: float = _measured()
    error_heldout: float = _measured()
    lam: float = _exact()
    primal: float = _certified()
    dual: float = _certified()
    gap: float = _certified()
    path_norm_before: float = _exact()
    path_norm_after: float = _exact()
    path_norm_lower_bound: float = _certified()
    ridge: float = _exact()
    slid: bool = _exact(default=False)
    theorem_applies: bool = _exact()
    theorem_reason: str = _exact()
    error_curve: tuple[float, ...] = _measured(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRecord:
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
        The budget asked for, e.g. ``{"params": 0.5}``.
    """

    groups: tuple[GroupRecord, ...]
    skipped: tuple[SkippedGroup, ...]
    params_before: int = _exact()
    params_after: int = _exact()
    macs_before: int = _exact()
    macs_after: int = _exact()
    bytes_before: int = _exact()
    bytes_after: int = _exact()
    output_error_heldout: float = _measured()
    output_error_interval: tuple[float, float] = _measured()
    agreement_heldout: float | None = _measured()
    accuracy_before: float | None = _measured()
    accuracy_after: float | None = _measured()
    accuracy_change_interval: tuple[float, float] | None = _measured()
    latency_ms_before: float = _measured()
    latency_ms_after: float = _measured()
    latency_batch: int = _exact()
    latency_threads: int = _exact()
    samples_calibration: int = _exact()
    samples_heldout: int = _exact()
    budget: dict[str, float] = _exact()
    selector: str = _exact()
    outputs: str = _exact(default="values")
    slide_steps: int = _exact(default=0)
    seed: int = _exact()
    seconds: float = _measured()
    peak_memory_mb: float = _measured()
    frontiers: tuple[Frontier, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain Python objects; values that are not finite become ``None``."""
        return _jsonable(asdict(self))  # type: ignore[no-any-return]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the record as strict JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

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


def _jsonable(value: Any) -> Any:
    """Map tuples to lists and non-finite floats to ``None``, recursively."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
