"""Tables of the benchmark: real ones from the data folder, Friedman's made ones, and how each is split.

Columns that are not numbers become indicators (scikit-learn's OneHotEncoder), missing numbers the median of the
training rows; every method sees the same matrices.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks._harness import data_root

__all__ = ["DATA", "SIZES", "Split", "kind_of", "split_of"]

Matrix = np.ndarray
UCI = ("yacht", "energy", "concrete", "wine-quality-red", "power-plant")
FRIEDMAN = ("friedman1", "friedman2", "friedman3")
# The noise of Breiman (1996): a third of the standard deviation of the function for the second and the third.
FRIEDMAN_NOISE = {"friedman1": 1.0, "friedman2": 125.0, "friedman3": 0.1}
FRIEDMAN_TRAIN, FRIEDMAN_TEST = 300, 2_000
REGRESSION = (*UCI, "abalone", "california_housing", "winequality-white", *FRIEDMAN)
CLASSIFICATION = ("sonar", "ionosphere", "pima-indians-diabetes", "banknote_authentication", "adult")
DATA = (*REGRESSION, *CLASSIFICATION)
CALIFORNIA_TRAIN, ADULT_TRAIN, MOST_TEST = 3_000, 3_000, 5_000
SIZES = {
    "california_housing": f"{CALIFORNIA_TRAIN} random rows to train, {MOST_TEST} others to test",
    "adult": f"{ADULT_TRAIN} stratified rows of adult-train, the first {MOST_TEST} of adult-test",
    "friedman": f"{FRIEDMAN_TRAIN} to train with noise {FRIEDMAN_NOISE}, {FRIEDMAN_TEST} to test without",
    "uci": "the standard splits, 90 % to train",
    "others": "random splits, stratified for classes, 90 % to train",
}


@dataclass(frozen=True)
class Split:
    """Training and test samples; labels are 0 and 1."""

    X: Matrix
    y: Matrix
    X_test: Matrix
    y_test: Matrix


def kind_of(name: str) -> str:
    return "classification" if name in CLASSIFICATION else "regression"


def split_of(name: str, number: int) -> Split:
    """The split of that number, the same for every method."""
    if name in FRIEDMAN:
        return _friedman(name, number)
    if name == "adult":
        return _adult(number)
    columns, target = _uci(name) if name in UCI else _table(name)
    train, test = _rows(name, target, number)
    X, X_test = _encoded(columns, train, test)
    return Split(X, target[train], X_test, target[test])


def _rows(name: str, target: Matrix, number: int) -> tuple[Matrix, Matrix]:
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    n = len(target)
    if name in UCI:
        random = np.random.RandomState(1)
        for _ in range(number + 1):
            order = random.choice(np.arange(n), n, replace=False)
        cut = round(0.9 * n)
        return order[:cut], order[cut:]
    if name == "california_housing":
        order = np.random.default_rng(number).permutation(n)
        return order[:CALIFORNIA_TRAIN], order[CALIFORNIA_TRAIN : CALIFORNIA_TRAIN + MOST_TEST]
    kind = StratifiedShuffleSplit if name in CLASSIFICATION else ShuffleSplit
    return next(kind(1, test_size=0.1, random_state=number).split(target, target))


def _friedman(name: str, number: int) -> Split:
    from sklearn import datasets

    make = getattr(datasets, f"make_{name}")
    X, y = make(FRIEDMAN_TRAIN, noise=FRIEDMAN_NOISE[name], random_state=number)
    X_test, y_test = make(FRIEDMAN_TEST, noise=0.0, random_state=10_000 + number)
    return Split(X, y, X_test, y_test)


def _adult(number: int) -> Split:
    from sklearn.model_selection import StratifiedShuffleSplit

    columns, target = _table("adult-train")
    others, truth = _table("adult-test")
    splitter = StratifiedShuffleSplit(1, train_size=ADULT_TRAIN, random_state=number)
    train, _ = next(splitter.split(target, target))
    both = [np.concatenate(pair) for pair in zip(columns, others, strict=True)]
    test = len(target) + np.arange(MOST_TEST)
    X, X_test = _encoded(both, train, test)
    return Split(X, target[train], X_test, truth[:MOST_TEST])


# ---------------------------------------------------------------------------- files
def _uci(name: str) -> tuple[list[Matrix], Matrix]:
    table = np.loadtxt(data_root() / "uci_regression" / f"{name}.txt")
    return list(table[:, :-1].T), table[:, -1]


@cache
def _table(name: str) -> tuple[list[Matrix], Matrix]:
    """Columns, numbers where all entries are, and the target."""
    rows = _read(data_root() / "tabular" / f"{name}.csv")
    if name == "california_housing":
        head, rows = rows[0], rows[1:]
        last = head.index("median_house_value")
    else:
        last = len(rows[0]) - 1
    columns = [_column([row[i] for row in rows]) for i in range(len(rows[0])) if i != last]
    answers = [row[last].rstrip(".") for row in rows]
    if name.removesuffix("-train").removesuffix("-test") in CLASSIFICATION:
        second = sorted(set(answers))[1]
        return columns, np.array([float(answer == second) for answer in answers])
    return columns, np.array(answers, dtype=float)


def _read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.reader(file, skipinitialspace=True) if row]


def _column(entries: list[str]) -> Matrix:
    try:
        return np.array([float(entry) if entry else np.nan for entry in entries])
    except ValueError:
        return np.array(entries)


def _encoded(columns: list[Matrix], train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Numbers for training and test rows; what is learnt for it is learnt from the training rows."""
    from sklearn.preprocessing import OneHotEncoder

    parts, others = [], []
    for column in columns:
        if column.dtype.kind == "f":
            median = np.nanmedian(column[train])
            filled = np.where(np.isnan(column), median, column)[:, None]
            parts.append(filled[train])
            others.append(filled[test])
        else:
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            parts.append(encoder.fit_transform(column[train, None]))
            others.append(encoder.transform(column[test, None]))
    X, X_test = np.hstack(parts), np.hstack(others)
    varying = X.std(axis=0) > 0.0  # ionosphere has a column of zeros
    return X[:, varying], X_test[:, varying]
