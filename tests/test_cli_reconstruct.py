"""``pathnorm reconstruct``: what goes where, what is written, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pathnorm import cli
from pathnorm.imaging import FourierMRI, Radon, SparseProblem, reconstruct
from pathnorm.imaging.regularizers import TotalVariation

SHAPE = (16, 16)


def image():
    found = np.zeros(SHAPE)
    found[3:12, 4:10] = 1.0
    return torch.from_numpy(found)


@pytest.fixture
def sinogram(tmp_path):
    angles = np.linspace(0.0, np.pi, 12, endpoint=False)
    y = Radon(SHAPE, angles, detectors=23).A(image()).numpy()
    np.savez(tmp_path / "s.npz", sinogram=y, angles=angles)
    return tmp_path / "s.npz"


@pytest.fixture
def kspace(tmp_path):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, [1, 4, *range(5, 12), 14]] = True
    rows, columns = np.mgrid[:16, :16] / 16.0
    coils = np.stack([np.cos(rows), np.sin(rows) * np.exp(1j * columns)])
    y = FourierMRI(torch.from_numpy(mask), torch.from_numpy(coils)).A(image().to(torch.complex128)).numpy()
    np.savez(tmp_path / "k.npz", ksp=y)
    return tmp_path / "k.npz"


def run(capsys, *argv):
    status = cli.main([str(part) for part in argv])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_an_image_its_record_and_its_picture_are_written(sinogram, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ("reconstruct", sinogram, "--operator", "radon", "--image-size", "16x16", "--lam", "1e-3")
    status, text, talk = run(capsys, *argv, "--tol", "1e-4", "--out", out)
    assert status == 0 and "gap" in text and "written to" in talk
    assert sorted(path.name for path in out.iterdir()) == ["image.npz", "image.png", "record.json"]
    record = json.loads((out / "record.json").read_text())
    assert record["gap"]["value"] <= 1e-4 and record["optimum_at_least"]["kind"] == "certified"
    with np.load(out / "image.npz") as kept, np.load(sinogram) as given:
        found, dual = torch.from_numpy(kept["image"]), torch.from_numpy(kept["dual_0"])
        operator = Radon(SHAPE, given["angles"], detectors=23)
        problem = SparseProblem(
            operator, torch.from_numpy(given["sinogram"]), operator.norm(), (TotalVariation(),), 1e-3
        )
    assert float((found - image()).norm() / image().norm()) < 0.05
    # The bound can be computed again from the files alone.
    assert problem.certify(found, [dual]).dual == pytest.approx(record["optimum_at_least"]["value"], rel=1e-9)


def test_the_answer_is_that_of_the_library(kspace, capsys):
    argv = ("reconstruct", kspace, "--operator", "mri", "--regularizer", "wavelet", "--wavelet", "haar")
    status, text, _ = run(capsys, *argv, "--lam", "0.01", "--tol", "1e-6", "--json")
    record = json.loads(text)["record"]
    with np.load(kspace) as given:
        y = torch.from_numpy(given["ksp"])
    from pathnorm.imaging import estimate_coils

    operator = FourierMRI((y != 0).any(0), estimate_coils(y))
    expected = reconstruct(y, operator, "wavelet", 0.01, wavelet="haar", tol=1e-6)
    assert status == 0
    assert record["value"]["value"] == expected.certificate.primal
    assert record["objective"] == expected.objective


def test_a_rule_for_lam_needs_the_noise(sinogram, capsys):
    argv = ("reconstruct", sinogram, "--operator", "radon", "--image-size", "16x16")
    status, _, talk = run(capsys, *argv)
    assert status == 2 and "--noise" in talk
    status, text, _ = run(capsys, *argv, "--noise", "0.05", "--json")
    assert status == 0 and json.loads(text)["record"]["misfit"]["value"] <= 0.05 * np.sqrt(12 * 23)


def test_what_is_wrong_is_said(sinogram, kspace, tmp_path, capsys):
    status, _, talk = run(capsys, "reconstruct", tmp_path / "no.npz", "--operator", "mri", "--lam", "1")
    assert status == 2 and "no.npz" in talk
    status, _, talk = run(capsys, "reconstruct", sinogram, "--operator", "mri", "--lam", "1")
    assert status == 1 and "ksp" in talk
    status, _, talk = run(capsys, "reconstruct", kspace, "--operator", "mri", "--lam", "none")
    assert status == 2 and "positive number" in talk
    out = tmp_path / "full"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    argv = ("reconstruct", kspace, "--operator", "mri", "--lam", "0.1", "--out", out)
    status, _, talk = run(capsys, *argv)
    assert status == 1 and "--force" in talk and sorted(path.name for path in out.iterdir()) == ["mine.txt"]
