"""The experiments on images: payloads that can be written, and the parts they are built from."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch

from benchmarks._harness import data_root
from experiments import real_measurements as real
from experiments._claim import Scale
from experiments.sparse_recovery import HAAR, SIZE, half_way, line_mask, rate_of, sparse_image
from pathnorm.imaging import FourierMRI, Identity


@pytest.mark.experiment
@pytest.mark.parametrize(
    "name", ["sparse_recovery", "real_measurements", "stability_frontier", "implicit_representation"]
)
def test_a_quick_run_says_something(name, tmp_path):
    if name == "real_measurements":
        need_data()
    module = importlib.import_module(f"experiments.{name}")
    payload = module.run(Scale.QUICK)
    json.dumps(payload, allow_nan=False)
    assert set(payload["verdict"]) >= {"holds", "predicted", "measured"}
    module.draw(payload, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def need_data():
    try:
        data_root()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_recovery_is_counted_as_it_is():
    rng = np.random.default_rng(0)
    image = sparse_image(20, rng)
    assert int((HAAR.K(image).abs() > 1e-9).sum()) == 20
    mask = line_mask(0.25, rng)
    assert int(mask.sum()) == 8 * SIZE and bool(mask[:, SIZE // 2].all())
    assert half_way([0.1, 0.2, 0.4], [0.0, 0.25, 0.75]) == pytest.approx(0.3)
    assert half_way([0.1, 0.2], [0.0, 0.2]) == 1.0
    share, low, high = rate_of(5, 10)
    assert share == 0.5 and low == pytest.approx(0.2366, abs=1e-4) and high == pytest.approx(0.7634, abs=1e-4)


def test_parts_of_a_real_scan_do_not_overlap():
    need_data()
    scan = real.brain(np.random.default_rng(0))
    masks = [operator.mask for operator in scan.operators]
    assert not bool((masks[0] & masks[1] | masks[0] & masks[2] | masks[1] & masks[2]).any())
    # The middle makes the image; nothing of it is used to choose or to judge.
    assert bool(masks[0][103:127, 78:102].all())
    assert [round(float(mask.sum() / masks[0].sum()), 1) for mask in masks[1:]] == [0.1, 0.1]
    for mask, y in zip(masks, scan.data, strict=True):
        assert not bool((y * ~mask).any())


def test_errors_of_the_truth_are_zero_and_of_nothing_are_the_size():
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    operator = FourierMRI(mask)
    image = torch.randn(8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    scan = real.Scan("brain", [operator], [operator.A(image)], "samples")
    wrong, size = scan.errors(image, 0)
    assert len(size) == int(mask.sum()) and float(wrong.sum()) < 1e-20
    wrong, size = scan.errors(torch.zeros_like(image), 0)
    torch.testing.assert_close(wrong, size)


def test_tikhonov_is_the_closed_form():
    y = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(real.tikhonov(Identity((6, 6)), y, 0.5, 2.0), y / 4.0 / (0.25 + 0.5))
