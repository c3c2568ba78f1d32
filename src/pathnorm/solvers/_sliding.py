"""Sliding: Newton's method on all weights at once, every hinge held in its face of the arrangement.

With input weights ``w_k = J_k y_k`` in an orthonormal basis of the face and balanced output weights, the path norm is
half the sum of squares, and within the cells the objective is smooth in (y, v), for any loss and number of outputs. Its
Hessian is that of the loss plus ``[[lam I, -U], [-U', lam I]]`` for each neuron with ``U = sum_active J'(x - x_m) r'``:
positive semidefinite at a solution, where ``||U||_2 <= lam`` is dual feasibility; before, U is shrunk to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems._affine import affine_columns, solve_damped
from pathnorm.problems.variation import RBV2Problem
from pathnorm.solvers._atoms import Atoms, Iterate

__all__ = ["merged", "slid"]

Matrix = NDArray[np.float64]
_LITTLE = 0.05  # share of the gain of all steps that a step must reach to be followed by another


def slid(problem: RBV2Problem, at: Iterate, *, max_steps: int = 15, least: float = 0.0) -> Iterate:
    """Descend until a Newton step gains less than ``least`` and little beside the others; the objective never rises."""
    if not len(at.atoms):
        return at
    faces = at.atoms.faces(problem.X)
    first = at.value
    for _ in range(max_steps):
        before = at.value
        new = _newton(problem, at, faces)
        if new is None:
            break
        at = new
        if before - at.value <= max(min(least, _LITTLE * (first - at.value)), 1e-13 * abs(before)):
            break
    return at


def _newton(problem: RBV2Problem, at: Iterate, faces: list[Matrix]) -> Iterate | None:
    """One step with backtracking; None if there is no descent."""
    length = np.sqrt(np.linalg.norm(at.atoms.V, axis=1))
    W, V = length[:, None] * at.atoms.W, at.atoms.V / length[:, None]
    model = _model(problem, at, faces, (W, V))
    step = -solve_damped(model.curvature, model.gradient)
    decrease = -float(model.gradient @ step)
    if not decrease > 1e-15 * abs(at.value):
        return None
    slides, lifts, change = model.split(step)
    coef = np.vstack((at.c, at.A))[: len(change)]
    fraction = 1.0
    while fraction > 1e-3:
        new = _moved(problem, at, (W + fraction * slides, V + fraction * lifts, coef + fraction * change))
        if new is not None and new.value < at.value - 1e-4 * fraction * decrease:
            return new
        fraction *= 0.3
    return None


@dataclass(frozen=True, slots=True)
class _Model:
    """Gradient and curvature in (slides, lifts, affine part); ``directions`` (d, P) are of neurons ``owner`` (P,)."""

    gradient: Matrix
    curvature: Matrix
    directions: Matrix
    owner: NDArray[np.int64]
    shape: tuple[int, int]

    def split(self, step: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Changes of W (K, d), of V (K, D) and of the affine part."""
        K, D = self.shape
        P = self.owner.size
        slides = np.zeros((K, self.directions.shape[0]))
        np.add.at(slides, self.owner, (self.directions * step[:P]).T)
        return slides, step[P : P + K * D].reshape(K, D), step[P + K * D :].reshape(-1, D)


