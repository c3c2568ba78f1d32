"""Finitely many neurons are enough, fewer than there are samples: ``K <= N - d - 1``, whatever the network had before.

The representer theorem of R-BV2 (Parhi & Nowak 2021): among the minimisers of ``sum loss + lam R-TV2(f)`` over all
functions of d variables is a network with fewer than N neurons. With a free affine part Caratheodory's argument leaves
at most ``N - d - 1``, the dimension of what the affine functions do not reach on N samples in general position; for one
input that is ``N - 2`` knots (Mammen & van de Geer 1997). The theorem says that *some* solution is so sparse: a solver
may stop at another one, and a network that was trained has the width it was given. ``pathnorm.sparsify`` is the proof
as an algorithm: same values on the samples, no larger path norm, at most that many neurons.

Measured:

- ``ReLURegressor`` for 2, 3 and 5 inputs, several N, lam and seeds: neurons of the solution, and after sparsify;
- torch networks of width 4 N trained with weight decay: neurons before and after, values on the samples, path norm;
- ``BV2Regressor`` for N samples and lam down to interpolation: knots.

It fails if one network of all has more than N - d - 1 neurons after sparsify, or its values on the samples change by
more than 1e-8 of their range, or its path norm grows by more than 1e-10, or one spline has more than N - 2 knots; or if
at a tenth of lam_max the certified solutions use, on average, half of the bound or more ("typically far fewer": not the
theorem's word, but what it is used for).

Limits: how many neurons a solution needs depends on the data and on lam; the bound is attained by data that nothing
sparser explains, as where a spline interpolates noise. A solution whose certificate is not within 1e-4 is counted as
found, and the number of those is reported.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from experiments._claim import Row, Scale, interval, main
from experiments._small import mlp
from pathnorm import BV2Regressor, ReLURegressor, ShallowNet, sparsify
from pathnorm.errors import CertificateWarning
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

NAME = "representer_bound"
INPUTS = (2, 3, 5)
SHARES = (1e-1, 1e-2, 1e-3)
SPLINE_SHARES = (1e-1, 1e-2, 1e-3, 1e-5, 0.0)
WIDTH_OVER_N = 4
CHANGE, GROWTH = 1e-8, 1e-10


def samples(d: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of two directions with noise: nothing that few neurons would be exactly right for."""
    rng = np.random.default_rng([seed, d, count])
    X = rng.uniform(-1, 1, (count, d))
    y = np.sin(3 * X[:, 0]) + X[:, -1] ** 2 + 0.2 * rng.standard_normal(count)
    return X, y


def bound(count: int, d: int) -> int:
    """Most neurons a sparsest solution can need: N - d - 1, for one output and samples in general position."""
    return count - d - 1


def sparsified(net: ShallowNet, X: np.ndarray) -> Row:
    """Neurons before and after, and what it did to the values on the samples and to the path norm."""
    fewer, before = sparsify(net, X), net(X)
    return {
        "neurons": net.n_neurons,
        "after": fewer.n_neurons,
        "bound": bound(*X.shape),
        "change": float(np.abs(fewer(X) - before).max() / np.ptp(before)),
        "path_norm": net.path_norm(),
        "growth": fewer.path_norm() / net.path_norm() - 1 if net.n_neurons else 0.0,
    }


def certified(d: int, count: int, seed: int) -> list[Row]:
    """Solutions of ReLURegressor at several shares of lam_max."""
    X, y = samples(d, count, seed)
    settings = {"standardize": False, "certify": "search", "random_state": seed}
    rows = []
    with warnings.catch_warnings():
        # A gap above tol is in the rows, as a number.
        warnings.simplefilter("ignore", CertificateWarning)
        top = ReLURegressor(lam=10.0 * count, **settings).fit(X, y).lam_max_
        for share in SHARES:
            model = ReLURegressor(lam=share * top, **settings).fit(X, y)
            row = {"inputs": d, "samples": count, "seed": seed, "lam_over_lam_max": share}
            rows.append(row | {"gap": model.certificate_.gap} | sparsified(model.network_, X))
    return rows


