"""A catalog is whole or absent, and keeps every promise of its module's docstring, whoever wrote it."""

import errno
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgecho import catalog
from ecgecho.catalog import SCHEMAS
from ecgecho.types import UserError

T0 = datetime(2150, 1, 1)


def rows(name: str, *items: tuple) -> pa.Table:
    schema = SCHEMAS[name]
    return pa.Table.from_pylist([dict(zip(schema.names, item, strict=False)) for item in items], schema)


def small_tables() -> dict[str, pa.Table]:
    return {
        "subjects": rows("subjects", ("a", "train", "female", 2080), ("b", "test")),
        "clips": rows("clips", ("c1", "s1", "a", "echo/c1.dcm", T0, "b_mode", 24), ("c2", "s1", "a", "echo/c2.dcm", T0)),
        "ecgs": rows("ecgs", ("e1", "a", "ecg/e1", T0), ("e2", "b", "ecg/e2", None)),
        "texts": rows("texts", ("t1", "a", "e1", None, T0, "machine_report", "Sinus rhythm")),
        "labels": rows(
            "labels", ("a", "s1", None, T0, "lvef", 55.0, "%", "tte", "lvef"), ("b", None, None, T0, "wall_mm", 9.0, "mm")
        ),
        "pairs": rows("pairs", ("e1", "a", "s1", "t1", 0.0, "train", 1.0), ("e2", "b", None, None, None, "test", 1.0)),
    }


def write_small(path: Path, **changes: pa.Table) -> catalog.Catalog:
    return catalog.write(path, root=path.parent / "data", dataset="made", family="made", tables={**small_tables(), **changes})


def test_what_was_written_is_read(tmp_path):
    made = write_small(tmp_path / "cat")
    for name, table in small_tables().items():
        assert made.table(name).equals(catalog.conform(name, table, "")), name
    assert made.root == tmp_path / "data"
    assert made.file("ecg/e1") == tmp_path / "data/ecg/e1"
    assert made.defects.num_rows == 0
    assert made.texts.num_rows == 1
    assert made.labels.num_rows == 2


def test_a_catalog_that_moves_with_its_data_still_finds_it(tmp_path):
    write_small(tmp_path / "here" / "cat")
    (tmp_path / "here").rename(tmp_path / "there")
    assert catalog.read(tmp_path / "there" / "cat").root == tmp_path / "there" / "data"


def test_no_absolute_path_is_in_a_catalog(tmp_path):
    write_small(tmp_path / "cat")
    for file in (tmp_path / "cat").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_counts_tell_rows_by_split(tmp_path):
    counts = write_small(tmp_path / "cat").meta["counts"]
    assert counts["clips"] == {"all": 2, "train": 2, "val": 0, "test": 0, "none": 0}
    assert counts["studies_with_cines"]["train"] == 1
    assert counts["pairs_with_echo"]["all"] == counts["ecgs_with_echo"]["all"] == counts["ecgs_with_text"]["all"] == 1
    assert counts["label_names"] == {"lvef": 1, "wall_mm": 1}


def test_an_ecg_with_several_studies_is_counted_once_where_ecgs_are_counted(tmp_path):
    more = rows("clips", ("c1", "s1", "a", "x", T0), ("c2", "s2", "a", "y", T0))
    several = rows("pairs", ("e1", "a", "s1", "t1", 0.0, "train", 0.5), ("e1", "a", "s2", "t1", 0.0, "train", 0.5))
    counts = write_small(tmp_path / "cat", clips=more, pairs=several).meta["counts"]
    assert (counts["pairs_with_echo"]["all"], counts["ecgs_with_echo"]["all"], counts["ecgs_with_text"]["all"]) == (2, 1, 1)


def test_the_rows_of_an_ecg_name_one_text(tmp_path):
    more = rows("clips", ("c1", "s1", "a", "x", T0), ("c2", "s2", "a", "y", T0))
    several = rows("pairs", ("e1", "a", "s1", "t1", 0.0, "train", 0.5), ("e1", "a", "s2", None, 0.0, "train", 0.5))
    with pytest.raises(UserError, match="ECG e1 has two texts"):
        write_small(tmp_path / "cat", clips=more, pairs=several)


def test_a_description_prints_every_count(tmp_path):
    text = catalog.render(catalog.describe(write_small(tmp_path / "cat")))
    for word in ("subjects", "ecgs", "texts", "studies with cines", "clips", "pairs with echo", "ecgs with echo", "lvef 1"):
        assert word in text


