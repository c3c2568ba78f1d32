"""The methods of the tabular benchmark at their defaults, with the cross-validation that is the habit of each.

A method is a function ``(X, y, kind, seed) -> Fitted``; it standardises for itself where it needs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._isolated import RefusedError, stopwatch

__all__ = ["LABELS", "METHODS", "OURS", "SMOOTH", "Fitted", "preload"]

Matrix = np.ndarray
CERTIFY_SECONDS = 5.0
GP_MOST_SAMPLES = 1_000
TUNE_MOST_SAMPLES = 1_500  # rows that choose the parameters of a kernel; all rows are then fitted
GAMMAS = np.array([0.01, 0.03, 0.1, 0.3, 1.0])  # over the number of columns
ALPHAS = np.logspace(-4, 1, 6)
COSTS = np.logspace(-1, 3, 5)


@dataclass
class Fitted:
    """A scikit-learn estimator with what else there is to say."""

    model: Any
    facts: dict[str, Any] = field(default_factory=dict)


def _ours(interactions: int | None) -> Callable[[Matrix, Matrix, str, int], Fitted]:
    def fit(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
        from pathnorm import ReLUClassifierCV, ReLURegressorCV
        from pathnorm.representer.dual_norm import certify_network

        estimator = ReLURegressorCV if kind == "regression" else ReLUClassifierCV
        clock = stopwatch()
        model = estimator(interactions=interactions, certify="search", random_state=seed).fit(X, y)
        spent, clock = clock(), stopwatch()
        certificate = certify_network(
            model.solution_.problem, model.solution_.coef, level="auto", seconds=CERTIFY_SECONDS, seed=seed
        )
        return Fitted(
            model,
            {
                **spent,
                "seconds_certificate": clock()["seconds"],
                "neurons": model.n_neurons_,
                "lam_over_lam_max": model.lam_ / max(model.lam_max_, 1e-300),
                "lams_tried": len(model.path_.lams),
                "status": model.solution_.status.name,
                "sentence": certificate.sentence,
                "gap": certificate.gap,
                "scope": certificate.scope,
            },
        )

    return fit


def linear(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    """Ridge regression or logistic regression, cross-validated."""
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV

    if kind == "regression":
        return Fitted(_standardised(RidgeCV(np.logspace(-3, 3, 13))).fit(X, y))
    model = LogisticRegressionCV(
        Cs=10, cv=5, scoring="neg_log_loss", max_iter=5_000, l1_ratios=(0.0,), use_legacy_attributes=False
    )
    return Fitted(_standardised(model).fit(X, y))


def kernel(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    """Kernel ridge regression, or a support vector machine with calibrated probabilities; Gaussian kernel, grid."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    rows = np.random.default_rng(seed).permutation(len(X))[:TUNE_MOST_SAMPLES]
    grid = {"gamma": GAMMAS / X.shape[1]}
    if kind == "regression":
        base, grid = KernelRidge(kernel="rbf"), grid | {"alpha": ALPHAS}
    else:
        base, grid = SVC(), grid | {"C": COSTS}
    prefix = base.__class__.__name__.lower()
    search = GridSearchCV(_standardised(base), {f"{prefix}__{key}": values for key, values in grid.items()}, cv=5)
    centre = float(y.mean()) if kind == "regression" else 0.0
    search.fit(X[rows], y[rows] - centre)
    best = search.best_estimator_
    if kind == "regression":
        return Fitted(_Shifted(best.fit(X, y - centre), centre), dict(search.best_params_))
    return Fitted(CalibratedClassifierCV(best, cv=5, ensemble=False).fit(X, y), dict(search.best_params_))


@dataclass
class _Shifted:
    """A model of y less a constant."""

    model: Any
    centre: float

    def predict(self, X: Matrix) -> Matrix:
        return np.asarray(self.model.predict(X) + self.centre)


