"""One objective, every way to train: the path norm of shallow ReLU networks, ours against what is used for it.

Objective: ``1/2 sum_n (y_n - f(x_n))^2 + lam sum_k ||v_k|| ||w_k||`` over networks with free biases and a free affine
part. ``lam`` is a hundredth of the smallest one whose solution is affine. x is uniform on (-1, 1)^d, y five random ReLU
ridge functions plus noise.

Whatever a method hands back is scored here, in its favour: its network gets the best affine part, once as it is and
once after ``pathnorm.sparsify`` (which makes neurons that are active on all samples part of the affine function and
never raises the objective), and the better of the two counts. ``objective_refit`` is what the same input weights reach
with the best output weights, a lasso. The excess is relative to our dual bound.

Each run is a process of its own with one thread and a limit in seconds. Run with
``python -m benchmarks.shallow_objective``; rows are saved one by one and those of earlier runs kept, ``--resume`` skips
what is there, ``--cases 200x2 1000x10`` and ``--methods`` choose. pyscnn asks for torchvision, which would replace
torch: ``pip install --no-deps pyscnn==0.0.10 linalg_backends==0.0.1b0``; without it its rows say so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _shallow_peers
from benchmarks._harness import RESULTS, print_table
from benchmarks._isolated import RefusedError, Rows, isolated, one_thread, stopwatch, versions_of
from benchmarks._shallow_peers import PEERS, Trained
from benchmarks._shallow_summary import EQUAL, METHODS, OURS, aims, summarise

CASES = tuple((n, d) for n in (200, 1000, 5000) for d in (2, 3, 10))
SHARE, NOISE, RIDGES, N_TEST = 0.01, 0.05, 5, 2_000
SEEDS, FEW_SECONDS = (0, 1, 2), 5.0
CERTIFY_SECONDS, EQUAL_SECONDS = 60.0, 120.0
KEY = ("n", "d", "seed", "method")
Row = dict[str, Any]
Samples = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


# ---------------------------------------------------------------------------- data
def samples(n: int, d: int, seed: int) -> Samples:
    """Training samples, test points and their values without noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1.0, 1.0, (n, d))
    W, b, v = rng.standard_normal((RIDGES, d)), rng.uniform(-0.5, 0.5, RIDGES), rng.standard_normal(RIDGES)

    def truth(Z: np.ndarray) -> np.ndarray:
        return np.maximum(Z @ W.T - b, 0.0) @ v

    y = truth(X) + NOISE * rng.standard_normal(n)
    Z = rng.uniform(-1.0, 1.0, (N_TEST, d))
    return X, y, Z, truth(Z)


def level(n: int, d: int, seed: int) -> Row:
    """The ``lam`` of a case and how long ``lam_max`` took."""
    from pathnorm.problems import RBV2Problem
    from pathnorm.solvers import rbv2_lam_max

    X, y, _, _ = samples(n, d, seed)
    started = time.perf_counter()
    largest = rbv2_lam_max(RBV2Problem.from_samples(X, y, lam=1.0))
    return {"lam_max": largest, "lam": SHARE * largest, "seconds": time.perf_counter() - started}


