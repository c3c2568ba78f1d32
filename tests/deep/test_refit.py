from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from pathnorm.deep import refit
from pathnorm.deep.data import split_batches
from pathnorm.deep.masked_rows import energy, fitted_intercept, missed, refit_rows
from pathnorm.deep.moments import Moments
from pathnorm.deep.pruned_pairs import Network, pair_layers
from pathnorm.deep.slices import surviving_rows
from pathnorm.errors import DataError, UnsupportedModelError

FAST = {"batch_size": 64}


def zeroed(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    """A copy with a share of the weights of every layer set to zero at random."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight *= torch.rand(module.weight.shape, generator=generator) > share
    return twin


def narrower(model: nn.Module, rows: dict[str, list[int]], cols: dict[str, list[int]]) -> nn.Module:
    """A copy with rows and columns of named modules cut away by hand."""
    twin = copy.deepcopy(model)
    for name, module in twin.named_modules():
        for kind, dim in ((rows, 0), (cols, 1)):
            if name not in kind:
                continue
            index = torch.tensor(kind[name])
            module.weight = nn.Parameter(module.weight.detach().index_select(dim, index))
            if dim == 1:
                continue
            if module.bias is not None:
                module.bias = nn.Parameter(module.bias.detach()[index])
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean, module.running_var = module.running_mean[index], module.running_var[index]
                module.num_features = len(index)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
    return twin


def output_error(original: nn.Module, other: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        truth = original(inputs)
        return float((other(inputs) - truth).norm() / (truth - truth.mean(0)).norm())


def held_out(data: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The calibration and the held-out part that refit takes."""
    parts = split_batches(data, None, heldout=0.2, batch_size=64, seed=seed, device=torch.device("cpu"))
    return tuple(torch.cat(list(part)) for part in parts)


# ------------------------------------------------------------------------------ least squares


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_rows_agree_with_least_squares_by_hand(seed, density):
    rng = np.random.default_rng(seed)
    n, p, d = 60, 12, 9
    phi, psi, start = rng.normal(size=(n, p)), rng.normal(size=(n, d)), rng.normal(size=(p, d))
    support = rng.random((d, p)) < density
    support[1], support[2] = support[0], support[3]
    support[4] = False
    start *= support.T
    gram, ridge = phi.T @ phi, 10.0 ** rng.integers(-6, 0)
    got = refit_rows(*map(torch.from_numpy, (gram, phi.T @ psi, start, support)), ridge=ridge).numpy()
    rho = ridge * np.trace(gram) / p
    for output in range(d):
        use = support[output]
        system = np.vstack([phi[:, use], np.sqrt(rho) * np.eye(use.sum())])
        wanted = np.concatenate([psi[:, output], np.sqrt(rho) * start[use, output]])
        expected = np.linalg.lstsq(system, wanted, rcond=None)[0]
        np.testing.assert_allclose(got[use, output], expected, rtol=1e-7, atol=1e-9)
        assert (got[~use, output] == 0.0).all()


def test_small_chunks_give_the_same_answer(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    phi, psi = (torch.randn(80, size, generator=generator, dtype=torch.float64) for size in (15, 20))
    support = torch.rand(20, 15, generator=generator) < 0.5
    arguments = (phi.T @ phi, phi.T @ psi, torch.zeros(15, 20, dtype=torch.float64), support)
    whole = refit_rows(*arguments, ridge=1e-6)
    monkeypatch.setattr("pathnorm.deep.masked_rows._CHUNK_BYTES", 3000)
    torch.testing.assert_close(refit_rows(*arguments, ridge=1e-6), whole)


def test_no_answer_where_the_gram_matrix_is_not_definite():
    gram = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64))
    for support in (torch.ones(2, 3, dtype=torch.bool), torch.tensor([[1, 1, 1], [0, 1, 1]], dtype=torch.bool)):
        cross = torch.ones(3, 2, dtype=torch.float64)
        assert refit_rows(gram, cross, torch.zeros_like(cross), support, ridge=1e-6) is None


