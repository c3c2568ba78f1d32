"""Accelerated proximal gradient steps: fast where the operator's singular values are alike, as in MRI."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from pathnorm.imaging.problem import SparseProblem, back, real_inner
from pathnorm.imaging.regularizers import Regularizer, Wavelet

__all__ = ["grown", "proximal_gradient"]

_INNER = 8


def proximal_gradient(
    problem: SparseProblem, x: Tensor, dual: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Yield images and dual variables, step by step.

    Momentum that restarts where it points uphill [Beck, Teboulle 2009; O'Donoghue, Candes 2015]. The proximal map is
    found from its dual, which starts where the last step ended.
    """
    parts, square = problem.regularizers, problem.scale**2
    seen = problem.operator.A_adjoint(problem.y)
    q, point, momentum = list(dual), x, 1.0
    while True:
        moved = point - (problem.normal(point) - seen) / square
        new, q = _proximal(moved, parts, q, problem.lam)
        following = grown(momentum)
        if real_inner(point - new, new - x) > 0.0:  # momentum points uphill
            point, following = new, 1.0
        else:
            point = new + (momentum - 1.0) / following * (new - x)
        x, momentum = new, following
        yield x, q


def _proximal(
    image: Tensor, parts: Sequence[Regularizer], q: Sequence[Tensor], lam: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the minimiser of ``1/2 ||x - image||^2 + lam R(x)`` and its dual variables, near where they were."""
    step = 1.0 / sum(part.norm_squared for part in parts)
    exact = len(parts) == 1 and isinstance(parts[0], Wavelet)
    ahead, momentum = list(q), 1.0
    for _ in range(1 if exact else _INNER):
        found = image - back(parts, ahead)
        moved = [_clip(values + step * part.K(found), part, lam) for part, values in zip(parts, ahead, strict=True)]
        following = grown(momentum)
        ahead = [new + (momentum - 1.0) / following * (new - old) for old, new in zip(q, moved, strict=True)]
        q, momentum = moved, following
    return image - back(parts, q), list(q)


def _clip(q: Tensor, part: Regularizer, lam: float) -> Tensor:
    """Shorten what is longer than lam."""
    return q / (part.lengths(q) / lam).clamp_min(1.0)


def grown(momentum: float) -> float:
    """Nesterov's sequence."""
    return 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum**2))
