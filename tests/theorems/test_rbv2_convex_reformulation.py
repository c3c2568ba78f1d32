"""Training a network with weight decay is a convex program over its activation patterns.

[Ergen & Pilanci 2021, "Convex geometry and duality of over-parameterized neural networks"], here with free biases and a
free affine part: for each pattern D_i of the samples two neurons, one for each sign of the output weight, that respect
it, ``(2 D_i - I)(X w - b) >= 0``, penalised by ``||w||``. With all patterns that is the problem over R-BV². Without the
constraints (gated networks) the optimum is no larger, since two neurons of a pattern become their difference. With free
biases it is even that of the affine part alone or less: a bias behind a gate costs nothing.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from pathnorm.problems import RBV2Problem
from pathnorm.representer import activation_patterns
from pathnorm.solvers import rbv2, rbv2_lam_max

COST = {
    "squared": lambda y, z: 0.5 * cp.sum_squares(y - z),
    "huber": lambda y, z: 0.5 * cp.sum(cp.huber(y - z, 1.0)),
    "absolute": lambda y, z: cp.norm1(y - z),
    "logistic": lambda y, z: cp.sum(cp.logistic(z)) - y @ z,
    "poisson": lambda y, z: cp.sum(cp.exp(z)) - y @ z,
}


def convex(X, y, lam, *, loss="squared", affine="free", gated=False, bias_cost=False, patterns=None):
    """Optimal value of the program over activation patterns, all of them if none are given."""
    D = activation_patterns(X) if patterns is None else patterns
    if affine == "free":
        D = D[D[:, 0]]  # a pattern and its complement differ by an affine function
    D = D.T.astype(float)
    (n, d), count = X.shape, D.shape[1]
    ones = np.ones((n, 1))
    norm, output, conditions = 0.0, cp.Variable() * np.ones(n), []
    if affine == "free":
        output = output + X @ cp.Variable(d)
    for sign in (1.0,) if gated else (1.0, -1.0):
        W, b = cp.Variable((d, count)), cp.Variable((1, count))
        inner = X @ W - ones @ b
        output = output + sign * cp.sum(cp.multiply(D, inner), axis=1)
        norm = norm + cp.sum(cp.norm(cp.vstack([W, b]) if bias_cost else W, 2, axis=0))
        if not gated:
            conditions.append(cp.multiply(2.0 * D - 1.0, inner) >= 0.0)
    program = cp.Problem(cp.Minimize(COST[loss](y, output) + lam * norm), conditions)
    program.solve(solver=cp.CLARABEL)
    return float(program.value)


def samples(seed, n, d, loss="squared"):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    f = 2.0 * np.abs(X.sum(axis=1)) - 1.0 + 0.5 * rng.standard_normal(n)
    if loss == "logistic":
        return X, rng.integers(0, 2, n).astype(float)
    return X, rng.poisson(np.exp(np.clip(f, -1.0, 1.0))).astype(float) if loss == "poisson" else f


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(("n", "d"), [(12, 1), (12, 2), (10, 3)])
def test_with_all_patterns_it_has_the_optimum_over_the_function_space(n, d, share):
    X, y = samples(n + d, n, d)
    problem = RBV2Problem.from_samples(X, y, lam=1.0)
    problem = problem.with_lam(share * rbv2_lam_max(problem))
    solution = rbv2(problem, tol=1e-8)
    assert solution.certificate.scope == "function_space"
    assert solution.certificate.primal == pytest.approx(convex(X, y, problem.lam), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("affine", ["free", "none"])
@pytest.mark.parametrize("loss", ["huber", "absolute", "logistic", "poisson"])
def test_other_losses(loss, affine):
    X, y = samples(3, 12, 2, loss)
    problem = RBV2Problem.from_samples(X, y, lam=1.0, loss=loss, affine=affine)
    problem = problem.with_lam(0.2 * rbv2_lam_max(problem))
    solution = rbv2(problem, tol=1e-5 if loss == "absolute" else 1e-6)
    value = convex(X, y, problem.lam, loss=loss, affine=affine)
    # Interior points and multipliers for the kinks of the absolute loss end where they end.
    assert solution.certificate.primal == pytest.approx(value, rel=1e-5 if loss == "absolute" else 2e-6, abs=1e-7)
    assert solution.certificate.dual <= value + 1e-7 * abs(value)


def test_samples_twice_and_in_a_plane():
    rng = np.random.default_rng(5)
    X = rng.integers(0, 3, (9, 2)) @ rng.standard_normal((2, 3))
    y = rng.standard_normal(9)
    problem = RBV2Problem.from_samples(X, y, lam=0.05)
    assert rbv2(problem, tol=1e-8).certificate.primal == pytest.approx(convex(X, y, 0.05), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_some_patterns_bound_the_optimum_from_above(seed):
    X, y = samples(seed, 12, 3)
    problem = RBV2Problem.from_samples(X, y, lam=0.05)
    optimum = rbv2(problem, tol=1e-6).certificate
    few = convex(X, y, 0.05, patterns=activation_patterns(X, count=40, seed=seed))
    assert few >= optimum.dual * (1.0 - 1e-7)


@pytest.mark.parametrize("d", [1, 2])
def test_without_the_cones_the_optimum_is_no_larger_and_free_biases_make_it_zero(d):
    X, y = samples(d, 10, d)
    exact, gated = (convex(X, y, 0.1, bias_cost=True, gated=gated) for gated in (False, True))
    assert gated <= exact * (1.0 + 1e-7)
    # A gated bias is a step at no cost, and steps interpolate.
    assert convex(X, y, 0.1, gated=True) == pytest.approx(0.0, abs=1e-7)
    assert convex(X, y, 0.1) > 0.05
