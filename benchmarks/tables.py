"""Rewrite the tables of ``docs/benchmarks.md`` and of the README from the JSON in ``benchmarks/results``.

Run with ``python -m benchmarks.tables``.
"""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from benchmarks._harness import RESULTS, ROOT

Results = dict[str, Any]
NUMBER = re.compile(r"[*+-]*[<~]?\d")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Lines of a table; columns in which numbers prevail are aligned to the right."""
    rule = ["---"]
    for position in range(1, len(head)):
        filled = [row[position] for row in rows if row[position]]
        rule.append("---:" if 2 * sum(bool(NUMBER.match(cell)) for cell in filled) > len(filled) else "---")
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


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
    """Seconds with three digits, in a unit that needs no zeros; minutes where seconds have four digits."""
    if value >= 999.5:
        return f"{value / 60:.1f} min"
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
        aims_table(found["aims"]),
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


def excess(cell: Results, name: str = "excess") -> str:
    """How far above our lower bound an objective is; nothing where there is none."""
    return f"{cell[name]:+.2%}" if name in cell else ""


def shallow_row(cell: Results) -> list[str]:
    if "seconds" not in cell:
        return [cell["method"], "", "", "", "", "", cell["failure"].partition(": ")[0]]
    remarks = [cell["sentence"]] if cell["method"] == "ours" else []
    if "seconds_over_ours_at_equal_objective" in cell:
        remarks.append(f"{cell['seconds_over_ours_at_equal_objective']:.2g}x our time to its objective")
    if not cell.get("converged", True):
        remarks.append("not converged")
    if "failure" in cell:
        remarks.append(f"once {cell['failure']}")
    neurons = cell.get("neurons")
    return [
        cell["method"],
        seconds(cell["seconds"]),
        f"{cell['excess']:.1e}" if cell["method"] == "ours" and "excess" in cell else excess(cell),
        excess(cell, "excess_refit"),
        "" if neurons is None else f"{neurons:.0f}",
        f"{cell['test_rmse']:.4f}" if "test_rmse" in cell else "",
        ", ".join(remarks),
    ]


def shallow_table(found: Results) -> str:
    parts = []
    for n, d in dict.fromkeys((cell["n"], cell["d"]) for cell in found["summary"]):
        block = [cell for cell in found["summary"] if (cell["n"], cell["d"]) == (n, d)]
        head = ["method", "time", "above our bound", "after a refit", "neurons", "test RMSE", ""]
        parts.append(f"**N = {n:,}, d = {d}**\n\n" + markdown(head, [shallow_row(cell) for cell in block]))
    return "\n\n".join([*parts, "Aims:", aims_table(found["aims"])])


def aims_table(aims: list[Results]) -> str:
    said = {True: "met", False: "missed", None: "so far"}  # None where not every case has been run
    rows = [[row["aim"], f"{row['measured']:.3g}", said[row["met"]], row["note"]] for row in aims]
    return markdown(["aim", "measured", "", "remark"], rows)


def tabular_cell(cell: Results | None, best: float) -> str:
    """Mean and standard deviation over splits, the smallest mean of a table in bold."""
    if cell is None:
        return ""
    if "failure" in cell:
        return "not run" if cell["failure"].startswith("not run") else cell["failure"].partition(": ")[0]
    value = cell.get("rmse") or cell["log_loss"]
    text = f"{value['mean']:.4g}"
    text = f"**{text}**" if value["mean"] == best else text
    error = f", {cell['error_rate']['mean']:.1%}" if "error_rate" in cell else ""
    return f"{text} ± {value['sd']:.2g}{error}"


def tabular_table(found: Results) -> str:
    labels, summary = found["labels"], found["summary"]
    methods = [method for method in labels if any(cell["method"] == method for cell in summary)]
    cells = {(cell["data"], cell["method"]): cell for cell in summary}
    parts = []
    for kind, score in (("regression", "RMSE"), ("classification", "log-loss, error rate")):
        rows = []
        for data in dict.fromkeys(cell["data"] for cell in summary if cell["kind"] == kind):
            mine = [cells[data, method] for method in methods if (data, method) in cells]
            good = [cell for cell in mine if "failure" not in cell]
            best = min(((cell.get("rmse") or cell["log_loss"])["mean"] for cell in good), default=0.0)
            size = f"{good[0]['n_train']:,}, {good[0]['d']}" if good else ""
            rows.append([data, size, *(tabular_cell(cells.get((data, method)), best) for method in methods)])
        if rows:
            head = ["table", "N, d", *(labels[method] for method in methods)]
            parts.append(f"**{kind.capitalize()}: {score}**\n\n" + markdown(head, rows))
    rows = []
    places = {(row["group"], row["method"]): row for row in found["ranks"]}
    for method in [row["method"] for row in found["ranks"] if row["group"] == "all"]:
        every, smooth = places["all", method], places.get(("smooth", method))
        good = [cell for cell in summary if cell["method"] == method and "failure" not in cell]
        widths = [cell["neurons"]["mean"] for cell in good if "neurons" in cell]
        rows.append(
            [
                labels[method],
                f"{every['rank']:.2f}",
                "" if smooth is None else f"{smooth['rank']:.2f}",
                "" if every["rank_common"] is None else f"{every['rank_common']:.2f} ({every['tables_common']})",
                str(every["tables"]),
                f"{statistics.median(widths):.0f}" if widths else "",
                seconds(statistics.median(cell["seconds"]["mean"] for cell in good)),
            ]
        )
    head = ["method", "mean rank", "among smooth", "where all ran", "tables", "neurons (median)", "time (median)"]
    return "\n\n".join([*parts, "Ranks:", markdown(head, rows), "Aims:", aims_table(found["aims"])])


def frontier_table(found: Results) -> str:
    """Accuracy before, and at every point: ours, and the best of the peer's scores with each repair."""
    before = []
    for row in (row for row in found["rows"] if row["method"] == "dense"):
        reached, low, high = (f"{100 * share:.2f}" for share in (row["accuracy"], *row["interval"]))
        before.append(f"{row['network']} {reached} % ({low} to {high} at 95 %)")
    parts = [f"Uncompressed: {', '.join(before)}."]
    for coupling in dict.fromkeys(row["coupling"] for row in found["rows"]):
        for tuned in (False, True):
            rows = [row for row in found["rows"] if row["coupling"] == coupling and row["tuned"] == tuned]
            rows = [row for row in rows if "accuracy" in row and row["method"] != "dense"]
            if not rows:
                continue
            body = [
                frontier_cells([row for row in rows if (row["network"], row["factor_asked"]) == case])
                for case in sorted({(row["network"], row["factor_asked"]) for row in rows})
            ]
            what = {"interior": "Block interiors", "streams": "Interiors and residual streams"}[coupling]
            after = ", one epoch of training behind it" if tuned else ""
            head = ["network", "fewer MACs", "pathnorm", "peer", "peer + BN", "peer + our refit"]
            parts.append(f"**{what}{after}, test accuracy in %**\n\n" + markdown(head, body))
    aims = [aim for aim in found["aims"] if aim["measured"] is not None]
    return "\n\n".join([*parts, "Aims:", aims_table(aims)])


