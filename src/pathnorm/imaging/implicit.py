"""Implicit representations: an image as a network of coordinates, fitted to measurements under its path norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep import Compression, compress
from pathnorm.errors import DataError
from pathnorm.imaging._coordinate_training import LEARNING_RATES, ImplicitProblem, Progress, descended, path_norms
from pathnorm.imaging.coordinate_networks import (
    ARCHITECTURES,
    Architecture,
    coordinate_network,
    coordinates,
    encoded,
)
from pathnorm.imaging.implicit_choice import Trial, chosen, held_out_mask
from pathnorm.imaging.measurements import checked_measurements, checked_operator
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.scans import psnr
from pathnorm.report.fields import exact, measured
from pathnorm.report.records import CompressionRecord

__all__ = ["CompressedFit", "ImplicitFit", "fit_implicit", "rate_distortion"]

_RANK_TOLERANCE = 1e-3
# Rate of the descent after a compression, over that of a fit.
_AFTER = 0.3
_ACTIVE = 1e-3
_RULES = ("discrepancy", "held-out")


@dataclass(frozen=True, eq=False, kw_only=True)
class ImplicitFit:
    """An image, the network that represents it, and what is known of both; always of the last iterate.

    Attributes
    ----------
    image : Tensor of shape (H, W)
        Of float64 or complex128.
    module : torch.nn.Sequential
        From ``problem.features`` to the image over ``problem.amplitude``; real and imaginary part where it is complex.
    problem : ImplicitProblem
        What was minimised.
    path_norms : tuple of float
        Per hidden layer ``c sum_k ||w_k|| ||v_k||``: the function-space norm of the layer. For ``"siren"`` it is the
        same sum over neurons that are no ReLUs, and no norm of the theory.
    neurons : tuple of int
        Per hidden layer, those whose ``||w_k|| ||v_k||`` is above a thousandth of the largest.
    ranks : tuple of int
        Per hidden layer, the singular values of its features on the pixels above a thousandth of the largest.
    misfit : float
        ``||A f - y||`` over all measurements, those that were held out too.
    trials : tuple of Trial
        What was tried while lam was looked for, in that order.
    """

    image: Tensor
    module: nn.Sequential
    problem: ImplicitProblem
    arch: Architecture
    data_term: float = exact()
    misfit: float = exact()
    path_norms: tuple[float, ...] = exact()
    neurons: tuple[int, ...] = measured()
    ranks: tuple[int, ...] = measured()
    rule: str = exact()
    noise: float | None = exact()
    steps: int = exact()
    trials: tuple[Trial, ...] = measured(default=())

    @property
    def lam(self) -> float:
        """Weight of the path norm."""
        return self.problem.lam

    @property
    def path_norm(self) -> float:
        """Sum over the hidden layers."""
        return sum(self.path_norms)

    @property
    def objective(self) -> str:
        """What was minimised, in words and numbers."""
        problem = self.problem
        return (
            f"1/2 ||A f - y||^2 / ({problem.scale:.6g} * {problem.amplitude:.4g})^2 + {problem.lam:.4g} "
            f"{_NORM_NAMES[self.arch]}, f = {problem.amplitude:.4g} net"
        )

    def compress(
        self, *, widths: float | None = None, error: float | None = None, slide: int = 0, steps: int = 0, seed: int = 0
    ) -> CompressedFit:
        """Return the same image from fewer neurons; see :func:`pathnorm.deep.compress`.

        Parameters
        ----------
        widths : float
            Share of every layer to keep; or
        error : float
            largest relative error of the network's outputs.
        slide : int
            Steps in which the neurons that are kept move to reconstruct their layer.
        steps : int
            Steps of descent on the objective of the fit afterwards: measurements are looked at again, no ground truth.
        """
        found = compress(self.module, self.problem.features, widths=widths, error=error, slide=slide, seed=seed)
        return _continued(self, found, steps)

    def __str__(self) -> str:
        width = self.module[0].out_features
        kind = "exact" if self.arch != "siren" else "exact; of sines, not the theory's norm"
        size = "" if self.noise is None else f", noise {self.noise:.4g} per measurement (given)"
        return (
            f"minimised  {self.objective}\n"
            f"lam        {self.lam:.4g}: {self.rule}, {self.steps} steps in all, the last iterate\n"
            f"data term  {self.data_term:.6g} (exact), misfit ||A f - y|| {self.misfit:.6g} (exact){size}\n"
            f"path norm  {self.path_norm:.6g} ({kind}), per layer {_listed(self.path_norms)}\n"
            f"neurons    {_listed(self.neurons)} of {width} above 1e-3 of the largest (measured)\n"
            f"ranks      {_listed(self.ranks)} of the features, to 1e-3 (measured)"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class CompressedFit:
    """The same image from fewer neurons.

    Attributes
    ----------
    neurons : tuple of int
        Per hidden layer.
    psnr : float
        Of this image against the one before compression, in dB, its largest modulus as the peak.
    misfit : float
        ``||A f - y||``.
    """

    image: Tensor
    module: nn.Sequential
    neurons: tuple[int, ...] = exact()
    psnr: float = exact()
    misfit: float = exact()
    path_norm: float = exact()
    record: CompressionRecord


_NORM_NAMES = {
    "fourier-relu": "sum_layers sum_k ||w_k|| ||v_k||",
    "bw-relu": "sum_layers sum_ReLUs ||w_k|| ||v_k||",
    "siren": "sum_layers sum_sines ||w_k|| ||v_k||",
}


def fit_implicit(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    y: Any,
    operator: Operator,
    arch: Architecture = "fourier-relu",
    *,
    width: int = 64,
    depth: int = 3,
    lam: float | str = "discrepancy",
    noise: float | None = None,
    held_out: float | Tensor = 0.1,
    steps: int = 600,
    learning_rate: float | None = None,
    bandwidth: float = 4.0,
    start: ImplicitFit | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImplicitFit:
    """Minimise ``1/2 ||A f - y||^2 / (s a)^2 + lam sum_g c_g sum_k ||w_k|| ||v_k||`` over networks f of coordinates.

    ``f = a net``, from [-1, 1]^2 to the values of the image; s is the norm of A and a the size of an image that
    explains y. The second term is the path norm of the network's hidden layers g, in the loss itself. The problem is
    not convex: Adam is run for a given number of steps and the last iterate is the answer; nothing is certified.

    Parameters
    ----------
    y : array or Tensor
        Measurements, of the shape that ``operator.A`` returns for one image (H, W). Complex ones make a complex image.
    operator : Operator
        Anything with ``A`` and ``A_adjoint`` through which torch can differentiate.
    arch : {"fourier-relu", "bw-relu", "siren"}
        ReLUs on random Fourier features [Tancik et al. 2020]; B-spline wavelets of seven ReLUs each [Shenouda, Zhou,
        Nowak 2024], whose path norm is that of the ReLUs, ``c_g = 32`` times their scale; sines [Sitzmann et al.
        2020], for which the sum is taken as it is, though it is no norm of the theory.
    width, depth : int
        Neurons per hidden layer, and hidden layers.
    lam : float or {"discrepancy", "held-out"}
        In units of squared relative error, see :class:`ImplicitProblem`; zero for no penalty. ``"discrepancy"``: the
        largest, on a sequence that falls from a large one, each fit starting from the last, whose misfit is at most
        the size of the noise [Morozov 1966]. ``"held-out"``: that with the least misfit of the measurements that were
        held out, on such a sequence; all are then fitted at that lam.
    noise : float
        Standard deviation of the noise of a measurement; of a complex one the root of the mean squared modulus. For
        ``"discrepancy"``.
    held_out : float or Tensor
        Share of the measurements to hold out, whole rows of a real sinogram and single positions of complex k-space
        (the same in all coils); or a mask like ``y``, True where held out.
    steps : int
        Of the first fit; half as many for every further lam that is tried, and as many again at the one chosen.
    learning_rate : float, optional
        Of Adam at the start.
    bandwidth : float
        Standard deviation of the frequencies of the Fourier features, in cycles per half of the image.
    start : ImplicitFit
        A fit of the same architecture, width, depth and seed to start from, for example for a smaller ``lam``.
    progress : callable
        Called with ``(stage, done, total)``.

    Raises
    ------
    DataError
        If y is not finite, or is zero everywhere.
    ValueError
        If shapes do not fit, A and A_adjoint are not adjoint, an argument is out of range, or no fit reaches the noise.
    """
    _check(arch, width=width, depth=depth, steps=steps)
    data = checked_measurements(y)
    zero, scale = checked_operator(operator, data, seed)
    rate = LEARNING_RATES[arch] if learning_rate is None else float(learning_rate)
    for name, value in (("learning_rate", rate), ("bandwidth", bandwidth)):
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name} must be positive and finite. Got {value}.")
    if isinstance(lam, str) and lam not in _RULES:
        raise ValueError(f"lam must be a number from 0 or one of {', '.join(_RULES)}. Got {lam!r}.")
    if not isinstance(lam, str) and not (math.isfinite(lam) and lam >= 0.0):
        raise ValueError(f"lam must be a number from 0. Got {lam}.")
    shape = (int(zero.shape[0]), int(zero.shape[1]))
    features = encoded(coordinates(shape), arch, features=2 * width, bandwidth=bandwidth, seed=seed).float()
    problem = ImplicitProblem(operator, data, scale, _amplitude(operator, data), features, shape)
    module = coordinate_network(
        arch, inputs=features.shape[1], outputs=problem.outputs, width=width, depth=depth, seed=seed
    )
    if start is not None:
        module = _started(module, problem, start)
    if not isinstance(lam, str):
        problem = problem.with_lam(lam)
        return _described(
            problem, descended(problem, module, steps=steps, rate=rate, progress=progress), arch, steps=steps
        )
    if lam == "held-out":
        problem = replace(problem, seen=~held_out_mask(operator, data, held_out, seed))
    answer = chosen(problem, module, rule=lam, noise=noise, steps=steps, rate=rate, progress=progress)
    found = _described(answer.problem, answer.module, arch, steps=answer.steps)
    return replace(found, rule=lam, noise=noise, trials=answer.trials)


def rate_distortion(
    fit: ImplicitFit, shares: Sequence[float], *, steps: int = 0, slide: int = 0, seed: int = 0
) -> tuple[CompressedFit, ...]:
    """Return the fit from fewer and fewer neurons, one for every share of the layers' widths, each from the last.

    Parameters
    ----------
    shares : sequence of float
        Falling, in (0, 1].
    steps : int
        Of descent on the objective of the fit after every compression, see :meth:`ImplicitFit.compress`.
    """
    if not shares or list(shares) != sorted(shares, reverse=True) or not 0.0 < shares[-1] <= shares[0] <= 1.0:
        raise ValueError(f"shares must fall and lie in (0, 1]. Got {list(shares)}.")
    full = _widths(fit.module)
    found, module = [], fit.module
    for share in shares:
        widths = {name: max(1, round(share * width)) for name, width in full.items()}
        smaller = compress(module, fit.problem.features, widths=widths, slide=slide, seed=seed)
        found.append(_continued(fit, smaller, steps))
        module = found[-1].module
    return tuple(found)


def _continued(fit: ImplicitFit, smaller: Compression, steps: int) -> CompressedFit:
    """Descend on the objective of a fit from a smaller network, and describe what is reached."""
    module = smaller.model
    assert isinstance(module, nn.Sequential)
    if steps > 0:
        module = descended(fit.problem, module, steps=steps, rate=_AFTER * LEARNING_RATES[fit.arch])
    image = fit.problem.image(module)
    return CompressedFit(
        image=image,
        module=module,
        neurons=tuple(_widths(module).values()),
        psnr=psnr(image, fit.image),
        misfit=fit.problem.misfit(image),
        path_norm=sum(float(value.detach()) for value in path_norms(module)),
        record=smaller.record,
    )


def _widths(module: nn.Sequential) -> dict[str, int]:
    """Name of every hidden layer, and its neurons."""
    linear = [(name, layer) for name, layer in module.named_children() if isinstance(layer, nn.Linear)]
    return {name: layer.out_features for name, layer in linear[:-1]}


def _described(problem: ImplicitProblem, module: nn.Sequential, arch: Architecture, *, steps: int) -> ImplicitFit:
    image = problem.image(module)
    misfit = problem.misfit(image)
    weights = [layer.weight.detach().double() for layer in module if isinstance(layer, nn.Linear)]
    masses = [w.norm(dim=1) * v.norm(dim=0) for w, v in itertools.pairwise(weights)]
    return ImplicitFit(
        image=image,
        module=module,
        problem=problem,
        arch=arch,
        data_term=0.5 * misfit**2 / (problem.scale * problem.amplitude) ** 2,
        misfit=misfit,
        path_norms=tuple(float(value.detach()) for value in path_norms(module)),
        neurons=tuple(int((mass > _ACTIVE * mass.max()).sum()) if mass.any() else 0 for mass in masses),
        ranks=_ranks(module, problem.features),
        rule="given",
        noise=None,
        steps=steps,
    )


def _started(module: nn.Sequential, problem: ImplicitProblem, start: ImplicitFit) -> nn.Sequential:
    """Return the network of another fit if it reads the same features and has the same layers."""
    shapes = [[tuple(weight.shape) for weight in each.parameters()] for each in (module, start.module)]
    features = start.problem.features
    if shapes[0] != shapes[1] or features.shape != problem.features.shape or not features.equal(problem.features):
        raise ValueError(
            "start must be a fit of the same architecture, width, depth, seed and size of image. Got one whose "
            "features or layers differ."
        )
    return start.module


@torch.no_grad()
def _ranks(module: nn.Sequential, features: Tensor) -> tuple[int, ...]:
    found, values = [], features
    for layer in module:
        values = layer(values)
        if not isinstance(layer, nn.Linear):
            singular = torch.linalg.svdvals(values.double())
            found.append(int((singular > _RANK_TOLERANCE * singular[0]).sum()) if singular[0] > 0.0 else 0)
    return tuple(found)


def _amplitude(operator: Operator, y: Tensor) -> float:
    """Root mean square of the image that one steepest descent step on ``||A x - y||^2`` gives."""
    back = operator.A_adjoint(y)
    image_energy = float(operator.A(back).abs().square().sum())
    if image_energy == 0.0:
        raise DataError("The measurements must be what the operator can produce in part. Their adjoint image is zero.")
    step = float(back.abs().square().sum()) / image_energy
    return step * float(back.abs().square().mean().sqrt())


def _check(arch: str, *, width: int, depth: int, steps: int) -> None:
    if arch not in ARCHITECTURES:
        raise ValueError(f"arch must be one of {', '.join(ARCHITECTURES)}. Got {arch!r}.")
    if width < 1 or depth < 1 or steps < 1:
        raise ValueError(f"width, depth and steps must be at least 1. Got {width}, {depth} and {steps}.")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
