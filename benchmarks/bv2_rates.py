"""Four functions of Donoho and Johnstone (1994): mean squared error against N, ours beside linear and wavelet methods.

Each function is scaled to standard deviation 7 and sampled on the regular grid ``(i - 1/2) / N`` with noise of
standard deviation 1, because wavelets need that grid; every method then chooses its own smoothing from the data alone.
Slopes of log error against log N are fitted for each seed; their mean has a 95 % t interval over seeds. The theory's
rates are for the worst function of a ball in BV2: N^(-4/5) for the BV2 estimator and N^(-3/4) for the best linear
one. Doppler and Bumps lie in BV2; Blocks and HeaviSine jump and do not, so for them no rate is promised.
Run with ``python -m benchmarks.bv2_rates``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._harness import RESULTS, ROOT, environment, print_table, write_json

FIGURE = ROOT / "docs" / "images" / "bv2_rates.png"
SIZES = tuple(2**power for power in range(8, 17))
FIRST_IN_SLOPE = 2**10
LARGEST_KERNEL_RIDGE, KERNEL_RIDGE_SEEDS = 2**10, 3
TV_GRID = 50
SIGNAL_DEVIATION = 7.0
RATES = {"BV2 (theory)": -4 / 5, "best linear method over BV2 (theory)": -3 / 4}
IN_BV2 = {"Doppler": True, "Bumps": True, "Blocks": False, "HeaviSine": False}
Row = dict[str, Any]
# Values at the sites, and the number of knots, pieces or coefficients where the method has such.
Fit = tuple[np.ndarray, int | None]


# ---------------------------------------------------------------------------- functions
CENTRES = np.array([0.1, 0.13, 0.15, 0.23, 0.25, 0.40, 0.44, 0.65, 0.76, 0.78, 0.81])
STEPS = np.array([4, -5, 3, -4, 5, -4.2, 2.1, 4.3, -3.1, 2.1, -4.2])
HEIGHTS = np.array([4, 5, 3, 4, 5, 4.2, 2.1, 4.3, 3.1, 5.1, 4.2])
WIDTHS = np.array([0.005, 0.005, 0.006, 0.01, 0.01, 0.03, 0.01, 0.01, 0.005, 0.008, 0.005])


def doppler(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x * (1 - x)) * np.sin(2.1 * np.pi / (x + 0.05))


def bumps(x: np.ndarray) -> np.ndarray:
    return sum(h * (1 + np.abs((x - c) / w)) ** -4.0 for h, c, w in zip(HEIGHTS, CENTRES, WIDTHS, strict=True))


def blocks(x: np.ndarray) -> np.ndarray:
    return sum(h * (1 + np.sign(x - c)) / 2 for h, c in zip(STEPS, CENTRES, strict=True))


def heavisine(x: np.ndarray) -> np.ndarray:
    return 4 * np.sin(4 * np.pi * x) - np.sign(x - 0.3) - np.sign(0.72 - x)


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Doppler": doppler,
    "Bumps": bumps,
    "Blocks": blocks,
    "HeaviSine": heavisine,
}


def truth(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sites and values, scaled by a factor that does not depend on N."""
    fine = FUNCTIONS[name]((np.arange(2**16) + 0.5) / 2**16)
    x = (np.arange(n) + 0.5) / n
    return x, FUNCTIONS[name](x) * SIGNAL_DEVIATION / fine.std()


def slope_variation(name: str, n: int) -> float:
    """TV of the slopes of the interpolation on a grid: converges as n grows if and only if the function is in BV2."""
    x, f = truth(name, n)
    return float(np.abs(np.diff(np.diff(f) / np.diff(x))).sum())


# ---------------------------------------------------------------------------- methods
def deviation(differences: np.ndarray) -> float:
    """Noise level from numbers most of which are noise of unit gain: median of absolute values."""
    return float(np.median(np.abs(differences))) / 0.6744897501960817


