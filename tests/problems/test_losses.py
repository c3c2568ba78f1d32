"""Losses of one sample: derivatives, and the infimum that the dual is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pathnorm.problems.losses import (
    LOSSES,
    SHALLOW_LOSSES,
    Huber,
    Logistic,
    Multinomial,
    Pinball,
    Poisson,
    SmoothedPinball,
    Squared,
    SquaredHinge,
    loss_of,
)

EVERY = [
    Squared(),
    Huber(0.7),
    Pinball(),
    Pinball(-0.2, 0.8),
    SmoothedPinball(-0.3, 0.7, 5.0),
    Logistic(),
    Poisson(),
    SquaredHinge(),
]
every_loss = pytest.mark.parametrize("loss", EVERY, ids=repr)
SEEDS = st.integers(0, 10**6)


def targets(loss, rng, count):
    if isinstance(loss, Logistic):
        return np.where(rng.random(count) < 0.5, rng.integers(0, 2, count), rng.random(count))
    if isinstance(loss, Poisson):
        return rng.poisson(2.0, count).astype(float)
    if isinstance(loss, SquaredHinge):
        return rng.choice([-1.0, 1.0], count)
    return 2.0 * rng.standard_normal(count)


def from_kinks(loss, y, f):
    """Distance of f from where the loss, or its derivative, has a kink."""
    r = y - f
    if isinstance(loss, Huber):
        return np.abs(np.abs(r) - loss.delta)
    if isinstance(loss, Pinball):
        return np.abs(r)
    if isinstance(loss, SmoothedPinball):
        return np.minimum(np.abs(loss.sharpness * r - loss.low), np.abs(loss.sharpness * r - loss.high))
    if isinstance(loss, SquaredHinge):
        return np.abs(1.0 - y * f)
    return np.full_like(f, np.inf)


def inside_domain(loss, y, share):
    """The dual variable at this share of its range, of which at most 5 on either side are used."""
    low, high = (np.broadcast_to(bound, y.shape) for bound in loss.domain(y))
    low, high = np.maximum(low, -5.0), np.minimum(high, 5.0)
    return low + share * (high - low)


@every_loss
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_pull_and_curvature_are_the_derivatives(loss, seed):
    rng = np.random.default_rng(seed)
    y, f, h = targets(loss, rng, 50), 1.5 * rng.standard_normal(50), 1e-5
    smooth = from_kinks(loss, y, f) > 10.0 * h
    y, f = y[smooth], f[smooth]
    slope = (loss.value(y, f + h) - loss.value(y, f - h)) / (2.0 * h)
    np.testing.assert_allclose(loss.pull(y, f), -slope, atol=1e-7)
    bend = -(loss.pull(y, f + h) - loss.pull(y, f - h)) / (2.0 * h)
    np.testing.assert_allclose(loss.curvature(y, f), bend, atol=1e-7)


@every_loss
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_lower_is_the_infimum_over_predictions(loss, seed):
    rng = np.random.default_rng(seed)
    y = targets(loss, rng, 4)
    g = inside_domain(loss, y, rng.uniform(0.05, 0.95, 4))
    for y_i, g_i, lower in zip(y, g, loss.lower(y, g), strict=True):
        # The bounds leave room for the minimiser: |f| <= |y| + 5 / sharpness, or |logit| and log of what is above.
        found = minimize_scalar(
            lambda f: float(loss.value(np.array([y_i]), np.array([f]))[0] + g_i * f),  # noqa: B023
            bounds=(-25.0, 25.0),
            method="bounded",
            options={"xatol": 1e-11, "maxiter": 1000},
        )
        assert lower == pytest.approx(found.fun, abs=1e-7)


@every_loss
def test_beyond_the_domain_there_is_no_infimum(loss):
    y = targets(loss, np.random.default_rng(0), 30)
    low, high = (np.broadcast_to(bound, y.shape) for bound in loss.domain(y))
    assert (low <= 0.0).all()
    assert (high >= 0.0).all()
    for bound, outside, far in ((low, low - 1e-3, 1e8), (high, high + 1e-3, -1e8)):
        finite = np.isfinite(bound)
        assert np.isfinite(loss.lower(y[finite], bound[finite])).all()
        # A dual variable that is too small lets f run to plus infinity.
        value = loss.value(y[finite], np.full(finite.sum(), far)) + outside[finite] * far
        assert (value < -1e4).all()
    # Where there is no bound the infimum stays finite.
    assert np.isfinite(loss.lower(y, np.where(np.isfinite(low), low, -1e3))).all()


@every_loss
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_fenchel_young(loss, seed, share):
    rng = np.random.default_rng(seed)
    y, f = targets(loss, rng, 100), 2.0 * rng.standard_normal(100)
    g = inside_domain(loss, y, share)
    assert (loss.value(y, f) + g * f >= loss.lower(y, g) - 1e-12 * (1.0 + np.abs(y))).all()
    own = loss.pull(y, f)
    low, high = loss.domain(y)
    assert ((own >= low) & (own <= high)).all()
    np.testing.assert_allclose(loss.value(y, f) + own * f, loss.lower(y, own), atol=1e-11)


# ----------------------------------------------------------------------- several outputs


def output_targets(loss, rng, rows, outputs):
    if isinstance(loss, Multinomial):
        return rng.dirichlet(np.ones(outputs), rows)
    return targets(loss, rng, rows * outputs).reshape(rows, outputs)


several = pytest.mark.parametrize("loss", [*EVERY, Multinomial()], ids=repr)


@several
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, outputs=st.integers(1, 4))
def test_the_root_gives_the_second_derivative_and_the_largest_curvature_bounds_it(loss, seed, outputs):
    rng = np.random.default_rng(seed)
    Y, F, h = output_targets(loss, rng, 12, outputs), 1.5 * rng.standard_normal((12, outputs)), 1e-5
    smooth = from_kinks(loss, Y, F).min(axis=1) > 10.0 * h
    Y, F = Y[smooth], F[smooth]
    hessian = np.empty((len(F), outputs, outputs))
    for k, step in enumerate(h * np.eye(outputs)):
        hessian[:, :, k] = -(loss.pull(Y, F + step) - loss.pull(Y, F - step)) / (2.0 * h)
    tangents = rng.standard_normal((len(F), outputs, 3))
    root = loss.root(Y, F, tangents)
    found = np.einsum("ndp,ndq->npq", root, root)
    np.testing.assert_allclose(found, np.einsum("ndp,nde,neq->npq", tangents, hessian, tangents), atol=1e-6)
    np.testing.assert_allclose(loss.curvature(Y, F), np.einsum("ndd->nd", hessian), atol=1e-7)
    largest = np.linalg.norm(hessian, 2, axis=(1, 2)) if len(F) else np.empty(0)
    assert (loss.largest_curvature(Y, F) >= largest - 1e-6 * (1.0 + largest)).all()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, outputs=st.integers(2, 4))
def test_the_multinomial_loss_and_its_infimum(seed, outputs):
    rng, loss = np.random.default_rng(seed), Multinomial()
    Y, F, h = output_targets(loss, rng, 6, outputs), 2.0 * rng.standard_normal((6, outputs)), 1e-6
    for k, step in enumerate(h * np.eye(outputs)):
        slope = (loss.value(Y, F + step) - loss.value(Y, F - step))[:, 0] / (2.0 * h)
        np.testing.assert_allclose(loss.pull(Y, F)[:, k], -slope, atol=1e-8)
    G = Y - rng.dirichlet(np.ones(outputs), 6)
    lower = loss.lower(Y, G)
    assert (loss.value(Y, F) + (G * F).sum(axis=1, keepdims=True) >= lower - 1e-12).all()
    own = loss.pull(Y, F)
    np.testing.assert_allclose(loss.value(Y, F) + (own * F).sum(axis=1, keepdims=True), loss.lower(Y, own), atol=1e-12)
    # The minimiser has the mean y - g.
    best = np.log(np.maximum(Y - G, 1e-300))
    np.testing.assert_allclose(loss.value(Y, best) + (G * best).sum(axis=1, keepdims=True), lower, atol=1e-10)
    low, high = loss.domain(Y)
    assert ((G >= low) & (G <= high)).all()


def test_two_classes_of_the_multinomial_loss_are_the_logistic_one():
    f, y = np.linspace(-40.0, 40.0, 9), np.tile([0.0, 0.3, 1.0], 3)
    both = Multinomial().value(np.column_stack((1.0 - y, y)), np.column_stack((np.zeros(9), f)))
    np.testing.assert_allclose(both[:, 0], Logistic().value(y, f), atol=1e-12)


@every_loss
def test_losses_merge_samples_when_that_changes_a_constant_only(loss):
    rng = np.random.default_rng(0)
    y, f = targets(loss, rng, 8), np.linspace(-2.0, 2.0, 9)
    apart = np.array([loss.value(y, np.full(8, at)).sum() for at in f])
    together = 8.0 * loss.value(np.full(9, y.mean()), f)
    assert (np.ptp(apart - together) < 1e-12) == loss.merges


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_smoothed_pinball_loss_is_below_the_pinball_loss_and_close(seed):
    rng = np.random.default_rng(seed)
    y, f = rng.standard_normal(50), rng.standard_normal(50)
    sharp, smooth = Pinball(-0.3, 0.7).value(y, f), SmoothedPinball(-0.3, 0.7, 1e4).value(y, f)
    assert (smooth <= sharp + 1e-15).all()
    assert (smooth >= sharp - 0.5 * 0.7**2 / 1e4 - 1e-15).all()


def test_huge_predictions_do_not_overflow():
    y, f = np.array([0.0, 1.0]), np.array([1e6, -1e6])
    np.testing.assert_array_equal(Logistic().value(y, f), [1e6, 1e6])
    np.testing.assert_array_equal(Logistic().pull(y, f), [-1.0, 1.0])
    np.testing.assert_array_equal(Logistic().curvature(y, f), [0.0, 0.0])


def test_names_and_parameters():
    made = {name: loss_of(name, delta=0.3, quantile=0.9) for name in LOSSES}
    assert made["squared"] == Squared()
    assert made["huber"] == Huber(0.3)
    assert made["absolute"] == Pinball(-1.0, 1.0)
    assert made["quantile"] == Pinball(0.9 - 1.0, 0.9)
    assert made["logistic"] == Logistic()
    assert made["poisson"] == Poisson()
    assert {loss_of(name, among=SHALLOW_LOSSES) for name in ("squared_hinge", "multinomial")} == {
        SquaredHinge(),
        Multinomial(),
    }
    own = Huber(4.0)
    assert loss_of(own) is own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loss_of("hinge"), "loss must be one of squared, .*; got 'hinge'"),
        (lambda: loss_of("multinomial"), "loss must be one of squared, .*; got 'multinomial'"),
        (lambda: loss_of("quantile", quantile=0.0), "quantile must lie strictly between 0 and 1; got 0.0"),
        (lambda: loss_of("quantile", quantile=1.0), "quantile must lie strictly between 0 and 1"),
        (lambda: loss_of("quantile", quantile=np.nan), "quantile must lie strictly between 0 and 1"),
        (lambda: loss_of("huber", delta=0.0), "delta must be a positive number"),
        (lambda: Huber(-1.0), "delta must be a positive number"),
        (lambda: Huber(np.inf), "delta must be a positive number"),
        (lambda: Huber(np.nan), "delta must be a positive number"),
        (lambda: Pinball(0.0, 1.0), "low < 0 < high"),
        (lambda: Pinball(-1.0, 0.0), "low < 0 < high"),
        (lambda: Pinball(np.nan, 1.0), "low < 0 < high"),
    ],
)
def test_what_is_no_loss_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (Logistic(), [0.0, 1.5], "between 0 and 1; got values from 0 to 1.5"),
        (Logistic(), [-0.1, 1.0], "between 0 and 1; got values from -0.1 to 1"),
        (Logistic(), [np.nan, 1.0], "between 0 and 1"),
        (Poisson(), [-1.0, 1.0], "targets >= 0; got -1"),
        (SquaredHinge(), [0.0, 1.0], "targets of -1 and 1"),
        (Multinomial(), [[0.5, 0.4]], "distributions over classes"),
        (Multinomial(), [[1.5, -0.5]], "distributions over classes"),
    ],
)
def test_targets_that_no_mean_can_have_are_refused(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss.check(np.array(y))


@every_loss
def test_targets_of_every_kind_that_fit(loss):
    loss.check(targets(loss, np.random.default_rng(0), 100))
    loss.check(np.empty(0))
