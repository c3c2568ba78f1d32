"""Operator norms, from the Euclidean norm to the Euclidean norm, of the linear maps in a network.

The bounds hold up to and including the rounding of float64: every computed eigenvalue is raised by a bound on its
error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Geometry", "OperatorNorm", "convolution_norm", "linear_norm", "nonnegative_norm"]

# Kernel size, stride, padding, dilation, each with one entry per spatial axis; padding is that of the larger side.
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_EPS = 2.0**-52
_CHUNK_BYTES = 64 * 2**20
_WORK = 1e11  # floating-point operations for one convolution; some ten seconds on one core
_ROUNDING = 1.0 + 1e-12  # sums of few non-negative terms


@dataclass(frozen=True, slots=True)
class OperatorNorm:
    """An upper bound on an operator norm.

    Attributes
    ----------
    upper : float
    method : str
        How it was found.
    exact : bool
        Whether it is the norm itself, up to rounding.
    """

    upper: float
    method: str
    exact: bool


def linear_norm(weight: Tensor) -> float:
    """Return an upper bound on the largest singular value of a matrix, or of a stack (..., m, n) of them.

    It exceeds the largest singular value by rounding alone.
    """
    if weight.numel() == 0:
        return 0.0
    matrix = weight.detach().cpu().double()
    scale = float(matrix.abs().max())
    if scale == 0.0 or not math.isfinite(scale):
        return 0.0 if scale == 0.0 else math.inf
    return scale * _largest_singular_value(matrix / scale) * _ROUNDING


def convolution_norm(
    weight: Tensor,
    geometry: Geometry,
    *,
    size: Sequence[int],
    groups: int = 1,
    circular: bool = False,
    work: float = _WORK,
) -> OperatorNorm:
    """Return a bound on the norm of a convolution that acts on inputs of spatial ``size``.

    Padding with zeros makes the map a submatrix of the convolution on a torus of ``size + min(padding,
    dilation (kernel - 1))`` points per axis, rounded up to a multiple of the stride: positions beyond the input are
    zeros there too. Along an axis with one tap the torus is one stride long: nothing meets there. The Fourier
    transform splits that one into one matrix per frequency ``f``, of the kernel's
    transform at the frequencies that a stride maps to ``f``, so its norm is a maximum over finitely many matrices.

    Parameters
    ----------
    weight : torch.Tensor, shape (outputs, inputs / groups, *kernel)
        With one, two or three spatial axes.
    size : sequence of int
        Spatial size of the input, before any padding.
    circular : bool
        Pad by wrapping around, to as many outputs as inputs (before the stride). Then the torus is the map itself.
    work : float
        Floating-point operations that may be spent on the frequencies; beyond, and with three axes, only the norms
        of the reshaped kernel are used: ``||map|| <= sqrt(r) ||K||`` with ``K`` the kernel as a matrix of outputs
        and ``r`` the number of patches that an entry can be in, and likewise for the transposed map.
    """
    kernel = weight.detach().cpu().double()
    scale = float(kernel.abs().max()) if kernel.numel() else 0.0
    if scale == 0.0 or not math.isfinite(scale):
        return OperatorNorm(0.0 if scale == 0.0 else math.inf, "largest entry", scale == 0.0)
    kernel = (kernel / scale).reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    taps, stride, padding, dilation = geometry
    reshaped = scale * _reshaped_norm(kernel, geometry, circular=circular) * _ROUNDING
    cheap = OperatorNorm(reshaped, "reshaped kernel", False)
    if len(size) > 2:
        return cheap
    if len(size) == 1:
        kernel, size = kernel.unsqueeze(3), (1, *size)
        taps, stride, padding, dilation = (1, *taps), (1, *stride), (0, *padding), (1, *dilation)
    reach = [step * (count - 1) for step, count in zip(dilation, taps, strict=True)]
    if circular:
        divides = all(points % step == 0 for points, step in zip(size, stride, strict=True))
        torus, stride = tuple(size), stride if divides else (1, 1)
        exact = divides
    else:
        # A transform of one tap has the same modulus at all frequencies.
        least = [points + min(pad, far) if far else 1 for points, pad, far in zip(size, padding, reach, strict=True)]
        torus = tuple(-(-points // step) * step for points, step in zip(least, stride, strict=True))
        exact = all(count == 1 for count in taps) and not any(padding)
    if _work(kernel, torus, stride) > work:
        return cheap
    found = scale * _torus_norm(kernel, torus, stride=stride, dilation=dilation) * _ROUNDING
    if cheap.upper < found and not exact:
        return cheap
    return OperatorNorm(found, "every frequency" if exact else "every frequency of a torus", exact)


def _torus_norm(kernel: Tensor, torus: Sequence[int], *, stride: Sequence[int], dilation: Sequence[int]) -> float:
    """Return a bound on the norm on a torus whose sides are multiples of the stride; kernel (groups, out, in, a, b)."""
    groups, outputs, inputs, *taps = kernel.shape
    waves = [
        _waves(points, step, tap, far) for points, step, tap, far in zip(torus, stride, taps, dilation, strict=True)
    ]
    # The transform at -f is the complex conjugate of that at f: half of the last axis is enough.
    rows, columns = waves[0], waves[1][: torus[1] // stride[1] // 2 + 1]
    aliases = stride[0] * stride[1]
    flat = kernel.flatten(3).permute(3, 0, 1, 2).reshape(taps[0] * taps[1], -1)
    # Every entry of a transform is a sum over the taps, rounded, of products with two waves that are off by 12 eps.
    rounding = (taps[0] * taps[1] + 32) * _EPS * float(kernel.abs().sum((3, 4)).square().sum().sqrt())
    chunk = max(1, _CHUNK_BYTES // (16 * aliases * flat.shape[1] * columns.shape[0]))
    worst = 0.0
    for part in rows.split(chunk):
        wave = torch.einsum("fia,gjb->fgijab", part, columns).reshape(-1, aliases, flat.shape[0])
        transform = torch.complex(wave.real @ flat, wave.imag @ flat)
        matrices = transform.view(-1, aliases, groups, outputs, inputs).permute(0, 2, 3, 1, 4).flatten(3)
        worst = max(worst, _largest_singular_value(matrices))
    return (worst + math.sqrt(aliases) * rounding) / math.sqrt(aliases)


def _waves(points: int, stride: int, taps: int, dilation: int) -> Tensor:
    """Return ``exp(2 pi i f t dilation / points)`` as (frequencies of the output, aliases, taps)."""
    period = points // stride
    frequency = torch.arange(points).view(stride, period).T
    turns = (frequency[:, :, None] * (dilation * torch.arange(taps)) % points).double() / points
    return torch.polar(torch.ones_like(turns), 2.0 * math.pi * turns)


def _reshaped_norm(kernel: Tensor, geometry: Geometry, *, circular: bool) -> float:
    taps, stride, _, dilation = geometry
    # An entry meets tap t in at most one patch, and meets two taps only if their distance is a multiple of the stride.
    apart = [1 if circular else step // math.gcd(step, far) for step, far in zip(stride, dilation, strict=True)]
    patches = math.prod(-(-count // gap) for count, gap in zip(taps, apart, strict=True))
    by_patch = math.sqrt(patches) * _largest_singular_value(kernel.flatten(2))
    by_shift = math.sqrt(math.prod(taps)) * _largest_singular_value(kernel.transpose(1, 2).flatten(2))
    return min(by_patch, by_shift)


def _work(kernel: Tensor, torus: Sequence[int], stride: Sequence[int]) -> float:
    """Estimate the floating-point operations of the Gram matrices and their eigenvalues at all frequencies."""
    groups, outputs, inputs, *taps = kernel.shape
    frequencies = (torus[0] // stride[0]) * (torus[1] // stride[1] // 2 + 1)
    wide = inputs * stride[0] * stride[1]
    small, large = min(outputs, wide), max(outputs, wide)
    per_matrix = 8.0 * small**2 * large + 40.0 * small**3 + 4.0 * math.prod(taps) * outputs * wide
    return frequencies * groups * per_matrix


def _largest_singular_value(matrices: Tensor) -> float:
    """Bound the largest singular value of matrices (..., m, n) from above, by their Gram matrices."""
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    small, large = matrices.shape[-2:]
    gram = matrices @ matrices.mH
    traces = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    largest = traces if small == 1 else torch.linalg.eigvalsh(gram)[..., -1]
    # The product and the eigenvalues are off by no more than so many roundings of the trace.
    bound = largest + 8.0 * (small + large) * _EPS * traces
    return math.sqrt(max(float(bound.max()), 0.0))


def nonnegative_norm(apply: Callable[[Tensor], Tensor], shape: Sequence[int], *, steps: int = 20) -> float:
    """Return an upper bound on the norm of a differentiable linear map A whose matrix has no negative entries.

    For any positive q, ``||A||^2 <= max_i (A'A q)_i / q_i`` (Collatz, Wielandt). Power steps from q = 1 make it tight.
    """
    weights, best = torch.ones(tuple(shape), dtype=torch.float64), math.inf
    read: Tensor | None = None
    for _ in range(steps):
        with torch.enable_grad():
            point = weights.clone().requires_grad_(True)
            image = apply(point)
            (product,) = torch.autograd.grad(image, point, image.detach())
        if not bool(product.isfinite().all()):
            return math.inf
        read = product > 0.0 if read is None else read  # a column of zeros adds nothing
        if not bool(read.any()):
            return 0.0
        before, best = best, min(best, float((product[read] / weights[read]).max()))
        if best > before * (1.0 - 1e-9):
            break
        weights = product / product.max()
    return math.sqrt(best) * _ROUNDING
