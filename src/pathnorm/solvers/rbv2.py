"""Certified solutions over R-BV²: conic column generation with fully corrective steps and sliding neurons.

A round looks for neurons where ``||h||`` exceeds ``lam`` (local maxima of the dual constraint), gives them weight by
solving the multitask lasso over all neurons at hand, merges neurons that share a cell, and lets all of them slide. Near
the solution the neurons are first carried to the local maxima of ``||h||`` next to them, whose hinges are those of the
solution; Newton's method then has nothing left to cross. The objective never rises, and the loop ends on the gap.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import CertificateWarning
from pathnorm.problems.losses import Pinball, SmoothedPinball
from pathnorm.problems.variation import RBV2Problem
from pathnorm.representer.dual_norm import Certify, DualNorm, certified, dual_norm
from pathnorm.representer.local_search import Found, LocalSearch
from pathnorm.solvers._atoms import Atoms, Iterate, objective, snapped
from pathnorm.solvers._corrective import corrected
from pathnorm.solvers._multipliers import MULTIPLIER_STEPS, affine_pinball, sharpnesses
from pathnorm.solvers._rounds import Pauses, sorted_out
from pathnorm.solvers._sliding import merged, slid
from pathnorm.solvers._threads import one_blas_thread
from pathnorm.solvers._wide import drifted, wide_start
from pathnorm.solvers.solution import Solution, Status
from pathnorm.spaces import ShallowNet

__all__ = ["rbv2", "rbv2_lam_max"]

Matrix = NDArray[np.float64]

_EARLY = 0.1  # gap above which neurons in many directions drift only
_NEAR = 1e-2  # gap below which neurons are carried there
_PRECISE = 1e-3  # gap of the lasso of a round, over the gap before it
_COARSE = 1e-9  # its largest: a loose one keeps many neurons where few would do
_LITTLE = 0.02  # share of the gain of a round that a step must reach to be followed by another
_WORSE = 3.0  # gaps by which carried neurons may raise the objective before the others adjust
_PATIENCE = 6  # rounds without progress until giving up
_RIDGE_STEPS = 8
_ONE_THREAD_SAMPLES = 20_000
_MOST_ENTRIES = 60_000_000  # of the matrix of a Newton step; beyond, neurons only drift
_WIDE_ENTRIES = 2000  # samples times features beyond which a wide network is trained first


def rbv2(
    problem: RBV2Problem,
    *,
    start: ShallowNet | None = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    max_neurons: int | None = None,
    level: Certify = "auto",
    seconds: float = 30.0,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve a :class:`~pathnorm.problems.RBV2Problem` to a relative gap of ``tol``.

    Parameters
    ----------
    problem : RBV2Problem
        What is minimised.
    start : ShallowNet, optional
        A network to start from, for example the solution of a larger ``lam``.
    tol : float
        Largest relative gap to accept. Where nothing can be certified, the gap over the neurons that were found.
    max_iter : int
        Largest number of rounds.
    max_neurons : int, optional
        If the solution has more, the lightest are taken out and the others adjusted; the certificate then shows what
        that costs.
    level : {"auto", "exact", "search"}
        How the answer is certified, see :func:`pathnorm.representer.dual_norm`.
    seconds : float
        For the certificate; the rounds are not limited by it.
    seed : int
        Of the search.
    progress : callable, optional
        Called with the round and the gap over the neurons that were found.

    Returns
    -------
    Solution
        ``coef`` is a :class:`~pathnorm.spaces.ShallowNet` in the coordinates of the samples as they came.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    if not tol > 0.0 or max_iter < 0:
        raise ValueError(f"tol must be > 0 and max_iter >= 0; got tol={tol!r} and max_iter={max_iter!r}.")
    if max_neurons is not None and max_neurons < 0:
        raise ValueError(f"max_neurons must be >= 0 or None; got {max_neurons!r}.")
    run = _Run(problem, tol, max_iter, level, seconds, seed, progress)
    with one_blas_thread() if problem.n_samples <= _ONE_THREAD_SAMPLES else nullcontext():
        return run.solve(start, max_neurons)


def rbv2_lam_max(problem: RBV2Problem, *, seconds: float = 30.0, seed: int = 0) -> float:
    """Smallest ``lam`` whose solution is affine: the dual norm of the pulls of the best affine function.

    Exact where every neuron can be examined, otherwise the largest that a search found.
    """
    largest = _affine_norm(problem, seconds, seed)
    if problem.affine != "ridge" or not problem.ridge_follows:
        return largest
    # The ridge moves with lam: from the side where the solution is affine, down to where lam is the dual norm.
    largest = _affine_norm(replace(problem, affine="none"), seconds, seed)
    for _ in range(_RIDGE_STEPS):
        smaller = _affine_norm(problem.with_lam(largest), seconds, seed) if largest > 0.0 else 0.0
        if smaller >= largest * (1.0 - 1e-3):
            break
        largest = smaller
    return largest


def _affine_norm(problem: RBV2Problem, seconds: float, seed: int) -> float:
    """Dual norm of the pulls of the best affine function."""
    if isinstance(problem.loss, Pinball):
        R = affine_pinball(problem)[1]
    else:
        R = problem.repaired(problem.pulls(problem.fit_affine().outputs))
    if _negligible(problem, R):
        return 0.0
    found = LocalSearch(problem.X, interactions=problem.interactions, seed=seed)(R, scans=512, climbs=32)
    height = float(found.heights.max(initial=0.0))
    norm = dual_norm(problem, R, seconds=min(seconds, 5.0), found=height)
    return max(norm.lower, height)


def _negligible(problem: RBV2Problem, R: Matrix) -> bool:
    """Whether pulls are zero up to rounding: the affine part interpolates."""
    return bool(np.abs(R).max(initial=0.0) <= 1e-12 * max(float(np.abs(problem.Y).max()), 1e-300))


@dataclass(slots=True)
class _End:
    """Why the rounds ended, with the pulls at the answer and their dual norm if it was bounded."""

    status: Status
    rounds: int
    R: Matrix | None = None
    norm: DualNorm | None = None


@dataclass(slots=True)
class _Run:
    """The state of one solve."""

    problem: RBV2Problem
    tol: float
    max_iter: int
    level: Certify
    seconds: float
    seed: int
    progress: Callable[[int, float], None] | None
    drifting: Pauses = field(default_factory=Pauses)
    sliding: Pauses = field(default_factory=Pauses)

    @property
    def drift(self) -> bool:
        """Whether there are so many directions that neurons had better cross cells than follow faces."""
        return self.problem.n_features > 3 and not self.problem.interactions

    def solve(self, start: ShallowNet | None, max_neurons: int | None) -> Solution:
        if isinstance(self.problem.loss, Pinball):
            return self._pinball(self.problem.loss, start, max_neurons)
        at, end = self._rounds(self._first(start))
        if max_neurons is not None and len(at.atoms) > max_neurons:
            at = pruned(self.problem, at, max_neurons)
            end = _End(Status.TOO_FEW_NEURONS, end.rounds)
        return self._finished(self.problem, at, end)

    def _pinball(self, loss: Pinball, start: ShallowNet | None, max_neurons: int | None) -> Solution:
        """The method of multipliers: kinks are rounded off around shifted targets, and pulls shift them further."""
        exact, rounds = self.problem, 0
        fit, R = affine_pinball(exact)
        if float(self._search(0)(R, scans=512, climbs=32).heights.max(initial=0.0)) <= exact.lam:
            at = Iterate.of(exact, Atoms.none(exact), fit.A, fit.c)
            return self._finished(exact, at, _End(Status.CONVERGED, 0), R)
        G, tol = np.zeros_like(exact.Y), self.tol
        smooth = SmoothedPinball(loss.low, loss.high, next(sharpnesses(exact, 1)))
        self.problem, self.tol = exact.with_loss(smooth), 0.3 * tol
        at = self._first(start)
        for sharpness in sharpnesses(exact, MULTIPLIER_STEPS):
            smooth = SmoothedPinball(loss.low, loss.high, sharpness)
            self.problem = exact.with_loss(smooth, exact.Y + G / sharpness)
            at = Iterate.of(self.problem, at.atoms, at.A, at.c)
            at, end = self._rounds(at)
            rounds += end.rounds
            G = smooth.pull(self.problem.Y, at.outputs)
            primal = objective(exact, at.outputs, at.atoms.path_norm(), at.A)
            upper = exact.lam if end.norm is None else max(end.norm.lower, exact.lam)
            R = exact.repaired(exact.weights[:, None] * G) if end.R is None else end.R
            if primal - exact.dual_bound(R, upper) <= tol * abs(primal):
                break
        self.problem, self.tol = exact, tol
        if max_neurons is not None and len(at.atoms) > max_neurons:
            smoothed = exact.with_loss(smooth, exact.Y + G / sharpness)
            at, end = pruned(smoothed, at, max_neurons), _End(Status.TOO_FEW_NEURONS, end.rounds)
        end.rounds = rounds
        return self._finished(exact, at, end, R)

    # ------------------------------------------------------------------------- start

    def _first(self, start: ShallowNet | None) -> Iterate:
        problem = self.problem
        fit = problem.fit_affine()
        at = Iterate.of(problem, Atoms.none(problem), fit.A, fit.c)
        if start is not None:
            return _from_network(problem, start, at)
        if self.drift and problem.X.size > _WIDE_ENTRIES:
            R = problem.repaired(problem.pulls(at.outputs))
            if float(self._search(0)(R).heights.max(initial=0.0)) > problem.lam:
                at = wide_start(problem, at, seed=self.seed)
        return at

    def _search(self, salt: int) -> LocalSearch:
        return LocalSearch(self.problem.X, interactions=self.problem.interactions, seed=self.seed + salt)

    # ------------------------------------------------------------------------ rounds

    def _rounds(self, at: Iterate) -> tuple[Iterate, _End]:
        """Rounds until the gap is small, and how they ended."""
        problem, search = self.problem, self._search(1)
        best, idle, stuck = np.inf, 0, 0
        deadline = time.perf_counter() + self.seconds
        for count in range(self.max_iter + 1):
            R = problem.repaired(problem.pulls(at.outputs))
            effort = 1 if idle == 0 else 4
            found = search(R, starts=at.atoms.W, scans=256 * effort, climbs=32 * effort)
            height = max(float(found.heights.max(initial=0.0)), at.highest(problem, R))
            gap = self._gap(at, R, height)
            if self.progress is not None:
                self.progress(count, gap)
            norm = None
            if abs(at.value) <= problem.rounding:
                R = np.zeros_like(R)
            if gap <= 0.5 * self.tol or not R.any():
                # The search sees nothing more; whoever knows better says so and names neurons.
                norm = self._bound(R, height, at, max(deadline - time.perf_counter(), 0.1 * self.seconds))
                again = norm.method == "search" and effort == 1
                if again:
                    # Few directions were drawn: before these count as all there are, more of them.
                    found = search(R, starts=at.atoms.W, scans=1024, climbs=128)
                    norm = replace(norm, lower=max(norm.lower, float(found.heights.max(initial=0.0))))
                gap = self._gap(at, R, norm.upper if norm.method != "search" else norm.lower)
                ends = norm.method == "search" and not again
                if gap <= self.tol or ends or norm.lower <= problem.lam * (1.0 + 1e-12):
                    return at, _End(Status.CONVERGED if gap <= self.tol else Status.UNFINISHED, count, R, norm)
                if not again:
                    found = search(R, starts=np.concatenate((at.atoms.W, norm.directions)), scans=256, climbs=32)
            if count == self.max_iter:
                return at, _End(Status.MAX_ITER, count, R, norm)
            new = self._round(at, found, gap)
            idle = 0 if gap < 0.9 * best else idle + 1
            best = min(best, gap)
            stuck = stuck + 1 if at.value - new.value <= 1e-3 * self.tol * abs(at.value) else 0
            if stuck:
                self.drifting.left = self.sliding.left = 0
            if stuck > _PATIENCE:
                return new, _End(Status.UNFINISHED, count)
            at = new
        raise AssertionError  # pragma: no cover - the loop returns

    def _round(self, at: Iterate, found: Found, gap: float) -> Iterate:
        problem, K = self.problem, len(at.atoms)
        carried, close, fresh, again = sorted_out(problem, at.atoms, found)
        if gap < _NEAR and close.any():
            joined = carried.join(at.atoms.select(~close)).join(fresh)
            moved = Iterate.of(problem, joined, at.A, at.c)
            if moved.value <= at.value + _WORSE * gap * abs(at.value):
                new = self._improved(moved, gap, at.value)
                if new.value < at.value:
                    return new
        added = at.atoms.join(fresh).join(again)
        if len(added) == K:
            return self._improved(at, gap, at.value)
        return self._improved(Iterate(added, at.A, at.c, at.outputs, at.value), gap, at.value)

    def _improved(self, at: Iterate, gap: float, before: float) -> Iterate:
        """The best weights for these neurons, and then these neurons moved, where that pays; ``before`` the round."""
        problem = self.problem
        precise = float(np.clip(_PRECISE * gap, 1e-10, _COARSE))
        at = merged(problem, corrected(problem, at, tol=precise))
        large = self._newton_entries(at.atoms) > _MOST_ENTRIES
        # What a step must gain beside the new neurons of this round to be taken in the next one as well.
        least = _LITTLE * max(before - at.value, 0.0)
        if (large or (self.drift and gap > 0.1 * _NEAR)) and self.drifting.due():
            came = at.value
            at = drifted(problem, at, tol=precise)
            self.drifting.took(came - at.value > least)
        # As long as far higher neurons are to be found, those at hand are not worth a Newton step in all directions.
        early = self.drift and gap > _EARLY and least > 0.0
        if large or early or not self.sliding.due():
            return at
        # Once steps gain little beside what this round has gained, the rest comes from other neurons.
        came, least = at.value, _LITTLE * max(before - at.value, 0.0)
        at = slid(problem, at, max_steps=15, least=least)
        self.sliding.took(came - at.value > least)
        return at

    def _newton_entries(self, atoms: Atoms) -> int:
        """Numbers that a Newton step of sliding holds."""
        problem = self.problem
        seen = np.count_nonzero(atoms.W, axis=1) - atoms.size + 1
        unknowns = int(seen.sum()) + (len(atoms) + problem.n_features + 1) * problem.n_outputs
        return problem.n_samples * problem.n_outputs * unknowns

    # ------------------------------------------------------------------- certificate

    def _gap(self, at: Iterate, R: Matrix, upper: float) -> float:
        if abs(at.value) <= self.problem.rounding:
            return 0.0
        dual = self.problem.dual_bound(R, max(upper, 1e-300))
        return (at.value - dual) / max(abs(at.value), float(np.finfo(np.float64).tiny))

    def _bound(self, R: Matrix, height: float, at: Iterate, seconds: float) -> DualNorm:
        # A dual norm that is off by eps costs eps times the share of the norm in the objective.
        share = self.problem.lam * at.atoms.path_norm() / max(abs(at.value), 1e-300)
        tol = 0.5 * self.tol / max(share, 1e-3)
        return dual_norm(self.problem, R, level=self.level, seconds=seconds, tol=tol, found=height)

    def _finished(self, problem: RBV2Problem, at: Iterate, end: _End, R: Matrix | None = None) -> Solution:
        """The answer with a certificate for the pulls that belong to it."""
        if not problem.loss.separable:
            # Logits of all classes may move together; among equals, those that sum to zero.
            at = replace(at, A=at.A - at.A.mean(axis=1, keepdims=True), c=at.c - at.c.mean())
        net = at.network(problem)
        norm = end.norm if end.R is not None else None
        R = end.R if end.R is not None else R
        if norm is None:
            R = problem.dual_point(net) if R is None else R
            search = self._search(2)
            height = float(search(R, starts=at.atoms.W, scans=1024, climbs=96).heights.max(initial=0.0))
            height = max(height, at.highest(problem, R))
            norm = self._bound(R, height, at, self.seconds)
        assert R is not None
        certificate = certified(problem, net, R, norm)
        status = Status.CONVERGED
        if certificate.gap > self.tol:
            status = Status.UNFINISHED if end.status is Status.CONVERGED else end.status
            message = f"{status.value} Relative gap {certificate.gap:.2e}, tol {self.tol:.2e}, {end.rounds} rounds."
            warnings.warn(message, CertificateWarning, stacklevel=5)
        return Solution(problem, net, certificate, status, end.rounds)


def _from_network(problem: RBV2Problem, net: ShallowNet, affine: Iterate) -> Iterate:
    """Start from a network: hinges go to the nearest sample, then the output weights are solved for."""
    inner = problem.centred(net)
    norms = np.linalg.norm(inner.W, axis=1)
    seen = np.count_nonzero(inner.W, axis=1)
    kept = (norms > 0.0) & (np.linalg.norm(inner.V, axis=1) > 0.0)
    if problem.interactions:
        kept &= seen <= problem.interactions
    if not kept.any():
        return affine
    W, b, V = inner.W[kept] / norms[kept, None], inner.b[kept] / norms[kept], inner.V[kept] * norms[kept, None]
    return corrected(problem, Iterate.of(problem, snapped(problem, W, b, V), affine.A, affine.c))


def pruned(problem: RBV2Problem, at: Iterate, most: int) -> Iterate:
    """At most that many neurons: the lightest leave, a fifth of the surplus at a time, and the others adjust."""
    while len(at.atoms) > most:
        surplus = len(at.atoms) - most
        order = np.argsort(np.linalg.norm(at.atoms.V, axis=1))
        kept = at.atoms.select(np.sort(order[max(1, surplus // 5) :]))
        fit = Iterate.of(problem, kept, at.A, at.c)
        at = slid(problem, merged(problem, corrected(problem, fit)), max_steps=6)
    return at
