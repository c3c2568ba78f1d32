"""A signal that is rough on one half and smooth on the other: linear smoothing must choose, BV2 need not.

Claim: a smoothing spline has one lam for all of the line. The lam that is best for the smooth half flattens the rough
one, the lam that is best for the rough half leaves the noise in the smooth one, and generalised cross-validation lands
in between. The BV2 estimator places its knots where the signal bends, so that one lam, chosen from the data by SURE
or by cross-validation, does for both halves. The two lam of the smoothing spline are picked with the truth in hand,
which makes them as good as they can be.

The claim is about functions whose slope changes in places, as those of BV2 may. The same is measured where the rough
half is a sine, which has no such places: there the cubic spline gains from its higher order, and BV2 is better on the
smooth half alone. Run with ``python -m experiments.spatial_adaptivity``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments._claim import Row, Scale, interval, main

NAME = "spatial_adaptivity"
N_SAMPLES, NOISE = 1_000, 0.15
KINKS = np.array([0, 0.06, 0.1, 0.18, 0.2, 0.27, 0.3, 0.36, 0.42, 0.46, 0.5])
HEIGHTS = np.array([0, 1, -0.6, 0.8, -1, 0.2, -0.4, 1.1, -0.9, 0.6, 0])
LAM_GRID = np.logspace(-12, 1, 66)
LARGE, SMALL, GCV = "smoothing spline, large λ", "smoothing spline, small λ", "smoothing spline, GCV"
SURE, CV = "BV², SURE", "BV², cross-validation"
METHODS = (LARGE, SMALL, GCV, SURE, CV)
HALVES = ("rough", "smooth")


def kinks(x: np.ndarray) -> np.ndarray:
    return np.interp(x, KINKS, HEIGHTS)


def sine(x: np.ndarray) -> np.ndarray:
    return np.sin(40 * np.pi * x)


# The rough half; the smooth one is a quarter of a period of a slow sine. Both functions lie in BV2.
ROUGH = {"kinks": kinks, "sine": sine}


def truth(signal: str, x: np.ndarray) -> np.ndarray:
    return np.where(x < 0.5, ROUGH[signal](x), np.sin(np.pi * (x - 0.5)))


def draw_samples(signal: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(N_SAMPLES))
    return x, truth(signal, x) + NOISE * rng.standard_normal(N_SAMPLES)


def errors(signal: str, x: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Mean squared error on the rough and on the smooth half."""
    squares = (values - truth(signal, x)) ** 2
    return float(squares[x < 0.5].mean()), float(squares[x >= 0.5].mean())


def best_lams(signal: str, seeds: int) -> dict[str, float]:
    """The lam of the smoothing spline with the smallest mean error on either half, truth in hand."""
    from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor

    found = np.zeros((len(LAM_GRID), 2))
    for seed in range(seeds):
        x, y = draw_samples(signal, seed)
        for i, lam in enumerate(LAM_GRID):
            found[i] += errors(signal, x, SmoothingSplineRegressor(lam=float(lam)).fit(x, y).predict(x))
    small, large = found.argmin(axis=0)
    return {LARGE: float(LAM_GRID[large]), SMALL: float(LAM_GRID[small])}


def fitted(method: str, x: np.ndarray, y: np.ndarray, lams: dict[str, float]) -> Any:
    from pathnorm import BV2RegressorCV
    from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor

    if method in (SURE, CV):
        return BV2RegressorCV(criterion="sure" if method == SURE else "cv").fit(x, y)
    return SmoothingSplineRegressor(lam=lams.get(method, "gcv")).fit(x, y)


def measure(signal: str, seeds: int, lams: dict[str, float]) -> list[Row]:
    rows = []
    for seed in range(seeds):
        x, y = draw_samples(signal, seed)
        for method in METHODS:
            model = fitted(method, x, y, lams)
            rough, smooth = errors(signal, x, model.predict(x))
            row = {
                "signal": signal,
                "seed": seed,
                "method": method,
                "rough": rough,
                "smooth": smooth,
                "lam": float(model.lam_),
            }
            if method in (SURE, CV):
                sites = model.spline_.knots[model.spline_.jumps != 0.0]
                row |= {"knots_rough": int((sites < 0.5).sum()), "knots_smooth": int((sites >= 0.5).sum())}
                row["gap"] = model.certificate_.gap
            rows.append(row)
    return rows


