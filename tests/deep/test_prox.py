"""The proximal operator of the product norm against a numerical minimiser, brute force and its own geometry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pathnorm.deep.prox import prox_norm, prox_product

LENGTH = st.floats(0.0, 10.0, allow_subnormal=False)
STEP = st.floats(0.01, 10.0)
LAM = st.floats(0.0, 5.0, allow_subnormal=False)


def objective(a, b, p, q, lam, s, t):
    return (a - p) ** 2 / (2 * s) + (b - q) ** 2 / (2 * t) + lam * a * b


def operator(p, q, lam, s=1.0, t=1.0):
    a, b = prox_product(
        torch.tensor([p], dtype=torch.float64), torch.tensor([q], dtype=torch.float64), lam, steps=(s, t)
    )
    return float(a), float(b)


def numerical(p, q, lam, s, t):
    """Least value: for every a the best b is a soft-thresholding, and what remains is searched from many brackets."""

    def reduced(a):
        return objective(a, max(q - lam * t * a, 0.0), p, q, lam, s, t)

    edges = np.linspace(0.0, max(p, 1e-12), 9)
    found = [
        minimize_scalar(reduced, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).fun
        for low, high in itertools.pairwise(edges)
    ]
    return min(*found, reduced(0.0), reduced(p))


@given(p=LENGTH, q=LENGTH, lam=LAM, s=STEP, t=STEP)
def test_it_is_as_low_as_a_numerical_minimiser(p, q, lam, s, t):
    a, b = operator(p, q, lam, s, t)
    assert a >= 0.0
    assert b >= 0.0
    least = numerical(p, q, lam, s, t)
    assert objective(a, b, p, q, lam, s, t) <= least + 1e-10 * max(1.0, abs(least))


@given(p=st.floats(0.1, 5.0), q=st.floats(0.1, 5.0), tau=st.floats(0.0, 0.95))
def test_the_minimiser_itself_is_that_of_coordinate_descent(p, q, tau):
    """Where the problem is strongly convex, the point is compared and not only the value."""
    a, b = p, q
    for _ in range(400):  # exact coordinate descent converges with ratio tau^2
        a = max(p - tau * b, 0.0)
        b = max(q - tau * a, 0.0)
    assert operator(p, q, tau) == pytest.approx((a, b), abs=1e-10)


@given(seed=st.integers(0, 10**6), lam=st.floats(0.01, 2.0))
def test_directions_are_kept_because_no_other_vectors_are_better(seed, lam):
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=3), rng.normal(size=2)
    p, q = np.linalg.norm(w), np.linalg.norm(v)
    a, b = operator(p, q, lam)
    best = objective(a, b, p, q, lam, 1.0, 1.0)
    for scale in (1e-3, 0.1, 1.0):
        x = w * a / p + scale * rng.normal(size=(200, 3))
        y = v * b / q + scale * rng.normal(size=(200, 2))
        values = (
            0.5 * ((x - w) ** 2).sum(1)
            + 0.5 * ((y - v) ** 2).sum(1)
            + lam * np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        )
        assert values.min() >= best - 1e-12


@given(p=LENGTH, q=LENGTH, lam=LAM, c=st.floats(0.1, 10.0))
def test_it_is_homogeneous_and_symmetric(p, q, lam, c):
    a, b = operator(p, q, lam)
    assert operator(c * p, c * q, lam) == pytest.approx((c * a, c * b), rel=1e-9, abs=1e-12)
    if p != q:
        assert operator(q, p, lam) == pytest.approx((b, a), rel=1e-12, abs=1e-12)


def test_a_step_of_zero_holds_a_length_and_zero_lambda_holds_both():
    assert operator(2.0, 3.0, 0.5, 0.0, 1.0) == (2.0, 2.0)
    assert operator(2.0, 3.0, 0.5, 1.0, 0.0) == (0.5, 3.0)
    assert operator(2.0, 3.0, 0.0) == (2.0, 3.0)
    with pytest.raises(ValueError, match="Steps must not be negative"):
        operator(1.0, 1.0, 1.0, -1.0, 1.0)


def test_what_vanishes_vanishes_exactly_and_the_longer_side_survives_a_large_lambda():
    assert operator(2.0, 1.0, 0.5) == (2.0, 0.0)
    assert operator(1.0, 2.0, 0.5) == (0.0, 2.0)
    assert operator(3.0, 2.9, 1.5) == (3.0, 0.0)
    assert operator(2.9, 3.0, 1.5) == (0.0, 3.0)
    assert operator(0.0, 0.0, 1.0) == (0.0, 0.0)
    assert operator(1.0, 1.0, 1.0) == (1.0, 0.0)


def test_soft_thresholding_of_one_norm():
    q = torch.tensor([0.0, 0.5, 2.0])
    assert prox_norm(q, 0.5).tolist() == [0.0, 0.0, 1.5]
