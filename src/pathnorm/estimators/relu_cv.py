"""The choice of lam by cross-validation, for shallow networks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import KFold, StratifiedKFold, check_cv

from pathnorm.errors import CertificateWarning
from pathnorm.estimators.relu import ReLUClassifier, ReLURegressor
from pathnorm.problems.variation import RBV2Problem
from pathnorm.solvers.rbv2 import rbv2, rbv2_lam_max
from pathnorm.spaces import ShallowNet

__all__ = ["RBV2Path", "ReLUClassifierCV", "ReLURegressorCV"]

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

_LOOSE = 5e-2  # relative gap of fits that only serve to choose lam
_DENSE, _MOST = 0.6, 500  # neurons per sample, and in all, beyond which no smaller lam is tried
_PAST = 2  # values of lam tried beyond the best one


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RBV2Path:
    """Cross-validation along lam; all arrays are in the order of ``lams``, from the largest down.

    Attributes
    ----------
    lams : array (L,)
        For all samples; a fold takes the share of its samples.
    scores : array (L,)
        Mean held-out loss per sample, smaller is better.
    errors : array (L,)
        Standard errors of the scores over folds.
    fold_scores : array (folds, L)
    n_neurons : array (L,)
        Mean over folds.
    """

    lams: Vector
    scores: Vector
    errors: Vector
    fold_scores: Matrix
    n_neurons: Vector


class _ChoosesLam:
    """What the two estimators with cross-validation share."""

    def _keep(self, problem: RBV2Problem, seed: int, start: ShallowNet | None) -> Self:
        """Choose lam, then solve with all samples."""
        lams, folds = self._grid(problem, seed), self._folds(problem)
        parts = [_part(problem, train) for train, _ in folds]
        shares = [float(part.weights.sum() / problem.weights.sum()) for part in parts]
        most = min(_DENSE * min(train.size for train, _ in folds), _MOST)
        settings = self._settings(seed)
        starts: Sequence[ShallowNet | None] = [None] * len(folds)
        steps: list[Vector] = []
        counts: list[list[int]] = []
        with Parallel(n_jobs=self.n_jobs) as parallel:  # type: ignore[attr-defined]
            for lam in lams:
                nets: list[ShallowNet] = parallel(
                    delayed(_solved)(part.with_lam(share * float(lam)), begin, settings)
                    for part, share, begin in zip(parts, shares, starts, strict=True)
                )
                starts = nets
                steps.append(np.array([_held(problem, held, net) for (_, held), net in zip(folds, nets, strict=True)]))
                counts.append([net.n_neurons for net in nets])
                # One fold may have its best long before the others: the mean decides.
                means = np.array([step.mean() for step in steps])
                risen = means.size - 1 - int(means.argmin()) >= _PAST and means[-1] > 1.02 * means.min()
                if risen or np.mean(counts[-1]) > most:
                    break
        lams, scores, neurons = lams[: len(steps)], np.stack(steps, axis=1), np.array(counts, dtype=np.float64).T
        path = RBV2Path(
            lams=lams,
            scores=scores.mean(axis=0),
            errors=scores.std(axis=0, ddof=1) / np.sqrt(len(folds)),
            fold_scores=scores,
            n_neurons=neurons.mean(axis=0),
        )
        best = int(path.scores.argmin())
        if self.one_standard_error:  # type: ignore[attr-defined]
            best = int(np.argmax(path.scores <= path.scores[best] + path.errors[best]))
        self.path_, self.lam_ = path, float(lams[best])
        super()._keep(problem.with_lam(self.lam_), seed, start)  # type: ignore[misc]
        self._lam_max = self._largest
        return self

    def _grid(self, problem: RBV2Problem, seed: int) -> Vector:
        given = self.lams  # type: ignore[attr-defined]
        self._largest = rbv2_lam_max(problem, seed=seed)
        if given is not None:
            lams = np.sort(np.asarray(given, dtype=np.float64).ravel())[::-1]
            if lams.size == 0 or not (np.isfinite(lams).all() and lams[-1] > 0.0):
                raise ValueError(f"lams must be finite numbers > 0; got {given!r}.")
            return lams
        count, ratio = self.n_lams, self.lam_ratio  # type: ignore[attr-defined]
        if count < 1 or not 0.0 < ratio < 1.0:
            raise ValueError(f"n_lams >= 1 and 0 < lam_ratio < 1 are needed; got {count!r} and {ratio!r}.")
        # Where the affine part interpolates, any lam will do.
        top = self._largest if self._largest > 0.0 else 1.0
        return np.asarray(top * np.geomspace(1.0, ratio, count))

    def _folds(self, problem: RBV2Problem) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        cv, classes = self.cv, hasattr(self, "classes_")  # type: ignore[attr-defined]
        Y = problem.Y
        labels = (Y.argmax(axis=1) if Y.shape[1] > 1 else (Y[:, 0] > 0.5).astype(int)) if classes else Y[:, 0]
        if isinstance(cv, int):
            if not 2 <= cv <= problem.n_samples:
                raise ValueError(
                    f"cv must lie between 2 and the number of samples, n_samples = {problem.n_samples}; got {cv}."
                )
            seed = int(np.random.default_rng(self._fold_seed).integers(2**31 - 1))
            kind = StratifiedKFold if classes else KFold
            splitter = kind(cv, shuffle=True, random_state=seed)
        else:
            splitter = check_cv(cv, labels, classifier=classes)
        kept: NDArray[np.bool_] = self._kept  # type: ignore[attr-defined]
        place = np.cumsum(kept) - 1
        if not isinstance(cv, int):
            # Splits of the caller count all samples, those of weight zero too.
            everyone = np.empty(kept.size, dtype=labels.dtype)
            everyone[kept], everyone[~kept] = labels, labels[0]
            splits = splitter.split(np.zeros((kept.size, 1)), everyone)
            return [(place[train[kept[train]]], place[held[kept[held]]]) for train, held in splits]
        with warnings.catch_warnings():
            # A class with fewer members than folds: some folds go without it.
            warnings.simplefilter("ignore", UserWarning)
            return list(splitter.split(problem.X, labels))

    @property
    def _fold_seed(self) -> int:
        state = self.random_state  # type: ignore[attr-defined]
        return state if isinstance(state, int) else 0

    def _settings(self, seed: int) -> dict[str, Any]:
        return {
            "seed": seed,
            "max_neurons": self.max_neurons,  # type: ignore[attr-defined]
            "max_iter": self.max_iter,  # type: ignore[attr-defined]
            "tol": max(_LOOSE, self.tol),  # type: ignore[attr-defined]
        }


def _part(problem: RBV2Problem, rows: NDArray[np.int64]) -> RBV2Problem:
    """The problem over some samples, centred anew."""
    X, weights = problem.X[rows], problem.weights[rows]
    origin = np.average(X, axis=0, weights=weights)
    return replace(problem, X=X - origin, Y=problem.Y[rows], weights=weights, origin=origin)


def _solved(part: RBV2Problem, start: ShallowNet | None, settings: dict[str, Any]) -> ShallowNet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)
        net: ShallowNet = rbv2(part, start=start, level="search", **settings).coef
    return net


def _held(problem: RBV2Problem, rows: NDArray[np.int64], net: ShallowNet) -> float:
    """Mean loss per sample on samples that were held out."""
    weights = problem.weights[rows, None]
    loss = problem.loss.value(problem.Y[rows], net(problem.X[rows]))
    return float((weights * loss).sum() / weights.sum())


class ReLURegressorCV(_ChoosesLam, ReLURegressor):  # type: ignore[misc]
    """:class:`~pathnorm.ReLURegressor` with ``lam`` chosen by cross-validation.

    The held-out loss is followed along a grid from ``lam_max_`` down, with warm starts, until its mean over folds has
    risen for a while, or the networks have six neurons for ten samples, or 500. Fits of the folds are solved to a
    relative gap of 5e-2 and not certified; the final one, on all samples, is.

    Parameters
    ----------
    n_lams : int
        Length of the grid.
    lam_ratio : float
        Its smallest lam over ``lam_max_``.
    lams : array (L,), optional
        Instead of the grid.
    cv : int or scikit-learn splitter
        With an int folds are drawn at random, with ``random_state`` if that is an int.
    one_standard_error : bool
        The largest lam whose score is within one standard error of the best.
    n_jobs : int, optional
        Folds at a time (joblib).
    loss, delta, quantile, interactions, affine, ridge, standardize, relaxed
        As in :class:`~pathnorm.ReLURegressor`; folds share the standardisation of all samples.
    certify, certify_seconds, max_neurons, warm_start, max_iter, tol, random_state
        As in :class:`~pathnorm.ReLURegressor`.

    Attributes
    ----------
    lam_ : float
        The choice.
    path_ : RBV2Path
        Scores along lam.

    Notes
    -----
    All attributes of :class:`~pathnorm.ReLURegressor` as well.
    """

    def __init__(
        self,
        *,
        n_lams: int = 12,
        lam_ratio: float = 5e-4,
        lams: ArrayLike | None = None,
        cv: Any = 5,
        one_standard_error: bool = False,
        n_jobs: int | None = None,
        loss: str = "squared",
        delta: float = 1.0,
        quantile: float = 0.5,
        interactions: int | None = None,
        affine: str = "free",
        ridge: float | None = None,
        standardize: bool = True,
        relaxed: bool = False,
        certify: str = "auto",
        certify_seconds: float = 10.0,
        max_neurons: int | None = None,
        warm_start: bool = False,
        max_iter: int = 200,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            loss=loss,
            delta=delta,
            quantile=quantile,
            interactions=interactions,
            affine=affine,
            ridge=ridge,
            standardize=standardize,
            relaxed=relaxed,
            certify=certify,
            certify_seconds=certify_seconds,
            max_neurons=max_neurons,
            warm_start=warm_start,
            max_iter=max_iter,
            tol=tol,
            random_state=random_state,
        )
        self.n_lams = n_lams
        self.lam_ratio = lam_ratio
        self.lams = lams
        self.cv = cv
        self.one_standard_error = one_standard_error
        self.n_jobs = n_jobs


class ReLUClassifierCV(_ChoosesLam, ReLUClassifier):  # type: ignore[misc]
    """:class:`~pathnorm.ReLUClassifier` with ``lam`` chosen by cross-validation, as :class:`ReLURegressorCV` does.

    Parameters
    ----------
    n_lams, lam_ratio, lams, cv, one_standard_error, n_jobs
        As in :class:`ReLURegressorCV`; folds are stratified.
    loss, interactions, affine, ridge, standardize, relaxed
        As in :class:`~pathnorm.ReLUClassifier`.
    certify, certify_seconds, max_neurons, warm_start, max_iter, tol, random_state
        As in :class:`~pathnorm.ReLURegressor`.

    Attributes
    ----------
    lam_ : float
        The choice.
    path_ : RBV2Path
        Scores along lam.
    """

    def __init__(
        self,
        *,
        n_lams: int = 12,
        lam_ratio: float = 5e-4,
        lams: ArrayLike | None = None,
        cv: Any = 5,
        one_standard_error: bool = False,
        n_jobs: int | None = None,
        loss: str = "logistic",
        interactions: int | None = None,
        affine: str = "ridge",
        ridge: float | None = None,
        standardize: bool = True,
        relaxed: bool = False,
        certify: str = "auto",
        certify_seconds: float = 10.0,
        max_neurons: int | None = None,
        warm_start: bool = False,
        max_iter: int = 200,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            loss=loss,
            interactions=interactions,
            affine=affine,
            ridge=ridge,
            standardize=standardize,
            relaxed=relaxed,
            certify=certify,
            certify_seconds=certify_seconds,
            max_neurons=max_neurons,
            warm_start=warm_start,
            max_iter=max_iter,
            tol=tol,
            random_state=random_state,
        )
        self.n_lams = n_lams
        self.lam_ratio = lam_ratio
        self.lams = lams
        self.cv = cv
        self.one_standard_error = one_standard_error
        self.n_jobs = n_jobs
