"""Mixed columns as features, the task, the scores on rows held out."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

from pathnorm.errors import DataError
from pathnorm.estimators.baselines import fitted_baselines
from pathnorm.estimators.holdout import class_scores, regression_scores
from pathnorm.estimators.table_fit import TableOptions, fit_table, target_of
from pathnorm.estimators.tabular import fit_encoding


def table(*columns):
    out = np.empty((len(columns[0]), len(columns)), dtype=object)
    for place, column in enumerate(columns):
        out[:, place] = column
    return out


def column(values, name="c", kind=None):
    if kind is None:
        kind = "text" if any(isinstance(value, str) for value in values) else "number"
    array = np.array(values, dtype=object if kind in ("text", "boolean") else float)
    missing = sum(value is None or value != value for value in values)
    return SimpleNamespace(name=name, kind=kind, values=array, n_missing=missing)


# ------------------------------------------------------------------------------ encoding


def test_the_encoding_follows_its_rules():
    X = table(
        [1.0, np.nan, 3.0, 8.0],
        [1.0, 2.0, 3.0, 4.0],
        ["a", "b", "c", "a"],
        ["no", "yes", "no", "no"],
        ["p", None, "p", "p"],
    )
    found = fit_encoding(X, ["age", "x", "town", "smoker", "gap"], ["number", "time", "text", "text", "text"])
    assert found.names == ("age", "age missing", "x", "town=a", "town=b", "town=c", "smoker=yes", "gap=p")
    assert found.sources == (0, 0, 1, 2, 2, 2, 3, 4)
    expected = [
        [1.0, 0.0, 1.0, 1, 0, 0, 0, 1],
        [3.0, 1.0, 2.0, 0, 1, 0, 1, 0],
        [3.0, 0.0, 3.0, 0, 0, 1, 0, 1],
        [8.0, 0.0, 4.0, 1, 0, 0, 0, 1],
    ]
    assert np.array_equal(found.transform(X), expected)


def test_unknown_and_rare_categories():
    many = [f"t{k % 12}" for k in range(600)] + ["rare"] * 3
    few = ["a", "b", "c"] * 201
    X = table(many, few)
    found = fit_encoding(X, ["many", "few"], ["text", "text"])
    assert len(found.names) == 13 + 3
    assert found.names[12] == "many=other"
    new = table(["nowhere", "rare", "t0"], ["z", "a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Z = found.transform(new)
    assert Z[0, 12] == Z[1, 12] == 1.0
    assert Z[2, 12] == 0.0
    assert not Z[0, 13:].any()  # zeros where there is no "other"
    assert found.unknown(new) == {"many": 1, "few": 1}
    assert found.unknown(X) == {}


def test_columns_of_no_use_are_left_out_with_a_reason():
    n = 20
    X = table([5.0] * n, [np.nan] * n, [f"id{k}" for k in range(n)], ["x"] * n, [None] * n, np.arange(n).astype(float))
    kinds = ["number", "number", "text", "text", "text", "number"]
    found = fit_encoding(X, list("abcdef"), kinds)
    assert found.names == ("f",)
    assert {k: reason.partition(":")[0] for k, reason in found.dropped.items()} == {
        0: "constant",
        1: "empty",
        2: "an identifier",
        3: "constant",
        4: "empty",
    }
    assert found.transform(X).shape == (n, 1)
    with pytest.raises(DataError, match="none is left: 'a' is constant"):
        fit_encoding(X[:, :5], list("abcde"), kinds[:5])


def test_the_description_is_enough_to_encode_by_hand():
    rng = np.random.default_rng(0)
    n = 400
    X = table(
        np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
        np.array([f"t{k}" for k in rng.integers(0, 14, n)], dtype=object),
        np.where(rng.random(n) < 0.2, None, np.array(["true", "false"])[rng.integers(0, 2, n)]),
        np.array(["u", "v"])[rng.integers(0, 2, n)],
    )
    found = fit_encoding(X, ["x", "town", "flag", "pair"], ["number", "text", "boolean", "text"])
    plan = json.loads(json.dumps(found.describe()))
    columns = {entry["name"]: entry for entry in plan["columns"]}
    values = {name: X[:, place] for place, name in enumerate(columns)}
    made = []
    for feature in plan["features"]:
        entry, cells = columns[feature["column"]], values[feature["column"]]
        if feature["name"] == f"{entry['name']} missing":
            made.append([float(np.isnan(cell)) for cell in cells])
        elif entry["kind"] == "number":
            made.append([entry["median"] if np.isnan(cell) else cell for cell in cells])
        else:
            category = feature["name"].removeprefix(f"{entry['name']}=")
            wanted = set(entry["other"]) if category == "other" else {category}
            assert category != entry["zero_is"]
            made.append([float((cell or "missing") in wanted) for cell in cells])
    assert np.array_equal(np.array(made).T, found.transform(X))


# ------------------------------------------------------------------------------ task


@pytest.mark.parametrize(
    ("values", "options", "task"),
    [
        ([1.0, 2.0, 1.0, 2.0], {}, "classification"),
        ([*range(10), *range(10)], {}, "classification"),
        ([*range(11), *range(11)], {}, "regression"),
        ([0.5, 1.0, 0.5, 1.0], {}, "regression"),
        (["a", "b", "a", "b"], {}, "classification"),
        ([1.0, 2.0, 1.0, 2.0], {"task": "regression"}, "regression"),
        ([1.0, 2.0, 1.0, 2.0], {"loss": "huber"}, "regression"),
        ([0.5, 1.0, 0.5, 1.0], {"task": "classification"}, "classification"),
    ],
)
def test_the_task_is_told_from_the_target(values, options, task):
    assert target_of(column(values), TableOptions(**options)).task == task


def test_rows_without_target_are_left_out():
    found = target_of(column(["a", None, "b", "a", "b"]), TableOptions())
    assert found.rows.tolist() == [0, 2, 3, 4]
    assert target_of(column([1.5, np.nan, 2.5]), TableOptions()).rows.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        (["a", "a", "a"], {}, DataError, "At least two classes"),
        (["a", "a", "b"], {}, DataError, "'b' of 'c' has one"),
        ([1.5, 1.5], {}, DataError, "must vary"),
        ([None, None], {"task": "classification"}, DataError, "is empty"),
        (["a", "b"], {"task": "regression"}, ValueError, "needs a target of numbers"),
        (["a", "a", "b", "b"], {"loss": "huber"}, ValueError, "--loss huber does not go with classification"),
    ],
)
def test_a_target_that_cannot_be_is_refused(values, options, error, message):
    kind = "text" if None in values else None
    with pytest.raises(error, match=message):
        target_of(column(values, kind=kind), TableOptions(**options))


def test_a_fit_sees_the_training_rows_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = np.abs(x)
    x[::7] = np.nan
    columns = [column(x, "x"), column(rng.normal(size=80), "z")]
    options = TableOptions(lam=1.0, seed=3)
    fit = fit_table(columns, column(y, "y"), options=options)
    assert sorted([*fit.train, *fit.test]) == list(range(80))
    assert fit.test.size == 16
    held = x.copy()
    held[fit.test] = 1e3
    again = fit_table([column(held, "x"), columns[1]], column(y, "y"), options=options)
    assert np.array_equal(fit.model.network_.W, again.model.network_.W)
    assert not np.array_equal(fit.X_test, again.X_test)


def test_more_features_than_rows_get_a_ridge():
    rng = np.random.default_rng(0)
    columns = [column(rng.normal(size=12), f"x{k}") for k in range(12)]
    fit = fit_table(columns, column(rng.normal(size=12), "y"), options=TableOptions(lam=5.0))
    assert fit.affine == "ridge"
    assert "a free affine part meets all" in fit.remarks[0]


def test_weights_must_be_weights():
    rng = np.random.default_rng(0)
    columns, y = [column(rng.normal(size=12), "x")], column(rng.normal(size=12), "y")
    for bad in (-1.0, np.nan):
        weight = column([bad, *[1.0] * 11], "w")
        with pytest.raises(DataError, match="row 1 of 'w'"):
            fit_table(columns, y, weight=weight, options=TableOptions(lam=1.0))


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="Change --test-size"):
        fit_table([column([1.0, 2.0, 3.0], "x")], column([0.5, 1.5, 2.5], "y"), options=TableOptions())


# ------------------------------------------------------------------------------ scores


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), weighted=st.booleans())
def test_scores_are_those_of_scikit_learn(seed, weighted):
    rng = np.random.default_rng(seed)
    n = 40
    weights = rng.uniform(0.1, 2.0, n) if weighted else None
    y, p = rng.normal(3.0, 1.0, n), rng.normal(3.0, 1.0, n)
    found = regression_scores(y, p, weights=weights)
    assert found["r2"].value == pytest.approx(r2_score(y, p, sample_weight=weights))
    assert found["rmse"].value == pytest.approx(root_mean_squared_error(y, p, sample_weight=weights))
    assert found["mae"].value == pytest.approx(mean_absolute_error(y, p, sample_weight=weights))
    labels = np.concatenate(([0, 1], rng.integers(0, 2, n - 2)))
    second = rng.integers(1, 9, n) / 10.0  # with ties
    probabilities = np.column_stack((1.0 - second, second))
    scores = class_scores(
        labels, (second > 0.5).astype(int), probabilities=probabilities, margin=second, weights=weights
    )
    assert scores["auc"].value == pytest.approx(roc_auc_score(labels, second, sample_weight=weights))
    assert scores["log_loss"].value == pytest.approx(log_loss(labels, probabilities, sample_weight=weights))
    for score in [*found.values(), *scores.values()]:
        assert score.low <= score.high


def test_the_interval_covers_as_it_should():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        error = rng.normal(size=60)
        found = regression_scores(error, np.zeros(60), seed=seed)["mae"]
        covered += found.low <= np.sqrt(2.0 / np.pi) <= found.high
    assert covered >= 50


def test_losses_of_quantile_and_huber_come_first():
    y, p = np.array([0.0, 1.0, 5.0]), np.array([1.0, 1.0, 1.0])
    assert regression_scores(y, p, loss="quantile", parameter=0.9)["loss"].value == pytest.approx((0.1 + 3.6) / 3)
    assert regression_scores(y, p, loss="huber", parameter=1.0)["loss"].value == pytest.approx((0.5 + 3.5) / 3)


@pytest.mark.parametrize("loss", ["squared", "absolute", "quantile", "poisson"])
def test_baselines_follow_the_loss(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.exp(0.3 * X[:, 0]) + 0.1
    found = fitted_baselines(X, y, task="regression", loss=loss, quantile=0.8, weights=np.ones(60))
    assert [beside.key for beside in found] == ["linear", "boosting"]
    if loss == "quantile":
        assert np.mean(y <= found[0].model.predict(X)) == pytest.approx(0.8, abs=0.06)


def test_the_linear_baseline_survives_a_class_that_a_fold_lacks():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = np.where(X[:, 0] > 0.0, "b", "a").astype(object)
    y[:2] = "rare"
    linear = fitted_baselines(X, y.astype(str), task="classification")[0].model
    assert np.isfinite(linear.cv_results_["mean_test_score"]).all()
    assert linear.score(X, y.astype(str)) > -0.5
    assert np.mean(linear.predict(X) == y) > 0.9
