"""The proximal operator of the second-order total variation of linear splines on a uniform grid, many at once.

The dual of one spline is a quadratic program with bounds, one variable per slope jump, and its matrix is pentadiagonal.
Block pivoting [JP92] guesses which bounds are active, solves for the rest in O(K), and corrects the guess, some rounds
long.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from pathnorm.problems import BV2Problem
from pathnorm.solvers import bv2

__all__ = ["prox_tv2"]

Vector = NDArray[np.float64]
Signs = NDArray[np.int64]

_PATIENCE = 3  # rounds that may correct many guesses at once without getting closer
_TOL = 1e-12  # rounding errors of a jump, in units of the values


def prox_tv2(values: Tensor, lam: float, *, step: float = 1.0, rounds: int = 100) -> Tensor:
    """Minimiser of ``1/2 sum_k (f_k - c_k)^2 + lam TV(f')`` for each row c of ``values``.

    f runs over the linear splines with knots a distance ``step`` apart, for which ``TV(f') = sum_k |f_{k-1} - 2 f_k +
    f_{k+1}| / step``. This is the BV² problem of the K samples ``(k step, c_k)``, and so f is its minimiser over the
    whole function space [MM95]. Jumps that the minimiser does not need are zero up to the rounding of its values.

    Parameters
    ----------
    values : torch.Tensor, shape (C, K), K >= 3
        Finite; on any device, of any floating type. Computed in double precision on the processor.
    lam : float
        Not negative; in units of values times x.
    step : float
        Positive.
    rounds : int
        Most rounds of pivoting for one row. Rows that need more, which is rare for K of a few dozen, go to
        :func:`pathnorm.solvers.bv2`, which is exact too, and slower.

    Returns
    -------
    torch.Tensor, shape (C, K)
        New, of the type and on the device of ``values``.

    References
    ----------
    .. [JP92] Júdice, Pires, "Basic-set algorithm for a generalized linear complementarity problem", Journal of
       Optimization Theory and Applications 74, 1992.
    .. [MM95] Mammen, van de Geer, "Locally adaptive regression splines", Annals of Statistics 25, 1997.
    """
    if values.ndim != 2 or values.shape[1] < 3:
        raise ValueError(
            f"values must have shape (C, K), K at least 3; got {tuple(values.shape)}. Give one spline as values[None]."
        )
    if not (math.isfinite(lam) and lam >= 0.0):
        raise ValueError(f"lam must be a finite number >= 0; got {lam!r}. Zero leaves the values as they are.")
    if not (math.isfinite(step) and step > 0.0):
        raise ValueError(f"step must be a finite number > 0; got {step!r}. Give the distance between two knots.")
    rows = np.array(values.detach().cpu().double().numpy(), order="C")
    if not np.isfinite(rows).all():
        raise ValueError(
            f"values must be finite; {int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} splines have NaN or "
            "infinity. If training diverged before this step, lower the learning rate or clip gradients."
        )
    if lam > 0.0:
        solved = _solve(rows, lam / step, rounds)
        x = step * np.arange(rows.shape[1])
        for row in np.flatnonzero(~solved):
            rows[row] = bv2(BV2Problem.from_samples(x, rows[row], lam)).coef(x)
    return torch.from_numpy(rows).to(values)


def _solve_rows(rows: Vector, lam: float, rounds: int) -> NDArray[np.bool_]:
    """Solve rows (C, K) in place for knots a distance 1 apart; say which. Those that took too long stay as they were.

    C-ordered. With second differences D, in every round ``f = c - D'u``, ``u == lam sign`` where sign is not 0, and
    ``D f == 0`` where it is.
    """
    count = rows.shape[1] - 2
    solved = np.zeros(rows.shape[0], dtype=np.bool_)
    sign, target, u = np.empty(count, dtype=np.int64), np.empty(count), np.empty(count + 4)
    work = np.empty((4, count + 4))
    for row in range(rows.shape[0]):
        c = rows[row]
        scale = 0.0
        for k in range(c.size):
            scale = max(scale, abs(c[k]))
        for j in range(count):
            target[j] = c[j] - 2.0 * c[j + 1] + c[j + 2]
            # 6 is the diagonal of D D': what a jump would do on its own.
            sign[j] = 0 if abs(target[j]) <= 6.0 * lam else (1 if target[j] > 0.0 else -1)
        fewest, patience = count + 1, _PATIENCE
        for _ in range(rounds):
            _solve_free(sign, target, lam, work, u)
            wrong = _correct(sign, target, u, (lam, _TOL * scale), False)
            if wrong == 0:
                solved[row] = True
                _write(c, sign, u)
                break
            if wrong < fewest:
                fewest, patience = wrong, _PATIENCE
            elif patience > 0:
                patience -= 1
            # Correcting one guess at a time, always the last, cannot cycle.
            _correct(sign, target, u, (lam, _TOL * scale), patience == 0, True)
    return solved


def _solve_free_of(sign: Signs, target: Vector, lam: float, work: Vector, u: Vector) -> None:
    """Set ``u`` to ``lam sign`` where sign is not 0, and so that ``D D' u == target`` where it is.

    u (count + 4) has two zeros at either end; so have the rows of work (4, count + 4): bounds, the off-diagonals L1 and
    L2 of the factors L diag L' of the free part, the rest of the matrix being identity, and 1 / diag.
    """
    bound, first, second, inverse = work[0], work[1], work[2], work[3]
    work[:] = 0.0
    for j in range(sign.size):
        bound[j + 2] = lam * sign[j]
    u[:] = bound
    for j in range(2, sign.size + 2):
        if sign[j - 2] != 0:
            inverse[j] = 1.0
            continue
        # No division by what lies outside or is known: inverse is 0 there, or the entry is.
        near = -4.0 if j >= 3 and sign[j - 3] == 0 else 0.0
        far = 1.0 if j >= 4 and sign[j - 4] == 0 else 0.0
        second[j] = far * inverse[j - 2]
        left = near - far * first[j - 1]
        first[j] = left * inverse[j - 1] if near != 0.0 else 0.0
        known = bound[j - 2] - 4.0 * (bound[j - 1] + bound[j + 1]) + bound[j + 2]
        inverse[j] = 1.0 / (6.0 - first[j] * left - second[j] * far)
        u[j] = target[j - 2] - known - first[j] * u[j - 1] - second[j] * u[j - 2]
    for j in range(sign.size + 1, 1, -1):
        u[j] = u[j] * inverse[j] - first[j + 1] * u[j + 1] - second[j + 2] * u[j + 2]


def _correct_guesses(
    sign: Signs, target: Vector, u: Vector, limits: tuple[float, float], one: bool, write: bool = False
) -> int:
    """Count the guesses that u contradicts; if ``write``, correct them, or with ``one`` the last of them."""
    lam, tiny = limits
    wrong = 0
    for j in range(sign.size - 1, -1, -1):
        if sign[j] == 0:
            new = 0 if abs(u[j + 2]) <= lam * (1.0 + 1e-10) else (1 if u[j + 2] > 0.0 else -1)
        else:
            jump = target[j] - (u[j] - 4.0 * u[j + 1] + 6.0 * u[j + 2] - 4.0 * u[j + 3] + u[j + 4])
            new = 0 if sign[j] * jump < -tiny else sign[j]
        if new != sign[j]:
            wrong += 1
            if write:
                sign[j] = new
                if one:
                    return wrong
    return wrong


def _write_values(c: Vector, sign: Signs, u: Vector) -> None:
    """Turn c into ``c - D'u``, with straight lines between the knots that are left."""
    last = c.size - 1
    for k in range(c.size):
        c[k] -= u[k] - 2.0 * u[k + 1] + u[k + 2]
    begin = 0
    for end in range(1, c.size):
        if end == last or sign[end - 1] != 0:
            slope = (c[end] - c[begin]) / (end - begin)
            for k in range(begin + 1, end):
                c[k] = c[begin] + slope * (k - begin)
            begin = end


_solve_free = njit(cache=True)(_solve_free_of)
_correct = njit(cache=True)(_correct_guesses)
_write = njit(cache=True)(_write_values)
_solve = njit(cache=True)(_solve_rows)
