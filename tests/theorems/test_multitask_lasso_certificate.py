"""Weak and strong duality of the multitask lasso: dual <= optimum <= value, tight at a solution.

P(V) = 1/2 ||Psi - Phi V||_F^2 + lam sum_k c_k ||V_k||_F and, for every Theta with
||Phi_k' Theta||_F <= lam c_k, D(Theta) = 1/2 ||Psi||^2 - 1/2 ||Psi - Theta||^2 <= min P.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.problems import MultitaskLasso
from pathnorm.solvers import multitask_lasso

SEEDS = st.integers(0, 10**6)
SIZES = (3, 1, 2, 2)


def problem_of(seed, lam_share, n_samples=10, n_outputs=2, noise=1.0):
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n_samples, sum(SIZES))) + 0.3, 0.0)
    targets = noise * rng.standard_normal((n_samples, n_outputs)) + features[:, :2] @ np.ones((2, n_outputs))
    weights = rng.uniform(0.3, 3.0, len(SIZES))
    problem = MultitaskLasso.from_samples(features, targets, 1.0, weights, block_sizes=SIZES)
    return problem.with_lam(lam_share * problem.lam_max), features, targets, rng


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, share=st.floats(1e-3, 1.5), size=st.floats(1e-3, 1e3))
def test_the_bound_of_any_point_is_below_the_value_of_any_other(seed, share, size):
    problem, features, _, rng = problem_of(seed, share)
    shape = (features.shape[1], 2)
    bound = problem.certify(size * rng.standard_normal(shape)).dual
    least_squares = np.linalg.lstsq(problem.gram, problem.cross, rcond=None)[0]
    others = [0.3 * rng.standard_normal(shape), np.zeros(shape), least_squares, 0.5 * least_squares]
    assert bound <= min(problem.value(other) for other in others) + 1e-12 * problem.energy


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, share=st.floats(1e-3, 1.5), size=st.floats(1e-2, 1e2))
def test_the_bound_is_the_dual_value_of_a_feasible_multiple_of_the_residual(seed, share, size):
    problem, features, targets, rng = problem_of(seed, share)
    coef = size * rng.standard_normal((features.shape[1], 2))
    residual = targets - features @ coef
    largest = problem.lam / (problem.block_norms(features.T @ residual) / problem.weights).max()
    scales = np.linspace(0.0, largest, 2001)
    dual = scales * np.sum(targets * residual) - 0.5 * scales**2 * np.sum(residual**2)
    # The grid cannot beat the best scale, and comes close to it.
    found = problem.certify(coef).dual
    scale_of_values = problem.energy + problem.certify(coef).primal
    assert dual.max() <= found + 1e-12 * scale_of_values
    assert found <= dual.max() + 1e-5 * abs(dual).max() + 1e-12 * scale_of_values


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, share=st.floats(1e-3, 0.99))
def test_the_certificate_is_tight_at_a_solution(seed, share):
    problem, *_ = problem_of(seed, share)
    solution = multitask_lasso(problem, tol=1e-9)
    assert solution.certificate == problem.certify(solution.coef)
    assert 0.0 <= solution.certificate.gap <= 1e-9
    assert solution.certificate.scope == "dictionary"


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, share=st.floats(0.01, 0.9))
def test_a_solution_meets_the_optimality_conditions(seed, share):
    problem, *_ = problem_of(seed, share)
    coef = multitask_lasso(problem, tol=1e-13 / share).coef
    correlation, start = problem.cross - problem.gram @ coef, 0
    for size, weight in zip(SIZES, problem.weights, strict=True):
        block, along = coef[start : start + size], correlation[start : start + size]
        start += size
        bound = problem.lam * weight
        if np.any(block):
            np.testing.assert_allclose(along, bound * block / np.linalg.norm(block), atol=1e-4 * bound)
        else:
            assert np.linalg.norm(along) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("noise", [1e-6, 1e-9])
def test_the_gap_keeps_its_digits_where_the_residual_cancels(noise):
    # Fit of 1e-12 and less of the energy: the residual is a difference of nearly equal numbers.
    problem, *_ = problem_of(0, 1e-7, noise=noise)
    solution = multitask_lasso(problem, tol=1e-6)
    better = multitask_lasso(problem, tol=1e-9)
    assert solution.certificate.gap <= 1e-6
    assert solution.certificate.dual <= better.certificate.primal + 1e-13 * problem.energy
