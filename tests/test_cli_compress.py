"""``pathnorm compress`` on a real network: budgets that are measured, the plan, and files for the edge."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch

from pathnorm import cli
from pathnorm.deep.edge import EDGE_FILES

FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 14), nn.ReLU(), nn.Linear(14, 4))
"""


@pytest.fixture
def job(tmp_path):
    """Files of a small network with labels that it gets right, and the arguments but for the budget."""
    (tmp_path / "models.py").write_text(FACTORY)
    scope: dict = {}
    exec(FACTORY, scope)
    torch.manual_seed(0)
    model = scope["build"]()
    data = torch.randn(400, 6)
    with torch.no_grad():
        model[4].bias -= model(data).mean(0)
        labels = model(data).argmax(1)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    np.save(tmp_path / "x.npy", data.numpy())
    np.save(tmp_path / "y.npy", labels.numpy())
    return [
        "compress",
        f"{tmp_path / 'models.py'}:build",
        *("--weights", str(tmp_path / "w.pt")),
        *("--data", str(tmp_path / "x.npy")),
        *("--out", str(tmp_path / "out")),
    ]


def test_an_accuracy_budget_says_what_the_choice_has_seen(job, capsys, tmp_path):
    assert cli.main([*job, "--accuracy-drop", "5", "--labels", str(tmp_path / "y.npy")]) == 0
    out, err = capsys.readouterr()
    assert "seen by the choice of widths: accuracy 100.0 % -> " in out
    assert "the choice has not seen" in " ".join(out.split())
    assert "plan: 2 groups" in err
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["budget"] == {"accuracy_drop": 5.0}
    assert 100 * (record["check"]["before"] - record["check"]["after"]) <= 5.0
    assert max(map(len, out.splitlines())) <= 100


def test_an_accuracy_budget_without_labels_is_misuse(job, capsys, tmp_path):
    assert cli.main([*job, "--accuracy-drop", "5"]) == 2
    assert "needs one class per sample" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_latency_budget_says_what_was_measured(job, capsys, monkeypatch):
    def measure(models, batch):
        return [1.0 + model[2].out_features * batch.shape[0] / 70 for model in models]

    monkeypatch.setattr(importlib.import_module("pathnorm.deep.compress"), "measure_ms", measure)
    assert cli.main([*job, "--latency-ms", "2.2", "--latency-batch", "10"]) == 0
    out = capsys.readouterr().out
    assert "seen by the choice of widths: 3.00 -> 2.14 ms for 10 samples" in out
    row = next(line for line in out.splitlines() if line.startswith("latency, ms"))
    assert row.split()[2:4] == ["3.00", "2.14"] and "measured" in row and "batch 10" in row
    assert cli.main([*job, "--latency-ms", "0.5", "--force"]) == 1
    assert "latency_ms <= 0.5" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(job, capsys, tmp_path):
    assert cli.main([*job, "--params", "0.5", "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "34 neurons in 2 groups can be removed" in out and "left alone 4 [4]: these are the model's outputs" in out
    assert not (tmp_path / "out").exists()
    assert cli.main([*job, "--params", "0.5", "--dry-run", "--json", "--skip", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["plan"]["groups"]] == ["2"]
    assert found["plan"]["samples"] == 320


def test_files_for_the_edge_are_written_shown_and_forgotten(job, capsys, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    edge = tmp_path / "out" / "edge"
    assert cli.main([*job, "--params", "0.6", "--edge"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in edge.iterdir()) == sorted(EDGE_FILES)
    assert [line.split()[0] for line in out.splitlines() if ".onnx" in line.split("  ")[0]] == list(EDGE_FILES[:4])
    assert "edge" in err
    assert cli.main([*job, "--params", "0.6", "--edge", "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["edge"] == json.loads((edge / "edge.json").read_text())
    (edge / "mine.txt").write_text("kept")
    assert cli.main([*job, "--params", "0.6", "--force"]) == 0
    assert [path.name for path in edge.iterdir()] == ["mine.txt"]


def test_the_edge_is_refused_before_the_work_without_onnxruntime(job, capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a))
    assert cli.main([*job, "--params", "0.6", "--edge"]) == 1
    assert "pathnorm[onnx]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
