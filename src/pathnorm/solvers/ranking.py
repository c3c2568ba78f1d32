"""A ranking of neurons and the error curve that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pathnorm.problems.reconstruction import LayerReconstruction

__all__ = ["Ranking", "error_curve", "rank_by_scores"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Neurons in the order in which they are worth keeping.

    ``order[:k]`` are the k neurons to keep; ``errors[k]`` is the relative squared error
    ``||Psi - Phi V||^2 / ||Psi||^2`` of the refit over them, ``errors[0] = 1``.
    """

    order: NDArray[np.intp]
    errors: Array


def error_curve(problem: LayerReconstruction, order: NDArray[np.intp], *, ridge: float = 1e-8) -> Array:
    """Return the refit's error over ``order[:k]`` for all k, from one Cholesky factor.

    With ``L L' = G`` in the given order, the first k neurons explain the energy of the first k
    blocks of ``L^-1 C``.
    """
    if problem.energy <= 0.0:
        return np.zeros(order.size + 1)
    rows = problem.rows(order)
    cross = problem.cross[rows]
    while True:
        try:
            factor = np.linalg.cholesky(problem.regularised_gram(ridge)[np.ix_(rows, rows)])
            break
        except np.linalg.LinAlgError:
            ridge = 10.0 * max(ridge, 1e-12)
    half = scipy.linalg.solve_triangular(factor, cross, lower=True, check_finite=False)
    gains = np.square(half).reshape(order.size, -1).sum(1)
    return explained_to_errors(problem.energy, gains)


def explained_to_errors(energy: float, gains: Array) -> Array:
    """Return ``errors[k] = 1 - sum_{i < k} gains_i / energy``."""
    if energy <= 0.0:
        return np.zeros(gains.size + 1)
    explained = np.concatenate([[0.0], np.cumsum(gains)]) / energy
    return np.clip(1.0 - explained, 0.0, 1.0)


def rank_by_scores(problem: LayerReconstruction, scores: Array) -> Ranking:
    """Rank by decreasing score (K,); ties keep their order.

    Raises
    ------
    ValueError
        If there is not one finite score per neuron.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (problem.n_neurons,) or not np.isfinite(scores).all():
        raise ValueError(
            f"A selector must return one finite score per neuron, shape ({problem.n_neurons},). Got shape "
            f"{scores.shape}{'' if np.isfinite(scores).all() else ' with NaN or Inf'}."
        )
    order = np.argsort(-scores, kind="stable").astype(np.intp)
    return Ranking(order, error_curve(problem, order))
