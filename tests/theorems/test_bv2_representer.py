"""Learning over BV²(R) has a solution that is a ReLU network with fewer neurons than samples.

``min_f sum loss(y, f(x)) + lam TV(f')`` is solved by a linear spline with fewer than N knots, all of them at the data.
Its ``TV(f')`` is the path norm of a network that is this function, and half the sum of the squared weights of the
balanced one: the solution is a global optimum of training with weight decay.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from pathnorm.problems import BV2Problem
from pathnorm.solvers import bv2

LOSSES = ["squared", "huber", "absolute", "logistic", "poisson"]


def sample(seed, n, loss):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, n)
    f = np.sin(6.0 * x)
    if loss == "logistic":
        return x, (rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * f))).astype(float)
    if loss == "poisson":
        return x, rng.poisson(np.exp(f)).astype(float)
    return x, f + 0.3 * rng.standard_normal(n)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lam", [1.0, 0.05, 1e-3])
def test_fewer_knots_than_samples_all_at_data_and_certified_over_the_function_space(loss, lam):
    x, y = sample(0, 50, loss)
    solution = bv2(BV2Problem.from_samples(x, y, lam, loss=loss), tol=1e-7)
    spline = solution.coef
    assert solution.certificate.gap <= 1e-7
    assert solution.certificate.scope == "function_space"
    assert spline.n_knots <= x.size - 2
    # To rounding errors: where knots of the solver nearly coincide they are merged.
    assert all(np.abs(x - knot).min() < 1e-6 for knot in spline.knots[np.abs(spline.jumps) > 1e-6])


@pytest.mark.parametrize("loss", LOSSES)
def test_tv2_is_the_path_norm_and_half_the_weight_decay_of_the_network(loss):
    x, y = sample(1, 80, loss)
    spline = bv2(BV2Problem.from_samples(x, y, 0.02, loss=loss), tol=1e-7).coef
    network = spline.to_network()
    assert network.n_neurons == spline.n_knots < x.size
    assert network.path_norm() == pytest.approx(spline.tv2, rel=1e-10)
    assert 0.5 * (np.sum(network.W**2) + np.sum(network.V**2)) == pytest.approx(spline.tv2, rel=1e-10)
    points = np.linspace(-2.0, 2.0, 401)
    np.testing.assert_allclose(network(points[:, None])[:, 0], spline(points), atol=1e-11)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_with_weight_decay_does_not_get_below_the_certificate(seed):
    # A network of 30 neurons, trained from a random start: whatever it finds is above the dual bound.
    x, y = sample(2, 20, "squared")
    lam, width = 0.02, 30
    certificate = bv2(BV2Problem.from_samples(x, y, lam)).certificate
    rng = np.random.default_rng(seed)

    def objective(weights):
        w, b, v = weights[: 3 * width].reshape(3, width)
        active = np.maximum(np.outer(x, w) - b, 0.0)
        slope, level = weights[3 * width :]
        r = active @ v + slope * x + level - y
        on = (active > 0.0) * np.outer(r, v)
        gradient = np.concatenate((x @ on + lam * w, -on.sum(axis=0), active.T @ r + lam * v, [r @ x, r.sum()]))
        return 0.5 * r @ r + 0.5 * lam * (w @ w + v @ v), gradient

    trained = minimize(objective, rng.standard_normal(3 * width + 2), jac=True, method="L-BFGS-B")
    assert trained.fun >= certificate.dual
    assert trained.fun <= 2.0 * certificate.primal
