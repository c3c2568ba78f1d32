"""The models that stand beside a network on the same rows: a linear one, and boosted trees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

__all__ = ["Baseline", "fitted_baselines"]

_ALPHAS = np.logspace(-3.0, 5.0, 25)
_STRENGTHS = np.logspace(-3.0, 2.0, 6)
_FEW_ROWS = 20_000
_TREES = {"absolute": "absolute_error", "poisson": "poisson", "quantile": "quantile"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A fitted scikit-learn model, ``linear`` or ``boosting``, and what it is in words."""

    key: str
    words: str
    model: Any


def fitted_baselines(
    X: NDArray[np.float64],
    y: NDArray[Any],
    *,
    task: str,
    loss: str = "squared",
    quantile: float = 0.5,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """Fit both to X (N, d) and y (N,); for regression their losses follow ``loss`` where scikit-learn has it.

    Trees have scikit-learn's defaults; the penalty of the linear model is chosen by cross-validation.
    """
    if task == "classification":
        linear = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
            {"logisticregression__C": _STRENGTHS},
            scoring=_likelihood,
        )
        words, step = "logistic regression, its ridge penalty chosen by cross-validation", "logisticregression"
        trees = HistGradientBoostingClassifier(random_state=seed)
    else:
        name = "quantile" if loss == "absolute" else loss
        if name == "quantile":
            level = 0.5 if loss == "absolute" else quantile
            linear = make_pipeline(StandardScaler(), QuantileRegressor(quantile=level, alpha=0.0))
            words, step = "linear quantile regression without a penalty", "quantileregressor"
        else:
            linear = make_pipeline(StandardScaler(), RidgeCV(alphas=_ALPHAS))
            words, step = "ridge regression, its penalty chosen by leave-one-out", "ridgecv"
        options = {"quantile": quantile} if loss == "quantile" else {}
        trees = HistGradientBoostingRegressor(loss=_TREES.get(loss, "squared_error"), random_state=seed, **options)
    # On few rows threads wait for one another longer than they work.
    with warnings.catch_warnings(), threadpool_limits(1 if len(X) < _FEW_ROWS else None):
        # They stand beside; what they complain about (rare classes in a fold, slow convergence) is not the user's.
        warnings.simplefilter("ignore")
        linear.fit(X, y, **({} if weights is None else {f"{step}__sample_weight": weights}))
        trees.fit(X, y, sample_weight=weights)
    boosted = "gradient boosting on histograms, scikit-learn's defaults"
    return (
        Baseline(key="linear", words=words, model=linear),
        Baseline(key="boosting", words=boosted, model=trees),
    )


def _likelihood(model: Any, X: NDArray[np.float64], y: NDArray[Any]) -> float:
    """Mean log-likelihood; a class that the model never saw counts as nearly impossible, whatever its penalty."""
    place = np.minimum(np.searchsorted(model.classes_, y), len(model.classes_) - 1)
    found = np.take_along_axis(model.predict_proba(X), place[:, None], axis=1)[:, 0]
    found = np.where(model.classes_[place] == y, found, 0.0)
    return float(np.log(np.maximum(found, 1e-15)).mean())
