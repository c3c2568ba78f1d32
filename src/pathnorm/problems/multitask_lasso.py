"""The multitask lasso of a layer: fit its outputs with the smallest weighted path norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pathnorm.problems._arrays import Array, Blocks, float64_copy, is_torch, namespace
from pathnorm.problems.certificate import Certificate

__all__ = ["MultitaskLasso"]


@dataclass(frozen=True, slots=True, eq=False)
class MultitaskLasso:
    r"""``min_V  1/2 ||Psi - Phi V||_F^2 + lam sum_k c_k ||V_k||_F``, in terms of its moments.

    ``Phi`` (N, P) holds the features, ``Psi`` (N, D) the targets, ``V`` (P, D) the coefficients;
    ``V_k`` is the contiguous block of rows of neuron k, a single row unless ``block_sizes`` says
    otherwise (a convolution: one channel's whole patch). The loss is a sum over samples. The
    problem holds ``Phi'Phi``, ``Phi'Psi`` and ``||Psi||_F^2`` only, so its size does not grow with N.
    Use :meth:`from_samples` or :meth:`from_moments`; numpy arrays and torch tensors are both taken,
    and answers come back in the same kind.

    Attributes
    ----------
    gram : array (P, P)
        ``Phi'Phi``.
    cross : array (P, D)
        ``Phi'Psi``.
    energy : float
        ``||Psi||_F^2``.
    lam : float
        Regularisation strength.
    weights : array (K,)
        ``c_k > 0``, for example the norms of the input weights.
    blocks : Blocks
        Which rows belong to which neuron.

    References
    ----------
    [SPLN24] Shenouda, Parhi, Lee, Nowak, "Variation spaces for multi-output neural networks", 2024.
    """

    gram: Array
    cross: Array
    energy: float
    lam: float
    weights: Array
    blocks: Blocks

    @classmethod
    def from_samples(
        cls,
        features: Array,
        targets: Array,
        lam: float,
        weights: Array | None = None,
        *,
        block_sizes: int | Sequence[int] | None = None,
    ) -> MultitaskLasso:
        """Problem of the features ``Phi`` (N, P) and the targets ``Psi`` (N, D)."""
        phi, psi = _matrix(features, "features"), _matrix(targets, "targets", features)
        if phi.shape[0] != psi.shape[0] or phi.shape[0] == 0:
            raise ValueError(
                "features and targets need one row per sample, and at least one sample; got "
                f"{phi.shape[0]} and {psi.shape[0]} rows. Pass the activations of the same inputs to both."
            )
        energy = float((psi * psi).sum())
        return cls.from_moments(phi.T @ phi, phi.T @ psi, energy, lam, weights, block_sizes=block_sizes)

    @classmethod
    def from_moments(
        cls,
        gram: Array,
        cross: Array,
        energy: float,
        lam: float,
        weights: Array | None = None,
        *,
        block_sizes: int | Sequence[int] | None = None,
    ) -> MultitaskLasso:
        """Problem of the moments ``Phi'Phi`` (P, P), ``Phi'Psi`` (P, D) and ``||Psi||_F^2``."""
        gram, cross = _matrix(gram, "gram"), _matrix(cross, "cross", gram)
        _check_gram(gram, cross)
        blocks = Blocks.of(_block_sizes(block_sizes, gram.shape[0]), gram)
        return cls(
            gram=0.5 * (gram + gram.T),
            cross=cross,
            energy=_number(energy, "energy", "a finite number >= 0", positive=False),
            lam=_number(lam, "lam", "a finite number > 0"),
            weights=_weights(weights, len(blocks.sizes), gram),
            blocks=blocks,
        )

    def with_lam(self, lam: float) -> MultitaskLasso:
        """The same moments, shared and not copied, under another ``lam``."""
        return replace(self, lam=_number(lam, "lam", "a finite number > 0"))

    @property
    def n_neurons(self) -> int:
        """Number of neurons K."""
        return len(self.blocks.sizes)

    @property
    def lam_max(self) -> float:
        """``max_k ||C_k|| / c_k``: the smallest ``lam`` whose solution is zero."""
        return float((self.blocks.norms(self.cross) / self.weights).max())

    def block_norms(self, coef: Array) -> Array:
        """``||V_k||_F`` of each neuron: (K,)."""
        return self.blocks.norms(self._coef(coef))

    def path_norm(self, coef: Array) -> float:
        """``sum_k c_k ||V_k||_F``."""
        return float((self.weights * self.block_norms(coef)).sum())

    def value(self, coef: Array) -> float:
        """The objective at ``coef``."""
        return self.certify(coef).primal

    def certify(self, coef: Array) -> Certificate:
        """``dual <= optimum <= value(coef)``, computed from ``coef`` alone, over the given features.

        With the residual ``R = Psi - Phi V``, every ``s R`` that meets ``||Phi_k' s R|| <= lam c_k`` for
        all k is dual feasible; the bound is the value of the best such ``s``.
        """
        coef = self._coef(coef)
        return self.certify_product(coef, self.gram @ coef)

    def certify_product(self, coef: Array, product: Array) -> Certificate:
        """The same as :meth:`certify` where ``product = gram @ coef`` is already at hand."""
        correlation = self.cross - product  # Phi' R
        along = float((coef * correlation).sum())  # <Phi V, R>
        explained = float((coef * self.cross).sum())  # <Phi V, Psi>
        residual = self._residual(explained, along)
        penalty = self.lam * float((self.weights * self.blocks.norms(coef)).sum())
        violation = float((self.blocks.norms(correlation) / self.weights).max()) / self.lam
        largest = 1.0 / violation if violation > 0.0 else math.inf
        # D(s R) = s <Psi, R> - s^2 ||R||^2 / 2 is a parabola in s.
        best = (self.energy - explained) / residual if residual > 0.0 else 1.0
        scale = min(max(best, 0.0), largest)
        primal = 0.5 * residual + penalty
        # P - D written out: the energy cancels on paper, and the gap is not a difference of large numbers.
        gap = 0.5 * (1.0 - scale) ** 2 * residual + penalty - scale * along
        return Certificate(primal=primal, dual=primal - max(gap, 0.0), scope="dictionary")

    def _residual(self, explained: float, along: float) -> float:
        """``||R||^2`` from ``<Phi V, Psi>`` and ``<Phi V, R>``."""
        square = self.energy - explained - along
        # Rounding may leave a small negative square; a large one is no rounding.
        if square < -1e-4 * (self.energy + abs(explained) + abs(along)):
            raise ValueError(
                "gram, cross and energy must be the moments of one set of samples; got moments under which "
                f"a residual has the squared norm {square:.3g}. Sum all three over the same samples, in float64."
            )
        return max(square, 0.0)

    def _coef(self, coef: Array) -> Array:
        coef = _matrix(coef, "coef", self.cross)
        if coef.shape != self.cross.shape:
            raise ValueError(
                f"coef must have the shape of cross, {tuple(self.cross.shape)}; got {tuple(coef.shape)}. "
                "Rows are neurons: transpose the weight of a torch layer."
            )
        return coef


def _matrix(array: Array, name: str, like: Array | None = None) -> Array:
    """A finite float64 copy of a two-dimensional array, of the kind of ``like``."""
    if like is not None and is_torch(like) != is_torch(array):
        raise TypeError(
            f"{name} must be of the same kind as the other arrays; got {type(array).__name__} beside "
            f"{type(like).__name__}. Use numpy arrays or torch tensors throughout."
        )
    copy = float64_copy(array)
    if like is not None and is_torch(copy) and copy.device != like.device:
        raise ValueError(
            f"{name} must be on the device of the other arrays; got {copy.device} beside {like.device}. "
            "Move one of them with .to(device)."
        )
    if copy.ndim != 2 or 0 in copy.shape:
        raise ValueError(
            f"{name} must be two-dimensional and not empty; got shape {tuple(copy.shape)}. "
            "Reshape a single output with .reshape(-1, 1)."
        )
    _check_finite(copy, name)
    return copy


def _check_finite(array: Array, name: str) -> None:
    bad = int((~namespace(array).isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite; got {bad} entries that are NaN or infinite. "
            "Remove those samples or compute in higher precision."
        )


def _check_gram(gram: Array, cross: Array) -> None:
    rows, columns = gram.shape
    if rows != columns or cross.shape[0] != rows:
        raise ValueError(
            f"gram must be (P, P) and cross (P, D); got {tuple(gram.shape)} and {tuple(cross.shape)}. "
            "Pass Phi'Phi and Phi'Psi of the same features."
        )
    largest, asymmetry = float(abs(gram).max()), float(abs(gram - gram.T).max())
    lowest = float(gram.diagonal().min())
    # A Gram summed in float32 is symmetric to about 1e-7 of its largest entry.
    if asymmetry > 1e-5 * largest or lowest < -1e-5 * largest:
        raise ValueError(
            "gram must be symmetric with a diagonal >= 0; got an asymmetry of "
            f"{asymmetry:.3g} and a smallest diagonal entry of {lowest:.3g} where the largest entry is "
            f"{largest:.3g}. Pass Phi'Phi."
        )


def _number(value: float, name: str, required: str, *, positive: bool = True) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0.0 or (positive and number == 0.0):
        advice = "Start below problem.lam_max." if name == "lam" else "Pass the sum of squares of the targets."
        raise ValueError(f"{name} must be {required}; got {value!r}. {advice}")
    return number


def _block_sizes(block_sizes: int | Sequence[int] | None, n_rows: int) -> tuple[int, ...]:
    if block_sizes is None:
        return (1,) * n_rows
    if isinstance(block_sizes, int | np.integer):
        sizes = (int(block_sizes),) * (n_rows // block_sizes) if block_sizes > 0 else ()
    else:
        sizes = tuple(int(size) for size in block_sizes)
    if not sizes or min(sizes) < 1 or sum(sizes) != n_rows:
        raise ValueError(
            f"block_sizes must be positive and sum to the {n_rows} features; got "
            f"{block_sizes!r}. Give the rows of each neuron, or one integer that divides them."
        )
    return sizes


def _weights(weights: Array | None, n_neurons: int, like: Array) -> Array:
    if weights is None:
        # Ones on the device of the data.
        return 0.0 * like.diagonal()[:1].repeat(n_neurons) + 1.0
    copy = float64_copy(weights)
    if is_torch(like) != is_torch(copy):
        copy = namespace(like).asarray(copy.tolist(), dtype=like.dtype)
    if is_torch(like):
        copy = copy.to(like.device)
    if tuple(copy.shape) != (n_neurons,):
        raise ValueError(
            f"weights must have one entry per neuron, ({n_neurons},); got shape {tuple(copy.shape)}. "
            "Give one weight per block, not per row."
        )
    _check_finite(copy, "weights")
    if float(copy.min()) <= 0.0:
        raise ValueError(
            f"weights must be > 0; got a smallest weight of {float(copy.min()):.3g}. "
            "Drop dead neurons first, or leave weights out for c_k = 1."
        )
    return copy
