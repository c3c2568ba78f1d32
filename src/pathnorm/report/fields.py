"""What every record shares: fields of a known kind, and strict JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, field, fields
from typing import Any

__all__ = ["JsonRecord", "certified", "exact", "kind_of", "measured"]


def exact(**kwargs: Any) -> Any:
    """Field that is counted or computed."""
    return field(metadata={"kind": "exact"}, **kwargs)


def certified(**kwargs: Any) -> Any:
    """Field that is a bound which is proved."""
    return field(metadata={"kind": "certified"}, **kwargs)


def measured(**kwargs: Any) -> Any:
    """Field that was observed on data, and is true of that data only."""
    return field(metadata={"kind": "measured"}, **kwargs)


def kind_of(record: type, name: str) -> str:
    """Return ``exact``, ``certified`` or ``measured`` for a field of a record class."""
    for item in fields(record):
        if item.name == name:
            return str(item.metadata.get("kind", "exact"))
    raise KeyError(name)


class JsonRecord:
    """A frozen dataclass that is written as JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain Python objects; values that are not finite become ``None``."""
        return _jsonable(asdict(self))  # type: ignore[no-any-return,call-overload]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the record as strict JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def _jsonable(value: Any) -> Any:
    """Map tuples to lists and non-finite floats to ``None``, recursively."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
