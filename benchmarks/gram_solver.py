"""The multitask lasso of a trained layer: ours against scikit-learn, celer and skglm at equal certified gap.

Objective: ``1/2 ||Psi - Phi V||^2 + lam sum_k ||v_k||`` with real activations ``Phi`` (20,000 x 512, centred) of a
784-512-512-10 network trained on MNIST with weight decay, and ``Psi`` what its next layer makes of them (D = 10 for
the last hidden layer, D = 512 for the first).

Every method runs in a process of its own with one thread. The gap is measured by ``MultitaskLasso.certify`` on the
coefficients that come back, never by the method: a peer's own tolerance is tightened until that gap is reached or one
fit has taken the whole budget of processor time. Run with ``python -m benchmarks.gram_solver``.
"""

from __future__ import annotations

import argparse
import json
import os
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

from benchmarks._harness import RESULTS, ROOT, data_root, environment, print_table, write_json

SHARES = (0.3, 0.1, 0.03, 0.01)
TARGET = 1e-4
N_SAMPLES, WIDTH, EPOCHS, BATCH = 20_000, 512, 5, 256
MAX_FITS = 8
REPEATS = 5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
Fit = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]


# ---------------------------------------------------------------------------- data
def mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 784) in [0, 1] and labels, from sheets of 28 x 28 tiles."""
    from PIL import Image

    folder, tiles = data_root() / "mnist", []
    for i in range(len(list(folder.glob(f"{split}_*.webp")))):
        sheet = np.asarray(Image.open(folder / f"{split}_{i}.webp").convert("L"))
        rows, columns = sheet.shape[0] // 28, sheet.shape[1] // 28
        tiles.append(sheet.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 784))
    return np.concatenate(tiles).astype(np.float32) / 255.0, np.load(folder / f"{split}_labels.npy")


def train_and_capture(seed: int, folder: Path) -> dict[str, Any]:
    """Train the network and leave ``D10.npz`` and ``D512.npz`` with centred features and targets in ``folder``."""
    import torch
    from torch import nn

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(array) for array in mnist("train"))
    labels = labels.long()
    net = nn.Sequential(nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    test_images, test_labels = mnist("test")
    with torch.no_grad():
        accuracy = float((net(torch.from_numpy(test_images)).argmax(1).numpy() == test_labels).mean())
        net = net.double()
        first = net[:2](images[:N_SAMPLES].double())
        second = net[2](first)
        last = torch.relu(second)
        layers = {"D512": (first, second), "D10": (last, net[4](last))}
    for name, arrays in layers.items():
        features, targets = (np.asfortranarray((array - array.mean(0)).numpy()) for array in arrays)
        np.savez(folder / f"{name}.npz", features=features, targets=targets)
    return {"test_accuracy": round(accuracy, 4), "epochs": EPOCHS, "weight_decay": 5e-4, "seed": seed}


# ---------------------------------------------------------------------------- methods
def _scikit_learn(features: np.ndarray, targets: np.ndarray, alpha: float, tol: float) -> np.ndarray:
    from sklearn.linear_model import MultiTaskLasso

    return MultiTaskLasso(alpha=alpha, fit_intercept=False, tol=tol, max_iter=10**6).fit(features, targets).coef_.T


def _celer(features: np.ndarray, targets: np.ndarray, alpha: float, tol: float) -> np.ndarray:
    # The estimator of celer 0.7.4 calls a method that scikit-learn removed in 1.7; this is what it would call.
    from celer.homotopy import mtl_path

    return mtl_path(features, targets, alphas=[alpha], tol=tol)[1][:, :, 0].T


def _skglm(features: np.ndarray, targets: np.ndarray, alpha: float, tol: float) -> np.ndarray:
    from skglm import MultiTaskLasso

    return MultiTaskLasso(alpha=alpha, fit_intercept=False, tol=tol, max_iter=10**4).fit(features, targets).coef_.T


# The first tolerance, loose enough to finish, as a multiple of what the peer compares it with.
PEERS: dict[str, tuple[Fit, Callable[[np.ndarray, np.ndarray, float], float]]] = {
    "scikit-learn": (_scikit_learn, lambda features, targets, alpha: 0.1),
    "celer": (_celer, lambda features, targets, alpha: 0.1),
    "skglm": (_skglm, lambda features, targets, alpha: alpha),
}


def warm_up(features: np.ndarray, targets: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """A small problem of the same kind with a solution that is not zero: what is compiled, is compiled here."""
    features, targets = (np.asfortranarray(array) for array in (features[:200, :32], targets[:200]))
    return (features, targets), 0.01 * float(np.linalg.norm(features.T @ targets, axis=1).max()) / len(features)


def peer_fits(name: str, features: np.ndarray, targets: np.ndarray, lam: float, cap: int) -> Iterator[dict[str, Any]]:
    """Fits with ever smaller tolerances until the certified gap is reached; the process dies at the cap."""
    from pathnorm.problems import MultitaskLasso

    fit, first_tol = PEERS[name]
    problem = MultitaskLasso.from_samples(features, targets, lam)
    alpha = lam / len(features)
    tol = first_tol(features, targets, alpha)
    started = time.perf_counter()
    small, alpha_small = warm_up(features, targets)
    fit(*small, alpha_small, 1e-3 * first_tol(*small, alpha_small))
    yield {"first_call_seconds": time.perf_counter() - started}
    for _ in range(MAX_FITS):
        # The default action of this signal ends the process, wherever compiled code is at that moment.
        signal.setitimer(signal.ITIMER_PROF, cap)
        wall, processor = time.perf_counter(), time.process_time()
        coef = fit(features, targets, alpha, tol)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        signal.setitimer(signal.ITIMER_PROF, 0)
        gap = problem.certify(np.ascontiguousarray(coef)).gap
        yield {"tol": tol, "gap": gap, "seconds": wall, "cpu_seconds": processor, "neurons": _width(coef)}
        if gap <= TARGET:
            return
        tol *= min(max(0.7 * TARGET / gap, 0.03), 0.5)


def our_fits(features: np.ndarray, targets: np.ndarray, lam: float) -> Iterator[dict[str, Any]]:
    """Median of the repeats at three tolerances, and the formation of the moments apart."""
    from pathnorm.problems import MultitaskLasso
    from pathnorm.solvers import multitask_lasso

    started = time.perf_counter()
    small, alpha_small = warm_up(features, targets)
    multitask_lasso(MultitaskLasso.from_samples(*small, alpha_small * len(small[0])), tol=TARGET)
    yield {"first_call_seconds": time.perf_counter() - started}
    wall, processor = time.perf_counter(), time.process_time()
    problem = MultitaskLasso.from_samples(features, targets, lam)
    yield {"gram_seconds": time.perf_counter() - wall, "gram_cpu_seconds": time.process_time() - processor}
    for tol in (TARGET, 1e-6, 1e-8):
        walls, processors = [], []
        for _ in range(REPEATS):
            wall, processor = time.perf_counter(), time.process_time()
            solution = multitask_lasso(problem, tol=tol)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        yield {
            "tol": tol,
            "gap": problem.certify(solution.coef).gap,
            "seconds": statistics.median(walls),
            "cpu_seconds": statistics.median(processors),
            "neurons": _width(solution.coef),
            "newton_steps": solution.n_iter,
        }


def _width(coef: np.ndarray) -> int:
    return int(np.any(coef != 0.0, axis=1).sum())


# ---------------------------------------------------------------------------- driver
def work(data: Path, method: str, share: float, cap: int) -> None:
    """In the child process: one JSON line per event on standard output."""
    warnings.simplefilter("ignore")  # the gap is measured here, not believed
    arrays = np.load(data)
    features, targets = (np.asfortranarray(arrays[name]) for name in ("features", "targets"))
    lam = share * float(np.linalg.norm(features.T @ targets, axis=1).max())
    ours = method == "pathnorm"
    for event in our_fits(features, targets, lam) if ours else peer_fits(method, features, targets, lam, cap):
        print(json.dumps(event), flush=True)


def run(data: Path, method: str, share: float, cap: int) -> list[dict[str, Any]]:
    """Events of one child process; what was printed before it died counts."""
    command = [sys.executable, "-m", "benchmarks.gram_solver", "--worker", str(data), method, str(share)]
    child = subprocess.run(
        [*command, "--cap", str(cap)],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode not in (0, -signal.SIGPROF):
        raise RuntimeError(f"{method} must end by itself or at the cap; its process returned {child.returncode}.")
    return [json.loads(line) for line in child.stdout.splitlines()]


def summary(
    layer: str, share: float, method: str, events: list[dict[str, Any]], ours: dict[str, Any]
) -> dict[str, Any]:
    """One row of the result: the first fit at the target, or the last one that finished."""
    fits = [event for event in events if "gap" in event]
    reached = [event for event in fits if event["gap"] <= TARGET]
    row = {"layer": layer, "lam_over_lam_max": share, "method": method, "reached": bool(reached)}
    row |= {key: value for event in events if "gap" not in event for key, value in event.items()}
    row |= (reached or fits[-1:] or [{"gap": None}])[0]
    row["fits"] = fits
    if method != "pathnorm" and reached:
        formed = ours["cpu_seconds"] + ours["gram_cpu_seconds"]
        row["cpu_ratio"] = row["cpu_seconds"] / ours["cpu_seconds"]
        row["cpu_ratio_with_gram"] = row["cpu_seconds"] / formed
        row["wall_ratio"] = row["seconds"] / ours["seconds"]
    return row


def cells(row: dict[str, Any], cap: int) -> list[str]:
    """The row as text."""
    head = [row["layer"], f"{row['lam_over_lam_max']:g}", row["method"]]
    gap = "none" if row["gap"] is None else f"{row['gap']:.1e}"
    if not row["reached"]:
        return [*head, f"> {cap}", gap, "", "not reached", "not reached"]
    ratios = [f"{row[key]:.0f}x" if key in row else "" for key in ("cpu_ratio", "cpu_ratio_with_gram")]
    return [*head, f"{row['cpu_seconds']:.2f}", gap, str(row["neurons"]), *ratios]


def main() -> None:
    """Train, run every method, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap", type=int, default=120, help="processor seconds for one fit of a peer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", nargs="+", default=["D10", "D512"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        data, method, share = arguments.worker
        work(Path(data), method, float(share), arguments.cap)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = train_and_capture(arguments.seed, Path(folder))
        print(network, flush=True)
        for layer in arguments.layers:
            for share in SHARES:
                ours: dict[str, Any] = {}
                for method in ("pathnorm", *PEERS):
                    events = run(Path(folder) / f"{layer}.npz", method, share, arguments.cap)
                    rows.append(summary(layer, share, method, events, ours))
                    ours = ours or rows[-1]
                    print(*cells(rows[-1], arguments.cap), flush=True)
    payload = {
        "objective": "1/2 ||Psi - Phi V||_F^2 + lam sum_k ||v_k||",
        "target_gap": TARGET,
        "cap_cpu_seconds": arguments.cap,
        "shape": {"n_samples": N_SAMPLES, "n_neurons": WIDTH},
        "network": network,
        "environment": environment(["numpy", "scipy", "numba", "scikit-learn", "celer", "skglm", "torch"], threads=1),
        "rows": rows,
    }
    path = write_json("gram_solver", payload, folder=arguments.out)
    head = ["layer", "lam/lam_max", "method", "CPU s", "gap", "neurons", "ratio", "ratio with Gram"]
    print_table(head, [cells(row, arguments.cap) for row in rows])
    print(path)


if __name__ == "__main__":
    main()
