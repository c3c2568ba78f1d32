"""Rewrite the tables of ``docs/benchmarks.md`` and of the README from the JSON in ``benchmarks/results``.

Run with ``python -m benchmarks.tables``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from benchmarks._harness import RESULTS, ROOT

Results = dict[str, Any]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def demo_table(found: Results) -> str:
    dense = found["comparison"][0]
    rows = [
        [
            point["method"] + (f", {point['budget']}" if point["budget"] else ""),
            f"{point['params']:,} ({point['params'] / dense['params']:.0%})",
            f"{point['macs'] / dense['macs']:.0%}",
            f"{100 * point['accuracy']:.1f} %",
        ]
        for point in found["comparison"]
    ]
    table = markdown(["network", "parameters", "multiply-accumulates", "test accuracy"], rows)
    return (
        f"{table}\n\nAccuracy on {found['test_images']} test images (measured). Neither method reads labels "
        "or retrains. "
        f"Every layer\ncarries a certificate; the largest relative gap is {found['largest_gap']:.0e} "
        "(certified)."
    )


def digits_table(found: Results) -> str:
    parts = []
    for network, kept in dict.fromkeys(
        (cell["network"], cell["kept"]) for cell in found["summary"] if cell["kept"] < 1
    ):
        block = [cell for cell in found["summary"] if (cell["network"], cell["kept"]) == (network, kept)]
        dense = next(c for c in found["summary"] if c["network"] == network and c["method"] == "dense")
        rows = [
            [
                cell["method"],
                f"{100 * cell['accuracy']['mean']:.1f}",
                f"{100 * cell['accuracy']['min']:.1f} to {100 * cell['accuracy']['max']:.1f}",
                f"{cell['points_below_dense']['mean']:.2f}",
            ]
            for cell in sorted(block, key=lambda cell: -cell["accuracy"]["mean"])
        ]
        parts.append(
            f"**{network}, {1 - kept:.0%} of every interior width removed** (dense "
            f"{100 * dense['accuracy']['mean']:.1f} %, "
            f"{block[0]['params']:,} of {dense['params']:,} parameters left)\n\n"
            + markdown(["method", "mean %", "range %", "points below dense"], rows)
        )
    return "\n\n".join(parts)


def cifar_table(found: Results) -> str:
    rows = [
        [
            f"{row['network']}, slide {row['slide']}",
            f"{row['factor_macs']:.3f}x",
            f"{row['factor_params']:.2f}x",
            f"{100 * row['accuracy_dense']:.2f}",
            f"{100 * row['accuracy']:.2f}",
            f"{row['seconds']:.0f}",
            str(row["threads"]),
        ]
        for row in found["rows"]
    ]
    return markdown(
        ["network", "fewer MACs", "fewer parameters", "dense %", "compressed %", "seconds", "threads"], rows
    )


def solver_table(found: Results) -> str:
    rows = []
    for row in found["rows"]:
        ours = row["method"] == "pathnorm"
        reached = row["reached"]
        rows.append(
            [
                f"{row['layer']}, λ = {row['lam_over_lam_max']:g} λ_max",
                row["method"],
                f"{row['cpu_seconds']:.2f}" if reached else f"> {found['cap_cpu_seconds']}",
                "none" if row.get("gap") is None else f"{row['gap']:.1e}",
                "" if ours else f"{row['cpu_ratio']:.0f}x" if reached else "not reached",
                "" if ours else f"{row['cpu_ratio_with_gram']:.0f}x" if reached else "not reached",
            ]
        )
    return markdown(["problem", "method", "CPU seconds", "certified gap", "ratio", "ratio with Gram"], rows)


def seconds(value: float) -> str:
    """Seconds with three digits, in a unit that needs no zeros."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def answer(row: Results | None, ours: float | None = None) -> str:
    """What a peer did in one run: its time, how far above the certified optimum it is, how many of our times."""
    if row is None or row.get("skipped"):
        return ""
    if "failure" in row:
        return row["failure"].partition(": ")[0] if "Error" in row["failure"] else row["failure"]
    parts = [seconds(row["cpu_seconds"])] if ours else []
    if "excess" in row:
        parts.append(f"+{max(row['excess'], 0.0):.0e}")
    elif "deviation" in row:
        parts.append("another objective" if ours else f"off by {row['deviation']:.1g}")
    if ours and "excess" in row:
        parts.append(f"{row['cpu_seconds'] / ours:,.0f}x")
    return ", ".join(parts)


