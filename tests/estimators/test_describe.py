"""The record of a fitted regressor: every number again, another way."""

from __future__ import annotations

import numpy as np
import pytest

import pathnorm
from pathnorm.estimators import describe
from pathnorm.estimators.describe import Origin, describe_fit


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 10.0, 200).round(1))
    return x, np.abs(x - 4.0) + rng.normal(0.0, 0.3, x.size), rng.uniform(0.5, 2.0, x.size)


def test_the_numbers_are_those_of_the_regressor(data):
    x, y, w = data
    regressor = pathnorm.BV2Regressor(2.0).fit(x, y, w)
    record = describe_fit(regressor, origin=Origin(x="t", y="v", weight="w", rows=210, dropped=10), seconds_fit=0.5)
    residual = y - regressor.predict(x)
    square = np.average(residual**2, weights=w)
    assert record.rmse == pytest.approx(square**0.5)
    assert record.r2 == pytest.approx(1.0 - square / np.average((y - np.average(y, weights=w)) ** 2, weights=w))
    assert record.gcv == pytest.approx(square / (1.0 - (record.n_knots + 2) / 200) ** 2)
    assert record.tv2 == pytest.approx(regressor.spline_.to_network().path_norm())
    assert (record.n_samples, record.n_distinct, record.rows, record.rows_dropped) == (200, np.unique(x).size, 210, 10)
    assert (record.lam, record.chosen_by, record.path, record.scope) == (2.0, "given", None, "function_space")
    assert (record.primal, record.dual) == (regressor.certificate_.primal, regressor.certificate_.dual)
    assert record.gap <= 1e-9
    assert 0.2 < record.noise < 0.4
    spline = record.spline
    again = pathnorm.LinearSpline(spline.knots, spline.values, spline.slopes[0], spline.slopes[-1])
    assert np.array_equal(again(x), regressor.spline_(x))


def test_the_smoothing_spline_beside_it_is_judged_by_the_same_formula(data):
    x, y, w = data
    other = pathnorm.SmoothingSplineRegressor().fit(x, y, w)
    found = describe_fit(pathnorm.BV2Regressor(2.0).fit(x, y, w)).smoother
    assert (found.lam, found.dof) == (other.lam_, other.df_)
    assert found.rmse == pytest.approx(np.average((y - other.predict(x)) ** 2, weights=w) ** 0.5)
    assert found.gcv == pytest.approx(other.gcv_ / w.mean(), rel=1e-6)
    assert np.allclose(other.predict(np.array(found.x)), found.y)


@pytest.mark.parametrize("loss", ["squared", "huber", "logistic"])
def test_the_dual_curve_is_a_proof_to_the_eye(data, loss):
    x, y, w = data
    y = y / y.max() if loss == "logistic" else y
    y = np.clip(y, 0.0, 1.0) if loss == "logistic" else y
    regressor = pathnorm.BV2Regressor(0.5, loss=loss).fit(x + 1.7e9, y, w)
    curve = describe_fit(regressor, smoother=False).dual_curve
    at, v = np.array(curve.x), np.array(curve.v)
    assert np.abs(v).max() <= 1.0 + 1e-4
    assert np.abs(v[[0, -1]]).max() < 1e-4
    jumps = regressor.spline_.jumps
    assert regressor.n_knots_ > 1
    assert np.allclose(v[np.isin(at, regressor.spline_.knots)], np.sign(jumps), atol=1e-4)


def test_a_chosen_lam_comes_with_its_path(data):
    x, y, _ = data
    regressor = pathnorm.BV2RegressorCV(criterion="gcv").fit(x, y)
    record = describe_fit(regressor, smoother=False)
    path = record.path
    assert record.chosen_by == path.criterion == "gcv"
    at = path.lams.index(record.lam)
    assert path.n_knots[at] == record.n_knots
    assert path.scores[at] == min(path.scores)
    assert record.smoother is None
    assert "not asked for" in record.smoother_left_out


@pytest.mark.parametrize(("loss", "scale"), [("squared", None), ("quantile", None), ("poisson", np.exp)])
def test_what_is_drawn_is_the_mean_or_the_quantile(data, loss, scale):
    x, y, _ = data
    regressor = pathnorm.BV2Regressor(3.0, loss=loss, quantile=0.8).fit(x, np.abs(y))
    record = describe_fit(regressor)
    f = regressor.spline_(np.array(record.picture.fit_x))
    assert np.allclose(record.picture.fit_y, f if scale is None else scale(f))
    assert np.allclose(
        np.array(record.picture.y) - regressor.predict(np.array(record.picture.x)), record.picture.residual
    )
    assert (record.smoother is None) == (loss != "squared")
    assert record.parameter == (0.8 if loss == "quantile" else None)
    assert (record.gcv is None) == (loss != "squared")


def test_the_band_says_what_it_covers(data):
    x, y, _ = data
    regressor = pathnorm.BV2Regressor(3.0).fit(x, y)
    band = describe_fit(regressor, band="conditional").band
    lower, upper = regressor.band(np.array(band.x), method="conditional")
    assert np.array_equal(band.lower, lower)
    assert np.array_equal(band.upper, upper)
    assert "not the bias" in band.covers


def test_beyond_so_many_samples_there_is_no_smoothing_spline(data, monkeypatch):
    monkeypatch.setattr(describe, "MOST_SMOOTHED", 199)
    record = describe_fit(pathnorm.BV2Regressor(3.0).fit(*data[:2]))
    assert record.smoother is None
    assert "199 samples at most" in record.smoother_left_out


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_samples_have_a_record(n, tmp_path):
    x = np.arange(float(n))
    record = describe_fit(pathnorm.BV2Regressor(1.0).fit(x, x**2))
    assert record.n_samples == n
    assert record.to_html(tmp_path / "r.html").is_file()
    same = describe_fit(pathnorm.BV2Regressor(1.0).fit(np.zeros(n), x))
    assert same.n_distinct == 1
    assert same.to_html(tmp_path / "r.html").is_file()
