"""``pathnorm audit``: what goes where, and what reaches the library."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pathnorm
from pathnorm import cli

FACTORY = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

def loader():
    return torch.utils.data.DataLoader(torch.ones(6, 3), batch_size=2)
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "models.py").write_text(FACTORY)
    spec = f"{tmp_path / 'models.py'}:build"
    namespace: dict = {}
    exec(FACTORY, namespace)
    torch.save(namespace["build"]().state_dict(), tmp_path / "w.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 3)))
    argv = ["audit", spec, "--weights", str(tmp_path / "w.pt"), "--data", str(tmp_path / "x.npy")]
    return SimpleNamespace(argv=argv, out=tmp_path / "out", folder=tmp_path)


@pytest.fixture
def calls(monkeypatch):
    """A library call that only notes its arguments."""
    seen = []
    record = SimpleNamespace(
        to_dict=lambda: {"params": 1}, to_json=lambda: "{}", to_html=lambda path: path.write_text("")
    )

    def audit(model, data, **options):
        seen.append((model, data, options))
        return record

    monkeypatch.setitem(vars(pathnorm), "audit", audit)
    return seen


def test_a_network_is_audited_and_the_folder_written(job, capsys):
    assert cli.main([*job.argv, "--out", str(job.out), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["verb"] == "audit" and found["files"] == ["record.json", "report.html"]
    assert found["record"]["neurons"] == 8 and found["record"]["samples"] == 60
    assert found["record"]["lipschitz_lower"] <= found["record"]["lipschitz_upper"]
    assert json.loads((job.out / "record.json").read_text()) == found["record"]
    assert "<svg" in (job.out / "report.html").read_text()
    assert "written to" in err


def test_without_a_folder_the_table_is_all(job, calls, capsys):
    assert cli.main(job.argv) == 0
    assert capsys.readouterr().out.startswith("namespace(")
    assert not job.out.exists()
    assert cli.main([*job.argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"verb": "audit", "record": {"params": 1}}


def test_the_options_reach_the_library(job, calls):
    options = "--biases --skip 0 a --max-positions 9 --batch-size 7 --attack-samples 0 --seed 3 --samples 5"
    assert cli.main([*job.argv, *options.split()]) == 0
    model, data, passed = calls[0]
    assert isinstance(model, torch.nn.Sequential) and data.shape == (5, 3)
    assert passed == {
        "biases": True,
        "skip": ("0", "a"),
        "max_positions": 9,
        "batch_size": 7,
        "attack_samples": 0,
        "seed": 3,
        "progress": None,
    }
    assert cli.main([*job.argv, "--all-positions"]) == 0
    assert calls[1][2]["max_positions"] is None and calls[1][2]["attack_samples"] == 16


def test_a_loader_can_be_named(job, calls):
    argv = list(job.argv)
    argv[argv.index("--data") + 1] = f"{job.folder / 'models.py'}:loader"
    assert cli.main(argv) == 0
    assert isinstance(calls[0][1], torch.utils.data.DataLoader)


@pytest.mark.parametrize(
    "options",
    ["--max-positions 0", "--max-positions 3 --all-positions", "--attack-samples -1", "--image-size 8x8", "--x"],
)
def test_misuse_is_2_and_runs_nothing(job, calls, capsys, options):
    assert cli.main([*job.argv, *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "error:" in err and calls == []


def test_an_existing_folder_is_refused_before_the_work(job, calls, capsys):
    job.out.mkdir()
    (job.out / "mine.txt").write_text("kept")
    (job.out / "report.html").write_text("of another model")
    assert cli.main([*job.argv, "--out", str(job.out)]) == 1
    assert "--force" in capsys.readouterr().err and calls == []
    assert cli.main([*job.argv, "--out", str(job.out), "--force"]) == 0
    assert (job.out / "mine.txt").read_text() == "kept" and (job.out / "report.html").read_text() == ""


def test_without_the_plot_extra_the_page_is_left_out(job, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main([*job.argv, "--out", str(job.out), "--attack-samples", "0"]) == 0
    assert "pathnorm[plot]" in capsys.readouterr().err
    assert sorted(path.name for path in job.out.iterdir()) == ["record.json"]
