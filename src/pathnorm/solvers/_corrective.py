"""The fully corrective step: the best output weights and affine part for given neurons, a multitask lasso."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import CertificateWarning
from pathnorm.problems._affine import affine_columns
from pathnorm.problems.losses import Squared
from pathnorm.problems.multitask_lasso import MultitaskLasso
from pathnorm.problems.variation import RBV2Problem
from pathnorm.solvers._atoms import Iterate, objective
from pathnorm.solvers.multitask_lasso import multitask_lasso

__all__ = ["corrected"]

Matrix = NDArray[np.float64]
_LEAST_FLOOR = 1e-3
_LITTLE = 0.02  # share of the gain of all steps that a step must reach to be followed by another


def corrected(problem: RBV2Problem, at: Iterate, *, tol: float = 1e-10, max_steps: int = 20) -> Iterate:
    """Minimise over output weights and affine part, as far as it pays; neurons that are not needed are dropped.

    Proximal Newton steps: the loss is replaced by its quadratic model, with one curvature per sample, the affine part
    is eliminated, and a multitask lasso on the moments of what is left is solved. The squared loss takes one step. The
    objective never rises. For the squared loss ``tol`` is the relative gap of that lasso.
    """
    if not len(at.atoms):
        fit = problem.fit_affine()
        new = Iterate.of(problem, at.atoms, fit.A, fit.c)
        return new if new.value < at.value else at
    features = at.atoms.features(problem.X)
    columns = affine_columns(problem)
    quadratic, first = isinstance(problem.loss, Squared), at.value
    floor = _LEAST_FLOOR
    for _ in range(1 if quadratic else max_steps):
        found, length = _step(problem, at, (features, columns), floor, tol if quadratic else 1e-10)
        if length < 0.5 and floor < 1.0 and not quadratic:
            # The loss bends more on the way than here: a stiffer model goes less far, and gets there.
            floor = min(1.0, 30.0 * floor)
            at = found or at
            continue
        floor = max(_LEAST_FLOOR, floor / 3.0)
        if found is None:
            break
        gain, at = at.value - found.value, found
        if gain <= max(_LITTLE * (first - at.value), 1e-13 * abs(first)):
            break
    kept = np.linalg.norm(at.atoms.V, axis=1) > 0.0
    return Iterate(at.atoms.select(kept), at.A, at.c, at.outputs, at.value) if not kept.all() else at


def _step(
    problem: RBV2Problem, at: Iterate, dictionary: tuple[Matrix, Matrix], floor: float, tol: float
) -> tuple[Iterate | None, float]:
    """One proximal Newton step with backtracking, and its length; None if there is no descent.

    No sample counts with less than ``floor`` times the largest curvature.
    """
    features, columns = dictionary
    s = problem.weights
    curvature = s * problem.loss.largest_curvature(problem.Y, at.outputs)
    stiffest = float(problem.loss.stiffness(problem.Y, at.outputs).max())
    curvature = np.maximum(curvature, s * (floor * stiffest + 1e-12))
    root = np.sqrt(curvature)[:, None]
    pulls = problem.pulls(at.outputs) / root
    Phi, affine = root * features, root * columns
    now = np.vstack((at.c, at.A)) if columns.shape[1] > 1 else at.c[None]
    if problem.affine == "ridge":
        # The ridge as d more rows, on which the neurons are zero.
        d = problem.n_features
        Phi = np.vstack((Phi, np.zeros((d, Phi.shape[1]))))
        affine = np.vstack((affine, np.hstack((np.zeros((d, 1)), np.sqrt(problem.ridge) * np.eye(d)))))
        pulls = np.vstack((pulls, -np.sqrt(problem.ridge) * at.A))
    basis, triangle = _orthonormal(affine)
    target = Phi @ at.atoms.V + pulls
    reduced = Phi - basis @ (basis.T @ Phi)
    reduced -= basis @ (basis.T @ reduced)
    rest = target - basis @ (basis.T @ target)
    lasso = MultitaskLasso.from_moments(reduced.T @ reduced, reduced.T @ rest, float((rest**2).sum()), problem.lam)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)
        V = multitask_lasso(lasso, start=at.atoms.V, tol=tol, max_iter=60).coef
    # The affine part that goes with V: what the weighted residual still has along its columns.
    change = triangle @ (basis.T @ (pulls - Phi @ (V - at.atoms.V)))
    new = now + change
    length = 1.0
    direction = (V - at.atoms.V, new - now)
    moved = features @ direction[0] + columns @ direction[1]
    for _ in range(30):
        A = at.A + length * direction[1][1:] if columns.shape[1] > 1 else at.A
        c = at.c + length * direction[1][0]
        weights = V if length == 1.0 else at.atoms.V + length * direction[0]
        outputs = at.outputs + length * moved
        norm = float(np.linalg.norm(weights, axis=1).sum())
        value = objective(problem, outputs, norm, A)
        if value <= at.value:
            return Iterate(at.atoms.with_outputs(weights), A, c, outputs, value), length
        length *= 0.5
    return None, 0.0


def _orthonormal(columns: Matrix) -> tuple[Matrix, Matrix]:
    """Basis Q (N, rank) of the columns and the matrix that turns ``Q' t`` into coefficients of the columns."""
    scale = np.linalg.norm(columns, axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    left, singular, right = np.linalg.svd(columns / scale, full_matrices=False)
    kept = singular > 1e-12 * singular[0]
    return left[:, kept], (right[kept].T / singular[kept]) / scale[:, None]
