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


SECTIONS = {
    "digits": ("Handwritten digits", digits_table),
    "cifar_resnet": ("CIFAR-10 ResNets", cifar_table),
    "gram_solver": ("The multitask lasso of a layer", solver_table),
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
