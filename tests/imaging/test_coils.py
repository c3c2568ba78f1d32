"""Coil sensitivities from the middle of k-space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathnorm.errors import DataError
from pathnorm.imaging import FourierMRI, estimate_coils
from pathnorm.imaging.coils import calibration_block

SHAPE = (48, 40)


def smooth_coils(count=4):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rows, columns = rows / SHAPE[0] - 0.5, columns / SHAPE[1] - 0.5
    found = []
    for turn in 2 * np.pi * np.arange(count) / count:
        away = (rows - 0.4 * np.sin(turn)) ** 2 + (columns - 0.4 * np.cos(turn)) ** 2
        found.append(np.exp(-away / 0.8 + 1j * turn))
    coils = torch.from_numpy(np.array(found))
    return coils / torch.linalg.vector_norm(coils, dim=0)


def phantom():
    image = torch.zeros(SHAPE, dtype=torch.complex128)
    image[8:40, 6:34] = 1.0
    image[14:24, 12:20] = 0.6
    return image


def lines(columns):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, columns] = True
    return mask


def test_smooth_sensitivities_are_found_inside_the_image():
    coils, image = smooth_coils(), phantom()
    mask = lines([*range(0, 40, 5), *range(12, 28)])
    found = estimate_coils(FourierMRI(mask, coils).A(image), mask)
    assert found.shape == coils.shape
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=0), torch.ones(SHAPE, dtype=torch.float64))
    inside = (slice(None), slice(12, 36), slice(10, 30))
    # Up to one phase for all coils of a pixel, which is the image's.
    turned = (found.conj() * coils).sum(0, keepdim=True)
    apart = (found * turned / turned.abs() - coils)[inside]
    assert float(apart.norm() / coils[inside].norm()) < 0.02
    assert FourierMRI(mask, found).norm() == pytest.approx(1.0)


def test_a_pixel_that_no_coil_sees_is_seen_alike_by_all():
    kspace = torch.zeros(3, *SHAPE, dtype=torch.complex128)
    kspace[1, 20:28, 16:24] = 1.0
    found = estimate_coils(kspace, torch.ones(SHAPE))
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=0), torch.ones(SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_the_block_is_the_largest_that_is_sampled(seed):
    rng = np.random.default_rng(seed)
    shape = (14, 12)
    mask = torch.from_numpy(rng.random(shape) < 0.4)
    mask[7 - 3 : 7 + 2, 6 - 2 : 6 + 3] = True
    best = max(
        min(rows, columns)
        for rows in range(1, 15)
        for columns in range(1, 13)
        if mask[7 - rows // 2 : 7 - rows // 2 + rows, 6 - columns // 2 : 6 - columns // 2 + columns].all()
    )
    rows, columns = calibration_block(mask)
    assert min(rows, columns) == best
    assert mask[7 - rows // 2 : 7 - rows // 2 + rows, 6 - columns // 2 : 6 - columns // 2 + columns].all()


def test_what_cannot_be_used_is_refused():
    kspace = torch.ones(2, *SHAPE, dtype=torch.complex128)
    with pytest.raises(ValueError, match="complex of shape"):
        estimate_coils(kspace.real)
    with pytest.raises(ValueError, match="complex of shape"):
        estimate_coils(kspace[0])
    with pytest.raises(ValueError, match="mask must have"):
        estimate_coils(kspace, torch.ones(3, 3))
    with pytest.raises(DataError, match="finite"):
        estimate_coils(kspace * torch.nan)
    with pytest.raises(DataError, match="calibration scan"):
        estimate_coils(kspace, lines([1, 5, 9]))
    with pytest.raises(DataError, match="no signal"):
        estimate_coils(0 * kspace, torch.ones(SHAPE))
