"""Handwritten digits: half and three quarters of every interior width removed, without retraining.

Three networks, three seeds; ours with every selector against Torch-Pruning with every score
it can fill here, each also with BatchNorm statistics taken anew. All methods end at the same
widths, which is checked. Run with ``python -m benchmarks.digits``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks._harness import RESULTS, environment, print_table, spread, write_json
from benchmarks._torch_pruning import PEERS, prune
from pathnorm.demo.baseline import recalibrate_batch_norm
from pathnorm.demo.digits import accuracy, digits_cnn, digits_mlp, digits_resnet, load_split, train

NETWORKS: dict[str, Callable[[], nn.Module]] = {"cnn": digits_cnn, "mlp": digits_mlp, "resnet": digits_resnet}
SELECTORS = ("backward", "lasso", "forward", "magnitude")
KEPT = (0.5, 0.25)
AIM_POINTS = {0.5: 0.5, 0.25: 1.5}
EXAMPLE = torch.zeros(2, 1, 8, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one trained network; accuracies are shares of the 500 test images.

    ``seconds`` are those on the clock, ``cpu_seconds`` those of the processor: the latter do not
    depend on what else the machine was doing.
    """

    network: str
    seed: int
    kept: float
    method: str
    recalibrated: bool
    reads_labels: bool
    accuracy: float
    accuracy_dense: float
    params: int
    macs: int
    seconds: float
    cpu_seconds: float


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def interiors(model: nn.Module) -> dict[str, int]:
    """Return the widths that may shrink: block interiors of the ResNet, else all but the output's."""
    names = [name for name, _ in _layers(model)]
    inner = [name for name in names if name.startswith("block")]
    free = [name for name in inner if name.endswith("conv1")] if inner else names[:-1]
    return {name: len(layer.weight) for name, layer in _layers(model) if name in free}


def count(model: nn.Module) -> tuple[int, int]:
    """Return parameters, and multiply-accumulates of convolutions and linear layers for one image."""
    macs: list[int] = []

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        macs.append(output[0].numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(add) for _, layer in _layers(model)]
    with torch.no_grad():
        model(EXAMPLE)
    for hook in hooks:
        hook.remove()
    return sum(parameter.numel() for parameter in model.parameters()), sum(macs)


