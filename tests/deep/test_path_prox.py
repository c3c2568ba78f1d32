"""The proximal optimiser: exact steps, neurons that vanish, and life beside schedulers, scalers, clipping and ranks."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import PathNormRegularizer, PathProx
from pathnorm.deep.prox import prox_product
from pathnorm.errors import UnsupportedModelError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


X = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
Y = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))


def gradient(model, optimizer):
    optimizer.zero_grad()
    F.mse_loss(model(X), Y).backward()


@pytest.fixture
def wrap():
    """Return ``wrap(model, lam, **options)`` with plain gradient descent inside."""

    def make(model, lam, *, lr=0.1, example=X, **options):
        return PathProx(torch.optim.SGD(model.parameters(), lr=lr), model, example, lam, **options)

    return make


def test_a_step_is_a_gradient_step_and_then_the_closed_form(wrap):
    model, twin = network(), network()
    optimizer, plain = wrap(model, 0.7, biases=False), torch.optim.SGD(twin.parameters(), lr=0.1)
    gradient(model, optimizer)
    gradient(twin, plain)
    optimizer.step()
    plain.step()
    w, v = twin[0].weight.detach(), twin[2].weight.detach()
    p, q = w.norm(dim=1), v.norm(dim=0)
    a, b = prox_product(p, q, 0.7, steps=(0.1, 0.1))
    torch.testing.assert_close(model[0].weight.detach(), w * (a / p)[:, None])
    torch.testing.assert_close(model[2].weight.detach(), v * (b / q))
    assert torch.equal(model[0].bias, twin[0].bias)


def test_neurons_become_exactly_zero_and_the_objective_falls(wrap):
    model = network()
    optimizer = wrap(model, 0.1, lr=0.05)
    penalty = PathNormRegularizer(model, X, biases=True)
    values = []
    for _ in range(400):
        gradient(model, optimizer)
        with torch.no_grad():
            values.append(float(F.mse_loss(model(X), Y) + 0.1 * penalty()))
        optimizer.step()
    dead = (model[2].weight == 0.0).all(0) | (torch.cat([model[0].weight, model[0].bias[:, None]], 1) == 0.0).all(1)
    assert 0 < int(dead.sum()) < 8
    assert values[-1] < values[0]
    # Proximal gradient descent with a small step does not go up.
    assert all(later <= before + 1e-6 for before, later in itertools.pairwise(values))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8, "dampening": 0.5}])
def test_the_fixed_point_does_not_depend_on_the_momentum(options):
    """Stationary for loss + path norm: the derivative along the length of every neuron that is left vanishes."""
    model = network().double()
    x, y = X.double(), Y.double()
    inner = torch.optim.SGD(model.parameters(), lr=0.04, **options)
    optimizer = PathProx(inner, model, x, 0.05, biases=False)
    for _ in range(1500):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    F.mse_loss(model(x), y).backward()
    w, v = model[0].weight, model[2].weight
    p, q = w.detach().norm(dim=1), v.detach().norm(dim=0)
    alive = p * q > 1e-3
    assert bool(alive.any())
    along_w = (w.grad * w.detach()).sum(1) / p + 0.05 * q
    along_v = (v.grad * v.detach()).sum(0) / q + 0.05 * p
    # Without the factor of the momentum these would be 0.8.
    assert float((along_w / (0.05 * q))[alive].abs().mean()) < 0.2
    assert float((along_v / (0.05 * p))[alive].abs().mean()) < 0.2


def test_parts_with_rates_of_their_own_and_frozen_parts(wrap):
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters(), "lr": 0.05}]
    before = copy.deepcopy(model)
    PathProx(torch.optim.SGD(groups, lr=1.0), model, X, 0.5, biases=False).prox()
    p, q = before[0].weight.detach().norm(dim=1), before[2].weight.detach().norm(dim=0)
    a, b = prox_product(p, q, 0.5, steps=(0.2, 0.05))
    torch.testing.assert_close(model[0].weight.detach().norm(dim=1), a)
    torch.testing.assert_close(model[2].weight.detach().norm(dim=0), b)
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    wrap(frozen, 0.5, biases=False).prox()
    assert torch.equal(frozen[0].weight, before[0].weight)
    torch.testing.assert_close(frozen[2].weight.detach().norm(dim=0), (q - 0.1 * 0.5 * p).clamp_min(0.0))
    alone = network()
    PathProx(torch.optim.SGD(alone[2].parameters(), lr=0.1), alone, X, 0.5, biases=False).prox()
    assert torch.equal(alone[0].weight, before[0].weight)


def test_the_constrained_form_is_soft_thresholding_on_the_unit_sphere(wrap):
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0.0
        model[0].bias[2] = 0.0
    before = copy.deepcopy(model)
    wrap(model, 0.4, form="constrained").prox()
    w = torch.cat([before[0].weight, before[0].bias[:, None]], 1).detach()
    p = w.norm(dim=1)
    q = before[2].weight.detach().norm(dim=0) * torch.where(p > 0, p, 1.0)
    now = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach().norm(dim=1)
    torch.testing.assert_close(now, torch.where(p > 0, 1.0, 0.0))
    torch.testing.assert_close(model[2].weight.detach().norm(dim=0)[p > 0], (q - 0.1 * 0.4).clamp_min(0.0)[p > 0])
    # With lambda zero only the scale changes, and the function does not.
    same = copy.deepcopy(before)
    wrap(same, 0.0, form="constrained", biases=False).prox()
    torch.testing.assert_close(same(X), before(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(same[0].weight.detach().norm(dim=1)[p > 0], torch.ones(7))
    gelu = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3))
    with pytest.raises(UnsupportedModelError, match="acts gelu"):
        wrap(gelu, 0.1, form="constrained")


def test_behind_a_batch_norm_gain_and_offset_are_the_input_weight(wrap, build, sample):
    model, x = build("residual"), sample("residual", 8)
    before = copy.deepcopy(model.state_dict())
    wrap(model, 1e3, example=x).prox()
    after = model.state_dict()
    for name in ("blocks.0", "blocks.1"):
        assert torch.equal(after[f"{name}.conv1.weight"], before[f"{name}.conv1.weight"])
        gone = (after[f"{name}.bn1.weight"] == 0.0) & (after[f"{name}.bn1.bias"] == 0.0)
        silent = (after[f"{name}.conv2.weight"] == 0.0).all(0).flatten(1).all(1)
        assert bool((gone | silent).all())
        assert not bool((gone & silent).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype, wrap):
    model, wide = network().to(dtype), network()
    wrap(model, 0.5, example=X.to(dtype)).prox()
    wrap(wide, 0.5).prox()
    assert model[0].weight.dtype == dtype
    torch.testing.assert_close(model[2].weight.float(), wide[2].weight, rtol=0.02, atol=0.01)


def test_a_scheduler_a_scaler_and_clipping_take_the_wrapper_for_an_optimiser(wrap):
    model = network()
    optimizer = wrap(model, 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.mse_loss(model(X).float(), Y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    before = copy.deepcopy(model.state_dict())
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert optimizer.param_groups[0]["lr"] == optimizer.optimizer.param_groups[0]["lr"] == 0.05
    # A step that the scaler leaves out leaves out the proximal step.
    optimizer.zero_grad()
    scaler.scale(F.mse_loss(model(X), Y)).backward()
    model[0].weight.grad[0, 0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_closure_and_an_optimiser_that_needs_it():
    model = network()
    optimizer = PathProx(torch.optim.LBFGS(model.parameters(), lr=0.1), model, X, 1e-3)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    first = float(optimizer.step(closure).detach())
    assert float(optimizer.step(closure).detach()) < first


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    def run(model, optimizer, steps):
        for _ in range(steps):
            gradient(model, optimizer)
            optimizer.step()

    model = network()
    optimizer = PathProx(torch.optim.Adam(model.parameters(), lr=0.01), model, X, {"0": 0.05}, biases=False)
    run(model, optimizer, 5)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    run(model, optimizer, 5)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    twin = network(9)
    twin.load_state_dict(saved["model"])
    other = PathProx(torch.optim.Adam(twin.parameters(), lr=0.5), twin, X, 1.0)
    other.load_state_dict(saved["optimizer"])
    assert other.lam == {"0": 0.05}
    assert other.param_groups[0]["lr"] == 0.01
    assert other.param_groups is other.optimizer.param_groups
    run(twin, other, 5)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    plain = torch.optim.Adam(network().parameters(), lr=0.01).state_dict()
    other.load_state_dict(plain)  # of the wrapped optimiser alone
    with pytest.raises(ValueError, match="Unknown: 7"):
        other.load_state_dict({**plain, "path_prox": {"lam": {"7": 1.0}, "biases": True, "form": "product"}})


def test_parameters_can_be_added_later():
    model = network()
    optimizer = PathProx(torch.optim.SGD(model[0].parameters(), lr=0.1), model, X, 0.5, biases=False)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.3})
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == [0.1, 0.3]
    before = model[2].weight.detach().clone()
    optimizer.prox()
    assert not torch.equal(model[2].weight, before)


def test_arguments_are_checked(wrap):
    model = network()
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer. Got list"):
        PathProx(list(model.parameters()), model, X, 0.1)
    with pytest.raises(ValueError, match="form must be one of"):
        wrap(model, 0.1, form="other")
    with pytest.raises(ValueError, match="a number from 0"):
        wrap(model, float("nan"))
    with pytest.raises(UnsupportedModelError, match="None of its layers qualifies"):
        wrap(nn.Sequential(nn.Linear(5, 3)), 0.1)


SCRIPT = """
import sys
import torch, torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from pathnorm.deep import AuditLogger, PathNormRegularizer, PathProx

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
wrapped = nn.parallel.DistributedDataParallel(model)
g = torch.Generator().manual_seed(1)
x, y = torch.randn(64, 5, generator=g), torch.randn(64, 3, generator=g)
optimizer = PathProx(torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9), wrapped, x, 0.5)
penalty, logger = PathNormRegularizer(wrapped, x, lam=0.01), AuditLogger(wrapped, x)
for step in range(20):
    optimizer.zero_grad()
    (F.mse_loss(wrapped(x[rank::2]), y[rank::2]) + penalty()).backward()
    optimizer.step()
    logger(step)
torch.save([model.state_dict(), logger.history[-1]["active"]], f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_ranks_take_the_same_steps_as_one_process(two_ranks):
    folder = two_ranks(SCRIPT)
    (one, active), (two, _) = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    model = network()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 5, generator=generator), torch.randn(64, 3, generator=generator)
    optimizer = PathProx(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, x, 0.5)
    penalty = PathNormRegularizer(model, x, lam=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (F.mse_loss(model(x), y) + penalty()).backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(one[key], value, rtol=1e-4, atol=1e-6)
    assert active < 8
