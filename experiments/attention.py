"""A function-space audit of a small transformer: weight decay balances the factors of value and output, and thins them.

The heads of an attention layer write ``O_h V_h``, a product of two matrices. The smallest ``1/2 (||O||_F^2 +
||V||_F^2)`` of a product is its nuclear norm, reached iff both factors are balanced (Srebro, Rennie, Jaakkola 2004):
decay of the factors is a sparse penalty on the map, as for the neurons of a feed-forward layer (Parhi and Nowak 2023).
At a stationary point of loss plus decay ``O_h'O_h = V_h V_h'``, whatever the optimiser; the biases of V are left out.

Tiny GPTs learn the bytes of the standard library's sources under Adam without decay, with decay in the loss (L2), and
with AdamW, whose decay bypasses Adam's scaling and has no such stationary points; equal seeds share start and batches.
Over training, by layer: ``|log(||V_h|| / ||O_h||)|`` averaged over heads; the excess ``1/2 (||O||^2 + ||V||^2) /
||O V||_* - 1``; the effective rank of ``O_h V_h`` (exponential of the entropy of its singular values); path norm
(``pathnorm.deep.neuron_norms``), balance and effective rank of the feed-forward block.

Predicted before measuring, for L2 against no decay at the end of training, averaged over layers and seeds: the log
ratio is less than half, the excess is less than half, the effective rank is smaller, each with a 95 % interval of the
paired difference on one side of zero. It could fail: training is short, and decay may act too slowly. For AdamW and for
the feed-forward blocks nothing is predicted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._small_models import GPT, sources
from experiments._claim import Row, Scale, interval, main
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neuron_norms, neurons_of
from pathnorm.deep.regularize import live_state
from pathnorm.report.style import INK, PALETTE, dress, new_figure

NAME = "attention"
ARMS = {"no decay": 0.0, "L2 in the loss": 1e-3, "AdamW": 0.1}
RATE, BATCH = 2e-3, 16
KEYS = ("log_ratio", "excess", "effective_rank", "ffn_imbalance", "ffn_path_norm", "ffn_effective_rank")
HALF = 0.5
LIMITS = (
    "Softmax: the path norm says nothing about which positions are attended to; only value and output are audited.",
    "LayerNorm: the network does not change when what is in front of it is scaled, so norms of whole blocks compare "
    "functions only together with its gains, which are not decayed here.",
    "GELU is not positively homogeneous: neurons cannot be rescaled, balance of a feed-forward block is no consequence "
    "of decay, and its path norm is a number about weights, not the norm of a function.",
    "Biases of the value projection are not part of the product and are not decayed.",
    "Two layers of width 48 and 400 steps, at the end of which the learning rate is zero and nothing is stationary: "
    "what would be balanced after long training is not shown, and nothing follows for large models.",
)


def effective_rank(matrix: Tensor) -> float:
    """Exponential of the entropy of the singular values over their sum (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals(matrix.double())
    share = values / values.sum()
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-300))).sum()))


def head_facts(value: Tensor, out: Tensor) -> Row:
    """Balance, excess over the nuclear norm and effective rank of one head: V (h, width), O (width, h)."""
    value, out = value.double(), out.double()
    nuclear = float(torch.linalg.svdvals(out @ value).sum())
    half = 0.5 * float(value.square().sum() + out.square().sum())
    return {
        "log_ratio": abs(float(torch.log(value.norm() / out.norm()))),
        "excess": half / nuclear - 1.0,
        "effective_rank": effective_rank(out @ value),
    }