# ---------------------------------------------------------------------------- scoring
def with_best_affine(net: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """The network with the affine part that fits best."""
    from pathnorm import ShallowNet

    hidden = np.maximum(X @ net.W.T - net.b, 0.0) @ net.V
    part, *_ = np.linalg.lstsq(np.column_stack((X, np.ones(len(X)))), y[:, None] - hidden, rcond=None)
    return ShallowNet(net.W, net.b, net.V, part[:-1], part[-1])


def refitted(W: np.ndarray, b: np.ndarray, X: np.ndarray, y: np.ndarray, lam: float) -> Any:
    """The best output weights and affine part for given input weights."""
    from pathnorm import ShallowNet
    from pathnorm.problems import MultitaskLasso
    from pathnorm.solvers import multitask_lasso

    norms = np.linalg.norm(W, axis=1)
    W, b = W[norms > 0.0] / norms[norms > 0.0, None], b[norms > 0.0] / norms[norms > 0.0]
    basis, _ = np.linalg.qr(np.column_stack((np.ones(len(X)), X)))
    features = np.maximum(X @ W.T - b, 0.0)
    features, targets = features - basis @ (basis.T @ features), y[:, None] - basis @ (basis.T @ y[:, None])
    there = np.linalg.norm(features, axis=0) > 1e-9 * np.sqrt(len(X))
    problem = MultitaskLasso.from_samples(np.ascontiguousarray(features[:, there]), targets, lam)
    V = multitask_lasso(problem, tol=1e-6).coef
    kept = V[:, 0] != 0.0
    net = ShallowNet(W[there][kept], b[there][kept], V[kept], np.zeros((X.shape[1], 1)), np.zeros(1))
    return with_best_affine(net, X, y)


def heavy(net: Any) -> int:
    """Neurons that weigh at least a millionth of the heaviest one."""
    masses = np.linalg.norm(net.V, axis=1) * np.linalg.norm(net.W, axis=1)
    return int((masses > 1e-6 * masses.max(initial=0.0)).sum())


def rmse(values: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((values.ravel() - truth) ** 2)))


def scored(found: Trained, data: Samples, lam: float) -> Row:
    """What the answer of a peer is worth."""
    from pathnorm import ShallowNet, sparsify
    from pathnorm.problems import RBV2Problem

    X, y, Z, truth = data
    problem = RBV2Problem.from_samples(X, y, lam=lam)
    row: Row = {**found.spent, "test_rmse": rmse(found.predict(Z), truth), **found.facts}
    start = found.start
    if found.arrays is not None:
        given = ShallowNet(*found.arrays)
        row["deviation"] = float(np.abs(given(Z)[:, 0] - found.predict(Z)).max())  # of our copy, on the test points
        net = with_best_affine(given, X, y)
        fewer = with_best_affine(sparsify(net, X), X, y)
        row |= {"objective_given": problem.value(given), "neurons_raw": heavy(given)}
        row |= {"objective_raw": problem.value(net), "objective_sparse": problem.value(fewer)}
        best = min((net, fewer), key=problem.value)
        row |= {"objective": problem.value(best), "neurons": heavy(fewer), "path_norm": best.path_norm()}
        row["test_rmse_scored"] = rmse(best(Z), truth)
        start = (given.W, given.b)
    if start is not None:
        again = refitted(*start, X, y, lam)
        row |= {"objective_refit": problem.value(again), "neurons_refit": again.n_neurons}
        row["test_rmse_refit"] = rmse(again(Z), truth)
    return row


# ---------------------------------------------------------------------------- runs
def tolerance(d: int) -> float:
    return 1e-6 if d <= 3 else 1e-3


def warm_up(d: int) -> float:
    """Seconds of the first call in a process, on forty samples: compiled code is loaded, or made."""
    from pathnorm.problems import RBV2Problem
    from pathnorm.solvers import rbv2

    started = time.perf_counter()
    X, y, _, _ = samples(40, d, 99)
    rbv2(RBV2Problem.from_samples(X, y, lam=0.05), tol=1e-3, seconds=2.0)
    X, y, _, _ = samples(700, 4, 99)  # starts from a wide network, as large problems do
    if d > 3:
        rbv2(RBV2Problem.from_samples(X, y, lam=20.0), tol=1e-1, level="search", max_iter=1)
    return time.perf_counter() - started


