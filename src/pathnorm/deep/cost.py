"""Parameters and multiply-accumulates of the whole network as functions of the group widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import ModelGraph, op_name
from pathnorm.deep.labels import LabelMap
from pathnorm.deep.layers import CONVOLUTIONS, TRANSPOSED, weight_of
from pathnorm.deep.neuron_group import NeuronGroup

__all__ = ["Cost", "macs_cost", "params_cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """``cost(k) = sum_t factor_t * k[rows_t] * k[cols_t]``, with ``k[G] = 1``.

    Exact: every weight is a matrix whose rows belong to one group and whose columns to another.
    """

    factor: NDArray[np.float64]
    rows: NDArray[np.intp]
    cols: NDArray[np.intp]

    def __call__(self, widths: Sequence[int] | NDArray[np.intp]) -> int:
        """Return the cost at the given widths."""
        k = np.append(np.asarray(widths, dtype=np.float64), 1.0)
        return round(float(self.factor @ (k[self.rows] * k[self.cols])))

    def marginal(self, widths: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the cost of one neuron of each group, the other widths fixed."""
        k = np.append(np.asarray(widths, dtype=np.float64), 1.0)
        size = k.size
        slope = np.zeros(size) + np.bincount(self.rows, self.factor * k[self.cols], minlength=size)
        slope = slope + np.bincount(self.cols, self.factor * k[self.rows], minlength=size)
        return slope[:-1]


def params_cost(model: nn.Module, groups: Sequence[NeuronGroup]) -> Cost:
    """Return the number of parameters (buffers are none) as a function of the widths."""
    rows, cols = _tied(groups)
    terms = [(parameter.numel(), name, name) for name, parameter in model.named_parameters()]
    return _cost(terms, groups, rows, cols)


def macs_cost(graph: ModelGraph, found: LabelMap, groups: Sequence[NeuronGroup]) -> Cost:
    """Return the multiply-accumulates per sample of all convolution, linear and matrix-product calls."""
    rows, cols = _tied(groups)
    terms = []
    for node in graph.nodes:
        name = op_name(node)
        shape = found.shapes.get(node)
        if node.op != "call_function" or shape is None:
            continue
        if name in CONVOLUTIONS | TRANSPOSED | {"linear"}:
            weight = weight_of(node)
            # Every weight is used once at each place: of the output, or of the input of a transposed convolution.
            moved = found.shapes[node.all_input_nodes[0]] if name in TRANSPOSED else shape
            places = math.prod(moved[1:]) // moved[-1 if name == "linear" else 1]
            key = graph.state_key(weight) or ""
            terms.append((places * math.prod(found.shapes[weight]), key, key))
        elif name in {"matmul", "mm", "bmm", "addmm"}:
            inner = found.shapes[node.all_input_nodes[-2]][-1]
            terms.append((math.prod(shape) * inner // max(shape[0], 1), "", ""))
    return _cost(terms, groups, rows, cols)


Parts = dict[str, list[tuple[int, float]]]


def _tied(groups: Sequence[NeuronGroup]) -> tuple[Parts, Parts]:
    """Return, for parameters whose rows or columns shrink with groups, these groups and their share of them."""
    rows: Parts = {}
    cols: Parts = {}
    for index, group in enumerate(groups):
        for item in group.rows:
            rows.setdefault(item.key, []).append((index, _share(item.neurons)))
        for consumer in group.consumers:
            cols.setdefault(consumer.layer.weight, []).append((index, _share(consumer.neurons)))
    return rows, cols


def _share(neurons: Tensor) -> float:
    return float((neurons != NO_NEURON).double().mean())


def _cost(
    terms: list[tuple[int, str, str]], groups: Sequence[NeuronGroup], rows: Mapping[str, Any], cols: Mapping[str, Any]
) -> Cost:
    none = len(groups)
    width = np.array([*(group.width for group in groups), 1.0])

    def split(parts: list[tuple[int, float]]) -> list[tuple[int, float]]:
        rest = 1.0 - sum(share for _, share in parts)
        return [*parts, (none, rest)] if rest > 1e-12 else parts

    found = [
        (total * row_share * col_share, r, c)
        for total, row, col in terms
        for r, row_share in split(rows.get(row, []))
        for c, col_share in split(cols.get(col, []))
    ]
    r, c = (np.array([item[at] for item in found], dtype=np.intp) for at in (1, 2))
    factor = np.array([float(item[0]) for item in found]) / (width[r] * width[c])
    return Cost(factor, r, c)
