"""A small GPT and two small ViTs with feed-forward neurons and heads removed: ours against three scores, no retraining.

    python -m benchmarks.small_transformers [--networks gpt vit-mnist vit-cifar10] [--samples 1024] [--resume] [--quick]

The GPT has learnt the bytes of the standard library's sources, the ViTs MNIST and CIFAR-10 (``_small_models``). A
quarter or half of the feed-forward neurons, of the heads, or of both is removed from every block, the same number by
every method (``_structured_peers``), which is checked; so what differs is which, and what becomes of the weights. All
methods get the same unlabelled training inputs, drawn anew for every seed; ours keeps a fifth of them back for its
record.

Test loss is the cross-entropy per byte of 1,000 windows of files that were not trained on, or per test image; its
standard error is over windows or images. Ours is the default of ``compress``; for the first seed also the same with
``slide``, which moves feed-forward neurons. Writes ``benchmarks/results/small_transformers.json`` point by point; rows
that are not run are kept, and ``--resume`` skips those that are there. Rows of a network that was trained again, to
other weights, are dropped.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import RESULTS, print_table, wilson
from benchmarks._isolated import Rows, one_thread, stopwatch, versions_of
from benchmarks._small_models import NETWORKS, Case, losses, ready
from benchmarks._structured_peers import PARTS, PEERS, prune
from pathnorm.deep import Compression, compress, plan

Row = dict[str, Any]
POINTS: dict[str, dict[str, float]] = {
    f"{name}-{percent}": dict.fromkeys(parts, percent / 100)
    for name, parts in (("ffn", ("ffn",)), ("heads", ("heads",)), ("both", ("heads", "ffn")))
    for percent in (25, 50)
}
OURS, SLIDE = "ours", "ours-slide"
GROUPS = {"heads": "attention.query", "ffn": "up"}  # by the layer that makes the units
KEY = ("network", "point", "method", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all rows of a run share."""

    samples: int
    slide: int
    seeds: int
    points: tuple[str, ...]
    resume: bool


def methods_at(point: str, seed: int, settings: Settings) -> list[str]:
    """Return the methods that differ at a point: only feed-forward neurons slide, only heads add squares."""
    found = [OURS, SLIDE, *PEERS]
    if "ffn" not in POINTS[point] or seed > 0 or settings.slide == 0:
        found.remove(SLIDE)
    if "heads" not in POINTS[point]:
        found.remove("flap-squared")
    return found


def _ours(case: Case, data: Tensor, point: str, *, slide: int, seed: int) -> Compression:
    """Compress with the widths of a point; sliding takes smaller batches, all else is left at its default."""
    widths = {
        f"blocks.{index}.{GROUPS[part]}": PARTS[part](block).left(share)
        for index, block in enumerate(case.model.blocks)
        for part, share in POINTS[point].items()
    }
    return compress(
        case.model,
        data,
        widths=widths,
        outputs=case.outputs,  # type: ignore[arg-type]
        slide=slide,
        batch_size=case.slide_batch if slide else 128,
        seed=seed,
    )


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def run_point(
    case: Case, dense: Tensor, point: str, seed: int, *, methods: list[str], settings: Settings
) -> Iterator[Row]:
    """Run ``methods``, ours first, at a point with one draw of calibration data; ``dense`` are losses before."""
    data = case.draw(settings.samples, torch.Generator().manual_seed(1000 + seed))
    reference: tuple[Tensor, dict[str, tuple[int, ...]], Row] | None = None
    for method in methods:
        read = stopwatch()
        facts: Row = {}
        if method in PEERS:
            model = prune(case.model, data, PEERS[method], removed=POINTS[point], seed=seed)
        else:
            steps = settings.slide if method == SLIDE else 0
            made = _ours(case, data, point, slide=steps, seed=seed)
            model, facts = made.model, {"slide": steps} | _facts(made)
        clocks = read()
        loss, right = losses(model, case.inputs, case.targets)
        if reference is None:
            reference = loss, _shapes(model), {key: facts[key] for key in ("params", "macs")}
        if _shapes(model) != reference[1]:
            raise AssertionError(f"{case.name} {point} {method}: widths differ from those of {OURS}.")
        yield {
            "network": case.name,
            "point": point,
            "method": method,
            "seed": seed,
            "samples": settings.samples,
            **measured(loss, right, case),
            "loss_above_dense": _mean_of(loss - dense),
            "loss_above_ours": _mean_of(loss - reference[0]),
            **{key: round(value, 2) for key, value in clocks.items()},
            **reference[2],
            **facts,
        }


