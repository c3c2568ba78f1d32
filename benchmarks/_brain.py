"""The brain image, simulated coils and a mask of lines: what MRI benchmarks and experiments measure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks._harness import data_root
from pathnorm.imaging import FourierMRI

__all__ = ["birdcage", "brain", "line_mask", "measured"]


def brain(size: int) -> Tensor:
    """Return the real magnitude image, averaged down to (size, size), its largest value 1."""
    with np.load(data_root() / "mri" / "pysap_brain512.npz") as kept:
        image = kept["img"].astype(np.float64)
    step = image.shape[0] // size
    found = image.reshape(size, step, size, step).mean((1, 3))
    return torch.from_numpy(found / found.max()).to(torch.complex128)


def birdcage(size: int, count: int) -> Tensor:
    """Return smooth sensitivities (count, size, size) of coils around the image, ``sum_c |S_c|^2 = 1`` everywhere."""
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    turns = 2.0 * np.pi * np.arange(count) / count
    away = [(rows - 0.5 * np.sin(turn)) ** 2 + (columns - 0.5 * np.cos(turn)) ** 2 for turn in turns]
    phases = [turn + 2.0 * (columns * np.cos(turn) + rows * np.sin(turn)) for turn in turns]
    coils = np.exp(-np.array(away) / 0.3 + 1j * np.array(phases))
    return torch.from_numpy(coils / np.sqrt((np.abs(coils) ** 2).sum(0)))


def line_mask(size: int, share: float, *, middle: int, seed: int) -> Tensor:
    """Return a mask (size, size) of whole columns: ``middle`` ones around zero, others the more likely the nearer."""
    rng = np.random.default_rng(seed)
    distance = np.abs(np.arange(size) - size // 2)
    start = size // 2 - middle // 2
    chosen = set(range(start, start + middle))
    others = np.array([column for column in range(size) if column not in chosen])
    weights = 1.0 / (1.0 + distance[others] / (size / 16)) ** 1.5
    more = rng.choice(others, round(share * size) - middle, replace=False, p=weights / weights.sum())
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, sorted([*chosen, *more.tolist()])] = True
    return mask


def measured(operator: FourierMRI, image: Tensor, noise: float, *, seed: int) -> Tensor:
    """Return k-space with complex noise of that root mean squared modulus."""
    rows = torch.Generator().manual_seed(seed)
    draws = torch.randn(operator.data_shape, generator=rows, dtype=torch.complex128)
    return operator.A(image) + noise * draws * operator.mask
