"""Linear trend filtering on irregular x by others, and the cubic smoothing spline.

Objective: ``1/2 sum_i (y_i - f(x_i))^2 + lam TV(f')``. A peer takes strictly increasing x, y and lam and hands back
points whose interpolation is its answer; what that answer is worth is measured elsewhere. No package for Python has
the ADMM that is specialised to trend filtering (Ramdas and Tibshirani 2016; glmgen, its authors' package, is for R),
so ``admm_specialised`` is written from their paper with the settings that glmgen documents.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

__all__ = ["PEERS", "Points", "RefusedError"]

# As glmgen documents them: rho is a multiple of lam ((max x - min x) / n), x closer than X_TOL times
# max(interquartile range, half the range) are thinned.
ADMM_RHO, ADMM_TOL, ADMM_ITERATIONS, ADMM_X_TOL, ADMM_WINDOW = 1.0, 1e-5, 200, 1e-6, 10
LASSO_MOST_SAMPLES, LASSO_ITERATIONS = 2_000, 10**6


class RefusedError(RuntimeError):
    """The peer says itself that it has no answer."""


class Points(NamedTuple):
    """A piecewise linear function through points, continued by its first and last piece.

    facts : what the peer itself reports; shown, never used to score it
    """

    sites: np.ndarray
    values: np.ndarray
    facts: dict[str, Any]


Peer = Callable[[np.ndarray, np.ndarray, float], Points]


# ---------------------------------------------------------------------------- general convex solver
def clarabel(x: np.ndarray, y: np.ndarray, lam: float) -> Points:
    """Interior point by Clarabel through cvxpy, both at their defaults, x in units of its mean spacing."""
    import cvxpy as cp
    import scipy.sparse as sp

    if len(x) < 3:
        raise RefusedError("needs three samples")
    unit = (x[-1] - x[0]) / (len(x) - 1)
    inverse = unit / np.diff(x)
    second = sp.diags_array(
        [inverse[:-1], -(inverse[:-1] + inverse[1:]), inverse[1:]], offsets=[0, 1, 2], shape=(len(x) - 2, len(x))
    ).tocsc()
    values = cp.Variable(len(x))
    loss = cp.sum_squares(values - y) / 2
    problem = cp.Problem(cp.Minimize(loss + lam / unit * cp.norm1(second @ values)))
    problem.solve(solver=cp.CLARABEL)
    if values.value is None:
        raise RefusedError(f"status {problem.status}")
    stats = problem.solver_stats
    facts = {"status": problem.status, "iterations": stats.num_iters, "solver_seconds": stats.solve_time}
    return Points(x, values.value, facts)


# ---------------------------------------------------------------------------- specialised ADMM
@njit(cache=True)
def _factor(weights, inverse, rho, pivots, ratios):
    """LDL' of ``diag(weights) + rho D'D``, D the slopes (n - 1, n); ``inverse`` (n - 1,) are 1 / gaps."""
    n = weights.size
    for i in range(n):
        diagonal = weights[i]
        if i > 0:
            diagonal += rho * inverse[i - 1] ** 2 - ratios[i - 1] ** 2 * pivots[i - 1]
        if i < n - 1:
            diagonal += rho * inverse[i] ** 2
            ratios[i] = -rho * inverse[i] ** 2 / diagonal
        pivots[i] = diagonal


@njit(cache=True)
def _solve(pivots, ratios, values):
    """Overwrite ``values`` (n,) by the solution of the factored system."""
    n = values.size
    for i in range(1, n):
        values[i] -= ratios[i - 1] * values[i - 1]
    values[n - 1] /= pivots[n - 1]
    for i in range(n - 2, -1, -1):
        values[i] = values[i] / pivots[i] - ratios[i] * values[i + 1]


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sites, means and counts: bins of glmgen's width where two x are closer than it, else the data."""
    spread = np.subtract(*np.percentile(x, [75, 25]))
    width = ADMM_X_TOL * max(float(spread), float(x[-1] - x[0]) / 2)
    if np.diff(x).min() > width:
        return x, y, np.ones_like(x)
    number = np.minimum(((x - x[0]) / width).astype(np.int64), int((x[-1] - x[0]) / width) - 1)
    _, start, count = np.unique(number, return_index=True, return_counts=True)
    return x[0] + (number[start] + 0.5) * width, np.add.reduceat(y, start) / count, count.astype(np.float64)


