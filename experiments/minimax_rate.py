"""Shallow networks at the optimum of weight decay reach N^(-(d+3)/(2d+3)); linear methods cannot beat N^(-3/(d+3)).

Both are rates of the mean squared error for the worst function of unit norm in R-BV² of the ball (Parhi & Nowak 2023).
The class is represented by two kinds of functions: *few*, a single neuron, hard for linear methods; and *growing*, a
sum of about N^(d/(2d+3)) neurons of equal mass and random sign, as many as balance approximation and noise, which is
what the worst function at N samples looks like for networks. The error of the class is the larger one of the two
means.

Ours is ``ReLURegressor``, for d = 1 ``BV2Regressor``, with lam = c N^(d/(2d+3)) as the theory scales it (losses are
sums); c is chosen once for every d at the smallest N by cross-validation on draws that are not used again. L-BFGS on a
wide network with weight decay minimises the same objective with the same lam, in two dimensions and for fewer draws.
The linear methods: kernel ridge, its two parameters chosen with the truth in hand, hence no worse than any rule; the
thin-plate spline and the NTK by generalised cross-validation. Inputs uniform in the ball, normal noise.

Predicted, before the run: (a) for every d our mean slope is at most -(d+3)/(2d+3) + 0.1; (b) for d <= 2 no linear
method has a mean slope below -3/(d+3) - 0.1; (c) ours falls faster than every linear method for d >= 2, beyond the 95 %
interval of the difference; (d) L-BFGS reaches our objective to within 5 %. In d = 1 theory says -4/5 and -3/4, which no
experiment of this size tells apart.

Three things were changed after a pilot with one seed, so that (a) and (b) were not blind to these data. The noise was
raised from 0.02 to 0.05: with the lower one the error of linear methods at N = 50 is that of interpolation, N^(-3/d),
steeper than any rate with noise even for d = 2. (b) is asked for d <= 2 only: in d = 5 and 10 it is out of reach,
since a linear method first learns the quadratic part of the truth, (d+1)(d+2)/2 numbers, 66 in d = 10, and while it
does its error falls like a parametric one; the slopes are in the results. And (a) and (b) are judged by the mean slope,
not by an end of its interval, which is wide with a few seeds. Likewise ours in d = 10 has not left the parametric range
for certain: a slope at least as steep as the rate is no proof of the rate. (d) was added after one draw of each size
had shown 0.2 %.

With four draws (b) and (c) fail in d = 2: thin plates have -0.74 where -0.70 was the limit, and the intervals of the
differences reach 0.2 to 0.4 to either side, where theory has a difference of 0.11. That contradicts neither theorem,
for linear methods still gain from samples at these N and two kinds of functions need not be the worst; it does not
support them either.

    python -m experiments.minimax_rate [--full]
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from experiments._claim import Row, Scale, interval, main, slope
from experiments._rbv_functions import ball, random_net
from pathnorm import ShallowNet

NAME = "minimax_rate"
Array = NDArray[np.float64]
NOISE = 0.05  # the part of a single neuron that is not affine has a standard deviation of 0.1 (d = 1: 0.15)
TOLERANCE = 0.1
OPTIMUM = 0.05  # relative difference of objectives
OURS, DECAY = "pathnorm", "weight decay"
KERNEL, PLATE, NTK = "kernel ridge", "thin plate", "NTK"
LINEAR = (KERNEL, PLATE, NTK)
KINDS = ("few", "growing")
_TEST, _WIDTH, _STEPS = 2_000, 100, 1_000
_BOUND_UP_TO = 2  # dimension
_MOST, _MOST_NEURONS = 1_600, 64  # drawn, of which the first are used


def theory(d: int) -> float:
    """Exponent of N over R-BV²."""
    return -(d + 3.0) / (2.0 * d + 3.0)


def theory_linear(d: int) -> float:
    """Exponent of N for linear methods."""
    return -3.0 / (d + 3.0)


def neurons_at(kind: str, d: int, N: int) -> int:
    """Neurons of the truth."""
    return 1 if kind == "few" else max(2, round(1.5 * N ** (d / (2.0 * d + 3.0))))


def draw_data(kind: str, d: int, N: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Samples, and test points with the truth there; a larger N keeps the samples and the neurons of a smaller one."""
    rng = np.random.default_rng([seed, d, KINDS.index(kind)])
    pool, M = random_net(d, _MOST_NEURONS, rng), neurons_at(kind, d, N)
    net = ShallowNet(pool.W[:M], pool.b[:M], np.sign(pool.V[:M]) / M, pool.A, pool.c)
    Z, X, noise = ball(_TEST, d, rng), ball(_MOST, d, rng)[:N], NOISE * rng.standard_normal(_MOST)[:N]
    return X, net(X)[:, 0] + noise, Z, net(Z)[:, 0]