def measured(loss: Tensor, right: Tensor, case: Case) -> Row:
    """Return test loss and what is said of it: perplexity per byte, or accuracy with its 95 % interval (Wilson)."""
    found: Row = {"loss": _mean_of(loss), "accuracy": float(right.mean())}
    if case.outputs == "values":
        return found | {"perplexity": math.exp(found["loss"][0])}
    return found | {"accuracy_interval": wilson(found["accuracy"], right.numel())}


def _mean_of(values: Tensor) -> list[float]:
    """Return the mean and its standard error."""
    return [float(values.mean()), float(values.std() / math.sqrt(values.numel()))]


def _facts(made: Compression) -> Row:
    """Return what the record states."""
    record = made.record
    return {
        "params": record.params_after,
        "macs": record.macs_after,
        "output_error_heldout": record.output_error_heldout,
        "largest_gap": max(group.gap for group in record.groups),
        "errors_heldout": {group.name: group.error_heldout for group in record.groups},
        "widths": {group.name: [group.width_before, group.width_after] for group in record.groups},
        "slid": sum(group.slid for group in record.groups),
    }


def aims(rows: list[Row]) -> list[Row]:
    """Say for every point whether ours has the lowest loss, and of classes the highest accuracy, of all methods.

    Means over seeds. ``ahead_by`` is by how much the nearest peer's mean is worse; of losses also by seed, with the
    standard error of each paired difference. ``intervals`` are the binomial ones of our accuracies, by seed. ``slide``
    is against the best peer with the first seed.
    """
    found: list[Row] = []
    for network, point in dict.fromkeys((row["network"], row["point"]) for row in rows):
        here = [row for row in rows if (row["network"], row["point"]) == (network, point)]
        measures: dict[str, Callable[[Row], float]] = {"loss": lambda row: row["loss"][0]}
        if "perplexity" not in here[0]:
            measures["accuracy"] = lambda row: -row["accuracy"]
        for measure, read in measures.items():
            values: dict[str, list[float]] = {}
            for row in here:
                values.setdefault(row["method"], []).append(read(row))
            means = {method: sum(each) / len(each) for method, each in values.items()}
            peers = [method for method in means if method in PEERS]
            if OURS not in means or not peers:
                continue
            nearest = min(peers, key=means.__getitem__)
            sign = 1 if measure == "loss" else -1
            entry: Row = {
                "network": network,
                "point": point,
                "measure": measure,
                "seeds": len(values[OURS]),
                "values": {method: sign * mean for method, mean in means.items()},
                "nearest_peer": nearest,
                "ahead_by": means[nearest] - means[OURS],
                "met": means[OURS] < means[nearest],
            }
            if SLIDE in means:
                rivals = [read(row) for row in here if row["method"] in PEERS and row["seed"] == 0]
                entry["slide"] = {"ahead_by": min(rivals) - means[SLIDE], "met": means[SLIDE] < min(rivals)}
            if measure == "accuracy":
                entry["intervals"] = [row["accuracy_interval"] for row in here if row["method"] == OURS]
            else:
                entry["by_seed"] = [row["loss_above_ours"] for row in here if row["method"] == nearest]
            found.append(entry)
    return found


def show(rows: list[Row], dense: dict[str, Row]) -> None:
    """Print means over seeds."""
    table = []
    for network, point, method in dict.fromkeys(tuple(row[key] for key in KEY[:3]) for row in rows):
        here = [row for row in rows if tuple(row[key] for key in KEY[:3]) == (network, point, method)]

        def mean(read: Callable[[Row], float], here: list[Row] = here) -> float:
            return sum(read(row) for row in here) / len(here)

        said = (
            f"{mean(lambda row: row['perplexity']):.3f}"
            if "perplexity" in here[0]
            else f"{100 * mean(lambda row: row['accuracy']):.2f} %"
        )
        table.append(
            [
                f"{network} {point} {method}",
                str(len(here)),
                f"{mean(lambda row: row['loss'][0]):.4f}",
                f"{mean(lambda row: row['loss_above_dense'][0]):+.4f}",
                said,
                f"{100 * here[0]['params'] / dense[network]['params']:.1f}",
                f"{mean(lambda row: row['seconds']):.1f}",
            ]
        )
    print_table(["network, point, method", "seeds", "loss", "above dense", "said", "params %", "seconds"], table)


