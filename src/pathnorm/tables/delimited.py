"""Columns of a text table, block by block: CSV, TSV and what spreadsheets and R make of them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import DataError
from pathnorm.tables.cells import MISSING, kind_of_cell, number, seconds
from pathnorm.tables.columns import find_columns, refuse_kind
from pathnorm.tables.source import Source

__all__ = ["BLOCK", "HEAD", "DelimitedTable", "Layout", "as_utf8", "layout_of", "layout_remarks", "without_lines"]

Vector = NDArray[np.float64]

BLOCK = 1 << 23
HEAD = 1 << 16
_MOST_BLOCKS = 8  # that a quoted cell may span
_LINES = 50  # that the delimiter is told from

# Where several fit equally well the first is taken: fewer decimal commas and dates are cut in two that way.
_DELIMITERS = ("\t", ";", "|", ",", " ")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")
_DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the first lines of a text table tell about it."""

    delimiter: str
    decimal: str
    names: tuple[str, ...]  # () without a line of names
    width: int
    skip: int  # lines before the data
    rows: list[list[str]]  # the first rows of data


class DelimitedTable:
    """The wanted columns of a text table, as batches of float64 columns with NaN where a value is missing.

    Parameters
    ----------
    source : Source
        Read once, from where it stands.
    wanted : sequence of str
        Names, or positions from 0. The first column may hold ISO dates.
    delimiter : str, optional
        Told from the first lines unless given.
    header : bool, optional
        Whether the first line holds names. Unless given it does if something in it is neither a number nor a date.
    block : int
        Bytes parsed at a time.
    """

    def __init__(
        self,
        source: Source,
        wanted: Sequence[str],
        *,
        delimiter: str | None = None,
        header: bool | None = None,
        block: int = BLOCK,
    ) -> None:
        self._block = block
        self._chunks = as_utf8(source)
        self._head = _fill(self._chunks, b"", HEAD)
        self._layout = layout_of(self._head[0], whole=not self._head[1], delimiter=delimiter, header=header)
        layout = self._layout
        self._places = find_columns(wanted, layout.names, layout.width)
        self.names = tuple((layout.names and layout.names[at]) or f"column {at}" for at in self._places)
        samples = [_sample([row[at] for row in layout.rows if at < len(row)]) for at in self._places]
        kinds = [kind_of_cell(cell, layout.decimal) for cell in samples]
        self.first_is_time = kinds[0] == "time"
        for name, kind, cell in list(zip(self.names, kinds, samples, strict=True))[1:]:
            if kind == "time":
                refuse_kind(name, "dates", repr(cell))
        self.remarks = layout_remarks(layout, delimiter, header)

    def __iter__(self) -> Iterator[list[Vector]]:
        """Yield the columns of one block after the other."""
        rest, more = self._head
        rest, before = without_lines(rest, self._layout.skip), 0
        while rest or more:
            if more:
                # What could not be cut is read on.
                size = self._block * (1 + len(rest) // self._block)
                rest, more = _fill(self._chunks, rest, size)
            block, rest = _cut(rest, most=_MOST_BLOCKS * self._block) if more else (rest, b"")
            if not block.strip():
                continue
            columns = self._parse(block, before)
            before += columns[0].size
            yield columns

    def _parse(self, block: bytes, before: int) -> list[Vector]:
        """Return the columns of whole lines; ``before`` rows came before them."""
        import pyarrow as pa

        ragged: list[Any] = []

        def note(row: Any) -> str:
            ragged.append(row)
            return "error"

        number_type: Any = pa.float64()
        types = [number_type] * len(self._places)
        if self.first_is_time:
            types[0] = pa.timestamp("us")
        try:
            columns = self._arrow(block, types, note)
        except pa.ArrowInvalid as error:
            if ragged:
                self._refuse_row(ragged[0], before, error)
            return self._parse_cells(self._arrow(block, [pa.string()] * len(types), note), before)
        return [_floats(column) for column in columns]

    def _arrow(self, block: bytes, types: list[Any], note: Any) -> list[Any]:
        import pyarrow as pa
        from pyarrow import csv as arrow

        layout = self._layout
        keys = [str(place) for place in range(layout.width)]
        wanted = [keys[place] for place in self._places]
        text = types[-1] == pa.string()
        table = arrow.read_csv(
            pa.py_buffer(block),
            # Of rows that are too short or too long only a single thread knows the number.
            read_options=arrow.ReadOptions(column_names=keys, use_threads=False, block_size=len(block) + 1),
            parse_options=arrow.ParseOptions(
                delimiter=layout.delimiter, invalid_row_handler=note, newlines_in_values=b'"' in block
            ),
            convert_options=arrow.ConvertOptions(
                include_columns=wanted,
                column_types=dict(zip(wanted, types, strict=True)),
                null_values=sorted(MISSING),
                strings_can_be_null=text,
                check_utf8=False,
                decimal_point=layout.decimal,
            ),
        )
        return [table.column(key) for key in wanted]

    def _parse_cells(self, columns: list[Any], before: int) -> list[Vector]:
        """Return the columns cell by cell, which takes more spellings, or say which cell cannot be read."""
        parsed = []
        for which, column in enumerate(columns):
            time = self.first_is_time and which == 0
            values = np.empty(len(column))
            for row, cell in enumerate(column):
                text = _text(cell)
                value = seconds(text) if time else number(text, self._layout.decimal)
                if value is None:
                    self._refuse_cell(self.names[which], text, before + row + 1, time=time)
                values[row] = value
            parsed.append(values)
        return parsed

    def _refuse_cell(self, name: str, text: str, row: int, *, time: bool) -> NoReturn:
        what, hint = ("ISO dates", "Write it as 2020-01-31 12:00:00") if time else ("numbers", "Correct it")
        raise DataError(
            f"Column {name!r} must hold {what}; row {row} of the data has {text[:40]!r}. "
            f"{hint}, leave it empty, or choose another column."
        )

    def _refuse_row(self, row: Any, before: int, error: Exception) -> NoReturn:
        number = "some row" if row.number is None else f"row {before + row.number}"
        raise DataError(
            f"Every row must have {row.expected_columns} cells; {number} of the data has {row.actual_columns}: "
            f"{row.text[:60]!r}. Correct it, or give another --delimiter than {self._layout.delimiter!r}."
        ) from error


# ------------------------------------------------------------------------------ what kind of table


def layout_of(head: bytes, *, whole: bool, delimiter: str | None, header: bool | None) -> Layout:
    """Tell delimiter, decimal mark and names from the first bytes of a table."""
    if not whole and b"\n" in head:
        head = head[: head.rfind(b"\n") + 1]
    if b"\0" in head:
        raise DataError("A CSV or Parquet table is needed; this is neither: it has zero bytes. Check the file.")
    try:
        text = head.decode()
    except UnicodeDecodeError:
        text = head.decode("latin-1")  # which takes any byte
    if not text.strip():
        raise DataError("A table with at least one row is needed; this one holds nothing but blanks.")
    delimiter = delimiter or max(_DELIMITERS, key=lambda mark: _agreement(text, mark))
    (first, skip), *others = _lines(text, delimiter)
    body = [row for row, _ in others]
    decimal = _decimal(body or [first], delimiter)
    if header is None:
        header = any(kind_of_cell(cell, decimal) == "text" for cell in first)
    if not header:
        return Layout(delimiter, decimal, (), len(first), 0, [first, *body])
    names = [name.strip() for name in first]
    if body and len(body[0]) == len(names) + 1:  # R leaves out the name of the row names
        names = ["", *names]
    return Layout(delimiter, decimal, tuple(names), len(names), skip, body)


def _lines(text: str, delimiter: str) -> list[tuple[list[str], int]]:
    """Cells of the first lines that are not blank, each with the number of lines up to its end."""
    reader, found = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []
    try:
        for row in reader:
            if row:
                found.append((row, reader.line_num))
            if len(found) > _LINES:
                break
    except csv.Error as error:
        raise DataError(f"The first lines must be those of a table; they are not: {error}. Check the file.") from None
    return found


def _agreement(text: str, delimiter: str) -> float:
    """Share of the lines that have as many cells as most do, if that is more than one."""
    counts = [len(row) for row, _ in _lines(text, delimiter)]
    usual, times = Counter(counts).most_common(1)[0]
    return times / len(counts) if usual > 1 else 0.0


def _decimal(rows: list[list[str]], delimiter: str) -> str:
    cells = [cell for row in rows for cell in row]
    if delimiter == "," or any(map(_DECIMAL_POINT.fullmatch, cells)):
        return "."
    return "," if any(map(_DECIMAL_COMMA.fullmatch, cells)) else "."


def _sample(cells: list[str]) -> str:
    """The first cell that has a value; there need not be one."""
    return next((cell for cell in cells if cell.strip() not in MISSING), "")


def layout_remarks(layout: Layout, delimiter: str | None, header: bool | None) -> tuple[str, ...]:
    """What was guessed and might have been guessed wrongly."""
    remarks = []
    if header is None and not layout.names:
        remarks.append("the first line holds values, so columns go by position")
    if delimiter is None and layout.delimiter not in ",\t;":
        remarks.append(f"the delimiter is {layout.delimiter!r}")
    if layout.decimal == ",":
        remarks.append("decimals are written with a comma")
    return tuple(remarks)


# ------------------------------------------------------------------------------ bytes


def as_utf8(source: Source) -> Iterator[bytes]:
    """Yield the bytes of the stream without a byte order mark, UTF-16 turned into UTF-8."""
    mark = source.stream.peek(3)[:3]
    if mark == codecs.BOM_UTF8:
        source.stream.read(3)
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text = io.TextIOWrapper(source.stream, encoding="utf-16", newline="")
        while piece := text.read(HEAD):
            yield piece.encode()
        text.detach()
        return
    while chunk := source.stream.read(HEAD):
        yield chunk


def _fill(chunks: Iterator[bytes], start: bytes, size: int) -> tuple[bytes, bool]:
    """Return at least ``size`` bytes that begin with ``start``, and whether there may be more."""
    parts, have = [start], len(start)
    while have < size:
        chunk = next(chunks, None)
        if chunk is None:
            return b"".join(parts), False
        parts.append(chunk)
        have += len(chunk)
    return b"".join(parts), True


def _cut(data: bytes, *, most: int) -> tuple[bytes, bytes]:
    """Cut behind the last end of a line that is not inside quotes.

    If there is none the answer is nothing, so that more is read; beyond ``most`` bytes the quote is taken for a stray
    one, and the cut is behind the last line.
    """
    mark = b"\n" if b"\n" in data else b"\r"
    quotes, end = data.count(b'"'), len(data)
    while (at := data.rfind(mark, 0, end)) >= 0:
        quotes -= data.count(b'"', at, end)
        if quotes % 2 == 0:
            return data[: at + 1], data[at + 1 :]
        end = at
    at = data.rfind(mark) if len(data) > most else -1
    return data[: at + 1], data[at + 1 :]


def without_lines(data: bytes, count: int) -> bytes:
    """Return what stands behind the first lines."""
    for _ in range(count):
        end = re.search(rb"\r\n|\n|\r", data)
        data = data[end.end() :] if end else b""
    return data


def _text(cell: Any) -> str:
    value = cell.as_buffer()
    return "" if value is None else bytes(value).decode("utf-8", "replace")


def _floats(column: Any) -> Vector:
    """One float64 array, NaN where there is no value; times in seconds."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_timestamp(column.type):
        missing = column.is_null().to_numpy()
        ticks = compute.fill_null(column.cast(pa.int64()), 0).to_numpy()
        return np.where(missing, np.nan, ticks * 1e-6)
    return np.asarray(compute.fill_null(column, np.nan).to_numpy(), dtype=np.float64)
