"""An audit of any reconstructor: how accurate, how stable, what it makes up, beside a classical reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathnorm.imaging.audit_columns import Budget, Method, audit_method
from pathnorm.imaging.more_samples import require_more, richer
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.perturbations import norm_of
from pathnorm.imaging.primal_dual import TotalVariationSteps
from pathnorm.imaging.reconstructors import Checked
from pathnorm.imaging.scans import Scans
from pathnorm.report.reconstructor import ReconstructorAudit

__all__ = ["AuditOptions", "audit_reconstructor"]

Progress = Callable[[str, int, int], None]
Reconstruct = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How thoroughly a reconstructor is audited, and at which thresholds.

    Attributes
    ----------
    size : float, optional
        Euclidean norm of the perturbations relative to that of the measurements; that of the noise if not given. The
        l_inf ball has corners of the same norm.
    draws : int
        Random perturbations of either ball, per attacked image.
    attacked : int
        Images that are attacked, the first ones: attacks take most of the time.
    steps : int
        Directions or ascent steps of an attack; without gradients a direction costs one reconstruction.
    restarts : int
        Random starts of an attack besides the first.
    details : int
        Details put into each image.
    contrast : float
        Theirs, relative to the largest modulus of the image.
    kept_at, invented_at : float
        A detail is kept if this share of its contrast is seen, invented if the change elsewhere has this share of its
        energy.
    drop_at : float
        Fall of the mean PSNR in dB from which more samples count as worse.
    operators : sequence of Operator, optional
        With more samples than the audited one, each a superset of the one before. Derived for FourierMRI and Radon if
        not given; empty for no sweep.
    rebuild : callable, optional
        Returns the reconstructor for an operator. Without it the same callable is handed measurements with more
        samples, where they have the same shape.
    dtype : torch.dtype, optional
        Precision in which measurements are handed over.
    reference_lam : float, optional
        Of the total variation; by discrepancy on the first image if not given.
    reference_steps : int
        Primal-dual steps of the total variation.
    null_tol, null_steps : float, int
        Tolerance and steps of the conjugate gradients that find the null space.
    """

    size: float | None = None
    draws: int = 8
    attacked: int = 2
    steps: int = 20
    restarts: int = 1
    details: int = 3
    contrast: float = 0.3
    kept_at: float = 0.5
    invented_at: float = 0.25
    drop_at: float = 0.05
    operators: Sequence[Operator] | None = None
    rebuild: Callable[[Operator], Reconstruct] | None = None
    dtype: torch.dtype | None = None
    reference_lam: float | None = None
    reference_steps: int = 200
    null_tol: float = 1e-6
    null_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "draws": (self.draws, 2),
            "attacked": (self.attacked, 1),
            "steps": (self.steps, 1),
            "restarts": (self.restarts, 0),
            "details": (self.details, 0),
            "reference_steps": (self.reference_steps, 1),
            "null_steps": (self.null_steps, 1),
        }
        for name, (value, low) in least.items():
            if value < low:
                raise ValueError(f"{name} must be at least {low}. Got {value}.")
        above = {"contrast": self.contrast, "null_tol": self.null_tol, "size": 1.0 if self.size is None else self.size}
        for name, number in above.items():
            if not 0.0 < number < float("inf"):
                raise ValueError(f"{name} must be positive and finite. Got {number}.")