def test_some_texts_and_some_labels_are_read_alone(tmp_path):
    made = write_small(tmp_path / "cat")
    assert made.texts_of(["t1", "t9"]).to_pylist() == [{"text_id": "t1", "text": "Sinus rhythm"}]
    assert made.texts_of(made.pairs["text_id"]).num_rows == 1
    assert made.labels_named("wall_mm")["value"].to_pylist() == [9.0]


def hand_written(path: Path, **changes: pd.DataFrame | None) -> Path:
    """The least that a hospital writes with pandas."""
    frames: dict[str, pd.DataFrame | None] = {
        "subjects": pd.DataFrame({"subject_id": ["a", "b"], "split": ["train", "test"], "note": [1, 2]}),
        "clips": pd.DataFrame(
            {"clip_id": ["c1"], "study_id": ["s1"], "subject_id": ["a"], "path": ["x.avi"], "num_frames": [np.nan]}
        ),
        "ecgs": pd.DataFrame(
            {"ecg_id": ["e1", "e2"], "subject_id": ["a", "b"], "path": ["1", "2"], "time": pd.to_datetime(["2150-01-01", None])}
        ),
        "labels": pd.DataFrame({"subject_id": ["a"], "name": ["lvef"], "value": [55], "time": [None]}),
        "pairs": pd.DataFrame({"ecg_id": ["e1"], "subject_id": ["a"], "study_id": ["s1"], "split": ["train"], "weight": [1.0]}),
        **changes,
    }
    path.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        if frame is not None:
            frame.to_parquet(path / f"{name}.parquet")
    (path / "catalog.json").write_text(json.dumps({"version": 1, "dataset": "ours", "family": "ours", "root": "../data"}))
    return path


def test_a_catalog_written_with_pandas_is_read(tmp_path):
    made = catalog.read(hand_written(tmp_path / "cat"))
    assert made.clips.schema == SCHEMAS["clips"]
    assert made.clips["num_frames"].to_pylist() == [None]
    assert made.ecgs["time"].to_pylist() == [T0, None]
    assert made.labels["value"].to_pylist() == [55.0]
    assert made.texts.num_rows == 0
    assert catalog.describe(made)["counts"]["ecgs"]["train"] == 1


