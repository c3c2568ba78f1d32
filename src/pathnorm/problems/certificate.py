"""The certificate: an interval around the optimum, computed from the answer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Certificate", "Scope"]

Scope = Literal["dictionary", "function_space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """``dual <= optimum <= primal``, up to rounding, over the stated scope.

    Attributes
    ----------
    primal : float
        Value of the objective at the answer.
    dual : float
        Value of the dual objective at a feasible point built from the answer.
    scope : {"dictionary", "function_space"}
        Over what the bound holds: the given features, or every neuron there is.
    """

    primal: float
    dual: float
    scope: Scope = "dictionary"

    @property
    def gap(self) -> float:
        """Relative gap ``(primal - dual) / max(|primal|, tiny)``."""
        return (self.primal - self.dual) / max(abs(self.primal), float(np.finfo(np.float64).tiny))
