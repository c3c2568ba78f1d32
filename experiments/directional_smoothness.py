"""A target that varies along one direction only: kernels pay for every dimension, R-BV² pays for the direction.

Claim: for targets ``g(u'x)`` at a fixed number of samples the error of the shallow ReLU network, which is free to turn
its neurons, does not grow with the dimension d as that of linear methods does: Gaussian kernel ridge regression, the
thin-plate spline, the tangent kernel of an infinitely wide ReLU network. These place their smoothness equally in all
directions and need samples in all of them. Inputs are standard normal, so ``u'x`` has one distribution whatever d is,
and a fit of BV2 to ``(u'x, y)``, which knows u, is the same problem for every d: the floor.

Every method chooses its parameters from the data: ours by cross-validation, kernel ridge by a grid with five folds, the
two others by generalised cross-validation. The error is the root mean squared one on 2,000 test points without noise,
over the standard deviation of the target.

    python -m experiments.directional_smoothness [--full]

The committed result is that of ``--full``: hours; without it fewer samples, draws and dimensions.
"""

from __future__ import annotations

import itertools
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._isolated import isolated, one_thread, stopwatch
from experiments._claim import Row, Scale, main

NAME = "directional_smoothness"
N_SAMPLES, N_TEST, NOISE = 500, 2_000, 0.1
DIMENSIONS = (2, 5, 10, 20, 50)
OURS, KERNEL, PLATE, NTK, FLOOR = "pathnorm", "kernel ridge", "thin plate", "NTK", "u known: BV²"
METHODS = (FLOOR, OURS, KERNEL, PLATE, NTK)


def kink(t: np.ndarray) -> np.ndarray:
    return np.abs(t)


def wave(t: np.ndarray) -> np.ndarray:
    return np.sin(2.0 * t) + np.abs(t - 0.5)


TARGETS = {"kink": kink, "wave": wave}
TITLES = {"kink": "g(t) = |t|", "wave": "g(t) = sin 2t + |t - 1/2|"}


# ---------------------------------------------------------------------------- data
def spread(target: str) -> float:
    """Standard deviation of the target under the normal distribution."""
    t = np.linspace(-8.0, 8.0, 160_001)
    weight = np.exp(-0.5 * t**2)
    weight /= weight.sum()
    values = TARGETS[target](t)
    return float(np.sqrt(weight @ (values - weight @ values) ** 2))


def draw_samples(target: str, d: int, seed: int, n: int) -> tuple[np.ndarray, ...]:
    """Samples, test points with their values without noise, and u."""
    rng = np.random.default_rng([seed, d])
    u = rng.standard_normal(d)
    u /= np.linalg.norm(u)
    X, Z = rng.standard_normal((n, d)), rng.standard_normal((N_TEST, d))
    g = TARGETS[target]
    y = g(X @ u) + NOISE * spread(target) * rng.standard_normal(n)
    return X, y, Z, g(Z @ u), u


# ---------------------------------------------------------------------------- methods
def fit_ours(X: np.ndarray, y: np.ndarray, seed: int) -> Any:
    from pathnorm import ReLURegressorCV

    return ReLURegressorCV(certify="search", random_state=seed).fit(X, y)


def fit_kernel(X: np.ndarray, y: np.ndarray, seed: int) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.preprocessing import StandardScaler

    # The grid reaches from a hundredth of 1/d to ten times that, wide enough for the best to lie inside.
    grid = {"gamma": np.logspace(-2, 1, 10) / X.shape[1], "alpha": np.logspace(-5, 1, 13)}
    search = GridSearchCV(
        KernelRidge(kernel="rbf"),
        grid,
        cv=KFold(5, shuffle=True, random_state=seed),
        scoring="neg_mean_squared_error",
    )
    return TransformedTargetRegressor(search, transformer=StandardScaler()).fit(X, y)


def fit_plate(X: np.ndarray, y: np.ndarray, seed: int) -> Any:
    from pathnorm import ThinPlateRegressor

    return ThinPlateRegressor(random_state=seed).fit(X, y)


def fit_ntk(X: np.ndarray, y: np.ndarray, seed: int) -> Any:
    from pathnorm import NTKRegressor

    return NTKRegressor(random_state=seed).fit(X, y)


FITS = {OURS: fit_ours, KERNEL: fit_kernel, PLATE: fit_plate, NTK: fit_ntk}


