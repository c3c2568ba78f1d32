"""For one input the path norm of a network is ``TV(f')``, the second-order total variation of its function.

``f'' = sum_k v_k |w_k| delta(x - b_k / w_k)``, so ``TV(f') = sum_k |v_k| |w_k|`` where all kinks differ, and the path
norm is larger where neurons share a kink and cancel: the least path norm over networks that are f is ``TV(f')``
(Savarese, Evron, Soudry & Srebro 2019; Parhi & Nowak 2021, Theorem 1).

Measured, for networks with random weights, as torch starts them, trained, trained with weight decay, and with
superfluous neurons (neurons split in parts of either sign, some turned around, and pairs that cancel entirely):

- ``TV(f')`` from values of f at the kinks alone (slopes of the spline through them), against the path norm;
- the same from values on a grid that knows nothing of the kinks, ``x = tan u`` with n equal cells in u, which is all of
  the line: it is never above ``TV(f')``, never falls when n doubles, and what is missing are kinks of opposite sign in
  neighbouring cells, a share that falls like ``1 / n`` once there are more cells than kinks;
- path norms with superfluous neurons, before and after they are merged, by the measure of the network
  (``radon_measure``) and by ``pathnorm.sparsify`` on samples that see every linear piece;
- for ``BV2Regressor`` the path norm of ``spline_.to_network()``, and half its sum of squares, against ``tv2``.

It fails if an equality is off by more than 1e-6 (values of f: digits are lost where kinks are close), 1e-12 for the
spline's own network; if a redundant network is not strictly above; if the grid's mean error is 1 % or more at the
finest or its slope against n is not -1 within 0.35, the spread to be expected of few close pairs of kinks.

Limit: the trained networks have kinks that differ, as almost all networks have; equality there says nothing about
training. That training finds a small path norm is another claim.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from experiments._claim import Row, Scale, interval, main, slope
from experiments._small import mlp
from pathnorm import BV2Regressor, LinearSpline, ShallowNet, sparsify
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

NAME = "path_norm_is_tv2"
WIDTHS = (4, 16, 64)
FAMILIES = ("random", "start of torch", "trained", "trained, decay", "superfluous")
TOLERANCE, EXACT = 1e-6, 1e-12


def random_network(seed: int, width: int) -> ShallowNet:
    """Kinks in [-1, 1], either sign, and an affine part that must not count."""
    rng = np.random.default_rng([seed, width])
    w = rng.uniform(0.3, 2.0, width) * rng.choice([-1.0, 1.0], width)
    v = rng.standard_normal(width)
    return ShallowNet(
        w[:, None], w * rng.uniform(-1, 1, width), v[:, None], rng.standard_normal((1, 1)), rng.normal(size=1)
    )


def torch_network(seed: int, width: int, *, steps: int, decay: float) -> ShallowNet:
    """A network as torch starts it, after ``steps`` of Adam on noisy samples of a curve; decay is in the loss."""
    torch.manual_seed(seed)
    model = mlp(1, width, 1).double()
    x = torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None]
    y = torch.sin(5 * x) * (x > -0.3) + 0.1 * torch.randn(60, 1).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        penalty = sum(layer.weight.square().sum() for layer in model if isinstance(layer, nn.Linear))
        ((model(x) - y).square().mean() + decay * penalty).backward()
        optimizer.step()
    return ShallowNet.from_torch(model)


def with_superfluous(net: ShallowNet, seed: int) -> ShallowNet:
    """The same function: neurons split with parts of either sign, half of them turned around, and pairs that cancel."""
    rng = np.random.default_rng([seed, 1])
    share = rng.uniform(1.1, 1.5, net.n_neurons)[:, None]
    turn = rng.choice([-1.0, 1.0], net.n_neurons)
    other = (1 - share) * net.V
    W, b = [net.W, turn[:, None] * net.W], [net.b, turn * net.b]
    # (t)_+ = (-t)_+ + t
    turned = turn < 0.0
    A = net.A + net.W[turned].T @ other[turned]
    c = net.c - net.b[turned] @ other[turned]
    pairs, size = max(1, net.n_neurons // 4), rng.uniform(0.3, 1.0, (max(1, net.n_neurons // 4), 1))
    extra, place = rng.uniform(0.5, 1.5, (pairs, 1)), rng.uniform(-1, 1, pairs)
    W, b = [*W, extra, extra], [*b, extra[:, 0] * place, extra[:, 0] * place]
    return ShallowNet(np.concatenate(W), np.concatenate(b), np.concatenate([share * net.V, other, size, -size]), A, c)


def spline_through(net: ShallowNet) -> LinearSpline:
    """The function as a spline, from its values at the kinks and one step beyond the outermost."""
    live = (net.W[:, 0] != 0.0) & (net.V[:, 0] != 0.0)
    places = np.sort(net.b[live] / net.W[live, 0])
    # Kinks of split neurons agree up to rounding, and a slope over a rounding error is noise.
    knots = places[np.append(True, np.diff(places) > 1e-11 * (1 + np.abs(places[1:])))]
    step = 1 + np.abs(knots[[0, -1]])
    ends = net(np.array([[knots[0] - step[0]], [knots[-1] + step[1]]]))[:, 0]
    values = net(knots[:, None])[:, 0]
    return LinearSpline(knots, values, (values[0] - ends[0]) / step[0], (ends[1] - values[-1]) / step[1])


def tv2_on_grid(net: ShallowNet, cells: int) -> float:
    """Total variation of the slopes between neighbouring points of a grid on all of the line."""
    x = np.tan(np.pi / 2 * np.arange(2 - cells, cells - 1, 2) / cells)
    return float(np.abs(np.diff(np.diff(net(x[:, None])[:, 0]) / np.diff(x))).sum())


def pieces(knots: np.ndarray) -> np.ndarray:
    """Three samples inside every linear piece: enough to fix a function with these kinks."""
    ends = np.concatenate([[knots[0] - 1], knots, [knots[-1] + 1]])
    return np.concatenate([ends[:-1] + share * np.diff(ends) for share in (0.2, 0.5, 0.8)])[:, None]


def measure(net: ShallowNet, family: str, seed: int, sizes: list[int]) -> Row:
    spline = spline_through(net)
    tv2 = spline.tv2
    grid = [tv2_on_grid(net, cells) for cells in sizes]
    row = {
        "family": family,
        "seed": seed,
        "neurons": net.n_neurons,
        "path_norm": net.path_norm(),
        "tv2": tv2,
        "path_norm_over_tv2": net.path_norm() / tv2,
        "distinct_over_tv2": net.radon_measure().total / tv2,
        "grid_missing": [1 - value / tv2 for value in grid],
    }
    if family == "superfluous":
        X = pieces(spline.knots)
        fewer = sparsify(net, X)
        row |= {
            "sparsified_neurons": fewer.n_neurons,
            "sparsified_over_tv2": fewer.path_norm() / tv2,
            "sparsified_change": float(np.abs(fewer(X) - net(X)).max() / np.ptp(net(X))),
        }
    return row


def networks(scale: Scale) -> list[tuple[str, int, ShallowNet]]:
    seeds, steps = scale.pick(2, 8, 30), scale.pick(50, 1_500)
    found = []
    for seed in range(seeds):
        for width in WIDTHS:
            net = random_network(seed, width)
            found += [("random", seed, net), ("superfluous", seed, with_superfluous(net, seed))]
            found.append(("start of torch", seed, torch_network(seed, width, steps=0, decay=0.0)))
        found.append(("trained", seed, torch_network(seed, WIDTHS[-1], steps=steps, decay=0.0)))
        found.append(("trained, decay", seed, torch_network(seed, WIDTHS[-1], steps=steps, decay=1e-3)))
    return found


def fitted(seed: int, count: int) -> list[Row]:
    """The network of a BV2 fit, over a range of lam."""
    rng = np.random.default_rng([seed, count])
    x = np.sort(rng.random(count))
    y = np.sin(12 * x**2) + 0.2 * rng.standard_normal(count)
    top = BV2Regressor(lam=1.0).fit(x, y).lam_max_
    rows = []
    for share in (1e-1, 1e-2, 1e-3, 1e-4):
        spline = BV2Regressor(lam=share * top).fit(x, y).spline_
        net = spline.to_network()
        squares = 0.5 * float((net.W**2).sum() + (net.V**2).sum())
        rows.append(
            {
                "seed": seed,
                "samples": count,
                "lam_over_lam_max": share,
                "knots": spline.n_knots,
                "tv2": spline.tv2,
                "path_norm_off": abs(net.path_norm() / spline.tv2 - 1),
                "half_squares_off": abs(squares / spline.tv2 - 1),
                "function_off": float(np.abs(net(x[:, None])[:, 0] - spline(x)).max() / np.ptp(spline(x))),
            }
        )
    return rows


def run(scale: Scale) -> Row:
    sizes = [2**k for k in scale.pick(range(6, 9), range(8, 15))]
    rows = [measure(net, family, seed, sizes) for family, seed, net in networks(scale)]
    splines = [
        row for seed in range(scale.pick(1, 5)) for n in scale.pick((50,), (50, 500, 5_000)) for row in fitted(seed, n)
    ]
    return summary(rows, splines, sizes)


def summary(rows: list[Row], splines: list[Row], sizes: list[int]) -> Row:
    plain = [row for row in rows if row["family"] != "superfluous"]
    extra = [row for row in rows if row["family"] == "superfluous"]
    missing = np.array([row["grid_missing"] for row in rows])
    # Without those that are the functions of the random networks once more.
    once = np.array([row["grid_missing"] for row in plain])
    means, decay = [interval(column) for column in once.T], slope(sizes, once.mean(axis=0))
    off = {
        "path_norm": max(abs(row["path_norm_over_tv2"] - 1) for row in plain),
        "distinct": max(abs(row["distinct_over_tv2"] - 1) for row in rows),
        "sparsified": max(abs(row["sparsified_over_tv2"] - 1) for row in extra),
        "sparsified_change": max(row["sparsified_change"] for row in extra),
        "spline_network": max(max(row["path_norm_off"], row["half_squares_off"]) for row in splines),
    }
    above = min(row["path_norm_over_tv2"] for row in extra)
    monotone = bool((missing > -TOLERANCE).all() and (np.diff(missing, axis=1) < TOLERANCE).all())
    holds = (
        all(off[key] < TOLERANCE for key in ("path_norm", "distinct", "sparsified", "sparsified_change"))
        and off["spline_network"] < EXACT
        and above > 1.0 + TOLERANCE
        and monotone
        and means[-1][0] < 0.01
        and abs(decay[0] + 1) < 0.35
    )
    return {
        "verdict": {
            "holds": bool(holds),
            "predicted": "path norm = TV(f') to 1e-6 where kinks differ, strictly above with superfluous neurons, "
            "equal again once they are merged; on a grid from below, missing a share like 1/n; 1e-12 for the network "
            "of a spline",
            "measured": f"off by {off['path_norm']:.0e} over {len(plain)} networks; superfluous {above:.2f} times "
            f"TV(f') or more, merged off by {off['distinct']:.0e}, sparsified by {off['sparsified']:.0e}; grid "
            f"{'from below, never falling' if monotone else 'NOT monotone'}, missing {means[-1][0]:.1e} "
            f"[{means[-1][1]:.1e}, {means[-1][2]:.1e}] at n = {sizes[-1]}, slope {decay[0]:.2f} [{decay[1]:.2f}, "
            f"{decay[2]:.2f}]; networks of {len(splines)} splines off by {off['spline_network']:.0e}",
        },
        "largest_relative_difference": off,
        "grid_cells": sizes,
        "grid_missing": means,
        "slope_of_grid_missing": decay,
        "path_norm_over_tv2": {
            family: interval([row["path_norm_over_tv2"] for row in rows if row["family"] == family])
            for family in FAMILIES
        },
        "splines": splines,
        "rows": rows,
    }


def draw(payload: Row, path: Path) -> None:
    figure = new_figure(12.5, 4.8)
    left, right = figure.subplots(1, 2)
    for place, family in enumerate(FAMILIES):
        rows = [row for row in payload["rows"] if row["family"] == family]
        tv2 = [row["tv2"] for row in rows]
        style = {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": "none", "markersize": 6}
        label = family if family != "superfluous" else "superfluous neurons"
        left.plot(tv2, [row["path_norm"] for row in rows], label=label, alpha=0.8, **style)
        if family == "superfluous":
            after = [row["sparsified_over_tv2"] * row["tv2"] for row in rows]
            left.plot(tv2, after, label="the same, after sparsify", **(style | {"markersize": 10, "mfc": "none"}))
            continue  # the functions of the random networks, so their line too
        # Errors of rounding on the finest grids may be of either sign: they are no missing share.
        mean = np.maximum(np.mean([row["grid_missing"] for row in rows], axis=0), 1e-9)
        right.plot(payload["grid_cells"], mean, color=PALETTE[place], marker=MARKERS[place], label=label, markersize=5)
    ends = np.array([min(row["tv2"] for row in payload["rows"]), max(row["tv2"] for row in payload["rows"])])
    guide = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2}
    left.plot(ends, ends, label="predicted: equal", **guide)
    cells = np.array(payload["grid_cells"])
    start = 3 * payload["grid_missing"][0][0]
    right.plot(cells, start * cells[0] / cells, label="predicted: like 1/n", **guide)
    left.set(
        xscale="log", yscale="log", xlabel="TV(f'), from values of f at the kinks", ylabel="path norm of the network"
    )
    right.set(xscale="log", yscale="log", xlabel="cells n of the grid", ylabel="1 - TV on the grid / TV(f'), mean")
    left.set_title("One point per network", color=INK, fontsize=11, loc="left")
    right.set_title("From values on a grid that does not know the kinks", color=INK, fontsize=11, loc="left")
    for panel, place in ((left, "upper left"), (right, "lower left")):
        dress(panel)
        panel.legend(fontsize=8.5, frameon=False, loc=place)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "torch")))
