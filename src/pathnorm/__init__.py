"""Sparse regularisation of neural networks, with proof.

Names are loaded when they are first used, so that ``import pathnorm`` imports neither
torch nor a plotting library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathnorm import deep, errors, estimators, imaging, problems, representer, solvers, spaces
    from pathnorm.deep.audit import audit
    from pathnorm.deep.compress import compress
    from pathnorm.estimators import (
        BV2Regressor,
        BV2RegressorCV,
        NTKRegressor,
        ReLUClassifier,
        ReLUClassifierCV,
        ReLURegressor,
        ReLURegressorCV,
        SmoothingSplineRegressor,
        ThinPlateRegressor,
        bv2_path,
    )
    from pathnorm.representer import certify, sparsify
    from pathnorm.spaces import LinearSpline, ShallowNet

__all__ = [
    "BV2Regressor",
    "BV2RegressorCV",
    "LinearSpline",
    "NTKRegressor",
    "ReLUClassifier",
    "ReLUClassifierCV",
    "ReLURegressor",
    "ReLURegressorCV",
    "ShallowNet",
    "SmoothingSplineRegressor",
    "ThinPlateRegressor",
    "__version__",
    "audit",
    "bv2_path",
    "certify",
    "compress",
    "deep",
    "errors",
    "estimators",
    "imaging",
    "problems",
    "representer",
    "solvers",
    "spaces",
    "sparsify",
]

_SUBPACKAGES = frozenset({"deep", "errors", "estimators", "imaging", "problems", "representer", "solvers", "spaces"})
_FUNCTIONS = {
    "BV2Regressor": "pathnorm.estimators",
    "BV2RegressorCV": "pathnorm.estimators",
    "LinearSpline": "pathnorm.spaces",
    "NTKRegressor": "pathnorm.estimators",
    "ReLUClassifier": "pathnorm.estimators",
    "ReLUClassifierCV": "pathnorm.estimators",
    "ReLURegressor": "pathnorm.estimators",
    "ReLURegressorCV": "pathnorm.estimators",
    "ShallowNet": "pathnorm.spaces",
    "SmoothingSplineRegressor": "pathnorm.estimators",
    "ThinPlateRegressor": "pathnorm.estimators",
    "bv2_path": "pathnorm.estimators",
    "certify": "pathnorm.representer",
    "audit": "pathnorm.deep.audit",
    "compress": "pathnorm.deep.compress",
    "sparsify": "pathnorm.representer",
}

# What each extra brings; the first part of the name of a module that was not found.
_EXTRA_OF = {
    "torch": "torch",
    "safetensors": "torch",
    "matplotlib": "plot",
    "jinja2": "plot",
    "onnx": "onnx",
    "pyarrow": "tables",
    "pywt": "imaging",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__version__":
        return _version()
    if name not in _SUBPACKAGES and name not in _FUNCTIONS:
        raise AttributeError(f"module 'pathnorm' has no attribute {name!r}")
    try:
        if name in _SUBPACKAGES:
            value = importlib.import_module(f"pathnorm.{name}")
        else:
            value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF:
            raise
        from pathnorm.errors import MissingExtraError

        extra = "imaging" if name == "imaging" else _EXTRA_OF[missing]
        raise MissingExtraError(
            f"pathnorm.{name} needs the package {missing!r}, which is not installed. "
            f"Install it with: pip install 'pathnorm[{extra}]'."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pathnorm")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0+unknown"
