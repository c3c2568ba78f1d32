"""Any callable from measurements to an image, held to what it must return at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pathnorm.errors import DataError

__all__ = ["Checked"]

_SAME = 1e-6


class Checked:
    """A reconstructor whose images are checked, and which can be differentiated through if torch can.

    Parameters
    ----------
    function : callable
        Measurements of one image, of the shape that the operator's ``A`` returns, to an image (H, W); a tensor in, a
        tensor or an array out.
    shape : (H, W)
    complex_image : bool
        Whether a complex image is expected; a real one is then accepted too.
    dtype : torch.dtype, optional
        Precision of the measurements handed over; that of the parameters if ``function`` is a module, else double.

    Attributes
    ----------
    calls : int
        How often the callable was asked.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        shape: tuple[int, int],
        *,
        complex_image: bool,
        dtype: torch.dtype | None = None,
        name: str = "reconstructor",
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"The {name} must be a callable from measurements to an image. Got {type(function).__name__}."
            )
        if isinstance(function, nn.Module) and function.training:
            raise ValueError(f"The {name} must be in evaluation mode: dropout is random in training. Call .eval().")
        self.function, self.shape, self.complex_image, self.name = function, shape, complex_image, name
        self.dtype = _precision(function) if dtype is None else dtype
        if self.dtype not in (torch.float64, torch.float32):
            raise ValueError(f"The precision must be torch.float64 or torch.float32. Got {self.dtype}.")
        self.calls = 0

    @property
    def rounding(self) -> float:
        """Relative size of what rounding may change."""
        return float(torch.finfo(self.dtype).eps)

    def __call__(self, y: Tensor) -> Tensor:
        """Return the image (H, W) of measurements, in double precision and without a graph."""
        with torch.no_grad():
            return self._checked(self._raw(self._given(y)))

    def pull(self, y: Tensor, weigh: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the image x and the gradient of ``Re <w, x>`` by the measurements, for ``w = weigh(x)`` held fixed."""
        given = self._given(y).requires_grad_()
        with torch.enable_grad():
            raw = self._raw(given)
            image = self._checked(raw.detach())
            weight = weigh(image)
            value = (raw * weight.conj().to(raw.dtype if raw.is_complex() else weight.dtype)).real.sum()
            (gradient,) = torch.autograd.grad(value, given)
        return image, gradient.to(y.dtype)

    def differentiable(self, y: Tensor) -> bool:
        """Whether torch can differentiate the image by the measurements."""
        try:
            _, gradient = self.pull(y, torch.ones_like)
        except (DataError, RuntimeError):  # what is differentiable for no one, or written to in place
            return False
        return bool(torch.isfinite(gradient).all())

    def require_repeatable(self, y: Tensor) -> float:
        """Return how far two calls differ, relative to the image; refuse what is random or writes to its input.

        Raises
        ------
        DataError
            If the callable changes the measurements it is handed, or two calls differ by more than 1e-6.
        """
        given = self._given(y)
        before = given.clone()
        with torch.no_grad():
            one = self._checked(self._raw(given))
        if not torch.equal(given, before):
            raise DataError(
                f"The {self.name} must not write to the measurements it is handed. It changed them; copy them first."
            )
        difference = float((self(y) - one).norm()) / max(float(one.norm()), float(np.finfo(np.float64).tiny))
        if difference > _SAME:
            raise DataError(
                f"The {self.name} must give the same image for the same measurements. Two calls differ by "
                f"{difference:.1e} of the image, so a change by a perturbation means nothing. Fix its seed, or audit "
                "the mean of several draws."
            )
        return difference

    def _given(self, y: Tensor) -> Tensor:
        return y.detach().to(self.dtype.to_complex() if y.is_complex() else self.dtype, copy=True)

    def _raw(self, y: Tensor) -> Tensor:
        self.calls += 1
        try:
            found = self.function(y)
        except Exception as error:
            raise DataError(
                f"The {self.name} must take measurements {tuple(y.shape)} of {y.dtype}. It raised "
                f"{type(error).__name__}: {_first_line(error)}. Wrap it so that it does, or name another precision."
            ) from error
        if isinstance(found, (np.ndarray, np.generic)):
            found = torch.from_numpy(np.array(found))
        if not isinstance(found, Tensor):
            raise DataError(f"The {self.name} must return a tensor or an array. Got {type(found).__name__}.")
        if tuple(found.shape) != self.shape:
            raise DataError(
                f"The {self.name} must return one image of shape {self.shape}. Got {tuple(found.shape)}; add or remove "
                "dimensions in a wrapper."
            )
        if found.is_complex() and not self.complex_image:
            raise DataError(
                f"The {self.name} must return real images: the operator measures real ones. Got {found.dtype}; take "
                "the real part or the modulus in a wrapper."
            )
        return found

    def _checked(self, raw: Tensor) -> Tensor:
        image = raw.detach().cpu().to(torch.complex128 if self.complex_image else torch.float64)
        if not bool(torch.isfinite(image).all()):
            raise DataError(f"The {self.name} must return finite images. Got NaN or infinity.")
        return image


def _precision(function: Any) -> torch.dtype:
    if isinstance(function, nn.Module):
        for parameter in function.parameters():
            return parameter.dtype
    return torch.float64


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
