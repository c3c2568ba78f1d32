"""Sphinx: docstrings as they are written here, and links from them to what has no entry of its own.

A reference to a name of this project that is not public leads to the file that defines it; one to a name that does
not exist stays a warning, and a warning is an error.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from docutils import nodes

from pathnorm_docs import api
from pathnorm_docs.words import REPOSITORY

if TYPE_CHECKING:
    from sphinx import addnodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["defined", "setup"]

_CITATION = re.compile(r"^(\s*)\.\. (\[\w+\]) ")


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Citations become a list: the same paper is cited by many docstrings, and a target may exist once only."""
    lines[:] = [_CITATION.sub(r"\1* \2 ", line) for line in lines]
    if what == "property":
        # Otherwise napoleon takes what stands before a colon in the first line for a type.
        lines[:0] = ["..", ""]


@cache
def defined() -> dict[str, str]:
    """Full name -> file, of every class, function, method and constant of the package, public or not."""
    found: dict[str, str] = {}
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        inside = path.relative_to(REPOSITORY / "src").with_suffix("")
        module = ".".join(inside.parts).removesuffix(".__init__")
        file = path.relative_to(REPOSITORY).as_posix()
        found[module] = file
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in _names(node):
                found.setdefault(f"{module}.{name}", file)
    return found


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.ClassDef):
        inner = [name for child in node.body for name in _names(child)]
        return [node.name, *(f"{node.name}.{name}" for name in inner)]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Link to the entry of a name that has one under another name, else to the file where it is defined."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removeprefix("~").removeprefix(".")
    full = [name for name in defined() if name == target or name.endswith(f".{target}")]
    homes = {home for name, home in api.documented().items() if name == target or name.endswith(f".{target}")}
    if len(homes) == 1:
        home = homes.pop()
        place = env.domains["py"].objects.get(home)  # type: ignore[attr-defined]
        if place is not None:
            uri = app.builder.get_relative_uri(node["refdoc"], place.docname) + f"#{place.node_id}"
            return nodes.reference("", "", content, internal=True, refuri=uri)
    if not full:
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], f"source/{defined()[full[0]]}")
    env.pathnorm_files.setdefault(node["refdoc"], set()).add(defined()[full[0]])  # type: ignore[attr-defined]
    return nodes.reference("", "", content, internal=True, refuri=uri)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
