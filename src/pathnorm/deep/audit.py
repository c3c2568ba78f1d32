"""Read a trained network through its path norm: what each layer's neurons do, and what the network needs of them.

One pass over the data gives the Gram matrix of what every layer reads; the weights give the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep.attack import lipschitz_lower
from pathnorm.deep.blocks import gram_bytes
from pathnorm.deep.cost import macs_cost, params_cost
from pathnorm.deep.data import Batches, all_batches
from pathnorm.deep.describe import peak_memory_mb
from pathnorm.deep.graph import ModelGraph, clean_copy, state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.layer_facts import (
    WeightFacts,
    measured_duplicates,
    never_active,
    reconstruction_facts,
    weight_facts,
)
from pathnorm.deep.layer_grams import InputGram, input_grams, parts_of
from pathnorm.deep.lipschitz import LipschitzBound, lipschitz_upper
from pathnorm.deep.neuron_group import NeuronGroup, Neurons
from pathnorm.deep.neuron_norms import plain_module
from pathnorm.deep.ranks import sum_over_ranks
from pathnorm.deep.reduce import Progress
from pathnorm.errors import DataError
from pathnorm.report.audit import AuditRecord, GroupAudit, LipschitzLayer
from pathnorm.report.numbers import byte_size

__all__ = ["audit"]

# Ranks, inverse and elimination of a matrix beyond this take many minutes per layer.
_MOST_ROWS = 9216


def audit(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    model: nn.Module,
    data: Any,
    *,
    biases: bool = False,
    skip: Sequence[str] = (),
    max_positions: int | None = 64,
    batch_size: int = 128,
    max_bytes: int = 4 * 2**30,
    attack_samples: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> AuditRecord:
    """Return what is proved and what is measured about a trained network.

    Per neuron group: active, dead and duplicate neurons, balance ``||w_k||`` against ``||v_k||``, path norm, effective
    ranks of ``Phi`` and ``Psi``, the width at which the layer's outputs are kept to 1 % and 5 % and the bound below it,
    and how much of the path norm the outputs need. For the whole: size, path norm and a Lipschitz sandwich.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified.
    data : array, tensor, DataLoader or list of batches
        Unlabelled samples, scaled as in training. All are used; labels are ignored.
    biases : bool
        Whether the biases are part of the input weights in path norms and balance. The theory leaves them out.
    skip : sequence of str
        Module paths of layers whose neurons are left out.
    max_positions : int or None
        Output positions of a convolution that enter the moments, per batch; None for all.
    batch_size : int
        Samples per batch when ``data`` is an array.
    max_bytes : int
        Bytes that Gram matrices may take together. Where all do not fit, the data are read several times; a layer whose
        own do not fit is described by its weights alone.
    attack_samples : int
        Samples from which a large Lipschitz ratio is searched for; 0 for no search.
    progress : callable
        Called with ``(stage, done, total)``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    DataError, TraceError
        See :mod:`pathnorm.errors`.

    References
    ----------
    Shenouda, Parhi, Lee, Nowak (2024); Parhi, Nowak (2023); ``docs/audit.md`` goes through the numbers.
    """
    started = time.perf_counter()
    _check_arguments(max_positions, batch_size, max_bytes, attack_samples)
    module = plain_module(model)
    batches = all_batches(data, batch_size=batch_size, seed=seed, device=_device(module))
    stream = _Stream.of(batches, attack_samples)
    example = stream.example
    graph, state = trace(module, example), state_of(clean_copy(module))
    found = find_neurons(graph, state, example, skip=skip)
    look = _Look(graph, state, found, max_positions, seed, progress or (lambda stage, done, total: None))
    facts = [weight_facts(group, state, biases=biases) for group in found.groups]
    groups, passes = _groups(look, facts, stream, max_bytes)
    widths = [group.width for group in found.groups]
    bound = _upper(look, example)
    samples = torch.tensor([float(stream.samples)])
    sum_over_ranks(samples)
    return AuditRecord(
        groups=groups,
        skipped=found.skipped,
        params=params_cost(module, found.groups)(widths),
        macs=macs_cost(graph, found.labels, found.groups)(widths),
        neurons=sum(widths),
        active=sum(group.active for group in groups),
        dead_proved=sum(group.dead_proved for group in groups),
        duplicates_proved=sum(group.duplicates_proved for group in groups),
        path_norm=float(sum(group.path_norm for group in groups)),
        biases=biases,
        lipschitz_upper=bound.upper,
        lipschitz_reason=bound.reason,
        lipschitz_layers=tuple(
            LipschitzLayer(name=item.name, operation=item.operation, norm=item.norm, method=item.method)
            for item in bound.layers
        ),
        lipschitz_lower=_lower(look, stream.attacked),
        attack_samples=stream.attacked.shape[0],
        samples=int(samples),
        passes=passes,
        max_positions=max_positions,
        seed=seed,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What is looked at, and how."""

    graph: ModelGraph
    state: dict[str, Tensor]
    neurons: Neurons
    max_positions: int | None
    seed: int
    progress: Progress


