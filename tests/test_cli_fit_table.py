"""``pathnorm fit --target``: from a table with many columns to a folder, without torch."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from pathnorm import ShallowNet, cli

FILES = ["formula.txt", "network.json", "predictions.csv", "preprocess.json", "record.json", "report.html"]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n = 120
    x, z = rng.uniform(-1.0, 1.0, n), rng.normal(size=n)
    town = np.array(["Bern", "Basel", "Genf"])[rng.integers(0, 3, n)]
    y = 3.0 * np.abs(x) + 0.5 * z + (town == "Bern") + 0.1 * rng.normal(size=n)
    cells = []
    for k in range(n):
        size = "" if k % 10 == 0 else f"{z[k]:.4f}"
        price = "" if k == 7 else f"{y[k]:.4f}"
        cells.append([f"id{k}", f"{x[k]:.4f}", size, town[k], "7", ["no", "yes"][int(y[k] > 1.5)], "1", price])
    return [["name", "x", "size", "town", "same", "dear", "w", "price"], *cells]


@pytest.fixture
def table(rows, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    return path


def fit(table, *options, target="price"):
    return cli.main(["fit", str(table), "--target", target, *options])


def record_of(capsys):
    return json.loads(capsys.readouterr().out)["record"]


def test_a_folder_is_written_and_the_certificate_comes_first(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert fit(table, "--drop", "dear,w", "--id", "name", "--lam", "2", "--interactions", "2", "--out", str(out)) == 0
    stdout, stderr = capsys.readouterr()
    record = json.loads((out / "record.json").read_text())
    assert stdout.replace("\n", " ").startswith(record["sentence"] + ". It predicts price from 3 columns (6 encoded")
    assert "'same' is left out: constant" in stderr
    assert "1 of 120 rows have no target and are left out" in stderr
    assert "missing values: 12 in 'size'" in stderr
    assert f"written to {out}: {', '.join(FILES)}" in stderr
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (record["n_train"], record["n_test"], record["task"]) == (95, 24, "regression")
    # What is in the folder predicts what the folder says, by hand.
    net = ShallowNet.load(out / "network.json")
    plan = json.loads((out / "preprocess.json").read_text())
    described = {entry["name"]: entry for entry in plan["columns"]}
    with table.open() as file:
        data = list(csv.DictReader(file))
    with (out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 24
    for line in predictions:
        cells = data[int(line["row"]) - 1]
        assert line["name"] == cells["name"]
        assert float(line["observed"]) == float(cells["price"])
        features = []
        for feature in plan["features"]:
            name, column = feature["name"], feature["column"]
            if name == f"{column} missing":
                features.append(float(cells[column] == ""))
            elif described[column]["kind"] == "number":
                features.append(float(cells[column] or described[column]["median"]))
            else:
                features.append(float(name == f"{column}={cells[column]}"))
        assert net([features])[0, 0] == pytest.approx(float(line["predicted"]), abs=1e-9)
    assert json.loads((out / "network.json").read_text())["input_names"] == [f["name"] for f in plan["features"]]
    rmse = np.sqrt(np.mean([(float(line["observed"]) - float(line["predicted"])) ** 2 for line in predictions]))
    scores = {(score["model"], score["metric"]): score for score in record["scores"]}
    assert scores["network", "rmse"]["value"] == pytest.approx(rmse)
    assert scores["network", "r2"]["value"] > scores["linear", "r2"]["value"]
    assert "f(x, size, size missing, town=Basel" in (out / "formula.txt").read_text()


def test_classes_have_probabilities_and_cross_validation_a_path(table, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--features", "x,size,town", "--interactions", "1", "--folds", "3", "--one-se", "--out", str(out)]
    assert fit(table, *options, target="dear") == 0
    assert "classification: the target holds text" in capsys.readouterr().err
    record = json.loads((out / "record.json").read_text())
    assert (record["classes"], record["loss"], record["chosen_by"]) == (["no", "yes"], "logistic", "cv")
    assert record["scope"] == "function_space"
    with (out / "path.csv").open() as file:
        path = list(csv.DictReader(file))
    assert [float(row["lam"]) for row in path] == record["path"]["lams"]
    assert record["lam"] in record["path"]["lams"]
    with (out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    for line in predictions:
        assert (float(line["probability yes"]) > 0.5) == (line["predicted"] == "yes")
    assert {score["metric"] for score in record["scores"]} == {"accuracy", "log_loss", "auc"}
    # A path of another fit would contradict the new record.
    assert fit(table, *options[:4], "--lam", "3", "--out", str(out), "--force", target="dear") == 0
    assert not (out / "path.csv").exists()


def test_json_is_one_object_and_a_pipe_gives_the_same(table, tmp_path, capsys, monkeypatch):
    found = []
    for source in (table, "-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.read_bytes())))
        assert fit(source, "--json", "--lam", "5", "--features", "x,town", "--weight", "w") == 0
        data = json.loads(capsys.readouterr().out)
        assert (data["verb"], data["out"], data["files"]) == ("fit", None, [])
        for name in ("seconds", "seconds_fit", "peak_memory_mb"):
            del data["record"][name]
        found.append(data["record"])
    assert found[0] == found[1]
    assert found[0]["weight_name"] == "w"
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--loss huber --delta 0.5", {"loss": "huber", "parameter": 0.5, "task_rule": "by the loss"}),
        ("--affine none", {"affine": "none", "parameter": None, "task": "regression"}),
        ("--max-neurons 1 --relaxed --affine ridge", {"max_neurons": 1, "relaxed": True, "affine": "ridge"}),
        ("--interactions 2 --test-size 0.5 --seed 4", {"interactions": 2, "n_test": 60, "seed": 4}),
    ],
)
@pytest.mark.filterwarnings("ignore::pathnorm.errors.CertificateWarning")  # fewer neurons than the optimum has
def test_the_options_reach_the_record(table, capsys, options, expected):
    assert fit(table, "--json", "--lam", "1", "--features", "x,size", *options.split()) == 0
    record = record_of(capsys)
    assert {name: record[name] for name in expected} == expected


def test_categories_that_no_training_row_has_are_said(table, capsys):
    options = ["--features", "x,town", "--lam", "5", "--json"]
    lines = table.read_text().splitlines()
    held = train_test_split(np.arange(119), test_size=24, random_state=0)[1]
    row = int(held[held < 7][0])  # before the row without a target
    cells = lines[row + 1].split(",")
    lines[row + 1] = ",".join([*cells[:3], "Zug", *cells[4:]])
    table.write_text("\n".join(lines) + "\n")
    assert fit(table, *options) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["record"]["unknown"] == [["town", 1]]
    assert "1 of the rows held out has a value of 'town' that no training row has" in err


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--x x",
        "--x x --y price --target price",
        "--x x --y price --folds 3",
        "--x x --y price --relaxed",
        "--x x --y price --loss squared_hinge",
        "--target price --sparsest",
        "--target price --drop-missing",
        "--target price --band none",
        "--target price --lam sure",
        "--target price --lam 0",
        "--target price --lam 3 --one-se",
        "--target price --lam 3 --folds 4",
        "--target price --folds 1",
        "--target price --test-size 1",
        "--target price --delta 1",
        "--target price --loss logistic --task regression",
        "--target price --interactions 3",
        "--target prize",
        "--target price --features x,price",
        "--target price --drop x --features x",
        "--target price --id price",
        "--target price --features ,",
        "--target town --task regression",
        "--target town --loss squared",
    ],
)
def test_misuse_is_2_and_writes_nothing(table, tmp_path, capsys, options):
    assert cli.main(["fit", str(table), "--out", str(tmp_path / "out"), *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_the_two_forms_are_named(table, capsys):
    assert cli.main(["fit", str(table)]) == 2
    assert "--x and --y for a spline of one variable, or --target for a network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        ("same", "", "At least two classes are needed"),
        ("name", "", "Every class needs two rows"),
        ("price", "\nid9,x", "but for 1 of 120 cells"),
    ],
)
def test_data_that_cannot_support_it_is_a_failure(table, tmp_path, capsys, target, change, message):
    if change:
        lines = table.read_text().splitlines()
        cells = lines[10].split(",")
        lines[10] = ",".join([cells[0], "much", *cells[2:]])
        table.write_text("\n".join(lines) + "\n")
    assert fit(table, "--lam", "5", "--out", str(tmp_path / "out"), target=target) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_an_existing_folder_is_refused_before_the_work(table, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    assert fit(tmp_path / "absent.csv", "--out", str(out)) == 1
    assert "--force" in capsys.readouterr().err


def test_ctrl_c_is_130_and_leaves_nothing(table, tmp_path, capsys, monkeypatch):
    from pathnorm.report.network import NetworkRecord

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkRecord, "to_html", interrupt)
    assert fit(table, "--features", "x", "--lam", "5", "--out", str(tmp_path / "out")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_without_torch_and_matplotlib_all_but_the_page_is_written(table, tmp_path):
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'matplotlib', 'jinja2', 'rich', 'pandas'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from pathnorm import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    argv = ["fit", str(table), "--target", "price", "--features", "x", "--lam", "5", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *argv], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pathnorm[plot]" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES[:-1]
