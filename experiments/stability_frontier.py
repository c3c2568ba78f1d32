"""Stability is bought with accuracy by every method, learned or not, and worst cases are far from random noise.

Published work disagrees on who is the more stable: Antun, Renna, Poon, Adcock, Hansen, "On instabilities of deep
learning in image reconstruction", PNAS 2020; Genzel, Macdonald, März, "Solving inverse problems with deep neural
networks - robustness included?", 2020; Darestani, Chaudhari, Heckel, "Measuring robustness in deep learning based
compressive sensing", 2021; Alaifari, Alberti, Gauksson, "Localized adversarial artifacts for compressed sensing MRI",
2023. A single number of each method decides nothing, as every method can be made more stable: so here is the whole
frontier of each, over the strength of its regularisation, and no ranking.

Measured, for single-coil MRI by lines with noise: PSNR on images that were not trained on; ``||R(y + e) - R(y)|| /
||e||`` for random e of the size of the noise (the control) and for the worst e of that size that a gradient attack
finds, with the same few steps for all methods: what it reports was attained, the worst case is at least that.
Methods: total variation over its weight; a learned convex ridge regulariser over its weight; a small residual network
behind zero filling over the noise in its training data. Seeds change mask, noise, images and the networks; the
regulariser is trained once.

Predicted: (1) for every method, strength and seed the worst amplification found is at least 1.5 times that of random
noise; (2) along each frontier, from the weakest to the strongest regularisation, the worst amplification falls, in the
mean over seeds; (3) the strongest is not the most accurate. It could fail: a network trained with noise may gain
accuracy with it throughout, and an attack of a few steps may find little.

A first run did not hold: the smallest ratio was 1.29, and the worst amplification of total variation rose from 1.78 to
1.83. Its attacks had half the steps; the weakest weights left a residual of a fifth of the noise or less, for total
variation with a duality gap of 0.22 after the steps that were made; the regulariser's strongest was the one that fits
the noise. Since then the weights run from residuals of about half the size of the noise upwards, with more steps of all
kinds; what is predicted is the same.

Limits: images of 32 x 32 pixels, one sampling rate, one attacked image per seed and strength, networks of one size
trained for a few hundred steps; nothing here says which method is the more stable at another size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._harness import data_root
from benchmarks.cifar_resnet import MEAN, STD, load_cifar10
from experiments._claim import Row, Scale, interval, main
from pathnorm.imaging import ConvexRidge, FourierMRI
from pathnorm.imaging.perturbations import Ball, norm_of
from pathnorm.imaging.primal_dual import TotalVariationSteps
from pathnorm.imaging.reconstructors import Checked
from pathnorm.imaging.scans import Scans, psnr
from pathnorm.imaging.stability import Local, explore, random_amplifications, worst
from pathnorm.imaging.train_ridge import Schedule, train_ridge
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

NAME = "stability_frontier"
SIZE, LINES, NOISE, LEAST_RATIO = 32, 12, 0.02, 1.5
WEIGHTS = {"tv": (0.005, 0.012, 0.028, 0.066), "ridge": (0.02, 0.06, 0.2, 0.6)}
TRAINING_NOISE = (0.0, 0.02, 0.06, 0.18)
TITLES = {"tv": "total variation", "ridge": "ConvexRidge", "cnn": "residual network"}
Reconstruct = Callable[[Tensor], Tensor]


def phantoms(count: int, rng: np.random.Generator) -> Tensor:
    """Images (count, 32, 32) between 0 and 1: ellipses with shading, in the place of photographs for quick runs."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    found = np.zeros((count, SIZE, SIZE))
    for image in found:
        for _ in range(8):
            centre, radii = rng.uniform(4, SIZE - 4, 2), rng.uniform(2, 12, 2)
            inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
            image += inside * (rng.uniform(-0.3, 0.5) + 0.01 * rng.standard_normal() * (rows - centre[0]))
    return torch.from_numpy(np.clip(found, 0.0, 1.0))


