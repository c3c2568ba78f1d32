"""Neurons with a multivariate nonlinearity: distances in k-dimensional projections, with orthonormal weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BakedKPlaneRidge", "KPlaneRidge", "cayley"]


def cayley(base: Tensor, direction: Tensor) -> Tensor:
    """Orthonormal matrices ``(I - S/2)^-1 (I + S/2) W_0``, with ``S = U W_0' - W_0 U'`` skew.

    ``base`` W_0 (..., d, k) has orthonormal columns, ``direction`` U (..., d, k) is any matrix; U = 0 gives W_0. As S
    has rank at most 2k, a system of size 2k is solved [WY13], so the cost is d k^2 per matrix and not d^3. Computed in
    double precision and rounded once: ``W'W - I`` is then of the size of the rounding in single precision, too, however
    large U has become.

    References
    ----------
    .. [WY13] Wen, Yin, "A feasible method for optimization with orthogonality constraints", Mathematical Programming
       142, 2013.
    """
    start, move = base.double(), direction.double()
    left, right = torch.cat([move, start], -1), torch.cat([start, -move], -1).mT
    system = torch.eye(left.shape[-1], dtype=left.dtype, device=left.device) - 0.5 * right @ left
    weight: Tensor = start + left @ torch.linalg.solve(system, right @ start)
    return weight.to(direction.dtype)


class KPlaneRidge(nn.Module):
    """``f(x) = A x + c + sum_j v_j ||W_j' x - t_j||_2`` with ``W_j' W_j = I_k``: a shallow network of k-plane ridges.

    An atom is constant along d - k directions; across them it is a cone, the fundamental solution of a power of the
    Laplacian on R^k. For k = 1 it is ``|w' x - t|``, a ReLU up to an affine function; for k = d there are no
    projections, only centres. Training minimises ``loss + lam norm()``, the norm of the space in which some solutions
    are such networks [PU23]. Of networks that are found by gradient descent that is a penalty, not a certificate.

    Parameters
    ----------
    in_features : int
        d.
    out_features : int
        D.
    atoms : int
        K.
    k : int
        Dimension of the projections, at most d.
    device : torch.device or str, optional
    dtype : torch.dtype, optional

    Attributes
    ----------
    direction : torch.nn.Parameter, shape (K, d, k)
        Free coordinates of the weights, see :func:`cayley`; give them no weight decay, their size means nothing.
    offset : torch.nn.Parameter, shape (K, k)
        t.
    coef : torch.nn.Parameter, shape (D, K)
        v.
    affine : torch.nn.Linear
        A and c, not penalised.

    References
    ----------
    .. [PU23] Parhi, Unser, "Function-space optimality of neural architectures with multivariate nonlinearities", 2023.

    Examples
    --------
    >>> model = KPlaneRidge(20, 1, atoms=64, k=2)
    >>> optimizer.step()  # doctest: +SKIP
    >>> model.prox_(lr * lam)  # doctest: +SKIP
    >>> small = model.prune().bake()
    """

    base: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        atoms: int,
        k: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features), ("atoms", atoms)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}. An affine function alone is nn.Linear.")
        if not 1 <= k <= in_features:
            raise ValueError(
                f"k must be between 1 and in_features = {in_features}; got {k}. "
                f"There are no {k} orthonormal directions in {in_features} dimensions."
            )
        self.in_features, self.out_features, self.k = in_features, out_features, k
        self.register_buffer("base", torch.empty(atoms, in_features, k, device=device, dtype=dtype))
        self.direction = nn.Parameter(torch.empty(atoms, in_features, k, device=device, dtype=dtype))
        self.offset = nn.Parameter(torch.empty(atoms, k, device=device, dtype=dtype))
        self.coef = nn.Parameter(torch.empty(out_features, atoms, device=device, dtype=dtype))
        self.affine = nn.Linear(in_features, out_features, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw directions from the uniform distribution, offsets as for inputs of unit variance, small weights."""
        with torch.no_grad():
            drawn = torch.randn(self.base.shape, dtype=torch.float64)
            self.base.copy_(torch.linalg.qr(drawn)[0])
            self.direction.zero_()
            self.offset.normal_()
            bound = 1.0 / math.sqrt(self.atoms)
            self.coef.uniform_(-bound, bound)
        self.affine.reset_parameters()

    @property
    def atoms(self) -> int:
        """Number of atoms K."""
        return int(self.coef.shape[1])

    @property
    def weight(self) -> Tensor:
        """``W`` (K, d, k), with orthonormal columns and a gradient."""
        return cayley(self.base, self.direction)

    def forward(self, x: Tensor) -> Tensor:
        """Values (..., D) at ``x`` (..., d)."""
        _check_input(x, self.in_features)
        line: Tensor = self.affine(x)
        return _values(x, self.weight, self.offset, self.coef) + line

    def norm(self) -> Tensor:
        """``sum_j ||v_j||_2``, a number with a gradient. For k = 1 half the path norm of the ReLU network that is f."""
        return _lengths(self.coef).sum()

    def orthogonality(self) -> float:
        """Largest entry of ``|W_j' W_j - I|``."""
        return _deviation(self.weight.detach())

    @torch.no_grad()
    def prox_(self, lam: float) -> KPlaneRidge:
        """Shorten every ``v_j`` by ``lam``, to zero if it is shorter; return self.

        Exact proximal step of ``lam norm()``: behind a step of gradient descent of size ``lr``, ``lam = lr mu`` is one
        step on ``loss + mu norm()``.
        """
        if not (math.isfinite(lam) and lam >= 0.0):
            raise ValueError(f"lam must be a finite number >= 0; got {lam!r}. It is step size times penalty.")
        lengths = _lengths(self.coef)
        kept = torch.where(lengths > lam, 1.0 - lam / torch.where(lengths > lam, lengths, 1.0), 0.0)
        self.coef.mul_(kept)
        return self

    def prune(self, tol: float = 0.0) -> KPlaneRidge:
        """A copy without the atoms for which ``||v_j||_2 <= tol``; the heaviest always stays.

        With ``tol`` = 0 the function is the same.
        """
        if not (math.isfinite(tol) and tol >= 0.0):
            raise ValueError(f"tol must be a finite number >= 0; got {tol!r}. 0 drops atoms of weight zero only.")
        lengths = _lengths(self.coef.detach())
        keep = lengths > tol
        keep[lengths.argmax()] = True
        device, dtype = self.coef.device, self.coef.dtype
        small = KPlaneRidge(self.in_features, self.out_features, int(keep.sum()), self.k, device=device, dtype=dtype)
        state = {name: value.clone() for name, value in self.state_dict().items()}
        for name in ("base", "direction", "offset"):
            state[name] = state[name][keep]
        state["coef"] = state["coef"][:, keep]
        small.load_state_dict(state)
        return small.train(self.training)

    def bake(self) -> BakedKPlaneRidge:
        """The same function with its weights as plain constants: for inference, ``torch.export`` and ONNX."""
        baked = BakedKPlaneRidge(self.weight, self.offset, self.coef, self.affine.weight, self.affine.bias)
        return baked.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{self.in_features}, {self.out_features}, atoms={self.atoms}, k={self.k}"


