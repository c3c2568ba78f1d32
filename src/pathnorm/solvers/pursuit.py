"""Forward selection: simultaneous orthogonal matching pursuit over blocks of features."""

from __future__ import annotations

import numpy as np

from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.ranking import Ranking, explained_to_errors
from pathnorm.solvers.schur import Complements

__all__ = ["forward_selection"]


def forward_selection(problem: LayerReconstruction, *, ridge: float = 1e-6) -> Ranking:
    """Rank all neurons by adding, one after the other, the one that explains most.

    With the features and targets orthogonalised against the chosen neurons, ``S`` the Gram and
    ``R`` the cross matrix, neuron k explains ``tr(R_k' S_kk^-1 R_k)``: the exact decrease of the
    least-squares error (order-recursive pursuit), not only its gradient. All outputs share the
    choice (Tropp, Gilbert, Strauss 2006).

    Parameters
    ----------
    problem : LayerReconstruction
    ridge : float
        Relative to the mean diagonal of the Gram matrix.
    """
    count, block = problem.n_neurons, problem.block
    waiting = Complements(problem.regularised_gram(ridge), problem.cross, block)
    order = np.empty(count, dtype=np.intp)
    gains = np.empty(count)
    for step in range(count):
        explained = waiting.energies()
        best = int(np.nanargmax(explained))
        order[step], gains[step] = best, max(float(explained[best]), 0.0)
        waiting.drop(best)
    return Ranking(order, explained_to_errors(problem.energy, gains))
