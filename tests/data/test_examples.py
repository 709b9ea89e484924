"""What training is given of pairs and labels: every study of an ECG, held out the nearest; answers of any 0/1 label."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from ecgecho import catalog
from ecgecho.catalog import SCHEMAS
from ecgecho.config import DataOptions
from ecgecho.data import examples
from ecgecho.types import UsageError

T0 = datetime(2150, 1, 1)
PEOPLE = {"a": "train", "b": "val", "c": "test"}
STUDIES = ("far", "near", "none")


def made(path, pairing=None, labels=(), views=None, one_study=False):
    """One ECG and three studies a person; the nearest is "near", "none" has no clip in the store. `one_study`: all are "near"."""
    gaps = {"far": -20.0, "near": 2.0, "none": 1.0}
    rows = {
        "subjects": [{"subject_id": who, "split": split} for who, split in PEOPLE.items()],
        "ecgs": [{"ecg_id": f"e{who}", "subject_id": who, "path": who, "time": T0} for who in PEOPLE],
        "clips": [
            {
                "clip_id": f"{who}-{s}",
                "study_id": f"{who}{'near' if one_study else s}",
                "subject_id": who,
                "path": s,
                "view": (views or {}).get(s),
            }
            for who in PEOPLE
            for s in STUDIES
        ],
        "labels": list(labels),
        "pairs": [
            {
                "ecg_id": f"e{who}",
                "subject_id": who,
                "study_id": f"{who}{s}",
                "gap_days": gaps[s],
                "split": split,
                "weight": 1 / 3,
            }
            for who, split in PEOPLE.items()
            for s in (("near",) if one_study else STUDIES)
        ],
    }
    tables = {name: pa.Table.from_pylist(found, SCHEMAS[name]) for name, found in rows.items()}
    meta = {} if pairing is None else {"pairing": {"window_days": pairing}}
    return catalog.write(path, root=path.parent, dataset="d", family="f", tables=tables, meta=meta)


def join(cat, view_of_row=lambda row: "", **options):
    ecg_rows = {f"e{who}": number for number, who in enumerate(PEOPLE)}
    clip_rows = {f"{who}-{s}": number for number, (who, s) in enumerate((w, s) for w in PEOPLE for s in ("far", "near"))}
    return examples.join([cat], ecg_rows, clip_rows, DataOptions(**options), view_of_row)


def shown(material, split):
    found = material.splits[split]
    return [(found.ecg_id[e], material.clips[s].tolist()) for e, s in zip(found.pair_ecg, found.pair_study, strict=True)]


def test_an_ecg_is_passed_with_each_of_its_studies_and_held_out_with_the_nearest(tmp_path):
    material = join(made(tmp_path / "cat"))
    assert shown(material, "train") == [("ea", [1]), ("ea", [0])]
    assert shown(material, "val") == [("eb", [3])]
    assert shown(material, "test") == [("ec", [5])]
    assert [len(split.ecg_id) for split in material.splits.values()] == [1, 1, 1]


def test_the_catalogs_view_goes_before_the_teachers_which_is_asked_where_it_has_none(tmp_path):
    cat = made(tmp_path / "cat", views={"far": "A4C"})
    seen = {0: "PLAX", 1: "A4C", 2: "PLAX", 3: "PLAX", 4: "A4C", 5: "A2C"}.get
    by_teacher = join(cat, seen, views="A4C")
    assert [shown(by_teacher, split) for split in ("train", "val", "test")] == [
        [("ea", [1]), ("ea", [0])],
        [("eb", [2])],
        [("ec", [4])],
    ]
    assert "1 cines are A4C by the teacher alone: the catalog names no view of them" in by_teacher.notes
    assert shown(join(cat, seen, views="PLAX"), "val") == [("eb", [3])]
    with pytest.raises(UsageError, match=r"draw, merge, all, or one of: A2C, A4C, PLAX"):
        join(cat, seen, views="SSN")
    with pytest.raises(UsageError, match=r"Did you mean 'A4C'\?"):
        join(cat, seen, views="a4c")


def test_where_nobody_tells_views_apart_that_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"neither the catalogs nor the teacher .* one of: draw, merge, all\.$"):
        join(made(tmp_path / "cat"), views="A4C")


def test_studies_and_ecgs_that_are_left_with_nothing_to_show_are_counted(tmp_path):
    notes = join(made(tmp_path / "cat")).notes
    assert "3 of 9 paired echo studies have no usable cine in the stores" in notes
    assert not [note for note in notes if "left without any" in note]
    notes = join(made(tmp_path / "cat2", views={"far": "A4C", "near": "PLAX"}), views="A4C", window_days=10).notes
    assert "6 of 6 paired echo studies have no cine of view A4C in the stores" in notes
    assert "3 of 3 ECGs paired with echo studies are left without any" in notes


@pytest.mark.parametrize(("views", "told"), [("all", True), ("draw", False)])
def test_studies_with_more_views_than_are_shown_are_counted(views, told, tmp_path):
    material = join(made(tmp_path / "cat", one_study=True), views=views, max_views=1)
    assert material.clips[0].tolist() == [0, 1]
    assert any("3 of 3 echo studies have more than data.max_views=1 views" in note for note in material.notes) == told


def test_the_window_of_training_narrows_that_of_the_catalog(tmp_path):
    material = join(made(tmp_path / "cat"), window_days=10)
    assert shown(material, "train") == [("ea", [1])]


@pytest.mark.parametrize(
    ("pairing", "asked", "told"), [([-30, 30], 60, True), ([-1, 60], 60, False), ([0, 7], 30, True), (None, 90, False)]
)
def test_a_window_wider_than_that_of_the_catalog_is_told(tmp_path, pairing, asked, told):
    notes = join(made(tmp_path / "cat", pairing), window_days=asked).notes
    assert any("index it again with a wider --window-days" in note for note in notes) == told


def test_labels_of_ones_and_noughts_are_learned_by_their_name(tmp_path):
    labels = [
        {"subject_id": who, "ecg_id": f"e{who}", "name": "set.MI", "value": value} for who, value in (("a", 1.0), ("b", 0.0))
    ]
    labels.append({"subject_id": "c", "ecg_id": "ec", "name": "lvef", "value": 45.0})
    cat = made(tmp_path / "cat", labels=labels)
    material = join(cat, tasks=("set.MI", "lvef_40_50"))
    found = {name: (split.labels.tolist(), split.labels_valid.tolist()) for name, split in material.splits.items()}
    assert found == {
        "train": ([[1.0, 0.0]], [[True, False]]),
        "val": ([[0.0, 0.0]], [[True, False]]),
        "test": ([[0.0, 1.0]], [[False, True]]),
    }
    with pytest.raises(UsageError, match="there is no task 'set.MY'"):
        join(cat, tasks=("set.MY",))


def test_no_task_is_no_label(tmp_path):
    assert join(made(tmp_path / "cat")).splits["train"].labels.shape == (1, 0)
    assert np.issubdtype(join(made(tmp_path / "cat")).splits["train"].labels.dtype, np.float32)