def _run(name: str, rows: Rows, dense: dict[str, Row], settings: Settings, payload: Row, *, steps: int | None) -> None:
    case = ready(name, steps=steps)
    before = losses(case.model, case.inputs, case.targets)
    costs = plan(case.model, case.draw(4, torch.Generator().manual_seed(0)))
    earlier = dense.get(name)
    dense[name] = {
        "data": case.data,
        "training": case.training,
        "outputs": case.outputs,
        "slide_batch": case.slide_batch,
        "params": costs.params,
        "macs": costs.macs,
        **measured(*before, case),
    }
    print(f"{name}: {dense[name]}", flush=True)
    # Another processor changes the last digits of a loss, other weights more than that.
    if earlier and not math.isclose(earlier["loss"][0], dense[name]["loss"][0], rel_tol=1e-5):
        print(f"{name}: other weights than those of earlier rows, which are dropped.")
        rows.rows = [row for row in rows.rows if row["network"] != name]
    for seed in range(settings.seeds):
        for point in settings.points:
            methods = methods_at(point, seed, settings)
            if settings.resume:
                methods = [m for m in methods if not rows.find(dict(zip(KEY, (name, point, m, seed), strict=True)))]
            if not methods:
                continue
            methods = [OURS, *(method for method in methods if method != OURS)]
            for row in run_point(case, before[0], point, seed, methods=methods, settings=settings):
                rows.add(row)
                print(f"{name} {point} {row['method']} {seed}: {row['loss'][0]:.4f} in {row['seconds']} s", flush=True)
            rows.write(payload | {"dense": dense, "aims": aims(rows.rows)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--points", nargs="+", default=list(POINTS), choices=list(POINTS))
    parser.add_argument("--samples", type=int, default=1024, help="unlabelled windows of 128 bytes, or images")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the calibration data")
    parser.add_argument("--slide", type=int, default=300, help="steps per layer of the second of ours, 0 for none")
    parser.add_argument("--resume", action="store_true", help="skip rows that are there")
    parser.add_argument("--quick", action="store_true", help="20 steps of training; writes to a temporary folder")
    options = parser.parse_args()
    one_thread()
    torch.set_num_threads(1)
    settings = Settings(
        samples=256 if options.quick else options.samples,
        slide=min(options.slide, 20) if options.quick else options.slide,
        seeds=1 if options.quick else options.seeds,
        points=tuple(options.points),
        resume=options.resume,
    )
    rows = Rows("small_transformers", KEY, folder=_folder(quick=options.quick))
    payload = {
        "command": "python -m benchmarks.small_transformers",
        "samples": settings.samples,
        "slide": settings.slide,
        "environment": versions_of(["pathnorm", "torch", "numpy", "scipy"]),
    }
    dense = _earlier(rows)
    started = time.perf_counter()
    for name in options.networks:
        _run(name, rows, dense, settings, payload, steps=20 if options.quick else None)
    rows.write(payload | {"dense": dense, "aims": aims(rows.rows)})
    show([row for row in rows.rows if row["network"] in options.networks], dense)
    for aim in aims(rows.rows):
        print(f"{'met' if aim['met'] else 'NOT MET'}: {aim['network']} {aim['point']} {aim['measure']}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


def _earlier(rows: Rows) -> dict[str, Row]:
    """Return what an earlier run wrote of the networks themselves."""
    path = rows.folder / f"{rows.name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["dense"]) if path.exists() else {}


def _folder(*, quick: bool) -> Path:
    return Path(tempfile.gettempdir()) / "pathnorm-quick" if quick else RESULTS


if __name__ == "__main__":
    main()
