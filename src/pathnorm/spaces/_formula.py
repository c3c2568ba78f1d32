"""A shallow network as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["text"]

Matrix = NDArray[np.float64]


def text(W: Matrix, b: Matrix, V: Matrix, A: Matrix, c: Matrix, *, names: Sequence[str] | None, digits: int) -> str:
    """``f(x1, x2) =``, the affine part, and one line per neuron."""
    inputs = W.shape[1]
    labels = list(names) if names is not None else ["x"] if inputs == 1 else [f"x{j + 1}" for j in range(inputs)]
    if len(labels) != inputs:
        raise ValueError(
            f"names must hold one name for each of the {inputs} inputs; got {len(labels)}. Add or drop some."
        )
    if digits < 1:
        raise ValueError(f"digits must be at least 1; got {digits}. Four are enough to read.")
    sizes = np.linalg.norm(W, axis=1)
    masses = sizes[:, None] * V
    weight = np.linalg.norm(masses, axis=1)
    constant = c + np.maximum(-b[sizes == 0.0], 0.0) @ V[sizes == 0.0]
    affine = [(constant, "")] + [(row, label) for row, label in zip(A, labels, strict=True)]
    lines = [_terms(affine, digits) or "0"]
    for k in np.argsort(-weight, kind="stable"):
        if weight[k] > 0.0:
            inner = [*zip(W[k] / sizes[k], labels, strict=True), (-b[k] / sizes[k], "")]
            lines.append(_term(masses[k], f"max(0, {_terms(inner, digits)})", digits, first=False))
    return f"f({', '.join(labels)}) =\n    {lines[0]}" + "".join(f"\n  {line}" for line in lines[1:])


def _terms(terms: Sequence[tuple[Matrix | float, str]], digits: int) -> str:
    out = ""
    for factor, label in terms:
        if np.any(factor):
            out += (" " if out else "") + _term(factor, label, digits, first=not out)
    return out


def _term(factor: Matrix | float, label: str, digits: int, *, first: bool) -> str:
    """``+ 2.5*x``; several outputs have a vector in front and no sign."""
    values = np.atleast_1d(factor)
    if values.size > 1:
        number, minus = "[" + ", ".join(f"{value:.{digits}g}" for value in values) + "]", False
    else:
        number, minus = f"{abs(values[0]):.{digits}g}", bool(values[0] < 0.0)
    sign = ("-" if minus else "") if first else ("- " if minus else "+ ")
    if not label:
        return sign + number
    return sign + (label if number == "1" else f"{number}*{label}")
