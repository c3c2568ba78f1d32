"""Selectors against brute force and against plain least squares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.elimination import backward_elimination
from pathnorm.solvers.pursuit import forward_selection
from pathnorm.solvers.ranking import error_curve, rank_by_scores


def layer(seed, *, n=200, neurons=7, block=1, outputs=3, rank=None):
    rng = np.random.default_rng(seed)
    phi = rng.standard_normal((n, neurons * block))
    if rank is not None:
        phi = phi[:, :rank] @ rng.standard_normal((rank, neurons * block))
    psi = phi @ rng.standard_normal((neurons * block, outputs)) + 0.1 * rng.standard_normal((n, outputs))
    cost = rng.uniform(0.5, 2.0, neurons)
    return phi, psi, LayerReconstruction(phi.T @ phi, phi.T @ psi, psi.T @ psi, block, cost)


def least_squares_error(phi, psi, rows):
    if len(rows) == 0:
        return 1.0
    coef, *_ = np.linalg.lstsq(phi[:, rows], psi, rcond=None)
    return np.square(psi - phi[:, rows] @ coef).sum() / np.square(psi).sum()


@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_curves_are_the_least_squares_errors_of_their_orders(seed, block):
    phi, psi, problem = layer(seed, block=block)
    for ranking in (backward_elimination(problem, ridge=1e-12), forward_selection(problem, ridge=1e-12)):
        assert sorted(ranking.order.tolist()) == list(range(7))
        for k in range(8):
            expected = least_squares_error(phi, psi, problem.rows(ranking.order[:k]))
            assert ranking.errors[k] == pytest.approx(expected, abs=1e-8)
        np.testing.assert_allclose(error_curve(problem, ranking.order, ridge=1e-13), ranking.errors, atol=1e-8)


@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 2]))
@settings(max_examples=10, deadline=None)
def test_each_step_of_elimination_is_the_best_single_removal(seed, block):
    phi, psi, problem = layer(seed, block=block, neurons=5)
    ranking = backward_elimination(problem, ridge=1e-12)
    for k in range(5, 0, -1):
        alive = ranking.order[:k]
        errors = [least_squares_error(phi, psi, problem.rows(np.delete(alive, i))) for i in range(k)]
        assert ranking.errors[k - 1] == pytest.approx(min(errors), abs=1e-8)


@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 2]))
@settings(max_examples=10, deadline=None)
def test_each_step_of_pursuit_is_the_best_single_addition(seed, block):
    phi, psi, problem = layer(seed, block=block, neurons=5)
    ranking = forward_selection(problem, ridge=1e-12)
    for k in range(5):
        chosen, rest = ranking.order[:k], ranking.order[k:]
        errors = [least_squares_error(phi, psi, problem.rows(np.append(chosen, i))) for i in rest]
        assert ranking.errors[k + 1] == pytest.approx(min(errors), abs=1e-8)


def test_elimination_is_close_to_the_best_subset():
    gaps = []
    for seed in range(10):
        phi, psi, problem = layer(seed)
        best = min(least_squares_error(phi, psi, list(rows)) for rows in itertools.combinations(range(7), 4))
        gaps.append(backward_elimination(problem).errors[4] - best)
    assert min(gaps) > -1e-7
    assert np.median(gaps) < 1e-6  # most often it finds the optimum


def test_duplicates_and_rank_deficiency_are_harmless():
    _, _, problem = layer(0, neurons=8, rank=3)
    for ranking in (backward_elimination(problem), forward_selection(problem)):
        assert ranking.errors[3] < 1e-2 * ranking.errors[2]
        assert np.isfinite(ranking.errors).all()


def test_refit_is_least_squares_and_its_cap_holds():
    phi, psi, problem = layer(3)
    keep = np.array([5, 1, 2])
    refit = problem.refit(keep)
    expected, *_ = np.linalg.lstsq(phi[:, np.sort(keep)], psi, rcond=None)
    np.testing.assert_allclose(refit.coef[np.sort(keep)], expected, rtol=1e-6)
    assert not refit.coef[[0, 3, 4, 6]].any()
    assert refit.error == pytest.approx(least_squares_error(phi, psi, np.sort(keep)))
    cap = 0.5 * problem.path_norm(refit.coef)
    capped = problem.refit(keep, cap=cap)
    assert problem.path_norm(capped.coef) <= cap
    assert capped.error > refit.error


@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_no_subset_beats_the_eckart_young_bound(seed, block):
    phi, psi, problem = layer(seed, block=block, neurons=4, outputs=6)
    for k in range(5):
        reached = min(
            least_squares_error(phi, psi, problem.rows(np.array(rows, dtype=int)))
            for rows in itertools.combinations(range(4), k)
        )
        assert reached >= problem.least_error(k) - 1e-9
        assert problem.width_lower_bound(reached) <= k


def test_ranks_are_the_numerical_ranks():
    phi, _, problem = layer(1, neurons=9, rank=4, outputs=6)
    exact = LayerReconstruction(
        problem.gram,
        problem.cross,
        (phi[:, :2] @ np.ones((2, 6))).T @ (phi[:, :2] @ np.ones((2, 6))),
        1,
        problem.cost,
    )
    assert exact.ranks(1e-6) == (4, 1)


def test_scores_must_be_one_finite_number_per_neuron():
    _, _, problem = layer(0)
    with pytest.raises(ValueError, match=r"shape \(7,\).*Got shape \(3,\)"):
        rank_by_scores(problem, np.ones(3))
    with pytest.raises(ValueError, match="NaN or Inf"):
        rank_by_scores(problem, np.full(7, np.nan))
    assert rank_by_scores(problem, np.arange(7.0)).order.tolist() == [6, 5, 4, 3, 2, 1, 0]
