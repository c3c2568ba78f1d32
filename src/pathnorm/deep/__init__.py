"""Deep networks in torch: find the neuron groups, measure them, train them under their norm, make them smaller."""

from __future__ import annotations

from pathnorm.deep.audit import audit
from pathnorm.deep.balance import balance
from pathnorm.deep.compress import Compression, compress
from pathnorm.deep.frontier import Frontier, frontier
from pathnorm.deep.graph import trace
from pathnorm.deep.kplane import BakedKPlaneRidge, KPlaneRidge
from pathnorm.deep.linear_spline import LinearSpline1d, ReLUExpansion
from pathnorm.deep.logger import AuditLogger, CSVWriter
from pathnorm.deep.neuron_norms import path_norm
from pathnorm.deep.path_prox import PathProx
from pathnorm.deep.plan import plan
from pathnorm.deep.recipe import load
from pathnorm.deep.refit import Refitted, refit
from pathnorm.deep.regularize import PathNormRegularizer
from pathnorm.deep.weight_decay import lam_from_weight_decay

__all__ = [
    "AuditLogger",
    "BakedKPlaneRidge",
    "CSVWriter",
    "Compression",
    "Frontier",
    "KPlaneRidge",
    "LinearSpline1d",
    "PathNormRegularizer",
    "PathProx",
    "ReLUExpansion",
    "Refitted",
    "audit",
    "balance",
    "compress",
    "frontier",
    "lam_from_weight_decay",
    "load",
    "path_norm",
    "plan",
    "refit",
    "trace",
]
