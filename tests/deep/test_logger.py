"""Rows of the training logger: values, files, writers, Lightning's hook."""

from __future__ import annotations

import csv
import sys
import types

import pytest
import torch

from pathnorm.deep import AuditLogger, CSVWriter, balance
from pathnorm.errors import MissingExtraError


class Scalars:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def add_scalar(self, tag, value, step):
        self.seen.append((tag, value, step))


def test_rows_say_what_the_weights_are(build, sample):
    model, x = build("mlp"), sample("mlp", 4)
    with torch.no_grad():
        model[0].weight[2] = 0.0
        model[0].bias[2] = 0.0
    logger = AuditLogger(model, x, biases=False)
    row = logger.measure()
    first = model[0].weight.norm(dim=1) * model[2].weight.norm(dim=0)
    assert row["0/path_norm"] == pytest.approx(float(first.detach().sum()), rel=1e-5)
    assert row["0/active"] == 19.0
    assert row["active"] == 19.0 + 14.0
    assert row["path_norm"] == pytest.approx(row["0/path_norm"] + row["2/path_norm"])
    assert row["decay"] > row["path_norm"]
    even = AuditLogger(balance(model, x), x, biases=False).measure()
    assert even["imbalance"] < 1e-5
    assert even["decay"] == pytest.approx(even["path_norm"], rel=1e-6)
    assert even["path_norm"] < row["path_norm"]  # a chain shares its weights between groups


def test_every_few_steps_into_a_file_and_a_board(build, sample, tmp_path):
    model, board, path = build("mlp"), Scalars(), tmp_path / "made" / "audit.csv"
    logger = AuditLogger(model, sample("mlp", 4), every=5, writers=[CSVWriter(path), board])
    rows = [logger(step) for step in range(11)]
    assert [step for step, row in enumerate(rows) if row is not None] == [0, 5, 10]
    assert [row["step"] for row in logger.history] == [0.0, 5.0, 10.0]
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["step"] for line in lines] == ["0", "5", "10"]
    assert float(lines[1]["path_norm"]) == rows[5]["path_norm"]
    assert ("pathnorm/path_norm", rows[10]["path_norm"], 10) in board.seen
    with pytest.raises(FileExistsError, match=r"append=True"):
        CSVWriter(path)
    AuditLogger(model, sample("mlp", 4), writers=[CSVWriter(path, append=True)])(11)
    assert len(path.read_text().splitlines()) == 5
    with pytest.raises(ValueError, match="must have the columns"):
        CSVWriter(path, append=True).write(12, {"other": 1.0})


def test_arguments_are_checked(build, sample):
    model, x = build("mlp"), sample("mlp", 4)
    with pytest.raises(ValueError, match="at least 1"):
        AuditLogger(model, x, every=0)
    with pytest.raises(TypeError, match="A writer must be"):
        AuditLogger(model, x, writers=["audit.csv"])


def test_the_lightning_callback_logs_after_a_batch(build, sample, monkeypatch):
    """Against the two names that Lightning's own hook has; the package itself is not needed."""
    logger = AuditLogger(build("mlp"), sample("mlp", 4), every=2)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        logger.lightning()
    module = types.ModuleType("pytorch_lightning")
    module.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", module)
    callback = logger.lightning()
    assert isinstance(callback, module.Callback)
    seen = []
    board = types.SimpleNamespace(log_metrics=lambda metrics, step: seen.append((metrics, step)))
    for step in range(3):
        trainer = types.SimpleNamespace(global_step=step, is_global_zero=True, loggers=[board])
        callback.on_train_batch_end(trainer, None, None, None, step)
    assert [step for _, step in seen] == [0, 2]
    assert seen[0][0]["pathnorm/path_norm"] == logger.history[0]["path_norm"]
