"""The multitask lasso as a problem: moments, blocks, value, certificate, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.problems import MultitaskLasso

torch = pytest.importorskip("torch")

SEEDS = st.integers(0, 10**6)
SIZES = (2, 1, 3)


def samples(seed, n_samples=12, n_rows=6, n_outputs=3):
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n_samples, n_rows)), 0.0)
    return features, rng.standard_normal((n_samples, n_outputs)), rng.standard_normal((n_rows, n_outputs))


def direct_value(features, targets, coef, lam, weights=None, sizes=None):
    blocks = np.split(coef, np.cumsum(sizes)[:-1]) if sizes else list(coef)
    norms = [np.linalg.norm(block) for block in blocks]
    weights = np.ones(len(norms)) if weights is None else weights
    return 0.5 * np.sum((targets - features @ coef) ** 2) + lam * weights @ norms


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, lam=st.floats(1e-3, 1e3))
def test_value_is_the_objective_written_in_samples(seed, lam):
    features, targets, coef = samples(seed)
    weights = np.array([0.5, 2.0, 1.0])
    problem = MultitaskLasso.from_samples(features, targets, lam, weights, block_sizes=SIZES)
    assert problem.value(coef) == pytest.approx(direct_value(features, targets, coef, lam, weights, SIZES), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_value_is_never_below_the_penalty(seed):
    # An exact fit: rounding of the moments leaves a squared residual of either sign.
    features, _, coef = samples(seed)
    problem = MultitaskLasso.from_samples(features, features @ coef, 1e-15)
    assert problem.value(coef) >= 1e-15 * problem.path_norm(coef) > 0.0


def test_a_gram_summed_in_float32_is_made_symmetric():
    gram = np.eye(4)
    gram[0, 1] = 1e-7
    problem = MultitaskLasso.from_moments(gram, np.ones((4, 2)), 8.0, 0.5)
    assert problem.gram[0, 1] == problem.gram[1, 0] == 5e-8


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_moments_carry_the_whole_problem(seed):
    features, targets, coef = samples(seed)
    from_samples = MultitaskLasso.from_samples(features, targets, 0.3)
    from_moments = MultitaskLasso.from_moments(features.T @ features, features.T @ targets, np.sum(targets**2), 0.3)
    assert from_samples.certify(coef).primal == pytest.approx(from_moments.certify(coef).primal, rel=1e-12)
    assert from_samples.certify(coef).dual == pytest.approx(from_moments.certify(coef).dual, rel=1e-9, abs=1e-9)
    assert from_samples.lam_max == pytest.approx(from_moments.lam_max, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_blocks_of_one_row_are_plain_neurons(seed):
    features, targets, coef = samples(seed)
    plain = MultitaskLasso.from_samples(features, targets, 0.3)
    for sizes in (1, [1] * 6, np.int64(1)):
        blocked = MultitaskLasso.from_samples(features, targets, 0.3, block_sizes=sizes)
        assert blocked.certify(coef) == plain.certify(coef)
        assert blocked.n_neurons == plain.n_neurons == 6


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_block_norms_of_uniform_and_of_listed_sizes(seed):
    features, targets, coef = samples(seed)
    uniform = MultitaskLasso.from_samples(features, targets, 0.3, block_sizes=2)
    listed = MultitaskLasso.from_samples(features, targets, 0.3, [1.0, 2.0, 4.0], block_sizes=SIZES)
    np.testing.assert_allclose(
        uniform.block_norms(coef), [np.linalg.norm(coef[i : i + 2]) for i in (0, 2, 4)], rtol=1e-14
    )
    norms = np.array([np.linalg.norm(coef[:2]), np.linalg.norm(coef[2]), np.linalg.norm(coef[3:])])
    np.testing.assert_allclose(listed.block_norms(coef), norms, rtol=1e-14)
    assert listed.path_norm(coef) == pytest.approx(norms @ [1.0, 2.0, 4.0], rel=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_lam_max_is_where_zero_becomes_optimal(seed):
    features, targets, coef = samples(seed)
    problem = MultitaskLasso.from_samples(features, targets, 1.0, [1.0, 3.0, 0.2], block_sizes=SIZES)
    zero = np.zeros_like(coef)
    assert problem.with_lam(problem.lam_max * (1 + 1e-12)).certify(zero).gap < 1e-12
    assert problem.with_lam(problem.lam_max * 0.99).certify(zero).gap > 1e-6


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_torch_and_numpy_agree(seed):
    features, targets, coef = samples(seed)
    weights = np.array([0.5, 2.0, 1.0])
    here = MultitaskLasso.from_samples(features, targets, 0.3, weights, block_sizes=SIZES)
    there = MultitaskLasso.from_samples(
        torch.from_numpy(features), torch.from_numpy(targets), 0.3, weights, block_sizes=SIZES
    )
    one, other = here.certify(coef), there.certify(torch.from_numpy(coef))
    assert one.primal == pytest.approx(other.primal, rel=1e-12)
    assert one.dual == pytest.approx(other.dual, rel=1e-9, abs=1e-9)
    assert here.lam_max == pytest.approx(there.lam_max, rel=1e-12)
    assert isinstance(there.block_norms(torch.from_numpy(coef)), torch.Tensor)


def test_float32_and_lists_are_computed_in_float64():
    features, targets, coef = samples(0)
    problem = MultitaskLasso.from_samples(features.astype(np.float32), targets.tolist(), 0.3)
    assert problem.gram.dtype == np.float64
    assert problem.block_norms(coef.astype(np.float32)).dtype == np.float64


def test_a_torch_answer_may_require_grad():
    features, targets, coef = samples(0)
    problem = MultitaskLasso.from_samples(torch.from_numpy(features), torch.from_numpy(targets), 0.3)
    assert problem.value(torch.from_numpy(coef).requires_grad_()) > 0.0


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_caller_keeps_the_arrays(seed):
    features, targets, coef = samples(seed)
    gram, cross = features.T @ features, features.T @ targets
    copies = gram.copy(), cross.copy()
    problem = MultitaskLasso.from_moments(gram, cross, np.sum(targets**2), 0.3)
    before = problem.value(coef)
    assert np.array_equal(gram, copies[0])
    assert np.array_equal(cross, copies[1])
    gram[:], cross[:] = 0.0, 0.0
    assert problem.value(coef) == before


def test_with_lam_shares_the_moments():
    features, targets, _ = samples(0)
    problem = MultitaskLasso.from_samples(features, targets, 0.3)
    other = problem.with_lam(0.1)
    assert (problem.lam, other.lam) == (0.3, 0.1)
    assert other.gram is problem.gram


def test_a_problem_is_frozen():
    features, targets, _ = samples(0)
    problem = MultitaskLasso.from_samples(features, targets, 0.3)
    with pytest.raises(AttributeError):
        problem.lam = 1.0


GOOD = {"gram": np.eye(4), "cross": np.ones((4, 2)), "energy": 8.0, "lam": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 0.0}, r"lam must be a finite number > 0; got 0.0. Start below"),
        ({"lam": np.nan}, r"lam must be .* got nan"),
        ({"energy": -1.0}, r"energy must be .* got -1.0. Pass the sum"),
        ({"gram": np.ones((4, 3))}, r"gram must be \(P, P\) .* got \(4, 3\)"),
        ({"gram": np.triu(np.ones((4, 4)))}, r"gram must be symmetric .* asymmetry of 1 "),
        ({"gram": -np.eye(4)}, r"smallest diagonal entry of -1 "),
        ({"gram": np.full((4, 4), np.nan)}, r"gram must be finite; got 16 entries"),
        ({"cross": np.ones(4)}, r"cross must be two-dimensional .* got shape \(4,\)"),
        ({"cross": np.ones((3, 2))}, r"cross \(P, D\); got \(4, 4\) and \(3, 2\)"),
        ({"cross": np.array([[1.0, np.inf]] * 4)}, r"cross must be finite; got 4 entries"),
        ({"weights": np.ones(3)}, r"weights must have one entry per neuron, \(4,\); got shape \(3,\)"),
        ({"weights": np.array([1.0, 0.0, 1.0, 1.0])}, r"weights must be > 0; got a smallest weight of 0"),
        ({"weights": np.array([1.0, np.nan, 1.0, 1.0])}, r"weights must be finite; got 1"),
        ({"block_sizes": 3}, r"block_sizes must be positive and sum to the 4 features; got 3"),
        ({"block_sizes": [2, 3]}, r"block_sizes must .* got \[2, 3\]"),
        ({"block_sizes": [5, -1]}, r"block_sizes must .* got \[5, -1\]"),
        ({"block_sizes": 0}, r"block_sizes must .* got 0"),
    ],
)
def test_refusals_say_what_was_received(change, message):
    with pytest.raises(ValueError, match=message):
        MultitaskLasso.from_moments(**(GOOD | change))


def test_kinds_of_arrays_do_not_mix():
    features, targets, coef = samples(0)
    with pytest.raises(TypeError, match=r"targets must be of the same kind .* got Tensor beside ndarray"):
        MultitaskLasso.from_samples(features, torch.from_numpy(targets), 0.3)
    problem = MultitaskLasso.from_samples(features, targets, 0.3)
    with pytest.raises(TypeError, match="coef must be of the same kind"):
        problem.certify(torch.from_numpy(coef))


def test_samples_and_coef_must_fit():
    features, targets, coef = samples(0)
    with pytest.raises(ValueError, match="got 12 and 11 rows"):
        MultitaskLasso.from_samples(features, targets[:-1], 0.3)
    problem = MultitaskLasso.from_samples(features, targets, 0.3)
    with pytest.raises(ValueError, match=r"coef must have the shape of cross, \(6, 3\); got \(3, 6\)"):
        problem.certify(coef.T)


def test_moments_of_no_samples_are_refused():
    problem = MultitaskLasso.from_moments(**(GOOD | {"energy": 1.0}))
    with pytest.raises(ValueError, match="must be the moments of one set of samples"):
        problem.certify(np.ones((4, 2)))
