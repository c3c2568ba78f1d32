"""One proximal point step on the multitask lasso, solved by semismooth Newton on its dual.

A step from the centre ``B`` minimises ``f(V) + p(V) + sum_k ||V_k - B_k||^2 / (2 sigma_k)``, with
``f(V) = <V, GV>/2 - <V, C>`` and p the penalty. Written as a maximum over W, ``f`` becomes linear in V, so V is
one group soft-thresholding, and W minimises the smooth convex function

    psi(W) = <W, GW>/2 - min_V [<V, GW - C> + p(V) + sum_k ||V_k - B_k||^2 / (2 sigma_k)],
    grad psi(W) = G (W - V(W)),    V(W) = prox(B - sigma (GW - C)).

``<W - V, G (W - V)>/2`` is the duality gap of the step. The Newton matrix lives on the active rows only, and
there it is ``M (x) I_D`` minus one rank-one term per neuron, with ``M = G_AA + diag(alpha)``: a Newton step
costs one Cholesky factorisation of size P_A and one solve of size K_A, for any number of outputs D.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.linalg import lapack

from pathnorm.problems._arrays import Array, Blocks, add_to_diagonal, inverse_psd, is_torch, namespace, positions
from pathnorm.problems.multitask_lasso import MultitaskLasso

__all__ = ["Point", "ProximalStep", "Shrunk"]


@dataclass(frozen=True, slots=True)
class Point:
    """A coefficient array and ``product == gram @ coef``."""

    coef: Array
    product: Array

    def towards(self, other: Point, length: float) -> Point:
        """The point at ``length`` on the segment to ``other``, and ``other`` itself at 1."""
        if length == 1.0:
            return other
        return Point(
            (1.0 - length) * self.coef + length * other.coef,
            (1.0 - length) * self.product + length * other.product,
        )


@dataclass(frozen=True, slots=True)
class Shrunk:
    """``V(W)``, zero outside the active ``rows``; before shrinking, ``moved`` with those block ``norms``."""

    point: Point
    moved: Array
    rows: Array
    neurons: Array
    blocks: Blocks
    directions: Array
    norms: Array


@dataclass(frozen=True, slots=True)
class ProximalStep:
    """The function psi of one proximal step around ``centre``; ``sigma`` (K,)."""

    problem: MultitaskLasso
    centre: Array
    sigma: Array

    @property
    def threshold(self) -> Array:
        return self.sigma * self.problem.lam * self.problem.weights

    def shrink(self, product: Array) -> Shrunk:
        """``V(W)`` with its support."""
        sigma, threshold = self.problem.blocks.spread(self.sigma)[:, None], self.threshold
        moved = self.centre - sigma * (product - self.problem.cross)
        norms = self.problem.blocks.norms(moved)
        neurons = positions(norms > threshold)
        rows, blocks = self.problem.blocks.select(neurons)
        norms = norms[neurons]
        directions = moved[rows] / blocks.spread(norms)[:, None]
        coef = 0.0 * moved
        coef[rows] = blocks.spread(norms - threshold[neurons])[:, None] * directions
        product = self.problem.gram[rows].T @ coef[rows]
        return Shrunk(Point(coef, product), moved, rows, neurons, blocks, directions, norms)

    def is_solved(self, shrunk: Shrunk, point: Point) -> bool:
        """Whether the duality gap of the step is a fraction of the length of the step."""
        gap = ((point.coef - shrunk.point.coef) * (point.product - shrunk.point.product)).sum()
        moved = self.problem.blocks.norms(shrunk.point.coef - self.centre) ** 2 / self.sigma
        return bool(gap <= 0.25 * moved.sum())

    def newton(self, shrunk: Shrunk, point: Point) -> Point | None:
        """The Newton point ``V - T``, supported on the active rows; None where M is indefinite.

        T solves ``(M (x) I - sum_k beta_k u_k u_k') T = G_A (V - W)`` with u_k the direction of block k.
        """
        rows, blocks = shrunk.rows, shrunk.blocks
        sigma, threshold = self.sigma[shrunk.neurons], self.threshold[shrunk.neurons]
        alpha = shrunk.norms / (sigma * (shrunk.norms - threshold))
        beta = threshold / (sigma * (shrunk.norms - threshold))
        gram = self.problem.gram[rows]
        system = gram[:, rows]
        if not is_torch(gram) and self.centre.shape[1] == len(blocks.sizes) / max(len(rows), 1) == 1:
            # One number per neuron: u_k u_k' = 1, and what is left is one factorisation and one right-hand side.
            return self._newton_of_numbers(shrunk, point, gram, system)
        add_to_diagonal(system, blocks.spread(alpha))
        inverse = inverse_psd(system)
        if inverse is None:
            return None
        step = inverse @ (point.product - shrunk.point.product)[rows]  # -T, if it were not for the rank-one terms
        # Woodbury: one unknown per neuron for the rank-one terms.
        outer = blocks.sum(blocks.sum(inverse * (shrunk.directions @ shrunk.directions.T)).T)
        root = beta**0.5
        capacity = -(root[:, None] * root) * outer
        add_to_diagonal(capacity, root / root)
        right = root * blocks.sum((shrunk.directions * step).sum(1))
        lengths = root * namespace(root).linalg.solve(capacity, right)
        coef = 1.0 * shrunk.point.coef
        coef[rows] += step + inverse @ (blocks.spread(lengths)[:, None] * shrunk.directions)
        return Point(coef, gram.T @ coef[rows])

    def _newton_of_numbers(self, shrunk: Shrunk, point: Point, gram: Array, system: Array) -> Point | None:
        rows = shrunk.rows
        add_to_diagonal(system, 1.0 / self.sigma[shrunk.neurons])
        step = _solve_psd(system, (point.product - shrunk.point.product)[rows])
        if step is None:
            return None
        coef = 1.0 * shrunk.point.coef
        coef[rows] += step
        return Point(coef, gram.T @ coef[rows])

    def search(self, shrunk: Shrunk, point: Point, newton: Point) -> float:
        """Length in (0, 1] at which psi has a small slope along the Newton direction, by bisection."""
        blocks, sigma, threshold = self.problem.blocks, self.sigma, self.threshold
        direction, change = newton.coef - point.coef, newton.product - point.product

        def inner(one: Array, other: Array) -> Array:
            return blocks.sum((one * other).sum(1))

        # Blocks move along lines, so five inner products per neuron give the slope at any length.
        at_point, along = inner(change, point.coef), inner(change, direction)
        across, speed = inner(change, shrunk.moved), sigma * inner(change, change)
        square = inner(shrunk.moved, shrunk.moved)

        def slope(length: float) -> float:
            squares = square - length * sigma * (2.0 * across - length * speed)
            kept = 1.0 - threshold / (squares.clip(min=0.0) ** 0.5).clip(min=threshold)
            return float((at_point + length * along - kept * (across - length * speed)).sum())

        accept = 0.1 * abs(slope(0.0))
        low, high, length = 0.0, 1.0, 1.0
        for _ in range(30):
            value = slope(length)
            if value <= accept and (length == 1.0 or value >= -accept):
                break
            low, high = (low, length) if value > 0.0 else (length, high)
            length = 0.5 * (low + high)
        return length


def _solve_psd(matrix: Array, right: Array) -> Array | None:
    """Solve with a symmetric positive definite numpy matrix, which is overwritten; None where it is not definite."""
    if matrix.shape[0] == 0:  # LAPACK complains
        return right
    # The transpose of a symmetric C-ordered matrix is itself in Fortran order: no copy.
    _, solution, info = lapack.dposv(matrix.T, right, lower=1, overwrite_a=1)
    return None if info != 0 else solution