def trained(d: int, count: int, seed: int, steps: int) -> Row:
    """A network of width 4 N after ``steps`` of Adam on ``1/2 sum of squares + lam / 2 squared weights``."""
    X, y = samples(d, count, seed)
    torch.manual_seed(seed)
    model = mlp(d, WIDTH_OVER_N * count, 1).double()
    inputs, targets = torch.from_numpy(X), torch.from_numpy(y)[:, None]
    weights = [model[0].weight, model[2].weight]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        decay = sum(weight.square().sum() for weight in weights)
        (0.5 * (model(inputs) - targets).square().sum() + 0.05 * decay).backward()
        optimizer.step()
    return {"inputs": d, "samples": count, "seed": seed} | sparsified(ShallowNet.from_torch(model), X)


def splines(count: int, seed: int) -> list[Row]:
    """Knots of BV2 fits down to the interpolation of noise."""
    rng = np.random.default_rng([seed, count])
    x = np.sort(rng.random(count))
    y = np.sin(9 * x) + 0.2 * rng.standard_normal(count)
    top = BV2Regressor(lam=1.0).fit(x, y).lam_max_
    rows = []
    for share in SPLINE_SHARES:
        model = BV2Regressor(lam=share * top).fit(x, y)
        row = {"samples": count, "seed": seed, "lam_over_lam_max": share, "neurons": int(model.n_knots_)}
        rows.append(row | {"after": int(model.n_knots_), "bound": bound(count, 1), "gap": model.certificate_.gap})
    return rows


def run(scale: Scale) -> Row:
    sizes = scale.pick((15, 30), (20, 40, 80), (20, 40, 80, 160, 320))
    seeds = range(scale.pick(1, 2, 6))
    inputs = scale.pick(INPUTS[:2], INPUTS)
    networks = [row for d in inputs for n in sizes for seed in seeds for row in certified(d, n, seed)]
    wide = [
        trained(d, n, seed, scale.pick(50, 500, 2_000))
        for d in inputs
        for n in sizes[: scale.pick(2, 2, 3)]
        for seed in seeds
    ]
    knots = [row for n in scale.pick((10, 50), (10, 100, 1_000, 10_000)) for seed in seeds for row in splines(n, seed)]
    every = networks + wide
    over = sum(row["after"] > row["bound"] for row in every)
    over_knots = sum(row["neurons"] > row["bound"] for row in knots)
    change, growth = (max(row[key] for row in every) for key in ("change", "growth"))
    shares = {
        f"{share:g}": interval([r["after"] / r["bound"] for r in networks if r["lam_over_lam_max"] == share])
        for share in SHARES
    }
    before = sum(row["neurons"] > row["bound"] for row in networks)
    shrunk = interval([row["after"] / row["bound"] for row in wide])
    holds = not over and not over_knots and change < CHANGE and growth < GROWTH and shares[f"{SHARES[0]:g}"][0] < 0.5
    fullest = max(row["neurons"] / row["bound"] for row in knots)
    return {
        "verdict": {
            "holds": bool(holds),
            "predicted": "after sparsify never more than N - d - 1 neurons, same values on the samples, no larger path "
            "norm; never more than N - 2 knots; less than half of the bound at a tenth of lam_max",
            "measured": f"above the bound: {over} of {len(every)} networks after sparsify ({before} of {len(networks)} "
            f"certified solutions before it), {over_knots} of {len(knots)} splines, of which the fullest has "
            f"{fullest:.0%} of it; values change by {change:.0e}, path norm by {growth:+.0e} at most; share of the "
            "bound: "
            + ", ".join(f"{value[0]:.0%} at {share} lam_max" for share, value in shares.items())
            + f", {shrunk[0]:.0%} [{shrunk[1]:.0%}, {shrunk[2]:.0%}] for trained networks of width {WIDTH_OVER_N} N",
        },
        "share_of_the_bound": shares | {"trained": shrunk},
        "certified_above_bound_before_sparsify": before,
        "not_certified_to_1e-4": sum(row["gap"] > 1e-4 for row in networks),
        "regressor": networks,
        "trained": wide,
        "splines": knots,
    }


