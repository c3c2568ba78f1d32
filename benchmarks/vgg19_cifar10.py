"""VGG-19 trained with weight decay on CIFAR-10, then made smaller without labels and without retraining.

Claim: weight decay leaves layers with far more neurons than the multitask lasso needs. Shenouda, Parhi, Lee, Nowak
(2024) went from 512 to 47 neurons in one layer of a VGG-19, accuracy 93.92 -> 93.88 %, training loss 0.0104 -> 0.0112.
Here every layer of that width is cut to the same share (9.2 %) on its own, and then the whole network to a tenth of its
parameters, or to a third of its multiply-accumulates, against pruning by magnitude.

The published network needs a GPU: ``--full`` trains it (width 512, 200 epochs). By default a network that is four times
narrower is trained on the CPU, and every figure says so. Weights go to ``--folder``, never into the repository.

    python -m benchmarks.vgg19_cifar10 train [--full] [--epochs 28]
    python -m benchmarks.vgg19_cifar10 compress [--full]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _vgg
from benchmarks._harness import data_root, environment, print_table, write_json
from benchmarks.cifar_resnet import load_cifar10
from pathnorm import compress
from pathnorm.deep import path_norm

NAME = "vgg19_cifar10"
SHARE = 47 / 512  # of the neurons, as published
SAMPLES = 5_000  # unlabelled training images for calibration of the whole network
LAYER_SAMPLES = 1_500  # and of a single layer
Row = dict[str, Any]


def files(folder: Path, narrower: int) -> tuple[Path, Path, Path]:
    """Weights, checkpoint and log of a training run."""
    stem = f"vgg19-cifar10-{narrower}x-narrower"
    return folder / f"{stem}.safetensors", folder / f"{stem}.ckpt", folder / f"{stem}.jsonl"


def train(options: argparse.Namespace) -> None:
    weights, checkpoint, log = files(options.folder, options.narrower)
    images, labels = load_cifar10(data_root(), "train", 50_000)
    torch.manual_seed(0)
    model = _vgg.vgg(options.narrower).to(options.device)
    plan = _vgg.Training(epochs=options.epochs, lr=0.1 if options.full else 0.05)
    options.folder.mkdir(parents=True, exist_ok=True)
    for row in _vgg.train(model, images, labels, plan, checkpoint=checkpoint):
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(f"epoch {row['epoch']}: loss {row['loss']:.4f}, {row['seconds']:.0f} s", flush=True)
    _vgg.save(model.cpu(), weights)


def wide_layers(model: nn.Sequential) -> list[str]:
    """Names of the convolutions of the largest width."""
    widths = {name: int(model.get_submodule(name).out_channels) for name in _vgg.convolutions(model)}
    return [name for name, width in widths.items() if width == max(widths.values())]


def described(what: str, model: nn.Module, data: tuple[Tensor, Tensor, Tensor, Tensor], **more: Any) -> Row:
    images, labels, test, truth = data
    loss, train_accuracy = _vgg.cross_entropy(model, images, labels)
    test_loss, accuracy = _vgg.cross_entropy(model, test, truth)
    return {
        "what": what,
        "accuracy": accuracy,
        "test_loss": test_loss,
        "train_loss": loss,
        "train_accuracy": train_accuracy,
        "params": sum(p.numel() for p in model.parameters()),
        **more,
    }


def by_magnitude(model: nn.Sequential, kept: float, images: Tensor, labels: Tensor) -> nn.Module:
    """Torch-Pruning's magnitude score, the same share of every layer."""
    from benchmarks._torch_pruning import PEERS, prune

    free = _vgg.convolutions(model)
    return prune(model, PEERS["tp-magnitude"], kept=kept, free=free, images=images[:256], labels=labels[:256])


