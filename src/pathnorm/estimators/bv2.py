"""Regression over BV²(R): the adaptive linear spline of a one-dimensional ReLU network trained with weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from pathnorm.estimators._column import as_column, refuse_columns
from pathnorm.estimators.bands import BANDS, Band, bootstrap_band, conditional_band
from pathnorm.problems.losses import loss_of
from pathnorm.problems.samples import Samples
from pathnorm.problems.trend import BV2Problem
from pathnorm.representer import sparsest
from pathnorm.solvers.bv2 import bv2, bv2_lam_max
from pathnorm.spaces import LinearSpline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BV2Regressor"]

Vector = NDArray[np.float64]


class BV2Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Exact regression over BV²(R), certified.

    Minimises over all functions f of one variable::

        sum_i w_i loss(y_i, f(x_i))  +  lam * TV(f')

    where ``TV(f')`` is the total variation of the derivative: the sum of the absolute slope jumps of a linear spline,
    and the smallest path norm of a ReLU network that is f. The solution is a linear spline with few knots, dense where
    the function bends and sparse where it does not [MM95, PN21]. Beyond the data it is continued linearly.

    Parameters
    ----------
    lam : float
        Not negative, in units of weight times loss times x over y; 0 interpolates (squared loss only).
        From ``lam_max_`` on the fit is affine.
    loss : {"squared", "huber", "absolute", "quantile", "logistic", "poisson"}
        Squared is ``(y - f)^2 / 2``. Logistic takes y in [0, 1] and Poisson takes y >= 0; there f is the log-odds and
        the log-mean, and :meth:`predict` gives the mean.
    delta : float
        For huber: residuals up to here count squared; in units of y.
    quantile : float
        For quantile: which one, in (0, 1).
    sparsest : bool
        Among the solutions return one with the fewest knots, which may lie between the data [DDUF22].
    tol : float
        Largest relative duality gap to accept without a warning.

    Attributes
    ----------
    spline_ : LinearSpline
        The function f.
    n_knots_ : int
        Its knots: neurons of ``spline_.to_network()``.
    certificate_ : Certificate
        ``dual <= optimum <= primal`` over all functions, recomputed from ``spline_``.
    lam_max_ : float
        Smallest ``lam`` whose solution is affine.
    dof_ : int
        Degrees of freedom of the fit, knots at the data plus two [TT12].
    solution_ : Solution
        What the solver returned: problem, status, number of iterations.
    n_features_in_ : int
        One.

    References
    ----------
    .. [MM95] Mammen, van de Geer, "Locally adaptive regression splines", Annals of Statistics 25, 1997.
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    .. [DDUF22] Debarre, Denoyelle, Unser, Fageot, "Sparsest piecewise-linear regression of one-dimensional data",
       Journal of Computational and Applied Mathematics 406, 2022.
    .. [TT12] Tibshirani, Taylor, "Degrees of freedom in lasso problems", Annals of Statistics 40, 2012.
    """

    def __init__(
        self,
        lam: float = 1.0,
        *,
        loss: str = "squared",
        delta: float = 1.0,
        quantile: float = 0.5,
        sparsest: bool = False,
        tol: float = 1e-9,
    ) -> None:
        self.lam = lam
        self.loss = loss
        self.delta = delta
        self.quantile = quantile
        self.sparsest = sparsest
        self.tol = tol

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the spline.

        Parameters
        ----------
        X : array (N, 1) or (N,)
            In any order, repeated or not.
        y : array (N,)
        sample_weight : array (N,), optional
            Not negative; a weight of 2 is the same as two samples, one of 0 the same as none.

        Returns
        -------
        self

        Warns
        -----
        CertificateWarning
            If the gap did not reach ``tol``.
        """
        return self._fit_samples(self._validated(X, y, sample_weight, reset=True))

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit all samples seen so far: the answer is that of one :meth:`fit` with all of them.

        Started from the last answer. Memory grows with the number of samples, by 24 bytes for each.
        """
        first = not hasattr(self, "samples_")
        samples = self._validated(X, y, sample_weight, reset=first)
        if first:
            return self._fit_samples(samples)
        return self._fit_samples(self.samples_.join(samples), start=self.solution_.coef)

    def predict(self, X: ArrayLike) -> Vector:
        """Mean, or quantile, of y at X (M, 1) or (M,); linear in f beyond the data."""
        f = self._function(X)
        if self.loss == "logistic":
            return np.asarray(expit(f))
        return np.exp(f) if self.loss == "poisson" else f

    def band(
        self,
        X: ArrayLike,
        *,
        level: float = 0.95,
        method: str = "conditional",
        n_boot: int = 200,
        random_state: int | None = None,
    ) -> Band:
        """Pointwise confidence band of the fit at X.

        Parameters
        ----------
        X : array (M, 1) or (M,)
        level : float
            In (0, 1).
        method : {"conditional", "bootstrap"}
            ``"conditional"`` (squared loss): given the knots and the signs of their jumps the fit is linear in y, and
            the band covers the mean of that linear fit with the stated probability at each x, for independent Gaussian
            noise of one level. It does not cover the bias of the penalty nor the choice of the knots.
            ``"bootstrap"``: refits to the fitted values plus residuals drawn with replacement (for logistic and
            Poisson: to draws from the fitted distribution), at the same ``lam``; it covers the mean of the fit
            including the choice of the knots, at each x, approximately, and corrects the bias as far as the bootstrap
            sees it.
        n_boot : int
            Refits of the bootstrap.
        random_state : int, optional
            Seed of the draws.

        Returns
        -------
        Band
            ``(lower, upper)``, arrays (M,), on the scale of :meth:`predict`.
        """
        if method not in BANDS:
            raise ValueError(f"method must be one of {', '.join(BANDS)}; got {method!r}.")
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie strictly between 0 and 1; got {level!r}. 95 % is 0.95.")
        check_is_fitted(self)
        at = self._column(X, reset=False)
        problem = self.solution_.problem
        if method == "conditional":
            band = conditional_band(problem, self.solution_.coef, at, level)
        else:
            rng = np.random.default_rng(random_state)
            band = bootstrap_band(problem, self.solution_.coef, at, level, n_boot=n_boot, rng=rng)
        if self.loss == "logistic":
            return Band(expit(band.lower), expit(band.upper))
        return Band(np.exp(band.lower), np.exp(band.upper)) if self.loss == "poisson" else band

    def plot(self, *, band: bool = False) -> Figure:
        """Figure of the samples, the fit and its knots; ``band`` adds the 95 % band. Needs ``pathnorm[plot]``."""
        from pathnorm.report.fit_plots import plot_spline

        check_is_fitted(self)
        samples = self.samples_
        grid = np.union1d(np.linspace(samples.x[0], samples.x[-1], 1000), self.spline_.knots)
        method = "conditional" if self.loss == "squared" else "bootstrap"
        limits = self.band(grid, method=method, random_state=0) if band else None
        return plot_spline(samples.x, samples.y, grid, self.predict(grid), self.spline_.knots, limits)

    def _function(self, X: ArrayLike) -> Vector:
        check_is_fitted(self)
        return np.asarray(self.spline_(self._column(X, reset=False)))

    def _column(self, X: ArrayLike, *, reset: bool) -> Vector:
        column = validate_data(self, as_column(X), dtype=np.float64, reset=reset)
        return np.asarray(column[:, 0])

    def _validated(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool) -> Samples:
        column, targets = validate_data(self, as_column(X), y, dtype=np.float64, y_numeric=True, reset=reset)
        refuse_columns(column, type(self).__name__)
        return Samples.of(column[:, 0], targets, sample_weight)

    def _fit_samples(self, samples: Samples, start: LinearSpline | None = None) -> Self:
        loss = loss_of(self.loss, delta=self.delta, quantile=self.quantile)
        problem = BV2Problem.of(samples, self.lam, loss)
        return self._keep(samples, problem, start)

    def _keep(self, samples: Samples, problem: BV2Problem, start: LinearSpline | None) -> Self:
        """Solve, and store what was learnt."""
        self.samples_ = samples
        self.solution_ = bv2(problem, start=start, tol=self.tol)
        self.spline_ = self.solution_.coef
        self.certificate_ = self.solution_.certificate
        self.dof_ = self.spline_.n_knots + (2 if samples.x[0] < samples.x[-1] else 1)
        self.lam_max_ = bv2_lam_max(problem)
        if self.sparsest:
            self.spline_ = sparsest(self.spline_, problem.samples.x[problem.samples.starts])
            self.certificate_ = problem.certify(self.spline_)
        self.n_knots_ = self.spline_.n_knots
        return self

    def __sklearn_tags__(self) -> Any:
        """Tags: one column, which may come as a vector (as for isotonic regression)."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags
