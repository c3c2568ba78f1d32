"""Shallow networks: values, path norm, shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.spaces import ShallowNet

SEEDS = st.integers(0, 10**6)


def random_net(seed, neurons=5, inputs=3, outputs=2):
    rng = np.random.default_rng(seed)
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, neurons=st.integers(0, 6), inputs=st.integers(1, 4), outputs=st.integers(1, 3))
def test_values_are_those_of_the_naive_sum(seed, neurons, inputs, outputs):
    net = random_net(seed, neurons, inputs, outputs)
    X = np.random.default_rng(seed + 1).standard_normal((7, inputs))
    out = net(X)
    assert out.shape == (7, outputs)
    for i in range(7):
        for j in range(outputs):
            total = net.c[j] + sum(net.A[m, j] * X[i, m] for m in range(inputs))
            for k in range(neurons):
                total += net.V[k, j] * max(sum(net.W[k, m] * X[i, m] for m in range(inputs)) - net.b[k], 0.0)
            assert out[i, j] == pytest.approx(total, abs=1e-12)
    norms = [np.linalg.norm(net.V[k]) * np.linalg.norm(net.W[k]) for k in range(neurons)]
    assert net.path_norm() == pytest.approx(sum(norms), rel=1e-12)
    assert net.n_neurons == neurons


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_path_norm_is_the_least_weight_decay_over_rescalings(seed):
    net = random_net(seed)
    sizes = np.random.default_rng(seed).uniform(0.1, 10.0, 5)
    moved = dataclasses.replace(net, W=net.W * sizes[:, None], b=net.b * sizes, V=net.V / sizes[:, None])
    X = np.random.default_rng(seed).standard_normal((9, 3))
    np.testing.assert_allclose(moved(X), net(X), atol=1e-10)
    assert moved.path_norm() == pytest.approx(net.path_norm(), rel=1e-12)
    assert 0.5 * (np.sum(moved.W**2) + np.sum(moved.V**2)) >= net.path_norm() * (1 - 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": np.zeros(4)}, r"b must have shape \(5,\) .* got \(4,\)"),
        ({"V": np.zeros((2, 5))}, r"V must have shape \(5, 2\) .* got \(2, 5\)"),
        ({"A": np.zeros((2, 3))}, r"A must have shape \(3, 2\) .* got \(2, 3\)"),
        ({"c": np.zeros(3)}, r"V must have shape \(5, 3\)"),
        ({"c": np.zeros((1, 2))}, r"c must have shape \(2,\) .* got \(1, 2\)"),
        ({"W": np.zeros(5)}, r"W must have two dimensions.* got shape \(5,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_net(0), **change)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 4, 3)])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"X must have shape \(N, 3\)"):
        random_net(0)(np.zeros(shape))


def test_nothing_can_be_written_to():
    W = np.ones((1, 1))
    net = ShallowNet(W, [0.0], [[1.0]], [[0.0]], [0.0])
    W[0, 0] = 9.0
    assert net.W[0, 0] == 1.0
    for name in ("W", "b", "V", "A", "c"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(net, name)[0] = 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.W = W
