"""Both sides of the Lipschitz constant of a network, and every rule on its own, against Jacobians."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pathnorm.deep.attack import lipschitz_lower
from pathnorm.deep.graph import ModelGraph, state_of, trace
from pathnorm.deep.lipschitz import lipschitz_upper
from pathnorm.deep.slopes import slope_range


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Apply(nn.Module):
    """A function of the input and of buffers named c0, c1, ..."""

    def __init__(self, function, *constants):
        super().__init__()
        self.function = function
        for place, constant in enumerate(constants):
            self.register_buffer(f"c{place}", constant)

    def forward(self, x):
        return self.function(x, *self.buffers())


def random_weights(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.5, generator=generator)
    return model.double().eval()


def graph_of(model, x):
    """Return the graph without torch.export, which takes half a second for each."""
    state = state_of(model)
    made = make_fx(lambda s, x: torch.func.functional_call(model, s, (x,)), pre_dispatch=True)(state, x)
    nodes = tuple(made.graph.nodes)
    for place, node in enumerate(nodes):
        node.meta["pathnorm_index"] = place
    last = tuple(max((nodes.index(user) for user in node.users), default=place) for place, node in enumerate(nodes))
    *names, entry = [node.name for node in nodes if node.op == "placeholder"]
    assert len(names) == len(state)
    return ModelGraph(nodes, dict(zip(names, state, strict=True)), {}, entry, None, last)


def bound(model, shape):
    x = draw(2, *shape, seed=9)
    return lipschitz_upper(graph_of(model, x), state_of(model), x)


def steepest(model, shape, *, points=8, wanted=()):
    """Return the largest norm of the Jacobian at random points, near zero and far from it, and at wanted ones."""
    worst = 0.0
    random = [10.0 ** (place % 4 - 2) * draw(*shape, seed=place) for place in range(points)]
    for x in (*random, *wanted):
        matrix = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x).reshape(-1, x.numel())
        worst = max(worst, float(torch.linalg.matrix_norm(matrix, 2)))
    return worst


IMAGE = (3, 6, 5)
LINEAR_MAPS = [
    ("linear", lambda: nn.Linear(5, 4), IMAGE),
    ("matmul", lambda: Apply(lambda x, c: x @ c, draw(5, 4)), IMAGE),
    ("matmul from the left", lambda: Apply(lambda x, c: c @ x, draw(3, 4, 6)), IMAGE),
    ("matmul of a vector", lambda: Apply(lambda x, c: x @ c, draw(5)), IMAGE),
    ("matmul that broadcasts", lambda: Apply(lambda x, c: c.repeat(7, 1, 1) @ x[:, None], draw(1, 4, 6)), (6, 5)),
    ("conv2d 1x1", lambda: nn.Conv2d(3, 4, 1), IMAGE),
    ("circular", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), IMAGE),
    ("patches", lambda: nn.Conv2d(3, 4, (2, 5), stride=(2, 5)), IMAGE),
    ("batch_norm", lambda: nn.BatchNorm2d(3), IMAGE),
    ("conv2d + batch_norm", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), IMAGE),
    ("linear + batch_norm", lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (6,)),
    ("mul", lambda: Apply(lambda x, c: c * x, draw(3, 1, 1)), IMAGE),
    ("mul that broadcasts", lambda: Apply(lambda x, c: x[..., None] * c.sign(), draw(4)), IMAGE),
    ("div", lambda: Apply(lambda x, c: x / c, draw(6, 5)), IMAGE),
    ("add to itself", lambda: Apply(lambda x: torch.add(x, x, alpha=2)), IMAGE),
    ("sub with a factor", lambda: Apply(lambda x: torch.sub(3 * x, x.flip(1), alpha=5)), IMAGE),
    ("rsub", lambda: Apply(lambda x: 2.0 - x * 3), IMAGE),
    ("cat", lambda: Apply(lambda x: torch.cat([x, 2 * x, x.flip(1)], 2)), IMAGE),
    (
        "stack with a constant",
        lambda: Apply(lambda x, c: torch.stack([x, c.expand(len(x), 3, 6, 5)]).sum(0), draw(5)),
        IMAGE,
    ),
    ("expand", lambda: Apply(lambda x: x[:, :, None].expand(-1, -1, 7, -1, -1)), IMAGE),
    ("repeat", lambda: Apply(lambda x: x.repeat(1, 2, 1, 3)), IMAGE),
    ("slice and permute", lambda: Apply(lambda x: x[:, 1:, ::2].permute(0, 2, 3, 1).flatten(1)), IMAGE),
    ("index", lambda: Apply(lambda x, c: x[:, c], torch.tensor([0, 1, 1, 2])), IMAGE),
    ("pad", lambda: Apply(lambda x: F.pad(x, (1, 2, 0, -1), value=1.0)), IMAGE),
    ("pad by reflection", lambda: Apply(lambda x: F.pad(x, (2, 2, 1, 3), mode="reflect")), IMAGE),
    ("split", lambda: Apply(lambda x: x.split(2, 2)[1]), IMAGE),
    ("pixel_shuffle", lambda: nn.PixelShuffle(2), (4, 3, 3)),
    ("unfold", lambda: nn.Unfold(3, padding=1), IMAGE),
    ("upsample_nearest", lambda: nn.Upsample(scale_factor=(2, 3)), IMAGE),
    ("tril", lambda: Apply(lambda x: x.tril()), IMAGE),
    ("mean", lambda: Apply(lambda x: x.mean((2, 3))), IMAGE),
    ("sum", lambda: Apply(lambda x: x.sum(1, keepdim=True)), IMAGE),
    ("avg_pool2d", lambda: nn.AvgPool2d(2), IMAGE),
    ("adaptive_avg_pool2d", lambda: nn.AdaptiveAvgPool2d((2, 1)), (3, 6, 5)),
    ("einsum", lambda: Apply(lambda x, c: torch.einsum("ncij,ik->nckj", x, c.abs()), draw(6, 4)), IMAGE),
    ("masked_fill", lambda: Apply(lambda x, c: x.masked_fill(c > 0, 1.0), draw(6, 5)), IMAGE),
    ("where", lambda: Apply(lambda x, c: torch.where(c > 0, x, 3 * x), draw(6, 5)), IMAGE),
]


@pytest.mark.parametrize(("name", "build", "shape"), LINEAR_MAPS, ids=[case[0] for case in LINEAR_MAPS])
def test_the_bound_of_a_linear_map(name, build, shape):
    model = random_weights(build())
    exact, found = steepest(model, shape, points=1), bound(model, shape)
    assert found.reason == ""
    assert exact * (1.0 - 1e-13) <= found.upper
    # Of a map that joins tensors the bound does not know that its parts are the same, or constant.
    assert found.upper <= exact * (1.5 if "where" in name or "constant" in name else 1.0 + 1e-5)


# With how many times the steepest Jacobian found the bound may be.
CURVED = [
    ("conv2d", lambda: nn.Conv2d(3, 4, 3, padding=1), IMAGE, 1.4),
    ("conv2d same", lambda: nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(2, 1)), IMAGE, 1.6),
    ("conv2d grouped", lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2), (4, 6, 5), 1.6),
    ("conv1d", lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 9), 1.3),
    ("conv3d", lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 3), 3.0),
    ("conv_transpose2d", lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), IMAGE, 1.4),
    ("conv_transpose1d", lambda: nn.ConvTranspose1d(4, 6, 2, stride=2, groups=2), (4, 5), 1.0 + 1e-9),
    ("conv_transpose2d + batch_norm", lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)), IMAGE, 5),
    (
        "circular + batch_norm",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4)),
        IMAGE,
        1.0 + 1e-9,
    ),
    (
        "wide circular padding",
        lambda: Apply(lambda x, c: F.conv2d(F.pad(x, (2, 2, 2, 2), mode="circular"), c), draw(2, 3, 3, 3)),
        IMAGE,
        4.0,
    ),
    ("reflection and conv2d", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), IMAGE, 3.0),
    ("linear + batch_norm over a sequence", lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(6)), (6, 5), 3.0),
    ("max_pool2d", lambda: nn.MaxPool2d(2), IMAGE, 1.0 + 1e-9),
    ("max_pool2d overlapping", lambda: nn.MaxPool2d(3, 2, 1), IMAGE, 2.0),
    ("max_pool2d dilated", lambda: nn.MaxPool2d(2, 1, dilation=2), (1, 6, 5), 1.5),
    ("adaptive_max_pool2d", lambda: nn.AdaptiveMaxPool2d((4, 2)), IMAGE, 2.0),
    ("overlapping average", lambda: nn.AvgPool2d(3, 2, 1), IMAGE, 1.001),
    ("uneven average", lambda: nn.AdaptiveAvgPool2d((4, 2)), IMAGE, 1.001),
    ("upsample_bilinear", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE, 1.01),
    ("softmax", lambda: nn.Softmax(1), (2,), 1.01),
    ("log_softmax", lambda: nn.LogSoftmax(1), (7,), 1.01),
    ("logsumexp", lambda: Apply(lambda x: x.logsumexp(1, keepdim=True)), (7,), 1.01),
    ("amax", lambda: Apply(lambda x: x.amax((2, 3))), IMAGE, 1.0 + 1e-9),
    ("max", lambda: Apply(lambda x: x.max(1).values), IMAGE, 1.0 + 1e-9),
    ("maximum", lambda: Apply(lambda x: torch.maximum(x, 3 * x)), IMAGE, 1.1),
    ("maximum with a constant", lambda: Apply(lambda x, c: torch.maximum(x[:, :, None], c), draw(4, 1, 1)), IMAGE, 2.0),
    ("norm", lambda: Apply(lambda x: torch.linalg.vector_norm(x, dim=1)), IMAGE, 1.0 + 1e-9),
    ("layer_norm", lambda: nn.LayerNorm(5), IMAGE, 1.3),
    ("group_norm", lambda: nn.GroupNorm(2, 4), (4, 2, 3), 1.3),
    ("instance_norm", lambda: nn.InstanceNorm2d(3, affine=True), IMAGE, 1.01),
    ("instance_norm with statistics", lambda: nn.InstanceNorm2d(3, track_running_stats=True), IMAGE, 1.01),
    ("rms_norm", lambda: nn.RMSNorm(5, eps=1e-3), IMAGE, 1.01),
    ("prelu", lambda: nn.Sequential(nn.PReLU(3), Apply(lambda x: 2 * x)), IMAGE, 1.01),
    ("residual", lambda: Apply(lambda x, c: x + F.relu(x @ c), draw(5, 5)), IMAGE, 2.0),
    ("broadcast residual", lambda: Apply(lambda x: x - x.mean(1, keepdim=True)), IMAGE, 2.1),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("build", "shape", "slack"), [case[1:] for case in CURVED], ids=[case[0] for case in CURVED])
def test_no_jacobian_exceeds_the_bound(build, shape, slack):
    model = random_weights(build())
    found = bound(model, shape)
    assert found.reason == ""
    flat = torch.full(shape, 0.3, dtype=torch.float64)  # normalisations are steepest where the input is constant
    spike = torch.zeros(shape, dtype=torch.float64)
    spike.view(-1)[torch.tensor(shape).prod() // 2] = 50.0  # in every window and all of a softmax
    worst = steepest(model, shape, wanted=(flat + 1e-9 * draw(*shape), spike + 1e-9 * draw(*shape)))
    assert worst * (1.0 - 1e-13) <= found.upper <= slack * worst


ENTRYWISE = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.LeakyReLU(-1.5), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(),
    nn.Tanh(), nn.Sigmoid(), nn.ELU(2.0), nn.ELU(0.5), nn.SELU(), nn.CELU(2.0), nn.Softplus(), nn.Softplus(3.0),
    nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(-2.0, 1.0), nn.LogSigmoid(), nn.Softshrink(),
    nn.Threshold(0.5, 0.5), nn.RReLU(1.0, 3.0), nn.Dropout(), nn.Identity(), Apply(torch.erf),
    Apply(torch.abs), Apply(torch.sin), Apply(torch.cos), Apply(torch.neg), Apply(torch.atan),
    Apply(lambda x: x.clamp(-1.0, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize("model", ENTRYWISE, ids=[str(model).split("\n")[0] for model in ENTRYWISE])
def test_the_range_of_slopes_is_that_on_a_fine_grid(model):
    model = model.eval()
    x = torch.linspace(-30.0, 30.0, 600_001, dtype=torch.float64) + 1e-7  # beside the kinks
    x.requires_grad_(True)
    (slopes,) = torch.autograd.grad(model(x[None]).sum(), x)
    graph = graph_of(model, x.detach()[None].expand(2, -1)[:, :3])
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if calls:
        schema = calls[0].target._schema.arguments
        given = {**dict(zip((argument.name for argument in schema), calls[0].args, strict=False)), **calls[0].kwargs}
        arguments = {argument.name: given.get(argument.name, argument.default_value) for argument in schema}
        lowest, highest = slope_range(calls[0].target.overloadpacket.__name__, arguments)
        assert highest >= float(slopes.max()) - 1e-8 and lowest <= float(slopes.min()) + 1e-8
    # torch rounds the slope 1/6 to float32; between the points of the grid lies less than the larger number.
    largest = float(slopes.abs().max())
    assert largest - 1e-8 <= bound(model, (4,)).upper <= largest + 3e-4


REFUSED = [
    (lambda: Apply(lambda x: x * x), r"the model multiplies activations with activations \(mul\)"),
    (lambda: Apply(lambda x: x @ x.transpose(1, 2)), r"activations with activations \(matmul\)"),
    (lambda: Apply(lambda x: torch.einsum("nij,nik->njk", x, x)), r"activations with activations \(einsum\)"),
    (lambda: Apply(lambda x: F.scaled_dot_product_attention(x, x, x)), "scaled_dot_product_attention"),
    (lambda: nn.GLU(), r"\(glu\)"),
    (lambda: nn.Softsign(), r"multiplies activations with activations \(div\)"),
    (
        lambda: Apply(lambda x: x / (1.0 + x.norm(dim=1, keepdim=True))),
        r"multiplies activations with activations \(div\)",
    ),
    (lambda: Apply(lambda x: 1.0 / (1.0 + x.abs())), "reciprocal|div"),
    (lambda: Apply(lambda x, c: c / x, draw(4)), r"divides by activations"),
    (lambda: Apply(lambda x: x.exp()), "exp, which is not Lipschitz"),
    (lambda: Apply(lambda x: x**2), "pow, which is not Lipschitz"),
    (lambda: Apply(lambda x: torch.where(x > 0, x, 0.1 * x)), "gt"),
    (lambda: Apply(lambda x: (x > 0).double()), "gt"),
    (lambda: Apply(lambda x: x.long().double()), "integers"),
    (lambda: Apply(lambda x: x.sort(1).values), "sort, for which no bound is known"),
    (lambda: Apply(lambda x: x.max(1).indices.double()), "more than its output"),
    (lambda: Apply(lambda x, c: F.linear(x, x[0, :, :4], None) + c, draw(4)), r"\(linear\)|depends on"),
    (lambda: Apply(lambda x, c: F.layer_norm(c, (4,), None, x[0, 0]) + 0 * x, draw(4)), "parameter|depends on"),
    (lambda: nn.Hardshrink(), "hardshrink, which is not Lipschitz"),
    (lambda: nn.Threshold(0.1, 5.0), "threshold, which is not Lipschitz"),
    (lambda: nn.RMSNorm(4), "without a fixed eps"),
    (lambda: Apply(lambda x: F.batch_norm(x, None, None, training=True)), "statistics of the batch|other samples"),
    (lambda: Apply(lambda x: x - x.mean(0, keepdim=True)), "other samples"),
    (lambda: Apply(lambda x: x.sum(0)), "no entry per sample"),
    (lambda: Apply(lambda x, c: x * c, torch.full((4,), math.nan)), "c0 is not finite"),
]


@pytest.mark.parametrize(("build", "words"), REFUSED)
def test_without_a_proof_there_is_no_number(build, words):
    found = bound(build().double().eval(), (4, 4))
    assert found.upper is None
    assert found.reason.startswith("not certifiable: ")
    assert re.search(words, found.reason), found.reason


def test_integers_are_refused_on_both_sides():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)).eval()
    words = torch.zeros(3, 4, dtype=torch.int64)
    graph = trace(model, words)
    assert "integers" in lipschitz_upper(graph, state_of(model), words).reason
    with pytest.raises(ValueError, match="samples must be at least one floating input"):
        lipschitz_lower(graph, state_of(model), words)


def quotients(model, shape, *, pairs=400):
    """Return the steepest of many pairs, close and far."""
    x = draw(pairs, *shape, seed=3)
    reach = 10.0 ** torch.linspace(-4, 1, pairs, dtype=torch.float64).view(-1, *[1] * len(shape))
    y = x + reach * draw(pairs, *shape, seed=4)
    with torch.no_grad():
        moved = (model(x) - model(y)).flatten(1).norm(dim=1)
    return float((moved / (x - y).flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize(("kind", "ratio"), [("mlp", 5.0), ("chain", 60.0), ("residual", 200.0)])
def test_the_sandwich_holds_and_no_pair_is_outside(kind, ratio, build, sample):
    x = sample(kind, 20)
    graph = trace(build(kind), x[:4])
    for seed in range(2):
        model = build(kind, seed)
        state = state_of(model)
        found, witness = lipschitz_upper(graph, state, x), lipschitz_lower(graph, state, x, seed=seed)
        exact = model.double()
        assert quotients(exact, tuple(x.shape[1:])) <= found.upper
        assert witness.lower <= found.upper < ratio * witness.lower
        assert witness.lower > 0.95 * steepest(exact, x.shape[1:], points=0, wanted=x.double())
        assert witness.at_samples <= witness.lower * 1.01
        ends = witness.pair
        with torch.no_grad():
            outputs = exact(ends)
        assert float((outputs[0] - outputs[1]).norm() / (ends[0] - ends[1]).norm()) == pytest.approx(
            witness.lower, rel=1e-6
        )
        distance = (ends.mean(0) - x[witness.sample]).norm() / x[witness.sample].norm()
        assert distance < 0.2  # the pair lies near its sample


def test_both_sides_of_a_linear_network_are_its_norm():
    model = nn.Sequential(nn.Linear(7, 9), nn.Identity(), nn.Linear(9, 4)).double()
    x = draw(6, 7)
    graph, state = trace(model, x), state_of(model)
    exact = float(torch.linalg.matrix_norm((model[2].weight @ model[0].weight).detach(), 2))
    found = lipschitz_upper(graph, state, x)
    assert exact <= found.upper <= exact * (1.0 + 1e-9)
    assert [line.operation for line in found.layers] == ["linear", "linear", "linear to linear"]
    lower = lipschitz_lower(graph, state, x, n_steps=200).lower
    assert exact * (1.0 - 1e-6) <= lower <= exact


def test_two_layers_together_are_what_shallow_networks_promise():
    """The bound of a ReLU network without skip connection is that of the library's shallow networks."""
    from pathnorm.spaces._lipschitz import upper as shallow

    model = random_weights(nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2)))
    W, V = model[0].weight.detach(), model[2].weight.detach()
    expected = shallow(W.numpy(), -model[0].bias.detach().numpy(), V.T.numpy(), torch.zeros(3, 2).double().numpy())
    found = bound(model, (3,))
    assert found.upper == pytest.approx(expected, rel=1e-9)
    norms = [line.norm for line in found.layers]
    assert found.upper < 0.9 * norms[0] * norms[1]


