from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from pathnorm.deep.operator_norms import convolution_norm, linear_norm, nonnegative_norm

CONV = (F.conv1d, F.conv2d, F.conv3d)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(apply, shape):
    """Return the matrix of a linear map on tensors of ``shape``: its value at every unit vector."""
    count = int(torch.tensor(shape).prod())
    units = torch.eye(count, dtype=torch.float64).view(count, *shape)
    return torch.cat([apply(unit[None]).reshape(1, -1) for unit in units]).T


def largest(apply, shape):
    return float(torch.linalg.matrix_norm(dense(apply, shape), 2))


# Input size, kernel, stride, padding, dilation, (outputs, inputs, groups)
ZERO_PADDED = [
    ((6, 6), (3, 3), (1, 1), (1, 1), (1, 1), (4, 3, 1)),
    ((6, 6), (3, 3), (1, 1), (0, 0), (1, 1), (4, 3, 1)),
    ((5, 7), (3, 2), (1, 1), (2, 0), (1, 1), (2, 5, 1)),
    ((6, 5), (3, 3), (2, 2), (1, 1), (1, 1), (4, 3, 1)),
    ((7, 6), (5, 3), (3, 2), (2, 1), (1, 1), (5, 2, 1)),
    ((8, 7), (3, 3), (1, 1), (2, 2), (2, 2), (3, 3, 1)),
    ((7, 8), (3, 2), (2, 3), (2, 1), (3, 2), (3, 2, 1)),
    ((6, 4), (1, 1), (1, 1), (0, 0), (1, 1), (4, 6, 1)),
    ((7, 4), (1, 1), (2, 2), (0, 0), (1, 1), (4, 6, 1)),
    ((5, 6), (3, 1), (2, 2), (1, 0), (1, 1), (4, 3, 1)),
    ((3, 4), (3, 3), (1, 1), (4, 3), (1, 1), (2, 2, 1)),
    ((2, 1), (5, 3), (1, 1), (2, 1), (1, 1), (3, 2, 1)),
    ((6, 5), (3, 3), (1, 1), (1, 1), (1, 1), (6, 6, 6)),
    ((6, 6), (3, 3), (2, 1), (1, 1), (1, 1), (4, 6, 2)),
    ((9,), (4,), (2,), (3,), (1,), (3, 4, 1)),
    ((4, 3, 3), (3, 2, 2), (1, 2, 1), (1, 1, 0), (1, 1, 1), (2, 2, 1)),
]


@pytest.mark.parametrize(("size", "taps", "stride", "padding", "dilation", "widths"), ZERO_PADDED)
def test_bound_of_a_zero_padded_convolution(size, taps, stride, padding, dilation, widths):
    outputs, inputs, groups = widths
    weight = draw(outputs, inputs // groups, *taps)
    exact = largest(lambda x: CONV[len(size) - 1](x, weight, None, stride, padding, dilation, groups), (inputs, *size))
    geometry = (taps, stride, padding, dilation)
    found = convolution_norm(weight, geometry, size=size, groups=groups)
    cheap = convolution_norm(weight, geometry, size=size, groups=groups, work=0.0)
    assert cheap.method == "reshaped kernel"
    assert exact <= found.upper <= cheap.upper * (1.0 + 1e-12)
    if found.exact:
        assert found.upper == pytest.approx(exact, rel=1e-10)
    if len(size) < 3:
        # On a torus there is no border at which a kernel is cut off: a small input loses more.
        assert found.upper <= exact * (1.5 if min(size) > 3 else 4.0)
    assert found.exact == (set(taps) == {1})


def test_bound_reaches_the_norm_of_a_kernel_that_borders_do_not_cut():
    """A kernel of ones is steepest at frequency zero; the norm on n points tends to that on the torus."""
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1))
    assert convolution_norm(weight, geometry, size=(20, 20)).upper == pytest.approx(9.0, rel=1e-11)
    exact = largest(lambda x: F.conv2d(x, weight, padding=1), (1, 20, 20))
    assert 0.97 * 9.0 < exact < 9.0


def test_reshaped_kernel_is_the_norm_where_patches_do_not_overlap():
    weight, geometry = draw(5, 3, 2, 2), ((2, 2), (2, 2), (0, 0), (1, 1))
    exact = largest(lambda x: F.conv2d(x, weight, stride=2), (3, 6, 4))
    for work in (0.0, 1e11):
        assert convolution_norm(weight, geometry, size=(6, 4), work=work).upper == pytest.approx(exact, rel=1e-10)


