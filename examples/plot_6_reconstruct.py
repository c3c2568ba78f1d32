"""
Reconstruct an image
====================

A tomograph measures line integrals, and few of them if the dose is to be low. Many images fit such measurements
equally well. The one of least total variation is found here, with a proof that no image has a smaller objective.
"""

# %%
# The photograph comes with scikit-learn; a part of it serves as a slice of the body. Forty views are taken of it, where
# about a hundred and fifty would be needed to determine it, and noise is added.
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image

from pathnorm.imaging import Radon, reconstruct

photograph = load_sample_image("china.jpg").mean(axis=2) / 255.0
truth = torch.from_numpy(photograph[120:312:2, 180:372:2].copy())
operator = Radon(truth.shape, np.linspace(0.0, np.pi, 40, endpoint=False))
noise = 0.3
clean = operator.A(truth)
y = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
print(
    f"{y.numel()} measurements of {truth.numel()} pixels, noise {noise / float(clean.abs().mean()):.1%} of their mean"
)

# %%
# Reconstruct
# -----------
#
# The weight of the total variation is chosen from the measurements: the largest with which the image fits them as well
# as their noise allows. What is printed is the objective, and a bound below which no image can come.
found = reconstruct(y, operator, "tv", "discrepancy", noise=noise, tol=1e-4)
print(found)

# %%
# Without any sparsity the same objective is least squares. Landweber's steps towards it stand for that; thirty are
# about the best here, which nobody could know without the truth.
plain = torch.zeros_like(truth)
for _ in range(30):
    plain = plain - operator.A_adjoint(operator.A(plain) - y) / operator.norm() ** 2


def psnr(image: torch.Tensor) -> float:
    """Peak signal to noise ratio in decibels, of an image in [0, 1]."""
    return float(-10.0 * torch.log10((image - truth).square().mean()))


figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
titles = ("truth", f"least squares, stopped: {psnr(plain):.1f} dB", f"total variation: {psnr(found.image):.1f} dB")
for panel, image, title in zip(panels, (truth, plain, found.image), titles, strict=True):
    panel.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
    panel.set(xticks=[], yticks=[])
    panel.set_title(title, fontsize=10)
plt.show()

# %%
# What is proved, and what is not
# -------------------------------
#
# The gap proves that the image is optimal for this objective. It does not prove that the image is the truth. What the
# measurements cannot see, the null space of the operator, was filled in by the regulariser alone; how large that part
# of the error is can be said here because the truth is known.
error = found.image - truth
seen = error.clone()
for _ in range(200):
    seen = seen - operator.A_adjoint(operator.A(seen)) / operator.norm() ** 2
print(f"of the squared error, {float((seen.norm() / error.norm()) ** 2):.0%} is nearly invisible to the operator")
