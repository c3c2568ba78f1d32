"""The demonstration: train, compress at several budgets, compare, verify, report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathnorm.deep.compress import compress
from pathnorm.demo.baseline import magnitude_prune
from pathnorm.demo.digits import DigitsSplit, Progress, accuracy, digits_cnn, load_split, one_thread, train
from pathnorm.report.comparison import ComparisonPoint, comparison_table
from pathnorm.report.folder import new_folder, refuse_existing
from pathnorm.report.records import CompressionRecord
from pathnorm.report.render import write_html

__all__ = ["BUDGETS", "DemoResult", "run_demo"]

BUDGETS = (0.5, 0.25, 0.1)
OURS, BASELINE = "pathnorm", "magnitude + BatchNorm"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration found.

    Attributes
    ----------
    folder : Path
        Holds ``report.html`` and ``record.json``.
    points : tuple of ComparisonPoint
        The dense network, then every method at every budget, on the test images.
    records : tuple of CompressionRecord
        One per budget, in the order of the budgets.
    seconds_training, seconds : float
        Of the training and of everything.
    """

    folder: Path
    seed: int
    points: tuple[ComparisonPoint, ...]
    records: tuple[CompressionRecord, ...]
    test_images: int
    seconds_training: float
    seconds: float

    def table(self) -> str:
        """Return the comparison as plain text, with what it was measured on."""
        gap = max(group.gap for record in self.records for group in record.groups)
        return (
            f"{comparison_table(self.points)}\n\n"
            f"Accuracy and output error on {self.test_images} test images that no method has seen. Neither "
            f"method read labels or retrained.\nEvery layer of every {OURS} row carries a certificate; "
            f"the largest relative gap is {gap:.1e}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain Python objects: the comparison and the record of every budget."""
        return {
            "network": digits_cnn.__name__,
            "seed": self.seed,
            "test_images": self.test_images,
            "seconds_training": round(self.seconds_training, 3),
            "seconds": round(self.seconds, 3),
            "comparison": [asdict(point) for point in self.points],
            "records": [record.to_dict() for record in self.records],
        }


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    force: bool = False,
    budgets: Sequence[float] = BUDGETS,
    epochs: int = 30,
    progress: Progress | None = None,
) -> DemoResult:
    """Train a network on handwritten digits, make it smaller, and write what became of it.

    Parameters
    ----------
    out : Path
        Folder to write ``report.html`` and ``record.json`` to.
    force : bool
        Whether ``out`` may have files. The two are then replaced, others are left alone.
    budgets : sequence of float
        Shares of the parameters to keep. The report shows the middle one in detail.
    progress : callable or None
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    OutputFolderError
        If ``out`` has files in it and ``force`` is false, or if it cannot be written.
    """
    out = Path(out)
    refuse_existing(out, force=force)
    started = time.perf_counter()
    split = load_split(seed)
    dense = train(digits_cnn(), split, seed=seed, epochs=epochs, progress=progress)
    trained = time.perf_counter()
    with one_thread():
        points, records = _compare(dense, split, budgets, seed=seed, progress=progress)
    result = DemoResult(
        folder=out,
        seed=seed,
        points=points,
        records=records,
        test_images=len(split.test_labels),
        seconds_training=trained - started,
        seconds=time.perf_counter() - started,
    )
    _publish(result, force)
    return result


def _compare(
    dense: nn.Module, split: DigitsSplit, budgets: Sequence[float], *, seed: int, progress: Progress | None
) -> tuple[tuple[ComparisonPoint, ...], tuple[CompressionRecord, ...]]:
    """Compress at every budget by both methods; measure on the test images."""
    points: list[ComparisonPoint] = []
    records: list[CompressionRecord] = []
    for done, budget in enumerate(budgets):
        asked = f"params {budget:g}"
        smaller = compress(dense, split.train_images, params=budget, outputs="logits", seed=seed)
        record = smaller.record
        records.append(record)
        if not points:
            points.append(_point("dense", "", dense, dense, split, record.params_before, record.macs_before))
        points.append(_point(OURS, asked, smaller.model, dense, split, record.params_after, record.macs_after))
        pruned = magnitude_prune(dense, split.train_images, params=int(budget * record.params_before))
        points.append(_point(BASELINE, asked, pruned.model, dense, split, pruned.params, pruned.macs))
        if progress is not None:
            progress("compress", done + 1, len(budgets))
    return tuple(points), tuple(records)


def _point(
    method: str, budget: str, model: nn.Module, dense: nn.Module, split: DigitsSplit, *size: int
) -> ComparisonPoint:
    """Measure one network on the test images; ``size`` is parameters and multiply-accumulates."""
    with torch.no_grad():
        before, after = dense(split.test_images), model(split.test_images)
    params, macs = size
    return ComparisonPoint(
        method=method,
        budget=budget,
        params=params,
        macs=macs,
        accuracy=accuracy(model, split.test_images, split.test_labels),
        output_error=None if model is dense else _relative_error(before, after),
    )


def _relative_error(before: Tensor, after: Tensor) -> float:
    """Return ``||f - f_new||_F / ||f||_F``."""
    return float((after - before).double().norm() / before.double().norm())


def _publish(result: DemoResult, force: bool) -> None:
    """Write the report of the middle budget, and the records of all."""
    main = (len(result.records) - 1) // 2
    share = result.records[main].budget["params"]
    with new_folder(result.folder, force=force) as draft:
        write_html(
            result.records[main],
            draft / "report.html",
            comparison=result.points,
            title=f"Handwritten digits: a convolutional network with {share:.0%} of its parameters",
        )
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        (draft / "record.json").write_text(text + "\n", encoding="utf-8")
