"""What four exported networks weigh and take: the given and the smaller one, in fp32 and in int8."""

from __future__ import annotations

from dataclasses import dataclass

from pathnorm.report.fields import JsonRecord, exact, measured
from pathnorm.report.numbers import MISSING, byte_size, count, decimal, percent, tiny
from pathnorm.report.table import align, wrap

__all__ = ["EdgeFile", "EdgeRecord"]

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeFile:
    """One exported network.

    Attributes
    ----------
    name : str
        Of the file; also where it could not be made.
    network : {"dense", "compressed"}
    precision : {"fp32", "int8"}
    bytes : int or None
        Size of the file.
    latency_ms : float or None
        Median time of one sample in onnxruntime.
    error : float or None
        ``||f - f_onnx||_F / ||f - mean f||_F`` with f the outputs of the same network in torch, on samples kept back.
    agreement : float or None
        Share of these samples with the same arg max as the dense network in torch (outputs of shape (N, classes)).
    problem : str
        Why there is no such file; empty if there is.
    """

    name: str
    network: str
    precision: str
    bytes: int | None = exact(default=None)
    latency_ms: float | None = measured(default=None)
    error: float | None = measured(default=None)
    agreement: float | None = measured(default=None)
    problem: str = exact(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRecord(JsonRecord):
    """Four files, and how they were made and measured.

    Attributes
    ----------
    files : tuple of EdgeFile
        Dense fp32, dense int8, compressed fp32, compressed int8.
    quantisation : str
        How int8 was made.
    samples_calibration, samples_check : int
        Samples that set the ranges of the activations, and others on which errors were measured.
    latency_batch, latency_threads, latency_repeats : int
    onnxruntime : str
        Version.
    """

    files: tuple[EdgeFile, ...]
    quantisation: str = exact()
    samples_calibration: int = exact()
    samples_check: int = exact()
    latency_batch: int = exact()
    latency_threads: int = exact()
    latency_repeats: int = exact()
    onnxruntime: str = exact()

    def __str__(self) -> str:
        head = [
            ["file", "size", "latency, ms", "error", "same answer"],
            ["", "exact", "measured", "measured", "measured"],
        ]
        rows = [
            [
                item.name,
                MISSING if item.bytes is None else byte_size(item.bytes),
                decimal(item.latency_ms),
                tiny(item.error) if item.precision == "fp32" else percent(item.error),
                percent(item.agreement),
            ]
            for item in self.files
        ]
        how = (
            f"int8: {self.quantisation}, ranges from {count(self.samples_calibration)} samples; error against the same "
            f"network in torch and answers against the dense one, on {count(self.samples_check)} other samples; "
            f"latency: onnxruntime {self.onnxruntime}, batch {self.latency_batch}, threads {self.latency_threads}, "
            f"median of {self.latency_repeats}"
        )
        problems = [
            line for item in self.files if item.problem for line in wrap(f"{item.name}: {item.problem}", width=_WIDTH)
        ]
        return "\n".join([*align(rows, head=head), *problems, "", *wrap(how, width=_WIDTH)])
