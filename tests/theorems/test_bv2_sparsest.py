"""Among the solutions over BV²(R) one has the fewest knots: a run of p knots of one sign becomes ceil(p / 2).

[Debarre, Denoyelle, Unser, Fageot 2022, Theorem 2]. The knots leave the data, the values there and the norm stay.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pathnorm.problems import BV2Problem
from pathnorm.representer import sparsest
from pathnorm.solvers import knot_exchange


def convex_data(n):
    """Samples of a parabola at irregular x: nearly every interior site is a knot, of positive sign."""
    x = np.cumsum(np.random.default_rng(n).uniform(0.5, 1.5, n)) / n
    return x, 5.0 * x**2


@pytest.mark.parametrize("n", [5, 6, 7, 8, 21, 40])
def test_the_fewest_knots_of_a_convex_interpolant(n):
    x, y = convex_data(n)
    problem = BV2Problem.from_samples(x, y, 1e-7)
    spline = knot_exchange(problem, tol=1e-6).coef
    assert spline.n_knots == n - 2
    best = sparsest(spline, x)
    assert best.n_knots == -(-(n - 2) // 2)
    np.testing.assert_allclose(best(x), spline(x), atol=1e-12)
    assert best.tv2 == pytest.approx(spline.tv2, rel=1e-10)
    assert problem.value(best) == pytest.approx(problem.value(spline), rel=1e-10)


@pytest.mark.parametrize("n", [5, 6, 7])
def test_no_spline_with_fewer_knots_meets_the_values(n):
    # Knots cut the line into pieces, each of which meets consecutive sites: every way of sharing the sites among
    # pieces is tried. A piece with three sites off one line is impossible, so each has at most two.
    x, _ = convex_data(n)
    spline = knot_exchange(BV2Problem.from_samples(*convex_data(n), 1e-7), tol=1e-6).coef
    values = spline(x)

    def on_one_line(i, j):
        return j - i <= 2 or np.abs(np.diff(np.diff(values[i:j]) / np.diff(x[i:j]))).max() < 1e-9

    def possible(pieces):
        for cuts in itertools.combinations_with_replacement(range(n + 1), pieces - 1):
            if all(on_one_line(i, j) for i, j in itertools.pairwise((0, *cuts, n))):
                return True
        return False

    least = next(k for k in itertools.count() if possible(k + 1))
    assert sparsest(spline, x).n_knots == least


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
def test_the_certificate_stays(share):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 1.0, 200))
    problem = BV2Problem.from_samples(x, np.exp(3.0 * x), 1.0)
    problem = problem.with_lam(share * problem.lam_max)
    solution = knot_exchange(problem)
    best = sparsest(solution.coef, x)
    assert best.n_knots < solution.coef.n_knots
    assert problem.certify(best).gap <= 1e-9