def summarise(rows: list[Row]) -> list[Row]:
    """Mean errors with intervals, and errors over those of the best lam of that half, seed by seed."""
    column = {
        (method, half): np.array([row[half] for row in rows if row["method"] == method])
        for method in METHODS
        for half in HALVES
    }
    best = {"rough": column[SMALL, "rough"], "smooth": column[LARGE, "smooth"]}
    summary = []
    for method in METHODS:
        cell: Row = {"method": method}
        for half in HALVES:
            cell[half] = interval(column[method, half])
            cell[f"{half}_over_best"] = interval(np.log(column[method, half] / best[half]))
            cell[f"{half}_over_best"] = [float(np.exp(value)) for value in cell[f"{half}_over_best"]]
        counts = [row for row in rows if row["method"] == method and "knots_rough" in row]
        if counts:
            cell["knots"] = {half: float(np.mean([row[f"knots_{half}"] for row in counts])) for half in HALVES}
            cell["largest_gap"] = max(row["gap"] for row in counts)
        summary.append(cell)
    return summary


def verdict(summary: list[Row]) -> Row:
    """What was predicted, what was measured, and whether the second is the first."""
    cell = {row["method"]: row for row in summary}
    over = {(method, half): cell[method][f"{half}_over_best"][0] for method in METHODS for half in HALVES}
    ours = max(over[SURE, half] for half in HALVES)
    holds = (
        over[LARGE, "rough"] > 2
        and over[SMALL, "smooth"] > 2
        and all(cell[SURE][half][0] < cell[GCV][half][0] for half in HALVES)
        and ours < min(max(over[method, half] for half in HALVES) for method in (LARGE, SMALL, GCV))
    )
    predicted = (
        "the lam of the smoothing spline that is best for one half has more than twice the best error on the other; "
        "BV2 with SURE errs less than GCV on both, and its worse half is better than the worse half of any spline"
    )
    measured = (
        f"large lam {over[LARGE, 'rough']:.1f}x the best on the rough half, "
        f"small lam {over[SMALL, 'smooth']:.1f}x on the smooth one, "
        f"GCV {over[GCV, 'rough']:.1f}x and {over[GCV, 'smooth']:.1f}x, "
        f"BV2 {over[SURE, 'rough']:.1f}x and {over[SURE, 'smooth']:.1f}x"
    )
    return {"holds": bool(holds), "predicted": predicted, "measured": measured}


# ---------------------------------------------------------------------------- figure
# Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = {LARGE: "#D55E00", SMALL: "#CC79A7", GCV: "#E69F00", SURE: "#0072B2", CV: "#56B4E9"}
TITLES = {
    LARGE: "Smoothing spline, large λ: flattens the rough half",
    SMALL: "Smoothing spline, small λ: keeps noise in the smooth half",
    GCV: "Smoothing spline, GCV: in between",
    SURE: "BV², λ by SURE: neither",
}
INK, SOFT, GRID = "#20242c", "#9aa3b2", "#e3e6ec"


