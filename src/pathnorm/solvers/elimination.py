"""Block backward elimination: remove the neuron whose loss can best be made up by the others."""

from __future__ import annotations

import numpy as np

from pathnorm.problems._arrays import inverse_psd
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.ranking import Ranking, explained_to_errors
from pathnorm.solvers.schur import Complements

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
    gram = problem.regularised_gram(ridge)
    inverse = inverse_psd(gram)
    if inverse is None:  # by rounding, where the ridge is tiny
        inverse = np.linalg.inv(gram)
        inverse = 0.5 * (inverse + inverse.T)
    left = Complements(inverse, inverse @ problem.cross, block)
    order = np.empty(count, dtype=np.intp)
    growth = np.empty(count)
    for kept in range(count, 0, -1):
        costs = left.energies()
        worst = int(np.nanargmin(costs))
        order[kept - 1], growth[kept - 1] = worst, max(float(costs[worst]), 0.0)
        left.drop(worst)
    return Ranking(order, explained_to_errors(problem.energy, growth))
