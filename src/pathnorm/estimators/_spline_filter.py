"""The cubic smoothing spline by two Kalman filters that never divide by a gap.

The minimiser of ``sum_i w_i (y_i - f(x_i))^2 + lam int f''^2`` is the posterior mean of integrated Brownian motion
with a flat prior on its value and slope, and entry ii of the smoother matrix is w_i times the posterior variance of
f(x_i) [W78]. One filter runs from each side; at a site their information is added. O(N) time and memory.

The information on one side about value f and slope s is kept as ``a (f + b s - m)^2 + c (s - p / c)^2``: weight and
place of a centre of mass, and what is known of the slope. In these coordinates every update of a, b, c adds terms of
one sign, so nothing cancels, however small the gap or lam. (The matrix of Reinsch has entries 1 / gap^2.) The slope
itself is not kept: that of two samples 1e-12 apart is huge and counts for nothing.

[W78] Wahba, "Improper priors, spline smoothing and the problem of guarding against model errors", JRSS B 40, 1978.
"""

from __future__ import annotations

from numba import njit

__all__ = ["merge", "smooth"]


@njit(cache=True)
def merge(sites, weights, values, resolution):  # type: ignore[no-untyped-def]
    """Gather runs of samples within ``resolution`` of their first one, in place.

    sites (N,) ascending; weights (N,) > 0; values (N,). Returns the number of runs: that many leading entries now hold
    first site, sum of weights and weighted mean; and ``sum w (y - mean)^2`` over all runs.
    """
    count, within = 0, 0.0
    for i in range(1, sites.size):
        if sites[i] - sites[count] <= resolution:
            total = weights[count] + weights[i]
            step = values[i] - values[count]
            within += weights[count] * weights[i] / total * step * step
            values[count] += weights[i] / total * step
            weights[count] = total
        else:
            count += 1
            sites[count], weights[count], values[count] = sites[i], weights[i], values[i]
    return count + 1, within


@njit(cache=True)
def _cross(a, b, c, m, p, gap, rate):  # type: ignore[no-untyped-def]
    """Carry the information of the left over ``gap``, where f'' is white noise of variance ``rate`` = 1 / lam.

    b <= 0 before and after: the centre of mass lies to the left.
    """
    noise = rate * gap
    k = 1.0 + c * noise
    middle = b - 0.5 * gap
    third = gap * gap / 12.0
    spread = noise * (middle * middle + third * k)
    return (
        a * k / (k + a * spread),
        (b - gap - 0.5 * c * noise * gap) / k,
        c / k,
        m - noise * middle / k * p,
        p / k,
    )


@njit(cache=True)
def _see(a, b, c, m, p, weight, value):  # type: ignore[no-untyped-def]
    """Add ``weight (f - value)^2`` to the information."""
    total = a + weight
    pull = a * weight / total * b
    # A mean, not a correction of m: far from a pair 1e-12 apart m may be huge and a nothing.
    return total, a / total * b, c + pull * b, (a * m + weight * value) / total, p + pull * (m - value)


@njit(cache=True)
def smooth(gaps, weights, values, rate, left, fitted, slopes):  # type: ignore[no-untyped-def]
    """Write the fit and its derivative at the sites; return ``sum w (y - fit)^2`` and ``n - trace A``.

    gaps (n - 1,) > 0; weights, values, fitted, slopes (n,); left (n, 5) is work space, C-ordered: row i ends as the
    information of samples 0..i at site i. ``rate`` is 1 / lam, zero for the straight line.
    """
    n = weights.size
    a, b, c, m, p = weights[0], 0.0, 0.0, values[0], 0.0
    left[0, 0], left[0, 1], left[0, 2], left[0, 3], left[0, 4] = a, b, c, m, p
    for i in range(1, n):
        a, b, c, m, p = _cross(a, b, c, m, p, gaps[i - 1], rate)
        a, b, c, m, p = _see(a, b, c, m, p, weights[i], values[i])
        left[i, 0], left[i, 1], left[i, 2], left[i, 3], left[i, 4] = a, b, c, m, p

    rss, residual_dof = 0.0, 0.0
    a, b, c, m, p = 0.0, 0.0, 0.0, 0.0, 0.0  # of the samples to the right, mirrored: b, p belong to -x
    for i in range(n - 1, -1, -1):
        a_left, b_left, c_left, m_left, p_left = left[i, 0], left[i, 1], left[i, 2], left[i, 3], left[i, 4]
        total = a_left + a
        apart = b_left + b
        pull = a_left * a / total * apart
        slope_weight = c_left + c + pull * apart
        slope = 0.0
        variance = 1.0 / total
        centre = (a_left * b_left - a * b) / total
        if slope_weight > 0.0:
            slope = (p_left - p + pull * (m_left - m)) / slope_weight
            variance += centre * centre / slope_weight
        fitted[i] = (a_left * m_left + a * m) / total - centre * slope
        slopes[i] = slope
        residual = values[i] - fitted[i]
        rss += weights[i] * residual * residual
        residual_dof += 1.0 - min(1.0, weights[i] * variance)
        if i > 0:
            if i == n - 1:
                a, b, c, m, p = weights[i], 0.0, 0.0, values[i], 0.0
            else:
                a, b, c, m, p = _see(a, b, c, m, p, weights[i], values[i])
            a, b, c, m, p = _cross(a, b, c, m, p, gaps[i - 1], rate)
    return rss, residual_dof
