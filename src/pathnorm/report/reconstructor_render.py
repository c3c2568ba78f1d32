"""A reconstructor's audit as a plain-text table and as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from pathnorm.errors import MissingExtraError
from pathnorm.report.numbers import decimal, percent
from pathnorm.report.page import render_page, script_json, write_page
from pathnorm.report.reconstructor import MethodAudit, Picture, ReconstructorAudit
from pathnorm.report.reconstructor_rows import DISAGREEMENT, KINDS, cells, headline, how, remarks
from pathnorm.report.style import inline_svg
from pathnorm.report.table import SHORT_KIND, align, wrap

__all__ = ["text_table", "write_html"]

WIDTH = 100


def text_table(record: ReconstructorAudit, *, width: int = WIDTH) -> str:
    """Return the record as text: a row per number, a column per method."""
    rows = [[label, *values, SHORT_KIND[kind]] for label, kind, values in cells(record)]
    lines = wrap(headline(record), width=width)
    lines += ["", *align(rows, head=[["", *(method.name for method in record.methods), "kind"]])]
    for remark in remarks(record):
        lines += wrap(remark, width=width)
    lines += ["", *wrap(DISAGREEMENT, width=width), "", *wrap(how(record), width=width)]
    lines += [f"{kind + ':':11}{meaning}" for kind, meaning in KINDS.items()]
    return "\n".join(lines)


def write_html(
    record: ReconstructorAudit, path: str | Path, *, title: str = "Can this reconstruction be trusted?"
) -> Path:
    """Write one self-contained HTML page with images; return its path.

    The page appears at once or not at all: it is written beside ``path`` and then moved there.
    """
    from pathnorm.report import reconstructor_plots as plots

    figures = [
        (
            plots.amplifications(record),
            "How far the image moves for a perturbation of the measurements of norm one. Dots: random perturbations, "
            "the control. Bars: the worst that attacks found; the supremum is at least that.",
        ),
        (
            plots.details(record),
            "Small details put into the images: how much of their contrast is seen, and what appears elsewhere. Lines: "
            "thresholds.",
        ),
    ]
    if any(method.sweep for method in record.methods):
        figures.append(
            (plots.sweep(record), "Accuracy against the number of samples, each step with all of the one before.")
        )
    values = {
        "title": title,
        "record": record,
        "summary": headline(record),
        "disagreement": DISAGREEMENT,
        "how": how(record),
        "remarks": remarks(record),
        "cards": _cards(record),
        "rows": cells(record),
        "galleries": _galleries(record),
        "figures": [(inline_svg(figure, salt=str(index)), text) for index, (figure, text) in enumerate(figures)],
        "kinds": KINDS,
        "data": script_json(record),
    }
    return write_page(Path(path), render_page("reconstructor.html", values))


def _cards(record: ReconstructorAudit) -> list[dict[str, str]]:
    """The first method in large figures, the reference below."""
    chosen = (0, 2, 3, 5, 7, 10)
    table = cells(record)
    found = []
    for label, kind, (value, *others) in (table[place] for place in chosen):
        head, _, interval = value.partition(" (")
        beside = "; ".join(
            f"{method.name}: {text.partition(' (')[0]}" for method, text in zip(record.methods[1:], others, strict=True)
        )
        found.append(
            {"label": label, "value": head, "kind": kind, "detail": interval.removesuffix(")"), "remark": beside}
        )
    return found


def _galleries(record: ReconstructorAudit) -> list[dict[str, Any]]:
    """Images of each method, all in the same scales."""
    methods = [method for method in record.methods if method.pictures is not None]
    if record.truth is None or not methods:
        return []
    white = float(record.truth.max())
    errors = max(float(_pictures(method).error.max()) for method in methods) or 1.0
    moved = max((float(np.max(_pictures(method).worst)) for method in methods), default=1.0) or 1.0
    found = []
    for method in methods:
        shown = _pictures(method)
        images = [
            ("truth", _png(record.truth, 0.0, white), f"0 to {decimal(white)}"),
            ("reconstruction", _png(shown.reconstruction, 0.0, white), f"0 to {decimal(white)}"),
            ("error", _png(shown.error, 0.0, errors, heat=True), f"0 to {decimal(errors)}"),
            (
                "its part in the null space",
                _png(shown.unseen, 0.0, errors, heat=True),
                f"0 to {decimal(errors)}; {percent(method.unseen_share[0])} of the energy",
            ),
        ]
        if shown.worst is not None:
            text = f"0 to {decimal(moved)}; amplified at least {decimal(method.balls[0].worst[0])} times"
            images.append(("change, worst l2", _png(shown.worst, 0.0, moved, heat=True), text))
        if shown.detail is not None:
            contrast = method.details[0].contrast
            text = f"±{decimal(contrast)}; {percent(method.details[0].share, digits=0)} seen"
            images.append(
                (f"change, detail ({method.details[0].glyph})", _png(shown.detail, -contrast, contrast), text)
            )
        found.append({"name": method.name, "images": images})
    return found


def _pictures(method: MethodAudit) -> Any:
    return method.pictures


def _png(image: Picture, low: float, high: float, *, heat: bool = False) -> str:
    """Return an image as a data URI, black to white or in colours of heat."""
    try:
        from matplotlib.image import imsave
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Images need the package 'matplotlib', which is not installed. Install it with: pip install "
            "'pathnorm[plot]'."
        ) from error
    buffer = io.BytesIO()
    imsave(buffer, image, vmin=low, vmax=high, cmap="magma" if heat else "gray", format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
