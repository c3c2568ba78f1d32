"""How large? Norms of networks as convex problems over the rescalings that leave the function alone."""

from __future__ import annotations

from pathnorm.norms.balance import Block, balancing_scales, on_the_way

__all__ = ["Block", "balancing_scales", "on_the_way"]