@pytest.mark.parametrize("between", [nn.GELU(), nn.Tanh(), nn.LeakyReLU(-0.5), nn.BatchNorm1d(6), nn.Hardswish()])
def test_two_layers_with_other_things_between(between):
    middle = [nn.BatchNorm1d(6), between, nn.Dropout()] if not isinstance(between, nn.BatchNorm1d) else [between]
    model = random_weights(nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3), nn.BatchNorm1d(3)))
    found = bound(model, (4,))
    assert any(line.operation == "linear to linear" for line in found.layers)
    worst = steepest(model, (4,), points=200)
    assert worst <= found.upper <= 4.0 * worst


def test_scaling_the_network_scales_its_bound():
    model = random_weights(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)))
    before = bound(model, (2, 5, 5))
    with torch.no_grad():
        model[0].weight *= -3.0
        model[2].weight *= 0.5
    after = bound(model, (2, 5, 5))
    assert after.upper == pytest.approx(1.5 * before.upper, rel=1e-12)
    norms = [line.norm for line in before.layers]
    assert before.upper == pytest.approx(math.prod(norms), rel=1e-9)


def test_names_of_modules_and_a_batch_norm_that_belongs_to_its_layer(build, sample):
    model, x = build("residual"), sample("residual", 4)
    lines = lipschitz_upper(trace(model, x), state_of(model), x).layers
    assert [line.name for line in lines if line.operation == "conv2d + batch_norm"] == [
        f"blocks.{block}.conv{place}" for block in (0, 1) for place in (1, 2)
    ]
    assert lines[0].name == "stem" and lines[-1].name == "head"


