"""The demonstration from end to end, with little training and two budgets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pathnorm.demo.baseline import magnitude_prune, recalibrate_batch_norm
from pathnorm.demo.digits import accuracy, digits_cnn, digits_resnet, load_split, train
from pathnorm.demo.run import BASELINE, OURS, DemoResult, run_demo
from pathnorm.errors import BudgetError, OutputFolderError

BUDGETS = (0.5, 0.2)


@pytest.fixture(scope="module")
def stages() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, stages: list[tuple[str, int, int]]) -> DemoResult:
    out = tmp_path_factory.mktemp("demo") / "nested" / "out"
    return run_demo(out, epochs=3, budgets=BUDGETS, progress=lambda *call: stages.append(call))


@pytest.fixture(scope="module")
def trained():
    split = load_split(0)
    return split, train(digits_cnn(), split, seed=0, epochs=2)


@pytest.fixture
def without_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the writing of the folder only."""
    record = SimpleNamespace(budget={"params": 0.5})
    monkeypatch.setattr("pathnorm.demo.run._compare", lambda *args, **kwargs: ((), (record,)))
    monkeypatch.setattr("pathnorm.demo.run.write_html", lambda record, path, **kwargs: path.write_text("page"))
    monkeypatch.setattr(DemoResult, "to_dict", lambda self: {})


def test_folder_holds_the_report_and_the_record_and_nothing_else(result):
    assert sorted(path.name for path in result.folder.parent.iterdir()) == ["out"]
    assert sorted(path.name for path in result.folder.iterdir()) == ["record.json", "report.html"]
    assert json.loads((result.folder / "record.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    page = (result.folder / "report.html").read_text()
    assert "<svg" in page
    assert BASELINE in page
    assert "50% of its parameters" in page


def test_every_method_meets_every_budget_and_ours_is_ahead(result):
    dense, *points = result.points
    assert dense.is_dense
    assert dense.accuracy > 0.9
    assert [point.method for point in points] == [OURS, BASELINE] * len(BUDGETS)
    for budget, ours, baseline in zip(BUDGETS, points[::2], points[1::2], strict=True):
        for point in (ours, baseline):
            assert point.params <= budget * dense.params
            assert point.macs < dense.macs
        assert ours.params >= (budget - 0.01) * dense.params
        assert ours.accuracy > baseline.accuracy - 0.01
        assert ours.output_error < baseline.output_error
    assert points[-2].accuracy > points[-1].accuracy


def test_every_layer_carries_a_certificate(result):
    assert len(result.records) == len(BUDGETS)
    for record in result.records:
        assert all(group.gap <= 1e-6 for group in record.groups)


def test_table_names_methods_and_budgets(result):
    table = result.table()
    for word in ("dense", OURS, BASELINE, "params 0.5", "params 0.2", "500 test images"):
        assert word in table


def test_progress_tells_training_and_compression(result, stages):
    assert stages[:3] == [("train", done, 3) for done in (1, 2, 3)]
    assert stages[3:] == [("compress", done, 2) for done in (1, 2)]


def test_an_existing_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("pathnorm.demo.run.load_split", lambda seed: pytest.fail("work was done"))
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(OutputFolderError, match="new or empty"):
        run_demo(tmp_path)
    with pytest.raises(OutputFolderError, match="is a file"):
        run_demo(kept, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_force_replaces_the_report_alone(tmp_path, without_compression):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "record.json").write_text("old")
    run_demo(tmp_path, epochs=0, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "record.json").read_text() == "{}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "record.json", "report.html"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, without_compression):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathnorm.demo.run.write_html", full)
    with pytest.raises(OutputFolderError, match="No space left"):
        run_demo(tmp_path / "out", epochs=0)
    assert list(tmp_path.iterdir()) == []


def test_magnitude_keeps_the_largest_network_within_the_budget(trained):
    split, model = trained
    pruned = magnitude_prune(model, split.train_images, params=20_000)
    found = sum(parameter.numel() for parameter in pruned.model.parameters())
    assert found == pruned.params <= 20_000
    more = magnitude_prune(model, split.train_images, params=21_000)
    assert more.params > pruned.params
    with pytest.raises(BudgetError, match="one neuron per layer"):
        magnitude_prune(model, split.train_images, params=10)


def test_magnitude_within_a_budget_of_everything_changes_the_statistics_alone(trained):
    split, model = trained
    whole = magnitude_prune(model, split.train_images, params=10**9)
    assert whole.ratio == 1.0
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), whole.model.parameters(), strict=True))


def test_magnitude_removes_the_neurons_with_the_smallest_weights(trained):
    split, model = trained
    with torch.no_grad():
        small = train(model, split, seed=1, epochs=0)
        for tensor in (small.fc1.weight, small.fc1.bias):
            tensor[5] *= 1e-6
        small.fc2.weight[:, 5] *= 1e-6
    count = sum(parameter.numel() for parameter in small.parameters())
    pruned = magnitude_prune(small, split.train_images, params=count - 1)
    assert pruned.model.fc1.out_features == 127
    left = torch.cat([small.fc1.bias[:5], small.fc1.bias[6:]])
    assert torch.equal(pruned.model.fc1.bias, left)


def test_recalibration_gives_the_statistics_of_the_images():
    split = load_split(0)
    model = digits_resnet().train()
    images = split.train_images[:256]
    again = recalibrate_batch_norm(model, images)
    with torch.no_grad():
        values = model.conv(images)
    assert torch.allclose(again.bn.running_mean, values.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(again.bn.running_var, values.var((0, 2, 3)), rtol=1e-4)
    assert torch.equal(model.bn.running_mean, torch.zeros(32))
    assert model.training and not again.training
    assert again.bn.momentum == 0.1


def test_recalibration_leaves_a_trained_network_as_good(trained):
    split, model = trained
    again = recalibrate_batch_norm(model, split.train_images)
    before = accuracy(model, split.test_images, split.test_labels)
    assert accuracy(again, split.test_images, split.test_labels) > before - 0.05


def test_paths_may_be_relative(tmp_path, monkeypatch, without_compression):
    monkeypatch.chdir(tmp_path)
    run_demo(Path("out"), epochs=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
