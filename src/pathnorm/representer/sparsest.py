"""The solution over BV²(R) with the fewest knots."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pathnorm.spaces import LinearSpline
from pathnorm.spaces.spline import disjoint_pairs

__all__ = ["sparsest"]


def sparsest(spline: LinearSpline, sites: ArrayLike) -> LinearSpline:
    """The spline with the fewest knots among those of equal TV(f') and equal values at the sites.

    A solution whose knots are at the data has runs of knots at consecutive sites with jumps of one sign. Inside such a
    run only the values at the sites matter: two neighbours may become one knot where the lines before and behind them
    meet, so a run of p knots becomes one of ceil(p / 2), and no solution has fewer [DDUF22, Thm 2]. The penalty and
    the values at all sites stay, so the certificate does too. Where the values at the data are unique, as for every
    strictly convex loss, this is the sparsest solution of all.

    Parameters
    ----------
    spline : LinearSpline
        With its knots at sites.
    sites : array (n,)
        Distinct positions of the data, sorted.

    References
    ----------
    .. [DDUF22] Debarre, Denoyelle, Unser, Fageot, "Sparsest piecewise-linear regression of one-dimensional data",
       Journal of Computational and Applied Mathematics 406, 2022.
    """
    sites = np.asarray(sites, dtype=np.float64)
    jumps = spline.jumps
    keep = jumps != 0.0
    if not keep.any():
        return spline
    spline = LinearSpline(spline.knots[keep], spline.values[keep], spline.left_slope, spline.right_slope)
    at, sign = np.searchsorted(sites, spline.knots), np.sign(jumps[keep])
    on_site = sites[np.minimum(at, sites.size - 1)] == spline.knots
    joined = (np.diff(at) == 1) & (sign[1:] == sign[:-1]) & on_site[1:] & on_site[:-1]
    first = disjoint_pairs(joined)
    return spline.merge_knots(first) if first.size else spline