def preload() -> None:
    """Import what the methods need and load compiled code, once for all processes that are forked from here."""
    X, y, *_ = draw_samples("kink", 2, 0, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in (OURS, PLATE, NTK):
            FITS[method](X, y, 0)
        import sklearn.compose
        import sklearn.kernel_ridge
        import sklearn.model_selection  # noqa: F401

        from pathnorm import BV2RegressorCV

        BV2RegressorCV(criterion="cv").fit(X[:, 0], y)


def angles(model: Any, u: np.ndarray) -> Row:
    """Degrees between u and the heaviest neuron, and between u and the first principal direction of all."""
    net = model.network_
    norms, masses = np.linalg.norm(net.W, axis=1), np.linalg.norm(net.V, axis=1)
    masses = masses * norms
    if not masses.any():
        return {"neurons": 0}
    W = net.W[masses > 0.0] / norms[masses > 0.0, None]
    masses = masses[masses > 0.0]
    _, values, vectors = np.linalg.svd(np.sqrt(masses)[:, None] * W, full_matrices=False)
    heaviest = W[masses.argmax()]

    def degrees(w: np.ndarray) -> float:
        return float(np.degrees(np.arccos(min(1.0, abs(float(w @ u))))))

    return {
        "neurons": int(net.n_neurons),
        "angle": degrees(heaviest),
        "angle_principal": degrees(vectors[0]),
        "mass_within_10_degrees": float(masses[np.abs(W @ u) > np.cos(np.radians(10.0))].sum() / masses.sum()),
        "spectrum_share": float(values[0] ** 2 / (values**2).sum()),
    }


def measure(target: str, d: int, seed: int, method: str, n: int) -> Row:
    """One fit and its error over the spread of the target."""
    X, y, Z, truth, u = draw_samples(target, d, seed, n)
    clock = stopwatch()
    if method == FLOOR:
        from pathnorm import BV2RegressorCV

        model = BV2RegressorCV(criterion="cv").fit(X @ u, y)
        values = model.predict(Z @ u)
    else:
        model = FITS[method](X, y, seed)
        values = model.predict(Z)
    row: Row = {**clock(), "error": float(np.sqrt(np.mean((values - truth) ** 2))) / spread(target)}
    if method == OURS:
        row |= {"status": model.solution_.status.name, "lam_over_lam_max": model.lam_ / model.lam_max_}
        row |= {"sentence": model.certificate_.sentence, **angles(model, u)}
    return row


# ---------------------------------------------------------------------------- summary
def summarise(rows: list[Row]) -> list[Row]:
    """Geometric mean of the errors over seeds, smallest and largest."""
    summary = []
    for target, d, method in dict.fromkeys((row["target"], row["d"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["target"], row["d"], row["method"]) == (target, d, method)]
        good = [row for row in mine if "error" in row]
        cell: Row = {"target": target, "d": d, "method": method, "seeds": len(good)}
        if len(good) < len(mine):
            cell["failure"] = next(row["failure"] for row in mine if "failure" in row)
        if good:
            errors = np.array([row["error"] for row in good])
            cell |= {"error": float(np.exp(np.log(errors).mean())), "min": float(errors.min())}
            cell |= {"max": float(errors.max()), "seconds": float(np.mean([row["seconds"] for row in good]))}
        for name in ("angle", "angle_principal", "mass_within_10_degrees", "neurons"):
            values = [row[name] for row in good if name in row]
            if values:
                cell[name] = float(np.median(values))
        summary.append(cell)
    return summary


def verdict(summary: list[Row]) -> Row:
    """What was predicted, what was measured, and whether the second is the first."""
    error = {(cell["target"], cell["d"], cell["method"]): cell["error"] for cell in summary if "error" in cell}
    dimensions = sorted({d for _, d, _ in error})
    low, high = (dimensions[0], dimensions[-1]) if dimensions else (0, 0)
    parts, holds = [], True
    for target in TARGETS:
        growth = {
            method: error[target, high, method] / error[target, low, method]
            for method in METHODS
            if {(target, high, method), (target, low, method)} <= error.keys()
        }
        others = [method for method in (KERNEL, PLATE, NTK) if method in growth]
        holds &= OURS in growth and bool(others) and growth[OURS] < 2.0
        holds &= all(growth[method] > 3.0 for method in others)
        ours = error.get((target, high, OURS), np.inf)
        holds &= all(ours < error[target, high, method] for method in others)
        parts.append(f"{target}: " + ", ".join(f"{method} {ratio:.1f}x" for method, ratio in growth.items()))
    predicted = (
        f"from d = {low} to d = {high} our error grows less than twofold, that of every linear method more than "
        "threefold, and ours is the smallest at the end"
    )
    return {"holds": bool(holds), "predicted": predicted, "measured": "; ".join(parts)}


# ---------------------------------------------------------------------------- figure
# Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = {OURS: "#0072B2", KERNEL: "#D55E00", PLATE: "#CC79A7", NTK: "#E69F00", FLOOR: "#20242c"}
MARKERS = {OURS: "o", KERNEL: "s", PLATE: "^", NTK: "D", FLOOR: ""}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
INK, GRID = "#20242c", "#e3e6ec"


def draw(payload: Row, path: Path) -> None:
    """Error against d for both targets, and the angle between u and what ours found."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summary, n = payload["summary"], payload["n_samples"]
    figure = Figure(figsize=(11.5, 6.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(TARGETS), sharex=True, sharey="row", height_ratios=[2.4, 1])
    for column, target in enumerate(TARGETS):
        cells = [cell for cell in summary if cell["target"] == target and "error" in cell]
        _draw_errors(panels[0, column], cells, target)
        _draw_angles(panels[1, column], [cell for cell in cells if "angle" in cell])
    panels[0, 0].set_ylabel("RMSE over the sd of the target", color=INK, fontsize=10)
    panels[1, 0].set_ylabel("angle to u (degrees)", color=INK, fontsize=10)
    panels[1, 0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8.5, frameon=False, ncols=2)
    panels[0, 0].legend(loc="upper left", fontsize=9, frameon=False)
    figure.suptitle(
        f"One direction among d: N = {n}, noise {NOISE:g} sd (geometric mean over draws, range shaded)",
        color=INK,
        fontsize=11.5,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def _draw_errors(panel: Any, cells: list[Row], target: str) -> None:
    for method in METHODS:
        mine = sorted((cell for cell in cells if cell["method"] == method), key=lambda cell: cell["d"])
        if not mine:
            continue
        d = [cell["d"] for cell in mine]
        colour = COLOURS[method]
        style = {"linestyle": (0, (4, 2)), "linewidth": 1.3} if method == FLOOR else {"linewidth": 2.0}
        panel.fill_between(d, [c["min"] for c in mine], [c["max"] for c in mine], color=colour, alpha=0.12, linewidth=0)
        panel.plot(
            d, [c["error"] for c in mine], color=colour, marker=MARKERS[method], markersize=6, label=method, **style
        )
    panel.set(xscale="log", yscale="log")
    panel.set_yticks(TICKS, [f"{value:g}" for value in TICKS])
    panel.minorticks_off()
    panel.set_title(TITLES[target], color=INK, fontsize=11, loc="left")
    panel.grid(True, axis="y", which="both", color=GRID, linewidth=0.6)
    _tidy(panel)


def _draw_angles(panel: Any, cells: list[Row]) -> None:
    cells = sorted(cells, key=lambda cell: cell["d"])
    d = [cell["d"] for cell in cells]
    for name, label, line in (("angle", "heaviest neuron", "-"), ("angle_principal", "principal direction", ":")):
        panel.plot(
            d,
            [cell[name] for cell in cells],
            color=COLOURS[OURS],
            linestyle=line,
            marker="o",
            markersize=5,
            label=f"pathnorm, {label}",
        )
    panel.set(xscale="log")
    panel.set_xticks(DIMENSIONS, [str(value) for value in DIMENSIONS])
    panel.minorticks_off()
    panel.set_xlabel("dimension d", color=INK, fontsize=10)
    panel.grid(True, axis="y", color=GRID, linewidth=0.6)
    _tidy(panel)


def _tidy(panel: Any) -> None:
    panel.set_axisbelow(True)
    panel.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


# ---------------------------------------------------------------------------- driver
def run(scale: Scale) -> Row:
    """Fit every method to every draw, each in a process of its own."""
    one_thread()
    dimensions, seeds, samples = scale.pick(((2, 5), 1, 60), ((2, 5, 20), 2, 200), (DIMENSIONS, 5, N_SAMPLES))
    limit = scale.pick(60.0, 120.0, 900.0)
    preload()
    rows = []
    for target, d, seed, method in itertools.product(TARGETS, dimensions, range(seeds), METHODS):
        row = {"target": target, "d": d, "seed": seed, "method": method}
        row |= isolated(partial(measure, target, d, seed, method, samples), seconds=limit)
        rows.append(row)
        _say(row)
    summary = summarise(rows)
    return {
        "n_samples": samples,
        "noise_over_sd": NOISE,
        "seeds": seeds,
        "limit_seconds": limit,
        "x": "standard normal in d dimensions, u uniform on the sphere",
        "verdict": verdict(summary),
        "summary": summary,
        "rows": rows,
    }


def _say(row: Row) -> None:
    head = f"{row['target']:5} d = {row['d']:<3} seed {row['seed']}  {row['method']:13}"
    if "failure" in row:
        print(head, row["failure"], flush=True)
        return
    angle = f"  {row['neurons']} neurons, {row['angle']:.2f} degrees" if "angle" in row else ""
    print(f"{head} {row['error']:.4f}  {row['seconds']:.2f} s{angle}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
