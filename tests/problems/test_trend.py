"""The problem over BV²(R): its objective, its dual curve, and a certificate that can be believed."""

from __future__ import annotations

import warnings

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.errors import DataError
from pathnorm.problems import BV2Problem
from pathnorm.problems.losses import Huber, Logistic, Pinball, Poisson, Squared
from pathnorm.problems.samples import Samples
from pathnorm.solvers import bv2, knot_exchange
from pathnorm.spaces import LinearSpline

SEEDS = st.integers(0, 10**6)
LOSSES = [Squared(), Huber(0.5), Pinball(), Pinball(-0.2, 0.8), Logistic(), Poisson()]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


def sample(seed, n, loss=None, *, duplicates=False, weighted=False):
    """Unordered x in (0, 1), targets that suit the loss, weights or None."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 1.0, n)
    if duplicates:
        x = np.round(20.0 * x) / 20.0
    f = np.sin(7.0 * x)
    if isinstance(loss, Logistic):
        y = (rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * f))).astype(float)
    elif isinstance(loss, Poisson):
        y = rng.poisson(np.exp(f)).astype(float)
    else:
        y = f + 0.3 * rng.standard_normal(n)
    return x, y, rng.uniform(0.3, 3.0, n) if weighted else None


def random_spline(seed, low=0.0, high=1.0, count=6):
    rng = np.random.default_rng(seed)
    knots = np.sort(rng.uniform(low, high, count))
    slopes = rng.standard_normal(2) / (high - low)
    return LinearSpline(knots, rng.standard_normal(count), *slopes)


def optimum(x, y, weights, lam, loss):
    """The optimum by an interior point method: unknowns are the values at the distinct x."""
    sites, which = np.unique(x, return_inverse=True)
    weights = np.ones(x.size) if weights is None else weights
    values = cvxpy.Variable(sites.size)
    f = values[which]
    if isinstance(loss, Squared):
        losses = 0.5 * cvxpy.square(y - f)
    elif isinstance(loss, Huber):
        losses = 0.5 * cvxpy.huber(y - f, loss.delta)
    elif isinstance(loss, Pinball):
        losses = cvxpy.maximum(loss.low * (y - f), loss.high * (y - f))
    elif isinstance(loss, Logistic):
        losses = cvxpy.logistic(f) - cvxpy.multiply(y, f)
    else:
        losses = cvxpy.exp(f) - cvxpy.multiply(y, f)
    slopes = cvxpy.multiply(1.0 / np.diff(sites), cvxpy.diff(values))
    program = cvxpy.Problem(cvxpy.Minimize(weights @ losses + lam * cvxpy.norm1(cvxpy.diff(slopes))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside cvxpy
        return float(program.solve(solver=cvxpy.CLARABEL))


def naive_value(x, y, weights, lam, loss, spline):
    weights = np.ones(x.size) if weights is None else weights
    losses = sum(w * float(loss.value(np.array(a), spline(t))) for t, a, w in zip(x, y, weights, strict=True))
    return losses + lam * float(np.abs(np.diff(spline.slopes)).sum())


def slow_curve(x, y, weights, spline, points):
    """Dual curve at the points by its definition, O(n) each, in extended precision; and the residual's line.

    The residual comes without its weighted least squares line.
    """
    x, y, weights, points = (np.asarray(part, dtype=np.longdouble) for part in (x, y, weights, points))
    knots, values = spline.knots.astype(np.longdouble), spline.values.astype(np.longdouble)
    f = np.interp((x - knots[0]).astype(float), (knots - knots[0]).astype(float), np.zeros(knots.size))
    f = f.astype(np.longdouble)
    for i, t in enumerate(x):
        j = int(np.searchsorted(knots, t, side="right")) - 1
        if j < 0:
            f[i] = values[0] + np.longdouble(spline.left_slope) * (t - knots[0])
        elif j == knots.size - 1:
            f[i] = values[j] + np.longdouble(spline.right_slope) * (t - knots[j])
        else:
            f[i] = values[j] + (values[j + 1] - values[j]) * ((t - knots[j]) / (knots[j + 1] - knots[j]))
    r = y - f
    mean = (weights * x).sum() / weights.sum()
    level = (weights * r).sum() / weights.sum()
    slope = (weights * r * (x - mean)).sum() / (weights * (x - mean) ** 2).sum()
    line = level + slope * (x - mean)
    r = r - line
    v = np.array([(weights * r * np.maximum(x - t, 0.0)).sum() for t in points])
    return v, r, line


def assert_curve(x, y, weights, spline, *, rtol=1e-13):
    """Against the definition, up to ``rtol`` of the sum of absolute terms."""
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights)
    curve = problem.curve(spline)
    weights = np.ones(x.size) if weights is None else weights
    sites = np.unique(x)
    v, r, line = slow_curve(x, y, weights, spline, np.concatenate((sites, spline.knots)))
    size = float(np.abs(weights * r).sum() * (sites[-1] - sites[0]))
    assert curve.peak == pytest.approx(float(np.abs(v[: sites.size]).max()), abs=rtol * size)
    beyond = (spline.knots < sites[0]) | (spline.knots > sites[-1])
    np.testing.assert_allclose(curve.at_knots, np.where(beyond, 0.0, v[sites.size :]).astype(float), atol=rtol * size)
    spread = 2.0 * problem.samples.spread  # the curve knows of the means at each x only
    squares = float((weights * r**2).sum())
    assert curve.squares == pytest.approx(squares - spread, rel=1e-9, abs=1e-10 * squares)
    assert curve.removed == pytest.approx(float((weights * line**2).sum()), rel=1e-9, abs=1e-10 * squares)


# ------------------------------------------------------------------------------------------------- dual curve


@pytest.mark.parametrize("n", [3, 63, 64, 65, 127, 128, 129, 400, 700])
@pytest.mark.parametrize("weighted", [False, True])
def test_dual_curve_by_its_definition(n, weighted):
    x, y, weights = sample(n, n, weighted=weighted)
    for count in (1, 7, 40):
        assert_curve(x, y, weights, random_spline(n + count, -0.2, 1.2, count))


def test_dual_curve_with_duplicates():
    x, y, weights = sample(1, 500, weighted=True)
    x = np.round(x, 2)
    assert_curve(x, y, weights, random_spline(1))
    assert_curve(x, y, None, random_spline(2))


def test_dual_curve_with_knots_at_the_sites_and_between_them():
    x, y, _ = sample(2, 450)
    sites = np.sort(x)
    knots = np.sort(np.concatenate((sites[::9], 0.5 * (sites[4:-1:9] + sites[5::9]))))
    values = np.random.default_rng(0).standard_normal(knots.size)
    assert_curve(x, y, None, LinearSpline(knots, values, 1.0, -1.0))
    every = LinearSpline(sites, np.random.default_rng(1).standard_normal(450), 0.0, 0.0)
    assert_curve(x, y, None, every, rtol=1e-12)  # slopes of a million


def test_dual_curve_in_seconds_since_1970():
    x, y, _ = sample(3, 600)
    x = 1.7e9 + np.round(1e5 * x, 3)
    spline = random_spline(3, 1.7e9, 1.7e9 + 1e5)
    assert_curve(x, y, None, spline)
    # Far from zero the targets themselves have lost four digits.
    assert_curve(x, y + 1e4, None, spline, rtol=1e-11)


def test_dual_curve_of_near_duplicates():
    x, y, _ = sample(4, 200)
    for gap in (1e-6, 1e-10, 1e-14):
        near = np.concatenate((x, x + gap))
        assert_curve(near, np.concatenate((y, y + 0.5)), None, random_spline(4))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, floor=st.floats(0.0, 1.0))
def test_a_floor_spares_work_and_changes_nothing_above_it(seed, floor):
    x, y, weights = sample(seed, 300, weighted=True)
    problem, spline = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights), random_spline(seed)
    whole = problem.curve(spline)
    for level in (floor * whole.peak, 1.5 * whole.peak):
        assert problem.curve(spline, level).peak == max(level, whole.peak)
        np.testing.assert_array_equal(problem.curve(spline, level).at_knots, whole.at_knots)


def test_a_cell_that_bends_as_far_as_it_can_is_not_left_out():
    # Three heavy samples pull against each other inside one cell; at both of its ends the curve is near zero.
    x = np.arange(192.0)
    x[127] = x[128] - 1e-6
    weights, y = np.full(192, 1e-12), np.zeros(192)
    middle = 96
    weights[[64, middle, 127]], y[[64, middle, 127]] = (0.5, 1.0, 0.5), (1.0, -1.0, 1.0)
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights)
    flat = LinearSpline([0.0], [0.0], 0.0, 0.0)
    peak = problem.curve(flat).peak
    assert peak == pytest.approx(0.5 * 32.0, rel=0.01)
    for share in (0.3, 0.6, 0.9):
        assert problem.curve(flat, share * peak).peak == peak


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 1000, 64 * 512 + 63, 64 * 513 + 1, 64 * 2000 + 17])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_the_cells_add_up_on_every_level(n, weighted):
    x, y, weights = sample(n, n, weighted=weighted)
    samples = Samples.of(x, y, weights)
    levels = samples.levels
    assert len(levels) == (1 if n < 64 * 513 else 2)
    d, y, w = samples.x - samples.x[0], samples.data.y, samples.weights
    expected = [(w * part).sum() for part in (np.ones(n), d, d * d, y, y * d, y * y)]
    for cells in levels:
        s0, s1, s2, y0, y1, yy = cells.moments.T
        start = cells.nodes[:-1] - samples.x[0]
        found = [s0, s1 + start * s0, s2 + 2.0 * start * s1 + start**2 * s0, y0, y1 + start * y0, yy]
        np.testing.assert_allclose([part.sum() for part in found], expected, rtol=1e-10, atol=1e-9)
        assert cells.nodes[-1] == samples.x[-1]


def test_dual_curve_of_many_samples():
    x, y, _ = sample(5, 64 * 600 + 7)
    problem, spline = BV2Problem.from_samples(x, y, 1.0), random_spline(5)
    curve = problem.curve(spline)
    order = np.argsort(x)
    x, y = x[order].astype(np.longdouble), y[order].astype(np.longdouble)
    r = y - spline(x.astype(float))
    d = x - x.mean()
    line = r.mean() + (r * d).sum() / (d * d).sum() * d
    v = np.cumsum(np.cumsum(r - line)[:-1] * np.diff(x))
    assert curve.peak == pytest.approx(float(np.abs(v).max()), rel=1e-10)
    assert curve.removed == pytest.approx(float((line * line).sum()), rel=1e-10)


def test_rounding_errors_of_the_curve_do_not_grow_with_the_samples():
    # Residuals of a long constant run cancel pair by pair: v is a sawtooth of height 1/n on the way.
    n = 100_000
    x = np.arange(n, dtype=float) / n
    y = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    curve = BV2Problem.from_samples(x, y, 1.0).curve(LinearSpline([0.0], [0.0], 0.0, 0.0))
    x, r = x.astype(np.longdouble), y.astype(np.longdouble)
    d = x - x.mean()
    r = r - r.mean() - (r * d).sum() / (d * d).sum() * d
    v = np.cumsum(np.cumsum(r)[:-1] * np.diff(x))
    assert curve.peak == pytest.approx(float(np.abs(v).max()), rel=1e-9)


# ------------------------------------------------------------------------------------------------- objective


@every_loss
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, duplicates=st.booleans(), weighted=st.booleans())
def test_the_objective_is_the_naive_sum(loss, seed, duplicates, weighted):
    x, y, weights = sample(seed, 60, loss, duplicates=duplicates, weighted=weighted)
    problem = BV2Problem.from_samples(x, y, 0.7, sample_weight=weights, loss=loss)
    spline = random_spline(seed)
    expected = naive_value(x, y, weights, 0.7, loss, spline)
    # Merging adds a constant, which the logistic and Poisson losses are stated up to.
    at_zero = LinearSpline([0.0], [0.0], 0.0, 0.0)
    if not isinstance(loss, (Logistic, Poisson)):
        assert problem.value(spline) == pytest.approx(expected, rel=1e-12)
    expected -= naive_value(x, y, weights, 0.7, loss, at_zero)
    assert problem.value(spline) - problem.value(at_zero) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert problem.certify(spline).primal == pytest.approx(problem.value(spline), rel=1e-12)
    assert problem.certify(spline).scope == "function_space"


# ------------------------------------------------------------------------------------------------- certificate


@every_loss
@pytest.mark.parametrize(("duplicates", "weighted"), [(False, False), (True, True)])
@pytest.mark.parametrize("lam", [0.01, 1.0])
def test_the_certificate_of_any_spline_holds_the_optimum(loss, duplicates, weighted, lam):
    x, y, weights = sample(11, 60, loss, duplicates=duplicates, weighted=weighted)
    best = optimum(x, y, weights, lam, loss)
    problem = BV2Problem.from_samples(x, y, lam, sample_weight=weights, loss=loss)
    sites = np.unique(x)
    splines = [random_spline(seed, count=1 + 3 * seed) for seed in range(8)]
    splines.append(LinearSpline(sites, np.random.default_rng(0).standard_normal(sites.size), 0.0, 0.0))
    splines.append(LinearSpline([0.5], [y.mean()], 0.0, 0.0))
    for spline in splines:
        certificate = problem.certify(spline)
        assert certificate.dual <= best + 1e-6 * abs(best)
        assert certificate.primal >= best - 1e-6 * abs(best)
        assert certificate.gap > 1e-4


@every_loss
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_a_perturbed_answer_is_rejected(loss, seed):
    x, y, weights = sample(13, 100, loss, weighted=True)
    problem = BV2Problem.from_samples(x, y, 0.05, sample_weight=weights, loss=loss)
    solution = bv2(problem, tol=1e-9)
    answer, least = solution.coef, solution.certificate.primal
    rng = np.random.default_rng(seed)
    gaps = [solution.certificate.gap]
    direction = rng.choice([-1.0, 1.0], answer.knots.size)
    for size in (1e-3, 1e-2, 1e-1):
        moved = LinearSpline(
            answer.knots, answer.values + size * direction, answer.left_slope - size, answer.right_slope + size
        )
        certificate = problem.certify(moved)
        assert certificate.dual <= least * (1 + 1e-9)
        assert certificate.primal >= least * (1 - 1e-9)
        gaps.append(certificate.gap)
    assert gaps[0] <= 1e-9
    assert min(gaps[1:]) > 10.0 * gaps[0]
    if not isinstance(loss, Pinball):  # whose pulls off the kink say little of the answer
        assert gaps == sorted(gaps)
    # Without its smallest knot, and with every jump on the neighbouring knot.
    k = int(np.argmin(np.abs(answer.jumps)))
    kept = np.arange(answer.knots.size) != k
    fewer = LinearSpline(answer.knots[kept], answer.values[kept], answer.left_slope, answer.right_slope)
    assert problem.certify(fewer).gap > 10.0 * max(gaps[0], 1e-10)


def test_the_certificate_is_exact_at_the_answer_and_at_another_lam_it_is_not():
    x, y, weights = sample(14, 300, weighted=True)
    problem = BV2Problem.from_samples(x, y, 0.02, sample_weight=weights)
    answer = knot_exchange(problem).coef
    assert problem.certify(answer).gap < 1e-12
    for lam in (0.0199, 0.0201):
        assert problem.with_lam(lam).certify(answer).gap > 1e-7


def test_the_dual_is_never_above_the_primal():
    x, y, _ = sample(15, 50)
    problem = BV2Problem.from_samples(x, y, 0.1)
    for seed in range(20):
        certificate = problem.certify(random_spline(seed))
        assert certificate.dual <= certificate.primal
    # An exact fit has nothing to certify.
    line = BV2Problem.from_samples(x, 2.0 * x - 1.0, 0.1)
    certificate = line.certify(LinearSpline([0.0], [-1.0], 2.0, 2.0))
    assert certificate.primal == pytest.approx(0.0, abs=1e-25)
    assert certificate.gap == pytest.approx(0.0, abs=1e-9)


# ------------------------------------------------------------------------------------------------- lam_max, units


@pytest.mark.parametrize(("duplicates", "weighted"), [(False, False), (True, False), (True, True)])
def test_lam_max_by_its_definition_and_by_an_interior_point_method(duplicates, weighted):
    x, y, weights = sample(21, 50, duplicates=duplicates, weighted=weighted)
    problem = BV2Problem.from_samples(x, y, 1.0, sample_weight=weights)
    flat = LinearSpline([0.0], [0.0], 0.0, 0.0)
    v, r, _ = slow_curve(x, y, np.ones(50) if weights is None else weights, flat, np.unique(x))
    assert problem.lam_max == pytest.approx(float(np.abs(v).max()), rel=1e-12)
    affine = 0.5 * float((r**2 * (1.0 if weights is None else weights)).sum())
    assert optimum(x, y, weights, 1.0001 * problem.lam_max, Squared()) == pytest.approx(affine, rel=1e-8)
    assert optimum(x, y, weights, 0.9 * problem.lam_max, Squared()) < affine * (1 - 1e-5)


def test_only_the_squared_loss_has_a_closed_form_of_lam_max():
    problem = BV2Problem.from_samples([0.0, 1.0], [0.0, 1.0], 1.0, loss="huber")
    with pytest.raises(ValueError, match=r"squared loss only; the loss is Huber\. Use pathnorm\.solvers\.bv2_lam_max"):
        _ = problem.lam_max


@every_loss
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from([1e-6, 1e-2, 1e3, 1e9]), shift=st.sampled_from([0.0, 3.0, -1e3]))
def test_units_of_x_and_of_the_weights_do_not_matter(loss, seed, unit, shift):
    x, y, weights = sample(seed, 80, loss, weighted=True)
    spline = random_spline(seed)
    here = BV2Problem.from_samples(x, y, 0.1, sample_weight=weights, loss=loss).certify(spline)
    far = LinearSpline(
        unit * (spline.knots + shift), spline.values, spline.left_slope / unit, spline.right_slope / unit
    )
    there = BV2Problem.from_samples(
        unit * (x + shift), y, 7.0 * unit * 0.1, sample_weight=7.0 * weights, loss=loss
    ).certify(far)
    assert there.primal == pytest.approx(7.0 * here.primal, rel=1e-7)
    # A dual point with pulls at their bounds may be badly conditioned.
    close = 1e-9 if isinstance(loss, Squared) else 1e-2
    assert there.dual == pytest.approx(7.0 * here.dual, rel=close, abs=1e-9 * abs(here.primal))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from([1e-12, 1e-3, 1e8]))
def test_units_of_y_and_a_common_line_do_not_matter(seed, unit):
    x, y, weights = sample(seed, 80, weighted=True)
    spline = random_spline(seed)
    here = BV2Problem.from_samples(x, y, 0.1, sample_weight=weights)
    line = LinearSpline([0.5], [4.0 * unit], 9.0 * unit, 9.0 * unit)
    there = BV2Problem.from_samples(x, unit * y + line(x), unit * 0.1, sample_weight=weights)
    moved = LinearSpline(
        spline.knots,
        unit * spline.values + line(spline.knots),
        unit * (spline.left_slope + 9.0),
        unit * (spline.right_slope + 9.0),
    )
    one, other = here.certify(spline), there.certify(moved)
    assert other.primal == pytest.approx(unit**2 * one.primal, rel=1e-10)
    assert other.dual == pytest.approx(unit**2 * one.dual, rel=1e-9, abs=1e-11 * unit**2 * one.primal)
    assert there.lam_max == pytest.approx(unit * here.lam_max, rel=1e-10)


# ------------------------------------------------------------------------------------------------- samples


def test_nothing_of_the_callers_is_kept_or_written_to():
    x, y, weights = (np.array(part) for part in sample(31, 40, weighted=True))
    originals = [part.copy() for part in (x, y, weights)]
    for part in (x, y, weights):
        part.flags.writeable = False
    order = np.argsort(x)
    for chosen in (slice(None), order):  # unsorted, and sorted already
        mine = [np.array(part[chosen]) for part in (x, y, weights)]
        problem = BV2Problem.from_samples(mine[0], mine[1], 0.1, sample_weight=mine[2])
        before = problem.certify(random_spline(0)).primal
        knot_exchange(problem)
        for part, original in zip(mine, originals, strict=True):
            np.testing.assert_array_equal(part, original[chosen])
            part[:] = -7.0
        assert problem.certify(random_spline(0)).primal == before
    BV2Problem.from_samples(x, y, 0.1, sample_weight=weights)  # read-only arrays will do


@pytest.mark.parametrize(
    ("x", "y", "weights", "message"),
    [
        ([0.0, np.nan], [0.0, 1.0], None, "x must be finite; got nan at position 1"),
        ([0.0, 1.0], [np.inf, 1.0], None, "y must be finite; got inf at position 0"),
        ([0.0, 1.0], [0.0, 1.0], [1.0, np.nan], "sample_weight must be finite; got nan at position 1"),
        ([0.0, 1.0], [0.0, 1.0], [1.0, -2.0], "sample_weight must not be negative; got -2"),
        ([0.0, 1.0], [0.0, 1.0], [1.0], "sample_weight must have one entry per sample, 2; got 1"),
        ([0.0, 1.0], [0.0, 1.0], [0.0, 0.0], "at least one sample is needed whose sample_weight is not zero; got none"),
        ([], [], None, "at least one sample"),
        ([0.0, 1.0], [0.0], None, "x and y must have the same length; got 2 and 1"),
        ([[0.0, 1.0]], [0.0, 1.0], None, r"x must be one-dimensional or a single column; got shape \(1, 2\)"),
        ([0.0, 1.0], [[0.0, 1.0]], None, r"y must be one-dimensional or a single column"),
        (0.0, [1.0], None, r"x must be one-dimensional or a single column; got shape \(\)"),
    ],
)
def test_bad_samples_are_refused_by_name(x, y, weights, message):
    with pytest.raises(DataError, match=message):
        BV2Problem.from_samples(x, y, 1.0, sample_weight=weights)


@pytest.mark.parametrize("lam", [-1.0, np.nan, np.inf])
def test_a_bad_lam_is_refused(lam):
    with pytest.raises(ValueError, match="lam must be a finite number >= 0"):
        BV2Problem.from_samples([0.0, 1.0], [0.0, 1.0], lam)


def test_targets_outside_the_loss_are_refused():
    with pytest.raises(ValueError, match="Poisson loss needs targets >= 0"):
        BV2Problem.from_samples([0.0, 1.0], [0.0, -1.0], 1.0, loss="poisson")
    with pytest.raises(ValueError, match="Encode the two classes as 0 and 1"):
        BV2Problem.from_samples([0.0, 1.0], [0.0, 2.0], 1.0, loss="logistic")


@every_loss
def test_samples_of_weight_zero_are_absent(loss):
    x, y, weights = sample(32, 40, loss, weighted=True)
    weights[::3] = 0.0
    kept = weights > 0.0
    one = BV2Problem.from_samples(x, np.where(kept, y, 0.5), 0.1, sample_weight=weights, loss=loss)
    other = BV2Problem.from_samples(x[kept], y[kept], 0.1, sample_weight=weights[kept], loss=loss)
    assert one.certify(random_spline(0)) == other.certify(random_spline(0))
    assert one.samples.count == kept.sum()


@pytest.mark.parametrize("loss", [Squared(), Logistic(), Poisson()], ids=repr)
def test_samples_at_one_x_are_merged(loss):
    x, y, weights = sample(33, 100, loss, duplicates=True, weighted=True)
    samples = BV2Problem.from_samples(x, y, 0.1, sample_weight=weights, loss=loss).samples
    np.testing.assert_array_equal(samples.x, np.unique(x))
    for site, mean, weight in zip(samples.x, samples.y, samples.weights, strict=True):
        here = x == site
        assert weight == pytest.approx(weights[here].sum())
        assert mean == pytest.approx(np.average(y[here], weights=weights[here]))
    assert samples.count == 100
    squares = sum(weights[i] * (y[i] - samples.y[samples.x == x[i]][0]) ** 2 for i in range(100))
    assert samples.spread == pytest.approx(0.5 * squares)
    # Merging twice counts nothing twice.
    assert samples.merged() is samples


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, cut=st.integers(1, 39), weighted=st.sampled_from([(True, True), (False, True), (False, False)]))
def test_samples_in_two_parts_are_those_in_one(seed, cut, weighted):
    x, y, _ = sample(seed, 40, duplicates=True)
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, 40)
    parts = [
        Samples.of(x[part], y[part], weights[part] if has else None)
        for part, has in zip((slice(0, cut), slice(cut, None)), weighted, strict=True)
    ]
    has = np.where(np.arange(40) < cut, *weighted)
    whole = Samples.of(x, y, np.where(has, weights, 1.0))
    joined = parts[0].join(parts[1])
    np.testing.assert_array_equal(joined.x, whole.x)
    np.testing.assert_array_equal(joined.y, whole.y)
    np.testing.assert_array_equal(joined.weights, whole.weights)
    assert joined.count == 40


def test_columns_and_lists_are_welcome():
    problem = BV2Problem.from_samples([[2], [1]], np.array([[3], [4]]), 1)
    np.testing.assert_array_equal(problem.samples.x, [1.0, 2.0])
    np.testing.assert_array_equal(problem.samples.y, [4.0, 3.0])
    assert isinstance(problem.lam, float)
