"""Figures of a reconstructor's audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathnorm.report.reconstructor import ReconstructorAudit
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["amplifications", "details", "sweep"]

_NAMES = {"l2": "l2 ball", "linf": "l_inf ball"}


def amplifications(record: ReconstructorAudit) -> Figure:
    """Random and worst amplification of every method in both balls."""
    figure = new_figure(8.0, 0.9 + 0.55 * 2 * len(record.methods))
    axes = figure.subplots()
    labels, place = [], 0
    for number, method in enumerate(record.methods):
        colour = PALETTE[number % len(PALETTE)]
        for ball in method.balls:
            axes.barh(place, max(ball.worst), height=0.5, color=colour, alpha=0.35)
            axes.plot(ball.worst, [place] * len(ball.worst), "|", color=colour, markersize=14, markeredgewidth=2)
            axes.plot(ball.random, [place] * len(ball.random), "o", color=INK, markersize=4, alpha=0.6)
            labels.append(f"{method.name}, {_NAMES[ball.ball]}")
            place += 1
    axes.set_yticks(range(place), labels)
    axes.invert_yaxis()
    axes.set(xlabel="amplification ||R(y + e) - R(y)|| / ||e||", xlim=(0.0, None))
    dress(axes, along="x")
    return figure


def details(record: ReconstructorAudit) -> Figure:
    """Contrast seen against what appears elsewhere."""
    figure = new_figure(8.0, 3.4)
    axes = figure.subplots()
    for number, method in enumerate(record.methods):
        axes.plot(
            [item.share for item in method.details],
            [item.elsewhere for item in method.details],
            MARKERS[number % len(MARKERS)],
            color=PALETTE[number % len(PALETTE)],
            label=method.name,
            alpha=0.75,
        )
    axes.axvline(record.kept_at, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.axhline(record.invented_at, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set(xlabel="share of the contrast that is seen", ylabel="energy elsewhere / of the detail", ylim=(0.0, None))
    dress(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def sweep(record: ReconstructorAudit) -> Figure:
    """Mean accuracy against samples, with intervals."""
    figure = new_figure(8.0, 3.4)
    axes = figure.subplots()
    for number, method in enumerate(record.methods):
        if not method.sweep:
            continue
        colour = PALETTE[number % len(PALETTE)]
        samples, means = [step.samples for step in method.sweep], [step.psnr_mean.mean for step in method.sweep]
        axes.plot(samples, means, color=colour, marker=MARKERS[number % len(MARKERS)], label=method.name)
        for step in method.sweep:
            axes.plot([step.samples] * len(step.psnr), step.psnr, ".", color=colour, markersize=3, alpha=0.5)
    axes.set(xlabel="numbers measured of an image", ylabel="PSNR in dB; dots: single images")
    dress(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
