"""What a compression would do and need, before any data goes through the network."""

from __future__ import annotations

from dataclasses import dataclass

from pathnorm.report.fields import JsonRecord, exact
from pathnorm.report.numbers import byte_size, count
from pathnorm.report.reasons import skipped_lines
from pathnorm.report.records import SkippedGroup
from pathnorm.report.table import align, wrap

__all__ = ["PlanRecord", "PlannedGroup"]

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """One group of neurons and the moments of the layers that read it.

    Attributes
    ----------
    consumers : tuple of str
        Layers that read the neurons.
    features, outputs : tuple of int
        Per consumer, the sides P (channels x kernel) and D of its moments.
    gram_bytes : int
        float64 Gram matrices, ``8 P^2`` summed over the consumers.
    moment_bytes : int
        All float64 sums, ``8 (P^2 + P D + D^2 + P + D + 1)`` summed over the consumers.
    problem_bytes : int
        The layer problem made of them, ``8 (P^2 + P D + D^2)`` with P and D the sums over the consumers.
    """

    name: str
    consumers: tuple[str, ...]
    width: int = exact()
    features: tuple[int, ...] = exact()
    outputs: tuple[int, ...] = exact()
    gram_bytes: int = exact()
    moment_bytes: int = exact()
    problem_bytes: int = exact()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord(JsonRecord):
    """Groups, costs, memory and passes of a compression that has not begun.

    Attributes
    ----------
    params, macs : int
        Of the whole network; multiply-accumulates are for one sample.
    moment_bytes : int
        Most bytes of moments that are held at once.
    moment_limit : int
        The Gram matrices of one pass that predicts widths stay below it, or belong to one group.
    problem_bytes : int
        Layer problems of all groups, which a reduction keeps until the record is written.
    passes_predict : int
        Passes over the calibration data that predict the error of every width; none if widths are given.
    passes_reduce : int
        Passes of one reduction, one per group. Each resumes at its layer where values are cached.
    passes_repair : int
        Further passes of one reduction, at most: one per layer that only reads changed neurons, or reads a stream
        again.
    cache_bytes : int
        Most bytes of values that are kept between passes, with ``cache_limit`` for calibration data.
    samples, batches : int
        Calibration data.
    """

    groups: tuple[PlannedGroup, ...]
    skipped: tuple[SkippedGroup, ...]
    params: int = exact()
    macs: int = exact()
    moment_bytes: int = exact()
    moment_limit: int = exact()
    problem_bytes: int = exact()
    passes_predict: int = exact()
    passes_reduce: int = exact()
    passes_repair: int = exact()
    cache_bytes: int = exact()
    cache_limit: int = exact()
    samples: int = exact()
    batches: int = exact()

    @property
    def largest(self) -> PlannedGroup:
        """The group with the largest Gram matrices."""
        return max(self.groups, key=lambda group: group.gram_bytes)

    def line(self) -> str:
        """Return memory and passes in one line."""
        return (
            f"{len(self.groups)} groups; moments {byte_size(self.moment_bytes)} at once, layer problems "
            f"{byte_size(self.problem_bytes)}, cache {byte_size(self.cache_bytes)}; {self.passes_predict} + "
            f"{self.passes_reduce} passes over {count(self.samples)} samples, and up to {self.passes_repair} repairs"
        )

    def __str__(self) -> str:
        neurons = sum(group.width for group in self.groups)
        head = [["group", "width", "read by", "P", "D", "Gram", "moments"]]
        rows = [
            [
                group.name,
                str(group.width),
                str(len(group.consumers)),
                "+".join(map(str, group.features)),
                "+".join(map(str, group.outputs)),
                byte_size(group.gram_bytes),
                byte_size(group.moment_bytes),
            ]
            for group in self.groups
        ]
        lines = [
            f"The network has {count(self.params)} parameters and {count(self.macs)} multiply-accumulates per sample. "
            f"{count(neurons)} neurons in {len(self.groups)} groups can be removed.",
            f"memory, at most: float64 moments {byte_size(self.moment_bytes)} at once, and as much again while neurons "
            f"are ranked; layer problems {byte_size(self.problem_bytes)}, kept for the record; values between passes "
            f"{byte_size(self.cache_bytes)} (limit {byte_size(self.cache_limit)}). The largest Gram matrices are those "
            f"of {self.largest.name}, {byte_size(self.largest.gram_bytes)}.",
            f"passes over {count(self.samples)} samples in {self.batches} batches: {self.passes_predict} to predict "
            f"widths (Gram matrices of at most {byte_size(self.moment_limit)} in each); per reduction "
            f"{self.passes_reduce}, and up to {self.passes_repair} to repair layers that only read changed neurons. "
            "The budgets error and accuracy_drop reduce several times.",
        ]
        text = [line for part in lines for line in (*wrap(part, width=_WIDTH), "")]
        text += align(rows, head=head, width=_WIDTH)
        if self.skipped:
            text += ["", "left alone", *skipped_lines(self.skipped, width=_WIDTH)]
        return "\n".join(text)
