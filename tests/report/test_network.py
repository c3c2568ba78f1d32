"""The record of a network fitted to a table, its page and figures, and the pictures of the function itself."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.problems import RBV2Problem
from pathnorm.report import effects, network_plots
from pathnorm.report.effects import effects_of, plot_effects, plot_function
from pathnorm.report.fields import kind_of
from pathnorm.report.landscape import landscape_of, plot_landscape
from pathnorm.report.network import (
    ColumnRecord,
    FeatureRecord,
    HeldOutPicture,
    NetworkPathRecord,
    NetworkRecord,
    ScoreRecord,
)
from pathnorm.report.network_render import text_table, write_html
from pathnorm.solvers.rbv2 import rbv2
from pathnorm.spaces import ShallowNet


@pytest.fixture
def make_network():
    """A record made by hand; the numbers are only there to be shown."""

    def make(*, classes=(), **changes):
        rng = np.random.default_rng(0)
        y = rng.normal(size=50)
        metrics = ("accuracy", "log_loss", "auc") if classes else ("r2", "rmse", "mae")
        picture = HeldOutPicture(observed=tuple(y.tolist()), predicted=tuple((y + 0.1).tolist()))
        if classes:
            n = len(classes)
            picture = HeldOutPicture(
                confusion=tuple(tuple(10 + 30 * (i == j) for j in range(n)) for i in range(n)),
                forecast=(0.1, 0.5, 0.9) if n == 2 else (),
                frequency=(0.0, 0.4, 1.0) if n == 2 else (),
                counts=(16, 17, 17) if n == 2 else (),
            )
        fields = {
            "target": "price",
            "task": "classification" if classes else "regression",
            "task_rule": "the target holds numbers",
            "classes": classes,
            "rows": 260,
            "rows_without_target": 10,
            "n_train": 200,
            "n_test": 50,
            "columns": (
                ColumnRecord(name="x", kind="number", n_missing=3, n_features=2),
                ColumnRecord(name="id<b>", kind="text", left_out="an identifier"),
            ),
            "unknown": (("town", 1),),
            "loss": "squared",
            "affine": "free",
            "lam": 1.0,
            "lam_max": 16.0,
            "chosen_by": "cv",
            "sentence": "2 neurons; certified optimal within 4.1e-05 (exact)",
            "n_neurons": 2,
            "path_norm": 3.5,
            "primal": 10.0,
            "dual": 9.9996,
            "gap": 4e-5,
            "scope": "function_space",
            "method": "exact",
            "tol": 1e-4,
            "scores": tuple(
                ScoreRecord(model=model, metric=metric, value=0.5, low=0.4, high=0.6)
                for model in ("network", "linear", "boosting")
                for metric in metrics
            ),
            "baselines": (("linear", "ridge regression"), ("boosting", "boosted trees")),
            "resamples": 1000,
            "seconds": 1.5,
            "seconds_fit": 1.0,
            "peak_memory_mb": 100.0,
            "features": FeatureRecord(
                names=("x", "x missing"),
                shares=(0.75, 0.25),
                slopes=(1.5, -0.5),
                directions=((1.0, 0.0), (0.6, -0.8)),
                masses=(0.7, 0.3),
                n_directions=2,
            ),
            "picture": picture,
            "path": NetworkPathRecord(
                folds=5,
                lams=(16.0, 4.0, 1.0, 0.25),
                scores=(9.0, 2.0, 1.0, 1.5),
                errors=(0.5, 0.2, 0.1, 0.1),
                n_neurons=(0.0, 1.0, 2.5, 9.0),
            ),
        }
        return NetworkRecord(**(fields | changes))

    return make


# ------------------------------------------------------------------------------ record


def test_every_number_has_a_kind_and_the_json_is_strict(make_network):
    record = make_network(violation=float("nan"))
    for item in dataclasses.fields(NetworkRecord):
        assert kind_of(NetworkRecord, item.name) in ("exact", "certified", "measured")
        assert "kind" in item.metadata
    data = json.loads(record.to_json())
    assert data["violation"] is None
    assert data["path"]["lams"] == [16.0, 4.0, 1.0, 0.25]


def test_the_text_says_what_is_proved_first(make_network):
    text = text_table(make_network())
    assert text.startswith("2 neurons; certified optimal within 4.1e-05 (exact). It predicts price from 1 column (2")
    assert max(map(len, text.splitlines())) <= 120
    assert re.search(r"relative gap +4e-05 +certified +over all neurons \(exact\)", text)
    assert re.search(r"R2 +50.0 % \(40.0 to 60.0\) +50.0 %", text)
    assert str(make_network()) == text


def test_what_a_search_found_is_not_called_certified(make_network):
    record = make_network(scope="dictionary", method="search", violation=1e-3, proved=0.4)
    text = text_table(record)
    assert re.search(r"relative gap +4e-05 +measured +over the neurons that were found", text)
    assert re.search(r"objective +10.0000 +measured", text)
    assert re.search(r"proved gap +40.0 % +certified", text)


@pytest.mark.parametrize("classes", [(), ("no", "yes"), ("a", "b", "c"), tuple(f"class {k}" for k in range(20))])
def test_the_page_is_whole(make_network, tmp_path, classes):
    record = make_network(classes=classes, target="lambda <i>")
    path = write_html(record, tmp_path / "report.html")
    text = path.read_text()
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    assert "<i>" not in text
    assert "id<b>" not in text
    assert "lambda &lt;i&gt;" in text
    assert text.count("<svg") == 4
    inside = re.search(r'id="record">(.*?)</script>', text, re.DOTALL)
    assert json.loads(inside.group(1)) == record.to_dict()
    assert "1 of them has a value of <code>town</code>" in text
    assert not re.search(r'(src|href)="http', text)


def test_a_network_without_neurons_or_path_has_a_page(make_network, tmp_path):
    features = FeatureRecord(names=("x",), shares=(0.0,), slopes=(0.0,))
    record = make_network(features=features, n_neurons=0, path=None, chosen_by="given", scores=())
    assert write_html(record, tmp_path / "report.html").read_text().count("<svg") == 2
    assert "given" in text_table(record)
    with pytest.raises(ValueError, match="no neuron"):
        network_plots.directions(record)
    with pytest.raises(ValueError, match="A path is needed"):
        network_plots.path(record)


def test_a_wild_prediction_does_not_decide_the_axes(make_network):
    y = np.random.default_rng(0).normal(size=200)
    p = y.copy()
    p[0] = -1e6
    picture = HeldOutPicture(observed=tuple(y.tolist()), predicted=tuple(p.tolist()))
    record = make_network(picture=picture, n_test=200)
    axes = network_plots.held_out(record).axes[0]
    assert -10.0 < axes.get_xlim()[0] < axes.get_xlim()[1] < 10.0
    assert network_plots.n_outside(record) == 1


# ------------------------------------------------------------------------------ landscape


@pytest.fixture(scope="module")
def solved():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2))
    Y = np.abs(X @ [1.0, 0.7]) + 0.05 * rng.normal(size=60)
    problem = RBV2Problem.from_samples(X, Y, lam=2.0)
    return problem, rbv2(problem, tol=1e-8).coef


def test_the_landscape_is_the_dual_function(solved):
    problem, net = solved
    found = landscape_of(problem, net, size=23)
    R = problem.dual_point(net)
    for place, angle in enumerate(np.radians(found.angles)):
        along = problem.X @ [np.cos(angle), np.sin(angle)]
        for row, offset in enumerate(found.offsets):
            h = (R * np.maximum(along - offset, 0.0)[:, None]).sum(axis=0)
            assert found.heights[row, place] == pytest.approx(np.linalg.norm(h) / problem.lam, abs=1e-10)


def test_the_landscape_touches_one_at_the_neurons_and_nowhere_exceeds_it(solved):
    found = landscape_of(*solved)
    assert found.heights.max() <= 1.0 + 1e-6
    assert np.allclose(found.neuron_heights, 1.0, atol=1e-5)
    assert len(found.neurons) == solved[1].n_neurons > 0
    assert (np.abs(found.neurons[:, 0]) <= 90.0).all()
    # Where they are drawn the grid is high as well.
    for angle, offset in found.neurons:
        near = found.heights[np.abs(found.offsets - offset).argmin(), np.abs(found.angles - angle).argmin()]
        assert near > 0.98


def test_neurons_that_face_the_other_way_are_the_same_summits(solved):
    problem, net = solved
    turned = ShallowNet(-net.W, -net.b, net.V, net.A, net.c)  # the same function, up to the affine part
    one, two = landscape_of(problem, net, size=30), landscape_of(problem, turned, size=30)
    assert np.allclose(one.heights, two.heights)
    assert np.allclose(one.neurons, two.neurons)


def test_without_a_free_affine_part_the_landscape_goes_all_the_way_round(solved):
    problem, _ = solved
    ridge = RBV2Problem.from_samples(problem.X, problem.Y, lam=2.0, affine="ridge", ridge=1.0)
    found = landscape_of(ridge, rbv2(ridge, tol=1e-8).coef, size=200)
    assert (found.angles[0], found.angles[-1]) == (-180.0, 180.0)
    assert found.heights.max() <= 1.0 + 1e-6
    assert np.allclose(found.neuron_heights, 1.0, atol=1e-5)


def test_a_landscape_needs_two_features_and_a_derivative(solved):
    problem, net = solved
    with pytest.raises(ValueError, match="2 features; the problem has 3"):
        landscape_of(RBV2Problem.from_samples(np.eye(3), [1.0, 2.0, 3.0], lam=1.0), net)
    with pytest.raises(ValueError, match="loss with a derivative"):
        landscape_of(RBV2Problem.from_samples(problem.X, problem.Y, lam=1.0, loss="absolute"), net)
    model = SimpleNamespace(solution_=SimpleNamespace(problem=problem, coef=net))
    labels = plot_landscape(model, size=40).axes[0].get_legend().get_texts()
    assert labels[0].get_text().startswith(f"{net.n_neurons} neuron")


# ------------------------------------------------------------------------------ effects


def additive_net(rng, d, K, *, most):
    W = np.zeros((K, d))
    for row in W:
        seen = rng.choice(d, rng.integers(1, most + 1), replace=False)
        row[seen] = rng.normal(size=seen.size)
    return ShallowNet(W, rng.normal(size=K), rng.normal(size=(K, 2)), rng.normal(size=(d, 2)), rng.normal(size=2))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_constant_and_the_effects_add_up_to_the_function(seed):
    rng = np.random.default_rng(seed)
    d = 3
    X = rng.integers(0, 4, (40, d)).astype(float)  # few values, so that grids hold all of them
    net = additive_net(rng, d, 6, most=2)
    found = effects_of(net, X, output=1)
    assert found.exact
    total = np.zeros(len(X))
    for effect in found.main:
        values = effect.values[np.searchsorted(effect.grid, X[:, effect.feature])]
        assert values.mean() == pytest.approx(0.0, abs=1e-9)
        total += values
    for pair in found.pairs:
        first, second = (np.searchsorted(grid, X[:, j]) for grid, j in zip(pair.grids, pair.features, strict=True))
        total += pair.values[second, first]
        # Nothing is left of what either feature does alone.
        assert np.allclose(pair.values[:, np.searchsorted(pair.grids[0], X[:, pair.features[0]])].mean(axis=1), 0.0)
        assert np.allclose(pair.values[np.searchsorted(pair.grids[1], X[:, pair.features[1]])].mean(axis=0), 0.0)
    assert np.ptp(net(X)[:, 1] - total) == pytest.approx(0.0, abs=1e-9)


def test_a_main_effect_is_the_mean_over_the_other_features():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    net = additive_net(rng, 3, 5, most=3)
    found = {effect.feature: effect for effect in effects_of(net, X).main}
    effect = found[1]
    expected = []
    for t in effect.grid:
        moved = X.copy()
        moved[:, 1] = t
        expected.append(net(moved)[:, 0].mean())
    assert np.allclose(np.diff(effect.values), np.diff(expected))
    assert [e.size for e in effects_of(net, X).main] == sorted((e.size for e in found.values()), reverse=True)


def fitted(net, X):
    problem = RBV2Problem.from_samples(X, np.zeros((len(X), net.c.size)), lam=1.0)
    standard = SimpleNamespace(mean=np.zeros(X.shape[1]), scale=np.ones(X.shape[1]))
    return SimpleNamespace(network_=net, standard_=standard, solution_=SimpleNamespace(problem=problem, coef=net))


def test_figures_of_effects_and_functions_bear_the_names():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    net = additive_net(rng, 2, 6, most=2)
    figure = plot_effects(fitted(net, X), ["age", "size"])
    labels = {axes.get_xlabel() for axes in figure.axes}
    assert {"age", "size"} <= labels
    plane = plot_function(fitted(net, X), ["age", "size"])
    assert (plane.axes[0].get_xlabel(), plane.axes[0].get_ylabel()) == ("age", "size")
    line = ShallowNet(np.array([[1.0]]), np.array([0.2]), np.array([[1.0]]), np.zeros((1, 1)), np.zeros(1))
    drawn = plot_function(fitted(line, X[:, :1])).axes[0]
    assert drawn.get_lines()[1].get_xdata().tolist() == pytest.approx([0.2])
    assert drawn.get_xlabel() == "x1"


def test_what_cannot_be_drawn_is_refused():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    flat = ShallowNet(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1)), np.zeros((3, 1)), np.ones(1))
    with pytest.raises(ValueError, match="is constant"):
        plot_effects(fitted(flat, X))
    with pytest.raises(ValueError, match="one or two features; the model has 3"):
        plot_function(fitted(flat, X))
    with pytest.raises(ValueError, match="one name for each of the 3"):
        plot_effects(fitted(flat, X), ["a"])
    assert effects.effect_captions(fitted(flat, X)).startswith("Effects: the function is a constant plus")
