"""At a solution over R-BV² the dual function ``h`` nowhere exceeds ``lam`` and reaches it at every neuron.

With r minus the derivative of the losses let ``h(w, b) = sum_n r_n (w' x_n - b)_+``. Then ``max ||h|| = lam`` over unit
w, ``h(w_k, b_k) = lam v_k / ||v_k||`` at neurons with unit input weights, and r vanishes along the affine functions
[Parhi & Nowak 2021; Bach 2017].
"""

from __future__ import annotations

import numpy as np
import pytest

from pathnorm.problems import RBV2Problem
from pathnorm.solvers import rbv2, rbv2_lam_max
from pathnorm.spaces import ShallowNet


def targets(rng, loss, X, outputs):
    f = np.abs(X.sum(axis=1))[:, None] * rng.uniform(0.5, 2.0, outputs) + 0.3 * rng.standard_normal((len(X), outputs))
    if loss == "logistic":
        return (f > 1.0).astype(float)
    if loss == "poisson":
        return np.round(f)
    if loss == "multinomial":
        return np.eye(3)[np.digitize(f[:, 0], [0.5, 1.5])]
    return f


CASES = [
    ("squared", 1, 1),
    ("squared", 2, 1),
    ("squared", 3, 1),
    ("squared", 2, 3),
    ("huber", 2, 1),
    ("logistic", 2, 1),
    ("poisson", 2, 1),
    ("multinomial", 2, 1),
]


@pytest.mark.parametrize("affine", ["free", "ridge", "none"])
@pytest.mark.parametrize(("loss", "inputs", "outputs"), CASES)
def test_neurons_sit_where_the_dual_function_is_largest(loss, inputs, outputs, affine):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((40, inputs))
    problem = RBV2Problem.from_samples(X, targets(rng, loss, X, outputs), lam=1.0, loss=loss, affine=affine, ridge=0.2)
    problem = problem.with_lam(0.2 * rbv2_lam_max(problem))
    lam, net = problem.lam, rbv2(problem, tol=1e-7).coef
    assert net.n_neurons > 0
    R = problem.weights[:, None] * problem.loss.pull(problem.Y, net(X))

    def h(W, b):
        return np.maximum(X @ W.T - b, 0.0).T @ R

    norms = np.linalg.norm(net.W, axis=1)
    at = h(net.W / norms[:, None], net.b / norms)
    mass = norms * np.linalg.norm(net.V, axis=1)
    # What is off is weighted by the mass: the gap is the sum of mass times what is missing to lam.
    aligned = np.einsum("kd,kd->k", at, net.V) / np.linalg.norm(net.V, axis=1)
    assert mass @ np.abs(aligned - lam) <= 1e-3 * lam * mass.sum()
    np.testing.assert_allclose(np.linalg.norm(at, axis=1)[mass > 0.01 * mass.sum()], lam, rtol=2e-3)
    np.testing.assert_allclose(R.sum(axis=0), 0.0, atol=1e-3 * np.abs(R).sum())
    A = net.A if affine == "ridge" else 0.0
    if affine != "none":
        np.testing.assert_allclose(problem.X.T @ R, 0.2 * np.asarray(A), atol=2e-3 * np.abs(R).sum())
    W = rng.standard_normal((4000, inputs))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    b = np.einsum("kd,kd->k", W, X[rng.integers(40, size=4000)])
    assert np.linalg.norm(h(W, b), axis=1).max() <= lam * (1.0 + 2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_no_small_change_of_the_network_is_better(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 2))
    problem = RBV2Problem.from_samples(X, np.abs(X[:, 0]) + 0.2 * rng.standard_normal(30), lam=0.5)
    solution = rbv2(problem, tol=1e-9)
    net, best = solution.coef, solution.certificate.primal
    for step in (1e-1, 1e-3, 1e-5):
        for _ in range(50):
            parts = (getattr(net, name) for name in ("W", "b", "V", "A", "c"))
            other = ShallowNet(*(part + step * rng.standard_normal(part.shape) for part in parts))
            assert problem.value(other) >= best * (1.0 - 2e-9)
