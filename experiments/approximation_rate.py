"""K neurons approximate every function of R-BV² at the rate K^(-1/2 - 3/(2d)), and no linear space of dimension K does.

The rate is for the largest error on the unit ball and the worst function of unit norm (Barron 1993; Matousek 1996;
Bach 2017; Siegel 2023). It is a bound on a class, so the class is represented by three kinds of functions of unit norm
and the error of the class is the largest of the three: *many*, 2K neurons with random signs, a new function for every
K, on which a network of K neurons is not expected to beat the rate; *norm*, the multiple of ``||x||``, with all
directions in its measure; *atom*, a single neuron, which a network finds at once and a linear space must be ready for.

Networks are found by orthogonal greedy pursuit with ascent over the direction and offset of every neuron, and by a
descent over all parameters from there: in L2 with the output weights eliminated, then, for the largest error, in L8.
The largest error is measured on points that no fit has seen, with a local search, and is a lower estimate of the
supremum of that network's error. Beside them: K draws from the measure of f (Monte Carlo, K^(-1/2)), and three linear
spaces of dimension K that do not look at f: thin-plate splines with K centres, K neurons drawn at random with free
output weights, and polynomials of a total degree. For the best linear spaces theory says K^(-1/d) for the largest
error and K^(-3/(2d)) in L2.

A first version judged networks fitted in L2 by their largest error, and started at K = 4. It clearly missed in d = 1 in
both norms, where the d + 1 free numbers of the affine part count like neurons at K = 4, and in d = 5 for the largest
error, where an L2 fit leaves the tip of the norm alone because the ball has next to no volume there; in d = 3 the
largest error missed barely, and d = 10 was within the tolerance. The L8 stage, the points near the centre, K from 8 on
and keeping the better of two fits are answers to that. A second version missed in d = 1 alone: descent moved an exact
fit of the atom to two knots between the same samples, and one draw of 16 neurons is too easy or too hard by a factor of
three. Hence an exact fit is kept, and there are several draws for small K. The thresholds are those of the first
version; that the design was mended twice with these functions in view is a reason to trust the direction of the result
more than its margin.

Predicted, before measuring: for every d the slope of the class error of the optimised network is at most -1/2 - 3/(2d)
+ 0.15, the tolerance for logarithms and a short range of K, in both norms; and that of the better one of thin plates
and drawn neurons is larger by more than the 95 % interval of the difference. It fails if descent stays in poor local
minima, or K is too small against d for the rate to show, which is likeliest in d = 10. Slopes of single functions may
be steeper. A slope fitted over a decade and a half of K is not an asymptotic exponent.

    python -m experiments.approximation_rate [--full]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from experiments._claim import Row, Scale, interval, main, slope
from experiments._rbv_functions import (
    Function,
    ball,
    largest_error,
    norm_factor,
    random_net,
    root_mean_square,
    scaled_norm,
)
from pathnorm import ShallowNet, ThinPlateRegressor

NAME = "approximation_rate"
Array = NDArray[np.float64]
TOLERANCE = 0.15
GREEDY, OPTIMISED, LEVELLED, DRAWN = "greedy", "optimised", "optimised, L8", "Monte Carlo"
PLATE, FIXED, POLYNOMIAL = "thin plate", "fixed neurons", "polynomials"
KINDS = ("many", "norm", "atom")
_EXACT = 1e-6
_RIDGE = 1e-10  # of the mean diagonal, so that the Gram of nearly equal neurons can be factored
_LINEAR = (PLATE, FIXED)
_ATOMS = 2  # a linear space must be ready for all of them: its error on atoms is the largest of these


def theory(d: int) -> float:
    """Exponent of K for shallow networks."""
    return -0.5 - 1.5 / d


# ---------------------------------------------------------------------------- networks
def features(X: Array, W: Array, b: Array) -> Array:
    """Neurons, then the coordinates and the constant (N, K + d + 1)."""
    return np.column_stack([np.maximum(X @ W.T - b, 0.0), X, np.ones(len(X))])


def output_weights(Phi: Array, y: Array) -> Array:
    """Least squares by the Gram matrix."""
    gram = Phi.T @ Phi
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    return np.asarray(cho_solve(cho_factor(gram), Phi.T @ y))


def net_of(X: Array, y: Array, W: Array, b: Array) -> ShallowNet:
    """The network with these neurons and the best output weights and affine part for y."""
    coef, K, d = np.linalg.lstsq(features(X, W, b), y, rcond=None)[0], len(W), X.shape[1]
    return ShallowNet(W, b, coef[:K, None], coef[K : K + d, None], coef[K + d :])


def ascend(X: Array, residual: Array, basis: Array, w: Array, b: float) -> tuple[Array, float]:
    """Climb ``|<r, phi>| / ||phi - Q Q' phi||`` from (w, b); r is orthogonal to Q."""

    def score(p: Array) -> tuple[float, Array]:
        pre = X @ p[:-1] - p[-1]
        phi = np.maximum(pre, 0.0)
        rest = phi - basis @ (basis.T @ phi)
        size, height = np.sqrt(max(float(rest @ rest), 1e-14)), float(residual @ phi)
        outer = np.sign(height) * (residual - (height / size**2) * rest) / size * (pre > 0.0)
        return -abs(height) / size, -np.append(outer @ X, -outer.sum())

    found = minimize(score, np.append(w, b), jac=True, method="L-BFGS-B", options={"maxiter": 12}).x
    length = float(np.linalg.norm(found[:-1]))
    return (found[:-1] / length, float(found[-1]) / length) if length > 1e-8 else (w, b)


