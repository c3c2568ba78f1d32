"""The experiments, from their JSON, their figure and the first words of their module: nothing of it is typed."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pathnorm_docs.words import REPOSITORY, escaped, table

__all__ = ["PICTURES", "TOPICS", "Experiment", "experiments", "page", "picture", "topic"]

# Which experiments a theory page shows, in this order; names without a result yet are left out.
TOPICS = {
    "spaces": ("spatial_adaptivity", "directional_smoothness", "metric_entropy", "orthogonal_weights", "beyond"),
    "norms": ("path_norm_is_tv2", "path_norm_is_radon_tv2", "neural_balance", "secret_sparsity"),
    "problems": ("minimax_rate", "kernel_vs_sparse"),
    "representer": ("representer_bound", "approximation_rate", "layer_width"),
    "solvers": ("minimax_rate", "pathprox_vs_decay"),
    "report": (),
    "estimators": ("kernel_vs_sparse", "spatial_adaptivity", "directional_smoothness", "curse_of_dimensionality"),
    "deep": (
        "secret_sparsity",
        "pathprox_vs_decay",
        "low_rank_layers",
        "layer_width",
        "learned_splines",
        "orthogonal_weights",
        "attention",
    ),
    "imaging": ("sparse_recovery", "real_measurements", "stability_frontier", "implicit_representation"),
}

# The picture of a theory page is that of the first of these experiments that has one.
PICTURES = {
    "spaces": ("spatial_adaptivity",),
    "norms": ("path_norm_is_radon_tv2", "neural_balance", "secret_sparsity"),
    "problems": ("kernel_vs_sparse", "minimax_rate", "spatial_adaptivity"),
    "representer": ("representer_bound", "layer_width", "approximation_rate", "low_rank_layers"),
    "solvers": ("pathprox_vs_decay",),
    "report": (),
    "estimators": ("directional_smoothness",),
    "deep": ("low_rank_layers",),
    "imaging": ("real_measurements", "sparse_recovery"),
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """One claim of the theory and what came out; ``holds`` is None where the result carries no verdict."""

    name: str
    claim: str
    holds: bool | None
    predicted: str
    measured: str
    figure: Path | None
    seconds: float | None

    @property
    def outcome(self) -> str:
        """The verdict, with a class that gives it a colour."""
        if self.holds is None:
            return "no verdict"
        return "[holds]{.holds}" if self.holds else "[does not hold]{.fails}"


@cache
def experiments(folder: Path = REPOSITORY / "experiments") -> tuple[Experiment, ...]:
    """Every experiment with a result, by name; read once per build."""
    return tuple(_read(path, folder) for path in sorted((folder / "results").glob("*.json")))


def _read(path: Path, folder: Path) -> Experiment:
    found = json.loads(path.read_text(encoding="utf-8"))
    verdict = found.get("verdict") or {}
    figures = (path.with_suffix(".png"), REPOSITORY / "docs" / "images" / f"{path.stem}.png")
    seconds = found.get("cpu_seconds")
    return Experiment(
        name=path.stem,
        claim=_claim(folder / f"{path.stem}.py") or str(found.get("claim", "")),
        holds=bool(verdict["holds"]) if "holds" in verdict else None,
        predicted=str(verdict.get("predicted", "")),
        measured=str(verdict.get("measured", "")),
        figure=next((figure for figure in figures if figure.exists()), None),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


def _claim(module: Path) -> str:
    """First paragraph of a module's docstring; the module is not run."""
    if not module.exists():
        return ""
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]


def page() -> str:
    """Every experiment: a table of verdicts, then one section each."""
    found = experiments()
    judged = [experiment for experiment in found if experiment.holds is not None]
    held = sum(bool(experiment.holds) for experiment in judged)
    rows = [
        [f"[{experiment.name}](#{_anchor(experiment)})", escaped(experiment.claim), experiment.outcome]
        for experiment in found
    ]
    head = f"{len(judged)} claims have been tested; {held} hold as predicted and {len(judged) - held} do not."
    return "\n\n".join([head, table(["experiment", "claim", "verdict"], rows), *(_section(each) for each in found)])


def topic(name: str, up: str = "..") -> str:
    """The experiments of a theory page, short; ``up`` leads from the page to docs."""
    by_name = {experiment.name: experiment for experiment in experiments()}
    found = [by_name[each] for each in TOPICS[name] if each in by_name]
    if not found:
        return "No experiment of this project is about this page alone."
    rows = [
        [f"[{each.name}]({up}/experiments.md#{_anchor(each)})", escaped(each.claim), each.outcome] for each in found
    ]
    return table(["experiment", "claim", "verdict"], rows)


def picture(name: str) -> str:
    """The figure of a theory page, with the claim that it belongs to and what came out."""
    by_name = {experiment.name: experiment for experiment in experiments()}
    for each in (by_name[key] for key in PICTURES[name] if key in by_name):
        if each.figure is not None:
            link = f"[{each.name}](../experiments.md#{_anchor(each)})"
            where = _relative(each.figure)
            where = where.replace("../", "../../", 1) if where.startswith("../") else f"../{where}"
            return f"![{each.name}]({where})\n\nFrom the experiment {link}: {escaped(each.claim)} ({each.outcome})"
    return ""


def _anchor(experiment: Experiment) -> str:
    return f"experiment-{experiment.name.replace('_', '-')}"


def _section(experiment: Experiment) -> str:
    parts = [f"({_anchor(experiment)})=\n## {experiment.name}", f"{experiment.outcome}. {escaped(experiment.claim)}"]
    if experiment.holds is not None:
        rows = [["predicted", escaped(experiment.predicted)], ["measured", escaped(experiment.measured)]]
        parts.append(table(["", ""], rows))
    if experiment.figure is not None:
        where = _relative(experiment.figure)
        parts.append(f"![{experiment.name}: {escaped(experiment.claim)}]({where})")
    module = f"experiments/{experiment.name}.py"
    links = [f"`python -m experiments.{experiment.name}`"]
    if (REPOSITORY / module).exists():
        links.append(f"[code](../{module})")
    links.append(f"[numbers](../experiments/results/{experiment.name}.json)")
    if experiment.seconds is not None:
        links.append(f"{experiment.seconds:,.0f} processor seconds")
    return "\n\n".join([*parts, " · ".join(links)])


def _relative(path: Path) -> str:
    """A path as a page of docs/ says it."""
    inside = path.relative_to(REPOSITORY).as_posix()
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"../{inside}"
