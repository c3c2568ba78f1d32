"""The examples run."""

from __future__ import annotations

import runpy
from pathlib import Path

from pathnorm.demo.digits import DigitsMLP

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_train_audit_compress_continue(capsys):
    example = runpy.run_path(str(EXAMPLES / "train_audit_compress_continue.py"), run_name="example")
    found = example["main"](epochs=3, more=2, kind=DigitsMLP)
    printed = capsys.readouterr().out
    assert "what is known" in printed and "parameters after" in printed
    assert found["parameters after"] < 0.3 * found["parameters before"]
    assert min(value for name, value in found.items() if name.startswith("accuracy")) > 0.8
    assert found["accuracy, trained on"] > found["accuracy, compressed"] - 0.02
