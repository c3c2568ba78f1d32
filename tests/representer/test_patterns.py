"""Activation patterns against linear programs, over every labelling of a few samples."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from pathnorm.representer import activation_patterns

SEEDS = st.integers(0, 10**6)
KINDS = st.sampled_from(["generic", "integers", "line", "duplicates", "constant"])


def points(rng, n, d, kind):
    X = rng.standard_normal((n, d))
    if kind == "integers":
        X = rng.integers(0, 3, (n, d)).astype(float)
    if kind == "line":
        X = np.outer(rng.integers(-2, 3, n), rng.standard_normal(d)) + rng.standard_normal(d)
    if kind == "duplicates":
        X[n // 2 :] = X[: n - n // 2]
    if kind == "constant":
        X[:, 0] = 0.3
    return X


def separable(X, pattern):
    """Whether some hyperplane has exactly these samples on its positive side, by a linear program."""
    sign = np.where(pattern, 1.0, -1.0)
    rows = -sign[:, None] * np.column_stack((X, -np.ones(len(X))))
    return linprog(np.zeros(X.shape[1] + 1), A_ub=rows, b_ub=-np.ones(len(X)), bounds=(None, None)).status == 0


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, d=st.integers(1, 3), kind=KINDS)
def test_the_patterns_are_the_labellings_that_a_hyperplane_separates(seed, d, kind):
    X = points(np.random.default_rng(seed), 6, d, kind)
    expected = np.array([row for row in product([False, True], repeat=6) if separable(X, np.array(row))])
    np.testing.assert_array_equal(activation_patterns(X), expected)


@pytest.mark.parametrize(("n", "d"), [(1, 3), (9, 1), (12, 2), (12, 3), (9, 4), (4, 6)])
def test_their_number_in_general_position_is_that_of_cover(n, d):
    X = np.random.default_rng(n).standard_normal((n, d))
    assert len(activation_patterns(X)) == 2 * sum(comb(n - 1, k) for k in range(d + 1))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, d=st.integers(1, 4), kind=KINDS)
def test_draws_are_among_them_and_shifts_and_units_change_nothing(seed, d, kind):
    rng = np.random.default_rng(seed)
    X = points(rng, 8, d, kind)
    every = {row.tobytes() for row in activation_patterns(X)}
    assert {(~np.frombuffer(row, bool)).tobytes() for row in every} == every
    drawn = activation_patterns(X, count=50, seed=seed)
    assert {row.tobytes() for row in drawn} <= every
    assert len(drawn) <= 50
    np.testing.assert_array_equal(drawn, activation_patterns(X, count=50, seed=seed))
    moved = 2.0 ** rng.integers(-20, 20, d) * X + 8.0 * rng.integers(-3, 4, d)
    if kind == "integers":
        assert {row.tobytes() for row in activation_patterns(moved)} == every


@pytest.mark.parametrize(
    ("X", "settings", "message"),
    [
        (np.zeros(3), {}, "shape"),
        (np.zeros((0, 2)), {}, "not empty"),
        (np.full((3, 2), np.nan), {}, "finite"),
        (np.eye(3), {"count": 0}, "count must be >= 1"),
        (np.random.default_rng(0).standard_normal((200, 5)), {}, "count= instead"),
    ],
)
def test_refusals(X, settings, message):
    with pytest.raises(ValueError, match=message):
        activation_patterns(X, **settings)
