from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pathnorm.deep.graph import clean_copy, state_of, trace
from pathnorm.errors import TraceError, UnsupportedModelError

KINDS = ("chain", "residual", "branching", "mlp")


@pytest.mark.parametrize("kind", KINDS)
def test_graph_computes_the_model_for_any_batch_size(kind, build, sample):
    model = build(kind)
    graph = trace(model, sample(kind, 2))
    for n in (1, 3, 7):
        batch = sample(kind, n, seed=n)
        with torch.no_grad():
            torch.testing.assert_close(graph.outputs(state_of(model), batch), model(batch))


def test_run_can_stop_and_go_on(build, sample):
    model, batch = build("residual"), sample("residual", 3)
    graph, state = trace(model, sample("residual", 2)), state_of(model)
    for cut in range(0, len(graph.nodes), 7):
        with torch.no_grad():
            values = graph.run(state, graph.start(batch), span=(0, cut))
            node = graph.output_node
            rest = graph.run(state, values, span=(cut, len(graph.nodes)), keep=(node,))
        assert torch.equal(rest[node], graph.outputs(state, batch))


def test_run_does_not_write_to_the_values_it_starts_from(build, sample):
    model, batch = build("chain"), sample("chain", 3)
    graph, state = trace(model, sample("chain", 2)), state_of(model)
    values = graph.run(state, graph.start(batch), span=(0, 20))
    copies = {node: value.clone() for node, value in values.items() if isinstance(value, torch.Tensor)}
    graph.run(state, values, span=(20, len(graph.nodes)))
    assert all(torch.equal(values[node], copy) for node, copy in copies.items())


def test_clean_copy_drops_hooks_and_leaves_the_model_alone(build, sample):
    model = build("mlp").train()
    seen = []
    model[0].register_forward_hook(lambda *args: seen.append(1))
    twin = clean_copy(model)
    twin(sample("mlp", 2))
    assert not seen and model.training and not twin.training
    model(sample("mlp", 2))
    assert seen


def test_data_dependent_control_flow_is_refused_with_its_place(sample):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    with pytest.raises(TraceError, match=r"torch\.export must be able to trace.*test_graph\.py"):
        trace(Fickle(), sample("mlp", 2))


def test_wrong_input_shape_is_reported_before_tracing(build, sample):
    with pytest.raises(TraceError, match=r"shape \(2, 2, 8, 8\)"):
        trace(build("mlp"), sample("chain", 2))


def test_a_model_that_returns_several_tensors_is_refused(sample):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(x), x

    with pytest.raises(TraceError, match="one tensor, got tuple"):
        trace(Two(), sample("mlp", 2))


def test_hooks_are_no_part_of_the_function_that_is_traced(build, sample):
    model = build("mlp")
    with torch.no_grad():
        plain = model(sample("mlp", 2))
        model[0].register_forward_hook(lambda module, args, output: output * 2)
        graph = trace(model, sample("mlp", 2))
        torch.testing.assert_close(graph.outputs(state_of(model), sample("mlp", 2)), plain)
        assert not torch.allclose(model(sample("mlp", 2)), plain)


def test_a_slice_of_a_table_is_an_example(build):
    """Rows that do not lie next to each other in memory: the last column was cut off."""
    table = torch.randn(8, 7)
    graph = trace(build("mlp"), table[:2, :6])
    model = build("mlp")
    with torch.no_grad():
        torch.testing.assert_close(graph.outputs(state_of(model), table[:, :6]), model(table[:, :6]))


class Keeps(nn.Module):
    """Keeps what it has computed once, as some networks do with their tables of positions."""

    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Linear(6, 4), {}

    def forward(self, x):
        return self.layer(x) + self.kept.setdefault("sum", self.layer.weight.sum())


def test_tensors_that_are_computed_from_others_are_named():
    masked = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for index in (0, 2):
        prune.l1_unstructured(masked[index], "weight", amount=0.5)
    with pytest.raises(UnsupportedModelError, match=r"Computed from others: 0\.weight, 2\.weight\. .*prune\.remove"):
        clean_copy(masked)
    for index in (0, 2):
        prune.remove(masked[index], "weight")
    assert torch.equal(clean_copy(masked)(torch.ones(2, 6)), masked(torch.ones(2, 6)))
    keeps = Keeps()
    assert clean_copy(keeps) is not keeps
    keeps(torch.ones(2, 6))
    with pytest.raises(UnsupportedModelError, match=r"Computed from others: kept\. "):
        trace(keeps, torch.ones(2, 6))


def test_checks_of_a_dtype_are_no_operations():
    class Cast(nn.Module):
        def forward(self, x):
            return x.to(torch.float32).softmax(1, dtype=torch.float32).to(x.dtype)

    x = torch.rand(2, 6)
    graph = trace(Cast(), x)
    assert not any("assert" in node.name for node in graph.nodes)
    assert torch.equal(graph.outputs({}, x), x.softmax(1))