def gaussian_process(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    """Gaussian process with one length per feature, by marginal likelihood; up to 1,000 samples."""
    from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    if len(X) > GP_MOST_SAMPLES:
        raise RefusedError(f"not run above {GP_MOST_SAMPLES} samples")
    lengths = np.full(X.shape[1], np.sqrt(X.shape[1]))
    cover = ConstantKernel() * RBF(lengths, (1e-2, 1e4))
    if kind == "regression":
        model = GaussianProcessRegressor(cover + WhiteKernel(0.1), normalize_y=True, random_state=seed)
    else:
        model = GaussianProcessClassifier(cover, random_state=seed)
    return Fitted(_standardised(model).fit(X, y))


def mlp(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    """scikit-learn's MLP as it comes, on standardised inputs and targets."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    if kind == "regression":
        inner = _standardised(MLPRegressor(max_iter=2_000, random_state=seed))
        return Fitted(TransformedTargetRegressor(inner, transformer=StandardScaler()).fit(X, y), {"neurons": 100})
    return Fitted(_standardised(MLPClassifier(max_iter=2_000, random_state=seed)).fit(X, y), {"neurons": 100})


def hist_gradient_boosting(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    return Fitted(model(random_state=seed).fit(X, y))


def xgboost(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    from xgboost import XGBClassifier, XGBRegressor

    model = XGBRegressor if kind == "regression" else XGBClassifier
    return Fitted(model(n_jobs=1, random_state=seed).fit(X, y.astype(int) if kind == "classification" else y))


def explainable_boosting(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    """Boosted additive model with pairs, of the package interpret."""
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    model = ExplainableBoostingRegressor if kind == "regression" else ExplainableBoostingClassifier
    return Fitted(model(n_jobs=1, random_state=seed).fit(X, y))


def forest(X: Matrix, y: Matrix, kind: str, seed: int) -> Fitted:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    model = RandomForestRegressor if kind == "regression" else RandomForestClassifier
    return Fitted(model(random_state=seed).fit(X, y))


def _standardised(model: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)


METHODS: dict[str, Callable[[Matrix, Matrix, str, int], Fitted]] = {
    "ours": _ours(None),
    "ours2": _ours(2),
    "ours1": _ours(1),
    "linear": linear,
    "kernel": kernel,
    "gp": gaussian_process,
    "mlp": mlp,
    "hgb": hist_gradient_boosting,
    "xgb": xgboost,
    "ebm": explainable_boosting,
    "forest": forest,
}
OURS = ("ours", "ours2", "ours1")
SMOOTH = (*OURS, "linear", "kernel", "gp", "mlp")
LABELS = {
    "ours": "pathnorm",
    "ours2": "pathnorm, pairs",
    "ours1": "pathnorm, additive",
    "linear": "ridge / logistic",
    "kernel": "kernel ridge / SVM",
    "gp": "GP, ARD",
    "mlp": "MLP",
    "hgb": "HistGradientBoosting",
    "xgb": "XGBoost",
    "ebm": "EBM",
    "forest": "random forest",
}


def preload() -> None:
    """Import what the methods need and load our compiled code, once for all processes that are forked from here."""
    import sklearn.ensemble
    import sklearn.gaussian_process
    import sklearn.kernel_ridge
    import sklearn.linear_model
    import sklearn.neural_network
    import sklearn.svm  # noqa: F401

    from pathnorm import ReLUClassifierCV, ReLURegressorCV

    X = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 3))
    for interactions in (None, 2):
        ReLURegressorCV(interactions=interactions, n_lams=3, lam_ratio=0.1, cv=2).fit(X, np.abs(X[:, 0]) + X[:, 1])
        labels = X[:, 0] * X[:, 1] > 0.0
        ReLUClassifierCV(interactions=interactions, n_lams=3, lam_ratio=0.1, cv=2).fit(X, labels)
    for name in ("xgboost", "interpret.glassbox"):
        try:
            __import__(name)
        except ImportError:
            continue  # the rows of the peer will say so
