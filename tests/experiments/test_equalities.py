"""The frame of the experiments, and the experiments on what is equal to what."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from experiments import _claim, kernel_vs_sparse, neural_balance, path_norm_is_radon_tv2, path_norm_is_tv2
from experiments import representer_bound as representer
from experiments._claim import Scale
from pathnorm import LinearSpline, ShallowNet

NAMES = ("kernel_vs_sparse", "neural_balance", "path_norm_is_tv2", "path_norm_is_radon_tv2", "representer_bound")


# ---------------------------------------------------------------------------- the frame
@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12).filter(lambda v: np.ptp(v) > 1e-6),
    level=st.floats(0.5, 0.99),
)
def test_interval_is_that_of_student(values, level):
    mean, low, high = _claim.interval(values, level=level)
    expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12)
    assert (low, high) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_interval_of_one_value_is_that_value():
    assert _claim.interval([2.5]) == [2.5, 2.5, 2.5]


@settings(max_examples=40, deadline=None)
@given(power=st.floats(-3, 3).filter(lambda p: abs(p) > 0.01), factor=st.floats(0.01, 100), seeds=st.integers(1, 4))
def test_slope_of_a_power_law_is_its_power(power, factor, seeds):
    x = np.array([10.0, 25.0, 100.0, 170.0])
    y = factor * np.arange(1, seeds + 1)[:, None] * x**power
    found = _claim.slope(x, y if seeds > 1 else y[0])
    assert found[0] == pytest.approx(power, abs=1e-9)
    # The regression's own error is the root of a difference that cancels.
    assert found[1:] == pytest.approx([power] * 2, abs=1e-6)


@pytest.mark.parametrize("seeds", [1, 6])
def test_intervals_of_slopes_cover(seeds):
    rng = np.random.default_rng(0)
    x, runs = 2.0 ** np.arange(8), 400
    inside = 0
    for _ in range(runs):
        y = x**-0.7 * np.exp(0.3 * rng.standard_normal((seeds, x.size)))
        found = _claim.slope(x, y if seeds > 1 else y[0])
        assert found[1] <= found[0] <= found[2]
        inside += found[1] <= -0.7 <= found[2]
    # 95 %, and three standard deviations of the count either way: inside 90 and 99 %.
    assert abs(inside / runs - 0.95) < 0.033


def frame(holds):
    def run(scale):
        return {"verdict": {"holds": holds, "predicted": "p", "measured": "m"}, "scale_seen": scale.value}

    def draw(payload, path):
        path.write_bytes(b"picture of " + payload["scale_seen"].encode())

    return run, draw


@pytest.mark.parametrize("holds", [True, False])
def test_main_writes_both_files_and_its_status_is_the_verdict(holds, tmp_path, capsys):
    status = _claim.main("some_claim", "A claim.\n\nAnd more.", *frame(holds), ["--quick", "--out", str(tmp_path)])
    assert status == (0 if holds else 1)
    payload = json.loads((tmp_path / "some_claim.json").read_text(encoding="utf-8"))
    assert payload["claim"] == "A claim."
    assert payload["verdict"] == {"holds": holds, "predicted": "p", "measured": "m"}
    assert (payload["scale"], payload["scale_seen"]) == ("quick", "quick")
    assert (tmp_path / "some_claim.png").read_bytes() == b"picture of quick"
    assert ("DOES NOT HOLD" in capsys.readouterr().out) is not holds


def test_a_quick_run_does_not_replace_the_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_claim, "OUT", tmp_path)
    with pytest.raises(SystemExit) as error:
        _claim.main("some_claim", "A claim.", *frame(True), ["--quick"])
    assert error.value.code == 2
    assert "--out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert _claim.main("some_claim", "A claim.", *frame(True), []) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"some_claim.json", "some_claim.png"}


# ---------------------------------------------------------------------------- all five
@pytest.mark.experiment
@pytest.mark.parametrize("name", NAMES)
def test_quick_run_gives_plain_numbers_and_a_verdict(name):
    module = importlib.import_module(f"experiments.{name}")
    assert name == module.NAME
    payload = module.run(Scale.QUICK)
    json.dumps(payload, allow_nan=False)
    assert type(payload["verdict"]["holds"]) is bool
    assert {"predicted", "measured"} <= payload["verdict"].keys()


# ---------------------------------------------------------------------------- kernel_vs_sparse
@settings(max_examples=20, deadline=None)
@given(s=st.floats(0.0, 1.0), t=st.floats(0.0, 1.0))
def test_cubic_kernel_is_its_integral(s, t):
    expected, _ = integrate.quad(lambda u: max(s - u, 0.0) * max(t - u, 0.0), 0.0, 1.0, points=[min(s, t)])
    found = kernel_vs_sparse.cubic_kernel(np.array([s]), np.array([t]))[0, 0]
    assert found == pytest.approx(expected, abs=1e-9)


def test_kernel_solution_is_stationary():
    """Its residual is ``lam a`` with a orthogonal to lines, and it reproduces lines whatever lam is."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(25))
    lines = np.column_stack([np.ones(25), x])
    y, lam = rng.standard_normal(25), 1e-3
    residual = y - kernel_vs_sparse.kernel_fit(x, y, lam, x)
    np.testing.assert_allclose(lines.T @ residual, 0.0, atol=1e-9)
    shape = kernel_vs_sparse.cubic_kernel(x, x) @ (residual / lam) - (y - residual)
    assert np.abs(shape - lines @ np.linalg.lstsq(lines, shape, rcond=None)[0]).max() < 1e-7
    np.testing.assert_allclose(kernel_vs_sparse.kernel_fit(x, 2 - 3 * x, 10.0, x), 2 - 3 * x, atol=1e-9)


