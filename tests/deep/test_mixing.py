"""Streams through LayerNorm and RMSNorm, tables of embeddings, positions and class tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress, load
from pathnorm.deep.cost import params_cost
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.mixing import run_kept
from pathnorm.deep.surgery import cut


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ the operations


KEPT = torch.tensor([True, False, True, True, False])


def test_operations_over_what_is_kept_are_those_of_a_smaller_tensor():
    x, weight, bias = drawn(2, 3, 5), drawn(5, seed=2), drawn(5, seed=3)
    small, zero = x[..., KEPT], torch.zeros(2, 3, 5)
    norm = run_kept(
        "layer_norm", {"input": x, "normalized_shape": [5], "weight": weight, "bias": bias, "eps": 0.1}, KEPT
    )
    zero[..., KEPT] = F.layer_norm(small, (3,), weight[KEPT], bias[KEPT], 0.1)
    torch.testing.assert_close(norm, zero)
    root = run_kept("rms_norm", {"input": x, "normalized_shape": [5], "weight": None}, KEPT)
    zero[..., KEPT] = F.rms_norm(small, (3,))
    torch.testing.assert_close(root, zero)
    torch.testing.assert_close(run_kept("mean", {"self": x, "dim": [-1]}, KEPT), small.mean(-1))
    across = run_kept("mean", {"self": x.mT, "dim": [1], "keepdim": True}, KEPT)
    torch.testing.assert_close(across, small.mT.mean(1, keepdim=True))
    table = drawn(7, 5, seed=4)
    torch.testing.assert_close(run_kept("linear", {"input": x, "weight": table}, KEPT), small @ table[:, KEPT].T)


# ------------------------------------------------------------------------------ networks


class OwnRMS(nn.Module):
    """RMSNorm as many language models write it, with its checks of the dtype."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def gain(self):
        return self.weight

    def forward(self, x):
        y = x.to(torch.float32)
        return self.gain() * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class FromOne(OwnRMS):
    """The weight is what the gain differs from one by, as in Gemma."""

    def gain(self):
        return 1.0 + self.weight.float()


NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "own": OwnRMS, "from one": FromOne}


class Stream(nn.Module):
    """Words or patches, a class token, positions, two blocks before a norm, a head of its own or the table's."""

    def __init__(self, k=1, norm="layer", words=True, tied=False, blocks=2):
        super().__init__()
        d, kind, self.words = 6 * k, NORMS[norm], words
        self.embed = nn.Embedding(11, d) if words else nn.Conv2d(2, d, 2, 2)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, 5, d))
        self.before = nn.ModuleList(kind(d) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(d, 4) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(4, d) for _ in range(blocks))
        self.last, self.head = kind(d), nn.Linear(d, 11 if tied else 3, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        if not self.words:
            x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for before, up, down in zip(self.before, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(before(x))))
        return self.head(self.last(x))


