"""Some solution over R-BV² is a network with at most N - d - 1 neurons [Parhi & Nowak 2021, Theorem 1].

What the solver returns need not be that one; :func:`pathnorm.sparsify` leads there at the same objective.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm import sparsify
from pathnorm.problems import RBV2Problem
from pathnorm.solvers import rbv2


# The statement is about the answer at hand, however close to the optimum it is.
@pytest.mark.filterwarnings("ignore::pathnorm.errors.CertificateWarning")
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), inputs=st.integers(1, 3), outputs=st.integers(1, 2))
def test_a_solution_has_no_more_neurons_than_samples_beyond_the_affine_ones(loss, seed, inputs, outputs):
    rng = np.random.default_rng(seed)
    rows = inputs + int(rng.integers(3, 9))
    X = rng.standard_normal((rows, inputs))
    Y = rng.standard_normal((rows, outputs)) if loss == "squared" else rng.integers(0, 2, (rows, outputs)).astype(float)
    affine = "free" if loss == "squared" else "ridge"
    problem = RBV2Problem.from_samples(X, Y, lam=0.01, loss=loss, affine=affine)
    solution = rbv2(problem, tol=1e-4)
    if affine == "free":
        fewer = sparsify(solution.coef, X)
        assert fewer.n_neurons <= outputs * (rows - inputs - 1)
    else:
        fewer = sparsify(solution.coef, X, affine="none")
        assert fewer.n_neurons <= outputs * rows
    assert problem.value(fewer) <= problem.value(solution.coef) * (1.0 + 1e-9) + 1e-12
    np.testing.assert_allclose(fewer(X), solution.coef(X), atol=1e-8)


def test_any_start_with_many_neurons_ends_with_few():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), rng.standard_normal(12)
    problem = RBV2Problem.from_samples(X, y, lam=1e-3)
    assert sparsify(rbv2(problem, tol=1e-6).coef, X).n_neurons <= 12 - 2 - 1
