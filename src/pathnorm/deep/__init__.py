"""Deep networks in torch: find the neuron groups, measure them, make them smaller."""

from __future__ import annotations

from pathnorm.deep.compress import Compression, compress
from pathnorm.deep.graph import trace
from pathnorm.deep.recipe import load

__all__ = ["Compression", "compress", "load", "trace"]
