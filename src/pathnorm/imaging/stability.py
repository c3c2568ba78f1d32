"""How far a reconstruction moves when its measurements do: random perturbations, and the worst that are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pathnorm.imaging.perturbations import Ball, Samples, norm_of, pack
from pathnorm.imaging.reconstructors import Checked

__all__ = ["Attack", "Explored", "Local", "explore", "linearity", "random_amplifications", "worst"]

_SETTLED, _WINDOW = 1e-4, 5
_NEW = 1e-7


@dataclass(frozen=True)
class Local:
    """A reconstructor around one set of measurements y: how its image changes with a perturbation of y.

    Attributes
    ----------
    base : Tensor of shape (H, W)
        The image of y.
    again : callable
        The operator's ``A``: what a change of the image looks like as measurements. It only proposes directions.
    differentiable, linear : bool
        Whether torch gives gradients, and whether changes are linear in the perturbation.
    """

    model: Checked
    y: Tensor
    base: Tensor
    samples: Samples
    again: Callable[[Tensor], Tensor]
    differentiable: bool
    linear: bool

    def change(self, e: Tensor) -> Tensor:
        """Return ``R(y + e) - R(y)``."""
        return self.model(self.y + e) - self.base

    def climb(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change and the gradient of half its squared norm by e."""
        image, gradient = self.model.pull(self.y + e, lambda found: found - self.base)
        return image - self.base, self.samples.restrict(gradient)


@dataclass(frozen=True)
class Attack:
    """A perturbation, and the change of the image that was observed under it.

    ``amplification`` is ``||R(y + e) - R(y)|| / ||e||`` in Euclidean norms: it was attained, the supremum is at least
    that.
    """

    perturbation: Tensor
    change: Tensor

    @property
    def amplification(self) -> float:
        """Ratio of the norms."""
        return norm_of(self.change) / norm_of(self.perturbation)


@dataclass(frozen=True)
class Explored:
    """Orthonormal directions (k, m) that were tried and the changes (k, n) per unit along each, as real vectors."""

    directions: Tensor
    changes: Tensor

    def new_part(self, e: Tensor) -> Tensor | None:
        """Return the unit vector along the part of e that no direction covers; None if there is next to none."""
        vector = pack(e)
        size = norm_of(vector)
        for _ in range(2):
            vector = vector - self.directions.T @ (self.directions @ vector)
        left = norm_of(vector)
        return vector / left if left > _NEW * size else None

    def with_one(self, direction: Tensor, change: Tensor) -> Explored:
        """Return what is known after one more."""
        return Explored(torch.cat([self.directions, direction[None]]), torch.cat([self.changes, change[None]]))

    def top(self) -> tuple[Tensor, Tensor]:
        """Return the unit combination of directions with the largest change, were it linear, and that change."""
        weights = torch.linalg.eigh(self.changes @ self.changes.T).eigenvectors[:, -1]
        return weights @ self.directions, weights @ self.changes

    def gradient(self, change: Tensor) -> Tensor:
        """Return the gradient of ``<change, R(y + e)>`` within the span of the directions."""
        return self.directions.T @ (self.changes @ pack(change))


def linearity(local: Local, radius: float, generator: torch.Generator) -> float:
    """Return how far changes are from additive and homogeneous, relative to their size, on one random triple."""
    ball = Ball("l2", radius)
    one, other = ball.draw(local.samples, generator), ball.draw(local.samples, generator)
    together = local.change(one - 2.0 * other)
    apart = local.change(one) - 2.0 * local.change(other)
    size = max(norm_of(together), norm_of(apart))
    return norm_of(together - apart) / size if size > 0.0 else 0.0


def random_amplifications(local: Local, ball: Ball, *, draws: int, seed: int) -> tuple[float, ...]:
    """Return the amplification of random perturbations from the ball's boundary: the control of an attack."""
    generator = torch.Generator().manual_seed(seed)
    tried = [ball.draw(local.samples, generator) for _ in range(draws)]
    return tuple(Attack(e, local.change(e)).amplification for e in tried)


