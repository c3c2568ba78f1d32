"""BV² regression under the other losses: an interior point method, duplicates and weights, lam_max, refusals."""

from __future__ import annotations

import warnings

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from pathnorm.errors import CertificateWarning, DataError
from pathnorm.problems import BV2Problem
from pathnorm.problems.losses import Huber, Logistic, Pinball, Poisson, SmoothedPinball, Squared
from pathnorm.solvers import Status, bv2, bv2_lam_max, bv2_solutions, knot_exchange
from pathnorm.solvers.augmented_lagrangian import augmented_lagrangian
from pathnorm.solvers.bv2 import bv2_lams
from pathnorm.solvers.proximal_newton import proximal_newton
from pathnorm.spaces import LinearSpline

SEEDS = st.integers(0, 10**6)
LOSSES = [Huber(0.3), Pinball(), Pinball(-0.1, 0.9), Logistic(), Poisson()]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


def sample(seed, n, loss, *, duplicates=False, weighted=False):
    """Samples with outliers, counts or classes, as suits the loss; x unordered in (0, 1)."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    if duplicates:
        x = np.round(25.0 * x) / 25.0
    f = 1.5 * np.sin(9.0 * x)
    if isinstance(loss, Logistic):
        y = (rng.random(n) < expit(f)).astype(float)
    elif isinstance(loss, Poisson):
        y = rng.poisson(np.exp(f)).astype(float)
    else:
        y = f + 0.2 * rng.standard_t(2, n)
    return x, y, rng.uniform(0.3, 3.0, n) if weighted else None


def interior_point(x, y, weights, lam, loss):
    """Optimum and values at the distinct x."""
    sites, which = np.unique(x, return_inverse=True)
    weights = np.ones(x.size) if weights is None else weights
    values = cvxpy.Variable(sites.size)
    f = values[which]
    if isinstance(loss, Huber):
        losses = 0.5 * cvxpy.huber(y - f, loss.delta)
    elif isinstance(loss, Pinball):
        losses = cvxpy.maximum(loss.low * (y - f), loss.high * (y - f))
    elif isinstance(loss, Logistic):
        losses = cvxpy.logistic(f) - cvxpy.multiply(y, f)
    else:
        losses = cvxpy.exp(f) - cvxpy.multiply(y, f)
    slopes = cvxpy.multiply(1.0 / np.diff(sites), cvxpy.diff(values))
    program = cvxpy.Problem(cvxpy.Minimize(weights @ losses + lam * cvxpy.norm1(cvxpy.diff(slopes))))
    accuracy = {f"tol_{name}": 1e-10 for name in ("gap_abs", "gap_rel", "feas")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside cvxpy
        best = float(program.solve(solver=cvxpy.CLARABEL, **accuracy))
    return best, sites, values.value


def value_over_samples(loss, x, y, weights, lam, spline):
    """The objective over all samples, merged or not."""
    weights = np.ones(x.size) if weights is None else weights
    return float(weights @ loss.value(y, spline(x))) + lam * spline.tv2


@every_loss
@pytest.mark.parametrize(("duplicates", "weighted"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("lam", [0.5, 0.05, 0.005])
def test_an_interior_point_method_finds_the_same(loss, lam, duplicates, weighted):
    x, y, weights = sample(1, 120, loss, duplicates=duplicates, weighted=weighted)
    problem = BV2Problem.from_samples(x, y, lam, sample_weight=weights, loss=loss)
    solution = bv2(problem, tol=1e-8)
    best, sites, values = interior_point(x, y, weights, lam, loss)
    assert solution.certificate.gap <= 1e-8
    assert value_over_samples(loss, x, y, weights, lam, solution.coef) == pytest.approx(best, rel=1e-6)
    if not isinstance(loss, Pinball):  # whose solutions need not be unique
        np.testing.assert_allclose(solution.coef(sites), values, atol=5e-3)
    assert (solution.problem, solution.status) == (problem, Status.CONVERGED)


@every_loss
@pytest.mark.parametrize("n", [2, 3, 5, 64, 300, 2000])
def test_every_size_is_certified(loss, n):
    x, y, weights = sample(n, n, loss, weighted=n % 2 == 0)
    if isinstance(loss, (Logistic, Poisson)) and n < 10:
        y = np.where(np.arange(n) % 2 == 0, 0.3, 0.6)  # means, so that there is a solution
    for lam in (1.0, 0.01):
        problem = BV2Problem.from_samples(x, y, lam * np.sqrt(n), sample_weight=weights, loss=loss)
        assert bv2(problem, tol=1e-8).certificate.gap <= 1e-8


@every_loss
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_a_sample_twice_is_one_of_weight_two(loss, seed):
    x, y, _ = sample(seed, 60, loss)
    counts = np.random.default_rng(seed).integers(1, 4, 60)
    one = bv2(BV2Problem.from_samples(x, y, 0.05, sample_weight=counts, loss=loss), tol=1e-8)
    apart = BV2Problem.from_samples(np.repeat(x, counts), np.repeat(y, counts), 0.05, loss=loss)
    other = bv2(apart, tol=1e-8)
    assert apart.samples.x.size == (60 if loss.merges else counts.sum())
    assert other.certificate.primal == pytest.approx(one.certificate.primal, rel=1e-7)
    if not isinstance(loss, Pinball):
        np.testing.assert_allclose(other.coef(x), one.coef(x), atol=1e-3)


@pytest.mark.parametrize("loss", [Logistic(), Poisson()], ids=repr)
def test_merged_samples_have_the_answer_of_separate_ones(loss):
    x, y, weights = sample(3, 200, loss, duplicates=True, weighted=True)
    merged = BV2Problem.from_samples(x, y, 0.05, sample_weight=weights, loss=loss)
    order = np.argsort(x, kind="stable")
    separate = BV2Problem(merged.samples.with_targets(merged.samples.y), 0.05, loss)
    assert merged.samples.x.size < 30
    # The same samples, an unnoticeable distance apart: nothing is merged.
    near = BV2Problem.from_samples(
        x[order] + 1e-9 * np.arange(200), y[order], 0.05, sample_weight=weights[order], loss=loss
    )
    assert near.samples.x.size == 200
    one, other = bv2(merged), bv2(near, tol=1e-7)
    np.testing.assert_allclose(other.coef(merged.samples.x), one.coef(merged.samples.x), atol=1e-4)
    assert bv2(separate).certificate.primal == pytest.approx(one.certificate.primal, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, lam=st.sampled_from([1.0, 0.03]))
def test_huber_with_a_huge_delta_is_the_squared_loss(seed, lam):
    x, y, weights = sample(seed, 80, Huber(), weighted=True)
    squared = bv2(BV2Problem.from_samples(x, y, lam, sample_weight=weights))
    huber = bv2(BV2Problem.from_samples(x, y, lam, sample_weight=weights, loss=Huber(1e6)))
    np.testing.assert_allclose(huber.coef(x), squared.coef(x), atol=1e-7)
    assert huber.certificate.primal == pytest.approx(squared.certificate.primal, rel=1e-9)


def test_huber_with_a_small_delta_is_almost_the_absolute_loss():
    x, y, _ = sample(4, 100, Huber())
    absolute = bv2(BV2Problem.from_samples(x, y, 0.1, loss="absolute"), tol=1e-8).certificate.primal
    huber = bv2(BV2Problem.from_samples(x, y, 0.1 * 0.01, loss=Huber(0.01)), tol=1e-8).certificate.primal / 0.01
    # delta |r| - delta^2 / 2 <= huber <= delta |r|
    assert absolute - 0.5 * 0.01 * 100 <= huber <= absolute


@pytest.mark.parametrize("loss", [Huber(0.3), Pinball(), Pinball(-0.1, 0.9)], ids=repr)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_exact_line_is_met(loss, seed):
    x = np.random.default_rng(seed).uniform(0.0, 1.0, 3)
    solution = bv2(BV2Problem.from_samples(x, 3.0 * x - 1.0, 0.1, loss=loss), tol=1e-8)
    np.testing.assert_allclose(solution.coef([-1.0, 0.0, 1.0]), [-4.0, -1.0, 2.0], atol=1e-6)
    assert solution.status is Status.CONVERGED


@every_loss
@pytest.mark.parametrize(("duplicates", "weighted"), [(False, True), (True, False)])
def test_the_fit_is_affine_above_lam_max_and_not_below(loss, duplicates, weighted):
    x, y, weights = sample(5, 100, loss, duplicates=duplicates, weighted=weighted)
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights, loss=loss)
    largest = bv2_lam_max(problem)
    above = bv2(problem.with_lam(1.001 * largest), tol=1e-8)
    assert above.coef.tv2 <= 1e-6
    assert above.certificate.gap <= 1e-8
    below = bv2(problem.with_lam(0.9 * largest), tol=1e-8)
    affine = above.certificate.primal - above.problem.lam * above.coef.tv2
    if isinstance(loss, Pinball):
        # There may be several dual curves; that of lam_max is one of them.
        below = bv2(problem.with_lam(0.5 * largest), tol=1e-8)
    assert below.coef.tv2 > 1e-3
    assert below.certificate.primal < affine * (1.0 - 1e-7 * np.sign(affine))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("lam", [1.0, 0.05])
def test_the_share_of_samples_below_is_the_quantile(quantile, lam):
    x, y, _ = sample(6, 400, Pinball())
    spline = bv2(BV2Problem.from_samples(x, y, lam, loss=Pinball(quantile - 1.0, quantile)), tol=1e-8).coef
    off = y - spline(x)
    meets = np.abs(off) < 1e-7
    # Constants are free of charge: the pulls sum to zero.
    assert np.mean((off < 0.0) & ~meets) <= quantile + 1e-9
    assert np.mean((off < 0.0) | meets) >= quantile - 1e-9
    assert meets.sum() >= spline.n_knots + 2


@pytest.mark.parametrize("loss", [Logistic(), Poisson()], ids=repr)
def test_means_of_the_fit_are_those_of_the_data(loss):
    # Affine functions are free of charge: sum w (y - mean) = sum w (y - mean) x = 0.
    x, y, weights = sample(7, 300, loss, weighted=True)
    spline = bv2(BV2Problem.from_samples(x, y, 0.1, sample_weight=weights, loss=loss)).coef
    pull = weights * loss.pull(y, spline(x))
    assert abs(pull.sum()) < 1e-4
    assert abs((pull * x).sum()) < 1e-4


@every_loss
def test_units_of_x_and_of_the_weights_do_not_matter(loss):
    x, y, weights = sample(8, 150, loss, weighted=True)
    here = bv2(BV2Problem.from_samples(x, y, 0.05, sample_weight=weights, loss=loss), tol=1e-8)
    for unit, shift, heavy in ((1e5, 1.7e9, 1.0), (1e-6, 0.0, 1e3)):
        there = bv2(
            BV2Problem.from_samples(unit * x + shift, y, 0.05 * unit * heavy, sample_weight=heavy * weights, loss=loss),
            tol=1e-8,
        )
        assert there.certificate.primal == pytest.approx(heavy * here.certificate.primal, rel=1e-6)
        assert there.certificate.gap <= 1e-8


@pytest.mark.parametrize("loss", [Huber(0.3), Pinball(-0.1, 0.9)], ids=repr)
def test_units_of_y_do_not_matter(loss):
    x, y, _ = sample(9, 150, loss)
    here = bv2(BV2Problem.from_samples(x, y, 0.05, loss=loss), tol=1e-8).certificate.primal
    for unit, level in ((1e-6, 0.0), (1e4, 1e5)):
        if isinstance(loss, Huber):
            scaled, lam, size = Huber(0.3 * unit), 0.05 * unit, unit**2
        else:
            scaled, lam, size = loss, 0.05, unit
        there = bv2(BV2Problem.from_samples(x, unit * y + level * x, lam, loss=scaled), tol=1e-8)
        assert there.certificate.primal == pytest.approx(size * here, rel=1e-7)


@every_loss
def test_a_start_changes_nothing_but_the_time(loss):
    x, y, weights = sample(10, 200, loss, weighted=True)
    problem = BV2Problem.from_samples(x, y, 0.02, sample_weight=weights, loss=loss)
    cold = bv2(problem, tol=1e-8)
    for start in (cold.coef, bv2(problem.with_lam(0.2), tol=1e-8).coef, LinearSpline([0.3, 0.4], [1, 2], 0, 1)):
        before = start.values.copy()
        warm = bv2(problem, start=start, tol=1e-8)
        np.testing.assert_array_equal(start.values, before)
        assert warm.certificate.primal == pytest.approx(cold.certificate.primal, rel=3e-8)
        assert warm.certificate.gap <= 1e-8
    path = bv2_solutions(problem, [0.02, 2.0, 0.2], tol=1e-8)
    assert [solution.problem.lam for solution in path] == [0.02, 2.0, 0.2]
    assert path[0].certificate.primal == pytest.approx(cold.certificate.primal, rel=3e-8)
    assert path[1].coef.tv2 < path[2].coef.tv2 < path[0].coef.tv2


def test_a_path_is_warm_started():
    # The same lam twice: the second time there is little left to do.
    x, y, _ = sample(15, 3000, Huber())
    for loss in (Squared(), Huber(0.3)):
        first, second = bv2_solutions(BV2Problem.from_samples(x, y, 1.0, loss=loss), [0.5, 0.5])
        assert second.n_iter < first.n_iter


@every_loss
def test_default_lams_fall_from_lam_max(loss):
    x, y, _ = sample(11, 300, loss)
    problem = BV2Problem.from_samples(x, y, 1.0, loss=loss)
    lams = bv2_lams(problem, 5)
    assert lams.size == 5
    assert lams[0] == pytest.approx(bv2_lam_max(problem), rel=1e-6)
    np.testing.assert_allclose(lams[1:] / lams[:-1], lams[1] / lams[0])
    assert 1e-12 * lams[0] <= lams[-1] <= 1e-2 * lams[0]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 1.0]),
        ([0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 0.0]),
        ([0.0, 1.0, 1.0, 3.0], [0.0, 0.0, 1.0, 1.0]),  # both classes at the threshold
        ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]),
        ([0.0, 1.0, 2.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0], [1.0, 1.0]),
    ],
)
def test_separable_classes_are_refused(x, y):
    with pytest.raises(DataError, match="logistic loss has no minimiser"):
        bv2(BV2Problem.from_samples(x, y, 1.0, loss="logistic"))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0, 1.0, 2.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 2.0], [3.0, 0.0, 0.0]),
        ([0.0, 1.0, 2.0], [0.0, 0.0, 2.0]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_counts_that_are_all_zero_are_refused(x, y):
    with pytest.raises(DataError, match="Poisson loss has no minimiser"):
        bv2(BV2Problem.from_samples(x, y, 1.0, loss="poisson"))


@pytest.mark.parametrize(
    ("loss", "x", "y", "constant"),
    [
        ("logistic", [0.0, 1.0, 2.0], [0.0, 1.0, 0.0], None),
        ("logistic", [5.0, 5.0, 5.0, 5.0], [1.0, 0.0, 1.0, 1.0], np.log(3.0)),
        ("poisson", [5.0, 5.0], [1.0, 3.0], np.log(2.0)),
        ("poisson", [0.0, 1.0, 2.0], [0.0, 3.0, 0.0], None),
        ("poisson", [0.0, 1.0, 2.0], [1.0, 0.0, 4.0], None),
        ("huber", [5.0, 5.0, 5.0], [1.0, 1.1, 1.2], 1.1),
        ("absolute", [5.0, 5.0, 5.0], [1.0, 7.0, 2.0], 2.0),
    ],
)
def test_data_that_barely_has_a_solution(loss, x, y, constant):
    solution = bv2(BV2Problem.from_samples(x, y, 1.0, loss=loss), tol=1e-8)
    assert solution.certificate.gap <= 1e-8
    if constant is not None:
        np.testing.assert_allclose(solution.coef([0.0, 5.0, 9.0]), constant, atol=1e-6)


@pytest.mark.parametrize("name", ["huber", "absolute", "quantile", "logistic", "poisson"])
def test_only_the_squared_loss_interpolates(name):
    x, y, _ = sample(12, 30, Logistic())
    with pytest.raises(ValueError, match=r"lam must be positive for this loss; got 0\.0"):
        bv2(BV2Problem.from_samples(x, y, 0.0, loss=name))


def test_solvers_refuse_losses_that_are_not_theirs():
    x, y, _ = sample(13, 30, Logistic())
    problem = BV2Problem.from_samples(x, y, 1.0, loss="huber")
    with pytest.raises(TypeError, match="squared loss; got Huber"):
        knot_exchange(problem)
    with pytest.raises(TypeError, match="pinball loss; got Huber"):
        augmented_lagrangian(problem)
    smooth = BV2Problem.from_samples(x, y, 1.0, loss=SmoothedPinball(-1.0, 1.0, 3.0))
    with pytest.raises(TypeError, match=r"no solver for a loss of type SmoothedPinball; .*Squared.*Poisson"):
        bv2(smooth)


@pytest.mark.parametrize("tol", [0.0, -1e-9, np.nan])
def test_a_bad_tolerance_is_refused(tol):
    with pytest.raises(ValueError, match="tol must be > 0"):
        bv2(BV2Problem.from_samples([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], 1.0, loss=Squared()), tol=tol)


@pytest.mark.parametrize(("loss", "solver"), [(Logistic(), proximal_newton), (Pinball(), augmented_lagrangian)])
def test_an_exhausted_budget_is_a_status_and_a_warning(loss, solver):
    x, y, _ = sample(14, 200, loss)
    problem = BV2Problem.from_samples(x, y, 0.01, loss=loss)
    best = bv2(problem, tol=1e-8)
    with pytest.warns(CertificateWarning, match="budget was used up"):
        stopped = solver(problem, max_iter=1)
    assert stopped.status is Status.MAX_ITER
    assert stopped.certificate.dual <= best.certificate.primal <= stopped.certificate.primal
