"""Figures of the tutorials: those that the library returns do not belong to pyplot, so the gallery would miss them."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

__all__ = ["save_figures"]


def save_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save every figure that a cell has made and that pyplot does not know, and return the text that shows them."""
    paths = []
    for value in list(block_vars["example_globals"].values()):
        if not isinstance(value, Figure) or hasattr(value, "number") or hasattr(value, "pathnorm_shown"):
            continue
        value.pathnorm_shown = True  # type: ignore[attr-defined]
        path = next(block_vars["image_path_iterator"])
        value.savefig(path, dpi=110)
        paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])
