"""The columns of an audit, one reconstructor at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pathnorm.imaging.detail import GLYPHS, Detail, insert, seen_of
from pathnorm.imaging.nullspace import NullSpacePart, null_space_part
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.perturbations import Ball, Samples, norm_of
from pathnorm.imaging.reconstructors import Checked
from pathnorm.imaging.scans import Scans, psnr
from pathnorm.imaging.stability import Attack, Local, explore, linearity, random_amplifications, worst
from pathnorm.report.reconstructor import BallAudit, DetailAudit, MethodAudit, Pictures, Spread, SweepStep

if TYPE_CHECKING:
    from pathnorm.imaging.audit import AuditOptions

__all__ = ["Budget", "Method", "attacks_on", "audit_method"]

# Relative to rounding: what may be linear all the same.
_LINEAR = 1e4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Method:
    """A reconstructor, how it is built for another operator, and what it minimises, to which gap, if that is known."""

    model: Checked
    rebuild: Callable[[Operator], Checked] | None
    objective: str = ""
    gap: float | None = None


@dataclass(frozen=True)
class Budget:
    """The options, the size of perturbations, operators with more samples, and who is told of progress."""

    options: AuditOptions
    size: float
    more: tuple[Operator, ...]
    progress: Progress | None

    def tell(self, method: Method, done: int) -> None:
        """Say how far a method's audit is."""
        if self.progress is not None:
            self.progress(f"auditing the {method.model.name}", done, 4)


def audit_method(method: Method, scans: Scans, budget: Budget) -> tuple[MethodAudit, list[NullSpacePart]]:
    """Return the columns of one reconstructor, and the null-space parts of its errors."""
    began, options, model = time.perf_counter(), budget.options, method.model
    repeatability = model.require_repeatable(scans.data[0])
    answers = [model(y) for y in scans.data]
    errors = [found - image for found, image in zip(answers, scans.images, strict=True)]
    unseen = [
        null_space_part(scans.operator, error, tol=options.null_tol, max_iter=options.null_steps) for error in errors
    ]
    budget.tell(method, 1)
    local, off_linear = locals_of(model, scans, answers, size=budget.size, seed=options.seed)
    local = local[: options.attacked]
    balls, attacks = _balls(local, budget)
    budget.tell(method, 2)
    details, shown = _details(model, scans, answers, options)
    budget.tell(method, 3)
    sweep, missing = _sweep(method, scans, answers, budget)
    drops = [before.psnr_mean.mean - after.psnr_mean.mean for before, after in itertools.pairwise(sweep)]
    accuracy = [psnr(found, image) for found, image in zip(answers, scans.images, strict=True)]
    relative = [norm_of(error) / norm_of(image) for error, image in zip(errors, scans.images, strict=True)]
    residual = [
        norm_of(scans.operator.A(found) - y) / scans.noise_size for found, y in zip(answers, scans.data, strict=True)
    ]
    shares = [_share(part.image, error) for part, error in zip(unseen, errors, strict=True)]
    budget.tell(method, 4)
    return MethodAudit(
        name=model.name,
        linear=local[0].linear,
        linearity_error=off_linear,
        differentiable=local[0].differentiable,
        repeatability=repeatability,
        psnr=tuple(accuracy),
        psnr_mean=Spread.of(accuracy),
        relative_error=tuple(relative),
        relative_error_mean=Spread.of(relative),
        residual=tuple(residual),
        residual_mean=Spread.of(residual),
        unseen_share=tuple(shares),
        unseen_share_mean=Spread.of(shares),
        balls=balls,
        details=details,
        details_kept=sum(item.kept for item in details),
        details_removed=sum(not item.kept for item in details),
        details_invented=sum(item.invented for item in details),
        sweep=sweep,
        sweep_missing=missing,
        monotone=max(drops) <= options.drop_at if drops else None,
        largest_drop=max(0.0, *drops) if drops else None,
        objective=method.objective,
        gap=method.gap,
        calls=model.calls,
        seconds=time.perf_counter() - began,
        pictures=_pictures(answers[0], errors[0], unseen[0], attacks[0], shown),
    ), unseen


def locals_of(
    model: Checked, scans: Scans, answers: list[Tensor], *, size: float, seed: int
) -> tuple[list[Local], float]:
    """Return the reconstructor around every set of measurements, and how far it is from linear."""
    differentiable = model.differentiable(scans.data[0])

    def around(y: Tensor, base: Tensor, linear: bool) -> Local:
        return Local(model, y, base, scans.samples, scans.operator.A, differentiable, linear)

    generator = torch.Generator().manual_seed(seed)
    off = linearity(around(scans.data[0], answers[0], False), size, generator)
    # A change is the difference of two images, each rounded.
    blown_up = norm_of(answers[0]) / max(size, 1e-300)
    linear = off <= _LINEAR * model.rounding * max(1.0, blown_up)
    return [around(y, base, linear) for y, base in zip(scans.data, answers, strict=True)], off