# ---------------------------------------------------------------------------- methods
def fit_ours(X: Array, y: Array, lam: float, *, seed: int = 0) -> tuple[ShallowNet, float]:
    """The network at lam, in the coordinates of the ball, and the relative gap of its certificate."""
    from pathnorm import BV2Regressor, ReLURegressor

    if X.shape[1] == 1:
        exact = BV2Regressor(lam=lam).fit(X, y)
        return exact.spline_.to_network(), float(exact.certificate_.gap)
    model = ReLURegressor(lam=lam, standardize=False, certify="search", tol=1e-2, random_state=seed).fit(X, y)
    return model.network_, float(model.certificate_.gap)


def constant_of(d: int, N: int, seeds: int) -> float:
    """c of ``lam = c N^(d/(2d+3))``: the geometric mean of what cross-validation takes at the smallest N."""
    from pathnorm import BV2RegressorCV, ReLURegressorCV

    found = []
    for seed in range(seeds):
        for kind in KINDS:
            X, y, _, _ = draw_data(kind, d, N, 10_000 + seed)
            if d == 1:
                lam = float(BV2RegressorCV(criterion="cv").fit(X[:, 0], y).lam_)
            else:
                model = ReLURegressorCV(standardize=False, certify="search", tol=1e-2, random_state=seed)
                lam = float(model.fit(X, y).lam_)
            found.append(lam)
    return float(np.exp(np.mean(np.log(found))) / N ** (d / (2.0 * d + 3.0)))


