"""Coupled channels: gates, streams, depthwise kernels, concatenations; small networks whose channels come in pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathnorm.deep import compress
from pathnorm.deep.cost import macs_cost, params_cost
from pathnorm.deep.coupling import NO_NEURON, Unions, joined
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.moments import Moments, Others, accumulate
from pathnorm.deep.surgery import cut


class Stream(nn.Module):
    """Two residual blocks on a stream that a strided block replaces; width scales with ``k``."""

    def __init__(self, k=1):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 4 * k, 3, padding=1, bias=False), nn.BatchNorm2d(4 * k)
        self.a1, self.a2 = nn.Conv2d(4 * k, 5 * k, 3, padding=1), nn.Conv2d(5 * k, 4 * k, 3, padding=1, bias=False)
        self.abn = nn.BatchNorm2d(4 * k)
        self.b1, self.b2 = nn.Conv2d(4 * k, 6 * k, 3, 2, 1), nn.Conv2d(6 * k, 6 * k, 3, padding=1)
        self.short = nn.Conv2d(4 * k, 6 * k, 1, 2)
        self.head = nn.Linear(6 * k, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.abn(self.a2(F.relu(self.a1(x)))))
        x = F.relu(self.b2(F.relu(self.b1(x))) + self.short(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, squeeze-excite, projection."""

    def __init__(self, k=1):
        super().__init__()
        wide = 6 * k
        self.expand, self.bn1 = nn.Conv2d(2, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depth, self.bn2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.BatchNorm2d(wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Conv2d(wide, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = F.silu(self.bn2(self.depth(F.silu(self.bn1(self.expand(x))))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(F.relu(self.project(x)).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all before it, through a BatchNorm over the concatenation."""

    def __init__(self, k=1):
        super().__init__()
        self.stem = nn.Conv2d(2, 4 * k, 3, padding=1)
        self.bn1, self.one = nn.BatchNorm2d(4 * k), nn.Conv2d(4 * k, 3 * k, 3, padding=1)
        self.bn2, self.two = nn.BatchNorm2d(7 * k), nn.Conv2d(7 * k, 3 * k, 3, padding=1)
        self.head = nn.Linear(10 * k, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.one(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.two(F.relu(self.bn2(x)))], 1)
        return self.head(F.relu(x).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, k=1):
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4 * k, 3, padding=1), nn.Conv2d(4 * k, 6 * k, 3, padding=1)
        self.up, self.join, self.out = nn.Conv2d(6 * k, 4 * k, 1), nn.Conv2d(8 * k, 3 * k, 1), nn.Conv2d(3 * k, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        deep = F.relu(self.deep(F.max_pool2d(skip, 2)))
        up = F.interpolate(F.relu(self.up(deep)), scale_factor=2.0)
        return self.out(F.relu(self.join(torch.cat([skip, up], 1))))


class Gated(nn.Module):
    """SwiGLU with two layers, and with one that is split in two, between LayerNorms; a scale per channel."""

    def __init__(self, k=1):
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(4, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 5 * k), nn.Linear(8, 5 * k), nn.Linear(5 * k, 8)
        self.both, self.back = nn.Linear(8, 12 * k), nn.Linear(6 * k, 8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6).repeat_interleave(k))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        gate, up = self.both(self.norm2(x)).chunk(2, -1)
        return self.head((x + self.back(F.gelu(gate) * up * self.scale)).mean(1))


class Signal(nn.Module):
    def __init__(self, k=1):
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 5 * k, 5, padding=2), nn.Conv1d(5 * k, 6 * k, 3, 2, 1, dilation=1)
        self.head = nn.Linear(6 * k, 3)

    def forward(self, x):
        return self.head(F.relu(self.two(F.relu(self.one(x)))).mean(2))


SHAPES = {Stream: (2, 8, 8), Mobile: (2, 6, 6), Dense: (2, 6, 6), UNet: (2, 8, 8), Gated: (7, 4), Signal: (2, 24)}


def made(kind, k=1, seed=0):
    """A network with statistics of BatchNorms that are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(k)
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_()
            elif "var" in name or ("bn" in name and name.endswith("weight")):
                tensor.uniform_(0.5, 2.0)
    return model.eval()


def draws(kind, n, seed=1):
    return torch.randn((n, *SHAPES[kind]), generator=torch.Generator().manual_seed(seed))


def paired(kind):
    """A network twice as wide that computes the same function: every channel that may be removed is there twice."""
    small, large = made(kind), made(kind, 2, seed=3)
    state = large.state_dict()
    for key, value in small.state_dict().items():
        for dim in range(min(value.ndim, 2)):
            factor = state[key].shape[dim] // value.shape[dim]
            value = value.repeat_interleave(factor, dim)
            if dim == 1:
                value = value / factor
        state[key] = value
    large.load_state_dict(state)
    return small, large


def found(model, data, coupling="streams"):
    return find_neurons(trace(model, data), state_of(model), data, coupling=coupling)


# ------------------------------------------------------------------------------ what belongs together


def members(group):
    return (
        {producer.layer.name for producer in group.producers},
        {rows.key for rows in group.tied},
        {consumer.layer.name for consumer in group.consumers},
    )


def test_a_stream_has_all_that_write_into_it_and_all_that_read_it():
    groups = {group.name: members(group) for group in found(made(Stream), draws(Stream, 2)).groups}
    assert groups["stem"] == ({"stem", "a2"}, set(), {"a1", "b1", "short"})
    assert groups["b2"] == ({"b2", "short"}, set(), {"head"})
    assert set(groups) == {"stem", "a1", "b1", "b2"}
    interior = found(made(Stream), draws(Stream, 2), "interior")
    assert {group.name for group in interior.groups} == {"a1", "b1"}
    assert all("residual stream" in item.reason for item in interior.skipped if item.name in {"stem", "a2", "b2"})


def test_an_inverted_bottleneck_is_one_group_with_its_depthwise_kernels_and_its_gate():
    groups = {group.name: group for group in found(made(Mobile), draws(Mobile, 2), "interior").groups}
    producers, tied, consumers = members(groups["expand"])
    assert producers == {"expand", "excite"} and consumers == {"squeeze", "project"}
    assert tied == {"depth.weight", "depth.bias", *(f"bn2.{key}" for key in NORM)}
    assert groups["expand"].coupled and not groups["squeeze"].coupled
    assert groups["expand"].theorem() == (False, "the neurons are coupled with those of other layers")


NORM = ("weight", "bias", "running_mean", "running_var")


def test_readers_of_concatenations_know_whose_channels_are_whose():
    groups = {group.name: group for group in found(made(Dense), draws(Dense, 2), "interior").groups}
    assert members(groups["stem"])[2] == {"one", "two", "head"} and members(groups["two"])[2] == {"head"}
    head = {name: next(c for c in group.consumers if c.layer.name == "head") for name, group in groups.items()}
    nothing = NO_NEURON
    assert head["stem"].neurons.tolist() == [0, 1, 2, 3] + [nothing] * 6
    assert head["one"].neurons.tolist() == [nothing] * 4 + [0, 1, 2] + [nothing] * 3
    tied = {rows.key: rows.neurons.tolist() for rows in groups["one"].tied}
    assert tied["bn2.running_var"] == [nothing] * 4 + [0, 1, 2]


def test_a_gate_made_of_one_layer_pairs_its_halves():
    groups = {group.name: group for group in found(made(Gated), draws(Gated, 2), "interior").groups}
    assert members(groups["gate"]) == ({"gate", "up"}, set(), {"down"})
    both = groups["both"]
    assert both.width == 6 and both.producers[0].neurons.tolist() == [*range(6), *range(6)]
    assert members(both)[1] == {"scale"}
    with pytest.raises(AssertionError):  # without coupling none of them is a group
        assert found(made(Gated), draws(Gated, 2), "none").groups


def bodies():
    def padded(self, x):
        return self.c(F.relu(F.pad(self.a(x), (0, 2)) + self.b(x)))

    def normed(self, x):
        return self.c(self.b(x).softmax(-1))

    def half(self, x):
        first, second = self.b(x).split([3, 5], 1)
        return self.c(torch.cat([second, first + self.d(x)], 1))

    def shared(self, x):
        return self.c(self.b(x) * self.scale) + (self.d(x) * self.scale[:3])

    return {
        "padded": (padded, "residual stream"),
        "normed": (normed, "softmax over channels"),
        "half": (half, "in part only"),
        "shared": (shared, "more than once"),
    }


@pytest.mark.parametrize("body", bodies())
def test_what_cannot_be_cut_is_refused_by_name(body):
    forward, reason = bodies()[body]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.rand(8))

        def forward(self, x):
            return forward(self, x)

    neurons = found(Net(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert not [group for group in neurons.groups if group.name == "b"]
    assert reason in {item.name: item.reason for item in neurons.skipped}["b"]


# ------------------------------------------------------------------------------ bookkeeping


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_representatives_are_the_smallest_of_their_set(pairs):
    unions = Unions()
    for one, two in pairs:
        assert unions.join(torch.tensor([one]), torch.tensor([two]))
    sets = [{label} for label in range(12)]
    for one, two in pairs:
        first, second = (next(s for s in sets if label in s) for label in (one, two))
        if first is not second:
            sets.remove(second)
            first |= second
    expected = [min(next(s for s in sets if label in s)) for label in range(12)]
    assert unions.representatives(12).tolist() == expected
    homes = joined([torch.tensor([one, two]) for one, two in pairs])
    for (a, (one, _)), (b, (two, _)) in itertools.combinations(enumerate(pairs), 2):
        assert (homes[a] == homes[b]) == (expected[one] == expected[two])


def test_a_neuron_does_not_meet_what_is_none():
    assert not Unions().join(torch.tensor([0, 1]), torch.tensor([2, NO_NEURON]))
    assert Unions().join(torch.tensor([0, NO_NEURON]), torch.tensor([2, NO_NEURON]))


def test_moments_beside_others_are_those_of_what_these_leave():
    rows = torch.Generator().manual_seed(0)
    model, example = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2)), torch.ones(2, 7)
    layer = next(iter(find_neurons(trace(model, example), state_of(model), example).labels.layers.values()))
    features, targets = torch.randn(50, 7, generator=rows), torch.randn(50, 3, generator=rows)
    own = torch.tensor([True, False, True, True, False, False, True])
    coef = torch.randn(3, 3, generator=rows, dtype=torch.float64)
    got, left = (Moments.zeros(4, 3, torch.device("cpu")) for _ in range(2))
    left.add(features[:, own], targets.double() - features[:, ~own].double() @ coef)
    accumulate(got, layer, features, targets, others=Others(own, coef))
    for name in ("count", "features", "targets", "gram", "cross", "outer"):
        torch.testing.assert_close(getattr(got, name), getattr(left, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
def test_costs_are_those_of_the_network_that_is_cut(kind):
    model, data = made(kind, 2), draws(kind, 2)
    graph, neurons = trace(model, data), found(model, data)
    widths = [1 + index % 3 for index in range(len(neurons.groups))]
    keep = {g.name: torch.arange(width) * 2 for g, width in zip(neurons.groups, widths, strict=True)}
    small = cut(model, state_of(model), neurons.groups, keep)
    assert small(data).shape == model(data).shape
    assert params_cost(model, neurons.groups)(widths) == sum(p.numel() for p in small.parameters())
    after = find_neurons(trace(small, data), state_of(small), data).labels
    assert macs_cost(graph, neurons.labels, neurons.groups)(widths) == macs_cost(trace(small, data), after, ())([])


# ------------------------------------------------------------------------------ compression


@pytest.mark.parametrize("kind", SHAPES)
def test_of_channels_that_come_in_pairs_one_is_enough(kind):
    small, large = paired(kind)
    data = draws(kind, 80)
    torch.testing.assert_close(large(data), small(data), rtol=1e-4, atol=1e-4)
    skip = {Mobile: ["squeeze", "project"], Gated: ["embed", "down", "back"]}.get(kind, [])  # not doubled
    done = compress(large, data, widths=0.5, streams=True, max_positions=None, skip=skip)
    assert [group.width_after for group in done.record.groups] == [g.width_before // 2 for g in done.record.groups]
    assert done.record.output_error_heldout < 0.02
    assert sum(p.numel() for p in done.model.parameters()) == sum(p.numel() for p in small.parameters())


def test_streams_are_left_alone_unless_asked_for():
    model, data = made(Stream), draws(Stream, 60)
    done = compress(model, data, widths=0.5)
    assert {group.name for group in done.record.groups} == {"a1", "b1"}
    assert done.model.stem.out_channels == model.stem.out_channels


def test_a_depthwise_layer_states_its_new_width():
    done = compress(made(Mobile, 2), draws(Mobile, 60), widths={"expand": 6})
    depth = done.model.depth
    assert (depth.in_channels, depth.out_channels, depth.groups) == (6, 6, 6)
