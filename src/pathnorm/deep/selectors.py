"""Ways to rank the neurons of a layer, by name or as a callable that gives scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems.multitask_lasso import MultitaskLasso
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.elimination import backward_elimination
from pathnorm.solvers.multitask_lasso import multitask_lasso_path
from pathnorm.solvers.pursuit import forward_selection
from pathnorm.solvers.ranking import Ranking, error_curve, rank_by_scores

__all__ = ["SELECTORS", "Scores", "lasso_problem", "rank_neurons"]

Array = NDArray[np.float64]
Scores = Callable[[LayerReconstruction], Array]

_PATH_POINTS = 20
_PATH_RATIO = 1e-3


def rank_neurons(problem: LayerReconstruction, selector: str | Scores) -> Ranking:
    """Rank the neurons of a layer.

    Parameters
    ----------
    problem : LayerReconstruction
    selector : {"backward", "forward", "lasso", "magnitude"} or callable
        A callable takes the problem and returns one score per neuron, higher is kept.
    """
    if callable(selector):
        return rank_by_scores(problem, selector(problem))
    return SELECTORS[selector](problem)


def lasso_problem(problem: LayerReconstruction, lam: float) -> MultitaskLasso:
    """Return the layer's multitask lasso ``1/2 ||Psi - Phi V||^2 + lam sum_k c_k ||V_k||``."""
    return MultitaskLasso.from_moments(
        problem.gram, problem.cross, problem.energy, lam, problem.cost, block_sizes=problem.block
    )


def _lasso(problem: LayerReconstruction) -> Ranking:
    """Rank by the lambda at which a neuron enters the lasso path, then by its mass at the end."""
    top = lasso_problem(problem, 1.0).lam_max
    if not top > 0.0:
        return rank_by_scores(problem, np.zeros(problem.n_neurons))
    lams = top * np.geomspace(0.98, _PATH_RATIO, _PATH_POINTS)
    entry = np.full(problem.n_neurons, float(lams.size))
    mass = np.zeros(problem.n_neurons)
    for step, solution in enumerate(multitask_lasso_path(lasso_problem(problem, top), lams.tolist(), tol=1e-3)):
        mass = problem.cost * np.asarray(solution.problem.block_norms(solution.coef))
        entry = np.where((mass > 0.0) & (entry > step), float(step), entry)
    order = np.lexsort((-mass, entry)).astype(np.intp)
    return Ranking(order, error_curve(problem, order))


def _magnitude(problem: LayerReconstruction) -> Ranking:
    """Rank by the norm of the input weights, as magnitude pruning does; the refit is ours."""
    return rank_by_scores(problem, problem.cost)


SELECTORS: dict[str, Callable[[LayerReconstruction], Ranking]] = {
    "backward": backward_elimination,
    "forward": forward_selection,
    "lasso": _lasso,
    "magnitude": _magnitude,
}
