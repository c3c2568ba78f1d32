"""Attention heads and feed-forward blocks: what goes together, and planted heads that are there twice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress, load
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons

WIDTH, SIZE, LENGTH = 12, 4, 6
WRITTEN_OUT = ("matmul", "einsum", "bmm")


def rotated(x):
    """Rotary position embedding, halves of a head turned into each other."""
    angles = torch.arange(x.shape[2])[:, None] * torch.logspace(0, -1, SIZE // 2)
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    turned = torch.cat([-x[..., SIZE // 2 :], x[..., : SIZE // 2]], -1)
    return x * cos + turned * sin


def written_out(q, k, v, kind, bias):
    """Attention without the operation of torch for it."""
    scale = q.shape[-1] ** -0.5
    if kind == "einsum":
        return torch.einsum("bhij,bhjd->bhid", (torch.einsum("bhid,bhjd->bhij", q, k) * scale).softmax(-1), v)
    if kind == "bmm":
        shape, (q, k, v) = q.shape, (part.flatten(0, 1) for part in (q, k, v))
        return torch.bmm(torch.softmax(torch.bmm(q * scale, k.mT), -1), v).view(shape)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    scores = ((q @ k.transpose(-2, -1)) * scale + bias).masked_fill(later, -torch.inf)
    return scores.softmax(-1) @ v


class Attention(nn.Module):
    """Causal attention: separate or fused projections, grouped keys, rotary positions, or written out in products."""

    def __init__(self, heads, kind):
        super().__init__()
        self.num_heads, self.kind = heads, kind
        groups = heads // 2 if kind == "grouped" else heads
        if kind == "fused":
            self.qkv = nn.Linear(WIDTH, 3 * heads * SIZE)
        else:
            self.query = nn.Linear(WIDTH, heads * SIZE)
            self.key, self.value = nn.Linear(WIDTH, groups * SIZE), nn.Linear(WIDTH, groups * SIZE)
        self.out = nn.Linear(heads * SIZE, WIDTH)
        if kind in {"matmul", "table"}:  # relative positions, as in a window of Swin and in BEiT
            self.table = nn.Parameter(torch.randn(2 * LENGTH - 1, heads))
            self.register_buffer("places", torch.arange(LENGTH)[:, None] - torch.arange(LENGTH) + LENGTH - 1)

    def forward(self, x):
        batch, length, _ = x.shape
        if self.kind == "fused":
            parts = self.qkv(x).reshape(batch, length, 3, self.num_heads, SIZE).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
        else:
            q, k, v = (
                layer(x).view(batch, length, -1, SIZE).transpose(1, 2) for layer in (self.query, self.key, self.value)
            )
        if self.kind == "rotary":
            q, k = rotated(q), rotated(k)
        bias = None
        if self.kind in {"matmul", "table"}:
            bias = self.table[self.places.view(-1)].view(length, length, -1).permute(2, 0, 1).unsqueeze(0)
        if self.kind in WRITTEN_OUT:
            return self.out(written_out(q, k, v, self.kind, bias).transpose(1, 2).reshape(batch, length, -1))
        mask = torch.linspace(-1, 0, q.shape[1])[:, None, None].expand(-1, length, length)[None]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask if self.kind == "biased" else bias, enable_gqa=self.kind == "grouped"
        )
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    def __init__(self, heads=2, kind="plain", tokens=0):
        super().__init__()
        self.embed = nn.Embedding(tokens, WIDTH) if tokens else nn.Linear(3, WIDTH)
        self.before, self.attention = nn.LayerNorm(WIDTH), Attention(heads, kind)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)
        self.head = nn.Linear(WIDTH, tokens or 2, bias=False)
        if tokens:
            self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(self.before(x))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


def made(*args, seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Block(*args, **kwargs).eval()


def draws(n):
    return torch.randn(n, LENGTH, 3, generator=torch.Generator().manual_seed(1))


def found(model, data):
    return find_neurons(trace(model, data), state_of(model), data, coupling="interior")


@pytest.mark.parametrize("kind", ["plain", "fused", "rotary", "grouped"])
def test_the_projections_of_a_head_are_one_neuron(kind):
    groups = {group.name: group for group in found(made(4, kind), draws(2)).groups}
    assert set(groups) == {"attention.qkv" if kind == "fused" else "attention.query", "up"}
    group = next(iter(groups.values()))
    assert group.width == (2 if kind == "grouped" else 4)
    names = {producer.layer.name.rpartition(".")[2] for producer in group.producers}
    assert names == ({"qkv"} if kind == "fused" else {"query", "key", "value"})
    per_head = SIZE * 4 // group.width  # grouped: two heads of queries share one of keys
    assert group.consumers[0].neurons.tolist() == [k for k in range(group.width) for _ in range(per_head)]
    by_name = {producer.layer.name.rpartition(".")[2]: producer.neurons.tolist() for producer in group.producers}
    if kind == "grouped":
        assert by_name["key"] == [0] * SIZE + [1] * SIZE and by_name["query"] == [0] * 2 * SIZE + [1] * 2 * SIZE


def twice(small, large):
    """Copy the weights so that every head of ``small`` is there twice in ``large``."""
    state = large.state_dict()
    for key, value in small.state_dict().items():
        if key == "attention.table":
            value = value.repeat_interleave(2, 1)
        elif key == "attention.places":
            pass
        elif key.startswith("attention.out.weight"):
            value = value.view(WIDTH, -1, SIZE).repeat_interleave(2, 1).flatten(1) / 2
        elif key.startswith("attention") and "out" not in key:
            parts = 3 if "qkv" in key else 1
            rows = value.view(parts, -1, SIZE, *value.shape[1:])
            value = rows.repeat_interleave(2, 1).flatten(0, 2)
        state[key] = value
    large.load_state_dict(state)


@pytest.mark.parametrize("kind", ["plain", "fused", "rotary", "table", *WRITTEN_OUT])
def test_of_heads_that_come_in_pairs_one_is_enough(kind, tmp_path):
    small, large = made(2, kind), made(4, kind, seed=3)
    twice(small, large)
    data = draws(60)
    torch.testing.assert_close(large(data), small(data), rtol=1e-4, atol=1e-4)
    done = compress(large, data, widths={"attention.qkv" if kind == "fused" else "attention.query": 2})
    assert done.record.output_error_heldout < 1e-3
    assert done.model.attention.num_heads == 2
    assert sum(p.numel() for p in done.model.parameters()) == sum(p.numel() for p in small.parameters())
    again = load(lambda: made(4, kind), done.save(tmp_path / "out"))
    torch.testing.assert_close(again(data), done.model(data), rtol=0.0, atol=0.0)


def test_heads_with_masks_of_their_own_and_heads_of_torch_are_left_alone():
    reasons = {item.name: item.reason for item in found(made(4, "biased"), draws(2)).skipped}
    assert "mask of the attention differs" in reasons["attention.value"]

    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
            self.embed, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)

        def forward(self, x):
            return self.head(self.block(self.embed(x)))

    done = compress(Torch().eval(), draws(60), widths=0.5)
    assert [group.name for group in done.record.groups] == ["block.linear1"]
    assert done.record.groups[0].width_after == 8


def test_token_ids_are_data_and_shared_weights_stay_shared():
    model = made(2, tokens=9)
    tokens = torch.randint(0, 9, (80, 6), generator=torch.Generator().manual_seed(0))
    done = compress(model, tokens, widths=0.5)
    assert done.model.head.weight is done.model.embed.weight
    assert {group.name: group.width_after for group in done.record.groups} == {"attention.query": 1, "up": 5}
    assert model.attention.num_heads == 2 and done.model.attention.num_heads == 1


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["Llama", "Gemma", "GPT2"])
@pytest.mark.usefixtures("torchvision_operators")
def test_models_of_transformers(family, attention):
    transformers = pytest.importorskip("transformers", reason="an optional peer: pip install transformers")
    ends = {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
    if family == "GPT2":
        config = transformers.GPT2Config(**ends, n_embd=16, n_inner=24, n_layer=1, n_head=4, n_positions=32)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "max_position_embeddings": 32}
        kind = getattr(transformers, f"{family}Config")
        config = kind(**ends, **sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM"))
        model = Logits(kind._from_config(config, attn_implementation=attention).eval())
    tokens = torch.randint(0, 30, (60, 8), generator=torch.Generator().manual_seed(0))
    done = compress(model, tokens, widths=0.5, streams=True)
    small = done.model.model
    state = {key.split(".")[-2]: tuple(value.shape) for key, value in small.state_dict().items() if value.ndim == 2}
    if family == "GPT2":  # the weight lies the other way round
        expected = {"c_attn": (8, 24), "c_fc": (8, 12), "wte": (30, 8), "wpe": (32, 8)}
    else:
        expected = {"q_proj": (8, 8), "k_proj": (4, 8), "v_proj": (4, 8), "o_proj": (8, 8)}
        expected |= {"gate_proj": (12, 8), "up_proj": (12, 8), "down_proj": (8, 12), "embed_tokens": (30, 8)}
    assert {name: state[name] for name in expected} == expected
    assert len(done.record.groups) == 3
    assert small(input_ids=tokens[:2]).logits.shape == (2, 8, 30)


class Whole(nn.Module):
    """A block whose attention and feed-forward layers are in one module, with the number of heads."""

    def __init__(self, size=6, heads=4, written=False):
        super().__init__()
        width = heads * size
        self.num_heads, self.size, self.written = heads, size, written
        self.embed, self.before, self.norm = nn.Linear(3, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 16), nn.Linear(16, width), nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x)
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, length, 3, self.num_heads, self.size).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT * self.size**-0.5).softmax(-1) @ v if self.written else F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return self.head(x + self.down(F.gelu(self.up(self.norm(x))))).mean(1)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("widths", [{"qkv": 3, "up": 7}, {"embed": 12, "up": 7}, {"embed": 10, "qkv": 1, "up": 7}])
def test_heads_are_counted_by_what_is_cut_of_them(widths, written, tmp_path):
    """A stream half as wide leaves the output of the attention with half its rows, and as many heads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whole(written=written).eval()
    data = draws(60)
    done = compress(model, data, widths=widths, streams=True)
    small = done.model
    heads, width = widths.get("qkv", 4), widths.get("embed", 24)
    assert small.num_heads == heads and model.num_heads == 4
    assert small.qkv.weight.shape == (18 * heads, width) and small.out.weight.shape == (width, 6 * heads)
    again = load(lambda: Whole(written=written).eval(), done.save(tmp_path / "out"))
    assert again.num_heads == heads and torch.equal(again(data), small(data))


