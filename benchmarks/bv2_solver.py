"""One dimension, exactly: ours against a general solver, two ADMMs and the lasso, in time and in certified gap.

Objective: ``1/2 sum_i (y_i - f(x_i))^2 + lam TV(f')`` over every f in BV2; x uniform and irregular, y the Doppler
function plus noise. Each run is a process of its own with one thread and a budget of processor time. Whatever a method
hands back is scored by ``BV2Problem.certify`` on its points, never by what the method reports; our own answers are
scored in the same way. Run with ``python -m benchmarks.bv2_solver``; ``--parts`` and ``--sizes`` run some of it
again and keep the other rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import RESULTS, ROOT, environment, print_table, write_json
from benchmarks._trend_peers import PEERS, Points, RefusedError

OURS = "pathnorm"
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
# lam over lam_max, picked once by --pick: half of lam_max, two steps down, SURE's choice, one knot per 20 samples.
SHARES: dict[int, dict[str, float]] = {
    10**3: {"0.5 lam_max": 0.5, "upper": 4.74e-2, "lower": 4.48e-3, "SURE": 9.10e-5, "N/20 knots": 4.25e-4},
    10**4: {"0.5 lam_max": 0.5, "upper": 7.40e-3, "lower": 1.10e-4, "SURE": 4.09e-6, "N/20 knots": 1.62e-6},
    10**5: {"0.5 lam_max": 0.5, "upper": 1.59e-3, "lower": 5.05e-6, "SURE": 1.00e-6, "N/20 knots": 1.61e-8},
    10**6: {"0.5 lam_max": 0.5, "upper": 3.43e-4, "lower": 2.36e-7, "SURE": 2.02e-7, "N/20 knots": 1.62e-10},
    10**7: {"0.5 lam_max": 0.5, "upper": 7.40e-5, "lower": 1.10e-8, "SURE": 4.50e-8, "N/20 knots": 1.60e-12},
}
LEVELS = ("0.5 lam_max", "upper", "lower", "SURE", "N/20 knots")
NOISE = 0.3
MEMORY_BYTES = 14 * 2**30
REPEAT_SECONDS, MOST_REPEATS = 2.0, 25
HARD_CAP = 20
PATH_LENGTH = 50
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PARTS = ("sweep", "path", "hard", "compile")
Row = dict[str, Any]


# ---------------------------------------------------------------------------- data
def doppler(x: np.ndarray) -> np.ndarray:
    """The Doppler function of Donoho and Johnstone (1994), of standard deviation 1."""
    return np.sqrt(x * (1 - x)) * np.sin(2.1 * np.pi / (x + 0.05)) / 0.29


def samples(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """N sorted uniform sites and noisy values."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(n))
    return x, doppler(x) + NOISE * rng.standard_normal(n)


def hard_inputs() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Sites that are legal and awkward, values, and lam over lam_max."""
    rng = np.random.default_rng(0)
    found = {}
    for exponent in (6, 8, 10, 12, 14):
        base = rng.random(500)
        x = np.unique(np.concatenate([base, base + 10.0**-exponent * (1 + rng.random(500))]))
        found[f"pairs 1e-{exponent} apart"] = (x, doppler(np.clip(x, 0, 1)) + NOISE * rng.standard_normal(len(x)), 1e-4)
    day = np.cumsum(rng.exponential(60.0, 1_000))
    found["Unix time"] = (
        1.7e9 + np.round(day, 3),
        doppler(day / day[-1]) + NOISE * rng.standard_normal(1_000),
        1e-4,
    )
    u = np.sort(rng.random(1_000))
    found["Cauchy"] = (np.tan(np.pi * (u - 0.5)), doppler(u) + NOISE * rng.standard_normal(1_000), 1e-4)
    found["N = 1"] = (np.array([0.3]), np.array([1.0]), 0.5)
    found["N = 2"] = (np.array([0.3, 0.5]), np.array([1.0, -1.0]), 0.5)
    found["N = 3"] = (np.array([0.0, 0.3, 1.0]), np.array([0.0, 2.0, 1.0]), 0.5)
    return found


# ---------------------------------------------------------------------------- measuring
def timed(action: Callable[[], Any], *, least: int = 3, before: Callable[[], Any] = lambda: None) -> dict[str, float]:
    """Seconds of a few repeats, on the clock; what is done ``before`` each is not counted.

    The smallest is what is compared: other processes of the machine only ever add.
    """
    seconds: list[float] = []
    while len(seconds) < least or (sum(seconds) < REPEAT_SECONDS and len(seconds) < MOST_REPEATS):
        before()
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return {"median": statistics.median(seconds), "min": min(seconds), "repeats": len(seconds)}


def streaming_passes(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, float]]:
    """What it takes to read both arrays once: a compiled sum, the same from memory and not from cache, ``np.dot``."""
    from numba import njit

    @njit(fastmath={"reassoc", "contract", "nsz"})
    def total(x: np.ndarray, y: np.ndarray) -> float:
        found = 0.0
        for i in range(x.size):
            found += x[i] + y[i]
        return found

    total(x[:10], y[:10])
    other = np.zeros(2**25)  # 256 MB: what was in the cache is not any more

    def evict() -> None:
        np.add(other, 1.0, out=other)

    return {
        "sum": timed(lambda: total(x, y), least=7),
        "sum_from_memory": timed(lambda: total(x, y), least=7, before=evict),
        "dot": timed(lambda: np.dot(x, y), least=7),
    }


def spline_through(points: Points) -> Any:
    """Our object for the piecewise linear function through a method's points."""
    from pathnorm.spaces import LinearSpline

    slopes = np.diff(points.values) / np.diff(points.sites)
    return LinearSpline(points.sites, points.values, slopes[0], slopes[-1])


