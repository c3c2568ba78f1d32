"""Learning over R-BV²: values by hand, weak duality for every loss, repaired pulls, and the best affine part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge

from pathnorm.problems import RBV2Problem
from pathnorm.problems.losses import SHALLOW_LOSSES, Huber
from pathnorm.problems.variation import AFFINE
from pathnorm.representer import dual_norm
from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)
every_loss = pytest.mark.parametrize("loss", SHALLOW_LOSSES)
every_affine = pytest.mark.parametrize("affine", AFFINE)


def targets(rng, loss, rows, outputs):
    if loss == "logistic":
        return rng.integers(0, 2, (rows, outputs)).astype(float)
    if loss == "poisson":
        return rng.poisson(2.0, (rows, outputs)).astype(float)
    if loss == "squared_hinge":
        return rng.choice([-1.0, 1.0], (rows, outputs))
    if loss == "multinomial":
        return np.eye(outputs + 1)[rng.integers(0, outputs + 1, rows)]
    return 2.0 * rng.standard_normal((rows, outputs))


def random_problem(seed, loss, affine, **changes):
    rng = np.random.default_rng(seed)
    rows, inputs, outputs = (int(rng.integers(*ends)) for ends in ((2, 14), (1, 4), (1, 3)))
    X = rng.standard_normal((rows, inputs)) + 3.0
    if rng.random() < 0.2:
        X[rows // 2 :] = X[: rows - rows // 2]
    settings_ = {"lam": float(10.0 ** rng.uniform(-2, 1)), "weights": rng.uniform(0.3, 2.0, rows)} | changes
    if affine == "ridge" and rng.random() < 0.5:
        settings_["ridge"] = 0.7
    Y = targets(rng, loss, rows, outputs)
    return RBV2Problem.from_samples(X, Y, loss=loss, affine=affine, **settings_), rng


def random_net(problem, rng):
    d, D = problem.n_features, problem.n_outputs
    count = int(rng.integers(0, 6))
    A = np.zeros((d, D)) if problem.affine == "none" else rng.standard_normal((d, D))
    shapes = ((count, d), count, (count, D))
    return ShallowNet(*(0.5 * rng.standard_normal(shape) for shape in shapes), 0.3 * A, rng.standard_normal(D))


def random_pulls(problem, rng):
    """Pulls of a random function, or no pulls of anything; rows of the multinomial loss sum to zero."""
    if rng.random() < 0.5:
        R = problem.pulls(rng.standard_normal(problem.Y.shape))
    else:
        R = rng.standard_normal(problem.Y.shape)
        if problem.n_outputs > 1 and not problem.loss.separable:
            R -= R.mean(axis=1, keepdims=True)
    return problem.repaired(R)


# ------------------------------------------------------------------------------- value


def test_the_objective_by_hand():
    X, y = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 0.0, 2.0])
    # f = 2 (3 x1 + 4 x2 - 1)_+ + x1 - x2 + 0.5: f = 0.5, 5.5, 12.5.
    net = ShallowNet([[3.0, 4.0]], [1.0], [[2.0]], [[1.0], [-1.0]], [0.5])
    np.testing.assert_allclose(net(X)[:, 0], [0.5, 5.5, 12.5])
    problem = RBV2Problem.from_samples(X, y, lam=0.1, weights=[1.0, 2.0, 4.0])
    loss = 0.5 * 0.25 + 2.0 * 0.5 * 5.5**2 + 4.0 * 0.5 * 10.5**2
    assert problem.value(net) == pytest.approx(loss + 0.1 * 2.0 * 5.0)
    assert problem.data_loss(net(X)) == pytest.approx(loss)
    np.testing.assert_allclose(problem.outputs(net), net(X))
    np.testing.assert_allclose(problem.pulls(net(X))[:, 0], [0.5, -11.0, -42.0])
    ridge = RBV2Problem.from_samples(X, y, lam=0.1, weights=[1.0, 2.0, 4.0], affine="ridge", ridge=3.0)
    assert ridge.value(net) == pytest.approx(loss + 1.0 + 0.5 * 3.0 * 2.0)
    none = RBV2Problem.from_samples(X, y, lam=0.1, affine="none")
    assert none.value(net) == np.inf
    assert RBV2Problem.from_samples(X, y, lam=0.1, interactions=1).value(net) == np.inf
    assert RBV2Problem.from_samples(X, y, lam=0.1, interactions=2).value(net) < np.inf
    assert (problem.n_samples, problem.n_features, problem.n_outputs) == (3, 2, 1)


def test_several_outputs_share_the_norm_of_a_neuron():
    net = ShallowNet([[1.0]], [0.0], [[3.0, 4.0]], np.zeros((1, 2)), np.zeros(2))
    problem = RBV2Problem.from_samples([[1.0], [-1.0]], [[3.0, 4.0], [0.0, 0.0]], lam=2.0)
    assert problem.value(net) == pytest.approx(2.0 * 5.0)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_centred_and_back(seed):
    problem, rng = random_problem(seed, "squared", "free")
    net = random_net(problem, rng)
    points = rng.standard_normal((5, problem.n_features))
    np.testing.assert_allclose(problem.centred(net)(points - problem.origin), net(points), atol=1e-12)
    np.testing.assert_allclose(problem.uncentred(problem.centred(net))(points), net(points), atol=1e-12)


@every_loss
def test_a_weight_of_two_is_the_sample_twice_and_of_zero_none(loss):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((6, 2)), targets(rng, loss, 6, 1)
    weights = np.array([1, 2, 0, 1, 3, 0])
    once = RBV2Problem.from_samples(X, Y, lam=0.3, loss=loss, weights=weights)
    again = RBV2Problem.from_samples(np.repeat(X, weights, axis=0), np.repeat(Y, weights, axis=0), lam=0.3, loss=loss)
    net = random_net(once, rng)
    assert once.value(net) == pytest.approx(again.value(net))
    assert once.n_samples == 4
    np.testing.assert_allclose(once.origin, again.origin)


# ----------------------------------------------------------------------------- duality


@every_affine
@every_loss
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_no_dual_value_exceeds_a_primal_one(loss, affine, seed):
    problem, rng = random_problem(seed, loss, affine)
    R = random_pulls(problem, rng)
    upper = dual_norm(problem, R, level="exact").upper
    longest = 1.0 if upper == 0.0 else min(1.0, problem.lam / upper)
    dual = max(problem.dual_bound(R, upper), problem.dual_value(rng.uniform(0.0, longest) * R))
    assert np.isfinite(dual)
    for _ in range(5):
        primal = problem.value(random_net(problem, rng))
        assert dual <= primal + 1e-7 * (1.0 + abs(primal))
    affine_net = problem.fit_affine()
    primal = problem.data_loss(affine_net.outputs)
    if affine == "ridge":
        primal += 0.5 * problem.ridge * float((affine_net.A**2).sum())
    assert dual <= primal + 1e-7 * (1.0 + abs(primal))


@every_affine
@every_loss
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, noise=st.sampled_from([0.0, 1e-9, 0.3, 100.0]))
def test_repaired_pulls_meet_the_conditions_and_stay_in_the_domain(loss, affine, seed, noise):
    problem, rng = random_problem(seed, loss, affine)
    R = problem.pulls(problem.fit_affine().outputs)
    disturbance = noise * rng.standard_normal(R.shape)
    if not problem.loss.separable:
        disturbance -= disturbance.mean(axis=1, keepdims=True)
    R = problem.repaired(R + disturbance)
    size = float(np.abs(R).max()) + 1.0
    np.testing.assert_allclose(R.sum(axis=0), 0.0, atol=1e-8 * size)
    if affine == "free":
        np.testing.assert_allclose(problem.X.T @ R, 0.0, atol=1e-8 * size)
    if not problem.loss.separable:
        np.testing.assert_allclose(R.sum(axis=1), 0.0, atol=1e-8 * size)
    low, high = problem.loss.domain(problem.Y)
    s = problem.weights[:, None]
    assert (R >= low * s).all()
    assert (R <= high * s).all()
    assert np.isfinite(problem.dual_value(R))


@every_affine
@every_loss
def test_the_pulls_of_the_best_affine_function_close_the_gap_where_lam_is_large(loss, affine):
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((40, 2)), targets(rng, loss, 40, 1)
    problem = RBV2Problem.from_samples(X, Y, lam=1e4, loss=loss, affine=affine, ridge=0.7)
    if loss in ("absolute", "quantile"):
        pytest.skip("pulls at a kink are not unique; the solver finds them")
    fit = problem.fit_affine()
    net = problem.uncentred(ShallowNet(np.zeros((0, 2)), [], np.zeros((0, problem.n_outputs)), fit.A, fit.c))
    R = problem.dual_point(net)
    upper = dual_norm(problem, R).upper
    certificate = problem.certify(net, R, upper)
    # A certificate never shows a bound above the value, so look at the bound itself.
    assert problem.dual_bound(R, upper) == pytest.approx(certificate.primal, rel=1e-9)
    assert certificate.gap <= 1e-10
    assert certificate.scope == "function_space"


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_squared_loss_takes_the_best_point_of_the_ray(seed):
    problem, rng = random_problem(seed, "squared", "ridge")
    R = random_pulls(problem, rng)
    upper = dual_norm(problem, R, level="exact").upper
    if upper == 0.0:
        return
    values = [problem.dual_value(t * R) for t in np.linspace(0.0, problem.lam / upper, 2001)]
    best = max(values)
    assert best - 1e-12 * (1.0 + abs(best)) <= problem.dual_bound(R, upper) <= best + 1e-5 * (1.0 + abs(best))


# ------------------------------------------------------------------------- affine part


def affine_samples(seed=0, rows=80):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -1.0]
    z = (X - X.mean(axis=0)) @ [0.5, 0.05, 3.0]
    return X, z, rng.uniform(0.5, 2.0, rows), rng


def of(problem):
    """Coefficients of the best affine function in the coordinates of the samples as they came."""
    fit = problem.fit_affine()
    return np.vstack((fit.A, fit.c - problem.origin @ fit.A)), fit


def test_least_squares_against_scikit_learn():
    X, z, s, rng = affine_samples()
    Y = np.column_stack((z, -z)) + rng.standard_normal((80, 2))
    coef, fit = of(RBV2Problem.from_samples(X, Y, lam=1.0, weights=s))
    peer = LinearRegression().fit(X, Y, s)
    np.testing.assert_allclose(coef, np.vstack((peer.coef_.T, peer.intercept_)), atol=1e-10)
    np.testing.assert_allclose(fit.outputs, peer.predict(X), atol=1e-10)
    coef, _ = of(RBV2Problem.from_samples(X, Y, lam=1.0, weights=s, affine="ridge", ridge=4.0))
    peer = Ridge(4.0).fit(X, Y, s)
    np.testing.assert_allclose(coef, np.vstack((peer.coef_.T, peer.intercept_)), atol=1e-10)
    coef, _ = of(RBV2Problem.from_samples(X, Y, lam=1.0, weights=s, affine="none"))
    np.testing.assert_allclose(coef, np.vstack((np.zeros((3, 2)), np.average(Y, axis=0, weights=s))), atol=1e-12)


def test_logistic_and_multinomial_against_scikit_learn():
    X, z, s, rng = affine_samples(1)
    y = (z + rng.logistic(size=80) > 0).astype(float)
    options = {"C": np.inf, "tol": 1e-12, "max_iter": 10_000, "solver": "newton-cholesky"}
    peer = LogisticRegression(**options).fit(X, y, s)
    coef, _ = of(RBV2Problem.from_samples(X, y, lam=1.0, loss="logistic", weights=s))
    np.testing.assert_allclose(coef[:, 0], np.append(peer.coef_, peer.intercept_), rtol=1e-6)
    labels = np.digitize(z + rng.logistic(size=80), [-0.5, 0.5])
    peer = LogisticRegression(**options).fit(X, labels, s)
    _, fit = of(RBV2Problem.from_samples(X, np.eye(3)[labels], lam=1.0, loss="multinomial", weights=s))
    expected = peer.decision_function(X)
    gauge = fit.outputs - fit.outputs.mean(axis=1, keepdims=True)  # logits count up to a constant of the sample
    np.testing.assert_allclose(gauge, expected - expected.mean(axis=1, keepdims=True), atol=1e-6)


def test_poisson_against_scikit_learn():
    X, z, s, rng = affine_samples(2)
    y = rng.poisson(np.exp(z)).astype(float)
    peer = PoissonRegressor(alpha=0.0, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(X, y, s)
    coef, _ = of(RBV2Problem.from_samples(X, y, lam=1.0, loss="poisson", weights=s))
    np.testing.assert_allclose(coef[:, 0], np.append(peer.coef_, peer.intercept_), rtol=1e-6)


@pytest.mark.parametrize("loss", [Huber(0.5), "squared_hinge", "logistic", "poisson", "multinomial"])
@every_affine
def test_other_losses_against_bfgs(loss, affine):
    X, _, s, rng = affine_samples(4, 30)
    name = loss if isinstance(loss, str) else "huber"
    Y = targets(rng, name, 30, 1)
    problem = RBV2Problem.from_samples(X, Y, lam=1.0, loss=loss, weights=s, affine=affine, ridge=0.4)
    offset = 0.3 * rng.standard_normal(problem.Y.shape)
    columns = problem.X / problem.X.std(axis=0)
    d, D = (0 if affine == "none" else 3), problem.n_outputs

    def value(theta):
        coef = theta.reshape(d + 1, D)
        F = offset + columns[:, :d] @ coef[1:] + coef[0]
        A = coef[1:] / problem.X.std(axis=0)[:d, None]
        return problem.data_loss(F) + (0.2 * float((A**2).sum()) if affine == "ridge" else 0.0)

    best = minimize(value, np.zeros((d + 1) * D), method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).fun
    fit = problem.fit_affine(offset)
    found = problem.data_loss(fit.outputs) + (0.2 * float((fit.A**2).sum()) if affine == "ridge" else 0.0)
    assert found == pytest.approx(best, rel=1e-8)
    assert found <= best + 1e-9 * abs(best)
    np.testing.assert_allclose(fit.outputs, offset + problem.X @ fit.A + fit.c, atol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 10.0, 1e3, -1e6])
def test_a_huber_loss_finds_targets_that_are_far_from_zero(shift):
    X, z, s, rng = affine_samples(6)
    y = z + rng.standard_normal(80)
    here = RBV2Problem.from_samples(X, y, lam=1.0, loss="huber", weights=s)
    there = RBV2Problem.from_samples(X, y + shift, lam=1.0, loss="huber", weights=s)
    np.testing.assert_allclose(there.fit_affine().outputs - shift, here.fit_affine().outputs, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "squared_hinge", "poisson", "multinomial"])
def test_features_that_are_constant_or_depend_on_each_other(loss):
    X, _, _, rng = affine_samples(5)
    Y = targets(rng, loss, 80, 1)
    plain = RBV2Problem.from_samples(X, Y, lam=1.0, loss=loss)
    more = RBV2Problem.from_samples(
        np.column_stack((X, X[:, :2] @ [1.0, 2.0], np.full(80, 7.0))), Y, lam=1.0, loss=loss
    )
    expected = plain.data_loss(plain.fit_affine().outputs)
    assert more.data_loss(more.fit_affine().outputs) == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": 0.0}, "lam must be a finite number > 0; got 0.0"),
        ({"lam": -1.0}, "lam must be a finite number > 0"),
        ({"lam": np.nan}, "lam must be a finite number > 0"),
        ({"lam": np.inf}, "lam must be a finite number > 0"),
        ({"affine": "some"}, "affine must be one of free, ridge, none; got 'some'"),
        ({"affine": "ridge", "ridge": 0.0}, "needs a finite ridge > 0"),
        ({"interactions": 3}, "interactions must be 1, 2 or None; got 3"),
        ({"loss": "hinge"}, "loss must be one of squared"),
        ({"weights": [1.0, 2.0]}, "weights must be 4 finite numbers"),
        ({"weights": [1.0, -2.0, 1.0, 1.0]}, "weights must be 4 finite numbers"),
        ({"weights": np.zeros(4)}, "not all zero"),
        ({"X": np.full((4, 2), np.nan)}, "X must be finite"),
        ({"Y": np.array([1.0, np.inf, 0.0, 1.0])}, "Y must be finite"),
        ({"X": np.zeros(4)}, r"X must have shape \(N, d\)"),
        ({"X": np.zeros((4, 0))}, r"X must have shape \(N, d\)"),
        ({"Y": np.zeros(3)}, r"X must have shape \(N, d\)"),
        ({"loss": "logistic", "Y": np.arange(4.0)}, "between 0 and 1"),
        ({"loss": "squared_hinge"}, "targets of -1 and 1"),
        ({"loss": "multinomial"}, "distributions over classes"),
        ({"loss": "poisson", "Y": -np.ones(4)}, "targets >= 0"),
    ],
)
def test_what_is_no_problem_is_refused(changes, message):
    given_ = {"X": np.arange(8.0).reshape(4, 2), "Y": np.zeros(4), "lam": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        RBV2Problem.from_samples(given_.pop("X"), given_.pop("Y"), **given_)


def test_networks_of_another_shape_are_refused():
    problem = RBV2Problem.from_samples(np.zeros((3, 2)), np.zeros(3), lam=1.0)
    net = ShallowNet(np.zeros((0, 3)), [], np.zeros((0, 1)), np.zeros((3, 1)), [0.0])
    with pytest.raises(ValueError, match="2 inputs and 1 outputs"):
        problem.value(net)


def test_inputs_are_copied_and_a_ridge_equal_to_lam_by_chance_stays():
    X, y = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    problem = RBV2Problem.from_samples(X, y, lam=1.0, affine="ridge", ridge=1.0)
    assert problem.with_lam(5.0).ridge == 1.0
    assert RBV2Problem.from_samples(X, y, lam=1.0, affine="ridge").with_lam(5.0).ridge == 5.0
    X[:], y[:] = -1.0, -1.0
    assert problem.Y.max() == 2.0
    assert problem.X.max() == 2.0
