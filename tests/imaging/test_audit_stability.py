"""Attacks against matrices whose singular values are known, with gradients and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.imaging import FourierMRI, Radon
from pathnorm.imaging.audit_columns import attacks_on
from pathnorm.imaging.perturbations import Ball, Samples, norm_of, pack
from pathnorm.imaging.reconstructors import Checked
from pathnorm.imaging.stability import Local, explore, linearity, random_amplifications

SHAPE = (6, 5)


class Matrix:
    """Measurements by a real matrix (m, n)."""

    def __init__(self, matrix):
        self.matrix = torch.as_tensor(matrix)

    def A(self, x):  # noqa: N802
        return self.matrix @ x.reshape(-1)

    def A_adjoint(self, y):  # noqa: N802
        return (self.matrix.T @ y).reshape(SHAPE)


def matrix(seed, m=12, n=30):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((m, n)))


def local(function, operator, y, *, gradients, linear=None):
    image = operator.A_adjoint(y)
    model = Checked(
        function if gradients else lambda data: function(data.detach()).numpy(),
        tuple(image.shape),
        complex_image=image.is_complex(),
    )
    samples = Samples.of(operator, y)
    found = Local(model, y, model(y), samples, operator.A, model.differentiable(y), False)
    assert found.differentiable == gradients
    off = linearity(found, 1.0, torch.Generator().manual_seed(0))
    assert linear is None or (off < 1e-9) == linear
    return Local(model, y, found.base, samples, operator.A, gradients, off < 1e-9)


def line_mask(n=8):
    mask = torch.zeros(n, n)
    mask[:, [0, 3, 4, 5]] = 1
    return mask


def linear_cases():
    A = matrix(1)
    tikhonov = torch.linalg.solve(A.T @ A + 0.7 * torch.eye(30, dtype=torch.float64), A.T)
    mri = FourierMRI(line_mask())
    coils = torch.from_numpy(np.random.default_rng(5).standard_normal((2, 8, 8, 2))).double()
    two = FourierMRI(line_mask(), torch.view_as_complex(coils.contiguous()))
    radon = Radon((8, 8), np.linspace(0.0, 3.0, 4))
    s = torch.linalg.svdvals(A)
    columns = torch.eye(16 * 8, dtype=torch.float64).reshape(-1, 2, 8, 8)
    both = torch.cat([columns * two.mask, 1j * columns * two.mask]).to(torch.complex128)
    as_real = torch.stack([pack(two.A_adjoint(column)) for column in both])
    rays = torch.stack([radon.A(e) for e in torch.eye(64, dtype=torch.float64).reshape(-1, 8, 8)]).reshape(64, -1)
    return {
        "matrix": (
            Matrix(A),
            lambda y: (matrix(2, 30, 12) @ y).reshape(SHAPE),
            torch.linalg.svdvals(matrix(2, 30, 12))[0],
        ),
        "pseudo-inverse": (Matrix(A), lambda y: (torch.linalg.pinv(A) @ y).reshape(SHAPE), 1 / s[-1]),
        "Tikhonov": (Matrix(A), lambda y: (tikhonov @ y).reshape(SHAPE), (s / (s**2 + 0.7)).max()),
        "zero filling": (mri, mri.A_adjoint, 1.0),
        "two coils": (two, two.A_adjoint, torch.linalg.svdvals(as_real)[0]),
        "back-projection": (radon, radon.A_adjoint, torch.linalg.svdvals(rays)[0]),
    }


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", sorted(linear_cases()))
def test_the_worst_of_a_linear_reconstructor_is_its_largest_singular_value(name, gradients):
    operator, function, expected = linear_cases()[name]
    y = operator.A(operator.A_adjoint(torch.ones_like(operator.A(operator_image(operator)))))
    here = local(function, operator, y, gradients=gradients, linear=True)
    # Without gradients exact once every direction was tried; with them after far fewer.
    steps = here.samples.dimension if not gradients else 30
    attack = attacks_on(here, Ball.both(1.0, here.samples), steps=steps, restarts=0, seed=0)[0]
    assert attack.amplification == pytest.approx(float(expected), rel=0.01)
    assert attack.amplification <= float(expected) * (1 + 1e-9)


def operator_image(operator):
    if isinstance(operator, Matrix):
        return torch.ones(SHAPE, dtype=torch.float64)
    return torch.ones(operator.image_shape, dtype=torch.complex128 if operator.complex_image else torch.float64)


@given(seed=st.integers(0, 10**6), decay=st.floats(0.0, 3.0))
@settings(max_examples=15, deadline=None)
def test_gradients_find_the_largest_singular_value_of_any_matrix(seed, decay):
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((30, 30)))[0] for _ in range(2))
    values = 1.0 / (1.0 + np.arange(30)) ** decay
    R = torch.from_numpy(u * values @ v)
    operator = Matrix(matrix(seed, 30, 30))
    here = local(lambda y: (R @ y).reshape(SHAPE), operator, operator.A(torch.ones(SHAPE).double()), gradients=True)
    _, attack = explore(here, 0.1, steps=25, seed=seed)
    assert 0.99 <= attack.amplification <= 1 + 1e-9


def test_few_directions_are_a_lower_bound():
    operator, function, expected = linear_cases()["pseudo-inverse"]
    here = local(function, operator, operator.A(torch.ones(SHAPE).double()), gradients=False)
    _, attack = explore(here, 1.0, steps=4, seed=0)
    random = random_amplifications(here, Ball("l2", 1.0), draws=20, seed=1)
    assert max(random) < float(expected) and 0 < attack.amplification < float(expected)
    assert attack.amplification > np.mean(random)


@pytest.mark.parametrize("gradients", [True, False])
def test_perturbations_stay_in_the_ball_the_mask_and_the_field(gradients):
    operator = linear_cases()["two coils"][0]
    y = operator.A(operator_image(operator))

    def function(data):  # reads what was never sampled, too
        return torch.fft.ifft2(data).sum(0)

    here = local(function, operator, y, gradients=gradients)
    balls = Ball.both(0.3, here.samples)
    for ball, attack in zip(balls, attacks_on(here, balls, steps=10, restarts=1, seed=0), strict=True):
        e = attack.perturbation
        assert e.is_complex() and float((e * ~operator.mask).abs().max()) == 0.0
        size = norm_of(e) if ball.name == "l2" else float(e.abs().max())
        assert size == pytest.approx(ball.radius, rel=1e-9)
        torch.testing.assert_close(function(y + e) - function(y), attack.change)


def test_the_l_inf_attack_comes_near_the_worst_corner():
    # The worst corner is hard to find in general: the attack stops at a local one.
    rng = np.random.default_rng(3)
    R = torch.from_numpy(rng.standard_normal((30, 8)))
    corners = torch.tensor([[1.0 if k >> bit & 1 else -1.0 for bit in range(8)] for k in range(256)]).double()
    best = float((R @ corners.T).norm(dim=0).max())
    operator = Matrix(matrix(4, 8, 30))
    for gradients in (True, False):
        here = local(lambda y: (R @ y).reshape(SHAPE), operator, torch.ones(8).double(), gradients=gradients)
        attack = attacks_on(here, Ball.both(8**0.5, here.samples), steps=20, restarts=3, seed=0)[1]
        assert 0.95 * best <= norm_of(attack.change) <= best * (1 + 1e-9)
        assert set(attack.perturbation.abs().tolist()) == {1.0}


@pytest.mark.parametrize("gradients", [True, False])
def test_a_direction_that_only_large_perturbations_find_is_found(gradients):
    # Soft thresholding of twice the data: flat near zero, slope 2 beyond; the slope of a small perturbation is 0.
    operator = Matrix(torch.eye(30, dtype=torch.float64))
    weights = torch.linspace(1.0, 2.0, 30, dtype=torch.float64)

    def function(y):
        return (weights * torch.sign(y) * (y.abs() - 1.0).clamp_min(0.0)).reshape(SHAPE)

    here = local(function, operator, torch.zeros(30).double(), gradients=gradients, linear=None)
    attack = attacks_on(here, Ball.both(5.0, here.samples), steps=60, restarts=2, seed=0)[0]
    # The best is all along the last coordinate, 2 (5 - 1) / 5; others are local maxima.
    assert (1.5 if gradients else 1.4) <= attack.amplification <= 1.6 * (1 + 1e-9)


def test_random_perturbations_of_a_rotation_are_not_amplified():
    operator = Matrix(torch.eye(30, dtype=torch.float64))
    here = local(lambda y: y.flip(0).reshape(SHAPE), operator, torch.ones(30).double(), gradients=True)
    for ball in Ball.both(0.5, here.samples):
        np.testing.assert_allclose(random_amplifications(here, ball, draws=5, seed=0), 1.0)


def test_random_perturbations_have_the_size_of_the_ball():
    operator, seen = FourierMRI(line_mask()), []

    def function(y):
        seen.append(y.clone())
        return operator.A_adjoint(y)

    y = operator.A(operator_image(operator))
    here = local(function, operator, y, gradients=True)
    for ball in Ball.both(0.5, here.samples):
        seen.clear()
        random_amplifications(here, ball, draws=3, seed=0)
        assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
        for moved in seen:
            e = (moved - y)[:, operator.mask]
            assert float(e.norm()) == pytest.approx(0.5) and norm_of(moved - y) == pytest.approx(0.5)
            assert ball.name == "l2" or float(e.abs().min()) == pytest.approx(ball.radius)
