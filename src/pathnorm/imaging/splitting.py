"""Alternating directions: for operators whose singular values lie far apart, as in tomography and deblurring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pathnorm.imaging.operators import Operator
from pathnorm.imaging.problem import SparseProblem, back, real_inner
from pathnorm.imaging.regularizers import TotalVariation

__all__ = ["splitting", "spread"]

# Steps of conjugate gradients, how far each solve goes, and how far the update overshoots.
_MOST, _ENOUGH, _FIRST, _OVER = 10, 0.1, 1e-2, 1.6
# The weight of the split: its start in units of lam over the image, when it is looked at, how far it moves.
_START, _LOOK, _BALANCE, _MOVE = 50.0, frozenset({20, 40, 80, 160, 320}), 3.0, 3.0


def splitting(problem: SparseProblem, x: Tensor, dual: Sequence[Tensor]) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Yield images and dual variables, step by step.

    ``z_i = K_i x`` are variables of their own [Goldstein, Osher 2009; Boyd et al. 2011]. The image is found by
    conjugate gradients under a circular preconditioner, the z by shortening; the weight rho of the split follows the
    two residuals, for some steps only, so that convergence is kept.
    """
    parts, square = problem.regularizers, problem.scale**2
    seen = problem.operator.A_adjoint(problem.y) / square
    rho = _START * problem.lam / float(seen.abs().max())
    symbol = response(problem.operator, x) / square
    solver = _Normal(problem, rho, symbol)
    q = list(dual)
    z, step = [part.K(x) for part in parts], 0
    while True:
        step += 1
        right = seen + back(parts, [rho * split - held for split, held in zip(z, q, strict=True)])
        x = solver.solve(right, x, accuracy=_FIRST if step == 1 else _ENOUGH)
        kx, last = [part.K(x) for part in parts], z
        # The sum is split where its length passes lam / rho: the short part is q / rho, what is left is z.
        sums = [_OVER * new + (1.0 - _OVER) * old + held / rho for new, old, held in zip(kx, z, q, strict=True)]
        z = [
            total * (1.0 - problem.lam / rho / part.lengths(total).clamp_min(1e-300)).clamp_min(0.0)
            for total, part in zip(sums, parts, strict=True)
        ]
        q = [rho * (total - split) for total, split in zip(sums, z, strict=True)]
        if step in _LOOK:
            primal = _size([new - split for new, split in zip(kx, z, strict=True)]) / max(_size(kx), 1e-300)
            moved = rho * back(parts, [split - old for split, old in zip(z, last, strict=True)])
            turned = float(moved.norm()) / max(float(back(parts, q).norm()), 1e-300)
            factor = math.sqrt(_BALANCE * primal / max(turned, 1e-300))
            rho *= min(max(factor, 1.0 / _MOVE), _MOVE)
            solver = _Normal(problem, rho, symbol)
        yield x, q


class _Normal:
    """``A* A / s^2 + rho sum_i K_i* K_i`` and how to divide by it."""

    def __init__(self, problem: SparseProblem, rho: float, seen: Tensor) -> None:
        self.problem, self.rho = problem, rho
        shape = (int(seen.shape[0]), int(seen.shape[1]))
        differences = sum(
            _laplacian(shape) if isinstance(part, TotalVariation) else torch.ones(shape, dtype=torch.float64)
            for part in problem.regularizers
        )
        symbol = seen + rho * differences
        # Where the response of one pixel says nothing, it must not be trusted to be zero.
        self.symbol = symbol.clamp_min(1e-3 * float(symbol.mean()))

    def __call__(self, x: Tensor) -> Tensor:
        parts = self.problem.regularizers
        smooth = back(parts, [part.K(x) for part in parts])
        return self.problem.normal(x) / self.problem.scale**2 + self.rho * smooth

    def solve(self, right: Tensor, x: Tensor, *, accuracy: float) -> Tensor:
        """Improve x until the residual is ``accuracy`` of what it was."""
        residual = right - self(x)
        enough = accuracy * float(residual.norm())
        if enough == 0.0:
            return x
        near = self._divide(residual)
        direction, energy = near, real_inner(residual, near)
        for _ in range(_MOST):
            image = self(direction)
            length = energy / real_inner(direction, image)
            x, residual = x + length * direction, residual - length * image
            if float(residual.norm()) <= enough:
                break
            near = self._divide(residual)
            last, energy = energy, real_inner(residual, near)
            direction = near + energy / last * direction
        return x

    def _divide(self, residual: Tensor) -> Tensor:
        found: Tensor = torch.fft.ifft2(torch.fft.fft2(residual) / self.symbol)
        return found if residual.is_complex() else found.real


def spread(operator: Operator, example: Tensor) -> float:
    """Return the largest over the mean of the operator's response to frequencies: 1 if all are seen alike."""
    found = response(operator, example)
    return float(found.max() / found.mean())


def response(operator: Operator, example: Tensor) -> Tensor:
    """Return the Fourier transform (H, W) of ``A* A`` of one pixel in the middle: exact if A* A is a convolution."""
    pixel = torch.zeros_like(example)
    pixel[example.shape[0] // 2, example.shape[1] // 2] = 1.0
    seen = operator.A_adjoint(operator.A(pixel))
    found: Tensor = torch.fft.fft2(torch.fft.ifftshift(seen)).real.clamp_min(0.0)
    return found


def _laplacian(shape: tuple[int, int]) -> Tensor:
    """What differences with circular borders do to frequencies."""
    rows, columns = (2.0 - 2.0 * np.cos(2.0 * np.pi * np.arange(size) / size) for size in shape)
    return torch.from_numpy(rows[:, None] + columns)


def _size(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(part.norm()) ** 2 for part in parts))
