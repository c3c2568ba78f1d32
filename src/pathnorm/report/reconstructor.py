"""What is said about a reconstructor: accuracy, stability and what it makes up, beside a classical reference.

Numbers are ``exact`` (counted or computed), ``certified`` (a bound that is proved) or ``measured`` (observed on these
images with this noise, true of them only). An attack attains what it reports: the worst case is at least that.
"""

# ruff: noqa: RUF009 - field() under a shorter name

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.report.fields import JsonRecord, certified, exact, measured

__all__ = ["BallAudit", "DetailAudit", "MethodAudit", "Pictures", "ReconstructorAudit", "Spread", "SweepStep"]

Numbers = tuple[float, ...]
Picture = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean of values and its 95 % t interval over them; no interval from a single value."""

    mean: float = measured()
    low: float | None = measured()
    high: float | None = measured()
    count: int = exact()

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of independent values."""
        from scipy import stats

        found = np.asarray(values, dtype=float)
        mean, n = float(found.mean()), len(found)
        if n < 2 or not np.isfinite(found).all():
            return cls(mean=mean, low=None, high=None, count=n)
        half = float(stats.t.ppf(0.975, n - 1) * found.std(ddof=1) / math.sqrt(n))
        return cls(mean=mean, low=mean - half, high=mean + half, count=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class BallAudit:
    """``||R(y + e) - R(y)|| / ||e||`` in Euclidean norms, for perturbations e of the measurements from a ball.

    Attributes
    ----------
    ball : str
        ``l2`` or ``linf``.
    radius : float
        Of the ball: Euclidean norm, or largest modulus of an entry.
    random : tuple of float
        Random perturbations of the boundary, over all attacked images.
    random_mean : Spread
    worst : tuple of float
        The largest found by attack, one per attacked image: the supremum is at least that.
    largest : float
        The largest of all, attacks and draws.
    """

    ball: str = exact()
    radius: float = exact()
    random: Numbers = measured(repr=False)
    random_mean: Spread
    worst: Numbers = measured()
    largest: float = measured()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailAudit:
    """A small detail that was put into an image, and what the reconstruction made of it.

    Attributes
    ----------
    contrast : float
        Added to the image.
    share : float
        Of the contrast that the difference of the reconstructions with and without it shows.
    elsewhere : float
        Energy of that difference more than two pixels away, relative to the energy of the detail.
    kept, invented : bool
        ``share`` at least the threshold (otherwise it was removed); ``elsewhere`` at least the threshold.
    """

    image: int = exact()
    glyph: str = exact()
    row: int = exact()
    column: int = exact()
    contrast: float = exact()
    share: float = measured()
    elsewhere: float = measured()
    kept: bool = measured()
    invented: bool = measured()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStep:
    """Accuracy with a number of samples; each step has the samples of the one before and more."""

    samples: int = exact()
    psnr: Numbers = measured(repr=False)
    psnr_mean: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Images (H, W) of the first audited image: moduli, but ``detail`` has a sign; None where not computed."""

    reconstruction: Picture
    error: Picture
    unseen: Picture
    worst: Picture | None
    detail: Picture | None
    detail_at: tuple[int, int, int] | None  # row, column, extent


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodAudit:
    """The columns of one reconstructor.

    Attributes
    ----------
    linear : bool
        Whether changes were linear in random perturbations, up to ``linearity_error``.
    differentiable : bool
        Whether attacks could use gradients; otherwise directions were tried.
    repeatability : float
        Relative difference of two calls.
    psnr, relative_error : tuple of float
        Per image: dB relative to the largest modulus of the image; ``||x^ - x|| / ||x||``.
    residual : tuple of float
        Per image, ``||A x^ - y||`` over the expected size of the noise.
    unseen_share : tuple of float
        Per image, share of the energy of the error that lies in the null space of A.
    details_kept, details_removed, details_invented : int
        Counts over ``details``; one that is kept or removed may be invented elsewhere too.
    sweep : tuple of SweepStep
        From the samples of the audit upwards; empty if ``sweep_missing`` says why.
    monotone : bool or None
        Whether the mean PSNR never fell by more than the tolerance when samples were added.
    largest_drop : float or None
        The largest fall of the mean PSNR from one step to the next, in dB; 0 if there was none.
    objective, gap : str, float or None
        What a variational method minimises and its largest relative duality gap over the images.
    calls : int
        How often the reconstructor was asked.
    """

    name: str
    linear: bool = measured()
    linearity_error: float = measured()
    differentiable: bool = exact()
    repeatability: float = measured()
    psnr: Numbers = measured()
    psnr_mean: Spread
    relative_error: Numbers = measured()
    relative_error_mean: Spread
    residual: Numbers = measured()
    residual_mean: Spread
    unseen_share: Numbers = measured()
    unseen_share_mean: Spread
    balls: tuple[BallAudit, ...]
    details: tuple[DetailAudit, ...] = field(repr=False)
    details_kept: int = measured()
    details_removed: int = measured()
    details_invented: int = measured()
    sweep: tuple[SweepStep, ...]
    sweep_missing: str = exact(default="")
    monotone: bool | None = measured()
    largest_drop: float | None = measured()
    objective: str = exact(default="")
    gap: float | None = certified(default=None)
    calls: int = exact()
    seconds: float = measured()
    pictures: Pictures | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructorAudit(JsonRecord):
    """What was measured about a reconstructor, and the same about a reference on the same data.

    Attributes
    ----------
    methods : tuple of MethodAudit
        The reconstructor first.
    operator : str
    images : int
    shape : tuple of int
    samples : int
        Numbers measured of an image, complex ones counted once.
    noise : float
        Standard deviation of the noise of one.
    attacked : int
        Images that were attacked: the first ones.
    unseen_exact : bool
        Whether ``A* A`` is a projection, so that the null space is known exactly; otherwise it was found by conjugate
        gradients, ``unseen_iterations`` at most, to the relative residual ``unseen_residual``.
    kept_at, invented_at : float
        Thresholds of the details.
    drop_at : float
        Fall of the PSNR in dB from which more samples count as worse.
    """

    methods: tuple[MethodAudit, ...]
    operator: str = exact()
    images: int = exact()
    shape: tuple[int, int] = exact()
    samples: int = exact()
    noise: float = exact()
    attacked: int = exact()
    draws: int = exact()
    steps: int = exact()
    restarts: int = exact()
    unseen_exact: bool = exact()
    unseen_iterations: int = exact()
    unseen_residual: float = measured()
    kept_at: float = exact()
    invented_at: float = exact()
    drop_at: float = exact()
    seed: int = exact()
    seconds: float = measured()
    truth: Picture | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain Python objects, without the pictures; values that are not finite become ``None``."""
        bare = tuple(dataclasses.replace(method, pictures=None) for method in self.methods)
        found = JsonRecord.to_dict(dataclasses.replace(self, methods=bare, truth=None))
        del found["truth"]
        for method in found["methods"]:
            del method["pictures"]
        return found

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page with images; return its path."""
        from pathnorm.report.reconstructor_render import write_html

        return write_html(self, Path(path))

    def __str__(self) -> str:
        from pathnorm.report.reconstructor_render import text_table

        return text_table(self)
