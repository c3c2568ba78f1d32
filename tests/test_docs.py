"""The documentation is complete and true: links, names, options, files, numbers, and the code that it shows.

The site itself is built by ``make docs``, where a warning is an error and the tutorials are run.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import pathnorm

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "tutorials"))
EXTENSIONS = DOCS / "_ext"
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def made():
    """The modules that make parts of the site; they need nothing that builds it."""
    sys.path.insert(0, str(EXTENSIONS))
    try:
        from pathnorm_docs import api, comparisons, gallery, generated, manual

        yield {module.__name__.rpartition(".")[2]: module for module in (api, comparisons, gallery, generated, manual)}
    finally:
        sys.path.remove(str(EXTENSIONS))


@pytest.fixture(scope="module")
def page_of(made):
    """The text of a page with its generated parts, which are made once."""
    return cache(lambda path: made["generated"].expanded(path.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """What the headings and labels of a page can be reached by."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page, page_of):
    text = re.sub(r"^```.*?^```", "", page_of(page), flags=re.MULTILINE | re.DOTALL)
    lost = []
    for link in LINK.findall(text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        where, _, anchor = link.partition("#")
        target = page if not where else (page.parent / where).resolve()
        if not target.is_file():
            lost.append(link)
        elif anchor and anchor not in anchors(page_of(target)):
            lost.append(link)
    assert not lost


def test_every_page_is_in_a_table_of_contents():
    named = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            named |= {(page.parent / f"{entry}.md").resolve() for entry in entries}
    assert {page for page in PAGES if page != DOCS / "index.md"} <= named


def test_every_public_name_has_one_entry(made):
    api = made["api"]
    entries: list[str] = []
    for package in api.PACKAGES:
        page = DOCS / "reference" / f"{package}.md"
        assert f"<!-- generated: api {package} -->" in page.read_text(encoding="utf-8")
        entries += re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)$", api.page(package), re.MULTILINE)
    assert len(entries) == len(set(entries))
    names = api.documented()
    assert set(names.values()) == set(entries)
    for package in ["pathnorm", *(f"pathnorm.{name}" for name in pathnorm._SUBPACKAGES)]:
        module = sys.modules[package]
        public = [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
        assert {f"{package}.{name}" for name in public if name != "__version__"} <= set(names)


def test_every_folder_of_the_theory_has_a_page_and_a_reference(made, page_of):
    folders = {package.partition(".")[2] for package in made["api"].PACKAGES} - {"", "errors"}
    # A folder that is not a public name of the package is not for users, or not yet.
    assert pathnorm._SUBPACKAGES - {"errors"} <= folders
    theory = folders - {"tables"}
    assert {page.stem for page in (DOCS / "theory").glob("*.md")} == theory | {"index"}
    for folder in theory:
        text = (DOCS / "theory" / f"{folder}.md").read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Statement", "## Picture", "## Code and tests", "## Experiments",
        ]  # fmt: skip
        assert f"../../src/pathnorm/{folder}/" in text and "../../tests/" in text
        assert "![" in page_of(DOCS / "theory" / f"{folder}.md")


def test_the_manual_says_what_the_parsers_take(made):
    manual = made["manual"]
    text = manual.page()
    for name, parser in manual.verbs().items():
        assert f"## pathnorm {name}" in text
        section = text.partition(f"## pathnorm {name}\n")[2].partition("\n## ")[0]
        for action in parser._actions:
            for flag in action.option_strings:
                assert f"`{flag}" in section
    assert all(f"| **{status}** |" in text for status in (0, 1, 2, 130))


def test_every_file_that_a_verb_writes_is_described(made):
    manual = made["manual"]
    written = {file for name, parser in manual.verbs().items() for file in manual.files_of(name, parser)}
    assert {"spline.json", "network.json", "model.safetensors", "record.json", "edge.json"} <= written
    assert written <= set(manual.FILES)


@pytest.mark.parametrize("name", ["comparisons", "experiments", "commands"])
def test_pages_made_from_results_have_no_numbers_of_their_own(name):
    assert not re.search(r"\d", (DOCS / f"{name}.md").read_text(encoding="utf-8"))


