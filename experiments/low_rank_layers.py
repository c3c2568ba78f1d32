"""Weight decay makes layers low-rank: their features Phi and outputs Psi span fewer dimensions.

Claim [SPLN24]: a layer needs at most rank(Phi) rank(Psi) neurons, and with weight decay the ranks are small. Measured
by ``pathnorm.audit`` on MNIST for a network of four fully connected layers, without decay and with two values of it:
numerical ranks of every layer at two tolerances, the neurons that the layer is predicted to need for its outputs up to
1 %, and how many directions its input weights look along.

    python -m experiments.low_rank_layers [--full]
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks._harness import print_table
from experiments import _small
from experiments._claim import Row, Scale, main
from pathnorm.deep import audit
from pathnorm.report.style import INK, PALETTE, dress, new_figure

NAME = "low_rank_layers"
WIDTHS = (784, 200, 200, 200, 10)
DECAYS = (0.0, 1e-3, 5e-3)
AUDITED = 2_000
KEYS = ("rank_features", "rank_outputs", "coarse_rank_features", "coarse_rank_outputs")


def train(decay: float, data: _small.Data, *, epochs: int) -> Row:
    torch.manual_seed(0)
    model = _small.mlp(*WIDTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    _small.fit(model, optimizer, data, epochs=epochs, after=lambda epoch: scheduler.step() if epoch else None)
    loss, _ = _small.evaluate(model, data[0], data[1])
    record = audit(model.eval(), data[0][:AUDITED])
    layers = []
    for group in record.groups:
        seen = group.reconstruction
        assert seen is not None
        layers.append(
            {
                "layer": group.name,
                "width": group.width,
                "active": group.active,
                **{key: getattr(seen, key) for key in KEYS},
                "rank_tolerance": seen.rank_tolerance,
                "coarse_tolerance": seen.coarse_tolerance,
                "width_bound": seen.width_bound,
                "predicted": {f"{item.error:g}": item.width for item in seen.predicted},
                "directions": group.directions,
                "gini": group.gini,
            }
        )
    return {
        "weight_decay": decay,
        "train_loss": loss,
        "test_accuracy": _small.evaluate(model, data[2], data[3])[1],
        "path_norm": record.path_norm,
        "layers": layers,
    }


def verdict(runs: list[Row]) -> Row:
    """Both ranks at the coarse tolerance fall with decay, in every layer."""
    plain, strong = runs[0], runs[-1]
    pairs = list(zip(plain["layers"], strong["layers"], strict=True))
    keys = ("coarse_rank_features", "coarse_rank_outputs")
    holds = all(b[key] <= a[key] for a, b in pairs for key in keys) and all(
        sum(b[key] for _, b in pairs) < 0.8 * sum(a[key] for a, _ in pairs) for key in keys[:1]
    )
    text = ", ".join(
        f"layer {a['layer']}: {a['coarse_rank_features']} x {a['coarse_rank_outputs']} -> "
        f"{b['coarse_rank_features']} x {b['coarse_rank_outputs']}"
        for a, b in pairs
    )
    return {
        "holds": holds,
        "predicted": "ranks of features and outputs fall with weight decay",
        "measured": f"rank(Phi) x rank(Psi) at 1 %, without decay -> with {strong['weight_decay']:g}: {text}",
    }


def draw(payload: Row, path: Path) -> None:
    runs = payload["runs"]
    figure = new_figure(11.0, 3.6)
    panels = figure.subplots(1, 3)
    shown = (
        ("rank of the features Φ, above 1 %", lambda layer: layer["coarse_rank_features"]),
        ("rank of the outputs Ψ, above 1 %", lambda layer: layer["coarse_rank_outputs"]),
        ("neurons needed for 1 % error", lambda layer: layer["predicted"]["0.01"]),
    )
    for panel, (title, value) in zip(panels, shown, strict=True):
        for index, item in enumerate(runs):
            places = [place + 0.26 * (index - 1) for place in range(len(item["layers"]))]
            label = f"decay {item['weight_decay']:g}, {100 * item['test_accuracy']:.1f} %"
            heights = [value(layer) for layer in item["layers"]]
            bars = panel.bar(places, heights, width=0.24, color=PALETTE[(1, 5, 0)[index]], label=label)
            panel.bar_label(bars, fontsize=7, color=INK, padding=1)
        panel.set_xticks(range(len(runs[0]["layers"])), [f"layer {k + 1}" for k in range(len(runs[0]["layers"]))])
        panel.set_title(title, color=INK, fontsize=10, loc="left")
        dress(panel, along="y")
    panels[0].legend(fontsize=8, frameon=False)
    panels[0].margins(y=0.25)
    figure.savefig(path, dpi=150)


def run(scale: Scale) -> Row:
    """Train with several decays, audit."""
    samples, epochs = scale.pick((500, 2), (10_000, 40), (60_000, 100))
    data = (_small.digits if scale is Scale.QUICK else _small.mnist)(samples)
    runs = []
    for decay in DECAYS:
        runs.append(train(decay, data, epochs=epochs))
        print(f"decay {decay:g}: {100 * runs[-1]['test_accuracy']:.2f} %", flush=True)
    print_table(
        ["decay", "layer", "width", "active", "rank Φ", "rank Ψ", "rank Φ, 1 %", "rank Ψ, 1 %", "for 1 %", "for 5 %"],
        [
            [
                f"{item['weight_decay']:g}",
                layer["layer"],
                str(layer["width"]),
                str(layer["active"]),
                *(str(layer[key]) for key in KEYS),
                *(str(width) for width in layer["predicted"].values()),
            ]
            for item in runs
            for layer in item["layers"]
        ],
    )
    return {
        "data": f"MNIST, the first {samples} training digits; ranks on {min(AUDITED, samples)} of them",
        "widths": WIDTHS,
        "epochs": epochs,
        "verdict": verdict(runs),
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "torch")))
