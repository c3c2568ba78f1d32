"""Sphinx: a line ``<!-- generated: NAME ARGUMENT -->`` of a page stands for text that the build makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pathnorm_docs import api, comparisons, gallery, manual

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["GENERATORS", "expanded", "setup"]

GENERATORS: dict[str, Callable[..., str]] = {
    "aims": comparisons.page,
    "api": api.page,
    "claims": comparisons.claims,
    "commands": manual.page,
    "experiments": gallery.page,
    "picture": gallery.picture,
    "topic": gallery.topic,
}

_LINE = re.compile(r"^<!-- generated: (\w+)((?: [\w.]+)*) -->$", re.MULTILINE)


def expanded(text: str) -> str:
    """Return a page with its generated parts in place."""
    return _LINE.sub(lambda found: GENERATORS[found[1]](*found[2].split()), text)


def _on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = expanded(source[0])


def _outdated(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages with generated parts are always read anew: what they are made of is not in docs/."""
    return [
        name
        for name in env.found_docs
        if _LINE.search(env.doc2path(name).read_text(encoding="utf-8", errors="replace"))
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _on_source_read)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
