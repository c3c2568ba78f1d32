"""``W* sigma(mu W x)`` and its derivative: whole windows, matrix products, and one pass over the activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

__all__ = ["curvature", "extend", "push", "retract"]


def push(x: Tensor, filters: Tensor, values: Tensor, mu: Tensor) -> Tensor:
    """Return ``E* W* sigma(mu W E x)`` for images x (N, H, W), with derivatives in all four arguments.

    E is :func:`extend`.

    filters (C, 1, s, s); values (C, K) at knots uniform on [-1, 1]; mu (N,).
    """
    width = filters.shape[2]
    found: Tensor = _Push.apply(extend(x, width), filters, values, mu)
    return retract(found, width)


def extend(x: Tensor, width: int) -> Tensor:
    """Return images (N, H, W) with ``width // 2`` pixels more on every side, mirrored at the outermost ones."""
    found: Tensor = F.pad(x[:, None], (width // 2,) * 4, mode="reflect")[:, 0]
    return found


def retract(x: Tensor, width: int) -> Tensor:
    """Return the adjoint of :func:`extend`; of ones it says how often a pixel was copied, and E* E multiplies by it."""
    margin = width // 2
    for dim in (1, 2):
        size = x.shape[dim] - 2 * margin
        core = x.narrow(dim, margin, size).clone()
        core.narrow(dim, 1, margin).add_(x.narrow(dim, 0, margin).flip(dim))
        core.narrow(dim, size - 1 - margin, margin).add_(x.narrow(dim, size + margin, margin).flip(dim))
        x = core
    return x


def curvature(x: Tensor, filters: Tensor, values: Tensor, mu: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the derivative of :func:`push` in x as a linear map of images."""
    width = filters.shape[2]
    rows, slopes = filters.reshape(len(filters), -1), []
    for n, image in enumerate(extend(x, width)):
        responses = rows @ _windows(image, filters)
        slope, scale = torch.empty_like(responses), mu[n : n + 1]
        unused = torch.zeros(values.shape, dtype=torch.float64), torch.zeros_like(scale)
        _bend(*_numpy(responses, torch.ones_like(responses), slope, values, scale, *unused))
        slopes.append(slope)

    def apply(v: Tensor) -> Tensor:
        wide = extend(v, width)
        found = torch.zeros_like(wide)
        for image, slope, out in zip(wide, slopes, found, strict=True):
            _add_back(rows.T @ (slope * (rows @ _windows(image, filters))), out, filters)
        return retract(found, width)

    return apply


class _Push(torch.autograd.Function):
    """Written out: torch's own convolutions with one channel on a side are several times slower backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, values: Tensor, mu: Tensor) -> Tensor:
        rows, found = filters.reshape(len(filters), -1), torch.zeros_like(x)
        for image, scale, out in zip(x, mu.split(1), found, strict=True):
            _add_back(rows.T @ _activated(rows @ _windows(image, filters), values, scale), out, filters)
        ctx.save_for_backward(x, filters, values, mu)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, filters, values, mu = ctx.saved_tensors
        rows, of_x, of_mu = filters.reshape(len(filters), -1), torch.zeros_like(x), torch.zeros_like(mu)
        of_filters, of_values = torch.zeros_like(rows), torch.zeros(values.shape, dtype=torch.float64)
        # One image after the other stays in the cache; responses are computed again and not kept.
        for n, (image, given) in enumerate(zip(x, gradients[0], strict=True)):
            seen, pulled, scale = _windows(image, filters), _windows(given, filters), mu[n : n + 1]
            responses = rows @ seen
            bent = torch.empty_like(responses)
            _bend(*_numpy(responses, rows @ pulled, bent, values, scale, of_values, of_mu[n : n + 1]))
            _add_back(rows.T @ bent, of_x[n], filters)
            of_filters += _activated(responses, values, scale) @ pulled.T + bent @ seen.T
        return of_x, of_filters.reshape(filters.shape), of_values.to(values), of_mu


def _windows(image: Tensor, filters: Tensor) -> Tensor:
    """Return all windows of an image (H, W) side by side, (s * s, h * w)."""
    image, size = image.contiguous(), filters.shape[2]
    height, width = (most - size + 1 for most in image.shape)
    return image.as_strided((size, size, height, width), (*image.stride(), *image.stride())).reshape(size**2, -1)


def _add_back(spread: Tensor, out: Tensor, filters: Tensor) -> None:
    size = filters.shape[2]
    _fold(*_numpy(spread.reshape(size, size, out.shape[0] - size + 1, -1), out))


def _activated(responses: Tensor, values: Tensor, mu: Tensor) -> Tensor:
    found = torch.empty_like(responses)
    _activate(*_numpy(responses, found, values, mu))
    return found


def _numpy(*parts: Tensor) -> tuple[Any, ...]:
    return tuple(part.detach().numpy() for part in parts)


@njit(cache=True)
def _fold(spread, out):
    """Add spread (s, s, h, w) to out (h + s - 1, w + s - 1) at the shifts that windows have; both C-ordered."""
    for i in range(spread.shape[0]):
        for j in range(spread.shape[1]):
            for k in range(spread.shape[2]):
                for m in range(spread.shape[3]):
                    out[i + k, j + m] += spread[i, j, k, m]


@njit(cache=True)
def _activate(responses, out, values, mu):
    """Write sigma_c(mu responses) to out; both (C, P) and C-ordered, mu (1,)."""
    last, half = values.shape[1] - 2, values.shape[1] // 2
    scale = mu[0] * half
    for c in range(responses.shape[0]):
        row = values[c]
        for p in range(responses.shape[1]):
            position = scale * responses[c, p] + half
            k = min(max(int(np.floor(position)), 0), last)
            out[c, p] = row[k] + (position - k) * (row[k + 1] - row[k])


@njit(cache=True)
def _bend(responses, along, out, values, mu, of_values, of_mu):
    """Write along times the derivative of sigma_c(mu r) in r to out; those of ``<along, sigma>`` are added up."""
    last, half = values.shape[1] - 2, values.shape[1] // 2
    scale = mu[0] * half
    for c in range(responses.shape[0]):
        row, sums = values[c], of_values[c]
        for p in range(responses.shape[1]):
            r, a = responses[c, p], along[c, p]
            position = scale * r + half
            k = min(max(int(np.floor(position)), 0), last)
            rise = a * half * (row[k + 1] - row[k])
            out[c, p] = mu[0] * rise
            of_mu[0] += r * rise
            sums[k] += (1 - position + k) * a
            sums[k + 1] += (position - k) * a
