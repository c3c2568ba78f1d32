"""The exact search against every stationary point of every face, found by linear algebra on tiny data."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from pathnorm.representer.exact_search import exact_cost, exact_search, exact_search_structured

KINDS = ["generic", "integers", "plane", "line", "duplicates", "scales", "constant"]


def points(rng, n, d, kind="generic"):
    X = rng.normal(size=(n, d))
    if kind == "integers":
        X = rng.integers(0, 3, size=(n, d)).astype(float)
    if kind == "plane":
        X[:, -1] = 2.0 * X[:, 0] + 1.0
    if kind == "line":
        X = np.outer(rng.integers(-3, 4, size=n), rng.normal(size=d)) + rng.normal(size=d)
    if kind == "duplicates":
        X[n // 2 :] = X[: n - n // 2]
    if kind == "scales":
        X *= np.array([1.0, 1e3, 1e-3])[:d]
    if kind == "constant":
        X[:, 0] = 0.3
    return X


def pulls(rng, X, outputs, free):
    """Columns that sum to zero; with a free affine part orthogonal to the features too."""
    R = rng.normal(size=(X.shape[0], outputs))
    basis = np.column_stack((np.ones(X.shape[0]), X)) if free else np.ones((X.shape[0], 1))
    u, s, _ = np.linalg.svd(basis, full_matrices=False)
    u = u[:, s > 1e-12 * s[0]]
    for _ in range(2):
        R -= u @ (u.T @ R)
    return R


def height(X, R, w, b):
    return float(np.linalg.norm(np.maximum(X @ w - b, 0.0) @ R))


def by_faces(X, R):
    """Largest height over the leading singular vectors of all patterns met on all faces of all hinges."""
    n, d = X.shape
    rng, best = np.random.default_rng(0), 0.0
    for m, size in itertools.product(range(n), range(d)):
        A = X - X[m]
        for subset in itertools.combinations([k for k in range(n) if k != m], size):
            space = np.eye(d)
            if size:
                _, s, vt = np.linalg.svd(A[list(subset)])
                space = vt[int((s > 1e-10 * max(s.max(), 1e-300)).sum()) :]
            if len(space) == 0:
                continue
            patterns = np.unique((rng.normal(size=(100 * n, len(space))) @ space) @ A.T > 1e-12, axis=0)
            for active in patterns:
                w = np.linalg.svd(space @ (A[active].T @ R[active]))[0][:, 0] @ space
                best = max(best, height(X, R, w, w @ X[m]), height(X, R, -w, -w @ X[m]))
    return best


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("free", [True, False])
def test_the_maximum_over_all_faces(kind, d, free):
    for seed, outputs in enumerate((1, 2)):
        rng = np.random.default_rng(seed)
        n = 6 if d == 3 else int(rng.integers(4, 9))
        X = points(rng, n, d, kind)
        R = pulls(rng, X, outputs, free)
        peaks = exact_search(X, R, threads=1)
        assert peaks.value == pytest.approx(by_faces(X, R), rel=1e-11, abs=1e-12 * np.ptp(X, axis=0).max())


@pytest.mark.parametrize(("n", "d", "outputs"), [(60, 1, 2), (60, 2, 1), (60, 2, 3), (25, 3, 1), (25, 3, 3)])
@pytest.mark.parametrize("free", [True, False])
def test_no_ascent_gets_above_and_one_comes_close(n, d, outputs, free):
    rng = np.random.default_rng(n + d)
    X = points(rng, n, d)
    R = pulls(rng, X, outputs, free)
    value = exact_search(X, R).value
    best = 0.0
    for _ in range(60):
        w, m = rng.normal(size=d), int(rng.integers(n))
        for _ in range(25):
            w /= np.linalg.norm(w)
            along = X @ w
            every = np.maximum(along[:, None] - along[None, :], 0.0)
            heights = np.linalg.norm(every.T @ R, axis=1)
            m = int(np.argmax(heights))
            assert heights[m] <= value * (1.0 + 1e-12)
            best = max(best, heights[m])
            active = along > along[m]
            U = (X[active] - X[m]).T @ R[active]
            w = 0.7 * w + 0.3 * (U @ (U.T @ w)) / max(np.linalg.norm(U @ (U.T @ w)), 1e-300)
    assert best >= 0.98 * value


@pytest.mark.parametrize(("n", "d", "outputs"), [(50, 1, 1), (80, 2, 1), (80, 2, 2), (20, 3, 1), (20, 3, 2)])
def test_what_is_returned(n, d, outputs):
    rng = np.random.default_rng(d)
    X = points(rng, n, d)
    R = pulls(rng, X, outputs, free=False)
    peaks = exact_search(X, R, count=12)
    assert peaks.W.shape == (peaks.heights.size, d)
    assert 1 <= peaks.heights.size <= 12
    assert peaks.value == peaks.heights[0]
    assert np.all(np.diff(peaks.heights) <= 0.0)
    np.testing.assert_allclose(np.linalg.norm(peaks.W, axis=1), 1.0, rtol=1e-14)
    assert np.bincount(peaks.hinges).max() <= 2
    direct = [height(X, R, w, w @ X[m]) for w, m in zip(peaks.W, peaks.hinges, strict=True)]
    np.testing.assert_allclose(peaks.heights, direct, rtol=1e-11)


@pytest.mark.parametrize(("n", "d"), [(60, 2), (20, 3)])
@pytest.mark.parametrize("free", [True, False])
def test_peaks_are_local_maxima_of_their_hinge(n, d, free):
    rng = np.random.default_rng(n)
    X = points(rng, n, d)
    R = pulls(rng, X, 1, free)
    peaks = exact_search(X, R, count=10)
    rises = 0
    for w, m, top in zip(peaks.W, peaks.hinges, peaks.heights, strict=True):
        for _ in range(40):
            v = w + 1e-6 * rng.normal(size=d)
            v /= np.linalg.norm(v)
            rises += height(X, R, v, v @ X[m]) > top * (1.0 + 1e-10)
    # In space a vertex is compared with two of the four edges that meet there.
    assert rises <= (0 if d == 2 else 40)


@pytest.mark.parametrize(("n", "d"), [(40, 1), (60, 2), (16, 3)])
def test_invariances(n, d):
    rng = np.random.default_rng(7 * d)
    X = points(rng, n, d)
    R = pulls(rng, X, 2, free=False)
    value = exact_search(X, R).value
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    order = rng.permutation(n)
    share = rng.uniform(size=(n, 1))
    same = [
        (X @ rotation, R),
        (X + rng.normal(size=d), R),
        (X[order], R[order]),
        (np.vstack((X, X)), np.vstack((share * R, (1.0 - share) * R))),
        (X, R @ np.linalg.qr(rng.normal(size=(2, 2)))[0]),
        (1e8 * X, 1e-8 * R),
        (np.vstack((X, np.repeat(X[:1], 5, axis=0))), np.vstack((R, np.zeros((5, 2))))),
    ]
    for moved, pulled in same:
        assert exact_search(moved, pulled).value == pytest.approx(value, rel=1e-11)
    assert exact_search(3.0 * X, 5.0 * R).value == pytest.approx(15.0 * value, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(30, 1), (50, 2), (16, 3)])
def test_some_hinges_give_a_lower_bound_and_all_the_maximum(n, d):
    rng = np.random.default_rng(n)
    X = points(rng, n, d)
    R = pulls(rng, X, 1, free=True)
    everything = exact_search(X, R)
    some = np.sort(rng.choice(n, n // 2, replace=False))
    rest = np.setdiff1d(np.arange(n), some)
    parts = [exact_search(X, R, hinges=part) for part in (some, rest)]
    assert set(parts[0].hinges) <= set(some)
    assert all(part.value <= everything.value * (1.0 + 1e-14) for part in parts)
    assert max(part.value for part in parts) == pytest.approx(everything.value, rel=1e-13)


@pytest.mark.parametrize("outputs", [1, 2])
def test_skewed_data_takes_the_other_sort(outputs):
    # All points but two lie in one bucket of every other point's angles.
    rng = np.random.default_rng(3)
    X = np.vstack((1e-7 * rng.normal(size=(60, 2)), [[1.0, 0.0], [0.0, 1.0]]))
    R = pulls(rng, X, outputs, free=False)
    far = exact_search(X, R)
    turned = X @ np.linalg.qr(rng.normal(size=(2, 2)))[0]
    assert exact_search(turned, R).value == pytest.approx(far.value, rel=1e-9)


def test_threads_do_not_change_the_answer():
    rng = np.random.default_rng(5)
    for n, d in ((120, 2), (24, 3)):
        X = points(rng, n, d)
        R = pulls(rng, X, 1, free=True)
        one, two = exact_search(X, R, threads=1), exact_search(X, R, threads=2)
        assert one.value == two.value
        np.testing.assert_allclose(one.heights[:10], two.heights[:10], rtol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("free", [True, False])
def test_structured_is_the_maximum_over_features_and_pairs(order, free):
    rng = np.random.default_rng(11)
    X = points(rng, 40, 4)
    X[:, 2] = 1.5
    R = pulls(rng, X, 2, free)
    peaks = exact_search_structured(X, R, order=order)
    subsets = itertools.combinations([0, 1, 3], order)
    best = max(exact_search(X[:, list(subset)], R).value for subset in subsets)
    assert peaks.value == pytest.approx(best, rel=1e-13)
    assert np.count_nonzero(peaks.W, axis=1).max() <= order
    assert not peaks.W[:, 2].any()
    direct = [height(X, R, w, w @ X[m]) for w, m in zip(peaks.W, peaks.hinges, strict=True)]
    np.testing.assert_allclose(peaks.heights, direct, rtol=1e-11)


def test_structured_with_given_pairs_searches_these_and_every_single_feature():
    rng = np.random.default_rng(13)
    X = points(rng, 30, 4)
    R = pulls(rng, X, 1, free=True)
    peaks = exact_search_structured(X, R, order=2, pairs=[(3, 1)])
    singles = [exact_search(X[:, [j]], R).value for j in range(4)]
    assert peaks.value == pytest.approx(max(exact_search(X[:, [1, 3]], R).value, *singles), rel=1e-13)
    one = points(rng, 30, 3)
    one[:, :2] = 1.0
    alone = exact_search_structured(one, R, order=2)
    assert alone.value == pytest.approx(exact_search(one[:, [2]], R).value, rel=1e-13)


def test_none_when_the_deadline_passes():
    rng = np.random.default_rng(17)
    X = points(rng, 3000, 2)
    R = pulls(rng, X, 1, free=True)
    begin = time.perf_counter()
    assert exact_search(X, R, deadline=begin) is None
    assert exact_search_structured(X, R, order=2, deadline=begin) is None
    assert exact_search(X, R, threads=1, deadline=begin + 0.02) is None
    assert time.perf_counter() - begin < 1.0


def test_nothing_to_find():
    for X, R in (
        (np.ones((1, 2)), np.ones((1, 1))),
        (np.ones((5, 3)), np.ones((5, 2))),
        (np.arange(6.0).reshape(3, 2), np.zeros((3, 1))),
        (np.ones((4, 1)), np.ones((4, 1))),
    ):
        peaks = exact_search(X, R)
        assert peaks.value == 0.0
        assert peaks.W.shape == (0, X.shape[1])
        assert exact_search_structured(X, R, order=2).value == 0.0


def test_refusals():
    X, R = np.zeros((3, 4)), np.zeros((3, 1))
    with pytest.raises(ValueError, match="at most 3 features"):
        exact_search(X, R)
    with pytest.raises(ValueError, match="1 or 2"):
        exact_search_structured(X, R, order=3)
    with pytest.raises(ValueError, match="two different features"):
        exact_search_structured(X, R, order=2, pairs=[(1, 1)])
    with pytest.raises(ValueError, match="one row per point"):
        exact_search(X, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="finite"):
        exact_search(np.full((3, 2), np.nan), R)
    with pytest.raises(ValueError, match="indices"):
        exact_search(X[:, :2], R, hinges=[3])


def test_cost_grows_as_the_theory_says():
    assert exact_cost(1000, 4) == float("inf")
    for d in (1, 2, 3):
        assert 0.9 * 2**d <= exact_cost(2000, d) / exact_cost(1000, d) <= 1.3 * 2**d
