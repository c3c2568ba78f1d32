"""The learned convex regulariser: what is certified of it, its derivatives, and reconstructions under it."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import DataError
from pathnorm.imaging import Blur, ConvexRidge, FourierMRI, Identity, Radon, operator_norm, reconstruct
from pathnorm.imaging._ridge_push import extend, retract
from pathnorm.imaging.smooth import RidgeProblem, minimise_smooth
from pathnorm.imaging.train_ridge import Schedule, denoise, train_ridge
from pathnorm.solvers.solution import Status

SHAPE = (14, 13)


def ridge(seed=0, channels=(2, 3), sizes=(3, 3), knots=7):
    """Filters and activations at random, as after training."""
    made = ConvexRidge(channels, sizes, knots=knots, seed=seed)
    rows = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.spline.values.copy_(torch.rand(made.spline.values.shape, generator=rows).cumsum(1))
    return made.project_().scaled(3.0).double().requires_grad_(False)


def image(seed, shape=SHAPE, *, complex_=False):
    rows = np.random.default_rng(seed)
    values = rows.standard_normal(shape) + (1j * rows.standard_normal(shape) if complex_ else 0.0)
    return torch.from_numpy(values)


def broken(seed=0, slope=-3.0):
    """A regulariser with one activation that falls between zero and the first knots beside it."""
    made = ridge(seed)
    middle = made.spline.knots // 2
    with torch.no_grad():
        made.spline.values[0, middle + 1 :] = slope * made.spline.step
        made.spline.values[0, :middle] = -slope * made.spline.step
    return made


class Responses:
    """The filters as an operator."""

    def __init__(self, made, shape):
        self.filters, self.shape = made.filters().detach(), shape

    def A(self, x):  # noqa: N802
        return torch.nn.functional.conv2d(extend(x[None], self.filters.shape[2]), self.filters)

    def A_adjoint(self, y):  # noqa: N802
        return retract(torch.nn.functional.conv_transpose2d(y, self.filters), self.filters.shape[2])[0]


def prox(made, lam, *, steps=40):
    """The proximal map by gradient steps that can be differentiated; enough of them for these conditions."""
    filters = made.filters().detach()
    size = 1.0 / (1.0 + lam * float(made.mu) * 12.0)

    def apply(y):
        x = y
        for _ in range(steps):
            x = x - size * (x - y + lam * made.gradient(x, filters))
        return x

    return apply


def attack(map_, x, *, steps=12, seed=0):
    """Largest ratio ``||f(x + d) - f(x)|| / ||d||`` found by gradient ascent from a random d."""
    d = 0.05 * image(seed + 1, tuple(x.shape))
    base, worst = map_(x).detach(), 0.0
    for _ in range(steps):
        d = d.detach().requires_grad_()
        ratio = (map_(x + d) - base).norm() / d.norm()
        worst = max(worst, float(ratio.detach()))
        (slope,) = torch.autograd.grad(ratio, d)
        d = d + 0.3 * d.detach().norm() * slope / slope.norm()
    return worst


# ---------------------------------------------------------------------------- what is certified


@given(seed=st.integers(0, 10**6))
@settings(max_examples=6, deadline=None)
def test_the_certificate_bounds_what_is_measured(seed):
    made = ridge(seed)
    proved = made.certify()
    assert proved.convex and proved.smallest_slope >= 0.0 and proved.largest_slope <= made.steepest * (1 + 1e-6)
    slopes = np.diff(made.spline.values.detach().numpy(), axis=1) / made.spline.step
    assert proved.smallest_slope == slopes.min() and proved.largest_slope == slopes.max()
    assert proved.parameters == sum(part.numel() for part in made.parameters())
    # The norm on any image is at most the bound, and the bound is nearly reached by large ones.
    norm = operator_norm(Responses(made, (40, 40)), torch.zeros(40, 40, dtype=torch.float64))
    assert 0.9 <= norm <= 2.0 * proved.norm and proved.norm <= 1.0 + 1e-12
    assert proved.norm_reached <= proved.norm <= 1.02 * proved.norm_reached
    one, other = image(seed), image(seed + 1)
    change = (made.gradient(one) - made.gradient(other)).detach()
    assert float(change.norm()) <= proved.lipschitz * float((one - other).norm()) * (1 + 1e-12)
    assert float((change * (one - other)).sum()) >= -1e-12  # monotone: convex


def test_the_norm_bound_holds_between_the_frequencies_of_the_grid():
    made = ridge(3, channels=(5,), sizes=(15,))
    filters = made.filters().detach()[:, 0]
    fine = torch.fft.fft2(filters, s=(1_500, 1_500)).abs().square().sum(0).max()
    assert made.certify().norm_reached ** 2 <= float(fine) * (1 + 1e-9)
    assert float(fine) <= 1.0 + 1e-12


def test_filters_are_the_convolutions_one_after_the_other():
    made = ridge(1, channels=(2, 3, 4), sizes=(5, 3, 3))
    x = image(0, (20, 21))[None, None]
    expected = x
    for place, weights in enumerate(made.convolutions):
        kernels = weights - weights.mean((2, 3), keepdim=True) if place == 0 else weights
        expected = torch.nn.functional.conv2d(expected, kernels)
    found = torch.nn.functional.conv2d(x, made.filters())
    torch.testing.assert_close(found / found.norm(), expected / expected.norm())


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_value_is_convex_even_and_blind_to_constants(seed):
    made = ridge(seed)
    one, other = 2 * image(seed), 2 * image(seed + 1)
    middle = float(made.value(0.5 * (one + other)))
    assert middle <= 0.5 * float(made.value(one) + made.value(other)) * (1 + 1e-12)
    assert float(made.value(-one)) == pytest.approx(float(made.value(one)))
    assert float(made.value(torch.full_like(one, 3.0))) == pytest.approx(0.0, abs=1e-12)
    assert float(made.value(one + 3.0)) == pytest.approx(float(made.value(one)))
    # Twice the contrast at half of mu is twice the value.
    assert float(made.scaled(1.5).value(2 * one)) == pytest.approx(2 * float(made.value(one)))


@pytest.mark.parametrize("complex_", [False, True])
def test_gradient_is_the_derivative_of_the_value(complex_):
    made = ridge(2)
    x = image(0, complex_=complex_).requires_grad_()
    made.value(x).backward()
    torch.testing.assert_close(x.grad, made.gradient(x).detach())
    both = torch.stack([x.detach(), 2 * x.detach()])
    torch.testing.assert_close(made.gradient(both)[1], made.gradient(2 * x).detach())
    torch.testing.assert_close(made.value(both)[1], made.value(2 * x).detach())


def test_the_derivative_written_out_is_that_of_finite_differences():
    made = ridge(4).requires_grad_()
    x, noise = image(0, (2, 9, 8)), torch.tensor([0.05, 0.1], dtype=torch.float64)
    target = image(1, (2, 9, 8))

    def loss():
        return ((denoise(made, x, noise, steps=150, solves=60) - target) ** 2).sum()

    loss().backward()
    for part in made.parameters():
        direction = torch.from_numpy(np.random.default_rng(0).standard_normal(part.shape))
        ends = []
        for side in (1e-6, -1e-6):
            with torch.no_grad():
                part += side * direction
                ends.append(float(loss().detach()))
                part -= side * direction
        assert float((part.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_a_falling_activation_is_caught_by_certificate_attack_and_solver():
    good, bad = ridge(0), broken(0)
    lam = 0.3
    assert good.certify().convex and not bad.certify().convex
    assert bad.certify().smallest_slope == pytest.approx(-3.0)
    assert "NOT CONVEX" in str(bad.certify())
    x = 0.02 * image(5)
    assert attack(prox(good, lam), x) <= 1.0 + 1e-9
    assert attack(prox(bad, lam), x) > 1.05
    with pytest.raises(ValueError, match="must be convex"):
        reconstruct(x + 0.1, Identity(SHAPE), bad, lam)
    assert bad.project_().certify().convex


def test_the_denoiser_is_nonexpansive_under_attack():
    for seed in range(2):
        made = ridge(seed)
        ratio = attack(prox(made, 1.0), 0.3 * image(seed), steps=8, seed=seed)
        assert 0.3 < ratio <= 1.0 + 1e-9


# ---------------------------------------------------------------------------- reconstruction


def operators():
    return {
        "identity": Identity(SHAPE),
        "blur": Blur(torch.ones(3, 3, dtype=torch.float64) / 9, SHAPE),
        "mri": FourierMRI(torch.from_numpy(np.random.default_rng(0).random(SHAPE) < 0.6)),
        "radon": Radon(SHAPE, np.linspace(0.0, 3.0, 12)),
    }


@pytest.mark.parametrize("name", sorted(operators()))
def test_reconstruction_is_certified_under_every_operator(name):
    operator, made = operators()[name], ridge(1)
    y = operator.A(image(0, complex_=operator.complex_image))
    found = reconstruct(y, operator, made, 0.05, tol=1e-5, max_iter=5_000)
    assert found.status is Status.CONVERGED and 0.0 <= found.certificate.gap <= 1e-5
    assert found.image.shape == SHAPE and found.image.is_complex() == operator.complex_image
    value = 0.5 * float((operator.A(found.image) - y).norm()) ** 2 / operator.norm() ** 2
    assert found.certificate.primal == pytest.approx(value + 0.05 * float(made.value(found.image)))
    assert (found.over == "all images") == (name == "identity")
    assert found.over in str(found) and "R(x), R of mu 3" in found.objective


def test_optimum_is_that_of_an_interior_point_solver():
    # With one segment in the middle and flat ones outside psi is Huber's function.
    made = ConvexRidge((2,), (3,), knots=5, seed=1).double().scaled(4.0)
    shape = (7, 8)
    with torch.no_grad():
        made.spline.values.copy_(torch.tensor([-0.5, -0.5, 0.0, 0.5, 0.5]).expand(2, 5))
    y, lam = image(0, shape), 0.3
    basis = torch.eye(56, dtype=torch.float64).reshape(-1, *shape)
    filters = Responses(made, shape)
    W = np.stack([filters.A(x).numpy().ravel() for x in basis], axis=1)
    x = cp.Variable(56)
    # huber(t, 1/2) / 2 is t^2 / 2 up to 1/2 and |t| / 2 - 1/8 beyond.
    R = cp.sum(cp.huber(4.0 * W @ x, 0.5)) / 2.0 / 4.0
    best = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y.numpy().ravel()) + lam * R)).solve(solver=cp.CLARABEL)
    found = reconstruct(y, Identity(shape), made, lam, tol=1e-9)
    assert found.certificate.primal == pytest.approx(best, rel=1e-7)
    assert found.certificate.dual <= best * (1 + 1e-7)


@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(operators())), near=st.floats(0.0, 1.0))
@settings(max_examples=12, deadline=None)
def test_certificates_bound_the_optimum_whatever_the_answer_is(seed, name, near):
    operator, made = operators()[name], ridge(seed)
    y = operator.A(image(seed, complex_=operator.complex_image))
    problem = RidgeProblem(operator, y, operator.norm(), made, 0.2)
    start = operator.A_adjoint(y) / problem.scale**2
    good, certificate, _ = minimise_smooth(problem, start, tol=1e-6, max_iter=100)
    x = good + near * image(seed + 1, complex_=operator.complex_image)
    found = problem.certify(x)
    # The optimum of the bounded problem is at most the value at the good answer only if that is bounded so itself.
    if problem.convexity > 0.0 or float(good.abs().max()) <= problem.reach(x):
        assert found.dual <= certificate.primal + 1e-12
    assert found.gap >= -1e-12 and certificate.gap >= -1e-12
    # Where nothing is found yet, the box is not empty.
    assert problem.certify(torch.zeros_like(x)).gap > 1e-3


def test_discrepancy_finds_a_weight_and_a_start_saves_steps():
    made, truth = ConvexRidge((4,), (3,), seed=0), torch.zeros(24, 24, dtype=torch.float64)
    truth[8:20, 5:18] = 1.0
    y = truth + 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal(truth.shape))
    found = reconstruct(y, Identity((24, 24)), made, "discrepancy", noise=0.1, tol=1e-5)
    assert 0.97 * 0.1 * 24 <= found.misfit <= 0.1 * 24
    again = reconstruct(y, Identity((24, 24)), made, found.lam, tol=1e-5, start=found)
    assert again.n_iter == 0


# ---------------------------------------------------------------------------- training, saving, refusing


def stripes(seed):
    rows = np.random.default_rng(seed)
    found = np.zeros((48, 48))
    for _ in range(12):
        top, left = rows.integers(0, 40, 2)
        found[top : top + rows.integers(4, 20), left : left + rows.integers(4, 20)] = rows.random()
    return torch.from_numpy(found).float()


def test_training_beats_its_start_at_the_minimiser_and_keeps_convexity():
    said = []
    start = ConvexRidge((4,), (3,), knots=11)
    with torch.no_grad():
        start.law[0, 0] -= 0.7  # too little regularisation
    before = [part.clone() for part in start.parameters()]
    plan = Schedule(steps=60, descents=40, solves=15, batch=6, patch=20)
    found = train_ridge([stripes(seed) for seed in range(4)], start, schedule=plan, progress=lambda *a: said.append(a))
    assert said[-1] == ("training", 60, 60) and len(found.losses) == 2
    assert found.ridge.certify().convex
    assert all(torch.equal(old, new) for old, new in zip(before, start.parameters(), strict=True))
    truth = stripes(99).double()
    noisy = truth + 15 / 255 * torch.from_numpy(np.random.default_rng(0).standard_normal(truth.shape))
    errors = [float((noisy - truth).norm())]
    for made in (start, found.ridge):
        scaled, lam = made.for_noise(15 / 255)
        errors.append(float((reconstruct(noisy, Identity((48, 48)), scaled, lam).image - truth).norm()))
    assert errors[2] < 0.98 * errors[1] < errors[0]


def test_training_repeats_and_weights_travel(tmp_path):
    plan = Schedule(steps=5, descents=2, solves=2, batch=2, patch=24)
    one, other = (train_ridge([stripes(0)], ConvexRidge((2,), (5,)), schedule=plan, seed=3).ridge for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "ridge.pt")
    loaded = ConvexRidge((2,), (5,), seed=7)
    loaded.load_state_dict(torch.load(tmp_path / "ridge.pt", weights_only=True))
    x = image(0).float()
    assert torch.equal(one.gradient(x), other.gradient(x))
    assert torch.equal(one.gradient(x), loaded.gradient(x).detach())
    assert loaded.for_noise(0.1)[1] == one.for_noise(0.1)[1]


def test_a_noise_level_in_other_units_is_the_same_picture():
    made, x = ridge(0), image(0)
    (one, lam), (other, much) = made.for_noise(0.1), made.for_noise(25.5, contrast=255.0)
    assert much == pytest.approx(255.0 * lam)
    torch.testing.assert_close(other.gradient(255.0 * x).detach(), one.gradient(x).detach())


def not_finite():
    made = ridge(0)
    with torch.no_grad():
        made.spline.values[0, 0] = torch.nan
    return made


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: ConvexRidge((2, 3), (3,)), ValueError, "equally many"),
        (lambda: ConvexRidge((2,), (4,)), ValueError, "must be odd"),
        (lambda: ConvexRidge((2,), (1,)), ValueError, "the first at least 3"),
        (lambda: ConvexRidge((2,), (201,)), ValueError, "at most 128 wide. Got 201"),
        (lambda: ConvexRidge(knots=4), ValueError, "knots must be odd"),
        (lambda: ridge().scaled(0.0), ValueError, "positive and finite"),
        (lambda: ridge().for_noise(-1.0), ValueError, "noise and contrast"),
        (lambda: ridge().gradient(torch.ones(4, 9)), ValueError, "above the 5 of the filters"),
        (lambda: ridge().gradient(torch.ones(9, 9, dtype=torch.int64)), TypeError, "x.double"),
        (lambda: not_finite().certify(), DataError, "must be finite"),
        (lambda: train_ridge([torch.ones(8, 8)]), ValueError, "at least 32"),
        (lambda: train_ridge([torch.full((50, 50), 255.0)]), DataError, "between 0 and 1"),
        (lambda: Schedule(noise=(0.0, 0.1)), ValueError, "0 < noise"),
        (lambda: Schedule(steps=0), ValueError, "at least 1"),
        (lambda: train_ridge([]), ValueError, "Got none"),
        (lambda: reconstruct(torch.ones(4, 4), Identity((4, 4)), ridge(), 0.1), ValueError, "both sizes"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()