class BakedKPlaneRidge(nn.Module):
    """``A x + c + sum_j v_j ||W_j' x - t_j||_2`` with constants: nothing to train, no system to solve.

    Parameters
    ----------
    weight : torch.Tensor, shape (K, d, k)
        Orthonormal columns.
    offset : torch.Tensor, shape (K, k)
    coef : torch.Tensor, shape (D, K)
    slope : torch.Tensor, shape (D, d)
    intercept : torch.Tensor, shape (D,)
    """

    weight: Tensor
    offset: Tensor
    coef: Tensor
    slope: Tensor
    intercept: Tensor

    def __init__(self, weight: Tensor, offset: Tensor, coef: Tensor, slope: Tensor, intercept: Tensor) -> None:
        super().__init__()
        parts = {"weight": weight, "offset": offset, "coef": coef, "slope": slope, "intercept": intercept}
        for name, value in parts.items():
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Values (..., D) at ``x`` (..., d)."""
        _check_input(x, self.slope.shape[1])
        return _values(x, self.weight, self.offset, self.coef) + F.linear(x, self.slope, self.intercept)

    def norm(self) -> Tensor:
        """``sum_j ||v_j||_2``."""
        return _lengths(self.coef).sum()

    def orthogonality(self) -> float:
        """Largest entry of ``|W_j' W_j - I|``."""
        return _deviation(self.weight)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        atoms, d, k = self.weight.shape
        return f"{d}, {self.coef.shape[0]}, atoms={atoms}, k={k}"


def _values(x: Tensor, weight: Tensor, offset: Tensor, coef: Tensor) -> Tensor:
    """``sum_j v_j ||W_j' x - t_j||``, all projections in one product; the gradient at a centre is zero."""
    atoms, d, k = weight.shape
    projected = F.linear(x, weight.mT.reshape(atoms * k, d), -offset.reshape(-1))
    return F.linear(torch.linalg.vector_norm(projected.unflatten(-1, (atoms, k)), dim=-1), coef)


def _lengths(coef: Tensor) -> Tensor:
    """``||v_j||_2`` (K,); the gradient at zero is zero."""
    found: Tensor = torch.linalg.vector_norm(coef, dim=0)
    return found


def _deviation(weight: Tensor) -> float:
    wide = weight.double()
    return float((wide.mT @ wide - torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)).abs().max())


def _check_input(x: Tensor, d: int) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating type; got {x.dtype}. Use x.float().")
    if x.ndim < 1 or x.shape[-1] != d:
        raise ValueError(f"x must have {d} features in its last dimension; got shape {tuple(x.shape)}.")
