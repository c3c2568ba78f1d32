"""ONNX export, checked against torch where onnxruntime is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pathnorm.deep.graph import clean_copy
from pathnorm.errors import ExportError, MissingExtraError

__all__ = ["to_onnx"]

# Of the largest output: fifty layers in single precision reach a tenth of it.
_TOLERANCE = 1e-4


def to_onnx(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Write ``model`` as ONNX with a free batch size; return the path.

    Raises
    ------
    MissingExtraError
        If onnx or onnxscript is not installed.
    ExportError
        If torch cannot export the model, the path cannot be written, or onnxruntime's outputs differ by
        more than 1e-4 of the largest output.
    """
    for needed in ("onnx", "onnxscript"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError(f"ONNX export needs the package {needed}. Run: pip install 'pathnorm[onnx]'.")
    twin = clean_copy(model).cpu()
    batch = example.detach().cpu()
    draft = path.with_name(f".{path.name}.draft")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                twin,
                (batch,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            program.save(draft)  # type: ignore[union-attr]
        _check(twin, batch, draft)
        os.replace(draft, path)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"torch must be able to export the model to ONNX. It failed: {str(error)[:300]}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporter says to itself, such as that torchvision is not installed, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(model: nn.Module, batch: Tensor, path: Path) -> None:
    """Compare onnxruntime with torch on the example and on a batch of another size."""
    if importlib.util.find_spec("onnxruntime") is None:
        return
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for inputs in (batch, torch.cat([batch, batch[:1]])):
        with torch.no_grad():
            expected = model(inputs).numpy()
        got = session.run(None, {name: inputs.numpy()})[0]
        worst = float(np.abs(got - expected).max()) / max(float(np.abs(expected).max()), 1.0)
        if worst > _TOLERANCE:
            raise ExportError(f"The ONNX model must agree with torch to {_TOLERANCE}. It differs by {worst:.1e}.")
