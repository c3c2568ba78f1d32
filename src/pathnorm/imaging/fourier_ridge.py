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

from pathnorm.errors import CertificateWarning, DataError
from pathnorm.problems import MultitaskLasso, RBV2Problem
from pathnorm.problems.certificate import Certificate
from pathnorm.representer import DualNorm, dual_norm
from pathnorm.representer.local_search import LocalSearch
from pathnorm.solvers import Status, multitask_lasso
from pathnorm.spaces import ShallowNet

__all__ = ["FourierRidge", "FourierRidgeProblem", "fit_fourier_ridge", "fourier_frequencies"]

Matrix = NDArray[np.float64]
Complex = NDArray[np.complex128]

_SCANS, _CLIMBS = 256, 24
_SLIDES = 60
_SAME = 1e-9  # squared distance of neurons, relative to that of the features, below which two are one
_PATIENCE = 8


def fourier_frequencies(dimension: int, cutoff: float) -> NDArray[np.intp]:
    """Return one of every pair ``(k, -k)`` of integer frequencies with ``0 < ||k||_2 <= cutoff``: (m, dimension)."""
    most = int(cutoff)
    grid = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * dimension, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, dimension)
    length = np.linalg.norm(grid, axis=1)
    leading = np.array([next((value for value in row if value), 0) for row in grid])
    kept = grid[(length <= cutoff) & (leading > 0)]
    order = np.lexsort((*kept.T, np.linalg.norm(kept, axis=1)))
    return np.asarray(kept[order], dtype=np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class FourierRidgeProblem:
    """``min_f 1/2 sum_k |F f(k) - y_k|^2 + lam sum_j ||w_j|| |v_j|`` over networks of any width on Fourier features.

    ``F f(k)`` is the mean of ``f(x) exp(-2 pi i k . x)`` over the pixels, for all frequencies with ``||k||_inf <= K``:
    the loss is half the mean squared error of the low-pass image, whatever the number of pixels is. The features are
    ``gamma(x) = (cos 2 pi k . x, sin 2 pi k . x)`` with ``0 < ||k||_2 <= cutoff``. Biases and the constant carry no
    penalty, as in R-BV²; the constant is solved for. [NO24, NO25] state the problem for continuous x; here x runs
    through the pixels, for which everything is exact.

    Its dual, with ``h(w, b) = sum_x r(x) (w . gamma(x) - b)_+`` and ``r = F* q``: maximise ``Re <q, y> - ||q||^2 / 2``
    over q with ``q_0 = 0`` and ``|h(w, b)| <= lam`` for all b and all w of length one. At the optimum ``q = y - F f``.

    Parameters
    ----------
    samples : complex array (2 K + 1,) or (2 K + 1, 2 K + 1)
        Zero frequency in the middle.
    shape : tuple
        Pixels of the image, as many dimensions as ``samples``.
    cutoff : float
    lam : float
    gamma : array (N, d)
        Features of all pixels, rows first.

    References
    ----------
    .. [NO24] Najaf, Ongie, "Towards a sampling theory for implicit neural representations", arXiv 2405.18410, 2024.
    .. [NO25] Najaf, Ongie, "Sampling theory for super-resolution with implicit neural representations", arXiv
       2506.09949, 2025.
    """

    samples: Complex
    shape: tuple[int, ...]
    cutoff: float
    lam: float
    gamma: Matrix

    @classmethod
    def from_samples(cls, samples: Any, shape: tuple[int, ...], *, cutoff: float, lam: float) -> FourierRidgeProblem:
        """Check the samples and make the features; see :func:`fit_fourier_ridge` for what is raised."""
        y = np.asarray(samples)
        if not np.iscomplexobj(y):
            raise ValueError(
                "Fourier samples must be complex: an image that is not even has a phase. Got real numbers; hand over "
                "the samples, not their modulus."
            )
        y, shape = y.astype(np.complex128), tuple(int(size) for size in shape)
        if y.ndim not in (1, 2) or len(set(y.shape)) != 1 or y.shape[0] % 2 == 0:
            raise ValueError(
                f"Samples must have shape (2 K + 1,) or (2 K + 1, 2 K + 1), zero frequency in the middle. Got {y.shape}."
            )
        if len(shape) != y.ndim or min(shape) < y.shape[0]:
            raise ValueError(
                f"The image must have {y.ndim} sizes of at least {y.shape[0]}, or its frequencies fall together. Got "
                f"{shape}."
            )
        if not np.isfinite(y).all():
            raise DataError("Samples must be finite. Got NaN or infinity.")
        if not y.any():
            raise DataError("Samples must not all be zero: the image would be zero.")
        if not (math.isfinite(cutoff) and cutoff >= 1.0):
            raise ValueError(f"cutoff must be a frequency of at least 1. Got {cutoff}.")
        if not (math.isfinite(lam) and lam > 0.0):
            raise ValueError(f"lam must be positive and finite. Got {lam}.")
        return cls(y, shape, float(cutoff), float(lam), features_at(_pixels(shape), cutoff))

    def low_pass(self, images: Matrix) -> Complex:
        """Return the samples ``F f`` (K, *samples.shape) of images (K, N)."""
        axes = tuple(range(1, 1 + len(self.shape)))
        spectrum = np.fft.fftn(images.reshape(-1, *self.shape), axes=axes, norm="forward")
        return np.asarray(spectrum[np.ix_(np.arange(len(images)), *self._places())])

    def pulls(self, residual: Complex) -> Matrix:
        """Return ``r = F* q`` (N, 1) for the residual with its zero frequency left out: the sum over pixels is zero."""
        spectrum = np.zeros(self.shape, dtype=np.complex128)
        spectrum[np.ix_(*self._places())] = self._without_mean(residual)
        r = np.fft.ifftn(spectrum, norm="backward").real
        return np.asarray((r - r.mean()).reshape(-1, 1))

    def residual(self, net: ShallowNet) -> Complex:
        """Return ``y - F f``."""
        return np.asarray(self.samples - self.low_pass(net(self.gamma).T)[0])

    def value(self, net: ShallowNet) -> float:
        """Return the objective."""
        return 0.5 * float((np.abs(self.residual(net)) ** 2).sum()) + self.lam * net.path_norm()

    def dual_bound(self, residual: Complex, upper: float) -> float:
        """Return the best lower bound of the optimum along q, given that ``|h| <= upper`` for its pulls."""
        q = self._without_mean(residual)
        energy = float((np.abs(q) ** 2).sum())
        # What no real image with a free constant can change is left over whatever is chosen.
        middle = tuple(size // 2 for size in self.samples.shape)
        rest = 0.5 * float(self.samples[middle].imag ** 2)
        if energy == 0.0:
            return rest
        along = float((q.conj() * self.samples).sum().real)
        step = min(max(along / energy, 0.0), self.lam / upper if upper > 0.0 else math.inf)
        return rest + step * along - 0.5 * step**2 * energy

    def certify(self, net: ShallowNet, *, seconds: float = 30.0, tol: float = 1e-6, seed: int = 0) -> Certificate:
        """Return the objective of a network and a lower bound on that of any other, from the network alone.

        Every neuron there is is bounded where the features span up to five dimensions, see
        :func:`pathnorm.representer.dual_norm`; beyond that the bound holds over the neurons that a search found, and
        ``proved`` says what little is certain.
        """
        residual = self.residual(net)
        R = self.pulls(residual)
        search = LocalSearch(self.gamma, seed=seed)
        height = float(search(R, starts=_unit(net.W), scans=1024, climbs=96).heights.max(initial=0.0))
        norm = dual_norm(_samples_problem(self), R, seconds=seconds, tol=0.1 * tol, found=height)
        return self._certificate(self.value(net), residual, norm)

    def _certificate(self, primal: float, residual: Complex, norm: DualNorm) -> Certificate:
        proof = min(primal, self.dual_bound(residual, norm.upper))
        certain = Certificate(primal=primal, dual=proof, scope="function_space", method=norm.method)
        searched = norm.method == "search"
        return Certificate(
            primal=primal,
            dual=min(primal, self.dual_bound(residual, norm.lower)) if searched else proof,
            scope="dictionary" if searched else "function_space",
            method=norm.method,
            violation=norm.lower / self.lam - 1.0,
            proved=certain.gap,
        )

    def _places(self) -> list[NDArray[np.intp]]:
        """Where the sampled frequencies are in a discrete Fourier transform."""
        most = self.samples.shape[0] // 2
        return [np.arange(-most, most + 1) % size for size in self.shape]

    def _without_mean(self, q: Complex) -> Complex:
        left = q.copy()
        left[tuple(size // 2 for size in q.shape)] = 0.0
        return left


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


def features_at(points: Matrix, cutoff: float) -> Matrix:
    """Return ``cos`` and ``sin`` of ``2 pi k . x`` for all frequencies k up to the cutoff, at points (n, dimension)."""
    phase = 2.0 * np.pi * points @ fourier_frequencies(points.shape[1], cutoff).T
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def _pixels(shape: tuple[int, ...]) -> Matrix:
    axes = np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def _samples_problem(problem: FourierRidgeProblem) -> RBV2Problem:
    """The neurons over these features, as the search for the largest of them takes them."""
    zero = np.zeros((len(problem.gamma), 1))
    return RBV2Problem.from_samples(problem.gamma, zero, lam=problem.lam, affine="none")


def _column_generation(problem: FourierRidgeProblem, tol: float, max_rounds: int) -> tuple[ShallowNet, int]:
    search = LocalSearch(problem.gamma, seed=0)
    W, b, v = np.zeros((0, problem.gamma.shape[1])), np.zeros(0), np.zeros(0)
    net, best, idle = _network(problem, W, b, v), math.inf, 0
    for count in range(1, max_rounds + 1):
        residual = problem.residual(net)
        found = search(problem.pulls(residual), starts=_unit(net.W), scans=_SCANS, climbs=_CLIMBS)
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
        W, b = np.concatenate([_unit(net.W), fresh]), np.concatenate([_biases(net), hinges])
        W, b = _distinct(W, b)
        net = _slid(problem, _corrected(problem, W, b, tol))
        net = _corrected(problem, *_distinct(_unit(net.W), _biases(net)), tol)
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
        residual = problem._without_mean(y - problem.low_pass((hidden @ v)[None])[0])
        r = problem.pulls(residual)[:, 0]
        lengths, sizes = np.linalg.norm(W, axis=1), np.abs(v)
        active = (before > 0.0) * (-r[:, None]) * v
        slope_W = active.T @ gamma + problem.lam * (sizes / np.maximum(lengths, 1e-300))[:, None] * W
        slope_v = -hidden.T @ r + problem.lam * lengths * np.sign(v)
        value = 0.5 * float((np.abs(residual) ** 2).sum()) + problem.lam * float(lengths @ sizes)
        return value, np.concatenate([slope_W.ravel(), -active.sum(0), slope_v])

    # Balanced neurons: the steps see one scale.
    root = np.sqrt(np.abs(net.V[:, 0]))
    start = np.concatenate([(_unit(net.W) * root[:, None]).ravel(), _biases(net) * root, np.sign(net.V[:, 0]) * root])
    moved = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _SLIDES, "maxcor": 20})
    theta = moved.x if moved.fun < objective(start)[0] else start
    W, b, v = theta[: K * d].reshape(K, d), theta[K * d : K * (d + 1)], theta[K * (d + 1) :]
    lengths = np.linalg.norm(W, axis=1)
    kept = lengths > 0.0
    return _network(problem, _unit(W[kept]), b[kept] / lengths[kept], v[kept] * lengths[kept])


def _network(problem: FourierRidgeProblem, W: Matrix, b: Matrix, v: Matrix) -> ShallowNet:
    """The network with its best constant."""
    d = problem.gamma.shape[1]
    middle = problem.samples[tuple(size // 2 for size in problem.samples.shape)].real
    c = float(middle) - float((np.maximum(problem.gamma @ W.T - b, 0.0) @ v).mean())
    return ShallowNet(W, b, v[:, None], np.zeros((d, 1)), np.array([c]))


def _stacked(problem: FourierRidgeProblem, samples: Complex) -> Matrix:
    """Real and imaginary parts (2 M, K) of samples (K, ...), without the zero frequency."""
    flat = np.array([problem._without_mean(each).ravel() for each in samples])
    return np.concatenate([flat.real, flat.imag], axis=1).T


def _unit(W: Matrix) -> Matrix:
    return np.asarray(W / np.maximum(np.linalg.norm(W, axis=1, keepdims=True), 1e-300))


def _biases(net: ShallowNet) -> Matrix:
    return np.asarray(net.b / np.maximum(np.linalg.norm(net.W, axis=1), 1e-300))


def _distinct(W: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Leave out neurons that are another one up to rounding."""
    rows = np.column_stack([W, b])
    distance = ((rows[:, None] - rows[None]) ** 2).sum(2)
    kept = [i for i in range(len(rows)) if not (distance[i, :i] < _SAME).any()]
    return W[kept], b[kept]
