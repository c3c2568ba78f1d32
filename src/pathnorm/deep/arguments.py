"""The arguments of a compression, before any work: one budget, and everything in range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathnorm.deep.selectors import SELECTORS, Scores

__all__ = ["check_arguments", "check_heldout", "check_outputs", "the_budget"]


def the_budget(**given: Any) -> dict[str, Any]:
    """Return the one budget that was given.

    Raises
    ------
    ValueError
        If there is none, more than one, or it is out of range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise ValueError(
            f"Exactly one of {', '.join(given)} must be given. Got {', '.join(chosen) or 'none'}. "
            "For example compress(model, data, params=0.5)."
        )
    (name, value), *_ = chosen.items()
    if name == "accuracy_drop" and not 0.0 <= float(value) < 100.0:
        raise ValueError(f"accuracy_drop must be percentage points in [0, 100). Got {value!r}. Half a point is 0.5.")
    if name == "latency_ms" and not 0.0 < float(value) < float("inf"):
        raise ValueError(f"latency_ms must be a positive time in milliseconds. Got {value!r}.")
    if name in ("params", "macs", "error") and not 0.0 < float(value) <= 1.0:
        raise ValueError(f"{name} must be a share in (0, 1]. Got {value!r}. {name}=0.5 halves the network.")
    return chosen


def check_heldout(heldout: float) -> None:
    """Refuse what is no share of the data."""
    if not 0.0 < heldout < 1.0:
        raise ValueError(f"heldout must be a share in (0, 1). Got {heldout!r}.")


def check_outputs(outputs: str) -> None:
    """Refuse what is no kind of outputs."""
    if outputs not in ("values", "logits"):
        raise ValueError(f"outputs must be 'values' or 'logits'. Got {outputs!r}.")


_COUNTED = {"round_to": "neurons", "latency_batch": "samples", "gram_bytes": "bytes"}


def check_arguments(
    *,
    selector: str | Scores,
    heldout: float,
    path_norm_cap: float,
    outputs: str,
    attention: str,
    slide: int,
    counts: Mapping[str, int],
) -> None:
    """Refuse arguments out of range, each with what it must be.

    Raises
    ------
    ValueError
    """
    if not callable(selector) and selector not in SELECTORS:
        raise ValueError(f"selector must be one of {', '.join(SELECTORS)} or a callable. Got {selector!r}.")
    check_heldout(heldout)
    check_outputs(outputs)
    if attention not in ("heads", "values"):
        raise ValueError(f"attention must be 'heads' or 'values'. Got {attention!r}.")
    if slide < 0:
        raise ValueError(f"slide must be a number of steps, 0 for none. Got {slide!r}.")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be a positive number of {_COUNTED[name]}. Got {value!r}.")
    if not path_norm_cap > 0.0:
        raise ValueError(f"path_norm_cap must be positive. Got {path_norm_cap!r}. Use float('inf') for none.")