def frontier_cells(rows: list[Results]) -> list[str]:
    def best(repair: str) -> str:
        mine = [row for row in rows if row["method"] != "pathnorm" and row["repair"] == repair]
        if not mine:
            return ""
        row = max(mine, key=lambda row: row["accuracy"])
        return f"{100 * row['accuracy']:.2f} ({row['method'].removeprefix('tp-')})"

    ours = [f"{100 * row['accuracy']:.2f}" for row in rows if row["method"] == "pathnorm"]
    asked = f"{rows[0]['factor_asked']:g}x"
    return [rows[0]["network"], asked, *(ours or [""]), *(best(repair) for repair in ("none", "batch-norm", "refit"))]


def transformers_table(found: Results) -> str:
    parts = []
    for network, dense in found["dense"].items():
        rows = [row for row in found["rows"] if row["network"] == network]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        body = []
        for point in dict.fromkeys(row["point"] for row in rows):
            values = {
                method: [row["loss"][0] for row in rows if (row["point"], row["method"]) == (point, method)]
                for method in methods
            }
            means = {method: statistics.mean(losses) for method, losses in values.items() if losses}
            least = min(means.values())
            cells = [f"{means[m]:.4f}" if m in means else "" for m in methods]
            body.append([point, *(f"**{c}**" if c == f"{least:.4f}" else c for c in cells)])
        accuracy = f", accuracy {100 * dense['accuracy']:.2f} %"
        draws = len({row["seed"] for row in rows})
        title = f"**{network}** (dense: loss {dense['loss'][0]:.4f}{accuracy}; draws: {draws})"
        parts.append(f"{title}\n\n" + markdown(["removed", *methods], body))
    reached = {
        measure: [bool(aim["met"]) for aim in found["aims"] if aim["measure"] == measure]
        for measure in ("loss", "accuracy")
    }
    said = {measure: f"{sum(met)} of {len(met)} points" for measure, met in reached.items()}
    verdict = f"Against every peer: lowest loss at {said['loss']}; highest accuracy of images at {said['accuracy']}."
    return "\n\n".join([*parts, verdict])


