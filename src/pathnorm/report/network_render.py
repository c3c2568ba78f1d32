"""The record of a fitted network as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.network import NetworkRecord
from pathnorm.report.network_rows import MODELS, column_rows, how, network_rows, score_rows, summary
from pathnorm.report.numbers import count, percent
from pathnorm.report.page import render_page, script_json, write_page
from pathnorm.report.style import inline_svg
from pathnorm.report.table import align, shorten, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "text_table", "write_html"]

WIDTH = 100

KINDS = {
    "exact": "counted or computed from the answer",
    "certified": "a bound that is proved, for the training rows and this lambda",
    "measured": "observed or estimated, and true of these rows and this machine only",
}

_MOST_IN_TEXT = 8


def text_table(record: NetworkRecord, *, width: int = WIDTH) -> str:
    """Return the record as text: what is proved first, then the fit, then the scores on the rows held out."""
    lines = wrap(summary(record), width=width)
    lines += ["", *align(network_rows(record), head=[["fit", "value", "kind", ""]], left=(0, 2, 3))]
    scores = score_rows(record)
    if scores:
        rows = [[*row, "measured"] for row in scores]
        lines += ["", *align(rows, head=[["on held-out rows", *MODELS.values(), "kind"]], left=(0, 4))]
    weight = sorted(zip(record.features.shares, record.features.names, strict=True), reverse=True)
    bends = [[shorten(name, 40), percent(share)] for share, name in weight[:_MOST_IN_TEXT] if share > 0.0]
    if bends:
        lines += ["", *align(bends, head=[["bends along", "share"]], left=(0,))]
    lines += ["", *wrap(how(record), width=width)]
    lines += [f"{kind + ':':11}{meaning}" for kind, meaning in KINDS.items()]
    return "\n".join(lines)


def write_html(record: NetworkRecord, path: str | Path, *, figures: Sequence[tuple[Figure, str]] = ()) -> Path:
    """Write one self-contained HTML page with figures; return its path.

    The page appears at once or not at all: it is written beside ``path`` and then moved there.
    """
    drawn = [*_figures(record), *figures]
    values = {
        "title": f"{record.target}: a certified ReLU network",
        "record": record,
        "summary": _typeset(record, summary(record)),
        "how": how(record),
        "cards": _cards(record),
        "models": list(MODELS.values()),
        "baselines": [(MODELS[key].capitalize(), words) for key, words in record.baselines],
        "scores": [[_typeset(record, cell) for cell in row] for row in score_rows(record)],
        "columns": column_rows(record),
        "unknown": record.unknown,
        "directions": _directions(record),
        "figures": [(inline_svg(figure, salt=str(k)), text) for k, (figure, text) in enumerate(drawn)],
        "kinds": {kind: _typeset(record, meaning) for kind, meaning in KINDS.items()},
        "data": script_json(record),
        "count": count,
    }
    return write_page(Path(path), render_page("network.html", values))


def _cards(record: NetworkRecord) -> list[dict[str, str]]:
    names = ("label", "value", "kind", "remark")
    rows = ([_typeset(record, cell) for cell in row] for row in network_rows(record))
    return [dict(zip(names, row, strict=True)) | {"detail": ""} for row in rows]


def _typeset(record: NetworkRecord, text: str) -> str:
    """Write the symbols as symbols, unless a column bears the name of one."""
    names = " ".join([record.target, *(column.name for column in record.columns)])
    if "lambda" not in names:
        text = text.replace("lambda", "\N{GREEK SMALL LETTER LAMDA}")
    if "R2" not in names:
        text = text.replace("R2", "R\N{SUPERSCRIPT TWO}")
    return text


def _directions(record: NetworkRecord) -> list[list[str]]:
    """Rows of number, share, and the largest weights of the first directions."""
    found = record.features
    rows = []
    for place, (weights, mass) in enumerate(zip(found.directions, found.masses, strict=True)):
        order = sorted(range(len(weights)), key=lambda j: -abs(weights[j]))[:4]
        text = ", ".join(f"{weights[j]:+.2f} {found.names[j]}" for j in order if abs(weights[j]) > 5e-3)
        rows.append([str(place + 1), percent(mass), text])
    return rows


def _figures(record: NetworkRecord) -> list[tuple[Figure, str]]:
    from pathnorm.report import network_plots

    figures = []
    if record.n_test:
        drawn = len(record.picture.observed)
        if record.task == "regression":
            which = "every row" if drawn == record.n_test else f"{count(drawn)} of {count(record.n_test)} rows"
            beyond = network_plots.n_outside(record)
            outside = f", but for {count(beyond)} beyond the axes" if beyond else ""
            text = (
                f"Rows held out: observed against predicted, and the differences; {which}{outside}. Differences beyond "
                "the axis are in its outermost bars."
            )
        elif record.picture.forecast:
            text = (
                "Rows held out. Left: of rows with similar probability, how many are of the class (with "
                "Wilson's 95 % interval); on the dashed line the probabilities are right. Right: rows by class."
            )
        else:
            text = "Rows held out, by observed and predicted class."
        figures.append((network_plots.held_out(record), text))
    if record.path is not None:
        text = (
            f"The choice of lambda by {record.path.folds}-fold cross-validation over the training rows: held-out loss, "
            "and neurons. The dashed line is the choice."
        )
        figures.append((network_plots.path(record), _typeset(record, text)))
    most = network_plots.MOST_FEATURES
    first = f"The {most} that matter most of {count(len(record.features.names))}. " * (
        len(record.features.names) > most
    )
    text = (
        f"What the network looks at. {first}Left: how much of the bending involves a feature, by mass of the neurons. "
        "Right: the mean slope over the training rows."
    )
    figures.append((network_plots.features(record), text))
    if record.features.directions and len(record.features.names) > 1:
        shown, total = len(record.features.directions), record.features.n_directions
        some = f"The {shown} most massive of {count(total)}. " * (shown < total)
        text = (
            "Directions in which the function bends; along all others it is affine. "
            f"{some}Weights are of features in standard deviations."
        )
        figures.append((network_plots.directions(record), text))
    return figures