SUBJECTS = pd.DataFrame({"subject_id": ["a", "b"], "split": ["train", "test"]})
ECGS = pd.DataFrame({"ecg_id": ["e1", "e2"], "subject_id": ["a", "b"], "path": ["1", "2"]})
CLIPS = pd.DataFrame({"clip_id": ["c1"], "study_id": ["s1"], "subject_id": ["a"], "path": ["x.avi"]})
PAIRS = pd.DataFrame({"ecg_id": ["e1"], "subject_id": ["a"], "study_id": ["s1"], "split": ["train"], "weight": [1.0]})
WRONG = {
    "a subject in two splits": ({"subjects": SUBJECTS.assign(subject_id="a")}, "in two splits; that leaks"),
    "a subject twice": ({"subjects": SUBJECTS.assign(subject_id="a", split="val")}, "same subject_id; it must be unique"),
    "an unknown split": ({"subjects": SUBJECTS.assign(split=["train", "dev"])}, "split is 'dev' in row 1"),
    "no subjects": ({"subjects": None}, "no subjects.parquet"),
    "a renamed column": ({"ecgs": ECGS.rename(columns={"ecg_id": "ecgid"})}, "no column 'ecg_id'. Did you mean 'ecgid'?"),
    "ids that are numbers": ({"ecgs": ECGS.assign(ecg_id=[1, 2])}, "column 'ecg_id' is int64; it must be string"),
    "times that are words": ({"ecgs": ECGS.assign(time="today")}, "pd.to_datetime"),
    "times with a zone": (
        {"ecgs": ECGS.assign(time=pd.to_datetime(["2150-01-01", "2150-01-01"], utc=True))},
        "without a time zone",
    ),
    "an empty id": ({"ecgs": ECGS.assign(ecg_id=["e1", ""])}, "ecg_id in row 1 has 0 bytes"),
    "an id that is too long": ({"ecgs": ECGS.assign(ecg_id=["e1", "x" * 65])}, "has 65 bytes"),
    "an id that is missing": ({"ecgs": ECGS.assign(ecg_id=["e1", None])}, "empty in row 1"),
    "an ECG twice": ({"ecgs": ECGS.assign(ecg_id="e1")}, "rows 0 and 1 have the same ecg_id"),
    "an unknown subject": ({"ecgs": ECGS.assign(subject_id=["a", "z"])}, "in row 1 is not in subjects.parquet"),
    "an absolute path": ({"clips": CLIPS.assign(path="/data/x.avi")}, "leaves the root"),
    "a path upwards": ({"clips": CLIPS.assign(path="a/../../x.avi")}, "leaves the root"),
    "a study of two subjects": (
        {"clips": pd.concat([CLIPS, CLIPS.assign(clip_id="c2", subject_id="b")])},
        "study s1 has clips of two subjects",
    ),
    "a pair of an unknown ECG": ({"pairs": PAIRS.assign(ecg_id="e9")}, "ecg_id e9 in row 0 is not in ecgs.parquet"),
    "a pair with an unknown study": ({"pairs": PAIRS.assign(study_id="s9")}, "study_id s9 in row 0 is not in clips.parquet"),
    "a pair with an unknown text": ({"pairs": PAIRS.assign(text_id="t9")}, "text_id t9 in row 0 is not in texts.parquet"),
    "a pair in another split": ({"pairs": PAIRS.assign(split="test")}, "is in split 'test', its subject in 'train'"),
    "a pair twice": ({"pairs": pd.concat([PAIRS, PAIRS])}, "ECG e1 stands with study s1 twice"),
    "an ECG with and without a study": (
        {"pairs": pd.concat([PAIRS, PAIRS.assign(study_id=None)])},
        "ECG e1 has a row without a study beside others",
    ),
    "a pair of two subjects": (
        {"pairs": PAIRS.assign(ecg_id="e2", subject_id="b", split="test")},
        "its study_id does not belong",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_promise_is_refused_by_name(tmp_path, case):
    changes, message = WRONG[case]
    path = hand_written(tmp_path / "cat", **changes)
    if changes.get("subjects", 0) is None:
        (path / "subjects.parquet").unlink(missing_ok=True)
    with pytest.raises(UserError) as caught:
        catalog.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("column", ["subject_id", "ecg_id"])
def test_labels_of_nobody_are_refused_when_they_are_asked_for(tmp_path, column):
    frame = pd.DataFrame({"subject_id": ["a"], "name": ["lvef"], "value": [55.0], "ecg_id": ["e1"]}).assign(**{column: "zzz"})
    made = catalog.read(hand_written(tmp_path / "cat", labels=frame))
    with pytest.raises(UserError, match="labels.parquet"):
        made.labels_named("lvef")


def test_texts_of_nobody_are_refused_when_they_are_asked_for(tmp_path):
    frame = pd.DataFrame({"text_id": ["t"], "subject_id": ["zzz"], "source": ["x"], "text": ["y"]})
    made = catalog.read(hand_written(tmp_path / "cat", texts=frame))
    with pytest.raises(UserError, match=r"texts\.parquet"):
        _ = made.texts


def test_a_folder_that_is_no_catalog_is_refused_with_the_command_that_makes_one(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="ecgecho index DATASET ROOT"):
            catalog.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ('{"version": 1}', "has no 'dataset'"),
        ('{"version": 2, "dataset": "x", "family": "x", "root": "."}', "version 2"),
        ('{"version": 1, "dataset": "x", "family": 3, "root": "."}', "family = 3"),
    ],
)
def test_a_wrong_catalog_json_is_refused(tmp_path, text, message):
    path = hand_written(tmp_path / "cat")
    (path / "catalog.json").write_text(text)
    with pytest.raises(UserError, match=message):
        catalog.read(path)


