"""Why finitely many: representer theorems, and the sparsest of the solutions they allow."""

from pathnorm.representer.sparsest import sparsest

__all__ = ["sparsest"]
