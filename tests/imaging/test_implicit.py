"""Implicit representations: the objective is what it is said to be, lam comes from the measurements, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathnorm.deep import path_norm
from pathnorm.errors import DataError
from pathnorm.imaging import FourierMRI, Identity, Radon, fit_implicit, rate_distortion
from pathnorm.imaging.coordinate_networks import ARCHITECTURES, BSplineWavelet, coordinates, encoded
from pathnorm.imaging.implicit_choice import Trial, _discrepancy, held_out_mask

SHAPE = (16, 16)
SMALL = {"width": 16, "depth": 2, "steps": 60}


def disc(shape=SHAPE):
    x = coordinates(shape)
    return (1.0 / (1.0 + torch.exp(12.0 * (x.norm(dim=1) - 0.6)))).reshape(shape)


def noisy(noise=0.1, seed=0):
    return disc() + noise * torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE))


MASK = torch.zeros(SHAPE)
MASK[:, 4:12] = 1.0


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.2, 5.0), seed=st.integers(0, 1000))
def test_a_wavelet_neuron_is_seven_relus(scale, seed):
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(200) * 3.0)
    t = scale * x
    knots = zip((1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5), (1.0, -8.0, 23.0, -32.0, 23.0, -8.0, 1.0), strict=True)
    terms = [(weight / 3.0, torch.relu(t + knot)) for knot, weight in knots]
    wavelet = BSplineWavelet(scale)
    torch.testing.assert_close(wavelet(x), sum(weight * relu for weight, relu in terms), rtol=1e-9, atol=1e-9)
    assert wavelet.mass == pytest.approx(scale * sum(abs(weight) for weight, _ in terms))
    grid = torch.linspace(-2.0, 2.0, 4001, dtype=torch.float64)
    assert float(BSplineWavelet(1.0)(grid).mean()) == pytest.approx(0.0, abs=1e-6)


def test_coordinates_and_features():
    x = coordinates((2, 4))
    assert x[0].tolist() == [-0.5, -0.75] and x[-1].tolist() == [0.5, 0.75]
    assert encoded(x, "siren", features=8, bandwidth=2.0, seed=0) is x
    z = encoded(x, "fourier-relu", features=8, bandwidth=2.0, seed=0)
    assert z.shape == (8, 8)
    torch.testing.assert_close(z[:, :4].square() + z[:, 4:].square(), torch.ones(8, 4, dtype=torch.float64))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_record_says_what_was_minimised(arch):
    operator = Radon(SHAPE, np.linspace(0.0, 3.0, 8))
    y = operator.A(disc())
    found = fit_implicit(y, operator, arch, lam=0.01, **SMALL)
    assert found.image.dtype == torch.float64 and found.image.shape == SHAPE
    assert found.misfit == pytest.approx(float((operator.A(found.image) - y).norm()))
    s, a = operator.norm(), found.problem.amplitude
    assert found.data_term == pytest.approx(0.5 * found.misfit**2 / (s * a) ** 2)
    # The path norm by the definition, from the weights.
    linear = [layer.weight.detach().double() for layer in found.module if isinstance(layer, nn.Linear)]
    factors = [getattr(layer, "mass", 1.0) for layer in found.module if not isinstance(layer, nn.Linear)]
    pairs = zip(factors, linear[:-1], linear[1:], strict=True)
    sums = [c * float((w.norm(dim=1) * v.norm(dim=0)).sum()) for c, w, v in pairs]
    assert found.path_norms == pytest.approx(sums, rel=1e-5) and found.path_norm == pytest.approx(sum(sums), rel=1e-5)
    if arch == "fourier-relu":
        assert path_norm(found.module, found.problem.features[:2]).total == pytest.approx(found.path_norm, rel=1e-5)
    text = str(found)
    assert f"{s:.6g} * {a:.4g}" in text and "last iterate" in text and "0.01" in found.objective
    assert ("not the theory's norm" in text) == (arch == "siren")
    assert len(found.neurons) == len(found.ranks) == 2 and max(found.neurons) <= 16


def test_the_penalty_is_in_the_loss():
    fits = [fit_implicit(noisy(), Identity(SHAPE), lam=lam, **SMALL) for lam in (0.0, 0.3, 3.0)]
    norms, misfits = [fit.path_norm for fit in fits], [fit.misfit for fit in fits]
    assert norms[0] > norms[1] > norms[2] and misfits[0] < misfits[1] < misfits[2]
    # Larger steps apart, each is better than the others for the objective of its own lam.
    for lam, own in zip((0.3, 3.0), fits[1:], strict=True):
        assert own.data_term + lam * own.path_norm < fits[0].data_term + lam * fits[0].path_norm


def test_a_lam_means_the_same_for_other_units():
    class Scaled(Identity):
        def A(self, x):  # noqa: N802
            return 7.0 * x

        A_adjoint = A

        def norm(self):
            return 7.0

    plain = fit_implicit(noisy(), Identity(SHAPE), lam=0.1, **SMALL)
    scaled = fit_implicit(7.0 * noisy(), Scaled(SHAPE), lam=0.1, **SMALL)
    louder = fit_implicit(100.0 * noisy(), Identity(SHAPE), lam=0.1, **SMALL)
    torch.testing.assert_close(plain.image, scaled.image, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(100.0 * plain.image, louder.image, rtol=1e-2, atol=1.0)


def test_complex_images_turn_with_their_measurements():
    operator = FourierMRI(MASK)
    truth = disc() * np.exp(0.3j)
    # Few frequencies: what was not sampled is left to the network.
    found = fit_implicit(operator.A(truth), operator, lam=1e-3, bandwidth=0.5, **(SMALL | {"steps": 150}))
    assert found.image.is_complex()
    assert float((found.image - truth).norm() / truth.norm()) < 0.2
    assert found.misfit == pytest.approx(float((operator.A(found.image) - operator.A(truth)).norm()))


def test_discrepancy_fits_the_noise_with_a_smaller_norm():
    y = noisy(0.2)
    found = fit_implicit(y, Identity(SHAPE), lam="discrepancy", noise=0.2, **(SMALL | {"steps": 120}))
    allowed = 0.2 * math.sqrt(y.numel())
    assert 0.6 * allowed < found.misfit <= allowed
    assert found.lam == found.trials[-1].lam and found.rule == "discrepancy"
    # No lam of the search that fits the noise is much larger.
    assert found.lam * 1.5 >= max(trial.lam for trial in found.trials if trial.misfit <= allowed)
    assert any(trial.misfit > allowed for trial in found.trials)
    free = fit_implicit(y, Identity(SHAPE), lam=0.0, **(SMALL | {"steps": found.steps}))
    assert found.path_norm < free.path_norm / 2
    assert float((found.image - disc()).norm()) < 0.85 * float((free.image - disc()).norm())
    # The answer is the fit at that lam and no other.
    assert any(torch.equal(trial.image, found.image) for trial in found.trials)


class Fits:
    """Fits whose misfit is lam, and ``tightly`` times lam once it is chosen."""

    def __init__(self, tightly):
        self.trials, self.tightly = [], tightly

    def fit(self, module, lam, *, loosely=True):
        misfit = lam if loosely else self.tightly * lam
        self.trials.append(Trial(lam, misfit, math.nan, 1.0, torch.zeros(1)))
        return lam

    def answer(self, module, lam):
        return module, lam


@pytest.mark.parametrize("first", [1e-3, 0.9, 40.0])
@pytest.mark.parametrize("tightly", [0.8, 1.0, 1.4])
def test_the_largest_lam_that_fits_is_found_from_either_side(first, tightly):
    search = Fits(tightly)
    module, lam = _discrepancy(search, None, first, 1.0)
    assert module == lam == search.trials[-1].lam and search.trials[-1].misfit <= 1.0
    # Within two bisections of a factor of three, or one step less where it fits no more in the end.
    assert 3.0**-0.25 / (1.5 if tightly > 1.0 else 1.0) - 1e-9 <= lam <= 1.0


def test_held_out_measurements_choose_without_the_noise():
    operator = Radon(SHAPE, np.linspace(0.0, np.pi, 20, endpoint=False))
    y = operator.A(disc())
    y = y + 0.5 * torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape))
    found = fit_implicit(y, operator, lam="held-out", held_out=0.2, **SMALL)
    errors = [trial.held_out for trial in found.trials[:-1]]
    assert math.isnan(found.trials[-1].held_out)  # all measurements, in the end
    assert found.lam == found.trials[int(np.argmin(errors))].lam
    assert found.problem.seen is None and found.noise is None
    mask = held_out_mask(operator, y, 0.2, 0)
    # Whole views, and the misfit of the others is not in it.
    assert sorted(mask.sum(1).unique().tolist()) == [0, y.shape[1]] and int(mask[:, 0].sum()) == 4
    first = found.trials[0]
    assert first.held_out == pytest.approx(float(((operator.A(first.image) - y) * mask).norm()))


def test_held_out_positions_of_k_space_are_the_same_in_all_coils_and_were_sampled():
    coils = torch.ones(3, *SHAPE, dtype=torch.complex128) / 2.0
    operator = FourierMRI(MASK, coils)
    mask = held_out_mask(operator, operator.A(disc() + 0j), 0.25, 0)
    assert mask.shape == (3, *SHAPE) and torch.equal(mask[0], mask[1])
    assert not bool((mask[0] & ~MASK.bool()).any()) and 0.1 < float(mask[0].sum() / MASK.sum()) < 0.4


def test_compression_keeps_the_image_and_measures_what_it_costs():
    found = fit_implicit(noisy(0.05), Identity(SHAPE), lam=0.1, **(SMALL | {"steps": 150}))
    kept = [weight.clone() for weight in found.module.parameters()]
    points = rate_distortion(found, (1.0, 0.25))
    assert [point.neurons for point in points] == [(16, 16), (4, 4)]
    assert points[0].psnr > 60.0 > points[1].psnr
    for point in points[1:]:
        error = float((point.image - found.image).square().mean())
        assert point.psnr == pytest.approx(10.0 * math.log10(float(found.image.abs().max()) ** 2 / error), rel=1e-6)
        assert point.misfit == pytest.approx(float((point.image - noisy(0.05)).norm()))
    again = found.compress(widths=0.25, steps=60)
    objectives = [
        0.5 * each.misfit**2 / found.problem.amplitude**2 + 0.1 * each.path_norm for each in (again, points[1])
    ]
    assert again.neurons == points[1].neurons and objectives[0] < objectives[1]
    assert all(torch.equal(a, b) for a, b in zip(kept, found.module.parameters(), strict=True))


def test_a_fit_goes_on_from_another_and_seeds_repeat():
    one = fit_implicit(noisy(), Identity(SHAPE), lam=0.01, **SMALL)
    kept = one.image.clone()
    same = fit_implicit(noisy(), Identity(SHAPE), lam=0.01, **SMALL)
    assert torch.equal(one.image, same.image)
    on = fit_implicit(noisy(), Identity(SHAPE), lam=0.01, start=one, **SMALL)
    assert on.data_term + 0.01 * on.path_norm < one.data_term + 0.01 * one.path_norm
    assert torch.equal(one.image, kept)
    with pytest.raises(ValueError, match="same architecture"):
        fit_implicit(noisy(), Identity(SHAPE), "siren", lam=0.01, start=one, **SMALL)


def fit(y=None, operator=None, arch="fourier-relu", **options):
    return fit_implicit(
        noisy() if y is None else y, operator or Identity(SHAPE), arch, **(SMALL | {"lam": 0.1} | options)
    )


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: fit(arch="wire"), ValueError, "bw-relu, fourier-relu, siren"),
        (lambda: fit(torch.full(SHAPE, torch.nan)), DataError, "finite"),
        (lambda: fit(torch.zeros(SHAPE)), DataError, "not all be zero"),
        (lambda: fit(torch.ones(4, 4)), ValueError, r"shape \(16, 16\). Got \(4, 4\)"),
        (lambda: fit(torch.ones(1, *SHAPE), FourierMRI(MASK)), ValueError, "phase"),
        (lambda: fit(lam="sure"), ValueError, "discrepancy, held-out"),
        (lambda: fit(lam=-1.0), ValueError, "from 0"),
        (lambda: fit(lam="discrepancy"), ValueError, "noise="),
        (lambda: fit(lam="discrepancy", noise=1e-6, steps=2), ValueError, "size of the noise"),
        (lambda: fit(lam="held-out", held_out=1.5), ValueError, "share between 0 and 1"),
        (lambda: fit(lam="held-out", held_out=torch.ones(3, 3)), ValueError, r"shape \(16, 16\) of y"),
        (lambda: fit(lam="held-out", held_out=torch.zeros(SHAPE)), DataError, "must be held out"),
        (lambda: rate_distortion(fit(steps=1), (0.2, 0.5)), ValueError, "must fall"),
        (lambda: fit(width=0), ValueError, "at least 1"),
        (lambda: fit(bandwidth=0.0), ValueError, "bandwidth"),
        (lambda: fit(learning_rate=math.inf), ValueError, "learning_rate"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_the_experiment_judges_what_it_measured():
    from experiments.implicit_representation import SHARES, judged, phantom, scan

    image = phantom(32)
    assert float(image.max()) <= 1.0 + 1e-9 and float(image[0].abs().max()) == 0.0 and float(image[16, 16]) > 0.1
    _, truth, operator, y, noise = scan("mri", 32, 0)
    assert truth.is_complex() and int(operator.mask.sum()) == round(0.3 * 32) * 32
    spread = float((y - operator.A(truth)).abs().square().sum() / operator.mask.sum()) ** 0.5
    assert spread == pytest.approx(noise, rel=0.15)

    def rows(gain, lost):
        head = {"scan": "ct", "arch": "siren", "seed": 0}
        fits = [("none", 18.0, 9.0), ("discrepancy", 18.0 + gain, 2.9), ("held-out", 18.5, 3.0), ("best", 20.2, None)]
        found = [head | {"row": row, "psnr": value, "path_norm": norm, "neurons": 90} for row, value, norm in fits]
        found += [head | {"row": "compressed", "share": share, "neurons": round(192 * share), "lost": lost / share,
                          "to_fit": 30.0} for share in SHARES]  # fmt: skip
        return [*found, {"scan": "ct", "arch": "tv", "seed": 0, "row": "tv", "psnr": 25.0}]

    summary, verdict = judged(rows(2.0, 0.018), 192)
    assert verdict["holds"] and summary[0]["fewer"] == pytest.approx(192 / 36) and summary[0]["tv"][0] == 25.0
    assert summary[0]["below_best"][0] == pytest.approx(0.2)
    assert not judged(rows(1.4, 0.018), 192)[1]["holds"]
    assert not judged(rows(2.0, 0.030), 192)[1]["holds"]
