"""BV² regression as scikit-learn knows it: contract, incremental fits, choice of lam, bands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtri
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from pathnorm import BV2Regressor, BV2RegressorCV, bv2_path
from pathnorm.errors import DataError
from pathnorm.estimators.selection import choose
from pathnorm.problems.losses import Huber, Pinball, loss_of
from pathnorm.spaces import LinearSpline

SEEDS = st.integers(0, 10**6)
POINTS = np.linspace(-0.5, 1.5, 41)


def sample(seed, n, noise=0.3, *, duplicates=False):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    if duplicates:
        x = np.round(30.0 * x) / 30.0
    return x, np.sin(9.0 * x) + noise * rng.standard_normal(n), rng.uniform(0.3, 3.0, n)


# ------------------------------------------------------------------------------------------------- fit and predict


def test_what_is_learnt():
    x, y, weights = sample(0, 100)
    model = BV2Regressor(0.02).fit(x, y, weights)
    assert isinstance(model.spline_, LinearSpline)
    assert model.n_knots_ == model.spline_.n_knots > 3
    assert model.dof_ == model.n_knots_ + 2
    assert model.n_features_in_ == 1
    assert model.certificate_.gap <= 1e-9
    assert model.certificate_.scope == "function_space"
    expected = 0.5 * weights @ (y - model.predict(x)) ** 2 + 0.02 * model.spline_.tv2
    assert model.certificate_.primal == pytest.approx(expected, rel=1e-12)
    assert model.solution_.problem.lam == 0.02
    assert BV2Regressor(model.lam_max_ * (1 + 1e-9)).fit(x, y, weights).n_knots_ == 0
    assert BV2Regressor(model.lam_max_ * 0.999).fit(x, y, weights).n_knots_ > 0
    assert model.score(x, y) > 0.5


def test_predictions_are_linear_beyond_the_data():
    x, y, _ = sample(1, 100)
    model = BV2Regressor(0.02).fit(x, y)
    first, last = x.min(), x.max()
    np.testing.assert_allclose(np.diff(model.predict(first - np.arange(4.0)), 2), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.diff(model.predict(last + np.arange(4.0)), 2), 0.0, atol=1e-12)
    np.testing.assert_array_equal(model.predict(POINTS), model.spline_(POINTS))


def test_vectors_and_columns_are_the_same_and_more_columns_are_refused():
    x, y, _ = sample(2, 30)
    one, other = BV2Regressor(0.1).fit(list(x), y), BV2Regressor(0.1).fit(x[:, None], y)
    np.testing.assert_array_equal(one.predict(POINTS[:, None]), other.predict(POINTS))
    assert one.n_features_in_ == other.n_features_in_ == 1
    for model in (BV2Regressor(), BV2RegressorCV()):
        with pytest.raises(ValueError, match=rf"{type(model).__name__} needs X with one column; got shape \(15, 2\)"):
            model.fit(x.reshape(15, 2), y[:15])


def test_bad_samples_are_refused_by_name():
    with pytest.raises(ValueError, match="X contains NaN"):
        BV2Regressor().fit([[0.0], [np.nan]], [0.0, 1.0])
    with pytest.raises(ValueError, match="y contains NaN"):
        BV2Regressor().fit([[0.0], [1.0]], [0.0, np.nan])
    with pytest.raises(DataError, match="sample_weight must be finite; got nan"):
        BV2Regressor().fit([[0.0], [1.0]], [0.0, 1.0], [1.0, np.nan])
    with pytest.raises(DataError, match="sample_weight must not be negative"):
        BV2Regressor().fit([[0.0], [1.0]], [0.0, 1.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="X contains NaN"):
        BV2Regressor().fit([0.0, 1.0], [0.0, 1.0]).predict([np.nan])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": -1.0}, "lam must be a finite number >= 0"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"loss": "quantile", "quantile": 1.5}, "quantile must lie strictly between"),
        ({"loss": "huber", "delta": 0.0}, "delta must be a positive number"),
        ({"loss": "poisson"}, "Poisson loss needs targets >= 0"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"loss": "absolute", "lam": 0.0}, "lam must be positive for this loss"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BV2Regressor(**changes).fit([0.0, 1.0, 2.0], [0.0, -1.0, 3.0])


def test_parameters_of_the_losses_reach_them():
    x, y, _ = sample(3, 60)
    huber = BV2Regressor(0.1, loss="huber", delta=0.2, tol=1e-8).fit(x, y)
    quantile = BV2Regressor(0.1, loss="quantile", quantile=0.9, tol=1e-8).fit(x, y)
    assert huber.solution_.problem.loss == Huber(0.2)
    assert quantile.solution_.problem.loss == Pinball(0.9 - 1.0, 0.9)
    assert np.mean(y <= quantile.predict(x) + 1e-7) >= 0.9


def test_predictions_are_means():
    rng = np.random.default_rng(4)
    x = rng.uniform(0.0, 1.0, 300)
    classes = (rng.random(300) < expit(3.0 * np.sin(6.0 * x))).astype(float)
    model = BV2Regressor(0.1, loss="logistic").fit(x, classes)
    np.testing.assert_array_equal(model.predict(POINTS), expit(model.spline_(POINTS)))
    assert model.predict(x).mean() == pytest.approx(classes.mean(), abs=1e-6)
    counts = rng.poisson(np.exp(np.sin(6.0 * x))).astype(float)
    model = BV2Regressor(0.1, loss="poisson").fit(x, counts)
    np.testing.assert_array_equal(model.predict(POINTS), np.exp(model.spline_(POINTS)))
    assert model.predict(x).mean() == pytest.approx(counts.mean(), abs=1e-6)


@pytest.mark.parametrize("model", [BV2Regressor(1e-4), BV2RegressorCV(n_lams=8)])
def test_sparsest_has_fewer_knots_and_the_same_predictions(model):
    x = np.sort(np.random.default_rng(5).uniform(0.0, 1.0, 120))
    y = np.exp(3.0 * x) + 0.01 * np.random.default_rng(6).standard_normal(120)
    plain = clone(model).fit(x, y)
    sparse = clone(model).set_params(sparsest=True).fit(x, y)
    assert sparse.n_knots_ == sparse.spline_.n_knots < plain.n_knots_
    np.testing.assert_allclose(sparse.predict(x), plain.predict(x), atol=1e-10)
    # Degrees of freedom are counted at the data.
    assert sparse.dof_ == plain.dof_ == plain.n_knots_ + 2
    assert sparse.certificate_.gap <= 1e-9
    assert sparse.certificate_.primal == pytest.approx(plain.certificate_.primal, rel=1e-10)


def test_few_samples():
    one = BV2Regressor().fit([2.0], [5.0])
    np.testing.assert_array_equal(one.predict([0.0, 9.0]), [5.0, 5.0])
    assert (one.dof_, one.n_knots_, one.lam_max_) == (1, 0, 0.0)
    two = BV2Regressor().fit([2.0, 1.0, 1.0], [5.0, 3.0, 1.0])
    np.testing.assert_allclose(two.predict([1.0, 2.0, 3.0]), [2.0, 5.0, 8.0])
    assert (two.dof_, two.lam_max_) == (2, 0.0)


def test_not_fitted():
    for use in (lambda m: m.predict([0.0]), lambda m: m.band([0.0]), lambda m: m.plot()):
        with pytest.raises(NotFittedError):
            use(BV2Regressor())


# ------------------------------------------------------------------------------------------------- partial_fit


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, duplicates=st.booleans(), weighted=st.booleans(), ordered=st.booleans())
def test_partial_fits_are_one_fit_of_all(seed, duplicates, weighted, ordered):
    x, y, weights = sample(seed, 90, duplicates=duplicates)
    if ordered:  # a stream
        x = np.sort(x)
    weights = weights if weighted else None
    whole = BV2Regressor(0.02).fit(x, y, weights)
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, 90), 4, replace=False))
    model = BV2Regressor(0.02)
    for part in np.split(np.arange(90), cuts):
        assert model.partial_fit(x[part], y[part], None if weights is None else weights[part]) is model
    np.testing.assert_allclose(model.predict(POINTS), whole.predict(POINTS), atol=1e-8)
    assert model.certificate_.primal == pytest.approx(whole.certificate_.primal, rel=1e-11)
    assert model.certificate_.gap <= 1e-9
    assert model.lam_max_ == pytest.approx(whole.lam_max_, rel=1e-9)
    assert model.samples_.count == 90


def test_fit_forgets_and_partial_fit_does_not():
    x, y, _ = sample(7, 60)
    model = BV2Regressor(0.05).partial_fit(x[:20], y[:20]).partial_fit(x[20:], y[20:])
    np.testing.assert_allclose(model.predict(x), BV2Regressor(0.05).fit(x, y).predict(x), atol=1e-9)
    model.fit(x[:20], y[:20])
    np.testing.assert_array_equal(model.predict(x), BV2Regressor(0.05).fit(x[:20], y[:20]).predict(x))


@pytest.mark.parametrize("loss", ["logistic", "huber"])
def test_partial_fits_of_other_losses(loss):
    x, y, _ = sample(8, 100)
    y = (y > 0.0).astype(float) if loss == "logistic" else y
    model = BV2Regressor(0.1, loss=loss).partial_fit(x[:50], y[:50]).partial_fit(x[50:], y[50:])
    whole = BV2Regressor(0.1, loss=loss).fit(x, y)
    assert model.certificate_.primal == pytest.approx(whole.certificate_.primal, rel=3e-9)
    np.testing.assert_allclose(model.predict(POINTS), whole.predict(POINTS), atol=1e-3)


# ------------------------------------------------------------------------------------------------- choice of lam


def noise_level(x, y, weights):
    """Robust noise level from second differences, written out."""
    order = np.argsort(x)
    x, y, w = x[order], y[order], weights[order]
    sizes = []
    for i in range(1, x.size - 1):
        left = (x[i + 1] - x[i]) / (x[i + 1] - x[i - 1])
        off = y[i] - left * y[i - 1] - (1.0 - left) * y[i + 1]
        sizes.append(abs(off) / np.sqrt(1.0 / w[i] + left**2 / w[i - 1] + (1.0 - left) ** 2 / w[i + 1]))
    return np.median(sizes) / ndtri(0.75)


def criteria(x, y, weights, lam):
    """SURE, GCV and BIC of a fit, from its predictions."""
    model = BV2Regressor(lam).fit(x, y, weights)
    rss, dof, n = weights @ (y - model.predict(x)) ** 2, model.n_knots_ + 2, x.size
    noise = noise_level(x, y, weights)
    return {
        "sure": rss + 2.0 * noise**2 * dof - n * noise**2,
        "gcv": n * rss / (n - dof) ** 2,
        "bic": n * np.log(rss / n) + dof * np.log(n),
    }


@pytest.mark.parametrize("criterion", ["sure", "gcv", "bic"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_choice_is_the_best_by_the_formulas(criterion, weighted):
    x, y, weights = sample(11, 300)
    weights = weights if weighted else np.ones(300)
    model = BV2RegressorCV(criterion=criterion, n_lams=15).fit(x, y, weights)
    scores = np.array([criteria(x, y, weights, lam)[criterion] for lam in model.path_.lams])
    np.testing.assert_allclose(model.path_.scores, scores, rtol=1e-7, atol=1e-9 * np.abs(scores).max())
    assert model.lam_ == model.path_.lams[np.argmin(scores)]
    assert 0 < np.argmin(scores) < scores.size - 1
    assert model.noise_ == pytest.approx(noise_level(x, y, weights), rel=1e-12)
    assert model.path_.lams[0] == pytest.approx(model.lam_max_)
    fixed = BV2Regressor(model.lam_).fit(x, y, weights)
    np.testing.assert_allclose(model.predict(POINTS), fixed.predict(POINTS), atol=1e-8)


def test_duplicates_count_as_samples_in_the_criteria():
    x, y, _ = sample(12, 200, duplicates=True)
    for criterion in ("gcv", "bic"):
        model = BV2RegressorCV(criterion=criterion, lams=[0.1, 0.01]).fit(x, y)
        expected = []
        for lam in (0.1, 0.01):
            fit = BV2Regressor(lam).fit(x, y)
            rss, dof = np.sum((y - fit.predict(x)) ** 2), fit.n_knots_ + 2
            gcv, bic = 200.0 * rss / (200.0 - dof) ** 2, 200.0 * np.log(rss / 200.0) + dof * np.log(200.0)
            expected.append(gcv if criterion == "gcv" else bic)
        np.testing.assert_allclose(model.path_.scores, expected, rtol=1e-9)


@pytest.mark.parametrize("loss", ["huber", "logistic"])
def test_bic_of_other_losses(loss):
    x, y, _ = sample(13, 150)
    y = (y > 0.0).astype(float) if loss == "logistic" else y
    lams = np.array([1.0, 0.3, 0.1])
    model = BV2RegressorCV(criterion="bic", loss=loss, lams=lams, tol=1e-8).fit(x, y)
    for lam, score in zip(lams, model.path_.scores, strict=True):
        fit = BV2Regressor(lam, loss=loss, tol=1e-8).fit(x, y)
        sums = loss_of(loss).value(y, fit.spline_(x)).sum()
        assert score == pytest.approx(2.0 * sums + (fit.n_knots_ + 2) * np.log(150.0), rel=1e-5)


@pytest.mark.parametrize("loss", ["squared", "absolute"])
@pytest.mark.parametrize("cv", [4, KFold(3, shuffle=True, random_state=0)])
def test_cross_validation_by_hand(loss, cv):
    x, y, weights = sample(14, 60)
    lams = np.array([1.0, 0.1, 0.02])
    model = BV2RegressorCV(criterion="cv", cv=cv, loss=loss, lams=lams, tol=1e-7).fit(x, y, weights)
    order = np.argsort(x)
    x, y, weights = x[order], y[order], weights[order]
    folds = [np.arange(k, 60, 4) for k in range(4)] if cv == 4 else [held for _, held in cv.split(x[:, None])]
    scores = np.empty((len(folds), 3))
    for k, held in enumerate(folds):
        kept = np.setdiff1d(np.arange(60), held)
        share = weights[kept].sum() / weights.sum()
        for j, lam in enumerate(lams):
            fit = BV2Regressor(share * lam, loss=loss, tol=1e-7).fit(x[kept], y[kept], weights[kept])
            losses = loss_of(loss).value(y[held], fit.predict(x[held]))
            scores[k, j] = np.average(losses, weights=weights[held])
    close = 1e-7 if loss == "squared" else 2e-2
    np.testing.assert_allclose(model.path_.scores, scores.mean(axis=0), rtol=close)
    errors = np.sqrt(np.sum((scores - scores.mean(axis=0)) ** 2, axis=0) / (len(folds) - 1) / len(folds))
    np.testing.assert_allclose(model.path_.errors, errors, rtol=100.0 * close)
    assert model.lam_ == lams[np.argmin(scores.mean(axis=0))]


def test_one_standard_error_takes_the_largest_lam_within_it():
    x, y, _ = sample(15, 150)
    lams = np.geomspace(1.0, 1e-3, 12)
    best = BV2RegressorCV(criterion="cv", lams=lams).fit(x, y)
    model = BV2RegressorCV(criterion="cv", lams=lams, one_standard_error=True).fit(x, y)
    np.testing.assert_array_equal(model.path_.scores, best.path_.scores)
    k = int(np.argmin(best.path_.scores))
    assert best.lam_ == lams[k]
    limit = best.path_.scores[k] + best.path_.errors[k]
    assert model.lam_ == max(lam for lam, score in zip(lams, best.path_.scores, strict=True) if score <= limit)
    assert model.lam_ > best.lam_
    # In any order of the path.
    order = np.random.default_rng(0).permutation(12)
    other = BV2RegressorCV(criterion="cv", lams=lams[order], one_standard_error=True).fit(x, y)
    assert other.lam_ == model.lam_


def test_of_equal_scores_the_simplest_fit_is_taken():
    x, y, _ = sample(23, 50)
    path = replace(bv2_path(x, y, lams=[0.01, 1.0, 0.1]), scores=np.array([2.0, 2.0, 2.0]))
    assert choose(path, one_standard_error=False) == 1
    assert choose(replace(path, scores=np.array([2.0, 3.0, 2.0])), one_standard_error=False) == 2
    with pytest.raises(ValueError, match="no scores yet"):
        choose(replace(path, scores=None), one_standard_error=False)


def test_jobs_change_nothing():
    x, y, _ = sample(16, 60)
    one = BV2RegressorCV(criterion="cv", lams=[0.1, 0.01]).fit(x, y)
    two = BV2RegressorCV(criterion="cv", lams=[0.1, 0.01], n_jobs=1).fit(x, y)
    np.testing.assert_array_equal(one.path_.scores, two.path_.scores)


def test_lams_of_the_user_keep_their_order():
    x, y, weights = sample(17, 100)
    lams = [0.01, 1.0, 0.0, 0.1]
    path = bv2_path(x, y, lams=lams, sample_weight=weights, tol=1e-3)
    np.testing.assert_array_equal(path.lams, lams)
    for k, lam in enumerate(lams[:2]):
        fit = BV2Regressor(lam).fit(x, y, weights)
        np.testing.assert_allclose(path.splines[k](x), fit.predict(x), atol=1e-8)
        assert path.n_knots[k] == fit.n_knots_
        assert path.dof[k] == fit.dof_
        assert path.tv2[k] == pytest.approx(fit.spline_.tv2, rel=1e-8)
        assert path.losses[k] == pytest.approx(0.5 * weights @ (y - fit.predict(x)) ** 2, rel=1e-9)
        assert path.gaps[k] <= 1e-9
    assert path.count == 100
    assert path.scores is None
    np.testing.assert_allclose(path.splines[2](x), y, atol=1e-12)
    assert BV2RegressorCV(lams=lams[:2]).fit(x, y).path_.lams.size == 2


def test_the_default_path():
    x, y, _ = sample(18, 400)
    path = bv2_path(x, y, n_lams=20)
    assert path.lams.size == 20
    assert path.n_knots[0] == 0
    assert (np.diff(path.lams) < 0.0).all()
    assert 5 <= path.n_knots[-1] <= 100
    assert path.gaps.max() <= 1e-9
    assert bv2_path(x, y, n_lams=1).lams.size == 1
    assert bv2_path([0.0, 1.0], [0.0, 1.0]).lams.size == 1


def test_a_path_whose_best_is_its_end_is_continued():
    # Hardly any noise: the default path, made for noise, ends too early.
    x, y, _ = sample(19, 300, noise=1e-4)
    model = BV2RegressorCV(n_lams=4).fit(x, y)
    assert model.path_.lams.size > 4
    assert (np.diff(model.path_.lams) < 0.0).all()
    assert model.lam_ > model.path_.lams[-1]
    assert np.sqrt(np.mean((model.predict(x) - np.sin(9.0 * x)) ** 2)) < 1e-2


def test_a_short_path_is_not_continued_for_ever():
    x, y, _ = sample(22, 3000)
    path = BV2RegressorCV(n_lams=2).fit(x, y).path_
    assert path.lams[-1] >= 1e-16 * path.lams[0]
    assert path.gaps.max() <= 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("level", [0.1, 3.0])
def test_the_noise_level_of_a_smooth_signal(seed, level):
    x, y, _ = sample(seed, 3000, noise=level)
    assert bv2_path(x, y, n_lams=1).noise == pytest.approx(level, rel=0.1)
    # Samples of twice the weight have half the variance; a few outliers are ignored.
    weights = np.random.default_rng(seed).choice([1.0, 4.0], 3000)
    y = np.sin(9.0 * x) + (y - np.sin(9.0 * x)) / np.sqrt(weights)
    y[:20] += 1e3
    assert bv2_path(x, y, n_lams=1, sample_weight=weights).noise == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "aic"}, "criterion must be one of sure, gcv, bic, cv; got 'aic'"),
        ({"one_standard_error": True}, "one_standard_error needs criterion=\"cv\".*got 'sure'"),
        ({"criterion": "sure", "loss": "huber"}, 'criterion="sure" belongs to the squared loss; the loss is Huber'),
        ({"criterion": "gcv", "loss": "absolute", "tol": 1e-4}, 'criterion="gcv" belongs to the squared loss'),
        ({"criterion": "cv", "cv": 1}, "cv must lie between 2 and the number of samples, n_samples = 30; got 1"),
        ({"criterion": "cv", "cv": 31}, "cv must lie between 2 and the number of samples, n_samples = 30; got 31"),
        ({"n_lams": 0}, "n_lams must be at least 1; got 0"),
        ({"lams": []}, "lams must be finite and not negative, at least one"),
        ({"lams": [1.0, -1.0]}, "lams must be finite and not negative"),
        ({"lams": [np.nan]}, "lams must be finite and not negative"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, message):
    x, y, _ = sample(20, 30)
    with pytest.raises(ValueError, match=message):
        BV2RegressorCV(**({"n_lams": 3} | changes)).fit(x, y)


def test_partial_fits_choose_again():
    x, y, _ = sample(21, 200)
    model = BV2RegressorCV(n_lams=10).partial_fit(x[:100], y[:100]).partial_fit(x[100:], y[100:])
    whole = BV2RegressorCV(n_lams=10).fit(x, y)
    assert model.lam_ == pytest.approx(whole.lam_, rel=1e-9)
    np.testing.assert_allclose(model.predict(POINTS), whole.predict(POINTS), atol=1e-7)


# ------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("lam", [1e9, 0.05, 0.002])
def test_conditional_band_by_dense_algebra(lam, duplicates):
    x, y, weights = sample(31, 120, duplicates=duplicates)
    model = BV2Regressor(lam).fit(x, y, weights)
    band = model.band(POINTS, level=0.9)
    knots = model.spline_.knots[model.spline_.jumps != 0.0]

    def basis(t):
        return np.column_stack([np.ones(t.size), t, *(np.maximum(t - knot, 0.0) for knot in knots)])

    B, at = basis(x), basis(POINTS)
    covariance = np.linalg.inv(B.T @ (weights[:, None] * B))
    squares = weights @ (y - model.predict(x)) ** 2
    noise = np.sqrt(squares / (120 - B.shape[1]))
    half = ndtri(0.95) * noise * np.sqrt(np.sum((at @ covariance) * at, axis=1))
    np.testing.assert_allclose(band.upper, model.predict(POINTS) + half, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(band.lower, model.predict(POINTS) - half, rtol=1e-7, atol=1e-9)


def test_conditional_band_covers_the_mean_of_an_affine_fit():
    rng = np.random.default_rng(32)
    x, draws = rng.uniform(0.0, 1.0, 60), 400
    at = np.array([-0.5, 0.1, 0.5, 1.2])
    inside = np.zeros(4)
    for _ in range(draws):
        band = BV2Regressor(1e6).fit(x, 2.0 * x - 1.0 + 0.5 * rng.standard_normal(60)).band(at)
        inside += (band.lower <= 2.0 * at - 1.0) & (2.0 * at - 1.0 <= band.upper)
    assert (np.abs(inside / draws - 0.95) < 0.035).all()


def test_bands_grow_with_the_level():
    x, y, _ = sample(33, 100)
    model = BV2Regressor(0.05).fit(x, y)
    for method in ("conditional", "bootstrap"):
        narrow, wide = (model.band(POINTS, level=level, method=method, random_state=0) for level in (0.5, 0.99))
        assert (wide.lower < narrow.lower).all()
        assert (narrow.lower <= narrow.upper).all()
        assert (narrow.upper < wide.upper).all()


def test_without_residual_degrees_of_freedom_nothing_is_known():
    for x, y in (([1.0, 2.0], [0.0, 1.0]), ([1.0], [0.0])):
        band = BV2Regressor().fit(x, y).band([0.0, 3.0])
        np.testing.assert_array_equal(band.lower, [-np.inf, -np.inf])
        np.testing.assert_array_equal(band.upper, [np.inf, np.inf])
    band = BV2Regressor(0.0).fit([0.0, 1.0, 2.0], [0.0, 1.0, 0.0]).band([0.5])
    assert (band.lower[0], band.upper[0]) == (-np.inf, np.inf)


def test_bootstrap_is_reproducible_and_close_to_the_conditional_band_for_an_affine_fit():
    x, y, _ = sample(34, 80)
    y = x + 0.3 * np.random.default_rng(0).standard_normal(80)
    model = BV2Regressor(1e6).fit(x, y)
    options = {"method": "bootstrap", "n_boot": 400}
    one, again, other = (model.band(POINTS, random_state=seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.lower, again.lower)
    np.testing.assert_array_equal(one.upper, again.upper)
    assert np.abs(one.lower - other.lower).max() > 0.0
    exact = model.band(POINTS)
    np.testing.assert_allclose(one.upper - one.lower, exact.upper - exact.lower, rtol=0.2)


def test_bootstrap_by_hand():
    x, y, weights = sample(36, 60)
    order = np.argsort(x)
    x, y, weights = x[order], y[order], weights[order]
    model = BV2Regressor(0.05).fit(x, y, weights)
    band = model.band(POINTS, method="bootstrap", level=0.8, n_boot=25, random_state=7)
    # Standardised residuals, centred, and enlarged by the degrees of freedom that the fit has taken.
    residual = np.sqrt(weights) * (y - model.predict(x))
    residual = (residual - residual.mean()) * np.sqrt(60.0 / (60.0 - model.dof_))
    rng = np.random.default_rng(7)
    off = []
    for _ in range(25):
        drawn = model.predict(x) + rng.choice(residual, 60) / np.sqrt(weights)
        off.append(BV2Regressor(0.05).fit(x, drawn, weights).predict(POINTS) - model.predict(POINTS))
    # What refits are too high by, the fit is too high by: the quantiles are mirrored.
    np.testing.assert_allclose(band.lower, model.predict(POINTS) - np.quantile(off, 0.9, axis=0), atol=1e-4)
    np.testing.assert_allclose(band.upper, model.predict(POINTS) - np.quantile(off, 0.1, axis=0), atol=1e-4)


@pytest.mark.parametrize("loss", ["logistic", "poisson", "huber"])
def test_bootstrap_of_other_losses_is_on_the_scale_of_the_predictions(loss):
    rng = np.random.default_rng(35)
    x = rng.uniform(0.0, 1.0, 200)
    f = np.sin(6.0 * x)
    y = {
        "logistic": (rng.random(200) < expit(f)).astype(float),
        "poisson": rng.poisson(np.exp(f)).astype(float),
        "huber": f + 0.1 * rng.standard_normal(200),
    }[loss]
    model = BV2Regressor(3.0, loss=loss).fit(x, y)
    at = np.linspace(0.1, 0.9, 5)
    band = model.band(at, method="bootstrap", n_boot=30, random_state=0)
    assert (band.lower < band.upper).all()
    if loss != "huber":
        assert (band.lower > 0.0).all()
    if loss == "logistic":
        assert (band.upper < 1.0).all()
    centre = 0.5 * (band.lower + band.upper)
    assert (np.abs(centre - model.predict(at)) < (band.upper - band.lower)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.0}, "level must lie strictly between 0 and 1; got 0.0"),
        ({"level": 1.0}, "level must lie strictly between 0 and 1"),
        ({"level": 95}, "level must lie strictly between 0 and 1; got 95"),
        ({"method": "jackknife"}, "method must be one of conditional, bootstrap; got 'jackknife'"),
        ({"method": "bootstrap", "n_boot": 1}, "n_boot must be at least 2; got 1"),
    ],
)
def test_bad_options_of_a_band_are_refused(options, message):
    model = BV2Regressor().fit([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0, 2.0])
    with pytest.raises(ValueError, match=message):
        model.band([0.5], **options)


@pytest.mark.parametrize("loss", ["huber", "absolute", "logistic", "poisson"])
def test_the_conditional_band_belongs_to_the_squared_loss(loss):
    x = np.arange(6.0)
    model = BV2Regressor(1.0, loss=loss, tol=1e-6).fit(x, [0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r'conditional band belongs to the squared loss.*Use method="bootstrap"'):
        model.band(x)


# ------------------------------------------------------------------------------------------------- contract


class OfFirstColumn(RegressorMixin, BaseEstimator):
    """The estimator checks want several columns: the spline of the first one."""

    def __init__(self, model=None):
        self.model = model

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, y_numeric=True)
        self.model_ = clone(BV2Regressor() if self.model is None else self.model).fit(X[:, :1], y, sample_weight)
        return self

    def predict(self, X):
        check_is_fitted(self)
        return self.model_.predict(validate_data(self, X, reset=False)[:, :1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # one column of ten
        return tags


def folds_of_samples(estimator):
    reason = "two samples fall into two folds, one of weight two does not"
    folds = getattr(estimator.model, "criterion", None) == "cv"
    return {"check_sample_weight_equivalence_on_dense_data": reason} if folds else {}


@parametrize_with_checks(
    [
        OfFirstColumn(),
        OfFirstColumn(BV2Regressor(0.1, sparsest=True)),
        OfFirstColumn(BV2RegressorCV(n_lams=5)),
        OfFirstColumn(BV2RegressorCV(criterion="cv", cv=2, n_lams=3)),
    ],
    expected_failed_checks=folds_of_samples,
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("model", [BV2Regressor(2.0, loss="huber", delta=3.0), BV2RegressorCV(cv=3, n_lams=4)])
def test_parameters_are_stored_as_given(model):
    x, y, _ = sample(41, 40)
    before = model.get_params()
    assert clone(model).get_params() == before
    assert model.fit(x, y) is model
    assert model.get_params() == before
    assert model.__sklearn_tags__().input_tags.one_d_array