@torch.no_grad()
def audit(model: GPT, groups: tuple[NeuronGroup, ...]) -> list[Row]:
    """One row per layer."""
    state = live_state(model)
    norms = {group.name: neuron_norms(group, state) for group in groups if group.name.endswith("up")}
    rows = []
    for index, block in enumerate(model.blocks):
        attention = block.attention
        size = attention.head_dim
        heads = [
            head_facts(attention.value.weight[start : start + size], attention.out.weight[:, start : start + size])
            for start in range(0, attention.value.weight.shape[0], size)
        ]
        row: Row = {key: float(np.mean([head[key] for head in heads])) for key in KEYS[:3]}
        neurons = norms[f"blocks.{index}.up"]
        row["ffn_imbalance"] = float(torch.log(neurons.inputs / neurons.outputs).abs().mean())
        row["ffn_path_norm"] = float(neurons.masses.sum())
        row["ffn_effective_rank"] = effective_rank(block.up.weight)
        rows.append(row)
    return rows


def batch_of(text: Tensor, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of the text and what follows each of their bytes."""
    starts = torch.randint(text.numel() - context, (BATCH,), generator=generator)
    windows = text[starts[:, None] + torch.arange(context + 1)].long()
    return windows[:, :-1], windows[:, 1:]


def groups_of(sizes: Row) -> tuple[NeuronGroup, ...]:
    """The neuron groups of the architecture, which are the same for all weights."""
    model = GPT(width=sizes["width"], heads=sizes["heads"], depth=sizes["depth"])
    return neurons_of(model, torch.zeros(2, sizes["context"], dtype=torch.int64)).groups


def train(arm: str, seed: int, text: tuple[Tensor, Tensor], sizes: Row) -> list[Row]:
    """Train one GPT; facts by layer at the start, at the end and in between."""
    torch.manual_seed(seed)
    model = GPT(width=sizes["width"], heads=sizes["heads"], depth=sizes["depth"])
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    kind = torch.optim.AdamW if arm == "AdamW" else torch.optim.Adam
    optimizer = kind(
        [{"params": matrices, "weight_decay": ARMS[arm]}, {"params": vectors, "weight_decay": 0.0}], lr=RATE
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=sizes["steps"], pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    found: list[Row] = []
    for step in range(sizes["steps"] + 1):
        if step % max(1, sizes["steps"] // sizes["looks"]) == 0 or step == sizes["steps"]:
            found.append(
                {"step": step, "test_loss": test_loss(model, text[1], sizes), "layers": audit(model, sizes["groups"])}
            )
        if step == sizes["steps"]:
            break
        inputs, targets = batch_of(text[0], sizes["context"], generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return found


@torch.no_grad()
def test_loss(model: GPT, text: Tensor, sizes: Row) -> float:
    """Cross-entropy per byte, in nats, of fixed windows of files that were not trained on."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(sizes["test_batches"]):
        inputs, targets = batch_of(text, sizes["context"], generator)
        found.append(float(F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())))
    return float(np.mean(found))


# ---------------------------------------------------------------------------- run
def run(scale: Scale) -> Row:
    """Train all arms with all seeds."""
    sizes = {
        "width": scale.pick(16, 48, 64),
        "heads": scale.pick(2, 4),
        "depth": 2,
        "context": scale.pick(16, 32, 128),
        "steps": scale.pick(20, 400, 2_000),
        "looks": scale.pick(1, 8),
        "test_batches": scale.pick(1, 8, 64),
    }
    train_text, held_text, facts = sources()
    groups = groups_of(sizes)
    rows = [
        {"arm": arm, "seed": seed, "looks": train(arm, seed, (train_text, held_text), sizes | {"groups": groups})}
        for arm in ARMS
        for seed in range(scale.pick(1, 3, 5))
    ]
    table, differences = summary(rows)
    return {
        "verdict": verdict(table, differences),
        "limits": list(LIMITS),
        "data": facts,
        **sizes,
        "weight_decay": ARMS,
        "at_the_end": table,
        "decay_minus_none": differences,
        "rows": rows,
    }


