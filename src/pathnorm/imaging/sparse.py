"""Sparse reconstruction: total variation, wavelets, or both, with a duality gap computed from the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathnorm.errors import DataError
from pathnorm.imaging.choose import choose
from pathnorm.imaging.operators import Operator, adjoint_error, draw_like, operator_norm
from pathnorm.imaging.regularizers import Regularizer, TotalVariation, Wavelet
from pathnorm.problems.certificate import Certificate
from pathnorm.solvers.solution import Status

__all__ = ["Reconstruction", "SparseProblem", "reconstruct"]

_REGULARIZERS: dict[str, Callable[[str], tuple[Regularizer, ...]]] = {
    "tv": lambda wavelet: (TotalVariation(),),
    "wavelet": lambda wavelet: (Wavelet(wavelet),),
    "tv+wavelet": lambda wavelet: (TotalVariation(), Wavelet(wavelet)),
}
_ADJOINT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_INNER, _CHECK = 8, 10
# Gap and steps while lam is looked for.
_LOOSE, _FEW = 1e-2, 200
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SparseProblem:
    """``1/2 ||A x - y||^2 / s^2 + lam sum_i R_i(x)`` with s at least the largest singular value of A.

    Dividing by s makes a value of ``lam`` mean the same for every operator: it has the unit of the image.

    Its dual is to maximise ``-||p||^2 / 2 - Re <p, y / s>`` over p and q_i with ``A* p / s + sum_i K_i* q_i = 0`` and
    groups of q_i no longer than lam. At the optimum ``p = (A x - y) / s``.
    """

    operator: Operator
    y: Tensor
    scale: float
    regularizers: tuple[Regularizer, ...]
    lam: float

    def value(self, x: Tensor) -> float:
        """Return the objective."""
        return self._value(x, self.residual(x))

    def penalty(self, x: Tensor) -> float:
        """Return ``sum_i R_i(x)``."""
        return sum(float(part.lengths(part.K(x)).sum()) for part in self.regularizers)

    def residual(self, x: Tensor) -> Tensor:
        """Return ``(A x - y) / s``."""
        return (self.operator.A(x) - self.y) / self.scale

    def certify(self, x: Tensor, dual: Sequence[Tensor]) -> Certificate:
        """Return the objective and a lower bound on the optimum, from an image and any dual variables.

        ``p`` is the residual, made orthogonal to what no regulariser sees; one of the q is moved to the next point
        that fulfils the equation, and all are scaled until none is too long: whatever is handed in, the bound holds.
        """
        residual = self.residual(x)
        primal = self._value(x, residual)
        p, q = self._seen(residual, x), list(dual)
        missing = -self.operator.A_adjoint(p) / self.scale
        for part, values in zip(self.regularizers[:-1], q, strict=False):
            missing = missing - part.K_adjoint(values)
        last = self.regularizers[-1].preimage(missing, q[-1])
        if last is None:
            return Certificate(primal=primal, dual=0.0)
        q[-1] = last
        longest = max(float(part.lengths(values).max()) for part, values in zip(self.regularizers, q, strict=True))
        most = self.lam / longest if longest > 0.0 else math.inf
        energy = float(p.abs().square().sum())
        inner = _real_inner(p, self.y) / self.scale
        best = min(max(-inner / energy, 0.0), most) if energy > 0.0 else 0.0
        # What is left of the equation by rounding, times the size of the image that could exploit it, is far below.
        return Certificate(primal=primal, dual=max(-0.5 * best**2 * energy - best * inner, 0.0))

    def _value(self, x: Tensor, residual: Tensor) -> float:
        return 0.5 * float(residual.abs().square().sum()) + self.lam * self.penalty(x)

    def _seen(self, p: Tensor, x: Tensor) -> Tensor:
        """Return the residual p without its part along the measurements of a constant, which the variation ignores."""
        if not all(isinstance(part, TotalVariation) for part in self.regularizers):
            return p
        flat = self.operator.A(torch.ones_like(x)) / self.scale
        energy = float(flat.abs().square().sum())
        return p if energy == 0.0 else p - flat * (torch.vdot(flat.flatten(), p.flatten()) / energy)


@dataclass(frozen=True)
class Reconstruction:
    """An image and what is known about it.

    Attributes
    ----------
    image : Tensor of shape (H, W)
        Of float64 or complex128.
    certificate : Certificate
        Objective and lower bound on the optimum over all images, recomputed from image and ``dual``.
    misfit : float
        ``||A x - y||``.
    lam : float
    objective : str
        What was minimised, in words and numbers.
    """

    image: Tensor
    dual: tuple[Tensor, ...]
    problem: SparseProblem
    certificate: Certificate
    status: Status
    n_iter: int
    misfit: float

    @property
    def lam(self) -> float:
        """Weight of the regulariser."""
        return self.problem.lam

    @property
    def objective(self) -> str:
        """What was minimised."""
        names = " + ".join({"tv": "TV(x)", "wavelet": "||W x||_1"}[part.name] for part in self.problem.regularizers)
        return f"1/2 ||A x - y||^2 / {self.problem.scale:.6g}^2 + {self.problem.lam:.4g} ({names})"

    def __str__(self) -> str:
        certificate = self.certificate
        return (
            f"minimised  {self.objective}\nobjective  {certificate.primal:.8g} (exact), "
            f"optimum at least {certificate.dual:.8g} (certified), gap {certificate.gap:.1e}\n"
            f"misfit     {self.misfit:.6g} (exact)\nstatus     {self.status.value} after {self.n_iter} steps"
        )


def reconstruct(
    y: Any,
    operator: Operator,
    regularizer: str = "tv",
    lam: float | str = "discrepancy",
    *,
    noise: float | None = None,
    wavelet: str = "db4",
    tol: float = 1e-5,
    max_iter: int = 2_000,
    start: Reconstruction | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reconstruction:
    """Minimise ``1/2 ||A x - y||^2 / s^2 + lam R(x)`` over all images, to a relative duality gap.

    Accelerated proximal gradient steps with restarts [Beck, Teboulle 2009; O'Donoghue, Candes 2015]; the proximal map
    is found from its dual, which starts where the last step ended.

    Parameters
    ----------
    y : array or Tensor
        Measurements, of the shape that ``operator.A`` returns for one image (H, W).
    operator : Operator
        Anything with ``A`` and ``A_adjoint``; whether the two are adjoint is measured and refused if not.
    regularizer : {"tv", "wavelet", "tv+wavelet"}
    lam : float or {"discrepancy", "sure"}
        In units of the image, see :class:`SparseProblem`. ``"discrepancy"``: the largest whose misfit is at most the
        size of the noise. ``"sure"``: that with the least unbiased estimate of the prediction error, its divergence
        by one random probe. Both need ``noise``.
    noise : float
        Standard deviation of the noise of a measurement; of a complex one the root of the mean squared modulus.
    tol : float
        Relative gap to stop at.
    start : Reconstruction
        A solution for another ``lam`` to start from.

    Raises
    ------
    DataError
        If y is not finite, or is zero everywhere.
    ValueError
        If shapes do not fit, A and A_adjoint are not adjoint, or an argument is out of range.
    """
    if regularizer not in _REGULARIZERS:
        raise ValueError(f"regularizer must be one of {', '.join(_REGULARIZERS)}. Got {regularizer!r}.")
    if not tol > 0.0 or max_iter < 1:
        raise ValueError(f"tol and max_iter must be positive. Got {tol} and {max_iter}.")
    data = _measurements(y)
    zero, scale = _checked(operator, data, seed)
    parts = _REGULARIZERS[regularizer](wavelet)
    for part in parts:
        part.K(zero)

    def solve(measured: Tensor, value: float, near: Reconstruction | None, loosely: bool) -> Reconstruction:
        problem = SparseProblem(operator, measured, scale, parts, value)
        least, most = (max(tol, _LOOSE), min(max_iter, _FEW)) if loosely else (tol, max_iter)
        return _solve(problem, zero, near, tol=least, max_iter=most, progress=progress)

    if isinstance(lam, str):
        return choose(solve, operator, data, rule=lam, noise=noise, scale=scale, seed=seed)
    if not (math.isfinite(lam) and lam > 0.0):
        raise ValueError(f"lam must be positive and finite. Got {lam}.")
    return solve(data, float(lam), start, False)


def _measurements(y: Any) -> Tensor:
    data = torch.as_tensor(y)
    data = data.to(torch.complex128 if data.is_complex() else torch.float64)
    if not bool(torch.isfinite(torch.view_as_real(data) if data.is_complex() else data).all()):
        raise DataError("Measurements must be finite. Got NaN or infinity; mask those samples.")
    if not bool((data != 0).any()):
        raise DataError("Measurements must not all be zero: the image would be zero whatever the operator is.")
    return data


def _checked(operator: Operator, y: Tensor, seed: int) -> tuple[Tensor, float]:
    """Return an empty image and the scale; refuse what does not fit together."""
    shape = getattr(operator, "data_shape", None)
    if shape is not None and tuple(y.shape) != tuple(shape):
        raise ValueError(f"Measurements must have the operator's shape {tuple(shape)}. Got {tuple(y.shape)}.")
    if getattr(operator, "complex_image", False) and not y.is_complex():
        raise ValueError(
            "This operator measures complex numbers: k-space has a phase. Got real measurements; hand over the complex "
            "samples, not their modulus."
        )
    mask = getattr(operator, "mask", None)
    if mask is not None and bool((y * ~mask != 0).any()):
        raise ValueError("Measurements must be zero where the mask says that nothing was sampled. Got others there.")
    zero = torch.zeros_like(operator.A_adjoint(y))
    if zero.ndim != 2:
        raise ValueError(f"A_adjoint must return one image (H, W) for these measurements. Got {tuple(zero.shape)}.")
    rows = torch.Generator().manual_seed(seed)
    probe, answer = draw_like(zero, rows), draw_like(y, rows)
    if mask is not None:
        answer = answer * mask
    error = adjoint_error(operator, probe, answer)
    allowed = _ADJOINT_TOLERANCE.get(operator.A(probe).abs().dtype, 1e-3)
    if error > allowed:
        raise ValueError(
            f"A_adjoint must be the adjoint of A: <A x, y> = <x, A* y> up to {allowed:g}. They differ by {error:.1e} "
            "on random vectors; without it neither the method converges nor the certificate holds."
        )
    norm = getattr(operator, "norm", None)
    # A measured norm is from below: a little is added.
    scale = float(norm()) if callable(norm) else 1.01 * operator_norm(operator, probe, seed=seed)
    if not scale > 0.0:
        raise DataError("The operator must measure something. Its norm is zero.")
    return zero, scale


def _solve(
    problem: SparseProblem,
    zero: Tensor,
    start: Reconstruction | None,
    *,
    tol: float,
    max_iter: int,
    progress: Progress | None,
) -> Reconstruction:
    """Proximal gradient steps with momentum; the certificate is looked at every few of them."""
    operator, parts, square = problem.operator, problem.regularizers, problem.scale**2
    back = operator.A_adjoint(problem.y)
    normal = getattr(operator, "normal", None) or (lambda x: operator.A_adjoint(operator.A(x)))
    x = zero if start is None else start.image
    # Lengths of the dual variables follow lam.
    q = [part.K(zero) for part in parts] if start is None else [problem.lam / start.lam * part for part in start.dual]
    point, momentum, certificate, steps = x, 1.0, problem.certify(x, q), 0
    while certificate.gap > tol and steps < max_iter:
        steps += 1
        moved = point - (normal(point) - back) / square
        new, q = _proximal(moved, parts, q, problem.lam)
        following = _grown(momentum)
        if _real_inner(point - new, new - x) > 0.0:  # momentum points uphill
            point, following = new, 1.0
        else:
            point = new + (momentum - 1.0) / following * (new - x)
        x, momentum = new, following
        if steps % _CHECK == 0 or steps == max_iter:
            certificate = problem.certify(x, q)
            if progress is not None:
                progress("reconstructing", steps, max_iter)
    if progress is not None:
        progress("reconstructing", max_iter, max_iter)
    status = Status.CONVERGED if certificate.gap <= tol else Status.MAX_ITER
    misfit = float((operator.A(x) - problem.y).norm())
    return Reconstruction(x, tuple(q), problem, certificate, status, steps, misfit)


def _proximal(
    image: Tensor, parts: Sequence[Regularizer], q: Sequence[Tensor], lam: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the minimiser of ``1/2 ||x - image||^2 + lam R(x)`` and its dual variables, near where they were."""
    step = 1.0 / sum(part.norm_squared for part in parts)
    exact = len(parts) == 1 and isinstance(parts[0], Wavelet)
    ahead, momentum = list(q), 1.0
    for _ in range(1 if exact else _INNER):
        found = image - _back(parts, ahead)
        moved = [_clip(values + step * part.K(found), part, lam) for part, values in zip(parts, ahead, strict=True)]
        following = _grown(momentum)
        ahead = [new + (momentum - 1.0) / following * (new - old) for old, new in zip(q, moved, strict=True)]
        q, momentum = moved, following
    return image - _back(parts, q), list(q)


def _grown(momentum: float) -> float:
    """Nesterov's sequence."""
    return 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum**2))


def _back(parts: Sequence[Regularizer], q: Sequence[Tensor]) -> Tensor:
    first, *others = (part.K_adjoint(values) for part, values in zip(parts, q, strict=True))
    for other in others:
        first = first + other
    return first


def _clip(q: Tensor, part: Regularizer, lam: float) -> Tensor:
    """Shorten what is longer than lam."""
    return q / (part.lengths(q) / lam).clamp_min(1.0)


def _real_inner(one: Tensor, other: Tensor) -> float:
    return float(np.real(torch.vdot(one.flatten(), other.flatten()).item()))
