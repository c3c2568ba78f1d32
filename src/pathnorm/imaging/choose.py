"""The weight of the regulariser from the measurements alone: discrepancy, or Stein's unbiased risk estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pathnorm.imaging.operators import Operator, draw_like
from pathnorm.imaging.perturbations import Samples

if TYPE_CHECKING:
    from pathnorm.imaging.sparse import Reconstruction

__all__ = ["choose"]

_RULES = ("discrepancy", "sure")
_BISECTIONS, _GRID = 6, 9
_FIRST, _LEAST = 1e-3, 1e-7

# Solve for measurements and a lam, near another solution; loosely while a lam is looked for.
Solve = Callable[[Tensor, float, "Reconstruction | None", bool], "Reconstruction"]


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
    if rule not in _RULES:
        raise ValueError(f"lam must be a positive number or one of {', '.join(_RULES)}. Got {rule!r}.")
    if noise is None or not (math.isfinite(noise) and noise > 0.0):
        raise ValueError(
            f"To choose lam, the standard deviation of the noise must be given as noise=. Got {noise}. "
            "Give a number for lam if it is not known."
        )
    sampled = Samples.of(operator, y).count
    # Beyond this the image is about constant: lam has its unit.
    top = float(operator.A_adjoint(y).abs().max()) / scale**2
    if rule == "discrepancy":
        return _discrepancy(solve, y, allowed=math.sqrt(sampled) * noise, top=top)
    return _least_risk(solve, operator, y, noise=noise, sampled=sampled, top=top, seed=seed)


def _discrepancy(solve: Solve, y: Tensor, *, allowed: float, top: float) -> Reconstruction:
    """Search on a logarithmic scale; the misfit rises with lam."""
    near = solve(y, _FIRST * top, None, True)
    fits = near.misfit <= allowed
    factor = 3.0 if fits else 1.0 / 3.0
    while (near.misfit <= allowed) == fits:
        if fits and near.lam >= top:
            return solve(y, near.lam, near, False)
        if near.lam < _LEAST * top:
            raise ValueError(
                f"The noise must be at least as large as what no image can fit. Its size is {allowed:.4g}, the least "
                f"misfit reached {near.misfit:.4g}: noise= is too small, or the operator is not the scan's."
            )
        last, near = near, solve(y, factor * near.lam, near, True)
    low, high = sorted((math.log(last.lam), math.log(near.lam)))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        near = solve(y, math.exp(middle), near, True)
        low, high = (middle, high) if near.misfit <= allowed else (low, middle)
    found = solve(y, math.exp(low), near, False)
    # What was solved loosely may miss by a little.
    for _ in range(_BISECTIONS):
        if found.misfit <= allowed:
            break
        found = solve(y, 0.98 * found.lam, found, False)
    return found


def _least_risk(
    solve: Solve, operator: Operator, y: Tensor, *, noise: float, sampled: int, top: float, seed: int
) -> Reconstruction:
    probe = draw_like(y, torch.Generator().manual_seed(seed))
    probe = Samples.of(operator, y).restrict(probe)
    # Large enough to stand above the tolerance of the solver, small against the noise.
    size = 0.3 * noise
    best: Reconstruction | None = None
    least, near, moved = math.inf, None, None
    for step in range(_GRID):
        lam = top * 10.0 ** (-0.5 * step - 0.5)
        near = solve(y, lam, near, False)
        moved = solve(y + size * probe, lam, moved or near, False)
        change = operator.A(moved.image - near.image)
        # A complex number counts as two real ones, with half of the variance each: the factors cancel.
        divergence = float(torch.vdot(probe.flatten(), change.flatten()).real) / size
        risk = near.misfit**2 - sampled * noise**2 + 2.0 * noise**2 * divergence
        if risk < least:
            best, least = near, risk
    assert best is not None
    return best