def fit_decay(X: Array, y: Array, lam: float, seed: int) -> ShallowNet:
    """L-BFGS on ``1/2 |y - f|^2 + lam/2 sum (|w|^2 + v^2)`` with a free affine part, full batch, many neurons."""
    rng, d, K = np.random.default_rng([seed, 11]), X.shape[1], _WIDTH
    W = rng.standard_normal((K, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    b = np.einsum("kd,kd->k", W, X[rng.integers(len(X), size=K)])
    affine = np.column_stack([X, np.ones(len(X))])
    coef = np.linalg.lstsq(affine, y, rcond=None)[0]

    def parts(p: Array) -> list[Array]:
        return np.split(p, [K * d, K * d + K, K * d + 2 * K])

    def value(p: Array) -> tuple[float, Array]:
        w, offset, v, rest = parts(p)
        hidden = np.maximum(X @ w.reshape(K, d).T - offset, 0.0)
        residual = hidden @ v + affine @ rest - y
        pulls = residual[:, None] * (hidden > 0.0) * v
        slopes = [(pulls.T @ X).ravel() + lam * w, -pulls.sum(axis=0), hidden.T @ residual + lam * v]
        height = 0.5 * float(residual @ residual) + 0.5 * lam * float(w @ w + v @ v)
        return height, np.concatenate([*slopes, affine.T @ residual])

    start = np.concatenate([0.1 * W.ravel(), 0.1 * b, 0.1 * rng.standard_normal(K), coef])
    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-8}
    w, offset, v, rest = parts(minimize(value, start, jac=True, method="L-BFGS-B", options=options).x)
    return ShallowNet(w.reshape(K, d), offset, v[:, None], rest[:d, None], rest[d:])


def kernel_ridge_error(X: Array, y: Array, Z: Array, truth: Array) -> float:
    """Smallest error of Gaussian kernel ridge around the least-squares affine fit over a grid of both parameters."""
    from sklearn.metrics.pairwise import rbf_kernel

    A, B = (np.column_stack([P, np.ones(len(P))]) for P in (X, Z))
    affine = np.linalg.lstsq(A, y, rcond=None)[0]
    rest, left = y - A @ affine, truth - B @ affine
    best = float(np.mean(left**2))
    for gamma in (0.25, 2.0, 16.0):
        values, vectors = np.linalg.eigh(rbf_kernel(X, gamma=gamma))
        across, turned = rbf_kernel(Z, X, gamma=gamma) @ vectors, vectors.T @ rest
        for alpha in np.logspace(-5, 1, 13):
            fit = across @ (turned / (np.maximum(values, 0.0) + alpha))
            best = min(best, float(np.mean((fit - left) ** 2)))
    return best


def measure(kind: str, d: int, N: int, seed: int, *, lam: float, decay: bool) -> list[Row]:
    """Mean squared errors of all methods on one draw."""
    from pathnorm import NTKRegressor, ThinPlateRegressor

    X, y, Z, truth = draw_data(kind, d, N, seed)
    net, gap = fit_ours(X, y, lam, seed=seed)
    rows: list[Row] = [{"method": OURS, "mse": float(np.mean((net(Z)[:, 0] - truth) ** 2)), "gap": gap}]
    rows[0] |= {"neurons": int(net.n_neurons), "path_norm": float(net.path_norm())}
    if decay:
        other = fit_decay(X, y, lam, seed)
        objectives = [float(0.5 * np.sum((y - each(X)[:, 0]) ** 2) + lam * each.path_norm()) for each in (other, net)]
        rows.append({"method": DECAY, "mse": float(np.mean((other(Z)[:, 0] - truth) ** 2))})
        rows[-1]["objective_over_ours"] = objectives[0] / objectives[1]
    for method, model in ((PLATE, ThinPlateRegressor(random_state=0)), (NTK, NTKRegressor(random_state=0))):
        rows.append({"method": method, "mse": float(np.mean((model.fit(X, y).predict(Z) - truth) ** 2))})
    rows.append({"method": KERNEL, "mse": kernel_ridge_error(X, y, Z, truth)})
    return [{"kind": kind, "d": d, "N": N, "seed": seed} | row for row in rows]


# ---------------------------------------------------------------------------- summary
def class_errors(rows: list[Row], d: int, method: str) -> tuple[list[int], Array, str]:
    """N, errors (seeds, N) of the kind of function on which the method is worst at the largest N, and that kind.

    One kind for all N: the larger one at every N would mix two curves and bend the slope.
    """
    mine = [row for row in rows if (row["d"], row["method"]) == (d, method)]
    sizes, seeds = sorted({row["N"] for row in mine}), sorted({row["seed"] for row in mine})
    tables = {kind: np.zeros((len(seeds), len(sizes))) for kind in KINDS}
    for row in mine:
        tables[row["kind"]][seeds.index(row["seed"]), sizes.index(row["N"])] = row["mse"]
    worst = max(KINDS, key=lambda kind: float(tables[kind][:, -1].mean()))
    return sizes, tables[worst], worst


def summarise(rows: list[Row]) -> list[Row]:
    """Slopes by dimension and method, and the difference between ours and each linear method."""
    cells = []
    for d in sorted({row["d"] for row in rows}):
        cell: Row = {"d": d, "theory": theory(d), "theory_linear": theory_linear(d), "methods": {}}
        ours = class_errors(rows, d, OURS)
        for method in dict.fromkeys(row["method"] for row in rows if row["d"] == d):
            sizes, table, kind = class_errors(rows, d, method)
            cell["methods"][method] = {
                "N": sizes,
                "worst_kind": kind,
                "mse": [interval(column.tolist()) for column in table.T],
                "slope": slope(sizes, table),
            }
            if method in LINEAR:
                cell["methods"][method]["ours_minus_this"] = slope(sizes, ours[1] / table)
        cells.append(cell)
    return cells


def verdict(cells: list[Row], ratios: list[float]) -> Row:
    """The four predictions; ``ratios`` are objectives of weight decay over ours."""
    ours, bound, faster, said = [], [], [], []
    for c in cells:
        methods = c["methods"]
        ours.append(methods[OURS]["slope"][0] <= c["theory"] + TOLERANCE)
        bound.append(
            c["d"] > _BOUND_UP_TO or all(methods[m]["slope"][0] >= c["theory_linear"] - TOLERANCE for m in LINEAR)
        )
        faster.append(c["d"] < 2 or all(methods[m]["ours_minus_this"][2] < 0.0 for m in LINEAR))
        listed = ", ".join(f"{m} {methods[m]['slope'][0]:.2f}" for m in methods if m != OURS)
        low, high = methods[OURS]["slope"][1:]
        said.append(
            f"d = {c['d']}: ours {methods[OURS]['slope'][0]:.2f} [{low:.2f}, {high:.2f}] (theory {c['theory']:.2f}), "
            f"{listed} (linear bound {c['theory_linear']:.2f})"
        )
    dimensions = [c["d"] for c in cells]
    trained = all(abs(ratio - 1.0) <= OPTIMUM for ratio in ratios)
    if ratios:
        said.append(f"weight decay over our objective {min(ratios):.4f} to {max(ratios):.4f} in {len(ratios)} fits")
    return {
        "holds": bool(all(ours) and all(bound) and all(faster) and trained),
        "rate_holds": bool(all(ours)),
        "linear_bound_holds": bool(all(bound)),
        "faster_than_linear_holds": bool(all(faster)),
        "weight_decay_reaches_the_optimum": bool(trained) if ratios else None,
        "rate_misses_in_d": [d for d, good in zip(dimensions, ours, strict=True) if not good],
        "linear_bound_misses_in_d": [d for d, good in zip(dimensions, bound, strict=True) if not good],
        "linear_bound_not_asked_in_d": [d for d in dimensions if d > _BOUND_UP_TO],
        "not_faster_in_d": [d for d, good in zip(dimensions, faster, strict=True) if not good],
        "predicted": f"our mean slope at most -(d+3)/(2d+3) + {TOLERANCE:g}; no linear method below -3/(d+3) - "
        f"{TOLERANCE:g} for d <= {_BOUND_UP_TO}; ours falls faster than all of them for d >= 2; weight decay reaches "
        f"our objective to within {OPTIMUM:.0%}",
        "measured": "; ".join(said),
    }


def run(scale: Scale) -> Row:
    """All methods on both kinds of functions."""
    from pathnorm.errors import CertificateWarning

    dimensions = scale.pick((1, 2), (1, 2, 5, 10))
    sizes = scale.pick((20, 40), (50, 100, 200, 400, 800), (50, 100, 200, 400, 800, 1600))
    seeds, decay_seeds = scale.pick(1, 4, 10), scale.pick(0, 2, 4)
    decay_dimensions = (2,)
    rows: list[Row] = []
    constants = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)  # the gap is in the row
        for d in dimensions:
            constants[d] = constant_of(d, sizes[0], scale.pick(1, 2, 5))
            for N in sizes:
                lam = constants[d] * N ** (d / (2.0 * d + 3.0))
                for seed in range(seeds):
                    decay = d in decay_dimensions and seed < decay_seeds
                    for kind in KINDS:
                        rows += measure(kind, d, N, seed, lam=lam, decay=decay)
                if scale is not Scale.QUICK:
                    print(f"d = {d}, N = {N}", flush=True)
    cells = summarise(rows)
    ratios = [row["objective_over_ours"] for row in rows if row["method"] == DECAY]
    return {
        "verdict": verdict(cells, ratios),
        "tolerance": TOLERANCE,
        "noise": NOISE,
        "constants_of_lam": {str(d): c for d, c in constants.items()},
        "weight_decay_objective_over_ours": ratios,
        "summary": cells,
        "rows": rows,
    }


