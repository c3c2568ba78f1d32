"""``import pathnorm`` is light, and says which extra is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pathnorm

HEAVY = ("torch", "pywt", "matplotlib", "jinja2", "rich", "PIL", "onnx", "safetensors")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "statement",
    [
        "import pathnorm",
        "import pathnorm.report.render",
        "import pathnorm.cli",
        "from pathnorm import errors",
    ],
)
def test_importing_loads_no_heavy_package(statement):
    done = _python(f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("folder", ["problems", "solvers"])
def test_the_core_loads_no_torch(folder):
    done = _python(f"import pathnorm, sys\npathnorm.{folder}\nprint([m for m in {HEAVY!r} if m in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_without_torch_the_extra_is_named():
    # None in sys.modules is how an import system is told that a package is not there.
    done = _python("import sys; sys.modules['torch'] = None\nimport pathnorm\npathnorm.compress")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert "pip install 'pathnorm[torch]'" in last


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    from pathnorm.errors import MissingExtraError
    from pathnorm.report import style

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pathnorm\[plot\]"):
        style.new_figure(1.0, 1.0)


def test_public_names_are_listed_and_others_refused():
    assert "compress" in dir(pathnorm)
    assert pathnorm.__version__
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = pathnorm.nothing_here
