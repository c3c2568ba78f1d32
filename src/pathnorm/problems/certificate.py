"""The certificate: an interval around the optimum, computed from the answer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Certificate", "Method", "Scope"]

Scope = Literal["dictionary", "function_space"]
Method = Literal["exact", "branch and bound", "search"]


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
    method : {"exact", "branch and bound", "search"}
        How neurons beyond the answer were looked at. After a ``"search"`` the scope is the neurons that were found:
        nothing is proved of the others.
    violation : float
        How far the largest neuron that was found exceeds the dual constraint, relative to ``lam``; measured.
    proved : float
        Relative gap that is proved over the function space, however loose; the gap itself where the scope is that.
        NaN where it was not asked for.
    """

    primal: float
    dual: float
    scope: Scope = "dictionary"
    method: Method = "exact"
    violation: float = float("nan")
    proved: float = float("nan")

    @property
    def gap(self) -> float:
        """Relative gap ``(primal - dual) / max(|primal|, tiny)``."""
        return (self.primal - self.dual) / max(abs(self.primal), float(np.finfo(np.float64).tiny))

    @property
    def sentence(self) -> str:
        """What may be said of the answer, in one line."""
        if self.scope == "function_space":
            return f"certified optimal within {self._percent(max(self.gap, 0.0))} ({self.method})"
        if self.method == "search":
            proved = f"; proved within {self._percent(self.proved)}" if self.proved < 1.0 else ""
            return f"not certified; largest violation found {self._percent(max(self.violation, 0.0))}{proved}"
        return f"certified optimal within {self._percent(max(self.gap, 0.0))} over the given features"

    @staticmethod
    def _percent(value: float) -> str:
        """Return a share as people read it: as a power of ten where it is tiny, in per cent otherwise."""
        return f"{value:.1e}" if value < 1e-3 else f"{100.0 * value:.2g} %"
