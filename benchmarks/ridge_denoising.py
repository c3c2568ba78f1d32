"""The learned convex regulariser against total variation: denoising of photographs at sigma = 5, 15, 25 of 255.

Photographs that scikit-image and scikit-learn bring along, in grey. Regularisers are trained on some of them, the
weights of both methods are tuned on crops of those, and the test images are others: nothing is chosen on them. Both
minimise to a certified gap. Run with ``python -m benchmarks.ridge_denoising``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import color, data
from sklearn.datasets import load_sample_images
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks._harness import RESULTS, environment, print_table, spread, write_json
from pathnorm.imaging import ConvexRidge, Identity, reconstruct
from pathnorm.imaging.train_ridge import Schedule, train_ridge

TRAIN = ("china", "motorcycle", "flower", "coins", "rocket", "brick", "immunohistochemistry")
TEST = ("camera", "astronaut", "chelsea", "coffee")
# Where the weights are tuned: top left corners in training images.
TUNE = {"china": (60, 120), "motorcycle": (180, 300), "flower": (120, 220), "brick": (100, 100), "coins": (50, 50)}
SIGMAS = (5, 15, 25)
TOL, LOOSE = 1e-4, 1e-3  # of the test, and while weights are tuned
CHANNELS, SIZES, KNOTS = (24,), (5,), 101
TV_SHARES = (0.25, 0.3, 0.36, 0.43, 0.5, 0.58, 0.67, 0.77)  # lam of TV over sigma
AIM_DB = 0.5
Row = dict[str, Any]


def grey(name: str) -> Tensor:
    """A photograph between 0 and 1, (H, W)."""
    photographs = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    if name in photographs:
        found = photographs[name]
    else:
        found = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    found = color.rgb2gray(found) if found.ndim == 3 else found / 255.0
    return torch.from_numpy(np.asarray(found, dtype=np.float64))


def halved(image: Tensor) -> Tensor:
    """Means of 2 x 2 pixels: finer texture for the same number of pixels."""
    return torch.nn.functional.avg_pool2d(image[None, None], 2)[0, 0]


def middle(image: Tensor, size: int) -> Tensor:
    """The middle of an image, at most size x size."""
    top, left = (max(0, (most - size) // 2) for most in image.shape)
    return image[top : top + size, left : left + size]


def with_noise(image: Tensor, sigma: int, seed: int) -> Tensor:
    """The image plus normal noise of standard deviation sigma / 255."""
    rows = torch.Generator().manual_seed(1_000 * sigma + seed)
    return image + sigma / 255.0 * torch.randn(image.shape, generator=rows, dtype=image.dtype)


def psnr(found: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the peak being 1."""
    return -10.0 * math.log10(float((found - truth).square().mean()))


def denoise(
    images: Sequence[Tensor], sigma: int, regularizer: str | ConvexRidge, lam: float, *, tol: float = TOL
) -> list[Row]:
    """Solve for every image and measure."""
    rows = []
    for seed, image in enumerate(images):
        y = with_noise(image, sigma, seed)
        found = reconstruct(y, Identity(tuple(image.shape)), regularizer, lam, tol=tol, max_iter=3_000)
        rows.append({"psnr": psnr(found.image, image), "gap": found.certificate.gap, "steps": found.n_iter})
    return rows


def tuned_tv(images: Sequence[Tensor], sigma: int) -> tuple[float, list[Row]]:
    """The lam of TV that is best on the tuning crops, and what others reach there."""
    tried = []
    for share in TV_SHARES:
        lam = share * sigma / 255.0
        tried.append(
            {"lam": lam, "psnr": statistics.mean(row["psnr"] for row in denoise(images, sigma, "tv", lam, tol=LOOSE))}
        )
    return max(tried, key=lambda row: row["psnr"])["lam"], tried


def tuned_ridge(ridge: ConvexRidge, images: Sequence[Tensor], sigma: int) -> tuple[float, float, list[Row]]:
    """The mu and lam that are best on the tuning crops: one after the other, around what training found."""
    first, lam = ridge.for_noise(sigma / 255.0)
    mu, tried = float(first.mu), []

    def reached(mu: float, lam: float) -> float:
        value = statistics.mean(row["psnr"] for row in denoise(images, sigma, ridge.scaled(mu), lam, tol=LOOSE))
        tried.append({"mu": mu, "lam": lam, "psnr": value})
        return value

    best = reached(mu, lam)
    for factors in ((1.25, 1.0), (1.0, 1.25), (1.12, 1.0), (1.0, 1.12)):
        for sign in (1.0, -1.0):
            while True:
                other = mu * factors[0] ** sign, lam * factors[1] ** sign
                value = reached(*other)
                if value <= best:
                    break
                best, (mu, lam) = value, other
    return mu, lam, tried


def measure(
    method: str, regularizer: str | ConvexRidge, lam: float, sigma: int, images: dict[str, Tensor], **facts: Any
) -> list[Row]:
    """Rows of the result: one per test image."""
    rows = denoise(list(images.values()), sigma, regularizer, lam)
    return [
        {"method": method, "sigma": sigma, "image": name, "lam": lam, **facts, **row}
        for name, row in zip(images, rows, strict=True)
    ]


def train(seed: int, schedule: Schedule) -> tuple[ConvexRidge, Row]:
    """Train one regulariser on the training images at two scales, and say what it is."""
    images = [grey(name) for name in TRAIN]
    begun = time.process_time()

    def talk(_: str, done: int, of: int) -> None:
        if done % 100 == 0:
            print(f"seed {seed}: {done} of {of} steps, {time.process_time() - begun:.0f} s", flush=True)

    start = ConvexRidge(CHANNELS, SIZES, knots=KNOTS, seed=seed)
    images += [halved(image) for image in images]
    found = train_ridge(images, start, schedule=schedule, seed=seed, progress=talk)
    proved = found.ridge.certify()
    return found.ridge, {
        "seed": seed,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "losses": [round(loss, 5) for loss in found.losses],
        "parameters": proved.parameters,
        "smallest_slope": proved.smallest_slope,
        "largest_slope": proved.largest_slope,
        "norm": proved.norm,
        "norm_reached": proved.norm_reached,
    }


