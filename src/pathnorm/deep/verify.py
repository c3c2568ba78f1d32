"""Compare two networks on data that was kept back: outputs, accuracy, latency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnorm.deep.data import Batches

__all__ = ["Comparison", "compare_outputs"]

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured on held-out samples; see :class:`pathnorm.report.records.CompressionRecord`."""

    samples: int
    output_error: float
    output_error_interval: tuple[float, float]
    agreement: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_change_interval: tuple[float, float] | None


def compare_outputs(old: nn.Module, new: nn.Module, batches: Batches, *, seed: int) -> Comparison:
    """Run both networks on all batches and return errors with 95 % bootstrap intervals over samples."""
    before, after = _outputs(old, batches), _outputs(new, batches)
    labels = batches.labels()
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, before.shape[0], size=(_RESAMPLES, before.shape[0]))
    missed = np.square(after - before).sum(1)
    energy = np.square(before - before.mean(0)).sum(1)
    errors = np.sqrt(missed[draws].sum(1) / np.maximum(energy[draws].sum(1), 1e-300))
    scored = before.shape[1] > 1
    agreement = float(np.mean(before.argmax(1) == after.argmax(1))) if scored else None
    accuracies = _accuracies(before, after, labels, draws) if scored else (None, None, None)
    return Comparison(
        samples=before.shape[0],
        output_error=float(np.sqrt(missed.sum() / max(energy.sum(), 1e-300))),
        output_error_interval=_interval(errors),
        agreement=agreement,
        accuracy_before=accuracies[0],
        accuracy_after=accuracies[1],
        accuracy_change_interval=accuracies[2],
    )


def output_error(old: nn.Module, new: nn.Module, batches: Batches) -> float:
    """Return ``||f - f_new||_F / ||f - mean f||_F`` over all batches."""
    before, after = _outputs(old, batches), _outputs(new, batches)
    energy = np.square(before - before.mean(0)).sum()
    return float(np.sqrt(np.square(after - before).sum() / max(energy, 1e-300)))


def _outputs(model: nn.Module, batches: Batches) -> NDArray[np.float64]:
    with torch.no_grad():
        parts = [model(batch).double().flatten(1).cpu().numpy() for batch in batches]
    return np.concatenate(parts)


def _accuracies(
    before: NDArray[np.float64], after: NDArray[np.float64], labels: Tensor | None, draws: NDArray[np.int64]
) -> tuple[float | None, float | None, tuple[float, float] | None]:
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or labels.shape[0] != before.shape[0]:
        return None, None, None
    truth = labels.cpu().numpy()
    right, still = (outputs.argmax(1) == truth for outputs in (before, after))
    change = still.astype(np.float64) - right.astype(np.float64)
    return float(right.mean()), float(still.mean()), _interval(change[draws].mean(1))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
