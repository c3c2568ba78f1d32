"""A table with columns of every kind: numbers, dates, booleans and text."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.tables.cells import MISSING, TIME_UNIT, kind_of_cell, number, seconds
from pathnorm.tables.columns import find_columns
from pathnorm.tables.delimited import HEAD, Layout, as_utf8, layout_of, layout_remarks, without_lines
from pathnorm.tables.source import Progress, Source, need_pyarrow, open_source

__all__ = ["Column", "Frame", "Kind", "read_frame"]

Array = NDArray[Any]
Kind = Literal["number", "time", "boolean", "text"]

_ABSENT = MISSING | {"?"}  # as in many a table of the UCI repository
_TRUTH = {"true": "true", "false": "false"}
_MOSTLY = 0.9  # share of numbers from which other cells are taken for a mistake


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One column: float64 with NaN for numbers and times, else text (or ``true``, ``false``) with None.

    Attributes
    ----------
    name : str
    kind : {"number", "time", "boolean", "text"}
        Times are seconds since 1970-01-01 UTC.
    values : array (N,)
    n_missing : int
    """

    name: str
    kind: Kind
    values: Array
    n_missing: int

    @property
    def unit(self) -> str:
        """What the numbers count, where that was decided on reading."""
        return TIME_UNIT if self.kind == "time" else ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """Columns of a table in their order; ``remarks`` say what was guessed or left out."""

    columns: tuple[Column, ...]
    rows: int
    remarks: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def place(self, name: str) -> int:
        """Where a column stands, given by its name or by its position from 0."""
        return find_columns([name], self.names, len(self.columns))[0]

    def __getitem__(self, name: str) -> Column:
        """Return a column by its name or by its position from 0."""
        return self.columns[self.place(name)]


def read_frame(
    source: str | Path | BinaryIO,
    *,
    delimiter: str | None = None,
    header: bool | None = None,
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    progress: Progress | None = None,
) -> Frame:
    """Read a whole CSV, TSV or Parquet table; the kind of each column is told from its values.

    A column is of numbers, of dates (ISO 8601) or of booleans (``true``, ``false``) if every value in it is, and of
    text otherwise. Cells that are empty, ``NA``, ``?`` and the like are missing.

    Parameters
    ----------
    source : path or binary stream
        Packed with gzip or not.
    delimiter : str, optional
        Told from the first lines unless given.
    header : bool, optional
        Whether the first line holds names. Unless given it does if nothing in it is a number or a date, or text in it
        stands above one.
    categorical : sequence of str
        Columns to take as text, whatever they hold.
    numeric : sequence of str
        Columns to take as numbers; cells that are none are missing, and counted in ``remarks``.
    progress : callable, optional
        Called with a stage, megabytes done, and all of them.

    Raises
    ------
    DataError
        If a column holds numbers but for a few cells, or infinite ones; the message says where.
    ValueError
        If there is no such file or column.
    MissingExtraError
        If pyarrow is not installed.
    """
    need_pyarrow()
    with open_source(source) as opened:
        raw = _parquet(opened) if opened.parquet else _delimited(opened, delimiter, header)
        opened.report(progress)
    if not raw.rows:
        raise DataError("A table with at least one row is needed; this one has none. Check the file.")
    forced = _forced(raw, categorical, numeric)
    columns = [_column(raw, place, forced.get(place)) for place in range(len(raw.names))]
    return Frame(columns=tuple(column for column in columns if column), rows=raw.rows, remarks=tuple(raw.remarks))


@dataclass(slots=True)
class _Raw:
    """Arrow columns as they were read; those of a text table are text."""

    names: list[str]
    columns: list[Any]
    rows: int
    decimal: str = "."
    remarks: list[str] = field(default_factory=list)


def _forced(raw: _Raw, categorical: Sequence[str], numeric: Sequence[str]) -> dict[int, str]:
    wanted = find_columns([*categorical, *numeric], raw.names, len(raw.names)) if [*categorical, *numeric] else ()
    kinds = ["text"] * len(categorical) + ["number"] * len(numeric)
    return dict(zip(wanted, kinds, strict=True))


def _named(names: Sequence[str], remarks: list[str]) -> list[str]:
    """Names, and positions where there is none or where several columns bear one."""
    often = Counter(names)
    doubled = sorted(name for name, times in often.items() if name and times > 1)
    if doubled:
        remarks.append(f"several columns are named {', '.join(map(repr, doubled))}, and get their position as well")
    return [
        f"column {place}" if not name else f"{name} (column {place})" if often[name] > 1 else name
        for place, name in enumerate(names)
    ]


# ------------------------------------------------------------------------------ files


def _parquet(source: Source) -> _Raw:
    import pyarrow as pa
    from pyarrow import parquet

    stream: Any = source.stream if source.stream.seekable() else io.BytesIO(source.stream.read())
    try:
        table = parquet.ParquetFile(stream, pre_buffer=False).read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{source.name} must be a whole Parquet file; it is not: {error}.") from None
    remarks: list[str] = []
    return _Raw(_named(table.schema.names, remarks), list(table.columns), table.num_rows, remarks=remarks)


def _delimited(source: Source, delimiter: str | None, header: bool | None) -> _Raw:
    data = b"".join(as_utf8(source))
    layout = _layout(data, delimiter, header)
    body = without_lines(data, layout.skip)
    remarks = list(layout_remarks(layout, delimiter, header))
    names = _named(layout.names or [""] * layout.width, remarks)
    if not body.strip():
        return _Raw(names, [], 0)
    columns = _cells(body, layout)
    return _Raw(names, columns, len(columns[0]), layout.decimal, remarks)


