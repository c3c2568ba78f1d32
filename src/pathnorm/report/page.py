"""A self-contained HTML page out of a template, written as a whole."""

from __future__ import annotations

import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnorm.errors import MissingExtraError
from pathnorm.report.fields import JsonRecord

if TYPE_CHECKING:
    import jinja2

__all__ = ["render_page", "script_json", "write_page"]


def render_page(template: str, values: dict[str, Any]) -> str:
    """Return the text of a page."""
    return _environment().get_template(template).render(values)


def script_json(record: JsonRecord) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return record.to_json(indent=None).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def write_page(path: Path, text: str) -> Path:
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


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "An HTML report needs the package 'jinja2', which is not installed. "
            "Install it with: pip install 'pathnorm[plot]'."
        ) from error

    def source(name: str) -> str:
        return files("pathnorm.report").joinpath("templates", name).read_text(encoding="utf-8")

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
