"""Shallow networks as ONNX models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import MissingExtraError
from pathnorm.spaces._shallow_io import replace_file

__all__ = ["write"]

Matrix = NDArray[np.float64]

# Old enough for every runtime of the last years, and Relu has doubles from 14 on.
_OPSET, _IR = 17, 8


def write(arrays: tuple[Matrix, Matrix, Matrix, Matrix, Matrix], path: Path, *, dtype: str) -> Path:
    """Write ``y = Relu(x W' - b) V + x A + c`` for arrays W, b, V, A, c, without the parts that are empty or zero."""
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32'; got {dtype!r}. Double precision is exact to rounding.")
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("ONNX export needs the package onnx. Run: pip install 'pathnorm[onnx]'.") from error
    W, b, V, A, c = arrays
    weights: dict[str, Matrix] = {}
    nodes: list[Any] = []

    def add(kind: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output))
        return output

    terms = []
    if W.shape[0]:
        weights |= {"W": W.T, "b": -b, "V": V}
        inner = add("Add", [add("MatMul", ["x", "W"], "projections"), "b"], "preactivations")
        terms.append(add("MatMul", [add("Relu", [inner], "hidden"), "V"], "ridges"))
    if A.any() or not terms:
        weights["A"] = A
        terms.append(add("MatMul", ["x", "A"], "linear"))
    weights["c"] = c
    total = terms[0] if len(terms) == 1 else add("Add", terms, "sum")
    add("Add", [total, "c"], "y")

    element = onnx.TensorProto.DOUBLE if dtype == "float64" else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "shallow",
        [helper.make_tensor_value_info("x", element, ["N", W.shape[1]])],
        [helper.make_tensor_value_info("y", element, ["N", c.size])],
        [numpy_helper.from_array(np.ascontiguousarray(array, dtype=dtype), name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph, producer_name="pathnorm", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    onnx.checker.check_model(model)
    return replace_file(path, model.SerializeToString())
