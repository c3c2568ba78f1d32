"""Local search: what it returns are local maxima of ``||h||`` on hinges through the samples that it names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.representer.exact_search import exact_search, exact_search_structured
from pathnorm.representer.local_search import LocalSearch

SEEDS = st.integers(0, 10**6)
KINDS = st.sampled_from(["generic", "integers", "plane", "duplicates", "constant", "scales"])


def points(rng, n, d, kind="generic"):
    X = rng.standard_normal((n, d))
    if kind == "integers":
        X = rng.integers(0, 4, (n, d)).astype(float)
    if kind == "plane":
        X[:, -1] = X[:, :-1].sum(axis=1)
    if kind == "duplicates":
        X[n // 2 :] = X[: n - n // 2]
    if kind == "constant":
        X[:, -1] = 0.3
    if kind == "scales":
        X *= 10.0 ** rng.integers(-2, 3, d)
    return X - X.mean(axis=0)


def pulls(rng, X, outputs, *, free=True):
    R = rng.standard_normal((len(X), outputs))
    basis = np.column_stack((np.ones(len(X)), X)) if free else np.ones((len(X), 1))
    left, size, _ = np.linalg.svd(basis, full_matrices=False)
    left = left[:, size > 1e-12 * size[0]]
    for _ in range(2):
        R -= left @ (left.T @ R)
    return R


def heights(X, R, W, b):
    """Norms of h (C,) at rows of W and at b."""
    return np.linalg.norm(np.maximum(X @ W.T - b, 0.0).T @ R, axis=1)


def offsets(X, found):
    return np.einsum("kd,kd->k", found.W, X[found.stuck[:, 0]])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, d=st.integers(1, 6), outputs=st.integers(1, 3), kind=KINDS, free=st.booleans())
def test_what_is_found_is_what_it_is_said_to_be(seed, d, outputs, kind, free):
    rng = np.random.default_rng(seed)
    X = points(rng, 30, d, kind)
    R = pulls(rng, X, outputs, free=free)
    starts = rng.standard_normal((4, d))
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    given_ = starts.copy()
    found = LocalSearch(X, seed=seed)(R, starts=starts, scans=32, climbs=6)
    np.testing.assert_array_equal(starts, given_)
    # Where nothing varies there is nothing to draw.
    assert len(found.W) == (10 if np.ptp(X, axis=0).any() else 4)
    np.testing.assert_allclose(np.linalg.norm(found.W, axis=1), 1.0)
    b = offsets(X, found)
    np.testing.assert_allclose(found.heights, heights(X, R, found.W, b), atol=1e-10 * np.abs(R).sum() * np.abs(X).max())
    assert (found.size >= 1).all()
    reach = 1e-7 * np.abs(X).max()
    for k, size in enumerate(found.size):
        stuck = found.stuck[k, :size]
        assert np.unique(stuck).size == size
        assert (np.abs(X[stuck] @ found.W[k] - b[k]) <= reach).all()
        assert (found.stuck[k, size:] == -1).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, d=st.integers(1, 6), kind=KINDS, free=st.booleans())
def test_no_small_change_of_a_neuron_gets_higher(seed, d, kind, free):
    rng = np.random.default_rng(seed)
    X = points(rng, 25, d, kind)
    R = pulls(rng, X, 1, free=free)
    found = LocalSearch(X, seed=seed)(R, scans=16, climbs=4)
    size = np.abs(X).max()
    for w, b, height in zip(found.W, offsets(X, found), found.heights, strict=True):
        if height < found.heights.max() * (1.0 - 1e-9):
            continue  # an ascent on repeated samples may end early, on a ridge below the best
        for step in (1e-3, 1e-5):
            W = w + step * rng.standard_normal((200, d))
            norms = np.linalg.norm(W, axis=1)
            near = heights(X, R, W / norms[:, None], (b + step * size * rng.standard_normal(200)) / norms)
            assert near.max() <= height * (1.0 + 1e-9) + 1e-9 * size * np.abs(R).sum()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, d=st.integers(1, 5), outputs=st.integers(1, 3))
def test_an_ascent_from_a_start_never_ends_below_it(seed, d, outputs):
    rng = np.random.default_rng(seed)
    X = points(rng, 30, d)
    R = pulls(rng, X, outputs)
    starts = rng.standard_normal((8, d))
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    found = LocalSearch(X, seed=0)(R, starts=starts, scans=0, climbs=0)
    assert len(found.W) == 8
    # The best hinge of a direction goes through a sample.
    best = np.array([heights(X, R, np.tile(w, (30, 1)), X @ w).max() for w in starts])
    assert (found.heights >= best * (1.0 - 1e-9)).all()


@pytest.mark.parametrize(("d", "outputs"), [(1, 1), (2, 1), (3, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("free", [True, False])
def test_with_many_starts_the_maximum_is_found(d, outputs, free):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = points(rng, 25, d)
        R = pulls(rng, X, outputs, free=free)
        found = LocalSearch(X, seed=seed)(R, scans=400, climbs=100)
        best = exact_search(X, R).value
        assert found.heights.max() == pytest.approx(best, rel=1e-8 if outputs == 1 else 1e-2)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("d", [1, 2, 4])
def test_neurons_of_few_features(order, free, d):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = points(rng, 25, d)
        R = pulls(rng, X, 1, free=free)
        found = LocalSearch(X, interactions=order, seed=seed)(R, scans=400, climbs=60)
        assert (np.count_nonzero(found.W, axis=1) <= order).all()
        np.testing.assert_allclose(found.heights, heights(X, R, found.W, offsets(X, found)), rtol=1e-9)
        # With an affine part that is not free, w and -w are different neurons.
        best = exact_search_structured(X, R, order=order).value
        assert found.heights.max() == pytest.approx(best, rel=1e-8)


def test_starts_of_few_features_come_first_and_stay_in_their_view():
    rng = np.random.default_rng(0)
    X = points(rng, 40, 5)
    R = pulls(rng, X, 1)
    starts = np.zeros((2, 5))
    starts[0, [1, 3]] = 0.6, -0.8
    starts[1, 4] = 1.0
    found = LocalSearch(X, interactions=2)(R, starts=starts, scans=16, climbs=4)
    assert set(np.flatnonzero(found.W[0])) <= {1, 3}
    assert found.W[1, 4] != 0.0


def test_samples_twice_are_as_one_with_both_pulls():
    rng = np.random.default_rng(1)
    X = points(rng, 20, 3)
    R = pulls(rng, X, 1)
    starts = rng.standard_normal((5, 3))
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    once = LocalSearch(X)(R, starts=starts, scans=0, climbs=0)
    twice = LocalSearch(np.repeat(X, 2, axis=0))(np.repeat(R / 2.0, 2, axis=0), starts=starts, scans=0, climbs=0)
    np.testing.assert_allclose(twice.W, once.W, atol=1e-9)
    np.testing.assert_array_equal(twice.size, once.size)


def test_many_samples_are_searched_in_part_and_judged_on_all():
    rng = np.random.default_rng(2)
    X = points(rng, 13_000, 2)
    R = pulls(rng, X, 1)
    found = LocalSearch(X)(R, scans=64, climbs=8)
    b = offsets(X, found)
    np.testing.assert_allclose(found.heights, heights(X, R, found.W, b), rtol=1e-9)
    # Steps at the end hold the hinge, so it is the best one of its direction up to little.
    for w, height in zip(found.W, found.heights, strict=True):
        order = np.argsort(-(X @ w))
        t, r = (X @ w)[order], R[order, 0]
        values = np.cumsum(t * r) - t * np.cumsum(r)
        assert 0.95 * np.abs(values).max() <= height <= np.abs(values).max() * (1.0 + 1e-9)


@pytest.mark.parametrize("interactions", [None, 1, 2])
def test_nothing_to_find(interactions):
    search = LocalSearch(np.zeros((6, 2)), interactions=interactions)
    assert len(search(np.ones((6, 1))).W) == 0
    rng = np.random.default_rng(0)
    X = points(rng, 6, 2)
    found = LocalSearch(X, interactions=interactions)(np.zeros((6, 1)), starts=np.array([[1.0, 0.0]]))
    assert found.heights.tolist() == [0.0]


def test_the_seed_decides():
    rng = np.random.default_rng(3)
    X = points(rng, 30, 4)
    R = pulls(rng, X, 1)
    first, second = (LocalSearch(X, seed=5)(R, scans=32, climbs=6) for _ in range(2))
    np.testing.assert_array_equal(first.W, second.W)