def made(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Stream(**options)
        for name, parameter in model.named_parameters():
            if "before" in name or "last" in name:
                parameter.data.uniform_(0.5, 1.5)
    return model.eval()


def draws(words, n):
    if words:
        return torch.randint(11, (n, 4), generator=torch.Generator().manual_seed(1))
    return drawn(n, 2, 4, 4)


def wide(**options):
    """A network and one with every channel of the stream twice: its norms divide by the same."""
    small, large = made(**options), made(3, k=2, **options)
    state = large.state_dict()
    for key, value in small.state_dict().items():
        for dim in range(value.ndim):
            factor = state[key].shape[dim] // value.shape[dim]
            value = value.repeat_interleave(factor, dim)
            reads = dim == 1 and key.split(".")[0] in {"up", "head"}
            value = value / factor if reads else value
        state[key] = value
    large.load_state_dict(state)
    return small, large


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("words", [True, False])
def test_of_channels_that_come_in_pairs_one_is_enough(norm, words, tmp_path):
    small, large = wide(norm=norm, words=words)
    data = draws(words, 200)
    torch.testing.assert_close(large(data), small(data), rtol=1e-4, atol=1e-4)
    compression = compress(large, data, widths={"embed": 6}, streams=True)
    with torch.no_grad():
        wanted, got = small(data), compression.model(data)
    assert float((got - wanted).norm() / (wanted - wanted.mean(0)).norm()) < 2e-3
    assert compression.model.token.shape == (1, 1, 6) and compression.model.position.shape == (1, 5, 6)
    assert getattr(compression.model.embed, "embedding_dim" if words else "out_channels") == 6
    compression.save(tmp_path / "saved")
    again = load(lambda: made(3, k=2, norm=norm, words=words), tmp_path / "saved")
    assert torch.equal(again(data[:3]), compression.model(data[:3]))


def test_a_stream_has_its_table_positions_and_norms():
    model, data = made(), draws(True, 2)
    graph = trace(model, data, outputs_first=True)
    neurons = find_neurons(graph, graph.state_of(model), data, coupling="streams")
    stream = next(group for group in neurons.groups if group.name == "embed")
    assert {p.layer.name for p in stream.producers} == {"embed", "down.0", "down.1"}
    assert {c.layer.name for c in stream.consumers} == {"up.0", "up.1", "head"}
    norms = {f"{name}.{part}" for name in ("before.0", "before.1", "last") for part in ("weight", "bias")}
    assert {rows.key for rows in stream.tied} == {"token", "position"} | norms
    assert [rows.dim for rows in stream.tied if rows.key == "position"] == [2] and len(stream.mixed) == 3
    keep = {"embed": torch.tensor([0, 2, 5])}
    small = cut(model, graph.state_of(model), [stream], keep, turned=graph.turned)
    assert small(data).shape == model(data).shape
    assert params_cost(model, [stream])([3]) == sum(p.numel() for p in small.parameters())


def test_the_head_that_is_the_table_goes_with_it():
    model, data = made(tied=True), draws(True, 300)
    compression = compress(model, data, widths=0.67, streams=True)
    small = compression.model
    assert small.head.weight is small.embed.weight and small.head.weight.shape == (11, 4)
    assert small.embed.embedding_dim == small.head.in_features == 4
    assert compression.record.params_after == sum(p.numel() for p in small.parameters())
    rows = {tuple(row.tolist()) for row in small.embed.weight.detach().T}
    assert rows <= {tuple(row.tolist()) for row in model.embed.weight.detach().T}, "the table is cut, not refitted"
    interior = compress(model, data, widths=0.5)
    assert {group.name for group in interior.record.groups} == {"up.0", "up.1"}
    assert interior.model.embed.weight is interior.model.head.weight


def test_weights_behind_a_norm_are_refitted_to_what_it_gives_without_the_others():
    """With more channels gone than the readers' first fit knows of, the second fit is the better one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 6)).eval()
    data = drawn(400, 4)
    compression = compress(model, data, widths={"0": 5})
    small = compression.model
    with torch.no_grad():
        features = torch.cat([small[:3](data), torch.ones(400, 1)], 1)
        wanted = model(data)
        best = features @ torch.linalg.lstsq(features, wanted).solution
        got = small(data)
    spread = (wanted - wanted.mean(0)).norm()
    # Fitted on 80 % of the samples; the first fit alone is worse by far.
    assert float((got - wanted).norm() / spread) < 1.1 * float((best - wanted).norm() / spread) + 1e-3
    assert small[2].normalized_shape == (5,)


class Response(nn.Module):
    """The interior of a block of ConvNeXt V2: expansion, global response normalisation, projection."""

    def __init__(self, k=1, fused=False):
        super().__init__()
        self.up, self.down, self.fused = nn.Conv2d(3, 5 * k, 1), nn.Conv2d(5 * k, 4, 1), fused
        self.weight, self.bias = nn.Parameter(torch.randn(5 * k)), nn.Parameter(torch.randn(5 * k))

    def forward(self, x):
        x = F.gelu(self.up(x))
        size = x.norm(dim=(2, 3), keepdim=True) if self.fused else torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = size / (size.mean(1, keepdim=True) + 1e-6)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        y = torch.addcmul(bias, weight, x * share) if self.fused else weight * (x * share) + bias
        return self.down(x + y).mean((2, 3))


@pytest.mark.parametrize("fused", [False, True])
def test_global_response_normalisation_is_over_the_channels_that_are_left(fused):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small, large = Response(fused=fused).eval(), Response(2, fused).eval()
    state = {key: value.repeat_interleave(2, 0) for key, value in small.state_dict().items()}
    kernel = small.down.weight.repeat_interleave(2, 1) / 2
    large.load_state_dict(state | {"down.weight": kernel, "down.bias": small.down.bias})
    images = drawn(200, 3, 4, 4)
    torch.testing.assert_close(large(images), small(images))
    compression = compress(large, images, widths={"up": 5})
    with torch.no_grad():
        torch.testing.assert_close(compression.model(images), small(images), rtol=1e-3, atol=1e-3)
    assert compression.model.weight.shape == compression.model.bias.shape == (5,)
    assert not compression.record.groups[0].theorem_applies


def test_states_with_fewer_channels_are_told_apart():
    model, data = made(), draws(True, 2)
    graph = trace(model, data, outputs_first=True)
    state = graph.state_of(model)
    stream = find_neurons(graph, state, data, coupling="streams").groups[0]
    key = stream.mixed[0].key
    fewer = {**state, key: torch.tensor([True] * 5 + [False])}
    assert not torch.equal(graph.outputs(state, data), graph.outputs(fewer, data))
    assert set(cut(model, fewer, [], {}, turned=graph.turned).state_dict()) == set(state_of(model))


def test_norms_over_several_dimensions_or_other_entries_are_left_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv1d(2, 4, 1), nn.Linear(3, 4)
            self.both, self.padded = nn.LayerNorm((4, 5)), nn.LayerNorm(6)
            self.hidden, self.head = nn.Linear(20, 8), nn.Linear(14, 2)

        def forward(self, x):
            y = F.relu(self.hidden(self.both(self.one(x)).flatten(1)))
            z = self.padded(torch.cat([self.two(x[:, 0, :3]), x[:, 0, 3:]], 1))
            return self.head(torch.cat([y, z], 1))

    record = compress(Odd().eval(), drawn(60, 2, 5), widths={"hidden": 4}).record
    reasons = {item.name: item.reason for item in record.skipped}
    assert reasons["one"] == "layer_norm over mixed channels"
    assert reasons["two"] == "layer_norm over channels and other entries"
