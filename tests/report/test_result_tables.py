"""What the tables read is what judging writes; anything else is refused. Content is tested in tests/evaluate, on judged runs."""

import json

import pytest

from ecgecho import evaluate
from ecgecho.report import tables
from ecgecho.types import UsageError, UserError


@pytest.mark.parametrize("name", ["SCHEMA", "VERSION", "PREDICTIONS", "ORDER"])
def test_the_tables_read_the_format_that_judging_writes(name):
    assert getattr(tables, name) == getattr(evaluate, name)


@pytest.mark.parametrize("found", [{}, {"schema": "ecgecho.metrics", "version": 0}, {"schema": "another", "version": 1}])
def test_a_file_of_another_schema_or_version_is_refused_by_name(tmp_path, found):
    (tmp_path / "m.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"m\.json is no metrics\.json of version 1"):
        tables.compare([("run", tmp_path / "m.json")])


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_a_file_that_is_absent_or_no_json_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"m\.json cannot be read as JSON"):
        tables.compare([("run", tmp_path / "m.json")])


def test_nothing_to_compare_is_said():
    with pytest.raises(UsageError, match="at least one run"):
        tables.compare([])
