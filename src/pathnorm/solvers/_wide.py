"""A start where there are many directions: a wide network trained by L-BFGS with weight decay, then made sparse.

Half the sum of squared weights is the path norm once neurons are balanced, so this descends on the same objective; it
is smooth but for the hinges, needs no step size, and where it ends no proof is needed: the rounds that follow bring it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pathnorm.problems._affine import affine_columns
from pathnorm.problems.variation import RBV2Problem
from pathnorm.solvers._atoms import Iterate, snapped
from pathnorm.solvers._corrective import corrected

__all__ = ["drifted", "trained", "wide_start"]

Matrix = NDArray[np.float64]

_SAMPLES = 10_000  # beyond twice that, a wide network is trained on so many first
_TOL = 1e-6  # relative gap of the lasso that makes a wide network sparse
_ENTRIES = 400_000  # hidden activations held at a time: what fits in cache


def wide_start(problem: RBV2Problem, at: Iterate, *, width: int = 100, max_steps: int = 200, seed: int = 0) -> Iterate:
    """Train a network of that width from random hinges, and keep what carries weight."""
    rng = np.random.default_rng(seed)
    X, D = problem.X, problem.n_outputs
    scale = np.sqrt((X**2).sum(axis=1).mean()) + 1e-300
    W = rng.normal(size=(width, problem.n_features))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    b = np.einsum("kd,kd->k", W, X[rng.integers(len(X), size=width)])
    size = np.sqrt(np.abs(problem.pulls(at.outputs)).mean() / scale / np.sqrt(width)) + 1e-6
    V = rng.normal(size=(width, D))
    V *= size / np.linalg.norm(V, axis=1, keepdims=True)
    neurons: tuple[Matrix, Matrix, Matrix] = (size * W, size * b, V)
    affine = (at.A, at.c)
    if len(X) > 2 * _SAMPLES:
        # Most of the way on some of the samples.
        rows = np.sort(rng.choice(len(X), _SAMPLES, replace=False))
        weights = problem.weights[rows] * (problem.weights.sum() / problem.weights[rows].sum())
        part = replace(problem, X=X[rows], Y=problem.Y[rows], weights=weights)
        W, b, V, A, c = trained(part, neurons, affine, max_steps)
        neurons, affine, max_steps = (W, b, V), (A, c), max_steps // 8
    return _sparse(problem, at, trained(problem, neurons, affine, max_steps), _TOL)


def drifted(problem: RBV2Problem, at: Iterate, *, max_steps: int = 60, tol: float = 1e-10) -> Iterate:
    """Let all neurons drift across cells by L-BFGS, hinges free; in many dimensions faster than face by face."""
    atoms = at.atoms
    size = np.sqrt(np.linalg.norm(atoms.V, axis=1))
    kept = size > 0.0
    if not kept.any():
        return at
    atoms, size = atoms.select(kept), size[kept, None]
    neurons = size * atoms.W, size[:, 0] * atoms.biases(problem.X), atoms.V / size
    return _sparse(problem, at, trained(problem, neurons, (at.A, at.c), max_steps), tol)


def _sparse(
    problem: RBV2Problem, at: Iterate, network: tuple[Matrix, Matrix, Matrix, Matrix, Matrix], tol: float
) -> Iterate:
    """The neurons of a trained network that carry weight, hinges at samples; what came before if that is no better."""
    W, b, V, A, c = network
    norms = np.linalg.norm(W, axis=1)
    mass = norms * np.linalg.norm(V, axis=1)
    kept = mass > 1e-6 * mass.max(initial=0.0)
    atoms = snapped(problem, W[kept] / norms[kept, None], b[kept] / norms[kept], V[kept] * norms[kept, None])
    new = corrected(problem, Iterate.of(problem, atoms, A, c), tol=tol)
    return new if new.value < at.value else at


def trained(
    problem: RBV2Problem, neurons: tuple[Matrix, Matrix, Matrix], affine: tuple[Matrix, Matrix], max_steps: int
) -> tuple[Matrix, Matrix, Matrix, Matrix, Matrix]:
    """Minimise ``loss + lam / 2 (||W||^2 + ||V||^2)`` over all weights, biases and the affine part, by L-BFGS."""
    W, b, V = neurons
    K, d, D = len(W), problem.n_features, problem.n_outputs
    columns = affine_columns(problem)
    ridge = np.zeros((columns.shape[1], 1))
    if problem.affine == "ridge":
        ridge[1:] = problem.ridge
    step = max(64, _ENTRIES // max(K, 1))
    ends = np.cumsum((K * d, K, K * D))

    def split(theta: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        w, bias, v, rest = np.split(theta, ends)
        return w.reshape(K, d), bias, v.reshape(K, D), rest.reshape(-1, D)

    def value(theta: Matrix) -> tuple[float, Matrix]:
        w, bias, v, coef = split(theta)
        gradient = np.zeros_like(theta)
        gw, gb, gv, gc = split(gradient)
        total = 0.5 * problem.lam * (float((w**2).sum()) + float((v**2).sum())) + 0.5 * float((ridge * coef**2).sum())
        gw += problem.lam * w
        gv += problem.lam * v
        gc += ridge * coef
        for first in range(0, problem.n_samples, step):
            rows = slice(first, first + step)
            X, part = problem.X[rows], columns[rows]
            hidden = X @ w.T
            hidden -= bias
            np.maximum(hidden, 0.0, out=hidden)
            F = hidden @ v + part @ coef
            s = problem.weights[rows, None]
            with np.errstate(over="ignore"):
                total += float((s * problem.loss.value(problem.Y[rows], F)).sum())
                R = s * problem.loss.pull(problem.Y[rows], F)
            gv -= hidden.T @ R
            gc -= part.T @ R
            back = (hidden > 0.0).astype(np.float64)
            if D == 1:
                gw -= v * (back.T @ (R * X))
                gb += v[:, 0] * (back.T @ R[:, 0])
            else:
                back *= R @ v.T
                gw -= back.T @ X
                gb += back.sum(axis=0)
        return (total, gradient) if np.isfinite(total) else (np.inf, np.zeros_like(theta))

    coef = np.vstack((affine[1], affine[0]))[: columns.shape[1]]
    start = np.concatenate((W.ravel(), b, V.ravel(), coef.ravel()))
    options = {"maxiter": max_steps, "maxfun": 2 * max_steps, "maxcor": 20, "ftol": 1e-10, "gtol": 0.0}
    end = minimize(value, start, jac=True, method="L-BFGS-B", options=options).x
    w, bias, v, coef = split(end)
    A = coef[1:] if len(coef) > 1 else affine[0]
    return w.copy(), bias.copy(), v.copy(), A.copy(), coef[0].copy()
