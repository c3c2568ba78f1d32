"""The command line: exit status, what goes where, and nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pathnorm
from pathnorm import cli
from pathnorm.cli.output import progress_bars
from pathnorm.errors import BudgetError

FACTORY = """
import torch

def build():
    return torch.nn.Linear(3, 2)

def loader():
    return torch.utils.data.DataLoader(torch.ones(4, 3))
"""


class FakeCompression:
    """Stands for the answer of the library, whose own tests are elsewhere."""

    def __init__(self, record, *, fail_onnx=False):
        self.record = record
        self.fail_onnx = fail_onnx

    def save(self, folder, *, force=False):
        folder.mkdir(exist_ok=True)
        (folder / "recipe.json").write_text("{}")
        (folder / "record.json").write_text(self.record.to_json())

    def to_onnx(self, path):
        if self.fail_onnx:
            path.write_text("half")
            raise OSError("No space left on device")
        path.write_text("onnx")


@pytest.fixture
def job(tmp_path, monkeypatch, make_record):
    """Files for a run, and a library call that only notes its arguments."""
    (tmp_path / "models.py").write_text(FACTORY)
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    np.save(tmp_path / "x.npy", np.ones((8, 3)))
    np.save(tmp_path / "y.npy", np.zeros(8, dtype=int))
    seen = SimpleNamespace(calls=[], answer=lambda: FakeCompression(make_record(2)), out=tmp_path / "out")

    def compress(model, data, **options):
        seen.calls.append((model, data, options))
        return seen.answer()

    monkeypatch.setitem(vars(pathnorm), "compress", compress)
    seen.argv = [
        "compress",
        f"{tmp_path / 'models.py'}:build",
        *("--weights", str(tmp_path / "w.pt")),
        *("--data", str(tmp_path / "x.npy")),
        *("--out", str(tmp_path / "out")),
    ]
    seen.folder = tmp_path
    return seen


def test_the_table_goes_to_stdout_and_the_talk_to_stderr(job, capsys):
    assert cli.main([*job.argv, "--params", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("The network keeps")
    assert "written to" in err
    assert sorted(p.name for p in job.out.iterdir()) == ["recipe.json", "record.json", "report.html"]
    assert [p.name for p in job.folder.iterdir() if p.name.startswith(".")] == []


def test_json_is_one_object_on_stdout_and_nothing_else(job, capsys):
    assert cli.main([*job.argv, "--params", "0.5", "--json", "--onnx"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verb"] == "compress"
    assert found["record"]["params_after"] == 56_900
    assert found["files"] == ["model.onnx", "recipe.json", "record.json", "report.html"]
    assert json.loads((job.out / "record.json").read_text()) == found["record"]


def test_the_options_reach_the_library(job):
    options = "--macs 0.25 --selector lasso --skip a b --skip c --round-to 8 --seed 3 --batch-size 16 --samples 5"
    options += " --outputs logits --slide 40 --streams --latency-batch 7 --uniform --attention values"
    labels = ["--labels", str(job.folder / "y.npy")]
    assert cli.main([*job.argv, *options.split(), *labels]) == 0
    model, data, passed = job.calls[0]
    assert isinstance(model, torch.nn.Linear)
    assert data.shape == (5, 3)
    assert passed.pop("labels").shape == (5,)
    assert callable(passed.pop("on_plan"))
    assert passed == {
        "params": None,
        "macs": 0.25,
        "error": None,
        "accuracy_drop": None,
        "latency_ms": None,
        "latency_batch": 7,
        "streams": True,
        "uniform": True,
        "attention": "values",
        "selector": "lasso",
        "outputs": "logits",
        "slide": 40,
        "skip": ("a", "b", "c"),
        "round_to": 8,
        "seed": 3,
        "batch_size": 16,
        "progress": None,
    }


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--params 0.5 --macs 0.5",
        "--params 0",
        "--params 1.5",
        "--params half",
        "--error -1",
        "--error nan",
        "--params 0.5 --round-to 0",
        "--params 0.5 --seed -1",
        "--params 0.5 --selector best",
        "--params 0.5 --image-size 3",
        "--params 0.5 --mean 1,x",
        "--params 0.5 --unknown",
        "--params 0.5 --accuracy-drop 1",
        "--accuracy-drop -1",
        "--accuracy-drop 100",
        "--latency-ms 0",
        "--latency-ms 1 --latency-batch 0",
    ],
)
def test_misuse_is_2_and_runs_nothing(job, capsys, options):
    assert cli.main([*job.argv, *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error:" in err
    assert job.calls == []


@pytest.mark.parametrize("change", ["factory", "weights", "data", "labels", "images"])
def test_what_cannot_be_found_is_misuse_without_a_traceback(job, capsys, change):
    argv = [*job.argv, "--params", "0.5"]
    if change == "factory":
        argv[1] = argv[1].replace(":build", ":absent")
    elif change == "labels":
        argv += ["--labels", "labels.csv"]
    elif change == "images":
        argv += ["--image-size", "8x8"]
    else:
        argv[argv.index(f"--{change}") + 1] += ".absent"
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pathnorm: error: ")
    assert "Traceback" not in err
    assert not job.out.exists()


def test_labels_do_not_go_with_a_loader(job, capsys):
    argv = [*job.argv, "--params", "0.5", "--labels", str(job.folder / "y.npy")]
    argv[argv.index("--data") + 1] = f"{job.folder / 'models.py'}:loader"
    assert cli.main(argv) == 2
    assert "DataLoader" in capsys.readouterr().err


def test_no_verb_is_misuse_and_version_and_help_are_not(capsys):
    assert cli.main([]) == 2
    assert cli.main(["reproducible"]) == 2
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pathnorm ")
    assert cli.main(["compress", "--help"]) == 0


def test_a_run_that_fails_is_1_and_leaves_nothing(job, capsys):
    def fail():
        raise BudgetError("At most 10 parameters were asked for; 20 are the fewest. Ask for 20.")

    job.answer = fail
    assert cli.main([*job.argv, "--params", "0.5", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "pathnorm: error: At most 10 parameters were asked for; 20 are the fewest. Ask for 20.\n"
    assert not job.out.exists()
    assert cli.main([*job.argv, "--params", "0.5", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(job, capsys, make_record):
    job.answer = lambda: FakeCompression(make_record(1), fail_onnx=True)
    assert cli.main([*job.argv, "--params", "0.5", "--onnx"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert {p.name for p in job.folder.iterdir()} == {"models.py", "w.pt", "x.npy", "y.npy"} | _caches(job.folder)


def _caches(folder):
    return {p.name for p in folder.iterdir() if p.name == "__pycache__"}


def test_ctrl_c_is_130_and_leaves_nothing(job, capsys):
    def interrupt():
        raise KeyboardInterrupt

    job.answer = interrupt
    assert cli.main([*job.argv, "--params", "0.5"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not job.out.exists()


def test_an_existing_folder_is_refused_before_the_work(job, capsys):
    job.out.mkdir()
    (job.out / "mine.txt").write_text("kept")
    (job.out / "model.onnx").write_text("of another model")
    assert cli.main([*job.argv, "--params", "0.5"]) == 1
    assert "--force" in capsys.readouterr().err
    assert job.calls == []
    assert cli.main([*job.argv, "--params", "0.5", "--force"]) == 0
    names = {p.name for p in job.out.iterdir()}
    assert names == {"mine.txt", "recipe.json", "record.json", "report.html"}
    assert (job.out / "mine.txt").read_text() == "kept"


def test_an_empty_folder_is_used_and_a_file_refused(job):
    job.out.mkdir()
    assert cli.main([*job.argv, "--params", "0.5"]) == 0
    taken = [*job.argv, "--params", "0.5", "--force"]
    taken[taken.index("--out") + 1] = str(job.folder / "w.pt")
    assert cli.main(taken) == 1


def test_without_the_plot_extra_the_page_is_left_out(job, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main([*job.argv, "--params", "0.5"]) == 0
    assert "pathnorm[plot]" in capsys.readouterr().err
    assert sorted(p.name for p in job.out.iterdir()) == ["recipe.json", "record.json"]


def test_a_reader_that_goes_away_is_no_traceback():
    # The child waits until its reader has gone, and only then prints.
    code = "import sys; from pathnorm import cli; from pathnorm.cli import demo\n"
    code += "demo._demo = lambda a: (sys.stdin.read(), cli.Outcome('a table', {}))[1]\n"
    code += "sys.exit(cli.main(['demo']))"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_warnings_are_one_line_on_stderr(job, capsys, make_record):
    import warnings

    def warn():
        warnings.warn("stopped early; raise max_iter", UserWarning, stacklevel=1)
        return FakeCompression(make_record(1))

    job.answer = warn
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([*job.argv, "--params", "0.5"]) == 0
    assert "pathnorm: UserWarning: stopped early; raise max_iter\n" in capsys.readouterr().err


def test_bars_are_drawn_on_a_terminal_only(monkeypatch, capsys):
    with progress_bars() as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bars() as progress:
        assert progress is not None
        progress("moments", 1, 2)
        progress("moments", 2, 2)
    assert capsys.readouterr().out == ""
