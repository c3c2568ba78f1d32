"""One width for the same layer of all blocks, and models that are built from a configuration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress, frontier
from pathnorm.deep.allocate import allocate, allocate_error
from pathnorm.deep.cost import Cost
from pathnorm.deep.uniform import same_places, spread


class Config:
    """What configurations of transformers offer, as far as it is needed."""

    def __init__(self, hidden_size=12, intermediate_size=10, num_attention_heads=3, num_key_value_heads=3, head_dim=4):
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_attention_heads, self.num_key_value_heads = num_attention_heads, num_key_value_heads
        if head_dim is not None:
            self.head_dim = head_dim

    def to_dict(self):
        return dict(vars(self))

    def save_pretrained(self, folder):
        raise NotImplementedError


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, self.head_dim = (
            config.hidden_size,
            getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
        )
        self.q_proj = nn.Linear(d, config.num_attention_heads * self.head_dim)
        self.k_proj, self.v_proj = (nn.Linear(d, config.num_key_value_heads * self.head_dim) for _ in range(2))
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, d)
        self.up, self.down = nn.Linear(d, config.intermediate_size), nn.Linear(config.intermediate_size, d)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (
            layer(x).view(n, length, -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + self.o_proj(y.transpose(1, 2).reshape(n, length, -1))
        return x + self.down(F.gelu(self.up(x)))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(3))
        self.head = nn.Linear(config.hidden_size, 2)

    def save_pretrained(self, folder):
        raise NotImplementedError

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def made(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(Config(**options)).eval()


def draws(n=160):
    return torch.randn(n, 4, 12, generator=torch.Generator().manual_seed(1))


def widths_of(record):
    return [(group.name, group.width_before, group.width_after) for group in record.groups]


# ------------------------------------------------------------------------------ allocation


def brute(curves, cost, budget, ties):
    best = (np.inf, ())
    for common in itertools.product(*(range(1, curves[members[0]].size) for members in ties)):
        widths = spread(np.array(common), ties)
        if cost(widths) <= budget:
            best = min(best, (sum(float(c[k]) for c, k in zip(curves, widths, strict=True)), tuple(widths)))
    return best


def test_tied_widths_are_those_of_the_best_common_ones():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Convex curves and a linear cost of equal slopes: there the greedy order is optimal.
        curves = [np.append(np.cumsum(np.sort(rng.exponential(size=5)))[::-1], 0.0) for _ in range(4)]
        ties = ((0, 2), (1, 3))
        nothing = np.full(4, 4)
        cost = Cost(np.ones(4), np.arange(4), nothing)
        budget = 2 * int(rng.integers(2, 10))
        got = allocate(curves, cost, budget, ties=ties)
        assert got[0] == got[2] and got[1] == got[3] and cost(got) <= budget
        assert sum(float(c[k]) for c, k in zip(curves, got, strict=True)) == pytest.approx(
            brute(curves, cost, budget, ties)[0]
        )
        limit = float(sum(c[2] for c in curves))
        few = allocate_error(curves, cost, limit, ties=ties)
        assert few[0] == few[2] and sum(float(c[k]) for c, k in zip(curves, few, strict=True)) <= limit


def test_a_tie_of_one_changes_nothing():
    rng = np.random.default_rng(1)
    curves = [np.append(np.sort(rng.exponential(size=6))[::-1], 0.0) for _ in range(3)]
    cost = Cost(np.array([1.0, 2.0, 1.0]), np.array([0, 0, 1]), np.array([3, 1, 2]))
    alone = ((0,), (1,), (2,))
    for budget in (8.0, 20.0, 50.0):
        assert np.array_equal(allocate(curves, cost, budget), allocate(curves, cost, budget, ties=alone))


# ------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("budget", [{"params": 0.7}, {"macs": 0.6}, {"error": 0.3}, {"widths": 0.5}])
def test_blocks_become_equally_wide_and_the_configuration_says_so(budget):
    given = made()
    compression = compress(given, draws(), uniform=True, **budget)
    after = {name.split(".")[2]: set() for name, _, _ in widths_of(compression.record)}
    assert set(after) == {"q_proj", "up"}
    for name, _, width in widths_of(compression.record):
        after[name.split(".")[2]].add(width)
    assert all(len(widths) == 1 for widths in after.values())
    config = compression.model.config
    assert config.num_attention_heads == config.num_key_value_heads == after["q_proj"].pop()
    assert config.intermediate_size == after["up"].pop()
    again = Model(config)
    again.load_state_dict(compression.model.state_dict())
    torch.testing.assert_close(again(draws(3)), compression.model(draws(3)))
    assert given.config.to_dict() == Config().to_dict(), "the given model's configuration is its own"


def test_redundant_neurons_of_one_block_do_not_make_it_narrower():
    model = made()
    with torch.no_grad():
        model.blocks[1].down.weight[:, :6] = 0.0
    compression = compress(model, draws(), widths=0.8, uniform=True)
    assert {width for name, _, width in widths_of(compression.record) if name.endswith("up")} == {8}


def test_what_the_configuration_cannot_state_is_left_alone_and_named():
    compression = compress(made(head_dim=None), draws(), widths=0.6, uniform=True)
    assert {name.split(".")[2] for name, _, _ in widths_of(compression.record)} == {"up"}
    reasons = {item.name: item.reason for item in compression.record.skipped}
    assert "configuration cannot state" in reasons["blocks.0.q_proj"]
    assert compression.model.config.num_attention_heads == 3
    # Without uniform, heads go as well, and blocks may differ.
    free = compress(made(head_dim=None), draws(), widths={"blocks.0.q_proj": 2, "blocks.1.up": 5})
    assert free.model.blocks[0].q_proj.out_features == 8
    assert free.model.config.to_dict() == Config(head_dim=None).to_dict(), "unequal blocks have no configuration"


def test_unequal_widths_are_refused():
    with pytest.raises(ValueError, match=r"uniform=True, widths must be the same in every block"):
        compress(made(), draws(), widths={"blocks.0.up": 5}, uniform=True)


def test_points_of_a_uniform_frontier_are_uniform():
    found = frontier(made(), draws(), points=4, uniform=True)
    for point in (*found.points, found.at(params=0.7), found.at(error=0.5)):
        assert len({width for name, width in point.widths.items() if name.endswith("up")}) == 1
    point = found.at(macs=0.7)
    again = found.compress(point)
    assert {name: width for name, _, width in widths_of(again.record)} == point.widths


def test_places_are_names_without_numbers():
    class Named:
        def __init__(self, name, width):
            self.name, self.width = name, width

    groups = [Named("a.0.up", 4), Named("a.0.q", 4), Named("a.1.up", 4), Named("a.2.up", 5), Named("a.10.q", 4)]
    assert same_places(groups) == ((0, 2), (1, 4), (3,))


# ------------------------------------------------------------------------------ models of transformers


def hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is optional and is not installed")
    ids = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 50}
    small = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "gpt2": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=4, **ids),
            {"attn.c_attn"},
        ),
        "llama": (
            transformers.LlamaForCausalLM,
            transformers.LlamaConfig(num_key_value_heads=2, max_position_embeddings=16, **small, **ids),
            set(),
        ),
        "bert": (
            transformers.BertForSequenceClassification,
            transformers.BertConfig(max_position_embeddings=16, **small, **ids),
            {"self.query", "pooler.dense"},
        ),
    }


@pytest.mark.usefixtures("torchvision_operators")
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_models_of_transformers_load_by_their_own_from_pretrained(name, tmp_path):
    kind, config, left_alone = hugging_face()[name]

    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids).logits

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Logits(kind(config)).eval()
    ids = torch.randint(1, 50, (200, 8), generator=torch.Generator().manual_seed(1))
    compression = compress(model, ids, widths=0.5, uniform=True)
    compression.model.model.save_pretrained(tmp_path)
    again = Logits(kind.from_pretrained(tmp_path)).eval()
    torch.testing.assert_close(again(ids[:3]), compression.model(ids[:3]))
    refused = {item.name for item in compression.record.skipped if "configuration" in item.reason}
    assert {".".join(path.split(".")[-2:]) for path in refused} == left_alone
    if name == "gpt2":  # heads go where nothing has to be stated
        free = compress(model, ids, widths={"model.transformer.h.0.attn.c_attn": 3})
        attention = free.model.model.transformer.h[0].attn
        assert (attention.num_heads, attention.split_size, attention.c_attn.nf) == (3, 12, 36)
