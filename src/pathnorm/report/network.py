"""What is said about a network fitted to a table: its size and proof, its scores on held-out rows, what it looks at."""

# ruff: noqa: RUF009 - field() under a shorter name

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathnorm.report.fields import JsonRecord, certified, exact, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ColumnRecord",
    "FeatureRecord",
    "HeldOutPicture",
    "NetworkPathRecord",
    "NetworkRecord",
    "ScoreRecord",
]

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRecord:
    """A column of the table, and how many features were made of it; ``left_out`` says why there is none."""

    name: str = exact()
    kind: str = exact()
    n_missing: int = exact(default=0)
    n_features: int = exact(default=0)
    left_out: str = exact(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """A score of one model on the rows held out, with a bootstrap interval over these rows."""

    model: str = exact()
    metric: str = exact()
    value: float = measured()
    low: float = measured()
    high: float = measured()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPathRecord:
    """Cross-validation along lam: held-out loss per sample (smaller is better), standard errors, mean neurons."""

    folds: int = exact()
    lams: Numbers = exact()
    scores: Numbers = measured()
    errors: Numbers = measured()
    n_neurons: Numbers = measured()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRecord:
    """What the network does with its encoded features, in units of their standard deviations.

    Attributes
    ----------
    names : tuple of str (d,)
    shares : tuple of float (d,)
        ``sum_k ||v_k|| |w_kj|`` over the sum of all: how much of the bending involves the feature.
    slopes : tuple of float (d,)
        Mean slope of f over the training rows; the norm over several outputs, without a sign.
    directions : tuple of tuple of float
        Unit directions in which f bends, the one with the most mass first; not all of them if they are many.
    masses : tuple of float
        Their shares of the path norm.
    n_directions : int
        Different directions in all.
    """

    names: tuple[str, ...] = exact()
    shares: Numbers = exact()
    slopes: Numbers = measured()
    directions: tuple[Numbers, ...] = exact(default=())
    masses: Numbers = exact(default=())
    n_directions: int = exact(default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPicture:
    """Held-out rows as the figures need them.

    Attributes
    ----------
    observed, predicted : tuple of float
        For regression: some rows, all of them if they are few.
    confusion : tuple of tuple of int
        For classes: rows by observed (first index) and predicted class.
    forecast, frequency, counts : tuple
        For two classes: groups of rows of similar probability of the second class, the share of it in each, and rows.
    """

    observed: Numbers = exact(default=())
    predicted: Numbers = measured(default=())
    confusion: tuple[tuple[int, ...], ...] = measured(default=())
    forecast: Numbers = measured(default=())
    frequency: Numbers = measured(default=())
    counts: tuple[int, ...] = exact(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord(JsonRecord):
    """What was proved and what was measured when a shallow ReLU network was fitted to a table.

    Attributes
    ----------
    target, task, task_rule : str
        Column, ``regression`` or ``classification``, and why it is that.
    classes : tuple of str
    rows, rows_without_target, n_train, n_test : int
        Rows of the table, those left out, and the two parts of the others; the network was fitted to the first part.
    columns : tuple of ColumnRecord
    loss, parameter, interactions, affine, relaxed, max_neurons
        What was asked for.
    lam, lam_max : float
        From ``lam_max`` on the fit is affine; in standardised features, and for the training rows.
    chosen_by : str
        ``given`` or ``cv``.
    n_neurons, path_norm
        Of the penalised network in standardised features.
    primal, dual, gap, scope, method, violation, proved, tol
        The certificate, see :class:`pathnorm.problems.Certificate`; over the training rows.
    sentence : str
        Size and certificate in one line.
    scores : tuple of ScoreRecord
        On the held-out rows.
    baselines : tuple of (str, str)
        Models beside the network, and what they are in words.
    unknown : tuple of (str, int)
        Columns of which held-out rows have categories that training rows lack, and in how many rows.
    """

    target: str = exact()
    task: str = exact()
    task_rule: str = exact()
    classes: tuple[str, ...] = exact(default=())
    weight_name: str | None = exact(default=None)
    rows: int = exact()
    rows_without_target: int = exact(default=0)
    n_train: int = exact()
    n_test: int = exact()
    columns: tuple[ColumnRecord, ...] = exact(repr=False)
    unknown: tuple[tuple[str, int], ...] = exact(default=())
    loss: str = exact()
    parameter: float | None = exact(default=None)
    interactions: int | None = exact(default=None)
    affine: str = exact()
    relaxed: bool = exact(default=False)
    max_neurons: int | None = exact(default=None)
    lam: float = exact()
    lam_max: float = measured()
    chosen_by: str = exact()
    one_standard_error: bool = exact(default=False)
    sentence: str = exact()
    n_neurons: int = exact()
    path_norm: float = exact()
    primal: float = certified()
    dual: float = certified()
    gap: float = certified()
    scope: str = exact()
    method: str = exact()
    violation: float | None = measured(default=None)
    proved: float | None = certified(default=None)
    tol: float = exact()
    scores: tuple[ScoreRecord, ...] = measured(repr=False)
    baselines: tuple[tuple[str, str], ...] = exact(default=(), repr=False)
    resamples: int = exact(default=0)
    seed: int = exact(default=0)
    seconds: float = measured()
    seconds_fit: float = measured()
    peak_memory_mb: float = measured()
    features: FeatureRecord = exact(repr=False)
    picture: HeldOutPicture = exact(repr=False)
    path: NetworkPathRecord | None = exact(default=None, repr=False)

    def to_html(self, path: str | Path, *, figures: Sequence[tuple[Figure, str]] = ()) -> Path:
        """Write one self-contained HTML page; ``figures`` with their captions go beside those of the record."""
        from pathnorm.report.network_render import write_html

        return write_html(self, Path(path), figures=figures)

    def __str__(self) -> str:
        from pathnorm.report.network_render import text_table

        return text_table(self)