class _Watch:
    """Seconds since it was made, on the clock and of the processor."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        clock, processor = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return {"seconds": round(clock, 3), "cpu_seconds": round(processor, 3)}


def measure(name: str, seed: int, methods: set[str]) -> list[Row]:
    """Train one network and compress it by every method at every width."""
    split = load_split(seed)
    images, labels = split.train_images, split.train_labels
    watch = _Watch()
    dense = train(NETWORKS[name](), split, seed=seed)
    trained = watch.read()
    reached = accuracy(dense, split.test_images, split.test_labels)
    rows: list[Row] = []

    def add(method: str, model: nn.Module, kept: float, **facts: Any) -> None:
        params, macs = count(model)
        expected = {layer: round(width * kept) for layer, width in interiors(dense).items()}
        if interiors(model) != expected:
            raise AssertionError(f"{name}, {method}: widths {interiors(model)}, expected {expected}")
        row = Row(
            network=name,
            seed=seed,
            kept=kept,
            method=method,
            recalibrated=facts.get("recalibrated", False),
            reads_labels=facts.get("reads_labels", False),
            accuracy=accuracy(model, split.test_images, split.test_labels),
            accuracy_dense=reached,
            params=params,
            macs=macs,
            seconds=facts["seconds"],
            cpu_seconds=facts["cpu_seconds"],
        )
        rows.append(row)
        print(
            f"{name:8}{seed}  kept {kept:4}  {_label(row):32}{row.accuracy:.3f}  {row.cpu_seconds:.1f} s",
            flush=True,
        )

    add("dense", dense, 1.0, **trained)
    for kept in KEPT:
        for method, peer in PEERS.items():
            if method not in methods:
                continue
            watch = _Watch()
            pruned = prune(dense, peer, kept=kept, free=interiors(dense), images=images, labels=labels)
            add(method, pruned, kept, **watch.read(), reads_labels=peer.reads_labels)
            if any(isinstance(module, nn.BatchNorm2d) for module in dense.modules()):
                again = recalibrate_batch_norm(pruned, images)
                add(method, again, kept, **watch.read(), reads_labels=peer.reads_labels, recalibrated=True)
        for selector in SELECTORS:
            if f"ours-{selector}" in methods:
                watch = _Watch()
                smaller = _compress(dense, images, kept, selector, seed)
                add(f"ours-{selector}", smaller, kept, **watch.read())
    return rows


def _compress(model: nn.Module, images: Tensor, kept: float, selector: str, seed: int) -> nn.Module:
    from pathnorm.deep.compress import compress

    return compress(model, images, widths=kept, selector=selector, outputs="logits", seed=seed).model


def _label(row: Row) -> str:
    return row.method + (" + BN" if row.recalibrated else "") + (" (labels)" if row.reads_labels else "")


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """Return mean, smallest and largest over seeds for every network, width and method."""
    cells: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.network, row.kept, _label(row)), []).append(row)
    summary = []
    for (network, kept, label), cell in cells.items():
        drops = [100 * (row.accuracy_dense - row.accuracy) for row in cell]
        entry: dict[str, Any] = {
            "network": network,
            "kept": kept,
            "method": label,
            "seeds": len(cell),
            "accuracy": spread(row.accuracy for row in cell),
            "points_below_dense": spread(drops, digits=2),
            "params": cell[0].params,
            "macs": cell[0].macs,
            "seconds": spread((row.seconds for row in cell), digits=2),
            "cpu_seconds": spread((row.cpu_seconds for row in cell), digits=2),
        }
        if kept in AIM_POINTS and label.startswith("ours"):
            entry["aim_points"] = AIM_POINTS[kept]
            entry["aim_met_on_average"] = sum(drops) / len(drops) <= AIM_POINTS[kept] + 1e-9
        summary.append(entry)
    return summary


def show(summary: list[dict[str, Any]]) -> None:
    """Print the summary, one block per network and width."""
    for network, kept in dict.fromkeys((cell["network"], cell["kept"]) for cell in summary):
        block = [cell for cell in summary if (cell["network"], cell["kept"]) == (network, kept)]
        params, macs = block[0]["params"], block[0]["macs"]
        print(f"\n{network}, {kept:.0%} of every interior width kept: {params:,} parameters, {macs:,} MACs")
        rows = []
        for cell in sorted(block, key=lambda cell: -cell["accuracy"]["mean"]):
            found, drop = cell["accuracy"], cell["points_below_dense"]["mean"]
            accuracies = [f"{100 * found[key]:.1f}" for key in ("mean", "min", "max")]
            rows.append([cell["method"], *accuracies, f"{drop:.2f}", f"{cell['cpu_seconds']['mean']:.1f}"])
        print_table(["method", "mean %", "min %", "max %", "below dense", "CPU seconds"], rows)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; a partial run replaces no result unless it is told where to write."""
    everything = [*PEERS, *(f"ours-{selector}" for selector in SELECTORS)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=everything, default=everything)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="networks this small gain nothing from more")
    parser.add_argument("--out", type=Path, help="folder of digits.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)
    warnings.filterwarnings("ignore", message="Using a non-full backward hook")  # Torch-Pruning's OBDC
    rows = [
        row
        for network in args.networks
        for seed in range(args.seeds)
        for row in measure(network, seed, set(args.methods))
    ]
    summary = summarise(rows)
    show(summary)
    payload = {
        "benchmark": "digits",
        "command": "python -m benchmarks.digits",
        "config": {
            "networks": args.networks,
            "methods": args.methods,
            "seeds": args.seeds,
            "kept": list(KEPT),
            "data": "scikit-learn load_digits, 1297 to train and calibrate, 500 to test, stratified",
            "labels": "read by the methods marked so; never by ours",
            "recalibration": "running statistics reset, cumulative average over the training images",
            "torch_pruning": "local ratio, output layer and residual streams ignored; the scores "
            "Hessian, Activation and OBDC repaired, see benchmarks/_torch_pruning.py",
            "aim_points_below_dense": {str(kept): points for kept, points in AIM_POINTS.items()},
        },
        "environment": environment(["torch", "torch-pruning", "numpy", "scikit-learn"], threads=args.threads),
        "summary": summary,
        "rows": [asdict(row) for row in rows],
    }
    complete = args.networks == list(NETWORKS) and args.methods == everything and args.seeds >= 3
    if args.out or complete:
        print(f"\nwritten: {write_json('digits', payload, folder=args.out or RESULTS).name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
