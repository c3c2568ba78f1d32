"""The objective of an implicit representation, path norm included, and its descent by Adam."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pathnorm.imaging.coordinate_networks import Architecture
from pathnorm.imaging.operators import Operator

__all__ = ["LEARNING_RATES", "ImplicitProblem", "Progress", "descended", "path_norms"]

Progress = Callable[[str, int, int], None]
# At which a thousand steps fit a picture of 64 x 64 pixels.
LEARNING_RATES: dict[Architecture, float] = {"bw-relu": 5e-3, "fourier-relu": 1e-2, "siren": 3e-3}
_LAST_RATE = 0.01
_BETAS = (0.9, 0.99)


@dataclass(frozen=True, eq=False)
class ImplicitProblem:
    """``1/2 ||M (A f - y)||^2 / (s a)^2 + lam sum_g c_g sum_k ||w_k|| ||v_k||`` over the weights of a network.

    The image is ``f = a net(features)``; s is at least the largest singular value of A, and a is the size of an image
    that explains y, so that a ``lam`` means the same for every operator and for every unit of the image. The sum
    is over the hidden layers g and their neurons k, with input weights w_k (without bias) and output weights v_k;
    ``c_g`` is what the activation weighs in ReLUs. M hides the measurements that are held out, if any.

    Attributes
    ----------
    y : Tensor
        Of float64 or complex128.
    scale, amplitude : float
        s and a.
    features : Tensor (H W, F)
        float32.
    shape : (H, W)
    seen : Tensor or None
        Like y, True where measurements are fitted; None for all.
    """

    operator: Operator
    y: Tensor
    scale: float
    amplitude: float
    features: Tensor
    shape: tuple[int, int]
    lam: float = 0.0
    seen: Tensor | None = None

    @property
    def outputs(self) -> int:
        """Two for the real and the imaginary part of a complex image, else one."""
        return 2 if self.y.is_complex() else 1

    @property
    def energy(self) -> float:
        """The data term of the zero image."""
        return 0.5 * float(self.hidden(self.y).abs().square().sum()) / (self.scale * self.amplitude) ** 2

    def with_lam(self, lam: float) -> ImplicitProblem:
        """The same problem at another ``lam``."""
        return replace(self, lam=float(lam))

    def hidden(self, residual: Tensor) -> Tensor:
        """Return M times a residual."""
        return residual if self.seen is None else residual * self.seen

    def raw_image(self, module: nn.Module) -> Tensor:
        """Return ``net(features)`` as an image, in single precision and with its graph."""
        values: Tensor = module(self.features)
        return (torch.view_as_complex(values) if self.outputs == 2 else values[:, 0]).reshape(self.shape)

    @torch.no_grad()
    def image(self, module: nn.Module) -> Tensor:
        """Return the image (H, W), float64 or complex128."""
        return self.amplitude * self.raw_image(module).to(self.y.dtype)

    @torch.no_grad()
    def misfit(self, image: Tensor, where: Tensor | None = None) -> float:
        """Return ``||A f - y||``, over some of the measurements if ``where`` is given."""
        residual = self.operator.A(image) - self.y
        return float((residual if where is None else residual * where).norm())


def path_norms(module: nn.Sequential) -> list[Tensor]:
    """Return ``c_g sum_k ||w_k|| ||v_k||`` of every hidden layer g, with gradient; zero is taken at a zero weight.

    The same as :class:`pathnorm.deep.PathNormRegularizer` finds in any network by tracing it, for chains alone.
    """
    layers = list(module)
    linear = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    found = []
    for place, following in itertools.pairwise(linear):
        w, v = layers[place].weight, layers[following].weight
        lengths = torch.linalg.vector_norm(w, dim=1) * torch.linalg.vector_norm(v, dim=0)
        found.append(float(getattr(layers[place + 1], "mass", 1.0)) * lengths.sum())
    return found


def descended(
    problem: ImplicitProblem,
    module: nn.Sequential,
    *,
    steps: int,
    rate: float,
    progress: Progress | None = None,
) -> nn.Sequential:
    """Return a copy of a network after that many steps of Adam on the objective, the rate falling to about zero.

    By gradients neurons become small, not exactly zero.
    """
    module = copy.deepcopy(module)
    optimiser = torch.optim.Adam(module.parameters(), lr=rate, betas=_BETAS, fused=True)
    single = torch.complex64 if problem.outputs == 2 else torch.float32
    target = (problem.y / (problem.scale * problem.amplitude)).to(single)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (_LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
        residual = problem.hidden(problem.operator.A(problem.raw_image(module)) / problem.scale - target)
        loss = 0.5 * residual.abs().square().sum()
        if problem.lam > 0.0:
            loss = loss + problem.lam * torch.stack(path_norms(module)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if progress is not None:
            progress("fitting", step + 1, steps)
    return module
