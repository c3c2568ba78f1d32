"""Predicted output errors of a frontier beside those measured after compression, without labels or retraining.

    python -m benchmarks.frontier_points [--networks digits-cnn resnet-20] [--samples 1000]

Three networks trained on the digits of scikit-learn, seed 0, and the ResNet-20 of CIFAR-10. Measured errors are on
held-out samples, accuracy is on test images. Writes ``benchmarks/results/frontier_points.json``; networks that are
not run keep their last rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._harness import RESULTS, data_root, environment, print_table, write_json
from benchmarks.cifar_resnet import accuracy, load_cifar10, load_resnet
from pathnorm.deep import frontier
from pathnorm.demo.digits import digits_cnn, digits_mlp, digits_resnet, load_split, train

DIGITS = {"digits-cnn": digits_cnn, "digits-mlp": digits_mlp, "digits-resnet": digits_resnet}
SHARES = dict.fromkeys(DIGITS, (0.8, 0.6, 0.4, 0.25)) | {"resnet-20": (0.8, 0.5)}


def _network(name: str, samples: int) -> tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]:
    """Return a trained network, calibration images, and test images with their labels."""
    if name in DIGITS:
        split = load_split(0)
        torch.manual_seed(0)
        return train(DIGITS[name](), split, seed=0), split.train_images, (split.test_images, split.test_labels)
    root = data_root()
    return load_resnet(20, root), load_cifar10(root, "train", samples)[0], load_cifar10(root, "test", 2000)


def _earlier(networks: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of the last result for networks other than these."""
    path = RESULTS / "frontier_points.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [row for row in rows if row["network"] not in networks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--samples", type=int, default=1000, help="unlabelled CIFAR-10 training images")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        model, images, (test, truth) = _network(name, options.samples)
        found = frontier(model, images, max_positions=16, batch_size=100)
        for share in SHARES[name]:
            point = found.at(macs=share)
            made = found.compress(point)
            rows.append(
                {
                    "network": name,
                    "macs": point.macs,
                    "params": point.params,
                    "error_predicted": point.error,
                    "error_heldout": made.record.output_error_heldout,
                    "accuracy_dense": accuracy(model, test, truth),
                    "accuracy": accuracy(made.model, test, truth),
                    "seconds_frontier": found.record.seconds,
                    "seconds_compress": made.record.seconds,
                }
            )
            print(rows[-1], flush=True)
    write_json(
        "frontier_points",
        {
            "samples_cifar10": options.samples,
            "environment": environment(["pathnorm", "torch", "numpy"], threads=torch.get_num_threads()),
            "rows": sorted([*_earlier(options.networks), *rows], key=lambda row: list(SHARES).index(row["network"])),
        },
    )
    print_table(
        ["network", "MACs %", "predicted %", "measured %", "accuracy %"],
        [
            [
                row["network"],
                *(f"{100 * row[key]:.1f}" for key in ("macs", "error_predicted", "error_heldout", "accuracy")),
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
