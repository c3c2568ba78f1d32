"""Run the original and the compressed network side by side, batch by batch.

Values at a cut of the graph are cached while they fit into a byte budget and recomputed
otherwise, so memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pathnorm.deep.data import Batches
from pathnorm.deep.graph import ModelGraph, State
from pathnorm.deep.mixing import kept_key

__all__ = ["Replay", "Values"]

Values = Mapping[fx.Node, Any]


class Replay:
    """Two runs of one graph over the same batches, resumed at a cut.

    Parameters
    ----------
    graph : ModelGraph
    original : mapping
        State of the original network.
    batches : Batches
    cache_bytes : int
        Bytes that values at the cut may take; further batches are recomputed from the input.
    """

    def __init__(self, graph: ModelGraph, original: State, batches: Batches, *, cache_bytes: int) -> None:
        self.graph = graph
        self.original = original
        self._batches = batches
        self._limit = cache_bytes
        self._cut = 0
        self._cache: dict[int, tuple[Values, Values]] = {}

    def sweep(
        self, current: State, *, cut: int, stop: int, keep: Iterable[fx.Node], remember: bool = True
    ) -> Iterator[tuple[Values, Values]]:
        """Yield, per batch, the values of ``keep`` in the original and in the current network.

        Parameters
        ----------
        current : mapping
            State of the current network. Up to ``cut`` it must agree with the one of the sweep
            that filled the cache.
        cut : int
            Index of the first operation whose weights may still change; values there are
            cached for the next sweep.
        stop : int
            Index after the last operation needed; every node of ``keep`` is read or computed
            in ``[cut, stop)``.
        remember : bool
            Whether to move the cache to ``cut``.
        """
        kept = tuple(keep)
        spent = 0
        moved: dict[int, tuple[Values, Values]] = {}
        for position, batch in enumerate(self._batches):
            at_cut = self._at_cut(position, batch, current, cut)
            if remember:
                spent += _bytes(at_cut)
                if spent <= self._limit:
                    moved[position] = at_cut
                    self._cache.pop(position, None)
            yield self._finish(at_cut, current, (cut, stop), kept)
        if remember:
            self._cut, self._cache = cut, moved

    def targets(
        self, current: State, *, span: tuple[int, int], keep: Iterable[fx.Node]
    ) -> Iterator[tuple[Values, Values]]:
        """Yield, without end, the original values of ``keep`` and the current ones alive at ``span[0]``.

        Goes round and round the batches; the original's values are kept while they fit into the byte budget.
        The cache at the cut is read, but not moved.
        """
        kept, spent = tuple(keep), 0
        known: dict[int, Values] = {}
        while True:
            for position, batch in enumerate(self._batches):
                before, after = self._at_cut(position, batch, current, span[0])
                wanted = known.get(position)
                if wanted is None:
                    wanted = self._original_values(before, span, kept)
                    spent += _bytes((wanted, {}))
                    if spent <= self._limit:
                        known[position] = wanted
                yield wanted, after

    @torch.no_grad()
    def _original_values(self, values: Values, span: tuple[int, int], keep: tuple[fx.Node, ...]) -> Values:
        found = self.graph.run(self.original, values, span=span, keep=keep)
        return {node: found[node] for node in keep}

    @torch.no_grad()
    def _finish(
        self, pair: tuple[Values, Values], current: State, span: tuple[int, int], keep: tuple[fx.Node, ...]
    ) -> tuple[Values, Values]:
        before, after = pair
        original = self.graph.run(self.original, before, span=span, keep=keep)
        if before is after and _same_state(self.original, current):
            return original, original
        return original, self.graph.run(current, after, span=span, keep=keep)

    @torch.no_grad()
    def _at_cut(self, position: int, batch: Tensor, current: State, cut: int) -> tuple[Values, Values]:
        first, pair = 0, None
        if position in self._cache and self._cut <= cut:
            first, pair = self._cut, self._cache[position]
        if pair is None:
            start = self.graph.start(batch)
            pair = (start, start)
        before = self.graph.run(self.original, pair[0], span=(first, cut))
        if pair[0] is pair[1] and not self._differs_before(current, cut):
            return before, before
        return before, self.graph.run(current, pair[1], span=(first, cut))

    def _differs_before(self, current: State, cut: int) -> bool:
        """Whether an operation before ``cut`` reads a tensor in which the two states differ."""
        for node in self.graph.nodes:
            if kept_key(node) in current and self.graph.index(node) < cut:
                return True
            key = self.graph.state_key(node)
            if key is not None and current[key] is not self.original[key]:
                if any(self.graph.index(user) < cut for user in node.users):
                    return True
        return False


def _same_state(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)


def _bytes(pair: tuple[Values, Values]) -> int:
    tensors = {id(value): value for values in pair for value in values.values() if isinstance(value, Tensor)}
    return sum(value.numel() * value.element_size() for value in tensors.values())