def attacks_on(
    local: Local, balls: tuple[Ball, Ball], *, steps: int, restarts: int, seed: int
) -> tuple[Attack, Attack]:
    """Return the worst perturbations found in the l2 and in the l_inf ball."""
    known, first = explore(local, balls[0].radius, steps=steps, seed=seed)
    found = []
    for ball in balls:
        if ball.name == "l2" and local.linear:
            found.append(first)  # ascent would only repeat what the subspace has
            continue
        climbed = worst(local, ball, known, first.perturbation, steps=steps, restarts=restarts, seed=seed)
        better = ball.name == "l2" and norm_of(first.change) > norm_of(climbed.change)
        found.append(first if better else climbed)
    return found[0], found[1]


def _balls(local: list[Local], budget: Budget) -> tuple[tuple[BallAudit, ...], list[tuple[Attack, Attack]]]:
    options = budget.options
    balls = Ball.both(budget.size, local[0].samples)
    attacks = [
        attacks_on(here, balls, steps=options.steps, restarts=options.restarts, seed=options.seed + index)
        for index, here in enumerate(local)
    ]
    found = []
    for place, ball in enumerate(balls):
        random = [
            value
            for index, here in enumerate(local)
            for value in random_amplifications(here, ball, draws=options.draws, seed=options.seed + 100 + index)
        ]
        attained = [pair[place].amplification for pair in attacks]
        found.append(
            BallAudit(
                ball=ball.name,
                radius=ball.radius,
                random=tuple(random),
                random_mean=Spread.of(random),
                worst=tuple(attained),
                largest=max(*attained, *random),
            )
        )
    return tuple(found), attacks


def _details(
    model: Checked, scans: Scans, answers: list[Tensor], options: AuditOptions
) -> tuple[tuple[DetailAudit, ...], tuple[Detail, Tensor] | None]:
    """Measure every image again with each detail and the same noise; also return the first detail and its change."""
    found, shown = [], None
    rng = np.random.default_rng(options.seed)
    names = tuple(GLYPHS)
    for index, (image, y, before) in enumerate(zip(scans.images, scans.data, answers, strict=True)):
        contrast = options.contrast * float(image.abs().max())
        for number in range(options.details):
            detail = insert((image.shape[0], image.shape[1]), names[number % len(names)], contrast, rng)
            change = model(y + scans.operator.A(detail.image.to(image.dtype))) - before
            share, elsewhere = seen_of(detail, change)
            shown = (detail, change) if shown is None else shown
            found.append(
                DetailAudit(
                    image=index,
                    glyph=detail.glyph,
                    row=detail.row,
                    column=detail.column,
                    contrast=contrast,
                    share=share,
                    elsewhere=elsewhere,
                    kept=share >= options.kept_at,
                    invented=elsewhere >= options.invented_at,
                )
            )
    return tuple(found), shown


def _sweep(method: Method, scans: Scans, answers: list[Tensor], budget: Budget) -> tuple[tuple[SweepStep, ...], str]:
    """Accuracy with more samples, from the images measured again; or why there is none."""
    if not budget.more:
        return (), "no operator with more samples is known: give some as operators"
    steps = [_step(scans.samples.count, answers, scans)]
    for operator in budget.more:
        data = scans.measured_by(operator)
        if method.rebuild is not None:
            model = method.rebuild(operator)
        elif data[0].shape == scans.data[0].shape:
            model = method.model
        else:
            return (), "measurements with more samples have another shape: say with rebuild who reads them"
        steps.append(_step(Samples.of(operator, data[0]).count, [model(y) for y in data], scans))
    return tuple(steps), ""


def _step(samples: int, answers: list[Tensor], scans: Scans) -> SweepStep:
    values = [psnr(found, image) for found, image in zip(answers, scans.images, strict=True)]
    return SweepStep(samples=samples, psnr=tuple(values), psnr_mean=Spread.of(values))


def _share(part: Tensor, whole: Tensor) -> float:
    energy = norm_of(whole) ** 2
    return norm_of(part) ** 2 / energy if energy > 0.0 else 0.0


def _pictures(
    answer: Tensor,
    error: Tensor,
    unseen: NullSpacePart,
    attacks: tuple[Attack, Attack],
    shown: tuple[Detail, Tensor] | None,
) -> Pictures:
    def modulus(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return image.abs().float().numpy()

    return Pictures(
        reconstruction=modulus(answer),
        error=modulus(error),
        unseen=modulus(unseen.image),
        worst=modulus(attacks[0].change),
        detail=None if shown is None else shown[1].real.float().numpy(),
        detail_at=None if shown is None else (shown[0].row, shown[0].column, len(GLYPHS[shown[0].glyph])),
    )
