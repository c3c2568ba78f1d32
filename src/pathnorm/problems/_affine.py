"""The best affine part on top of given outputs: a smooth convex problem in (d + 1) D numbers, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

if TYPE_CHECKING:
    from pathnorm.problems.variation import RBV2Problem

__all__ = ["AffineFit", "affine_columns", "affine_fit", "solve_damped"]

Matrix = NDArray[np.float64]
_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class AffineFit:
    """``outputs = offset + X A + c`` at the minimum over A (d, D) and c (D,); X is centred."""

    A: Matrix
    c: Matrix
    outputs: Matrix


def affine_columns(problem: RBV2Problem) -> Matrix:
    """``[1 X]``, or the constant alone where there is no affine part."""
    ones = np.ones((problem.n_samples, 1))
    return ones if problem.affine == "none" else np.hstack((ones, problem.X))


def affine_fit(problem: RBV2Problem, offset: Matrix) -> AffineFit:
    """Minimise ``sum s loss(y, offset + X A + c)``, plus the ridge if there is one."""
    columns = affine_columns(problem)
    coef = np.zeros((columns.shape[1], problem.n_outputs))
    ridge = np.zeros(columns.shape[1])
    if problem.affine == "ridge":
        ridge[1:] = problem.ridge
    blocks = [slice(k, k + 1) for k in range(problem.n_outputs)] if problem.loss.separable else [slice(None)]
    for block in blocks:
        coef[:, block] = _newton(problem, offset, columns, ridge, block)
    A = np.zeros((problem.n_features, problem.n_outputs))
    A[: columns.shape[1] - 1] = coef[1:]
    return AffineFit(A, coef[0].copy(), offset + columns @ coef)


def _newton(problem: RBV2Problem, offset: Matrix, columns: Matrix, ridge: Matrix, block: slice) -> Matrix:
    """Coefficients (1 + d, outputs of the block); damped where the curvature vanishes, with backtracking."""
    loss, Y, F, s = problem.loss, problem.Y[:, block], offset[:, block], problem.weights[:, None]
    coef = np.zeros((columns.shape[1], Y.shape[1]))
    n_outputs = Y.shape[1]
    penalty = np.repeat(ridge, n_outputs)
    # The tangent of output d in coefficient (j, l) is column j if d = l.
    tangents = np.einsum("nj,dl->ndjl", columns, np.eye(n_outputs)).reshape(len(Y), n_outputs, -1)

    def value(at: Matrix) -> float:
        with np.errstate(over="ignore"):
            total = float((s * loss.value(Y, F + columns @ at)).sum())
        return total + 0.5 * float(ridge @ (at**2).sum(axis=1)) if np.isfinite(total) else np.inf

    current, afar = value(coef), False
    for _ in range(_STEPS):
        outputs = F + columns @ coef
        gradient = (ridge[:, None] * coef - columns.T @ (s * loss.pull(Y, outputs))).ravel()
        if afar:
            stiff = s * loss.stiffness(Y, outputs)
            matrix = np.einsum("nj,nd,nk->djk", columns, stiff, columns)
            curvature = np.einsum("djk,de->jdke", matrix, np.eye(n_outputs)).reshape(penalty.size, -1)
        else:
            root = (np.sqrt(s)[:, :, None] * loss.root(Y, outputs, tangents)).reshape(-1, penalty.size)
            curvature = root.T @ root
        step = -solve_damped(curvature + np.diag(penalty), gradient).reshape(coef.shape)
        decrease = -float(gradient @ step.ravel())
        length = _length(value, coef, step, current) if decrease > 1e-26 * max(abs(current), 1e-300) else 0.0
        if length == 0.0:
            if afar or loss.smooth:
                break
            # Newton's method sees no curvature, or too little: go on with that of reweighted least squares.
            afar = True
            continue
        coef, before, current = coef + length * step, current, value(coef + length * step)
        if decrease <= 1e-16 * abs(current):
            break
        # Back to Newton's steps as soon as one of the other kind has helped.
        afar = afar and before - current <= 1e-3 * decrease
    return coef


def _length(value: Callable[[Matrix], float], coef: Matrix, step: Matrix, current: float) -> float:
    """Length of a step that descends, zero if there is none."""
    length = 1.0
    while length > 1e-9:
        trial = value(coef + length * step)
        # Where rounding hides what is left of the decrease, the gradient is what counts: the full step is taken.
        if trial < current or (length == 1.0 and trial <= current + 1e-14 * abs(current)):
            return length
        length *= 0.5
    return 0.0


def solve_damped(matrix: Matrix, right: Matrix) -> Matrix:
    """Solve with a positive semidefinite matrix, scaled and damped as little as a Cholesky factor needs."""
    largest = float(np.diag(matrix).max(initial=0.0))
    if not largest > 0.0:
        return np.zeros_like(right)
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-15 * largest))
    scaled = matrix / scale[:, None] / scale
    damping = 0.0
    for _ in range(8):
        try:
            factor = cho_factor(scaled + damping * np.eye(len(right)), check_finite=False)
        except LinAlgError:
            damping = max(1e-13, 100.0 * damping)
            continue
        solution = cho_solve(factor, right / scale, check_finite=False) / scale
        if np.isfinite(solution).all():
            return np.asarray(solution)
        damping = max(1e-13, 100.0 * damping)
    return np.zeros_like(right)
