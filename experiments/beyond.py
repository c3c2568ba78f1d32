"""Outside R-BV² the smallest path norm grows without bound as samples or accuracy grow, and depth buys what it misses.

DeVore, Nowak, Parhi and Siegel (2023) ask which functions shallow networks of bounded path norm reach. Functions in
R-BV²(R^2) are Lipschitz, and their kinks lie along straight lines. So indicators are outside, and so is a cone cut off
at a circle: a kink along a curve is smoothed by too little in the Radon domain.

Part one: for N uniform points in the square and exact values of five functions, the solution of ``1/2 ||y - f(X)||^2 +
lam R-TV²(f)`` for lam = 1e-4 lam_max (and two larger ones), with a certificate over all neurons. Weak duality turns it
into a lower bound on the path norm of *every* network as accurate: ``(dual - 1/2 ||y - f(X)||^2) / lam``. An
interpolant has at most the norm of a function that is inside. Predicted before measuring, with the smallest lam: for
the three outside, the slope of the lower bound against N on log scales is above 0.15 (with its 95 % interval over
designs); for the two inside, the path norm is never above that of the function, and the last doubling of N adds less
than a quarter of the least that it adds to one outside. Heuristically, with a resolution of N^(-1/2), the edge
``delta^(3/2)`` of the cone's Radon transform gives N^(1/4), and ``delta^(1/2)`` of the disc's N^(3/4).

Part two (Telgarsky 2016): the triangle map composed with itself L times has 2^L pieces from 2 L neurons. A function
within 1/4 of it rises and falls 2^L times, so a shallow network needs 2^L - 1 neurons. Counted exactly in the deep
network, and in the sparsest solutions of BV² with lam so that the largest error at the samples is below 1/4.

What could fail: norms that saturate for an outside function, or grow for one inside, in the reachable range of N; a
spline of fewer knots. Limits: d = 2 and a factor of 16 in N show growth, not divergence; the exponents are of that
range and that design. At a finite lam the accuracy differs between functions and is listed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments._claim import Row, Scale, interval, main, slope
from pathnorm import LinearSpline, ReLURegressor, ShallowNet
from pathnorm.errors import CertificateWarning
from pathnorm.problems import BV2Problem, RBV2Problem
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure
from pathnorm.representer import sparsest
from pathnorm.solvers import bv2, bv2_lam_max, rbv2_lam_max

NAME = "beyond"
Array = NDArray[np.float64]
RADIUS, SHARPNESS = 0.6, 2.0
LAMS = (1e-2, 1e-3, 1e-4)  # over lam_max
STEEP, SHARE = 0.15, 0.25
SUP_ERROR = 0.25
NETWORK = ShallowNet(
    W=np.array([[0.8, 0.6], [-0.6, 0.8], [0.0, 1.0], [1.0, 0.0], [-0.7071, -0.7071]]),
    b=np.array([0.1, -0.2, 0.3, -0.5, 0.2]),
    V=np.array([[1.0], [-1.5], [1.0], [0.5], [1.2]]),
    A=np.zeros((2, 1)),
    c=np.zeros(1),
)
TITLES = {
    "half-plane": "indicator of a half-plane",
    "disc": "indicator of a disc",
    "cone": "cone (1 - |x| / r)₊",
    "bump": "Gaussian bump",
    "network": "network of 5 neurons",
}
OUTSIDE = ("half-plane", "disc", "cone")


def target(name: str, X: Array) -> Array:
    """Values (N,) of one of the functions."""
    radius = np.linalg.norm(X, axis=1)
    if name == "half-plane":
        return (X @ np.array([0.6, 0.8]) > 0.0).astype(float)
    if name == "disc":
        return (radius < RADIUS).astype(float)
    if name == "cone":
        return np.asarray(np.maximum(0.0, 1.0 - radius / RADIUS))
    if name == "bump":
        return np.asarray(np.exp(-SHARPNESS * radius**2))
    return np.asarray(NETWORK(X)[:, 0])


def bump_norm(sharpness: float) -> float:
    """R-TV² of ``exp(-s |x|^2)`` on the plane, by quadrature.

    ``1/(4 pi)`` times the integral over directions and offsets of the absolute third Riesz derivative of the Radon
    transform (Ongie, Willett, Soudry, Srebro 2020), whose Fourier transform is ``|w|^3 pi/s exp(-w^2 / 4s)``. The norm
    grows with the root of s, so s = 1/4 is computed.
    """
    frequency = np.linspace(0.0, 6.5, 1_301)
    density = frequency**3 * 4.0 * np.pi * np.exp(-(frequency**2))
    offsets = np.concatenate([np.linspace(0.0, 20.0, 2_001), np.geomspace(20.0, 400.0, 301)[1:]])  # falls like t^-4
    derivative = np.trapezoid(np.cos(offsets[:, None] * frequency) * density, frequency, axis=1) / np.pi
    # Half the integral over the line, and the integrand is even.
    return float(np.trapezoid(np.abs(derivative), offsets) * 2.0 * np.sqrt(sharpness))


def fitted(X: Array, y: Array, share: float, largest: float, seed: int) -> Row:
    """Path norm of the solution for ``share`` of lam_max, and a lower bound on that of every network as accurate."""
    model = ReLURegressor(share * largest, standardize=False, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        # A loose gap is part of the answer: the bound is then lower.
        warnings.simplefilter("ignore", CertificateWarning)
        model.fit(X, y)
    missed = float(np.sum((model.predict(X) - y) ** 2))
    return {
        "lam_over_lam_max": share,
        "path_norm": float(model.network_.path_norm()),
        "lower_bound": float((model.certificate_.dual - 0.5 * missed) / model.lam),
        "neurons": int(model.n_neurons_),
        "relative_rmse": float(np.sqrt(missed / len(y)) / y.std()),
        "gap": float(model.certificate_.gap),
        "scope": str(model.certificate_.scope),
    }


# ---------------------------------------------------------------------------- sawtooth
def triangle_net(depth: int) -> nn.Sequential:
    """The triangle map ``2 x_+ - 4 (x - 1/2)_+`` composed ``depth`` times: a ReLU network, two neurons a layer."""
    layers: list[nn.Module] = []
    for level in range(depth):
        first = nn.Linear(1 if level == 0 else 2, 2, dtype=torch.float64)
        read = [[1.0]] if level == 0 else [[2.0, -4.0]]
        with torch.no_grad():
            first.weight.copy_(torch.tensor(read * 2, dtype=torch.float64))
            first.bias.copy_(torch.tensor([0.0, -0.5], dtype=torch.float64))
        layers += [first, nn.ReLU()]
    last = nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[2.0, -4.0]], dtype=torch.float64))
        last.bias.zero_()
    return nn.Sequential(*layers, last)


def sawtooth(depth: int) -> LinearSpline:
    """The same function on the interval, its knots at the multiples of ``2^-depth`` inside it."""
    teeth = 2**depth
    knots = np.arange(1, teeth) / teeth
    return LinearSpline(knots, np.arange(1, teeth) % 2.0, float(teeth), -float(teeth))


def pieces(function: Any, cells: int) -> int:
    """Linear pieces on [0, 1] of a function that is linear on each of ``cells`` equal cells."""
    grid = np.linspace(0.0, 1.0, cells + 1)
    slopes = np.diff(function(grid)) * cells
    return 1 + int((np.abs(np.diff(slopes)) > 1e-6 * np.abs(slopes).max()).sum())


def shallow_neurons(depth: int) -> Row:
    """Fewest knots of a BV² solution whose error at the samples is at most ``SUP_ERROR``, halving lam until it is."""
    spline = sawtooth(depth)
    x = np.arange(4 * 2**depth + 1) / (4 * 2**depth)
    y = spline(x)
    problem = BV2Problem.from_samples(x, y, lam=1.0)
    lam = bv2_lam_max(problem)
    while True:
        lam *= 0.5
        found = sparsest(bv2(problem.with_lam(lam)).coef, x)
        error = float(np.abs(found(x) - y).max())
        if error <= SUP_ERROR:
            return {"neurons": found.n_knots, "sup_error": error, "path_norm": found.tv2}


def depth_row(depth: int) -> Row:
    """Exact counts of the deep network, and what a shallow one needs."""
    net, spline = triangle_net(depth), sawtooth(depth)

    def deep(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(net(torch.from_numpy(x)[:, None])[:, 0].numpy())

    grid = np.linspace(0.0, 1.0, 8 * 2**depth + 1)
    return {
        "depth": depth,
        "deep_pieces": pieces(deep, 8 * 2**depth),
        "deep_neurons": 2 * depth,
        "deep_parameters": sum(parameter.numel() for parameter in net.parameters()),
        "deep_minus_spline": float(np.abs(deep(grid) - spline(grid)).max()),
        "tv2": spline.tv2,
        "shallow_at_least": 2**depth - 1,
        "shallow_exact": spline.to_network().n_neurons,
        "bv2_solution": shallow_neurons(depth),
    }


# ---------------------------------------------------------------------------- run
def run(scale: Scale) -> Row:
    """Path norms for growing N, and counts for growing depth."""
    sizes = scale.pick((12, 24), (25, 50, 100, 200, 400), (25, 50, 100, 200, 400, 800))
    seeds, depths = scale.pick(1, 3, 6), range(1, scale.pick(5, 10, 12))
    rows: list[Row] = []
    for seed in range(seeds):
        for n in sizes:
            X = np.random.default_rng([seed, n]).uniform(-1.0, 1.0, (n, 2))
            for name in TITLES:
                y = target(name, X)
                largest = rbv2_lam_max(RBV2Problem.from_samples(X, y[:, None], lam=1.0), seed=seed)
                # The larger lam are for the dependence on the accuracy, which one design shows.
                for share in LAMS if (seed, n) == (0, sizes[-1]) else LAMS[-1:]:
                    rows.append({"function": name, "seed": seed, "n": n, **fitted(X, y, share, largest, seed)})
    norms = {"bump": bump_norm(SHARPNESS), "network": float(NETWORK.path_norm())}
    table = summary(rows, sizes, seeds)
    depth = [depth_row(level) for level in depths]
    return {
        "verdict": verdict(table, depth, norms),
        "norm_of_the_function": norms,
        "functions": table,
        "depth": depth,
        "tv2_doublings_per_level": slope([2.0 ** row["depth"] for row in depth], [row["tv2"] for row in depth]),
        "rows": rows,
    }


def summary(rows: list[Row], sizes: tuple[int, ...], seeds: int) -> dict[str, Row]:
    """Per function, at the smallest lam: norms and bounds by N, slopes, growth over the last doubling."""
    table: dict[str, Row] = {}
    for name in TITLES:
        mine = [row for row in rows if row["function"] == name and row["lam_over_lam_max"] == LAMS[-1]]
        lower, upper = (
            np.array(
                [[row[key] for n in sizes for row in mine if (row["seed"], row["n"]) == (s, n)] for s in range(seeds)]
            )
            for key in ("lower_bound", "path_norm")
        )
        table[name] = {
            "n": list(sizes),
            # Norms vary by factors between designs: means and intervals of their logarithms.
            "path_norm": [np.exp(interval(column.tolist())).tolist() for column in np.log(upper.T)],
            "lower_bound": [np.exp(interval(column.tolist())).tolist() for column in np.log(lower.T)],
            "slope": slope(sizes, lower),
            "last_growth": interval(np.log2(lower[:, -1] / lower[:, -2]).tolist()),
            "last_increment": float(
                (lower[:, -1] - upper[:, -2]).mean() if name in OUTSIDE else (upper[:, -1] - lower[:, -2]).mean()
            ),
            "largest_path_norm": float(upper.max()),
            "relative_rmse": float(np.mean([row["relative_rmse"] for row in mine])),
        }
    return table


def verdict(table: dict[str, Row], depth: list[Row], norms: dict[str, float]) -> Row:
    """Growth outside, none inside, exact counts."""
    grows = {name: table[name]["slope"][1] > STEEP for name in OUTSIDE}
    below = {name: table[name]["largest_path_norm"] <= (1.0 + 1e-3) * norms[name] for name in norms}
    least = min(table[name]["last_increment"] for name in OUTSIDE)
    settles = {name: table[name]["last_increment"] < SHARE * least for name in norms}
    counts = all(
        row["deep_pieces"] == 2 ** row["depth"]
        and row["shallow_exact"] == row["shallow_at_least"]
        and row["bv2_solution"]["neurons"] >= row["shallow_at_least"]
        for row in depth
    )
    last = depth[-1]
    slopes = ", ".join(f"{name} {table[name]['slope'][0]:.2f}" for name in TITLES)
    tops = ", ".join(f"{name} {table[name]['largest_path_norm']:.2f} <= {norms[name]:.2f}" for name in norms)
    return {
        "holds": bool(all(grows.values()) and all(below.values()) and all(settles.values()) and counts),
        "grows": grows,
        "below_its_norm": below,
        "settles": settles,
        "counts_hold": bool(counts),
        "predicted": f"slopes above {STEEP:g} outside; inside never above the function's norm, and the last doubling "
        f"of N adds less than {SHARE:g} of what it adds outside; 2^L pieces from 2 L neurons, 2^L - 1 shallow ones",
        "measured": f"slopes in N: {slopes}; norms: {tops}; last doubling adds "
        + ", ".join(f"{name} {table[name]['last_increment']:.2f}" for name in TITLES)
        + f"; L = {last['depth']}: {last['deep_pieces']} pieces, {last['deep_parameters']} parameters, shallow at "
        f"error {SUP_ERROR:g}: {last['bv2_solution']['neurons']} (at least {last['shallow_at_least']})",
    }


# ---------------------------------------------------------------------------- figure
def draw(payload: Row, path: Path) -> None:
    """Norm against N, norm against error, neurons against depth."""
    figure = new_figure(13.5, 4.4)
    panels = figure.subplots(1, 3)
    most = max(row["n"] for row in payload["rows"])
    for index, (name, found) in enumerate(payload["functions"].items()):
        middle = np.array(found["lower_bound"])
        style = {"color": PALETTE[index], "marker": MARKERS[index], "markersize": 5}
        panels[0].fill_between(found["n"], middle[:, 1], middle[:, 2], color=PALETTE[index], alpha=0.15, linewidth=0)
        panels[0].plot(found["n"], middle[:, 0], label=f"{TITLES[name]}: slope {found['slope'][0]:.2f}", **style)
        if name in payload["norm_of_the_function"]:
            panels[0].axhline(
                payload["norm_of_the_function"][name], color=PALETTE[index], linestyle=(0, (4, 2)), linewidth=1
            )
        mine = [row for row in payload["rows"] if (row["function"], row["n"], row["seed"]) == (name, most, 0)]
        panels[1].plot([row["relative_rmse"] for row in mine], [row["lower_bound"] for row in mine], **style)
    panels[0].set(xscale="log", yscale="log", xlabel="samples N", ylabel="smallest path norm (certified from below)")
    panels[0].set_xticks(found["n"], [str(n) for n in found["n"]])
    panels[0].minorticks_off()
    panels[0].set_ylim(3.0, 3e4)
    panels[0].legend(fontsize=7.5, frameon=False, loc="upper left")
    panels[0].set_title("dashed: norm of the function, where it is finite", color=INK, fontsize=10, loc="left")
    panels[1].set(xscale="log", yscale="log", xlabel="relative error at the samples", ylabel="smallest path norm")
    panels[1].invert_xaxis()
    panels[1].set_title(f"as the tolerance falls, N = {most}", color=INK, fontsize=10, loc="left")
    depth = [row["depth"] for row in payload["depth"]]
    series = (
        ("shallow: at least 2^L - 1", [row["shallow_at_least"] for row in payload["depth"]], (0, (4, 2)), ""),
        ("BV² solution, error below 1/4", [row["bv2_solution"]["neurons"] for row in payload["depth"]], "none", "o"),
        ("deep: parameters", [row["deep_parameters"] for row in payload["depth"]], "-", "s"),
        ("deep: neurons", [row["deep_neurons"] for row in payload["depth"]], "-", "^"),
    )
    for index, (label, values, line, marker) in enumerate(series):
        panels[2].plot(depth, values, color=PALETTE[index], linestyle=line, marker=marker, markersize=5, label=label)
    panels[2].set(yscale="log", xlabel="compositions L", ylabel="count")
    panels[2].set_title("sawtooth with 2^L pieces", color=INK, fontsize=10, loc="left")
    panels[2].legend(fontsize=8, frameon=False)
    for panel in panels:
        dress(panel)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