def our_run(x: np.ndarray, y: np.ndarray, lam: float) -> Row:
    """Seconds of the solver on a prepared problem, of the whole estimator, and of one pass over the data."""
    from pathnorm import BV2Regressor
    from pathnorm.problems import BV2Problem
    from pathnorm.solvers import bv2

    bv2(BV2Problem.from_samples(*samples(500), 1e-3))
    BV2Regressor(lam=1e-3).fit(*samples(500))
    problem = BV2Problem.from_samples(x, y, lam)
    solution = bv2(problem)
    certificate = problem.certify(solution.coef)
    order = np.random.default_rng(0).permutation(len(x))
    shuffled_x, shuffled_y = x[order], y[order]
    row: Row = {
        "gap": certificate.gap,
        "primal": certificate.primal,
        "excess": 0.0,
        "knots": int(solution.coef.n_knots),
        "iterations": int(solution.n_iter),
        "solve": timed(lambda: bv2(problem)),
        "certify": timed(lambda: problem.certify(solution.coef)),
        "fit": timed(lambda: BV2Regressor(lam=lam).fit(x, y)),
        "fit_shuffled": timed(lambda: BV2Regressor(lam=lam).fit(shuffled_x, shuffled_y)),
        "pass": streaming_passes(x, y),
    }
    row["seconds"] = row["solve"]["min"]
    row["passes"] = {key: row[key]["min"] / row["pass"]["sum"]["min"] for key in ("solve", "fit", "fit_shuffled")}
    return row


def peer_run(method: str, x: np.ndarray, y: np.ndarray, lam: float, cap: int) -> Iterator[Row]:
    """One call of a peer, and what its answer is worth; the process dies at the cap."""
    peer = PEERS[method]
    peer(*samples(200), 1.0)  # what is compiled or imported, is compiled and imported here
    # The default action of this signal ends the process, wherever compiled code is at that moment.
    signal.setitimer(signal.ITIMER_PROF, cap)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        points = peer(x, y, lam)
    except MemoryError:
        yield {"failure": f"more than {MEMORY_BYTES // 2**30} GB of memory"}
        return
    except RefusedError as refusal:
        yield {"failure": str(refusal)}
        return
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        yield {"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
        return
    row = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor, **points.facts}
    signal.setitimer(signal.ITIMER_PROF, 0)
    yield row | score(points, x, y, lam, same_objective=method != "scipy smoothing spline")


def score(points: Points, x: np.ndarray, y: np.ndarray, lam: float, *, same_objective: bool) -> Row:
    """Excess over the certified optimum, certified gap and largest deviation of an answer."""
    from pathnorm.problems import BV2Problem
    from pathnorm.solvers import bv2

    problem = BV2Problem.from_samples(x, y, lam)
    best = bv2(problem).coef
    if not np.isfinite(points.values).all():
        return {"failure": "values that are not finite"}
    optimum = problem.certify(best).primal
    if not same_objective:
        return {"deviation": float(np.abs(points.values - best(x)).max())}
    spline = spline_through(points)
    found = problem.certify(spline)
    return {
        "gap": found.gap,
        "excess": (found.primal - optimum) / optimum,
        "deviation": float(np.abs(spline(x) - best(x)).max()),
    }


