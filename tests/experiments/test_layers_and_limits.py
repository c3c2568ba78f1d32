"""Layer widths, orthonormal weights, functions outside R-BV², attention: what the experiments are built from."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pytest
import torch

from experiments import attention, beyond, layer_width, orthogonal_weights
from experiments._claim import Scale
from pathnorm import ShallowNet
from pathnorm.deep import KPlaneRidge

NAMES = ("attention", "beyond", "layer_width", "orthogonal_weights")


@pytest.mark.experiment
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_gives_plain_numbers_a_verdict_and_a_figure(name, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    payload = module.run(Scale.QUICK)
    verdict = payload["verdict"]
    assert type(verdict["holds"]) is bool
    assert verdict["predicted"]
    assert verdict["measured"]
    again = json.loads(json.dumps(payload, allow_nan=False))
    module.draw(again, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1_000
    assert name == module.NAME


# ---------------------------------------------------------------------------------- beyond


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_the_deep_sawtooth_is_the_composed_triangle_map(depth):
    x = np.random.default_rng(depth).uniform(0.0, 1.0, 500)
    expected = x
    for _ in range(depth):
        expected = np.where(expected <= 0.5, 2.0 * expected, 2.0 - 2.0 * expected)
    with torch.no_grad():
        deep = beyond.triangle_net(depth)(torch.from_numpy(x)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(deep, expected, atol=1e-12 * 2**depth)
    np.testing.assert_allclose(beyond.sawtooth(depth)(x), expected, atol=1e-12 * 2**depth)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_pieces_are_those_of_brute_force(depth):
    spline = beyond.sawtooth(depth)
    # Slopes at the middles of fine cells, run by run.
    x = (np.arange(64 * 2**depth) + 0.5) / (64 * 2**depth)
    slopes = np.sign(spline(x + 1e-6) - spline(x - 1e-6))
    runs = 1 + int((slopes[1:] != slopes[:-1]).sum())
    assert beyond.pieces(spline, 8 * 2**depth) == runs == 2**depth
    assert spline.n_knots == 2**depth - 1
    assert spline.tv2 == pytest.approx(2.0 ** (depth + 1) * (2**depth - 1))


def test_no_spline_with_fewer_knots_is_as_close_to_the_sawtooth():
    found = beyond.shallow_neurons(3)
    assert found["neurons"] >= 7
    assert found["sup_error"] <= beyond.SUP_ERROR
    # Brute force for two compositions: all continuous splines with two knots on a grid, fitted by least squares.
    x = np.linspace(0.0, 1.0, 33)
    y, best = beyond.sawtooth(2)(x), math.inf
    for i, s in enumerate(x[1:-1]):
        for t in x[i + 2 : -1]:
            table = np.stack([np.ones(33), x, np.maximum(x - s, 0.0), np.maximum(x - t, 0.0)], 1)
            best = min(best, np.abs(table @ np.linalg.lstsq(table, y, rcond=None)[0] - y).max())
    assert best > beyond.SUP_ERROR


def test_the_norm_of_the_bump_bounds_that_of_every_interpolant_and_scales_with_its_width():
    assert beyond.bump_norm(8.0) == pytest.approx(2.0 * beyond.bump_norm(2.0), rel=1e-12)
    X = np.random.default_rng(0).uniform(-1.5, 1.5, (60, 2))
    y = beyond.target("bump", X)
    row = beyond.fitted(X, y, 1e-3, 1.0, 0)
    assert row["lower_bound"] <= row["path_norm"] * (1.0 + 1e-9)
    assert 0.4 * beyond.bump_norm(beyond.SHARPNESS) < row["path_norm"] < beyond.bump_norm(beyond.SHARPNESS)


# ---------------------------------------------------------------------------------- layer widths


def random_layer(n, k, outputs, seed=0):
    rng = np.random.default_rng(seed)
    net = ShallowNet(
        W=rng.standard_normal((k, 4)),
        b=rng.standard_normal(k),
        V=rng.standard_normal((k, outputs)),
        A=np.zeros((4, outputs)),
        c=np.zeros(outputs),
    )
    return net, rng.standard_normal((n, 4))


@pytest.mark.parametrize(("n", "k", "outputs"), [(6, 80, 3), (8, 60, 1), (30, 20, 5)])
def test_sparsified_layers_keep_outputs_and_norm_within_the_bound(n, k, outputs):
    net, X = random_layer(n, k, outputs)
    row = layer_width.exact_row(net, X, layer_width.features(net, X) @ net.V)
    assert row["error"] < 1e-8
    assert row["path_norm_after"] <= row["path_norm_before"] * (1.0 + 1e-9)
    assert row["after"] <= row["bound"] <= n * outputs
    assert row["before"] == k


def test_no_method_is_below_a_lower_bound_and_the_lasso_has_the_smallest_norm():
    net, X = random_layer(100, 20, 4)
    row = layer_width.measured(net, X)
    for cell in row["at"]:
        for method in layer_width.METHODS:
            assert cell[method]["K"] >= cell["width_lower_bound"]
            assert cell[method]["path_norm"] >= cell["path_norm_lower_bound"] * (1.0 - 1e-3)
    widths = [cell["backward"]["K"] for cell in row["at"]]
    assert widths == sorted(widths)  # smaller errors need more neurons


# ---------------------------------------------------------------------------------- orthonormal weights


def test_lasso_weights_are_a_solution_and_the_affine_part_follows():
    torch.manual_seed(0)
    module = KPlaneRidge(3, 1, 10, 2, dtype=torch.float64)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    phi = orthogonal_weights.atom_values(module, X)
    y = 2.0 * phi[:, 3] + X @ np.array([1.0, -1.0, 0.5]) + 0.3
    small = orthogonal_weights.sparsified(module, X, y, 1e-6)
    assert small.atoms < 10
    values = small(torch.from_numpy(X))[:, 0].detach().numpy()
    np.testing.assert_allclose(values, y, atol=1e-3)
    residual = (y - values) / len(y)
    np.testing.assert_allclose(residual @ np.hstack([np.ones((80, 1)), X]), 0.0, atol=1e-10)
    # The optimality condition of the lasso over all atoms.
    assert np.abs(residual @ phi).max() <= 1e-6 * (1.0 + 1e-2)
    assert orthogonal_weights.refitted_error(small, X, y, X, y) < 1e-6


# ---------------------------------------------------------------------------------- attention


def test_effective_rank_counts_equal_singular_values():
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    for rank in (1, 3, 6):
        assert attention.effective_rank(rotation[:, :rank] @ rotation[:rank]) == pytest.approx(rank, rel=1e-9)


def test_the_excess_is_zero_for_balanced_factors_only():
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(product)
    root = values.sqrt()
    balanced = attention.head_facts(root[:, None] * right, left * root)
    assert balanced["excess"] == pytest.approx(0.0, abs=1e-12)
    assert balanced["log_ratio"] == pytest.approx(0.0, abs=1e-12)
    scaled = attention.head_facts(2.0 * root[:, None] * right, left * root / 2.0)
    assert scaled["log_ratio"] == pytest.approx(math.log(4.0))
    assert scaled["excess"] == pytest.approx(0.5 * (4.0 + 0.25) - 1.0)
    assert scaled["effective_rank"] == pytest.approx(balanced["effective_rank"])
    # Equal norms of both factors are not enough.
    mixed = attention.head_facts(torch.linalg.inv(left) @ product, torch.eye(8, dtype=torch.float64) @ left)
    assert mixed["excess"] > 0.0
