"""Perturbations of measurements: confined to what was sampled and to the data's field, of a size in a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Ball", "Samples", "norm_of", "pack"]

BallName = Literal["l2", "linf"]


def pack(values: Tensor) -> Tensor:
    """Return a tensor as a real vector: a complex number is two real ones."""
    return (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).reshape(-1)


def norm_of(values: Tensor) -> float:
    """Return the Euclidean norm."""
    return float(torch.linalg.vector_norm(values))


@dataclass(frozen=True)
class Samples:
    """The measurements that were taken: of the shape and dtype of ``like``, zero off the mask.

    Attributes
    ----------
    count : int
        Numbers measured, complex ones counted once.
    dimension : int
        Dimension of the space of perturbations over the reals.
    """

    like: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, operator: Any, y: Tensor) -> Samples:
        """Return those of an operator; one without a mask has measured everything."""
        mask = getattr(operator, "mask", None)
        return cls(y, None if mask is None else torch.as_tensor(mask).bool().to(y.device))

    @property
    def count(self) -> int:
        """Numbers measured."""
        return self.like.numel() if self.mask is None else int(self.mask.expand(self.like.shape).sum())

    @property
    def dimension(self) -> int:
        """Real numbers measured."""
        return self.count * (2 if self.like.is_complex() else 1)

    def restrict(self, values: Tensor) -> Tensor:
        """Return the values where something was sampled, zero elsewhere."""
        return values if self.mask is None else values * self.mask

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return standard normal noise; a complex number has mean squared modulus 1."""
        return self.restrict(torch.randn(self.like.shape, generator=generator, dtype=self.like.dtype))

    def unpack(self, vector: Tensor) -> Tensor:
        """Return the measurements that :func:`pack` made a vector of."""
        if not self.like.is_complex():
            return vector.reshape(self.like.shape)
        return torch.view_as_complex(vector.reshape(*self.like.shape, 2))


@dataclass(frozen=True)
class Ball:
    """Perturbations e with ``||e||_2 <= radius``, or with no entry of modulus above it."""

    name: BallName
    radius: float

    def furthest(self, gradient: Tensor, otherwise: Tensor) -> Tensor:
        """Return the e of the ball with the largest ``Re <gradient, e>``; ``otherwise`` where the gradient is zero."""
        if self.name == "l2":
            size = norm_of(gradient)
            return gradient * (self.radius / size) if size > 0.0 else otherwise
        modulus = gradient.abs()
        return torch.where(modulus > 0.0, gradient / modulus.clamp_min(1e-300) * self.radius, otherwise)

    def draw(self, samples: Samples, generator: torch.Generator) -> Tensor:
        """Return a random e of the ball's boundary: a direction, or signs (phases) of all samples."""
        return self.furthest(samples.draw(generator), torch.zeros_like(samples.like))

    @classmethod
    def both(cls, size: float, samples: Samples) -> tuple[Ball, Ball]:
        """Return the l2 ball of a radius, and the l_inf ball whose corners are as far from its middle."""
        return cls("l2", size), cls("linf", size / math.sqrt(samples.count))