# ---------------------------------------------------------------------------- neural_balance
@pytest.mark.parametrize("name", list(neural_balance.NETWORKS))
def test_sides_are_the_norms_of_rows_and_columns(name):
    model = neural_balance.network(name, 3)
    inputs, outputs, active = neural_balance.sides(name, model)
    layers = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        rows = torch.cat([(layer.weight.square().sum(1) + layer.bias**2).sqrt() for layer in layers[:-1]])
        columns = torch.cat([layer.weight.square().sum(0).sqrt() for layer in layers[1:]])
    np.testing.assert_allclose(inputs, rows.numpy(), rtol=1e-12)
    np.testing.assert_allclose(outputs, columns.numpy(), rtol=1e-12)
    assert active.dtype == bool and active.shape == inputs.shape


def test_one_step_moves_the_difference_by_the_square_of_the_step():
    """``d' = (1 - step decay)^2 d + step^2 (||g_w||^2 - ||g_v||^2)``, exactly, for descent on the loss with decay."""
    data, model = neural_balance.samples(1), neural_balance.network("shallow", 1)
    (0.5 * (model(data[0]) - data[1]).square().mean()).backward()
    gradients = model[0].weight.grad.square().sum(1) + model[0].bias.grad ** 2 - model[2].weight.grad[0] ** 2
    inputs, outputs, _ = neural_balance.sides("shallow", model)
    before, step, decay = inputs**2 - outputs**2, 0.05, 0.01
    neural_balance.descend(model, data, decay=decay, step=step, count=1)
    inputs, outputs, _ = neural_balance.sides("shallow", model)
    expected = (1 - step * decay) ** 2 * before + step**2 * gradients.numpy()
    np.testing.assert_allclose(inputs**2 - outputs**2, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", list(neural_balance.NETWORKS))
def test_rescaled_networks_are_the_same_function(name):
    model = neural_balance.network(name, 0)
    twin = neural_balance.rescaled(model, 1.0, np.random.default_rng(0))
    X = neural_balance.samples(0)[0]
    with torch.no_grad():
        torch.testing.assert_close(twin(X), model(X), rtol=1e-10, atol=1e-12)
    assert abs(neural_balance.squares(twin) / neural_balance.squares(model) - 1) > 0.1


# ---------------------------------------------------------------------------- path_norm_is_tv2
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), knots=st.integers(1, 12))
def test_variation_from_values_is_that_of_the_spline(seed, knots):
    rng = np.random.default_rng(seed)
    places = np.cumsum(rng.uniform(0.1, 0.6, knots)) - 2.0
    spline = LinearSpline(places, rng.standard_normal(knots), *rng.standard_normal(2))
    net = path_norm_is_tv2.with_superfluous(spline.to_network(), seed)
    np.testing.assert_allclose(net(places[:, None])[:, 0], spline(places), rtol=0, atol=1e-9)
    assert net.path_norm() > 1.05 * spline.tv2
    assert path_norm_is_tv2.spline_through(net).tv2 == pytest.approx(spline.tv2, rel=1e-9)
    grid = [path_norm_is_tv2.tv2_on_grid(net, cells) for cells in (64, 128, 4096)]
    assert grid[0] <= grid[1] + 1e-9 <= grid[2] + 2e-9
    # Two points of the grid lie in every gap of 0.1.
    assert grid[2] == pytest.approx(spline.tv2, rel=1e-7)


