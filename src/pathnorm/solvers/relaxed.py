"""The relaxed refit: the neurons that the penalty chose, with output weights that it no longer shrinks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pathnorm.problems.losses import Pinball, SmoothedPinball
from pathnorm.problems.variation import Affine, RBV2Problem
from pathnorm.spaces import ShallowNet

__all__ = ["relaxed_network"]


def relaxed_network(problem: RBV2Problem, net: ShallowNet) -> ShallowNet:
    """Minimise the loss over output weights and affine part of the neurons of ``net``, directions and biases held.

    Neurons are features here and the fit is that of the best affine function; as many neurons as samples interpolate.
    Where the affine part has a ridge, a hundredth of it is left, on output weights as well, so that there is a minimum.
    """
    inner = problem.centred(net)
    if inner.n_neurons == 0:
        return net
    norms = np.maximum(np.linalg.norm(inner.W, axis=1), 1e-300)
    hidden = np.maximum(problem.X @ (inner.W / norms[:, None]).T - inner.b / norms, 0.0)
    means = np.average(hidden, axis=0, weights=problem.weights)
    features = hidden - means
    free = problem.affine != "none"
    if free:
        features = np.hstack((problem.X, features))
    loss, d = problem.loss, problem.n_features if free else 0
    if isinstance(loss, Pinball):
        spread = float(np.abs(problem.Y - np.median(problem.Y, axis=0)).mean())
        loss = SmoothedPinball(loss.low, loss.high, 1e4 / max(spread, 1e-300))
    affine: Affine = "ridge" if problem.affine == "ridge" else "free"
    fit = replace(
        problem,
        X=features,
        loss=loss,
        affine=affine,
        ridge=0.01 * problem.ridge,
        origin=np.zeros(features.shape[1]),
        interactions=None,
    ).fit_affine()
    V = fit.A[d:]
    A = fit.A[:d] if free else np.zeros_like(inner.A)
    return problem.uncentred(ShallowNet(inner.W / norms[:, None], inner.b / norms, V, A, fit.c - means @ V))
