"""The part of an image that its measurements do not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pathnorm.imaging.operators import Operator
from pathnorm.imaging.perturbations import norm_of

__all__ = ["NullSpacePart", "null_space_part"]

_PROJECTION = 1e-10


@dataclass(frozen=True)
class NullSpacePart:
    """``P v = v - A^+ A v`` and how it was found.

    Attributes
    ----------
    image : Tensor of shape (H, W)
    iterations : int
        Steps of conjugate gradients; 0 where ``A* A`` is itself a projection, which gives the answer exactly.
    residual : float
        ``||A* A P v|| / ||A* A v||``: what the measurements still see of it.
    exact : bool
        Up to rounding.
    """

    image: Tensor
    iterations: int
    residual: float
    exact: bool


def null_space_part(operator: Operator, v: Tensor, *, tol: float = 1e-6, max_iter: int = 200) -> NullSpacePart:
    """Return the orthogonal projection of an image (H, W) on the null space of A.

    Conjugate gradients on ``A* A u = A* A v`` from zero stay in the range of A* and tend to ``u = A^+ A v``, the part
    of v that is seen [Hestenes, Stiefel 1952]. Stopped early, what is seen only weakly still counts as unseen.

    Parameters
    ----------
    tol : float
        Stops at a relative residual of the equation.
    """

    def normal(x: Tensor) -> Tensor:
        return operator.A_adjoint(operator.A(x)).to(v.dtype) if v.is_complex() else _real(operator, x)

    seen = normal(v)
    size = norm_of(seen)
    if size <= _PROJECTION * norm_of(v):
        return NullSpacePart(v.clone(), 0, 0.0, exact=True)
    if norm_of(normal(seen) - seen) <= _PROJECTION * size:
        return NullSpacePart(v - seen, 0, 0.0, exact=True)
    u, residual = torch.zeros_like(v), seen
    direction, energy = residual, size**2
    steps = 0
    while steps < max_iter and energy > (tol * size) ** 2:
        steps += 1
        ahead = normal(direction)
        length = energy / float(torch.vdot(direction.flatten(), ahead.flatten()).real)
        u, residual = u + length * direction, residual - length * ahead
        last, energy = energy, norm_of(residual) ** 2
        direction = residual + energy / last * direction
    left = v - u
    return NullSpacePart(left, steps, norm_of(normal(left)) / size, exact=False)


def _real(operator: Operator, x: Tensor) -> Tensor:
    found = operator.A_adjoint(operator.A(x))
    return found.real if found.is_complex() else found