def end_to_end_table(found: Results) -> str:
    body = []
    for row in found["rows"]:
        if "failure" in row:
            body.append([row["case"], row["failure"], *[""] * 6])
            continue
        speeds = {(item["engine"], item["threads"], item["batch"]): item["speed"] for item in row["latency"]}
        body.append(
            [
                row["case"],
                seconds(row["seconds"]),
                f"{row['peak_memory_mb'] / 1024:.1f} GB",
                f"{row['macs'][0] / row['macs'][1]:.2f}x",
                *(f"{speeds[engine, threads, 8]:.2f}x" for engine in ("torch", "onnxruntime") for threads in (1, 2)),
            ]
        )
    head = ["network", "compression", "peak memory", "fewer MACs", "torch, 1 thread", "torch, 2"]
    table = markdown([*head, "onnxruntime, 1", "onnxruntime, 2"], body)
    return "\n\n".join([table, "Aims:", aims_table(found["aims"])])


def mri_table(found: Results) -> str:
    body = [
        [
            f"{row['regularizer']}, {row['method']}",
            str(row["steps"]),
            seconds(row["seconds"]),
            seconds(row["cpu_seconds"]),
            f"{row['objective']:.7g}",
            f"{row['gap']:.1e}" if "gap" in row else "",
            f"{row['psnr']:.2f} dB",
        ]
        for row in found["rows"]
    ]
    head = ["regulariser, method", "steps", "seconds", "of the processor", "objective", "gap", "PSNR"]
    return "\n\n".join([markdown(head, body), "Aims:", aims_table(found["aims"])])


def ridge_table(found: Results) -> str:
    models = found["models"]
    seeds = f"{len(models)} seed" + ("s" if len(models) > 1 else "")
    rows = [
        [
            str(row["sigma"]),
            f"{row['tv']:.2f}",
            f"{row['untrained']:.2f}",
            f"{row['ridge']['mean']:.2f}",
            f"{row['ridge']['min']:.2f} to {row['ridge']['max']:.2f}",
            f"{row['gain']:+.2f}",
            f"{row['worst_gain']:+.2f}",
            f"{row['largest_gap']:.0e}",
        ]
        for row in found["summary"]
    ]
    head = [
        "sigma of 255",
        "TV, dB",
        "untrained, dB",
        "ConvexRidge, dB",
        "seeds",
        "gain",
        "worst image and seed",
        "largest gap",
    ]
    seconds = max(model["cpu_seconds"] for model in models)
    return markdown(head, rows) + (
        f"\n\n{models[0]['parameters']:,} parameters, {found['training']['steps']:,} steps, {seeds}, at most "
        f"{seconds:.0f} processor seconds of training. Trained and tuned on {', '.join(found['train'])}; tested on "
        f"{', '.join(found['test'])}."
    )


