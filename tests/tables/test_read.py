"""Columns out of tables: the values, and what is said where there are none."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pathnorm.errors import DataError, MissingExtraError
from pathnorm.tables import read_batches, read_table
from pathnorm.tables.cells import TIME_UNIT


def read(text, *columns, **options):
    data = text if isinstance(text, bytes) else text.encode()
    return read_table(io.BytesIO(data), columns or ("x", "y"), **options)


def values(table):
    return [column.tolist() for column in table.columns]


numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1), delimiter=st.sampled_from(",;\t|"), end=st.booleans())
def test_every_float_comes_back_as_it_was(rows, delimiter, end):
    lines = [f"x{delimiter}note{delimiter}y", *(f"{x!r}{delimiter}a b{delimiter}{y!r}" for x, y in rows)]
    table = read("\n".join(lines) + "\n" * end)
    assert values(table) == [[x for x, _ in rows], [y for _, y in rows]]
    assert (table.names, table.rows, table.dropped, table.unit) == (("x", "y"), len(rows), 0, "")


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1.5,2\n3,4\n",
        "x,y\r\n1.5,2\r\n3,4",
        "x,y\r1.5,2\r3,4",
        "\ufeffx,y\n1.5,2\n3,4\n",
        "x\ty\n1.5\t2\n3\t4\n",
        "x;y\n1,5;2\n3;4\n",
        "x y\n1.5 2\n3 4\n",
        "x , y\n 1.5 , 2 \n 3 , 4 \n",
        "\n\nx,y\n\n1.5,2\n\n3,4\n\n",
        ",x,y\na,1.5,2\nb,3,4\n",
        '"","x","y"\n"1",1.5,2\n"2",3,4\n',
        "x,y\n1,1.5,2\n2,3,4\n",
        'note,x,y\n"a\nb, c",1.5,2\n"say ""c""",3,4\n',
        "x,y\n+1.5,2e0\n3.,4\n",
        "x,y\n1.5,2\n3,4\n".encode("utf-16"),
        "é,x,y\n1,1.5,2\n1,3,4\n".encode("latin-1"),
        gzip.compress(b"x,y\n1.5,2\n3,4\n", mtime=0),
        gzip.compress(b"x,y\n1.5,2\n", mtime=0) + gzip.compress(b"3,4\n", mtime=0),
    ],
)
def test_one_table_in_many_spellings(text):
    assert values(read(text)) == [[1.5, 3.0], [2.0, 4.0]]


def test_columns_go_by_position_where_there_are_no_names():
    table = read("1,2,3\n4,5,6\n", "2", "0")
    assert values(table) == [[3, 6], [1, 4]]
    assert table.names == ("column 2", "column 0")
    assert "position" in table.remarks[0]
    assert values(read("2019,2020\n1,2\n", "2020", "2019", header=True)) == [[2], [1]]


def test_what_was_guessed_can_be_given():
    assert values(read("x:y\n1:2\n", delimiter=":")) == [[1], [2]]
    with pytest.raises(ValueError, match="no column 'x'"):
        read("x:y\n1:2\n")
    assert read("x;y\n1,5;2\n").remarks == ("decimals are written with a comma",)


def test_dates_become_seconds():
    text = "t,y\n2020-01-31,1\n2020-01-31 12:00,2\n2020-01-31T12:00:00.5,3\n"
    table = read(text, "t", "y")
    assert table.unit == TIME_UNIT
    assert values(table)[0] == [1580428800.0, 1580472000.0, 1580472000.5]
    zones = read("t,y\n2020-01-31T12:00:00Z,1\n2020-01-31T12:00:00+02:00,2\n", "t", "y")
    assert np.diff(zones.columns[0]).tolist() == [-7200.0]
    with pytest.raises(DataError, match=r"'t'.*dates.*'2020-01-31'"):
        read(text, "y", "t")
    with pytest.raises(DataError, match=r"ISO dates; row 2 .*'31\.1\.2020'"):
        read("t,y\n2020-01-30,1\n31.1.2020,2\n", "t", "y")