# ---------------------------------------------------------------------------- path_norm_is_radon_tv2
AT = path_norm_is_radon_tv2.Resolution(rho=4.0, sigma=0.2, sectors=8)


@pytest.mark.parametrize("angle, offset, mass", [(0.3, 0.2, 1.7), (1.9, -0.5, -0.6), (3.1, 0.4, 2.0)])
def test_one_neuron_has_the_variation_of_its_mass(angle, offset, mass):
    w = 0.7 * np.array([[np.cos(angle), np.sin(angle)]])
    net = ShallowNet(w, np.array([0.7 * offset]), np.array([[mass / 0.7]]), np.array([[3.0], [-2.0]]), np.ones(1))
    offsets, density = path_norm_is_radon_tv2.radon_density(net, AT)
    step = offsets[1] - offsets[0]
    assert float(density.sum() * step) == pytest.approx(mass, rel=0.03)
    assert path_norm_is_radon_tv2.radon_tv2(net, AT) == pytest.approx(abs(mass), rel=0.08)
    row, column = np.unravel_index(np.abs(density).argmax(), density.shape)
    side = 1.0 if angle < np.pi else -1.0
    assert (row + 0.5) * np.pi / len(density) == pytest.approx(angle % np.pi, abs=0.06)
    assert offsets[column] == pytest.approx(side * offset, abs=0.1)


def test_an_affine_function_has_no_variation():
    net = ShallowNet(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 1)), np.array([[3.0], [-2.0]]), np.ones(1))
    points, _ = path_norm_is_radon_tv2.laplacian(net, 0.1, 3.0)
    assert points.shape == (0, 2)
    assert path_norm_is_radon_tv2.radon_tv2(net, AT) == 0.0


@pytest.mark.parametrize("count", [5, 8])
def test_sectors_are_a_partition_of_unity_and_know_that_the_measure_is_even(count):
    rng = np.random.default_rng(0)
    density = rng.standard_normal((4 * count, 7))
    found = path_norm_is_radon_tv2.sectors(density, count)
    # The first half-sector reaches behind theta = 0, where t is turned around: sums over t do not see that.
    np.testing.assert_allclose(found.sum(), density.sum(), rtol=1e-10)
    alone = np.zeros((4 * count, 7))
    alone[-1, 0] = 1.0
    assert path_norm_is_radon_tv2.sectors(alone, count)[0, 6] > 0.3
    assert path_norm_is_radon_tv2.sectors(alone, count)[0, 0] == 0.0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_redundant_networks_are_the_same_function_with_a_larger_path_norm(seed):
    net = path_norm_is_radon_tv2.random_network(seed)
    redundant = path_norm_is_radon_tv2.with_redundancy(net, seed)
    X = np.random.default_rng(seed).uniform(-2, 2, (100, 2))
    np.testing.assert_allclose(redundant(X), net(X), atol=1e-11)
    assert redundant.path_norm() > 1.1 * net.path_norm()
    assert redundant.radon_measure().total == pytest.approx(net.radon_measure().total, rel=1e-9)


# ---------------------------------------------------------------------------- representer_bound
@pytest.mark.parametrize("d, count", [(1, 9), (3, 14)])
def test_the_bound_is_the_dimension_of_what_lines_do_not_reach(d, count):
    """Random wide networks need all of it: their features span the complement of the affine functions."""
    rng = np.random.default_rng(d)
    X = rng.standard_normal((count, d))
    net = ShallowNet(
        rng.standard_normal((200, d)), rng.standard_normal(200), rng.standard_normal((200, 1)), np.zeros((d, 1)), [0.0]
    )
    lines = np.column_stack([np.ones(count), X])
    features = np.maximum(X @ net.W.T - net.b, 0.0)
    features -= lines @ np.linalg.lstsq(lines, features, rcond=None)[0]
    assert representer.bound(count, d) == np.linalg.matrix_rank(features, tol=1e-9)
    row = representer.sparsified(net, X)
    assert row["after"] <= row["bound"] < row["neurons"]
    assert row["change"] < 1e-8 and row["growth"] <= 1e-10