def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """The same network with the statistics of its BatchNorms taken anew from the calibration images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for batch in images.split(250):
            model(batch)
    return model.eval()


def shrink(options: argparse.Namespace) -> None:
    root = data_root()
    weights, _, log = files(options.folder, options.narrower)
    model = _vgg.load(weights, options.narrower)
    every, labels = load_cifar10(root, "train", 50_000)
    test, truth = load_cifar10(root, "test", 10_000)
    calibration = every[:SAMPLES]
    # The training loss of a smaller network is taken on images that it was not calibrated with.
    data = (every[SAMPLES : 2 * SAMPLES], labels[SAMPLES : 2 * SAMPLES], test, truth)
    history = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    norms = path_norm(model, test[:2])
    rows = [described("dense", model, data, path_norm=norms.total)]
    dense = rows[0]

    def keep(row: Row) -> None:
        rows.append(row)
        payload = {
            "command": "python -m benchmarks.vgg19_cifar10 train; python -m benchmarks.vgg19_cifar10 compress",
            "narrower": options.narrower,
            "note": "the published width"
            if options.narrower == 1
            else f"{options.narrower} times narrower than VGG-19",
            "published": {"neurons": [512, 47], "accuracy": [0.9392, 0.9388], "train_loss": [0.0104, 0.0112]},
            "samples": SAMPLES,
            "training": history,
            "environment": environment(["torch", "numpy", "pathnorm"], threads=torch.get_num_threads()),
            "rows": rows,
        }
        write_json(NAME, payload)
        print(
            f"{row['what']}: {100 * row['accuracy']:.2f} % ({100 * (row['accuracy'] - dense['accuracy']):+.2f}), "
            f"{dense['params'] / row['params']:.1f}x fewer parameters",
            flush=True,
        )

    for name in reversed(wide_layers(model)):
        width = int(model.get_submodule(name).out_channels)
        started = time.perf_counter()
        made = compress(
            model,
            calibration[:LAYER_SAMPLES],
            widths={name: max(1, round(SHARE * width))},
            selector="lasso",
            skip=[other for other in _vgg.convolutions(model) if other != name],
            outputs="logits",
            max_positions=16,
        )
        (group,) = (item for item in made.record.groups if item.name == name)
        keep(
            described(
                f"layer {name}: {width} -> {group.width_after}",
                made.model,
                data,
                layer=name,
                width=[width, group.width_after],
                layer_error_heldout=group.error_heldout,
                rank=[group.rank_features, group.rank_outputs],
                gap=group.gap,
                seconds=time.perf_counter() - started,
            )
        )
    for budget, steps in (({"params": 0.1}, 0), ({"params": 0.1}, 300), ({"macs": 1 / 3}, 300)):
        started = time.perf_counter()
        made = compress(
            model,
            calibration,
            **budget,
            outputs="logits",
            slide=steps,
            max_positions=16,
        )
        (kind, share), *_ = budget.items()
        keep(
            described(
                f"whole network, {kind} {share:.2f}, slide {steps}",
                made.model,
                data,
                macs=[made.record.macs_before, made.record.macs_after],
                output_error_heldout=made.record.output_error_heldout,
                accuracy_interval=made.record.accuracy_change_interval,
                widths={group.name: [group.width_before, group.width_after] for group in made.record.groups},
                seconds=time.perf_counter() - started,
            )
        )
    pruned = by_magnitude(model, 0.1**0.5, every, labels)
    keep(described("whole network, magnitude (Torch-Pruning)", pruned, data))
    keep(described("whole network, magnitude, BatchNorm recalibrated", recalibrated(pruned, calibration), data))
    print_table(
        ["network", "parameters", "test %", "lost", "train loss"],
        [
            [
                row["what"],
                f"{row['params']:,}",
                f"{100 * row['accuracy']:.2f}",
                f"{100 * (dense['accuracy'] - row['accuracy']):.2f}",
                f"{row['train_loss']:.4f}",
            ]
            for row in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "compress"))
    parser.add_argument("--full", action="store_true", help="the published width, on a GPU")
    parser.add_argument("--epochs", type=int, default=None, help="28, or 200 with --full")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "pathnorm", help="for trained weights")
    options = parser.parse_args()
    options.narrower = 1 if options.full else 4
    options.epochs = options.epochs or (200 if options.full else 28)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.step == "train":
        if options.full and options.device == "cpu":
            parser.error(
                "--full trains for days on a CPU; a CUDA device is needed. Without --full the network is narrower"
            )
        train(options)
    else:
        shrink(options)


if __name__ == "__main__":
    main()
