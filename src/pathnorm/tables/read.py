"""Read a few columns of numbers from a table, whole or in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.tables.cells import TIME_UNIT
from pathnorm.tables.delimited import BLOCK, DelimitedTable
from pathnorm.tables.parquet import ParquetTable
from pathnorm.tables.source import Progress, Source, need_pyarrow, open_source

__all__ = ["Table", "read_batches", "read_table"]

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Columns of a table, in the order they were asked for.

    Attributes
    ----------
    columns : tuple of array (N,)
        Finite float64 values.
    names : tuple of str
        Their names in the table, or ``column 0`` where it has none.
    unit : str
        Unit of the first column: ``seconds since 1970-01-01 UTC`` where it held dates, else nothing.
    rows : int
        Rows of the table.
    dropped : int
        Rows left out because a value is missing.
    remarks : tuple of str
        What was guessed about the file.
    """

    columns: tuple[Vector, ...]
    names: tuple[str, ...]
    unit: str
    rows: int
    dropped: int
    remarks: tuple[str, ...]


def read_table(
    source: str | Path | BinaryIO,
    columns: Sequence[str],
    *,
    delimiter: str | None = None,
    header: bool | None = None,
    drop_missing: bool = False,
    progress: Progress | None = None,
) -> Table:
    """Read some columns of a CSV, TSV or Parquet table into memory: 8 bytes a value, whatever else the file holds.

    Parameters
    ----------
    source : path or binary stream
        Packed with gzip or not.
    columns : sequence of str
        Names, or positions from 0. The first may hold dates, which become seconds.
    delimiter : str, optional
        Told from the first lines unless given.
    header : bool, optional
        Whether the first line holds names. Unless given it does if something in it is neither a number nor a date.
    drop_missing : bool
        Leave out rows in which a value is missing, rather than refuse the table.
    progress : callable, optional
        Called with a stage, megabytes done, and all of them.

    Raises
    ------
    DataError
        If a value is missing, infinite or no number, or there is no row; the message says where.
    ValueError
        If there is no such file or column.
    MissingExtraError
        If pyarrow is not installed.
    """
    need_pyarrow()
    with open_source(source) as opened:
        table = _reader(opened, columns, delimiter, header, BLOCK)
        gathered = [_Growing() for _ in columns]
        seen = _Seen(table.names, drop_missing)
        for batch in table:
            kept = seen.finite(batch)
            for column, values in zip(gathered, kept, strict=True):
                column.extend(values)
            opened.report(progress)
    seen.verdict()
    return Table(
        columns=tuple(column.array() for column in gathered),
        names=table.names,
        unit=TIME_UNIT if table.first_is_time else "",
        rows=seen.rows,
        dropped=seen.missing,
        remarks=table.remarks,
    )


def read_batches(
    source: str | Path | BinaryIO,
    columns: Sequence[str],
    *,
    delimiter: str | None = None,
    header: bool | None = None,
    drop_missing: bool = False,
    block: int = BLOCK,
) -> Iterator[tuple[Vector, ...]]:
    """Yield some columns of a table in batches, for ``partial_fit``; the arguments are those of :func:`read_table`.

    ``block`` is the size of the pieces that a text table is read in, in bytes.
    """
    need_pyarrow()
    with open_source(source) as opened:
        table = _reader(opened, columns, delimiter, header, block)
        seen = _Seen(table.names, drop_missing)
        for batch in table:
            kept = tuple(seen.finite(batch))
            if seen.missing and not drop_missing:
                break
            yield kept
    seen.verdict()


def _reader(
    source: Source, columns: Sequence[str], delimiter: str | None, header: bool | None, block: int
) -> DelimitedTable | ParquetTable:
    if source.parquet:
        return ParquetTable(source, columns)
    return DelimitedTable(source, columns, delimiter=delimiter, header=header, block=block)


class _Seen:
    """Count rows, and those in which a value is missing; refuse what is infinite."""

    def __init__(self, names: Sequence[str], drop_missing: bool) -> None:
        self.names, self.drop_missing = names, drop_missing
        self.rows = self.missing = 0
        self.first: tuple[int, str] | None = None

    def finite(self, batch: list[Vector]) -> list[Vector]:
        """Return the rows without a missing value."""
        missing = np.zeros(batch[0].size, dtype=np.bool_)
        for name, values in zip(self.names, batch, strict=True):
            finite = np.isfinite(values)
            if finite.all():
                continue
            here = np.isnan(values)
            if not (finite | here).all():
                row = self.rows + int(np.flatnonzero(~(finite | here))[0]) + 1
                raise DataError(
                    f"Column {name!r} must hold finite numbers; row {row} of the data has none. Correct or remove it."
                )
            row = self.rows + int(np.flatnonzero(here)[0]) + 1
            if self.first is None or row < self.first[0]:
                self.first = (row, name)
            missing |= here
        self.rows += missing.size
        count = int(np.count_nonzero(missing))
        self.missing += count
        return [values[~missing] for values in batch] if count else batch

    def verdict(self) -> None:
        """Raise unless there are rows, and none with a missing value where that matters."""
        if self.first is not None and not self.drop_missing:
            row, name = self.first
            raise DataError(
                f"Every row must have a value in each column; {self.missing} of {self.rows} rows do not, the first in "
                f"{name!r} in row {row} of the data. Use drop_missing=True (--drop-missing) to leave them out."
            )
        if self.rows == self.missing:
            raise DataError(
                f"At least one row with values is needed; the table has {self.rows} rows"
                f"{', and a value is missing in each' if self.rows else ''}. Check the file."
            )


class _Growing:
    """An array that grows at its end without being copied: the system moves its pages."""

    def __init__(self) -> None:
        self._values, self._size = np.empty(1024), 0

    def extend(self, values: Vector) -> None:
        need = self._size + values.size
        if need > self._values.size:
            # Nobody else has seen the array, so it may move.
            self._values.resize(max(need, self._values.size + self._values.size // 4), refcheck=False)
        self._values[self._size : need] = values
        self._size = need

    def array(self) -> Vector:
        self._values.resize(self._size, refcheck=False)
        return self._values
