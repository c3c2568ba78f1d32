"""Why finitely many: representer theorems, the dual norm over all neurons, and the sparsest of equal networks."""

from pathnorm.representer.dual_norm import DualNorm, certify, dual_norm
from pathnorm.representer.patterns import activation_patterns
from pathnorm.representer.sparsest import sparsest
from pathnorm.representer.sparsify import sparsify

__all__ = ["DualNorm", "activation_patterns", "certify", "dual_norm", "sparsest", "sparsify"]