def test_residuals_from_moments_are_those_of_the_rows():
    rng = np.random.default_rng(0)
    phi, psi = torch.from_numpy(rng.normal(size=(40, 5)) + 1.0), torch.from_numpy(rng.normal(size=(40, 3)) - 2.0)
    coef, constant = torch.from_numpy(rng.normal(size=(5, 3))), torch.from_numpy(rng.normal(size=3))
    sums = Moments.zeros(5, 3, torch.device("cpu"), diagonal=True)
    sums.add(phi, psi)
    assert missed(sums, coef, constant) == pytest.approx(float((psi - phi @ coef - constant).square().sum()))
    torch.testing.assert_close(fitted_intercept(sums, coef), (psi - phi @ coef).mean(0))
    assert energy(sums, intercept=True) == pytest.approx(float((psi - psi.mean(0)).square().sum()))
    assert energy(sums, intercept=False) == pytest.approx(float(psi.square().sum()))


# ------------------------------------------------------------------------------ which channels are left


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize("columns", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_of_exact_slices_are_found(kernel, columns, dtype):
    generator = torch.Generator().manual_seed(3)
    large = torch.randn(20, 11, *kernel, generator=generator).to(dtype)
    rows = torch.randperm(20, generator=generator)[:8].sort().values
    small = large[rows]
    if columns:
        small = small[:, torch.randperm(11, generator=generator)[:columns].sort().values]
    assert surviving_rows(small, large).tolist() == rows.tolist()
    changed = small.clone()
    changed[3, 2] *= 1.25
    assert surviving_rows(changed, large) is None


def test_rows_whose_items_come_from_different_columns_are_no_slice():
    large = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    small = large[[0, 4, 8]][:, [1, 2, 5]]
    small[1] = small[1, [1, 0, 2]]
    assert surviving_rows(small, large) is None


def test_equal_rows_are_told_apart_by_what_belongs_to_them():
    large = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    large[3] = large[1]
    bias = torch.arange(5.0)
    assert surviving_rows(large[[0, 3]], large, [(bias[[0, 3]], bias)]).tolist() == [0, 3]
    assert surviving_rows(large[[0, 3]], large).tolist() == [0, 1]
    assert surviving_rows(large[[1, 3]], large).tolist() == [1, 3]
    assert surviving_rows(large[[2, 3]], large).tolist() == [2, 3]
    # Statistics that were estimated anew do not hide what the weights show.
    assert surviving_rows(large[[0, 2]], large, [(torch.ones(2) / 3, bias)]).tolist() == [0, 2]


# ------------------------------------------------------------------------------ references for whole networks


def test_last_layer_is_the_masked_ridge_of_what_it_reads(build, sample):
    model, data = build("mlp"), sample("mlp", 400)
    pruned = zeroed(model, 0.5)
    made = refit(model, pruned, data, **FAST)
    record = made.record.layers[-1]
    assert record.refitted
    calibration, _ = held_out(data)
    with torch.no_grad():
        phi, psi = made.model[:-1](calibration).double().numpy(), model(calibration).double().numpy()
    phi, psi = phi - phi.mean(0), psi - psi.mean(0)
    old, new = (net[-1].weight.detach().double().numpy() for net in (pruned, made.model))
    rho = record.ridge * np.square(phi).sum() / phi.shape[1]
    for row, before, aim in zip(new, old, psi.T, strict=True):
        use = before != 0
        system = np.vstack([phi[:, use], np.sqrt(rho) * np.eye(use.sum())])
        wanted = np.concatenate([aim, np.sqrt(rho) * before[use]])
        np.testing.assert_allclose(row[use], np.linalg.lstsq(system, wanted, rcond=None)[0], rtol=1e-3, atol=1e-5)
        assert (row[~use] == 0.0).all()


def test_behind_batch_norm_and_a_stream_the_target_is_what_is_missing_of_the_original_sum(build, sample):
    """The second convolution of the last block, by unfolded patches and numpy; its constant is the running mean."""
    model, data = build("residual"), sample("residual", 160)
    pruned = zeroed(model, 0.6)
    made = refit(model, pruned, data, max_positions=None, **FAST)
    record = next(layer for layer in made.record.layers if layer.name == "blocks.1.conv2")
    assert record.refitted
    calibration, held = held_out(data)
    seen: dict[str, torch.Tensor] = {}

    def values(net: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        block = net.blocks[1]
        hooks = [
            block.register_forward_pre_hook(lambda _, args: seen.__setitem__("stream", args[0])),
            block.conv2.register_forward_pre_hook(lambda _, args: seen.__setitem__("inputs", args[0])),
            block.bn2.register_forward_hook(lambda _, args, out: seen.__setitem__("branch", out)),
        ]
        with torch.no_grad():
            net(inputs)
        for hook in hooks:
            hook.remove()
        return dict(seen)

    def rows(tensor: torch.Tensor) -> np.ndarray:
        return tensor.double().permute(0, 2, 3, 1).reshape(-1, tensor.shape[1]).numpy()

    gain = (pruned.blocks[1].bn2.weight / (pruned.blocks[1].bn2.running_var + 1e-5).sqrt()).detach().double().numpy()
    beta = pruned.blocks[1].bn2.bias.detach().double().numpy()
    old, new = (net.blocks[1].conv2.weight.detach().double().flatten(1).numpy() for net in (pruned, made.model))
    errors = []
    for inputs in (calibration, held):
        truth, now = values(model, inputs), values(made.model, inputs)
        phi = rows(F.unfold(now["inputs"], 3, padding=1).unflatten(2, (8, 8)))
        wanted = rows(truth["branch"] + truth["stream"] - now["stream"])
        reached = rows(now["branch"])
        errors.append(np.linalg.norm(wanted - reached) / np.linalg.norm(wanted - wanted.mean(0)))
        if inputs is calibration:
            psi, centred = wanted, phi - phi.mean(0)
    assert errors == pytest.approx([record.error_calibration_after, record.error_heldout_after], rel=1e-3)
    rho = record.ridge * np.square(centred).sum() / centred.shape[1]
    for output in range(6):
        use = old[output] != 0
        system = np.vstack([centred[:, use], np.sqrt(rho) * np.eye(use.sum())])
        aim = np.concatenate([psi[:, output] - psi[:, output].mean(), np.sqrt(rho) * gain[output] * old[output, use]])
        expected = np.linalg.lstsq(system, aim, rcond=None)[0] / gain[output]
        np.testing.assert_allclose(new[output, use], expected, rtol=1e-3, atol=1e-4)
    mean = made.model.blocks[1].bn2.running_mean.double().numpy()
    calibrated = values(made.model, calibration)
    np.testing.assert_allclose(rows(calibrated["branch"]).mean(0), psi.mean(0), atol=1e-5)
    assert not np.allclose(mean, pruned.blocks[1].bn2.running_mean.double().numpy(), atol=1e-3)
    assert np.allclose(beta, made.model.blocks[1].bn2.bias.detach().double().numpy())


@pytest.mark.parametrize("masked", [False, True])
def test_outputs_without_a_free_constant_are_fitted_through_the_origin(sample, masked):
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3, bias=masked)), sample("mlp", 300)
    pruned = zeroed(model, 0.4)
    if masked:
        prune.custom_from_mask(pruned[2], "bias", torch.tensor([1.0, 0.0, 1.0]))
    made = refit(model, pruned, data, **FAST)
    calibration, _ = held_out(data)
    with torch.no_grad():
        phi, psi = made.model[:-1](calibration).double().numpy(), model(calibration).double().numpy()
    rho = made.record.layers[-1].ridge
    for output in range(3):
        centre = masked and output != 1
        features, wanted = (part - part.mean(0) * centre for part in (phi, psi[:, output]))
        old = pruned[2].weight[output].detach().double().numpy()
        use = old != 0
        root = np.sqrt(rho * np.square(features).sum() / 12)
        system = np.vstack([features[:, use], root * np.eye(use.sum())])
        expected = np.linalg.lstsq(system, np.concatenate([wanted, root * old[use]]), rcond=None)[0]
        got = made.model[2].weight[output].detach().double().numpy()
        np.testing.assert_allclose(got[use], expected, rtol=1e-3, atol=1e-5)
    if masked:
        assert float(made.model[2].bias[1].detach()) == 0.0


