"""Training of a :class:`ConvexRidge` as a denoiser.

[GNBDU23] Goujon, Neumayer, Bohra, Ducotterd, Unser, "A neural-network-based convex regularizer for inverse problems",
IEEE Transactions on Computational Imaging 9, 2023. [GNU24] Goujon, Neumayer, Unser, "Learning weakly convex
regularizers for convergent image-reconstruction algorithms", SIAM Journal on Imaging Sciences 17, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging._ridge_push import curvature, push, retract
from pathnorm.imaging.ridge import TYPICAL, ConvexRidge

__all__ = ["RidgeTraining", "Schedule", "denoise", "train_ridge"]

_RATE, _RATE_SPLINE, _RATE_LAW, _WARM = 3e-3, 4e-3, 1e-2, 50
_FLOOR = 0.03  # of the error that is looked at, in units of that of the noise
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long is trained, and on what.

    Attributes
    ----------
    steps : int
        Steps of Adam.
    descents, solves : int
        Gradient steps of the denoiser, and steps of conjugate gradients for its derivatives. With too few of either,
        training learns to stop early, and the minimiser, which is another image, gets worse.
    batch, patch : int
        Number and width of the patches of one step.
    noise : (float, float)
        Standard deviations are drawn between these, uniformly on a logarithmic scale.
    """

    steps: int = 600
    descents: int = 60
    solves: int = 25
    batch: int = 8
    patch: int = 32
    noise: tuple[float, float] = (5.0 / 255.0, 30.0 / 255.0)

    def __post_init__(self) -> None:
        low, high = self.noise
        if min(self.steps, self.descents, self.solves, self.batch, self.patch) < 1 or not 0.0 < low <= high:
            raise ValueError(f"Numbers of a schedule must be at least 1, and 0 < noise[0] <= noise[1]. Got {self}.")


@dataclass(frozen=True)
class RidgeTraining:
    """A trained regulariser and how training went.

    Attributes
    ----------
    ridge : ConvexRidge
    losses : tuple of float
        Mean over 50 steps each of what was minimised.
    schedule : Schedule
    """

    ridge: ConvexRidge
    losses: tuple[float, ...]
    schedule: Schedule


def denoise(ridge: ConvexRidge, y: Tensor, noise: Tensor, *, steps: int, solves: int) -> Tensor:
    """Return the minimisers of ``1/2 ||x - y||^2 + lam R_mu(x)``, with derivatives in the parameters.

    Found by accelerated gradient steps from x = y. The derivatives are those of the minimiser, by the implicit function
    theorem: with ``v = (I + lam R'')^-1 w``, conjugate gradients, that of ``<w, x>`` is that of
    ``-<v, lam grad R_mu>`` at fixed x. No step has to be kept [GNU24].

    Parameters
    ----------
    y : Tensor of shape (N, H, W)
    noise : Tensor of shape (N,)
        Standard deviations; lam and mu of each image follow from ``ridge.law``.
    steps, solves : int
        Of gradient descent, and of conjugate gradients.
    """
    levels = torch.stack([torch.ones_like(noise), (noise / TYPICAL).log()])
    lam, mu = (ridge.law.to(y) @ levels).exp()
    parts = ridge.filters().to(y), ridge.rising().to(y), lam, mu
    found: Tensor = _Minimiser.apply(y, *parts, ridge.steepest, steps, solves)  # type: ignore[no-untyped-call]
    return found


