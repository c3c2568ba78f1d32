"""
A series of one variable
========================

One line of a photograph, read from left to right, is a series with flat stretches, ramps and edges. The best
function for it, by the objective of a ReLU network with weight decay, is a linear spline whose knots lie where the
data bend. It is found exactly.
"""

# %%
# The photograph comes with scikit-learn. The line goes through a blurred background and the sharp petals of a
# flower. Gaussian noise is added to it, as of a camera in poor light; so there is a clean series to compare with.
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import pathnorm

photograph = load_sample_image("flower.jpg").mean(axis=2)
row = 300
clean = photograph[row]
x = np.arange(clean.size, dtype=float)
y = clean + np.random.default_rng(0).normal(0.0, 15.0, clean.size)

figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
axes.imshow(photograph, cmap="gray")
axes.axhline(row, color="#e08214")
axes.set(title="The series is the brightness along the line", xticks=[], yticks=[])
plt.show()

# %%
# Fit
# ---
#
# ``BV2RegressorCV`` minimises ``Σ ½ (y - f(x))² + λ TV(f')`` over all functions of one variable. λ is chosen along
# the whole path by Stein's unbiased estimate of the risk, so there is nothing to set. The certificate is over all
# functions.
fit = pathnorm.BV2RegressorCV().fit(x, y)
print(f"{fit.n_knots_} knots for {x.size} samples, lam = {fit.lam_:.3g}")
print(f"relative gap {fit.certificate_.gap:.0e}, scope: {fit.certificate_.scope}")

# %%
# Compare
# -------
#
# The cubic smoothing spline is the classical answer. It is a linear method: it smooths equally everywhere. Its
# parameter is chosen by generalised cross-validation.
smooth = pathnorm.SmoothingSplineRegressor().fit(x, y)
for name, method in (("BV2", fit), ("smoothing spline", smooth)):
    error = np.sqrt(np.mean((method.predict(x) - clean) ** 2))
    print(f"{name:<17} RMSE to the clean series: {error:.2f}")

# %%
# These two numbers are measured, on one series. What is general is the way in which the methods differ: where the
# background is smooth the spline of few knots is quiet, where the petals begin it turns at once.
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
part = slice(0, 330)
axes.plot(x[part], y[part], ".", color="#8a8d93", markersize=3, label="samples")
dense = np.linspace(x[part][0], x[part][-1], 2000)
axes.plot(dense, smooth.predict(dense), color="#e08214", linewidth=1, label="smoothing spline")
axes.plot(dense, fit.predict(dense), color="#3b7dd8", linewidth=1.5, label="BV2")
knots = fit.spline_.knots[fit.spline_.knots <= dense[-1]]
axes.plot(knots, fit.predict(knots), "o", color="#3b7dd8", markersize=4, markerfacecolor="white", label="knots")
axes.set(xlabel="pixel", ylabel="brightness")
axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
plt.show()

# %%
# It is a network
# ---------------
#
# The spline is a ReLU network with one neuron per knot, and the total variation of its slope is the path norm of
# that network.
network = fit.spline_.to_network()
print(f"neurons      {network.n_neurons}")
print(f"TV of slope  {fit.spline_.tv2:.6f}")
print(f"path norm    {network.path_norm():.6f}")
print(f"largest difference of the two functions: {np.abs(network(x[:, None]).ravel() - fit.predict(x)).max():.1e}")
