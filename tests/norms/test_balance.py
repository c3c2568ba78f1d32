"""Balancing scales: least squared weights, against cvxpy and a general minimiser; neurons without a scale."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pathnorm.norms import Block, balancing_scales, on_the_way


def chain(rng, *widths, sparsity=0.0):
    """Squared weights of a chain; the first and the last width are inputs and outputs."""
    blocks = []
    last = len(widths) - 2
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        squares = rng.exponential(size=(after, before)) ** 2 * (rng.random((after, before)) >= sparsity)
        blocks.append(Block(squares, None if index == last else index, None if index == 0 else index - 1))
    return list(widths[1:-1]), blocks


def total(blocks, scales):
    value = 0.0
    for block in blocks:
        rows = np.zeros(block.squares.shape[0]) if block.row is None else scales[block.row]
        columns = np.zeros(block.squares.shape[1]) if block.column is None else scales[block.column]
        value += (block.squares * np.exp(2.0 * (rows[:, None] - columns))).sum()
    return value


def test_against_a_convex_solver():
    widths, blocks = chain(np.random.default_rng(0), 3, 4, 5, 2)
    scales = [cp.Variable(width) for width in widths]
    terms = []
    for block in blocks:
        for i, j in np.ndindex(block.squares.shape):
            s = scales[block.row][i] if block.row is not None else 0.0
            t = scales[block.column][j] if block.column is not None else 0.0
            terms.append(block.squares[i, j] * cp.exp(2.0 * (s - t)))
    problem = cp.Problem(cp.Minimize(cp.sum(terms)))
    problem.solve(solver=cp.CLARABEL)
    ours = balancing_scales(widths, blocks)
    assert total(blocks, ours) == pytest.approx(problem.value, rel=1e-7)
    for mine, theirs in zip(ours, scales, strict=True):
        assert mine == pytest.approx(theirs.value, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_no_other_scales_have_smaller_weights_and_the_solution_is_found_from_anywhere(seed):
    rng = np.random.default_rng(seed)
    widths, blocks = chain(rng, 3, 4, 5, 3, 2)
    ours = balancing_scales(widths, blocks)
    best = total(blocks, ours)
    ends = np.cumsum(widths)[:-1]
    found = minimize(lambda s: np.log(total(blocks, np.split(s, ends))), rng.normal(size=sum(widths)), method="BFGS")
    assert np.exp(found.fun) >= best * (1.0 - 1e-12)
    assert np.exp(found.fun) == pytest.approx(best, rel=1e-6)
    # The same network rescaled has the same balanced form.
    shift = [rng.normal(size=width) for width in widths]
    moved = [
        Block(
            block.squares
            * np.exp(2.0 * (0.0 if block.row is None else shift[block.row][:, None]))
            * np.exp(-2.0 * (0.0 if block.column is None else shift[block.column])),
            block.row,
            block.column,
        )
        for block in blocks
    ]
    again = balancing_scales(widths, moved)
    for mine, other, by in zip(ours, again, shift, strict=True):
        assert other + by == pytest.approx(mine, abs=1e-7)


@pytest.mark.parametrize("depth", [1, 10, 80])
def test_deep_chains_reach_the_tolerance(depth):
    """Cyclic updates alone need a number of sweeps that grows with the square of the depth."""
    rng = np.random.default_rng(depth)
    widths, blocks = chain(rng, 4, *([6] * depth), 3)
    blocks[0] = Block(1e8 * blocks[0].squares, blocks[0].row, blocks[0].column)
    scales = balancing_scales(widths, blocks, tol=1e-11)
    front = [np.zeros(width) for width in widths]
    behind = [np.zeros(width) for width in widths]
    for block in blocks:
        rows = np.zeros(block.squares.shape[0]) if block.row is None else scales[block.row]
        columns = np.zeros(block.squares.shape[1]) if block.column is None else scales[block.column]
        now = block.squares * np.exp(2.0 * (rows[:, None] - columns))
        if block.row is not None:
            front[block.row] += now.sum(1)
        if block.column is not None:
            behind[block.column] += now.sum(0)
    for w, v in zip(front, behind, strict=True):
        assert np.sqrt(w) == pytest.approx(np.sqrt(v), rel=1e-8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), sparsity=st.floats(0.5, 0.95))
def test_neurons_off_every_path_have_no_scale(seed, sparsity):
    rng = np.random.default_rng(seed)
    widths, blocks = chain(rng, 3, 6, 6, 6, 2, sparsity=sparsity)
    alive = on_the_way(widths, blocks)
    # Reachability by powers of the adjacency matrix.
    forward = [blocks[0].squares.any(1)]
    for block in blocks[1:-1]:
        forward.append((block.squares[:, forward[-1]] > 0).any(1))
    backward = [blocks[-1].squares.any(0)]
    for block in blocks[-2:0:-1]:
        backward.append((block.squares[backward[-1]] > 0).any(0))
    for mask, a, b in zip(alive, forward, reversed(backward), strict=True):
        assert np.array_equal(mask, a & b)
    scales = balancing_scales(widths, blocks)
    assert all((s[~mask] == 0.0).all() for s, mask in zip(scales, alive, strict=True))


def test_what_is_no_network_is_refused():
    ok = np.ones((2, 3))
    with pytest.raises(ValueError, match="Group 0 has 5 neurons, not 2"):
        balancing_scales([5], [Block(ok, 0, None)])
    with pytest.raises(ValueError, match="connects group 0 with itself"):
        balancing_scales([2], [Block(np.ones((2, 2)), 0, 0)])
    with pytest.raises(ValueError, match="finite and not negative"):
        balancing_scales([2], [Block(np.array([[np.nan], [1.0]]), 0, None), Block(ok.T[:1, :2], None, 0)])
    with pytest.raises(RuntimeError, match="must be reached"):
        widths, blocks = chain(np.random.default_rng(0), 3, 4, 4, 4, 2)
        balancing_scales(widths, blocks, tol=0.0, max_iter=1)