def path_run(n: int) -> Row:
    """A path of 50 lam with SURE's choice, beside one fit at the lam it chose."""
    from pathnorm import BV2Regressor, BV2RegressorCV

    x, y = samples(n)
    BV2RegressorCV(criterion="sure").fit(*samples(500))
    chosen = BV2RegressorCV(criterion="sure").fit(x, y)
    lam = float(chosen.lam_)
    BV2Regressor(lam=lam).fit(x, y)
    single = timed(lambda: BV2Regressor(lam=lam).fit(x, y))
    path = timed(lambda: BV2RegressorCV(criterion="sure").fit(x, y), least=2)
    return {
        "n": n,
        "lam": lam,
        "knots": int(chosen.n_knots_),
        "gap": chosen.certificate_.gap,
        "single": single,
        "path": path,
        "single_fits": path["min"] / single["min"],
    }


def hard_run(name: str, method: str, cap: int) -> Row:
    """One awkward input: our certificate, or a peer's failure, excess and deviation."""
    from pathnorm import BV2Regressor
    from pathnorm.problems import BV2Problem

    x, y, share = hard_inputs()[name]
    lam = share * BV2Problem.from_samples(x, y, 1.0).lam_max if len(x) > 2 else 1.0
    if method != OURS:
        return {"input": name, "method": method, **next(peer_run(method, x, y, lam, cap))}
    model = BV2Regressor(lam=lam).fit(x, y)
    return {
        "input": name,
        "method": method,
        "gap": model.certificate_.gap,
        "knots": int(model.n_knots_),
        "smallest_spacing": float(np.diff(x).min()) if len(x) > 1 else None,
        "largest_value": float(np.abs(model.spline_(x)).max()),
    }


COMPILE_SCRIPT = """
import json, time
started = time.perf_counter()
import numpy as np, scipy.linalg, scipy.sparse, sklearn.base, sklearn.utils.validation, numba
packages = time.perf_counter()
from pathnorm import BV2Regressor
ours = time.perf_counter()
x = np.linspace(0.0, 1.0, 1000)
y = np.sin(9 * x) + 0.1 * np.random.default_rng(0).standard_normal(1000)
ready = time.perf_counter()
BV2Regressor(lam=1e-3).fit(x, y)
first = time.perf_counter()
BV2Regressor(lam=1e-3).fit(x, y)
second = time.perf_counter()
print(json.dumps({"imports_of_packages": packages - started, "import_of_pathnorm": ours - packages,
                  "first_fit": first - ready, "second_fit": second - first, "since_python_runs": first - started}))
"""


def compile_runs() -> list[Row]:
    """The first fit of a process: with an empty cache of compiled code, then with the cache that this left."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for what in ("first process ever", "later process", "later process", "later process"):
            started = time.perf_counter()
            child = subprocess.run(
                [sys.executable, "-c", COMPILE_SCRIPT],
                cwd=ROOT,
                env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"NUMBA_CACHE_DIR": cache},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows.append({"process": what, "whole_process": time.perf_counter() - started, **json.loads(child.stdout)})
    return rows


# ---------------------------------------------------------------------------- picking lam
def pick(n: int) -> dict[str, float]:
    """The lam of the sweep over lam_max: SURE's, that of one knot per 20 samples by bisection, and three above."""
    from pathnorm import BV2RegressorCV
    from pathnorm.problems import BV2Problem
    from pathnorm.solvers import bv2

    x, y = samples(n)
    problem = BV2Problem.from_samples(x, y, 1.0)
    top = problem.lam_max
    low, high = math.log(1e-14), 0.0
    for _ in range(20):
        middle = (low + high) / 2
        knots = bv2(problem.with_lam(top * math.exp(middle))).coef.n_knots
        low, high = (middle, high) if knots > n / 20 else (low, middle)
    last = math.exp((low + high) / 2)
    sure = float(BV2RegressorCV(criterion="sure").fit(x, y).lam_) / top
    values = (0.5, 0.5 ** (2 / 3) * last ** (1 / 3), 0.5 ** (1 / 3) * last ** (2 / 3), sure, last)
    return {level: float(f"{value:.3g}") for level, value in zip(LEVELS, values, strict=True)}


