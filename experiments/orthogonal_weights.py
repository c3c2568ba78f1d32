"""Neurons that see two directions at once need fewer atoms than ReLUs where the target is radial in a plane.

Parhi and Unser (2023): for regularisers built on the k-plane transform some solutions are sums of ``v rho(W'x - t)``
with ``W'W = I_k`` and rho radial; here ``rho(z) = ||z||``, which for k = 1 is ``|t|``, a ReLU up to an affine function.
``pathnorm.deep.KPlaneRidge`` is that network. Which k is cheaper depends on the space that the target is in.

Targets ``g(U'x)`` with x standard normal in d dimensions, U'U = I, noise of 5 %: a rounded cone of two variables
(*radial*, not itself an atom), a saddle with fading arms (*non-radial*) and, as control, a wave of one variable
(*single index*). Networks with k = 1 and k = 2 get the same samples, atoms, steps of Adam and penalties: after a start
with a small lam, lam rises in stages, each ended by the certified multitask lasso over the atoms at hand, which drops
atoms, and by a refit of the linear weights for the error. Counted: the fewest atoms of any stage with a relative error
of at most 0.15 on 2,000 test points without noise; a network that never reaches it counts as all its atoms and one.

Predicted, for every d: on the radial target k = 2 needs at most two thirds of the atoms, on average over seeds; on the
single index k = 1 needs at most as many. ``|W'W - I| <= 1e-6`` throughout, in single precision. The theory orders
nothing on the saddle, which is a difference of two squares of one variable each: reported, not predicted. It could
fail: training may not find the plane, and a rounded cone is not a cone.

Limits: both networks are trained by gradient descent, so no count is an optimum. An atom of k = 2 has more numbers,
2 d - 1 for d + 1 (a rotation of W inside its plane changes nothing): these are in the rows. Sizes, rates and the error
were set on a seed that is not among these; there k = 2 lost on the saddle, and neither network learnt a ring
``cos(2 r) exp(-r^2 / 4)`` in 20 dimensions from 1,000 samples. The rounded cone stands in the place of that ring, and
``sin 1.5 t`` in that of ``sin 2 t``, for that reason.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments._claim import Row, Scale, interval, main
from pathnorm.deep import KPlaneRidge
from pathnorm.problems import MultitaskLasso
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure
from pathnorm.solvers import multitask_lasso

NAME = "orthogonal_weights"
Array = NDArray[np.float64]
TITLES = {
    "radial": "radial: a rounded cone",
    "non-radial": "non-radial: a saddle",
    "single index": "single index: a wave",
}
KINDS = (1, 2)
NOISE, ERROR, TEST, RATE = 0.05, 0.15, 2_000, 2e-2
FEWER = 2.0 / 3.0
LAMS = tuple(3e-3 * 2.0**stage for stage in range(7))
ORTHOGONAL = 1e-6


def target(name: str, z: Array) -> Array:
    """Values (N,) at the projections z (N, 2)."""
    radius = np.linalg.norm(z, axis=1)
    if name == "radial":
        return np.asarray(np.sqrt(np.sum((z - 0.5) ** 2, axis=1) + 0.1))
    if name == "non-radial":
        return np.asarray(z[:, 0] * z[:, 1] / (1.0 + 0.5 * radius**2))
    return np.sin(1.5 * z[:, 0])


def samples(name: str, d: int, n: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Training inputs and noisy values, test inputs and exact values; values in units of their deviation."""
    rng = np.random.default_rng([seed, d])
    U = np.linalg.qr(rng.standard_normal((d, 2)))[0]
    X, Z = rng.standard_normal((n, d)), rng.standard_normal((TEST, d))
    y, truth = target(name, X @ U), target(name, Z @ U)
    return X, y / truth.std() + NOISE * rng.standard_normal(n), Z, truth / truth.std()


# ---------------------------------------------------------------------------- one network
def train(module: KPlaneRidge, x: Tensor, y: Tensor, lam: float, steps: int) -> float:
    """Minimise ``1/2 mean square + lam norm`` by Adam; return the largest deviation from orthogonality on the way."""
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1 * RATE)
    worst = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (module(x)[:, 0] - y).square().mean() + lam * module.norm()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            worst = max(worst, module.orthogonality())
    return max(worst, module.orthogonality())


