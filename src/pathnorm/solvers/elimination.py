"""Block backward elimination: remove the neuron whose loss can best be made up by the others."""

from __future__ import annotations

import numpy as np

from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.ranking import Ranking, explained_to_errors
from pathnorm.solvers.schur import block_energies, drop_block

__all__ = ["backward_elimination"]


def backward_elimination(problem: LayerReconstruction, *, ridge: float = 1e-6) -> Ranking:
    """Rank all neurons by removing, one after the other, the one that costs least.

    With ``H = G + ridge`` and ``B = H^-1 C`` the least-squares error grows by
    ``tr(B_k' [(H^-1)_kk]^-1 B_k)`` when neuron k is removed and the others are refitted; both
    matrices are then updated by a Schur complement.

    Parameters
    ----------
    problem : LayerReconstruction
    ridge : float
        Relative to the mean diagonal of the Gram matrix.
    """
    count, block = problem.n_neurons, problem.block
    inverse = np.linalg.inv(problem.regularised_gram(ridge))
    inverse = 0.5 * (inverse + inverse.T)
    coef = inverse @ problem.cross
    alive = np.arange(count)
    order = np.empty(count, dtype=np.intp)
    growth = np.empty(count)
    for kept in range(count, 0, -1):
        costs = block_energies(inverse, coef, block)
        worst = int(np.argmin(costs))
        order[kept - 1], growth[kept - 1] = alive[worst], max(float(costs[worst]), 0.0)
        inverse, coef = drop_block(inverse, coef, worst, block)
        alive = np.delete(alive, worst)
    return Ranking(order, explained_to_errors(problem.energy, growth))
