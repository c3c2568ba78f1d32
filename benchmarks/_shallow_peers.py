"""How others train a shallow ReLU network whose weight decay is our penalty; each ends with a network of ours.

A method is a function of the samples, ``lam`` and a seed that returns a :class:`Trained`. Its seconds are those of the
training alone; imports and conversions are not counted.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._isolated import RefusedError, stopwatch

__all__ = ["ADAM_SECONDS", "PEERS", "WIDTH", "Trained"]

WIDTH = 500  # neurons of L-BFGS and of Adam
GATES = 500
ADAM_SECONDS = 120.0
ADAM_RATE, ADAM_LEAST_RATE, ADAM_CHECK, ADAM_FALL = 1e-2, 1e-4, 500, 1e-5


@dataclass
class Trained:
    """A network as arrays of ShallowNet, its own predictions, and what else there is to say.

    Without arrays there is no ReLU network; ``start`` are then the input weights and biases that a refit may use.
    """

    spent: dict[str, float]
    arrays: tuple[np.ndarray, ...] | None
    predict: Callable[[np.ndarray], np.ndarray]
    start: tuple[np.ndarray, np.ndarray] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def sklearn_lbfgs(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """scikit-learn's MLP, wide, by full-batch L-BFGS.

    It minimises ``1/(2N) sum (y - f)^2 + alpha / (2N) (||W||^2 + ||V||^2)`` over networks without affine part; times N
    and with ``alpha = lam`` that is our objective at balanced weights, without what the affine part gains.
    """
    from sklearn.neural_network import MLPRegressor

    settings = {"alpha": lam, "max_iter": 5000, "max_fun": 10**7, "tol": 1e-9, "random_state": seed}
    model = MLPRegressor(hidden_layer_sizes=(WIDTH,), solver="lbfgs", **settings)
    return _sklearn(model, X, y)


def sklearn_default(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """scikit-learn's MLP as it comes: 100 units, Adam on batches of 200, alpha 1e-4; another objective."""
    from sklearn.neural_network import MLPRegressor

    return _sklearn(MLPRegressor(random_state=seed), X, y)


def _sklearn(model: Any, X: np.ndarray, y: np.ndarray) -> Trained:
    clock = stopwatch()
    model.fit(X, y)
    spent = clock()
    (W, V), (b, c) = model.coefs_, model.intercepts_
    arrays = (W.T, -b, V, np.zeros((X.shape[1], 1)), c)
    facts = {"iterations": int(model.n_iter_), "converged": int(model.n_iter_) < model.max_iter}
    return Trained(spent, arrays, model.predict, facts=facts)


