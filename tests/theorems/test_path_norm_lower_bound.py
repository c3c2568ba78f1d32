"""Weak duality bounds the path norm of every layer with a given error from below.

For every V with ``1/2 ||Psi - Phi V||^2 <= e`` and every lambda, ``sum_k c_k ||V_k|| >= (dual(lambda) - e) / lambda``.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from pathnorm.deep.describe import _certificate
from pathnorm.problems.reconstruction import LayerReconstruction


def smallest_path_norm(phi, psi, cost, error):
    """Solve ``min sum_k c_k ||v_k||`` subject to ``||Psi - Phi V||^2 <= error ||Psi||^2`` by an interior point."""
    coef = cp.Variable((phi.shape[1], psi.shape[1]))
    miss = cp.norm(psi - phi @ coef, "fro")
    norm = cost @ cp.norm(coef, 2, axis=1)
    program = cp.Problem(cp.Minimize(norm), [miss <= np.sqrt(error) * np.linalg.norm(psi)])
    program.solve(solver=cp.CLARABEL)
    return float(program.value)


@pytest.mark.parametrize("error", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bound_is_below_the_smallest_path_norm_and_close_to_it(seed, error):
    rng = np.random.default_rng(seed)
    phi = np.maximum(rng.standard_normal((80, 6)) @ rng.standard_normal((6, 12)), 0.0)
    psi = phi @ rng.standard_normal((12, 4)) + 0.1 * rng.standard_normal((80, 4))
    cost = rng.uniform(0.5, 2.0, 12)
    problem = LayerReconstruction(phi.T @ phi, phi.T @ psi, psi.T @ psi, 1, cost)
    lam, certificate = _certificate(problem, error)
    bound = (certificate.dual - 0.5 * error * problem.energy) / lam
    best = smallest_path_norm(phi, psi, cost, error)
    assert bound <= best * (1 + 1e-6)
    assert bound >= 0.8 * best
    assert certificate.gap <= 1e-6


def test_any_refit_respects_the_bound():
    rng = np.random.default_rng(5)
    phi = np.maximum(rng.standard_normal((200, 30)), 0.0)
    psi = phi @ rng.standard_normal((30, 5))
    problem = LayerReconstruction(phi.T @ phi, phi.T @ psi, psi.T @ psi, 1, np.ones(30))
    for width in (5, 15, 25):
        refit = problem.refit(rng.permutation(30)[:width])
        lam, certificate = _certificate(problem, refit.error)
        assert problem.path_norm(refit.coef) >= (certificate.dual - 0.5 * refit.error * problem.energy) / lam