def bv2_solver_table(found: Results) -> str:
    cells = {(row["n"], row["level"], row["method"]): row for row in found["sweep"]}
    methods = list(dict.fromkeys(row["method"] for row in found["sweep"]))
    peers = [method for method in methods if method != "pathnorm"]
    rows = []
    for n, level in dict.fromkeys((row["n"], row["level"]) for row in found["sweep"]):
        ours = cells[n, level, "pathnorm"]
        head = [f"{n:,}, {ours['share']:.1e}", str(ours["knots"]), seconds(ours["seconds"]), f"{ours['gap']:.0e}"]
        others = [answer(cells.get((n, level, peer)), ours["seconds"]) for peer in peers]
        rows.append([*head, f"{ours['passes']['solve']:.1f}", f"{ours['passes']['fit']:.1f}", *others])
    head = ["N, λ / λ_max", "knots", "pathnorm", "gap", "solver, passes", "fit, passes", *peers]
    parts = [markdown(head, rows)]
    hard = {(row["input"], row["method"]): row for row in found["hard"]}
    rows = []
    for name in dict.fromkeys(row["input"] for row in found["hard"]):
        ours = hard[name, "pathnorm"]
        mine = f"gap {max(ours['gap'], 0.0):.0e}, {ours['knots']} knots" if "gap" in ours else ours["failure"]
        rows.append([name, mine, *(answer(hard.get((name, peer))) for peer in peers)])
    parts += [
        "Awkward x: our certificate, and what the others return (how far above the optimum, or why nothing):",
        markdown(["x", "pathnorm", *peers], rows),
        "Aims:",
        markdown(
            ["aim", "measured", "", "remark"],
            [
                [row["aim"], f"{row['measured']:.3g}", "met" if row["met"] else "missed", row["note"]]
                for row in found["aims"]
            ],
        ),
    ]
    return "\n\n".join(parts)


def bv2_rates_table(found: Results) -> str:
    slopes = {(row["function"], row["method"]): row for row in found["slopes"]}
    cells = {(row["function"], row["method"], row["n"]): row for row in found["means"]}
    sizes = [2**10, 2**13, 2**16]
    parts = []
    for function, inside in found["in_bv2"].items():
        rows = []
        for method in dict.fromkeys(row["method"] for row in found["means"]):
            mine = [cells.get((function, method, n)) for n in sizes]
            slope = slopes.get((function, method))
            count = mine[-1]["count"] if mine[-1] else None
            rows.append(
                [
                    method,
                    *("" if cell is None else f"{cell['mse']:.3g}" for cell in mine),
                    "" if count is None else f"{count:.0f}",
                    ""
                    if slope is None
                    else f"{slope['slope']:.3f} ({slope['interval'][0]:.3f} to {slope['interval'][1]:.3f})",
                ]
            )
        where = "in BV²" if inside else "not in BV²: it jumps"
        head = ["method", *(f"N = {n:,}" for n in sizes), f"knots, N = {sizes[-1]:,}", "slope (95 %)"]
        parts.append(f"**{function}** ({where})\n\n" + markdown(head, rows))
    last = {
        (row["function"], row["method"]): row["mse"]
        for row in found["means"]
        if row["n"] == max(found["config"]["sizes"])
    }
    gains = [
        f"{last[function, 'smoothing spline, GCV'] / last[function, 'BV2, SURE']:.1f} ({function})"
        for function, inside in found["in_bv2"].items()
        if inside
    ]
    parts.append(
        f"At the largest N the error of the smoothing spline over that of BV² is {' and '.join(gains)} on the "
        "functions in BV²."
    )
    parts.append("![Mean squared error against N](images/bv2_rates.png)")
    return "\n\n".join(parts)