SECTIONS = {
    "digits": ("Handwritten digits", digits_table),
    "cifar_resnet": ("CIFAR-10 ResNets", cifar_table),
    "cifar_frontier": ("CIFAR-10 ResNets: accuracy against size", frontier_table),
    "small_transformers": ("A small language model and small vision transformers", transformers_table),
    "end_to_end": ("Time, memory and milliseconds at full size", end_to_end_table),
    "gram_solver": ("The multitask lasso of a layer", solver_table),
    "bv2_solver": ("One dimension: the exact fit", bv2_solver_table),
    "bv2_rates": ("One dimension: error against N", bv2_rates_table),
    "shallow_objective": ("Shallow networks: the objective", shallow_table),
    "tabular": ("Shallow networks: tables", tabular_table),
    "ridge_denoising": ("Denoising: a learned convex regulariser", ridge_table),
    "mri_reconstruction": ("Images: compressed MRI", mri_table),
}
INTRODUCTIONS = {
    "ridge_denoising": "Mean PSNR over test photographs that were neither trained nor tuned on, 256 x 256 pixels or "
    "what there is, in grey; `halved` are means of 2 x 2 pixels. λ of the total variation, λ and μ of the learned "
    "regulariser are tuned for every noise level on the same crops of training images. All are minimised to the "
    "certified gap of the last column. `untrained` is where training starts, cosines under the modulus.",
    "digits": "Three networks, three seeds, 500 test images. Ours never reads labels; Torch-Pruning's rows "
    "marked (labels) do. "
    "`+ BN` means BatchNorm statistics taken anew on the training images.",
    "cifar_resnet": "Trained ResNets of He et al. (2016), unlabelled training images for calibration, "
    "accuracy on all 10,000 "
    "test images, no fine-tuning. `slide` is the number of local steps per layer in which the kept neurons move.",
    "cifar_frontier": "The trained ResNets of He et al. (2016), 5,000 unlabelled training images, accuracy on all "
    "10,000 test images, no labels, no training unless it says so; 300 local steps per layer (`slide`) in interiors. "
    "The peer is Torch-Pruning 1.6.1: at every point the most accurate of its scores on the test images, which favours "
    "it; in brackets which. `+ BN` takes BatchNorm statistics anew, `+ our refit` is `pathnorm.deep.refit` on its "
    "result.",
    "small_transformers": "Loss per byte of a language model on the sources of Python's standard library (files kept "
    "back), cross-entropy on all 10,000 test images for vision transformers on MNIST and CIFAR-10. A quarter or half "
    "of the feed-forward neurons, of the heads or of both are removed, as many in every block, so that methods differ "
    "in what they remove and in what they do about it; no training afterwards. All see the same 1,024 unlabelled "
    "training inputs, of which ours keeps a fifth back. `wanda` is its structured form (Wanda-sp), `flap` the score "
    "and bias compensation of FLAP (An et al. 2023) with one share for all layers, `flap-squared` its released code's "
    "square on heads. Means over draws of the calibration data; `ours-slide` has the first only. To run it again, "
    "`PATHNORM_CACHE` names a folder for the trained weights.",
    "end_to_end": "Half the multiply-accumulates, random weights, so nothing is said about accuracy. Compression with "
    "two threads on two cores; peak memory is that of the process. Latency is the median of 15 runs of eight samples "
    "(seven where one takes more than a second) after a warm-up, dense and compressed interleaved.",
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
    "shallow_objective": "Half the sum of squared residuals plus λ times the path norm, biases and affine part free; x "
    "uniform on (-1,"
    " 1)^d, y five random ReLU ridge functions plus noise, λ a hundredth of λ_max. Every method's network is "
    "scored by us and in its favour: with the best affine part, as it is or after `sparsify`, whichever is lower."
    " `above our bound` is relative to the lower bound of our certificate, which holds over all functions only "
    "where the sentence says certified; `after a refit` gives the same input weights the best output weights. "
    "Seconds are those of the training on one thread. `ours_at_lbfgs` is our solver stopped at the first round "
    "whose objective is not above that of L-BFGS. `lbfgs` is scikit-learn's MLP with 500 units and alpha = λ, "
    "which is our objective without the free affine part; `adam` is torch's on all samples, 500 units and a free "
    "affine part, until 500 steps gain less than 1e-5 at the last of its rates or 120 s are over; `mlp` is "
    "scikit-learn's as it comes and has another objective; the biases of pyscnn are penalised, its gates go "
    "through the origin by default and through samples in `pyscnn_hinges`, and its gated network jumps, so that "
    "only its refit has a path norm. To run it: `pip install --no-deps pyscnn==0.0.10 linalg_backends==0.0.1b0` "
    "(it asks for torchvision, which would replace torch), then the command below; `--resume` goes on where a run"
    " ended, `--cases 200x2` and `--methods` choose. The rows of `lbfgs` and ours are of one run; those of Adam, the "
    "MLP and pyscnn are of an earlier one on the same kind of machine, so the ratio to Adam is across runs.",
    "tabular": "Standard splits where there are any, otherwise random ones; every method at its defaults, with the "
    "cross-validation that is its habit, on the same matrices: categories as indicators, missing numbers as medians. "
    "Mean ± standard deviation over splits. pathnorm is the full class, `pairs` and `additive` are "
    "`interactions=2` and `1`. Friedman's functions have 300 noisy samples (standard deviations 1, 125 and 0.1) "
    "and 2,000 test points without noise; California and Adult are subsamples of 3,000. Probabilities are cut at "
    "1e-6. The Gaussian process is run up to 1,000 samples, and the classifier beside kernel ridge is a "
    "calibrated support vector machine. Ranks are over the tables where a method ran on every split, among those "
    "that did; smooth methods are ours, ridge, kernels and the MLP. A run that meets the limit says so: 120 s for "
    "others and 300 s for ours on tables below 2,000 samples (concrete: 900 s for the full class); 150 s "
    "(power-plant: 200 s) on the larger ones, one split of each, where the full class and pairs are of an earlier "
    "cross-validation. Up to four other processes shared the two cores, so seconds are up to four times too long. "
    "`--resume` goes on where a run ended, `--cases yacht sonar`, `--methods` and `--splits` choose; the data lie"
    " in the folder that `PATHNORM_DATA` names.",
    "mri_reconstruction": "256 x 256 pixels of a real brain image, eight simulated coils, a quarter of the lines of "
    "k-space, noise of 1 % of the largest pixel. The objective is the same for both and computed by us from the image; "
    "sigpy runs its primal-dual method on it for its default of 100 steps and for 1,000. One thread; other programs "
    "shared the cores, so seconds on the wall are too long.",
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
