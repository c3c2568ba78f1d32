"""Losses of one sample: value, derivative, curvature, and the infimum that the dual problem is made of.

Every loss is convex in the prediction f. The dual variable of a sample is ``g = -d loss / d f``, its pull on f per unit
of weight; ``loss(y, f) + g f >= lower(y, g)`` for all f, with equality at the f it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, xlogy

__all__ = [
    "LOSSES",
    "SHALLOW_LOSSES",
    "Huber",
    "Logistic",
    "Loss",
    "Multinomial",
    "Pinball",
    "Poisson",
    "SmoothedPinball",
    "Squared",
    "SquaredHinge",
    "loss_of",
]

Vector = NDArray[np.float64]


class Loss(Protocol):
    """What a problem needs to know of a loss; y, f, g are arrays of one shape.

    Where there are several outputs the last axis is theirs. A loss that is not separable over outputs gives its value
    and its lower bound with a last axis of length one, so that a sum over both axes is right for every loss.
    """

    # Whether samples at one site can be replaced by their mean, up to a constant.
    merges: ClassVar[bool]
    # Whether the loss of a sample is a sum over outputs.
    separable: ClassVar[bool]
    # Whether Newton's method alone finds the minimum: no flat parts away from it.
    smooth: ClassVar[bool]

    def value(self, y: Vector, f: Vector) -> Vector:
        """Loss of the prediction f."""

    def pull(self, y: Vector, f: Vector) -> Vector:
        """Minus the derivative in f."""

    def curvature(self, y: Vector, f: Vector) -> Vector:
        """Second derivative in f, where there is one; its diagonal over outputs."""

    def largest_curvature(self, y: Vector, f: Vector) -> Vector:
        """Bound (N,) of the second derivative (D, D) of each sample in the spectral norm."""

    def stiffness(self, y: Vector, f: Vector) -> Vector:
        """A curvature for steps from afar: positive where the loss is flat but not at its minimum."""

    def root(self, y: Vector, f: Vector, tangents: Vector) -> Vector:
        """``L' t`` for tangents (N, D, P), where ``L L'`` is the second derivative (D, D) of a sample."""

    def lower(self, y: Vector, g: Vector) -> Vector:
        """``inf_f loss(y, f) + g f`` for g in the domain."""

    def domain(self, y: Vector) -> tuple[Vector | float, Vector | float]:
        """Smallest and largest g with a finite ``lower``; zero lies between them."""

    def check(self, y: Vector) -> None:
        """Raise ValueError if some target is not in the domain of the loss."""


class _Separable:
    """What follows from the curvature of single outputs."""

    __slots__ = ()
    separable: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    def curvature(self, y: Vector, f: Vector) -> Vector:
        raise NotImplementedError

    def largest_curvature(self, y: Vector, f: Vector) -> Vector:
        return np.asarray(self.curvature(y, f).max(axis=-1))

    def stiffness(self, y: Vector, f: Vector) -> Vector:
        return self.curvature(y, f)

    def root(self, y: Vector, f: Vector, tangents: Vector) -> Vector:
        return np.asarray(np.sqrt(self.curvature(y, f))[..., None] * tangents)


class _Residual(_Separable):
    """Losses of the residual ``y - f`` with pulls that stop growing: reweighted least squares gives their stiffness."""

    __slots__ = ()
    smooth: ClassVar[bool] = False

    def pull(self, y: Vector, f: Vector) -> Vector:
        raise NotImplementedError

    def stiffness(self, y: Vector, f: Vector) -> Vector:
        r = y - f
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.curvature(y, f) > 0.0, self.curvature(y, f), np.nan_to_num(self.pull(y, f) / r))


@dataclass(frozen=True, slots=True)
class Squared(_Separable):
    """``(y - f)^2 / 2``."""

    merges: ClassVar[bool] = True

    def value(self, y: Vector, f: Vector) -> Vector:
        return 0.5 * (y - f) ** 2

    def pull(self, y: Vector, f: Vector) -> Vector:
        return y - f

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return np.ones_like(f)

    def lower(self, y: Vector, g: Vector) -> Vector:
        return g * (y - 0.5 * g)

    def domain(self, y: Vector) -> tuple[float, float]:
        return -np.inf, np.inf

    def check(self, y: Vector) -> None:
        """Every finite target will do."""


@dataclass(frozen=True, slots=True)
class Huber(_Residual):
    """``r^2 / 2`` where ``|r| <= delta`` and ``delta (|r| - delta / 2)`` beyond, with ``r = y - f`` [Huber 1964]."""

    delta: float = 1.0
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.delta) and self.delta > 0.0):
            raise ValueError(f"delta must be a positive number in the units of y; got {self.delta!r}.")

    def value(self, y: Vector, f: Vector) -> Vector:
        r = np.abs(y - f)
        inner = np.minimum(r, self.delta)
        return inner * (r - 0.5 * inner)

    def pull(self, y: Vector, f: Vector) -> Vector:
        return np.clip(y - f, -self.delta, self.delta)

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return (np.abs(y - f) <= self.delta).astype(np.float64)

    def lower(self, y: Vector, g: Vector) -> Vector:
        return g * (y - 0.5 * g)

    def domain(self, y: Vector) -> tuple[float, float]:
        return -self.delta, self.delta

    def check(self, y: Vector) -> None:
        """Every finite target will do."""


@dataclass(frozen=True, slots=True)
class Pinball(_Residual):
    """``max(low r, high r)`` with ``r = y - f`` and ``low < 0 < high``.

    ``(-1, 1)`` is the absolute loss, ``(q - 1, q)`` that of the q-th quantile [Koenker, Bassett 1978].
    """

    low: float = -1.0
    high: float = 1.0
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.low < 0.0 < self.high:
            raise ValueError(f"low < 0 < high is needed; got {self.low!r} and {self.high!r}.")

    def value(self, y: Vector, f: Vector) -> Vector:
        r = y - f
        return np.maximum(self.low * r, self.high * r)

    def pull(self, y: Vector, f: Vector) -> Vector:
        r = y - f
        return np.where(r > 0.0, self.high, np.where(r < 0.0, self.low, 0.0))

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return np.zeros_like(f)

    def lower(self, y: Vector, g: Vector) -> Vector:
        return g * y

    def domain(self, y: Vector) -> tuple[float, float]:
        return self.low, self.high

    def check(self, y: Vector) -> None:
        """Every finite target will do."""


@dataclass(frozen=True, slots=True)
class SmoothedPinball(_Residual):
    """``max_g g r - g^2 / (2 sharpness)`` over ``low <= g <= high``: the pinball loss with its kink rounded off."""

    low: float
    high: float
    sharpness: float
    merges: ClassVar[bool] = False

    def value(self, y: Vector, f: Vector) -> Vector:
        g = self.pull(y, f)
        return g * (y - f) - 0.5 * g * g / self.sharpness

    def pull(self, y: Vector, f: Vector) -> Vector:
        return np.clip(self.sharpness * (y - f), self.low, self.high)

    def curvature(self, y: Vector, f: Vector) -> Vector:
        g = self.sharpness * (y - f)
        return np.where((self.low < g) & (g < self.high), self.sharpness, 0.0)

    def lower(self, y: Vector, g: Vector) -> Vector:
        return g * y - 0.5 * g * g / self.sharpness

    def domain(self, y: Vector) -> tuple[float, float]:
        return self.low, self.high

    def check(self, y: Vector) -> None:
        """Every finite target will do."""


@dataclass(frozen=True, slots=True)
class Logistic(_Separable):
    """``log(1 + e^f) - y f``: minus the log-likelihood of a class y in [0, 1] with log-odds f."""

    merges: ClassVar[bool] = True

    def value(self, y: Vector, f: Vector) -> Vector:
        return np.logaddexp(0.0, f) - y * f

    def pull(self, y: Vector, f: Vector) -> Vector:
        return np.asarray(y - expit(f))

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return np.asarray(expit(f) * expit(-f))

    def lower(self, y: Vector, g: Vector) -> Vector:
        p = y - g
        return np.asarray(entr(p) + entr(1.0 - p))

    def domain(self, y: Vector) -> tuple[Vector, Vector]:
        return y - 1.0, y

    def check(self, y: Vector) -> None:
        if y.size and not (y.min() >= 0.0 and y.max() <= 1.0):
            raise ValueError(
                f"the logistic loss needs targets between 0 and 1; got values from {y.min():g} to {y.max():g}. "
                "Encode the two classes as 0 and 1."
            )


@dataclass(frozen=True, slots=True)
class Poisson(_Separable):
    """``e^f - y f``: minus the log-likelihood, up to a constant, of a count y with log-mean f."""

    merges: ClassVar[bool] = True

    def value(self, y: Vector, f: Vector) -> Vector:
        return np.exp(f) - y * f

    def pull(self, y: Vector, f: Vector) -> Vector:
        return y - np.exp(f)

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return np.exp(f)

    def lower(self, y: Vector, g: Vector) -> Vector:
        mean = y - g
        return np.asarray(mean - xlogy(mean, mean))

    def domain(self, y: Vector) -> tuple[float, Vector]:
        return -np.inf, y

    def check(self, y: Vector) -> None:
        if y.size and y.min() < 0.0:
            raise ValueError(f"the Poisson loss needs targets >= 0; got {y.min():g}. Use squared or huber instead.")


@dataclass(frozen=True, slots=True)
class SquaredHinge(_Separable):
    """``max(0, 1 - y f)^2 / 2`` for a class y of -1 or 1."""

    merges: ClassVar[bool] = False

    def value(self, y: Vector, f: Vector) -> Vector:
        return 0.5 * np.maximum(0.0, 1.0 - y * f) ** 2

    def pull(self, y: Vector, f: Vector) -> Vector:
        return y * np.maximum(0.0, 1.0 - y * f)

    def curvature(self, y: Vector, f: Vector) -> Vector:
        return (y * f < 1.0).astype(np.float64)

    def lower(self, y: Vector, g: Vector) -> Vector:
        return np.abs(g) - 0.5 * g * g

    def domain(self, y: Vector) -> tuple[Vector, Vector]:
        return np.where(y > 0.0, 0.0, -np.inf), np.where(y > 0.0, np.inf, 0.0)

    def check(self, y: Vector) -> None:
        if not (np.abs(y) == 1.0).all():
            raise ValueError("the squared hinge loss needs targets of -1 and 1; got others. Encode the classes so.")


@dataclass(frozen=True, slots=True)
class Multinomial:
    """``log sum_d e^(f_d) - y' f``: minus the log-likelihood of classes y, rows of ones and zeros, with logits f."""

    merges: ClassVar[bool] = True
    separable: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    def value(self, y: Vector, f: Vector) -> Vector:
        top = f.max(axis=-1, keepdims=True)
        spread = np.log(np.exp(f - top).sum(axis=-1, keepdims=True))
        return np.asarray(top + spread - (y * f).sum(axis=-1, keepdims=True))

    def pull(self, y: Vector, f: Vector) -> Vector:
        return np.asarray(y - self._shares(f))

    @staticmethod
    def _shares(f: Vector) -> Vector:
        """Softmax; that of scipy costs ten times as much on small arrays."""
        e = np.exp(f - f.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def curvature(self, y: Vector, f: Vector) -> Vector:
        p = self._shares(f)
        return np.asarray(p * (1.0 - p))

    def largest_curvature(self, y: Vector, f: Vector) -> Vector:
        # Gershgorin: p_d (1 - p_d) on the diagonal and as much beside it.
        return np.asarray(np.minimum(0.5, 2.0 * self.curvature(y, f).max(axis=-1)))

    def stiffness(self, y: Vector, f: Vector) -> Vector:
        return self.curvature(y, f)

    def root(self, y: Vector, f: Vector, tangents: Vector) -> Vector:
        p = self._shares(f)
        mean = np.einsum("nd,ndp->np", p, tangents)
        return np.asarray(np.sqrt(p)[..., None] * (tangents - mean[:, None, :]))

    def lower(self, y: Vector, g: Vector) -> Vector:
        return np.asarray(entr(y - g).sum(axis=-1, keepdims=True))

    def domain(self, y: Vector) -> tuple[Vector, Vector]:
        # Rows of pulls sum to zero beside that: y - g is a distribution.
        return y - 1.0, y

    def check(self, y: Vector) -> None:
        if y.size and not (y.min() >= 0.0 and np.allclose(y.sum(axis=-1), 1.0)):
            raise ValueError("the multinomial loss needs targets that are distributions over classes; got others.")


LOSSES = ("squared", "huber", "absolute", "quantile", "logistic", "poisson")
SHALLOW_LOSSES = (*LOSSES, "squared_hinge", "multinomial")


def loss_of(name: str | Loss, *, delta: float = 1.0, quantile: float = 0.5, among: tuple[str, ...] = LOSSES) -> Loss:
    """The loss of that name; ``delta`` belongs to huber and ``quantile``, in (0, 1), to quantile."""
    if not isinstance(name, str):
        return name
    if name == "quantile" and not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must lie strictly between 0 and 1; got {quantile!r}. The median is 0.5.")
    makers: dict[str, Callable[[], Loss]] = {
        "squared": Squared,
        "huber": lambda: Huber(delta),
        "absolute": Pinball,
        "quantile": lambda: Pinball(quantile - 1.0, quantile),
        "logistic": Logistic,
        "poisson": Poisson,
        "squared_hinge": SquaredHinge,
        "multinomial": Multinomial,
    }
    if name not in among:
        raise ValueError(f"loss must be one of {', '.join(among)}; got {name!r}.")
    return makers[name]()
