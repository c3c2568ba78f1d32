"""Shallow networks out of torch modules, and back."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import MissingExtraError
from pathnorm.spaces import ShallowNet

torch = pytest.importorskip("torch")
nn = torch.nn

SEEDS = st.integers(0, 10**6)


def random_net(seed, neurons=5, inputs=3, outputs=2, *, linear=True):
    rng = np.random.default_rng(seed)
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    W, b, V, A, c = (rng.standard_normal(shape) for shape in shapes)
    return ShallowNet(W, b, V, A if linear else np.zeros_like(A), c)


def block(inputs=3, neurons=5, outputs=2, **options):
    return nn.Linear(inputs, neurons, **options), nn.ReLU(), nn.Linear(neurons, outputs, **options)


def outputs_of(module, X):
    with torch.no_grad():
        return module(torch.tensor(X)).numpy()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, neurons=st.integers(0, 6), inputs=st.integers(1, 4), outputs=st.integers(1, 3), linear=st.booleans())
def test_there_and_back_is_the_same_network(seed, neurons, inputs, outputs, linear):
    net = random_net(seed, neurons, inputs, outputs, linear=linear)
    module = net.to_torch()
    X = np.random.default_rng(seed).standard_normal((7, inputs))
    np.testing.assert_allclose(outputs_of(module, X), net(X), rtol=1e-12, atol=1e-12)
    back = ShallowNet.from_torch(module)
    for name in ("W", "b", "V", "A", "c"):
        np.testing.assert_array_equal(getattr(back, name), getattr(net, name))
    assert back.path_norm() == net.path_norm()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        nn.Sequential,
        lambda *layers: nn.Sequential(nn.Sequential(*layers[:2]), nn.Sequential(nn.Identity(), layers[2])),
        lambda *layers: nn.Sequential(nn.Flatten(), layers[0], nn.Dropout(0.0), *layers[1:]),
        lambda *layers: nn.Sequential(layers[0], layers[1], nn.Dropout(0.5), layers[2]).eval(),
    ],
)
def test_a_module_is_read_as_it_computes(wrap, bias):
    module = wrap(*block(bias=bias, dtype=torch.float64))
    X = np.random.default_rng(0).standard_normal((9, 3))
    net = ShallowNet.from_torch(module)
    np.testing.assert_allclose(net(X), outputs_of(module, X), atol=1e-13)
    assert not net.A.any()


def test_single_precision_is_copied_exactly():
    layers = block()
    net = ShallowNet.from_torch(nn.Sequential(*layers))
    np.testing.assert_array_equal(net.W.astype(np.float32), layers[0].weight.detach().numpy())
    with torch.no_grad():
        layers[0].weight.zero_()
    assert net.W.any()


def test_a_parametrised_layer_is_read_with_the_weights_that_it_uses():
    layers = block(dtype=torch.float64)
    torch.nn.utils.parametrizations.weight_norm(layers[0])
    module = nn.Sequential(*layers)
    X = np.random.default_rng(0).standard_normal((9, 3))
    np.testing.assert_allclose(ShallowNet.from_torch(module)(X), outputs_of(module, X), atol=1e-13)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Reversed(nn.Sequential):
    def forward(self, x):
        return super().forward(-x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), r"Got Tanh \(layer 1\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU6(), nn.Linear(3, 1)), r"Got ReLU6 \(layer 1\)"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3))), r"Got Conv2d \(layer 0\.0\)"),
        (nn.Sequential(*block(), nn.ReLU()), r"Got Linear \(layer 0\), ReLU \(layer 1\), .* ReLU \(layer 3\)"),
        (nn.Sequential(), "Got no layer"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "must be Linear, ReLU, Linear"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1)), "Got 3 outputs and 4 inputs"),
        (nn.Sequential(nn.Dropout(0.5), *block()), r"Dropout\(p=0.5, inplace=False\) in training mode \(layer 0\)"),
        (nn.Sequential(nn.Flatten(0), *block()), r"start_dim=0.*\(layer 0\)"),
        (nn.Sequential(Doubled(2, 3), nn.ReLU(), nn.Linear(3, 1)), r"Got Doubled \(layer 0\)"),
        (Reversed(*block()), r"Got Reversed \(the module\)"),
        (nn.ModuleList(block()), r"Got ModuleList \(the module\)"),
        ("a file", "Got an object of type str"),
    ],
)
def test_everything_else_is_refused_by_name(module, message):
    with pytest.raises(ValueError, match=message):
        ShallowNet.from_torch(module)


def test_the_module_is_plain_torch():
    net = random_net(0, linear=False)
    assert type(net.to_torch()) is nn.Sequential
    assert type(random_net(0, neurons=0).to_torch()) is nn.Linear
    module = random_net(0).to_torch()
    assert set(module.state_dict()) == {"hidden.weight", "hidden.bias", "output.weight", "output.bias", "skip.weight"}
    assert all(part.dtype == torch.float64 and part.requires_grad for part in module.parameters())
    X = np.random.default_rng(1).standard_normal((4, 3))
    np.testing.assert_array_equal(outputs_of(pickle.loads(pickle.dumps(module)), X), outputs_of(module, X))
    exported = torch.export.export(module, (torch.tensor(X),)).module()
    np.testing.assert_array_equal(outputs_of(exported, X), outputs_of(module, X))


def test_neither_weights_nor_the_random_state_are_shared():
    net, state = random_net(0), torch.get_rng_state()
    module = net.to_torch()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        module.hidden.weight.zero_()
    assert net.W.any()


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pathnorm\[torch\]'"):
        random_net(0).to_torch()
