"""The network before and after, in fp32 and in int8, as ONNX files that were run and measured."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnorm.deep.data import Batches
from pathnorm.deep.export import to_onnx
from pathnorm.deep.graph import clean_copy
from pathnorm.errors import ExportError, MissingExtraError, PathnormError
from pathnorm.report.edge import EdgeFile, EdgeRecord
from pathnorm.report.folder import new_folder

__all__ = ["EDGE_FILES", "export_edge", "require_onnxruntime"]

EDGE_FILES = ("dense.fp32.onnx", "dense.int8.onnx", "compressed.fp32.onnx", "compressed.int8.onnx", "edge.json")

_TOLERANCE = 1e-4
_WARM_UP = 5
_QUANTISATION = "QDQ, per channel, 8-bit weights and activations, static ranges"

Array = NDArray[Any]
Run = Callable[[Tensor], Array]


def require_onnxruntime() -> None:
    """Refuse to begin without what is needed.

    Raises
    ------
    MissingExtraError
    """
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError(f"Files for the edge need the package {needed}. Run: pip install 'pathnorm[onnx]'.")


def export_edge(
    models: Mapping[str, nn.Module],
    data: tuple[Batches, Batches],
    folder: Path,
    *,
    force: bool = False,
    repeats: int = 50,
    clock: Callable[[], float] = time.perf_counter,
) -> EdgeRecord:
    """Write an fp32 and an int8 file of every network and ``edge.json`` into ``folder``, all or nothing.

    The batch size of the files is free. int8 is made by ``onnxruntime.quantization.quantize_static``; where that
    fails, the record says why and the file is missing.

    Parameters
    ----------
    models : mapping
        ``dense`` and ``compressed``.
    data : (Batches, Batches)
        Samples that set the ranges of the activations, and others to measure errors on.
    repeats : int
        Runs of one sample on one thread, of which the median counts; the files take turns.
    clock : callable
        Seconds.

    Raises
    ------
    MissingExtraError
        If onnx, onnxscript or onnxruntime is not installed.
    ExportError
        If torch cannot export a network, or an fp32 file differs from torch by more than 1e-4 of the largest output.
    OutputFolderError
        If ``folder`` has files and ``force`` is false, or cannot be written.
    """
    require_onnxruntime()
    import onnxruntime

    calibration, check = data
    inputs = [batch.cpu() for batch in check]
    with new_folder(folder, force=force, stale=EDGE_FILES) as draft:
        files: list[EdgeFile] = []
        runs: dict[str, Run] = {}
        answers: Array | None = None
        for network, model in models.items():
            twin = clean_copy(model).cpu()
            wanted = _outputs(_torch(twin), inputs)
            answers = wanted if answers is None else answers
            for item in _exported(network, twin, calibration, draft):
                if not item.problem:
                    runs[item.name] = _runner(draft / item.name)
                    item = _compared(item, _outputs(runs[item.name], inputs), wanted, answers)
                files.append(item)
        times = _latencies(runs, inputs[0][:1], repeats=repeats, clock=clock)
        record = EdgeRecord(
            files=tuple(replace(item, latency_ms=times.get(item.name)) for item in files),
            quantisation=_QUANTISATION,
            samples_calibration=calibration.count(),
            samples_check=sum(batch.shape[0] for batch in inputs),
            latency_batch=1,
            latency_threads=1,
            latency_repeats=repeats,
            onnxruntime=onnxruntime.__version__,
        )
        (draft / EDGE_FILES[-1]).write_text(record.to_json(), encoding="utf-8")
    return record


def _exported(network: str, model: nn.Module, calibration: Batches, folder: Path) -> Iterator[EdgeFile]:
    """Write both files of a network and yield what they are."""
    fp32, int8 = (f"{network}.{precision}.onnx" for precision in ("fp32", "int8"))
    first = next(iter(calibration)).cpu()
    to_onnx(model, first[:2] if first.shape[0] > 1 else torch.cat([first, first]), folder / fp32)
    yield EdgeFile(name=fp32, network=network, precision="fp32", bytes=(folder / fp32).stat().st_size)
    try:
        _quantise(folder / fp32, folder / int8, calibration)
        _runner(folder / int8)(first[:1])
    except (OSError, PathnormError):
        raise
    except Exception as error:  # noqa: BLE001  (whatever onnxruntime says about an operation belongs in the record)
        (folder / int8).unlink(missing_ok=True)
        lines = str(error).strip().splitlines() or [""]
        problem = f"onnxruntime could not make or run int8: {type(error).__name__}: {lines[0][:200]}"
        yield EdgeFile(name=int8, network=network, precision="int8", problem=problem)
    else:
        yield EdgeFile(name=int8, network=network, precision="int8", bytes=(folder / int8).stat().st_size)


def _quantise(source: Path, target: Path, calibration: Batches) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = _session(source).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch.cpu().numpy()}

    with _quiet():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # Processors without VNNI add pairs of products in 16 bits, where weights of eight bits overflow.
            reduce_range=True,
        )


def _compared(item: EdgeFile, got: Array, wanted: Array, answers: Array) -> EdgeFile:
    """Measure a file against torch; an fp32 file has to agree."""
    worst = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-300))
    if item.precision == "fp32" and not worst <= _TOLERANCE:
        raise ExportError(
            f"{item.name} must agree with torch to {_TOLERANCE} of the largest output. On data kept back it differs by "
            f"{worst:.1e}."
        )
    error = float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted - wanted.mean(0))), 1e-300))
    scored = answers.ndim == 2 and answers.shape[1] > 1
    agreement = float(np.mean(got.argmax(1) == answers.argmax(1))) if scored else None
    return replace(item, error=error, agreement=agreement)


def _latencies(
    runs: Mapping[str, Run], sample: Tensor, *, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the median time of one sample per file, in ms, runs interleaved after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_WARM_UP + repeats):
        for name, run in runs.items():
            start = clock()
            run(sample)
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(taken[_WARM_UP:]) for name, taken in times.items()}


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _runner(path: Path) -> Run:
    session = _session(path)
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Array:
        found: Array = session.run(None, {name: batch.numpy()})[0]
        return found

    return run


def _torch(model: nn.Module) -> Run:
    @torch.no_grad()
    def run(batch: Tensor) -> Array:
        found: Array = model(batch).numpy()
        return found

    return run


def _outputs(run: Run, batches: Sequence[Tensor]) -> Array:
    return np.concatenate([run(batch) for batch in batches]).astype(np.float64)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the advice to pre-process, which torch's exporter has done already, off the terminal."""
    logger = logging.getLogger()
    disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = disabled
