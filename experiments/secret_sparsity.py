"""Weight decay is a sparsity penalty in disguise: its value becomes the path norm, and neurons vanish.

Claim: gradient descent with weight decay drives every neuron to balance, ``||w|| = ||v||``, so that
``1/2 sum (||w||^2 + ||v||^2)`` comes down to ``sum ||w|| ||v||``, a penalty like that of the lasso, under which neurons
die. Without decay the first stays above the second and all neurons live. Measured for a shallow and a deep ReLU network
on MNIST: the ratio of the two sums, and the neurons whose mass is above a thousandth of the largest.

    python -m experiments.secret_sparsity [--full]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import environment, write_json
from experiments import _small
from pathnorm.deep.neuron_norms import neurons_of
from pathnorm.report.style import INK, PALETTE, dress, new_figure

OUT = Path(__file__).resolve().parent / "results"
NAME = "secret_sparsity"
NETWORKS = {"shallow": (784, 200, 10), "deep": (784, 200, 100, 50, 10)}
DECAYS = (0.0, 5e-3)
Row = dict[str, Any]


def run(network: str, decay: float, data: _small.Data, *, epochs: int, seed: int) -> list[Row]:
    torch.manual_seed(seed)
    model = _small.mlp(*NETWORKS[network])
    groups = neurons_of(model, data[0][:2]).groups
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
    rows: list[Row] = []

    def log(epoch: int) -> None:
        if epoch % max(1, epochs // 60) and epoch != epochs:
            return
        norms = _small.norms_of(model, groups)
        rows.append(
            {
                "epoch": epoch,
                "half_squares": sum(
                    0.5 * float((n.inputs.square() + n.outputs.square()).sum()) for n in norms.values()
                ),
                "path_norm": sum(float(n.masses.sum()) for n in norms.values()),
                "active": sum(_small.active_neurons(n) for n in norms.values()),
                "neurons": sum(group.width for group in groups),
                "train_loss": _small.evaluate(model, data[0], data[1])[0],
                "test_accuracy": _small.evaluate(model, data[2], data[3])[1],
            }
        )

    _small.fit(model, optimizer, data, epochs=epochs, seed=seed, after=log)
    return rows


def verdict(runs: list[Row]) -> Row:
    """Ratios at the end within 1 % of one with decay, off without; fewer active neurons with decay."""
    last = {(item["network"], item["weight_decay"]): item["rows"][-1] for item in runs}
    holds, said = True, []
    for network in NETWORKS:
        plain, decayed = (last[network, decay] for decay in DECAYS)
        ratios = [row["half_squares"] / row["path_norm"] for row in (plain, decayed)]
        holds &= ratios[1] < 1.01 < ratios[0] and decayed["active"] < 0.9 * plain["active"]
        said.append(
            f"{network}: {ratios[0]:.3f} without decay, {ratios[1]:.4f} with; active neurons "
            f"{plain['active']} and {decayed['active']} of {plain['neurons']}"
        )
    return {
        "holds": bool(holds),
        "predicted": "half the squares over the path norm goes to 1 with weight decay only, and neurons vanish",
        "measured": "; ".join(said),
    }


def draw(runs: list[Row], path: Path) -> None:
    figure = new_figure(10.5, 6.4)
    panels = figure.subplots(2, 2, squeeze=False)
    for column, network in enumerate(NETWORKS):
        for item in (item for item in runs if item["network"] == network):
            decayed = item["weight_decay"] > 0.0
            colour = PALETTE[0] if decayed else PALETTE[1]
            epochs = [row["epoch"] for row in item["rows"]]
            name = f"weight decay {item['weight_decay']:g}" if decayed else "no decay"
            panels[0, column].plot(
                epochs, [row["half_squares"] for row in item["rows"]], color=colour, label=f"½ Σ (‖w‖² + ‖v‖²), {name}"
            )
            panels[0, column].plot(
                epochs,
                [row["path_norm"] for row in item["rows"]],
                color=colour,
                linestyle=(0, (4, 2)),
                label=f"Σ ‖w‖ ‖v‖, {name}",
            )
            panels[1, column].plot(epochs, [row["active"] for row in item["rows"]], color=colour, label=name)
        layers = "-".join(map(str, NETWORKS[network]))
        panels[0, column].set_title(f"{network} ({layers})", color=INK, fontsize=11, loc="left")
        panels[0, column].set(yscale="log", ylabel="norm")
        panels[1, column].set(ylabel="active neurons", xlabel="epoch", ylim=(0, None))
        for panel in panels[:, column]:
            dress(panel)
            panel.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> int:
    """Train, draw, write; 0 if the claim holds, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all 60,000 digits, 300 epochs")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    samples, epochs = (60_000, 300) if options.full else (5_000, 240)
    data, started = _small.mnist(samples), time.perf_counter()
    runs: list[Row] = []
    for network in NETWORKS:
        for decay in DECAYS:
            rows = run(network, decay, data, epochs=epochs, seed=0)
            runs.append({"network": network, "widths": NETWORKS[network], "weight_decay": decay, "rows": rows})
            last = rows[-1]
            print(
                f"{network}, decay {decay:g}: half squares {last['half_squares']:.2f}, "
                f"path norm {last['path_norm']:.2f}, "
                f"{last['active']} of {last['neurons']} active, {100 * last['test_accuracy']:.2f} %",
                flush=True,
            )
    found = verdict(runs)
    outcome = "holds" if found["holds"] else "DOES NOT HOLD"
    print(f"{outcome}: predicted {found['predicted']}; measured {found['measured']}")
    payload = {
        "command": "python -m experiments.secret_sparsity",
        "data": f"MNIST, the first {samples} training digits; 10,000 test digits",
        "epochs": epochs,
        "active_above": _small.ACTIVE,
        "seconds": time.perf_counter() - started,
        "environment": environment(["torch", "pathnorm"], threads=torch.get_num_threads()),
        "verdict": found,
        "runs": runs,
    }
    write_json(NAME, payload, folder=options.out)
    draw(runs, options.out / f"{NAME}.png")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