def atom_values(module: KPlaneRidge, X: Array) -> Array:
    """``||W_j'x - t_j||`` (N, K) in double precision."""
    weight, offset = module.weight.detach().double().numpy(), module.offset.detach().double().numpy()
    return np.asarray(np.linalg.norm(np.einsum("nd,jdk->njk", X, weight) - offset, axis=2))


def sparsified(module: KPlaneRidge, X: Array, y: Array, lam: float) -> KPlaneRidge:
    """The module with the output weights of the lasso over its atoms, affine part free, without those at zero."""
    affine = np.hstack([np.ones((len(X), 1)), X])
    basis, phi = np.linalg.qr(affine)[0], atom_values(module, X)
    off, rest = phi - basis @ (basis.T @ phi), y - basis @ (basis.T @ y)
    solution = multitask_lasso(MultitaskLasso.from_samples(off, rest[:, None], lam * len(y)), tol=1e-5)
    coef = solution.coef[:, 0]
    with torch.no_grad():
        module.coef.copy_(torch.from_numpy(coef)[None])
        _write_affine(module, np.linalg.lstsq(affine, y - phi @ coef, rcond=None)[0])
    return module.prune()


def _write_affine(module: KPlaneRidge, line: Array) -> None:
    module.affine.bias.copy_(torch.from_numpy(line[:1]))
    module.affine.weight.copy_(torch.from_numpy(line[None, 1:]))


def refitted_error(module: KPlaneRidge, X: Array, y: Array, Z: Array, truth: Array) -> float:
    """Relative root mean squared error on the test points with linear weights refitted without a penalty."""
    table, held = (np.hstack([np.ones((len(P), 1)), P, atom_values(module, P)]) for P in (X, Z))
    weights = np.linalg.lstsq(table, y, rcond=1e-8)[0]
    return float(np.sqrt(np.mean((held @ weights - truth) ** 2)))


def path(name: str, d: int, k: int, seed: int, sizes: Row) -> Row:
    """One network along its path of lam: atoms, numbers and error after every stage."""
    X, y, Z, truth = samples(name, d, sizes["samples"], seed)
    x, values = torch.from_numpy(X).float(), torch.from_numpy(y).float()
    torch.manual_seed(seed)
    module = KPlaneRidge(d, 1, sizes["atoms"], k)
    worst = train(module, x, values, LAMS[0], sizes["start"])
    stages = []
    for lam in LAMS:
        worst = max(worst, train(module, x, values, lam, sizes["stage"]))
        module = sparsified(module, X, y, lam)
        numbers = module.atoms * (d + 1 if k == 1 else 2 * d - 1) + d + 1
        error = refitted_error(module, X, y, Z, truth)
        stages.append({"lam": lam, "atoms": module.atoms, "numbers": numbers, "error": error})
    worst = max(worst, module.bake().orthogonality())
    good = [stage for stage in stages if stage["error"] <= ERROR]
    fewest = min(good, key=lambda stage: stage["atoms"]) if good else None
    return {
        "target": name,
        "d": d,
        "k": k,
        "seed": seed,
        "reached": bool(good),
        "atoms_needed": fewest["atoms"] if fewest else sizes["atoms"] + 1,
        "numbers_needed": fewest["numbers"] if fewest else None,
        "least_error": min(stage["error"] for stage in stages),
        "orthogonality": worst,
        "stages": stages,
    }


# ---------------------------------------------------------------------------- run
def run(scale: Scale) -> Row:
    """All targets, dimensions, kinds and seeds."""
    sizes = {
        "samples": scale.pick(150, 1_000),
        "atoms": scale.pick(12, 48, 96),
        "start": scale.pick(20, 500, 1_000),
        "stage": scale.pick(5, 100, 200),
    }
    dimensions, seeds = scale.pick((4,), (5, 20), (5, 10, 20)), scale.pick(1, 3, 6)
    rows = [
        path(name, d, k, seed, sizes) for name in TITLES for d in dimensions for k in KINDS for seed in range(seeds)
    ]
    cells = [cell_of(rows, name, d, k) for name in TITLES for d in dimensions for k in KINDS]
    return {"verdict": verdict(cells, rows), **sizes, "tolerated_error": ERROR, "cells": cells, "rows": rows}


