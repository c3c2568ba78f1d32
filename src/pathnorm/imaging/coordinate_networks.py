"""Networks from coordinates to the values of an image: Fourier features and ReLU, B-spline wavelets of ReLUs, sines."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "Architecture", "BSplineWavelet", "Sine", "coordinate_network", "coordinates", "encoded"]

Architecture = Literal["bw-relu", "fourier-relu", "siren"]
ARCHITECTURES: tuple[Architecture, ...] = ("bw-relu", "fourier-relu", "siren")

# Sums of |coefficient| of the seven ReLUs of a wavelet.
_WAVELET_MASS = 32.0
_FIRST_OMEGA, _OMEGA = 20.0, 10.0
_FIRST_SCALE, _SCALE = 2.0, 1.0


class BSplineWavelet(nn.Module):
    """``psi(scale x)`` with the linear B-spline wavelet psi [Chui, Wang 1992], a combination of seven ReLUs.

    ``psi(t)`` is the sum of ``(1, -8, 23, -32, 23, -8, 1) / 3`` times ``(t + 3/2)_+, (t + 1)_+, ..., (t - 3/2)_+``:
    piecewise linear, zero outside [-3/2, 3/2], of mean zero. A neuron of it is seven ReLU neurons that share input
    weights, with biases and output weights in fixed proportions [SZN24]. As psi is even, it is computed from three
    ReLUs of |t|.

    Parameters
    ----------
    scale : float

    References
    ----------
    .. [SZN24] Shenouda, Zhou, Nowak, "ReLUs are sufficient for learning implicit neural representations", ICML 2024.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = float(scale)

    @property
    def mass(self) -> float:
        """Path norm of one neuron over ``||w|| ||v||``: ``scale`` times the sum of the seven moduli."""
        return _WAVELET_MASS * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the wavelet of every entry."""
        t = -(self.scale * x).abs()
        return (torch.relu(t + 1.5) - 8.0 * torch.relu(t + 1.0) + 23.0 * torch.relu(t + 0.5)) / 3.0


class Sine(nn.Module):
    """``sin(omega x)``, the activation of [SMBLW20].

    References
    ----------
    .. [SMBLW20] Sitzmann, Martel, Bergman, Lindell, Wetzstein, "Implicit neural representations with periodic
       activation functions", NeurIPS 2020.
    """

    mass = 1.0

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = float(omega)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sine of every entry."""
        return torch.sin(self.omega * x)


def coordinates(shape: tuple[int, int]) -> Tensor:
    """Return the middles of the pixels of an image on [-1, 1]^2, rows first: (H W, 2), float64."""
    rows, columns = (
        (2.0 * torch.arange(size, dtype=torch.float64) + 1.0) / size - 1.0 for size in (int(shape[0]), int(shape[1]))
    )
    return torch.cartesian_prod(rows, columns)


def encoded(points: Tensor, arch: Architecture, *, features: int, bandwidth: float, seed: int) -> Tensor:
    """Return what a network of an architecture reads of points (N, 2): the points, or random Fourier features (N, F).

    ``cos(b_k . x), sin(b_k . x)`` with ``b_k`` normal of standard deviation ``pi bandwidth`` [TSM+20].

    References
    ----------
    .. [TSM+20] Tancik et al., "Fourier features let networks learn high frequency functions in low dimensional
       domains", NeurIPS 2020.
    """
    if arch != "fourier-relu":
        return points
    generator = torch.Generator().manual_seed(seed)
    directions = math.pi * bandwidth * torch.randn(points.shape[1], features // 2, generator=generator).to(points)
    phase = points @ directions
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def coordinate_network(
    arch: Architecture, *, inputs: int, outputs: int, width: int, depth: int, seed: int
) -> nn.Sequential:
    """Return an untrained network with ``depth`` hidden layers of ``width`` neurons, float32."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for place in range(depth + 1):
        fan_in, last = inputs if place == 0 else width, place == depth
        linear = nn.Linear(fan_in, outputs if last else width)
        _initialise(linear, arch, place == 0, generator)
        layers.append(linear)
        if not last:
            layers.append(_activation(arch, place == 0))
    return nn.Sequential(*layers)


def _activation(arch: Architecture, first: bool) -> nn.Module:
    if arch == "bw-relu":
        return BSplineWavelet(_FIRST_SCALE if first else _SCALE)
    return Sine(_FIRST_OMEGA if first else _OMEGA) if arch == "siren" else nn.ReLU()


@torch.no_grad()
def _initialise(linear: nn.Linear, arch: Architecture, first: bool, generator: torch.Generator) -> None:
    """Variances that keep the size of what passes through; biases spread the neurons over the image."""
    fan_in = linear.in_features
    if arch == "siren":
        bound = 1.0 / fan_in if first else math.sqrt(6.0 / fan_in) / _OMEGA
    elif arch == "bw-relu":
        bound = 1.0 if first else math.sqrt(3.0 / fan_in)
    else:
        bound = math.sqrt(6.0 / fan_in)
    linear.weight.uniform_(-bound, bound, generator=generator)
    linear.bias.uniform_(-1.0, 1.0, generator=generator)
    if not (first and arch != "fourier-relu"):
        linear.bias.mul_(1.0 / math.sqrt(fan_in))
