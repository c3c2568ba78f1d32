"""Weight decay is a sparsity penalty in disguise: its value becomes the path norm, and neurons vanish.

Claim: gradient descent with weight decay drives every neuron to balance, ``||w|| = ||v||``, so that
``1/2 sum (||w||^2 + ||v||^2)`` comes down to ``sum ||w|| ||v||``, a penalty like that of the lasso, under which neurons
die. Without decay the first stays above the second and all neurons live. Measured for a shallow network with one output
(concrete strength), a shallow and a deep one on MNIST: the ratio of the two sums, and the neurons whose mass is above a
thousandth of the largest. The theorem speaks of the minimisers, descent is slow to get there: balance is reached in all
three; how many neurons have vanished by then is for the experiment to say.

    python -m experiments.secret_sparsity [--full]
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from experiments import _small
from experiments._claim import Row, Scale, main
from pathnorm.deep.neuron_norms import neurons_of
from pathnorm.report.style import INK, PALETTE, dress, new_figure

NAME = "secret_sparsity"
# Data, widths and epochs by default; about 12,000 and 24,000 steps.
NETWORKS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "shallow, one output": ("concrete", (8, 200, 1), 1_200),
    "shallow": ("MNIST", (784, 200, 10), 240),
    "deep": ("MNIST", (784, 200, 100, 50, 10), 240),
}
DECAYS = (0.0, 5e-3)


def test_score(model: torch.nn.Module, data: _small.Data, name: str) -> float:
    """Accuracy, or the root of the mean squared error of standardised values."""
    if name == "MNIST":
        return _small.evaluate(model, data[2], data[3])[1]
    with torch.no_grad():
        return float(F.mse_loss(model(data[2]), data[3]).sqrt())


def train(network: str, decay: float, data: _small.Data, *, epochs: int, seed: int) -> list[Row]:
    torch.manual_seed(seed)
    name, widths, _ = NETWORKS[network]
    loss = F.cross_entropy if name == "MNIST" else F.mse_loss
    model = _small.mlp(*widths)
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
                "test_score": test_score(model, data, name),
            }
        )

    _small.fit(model, optimizer, data, epochs=epochs, seed=seed, loss=loss, after=log)
    return rows


def verdict(runs: list[Row]) -> Row:
    """Ratios at the end within 1 % of one with decay, off without; a tenth of the neurons gone with decay."""
    last = {(item["network"], item["weight_decay"]): item["rows"][-1] for item in runs}
    balanced, sparser, said = [], [], []
    for network in NETWORKS:
        plain, decayed = (last[network, decay] for decay in DECAYS)
        ratios = [row["half_squares"] / row["path_norm"] for row in (plain, decayed)]
        balanced.append(ratios[1] < 1.01 < ratios[0])
        sparser.append(decayed["active"] < 0.9 * plain["active"])
        said.append(
            f"{network}: {ratios[0]:.3f} without decay, {ratios[1]:.4f} with; active neurons "
            f"{plain['active']} and {decayed['active']} of {plain['neurons']}"
        )
    return {
        "holds": all(balanced) and all(sparser),
        "balance_holds": all(balanced),
        "neurons_vanish_in": [name for name, found in zip(NETWORKS, sparser, strict=True) if found],
        "predicted": "half the squares over the path norm goes to 1 with weight decay only, and neurons vanish",
        "measured": "; ".join(said),
    }


def draw(payload: Row, path: Path) -> None:
    runs = payload["runs"]
    figure = new_figure(14.0, 6.4)
    panels = figure.subplots(2, len(NETWORKS), squeeze=False)
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
        name, widths, _ = NETWORKS[network]
        panels[0, column].set_title(
            f"{network}: {name}, {'-'.join(map(str, widths))}", color=INK, fontsize=11, loc="left"
        )
        panels[0, column].set(yscale="log", ylabel="norm")
        panels[1, column].set(ylabel="active neurons", xlabel="epoch", ylim=(0, None))
        for panel in panels[:, column]:
            dress(panel)
            panel.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def run(scale: Scale) -> Row:
    """Train all networks with and without decay."""
    samples, share = scale.pick((500, 0.005), (5_000, 1.0), (60_000, 2.0))
    digits = _small.digits if scale is Scale.QUICK else _small.mnist
    sets = {"MNIST": digits(samples), "concrete": _small.diabetes() if scale is Scale.QUICK else _small.concrete()}
    runs: list[Row] = []
    for network, (name, widths, epochs) in NETWORKS.items():
        for decay in DECAYS:
            rows = train(network, decay, sets[name], epochs=max(2, round(share * epochs)), seed=0)
            runs.append({"network": network, "data": name, "widths": widths, "weight_decay": decay, "rows": rows})
            last = rows[-1]
            print(
                f"{network}, decay {decay:g}: half squares {last['half_squares']:.2f}, "
                f"path norm {last['path_norm']:.2f}, "
                f"{last['active']} of {last['neurons']} active, score {last['test_score']:.4f}",
                flush=True,
            )
    return {
        "data": f"MNIST: the first {samples} training digits, 10,000 test digits; concrete: the first standard split",
        "active_above": _small.ACTIVE,
        "verdict": verdict(runs),
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "torch")))
