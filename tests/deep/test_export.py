from __future__ import annotations

import numpy as np
import pytest
import torch

from pathnorm.deep import compress, export
from pathnorm.errors import ExportError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")


@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_onnx_agrees_with_torch_at_any_batch_size(kind, build, sample, tmp_path):
    made = compress(build(kind), sample(kind, 300), params=0.6, batch_size=64)
    path = made.to_onnx(tmp_path / "deep" / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, 4, 17):
        batch = sample(kind, n, seed=n)
        with torch.no_grad():
            expected = made.model(batch).numpy()
        (got,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
    assert [item.name for item in path.parent.iterdir()] == ["model.onnx"]


def test_a_wrong_export_is_refused_and_leaves_nothing(build, sample, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="must agree with torch"):
        export.to_onnx(build("mlp"), sample("mlp", 2), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