def _layout(data: bytes, delimiter: str | None, header: bool | None) -> Layout:
    """Tell the layout; here columns of text are welcome, so text alone does not make the first line one of names."""
    head, whole = data[:HEAD], len(data) <= HEAD
    if header is None:
        plain = layout_of(head, whole=whole, delimiter=delimiter, header=False)
        first, *body = ([kind_of_cell(cell, plain.decimal) for cell in row] for row in plain.rows)
        numbers = ("number", "time")
        above = any(
            kind == "text" and any(row[place] in numbers for row in body if place < len(row))
            for place, kind in enumerate(first)
        )
        header = above or not any(kind in numbers for kind in first)
    return layout_of(head, whole=whole, delimiter=delimiter, header=header)


def _cells(body: bytes, layout: Layout) -> list[Any]:
    """Every column as text."""
    import pyarrow as pa
    from pyarrow import csv

    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    keys = [str(place) for place in range(layout.width)]
    try:
        table = csv.read_csv(
            pa.py_buffer(body),
            read_options=csv.ReadOptions(column_names=keys, use_threads=False, block_size=len(body) + 1),
            parse_options=csv.ParseOptions(
                delimiter=layout.delimiter, invalid_row_handler=note, newlines_in_values=b'"' in body
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(keys, pa.binary()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid as error:
        if not ragged:
            raise DataError(f"The table must be text in columns; it is not: {error}.") from error
        row = ragged[0]
        place = "some row" if row.number is None else f"row {row.number}"
        raise DataError(
            f"Every row must have {row.expected_columns} cells; {place} of the data has {row.actual_columns}: "
            f"{row.text[:60]!r}. Correct it, or give another --delimiter than {layout.delimiter!r}."
        ) from error
    return [table.column(key) for key in keys]


# ------------------------------------------------------------------------------ columns


def _column(raw: _Raw, place: int, forced: str | None) -> Column | None:
    """One column by its kind, None for a kind that no model can read."""
    from pyarrow import types

    name, cells = raw.names[place], raw.columns[place]
    if types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    kind = cells.type
    if types.is_binary(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return _text_column(raw, name, _stripped(cells), forced)
    if types.is_boolean(kind):
        values: list[Any] = [None if cell is None else str(cell).lower() for cell in cells.to_pylist()]
    elif types.is_timestamp(kind) or types.is_date(kind):
        return _numbers(name, "time", _ticks(cells))
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        if forced != "text":
            return _numbers(name, "number", _floats(cells))
        values = [None if cell is None else str(cell) for cell in cells.to_pylist()]
    else:
        raw.remarks.append(f"{name!r} holds values of type {kind}, which are neither numbers nor text: left out")
        return None
    return _text(name, "text" if forced == "text" else "boolean" if types.is_boolean(kind) else "text", values)


def _text_column(raw: _Raw, name: str, cells: list[str | None], forced: str | None) -> Column:
    present = {cell for cell in cells if cell is not None}  # each spelling once: columns repeat themselves
    if forced != "text":
        values = {cell: number(cell, raw.decimal) for cell in present}
        good = sum(value is not None for value in values.values())
        if forced == "number" or (good == len(present) and present):
            return _from_numbers(raw, name, cells, values)
        if present and all(cell.lower() in _TRUTH for cell in present):
            return _text(name, "boolean", [None if cell is None else cell.lower() for cell in cells])
        times = {cell: seconds(cell) for cell in present} if not good else {}
        if times and None not in times.values():
            return _numbers(name, "time", np.array([times.get(cell or "", np.nan) for cell in cells], dtype=float))
        n_good = sum(cell is not None and values[cell] is not None for cell in cells)
        n_present = sum(cell is not None for cell in cells)
        if n_good >= _MOSTLY * n_present > 0:
            row = next(k for k, cell in enumerate(cells) if cell is not None and values[cell] is None)
            raise DataError(
                f"Column {name!r} holds numbers, but for {n_present - n_good} of {n_present} cells: row {row + 1} of "
                f"the data has {str(cells[row])[:40]!r}. Give --numeric {name!r} to take these for missing, or "
                f"--categorical {name!r} to take all of them for text."
            )
    return _text(name, "text", list(cells))


def _from_numbers(raw: _Raw, name: str, cells: list[str | None], values: dict[str, float | None]) -> Column:
    found = np.array([np.nan if cell is None or values[cell] is None else values[cell] for cell in cells], dtype=float)
    bad = sum(cell is not None and values[cell] is None for cell in cells)
    if bad:
        raw.remarks.append(f"{bad:,} cells of {name!r} are no numbers and count as missing")
    return _numbers(name, "number", found)


def _numbers(name: str, kind: Kind, values: NDArray[np.float64]) -> Column:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax()) + 1
        raise DataError(
            f"Column {name!r} must hold finite numbers; row {row} of the data has none. Correct or remove it."
        )
    return Column(name=name, kind=kind, values=values, n_missing=int(np.isnan(values).sum()))


def _text(name: str, kind: Kind, values: list[Any]) -> Column:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return Column(name=name, kind=kind, values=array, n_missing=sum(value is None for value in values))


def _stripped(cells: Any) -> list[str | None]:
    """Cells without blanks around them, None where there is no value."""
    known: dict[Any, str | None] = {None: None}
    found = []
    for cell in cells.to_pylist():
        if cell not in known:
            text = (cell if isinstance(cell, str) else _decoded(cell)).strip()
            known[cell] = None if text in _ABSENT else text
        found.append(known[cell])
    return found


def _decoded(cell: bytes) -> str:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell.decode("latin-1")  # which takes any byte


def _floats(cells: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    from pyarrow import compute

    values = compute.fill_null(cells.cast(pa.float64(), safe=False), np.nan)
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _ticks(cells: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    zone = cells.type.tz if pa.types.is_timestamp(cells.type) else None
    return _floats(cells.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())) * 1e-6
