"""
X-ray of my network
===================

A trained network says more than its accuracy: which neurons do nothing, how many each layer needs, and how fast the
outputs can change. ``pathnorm.audit`` reads all of it off in one pass over data without labels, and says of each
number whether it is exact, proved or only measured.
"""

# %%
# Two networks of the same shape learn the handwritten digits of scikit-learn, one with weight decay and one
# without.
from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import pathnorm

torch.manual_seed(0)
digits = load_digits()
pixels = digits.data / 8.0 - 1.0
parts = train_test_split(pixels, digits.target, test_size=500, random_state=0, stratify=digits.target)
images, test_images = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
labels, test_labels = (torch.tensor(part) for part in parts[2:])


def trained(decay: float) -> nn.Module:
    """A network of two hidden layers, trained by gradient descent with momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(20):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    """Share of the test images that get the right answer."""
    with torch.no_grad():
        return float((model(test_images).argmax(dim=1) == test_labels).float().mean())


networks = {decay: trained(decay) for decay in (0.0, 3e-3)}
for decay, network in networks.items():
    print(f"weight decay {decay:g}: {accuracy(network):.1%} of {len(test_labels)} test images")

# %%
# Both are about as accurate. Now look inside.
records = {decay: pathnorm.audit(network, images) for decay, network in networks.items()}
print(records[3e-3])

# %%
# In plain sentences
# ------------------
#
# The summary says what follows from the numbers, and how sure that is.
for finding in records[3e-3].summary:
    print("-", finding.text)

# %%
# What weight decay did
# ---------------------
#
# A neuron is balanced if its input weights are as long as its output weights. Weight decay drives every neuron
# there, and then half the sum of squares is the path norm, a sparse penalty. The audit has the numbers for each
# layer.
for decay, record in records.items():
    for group in record.groups:
        needed = group.reconstruction.predicted[-1] if group.reconstruction is not None else None
        width = "" if needed is None else f", {needed.width} neurons for {needed.error:.0%} error in its own outputs"
        print(f"decay {decay:g}, {group.name}: path norm {group.path_norm:.1f}, {group.active} active{width}")

# %%
# The figure of the record, for the network that was trained with weight decay.
figure = records[3e-3].plot()
plt.show()

# %%
# Nothing was changed. To act on what the audit found, go on with the next tutorial. The same from a shell, with a
# page that can be kept: ``pathnorm audit my_models.py:build --weights weights.safetensors --data inputs.npy --out
# audit``.
