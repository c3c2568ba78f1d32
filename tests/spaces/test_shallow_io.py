"""Shallow networks as dictionaries, JSON files and ONNX models."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import pathnorm
from pathnorm.errors import MissingExtraError
from pathnorm.spaces import ShallowNet

NAMES = ("W", "b", "V", "A", "c")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def random_net(seed, neurons=5, inputs=3, outputs=2):
    rng = np.random.default_rng(seed)
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


def same(first, second):
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in NAMES) and all(
        getattr(first, name).shape == getattr(second, name).shape for name in NAMES
    )


@st.composite
def nets(draw):
    neurons, inputs, outputs = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(draw(arrays(np.float64, shape, elements=FLOATS)) for shape in shapes))


@settings(max_examples=50, deadline=None)
@given(net=nets())
def test_every_bit_survives_json(net):
    assert same(ShallowNet.from_dict(json.loads(json.dumps(net.to_dict()))), net)


def test_a_file_holds_the_network_and_no_draft_stays(tmp_path):
    net, path = random_net(0), tmp_path / "new" / "net.json"
    assert net.save(path) == path
    assert same(ShallowNet.load(str(path)), net)
    random_net(1).save(path)
    assert same(ShallowNet.load(path), random_net(1))
    assert [item.name for item in path.parent.iterdir()] == ["net.json"]


def test_a_network_that_is_not_finite_is_not_saved_and_the_old_file_stays(tmp_path):
    path = random_net(0).save(tmp_path / "net.json")
    broken = ShallowNet([[np.nan]], [0.0], [[1.0]], [[0.0]], [0.0])
    with pytest.raises(ValueError, match="finite weights"):
        broken.save(path)
    assert same(ShallowNet.load(path), random_net(0))


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = random_net(0).save(tmp_path / "net.json")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        random_net(1).save(path)
    assert same(ShallowNet.load(path), random_net(0))
    assert [item.name for item in tmp_path.iterdir()] == ["net.json"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b'{"format": "pathnorm.Sha', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "Got 'a list'"),
        (b'{"weights": 1}', "Got \"no 'format'\""),
        (b'{"format": "pickle"}', "Got 'pickle'"),
    ],
)
def test_foreign_files_are_refused(tmp_path, data, message):
    path = tmp_path / "net.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"net\.json must be a network as .*format 'pathnorm.ShallowNet'") as caught:
        ShallowNet.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "must have version 1 .* Got version 2"),
        ({"version": None}, "Got version None"),
        ({"neurons": -1}, "Got neurons = -1"),
        ({"outputs": True}, "Got outputs = True"),
        ({"W": [[1.0, 2.0, 3.0]]}, r"W of the dictionary must be .* shape \(5, 3\). Got shape \(1, 3\)"),
        ({"W": [[1.0], [1.0, 2.0]]}, "rows of unequal length"),
        ({"b": ["1", "2", "3", "4", "5"]}, "b of the dictionary .* not a number"),
        ({"b": [None] * 5}, "not a number"),
        ({"b": None}, "not a number"),
        ({"c": []}, r"Got shape \(0,\)"),
    ],
)
def test_records_that_were_changed_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ShallowNet.from_dict(random_net(0).to_dict() | change)


def test_constants_that_json_lacks_are_refused(tmp_path):
    path = tmp_path / "net.json"
    record = random_net(0, 1, 1, 1).to_dict() | {"c": [float("nan")]}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="NaN is not a number of JSON"):
        ShallowNet.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        ShallowNet.load(tmp_path / "nothing.json")


# ------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("neurons", [0, 1, 5])
@pytest.mark.parametrize("linear", [True, False])
def test_onnxruntime_gives_the_same_outputs(tmp_path, neurons, linear, dtype, tolerance):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    net = random_net(3, neurons)
    if not linear:
        net = ShallowNet(net.W, net.b, net.V, np.zeros_like(net.A), net.c)
    path = net.to_onnx(tmp_path / "net.onnx", dtype=dtype)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for rows in (1, 7):
        X = np.random.default_rng(rows).standard_normal((rows, 3)).astype(dtype)
        outputs = session.run(["y"], {"x": X})[0]
        assert outputs.dtype == dtype
        np.testing.assert_allclose(outputs, net(X), rtol=tolerance, atol=tolerance)


def test_the_graph_has_no_part_that_is_zero(tmp_path):
    onnx = pytest.importorskip("onnx")
    net = random_net(0)
    net = ShallowNet(net.W, net.b, net.V, np.zeros_like(net.A), net.c)
    model = onnx.load(net.to_onnx(tmp_path / "net.onnx"))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "Relu", "MatMul", "Add"]


def test_other_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'float64' or 'float32'; got 'int8'"):
        random_net(0).to_onnx(tmp_path / "net.onnx", dtype="int8")


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pathnorm\[onnx\]'"):
        random_net(0).to_onnx(tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert pathnorm._EXTRA_OF["onnx"] == "onnx"
