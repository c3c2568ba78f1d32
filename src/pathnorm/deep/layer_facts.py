"""What is known about one neuron group: from its weights alone, and from the Gram matrix of what is read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathnorm.deep.graph import State
from pathnorm.deep.layer_grams import InputGram, layer_gram
from pathnorm.deep.layer_optimum import path_norm_range
from pathnorm.deep.lossless import input_rows, remove_redundant, silent_neurons
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neuron_norms
from pathnorm.deep.sequential import written_coef
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.report.audit import PredictedWidth, ReconstructionAudit
from pathnorm.solvers.elimination import backward_elimination
from pathnorm.solvers.ranking import Ranking, error_curve, rank_by_scores
from pathnorm.solvers.schur import block_energies

__all__ = ["WeightFacts", "measured_duplicates", "never_active", "reconstruction_facts", "weight_facts"]

Array = NDArray[np.float64]

BALANCE_BINS = 40
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ERRORS = (0.01, 0.05)

_RANK_TOLERANCE, _COARSE_TOLERANCE = 1e-4, 1e-2
_SAME_COSINE = 1.0 - 1e-6

# Deviations from the mean that are smaller, relative to the features, are rounding in single precision.
_CONSTANT = 1e-5

# Elimination updates a (P, P) matrix K times; beyond this many entries one inverse has to do.
_MOST_UPDATES = 3e9
# The lasso and the eigenvectors cost P^3 several times over.
_MOST_LASSO_ROWS = 2304


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the weights of a group say, for every input.

    ``silent`` (K,) marks neurons that are zero for every input or have no output weights.
    """

    silent: NDArray[np.bool_]
    duplicates: int
    balance: tuple[float, ...]
    balance_worst: float
    balance_counts: tuple[int, ...]
    inputs: Array
    masses: Array
    singular_values: Array

    @property
    def gini(self) -> float:
        """Gini coefficient of the masses."""
        total = float(self.masses.sum())
        if not total > 0.0:
            return 0.0
        count = self.masses.size
        rank = np.arange(1, count + 1)
        return float(((2.0 * rank - count - 1.0) @ np.sort(self.masses)) / (count * total))

    @property
    def directions(self) -> float:
        """Participation ratio of the singular values of the input weights."""
        squares = self.singular_values**2
        total = float(squares.sum())
        return total**2 / float((squares**2).sum()) if total > 0.0 else 0.0


def weight_facts(group: NeuronGroup, state: State, *, biases: bool) -> WeightFacts:
    """Return what holds for every input, from the weights in float64."""
    state = {key: value.double() for key, value in _tensors_of(group, state).items()}
    silent = silent_neurons(group, state).cpu().numpy()
    _, alive = remove_redundant([group], state)
    needed = 0 if silent.all() else int(alive[group.name].numel())
    gain = neuron_norms(group, state, biases=biases, batch_norm="gain")
    weighted = ((gain.inputs > 0.0) | (gain.outputs > 0.0)).cpu()
    residual = gain.imbalance.cpu()[weighted].numpy()
    quantiles = np.quantile(residual, QUANTILES) if residual.size else np.zeros(len(QUANTILES))
    folded = neuron_norms(group, state, biases=biases, batch_norm="folded")
    return WeightFacts(
        silent=silent,
        duplicates=group.width - int(silent.sum()) - needed,
        balance=tuple(float(value) for value in quantiles),
        balance_worst=float(np.abs(residual).max(initial=0.0)),
        balance_counts=tuple(int(number) for number in np.histogram(residual, BALANCE_BINS, (-1.0, 1.0))[0]),
        inputs=folded.inputs.cpu().numpy(),
        masses=folded.masses.cpu().numpy(),
        singular_values=_singular_values(input_rows(group, state)[:, :-1]),
    )


def never_active(group: NeuronGroup, sums: Sequence[InputGram]) -> NDArray[np.bool_]:
    """Return which features were zero on all data, at every position."""
    reach = torch.zeros(group.width, dtype=torch.float64)
    for consumer, total in zip(group.consumers, sums, strict=True):
        reach.index_add_(0, consumer.neurons.cpu(), total.reach.cpu())
    return (reach == 0.0).numpy()