CIRCULAR = [
    ((6, 6), (3, 3), (1, 1), (1, 1), (4, 3, 1)),
    ((5, 8), (3, 5), (1, 1), (1, 1), (2, 3, 1)),
    ((8, 7), (3, 3), (1, 1), (2, 3), (3, 3, 1)),
    ((6, 8), (3, 3), (2, 2), (1, 1), (4, 3, 1)),
    ((6, 6), (3, 1), (3, 2), (1, 1), (4, 6, 2)),
    ((3, 3), (5, 3), (1, 1), (1, 1), (2, 2, 1)),
    ((10,), (4,), (2,), (1,), (3, 2, 1)),
]


@pytest.mark.parametrize(("size", "taps", "stride", "dilation", "widths"), CIRCULAR)
def test_circular_convolution_exactly(size, taps, stride, dilation, widths):
    outputs, inputs, groups = widths
    weight = draw(outputs, inputs // groups, *taps)
    pads = [(far * (count - 1) // 2, -(-far * (count - 1) // 2)) for far, count in zip(dilation, taps, strict=True)]

    def apply(x):
        padded = F.pad(x, [side for pair in reversed(pads) for side in pair], mode="circular")
        return CONV[len(size) - 1](padded, weight, None, stride, 0, dilation, groups)

    exact = largest(apply, (inputs, *size))
    geometry = (taps, stride, (0,) * len(size), dilation)
    found = convolution_norm(weight, geometry, size=size, groups=groups, circular=True)
    assert found.exact
    assert exact * (1.0 - 1e-13) <= found.upper <= exact * (1.0 + 1e-10)
    assert exact <= convolution_norm(weight, geometry, size=size, groups=groups, circular=True, work=0.0).upper


def test_circular_convolution_whose_stride_does_not_divide():
    weight = draw(3, 2, 3, 3)
    exact = largest(lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, stride=2), (2, 7, 6))
    found = convolution_norm(weight, ((3, 3), (2, 2), (0, 0), (1, 1)), size=(7, 6), circular=True)
    assert exact <= found.upper and not found.exact


def test_scale_of_a_kernel_is_no_matter():
    weight, geometry = draw(3, 2, 3, 3), ((3, 3), (1, 1), (1, 1), (1, 1))
    unit = convolution_norm(weight, geometry, size=(5, 5)).upper
    for power in (-600, 600):
        scaled = convolution_norm(weight * 2.0**power, geometry, size=(5, 5)).upper
        assert scaled == pytest.approx(unit * 2.0**power, rel=1e-12)
    assert convolution_norm(0.0 * weight, geometry, size=(5, 5)).upper == 0.0


@pytest.mark.parametrize("shape", [(7, 7), (3, 40), (40, 3), (1, 9), (9, 1), (4, 5, 6)])
def test_norm_of_matrices(shape):
    weight = draw(*shape)
    exact = float(torch.linalg.matrix_norm(weight, 2).max())
    for power in (-900, 0, 900):
        found = linear_norm(weight * 2.0**power) / 2.0**power
        assert exact <= found <= exact * (1.0 + 1e-10)


def test_norm_of_a_matrix_of_rank_one_with_a_known_norm():
    """Entries 1: no eigenvalue solver rounds below sqrt(m n) unnoticed."""
    for rows, columns in itertools.product((1, 8, 120), repeat=2):
        assert rows * columns <= linear_norm(torch.ones(rows, columns)) ** 2 <= rows * columns * (1.0 + 1e-9)


def test_norm_of_matrices_at_the_edge():
    assert linear_norm(torch.zeros(3, 4)) == linear_norm(torch.zeros(0, 4)) == 0.0
    assert linear_norm(torch.tensor([[float("inf"), 1.0]])) == float("inf")


@pytest.mark.parametrize("shape", [(6, 6), (4, 9)])
def test_norm_of_a_matrix_without_negative_entries(shape):
    matrix = draw(*shape).abs()
    matrix[:, 1] = 0.0
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert exact <= nonnegative_norm(lambda x: matrix @ x, shape[1:]) <= exact * (1.0 + 1e-6)
    assert exact <= nonnegative_norm(lambda x: matrix @ x, shape[1:], steps=1)
    assert nonnegative_norm(lambda x: 0.0 * matrix @ x, shape[1:]) == 0.0


def test_norm_of_blocks_that_power_steps_forget():
    """The weaker block decays below anything that float64 holds; it must not decide."""
    scales = torch.tensor([1.0, 1e-12, 1e-40], dtype=torch.float64)
    assert nonnegative_norm(lambda x: scales * x, (3,), steps=50) == pytest.approx(1.0, rel=1e-11)


def test_norm_of_an_overlapping_average():
    exact = largest(lambda x: F.avg_pool2d(x, 3, 2, 1), (1, 6, 5))
    found = nonnegative_norm(lambda x: F.avg_pool2d(x, 3, 2, 1), (1, 1, 6, 5), steps=200)
    assert exact <= found <= exact * (1.0 + 1e-6)
