"""Column generation over R-BV²: optima by brute force, invariances, and honest ends."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import CertificateWarning
from pathnorm.problems import BV2Problem, RBV2Problem
from pathnorm.problems.losses import LOSSES, SHALLOW_LOSSES, Huber
from pathnorm.problems.variation import AFFINE
from pathnorm.solvers import Status, bv2, rbv2, rbv2_lam_max
from pathnorm.solvers._atoms import Atoms, Iterate, snapped
from pathnorm.solvers._corrective import corrected
from pathnorm.solvers._sliding import slid
from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)


def targets(rng, loss, f):
    if loss == "logistic":
        return (f + rng.logistic(size=f.size) > 0.0).astype(float)
    if loss == "squared_hinge":
        return np.where(f + rng.logistic(size=f.size) > 0.0, 1.0, -1.0)
    if loss == "poisson":
        return rng.poisson(np.exp(np.clip(f, -2.0, 2.0))).astype(float)
    if loss == "multinomial":
        return np.eye(3)[np.digitize(f + 0.3 * rng.standard_normal(f.size), [-0.3, 0.5])]
    return f + 0.3 * rng.standard_normal(f.size)


def sample(seed, rows, inputs, loss="squared"):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, inputs))
    return X, targets(rng, loss, np.abs(X[:, :2].sum(axis=1)) - 1.0)


def problem_of(seed, rows, inputs, *, share=0.1, loss="squared", **changes):
    X, Y = sample(seed, rows, inputs, loss)
    problem = RBV2Problem.from_samples(X, Y, lam=1.0, loss=loss, **changes)
    return problem.with_lam(share * rbv2_lam_max(problem))


def lasso_over(problem, W, b, *, affine):
    """Optimal squared loss over neurons (W, b), unit rows, by an interior point."""
    X, y = problem.X + problem.origin, problem.Y[:, 0]
    features = np.maximum(X @ W.T - b, 0.0)
    V, A, c = cp.Variable(len(W)), cp.Variable(X.shape[1]), cp.Variable()
    cost = 0.5 * cp.sum(cp.multiply(problem.weights, cp.square(y - features @ V - X @ A - c)))
    cost = cost + problem.lam * cp.norm1(V)
    if affine == "ridge":
        cost = cost + 0.5 * problem.ridge * cp.sum_squares(A)
    program = cp.Problem(cp.Minimize(cost), [A == 0.0] if affine == "none" else [])
    program.solve(solver=cp.CLARABEL)
    return float(program.value)


# ------------------------------------------------------------------- independent optima


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_in_one_dimension_the_lasso_over_all_hinges_through_samples(affine, share):
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-1.0, 1.0, 8), rng.standard_normal(8)
    problem = RBV2Problem.from_samples(
        x[:, None], y, lam=1.0, weights=rng.uniform(0.5, 2.0, 8), affine=affine, ridge=0.3
    )
    problem = problem.with_lam(share * rbv2_lam_max(problem))
    W = np.repeat([[1.0], [-1.0]], 8, axis=0)
    certificate = rbv2(problem, tol=1e-8).certificate
    assert certificate.scope == "function_space"
    expected = lasso_over(problem, W, W[:, 0] * np.tile(x, 2), affine=affine)
    assert certificate.primal == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("affine", AFFINE)
def test_in_the_plane_the_lasso_over_many_hinges_is_above_the_bound_and_close(affine):
    problem = problem_of(4, 8, 2, affine=affine)
    angles = np.linspace(0.0, 2.0 * np.pi, 360, endpoint=False)
    W = np.repeat(np.column_stack((np.cos(angles), np.sin(angles))), 8, axis=0)
    b = np.einsum("kd,kd->k", W, np.tile(problem.X + problem.origin, (360, 1)))
    value = lasso_over(problem, W, b, affine=affine)
    certificate = rbv2(problem, tol=1e-7).certificate
    assert certificate.dual <= value * (1.0 + 1e-7)
    assert certificate.primal <= value * (1.0 + 1e-6)
    assert value <= certificate.primal * (1.0 + 5e-3)


@pytest.mark.parametrize("share", [0.3, 0.03])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_dimension_is_the_problem_over_bv2(loss, share):
    rng = np.random.default_rng(7)
    x = np.sort(rng.uniform(-1.0, 1.0, 30))
    y = targets(rng, loss, 2.0 * np.sin(4.0 * x))
    problem = RBV2Problem.from_samples(x[:, None], y, lam=1.0, loss=loss)
    problem = problem.with_lam(share * rbv2_lam_max(problem))
    tol = 1e-5 if loss in ("absolute", "quantile") else 1e-7
    found = rbv2(problem, tol=tol).certificate
    other = bv2(BV2Problem.from_samples(x, y, problem.lam, loss=loss), tol=1e-8).certificate
    assert found.primal == pytest.approx(other.primal, rel=2.0 * tol, abs=1e-8)


# ----------------------------------------------------------------------------- lam_max


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("loss", SHALLOW_LOSSES)
def test_from_lam_max_on_there_are_no_neurons_and_below_there_are(loss, affine):
    X, Y = sample(1, 30, 2, loss)
    problem = RBV2Problem.from_samples(X, Y, lam=1.0, loss=loss, affine=affine, ridge=0.3)
    largest = rbv2_lam_max(problem)
    tol = 1e-5 if loss in ("absolute", "quantile") else 1e-7
    assert rbv2(problem.with_lam(1.001 * largest), tol=tol).coef.path_norm() <= 1e-8
    below = rbv2(problem.with_lam(0.98 * largest), tol=tol)
    assert below.coef.n_neurons >= 1
    assert below.coef.path_norm() > 1e-6


def test_a_ridge_that_follows_lam_does_so_at_lam_max():
    X, Y = sample(1, 30, 2)
    problem = RBV2Problem.from_samples(X, Y, lam=0.1, affine="ridge")
    largest = rbv2_lam_max(problem)
    assert rbv2(problem.with_lam(1.001 * largest)).coef.n_neurons == 0
    assert rbv2(problem.with_lam(0.99 * largest)).coef.n_neurons > 0


@pytest.mark.parametrize("loss", ["squared", "huber", "absolute"])
def test_targets_on_a_plane_need_no_neuron_and_no_warning(loss):
    X = np.random.default_rng(0).standard_normal((25, 2))
    problem = RBV2Problem.from_samples(X, X @ [1.0, -2.0] + 0.3, lam=0.1, loss=loss)
    assert rbv2_lam_max(problem) <= 1e-8
    solution = rbv2(problem)
    assert solution.coef.n_neurons == 0
    assert solution.converged


# ------------------------------------------------------------------------- invariances


def optimum(X, Y, lam, **changes):
    certificate = rbv2(RBV2Problem.from_samples(X, Y, lam=lam, **changes), tol=1e-7).certificate
    assert certificate.scope == "function_space"
    return certificate.primal


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 50))
def test_what_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    X, y = sample(seed, 20, 2)
    expected = optimum(X, y, 0.5)
    angle, order = rng.uniform(0.0, 6.0), rng.permutation(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert optimum(X @ turn + [30.0, -7.0], y, 0.5) == pytest.approx(expected, rel=3e-7)
    assert optimum(X[order], y[order], 0.5) == pytest.approx(expected, rel=3e-7)
    assert optimum(X, y + X @ [1.0, 2.0] - 5.0, 0.5) == pytest.approx(expected, rel=3e-7)
    assert optimum(np.repeat(X, 2, axis=0), np.repeat(y, 2), 1.0) == pytest.approx(2.0 * expected, rel=3e-7)
    assert optimum(X, y, 1.0, weights=np.full(20, 2.0)) == pytest.approx(2.0 * expected, rel=3e-7)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 50), power=st.sampled_from([-12, -3, 3, 12]))
def test_units(seed, power):
    X, y = sample(seed, 20, 2)
    expected, scale = optimum(X, y, 0.5), 10.0**power
    assert optimum(X, scale * y, 0.5 * scale) == pytest.approx(scale**2 * expected, rel=3e-7)
    assert optimum(scale * X, y, 0.5 * scale) == pytest.approx(expected, rel=3e-7)


def test_weights_are_numbers_of_samples():
    rng = np.random.default_rng(5)
    X, y = sample(5, 15, 2)
    weights = rng.integers(0, 3, 15)
    expected = optimum(np.repeat(X, weights, axis=0), np.repeat(y, weights), 0.3)
    assert optimum(X, y, 0.3, weights=weights) == pytest.approx(expected, rel=3e-7)


@pytest.mark.parametrize("shift", [10.0, 1e3])
def test_a_huber_loss_does_not_mind_where_the_targets_are(shift):
    X, y = sample(6, 25, 2)
    expected = optimum(X, y, 0.5, loss=Huber(1.0))
    assert optimum(X, y + shift, 0.5, loss=Huber(1.0)) == pytest.approx(expected, rel=1e-6)


def test_the_optimum_grows_with_lam_and_the_norm_falls():
    values, norms = [], []
    problem = problem_of(8, 30, 2, share=1.0)
    for share in (0.01, 0.03, 0.1, 0.3, 0.9):
        solution = rbv2(problem.with_lam(share * problem.lam), tol=1e-7)
        values.append(solution.certificate.primal)
        norms.append(solution.coef.path_norm())
    assert (np.diff(values) > 0.0).all()
    assert (np.diff(norms) < 1e-6).all()


# ------------------------------------------------------------------------ every problem


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("loss", SHALLOW_LOSSES)
def test_every_loss_converges(loss, affine):
    solution = rbv2(problem_of(0, 60, 2, loss=loss, affine=affine), tol=1e-6)
    assert solution.converged
    assert solution.certificate.gap <= 1e-6
    assert solution.certificate.scope == "function_space"
    assert solution.certificate.primal == pytest.approx(solution.problem.value(solution.coef), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_small_problems_converge_whatever_the_seed(seed):
    X, y = sample(0, 40, 2)
    solution = rbv2(RBV2Problem.from_samples(X, y, lam=0.1), tol=1e-6, seed=seed)
    assert solution.converged


def test_several_outputs_share_neurons():
    rng = np.random.default_rng(9)
    X = rng.standard_normal((50, 2))
    bends = np.abs(X.sum(axis=1))
    Y = np.column_stack((bends, -2.0 * bends, X[:, 0])) + 0.05 * rng.standard_normal((50, 3))
    problem = RBV2Problem.from_samples(X, Y, lam=3.0)
    solution = rbv2(problem, tol=1e-7)
    assert solution.coef.V.shape[1] == 3
    apart = sum(rbv2(RBV2Problem.from_samples(X, Y[:, k], lam=3.0), tol=1e-7).certificate.dual for k in range(3))
    assert solution.certificate.primal <= apart + 1e-6  # the joint norm is no larger than the sum


def test_neurons_of_one_feature_are_an_additive_model():
    rng = np.random.default_rng(10)
    X = rng.uniform(-1.0, 1.0, (60, 6))
    y = np.abs(X[:, 0]) + np.maximum(X[:, 3] - 0.2, 0.0) + 0.05 * rng.standard_normal(60)
    problem = RBV2Problem.from_samples(X, y, lam=0.3, interactions=1)
    solution = rbv2(problem, tol=1e-6)
    assert solution.certificate.method == "exact"
    assert solution.certificate.scope == "function_space"
    assert (np.count_nonzero(solution.coef.W, axis=1) == 1).all()
    # The same by a lasso over every hinge of every feature.
    W = np.repeat(np.eye(6), 60, axis=0)
    assert solution.certificate.primal == pytest.approx(lasso_over(problem, W, X.T.ravel(), affine="free"), rel=1e-5)


@pytest.mark.parametrize("affine", ["none", "ridge"])
@pytest.mark.parametrize("level", ["auto", "search"])
def test_neurons_of_one_feature_face_both_ways(affine, level):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = 2.0 * np.maximum(-X[:, 0] - 0.3, 0.0)
    problem = RBV2Problem.from_samples(X, y, lam=0.5, affine=affine, ridge=10.0, interactions=1)
    W = np.repeat(np.vstack((np.eye(3), -np.eye(3))), 60, axis=0)
    value = lasso_over(problem, W, np.concatenate((X.T.ravel(), -X.T.ravel())), affine=affine)
    assert rbv2(problem, tol=1e-6, level=level).certificate.primal == pytest.approx(value, rel=1e-5)


def test_pairs_are_certified_in_any_dimension():
    rng = np.random.default_rng(11)
    X = rng.uniform(-1.0, 1.0, (50, 6))
    y = np.abs(X[:, 0] + X[:, 4]) + 0.05 * rng.standard_normal(50)
    solution = rbv2(RBV2Problem.from_samples(X, y, lam=0.5, interactions=2), tol=1e-6)
    assert solution.certificate.method == "exact"
    assert solution.certificate.gap <= 1e-6
    assert (np.count_nonzero(solution.coef.W, axis=1) <= 2).all()


def test_many_dimensions_are_searched_and_not_certified():
    solution = rbv2(problem_of(12, 60, 8, share=0.2), tol=1e-4)
    assert solution.certificate.scope == "dictionary"
    assert solution.certificate.method == "search"
    assert solution.certificate.gap <= 1e-4
    assert solution.certificate.sentence.startswith("not certified")


@pytest.mark.parametrize(("outputs", "affine"), [(1, "free"), (2, "free"), (1, "ridge"), (1, "none")])
def test_a_slide_finds_the_direction_of_a_neuron_that_was_turned(outputs, affine):
    rng = np.random.default_rng(20)
    X = rng.standard_normal((50, 2))
    Y = np.maximum(X @ [0.6, 0.8] - 0.1, 0.0)[:, None] * np.array([3.0, -1.0])[:outputs]
    problem = RBV2Problem.from_samples(X, Y, lam=0.5, affine=affine, ridge=5.0)
    W = np.array([[0.62, (1.0 - 0.62**2) ** 0.5]])
    atoms = snapped(problem, W, np.array([0.1]) - W @ problem.origin, np.full((1, outputs), 0.5))
    A, c = np.zeros((2, outputs)), np.zeros(outputs)
    turned = corrected(problem, Iterate.of(problem, atoms, A, c))
    better = slid(problem, turned, max_steps=30)
    assert better.value < turned.value * (1.0 - 1e-4)
    assert better.atoms.stuck[0, 0] == turned.atoms.stuck[0, 0]
    assert better.value == pytest.approx(problem.value(better.network(problem)), rel=1e-10)
    # Nothing is left to gain by turning within the cell.
    for angle in (1e-4, -1e-4):
        W = better.atoms.W + angle * better.atoms.W[:, ::-1] * [1.0, -1.0]
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        near = Atoms(W, better.atoms.stuck, better.atoms.size, better.atoms.V)
        assert corrected(problem, Iterate.of(problem, near, better.A, better.c)).value >= better.value * (1.0 - 1e-9)


# -------------------------------------------------------------------------- how it ends


def test_the_objective_never_rises():
    problem = problem_of(13, 40, 2, share=0.05)
    values = []
    for rounds in range(8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CertificateWarning)
            values.append(rbv2(problem, tol=1e-9, max_iter=rounds).certificate.primal)
    assert (np.diff(values) <= 1e-12 * values[0]).all()
    assert values[-1] < values[0]


def test_progress_and_the_budget_of_rounds():
    problem, seen = problem_of(14, 40, 2, share=0.02), []
    with pytest.warns(CertificateWarning, match="iteration budget was used up .* 2 rounds"):
        solution = rbv2(problem, tol=1e-9, max_iter=2, progress=lambda count, gap: seen.append((count, gap)))
    assert [count for count, _ in seen] == [0, 1, 2]
    assert all(gap > 0.0 for _, gap in seen)
    assert solution.status is Status.MAX_ITER
    assert not solution.converged
    assert solution.certificate.dual <= rbv2(problem, tol=1e-6).certificate.primal


def test_a_tolerance_beyond_rounding_stalls_and_says_so():
    problem = problem_of(15, 30, 2)
    with pytest.warns(CertificateWarning, match="Relative gap"):
        solution = rbv2(problem, tol=1e-17)
    assert solution.certificate.gap <= 1e-5


@pytest.mark.parametrize("most", [0, 1, 3])
def test_at_most_that_many_neurons(most):
    problem = problem_of(16, 40, 2, share=0.02)
    free = rbv2(problem, tol=1e-6)
    assert free.coef.n_neurons > most
    with pytest.warns(CertificateWarning):
        solution = rbv2(problem, tol=1e-6, max_neurons=most)
    assert solution.coef.n_neurons <= most
    assert solution.certificate.primal >= free.certificate.dual
    assert solution.certificate.dual <= free.certificate.primal


def test_a_start_is_not_written_to_and_saves_rounds():
    problem = problem_of(17, 50, 2, share=0.05)
    cold = rbv2(problem, tol=1e-6)
    kept = cold.coef.W.copy()
    warm = rbv2(problem, tol=1e-6, start=cold.coef)
    assert warm.n_iter <= 3
    np.testing.assert_array_equal(cold.coef.W, kept)
    assert warm.certificate.primal == pytest.approx(cold.certificate.primal, rel=2e-6)
    rng = np.random.default_rng(0)
    shapes = ((20, 2), 20, (20, 1), (2, 1), 1)
    foreign = ShallowNet(*(rng.standard_normal(shape) for shape in shapes))
    assert rbv2(problem, tol=1e-6, start=foreign).certificate.gap <= 1e-6


def test_the_seed_decides_everything():
    problem = problem_of(18, 30, 3)
    first, second = (rbv2(problem, tol=1e-4, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.coef.W, second.coef.W)
    np.testing.assert_array_equal(first.coef.V, second.coef.V)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.zeros((1, 2)), np.ones(1)),
        (np.ones((10, 3)), np.arange(10.0)),
        (np.random.default_rng(0).standard_normal((4, 6)), np.arange(4.0)),
        (np.random.default_rng(0).standard_normal((4, 3)), np.array([1.0, -2.0, 0.0, 3.0])),
        (np.repeat(np.random.default_rng(0).standard_normal((5, 2)), 4, axis=0), np.arange(20.0)),
        (np.column_stack((np.random.default_rng(0).standard_normal((20, 2)), np.full(20, 7.0))), np.arange(20.0)),
        (np.tile(np.random.default_rng(0).standard_normal((20, 1)), 3), np.arange(20.0)),
        (np.random.default_rng(0).integers(0, 3, (25, 2)), np.arange(25.0) % 7),
        (np.random.default_rng(0).standard_normal((20, 2)) + 1e8, np.arange(20.0)),
        (np.random.default_rng(0).standard_normal((20, 2)), np.arange(20.0) + 1e8),
        (np.random.default_rng(0).standard_normal((20, 2)), np.zeros(20)),
    ],
    ids=[
        "one",
        "constant",
        "wide",
        "simplex",
        "duplicates",
        "column",
        "copies",
        "integers",
        "far",
        "high",
        "zero",
    ],
)
def test_degenerate_samples(X, y):
    solution = rbv2(RBV2Problem.from_samples(X, y, lam=0.5), tol=1e-5)
    assert solution.converged
    assert np.isfinite(solution.coef(np.asarray(X, dtype=float))).all()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"tol": 0.0}, "tol must be > 0"),
        ({"max_iter": -1}, "max_iter >= 0"),
        ({"max_neurons": -1}, "max_neurons must be >= 0"),
        ({"level": "proof"}, "certify must be one of"),
    ],
)
def test_bad_arguments(settings_, message):
    with pytest.raises(ValueError, match=message):
        rbv2(problem_of(0, 10, 2), **settings_)
