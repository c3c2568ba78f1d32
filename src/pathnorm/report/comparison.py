"""Several methods at several budgets, on one network and one test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pathnorm.report.numbers import MISSING, count, percent
from pathnorm.report.table import align

__all__ = ["ComparisonPoint", "comparison_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPoint:
    """One method at one budget.

    Attributes
    ----------
    method : str
        Name of the method; the network before compression is called ``dense``.
    budget : str
        The budget asked for, e.g. ``"params 0.5"``; empty for the dense network.
    params, macs : int
        Whole network; multiply-accumulates are for one sample.
    accuracy : float
        Share of test samples answered correctly.
    output_error : float or None
        ``||f - f_new||_F / ||f||_F`` against the dense network on the test samples.
    """

    method: str
    budget: str
    params: int
    macs: int
    accuracy: float
    output_error: float | None = None

    @property
    def is_dense(self) -> bool:
        """Whether this is the network before compression."""
        return self.method == "dense"


def comparison_table(points: Sequence[ComparisonPoint]) -> str:
    """Return a plain-text table, one row per point, in the order given."""
    rows = [
        [
            point.method,
            point.budget,
            count(point.params),
            count(point.macs),
            percent(point.accuracy),
            MISSING if point.output_error is None else percent(point.output_error),
        ]
        for point in points
    ]
    head = [
        ["method", "budget", "parameters", "MACs", "accuracy", "output error"],
        ["", "", "exact", "exact", "measured", "measured"],
    ]
    return "\n".join(align(rows, head=head, left=(0, 1)))
