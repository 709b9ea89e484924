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


def retrieval_row(direction, what, metric, n, value=0.5, reason=""):
    row = {"evaluation": "phenotype_retrieval", "task": f"{direction}.{what}", "metric": metric, "n": n, "chance": 0.2}
    return {**row, "value": value, "low": None, "high": None, "reason": reason, "share": None, "subset": "all"}


def test_a_reason_of_retrieval_names_its_cell_once_and_the_gallery_stands_beside_the_rank():
    ways, missing = {"ecg_to_study": 12, "study_to_ecg": 9}, "more are needed"
    rows = []
    for direction, n in ways.items():
        for what in ("own", "lvef"):
            name = "recall" if what == "own" else "precision"
            rows += [retrieval_row(direction, what, "mean_rank", n), retrieval_row(direction, what, f"{name}_at_1", n)]
            rows.append(retrieval_row(direction, what, f"{name}_at_10", n, None, missing))
    rows.append(retrieval_row("study_to_ecg", "lvef", "precision_at_3", 9, 0.0, "no interval: all 9 are equal"))
    about = {"studies": {"studies": 9, "phenotypes": {"lvef": {"title": "LVEF"}}}}
    text = tables._of_echo(rows, {"data": about, "tasks": {}, "classes": {}})
    assert text.count(f"P@10: {missing}") == len(ways)
    assert text.count("P@3: no interval: all 9 are equal (LVEF)") == 1
    heads = [line for line in text if "mean rank" in line]
    assert ["(of 9)" in heads[0], "(of 12)" in heads[1], len(heads)] == [True, True, 2]


def test_columns_that_do_not_fit_go_on_below_beside_the_same_names():
    lines = [["name", "a", "b", "c"], ["heading"], ["  one", *["x" * 50] * 3], ["  two", "y", "-", "-"]]
    text = tables._fitted(lines, fixed=1)
    assert max(map(len, text)) <= tables.WIDTH
    assert [line.split() for line in text if line.startswith("name")] == [["name", "a", "b"], ["name", "c"]]
    assert sum(line.startswith("  one") for line in text) == 2
    assert sum(line.startswith("  two") for line in text) == 1


def test_a_question_that_no_run_has_a_number_for_is_named_and_has_no_column():
    found = {"value": 0.7, "low": 0.6, "high": 0.8, "reason": "", "share": None, "subset": "all", "metric": "auroc"}
    rows = [{**found, "evaluation": "zero_shot", "task": task, "value": value} for task, value in (("a", 0.7), ("b", None))]
    result = {"rows": rows, "tasks": {"a": "A", "b": "B"}, "labels_share": [], "run": {"method": "ecg_clip"}}
    cells, silent = tables._told(tables._cells(result), [("one", result)])
    assert [cell.title for cell in cells] == ["A: zero-shot"]
    assert silent == ["B"]
