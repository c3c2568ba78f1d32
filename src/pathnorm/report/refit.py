"""The record of a refit: errors of every layer and of the whole, before and after."""

from __future__ import annotations

from dataclasses import dataclass

from pathnorm.report.fields import JsonRecord, exact, measured
from pathnorm.report.numbers import MISSING, count, percent, percent_interval, tiny
from pathnorm.report.reasons import skipped_lines
from pathnorm.report.records import SkippedGroup
from pathnorm.report.table import SHORT_KIND, align, wrap

__all__ = ["RefitLayer", "RefitRecord"]

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitLayer:
    """What happened to one layer.

    Attributes
    ----------
    name : str
        Module path.
    width_original, width : int
        Output channels in the original and in the pruned network.
    weights, weights_left : int
        Entries of the pruned network's weight, and those that are not zero.
    error_calibration_before, error_calibration_after, error_heldout_before, error_heldout_after : float
        ``||Psi - Phi V - 1 b'||_F / ||Psi||_F``, Psi centred where the layer has a free bias: Phi is what the layer
        reads in the network *as refitted so far*, Psi what it has to deliver so that the values behind it
        equal the original network's.
    ridge : float or None
        Pull towards the weights the layer had, relative to the mean eigenvalue of the Gram matrix; None where the
        weights were kept.
    refitted : bool
        Whether the layer has new weights.
    note : str
        Why not, if it has none.
    """

    name: str
    width_original: int = exact()
    width: int = exact()
    weights: int = exact()
    weights_left: int = exact()
    error_calibration_before: float = measured()
    error_calibration_after: float = measured()
    error_heldout_before: float = measured()
    error_heldout_after: float = measured()
    ridge: float | None = exact()
    refitted: bool = exact()
    note: str = exact(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRecord(JsonRecord):
    """What a refit changed, layer by layer, and what the whole network gained.

    The held-out samples chose, for every layer, between its old weights and a few ridges; they saw nothing else.
    Figures on them are therefore slightly too good where there are few.

    Attributes
    ----------
    layers : tuple of RefitLayer
        In forward order.
    skipped : tuple of SkippedGroup
        Layers left alone, each with its reason.
    output_error_before, output_error_after : float
        ``||f - f_pruned||_F / ||f||_F`` on held-out samples, outputs centred; before and after the refit.
    output_error_interval_before, output_error_interval_after : tuple of float
        95 % bootstrap intervals over held-out samples.
    agreement_before, agreement_after : float or None
        Share of held-out samples with the arg max of the original (outputs of shape (N, classes)).
    accuracy_original, accuracy_before, accuracy_after : float or None
        On held-out samples, when labels were given.
    """

    layers: tuple[RefitLayer, ...]
    skipped: tuple[SkippedGroup, ...]
    output_error_before: float = measured()
    output_error_after: float = measured()
    output_error_interval_before: tuple[float, float] = measured()
    output_error_interval_after: tuple[float, float] = measured()
    agreement_before: float | None = measured()
    agreement_after: float | None = measured()
    accuracy_original: float | None = measured()
    accuracy_before: float | None = measured()
    accuracy_after: float | None = measured()
    samples_calibration: int = exact()
    samples_heldout: int = exact()
    max_positions: int | None = exact()
    seed: int = exact()
    seconds: float = measured()

    def __str__(self) -> str:
        lines = wrap(_summary(self), width=_WIDTH)
        lines += ["", *align([_cells(layer) for layer in self.layers], head=_HEAD, width=_WIDTH, left=(0, 7))]
        if self.skipped:
            lines += ["", "left alone", *skipped_lines(self.skipped, width=_WIDTH)]
        return "\n".join(lines)


_HEAD = (
    ("layer", "channels", "weights", "error on", "", "on held-out", "", ""),
    ("", "left", "left", "calibration", "after", "before", "after", ""),
    ("", *(SHORT_KIND[kind] for kind in ("exact", "exact", "measured", "measured", "measured", "measured")), ""),
)


def _cells(layer: RefitLayer) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.width}/{layer.width_original}",
        percent(layer.weights_left / layer.weights) if layer.weights else MISSING,
        percent(layer.error_calibration_before, digits=2),
        percent(layer.error_calibration_after, digits=2),
        percent(layer.error_heldout_before, digits=2),
        percent(layer.error_heldout_after, digits=2),
        f"ridge {tiny(layer.ridge)}" if layer.refitted else layer.note,
    )


def _summary(record: RefitRecord) -> str:
    changed = sum(layer.refitted for layer in record.layers)
    text = (
        f"{changed} of {len(record.layers)} layers were refitted on {count(record.samples_calibration)} samples "
        f"without labels; on {count(record.samples_heldout)} held-out samples the error of the outputs goes from "
        f"{percent(record.output_error_before)} (95 % interval "
        f"{percent_interval(record.output_error_interval_before)}) to {percent(record.output_error_after)} "
        f"({percent_interval(record.output_error_interval_after)})"
    )
    if record.accuracy_original is not None:
        text += (
            f", and accuracy from {percent(record.accuracy_before)} to {percent(record.accuracy_after)}; the original "
            f"has {percent(record.accuracy_original)}"
        )
    elif record.agreement_after is not None:
        text += (
            f", and the same answer as the original from {percent(record.agreement_before)} to "
            f"{percent(record.agreement_after)}"
        )
    return text + "."
