"""The table and the page: what they say, what they must never do."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pathnorm.report import numbers
from pathnorm.report.comparison import comparison_table
from pathnorm.report.render import text_table, write_html
from pathnorm.report.table import align, shorten, wrap


def test_the_whole_network_comes_before_any_layer(make_record):
    text = text_table(make_record())
    assert text.index("49.9 %") < text.index("features.0")
    assert text.index("multiply-accumulates") < text.index("layers, selector")


@pytest.mark.parametrize("n_groups", [1, 5, 55])
def test_the_table_fits_a_terminal_and_has_one_line_per_layer(make_record, n_groups):
    record = make_record(n_groups)
    lines = text_table(record).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("3e-08" in line for line in lines) == n_groups
    assert len(lines) < 40 + n_groups
    assert text_table(record).isascii()


def test_every_number_says_which_kind_it_is(make_record):
    lines = text_table(make_record()).splitlines()
    row = next(line for line in lines if line.startswith("parameters"))
    assert "exact" in row
    row = next(line for line in lines if line.startswith("latency"))
    assert "measured" in row
    kinds = next(line for line in lines if line.split()[:2] == ["exact", "cert."])
    assert kinds.split() == ["exact", "cert.", *["meas."] * 3, "exact", "cert.", "cert.", "exact"]


def test_without_labels_no_accuracy_is_shown(make_record):
    assert "accuracy" in text_table(make_record())
    assert "accuracy" not in text_table(make_record(labels=False))
    assert "same answer on 99.2 %" in text_table(make_record(labels=False))


def test_a_long_layer_name_keeps_its_end(make_record):
    record = make_record(1)
    long = dataclasses.replace(record.groups[0], name="encoder." * 12 + "fc1")
    lines = text_table(dataclasses.replace(record, groups=(long,), frontiers=())).splitlines()
    assert any(line.startswith("..") and "fc1 " in line for line in lines)
    assert max(map(len, (line for line in lines if "3e-08" in line))) <= 100


def test_layers_left_alone_are_grouped_by_reason(make_record):
    text = text_table(make_record())
    assert "stem [16], stages.0.blocks.0.conv2 [16]: read by a residual stream" in text


def test_many_different_reasons_do_not_flood_the_terminal(make_record):
    record = make_record(55)
    groups = tuple(
        dataclasses.replace(group, theorem_applies=False, theorem_reason=f"bn{index} stands in between")
        for index, group in enumerate(record.groups)
    )
    text = text_table(dataclasses.replace(record, groups=groups))
    assert "bn7 stands" in text
    assert "bn8 stands" not in text
    assert "47 layers more" in text


def test_the_interval_of_a_change_of_accuracy_is_in_points(make_record):
    assert "95 %: -0.8 to +0.4 points" in text_table(make_record())
    assert "95 %: 0.0 to 0.0 points" in text_table(make_record(accuracy_change_interval=(-0.0, 1e-9)))


def test_numbers_that_are_not_finite_are_shown_as_missing(make_record):
    record = make_record(1)
    group = dataclasses.replace(record.groups[0], gap=float("nan"), path_norm_lower_bound=float("inf"))
    text = text_table(dataclasses.replace(record, groups=(group,), output_error_heldout=float("nan")))
    assert "nan" not in text.lower()
    assert numbers.MISSING in text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag, attrs):
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")
        for key, value in attrs:
            if key in {"src", "href", "xlink:href", "action", "data"}:
                self.links.append(value)

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


def _read(path: Path) -> tuple[str, _Page]:
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    return text, page


def test_the_page_loads_nothing_from_elsewhere(make_record, points, tmp_path):
    text, page = _read(write_html(make_record(), tmp_path / "r.html", comparison=points))
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<link|<img", text)


def test_the_page_holds_the_record_as_json(make_record, tmp_path):
    record = make_record()
    _, page = _read(write_html(record, tmp_path / "r.html"))
    assert json.loads(page.scripts[0]) == record.to_dict()


def test_names_are_escaped_in_the_page(make_record, tmp_path):
    record = make_record(1, frontiers=False)
    nasty = "</script><i-x>&y"
    group = dataclasses.replace(record.groups[0], name=nasty, theorem_reason=nasty)
    text, page = _read(write_html(dataclasses.replace(record, groups=(group,)), tmp_path / "r.html"))
    assert "<i-x" not in text
    assert len(page.scripts) == 1
    assert json.loads(page.scripts[0])["groups"][0]["name"] == nasty


@pytest.mark.parametrize("extra", ["comparison", "no comparison"])
def test_the_comparison_is_shown_if_there_is_one(make_record, points, tmp_path, extra):
    compared = points if extra == "comparison" else None
    text, _ = _read(write_html(make_record(), tmp_path / "r.html", comparison=compared, title="A <title>"))
    assert ("Compared with other methods" in text) == (compared is not None)
    assert "<title>A &lt;title&gt;</title>" in text


def test_a_page_of_a_record_without_layers_can_be_written(make_record, tmp_path):
    text, _ = _read(write_html(make_record(0, frontiers=False), tmp_path / "r.html"))
    assert "nothing to draw" in text


def test_the_page_is_the_same_from_run_to_run(make_record, points, tmp_path):
    first = write_html(make_record(), tmp_path / "a.html", comparison=points).read_bytes()
    assert first == write_html(make_record(), tmp_path / "b.html", comparison=points).read_bytes()


def test_a_failed_write_leaves_the_old_page_and_nothing_else(make_record, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_html(make_record(1), path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["r.html"]


def test_the_comparison_table_has_one_line_per_point(points):
    lines = comparison_table(points).splitlines()
    assert len(lines) == 3 + len(points)
    assert "98.4 %" in lines[3]
    assert lines[-1].endswith("n/a")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.0123"),
        (9.996, "10.0"),
        (0, "0"),
        (113_994, "113,994"),
        (1.5e7, "1.5e+07"),
        (2e-7, "2.0e-07"),
    ],
)
def test_decimals_keep_three_significant_digits(value, text):
    assert numbers.decimal(value) == text


def test_a_change_that_rounds_to_zero_has_no_sign():
    assert numbers.points(0.9, 0.9 - 1e-5) == "0.0 points"
    assert numbers.points(0.984, 0.982) == "-0.2 points"


def test_file_sizes():
    assert [numbers.byte_size(n) for n in (12, 458_000, 2_500_000, 3_200_000_000)] == [
        "12.0 B",
        "458 kB",
        "2.50 MB",
        "3.20 GB",
    ]


def test_tables_line_up_and_text_wraps():
    lines = align([["a", "1"], ["bb", "22"]], head=[["x", "y"]])
    assert lines == ["x    y", "------", "a    1", "bb  22"]
    assert shorten("abcdefgh", 5) == "..fgh"
    assert wrap("is 12 % of it", width=6) == ["is", "12 %", "of it"]
