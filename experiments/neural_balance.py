"""Neural balance: weight decay makes the two norms of every single neuron equal, at the rate e^(-2 decay t).

For a homogeneous neuron with input weights w (its bias included, because it is decayed too) and output weights v, the
gradient flow of ``loss + decay / 2 * squares`` obeys ``d/dt (||w||^2 - ||v||^2) = -2 decay (||w||^2 - ||v||^2)``: the
loss does not see the scale of a neuron, so it does not enter (Du, Hu & Lee 2018 for decay 0; Parhi & Nowak 2023 and
Yang et al. 2022 for balance at the minimisers, after Grandvalet 1998 and Neyshabur et al. 2015). ``secret_sparsity``
looks at the sums over neurons; here is one number per neuron, for a shallow and for a deep network.

Measured, over seeds, in double precision and with full gradients:

- ``|log(||w|| / ||v||)|`` of every active neuron through training, with decay and without;
- the rate at which ``sum |(||w||^2 - ||v||^2)|`` falls, over twice the decay;
- its drift without decay up to a fixed time, against the step: a step of descent moves the difference by the square of
  the step times a difference of squared gradients, so the drift is of first order in it and vanishes for the flow;
- ``pathnorm.deep.balance``: the largest change of the outputs, the largest imbalance left, its sum of squares against
  those of random rescalings of the same function, and, in the shallow network, against twice the path norm.

It fails if an active neuron is out of balance by more than 5 % at the end of a run with decay, or none is by more than
10 % without, or the rate is more than 5 % off, or the order of the drift is not 1 within 0.1, or a rescaling is smaller
than the closed form.

Limits: a neuron that is active on no sample has no gradient. Both of its norms shrink alike, the difference goes to
zero and the ratio stays as it was. So the ratio is read from neurons whose mass is above a thousandth of the largest of
their layer; the differences are read from all. Steps are finite: what they move adds up without decay, and is the floor
under the differences with it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments import _small
from experiments._claim import Row, Scale, interval, main, slope
from pathnorm.deep import balance
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neurons_of
from pathnorm.report.style import INK, MARKERS, PALETTE, dress, new_figure

NAME = "neural_balance"
NETWORKS = {"shallow": (3, 32, 1), "deep": (3, 16, 16, 1)}
SAMPLES, STEP = 100, 0.1
DECAYS = (0.0, 1e-2)
STEPS = (0.1, 0.05, 0.025, 0.0125)
DRIFT_TIME = 20.0
RECORDS = 60


def samples(seed: int) -> tuple[Tensor, Tensor]:
    """A smooth function of three variables with a little noise, of mean 0 and deviation 1."""
    draw = torch.Generator().manual_seed(seed)
    X = torch.rand(SAMPLES, 3, generator=draw, dtype=torch.float64) * 2 - 1
    y = torch.sin(3 * X[:, :1]) + X[:, 1:2] * X[:, 2:] + 0.1 * torch.randn(SAMPLES, 1, generator=draw).double()
    return X, (y - y.mean()) / y.std()


def network(name: str, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return _small.mlp(*NETWORKS[name]).double()


@functools.cache
def groups_of(name: str) -> tuple[NeuronGroup, ...]:
    """The neuron groups of an architecture; finding them traces the network, which takes longer than many steps."""
    return neurons_of(network(name, 0), samples(0)[0][:2]).groups


def sides(name: str, model: nn.Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``||w||``, ``||v||`` and whether it is active, for every hidden neuron of all layers."""
    found = _small.norms_of(model, groups_of(name))
    masses = [norms.masses for norms in found.values()]
    parts = (
        [norms.inputs for norms in found.values()],
        [norms.outputs for norms in found.values()],
        [mass > _small.ACTIVE * mass.max() for mass in masses],
    )
    inputs, outputs, active = (torch.cat(part).numpy() for part in parts)
    return inputs, outputs, active


def descend(model: nn.Module, data: tuple[Tensor, Tensor], *, decay: float, step: float, count: int) -> None:
    """Steps of gradient descent on half the mean square plus half the decay times the squares."""
    X, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=step, weight_decay=decay)
    for _ in range(count):
        optimizer.zero_grad()
        (0.5 * (model(X) - y).square().mean()).backward()
        optimizer.step()


def train(name: str, decay: float, seed: int, total: float) -> tuple[nn.Sequential, list[Row]]:
    """A trained network, and through time the quantiles of the log ratios and the sum of the differences."""
    data, model = samples(seed), network(name, seed)
    count = round(total / STEP / RECORDS)
    rows = []
    for record in range(RECORDS + 1):
        if record:
            descend(model, data, decay=decay, step=STEP, count=count)
        inputs, outputs, active = sides(name, model)
        ratios = np.abs(np.log(inputs[active] / outputs[active]))
        rows.append(
            {
                "time": record * count * STEP,
                "log_ratio": [float(v) for v in np.quantile(ratios, [0.25, 0.5, 0.75, 1.0])],
                "difference": float(np.abs(inputs**2 - outputs**2).sum()),
                "active": int(active.sum()),
            }
        )
    return model, rows


