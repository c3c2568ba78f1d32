"""Reconstruction under a smooth convex regulariser: accelerated gradient steps, a bound computed from the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pathnorm.imaging._ridge_push import retract
from pathnorm.imaging.operators import Identity, Operator
from pathnorm.imaging.problem import real_inner
from pathnorm.imaging.proximal_gradient import grown
from pathnorm.imaging.ridge import ConvexRidge
from pathnorm.problems.certificate import Certificate

__all__ = ["RidgeProblem", "minimise_smooth"]

_CHECK = 5
_ROOM = 2.0  # of the box, in units of the largest pixel
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RidgeProblem:
    """``F(x) = 1/2 ||A x - y||^2 / s^2 + lam R(x)`` with a :class:`ConvexRidge` R, s at least the norm of A.

    Two bounds follow from an image x and ``g = grad F(x)``, as F lies above its tangents [Frank, Wolfe 1956; Jaggi
    2013]. Over the images without a pixel larger than r, with ``sum`` over pixels of complex modulus,

        ``F >= F(x) + min_z Re <g, z - x> = F(x) - Re <g, x> - r sum_j |g_j|``.

    For denoising, A = I, F is strongly convex with the modulus ``m = 1 / s^2`` and over all images

        ``F >= F(x) + min_z (Re <g, z - x> + m/2 ||z - x||^2) = F(x) - ||g||^2 / (2 m)``.

    Raises
    ------
    ValueError
        If the regulariser is not convex: none of this holds then.
    """

    operator: Operator
    y: Tensor
    scale: float
    ridge: ConvexRidge
    lam: float
    filters: Tensor = field(init=False, repr=False)
    steps: Tensor = field(init=False, repr=False)
    back: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        proved = self.ridge.certify()
        if not proved.convex:
            raise ValueError(
                "The regulariser must be convex: no activation may have a negative slope. The smallest slope is "
                f"{proved.smallest_slope:.3g}; call ridge.project_(), or train with train_ridge, which does."
            )
        real = torch.float64 if self.y.is_complex() else self.y.dtype
        object.__setattr__(self, "filters", self.ridge.filters().detach().to(self.y.device, real))
        # The second derivative is at most this many times the copies of a pixel, see ConvexRidge.
        bend = self.lam * float(self.ridge.mu) * proved.norm**2 * proved.largest_slope
        back = self.operator.A_adjoint(self.y)
        object.__setattr__(self, "back", float(back.abs().max()) / self.scale**2)
        wide = self.filters.new_ones(1, *(size + 2 * (self.ridge.width // 2) for size in back.shape))
        object.__setattr__(self, "steps", 1.0 / (1.0 + bend * retract(wide, self.ridge.width)[0]))

    @property
    def objective(self) -> str:
        """What is minimised, in words and numbers."""
        return f"1/2 ||A x - y||^2 / {self.scale:.6g}^2 + {self.lam:.4g} R(x), R of mu {float(self.ridge.mu):.4g}"

    @property
    def convexity(self) -> float:
        """Known modulus of strong convexity; 0 if none is known."""
        return self.scale**-2 if type(self.operator) is Identity else 0.0

    def reach(self, x: Tensor) -> float:
        """Return r: twice the largest pixel of x, or of ``A* y / s^2`` where that is larger, as for an empty x."""
        return _ROOM * max(float(x.abs().max()), self.back)

    def over(self, x: Tensor) -> str:
        """Over which images the bound of :meth:`certify` holds."""
        return "all images" if self.convexity > 0.0 else f"images with no pixel above {self.reach(x):.4g}"

    def residual(self, x: Tensor) -> Tensor:
        """Return ``(A x - y) / s``."""
        return (self.operator.A(x) - self.y) / self.scale

    @torch.no_grad()
    def penalty(self, x: Tensor) -> float:
        """Return ``R(x)``."""
        return float(self.ridge.value(x, self.filters))

    def value(self, x: Tensor) -> float:
        """Return the objective."""
        return 0.5 * float(self.residual(x).abs().square().sum()) + self.lam * self.penalty(x)

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of the objective, an image."""
        return self.operator.A_adjoint(self.residual(x)) / self.scale + self.lam * self.ridge.gradient(x, self.filters)

    def certify(self, x: Tensor, gradient: Tensor | None = None) -> Certificate:
        """Return the objective and the bound over the images that :meth:`over` names; the gradient if it is known."""
        primal = self.value(x)
        g = self.gradient(x) if gradient is None else gradient
        if self.convexity > 0.0:
            loss = float(g.abs().square().sum()) / (2.0 * self.convexity)
        else:
            loss = real_inner(g, x) + self.reach(x) * float(g.abs().sum())
        # No objective is negative.
        return Certificate(primal=primal, dual=max(primal - loss, 0.0))


def minimise_smooth(
    problem: RidgeProblem, start: Tensor, *, tol: float, max_iter: int, progress: Progress | None = None
) -> tuple[Tensor, Certificate, int]:
    """Return an image near the optimum, its certificate, and the number of gradient steps.

    Accelerated gradient descent with the step that the certified second derivative allows at each pixel; momentum of
    Nesterov, begun anew where it points uphill [O'Donoghue, Candès 2015].
    """
    x = point = start
    momentum, steps = 1.0, 0
    certificate = problem.certify(x)
    while certificate.gap > tol and steps < max_iter:
        steps += 1
        slope = problem.gradient(point)
        new = point - problem.steps * slope
        if real_inner(slope, new - x) > 0.0:
            momentum = 1.0
        following = grown(momentum)
        point = new + (momentum - 1.0) / following * (new - x)
        x, momentum = new, following
        if steps % _CHECK == 0 or steps == max_iter:
            certificate = problem.certify(x)
            if progress is not None:
                progress("reconstructing", steps, max_iter)
    if progress is not None:
        progress("reconstructing", max_iter, max_iter)
    return x, certificate, steps