SECTIONS = {
    "digits": ("Handwritten digits", digits_table),
    "cifar_resnet": ("CIFAR-10 ResNets", cifar_table),
    "gram_solver": ("The multitask lasso of a layer", solver_table),
    "bv2_solver": ("One dimension: the exact fit", bv2_solver_table),
    "bv2_rates": ("One dimension: error against N", bv2_rates_table),
}
INTRODUCTIONS = {
    "digits": "Three networks, three seeds, 500 test images. Ours never reads labels; Torch-Pruning's rows "
    "marked (labels) do. "
    "`+ BN` means BatchNorm statistics taken anew on the training images.",
    "cifar_resnet": "Trained ResNets of He et al. (2016), unlabelled training images for calibration, "
    "accuracy on all 10,000 "
    "test images, no fine-tuning. `slide` is the number of local steps per layer in which the kept neurons move.",
    "gram_solver": "K = 512 real activations on N = 20,000 images, D outputs. Every method is run until the "
    "gap that *we* "
    "certify from its coefficients is at most 1e-4, in processor seconds on one thread. The ratio with Gram "
    "counts the time to "
    "form the moments as ours.",
    "bv2_solver": "x uniform and irregular, y the Doppler function plus noise; λ from half of λ_max to one knot per 20 "
    "samples, SURE's choice among them. Seconds are those of `solvers.bv2` on a prepared problem; a pass is the time "
    "of one compiled sum over x and y in the same process, and the fit is the whole of `BV2Regressor.fit` on sorted "
    "data. "
    "Peers run at their documented settings in a process of their own with 60 s of processor time; `+` is how far the "
    "objective of their answer, computed by us, lies above the certified optimum (relative), `x` how many of our times "
    "they take, an empty cell that they met the limit at a smaller problem. The specialised ADMM is our "
    "implementation of Ramdas and Tibshirani (2016) with the defaults of glmgen, which has no package for Python. "
    "scipy's smoothing spline minimises another objective; it stands for the linear method.",
    "bv2_rates": "The four functions of Donoho and Johnstone (1994) on a regular grid, standard deviation 7, noise of "
    "standard deviation 1; every method tunes itself from the data. The theory's rates are for the worst function of a "
    "ball in BV²: N^(-4/5) for BV², N^(-3/4) for the best linear method. Two exponents that differ by 0.05 are hard to "
    "tell apart in one dimension: what one sees is the constant and the number of knots. "
    "Blocks and HeaviSine jump, so they are not in BV² and no rate is promised there; the estimator that "
    "expects jumps, total variation, is the right one for Blocks. `knots` are pieces for total variation and "
    "coefficients for wavelets. Kernel ridge stops at N = 1,024 because each of its 150 fits costs N³.",
}


def between(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n{found[2]}", text)


def main() -> None:
    parts = ["# Benchmarks", "Written by `python -m benchmarks.tables` from `benchmarks/results`; do not edit by hand."]
    for name, (title, table) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            where = found["environment"]
            machine = f"{where['processor']}, {where['cores']} cores"
            if name != "cifar_resnet":  # whose rows state their threads
                machine += f", threads: {where['threads']}"
            note = f"`python -m benchmarks.{name}`, {machine}."
            parts += [f"## {title}", INTRODUCTIONS[name], table(found), note]
    (ROOT / "docs" / "benchmarks.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    demo = RESULTS / "demo.json"
    if demo.exists():
        readme = ROOT / "README.md"
        table = demo_table(json.loads(demo.read_text(encoding="utf-8")))
        readme.write_text(between(readme.read_text(encoding="utf-8"), "demo-table", table), encoding="utf-8")


if __name__ == "__main__":
    main()
