"""CIFAR-10 ResNet-20 and ResNet-56 at 2.0x and 2.1x fewer multiply-accumulates: no labels, no fine-tuning.

    python -m benchmarks.cifar_resnet [--depth 20 56] [--samples 5000] [--slide 300 0]

Calibration data are training images without their labels; accuracy is on all 10,000 test images.
Writes ``benchmarks/results/cifar_resnet.json``; cases that are not run keep their last row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks._harness import RESULTS, data_root, environment, print_table, write_json
from pathnorm.deep import compress

WEIGHTS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two convolutions; where the shape changes, the shortcut subsamples and pads with zero channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.extra = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            side = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        return F.relu(branch + x)


class ResNet(nn.Module):
    """The CIFAR residual network of He, Zhang, Ren, Sun (2016) with 6 n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(BasicBlock(before if i == 0 else after, after, stride if i == 0 else 1) for i in range(blocks))
            )
            for before, after, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def load_resnet(depth: int, root: Path) -> ResNet:
    """Return the trained network of ``root / weights / resnet_cifar10``."""
    path = root / "weights" / "resnet_cifar10" / WEIGHTS[depth]
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    model = ResNet(depth)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def load_cifar10(root: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first ``count`` images, normalised (n, 3, 32, 32), and their labels."""
    folder = root / "cifar10"
    images: list[np.ndarray] = []
    for path in sorted(folder.glob(f"{split}_*.webp")):
        sheet = np.asarray(Image.open(path).convert("RGB"))
        rows, cols = sheet.shape[0] // 32, sheet.shape[1] // 32
        images.append(sheet.reshape(rows, 32, cols, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
        if sum(part.shape[0] for part in images) >= count:
            break
    stacked = torch.from_numpy(np.concatenate(images)[:count]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(np.load(folder / f"{split}_labels.npy")[:count].astype(np.int64))
    return (stacked - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), labels


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        right = [
            int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(200), labels.split(200), strict=True)
        ]
    return sum(right) / labels.numel()


def _with_earlier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``rows`` and those of the last result that were not run again, in a fixed order."""

    def case(row: dict[str, Any]) -> tuple[int, float, int]:
        return int(row["network"].rpartition("-")[2]), row["factor_asked"], -row["slide"]

    path = RESULTS / "cifar_resnet.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return sorted({case(row): row for row in [*earlier, *rows]}.values(), key=case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", default=[20, 56], choices=sorted(WEIGHTS))
    parser.add_argument("--samples", type=int, default=5000, help="unlabelled training images")
    parser.add_argument("--factor", type=float, nargs="+", default=[2.0, 2.1], help="fewer multiply-accumulates")
    parser.add_argument("--slide", type=int, nargs="+", default=[300, 0], help="local steps per layer")
    options = parser.parse_args()
    root = data_root()
    images, _ = load_cifar10(root, "train", options.samples)
    test, truth = load_cifar10(root, "test", 10_000)
    rows: list[dict[str, Any]] = []
    for depth in options.depth:
        model = load_resnet(depth, root)
        dense = accuracy(model, test, truth)
        for factor, steps in itertools.product(options.factor, options.slide):
            started = time.perf_counter()
            made = compress(
                model,
                images,
                macs=1.0 / factor,
                outputs="logits",
                slide=steps,
                max_positions=16,
                batch_size=100,
            )
            seconds = time.perf_counter() - started
            record = made.record
            rows.append(
                {
                    "network": f"ResNet-{depth}",
                    "factor_asked": factor,
                    "slide": steps,
                    "threads": torch.get_num_threads(),
                    "factor_macs": record.macs_before / record.macs_after,
                    "factor_params": record.params_before / record.params_after,
                    "accuracy_dense": dense,
                    "accuracy": accuracy(made.model, test, truth),
                    "output_error_heldout": record.output_error_heldout,
                    "largest_gap": max(group.gap for group in record.groups),
                    "seconds": seconds,
                    "latency_ms": [record.latency_ms_before, record.latency_ms_after],
                    "peak_memory_mb": record.peak_memory_mb,
                    "widths": {group.name: [group.width_before, group.width_after] for group in record.groups},
                }
            )
            write_json(
                "cifar_resnet",
                {
                    "samples": options.samples,
                    "test_images": int(truth.numel()),
                    "environment": environment(["pathnorm", "torch", "numpy"], threads=torch.get_num_threads()),
                    "rows": _with_earlier(rows),
                },
            )
            print(
                f"{rows[-1]['network']} {factor}x slide {steps}: {100 * rows[-1]['accuracy']:.2f} % in {seconds:.0f} s",
                flush=True,
            )
    print_table(
        ["network", "slide", "MACs", "parameters", "dense %", "compressed %", "lost", "seconds"],
        [
            [
                row["network"],
                str(row["slide"]),
                f"{row['factor_macs']:.3f}x",
                f"{row['factor_params']:.2f}x",
                f"{100 * row['accuracy_dense']:.2f}",
                f"{100 * row['accuracy']:.2f}",
                f"{100 * (row['accuracy_dense'] - row['accuracy']):.2f}",
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
