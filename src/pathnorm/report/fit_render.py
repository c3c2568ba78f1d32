"""The record of a fit as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.fit import FitRecord
from pathnorm.report.fit_rows import KINDS, band_sentence, beside_rows, fit_rows, how, summary
from pathnorm.report.numbers import count, decimal
from pathnorm.report.page import render_page, script_json, write_page
from pathnorm.report.style import inline_svg
from pathnorm.report.table import align, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["text_table", "write_html"]

WIDTH = 100

# The page lists so many; spline.csv and the record have them all.
MOST_KNOTS = 60

_SMOOTHER = "smoothing spline, GCV"


def text_table(record: FitRecord, *, width: int = WIDTH) -> str:
    """Return the record as text: what is proved first, then the fit, then the linear method beside it."""
    lines = wrap(summary(record), width=width)
    lines += ["", *align(fit_rows(record), head=[["fit", "value", "kind", ""]], left=(0, 2, 3))]
    if record.band is not None:
        lines += wrap(band_sentence(record), width=width)
    beside = beside_rows(record)
    if beside:
        lines += ["", *align(beside, head=[["beside it", "BV2", _SMOOTHER, "kind"]], left=(0, 3))]
    elif record.smoother_left_out:
        lines += ["", *wrap(f"No smoothing spline beside it: {record.smoother_left_out}.", width=width)]
    lines += ["", *wrap(how(record), width=width)]
    lines += [f"{kind + ':':11}{meaning}" for kind, meaning in KINDS.items()]
    return "\n".join(lines)


def write_html(record: FitRecord, path: str | Path, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page with figures; return its path.

    The page appears at once or not at all: it is written beside ``path`` and then moved there.
    """
    values = {
        "title": title or f"{record.y_name} against {record.x_name}: an optimal linear spline",
        "record": record,
        "summary": _typeset(record, summary(record)),
        "how": how(record),
        "cards": _cards(record),
        "beside": beside_rows(record),
        "beside_name": _SMOOTHER,
        "knots": _knots(record),
        "more_knots": max(record.n_knots - MOST_KNOTS, 0),
        "figures": [(inline_svg(figure, salt=str(k)), text) for k, (figure, text) in enumerate(_figures(record))],
        "kinds": KINDS,
        "data": script_json(record),
        "count": count,
    }
    return write_page(Path(path), render_page("fit.html", values))


def _cards(record: FitRecord) -> list[dict[str, str]]:
    """The rows of the table in large figures: label, value, detail and kind."""
    names = ("label", "value", "kind", "remark")
    rows = ([_typeset(record, cell) for cell in row] for row in fit_rows(record))
    return [dict(zip(names, row, strict=True)) | {"detail": ""} for row in rows]


def _typeset(record: FitRecord, text: str) -> str:
    """Write the symbols as symbols, unless a column bears the name of one."""
    names = f"{record.x_name} {record.y_name}"
    for plain, symbol in (("BV2", "BV\N{SUPERSCRIPT TWO}"), ("lambda", "\N{GREEK SMALL LETTER LAMDA}")):
        if plain not in names:
            text = text.replace(plain, symbol)
    return text


def _knots(record: FitRecord) -> list[list[str]]:
    """Rows of knot, value, slope before and behind, for the first knots."""
    if record.n_knots == 0:
        return []
    spline = record.spline
    rows = zip(spline.knots, spline.values, spline.slopes, spline.slopes[1:], strict=False)
    return [
        [_place(record, knot), *(decimal(cell, digits=6) for cell in others)]
        for knot, *others in islice(rows, MOST_KNOTS)
    ]


def _place(record: FitRecord, x: float) -> str:
    """A value of x with the digits that tell neighbours apart, or as a date."""
    if not record.x_is_time:
        return f"{x:.10g}"
    try:
        time = datetime(1970, 1, 1) + timedelta(seconds=x)
    except OverflowError:
        return f"{x:.10g}"
    return time.isoformat(" ", "milliseconds" if time.microsecond else "seconds")


def _figures(record: FitRecord) -> list[tuple[Figure, str]]:
    from pathnorm.report import fit_plots

    drawn, total = len(record.picture.x), record.n_samples
    which = "Every sample is drawn"
    if drawn < total:
        which = f"{count(drawn)} of {count(total)} samples are drawn; every one counts in the shaded quantiles"
    beside = " The dashed line is the cubic smoothing spline." if record.smoother is not None else ""
    beyond = fit_plots.n_outside(record)
    outside = f", but for {count(beyond)} beyond the axis" if beyond else ""
    figures = [
        (fit_plots.fit(record), f"Samples and fit. {which}{outside}.{beside} {band_sentence(record)}".strip()),
        (fit_plots.residuals(record), f"Residuals: what the fit leaves. {which}."),
    ]
    if record.dual_curve is not None:
        text = (
            "The proof. The dual curve is the running double sum of the residuals, over lambda: it stays between -1 "
            "and 1, and the function may bend only where it touches an end. Each knot is one such touch."
        )
        figures.append((fit_plots.dual_curve(record), _typeset(record, text)))
    if record.path is not None:
        text = "The path: knots, and the criterion (smaller is better), against lambda. The dashed line is the choice."
        figures.append((fit_plots.path(record), _typeset(record, text)))
    return figures
