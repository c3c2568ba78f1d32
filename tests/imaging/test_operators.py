"""Operators against references written out, and the identity that makes an adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import DataError
from pathnorm.imaging import Blur, FourierMRI, Identity, Operator, Radon, adjoint_error, operator_norm

SHAPE = (12, 9)


def noise(seed, *shape, complex_=False):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0.0)
    return torch.from_numpy(values)


def operators(seed=0):
    return {
        "identity": Identity(SHAPE),
        "blur": Blur(noise(seed, 5, 3), SHAPE),
        "mri": FourierMRI(noise(seed, *SHAPE) > 0, noise(seed + 1, 3, *SHAPE, complex_=True)),
        "one coil": FourierMRI(noise(seed, *SHAPE) > 0),
        "radon": Radon(SHAPE, np.linspace(0.1, 3.0, 7)),
        "radon off centre": Radon(SHAPE, [0.0, 0.5 * np.pi, 4.0], detectors=6, spacing=1.7, centre=1.3),
    }


@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(operators())))
@settings(max_examples=40, deadline=None)
def test_adjoints_and_norms(seed, name):
    operator = operators(seed)[name]
    assert isinstance(operator, Operator)
    x = noise(seed, *SHAPE, complex_=operator.complex_image)
    y = noise(seed + 1, *operator.data_shape, complex_=operator.complex_image)
    assert adjoint_error(operator, x, y) < 1e-14
    assert operator_norm(operator, x) <= operator.norm() * (1 + 1e-12)
    assert float(operator.A(x).norm()) <= operator.norm() * float(x.norm()) * (1 + 1e-12)
    # Batches are images side by side.
    pair = torch.stack([x, 2 * x])
    torch.testing.assert_close(operator.A(pair)[1], 2 * operator.A(x))


@pytest.mark.parametrize("name", sorted(operators()))
def test_derivatives_are_the_adjoint(name):
    operator = operators()[name]
    x = noise(0, *SHAPE, complex_=operator.complex_image).requires_grad_()
    y = noise(1, *operator.data_shape, complex_=operator.complex_image)
    value = (operator.A(x).conj() * y).sum().real
    value.backward()
    torch.testing.assert_close(x.grad, operator.A_adjoint(y))


def test_normal_of_mri_is_one_after_the_other():
    operator, x = operators()["mri"], noise(3, *SHAPE, complex_=True)
    torch.testing.assert_close(operator.normal(x), operator.A_adjoint(operator.A(x)))


def test_mri_is_the_centred_fft():
    operator, x = operators()["mri"], noise(3, *SHAPE, complex_=True)
    seen = operator.coils.numpy() * x.numpy()
    axes = (-2, -1)
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(seen, axes), norm="ortho"), axes) * operator.mask.numpy()
    np.testing.assert_allclose(operator.A(x).numpy(), expected, atol=1e-13)


def test_blur_is_a_circular_convolution():
    kernel, x = noise(0, 3, 5), noise(1, *SHAPE)
    expected = sum(float(kernel[i, j]) * torch.roll(x, (i - 1, j - 2), (0, 1)) for i in range(3) for j in range(5))
    torch.testing.assert_close(Blur(kernel, SHAPE).A(x), expected)
    basis = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *SHAPE)
    matrix = Blur(kernel, SHAPE).A(basis).reshape(x.numel(), -1)
    assert Blur(kernel, SHAPE).norm() == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-12)


def test_integrals_of_a_disc_are_its_chords():
    rows, columns = np.mgrid[:81, :91]
    # Pixels at the edge count by the share of a fine grid that lies inside.
    fine = (np.arange(9) - 4) / 9
    inside = [((rows - 40 + a) ** 2 + (columns - 45 + b) ** 2 <= 30.0**2).astype(float) for a in fine for b in fine]
    disc = torch.from_numpy(np.mean(inside, axis=0))
    operator = Radon((81, 91), np.linspace(0.0, np.pi, 9, endpoint=False))
    t = (np.arange(operator.data_shape[1]) - operator.centre) * operator.spacing
    chords = 2.0 * np.sqrt(np.clip(900.0 - t**2, 0.0, None))
    assert np.abs(operator.A(disc).numpy() - chords)[:, np.abs(t) < 28].max() < 1.0
    assert np.abs(operator.A(disc).numpy().sum(1) / disc.sum().item() - 1.0).max() < 0.01


def test_a_point_is_seen_where_the_angle_says():
    # One pixel, three to the right of and two below the middle: t = 3 cos(a) + 2 sin(a).
    image = torch.zeros(21, 21, dtype=torch.float64)
    image[12, 13] = 1.0
    angles = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    operator = Radon((21, 21), angles, spacing=0.05)
    sinogram = operator.A(image).numpy()
    t = 0.05 * (np.arange(sinogram.shape[1]) - operator.centre)
    np.testing.assert_allclose(sinogram @ t / sinogram.sum(1), 3 * np.cos(angles) + 2 * np.sin(angles), atol=1e-2)
    np.testing.assert_allclose(0.05 * sinogram.sum(1), 1.0, atol=1e-2)


def test_single_precision_stays_single():
    for operator in operators().values():
        x = noise(0, *SHAPE, complex_=operator.complex_image)
        x = x.to(torch.complex64 if x.is_complex() else torch.float32)
        y = operator.A(x)
        assert operator.A_adjoint(y).dtype == x.dtype, operator


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Identity((3, 0)), ValueError, "two sizes of at least 1"),
        (lambda: Blur(torch.ones(4, 3), SHAPE), ValueError, "two odd sizes"),
        (lambda: Blur(torch.full((3, 3), torch.nan), SHAPE), DataError, "finite"),
        (lambda: FourierMRI(torch.full(SHAPE, 0.5)), ValueError, "only 0 and 1"),
        (lambda: FourierMRI(torch.zeros(SHAPE)), DataError, "sample something"),
        (lambda: FourierMRI(torch.ones(SHAPE), torch.ones(3, 5, 5)), ValueError, r"\(C, 12, 9\)"),
        (lambda: FourierMRI(torch.ones(SHAPE), torch.full((1, *SHAPE), torch.inf)), DataError, "finite"),
        (lambda: Radon(SHAPE, []), ValueError, "at least 1"),
        (lambda: Radon(SHAPE, [np.nan]), DataError, "finite"),
        (lambda: Radon(SHAPE, [0.0], spacing=0.0), ValueError, "positive spacing"),
        (lambda: Radon(SHAPE, [0.0]).A(torch.ones(9, 12)), ValueError, "must have shape"),
        (lambda: adjoint_error(Identity(SHAPE), torch.ones(SHAPE), torch.ones(3, 3)), ValueError, "A must map"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
