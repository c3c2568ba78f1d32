"""The unit ball of R-BV² has metric entropy about δ^(-2d/(d+3)): the bits that tell its functions apart to within δ.

From K^(-1/2 - 3/(2d)) for K neurons, each of d + 2 numbers, follows log N(δ) <= C δ^(-2d/(d+3)) log(1/δ), and the
logarithm can be removed (Carl 1981; Siegel 2023; Siegel & Xu 2022); no smaller exponent is possible. Three numbers, of
different standing:

* *estimate*: the inverse of the slope in ``approximation_rate`` (its committed results, or a short run of its own
  where there are none, or in a quick run). It inherits that experiment's limits and is an exponent, not a count.
* *code length*, computed for the functions drawn: networks of K neurons are fitted to functions of 2K neurons with
  random signs, all parameters are rounded to the coarsest grid that no more than doubles the largest error, and the
  bits are counted. Draws are not the class: this is not an upper bound on its entropy. The exponent is that of bits
  over log2(1/δ).
* *packing*, computed and, for the L2 norm of the sample measure used, proved: functions of norm at most one whose
  signs are the words of a linear code of m bits, checked to have minimum distance m/4 or more (Gilbert and
  Varshamov), m/8 bits of information. All distances between them, up to affine functions, are computed; a cover by
  balls of radius half the smallest one needs as many balls as there are words (the smallest one is the δ shown). In
  one dimension also m disjoint hats with all 2^m signs, where heights and norm are known in closed form and both are
  recomputed from ``LinearSpline``.

Predicted, before measuring: the estimate and the code exponent are at most 2d/(d+3) + 0.25 in size (bits grow no
faster than the theorem says, up to the tolerance) and the packing exponent is at least 2d/(d+3) - 0.25 (they grow no
slower); for the hats it is 1/2 within 0.01. It fails if descent finds poor networks, if they need many digits, or if
the neurons of the packing are too much alike. Constants are not compared: they are not known.

    python -m experiments.metric_entropy [--full]
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments import approximation_rate as rate
from experiments._claim import OUT, Row, Scale, main, slope
from experiments._rbv_functions import ball, largest_error, random_net
from pathnorm import LinearSpline, ShallowNet

NAME = "metric_entropy"
Array = NDArray[np.float64]
TOLERANCE = 0.25
_POINTS = 2_000


def theory(d: int) -> float:
    """Size of the exponent of 1/δ."""
    return 2.0 * d / (d + 3.0)


# ---------------------------------------------------------------------------- estimate
def estimated(cells: list[Row]) -> list[Row]:
    """From E(K) ~ K^-s: K(δ) ~ δ^(-1/s), with the interval of s carried over."""
    found = []
    for cell in cells:
        value, low, high = cell["slopes"][rate.best_of(cell["norm"])]
        row: Row = {"d": cell["d"], "norm": cell["norm"], "theory": theory(cell["d"]), "exponent": -1.0 / value}
        # An interval that reaches zero says nothing about the upper end.
        row["interval"] = [-1.0 / low, -1.0 / high if high < 0.0 else None]
        found.append(row)
    return found


# ---------------------------------------------------------------------------- code length
def rounded(net: ShallowNet, digits: int) -> tuple[ShallowNet, float]:
    """All parameters on the grid of step 2^-digits, and the bits that say where: log2 of range over step for each."""
    step = 2.0**-digits
    # The output weights have a range of their own, that of the largest one.
    scale = float(np.abs(net.V).max()) or 1.0
    parts = [step * np.round(part / step) for part in (net.W, net.b, net.V / scale, net.A / scale, net.c / scale)]
    bits = sum(
        float(part.size * np.log2(max(2.0 * np.abs(part).max() / step + 1.0, 2.0))) for part in parts if part.size
    )
    return ShallowNet(parts[0], parts[1], scale * parts[2], scale * parts[3], scale * parts[4]), bits


def code_length(d: int, K: int, seed: int, *, points: int, steps: int) -> Row:
    """δ and bits for one function of 2K neurons."""
    target = random_net(d, 2 * K, np.random.default_rng([seed, d, K]))
    X = rate.fitting_points(points, d, seed)
    y = target(X)[:, 0]
    W, b, _ = rate.greedy(X, y, K, np.random.default_rng([seed, d, K, 3]))
    net = rate.net_of(X, y, *rate.refine(X, y, W, b, steps=steps))

    def distance(other: ShallowNet) -> float:
        rng = np.random.default_rng([seed, 4])
        return largest_error(lambda Z: target(Z)[:, 0] - other(Z)[:, 0], d, rng, count=4_000)[1]

    reached = distance(net)
    for digits in range(1, 45):
        coarse, bits = rounded(net, digits)
        if distance(coarse) <= 2.0 * reached:
            break
    return {"d": d, "K": K, "seed": seed, "delta": 2.0 * reached, "digits": digits, "bits": bits}


# ---------------------------------------------------------------------------- packing
def linear_code(length: int, dimension: int, rng: np.random.Generator) -> tuple[Array, int]:
    """Words (2^dimension, length) of 0 and 1 and their least distance: the best of some random generators.

    The least distance of a linear code is the least weight of its words other than zero, so that no pairs are compared.
    """
    numbers = np.arange(2**dimension)
    messages = (numbers[:, None] >> np.arange(dimension)) & 1
    best, least = np.zeros((0, length)), -1
    for _ in range(20):
        words = (messages @ rng.integers(0, 2, (dimension, length))) % 2
        weight = int(words[1:].sum(axis=1).min())
        if weight > least:
            best, least = words.astype(float), weight
    return best, least


def unlike_neurons(Phi: Array, count: int) -> Array:
    """Columns, one after the other the one that is farthest from the span of those before: their indices."""
    from scipy.linalg import qr

    return np.asarray(qr(Phi, mode="economic", pivoting=True)[2][:count])


def packed(d: int, m: int, seed: int, points: int = _POINTS) -> Row:
    """Least L2 distance up to affine functions among the words of a code on m neurons."""
    rng = np.random.default_rng([seed, d, m])
    X, pool = ball(points, d, rng), random_net(d, 8 * m, rng)
    Phi = np.maximum(X @ pool.W.T - pool.b, 0.0)
    basis = np.linalg.qr(np.column_stack([np.ones(points), X]))[0]
    Phi = Phi - basis @ (basis.T @ Phi)
    Phi = Phi[:, unlike_neurons(Phi, m)]
    words, least = linear_code(m, max(1, m // 8), rng)
    signs = 2.0 * words - 1.0
    # Equal masses 1/m: every word is a function of norm at most one.
    inner = signs @ (Phi.T @ Phi / points) @ signs.T / m**2
    sizes = np.diag(inner)
    squares = sizes[:, None] + sizes - 2.0 * inner
    np.fill_diagonal(squares, np.inf)
    separation = float(np.sqrt(max(squares.min(), 0.0)))
    return {"d": d, "m": m, "seed": seed, "bits": max(1, m // 8), "least_distance": least, "separation": separation}


def hats(signs: Array) -> LinearSpline:
    """Disjoint hats on [-1, 1] with these signs, of height 1 / (4 m²): each bends by 4 m times that."""
    m = len(signs)
    knots = np.linspace(-1.0, 1.0, 2 * m + 1)
    values = np.zeros(2 * m + 1)
    values[1::2] = signs / (4.0 * m**2)
    return LinearSpline(knots, values, 0.0, 0.0)


def packed_hats(m: int, rng: np.random.Generator) -> Row:
    """2^m functions, 2 / (4 m²) apart in the largest norm, as is verified on neighbours and on drawn pairs."""
    norms, distances = [], []
    for _ in range(20):
        signs = rng.choice([-1.0, 1.0], m)
        near, far = signs.copy(), rng.choice([-1.0, 1.0], m)
        near[rng.integers(m)] *= -1.0
        first = hats(signs)
        norms += [first.tv2]
        for other in (near, far):
            if (other != signs).any():
                second = hats(other)
                distances.append(float(np.abs(first(first.knots) - second(first.knots)).max()))
    return {"m": m, "bits": m, "separation": min(distances), "largest_norm": max(norms)}


# ---------------------------------------------------------------------------- experiment
def run(scale: Scale) -> Row:
    """The estimate, the codes and the packings."""
    stored = OUT / f"{rate.NAME}.json"
    from_file = scale is not Scale.QUICK and stored.exists()
    source = json.loads(stored.read_text(encoding="utf-8")) if from_file else rate.run(Scale.QUICK)
    dimensions = scale.pick((1, 2), (1, 2, 3))
    sizes, seeds = scale.pick((2, 4), (4, 8, 16, 32), (4, 8, 16, 32, 64)), scale.pick(1, 4, 8)
    lengths = scale.pick((16, 32), (16, 24, 32, 48, 64, 80))
    codes = [
        code_length(d, K, seed, points=scale.pick(500, 2_000), steps=scale.pick(20, 120))
        for d in dimensions
        for seed in range(seeds)
        for K in sizes
    ]
    packings = [packed(d, m, seed) for d in dimensions for seed in range(seeds) for m in lengths]
    rng = np.random.default_rng(0)
    hat_rows = [packed_hats(m, rng) for m in (4, 8, 16, 32, 64, 128)]
    summary = [exponents(d, codes, packings) for d in dimensions]
    estimates = estimated(source["summary"])
    hat_slope = slope([row["separation"] for row in hat_rows], [row["bits"] for row in hat_rows])
    return {
        "verdict": verdict(estimates, summary, hat_rows, hat_slope),
        "tolerance": TOLERANCE,
        "estimate_from": f"results/{rate.NAME}.json" if from_file else "a quick run of its own",
        "estimate": estimates,
        "summary": summary,
        "hats": {"rows": hat_rows, "slope": hat_slope},
        "codes": codes,
        "packings": packings,
    }


def exponents(d: int, codes: list[Row], packings: list[Row]) -> Row:
    """Exponents of 1/δ of one dimension, means over draws with intervals."""
    mine, pairs = [r for r in codes if r["d"] == d], [r for r in packings if r["d"] == d]
    cell: Row = {"d": d, "theory": theory(d)}
    # δ is random, bits nearly not: δ is regressed on bits, and the slope turned over.
    for name, rows, size, radius in (("code", mine, "K", "delta"), ("packing", pairs, "m", "separation")):
        seeds, at = sorted({r["seed"] for r in rows}), sorted({r[size] for r in rows})
        radii = np.array([[r[radius] for r in rows if (r["seed"], r[size]) == (s, a)] for s in seeds for a in at])
        radii = radii.reshape(len(seeds), len(at))
        bits = np.array([[r["bits"] for r in rows if (r["seed"], r[size]) == (s, a)] for s in seeds for a in at])
        mean_bits = bits.reshape(len(seeds), len(at)).mean(axis=0)
        typical = np.exp(np.log(radii).mean(axis=0))
        counted = mean_bits / np.log2(1.0 / typical) if name == "code" else mean_bits
        value, low, high = slope(counted.tolist(), radii)
        cell[name] = {
            "delta": typical.tolist(),
            "bits": mean_bits.tolist(),
            "exponent": -1.0 / value,
            "interval": [-1.0 / low, -1.0 / high if high < 0.0 else None],
        }
        if name == "code":
            cell[name]["exponent_of_bits_alone"] = -1.0 / slope(mean_bits.tolist(), radii)[0]
    return cell


def verdict(estimates: list[Row], summary: list[Row], hat_rows: list[Row], hat_slope: list[float]) -> Row:
    """Bits grow no faster than the theorem by estimate and code, and no slower by packing."""
    above = [r["exponent"] <= r["theory"] + TOLERANCE for r in estimates]
    code = [c["code"]["exponent"] <= c["theory"] + TOLERANCE for c in summary]
    packing = [c["packing"]["exponent"] >= c["theory"] - TOLERANCE for c in summary]
    hat = abs(hat_slope[0] + 0.5) <= 0.01 and all(row["largest_norm"] <= 1.0 + 1e-9 for row in hat_rows)
    said = [f"estimate d = {r['d']} {r['norm']} {r['exponent']:.2f} (theory {r['theory']:.2f})" for r in estimates]
    said += [
        f"d = {c['d']}: code {c['code']['exponent']:.2f}, packing {c['packing']['exponent']:.2f} "
        f"(theory {c['theory']:.2f})"
        for c in summary
    ]
    said.append(f"hats {-hat_slope[0]:.3f} (theory 0.5)")
    return {
        "holds": bool(all(above) and all(code) and all(packing) and hat),
        "estimate_holds": bool(all(above)),
        "code_holds": bool(all(code)),
        "packing_holds": bool(all(packing)),
        "hats_hold": bool(hat),
        "predicted": f"exponent 2d/(d+3): at most that + {TOLERANCE:g} by estimate and code length, at least that - "
        f"{TOLERANCE:g} by packing, 1/2 for the hats",
        "measured": "; ".join(said),
    }


def draw(payload: Row, path: Path) -> None:
    """Bits against 1/δ: codes from above, packings from below; and the exponents."""
    from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

    figure = new_figure(11.0, 4.6)
    left, right = figure.subplots(1, 2)
    for i, cell in enumerate(payload["summary"]):
        for name, style in (("code", "-"), ("packing", ":")):
            label = f"d = {cell['d']}, {'code length (computed)' if name == 'code' else 'packing, L2 (proved)'}"
            radii = 1.0 / np.array(cell[name]["delta"])
            left.plot(
                radii,
                cell[name]["bits"],
                color=PALETTE[i],
                linestyle=style,
                marker=MARKERS[i],
                markersize=5,
                label=label,
            )
    rows = payload["hats"]["rows"]
    left.plot(
        [1.0 / r["separation"] for r in rows], [r["bits"] for r in rows],
        color=INK, linestyle=":", marker="x", label="d = 1, hats, largest norm (proved)",
    )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="1/δ", ylabel="bits")
    left.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.0))
    top = max(max(c["code"]["bits"]) for c in payload["summary"])
    left.set_ylim(0.7, top * 60.0)  # room for the legend
    d = np.linspace(1.0, max(r["d"] for r in payload["estimate"]), 100)
    right.plot(d, [theory(float(x)) for x in d], color=INK, linestyle="--", label="theory, 2d/(d+3)")
    series = [("estimate, largest error", [r for r in payload["estimate"] if r["norm"] == "sup"])]
    series += [("estimate, L2", [r for r in payload["estimate"] if r["norm"] == "l2"])]
    series += [("code length", [{"d": c["d"]} | c["code"] for c in payload["summary"]])]
    series += [("packing", [{"d": c["d"]} | c["packing"] for c in payload["summary"]])]
    for i, (label, found) in enumerate(series):
        values = np.array([r["exponent"] for r in found])
        # An interval without an upper end is drawn one-sided.
        spread = [
            [max(r["exponent"] - r["interval"][0], 0.0) for r in found],
            [max((r["interval"][1] or r["exponent"]) - r["exponent"], 0.0) for r in found],
        ]
        at = np.array([r["d"] for r in found]) + 0.08 * (i - 1.5)
        right.errorbar(
            at, values, yerr=spread, color=PALETTE[i], marker=MARKERS[i], linestyle="", capsize=2, label=label
        )
    # All intervals are shown to their ends; those of few neurons may be long.
    ends = [end for _, found in series for r in found for end in (r["exponent"], *r["interval"]) if end]
    top = 1.3 * max(*ends, theory(d[-1]))
    right.set(xlabel="dimension d", ylabel="exponent of 1/δ", yscale="log", ylim=(0.4 * min(*ends, 0.5), top))
    ticks = [t for t in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if 0.4 * min(*ends, 0.5) <= t <= top]
    right.set_yticks(ticks, [f"{t:g}" for t in ticks])
    right.minorticks_off()
    right.legend(fontsize=8, frameon=False, loc="lower right")
    for panel in (left, right):
        dress(panel)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw))
