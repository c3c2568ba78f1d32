"""In one dimension the path norm of a network whose kinks differ is the total variation of its derivative, TV².

``f'' = sum_k v_k |w_k| delta(x - b_k / w_k)``, so that ``TV(f') = sum_k |v_k| |w_k|``; neurons that share a kink may
cancel, and then the path norm is larger [Savarese, Evron, Soudry, Srebro 2019; Parhi & Nowak 2021].
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neuron_norms, neurons_of
from pathnorm.deep.regularize import PathNormRegularizer


@pytest.fixture(scope="module")
def group() -> NeuronGroup:
    """The hidden neurons of one shallow network; traced once, read with any weights."""
    (found,) = neurons_of(nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1)), torch.zeros(2, 1)).groups
    return found


def state_of(w, bias, v):
    return {
        "0.weight": torch.from_numpy(w[:, None]),
        "0.bias": torch.from_numpy(bias),
        "2.weight": torch.from_numpy(v[None]),
    }


def variation_of_the_derivative(w, bias, v):
    """Slopes between all kinks, from values of the function alone."""
    kinks = np.sort(-bias / w)
    ends = np.concatenate(([kinks[0] - 1.0], kinks, [kinks[-1] + 1.0]))
    left, right = ends[:-1] + 0.25 * np.diff(ends), ends[:-1] + 0.75 * np.diff(ends)

    def f(x):
        return np.maximum(np.outer(x, w) + bias, 0.0) @ v

    return float(np.abs(np.diff((f(right) - f(left)) / (right - left))).sum())


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_path_norm_is_the_variation_of_the_slope(seed, group):
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.2, 2.0, 6) * rng.choice([-1.0, 1.0], 6)
    kinks = rng.permutation(6) + rng.uniform(0.0, 0.8, 6)
    bias, v = -w * kinks, rng.standard_normal(6)
    norm = float(neuron_norms(group, state_of(w, bias, v)).masses.sum())
    assert norm == pytest.approx(variation_of_the_derivative(w, bias, v), rel=1e-8)


def test_neurons_with_one_kink_may_cancel_and_then_the_norm_is_larger(group):
    w, v = np.array([1.0, 1.0, 1.0, -1.0, 2.0, 1.0]), np.array([1.0, -1.0, 0.5, 0.5, 1.0, 1.0])
    kinks = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    distinct = kinks + 0.01 * np.arange(6)
    norm = float(neuron_norms(group, state_of(w, -w * kinks, v)).masses.sum())
    assert norm == pytest.approx(6.0)
    assert variation_of_the_derivative(w, -w * distinct, v) == pytest.approx(6.0, rel=1e-6)
    # Keep one point of every kink: the two that cancel are gone.
    assert variation_of_the_derivative(w[2:], -(w * kinks)[2:], v[2:]) == pytest.approx(4.0, rel=1e-9)
    everywhere = np.linspace(-1, 5, 601)
    f = np.maximum(np.outer(everywhere, w) - w * kinks, 0.0) @ v
    assert np.abs(np.diff(f, 2)).sum() / 0.01 == pytest.approx(4.0, rel=1e-6)


def test_the_penalty_of_a_torch_network_is_that_number():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    w, bias = (p.detach().numpy() for p in (model[0].weight[:, 0], model[0].bias))
    expected = variation_of_the_derivative(w, bias, model[2].weight[0].detach().numpy())
    assert float(PathNormRegularizer(model, torch.zeros(2, 1, dtype=torch.float64))().detach()) == pytest.approx(
        expected
    )
