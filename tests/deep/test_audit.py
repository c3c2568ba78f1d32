"""The audit against brute force on small layers, and what it must survive."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathnorm.deep import audit, balance, path_norm, trace
from pathnorm.deep.data import all_batches
from pathnorm.deep.graph import state_of
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.layer_grams import input_grams, layer_gram
from pathnorm.deep.layer_optimum import path_norm_range
from pathnorm.errors import DataError
from pathnorm.problems.reconstruction import LayerReconstruction

CPU = torch.device("cpu")


def plain(*widths, seed=0):
    """A ReLU network of linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            part for before, after in itertools.pairwise(widths) for part in (nn.Linear(before, after), nn.ReLU())
        ]
    return nn.Sequential(*layers[:-1]).eval()


def draws(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Counted(Sequence):
    """A list of batches that knows how often each was read."""

    def __init__(self, batches):
        self.batches, self.reads = list(batches), [0] * len(batches)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.batches[index]


# ------------------------------------------------------------------------------ neurons


def test_dead_and_duplicate_neurons_are_counted_by_what_is_known_of_them():
    model, data = plain(6, 20, 4), draws(300, 6)
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, 0.0  # zero for every input
        model[2].weight[:, 1] = 0.0  # not read
        model[0].bias[2] = -1e3  # zero on these data
        model[0].weight[4], model[0].bias[4] = 2.0 * model[0].weight[3], 2.0 * model[0].bias[3]
        # Equal on these data only: they differ where the last input is not zero.
        model[0].weight[6], model[0].bias[6] = model[0].weight[5], model[0].bias[5]
        model[0].weight[6, 5] += 1.0
    data[:, 5] = 0.0
    record = audit(model, data, attack_samples=0)
    (group,) = record.groups
    assert (group.width, group.active, group.dead_proved, group.dead_measured) == (20, 17, 2, 1)
    assert (group.duplicates_proved, group.duplicates_measured) == (1, 2)
    assert (record.neurons, record.active, record.dead_proved, record.duplicates_proved) == (20, 17, 2, 1)
    assert record.lipschitz_lower is None and record.lipschitz_upper is not None
    text = " ".join(finding.text for finding in record.summary)
    assert "3 neurons can be removed without any change of the function" in text
    assert "1 neuron was zero on all 300 samples" in text and "1 neuron was proportional" in text


@pytest.mark.parametrize("layer", [0, 2])
def test_a_layer_without_active_neurons_is_an_answer_and_not_an_error(layer):
    model = plain(6, 8, 5, 3)
    with torch.no_grad():
        model[layer].weight.zero_()
        model[layer].bias.zero_()
    record = audit(model, draws(200, 6))
    dead = record.groups[layer // 2]
    assert (dead.active, dead.dead_proved) == (0, dead.width)
    assert (dead.reconstruction.rank_features, dead.reconstruction.subgradient_residual) == (0, 0.0)
    assert [predicted.width for predicted in dead.reconstruction.predicted] == [0, 0]
    assert record.lipschitz_upper == record.lipschitz_lower == 0.0


def test_path_norm_and_balance_are_those_of_the_library_and_sum_up():
    model, data = plain(6, 12, 9, 4), draws(200, 6)
    for biases in (False, True):
        record = audit(model, data, biases=biases, attack_samples=0)
        norms = path_norm(model, data, biases=biases)
        for group in record.groups:
            assert group.path_norm == pytest.approx(norms.groups[group.name], rel=1e-12)
            assert sum(group.masses) == pytest.approx(group.path_norm, rel=1e-12)
        assert record.path_norm == pytest.approx(norms.total, rel=1e-12)
        assert sum(group.path_norm_share for group in record.groups) == pytest.approx(1.0)
    weight = model[0].weight.detach().double().numpy()
    np.testing.assert_allclose(
        record.groups[0].input_singular_values, np.linalg.svd(weight, compute_uv=False), rtol=1e-6
    )
    w = model[0].weight.detach().norm(dim=1) ** 2 + model[0].bias.detach() ** 2
    v = model[2].weight.detach().norm(dim=0) ** 2
    residual = ((w - v) / (w + v)).double().numpy()
    assert record.groups[0].balance[3] == pytest.approx(np.median(residual), abs=1e-6)
    assert record.groups[0].balance_worst == pytest.approx(np.abs(residual).max(), abs=1e-6)
    assert record.groups[0].balance_counts == tuple(np.histogram(residual, 40, (-1.0, 1.0))[0])


def test_behind_a_batch_norm_the_input_weight_is_gamma_for_balance_and_the_kernel_for_the_path_norm(build, sample):
    model, data = build("residual"), sample("residual", 64)
    record = audit(model, data, attack_samples=0)
    block, group = model.blocks[0], record.groups[0]
    assert group.name == "blocks.0.conv1" and not group.theorem_applies
    w = block.bn1.weight.detach().double().square()
    v = block.conv2.weight.detach().double().square().sum((0, 2, 3))
    assert group.balance[3] == pytest.approx(float(((w - v) / (w + v)).quantile(0.5)), abs=1e-6)
    norms = path_norm(model, data).groups
    assert [item.path_norm for item in record.groups] == pytest.approx([norms[item.name] for item in record.groups])


def test_rescaling_neurons_changes_their_balance_and_nothing_else():
    model, data = plain(6, 12, 4), draws(300, 6)
    scaled = copy.deepcopy(model)
    factors = torch.logspace(-1, 1, 12)
    with torch.no_grad():
        scaled[0].weight *= factors[:, None]
        scaled[0].bias *= factors
        scaled[2].weight /= factors
    one, other, balanced = (
        audit(net, data, attack_samples=0).groups[0] for net in (model, scaled, balance(scaled, data))
    )
    assert balanced.balance_worst < 1e-5 < 0.5 < other.balance_worst
    for group in (other, balanced):
        assert group.path_norm == pytest.approx(one.path_norm, rel=1e-5)
        assert group.masses == pytest.approx(one.masses, rel=1e-4) and group.gini == pytest.approx(one.gini, rel=1e-4)
        first, second = one.reconstruction, group.reconstruction
        assert [item.width for item in first.predicted] == [item.width for item in second.predicted]
        assert first.rank_outputs == second.rank_outputs
        assert first.excess_found == pytest.approx(second.excess_found, rel=1e-2)
        assert first.error_curve[:-2] == pytest.approx(second.error_curve[:-2], rel=1e-2)


# ------------------------------------------------------------------------------ Gram matrices


@pytest.mark.parametrize("kind", ["chain", "residual", "branching"])
def test_gram_matrices_are_those_of_the_unfolded_inputs(kind, build, sample):
    model, data = build(kind), sample(kind, 40)
    graph, state = trace(model, data[:2]), state_of(model)
    found = find_neurons(graph, state, data[:2])
    consumers = [consumer for group in found.groups for consumer in group.consumers]
    seen = {}
    modules = dict(model.named_modules())
    handles = [
        modules[consumer.layer.name].register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(id(module), inputs[0].detach().double())
        )
        for consumer in consumers
    ]
    with torch.no_grad():
        model(data)
    for handle in handles:
        handle.remove()
    sums = input_grams(
        graph,
        state,
        data.split(16),
        [(consumer, True) for consumer in consumers],
        shapes=[found.labels.shapes[consumer.layer.node] for consumer in consumers],
        max_positions=None,
        seed=0,
    )
    for consumer, total in zip(consumers, sums, strict=True):
        module = modules[consumer.layer.name]
        inputs = seen[id(module)]
        rows = inputs
        if isinstance(module, nn.Conv2d):
            patches = nn.functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
            rows = patches.transpose(1, 2).flatten(0, 1)
        assert int(total.count) == rows.shape[0]
        torch.testing.assert_close(total.gram, rows.T @ rows, rtol=1e-5, atol=1e-4)
        centred = rows - rows.mean(0)
        torch.testing.assert_close(total.central(intercept=True), centred.T @ centred, rtol=1e-5, atol=1e-3)
        dims = (0, 2, 3) if isinstance(module, nn.Conv2d) else tuple(range(inputs.ndim - 1))
        torch.testing.assert_close(total.reach, inputs.abs().amax(dims), rtol=1e-5, atol=1e-6)
    group = next(group for group in found.groups if kind != "branching" or len(group.consumers) == 2)
    mine = sums[: len(group.consumers)]
    stacked = layer_gram(group, mine, centred=False)
    assert np.trace(stacked) == pytest.approx(sum(float(total.gram.trace()) for total in mine))
    block = stacked.shape[0] // group.width
    first = sum(
        float(
            total.gram.diagonal()[
                torch.from_numpy(
                    np.repeat((consumer.neurons == 0).numpy(), total.gram.shape[0] // consumer.neurons.numel())
                )
            ].sum()
        )
        for consumer, total in zip(group.consumers, mine, strict=True)
    )
    assert np.trace(stacked[:block, :block]) == pytest.approx(first, rel=1e-9)


def test_many_passes_say_the_same_as_one(build, sample):
    model, data = build("chain"), sample("chain", 260)
    one = audit(model, data, attack_samples=0)
    two = audit(model, data, attack_samples=0, max_bytes=8 * 72**2)
    assert one.passes == 1 < two.passes
    assert [group.name for group in two.groups] == [group.name for group in one.groups]
    compared = 0
    for first, second in zip(one.groups, two.groups, strict=True):
        assert (first.active, first.dead_measured) == (second.active, second.dead_measured)
        if second.reconstruction is None:
            assert "max_bytes" in second.missing and second.duplicates_measured is None
        elif first is one.groups[0]:
            assert second.reconstruction == first.reconstruction
            compared += 1
    assert compared
    with_missing = audit(model, data, attack_samples=0, max_bytes=100)
    assert with_missing.passes == 1 and all(group.reconstruction is None for group in with_missing.groups)
    assert "n/a" in str(with_missing) and "more than max_bytes" in str(with_missing)


# ------------------------------------------------------------------------------ outputs


@pytest.fixture(scope="module")
def eight():
    """A layer of eight neurons with the features and outputs that it has on some data."""
    model, data = plain(3, 8, 4, seed=3), draws(200, 3)
    with torch.no_grad():
        features = model[1](model[0](data)).double().numpy()
        # Neurons that matter more and less, so that the widths differ.
        model[2].weight *= torch.tensor([1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.02, 0.005])
    coef = model[2].weight.detach().double().numpy().T
    features = features - features.mean(0)
    return audit(model, data, batch_size=64, attack_samples=4), features, features @ coef, coef


def test_predicted_widths_lie_between_the_best_subset_and_the_bound_below_it(eight):
    record, features, targets, _ = eight
    fact = record.groups[0].reconstruction
    best = [1.0]
    for width in range(1, 9):
        errors = []
        for keep in itertools.combinations(range(8), width):
            phi = features[:, keep]
            fitted = phi @ np.linalg.lstsq(phi, targets, rcond=None)[0]
            errors.append(np.linalg.norm(targets - fitted) / np.linalg.norm(targets))
        best.append(min(errors))
    assert len(fact.error_curve) == 9
    assert all(mine >= other - 1e-5 for mine, other in zip(fact.error_curve, best, strict=True))
    assert fact.error_curve[7] == pytest.approx(best[7], rel=0.03) and fact.error_curve[-1] < 1e-3
    singular = np.linalg.svd(targets, compute_uv=False)
    for item in fact.predicted:
        needed = next(width for width, error in enumerate(best) if error <= item.error)
        assert item.lower_bound <= needed <= item.width <= needed + 2
        tail = [np.sqrt((singular[k:] ** 2).sum() / (singular**2).sum()) for k in range(5)]
        assert item.lower_bound == next(k for k in range(5) if k == 4 or tail[k] <= item.error)
    assert fact.predicted[1].width < fact.predicted[0].width < 8
    ranks = [int((values > 1e-4 * values[0]).sum()) for values in (np.linalg.svd(features, compute_uv=False), singular)]
    assert [fact.rank_features, fact.rank_outputs] == ranks and fact.width_bound == ranks[0] * ranks[1]


def test_the_path_norm_in_excess_brackets_the_optimum(eight):
    record, features, targets, _ = eight
    group = record.groups[0]
    fact = group.reconstruction
    costs = np.array(path_norm_inputs(plain(3, 8, 4, seed=3)))
    needed = smallest_path_norm(features, targets, costs, fact.target_error)
    assert fact.path_norm_lower_bound <= needed * (1 + 1e-4) and needed <= fact.path_norm_found * (1 + 1e-4)
    assert fact.path_norm_found <= fact.path_norm_lower_bound * 1.01
    assert fact.excess_found == pytest.approx(1 - fact.path_norm_found / group.path_norm)
    assert fact.excess_most == pytest.approx(1 - fact.path_norm_lower_bound / group.path_norm)
    assert 0.0 < fact.excess_found <= fact.excess_most < 1.0
    assert record.lipschitz_lower <= record.lipschitz_upper


def path_norm_inputs(model):
    return model[0].weight.detach().double().norm(dim=1).tolist()


def smallest_path_norm(features, targets, costs, error):
    V = cp.Variable((features.shape[1], targets.shape[1]))
    fits = cp.norm(targets - features @ V, "fro") <= error * np.linalg.norm(targets)
    problem = cp.Problem(cp.Minimize(costs @ cp.norm(V, axis=1)), [fits])
    return problem.solve(solver="CLARABEL")


@pytest.mark.parametrize("free", [False, True])
def test_the_range_of_the_path_norm_of_redundant_features_is_tight(free):
    rng = np.random.default_rng(4)
    features = np.maximum(rng.standard_normal((60, 4)) @ rng.standard_normal((4, 12)), 0.0)
    features[:, 7] = 0.5 * features[:, 6]
    coef = rng.standard_normal((12, 3))
    costs = rng.uniform(0.5, 2.0, 12)
    if free:
        costs[[2, 5]] = 0.0
    gram = features.T @ features
    problem = LayerReconstruction(gram, gram @ coef, coef.T @ gram @ coef, 1, costs)
    found = path_norm_range(problem, coef, error=0.05)
    needed = smallest_path_norm(features, features @ coef, costs, 0.05)
    assert found.current == pytest.approx(costs @ np.linalg.norm(coef, axis=1))
    assert found.lower <= needed * (1 + 1e-5) and needed <= found.found * (1 + 1e-5)
    assert found.found - found.lower < 0.01 * needed < 0.1 * found.current


def test_the_subgradient_residual_sees_twins_that_pull_apart():
    data, residuals = draws(300, 4), []
    for apart in (0.0, 1.0):
        model = plain(4, 6, 3, seed=5)
        with torch.no_grad():
            model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
            model[2].weight[:, 1] = 2.0 * model[2].weight[:, 0] + apart * torch.tensor([1.0, -2.0, 0.5])
        residuals.append(audit(model, data, attack_samples=0).groups[0].reconstruction.subgradient_residual)
    assert residuals[0] < 1e-6 < 0.05 < residuals[1]


def test_large_layers_are_ranked_once(monkeypatch, eight):
    monkeypatch.setattr("pathnorm.deep.layer_facts._MOST_UPDATES", 0)
    monkeypatch.setattr("pathnorm.deep.layer_facts._MOST_LASSO_ROWS", 1)
    model = plain(3, 8, 4, seed=3)
    record = audit(model, draws(200, 3), attack_samples=0)
    fact = record.groups[0].reconstruction
    assert fact.ranking == "one-shot" and fact.excess_found is None and "more than 1" in fact.note
    assert fact.error_curve[0] == 1.0 and fact.error_curve[-1] < 1e-3 and len(fact.error_curve) == 9
    assert fact.rank_features == eight[0].groups[0].reconstruction.rank_features
    assert "one-shot in 1 of 1" in str(record)


# ------------------------------------------------------------------------------ any network, any data


def test_a_hundred_layers_take_one_pass_that_reads_every_batch_once():
    model, data = plain(6, *[8] * 99, 4), Counted(draws(5, 24, 6))
    record = audit(model, data, attack_samples=2)
    assert len(record.groups) == 99 and record.passes == 1 and record.samples == 120
    assert data.reads == [1] * 5
    assert max(map(len, str(record).splitlines())) <= 100
    assert record.lipschitz_lower <= record.lipschitz_upper
    # The outputs of a deep random network do not depend on the input, up to rounding, and need no weights.
    last = record.groups[-1].reconstruction
    assert last.rank_features == 0 and last.excess_found == last.excess_most == 1.0 and "constant" in last.note
    assert "nothing of the input gets through" in " ".join(finding.text for finding in record.summary)


def test_a_network_without_groups_is_audited_as_a_whole():
    record = audit(nn.Linear(3, 2), draws(20, 3))
    assert record.groups == () and record.params == 8 and record.macs == 6 and record.neurons == 0
    assert record.lipschitz_lower <= record.lipschitz_upper
    assert record.samples == 20 and record.skipped[0].reason
    assert "none of its layers" in str(record)
    json.loads(record.to_json())


def test_too_few_rows_are_said_and_not_refused(build):
    record = audit(build("mlp"), draws(8, 6), attack_samples=0)
    fact = record.groups[0].reconstruction
    assert not fact.enough_rows and fact.rows == 8 and fact.rank_features <= 7
    assert "fewer rows than there are features" in " ".join(finding.text for finding in record.summary)
    assert "*" in str(record)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        scores = torch.softmax(self.query(x) @ x.transpose(1, 2), -1)
        return self.down(torch.relu(self.up(scores @ x)))


def test_attention_is_not_certifiable_and_gets_no_number():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention().eval()
    record = audit(model, draws(60, 5, 4), attack_samples=2)
    assert record.lipschitz_upper is None and record.lipschitz_reason
    assert record.groups[0].name == "up" and record.groups[0].theorem_applies
    text = str(record)
    assert "not certifiable" in text and record.to_dict()["lipschitz_upper"] is None


def test_the_callers_model_is_untouched_and_labels_are_ignored(build):
    model, data = build("mlp").train(), draws(90, 6)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    words = [(batch, ["label"] * len(batch)) for batch in data.split(30)]
    loader = DataLoader(TensorDataset(data, torch.arange(90)), batch_size=30)
    records = [audit(model, given, batch_size=30, attack_samples=3) for given in (data, words, loader)]
    assert model.training and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(record.groups == records[0].groups and record.samples == 90 for record in records)
    assert all(record.lipschitz_lower == records[0].lipschitz_lower for record in records)


def test_bad_data_and_arguments_are_refused():
    model, data = plain(6, 5, 2), draws(30, 6)
    broken = data.clone()
    broken[25, 0] = float("nan")
    for given, message in (
        (broken, "finite"),
        (data[:1], "at least two samples"),
        (data.to(torch.uint8), "floating point"),
        (iter([data]), "more than once"),
        ([], "more than"),
        ([data[:0]], "not empty"),
    ):
        with pytest.raises(DataError, match=message):
            audit(model, given, batch_size=10)
    with torch.no_grad():
        model[0].weight[0] = 1e38
    with pytest.raises(DataError, match="Activations must be finite"):
        audit(model, 100.0 * data)
    for options in ({"max_positions": 0}, {"batch_size": 0}, {"max_bytes": 0}, {"attack_samples": -1}, {"skip": ["x"]}):
        with pytest.raises(ValueError, match="must"):
            audit(model, data, **options)


def test_all_batches_have_every_sample_in_order():
    data = draws(25, 3)
    batches = all_batches(data, batch_size=10, seed=0, device=CPU)
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert torch.equal(torch.cat(list(batches)), data)
    assert torch.equal(torch.cat(list(batches.after(1))), data[10:])
    arrays = all_batches(data.numpy(), batch_size=10, seed=0, device=CPU)
    assert torch.equal(torch.cat(list(arrays)), data)
