"""Sphinx: links to files of the repository lead to a page with the file, so that the site is complete by itself.

In the pages such a link is a relative path, as in ``[code](../src/pathnorm/errors.py)``, which also works where
Markdown is read in a repository. A tutorial's script leads to the tutorial.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JsonLexer, PythonLexer
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

from pathnorm_docs.words import REPOSITORY

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["setup"]

_LEXERS = {".py": PythonLexer, ".json": JsonLexer}
_LONGEST = 120_000  # of a file of results not everything is shown


class LinkFiles(SphinxTransform):
    """Turn links to files of the repository into references that are resolved when pages are written."""

    default_priority = 5

    def apply(self, **kwargs: Any) -> None:
        """Replace download links, which is what MyST makes of a path that is no page."""
        here = posixpath.dirname(self.env.docname)
        for node in list(self.document.findall(addnodes.download_reference)):
            target = posixpath.normpath(posixpath.join("docs", here, node["reftarget"]))
            if Path(target).suffix not in _LEXERS or not (REPOSITORY / target).is_file():
                continue
            reference = addnodes.pending_xref(
                "", *node.children, refdomain="", reftype="repository", reftarget=target, refexplicit=True
            )
            node.replace_self(reference)
            _files(self.env).setdefault(self.env.docname, set()).add(target)


def _files(env: BuildEnvironment) -> dict[str, set[str]]:
    """Page -> the files that it links to."""
    if not hasattr(env, "pathnorm_files"):
        env.pathnorm_files = {}  # type: ignore[attr-defined]
    found: dict[str, set[str]] = env.pathnorm_files  # type: ignore[attr-defined]
    return found


def _resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> nodes.Node | None:
    if node["reftype"] != "repository":
        return None
    tutorial = f"tutorials/{Path(node['reftarget']).stem}"
    known = node["reftarget"].startswith("examples/") and tutorial in env.found_docs
    page = tutorial if known else f"source/{node['reftarget']}"
    return nodes.reference(
        "", "", *node.children, internal=True, refuri=app.builder.get_relative_uri(node["refdoc"], page)
    )


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """One page per file that some page links to."""
    for target in sorted(set().union(*_files(app.env).values())):
        text = (REPOSITORY / target).read_text(encoding="utf-8")
        lexer = _LEXERS[Path(target).suffix]()
        cut = "" if len(text) <= _LONGEST else "<p>The file goes on.</p>"
        body = highlight(text[:_LONGEST], lexer, HtmlFormatter(cssclass="highlight", wrapcode=True))
        yield f"source/{target}", {"title": target, "body": f"<h1>{escape(target)}</h1>\n{body}{cut}"}, "page.html"


def _purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _files(env).pop(docname, None)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_transform(LinkFiles)
    app.connect("env-purge-doc", _purge)
    app.connect("missing-reference", _resolve)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
