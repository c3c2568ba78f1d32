"""Certified solutions of the multitask lasso by proximal point steps with Newton inside.

Every outer step adds ``sum_k ||V_k - B_k||^2 / (2 sigma_k)`` around the last answer B, which makes a problem that
semismooth Newton solves in a few exact steps (:mod:`pathnorm.solvers._proximal_step`). The outer steps converge
superlinearly as sigma grows; ill-conditioned, singular and duplicated features are no special case.
[LST18] Li, Sun, Toh, "A highly efficient semismooth Newton augmented Lagrangian method", 2018.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from pathnorm.errors import CertificateWarning
from pathnorm.problems._arrays import Array, float64_copy, is_torch, namespace
from pathnorm.problems.multitask_lasso import MultitaskLasso
from pathnorm.solvers._proximal_step import Point, ProximalStep
from pathnorm.solvers._threads import one_blas_thread
from pathnorm.solvers.solution import Solution, Status

__all__ = ["multitask_lasso", "multitask_lasso_path"]

# Relative to the curvature of each neuron, so none of these depends on the units of the data.
_SIGMA_START, _SIGMA_GROWTH, _SIGMA_MAX = 30.0, 10.0, 1e8
_MAX_INNER = 10  # Newton steps per proximal step: a safeguard, two to eight are usual
_ONE_THREAD_ROWS = 1024
_PATIENCE = 6  # proximal steps without progress, at no larger sigma than before, until giving up


def multitask_lasso(
    problem: MultitaskLasso, *, start: Array | None = None, tol: float = 1e-6, max_iter: int = 300
) -> Solution:
    """Solve a :class:`~pathnorm.problems.MultitaskLasso` to a certified relative gap of ``tol``.

    Parameters
    ----------
    problem : MultitaskLasso
        What is minimised.
    start : array (P, D), optional
        Where to start, for example the solution of a larger ``lam``; it is not written to.
    tol : float
        Largest relative gap to accept.
    max_iter : int
        Largest number of Newton steps.

    Returns
    -------
    Solution
        Neurons that are not needed have exactly zero rows in ``coef``.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    if not tol > 0.0 or max_iter < 0:
        raise ValueError(
            f"tol must be > 0 and max_iter >= 0; got tol={tol!r} and max_iter={max_iter!r}. "
            "A tol of 1e-8 is within reach of well-scaled float64 data."
        )
    coef, steps, status = 0.0 * problem.cross, 0, Status.CONVERGED
    if problem.lam < problem.lam_max:
        if start is not None:
            problem.block_norms(start)  # checks shape, kind and finiteness
            coef = float64_copy(start)
        with _few_threads(problem):
            coef, steps, status = _rotated_proximal_point(problem, coef, 0.9 * tol, max_iter)
    certificate = problem.certify(coef)
    if certificate.gap <= tol:
        status = Status.CONVERGED
    else:
        # Rotated back and certified afresh, an answer may lose the last digits it was accepted for.
        status = Status.STALLED if status is Status.CONVERGED else status
        message = f"{status.value} Relative gap {certificate.gap:.2e}, tol {tol:.2e}, {steps} Newton steps."
        warnings.warn(message, CertificateWarning, stacklevel=2)
    return Solution(problem, coef, certificate, status, steps)


def multitask_lasso_path(
    problem: MultitaskLasso, lams: Sequence[float], *, tol: float = 1e-6, max_iter: int = 300
) -> list[Solution]:
    """Solutions for several ``lam`` in the order given, each started from the next larger one.

    The moments are shared by all of them; ``problem.lam`` plays no part.
    """
    solutions: dict[int, Solution] = {}
    start = None
    for i in sorted(range(len(lams)), key=lambda i: -float(lams[i])):
        solutions[i] = multitask_lasso(problem.with_lam(lams[i]), start=start, tol=tol, max_iter=max_iter)
        start = solutions[i].coef
    return [solutions[i] for i in range(len(lams))]