class _Minimiser(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, *others: Any) -> Tensor:
        *parts, steepest, steps, solves = others
        filters, values, lam, mu = parts
        lam = lam[:, None, None]
        # At most 1 + lam mu max slope times the copies of a pixel is the second derivative, and 1 is strong convexity.
        width, bend = filters.shape[2], lam * mu[:, None, None] * steepest
        wide = y.new_ones(1, *(size + 2 * (width // 2) for size in y.shape[1:]))
        step, condition = 1.0 / (1.0 + bend * retract(wide, width)), 1.0 + bend
        momentum = (condition.sqrt() - 1.0) / (condition.sqrt() + 1.0)
        x = point = y
        for _ in range(steps):
            new = point - step * (point - y + lam * push(point, filters, values, mu))
            point, x = new + momentum * (new - x), new
        ctx.save_for_backward(x, *parts)
        ctx.solves = solves
        return x

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        x, *parts = ctx.saved_tensors
        filters, values, lam, mu = parts
        bend = curvature(x, filters, values, mu)
        v = _conjugate_gradients(lambda u: u + lam[:, None, None] * bend(u), given[0], ctx.solves)
        with torch.enable_grad():
            parts = [part.detach().requires_grad_() for part in parts]
            pushed = parts[2][:, None, None] * push(x, parts[0], parts[1], parts[3])
            return v, *torch.autograd.grad(pushed, parts, -v), None, None, None


def _conjugate_gradients(apply: Callable[[Tensor], Tensor], target: Tensor, steps: int) -> Tensor:
    """Solve ``apply(v) = target`` for every image on its own, from v = 0."""
    v, left = torch.zeros_like(target), target
    direction, size = left, _energy(left)
    for _ in range(steps):
        image = apply(direction)
        length = size / _energy(direction, image).clamp_min(torch.finfo(v.dtype).tiny)
        v, left = v + length * direction, left - length * image
        size, last = _energy(left), size
        direction = left + size / last.clamp_min(torch.finfo(v.dtype).tiny) * direction
    return v


def _energy(one: Tensor, other: Tensor | None = None) -> Tensor:
    return (one * (one if other is None else other)).sum((1, 2), keepdim=True)


def train_ridge(
    images: Sequence[Tensor],
    ridge: ConvexRidge | None = None,
    *,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RidgeTraining:
    """Minimise the mean of ``log(||x(y) - x||^2 / (noise^2 pixels) + 0.03)`` over patches x, their noisy y, and levels.

    The mean inside the logarithm is over the patches of one image at one noise level, as in its decibels: by the
    squared error rough texture would decide, by the decibels of single patches smooth regions would.

    x(y) is what accelerated gradient steps for denoising return [GNBDU23, Section IV], enough of them to be about the
    minimiser, whose derivatives are used [GNU24]: with few steps training learns to stop early, and the minimiser is
    another image. Adam; activations are seen through :meth:`ConvexRidge.rising`, so that R is convex all the way.
    Patches are turned and mirrored at random.

    Parameters
    ----------
    images : sequence of Tensor (H, W)
        Clean, between 0 and 1.
    ridge : ConvexRidge, optional
        Where to start; a copy is trained.

    Raises
    ------
    DataError
        If an image is not finite or not within [0, 1].
    ValueError
        If there is no image, or one is smaller than a patch.
    """
    plan = Schedule() if schedule is None else schedule
    pool = [_checked(image, plan.patch) for image in images]
    if not pool:
        raise ValueError("There must be images to train on. Got none.")
    found = ConvexRidge(seed=seed) if ridge is None else ridge.scaled(1.0)
    found.mu.fill_(1.0)
    rows = torch.Generator().manual_seed(seed)
    shares = torch.tensor([float(image.numel()) for image in pool])
    optimizer = torch.optim.Adam(
        [
            {"params": list(found.convolutions), "lr": _RATE},
            {"params": [found.spline.values], "lr": _RATE_SPLINE},
            {"params": [found.law], "lr": _RATE_LAW},
        ],
        betas=(0.9, 0.99),
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, plan.steps))
    losses: list[float] = []
    for step in range(plan.steps):
        clean = _patches(pool, shares, plan, rows)
        low, high = plan.noise
        levels = low * (high / low) ** torch.rand(1, generator=rows).expand(plan.batch)
        noisy = clean + levels[:, None, None] * torch.randn(clean.shape, generator=rows)
        error = (denoise(found, noisy, levels, steps=plan.descents, solves=plan.solves) - clean).square().mean((1, 2))
        loss = (error.mean() / levels[0] ** 2 + _FLOOR).log()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress("training", step + 1, plan.steps)
    kept = found.project_().for_noise(TYPICAL)[0]
    means = tuple(sum(losses[k : k + _WARM]) / len(losses[k : k + _WARM]) for k in range(0, plan.steps, _WARM))
    return RidgeTraining(kept.requires_grad_(False), means, plan)


def _rate(step: int, steps: int) -> float:
    """Up over the first steps, then half a cosine down."""
    return min(1.0, (step + 1) / _WARM) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _patches(pool: Sequence[Tensor], shares: Tensor, plan: Schedule, rows: torch.Generator) -> Tensor:
    """Draw patches (batch, patch, patch) of one image, turned and mirrored."""
    found, size = [], plan.patch
    image = pool[int(torch.multinomial(shares, 1, generator=rows))]
    for _ in range(plan.batch):
        top, left, turn = (
            int(torch.randint(most, (1,), generator=rows))
            for most in (image.shape[0] - size + 1, image.shape[1] - size + 1, 8)
        )
        part = image[top : top + size, left : left + size].rot90(turn % 4)
        found.append(part.flip(0) if turn >= 4 else part)
    return torch.stack(found)


def _checked(image: Tensor, patch: int) -> Tensor:
    if image.ndim != 2 or min(image.shape) < patch:
        raise ValueError(f"Images must have shape (H, W), both sizes at least {patch}. Got {tuple(image.shape)}.")
    if not bool(((image >= 0.0) & (image <= 1.0)).all()):
        raise DataError("Images must lie between 0 and 1. Got others, or NaN; divide by the value of white.")
    return image.float()
