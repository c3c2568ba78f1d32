"""The table and the page of an audit: what they say of which kind of network."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from pathnorm.report import audit_plots
from pathnorm.report.audit import AuditRecord, GroupAudit, LipschitzLayer, PredictedWidth, ReconstructionAudit
from pathnorm.report.audit_render import text_table, write_html
from pathnorm.report.records import SkippedGroup


def _reconstruction(width: int, *, enough: bool = True) -> ReconstructionAudit:
    return ReconstructionAudit(
        rows=1000 if enough else 5,
        features=9 * width,
        enough_rows=enough,
        rank_features=9 * width - 3,
        rank_outputs=width,
        rank_tolerance=1e-4,
        coarse_rank_features=5 * width,
        coarse_rank_outputs=width // 2,
        coarse_tolerance=1e-2,
        width_bound=(9 * width - 3) * width,
        predicted=(
            PredictedWidth(error=0.01, width=width - 2, lower_bound=3),
            PredictedWidth(error=0.05, width=width // 2, lower_bound=2),
        ),
        ranking="backward",
        error_curve=tuple((1 - k / (width - 1)) ** 2 for k in range(width)),
        target_error=0.01,
        path_norm_found=30.0,
        path_norm_lower_bound=28.0,
        excess_found=0.25,
        excess_most=0.3,
        subgradient_residual=2e-15,
    )


def _group(index: int, *, width: int, dead: int = 0, enough: bool = True) -> GroupAudit:
    return GroupAudit(
        name=f"stages.{index // 3}.blocks.{index % 3}.conv1",
        consumers=(f"stages.{index // 3}.blocks.{index % 3}.conv2",),
        activations=("relu",),
        theorem_applies=index % 2 == 0,
        theorem_reason="homogeneous" if index % 2 == 0 else "BatchNorm stands between the weights and the neurons",
        width=width,
        active=width - 1 - dead,
        dead_proved=dead,
        dead_measured=1,
        duplicates_proved=0,
        duplicates_measured=0,
        balance=(-0.9, -0.7, -0.3, -0.2, 0.1, 0.4, 0.8),
        balance_worst=0.9,
        balance_counts=(*[1] * 10, *[0] * 29, width - 10),
        path_norm=40.0,
        path_norm_share=0.2,
        masses=tuple(0.9**k for k in range(width)),
        gini=0.3,
        input_singular_values=tuple(0.8**k for k in range(width)),
        directions=4.6,
        reconstruction=_reconstruction(width, enough=enough),
    )


@pytest.fixture
def make_audit():
    def make(n_groups: int = 5, *, enough: bool = True, dead: int = 0, **changes: object) -> AuditRecord:
        groups = tuple(_group(k, width=16 * (1 + k % 3), dead=dead, enough=enough) for k in range(n_groups))
        fields: dict[str, object] = {
            "groups": groups,
            "skipped": (SkippedGroup(name="head", width=10, reason="these are the model's outputs"),),
            "params": 113_994,
            "macs": 2_345_000,
            "neurons": sum(group.width for group in groups),
            "active": sum(group.active for group in groups),
            "dead_proved": sum(group.dead_proved for group in groups),
            "duplicates_proved": 0,
            "path_norm": 200.0,
            "biases": False,
            "lipschitz_upper": 91.5,
            "lipschitz_reason": "",
            "lipschitz_layers": (
                LipschitzLayer(name="stem", operation="conv2d", norm=3.5, method="exact per frequency"),
            ),
            "lipschitz_lower": 12.25,
            "attack_samples": 16,
            "samples": 2000,
            "passes": 1,
            "max_positions": 64,
            "seed": 0,
            "seconds": 12.3,
            "peak_memory_mb": 512.0,
        }
        return AuditRecord(**(fields | changes))  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("n_groups", [0, 1, 5, 55])
def test_the_table_fits_a_terminal_and_has_three_lines_per_layer(make_audit, n_groups):
    text = text_table(make_audit(n_groups))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and text.isascii()
    assert sum("blocks" in line and line.split()[0].endswith("conv1") for line in lines) >= 3 * n_groups
    assert sum("25.0 %" in line and line.endswith("2e-15") for line in lines) == n_groups


def test_every_number_says_which_kind_it_is(make_audit):
    lines = text_table(make_audit()).splitlines()
    kinds = [line.split() for line in lines if set(line.split()) <= {"exact", "cert.", "meas."} and line.strip()]
    assert kinds[0] == ["exact", "meas.", "cert.", "meas.", "cert.", "meas."]
    assert kinds[1] == ["exact"] * 7
    assert kinds[2] == [*["meas."] * 4, "cert.", "meas.", "cert.", "cert.", "cert.", "meas."]
    row = next(line for line in lines if line.startswith("Lipschitz at most"))
    assert "91.5" in row and "certified" in row
    assert "measured" in next(line for line in lines if line.startswith("Lipschitz at least"))


def test_the_summary_says_what_is_safe_to_remove(make_audit):
    kinds = {finding.kind for finding in make_audit().summary}
    assert kinds == {"exact", "certified", "measured"}
    plain = _words(make_audit(dead=0))
    assert "No neuron is redundant for every input" in plain
    assert "5 neurons were zero on all 2,000 samples" in plain
    assert "need at least 15 for 1 % and 10 for 5 % error" in plain
    assert "At least 25.0 % and at most 30.0 % of the path norm" in plain
    dead = make_audit(dead=2)
    assert "10 neurons can be removed without any change of the function" in _words(dead)
    assert dead.summary[0].kind == "certified"
    assert "fewer rows" in _words(make_audit(enough=False)) and "fewer rows" not in plain


def _words(record: AuditRecord) -> str:
    return " ".join(finding.text for finding in record.summary)


def test_without_a_bound_there_is_no_number(make_audit):
    reason = "not certifiable: blocks.0.attention multiplies two activations"
    record = make_audit(lipschitz_upper=None, lipschitz_reason=reason)
    assert "not certifiable: blocks.0.attention multiplies two activations. An attack found" in _words(record)
    row = next(line for line in text_table(record).splitlines() if line.startswith("Lipschitz at most"))
    assert "not certifiable" in row and not re.search(r"\d", row)
    assert "of use" in _words(make_audit(lipschitz_upper=1e9)) and "of use" not in _words(make_audit())


def test_layers_known_by_their_weights_alone_are_shown_as_such(make_audit):
    record = make_audit(3)
    lost = dataclasses.replace(
        record.groups[1], reconstruction=None, missing="its Gram matrices would take 5 GB", duplicates_measured=None
    )
    record = dataclasses.replace(record, groups=(record.groups[0], lost, record.groups[2]))
    text = text_table(record)
    assert "only the weights were looked at" in text and "n/a" in text and "5 GB" in text
    nothing = dataclasses.replace(record, groups=(lost,))
    assert "n/a" in text_table(nothing)
    assert len(nothing.plot().axes) == 4


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag, attrs):
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")
        self.links += [value for key, value in attrs if key in {"src", "href", "xlink:href", "action", "data"}]

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


@pytest.mark.parametrize("n_groups", [0, 31])
def test_the_page_stands_alone_and_holds_the_record(make_audit, tmp_path, n_groups):
    record = make_audit(n_groups, enough=False)
    lost = [dataclasses.replace(group, reconstruction=None, missing="it takes 5 GB") for group in record.groups[1:2]]
    record = dataclasses.replace(record, groups=(*record.groups[:1], *lost, *record.groups[2:]))
    text = write_html(record, tmp_path / "r.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<link|<img", text)
    assert json.loads(page.scripts[0]) == record.to_dict()
    assert record.to_dict()["summary"][0].keys() == {"kind", "text"}
    assert text.count("<svg") == (7 if n_groups else 0)
    assert ("nothing to draw" in text) == (n_groups == 0)
    visible = text.replace(page.scripts[0], "")
    # In the summary, and below the table whose row is empty.
    assert visible.count("it takes 5 GB") == 2 * len(lost) and "nan" not in visible.split("<svg")[0]


def test_the_page_is_the_same_every_time_and_names_are_escaped(make_audit, tmp_path):
    record = make_audit(1)
    nasty = "</script><i-x>&y"
    record = dataclasses.replace(record, groups=(dataclasses.replace(record.groups[0], name=nasty),))
    text, again = (write_html(record, tmp_path / name).read_text(encoding="utf-8") for name in ("a.html", "b.html"))
    assert text == again
    page = _Page()
    page.feed(text)
    assert "<i-x" not in text and len(page.scripts) == 1
    assert json.loads(page.scripts[0])["groups"][0]["name"] == nasty


def test_the_balance_figure_shows_the_quantiles(make_audit):
    record = make_audit(2)
    (axes,) = audit_plots.balance(record).axes
    ranges = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_color() != "#20242c"]
    assert [list(item) for item in ranges] == [[-0.9, 0.8]] * 2
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bars == [pytest.approx((-0.3, 0.1))] * 2


def test_the_histograms_count_every_neuron_once(make_audit):
    record = make_audit(3)
    silent = dataclasses.replace(record.groups[0], masses=(1.0, 1.0, *[0.0] * 14))
    record = dataclasses.replace(record, groups=(silent, *record.groups[1:]))
    left, right = audit_plots.histograms(record).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (left, right)]
    assert [sum(item) for item in heights] == [16 + 32 + 48] * 2
    assert heights[0] == [*[3] * 10, *[0] * 29, 6 + 22 + 38]
    assert heights[1][0] >= 14 and heights[1][-1] >= 4
    alike = dataclasses.replace(silent, masses=(2.0,) * 16)
    assert sum(bar.get_height() for bar in audit_plots.histograms(_of(record, alike)).axes[1].patches) == 16
    nothing = dataclasses.replace(silent, masses=(0.0,) * 16)
    assert not audit_plots.histograms(_of(record, nothing)).axes[1].patches


def _of(record: AuditRecord, group: GroupAudit) -> AuditRecord:
    return dataclasses.replace(record, groups=(group,))


def test_the_width_figure_shows_all_active_and_predicted(make_audit):
    record = make_audit(2)
    (axes,) = audit_plots.widths(record).axes
    assert [bar.get_width() for bar in axes.patches] == [16, 32, 15, 31, 14, 30, 8, 16]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "all",
        "active",
        "1 % error",
        "5 % error",
        "5 %: at least",
    ]
