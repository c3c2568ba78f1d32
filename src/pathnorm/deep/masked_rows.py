"""Ridge least squares in which every output row has its own support."""

from __future__ import annotations

import torch
from torch import Tensor

from pathnorm.deep.moments import Moments

__all__ = ["energy", "fitted_intercept", "missed", "refit_rows"]

_CHUNK_BYTES = 256 * 2**20


def refit_rows(gram: Tensor, cross: Tensor, start: Tensor, support: Tensor, *, ridge: float) -> Tensor | None:
    """Return output weights V that minimise ``1/2 ||Psi - Phi V||^2 + rho/2 ||V - V_0||^2`` over a sparsity pattern.

    Column d of V, the weights of output d, is zero outside ``support[d]``; the columns do not depend on each
    other. Those with equal supports share one Cholesky factor, those with different supports are solved in
    batches.

    Parameters
    ----------
    gram : torch.Tensor, shape (P, P)
    cross : torch.Tensor, shape (P, D)
    start : torch.Tensor, shape (P, D)
        V_0, zero outside the supports.
    support : torch.Tensor of bool, shape (D, P)
    ridge : float
        rho, relative to the mean diagonal of the Gram matrix.

    Returns
    -------
    torch.Tensor, shape (P, D), or None
        None if a Cholesky factor does not exist, i.e. the ridge is too small for the rounding of the moments.
    """
    coef = start.clone()
    scale = float(gram.diagonal().mean()) if gram.shape[0] else 0.0
    if not scale > 0.0:
        return coef
    slope = cross - gram @ start
    patterns, which, counts = torch.unique(support, dim=0, return_inverse=True, return_counts=True)
    alone: list[int] = []
    for index in range(patterns.shape[0]):
        outputs, active = (which == index).nonzero().flatten(), patterns[index].nonzero().flatten()
        if active.numel() == 0:
            continue
        if int(counts[index]) == 1:
            alone.append(int(outputs[0]))
            continue
        system = gram[active][:, active].clone()
        system.diagonal().add_(ridge * scale)
        factor, failed = torch.linalg.cholesky_ex(system)
        if int(failed) != 0:
            return None
        block = (active[:, None], outputs[None, :])
        coef[block] += torch.cholesky_solve(slope[block], factor)
    alone.sort(key=lambda output: -int(support[output].sum()))
    return _alone(gram, slope, (coef, support), alone, ridge * scale)


def _alone(gram: Tensor, slope: Tensor, target: tuple[Tensor, Tensor], outputs: list[int], rho: float) -> Tensor | None:
    """Add the steps of outputs whose support nobody shares, the largest first, padded and solved in batches."""
    coef, support = target
    at = 0
    while at < len(outputs):
        size = int(support[outputs[at]].sum())
        count = max(1, _CHUNK_BYTES // (8 * size * size))
        batch = torch.tensor(outputs[at : at + count], device=gram.device)
        at += count
        # Active columns first, in order; what is left over pads the smaller systems with the identity.
        columns = torch.argsort((~support[batch]).to(torch.uint8), dim=1, stable=True)[:, :size]
        padding = ~support[batch].gather(1, columns)
        systems = gram[columns[:, :, None], columns[:, None, :]]
        systems.masked_fill_(padding[:, :, None] | padding[:, None, :], 0.0)
        systems.diagonal(dim1=1, dim2=2).add_(padding.to(gram.dtype) * (1.0 - rho) + rho)
        wanted = slope[columns, batch[:, None]].masked_fill(padding, 0.0)
        factors, failed = torch.linalg.cholesky_ex(systems)
        if bool(failed.any()):
            return None
        steps = torch.cholesky_solve(wanted[:, :, None], factors)[:, :, 0]
        coef[columns, batch[:, None]] += steps.masked_fill(padding, 0.0)
    return coef


def fitted_intercept(sums: Moments, coef: Tensor) -> Tensor:
    """Return the constants (D,) that make the mean residual zero."""
    result: Tensor = (sums.targets - coef.T @ sums.features) / sums.count.clamp_min(1.0)
    return result


def missed(sums: Moments, coef: Tensor, intercept: Tensor) -> float:
    """Return ``||Psi - Phi V - 1 b'||_F^2`` from moments with the diagonal of ``outer`` alone."""
    plain = sums.outer.sum() - 2.0 * (coef * sums.cross).sum() + (coef * (sums.gram @ coef)).sum()
    shift = sums.count[0] * intercept.square().sum() - 2.0 * intercept @ (sums.targets - coef.T @ sums.features)
    return max(float(plain + shift), 0.0)


def energy(sums: Moments, *, intercept: bool) -> float:
    """Return ``||Psi||_F^2``, of the deviations from the mean if there is an ``intercept``; as in :func:`missed`."""
    return max(float(sums.central(intercept=intercept)[2].sum()), 0.0)