def test_comparisons_follow_the_results(made, tmp_path):
    rows = [
        {"aim": "at most 5 | s", "measured": 7.25, "met": False, "note": ""},
        {"aim": "all", "measured": None, "met": None},
    ]
    (tmp_path / "new.json").write_text(json.dumps({"aims": rows}), encoding="utf-8")
    (tmp_path / "old.json").write_text(json.dumps([1, 2]), encoding="utf-8")
    found = made["comparisons"].aims(tmp_path)
    assert [(aim.benchmark, aim.measured, aim.met) for aim in found] == [
        ("new", "7.25", False),
        ("new", "not run", None),
    ]
    page = made["comparisons"].page()
    for aim in made["comparisons"].aims():
        assert aim.measured.replace("_", "\\_") in page
    assert page.index("## Aims that were missed") < page.index("## Aims that were met")


def test_the_gallery_shows_what_holds_and_what_does_not(made, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    verdict = {"predicted": "a_b < 1", "measured": "2"}
    (results / "good.json").write_text(json.dumps({"verdict": verdict | {"holds": True}, "cpu_seconds": 3}))
    (results / "bad.json").write_text(json.dumps({"verdict": verdict | {"holds": False}, "claim": "One."}))
    (results / "open.json").write_text("{}")
    (tmp_path / "good.py").write_text('"""Claim of\ntwo lines.\n\nMore."""\nraise SystemExit("is not run")\n')
    found = {each.name: each for each in made["gallery"].experiments(tmp_path)}
    assert [found[name].holds for name in ("good", "bad", "open")] == [True, False, None]
    assert found["good"].claim == "Claim of\ntwo lines." and found["bad"].claim == "One."
    assert "holds" in found["good"].outcome and "does not hold" in found["bad"].outcome


def test_every_experiment_with_a_result_is_in_the_gallery(made):
    page = made["gallery"].page()
    names = [path.stem for path in (ROOT / "experiments" / "results").glob("*.json")]
    assert names and all(f"\n## {name}\n" in page for name in names)
    for path in (ROOT / "experiments" / "results").glob("*.png"):
        assert f"](../experiments/results/{path.name})" in page or path.stem not in names


def test_tables_of_the_benchmarks_are_those_of_the_results(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import tables

    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    tables.main()
    for name in ("docs/benchmarks.md", "README.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------ code on the pages


def code(page: str) -> str:
    """The Python of a page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S))


def test_the_loss_of_the_page_is_one():
    from pathnorm.problems import losses

    scope = dict(vars(losses))
    exec(compile("from __future__ import annotations\n" + code("howto/loss.md"), "howto/loss.md", "exec"), scope)
    loss = scope["LogCosh"]()
    assert {name for name in vars(losses.Loss) if not name.startswith("_")} <= set(dir(loss))
    rng = np.random.default_rng(0)
    y, f, step = rng.normal(size=50), rng.normal(size=50), 1e-5
    slope = (loss.value(y, f + step) - loss.value(y, f - step)) / (2.0 * step)
    assert np.allclose(loss.pull(y, f), -slope, atol=1e-8)
    bend = (loss.pull(y, f - step) - loss.pull(y, f + step)) / (2.0 * step)
    assert np.allclose(loss.curvature(y, f), bend, atol=1e-8)
    g = loss.pull(y, f)
    assert np.allclose(loss.value(y, f) + g * f, loss.lower(y, g))
    others = rng.uniform(-1.0, 1.0, size=(200, 1))
    assert (loss.value(y, f) + others * f >= loss.lower(y, np.broadcast_to(others, (200, 50))) - 1e-12).all()


def test_the_solver_of_the_page_is_one():
    from pathnorm.problems import MultitaskLasso
    from pathnorm.solvers import multitask_lasso

    scope: dict[str, object] = {}
    exec(compile(code("howto/solver.md"), "howto/solver.md", "exec"), scope)
    rng = np.random.default_rng(0)
    problem = MultitaskLasso.from_samples(rng.normal(size=(40, 12)), rng.normal(size=(40, 3)), 4.0)
    mine, theirs = scope["proximal_gradient"](problem), multitask_lasso(problem)
    assert mine.converged and mine.certificate.gap <= 1e-6
    assert np.isclose(mine.certificate.primal, theirs.certificate.primal, rtol=2e-6)


@pytest.mark.slow
def test_the_twelve_lines_run(capsys):
    text = code("index.md")
    assert len([line for line in text.splitlines() if line.strip()]) <= 12
    exec(compile(text, "index.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "certified optimal" in printed and "what is known" in printed and "output error, held out" in printed
