"""An audit as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.audit import AuditRecord, GroupAudit
from pathnorm.report.audit_rows import (
    KINDS,
    NEURON_COLUMNS,
    OUTPUT_COLUMNS,
    WEIGHT_COLUMNS,
    how,
    network_rows,
    neuron_cells,
    output_cells,
    weight_cells,
)
from pathnorm.report.audit_summary import headline
from pathnorm.report.numbers import decimal
from pathnorm.report.page import render_page, script_json, write_page
from pathnorm.report.reasons import skipped_lines, theorem_lines
from pathnorm.report.style import inline_svg
from pathnorm.report.table import SHORT_KIND, align, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["text_table", "write_html"]

WIDTH = 100

_FEW_ROWS = "fewer rows than features: these numbers say how few the data are"


def text_table(record: AuditRecord, *, width: int = WIDTH) -> str:
    """Return the record as text: what is safe to remove, the whole network, its layers, what was left alone."""
    lines = wrap(headline(record), width=width)
    lines += ["", "what is known"]
    for finding in record.summary:
        lines += wrap(f"{finding.kind:10}{finding.text}", width=width, indent="  ", hang=" " * 12)
    lines += ["", *align(network_rows(record), head=[["whole network", "", "kind", ""]], left=(0, 2, 3))]
    if record.groups:
        for columns, cells in (
            (NEURON_COLUMNS, neuron_cells),
            (WEIGHT_COLUMNS, weight_cells),
            (OUTPUT_COLUMNS, output_cells),
        ):
            rows = [cells(group) for group in record.groups]
            lines += ["", *align(rows, head=_head(columns), width=width)]
        if _has_few_rows(record):
            lines.append(f"* {_FEW_ROWS}")
        lines += ["", *theorem_lines(record.groups, width=width)]
    if record.skipped:
        lines += ["", "left alone", *skipped_lines(record.skipped, width=width)]
    lines += ["", *wrap(how(record), width=width)]
    lines += [f"{kind + ':':11}{meaning}" for kind, meaning in KINDS.items()]
    return "\n".join(lines)


def write_html(record: AuditRecord, path: str | Path, *, title: str = "A trained network, and what it needs") -> Path:
    """Write one self-contained HTML page with figures; return its path.

    The page appears at once or not at all: it is written beside ``path`` and then moved there.
    """
    figures = _figures(record)
    values = {
        "title": title,
        "record": record,
        "summary": headline(record),
        "findings": record.summary,
        "how": how(record),
        "cards": _cards(record),
        "neurons": [neuron_cells(group) for group in record.groups],
        "neuron_columns": _columns(NEURON_COLUMNS),
        "weights": [weight_cells(group) for group in record.groups],
        "weight_columns": _columns(WEIGHT_COLUMNS),
        "outputs": [output_cells(group) for group in record.groups],
        "output_columns": _columns(OUTPUT_COLUMNS),
        "few_rows": _FEW_ROWS if _has_few_rows(record) else "",
        "notes": [(group.name, note) for group in record.groups if (note := _note(group))],
        "figures": [(inline_svg(figure, salt=str(index)), text) for index, (figure, text) in enumerate(figures)],
        "kinds": KINDS,
        "data": script_json(record),
        "decimal": decimal,
    }
    return write_page(Path(path), render_page("audit.html", values))


def _has_few_rows(record: AuditRecord) -> bool:
    return any(group.reconstruction is not None and not group.reconstruction.enough_rows for group in record.groups)


def _note(group: GroupAudit) -> str:
    return group.missing or (group.reconstruction.note if group.reconstruction is not None else "")


def _head(columns: Sequence[tuple[str, str, str, str]]) -> list[list[str]]:
    kinds = [SHORT_KIND.get(kind, "") for *_, kind in columns]
    return [[first for first, *_ in columns], [second for _, second, *_ in columns], kinds]


def _columns(columns: Sequence[tuple[str, str, str, str]]) -> list[dict[str, str]]:
    return [{"head": head, "kind": kind} for _, _, head, kind in columns]


def _cards(record: AuditRecord) -> list[dict[str, str]]:
    names = ("label", "value", "kind", "remark")
    return [dict(zip(names, row, strict=True)) | {"detail": ""} for row in network_rows(record)]


def _figures(record: AuditRecord) -> list[tuple[Figure, str]]:
    from pathnorm.report import audit_plots

    if not record.groups:
        return []
    figures = [
        (
            audit_plots.widths(record),
            "Neurons of each layer: all, active on these data, and predicted for 1 % and 5 % error in the layer's own "
            "outputs. No choice of neurons needs fewer than the tick for 5 %.",
        ),
        (
            audit_plots.shares(record),
            "Where the path norm is: each layer's share of the total, and how unequal its neurons are (Gini).",
        ),
        (
            audit_plots.balance(record),
            "Balance of each layer's neurons: line from least to largest, bar from 25 to 75 %, tick at the median. "
            "At 0 the weights in front of and behind a neuron are equally large, as weight decay wants them; "
            "at 1 nothing is behind it, at -1 nothing in front.",
        ),
        (
            audit_plots.histograms(record),
            "All neurons of the network. Left: by balance. Right: by mass, on a logarithmic scale; the first bar holds "
            "all with less than a millionth of the largest.",
        ),
        (
            audit_plots.spectra(record),
            "Left: masses of the neurons, largest first, relative to the largest: a steep curve is a layer of few "
            "neurons. Right: singular values of the input weights: a steep curve is a layer that looks along few "
            "directions.",
        ),
    ]
    if any(group.reconstruction is not None for group in record.groups):
        figures += [
            (
                audit_plots.ranks(record),
                "Effective ranks of what each layer reads (Phi, against its number of features) and of what it makes "
                "of it (Psi), at two tolerances.",
            ),
            (
                audit_plots.error_curves(record),
                "Error in each layer's own outputs against the share of its active neurons that are kept, the output "
                "weights refitted. Nothing was compressed: features are those of the network as it is.",
            ),
        ]
    return figures
