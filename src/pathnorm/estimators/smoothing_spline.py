"""The cubic smoothing spline as a scikit-learn regressor: the linear method for one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicHermiteSpline, PPoly
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from pathnorm.estimators._column import as_column, refuse_columns
from pathnorm.estimators._gcv import Choice, Targets, score, search, wanted
from pathnorm.estimators._spline_filter import merge, smooth

__all__ = ["SmoothingSplineRegressor"]

Array = NDArray[np.float64]

_RESOLUTION = 1e-14  # of the range of x
_STIFFEST = 1e4  # times the sum of weights, for x in [0, 1]: bends of less than 1e-6 degrees of freedom
_DECADES = 60
_FASTEST = 1e100  # of 1 / lam: interpolation long before, and its products are finite


class SmoothingSplineRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Cubic smoothing spline, with the smoothing parameter chosen by generalised cross-validation.

    Minimises over all functions f of one variable::

        sum_i w_i (y_i - f(x_i))^2  +  lam * int f''(x)^2 dx

    (no ½, as in :func:`scipy.interpolate.make_smoothing_spline`). The solution is a natural cubic spline with a knot at
    every x: linear in y, and linear beyond the data. GCV is ``N sum_i w_i (y_i - f(x_i))^2 / (N - df)^2``, for weights
    scaled to mean one over the N samples that have one. It is minimised over ``log(lam)`` with x scaled to [0, 1], so
    neither the units of x, nor those of y or of the weights, change the fit. Time and memory are O(N), with no bound on
    how close two x may be; x within 1e-14 of the range of x are taken as equal, which is exact for equal x.

    Parameters
    ----------
    lam : "gcv" or float > 0
        Smoothing parameter, in units of weight times the cube of x; ``inf`` is the least-squares line.

    Attributes
    ----------
    lam_ : float
        Smoothing parameter used; ``inf`` where fewer than three different x leave no choice.
    df_ : float
        Effective degrees of freedom: the trace of the map from y to the fit, between 2 and the number of different x.
    gcv_ : float
        Value of the criterion, in units of y²; ``inf`` where no residual degrees of freedom are left.
    spline_ : scipy.interpolate.PPoly
        The function, in units of x; it has ``derivative`` and ``integrate``. Its first and last piece are linear and
        lie outside the data.
    n_features_in_ : int
        One.

    Notes
    -----
    Weights are inverse variances up to a common factor. At a given ``lam`` an integer weight is the same as repeated
    samples; under GCV it is not, because repeated samples also count as more samples.

    References
    ----------
    .. [W90] Wahba, "Spline Models for Observational Data", SIAM 1990.
    .. [CW79] Craven, Wahba, "Smoothing noisy data with spline functions", Numer. Math. 31, 1979.
    """

    def __init__(self, lam: float | str = "gcv") -> None:
        self.lam = lam

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the spline.

        Parameters
        ----------
        X : array (N, 1) or (N,)
            Sites, in any order, repeated or not.
        y : array (N,)
            Targets.
        sample_weight : array (N,), optional
            Weights >= 0, not all of them zero. A sample of weight zero counts as absent.

        Returns
        -------
        self
        """
        lam = wanted("lam", self.lam)
        column, targets = validate_data(self, as_column(X), y, dtype=np.float64, y_numeric=True)
        refuse_columns(column, type(self).__name__)
        weights = _check_sample_weight(sample_weight, column, dtype=np.float64)
        sample = _Sample.gather(column[:, 0], np.asarray(targets, dtype=np.float64), weights)
        fit = sample.fit(lam)
        self.lam_, self.gcv_, self.df_ = fit.choice
        self.spline_ = fit.spline
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Values of the spline, linear beyond the data.

        Parameters
        ----------
        X : array (M, 1) or (M,)
            Where.

        Returns
        -------
        array (M,)
        """
        check_is_fitted(self)
        column = validate_data(self, as_column(X), dtype=np.float64, reset=False)
        return np.asarray(self.spline_(column[:, 0]))

    def __sklearn_tags__(self) -> Any:
        """Tags: one column, which may come as a vector (as for isotonic regression)."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class _Fit(NamedTuple):
    choice: Choice
    spline: PPoly


@dataclass(frozen=True, slots=True)
class _Sample:
    """Different sites with their mean targets, in units that make every problem alike.

    The mean weight of the N samples is one, and y was within [-1, 1] of its mean before the least-squares line
    was taken off: the line is not penalised, and digits spent on it are lost to the rest.
    """

    sites: Array  # (n,), ascending, in user units
    weights: Array  # (n,)
    line: Array  # (n,)
    trend: float  # slope of ``line`` over the range of x
    values: Array  # (n,), what is left
    within: float  # sum of w (y - mean of its site)^2
    n_samples: int
    mean_weight: float
    targets: Targets  # before equal sites were merged

    @classmethod
    def gather(cls, x: Array, y: Array, weights: Array) -> _Sample:
        if weights.min() < 0.0 or not weights.max() > 0.0:
            raise ValueError(
                f"sample_weight must be >= 0 and not all zero; got {weights.min():g} to {weights.max():g}. "
                "Leave out the samples that should not count."
            )
        used = np.flatnonzero(weights)
        used = used[np.argsort(x[used], kind="stable")]
        mean_weight = float(weights[used].mean())
        sites, weights = x[used], weights[used] / mean_weight
        targets = Targets.scaled(y[used], weights)
        values = targets.values.copy()
        count, within = merge(sites, weights, values, _RESOLUTION * (sites[-1] - sites[0]))
        sites, weights, values = sites[:count], weights[:count], values[:count]
        line, trend = _least_squares_line(sites, weights, values)
        return cls(
            sites=sites,
            weights=weights,
            line=line,
            trend=trend,
            values=values - line,
            within=within,
            n_samples=used.size,
            mean_weight=mean_weight,
            targets=targets,
        )

    def fit(self, lam: float | None) -> _Fit:
        """The fit at ``lam`` in user units, or at the choice of GCV."""
        n = self.sites.size
        if n < 3:
            return self._fit_few()
        span = float(self.sites[-1] - self.sites[0])
        cube = self.mean_weight * span * span * span
        gaps, left = np.diff(self.sites) / span, np.empty((n, 5))
        fitted, slopes = np.empty(n), np.empty(n)

        def judge(lam: float) -> Choice:
            rate = min(1.0 / lam, _FASTEST)
            rss, residual_dof = smooth(gaps, self.weights, self.values, rate, left, fitted, slopes)
            residual_dof += self.n_samples - n
            gcv = score(rss + self.within, residual_dof, self.n_samples, self.targets.noise_floor)
            return Choice(lam, gcv, self.n_samples - residual_dof)

        if lam is None:
            chosen = search(judge, _STIFFEST * float(self.weights.sum()), n - 2, decades=_DECADES).lam
        else:
            chosen = lam / cube
        choice = judge(chosen)  # leaves its fit in ``fitted`` and ``slopes``
        return self._describe(choice, cube, fitted, slopes)

    def _fit_few(self) -> _Fit:
        """The mean of one site, or the line through two: no bend to penalise."""
        n, zeros = self.sites.size, np.zeros(self.sites.size)
        gcv = score(self.within, float(self.n_samples - n), self.n_samples, self.targets.noise_floor)
        return self._describe(Choice(np.inf, gcv, float(n)), 1.0, zeros, zeros)

    def _describe(self, choice: Choice, cube: float, fitted: Array, slopes: Array) -> _Fit:
        """In user units, with the line added; ``slopes`` are per range of x."""
        user = Choice(choice.lam * cube, choice.gcv * self.mean_weight * self.targets.unit**2, choice.dof)
        span = float(self.sites[-1] - self.sites[0]) or 1.0
        values = self.targets.offset + self.targets.unit * (self.line + fitted)
        return _Fit(user, _natural_spline(self.sites, values, self.targets.unit / span * (self.trend + slopes)))


def _least_squares_line(sites: Array, weights: Array, values: Array) -> tuple[Array, float]:
    """The weighted least-squares line at the sites (n,), and its slope over their range."""
    mean = float(np.average(values, weights=weights))
    span = float(sites[-1] - sites[0])
    if span == 0.0:
        return np.full(1, mean), 0.0
    place = (sites - sites[0]) / span
    place -= np.average(place, weights=weights)
    trend = float(np.sum(weights * place * values) / np.sum(weights * place**2))
    return mean + trend * place, trend


def _natural_spline(sites: Array, values: Array, slopes: Array) -> PPoly:
    """The cubic with these values and slopes at the sites, with a linear piece added at either end."""
    ends = np.array([[0.0, 0.0], [0.0, 0.0], slopes[[0, -1]], values[[0, -1]]])
    reach = float(sites[-1] - sites[0]) or max(1.0, abs(float(sites[0])))
    # A piece is a polynomial in the distance from its left end.
    ends[3, 0] -= reach * slopes[0]
    inner = CubicHermiteSpline(sites, values, slopes).c if sites.size > 1 else np.empty((4, 0))
    breaks = np.concatenate([[sites[0] - reach], sites, [sites[-1] + reach]])
    return PPoly(np.hstack([ends[:, :1], inner, ends[:, 1:]]), breaks)