def draw(payload: Row, path: Path) -> None:
    """Error of the class against N, one panel for every d; weight decay has too few draws for an interval."""
    from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

    cells = payload["summary"]
    figure = new_figure(3.6 * len(cells), 4.6)
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    handles: dict[str, object] = {}
    for panel, cell in zip(panels, cells, strict=True):
        for i, method in enumerate((OURS, *LINEAR, DECAY)):
            found = cell["methods"].get(method)
            if found is None:
                continue
            means = np.array([m for m, _, _ in found["mse"]])
            # An interval may reach below zero, which a logarithm does not show.
            spread = np.array([(m - max(low, 0.2 * m), high - m) for m, low, high in found["mse"]]).T
            at = np.array(found["N"]) * (1.0 + 0.05 * (i - 2))  # intervals would hide one another
            handles[method] = panel.errorbar(
                at, means, yerr=None if method == DECAY else spread, color=PALETTE[i], marker=MARKERS[i],
                markersize=5, linewidth=1.5, elinewidth=1.0, capsize=2, linestyle="" if method == DECAY else "-",
            )  # fmt: skip
        sizes = np.array(cell["methods"][OURS]["N"], dtype=float)
        first = cell["methods"][OURS]["mse"][0][0]
        handles["N^(-(d+3)/(2d+3))"] = panel.plot(
            sizes, first * (sizes / sizes[0]) ** cell["theory"], color=INK, linestyle="--"
        )[0]
        first = min(cell["methods"][m]["mse"][0][0] for m in LINEAR)
        handles["N^(-3/(d+3))"] = panel.plot(
            sizes, first * (sizes / sizes[0]) ** cell["theory_linear"], color=INK, linestyle=":"
        )[0]
        panel.set(xscale="log", yscale="log", xlabel="samples N")
        panel.set_xticks(sizes, [f"{N:g}" for N in sizes])
        panel.minorticks_off()
        value = cell["methods"][OURS]["slope"][0]
        panel.set_title(
            f"d = {cell['d']}: ours {value:.2f}, theory {cell['theory']:.2f}", color=INK, fontsize=10, loc="left"
        )
        dress(panel)
    panels[0].set_ylabel("mean squared error, worst of two kinds")
    names = [name for name in (OURS, *LINEAR, DECAY) if name in handles]
    names += [name for name in handles if name not in names]
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=7, fontsize=9, frameon=False
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "scikit-learn")))
