"""Four files: they run at any batch size, agree with torch as far as they say, and weigh and take what they say."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pathnorm.deep import compress
from pathnorm.deep.data import Batches, split_batches
from pathnorm.deep.edge import EDGE_FILES, export_edge
from pathnorm.errors import ExportError, MissingExtraError, OutputFolderError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
onnx = pytest.importorskip("onnx", reason="needs the onnx extra")

MODELS = [f"{network}.{precision}" for network in ("dense", "compressed") for precision in ("fp32", "int8")]


def _run(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]


@pytest.fixture(scope="module")
def networks():
    """Two networks that differ in their widths: no compression is needed to export them."""

    def make(width):
        torch.manual_seed(width)
        return nn.Sequential(
            nn.Conv2d(2, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 5)
        ).eval()

    return {"dense": make(24), "compressed": make(6)}


def _data(n=200, shape=(2, 8, 8)):
    data = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    return split_batches(data, heldout=0.3, batch_size=32, seed=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "out"
    return export_edge(networks, _data(), folder, repeats=3), folder


def test_four_files_and_a_record_are_written(exported):
    record, folder = exported
    assert [item.name for item in record.files] == [f"{name}.onnx" for name in MODELS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(EDGE_FILES)
    assert json.loads((folder / "edge.json").read_text()) == record.to_dict()
    assert [item.bytes for item in record.files] == [(folder / item.name).stat().st_size for item in record.files]
    sizes = {item.name.removesuffix(".onnx"): item.bytes for item in record.files}
    assert sizes["compressed.fp32"] < sizes["dense.fp32"] and sizes["dense.int8"] < 0.6 * sizes["dense.fp32"]
    assert (record.samples_calibration, record.samples_check) == (140, 60)


def test_errors_are_those_of_the_files_on_data_kept_back(exported, networks):
    record, folder = exported
    held = torch.cat(list(_data()[1]))
    with torch.no_grad():
        outputs = {name: model(held).numpy().astype(float) for name, model in networks.items()}
    for item in record.files:
        got, wanted = _run(folder / item.name, held), outputs[item.network]
        error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted - wanted.mean(0))
        assert item.error == pytest.approx(error, rel=1e-2, abs=1e-7)
        assert item.agreement == pytest.approx(np.mean(got.argmax(1) == outputs["dense"].argmax(1)))
        assert item.error < (1e-5 if item.precision == "fp32" else 0.1)
        assert (item.error > 1e-4) == (item.precision == "int8")
    assert record.files[0].agreement == 1.0


@pytest.mark.parametrize("name", MODELS)
def test_the_batch_size_is_free(name, exported):
    for n in (1, 7):
        assert _run(exported[1] / f"{name}.onnx", torch.zeros(n, 2, 8, 8)).shape == (n, 5)


def test_int8_has_eight_bit_weights_with_one_scale_per_channel(exported):
    graph = onnx.load(exported[1] / "dense.int8.onnx").graph
    weights = {item.name: item for item in graph.initializer}
    kernels = [item for item in graph.initializer if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 4]
    assert [list(kernel.dims) for kernel in kernels] == [[24, 2, 3, 3]]
    (reader,) = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] == kernels[0].name]
    assert list(weights[reader.input[1]].dims) == [24]


def test_ranges_come_from_all_of_the_calibration_data(networks, tmp_path):
    """One wide sample at its end leaves few of the 256 levels for the others."""
    calibration, check = _data()
    wide = [*calibration, 100.0 * torch.randn(1, 2, 8, 8)]
    wider = Batches(wide.__getitem__, tuple(range(len(wide))), torch.device("cpu"))
    good = export_edge({"dense": networks["dense"]}, (calibration, check), tmp_path / "a", repeats=1)
    bad = export_edge({"dense": networks["dense"]}, (wider, check), tmp_path / "b", repeats=1)
    assert bad.files[1].error > 5 * good.files[1].error
    assert bad.files[0].error == good.files[0].error


def test_latency_is_the_median_of_one_sample_in_turn_after_a_warm_up(networks, tmp_path):
    calls = iter(range(10**6))

    def clock():
        """Every run takes a ms more than the one before; the first twenty are the warm-up of four files."""
        call = next(calls)
        return 1e-3 * (call // 2 + 1) if call % 2 else 0.0

    record = export_edge(networks, _data(), tmp_path / "out", repeats=3, clock=clock)
    assert [item.latency_ms for item in record.files] == pytest.approx([25.0, 26.0, 27.0, 28.0])
    assert (record.latency_batch, record.latency_threads, record.latency_repeats) == (1, 1, 3)


def test_an_operation_that_int8_cannot_do_is_in_the_record(networks, tmp_path, monkeypatch):
    import onnxruntime.quantization as tools

    quantize = tools.quantize_static

    def fail(source, target, *args, **options):
        if "dense" in str(source):
            target.write_text("half")
            raise NotImplementedError("Gelu has no int8 kernel\nand more")
        quantize(source, target, *args, **options)

    monkeypatch.setattr(tools, "quantize_static", fail)
    record = export_edge(networks, _data(), tmp_path / "out", repeats=1)
    failed = record.files[1]
    assert failed.problem.endswith("NotImplementedError: Gelu has no int8 kernel")
    assert (failed.bytes, failed.latency_ms, failed.error, failed.agreement) == (None, None, None, None)
    assert not (tmp_path / "out" / "dense.int8.onnx").exists()
    assert all(item.bytes and item.latency_ms for at, item in enumerate(record.files) if at != 1)
    assert "dense.int8.onnx: onnxruntime could not make or run int8" in str(record)


def test_a_wrong_fp32_file_is_refused_and_leaves_nothing(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("pathnorm.deep.edge._TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"dense.fp32.onnx must agree with torch"):
        export_edge(networks, _data(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_old_files_are_kept_or_replaced_as_a_whole(networks, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "dense.int8.onnx").write_text("of another model")
    with pytest.raises(OutputFolderError):
        export_edge(networks, _data(), folder)
    assert (folder / "dense.int8.onnx").read_text() == "of another model"
    (folder / "compressed.fp32.onnx").write_text("of another model")
    export_edge({"dense": networks["dense"]}, _data(), folder, force=True, repeats=1)
    assert {path.name for path in folder.iterdir()} == {"dense.fp32.onnx", "dense.int8.onnx", "edge.json"}


def test_without_onnxruntime_the_extra_is_named(networks, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*pathnorm\[onnx\]"):
        export_edge(networks, _data(), tmp_path / "out")
    assert "onnxruntime" in sys.modules and not list(tmp_path.iterdir())


def test_the_record_is_a_table_of_four_rows(exported):
    lines = str(exported[0]).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[3:7]] == [f"{name}.onnx" for name in MODELS]
    assert "threads 1" in lines[-1] + lines[-2] and "60 other samples" in str(exported[0])


def test_a_compression_exports_itself_and_what_it_came_from(build, sample, tmp_path):
    model, data = build("mlp"), sample("mlp", 300)
    made = compress(model, data, params=0.6, batch_size=64)
    record = made.edge(tmp_path / "edge", data)
    assert made.dense is model
    assert record.files[0].error < 1e-5 and record.files[0].bytes > record.files[2].bytes
    with torch.no_grad():
        np.testing.assert_allclose(_run(tmp_path / "edge" / "dense.fp32.onnx", data), model(data), atol=1e-4)
        np.testing.assert_allclose(_run(tmp_path / "edge" / "compressed.fp32.onnx", data), made.model(data), atol=1e-4)
    bare = type(made)(made.model, made.record, made.recipe, made.example)
    with pytest.raises(ValueError, match="give dense="):
        bare.edge(tmp_path / "other", data)
