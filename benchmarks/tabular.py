"""Tables with standard splits: shallow ReLU networks at the certified optimum beside what else one would reach for.

Every method runs as it comes, with the cross-validation that is its habit and no other tuning; all see the same
matrices. Regression is scored by the RMSE in the units of the target, classification by log-loss (probabilities cut at
1e-6) and error rate. Ours is fitted with ``certify="search"`` and certified afterwards for five seconds; the seconds of
the two are apart. ``pathnorm, pairs`` is ``interactions=2``, ``additive`` is ``interactions=1``.

Each run is a process of its own with one thread and a limit in seconds. Run with ``python -m benchmarks.tabular``; rows
are saved one by one and those of earlier runs kept, ``--resume`` skips what is there, ``--cases yacht sonar`` and
``--methods`` choose, ``--splits`` says how many.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import RESULTS, print_table
from benchmarks._isolated import Rows, isolated, one_thread, stopwatch, versions_of
from benchmarks._tabular_data import DATA, FRIEDMAN_NOISE, SIZES, kind_of, split_of
from benchmarks._tabular_methods import CERTIFY_SECONDS, LABELS, METHODS, OURS, SMOOTH, preload

KEY = ("data", "split", "method")
LOW_NOISE = ("yacht", "energy", "concrete", "power-plant")
BOOSTING = ("hgb", "xgb")
LEAST_PROBABILITY = 1e-6
PACKAGES = ["numpy", "scipy", "numba", "scikit-learn", "xgboost", "interpret-core"]
Row = dict[str, Any]


# ---------------------------------------------------------------------------- runs
def run(data: str, number: int, method: str) -> Row:
    """Fit and score."""
    split, kind = split_of(data, number), kind_of(data)
    clock = stopwatch()
    fitted = METHODS[method](split.X, split.y, kind, number)
    row = {**clock(), **fitted.facts}  # ours says what it took without its certificate
    row |= {"n_train": len(split.y), "n_test": len(split.y_test), "d": split.X.shape[1]}
    if kind == "regression":
        residual = fitted.model.predict(split.X_test) - split.y_test
        return row | {"rmse": float(np.sqrt((residual**2).mean())), "sd_test": float(split.y_test.std())}
    p = np.clip(fitted.model.predict_proba(split.X_test)[:, 1], LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    loss = -np.where(split.y_test == 1.0, np.log(p), np.log1p(-p)).mean()
    return row | {"log_loss": float(loss), "error_rate": float(((p > 0.5) != (split.y_test == 1.0)).mean())}


# ---------------------------------------------------------------------------- summary
def score_of(row: Row) -> float | None:
    return row.get("rmse", row.get("log_loss"))


def summarise(rows: list[Row]) -> list[Row]:
    """Mean and standard deviation over splits, per table and method."""
    summary = []
    for data in [name for name in DATA if any(row["data"] == name for row in rows)]:
        for method in METHODS:
            mine = [row for row in rows if (row["data"], row["method"]) == (data, method)]
            if not mine:
                continue
            cell: Row = {"data": data, "kind": kind_of(data), "method": method, "splits": len(mine)}
            failures = [row["failure"] for row in mine if "failure" in row]
            if failures:
                summary.append(cell | {"failure": failures[0], "failed": len(failures)})
                continue
            cell |= {key: mine[0][key] for key in ("n_train", "n_test", "d")}
            for key in ("rmse", "log_loss", "error_rate", "seconds", "cpu_seconds", "seconds_certificate", "neurons"):
                values = np.array([row[key] for row in mine if row.get(key) is not None])
                if values.size:
                    cell[key] = {"mean": float(values.mean()), "sd": float(values.std(ddof=min(1, values.size - 1)))}
            if "sentence" in mine[0]:
                cell["sentence"] = mine[0]["sentence"]
            summary.append(cell)
    return summary


def ranks(summary: list[Row]) -> list[Row]:
    """Mean ranks, among all methods and among the smooth ones.

    ``rank`` is over the tables where a method ran on every split, among those that did; ``rank_common`` over the tables
    where all that were asked for did.
    """
    from scipy.stats import rankdata

    places: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for group, members in (("all", tuple(METHODS)), ("smooth", SMOOTH)):
        for data in dict.fromkeys(cell["data"] for cell in summary):
            cells = [cell for cell in summary if cell["data"] == data and cell["method"] in members]
            good = [cell for cell in cells if "failure" not in cell]
            means = [(cell.get("rmse") or cell["log_loss"])["mean"] for cell in good]
            for cell, place in zip(good, rankdata(means) if means else [], strict=True):
                places.setdefault((group, cell["method"]), []).append((float(place), len(good) == len(cells)))
    return [
        {
            "group": group,
            "method": method,
            "tables": len(found),
            "rank": float(np.mean([place for place, _ in found])),
            "firsts": sum(place == 1.0 for place, _ in found),
            "tables_common": sum(common for _, common in found),
            "rank_common": float(np.mean([p for p, c in found if c])) if any(c for _, c in found) else None,
        }
        for (group, method), found in sorted(places.items(), key=lambda item: (item[0][0], np.mean(item[1], axis=0)[0]))
    ]


def aims(summary: list[Row], order: list[Row]) -> list[Row]:
    """Each aim with what was measured; only for what has been run."""
    found = []
    smooth = [row for row in order if row["group"] == "smooth"]
    # Where some method was not run, ranks are not of the same tables: those where all were, if there are any.
    key, count = ("rank_common", "tables_common") if any(row["tables_common"] for row in smooth) else ("rank", "tables")
    smooth = sorted((row for row in smooth if row[key] is not None), key=lambda row: row[key])
    if smooth:
        note = ", ".join(f"{LABELS[row['method']]} {row[key]:.2f}" for row in smooth)
        note = f"on the {smooth[0][count]} tables where all ran: {note}" if key == "rank_common" else note
        best = min((row[key] for row in smooth if row["method"] in OURS), default=float("inf"))
        if np.isfinite(best):
            text = "best mean rank among smooth methods"
            found.append({"aim": text, "measured": best, "met": best <= smooth[0][key], "note": note})
    cells = {(cell["data"], cell["method"]): cell["rmse"]["mean"] for cell in summary if "rmse" in cell}
    for data in LOW_NOISE:
        boosted = [cells[data, method] for method in BOOSTING if (data, method) in cells]
        mine = [(cells[data, method], method) for method in ("ours", "ours2") if (data, method) in cells]
        if boosted and mine:
            ratios = {LABELS[method]: value / min(boosted) for value, method in mine}
            note = "RMSE over that of the better boosting: " + ", ".join(f"{k} {v:.3f}" for k, v in ratios.items())
            best = min(ratios.values())
            found.append(
                {"aim": f"lower RMSE than boosting on {data}", "measured": best, "met": best < 1, "note": note}
            )
    return found


# ---------------------------------------------------------------------------- driver
HEAD = ["data", "split", "method", "N", "d", "RMSE or log-loss", "error rate", "neurons", "seconds", ""]


def cells_of(row: Row) -> list[str]:
    """A row as text."""
    head = [row["data"], str(row["split"]), row["method"]]
    if "failure" in row:
        return [*head, "", "", "", "", "", "", row["failure"][:70]]
    score, error = score_of(row), row.get("error_rate")
    size = [str(row["n_train"]), str(row["d"]), f"{score:.4g}", "" if error is None else f"{error:.3f}"]
    return [*head, *size, str(row.get("neurons", "")), f"{row['seconds']:.2f}", row.get("sentence", "")]


def save(rows: Rows, limit: float) -> None:
    summary = summarise(rows.rows)
    order = ranks(summary)
    payload = {
        "command": "python -m benchmarks.tabular",
        "limit_seconds": limit,
        "certify_seconds": CERTIFY_SECONDS,
        "least_probability": LEAST_PROBABILITY,
        "friedman_noise": FRIEDMAN_NOISE,
        "data": SIZES,
        "environment": versions_of(PACKAGES),
        "labels": LABELS,
        "summary": summary,
        "ranks": order,
        "aims": aims(summary, order),
    }
    rows.write(payload)


def main() -> None:
    """Run, print the rows as they come, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a run")
    parser.add_argument("--resume", action="store_true", help="skip rows that are there")
    parser.add_argument("--quick", action="store_true", help="yacht and sonar once; writes to a temporary folder")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    one_thread()
    folder = arguments.out or RESULTS
    if arguments.quick:
        folder = arguments.out or Path(tempfile.gettempdir()) / "pathnorm-quick"
        arguments.cases, arguments.splits = ["yacht", "sonar"], 1
    rows = Rows("tabular", KEY, folder=folder)
    warnings.simplefilter("ignore")
    preload()
    for data in arguments.cases:
        for number in range(arguments.splits):
            for method in arguments.methods:
                name = {"data": data, "split": number, "method": method}
                if arguments.resume and rows.find(name):
                    continue
                row = name | isolated(partial(run, data, number, method), seconds=arguments.limit)
                rows.add(row)
                save(rows, arguments.limit)
                print(*cells_of(row), sep="  ", flush=True)
    save(rows, arguments.limit)
    print_table(HEAD, [cells_of(row) for row in rows.rows])


if __name__ == "__main__":
    main()
