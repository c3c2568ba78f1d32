"""The regularisation path over BV²(R), and the choice of lam on it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.errors import CertificateWarning
from pathnorm.problems.losses import Loss, Squared
from pathnorm.problems.samples import Samples
from pathnorm.problems.trend import BV2Problem
from pathnorm.solvers.bv2 import bv2_lams, bv2_noise, bv2_solutions
from pathnorm.spaces import LinearSpline

__all__ = ["CRITERIA", "BV2Path", "bv2_path", "choose", "fold_scores", "grid", "path_of", "scored"]

CRITERIA = ("sure", "gcv", "bic", "cv")
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BV2Path:
    """Solutions along lam; all arrays are in the order of ``lams``.

    Attributes
    ----------
    lams : array (L,)
        In the order given; by default decreasing from ``lam_max``.
    splines : tuple of LinearSpline
    n_knots : array (L,) of int
    dof : array (L,) of int
        Degrees of freedom, knots plus two: unbiased for the squared loss [TT12].
    losses : array (L,)
        Sums of the loss over the samples; half the residual sum of squares for the squared loss.
    tv2 : array (L,)
        ``TV(f')``, the path norm.
    gaps : array (L,)
        Certified relative gaps.
    noise : float
        Standard deviation of the noise, estimated without a fit; used by SURE.
    count : int
        Samples.
    scores : array (L,), or None
        Criterion of the choice, smaller is better.
    errors : array (L,), or None
        Standard errors of ``scores``, for cross-validation.

    References
    ----------
    .. [TT12] Tibshirani, Taylor, "Degrees of freedom in lasso problems", Annals of Statistics 40, 2012.
    """

    lams: Vector
    splines: tuple[LinearSpline, ...]
    n_knots: NDArray[np.int64]
    dof: NDArray[np.int64]
    losses: Vector
    tv2: Vector
    gaps: Vector
    noise: float
    count: int
    scores: Vector | None = None
    errors: Vector | None = None


def bv2_path(
    x: ArrayLike,
    y: ArrayLike,
    *,
    lams: ArrayLike | None = None,
    n_lams: int = 50,
    sample_weight: ArrayLike | None = None,
    loss: str | Loss = "squared",
    tol: float = 1e-9,
) -> BV2Path:
    """Solutions of ``min_f sum_i w_i loss(y_i, f(x_i)) + lam TV(f')`` along lam, each started from the one before.

    Parameters
    ----------
    x, y : array (N,) or (N, 1)
    lams : array (L,), optional
        By default ``n_lams`` values from ``lam_max``, where the fit is affine, down to where noise alone would ask for
        a knot about every sqrt(N) samples, and for at least 20 samples to each.
    n_lams : int
    sample_weight : array (N,), optional
    loss : str or Loss
        As in :class:`pathnorm.BV2Regressor`; ``loss_of`` gives those with a parameter.
    tol : float
        Relative gap to aim at; ``gaps`` says what was reached.

    Returns
    -------
    BV2Path
    """
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=sample_weight, loss=loss)
    return path_of(problem, grid(problem, lams, n_lams), tol)


def grid(problem: BV2Problem, lams: ArrayLike | None, n_lams: int) -> Vector:
    """The values of lam asked for, or the default."""
    if lams is None:
        if n_lams < 1:
            raise ValueError(f"n_lams must be at least 1; got {n_lams}.")
        return bv2_lams(problem, n_lams)
    chosen = np.array(lams, dtype=np.float64).ravel()
    if chosen.size == 0 or not (np.isfinite(chosen).all() and chosen.min() >= 0.0):
        raise ValueError(f"lams must be finite and not negative, at least one of them; got {lams!r}.")
    return chosen


def path_of(problem: BV2Problem, lams: Vector, tol: float) -> BV2Path:
    """The path of a problem, whose own ``lam`` plays no part."""
    with warnings.catch_warnings():  # the path tells the gaps
        warnings.simplefilter("ignore", CertificateWarning)
        solutions = bv2_solutions(problem, [float(lam) for lam in lams], tol=tol)
    splines = tuple(solution.coef for solution in solutions)
    n_knots = np.array([spline.n_knots for spline in splines])
    tv2 = np.array([spline.tv2 for spline in splines])
    losses = np.array([solution.certificate.primal for solution in solutions]) - lams * tv2
    return BV2Path(
        lams=lams,
        splines=splines,
        n_knots=n_knots,
        dof=n_knots + (2 if problem.samples.x[0] < problem.samples.x[-1] else 1),
        losses=losses,
        tv2=tv2,
        gaps=np.array([solution.certificate.gap for solution in solutions]),
        noise=bv2_noise(problem),
        count=problem.samples.count,
    )


def scored(path: BV2Path, criterion: str, loss: Loss) -> BV2Path:
    """The path with the scores of SURE, GCV or BIC.

    With RSS the residual sum of squares, df the degrees of freedom, N samples and noise sigma:
    SURE ``RSS + 2 sigma^2 df - N sigma^2`` (the expected squared error, for Gaussian noise), GCV
    ``N RSS / (N - df)^2``, BIC ``N log(RSS / N) + df log N``, and for other losses ``2 loss + df log N``.
    """
    squared = isinstance(loss, Squared)
    if criterion in ("sure", "gcv") and not squared:
        raise ValueError(
            f'criterion="{criterion}" belongs to the squared loss; the loss is {type(loss).__name__}. '
            'Use criterion="cv" or "bic".'
        )
    count, dof, rss = path.count, path.dof, np.maximum(2.0 * path.losses, 0.0)
    if criterion == "sure":
        scores = rss + path.noise**2 * (2.0 * dof - count)
    elif criterion == "gcv":
        left = np.maximum(count - dof, 0)
        scores = np.where(left > 0, count * rss / np.maximum(left, 1) ** 2.0, np.inf)
    elif squared:
        left = count > dof
        with np.errstate(divide="ignore"):
            scores = np.where(left, count * np.log(np.maximum(rss, 0.0) / count) + dof * np.log(count), np.inf)
    else:
        scores = 2.0 * path.losses + dof * np.log(count)
    return replace(path, scores=scores)


def choose(path: BV2Path, *, one_standard_error: bool) -> int:
    """Position of the best score; with the rule, of the largest lam within one standard error of it."""
    if path.scores is None:
        raise ValueError("the path has no scores yet.")
    # Of equal scores take the largest lam: the simplest fit.
    order = np.lexsort((-path.lams, path.scores))
    best = int(order[0])
    if not one_standard_error or path.errors is None:
        return best
    within = np.flatnonzero(path.scores <= path.scores[best] + path.errors[best])
    return int(within[np.argmax(path.lams[within])])


def fold_scores(samples: Samples, held: NDArray[np.int64], lams: Vector, loss: Loss, tol: float) -> Vector:
    """Mean loss (L,) on the held-out samples of the path fitted to the others.

    The penalty weighs as much per unit of weight as with all samples.
    """
    kept = np.ones(samples.x.size, dtype=np.bool_)
    kept[held] = False
    w = samples.weights
    train = Samples.of(samples.x[kept], samples.y[kept], w[kept])
    share = float(w[kept].sum() / w.sum())
    path = path_of(BV2Problem.of(train, 1.0, loss), share * lams, tol)
    x, y = samples.x[held], samples.y[held]
    return np.array([np.average(loss.value(y, spline(x)), weights=w[held]) for spline in path.splines])
