"""
From a table to a certified network
===================================

A table of patients becomes a ReLU network with one hidden layer, and a proof that no other such network, however
wide, has a smaller value of the same objective. There is no width to choose, no seed to try and no learning rate.
It takes a few seconds.
"""

# %%
# The data are the 442 diabetes patients that come with scikit-learn: ten measurements, and how the disease went on
# a year later. A quarter of them is kept for the test and not looked at before the end.
from __future__ import annotations

from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pathnorm

table = load_diabetes()
X, X_test, y, y_test = train_test_split(table.data, table.target, test_size=0.25, random_state=0)

# %%
# Fit
# ---
#
# ``ReLURegressorCV`` minimises, over all networks of one hidden layer,
#
# ``Σ ½ (y - f(x))² + λ Σ_k ‖v_k‖ ‖w_k‖``
#
# and chooses λ by cross-validation. With ``interactions=2`` a neuron sees at most two of the features. Then the
# certificate is exact in any dimension, and the function can be drawn and read.
model = pathnorm.ReLURegressorCV(interactions=2, random_state=0).fit(X, y)
print(model.summary())

# %%
# What is proved
# --------------
#
# The certificate is a pair of numbers with the optimum in between. It is computed from the network alone, so it
# would be as good for a network from elsewhere. ``scope`` says over what it holds: here over every neuron there is.
certificate = model.certificate_
print(f"primal {certificate.primal:.6f}\ndual   {certificate.dual:.6f}\ngap    {certificate.gap:.1e}")
print(certificate.scope)

# %%
# What is measured
# ----------------
#
# That the network is optimal for its objective says nothing about other patients. For these there is the test set,
# and the usual rivals on it: a linear model, and boosted trees with their defaults.
rivals = {
    "pathnorm, pairs": model,
    "ridge": make_pipeline(StandardScaler(), RidgeCV()).fit(X, y),
    "boosted trees": HistGradientBoostingRegressor(random_state=0).fit(X, y),
}
for name, rival in rivals.items():
    print(f"{name:<16} R² on {len(y_test)} test patients: {rival.score(X_test, y_test):.3f}")

# %%
# On so few and noisy samples a linear model is hard to beat, and cross-validation found that out: what is left of
# the network is an affine part and a few neurons.
#
# Read it
# -------
#
# Each picture is what one feature, or a pair of them, adds to the prediction.
figure = model.plot()

# %%
# And the same as a formula, in the units of the table.
print(model.formula(digits=3))

# %%
# How λ was chosen
# ----------------
#
# The held-out loss along λ, from the largest, where the network is affine, downwards.
path = model.path_
for lam, score, error, neurons in zip(path.lams, path.scores, path.errors, path.n_neurons, strict=True):
    mark = "  <- chosen" if lam == model.lam_ else ""
    print(f"lam {lam:9.1f}   loss {score:7.1f} ± {error:5.1f}   {neurons:5.1f} neurons{mark}")

# %%
# Use it elsewhere
# ----------------
#
# ``network_`` is in the units of the table: plain arrays that can be saved, or turned into a torch module.
network = model.network_
print(network.W.shape, network.V.shape, f"path norm {network.path_norm():.1f}")
