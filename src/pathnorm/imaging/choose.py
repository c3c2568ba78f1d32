"""The weight of the regulariser from the measurements alone: discrepancy, or Stein's unbiased risk estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pathnorm.imaging.operators import Operator, draw_like

if TYPE_CHECKING:
    from pathnorm.imaging.sparse import Reconstruction

__all__ = ["choose"]

RULES = ("discrepancy", "sure")
_BISECTIONS, _GRID = 10, 9

# Solve for measurements and a lam, near another solution.
Solve = Callable[[Tensor, float, "Reconstruction | None"], "Reconstruction"]


def choose(
    solve: Solve,
    operator: Operator,
    y: Tensor,
    *,
    rule: str,
    noise: float | None,
    scale: float,
    seed: int,
) -> Reconstruction:
    """Return the solution for the lam that a rule chooses.

    ``"discrepancy"`` [Morozov 1966]: the largest lam with ``||A x - y||^2 <= m noise^2``, m the number of measurements.
    ``"sure"`` [Stein 1981; Ramani, Blu, Unser 2008]: the least ``||A x - y||^2 - m noise^2 + 2 noise^2 div``, with the
    divergence of ``y -> A x(y)`` from one random probe, over a grid of lam.

    Raises
    ------
    ValueError
        If the rule is unknown, ``noise`` is not positive, or no lam fits the noise.
    """
    if rule not in RULES:
        raise ValueError(f"lam must be a positive number or one of {', '.join(RULES)}. Got {rule!r}.")
    if noise is None or not (math.isfinite(noise) and noise > 0.0):
        raise ValueError(
            f"To choose lam, the standard deviation of the noise must be given as noise=. Got {noise}. "
            "Give a number for lam if it is not known."
        )
    mask = getattr(operator, "mask", None)
    sampled = y.numel() if mask is None else int(mask.sum()) * (y.numel() // mask.numel())
    # Beyond this the image is about constant: lam has its unit.
    top = float(operator.A_adjoint(y).abs().max()) / scale**2
    if rule == "discrepancy":
        return _discrepancy(solve, y, allowed=math.sqrt(sampled) * noise, top=top)
    return _least_risk(solve, operator, y, noise=noise, sampled=sampled, top=top, seed=seed)


def _discrepancy(solve: Solve, y: Tensor, *, allowed: float, top: float) -> Reconstruction:
    """Bisect on a logarithmic scale; the misfit rises with lam."""
    high = solve(y, top, None)
    if high.misfit <= allowed:
        return high
    low = solve(y, 1e-6 * top, high)
    if low.misfit > allowed:
        raise ValueError(
            f"The noise must be at least as large as what no image can fit. Its size is {allowed:.4g}, the least "
            f"misfit reached {low.misfit:.4g}: noise= is too small, or the operator is not that of the measurements."
        )
    ends = math.log(low.lam), math.log(high.lam)
    for _ in range(_BISECTIONS):
        middle = solve(y, math.exp(0.5 * sum(ends)), low)
        if middle.misfit <= allowed:
            low, ends = middle, (math.log(middle.lam), ends[1])
        else:
            ends = ends[0], math.log(middle.lam)
    return low


def _least_risk(
    solve: Solve, operator: Operator, y: Tensor, *, noise: float, sampled: int, top: float, seed: int
) -> Reconstruction:
    probe = draw_like(y, torch.Generator().manual_seed(seed))
    mask = getattr(operator, "mask", None)
    probe = probe if mask is None else probe * mask
    # Large enough to stand above the tolerance of the solver, small against the noise.
    size = 0.3 * noise
    best: Reconstruction | None = None
    least, near, moved = math.inf, None, None
    for step in range(_GRID):
        lam = top * 10.0 ** (-0.5 * step - 0.5)
        near = solve(y, lam, near)
        moved = solve(y + size * probe, lam, moved or near)
        change = operator.A(moved.image - near.image)
        # A complex number counts as two real ones, with half of the variance each: the factors cancel.
        divergence = float(torch.vdot(probe.flatten(), change.flatten()).real) / size
        risk = near.misfit**2 - sampled * noise**2 + 2.0 * noise**2 * divergence
        if risk < least:
            best, least = near, risk
    assert best is not None
    return best