def audit_reconstructor(
    reconstruct: Reconstruct,
    operator: Operator,
    images: Any,
    *,
    noise: float,
    reference: str | Reconstruct | None = "tv",
    options: AuditOptions | None = None,
    progress: Progress | None = None,
) -> ReconstructorAudit:
    """Return what images, noise and attacks say about a reconstructor, and the same about a reference.

    Measurements ``y = A x + noise`` are simulated from the images. An attack maximises ``||R(y + e) - R(y)||`` over a
    ball of perturbations e that stay in what was sampled; for a linear R the l2 attack tends to its largest singular
    value. What it reports was attained, so the worst case is at least that; a small number proves nothing. The error's
    part in the null space of A is what the measurements could not have told.

    There is no verdict: whether learned or classical methods are the more stable depends on the perturbation, on its
    size and on the accuracy that is asked for, and published work disagrees [Antun, Renna, Poon, Adcock, Hansen 2020;
    Genzel, Macdonald, März 2020; Darestani, Chaudhari, Heckel 2021; Alaifari, Alberti, Gauksson 2023].

    Parameters
    ----------
    reconstruct : callable
        Measurements of one image, a tensor of the shape that ``operator.A`` returns, to an image (H, W), a tensor or an
        array. If torch can differentiate through it, attacks use gradients; otherwise it is only asked.
    operator : Operator
    images : array or Tensor of shape (B, H, W)
        The truth.
    noise : float
        Standard deviation of a measurement's noise; of a complex one the root of the mean squared modulus.
    reference : "tv", callable or None
        What is audited beside it: total variation with ``lam`` by discrepancy on the first image, then fixed.

    Raises
    ------
    DataError
        If images are not finite or zero; if the callable raises, returns something else than a finite image of the
        right shape and field, gives different images for the same measurements, or writes to them.
    ValueError
        If shapes do not fit, ``A`` and ``A_adjoint`` are not adjoint, or an argument is out of range.
    """
    began = time.perf_counter()
    options = AuditOptions() if options is None else options
    scans = Scans.of(operator, images, noise=noise, seed=options.seed)
    more = richer(operator, seed=options.seed) if options.operators is None else tuple(options.operators)
    require_more((operator, *more))
    size = scans.noise_size if options.size is None else options.size * norm_of(scans.data[0])
    budget = Budget(options=options, size=size, more=more, progress=progress)
    methods = [_given(reconstruct, scans, options, "reconstructor", options.rebuild)]
    if reference is not None:
        methods.append(_reference(reference, scans, options))
    audits = [audit_method(method, scans, budget) for method in methods]
    unseen = [part for _, parts in audits for part in parts]
    return ReconstructorAudit(
        methods=tuple(audit for audit, _ in audits),
        operator=type(operator).__name__,
        images=len(scans.images),
        shape=(int(scans.images[0].shape[0]), int(scans.images[0].shape[1])),
        samples=scans.samples.count,
        noise=float(noise),
        attacked=min(options.attacked, len(scans.images)),
        draws=options.draws,
        steps=options.steps,
        restarts=options.restarts,
        unseen_exact=all(part.exact for part in unseen),
        unseen_iterations=max(part.iterations for part in unseen),
        unseen_residual=max(part.residual for part in unseen),
        kept_at=options.kept_at,
        invented_at=options.invented_at,
        drop_at=options.drop_at,
        seed=options.seed,
        seconds=time.perf_counter() - began,
        truth=scans.images[0].abs().float().numpy(),
    )


def _given(
    reconstruct: Reconstruct,
    scans: Scans,
    options: AuditOptions,
    name: str,
    rebuild: Callable[[Operator], Reconstruct] | None,
) -> Method:
    image = scans.images[0]

    def checked(function: Reconstruct) -> Checked:
        return Checked(
            function,
            (int(image.shape[0]), int(image.shape[1])),
            complex_image=image.is_complex(),
            dtype=options.dtype,
            name=name,
        )

    return Method(checked(reconstruct), None if rebuild is None else lambda operator: checked(rebuild(operator)))


def _reference(reference: str | Reconstruct, scans: Scans, options: AuditOptions) -> Method:
    if callable(reference):
        return _given(reference, scans, options, "reference", None)
    if reference != "tv":
        raise ValueError(f"The reference must be 'tv', a callable or None. Got {reference!r}.")
    y, lam = scans.data[0], options.reference_lam
    solver = TotalVariationSteps(scans.operator, y, lam or 1.0, steps=options.reference_steps)
    if lam is None:
        solver = solver.by_discrepancy(y, scans.noise)

    def rebuild(operator: Operator) -> Reconstruct:
        example = scans.measured_by(operator)[0]
        return TotalVariationSteps(operator, example, solver.lam, steps=options.reference_steps)

    found = _given(solver, scans, options, "total variation", rebuild)
    answers = [solver.solve(y) for y in scans.data]
    return Method(found.model, found.rebuild, answers[0].objective, max(answer.certificate.gap for answer in answers))
