"""CIFAR-10 ResNet-20 pruned by other tools, then repaired without labels: BatchNorm statistics anew, or a refit.

    python -m benchmarks.refit_pruned [--samples 2000] [--test 2000]

Calibration data are training images without their labels; accuracy is on test images. Writes
``benchmarks/results/refit_pruned.json``.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils import prune

from benchmarks._harness import data_root, environment, print_table, write_json
from benchmarks._torch_pruning import PEERS
from benchmarks._torch_pruning import prune as torch_pruning
from benchmarks.cifar_resnet import accuracy, load_cifar10, load_resnet
from pathnorm.deep import refit
from pathnorm.deep.pruned_pairs import bare_copy
from pathnorm.demo.baseline import recalibrate_batch_norm


def _layers(model: nn.Module, *, interior: bool) -> dict[str, nn.Module]:
    """Return the first convolutions of the blocks, or all convolutions and the linear layer."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and (not interior or name.endswith(".conv1"))
    }


def _cut(model: nn.Module, images: Tensor) -> nn.Module:
    interior = _layers(model, interior=True)
    return torch_pruning(
        model, PEERS["tp-magnitude"], kept=0.5, free=list(interior), images=images[:2], labels=torch.zeros(2).long()
    )


def _rows(model: nn.Module, images: Tensor) -> nn.Module:
    twin = copy.deepcopy(model)
    for layer in _layers(twin, interior=True).values():
        prune.ln_structured(layer, "weight", 0.5, n=2, dim=0)
    return twin


def _entries(model: nn.Module, images: Tensor) -> nn.Module:
    twin = copy.deepcopy(model)
    for layer in _layers(twin, interior=False).values():
        prune.l1_unstructured(layer, "weight", 0.8)
    return twin


CASES = {
    "Torch-Pruning, magnitude, half of every block interior": _cut,
    "prune.ln_structured, half of every block interior": _rows,
    "prune.l1_unstructured, 80 % of every layer": _entries,
}


def _anew(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy with BatchNorm statistics taken anew; masks become zeros."""
    for layer in model.modules():
        if prune.is_pruned(layer) and hasattr(layer, "weight_mask"):
            prune.remove(layer, "weight")
    return recalibrate_batch_norm(model, images)


def _macs(model: nn.Module) -> float:
    """Return multiply-accumulates for one image, zeros counted, as Torch-Pruning does."""
    return float(tp.utils.count_ops_and_params(model, torch.zeros(1, 3, 32, 32))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="unlabelled training images")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--positions", type=int, default=16, help="output positions per batch and layer")
    options = parser.parse_args()
    root = data_root()
    images, _ = load_cifar10(root, "train", options.samples)
    test, truth = load_cifar10(root, "test", options.test)
    model = load_resnet(20, root)
    rows: list[dict[str, Any]] = []
    for name, shrink in CASES.items():
        pruned = shrink(model, images)
        started = time.perf_counter()
        made = refit(model, pruned, images, max_positions=options.positions, batch_size=100)
        seconds = time.perf_counter() - started
        record = made.record
        rows.append(
            {
                "pruned_by": name,
                "factor_macs": _macs(model) / _macs(bare_copy(pruned)[0]),
                "weights_left": sum(layer.weights_left for layer in record.layers),
                "weights": sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1),
                "accuracy_original": accuracy(model, test, truth),
                "accuracy_pruned": accuracy(pruned, test, truth),
                "accuracy_batch_norm": accuracy(_anew(shrink(model, images), images), test, truth),
                "accuracy_refit": accuracy(made.model, test, truth),
                "output_error_pruned": record.output_error_before,
                "output_error_refit": record.output_error_after,
                "refitted": sum(layer.refitted for layer in record.layers),
                "layers": len(record.layers),
                "seconds": seconds,
            }
        )
        print(record, flush=True)
    write_json(
        "refit_pruned",
        {
            "network": "ResNet-20",
            "samples": options.samples,
            "test_images": options.test,
            "max_positions": options.positions,
            "environment": environment(
                ["pathnorm", "torch", "torch-pruning", "numpy"], threads=torch.get_num_threads()
            ),
            "rows": rows,
        },
    )
    print_table(
        ["pruned by", "pruned %", "BatchNorm anew %", "refit %", "seconds"],
        [
            [
                row["pruned_by"],
                *(f"{100 * row[key]:.2f}" for key in ("accuracy_pruned", "accuracy_batch_norm", "accuracy_refit")),
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
