"""The manual of the command line, from the parsers themselves, so that it says what they do."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pathnorm_docs.words import escaped, table

__all__ = ["FILES", "files_of", "page", "verbs"]

# Modules that write for a verb, besides the one that defines it.
_WRITERS = {
    "fit": ("pathnorm.cli.fit_table",),
    "compress": ("pathnorm.deep.recipe", "pathnorm.deep.edge"),
    "demo": ("pathnorm.demo.run",),
    "audit": ("pathnorm.cli.output",),
    "audit-reconstructor": ("pathnorm.cli.output",),
}

# What the files are; which of them a verb writes is read off the code.
FILES = {
    "compressed.fp32.onnx": "the smaller network, with `--edge`, in `edge/`",
    "compressed.int8.onnx": "the same in eight bits",
    "dense.fp32.onnx": "the given network, with `--edge`, in `edge/`",
    "dense.int8.onnx": "the same in eight bits",
    "edge.json": "what was measured of the four ONNX files, in `edge/`",
    "image.npz": "the image and its dual variables, from which the bound can be computed again",
    "image.png": "the image, or its modulus",
    "index.html": "claims, verdicts and figures on one page, beside JSON and figure of each experiment",
    "formula.txt": "the network as a formula (`--target`)",
    "model.onnx": "the smaller network, with `--onnx`",
    "model.safetensors": "weights of the smaller network",
    "network.json": "the network, as `pathnorm.ShallowNet.load` takes it (`--target`)",
    "path.csv": "every λ that was tried, where λ was chosen",
    "predictions.csv": "rows that were held out: observed, predicted, probabilities (`--target`)",
    "preprocess.json": "how each encoded feature is made (`--target`)",
    "recipe.json": "which neurons stay, to be replayed by `pathnorm.deep.load`",
    "record.json": "every number of the report",
    "report.html": "the report as a page with figures; needs the extra `plot`",
    "spline.csv": "one row per knot (`--x`, `--y`)",
    "spline.json": "the function, as `pathnorm.LinearSpline` takes it (`--x`, `--y`)",
}

_NAME = re.compile(r"[\w.]+\.(json|csv|html|txt|onnx|safetensors|npz|png|svg|md)")
_NOT_FILES = {"torch.onnx", "experiments.html", "D.npz"}  # a logger, a template, a placeholder
_STATUS = re.compile(r"(\d+) (.+?)(?:,|\.| and (?=\d)|$)")


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all verbs, in the order in which ``pathnorm --help`` shows them."""
    from pathnorm.cli import _parser

    for action in _parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("pathnorm.cli._parser() has no verbs; the manual is made from its subparsers.")


def page() -> str:
    """One section per verb, and what all of them have in common."""
    import pathnorm.cli

    about = " ".join((inspect.getdoc(pathnorm.cli) or "").partition("\n\n")[2].split())
    common, _, status = about.partition("The exit status is ")
    rows = [[f"**{number}**", escaped(what)] for number, what in _STATUS.findall(status)]
    parts = [escaped(common), "## Exit status", table(["status", "when"], rows)]
    return "\n\n".join([*parts, *(_section(name, parser) for name, parser in verbs().items())])


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"(pathnorm-{name})=\n## pathnorm {name}", _words(parser.description or ""), _synopsis(parser)]
    for group in parser._action_groups:
        rows = [[_flags(action), _help(action)] for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows:
            title = {"positional arguments": "Arguments", "options": "Options"}.get(
                group.title or "", group.title or ""
            )
            parts += [f"### {title[:1].upper()}{title[1:]}", table(["", ""], rows)]
    files = files_of(name, parser)
    if files:
        rows = [[f"`{file}`", FILES.get(file, "")] for file in files]
        parts += ["### Files", table(["written to `--out`", ""], rows)]
    return "\n\n".join(parts)


def _synopsis(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(prog=parser.prog, width=96)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    # Without "usage: " in front, the lines below move to the left as far.
    text = re.sub(r"^ {7}", "", formatter.format_help().strip(), flags=re.MULTILINE).removeprefix("usage: ")
    return f"```text\n{text}\n```"


def _words(text: str) -> str:
    """A help text as Markdown, options as code."""
    return escaped(re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", text.replace("%%", "%")))


def _flags(action: argparse.Action) -> str:
    """How an argument is written, with the name of its value."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{flag}`" if action.nargs == 0 else f"`{flag} {value}`" for flag in action.option_strings)


def _help(action: argparse.Action) -> str:
    """What an argument does, its choices, and its default where the text does not name it."""
    parts = [_words(action.help or "")]
    if action.choices is not None:
        parts.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    default = action.default
    named = f"({default})" in (action.help or "")
    if action.nargs != 0 and not named and default not in (None, False, argparse.SUPPRESS) and default != []:
        parts.append(f"default `{default}`")
    return "; ".join(part for part in parts if part)


def files_of(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Names of the files that the modules of a verb mention as text on their own."""
    modules = [parser.get_default("verb").__module__, *_WRITERS.get(name, ())]
    return sorted({file for module in modules for file in _mentioned(module)})


def _mentioned(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"{module} is not there; the manual looks for the files that it writes.")
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value):
            if node.value not in _NOT_FILES:
                yield node.value
