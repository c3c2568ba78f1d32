"""``pathnorm fit``: from a table to a folder, without torch."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import pathnorm
from pathnorm import cli
from pathnorm.tables import read_batches

FILES = ["path.csv", "record.json", "report.html", "spline.csv", "spline.json"]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = np.arange(80.0)
    y = np.abs(x - 30.0) + rng.normal(0.0, 1.0, x.size)
    lines = ["rownames,time,value,w", *(f"{i},{a!r},{b!r},1" for i, (a, b) in enumerate(zip(x, y, strict=True)))]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")
    return path


def fit(table, *options):
    return cli.main(["fit", str(table), "--x", "time", "--y", "value", *options])


def columns(path):
    with path.open() as file:
        return {name: [float(row[name]) for row in rows] for rows in [list(csv.DictReader(file))] for name in rows[0]}


def test_a_folder_is_written_and_the_table_printed(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert fit(table, "--out", str(out)) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith("Certified optimal over all functions of BV2")
    assert stderr == f"pathnorm: written to {out}: {', '.join(FILES)}\n"
    assert sorted(path.name for path in out.iterdir()) == FILES
    record = json.loads((out / "record.json").read_text())
    found = json.loads((out / "spline.json").read_text())
    assert (found["x"], found["y"], found["scale"]) == ("time", "value", "values")
    spline = pathnorm.LinearSpline(*(found[name] for name in ("knots", "values", "left_slope", "right_slope")))
    data = columns(table)
    x, y = np.array(data["time"]), np.array(data["value"])
    expected = pathnorm.BV2RegressorCV().fit(x, y)
    assert np.array_equal(spline(x), expected.predict(x))
    assert record["tv2"] == pytest.approx(spline.tv2)
    rows = columns(out / "spline.csv")
    assert rows["knot"] == found["knots"]
    assert np.allclose(np.subtract(rows["slope_right"], rows["slope_left"]), spline.jumps, rtol=0, atol=0)
    path = columns(out / "path.csv")
    assert path["lam"] == record["path"]["lams"]
    assert path["lam"][int(np.argmin(path["sure"]))] == record["lam"]


def test_json_is_one_object_and_without_out_nothing_is_written(table, tmp_path, capsys):
    assert fit(table, "--json", "--lam", "5", "--weight", "w") == 0
    stdout, stderr = capsys.readouterr()
    found = json.loads(stdout)
    assert stderr == ""
    assert (found["verb"], found["out"], found["files"]) == ("fit", None, [])
    assert (found["record"]["lam"], found["record"]["weight_name"]) == (5.0, "w")
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_a_pipe_and_a_parquet_table_give_the_same(table, capsys, monkeypatch):
    data = columns(table)
    parquet.write_table(pa.table(data), table.with_suffix(".parquet"))
    spline = []
    for source, given in ((table, b""), (table.with_suffix(".parquet"), b""), ("-", table.read_bytes())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert fit(source, "--json", "--lam", "5") == 0
        spline.append(json.loads(capsys.readouterr().out)["record"]["spline"])
    assert spline[0] == spline[1] == spline[2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"chosen_by": "sure", "loss": "squared"}),
        ("--lam gcv", {"chosen_by": "gcv"}),
        ("--lam bic", {"chosen_by": "bic"}),
        ("--lam cv", {"chosen_by": "cv", "one_standard_error": False}),
        ("--one-se", {"chosen_by": "cv", "one_standard_error": True}),
        ("--lam 2e1", {"chosen_by": "given", "lam": 20.0, "path": None}),
        ("--lam 9 --loss quantile --quantile 0.9", {"loss": "quantile", "parameter": 0.9, "smoother": None}),
        ("--lam 9 --loss huber --delta 0.5 --sparsest", {"parameter": 0.5, "sparsest": True}),
        ("--lam 9 --no-smoother", {"smoother": None, "smoother_left_out": "it was not asked for"}),
    ],
)
def test_the_options_reach_the_record(table, capsys, options, expected):
    assert fit(table, "--json", *options.split()) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert {name: record[name] for name in expected} == expected


def test_a_band_has_a_seed(table, capsys):
    found = []
    for seed in "112":
        assert fit(table, "--json", "--lam", "9", "--band", "bootstrap", "--seed", seed) == 0
        found.append(json.loads(capsys.readouterr().out)["record"]["band"]["lower"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "options",
    [
        "--lam best",
        "--lam -1",
        "--lam nan",
        "--quantile 1 --loss quantile",
        "--quantile 0.5",
        "--delta 1",
        "--delta 0 --loss huber",
        "--loss huber --lam sure",
        "--loss absolute --band conditional",
        "--one-se --lam 3",
        "--one-se --lam gcv",
        "--loss l2",
        "--delimiter ab",
        "--header --no-header",
        "--weight mass",
        "--y valu",
        "--x value",
    ],
)
def test_misuse_is_2_and_writes_nothing(table, tmp_path, capsys, options):
    assert fit(table, "--out", str(tmp_path / "out"), *options.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_a_table_that_is_not_there_is_misuse_and_bad_values_are_a_failure(table, tmp_path, capsys):
    assert fit(tmp_path / "absent.csv") == 2
    assert "absent.csv" in capsys.readouterr().err
    table.write_text(table.read_text().replace("\n7,7.0,", "\n7,,"))
    assert fit(table, "--lam", "5") == 1
    assert "'time' in row 8 of the data" in capsys.readouterr().err
    assert fit(table, "--lam", "5", "--drop-missing") == 0
    out, err = capsys.readouterr()
    assert "1 of 80 rows lack a value and are left out" in err
    assert "1 of 80 rows lack a value" in out


def test_dates_and_a_comma_are_said(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("time;value\n" + "".join(f"2024-01-{day:02};{day},5\n" for day in range(1, 20)))
    assert fit(path, "--lam", "1") == 0
    out, err = capsys.readouterr()
    assert "decimals are written with a comma" in err
    assert "seconds since 1970-01-01 UTC" in out


def test_an_existing_folder_is_refused_before_the_work(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert fit(table, "--out", str(out)) == 0
    assert fit(table, "--out", str(out)) == 1
    assert "--force" in capsys.readouterr().err
    assert fit(table, "--out", str(out), "--force", "--lam", "5") == 0
    # A path of another fit would contradict the new record.
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if name != "path.csv"]


def test_ctrl_c_is_130_and_leaves_nothing(table, tmp_path, capsys, monkeypatch):
    from pathnorm.report.fit import FitRecord

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FitRecord, "to_html", interrupt)
    assert fit(table, "--lam", "5", "--out", str(tmp_path / "out")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_without_torch_and_matplotlib_all_but_the_page_is_written(table, tmp_path):
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'matplotlib', 'jinja2', 'rich'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from pathnorm import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    argv = ["fit", str(table), "--x", "time", "--y", "value", "--lam", "5", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *argv], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("pathnorm: no report.html: ")
    assert "pathnorm[plot]" in lines[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["record.json", "spline.csv", "spline.json"]


def test_without_pyarrow_the_extra_is_named(table, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert fit(table) == 1
    assert "pip install 'pathnorm[tables]'" in capsys.readouterr().err


def test_a_million_rows_in_pieces_give_the_answer_in_memory(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 10.0, 1_000_000).round(7))
    y = (np.sin(x) + rng.normal(0.0, 0.3, x.size)).round(5)
    path = tmp_path / "big.csv"
    from pyarrow import csv as arrow

    arrow.write_csv(pa.table({"time": x, "value": y}), path)
    pieces = list(read_batches(path, ("time", "value")))
    assert len(pieces) > 1
    pieces = [pieces[0], tuple(np.concatenate(part) for part in zip(*pieces[1:], strict=True))]
    regressor = pathnorm.BV2Regressor(50.0)
    for piece in pieces:
        regressor.partial_fit(*piece)
    assert fit(path, "--lam", "50", "--json", "--no-smoother") == 0
    record = json.loads(capsys.readouterr().out)["record"]
    whole = pathnorm.BV2Regressor(50.0).fit(x, y)
    assert record["n_samples"] == x.size
    assert record["spline"]["knots"] == whole.spline_.knots.tolist()
    assert record["spline"]["values"] == whole.spline_.values.tolist()
    assert np.allclose(regressor.spline_(x), whole.spline_(x), rtol=0, atol=1e-9)
    assert len(json.dumps(record)) < 500_000
