"""Records made by hand; the numbers are only there to be shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pathnorm.report import ComparisonPoint, CompressionRecord, Frontier, GroupRecord, SkippedGroup


def _group(index: int, *, width: int, theorem: bool) -> GroupRecord:
    after = width // 2
    return GroupRecord(
        name=f"stages.{index // 3}.blocks.{index % 3}.conv1" if index else "features.0",
        consumers=(f"stages.{index // 3}.blocks.{index % 3}.conv2",),
        width_before=width,
        width_lossless=width - 1,
        width_after=after,
        silent=1,
        rank_features=width - 2,
        rank_outputs=width // 2,
        rank_tolerance=1e-6,
        width_bound=(width - 2) * (width // 2),
        width_lower_bound=after - after // 3,
        error_calibration=0.0123 * (index % 4 + 1),
        error_heldout=0.0151 * (index % 4 + 1),
        lam=3.5,
        primal=10.0,
        dual=10.0 - 3e-7,
        gap=3e-8,
        path_norm_before=41.2 + index,
        path_norm_after=38.7 + index,
        path_norm_lower_bound=35.0 + index,
        ridge=1e-9,
        theorem_applies=theorem,
        theorem_reason="ReLU, no normalisation in between" if theorem else "batch normalisation in between",
        error_curve=tuple((1 - k / width) ** (2 + index % 4) for k in range(width + 1)),
    )


@pytest.fixture
def make_record() -> Callable[..., CompressionRecord]:
    def make(n_groups: int = 5, *, labels: bool = True, frontiers: bool = True, **changes: object) -> CompressionRecord:
        groups = tuple(_group(i, width=32 * (1 + i % 3), theorem=i % 4 == 1) for i in range(n_groups))
        steps = tuple(range(1, 33))
        fields: dict[str, object] = {
            "groups": groups,
            "skipped": (
                SkippedGroup(name="stem", width=16, reason="read by a residual stream"),
                SkippedGroup(name="stages.0.blocks.0.conv2", width=16, reason="read by a residual stream"),
                SkippedGroup(name="head", width=10, reason="output of the network"),
            ),
            "params_before": 113_994,
            "params_after": 56_900,
            "macs_before": 2_345_000,
            "macs_after": 1_290_000,
            "bytes_before": 458_000,
            "bytes_after": 229_100,
            "output_error_heldout": 0.034,
            "output_error_interval": (0.031, 0.037),
            "agreement_heldout": 0.992,
            "accuracy_before": 0.984 if labels else None,
            "accuracy_after": 0.982 if labels else None,
            "accuracy_change_interval": (-0.008, 0.004) if labels else None,
            "latency_ms_before": 1.84,
            "latency_ms_after": 1.02,
            "latency_batch": 64,
            "latency_threads": 2,
            "samples_calibration": 1037,
            "samples_heldout": 260,
            "budget": {"params": 0.5},
            "selector": "backward",
            "seed": 0,
            "seconds": 12.34,
            "peak_memory_mb": 512.0,
            "frontiers": tuple(
                Frontier(
                    group=groups[0].name,
                    selector=selector,
                    widths=steps,
                    errors=tuple(slack * 0.8 ** (k**0.9) for k in steps),
                    path_norms=tuple(norm * (1 - 0.9**k) for k in steps),
                    bound=tuple(0.8**k * 0.8 for k in steps),
                )
                for selector, slack, norm in (
                    ("lasso", 1.3, 30.0),
                    ("backward", 1.0, 44.0),
                    ("forward", 1.1, 60.0),
                )
            )
            if frontiers and groups
            else (),
        }
        return CompressionRecord(**(fields | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def points() -> list[ComparisonPoint]:
    rows = [
        ("dense", "", 113_994, 2_345_000, 0.984, 0.0),
        ("pathnorm", "params 0.5", 56_900, 1_290_000, 0.982, 0.034),
        ("pathnorm", "params 0.25", 28_400, 702_000, 0.971, 0.12),
        ("pathnorm", "params 0.1", 11_350, 303_000, 0.93, 0.31),
        ("magnitude + BN", "params 0.5", 56_800, 1_220_000, 0.84, 0.5),
        ("magnitude + BN", "params 0.25", 28_300, 650_000, 0.61, 0.8),
        ("magnitude + BN", "params 0.1", 11_300, 260_000, 0.32, None),
    ]
    return [
        ComparisonPoint(method=m, budget=b, params=p, macs=c, accuracy=a, output_error=e) for m, b, p, c, a, e in rows
    ]