def test_attention_has_no_upper_bound_and_a_lower_one():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), layer).eval()
    x = draw(6, 5, 3).float()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph, state = trace(model, x), state_of(model)
    found = lipschitz_upper(graph, state, x)
    assert found.upper is None
    assert found.reason == (
        "not certifiable: 1.self_attn multiplies activations with activations (scaled_dot_product_attention)"
    )
    assert lipschitz_lower(graph, state, x).lower > 0.0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_lower_bound_is_repeatable_and_grows_with_the_samples(build, sample):
    model, x = build("chain"), sample("chain", 20)
    graph, state = trace(model, x[:4]), state_of(model)
    once, twice = (lipschitz_lower(graph, state, x, seed=5) for _ in range(2))
    assert once.lower == twice.lower and torch.equal(once.pair, twice.pair)
    zero = lipschitz_lower(graph, state, torch.zeros_like(x[:1]))
    assert 0.0 < zero.lower < lipschitz_upper(graph, state, x).upper


class CifarBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.stride, self.side = stride, (after - before) // 2

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.side:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.side, self.side))
        return F.relu(branch + x)


class CifarResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(CifarBlock(before if i == 0 else after, after, stride if i == 0 else 1) for i in range(3)))
            for before, after, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.slow
def test_a_trained_resnet_20_in_seconds():
    root = Path(os.environ.get("PATHNORM_DATA") or Path(__file__).parents[3] / "shared" / "data")
    path = root / "weights" / "resnet_cifar10" / "resnet20-12fca82f.th"
    if not path.exists():
        pytest.skip("needs the weights of ResNet-20: set PATHNORM_DATA to the folder that holds weights/resnet_cifar10")
    model = CifarResNet()
    weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    x = draw(4, 3, 32, 32).float()
    graph, state = trace(model.eval(), x), state_of(model)
    found, witness = lipschitz_upper(graph, state, x), lipschitz_lower(graph, state, x, n_steps=6)
    assert len([line for line in found.layers if line.operation == "conv2d + batch_norm"]) == 19
    assert 1.0 < witness.lower < found.upper < 1e11
