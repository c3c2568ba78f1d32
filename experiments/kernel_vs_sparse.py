"""A kernel method is linear in the data; on functions with kinks that costs it the rate, on smooth ones nothing.

In a reproducing kernel Hilbert space the fit is ``sum_n a_n K(., x_n)`` plus a null space, linear in y (Kimeldorf &
Wahba 1971); for ``int f''^2`` it is the cubic smoothing spline (de Boor & Lynch 1966). Over balls of H^2 it attains the
minimax rate ``N^(-4/5)`` of the mean squared error. Over balls of BV2 the rate is ``N^(-4/5)`` too, BV2 regression
attains it (Mammen & van de Geer 1997), and no linear estimator does better than ``N^(-3/4)`` (Donoho & Johnstone 1998).

Measured:

- linearity: ``f(y1 + y2) - f(y1) - f(y2)`` at a fixed lam, for the smoothing spline (zero) and for BV2 (not);
- the smoothing spline against the solution of the representer theorem's own linear system, with the kernel of cubic
  splines as a dense matrix and the straight lines as null space: the same values, at the data and elsewhere;
- errors against N, for targets drawn anew for every seed, with a lam chosen with the truth in hand for the smoothing
  spline (no data-driven choice can be better, which favours it) and by GCV, and for BV2 by SURE: a function at
  the border of H^2 (cosines with random signs, coefficients ``k^(-5/2)``), one with six random kinks, and one with
  forty, at ``2^-j``, whose jumps fall like ``j^-2``: spatially varying smoothness, and one bandwidth for all of it.

What theory predicts here, said before: on the first both slopes are -4/5. On the others the spline's is -3/4. The rates
of minimax theory are those of the worst function for each N: a fixed one with kinks is the worst for linear methods,
not for BV2, so BV2 has -4/5 or better on it. In sizes: over a decade of N a rate of -3/4 and one of -4/5 differ by an
eighth, so what a user sees is the constant and the number of knots. The claim holds if all slopes are within 0.05 of
what is predicted (BV2 on kinks: -0.75 or steeper, and steeper than the spline's on the same draws), the oracle spline
errs at least 1.3 times as much as BV2 on kinks at the largest N, and BV2 has knots at fewer than 2 % of the samples
there.

Limits: ``spatial_adaptivity`` shows what one bandwidth does to the halves of a function, ``benchmarks/bv2_rates.py``
compares more methods on the functions of Donoho and Johnstone. There, with kinks of
all sizes, the gain is a factor of 1.3 to 2.5 and hardly a slope; few strong kinks are where it is largest. On the
smooth target BV2 is the one with the worse constant; the ratio is reported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments._claim import Row, Scale, interval, main, slope
from pathnorm import BV2Regressor, BV2RegressorCV, SmoothingSplineRegressor
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

NAME = "kernel_vs_sparse"
NOISE = 0.1
TARGETS = ("smooth, H²", "six kinks", "kinks at 2^-j")
ORACLE, GCV, BV2 = "smoothing spline, best λ", "smoothing spline, GCV", "BV², SURE"
METHODS = (ORACLE, GCV, BV2)
SPLINE_SLOPE = {TARGETS[0]: -4 / 5, TARGETS[1]: -3 / 4, TARGETS[2]: -3 / 4}
WITHIN, GAIN, FEW = 0.05, 1.3, 0.02
FREQUENCIES = 1_000


# ---------------------------------------------------------------------------- linearity
def cubic_kernel(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Kernel of ``{f: f(0) = f'(0) = 0, int_0^1 f''^2 < inf}``: ``int (s - u)_+ (t - u)_+ du``."""
    low, high = np.minimum.outer(s, t), np.maximum.outer(s, t)
    return low**2 * (3 * high - low) / 6


def kernel_fit(x: np.ndarray, y: np.ndarray, lam: float, at: np.ndarray) -> np.ndarray:
    """Minimiser of ``sum (y - f)^2 + lam int f''^2`` at ``at``, by the representer theorem and a dense solve.

    ``f = sum_n a_n K(., x_n) + c_0 + c_1 x`` with ``(K + lam I) a + T c = y`` and ``T' a = 0``; x in [0, 1].
    """
    lines = np.column_stack([np.ones_like(x), x])
    orthogonal, triangle = np.linalg.qr(lines, mode="complete")
    rest = orthogonal[:, 2:]
    system = cubic_kernel(x, x) + lam * np.eye(x.size)
    a = rest @ np.linalg.solve(rest.T @ system @ rest, rest.T @ y)
    c = np.linalg.solve(triangle[:2], orthogonal[:, :2].T @ (y - system @ a))
    return np.asarray(cubic_kernel(at, x) @ a + c[0] + c[1] * at)


def spline_fit(x: np.ndarray, y: np.ndarray, lam: float, at: np.ndarray) -> np.ndarray:
    return np.asarray(SmoothingSplineRegressor(lam=lam).fit(x, y).predict(at))


