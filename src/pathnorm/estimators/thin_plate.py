"""Thin-plate smoothing splines as a scikit-learn regressor: the linear method for several inputs."""

from __future__ import annotations

from functools import partial
from typing import Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import xlogy
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from pathnorm.estimators._gcv import wanted
from pathnorm.estimators._kernel_smoother import Array, KernelSmoother, draw_centers

__all__ = ["ThinPlateRegressor"]

_FLAT = 1e-10  # of the widest direction: thinner ones have no slope of their own


class ThinPlateRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Thin-plate (Duchon) smoothing spline, with the smoothing parameter chosen by generalised cross-validation.

    ``f(x) = sum_j c_j phi(|x - x_j|) + a'x + b`` with ``sum_j c_j = 0`` and ``sum_j c_j x_j = 0`` minimises::

        sum_i (y_i - f(x_i))^2  +  lam * c' phi(|x_i - x_j|) c

    where ``phi(r)`` is r³ for one input, r² log r for two, and -r for three and more. The penalty is a constant
    multiple of ``int |F(D²f)(w)|² |w|^(2s) dw`` with ``s = max(0, (d - 3) / 2)``, F the Fourier transform: for d <= 3
    that is ``int |D²f|²``, the cubic smoothing spline and the thin plate [W90]. For d > 3 second derivatives alone do
    not make point values finite (2m > d fails for m = 2), and a higher m would leave all polynomials of a degree
    growing with d unpenalised: 3003 of them for d = 10. Weighting high frequencies by s keeps the free part affine
    [D77].

    One common factor scales the inputs to a cube, so the fit follows rotations, translations and changes of unit of X
    as a whole; inputs in different units should be standardised first.

    Parameters
    ----------
    lam : "gcv" or float > 0
        Smoothing parameter, in units of x to the power of phi; ``inf`` is the least-squares affine function.
    max_centers : int
        With more samples than this, the sum runs over that many of them, drawn at random; all samples enter the squared
        loss. Time is O(N K² + K³), memory O(K²) for K centres.
    random_state : int, RandomState or None
        For that draw.

    Attributes
    ----------
    lam_ : float
        Smoothing parameter used, in user units.
    df_ : float
        Effective degrees of freedom: the trace of the map from y to the fit.
    gcv_ : float
        ``N sum_i (y_i - f(x_i))^2 / (N - df)^2``; ``inf`` where no residual degrees of freedom are left.
    degree_ : int
        Degree of the free polynomial. It is 1, or 0 where an affine function would already interpolate (N <= d + 1 in
        general position); then phi is -r, whose penalty leaves the constants free.
    centers_ : array (K, d)
        Centres, in user units.
    n_features_in_ : int
        Number of inputs d.

    Notes
    -----
    Where the samples lie in an affine subspace, the slope across it is zero.

    References
    ----------
    .. [D77] Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", 1977.
    .. [W90] Wahba, "Spline Models for Observational Data", SIAM 1990.
    """

    def __init__(
        self,
        lam: float | str = "gcv",
        *,
        max_centers: int = 2000,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.lam = lam
        self.max_centers = max_centers
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the spline.

        Parameters
        ----------
        X : array (N, d)
            Inputs.
        y : array (N,)
            Targets.

        Returns
        -------
        self
        """
        lam = wanted("lam", self.lam)
        points, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._origin, self._unit = points.mean(axis=0), float(np.ptp(points, axis=0).max()) or 1.0
        inputs = (points - self._origin) / self._unit
        centers = draw_centers(len(points), self.max_centers, self.random_state)
        directions = _directions(inputs[centers])
        self.degree_ = int(directions.shape[1] + 1 < centers.size)
        kernel, power = _KERNELS.get(points.shape[1] if self.degree_ else 0, _RADIUS)
        unit = self._unit**power
        self._smoother = KernelSmoother.fit(
            kernel,
            partial(_polynomial, directions if self.degree_ else directions[:, :0]),
            inputs,
            np.asarray(targets, dtype=np.float64),
            centers=centers,
            lam=None if lam is None else lam / unit,
        )
        self.lam_, self.gcv_, self.df_ = self._smoother.choice
        self.lam_ *= unit
        self.centers_ = points[centers]
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Values of the spline.

        Parameters
        ----------
        X : array (M, d)
            Where.

        Returns
        -------
        array (M,)
        """
        check_is_fitted(self)
        points = validate_data(self, X, dtype=np.float64, reset=False)
        return self._smoother((points - self._origin) / self._unit)


def _cubed(inputs: Array, centers: Array) -> Array:
    return np.asarray(cdist(inputs, centers) ** 3)


def _thin_plate(inputs: Array, centers: Array) -> Array:
    squared = cdist(inputs, centers, "sqeuclidean")
    return np.asarray(0.5 * xlogy(squared, squared))


def _minus_radius(inputs: Array, centers: Array) -> Array:
    return np.asarray(-cdist(inputs, centers))


# With the power of a length that each kernel carries.
_KERNELS = {1: (_cubed, 3), 2: (_thin_plate, 2)}
_RADIUS = (_minus_radius, 1)


def _directions(inputs: Array) -> Array:
    """Orthonormal basis (d, r) of the directions in which the inputs spread."""
    _, widths, rows = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)
    return np.asarray(rows[widths > _FLAT * widths.max()].T)


def _polynomial(directions: Array, inputs: Array) -> Array:
    return np.column_stack([np.ones(len(inputs)), inputs @ directions])
