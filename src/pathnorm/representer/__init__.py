"""Why finitely many: representer theorems, and the sparsest of the solutions they allow."""

from pathnorm.representer.sparsest import sparsest
from pathnorm.representer.sparsify import sparsify

__all__ = ["sparsest", "sparsify"]
