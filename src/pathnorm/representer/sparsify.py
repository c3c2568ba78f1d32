"""The same values on the samples with as few neurons as the representer theorem needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathnorm.representer._caratheodory import independent
from pathnorm.representer._cells import Neurons, blocks, merge_cells
from pathnorm.spaces import ShallowNet

__all__ = ["sparsify"]

Matrix = NDArray[np.float64]

_DEPENDENT = 1e-12  # inputs that are affine functions of the others on X, relative
_EPS = float(np.finfo(np.float64).eps)


def sparsify(
    net: ShallowNet, X: ArrayLike, *, tol: float = 1e-10, affine: Literal["free", "none"] = "free"
) -> ShallowNet:
    """A network with the same values on X, no larger path norm, and at most the theorem's number of neurons.

    Whatever the loss, an objective ``loss(f(X)) + lam * path norm`` is no larger, so a solution stays one. Off the
    samples the function may change. Three steps, of which each keeps f(X) and none raises the norm:

    - neurons that are active on no sample are dropped; those active on all become part of the affine function;
    - neurons with one activation pattern, or its complement, and one output direction become one, by the triangle
      inequality; they turn around by ``(t)_+ = (-t)_+ + t``;
    - Carathéodory: with Phi (N, K) the features and P the projection off ``[1 X]``, as long as the matrices
      ``P phi_k v_k'`` are linearly dependent, one neuron can be removed.

    So ``K <= rank(P Phi) <= N - 1 - rank X`` for one output (X centred), the bound of [PN21, Thm 1], and
    ``K <= rank(P Phi) rank(V)`` for several [SPLN24]. In one dimension ``sparsest`` may need fewer still.
    A second call changes nothing but digits. Neurons are returned balanced, ``||w_k|| = ||v_k||``.

    Parameters
    ----------
    net : ShallowNet
        Any, however it was trained.
    X : array (N, d)
        The samples. Memory is some K^2 numbers and K N / 4 bytes, time grows with N K^2.
    tol : float
        Largest change of f(X), relative to the part of it that is not affine. Neurons that give less are dropped.
    affine : {"free", "none"}
        Whether the affine part may change. With "none" nothing turns around, the third step has Phi for P Phi, and
        only neurons whose input weights are zero move, to the constant.

    References
    ----------
    .. [PN21] Parhi, Nowak, "Banach space representer theorems for neural networks and ridge splines", JMLR 22, 2021.
    .. [SPLN24] Shenouda, Parhi, Lee, Nowak, "Variation spaces for multi-output neural networks", JMLR 25, 2024.
    """
    X = _samples(net, X)
    if affine not in ("free", "none"):
        raise ValueError(f"affine must be 'free' or 'none'; got {affine!r}. Most problems leave it free.")
    if not 0.0 <= tol < 1.0:
        raise ValueError(f"tol must be in [0, 1); got {tol}. It is the relative change of the values that is allowed.")
    free = affine == "free"
    merged = merge_cells(_unit(net), X, affine=free)
    found = _remove_dependent(merged, X, tol, free=free) if merged.b.size else merged
    root = np.sqrt(found.masses)[:, None]
    return ShallowNet(W=root * found.W, b=root[:, 0] * found.b, V=found.V / root, A=found.A, c=found.c)


def _samples(net: ShallowNet, X: ArrayLike) -> Matrix:
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != net.W.shape[1] or X.shape[0] == 0:
        raise ValueError(f"X must have shape (N, {net.W.shape[1]}) with N >= 1; got {X.shape}. Rows are samples.")
    if not np.isfinite(X).all():
        raise ValueError("X must be finite; got NaN or infinity. Drop or fill those rows.")
    if not all(np.isfinite(part).all() for part in (net.W, net.b, net.V, net.A, net.c)):
        raise ValueError("The network must have finite weights; got NaN or infinity. Its training diverged.")
    return X


def _unit(net: ShallowNet) -> Neurons:
    """Unit input weights; neurons without any are constants."""
    norms = np.linalg.norm(net.W, axis=1)
    there = (norms > 0.0) & net.V.any(axis=1)
    constant = np.maximum(-net.b[norms == 0.0], 0.0) @ net.V[norms == 0.0]
    norms = norms[there]
    return Neurons(
        net.W[there] / norms[:, None], net.b[there] / norms, norms[:, None] * net.V[there], net.A, net.c + constant
    )


def _remove_dependent(neurons: Neurons, X: Matrix, tol: float, *, free: bool) -> Neurons:
    """Carathéodory's step, on the triangular factor of the features instead of themselves."""
    center, basis = _affine_basis(X) if free else (np.zeros(X.shape[1]), np.zeros((1 + X.shape[1], 0)))
    features = _triangle(_Stacked(neurons, center, basis), X)
    fixed = basis.shape[1]
    columns = _outer_columns(features[fixed:, fixed:], neurons.V)
    target = float(np.linalg.norm(columns.sum(axis=1)))
    floor = 8.0 * _EPS * float(np.linalg.norm(neurons.masses * _reach(neurons, X)))
    # A step moves along a unit combination by a length of order one, and there are as many steps as neurons go.
    for strictness in (1e-1, 1e-3, 0.0):
        multipliers = independent(columns, neurons.masses, max(strictness * tol * target, floor))
        change = float(np.linalg.norm(columns @ multipliers - columns.sum(axis=1)))
        if change <= max(tol * target, 8.0 * floor):
            break
    else:
        return neurons
    chosen = multipliers > 0.0
    if chosen.all():
        return neurons
    fewer = replace(neurons, V=multipliers[:, None] * neurons.V).keep(chosen)
    return _refit_affine(fewer, neurons, X, center, basis) if free else fewer


