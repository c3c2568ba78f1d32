"""A lower bound on the Lipschitz constant of a network: two inputs that it moves far apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pathnorm.deep.double import double_precision, in_batches
from pathnorm.deep.graph import ModelGraph, State

__all__ = ["LipschitzWitness", "lipschitz_lower"]

_BATCH = 16  # pairs that run at a time
_DISTANCE = 0.01  # of a pair, relative to its sample
_STEP = 0.02  # of the middle of a pair, relative to its sample
_FINALISTS = 4
_SHRINK = (1.0, 0.1, 0.01)  # distances tried in the end
_ROUNDING = 2.0**-42  # of an output in float64, relative: a thousand roundings


@dataclass(frozen=True, slots=True, eq=False)
class LipschitzWitness:
    """Two inputs that prove a lower bound on the Lipschitz constant.

    Attributes
    ----------
    lower : float
        ``||f(x) - f(x')|| / ||x - x'||`` in float64, less an allowance for rounding.
    sample : int
        Index of the sample from which the pair was found.
    pair : torch.Tensor, shape (2, ...)
        x and x' in float64, on the processor.
    at_samples : float
        The largest such quotient of pairs around the samples themselves, in the network's own precision.
    """

    lower: float
    sample: int
    pair: Tensor
    at_samples: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Inputs ``middle + apart way / 2`` and ``middle - apart way / 2`` with ``||way|| = 1``, and their quotients."""

    middles: Tensor
    ways: Tensor
    apart: Tensor
    gains: Tensor

    def ends(self) -> Tensor:
        """Return the inputs, (2, n, ...)."""
        half = 0.5 * _column(self.apart, self.ways) * self.ways
        return torch.stack([self.middles + half, self.middles - half])

    def pick(self, index: Tensor) -> _Pairs:
        """Return some of the pairs."""
        return _Pairs(self.middles[index], self.ways[index], self.apart[index], self.gains[index])

    def in_float64(self, shrink: float) -> _Pairs:
        """Return shorter pairs, on the processor."""
        middles, ways, apart, gains = (
            part.cpu().double() for part in (self.middles, self.ways, self.apart, self.gains)
        )
        return _Pairs(middles, ways, apart * shrink, torch.zeros_like(gains))


def lipschitz_lower(
    graph: ModelGraph, state: State, samples: Tensor, *, n_steps: int = 12, seed: int = 0
) -> LipschitzWitness:
    """Return the best of the pairs found near the samples, with its quotient recomputed in float64.

    Around every sample lies a pair of inputs whose distance is one per cent of the sample. Two thirds of the steps
    turn it, ``v <- J'd`` with d the difference of the outputs and J the mean of the Jacobians at both ends: the power
    method. The others also move its middle up the gradient of ``||d||``. The best pairs are then turned further in
    float64, and shortened where that makes them steeper.

    Parameters
    ----------
    samples : torch.Tensor, shape (n, ...)
        Starting points, floating.
    n_steps : int
        Each costs one forward and one backward pass on both ends of all pairs.

    Raises
    ------
    ValueError
        If there is no sample, or if the samples consist of integers.
    """
    if samples.shape[0] == 0 or not samples.is_floating_point():
        raise ValueError(
            "samples must be at least one floating input of the network, near which pairs are compared; got "
            f"{tuple(samples.shape)}, {samples.dtype}. Give samples, or the part of the network behind its embedding."
        )
    start = _around(samples.detach(), seed)
    moving = n_steps // 3
    parts = [_climb(graph, state, part, turns=n_steps - moving, moves=moving) for part in _split(start)]
    at_samples = max(float(part.gains.max()) for part, _ in parts)
    found = _join([moved for _, moved in parts])
    best = found.gains.argsort(descending=True)[:_FINALISTS]
    exact_graph, exact_state = double_precision(graph, state)
    witnesses = []
    for shrink in _SHRINK:
        shorter = found.pick(best).in_float64(shrink)
        ends = _climb(exact_graph, exact_state, shorter, turns=max(1, n_steps // 3), moves=0)[1].ends()
        quotients = _quotients(exact_graph, exact_state, ends)
        place = int(quotients.argmax())
        pair = ends[:, place].clone()
        witnesses.append(LipschitzWitness(float(quotients[place]), int(best[place]), pair, at_samples))
    return max(witnesses, key=lambda witness: witness.lower)


def _around(samples: Tensor, seed: int) -> _Pairs:
    """Return pairs around the samples in random directions."""
    lengths = samples.flatten(1).norm(dim=1)
    typical = float(lengths.mean()) or 1.0
    lengths = torch.where(lengths > 1e-3 * typical, lengths, torch.full_like(lengths, typical))
    drawn = torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _Pairs(samples, _normalised(drawn.to(samples)), _DISTANCE * lengths, torch.zeros_like(lengths))


def _climb(graph: ModelGraph, state: State, pairs: _Pairs, *, turns: int, moves: int) -> tuple[_Pairs, _Pairs]:
    """Return the best pairs met while they turn, and while they then move as well; every pair keeps its length."""
    middles, ways, apart = pairs.middles, pairs.ways, pairs.apart
    step = _column(apart * (_STEP / _DISTANCE), ways)
    best, turned = pairs, pairs
    for count in range(turns + moves + 1):
        now = _Pairs(middles, ways, apart, pairs.gains)
        with torch.enable_grad():
            ends = now.ends().requires_grad_(True)
            first, second = (_outputs(graph, state, end).flatten(1) for end in ends)
            moved = first - second
            gradient = _gradient(0.5 * moved.square().sum(), ends)
        best = _better(best, _Pairs(middles, ways, apart, moved.detach().norm(dim=1) / apart))
        if count <= turns:
            turned = best
        ways = _normalised(gradient[0] - gradient[1], ways)
        if count >= turns:
            middles = middles + step * _normalised(gradient[0] + gradient[1])
    return turned, best


def _gradient(value: Tensor, ends: Tensor) -> Tensor:
    """Return the gradient; zero where the outputs do not depend on the inputs."""
    if not value.requires_grad:
        return torch.zeros_like(ends)
    (found,) = torch.autograd.grad(value, ends, allow_unused=True)
    return torch.zeros_like(ends) if found is None else found


def _better(old: _Pairs, new: _Pairs) -> _Pairs:
    wins = new.gains > old.gains
    column = _column(wins, new.ways)
    return _Pairs(
        torch.where(column, new.middles, old.middles),
        torch.where(column, new.ways, old.ways),
        old.apart,
        torch.where(wins, new.gains, old.gains),
    )


def _quotients(graph: ModelGraph, state: State, ends: Tensor) -> Tensor:
    """Return lower bounds on the quotients (n,) of pairs (2, n, ...)."""
    with torch.no_grad():
        first, second = (_outputs(graph, state, end).flatten(1) for end in ends)
    allowance = _ROUNDING * (first.norm(dim=1) + second.norm(dim=1))
    apart = (ends[0] - ends[1]).flatten(1).norm(dim=1)
    moved = ((first - second).norm(dim=1) - allowance).clamp_min(0.0)
    quotients: Tensor = moved / apart * (1.0 - 1e-12)
    return quotients.nan_to_num(0.0, posinf=0.0)


def _outputs(graph: ModelGraph, state: State, inputs: Tensor) -> Tensor:
    parts = [graph.outputs(state, batch)[:new] for batch, new in in_batches(graph, inputs, _BATCH)]
    return torch.cat(parts)


def _split(pairs: _Pairs) -> Iterator[_Pairs]:
    for index in torch.arange(pairs.gains.numel(), device=pairs.gains.device).split(_BATCH):
        yield pairs.pick(index)


def _join(parts: list[_Pairs]) -> _Pairs:
    fields = zip(*((part.middles, part.ways, part.apart, part.gains) for part in parts), strict=True)
    return _Pairs(*(torch.cat(field) for field in fields))


def _normalised(vectors: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """Divide by the norms (n,); where they are zero, return ``otherwise`` or zero."""
    norms = _column(vectors.flatten(1).norm(dim=1), vectors)
    fallback = torch.zeros_like(vectors) if otherwise is None else otherwise
    return torch.where(norms > 0.0, vectors / torch.where(norms > 0.0, norms, torch.ones_like(norms)), fallback)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