def bv2_fit(x: np.ndarray, y: np.ndarray, lam: float, at: np.ndarray) -> np.ndarray:
    return np.asarray(BV2Regressor(lam=lam).fit(x, y).predict(at))


def linearity(seed: int, count: int) -> Row:
    """Relative departures from linearity, and the spline's distance from the kernel solution."""
    rng = np.random.default_rng([seed, count])
    x, at = np.sort(rng.random(count)), rng.random(200)
    y1, y2 = np.sin(9 * x) + NOISE * rng.standard_normal(count), np.abs(x - 0.4) + NOISE * rng.standard_normal(count)
    lam = 10 ** rng.uniform(-5, -2)
    top = BV2Regressor(lam=1.0).fit(x, y1 + y2).lam_max_
    found = {}
    for name, fit, size in (("spline", spline_fit, lam), ("bv2", bv2_fit, 0.05 * top)):
        both, first, second = (fit(x, y, size, at) for y in (y1 + y2, y1, y2))
        found[name] = float(np.abs(both - first - second).max() / np.abs(both).max())
    distance = np.abs(spline_fit(x, y1, lam, at) - kernel_fit(x, y1, lam, at)).max()
    return {"seed": seed, "samples": count, "lam": lam, "kernel_distance": float(distance)} | {
        f"{name}_not_additive": value for name, value in found.items()
    }


# ---------------------------------------------------------------------------- rates
def target(name: str, seed: int, x: np.ndarray) -> np.ndarray:
    """A target of deviation 1, the same for every x of one seed."""
    rng = np.random.default_rng([seed, TARGETS.index(name)])
    # Scaled by a grid that does not depend on the samples.
    fine = (np.arange(2**12) + 0.5) / 2**12
    if name == TARGETS[0]:
        signs = rng.choice([-1.0, 1.0], FREQUENCIES)

        def f(t: np.ndarray) -> np.ndarray:
            total = np.zeros_like(t)
            for start in range(0, FREQUENCIES, 100):
                k = np.arange(start + 1, start + 101)
                total += np.cos(np.pi * np.outer(t, k)) @ (signs[start : start + 100] * k**-2.5)
            return total
    else:
        if name == TARGETS[1]:
            gaps = rng.uniform(0.5, 1.5, 7)
            knots = np.append(0.0, np.cumsum(gaps) / gaps.sum())
            # A zigzag: every kink bends, so that none is so weak that it can be missed.
            heights = rng.uniform(0.5, 1.5, 8) * np.where(np.arange(8) % 2, 1.0, -1.0)
        else:
            knots = np.append(0.0, 2.0 ** -np.arange(40.0)[::-1])
            # Slopes between the kinks alternate and shrink like 1 / j^2 towards zero: summable jumps.
            slopes = rng.uniform(0.7, 1.3, 40) * np.where(np.arange(40) % 2, 1.0, -1.0)
            slopes *= 1 / np.arange(1.0, 41.0)[::-1] ** 2
            heights = np.append(0.0, np.cumsum(slopes * np.diff(knots)))

        def f(t: np.ndarray) -> np.ndarray:
            return np.interp(t, knots, heights)

    scale = f(fine).std()
    return np.asarray(f(x) / scale)