def main() -> None:
    """Train, tune, test; print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute; too small to say anything, needs --out")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick and options.out == RESULTS:
        parser.error("--quick needs --out DIR, so that it does not replace the committed results")
    with threadpool_limits(1):
        torch.set_num_threads(1)
        payload = run(options)
    print_table(
        ["sigma", "TV", "untrained", "ridge", "seeds from", "to", "gain dB", "worst image"],
        (
            [
                str(row["sigma"]),
                f"{row['tv']:.2f}",
                f"{row['untrained']:.2f}",
                f"{row['ridge']['mean']:.2f}",
                f"{row['ridge']['min']:.2f}",
                f"{row['ridge']['max']:.2f}",
                f"{row['gain']:+.2f}",
                f"{row['worst_gain']:+.2f}",
            ]
            for row in payload["summary"]
        ),
    )
    print(write_json("ridge_denoising", payload, folder=options.out))


def run(options: argparse.Namespace) -> Row:
    """All numbers."""
    size, crop = (64, 48) if options.quick else (256, 160)
    images = {name: middle(grey(name), size) for name in TEST}
    images |= {f"{name}, halved": middle(halved(grey(name)), size) for name in TEST}
    tune = [grey(name)[top : top + crop, left : left + crop] for name, (top, left) in TUNE.items()]
    rows: list[Row] = []
    tuning: list[Row] = []
    for sigma in SIGMAS:
        lam, tried = tuned_tv(tune, sigma)
        tuning.append({"method": "tv", "sigma": sigma, "tried": tried})
        rows += measure("tv", "tv", lam, sigma, images, seed=None)
        print(
            f"TV, sigma {sigma}: {statistics.mean(row['psnr'] for row in rows if row['sigma'] == sigma):.2f} dB",
            flush=True,
        )
    # What training adds to its start: cosines under the modulus.
    start = ConvexRidge(CHANNELS, SIZES, knots=KNOTS)
    for sigma in SIGMAS:
        mu, lam, tried = tuned_ridge(start, tune, sigma)
        tuning.append({"method": "untrained", "sigma": sigma, "tried": tried})
        rows += measure("untrained", start.scaled(mu), lam, sigma, images, seed=None, mu=mu)
    models = []
    schedule = Schedule(steps=20 if options.quick else options.steps)
    for seed in range(1 if options.quick else options.seeds):
        ridge, facts = train(seed, schedule)
        models.append(facts)
        for sigma in SIGMAS:
            mu, lam, tried = tuned_ridge(ridge, tune, sigma)
            tuning.append({"method": "ridge", "seed": seed, "sigma": sigma, "tried": tried})
            rows += measure("ridge", ridge.scaled(mu), lam, sigma, images, seed=seed, mu=mu)
    return {
        "command": "python -m benchmarks.ridge_denoising" + (" --quick" if options.quick else ""),
        "objective": "1/2 ||x - y||^2 + lam R(x)",
        "gap": TOL,
        "aim_db": AIM_DB,
        "train": list(TRAIN),
        "test": {name: list(image.shape) for name, image in images.items()},
        "training": {"channels": CHANNELS, "sizes": SIZES, "knots": KNOTS, **asdict(schedule)},
        "models": models,
        "aims": aims(summary(rows)),
        "summary": summary(rows),
        "tuning": tuning,
        "rows": rows,
        "environment": environment(["numpy", "scipy", "torch", "scikit-learn", "scikit-image"], threads=1),
    }


def summary(rows: list[Row]) -> list[Row]:
    """Means over the test images, the spread over seeds, and the image with the least gain."""
    found = []
    for sigma in SIGMAS:
        here = [row for row in rows if row["sigma"] == sigma]
        tv = {row["image"]: row["psnr"] for row in here if row["method"] == "tv"}
        seeds = sorted({row["seed"] for row in here if row["method"] == "ridge"})
        ours = {
            seed: {row["image"]: row["psnr"] for row in here if row["method"] == "ridge" and row["seed"] == seed}
            for seed in seeds
        }
        means = [statistics.mean(values.values()) for values in ours.values()]
        base = statistics.mean(tv.values())
        untrained = statistics.mean(row["psnr"] for row in here if row["method"] == "untrained")
        found.append(
            {
                "sigma": sigma,
                "tv": base,
                "untrained": untrained,
                "ridge": spread(means),
                "gain": statistics.mean(means) - base,
                "gain_least_seed": min(means) - base,
                "worst_gain": min(values[name] - tv[name] for values in ours.values() for name in tv),
                "largest_gap": max(row["gap"] for row in here),
                "reached": min(means) - base >= AIM_DB,
            }
        )
    return found


def aims(found: list[Row]) -> list[Row]:
    """What was hoped for beside what was measured."""
    return [
        {
            "aim": f"at least {AIM_DB:g} dB over total variation at sigma {row['sigma']}",
            "measured": row["gain"],
            "met": row["reached"],
            "note": f"total variation {row['tv']:.2f} dB, trained {row['ridge']['mean']:.2f} "
            f"({row['ridge']['min']:.2f} to {row['ridge']['max']:.2f} over seeds), its start {row['untrained']:.2f}; "
            f"least gain on an image {row['worst_gain']:+.2f}",
        }
        for row in found
    ]


if __name__ == "__main__":
    main()