def _few_threads(problem: MultitaskLasso) -> AbstractContextManager[object]:
    """One BLAS thread for small numpy problems."""
    if is_torch(problem.gram) or problem.gram.shape[0] > _ONE_THREAD_ROWS:
        return nullcontext()
    return one_blas_thread()


def _rotated_proximal_point(
    problem: MultitaskLasso, coef: Array, tol: float, max_iter: int
) -> tuple[Array, int, Status]:
    """The proximal point method in at most P outputs.

    The rows of a solution lie in the row space of ``cross``, of dimension at most P: where there are more
    outputs than that, solve in an orthonormal basis of it, which changes no norm.
    """
    n_rows, n_outputs = problem.cross.shape
    if n_outputs <= n_rows:
        return _proximal_point(problem, coef, tol, max_iter)
    basis, triangle = namespace(coef).linalg.qr(problem.cross.T)
    rotated = replace(problem, cross=float64_copy(triangle.T))
    coef, steps, status = _proximal_point(rotated, coef @ basis, tol, max_iter)
    return coef @ basis.T, steps, status


def _proximal_point(problem: MultitaskLasso, coef: Array, tol: float, max_iter: int) -> tuple[Array, int, Status]:
    """Best certified iterate, number of Newton steps, and the reason to stop."""
    relative = _relative_step(problem)
    sigma, sigma_max, largest = _SIGMA_START, _SIGMA_MAX, 0.0
    steps = idle = 0
    point = Point(coef, problem.gram @ coef)
    best = _certified(problem, point)
    while idle < _PATIENCE:
        at_start = best.gap
        step = ProximalStep(problem, coef, sigma * relative)
        for inner in range(_MAX_INNER):
            shrunk = step.shrink(point.product)
            # The shrunk point carries the rounding of G W times sigma, the Newton point does not.
            here = _better(_certified(problem, shrunk.point), _certified(problem, point))
            best = _better(best, here)
            if best.gap <= tol:
                return best.coef, steps, Status.CONVERGED
            # One Newton step at least: at full sigma the test below may pass by rounding alone.
            if inner > 0 and step.is_solved(shrunk, point):
                break
            if steps == max_iter:
                return best.coef, steps, Status.MAX_ITER
            newton = step.newton(shrunk, point)
            if newton is None:
                # Rounding made G indefinite at the scale of 1 / sigma.
                sigma_max = 0.01 * sigma
                break
            point = point.towards(newton, step.search(shrunk, point, newton))
            steps += 1
        coef = here.coef
        idle = idle + 1 if sigma <= largest and best.gap > 0.9 * at_start else 0
        largest = max(sigma, largest)
        # An inner problem that took many steps was too far from the last one.
        growth = _SIGMA_GROWTH if inner <= 5 else 3.0 if inner <= 7 else 0.3
        sigma = min(growth * sigma, sigma_max)
        if sigma_max < 1e-3:
            raise ValueError(
                "gram must be positive semidefinite; got one whose negative eigenvalues exceed rounding. "
                "Pass Phi'Phi, summed in float64."
            )
    return best.coef, steps, Status.STALLED


def _relative_step(problem: MultitaskLasso) -> Array:
    """One over the mean curvature ``G_ii`` of each neuron (K,), bounded where a neuron is dead."""
    rows = problem.blocks.sum(0.0 * problem.gram.diagonal() + 1.0)
    curvature = problem.blocks.sum(problem.gram.diagonal()) / rows
    # cross is not zero here, so neither is the largest curvature.
    return 1.0 / curvature.clip(min=1e-16 * float(curvature.max()))


@dataclass(frozen=True, slots=True)
class _Answer:
    coef: Array
    gap: float


def _certified(problem: MultitaskLasso, point: Point) -> _Answer:
    return _Answer(point.coef, problem.certify_product(point.coef, point.product).gap)


def _better(one: _Answer, other: _Answer) -> _Answer:
    return one if one.gap <= other.gap else other