def best_spline(x: np.ndarray, y: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of the smoothing spline at the lam with the smallest one, on a grid refined around it."""

    def error(exponent: float) -> float:
        return float(np.mean((spline_fit(x, y, 10**exponent, x) - truth) ** 2))

    start = np.log10(SmoothingSplineRegressor().fit(x, y).lam_)
    found = {e: error(e) for e in start + np.arange(-2.0, 2.01, 0.5)}
    for step in (0.25, 0.125):
        middle = min(found, key=found.__getitem__)
        found |= {e: error(e) for e in (middle - step, middle + step)}
    return min(found.values())


def errors(name: str, seed: int, count: int) -> Row:
    x = (np.arange(count) + 0.5) / count
    truth = target(name, seed, x)
    y = truth + NOISE * np.random.default_rng([seed, count, TARGETS.index(name)]).standard_normal(count)
    sparse = BV2RegressorCV(criterion="sure").fit(x, y)
    return {
        "target": name,
        "seed": seed,
        "samples": count,
        ORACLE: best_spline(x, y, truth),
        GCV: float(np.mean((SmoothingSplineRegressor().fit(x, y).predict(x) - truth) ** 2)),
        BV2: float(np.mean((sparse.predict(x) - truth) ** 2)),
        "knots": int(sparse.n_knots_),
    }


def summarise(rows: list[Row], name: str) -> Row:
    """Slopes, the error of the oracle spline over that of BV2 at the largest N, and knots."""
    sizes, seeds = sorted({row["samples"] for row in rows}), sorted({row["seed"] for row in rows})
    cell = {(row["seed"], row["samples"]): row for row in rows if row["target"] == name}
    found = {method: np.array([[cell[s, n][method] for n in sizes] for s in seeds]) for method in METHODS}
    knots = np.array([[cell[s, n]["knots"] for n in sizes] for s in seeds])
    return {
        "target": name,
        "slope": {method: slope(sizes, found[method]) for method in METHODS},
        # Seed by seed, on the same draws.
        "slope_of_spline_over_bv2": slope(sizes, found[ORACLE] / found[BV2]),
        "spline_over_bv2": [interval(column) for column in (found[ORACLE] / found[BV2]).T],
        "errors": {method: [interval(column) for column in found[method].T] for method in METHODS},
        "knots": [interval(column) for column in knots.T],
    }


def run(scale: Scale) -> Row:
    sizes = [2**k for k in scale.pick(range(7, 10), range(10, 17), range(10, 19))]
    seeds = scale.pick(2, 10, 20)
    lines = [linearity(seed, n) for seed in range(scale.pick(2, 10)) for n in (10, 40, 120)]
    rows = [errors(name, seed, n) for name in TARGETS for seed in range(seeds) for n in sizes]
    table = [summarise(rows, name) for name in TARGETS]
    additive, kernel = (max(row[key] for row in lines) for key in ("spline_not_additive", "kernel_distance"))
    bent = min(row["bv2_not_additive"] for row in lines)
    right, said = [additive < 1e-9, kernel < 1e-6, bent > 1e-3], []
    for row in table:
        name, ours, theirs = row["target"], row["slope"][BV2], row["slope"][ORACLE]
        ratio, share = row["spline_over_bv2"][-1], row["knots"][-1][0] / sizes[-1]
        knots = row["knots"][-1][0]
        right.append(abs(theirs[0] - SPLINE_SLOPE[name]) < WITHIN)
        if name == TARGETS[0]:
            right.append(abs(ours[0] + 4 / 5) < WITHIN)
        else:
            steeper = row["slope_of_spline_over_bv2"][1] > 0.0
            right += [ours[0] < -4 / 5 + WITHIN, steeper, ratio[1] > GAIN, share < FEW]
        said.append(
            f"{name}: spline {theirs[0]:.3f} [{theirs[1]:.3f}, {theirs[2]:.3f}], BV2 {ours[0]:.3f} [{ours[1]:.3f}, "
            f"{ours[2]:.3f}], spline / BV2 {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}], {knots:.0f} knots"
        )
    return {
        "verdict": {
            "holds": bool(all(right)),
            "predicted": "the spline is additive to 1e-9 and the kernel solution to 1e-6, BV2 is not additive; slopes "
            "(to 0.05) -0.80 for both on H2, on kinks -0.75 for the spline with its best lam and -0.80 or steeper for "
            "BV2; there the spline errs 1.3 times as much or more, and BV2 has knots at less than 2 % of the samples",
            "measured": f"spline additive to {additive:.0e}, kernel solution to {kernel:.0e}, BV2 off by {bent:.1e} or "
            f"more; slopes and, at N = {sizes[-1]}, ratio and knots: " + "; ".join(said),
        },
        "noise": NOISE,
        "sizes": sizes,
        "seeds": seeds,
        "predicted_slope_of_the_spline": SPLINE_SLOPE,
        "summary": table,
        "linearity": lines,
        "rows": rows,
    }


def draw(payload: Row, path: Path) -> None:
    figure = new_figure(14.0, 7.6)
    panels = figure.subplots(2, 3, sharex="row", height_ratios=[1, 1.5])
    fine, sizes = np.linspace(0, 1, 2_000), np.array(payload["sizes"], dtype=float)
    for column, row in enumerate(payload["summary"]):
        above, below = panels[:, column]
        name = row["target"]
        above.plot(fine, target(name, 0, fine), color=INK, linewidth=1.2)
        above.set_title(name, color=INK, fontsize=11, loc="left")
        above.set(xlabel="x", ylabel="target of the first seed" if column == 0 else None)
        for place, method in enumerate(METHODS):
            mean, low, high = np.array(row["errors"][method]).T
            label = f"{method}: slope {row['slope'][method][0]:.2f}".replace("-", "\N{MINUS SIGN}")
            style = {"color": PALETTE[place], "marker": MARKERS[place], "markersize": 5, "capsize": 2, "linewidth": 1.4}
            below.errorbar(sizes, mean, [mean - np.maximum(low, 0.2 * mean), high - mean], label=label, **style)
        start = row["errors"][ORACLE][0][0]
        for power, dash, text in ((-0.75, (0, (4, 2)), "-3/4"), (-0.8, (0, (1, 1.5)), "-4/5")):
            guide = 1.8 * start * (sizes / sizes[0]) ** power
            below.plot(sizes, guide, color=INK, linestyle=dash, linewidth=1.1, label=f"rate of the theory, {text}")
        below.set(xscale="log", yscale="log", xlabel="samples N", ylabel="mean squared error" if column == 0 else None)
        for panel in (above, below):
            dress(panel)
        below.legend(fontsize=8.5, frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
