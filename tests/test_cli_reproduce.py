"""``pathnorm reproduce``: what is run, what is said, and the exit status."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from pathnorm import cli

verb = importlib.import_module("pathnorm.cli.reproduce")
ROOT = Path(__file__).resolve().parents[1]

EXPERIMENT = '''"""{claim}

More about it.
"""
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
for size in ("--quick", "--full"):
    parser.add_argument(size, action="store_true")
options = parser.parse_args()
print("on the way")
{crash}
verdict = dict(holds={holds}, predicted="a < b", measured="a = 1, b = 2")
payload = dict(verdict=verdict, seconds=1.5, full=options.full)
(options.out / "{name}.json").write_text(json.dumps(payload))
(options.out / "{name}.png").write_bytes(b"PNG")
sys.exit(0 if {holds} else 1)
'''


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "root" / "experiments"
    folder.mkdir(parents=True)
    (folder / "_claim.py").write_text("")
    for name, claim, holds, crash in (
        ("kept", "Water is wet.", True, ""),
        ("broken_claim", "Water is <dry>.", False, ""),
        ("crashing", "Nobody knows.", True, "sys.exit(3)"),
    ):
        (folder / f"{name}.py").write_text(EXPERIMENT.format(name=name, claim=claim, holds=holds, crash=crash))
    monkeypatch.setattr(verb, "_root", lambda: folder.parent)
    return folder.parent


def test_without_a_name_they_are_listed(root, capsys):
    assert cli.main(["reproduce", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["experiments"]
    assert [item["name"] for item in found] == ["broken_claim", "crashing", "kept"]
    assert cli.main(["reproduce"]) == 0
    assert "Water is wet." in capsys.readouterr().out


def test_a_claim_that_holds(root, tmp_path, capfd):
    out = tmp_path / "out"
    assert cli.main(["reproduce", "kept", "--full", "--out", str(out)]) == 0
    said, talk = capfd.readouterr()
    assert "kept: holds" in said and "1 of 1 hold" in said and "a = 1, b = 2" in said
    assert "on the way" in talk and "on the way" not in said
    assert json.loads((out / "kept.json").read_text())["full"] is True
    page = (out / "index.html").read_text()
    assert "Water is wet." in page and 'src="kept.png"' in page


def test_a_quick_run_says_that_it_says_nothing(root, tmp_path, capfd):
    assert cli.main(["reproduce", "kept", "--quick", "--out", str(tmp_path / "out")]) == 0
    assert "1 of 1 hold, at sizes too small to say anything" in capfd.readouterr().out
    assert "too small to say anything" in (tmp_path / "out" / "index.html").read_text()


def test_the_status_says_that_one_does_not_hold_or_did_not_run(root, tmp_path, capfd):
    out = tmp_path / "out"
    assert cli.main(["reproduce", "--all", "--out", str(out), "--json"]) == 1
    rows = json.loads(capfd.readouterr().out)["experiments"]
    assert {row["name"]: row["outcome"] for row in rows} == {
        "broken_claim": "DOES NOT HOLD",
        "crashing": "not run",
        "kept": "holds",
    }
    assert "&lt;dry&gt;" in (out / "index.html").read_text()


def test_an_old_result_is_not_taken_for_that_of_a_run_that_crashed(root, tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / "crashing.json").write_text((root / "experiments" / "kept.py").read_text())
    assert cli.main(["reproduce", "crashing", "--out", str(out), "--force"]) == 1
    assert "crashing: not run" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said", "status"),
    [
        (["nope"], "among these: broken_claim, crashing, kept. Got nope.", 2),
        (["kept", "--all"], "not both", 2),
        (["kept", "--quick", "--full"], "not allowed with", 2),
    ],
)
def test_misuse(root, tmp_path, capfd, argv, said, status):
    assert cli.main(["reproduce", *argv, "--out", str(tmp_path / "out")]) == status
    assert said in capfd.readouterr().err


def test_a_folder_with_files_is_left_alone(root, tmp_path, capfd):
    (tmp_path / "mine.txt").write_text("keep")
    assert cli.main(["reproduce", "kept", "--out", str(tmp_path)]) == 1
    assert "must be new or empty" in capfd.readouterr().err


def test_a_folder_of_the_same_name_where_the_user_stands_is_not_run(root, tmp_path, monkeypatch, capfd):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "kept.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", "kept", "--out", "out"]) == 0
    assert (tmp_path / "out" / "kept.json").exists()


def test_every_experiment_of_the_project_states_its_claim_in_one_line():
    known = list(verb._experiments(verb._root()))
    assert len(known) >= 15 and verb._root() == ROOT
    for item in known:
        assert item.claim.endswith("."), item
        assert "Scale" in (ROOT / "experiments" / f"{item.name}.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_of_them_runs_from_the_command_line(tmp_path, capfd):
    status = cli.main(["reproduce", "spatial_adaptivity", "--quick", "--out", str(tmp_path / "out"), "--json"])
    rows = json.loads(capfd.readouterr().out)["experiments"]
    assert [row["outcome"] for row in rows] == [("DOES NOT HOLD", "holds")[status == 0]]
    assert (tmp_path / "out" / "spatial_adaptivity.png").stat().st_size > 10_000
    assert sys.modules.get("experiments.spatial_adaptivity") is None