# ------------------------------------------------------------------------------ planted answers


@pytest.mark.parametrize("masked", [False, True])
def test_a_redundant_neuron_removed_without_passing_its_weights_on_is_made_up_for(build, sample, masked):
    model, data = build("mlp"), sample("mlp", 500)
    with torch.no_grad():
        model[0].weight[7], model[0].bias[7] = 1.5 * model[0].weight[3], 1.5 * model[0].bias[3]
    left = [index for index in range(20) if index != 7]
    if masked:
        pruned = copy.deepcopy(model)
        mask = torch.ones_like(model[2].weight)
        mask[:, 7] = 0.0
        prune.custom_from_mask(pruned[2], "weight", mask)
    else:
        pruned = narrower(model, {"0": left}, {"2": left})
    made = refit(model, pruned, data, **FAST)
    fresh = sample("mlp", 200, seed=9)
    assert output_error(model, pruned, fresh) > 0.05
    assert output_error(model, made.model, fresh) < 1e-5
    assert [layer.refitted for layer in made.record.layers] == [False, True, False]


def test_a_redundant_channel_between_convolutions_with_batch_norm(build, sample):
    model, data = build("chain"), sample("chain", 400)
    with torch.no_grad():
        model.conv1.weight[5] = model.conv1.weight[2]
        for part in (model.bn1.weight, model.bn1.bias, model.bn1.running_mean, model.bn1.running_var):
            part[5] = part[2]
        model.bn1.weight[5], model.bn1.bias[5] = 2.0 * model.bn1.weight[2], 2.0 * model.bn1.bias[2]
    left = [0, 1, 2, 3, 4, 6, 7]
    pruned = narrower(model, {"conv1": left, "bn1": left}, {"conv2": left})
    made = refit(model, pruned, data, **FAST)
    fresh = sample("chain", 100, seed=9)
    assert output_error(model, pruned, fresh) > 0.05
    assert output_error(model, made.model, fresh) < 1e-5


