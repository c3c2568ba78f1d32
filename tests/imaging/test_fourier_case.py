"""The convex implicit representation: certificates over every neuron, recovery, and independent references."""

from __future__ import annotations

import functools
import warnings

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm import ShallowNet
from pathnorm.errors import CertificateWarning, DataError
from pathnorm.imaging import FourierRidgeProblem, fit_fourier_ridge
from pathnorm.imaging.fourier_problem import features_at, fourier_frequencies


def pixels(shape):
    axes = np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def network(seed, *, cutoff, dimension, neurons):
    rng = np.random.default_rng(seed)
    d = 2 * len(fourier_frequencies(dimension, cutoff))
    W = rng.standard_normal((neurons, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    v = rng.choice([-1.0, 1.0], (neurons, 1)) * rng.uniform(1.0, 2.0, (neurons, 1))
    return ShallowNet(W, rng.uniform(-0.3, 0.3, neurons), v, np.zeros((d, 1)), rng.standard_normal(1))


def sums(image, K):
    """Fourier coefficients as the sums that define them."""
    x = pixels(image.shape)
    k = np.stack(np.meshgrid(*[np.arange(-K, K + 1)] * image.ndim, indexing="ij"), axis=-1).reshape(-1, image.ndim)
    return (np.exp(-2j * np.pi * k @ x.T) @ image.ravel() / image.size).reshape((2 * K + 1,) * image.ndim)


def case(seed, *, shape=(48,), cutoff=1, neurons=1, K=5):
    net = network(seed, cutoff=cutoff, dimension=len(shape), neurons=neurons)
    image = net(features_at(pixels(shape), cutoff))[:, 0].reshape(shape)
    return net, image, sums(image, K)


def test_frequencies_are_half_of_a_disc():
    assert fourier_frequencies(1, 3).tolist() == [[1], [2], [3]]
    for cutoff, pairs in ((1.0, 2), (1.5, 4), (2.0, 6)):
        found = fourier_frequencies(2, cutoff)
        assert len(found) == pairs
        assert len({tuple(row) for row in np.concatenate([found, -found]).tolist()}) == 2 * pairs


@pytest.mark.parametrize("shape", [(9,), (12,), (7, 10)])
def test_samples_are_their_sums_and_pulls_are_the_adjoint(shape):
    rng, K = np.random.default_rng(0), 3
    image = rng.standard_normal(shape)
    y = sums(image, K)
    problem = FourierRidgeProblem.from_samples(y, shape, cutoff=1, lam=0.1)
    np.testing.assert_allclose(problem.low_pass(image.ravel()[None])[0], y, atol=1e-13)
    q = rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape)
    r = problem.pulls(q)
    q[tuple(size // 2 for size in q.shape)] = 0.0
    assert image.ravel() @ r[:, 0] == pytest.approx(float((q.conj() * y).sum().real), rel=1e-10)
    assert abs(r.sum()) < 1e-12


@pytest.mark.parametrize(("seed", "neurons"), [(0, 1), (3, 1)])
def test_a_network_is_recovered_from_its_low_frequencies(seed, neurons):
    net, image, y = case(seed, neurons=neurons, K=8)
    found = fit_fourier_ridge(y, image.shape, cutoff=1, lam=1e-4)
    assert found.certificate.scope == "function_space" and found.certificate.gap <= 1e-4
    assert np.linalg.norm(found.image - image) < 3e-3 * np.linalg.norm(image - image.mean())
    # No network that fits has a smaller norm.
    assert found.path_norm <= net.path_norm()
    unit = pixels(image.shape)
    np.testing.assert_allclose(found(unit), found.image.ravel(), atol=1e-12)


def test_two_dimensions_are_certified_by_branch_and_bound():
    _, image, y = case(1, shape=(12, 12), neurons=1, K=3)
    found = fit_fourier_ridge(y, image.shape, cutoff=1, lam=1e-3, tol=1e-3)
    assert found.certificate.scope == "function_space" and found.certificate.method == "branch and bound"
    assert found.certificate.gap <= 1e-3 and "certified optimal" in str(found)


def test_beyond_five_dimensions_nothing_is_called_certified():
    _, image, y = case(1, shape=(8, 8), cutoff=1.5, neurons=1, K=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)
        found = fit_fourier_ridge(y, image.shape, cutoff=1.5, lam=1e-2, tol=1e-3, max_rounds=10)
    assert found.certificate.scope == "dictionary" and found.certificate.method == "search"
    assert found.certificate.proved >= found.certificate.gap and "not certified" in str(found)


def test_no_dictionary_does_better_by_an_interior_point_solver():
    rng = np.random.default_rng(0)
    _, image, y = case(2, neurons=2)
    y = y + 0.01 * (rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape))
    lam = 0.01
    found = fit_fourier_ridge(y, image.shape, cutoff=1, lam=lam)
    gamma = features_at(pixels(image.shape), 1)
    angles = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    W = np.concatenate([np.stack([np.cos(angles), np.sin(angles)], axis=1).repeat(8, axis=0), found.network.W])
    b = np.concatenate([np.tile(np.linspace(-1.0, 1.0, 8), 40), found.network.b])
    hidden = np.maximum(gamma @ W.T - b, 0.0)
    design = np.stack([sums(column.reshape(image.shape), 5) for column in hidden.T], axis=1)
    v, c = cp.Variable(len(b)), cp.Variable()
    constant = (np.arange(len(y)) == len(y) // 2).astype(float)
    loss = cp.sum_squares(design.real @ v + c * constant - y.real) + cp.sum_squares(design.imag @ v - y.imag)
    weights = np.linalg.norm(W, axis=1)
    best = cp.Problem(cp.Minimize(0.5 * loss + lam * cp.sum(cp.multiply(weights, cp.abs(v))))).solve(solver=cp.CLARABEL)
    assert found.certificate.dual <= best * (1 + 1e-7)
    assert best == pytest.approx(found.certificate.primal, rel=2e-4)
    assert best <= found.certificate.primal * (1 + 1e-7)


@functools.cache
def solved():
    _, image, y = case(5, shape=(24,), K=4)
    return fit_fourier_ridge(y, image.shape, cutoff=1, lam=0.02)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_certificates_bound_every_network(seed):
    best = solved()
    problem = best.problem
    any_network = network(seed, cutoff=1, dimension=1, neurons=3)
    certificate = problem.certify(any_network)
    assert certificate.dual <= best.certificate.primal * (1 + 1e-9)
    assert best.certificate.dual <= certificate.primal


def test_contrast_and_translation():
    _, image, y = case(0)
    one = fit_fourier_ridge(y, image.shape, cutoff=1, lam=0.01)
    twice = fit_fourier_ridge(2.0 * y, image.shape, cutoff=1, lam=0.02)
    assert twice.certificate.primal == pytest.approx(4.0 * one.certificate.primal, rel=2e-4)
    np.testing.assert_allclose(twice.image, 2.0 * one.image, atol=2e-2 * np.abs(image).max())
    moved = fit_fourier_ridge(sums(np.roll(image, 7), 5), image.shape, cutoff=1, lam=0.01)
    assert moved.certificate.primal == pytest.approx(one.certificate.primal, rel=2e-4)
    # The pixels are no part of the loss.
    finer, (_, large, same) = None, case(0, shape=(96,))
    finer = fit_fourier_ridge(same, large.shape, cutoff=1, lam=0.01)
    assert finer.certificate.primal == pytest.approx(one.certificate.primal, rel=2e-2)


def test_a_large_lam_leaves_the_mean():
    _, image, y = case(0)
    found = fit_fourier_ridge(y, image.shape, cutoff=1, lam=100.0)
    assert found.neurons == 0 and found.certificate.gap <= 1e-12
    np.testing.assert_allclose(found.image, image.mean(), atol=1e-12)


def test_stopping_early_warns_and_the_certificate_holds():
    _, image, y = case(4, neurons=2)
    with pytest.warns(CertificateWarning, match="gap"):
        early = fit_fourier_ridge(y, image.shape, cutoff=1, lam=1e-3, tol=1e-7, max_rounds=1)
    best = fit_fourier_ridge(y, image.shape, cutoff=1, lam=1e-3)
    assert early.certificate.dual <= best.certificate.primal and early.certificate.gap > 1e-7


Y = np.ones(5, dtype=complex)


@pytest.mark.parametrize(
    ("samples", "shape", "options", "error", "said"),
    [
        (np.ones(5), (16,), {}, ValueError, "must be complex"),
        (np.ones(4, dtype=complex), (16,), {}, ValueError, r"2 K \+ 1"),
        (np.ones((3, 5), dtype=complex), (16, 16), {}, ValueError, r"2 K \+ 1"),
        (Y, (16, 16), {}, ValueError, "must have 1 sizes of at least 5"),
        (Y, (4,), {}, ValueError, "at least 5"),
        (np.nan * Y, (16,), {}, DataError, "finite"),
        (0.0 * Y, (16,), {}, DataError, "not all be zero"),
        (Y, (16,), {"cutoff": 0.5}, ValueError, "cutoff"),
        (Y, (16,), {"lam": 0.0}, ValueError, "lam must be positive"),
        (Y, (16,), {"tol": 0.0}, ValueError, "tol"),
    ],
)
def test_what_does_not_fit_is_refused(samples, shape, options, error, said):
    with pytest.raises(error, match=said):
        fit_fourier_ridge(samples, shape, **({"cutoff": 1.0, "lam": 0.1} | options))