def measured_duplicates(group: NeuronGroup, sums: Sequence[InputGram], active: NDArray[np.bool_]) -> int:
    """Return the number of active neurons whose feature is proportional to that of one before them, on the data."""
    gram = layer_gram(group, sums, centred=False)
    block = gram.shape[0] // group.width
    products = np.einsum("kbjb->kj", gram.reshape(group.width, block, group.width, block))
    keep = np.flatnonzero(active & (products.diagonal() > 0.0))
    norms = np.sqrt(products.diagonal()[keep])
    same = np.abs(products[np.ix_(keep, keep)]) >= _SAME_COSINE * np.outer(norms, norms)
    leaders = np.zeros(keep.size, dtype=bool)
    for index in range(keep.size):
        leaders[index] = not (same[index] & leaders).any()
    return int(keep.size - leaders.sum())


def reconstruction_facts(
    group: NeuronGroup, state: State, sums: Sequence[InputGram], facts: WeightFacts, active: NDArray[np.bool_]
) -> ReconstructionAudit:
    """Return what the data say about the layer's outputs, over its active neurons.

    Parameters
    ----------
    facts : WeightFacts
    active : ndarray of bool, shape (K,)
        The others add nothing to the outputs on these data.
    """
    problem, coef = _layer_problem(group, state, sums, cost=facts.inputs, active=active)
    few = min(sums, key=lambda total: float(total.count) / total.features.numel())
    rows, features = int(few.count), few.features.numel()
    small = problem.gram.shape[0] <= _MOST_LASSO_ROWS
    ranks, residual = _ranks(problem, coef, vectors=small)
    method, ranking = _ranking(problem)
    curve = np.sqrt(ranking.errors)
    found = path_norm_range(problem, coef, error=ERRORS[0]) if small else None
    total = float(facts.masses.sum())
    return ReconstructionAudit(
        rows=rows,
        features=features,
        enough_rows=rows > features,
        rank_features=ranks[0][0],
        rank_outputs=ranks[1][0],
        rank_tolerance=_RANK_TOLERANCE,
        coarse_rank_features=ranks[0][1],
        coarse_rank_outputs=ranks[1][1],
        coarse_tolerance=_COARSE_TOLERANCE,
        width_bound=ranks[0][0] * ranks[1][0],
        predicted=tuple(_predicted(problem, curve, error) for error in ERRORS),
        ranking=method,
        error_curve=tuple(float(value) for value in curve),
        target_error=ERRORS[0],
        path_norm_found=None if found is None else found.found,
        path_norm_lower_bound=None if found is None else found.lower,
        excess_found=None if found is None else _excess(found.found, total),
        excess_most=None if found is None else _excess(found.lower, total),
        subgradient_residual=residual,
        note=_note(problem, active, small=small),
    )


def _note(problem: LayerReconstruction, active: NDArray[np.bool_], *, small: bool) -> str:
    """Say what could not be computed, and why."""
    if active.any() and not problem.gram.any():
        return "its features are constant on these data, up to rounding"
    return "" if small else f"{problem.gram.shape[0]} features are more than {_MOST_LASSO_ROWS}: no path-norm bounds"


def _layer_problem(
    group: NeuronGroup, state: State, sums: Sequence[InputGram], *, cost: Array, active: NDArray[np.bool_]
) -> tuple[LayerReconstruction, Array]:
    """Return the layer's problem over its active neurons, and its own output weights over them."""
    gram = layer_gram(group, sums)
    block = gram.shape[0] // group.width
    rows = np.flatnonzero(np.repeat(active, block))
    coef = written_coef(group, state, state)[rows]
    gram = gram[np.ix_(rows, rows)]
    if float(np.trace(gram)) <= _CONSTANT**2 * sum(_square_size(total) for total in sums):
        gram = np.zeros_like(gram)
    cross = gram @ coef
    return LayerReconstruction(gram, cross, coef.T @ cross, block, cost[active]), coef