def test_the_original_itself_is_left_as_it_is(build, sample):
    model = build("residual")
    made = refit(model, copy.deepcopy(model), sample("residual", 150), **FAST)
    assert {layer.note for layer in made.record.layers} == {"already exact"}
    assert all(torch.equal(value, made.model.state_dict()[key]) for key, value in model.state_dict().items())


# ------------------------------------------------------------------------------ what is promised


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_zeros_stay_and_no_layer_gets_worse_on_held_out_data(kind, build, sample):
    model, data = build(kind), sample(kind, 300)
    pruned = zeroed(model, 0.7)
    made = refit(model, pruned, data, **FAST)
    assert type(made.model) is type(model) and not made.model.training
    for key, value in pruned.state_dict().items():
        fresh = made.model.state_dict()[key]
        assert fresh.shape == value.shape and fresh.dtype == value.dtype
        if key.endswith("weight") and value.ndim > 1:
            assert (fresh[value == 0.0] == 0.0).all()
    for layer in made.record.layers:
        assert layer.error_heldout_after <= layer.error_heldout_before
        assert layer.refitted == (layer.ridge is not None) == (layer.note == "")
    assert made.record.output_error_after < 0.8 * made.record.output_error_before
    _, held = held_out(data)
    assert made.record.output_error_after == pytest.approx(output_error(model, made.model, held), rel=1e-3)
    assert made.record.output_error_before == pytest.approx(output_error(model, pruned, held), rel=1e-3)
    assert output_error(model, made.model, sample(kind, 200, seed=7)) < output_error(model, pruned, held)


def test_where_the_data_are_too_few_old_weights_are_kept(build, sample):
    model = build("mlp")
    made = refit(model, zeroed(model, 0.1), sample("mlp", 6), heldout=0.5, batch_size=3)
    for layer in made.record.layers:
        assert layer.error_heldout_after <= layer.error_heldout_before
    assert any(layer.note == "no gain on held-out data" for layer in made.record.layers)


@pytest.mark.parametrize("bias", [False, True])
def test_masks_of_torch_stay_on_the_model(build, sample, bias):
    model, data = build("chain"), sample("chain", 300)
    pruned = copy.deepcopy(model)
    for name in ("conv2", "fc1"):
        prune.l1_unstructured(getattr(pruned, name), "weight", 0.6)
        prune.random_unstructured(getattr(pruned, name), "weight", 0.2)
    if bias:
        prune.l1_unstructured(pruned.fc1, "bias", 0.5)
    pruned(data[:2])  # the masked weight is now a tensor with a history
    before = {key: value.clone() for key, value in pruned.state_dict().items()}
    hooks = len(pruned.conv2._forward_pre_hooks)
    made = refit(model, pruned, data, **FAST)
    assert made.model.state_dict().keys() == pruned.state_dict().keys()
    for name in ("conv2", "fc1"):
        old, new = getattr(pruned, name), getattr(made.model, name)
        assert torch.equal(old.weight_mask, new.weight_mask)
        assert (new.weight[old.weight_mask == 0] == 0).all()
        assert not torch.equal(old.weight, new.weight)
        prune.remove(new, "weight")
    if bias:
        assert (made.model.fc1.bias[pruned.fc1.bias_mask == 0] == 0).all()
    assert all(torch.equal(value, pruned.state_dict()[key]) for key, value in before.items())
    assert len(pruned.conv2._forward_pre_hooks) == hooks
    assert output_error(model, made.model, data) < output_error(model, pruned, data)