def admm_specialised(x: np.ndarray, y: np.ndarray, lam: float) -> Points:
    """ADMM on ``slopes = D values`` with an exact one-dimensional fused lasso of the slopes in every iteration."""
    from TVDCondat2013 import tvd_2017

    if len(x) < 3:
        raise RefusedError("needs three samples")
    sites, means, weights = thin(x, y)
    n = len(sites)
    inverse = 1.0 / np.diff(sites)
    rho = ADMM_RHO * lam * (sites[-1] - sites[0]) / (n - 1)
    pivots, ratios = np.empty(n), np.empty(n - 1)
    _factor(weights, inverse, rho, pivots, ratios)

    def objective(values: np.ndarray) -> float:
        slopes = np.diff(values) * inverse
        return 0.5 * float(weights @ (values - means) ** 2) + lam * float(np.abs(np.diff(slopes)).sum())

    values = np.polynomial.Polynomial.fit(sites, means, 1, w=np.sqrt(weights))(sites)
    slopes = np.diff(values) * inverse
    dual = np.cumsum(weights * (means - values))[:-1] / (rho * inverse)
    best, history = values, [objective(values)]
    for _ in range(ADMM_ITERATIONS):
        right = weights * means
        pull = rho * inverse * (slopes + dual)
        right[:-1] -= pull
        right[1:] += pull
        _solve(pivots, ratios, right)
        new_slopes = np.diff(right) * inverse
        slopes = np.asarray(tvd_2017(new_slopes - dual, lam / rho))
        dual += slopes - new_slopes
        history.append(objective(right))
        if history[-1] < min(history[:-1]):
            best = right
        recent = np.abs(np.diff(history[-ADMM_WINDOW - 1 :]))
        if len(recent) == ADMM_WINDOW and recent.sum() < ADMM_WINDOW * ADMM_TOL * min(history):
            break
    facts = {"iterations": len(history) - 1, "sites": n}
    return Points(sites, best, facts)


# ---------------------------------------------------------------------------- packages
def splineops(x: np.ndarray, y: np.ndarray, lam: float) -> Points:
    """ADMM with soft thresholding from splineops, x in units of its mean spacing.

    Its documentation writes the objective without 1/2, its code minimises the one with 1/2.
    """
    from splineops.adaptive_regression_splines.denoising import denoise_y

    if len(x) < 3:
        raise RefusedError("needs three samples")
    unit = (x[-1] - x[0]) / (len(x) - 1)
    values, found = denoise_y((x - x[0]) / unit, y, lam / unit, return_diagnostics=True)
    return Points(x, values, {"iterations": found.iterations, "converged": found.converged})


def lasso(x: np.ndarray, y: np.ndarray, lam: float) -> Points:
    """Coordinate descent of scikit-learn on the ReLU basis, the affine part projected out beforehand."""
    from sklearn.linear_model import Lasso

    if len(x) > LASSO_MOST_SAMPLES:
        raise RefusedError(f"the basis is dense: not run above {LASSO_MOST_SAMPLES} samples")
    if len(x) < 3:
        raise RefusedError("needs three samples")
    hinges = x[1:-1]
    # Both are the function x -> (x - hinge)_+ up to the affine part; x in units of its range, as one would.
    unit = x[-1] - x[0]
    features = np.maximum(x[:, None] - hinges, 0.0) / unit
    affine, _ = np.linalg.qr(np.column_stack([np.ones_like(x), (x - x[0]) / unit]))
    free = np.asfortranarray(features - affine @ (affine.T @ features))
    model = Lasso(alpha=lam / unit / len(x), fit_intercept=False, max_iter=LASSO_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(free, y - affine @ (affine.T @ y))
    used = np.flatnonzero(model.coef_)
    sites = np.concatenate([x[:1], hinges[used], x[-1:]])
    bent = features[:, used] @ model.coef_[used]
    line = np.polynomial.Polynomial.fit(x, y - bent, 1)
    values = line(sites) + np.maximum(sites[:, None] - hinges[used], 0.0) / unit @ model.coef_[used]
    return Points(sites, values, {"iterations": int(model.n_iter_), "converged": not caught})


def smoothing_spline(x: np.ndarray, y: np.ndarray, lam: float) -> Points:
    """The linear method: scipy's cubic smoothing spline with its own choice of lam; not the same objective."""
    from scipy.interpolate import make_smoothing_spline

    return Points(x, make_smoothing_spline(x, y)(x), {})


PEERS: dict[str, Peer] = {
    "Clarabel": clarabel,
    "specialised ADMM": admm_specialised,
    "splineops": splineops,
    "scikit-learn Lasso": lasso,
    "scipy smoothing spline": smoothing_spline,
}