def rate(rows: list[Row], decay: float) -> float:
    """Slope of the log of the summed differences over ``-2 decay``, down to a hundredth of the start."""
    kept = [row for row in rows if row["difference"] > 0.01 * rows[0]["difference"]]
    times, logs = [row["time"] for row in kept], np.log([row["difference"] for row in kept])
    return float(np.polyfit(times, logs, 1)[0] / (-2 * decay))


def drift(name: str, seed: int, step: float) -> float:
    """Mean change of ``||w||^2 - ||v||^2`` over neurons without decay, relative to their mean sum of squares."""
    data, model = samples(seed), network(name, seed)
    inputs, outputs, _ = sides(name, model)
    before, size = inputs**2 - outputs**2, float((inputs**2 + outputs**2).mean())
    descend(model, data, decay=0.0, step=step, count=round(DRIFT_TIME / step))
    inputs, outputs, _ = sides(name, model)
    return float(np.abs(inputs**2 - outputs**2 - before).mean()) / size


def squares(model: nn.Module) -> float:
    """Sum of the squares that a rescaling can change: all but the bias of the outputs."""
    with torch.no_grad():
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        return float(sum(p.square().sum() for p in model.parameters()) - last.bias.square().sum())


@torch.no_grad()
def rescaled(model: nn.Sequential, deviation: float, rng: np.random.Generator) -> nn.Sequential:
    """The same function with every hidden neuron scaled by a random factor."""
    found = _small.mlp(*[model[0].in_features, *(layer.out_features for layer in model[::2])]).double()
    found.load_state_dict(model.state_dict())
    for layer, reader in zip(found[:-2:2], found[2::2], strict=True):
        factor = torch.from_numpy(np.exp(deviation * rng.standard_normal(layer.out_features)))
        layer.weight *= factor[:, None]
        layer.bias *= factor
        reader.weight /= factor
    return found


def closed_form(name: str, model: nn.Sequential, seed: int) -> Row:
    """What ``pathnorm.deep.balance`` does to a network that was trained without decay."""
    X = samples(seed)[0]
    rng = np.random.default_rng(seed)
    twin = balance(model, X, biases=True)
    inputs, outputs, _ = sides(name, twin)
    least = squares(twin)
    others = [squares(rescaled(twin, deviation, rng)) for deviation in (0.01, 0.1, 1.0) for _ in range(50)]
    before = sides(name, model)
    with torch.no_grad():
        change = float((twin(X) - model(X)).abs().max())
    return {
        "output_change": change,
        "imbalance": float(np.abs((inputs**2 - outputs**2) / (inputs**2 + outputs**2)).max()),
        "squares_before": squares(model),
        "squares_after": least,
        "least_of_rescalings_over_it": min(others) / least,
        # With one hidden layer the least is known: twice the sum of ||w|| ||v||.
        "over_twice_the_path_norm": least / float(2 * before[0] @ before[1]) if name == "shallow" else None,
    }


def run(scale: Scale) -> Row:
    seeds, total = scale.pick(2, 5, 10), scale.pick(30.0, 600.0, 1_200.0)
    runs, balances = [], []
    for name in NETWORKS:
        for decay in DECAYS:
            for seed in range(seeds):
                model, rows = train(name, decay, seed, total)
                runs.append({"network": name, "decay": decay, "seed": seed, "rows": rows})
                if decay == 0.0:
                    balances.append({"network": name, "seed": seed} | closed_form(name, model, seed))
    steps = STEPS[: scale.pick(2, 4)]
    drifts = {name: [[drift(name, seed, step) for step in steps] for seed in range(seeds)] for name in NETWORKS}
    return summary(runs, balances, drifts, steps)


