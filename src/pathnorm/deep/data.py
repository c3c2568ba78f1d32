"""Calibration data: what the user gave, as batches in a fixed order, part of it held back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pathnorm.errors import DataError

__all__ = ["Batches", "all_batches", "split_batches"]

_TOKENS = frozenset({torch.int64, torch.int32})


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of inputs that can be gone through again and again in the same order.

    ``chunks`` are index lists into a tensor or a dataset, or positions in a list of batches.
    """

    source: Any
    chunks: tuple[Any, ...]
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        for chunk in self.chunks:
            yield _inputs(self.source(chunk)).to(self.device)

    def __len__(self) -> int:
        return len(self.chunks)

    def first(self, count: int) -> Batches:
        """Return the first ``count`` batches."""
        return Batches(self.source, self.chunks[:count], self.device)

    def after(self, count: int) -> Batches:
        """Return all but the first ``count`` batches."""
        return Batches(self.source, self.chunks[count:], self.device)

    def count(self) -> int:
        """Return the number of samples."""
        return sum(batch.shape[0] for batch in self)

    def labels(self) -> Tensor | None:
        """Return the labels that come with the batches, or None."""
        found = [_labels(self.source(chunk)) for chunk in self.chunks]
        return None if any(item is None for item in found) else torch.cat(found)  # type: ignore[arg-type]


def split_batches(
    data: Any, labels: Any = None, *, heldout: float, batch_size: int, seed: int, device: torch.device
) -> tuple[Batches, Batches]:
    """Return calibration and held-out batches.

    Parameters
    ----------
    data : array, tensor, DataLoader, or list of batches
        Samples along the first axis. A DataLoader keeps its order, its sampler and its collation;
        batches may be tensors or sequences whose first element is the input and whose second is the label.
    labels : array or None
        One label per sample of an array.
    heldout : float
        Share of the samples (arrays) or batches (loaders) kept back, drawn with ``seed``.

    Raises
    ------
    DataError
        If there are fewer than two samples or batches, or the kind of data is not understood.
    """
    rng = np.random.default_rng(seed)
    if isinstance(data, (np.ndarray, Tensor)):
        return _split_array(data, labels, rng, heldout=heldout, batch_size=batch_size, device=device)
    source, chunks = _read(data, seed)
    return _split_chunks(source, chunks, rng, heldout, device)


def all_batches(data: Any, *, batch_size: int, seed: int, device: torch.device) -> Batches:
    """Return all of the data as batches in the order given; kinds of data as in :func:`split_batches`.

    Raises
    ------
    DataError
        If there are fewer than two samples, no batch, or the kind of data is not understood.
    """
    if isinstance(data, (np.ndarray, Tensor)):
        samples = _samples(data)
        return Batches(lambda chunk: samples[chunk], tuple(torch.arange(samples.shape[0]).split(batch_size)), device)
    source, chunks = _read(data, seed)
    if not chunks:
        raise DataError("Data must hold at least one batch. Got none. Check the dataset of the loader.")
    return Batches(source, tuple(chunks), device)


def _read(data: Any, seed: int) -> tuple[Callable[[Any], Any], list[Any]]:
    """Return how a batch is read, and what there is to be read, of a loader or a list of batches."""
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            raise DataError(
                "A DataLoader must have a dataset with an index, so that passes see the same batches. It has an "
                f"IterableDataset ({type(data.dataset).__name__}). Give a list of batches instead."
            )
        with _fixed_random_state(seed):
            indices = list(data.batch_sampler if data.batch_sampler is not None else ([i] for i in data.sampler))
        collate, dataset = data.collate_fn, data.dataset
        return (lambda chunk: collate([dataset[i] for i in chunk])), indices
    if isinstance(data, Sequence) and len(data) and not isinstance(data, str):
        return (lambda position: data[position]), list(range(len(data)))
    if isinstance(data, Iterable):
        raise DataError(
            f"Data must be an array, a tensor, a DataLoader or a list of batches, so that it can be read more than "
            f"once. Got {type(data).__name__}{' (empty)' if isinstance(data, Sequence) else ''}. "
            "Turn an iterator into a list of batches."
        )
    raise DataError(f"Data must be an array, a tensor, a DataLoader or a list of batches. Got {type(data).__name__}.")


def _samples(data: Any) -> Tensor:
    """Return an array as a tensor with at least two samples."""
    samples = torch.as_tensor(data)
    if samples.ndim < 2 or samples.shape[0] < 2:
        raise DataError(
            f"Data must hold at least two samples along the first axis. Its shape is {tuple(samples.shape)}. "
            "Add the batch axis, or more samples."
        )
    if not samples.is_floating_point() and samples.dtype not in _TOKENS:
        raise DataError(
            f"Data must be floating point, scaled as the network was trained, or token ids (int64, int32). Its dtype "
            f"is {samples.dtype}. Convert and normalise it first."
        )
    return samples


def _split_array(
    data: Any, labels: Any, rng: np.random.Generator, *, heldout: float, batch_size: int, device: torch.device
) -> tuple[Batches, Batches]:
    samples = _samples(data)
    targets = None if labels is None else torch.as_tensor(labels)
    if targets is not None and targets.shape[:1] != samples.shape[:1]:
        raise DataError(f"There must be one label per sample: {samples.shape[0]} samples, {targets.shape[0]} labels.")

    def source(chunk: Tensor) -> Any:
        return samples[chunk] if targets is None else (samples[chunk], targets[chunk])

    permutation = torch.from_numpy(rng.permutation(samples.shape[0]))
    n_heldout = min(max(round(heldout * samples.shape[0]), 1), samples.shape[0] - 1)
    parts = (permutation[n_heldout:], permutation[:n_heldout])
    calibration, held = (Batches(source, tuple(part.split(batch_size)), device) for part in parts)
    return calibration, held


def _split_chunks(
    source: Any, chunks: list[Any], rng: np.random.Generator, heldout: float, device: torch.device
) -> tuple[Batches, Batches]:
    if len(chunks) < 2:
        raise DataError(
            f"Data must hold at least two batches, so that one can be held back. Got {len(chunks)}. "
            "Use a smaller batch size."
        )
    order = rng.permutation(len(chunks))
    n_heldout = min(max(round(heldout * len(chunks)), 1), len(chunks) - 1)
    held = sorted(order[:n_heldout].tolist())
    rest = sorted(order[n_heldout:].tolist())
    return (
        Batches(source, tuple(chunks[i] for i in rest), device),
        Batches(source, tuple(chunks[i] for i in held), device),
    )


def _inputs(batch: Any) -> Tensor:
    """Return the input tensor of a batch."""
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if not isinstance(batch, (np.ndarray, Tensor)):
        raise DataError(
            f"A batch must be a tensor, or a sequence that starts with one. Got {type(batch).__name__}. "
            "Give a collate function that returns (inputs, labels)."
        )
    return torch.as_tensor(batch)


def _labels(batch: Any) -> Tensor | None:
    """Return the labels of a batch, if it has any."""
    return torch.as_tensor(batch[1]) if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


@contextmanager
def _fixed_random_state(seed: int) -> Iterator[None]:
    """Seed Python's and torch's generators inside a block and restore them after it."""
    python, generator = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(generator)
