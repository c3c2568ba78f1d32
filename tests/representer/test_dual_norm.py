"""The dual norm says what it proves, and certificates of networks trained elsewhere hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm import ShallowNet, certify
from pathnorm.problems import Certificate, RBV2Problem
from pathnorm.representer import dual_norm
from pathnorm.solvers import rbv2

SEEDS = st.integers(0, 10**6)


def problem_of(seed, rows, inputs, **changes):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, inputs))
    y = np.abs(X.sum(axis=1)) + 0.2 * rng.standard_normal(rows)
    return RBV2Problem.from_samples(X, y, **({"lam": 0.5} | changes))


def residual(problem):
    return problem.repaired(problem.pulls(problem.fit_affine().outputs))


def largest_drawn(problem, R, seed=0, count=3000):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((count, problem.n_features))
    if problem.interactions:
        for w in W:
            w[rng.permutation(w.size)[problem.interactions :]] = 0.0
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    T = problem.X @ W.T
    H = np.maximum(T - T[rng.integers(len(T), size=count), np.arange(count)], 0.0).T @ R
    return float(np.linalg.norm(H, axis=1).max())


# ----------------------------------------------------------------------------- methods


@pytest.mark.parametrize(
    ("d", "interactions", "rows", "method"),
    [
        (1, None, 30, "exact"),
        (2, None, 30, "exact"),
        (3, None, 30, "exact"),
        (4, None, 14, "branch and bound"),
        (6, None, 30, "search"),
        (8, None, 30, "search"),
        (6, 1, 30, "exact"),
        (6, 2, 30, "exact"),
    ],
)
def test_the_method_that_is_used_and_its_bracket(d, interactions, rows, method):
    problem = problem_of(d, rows, d, interactions=interactions)
    R = residual(problem)
    norm = dual_norm(problem, R, seconds=2.0, tol=1e-2)
    assert norm.method == method
    assert norm.lower <= norm.upper
    assert largest_drawn(problem, R) <= norm.upper
    if method == "exact":
        assert norm.upper <= norm.lower * (1.0 + 1e-11)
        assert largest_drawn(problem, R) >= 0.5 * norm.upper
    if method == "branch and bound":
        assert norm.upper <= 1.5 * norm.lower
    if len(norm.directions):
        np.testing.assert_allclose(np.linalg.norm(norm.directions, axis=1), 1.0)
        assert norm.directions.shape[1] == d


@pytest.mark.parametrize("d", range(1, 9))
@pytest.mark.parametrize("interactions", [None, 1, 2])
def test_a_search_never_claims_the_function_space(d, interactions):
    problem = problem_of(d, 25, d, interactions=interactions)
    norm = dual_norm(problem, residual(problem), level="search", found=0.1)
    assert norm.method == "search"
    assert norm.lower == 0.1
    assert largest_drawn(problem, residual(problem)) <= norm.upper
    net = ShallowNet(np.zeros((0, d)), [], np.zeros((0, 1)), np.zeros((d, 1)), [0.0])
    X, y = problem.X, problem.Y
    certificate = certify(net, X, y, problem.lam, level="search", interactions=interactions)
    assert certificate.scope == "dictionary"
    assert certificate.method == "search"
    assert certificate.sentence.startswith("not certified; largest violation found ")


@pytest.mark.parametrize("d", [4, 5, 8])
def test_exact_refuses_more_than_three_dimensions(d):
    problem = problem_of(d, 25, d)
    with pytest.raises(ValueError, match=f'up to 3 dimensions.*the samples span {d}. Use certify="auto"'):
        dual_norm(problem, residual(problem), level="exact")
    few = problem_of(d, 25, d, interactions=2)
    assert dual_norm(few, residual(few), level="exact").method == "exact"


def test_a_level_that_is_none_is_refused():
    problem = problem_of(0, 10, 2)
    with pytest.raises(ValueError, match="certify must be one of auto, exact, search; got 'proof'"):
        dual_norm(problem, residual(problem), level="proof")


def test_dimensions_are_those_that_the_samples_span():
    rng = np.random.default_rng(0)
    flat, frame = rng.standard_normal((30, 2)), np.linalg.qr(rng.standard_normal((7, 2)))[0]
    y = np.abs(flat[:, 0])
    plane = RBV2Problem.from_samples(flat, y, lam=0.1)
    high = RBV2Problem.from_samples(flat @ frame.T + rng.standard_normal(7), y, lam=0.1)
    R = residual(plane)
    low, lifted = dual_norm(plane, R), dual_norm(high, R)
    assert lifted.method == "exact"
    assert lifted.upper == pytest.approx(low.upper, rel=1e-9)
    assert lifted.directions.shape[1] == 7
    T = high.X @ lifted.directions[0]
    best = np.abs(np.maximum(T[:, None] - T, 0.0).T @ R).max()
    assert best == pytest.approx(low.upper, rel=1e-9)
    # Neurons of few features see the features as they are.
    assert dual_norm(high, R, level="exact").method == "exact"


@pytest.mark.parametrize("interactions", [None, 1, 2])
def test_constant_features_and_no_pulls(interactions):
    problem = RBV2Problem.from_samples(np.ones((6, 3)), np.arange(6.0), lam=1.0, interactions=interactions)
    norm = dual_norm(problem, residual(problem))
    assert (norm.lower, norm.upper) == (0.0, 0.0)
    other = problem_of(1, 10, 2, interactions=interactions)
    assert dual_norm(other, np.zeros((10, 1))).upper == 0.0


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, inputs=st.integers(1, 3), size=st.sampled_from([1e-9, 1.0, 1e9]))
def test_it_is_a_norm_of_the_pulls_and_scales_with_the_samples(seed, inputs, size):
    problem = problem_of(seed, 12, inputs)
    rng = np.random.default_rng(seed)
    R, S = (problem.repaired(rng.standard_normal((12, 1))) for _ in range(2))
    values = [dual_norm(problem, pulls).upper for pulls in (R, S, R + S, -size * R)]
    assert values[2] <= (values[0] + values[1]) * (1.0 + 1e-9)
    assert values[3] == pytest.approx(size * values[0], rel=1e-9)
    larger = RBV2Problem.from_samples(size * problem.X, problem.Y, lam=1.0)
    assert dual_norm(larger, R).upper == pytest.approx(size * values[0], rel=1e-8)


# ------------------------------------------------------------------------ certificates


@pytest.mark.parametrize("affine", ["free", "ridge", "none"])
@pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "squared_hinge", "poisson", "absolute"])
def test_any_network_gets_bounds_around_the_optimum(loss, affine):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2))
    y = np.abs(X.sum(axis=1)) + 0.2 * rng.standard_normal(20)
    if loss in ("logistic", "squared_hinge"):
        y = (y > 1.0) * (1.0 if loss == "logistic" else 2.0) - (0.0 if loss == "logistic" else 1.0)
    if loss == "poisson":
        y = np.round(3.0 * np.abs(y))
    A = np.zeros((2, 1)) if affine == "none" else 0.1 * rng.standard_normal((2, 1))
    net = ShallowNet(*(0.3 * rng.standard_normal(shape) for shape in ((5, 2), 5, (5, 1))), A, [0.2])
    certificate = certify(net, X, y, 0.5, loss=loss, affine=affine)
    best = rbv2(RBV2Problem.from_samples(X, y, lam=0.5, loss=loss, affine=affine), tol=1e-5).certificate
    assert certificate.scope == "function_space"
    assert certificate.primal >= best.dual - 1e-9
    assert certificate.dual <= best.primal + 1e-9
    assert certificate.dual <= certificate.primal
    assert certificate.proved == pytest.approx(certificate.gap)


def test_a_network_trained_by_adam():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 2))
    y = np.abs(X.sum(axis=1)) + 0.1 * rng.standard_normal(60)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1)).double()
    inputs, target = torch.from_numpy(X), torch.from_numpy(y)[:, None]
    lam, weights = 1.0, [model[0].weight, model[2].weight]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimiser.zero_grad()
        loss = 0.5 * ((model(inputs) - target) ** 2).sum() + 0.5 * lam * sum((w**2).sum() for w in weights)
        loss.backward()
        optimiser.step()
    net = ShallowNet.from_torch(model)
    certificate = certify(net, X, y, lam)
    best = rbv2(RBV2Problem.from_samples(X, y, lam=lam), tol=1e-7).certificate
    assert certificate.dual <= best.primal <= certificate.primal * (1.0 + 1e-9)
    assert 0.0 < certificate.gap < 0.5
    assert certificate.sentence.startswith("certified optimal within ")
    assert certificate.sentence.endswith("(exact)")


def test_the_certificate_of_a_solution_is_that_of_the_solver():
    problem = problem_of(5, 40, 2)
    solution = rbv2(problem, tol=1e-8)
    X = problem.X + problem.origin
    again = certify(solution.coef, X, problem.Y, problem.lam)
    assert again.primal == pytest.approx(solution.certificate.primal, rel=1e-12)
    assert again.gap <= 1e-6
    assert abs(again.violation) <= 1e-5


@pytest.mark.parametrize("changes", [{"affine": "none"}, {"interactions": 1}])
def test_a_network_that_the_problem_does_not_allow_is_not_certified(changes):
    net = ShallowNet([[1.0, 1.0]], [0.0], [[1.0]], [[0.5], [0.5]], [0.0])
    problem = problem_of(6, 20, 2)
    try:
        certificate = certify(net, problem.X, problem.Y, 0.5, **changes)
    except ValueError as refusal:
        assert "affine" in str(refusal) or "interactions" in str(refusal)
    else:
        assert certificate.primal == np.inf
        assert "nan" not in certificate.sentence
        assert "certified optimal" not in certificate.sentence


# --------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"primal": 1.0, "dual": 1.0 - 3.1e-6, "scope": "function_space"},
            "certified optimal within 3.1e-06 (exact)",
        ),
        (
            {"primal": 1.0, "dual": 0.99, "scope": "function_space", "method": "branch and bound"},
            "certified optimal within 1 % (branch and bound)",
        ),
        (
            {"primal": 1.0, "dual": 1.0, "method": "search", "violation": 0.004, "proved": np.nan},
            "not certified; largest violation found 0.4 %",
        ),
        (
            {"primal": 1.0, "dual": 1.0, "method": "search", "violation": -1e-9, "proved": 0.31},
            "not certified; largest violation found 0.0e+00; proved within 31 %",
        ),
        (
            {"primal": 1.0, "dual": 1.0, "method": "search", "violation": 0.0, "proved": 1.7},
            "not certified; largest violation found 0.0e+00",
        ),
        ({"primal": 2.0, "dual": 1.0}, "certified optimal within 50 % over the given features"),
        # Rounding may turn the bounds around.
        (
            {"primal": 1.0, "dual": 1.0 + 1e-15, "scope": "function_space"},
            "certified optimal within 0.0e+00 (exact)",
        ),
    ],
)
def test_what_may_be_said(fields, sentence):
    assert Certificate(**fields).sentence == sentence
