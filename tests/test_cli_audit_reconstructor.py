"""``pathnorm audit-reconstructor``, and the operators that files of arrays describe."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pathnorm import cli, imaging
from pathnorm.cli.operator_arguments import (
    add_operator_arguments,
    images_from,
    measurements_from,
    operator_from,
    read_arrays,
)
from pathnorm.errors import DataError
from pathnorm.imaging import Blur, FourierMRI, Identity, Radon

N = 12
FACTORY = """
import torch

def zero_filled(operator):
    return operator.A_adjoint

def broken(operator):
    raise KeyError("weights")

def random(operator):
    return lambda y: operator.A_adjoint(y) * torch.rand(())
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "method.py").write_text(FACTORY)
    truth = np.zeros((2, N, N))
    truth[:, 3:8, 2:9] = 1.0
    mask = np.zeros(N, dtype=bool)
    mask[[1, 5, 6, 7]] = True
    np.savez(tmp_path / "images.npz", images=truth, mask=mask)
    argv = ["audit-reconstructor", f"{tmp_path / 'method.py'}:zero_filled", "--data", str(tmp_path / "images.npz")]
    argv += "--operator mri --noise 0.02 --steps 2 --draws 2 --attacked 1 --restarts 0 --details 1".split()
    return SimpleNamespace(argv=argv, out=tmp_path / "out", folder=tmp_path)


def test_a_reconstructor_is_audited_and_the_folder_written(job, capsys):
    assert cli.main([*job.argv, "--lam", "0.01", "--samples", "1", "--out", str(job.out), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["verb"] == "audit-reconstructor" and found["files"] == ["record.json", "report.html"]
    zero_filled, reference = found["record"]["methods"]
    assert zero_filled["balls"][0]["worst"][0] == pytest.approx(1.0) and reference["name"] == "total variation"
    assert [step["samples"] for step in zero_filled["sweep"]][:2] == [4 * N, 5 * N]
    assert json.loads((job.out / "record.json").read_text()) == found["record"]
    assert "data:image/png" in (job.out / "report.html").read_text() and "written to" in err
    assert cli.main([*job.argv, "--out", str(job.out)]) == 1
    assert "--force" in capsys.readouterr().err


def test_without_a_folder_the_table_is_all(job, capsys):
    assert cli.main([*job.argv, "--no-reference"]) == 0
    out = capsys.readouterr().out
    assert "no verdict" in out and "total variation  " not in out and not job.out.exists()


def test_the_options_reach_the_library(job, monkeypatch):
    seen = []

    def audit(reconstruct, operator, images, **options):
        seen.append((reconstruct, operator, images, options))
        return SimpleNamespace(to_dict=dict)

    monkeypatch.setattr(imaging, "audit_reconstructor", audit)
    more = "--samples 1 --size 0.1 --draws 5 --lam 0.2 --steps 7 --restarts 3 --details 2 --single --seed 4"
    assert cli.main([*job.argv, *more.split()]) == 0
    reconstruct, operator, images, passed = seen[0]
    options = passed["options"]
    assert reconstruct.__self__ is operator and images.shape == (1, N, N) and int(operator.mask.sum()) == 4 * N
    assert (options.size, options.draws, options.steps, options.restarts, options.details) == (0.1, 5, 7, 3, 2)
    assert (options.reference_lam, options.dtype, options.seed) == (0.2, torch.float32, 4)
    assert passed["noise"] == 0.02 and passed["reference"] == "tv"
    other = FourierMRI(torch.ones(N, N))
    assert options.rebuild(other).__self__ is other


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (["{folder}/method.py:missing"], 2, "must have a callable"),
        (["{folder}/method.py:broken"], 1, "raised KeyError"),
        (["{folder}/method.py:random"], 1, "same image"),
        (["{folder}/none.py:f"], 2, "does not exist"),
        (["{folder}/method.py:zero_filled", "--data", "{folder}/none.npz"], 2, "Check the name"),
        (["{folder}/method.py:zero_filled", "--operator", "radon"], 1, "angles"),
        (["{folder}/method.py:zero_filled", "--operator", "blur"], 1, "kernel"),
    ],
)
def test_what_does_not_work_is_said(job, capsys, change, status, said):
    first, *others = (part.format(folder=job.folder) for part in change)
    argv = [job.argv[0], first, *job.argv[2:], *others]
    assert cli.main([*argv, "--no-reference"]) == status
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------ operators of files


