"""The rows of a reconstructor's audit: one per column of numbers, one cell per method."""

from __future__ import annotations

from collections.abc import Callable

from pathnorm.report.numbers import MISSING, count, decimal, percent, tiny
from pathnorm.report.reconstructor import BallAudit, MethodAudit, ReconstructorAudit, Spread

__all__ = ["DISAGREEMENT", "KINDS", "ROWS", "cells", "headline", "how", "remarks"]

KINDS = {
    "exact": "counted, or computed from what was given",
    "certified": "a bound that is proved",
    "measured": "observed on these images with this noise, true of them only; an attack shows what is at least there",
}

DISAGREEMENT = (
    "There is no verdict here, and no single number gives one. Published work disagrees: learned reconstructions were "
    "found unstable (Antun et al. 2020), as robust as total variation when trained with noise (Genzel, Macdonald, März "
    "2020), and no less stable than classical methods under equal attacks (Darestani, Chaudhari, Heckel 2021); what a "
    "perturbation is measured in decides much (Alaifari, Alberti, Gauksson 2023). Read stability beside accuracy, and "
    "worst cases beside random noise of the same size."
)


def _mean(spread: Spread, write: Callable[[float], str] = decimal) -> str:
    if spread.low is None or spread.high is None:
        return write(spread.mean)
    return f"{write(spread.mean)} ({write(spread.low)} to {write(spread.high)})"


def _ball(name: str, method: MethodAudit) -> BallAudit:
    return next(ball for ball in method.balls if ball.ball == name)


def _details(number: int, method: MethodAudit) -> str:
    return f"{number} of {len(method.details)}" if method.details else MISSING


def _sweep(method: MethodAudit) -> str:
    if method.monotone is None:
        return MISSING
    return "no" if method.monotone else f"yes, by {decimal(method.largest_drop)} dB"


ROWS: tuple[tuple[str, str, Callable[[MethodAudit], str]], ...] = (
    ("PSNR, dB", "measured", lambda m: _mean(m.psnr_mean)),
    ("relative error", "measured", lambda m: _mean(m.relative_error_mean, percent)),
    ("data residual / size of the noise", "measured", lambda m: _mean(m.residual_mean)),
    ("share of the error in the null space", "measured", lambda m: _mean(m.unseen_share_mean, percent)),
    ("amplification, random l2", "measured", lambda m: _mean(_ball("l2", m).random_mean)),
    ("amplification, worst l2, at least", "measured", lambda m: decimal(max(_ball("l2", m).worst), digits=4)),
    ("amplification, random l_inf", "measured", lambda m: _mean(_ball("linf", m).random_mean)),
    ("amplification, worst l_inf, at least", "measured", lambda m: decimal(max(_ball("linf", m).worst), digits=4)),
    ("linear", "measured", lambda m: f"{'yes' if m.linear else 'no'} (off by {tiny(m.linearity_error)})"),
    ("attacked with", "exact", lambda m: "gradients" if m.differentiable else "tried directions"),
    ("small details kept", "measured", lambda m: _details(m.details_kept, m)),
    ("small details removed", "measured", lambda m: _details(m.details_removed, m)),
    ("small details invented elsewhere", "measured", lambda m: _details(m.details_invented, m)),
    ("more samples are worse", "measured", _sweep),
    ("duality gap, at most", "certified", lambda m: MISSING if m.gap is None else f"{m.gap:.1e}"),
    ("reconstructions asked for", "exact", lambda m: count(m.calls)),
)


def cells(record: ReconstructorAudit) -> list[tuple[str, str, list[str]]]:
    """Return label, kind and one cell per method."""
    return [(label, kind, [write(method) for method in record.methods]) for label, kind, write in ROWS]


def headline(record: ReconstructorAudit) -> str:
    """Return one plain sentence: how accurate, and how far noise and attacks move the image."""
    method = record.methods[0]
    ball = _ball("l2", method)
    text = (
        f"On {record.images} images the {method.name} reaches {decimal(method.psnr_mean.mean)} dB; it amplifies random "
        f"perturbations of the measurements {decimal(ball.random_mean.mean)} times, the worst found at least "
        f"{decimal(max(ball.worst))} times"
    )
    if len(record.methods) > 1:
        other = record.methods[1]
        also = _ball("l2", other)
        text += (
            f" ({other.name}: {decimal(other.psnr_mean.mean)} dB, {decimal(also.random_mean.mean)} and at least "
            f"{decimal(max(also.worst))} times)"
        )
    return text + "."


def how(record: ReconstructorAudit) -> str:
    """Return how the numbers came about."""
    ball = _ball("l2", record.methods[0])
    unseen = (
        "exact up to rounding, as A* A is a projection"
        if record.unseen_exact
        else f"by at most {record.unseen_iterations} steps of conjugate gradients, which left a relative residual of "
        f"{tiny(record.unseen_residual)}"
    )
    return (
        f"{record.operator}, {count(record.samples)} numbers measured of each image of {record.shape[0]} x "
        f"{record.shape[1]} pixels, noise of standard deviation {record.noise:g}. Perturbations stay in what "
        f"was sampled; their Euclidean norm is {decimal(ball.radius)}, that of the corners of the l_inf ball too. "
        f"Attacked: the first {record.attacked} of the images, with {record.steps} steps and {record.restarts} random "
        f"restarts; {record.draws} random perturbations of each ball are drawn for each. The null space: {unseen}. A "
        f"detail is kept if at least {percent(record.kept_at, digits=0)} of its contrast is seen, invented if the "
        f"change elsewhere has at least {percent(record.invented_at, digits=0)} of its energy. More samples count as "
        f"worse from a fall of {record.drop_at:g} dB. Means have 95 % t intervals over images or draws. Seed "
        f"{record.seed}; {decimal(record.seconds)} s."
    )


def remarks(record: ReconstructorAudit) -> list[str]:
    """Return what has to be said of single methods."""
    found = []
    for method in record.methods:
        if method.objective:
            found.append(f"The {method.name} minimises {method.objective}.")
        if method.sweep_missing:
            found.append(f"The {method.name} has no sweep over samples: {method.sweep_missing}.")
        if method.linear:
            found.append(
                f"The {method.name} is linear on random perturbations: its worst l2 amplification is the largest "
                "singular value, found by "
                + ("power iteration." if method.differentiable else "trying directions, from below.")
            )
    return found