def explore(local: Local, radius: float, *, steps: int, seed: int) -> tuple[Explored, Attack]:
    """Return the directions tried at a radius and the best perturbation of that l2 norm among their combinations.

    Rayleigh-Ritz over a growing subspace. Where torch gives gradients the next direction is the gradient at the best
    so far: for a linear R this is the Lanczos method for ``R* R`` and the value tends to its largest singular value.
    Where it does not, the next are what the best change looks like to the operator and a random one: without any
    adjoint of R, exact for a linear R once the space is exhausted, a lower bound before.
    """
    generator = torch.Generator().manual_seed(seed)
    known = Explored(local.y.new_zeros(0, pack(local.y).numel(), dtype=torch.float64), _no_rows(local.base))
    best: Attack | None = None
    values: list[float] = []
    fresh = [local.samples.draw(generator)]
    while len(known.directions) < min(steps, local.samples.dimension):
        before = len(known.directions)
        for e in fresh:
            direction = known.new_part(e)
            if direction is not None and len(known.directions) < steps:
                known = known.with_one(direction, pack(local.change(radius * local.samples.unpack(direction))) / radius)
        if len(known.directions) == before:
            break
        found, fresh = _next(local, known, radius, generator)
        if best is None or norm_of(found.change) > norm_of(best.change):
            best = found
        values.append(norm_of(best.change))
        if local.differentiable and len(values) > _WINDOW and values[-1] <= (1.0 + _SETTLED) * values[-1 - _WINDOW]:
            break
    assert best is not None
    # The changes of combinations were added up for a linear R; what is reported is observed.
    return known, Attack(best.perturbation, local.change(best.perturbation))


def worst(local: Local, ball: Ball, known: Explored, start: Tensor, *, steps: int, restarts: int, seed: int) -> Attack:
    """Return the perturbation of a ball with the largest change that ascent finds from a start and random restarts.

    Every step goes to the point of the ball that maximises the linearised change (the generalised power method
    [Journee, Nesterov, Richtarik, Sepulchre 2010]); a step that lowers the change is halved. Gradients are torch's, or
    those of the directions ``known``.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = [ball.furthest(start, start), *(ball.draw(local.samples, generator) for _ in range(restarts))]
    found = [_ascend(local, ball, known, e, steps) for e in starts]
    return max(found, key=lambda attack: norm_of(attack.change))


def _next(local: Local, known: Explored, radius: float, generator: torch.Generator) -> tuple[Attack, list[Tensor]]:
    """Return the best combination, and directions to try next."""
    direction, change = known.top()
    e = radius * local.samples.unpack(direction)
    if local.differentiable:
        moved, gradient = local.climb(e)
        return Attack(e, moved), [gradient]
    moved = radius * _image_of(change, local.base) if local.linear else local.change(e)
    seen = local.samples.restrict(local.again(moved)).to(local.y.dtype)
    return Attack(e, moved), [seen, local.samples.draw(generator)]


def _ascend(local: Local, ball: Ball, known: Explored, e: Tensor, steps: int) -> Attack:
    best: Attack | None = None
    target, failures = e, 0
    for _ in range(steps):
        if local.differentiable:
            change, gradient = local.climb(target)
        else:
            change = local.change(target)
            gradient = local.samples.unpack(known.gradient(change))
        if best is None or norm_of(change) > norm_of(best.change):
            grown = best is None or norm_of(change) > (1.0 + _SETTLED) * norm_of(best.change)
            best, failures = Attack(target, change), 0 if grown else failures + 1
            target = ball.furthest(gradient, target)
        else:
            failures += 1
            target = 0.5 * (best.perturbation + target)
            target = ball.furthest(target, target) if ball.name == "l2" else target
        if failures > 2:
            break
    assert best is not None
    return best


def _image_of(vector: Tensor, like: Tensor) -> Tensor:
    return torch.view_as_complex(vector.reshape(*like.shape, 2)) if like.is_complex() else vector.reshape(like.shape)


def _no_rows(image: Tensor) -> Tensor:
    return torch.zeros(0, pack(image).numel(), dtype=torch.float64)