def test_rows_of_zeros_stay_removed_unless_their_constant_is_alive(build, sample):
    model, data = build("mlp"), sample("mlp", 300) + 1.0
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        pruned[0].weight[:5] = 0.0
        pruned[0].bias[:3] = 0.0
    made = refit(model, pruned, data, **FAST)
    assert (made.model[0].weight[:5] == 0.0).all() and (made.model[0].bias[:3] == 0.0).all()
    calibration, _ = held_out(data)
    with torch.no_grad():
        torch.testing.assert_close(made.model[0].bias[3:5], model[0](calibration).mean(0)[3:5], rtol=1e-4, atol=1e-5)


def test_channels_without_gain_are_left_alone(build, sample):
    model, data = build("chain"), sample("chain", 300) + 1.0
    model.conv1.bias = nn.Parameter(torch.full((8,), 0.7))
    pruned = zeroed(model, 0.5)
    with torch.no_grad():
        pruned.bn1.weight[:3] = 0.0
        pruned.bn1.bias[:3] = 0.0
    made = refit(model, pruned, data, **FAST)
    assert made.record.layers[0].refitted
    for old, new in ((pruned.conv1.weight, made.model.conv1.weight), (pruned.conv1.bias, made.model.conv1.bias)):
        assert torch.equal(old[:3], new[:3]) and not torch.equal(old[3:], new[3:])


def test_nothing_that_was_passed_in_is_changed(build, sample):
    model, data = build("residual").train(), sample("residual", 150)
    pruned = zeroed(model, 0.5).train()
    states = [copy.deepcopy(net.state_dict()) for net in (model, pruned)]
    held, drawn = data.clone(), torch.get_rng_state()
    refit(model, pruned, data, **FAST)
    assert model.training and pruned.training
    for net, state in zip((model, pruned), states, strict=True):
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert torch.equal(data, held) and torch.equal(drawn, torch.get_rng_state())


def test_same_seed_same_answer(build, sample):
    model, data = build("mlp"), sample("mlp", 150)
    one, two = (refit(model, zeroed(model, 0.5), data, seed=4, **FAST) for _ in range(2))
    pairs = zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_record_is_json_and_text_and_knows_labels_only_if_given(build, sample):
    model, data = build("mlp"), sample("mlp", 200)
    with torch.no_grad():
        labels = model(data).argmax(1)
    plain = refit(model, zeroed(model, 0.6), data, **FAST).record
    assert plain.accuracy_after is None and plain.agreement_after is not None
    record = refit(model, zeroed(model, 0.6), data, labels=labels, **FAST).record
    assert record.accuracy_original == 1.0 and record.accuracy_after == record.agreement_after
    assert json.loads(record.to_json())["layers"][0]["name"] == "0"
    text = str(record)
    assert "of 3 layers were refitted" in text and max(map(len, text.splitlines())) <= 100
    assert "accuracy from" in " ".join(text.split()) and "accuracy" not in str(plain)
    assert record.layers[1].weights_left == int((zeroed(model, 0.6)[2].weight != 0).sum())


# ------------------------------------------------------------------------------ fewer channels


def test_streams_that_were_cut_consistently(build, sample):
    model, data = build("residual"), sample("residual", 400)
    stream, inside = [0, 2, 3, 5], {"blocks.0": [0, 1, 4, 5, 7, 9], "blocks.1": [2, 3, 4, 6, 8]}
    rows, cols = {"stem": stream}, {"head": stream}
    for block, kept in inside.items():
        rows |= {f"{block}.conv1": kept, f"{block}.bn1": kept, f"{block}.conv2": stream, f"{block}.bn2": stream}
        cols |= {f"{block}.conv1": stream, f"{block}.conv2": kept}
    pruned = narrower(model, rows, cols)
    made = refit(model, pruned, data, **FAST)
    assert [layer.width for layer in made.record.layers] == [4, 6, 4, 5, 4, 5]
    assert made.record.layers[0].note == "already exact"
    assert all(layer.refitted for layer in made.record.layers[1:])
    assert made.record.output_error_after < 0.6 * made.record.output_error_before
    pairs = pair_layers(Network.of(model, data[:2]), Network.of(pruned, data[:2]), {}, {})
    assert {pair.new.layer.name: pair.kept.tolist() for pair in pairs[:-1]} == {
        name: kept for name, kept in rows.items() if "bn" not in name
    }


