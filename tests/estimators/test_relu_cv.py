"""lam by cross-validation: the grid, the folds, the choice, and the fit that follows."""

from __future__ import annotations

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import KFold

from pathnorm import ReLUClassifier, ReLUClassifierCV, ReLURegressor, ReLURegressorCV
from pathnorm.errors import CertificateWarning


def sample(seed=0, rows=60):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, 2))
    return X, np.abs(X.sum(axis=1)) - 1.0 + 0.3 * rng.standard_normal(rows)


QUICK = {"n_lams": 6, "lam_ratio": 1e-2, "cv": 3, "tol": 1e-3}


def test_the_grid_begins_at_lam_max_and_the_choice_is_the_best_of_it():
    X, y = sample()
    model = ReLURegressorCV(**QUICK, random_state=0).fit(X, y)
    path = model.path_
    assert path.lams[0] == pytest.approx(model.lam_max_)
    np.testing.assert_allclose(path.lams / path.lams[0], np.geomspace(1.0, 1e-2, 6)[: path.lams.size])
    assert model.lam_ == path.lams[path.scores.argmin()]
    assert path.lams[0] > model.lam_ > 0.0
    np.testing.assert_allclose(path.scores, path.fold_scores.mean(axis=0))
    np.testing.assert_allclose(path.errors, path.fold_scores.std(axis=0, ddof=1) / np.sqrt(3.0))
    assert (np.diff(path.n_neurons) >= -1.0).all()
    assert path.fold_scores.shape == (3, path.lams.size)
    assert model.certificate_.scope == "function_space"
    again = ReLURegressor(model.lam_, tol=1e-3, random_state=0).fit(X, y)
    assert model.certificate_.primal == pytest.approx(again.certificate_.primal, rel=2e-3)
    assert model.lam_max_ == pytest.approx(again.lam_max_)
    assert model.score(X, y) > 0.5


def test_scores_are_held_out_losses_per_sample():
    X, y = sample(1)
    split = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    model = ReLURegressorCV(lams=[3.0], cv=split, standardize=False, tol=1e-3, random_state=0).fit(X, y)
    for k, (train, held) in enumerate(split):
        fit = ReLURegressor(3.0 * 40 / 60, standardize=False, tol=1e-6, random_state=0).fit(X[train], y[train])
        expected = 0.5 * ((y[held] - fit.predict(X[held])) ** 2).mean()
        assert model.path_.fold_scores[k, 0] == pytest.approx(expected, rel=0.05)
    assert model.lam_ == 3.0


def test_one_standard_error_takes_a_larger_lam():
    X, y = sample(2)
    best = ReLURegressorCV(**QUICK, random_state=0).fit(X, y)
    simple = ReLURegressorCV(**QUICK, one_standard_error=True, random_state=0).fit(X, y)
    assert simple.lam_ >= best.lam_
    at = int(best.path_.scores.argmin())
    allowed = best.path_.scores[at] + best.path_.errors[at]
    assert simple.lam_ == best.path_.lams[np.argmax(best.path_.scores <= allowed)]


def test_given_lams_are_taken_from_the_largest_down():
    X, y = sample(3)
    model = ReLURegressorCV(lams=[0.5, 8.0, 2.0], cv=3, tol=1e-3, random_state=0).fit(X, y)
    assert model.path_.lams.tolist() == [8.0, 2.0, 0.5][: model.path_.lams.size]


def test_the_seed_decides_and_jobs_do_not():
    X, y = sample(4)
    first = ReLURegressorCV(**QUICK, random_state=1).fit(X, y)
    with parallel_config("threading"):
        second = ReLURegressorCV(**QUICK, n_jobs=2, random_state=1).fit(X, y)
    np.testing.assert_array_equal(first.path_.fold_scores, second.path_.fold_scores)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    third = ReLURegressorCV(**QUICK, random_state=2).fit(X, y)
    assert (first.path_.fold_scores[:, 0] != third.path_.fold_scores[:, 0]).any()


