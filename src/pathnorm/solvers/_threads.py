"""One BLAS thread for small problems.

Threaded factorisations of this size gain little on an idle machine and wait for each other on a busy one: 300 times
slower was measured on two shared cores.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import cast

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = ["one_blas_thread"]


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which numpy and scipy use one thread."""
    return cast("AbstractContextManager[object]", _blas().limit(limits=1, user_api="blas"))


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of numpy and scipy; finding them takes longer than a small solve."""
    return ThreadpoolController()
