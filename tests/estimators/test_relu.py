"""ReLURegressor and ReLUClassifier: scikit-learn's contract, units, weights, and input that is bad or odd."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pathnorm import ReLUClassifier, ReLURegressor, certify
from pathnorm.errors import CertificateWarning
from pathnorm.problems import Certificate
from pathnorm.problems.losses import loss_of


def sample(seed=0, rows=60, inputs=2):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, inputs)) * np.array([1.0, 20.0, 0.05])[:inputs] + 3.0
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    return X, np.abs(Z[:, 0] + Z[:, 1]) - 1.0 + 0.1 * rng.standard_normal(rows)


def labels(seed=0, rows=60, classes=2):
    X, f = sample(seed, rows)
    return X, np.digitize(f, [0.0] if classes == 2 else [-0.6, 0.3])


def approximate(estimator):
    if isinstance(estimator, ReLUClassifier):
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "predictions of two descents agree to the tolerance of the gap, not to 1e-7; see test_weights_count_samples"
        )
    }


# Samples of these checks are few beside the features, and labels are noise: an early end is no failure here.
@pytest.mark.filterwarnings("ignore::pathnorm.errors.CertificateWarning")
@parametrize_with_checks(
    [
        ReLURegressor(200.0, certify="search", tol=1e-2, max_iter=10),
        ReLUClassifier(2.0, certify="search", tol=1e-2, max_iter=10),
        ReLUClassifier(2.0, loss="squared_hinge", certify="search", tol=1e-2, max_iter=10),
    ],
    expected_failed_checks=approximate,
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# ------------------------------------------------------------------------- what is learnt


def test_what_is_learnt():
    X, y = sample()
    model = ReLURegressor(1.0, random_state=0)
    assert model.fit(X, y) is model
    assert isinstance(model.certificate_, Certificate)
    assert model.certificate_.scope == "function_space"
    assert model.certificate_.gap <= 1e-4
    assert model.n_neurons_ == model.network_.n_neurons >= 1
    assert model.summary() == f"{model.n_neurons_} neurons; {model.certificate_.sentence}".replace(
        "1 neurons", "1 neuron"
    )
    assert model.n_features_in_ == 2
    assert model.n_iter_ == model.solution_.n_iter >= 1
    np.testing.assert_allclose(np.linalg.norm(model.directions_, axis=1), 1.0)
    # The direction in which the function bends, in standardised units.
    assert abs(model.directions_[0] @ [0.5**0.5, 0.5**0.5]) > 0.95
    assert model.score(X, y) > 0.9
    assert "relu" in model.formula().lower() or "max" in model.formula()
    assert model.lam_max_ > 1.0
    above = ReLURegressor(1.001 * model.lam_max_).fit(X, y)
    assert above.n_neurons_ == 0
    assert ReLURegressor(0.97 * model.lam_max_).fit(X, y).n_neurons_ > 0


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("relaxed", [True, False])
def test_the_network_is_the_function_in_the_units_of_the_user(standardize, relaxed):
    X, y = sample(1, inputs=3)
    model = ReLURegressor(1.0, standardize=standardize, relaxed=relaxed, tol=1e-3, random_state=0).fit(X, y)
    new = sample(2, inputs=3)[0]
    np.testing.assert_allclose(model.network_(new)[:, 0], model.predict(new), atol=1e-10)
    scale, mean = (X.std(axis=0), X.mean(axis=0)) if standardize else (np.ones(3), np.zeros(3))
    np.testing.assert_allclose(model.standard_.scale, scale, rtol=1e-12)
    np.testing.assert_allclose(model.standard_.mean, mean, rtol=1e-12)
    inner = model.solution_.coef
    if not relaxed:
        np.testing.assert_allclose(inner((new - mean) / scale)[:, 0], model.predict(new), atol=1e-10)
    # The certificate speaks of the standardised problem and of the network before a refit.
    assert certify(inner, (X - mean) / scale, y, 1.0).primal == pytest.approx(model.certificate_.primal, rel=1e-9)


def test_units_of_features_do_not_matter_when_standardised():
    X, y = sample(3)
    first = ReLURegressor(0.5, tol=1e-6, random_state=0).fit(X, y)
    second = ReLURegressor(0.5, tol=1e-6, random_state=0).fit(X * [1e-12, 1e12] + [1.0, -1e12], y)
    assert second.certificate_.primal == pytest.approx(first.certificate_.primal, rel=3e-4)
    raw = ReLURegressor(0.5, tol=1e-4, standardize=False, random_state=0).fit(X, y)
    assert raw.certificate_.primal != pytest.approx(first.certificate_.primal, rel=1e-2)


@pytest.mark.parametrize("loss", ["squared", "huber", "poisson", "absolute", "quantile"])
def test_every_loss_of_regression(loss):
    X, f = sample(4, 80)
    rng = np.random.default_rng(0)
    y = rng.poisson(np.exp(f)).astype(float) if loss == "poisson" else f
    model = ReLURegressor(1.0, loss=loss, quantile=0.8, random_state=0).fit(X, y)
    assert model.certificate_.gap <= 1e-4
    predicted = model.predict(X)
    assert predicted.shape == (80,)
    if loss == "poisson":
        assert (predicted > 0.0).all()
        assert predicted.sum() == pytest.approx(y.sum(), rel=1e-3)  # the constant is free
    if loss == "quantile":
        assert abs((y <= predicted).mean() - 0.8) <= 0.1


def test_huber_ignores_outliers_wherever_the_targets_are():
    X, y = sample(5, 80)
    clean = ReLURegressor(1.0, loss="huber", delta=0.3, random_state=0).fit(X, y)
    spoilt = y + 50.0 * (np.arange(80) % 20 == 0) + 1000.0
    robust = ReLURegressor(1.0, loss="huber", delta=0.3, random_state=0).fit(X, spoilt)
    assert np.abs(robust.predict(X) - 1000.0 - clean.predict(X)).max() < 0.5


def test_several_outputs_keep_their_shape():
    X, y = sample(6)
    model = ReLURegressor(2.0, random_state=0).fit(X, np.column_stack((y, 1.0 - y, X[:, 0])))
    assert model.predict(X).shape == (60, 3)
    assert ReLURegressor(2.0).fit(X, y[:, None]).predict(X).shape == (60, 1)
    assert MultiOutputRegressor(ReLURegressor(2.0)).fit(X, np.column_stack((y, -y))).predict(X).shape == (60, 2)


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
@pytest.mark.parametrize("classes", [2, 3])
def test_classification(loss, classes):
    X, y = labels(7, classes=classes)
    names = np.array(["ant", "bee", "cow"])[y]
    model = ReLUClassifier(0.5, loss=loss, random_state=0).fit(X, names)
    assert model.classes_.tolist() == ["ant", "bee", "cow"][:classes]
    assert model.score(X, names) > 0.85
    F = model.decision_function(X)
    assert F.shape == ((60,) if classes == 2 else (60, 3))
    chosen = (F > 0.0).astype(int) if classes == 2 else F.argmax(axis=1)
    np.testing.assert_array_equal(model.predict(X), model.classes_[chosen])
    assert model.certificate_.gap <= 1e-4
    if loss == "logistic":
        P = model.predict_proba(X)
        np.testing.assert_allclose(P.sum(axis=1), 1.0)
        np.testing.assert_array_equal(P.argmax(axis=1), chosen)
    else:
        # Tools ask whether there are probabilities before they use them.
        assert not hasattr(model, "predict_proba")


def test_logits_of_three_classes_have_no_common_part():
    X, y = labels(7, classes=3)
    model = ReLUClassifier(0.5, random_state=0).fit(X, y)
    # Probabilities do not depend on it; without a rule two fits of one function differ.
    np.testing.assert_allclose(model.decision_function(X).mean(axis=1), 0.0, atol=1e-6)


def test_separable_classes_have_an_answer_with_the_ridge():
    X, y = make_moons(60, noise=0.02, random_state=0)
    model = ReLUClassifier(0.05, random_state=0).fit(X, y)
    assert model.score(X, y) == 1.0
    assert np.abs(model.decision_function(X)).max() < 1e3


@pytest.mark.parametrize("affine", ["ridge", "free"])
def test_lam_max_of_a_classifier_is_where_neurons_start(affine):
    X, y = labels(8)
    largest = ReLUClassifier(0.3, affine=affine).fit(X, y).lam_max_
    assert ReLUClassifier(1.001 * largest, affine=affine).fit(X, y).n_neurons_ == 0
    assert ReLUClassifier(0.97 * largest, affine=affine).fit(X, y).n_neurons_ > 0


def test_no_affine_part():
    X, y = sample(9)
    model = ReLURegressor(1.0, affine="none", random_state=0).fit(X, y)
    assert not model.network_.A.any()


def test_the_relaxed_refit_fits_better_and_keeps_the_directions():
    X, y = sample(10)
    plain = ReLURegressor(5.0, random_state=0).fit(X, y)
    relaxed = ReLURegressor(5.0, random_state=0, relaxed=True).fit(X, y)
    assert ((y - relaxed.predict(X)) ** 2).sum() < ((y - plain.predict(X)) ** 2).sum()
    assert relaxed.n_neurons_ == plain.n_neurons_
    np.testing.assert_allclose(relaxed.directions_, plain.directions_)
    assert relaxed.certificate_.primal == plain.certificate_.primal
    # Nothing is left of the residual along the features that were kept.
    hidden = np.maximum(X @ relaxed.network_.W.T - relaxed.network_.b, 0.0)
    columns = np.column_stack((np.ones(60), X, hidden))
    columns /= np.linalg.norm(columns, axis=0)
    np.testing.assert_allclose(columns.T @ (y - relaxed.predict(X)), 0.0, atol=1e-7)


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
def test_a_relaxed_classifier(loss):
    X, y = labels(11, 100)
    model = ReLUClassifier(3.0, loss=loss, relaxed=True, random_state=0).fit(X, y)
    plain = ReLUClassifier(3.0, loss=loss, random_state=0).fit(X, y)
    problem, inner = plain.solution_.problem, model.standard_.transform(X)

    def penalised(net):
        # A hundredth of the ridge is left, for output weights at unit input weights too.
        masses = np.linalg.norm(net.W, axis=1) * np.linalg.norm(net.V, axis=1)
        return problem.data_loss(net(inner)) + 0.5 * 0.01 * problem.ridge * float((masses**2).sum() + (net.A**2).sum())

    assert penalised(model.standard_.inner(model.network_)) <= penalised(plain.solution_.coef) * (1.0 + 1e-9)


def test_interactions_and_the_size_limit():
    X, y = sample(12, inputs=3)
    additive = ReLURegressor(1.0, interactions=1, random_state=0).fit(X, y)
    assert (np.count_nonzero(additive.network_.W, axis=1) <= 1).all()
    assert additive.certificate_.method == "exact"
    with pytest.warns(CertificateWarning):
        small = ReLURegressor(0.05, max_neurons=2, random_state=0).fit(X, y)
    assert small.n_neurons_ <= 2


# -------------------------------------------------------------------------------- weights


def test_weights_count_samples():
    X, y = sample(13, 30)
    weights = np.random.default_rng(0).integers(0, 3, 30)
    first = ReLURegressor(1.0, tol=1e-6, random_state=0).fit(X, y, sample_weight=weights)
    second = ReLURegressor(1.0, tol=1e-6, random_state=0).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(first.predict(X), second.predict(X), atol=1e-2)
    assert first.certificate_.primal == pytest.approx(second.certificate_.primal, rel=3e-6)
    double = ReLURegressor(2.0, tol=1e-6, random_state=0).fit(X, y, sample_weight=2.0 * np.ones(30))
    single = ReLURegressor(1.0, tol=1e-6, random_state=0).fit(X, y)
    assert double.certificate_.primal == pytest.approx(2.0 * single.certificate_.primal, rel=3e-6)


@pytest.mark.parametrize("kind", [ReLURegressor, ReLUClassifier])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "sample_weight"),
        (-np.ones(60), "[Nn]egative"),
        (np.zeros(60), "non-zero|positive sample_weight|positive for some samples"),
        (np.full(60, np.nan), "NaN"),
    ],
)
def test_weights_that_are_none(kind, weights, message):
    X, y = labels()
    with pytest.raises(ValueError, match=message):
        kind().fit(X, y, sample_weight=weights)


# --------------------------------------------------------------------- tools of scikit-learn


def test_in_pipelines_grids_and_pickles():
    X, y = sample(14)
    model = make_pipeline(StandardScaler(), ReLURegressor(1.0, tol=1e-3, random_state=0))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.7
    search = GridSearchCV(model, {"reluregressor__lam": [0.5, 50.0]}, cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"reluregressor__lam": 0.5}
    fitted = ReLURegressor(1.0, random_state=0).fit(X, y)
    largest = fitted.lam_max_
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    assert again.lam_max_ == largest
    assert again.certificate_ == fitted.certificate_
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    # Predictors return arrays; there is no container to choose.
    assert not hasattr(fitted, "set_output")


@pytest.mark.parametrize("attribute", ["lam_max_", "directions_"])
def test_before_fit(attribute):
    with pytest.raises(NotFittedError):
        getattr(ReLURegressor(), attribute)
    for method in ("summary", "formula"):
        with pytest.raises(NotFittedError):
            getattr(ReLURegressor(), method)()


def test_names_of_features_are_kept():
    pd = pytest.importorskip("pandas")
    X, y = sample(15)
    model = ReLURegressor(1.0, random_state=0).fit(pd.DataFrame(X, columns=["age", "height"]), y)
    assert model.feature_names_in_.tolist() == ["age", "height"]
    assert "age" in model.formula()
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)


def test_a_warm_start_goes_on_from_the_last_fit():
    X, y = sample(16)
    model = ReLURegressor(0.3, warm_start=True, random_state=0, tol=1e-5).fit(X, y)
    cold = model.n_iter_
    assert model.fit(X, y).n_iter_ < max(cold, 2)
    again = model.set_params(lam=0.2).fit(X * 10.0, y)
    fresh = ReLURegressor(0.2, random_state=0, tol=1e-5).fit(X * 10.0, y)
    assert again.certificate_.primal == pytest.approx(fresh.certificate_.primal, rel=3e-5)
    # Another number of features starts anew.
    assert model.fit(sample(16, inputs=3)[0], y).n_features_in_ == 3


def test_the_seed_decides():
    X, y = sample(17)
    fits = [ReLURegressor(0.2, random_state=seed).fit(X, y).predict(X) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_allclose(fits[0], fits[2], atol=0.05)


# ------------------------------------------------------------------------------- odd input


def odd(name):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 2)), rng.standard_normal(30)
    return {
        "constant column": (np.column_stack((X, np.full(30, 7.0))), y),
        "all constant": (np.ones((30, 2)), y),
        "duplicates": (np.repeat(X[:6], 5, axis=0), y),
        "one row": (X[:1], y[:1]),
        "two rows": (X[:2], y[:2]),
        "N < d": (rng.standard_normal((4, 6)), y[:4]),
        "N = d + 1": (rng.standard_normal((4, 3)), y[:4]),
        "huge": (X * 1e12, y),
        "tiny": (X * 1e-12, y),
        "far": (X + 1e8, y),
        "integers": (rng.integers(0, 4, (30, 2)), y),
        "booleans": (rng.random((30, 2)) < 0.5, y),
        "affine": (X, X @ [1.0, 2.0] + 3.0),
        "constant y": (X, np.full(30, 3.3)),
        "zero y": (X, np.zeros(30)),
        "high y": (X, y + 1e8),
        "lists": (X.tolist(), y.tolist()),
    }[name]


ODD = [
    "constant column",
    "all constant",
    "duplicates",
    "one row",
    "two rows",
    "N < d",
    "N = d + 1",
    "huge",
    "tiny",
    "far",
    "integers",
    "booleans",
    "affine",
    "constant y",
    "zero y",
    "high y",
    "lists",
]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_odd_samples_have_an_answer(name, standardize):
    X, y = odd(name)
    scale = {"huge": 1e12, "tiny": 1e-12}.get(name, 1.0) if not standardize else 1.0
    model = ReLURegressor(0.5 * scale, standardize=standardize, random_state=0).fit(X, y)
    assert model.certificate_.gap <= 1e-4
    predicted = model.predict(X)
    assert np.isfinite(predicted).all()
    # Never worse than the mean, as the constant is free.
    assert ((y - predicted) ** 2).sum() <= ((y - np.mean(y)) ** 2).sum() * (1.0 + 1e-9) + 1e-15


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_targets_of_any_size(scale):
    X, y = sample(18)
    model = ReLURegressor(scale, random_state=0, tol=1e-5).fit(X, scale * y)
    plain = ReLURegressor(1.0, random_state=0, tol=1e-5).fit(X, y)
    np.testing.assert_allclose(model.predict(X) / scale, plain.predict(X), atol=1e-2)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.array([["a", "b"]] * 4), np.arange(4.0), "could not convert string to float"),
        (np.full((4, 2), np.nan), np.arange(4.0), "NaN"),
        (np.full((4, 2), np.inf), np.arange(4.0), "infinity"),
        (np.ones((4, 2)), [1.0, np.nan, 2.0, 3.0], "NaN"),
        (np.ones((4, 2)), np.ones(5), "inconsistent numbers of samples"),
        (np.ones(4), np.ones(4), "Expected 2D array"),
        (np.ones((0, 2)), np.ones(0), "0 sample"),
        (np.ones((4, 0)), np.ones(4), "0 feature"),
    ],
)
def test_what_is_no_data_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        ReLURegressor().fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lam": 0.0}, "lam must be a finite number > 0"),
        ({"lam": -1.0}, "lam must be a finite number > 0"),
        ({"lam": np.nan}, "lam must be a finite number > 0"),
        ({"loss": "hinge"}, "loss must be one of squared"),
        ({"affine": "some"}, "affine must be one of"),
        ({"affine": "ridge", "ridge": -1.0}, "ridge > 0"),
        ({"interactions": 3}, "interactions must be 1, 2 or None"),
        ({"certify": "proof"}, "certify must be one of"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"max_iter": -1}, "max_iter >= 0"),
        ({"max_neurons": -1}, "max_neurons must be >= 0"),
        ({"loss": "quantile", "quantile": 1.0}, "quantile must lie"),
        ({"loss": "huber", "delta": 0.0}, "delta must be"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    X, y = sample()
    with pytest.raises(ValueError, match=message):
        ReLURegressor(**parameters).fit(X, y)


def test_exact_beyond_three_dimensions_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="examines every neuron in up to 3 dimensions"):
        ReLURegressor(1.0, certify="exact").fit(rng.standard_normal((30, 4)), rng.standard_normal(30))


def test_counts_below_zero_and_single_classes_are_refused():
    X, y = sample()
    with pytest.raises(ValueError, match="targets >= 0"):
        ReLURegressor(loss="poisson").fit(X, y)
    with pytest.raises(ValueError, match="two classes"):
        ReLUClassifier().fit(X, np.zeros(60))
    with pytest.raises(ValueError, match="two classes need a positive sample_weight"):
        ReLUClassifier().fit(X, y > 0.0, sample_weight=(y > 0.0).astype(float))
    with pytest.raises(ValueError, match="Unknown label type"):
        ReLUClassifier().fit(X, y)
    with pytest.raises(ValueError, match="loss must be one of logistic, squared_hinge"):
        ReLUClassifier(loss="squared").fit(X, y > 0.0)


def test_an_early_end_is_a_warning_and_a_status():
    X, y = sample(19)
    with pytest.warns(CertificateWarning, match="iteration budget"):
        model = ReLURegressor(0.01, max_iter=1, tol=1e-9).fit(X, y)
    assert not model.solution_.converged
    assert model.certificate_.gap > 1e-9


def test_a_fit_changes_neither_its_input_nor_its_parameters():
    X, y = sample(20)
    kept, targets, weights = X.copy(), y.copy(), np.ones(60)
    model = ReLURegressor(1.0, random_state=0)
    before = model.get_params()
    model.fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(X, kept)
    np.testing.assert_array_equal(y, targets)
    assert model.get_params() == before
    assert loss_of("squared") == model.solution_.problem.loss


def test_no_warning_of_numpy_reaches_the_user():
    X, y = sample(21)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CertificateWarning)
        for loss in ("squared", "huber", "absolute", "quantile"):
            ReLURegressor(0.5, loss=loss, random_state=0, tol=1e-2).fit(np.column_stack((X, np.ones(60))), y + 100.0)