@dataclass(slots=True)
class _Stream:
    """The batches, the first of which is read once and kept, and a few samples from all of them for the attack."""

    first: Tensor
    rest: Batches
    attack_samples: int
    samples: int = 0
    _parts: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, batches: Batches, attack_samples: int) -> _Stream:
        first = next(iter(batches))
        if first.shape[0] == 0 or not bool(torch.isfinite(first).all()):
            raise DataError(
                "Data must be finite and not empty. The first batch holds NaN or Inf, or nothing. Clean the data first."
            )
        return cls(first, batches.after(1), attack_samples)

    @property
    def example(self) -> Tensor:
        """Two samples, the smallest batch that leaves the batch size free."""
        return self.first[:2] if self.first.shape[0] > 1 else torch.cat([self.first, self.first])

    @property
    def attacked(self) -> Tensor:
        """The samples to attack."""
        return torch.cat(self._parts)[: self.attack_samples] if self._parts else self.first[: self.attack_samples]

    def read(self, progress: Progress, stage: str) -> Iterator[Tensor]:
        """Go through all batches; the first time round, count samples and keep a few of each batch."""
        total, fresh = 1 + len(self.rest), self.samples == 0
        share = -(-self.attack_samples // total)
        batches = iter(self.rest)
        for done in range(total):
            progress(stage, done, total)
            batch = self.first if done == 0 else next(batches)
            if fresh:
                self.samples += batch.shape[0]
                self._parts.append(batch[:share])
            yield batch
        progress(stage, total, total)


def _groups(
    look: _Look, facts: Sequence[WeightFacts], stream: _Stream, max_bytes: int
) -> tuple[tuple[GroupAudit, ...], int]:
    """Return the audit of every group, and how often the data were read."""
    groups = look.neurons.groups
    total = float(sum(fact.masses.sum() for fact in facts))
    sizes = [gram_bytes(group) for group in groups]
    missing = [_missing(group, look, size, max_bytes) for group, size in zip(groups, sizes, strict=True)]
    parts = parts_of(groups, [0 if reason else size for reason, size in zip(missing, sizes, strict=True)], max_bytes)
    found: list[GroupAudit] = []
    for number, part in enumerate(parts):
        consumers = [
            (consumer, not missing[len(found) + at]) for at, group in enumerate(part) for consumer in group.consumers
        ]
        name = "reading data" if len(parts) == 1 else f"reading data, pass {number + 1} of {len(parts)}"
        sums = input_grams(
            look.graph,
            look.state,
            stream.read(look.progress, name),
            consumers,
            shapes=[look.neurons.labels.shapes[consumer.layer.node] for consumer, _ in consumers],
            max_positions=look.max_positions,
            seed=look.seed,
        )
        for group in part:
            mine, sums = sums[: len(group.consumers)], sums[len(group.consumers) :]
            look.progress("auditing layers", len(found), len(groups))
            found.append(_group(group, look, mine, facts[len(found)], (total, missing[len(found)])))
    look.progress("auditing layers", len(groups), len(groups))
    return tuple(found), len(parts)


def _group(
    group: NeuronGroup, look: _Look, sums: Sequence[InputGram], facts: WeightFacts, rest: tuple[float, str]
) -> GroupAudit:
    """Return the audit of one group; ``rest`` are the network's path norm and why there is no Gram matrix."""
    total, missing = rest
    zero = never_active(group, sums)
    active = ~(zero | facts.silent)
    applies, reason = group.theorem()
    mass = float(facts.masses.sum())
    return GroupAudit(
        name=group.name,
        consumers=tuple(consumer.layer.name for consumer in group.consumers),
        activations=group.activations,
        theorem_applies=applies,
        theorem_reason=reason,
        width=group.width,
        active=int(active.sum()),
        dead_proved=int(facts.silent.sum()),
        dead_measured=int((zero & ~facts.silent).sum()),
        duplicates_proved=facts.duplicates,
        duplicates_measured=None if missing else measured_duplicates(group, sums, active),
        balance=facts.balance,
        balance_worst=facts.balance_worst,
        balance_counts=facts.balance_counts,
        path_norm=mass,
        path_norm_share=mass / total if total > 0.0 else 0.0,
        masses=tuple(sorted((float(value) for value in facts.masses), reverse=True)),
        gini=facts.gini,
        input_singular_values=tuple(float(value) for value in facts.singular_values),
        directions=facts.directions,
        reconstruction=None if missing else reconstruction_facts(group, look.state, sums, facts, active),
        missing=missing,
    )


def _upper(look: _Look, example: Tensor) -> LipschitzBound:
    look.progress("Lipschitz bound", 0, 1)
    bound = lipschitz_upper(look.graph, look.state, example)
    look.progress("Lipschitz bound", 1, 1)
    return bound


def _lower(look: _Look, samples: Tensor) -> float | None:
    """Return a Lipschitz ratio that is attained near the samples; None without samples that can be moved."""
    if samples.shape[0] == 0 or not samples.is_floating_point():
        return None
    look.progress("Lipschitz attack", 0, 1)
    witness = lipschitz_lower(look.graph, look.state, samples, seed=look.seed)
    look.progress("Lipschitz attack", 1, 1)
    return witness.lower


def _missing(group: NeuronGroup, look: _Look, size: int, max_bytes: int) -> str:
    """Say why the moments of a group are not formed; empty if they are."""
    if size > max_bytes:
        return f"its Gram matrices would take {byte_size(size)}, more than max_bytes allows ({byte_size(max_bytes)})"
    features = sum(look.state[consumer.layer.weight][0].numel() for consumer in group.consumers)
    return f"{features} features are more than {_MOST_ROWS}" if features > _MOST_ROWS else ""


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_arguments(max_positions: int | None, batch_size: int, max_bytes: int, attack_samples: int) -> None:
    if max_positions is not None and max_positions < 1:
        raise ValueError(f"max_positions must be at least 1, or None for all. Got {max_positions!r}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Got {batch_size!r}. 128 is usual.")
    if not max_bytes > 0:
        raise ValueError(f"max_bytes must be positive. Got {max_bytes!r}. 4 * 2**30 are 4 GiB.")
    if attack_samples < 0:
        raise ValueError(f"attack_samples must be a number of samples, 0 for no attack. Got {attack_samples!r}.")
