"""How the parts of compression grow, what a small network needs of what was planned, and four files for the edge.

    python -m benchmarks.scale [--only moments ranking network edge]

Moments: seconds per GFLOP in float64. Ranking: backward elimination against the number of features. Network: two
feed-forward layers of the shape of LLaMA-7B, sixteen times smaller. Edge: ResNet-20 on CIFAR-10 test images. One
thread; the load of the machine is noted. Writes ``benchmarks/results/scale.json``; parts that are not run stay.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._harness import RESULTS, data_root, environment, write_json
from pathnorm.deep import compress, sequential
from pathnorm.deep.moments import Moments
from pathnorm.deep.plan import plan
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.solvers.elimination import backward_elimination

ROWS = 4096
SAMPLES = 10_000
IMAGES = 1600


def moments() -> list[dict[str, Any]]:
    """Time the products that are added for every batch."""
    found = []
    for p, d in ((688, 256), (1376, 512), (2752, 1024)):
        sums = Moments.zeros(p, d, torch.device("cpu"))
        features, targets = torch.randn(ROWS, p), torch.randn(ROWS, d)
        times = [_seconds(lambda s=sums, f=features, t=targets: s.add(f, t)) for _ in range(6)][1:]
        gflop = 2e-9 * ROWS * (p * p + p * d + d * d)
        found.append({"features": p, "outputs": d, "seconds_per_gflop": round(float(np.median(times)) / gflop, 4)})
    return found


def ranking() -> list[dict[str, Any]]:
    """Time backward elimination on random layers."""
    rng, found = np.random.default_rng(0), []
    for p in (172, 344, 688, 1376):
        features, targets = rng.standard_normal((2 * p, p)), rng.standard_normal((2 * p, 3 * p // 8))
        problem = LayerReconstruction(
            gram=features.T @ features, cross=features.T @ targets, outer=targets.T @ targets, block=1, cost=np.ones(p)
        )
        found.append({"features": p, "seconds": round(_seconds(lambda q=problem: backward_elimination(q)), 3)})
    return found[1:]


class Block(nn.Module):
    """A feed-forward layer in a residual stream."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def network() -> dict[str, Any]:
    """Compress two layers and compare with the plan."""
    torch.manual_seed(0)
    model, data = nn.Sequential(Block(256, 688), Block(256, 688)).eval(), torch.randn(SAMPLES, 256)
    planned = plan(model, data, batch_size=500)
    before = _resident_mb()
    with _time_in(sequential, "accumulate") as spent:
        record = compress(model, data, params=0.6, batch_size=500, selector="magnitude").record
    return {
        "samples": planned.samples,
        "planned": {"moments_mb": planned.moment_bytes / 1e6, "cache_mb": planned.cache_bytes / 1e6},
        "gflop": 2 * 2e-9 * planned.samples * sum(g.problem_bytes / 8 for g in planned.groups),
        "seconds_adding": round(sum(spent), 2),
        "seconds": round(record.seconds, 1),
        "resident_growth_mb": round(_resident_mb() - before),
    }


def edge() -> dict[str, Any]:
    """Export ResNet-20, whole and with half of its parameters."""
    from benchmarks.cifar_resnet import load_cifar10, load_resnet

    model = load_resnet(20, data_root())
    images, labels = load_cifar10(data_root(), "test", IMAGES)
    made = compress(model, images, params=0.5, labels=labels, outputs="logits", batch_size=100)
    with tempfile.TemporaryDirectory() as folder:
        found = made.edge(Path(folder) / "edge", images, batch_size=100)
    return {
        "params": made.record.params_after / made.record.params_before,
        "accuracy": [made.record.accuracy_before, made.record.accuracy_after],
        **found.to_dict(),
    }


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _time_in(module: Any, name: str) -> Iterator[list[float]]:
    """Note how long every call of a module's function takes."""
    inner, spent = getattr(module, name), []
    setattr(module, name, lambda *args: spent.append(_seconds(lambda: inner(*args))))
    try:
        yield spent
    finally:
        setattr(module, name, inner)


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parts = {"moments": moments, "ranking": ranking, "network": network, "edge": edge}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    chosen = parser.parse_args().only
    torch.set_num_threads(1)
    path = RESULTS / "scale.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found["environment"] = environment(["torch", "numpy", "onnxruntime"], threads=1)
    for name in chosen:
        found[name] = {"load": round(os.getloadavg()[0], 1), "result": parts[name]()}
        print(name, json.dumps(found[name], indent=1))
        write_json("scale", found)


if __name__ == "__main__":
    main()
