"""What a convolution reads: patches of its input, in any number of dimensions.

A transposed convolution is a convolution, with the kernel turned round, of the input with zeros between its entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Geometry"]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the kernel of a convolution lies over its input; one number per spatial dimension.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
    before, after : tuple of int
        Zeros in front of the first entry and behind the last.
    spread : tuple of int
        The distance to which neighbouring entries are moved apart, with zeros between them; 1 but for a
        transposed convolution.
    turned : bool
        Whether the kernel is read from its last tap to its first.
    """

    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    before: Sizes
    after: Sizes
    spread: Sizes
    turned: bool = False

    @classmethod
    def of_convolution(cls, kernel: Sizes, stride: Sizes, padding: Sizes | str, dilation: Sizes) -> Geometry:
        """Return the geometry of a convolution; ``padding`` may be ``"same"`` or ``"valid"``."""
        before: Sizes = (0,) * len(kernel)
        if not isinstance(padding, str):
            before = padding
        after = before
        if padding == "same":
            total = [step * (taps - 1) for step, taps in zip(dilation, kernel, strict=True)]
            before = tuple(zeros // 2 for zeros in total)
            after = tuple(zeros - first for zeros, first in zip(total, before, strict=True))
        return cls(kernel, stride, dilation, before, after, (1,) * len(kernel))

    @classmethod
    def of_transposed(
        cls, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, output_padding: Sizes
    ) -> Geometry | None:
        """Return the geometry of a transposed convolution; None if it drops more than the kernel reaches."""
        reach = [step * (taps - 1) - zeros for taps, step, zeros in zip(kernel, dilation, padding, strict=True)]
        if min(reach) < 0:
            return None
        after = tuple(zeros + extra for zeros, extra in zip(reach, output_padding, strict=True))
        return cls(kernel, (1,) * len(kernel), dilation, tuple(reach), after, stride, turned=True)

    @property
    def taps(self) -> int:
        """Entries of the kernel for one channel."""
        return math.prod(self.kernel)

    def patches(self, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return what the kernel reads at every output position, (n * positions, channels * taps).

        Parameters
        ----------
        inputs : torch.Tensor, shape (n, channels, *spatial)
        positions : torch.Tensor of int or None
            Output positions to use, in the order of the flattened output; all if None.
        """
        plain = len(self.kernel) == 2 and self.before == self.after and max(self.spread) == 1 and not self.turned
        if positions is None and plain:
            found = torch.nn.functional.unfold(
                inputs, self.kernel, dilation=self.dilation, padding=self.before, stride=self.stride
            )
            return found.transpose(1, 2).reshape(-1, found.shape[1])
        padded = self._padded(inputs)
        taps = self._taps_at(padded.shape[2:], positions, inputs.device)
        picked = padded.flatten(2)[:, :, taps.flatten()].view(*padded.shape[:2], *taps.shape)
        if self.turned:
            picked = picked.flip(-1)
        return picked.permute(0, 2, 1, 3).reshape(-1, padded.shape[1] * self.taps)

    def _padded(self, inputs: Tensor) -> Tensor:
        if max(self.spread) > 1:
            sizes = [step * (n - 1) + 1 for n, step in zip(inputs.shape[2:], self.spread, strict=True)]
            apart = inputs.new_zeros(*inputs.shape[:2], *sizes)
            places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.spread))
            apart[places] = inputs
            inputs = apart
        sides = [zeros for pair in zip(self.before[::-1], self.after[::-1], strict=True) for zeros in pair]
        return torch.nn.functional.pad(inputs, sides)

    def _taps_at(self, sizes: Sizes, positions: Tensor | None, device: torch.device) -> Tensor:
        """Return the flattened place of every tap at every position, (positions, taps)."""
        count = [
            (n - step * (taps - 1) - 1) // stride + 1
            for n, taps, step, stride in zip(sizes, self.kernel, self.dilation, self.stride, strict=True)
        ]
        if positions is None:
            positions = torch.arange(math.prod(count), device=device)
        found = torch.zeros(positions.numel(), 1, dtype=torch.int64, device=device)
        for axis, (taps, step, stride) in enumerate(zip(self.kernel, self.dilation, self.stride, strict=True)):
            behind = math.prod(count[axis + 1 :])
            place = positions // behind % count[axis] * stride
            along = place[:, None] + step * torch.arange(taps, device=device)
            found = (found * sizes[axis])[:, :, None] + along[:, None, :]
            found = found.flatten(1)
        return found
