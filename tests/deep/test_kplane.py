"""Ridges over k-plane projections: the function, orthonormal weights in both precisions, norm, pruning, baking."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch

from pathnorm.deep import BakedKPlaneRidge, KPlaneRidge
from pathnorm.deep.export import to_onnx
from pathnorm.deep.kplane import cayley

ONNX = importlib.util.find_spec("onnxscript") is not None and importlib.util.find_spec("onnxruntime") is not None
LIMIT = 1e-6
DTYPES = (torch.float32, torch.float64)


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_module(d=6, outputs=3, atoms=5, k=2, seed=0, dtype=torch.float64):
    """Away from its start: directions, offsets and weights are all drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = KPlaneRidge(d, outputs, atoms, k, dtype=dtype)
    with torch.no_grad():
        module.direction.copy_(normal(atoms, d, k, seed=seed + 1))
    return module


def train(module, steps=30, seed=0, lr=0.05):
    x, y = normal(64, module.in_features, seed=seed, dtype=module.coef.dtype), normal(64, 1, seed=seed + 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (module(x) - y.to(x.dtype)).square().mean().backward()
        optimizer.step()
    return module


# ---------------------------------------------------------------------------------- the function


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_values_are_those_of_the_formula(k):
    module, x = random_module(k=k), normal(7, 6)
    W, t = module.weight.detach().numpy(), module.offset.detach().numpy()
    V, A, c = (part.detach().numpy() for part in (module.coef, module.affine.weight, module.affine.bias))
    expected = x.numpy() @ A.T + c
    for j in range(5):
        expected += np.linalg.norm(x.numpy() @ W[j] - t[j], axis=1)[:, None] * V[:, j]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, atol=1e-12)


def test_an_atom_with_one_direction_is_the_absolute_value_of_a_ridge():
    module, x = random_module(k=1, atoms=1, outputs=1), normal(50, 6)
    with torch.no_grad():
        module.coef.fill_(1.0)
        module.affine.weight.zero_()
        module.affine.bias.zero_()
    w, t = module.weight[0, :, 0], module.offset[0, 0]
    torch.testing.assert_close(module(x)[:, 0], (x @ w - t).abs(), rtol=0.0, atol=1e-12)


def test_it_takes_any_shape_in_front_and_none():
    module, x = random_module(), normal(2, 5, 6)
    assert module(x).shape == (2, 5, 3)
    torch.testing.assert_close(module(x)[1, 2], module(x[1, 2]))
    assert module(x[:0]).shape == (0, 5, 3)


def test_with_as_many_directions_as_inputs_only_the_distance_to_a_centre_is_left():
    module, x = random_module(d=4, k=4), normal(9, 4)
    centres = (module.weight @ module.offset[:, :, None])[..., 0]
    expected = torch.cdist(x, centres) @ module.coef.T + module.affine(x)
    torch.testing.assert_close(module(x), expected, rtol=0.0, atol=1e-12)


def test_derivatives_are_those_of_finite_differences():
    module, x = random_module(atoms=3), normal(4, 6).requires_grad_()
    names = ("direction", "offset", "coef")

    def function(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, module.direction, module.offset, module.coef))


