"""The convex problem of a sparse reconstruction, and what proves how good an answer is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pathnorm.imaging.operators import Operator, normal
from pathnorm.imaging.regularizers import Regularizer, TotalVariation
from pathnorm.problems.certificate import Certificate

__all__ = ["SparseProblem", "back", "real_inner"]


@dataclass(frozen=True)
class SparseProblem:
    """``1/2 ||A x - y||^2 / s^2 + lam sum_i R_i(x)`` with s at least the largest singular value of A.

    Dividing by s makes a value of ``lam`` mean the same for every operator: it has the unit of the image.

    Its dual is to maximise ``-||p||^2 / 2 - Re <p, y / s>`` over p and q_i with ``A* p / s + sum_i K_i* q_i = 0`` and
    groups of q_i no longer than lam. At the optimum ``p = (A x - y) / s``.
    """

    operator: Operator
    y: Tensor
    scale: float
    regularizers: tuple[Regularizer, ...]
    lam: float

    @property
    def objective(self) -> str:
        """What is minimised, in words and numbers."""
        names = " + ".join({"tv": "TV(x)", "wavelet": "||W x||_1"}[part.name] for part in self.regularizers)
        return f"1/2 ||A x - y||^2 / {self.scale:.6g}^2 + {self.lam:.4g} ({names})"

    def over(self, x: Tensor) -> str:
        """Over which images the bound of :meth:`certify` holds."""
        return "all images"

    def value(self, x: Tensor) -> float:
        """Return the objective."""
        return self._value(x, self.residual(x))

    def penalty(self, x: Tensor) -> float:
        """Return ``sum_i R_i(x)``."""
        return sum(float(part.lengths(part.K(x)).sum()) for part in self.regularizers)

    def residual(self, x: Tensor) -> Tensor:
        """Return ``(A x - y) / s``."""
        return (self.operator.A(x) - self.y) / self.scale

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A* A x``."""
        return normal(self.operator, x)

    def certify(self, x: Tensor, dual: Sequence[Tensor]) -> Certificate:
        """Return the objective and a lower bound on the optimum, from an image and any dual variables.

        ``p`` is the residual, made orthogonal to what no regulariser sees; one of the q is moved to the next point
        that fulfils the equation, and all are scaled until none is too long: whatever is handed in, the bound holds.
        """
        residual = self.residual(x)
        primal = self._value(x, residual)
        p, q = self._seen(residual, x), list(dual)
        missing = -self.operator.A_adjoint(p) / self.scale
        for part, values in zip(self.regularizers[:-1], q, strict=False):
            missing = missing - part.K_adjoint(values)
        last = self.regularizers[-1].preimage(missing, q[-1])
        if last is None:
            return Certificate(primal=primal, dual=0.0)
        q[-1] = last
        longest = max(float(part.lengths(values).max()) for part, values in zip(self.regularizers, q, strict=True))
        most = self.lam / longest if longest > 0.0 else math.inf
        energy = float(p.abs().square().sum())
        inner = real_inner(p, self.y) / self.scale
        best = min(max(-inner / energy, 0.0), most) if energy > 0.0 else 0.0
        # What is left of the equation by rounding, times the size of the image that could exploit it, is far below.
        return Certificate(primal=primal, dual=max(-0.5 * best**2 * energy - best * inner, 0.0))

    def _value(self, x: Tensor, residual: Tensor) -> float:
        return 0.5 * float(residual.abs().square().sum()) + self.lam * self.penalty(x)

    def _seen(self, p: Tensor, x: Tensor) -> Tensor:
        """Return the residual p without its part along the measurements of a constant, which the variation ignores."""
        if not all(isinstance(part, TotalVariation) for part in self.regularizers):
            return p
        flat = self.operator.A(torch.ones_like(x)) / self.scale
        energy = float(flat.abs().square().sum())
        return p if energy == 0.0 else p - flat * (torch.vdot(flat.flatten(), p.flatten()) / energy)


def back(parts: Sequence[Regularizer], q: Sequence[Tensor]) -> Tensor:
    """Return ``sum_i K_i* q_i``."""
    first, *others = (part.K_adjoint(values) for part, values in zip(parts, q, strict=True))
    for other in others:
        first = first + other
    return first


def real_inner(one: Tensor, other: Tensor) -> float:
    """Return the real part of the inner product."""
    return float(torch.vdot(one.flatten(), other.flatten()).real)