def test_a_missing_value_is_refused_by_name_or_dropped():
    text = "x,y\n1,2\n3,\n4,5\nNA,nan\n6,7\n"
    with pytest.raises(DataError, match=r"2 of 5 rows do not, the first in 'y' in row 2 .*--drop-missing"):
        read(text)
    table = read(text, drop_missing=True)
    assert values(table) == [[1, 4, 6], [2, 5, 7]]
    assert (table.rows, table.dropped) == (5, 2)
    with pytest.raises(DataError, match="2 rows, and a value is missing in each"):
        read("x,y\n1,\n,2\n", drop_missing=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "nothing but blanks"),
        ("x,y\n", "the table has 0 rows"),
        ("x,y\n1,2\n3,four\n", r"'y' must hold numbers; row 2 of the data has 'four'"),
        ("x,y\n1,2\n3,1_000\n", "'1_000'"),
        ("x,y\n1,2\n3,-inf\n", "'y' must hold finite numbers; row 2"),
        ("x,y\n1,2\n3\n5,6\n", "must have 2 cells; row 2 of the data has 1: '3'"),
        ("x,y\n1,2\n3,4,5\n", "row 2 of the data has 3"),
        (b"PK\x03\x04rest", "spreadsheet"),
        (b"\x89PNG\r\n\x00\x00", "zero bytes"),
        (b"PAR1 and no more", "whole Parquet file"),
        (gzip.compress(b"x,y\n" + b"1,2\n" * 9, mtime=0)[:-9], "damaged"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("time,accel\n1,2\n", ("time", "acel"), "'time', 'accel'.*Did you mean 'accel'"),
        ("x,y,y\n1,2,3\n", ("x", "y"), "name of 2 columns.*1 or 2"),
        ("x,y\n1,2\n", ("x", "x"), "Different columns"),
        ("x,y\n1,2\n", ("x", "2"), "no column '2'"),
        ("1,2\n", ("x", "y"), "no line of names and 2 columns"),
        ("x,y\n1,2\n", ("0", "x"), "Different columns"),
    ],
)
def test_what_is_no_column_is_misuse(text, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(text, *columns)
    assert not isinstance(caught.value, DataError)


def test_a_file_that_is_not_there_is_misuse(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ValueError, match="A file with a table is needed"):
            read_table(path, ("x", "y"))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20_000, 2)).round(9)


@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
def test_the_size_of_the_blocks_does_not_matter(rows, block):
    text = "x,quoted,y\n" + "".join(f'{x!r},"a\n""b",{y!r}\n' for x, y in rows.tolist())
    batches = list(read_batches(io.BytesIO(text.encode()), ("y", "x"), block=max(block, 200)))
    assert np.array_equal(np.hstack(batches), rows.T[::-1])
    assert (len(batches) > 5) == (block < 1 << 20)


def test_an_odd_quote_does_not_swallow_the_table(rows):
    text = "x,inch,y\n" + "".join(f'{x!r},5",{y!r}\n' for x, y in rows[:999].tolist())
    text += "".join(f"{x!r},5,{y!r}\n" for x, y in rows[999:].tolist())
    batches = list(read_batches(io.BytesIO(text.encode()), ("x", "y"), block=5000))
    assert np.array_equal(np.hstack(batches), rows.T)


def test_rows_are_counted_across_blocks(rows):
    lines = [f"{x!r},{y!r}" for x, y in rows.tolist()]
    for bad, message in (("1,", "in row 15000 "), ("1,inf", "row 15000 "), ("1,z", "row 15000 "), ("1", "row 15000 ")):
        text = "\n".join(["x,y", *lines[:14999], bad, *lines[15000:]])
        with pytest.raises(DataError, match=message):
            list(read_batches(io.BytesIO(text.encode()), ("x", "y"), block=2000))


def test_a_parquet_table_is_the_same(tmp_path, rows):
    times = (rows[:, 0] * 1e9).astype("datetime64[s]")
    table = pa.table(
        {
            "Solar.R": rows[:, 0],
            "whole": np.arange(len(rows)),
            "y": pa.array(rows[:, 1], mask=np.arange(len(rows)) == 7),
            "time": times,
            "text": ["a"] * len(rows),
        }
    )
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=3000)
    kept = np.arange(len(rows)) != 7
    found = read_table(path, ("Solar.R", "y", "1"), drop_missing=True)
    assert np.array_equal(found.columns, np.column_stack((rows, np.arange(len(rows))))[kept].T)
    assert found.dropped == 1
    seconds = read_table(io.BytesIO(path.read_bytes()), ("time", "whole"))
    assert np.array_equal(seconds.columns[0], times.astype(np.int64))
    assert seconds.unit == TIME_UNIT
    for columns, message in (
        (("Solar.R", "y"), "'y' in row 8 "),
        (("whole", "text"), "type string"),
        (("whole", "time"), "type timestamp"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(path, columns)


def test_progress_counts_megabytes_of_a_file(tmp_path, rows):
    path = tmp_path / "a.csv"
    np.savetxt(path, np.tile(rows, (3, 1)), delimiter=",", header="x,y", comments="")
    seen = []
    read_table(path, ("x", "y"), progress=lambda *call: seen.append(call))
    size = path.stat().st_size // 1_000_000
    assert seen[-1] == ("reading, MB", size, size)


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pathnorm\[tables\]"):
        read("x,y\n1,2\n")


def test_importing_does_not_load_pyarrow():
    code = "import sys, pathnorm.tables; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