def _reach(neurons: Neurons, X: Matrix) -> Matrix:
    """Norms (K,) over X of ``|w|'|x| + |b|``, from above: the rounding of a feature is some eps of that."""
    return np.asarray(np.abs(neurons.W) @ np.linalg.norm(X, axis=0) + np.sqrt(X.shape[0]) * np.abs(neurons.b))


class _Stacked:
    """Rows ``[1 X] T`` and features of neurons, side by side."""

    def __init__(self, neurons: Neurons, center: Matrix, basis: Matrix) -> None:
        self.neurons, self.center, self.basis = neurons, center, basis
        self.width = basis.shape[1] + neurons.b.size

    def __call__(self, rows: Matrix) -> Matrix:
        return np.hstack([_affine_rows(rows, self.center, self.basis), self.neurons.features(rows)])


def _affine_rows(rows: Matrix, center: Matrix, basis: Matrix) -> Matrix:
    return np.asarray(basis[0] + (rows - center) @ basis[1:])


def _triangle(stacked: _Stacked, X: Matrix) -> Matrix:
    """The R of a QR factorisation of all rows, a block at a time; its trailing part is that of the projection."""
    triangle = np.zeros((0, stacked.width))
    step = max(2 * stacked.width, 2048)
    for start in range(0, X.shape[0], step):
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, stacked(X[start : start + step])]), mode="r"))
    return triangle


def _affine_basis(X: Matrix) -> tuple[Matrix, Matrix]:
    """Centre m and T (1 + d, r) with orthonormal columns ``[1, x - m] T`` that span the affine functions on X."""
    center = X.mean(axis=0)
    scale = np.sqrt(np.mean((X - center) ** 2, axis=0))
    # Inputs that do not vary beyond rounding are constants.
    still = scale <= 16.0 * _EPS * np.abs(X).max(axis=0, initial=0.0)
    scale = np.where(still, np.inf, scale)
    moment = np.zeros((0, X.shape[1]))
    for rows in blocks(X, X.shape[1]):
        moment = np.asarray(np.linalg.qr(np.vstack([moment, (rows - center) / scale]), mode="r"))
    _, sizes, vectors = np.linalg.svd(moment, full_matrices=False)
    some = sizes > _DEPENDENT * sizes.max(initial=0.0)
    basis = np.zeros((1 + X.shape[1], 1 + int(some.sum())))
    basis[0, 0] = X.shape[0] ** -0.5
    basis[1:, 1:] = (vectors[some] / sizes[some, None] / scale).T
    return center, basis


def _outer_columns(features: Matrix, V: Matrix) -> Matrix:
    """A matrix with the Gram matrix of the ``phi_k v_k'``, with features (R, K): one row block for each output."""
    left, sizes, _ = np.linalg.svd(V, full_matrices=False)
    outputs = (left * sizes)[:, sizes > _EPS * sizes.max(initial=0.0)]
    count = V.shape[0]
    columns = np.zeros((0, count))
    for output in outputs.T:
        columns = np.vstack([columns, features * output])
        if columns.shape[0] > count:
            columns = np.asarray(np.linalg.qr(columns, mode="r"))
    return columns


def _refit_affine(fewer: Neurons, before: Neurons, X: Matrix, center: Matrix, basis: Matrix) -> Neurons:
    """What the removed neurons gave beyond the others is an affine function on X: add it."""
    for _ in range(2):  # the second pass removes the rounding of the first
        sums = np.zeros((basis.shape[1], before.c.size))
        for rows in blocks(X, before.b.size):
            missing = before.features(rows) @ before.V - fewer.features(rows) @ fewer.V
            missing += rows @ (before.A - fewer.A) + (before.c - fewer.c)
            sums += _affine_rows(rows, center, basis).T @ missing
        slopes = basis[1:] @ sums
        fewer = replace(fewer, A=fewer.A + slopes, c=fewer.c + basis[0] @ sums - center @ slopes)
    return fewer
