"""A record as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathnorm.report.comparison import ComparisonPoint
from pathnorm.report.numbers import count, percent, summary
from pathnorm.report.page import render_page, script_json, write_page
from pathnorm.report.reasons import skipped_lines, theorem_lines
from pathnorm.report.records import CompressionRecord, GroupRecord, kind_of
from pathnorm.report.rows import GROUP_COLUMNS, KINDS, group_cells, how, network_rows
from pathnorm.report.style import inline_svg
from pathnorm.report.table import SHORT_KIND, align, wrap

__all__ = ["text_table", "write_html"]

WIDTH = 100


def text_table(record: CompressionRecord, *, width: int = WIDTH) -> str:
    """Return the record as text: the whole network first, then its layers, then what was left alone."""
    lines = wrap(summary(record), width=width)
    lines += [
        "",
        *align(network_rows(record), head=[["whole network", "before", "after", "", "kind", ""]], left=(0, 5)),
    ]
    if record.groups:
        lines += ["", f"layers, selector {record.selector!r}", *_group_lines(record.groups, width)]
        lines += ["", *theorem_lines(record.groups, width=width)]
    if record.skipped:
        lines += ["", "left alone", *skipped_lines(record.skipped, width=width)]
    lines += ["", *wrap(how(record), width=width)]
    lines += [f"{kind + ':':11}{meaning}" for kind, meaning in KINDS.items()]
    return "\n".join(lines)


def write_html(
    record: CompressionRecord,
    path: str | Path,
    *,
    comparison: Sequence[ComparisonPoint] | None = None,
    title: str = "A smaller network, and what is known about it",
) -> Path:
    """Write one self-contained HTML page with figures; return its path.

    The page appears at once or not at all: it is written beside ``path`` and then moved there.
    """
    from pathnorm.report import plots

    compared = list(comparison or ())
    figures = []
    if record.groups:
        figures.append((plots.widths(record), "Neurons per layer, before and after."))
    if compared:
        figures.append(
            (
                plots.accuracy_against_params(compared),
                "Test accuracy against the parameters that are left. The dashed line is the network before.",
            )
        )
    if any(group.error_curve for group in record.groups):
        figures.append(
            (
                plots.error_curves(record),
                "Relative error of each layer, on calibration data, against the share of its neurons that "
                "are kept. The mark is the width chosen: layers that bear it give up more.",
            )
        )
    figures += [
        (
            plots.frontier(record, group=name),
            f"Width, error and path norm of the layer {name} for each selector. No layer of that width "
            "has an error below the shaded bound (Eckart-Young).",
        )
        for name in dict.fromkeys(item.group for item in record.frontiers)
    ]
    values = {
        "title": title,
        "record": record,
        "summary": summary(record),
        "how": how(record),
        "cards": _cards(record),
        "groups": [(group, group_cells(group)) for group in record.groups],
        "columns": _columns(),
        "figures": [(inline_svg(figure, salt=str(index)), text) for index, (figure, text) in enumerate(figures)],
        "comparison": compared,
        "kinds": KINDS,
        "data": script_json(record),
        "percent": percent,
        "count": count,
    }
    return write_page(Path(path), render_page("compression.html", values))


# ------------------------------------------------------------------------------ text


def _group_lines(groups: Sequence[GroupRecord], width: int) -> list[str]:
    kinds = ["" if name is None else SHORT_KIND[kind_of(GroupRecord, name)] for *_, name in GROUP_COLUMNS]
    head = [[first for first, *_ in GROUP_COLUMNS], [second for _, second, *_ in GROUP_COLUMNS], kinds]
    return align([group_cells(group) for group in groups], head=head, width=width)


# ------------------------------------------------------------------------------ page


def _cards(record: CompressionRecord) -> list[dict[str, str]]:
    """The whole network in large figures: label, value, detail and kind."""
    cards = []
    for label, before, after, change, kind, remark in network_rows(record):
        value = change if before and not label.startswith("accuracy") else after
        detail = f"{before} \N{RIGHTWARDS ARROW} {after}" if before else ""
        if label == "accuracy":
            detail = f"{before} before, {change}"
        cards.append({"label": label, "value": value, "detail": detail, "kind": kind, "remark": remark})
    return cards


def _columns() -> list[dict[str, str]]:
    return [
        {"head": head, "kind": "" if name is None else kind_of(GroupRecord, name)} for _, _, head, name in GROUP_COLUMNS
    ]
