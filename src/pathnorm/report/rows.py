"""What the tables of a report hold, whether they end up as text or as a page."""

from __future__ import annotations

from collections.abc import Mapping

from pathnorm.report.numbers import (
    MISSING,
    byte_size,
    count,
    decimal,
    percent,
    percent_interval,
    points,
    points_interval,
    ratio,
    tiny,
)
from pathnorm.report.records import CompressionRecord, GroupRecord

__all__ = ["GROUP_COLUMNS", "KINDS", "group_cells", "how", "network_rows"]

KINDS = {
    "exact": "counted or computed; needs no data and no proof",
    "certified": "a bound that is proved, on the calibration data of this report",
    "measured": "observed, and true of that data and machine only",
}

# Two lines of heading in text, one heading on a page, and the field that gives the kind.
GROUP_COLUMNS = (
    ("layer", "", "layer", None),
    ("width", "", "width", "width_after"),
    ("width", ">=", "width at least", "width_lower_bound"),
    ("rank", "bound", "rank bound", "width_bound"),
    ("error", "calib.", "error, calibration", "error_calibration"),
    ("error", "held", "error, held out", "error_heldout"),
    ("path norm", "", "path norm", "path_norm_after"),
    ("norm", ">=", "path norm at least", "path_norm_lower_bound"),
    ("dual", "gap", "dual gap", "gap"),
    ("thm.", "", "theorem applies", "theorem_applies"),
)


def network_rows(record: CompressionRecord) -> list[list[str]]:
    """Return rows of label, before, after, change, kind and remark."""
    rows = [
        [
            "parameters",
            count(record.params_before),
            count(record.params_after),
            ratio(record.params_before, record.params_after),
            "exact",
            "",
        ],
        [
            "multiply-accumulates",
            count(record.macs_before),
            count(record.macs_after),
            ratio(record.macs_before, record.macs_after),
            "exact",
            "one sample",
        ],
        [
            "file size",
            byte_size(record.bytes_before),
            byte_size(record.bytes_after),
            ratio(record.bytes_before, record.bytes_after),
            "exact",
            "safetensors",
        ],
        [
            "latency, ms",
            decimal(record.latency_ms_before),
            decimal(record.latency_ms_after),
            ratio(record.latency_ms_before, record.latency_ms_after),
            "measured",
            f"batch {record.latency_batch}, threads {record.latency_threads}",
        ],
    ]
    if record.accuracy_before is not None:
        interval = points_interval(record.accuracy_change_interval)
        rows.append(
            [
                "accuracy",
                percent(record.accuracy_before),
                percent(record.accuracy_after),
                points(record.accuracy_before, record.accuracy_after),
                "measured",
                "" if interval == MISSING else f"95 %: {interval}",
            ]
        )
    interval = percent_interval(record.output_error_interval)
    rows.append(
        [
            "output error, held out",
            "",
            percent(record.output_error_heldout),
            "",
            "measured",
            "" if interval == MISSING else f"95 %: {interval}",
        ]
    )
    if record.agreement_heldout is not None:
        rows.append(["same answer, held out", "", percent(record.agreement_heldout), "", "measured", ""])
    return rows


def group_cells(group: GroupRecord) -> list[str]:
    """Return the row of one layer, in the order of ``GROUP_COLUMNS``."""
    return [
        group.name,
        f"{group.width_before} -> {group.width_after}",
        str(group.width_lower_bound),
        str(group.width_bound),
        decimal(group.error_calibration),
        decimal(group.error_heldout),
        f"{decimal(group.path_norm_before)} -> {decimal(group.path_norm_after)}",
        decimal(group.path_norm_lower_bound),
        tiny(group.gap),
        "yes" if group.theorem_applies else "no",
    ]


def _asked(value: float | Mapping[str, int]) -> str:
    """Return a budget as text; of widths that were all given, how many."""
    return f"given for {count(len(value))} of the groups" if isinstance(value, Mapping) else decimal(value)


def how(record: CompressionRecord) -> str:
    """Return what was asked for and what it took, in one line."""
    asked = ", ".join(f"{name} {_asked(value)}" for name, value in record.budget.items()) or "none"
    return (
        f"budget: {asked}; selector {record.selector}; seed {record.seed}; "
        f"{count(record.samples_calibration)} samples to calibrate, "
        f"{count(record.samples_heldout)} held out; "
        f"{decimal(record.seconds)} s; peak memory {decimal(record.peak_memory_mb)} MB"
        f"{'' if record.check is None else f'. {record.check}'}"
    )