def greedy(
    X: Array, y: Array, neurons: int, rng: np.random.Generator, *, pool: int = 600
) -> tuple[Array, Array, Array]:
    """Orthogonal greedy pursuit: W (K, d), b (K,) and the L2 error after 0, 1, ..., K neurons."""
    d = X.shape[1]
    W = rng.standard_normal((pool, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    b = np.einsum("kd,kd->k", W, X[rng.integers(len(X), size=pool)])
    candidates = np.maximum(X @ W.T - b, 0.0)
    basis = np.linalg.qr(np.column_stack([np.ones(len(X)), X]))[0]
    residual = y - basis @ (basis.T @ y)
    rest = np.einsum("nk,nk->k", candidates, candidates) - ((basis.T @ candidates) ** 2).sum(axis=0)
    chosen_w, chosen_b, errors = [], [], [root_mean_square(residual)]
    for _ in range(neurons):
        heights = np.abs(residual @ candidates) / np.sqrt(np.maximum(rest, 1e-8 * len(X)))
        best = int(heights.argmax())
        w, offset = ascend(X, residual, basis, W[best], float(b[best]))
        phi = np.maximum(X @ w - offset, 0.0)
        for _ in range(2):  # once is not orthogonal to rounding
            phi = phi - basis @ (basis.T @ phi)
        size = float(np.linalg.norm(phi))
        chosen_w.append(w)
        chosen_b.append(offset)
        if size > 1e-9:
            phi /= size
            residual = residual - phi * float(phi @ residual)
            rest = rest - (phi @ candidates) ** 2
            basis = np.column_stack([basis, phi])
        errors.append(root_mean_square(residual))
    return np.array(chosen_w), np.array(chosen_b), np.array(errors)


def refine(X: Array, y: Array, W: Array, b: Array, *, steps: int) -> tuple[Array, Array]:
    """Descent over all directions and offsets, with the best output weights for every one of them."""
    K, d = W.shape

    def value(p: Array) -> tuple[float, Array]:
        w, offset = p[: K * d].reshape(K, d), p[K * d :]
        Phi = features(X, w, offset)
        coef = output_weights(Phi, y)
        residual = Phi @ coef - y
        pulls = residual[:, None] * (Phi[:, :K] > 0.0) * coef[:K]
        return 0.5 * float(residual @ residual), np.concatenate([(pulls.T @ X).ravel(), -pulls.sum(axis=0)])

    scale = max(float(y @ y), 1e-300)  # L-BFGS stops by absolute sizes
    found = minimize(
        lambda p: tuple(part / scale for part in value(p)),
        np.concatenate([W.ravel(), b]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "ftol": 1e-12, "gtol": 1e-12},
    ).x
    W, b = found[: K * d].reshape(K, d), found[K * d :]
    lengths = np.maximum(np.linalg.norm(W, axis=1), 1e-12)
    return W / lengths[:, None], b / lengths


def levelled(X: Array, y: Array, net: ShallowNet, *, steps: int) -> ShallowNet:
    """Descent over all parameters in the L8 norm, which is nearly that of the largest error."""
    K, d = net.W.shape
    start = np.concatenate([net.W.ravel(), net.b, net.V[:, 0], net.A[:, 0], net.c])
    size = max(largest(net(X)[:, 0] - y), 1e-300)

    def value(p: Array) -> tuple[float, Array]:
        w, offset, coef = p[: K * d].reshape(K, d), p[K * d : K * d + K], p[K * d + K :]
        Phi = features(X, w, offset)
        residual = (Phi @ coef - y) / size
        outer = 8.0 * residual**7 / len(X) / size
        pulls = outer[:, None] * (Phi[:, :K] > 0.0) * coef[:K]
        parts = [(pulls.T @ X).ravel(), -pulls.sum(axis=0), Phi.T @ outer]
        return float(np.mean(residual**8)), np.concatenate(parts)

    options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-14}
    p = minimize(value, start, jac=True, method="L-BFGS-B", options=options).x
    coef = p[K * d + K :]
    return ShallowNet(p[: K * d].reshape(K, d), p[K * d : K * d + K], coef[:K, None], coef[K : K + d, None], coef[-1:])


def largest(values: Array) -> float:
    """Largest of the absolute values."""
    return float(np.abs(values).max())


def better(net: ShallowNet, start: ShallowNet, X: Array, y: Array, size: Callable[[Array], float]) -> ShallowNet:
    """The one that fits better; an exact start stays: two knots between the same samples are as good on them only."""
    if size(start(X)[:, 0] - y) <= _EXACT * size(y):
        return start
    return net if size(net(X)[:, 0] - y) < size(start(X)[:, 0] - y) else start


# ---------------------------------------------------------------------------- other methods
def monte_carlo(kind: str, target: ShallowNet | None, d: int, K: int, rng: np.random.Generator) -> ShallowNet:
    """K draws from the measure of f: its mass is one, so each weighs 1/K."""
    if kind == "norm" or target is None:
        W = rng.standard_normal((K, d))
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        # |t| / 2 = (t)_+ - t / 2, and c ||x|| is the mean of |w'x| / 2.
        V = np.full((K, 1), 1.0 / K)
        return ShallowNet(W, np.zeros(K), V, -0.5 * W.T @ V, np.zeros(1))
    drawn = rng.integers(target.n_neurons, size=K)
    V = np.sign(target.V[drawn]) / K
    return ShallowNet(target.W[drawn], target.b[drawn], V, np.zeros((d, 1)), np.zeros(1))


def polynomial_basis(X: Array, degree: int) -> Array:
    """Products of Legendre polynomials up to a total degree."""
    from itertools import combinations_with_replacement

    d = X.shape[1]
    single = np.stack([np.polynomial.legendre.Legendre.basis(m)(X) for m in range(degree + 1)])
    columns = []
    for total in range(degree + 1):
        for chosen in combinations_with_replacement(range(d), total):
            powers = np.bincount(np.array(chosen, dtype=int), minlength=d)
            columns.append(np.prod([single[m, :, j] for j, m in enumerate(powers)], axis=0))
    return np.column_stack(columns)


def linear_fits(X: Array, y: Array, K: int, seed: int) -> dict[str, Function]:
    """L2 projections onto linear spaces of dimension about K that do not depend on y."""
    rng = np.random.default_rng([seed, K, 7])
    fixed = random_net(X.shape[1], K, rng)
    plate = ThinPlateRegressor(lam=1e-9, max_centers=max(K, X.shape[1] + 2), random_state=seed).fit(X, y)
    net = net_of(X, y, fixed.W, fixed.b)
    return {PLATE: plate.predict, FIXED: lambda Z: net(Z)[:, 0]}


def polynomials(X: Array, y: Array, f: Function, largest: int, seed: int) -> list[Row]:
    """Errors of total degrees 1, 2, ... as long as the dimension is at most ``largest``."""
    d, rows = X.shape[1], []
    for degree in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        basis = polynomial_basis(X[:1], degree).shape[1]
        if basis > largest:
            break
        coef = np.linalg.lstsq(polynomial_basis(X, degree), y, rcond=None)[0]

        def fit(Z: Array, degree: int = degree, coef: Array = coef) -> Array:
            return np.asarray(polynomial_basis(Z, degree) @ coef)

        rows.append({"K": basis, "method": POLYNOMIAL} | errors_of(f, fit, d, seed))
    return rows


# ---------------------------------------------------------------------------- measurement
def errors_of(f: Function, fit: Function, d: int, seed: int, starts: Array | None = None) -> Row:
    """L2 and largest error, on points that no fit has seen."""
    rng = np.random.default_rng([seed, d, 1])

    def error(Z: Array) -> Array:
        return f(Z) - fit(Z)

    sampled, highest = largest_error(error, d, rng, starts=starts, count=3_000)
    return {"l2": root_mean_square(error(ball(3_000, d, rng))), "sup": highest, "sup_sampled": sampled}


def target_of(kind: str, d: int, K: int, seed: int) -> tuple[Function, ShallowNet | None]:
    """A function of unit norm and, where it is one, its network."""
    if kind == "norm":
        return scaled_norm(d), None
    net = random_net(d, 2 * K if kind == "many" else 1, np.random.default_rng([seed, d, K if kind == "many" else 0]))
    return (lambda X: net(X)[:, 0]), net


def fitting_points(points: int, d: int, seed: int) -> Array:
    """A third uniform in the ball, a third on its sphere, a third with uniform radii, dense at the centre.

    The largest errors like to be on the sphere, and for the norm at its tip, where the ball has next to no volume.
    """
    rng = np.random.default_rng([seed, d, 2])
    X = ball(points, d, rng)
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    one, two = points // 3, 2 * (points // 3)
    X[:one] /= lengths[:one]
    X[one:two] *= rng.random((two - one, 1)) / lengths[one:two]
    return X


def measure(kind: str, d: int, K: int, seed: int, points: int, steps: int, group: int) -> list[Row]:
    """All methods with K neurons or dimensions on one function, as part of a group of draws."""
    f, net = target_of(kind, d, K, seed)
    X = fitting_points(points, d, seed)
    y = f(X)
    rng = np.random.default_rng([seed, d, K, 3])
    W, b, _ = greedy(X, y, K, rng)
    fits = {GREEDY: net_of(X, y, W, b)}
    fits[OPTIMISED] = better(net_of(X, y, *refine(X, y, W, b, steps=steps)), fits[GREEDY], X, y, root_mean_square)
    fits[LEVELLED] = better(levelled(X, y, fits[OPTIMISED], steps=steps), fits[OPTIMISED], X, y, largest)
    fits[DRAWN] = monte_carlo(kind, net, d, K, rng)
    rows = []
    for method, found in fits.items():
        starts = found.W if net is None else np.concatenate([found.W, net.W])
        starts = np.concatenate([starts, -starts, np.zeros((1, d))])
        error = errors_of(f, lambda Z, found=found: found(Z)[:, 0], d, seed, starts)  # type: ignore[misc]
        rows.append({"K": K, "method": method} | error)
    for i in range(_ATOMS if kind == "atom" else 1):
        if i:
            f, net = target_of(kind, d, K, seed + 1_000 * i)
        starts = np.zeros((1, d)) if net is None else np.concatenate([net.W, -net.W])
        for method, fit in linear_fits(X, f(X), K, seed).items():
            rows.append({"K": K, "method": method} | errors_of(f, fit, d, seed, starts))
    return [{"kind": kind, "d": d, "seed": group} | row for row in rows]


def class_errors(rows: list[Row], d: int, method: str, norm: str) -> tuple[list[int], Array]:
    """K and the errors (seeds, K) of the class: the largest over kinds of the mean over draws (atoms: the largest)."""
    mine = [row for row in rows if (row["d"], row["method"]) == (d, method)]
    sizes, seeds = sorted({row["K"] for row in mine}), sorted({row["seed"] for row in mine})
    table = np.zeros((len(seeds), len(sizes)))
    for i, seed in enumerate(seeds):
        for j, K in enumerate(sizes):
            here = [row for row in mine if (row["seed"], row["K"]) == (seed, K)]
            for kind in KINDS:
                found = [row[norm] for row in here if row["kind"] == kind]
                if found:
                    table[i, j] = max(table[i, j], max(found) if kind == "atom" else float(np.mean(found)))
    return sizes, np.maximum(table, 1e-15)


def best_of(norm: str) -> str:
    """The network that was fitted in this norm."""
    return LEVELLED if norm == "sup" else OPTIMISED


def summarise(rows: list[Row]) -> list[Row]:
    """Slopes for every d and norm: of the class by method, of single kinds, and the difference to linear spaces."""
    cells = []
    for d in sorted({row["d"] for row in rows}):
        for norm in ("sup", "l2"):
            best = best_of(norm)
            tables = {m: class_errors(rows, d, m, norm) for m in (GREEDY, OPTIMISED, LEVELLED, DRAWN, *_LINEAR)}
            sizes = tables[best][0]
            linear = np.minimum(*(tables[m][1] for m in _LINEAR))
            ours = tables[best][1]
            cell: Row = {"d": d, "norm": norm, "K": sizes, "theory": theory(d)}
            cell["theory_linear"] = -1.0 / d if norm == "sup" else -1.5 / d
            cell["slopes"] = {m: slope(sizes, table) for m, (_, table) in tables.items()}
            cell["slopes"]["best linear"] = slope(sizes, linear)
            # Of one seed the slopes are those of its two curves, their difference the slope of the quotient.
            cell["ours_minus_linear"] = slope(sizes, ours / linear)
            cell["class_error"] = {m: np.exp(np.log(t).mean(axis=0)).tolist() for m, (_, t) in tables.items()}
            cell["class_error"]["best linear"] = np.exp(np.log(linear).mean(axis=0)).tolist()
            cell["slopes_by_kind"] = {}
            for kind in KINDS[:2]:
                part = [row for row in rows if row["kind"] == kind]
                if any(row["d"] == d for row in part):
                    cell["slopes_by_kind"][kind] = slope(*class_errors(part, d, best, norm))
            mine = [r for r in rows if (r["d"], r["method"], r["kind"]) == (d, POLYNOMIAL, "atom") and r["K"] > d + 1]
            if len({r["K"] for r in mine}) > 1:
                part = sorted({r["K"] for r in mine})
                means = [interval([r[norm] for r in mine if r["K"] == K])[0] for K in part]
                cell["polynomials_on_atoms"] = {"K": part, "error": means, "slope": slope(part, means)}
            cells.append(cell)
    return cells


def verdict(cells: list[Row]) -> Row:
    """At least as fast as the rate, and faster than the better linear space."""
    ours = [c["slopes"][best_of(c["norm"])] for c in cells]
    fast = [o[0] <= c["theory"] + TOLERANCE for o, c in zip(ours, cells, strict=True)]
    faster = [c["ours_minus_linear"][2] < 0.0 for c in cells]
    said = [
        f"d = {c['d']} {c['norm']}: {o[0]:.2f} [{o[1]:.2f}, {o[2]:.2f}] (theory {c['theory']:.2f}), linear "
        f"{c['slopes']['best linear'][0]:.2f} (theory {c['theory_linear']:.2f})"
        for o, c in zip(ours, cells, strict=True)
    ]
    return {
        "holds": bool(all(fast) and all(faster)),
        "rate_holds": bool(all(fast)),
        "faster_than_linear_holds": bool(all(faster)),
        "misses": [f"d = {c['d']} {c['norm']}" for c, a, b in zip(cells, fast, faster, strict=True) if not (a and b)],
        "predicted": f"slope at most -1/2 - 3/(2d) + {TOLERANCE:g} in both norms, and steeper than for linear spaces",
        "measured": "; ".join(said),
    }


def run(scale: Scale) -> Row:
    """Errors of all methods for the three kinds of functions."""
    dimensions = scale.pick((1, 2), (1, 2, 3, 5, 10))
    seeds, steps = scale.pick(1, 3, 10), scale.pick(5, 100, 400)
    # Over K: functions of the kind *many* per seed, for with few neurons they differ most.
    draws = scale.pick(1, 32, 64)
    rows: list[Row] = []
    for d in dimensions:
        sizes = scale.pick((2, 4), (8, 16, 32, 64, 128) if d <= 3 else (8, 16, 32, 64), (8, 16, 32, 64, 128, 256))
        # K (d + 2) parameters are fitted to them.
        points = scale.pick(200, 2_000 if d <= 3 else 5_000, 6_000 if d <= 3 else 20_000)
        for seed in range(seeds):
            for kind in KINDS:
                if kind == "norm" and d == 1:
                    continue  # |x| is one neuron
                for K in sizes:
                    for i in range(max(1, draws // K) if kind == "many" else 1):
                        rows += measure(kind, d, K, seed + 100 * i, points, steps, seed)
            f, _ = target_of("atom", d, 1, seed)
            X = fitting_points(points, d, seed)
            rows += [
                {"kind": "atom", "d": d, "seed": seed} | row
                for row in polynomials(X, f(X), f, scale.pick(30, 130), seed)
            ]
            if scale is not Scale.QUICK:
                print(f"d = {d}, seed {seed}", flush=True)
    cells = summarise(rows)
    return {
        "verdict": verdict(cells),
        "tolerance": TOLERANCE,
        "largest_error_is": "a lower estimate: sample of the ball and its sphere, then a local search",
        "norm_factors": {str(d): norm_factor(d) for d in dimensions},
        "summary": cells,
        "rows": rows,
    }


def draw(payload: Row, path: Path) -> None:
    """Class error against K, one panel for every d."""
    from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

    cells = [c for c in payload["summary"] if c["norm"] == "sup"]
    figure = new_figure(3.3 * len(cells), 4.6)
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    handles: list[Any] = []
    for panel, cell in zip(panels, cells, strict=True):
        sizes = np.array(cell["K"], dtype=float)
        for i, method in enumerate((LEVELLED, GREEDY, DRAWN, PLATE, FIXED)):
            panel.plot(
                sizes, cell["class_error"][method], color=PALETTE[i], marker=MARKERS[i], markersize=5, label=method
            )
        first = cell["class_error"][LEVELLED][0]
        panel.plot(
            sizes, first * (sizes / sizes[0]) ** cell["theory"], color=INK, linestyle="--", label="-1/2 - 3/(2d)"
        )
        first = min(cell["class_error"][PLATE][0], cell["class_error"][FIXED][0])
        panel.plot(
            sizes, first * (sizes / sizes[0]) ** cell["theory_linear"], color=INK, linestyle=":", label="-1/d (linear)"
        )
        panel.set(xscale="log", yscale="log", xlabel="neurons or dimensions K")
        panel.set_xticks(sizes, [f"{K:g}" for K in sizes])
        panel.minorticks_off()
        panel.set_title(
            f"d = {cell['d']}: slope {cell['slopes'][LEVELLED][0]:.2f}, theory {cell['theory']:.2f}",
            color=INK,
            fontsize=10,
            loc="left",
        )
        dress(panel)
        handles = panel.get_legend_handles_labels()
    panels[0].set_ylabel("largest error, worst of three kinds")
    figure.legend(*handles, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
