"""Activations that are learned: linear splines on a uniform grid, under the total variation of their derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnorm.deep.spline_prox import prox_tv2
from pathnorm.spaces import LinearSpline

__all__ = ["LinearSpline1d", "ReLUExpansion"]

Vector = NDArray[np.float64]
_INIT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "identity": torch.clone,
    "abs": torch.abs,
}


class LinearSpline1d(nn.Module):
    """A learned activation per channel: continuous, piecewise linear, its knots uniform on ``[-reach, reach]``.

    Beyond the grid the first and the last segment go on. What is learned are the values ``c_k`` at the knots, so that
    ``f(x) = (1 - s) c_k + s c_{k+1}`` between knots k and k + 1, s the position between them. Training minimises
    ``loss + penalty of the weights + mu sum_c TV(f_c')``; among all activations with a finite second-order total
    variation ``TV(f')``, some that are linear splines are optimal [U19], and a grid is how they are found [BCGAU20].

    Parameters
    ----------
    channels : int
        Number of splines C; 1 is one spline for all channels.
    knots : int
        K, odd and at least 3, so that zero is a knot and the starts are exact. Only the K - 2 knots inside can have a
        slope jump.
    reach : float
        Where the grid ends. Like K it is an argument and not in the ``state_dict``.
    init : {"relu", "leaky_relu", "identity", "abs"}
        What the activation is before training.
    channel_dim : int
        The dimension of the input that is the channel, 1 for convolutions, -1 for the last; not used where C is 1.
    device : torch.device or str, optional
    dtype : torch.dtype, optional

    Attributes
    ----------
    values : torch.nn.Parameter, shape (C, K)
        Give it no weight decay: it is :meth:`tv2` that is penalised.

    Notes
    -----
    Larger weights around a flatter activation are the same function with a smaller ``TV(f')``: penalise the weights as
    well, weight decay will do.

    At a knot the derivative is the slope to the right. Positions are computed in single precision at least; the output
    has the type of the input. Each forward pass keeps three numbers per input for the gradient.

    References
    ----------
    .. [U19] Unser, "A representer theorem for deep neural networks", JMLR 20, 2019.
    .. [BCGAU20] Bohra, Campos, Gupta, Aziznejad, Unser, "Learning activation functions in deep (spline) neural
       networks", IEEE Open Journal of Signal Processing 1, 2020.
    .. [PN20] Parhi, Nowak, "The role of neural network activation functions", IEEE Signal Processing Letters 27, 2020.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 32), LinearSpline1d(32), nn.Linear(32, 10))
    >>> optimizer.step()  # doctest: +SKIP
    >>> model[1].prox_(lr * lam)  # doctest: +SKIP
    """

    values: nn.Parameter
    _middle: Tensor

    def __init__(
        self,
        channels: int = 1,
        knots: int = 21,
        *,
        reach: float = 4.0,
        init: str = "relu",
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1; got {channels}. 1 shares one spline among all channels.")
        if knots < 3 or knots % 2 == 0:
            raise ValueError(f"knots must be odd and at least 3; got {knots}. Use {max(3, knots + 1)}: zero is a knot.")
        if not (math.isfinite(reach) and reach > 0.0):
            raise ValueError(f"reach must be a finite number > 0; got {reach!r}. Behind BatchNorm 4 is a good value.")
        if init not in _INIT:
            raise ValueError(f"init must be one of {', '.join(_INIT)}; got {init!r}. Or write to values after that.")
        self.channels, self.knots, self.reach = channels, knots, float(reach)
        self.init, self.channel_dim = init, channel_dim
        self.values = nn.Parameter(torch.empty(channels, knots, device=device, dtype=dtype))
        # Of the segments of all splines in a row, the one that begins at zero.
        self.register_buffer("_middle", torch.empty(channels, device=device, dtype=torch.int32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to ``init``."""
        with torch.no_grad():
            self.values.copy_(_INIT[self.init](self.grid).expand_as(self.values))
            self._middle.copy_(torch.arange(self.channels) * (self.knots - 1) + self.knots // 2)

    @property
    def step(self) -> float:
        """Distance of two knots."""
        return 2.0 * self.reach / (self.knots - 1)

    @property
    def grid(self) -> Tensor:
        """Positions (K,) of the knots, in double precision."""
        return torch.from_numpy(self._positions())

    def forward(self, x: Tensor) -> Tensor:
        """Activations of ``x``, of its shape and type."""
        if not x.is_floating_point():
            raise TypeError(f"x must be of a floating type; got {x.dtype}. Use x.float().")
        dim = self._dim(x)
        if x.is_contiguous():
            return self._at(x, dim)
        moved = x.movedim(dim, -1)
        # In the order of memory, or what follows would have to turn a channels-last image around.
        return self._at(moved, -1).movedim(-1, dim) if moved.is_contiguous() else self._at(x, dim)

    def tv2(self) -> Tensor:
        """``TV(f') = sum_k |jump_k|`` of every spline, (C,), with a gradient; the penalty is its sum.

        The smallest path norm of a ReLU network that is this function [PN20], and that of :meth:`to_relu`.
        """
        return self._jumps().abs().sum(1)

    def lipschitz(self) -> Tensor:
        """Exact Lipschitz constant of the module, the largest absolute slope; a number, with a gradient."""
        return (self.values.diff(dim=1) / self.step).abs().max()

    @torch.no_grad()
    def prox_(self, lam: float) -> LinearSpline1d:
        """Replace every spline c by the minimiser of ``1/2 sum_k (f_k - c_k)^2 + lam TV(f')``, exactly; return self.

        After a step of gradient descent of size ``lr`` on a loss, ``prox_(lr * mu)`` completes a step of proximal
        gradient descent on ``loss + mu sum_c TV(f_c')``; with momentum m the step counts ``1 / (1 - m)`` times. See
        :func:`pathnorm.deep.spline_prox.prox_tv2`.
        """
        self.values.copy_(prox_tv2(self.values, lam, step=self.step))
        return self

    def active_knots(self, tolerance: float | None = None) -> Tensor:
        """Number of slope jumps of every spline, (C,), larger than ``tolerance``, which is that of :meth:`prune`."""
        return self._kept(tolerance).sum(1)

    def to_spline(self, channel: int = 0, *, tolerance: float | None = 0.0) -> LinearSpline:
        """One of the splines, in double precision, with the knots that have a jump above ``tolerance``.

        Between the knots that are left, and between them and the ends of the grid, it is a straight line through the
        values, which never has a larger TV(f'). See :meth:`prune`.
        """
        if not -self.channels <= channel < self.channels:
            raise IndexError(f"channel must be below {self.channels}; got {channel}. Count from zero.")
        kept = self._kept(tolerance)[channel].numpy()
        nodes = np.concatenate(([0], 1 + np.flatnonzero(kept), [self.knots - 1]))
        x = self._positions()[nodes]
        c = self.values[channel].detach().cpu().double().numpy()[nodes]
        slopes = np.diff(c) / np.diff(x)
        inside = slice(1, -1) if nodes.size > 2 else slice(0, 1)
        return LinearSpline(x[inside], c[inside], float(slopes[0]), float(slopes[-1]))

    def to_relu(self) -> ReLUExpansion:
        """The same function as sums of ReLUs, one for every jump that is not exactly zero; see also :meth:`prune`."""
        return self.prune(0.0)

    def prune(self, tolerance: float | None = None) -> ReLUExpansion:
        """The activation without the knots at which its slope jumps by at most ``tolerance``, as sums of ReLUs.

        Parameters
        ----------
        tolerance : float, optional
            If not given, what the rounding of the values leaves of a jump that :meth:`prox_` made zero:
            ``8 eps max |c| / step``. The function then changes by rounding only. In general it changes on the grid by
            at most ``reach / 2`` times the sum of the jumps left out.

        Returns
        -------
        ReLUExpansion
            Its path norm is :meth:`tv2`, without the jumps that were left out.
        """
        splines = [self.to_spline(channel, tolerance=tolerance) for channel in range(self.channels)]
        expansion = ReLUExpansion(splines, channel_dim=self.channel_dim)
        return expansion.to(device=self.values.device, dtype=self.values.dtype).train(self.training)

    def extra_repr(self) -> str:
        """Arguments, for ``print``."""
        return f"{self.channels}, knots={self.knots}, reach={self.reach:g}, channel_dim={self.channel_dim}"

    def _at(self, x: Tensor, dim: int) -> Tensor:
        work = torch.promote_types(torch.promote_types(x.dtype, self.values.dtype), torch.float32)
        half, values = self.knots // 2, self.values.to(work)
        position = x.to(work) * (1.0 / self.step)
        # The last clamp is for NaN, which is an index no more: it comes back with the position.
        segment = position.detach().floor().clamp_(-half, half - 1).nan_to_num_(0.0)
        index = (segment.int() + _along(self._middle, x, dim)).reshape(-1)
        left = values[:, :-1].reshape(-1).index_select(0, index).reshape(x.shape)
        rise = values.diff(dim=1).reshape(-1).index_select(0, index).reshape(x.shape)
        return torch.addcmul(left, position - segment, rise).to(x.dtype)

    def _dim(self, x: Tensor) -> int:
        if self.channels == 1:
            return min(1, x.ndim - 1)
        return _channel_dim(x, self.channels, self.channel_dim)

    def _positions(self) -> Vector:
        half = self.knots // 2
        return self.step * np.arange(-half, half + 1, dtype=np.float64)

    def _jumps(self) -> Tensor:
        return self.values.diff(n=2, dim=1) / self.step

    def _kept(self, tolerance: float | None) -> Tensor:
        values = self.values.detach().cpu().double()
        if tolerance is None:
            limit = 8.0 * torch.finfo(self.values.dtype).eps * values.abs().amax(1, keepdim=True) / self.step
        elif math.isfinite(tolerance) and tolerance >= 0.0:
            limit = values.new_tensor(tolerance)
        else:
            raise ValueError(f"tolerance must be a finite number >= 0; got {tolerance!r}. None allows for rounding.")
        return values.diff(n=2, dim=1).abs() / self.step > limit


class ReLUExpansion(nn.Module):
    """``f(x) = a + b x + sum_k v_k relu(+-(x - t_k))`` per channel: linear splines in operations that any runtime has.

    Additions, multiplications and ReLUs, a few passes over the input per knot: for export, and for few knots. Turning a
    ReLU around changes the sum by a line only; here all face away from zero: few are active, and no digits cancel.

    Parameters
    ----------
    splines : sequence of LinearSpline
        One per channel, or a single one for all: ``[BV2Regressor().fit(x, y).spline_]``. Knots need not be uniform.
    channel_dim : int

    Attributes
    ----------
    offset, slope : torch.nn.Parameter, shape (C,)
        a and b.
    positions, weights : torch.nn.Parameter, shape (C, M)
        t and v in double precision; M is the largest number of knots, and shorter rows end in zeros.
    signs : torch.Tensor, shape (C, M)
        Where the ReLUs face.
    """

    signs: Tensor

    def __init__(self, splines: Sequence[LinearSpline], *, channel_dim: int = 1) -> None:
        super().__init__()
        if not splines:
            raise ValueError("splines must have one spline per channel, or one for all; got none.")
        self.channels, self.channel_dim = len(splines), channel_dim
        rows = [_expanded(spline) for spline in splines]
        most = max(positions.size for _, _, positions, _ in rows)
        table = np.zeros((2, len(rows), most))
        for channel, (_, _, positions, weights) in enumerate(rows):
            table[:, channel, : positions.size] = positions, weights
        self.offset = nn.Parameter(torch.tensor([row[0] for row in rows], dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor([row[1] for row in rows], dtype=torch.float64))
        self.positions = nn.Parameter(torch.from_numpy(table[0].copy()))
        self.weights = nn.Parameter(torch.from_numpy(table[1].copy()))
        self.register_buffer("signs", torch.from_numpy(np.where(table[0] < 0.0, -1.0, 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        """Activations of ``x``, of its shape and type."""
        dim = _channel_dim(x, self.channels, self.channel_dim) if self.channels > 1 else 0
        out = _along(self.offset, x, dim) + _along(self.slope, x, dim) * x
        for k in range(self.positions.shape[1]):
            position, weight, sign = (_along(part[:, k], x, dim) for part in (self.positions, self.weights, self.signs))
            out = out + weight * torch.relu(sign * (x - position))
        return out.to(x.dtype)

    def path_norm(self) -> Tensor:
        """``sum_k |v_k| |w_k|`` per channel, (C,), the inner weights w_k being 1 or -1; TV(f') of the spline."""
        return self.weights.abs().sum(1)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{self.channels}, knots={self.positions.shape[1]}, channel_dim={self.channel_dim}"


def _expanded(spline: LinearSpline) -> tuple[float, float, Vector, Vector]:
    """a, b, positions and weights; the line is that on the left of the first knot that is not negative."""
    jumps = spline.jumps
    middle = int(np.searchsorted(spline.knots, 0.0))
    slope = float(spline.slopes[middle])
    anchor = min(middle, spline.knots.size - 1)
    kept = jumps != 0.0
    return float(spline.values[anchor] - slope * spline.knots[anchor]), slope, spline.knots[kept], jumps[kept]


def _channel_dim(x: Tensor, channels: int, channel_dim: int) -> int:
    """The dimension of the channels, from the front."""
    if not -x.ndim <= channel_dim < x.ndim or x.shape[channel_dim] != channels:
        raise ValueError(
            f"x must have {channels} channels in dimension {channel_dim}; got shape {tuple(x.shape)}. "
            "Set channels and channel_dim to those of the layer before, or channels=1 for one spline for all."
        )
    return channel_dim % x.ndim


def _along(row: Tensor, x: Tensor, dim: int) -> Tensor:
    """Numbers (C,) that broadcast along a dimension of x."""
    if row.numel() == 1:
        return row.reshape(())
    shape = [1] * x.ndim
    shape[dim] = -1
    return row.reshape(shape)