def ours(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """BV2 with SURE."""
    from pathnorm import BV2RegressorCV

    model = BV2RegressorCV(criterion="sure").fit(x, y)
    return model.predict(x), int(model.n_knots_)


def smoothing_spline(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """Cubic smoothing spline with generalised cross-validation."""
    from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor

    return SmoothingSplineRegressor().fit(x, y).predict(x), None


def kernel_ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """Gaussian kernel ridge regression of scikit-learn, width and penalty by 5-fold cross-validation."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV, KFold

    grid = {"gamma": np.logspace(1, 6, 6), "alpha": np.logspace(-3, 1, 5)}
    folds = KFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(KernelRidge(kernel="rbf"), grid, scoring="neg_mean_squared_error", cv=folds)
    level = y.mean()
    return level + search.fit(x[:, None], y - level).predict(x[:, None]), None


def _wavelet(y: np.ndarray, threshold: Callable[[np.ndarray, float], float]) -> Fit:
    import pywt

    # The default number of levels, and Symmlet 8 as in the paper that has these functions.
    coarse, *details = pywt.wavedec(y, "sym8")
    noise = deviation(details[-1])
    kept = [pywt.threshold(detail, threshold(detail, noise), mode="soft") for detail in details]
    count = len(coarse) + sum(int(np.count_nonzero(detail)) for detail in kept)
    return pywt.waverec([coarse, *kept], "sym8")[: len(y)], count


def wavelet_universal(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """Soft thresholding at ``noise sqrt(2 log N)``: VisuShrink."""
    return _wavelet(y, lambda detail, noise: noise * np.sqrt(2 * np.log(len(y))))


def wavelet_bayes(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """Soft thresholding at ``noise^2 / deviation of the signal`` in each level: BayesShrink."""

    def threshold(detail: np.ndarray, noise: float) -> float:
        signal = float(np.mean(detail**2)) - noise**2
        return noise**2 / np.sqrt(signal) if signal > 0 else float(np.abs(detail).max())

    return _wavelet(y, threshold)


def total_variation(x: np.ndarray, y: np.ndarray, seed: int) -> Fit:
    """ROF: ``1/2 sum (y - f)^2 + lam TV(f)`` exactly by Condat's code, lam by SURE, whose df are the pieces."""
    from TVDCondat2013 import tvd_2017

    noise = deviation(np.diff(y)) / np.sqrt(2)
    top = float(np.abs(np.cumsum(y - y.mean())).max())
    best: tuple[float, Fit] | None = None
    for lam in top * np.logspace(0, -6, TV_GRID):
        values = np.asarray(tvd_2017(y, lam))
        pieces = 1 + int(np.count_nonzero(np.abs(np.diff(values)) > 1e-10 * SIGNAL_DEVIATION))
        risk = float(((y - values) ** 2).sum()) + 2 * noise**2 * pieces
        if best is None or risk < best[0]:
            best = risk, (values, pieces)
    assert best is not None
    return best[1]


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Fit]] = {
    "BV2, SURE": ours,
    "smoothing spline, GCV": smoothing_spline,
    "kernel ridge, CV": kernel_ridge,
    "wavelets, BayesShrink": wavelet_bayes,
    "wavelets, universal": wavelet_universal,
    "total variation, SURE": total_variation,
}


# ---------------------------------------------------------------------------- measuring
def measure(function: str, n: int, seed: int, methods: list[str]) -> list[Row]:
    """Mean squared error of every method on one draw."""
    x, f = truth(function, n)
    rng = np.random.default_rng([seed, n, list(FUNCTIONS).index(function)])
    y = f + rng.standard_normal(n)
    rows = []
    for method in methods:
        if method.startswith("kernel") and (n > LARGEST_KERNEL_RIDGE or seed >= KERNEL_RIDGE_SEEDS):
            continue
        started = time.perf_counter()
        values, count = METHODS[method](x, y, seed)
        seconds = time.perf_counter() - started
        row = {"function": function, "n": n, "seed": seed, "method": method, "mse": float(np.mean((values - f) ** 2))}
        rows.append(row | {"count": count, "seconds": round(seconds, 4)})
    return rows