def photographs(split: str, count: int) -> Tensor:
    """The first images of CIFAR-10 in grey, (count, 32, 32) between 0 and 1."""
    images, _ = load_cifar10(data_root(), split, count)
    mean, std = (torch.tensor(part)[:, None, None] for part in (MEAN, STD))
    grey: Tensor = ((images * std + mean) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    return grey.clamp(0.0, 1.0).double()


def line_mask(rng: np.random.Generator) -> Tensor:
    """Four columns in the middle of k-space and others at random."""
    middle = np.arange(SIZE // 2 - 2, SIZE // 2 + 2)
    others = rng.choice(np.setdiff1d(np.arange(SIZE), middle), LINES - len(middle), replace=False)
    mask = torch.zeros(SIZE, SIZE)
    mask[:, np.concatenate([middle, others]).tolist()] = 1.0
    return mask


class Residual(nn.Module):
    """Four convolutions on real and imaginary part of the zero-filled image, added to it."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        widths = (2, channels, channels, channels, 2)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return images (N, H, W), complex, for such images."""
        parts = torch.stack([x.real, x.imag], dim=1)
        parts = parts + self.layers(parts)
        return torch.complex(parts[:, 0], parts[:, 1])


def trained(images: Tensor, operator: FourierMRI, noise: float, *, steps: int, seed: int) -> Residual:
    """Minimise the mean squared error over images, measured anew with noise in every step."""
    torch.manual_seed(seed)
    model = Residual()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rows = torch.Generator().manual_seed(seed)
    pool = images.to(torch.complex64)
    for _ in range(steps):
        clean = pool[torch.randint(len(pool), (8,), generator=rows)]
        y = operator.A(clean)
        y = y + noise * operator.mask * torch.randn(y.shape, generator=rows, dtype=y.dtype)
        error = model(operator.A_adjoint(y)) - clean
        loss = error.real.square().mean() + error.imag.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def ridge_steps(ridge: ConvexRidge, operator: FourierMRI, lam: float, *, steps: int) -> Reconstruct:
    """Accelerated gradient steps on ``1/2 ||A x - y||^2 + lam R(x)`` [Nesterov 1983]."""
    filters = ridge.filters().detach().double()
    size = 1.0 / (1.0 + lam * ridge.certify().lipschitz)

    def reconstruct(y: Tensor) -> Tensor:
        back = operator.A_adjoint(y)
        x = point = back
        for step in range(steps):
            new = point - size * (operator.normal(point) - back + lam * ridge.gradient(point, filters))
            point, x = new + step / (step + 3.0) * (new - x), new
        return x

    return reconstruct


def looked_at(function: Reconstruct, scans: Scans, *, steps: int, seed: int, dtype: torch.dtype) -> Row:
    """Accuracy on all images, amplification on the first."""
    model = Checked(function, (SIZE, SIZE), complex_image=True, dtype=dtype)
    answers = [model(y) for y in scans.data]
    here = Local(model, scans.data[0], answers[0], scans.samples, scans.operator.A, True, False)
    ball = Ball("l2", scans.noise_size)
    random = random_amplifications(here, ball, draws=4, seed=seed)
    known, first = explore(here, ball.radius, steps=steps, seed=seed)
    climbed = worst(here, ball, known, first.perturbation, steps=steps, restarts=0, seed=seed)
    return {
        "psnr": float(np.mean([psnr(found, image) for found, image in zip(answers, scans.images, strict=True)])),
        "random": float(np.mean(random)),
        "worst": max(first.amplification, climbed.amplification),
        "residual": float(np.mean([norm_of(scans.operator.A(x) - y) for x, y in zip(answers, scans.data, strict=True)]))
        / scans.noise_size,
    }


def run(scale: Scale) -> Row:
    """All methods, strengths and seeds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measured(scale)
    finally:
        torch.set_num_threads(threads)


def measured(scale: Scale) -> Row:
    """The rows, their means and the verdict."""
    seeds, tested = scale.pick(1, 3, 6), scale.pick(2, 4, 16)
    steps, solver, epochs = scale.pick(2, 8, 20), scale.pick(20, 300, 600), scale.pick(5, 300, 3_000)
    few = slice(1, None, 2) if scale is Scale.QUICK else slice(None)
    rng = np.random.default_rng(0)
    train = phantoms(40, rng) if scale is Scale.QUICK else photographs("train", 2_000)
    test = phantoms(2, rng) if scale is Scale.QUICK else photographs("test", seeds * tested)
    plan = Schedule(steps=scale.pick(2, 200, 1_500), patch=SIZE)
    ridge = train_ridge(list(train), schedule=plan).ridge.for_noise(NOISE)[0]
    rows: list[Row] = []
    for seed in range(seeds):
        operator = FourierMRI(line_mask(np.random.default_rng(100 + seed)))
        scans = Scans.of(operator, test[seed * tested : (seed + 1) * tested], noise=NOISE, seed=seed)
        methods: list[tuple[str, float, Reconstruct, torch.dtype]] = []
        for weight in WEIGHTS["tv"][few]:
            tv = TotalVariationSteps(operator, scans.data[0], weight, steps=solver)
            methods.append(("tv", weight, tv, torch.float64))
        for weight in WEIGHTS["ridge"][few]:
            methods.append(("ridge", weight, ridge_steps(ridge, operator, weight, steps=solver // 5), torch.float64))
        for noise in TRAINING_NOISE[few]:
            network = trained(train, operator, noise, steps=epochs, seed=seed)
            methods.append(("cnn", noise, _behind(network, operator), torch.float32))
        for name, strength, function, dtype in methods:
            found = looked_at(function, scans, steps=steps, seed=seed, dtype=dtype)
            rows.append({"method": name, "strength": strength, "seed": seed} | found)
    frontier, verdict = judged(rows)
    return {
        "size": SIZE,
        "lines": LINES,
        "noise": NOISE,
        "seeds": seeds,
        "images": "phantoms" if scale is Scale.QUICK else "CIFAR-10 in grey",
        "attack_steps": steps,
        "verdict": verdict,
        "frontier": frontier,
        "rows": rows,
    }


def _behind(network: Residual, operator: FourierMRI) -> Reconstruct:
    return lambda y: network(operator.A_adjoint(y)[None])[0]


def judged(rows: list[Row]) -> tuple[list[Row], Row]:
    """Means over seeds with intervals, and the verdict."""
    frontier = []
    for name, strength in dict.fromkeys((row["method"], row["strength"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["strength"]) == (name, strength)]
        means = {key: interval([row[key] for row in mine]) for key in ("psnr", "random", "worst", "residual")}
        frontier.append({"method": name, "strength": strength} | means)
    ratio = min(row["worst"] / row["random"] for row in rows)
    said, falls, inside = [], True, True
    for name in dict.fromkeys(cell["method"] for cell in frontier):
        cells = sorted((cell for cell in frontier if cell["method"] == name), key=lambda cell: cell["strength"])
        weakest, strongest = cells[0], cells[-1]
        best = max(cells, key=lambda cell: cell["psnr"][0])
        falls &= strongest["worst"][0] < weakest["worst"][0]
        inside &= best is not strongest
        said.append(
            f"{TITLES[name]}: worst {weakest['worst'][0]:.2f} to {strongest['worst'][0]:.2f}, most accurate at "
            f"{best['strength']:g} with {best['psnr'][0]:.1f} dB, random {best['random'][0]:.2f}, worst "
            f"{best['worst'][0]:.2f}"
        )
    return frontier, {
        "holds": bool(ratio >= LEAST_RATIO and falls and inside),
        "predicted": f"worst at least {LEAST_RATIO:g} times random for every method, strength and seed; the worst "
        "falls from the weakest to the strongest regularisation of each; the strongest is not the most accurate",
        "measured": f"smallest ratio {ratio:.2f}; from weakest to strongest, " + "; ".join(said),
        "ratio": ratio,
        "falls": bool(falls),
        "strongest_is_not_best": bool(inside),
    }


def draw(payload: Row, path: Path) -> None:
    """Accuracy against amplification: the worst found, and the control."""
    figure = new_figure(9.6, 4.0)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key, title in (
        (panels[0], "random", "amplification of random noise"),
        (panels[1], "worst", "worst amplification found (at least)"),
    ):
        for place, name in enumerate(dict.fromkeys(cell["method"] for cell in payload["frontier"])):
            cells = [cell for cell in payload["frontier"] if cell["method"] == name]
            cells.sort(key=lambda cell: cell["strength"])
            colour, marker = PALETTE[place], MARKERS[place]
            x, y = [cell[key][0] for cell in cells], [cell["psnr"][0] for cell in cells]
            panel.plot(x, y, color=colour, marker=marker, label=TITLES[name])
            panel.annotate(
                "strong", (x[-1], y[-1]), textcoords="offset points", xytext=(5, -10), fontsize=7.5, color=colour
            )
            mine = [row for row in payload["rows"] if row["method"] == name]
            panel.plot(
                [row[key] for row in mine],
                [row["psnr"] for row in mine],
                marker,
                color=colour,
                alpha=0.25,
                markersize=3,
            )
        panel.axvline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        panel.set(xlabel=title, xlim=(0.0, None))
        dress(panel)
    panels[0].set(ylabel="PSNR in dB; small marks: single seeds")
    panels[1].legend(fontsize=8.5, frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "torch", "PyWavelets")))
