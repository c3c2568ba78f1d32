"""What a solver returns: the answer, its certificate, and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from pathnorm.problems.certificate import Certificate

__all__ = ["Solution", "Status"]


class Status(Enum):
    """Why a solver stopped; the value is what the user reads: the reason, then the knob."""

    CONVERGED = "The certified relative gap is at most tol."
    MAX_ITER = (
        "The iteration budget was used up before the gap reached tol: raise max_iter, raise tol, or "
        "start from the solution of a larger lam."
    )
    STALLED = (
        "The gap stopped falling at the rounding error of the data: raise tol or lam, or sum the "
        "moments of centred features in float64."
    )
    UNFINISHED = (
        "The gap stopped falling before it reached tol: raise tol or lam, or allow the certificate more seconds."
    )
    TOO_FEW_NEURONS = "The optimum needs more neurons than max_neurons allows: raise max_neurons or lam."


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An answer that carries its problem and its proof.

    Attributes
    ----------
    problem : object
        The problem that was solved.
    coef : array
        The answer, in the array kind of the problem.
    certificate : Certificate
        Recomputed by the problem from ``coef`` alone.
    status : Status
        Why the solver stopped.
    n_iter : int
        Iterations of the solver, Newton steps where it takes such.
    """

    problem: Any
    coef: Any
    certificate: Certificate
    status: Status
    n_iter: int

    @property
    def converged(self) -> bool:
        """Whether the certified gap reached the tolerance."""
        return self.status is Status.CONVERGED
