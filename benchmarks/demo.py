"""The demonstration's numbers and its picture, as the README shows them.

Run with ``python -m benchmarks.demo``; writes ``benchmarks/results/demo.json`` and ``docs/images/demo.png``.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks._harness import ROOT, environment, write_json
from pathnorm.demo.run import run_demo
from pathnorm.report.plots import accuracy_against_params


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(Path(folder) / "demo")
    print(result.table())
    figure = accuracy_against_params(result.points)
    FigureCanvasAgg(figure)
    path = ROOT / "docs" / "images" / "demo.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    facts = {
        "seed": result.seed,
        "test_images": result.test_images,
        "seconds_training": result.seconds_training,
        "seconds": result.seconds,
        "largest_gap": max(group.gap for record in result.records for group in record.groups),
        "comparison": [asdict(point) for point in result.points],
        "environment": environment(["torch", "numpy", "scikit-learn"], threads=torch.get_num_threads()),
    }
    write_json("demo", facts)


if __name__ == "__main__":
    main()
