"""The dual norm ``M(r) = max ||h(w, b)||`` over all neurons, by the strongest method that the budget allows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.problems.certificate import Certificate, Method
from pathnorm.problems.losses import Loss
from pathnorm.problems.variation import Affine, RBV2Problem
from pathnorm.representer.branch_and_bound import branch_and_bound, cheap_bound
from pathnorm.representer.exact_search import Peaks, exact_cost, exact_search, exact_search_structured
from pathnorm.representer.local_search import LocalSearch
from pathnorm.spaces import ShallowNet

__all__ = ["CERTIFY", "Certify", "DualNorm", "certified", "certify", "certify_network", "dual_norm"]

Matrix = NDArray[np.float64]
Certify = Literal["auto", "exact", "search"]
CERTIFY = ("auto", "exact", "search")
_MOST_EXACT, _MOST_BOUNDED = 3, 5  # dimensions
_SHORT = 1.0  # seconds
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class DualNorm:
    """``lower <= M <= upper``, and where M is large.

    Attributes
    ----------
    lower : float
        Attained by a neuron that was found.
    upper : float
        Proved; from a search alone a loose bound.
    method : {"exact", "branch and bound", "search"}
    directions : array (C, d)
        Unit input weights of neurons that are large, to continue from.
    """

    lower: float
    upper: float
    method: Method
    directions: Matrix


def dual_norm(
    problem: RBV2Problem,
    R: Matrix,
    *,
    level: Certify = "auto",
    seconds: float = 30.0,
    tol: float = 1e-6,
    found: float = 0.0,
) -> DualNorm:
    """Bracket the dual norm of pulls R (N, D) whose columns sum to zero.

    The samples are expressed in their principal directions first: what counts as d is the dimension they span. Up to
    three, and for neurons that see at most two features, every neuron is examined; up to five branch and bound
    brackets M; beyond, a search finds large neurons and nothing is proved.

    Parameters
    ----------
    problem : RBV2Problem
        Its samples and its neurons count, not its targets.
    R : array (N, D)
    level : {"auto", "exact", "search"}
        ``"auto"`` takes the strongest method that is likely to end in ``seconds``, ``"exact"`` examines every neuron
        however long it takes, ``"search"`` does not try to prove anything.
    seconds : float
    tol : float
        Relative distance of the bounds at which branch and bound may stop.
    found : float
        Height of a neuron that is known.

    Raises
    ------
    ValueError
        If ``level="exact"`` and the samples span more than three dimensions.
    """
    if level not in CERTIFY:
        raise ValueError(f"certify must be one of {', '.join(CERTIFY)}; got {level!r}.")
    if not R.any():
        return DualNorm(found, found, "exact", np.zeros((0, problem.n_features)))
    X, basis = _reduced(problem)
    dimension = X.shape[1]
    if dimension == 0:
        return DualNorm(found, found, "exact", np.zeros((0, problem.n_features)))
    started = time.perf_counter()
    if level != "search":
        peaks = _exact(problem, X, R, level, seconds)
        if peaks is not None:
            value = max(peaks.value, found)
            return DualNorm(value, value * (1.0 + _ROUNDING), "exact", peaks.W @ basis)
    if level == "exact":
        raise ValueError(
            f'certify="exact" examines every neuron in up to {_MOST_EXACT} dimensions or with interactions of 1 or 2; '
            f'the samples span {dimension}. Use certify="auto", or interactions=2.'
        )
    if level == "auto" and dimension <= _MOST_BOUNDED and not problem.interactions:
        left = seconds - (time.perf_counter() - started)
        bracket = branch_and_bound(X, R, incumbent=found, tol=tol, seconds=max(left, 0.1))
        if bracket.complete or bracket.upper <= 1.5 * bracket.lower:
            return DualNorm(bracket.lower, bracket.upper, "branch and bound", bracket.w[None] @ basis)
        return DualNorm(bracket.lower, bracket.upper, "search", bracket.w[None] @ basis)
    return DualNorm(found, max(found, cheap_bound(X, R)), "search", np.zeros((0, problem.n_features)))


def _reduced(problem: RBV2Problem) -> tuple[Matrix, Matrix]:
    """Samples in their principal directions (N, rank), and these directions (rank, d).

    A rotation changes no norm, and a direction that no sample leaves adds nothing to a neuron but length. Neurons that
    see few features know nothing of rotations; there the features stay.
    """
    if problem.interactions or problem.n_features == 1:
        return problem.X, np.eye(problem.n_features)
    _, singular, right = np.linalg.svd(problem.X, full_matrices=False)
    rank = int((singular > 1e-12 * max(float(singular[0]), 1e-300)).sum())
    if rank == problem.n_features:
        return problem.X, np.eye(problem.n_features)
    return problem.X @ right[:rank].T, right[:rank]


def _exact(problem: RBV2Problem, X: Matrix, R: Matrix, level: Certify, seconds: float) -> Peaks | None:
    """All neurons, or None if there are too many dimensions or too little time."""
    deadline = None if level == "exact" else time.perf_counter() + 1.5 * seconds
    samples, dimension = X.shape
    if problem.interactions:
        order = problem.interactions
        views = dimension if order == 1 else dimension * (dimension - 1) // 2
        if level != "exact" and views * exact_cost(samples, order) > seconds:
            return None
        return exact_search_structured(X, R, order=order, deadline=deadline)
    # In three dimensions branch and bound is faster, unless the samples are few.
    longest = seconds if dimension < _MOST_EXACT else min(seconds, _SHORT)
    if dimension > _MOST_EXACT or (level != "exact" and exact_cost(samples, dimension) > longest):
        return None
    return exact_search(X, R, deadline=deadline)


def certified(problem: RBV2Problem, net: ShallowNet, R: Matrix, norm: DualNorm) -> Certificate:
    """Certificate of a network from feasible pulls and what is known of their dual norm."""
    proof = problem.certify(net, R, norm.upper)
    violation = norm.lower / problem.lam - 1.0
    if norm.method != "search":
        return Certificate(
            primal=proof.primal,
            dual=proof.dual,
            scope="function_space",
            method=norm.method,
            violation=violation,
            proved=proof.gap,
        )
    dual = problem.certify(net, R, norm.lower).dual
    return Certificate(
        primal=proof.primal, dual=dual, scope="dictionary", method="search", violation=violation, proved=proof.gap
    )


def certify(
    net: ShallowNet,
    X: ArrayLike,
    y: ArrayLike,
    lam: float,
    *,
    loss: str | Loss = "squared",
    sample_weight: ArrayLike | None = None,
    affine: Affine = "free",
    ridge: float | None = None,
    interactions: int | None = None,
    level: Certify = "auto",
    seconds: float = 30.0,
    seed: int = 0,
) -> Certificate:
    """Certificate of a shallow network, wherever it comes from, for the objective of :class:`RBV2Problem`.

    Nothing is asked of the network: its pulls, after its affine part is solved for, are made feasible and give a lower
    bound of the smallest value ``sum_n s_n loss(y_n, f(x_n)) + lam R-TV²(f)`` that any function can have.

    Parameters
    ----------
    net : ShallowNet
        For a torch module, ``ShallowNet.from_torch(module)``.
    X : array (N, d)
        As the network takes them: the path norm, and with it ``lam``, refers to these units.
    y : array (N,) or (N, D)
    lam : float
        Positive.
    loss, sample_weight, affine, ridge, interactions
        See :class:`~pathnorm.problems.RBV2Problem`.
    level, seconds
        How neurons are looked at, see :func:`dual_norm`.
    seed : int
        Of the search.

    Raises
    ------
    ValueError
        If the network is not a member: ``affine="none"`` with a slope, or neurons that see more than ``interactions``
        features.

    Returns
    -------
    Certificate
        Over the function space where every neuron was bounded; ``sentence`` says it in words.

    Examples
    --------
    >>> import numpy as np
    >>> from pathnorm import ShallowNet, certify
    >>> X = np.linspace(-1.0, 1.0, 21)[:, None]
    >>> net = ShallowNet([[1.0]], [0.0], [[1.9]], [[-0.95]], [0.02])
    >>> certify(net, X, np.abs(X[:, 0]), lam=0.1).scope
    'function_space'
    """
    problem = RBV2Problem.from_samples(
        X, y, lam=lam, loss=loss, weights=sample_weight, affine=affine, ridge=ridge, interactions=interactions
    )
    if not np.isfinite(problem.value(net)):
        raise ValueError(
            "the network must be in the class over which it is certified; its objective is infinite or NaN. With "
            f'affine={affine!r} and interactions={interactions!r}: affine="none" needs A = 0, interactions need '
            "neurons that see so few features."
        )
    return certify_network(problem, net, level=level, seconds=seconds, seed=seed)


def _highest(problem: RBV2Problem, net: ShallowNet, R: Matrix) -> float:
    """Largest ``||h||`` of the neurons of a network, whose bounds no search may undercut."""
    inner = problem.centred(net)
    norms = np.linalg.norm(inner.W, axis=1)
    kept = norms > 0.0
    W, b = inner.W[kept] / norms[kept, None], inner.b[kept] / norms[kept]
    h = np.maximum(problem.X @ W.T - b, 0.0).T @ R
    return float(np.linalg.norm(h, axis=1).max(initial=0.0))


def certify_network(
    problem: RBV2Problem,
    net: ShallowNet,
    *,
    level: Certify = "auto",
    seconds: float = 30.0,
    seed: int = 0,
    R: Matrix | None = None,
) -> Certificate:
    """Certificate of a network for a problem; feasible pulls R that are known save making them."""
    R = problem.dual_point(net) if R is None else R
    search = LocalSearch(problem.X, interactions=problem.interactions, seed=seed)
    found = search(R, scans=1024, climbs=96)
    height = max(float(found.heights.max(initial=0.0)), _highest(problem, net, R))
    norm = dual_norm(problem, R, level=level, seconds=seconds, found=height)
    return certified(problem, net, R, norm)
