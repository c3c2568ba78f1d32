"""A record as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.errors import MissingExtraError
from pathnorm.report.comparison import ComparisonPoint, comparison_table
from pathnorm.report.numbers import count, percent, summary
from pathnorm.report.records import CompressionRecord, GroupRecord, kind_of
from pathnorm.report.rows import GROUP_COLUMNS, KINDS, group_cells, how, network_rows
from pathnorm.report.table import align, wrap

if TYPE_CHECKING:
    import jinja2

__all__ = ["text_table", "write_html"]

WIDTH = 100

# A terminal shows so many; the page and the record have them all.
MOST_REASONS = 8

_SHORT_KIND = {"exact": "exact", "certified": "cert.", "measured": "meas."}


def text_table(record: CompressionRecord, *, width: int = WIDTH) -> str:
    """Return the record as text: the whole network first, then its layers, then what was left alone."""
    lines = wrap(summary(record), width=width)
    lines += [
        "",
        *align(network_rows(record), head=[["whole network", "before", "after", "", "kind", ""]], left=(0, 5)),
    ]
    if record.groups:
        lines += ["", f"layers, selector {record.selector!r}", *_group_lines(record.groups, width)]
        lines += ["", *_theorem_lines(record, width)]
    if record.skipped:
        lines += ["", "left alone", *_skipped_lines(record, width)]
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
    page = _template().render(
        title=title,
        record=record,
        summary=summary(record),
        how=how(record),
        cards=_cards(record),
        groups=[(group, group_cells(group)) for group in record.groups],
        columns=_columns(),
        figures=[(plots.inline_svg(figure, salt=str(index)), text) for index, (figure, text) in enumerate(figures)],
        comparison=compared,
        comparison_text=comparison_table(compared) if compared else "",
        kinds=KINDS,
        data=_script_json(record),
        percent=percent,
        count=count,
    )
    return _write_atomically(Path(path), page)


# ------------------------------------------------------------------------------ text


def _group_lines(groups: Sequence[GroupRecord], width: int) -> list[str]:
    kinds = ["" if name is None else _SHORT_KIND[kind_of(GroupRecord, name)] for *_, name in GROUP_COLUMNS]
    head = [[first for first, *_ in GROUP_COLUMNS], [second for _, second, *_ in GROUP_COLUMNS], kinds]
    return align([group_cells(group) for group in groups], head=head, width=width)


def _theorem_lines(record: CompressionRecord, width: int) -> list[str]:
    """One line per reason, not per layer: fifty layers usually share three reasons."""
    lines = ["the theorem on layer widths"]
    for verdict, applies in (("applies", True), ("does not apply", False)):
        by_reason: dict[str, list[str]] = {}
        for group in record.groups:
            if group.theorem_applies is applies:
                by_reason.setdefault(group.theorem_reason, []).append(group.name)
        for reason, names in list(by_reason.items())[:MOST_REASONS]:
            lines += wrap(f"{verdict}: {reason} ({_few(names)})", width=width, indent="  ", hang="    ")
        rest = list(by_reason.values())[MOST_REASONS:]
        if rest:
            lines.append(f"  {verdict}: {sum(map(len, rest))} layers more, each with its reason in the record")
    return lines


def _skipped_lines(record: CompressionRecord, width: int) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for item in record.skipped:
        by_reason.setdefault(item.reason, []).append(f"{item.name} [{item.width}]")
    lines = []
    for reason, names in by_reason.items():
        lines += wrap(f"{_few(names)}: {reason}", width=width, indent="  ", hang="    ")
    return lines


def _few(names: Sequence[str], *, most: int = 8) -> str:
    """Join names, and count those beyond ``most``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


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


def _template() -> jinja2.Template:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "An HTML report needs the package 'jinja2', which is not installed. "
            "Install it with: pip install 'pathnorm[plot]'."
        ) from error
    source = files("pathnorm.report").joinpath("templates", "compression.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(source)


def _script_json(record: CompressionRecord) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return record.to_json(indent=None).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _write_atomically(path: Path, text: str) -> Path:
    """Write beside ``path``, then move there: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp makes the file private; a report is as readable as any other file.
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
