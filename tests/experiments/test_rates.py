"""The experiments on rates: payloads that can be written, and the parts they are built from."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import _rbv_functions, metric_entropy
from experiments import approximation_rate as rate
from experiments import curse_of_dimensionality as curse
from experiments import minimax_rate as minimax
from experiments._claim import Scale
from pathnorm import ShallowNet


@pytest.mark.experiment
@pytest.mark.parametrize("name", ["approximation_rate", "metric_entropy", "minimax_rate", "curse_of_dimensionality"])
def test_quick_run_gives_plain_numbers_a_verdict_and_a_figure(name, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    payload = module.run(Scale.QUICK)
    text = json.dumps(payload, allow_nan=False)
    assert type(payload["verdict"]["holds"]) is bool
    assert {"predicted", "measured"} <= payload["verdict"].keys()
    module.draw(json.loads(text), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 8), neurons=st.integers(1, 40))
def test_random_functions_have_norm_one(seed, d, neurons):
    net = _rbv_functions.random_net(d, neurons, np.random.default_rng(seed))
    assert net.path_norm() == pytest.approx(1.0, abs=1e-12)
    assert net.radon_measure().total == pytest.approx(1.0, abs=1e-9)
    truth = curse.truth_of(d, seed)
    assert truth.path_norm() == pytest.approx(1.0, abs=1e-12)


def test_the_scaled_norm_is_the_mean_of_a_measure_of_mass_one():
    for d in (1, 2, 3, 7):
        rng = np.random.default_rng(d)
        X = _rbv_functions.ball(50, d, rng)
        net = rate.monte_carlo("norm", None, d, 200_000, rng)
        assert net.path_norm() == pytest.approx(1.0, abs=1e-9)
        np.testing.assert_allclose(net(X)[:, 0], _rbv_functions.scaled_norm(d)(X), atol=3e-3)


def test_points_of_the_ball_are_uniform():
    for d in (1, 3, 10):
        radii = np.linalg.norm(_rbv_functions.ball(20_000, d, np.random.default_rng(0)), axis=1)
        assert radii.max() <= 1.0
        assert np.mean(radii**d) == pytest.approx(0.5, abs=0.01)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 3))
def test_largest_error_is_at_least_that_of_the_sample_and_below_the_truth(seed, d):
    peak = np.full(d, 0.3 / np.sqrt(d))

    def cone(X):
        return np.maximum(1.0 - 4.0 * np.linalg.norm(X - peak, axis=1), 0.0)

    sampled, highest = _rbv_functions.largest_error(cone, d, np.random.default_rng(seed), count=2_000)
    assert sampled <= highest <= 1.0
    assert highest > sampled + 0.2 * (1.0 - sampled)  # a blind search comes nearer, not all the way


def test_greedy_errors_do_not_increase_and_are_those_of_the_network():
    rng = np.random.default_rng(3)
    X = _rbv_functions.ball(500, 3, rng)
    y = _rbv_functions.scaled_norm(3)(X)
    W, b, errors = rate.greedy(X, y, 12, rng)
    assert (np.diff(errors) <= 1e-12).all()
    assert errors[-1] < 0.5 * errors[0]
    for K in (3, 12):
        net = rate.net_of(X, y, W[:K], b[:K])
        assert _rbv_functions.root_mean_square(net(X)[:, 0] - y) == pytest.approx(errors[K], rel=1e-6)


def test_descent_recovers_a_planted_network_and_never_loses_to_its_start():
    for d, seed in ((1, 0), (2, 1), (3, 2)):
        rng = np.random.default_rng(seed)
        target = _rbv_functions.random_net(d, 3, rng)
        X = _rbv_functions.ball(800, d, rng)
        y = target(X)[:, 0]
        W, b, errors = rate.greedy(X, y, 6, rng)
        net = rate.net_of(X, y, *rate.refine(X, y, W, b, steps=300))
        reached = _rbv_functions.root_mean_square(net(X)[:, 0] - y)
        assert reached <= 1.01 * errors[-1]
        assert reached < 0.02 * errors[0]


def test_an_exact_start_is_kept_and_else_the_better_fit():
    rng = np.random.default_rng(4)
    X = _rbv_functions.ball(100, 2, rng)
    exact, other = (_rbv_functions.random_net(2, 1, rng) for _ in range(2))
    y, size = exact(X)[:, 0], _rbv_functions.root_mean_square
    assert rate.better(ShallowNet(exact.W, exact.b, exact.V, exact.A, exact.c), exact, X, y, size) is exact
    nearly = ShallowNet(exact.W, exact.b, exact.V * (1.0 + 1e-8), exact.A, exact.c)
    assert rate.better(exact, nearly, X, y, size) is nearly  # better on these points says nothing any more
    assert rate.better(exact, other, X, y, size) is exact
    assert rate.better(other, exact, X, y + 0.01 * X[:, 0], size) is exact


def test_the_error_of_the_class_is_the_largest_over_kinds_of_means_over_draws():
    found = {"many": (0.1, 0.3), "norm": (0.15,), "atom": (0.05, 0.18)}
    rows = [
        {"d": 2, "method": "m", "K": 8, "seed": 0, "kind": kind, "sup": error}
        for kind, errors in found.items()
        for error in errors
    ]
    assert rate.class_errors(rows, 2, "m", "sup")[1] == pytest.approx(0.2)
    assert rate.class_errors([r for r in rows if r["kind"] == "atom"], 2, "m", "sup")[1] == pytest.approx(0.18)


def test_polynomials_span_their_degree():
    rng = np.random.default_rng(0)
    X = _rbv_functions.ball(300, 3, rng)
    basis = rate.polynomial_basis(X, 3)
    assert basis.shape[1] == 20  # (3 + 3 choose 3)
    y = X[:, 0] ** 2 * X[:, 1] - X[:, 2] ** 3 + 1.0
    np.testing.assert_allclose(basis @ np.linalg.lstsq(basis, y, rcond=None)[0], y, atol=1e-10)


def test_code_has_the_distance_it_claims():
    words, least = metric_entropy.linear_code(24, 5, np.random.default_rng(0))
    distances = (words[:, None] != words).sum(axis=2)[~np.eye(32, dtype=bool)]
    assert distances.min() == least >= 6


def test_packed_functions_have_norm_at_most_one_and_their_separation():
    for m in (3, 10):
        assert metric_entropy.hats(np.ones(m)).tv2 == pytest.approx(1.0, abs=1e-9)  # equal signs bend most
        assert metric_entropy.hats(np.where(np.arange(m) % 2, -1.0, 1.0)).tv2 < 1.0
        row = metric_entropy.packed_hats(m, np.random.default_rng(m))
        assert row["separation"] == pytest.approx(0.5 / m**2, rel=1e-9)


def test_rounding_to_many_digits_changes_little_and_costs_bits():
    net = _rbv_functions.random_net(2, 5, np.random.default_rng(0))
    X = _rbv_functions.ball(100, 2, np.random.default_rng(1))
    coarse, few = metric_entropy.rounded(net, 4)
    fine, many = metric_entropy.rounded(net, 30)
    assert few < many
    assert np.abs(fine(X) - net(X)).max() < 1e-7 < np.abs(coarse(X) - net(X)).max()
    assert isinstance(fine, ShallowNet)


@given(errors=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9))
def test_bisection_finds_the_first_good_size_where_errors_fall(errors):
    falling = sorted(errors, reverse=True)
    grid = tuple(10 * 2**i for i in range(len(falling)))
    needed, seen = curse.samples_needed(lambda N: falling[grid.index(N)], grid)
    good = [N for N, error in zip(grid, falling, strict=True) if error <= curse.TARGET]
    assert needed == (good[0] if good else None)
    assert len(seen) <= 4


def rows_of(needed: dict[int, tuple[int | None, ...]]) -> list[dict]:
    return [
        {"d": d, "method": method, "seed": seed, "needed": value, "error_at_fixed": 0.1, "ends": {}}
        for d, values in needed.items()
        for method in curse.METHODS
        for seed, value in enumerate(values)
    ]


def test_values_beyond_the_grid_are_not_counted_as_reached():
    grid = (12, 100, 800)
    rows = rows_of({2: (100, None, None), 8: (800, 800, None)})
    cells, found = curse.summarise(rows, grid), curse.growth(rows, grid)
    assert all(cell["median_needed"] is None and cell["censored"] == 2 for cell in cells if cell["d"] == 2)
    assert (found["draws"], found["of"]) == (1, 3)
    said = curse.verdict(cells, found, grid)
    assert not said["ours_reaches_everywhere"]
    assert not said["holds"]


def test_values_at_the_smallest_size_may_not_flatter_the_growth():
    grid = (12, 100, 800)
    rows = rows_of({2: (12, 12), 32: (100, 100)})
    found = curse.growth(rows, grid)
    assert found["at_most"] == 2
    assert found["slope"][0] == pytest.approx(np.log(100 / 12) / np.log(16))
    assert found["steepest"][0] == pytest.approx(np.log(100 / 4) / np.log(16))
    assert "<= 12" in curse.verdict(curse.summarise(rows, grid), found, grid)["measured"]


def test_a_weight_decay_far_from_our_objective_is_a_miss():
    lines = {m: {"slope": [-1.0, -1.1, -0.9], "ours_minus_this": [-0.2, -0.3, -0.1]} for m in minimax.LINEAR}
    lines[minimax.OURS] = {"slope": [-1.5, -1.6, -1.4]}
    cell = {"d": 5, "theory": minimax.theory(5), "theory_linear": minimax.theory_linear(5), "methods": lines}
    assert minimax.verdict([cell], [1.01, 0.99])["holds"]
    assert not minimax.verdict([cell], [1.01, 1.2])["holds"]
    assert not minimax.verdict([cell | {"theory": -1.7}], [1.0])["holds"]
    lines[minimax.NTK]["ours_minus_this"][2] = 0.1
    assert not minimax.verdict([cell], [1.0])["holds"]


def test_weight_decay_and_the_certified_network_reach_one_objective():
    X, y, _, _ = minimax.draw_data("few", 2, 40, 0)
    net, _ = minimax.fit_ours(X, y, 0.1)
    other = minimax.fit_decay(X, y, 0.1, 0)
    objectives = [0.5 * np.sum((y - f(X)[:, 0]) ** 2) + 0.1 * f.path_norm() for f in (net, other)]
    assert objectives[1] == pytest.approx(objectives[0], rel=0.02)
