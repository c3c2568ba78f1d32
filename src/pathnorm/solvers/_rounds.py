"""What a round is made of: the neurons that a search found, sorted out, and which steps to leave out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems.variation import RBV2Problem
from pathnorm.representer.local_search import Found
from pathnorm.solvers._atoms import Atoms

__all__ = ["Pauses", "sorted_out"]

_CLOSE = 0.99  # cosine beyond which a local maximum next to a neuron is taken for its place
_WORTH = 0.1  # share of the largest violation from which a local maximum becomes a neuron
_LONGEST = 15  # rounds for which steps that gain nothing are left out


@dataclass(slots=True)
class Pauses:
    """A kind of step that is left out for some rounds, ever more of them, as long as it gains nothing."""

    left: int = 0
    length: int = 0

    def due(self) -> bool:
        """Whether to take it."""
        self.left -= 1
        return self.left < 0

    def took(self, useful: bool) -> None:
        """What came of it."""
        self.length = 0 if useful else min(2 * self.length + 1, _LONGEST)
        self.left = self.length


def sorted_out(problem: RBV2Problem, atoms: Atoms, found: Found) -> tuple[Atoms, NDArray[np.bool_], Atoms, Atoms]:
    """What a search found, by what can be done with it.

    Returns neurons carried to the local maximum next to them, which neurons these are, local maxima beyond ``lam``
    that are new, and those of the first kind once more, without weight, for the case that carrying does not help.
    """
    K, heights = len(atoms), found.heights
    cosine = np.einsum("kd,kd->k", found.W[:K], atoms.W)
    close = (cosine > _CLOSE) & (np.einsum("kd,kd->k", found.h[:K], atoms.V) > 0.0)
    beyond = heights > problem.lam * (1.0 + 1e-12)
    # Those barely beyond mostly sit beside neurons at hand, and go away as these adjust to the higher ones.
    beyond &= heights - problem.lam >= _WORTH * (heights.max(initial=0.0) - problem.lam)
    places: dict[tuple[bytes, bytes], list[int]] = {}
    fresh, again = [], []
    for k in np.argsort(-heights):
        touched = np.sort(found.stuck[k, : found.size[k]])
        sign = 1.0 if problem.affine != "free" or found.W[k, np.argmax(np.abs(found.W[k]))] > 0.0 else -1.0
        key = (touched.tobytes(), (np.round(sign * found.W[k], 8) + 0.0).tobytes())
        seen = key in places
        members = places.setdefault(key, [])
        if k < K and close[k]:
            members.append(int(k))
            if beyond[k] and not seen:
                again.append(k)
        elif beyond[k] and not seen:
            fresh.append(k)
    groups = [members for members in places.values() if members]
    first = np.array([members[0] for members in groups], dtype=np.int64)
    # Neurons that meet in one place become one.
    V = np.array([atoms.V[members].sum(axis=0) for members in groups]).reshape(len(groups), problem.n_outputs)
    kept = np.linalg.norm(V, axis=1) > 0.0
    carried = Atoms(found.W[first], found.stuck[first], found.size[first], V).select(kept)
    return carried, close, _weightless(problem, found, fresh), _weightless(problem, found, again)


def _weightless(problem: RBV2Problem, found: Found, chosen: list[int]) -> Atoms:
    rows = np.array(chosen, dtype=np.int64)
    return Atoms(found.W[rows], found.stuck[rows], found.size[rows], np.zeros((rows.size, problem.n_outputs)))