def draw(payload: Row, path: Path) -> None:
    """Four fits to the first draw with their errors, and the mean errors of every method on either half."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summary, lams = payload["summary"]["kinks"], payload["lam_of_the_spline"]["kinks"]
    figure = Figure(figsize=(11.5, 10.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=[3.4, 1])
    panels = above.subplots(4, 2, sharex=True, height_ratios=[2.6, 1, 2.6, 1])
    for place, method in enumerate(TITLES):
        row, column = 2 * (place // 2), place % 2
        _draw_fit(panels[row, column], panels[row + 1, column], method, lams)
    for half, panel in zip(HALVES, below.subplots(1, 2, sharey=True), strict=True):
        _draw_errors(panel, summary, half)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def _draw_fit(panel: Any, strip: Any, method: str, lams: dict[str, float]) -> None:
    """Data, truth and fit; in the strip below, fit minus truth."""
    x, y = draw_samples("kinks", 0)
    fine = np.linspace(0, 1, 4001)
    model = fitted(method, x, y, lams)
    colour, values = COLOURS[method], model.predict(fine)
    rough, smooth = errors("kinks", x, model.predict(x))
    for axes in (panel, strip):
        axes.axvspan(0, 0.5, color="#f3f4f7", zorder=0)
        _tidy(axes)
    panel.plot(x, y, "o", color=SOFT, markersize=2.2, alpha=0.6, zorder=1, label="data")
    panel.plot(fine, truth("kinks", fine), color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2, label="truth")
    panel.plot(fine, values, color=colour, linewidth=2.0, zorder=3, label="fit")
    if method == SURE:
        sites = model.spline_.knots[model.spline_.jumps != 0.0]
        panel.plot(sites, np.full(len(sites), -1.45), "|", color=colour, markersize=9, label=f"{len(sites)} knots")
    style = {"color": INK, "fontsize": 9, "ha": "center"}
    panel.text(0.25, 1.62, f"rough half, error {rough:.4f}", **style)
    panel.text(0.75, 1.62, f"smooth half, error {smooth:.4f}", **style)
    panel.set(xlim=(0, 1), ylim=(-1.7, 1.95))
    panel.set_title(TITLES[method], color=INK, fontsize=11, loc="left")
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.1), fontsize=8, frameon=False, ncols=4)
    strip.axhline(0, color=INK, linewidth=0.8)
    strip.fill_between(fine, values - truth("kinks", fine), color=colour, alpha=0.85, linewidth=0)
    strip.set(ylim=(-0.34, 0.34), yticks=(-0.3, 0, 0.3))
    strip.set_ylabel("fit - truth", color=INK, fontsize=8.5)


def _draw_errors(panel: Any, summary: list[Row], half: str) -> None:
    """Mean squared errors over the draws, with intervals."""
    cells = list(reversed(summary))
    for place, cell in enumerate(cells):
        mean, low, high = cell[half]
        colour = COLOURS[cell["method"]]
        panel.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        panel.plot(mean, place, "o", color=colour, markersize=7)
        panel.annotate(f"{mean:.5f}", (high, place), (7, -3), textcoords="offset points", fontsize=8.5, color=INK)
    panel.set_yticks(range(len(cells)), [cell["method"] for cell in cells], fontsize=9)
    panel.set(xscale="log", ylim=(-0.6, len(cells) - 0.4))
    panel.margins(x=0.2)
    panel.set_xlabel(f"mean squared error, {half} half (mean over draws, 95 % interval)", color=INK, fontsize=9)
    panel.grid(True, axis="x", which="both", color=GRID, linewidth=0.6)
    _tidy(panel)


def _tidy(panel: Any) -> None:
    panel.set_axisbelow(True)
    panel.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


# ---------------------------------------------------------------------------- driver
def run(scale: Scale) -> Row:
    """Fit all methods to all draws of both signals."""
    seeds = scale.pick(2, 20, 100)
    lams = {signal: best_lams(signal, seeds) for signal in ROUGH}
    rows = {signal: measure(signal, seeds, lams[signal]) for signal in ROUGH}
    summary = {signal: summarise(rows[signal]) for signal in ROUGH}
    for signal in ROUGH:
        print(f"rough half: {signal}")
        for cell in summary[signal]:
            text = [f"{half} {cell[half][0]:.5f} [{cell[half][1]:.5f}, {cell[half][2]:.5f}]" for half in HALVES]
            knots = "".join(f"  {count:.0f} knots {half}" for half, count in cell.get("knots", {}).items())
            print(f"  {cell['method']:28}", *text, knots, sep="  ")
    return {
        "n_samples": N_SAMPLES,
        "noise": NOISE,
        "seeds": seeds,
        "lam_of_the_spline": lams,
        "verdict": verdict(summary["kinks"]),
        "summary": summary,
        "rows": [row for signal in ROUGH for row in rows[signal]],
    }


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
