"""Time and memory of a whole compression to half the multiply-accumulates, and what it gains in milliseconds.

    python -m benchmarks.end_to_end [--only "ResNet-50, 224 x 224"] [--threads 2] [--limit 3600] [--latency-only]

Networks of the usual shapes with random weights, so nothing is said about accuracy. Each runs in a process of its own;
its peak memory is that of the process. Latency is measured afterwards, dense and compressed interleaved, one sample and
eight, torch and onnxruntime, one thread and two. Writes ``benchmarks/results/end_to_end.json``; cases that are not run
keep their last row. ``--latency-only`` measures the milliseconds of rows that are there once more, with networks of
the same widths.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks._harness import environment, print_table
from benchmarks._isolated import Rows, isolated
from benchmarks._shapes import SHAPES, Shape
from pathnorm.deep import compress
from pathnorm.deep.data import split_batches
from pathnorm.deep.export import to_onnx
from pathnorm.deep.latency import measure_ms, narrowed
from pathnorm.deep.survey import device_of, survey

BATCHES, THREADS = (1, 8), (1, 2)
REPEATS, WARM_UP = 15, 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
SLOW, FEW = 1.0, 7  # seconds of a run, and repeats where it takes longer
Row = dict[str, Any]


def run(name: str, threads: int) -> Row:
    """Compress a network and time both."""
    torch.set_num_threads(threads)
    threadpool_limits(limits=threads)  # a process of its own begins with one
    shape = SHAPES[name]
    model, data = shape.network(), shape.draw(shape.samples, seed=0)
    started, processor, load = time.perf_counter(), time.process_time(), os.getloadavg()[0]
    made = compress(model, data, macs=0.5, round_to=1 if shape.words else 8, batch_size=shape.batch)
    record = made.record
    row = {
        "threads": threads,
        "samples": shape.samples,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - processor,
        "load_at_start": load,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "params": [record.params_before, record.params_after],
        "macs": [record.macs_before, record.macs_after],
        "groups": len(record.groups),
        "widths": {group.name: [group.width_before, group.width_after] for group in record.groups},
        "largest_gap": max(group.gap for group in record.groups),
        "output_error_heldout": record.output_error_heldout,
    }
    return row | _latency(model, made.model, shape)


def again(row: Row) -> Row:
    """Return a row with new times, of a network with the widths of the compressed one: its values do not matter."""
    shape = SHAPES[row["case"]]
    model = shape.network()
    batches, _ = split_batches(shape.draw(4, seed=0), None, heldout=0.5, batch_size=2, seed=0, device=device_of(model))
    seen = survey(model, batches)
    widths = [row["widths"][group.name][1] for group in seen.neurons.groups]
    small = narrowed(model, seen.state, seen.neurons.groups, widths, turned=seen.graph.turned)
    if sum(parameter.numel() for parameter in small.parameters()) != row["params"][1]:
        raise AssertionError("The network of these widths has not the parameters of the row.")
    return row | _latency(model, small, shape)


def _latency(model: nn.Module, small: nn.Module, shape: Shape) -> Row:
    load = os.getloadavg()[0]
    return {"latency": latencies((model, small), shape.draw(max(BATCHES), seed=2)), "load_at_latency": load}


def latencies(models: Sequence[nn.Module], data: Tensor) -> list[Row]:
    """Median milliseconds of the dense and of the compressed network, interleaved."""
    keep_freed_memory()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [to_onnx(model, data[:2], Path(folder) / f"{i}.onnx") for i, model in enumerate(models)]
        for threads in THREADS:
            torch.set_num_threads(threads)
            sessions = [session(path, threads) for path in paths]
            for size in BATCHES:
                batch = data[:size]
                started = time.perf_counter()
                sessions[0](batch)
                repeats = REPEATS if time.perf_counter() - started < SLOW else FEW
                pairs = {
                    "torch": measure_ms(models, batch, repeats=repeats, warm_up=WARM_UP),
                    "onnxruntime": interleaved([partial(answer, batch) for answer in sessions], repeats),
                }
                for engine, (before, after) in pairs.items():
                    row = {"engine": engine, "threads": threads, "batch": size, "repeats": repeats}
                    found.append(row | {"dense_ms": before, "compressed_ms": after, "speed": before / after})
    return found


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, for both networks: else the system clears the pages of each large activation anew.

    PyTorch's performance tuning guide advises an allocator that does so.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)


def session(path: Path, threads: int) -> Callable[[Tensor], Any]:
    """Return a function that answers a batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 3, threads, 1
    # Threads that wait busily after an answer would take the cores from the other network, whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda batch: made.run(None, {name: batch.numpy()})


def interleaved(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of several runs that take turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(WARM_UP + repeats):
        for action, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            action()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken[WARM_UP:]) for taken in times]


def aims(rows: Sequence[Row]) -> list[Row]:
    """What was asked of ResNet-50, with what was measured."""
    row = next((row for row in rows if row["case"].startswith("ResNet-50") and "failure" not in row), None)
    if row is None:
        return []
    slowest = min(row["latency"], key=lambda item: item["speed"])
    where = f"{slowest['engine']}, {slowest['threads']} threads, batch {slowest['batch']}"
    return [
        {"aim": "2x fewer multiply-accumulates are 1.6x as fast on ResNet-50", "measured": slowest["speed"],
         "met": slowest["speed"] >= 1.6, "note": f"the least of all, {where}"},
        {"aim": "ResNet-50 in under 15 minutes", "measured": row["seconds"], "met": row["seconds"] < 900,
         "note": f"{row['threads']} threads, load {row['load_at_start']:.1f} at the start"},
    ]  # fmt: skip


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of a run")
    parser.add_argument("--latency-only", action="store_true", help="of rows that are there, in milliseconds only")
    arguments = parser.parse_args()
    rows = Rows("end_to_end", ("case",))
    for name in arguments.only:
        action = partial(run, name, arguments.threads)
        if arguments.latency_only:
            found = rows.find({"case": name})
            if not found or "widths" not in found:
                parser.error(f"There is no row of {name} with widths yet: run it without --latency-only first.")
            action = partial(again, found)
        row = {"case": name} | isolated(action, seconds=arguments.limit)
        if arguments.latency_only and "failure" in row:
            parser.exit(1, f"{name}: {row['failure']}; the row is left as it was.\n")
        rows.add(row)
        rows.write(
            {
                "command": "python -m benchmarks.end_to_end",
                "budget": {"macs": 0.5},
                "latency": "two networks in turn; freed memory is kept (mallopt), threads of onnxruntime do not spin "
                "while the other network has its turn (session.force_spinning_stop)",
                "environment": environment(["torch", "onnxruntime", "numpy", "numba"], threads=arguments.threads),
                "aims": aims(rows.rows),
            }
        )
        print(name, row.get("failure") or f"{row['seconds']:.0f} s, {row['peak_memory_mb']:.0f} MB", flush=True)
    head = ["case", "engine", "threads", "batch", "dense ms", "compressed ms", "speed"]
    print_table(head, [cells(row["case"], item) for row in rows.rows for item in row.get("latency", ())])


def cells(case: str, item: Row) -> list[str]:
    """A row of the table."""
    times = [f"{item[key]:.1f}" for key in ("dense_ms", "compressed_ms")]
    return [case, item["engine"], str(item["threads"]), str(item["batch"]), *times, f"{item['speed']:.2f}"]


if __name__ == "__main__":
    main()
