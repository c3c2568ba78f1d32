"""The audit as a whole: columns that are known, what goes into the record, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pathnorm.imaging.audit_columns as columns
from pathnorm.errors import DataError
from pathnorm.imaging import AuditOptions, FourierMRI, Identity, Radon, audit_reconstructor
from pathnorm.report.reconstructor import ReconstructorAudit, Spread

N = 16
FAST = {
    "steps": 3,
    "draws": 2,
    "attacked": 1,
    "details": 3,
    "restarts": 0,
    "reference_steps": 30,
    "reference_lam": 0.01,
}


def images(count=2):
    found = torch.zeros(count, N, N, dtype=torch.float64)
    found[:, 3:12, 4:13] = 0.5
    found[0, 6:9, 6:10] = 1.0
    found[-1, 10:14, 2:5] = 0.8
    return found


def line_mask():
    mask = torch.zeros(N, N)
    mask[:, [1, 4, 7, 8, 9, 12]] = 1
    return mask


def audit(function, operator, truth=None, *, reference=None, **options):
    return audit_reconstructor(
        function,
        operator,
        images() if truth is None else truth,
        noise=0.02,
        reference=reference,
        options=AuditOptions(**(FAST | options)),
    )


@pytest.fixture(scope="module")
def record():
    operator = FourierMRI(line_mask())
    return audit(operator.A_adjoint, operator, reference="tv", rebuild=lambda found: found.A_adjoint)


def test_zero_filling_has_the_columns_it_must_have(record):
    method = record.methods[0]
    assert method.linear and method.differentiable and method.repeatability == 0.0
    for ball in method.balls:
        # A partial isometry: noise of the samples is neither amplified nor dampened.
        np.testing.assert_allclose([*ball.random, *ball.worst], 1.0, rtol=1e-9)
    np.testing.assert_allclose(method.residual, 0.0, atol=1e-12)
    truth, operator = images(), FourierMRI(line_mask())
    error = [operator.A_adjoint(operator.A(image.to(torch.complex128))) - image for image in truth]
    for share, relative, part, image in zip(method.unseen_share, method.relative_error, error, truth, strict=True):
        # What is missing lies in the null space, the noise in the rest.
        energy = (relative * float(image.norm())) ** 2
        assert share * energy == pytest.approx(float(part.norm()) ** 2, rel=1e-9)
    assert record.unseen_exact and record.samples == 6 * N
    assert [step.samples for step in method.sweep] == [6 * N, 8 * N, 9 * N, 12 * N]
    assert method.monotone and method.largest_drop == 0.0
    assert method.details_kept + method.details_removed == len(method.details) == 6


def test_the_reference_has_the_same_columns_and_a_certificate(record):
    method, reference = record.methods
    assert reference.name == "total variation" and not reference.linear
    assert "0.01 (TV(x))" in reference.objective and 0.0 < reference.gap < 1.0
    assert len(reference.psnr) == len(method.psnr) == record.images == 2
    assert len(reference.sweep) == len(method.sweep) and len(reference.details) == len(method.details)


def test_the_record_is_json_without_pictures_and_a_table(record):
    found = json.loads(record.to_json())
    assert "truth" not in found and "pictures" not in found["methods"][0]
    assert found["methods"][0]["balls"][0]["worst"] == list(record.methods[0].balls[0].worst)
    text = str(record)
    assert "no verdict" in text and "at least" in text and "cert." in text and "total variation" in text
    assert max(map(len, text.splitlines())) < 130


def test_the_page_stands_alone(record, tmp_path):
    text = record.to_html(tmp_path / "page.html").read_text()
    assert text.count("data:image/png;base64,") == 12 and "<svg" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    data = text.split('<script type="application/json" id="record">')[1].split("</script>")[0]
    assert json.loads(data) == record.to_dict()


def test_the_identity_sees_everything():
    method = audit(lambda y: y, Identity((N, N))).methods[0]
    assert method.unseen_share == (0.0, 0.0) and method.details_kept == 6 and method.details_invented == 0
    assert method.sweep == () and "no operator with more samples" in method.sweep_missing and method.monotone is None
    for item in method.details:
        assert item.share == pytest.approx(1.0) and item.elsewhere == pytest.approx(0.0, abs=1e-20)


def test_a_reconstructor_that_makes_things_up_is_caught():
    picture = torch.zeros(N, N, dtype=torch.float64)
    picture[2:5, 2:5] = 1.0

    def function(y):
        # Knows one picture only, in proportion to what it sees.
        return 100.0 * picture * y.abs().mean()

    method = audit(function, Identity((N, N))).methods[0]
    assert method.details_removed >= 5 and method.details_invented >= 1
    # Nothing of the error is in the null space, as there is none: wrong, but not for want of data.
    assert method.unseen_share == (0.0, 0.0) and min(method.residual) > 1.0


def test_more_samples_that_are_worse_are_reported():
    def build(operator):
        # Half of the brightness is lost with 8 lines, and with no other number of them.
        share = 0.5 if int(operator.mask[0].sum()) == 8 else 1.0
        return lambda y: share * operator.A_adjoint(y)

    operator = FourierMRI(line_mask())
    method = audit(build(operator), operator, rebuild=build).methods[0]
    means = [step.psnr_mean.mean for step in method.sweep]
    assert method.monotone is False and method.largest_drop == pytest.approx(means[0] - means[1])
    assert audit(build(operator), operator, rebuild=build, drop_at=100.0).methods[0].monotone


def test_a_constant_image_is_never_moved_and_fits_nothing():
    method = audit(lambda y: torch.zeros(N, N), Identity((N, N))).methods[0]
    assert method.linear and [ball.largest for ball in method.balls] == [0.0, 0.0]
    assert method.details_removed == 6 and method.relative_error == (1.0, 1.0)
    expected = [float(image.norm()) / (0.02 * N) for image in images()]
    np.testing.assert_allclose(method.residual, expected, rtol=0.05)


def test_a_sweep_needs_someone_who_reads_it():
    operator = Radon((N, N), [0.0, 1.0, 2.0])
    missing = audit(operator.A_adjoint, operator).methods[0]
    assert missing.sweep == () and "rebuild" in missing.sweep_missing
    found = audit(operator.A_adjoint, operator, rebuild=lambda other: other.A_adjoint).methods[0]
    assert [step.samples // operator.data_shape[1] for step in found.sweep] == [3, 4, 5, 6]
    assert not audit(operator.A_adjoint, operator, operators=()).methods[0].sweep


def test_black_boxes_and_single_precision():
    operator = FourierMRI(line_mask())

    def function(y):
        assert y.dtype == torch.complex64
        return operator.A_adjoint(y.to(torch.complex128)).real.numpy().astype(np.float32)

    method = audit(function, operator, dtype=torch.float32, steps=6).methods[0]
    assert method.linear and not method.differentiable
    assert 0.5 < method.balls[0].worst[0] <= 1 + 1e-4


def test_the_size_of_perturbations(monkeypatch):
    seen = []
    monkeypatch.setattr(columns, "attacks_on", lambda local, balls, **_: (seen.append(balls), 1 / 0))
    operator = FourierMRI(line_mask())
    for size, expected in ((None, 0.02 * (6 * N) ** 0.5), (0.5, None)):
        with pytest.raises(ZeroDivisionError):
            audit(operator.A_adjoint, operator, size=size)
        y = operator.A(images()[0])
        expected = 0.5 * float(y.norm()) if expected is None else expected
        assert seen[-1][0].radius == pytest.approx(expected, rel=0.01)
        assert seen[-1][1].radius * (6 * N) ** 0.5 == pytest.approx(seen[-1][0].radius)


def test_an_interval_is_that_of_student():
    from scipy import stats

    values = [1.0, 2.0, 4.0, 3.5]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = Spread.of(values)
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((np.mean(values), low, high, 4))
    assert Spread.of([1.0]).low is None


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"images": torch.full((1, N, N), torch.nan)}, DataError, "finite"),
        ({"images": torch.zeros(1, N, N)}, DataError, "zero everywhere"),
        ({"images": torch.ones(N, N)}, ValueError, r"\(B, H, W\)"),
        ({"images": torch.ones(1, N, N + 1)}, ValueError, "shape"),
        ({"noise": 0.0}, ValueError, "positive standard deviation"),
        ({"noise": np.nan}, ValueError, "positive standard deviation"),
        ({"reference": "wavelet"}, ValueError, "'tv'"),
        ({"reconstruct": 3}, TypeError, "callable"),
        ({"reconstruct": lambda y: y}, DataError, "one image of shape"),
        ({"reconstruct": lambda y: y[0] + torch.rand(())}, DataError, "same image"),
        ({"options": AuditOptions(operators=[FourierMRI(1 - line_mask())])}, ValueError, "all samples"),
    ],
)
def test_what_cannot_be_audited_is_refused(change, error, said):
    operator = FourierMRI(line_mask())
    call = {"reconstruct": operator.A_adjoint, "images": images(), "noise": 0.1, "reference": None, "options": None}
    call |= change
    with pytest.raises(error, match=said):
        audit_reconstructor(call.pop("reconstruct"), operator, call.pop("images"), **call)


def test_complex_images_for_a_real_operator_are_refused():
    with pytest.raises(ValueError, match="real images"):
        audit(lambda y: y, Identity((N, N)), images() * 1j)


class Foreign:
    """Of another library: two methods and nothing else."""

    def A(self, x):  # noqa: N802
        return torch.fft.fft2(x, norm="ortho")[: N // 2]

    def A_adjoint(self, y):  # noqa: N802
        return torch.fft.ifft2(torch.cat([y, torch.zeros_like(y)]), norm="ortho")


def test_operators_of_others_are_audited_as_they_are():
    operator = Foreign()
    record = audit(operator.A_adjoint, operator)
    assert record.samples == N * N // 2 and record.unseen_exact and record.operator == "Foreign"
    assert record.methods[0].balls[0].worst[0] == pytest.approx(1.0)


class NotAdjoint(Identity):
    def A_adjoint(self, y):  # noqa: N802
        return 2.0 * y


def test_a_pair_that_is_not_adjoint_is_refused():
    with pytest.raises(ValueError, match="must be the adjoint"):
        audit(lambda y: y, NotAdjoint((N, N)))


@pytest.mark.parametrize(
    "options", [{"draws": 1}, {"steps": 0}, {"contrast": 0.0}, {"size": -1.0}, {"attacked": 0}, {"null_tol": np.inf}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AuditOptions(**options)


def test_nothing_that_was_handed_over_is_changed():
    truth = images()
    before, operator = truth.clone(), FourierMRI(line_mask())
    found = audit(operator.A_adjoint, operator, truth)
    assert isinstance(found, ReconstructorAudit) and torch.equal(truth, before)
