"""Upper bounds of the dual norm against hinges that are evaluated, searched and enumerated."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.representer.branch_and_bound import branch_and_bound, cheap_bound


def pulls(seed, n, d, n_out=1, affine=True):
    """Random data off the origin, and pulls without constant part; with ``affine`` without linear part as well."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + rng.standard_normal(d)
    A = np.column_stack([np.ones(n), X]) if affine else np.ones((n, 1))
    R = rng.standard_normal((n, n_out))
    return X, R - A @ np.linalg.lstsq(A, R, rcond=None)[0]


def fit_residual(seed, n, d):
    """Residual of a least-squares fit of a few random neurons and the affine functions to another network and noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = np.maximum(X @ rng.standard_normal((d, 5)) - 0.3, 0.0) @ rng.standard_normal(5) + 0.1 * rng.standard_normal(n)
    A = np.column_stack([np.ones(n), X, np.maximum(X @ rng.standard_normal((d, 4)), 0.0)])
    return X, (y - A @ np.linalg.lstsq(A, y, rcond=None)[0])[:, None]


def best_hinges(X, R, W):
    """max over b of |h(w, b)| for the rows of W, from cumulative sums."""
    T = X @ W.T
    order = np.argsort(-T, axis=0)
    t = np.take_along_axis(T, order, axis=0)[..., None]
    h = np.cumsum(R[order] * t, axis=0) - t * np.cumsum(R[order], axis=0)
    return np.linalg.norm(h, axis=2).max(axis=0)


def searched(X, R, seed=0, starts=20_000, steps=60):
    """Lower bound of M: random directions, the best of them improved by a random walk uphill."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((starts, X.shape[1]))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    value = best_hinges(X, R, W)
    top = np.argsort(-value)[:50]
    W, value = W[top], value[top]
    for step in 0.9 ** np.arange(steps):
        new = W + 0.3 * step * rng.standard_normal(W.shape)
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        new_value = best_hinges(X, R, new)
        better = new_value > value
        W[better], value[better] = new[better], new_value[better]
    return value.max()


def value_at(X, R, bracket):
    return np.linalg.norm(np.maximum(X @ bracket.w - bracket.b, 0.0) @ R)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("d", "n_out", "n"),
    [(1, 1, 40), (2, 1, 40), (3, 1, 40), (4, 1, 30), (5, 1, 20), (1, 2, 40), (2, 2, 40), (3, 2, 25)],
)
def test_no_hinge_is_above_the_bound_and_the_lower_one_is_attained(d, n_out, n, affine):
    X, R = pulls(d, n, d, n_out, affine)
    bracket = branch_and_bound(X, R, tol=1e-2, seconds=20.0)
    seen = searched(X, R, starts=20_000 if d > 2 else 2000)
    assert bracket.complete
    assert bracket.upper >= seen
    assert bracket.lower >= seen * (1.0 - 1e-2)
    assert bracket.lower <= bracket.upper <= bracket.lower * (1.0 + 1e-2) * (1.0 + 1e-11)
    assert value_at(X, R, bracket) == pytest.approx(bracket.lower, rel=1e-11)
    assert np.linalg.norm(bracket.w) == pytest.approx(1.0, rel=1e-12)
    assert cheap_bound(X, R) >= bracket.lower