def summary(rows: list[Row]) -> tuple[dict[str, Row], dict[str, list[float]]]:
    """Facts at the end by arm, and the paired differences of L2 and no decay, with intervals over seeds."""
    ends = {arm: [row["looks"][-1] for row in rows if row["arm"] == arm] for arm in ARMS}
    table = {
        arm: {key: interval([_mean(look, key) for look in looks]) for key in KEYS}
        | {"test_loss": interval([look["test_loss"] for look in looks])}
        for arm, looks in ends.items()
    }
    differences = {
        key: interval(
            [_mean(a, key) - _mean(b, key) for a, b in zip(ends["L2 in the loss"], ends["no decay"], strict=True)]
        )
        for key in KEYS
    }
    return table, differences


def _mean(look: Row, key: str) -> float:
    return float(np.mean([layer[key] for layer in look["layers"]]))


def verdict(table: dict[str, Row], differences: dict[str, list[float]]) -> Row:
    """Half the imbalance, half the excess, a smaller rank, and all three beyond the spread of the seeds."""
    plain, decayed = table["no decay"], table["L2 in the loss"]
    ratio = {key: decayed[key][0] / plain[key][0] for key in KEYS}
    sure = {key: differences[key][2] < 0.0 for key in KEYS[:3]}
    found = {
        "balance_holds": bool(ratio["log_ratio"] < HALF and sure["log_ratio"]),
        "nuclear_norm_holds": bool(ratio["excess"] < HALF and sure["excess"]),
        "rank_holds": bool(sure["effective_rank"]),
    }
    cells = "; ".join(
        f"{arm}: log ratio {item['log_ratio'][0]:.4f}, excess {item['excess'][0]:.3f}, effective rank "
        f"{item['effective_rank'][0]:.2f}, path norm {item['ffn_path_norm'][0]:.1f}, loss {item['test_loss'][0]:.3f}"
        for arm, item in table.items()
    )
    return {
        "holds": all(found.values()),
        **found,
        "all_three_fall_beyond_the_spread_of_seeds": all(sure.values()),
        "predicted": "with L2 in the loss value and output are balanced (log ratio and excess over the nuclear norm "
        "less than half of those without decay) and the effective rank of their product is smaller",
        "measured": f"L2 over no decay: log ratio {ratio['log_ratio']:.2f}, excess {ratio['excess']:.2f}, effective "
        f"rank {ratio['effective_rank']:.3f}; {sum(sure.values())} of 3 differences beyond the spread of seeds. "
        + cells,
    }


# ---------------------------------------------------------------------------- figure
def draw(payload: Row, path: Path) -> None:
    """Over training, means of the seeds, one line per arm and layer."""
    figure = new_figure(13.0, 6.4)
    panels = figure.subplots(2, 3)
    titles = {
        "log_ratio": "|log(‖V‖ / ‖O‖)|, mean over heads",
        "excess": "½(‖O‖² + ‖V‖²) over the nuclear norm, - 1",
        "effective_rank": "effective rank of O V, per head",
        "ffn_imbalance": "feed-forward: |log(‖w‖ / ‖v‖)|",
        "ffn_path_norm": "feed-forward: path norm",
        "ffn_effective_rank": "feed-forward: effective rank of W",
    }
    for panel, key in zip(panels.flat, KEYS, strict=True):
        for index, arm in enumerate(payload["weight_decay"]):
            runs = [row["looks"] for row in payload["rows"] if row["arm"] == arm]
            steps = [look["step"] for look in runs[0]]
            for layer in range(payload["depth"]):
                values = np.array([[look["layers"][layer][key] for look in looks] for looks in runs])
                panel.plot(
                    steps,
                    values.mean(0),
                    color=PALETTE[index],
                    linestyle=("-", (0, (1, 1)))[layer % 2],
                    label=f"{arm}, layer {layer + 1}",
                )
        panel.set_title(titles[key], color=INK, fontsize=10, loc="left")
        dress(panel)
    for panel in panels[-1]:
        panel.set_xlabel("step")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main(NAME, __doc__, run, draw, packages=("pathnorm", "numpy", "scipy", "torch")))
