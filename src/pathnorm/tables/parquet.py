"""Columns of a Parquet table, batch by batch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.tables.columns import find_columns, refuse_kind
from pathnorm.tables.source import Source

__all__ = ["ParquetTable"]

Vector = NDArray[np.float64]

_BATCH = 1 << 18


class ParquetTable:
    """The wanted columns of a Parquet table, as batches of float64 columns with NaN where a value is missing.

    Parameters
    ----------
    source : Source
        A pipe is read whole, since the directory of a Parquet file stands at its end.
    wanted : sequence of str
        Names, or positions from 0. The first column may hold times.
    rows : int
        Rows of a batch.
    """

    def __init__(self, source: Source, wanted: Sequence[str], *, rows: int = _BATCH) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        stream: Any = source.stream if source.stream.seekable() else io.BytesIO(source.stream.read())
        try:
            self._file = parquet.ParquetFile(stream, pre_buffer=False)  # which would hold whole row groups
        except pa.ArrowInvalid as error:
            raise DataError(f"{source.name} must be a whole Parquet file; it is not: {error}.") from None
        schema = self._file.schema_arrow
        self._places = find_columns(wanted, schema.names, len(schema.names))
        self._rows = rows
        self.names = tuple(schema.names[place] for place in self._places)
        self.remarks: tuple[str, ...] = ()
        self.first_is_time = _is_time(schema.types[self._places[0]])
        for place, name in enumerate(self.names):
            _refuse_type(name, schema.types[self._places[place]], time=place == 0)

    def __iter__(self) -> Iterator[list[Vector]]:
        """Yield the columns of one batch after the other."""
        for batch in self._file.iter_batches(batch_size=self._rows, columns=list(self.names)):
            yield [_floats(batch.column(name)) for name in self.names]


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind))


def _refuse_type(name: str, kind: Any, *, time: bool) -> None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    if not (any(test(kind) for test in numbers) or (time and _is_time(kind))):
        refuse_kind(name, f"values of type {kind}", "text" if types.is_string(kind) else "its own")


def _floats(column: Any) -> Vector:
    """One float64 array, NaN where there is no value; times in seconds."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    scale = 1.0
    if _is_time(column.type):
        zone = column.type.tz if pa.types.is_timestamp(column.type) else None
        column, scale = column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64()), 1e-6
    values = compute.fill_null(column.cast(pa.float64(), safe=False), np.nan)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64) * scale