@pytest.mark.parametrize(("d", "n_out"), [(4, 2), (5, 2), (5, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_vector_outputs_in_more_dimensions_are_bounded_in_the_time_given(d, n_out, affine):
    X, R = pulls(d, 25, d, n_out, affine)
    bracket = branch_and_bound(X, R, tol=1e-2, seconds=0.3)
    assert bracket.upper >= searched(X, R, starts=5000)


def face_values(X, R):
    """Enumeration: on every face of every cell of the arrangement, |h| at its stationary point if it is inside.

    h is linear in (w, b) on the face where the points of a set S are on the hinge, so with b eliminated through one of
    them and w orthogonal to the differences its maximum is at the projected gradient, if that has the same pattern.
    """
    n, d = X.shape
    best = 0.0
    for size in range(1, d + 1):
        for on_hinge in itertools.combinations(range(n), size):
            edges = X[list(on_hinge[1:])] - X[on_hinge[0]]
            basis = np.linalg.svd(edges, full_matrices=True)[2][len(edges) :] if len(edges) else np.eye(d)
            for w in unit_vectors(basis):
                # Ascend by the gradient on the face: it is exact where the pattern does not change.
                for _ in range(12):
                    tau = X @ w - X[on_hinge[0]] @ w
                    tau[list(on_hinge)] = 0.0
                    h = np.maximum(tau, 0.0) @ R[:, 0]
                    best = max(best, abs(h))
                    on = tau > 0.0
                    gradient = np.sign(h) * (R[on, 0] @ (X[on] - X[on_hinge[0]]))
                    gradient = basis.T @ (basis @ gradient)
                    length = np.linalg.norm(gradient)
                    if length < 1e-14:
                        break
                    w = gradient / length
    return best


def unit_vectors(basis):
    """Directions that reach every cell of a face for few points: a fine grid on its sphere."""
    if len(basis) == 1:
        return basis
    if len(basis) == 2:
        angles = np.linspace(0.0, np.pi, 60, endpoint=False)
        return np.column_stack([np.cos(angles), np.sin(angles)]) @ basis
    u = np.random.default_rng(0).standard_normal((60, len(basis)))
    return u / np.linalg.norm(u, axis=1, keepdims=True) @ basis


@pytest.mark.parametrize(("d", "n"), [(2, 9), (3, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bracket_closes_on_the_maximum_over_all_faces(seed, d, n):
    X, R = pulls(seed, n, d)
    bracket = branch_and_bound(X, R, tol=1e-8)
    assert bracket.complete
    exact = face_values(X, R)
    assert bracket.upper == pytest.approx(exact, rel=1e-7)
    assert bracket.upper >= exact


def test_one_dimension_is_exact():
    X, R = pulls(3, 200, 1)
    bracket = branch_and_bound(X, R, tol=1e-9)
    at = X[:, 0]
    exact = np.abs(np.maximum(X - at, 0.0).T @ R[:, 0]).max()
    assert exact <= bracket.upper <= exact * (1.0 + 2e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1.0, 1e7]), size=st.sampled_from([1e-8, 3.0, 1e5]))
def test_scaling_and_moving_the_data(seed, scale, size):
    X, R = pulls(seed, 15, 2)
    one = branch_and_bound(X, R, tol=1e-3)
    other = branch_and_bound(scale * (X + 3.0), size * R, tol=1e-3)
    assert other.upper <= one.upper * scale * size * (1.0 + 1.1e-3)
    assert other.upper >= one.lower * scale * size * (1.0 - 1e-9)
    assert cheap_bound(scale * (X + 3.0), size * R) == pytest.approx(scale * size * cheap_bound(X, R), rel=1e-6)
    assert value_at(scale * (X + 3.0), size * R, other) == pytest.approx(other.lower, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rotations_reflections_and_permutations_do_not_matter(seed):
    X, R = pulls(seed, 20, 3)
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    order = rng.permutation(20)
    one, other = branch_and_bound(X, R, tol=1e-3), branch_and_bound(X[order] @ Q, -R[order], tol=1e-3)
    assert one.lower * (1.0 - 1e-9) <= other.upper <= one.upper * (1.0 + 1.1e-3)


@pytest.mark.parametrize(("n", "d"), [(300, 2), (150, 3)])
def test_a_residual_of_a_fit_and_a_smaller_tolerance(n, d):
    X, R = fit_residual(0, n, d)
    bounds = [branch_and_bound(X, R, tol=tol) for tol in (0.3, 0.03, 0.003, 1e-4)]
    assert all(bound.complete for bound in bounds)
    uppers = [bound.upper for bound in bounds]
    assert max(bound.lower for bound in bounds) <= min(uppers)
    for bound, tol in zip(bounds, (0.3, 0.03, 0.003, 1e-4), strict=True):
        assert bound.upper <= bounds[-1].upper * (1.0 + tol)
    assert bounds[0].nodes < bounds[-1].nodes


def test_a_known_lower_bound_saves_work_and_is_reported_as_it_is():
    X, R = fit_residual(1, 200, 3)
    tight = branch_and_bound(X, R, tol=1e-3)
    again = branch_and_bound(X, R, tol=1e-2, incumbent=tight.lower)
    blind = branch_and_bound(X, R, tol=1e-2)
    assert again.nodes < blind.nodes
    assert again.lower >= tight.lower * (1.0 - 1e-12)
    assert again.upper >= tight.lower


def test_without_time_the_bound_is_valid():
    X, R = fit_residual(2, 400, 4)
    at_once = branch_and_bound(X, R, seconds=0.0)
    assert not at_once.complete
    assert at_once.lower == 0.0
    assert np.isnan(at_once.b)
    assert at_once.upper == pytest.approx(cheap_bound(X, R), rel=1e-9)
    began = time.perf_counter()
    soon = branch_and_bound(X, R, tol=1e-6, seconds=0.3)
    assert time.perf_counter() - began < 2.0
    assert searched(X, R, starts=2000) <= soon.upper < at_once.upper


def test_a_target_stops_early():
    X, R = fit_residual(3, 200, 3)
    exact = branch_and_bound(X, R, tol=1e-4)
    easy = branch_and_bound(X, R, tol=1e-4, target=1.5 * exact.upper)
    assert easy.upper <= 1.5 * exact.upper
    assert easy.nodes < 0.5 * exact.nodes
    # Nothing can be below the largest value: then the tolerance decides.
    out_of_reach = branch_and_bound(X, R, tol=1e-3, target=0.9 * exact.lower)
    assert out_of_reach.complete
    assert out_of_reach.upper >= exact.lower


def degenerate(name):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((24, 3))
    if name == "duplicates":
        X = np.repeat(X[:8], 3, axis=0)
    elif name == "constant column":
        X[:, 1] = 2.0
    elif name == "collinear":
        X = X[:, :1] * np.array([[1.0, -2.0, 0.5]]) + 1.0
    elif name == "grid":
        X = np.round(X)
    A = np.column_stack([np.ones(24), X])
    r = rng.standard_normal(24)
    return X, r - A @ np.linalg.lstsq(A, r, rcond=None)[0]


@pytest.mark.parametrize("name", ["duplicates", "constant column", "collinear", "grid"])
def test_degenerate_data(name):
    X, r = degenerate(name)
    bracket = branch_and_bound(X, r, tol=1e-4)
    assert bracket.complete
    assert searched(X, r[:, None], starts=3000) <= bracket.upper
    if name == "collinear":
        t = X[:, 0] - X[:, 0].mean()
        line = np.linalg.norm([1.0, -2.0, 0.5]) * np.abs(np.maximum(t[:, None] - t, 0.0).T @ r).max()
        assert bracket.upper == pytest.approx(line, rel=2e-4)


def test_no_pulls_and_one_point():
    X = np.random.default_rng(0).standard_normal((10, 2))
    assert branch_and_bound(X, np.zeros(10)).upper == 0.0
    assert branch_and_bound(np.ones((1, 3)), np.zeros(1)).upper == 0.0


def test_the_cheap_bound_is_above_in_ten_dimensions_and_no_larger_than_the_norms_allow():
    X, R = pulls(0, 200, 10, 2)
    centred = X - X.mean(0)
    assert searched(X, R, starts=4000) <= cheap_bound(X, R)
    assert cheap_bound(X, R) <= 0.5001 * np.linalg.norm(centred, 2) * np.linalg.norm(R, 2)


def test_one_thread_or_two():
    X, R = fit_residual(4, 100, 3)
    one, two = (branch_and_bound(X, R, tol=1e-3, threads=k) for k in (1, 2))
    assert max(one.lower, two.lower) <= min(one.upper, two.upper)


def test_bad_arguments_are_named():
    X = np.zeros((5, 2))
    with pytest.raises(ValueError, match="sum to zero"):
        branch_and_bound(X, np.ones(5))
    with pytest.raises(ValueError, match=r"got shapes \(5, 2\) and \(4, 1\)"):
        branch_and_bound(X, np.ones(4))