class Depthwise(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.expand, self.deep = nn.Conv2d(2, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.project, self.head = nn.Conv2d(width, 6, 1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.project(F.relu(self.deep(F.relu(self.expand(x)))))).mean((2, 3)))


def test_channels_are_found_on_both_sides_of_a_depthwise_convolution(sample):
    torch.manual_seed(0)
    model, data, left = Depthwise(), sample("chain", 300), [0, 1, 3, 6, 7]
    pruned = narrower(model, {"expand": left, "deep": left}, {"project": left})
    pruned.deep.groups, pruned.deep.in_channels = 5, 5
    made = refit(model, pruned, data, **FAST)
    assert [layer.name for layer in made.record.layers] == ["expand", "project", "head"]
    assert [item.name for item in made.record.skipped] == ["deep"]
    assert "deep" in str(made.record)
    assert made.record.output_error_after < made.record.output_error_before


def test_weights_that_were_changed_need_the_channels(build, sample):
    model, data, left = build("mlp"), sample("mlp", 300), [0, 2, 5, 7, 8, 11, 13, 19]
    pruned = narrower(model, {"0": left}, {"2": left})
    with torch.no_grad():
        pruned[0].weight += 0.01
    with pytest.raises(UnsupportedModelError, match=r"They are not in: 0 .*kept=\{'0': indices\}"):
        refit(model, pruned, data, **FAST)
    made = refit(model, pruned, data, kept={"0": np.array(left)}, **FAST)
    assert made.record.layers[0].refitted
    assert made.record.output_error_after < 0.7 * made.record.output_error_before


def test_channels_that_do_not_fit_are_refused(build, sample):
    small = narrower(build("mlp"), {"0": [0, 1, 2, 3]}, {"2": [0, 1, 2, 3]})
    original, pruned = (Network.of(model, sample("mlp", 2)) for model in (build("mlp"), small))
    for kept, message in (
        ({"nine": [0]}, "Unknown: nine"),
        ({"0": [0, 1]}, "must hold 4 different channels of the original's 20"),
        ({"0": [0, 1, 2, 2]}, "different channels"),
        ({"0": [0, 1, 2, 20]}, "different channels"),
        ({"0": [-1, 1, 2, 3]}, "different channels"),
        ({"0": [0.0, 1.0, 2.0, 3.0]}, "as integers"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_layers(original, pruned, {}, kept)


def test_networks_that_do_not_belong_together_are_refused(build, sample):
    model, chain = build("mlp"), build("chain")
    plain = copy.deepcopy(chain)
    plain.bn1 = nn.Identity()
    whole, longer, narrow = (
        Network.of(net, sample("mlp", 2))
        for net in (
            model,
            nn.Sequential(*copy.deepcopy(model), nn.ReLU(), nn.Linear(4, 4)),
            narrower(model, {"0": [0, 1]}, {"2": [0, 1]}),
        )
    )
    convolutions = tuple(Network.of(net, sample("chain", 2)) for net in (chain, plain))
    for original, pruned, message in (
        (whole, longer, "Only in the pruned one: 6"),
        (longer, whole, "only in the original: 6"),
        (narrow, whole, "0 has shape"),
        (*convolutions, "conv1 is followed by"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            pair_layers(original, pruned, {}, {})
    with pytest.raises(UnsupportedModelError, match="outputs of one shape"):
        refit(model, narrower(model, {"4": [0, 1]}, {}), sample("mlp", 100), **FAST)


def test_arguments_out_of_range_are_refused(build, sample):
    model, data = build("mlp"), sample("mlp", 100)
    for wrong in ({"heldout": 1.0}, {"max_positions": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            refit(model, model, data, **wrong)
    with pytest.raises(UnsupportedModelError, match="one device"):
        refit(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), data)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(DataError, match="output of 0 holds NaN"):
        refit(model, broken, data, **FAST)


def test_torch_pruning(build, sample):
    tp = pytest.importorskip("torch_pruning")
    model, data = build("residual"), sample("residual", 400)
    pruned = copy.deepcopy(model)
    pruner = tp.pruner.MetaPruner(
        pruned,
        data[:2],
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.4,
        ignored_layers=[pruned.head],
    )
    pruner.step()
    pruned.zero_grad(set_to_none=True)
    assert pruned.stem.weight.shape[0] < model.stem.weight.shape[0]
    made = refit(model, pruned, data, **FAST)
    for key, value in pruned.state_dict().items():
        assert made.model.state_dict()[key].shape == value.shape
    assert made.record.output_error_after < 0.7 * made.record.output_error_before