# ---------------------------------------------------------------------------- driver
def work(task: Row) -> None:
    """In the child process: one JSON line per result on standard output."""
    warnings.simplefilter("ignore")  # the gap is measured here, not believed
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if task["part"] == "path":
        events: Iterator[Row] = iter([path_run(task["n"])])
    elif task["part"] == "hard":
        events = iter([hard_run(task["input"], task["method"], task["cap"])])
    else:
        from pathnorm.problems import BV2Problem

        x, y = samples(task["n"])
        lam = task["share"] * BV2Problem.from_samples(x, y, 1.0).lam_max
        ours = task["method"] == OURS
        events = iter([our_run(x, y, lam)]) if ours else peer_run(task["method"], x, y, lam, task["cap"])
    for event in events:
        print(json.dumps({key: value for key, value in event.items() if value is not None}), flush=True)


def run(task: Row) -> Row:
    """Result of one child process."""
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.bv2_solver", "--worker", json.dumps(task)],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.stdout:
        return json.loads(child.stdout.splitlines()[-1])
    if child.returncode == -signal.SIGPROF:
        return {"failure": f"more than {task['cap']} s", "capped": True}
    if child.returncode == -signal.SIGKILL:  # by the system, for its memory
        return {"failure": "killed for its memory"}
    raise RuntimeError(f"A run must end with a result or at the cap; {task} ended with status {child.returncode}.")


def sweep(sizes: list[int], methods: list[str], cap: int) -> Iterator[Row]:
    """Every method at every size and lam; one that met the cap is not run at larger sizes or smaller lam again."""
    capped: dict[str, int] = {}
    for n in sizes:
        for level, share in SHARES[n].items():
            for method in methods:
                row = {"n": n, "level": level, "share": share, "method": method}
                if method in capped:
                    yield row | {"failure": f"not run: met the cap at N = {capped[method]}", "skipped": True}
                    continue
                found = run({"part": "sweep", "n": n, "share": share, "method": method, "cap": cap})
                if found.get("capped"):
                    capped[method] = n
                yield row | found


def merge(old: list[Row], new: list[Row], key: tuple[str, ...]) -> list[Row]:
    """Old rows with those that were run again replaced."""
    names = [tuple(row[name] for name in key) for row in new]
    return [row for row in old if tuple(row[name] for name in key) not in names] + new


# ---------------------------------------------------------------------------- aims
def aims(found: Row) -> list[Row]:
    """Each aim with what was measured; only for what has been run."""
    rows: list[Row] = []

    def add(aim: str, measured: float, met: bool, note: str = "") -> None:
        rows.append({"aim": aim, "measured": measured, "met": bool(met), "note": note})

    sweep_rows = [row for row in found["sweep"] if "gap" in row]
    ours = {(row["n"], row["level"]): row for row in sweep_rows if row["method"] == OURS}
    if ours:
        worst = max(row["gap"] for row in ours.values())
        add("certified gap at most 1e-10 everywhere in the sweep", worst, worst <= 1e-10)
    ratios = {
        row["level"]: (
            row["cpu_seconds"] / ours[row["n"], row["level"]]["seconds"],
            row["solver_seconds"] / ours[row["n"], row["level"]]["seconds"],
        )
        for row in sweep_rows
        if row["method"] == "Clarabel" and row["n"] == 10**5
    }
    if ratios:
        level, (call, inside) = min(ratios.items(), key=lambda item: item[1][0])
        note = f"smallest over lam, at {level}; {inside:.0f} without cvxpy; " + ", ".join(
            f"{name}: {pair[0]:.0f}" for name, pair in ratios.items()
        )
        failed = [row["level"] for row in found["sweep"] if row["method"] == "Clarabel" and row["n"] == 10**5]
        failed = [level for level in failed if level not in ratios]
        note += f"; it fails at {' and '.join(failed)}" if failed else ""
        add("at least 1000 times faster than Clarabel at N = 1e5", call, call >= 1000, note)
    for n, limit in ((10**6, 10), (10**7, 5)):
        if (n, "SURE") in ours:
            passes = ours[n, "SURE"]["passes"]
            every = ", ".join(f"{level} {row['passes']['fit']:.1f}" for (size, level), row in ours.items() if size == n)
            pass_seconds = ours[n, "SURE"]["pass"]
            cold = passes["fit"] * pass_seconds["sum"]["min"] / pass_seconds["sum_from_memory"]["min"]
            note = (
                f"the whole fit at SURE's lam, x and y in cache where they fit; {cold:.1f} passes from memory; "
                f"solver alone {passes['solve']:.1f}; whole fit at each lam: {every}"
            )
            add(f"at most {limit} passes over (x, y) at N = {n:.0e}", passes["fit"], passes["fit"] <= limit, note)
    for row in found["path"]:
        add(
            f"path of {PATH_LENGTH} lam with SURE in at most 20 single fits, N = {row['n']:.0e}",
            row["single_fits"],
            row["single_fits"] <= 20,
        )
    for what, limit in (("first process ever", 5.0), ("later process", 0.5)):
        runs = [row for row in found["compile"] if row["process"] == what]
        if runs:
            alone = statistics.median(row["import_of_pathnorm"] + row["first_fit"] for row in runs)
            whole = statistics.median(row["since_python_runs"] for row in runs)
            note = (
                f"import of pathnorm and first fit; {whole:.2f} s with the imports of numpy, scipy, numba, scikit-learn"
            )
            add(f"{what}: first call in at most {limit:g} s", alone, alone <= limit, note)
    if found["hard"]:
        worst = max(row.get("gap", math.inf) for row in found["hard"] if row["method"] == OURS)
        add("hard inputs certified to 1e-10", worst, worst <= 1e-10)
    return rows