def cell_of(rows: list[Row], name: str, d: int, k: int) -> Row:
    """Means over seeds and their intervals."""
    mine = [row for row in rows if (row["target"], row["d"], row["k"]) == (name, d, k)]
    numbers = [row["numbers_needed"] for row in mine if row["reached"]]
    return {
        "target": name,
        "d": d,
        "k": k,
        "reached": sum(row["reached"] for row in mine),
        "seeds": len(mine),
        "atoms_needed": interval([row["atoms_needed"] for row in mine]),
        "numbers_needed": interval(numbers) if numbers else None,
        "least_error": interval([row["least_error"] for row in mine]),
    }


def verdict(cells: list[Row], rows: list[Row]) -> Row:
    """Fewer atoms for k = 2 on the radial target, not fewer on the single index, orthonormal weights."""
    atoms = {(cell["target"], cell["d"], cell["k"]): cell["atoms_needed"][0] for cell in cells}
    reached = {(cell["target"], cell["d"], cell["k"]): cell["reached"] > 0 for cell in cells}
    dimensions = sorted({cell["d"] for cell in cells})
    fewer = all(reached["radial", d, 2] and atoms["radial", d, 2] <= FEWER * atoms["radial", d, 1] for d in dimensions)
    control = all(
        reached["single index", d, 1] and atoms["single index", d, 1] <= atoms["single index", d, 2] for d in dimensions
    )
    worst = max(row["orthogonality"] for row in rows)
    return {
        "holds": bool(fewer and control and worst <= ORTHOGONAL),
        "fewer_atoms_on_the_radial_target": bool(fewer),
        "control_holds": bool(control),
        "orthonormal": bool(worst <= ORTHOGONAL),
        "predicted": f"at a relative error of {ERROR:g} k = 2 needs at most {FEWER:.2f} of the atoms of ReLUs on the "
        f"radial target, not fewer on the single index; deviation from W'W = I at most {ORTHOGONAL:g}",
        "measured": "atoms for k = 1 and 2 (seeds that got there): "
        + "; ".join(
            f"{a['target']}, d = {a['d']}: {a['atoms_needed'][0]:.1f} ({a['reached']}) and "
            f"{b['atoms_needed'][0]:.1f} ({b['reached']})"
            for a, b in zip(cells[::2], cells[1::2], strict=True)
        )
        + f"; largest deviation {worst:.1e}",
    }


# ---------------------------------------------------------------------------- figure
def draw(payload: Row, path: Path) -> None:
    """Test error against atoms, one curve per network."""
    dimensions = sorted({row["d"] for row in payload["rows"]})
    figure = new_figure(4.0 * len(TITLES), 3.2 * len(dimensions) + 0.5)
    panels = figure.subplots(len(dimensions), len(TITLES), squeeze=False, sharex=True, sharey=True)
    for line, d in zip(panels, dimensions, strict=True):
        for panel, name in zip(line, TITLES, strict=True):
            for row in (row for row in payload["rows"] if (row["target"], row["d"]) == (name, d)):
                index = row["k"] - 1
                panel.plot(
                    [stage["atoms"] for stage in row["stages"]],
                    [stage["error"] for stage in row["stages"]],
                    color=PALETTE[index],
                    marker=MARKERS[index],
                    markersize=4,
                    linewidth=1.1,
                    alpha=0.8,
                    label=("k = 1 (ReLU)", "k = 2")[index] if row["seed"] == 0 else None,
                )
            panel.axhline(payload["tolerated_error"], color=INK, linestyle=(0, (4, 2)), linewidth=1)
            panel.set(xscale="log", yscale="log")
            panel.set_title(f"{TITLES[name]}, d = {d}", color=INK, fontsize=10, loc="left")
            dress(panel)
    for panel in panels[-1]:
        panel.set_xlabel("atoms")
    for panel in panels[:, 0]:
        panel.set_ylabel("relative test error")
    panels[0, 0].legend(fontsize=9, frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "torch")))
