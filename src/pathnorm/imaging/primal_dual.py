"""Total variation by a fixed number of primal-dual steps: a map of the measurements that can be differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pathnorm.imaging.choose import choose
from pathnorm.imaging.measurements import checked_operator
from pathnorm.imaging.operators import Operator, normal
from pathnorm.imaging.perturbations import norm_of
from pathnorm.imaging.problem import SparseProblem
from pathnorm.imaging.regularizers import TotalVariation
from pathnorm.imaging.sparse import Reconstruction
from pathnorm.solvers.solution import Status

__all__ = ["TotalVariationSteps"]

_RATIO = 0.5
_LOOSELY = 3
# Numbers of an image times steps that may be kept for a derivative.
_KEPT = 1 << 21
_TOL = 1e-3


class TotalVariationSteps:
    """The reconstructor ``y -> x`` after a number of steps on ``1/2 ||A x - y||^2 / s^2 + lam TV(x)``.

    Primal-dual steps with a gradient [Condat 2013; Vu 2013], from zero. All measurements get the same number of
    steps, so that the map is deterministic and continuous; its derivative is taken through the last steps. How far an
    answer is from the optimum is certified by its duality gap.

    Parameters
    ----------
    example : Tensor
        Measurements; operator and adjoint are checked on their shape.
    lam : float
        In units of the image, see :class:`pathnorm.imaging.SparseProblem`.
    """

    def __init__(self, operator: Operator, example: Tensor, lam: float, *, steps: int = 200, seed: int = 0) -> None:
        self.operator, self.lam, self.steps = operator, lam, steps
        self.zero, self.scale = checked_operator(operator, example, seed)
        self._part = TotalVariation()

    def __call__(self, y: Tensor) -> Tensor:
        """Return the image (H, W)."""
        found: Tensor = _Answer.apply(y, self)  # type: ignore[no-untyped-call]
        return found

    def solve(self, y: Tensor, lam: float | None = None, *, steps: int | None = None) -> Reconstruction:
        """Return the image with its certificate."""
        lam, steps = self.lam if lam is None else lam, self.steps if steps is None else steps
        with torch.no_grad():
            x, q = self._run(y, self._start(), steps, lam)
        problem = SparseProblem(self.operator, y, self.scale, (self._part,), lam)
        certificate = problem.certify(x, [q])
        status = Status.CONVERGED if certificate.gap <= _TOL else Status.MAX_ITER
        return Reconstruction(x, (q,), problem, certificate, status, steps, norm_of(self.operator.A(x) - y))

    def by_discrepancy(self, y: Tensor, noise: float) -> TotalVariationSteps:
        """Return the same with the largest ``lam`` that fits these measurements to their noise [Morozov 1966]."""

        def solve(measured: Tensor, lam: float, near: Reconstruction | None, loosely: bool) -> Reconstruction:
            return self.solve(measured, lam, steps=max(1, self.steps // _LOOSELY) if loosely else self.steps)

        found = choose(solve, self.operator, y, rule="discrepancy", noise=noise, scale=self.scale, seed=0)
        return TotalVariationSteps(self.operator, y, found.lam, steps=self.steps)

    def _start(self) -> tuple[Tensor, Tensor]:
        return self.zero, self._part.K(self.zero)

    def _run(self, y: Tensor, state: tuple[Tensor, Tensor], steps: int, lam: float) -> tuple[Tensor, Tensor]:
        """Converges as the sizes fulfil ``1 / down - up ||K||^2 >= 1 / 2``, half the Lipschitz constant."""
        operator, part, square = self.operator, self._part, self.scale**2
        up = _RATIO / part.norm_squared**0.5
        down = 1.0 / (0.5 + up * part.norm_squared)
        seen = operator.A_adjoint(y)
        x, q = state
        for _ in range(steps):
            moved = x - down * ((normal(operator, x) - seen) / square + part.K_adjoint(q))
            q = _shortened(q + up * part.K(2.0 * moved - x), lam)
            x = moved
        return x, q


def _shortened(q: Tensor, lam: float) -> Tensor:
    """Return q with no group longer than lam; of squares, whose derivative at zero is no trouble."""
    squares = q.real.square() + q.imag.square() if q.is_complex() else q.square()
    factor: Tensor = (squares.sum(0) / lam**2).clamp_min(1.0).rsqrt()
    return q * factor


class _Answer(torch.autograd.Function):
    """The image; its derivative runs back through as many of the last steps as memory allows."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, method: TotalVariationSteps) -> Tensor:
        last = min(method.steps, max(10, min(100, _KEPT // method.zero.numel())))
        state = method._run(y, method._start(), method.steps - last, method.lam)
        ctx.method, ctx.last = method, last
        ctx.save_for_backward(y, *state)
        return method._run(y, state, last, method.lam)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        y, *state = ctx.saved_tensors
        with torch.enable_grad():
            given = y.detach().requires_grad_()
            x = ctx.method._run(given, tuple(state), ctx.last, ctx.method.lam)[0]
            (gradient,) = torch.autograd.grad(x, given, gradients[0])
        return gradient, None