def kept(folder: Path) -> Row:
    """Rows of an earlier run."""
    path = folder / "bv2_solver.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {part: found.get(part, []) for part in PARTS}


def save(found: Row, cap: int, folder: Path) -> None:
    """Put the rows in order, judge the aims, write the JSON."""
    methods, inputs = [OURS, *PEERS], list(hard_inputs())
    found["sweep"].sort(key=lambda row: (row["n"], LEVELS.index(row["level"]), methods.index(row["method"])))
    found["path"].sort(key=lambda row: row["n"])
    found["hard"].sort(key=lambda row: (inputs.index(row["input"]), methods.index(row["method"])))
    found["aims"] = aims(found)
    packages = ["numpy", "scipy", "numba", "scikit-learn", "cvxpy", "clarabel", "splineops", "TVDCondat2013"]
    payload = {
        "objective": "1/2 sum_i (y_i - f(x_i))^2 + lam TV(f')",
        "command": "python -m benchmarks.bv2_solver",
        "cap_cpu_seconds": cap,
        "cap_cpu_seconds_hard": HARD_CAP,
        "data": "x uniform on [0, 1] and sorted, y = Doppler + 0.3 noise",
        "lam_over_lam_max": {str(n): shares for n, shares in SHARES.items()},
        "environment": environment(packages, threads=1),
        **found,
    }
    write_json("bv2_solver", payload, folder=folder)


def cells(row: Row) -> list[str]:
    """A row of the sweep as text."""
    head = [f"{row['n']:.0e}", row["level"], row["method"]]
    if "failure" in row:
        return [*head, "", "", "", row["failure"][:60]]
    gap, excess = (f"{row[key]:.1e}" if key in row else "" for key in ("gap", "excess"))
    note = f"{row['knots']} knots, fit {row['passes']['fit']:.1f} passes" if "passes" in row else ""
    return [*head, f"{row.get('cpu_seconds', row['seconds']):.4g}", gap, excess, note]


def measure(arguments: argparse.Namespace) -> Row:
    """Run the parts that are asked for; each row is saved when it is there."""
    found = kept(arguments.out)

    def add(part: str, row: Row, key: tuple[str, ...]) -> None:
        found[part] = merge(found[part], [row], key)
        save(found, arguments.cap, arguments.out)

    if "sweep" in arguments.parts:
        for row in sweep(arguments.sizes, arguments.methods, arguments.cap):
            add("sweep", row, ("n", "level", "method"))
            print(*cells(row), sep="  ", flush=True)
    if "path" in arguments.parts:
        for n in arguments.sizes:
            add("path", run({"part": "path", "n": n}), ("n",))
    if "hard" in arguments.parts:
        for name in hard_inputs():
            for method in arguments.methods:
                task = {"input": name, "method": method}
                add("hard", task | run(task | {"part": "hard", "cap": HARD_CAP}), ("input", "method"))
    if "compile" in arguments.parts:
        found["compile"] = compile_runs()
    save(found, arguments.cap, arguments.out)
    return found


def main() -> None:
    """Run the parts, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap", type=int, default=60, help="processor seconds for one run of a peer")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=lambda text: int(float(text)), default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    parser.add_argument("--pick", action="store_true", help="print the lam of the sweep and stop")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if arguments.pick:
        for n in arguments.sizes:
            print(f"    {n}: {pick(n)},", flush=True)
        return
    found = measure(arguments)
    print_table(["N", "lam", "method", "seconds", "gap", "excess", ""], [cells(row) for row in found["sweep"]])
    for row in found["aims"]:
        print(f"{'met   ' if row['met'] else 'MISSED'}  {row['aim']}: {row['measured']:.3g}  {row['note']}")


if __name__ == "__main__":
    main()
