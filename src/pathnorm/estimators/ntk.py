"""Kernel ridge regression with the neural tangent kernel: what an infinitely wide network in the lazy regime fits."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from pathnorm.estimators._gcv import wanted
from pathnorm.estimators._kernel_smoother import Array, KernelSmoother, draw_centers

__all__ = ["NTKRegressor", "relu_ntk"]


class NTKRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Kernel ridge regression with the tangent kernel of an infinitely wide shallow ReLU network.

    Minimises over the space H of the kernel :func:`relu_ntk` of the standardised inputs, and over a constant b::

        sum_i (y_i - f(x_i) - b)^2  +  alpha * |f|_H^2

    That is the limit of a two-layer network in which both layers and the biases are trained by gradient flow from a
    random start, each moving infinitely little [JGH18]: a linear method, unlike the same network under weight decay.
    The bias of the output is b, which is not penalised.

    Parameters
    ----------
    alpha : "gcv" or float > 0
        Ridge parameter; ``inf`` leaves the mean of y.
    max_centers : int
        With more samples than this, f is a combination of the kernel at that many of them, drawn at random (Nyström);
        all samples enter the squared loss. Time is O(N K² + K³), memory O(K²) for K centres.
    random_state : int, RandomState or None
        For that draw.

    Attributes
    ----------
    alpha_ : float
        Ridge parameter used, for standardised inputs.
    df_ : float
        Effective degrees of freedom: the trace of the map from y to the fit.
    gcv_ : float
        ``N sum_i (y_i - f(x_i) - b)^2 / (N - df)^2``; ``inf`` where no residual degrees of freedom are left.
    centers_ : array (K, d)
        Centres, in user units.
    n_features_in_ : int
        Number of inputs d.

    References
    ----------
    .. [JGH18] Jacot, Gabriel, Hongler, "Neural tangent kernel", NeurIPS 2018.
    """

    def __init__(
        self,
        alpha: float | str = "gcv",
        *,
        max_centers: int = 2000,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.alpha = alpha
        self.max_centers = max_centers
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the kernel ridge regression.

        Parameters
        ----------
        X : array (N, d)
            Inputs; each is standardised, so their units do not matter.
        y : array (N,)
            Targets.

        Returns
        -------
        self
        """
        alpha = wanted("alpha", self.alpha)
        points, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._mean, self._scale = points.mean(axis=0), points.std(axis=0)
        # An input that does not vary has a standard deviation of rounding errors.
        self._scale[self._scale <= 1e-14 * np.abs(points).max(axis=0)] = 1.0
        centers = draw_centers(len(points), self.max_centers, self.random_state)
        self._smoother = KernelSmoother.fit(
            relu_ntk,
            _constant,
            (points - self._mean) / self._scale,
            np.asarray(targets, dtype=np.float64),
            centers=centers,
            lam=alpha,
        )
        self.alpha_, self.gcv_, self.df_ = self._smoother.choice
        self.centers_ = points[centers]
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Values of the fitted function.

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
        return self._smoother((points - self._mean) / self._scale)


def relu_ntk(inputs: Array, others: Array) -> Array:
    """Tangent kernel of ``sqrt(2 / K) sum_k v_k (w_k'x / sqrt(d) + b_k)_+`` for v, w, b standard normal, K to infinity.

    With ``u = (x / sqrt(d), 1)``, ``u' = (x' / sqrt(d), 1)`` and the angle t between them::

        |u| |u'| (sin t + (pi - t) cos t) / pi  +  u.u' (pi - t) / pi

    The first term comes from training v and is the arc-cosine kernel of order one [CS09], the second from training w
    and b and has that of order zero. The first layer is scaled so that standardised inputs and the bias weigh the same.

    Parameters
    ----------
    inputs : array (M, d)
        Inputs x.
    others : array (K, d)
        Inputs x'.

    Returns
    -------
    array (M, K)

    References
    ----------
    .. [CS09] Cho, Saul, "Kernel methods for deep learning", NeurIPS 2009.
    """
    unit, length = _on_sphere(inputs)
    other, other_length = _on_sphere(others)
    # The arc cosine of a scalar product has half the digits where it is near one.
    angle = 2.0 * np.arctan2(cdist(unit, other), cdist(unit, -other))
    both = length[:, None] * other_length
    return np.asarray(both / np.pi * (np.sin(angle) + 2.0 * (np.pi - angle) * np.cos(angle)))


def _on_sphere(inputs: Array) -> tuple[Array, Array]:
    lifted = np.column_stack([inputs / np.sqrt(inputs.shape[1]), np.ones(len(inputs))])
    length = np.linalg.norm(lifted, axis=1)
    return lifted / length[:, None], length


def _constant(inputs: Array) -> Array:
    return np.ones((len(inputs), 1))
