"""
Shrink my network
=================

A trained network is made smaller, from images without labels and without training it again. First comes the whole
curve of error against size, which costs little; then one point of it is cut out for good.
"""

# %%
# The network has two hidden layers of 256 neurons and was trained for a second or two on the handwritten digits of
# scikit-learn.
from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pathnorm
from pathnorm.demo.digits import DigitsMLP, accuracy, load_split, train

split = load_split(seed=0)
model = train(DigitsMLP(), split, seed=0, epochs=10)
print(f"dense: {accuracy(model, split.test_images, split.test_labels):.1%} of {len(split.test_labels)} test images")

# %%
# How small can it get?
# ---------------------
#
# ``frontier`` predicts the error of the outputs for every size, from the moments of the layers. Nothing is
# compressed yet, and no label is read.
found = pathnorm.deep.frontier(model, split.train_images)
figure = found.plot()
plt.show()

# %%
# Cut
# ---
#
# Half of the multiply-accumulates. Neurons are chosen and the remaining weights refitted in closed form, layer by
# layer. The record says of every number whether it is exact, certified or measured.
compression = pathnorm.compress(model, split.train_images, macs=0.5)
print(compression.record)

# %%
# What was lost
# -------------
#
# The prediction beside what was measured on images that were kept back, and the accuracy on test images that
# nothing has seen. The result is a module of the same class, with smaller tensors.
small = compression.model
print(f"predicted error {found.at(macs=0.5).error:.1%}, measured {compression.record.output_error_heldout:.1%}")
for name, network in (("dense", model), ("compressed", small)):
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{name:<11}{size:>7,} parameters, {accuracy(network, split.test_images, split.test_labels):.1%}")

# %%
# Ask for something else
# ----------------------
#
# One of five budgets goes directly to ``pathnorm.compress``: ``params``, ``macs``, ``error``, ``accuracy_drop``,
# ``latency_ms``. Here a tenth of the parameters.
tenth = pathnorm.compress(model, split.train_images, params=0.1)
print(
    f"{tenth.record.params_after:,} of {tenth.record.params_before:,} parameters, "
    f"{accuracy(tenth.model, split.test_images, split.test_labels):.1%} of the test images"
)

# %%
# Keep it
# -------
#
# A compression is saved as safetensors and a JSON recipe, never as pickle. The recipe is replayed on a network of
# your own making.
with tempfile.TemporaryDirectory() as folder:
    tenth.save(Path(folder) / "tenth")
    again = pathnorm.deep.load(DigitsMLP, Path(folder) / "tenth")
    print(sorted(path.name for path in (Path(folder) / "tenth").iterdir()))
with torch.no_grad():
    print("same outputs:", torch.equal(again(split.test_images), tenth.model(split.test_images)))
