"""The parts of an audit: null space, details, more samples, the differentiable total variation, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import DataError
from pathnorm.imaging import Blur, FourierMRI, Identity, Radon, reconstruct
from pathnorm.imaging.detail import GLYPHS, insert, seen_of
from pathnorm.imaging.more_samples import require_more, richer
from pathnorm.imaging.nullspace import null_space_part
from pathnorm.imaging.perturbations import Ball, Samples, norm_of, pack
from pathnorm.imaging.primal_dual import TotalVariationSteps
from pathnorm.imaging.reconstructors import Checked
from pathnorm.imaging.scans import Scans

N = 8


def noise(seed, *shape, complex_=False):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0.0))


def mask_of(*columns, n=N):
    mask = torch.zeros(n, n)
    mask[:, list(columns)] = 1
    return mask


OPERATORS = {
    "identity": Identity((N, N)),
    "one coil": FourierMRI(mask_of(0, 3, 4)),
    "two coils": FourierMRI(mask_of(0, 4), noise(1, 2, N, N, complex_=True)),
    "radon": Radon((N, N), [0.0, 1.0, 2.0]),
    "blur": Blur(torch.tensor([[0.25, 0.5, 0.25]]).double(), (N, N)),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_null_space_part_is_that_of_the_pseudo_inverse(name):
    operator = OPERATORS[name]
    v = noise(2, N, N, complex_=operator.complex_image)
    basis = torch.eye(N * N, dtype=v.dtype).reshape(-1, N, N)
    A = torch.stack([operator.A(e).reshape(-1) for e in basis], dim=1)
    expected = v.reshape(-1) - torch.linalg.pinv(A, rtol=1e-10) @ (A @ v.reshape(-1))
    found = null_space_part(operator, v, tol=1e-12, max_iter=2_000)
    torch.testing.assert_close(found.image.reshape(-1), expected, atol=1e-5, rtol=0.0)
    assert found.exact == (name in ("identity", "one coil"))
    assert found.residual < 1e-8
    # A projection: nothing is left to take away.
    again = null_space_part(operator, found.image, tol=1e-12, max_iter=2_000)
    torch.testing.assert_close(again.image, found.image, atol=1e-5, rtol=0.0)


def test_what_is_not_sampled_is_the_null_space_of_a_mask():
    operator, v = OPERATORS["one coil"], noise(3, N, N, complex_=True)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(v.numpy()))) * ~operator.mask.numpy()
    expected = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum)))
    np.testing.assert_allclose(null_space_part(operator, v).image.numpy(), expected, atol=1e-12)


@given(seed=st.integers(0, 10**6), glyph=st.sampled_from(sorted(GLYPHS)), contrast=st.floats(0.1, 10.0))
@settings(max_examples=25, deadline=None)
def test_a_detail_is_inside_and_seen_as_it_is(seed, glyph, contrast):
    detail = insert((20, 24), glyph, contrast, np.random.default_rng(seed))
    assert float(detail.image.sum()) == pytest.approx(contrast * sum(line.count("#") for line in GLYPHS[glyph]))
    assert float(detail.image[[0, -1]].sum() + detail.image[:, [0, -1]].sum()) == 0.0
    assert seen_of(detail, detail.image) == pytest.approx((1.0, 0.0))
    elsewhere = torch.where(detail.near, 0.0, contrast)
    share, away = seen_of(detail, 0.25 * detail.image + elsewhere)
    assert share == pytest.approx(0.25)
    assert away == pytest.approx(float((~detail.near).sum()) * contrast**2 / norm_of(detail.image) ** 2)
    # 5 x 5 and two around it.
    assert int(detail.near.sum()) <= 9 * 9


def test_no_room_for_a_detail():
    with pytest.raises(ValueError, match="must fit"):
        insert((4, 9), "disc", 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("turn", [False, True])
def test_more_lines_are_supersets(turn):
    mask = mask_of(3, 4, 5, 9, n=16)
    operators = richer(FourierMRI(mask.T if turn else mask), shares=(1.25, 1.5, 9.0))
    masks = [operator.mask.T if turn else operator.mask for operator in operators]
    assert [int(found[0].sum()) for found in masks] == [5, 6, 16]
    for before, after in zip([mask.bool(), *masks], masks, strict=False):
        assert bool((after | ~before).all()) and bool((after == after[:1]).all())
    require_more(tuple(operators))
    with pytest.raises(ValueError, match="all samples"):
        require_more(tuple(reversed(operators)))


def test_more_points_and_more_views():
    points = FourierMRI(torch.from_numpy(np.random.default_rng(0).random((16, 16)) < 0.2))
    more = richer(points, shares=(1.5,))[0]
    assert int(more.mask.sum()) == round(1.5 * int(points.mask.sum()))
    radon = Radon((9, 9), np.linspace(0.0, np.pi, 4, endpoint=False), detectors=11, centre=4.0)
    twice = richer(radon, shares=(2.0,))[0]
    np.testing.assert_allclose(np.sort(twice.angles), np.linspace(0.0, np.pi, 8, endpoint=False))
    np.testing.assert_allclose(twice.angles[:4], radon.angles)
    assert twice.data_shape == (8, 11) and twice.centre == 4.0
    assert richer(Identity((9, 9))) == ()


def test_balls_of_both_norms_and_their_furthest_points():
    samples = Samples.of(FourierMRI(mask_of(0, 4)), torch.zeros(1, N, N, dtype=torch.complex128))
    assert (samples.count, samples.dimension) == (2 * N, 4 * N)
    gradient = samples.draw(torch.Generator().manual_seed(0))
    two, inf = Ball.both(3.0, samples)
    for ball in (two, inf):
        best = ball.furthest(gradient, torch.zeros_like(gradient))
        assert norm_of(best) == pytest.approx(3.0)
        value = float(torch.vdot(gradient.flatten(), best.flatten()).real)
        for seed in range(20):
            other = ball.draw(samples, torch.Generator().manual_seed(seed))
            assert float(torch.vdot(gradient.flatten(), other.flatten()).real) <= value
    torch.testing.assert_close(samples.unpack(pack(gradient)), gradient)


def test_total_variation_by_steps_is_that_of_the_solver():
    rng = np.random.default_rng(0)
    truth = torch.zeros(16, 16, dtype=torch.float64)
    truth[3:9, 4:12] = 1.0
    operator = FourierMRI(torch.from_numpy(rng.random((16, 16)) < 0.6))
    y = operator.A(truth) + 0.02 * operator.mask * noise(1, 1, 16, 16, complex_=True)
    steps = TotalVariationSteps(operator, y, 0.02, steps=500)
    answer = steps.solve(y)
    expected = reconstruct(y, operator, "tv", 0.02, tol=1e-4, max_iter=1_000)
    assert answer.certificate.gap < 5e-4
    assert answer.certificate.primal == pytest.approx(expected.certificate.primal, rel=5e-4)
    torch.testing.assert_close(steps(y), answer.image)
    chosen = TotalVariationSteps(operator, y, 1.0, steps=200).by_discrepancy(y, 0.03)
    assert float((operator.A(chosen(y)) - y).norm()) == pytest.approx(0.03 * float(operator.mask.sum()) ** 0.5, rel=0.1)


def test_the_derivative_of_total_variation_is_that_of_its_steps():
    operator = Radon((N, N), [0.0, 0.7, 1.4, 2.2])
    y = operator.A(noise(0, N, N)).requires_grad_()
    steps = TotalVariationSteps(operator, y.detach(), 0.3, steps=80)
    weights, direction = noise(1, N, N), noise(2, *y.shape)
    (gradient,) = torch.autograd.grad((steps(y) * weights).sum(), y)
    ahead, behind = ((steps(y.detach() + h * direction) * weights).sum() for h in (1e-5, -1e-5))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5)


class Counter:
    def __init__(self):
        self.count = 0

    def __call__(self, y):
        self.count += 1
        return y.real * self.count


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (None, TypeError, "callable"),
        (lambda y: y[0], DataError, "one image of shape"),
        (lambda y: y + 1j, DataError, "real images"),
        (lambda y: y * np.nan, DataError, "finite"),
        (lambda y: "image", DataError, "tensor or an array"),
        (lambda y: y.missing, DataError, "raised AttributeError"),
        (lambda y: y.add_(1.0), DataError, "must not write"),
        (lambda y: y + torch.rand(()), DataError, "same image"),
        (Counter(), DataError, "same image"),
        (torch.nn.Dropout(), ValueError, "evaluation mode"),
    ],
)
def test_a_callable_that_is_no_reconstructor_is_refused(function, error, said):
    with pytest.raises(error, match=said):
        Checked(function, (N, N), complex_image=False).require_repeatable(noise(0, N, N))


def test_precision_and_arrays():
    seen = []

    def function(y):
        seen.append(y.dtype)
        return y.numpy()

    assert Checked(function, (N, N), complex_image=False, dtype=torch.float32)(noise(0, N, N)).dtype == torch.float64
    assert seen == [torch.float32]
    module = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
    wrapped = torch.nn.Sequential(torch.nn.Unflatten(0, (1, 1, N)), module, torch.nn.Flatten(0, 2)).eval()
    model = Checked(wrapped, (N, N), complex_image=False)
    assert model.dtype == torch.float32 and model.differentiable(noise(0, N, N))
    with pytest.raises(ValueError, match="float64 or"):
        Checked(function, (N, N), complex_image=False, dtype=torch.int64)


def test_what_is_handed_over_is_a_copy():
    y = noise(0, N, N)
    before = y.clone()
    with pytest.raises(DataError, match="must not write"):
        Checked(lambda data: data.mul_(2.0), (N, N), complex_image=False).require_repeatable(y)
    assert torch.equal(y, before)


def test_more_samples_keep_the_noise_of_those_before():
    operator = FourierMRI(mask_of(1, 3, 4))
    scans = Scans.of(operator, noise(0, 2, N, N), noise=0.3, seed=5)
    more = scans.measured_by(richer(operator, shares=(2.0,))[0])
    for before, after, image in zip(scans.data, more, scans.images, strict=True):
        torch.testing.assert_close(after * operator.mask, before)
        assert norm_of(before - operator.A(image)) == pytest.approx(scans.noise_size, rel=0.5)
    assert not torch.equal(scans.data[0] - operator.A(scans.images[0]), scans.data[1] - operator.A(scans.images[1]))
