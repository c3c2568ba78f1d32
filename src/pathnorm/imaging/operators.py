"""Linear operators from images to measurements, with exact adjoints.

Images are tensors (..., H, W), leading dimensions are batches. Anything with ``A`` and ``A_adjoint`` may be used
where an operator is asked for; :func:`adjoint_error` tells whether the two belong together.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pathnorm.errors import DataError

__all__ = ["Blur", "FourierMRI", "Identity", "Operator", "adjoint_error", "operator_norm"]

_POWER_STEPS = 200
_PLANE = (-2, -1)


@runtime_checkable
class Operator(Protocol):
    """What a reconstruction needs of a linear map: itself and its adjoint, ``<A x, y> = <x, A* y>``."""

    def A(self, x: Tensor) -> Tensor:  # noqa: N802 - the name of the literature, and of other libraries
        """Return the measurements of an image."""
        ...

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        """Return the adjoint of measurements: an image."""
        ...


class Identity:
    """The image itself is measured: denoising.

    Parameters
    ----------
    shape : (H, W)
    """

    complex_image = False

    def __init__(self, shape: tuple[int, int]) -> None:
        self.image_shape = self.data_shape = _image_shape(shape)

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return the image."""
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        """Return the measurements."""
        return y

    def norm(self) -> float:
        """Return the largest singular value, exactly 1."""
        return 1.0


