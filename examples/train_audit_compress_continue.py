# %% [markdown]
# # Train, audit, compress, continue
#
# A network for handwritten digits is trained under the path norm, looked at, made smaller and trained
# on. Run it as a script, `python examples/train_audit_compress_continue.py`, or cell by cell in an
# editor that knows `# %%`. It needs `pip install 'pathnorm[torch]'` and takes a few minutes on one
# core.

# %%
from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import nn

import pathnorm
from pathnorm.deep import PathProx, lam_from_weight_decay
from pathnorm.demo.digits import DigitsCNN, DigitsSplit, accuracy, load_split

# %% [markdown]
# ## Train
#
# `PathProx` goes around any optimiser. After every step it shrinks each neuron by the proximal map of
# `lam ‖v‖ ‖w‖`, which sets whole neurons to zero. `lam_from_weight_decay` says which `lam` belongs to
# a weight decay that one would have used.


# %%
def train(model: nn.Module, split: DigitsSplit, *, epochs: int, decay: float, rate: float, seed: int = 0) -> None:
    """Train ``model`` in place under the path norm that belongs to a weight decay."""
    schedule = lam_from_weight_decay(model, split.train_images[:2], decay)
    inner = torch.optim.SGD(schedule.param_groups(model), lr=rate, momentum=0.9)
    optimizer = PathProx(inner, model, split.train_images[:2], schedule.lam)
    steps = epochs * -(-len(split.train_images) // 64)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(split.train_images), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(split.train_images[rows]), split.train_labels[rows]).backward()
            optimizer.step()
            scheduler.step()
    model.eval()


# %% [markdown]
# ## All four steps
#
# `audit` reads the trained network and changes nothing: how many neurons still do something, how
# balanced they are, how many the outputs of each layer need. `compress` then removes what is not
# needed within an error on data without labels, and says what it proved and what it measured. The
# result is a module of the same class with smaller tensors, so training goes on as it began, with a
# smaller step.


# %%
def main(epochs: int = 30, more: int = 10, kind: type[nn.Module] = DigitsCNN) -> dict[str, float]:
    """Run the example and return the test accuracies and sizes it prints."""
    split = load_split(seed=0)
    torch.manual_seed(0)
    model = kind()
    train(model, split, epochs=epochs, decay=2e-3, rate=0.05)

    audit = pathnorm.audit(model, split.train_images)
    print(audit)

    compression = pathnorm.compress(model, split.train_images, macs=0.2, seed=0)
    print(compression.record)

    small = compression.model
    before = accuracy(small, split.test_images, split.test_labels)
    train(small, split, epochs=more, decay=2e-3, rate=0.01)
    again = pathnorm.audit(small, split.train_images)

    found = {
        "accuracy, trained": accuracy(model, split.test_images, split.test_labels),
        "accuracy, compressed": before,
        "accuracy, trained on": accuracy(small, split.test_images, split.test_labels),
        "parameters before": sum(p.numel() for p in model.parameters()),
        "parameters after": sum(p.numel() for p in small.parameters()),
        "path norm before": pathnorm.deep.path_norm(model, split.train_images[:2]).total,
        "path norm after": pathnorm.deep.path_norm(small, split.train_images[:2]).total,
    }
    print("\n".join(finding.text for finding in again.summary))
    for name, value in found.items():
        print(f"{name:24}{value:.4g}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train, audit, compress, continue on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--more", type=int, default=10, help="epochs after the compression")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.more)
