"""Learned linear-spline activations: function, gradient, norm, exact proximal step, expansion in ReLUs."""

from __future__ import annotations

import copy
import importlib.util

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

from pathnorm.deep.export import to_onnx
from pathnorm.deep.linear_spline import LinearSpline1d, ReLUExpansion
from pathnorm.deep.spline_prox import prox_tv2
from pathnorm.problems import BV2Problem
from pathnorm.solvers import bv2
from pathnorm.spaces import LinearSpline

ONNX = importlib.util.find_spec("onnxscript") is not None and importlib.util.find_spec("onnxruntime") is not None


def random_spline(channels=3, knots=11, seed=0, **options):
    module = LinearSpline1d(channels, knots, **{"reach": 3.0, "dtype": torch.float64, **options})
    noise = torch.randn(channels, knots, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        module.values.add_(noise.to(module.values.dtype))
    return module


def normal(*shape, seed=1, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def interpolated(module, channel, x):
    """``numpy.interp`` on the grid, straight lines through the two outermost values beyond it."""
    grid, c = np.linspace(-module.reach, module.reach, module.knots), module.values[channel].detach().double().numpy()
    y = np.interp(x, grid, c)
    y = np.where(x < grid[0], c[0] + (x - grid[0]) * (c[1] - c[0]) / (grid[1] - grid[0]), y)
    return np.where(x > grid[-1], c[-1] + (x - grid[-1]) * (c[-1] - c[-2]) / (grid[-1] - grid[-2]), y)


# ---------------------------------------------------------------------------------- the function


@pytest.mark.parametrize(
    ("shape", "dim"), [((40, 3), 1), ((8, 3, 5, 6), 1), ((4, 7, 3), -1), ((3,), 0), ((0, 3), 1), ((2, 3, 4), -2)]
)
def test_it_interpolates_and_goes_on_beyond_the_grid(shape, dim):
    module, x = random_spline(channel_dim=dim), normal(*shape)
    y = module(x)
    assert y.shape == x.shape
    for channel in range(3):
        expected = interpolated(module, channel, x.select(dim, channel).numpy())
        np.testing.assert_allclose(y.select(dim, channel).detach().numpy(), expected, atol=1e-13)


def test_one_spline_serves_all_channels_of_any_shape():
    module = random_spline(1)
    for x in (normal(1)[0], normal(7), normal(5, 4, 3), normal(6, 5).T):
        np.testing.assert_allclose(module(x).detach().numpy(), interpolated(module, 0, x.numpy()), atol=1e-13)


def test_far_away_and_at_the_knots_and_at_nan():
    module = random_spline(1)
    x = torch.cat([module.grid, torch.tensor([-1e12, 1e12, -3.0, 3.0], dtype=torch.float64)])
    expected = interpolated(module, 0, x.numpy())
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-13, atol=1e-13)
    y = module(torch.tensor([float("nan"), 1.0], dtype=torch.float64))
    assert torch.isnan(y[0])
    assert torch.isfinite(y[1])


@pytest.mark.parametrize(
    ("init", "function"),
    [
        ("relu", torch.relu),
        ("leaky_relu", nn.functional.leaky_relu),
        ("identity", torch.clone),
        ("abs", torch.abs),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_are_exact(init, function, dtype):
    x = normal(50, 4).to(dtype)
    module = LinearSpline1d(4, init=init, dtype=dtype)
    torch.testing.assert_close(module(x).detach(), function(x), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        module.values.fill_(7.0)
    module.reset_parameters()
    torch.testing.assert_close(module(x).detach(), function(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_first_and_second_derivatives_are_those_of_finite_differences(channels):
    module = random_spline(channels)
    x = normal(6, 3, 2).requires_grad_()

    def function(x, values):
        return torch.func.functional_call(module, {"values": values}, (x,))

    assert torch.autograd.gradcheck(function, (x, module.values))
    assert torch.autograd.gradgradcheck(function, (x, module.values))


def test_channels_last_images_stay_as_they_are_in_memory():
    module, x = random_spline(), normal(2, 3, 5, 4)
    turned = x.to(memory_format=torch.channels_last)
    y = module(turned)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, module(x))
    assert torch.equal(module(x.transpose(2, 3)), module(x).transpose(2, 3))


def test_half_precision_comes_back_as_half_and_is_computed_in_single():
    module, x = random_spline(dtype=torch.float32), normal(50, 3)
    for dtype in (torch.bfloat16, torch.float16):
        y = module(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y, module(x.to(dtype).float()).to(dtype), rtol=0.0, atol=0.0)
        half = copy.deepcopy(module).to(dtype)
        expected = copy.deepcopy(half).float()(x.to(dtype).float()).to(dtype)
        torch.testing.assert_close(half(x.to(dtype)), expected, rtol=0.0, atol=0.0)


def test_state_copies_and_types():
    module, x = random_spline(), normal(5, 3)
    assert list(module.state_dict()) == ["values"]
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    fresh = LinearSpline1d(3, 11, reach=3.0, dtype=torch.float64)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))
    torch.testing.assert_close(module.float()(x.float()).double(), twin(x), rtol=1e-5, atol=1e-5)
    moved = LinearSpline1d(3, 11, device="meta").to("meta")
    assert moved(torch.empty(2, 3, device="meta")).device.type == "meta"
    # What is made on the meta device is filled later.
    filled = moved.to_empty(device="cpu")
    filled.reset_parameters()
    torch.testing.assert_close(filled(x.float()), torch.relu(x.float()))
    assert "3, knots=11, reach=3" in repr(module)


def test_torch_export_with_a_free_batch_size():
    model = nn.Sequential(nn.Linear(4, 3), LinearSpline1d(3))
    x = normal(6, 4).float()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.testing.assert_close(program.module()(x[:2]), model(x[:2]))


# ---------------------------------------------------------------------------------- the norm


@pytest.mark.parametrize("seed", range(5))
def test_tv2_and_lipschitz_are_those_of_the_spline_and_have_gradients(seed):
    module = random_spline(seed=seed)
    splines = [module.to_spline(channel) for channel in range(3)]
    np.testing.assert_allclose(module.tv2().detach().numpy(), [spline.tv2 for spline in splines], rtol=1e-12)
    steepest = max(np.abs(spline.slopes).max() for spline in splines)
    assert module.lipschitz().item() == pytest.approx(steepest, rel=1e-12)
    x = normal(20, 3).numpy()
    for channel, spline in enumerate(splines):
        np.testing.assert_allclose(spline(x), interpolated(module, channel, x), atol=1e-12)

    def norms(values):
        with torch.nn.utils.stateless._reparametrize_module(module, {"values": values}):
            return module.tv2(), module.lipschitz()

    assert torch.autograd.gradcheck(norms, (module.values,))


def test_tv2_of_the_starts():
    for init, expected in (("relu", 1.0), ("leaky_relu", 0.99), ("identity", 0.0), ("abs", 2.0)):
        module = LinearSpline1d(2, init=init, dtype=torch.float64)
        torch.testing.assert_close(module.tv2(), torch.full((2,), expected, dtype=torch.float64), rtol=0, atol=1e-12)
        assert module.active_knots().tolist() == [int(expected > 0.0)] * 2


# ---------------------------------------------------------------------------------- the proximal step


def objective(f, c, lam, step):
    return 0.5 * ((f - c) ** 2).sum() + lam * np.abs(np.diff(f, 2)).sum() / step


@pytest.mark.parametrize("lam", [1e-3, 0.05, 0.7, 20.0])
@pytest.mark.parametrize(("knots", "step"), [(3, 1.0), (9, 0.25), (21, 0.4)])
def test_the_step_is_what_cvxpy_finds(knots, step, lam):
    c = normal(knots, seed=knots, scale=1.0).numpy()
    f = cvxpy.Variable(knots)
    value = 0.5 * cvxpy.sum_squares(f - c) + lam / step * cvxpy.norm1(cvxpy.diff(f, 2))
    cvxpy.Problem(cvxpy.Minimize(value)).solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
    ours = prox_tv2(torch.from_numpy(c)[None], lam, step=step)[0].numpy()
    np.testing.assert_allclose(ours, f.value, atol=1e-6)
    assert objective(ours, c, lam, step) <= objective(f.value, c, lam, step) * (1.0 + 1e-12) + 1e-14


@pytest.mark.parametrize("knots", [3, 4, 5, 21, 51])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_optimality_of_many_splines_at_once(knots, size):
    """``c - f = D'u`` with ``|u| <= lam / step``, and ``u = lam / step sign(jump)`` where there is a jump."""
    c, step = size * normal(60, knots, seed=knots, scale=1.0), 0.3
    for share in (1e-3, 1e-2, 0.1, 1.0):
        lam = share * size * step
        f = prox_tv2(c, lam, step=step)
        second = np.diff(np.eye(knots), 2, axis=0)
        u = np.linalg.lstsq(second.T, (c - f).numpy().T, rcond=None)[0].T
        np.testing.assert_allclose(u @ second, (c - f).numpy(), atol=1e-9 * size)
        bound = lam / step
        assert np.abs(u).max() <= bound * (1.0 + 1e-7)
        jumps = f.diff(n=2, dim=1).numpy()
        there = np.abs(jumps) > 1e-10 * size
        np.testing.assert_allclose(u[there], bound * np.sign(jumps[there]), rtol=1e-6)
        # Every jump is well there or is not there at all.
        assert np.abs(jumps[~there]).max(initial=0.0) <= 1e-14 * float(f.abs().max())


def test_it_is_the_solution_over_the_function_space_and_so_is_the_way_around():
    c, step = normal(12, 21, scale=1.0), 0.4
    x = step * np.arange(21)
    for lam in (0.01, 0.3):
        ours, other = prox_tv2(c, lam, step=step), prox_tv2(c, lam, step=step, rounds=0)
        torch.testing.assert_close(ours, other, rtol=0.0, atol=1e-10)
        for row in range(3):
            problem = BV2Problem.from_samples(x, c[row].numpy(), lam)
            np.testing.assert_allclose(ours[row].numpy(), bv2(problem).coef(x), atol=1e-10)


def test_the_module_takes_the_step_of_its_own_grid():
    module = random_spline()
    before = module.values.detach().clone()
    assert module.prox_(0.2) is module
    assert torch.equal(module.values.detach(), prox_tv2(before, 0.2, step=0.6))
    assert module.values.requires_grad
    assert int(module.active_knots().max()) < 9
    # Larger than the jumps can pay for: the least squares line.
    module.prox_(1e6)
    assert module.active_knots().tolist() == [0, 0, 0]
    line = np.polynomial.Polynomial.fit(module.grid.numpy(), before[0].numpy(), 1)
    twin = random_spline().prox_(1e6)
    np.testing.assert_allclose(twin.values[0].detach().numpy(), line(module.grid.numpy()), atol=1e-11)


def test_nothing_happens_at_zero_and_to_the_input():
    c = normal(4, 9)
    kept = c.clone()
    assert torch.equal(prox_tv2(c, 0.0), kept)
    prox_tv2(c, 1.0)
    assert torch.equal(c, kept)
    assert prox_tv2(c.float(), 1.0).dtype == torch.float32


def test_proximal_gradient_descent_finds_the_hinges_of_a_function():
    """Fit |x| - relu(x - 1.5): nearly all other knots become inactive, and the objective never goes up."""
    x = torch.linspace(-3.0, 3.0, 400, dtype=torch.float64)[:, None]
    y = x.abs() - torch.relu(x - 1.5)
    module, lr, lam, values = LinearSpline1d(1, 13, reach=3.0, init="identity", dtype=torch.float64), 8.0, 1e-3, []
    for _ in range(300):
        loss = 0.5 * (module(x) - y).square().mean()
        values.append((loss + lam * module.tv2().sum()).item())
        module.zero_grad()
        loss.backward()
        with torch.no_grad():
            module.values.sub_(lr * module.values.grad)
        module.prox_(lr * lam)
    assert values[-1] < 1e-2 * values[0]
    assert (np.diff(values) <= 1e-12).all()
    spline = module.to_spline(tolerance=None)
    assert spline.n_knots <= 3
    np.testing.assert_allclose(spline.knots[np.abs(spline.jumps) > 0.1], [0.0, 1.5], atol=1e-12)


# ---------------------------------------------------------------------------------- the expansion


@pytest.mark.parametrize(("channels", "dim", "shape"), [(3, 1, (7, 3, 4)), (3, -1, (5, 4, 3)), (1, 1, (6, 2))])
def test_the_expansion_is_the_same_function_with_the_same_norm(channels, dim, shape):
    module, x = random_spline(channels, channel_dim=dim), normal(*shape, scale=4.0)
    expansion = module.to_relu()
    np.testing.assert_allclose(expansion(x).detach().numpy(), module(x).detach().numpy(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(expansion.path_norm(), module.tv2(), rtol=1e-12, atol=0.0)
    assert expansion.positions.shape == (channels, 9)
    assert bool((expansion.signs.abs() == 1.0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pruning_after_a_proximal_step_changes_rounding_only(dtype):
    module, x = random_spline(8, 21, dtype=dtype).prox_(0.3), normal(50, 8).to(dtype)
    pruned, eps = module.prune(), torch.finfo(dtype).eps
    active = module.active_knots()
    assert pruned.positions.shape[1] == int(active.max()) < 19
    assert int((pruned.weights != 0.0).sum()) == int(active.sum())
    torch.testing.assert_close(pruned(x), module(x), rtol=100 * eps, atol=300 * eps)
    torch.testing.assert_close(pruned.path_norm(), module.tv2(), rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    assert pruned.weights.dtype == dtype


def test_pruning_with_a_tolerance_stays_within_its_bound_and_below_the_norm():
    module = random_spline(5, 21, seed=3)
    jumps = module.values.detach().diff(n=2, dim=1) / module.step
    for tolerance in (0.5, 4.0, 100.0):
        pruned = module.prune(tolerance)
        dropped = torch.where(jumps.abs() <= tolerance, jumps.abs(), 0.0).sum(1)
        x = torch.linspace(-3.0, 3.0, 601, dtype=torch.float64)[:, None].expand(-1, 5)
        moved = (pruned(x) - module(x)).abs().amax(0)
        assert bool((moved <= module.reach / 2 * dropped + 1e-12).all())
        assert bool((pruned.path_norm() <= module.tv2() + 1e-12).all())
        assert module.active_knots(tolerance).tolist() == (jumps.abs() > tolerance).sum(1).tolist()
    assert pruned.positions.shape == (5, 0)


def test_splines_of_any_knots_expand_and_few_neurons_are_active_near_zero():
    left = LinearSpline([-2.0, -0.5], [1.0, 3.0], 0.0, -1.0)
    right = LinearSpline([0.0, 0.25, 5.0], [1.0, 1.5, 2.0], 0.0, -1.0)
    none = LinearSpline([1.0], [2.0], 0.5, 0.5)
    expansion, x = ReLUExpansion([left, right, none]), normal(50, 3)
    expected = np.column_stack([f(x[:, k].numpy()) for k, f in enumerate((left, right, none))])
    np.testing.assert_allclose(expansion(x).detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(expansion.path_norm().detach().numpy(), [left.tv2, right.tv2, 0.0], rtol=1e-12)
    assert expansion.signs.tolist() == [[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert "3, knots=3" in repr(expansion)


def test_the_expansion_of_relu_is_relu():
    expansion = LinearSpline1d(2).prune()
    assert expansion.positions.tolist() == [[0.0], [0.0]]
    x = normal(9, 2).float()
    torch.testing.assert_close(expansion(x), torch.relu(x), rtol=0, atol=1e-6)


@pytest.mark.skipif(not ONNX, reason="onnxscript and onnxruntime are not installed")
def test_onnx_of_the_expansion_has_plain_operations_and_the_same_outputs(tmp_path):
    import onnx
    import onnxruntime

    spline = random_spline(3, 21, dtype=torch.float32).prox_(0.5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), spline.prune(), nn.Flatten(), nn.Linear(48, 2))
    whole = nn.Sequential(model[0], spline, *model[2:])
    x = normal(5, 2, 6, 6).float()
    path = to_onnx(model, x, tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    flat = {"Reshape", "Flatten", "Shape", "Concat"}  # older exporters put Flatten together
    assert kinds <= {"Conv", "Add", "Sub", "Mul", "Relu", "Gemm", "Neg"} | flat
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})[0]
    np.testing.assert_allclose(got, whole(x[:3]).detach().numpy(), atol=1e-4)


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be at least 1; got 0"),
        ({"knots": 1}, "knots must be odd and at least 3; got 1. Use 3"),
        ({"knots": 10}, "knots must be odd and at least 3; got 10. Use 11"),
        ({"reach": 0.0}, "reach must be a finite number > 0; got 0.0"),
        ({"reach": float("inf")}, "reach must be a finite number > 0; got inf"),
        ({"init": "gelu"}, "init must be one of relu, leaky_relu, identity, abs; got 'gelu'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearSpline1d(**arguments)


def test_wrong_inputs():
    module = LinearSpline1d(3)
    with pytest.raises(ValueError, match=r"x must have 3 channels in dimension 1; got shape \(2, 4\)"):
        module(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"x must have 3 channels in dimension 1; got shape \(3,\)"):
        module(torch.zeros(3))
    with pytest.raises(ValueError, match=r"x must have 3 channels in dimension 1; got shape \(2, 4\)"):
        module.to_relu()(torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"floating type; got torch.int64"):
        module(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="tolerance must be a finite number >= 0; got -1"):
        module.prune(-1.0)
    with pytest.raises(IndexError, match="channel must be below 3; got 3"):
        module.to_spline(3)
    with pytest.raises(ValueError, match="splines must have one spline per channel"):
        ReLUExpansion([])


def test_wrong_proximal_steps():
    module = LinearSpline1d(3)
    for lam in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lam must be a finite number >= 0; got"):
            module.prox_(lam)
    with pytest.raises(ValueError, match=r"values must have shape \(C, K\), K at least 3; got \(5,\)"):
        prox_tv2(torch.zeros(5), 1.0)
    with pytest.raises(ValueError, match="step must be a finite number > 0; got 0"):
        prox_tv2(torch.zeros(1, 5), 1.0, step=0.0)
    with torch.no_grad():
        module.values[1, 4] = float("nan")
    with pytest.raises(ValueError, match="values must be finite; 1 of 3 splines"):
        module.prox_(0.1)
