from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons


def neurons(model, example, **kwargs):
    return find_neurons(trace(model, example), state_of(model), example, **kwargs)


def reasons(found):
    return {item.name: item.reason for item in found.skipped}


def test_chain_has_a_group_per_interior_layer(build, sample):
    found = neurons(build("chain"), sample("chain", 2))
    assert [group.name for group in found.groups] == ["conv1", "conv2", "fc1"]
    conv1, conv2, fc1 = found.groups
    assert conv1.norm.name == "bn1" and conv2.norm is None
    assert conv1.consumers[0].layer.name == "conv2"
    assert reasons(found) == {"fc2": "these are the model's outputs"}
    # flatten after pooling to 2 x 2: four features per channel, channel-major
    assert conv2.consumers[0].neurons.tolist() == [k for k in range(12) for _ in range(4)]
    assert fc1.theorem()[0] is False and "gelu is not homogeneous" in fc1.theorem()[1]
    assert conv2.theorem()[0] is True


def test_residual_interiors_are_groups_and_streams_are_left_alone(build, sample):
    found = neurons(build("residual"), sample("residual", 2))
    assert [group.name for group in found.groups] == ["blocks.0.conv1", "blocks.1.conv1"]
    for group in found.groups:
        (consumer,) = group.consumers
        assert consumer.site.norm.name.endswith("bn2") and consumer.site.node.name.startswith("add")
    assert set(reasons(found)) == {"stem", "blocks.0.conv2", "blocks.1.conv2", "head"}
    assert "residual stream" in reasons(found)["stem"]


def test_labels_follow_permute_and_two_readers(build, sample):
    (group,) = neurons(build("branching"), sample("branching", 2)).groups
    left, right = group.consumers
    assert left.layer.name == "left" and right.layer.name == "right"
    assert right.neurons.tolist() == list(range(8)) * 16  # channels last


@pytest.mark.parametrize(
    "op", [lambda h: h.reshape(h.shape[0], -1, 1).squeeze(2), lambda h: h.unflatten(1, (4, 5)).flatten(1)]
)
def test_data_movement_needs_no_rule(op, sample):
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 3)

        def forward(self, x):
            return self.b(op(F.relu(self.a(x))))

    (group,) = neurons(Moved(), sample("mlp", 2)).groups
    assert group.consumers[0].neurons.tolist() == list(range(20))


def forward_with(body):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.scale = nn.Parameter(torch.rand(8))

        def forward(self, x):
            return body(self, x)

    return Net()


@pytest.mark.parametrize(
    ("body", "name", "reason"),
    [
        (lambda m, x: m.c(F.softmax(m.a(x), -1)), "a", "operation softmax is not understood"),
        (lambda m, x: m.c(F.relu(m.a(x)) * m.scale), "a", "couples them with the tensor"),
        (lambda m, x: m.c(F.relu(m.b(F.relu(m.b(F.pad(x, (0, 2))))))), "b", "used more than once"),
        (
            lambda m, x: m.c(torch.cat([F.relu(m.a(x))[:, :4], x[:, :4]], 1)),
            "a",
            "operation cat is not understood",
        ),
        (lambda m, x: m.c(F.relu(m.a(x)).cumsum(1)), "a", "operation cumsum is not understood"),
        (lambda m, x: m.c(F.relu(m.a(x)) + F.relu(m.b(F.pad(x, (0, 2))))), "a", "residual stream"),
    ],
)
def test_what_is_not_understood_is_left_alone_by_name(body, name, reason, sample):
    found = neurons(forward_with(body), sample("mlp", 2))
    refused = {**reasons(found)}
    assert name not in [group.name for group in found.groups]
    assert name not in refused or reason in refused[name]
    if reason != "used more than once":
        assert reason in refused[name]


@pytest.mark.parametrize(
    "reduce",
    [
        lambda h: h.norm(dim=(2, 3)),
        lambda h: torch.linalg.vector_norm(h, dim=(2, 3)),
        lambda h: h.var((2, 3)),
        lambda h: h.std(dim=(2, 3)),
        lambda h: h.logsumexp((2, 3)),
        lambda h: h.amax(dim=(2, 3)),
    ],
)
def test_what_is_said_of_each_channel_over_its_places_belongs_to_it(reduce):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 5, 1), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(reduce(self.a(x)))

    model, images = Net(), torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    (group,) = neurons(model, images).groups
    assert group.name == "a" and group.consumers[0].neurons.tolist() == list(range(5))


@pytest.mark.parametrize(("reduce", "applies"), [(torch.amax, True), (torch.std, True), (torch.var, False)])
def test_the_theorem_needs_reductions_that_are_homogeneous(reduce, applies):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 5, 1), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(reduce(torch.relu(self.a(x)), dim=(2, 3)))

    (group,) = neurons(Net(), torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))).groups
    said, why = group.theorem()
    assert said is applies and (applies or why == "var is not homogeneous")


def test_gating_by_itself_is_entrywise(sample):
    (group,) = neurons(forward_with(lambda m, x: m.c((h := m.a(x)) * torch.sigmoid(h))), sample("mlp", 2)).groups
    assert group.name == "a"


def test_skip_leaves_a_group_alone_and_checks_the_name(build, sample):
    found = neurons(build("mlp"), sample("mlp", 2), skip=["0"])
    assert [group.name for group in found.groups] == ["2"]
    assert reasons(found)["0"] == "listed in skip"
    with pytest.raises(ValueError, match="Unknown: nothing"):
        neurons(build("mlp"), sample("mlp", 2), skip=["nothing"])


def test_grouped_convolution_is_named(sample):
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    found = neurons(model, sample("chain", 2))
    assert not found.groups
    assert "grouped convolution" in reasons(found)["0"]