def options(*argv):
    parser = argparse.ArgumentParser()
    add_operator_arguments(parser)
    return parser.parse_args(["--operator", *argv])


def test_mri_by_mask_by_lines_and_by_what_is_not_zero():
    lines = np.zeros(N, dtype=bool)
    lines[[2, 5, 6]] = True
    kspace = (lines * np.ones((N, N))).astype(complex)
    for arrays in (
        {"ksp": kspace},
        {"kspace": kspace[None]},
        {"mask": lines, "kspace": kspace},
        {"mask": np.broadcast_to(lines, (N, N)), "images": np.ones((1, N, N))},
    ):
        operator = operator_from(options("mri"), arrays)
        assert isinstance(operator, FourierMRI) and torch.equal(
            operator.mask, torch.from_numpy(lines.copy()).expand(N, N)
        )
        assert operator.coils.shape == (1, N, N)
        if "images" not in arrays:
            assert measurements_from(options("mri"), arrays).shape == operator.data_shape
    coils = np.ones((2, N, N), dtype=complex)
    assert operator_from(options("mri"), {"ksp": np.stack([kspace] * 2), "coils": coils}).data_shape == (2, N, N)


def test_radon_with_what_the_file_and_the_options_say():
    arrays = {"sinogram": np.ones((4, 15)), "angles": np.array([0.0, 45.0, 90.0, 135.0]), "centre": np.array(6.5)}
    operator = operator_from(options("radon", "--degrees", "--spacing", "0.5", "--image-size", "9x11"), arrays)
    assert isinstance(operator, Radon) and operator.image_shape == (9, 11) and operator.data_shape == (4, 15)
    np.testing.assert_allclose(operator.angles, np.deg2rad(arrays["angles"]))
    assert (operator.spacing, operator.centre) == (0.5, 6.5)
    assert operator_from(options("radon", "--centre", "7"), arrays).centre == 7.0
    assert operator_from(options("radon"), arrays).image_shape == (15, 15)
    assert operator_from(options("radon"), {"angles": [0.0], "images": np.ones((2, 9, 8))}).image_shape == (9, 8)


def test_blur_and_identity():
    arrays = {"kernel": np.ones((3, 3)) / 9, "y": np.ones((N, N + 1))}
    assert isinstance(operator_from(options("blur"), arrays), Blur)
    assert isinstance(operator_from(options("identity"), arrays), Identity)
    assert operator_from(options("identity"), arrays).image_shape == (N, N + 1)
    np.testing.assert_array_equal(measurements_from(options("blur"), arrays), arrays["y"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: operator_from(options("mri"), {"images": np.ones((1, N, N))}), "mask"),
        (lambda: operator_from(options("mri"), {"mask": np.ones(N)}), "--image-size"),
        (lambda: measurements_from(options("radon"), {"angles": np.ones(3)}), "sinogram"),
        (lambda: measurements_from(options("radon"), {"sinogram": np.ones((2, 3, 4))}), "two dimensions"),
        (lambda: measurements_from(options("mri"), {"ksp": np.ones(3)}), r"\(C, H, W\)"),
        (
            lambda: operator_from(options("radon"), {"angles": [0.0], "centre": np.ones(2), "y": np.ones((1, 5))}),
            "one number",
        ),
        (lambda: images_from({"picture": np.ones((N, N))}), "images, image, x"),
        (lambda: images_from({"images": np.ones(N)}), r"\(B, H, W\)"),
    ],
)
def test_arrays_that_say_too_little_are_refused(call, said):
    with pytest.raises(DataError, match=said):
        call()


def test_files_are_read_and_nothing_in_them_is_run(tmp_path):
    np.savez(tmp_path / "good.npz", images=np.ones((1, 2, 2)), mask=np.ones(2))
    assert sorted(read_arrays(tmp_path / "good.npz")) == ["images", "mask"]
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("objects.npz", "one.npy", "text.npz"):
        with pytest.raises(DataError, match=r"must be an \.npz file"):
            read_arrays(tmp_path / name)
    with pytest.raises(ValueError, match="Check the name"):
        read_arrays(tmp_path / "none.npz")