def summary(
    runs: list[Row], balances: list[Row], drifts: dict[str, list[list[float]]], steps: tuple[float, ...]
) -> Row:
    table, right, said = [], [], []
    for name in NETWORKS:
        last = {decay: _of(runs, name, decay, lambda rows: rows[-1]["log_ratio"]) for decay in DECAYS}
        rates = interval(_of(runs, name, DECAYS[1], lambda rows: rate(rows, DECAYS[1])))
        order = slope(steps, drifts[name])
        worst, loose = max(row[-1] for row in last[DECAYS[1]]), min(row[-1] for row in last[0.0])
        right += [worst < 0.05, loose > 0.1, abs(rates[0] - 1) < 0.05, abs(order[0] - 1) < 0.1]
        table.append(
            {
                "network": name,
                "widths": list(NETWORKS[name]),
                "largest_log_ratio_with_decay": worst,
                "least_largest_log_ratio_without": loose,
                "median_log_ratio": {f"{decay:g}": interval([row[1] for row in last[decay]]) for decay in DECAYS},
                "rate_over_twice_the_decay": rates,
                "drift_without_decay": [interval(column) for column in np.transpose(drifts[name])],
                "order_of_the_drift": order,
            }
        )
        said.append(
            f"{name}: largest |log ratio| {worst:.4f} with decay and {loose:.2f} or more without, rate "
            f"{rates[0]:.3f} [{rates[1]:.3f}, {rates[2]:.3f}] of the predicted, drift of order {order[0]:.3f} "
            f"[{order[1]:.3f}, {order[2]:.3f}] in the step"
        )
    change, imbalance = (max(row[key] for row in balances) for key in ("output_change", "imbalance"))
    least = min(row["least_of_rescalings_over_it"] for row in balances)
    off = max(abs(row["over_twice_the_path_norm"] - 1) for row in balances if row["network"] == "shallow")
    saved = all(row["squares_after"] < row["squares_before"] for row in balances)
    right += [change < 1e-9, imbalance < 1e-8, least > 1.0, off < 1e-9, saved]
    said.append(
        f"closed form: outputs change by {change:.0e}, imbalance {imbalance:.0e}, least random rescaling {least:.6f} "
        f"times it, off twice the path norm by {off:.0e}"
    )
    return {
        "verdict": {
            "holds": bool(all(right)),
            "predicted": "with decay every active neuron balanced to 5 %, differences falling at twice the decay; "
            "without, some out by 10 % or more and differences conserved up to first order in the step; the closed "
            "form is the same function with the least squares",
            "measured": "; ".join(said),
        },
        "samples": SAMPLES,
        "step": STEP,
        "weight_decay": DECAYS[1],
        "active_above": _small.ACTIVE,
        "summary": table,
        "drift_steps": list(steps),
        "closed_form": balances,
        "runs": runs,
    }


def _of(runs: list[Row], name: str, decay: float, read) -> list:  # type: ignore[no-untyped-def]
    return [read(item["rows"]) for item in runs if (item["network"], item["decay"]) == (name, decay)]


def draw(payload: Row, path: Path) -> None:
    figure = new_figure(14.5, 4.6)
    panels = figure.subplots(1, 3)
    for place, name in enumerate(NETWORKS):
        for decay in (0.0, payload["weight_decay"]):
            colour = PALETTE[2 * place] if decay else PALETTE[2 * place + 1]
            label = f"{name}, decay {decay:g}" if decay else f"{name}, no decay"
            runs = [r["rows"] for r in payload["runs"] if (r["network"], r["decay"]) == (name, decay)]
            times = np.array([row["time"] for row in runs[0]])
            low, middle, high = np.mean([[row["log_ratio"][:3] for row in rows] for rows in runs], axis=0).T
            panels[0].fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
            panels[0].plot(times, middle, color=colour, marker=MARKERS[place], markevery=10, label=label)
            left = np.mean([[row["difference"] / rows[0]["difference"] for row in rows] for rows in runs], axis=0)
            panels[1].plot(times, left, color=colour, marker=MARKERS[place], markevery=(5 * place, 10), label=label)
        drifts = np.array(payload["summary"][place]["drift_without_decay"])
        bars = [drifts[:, 0] - np.maximum(drifts[:, 1], 0.1 * drifts[:, 0]), drifts[:, 2] - drifts[:, 0]]
        style = {"color": PALETTE[2 * place + 1], "marker": MARKERS[place], "capsize": 3, "linewidth": 1.2}
        panels[2].errorbar(payload["drift_steps"], drifts[:, 0], bars, label=f"{name}, no decay", **style)
    guide = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2}
    panels[1].plot(times, np.exp(-2 * payload["weight_decay"] * times), label="predicted: exp(-2 decay t)", **guide)
    steps = np.array(payload["drift_steps"])
    panels[2].plot(steps, 0.4 * drifts[0, 0] * steps / steps[0], label="predicted: of first order", **guide)
    panels[0].set(yscale="log", xlabel="time = step times number of steps", ylabel="|log(‖w‖ / ‖v‖)| of active neurons")
    panels[1].set(
        yscale="log", xlabel="time = step times number of steps", ylabel="Σ |‖w‖² - ‖v‖²|, relative to the start"
    )
    panels[2].set(xscale="log", yscale="log", xlabel="step", ylabel=f"drift of ‖w‖² - ‖v‖² at time {DRIFT_TIME:g}")
    panels[2].set_xticks(steps, [f"{value:g}" for value in steps])
    panels[2].minorticks_off()
    titles = (
        "Every neuron: median and middle half",
        "The difference falls at a known rate",
        "Without decay: conserved",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, color=INK, fontsize=11, loc="left")
        dress(panel)
        panel.legend(fontsize=8.5, frameon=False, loc="lower left" if panel is not panels[2] else "upper left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "torch")))
