from __future__ import annotations

import numpy as np
import pytest
import torch

from pathnorm.deep import compress
from pathnorm.deep.data import split_batches
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.replay import Replay
from pathnorm.deep.sequential import collect, layer_error, layer_state, write_group
from pathnorm.deep.slide import readouts, slide, start_of
from pathnorm.deep.surgery import cut


@pytest.mark.parametrize("kind", ["chain", "residual", "mlp"])
def test_sliding_lowers_the_layers_error_and_moves_kept_neurons_only(kind, build, sample):
    model, data = build(kind), sample(kind, 256)
    graph, state = trace(model, data[:2]), state_of(model)
    group = find_neurons(graph, state, data[:2]).groups[0]
    batches, _ = split_batches(data, heldout=0.1, batch_size=64, seed=0, device=torch.device("cpu"))
    replay, current = Replay(graph, state, batches, cache_bytes=10**8), dict(state)
    sums = collect(replay, current, group.consumers, max_positions=None, seed=0, cut=start_of(graph, group))
    layer = layer_state(group, sums, state)
    keep = torch.tensor([1, 3, 4])
    write_group(layer, layer.problem.refit(keep.numpy()).coef, current, state)
    refitted = dict(current)
    plain = Replay(graph, state, batches, cache_bytes=0)
    before = layer_error(plain, current, group)
    assert slide(replay, group, keep, current, steps=60)
    after = layer_error(Replay(graph, state, batches, cache_bytes=0), current, group)
    assert after < before or readouts(graph, group)[0] is not group.consumers[0].site.node
    gone = sorted(set(range(group.width)) - set(keep.tolist()))
    assert torch.equal(current[group.producer.weight][gone], state[group.producer.weight][gone])
    assert not torch.equal(current[group.producer.weight][keep], state[group.producer.weight][keep])
    for consumer in group.consumers:
        removed = torch.isin(consumer.neurons, torch.tensor(gone))
        assert not current[consumer.layer.weight][:, removed].any()
    untouched = set(state) - {key for key in current if current[key] is not refitted[key]}
    assert all(current[key] is refitted[key] for key in untouched)
    small = cut(model, current, [group], {group.name: keep})
    with torch.no_grad():
        torch.testing.assert_close(small(data[:9]), graph.outputs(current, data[:9]), rtol=1e-3, atol=1e-4)


def test_a_compressed_network_is_closer_with_sliding(build, sample):
    model, data = build("residual"), sample("residual", 400)
    plain = compress(model, data, widths=0.4, batch_size=64).record
    slid = compress(model, data, widths=0.4, batch_size=64, slide=80).record
    assert slid.output_error_heldout < plain.output_error_heldout
    assert all(group.slid for group in slid.groups) and not any(group.slid for group in plain.groups)
    assert slid.slide_steps == 80
    assert np.isfinite([group.path_norm_after for group in slid.groups]).all()


def test_sliding_is_reproducible_and_leaves_the_random_state_alone(build, sample):
    drawn = torch.get_rng_state()
    one, two = (compress(build("mlp"), sample("mlp", 300), widths=0.5, slide=20).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_graph_that_states_its_widths_is_left_as_refitted(build, sample):
    """``flatten`` between convolution and linear layer is written with its width: no sliding, no harm."""
    made = compress(build("branching"), sample("branching", 300), widths=0.5, slide=20)
    assert not made.record.groups[0].slid


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6])
def test_a_few_steps_are_enough(steps, build, sample):
    compression = compress(build("mlp"), sample("mlp", 200), widths=0.5, slide=steps)
    assert compression.record.slide_steps == steps
    assert np.isfinite(compression.record.output_error_heldout)
