"""Learning over R-BV²(R^d): many variables, and a penalty on the total variation in the Radon domain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from pathnorm.problems._affine import AffineFit, affine_fit, solve_damped
from pathnorm.problems.certificate import Certificate
from pathnorm.problems.losses import (
    SHALLOW_LOSSES,
    Huber,
    Logistic,
    Loss,
    Pinball,
    SmoothedPinball,
    Squared,
    SquaredHinge,
    loss_of,
)
from pathnorm.spaces import ShallowNet

__all__ = ["AFFINE", "Affine", "RBV2Problem"]

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Affine = Literal["free", "ridge", "none"]
AFFINE = ("free", "ridge", "none")


@dataclass(frozen=True, slots=True, eq=False)
class RBV2Problem:
    """``min_f sum_n s_n loss(y_n, f(x_n)) + lam R-TV²(f)`` over all f in R-BV²(R^d).

    ``R-TV²(f)`` is the second-order total variation of f in the Radon domain; of a ReLU network it is the path norm
    ``sum_k ||w_k|| ||v_k||``, and some solution is a network ``f(x) = sum_k v_k (w_k' x - b_k)_+ + A' x + c`` with
    fewer than N neurons [PN21]. For several outputs the norm is ``sum_k ||w_k||_2 ||v_k||_2``: outputs share neurons
    [SPNS24].

    Dual, with ``h(w, b) = sum_n r_n (w' x_n - b)_+`` and ``M(r) = max_{||w|| = 1, b} ||h(w, b)||_2``:
    ``max_r sum_n s_n lower(y_n, r_n / s_n)`` subject to ``sum_n r_n = 0``, ``X' r = 0`` and ``M(r) <= lam``. At a
    solution r is minus the derivative of the losses, and every neuron sits where ``||h|| = lam``. With
    ``affine="ridge"`` the condition ``X' r = 0`` becomes the term ``- ||X' r||^2 / (2 ridge)``, with ``"none"`` it is
    dropped.

    Build with :meth:`from_samples`.

    Parameters
    ----------
    X : array (N, d)
        Centred.
    Y : array (N, D)
    weights : array (N,)
        Positive.
    lam : float
        Not negative; in units of loss times x over f.
    loss : Loss
    affine : {"free", "ridge", "none"}
        Whether ``A`` is unpenalised, costs ``ridge ||A||_F^2 / 2``, or is zero. ``c`` is always free: a constant is the
        limit of neurons with vanishing input weights, so no path norm can see it.
    ridge : float
    origin : array (d,)
        What was subtracted from the samples; networks are functions of the samples as they came.
    interactions : int or None
        Neurons may see at most that many features, 1 or 2; any number for None.
    ridge_follows : bool
        Whether :meth:`with_lam` keeps the ridge equal to ``lam``.

    References
    ----------
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    .. [SPNS24] Shenouda, Parhi, Lee, Nowak, "Variation spaces for multi-output neural networks", JMLR 25, 2024.
    """

    X: Matrix
    Y: Matrix
    weights: Vector
    lam: float
    loss: Loss
    affine: Affine
    ridge: float
    origin: Vector
    interactions: int | None = None
    ridge_follows: bool = False
    _memory: dict[str, Matrix] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lam) and self.lam > 0.0):
            raise ValueError(
                f"lam must be a finite number > 0; got {self.lam!r}. Without a penalty a network of N neurons "
                "interpolates; take a small fraction of lam_max instead."
            )
        if self.affine not in AFFINE:
            raise ValueError(f"affine must be one of {', '.join(AFFINE)}; got {self.affine!r}.")
        if self.affine == "ridge" and not (np.isfinite(self.ridge) and self.ridge > 0.0):
            raise ValueError(f'affine="ridge" needs a finite ridge > 0; got {self.ridge!r}.')
        if self.interactions not in (None, 1, 2):
            raise ValueError(f"interactions must be 1, 2 or None; got {self.interactions!r}.")

    @classmethod
    def from_samples(
        cls,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        lam: float,
        loss: str | Loss = "squared",
        weights: ArrayLike | None = None,
        affine: Affine = "free",
        ridge: float | None = None,
        interactions: int | None = None,
    ) -> RBV2Problem:
        """Check and centre the samples; those of weight zero are left out.

        Parameters
        ----------
        X : array (N, d)
        Y : array (N, D) or (N,)
        lam, loss, affine, interactions
            See the class.
        weights : array (N,), optional
        ridge : float, optional
            ``lam`` if it is not given.
        """
        points, targets = np.array(X, dtype=np.float64), np.array(Y, dtype=np.float64)
        targets = targets[:, None] if targets.ndim == 1 else targets
        if points.ndim != 2 or targets.ndim != 2 or points.shape[0] != targets.shape[0] or 0 in points.shape:
            raise ValueError(
                "X must have shape (N, d) and Y (N,) or (N, D), with at least one sample and one feature; "
                f"got {points.shape} and {targets.shape}."
            )
        s = np.ones(len(points)) if weights is None else np.array(weights, dtype=np.float64)
        if s.shape != (len(points),) or not (np.isfinite(s).all() and s.min() >= 0.0 and s.max() > 0.0):
            raise ValueError(f"weights must be {len(points)} finite numbers >= 0, not all zero; got shape {s.shape}.")
        for name, array in (("X", points), ("Y", targets)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite; got NaN or infinity. Impute or drop these rows first.")
        kept = s > 0.0
        points, targets, s = points[kept], targets[kept], s[kept]
        chosen = loss_of(loss, among=SHALLOW_LOSSES)
        chosen.check(targets)
        origin = np.average(points, axis=0, weights=s)
        strength = float(lam) if ridge is None else float(ridge)
        follows = ridge is None
        return cls(points - origin, targets, s, float(lam), chosen, affine, strength, origin, interactions, follows)

    # ------------------------------------------------------------------------- shapes

    @property
    def n_samples(self) -> int:
        """Number of samples N of positive weight."""
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        """Number of inputs d."""
        return int(self.X.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of outputs D."""
        return int(self.Y.shape[1])

    def with_lam(self, lam: float) -> RBV2Problem:
        """The same problem at another ``lam``; a ridge that was not given stays equal to it."""
        ridge = float(lam) if self.ridge_follows else self.ridge
        return replace(self, lam=float(lam), ridge=ridge)

    def with_loss(self, loss: Loss, Y: Matrix | None = None) -> RBV2Problem:
        """The same samples under another loss, and with other targets if they are given."""
        return replace(self, loss=loss, Y=self.Y if Y is None else Y)

    # -------------------------------------------------------------------------- primal

    def outputs(self, net: ShallowNet) -> Matrix:
        """Outputs (N, D) of a network in the coordinates of the user."""
        return self.centred(net)(self.X)

    def centred(self, net: ShallowNet) -> ShallowNet:
        """The network as a function of centred samples."""
        if net.W.shape[1] != self.n_features or net.c.size != self.n_outputs:
            raise ValueError(
                f"the network must have {self.n_features} inputs and {self.n_outputs} outputs, as the samples; "
                f"got {net.W.shape[1]} and {net.c.size}."
            )
        return ShallowNet(net.W, net.b - net.W @ self.origin, net.V, net.A, net.c + self.origin @ net.A)

    def uncentred(self, net: ShallowNet) -> ShallowNet:
        """Inverse of :meth:`centred`."""
        return ShallowNet(net.W, net.b + net.W @ self.origin, net.V, net.A, net.c - self.origin @ net.A)

    def data_loss(self, F: Matrix) -> float:
        """``sum_n s_n loss(y_n, f_n)``."""
        return float((self.weights[:, None] * self.loss.value(self.Y, F)).sum())

    def value(self, net: ShallowNet) -> float:
        """Objective at a network, infinite if it breaks a condition on the affine part or on interactions."""
        if self.affine == "none" and net.A.any():
            return float("inf")
        if self.interactions is not None and (np.count_nonzero(net.W, axis=1) > self.interactions).any():
            return float("inf")
        ridge = 0.5 * self.ridge * float((net.A**2).sum()) if self.affine == "ridge" else 0.0
        return self.data_loss(self.outputs(net)) + self.lam * net.path_norm() + ridge

    def pulls(self, F: Matrix) -> Matrix:
        """``r = - s d loss / d f`` (N, D) at outputs F."""
        return self.weights[:, None] * self.loss.pull(self.Y, F)

    # ---------------------------------------------------------------------------- dual

    def fit_affine(self, offset: Matrix | None = None) -> AffineFit:
        """Minimise over the affine part of ``offset + X A + c``; without an offset, the best affine function."""
        return affine_fit(self, np.zeros_like(self.Y) if offset is None else offset)

    def dual_point(self, net: ShallowNet) -> Matrix:
        """Pulls (N, D) of a network, with the conditions on the affine part met up to rounding.

        Its affine part is solved for first, so that what is known of the neurons is not wasted on it.
        """
        inner = self.centred(net)
        hidden = np.maximum(self.X @ inner.W.T - inner.b, 0.0) @ inner.V
        return self.repaired(self.pulls(self.fit_affine(hidden).outputs))

    def repaired(self, R: Matrix) -> Matrix:
        """Pulls that meet the conditions on the affine part, moved into the domain of the loss."""
        R = self._orthogonal(self._balanced(R))
        low, high = self.loss.domain(self.Y)
        s = self.weights[:, None]
        outside = np.maximum(low * s - R, R - high * s)
        if not (outside > 0.0).any():
            return R
        # A small step towards pulls that are well inside is enough for rounding: zero, or those of the affine fit.
        if (low * s < 0.0).all() and (high * s > 0.0).all():
            inside = np.zeros_like(R)
        else:
            inside = self._once("inside", self._inside)
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(outside > 0.0, np.where(low * s > R, inside - low * s, high * s - inside), np.inf)
            step = np.where(outside > 0.0, outside / (outside + np.maximum(room, 0.0)), 0.0)
        blend = min(1.0, float(np.nanmax(step)) * (1.0 + 1e-12) + 1e-15)
        R = (1.0 - blend) * R + blend * inside
        clipped = np.clip(R, low * s, high * s)
        # What is cut off must be rounding, or conditions on the affine part are lost with it; zero always is feasible.
        kept = np.abs(clipped - R).max() <= 1e-12 * np.abs(R).max()
        return np.asarray(clipped if kept else np.zeros_like(R))

    def _inside(self) -> Matrix:
        """Feasible pulls strictly inside the domain: of the best affine function, with a loss that is never flat."""
        problem = self
        if isinstance(self.loss, SquaredHinge):
            problem = self.with_loss(Logistic(), 0.5 * (self.Y + 1.0))
        return self._orthogonal(problem.pulls(problem.fit_affine().outputs))

    def _balanced(self, R: Matrix) -> Matrix:
        """Meet the conditions by changes in proportion to the pulls: what was inside the domain stays there."""
        if not isinstance(self.loss, SquaredHinge):
            return R
        columns = np.ones((self.n_samples, 1)) if self.affine != "free" else affine_basis(self.X)
        balanced = R.copy()
        for q in range(self.n_outputs):
            size = np.abs(R[:, q])
            change = columns @ solve_damped(columns.T @ (size[:, None] * columns), columns.T @ R[:, q])
            if (np.abs(change) < 1.0).all():
                balanced[:, q] -= size * change
        return balanced

    def _orthogonal(self, R: Matrix) -> Matrix:
        """Project on pulls without a mean, and without a slope where the affine part is free; twice, for rounding."""
        if self.affine != "free":
            return np.asarray(R - R.mean(axis=0))
        basis = self._once("basis", lambda: affine_basis(self.X))
        before = np.abs(R).max(axis=0)
        for _ in range(2):
            R = R - basis @ (basis.T @ R)
        # Where nothing but rounding is left, nothing is left.
        return np.asarray(R * (np.abs(R).max(axis=0) > 1e-13 * before))

    def _once(self, name: str, make: Callable[[], Matrix]) -> Matrix:
        """What does not change with the answer is made once."""
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]

    def dual_value(self, R: Matrix) -> float:
        """Dual objective at pulls that are feasible."""
        s = self.weights[:, None]
        value = float((s * self.loss.lower(self.Y, R / s)).sum())
        if self.affine == "ridge":
            value -= float(((self.X.T @ R) ** 2).sum()) / (2.0 * self.ridge)
        return value

    def dual_bound(self, R: Matrix, upper: float) -> float:
        """Largest dual value on the ray through R, given that ``M(R) <= upper``: a lower bound of the optimum."""
        longest = 1.0 if upper <= 0.0 else self.lam / upper
        if isinstance(self.loss, Squared):
            # On a ray the dual value is a parabola, and nothing bounds the pulls.
            slope = float((R * self.Y).sum())
            bend = float((R * R / self.weights[:, None]).sum())
            if self.affine == "ridge":
                bend += float(((self.X.T @ R) ** 2).sum()) / self.ridge
            step = float(np.clip(slope / bend, 0.0, longest)) if bend > 0.0 else 0.0
            return self.dual_value(step * R)
        longest = min(1.0, longest)
        best = minimize_scalar(lambda t: -self.dual_value(t * R), bounds=(0.0, longest), method="bounded")
        return max(self.dual_value(t * R) for t in (float(best.x), longest, 0.0))

    def certify(self, net: ShallowNet, R: Matrix, upper: float) -> Certificate:
        """Certificate of a network over the function space, from pulls R with ``M(R) <= upper``.

        The upper bound comes from :func:`pathnorm.representer.dual_norm`; :func:`pathnorm.certify` does all of it.
        """
        primal = self.value(net)
        if abs(primal) <= self.rounding:
            # Nothing is left of the data: an interpolation, up to rounding.
            return Certificate(primal=primal, dual=primal, scope="function_space")
        return Certificate(primal=primal, dual=min(primal, self.dual_bound(R, upper)), scope="function_space")

    @property
    def rounding(self) -> float:
        """An objective that is as good as zero: what rounding leaves of the losses of the best constant."""
        if not isinstance(self.loss, Squared | Huber | Pinball | SmoothedPinball):
            return 0.0
        r = np.abs(self.Y - np.average(self.Y, axis=0, weights=self.weights))
        if isinstance(self.loss, Pinball):
            return 1e-13 * float((self.weights[:, None] * (r + np.abs(self.Y))).sum())
        return 1e-24 * float((self.weights[:, None] * (r**2 + self.Y**2)).sum())


def affine_basis(X: Matrix) -> Matrix:
    """Orthonormal basis (N, rank) of the affine functions on the samples."""
    columns = np.column_stack((np.ones(len(X)), X))
    scale = np.linalg.norm(columns, axis=0)
    columns = columns[:, scale > 0.0] / scale[scale > 0.0]
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > 1e-13 * singular[0] * max(columns.shape)])
