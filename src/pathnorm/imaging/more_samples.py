"""Operators that measure what another one does, and more."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pathnorm.imaging.operators import FourierMRI, Operator
from pathnorm.imaging.radon import Radon

__all__ = ["require_more", "richer"]

_SHARES = (1.25, 1.5, 2.0)


def richer(operator: Operator, *, shares: tuple[float, ...] = _SHARES, seed: int = 0) -> tuple[Operator, ...]:
    """Return operators with more samples, each with all of the one before; none if it is not known how.

    k-space gets more columns where whole columns were sampled (rows likewise), else more points, at random; a scan gets
    more views, in the middle of the widest gaps between its angles.
    """
    rng = np.random.default_rng(seed)
    if isinstance(operator, FourierMRI):
        return _more_kspace(operator, shares, rng)
    if isinstance(operator, Radon):
        return tuple(_more_views(operator, share) for share in shares)
    return ()


def require_more(operators: tuple[Operator, ...]) -> None:
    """Raise ValueError unless every mask has the samples of the one before."""
    masks = [getattr(operator, "mask", None) for operator in operators]
    for place in range(1, len(masks)):
        before, after = masks[place - 1], masks[place]
        if before is not None and after is not None and bool((before & ~after).any()):
            raise ValueError(
                f"The operators of a sweep must have all samples of the one before. Number {place} leaves "
                f"{int((before & ~after).sum())} out. Order them by their samples, each a superset."
            )


def _more_kspace(operator: FourierMRI, shares: tuple[float, ...], rng: np.random.Generator) -> tuple[Operator, ...]:
    mask = operator.mask
    lines = mask if bool((mask == mask[:1]).all()) else mask.T if bool((mask == mask[:, :1]).all()) else None
    order = torch.from_numpy(rng.permutation(mask.numel() if lines is None else lines.shape[1]))
    taken = mask.flatten() if lines is None else lines[0]
    free = order[~taken[order]]
    found: list[Operator] = []
    for share in shares:
        new = min(round(share * int(taken.sum())) - int(taken.sum()), len(free))
        if new < 1:
            continue
        more = taken.clone()
        more[free[:new]] = True
        found.append(FourierMRI(_shaped(more, mask, lines), operator.coils))
        if new == len(free):
            break
    return tuple(found)


def _shaped(taken: Tensor, mask: Tensor, lines: Tensor | None) -> Tensor:
    if lines is None:
        return taken.reshape(mask.shape)
    full = taken.expand(lines.shape)
    return full if lines is mask else full.T


def _more_views(operator: Radon, share: float) -> Operator:
    """Views repeat after half a turn, up to the direction of the detector."""
    angles = list(operator.angles)
    for _ in range(max(1, round((share - 1.0) * len(operator.angles)))):
        turned = np.sort(np.mod(angles, np.pi))
        gaps = np.diff(turned, append=turned[0] + np.pi)
        widest = int(np.argmax(gaps))
        angles.append(float(turned[widest] + 0.5 * gaps[widest]))
    return Radon(
        operator.image_shape,
        np.array(angles),
        detectors=operator.data_shape[1],
        spacing=operator.spacing,
        centre=operator.centre,
    )
