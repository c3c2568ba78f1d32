"""Balance, active neurons and path norm while a network trains."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pathnorm.deep.neuron_norms import Coordinates, neuron_norms, neurons_of
from pathnorm.deep.regularize import live_state
from pathnorm.errors import MissingExtraError

__all__ = ["AuditLogger", "CSVWriter", "ScalarWriter"]

Row = dict[str, float]


@runtime_checkable
class ScalarWriter(Protocol):
    """Anything with ``add_scalar(tag, value, step)``, such as ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any:
        """Take one number."""
        ...


class CSVWriter:
    """One line per step; the header comes from the first row. A file that exists is not written over.

    Parameters
    ----------
    path : str or Path
    append : bool
        Go on in a file that exists, whose columns must be the same.
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not append:
            raise FileExistsError(f"{self.path} exists. Give another path, or append=True to go on in it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Append one line and close the file, so that what is written stays if the run ends."""
        columns = ["step", *row]
        known = self.path.exists() and self.path.stat().st_size > 0
        if known:
            with self.path.open(newline="", encoding="utf-8") as stream:
                found = next(csv.reader(stream))
            if found != columns:
                raise ValueError(f"{self.path} must have the columns {columns}. It has {found}. Give another path.")
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if not known:
                writer.writerow(columns)
            writer.writerow([step, *(repr(value) for value in row.values())])


class AuditLogger:
    """What weight decay does to a network, step by step.

    In a plain loop::

        logger = AuditLogger(model, images, every=100, writers=[CSVWriter("audit.csv"), SummaryWriter()])
        for step, (x, y) in enumerate(loader):
            ...
            logger(step)

    and with Lightning, ``Trainer(callbacks=[logger.lightning()])``. A row has, for the whole network and for each
    group, ``path_norm`` (``sum_k ||w_k|| ||v_k||``), ``decay`` (``sum_k (||w_k||^2 + ||v_k||^2) / 2``, never less),
    ``active`` (neurons with weights on both sides) and ``imbalance`` (the largest ``| ||w||^2 - ||v||^2 | / (||w||^2 +
    ||v||^2)`` of an active neuron).

    Parameters
    ----------
    model : torch.nn.Module
        Read at every call, never written to; may be wrapped in ``DistributedDataParallel``.
    example_inputs : torch.Tensor, shape (n, ...)
        Only to trace the graph.
    every : int
        Steps between rows; calls at other steps return None and cost nothing.
    writers : sequence
        :class:`CSVWriter`, or objects with ``add_scalar(tag, value, step)`` such as TensorBoard's ``SummaryWriter``.
    biases : bool
    batch_norm : {"gain", "folded"}
        See :mod:`pathnorm.deep.neuron_norms`; "gain" are the coordinates in which weight decay acts.

    Attributes
    ----------
    history : list of dict
        All rows so far, each with its ``step``.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        *,
        every: int = 1,
        writers: Sequence[CSVWriter | ScalarWriter] = (),
        biases: bool = True,
        batch_norm: Coordinates = "gain",
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be a number of steps, at least 1. Got {every!r}.")
        for writer in writers:
            if not isinstance(writer, (CSVWriter, ScalarWriter)):
                raise TypeError(
                    "A writer must be a CSVWriter or have add_scalar(tag, value, step). "
                    f"Got {type(writer).__name__}. For a file give CSVWriter(path)."
                )
        neurons = neurons_of(model, example_inputs)
        self.groups = neurons.require_groups()
        self.every, self.biases, self.batch_norm = every, biases, batch_norm
        self.writers = tuple(writers)
        self.history: list[dict[str, float]] = []
        self._model = model

    def __call__(self, step: int) -> Row | None:
        """Log one row if ``step`` is a multiple of ``every``, and return it."""
        if step % self.every:
            return None
        row = self.measure()
        self.history.append({"step": float(step), **row})
        for writer in self.writers:
            if isinstance(writer, CSVWriter):
                writer.write(step, row)
            else:
                for tag, value in row.items():
                    writer.add_scalar(f"pathnorm/{tag}", value, step)
        return row

    @torch.no_grad()
    def measure(self) -> Row:
        """The row of this moment."""
        state = live_state(self._model)
        row: Row = {"path_norm": 0.0, "decay": 0.0, "active": 0.0, "imbalance": 0.0}
        for group in self.groups:
            norms = neuron_norms(group, state, biases=self.biases, batch_norm=self.batch_norm)
            alive = norms.masses > 0.0
            path, active = float(norms.masses.sum()), float(alive.sum())
            decay = 0.5 * float(norms.inputs.square().sum() + norms.outputs.square().sum())
            imbalance = float(norms.imbalance[alive].abs().max()) if active else 0.0
            row["path_norm"] += path
            row["decay"] += decay
            row["active"] += active
            row["imbalance"] = max(row["imbalance"], imbalance)
            for name, value in (("path_norm", path), ("decay", decay), ("active", active), ("imbalance", imbalance)):
                row[f"{group.name}/{name}"] = value
        return row

    def lightning(self) -> Any:
        """A Lightning callback that logs after every training batch, to the trainer's loggers too.

        Raises
        ------
        MissingExtraError
            If neither ``lightning`` nor ``pytorch_lightning`` is installed.
        """
        base = _lightning_callback()
        audit = self

        class _Audit(base):  # type: ignore[misc,valid-type]
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
                row = audit(trainer.global_step) if trainer.is_global_zero else None
                if row is not None:
                    for logger in trainer.loggers:
                        metrics = {f"pathnorm/{tag}": value for tag, value in row.items()}
                        logger.log_metrics(metrics, step=trainer.global_step)

        return _Audit()


def _lightning_callback() -> Any:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "A Lightning callback needs the package 'lightning', which is not installed. "
                "Install it with: pip install lightning. In a plain loop call the logger itself."
            ) from error
    return Callback
