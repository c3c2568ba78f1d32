"""Sparse reconstruction: total variation, wavelets, or both, with a duality gap computed from the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pathnorm.imaging.choose import choose
from pathnorm.imaging.measurements import checked_measurements, checked_operator
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.problem import SparseProblem
from pathnorm.imaging.proximal_gradient import proximal_gradient
from pathnorm.imaging.regularizers import Regularizer, TotalVariation, Wavelet
from pathnorm.imaging.ridge import ConvexRidge
from pathnorm.imaging.smooth import RidgeProblem, minimise_smooth
from pathnorm.imaging.splitting import splitting, spread
from pathnorm.problems.certificate import Certificate
from pathnorm.solvers.solution import Status

__all__ = ["Reconstruction", "reconstruct", "regularizers_of"]

_REGULARIZERS: dict[str, Callable[[str], tuple[Regularizer, ...]]] = {
    "tv": lambda wavelet: (TotalVariation(),),
    "wavelet": lambda wavelet: (Wavelet(wavelet),),
    "tv+wavelet": lambda wavelet: (TotalVariation(), Wavelet(wavelet)),
}
_CHECK = 10
# Up to here frequencies are seen alike enough for gradient steps; by then they must have come as far as this.
_ALIKE, _TRIED, _FAR = 10.0, 100, 1e-2
# Gap and steps while lam is looked for.
_LOOSE, _FEW = 1e-2, 200
Progress = Callable[[str, int, int], None]
Steps = Callable[[SparseProblem, Tensor, Sequence[Tensor]], Iterator[tuple[Tensor, Sequence[Tensor]]]]


@dataclass(frozen=True)
class Reconstruction:
    """An image and what is known about it.

    Attributes
    ----------
    image : Tensor of shape (H, W)
        Of float64 or complex128.
    dual : tuple of Tensor
        Dual variables, one for each regulariser; none for a :class:`~pathnorm.imaging.ConvexRidge`.
    problem : SparseProblem or RidgeProblem
    certificate : Certificate
        Objective and lower bound on the optimum over the images that ``over`` names, recomputed from the image and
        ``dual``.
    misfit : float
        ``||A x - y||``.
    lam : float
    objective : str
        What was minimised, in words and numbers.
    """

    image: Tensor
    dual: tuple[Tensor, ...]
    problem: SparseProblem | RidgeProblem
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
        return self.problem.objective

    @property
    def over(self) -> str:
        """Over which images the bound holds."""
        return self.problem.over(self.image)

    def to_dict(self) -> dict[str, Any]:
        """Return what is known about the image, for JSON, with how it is known."""
        return {
            "objective": self.objective,
            "lam": self.lam,
            "value": {"value": self.certificate.primal, "kind": "exact"},
            "optimum_at_least": {"value": self.certificate.dual, "kind": "certified", "over": self.over},
            "gap": {"value": self.certificate.gap, "kind": "certified"},
            "misfit": {"value": self.misfit, "kind": "exact"},
            "status": self.status.value,
            "n_iter": self.n_iter,
            "shape": list(self.image.shape),
        }

    def __str__(self) -> str:
        certificate = self.certificate
        return (
            f"minimised  {self.objective}\nobjective  {certificate.primal:.8g} (exact), "
            f"optimum at least {certificate.dual:.8g} (certified over {self.over}), gap {certificate.gap:.1e}\n"
            f"misfit     {self.misfit:.6g} (exact)\nstatus     {self.status.value} ({self.n_iter} steps)"
        )


def reconstruct(
    y: Any,
    operator: Operator,
    regularizer: str | ConvexRidge = "tv",
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

    By accelerated proximal gradient steps [Beck, Teboulle 2009]; by alternating directions [Goldstein, Osher 2009]
    where the operator weakens some frequencies much more than others, as in tomography and deblurring, or where
    gradient steps have not come near after the first hundred, as with a large lam; by gradient steps with a learned
    regulariser, which is smooth. The answer and its certificate do not depend on the method.

    Parameters
    ----------
    y : array or Tensor
        Measurements, of the shape that ``operator.A`` returns for one image (H, W).
    operator : Operator
        Anything with ``A`` and ``A_adjoint``; whether the two are adjoint is measured and refused if not.
    regularizer : {"tv", "wavelet", "tv+wavelet"} or ConvexRidge
        Of a learned one the gap is relative to a bound that may hold over bounded images only: the result says so under
        ``over``, see :class:`~pathnorm.imaging.smooth.RidgeProblem`.
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
    parts = () if isinstance(regularizer, ConvexRidge) else regularizers_of(regularizer, wavelet=wavelet)
    if not tol > 0.0 or max_iter < 1:
        raise ValueError(f"tol and max_iter must be positive. Got {tol} and {max_iter}.")
    data = checked_measurements(y)
    zero, scale = checked_operator(operator, data, seed)
    for part in parts:
        part.K(zero)
    method = proximal_gradient if not parts or spread(operator, zero) <= _ALIKE else splitting

    def solve(measured: Tensor, value: float, near: Reconstruction | None, loosely: bool) -> Reconstruction:
        least, most = (max(tol, _LOOSE), min(max_iter, _FEW)) if loosely else (tol, max_iter)
        if isinstance(regularizer, ConvexRidge):
            smooth = RidgeProblem(operator, measured, scale, regularizer, value)
            # Steps are cheap and gaps fall fast; a misfit is known to the root of the gap only.
            least = max(tol, _LOOSE**2) if loosely else tol
            return _solve_smooth(smooth, zero, near, tol=least, max_iter=most, progress=progress)
        problem = SparseProblem(operator, measured, scale, parts, value)
        return _solve(problem, zero, near, method=method, tol=least, max_iter=most, progress=progress)

    if isinstance(lam, str):
        return choose(solve, operator, data, rule=lam, noise=noise, scale=scale, seed=seed)
    if not (math.isfinite(lam) and lam > 0.0):
        raise ValueError(f"lam must be positive and finite. Got {lam}.")
    return solve(data, float(lam), start, False)


def regularizers_of(name: str, *, wavelet: str = "db4") -> tuple[Regularizer, ...]:
    """Return the parts of the regulariser of that name."""
    if name not in _REGULARIZERS:
        names = ", ".join(_REGULARIZERS)
        raise ValueError(f"regularizer must be one of {names}, or a ConvexRidge. Got {name!r}.")
    return _REGULARIZERS[name](wavelet)


def _solve(
    problem: SparseProblem,
    zero: Tensor,
    start: Reconstruction | None,
    *,
    method: Steps,
    tol: float,
    max_iter: int,
    progress: Progress | None,
) -> Reconstruction:
    """Go on until the certificate, looked at every few steps, is good enough."""
    x = zero if start is None else start.image
    # Lengths of the dual variables follow lam.
    q: Sequence[Tensor] = [part.K(zero) for part in problem.regularizers]
    if start is not None:
        q = [problem.lam / start.lam * part for part in start.dual]
    certificate, steps = problem.certify(x, q), 0
    iterates = method(problem, x, q)
    while certificate.gap > tol and steps < max_iter:
        if steps == _TRIED and certificate.gap > _FAR and method is not splitting:
            # A large lam: the proximal map itself is the difficult part.
            iterates = splitting(problem, x, q)
        steps += 1
        x, q = next(iterates)
        if steps % _CHECK == 0 or steps == max_iter:
            certificate = problem.certify(x, q)
            if progress is not None:
                progress("reconstructing", steps, max_iter)
    if progress is not None:
        progress("reconstructing", max_iter, max_iter)
    return _finished(problem, x, q, certificate, steps=steps, tol=tol)


def _solve_smooth(
    problem: RidgeProblem,
    zero: Tensor,
    start: Reconstruction | None,
    *,
    tol: float,
    max_iter: int,
    progress: Progress | None,
) -> Reconstruction:
    x, certificate, steps = minimise_smooth(
        problem, zero if start is None else start.image, tol=tol, max_iter=max_iter, progress=progress
    )
    return _finished(problem, x, (), certificate, steps=steps, tol=tol)


def _finished(
    problem: SparseProblem | RidgeProblem,
    x: Tensor,
    dual: Sequence[Tensor],
    certificate: Certificate,
    *,
    steps: int,
    tol: float,
) -> Reconstruction:
    status = Status.CONVERGED if certificate.gap <= tol else Status.MAX_ITER
    misfit = float((problem.operator.A(x) - problem.y).norm())
    return Reconstruction(x, tuple(dual), problem, certificate, status, steps, misfit)
