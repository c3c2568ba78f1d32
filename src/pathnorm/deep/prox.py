"""The proximal operator of the product norm ``||w|| ||v||``, in closed form, for many neurons at once.

Both the product and the two squared distances depend on directions only through inner products, so the minimiser keeps
the directions of w and v and only their lengths change: a problem in two numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["prox_norm", "prox_product"]


def prox_product(
    p: Tensor, q: Tensor, lam: float | Tensor, *, steps: tuple[float, float] = (1.0, 1.0)
) -> tuple[Tensor, Tensor]:
    """Lengths (a, b) >= 0 that minimise ``(a - p)^2 / (2 s) + (b - q)^2 / (2 t) + lam a b`` for steps (s, t).

    Parameters
    ----------
    p, q : torch.Tensor, shape (K,)
        Lengths of the input and the output weights, not negative.
    lam : float or torch.Tensor
        Not negative.
    steps : (s, t)
        Step sizes of w and v. A step of zero holds the length: ``a = p``.

    Notes
    -----
    With ``p' = p / sqrt(s)``, ``q' = q / sqrt(t)`` and ``tau = lam sqrt(s t)`` the steps become one. For ``tau < 1``
    the problem is convex on the quadrant and its optimality conditions leave one case: ``q' <= tau p'`` gives ``(p',
    0)``, ``p' <= tau q'`` gives ``(0, q')``, otherwise both are positive, ``a' = (p' - tau q') / (1 - tau^2)`` and
    likewise b'. For ``tau >= 1`` the only interior stationary point is no minimum (the second derivative has no
    positive determinant), and the better axis is the one that keeps the longer side; the input weights at a tie.

    References
    ----------
    Yang, Zhang, Shenouda, Papailiopoulos, Lee, Nowak (2022), *A better way to decay*.
    """
    s, t = steps
    if s < 0.0 or t < 0.0:
        raise ValueError(f"Steps must not be negative. Got {steps}.")
    if s == 0.0:
        return p, prox_norm(q, lam * t * p)
    if t == 0.0:
        return prox_norm(p, lam * s * q), q
    root_s, root_t = s**0.5, t**0.5
    tau = torch.as_tensor(lam, dtype=p.dtype, device=p.device) * (root_s * root_t)
    x, y = p / root_s, q / root_t
    convex = tau < 1.0
    only_w = torch.where(convex, y <= tau * x, y <= x)
    only_v = ~only_w & torch.where(convex, x <= tau * y, x < y)
    inside = ~(only_w | only_v)
    # Where tau >= 1 the quotient is not used; it must not divide by zero.
    scale = torch.where(inside, 1.0 - tau * tau, torch.ones_like(x))
    a = torch.where(inside, (x - tau * y) / scale, torch.where(only_w, x, torch.zeros_like(x)))
    b = torch.where(inside, (y - tau * x) / scale, torch.where(only_v, y, torch.zeros_like(y)))
    return torch.where(only_w, p, a * root_s), torch.where(only_v, q, b * root_t)


def prox_norm(q: Tensor, threshold: float | Tensor) -> Tensor:
    """Length that minimises ``(b - q)^2 / 2 + threshold b``: group soft-thresholding."""
    return (q - threshold).clamp_min(0.0)