def _model(problem: RBV2Problem, at: Iterate, faces: list[Matrix], weights: tuple[Matrix, Matrix]) -> _Model:
    X, R, lam = problem.X, problem.pulls(at.outputs), problem.lam
    W, V = weights
    N, D, K = problem.n_samples, problem.n_outputs, len(W)
    stuck = at.atoms.stuck
    T = X @ W.T
    T -= np.einsum("kd,kd->k", W, X[stuck[:, 0]])
    np.maximum(T, 0.0, out=T)
    for i in range(stuck.shape[1]):
        held = np.flatnonzero(at.atoms.size > i)
        T[stuck[held, i], held] = 0.0
    active = T > 0.0
    directions = np.hstack(faces)
    owner = np.repeat(np.arange(K), [basis.shape[1] for basis in faces])
    moved = X @ directions
    moved -= np.einsum("dp,pd->p", directions, X[stuck[owner, 0]])
    moved *= active[:, owner]
    columns = affine_columns(problem)
    P, n_affine = owner.size, columns.shape[1] * D
    size = P + K * D + n_affine
    tangents = np.zeros((N, D, size))
    for q in range(D):
        np.multiply(moved, V[owner, q], out=tangents[:, q, :P])
        tangents[:, q, P + q : P + K * D : D] = T
        tangents[:, q, P + K * D + q :: D] = columns
    root = problem.loss.root(problem.Y, at.outputs, tangents)
    root = (root * np.sqrt(problem.weights)[:, None, None]).reshape(-1, size)
    curvature = root.T @ root
    penalty = np.full(columns.shape[1], problem.ridge if problem.affine == "ridge" else 0.0)
    penalty[0] = 0.0
    diagonal = np.concatenate((np.full(P + K * D, lam), np.repeat(penalty, D)))
    curvature[np.arange(size), np.arange(size)] += diagonal
    U = moved.T @ R
    # Where the dual point is infeasible the block of a neuron is indefinite; shrunk to lam, it is not.
    ends = np.cumsum([0] + [basis.shape[1] for basis in faces])
    norms = np.array([np.linalg.norm(U[first:last], 2) for first, last in pairwise(ends)])
    bounded = np.minimum(1.0, lam / np.maximum(norms, 1e-300))[owner, None] * U
    rows = np.repeat(np.arange(P), D)
    places = (P + owner[:, None] * D + np.arange(D)).ravel()
    curvature[rows, places] -= bounded.ravel()
    curvature[places, rows] -= bounded.ravel()
    y = np.einsum("dp,pd->p", directions, W[owner])
    coef = np.vstack((at.c, at.A))[: columns.shape[1]]
    gradient = np.concatenate(
        (
            lam * y - (U * V[owner]).sum(axis=1),
            (lam * V - T.T @ R).ravel(),
            (penalty[:, None] * coef - columns.T @ R).ravel(),
        )
    )
    return _Model(gradient, curvature, directions, owner, (K, D))


def _moved(problem: RBV2Problem, at: Iterate, weights: tuple[Matrix, Matrix, Matrix]) -> Iterate | None:
    W, V, coef = weights
    norms = np.linalg.norm(W, axis=1)
    if not (norms > 0.0).all():
        return None
    atoms = Atoms(W / norms[:, None], at.atoms.stuck, at.atoms.size, V * norms[:, None])
    return Iterate.of(problem, atoms, coef[1:] if len(coef) > 1 else at.A, coef[0])


def merged(problem: RBV2Problem, at: Iterate) -> Iterate:
    """One neuron for those that share hinge, cell and output direction: no outputs change, the norm does not grow."""
    atoms = at.atoms
    if len(atoms) < 2:
        return at
    norms = np.linalg.norm(atoms.V, axis=1)
    active = problem.X @ atoms.W.T - atoms.biases(problem.X) > 1e-12 * float(np.abs(problem.X).max())
    packed = np.packbits(active, axis=0).T
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for k in range(len(atoms)):
        stuck = np.sort(atoms.stuck[k, : atoms.size[k]])
        direction = np.round(atoms.V[k] / norms[k], 6) + 0.0
        seen = np.flatnonzero(atoms.W[k]) if problem.interactions else np.zeros(0, np.int64)
        key = (stuck.tobytes(), packed[k].tobytes(), direction.tobytes(), seen.tobytes())
        groups.setdefault(key, []).append(k)
    if len(groups) == len(atoms):
        return at
    first = np.array([group[0] for group in groups.values()])
    W, V = np.empty((len(groups), problem.n_features)), np.empty((len(groups), problem.n_outputs))
    for i, group in enumerate(groups.values()):
        weight = norms[group] @ atoms.W[group]
        length = float(np.linalg.norm(weight))
        W[i] = weight / length
        V[i] = length * atoms.V[group[0]] / norms[group[0]]
    new = Iterate.of(problem, Atoms(W, atoms.stuck[first], atoms.size[first], V), at.A, at.c)
    return new if new.value <= at.value * (1.0 + 1e-13) + 1e-300 else at
