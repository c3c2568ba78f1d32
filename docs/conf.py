"""How the site is built: ``make docs``. It needs no network, and a warning is an error."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "pathnorm"
author = "The pathnorm developers"
release = version = installed("pathnorm").partition("+")[0]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "pathnorm_docs.generated",
    "pathnorm_docs.sources",
    "pathnorm_docs.docstrings",
]
exclude_patterns = ["build", "tutorials/*.py", "tutorials/*.ipynb", "tutorials/GALLERY_HEADER.rst"]
nitpicky = True

# ---------------------------------------------------------------------------- text
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes_action = "D"  # dashes only; quotation marks stay as they were typed
# Code of a shell, of a report, of a formula: not everything that is indented is Python.
highlight_language = "text"

# ---------------------------------------------------------------------------- API
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Warns", "params_style")]
# Other libraries' types, and names of types that are private: nothing here documents them.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|scipy|sklearn|matplotlib|collections|typing|pathlib|enum|abc|fx|nn)\..*"),
    ("py:.*", r"(Any|ArrayLike|NDArray|Tensor|Path|Figure|Axes|Self|Protocol|ndarray|float64|intp|int64|bool_)"),
]

# ---------------------------------------------------------------------------- tutorials
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"plot_\d",
    "ignore_pattern": r"train_audit_compress_continue|__init__",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib", "pathnorm_docs.figures.save_figures"),
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1,
    "abort_on_example_error": True,
}

# ---------------------------------------------------------------------------- look
html_theme = "furo"
html_title = "pathnorm"
html_copy_source = False
html_show_sphinx = False
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["pathnorm.css"]
templates_path = ["_templates"]
html_theme_options: dict[str, Any] = {
    "light_css_variables": {"color-brand-primary": "#2b62b0", "color-brand-content": "#2b62b0"},
    "dark_css_variables": {"color-brand-primary": "#7fb0f0", "color-brand-content": "#7fb0f0"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _leave_out(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a class has from Python, scikit-learn or torch: their documentation has it."""
    value = getattr(value, "fget", value)
    home = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
    return True if home is not None and not str(home).startswith("pathnorm") else None


def setup(app: Sphinx) -> None:
    """Register the hooks of this file."""
    app.connect("autodoc-skip-member", _leave_out)