def test_splitters_of_scikit_learn():
    X, y = sample(5)
    split = KFold(3, shuffle=True, random_state=0)
    first = ReLURegressorCV(n_lams=3, lam_ratio=0.1, cv=split, tol=1e-3).fit(X, y)
    second = ReLURegressorCV(n_lams=3, lam_ratio=0.1, cv=list(split.split(X)), tol=1e-3).fit(X, y)
    np.testing.assert_allclose(first.path_.fold_scores[:, 0], second.path_.fold_scores[:, 0])


def test_samples_of_weight_zero_are_in_no_fold_and_indices_stay_those_of_the_user():
    X, y = sample(6)
    weights = np.ones(60)
    weights[:10] = 0.0
    split = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    model = ReLURegressorCV(lams=[3.0], cv=split, standardize=False, tol=1e-3).fit(X, y, sample_weight=weights)
    kept = [(train[train >= 10] - 10, held[held >= 10] - 10) for train, held in split]
    plain = ReLURegressorCV(lams=[3.0], cv=kept, standardize=False, tol=1e-3).fit(X[10:], y[10:])
    np.testing.assert_allclose(model.path_.fold_scores, plain.path_.fold_scores, rtol=1e-2)


def test_a_ridge_that_was_given_stays_even_if_it_is_one():
    X, y = sample(7)
    for ridge in (0.7, 1.0):
        model = ReLUClassifierCV(n_lams=2, lam_ratio=0.3, cv=2, ridge=ridge, tol=1e-2).fit(X, y > 0.0)
        assert model.solution_.problem.ridge == ridge
    model = ReLUClassifierCV(n_lams=2, lam_ratio=0.3, cv=2, tol=1e-2).fit(X, y > 0.0)
    assert model.solution_.problem.ridge == model.lam_


@pytest.mark.parametrize("classes", [2, 3])
def test_classes(classes):
    X, f = sample(8)
    y = np.array(["a", "b", "c"])[np.digitize(f, [0.0] if classes == 2 else [-0.6, 0.3])]
    model = ReLUClassifierCV(n_lams=3, lam_ratio=0.05, cv=2, tol=1e-2, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.7
    assert model.predict_proba(X).shape == (60, classes)
    assert model.lam_ < model.path_.lams[0]
    again = ReLUClassifier(model.lam_, tol=1e-3, random_state=0).fit(X, y)
    assert np.abs(again.predict_proba(X) - model.predict_proba(X)).max() < 0.2


def test_where_the_affine_part_interpolates_any_lam_will_do():
    X = np.random.default_rng(0).standard_normal((20, 2))
    model = ReLURegressorCV(n_lams=3, cv=2, tol=1e-3).fit(X, X @ [1.0, 2.0])
    np.testing.assert_allclose(model.predict(X), X @ [1.0, 2.0], atol=1e-8)
    assert model.n_neurons_ == 0


def test_parameters_are_stored_as_given():
    for kind in (ReLURegressorCV, ReLUClassifierCV):
        model = kind(n_lams=3, cv=2, tol=1e-2)
        assert clone(model).get_params() == model.get_params()
        assert "lam" not in model.get_params()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cv": 1}, "cv must lie between 2"),
        ({"cv": 100}, "n_samples = 60; got 100"),
        ({"n_lams": 0}, "n_lams >= 1"),
        ({"lam_ratio": 1.0}, "0 < lam_ratio < 1"),
        ({"lams": []}, "lams must be finite numbers > 0"),
        ({"lams": [1.0, -1.0]}, "lams must be finite numbers > 0"),
        ({"lams": [np.nan]}, "lams must be finite numbers > 0"),
        ({"loss": "hinge"}, "loss must be one of"),
    ],
)
def test_bad_arguments(changes, message):
    X, y = sample()
    with pytest.raises(ValueError, match=message):
        ReLURegressorCV(**changes).fit(X, y)


def test_folds_do_not_warn_and_the_final_fit_does():
    X, y = sample(9)
    with pytest.warns(CertificateWarning) as seen:
        ReLURegressorCV(lams=[0.05], cv=2, max_iter=1, tol=1e-9, random_state=0).fit(X, y)
    assert len([one for one in seen if issubclass(one.category, CertificateWarning)]) == 1