def _square_size(total: InputGram) -> float:
    return 0.0 if total.gram is None else float(total.gram.diagonal().sum())


def _predicted(problem: LayerReconstruction, curve: Array, error: float) -> PredictedWidth:
    reached = np.flatnonzero(curve <= error)
    width = int(reached[0]) if reached.size else problem.n_neurons
    # With all neurons the layer is itself, whatever a ridge does to the curve.
    return PredictedWidth(error=error, width=width, lower_bound=min(problem.width_lower_bound(error**2), width))


def _ranking(problem: LayerReconstruction) -> tuple[str, Ranking]:
    """Return how the neurons were ranked, and the ranking with the errors of the refits."""
    if problem.n_neurons == 0 or not problem.energy > 0.0:
        return "none", Ranking(np.arange(problem.n_neurons), np.zeros(problem.n_neurons + 1))
    if problem.n_neurons * float(problem.gram.shape[0]) ** 2 <= _MOST_UPDATES:
        order = backward_elimination(problem).order
        return "backward", Ranking(order, error_curve(problem, order))
    inverse = np.asarray(np.linalg.inv(problem.regularised_gram(1e-6)), dtype=np.float64)
    return "one-shot", rank_by_scores(problem, block_energies(inverse, inverse @ problem.cross, problem.block))


def _ranks(
    problem: LayerReconstruction, coef: Array, *, vectors: bool
) -> tuple[tuple[tuple[int, int], tuple[int, int]], float | None]:
    """Return the ranks of Phi and Psi at both tolerances, and the residual of the subgradient."""
    residual = None
    if vectors:
        values, basis = np.linalg.eigh(problem.gram)
        residual = _subgradient_residual(problem, coef, basis[:, _above(values, _RANK_TOLERANCE)])
    else:
        values = np.linalg.eigvalsh(problem.gram)
    outputs = np.linalg.eigvalsh(problem.outer)
    tolerances = (_RANK_TOLERANCE, _COARSE_TOLERANCE)
    fine, coarse = ((int(_above(values, tol).sum()), int(_above(outputs, tol).sum())) for tol in tolerances)
    return ((fine[0], coarse[0]), (fine[1], coarse[1])), residual


def _above(values: NDArray[np.floating[Any]], tolerance: float) -> NDArray[np.bool_]:
    """Return which eigenvalues belong to singular values above ``tolerance`` times the largest."""
    largest = max(float(values[-1]), 0.0) if values.size else 0.0
    return (values > largest * tolerance**2) & (values > 0.0)


def _subgradient_residual(problem: LayerReconstruction, coef: Array, basis: Array) -> float:
    """Return how much of ``c_k v_k / ||v_k||`` lies outside of the row space of Phi, spanned by ``basis``."""
    blocks = coef.reshape(problem.n_neurons, problem.block, coef.shape[1])
    norms = np.sqrt(np.square(blocks).sum(axis=(1, 2)))
    scale = problem.cost / np.where(norms > 0.0, norms, 1.0)
    direction = (blocks * scale[:, None, None]).reshape(coef.shape)
    total = float(np.linalg.norm(direction))
    if not total > 0.0:
        return 0.0
    return float(np.linalg.norm(direction - basis @ (basis.T @ direction))) / total


def _excess(needed: float, current: float) -> float:
    return float(min(max(1.0 - needed / current, 0.0), 1.0)) if current > 0.0 else 0.0


def _singular_values(rows: torch.Tensor) -> Array:
    """Return the singular values of a matrix, largest first, from the smaller of its Gram matrices."""
    small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(small).clamp_min(0.0).sqrt().flip(0)
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def _tensors_of(group: NeuronGroup, state: State) -> dict[str, torch.Tensor]:
    """Return the entries of the state that belong to a group."""
    keys = {group.producer.weight, *(consumer.layer.weight for consumer in group.consumers)}
    keys |= {key for key in (group.producer.bias, *(group.norm.keys if group.norm else ())) if key is not None}
    for consumer in group.consumers:
        keys |= set(consumer.site.norm.keys if consumer.site.norm else ())
    return {key: state[key] for key in keys}
