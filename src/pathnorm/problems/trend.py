"""Learning over BV²(R): one variable, and a penalty on the total variation of the derivative."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.problems._dual_curve import DualCurve, dual_curve, metric_line
from pathnorm.problems._dual_points import fit_to_knots, pulls_at_kinks
from pathnorm.problems._moments import Data, cells_of
from pathnorm.problems.certificate import Certificate
from pathnorm.problems.losses import Loss, Pinball, Squared, loss_of
from pathnorm.problems.samples import Samples
from pathnorm.spaces import LinearSpline

__all__ = ["BV2Problem"]

Vector = NDArray[np.float64]
_LOOSE = 5e-11  # a relative gap that is worth a second dual point


@dataclass(frozen=True, slots=True, eq=False)
class BV2Problem:
    """``min_f sum_i w_i loss(y_i, f(x_i)) + lam TV(f')`` over all f in BV²(R).

    ``TV(f')`` is the second-order total variation; affine functions carry no penalty. Some solution is a linear spline
    with fewer than n knots, all of them at the data [MM95]; it is the function of a ReLU network trained to global
    optimality with weight decay ``lam`` [PN21, SESS19].

    Dual: ``max_nu sum_i w_i lower(y_i, nu_i / w_i)`` over nu orthogonal to affine functions whose dual curve
    ``v(t) = sum_{x_i > t} nu_i (x_i - t)`` satisfies ``|v| <= lam`` everywhere. At a solution
    ``nu_i = -w_i d loss / d f`` and ``v = lam sign(jump)`` at every knot.

    Build with :meth:`from_samples`.

    Parameters
    ----------
    samples : Samples
        Where the loss allows it, one per distinct x.
    lam : float
        Not negative; in units of loss times x over y.
    loss : Loss

    References
    ----------
    .. [MM95] Mammen, van de Geer, "Locally adaptive regression splines", Annals of Statistics 25, 1997.
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    .. [SESS19] Savarese, Evron, Soudry, Srebro, "How do infinite width bounded norm networks look in function space?",
       COLT 2019.
    """

    samples: Samples
    lam: float
    loss: Loss

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lam) and self.lam >= 0.0):
            raise ValueError(f"lam must be a finite number >= 0; got {self.lam!r}. A lam of 0 interpolates.")

    @classmethod
    def from_samples(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        lam: float,
        *,
        sample_weight: ArrayLike | None = None,
        loss: str | Loss = "squared",
    ) -> BV2Problem:
        """Check the samples, sort them, and merge those at one x where the loss allows it.

        Parameters
        ----------
        x, y : array (N,) or (N, 1)
            Finite; x in any order, repeated values welcome.
        lam : float
        sample_weight : array (N,), optional
            Not negative.
        loss : {"squared", "huber", "absolute", "quantile", "logistic", "poisson"} or Loss

        Raises
        ------
        DataError
            If there is no sample, or one that is not finite.
        """
        return cls.of(Samples.of(x, y, sample_weight), lam, loss_of(loss))

    @classmethod
    def of(cls, samples: Samples, lam: float, loss: Loss) -> BV2Problem:
        """The problem for samples that are sorted already."""
        loss.check(samples.y)
        return cls(samples.merged() if loss.merges else samples, float(lam), loss)

    def with_lam(self, lam: float) -> BV2Problem:
        """The same data at another ``lam``."""
        return replace(self, lam=float(lam))

    def with_targets(self, y: Vector) -> BV2Problem:
        """Other targets (n,) at the same x, of the same weights."""
        return replace(self, samples=self.samples.with_targets(y))

    @property
    def lam_max(self) -> float:
        """Smallest ``lam`` whose solution is affine, for the squared loss: ``max |v|`` at the least squares line.

        For other losses see :func:`pathnorm.solvers.bv2_lam_max`.
        """
        if not isinstance(self.loss, Squared):
            raise ValueError(
                f"lam_max has a closed form for the squared loss only; the loss is {type(self.loss).__name__}. "
                "Use pathnorm.solvers.bv2_lam_max(problem), which fits the affine function first."
            )
        return dual_curve(self.samples.data, self.samples.levels, _ZERO).peak

    @property
    def offset(self) -> float:
        """Loss that no f can avoid, because samples at one x differ; only the squared loss keeps count of it."""
        return self.samples.spread if isinstance(self.loss, Squared) else 0.0

    def value(self, spline: LinearSpline) -> float:
        """Objective at ``spline``."""
        samples = self.samples
        losses = samples.weights @ self.loss.value(samples.y, spline(samples.x))
        return float(losses) + self.offset + self.lam * spline.tv2

    def certify(self, spline: LinearSpline) -> Certificate:
        """Certificate of ``spline`` over all of BV²(R): the scope is the function space.

        The dual point is built from the answer alone: its pulls, made orthogonal to affine functions and scaled until
        the dual curve stays within ``lam``. Differences below the rounding errors of y and f count as zero.
        """
        samples = self.samples
        if isinstance(self.loss, Squared):
            primal, dual, squares = self._certify_squared(spline)
        else:
            primal = self.value(spline)
            pull, metric = self._pulls(spline)
            dual, squares = self._dual(pull, metric)
            if primal - dual > _LOOSE * abs(primal):
                pull = fit_to_knots(samples, pull, metric, spline, self.lam)
                pull = np.clip(pull, *self.loss.domain(samples.y))
                dual = max(dual, self._dual(pull, metric)[0])
        size = 4.0 * float(np.finfo(np.float64).eps) * max(samples.scale, float(np.abs(spline.values).max()))
        total = float(samples.levels[-1].moments[:, 0].sum())
        if isinstance(self.loss, Pinball):  # residuals of that size cost as much as if every pull were at its bound
            squares = max(self.loss.low**2, self.loss.high**2) * total
        rounding = size * float(np.sqrt(total * squares)) + 0.5 * size * size * total
        return Certificate(primal=primal, dual=min(primal, dual + rounding), scope="function_space")

    def _certify_squared(self, spline: LinearSpline) -> tuple[float, float, float]:
        """Primal value, dual value, and the weighted sum of squared residuals."""
        data, levels, pieces = self.samples.data, self.samples.levels, _pieces(spline, self.samples.line)

        def dual(curve: DualCurve, slip: float) -> float:
            # sum nu y = sum nu r + sum nu f, and sum nu f = sum jump v(knot); slip is what rounding added to sum nu r.
            product = curve.product - slip + float(spline.jumps @ curve.at_knots)
            squares = max(curve.squares - slip, 0.0)
            shrink = self._shrink(curve)
            if squares > 0.0:
                shrink = min(shrink, max(product / squares, 0.0))
            return shrink * (product - 0.5 * shrink * squares) + self.offset

        curve = dual_curve(data, levels, pieces, self.lam)
        total = curve.squares + curve.removed
        primal = 0.5 * total + self.lam * spline.tv2 + self.offset
        best = dual(curve, 0.0)
        if primal - best > _LOOSE * abs(primal):
            through = self.lam * np.sign(spline.jumps)
            again = dual_curve(data, levels, pieces, self.lam, through=through)
            best = max(best, dual(again, 0.0))
        if primal - best > _LOOSE * abs(primal):
            # Moments cancel where the fit nearly interpolates; residuals do not.
            residual = self.samples.y - spline(self.samples.x)
            slip = total - float(self.samples.weights @ residual**2)
            primal -= 0.5 * slip
            best = max(dual(curve, slip), dual(again, slip))
        return primal, best, curve.squares

    def curve(self, spline: LinearSpline, floor: float = 0.0) -> DualCurve:
        """Dual curve of ``spline``: where it touches ``lam`` there can be knots, and elsewhere there cannot.

        Where ``|v| <= floor`` is certain the curve is not evaluated.
        """
        if isinstance(self.loss, Squared):
            pieces = _pieces(spline, self.samples.line)
            return dual_curve(self.samples.data, self.samples.levels, pieces, floor)
        return self._feasible(*self._pulls(spline), floor)[1]

    def _pulls(self, spline: LinearSpline) -> tuple[Vector, Vector]:
        """Pulls per unit of weight at ``spline``, and in which proportion they may be corrected."""
        if isinstance(self.loss, Pinball):
            return pulls_at_kinks(self.samples, self.loss, spline)
        y, f = self.samples.y, spline(self.samples.x)
        return self.loss.pull(y, f), self.loss.curvature(y, f)

    def _dual(self, pull: Vector, metric: Vector) -> tuple[float, float]:
        """Dual value of the feasible point that is made of these pulls; and the weighted sum of their squares."""
        samples = self.samples
        low, high = self.loss.domain(samples.y)
        if isinstance(self.loss, Pinball):  # a pull at its bound stays there
            metric = np.minimum(pull - low, high - pull)
        pull, curve = self._feasible(pull, metric, self.lam)
        pull = _scaled_into(self._shrink(curve) * pull, low, high)
        dual = float(samples.weights @ self.loss.lower(samples.y, pull))
        return dual, float(samples.weights @ pull**2)

    def _feasible(self, pull: Vector, metric: Vector, floor: float) -> tuple[Vector, DualCurve]:
        """Pulls orthogonal to affine functions, changed in proportion to the metric (n,), and their dual curve."""
        samples = self.samples
        cells = cells_of(Data(samples.x, pull, samples.weight))
        if not metric.any():
            metric = np.ones_like(pull)
        measure = cells_of(Data(samples.x, metric, samples.weights * metric))
        position, level, slope = metric_line(cells, measure)
        pull = pull - metric * (level + slope * (samples.x - position))
        data = Data(samples.x, pull, samples.weight)
        return pull, dual_curve(data, [cells_of(data)], _ZERO, floor)

    def _shrink(self, curve: DualCurve) -> float:
        return min(1.0, self.lam / curve.peak) if curve.peak > 0.0 else 1.0


def _scaled_into(pull: Vector, low: Vector | float, high: Vector | float) -> Vector:
    """The largest multiple that lies within the bounds, which zero does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(pull > high, high / pull, np.where(pull < low, low / pull, 1.0))
    return np.clip(min(1.0, float(ratio.min())) * pull, low, high)


def _pieces(spline: LinearSpline, line: tuple[float, float, float]) -> Vector:
    """The pieces of ``spline - line`` as the kernels read them: right end, origin, value there and slope of each."""
    position, level, slope = line
    knots = spline.knots
    values = spline.values - (level + slope * (knots - position))
    ends, origins = np.append(knots, np.inf), np.append(knots[0], knots)
    return np.stack((ends, origins, np.append(values[0], values), spline.slopes - slope))


_ZERO = _pieces(LinearSpline(np.zeros(1), np.zeros(1), 0.0, 0.0), (0.0, 0.0, 0.0))
