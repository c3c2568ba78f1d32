"""A convex regulariser that is learned: ridges of filters under convex splines, with what is proved of it.

Clean-room from [GNBDU23] Goujon, Neumayer, Bohra, Ducotterd, Unser, "A neural-network-based convex regularizer for
inverse problems", IEEE Transactions on Computational Imaging 9, 2023 (arXiv 2211.12461).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathnorm.deep.linear_spline import LinearSpline1d
from pathnorm.errors import DataError
from pathnorm.imaging._ridge_push import extend, push, retract

__all__ = ["TYPICAL", "ConvexRidge", "RidgeCertificate"]

_GRID = 256  # frequencies per direction at which the filters are looked at
_COPIES = 4  # of a pixel next to a corner in the mirrored image
TYPICAL = 15.0 / 255.0  # a noise level between those of training


@dataclass(frozen=True)
class RidgeCertificate:
    """What follows from the parameters of a :class:`ConvexRidge` alone, for images of every size.

    Attributes
    ----------
    convex : bool
        Exact: no activation has a negative slope, so that R is convex.
    smallest_slope, largest_slope : float
        Exact, over all segments of all activations, those beyond the knots included.
    norm : float
        Certified upper bound on the operator norm of the filters.
    norm_reached : float
        Measured at one frequency; filters on large images come as close to it as one wants.
    lipschitz : float
        Certified upper bound on the Lipschitz constant of the gradient, ``4 mu norm^2 max |slope|``: of
        four copies of a pixel near a corner; a quarter of it holds away from the border.
    parameters : int
        Exact: numbers that are learned.
    """

    convex: bool
    smallest_slope: float
    largest_slope: float
    norm: float
    norm_reached: float
    lipschitz: float
    parameters: int

    def __str__(self) -> str:
        kind = "convex" if self.convex else "NOT CONVEX"
        return (
            f"{kind}: slopes from {self.smallest_slope:.3g} to {self.largest_slope:.3g} (exact)\n"
            f"norm of the filters at most {self.norm:.6g} (certified), at least {self.norm_reached:.6g} (measured)\n"
            f"gradient Lipschitz with at most {self.lipschitz:.4g} (certified)\n{self.parameters:,} parameters (exact)"
        )


class ConvexRidge(nn.Module):
    """``R(x) = sum_i sum_k psi_i(mu (w_i * x)_k) / mu``, convex: the derivatives psi_i' are nondecreasing splines.

    The filters w_i are a convolution, or a composition of small ones; the first has zero mean, so that constants cost
    nothing. k runs over all pixels; the image is continued by its mirror image, so that the border is denoised as the
    middle is. The anisotropic total variation is such an R, with two filters and ``psi = |.|``. ``psi_i'`` is an odd
    linear spline on knots that all share, of the size of 1, zero at zero and linear beyond the last knot. One over mu
    is a contrast of the image: ``R_mu(x) = R_1(mu x) / mu``.

    Of complex images real and imaginary part are regularised one after the other, ``R(Re x) + R(Im x)``; a phase of the
    image is then not without effect.

    Parameters
    ----------
    channels : sequence of int
        Of the outputs of the convolutions; the last is the number of filters.
    sizes : sequence of int
        Odd widths of the convolutions; composed filters have the width ``sum(sizes) - len(sizes) + 1``.
    knots : int
        Odd, on ``[-1, 1]``.
    seed : int
        Of the filters before training: normal noise. A single convolution starts with the cosines of its size, as many
        as there are, without the constant.

    Attributes
    ----------
    convolutions : torch.nn.ParameterList
    spline : pathnorm.deep.LinearSpline1d
        The derivatives psi_i'.
    law : torch.nn.Parameter, shape (2, 2)
        ``log lam`` and ``log mu`` for denoising, each affine in ``log(noise / (15 / 255))``; see :meth:`for_noise`.
    mu : torch.Tensor
        A number, not learned: set it with :meth:`scaled`.

    Notes
    -----
    **Norm of the filters.** W maps an image to all ``(w_i * x)_k`` of whole windows. With the image continued by zeros
    these are some of the values of convolutions on Z^2, so by Parseval ``||W||^2 <= max_w p(w)``, where ``p = sum_i
    |w_i^(w)|^2`` is a trigonometric polynomial of degree ``n = width - 1`` in either frequency. If such a polynomial of
    one variable has its largest modulus at t, then ``|p(s)| >= |p(t)| cos(n (s - t))`` for ``|s - t| <= pi / n``
    (Bernstein, Szegö); some point of a grid of M > 2 n frequencies is within ``pi / M`` of t, so the maximum is at most
    that over the grid over ``cos(pi n / M)`` [Ehlich, Zeller 1964], and over the square of this in two variables. The
    filters are divided by the root of this bound: ``||W|| <= 1`` for images of all sizes, in training too.

    **Mirroring.** With E the continuation by ``width // 2`` pixels, ``E* E`` multiplies every pixel by the number of
    its copies, at most two in either direction as images are wider than filters. So the second derivative of R is at
    most ``mu max |slope| E* E``, which gives every pixel its own step in :mod:`pathnorm.imaging.smooth`.
    """

    mu: Tensor

    def __init__(
        self, channels: Sequence[int] = (24,), sizes: Sequence[int] = (5,), *, knots: int = 101, seed: int = 0
    ) -> None:
        super().__init__()
        if len(channels) != len(sizes) or not channels or min(channels) < 1:
            raise ValueError(
                f"channels and sizes must be equally many, at least one. Got {tuple(channels)} and {tuple(sizes)}."
            )
        if any(size < 1 or size % 2 == 0 for size in sizes) or sizes[0] < 3:
            raise ValueError(f"Sizes must be odd, the first at least 3: it takes the mean away. Got {tuple(sizes)}.")
        self.width = sum(sizes) - len(sizes) + 1
        if 2 * (self.width - 1) >= _GRID:
            raise ValueError(f"Composed filters must be at most {_GRID // 2} wide. Got {self.width}.")
        rows = torch.Generator().manual_seed(seed)
        inputs = (1, *channels[:-1])
        self.convolutions = nn.ParameterList(
            nn.Parameter(torch.randn(out, into, size, size, generator=rows) / math.sqrt(into * size**2))
            for out, into, size in zip(channels, inputs, sizes, strict=True)
        )
        if len(sizes) == 1:
            # Cosines, the slow ones first: filters of one frequency each are a better start than noise.
            cosines = _cosines(sizes[0])[: channels[0]]
            self.convolutions[0].data[: len(cosines), 0] = cosines
        self.spline = LinearSpline1d(channels[-1], knots, reach=1.0)
        with torch.no_grad():
            # About the modulus, as in total variation: quadratic up to the first knot, then linear.
            self.spline.values.copy_(self.spline.grid.sign().expand_as(self.spline.values))
        # With these, three to four standard deviations of what the filters make of the noise are on the grid.
        self.law = nn.Parameter(torch.tensor([[math.log(0.018), 1.35], [math.log(21.0), -1.0]]))
        self.register_buffer("mu", torch.tensor(21.0))

    def filters(self) -> Tensor:
        """Return the composed filters (C, 1, width, width), of norm at most 1 together."""
        found = self._composed()
        return found / self._norm_bound(found).sqrt()

    def value(self, x: Tensor, filters: Tensor | None = None) -> Tensor:
        """Return R of images (..., H, W), of shape (...); ``filters`` if they are at hand already."""
        flat = self._flat(x)
        filters = self.filters().to(flat) if filters is None else filters
        responses = F.conv2d(extend(flat[:, 0], self.width)[:, None], filters)
        found = self._potential(self.mu * responses).sum((1, 2, 3)) / self.mu
        found = found.reshape(2, -1).sum(0) if x.is_complex() else found
        return found.reshape(x.shape[:-2])

    def gradient(self, x: Tensor, filters: Tensor | None = None) -> Tensor:
        """Return the gradient of R at images (..., H, W), ``W* psi'(mu W x)``, of their shape.

        Of complex images it is that with respect to real and imaginary part, as one complex number.
        """
        flat = self._flat(x)
        filters = self.filters().to(flat) if filters is None else filters
        if flat.device.type == "cpu":
            values, mu = self.spline.values.to(flat), self.mu.to(flat).expand(len(flat)).contiguous()
            found = push(flat[:, 0].contiguous(), filters, values, mu)
        else:
            responses = F.conv2d(extend(flat[:, 0], self.width)[:, None], filters)
            found = retract(F.conv_transpose2d(self.spline(self.mu * responses), filters)[:, 0], self.width)
        if not x.is_complex():
            return found.reshape(x.shape)
        real, imaginary = found.reshape(2, *x.shape)
        return torch.complex(real, imaginary)

    forward = gradient

    def scaled(self, mu: float) -> ConvexRidge:
        """Return a copy with another mu."""
        if not (math.isfinite(mu) and mu > 0.0):
            raise ValueError(f"mu must be positive and finite. Got {mu}. It is one over a contrast of the image.")
        found = copy.deepcopy(self)
        found.mu.fill_(mu)
        return found

    def for_noise(self, noise: float, contrast: float = 1.0) -> tuple[ConvexRidge, float]:
        """Return a copy with the mu, and the lam, that training found for denoising at a standard deviation.

        Parameters
        ----------
        noise : float
            Standard deviation of the noise of a pixel, in units of the image.
        contrast : float
            What is white in units of the image, as 255: the regulariser is trained on images between 0 and 1.
        """
        if not (noise > 0.0 and contrast > 0.0):
            raise ValueError(f"noise and contrast must be positive. Got {noise} and {contrast}.")
        lam, mu = self.law.detach().double() @ torch.tensor([1.0, math.log(noise / contrast / TYPICAL)]).double()
        return self.scaled(math.exp(mu) / contrast), math.exp(lam) * contrast

    @property
    def steepest(self) -> float:
        """Largest slope of an activation that :meth:`project_` leaves, one over the distance of two knots."""
        return 1.0 / self.spline.step

    def rising(self) -> Tensor:
        """Return the values (C, K) of the activations made odd, rising by 0 to 1 from knot to knot.

        Differentiable. Training works on values that are not held to this and sees them through it: were they put back
        behind every step, what noise takes away would be cut and what it adds kept, and flat activations would rise.
        """
        values = self.spline.values
        odd = 0.5 * (values - values.flip(1))
        half = odd.diff(dim=1)[:, self.spline.knots // 2 :].clamp(0.0, 1.0).cumsum(1)
        return torch.cat([-half.flip(1), torch.zeros_like(half[:, :1]), half], dim=1)

    @torch.no_grad()
    def project_(self) -> ConvexRidge:
        """Put :meth:`rising` in the place of the activations; return self. Behind training."""
        self.spline.values.copy_(self.rising())
        return self

    @torch.no_grad()
    def certify(self) -> RidgeCertificate:
        """Return what is proved, from the parameters alone, in double precision."""
        if not all(bool(torch.isfinite(part).all()) for part in (*self.parameters(), self.mu)):
            raise DataError("The parameters of a regulariser must be finite. Got NaN or infinity: train it again.")
        # Differences of single precision numbers are exact in double.
        slopes = self.spline.values.double().diff(dim=1) / self.spline.step
        filters = self.filters().double()
        norm = math.sqrt(float(self._norm_bound(filters)))
        reached = math.sqrt(float(self._spectrum(filters).max()))
        least, most = float(slopes.min()), float(slopes.max())
        return RidgeCertificate(
            convex=least >= 0.0,
            smallest_slope=least,
            largest_slope=most,
            norm=norm,
            norm_reached=reached,
            lipschitz=_COPIES * float(self.mu) * norm**2 * max(abs(least), abs(most)),
            parameters=sum(part.numel() for part in self.parameters()),
        )

    def _composed(self) -> Tensor:
        first, *others = self.convolutions
        found: Tensor = first - first.mean((2, 3), keepdim=True)
        for weights in others:
            # Convolution, not correlation, of the kernels: turned around, and padded to the full size.
            room = weights.shape[-1] - 1
            found = F.conv2d(found.transpose(0, 1), weights.flip(2, 3), padding=room).transpose(0, 1)
        return found

    def _spectrum(self, filters: Tensor) -> Tensor:
        """``sum_i |w_i^|^2`` on the grid."""
        spectra = torch.fft.rfft2(filters[:, 0], s=(_GRID, _GRID))
        return torch.view_as_real(spectra).square().sum((0, 3))

    def _norm_bound(self, filters: Tensor) -> Tensor:
        """At least the square of the norm, see the notes."""
        return self._spectrum(filters).max() / math.cos(math.pi * (self.width - 1) / _GRID) ** 2

    def _potential(self, t: Tensor) -> Tensor:
        """``psi_i(t)``, the integral of the spline from zero; t of shape (N, C, h, w)."""
        spline, half = self.spline, self.spline.knots // 2
        values = spline.values.to(t.dtype)
        areas = 0.5 * spline.step * (values[:, 1:] + values[:, :-1])
        sums = F.pad(areas.cumsum(1), (1, 0))
        sums = sums - sums[:, half : half + 1]
        position = t / spline.step
        segment = position.detach().floor().clamp(-half, half - 1)
        within = position - segment
        index = (segment.long() + half).movedim(1, 0).reshape(t.shape[1], -1)
        start, left, rise = (
            part.gather(1, index).reshape(t.shape[1], t.shape[0], *t.shape[2:]).movedim(0, 1)
            for part in (sums[:, :-1], values[:, :-1], values.diff(dim=1))
        )
        return start + spline.step * within * (left + 0.5 * within * rise)

    def _flat(self, x: Tensor) -> Tensor:
        """Images as (N, 1, H, W), real parts before imaginary ones."""
        if x.ndim < 2 or min(x.shape[-2:]) <= self.width:
            raise ValueError(
                f"Images must have shape (..., H, W), both sizes above the {self.width} of the filters. "
                f"Got {tuple(x.shape)}."
            )
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"Images must be of a floating or complex type. Got {x.dtype}; use x.double().")
        found = torch.stack([x.real, x.imag]) if x.is_complex() else x
        return found.reshape(-1, 1, *x.shape[-2:])


def _cosines(size: int) -> Tensor:
    """Return the two-dimensional cosine basis without the constant, slow ones first, (size * size - 1, size, size)."""
    grid = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * grid[:, None] * (grid + 0.5))
    rows = rows / rows.norm(dim=1, keepdim=True)
    order = (grid[:, None].square() + grid.square()).flatten().argsort(stable=True)[1:]
    return torch.einsum("ki,lj->klij", rows, rows).reshape(-1, size, size)[order].float()