def test_the_gradient_at_a_centre_is_finite():
    module = KPlaneRidge(3, 1, 1, 3, dtype=torch.float64)
    x = (module.weight[0] @ module.offset[0]).detach()[None].requires_grad_()
    module(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(module.direction.grad).all()


# ---------------------------------------------------------------------------------- W'W = I


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cayley_is_the_transform_of_the_whole_skew_matrix(dtype, size):
    module = random_module(dtype=dtype)
    with torch.no_grad():
        module.direction.mul_(size)
    assert module.orthogonality() <= LIMIT
    base, move = module.base.double(), module.direction.detach().double()
    skew = 0.5 * (move @ base.mT - base @ move.mT)
    eye = torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(eye - skew, (eye + skew) @ base)
    # The whole matrix is worse conditioned than the small system.
    torch.testing.assert_close(module.weight.detach().double(), expected, rtol=0.0, atol=max(1e-6, 1e-12 * size))


def test_no_direction_is_the_start_and_square_matrices_turn():
    base = torch.linalg.qr(normal(4, 3, 3))[0]
    assert torch.equal(cayley(base, torch.zeros_like(base)), base)
    turned = cayley(base, normal(4, 3, 3, seed=2))
    torch.testing.assert_close(torch.linalg.det(turned), torch.linalg.det(base))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_stay_orthonormal_from_training_to_the_baked_file(dtype, k, tmp_path):
    module = KPlaneRidge(5, 1, 6, k, dtype=dtype)
    assert module.orthogonality() <= LIMIT
    before = module.weight.detach().clone()
    for round_ in range(3):
        assert train(module, steps=15, seed=round_, lr=0.3).orthogonality() <= LIMIT
    if k < 5:
        assert (module.weight - before).abs().max() > 0.05  # they did move
    torch.save(module.state_dict(), tmp_path / "m.pt")
    other = KPlaneRidge(5, 1, 6, k, dtype=dtype)
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    x = normal(9, 5, dtype=dtype)
    assert torch.equal(other(x), module(x))
    assert other.orthogonality() <= LIMIT
    baked = other.bake()
    assert baked.orthogonality() <= LIMIT
    torch.save(baked.state_dict(), tmp_path / "b.pt")
    again = copy.deepcopy(baked)
    again.weight.zero_()
    again.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    assert again.orthogonality() <= LIMIT
    assert torch.equal(again(x), module(x))
    assert train(other, steps=5).orthogonality() <= LIMIT  # training goes on after loading


def test_a_change_of_precision_keeps_them_orthonormal():
    for start, then in (DTYPES, DTYPES[::-1]):
        module = random_module(dtype=start).to(then)
        assert module.weight.dtype == then
        assert module.orthogonality() <= LIMIT


# ---------------------------------------------------------------------------------- norm, prune, bake


@pytest.mark.parametrize("outputs", [1, 3])
def test_norm_is_the_sum_of_the_lengths_of_the_output_weights(outputs):
    module = random_module(outputs=outputs)
    expected = sum(np.sqrt(np.sum(column**2)) for column in module.coef.detach().numpy().T)
    np.testing.assert_allclose(float(module.norm().detach()), expected, rtol=1e-14)
    np.testing.assert_allclose(float(module.bake().norm()), expected, rtol=1e-14)
    with torch.no_grad():
        module.coef[:, 0] = 0.0
    module.norm().backward()
    assert torch.isfinite(module.coef.grad).all()


def test_the_proximal_step_minimises():
    module, lam = random_module(), 0.3
    before = module.coef.detach().clone()
    after = module.prox_(lam).coef.detach()

    def objective(coef):
        return 0.5 * (coef - before).square().sum() + lam * torch.linalg.vector_norm(coef, dim=0).sum()

    for seed in range(50):
        assert objective(after) <= objective(after + 1e-3 * normal(*after.shape, seed=seed))
    assert not module.prox_(1e3).coef.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_pruned_and_baked_modules_are_the_same_function(dtype):
    module, x = random_module(atoms=8, dtype=dtype), normal(20, 6, dtype=dtype)
    with torch.no_grad():
        module.coef[:, [1, 4]] = 0.0
        module.coef[:, 6] *= 1e-3
    values, tight = module(x).detach(), {"rtol": 0.0, "atol": 50 * torch.finfo(dtype).eps}
    pruned = module.prune()
    assert (pruned.atoms, module.atoms) == (6, 8)
    torch.testing.assert_close(pruned(x).detach(), values, **tight)
    torch.testing.assert_close(pruned.norm(), module.norm(), **tight)
    assert module.prune(1e-2).atoms == 5
    assert pruned.orthogonality() <= LIMIT
    for baked in (module.bake(), pruned.bake()):
        assert isinstance(baked, BakedKPlaneRidge)
        assert not list(baked.parameters())
        torch.testing.assert_close(baked(x), values, **tight)
    train(KPlaneRidge(6, 1, 4, dtype=dtype).prune())  # the copy can be trained


def test_baking_copies_and_one_atom_always_stays():
    module, x = random_module(), normal(3, 6)
    baked = module.bake()
    values = baked(x).clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(baked(x), values)
    assert module.prune(1.0).atoms == 1


def test_baked_modules_can_be_exported():
    baked, x = random_module(dtype=torch.float32).bake().eval(), normal(4, 6, dtype=torch.float32)
    program = torch.export.export(baked, (x,))
    torch.testing.assert_close(program.module()(x), baked(x))


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="needs onnxscript and onnxruntime")
def test_baked_modules_are_the_same_in_onnx(tmp_path):
    baked, x = random_module(dtype=torch.float32).bake().eval(), normal(4, 6, dtype=torch.float32)
    assert to_onnx(baked, x, tmp_path / "m.onnx").exists()  # compares the outputs


# ---------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 1, 4, 5), "between 1 and in_features = 3; got 5"),
        ((3, 1, 4, 0), "between 1 and in_features = 3; got 0"),
        ((3, 1, 0, 2), "atoms must be at least 1; got 0"),
        ((0, 1, 4, 1), "in_features must be at least 1"),
        ((3, 0, 4, 1), "out_features must be at least 1"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KPlaneRidge(*arguments)


def test_bad_inputs_and_tolerances_are_refused():
    for module in (random_module(), random_module().bake()):
        with pytest.raises(ValueError, match=r"6 features in its last dimension; got shape \(2, 5\)"):
            module(normal(2, 5))
        with pytest.raises(TypeError, match="floating type"):
            module(torch.ones(2, 6, dtype=torch.int64))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="tol must be a finite number"):
            random_module().prune(bad)
        with pytest.raises(ValueError, match="lam must be a finite number"):
            random_module().prox_(bad)
