"""Mixed columns as numbers: imputation and one-hot encoding, stated rule by rule."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from pathnorm.errors import DataError

__all__ = ["MANY_CATEGORIES", "MISSING", "OTHER", "RARE", "RULES", "Encoding", "fit_encoding"]

Matrix = NDArray[np.float64]
Table = NDArray[Any]

MANY_CATEGORIES = 10
RARE, FEW = 0.01, 5
MISSING, OTHER = "missing", "other"
_TEXT = ("boolean", "text")

RULES = {
    "number": "a missing value is the median of the training rows; if any was missing there, a feature says so",
    "time": "seconds since 1970-01-01 UTC, then as a number",
    "boolean": "as text, with the categories true and false",
    "text": (
        f"one feature per category, one for both if there are two; missing values are the category '{MISSING}'; with "
        f"more than {MANY_CATEGORIES} categories those of under {100 * RARE:g} % of the training rows, or under {FEW} "
        f"rows, are '{OTHER}', and so are unknown ones; otherwise unknown categories are zeros"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoding:
    """Columns of numbers out of mixed columns.

    Attributes
    ----------
    pipeline : Pipeline
        Fitted; takes arrays (N, p) of objects, numbers with NaN and text with None where a value is missing.
    names : tuple of str (d,)
        Of the encoded features: a column's own, ``column=category``, or ``column missing``.
    sources : tuple of int (d,)
        Which column each encoded feature comes from.
    dropped : dict of int to str
        Columns that nothing is made of, and why.
    columns, kinds : tuple of str (p,)
        As they were given.
    """

    pipeline: Pipeline
    names: tuple[str, ...]
    sources: tuple[int, ...]
    dropped: dict[int, str]
    columns: tuple[str, ...]
    kinds: tuple[str, ...]

    def transform(self, X: Table) -> Matrix:
        """Encoded rows (M, d); unknown categories follow the rules, and :meth:`unknown` counts them."""
        with warnings.catch_warnings():
            # Of zeros for unknown categories, which is the rule here.
            warnings.filterwarnings("ignore", message="Found unknown categories", category=UserWarning)
            return np.asarray(self.pipeline.transform(X), dtype=np.float64)

    def unknown(self, X: Table) -> dict[str, int]:
        """Of each column with a category that the training rows lack: in how many rows of X (M, p)."""
        found = {}
        for place, known in self._categories():
            values = [MISSING if value is None else value for value in X[:, place]]
            count = sum(value not in known for value in values)
            if count:
                found[self.columns[place]] = count
        return found

    def _categories(self) -> list[tuple[int, set[str]]]:
        return [(place, set(step[-1].categories_[0])) for place, step in self._steps() if self.kinds[place] in _TEXT]

    def _steps(self) -> list[tuple[int, Pipeline]]:
        """Fitted transformers, one for each column in use."""
        return [(places[0], step) for _, step, places in self.pipeline[0].transformers_ if not isinstance(step, str)]

    def describe(self) -> dict[str, Any]:
        """Everything that an encoded feature needs to be made elsewhere, as plain numbers and text."""
        features = [
            {"name": name, "column": self.columns[source]}
            for name, source in zip(self.names, self.sources, strict=True)
        ]
        steps, columns = dict(self._steps()), []
        for place, (name, kind) in enumerate(zip(self.columns, self.kinds, strict=True)):
            entry: dict[str, Any] = {"name": name, "kind": kind}
            if place in self.dropped:
                entry["left_out"] = self.dropped[place]
            elif kind in _TEXT:
                entry |= _described(steps[place][-1])
            else:
                entry["median"] = float(steps[place][-1].statistics_[0])
            columns.append(entry)
        return {
            "format": "pathnorm.preprocessing",
            "version": 1,
            "rules": RULES,
            "columns": columns,
            "features": features,
        }


def _described(encoder: OneHotEncoder) -> dict[str, Any]:
    rare, zero = _rare(encoder), None
    if encoder.drop_idx_ is not None and encoder.drop_idx_[0] is not None:
        zero = str(encoder.categories_[0][encoder.drop_idx_[0]])
    return {
        "categories": [str(value) for value in encoder.categories_[0] if value not in rare],
        OTHER: sorted(map(str, rare)),
        "zero_is": zero,
    }


def _rare(encoder: OneHotEncoder) -> set[str]:
    """Categories that are joined."""
    found = getattr(encoder, "infrequent_categories_", [None])[0]
    return set() if found is None else set(found)


def fit_encoding(X: Table, names: Sequence[str], kinds: Sequence[str]) -> Encoding:
    """Learn medians and categories from training rows (N, p).

    Columns that are constant, empty, or text with a different value in every row are left out.

    Parameters
    ----------
    X : array (N, p) of objects
        Numbers with NaN, and text with None, where a value is missing.
    names : sequence of str (p,)
    kinds : sequence of str (p,)
        ``number`` or ``time``, ``boolean`` or ``text``.

    Raises
    ------
    DataError
        If no column is left.
    """
    dropped = {place: reason for place, kind in enumerate(kinds) if (reason := _why_not(X[:, place], kind))}
    used = [place for place in range(len(kinds)) if place not in dropped]
    if not used:
        reasons = "; ".join(f"{names[place]!r} is {reason}" for place, reason in dropped.items())
        raise DataError(
            f"At least one column that varies is needed as a feature; none is left: {reasons or 'there is no other'}. "
            "Name others."
        )
    parts = [(str(place), _transformer(X[:, place], kinds[place]), [place]) for place in used]
    transformer = ColumnTransformer(parts, sparse_threshold=0.0, verbose_feature_names_out=False)
    pipeline = make_pipeline(transformer).fit(X)
    labels: list[str] = []
    sources: list[int] = []
    for _, step, (place, *_) in pipeline[0].transformers_:
        if isinstance(step, str):  # the columns that are left out
            continue
        found = _labels(names[place], step)
        labels += found
        sources += [place] * len(found)
    return Encoding(
        pipeline=pipeline,
        names=tuple(labels),
        sources=tuple(sources),
        dropped=dropped,
        columns=tuple(names),
        kinds=tuple(kinds),
    )


def _transformer(values: Table, kind: str) -> Pipeline:
    if kind not in _TEXT:
        return make_pipeline(SimpleImputer(strategy="median", add_indicator=True))
    filler = SimpleImputer(missing_values=None, strategy="constant", fill_value=MISSING)
    if len(set(values)) > MANY_CATEGORIES:
        encoder = OneHotEncoder(
            handle_unknown="infrequent_if_exist", min_frequency=_fewest(len(values)), sparse_output=False
        )
    else:
        encoder = OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False)
    return make_pipeline(filler, encoder)


def _fewest(rows: int) -> int:
    """Rows that a category needs to be one of its own, where there are many."""
    return max(FEW, int(np.ceil(RARE * rows)))


def _why_not(values: Table, kind: str) -> str:
    """Why a column is of no use, or nothing."""
    if kind in ("number", "time"):
        present = np.asarray(values, dtype=np.float64)
        missing = np.isnan(present)
        if missing.all():
            return "empty"
        return "" if missing.any() or np.ptp(present) > 0.0 else "constant"
    found = [value for value in values if value is not None]
    distinct = set(found)
    if not found:
        return "empty"
    if len(distinct) == 1 and len(found) == len(values):
        return "constant"
    if len(distinct) == len(found) > 2:
        return "an identifier: text with a different value in every row"
    if len(distinct) > MANY_CATEGORIES and max(Counter(found).values()) < _fewest(len(values)):
        return f"text in which no value has {_fewest(len(values))} rows"
    return ""


def _labels(name: str, step: Pipeline) -> list[str]:
    """Names of the features that are made of one column, in the order of the encoding."""
    last = step[-1]
    if isinstance(last, SimpleImputer):
        indicator = last.indicator_ is not None and last.indicator_.features_.size
        return [name, f"{name} missing"] if indicator else [name]
    rare = _rare(last)
    kept = [value for value in last.categories_[0] if value not in rare]
    if last.drop_idx_ is not None and last.drop_idx_[0] is not None:
        kept = [value for value in kept if value != last.categories_[0][last.drop_idx_[0]]]
    return [f"{name}={value}" for value in [*kept, *([OTHER] if rare else [])]]