def adam(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """torch's Adam on all samples: ``1/2 sum (y - f)^2 + lam/2 (||W||^2 + ||V||^2)``, affine part and biases free.

    The rate is cut to a third whenever the objective falls by less than 1e-5 in 500 steps; below 1e-4 that is the end.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    points, targets = torch.tensor(X), torch.tensor(y)[:, None]
    inner = torch.nn.Linear(X.shape[1], WIDTH, dtype=torch.float64)
    outer = torch.nn.Linear(WIDTH, 1, bias=False, dtype=torch.float64)
    affine = torch.nn.Linear(X.shape[1], 1, dtype=torch.float64)
    parameters = [*inner.parameters(), *outer.parameters(), *affine.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=ADAM_RATE)

    def objective() -> Any:
        residual = targets - outer(torch.relu(inner(points))) - affine(points)
        return 0.5 * (residual**2).sum() + 0.5 * lam * ((inner.weight**2).sum() + (outer.weight**2).sum())

    clock, steps, before, converged = stopwatch(), 0, math.inf, False
    while clock()["seconds"] < ADAM_SECONDS:
        optimiser.zero_grad()
        value = objective()
        value.backward()
        optimiser.step()
        if steps % ADAM_CHECK == 0:
            now = float(value.detach())
            if now > before * (1.0 - ADAM_FALL):
                rate = optimiser.param_groups[0]["lr"] / 3.0
                if rate < ADAM_LEAST_RATE:
                    converged = True
                    break
                optimiser.param_groups[0]["lr"] = rate
            before = now
        steps += 1
    spent = clock()
    W, b, V = (part.detach().numpy().copy() for part in (inner.weight, inner.bias, outer.weight))
    A, c = (part.detach().numpy().copy() for part in (affine.weight, affine.bias))
    facts = {"iterations": steps, "converged": converged, "own_objective": float(objective().detach())}

    def predict(Z: np.ndarray) -> np.ndarray:
        return np.asarray((np.maximum(Z @ W.T + b, 0.0) @ V.T + Z @ A.T + c)[:, 0])

    return Trained(spent, (W, -b, V.T, A.T, c), predict, facts=facts)


def pyscnn_relu(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """pyscnn's convex reformulation with cones, solved by its augmented Lagrangian, gates through the origin."""
    return _pyscnn("relu", X, y, lam, seed)


def pyscnn_hinges(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """The same with the offsets of the gates drawn so that they go through samples, which its defaults do not do."""
    return _pyscnn("relu", X, y, lam, seed, through_samples=True)


def pyscnn_gated(X: np.ndarray, y: np.ndarray, lam: float, seed: int) -> Trained:
    """pyscnn's gated network by R-FISTA. It jumps, so its path norm is infinite; a refit uses its gates as neurons."""
    return _pyscnn("gated_relu", X, y, lam, seed)


def _pyscnn(
    formulation: str, X: np.ndarray, y: np.ndarray, lam: float, seed: int, *, through_samples: bool = False
) -> Trained:
    """What ``scnn.optimize`` builds, with its default solvers and tolerances.

    It minimises ``1/(2N) sum (y - f)^2 + lam' sum_i ||(u_i, bias_i)||`` in units where columns have norm one, which is
    its default: ``lam' = lam / (N s)``, with s the mean norm of the columns, is our penalty but for the biases.
    """
    if importlib.util.find_spec("scnn") is None:
        raise RefusedError("not installed: pip install --no-deps pyscnn==0.0.10 linalg_backends==0.0.1b0")
    from scnn.activations import sample_gate_vectors
    from scnn.metrics import Metrics
    from scnn.models import ConvexGatedReLU, ConvexReLU
    from scnn.optimize import optimize_model
    from scnn.regularizers import NeuronGL1
    from scnn.solvers import AL, RFISTA

    gated = formulation == "gated_relu"
    gates = sample_gate_vectors(seed, X.shape[1], GATES)
    offsets = np.zeros(GATES)
    if through_samples:
        chosen = np.random.default_rng(seed).integers(len(X), size=GATES)
        offsets = -np.einsum("kd,dk->k", X[chosen], gates)
    model = (ConvexGatedReLU if gated else ConvexReLU)(gates, c=1, bias=True, G_bias=offsets)
    solver = RFISTA(model) if gated else AL(model)
    regularizer = NeuronGL1(lam / len(X) / float(np.linalg.norm(X, axis=0).mean()))
    clock = stopwatch()
    found, _ = optimize_model(model, solver, Metrics(), X, y[:, None], regularizer=regularizer, seed=seed)
    spent = clock()

    def predict(Z: np.ndarray) -> np.ndarray:
        return np.asarray(found(Z), dtype=np.float64).reshape(len(Z))

    if gated:
        kept = np.asarray(found.parameters[-1], dtype=np.float64)[0] != 0.0
        start = (np.asarray(found.G, dtype=np.float64).T[kept], -np.asarray(found.G_bias, dtype=np.float64)[kept])
        return Trained(spent, None, predict, start=start, facts={"gates": int(kept.sum())})
    W, b, V = (np.asarray(part, dtype=np.float64) for part in found.parameters)
    return Trained(spent, (W, -b, V.T, np.zeros((X.shape[1], 1)), np.zeros(1)), predict)


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, float, int], Trained]] = {
    "lbfgs": sklearn_lbfgs,
    "adam": adam,
    "mlp": sklearn_default,
    "pyscnn_relu": pyscnn_relu,
    "pyscnn_hinges": pyscnn_hinges,
    "pyscnn_gated": pyscnn_gated,
}
