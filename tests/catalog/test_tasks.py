"""Questions and their answers: thresholds on the right side, second bounds, labels that are questions by themselves."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ecgecho import catalog, tasks
from ecgecho.catalog import SCHEMAS
from ecgecho.types import UsageError, UserError

T0 = datetime(2150, 1, 1)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("lvef_lt_40", [39.9, 40.0], [1, 0]),
        ("lvef_le_40", [40.0, 40.1], [1, 0]),
        ("lvef_40_50", [39.9, 40.0, 49.9, 50.0], [0, 1, 1, 0]),
        ("lvef_ge_50", [49.9, 50.0], [0, 1]),
        ("severe_lvh", [15.9, 16.0], [0, 1]),
        ("dilated_lv", [55.9, 56.0], [0, 1]),
        ("edv_gt_150", [150.0, 150.1], [0, 1]),
        ("esv_gt_61", [61.0, 61.1], [0, 1]),
        ("shd", [0.0, 1.0], [0, 1]),
    ],
)
def test_tasks_ask_what_their_names_say(name, values, expected):
    assert tasks.find(name).of(np.array([*values, np.nan])).tolist() == [*expected, -1]


def test_the_first_true_task_names_the_class(tmp_path):
    cat = made(tmp_path / "cat", [label("lvef", 40.0, "e0"), label("lvef", 50.0, "e1")])
    assert tasks.class_answers(cat, ["e0", "e1", "e2"], tasks.CLASSES["lvef_3"]).tolist() == [0, 2, -1]
    assert tasks.to_judge([cat]) == [*tasks.JUDGED, "lvef_3"]
    other = made(tmp_path / "other", [label("echonext.shd", 1.0, "e0")])
    assert tasks.to_judge([other]) == [*tasks.JUDGED, "shd"]


def test_a_study_is_measured_by_its_own_label_else_by_its_subjects_nearest(tmp_path):
    clips = [
        {"clip_id": f"c{k}", "study_id": f"s{k}", "subject_id": "a", "path": f"c{k}", "time": T0 + timedelta(days=60 * k)}
        for k in range(3)
    ]
    labels = [
        label("lvef", 30.0, study_id="s0", time=T0),
        label("lvef", 44.0, time=T0 + timedelta(days=59)),
        label("lvef", 66.0, ecg_id="e0", time=T0 + timedelta(days=120)),
        label("edv_ml", 100.0, study_id="s1"),
        label("esv_ml", 60.0, study_id="s1"),
    ]
    cat = made(tmp_path / "cat", labels, clips)
    values = tasks.study_values(cat, ["s2", "s0", "s1"], "lvef")
    np.testing.assert_array_equal(values, [np.nan, 30.0, 44.0])
    np.testing.assert_array_equal(tasks.study_values(cat, ["s0", "s1"], "sv_ml"), [np.nan, 40.0])
    assert np.isnan(tasks.study_values(cat, ["s0"], "wall_mm")).all()


def test_every_lvef_is_below_forty_or_from_forty_to_fifty_or_fifty_and_more():
    values = np.linspace(0.1, 100, 997)
    parts = [tasks.find(name).of(values) for name in ("lvef_lt_40", "lvef_40_50", "lvef_ge_50")]
    assert (sum(parts) == 1).all()


def made(path, labels, clips=()):
    ecgs = [{"ecg_id": f"e{i}", "subject_id": "a", "path": f"p{i}", "time": T0 + timedelta(days=100 * i)} for i in range(3)]
    rows = {"subjects": [{"subject_id": "a", "split": "train"}], "ecgs": ecgs, "labels": labels, "clips": list(clips)}
    given = {name: pa.Table.from_pylist(found, SCHEMAS[name]) for name, found in rows.items()}
    return catalog.write(path, root=path.parent, dataset="d", family="f", tables=given)


def label(name, value, ecg_id=None, **more):
    return {"subject_id": "a", "name": name, "value": value, "ecg_id": ecg_id, **more}


IDS = ["e2", "e0", "e1"]


def test_a_label_of_ones_and_noughts_is_a_question_by_its_own_name(tmp_path):
    cat = made(tmp_path / "cat", [label("set.MI", 1.0, "e0"), label("set.MI", 0.0, "e2")])
    task = tasks.find("set.MI", [cat])
    assert (task.name, task.label) == ("set.MI", "set.MI")
    assert tasks.answers(cat, IDS, task).tolist() == [0, 1, -1]


def test_a_measurement_is_no_question_by_itself(tmp_path):
    cat = made(tmp_path / "cat", [label("lvef", 55.0, "e0")])
    with pytest.raises(UserError, match="the label 'lvef' holds 55, so it is no question by itself"):
        tasks.answers(cat, IDS, tasks.find("lvef", [cat]))


def test_an_unknown_question_is_refused_with_the_nearest_name(tmp_path):
    cat = made(tmp_path / "cat", [label("set.MI", 1.0, "e0")])
    with pytest.raises(UsageError, match="Did you mean 'set.MI'"):
        tasks.find("set.M1", [cat])
    with pytest.raises(UsageError, match="Did you mean 'lvef_lt_40'"):
        tasks.find("lvef_lt40")


def test_a_catalog_without_the_label_has_no_answer(tmp_path):
    cat = made(tmp_path / "cat", [label("lvef", 55.0, "e0")])
    assert tasks.answers(cat, IDS, tasks.find("dilated_lv")).tolist() == [-1, -1, -1]


def test_structural_disease_is_answered_by_the_composite_of_echonext_where_there_is_no_other(tmp_path):
    labels = [label("echonext.shd", 1.0, "e0"), label("shd", 0.0, "e0"), label("echonext.shd", 1.0, "e1")]
    cat = made(tmp_path / "cat", labels)
    assert tasks.answers(cat, IDS, tasks.find("shd")).tolist() == [-1, 0, 1]


def test_a_label_of_the_subject_answers_within_the_window_alone(tmp_path):
    cat = made(tmp_path / "cat", [label("lvef", 35.0, time=T0 + timedelta(days=10))])
    assert tasks.answers(cat, IDS, tasks.find("lvef_lt_40")).tolist() == [-1, 1, -1]
    assert tasks.answers(cat, IDS, tasks.find("lvef_lt_40"), 95).tolist() == [-1, 1, 1]
    assert tasks.answers(cat, IDS, tasks.find("lvef_lt_40"), 9).tolist() == [-1, -1, -1]
    with pytest.raises(UsageError, match="the window is"):
        tasks.answers(cat, IDS, tasks.find("lvef_lt_40"), 0.5)
