"""Regression and classification over R-BV²(R^d): shallow ReLU networks at the global optimum of weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from pathnorm.estimators._standard import Standard
from pathnorm.problems.losses import Loss, loss_of
from pathnorm.problems.variation import RBV2Problem
from pathnorm.representer.dual_norm import CERTIFY
from pathnorm.solvers.rbv2 import rbv2, rbv2_lam_max
from pathnorm.solvers.relaxed import relaxed_network
from pathnorm.spaces import ShallowNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ReLUClassifier", "ReLURegressor"]

Matrix = NDArray[np.float64]

REGRESSION = ("squared", "huber", "absolute", "quantile", "poisson")
CLASSIFICATION = ("logistic", "squared_hinge")


def checked_weights(sample_weight: ArrayLike | None, X: Matrix) -> Matrix | None:
    """Weights (N,), not negative and not all zero."""
    if sample_weight is None:
        return None
    weights = np.asarray(_check_sample_weight(sample_weight, X, ensure_non_negative=True))
    if not (weights > 0.0).any():
        raise ValueError("sample_weight must be positive for some samples; got zeros only, which leaves no samples.")
    return weights


class _ReLUBase(BaseEstimator):  # type: ignore[misc]
    """What regression and classification share: from samples to a certified network."""

    lam: float
    loss: str
    interactions: int | None
    affine: str
    ridge: float | None
    standardize: bool
    relaxed: bool
    certify: str
    certify_seconds: float
    max_neurons: int | None
    warm_start: bool
    max_iter: int
    tol: float
    random_state: Any

    def _fit(self, X: Matrix, Y: Matrix, loss: Loss, sample_weight: ArrayLike | None) -> Self:
        """Standardise, solve, and store what was learnt."""
        weights = checked_weights(sample_weight, X)
        self._refuse()
        self._kept = np.ones(len(X), bool) if weights is None else weights > 0.0
        previous = getattr(self, "network_", None) if self.warm_start else None
        if previous is not None and (previous.W.shape[1], previous.c.size) != (X.shape[1], Y.shape[1]):
            previous = None
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.standard_ = Standard.of(X, weights, on=self.standardize)
        if previous is not None:
            previous = self.standard_.inner(previous)
        problem = RBV2Problem.from_samples(
            self.standard_.transform(X),
            Y,
            lam=self.lam,
            loss=loss,
            weights=weights,
            affine=self.affine,  # type: ignore[arg-type]
            ridge=self.ridge,
            interactions=self.interactions,
        )
        return self._keep(problem, seed, previous)

    def _keep(self, problem: RBV2Problem, seed: int, start: ShallowNet | None) -> Self:
        self.solution_ = rbv2(
            problem,
            start=start,
            tol=self.tol,
            max_iter=self.max_iter,
            max_neurons=self.max_neurons,
            level=self.certify,  # type: ignore[arg-type]
            seconds=self.certify_seconds,
            seed=seed,
        )
        self.certificate_ = self.solution_.certificate
        self.n_iter_ = max(1, self.solution_.n_iter)
        self._seed = seed
        self._inner = self.solution_.coef
        if self.relaxed:
            self._inner = relaxed_network(problem, self._inner)
        self.network_ = self.standard_.outer(self._inner)
        self.n_neurons_ = self.network_.n_neurons
        self.__dict__.pop("_lam_max", None)
        return self

    def _refuse(self) -> None:
        if self.certify not in CERTIFY:
            raise ValueError(f"certify must be one of {', '.join(CERTIFY)}; got {self.certify!r}.")
        if not self.tol > 0.0:
            raise ValueError(f"tol must be > 0, a relative gap; got {self.tol!r}.")

    def _outputs(self, X: ArrayLike) -> Matrix:
        """``f`` (M, D), before any link, computed in the standardised coordinates."""
        check_is_fitted(self)
        points = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        return np.asarray(self._inner(self.standard_.transform(points)))

    @property
    def lam_max_(self) -> float:
        """Smallest ``lam`` whose solution is affine; computed when it is first asked for."""
        check_is_fitted(self)
        if "_lam_max" not in self.__dict__:
            self._lam_max = rbv2_lam_max(self.solution_.problem, seed=self._seed)
        return float(self._lam_max)

    @property
    def directions_(self) -> Matrix:
        """Unit input directions (K, d) in standardised coordinates, the one with the most mass first.

        The directions in which the function bends; it is affine along all others.
        """
        check_is_fitted(self)
        inner = self.solution_.coef
        norms = np.linalg.norm(inner.W, axis=1)
        mass = norms * np.linalg.norm(inner.V, axis=1)
        order = np.argsort(-mass)
        return np.asarray(inner.W[order] / norms[order, None])

    def summary(self) -> str:
        """One honest line about the fit: its size, and what is known of its distance from the optimum."""
        check_is_fitted(self)
        noun = "neuron" if self.n_neurons_ == 1 else "neurons"
        return f"{self.n_neurons_} {noun}; {self.certificate_.sentence}"

    def formula(self, digits: int = 4) -> str:
        """The fitted function as text, in the units of the user, one neuron per line."""
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        return self.network_.formula(None if names is None else list(names), digits=digits)

    def plot(self, kind: str = "auto") -> Figure:
        """Figure of the fit; needs ``pathnorm[plot]``.

        Parameters
        ----------
        kind : {"auto", "function", "measure", "landscape", "effects"}
            For two features ``"function"`` with the hinges of the neurons, ``"measure"`` with the Radon measure on the
            cylinder beside it, ``"landscape"`` of ``||h(w, b)|| / lam`` over directions and offsets, which shows why no
            further neuron helps. With ``interactions``, ``"effects"``: what every feature and every pair adds.
        """
        from pathnorm.report.effects import plot_effects, plot_function
        from pathnorm.report.landscape import plot_landscape
        from pathnorm.report.radon_plots import plot_measure

        check_is_fitted(self)
        kinds = ("function", "measure", "landscape", "effects")
        if kind == "auto":
            kind = "effects" if self.interactions is not None or self.n_features_in_ != 2 else "function"
        if kind not in kinds:
            raise ValueError(f"kind must be auto or one of {', '.join(kinds)}; got {kind!r}.")
        if kind == "effects":
            if (np.count_nonzero(self.network_.W, axis=1) > 2).any():
                raise ValueError(
                    "effects can be drawn where neurons see at most two features; got neurons that see more. "
                    "Fit with interactions=1 or 2."
                )
            return plot_effects(self)
        if self.n_features_in_ != 2:
            raise ValueError(f"{kind} can be drawn for two features; got {self.n_features_in_}.")
        if kind == "measure":
            problem = self.solution_.problem
            return plot_measure(self.solution_.coef, problem.X + problem.origin)
        return plot_landscape(self) if kind == "landscape" else plot_function(self)


class ReLURegressor(RegressorMixin, _ReLUBase):  # type: ignore[misc]
    """Shallow ReLU network at the global optimum of its weight decay, with a certificate.

    Minimises over all functions f of d variables::

        sum_n s_n loss(y_n, f(x_n))  +  lam * R-TV²(f)

    where ``R-TV²(f)`` is the second-order total variation in the Radon domain: of a network
    ``f(x) = sum_k v_k (w_k' x - b_k)_+ + A' x + c`` it is the path norm ``sum_k ||w_k||_2 ||v_k||_2``, half the
    smallest sum of squared weights of networks that are f. Biases and the affine part are free. Some solution is a
    network with fewer than N neurons [PN21]; what is found is certified from the answer alone. Several outputs share
    neurons [SPNS24].

    Parameters
    ----------
    lam : float
        Positive; in units of loss times x over f. From ``lam_max_`` on the fit is affine.
    loss : {"squared", "huber", "absolute", "quantile", "poisson"}
        Squared is ``(y - f)^2 / 2``. For poisson f is the log-mean, and :meth:`predict` gives the mean.
    delta : float
        For huber: residuals up to here count squared; in units of y.
    quantile : float
        For quantile: which one, in (0, 1).
    interactions : {None, 1, 2}
        Neurons see at most that many features: an additive model, or one with pairwise terms. Its certificate is
        exact in any dimension.
    affine : {"free", "ridge", "none"}
        Whether ``A`` is free, costs ``ridge ||A||^2 / 2``, or is zero; ``c`` is always free. A free affine part
        interpolates where d + 1 >= N, and for poisson has no best value where counts can be separated from zeros.
    ridge : float, optional
        For ``affine="ridge"``; equal to ``lam`` if it is not given.
    standardize : bool
        The norm does not change under rotations and shifts but depends on the units of the features. With True every
        feature is divided by its standard deviation; ``lam``, path norm and ``certificate_`` refer to that,
        ``network_`` to the features as they came.
    relaxed : bool
        Refit the output weights and the affine part of the selected neurons without penalty, which removes the
        shrinkage; ``certificate_`` still speaks of the penalised network, ``solution_.coef``.
    certify : {"auto", "exact", "search"}
        How neurons beyond the answer are looked at: by the strongest method that is likely to end in
        ``certify_seconds``, all of them however long it takes (up to three dimensions, or with interactions), or by a
        search that proves nothing.
    certify_seconds : float
        For the certificate.
    max_neurons : int, optional
        Largest number of neurons; what that costs can be read off the certificate.
    warm_start : bool
        Start from the network of the last call of ``fit``.
    max_iter : int
        Largest number of rounds of the solver.
    tol : float
        Largest relative duality gap to accept without a warning.
    random_state : int, RandomState or None
        Of the search for neurons.

    Attributes
    ----------
    network_ : ShallowNet
        The function f, in the units of X.
    certificate_ : Certificate
        ``dual <= optimum <= primal`` and over which neurons; ``certificate_.sentence`` says it in words.
    n_neurons_ : int
    lam_max_ : float
        Smallest ``lam`` whose solution is affine.
    directions_ : array (K, d)
        Unit input directions in standardised units, ranked by mass.
    solution_ : Solution
        What the solver returned: problem, status, and ``coef``, the network in standardised units.
    standard_ : Standard
        ``mean`` and ``scale`` of the features.
    n_iter_ : int
        Rounds of the solver.
    n_features_in_ : int

    References
    ----------
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    .. [SPNS24] Shenouda, Parhi, Lee, Nowak, "Variation spaces for multi-output neural networks", JMLR 25, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from pathnorm import ReLURegressor
    >>> X = np.random.default_rng(0).uniform(-1.0, 1.0, (100, 2))
    >>> model = ReLURegressor(lam=0.1).fit(X, np.abs(X[:, 0] + X[:, 1]))
    >>> model.n_neurons_, model.certificate_.scope
    (1, 'function_space')
    """

    def __init__(
        self,
        lam: float = 1.0,
        *,
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
        self.lam = lam
        self.loss = loss
        self.delta = delta
        self.quantile = quantile
        self.interactions = interactions
        self.affine = affine
        self.ridge = ridge
        self.standardize = standardize
        self.relaxed = relaxed
        self.certify = certify
        self.certify_seconds = certify_seconds
        self.max_neurons = max_neurons
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : array (N, d)
        y : array (N,) or (N, D)
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
        X, Y, loss = self._checked(X, y)
        return self._fit(X, Y, loss, sample_weight)

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[Matrix, Matrix, Loss]:
        points, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        loss = loss_of(self.loss, delta=self.delta, quantile=self.quantile, among=REGRESSION)
        Y = np.asarray(y, dtype=np.float64)
        self._one_output = Y.ndim == 1
        return np.asarray(points), Y[:, None] if Y.ndim == 1 else Y, loss

    def predict(self, X: ArrayLike) -> Matrix:
        """Mean, or quantile, of y at X (M, d): array (M,) or (M, D), as y was given."""
        F = self._outputs(X)
        if self.loss == "poisson":
            F = np.exp(F)
        return F[:, 0] if self._one_output else F

    def __sklearn_tags__(self) -> Any:
        """Tags: several outputs are welcome."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags


def _has_probabilities(model: Any) -> bool:
    if model.loss == "logistic":
        return True
    raise AttributeError(f'probabilities need loss="logistic"; got {model.loss!r}. Use decision_function.')


class ReLUClassifier(ClassifierMixin, _ReLUBase):  # type: ignore[misc]
    """Shallow ReLU network for classes, at the global optimum of its weight decay, with a certificate.

    As :class:`ReLURegressor`, with f the log-odds of the second of two classes, the logits of more, or margins.

    Parameters
    ----------
    lam, interactions, standardize, relaxed, certify, certify_seconds
        As in :class:`ReLURegressor`.
    max_neurons, warm_start, max_iter, tol, random_state
        As in :class:`ReLURegressor`.
    loss : {"logistic", "squared_hinge"}
        Logistic is the multinomial loss for three classes and more; ``squared_hinge`` is ``max(0, 1 - y f)^2 / 2``,
        with one output per class for three and more.
    affine : {"ridge", "free", "none"}
        A free affine part has no best value where a hyperplane separates the classes, hence the ridge.
    ridge : float, optional
        Equal to ``lam`` if it is not given.

    Attributes
    ----------
    classes_ : array
    network_, certificate_, n_neurons_, lam_max_, directions_, solution_, standard_, n_iter_, n_features_in_
        As in :class:`ReLURegressor`. For three classes and more ``network_`` has one output each, with shared neurons.
    """

    def __init__(
        self,
        lam: float = 1.0,
        *,
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
        self.lam = lam
        self.loss = loss
        self.interactions = interactions
        self.affine = affine
        self.ridge = ridge
        self.standardize = standardize
        self.relaxed = relaxed
        self.certify = certify
        self.certify_seconds = certify_seconds
        self.max_neurons = max_neurons
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : array (N, d)
        y : array (N,)
            Labels of two classes or more.
        sample_weight : array (N,), optional
            Not negative.

        Returns
        -------
        self

        Warns
        -----
        CertificateWarning
            If the gap did not reach ``tol``.
        """
        X, Y, loss = self._checked(X, y, sample_weight)
        return self._fit(X, Y, loss, sample_weight)

    def _checked(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Matrix, Matrix, Loss]:
        found, y = validate_data(self, X, y, dtype=np.float64)
        points = np.asarray(found)
        check_classification_targets(y)
        if self.loss not in CLASSIFICATION:
            raise ValueError(f"loss must be one of {', '.join(CLASSIFICATION)}; got {self.loss!r}.")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.classes_.size < 2:
            raise ValueError(
                f"At least two classes are needed to tell them apart; got one class: {self.classes_[0]!r}."
            )
        weights = checked_weights(sample_weight, points)
        if weights is not None:
            seen = np.unique(labels[weights > 0.0])
            if seen.size < 2:
                raise ValueError("At least two classes need a positive sample_weight; got one class with weight.")
        if self.classes_.size == 2:
            Y = labels[:, None].astype(np.float64)
        else:
            Y = (labels[:, None] == np.arange(self.classes_.size)).astype(np.float64)
        if self.loss == "squared_hinge":
            return points, 2.0 * Y - 1.0, loss_of("squared_hinge", among=CLASSIFICATION)
        if self.classes_.size == 2:
            return points, Y, loss_of("logistic")
        return points, Y, loss_of("multinomial", among=("multinomial",))

    def decision_function(self, X: ArrayLike) -> Matrix:
        """Log-odds or margin (M,) of the second of two classes, or one column per class (M, C)."""
        F = self._outputs(X)
        return F[:, 0] if self.classes_.size == 2 else F

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class at X (M, d)."""
        F = self.decision_function(X)
        chosen = (F > 0.0).astype(int) if F.ndim == 1 else F.argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> Matrix:
        """Probabilities (M, C) of the classes; for the logistic loss."""
        F = self._outputs(X)
        if self.classes_.size == 2:
            return np.hstack((expit(-F), expit(F)))
        return np.asarray(softmax(F, axis=1))
