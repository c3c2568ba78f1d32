"""The rescaling of neurons that makes the squared weights of a deep network least.

A positively homogeneous neuron computes the same function when its input weights are multiplied by ``exp(s)`` and its
output weights divided by it. The sum of squared weights, as a function of the log scales s of all neurons, is

    f(s) = sum_blocks sum_ij M_ij exp(2 (s_i - s_j)),

M_ij the squared weights from neuron j to neuron i, and s = 0 at the inputs and the outputs: a sum of exponentials of
linear forms, hence convex. The gradient is ``2 (||w_k||^2 - ||v_k||^2)``, so that a minimiser is balanced. If every
neuron lies on a path of non-zero weights from the inputs to the outputs, the level sets are bounded and the minimiser
is unique: along a direction d in which f does not grow, no edge j -> i has d_i > d_j, and d is zero at both ends of a
path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "balancing_scales", "on_the_way"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SWEEPS = 20
_LONGEST_STEP = 2.0


@dataclass(frozen=True, slots=True)
class Block:
    """Squared weights (rows, columns) between two groups of neurons.

    Attributes
    ----------
    squares : ndarray, shape (R, C)
        Not negative.
    row, column : int or None
        The group whose neurons the rows write to, and the one whose neurons the columns read; None for entries whose
        scale is fixed: inputs, outputs, biases' ones.
    """

    squares: Array
    row: int | None
    column: int | None


def on_the_way(widths: Sequence[int], blocks: Sequence[Block]) -> list[Mask]:
    """Which neurons of every group have both input and output weights, counting only those of such neurons."""
    alive = [np.ones(width, dtype=bool) for width in widths]
    while True:
        sums = _sums(widths, [_masked(block, alive) for block in blocks])
        found = [(front > 0.0) & (behind > 0.0) for front, behind in zip(*sums, strict=True)]
        if all(np.array_equal(a, b) for a, b in zip(found, alive, strict=True)):
            return alive
        alive = found


def balancing_scales(
    widths: Sequence[int], blocks: Sequence[Block], *, tol: float = 1e-11, max_iter: int = 100
) -> list[Array]:
    """Log scales s, one array (K,) per group, that minimise the sum of squared weights.

    Cyclic closed-form updates, ``s_k += log(||v_k|| / ||w_k||) / 2`` for a whole group at a time, then Newton steps;
    the Newton system is a weighted graph Laplacian and is solved by conjugate gradients. Neurons that are not
    :func:`on_the_way` have no finite scale and get 0.

    Parameters
    ----------
    widths : sequence of int
        Neurons per group.
    blocks : sequence of Block
        No block may connect a group with itself.
    tol : float
        Largest ``| ||w_k||^2 - ||v_k||^2 | / (||w_k||^2 + ||v_k||^2)`` allowed.
    max_iter : int
        Newton steps.

    Raises
    ------
    ValueError
        If weights are not finite or a block is not of the shape of its groups.
    RuntimeError
        If the tolerance is not reached.

    References
    ----------
    Parhi, Nowak (2023), *Deep learning meets sparse regularization*: neural balance. The problem without nonlinearity
    is the balancing of a matrix, Osborne (1960).
    """
    _check(widths, blocks)
    alive = on_the_way(widths, blocks)
    kept = [_masked(block, alive) for block in blocks]
    scales = [np.zeros(width) for width in widths]
    now = list(kept)
    for _ in range(_SWEEPS):
        for group in range(len(widths)):
            front, behind = _sums_of(widths[group], now, group)
            with np.errstate(divide="ignore", invalid="ignore"):
                change = np.where(alive[group], 0.25 * np.log(behind / front), 0.0)
            scales[group] += change
            now = [_scaled(block, change, group) for block in now]
        if _residual(widths, now, alive) <= tol:
            return scales
    for _ in range(max_iter):
        direction = _newton_direction(widths, now, alive)
        largest = max((float(np.abs(part).max(initial=0.0)) for part in direction), default=0.0)
        length = min(1.0, _LONGEST_STEP / largest) if largest > 0.0 else 0.0
        value, trial = _total(now), now
        for _ in range(40):
            trial = now
            for group, part in enumerate(direction):
                trial = [_scaled(block, length * part, group) for block in trial]
            if _total(trial) <= value * (1.0 + 1e-14):
                break
            length *= 0.5
        now = trial
        scales = [old + length * part for old, part in zip(scales, direction, strict=True)]
        if _residual(widths, now, alive) <= tol:
            return scales
    raise RuntimeError(
        f"The balance must be reached to {tol:g}. After {max_iter} Newton steps the largest imbalance is "
        f"{_residual(widths, now, alive):.1e}. Allow more steps, or a larger tolerance."
    )


def _newton_direction(widths: Sequence[int], blocks: Sequence[Block], alive: Sequence[Mask]) -> list[Array]:
    """Solve ``H d = -gradient`` by conjugate gradients with the diagonal as preconditioner; both over 2."""
    front, behind = _sums(widths, blocks)
    starts = np.concatenate(([0], np.cumsum(widths)))
    diagonal = 2.0 * (np.concatenate(front) + np.concatenate(behind))
    inverse = np.where(np.concatenate(alive), 1.0 / np.where(diagonal > 0.0, diagonal, 1.0), 0.0)

    def part(vector: Array, group: int | None) -> Array | float:
        return 0.0 if group is None else vector[starts[group] : starts[group + 1]]

    def apply(vector: Array) -> Array:
        result = diagonal * vector
        for block in blocks:
            if block.row is None or block.column is None:
                continue
            rows, columns = part(vector, block.row), part(vector, block.column)
            result[starts[block.row] : starts[block.row + 1]] -= 2.0 * (block.squares @ columns)
            result[starts[block.column] : starts[block.column + 1]] -= 2.0 * (rows @ block.squares)
        return result

    residual = np.concatenate(behind) - np.concatenate(front)
    residual = np.where(np.concatenate(alive), residual, 0.0)
    solution = np.zeros_like(residual)
    scaled = inverse * residual
    conjugate, product = scaled.copy(), float(residual @ scaled)
    goal = product * min(1e-4, product / max(float(diagonal.sum()), 1e-300))
    for _ in range(2 * residual.size):
        if product <= goal or product <= 0.0:
            break
        image = apply(conjugate)
        step = product / float(conjugate @ image)
        solution += step * conjugate
        residual = residual - step * image
        scaled = inverse * residual
        product, before = float(residual @ scaled), product
        conjugate = scaled + (product / before) * conjugate
    return [solution[starts[group] : starts[group + 1]] for group in range(len(widths))]


def _sums(widths: Sequence[int], blocks: Sequence[Block]) -> tuple[list[Array], list[Array]]:
    """Squared norms of the input and of the output weights of every neuron."""
    pairs = [_sums_of(width, blocks, group) for group, width in enumerate(widths)]
    return [front for front, _ in pairs], [behind for _, behind in pairs]


def _sums_of(width: int, blocks: Sequence[Block], group: int) -> tuple[Array, Array]:
    front, behind = np.zeros(width), np.zeros(width)
    for block in blocks:
        if block.row == group:
            front += block.squares.sum(1)
        if block.column == group:
            behind += block.squares.sum(0)
    return front, behind


def _scaled(block: Block, change: Array, group: int) -> Block:
    if block.row == group:
        return Block(block.squares * np.exp(2.0 * change)[:, None], block.row, block.column)
    if block.column == group:
        return Block(block.squares * np.exp(-2.0 * change), block.row, block.column)
    return block


def _masked(block: Block, alive: Sequence[Mask]) -> Block:
    squares = block.squares
    if block.row is not None:
        squares = squares * alive[block.row][:, None]
    if block.column is not None:
        squares = squares * alive[block.column]
    return Block(squares, block.row, block.column)


def _residual(widths: Sequence[int], blocks: Sequence[Block], alive: Sequence[Mask]) -> float:
    largest = 0.0
    for front, behind, mask in zip(*_sums(widths, blocks), alive, strict=True):
        if mask.any():
            largest = max(largest, float((np.abs(front - behind)[mask] / (front + behind)[mask]).max()))
    return largest


def _total(blocks: Sequence[Block]) -> float:
    return float(sum(block.squares.sum() for block in blocks))


def _check(widths: Sequence[int], blocks: Sequence[Block]) -> None:
    for block in blocks:
        for group, size in zip((block.row, block.column), block.squares.shape, strict=True):
            if group is not None and widths[group] != size:
                raise ValueError(f"A block must fit its groups. Group {group} has {widths[group]} neurons, not {size}.")
        if block.row is not None and block.row == block.column:
            raise ValueError(f"A block must connect two groups. This one connects group {block.row} with itself.")
        if not np.isfinite(block.squares).all() or (block.squares < 0.0).any():
            raise ValueError("Squared weights must be finite and not negative. Check the network for NaN and Inf.")
