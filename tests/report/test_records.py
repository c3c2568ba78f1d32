"""Records: frozen, strict JSON, and every number of a known kind."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pathnorm.report import CompressionRecord, Frontier, GroupRecord
from pathnorm.report.records import kind_of


def test_json_is_strict_and_complete(make_record):
    record = make_record(2, output_error_heldout=float("nan"), seconds=float("inf"))
    found = json.loads(record.to_json(), parse_constant=pytest.fail)
    assert found["output_error_heldout"] is None
    assert found["seconds"] is None
    assert set(found) == {item.name for item in dataclasses.fields(CompressionRecord)}
    assert found["groups"][0]["error_curve"][-1] == 0
    assert found["budget"] == {"params": 0.5}


def test_records_cannot_be_changed(make_record):
    record = make_record(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.params_after = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.groups[0].gap = 0.0


@pytest.mark.parametrize("kind", [CompressionRecord, GroupRecord, Frontier])
def test_every_field_is_exact_certified_or_measured(kind):
    for item in dataclasses.fields(kind):
        assert kind_of(kind, item.name) in {"exact", "certified", "measured"}


def test_what_is_observed_is_never_called_certified():
    for name in ("error_heldout", "error_calibration", "width_bound"):
        assert kind_of(GroupRecord, name) == "measured"
    for name in ("accuracy_after", "latency_ms_after", "output_error_heldout"):
        assert kind_of(CompressionRecord, name) == "measured"
    with pytest.raises(KeyError):
        kind_of(GroupRecord, "nothing")


def test_a_record_prints_as_its_table_and_draws_itself(make_record, tmp_path):
    record = make_record(2)
    assert str(record).startswith("The network keeps 49.9 %")
    assert record.to_html(tmp_path / "r.html").is_file()
    assert len(record.plot().axes) == 4