def test_a_damaged_table_is_refused_by_name(tmp_path):
    path = hand_written(tmp_path / "cat")
    (path / "ecgs.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"ecgs\.parquet cannot be read as Parquet"):
        catalog.read(path)


def test_a_catalog_is_never_written_over_something_else(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="choose another --out"):
            write_small(tmp_path / name)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "x"


def test_a_refused_catalog_leaves_the_old_one_and_no_rubbish(tmp_path):
    write_small(tmp_path / "cat")
    before = {p.name: p.read_bytes() for p in (tmp_path / "cat").iterdir()}
    with pytest.raises(UserError, match=r"not in subjects\.parquet"):
        write_small(tmp_path / "cat", subjects=rows("subjects", ("a", "train")))
    assert {p.name: p.read_bytes() for p in (tmp_path / "cat").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_a_full_disk_is_said_and_leaves_the_old_catalog(tmp_path):
    write_small(tmp_path / "cat")

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    with pytest.raises(UserError, match="cat cannot be written: No space left"):
        write_small(tmp_path / "cat", ecgs=full())
    assert catalog.read(tmp_path / "cat").ecgs.num_rows == 2
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_a_refusal_names_the_place_that_was_asked_for(tmp_path):
    with pytest.raises(UserError) as caught:
        write_small(tmp_path / "cat", subjects=rows("subjects", ("a", "train")))
    assert str(tmp_path / "cat" / "ecgs.parquet") in str(caught.value)


@pytest.mark.parametrize("stop_at", range(2))
def test_stopped_between_its_renames_a_write_loses_nothing(tmp_path, monkeypatch, stop_at):
    """The operating system's rename is stopped, as a kill at that moment would."""
    write_small(tmp_path / "cat")
    rename, calls = os.rename, iter(range(10))

    def stopping(source, target):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_small(tmp_path / "cat")
    if not (tmp_path / "cat").exists():
        with pytest.raises(UserError, match="run the same `ecgecho index` again"):
            catalog.read(tmp_path / "cat")
    assert catalog.unchanged(tmp_path / "cat", {"other": 1}) is None  # mends on its way
    assert catalog.read(tmp_path / "cat").ecgs.num_rows == 2
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_killed_while_it_writes_a_catalog_is_absent_and_the_next_write_clears_up(tmp_path):
    program = """
import os, sys
from ecgecho import catalog
from ecgecho.catalog import SCHEMAS
def dying():
    yield SCHEMAS["ecgs"].empty_table()
    os._exit(9)
catalog.write(sys.argv[1], root=".", dataset="x", family="x", tables={"ecgs": dying()})
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cat")], check=False)
    assert run.returncode == 9
    assert not (tmp_path / "cat").exists()
    assert len(list(tmp_path.iterdir())) == 1  # the unfinished one
    write_small(tmp_path / "cat")
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_a_table_may_come_in_pieces(tmp_path):
    pieces = (rows("ecgs", (f"e{i}", "a", f"p{i}", T0)) for i in range(1, 4))
    made = write_small(tmp_path / "cat", ecgs=pieces, pairs=SCHEMAS["pairs"].empty_table())
    assert made.ecgs["ecg_id"].to_pylist() == ["e1", "e2", "e3"]


def test_unchanged_means_same_inputs_and_all_tables_in_order(tmp_path):
    path = tmp_path / "cat"
    catalog.write(path, root=tmp_path, dataset="m", family="m", tables=small_tables(), meta={"inputs": {"files": (1, 2)}})
    assert catalog.unchanged(path, {"files": [1, 2]}).unchanged
    assert catalog.unchanged(path, {"files": [1, 3]}) is None
    pq.write_table(rows("subjects", ("a", "train")), path / "subjects.parquet")
    assert catalog.unchanged(path, {"files": [1, 2]}) is None


def test_clips_count_as_cines_unless_a_header_says_otherwise():
    clips = rows(
        "clips",
        *[
            (f"c{i}", "s", "a", "p", None, kind, frames)
            for i, (kind, frames) in enumerate(
                [(None, None), ("b_mode", 24), ("b_mode", None), ("b_mode", 1), ("still", 1), ("colour", 24), (None, 1)]
            )
        ],
    )
    assert catalog.cine_rows(clips).to_pylist() == [True, True, True, False, False, False, False]


def test_a_dictionary_that_holds_a_word_twice_is_written_with_each_once(tmp_path):
    """Else Arrow writes bytes that it never filled into the file: what memory held before, maybe a patient's words."""
    names = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None], pa.int32()), pa.array(["mm", "%", "mm"]))
    labels = pa.table({"subject_id": ["a"] * 4, "name": ["x"] * 4, "value": [1.0] * 4, "unit": names})
    subjects = pa.table({"subject_id": ["a"], "split": ["train"]})
    made = [
        catalog.write(tmp_path / f"c{i}", root=tmp_path, dataset="d", family="f", tables={"subjects": subjects, "labels": labels})
        for i in range(6)
    ]
    assert len({(c.path / "labels.parquet").read_bytes() for c in made}) == 1
    page = pq.ParquetFile(made[0].path / "labels.parquet", read_dictionary=["unit"]).read()["unit"].chunk(0).dictionary
    assert page.to_pylist() == ["mm", "%"]
    assert made[0].labels["unit"].to_pylist() == ["mm", "%", "mm", None]


def test_words_that_are_no_utf_8_are_refused_by_file(tmp_path):
    made = catalog.write(
        tmp_path / "c",
        root=tmp_path,
        dataset="d",
        family="f",
        tables={"subjects": pa.table({"subject_id": ["abcdefgh"], "split": ["train"]})},
    )
    raw = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")])
    pq.write_table(pa.table({"subject_id": raw, "split": ["train"]}), made.path / "subjects.parquet")
    with pytest.raises(UserError, match="subjects.parquet cannot be read as Parquet"):
        catalog.read(made.path)
