"""What the rows of the benchmark of the objective say together: means over seeds, excess over our bound, aims."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks._shallow_peers import PEERS

__all__ = ["EQUAL", "METHODS", "OURS", "aims", "summarise"]

OURS, EQUAL = "ours", "ours_at_lbfgs"
METHODS = ("lbfgs", OURS, EQUAL, "adam", "mlp", "pyscnn_relu", "pyscnn_hinges", "pyscnn_gated")
Row = dict[str, Any]


def summarise(rows: list[Row]) -> list[Row]:
    """Means over seeds of what a case and a method gave, beside ours."""
    place = {(row["n"], row["d"], row["seed"], row["method"]): row for row in rows}
    cases = dict.fromkeys((row["n"], row["d"]) for row in rows)
    return [
        {"n": n, "d": d, "method": method, "seeds": len(mine), **_cell(mine, place)}
        for n, d in cases
        for method in METHODS
        if (mine := [row for row in rows if (row["n"], row["d"], row["method"]) == (n, d, method)])
    ]


def _cell(mine: list[Row], place: dict[tuple[int, int, int, str], Row]) -> Row:
    """Means over the seeds of one case and one method."""
    cell: Row = {}
    for name in ("failure", "sentence"):
        said = [row[name] for row in mine if name in row]
        if said:
            cell[name] = said[0]
    good = [row for row in mine if "failure" not in row]
    beside = [(row, place.get((row["n"], row["d"], row["seed"], OURS), {})) for row in good]
    beside = [(row, ours) for row, ours in beside if "dual" in ours]

    def mean(name: str, values: list[float]) -> None:
        if values:
            cell[name] = float(np.mean(values))

    for name in ("objective", "objective_refit"):
        excess = [row[name] / ours["dual"] - 1.0 for row, ours in beside if name in row]
        mean(name.replace("objective", "excess"), excess)
    for name in ("seconds", "neurons", "neurons_raw", "test_rmse", "gap", "proved"):
        mean(name, [row[name] for row in good if row.get(name) is not None])
    mean("seconds_over_ours", [row["seconds"] / ours["seconds"] for row, ours in beside])
    equal = [(row, place.get((row["n"], row["d"], row["seed"], EQUAL), {})) for row in good]
    equal = [(row, other) for row, other in equal if row["method"] == "lbfgs" and "seconds" in other]
    mean("seconds_over_ours_at_equal_objective", [row["seconds"] / other["seconds"] for row, other in equal])
    if not all(row.get("converged", True) for row in good):
        cell["converged"] = False
    return cell


def aims(rows: list[Row], summary: list[Row]) -> list[Row]:
    """Each aim with what was measured; only for what has been run."""
    found: list[Row] = []
    ours = [row for row in rows if row["method"] == OURS and "gap" in row]
    peers = [row for row in rows if row["method"] in PEERS and "objective" in row]
    place = {(row["n"], row["d"], row["seed"]): row for row in ours}
    both = [(row, place[key]) for row in peers if (key := (row["n"], row["d"], row["seed"])) in place]
    if both:
        share, row = max(
            ((mine["objective"] / row["objective"] - 1.0, row) for row, mine in both), key=lambda pair: pair[0]
        )
        note = f"closest: {row['method']} at N = {row['n']:,}, d = {row['d']}"
        found.append(aim("lowest objective on every case (ours over the best peer, less 1)", share, share <= 0, note))
    for method, least, key, text in (
        ("adam", 50.0, "seconds_over_ours", "at least 50 times faster than Adam"),
        ("lbfgs", 1.0, "seconds_over_ours_at_equal_objective", "no slower than L-BFGS at equal objective"),
    ):
        cells = [cell for cell in summary if cell["method"] == method and key in cell]
        if cells:
            cell = min(cells, key=lambda cell: cell[key])
            every = ", ".join(f"{c['n']}x{c['d']} {c[key]:.2g}" for c in cells)
            found.append(aim(text, cell[key], cell[key] >= least, f"N x d: {every}"))
    certified = [row for row in ours if row["d"] <= 3 and (row["n"] <= 1000 or row["d"] == 2)]
    if certified:
        row = max(certified, key=lambda row: row["gap"] if row["scope"] == "function_space" else np.inf)
        slow = max(row["seconds"] for row in certified)
        good = row["scope"] == "function_space" and row["gap"] <= 1e-6
        note = f"at N = {row['n']:,}, d = {row['d']}, {row['sentence']}; slowest {slow:.3g} s"
        found.append(aim("gap at most 1e-6 for d <= 3 in 60 s", row["gap"], good and slow <= 60.0, note))
    large = [(row, mine) for row, mine in both if (row["n"], row["d"], row["method"]) == (5000, 10, "lbfgs")]
    for row, mine in large[:1]:
        share = mine["objective"] / row["objective"] - 1.0
        note = f"{mine['seconds']:.3g} s"
        found.append(
            aim("N = 5,000, d = 10: below L-BFGS in 60 s", share, share < 0.0 and mine["seconds"] <= 60.0, note)
        )
    return found


def aim(text: str, measured: float, met: bool, note: str) -> Row:
    return {"aim": text, "measured": float(measured), "met": bool(met), "note": note}
