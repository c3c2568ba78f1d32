"""Images from measurements: operators, sparse reconstruction with certificates."""

from __future__ import annotations

from pathnorm.imaging.operators import Blur, FourierMRI, Identity, Operator, adjoint_error, operator_norm
from pathnorm.imaging.radon import Radon
from pathnorm.imaging.sparse import Reconstruction, SparseProblem, reconstruct

__all__ = [
    "Blur",
    "FourierMRI",
    "Identity",
    "Operator",
    "Radon",
    "Reconstruction",
    "SparseProblem",
    "adjoint_error",
    "operator_norm",
    "reconstruct",
]