def interval(values: np.ndarray) -> list[float]:
    """95 % t interval of a mean."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / np.sqrt(len(values))
    return [float(values.mean()) - half, float(values.mean()) + half]


def summarise(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Means over seeds for every function, size and method; and slopes."""
    means, slopes = [], []
    for function, method in dict.fromkeys((row["function"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["function"], row["method"]) == (function, method)]
        sizes = sorted({row["n"] for row in mine})
        for n in sizes:
            cell = [row for row in mine if row["n"] == n]
            counts = [row["count"] for row in cell if row["count"] is not None]
            means.append(
                {
                    "function": function,
                    "method": method,
                    "n": n,
                    "seeds": len(cell),
                    "mse": float(np.mean([row["mse"] for row in cell])),
                    "mse_interval": interval(np.array([row["mse"] for row in cell])),
                    "count": float(np.mean(counts)) if counts else None,
                    "seconds": float(np.median([row["seconds"] for row in cell])),
                }
            )
        used = [n for n in sizes if n >= FIRST_IN_SLOPE]
        if len(used) >= 4:
            found = []
            for seed in sorted({row["seed"] for row in mine}):
                errors = {row["n"]: row["mse"] for row in mine if row["seed"] == seed}
                found.append(np.polyfit(np.log(used), np.log([errors[n] for n in used]), 1)[0])
            slope = {"function": function, "method": method, "slope": float(np.mean(found))}
            slopes.append(slope | {"interval": interval(np.array(found)), "from_n": used[0], "to_n": used[-1]})
    return means, slopes


# ---------------------------------------------------------------------------- figure
# Okabe and Ito's colours: told apart by colour-blind readers.
STYLE = {
    "BV2, SURE": ("#0072B2", "o", 2.4),
    "smoothing spline, GCV": ("#D55E00", "s", 1.6),
    "kernel ridge, CV": ("#CC79A7", "v", 1.6),
    "wavelets, BayesShrink": ("#009E73", "^", 1.6),
    "wavelets, universal": ("#56B4E9", "<", 1.6),
    "total variation, SURE": ("#E69F00", "D", 1.6),
}
INK, GRID = "#20242c", "#d9dde5"


def draw(means: list[Row], slopes: list[Row], path: Path) -> None:
    """One panel per function: error against N on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 8.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, function in zip(panels, FUNCTIONS, strict=True):
        _draw_panel(panel, function, means, slopes)
    for panel in panels[2:]:
        panel.set_xlabel("number of samples N", color=INK)
    for panel in panels[::2]:
        panel.set_ylabel("mean squared error (noise variance 1)", color=INK)
    handles = {line.get_gid(): line for panel in panels for line in panel.lines if line.get_gid()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9.5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def _draw_panel(panel: Any, function: str, means: list[Row], slopes: list[Row]) -> None:
    for method, (colour, marker, width) in STYLE.items():
        cells = [row for row in means if (row["function"], row["method"]) == (function, method)]
        if not cells:
            continue
        fitted = [s["slope"] for s in slopes if (s["function"], s["method"]) == (function, method)]
        label = f"{fitted[0]:.2f}".replace("-", "\N{MINUS SIGN}") if fitted else "_"
        n, error = np.array([(row["n"], row["mse"]) for row in cells]).T
        line = panel.loglog(n, error, color=colour, marker=marker, markersize=4.5, linewidth=width, label=label)
        line[0].set_gid(method)
    sizes = np.array([size for size in SIZES if size >= FIRST_IN_SLOPE])
    start = 0.45 * min(row["mse"] for row in means if (row["function"], row["n"]) == (function, FIRST_IN_SLOPE))
    for power, dash, text in ((-0.8, (0, (1, 1.5)), "$N^{-4/5}$"), (-0.75, (0, (5, 2)), "$N^{-3/4}$")):
        guide = start * (sizes / sizes[0]) ** power
        line = panel.loglog(sizes, guide, color="#6b7280", linestyle=dash, linewidth=1.3, label="_")
        line[0].set_gid(f"{text}: rate of the theory, as a guide")
    where = "in BV²" if IN_BV2[function] else "jumps: not in BV²"
    panel.set_title(f"{function}   ({where})", color=INK, fontsize=11.5, loc="left")
    panel.grid(True, which="major", color=GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(colors=INK, labelsize=9)
    legend = panel.legend(title="slope", fontsize=8.2, frameon=False, loc="lower left", handlelength=2.0)
    legend.get_title().set_fontsize(8.2)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


# ---------------------------------------------------------------------------- driver
def show(means: list[Row], slopes: list[Row]) -> None:
    """Print errors at the largest size of each method, and slopes."""
    for function in FUNCTIONS:
        print(f"\n{function}" + ("" if IN_BV2[function] else " (not in BV2)"))
        table = []
        for method in METHODS:
            cells = [row for row in means if (row["function"], row["method"]) == (function, method)]
            fitted = [s for s in slopes if (s["function"], s["method"]) == (function, method)]
            if not cells:
                continue
            errors = {row["n"]: f"{row['mse']:.4f}" for row in cells}
            last = cells[-1]
            slope = "".join(f"{s['slope']:.3f} [{s['interval'][0]:.3f}, {s['interval'][1]:.3f}]" for s in fitted)
            row = [method, errors.get(2**10, ""), errors.get(2**13, ""), errors.get(2**16, "")]
            table.append([*row, slope, f"{last['count'] or 0:.0f}", f"{last['seconds']:.3f}"])
        print_table(["method", "2^10", "2^13", "2^16", "slope", "count", "seconds"], table)


def main() -> None:
    """Measure, print, draw, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    rows = []
    for n in arguments.sizes:
        for function in FUNCTIONS:
            for seed in range(arguments.seeds):
                rows += measure(function, n, seed, arguments.methods)
        print(f"N = {n} done", flush=True)
    means, slopes = summarise(rows)
    payload = {
        "command": "python -m benchmarks.bv2_rates",
        "config": {
            "seeds": arguments.seeds,
            "sizes": arguments.sizes,
            "kernel_ridge": {"largest_n": LARGEST_KERNEL_RIDGE, "seeds": KERNEL_RIDGE_SEEDS},
            "design": "regular grid (i - 1/2) / N, noise of standard deviation 1, functions of standard deviation 7",
            "slope": f"least squares of log error on log N, N >= {FIRST_IN_SLOPE}, mean and t interval over seeds",
        },
        "theory": RATES,
        "in_bv2": IN_BV2,
        "slope_variation": {
            name: {str(n): round(slope_variation(name, n), 1) for n in (2**12, 2**15, 2**18)} for name in FUNCTIONS
        },
        "environment": environment(
            ["numpy", "scipy", "numba", "scikit-learn", "PyWavelets", "TVDCondat2013"], threads=1
        ),
        "means": means,
        "slopes": slopes,
        "rows": rows,
    }
    print(write_json("bv2_rates", payload, folder=arguments.out).name)
    show(means, slopes)
    draw(means, slopes, arguments.figure)


if __name__ == "__main__":
    main()
