"""Measurements and operators that belong together, or an error that says what does not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging.operators import Operator, adjoint_error, draw_like, operator_norm

__all__ = ["checked_measurements", "checked_operator"]

_ADJOINT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


def checked_measurements(y: Any) -> Tensor:
    """Return measurements in double precision; refuse what is not finite, or zero everywhere."""
    data = torch.as_tensor(y)
    data = data.to(torch.complex128 if data.is_complex() else torch.float64)
    if not bool(torch.isfinite(data).all()):
        raise DataError("Measurements must be finite. Got NaN or infinity; mask those samples.")
    if not bool((data != 0).any()):
        raise DataError("Measurements must not all be zero: the image would be zero whatever the operator is.")
    return data


def checked_operator(operator: Operator, y: Tensor, seed: int) -> tuple[Tensor, float]:
    """Return an empty image and the scale; refuse what does not fit together."""
    shape = getattr(operator, "data_shape", None)
    if shape is not None and tuple(y.shape) != tuple(shape):
        raise ValueError(f"Measurements must have the operator's shape {tuple(shape)}. Got {tuple(y.shape)}.")
    if getattr(operator, "complex_image", False) and not y.is_complex():
        raise ValueError(
            "This operator measures complex numbers: k-space has a phase. Got real measurements; hand over the complex "
            "samples, not their modulus."
        )
    mask = getattr(operator, "mask", None)
    if mask is not None and bool((y * ~mask != 0).any()):
        raise ValueError("Measurements must be zero where the mask says that nothing was sampled. Got others there.")
    zero = torch.zeros_like(operator.A_adjoint(y))
    if zero.ndim != 2:
        raise ValueError(f"A_adjoint must return one image (H, W) for these measurements. Got {tuple(zero.shape)}.")
    rows = torch.Generator().manual_seed(seed)
    probe, answer = draw_like(zero, rows), draw_like(y, rows)
    if mask is not None:
        answer = answer * mask
    error = adjoint_error(operator, probe, answer)
    allowed = _ADJOINT_TOLERANCE.get(operator.A(probe).abs().dtype, 1e-3)
    if error > allowed:
        raise ValueError(
            f"A_adjoint must be the adjoint of A: <A x, y> = <x, A* y> up to {allowed:g}. They differ by {error:.1e} "
            "on random vectors; without it neither the method converges nor the certificate holds."
        )
    norm = getattr(operator, "norm", None)
    # A measured norm is from below: a little is added.
    scale = float(norm()) if callable(norm) else 1.01 * operator_norm(operator, probe, seed=seed)
    if not scale > 0.0:
        raise DataError("The operator must measure something. Its norm is zero.")
    return zero, scale
