"""
Repair a pruned network
=======================

Another tool has pruned a network, and its accuracy is gone. The weights that are left can be refitted so that every
layer follows the original again: from data without labels, in closed form, without training.
"""

# %%
# A small convolutional network for the handwritten digits of scikit-learn, and a copy of it from which torch's own
# tool removes 85 % of the weights of every layer, the smallest first.
from __future__ import annotations

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.utils import prune

import pathnorm
from pathnorm.demo.digits import DigitsCNN, accuracy, load_split, train

split = load_split(seed=0)
original = train(DigitsCNN(), split, seed=0, epochs=3)


def score(network: nn.Module) -> str:
    """Accuracy on the test images."""
    return f"{accuracy(network, split.test_images, split.test_labels):.1%}"


pruned = copy.deepcopy(original)
for layer in pruned.modules():
    if isinstance(layer, nn.Conv2d | nn.Linear):
        prune.l1_unstructured(layer, "weight", amount=0.85)
print(f"original {score(original)}, pruned {score(pruned)}")

# %%
# Refit
# -----
#
# ``refit`` takes the network before and after, and data. Zeros stay where they are. Of each batch a convolution is
# looked at in 16 positions only, which is enough here.
made = pathnorm.deep.refit(original, pruned, split.train_images, max_positions=16)
print(f"original {score(original)}, pruned {score(pruned)}, refitted {score(made.model)}")

# %%
# The record has the error of every layer before and after, on the data and on some that were held out, and says
# which layers kept their weights and why.
print(made.record)

# %%
# The usual first aid
# -------------------
#
# Where a network has BatchNorm, one can take its statistics anew. It costs as little, and it is what the refit has
# to be compared with.
recalibrated = copy.deepcopy(pruned)
for norm in recalibrated.modules():
    if isinstance(norm, nn.BatchNorm2d):
        norm.reset_running_stats()
        norm.momentum = None
recalibrated.train()
with torch.no_grad():
    recalibrated(split.train_images)
recalibrated.eval()
networks = {"original": original, "pruned": pruned, "BatchNorm anew": recalibrated, "refitted": made.model}
shares = {name: accuracy(network, split.test_images, split.test_labels) for name, network in networks.items()}
print(", ".join(f"{name} {share:.1%}" for name, share in shares.items()))

figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars = axes.barh(list(shares), [100 * share for share in shares.values()], color="#3b7dd8")
axes.bar_label(bars, fmt="%.1f %%", padding=3)
axes.invert_yaxis()
axes.set(xlabel="test accuracy, %", xlim=(0, 112))
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Whole channels
# --------------
#
# The same works for networks from which channels were taken: here half of the rows of the third convolution are set
# to zero.
thinned = copy.deepcopy(original)
prune.ln_structured(thinned.conv3, "weight", amount=0.5, n=2, dim=0)
repaired = pathnorm.deep.refit(original, thinned, split.train_images, max_positions=16)
print(f"original {score(original)}, thinned {score(thinned)}, refitted {score(repaired.model)}")
print("zeros kept:", bool((repaired.model.conv3.weight[thinned.conv3.weight == 0] == 0).all()))