def test_attention_written_out_is_cut_as_the_operation_is():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, written = Whole().eval(), Whole(written=True).eval()
    written.load_state_dict(model.state_dict())
    data = draws(60)
    one, other = (compress(net, data, widths={"qkv": 2, "up": 7}) for net in (model, written))
    torch.testing.assert_close(other.model(data), one.model(data), rtol=1e-3, atol=1e-4)
    for first, second in zip(one.record.groups, other.record.groups, strict=True):
        assert (first.name, first.width_after) == (second.name, second.width_after)


@pytest.mark.parametrize("streams", [False, True])
def test_a_budget_over_heads_and_others_in_one_module_is_met(streams):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whole().eval()
    record = compress(model, draws(60), params=0.6, streams=streams).record
    assert record.params_after <= 0.6 * record.params_before
    assert {group.name for group in record.groups} == {"qkv", "up"} | ({"embed"} if streams else set())


class Values(nn.Module):
    """Attention that takes the number of channels per head from its tensors."""

    def __init__(self, per_head=SIZE, written=False):
        super().__init__()
        self.num_heads, self.written = 2, written
        self.query, self.key = nn.Linear(WIDTH, 2 * SIZE), nn.Linear(WIDTH, 2 * SIZE)
        self.value, self.out = nn.Linear(WIDTH, 2 * per_head), nn.Linear(2 * per_head, 2 * SIZE)
        self.head = nn.Linear(2 * SIZE, 3)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (
            layer(x).view(n, length, self.num_heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        y = (q @ k.mT / 2).softmax(-1) @ v if self.written else F.scaled_dot_product_attention(q, k, v)
        return self.head(torch.relu(self.out(y.transpose(1, 2).reshape(n, length, -1)).mean(1)))


@pytest.mark.parametrize("written", [False, True])
def test_channels_of_values_go_in_every_head(written, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Values(written=written).eval()
        for part, dim in ((model.value.weight, 0), (model.value.bias, 0), (model.out.weight, 1)):
            part.data = part.data.unflatten(dim, (2, SIZE)).narrow(dim + 1, 0, 2).repeat_interleave(2, dim + 1)
            part.data = part.data.flatten(dim, dim + 1)
    data = torch.randn(200, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    compression = compress(model, data, widths={"value": 2}, attention="values")
    small = compression.model
    torch.testing.assert_close(small(data), model(data), rtol=1e-4, atol=1e-4)
    assert small.num_heads == 2 and (small.value.out_features, small.out.in_features) == (4, 4)
    reasons = {item.name: item.reason for item in compression.record.skipped}
    assert "attention='values'" in reasons["query"] and "attention='values'" in reasons["key"]
    compression.save(tmp_path / "saved")
    assert torch.equal(load(lambda: Values(written=written).eval(), tmp_path / "saved")(data), small(data))


def test_values_need_a_forward_that_follows_them():
    record = compress(made(), draws(200), widths={"up": 6}, attention="values").record
    reasons = {item.name: item.reason for item in record.skipped}
    assert "does not run with another width" in reasons["attention.value"]
    with pytest.raises(ValueError, match="attention must be 'heads' or 'values'"):
        compress(made(), draws(20), widths=0.5, attention="keys")
