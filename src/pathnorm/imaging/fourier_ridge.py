"""The convex implicit representation: one hidden ReLU layer on Fourier features, seen through low-pass Fourier samples.

A network ``f(x) = sum_k v_k (w_k . gamma(x) - b_k)_+ + c`` with trigonometric features gamma is a ridge spline in
gamma; its path norm is the R-TV² norm there. So fitting it is a convex problem over measures on neurons, whatever the
width, and is solved by column generation to a duality gap, as :func:`pathnorm.solvers.rbv2` does where samples of f
itself are given.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pathnorm.errors import CertificateWarning
from pathnorm.imaging.fourier_problem import FourierRidgeProblem, features_at, unit_rows
from pathnorm.problems import MultitaskLasso
from pathnorm.problems.certificate import Certificate
from pathnorm.representer.local_search import LocalSearch
from pathnorm.solvers import Status, multitask_lasso
from pathnorm.spaces import ShallowNet

__all__ = ["FourierRidge", "fit_fourier_ridge"]

Matrix = NDArray[np.float64]
Complex = NDArray[np.complex128]

_SCANS, _CLIMBS = 256, 24
_SLIDES = 60
_SAME = 1e-9  # squared distance of neurons, relative to that of the features, below which two are one
_PATIENCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class FourierRidge:
    """A network on Fourier features and what is known about it.

    Attributes
    ----------
    image : array of ``shape``
    network : ShallowNet
        A function of the features.
    certificate : Certificate
        Objective and lower bound, recomputed from the network.
    misfit : float
        ``||F f - y||``.
    """

    image: Matrix
    network: ShallowNet
    problem: FourierRidgeProblem
    certificate: Certificate
    status: Status
    rounds: int
    misfit: float

    @property
    def neurons(self) -> int:
        """Width of the network."""
        return self.network.n_neurons

    @property
    def path_norm(self) -> float:
        """``sum_j ||w_j|| |v_j|``."""
        return self.network.path_norm()

    def __call__(self, points: Any) -> Matrix:
        """Return f at points (n, dimension) of the unit torus."""
        return np.asarray(self.network(features_at(np.asarray(points, dtype=np.float64), self.problem.cutoff))[:, 0])

    def __str__(self) -> str:
        certificate = self.certificate
        return (
            f"minimised  1/2 ||F f - y||^2 + {self.problem.lam:.4g} sum_j ||w_j|| |v_j| over networks of any width\n"
            f"objective  {certificate.primal:.8g} (exact), {certificate.sentence}\n"
            f"neurons    {self.neurons} (exact), path norm {self.path_norm:.6g} (exact)\n"
            f"misfit     {self.misfit:.6g} (exact)\nstatus     {self.status.value} after {self.rounds} rounds"
        )


def fit_fourier_ridge(
    samples: Any,
    shape: tuple[int, ...],
    *,
    cutoff: float,
    lam: float,
    tol: float = 1e-4,
    max_rounds: int = 60,
    seconds: float = 30.0,
) -> FourierRidge:
    """Minimise ``1/2 ||F f - y||^2 + lam sum_j ||w_j|| |v_j|`` over ReLU networks of any width on Fourier features.

    Column generation: neurons where ``|h|`` exceeds lam are added, the lasso over all at hand is solved, and the
    neurons slide. It ends on the gap, or when no new neuron helps.

    Parameters
    ----------
    samples : complex array (2 K + 1,) or (2 K + 1, 2 K + 1)
        Fourier coefficients of the image, zero frequency in the middle, normalised so that the middle one is the mean.
    shape : tuple
        Pixels of the image.
    cutoff : float
        Largest frequency of the features, in cycles per image, in the Euclidean norm. 1 gives four features in two
        dimensions, 1.5 gives eight.
    lam : float
    tol : float
        Relative gap to stop at.
    seconds : float
        For the certificate.

    Raises
    ------
    DataError
        If the samples are not finite, or are all zero.
    ValueError
        If they are real, shapes do not fit, or an argument is out of range.

    Warns
    -----
    CertificateWarning
        If the gap did not reach ``tol``; the certificate still holds.
    """
    problem = FourierRidgeProblem.from_samples(samples, shape, cutoff=cutoff, lam=lam)
    if not tol > 0.0 or max_rounds < 1 or not seconds > 0.0:
        raise ValueError(f"tol, max_rounds and seconds must be positive. Got {tol}, {max_rounds} and {seconds}.")
    net, rounds = _column_generation(problem, tol, max_rounds)
    certificate = problem.certify(net, seconds=seconds, tol=tol)
    status = Status.CONVERGED if certificate.gap <= tol else Status.UNFINISHED
    if rounds == max_rounds and status is not Status.CONVERGED:
        status = Status.MAX_ITER
    if status is not Status.CONVERGED:
        message = f"{status.value} Relative gap {certificate.gap:.2e}, tol {tol:.2e}, {rounds} rounds."
        warnings.warn(message, CertificateWarning, stacklevel=2)
    misfit = float(np.linalg.norm(problem.residual(net)))
    image = np.asarray(net(problem.gamma)[:, 0].reshape(problem.shape))
    return FourierRidge(image, net, problem, certificate, status, rounds, misfit)


def _column_generation(problem: FourierRidgeProblem, tol: float, max_rounds: int) -> tuple[ShallowNet, int]:
    search = LocalSearch(problem.gamma, seed=0)
    W, b, v = np.zeros((0, problem.gamma.shape[1])), np.zeros(0), np.zeros(0)
    net, best, idle = _network(problem, W, b, v), math.inf, 0
    for count in range(1, max_rounds + 1):
        residual = problem.residual(net)
        found = search(problem.pulls(residual), starts=unit_rows(net.W), scans=_SCANS, climbs=_CLIMBS)
        height = float(found.heights.max(initial=0.0))
        primal = problem.value(net)
        gap = (primal - problem.dual_bound(residual, height)) / primal
        # A violation of the constraint by delta leaves a gap of about delta, and its neuron gains about delta squared.
        idle = 0 if gap < 0.9 * best else idle + 1
        best = min(best, gap)
        if gap <= 0.5 * tol or idle >= _PATIENCE:
            return net, count - 1
        large = found.heights > problem.lam * (1.0 - 1e-9)
        fresh = found.W[large]
        hinges = (fresh * problem.gamma[found.stuck[large, 0]]).sum(1)
        W, b = np.concatenate([unit_rows(net.W), fresh]), np.concatenate([_biases(net), hinges])
        W, b = _distinct(W, b)
        net = _slid(problem, _corrected(problem, W, b, tol))
        net = _corrected(problem, *_distinct(unit_rows(net.W), _biases(net)), tol)
    return net, max_rounds


def _corrected(problem: FourierRidgeProblem, W: Matrix, b: Matrix, tol: float) -> ShallowNet:
    """The best output weights for given neurons; those that are not needed are left out."""
    design = _stacked(problem, problem.low_pass(np.maximum(problem.gamma @ W.T - b, 0.0).T))
    target = _stacked(problem, problem.samples[None])
    lasso = MultitaskLasso.from_samples(design, target, problem.lam)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)  # the rounds go on, and the answer has its own
        v = np.asarray(multitask_lasso(lasso, tol=max(1e-3 * tol, 1e-10)).coef)[:, 0]
    kept = v != 0.0
    return _network(problem, W[kept], b[kept], v[kept])


def _slid(problem: FourierRidgeProblem, net: ShallowNet) -> ShallowNet:
    """Move all neurons downhill on the objective; inside its linear pieces it is smooth."""
    K, d = net.W.shape
    if K == 0:
        return net
    gamma, y = problem.gamma, problem.samples

    def objective(theta: Matrix) -> tuple[float, Matrix]:
        W, b, v = theta[: K * d].reshape(K, d), theta[K * d : K * (d + 1)], theta[K * (d + 1) :]
        before = gamma @ W.T - b
        hidden = np.maximum(before, 0.0)
        residual = problem.without_mean(y - problem.low_pass((hidden @ v)[None])[0])
        r = problem.pulls(residual)[:, 0]
        lengths, sizes = np.linalg.norm(W, axis=1), np.abs(v)
        active = (before > 0.0) * (-r[:, None]) * v
        slope_W = active.T @ gamma + problem.lam * (sizes / np.maximum(lengths, 1e-300))[:, None] * W
        slope_v = -hidden.T @ r + problem.lam * lengths * np.sign(v)
        value = 0.5 * float((np.abs(residual) ** 2).sum()) + problem.lam * float(lengths @ sizes)
        return value, np.concatenate([slope_W.ravel(), -active.sum(0), slope_v])

    # Balanced neurons: the steps see one scale.
    root = np.sqrt(np.abs(net.V[:, 0]))
    start = np.concatenate(
        [(unit_rows(net.W) * root[:, None]).ravel(), _biases(net) * root, np.sign(net.V[:, 0]) * root]
    )
    moved = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _SLIDES, "maxcor": 20})
    theta = moved.x if moved.fun < objective(start)[0] else start
    W, b, v = theta[: K * d].reshape(K, d), theta[K * d : K * (d + 1)], theta[K * (d + 1) :]
    lengths = np.linalg.norm(W, axis=1)
    kept = lengths > 0.0
    return _network(problem, unit_rows(W[kept]), b[kept] / lengths[kept], v[kept] * lengths[kept])


def _network(problem: FourierRidgeProblem, W: Matrix, b: Matrix, v: Matrix) -> ShallowNet:
    """The network with its best constant."""
    d = problem.gamma.shape[1]
    middle = problem.samples[tuple(size // 2 for size in problem.samples.shape)].real
    c = float(middle) - float((np.maximum(problem.gamma @ W.T - b, 0.0) @ v).mean())
    return ShallowNet(W, b, v[:, None], np.zeros((d, 1)), np.array([c]))


def _stacked(problem: FourierRidgeProblem, samples: Complex) -> Matrix:
    """Real and imaginary parts (2 M, K) of samples (K, ...), without the zero frequency."""
    flat = np.array([problem.without_mean(each).ravel() for each in samples])
    return np.concatenate([flat.real, flat.imag], axis=1).T


def _biases(net: ShallowNet) -> Matrix:
    return np.asarray(net.b / np.maximum(np.linalg.norm(net.W, axis=1), 1e-300))


def _distinct(W: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Leave out neurons that are another one up to rounding."""
    rows = np.column_stack([W, b])
    distance = ((rows[:, None] - rows[None]) ** 2).sum(2)
    kept = [i for i in range(len(rows)) if not (distance[i, :i] < _SAME).any()]
    return W[kept], b[kept]