def run_ours(n: int, d: int, seed: int, lam: float) -> Row:
    """Our solver with its certificate and the gap after every round."""
    from pathnorm.problems import RBV2Problem
    from pathnorm.solvers import rbv2

    first = warm_up(d)
    X, y, Z, truth = samples(n, d, seed)
    trace: list[tuple[float, float]] = []
    clock = stopwatch()
    solution = rbv2(
        RBV2Problem.from_samples(X, y, lam=lam),
        tol=tolerance(d),
        seconds=CERTIFY_SECONDS,
        seed=seed,
        progress=lambda _, gap: trace.append((clock()["seconds"], gap)),
    )
    spent = clock()
    certificate, net = solution.certificate, solution.coef
    return {
        **spent,
        "seconds_rounds": trace[-1][0] if trace else spent["seconds"],
        "seconds_first_call": first,
        "objective": certificate.primal,
        "dual": certificate.dual,
        "gap": certificate.gap,
        "scope": certificate.scope,
        "method_of_proof": certificate.method,
        "violation": certificate.violation,
        "proved": certificate.proved,
        "sentence": certificate.sentence,
        "status": str(solution.status.name),
        "iterations": solution.n_iter,
        "neurons": net.n_neurons,
        "path_norm": net.path_norm(),
        "test_rmse": rmse(net(Z), truth),
        "trace": [[round(at, 4), float(f"{gap:.3g}")] for at, gap in trace],
    }


def run_equal(n: int, d: int, seed: int, lam: float, lbfgs: float, ours: Row) -> Row:
    """The first round after which our objective is no larger than that of L-BFGS, and when it is reached.

    A gap g bounds the objective of its round by ``ours / (1 - g)``; the round that this names is run again and stopped
    there, and earlier ones by bisection, so that the objective is that of a network and not a bound.
    """
    from pathnorm.problems import RBV2Problem
    from pathnorm.solvers import rbv2

    if ours["objective"] > lbfgs:
        raise RefusedError("ours is above the objective of L-BFGS")
    warm_up(d)
    X, y, Z, truth = samples(n, d, seed)
    problem = RBV2Problem.from_samples(X, y, lam=lam)
    bounds = [ours["objective"] / max(1.0 - gap, 1e-12) for _, gap in ours["trace"]]
    high = next((k for k, bound in enumerate(bounds) if bound <= lbfgs), len(bounds) - 1)
    last, low, best, begun = len(bounds) - 1, -1, {}, time.perf_counter()
    k = high
    while time.perf_counter() - begun < EQUAL_SECONDS:
        times: list[float] = []
        started = time.perf_counter()
        found = rbv2(
            problem,
            tol=tolerance(d),
            max_iter=k,
            level="search",
            seed=seed,
            progress=lambda _, gap, started=started, times=times: times.append(time.perf_counter() - started),
        )
        value = problem.value(found.coef)
        if value <= lbfgs:
            high, best = k, {"seconds": times[-1], "objective": value, "neurons": found.coef.n_neurons, "iterations": k}
            best["test_rmse"] = rmse(found.coef(Z), truth)
        else:
            low, high = k, high if best else last
        if high - low <= 1 and (best or low >= last):
            break
        k = (low + high) // 2 if best else high
    if not best:
        raise RefusedError(f"the rounds did not get below the objective of L-BFGS in {EQUAL_SECONDS:g} s")
    return best | {"target": lbfgs, "exact_round": high - low <= 1}


def run_peer(method: str, case: tuple[int, int, int], lam: float) -> Row:
    """One training of a peer, after a small one that loads what it needs."""
    n, d, seed = case
    train = PEERS[method]
    if method in ("lbfgs", "mlp"):
        X, y, _, _ = samples(50, d, 99)
        train(X, y, 1.0, 0)
    data = samples(n, d, seed)
    return scored(train(data[0], data[1], lam, seed), data, lam)


# ---------------------------------------------------------------------------- driver
def cells(row: Row) -> list[str]:
    """A row as text."""
    head = [f"{row['n']}x{row['d']}", str(row["seed"]), row["method"]]
    if "failure" in row:
        return [*head, "", "", "", "", "", row["failure"][:70]]
    values = [f"{row[key]:.6g}" if row.get(key) is not None else "" for key in ("objective", "objective_refit")]
    note = row.get("sentence", "" if row.get("converged", True) else "not converged")
    return [
        *head,
        f"{row['seconds']:.3g}",
        *values,
        str(row.get("neurons", "")),
        f"{row.get('test_rmse', 0):.4f}",
        note,
    ]


