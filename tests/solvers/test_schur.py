"""Schur complements that wait against those written out."""

from __future__ import annotations

import numpy as np
import pytest

from pathnorm.solvers import schur
from pathnorm.solvers.schur import Complements, block_energies


def dropped(matrix, rows, index, block):
    """The textbook step, on copies."""
    gone = np.arange(index * block, (index + 1) * block)
    rest = np.setdiff1d(np.arange(matrix.shape[0]), gone)
    solved = np.linalg.inv(matrix[np.ix_(gone, gone)])
    column = matrix[np.ix_(rest, gone)]
    return matrix[np.ix_(rest, rest)] - column @ solved @ column.T, rows[rest] - column @ solved @ rows[gone]


# Wide rows (more outputs than features), narrow ones; windows smaller than a block, of several, and never full.
@pytest.mark.parametrize(("block", "outputs"), [(1, 3), (1, 90), (4, 2), (4, 100)])
@pytest.mark.parametrize("waiting", [1, 13, 1_000])
def test_energies_are_those_of_the_textbook_step(monkeypatch, waiting, block, outputs):
    monkeypatch.setattr(schur, "_WAITING", waiting)
    rng = np.random.default_rng(block * outputs)
    size = 20 * block
    root = rng.standard_normal((size, size + 5))
    matrix, rows = root @ root.T, rng.standard_normal((size, outputs))
    left, alive = Complements(matrix, rows, block), np.arange(20)
    for name in rng.permutation(20):
        expected = np.full(20, np.nan)
        expected[alive] = block_energies(matrix, rows, block)
        np.testing.assert_allclose(left.energies(), expected, rtol=1e-8)
        left.drop(int(name))
        place = int(np.flatnonzero(alive == name)[0])
        matrix, rows = dropped(matrix, rows, place, block)
        alive = np.delete(alive, place)
    assert np.isnan(left.energies()).all()


def test_what_was_handed_in_is_not_written_to():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((12, 20))
    matrix, rows = root @ root.T, rng.standard_normal((12, 3))
    copies = matrix.copy(), rows.copy()
    left = Complements(matrix, rows, 2)
    for name in range(6):
        left.drop(name)
    np.testing.assert_array_equal(matrix, copies[0])
    np.testing.assert_array_equal(rows, copies[1])
