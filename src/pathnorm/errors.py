"""Every exception and warning a user can meet.

A message has three parts: what was required, what was received, what to do.
Bad arguments are plain :class:`ValueError` or :class:`TypeError`; the failures of
the library itself derive from :class:`PathnormError` and from the matching builtin.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CertificateWarning",
    "DataError",
    "ExportError",
    "MissingExtraError",
    "OutputFolderError",
    "PathnormError",
    "RecipeError",
    "TraceError",
    "UnsupportedModelError",
]


class PathnormError(Exception):
    """Base class of the library's own failures."""


class MissingExtraError(PathnormError, ImportError):
    """An optional dependency is needed; the message names the extra that brings it."""


class DataError(PathnormError, ValueError):
    """The data cannot support what was asked: none, too few, not finite, wrong shape."""


class TraceError(PathnormError, RuntimeError):
    """``torch.export`` could not turn the model into a graph; the message says where."""


class UnsupportedModelError(PathnormError, ValueError):
    """The model has no neuron group that can be treated; the message names each reason."""


class BudgetError(PathnormError, ValueError):
    """The budget cannot be met; the message gives the smallest reachable one."""


class RecipeError(PathnormError, ValueError):
    """A saved compression is corrupt or does not belong to the given factory."""


class OutputFolderError(PathnormError, OSError):
    """The output folder exists or cannot be written; nothing half-written is left."""


class ExportError(PathnormError, RuntimeError):
    """A model could not be exported, or the exported model gives other outputs."""


class CertificateWarning(UserWarning):
    """A solver stopped before its tolerance; the certificate holds but is loose."""