HEAD = ["case", "seed", "method", "seconds", "objective", "refitted", "neurons", "test RMSE", ""]
PACKAGES = ["numpy", "scipy", "numba", "scikit-learn", "torch", "pyscnn"]


def save(rows: Rows, limit: float) -> None:
    summary = summarise([row for row in rows.rows if row["method"] != "lam"])
    payload = {
        "objective": "1/2 sum_n (y_n - f(x_n))^2 + lam sum_k ||v_k|| ||w_k||, biases and affine part free",
        "command": "python -m benchmarks.shallow_objective",
        "data": f"x uniform on (-1, 1)^d, y = {RIDGES} random ReLU ridge functions + {NOISE} noise",
        "lam_over_lam_max": SHARE,
        "limit_seconds": limit,
        "adam_limit_seconds": _shallow_peers.ADAM_SECONDS,
        "environment": versions_of(PACKAGES),
        "summary": summary,
        "aims": aims([row for row in rows.rows if row["method"] != "lam"], summary),
    }
    rows.write(payload)


def measure(case: tuple[int, int, int], method: str, rows: Rows, limit: float) -> Row:
    """One row, in a process of its own."""
    n, d, seed = case
    name = {"n": n, "d": d, "seed": seed}
    known = rows.find(name | {"method": "lam"})
    if known is None or "lam" not in known:
        known = name | {"method": "lam"} | isolated(partial(level, n, d, seed), seconds=limit)
        rows.add(known)
    if "lam" not in known:
        return name | {"method": method, "failure": f"no lam: {known['failure']}"}
    lam = known["lam"]
    if method == OURS:
        action = partial(run_ours, n, d, seed, lam)
    elif method == EQUAL:
        lbfgs, ours = rows.find(name | {"method": "lbfgs"}) or {}, rows.find(name | {"method": OURS}) or {}
        if "objective" not in lbfgs or "objective" not in ours:
            return name | {"method": method, "failure": "needs the rows of lbfgs and ours"}
        action = partial(run_equal, n, d, seed, lam, lbfgs["objective"], ours)
    else:
        action = partial(run_peer, method, case, lam)
    return name | {"method": method, "lam": lam} | isolated(action, seconds=limit)


def parse_case(text: str) -> tuple[int, int]:
    n, _, d = text.partition("x")
    return int(n), int(d)


def main() -> None:
    """Run, print the rows as they come, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", type=parse_case, default=list(CASES), help="N x d, as 200x2")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a run, scoring included")
    parser.add_argument("--resume", action="store_true", help="skip rows that are there")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest case, 5 s of Adam; writes to a temporary folder"
    )
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    one_thread()
    folder = arguments.out or RESULTS
    if arguments.quick:
        folder = arguments.out or Path(tempfile.gettempdir()) / "pathnorm-quick"
        arguments.cases, _shallow_peers.ADAM_SECONDS = [(200, 2)], 5.0
    rows = Rows("shallow_objective", KEY, folder=folder)
    for n, d in arguments.cases:
        for seed in SEEDS[:1] if arguments.quick else SEEDS:
            for method in sorted(arguments.methods, key=METHODS.index):
                if seed and not repeated(rows, n, d, method):
                    continue
                name = {"n": n, "d": d, "seed": seed, "method": method}
                if arguments.resume and rows.find(name):
                    continue
                row = measure((n, d, seed), method, rows, arguments.limit)
                rows.add(row)
                save(rows, arguments.limit)
                print(*cells(row), sep="  ", flush=True)
    save(rows, arguments.limit)
    print_table(HEAD, [cells(row) for row in rows.rows if row["method"] != "lam"])


def repeated(rows: Rows, n: int, d: int, method: str) -> bool:
    """Whether ours and L-BFGS are quick enough here to be run with more seeds."""
    found = [rows.find({"n": n, "d": d, "seed": 0, "method": name}) or {} for name in ("lbfgs", OURS)]
    quick = all(row.get("seconds", np.inf) < FEW_SECONDS for row in found)
    return quick and method in ("lbfgs", OURS, EQUAL)


if __name__ == "__main__":
    main()
