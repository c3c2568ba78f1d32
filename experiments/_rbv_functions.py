"""Functions of unit norm in R-BV² on the unit ball, and how far two functions are apart there.

Three kinds, for three questions. A *few* neurons: what a network finds and no linear space holds. *Many* neurons with
random signs and equal masses: with twice as many as the approximant has, the hard case for networks. The *norm*
``||x||``, whose measure is spread evenly over all directions: the zonoid problem of Bourgain, Lindenstrauss and Milman.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gamma, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from pathnorm import ShallowNet

__all__ = ["ball", "largest_error", "norm_factor", "random_net", "root_mean_square", "scaled_norm"]

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
_STARTS, _ROUNDS = 16, 25  # of the search for the largest error


def ball(count: int, d: int, rng: np.random.Generator) -> Array:
    """Points (count, d), uniform in the unit ball."""
    X = rng.standard_normal((count, d))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X * rng.random((count, 1)) ** (1.0 / d))


def random_net(d: int, neurons: int, rng: np.random.Generator) -> ShallowNet:
    """Neurons of equal mass and random sign, in all of mass one; their hinges pass through uniform points of the ball.

    Offsets drawn evenly between -1 and 1 would leave many hinges in many dimensions where the ball has no volume.
    """
    W = rng.standard_normal((neurons, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    b = np.einsum("kd,kd->k", W, ball(neurons, d, rng))
    V = rng.choice([-1.0, 1.0], (neurons, 1)) / neurons
    return ShallowNet(W, b, V, np.zeros((d, 1)), np.zeros(1))


def norm_factor(d: int) -> float:
    """The c for which ``c ||x||`` has norm one in R-BV²: half of ``E |w_1|``, w uniform on the sphere.

    ``||x|| = E |w'x| / E |w_1|`` and the slope of ``|t|`` jumps by two.
    """
    return gamma(d / 2.0) / (2.0 * sqrt(pi) * gamma((d + 1.0) / 2.0))


def scaled_norm(d: int) -> Function:
    """``c ||x||`` of norm one in R-BV²."""
    c = norm_factor(d)
    return lambda X: np.asarray(c * np.linalg.norm(X, axis=1))


def root_mean_square(values: Array) -> float:
    """L2 norm for the uniform measure on the points."""
    return float(np.sqrt(np.mean(values**2)))


def largest_error(
    error: Function, d: int, rng: np.random.Generator, *, count: int = 20_000, starts: Array | None = None
) -> tuple[float, float]:
    """Largest ``|error|`` on a sample of the ball, and after a local search from the worst points.

    Half of the sample is uniform in the ball, half on the sphere, where errors like to be large; ``starts`` (M, d) are
    further points. Both numbers are lower estimates of the supremum; the second is never below the first.
    """
    inside, outside = ball(count - count // 2, d, rng), rng.standard_normal((count // 2, d))
    outside /= np.linalg.norm(outside, axis=1, keepdims=True)
    points = np.concatenate([inside, outside] + ([] if starts is None else [starts]))
    heights = np.abs(error(points))
    best = np.argsort(-heights)[:_STARTS]
    x, height, step = points[best].copy(), heights[best].copy(), np.full(len(best), 0.1)
    sampled = float(height[0])
    for _ in range(_ROUNDS):
        trial = x + step[:, None] * rng.standard_normal(x.shape) / sqrt(d)
        trial /= np.maximum(1.0, np.linalg.norm(trial, axis=1, keepdims=True))
        found = np.abs(error(trial))
        better = found > height
        x[better], height[better] = trial[better], found[better]
        step *= np.where(better, 1.2, 0.7)
    return sampled, float(max(sampled, height.max()))
