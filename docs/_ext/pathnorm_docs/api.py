"""The API reference: every public name of every package once, and a table of all names on each page."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["PACKAGES", "documented", "page"]

# In this order a name is documented: where users meet it first. ``also`` are modules with records that are returned.
PACKAGES: dict[str, tuple[str, ...]] = {
    "pathnorm": (),
    "pathnorm.deep": (),
    "pathnorm.imaging": (),
    "pathnorm.estimators": (),
    "pathnorm.spaces": (),
    "pathnorm.norms": (),
    "pathnorm.problems": ("pathnorm.problems.losses", "pathnorm.problems.reconstruction"),
    "pathnorm.representer": (),
    "pathnorm.solvers": (),
    "pathnorm.report": (
        "pathnorm.report.audit",
        "pathnorm.report.fit",
        "pathnorm.report.network",
        "pathnorm.report.plan",
        "pathnorm.report.refit",
        "pathnorm.report.edge",
        "pathnorm.report.frontier",
    ),
    "pathnorm.tables": (),
    "pathnorm.errors": (),
}


@cache
def documented() -> dict[str, str]:
    """Full public name -> the name under which its object has an entry."""
    homes: dict[int, str] = {}
    names: dict[str, str] = {}
    for package, also in PACKAGES.items():
        for module in (package, *also):
            for name, value in _public(module).items():
                full = f"{module}.{name}"
                names[full] = homes.setdefault(id(value), full) if _has_entry(value) else full
    return names


@cache
def _public(module: str) -> dict[str, Any]:
    """Public names of a module that are not modules themselves."""
    found = importlib.import_module(module)
    values = {name: getattr(found, name) for name in found.__all__ if name != "__version__"}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


def _has_entry(value: Any) -> bool:
    """Whether one object may be known by several names; constants and aliases of types are not."""
    return inspect.isclass(value) or inspect.isroutine(value)


def page(package: str) -> str:
    """The text of one page: what the package is about, its names, and an entry for each that has none elsewhere."""
    names = documented()
    doc = inspect.getdoc(importlib.import_module(package)) or ""
    parts = ["```{eval-rst}", f".. py:module:: {package}", "", doc, "", _table(package, names), "```", ""]
    for module in (package, *PACKAGES[package]):
        if module != package:
            about = (inspect.getdoc(importlib.import_module(module)) or "").partition("\n\n")[0]
            parts += [f"## {module}", "", "```{eval-rst}", about, "```", ""]
        own = [name for name in _public(module) if names[f"{module}.{name}"] == f"{module}.{name}"]
        parts += ["```{eval-rst}", *(_entry(module, name) for name in own), "```", ""]
    return "\n".join(parts)


def _table(package: str, names: dict[str, str]) -> str:
    lines = [".. list-table::", "   :widths: 35 65", ""]
    for name, value in _public(package).items():
        lines += [f"   * - :py:obj:`{name} <{names[f'{package}.{name}']}>`", f"     - {_first_line(value)}"]
    return "\n".join(lines) if len(lines) > 3 else ""


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0] if _has_entry(value) else ""


def _entry(module: str, name: str) -> str:
    value = _public(module)[name]
    if inspect.isclass(value):
        lines = [f".. autoclass:: {module}.{name}", "   :members:", "   :inherited-members:"]
        return "\n".join([*lines, "   :show-inheritance:" if issubclass(value, Warning | Exception) else "", ""])
    if inspect.isroutine(value):
        return f".. autofunction:: {module}.{name}\n"
    return f".. py:data:: {module}.{name}\n\n   ``{value!r}``\n"