class Blur:
    """Circular convolution with a kernel, computed by FFT.

    Parameters
    ----------
    kernel : Tensor of shape (h, w)
        Odd sizes, at most those of the image; its middle is the origin.
    shape : (H, W)
    """

    complex_image = False

    def __init__(self, kernel: Tensor, shape: tuple[int, int]) -> None:
        self.image_shape = self.data_shape = _image_shape(shape)
        kernel = torch.as_tensor(kernel)
        if kernel.ndim != 2 or any(
            size % 2 == 0 or size > most for size, most in zip(kernel.shape, shape, strict=True)
        ):
            raise ValueError(
                f"A blur kernel must have two odd sizes of at most {tuple(shape)}. Got shape {tuple(kernel.shape)}."
            )
        _require_finite("The blur kernel", kernel)
        padded = torch.zeros(shape, dtype=torch.float64)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel.double()
        middle = [-(size // 2) for size in kernel.shape]
        self._response = torch.fft.fft2(padded.roll(middle, (0, 1)))

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return the blurred image."""
        return self._filter(x, self._response)

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        """Return the correlation with the kernel."""
        return self._filter(y, self._response.conj())

    def norm(self) -> float:
        """Return the largest singular value, the largest modulus of the kernel's Fourier transform."""
        return float(self._response.abs().max())

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        _require_shape("The image", x, self.image_shape)
        found: Tensor = torch.fft.ifft2(torch.fft.fft2(x) * response.to(device=x.device, dtype=_complex(x.dtype)))
        return found if x.is_complex() else found.real


class FourierMRI:
    """Cartesian multi-coil Fourier sampling: ``y_c = M F (S_c x)``.

    F is orthonormal, with the zero frequency in the middle. Measurements have shape (..., C, H, W), zero where nothing
    was sampled. With ``sum_c |S_c|^2 <= 1`` everywhere the norm is at most 1.

    Parameters
    ----------
    mask : Tensor of shape (H, W)
        True where k-space was sampled.
    coils : Tensor of shape (C, H, W), optional
        Complex sensitivities; one coil that sees everything alike if not given.
    """

    complex_image = True

    def __init__(self, mask: Tensor, coils: Tensor | None = None) -> None:
        mask = torch.as_tensor(mask)
        if mask.ndim != 2 or not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"A mask must have shape (H, W) and only 0 and 1 in it. Got shape {tuple(mask.shape)}.")
        self.mask = mask.bool()
        if not bool(self.mask.any()):
            raise DataError("A mask must sample something. Got one without any sample.")
        self.image_shape = (int(mask.shape[0]), int(mask.shape[1]))
        coils = torch.ones(1, *self.image_shape, dtype=torch.complex128) if coils is None else torch.as_tensor(coils)
        if coils.ndim != 3 or tuple(coils.shape[1:]) != self.image_shape:
            raise ValueError(
                f"Coil sensitivities must have shape (C, {self.image_shape[0]}, {self.image_shape[1]}) like the mask. "
                f"Got {tuple(coils.shape)}."
            )
        _require_finite("Coil sensitivities", coils)
        self.coils = coils.to(torch.complex128)
        self.data_shape = (int(coils.shape[0]), *self.image_shape)
        self._mask, self._coils = (torch.fft.ifftshift(part, dim=_PLANE) for part in (self.mask, self.coils))
        self._conjugates = self._coils.conj().resolve_conj()

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        """Return the sampled k-space of all coils."""
        found: Tensor = torch.fft.fftshift(self._sampled(x), dim=_PLANE)
        return found

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        """Return the image that the coils see together in the sampled frequencies."""
        _require_shape("Measurements", y, self.data_shape)
        return self._combined(torch.fft.ifftshift(y, dim=_PLANE))

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A* A x`` without moving origins on the way."""
        return self._combined(self._sampled(x))

    def _sampled(self, x: Tensor) -> Tensor:
        # The origin is moved once for the image and not for every coil.
        _require_shape("The image", x, self.image_shape)
        coils = self._coils.to(x.device, _complex(x.dtype))
        seen = coils * torch.fft.ifftshift(x, dim=_PLANE).unsqueeze(-3)
        spectrum: Tensor = torch.fft.fft2(seen, norm="ortho") * self._mask.to(x.device)
        return spectrum

    def _combined(self, spectrum: Tensor) -> Tensor:
        seen = torch.fft.ifft2(spectrum * self._mask.to(spectrum.device), norm="ortho")
        coils = self._conjugates.to(seen.device, seen.dtype)
        image: Tensor = torch.fft.fftshift((coils * seen).sum(-3), dim=_PLANE)
        return image

    def norm(self) -> float:
        """Return an upper bound on the largest singular value, the root of the largest ``sum_c |S_c|^2``."""
        return math.sqrt(float(self.coils.abs().square().sum(0).max()))


def adjoint_error(operator: Operator, x: Tensor, y: Tensor) -> float:
    """Return ``|<A x, y> - <x, A* y>|`` over the norms, for one image and one set of measurements."""
    forward, back = operator.A(x), operator.A_adjoint(y)
    if forward.shape != y.shape or back.shape != x.shape:
        raise ValueError(
            f"A must map images {tuple(x.shape)} to measurements {tuple(y.shape)} and A_adjoint back. Got "
            f"{tuple(forward.shape)} and {tuple(back.shape)}."
        )
    one, other = _inner(forward, y), _inner(x, back)
    scale = max(float(forward.norm() * y.norm()), float(x.norm() * back.norm()))
    return abs(one - other) / scale if scale > 0.0 else 0.0


def operator_norm(operator: Operator, example: Tensor, *, seed: int = 0, tol: float = 1e-6) -> float:
    """Return the largest singular value by power iteration on ``A* A``: a lower bound that converges to it.

    Parameters
    ----------
    example : Tensor
        An image; its shape, dtype and device are what matters.
    """
    x = draw_like(example, torch.Generator().manual_seed(seed))
    x, value = x / x.norm(), 0.0
    for _ in range(_POWER_STEPS):
        image = operator.A_adjoint(operator.A(x))
        last, value = value, float(image.norm())
        if value == 0.0 or abs(value - last) <= tol * value:
            break
        x = image / value
    return math.sqrt(value)


def normal(operator: Operator, x: Tensor) -> Tensor:
    """Return ``A* A x``, by a shorter way where the operator knows one."""
    shorter = getattr(operator, "normal", None)
    found: Tensor = operator.A_adjoint(operator.A(x)) if shorter is None else shorter(x)
    return found


def draw_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the shape, dtype and device of a tensor."""
    return torch.randn(example.shape, generator=generator, dtype=example.dtype).to(example.device)


def _inner(one: Tensor, other: Tensor) -> complex:
    return complex(torch.vdot(one.flatten().to(torch.complex128), other.flatten().to(torch.complex128)).item())


def _complex(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_complex else dtype.to_complex()


def _image_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"An image has two sizes of at least 1. Got {tuple(shape)}.")
    return int(shape[0]), int(shape[1])


def _require_shape(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"{what} must have shape (..., {', '.join(map(str, shape))}). Got {tuple(x.shape)}.")


def _require_finite(what: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"{what} must be finite. Got NaN or infinity; leave those samples out.")
