"""The solver of the multitask lasso: references, invariances, hard cases, contract."""

import warnings

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import MultiTaskLasso as SklearnMultiTaskLasso

from pathnorm.errors import CertificateWarning
from pathnorm.problems import MultitaskLasso
from pathnorm.solvers import Status, multitask_lasso, multitask_lasso_path

torch = pytest.importorskip("torch")

SEEDS = st.integers(0, 10**6)
SHARES = st.floats(0.01, 0.9)


def relu_layer(seed, n_samples=40, n_rows=15, n_outputs=3):
    """Correlated ReLU features, and targets that need a third of them."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n_samples, 4))
    features = np.maximum(latent @ rng.standard_normal((4, n_rows)) + rng.standard_normal(n_rows), 0.0)
    features += 0.05 * rng.standard_normal(features.shape)
    coef = rng.standard_normal((n_rows, n_outputs)) * (rng.random((n_rows, 1)) < 0.3)
    return features, features @ coef + 0.3 * rng.standard_normal((n_samples, n_outputs))


def layer_problem(seed, share, **options):
    features, targets = relu_layer(seed)
    problem = MultitaskLasso.from_samples(features, targets, 1.0, **options)
    return problem.with_lam(share * problem.lam_max)


def active(problem, coef):
    return np.flatnonzero(problem.block_norms(coef) > 0.0)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("sizes", [None, 3, (1, 4, 2, 8)])
def test_cvxpy_finds_the_same_optimum(share, sizes):
    features, targets = relu_layer(3)
    n_neurons = MultitaskLasso.from_samples(features, targets, 1.0, block_sizes=sizes).n_neurons
    weights = np.linspace(0.5, 2.0, n_neurons)
    problem = MultitaskLasso.from_samples(features, targets, 1.0, weights, block_sizes=sizes)
    problem = problem.with_lam(share * problem.lam_max)
    solution = multitask_lasso(problem, tol=1e-9)

    coef = cvxpy.Variable((features.shape[1], targets.shape[1]))
    ends = np.cumsum(problem.blocks.sizes)
    norms = [
        weight * cvxpy.norm(coef[end - size : end], "fro")
        for weight, end, size in zip(weights, ends, problem.blocks.sizes, strict=True)
    ]
    objective = 0.5 * cvxpy.sum_squares(targets - features @ coef) + problem.lam * sum(norms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside cvxpy
        optimum = cvxpy.Problem(cvxpy.Minimize(objective)).solve(solver=cvxpy.CLARABEL)
    assert solution.certificate.primal == pytest.approx(optimum, rel=1e-6)
    assert solution.certificate.dual <= optimum * (1 + 1e-6)
    np.testing.assert_allclose(solution.coef, coef.value, atol=1e-3)


@pytest.mark.parametrize("share", [0.3, 0.03])
def test_scikit_learn_finds_the_same_coefficients(share):
    features, targets = relu_layer(7)
    problem = layer_problem(7, share)
    solution = multitask_lasso(problem, tol=1e-10)
    peer = SklearnMultiTaskLasso(
        alpha=problem.lam / len(features), fit_intercept=False, tol=1e-10, max_iter=200_000
    ).fit(features, targets)
    np.testing.assert_allclose(solution.coef, peer.coef_.T, atol=1e-4)
    assert list(active(problem, solution.coef)) == list(np.flatnonzero(np.any(peer.coef_.T, axis=1)))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=SHARES, factor=st.floats(1e-3, 1e3))
def test_targets_and_lam_scale_the_answer(seed, share, factor):
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share)
    scaled = MultitaskLasso.from_samples(features, factor * targets, factor * problem.lam)
    one, other = multitask_lasso(problem, tol=1e-10), multitask_lasso(scaled, tol=1e-10)
    assert other.certificate.primal == pytest.approx(factor**2 * one.certificate.primal, rel=1e-8)
    np.testing.assert_allclose(other.coef, factor * one.coef, atol=2e-2 * factor)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=SHARES)
def test_rescaled_neurons_are_the_same_neurons(seed, share):
    # phi_k -> a_k phi_k and c_k -> a_k c_k leave the layer and its path norm alone.
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share)
    scales = 10.0 ** np.random.default_rng(seed).uniform(-3.0, 3.0, problem.n_neurons)
    rescaled = MultitaskLasso.from_samples(features * scales, targets, problem.lam, scales)
    one, other = multitask_lasso(problem, tol=1e-9), multitask_lasso(rescaled, tol=1e-9)
    assert other.certificate.primal == pytest.approx(one.certificate.primal, rel=1e-8)
    assert abs(one.n_iter - other.n_iter) <= 5


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=SHARES)
def test_the_order_of_neurons_does_not_matter(seed, share):
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share)
    order = np.random.default_rng(seed).permutation(problem.n_neurons)
    permuted = MultitaskLasso.from_samples(features[:, order], targets, problem.lam)
    one, other = multitask_lasso(problem, tol=1e-10), multitask_lasso(permuted, tol=1e-10)
    assert other.certificate.primal == pytest.approx(one.certificate.primal, rel=1e-9)
    np.testing.assert_allclose(other.coef, one.coef[order], atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=SHARES)
def test_samples_seen_twice_double_the_objective(seed, share):
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share)
    doubled = MultitaskLasso.from_samples(
        np.vstack([features, features]), np.vstack([targets, targets]), 2 * problem.lam
    )
    one, other = multitask_lasso(problem, tol=1e-9), multitask_lasso(doubled, tol=1e-9)
    assert other.certificate.primal == pytest.approx(2 * one.certificate.primal, rel=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=SHARES)
def test_a_duplicated_neuron_changes_neither_optimum_nor_path_norm(seed, share):
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share)
    twin = MultitaskLasso.from_samples(np.hstack([features, features[:, :4]]), targets, problem.lam)
    one, other = multitask_lasso(problem, tol=1e-9), multitask_lasso(twin, tol=1e-9)
    assert other.certificate.primal == pytest.approx(one.certificate.primal, rel=1e-8)
    assert twin.path_norm(other.coef) == pytest.approx(problem.path_norm(one.coef), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, share=st.floats(0.5, 2.0), size=st.sampled_from([1, 3]))
def test_lam_max_separates_zero_from_the_rest(seed, share, size):
    problem = layer_problem(seed, share, block_sizes=size)
    solution = multitask_lasso(problem, tol=1e-9)
    if share >= 1.0:
        assert not np.any(solution.coef)
        assert solution.n_iter == 0
    elif share < 0.999:
        assert np.any(solution.coef)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, share=SHARES, size=st.sampled_from([None, 5, (2, 3, 10)]))
def test_torch_and_numpy_return_the_same_answer_in_their_own_kind(seed, share, size):
    features, targets = relu_layer(seed)
    problem = layer_problem(seed, share, block_sizes=size)
    tensors = MultitaskLasso.from_samples(
        torch.from_numpy(features), torch.from_numpy(targets), problem.lam, block_sizes=size
    )
    here, there = multitask_lasso(problem, tol=1e-9), multitask_lasso(tensors, tol=1e-9)
    assert isinstance(here.coef, np.ndarray)
    assert isinstance(there.coef, torch.Tensor)
    assert there.certificate.primal == pytest.approx(here.certificate.primal, rel=1e-8)
    np.testing.assert_allclose(there.coef.numpy(), here.coef, atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, log_share=st.floats(-4.0, -0.1), kind=st.integers(0, 3))
def test_hard_features_are_solved_all_the_same(seed, log_share, kind):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((20, 30))
    match kind:
        case 0:  # fewer samples than neurons
            features = features[:5]
        case 1:  # dead neurons and copies
            features = features[:, rng.integers(0, 10, 30)] * (rng.random(30) < 0.7)
            features[:, 0] = 1.0
        case 2:  # singular values over six decades
            u, _, vt = np.linalg.svd(features, full_matrices=False)
            features = u * 10.0 ** -np.linspace(0.0, 3.0, 20) @ vt
        case 3:  # scales over six decades
            features = features * 10.0 ** rng.uniform(-3.0, 3.0, 30)
    targets = rng.standard_normal((len(features), 2))
    problem = MultitaskLasso.from_samples(features, targets, 1.0)
    problem = problem.with_lam(10.0**log_share * problem.lam_max)
    solution = multitask_lasso(problem)
    assert solution.certificate.gap <= 1e-6
    assert solution.converged


@pytest.mark.parametrize("share", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("seed", range(4))
def test_tight_gaps_take_few_steps(seed, share):
    # Newton points are free of the rounding that soft-thresholding multiplies by sigma.
    solution = multitask_lasso(layer_problem(seed, share), tol=1e-11)
    assert solution.certificate.gap <= 1e-11
    assert solution.n_iter <= 50


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, share=SHARES)
def test_more_outputs_than_neurons(seed, share):
    features, targets = relu_layer(seed)
    wide = targets @ np.random.default_rng(seed).standard_normal((3, 40))
    problem = MultitaskLasso.from_samples(features, wide, 1.0)
    problem = problem.with_lam(share * problem.lam_max)
    solution = multitask_lasso(problem, tol=1e-8)
    rows = active(problem, solution.coef)
    assert solution.coef.shape == (15, 40)
    assert solution.certificate.gap <= 1e-8
    assert not np.any(np.delete(solution.coef, rows, axis=0))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_zero_targets_have_the_zero_layer(kind):
    features = relu_layer(0)[0]
    targets = np.zeros((40, 2))
    if kind == "torch":
        features, targets = torch.from_numpy(features), torch.from_numpy(targets)
    solution = multitask_lasso(MultitaskLasso.from_samples(features, targets, 0.5))
    assert float(abs(solution.coef).max()) == 0.0
    assert (solution.certificate.primal, solution.certificate.gap) == (0.0, 0.0)


def test_a_path_is_the_solutions_in_the_order_asked():
    problem = layer_problem(5, 0.5)
    lams = [0.01 * problem.lam_max, 2.0 * problem.lam_max, 0.2 * problem.lam_max]
    path = multitask_lasso_path(problem, lams, tol=1e-9)
    assert [solution.problem.lam for solution in path] == lams
    assert all(solution.converged for solution in path)
    assert not np.any(path[1].coef)
    for solution, lam in zip(path, lams, strict=True):
        alone = multitask_lasso(problem.with_lam(lam), tol=1e-9)
        assert solution.certificate.primal == pytest.approx(alone.certificate.primal, rel=1e-8)
    assert multitask_lasso_path(problem, []) == []


def test_a_path_starts_from_the_last_solution():
    problem = layer_problem(5, 0.1)
    first, second = multitask_lasso_path(problem, [problem.lam, problem.lam])
    assert first.n_iter > 0
    assert second.n_iter == 0


def test_a_start_is_used_and_not_written_to():
    problem = layer_problem(5, 0.1)
    solution = multitask_lasso(problem, tol=1e-6)
    start = solution.coef.copy()
    again = multitask_lasso(problem, start=start, tol=1e-6)
    assert again.n_iter == 0
    assert again.coef is not start
    multitask_lasso(problem.with_lam(0.5 * problem.lam), start=start)
    assert np.array_equal(start, solution.coef)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_start_at_which_no_neuron_is_active(kind, capfd):
    features, targets = relu_layer(5)
    start = np.linalg.lstsq(features, targets, rcond=None)[0]
    if kind == "torch":
        features, targets, start = (torch.from_numpy(array) for array in (features, targets, start))
    problem = MultitaskLasso.from_samples(features, targets, 1.0)
    assert multitask_lasso(problem.with_lam(0.99 * problem.lam_max), start=start).converged
    assert capfd.readouterr() == ("", "")  # LAPACK prints where it is given an empty matrix


def test_too_few_steps_are_a_status_and_a_warning():
    problem = layer_problem(5, 0.01)
    with pytest.warns(CertificateWarning, match=r"raise max_iter.* Relative gap .*, 2 Newton steps"):
        solution = multitask_lasso(problem, max_iter=2)
    assert solution.status is Status.MAX_ITER
    assert not solution.converged
    assert solution.n_iter == 2
    # The certificate holds all the same.
    assert solution.certificate.dual <= multitask_lasso(problem).certificate.primal


def test_rounding_is_named_when_the_tolerance_is_out_of_reach():
    problem = layer_problem(5, 0.01)
    with pytest.warns(CertificateWarning, match="rounding error of the data: raise tol"):
        solution = multitask_lasso(problem, tol=1e-18, max_iter=10_000)
    assert solution.status is Status.STALLED
    assert solution.certificate.gap < 1e-10


def test_an_indefinite_gram_is_refused():
    gram = np.array([[1.0, 2.0], [2.0, 1.0]])
    problem = MultitaskLasso.from_moments(gram, np.array([[1.0], [-1.0]]), 1.0, 1e-3)
    with pytest.raises(ValueError, match="must be the moments of one set of samples"):
        multitask_lasso(problem)


def test_bad_arguments_are_refused():
    problem = layer_problem(0, 0.5)
    with pytest.raises(ValueError, match=r"tol must be > 0 .* got tol=0.0"):
        multitask_lasso(problem, tol=0.0)
    with pytest.raises(ValueError, match=r"coef must have the shape of cross"):
        multitask_lasso(problem, start=np.zeros((2, 2)))
