"""Images from measurements: operators, sparse reconstruction with certificates."""

from __future__ import annotations

from pathnorm.imaging.audit import AuditOptions, audit_reconstructor
from pathnorm.imaging.coils import estimate_coils
from pathnorm.imaging.fourier_problem import FourierRidgeProblem
from pathnorm.imaging.fourier_ridge import FourierRidge, fit_fourier_ridge
from pathnorm.imaging.implicit import CompressedFit, ImplicitFit, fit_implicit, rate_distortion
from pathnorm.imaging.operators import Blur, FourierMRI, Identity, Operator, adjoint_error, operator_norm
from pathnorm.imaging.problem import SparseProblem
from pathnorm.imaging.radon import Radon
from pathnorm.imaging.ridge import ConvexRidge, RidgeCertificate
from pathnorm.imaging.sparse import Reconstruction, reconstruct

__all__ = [
    "AuditOptions",
    "Blur",
    "CompressedFit",
    "ConvexRidge",
    "FourierMRI",
    "FourierRidge",
    "FourierRidgeProblem",
    "Identity",
    "ImplicitFit",
    "Operator",
    "Radon",
    "Reconstruction",
    "RidgeCertificate",
    "SparseProblem",
    "adjoint_error",
    "audit_reconstructor",
    "estimate_coils",
    "fit_fourier_ridge",
    "fit_implicit",
    "operator_norm",
    "rate_distortion",
    "reconstruct",
]
