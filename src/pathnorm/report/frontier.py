"""The record of a frontier: which output error is predicted for which size of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pathnorm.report.fields import JsonRecord, exact, measured
from pathnorm.report.numbers import count, percent
from pathnorm.report.reasons import skipped_lines
from pathnorm.report.records import SkippedGroup
from pathnorm.report.table import align, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FrontierPoint", "FrontierRecord"]

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One network that compression could make.

    Attributes
    ----------
    budget : {"params", "macs", "error"}
        What the widths were chosen for.
    params, macs : float
        Shares of the whole network that are left.
    error : float
        Predicted relative output error ``||f - f_new|| / ||f - mean f||``: the root of the sum of the squared errors
        that every group alone would cause, from calibration data.
    widths : dict
        Neurons by group name, for ``compress(..., widths=point.widths)``.
    """

    budget: str = exact()
    params: float = exact()
    macs: float = exact()
    error: float = measured()
    widths: dict[str, int] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierRecord(JsonRecord):
    """Predicted output error against the size of the network.

    Attributes
    ----------
    points : tuple of FrontierPoint
        First those for budgets of parameters, then those for budgets of multiply-accumulates; in each, from the largest
        network to the smallest, and with a larger error each time.
    skipped : tuple of SkippedGroup
        Neurons that stay in all of them, each with its reason.
    widths_full : dict
        Neurons by group name in the given network.
    params_full, macs_full : int
        Of the given network; multiply-accumulates are for one sample.
    """

    points: tuple[FrontierPoint, ...]
    skipped: tuple[SkippedGroup, ...]
    widths_full: dict[str, int]
    params_full: int = exact()
    macs_full: int = exact()
    outputs: str = exact()
    samples_calibration: int = exact()
    seed: int = exact()
    seconds: float = measured()

    def columns(self) -> dict[str, list[Any]]:
        """Return one list per column, e.g. for ``pandas.DataFrame``; the width of a group is ``width:NAME``."""
        plain: dict[str, list[Any]] = {
            name: [getattr(point, name) for point in self.points] for name in ("budget", "params", "macs", "error")
        }
        return plain | {f"width:{name}": [point.widths[name] for point in self.points] for name in self.widths_full}

    def plot(self) -> Figure:
        """Return predicted error against parameters and against multiply-accumulates."""
        from pathnorm.report.frontier_plot import frontier_curves

        return frontier_curves(self)

    def __str__(self) -> str:
        text = (
            f"Predicted error of the outputs of networks made of {len(self.widths_full)} groups of neurons, from "
            f"{count(self.samples_calibration)} samples without labels. The whole network has "
            f"{count(self.params_full)} parameters and {count(self.macs_full)} multiply-accumulates. Predictions add "
            "squared errors of single groups; what a network does is measured when it is made."
        )
        rows = [
            (point.budget, percent(point.params), percent(point.macs), percent(point.error, digits=2))
            for point in self.points
        ]
        head = [("budget of", "parameters", "MACs", "error"), ("", "exact", "exact", "predicted")]
        lines = [*wrap(text, width=_WIDTH), "", *align(rows, head=head, width=_WIDTH)]
        if self.skipped:
            lines += ["", "left alone", *skipped_lines(self.skipped, width=_WIDTH)]
        return "\n".join(lines)
