"""Tables with columns of every kind: what is told about each, and what is said where it cannot be."""

from __future__ import annotations

import datetime
import gzip
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pathnorm.errors import DataError, MissingExtraError
from pathnorm.tables import read_frame

MIXED = """age,smoker,town,seen,code
31,true,Bern,2020-01-02,a1
,False,,2020-01-03,a2
45.5,TRUE,"Basel, Stadt",NA,a3
?,false,Bern,2020-01-05T12:00:00,a4
"""


def read(text, **options):
    return read_frame(io.BytesIO(text if isinstance(text, bytes) else text.encode()), **options)


def kinds(frame):
    return [column.kind for column in frame.columns]


def test_kinds_and_missing_values_are_told():
    frame = read(MIXED)
    assert frame.names == ("age", "smoker", "town", "seen", "code")
    assert kinds(frame) == ["number", "boolean", "text", "time", "text"]
    assert [column.n_missing for column in frame.columns] == [2, 0, 1, 1, 0]
    assert np.array_equal(frame["age"].values, [31.0, np.nan, 45.5, np.nan], equal_nan=True)
    assert frame["smoker"].values.tolist() == ["true", "false", "true", "false"]
    assert frame["town"].values.tolist() == ["Bern", None, "Basel, Stadt", "Bern"]
    assert frame["seen"].values[3] - frame["seen"].values[0] == 3.5 * 86400.0
    assert frame["seen"].values[0] == datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC).timestamp()
    assert (frame["seen"].unit, frame["age"].unit) == ("seconds since 1970-01-01 UTC", "")
    assert (frame.rows, frame.remarks) == (4, ())


cells = st.text(
    st.characters(codec="utf-8", exclude_characters='"\r\n\0', exclude_categories=["Cs", "Zs", "Cc"]), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), cells), min_size=1, max_size=20))
def test_every_value_comes_back_as_it_was(rows):
    lines = ["x,word", *(f'{x!r},"w{word}"' for x, word in rows)]
    frame = read("\n".join(lines) + "\n", delimiter=",")
    assert frame["x"].values.tolist() == [x for x, _ in rows]
    assert frame["word"].values.tolist() == [f"w{word}".strip() for _, word in rows]


def test_parquet_gzip_and_text_give_the_same():
    text = read(MIXED)
    table = pa.table(
        {
            "age": pa.array([31.0, None, 45.5, None]),
            "smoker": pa.array([True, False, True, False]),
            "town": pa.array(["Bern", None, "Basel, Stadt", "Bern"]).dictionary_encode(),
            "seen": pa.array(
                [datetime.datetime(2020, 1, d, h) if d else None for d, h in ((2, 0), (3, 0), (0, 0), (5, 12))]
            ),
            "code": pa.array(["a1", "a2", "a3", "a4"]),
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    for data in (sink.getvalue(), gzip.compress(MIXED.encode())):
        other = read(data)
        assert kinds(other) == kinds(text)
        for one, two in zip(text.columns, other.columns, strict=True):
            assert one.name == two.name
            assert one.n_missing == two.n_missing
            assert [str(a) for a in one.values] == [str(b) for b in two.values]


def test_kinds_can_be_asked_for():
    text = "zip,y,level\n8001,1,low\n4051,2,3\n8001,x,4\n"
    frame = read(text, categorical=["zip"], numeric=["level", "1"])
    assert kinds(frame) == ["text", "number", "number"]
    assert frame["zip"].values.tolist() == ["8001", "4051", "8001"]
    assert frame["level"].n_missing == 1
    assert frame.remarks == (
        "1 cells of 'y' are no numbers and count as missing",
        "1 cells of 'level' are no numbers and count as missing",
    )
    parquet_file = io.BytesIO()
    parquet.write_table(pa.table({"zip": [8001, 4051, None]}), parquet_file)
    assert read(parquet_file.getvalue(), categorical=["zip"])["zip"].values.tolist() == ["8001", "4051", None]


def test_the_first_line_holds_names_only_if_it_does_not_look_like_data():
    adult = "39, State-gov, 77516, <=50K\n50, Private, ?, >50K\n"
    frame = read(adult)
    assert (frame.rows, frame.names) == (2, ("column 0", "column 1", "column 2", "column 3"))
    assert frame.remarks == ("the first line holds values, so columns go by position",)
    assert frame["2"].n_missing == 1
    assert frame["3"].values.tolist() == ["<=50K", ">50K"]
    assert read("a,b\nx,y\n").names == ("a", "b")
    assert read("country,1999,2000\nCH,1,2\nDE,3,4\n", header=True).names == ("country", "1999", "2000")
    assert read("age,2000\n1,2\n").names == ("age", "2000")
    assert read("1,b\nx,y\n", header=False).rows == 2


def test_decimal_commas_and_semicolons_are_told():
    frame = read("x;town\n1,5;Genf\n2,25;Bern\n")
    assert frame["x"].values.tolist() == [1.5, 2.25]
    assert frame.remarks == ("decimals are written with a comma",)


def test_names_that_are_missing_or_double_get_positions():
    frame = read(",x,x\n1,2,3\n4,5,6\n")
    assert frame.names == ("column 0", "x (column 1)", "x (column 2)")
    assert "several columns are named 'x'" in frame.remarks[0]


def test_columns_that_no_model_can_read_are_left_out():
    sink = io.BytesIO()
    parquet.write_table(pa.table({"x": [1.0, 2.0], "list": [[1], [2, 3]]}), sink)
    frame = read(sink.getvalue())
    assert frame.names == ("x",)
    assert "'list' holds values of type list" in frame.remarks[0]


def test_empty_columns_are_text_without_values():
    frame = read("x,nothing\n1,\n2,NA\n")
    assert kinds(frame) == ["number", "text"]
    assert frame["nothing"].n_missing == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n" + "1,2\n" * 30 + "one,2\n", "row 31 of the data has 'one'.*--numeric 'x'"),
        ("x\n1\ninf\n", "'x' must hold finite numbers; row 2"),
        ("x,y\n1,2\n3\n", "row 2 of the data has 1"),
        ("x,y\n", "at least one row"),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_read_is_said(text, message):
    with pytest.raises(DataError, match=message):
        read(text, delimiter=",")


def test_a_column_that_is_not_there_is_misuse():
    with pytest.raises(ValueError, match=r"no column 'twon'.*Did you mean 'town'"):
        read(MIXED, categorical=["twon"])
    with pytest.raises(ValueError, match="Different columns"):
        read(MIXED, categorical=["age"], numeric=["age"])


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pathnorm\[tables\]"):
        read(MIXED)
