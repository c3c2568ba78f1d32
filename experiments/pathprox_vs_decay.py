"""The proximal step for the path norm against weight decay, at the same budget and with the lambda that belongs to it.

Claim [Yang et al. 2022]: both minimise the same objective (loss plus path norm), but weight decay only creeps towards
the sparse solution, while the proximal step sets neurons to zero. Aim: half as many active neurons at equal accuracy
(within 0.3 points), or the same objective in half of the epochs. Measured on MNIST (a network of fully connected
layers) and on a part of CIFAR-10 (six convolutions with BatchNorm); for every weight decay mu the proximal run has the
lambdas of ``lam_from_weight_decay(model, x, mu)``, the same learning rates, batches and epochs. The objective is that
with path norms for both. A neuron is active if its mass is above a thousandth of the largest of its layer.

    python -m experiments.pathprox_vs_decay [--full] [--data mnist cifar10]
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from benchmarks._harness import print_table
from experiments import _small
from experiments._claim import Row, Scale, main
from pathnorm.deep import PathProx, lam_from_weight_decay
from pathnorm.deep.neuron_norms import neurons_of
from pathnorm.deep.path_prox import Form
from pathnorm.report.style import INK, PALETTE, dress, new_figure

NAME = "pathprox_vs_decay"
DECAYS = {"mnist": (1e-3, 3e-3, 5e-3, 1e-2, 3e-2), "cifar10": (3e-3, 1e-2, 3e-2)}
METHODS = ("weight decay", "PathProx", "PathProx, constrained")
WITHIN = 0.003


def model_for(data: str) -> nn.Sequential:
    return _small.mlp(784, 300, 100, 10) if data == "mnist" else _small.cnn(16)


def train(data: str, method: str, decay: float, samples: _small.Data, *, epochs: int) -> Row:
    torch.manual_seed(0)
    model, started = model_for(data), time.perf_counter()
    schedule = lam_from_weight_decay(model, samples[0][:2], decay)
    groups = neurons_of(model, samples[0][:2]).groups
    if method != METHODS[0]:
        inner = torch.optim.SGD(schedule.param_groups(model), lr=0.05, momentum=0.9)
        form: Form = "product" if method == METHODS[1] else "constrained"
        optimizer: torch.optim.Optimizer = PathProx(inner, model, samples[0][:2], schedule.lam, form=form)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    history: list[Row] = []

    def log(epoch: int) -> None:
        if epoch:
            scheduler.step()
        norms = _small.norms_of(model, groups)
        named = dict(model.named_parameters())
        loss, _ = _small.evaluate(model, samples[0], samples[1])
        penalty = sum(schedule.lam[name] * float(n.masses.sum()) for name, n in norms.items())
        rest = sum(0.5 * mu * float(named[name].detach().square().sum()) for name, mu in schedule.decay.items())
        history.append(
            {
                "epoch": epoch,
                "train_loss": loss,
                "objective": loss + penalty + rest,
                "path_norm": sum(float(n.masses.sum()) for n in norms.values()),
                "active": sum(_small.active_neurons(n) for n in norms.values()),
                "zero": sum(int((n.masses == 0.0).sum()) for n in norms.values()),
                "test_accuracy": _small.evaluate(model, samples[2], samples[3])[1],
            }
        )

    _small.fit(model, optimizer, samples, epochs=epochs, after=log)
    return {
        "data": data,
        "method": method,
        "weight_decay": decay,
        "neurons": sum(group.width for group in groups),
        "seconds": time.perf_counter() - started,
        "history": history,
    }


def comparison(runs: list[Row], data: str) -> list[Row]:
    """For every run with weight decay: the sparsest proximal run within 0.3 points, and the epochs to its objective."""
    decays = [item for item in runs if item["data"] == data and item["method"] == METHODS[0]]
    proximal = [item for item in runs if item["data"] == data and item["method"] != METHODS[0]]
    found = []
    for item in decays:
        last = item["history"][-1]
        equal = [
            other["history"][-1]
            for other in proximal
            if other["history"][-1]["test_accuracy"] >= last["test_accuracy"] - WITHIN
        ]
        same = [other["history"] for other in proximal if other["weight_decay"] == item["weight_decay"]]
        reached = [row["epoch"] for history in same for row in history if row["objective"] <= last["objective"]]
        found.append(
            {
                "weight_decay": item["weight_decay"],
                "accuracy": last["test_accuracy"],
                "active": last["active"],
                "least_active_within": min((row["active"] for row in equal), default=None),
                "objective": last["objective"],
                "objective_pathprox": min(history[-1]["objective"] for history in same),
                "epochs": last["epoch"],
                "epochs_to_objective": min(reached, default=None),
            }
        )
    return found


def verdict(compared: dict[str, list[Row]]) -> Row:
    said, holds = [], True
    for data, rows in compared.items():
        sparser = [row["active"] / row["least_active_within"] for row in rows if row["least_active_within"]]
        faster = [row["epochs"] / row["epochs_to_objective"] for row in rows if row["epochs_to_objective"]]
        best = (max(sparser, default=0.0), max(faster, default=0.0))
        # The run with the best accuracy of weight decay is the one that somebody would keep.
        kept = max(rows, key=lambda row: row["accuracy"])
        at_best = kept["active"] / kept["least_active_within"] if kept["least_active_within"] else 0.0
        holds &= at_best >= 2.0 or best[1] >= 2.0
        said.append(
            f"{data}: {at_best:.1f}x fewer active neurons within 0.3 points of the most accurate run with decay "
            f"(at most {best[0]:.1f}x of any run), same objective in 1/{best[1]:.1f} of the epochs at best"
        )
    return {
        "holds": bool(holds),
        "predicted": "twice fewer active neurons at equal accuracy, or the same objective in half of the epochs",
        "measured": "; ".join(said),
    }


def draw(payload: Row, path: Path) -> None:
    runs = payload["runs"]
    names = list(dict.fromkeys(item["data"] for item in runs))
    figure = new_figure(12.0, 3.4 * len(names))
    panels = figure.subplots(len(names), 3, squeeze=False)
    for line, data in enumerate(names):
        chosen = [item for item in runs if item["data"] == data]
        for item in chosen:
            method = METHODS.index(item["method"])
            shade = 0.45 + 0.55 * DECAYS[data].index(item["weight_decay"]) / (len(DECAYS[data]) - 1)
            style = {"color": PALETTE[method], "alpha": shade}
            most = item["weight_decay"] == DECAYS[data][-1]
            epochs = [row["epoch"] for row in item["history"]][1:]
            for panel, key in zip(panels[line], ("objective", "active"), strict=False):
                panel.plot(
                    epochs,
                    [row[key] for row in item["history"]][1:],
                    **style,
                    label=item["method"] if most else None,
                )
        for method, name in enumerate(METHODS):
            last = [item["history"][-1] for item in chosen if item["method"] == name]
            panels[line, 2].plot(
                [row["active"] for row in last],
                [100 * row["test_accuracy"] for row in last],
                "osD"[method] + "-",
                color=PALETTE[method],
                label=name,
            )
        panels[line, 0].set(yscale="log", ylabel=f"{data}: loss + path norms")
        panels[line, 1].set(ylabel="active neurons", ylim=(0, None))
        panels[line, 2].set(xlabel="active neurons", ylabel="test accuracy, %", xlim=(0, None))
        panels[line, 0].set_xlabel("epoch")
        panels[line, 1].set_xlabel("epoch")
        for panel in panels[line]:
            dress(panel)
            panel.legend(fontsize=7.5, frameon=False)
    title = "Same gradient steps: weight decay against the proximal step of its path norm (darker: more decay)"
    figure.suptitle(title, color=INK, fontsize=11)
    figure.savefig(path, dpi=150)


def samples_of(data: str, scale: Scale) -> tuple[int, _small.Data]:
    """Epochs and samples of a data set."""
    if scale is Scale.QUICK:
        return 2, _small.digits(500)
    if data == "mnist":
        return scale.pick(None, 30, 60), _small.mnist(scale.pick(None, 10_000, 60_000))
    return scale.pick(None, 12, 60), _small.cifar10(*scale.pick(None, (5_000, 5_000), (50_000, 10_000)))


def run(scale: Scale) -> Row:
    """Train with both methods and all decays; a quick run has digits only."""
    runs: list[Row] = []
    for data in ("mnist",) if scale is Scale.QUICK else DECAYS:
        epochs, samples = samples_of(data, scale)
        for decay in DECAYS[data]:
            for method in METHODS:
                runs.append(train(data, method, decay, samples, epochs=epochs))
                last = runs[-1]["history"][-1]
                print(
                    f"{data}, {method} {decay:g}: objective {last['objective']:.4f}, active {last['active']} of "
                    f"{runs[-1]['neurons']}, {100 * last['test_accuracy']:.2f} %, {runs[-1]['seconds']:.0f} s",
                    flush=True,
                )
    compared = {name: comparison(runs, name) for name in dict.fromkeys(item["data"] for item in runs)}
    print_table(
        ["data", "decay", "accuracy %", "active", "PathProx within 0.3", "objective", "PathProx", "epochs to it"],
        [
            [
                data,
                f"{row['weight_decay']:g}",
                f"{100 * row['accuracy']:.2f}",
                str(row["active"]),
                str(row["least_active_within"]),
                f"{row['objective']:.4f}",
                f"{row['objective_pathprox']:.4f}",
                f"{row['epochs_to_objective']} of {row['epochs']}",
            ]
            for data, rows in compared.items()
            for row in rows
        ],
    )
    return {
        "active_above": _small.ACTIVE,
        "verdict": verdict(compared),
        "comparison": compared,
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "torch")))