def draw(payload: Row, path: Path) -> None:
    figure = new_figure(15.0, 7.8)
    panels = figure.subplots(2, 3)
    inputs = sorted({row["inputs"] for row in payload["regressor"]})
    for panel, d in zip(panels[0], inputs, strict=False):
        rows = [row for row in payload["regressor"] if row["inputs"] == d]
        for place, share in enumerate(SHARES):
            mine = [row for row in rows if row["lam_over_lam_max"] == share]
            _draw_range(panel, mine, PALETTE[place], MARKERS[place], f"λ = {share:g} λ_max")
        _draw_bound(panel, rows, "N - d - 1")
        panel.set_title(f"ReLURegressor, {d} inputs", color=INK, fontsize=11, loc="left")
    for place, d in enumerate(inputs):
        rows = [row for row in payload["trained"] if row["inputs"] == d]
        _draw_range(panels[1, 0], rows, PALETTE[place], MARKERS[place], f"{d} inputs")
    _draw_bound(panels[1, 0], [row for row in payload["trained"] if row["inputs"] == inputs[0]], "N - d - 1, d = 2")
    widths = sorted({(row["samples"], row["neurons"]) for row in payload["trained"]})
    panels[1, 0].plot(*zip(*widths, strict=True), color=PALETTE[5], linestyle=":", label="trained width, 4 N")
    panels[1, 0].set_title("Trained with weight decay, then sparsify", color=INK, fontsize=11, loc="left")
    for place, share in enumerate(SPLINE_SHARES):
        mine = [row for row in payload["splines"] if row["lam_over_lam_max"] == share]
        label = f"λ = {share:g} λ_max" if share else "λ = 0: interpolation"
        _draw_range(panels[1, 1], mine, PALETTE[place], MARKERS[place], label)
    _draw_bound(panels[1, 1], payload["splines"], "N - 2")
    panels[1, 1].set_title("BV2Regressor: knots", color=INK, fontsize=11, loc="left")
    before = [row["neurons"] / row["bound"] for row in payload["regressor"]]
    after = [row["after"] / row["bound"] for row in payload["regressor"]]
    panels[1, 2].scatter(before, after, color=PALETTE[0], s=22, alpha=0.7, label="one certified solution")
    end = max(1.05, *before)
    panels[1, 2].plot([0, end], [0, end], color=PALETTE[5], linestyle=":", label="unchanged")
    panels[1, 2].axhline(1.0, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="predicted: not above 1")
    panels[1, 2].set(xlabel="neurons / bound, before sparsify", ylabel="neurons / bound, after")
    panels[1, 2].set_title("ReLURegressor, before and after sparsify", color=INK, fontsize=11, loc="left")
    for panel in panels.ravel():
        if panel is not panels[1, 2]:
            what = "knots K" if panel is panels[1, 1] else "neurons K after sparsify"
            panel.set(xscale="log", yscale="log", xlabel="samples N", ylabel=what)
            # Room for the legend above the lines.
            panel.set_ylim(top=panel.get_ylim()[1] * 4)
        dress(panel)
        panel.legend(fontsize=8.5, frameon=False, loc="lower right" if panel is panels[1, 2] else "upper left")
    figure.savefig(path, dpi=150)


def _draw_range(panel, rows: list[Row], colour: str, marker: str, label: str) -> None:  # type: ignore[no-untyped-def]
    """Means over seeds and the largest."""
    sizes = sorted({row["samples"] for row in rows})
    found = [[max(row["after"], 0.8) for row in rows if row["samples"] == size] for size in sizes]
    panel.plot(sizes, [np.mean(values) for values in found], color=colour, marker=marker, label=label)
    panel.plot(sizes, [max(values) for values in found], color=colour, marker="_", markersize=10, linestyle="none")


def _draw_bound(panel, rows: list[Row], label: str) -> None:  # type: ignore[no-untyped-def]
    bounds = sorted({(row["samples"], row["bound"]) for row in rows})
    guide = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.3}
    panel.plot(*zip(*bounds, strict=True), label=f"bound of the theorem, {label}", **guide)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "torch")))
