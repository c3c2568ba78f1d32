"""CIFAR-10 ResNet-20 and ResNet-56: accuracy against multiply-accumulates, beside Torch-Pruning.

    python -m benchmarks.cifar_frontier [--depth 20 56] [--factors 2.1 3] [--couplings interior] [--methods pathnorm]

Rows are saved one by one and those of earlier runs kept; ``--resume`` skips what is there. Methods, in the order in
which they need one another:

- ``pathnorm``: a point of ``frontier`` with 300 local steps per layer, ``pathnorm-slide-0`` without;
- ``peers``: every score of Torch-Pruning that reads no labels, as it is and with BatchNorm statistics taken anew;
- ``refit``: ``pathnorm.deep.refit`` on its default score, and on that whose networks are best with new statistics;
- ``tuned``: one epoch of training with labels, from ours, from the default score, from the best score, from the refit.

``interior`` cuts between the two convolutions of a block. ``streams`` cuts all channels: shortcuts that pad with zeros
become 1x1 convolutions first, with the same outputs, for every method; factors stay those of the original network.
Calibration data are training images without labels; accuracy is on all 10,000 test images. Networks are kept in
``--models`` so that ``refit`` and ``tuned`` start from them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks._cifar_peers import (
    INTERIOR,
    KEY,
    READING,
    SETTINGS,
    STREAMS,
    VARIANTS,
    Case,
    Data,
    Row,
    count_macs,
    kept_by_shortcuts,
    tune,
)
from benchmarks._harness import RESULTS, data_root, print_table
from benchmarks._isolated import Rows, one_thread, stopwatch, versions_of
from pathnorm.deep import refit
from pathnorm.demo.baseline import recalibrate_batch_norm
from pathnorm.errors import PathnormError

METHODS = ("pathnorm", "pathnorm-slide-0", "peers", "refit", "tuned")
FACTORS = {20: (1.2, 1.5, 2.0, 3.0, 4.0), 56: (1.2, 1.5, 2.0, 2.1, 3.0, 4.0)}
DEFAULT_PEER = "tp-magnitude-local"
STEPS = {"pathnorm": 300, "pathnorm-slide-0": 0}
# Of a peer's rounding in its own favour, what is still called the same size.
SLACK = 0.8
PLAIN = ("none", "batch-norm")
GOALS = ((56, 2.1, 0.92), (56, 3.0, 0.90))
PACKAGES = ["pathnorm", "torch", "torch-pruning", "numpy"]


# ---------------------------------------------------------------------------- methods
def run_ours(case: Case, factor: float, method: str) -> Iterator[Row]:
    """A point of ``frontier`` at a share of the multiply-accumulates of the original network."""
    key = case.key(factor, method)
    share = count_macs(case.original) / (factor * count_macs(case.model))
    points, before = case.frontier
    read = stopwatch()
    try:
        made = points.compress(points.at(macs=share), slide=20 if case.quick and STEPS[method] else STEPS[method])
    except PathnormError as error:
        yield key | {"failure": str(error)[:200]}
        return
    times, record = read(), made.record
    case.keep(key, made.model)
    found = case.measured(made.model)
    if record.macs_after != found["macs"]:
        raise AssertionError(f"the record says {record.macs_after} multiply-accumulates, counted {found['macs']}")
    yield (
        key
        | found
        | {name: times[name] + before[name] for name in times}
        | {
            "output_error_heldout": record.output_error_heldout,
            "widths": {group.name: [group.width_before, group.width_after] for group in record.groups},
        }
    )


def run_peers(case: Case, factor: float, variants: Sequence[str], resume: bool) -> Iterator[Row]:
    """Variants of Torch-Pruning, as they are and with BatchNorm statistics taken anew."""
    budget = count_macs(case.original) / factor
    for variant in variants:
        plain, anew = case.key(factor, variant), case.key(factor, variant, "batch-norm")
        if resume and case.rows.find(plain) and case.rows.find(anew):
            continue
        read = stopwatch()
        pruned, ratio = case.pruner.to_budget(variant, budget)
        times = read()
        reached = count_macs(case.original) / count_macs(pruned)
        if reached < SLACK * factor:
            why = f"no ratio below 1 gives {factor:g} times fewer multiply-accumulates, the nearest {reached:.2f}"
            yield from (key | {"failure": why} for key in (plain, anew))
            continue
        case.keep(plain, pruned)
        yield plain | case.measured(pruned) | times | {"ratio": ratio}
        read = stopwatch()
        fresh = recalibrate_batch_norm(pruned, case.data.images)
        again = read()
        case.keep(anew, fresh)
        yield anew | case.measured(fresh) | {name: times[name] + again[name] for name in times} | {"ratio": ratio}


def run_refit(case: Case, factor: float, resume: bool) -> Iterator[Row]:
    """``refit`` on the default score and on the one that is best with new BatchNorm statistics."""
    names = {DEFAULT_PEER}
    if found := best(case, factor, repairs=("batch-norm",)):
        names.add(found["method"])
    for name in sorted(names):
        key, start = case.key(factor, name, "refit"), case.key(factor, name)
        pruned = case.again(start)
        if pruned is None or (resume and case.rows.find(key)):
            continue
        read = stopwatch()
        kept = kept_by_shortcuts(case.model, pruned)
        made = refit(case.model, pruned, case.data.images, kept=kept, **READING)
        times = read()
        case.keep(key, made.model)
        yield key | case.measured(made.model) | times | {"output_error_heldout": made.record.output_error_after}


def run_tuned(case: Case, factor: float, resume: bool) -> Iterator[Row]:
    """One epoch from ours, from the default and the best network of the peer, from the best refit."""
    starts = [
        case.rows.find(case.key(factor, "pathnorm")),
        best(case, factor, names=(DEFAULT_PEER,)),
        best(case, factor),
        best(case, factor, repairs=("refit",)),
    ]
    for start in {case.path(row): row for row in starts if row}.values():
        key = {part: start[part] for part in KEY} | {"tuned": True}
        model = case.again(start)
        if model is None or (resume and case.rows.find(key)):
            continue
        read = stopwatch()
        taught = tune(model, *case.data.train)
        times = read()
        case.keep(key, taught)
        yield key | case.measured(taught) | times | {"accuracy_before": start["accuracy"]}


def best(
    case: Case, factor: float, *, names: tuple[str, ...] = (*VARIANTS,), repairs: tuple[str, ...] = PLAIN
) -> Row | None:
    """Return the row of a peer with the largest test accuracy: the choice is in its favour."""
    keys = [case.key(factor, name, repair) for name, repair in itertools.product(names, repairs)]
    found = [row for row in map(case.rows.find, keys) if row and "accuracy" in row]
    return max(found, key=lambda row: row["accuracy"]) if found else None


# ---------------------------------------------------------------------------- summary
def aims(rows: Rows) -> list[Row]:
    """Return what was hoped for beside what was measured, in per cent or percentage points."""
    found = [
        _above(rows, coupling, repairs, tuned=tuned)
        for tuned, coupling, repairs in itertools.product(
            (False, True), (INTERIOR, STREAMS), (PLAIN, (*PLAIN, "refit"))
        )
    ]
    for depth, factor, goal in GOALS:
        reached = [
            row
            for row in rows.rows
            if row["network"] == f"ResNet-{depth}"
            and (row["factor_asked"], row["method"], row["tuned"]) == (factor, "pathnorm", False)
            and "accuracy" in row
        ]
        most = max((row["accuracy"] for row in reached), default=None)
        parts = [
            f"{row['coupling']} {100 * row['accuracy']:.2f} % ({100 * row['interval'][0]:.2f} to "
            f"{100 * row['interval'][1]:.2f})"
            for row in reached
        ]
        found.append(
            {
                "aim": f"ResNet-{depth} at least {100 * goal:g} % at {factor:g}x, no labels, no training",
                "measured": None if most is None else 100 * most,
                "met": None if most is None else most >= goal,
                "note": ", ".join(parts),
            }
        )
    return found


def _above(rows: Rows, coupling: str, repairs: tuple[str, ...], *, tuned: bool) -> Row:
    """Return by how much ours is above the best peer where that is least."""
    scored = [row for row in rows.rows if "accuracy" in row and (row["coupling"], row["tuned"]) == (coupling, tuned)]
    margins: dict[tuple[str, float], tuple[float, str]] = {}
    missing = []
    for depth, factor in ((depth, factor) for depth, factors in FACTORS.items() for factor in factors):
        here = [row for row in scored if (row["network"], row["factor_asked"]) == (f"ResNet-{depth}", factor)]
        ours = [row["accuracy"] for row in here if row["method"] == "pathnorm"]
        peers = [row for row in here if row["method"] in VARIANTS and row["repair"] in repairs]
        if not ours or not peers or ("refit" in repairs and all(row["repair"] != "refit" for row in peers)):
            missing.append(f"ResNet-{depth} {factor:g}x")
            continue
        top = max(peers, key=lambda row: row["accuracy"])
        margins[f"ResNet-{depth}", factor] = (100 * (ours[0] - top["accuracy"]), label(top))
    least = min(margins.items(), key=lambda item: item[1][0], default=None)
    note = [f"{network} {factor:g}x {gap:+.2f}" for (network, factor), (gap, _) in margins.items()]
    if least:
        (network, factor), (_, name) = least
        note.append(f"least at {network} {factor:g}x, against {name}")
    if missing:
        note.append(f"not run: {', '.join(missing)}")
    return {
        "aim": f"{coupling}{', one epoch of training' if tuned else ''}: above every peer"
        f"{' and every peer with our refit' if 'refit' in repairs else ''} at every point (least margin, points)",
        "measured": least[1][0] if least else None,
        "met": None if not least or (missing and least[1][0] > 0) else least[1][0] > 0,
        "note": "; ".join(note),
    }


def label(row: Row) -> str:
    """Return the method of a row in words."""
    return row["method"] + ("" if row["repair"] == "none" else f" + {row['repair']}")


def save(rows: Rows, options: argparse.Namespace) -> None:
    """Write the rows in a fixed order, after what is said of all of them."""
    order = [*STEPS, *VARIANTS]
    rows.rows.sort(
        key=lambda row: (
            row["network"],
            row["coupling"],
            row["factor_asked"],
            row["tuned"],
            order.index(row["method"]) if row["method"] in order else -1,
            (*PLAIN, "refit").index(row["repair"]),
        )
    )
    payload = {
        "command": "python -m benchmarks.cifar_frontier",
        "settings": {
            "data": f"CIFAR-10; {options.samples} training images without labels to calibrate, {options.test} to test",
            "pathnorm": SETTINGS | {"slide": STEPS, "budget": "macs, at most the share asked for"},
            "refit": READING,
            "torch_pruning": "scores at their defaults; local: one ratio for all layers, global: one threshold; the "
            "ratio is bisected and steps are rounded in its favour, so that its networks have at least the "
            "multiply-accumulates asked for; LAMP ranks a layer like the magnitude, so it is run globally only",
            "batch_norm": "running statistics reset, cumulative average over the calibration images",
            "streams": "shortcuts that pad become strided 1x1 convolutions with rows of the identity, for all methods; "
            "factors refer to the network without them",
            "tuned": f"one epoch, {options.tuning} training images with labels, SGD with momentum 0.9, rate 0.01 to 0 "
            "on a cosine, weight decay 1e-4, batches of 128, shifts by up to 4 pixels, mirrored",
            "factors": "of the original network; factor_asked is the aim, factor_macs what was reached",
            "interval": "Wilson, 95 %",
        },
        "environment": versions_of(PACKAGES),
        "aims": aims(rows),
    }
    rows.write(payload)


def show(rows: Rows) -> None:
    """Print all rows and the aims."""
    head = ["network", "cut", "asked", "method", "epochs", "MACs", "parameters", "%", "95 %", "CPU s"]
    print_table(head, [cells(row) for row in rows.rows])
    print()
    for aim in aims(rows):
        measured = "not run" if aim["measured"] is None else f"{aim['measured']:.2f}"
        print(f"{aim['aim']}: {measured} ({ {True: 'met', False: 'missed', None: 'open'}[aim['met']] }; {aim['note']})")


def cells(row: Row) -> list[str]:
    """Return a row as text."""
    first = [row["network"], row["coupling"], f"{row['factor_asked']:g}x", label(row), str(int(row["tuned"]))]
    if "failure" in row:
        return [*first, "", "", "", row["failure"][:60], ""]
    low, high = row["interval"]
    return [
        *first,
        f"{row['factor_macs']:.3f}x",
        f"{row['factor_params']:.2f}x",
        f"{100 * row['accuracy']:.2f}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "",
    ]


def measure(case: Case, factor: float, method: str, options: argparse.Namespace) -> Iterator[Row]:
    """Go through the rows of one method."""
    if method in STEPS:
        there = options.resume and case.rows.find(case.key(factor, method))
        return iter(()) if there else run_ours(case, factor, method)
    if method == "peers":
        return run_peers(case, factor, options.variants, options.resume)
    return (run_refit if method == "refit" else run_tuned)(case, factor, options.resume)


def main() -> None:
    """Run, print the rows as they come, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", default=list(FACTORS), choices=list(FACTORS))
    parser.add_argument("--couplings", nargs="+", default=[INTERIOR, STREAMS], choices=[INTERIOR, STREAMS])
    parser.add_argument("--factors", type=float, nargs="+", help="fewer multiply-accumulates")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="of the peers")
    parser.add_argument("--samples", type=int, default=5000, help="unlabelled training images")
    parser.add_argument("--tuning", type=int, default=50_000, help="training images with labels, for tuned rows")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--resume", action="store_true", help="skip rows that are there")
    parser.add_argument(
        "--quick", action="store_true", help="ResNet-20 at 2x on few images; writes to a temporary folder"
    )
    parser.add_argument("--models", type=Path, help="where networks are kept; a temporary folder otherwise")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    one_thread()
    torch.set_num_threads(1)
    folder, scratch = options.out or RESULTS, Path(tempfile.gettempdir())
    models = options.models or scratch / "pathnorm-cifar-frontier"
    if options.quick:
        folder, models = options.out or scratch / "pathnorm-quick", options.models or scratch / "pathnorm-quick"
        options.depth, options.factors = [20], [2.0]
        options.samples, options.tuning, options.test = 500, 1000, 500
    rows = Rows("cifar_frontier", KEY, folder=folder)
    data = Data.of(data_root(), options.samples, options.tuning if "tuned" in options.methods else 0, options.test)
    for depth, coupling in itertools.product(options.depth, options.couplings):
        case = Case(depth, coupling, data, models, rows, options.quick)
        print(f"{case.name}, {coupling}: {100 * case.dense():.2f} % before", flush=True)
        wanted = options.factors or FACTORS[depth]
        for method, factor in itertools.product(sorted(options.methods, key=METHODS.index), wanted):
            for row in measure(case, factor, method, options):
                rows.add(row)
                save(rows, options)
                print(*cells(row), sep="  ", flush=True)
    save(rows, options)
    show(rows)


if __name__ == "__main__":
    main()
