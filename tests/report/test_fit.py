"""The record of a fit, its table, its figures and its page."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest

from pathnorm.report import fit_plots
from pathnorm.report.fields import kind_of
from pathnorm.report.fit import (
    BandRecord,
    DualRecord,
    FitRecord,
    PathRecord,
    Picture,
    SmootherRecord,
    SplineRecord,
)
from pathnorm.report.fit_render import text_table, write_html
from pathnorm.report.picture import COLUMNS, LEVELS, MOST_POINTS, picture_of

KNOTS = (2.0, 5.0)
GRID = tuple(np.linspace(0.0, 10.0, 41).tolist())


@pytest.fixture
def make_fit():
    """A record made by hand; the numbers are only there to be shown."""

    def make(*, n=30, **changes):
        rng = np.random.default_rng(0)
        x = np.sort(rng.uniform(0.0, 10.0, n))
        y = np.interp(x, (0, 2, 5, 10), (0, 2, -1, 4)) + rng.normal(0.0, 0.1, n)
        curve = np.interp(GRID, (0, 2, 5, 10), (0, 2, -1, 4))
        steps = range(20, 0, -1)
        fields = {
            "x_name": "time",
            "y_name": "value",
            "rows": n,
            "n_samples": n,
            "n_distinct": n,
            "loss": "squared",
            "lam": 1.0,
            "lam_max": 2.0**19,
            "chosen_by": "sure",
            "n_knots": 2,
            "dof": 4,
            "tv2": 4.0,
            "primal": 1.25,
            "dual": 1.25 - 4e-12,
            "gap": 3e-12,
            "scope": "function_space",
            "tol": 1e-9,
            "rmse": 0.1,
            "r2": 0.99,
            "gcv": 0.011,
            "noise": 0.1,
            "seconds": 0.5,
            "seconds_fit": 0.1,
            "peak_memory_mb": 100.0,
            "spline": SplineRecord(knots=KNOTS, values=(2.0, -1.0), slopes=(1.0, -1.0, 1.0)),
            "picture": picture_of(x, y, np.interp(x, GRID, curve), (np.array(GRID), curve)),
            "path": PathRecord(
                criterion="sure",
                lams=tuple(2.0 ** (k - 1) for k in steps),
                n_knots=tuple(20 - k for k in steps),
                dof=tuple(22 - k for k in steps),
                losses=tuple(float(k) for k in steps),
                tv2=tuple(1.0 / k for k in steps),
                gaps=(0.0,) * 20,
                scores=tuple(float((k - 3) ** 2) for k in steps),
            ),
            "smoother": SmootherRecord(lam=1.0, dof=12.0, rmse=0.12, gcv=0.02, x=GRID, y=tuple(curve.tolist())),
            "band": BandRecord(
                method="conditional",
                level=0.95,
                covers="the mean at one x",
                x=GRID,
                lower=tuple((curve - 0.1).tolist()),
                upper=tuple((curve + 0.1).tolist()),
            ),
            "dual_curve": DualRecord(x=GRID, v=tuple(np.sin(GRID).tolist())),
        }
        return FitRecord(**(fields | changes))

    return make


def test_json_is_strict_and_complete(make_fit):
    record = make_fit(r2=float("nan"), seconds=float("inf"))
    found = json.loads(record.to_json(), parse_constant=pytest.fail)
    assert found["r2"] is found["seconds"] is None
    assert set(found) == {item.name for item in dataclasses.fields(FitRecord)}
    assert found["spline"]["knots"] == list(KNOTS)
    assert found == make_fit(r2=float("nan"), seconds=float("inf")).to_dict()


@pytest.mark.parametrize("kind", [FitRecord, SplineRecord, PathRecord, SmootherRecord, BandRecord, DualRecord, Picture])
def test_every_field_says_its_kind(kind):
    assert all("kind" in item.metadata for item in dataclasses.fields(kind))


def test_what_is_observed_is_never_called_certified():
    for name in ("rmse", "r2", "gcv", "noise", "seconds"):
        assert kind_of(FitRecord, name) == "measured"
    for name in ("primal", "dual", "gap"):
        assert kind_of(FitRecord, name) == "certified"


def test_records_cannot_be_changed(make_fit):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_fit().lam = 2.0


# ------------------------------------------------------------------------------ text


def test_the_proof_comes_first_and_the_table_fits_a_terminal(make_fit):
    text = str(make_fit())
    assert text.startswith("Certified optimal over all functions of BV2 at this lambda: the relative gap is 3e-12.")
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert re.search(r"gap +3e-12 +certified", text)
    assert re.search(r"degrees of freedom +4 +12\.0 +exact", text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gap": 1e-3}, "Not optimal to 1e-09 as asked"),
        ({"gap": 0.0}, "the gap is zero to the last digit"),
        ({"scope": "dictionary"}, "over all functions with these knots"),
        ({"n_knots": 0}, "value is fitted by a straight line"),
        ({"n_knots": 1}, "value bends at 1 knot over"),
        ({"loss": "poisson"}, "The log-mean of value bends"),
        ({"rows": 60, "rows_dropped": 10}, "10 of 60 rows lack a value"),
        ({"smoother": None, "smoother_left_out": "the loss is huber"}, "beside it: the loss is huber."),
        ({"path": None, "chosen_by": "given"}, "given"),
        ({"one_standard_error": True}, "one-standard-error rule"),
        ({"weight_name": "w", "loss": "huber", "parameter": 2.0}, "weights w; loss huber 2.00"),
        ({}, "The conditional band covers the mean at one x."),
    ],
)
def test_the_text_says_what_happened(make_fit, changes, words):
    assert words in " ".join(text_table(make_fit(**changes)).split())


def test_a_quantile_has_no_share_of_the_variance(make_fit):
    assert "R2" in text_table(make_fit())
    assert "R2" not in text_table(make_fit(loss="quantile", parameter=0.9))


# ------------------------------------------------------------------------------ picture


@pytest.mark.parametrize("shuffled", [False, True])
def test_few_samples_are_all_drawn_and_many_are_counted_in_quantiles(shuffled):
    rng = np.random.default_rng(1)
    x = np.linspace(0.0, 1.0, 30_000)
    x = rng.permutation(x) if shuffled else x
    y = x + rng.uniform(-1.0, 1.0, x.size)
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    few = picture_of(x[:100], y[:100], x[:100], curve)
    assert few.x == tuple(x[:100])
    assert few.levels == few.columns == few.y_quantiles == ()
    many = picture_of(x, y, x, curve)
    assert len(many.x) == len(set(many.x)) == MOST_POINTS
    assert len(many.columns) == COLUMNS
    place = np.minimum((x * COLUMNS).astype(int), COLUMNS - 1)
    for row, residuals, level in zip(many.y_quantiles, many.residual_quantiles, LEVELS, strict=True):
        assert row[17] == np.quantile(y[place == 17], level)
        assert np.allclose(residuals, 2 * level - 1, atol=0.5)
    assert np.allclose(np.array(many.y) - many.x, many.residual)


def test_columns_without_samples_are_left_out():
    x = np.concatenate((np.linspace(0.0, 0.1, 3000), [1.0]))
    picture = picture_of(x, x, x, (x[:2], x[:2]))
    assert 20 < len(picture.columns) < 30
    same = picture_of(np.ones(3000), np.arange(3000.0), np.zeros(3000), (x[:2], x[:2]))
    assert same.columns == ()


# ------------------------------------------------------------------------------ figures


VARIANTS = [
    {},
    {"n": 5000},
    {"path": None, "band": None, "smoother": None, "dual_curve": None},
    {"dual_curve": None},
    {"x_is_time": True, "x_unit": "seconds since 1970-01-01 UTC"},
    {"n_knots": 0, "spline": SplineRecord(knots=(0.0,), values=(0.0,), slopes=(1.0, 1.0))},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_figure_can_be_drawn(make_fit, changes):
    record = make_fit(**changes)
    panels = 2 + 2 * (record.path is not None) + (record.dual_curve is not None)
    figure = record.plot()
    assert len(figure.axes) == panels
    figure.savefig(io.BytesIO(), format="png", dpi=40)


@pytest.mark.parametrize("n_knots", [100, 400, 3000])
def test_many_knots_are_counted_in_the_legend(make_fit, n_knots):
    knots = np.linspace(0.0, 10.0, n_knots)
    slopes = tuple(float(k % 2) for k in range(n_knots + 1))
    spline = SplineRecord(knots=tuple(knots.tolist()), values=(0.0,) * n_knots, slopes=slopes)
    axes = fit_plots.fit(make_fit(spline=spline, n_knots=n_knots)).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith(f"{n_knots:,} knots") for label in labels)
    assert any(label.endswith("not drawn") for label in labels) == (n_knots == 3000)


def test_knots_are_marked_on_the_fit_and_where_the_dual_curve_touches(make_fit):
    record = make_fit()
    marks = next(line for line in fit_plots.fit(record).axes[0].lines if line.get_label() == "2 knots")
    assert marks.get_xdata().tolist() == list(KNOTS)
    assert np.allclose(marks.get_ydata(), record.spline.values)
    touches = fit_plots.dual_curve(record).axes[0].lines[-1]
    assert touches.get_ydata().tolist() == [-1.0, 1.0]


def test_the_choice_is_marked_on_the_path(make_fit):
    left, right = fit_plots.path(make_fit(lam=4.0)).axes
    assert [line.get_xdata()[0] for line in (left.lines[1], right.lines[1])] == [4.0, 4.0]
    assert (left.lines[1].get_ydata()[0], right.lines[1].get_ydata()[0]) == (17, 0)
    with pytest.raises(ValueError, match="lambda was given"):
        fit_plots.path(make_fit(path=None))


@pytest.mark.parametrize("scores", [(float("inf"), 3.0, 1.0), (1e9, 1e3, -1.0), (None, 2.0, 1.0), (0.0, 0.0, 0.0)])
def test_scores_of_any_size_can_be_drawn(make_fit, scores):
    path = PathRecord(
        criterion="cv",
        lams=(4.0, 2.0, 1.0),
        n_knots=(0, 1, 99),
        dof=(2, 3, 4),
        losses=(3.0, 2.0, 1.0),
        tv2=(0.0, 1.0, 2.0),
        gaps=(0.0,) * 3,
        scores=scores,
        errors=(0.1,) * 3,
    )
    fit_plots.path(make_fit(path=path)).savefig(io.BytesIO(), format="png", dpi=40)


def test_a_few_samples_far_off_do_not_flatten_the_fit(make_fit):
    record = make_fit()
    far = dataclasses.replace(record.picture, y=(1e6, -1e6, *record.picture.y[2:]))
    record = dataclasses.replace(record, picture=far)
    low, high = fit_plots.fit(record).axes[0].get_ylim()
    assert -20 < low < -1
    assert 4 < high < 20
    assert fit_plots.n_outside(record) == 2


def test_the_plot_of_the_regressor_has_samples_fit_and_band():
    x = np.linspace(0.0, 1.0, 3000)
    axes = fit_plots.plot_spline(x, x, x[::100], x[::100], [0.5], (x[::100] - 1, x[::100] + 1)).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["2,000 of 3,000 samples", "band", "BV² fit", "1 knot"]


# ------------------------------------------------------------------------------ page


def test_the_page_is_whole_and_holds_the_record(make_fit, tmp_path):
    record = make_fit()
    text = write_html(record, tmp_path / "r.html").read_text()
    assert not re.search(r"url\((?!#)|@import|<link|<img", text)
    assert json.loads(re.search(r'id="record">(.*?)</script>', text)[1]) == record.to_dict()
    assert text.count("<svg") == 4
    assert "Beside the smoothing spline" in text
    assert "The conditional band covers" in text
    again = write_html(record, tmp_path / "s.html").read_bytes()
    assert again == text.encode()


def test_the_page_of_a_line_has_no_table_of_knots(make_fit, tmp_path):
    changes = VARIANTS[-1] | {"path": None, "dual_curve": None, "smoother": None, "smoother_left_out": "of some reason"}
    text = make_fit(**changes).to_html(tmp_path / "r.html").read_text()
    assert "slope before" not in text
    assert "beside it: of some reason." in text


def test_the_page_says_how_many_samples_are_drawn(make_fit, tmp_path):
    plain = {"path": None, "dual_curve": None}
    assert "Every sample is drawn" in make_fit(**plain).to_html(tmp_path / "r.html").read_text()
    text = make_fit(n=5000, **plain).to_html(tmp_path / "r.html").read_text()
    assert "2,000 of 5,000 samples are drawn; every one counts in the shaded quantiles" in text


def test_names_are_escaped_and_not_rewritten(make_fit, tmp_path):
    record = make_fit(x_name="</script><i-x>", y_name="lambda", path=None, dual_curve=None)
    text = record.to_html(tmp_path / "r.html").read_text()
    assert "<i-x" not in text
    assert "lambda bends at" in text


def test_knots_of_a_time_are_dates(make_fit, tmp_path):
    spline = SplineRecord(knots=(1.6e9, 1.7e9 + 0.25), values=(2.0, -1.0), slopes=(1.0, -1.0, 1.0))
    plain = {"path": None, "dual_curve": None, "spline": spline}
    text = make_fit(x_is_time=True, **plain).to_html(tmp_path / "r.html").read_text()
    assert "2020-09-13 12:26:40" in text
    assert "2023-11-14 22:13:20.250" in text
    assert "1600000000" in make_fit(**plain).to_html(tmp_path / "r.html").read_text()
