"""Reconstructions against a general solver, and certificates that hold for any answer."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import DataError
from pathnorm.imaging import Blur, FourierMRI, Identity, Radon, SparseProblem, reconstruct
from pathnorm.imaging.proximal_gradient import proximal_gradient
from pathnorm.imaging.regularizers import TotalVariation, Wavelet
from pathnorm.imaging.splitting import splitting, spread
from pathnorm.solvers.solution import Status

SHAPE = (8, 8)
PARTS = {"tv": (TotalVariation(),), "wavelet": (Wavelet("haar"),), "tv+wavelet": (TotalVariation(), Wavelet("haar"))}


def image(seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    found = np.zeros(shape)
    for _ in range(4):
        top, left = rng.integers(0, shape[0] - 2), rng.integers(0, shape[1] - 2)
        found[top : top + rng.integers(2, 6), left : left + rng.integers(2, 6)] += rng.standard_normal()
    return torch.from_numpy(found)


def matrix_of(linear, n):
    """The matrix of a linear map of real images."""
    return np.stack([linear(row.reshape(SHAPE)).numpy().ravel() for row in torch.eye(n, dtype=torch.float64)], axis=1)


def optimum(operator, y, lam, regularizer):
    """The same objective by an interior point solver."""
    n = SHAPE[0] * SHAPE[1]
    x, scale = cp.Variable(n), operator.norm()
    A = matrix_of(operator.A, n)
    value = cp.sum_squares(A @ x - y.numpy().ravel()) / (2.0 * scale**2)
    for part in PARTS[regularizer]:
        K = matrix_of(part.K, n)
        if part.name == "tv":
            value += lam * cp.sum(cp.norm(cp.vstack([K[:n] @ x, K[n:] @ x]), 2, axis=0))
        else:
            value += lam * cp.norm1(K @ x)
    return cp.Problem(cp.Minimize(value)).solve(solver=cp.CLARABEL)


def cases():
    return {"identity": Identity(SHAPE), "radon": Radon(SHAPE, np.linspace(0.0, 3.0, 5))}


@pytest.mark.parametrize("regularizer", sorted(PARTS))
@pytest.mark.parametrize("name", sorted(cases()))
def test_optimum_is_that_of_an_interior_point_solver(name, regularizer):
    operator = cases()[name]
    y = operator.A(image(1)) + 0.1 * torch.from_numpy(np.random.default_rng(2).standard_normal(operator.data_shape))
    found = reconstruct(y, operator, regularizer, 0.05, wavelet="haar", tol=1e-7, max_iter=5_000)
    best = optimum(operator, y, 0.05, regularizer)
    assert found.status is Status.CONVERGED
    assert found.certificate.dual <= best * (1 + 1e-7)
    assert found.certificate.primal == pytest.approx(best, rel=2e-7)
    assert found.misfit == pytest.approx(float((operator.A(found.image) - y).norm()))
    assert f"{operator.norm():.6g}" in found.objective


@pytest.mark.parametrize("method", [proximal_gradient, splitting])
@pytest.mark.parametrize("regularizer", sorted(PARTS))
def test_every_method_goes_to_the_same_optimum(method, regularizer):
    operator = Radon(SHAPE, np.linspace(0.0, 3.0, 5))
    y = operator.A(image(1)) + 0.1 * torch.from_numpy(np.random.default_rng(2).standard_normal(operator.data_shape))
    problem = SparseProblem(operator, y, operator.norm(), PARTS[regularizer], 0.05)
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    iterates = method(problem, zero, [part.K(zero) for part in problem.regularizers])
    x, dual = next(pair for step, pair in enumerate(iterates) if step == 500)
    certificate = problem.certify(x, dual)
    assert certificate.primal == pytest.approx(optimum(operator, y, 0.05, regularizer), rel=1e-4)
    assert certificate.gap <= 1e-3


def test_splitting_is_chosen_where_frequencies_are_seen_unlike():
    flat, shape = torch.zeros(64, 64, dtype=torch.float64), (64, 64)
    assert spread(Identity(shape), flat) == pytest.approx(1.0)
    kernel = torch.full((5, 5), 1.0 / 25.0, dtype=torch.float64)
    # Of a convolution the spread is exact.
    response = torch.fft.fft2(kernel, s=shape).abs().square()
    assert spread(Blur(kernel, shape), flat) == pytest.approx(float(response.max() / response.mean()), rel=1e-9)


def test_a_large_lam_is_solved_too():
    """Gradient steps leave a gap of 0.2 here: their proximal map would need hundreds of inner steps."""
    shape = (32, 32)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, [3, 8, 11, *range(13, 19), 22, 27]] = True
    operator, truth = FourierMRI(mask), image(3, shape).to(torch.complex128)
    y = operator.A(truth)
    found = reconstruct(y, operator, "tv", 10.0, tol=1e-4)
    assert spread(operator, truth) < 10.0 and found.status is Status.CONVERGED and found.n_iter < 1_000
    iterates = proximal_gradient(found.problem, torch.zeros_like(truth), [torch.zeros_like(found.dual[0])])
    x, dual = next(pair for step, pair in enumerate(iterates) if step == found.n_iter)
    assert found.problem.certify(x, dual).gap > 0.1


def test_few_views_are_solved_to_a_small_gap():
    shape = (48, 48)
    operator = Radon(shape, np.linspace(0.0, np.pi, 15, endpoint=False))
    truth = image(3, shape)
    y = operator.A(truth) + 0.3 * torch.from_numpy(np.random.default_rng(0).standard_normal(operator.data_shape))
    assert spread(operator, truth) > 10.0
    found = reconstruct(y, operator, "tv", 0.005, tol=1e-3)
    assert found.status is Status.CONVERGED and found.n_iter < 400
    # Gradient steps are nowhere near after as many.
    iterates = proximal_gradient(found.problem, torch.zeros_like(truth), [torch.zeros_like(found.dual[0])])
    x, dual = next(pair for step, pair in enumerate(iterates) if step == found.n_iter)
    assert found.problem.certify(x, dual).gap > 0.1


@given(seed=st.integers(0, 10**6), regularizer=st.sampled_from(sorted(PARTS)), near=st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_certificates_bound_the_optimum_whatever_the_answer_is(seed, regularizer, near):
    operator, rng = Identity(SHAPE), np.random.default_rng(seed)
    y = image(seed) + 0.1 * torch.from_numpy(rng.standard_normal(SHAPE))
    good = reconstruct(y, operator, regularizer, 0.1, wavelet="haar", tol=1e-6, max_iter=3_000)
    problem = SparseProblem(operator, y, 1.0, PARTS[regularizer], 0.1)
    x = good.image + near * torch.from_numpy(rng.standard_normal(SHAPE))
    dual = [part + near * torch.from_numpy(rng.standard_normal(part.shape)) for part in good.dual]
    certificate = problem.certify(x, dual)
    assert certificate.dual <= good.certificate.primal + 1e-12
    assert good.certificate.dual <= certificate.primal + 1e-12
    assert certificate.gap >= -1e-12


@pytest.mark.parametrize("regularizer", sorted(PARTS))
def test_complex_images_from_several_coils(regularizer):
    rng = np.random.default_rng(0)
    shape = (32, 32)
    coils = torch.from_numpy(rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape)))
    mask = torch.from_numpy(rng.random(shape) < 0.5)
    mask[14:18] = True
    operator = FourierMRI(mask, coils)
    truth = image(3, shape) * np.exp(0.3j)
    y = operator.A(truth)
    found = reconstruct(y, operator, regularizer, 1e-4, wavelet="haar", tol=1e-5, max_iter=5_000)
    assert found.certificate.gap <= 1e-5 and found.image.is_complex()
    assert float((found.image - truth).norm() / truth.norm()) < 0.05
    # A phase of the measurements is one of the image.
    turned = reconstruct(1j * y, operator, regularizer, 1e-4, wavelet="haar", tol=1e-5, max_iter=5_000)
    assert turned.certificate.primal == pytest.approx(found.certificate.primal, rel=2e-5)


def test_a_lam_means_the_same_for_an_operator_in_other_units():
    class Scaled(Identity):
        def A(self, x):  # noqa: N802
            return 7.0 * x

        A_adjoint = A

        def norm(self):
            return 7.0

    y = image(0) + 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE))
    plain = reconstruct(y, Identity(SHAPE), "tv", 0.1, tol=1e-8, max_iter=5_000)
    scaled = reconstruct(7.0 * y, Scaled(SHAPE), "tv", 0.1, tol=1e-8, max_iter=5_000)
    torch.testing.assert_close(plain.image, scaled.image, rtol=1e-3, atol=1e-4)


def test_discrepancy_fits_the_noise_and_sure_is_near_the_best():
    rng, truth = np.random.default_rng(0), image(5, (32, 32))
    y = truth + 0.2 * torch.from_numpy(rng.standard_normal(truth.shape))
    operator = Identity((32, 32))
    found = reconstruct(y, operator, "tv", "discrepancy", noise=0.2, tol=1e-4)
    assert 0.97 * 0.2 * 32 <= found.misfit <= 0.2 * 32
    risks = {
        lam: float((reconstruct(y, operator, "tv", lam, tol=1e-4).image - truth).norm())
        for lam in np.geomspace(0.01, 1.0, 9)
    }
    sure = reconstruct(y, operator, "tv", "sure", noise=0.2, tol=1e-4)
    assert float((sure.image - truth).norm()) <= 1.15 * min(risks.values())


def test_what_was_handed_in_is_not_written_to():
    y = image(0) + 0.1
    before = y.clone()
    first = reconstruct(y, Identity(SHAPE), "tv", 0.1)
    kept = first.image.clone()
    reconstruct(y, Identity(SHAPE), "tv", 0.05, start=first)
    assert torch.equal(y, before) and torch.equal(first.image, kept)


def test_an_operator_of_another_library_is_an_object_with_two_methods():
    class Foreign:
        def A(self, x):  # noqa: N802
            return x[::2]

        def A_adjoint(self, y):  # noqa: N802
            found = torch.zeros(16, 8, dtype=y.dtype)
            found[::2] = y
            return found

    found = reconstruct(image(0), Foreign(), "tv", 1e-3, tol=1e-4)
    assert found.image.shape == (16, 8) and found.certificate.gap <= 1e-4


class NotAdjoint(Identity):
    def A_adjoint(self, y):  # noqa: N802
        return y.flip(0)


MRI = FourierMRI(torch.eye(8))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: reconstruct(image(0), Identity((9, 8)), "tv", 0.1), ValueError, r"shape \(9, 8\). Got \(8, 8\)"),
        (lambda: reconstruct(torch.full(SHAPE, torch.nan), Identity(SHAPE), "tv", 0.1), DataError, "finite"),
        (lambda: reconstruct(torch.zeros(SHAPE), Identity(SHAPE), "tv", 0.1), DataError, "not all be zero"),
        (lambda: reconstruct(image(0)[None], MRI, "tv", 0.1), ValueError, "k-space has a phase"),
        (lambda: reconstruct(1j * torch.ones(2, *SHAPE), MRI, "tv", 0.1), ValueError, "Got \\(2, 8, 8\\)"),
        (lambda: reconstruct(1j * torch.ones(1, *SHAPE), MRI, "tv", 0.1), ValueError, "zero where the mask"),
        (lambda: reconstruct(image(0), NotAdjoint(SHAPE), "tv", 0.1), ValueError, "must be the adjoint"),
        (lambda: reconstruct(image(0), Identity(SHAPE), "l0", 0.1), ValueError, "tv, wavelet, tv\\+wavelet"),
        (lambda: reconstruct(image(0), Identity(SHAPE), "tv", -1.0), ValueError, "positive and finite"),
        (lambda: reconstruct(image(0), Identity(SHAPE), "tv", "gcv"), ValueError, "discrepancy, sure"),
        (lambda: reconstruct(image(0), Identity(SHAPE), "tv"), ValueError, "noise="),
        (lambda: reconstruct(image(0), Identity(SHAPE), "tv", 0.1, tol=0.0), ValueError, "must be positive"),
        (
            lambda: reconstruct(image(0)[:7, :7], Identity((7, 7)), "wavelet", 0.1),
            ValueError,
            "two even sizes",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()
