"""Private tables -> a catalog of keyed hashes that keeps its promises, or an error that names file, row and column."""

import gzip
import re
import stat
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_trees import write_camus, write_lines
from folder_tree import MARK, write_dicom, write_video
from tables_tree import TABLES, A, B, write_tables

from ecgecho import pairs, plugins, tasks
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import _private
from ecgecho.types import UserError

tables = plugins.load("datasets", "tables")


def index(root, out, *, options=IndexOptions(workers=0), **settings):
    return tables.build(tables.Config(**settings)).index(root, out, options=options)


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


@pytest.fixture
def root(tmp_path):
    return write_tables(tmp_path / "root")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("tables")
    return index(write_tables(place / "root"), place / "cat")


def change(root, name, old, new):
    path = root / f"{name}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    return root


def test_every_table_is_there_under_hashed_ids(made):
    assert {name: made.table(name).num_rows for name in ("subjects", "clips", "ecgs", "texts", "labels")} == {
        "subjects": 3,
        "clips": 3,
        "ecgs": 3,
        "texts": 1,
        "labels": 2,
    }
    for name in ("subjects", "clips", "ecgs", "texts", "labels", "pairs"):
        for column in made.table(name).column_names:
            if column.endswith("_id") and column != "admission_id":
                for value in made.table(name)[column].to_pylist():
                    assert value is None or (len(value) == 32 and set(value) <= set("0123456789abcdef"))


def test_no_raw_id_is_in_any_file_of_the_catalog(made):
    for file in made.path.iterdir():
        text = repr(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text()
        assert MARK not in text
        assert MARK.encode() not in file.read_bytes()
    assert stat.S_IMODE(made.path.with_name("cat.key").stat().st_mode) == 0o600


def test_rows_keep_what_they_say(made):
    clip = made.clips.to_pylist()[0]
    assert (clip["path"], clip["view"], clip["kind"], clip["num_frames"]) == ("echo/a.dcm", "A4C", "b_mode", 3)
    assert [row["time"] for row in made.clips.to_pylist()] == [
        datetime(2020, 1, 2, 10, 15),
        datetime(2020, 1, 2, 10, 20),
        datetime(2020, 3, 2, 9),
    ]
    assert made.ecgs["path"].to_pylist() == ["ecg/one", "ecg/two", "ecg/three"]
    assert made.texts["text"].to_pylist() == ["sinus rhythm,\nnormal"]
    assert [(row["name"], row["value"], row["unit"]) for row in made.labels.to_pylist()] == [
        ("lvef", 35.5, "%"),
        ("wall_mm", 17.0, "mm"),
    ]
    people = sorted((row["birth_year"], row["sex"]) for row in made.subjects.to_pylist())
    assert people == [(1902, None), (1947, "male"), (1951, "female")]


def test_splits_are_the_table_s_and_for_others_the_hash(root, tmp_path):
    made = index(change(root, "subjects", "test,?", ",?"), tmp_path / "cat")
    split = {row["birth_year"]: (row["split"], row["subject_id"]) for row in made.subjects.to_pylist()}
    assert (split[1951][0], split[1947][0]) == ("train", "val")
    assert split[1902][0] == pairs.split_of(made.family, split[1902][1])


def test_ecgs_meet_their_echo(made):
    gaps = [row["gap_days"] for row in made.pairs.to_pylist()]
    assert gaps == pytest.approx([1 + 15 / 1440, 1 + 1 / 24, None])


def test_what_is_not_believed_is_counted(made):
    found = defects(made)
    assert found["labels", "out_of_range"] == 1  # an ejection fraction of 620 %
    assert found["ecgs", "time_unreadable"] == 1
    assert found["subjects", "unknown_word"] == 1


def test_a_patient_is_the_same_subject_in_folder_and_here_under_one_key(root, tmp_path):
    mine = index(root, tmp_path / "cat")
    folder = plugins.load("datasets", "folder")
    key = folder.Config(key=str(tmp_path / "cat.key"))
    other = folder.build(key).index(root, tmp_path / "two", options=IndexOptions(workers=0))
    named = next(row for row in other.clips.to_pylist() if row["path"] == "echo/a.dcm")
    assert named["subject_id"] == mine.clips["subject_id"].to_pylist()[0]
    assert mine.family == other.family


def test_the_same_tables_are_done_and_a_changed_one_is_seen(root, tmp_path):
    assert not index(root, tmp_path / "cat").unchanged
    assert index(root, tmp_path / "cat").unchanged
    change(root, "labels", "35.5", "36.5")
    assert not index(root, tmp_path / "cat").unchanged


def test_parquet_tsv_and_gz_are_read_alike(root, tmp_path, made):
    rows = [line.split(",") for line in TABLES["clips"]]
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    columns["time"] = [datetime(2020, 1, 2, 10, 15), datetime(2020, 1, 2, 10, 20), datetime(2020, 3, 2, 9)]
    columns["num_frames"] = [3.0, float("nan"), float("nan")]  # as pandas writes integers with gaps
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), root / "clips.parquet")
    (root / "clips.csv").unlink()
    write_lines(root / "ecgs.tsv", [line.replace(",", "\t") for line in TABLES["ecgs"]])
    (root / "ecgs.csv").unlink()
    (root / "labels.csv.gz").write_bytes(gzip.compress(("\n".join(TABLES["labels"]) + "\n").encode()))
    (root / "labels.csv").unlink()
    again = index(root, tmp_path / "cat", key=str(made.path.with_name("cat.key")))
    for name in ("clips", "ecgs", "texts", "pairs", "subjects"):
        assert again.table(name).equals(made.table(name)), name
    assert again.labels.drop_columns(["source"]).equals(made.labels.drop_columns(["source"]))


def test_integer_ids_of_parquet_are_ids_and_floats_are_refused(root, tmp_path):
    for ids, ok in (([17, 18], True), ([17.0, 18.5], False)):
        pq.write_table(pa.table({"subject_id": ids, "path": ["ecg/one", "ecg/two"]}), root / "ecgs.parquet")
        for name in ("ecgs", "subjects", "clips", "texts", "labels"):
            (root / f"{name}.csv").unlink(missing_ok=True)
        if ok:
            assert index(root, tmp_path / "cat").subjects.num_rows == 2
        else:
            with pytest.raises(UserError, match="column 'subject_id' is double; ids are strings or integers"):
                index(root, tmp_path / "cat")


def test_pseudonymise_shifts_dates_and_keeps_gaps(root, tmp_path, made):
    key = str(made.path.with_name("cat.key"))
    shifted = index(root, tmp_path / "cat", options=IndexOptions(workers=0, pseudonymise=key))
    assert shifted.clips["clip_id"].equals(made.clips["clip_id"])
    assert shifted.clips["time"].to_pylist()[0] != made.clips["time"].to_pylist()[0]
    assert shifted.pairs["gap_days"].equals(made.pairs["gap_days"])


def test_views_and_headers_when_given_and_asked(root, tmp_path):
    write_lines(root / "views.csv", ["path,view", "echo/b.avi,PLAX", "echo/none.avi,A2C"])
    made = index(root, tmp_path / "cat", scan_headers=True)
    assert made.clips["view"].to_pylist() == ["A4C", "PLAX", None]
    assert made.clips["num_frames"].to_pylist() == [3, 4, 4]
    assert defects(made)["views", "not_there"] == 1
    assert made.meta["headers"]["kind"] == {"b_mode": 3}


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("clips", "study_id", "study", r"clips.csv has no column 'study_id'\. Did you mean 'study'"),
        ("clips", f"{A},{MARK}-S1", f",{MARK}-S1", r"clips.csv: column 'subject_id' is empty in data row 1"),
        ("clips", "echo/a.dcm", "/data/a.dcm", r"clips.csv: path in data row 1 leaves ROOT"),
        ("clips", "echo/a.dcm", "../a.dcm", r"clips.csv: path in data row 1 leaves ROOT"),
        ("clips", "echo/a.dcm", "echo/b.avi", r"clips.csv: clip_id in data row 2 stands in two rows; it must be unique"),
        ("clips", "b_mode", "bmode", r"clips.csv: kind in data row 1 is none of b_mode, colour"),
        ("clips", f"{MARK}-S2", f"{MARK}-S1", r"clips.csv: study_id in data row 1 belongs to two subjects"),
        ("ecgs", f"{MARK}-E2", f"{MARK}-E1", r"ecgs.csv: ecg_id in data row 2 stands in two rows"),
        ("ecgs", f"{MARK}-0017", f"{MARK}-99", r"ecgs.csv: subject_id in data row 2 is not in subjects"),
        ("texts", f"{MARK}-E1", f"{MARK}-E9", r"texts.csv: ecg_id in data row 1 is not in ecgs"),
        ("labels", f"{MARK}-S2,wall", f"{MARK}-S9,wall", r"labels.csv: study_id in data row 3 is not in clips"),
        ("labels", "17,mm", "1.7,cm", r"labels.csv: unit in data row 3 is not 'mm', the unit of 'wall_mm'"),
        ("subjects", "train", "training", r"subjects.csv: split in data row 1 is none of train, val, test, none"),
        (
            "subjects",
            f"{MARK}-0018,test,?,1902",
            f"{MARK}-0018,test,?,1902\n{MARK}-P1,test,F,1951",
            r"data row 1 and subjects.csv data row 4 put subject #\w{8} into 'train' and into 'test'; that leaks",
        ),
        (
            "subjects",
            ",?,1902",
            f",?,1902\n{MARK}-0017,,F,1947",
            r"subjects.csv: subject_id in data row 2 has two different rows",
        ),
    ],
)
def test_a_broken_promise_is_refused_with_file_row_and_column_and_no_id(root, tmp_path, name, old, new, match):
    change(root, name, old, new)
    with pytest.raises(UserError, match=match) as caught:
        index(root, tmp_path / "cat")
    assert MARK not in str(caught.value)
    assert not (tmp_path / "cat").exists()


def test_a_subject_twice_in_a_split_file_is_refused_by_its_hash(root, tmp_path):
    write_lines(root / "splits.csv", ["subject_id,split", f"{A},train", f"{MARK}-0018,test", f"{A},test"])
    with pytest.raises(UserError, match=r"splits.csv data row 3 put subject #\w{8} into 'train' and into 'test'") as caught:
        index(root, tmp_path / "cat")
    assert MARK not in str(caught.value)


def test_fractions_are_no_percent(root, tmp_path):
    change(change(root, "labels", "35.5", "0.355"), "labels", "620", "0.62")
    with pytest.raises(UserError, match="lvef is in %; multiply by 100"):
        index(root, tmp_path / "cat")


def test_files_that_are_not_there_are_counted_and_none_at_all_is_refused(root, tmp_path):
    (root / "echo" / "c.avi").unlink()
    assert defects(index(root, tmp_path / "cat"))["clips", "missing_file"] == 1
    for path in (root / "echo").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="not one of the files looked for is there; paths are relative to ROOT"):
        index(root, tmp_path / "two")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"subject_id,path\n1\n", b"PAR1 no"])
def test_a_damaged_table_is_refused_by_its_name(root, tmp_path, content):
    (root / "ecgs.csv").unlink()
    (root / ("ecgs.parquet" if content.startswith(b"PAR1") else "ecgs.csv")).write_bytes(content)
    with pytest.raises(UserError, match=r"ecgs\.\w+ (cannot be read|is empty|has no column)"):
        index(root, tmp_path / "cat")


def test_a_root_without_tables_or_with_two_of_one_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"holds no clips.csv and no ecgs.csv .* There is no table in it"):
        index(write_camus(tmp_path / "camus"), tmp_path / "cat")
    pq.write_table(pa.table({"subject_id": ["1"], "path": ["x"]}), root / "ecgs.parquet")
    with pytest.raises(UserError, match=r"holds ecgs.csv and ecgs.parquet; keep one"):
        index(root, tmp_path / "cat")


def labels(root, *lines):
    write_lines(root / "labels.csv", ["subject_id,study_id,ecg_id,name,value,unit,time", *lines])
    return root


def answers(made, task):
    """Of the ECGs one, two, three."""
    return tasks.answers(made, made.ecgs["ecg_id"].to_pylist(), tasks.find(task)).tolist()


def test_a_label_of_a_study_has_the_study_s_time(root, tmp_path):
    change(root, "clips", "2020-01-02 10:15:00", "")  # of two clips of S1 one has a time
    made = index(labels(root, f"{A},{MARK}-S1,,lvef,30,%,", f"{B},{MARK}-S2,,lvef,55,%,"), tmp_path / "cat")
    assert answers(made, "lvef_lt_40") == [1, 0, -1]
    assert made.labels["time"].to_pylist() == [datetime(2020, 1, 2, 10, 20), datetime(2020, 3, 2, 9)]
    assert ("labels", "time_missing") not in defects(made)


def test_a_label_s_own_time_goes_before_its_study_s(root, tmp_path):
    made = index(labels(root, f"{A},{MARK}-S1,,lvef,30,%,2019-01-02"), tmp_path / "cat")
    assert made.labels["time"].to_pylist() == [datetime(2019, 1, 2)]
    assert answers(made, "lvef_lt_40") == [-1, -1, -1]


def test_only_labels_that_can_answer_nothing_are_counted_as_without_a_time(root, tmp_path):
    write_lines(root / "clips.csv", [TABLES["clips"][0], f"{A},{MARK}-S1,echo/a.dcm,,,,"])
    lines = (f"{A},,{MARK}-E1,lvef,30,%,", f"{A},{MARK}-S1,,wall_mm,17,mm,", f"{A},,,lvedd_mm,60,mm,", f"{A},,,edv_ml,60,ml,soon")
    made = index(labels(root, *lines), tmp_path / "cat")
    assert defects(made)["labels", "time_missing"] == 3
    assert defects(made)["labels", "time_unreadable"] == 1
    assert answers(made, "lvef_lt_40") == [1, -1, -1]


@pytest.mark.parametrize("name", ["wall_mm", "ivsd_mm", "lvpwd_mm", "lvedd_mm"])
def test_lengths_in_cm_without_a_unit_are_refused(root, tmp_path, name):
    values = ("5.8", "4.7", "5.0") if name == "lvedd_mm" else ("1.8", "1.2", "0.9")
    rows = [f"{A},,,{name},{value},,2020-01-0{day + 1}" for day, value in enumerate((*values, "17"))]
    with pytest.raises(UserError, match=rf"labels.csv: value in data row 1 .* median of '{name}' is below .*; multiply cm by 10"):
        index(labels(root, *rows), tmp_path / "cat")


def test_one_length_or_fraction_of_another_unit_is_left_out_and_counted(root, tmp_path):
    rows = [f"{A},,,wall_mm,{value},,2020-01-0{day + 1}" for day, value in enumerate(("9", "12", "1.8", "4"))]
    rows += [f"{A},,,lvef,{value},,2020-01-0{day + 1}" for day, value in enumerate(("0.6", "62", "35", "5"))]
    made = index(labels(root, *rows), tmp_path / "cat")
    assert made.labels["value"].to_pylist() == [9, 12, 4, 62, 35, 5]
    assert [row["count"] for row in made.defects.to_pylist() if row["code"] == "out_of_range"] == [1, 1]


def test_one_typing_error_does_not_make_fractions_percent(root, tmp_path):
    rows = [f"{A},,,lvef,{value},,2020-01-0{day + 1}" for day, value in enumerate(("0.6", "0.35", "55"))]
    with pytest.raises(UserError, match="lvef is in %; multiply by 100"):
        index(labels(root, *rows), tmp_path / "cat")


def test_a_replaced_file_is_opened_again_where_headers_are_read(root, tmp_path):
    assert not index(root, tmp_path / "cat", scan_headers=True).unchanged
    assert index(root, tmp_path / "cat", scan_headers=True).unchanged
    write_video(root / "echo" / "c.avi", frames=9)
    again = index(root, tmp_path / "cat", scan_headers=True)
    assert not again.unchanged
    assert again.clips["num_frames"].to_pylist() == [3, 4, 9]
    index(root, tmp_path / "plain")
    write_video(root / "echo" / "c.avi", frames=8)
    assert index(root, tmp_path / "plain").unchanged  # no file was opened for it


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (f"{A},,{MARK}-E1,lvef,55,%,", f"{A},,{MARK}-E1,lvef,30,%,"),
        (f"{A},,{MARK}-E1,lvef,55,%,2020-01-01", f"{A},,{MARK}-E1,lvef,30,%,2020-01-02"),  # an ECG's label whatever its time
        (f"{A},{MARK}-S1,,lvef,55,%,", f"{A},{MARK}-S1,,lvef,30,%,2020-01-02 10:15:00"),  # the study's time
        (f"{A},,,lvef,55,%,2020-01-01", f"{A},,,lvef,30,%,2020-01-01"),
    ],
)
def test_two_values_of_one_label_are_refused(root, tmp_path, one, two):
    labels(root, f"{B},{MARK}-S2,,lvef,620,%,", one, f"{B},{MARK}-S2,,lvef,50,%,", two)
    with pytest.raises(
        UserError, match=r"labels.csv: data rows 2 and 4 give one label .* two values; keep the right one"
    ) as caught:
        index(root, tmp_path / "cat")
    assert MARK not in str(caught.value)


def test_a_label_again_is_kept_once_and_others_are_no_contradiction(root, tmp_path):
    rows = (
        f"{A},,{MARK}-E1,lvef,55,%,",
        f"{A},,{MARK}-E1,lvef,55.0,%,",
        f"{A},,{MARK}-E1,lvef,620,%,",  # left out
        f"{A},,{MARK}-E1,wall_mm,9,mm,",
        f"{A},{MARK}-S1,,lvef,50,%,",
        f"{A},{MARK}-S1,,lvef,45,%,2020-01-09",
        f"{B},{MARK}-S2,,lvef,40,%,",
    )
    made = index(labels(root, *rows), tmp_path / "cat")
    assert made.labels["value"].to_pylist() == [55, 9, 50, 45, 40]
    assert defects(made)["labels", "row_twice"] == 1


def test_a_table_without_a_row_is_one_and_told(root, tmp_path):
    write_lines(root / "splits.csv", ["subject_id,split"])
    write_lines(root / "views.csv", ["path,view"])
    write_lines(root / "texts.csv", ["subject_id,text"])
    made = index(labels(root), tmp_path / "cat")
    assert (made.labels.num_rows, made.texts.num_rows) == (0, 0)
    assert {item for item, code in defects(made) if code == "no_rows"} == {"labels", "splits", "views", "texts"}


@pytest.mark.parametrize("name", ["ecgs", "clips"])
def test_one_of_ecgs_and_clips_may_be_without_a_row_and_not_both(tmp_path, name):
    root = write_tables(tmp_path / "root", {table: TABLES[table] for table in ("ecgs", "clips")})
    write_lines(root / f"{name}.csv", TABLES[name][:1])
    made = index(root, tmp_path / "cat")
    assert {item for item, code in defects(made) if code == "no_rows"} == {name}
    for table in ("ecgs", "clips"):
        write_lines(root / f"{table}.csv", TABLES[table][:1])
    with pytest.raises(UserError, match=r"clips.csv and .*ecgs.csv: a header and no rows"):
        index(root, tmp_path / "two")
    (root / f"{name}.csv").unlink()
    with pytest.raises(UserError, match=r"(clips|ecgs).csv: a header and no rows"):
        index(root, tmp_path / "two")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("said", "meant"),
    [("LVEF", "lvef"), ("lv_ef", "lvef"), ("Wall-MM", "wall_mm"), ("SHD", "shd"), ("EchoNext.shd", "echonext.shd")],
)
def test_a_name_that_is_a_known_one_but_for_case_and_signs_is_refused(root, tmp_path, said, meant):
    labels(root, f"{A},,{MARK}-E1,Ventricle,5,,", f"{A},,{MARK}-E1,{said},1,,")
    with pytest.raises(UserError, match=rf"labels.csv: name in data row 2 is no label that is known; did you mean '{meant}'\?"):
        index(root, tmp_path / "cat")


@pytest.mark.parametrize(("name", "file"), [("labels", "Labels.CSV"), ("ecgs", "ECGS.csv"), ("clips", "Clips.Csv.GZ")])
def test_tables_are_found_whatever_the_case_of_their_names(root, tmp_path, made, name, file):
    data = (root / f"{name}.csv").read_bytes()
    (root / f"{name}.csv").unlink()
    (root / file).write_bytes(gzip.compress(data) if file.endswith("GZ") else data)
    again = index(root, tmp_path / "cat", key=str(made.path.with_name("cat.key")))
    assert again.table(name).num_rows == made.table(name).num_rows > 0
    (root / f"{name}.csv").write_bytes(data)
    with pytest.raises(UserError, match=rf"{re.escape(file)} and {name}.csv; keep one of them"):
        index(root, tmp_path / "cat")


@pytest.mark.parametrize(
    ("name", "file"),
    [("labels", "label.csv"), ("labels", "Lables.TSV"), ("ecgs", "ECG.csv"), ("clips", "clips (1).csv"), ("texts", "texts.xlsx")],
)
def test_a_file_with_nearly_the_name_of_a_table_is_told_or_refused(root, tmp_path, name, file):
    data = (root / f"{name}.csv").read_bytes()
    (root / file).write_bytes(data)
    assert defects(index(root, tmp_path / "cat"))[name, "not_read"] == 1
    (root / f"{name}.csv").unlink()
    with pytest.raises(UserError, match=rf"{re.escape(file)} is not read. Did you mean {name}.csv"):
        index(root, tmp_path / "cat")


def test_other_files_beside_the_tables_are_none_of_ours(root, tmp_path):
    for name in ("readme.txt", "measurements.csv", "patients.parquet", "clips_before_the_move_of_2019.csv", "labels.json"):
        (root / name).write_text("x")
    assert not [code for _, code in defects(index(root, tmp_path / "cat")) if code == "not_read"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"subject_id,path\n{A},écg".encode("latin-1"), r"is not UTF-8\. Save it as UTF-8\."),
        ("subject_id,path\n1,a\n".encode("utf-16"), r"is not UTF-8\. Save it as UTF-8\."),
        (f"subject_id,path\n{A},ecg/one\n{A},ecg/one,two\n".encode(), r"data row 2 has 3 columns, the header has 2\. Quote the"),
        (f"subject_id;path\n{A};ecg/one\n".encode(), r"separated by ';', not by ','\. Save it separated by ','"),
        (f"subject_id\tpath\n{A}\tecg/one\n".encode(), r"separated by tabs, not by ','\. Save it separated by ','"),
        (b"", "is empty; give it a header"),
        (b"subject_id,path", "a header and no rows; write them"),
        (b"subject_id,path,path\n1,2,3\n", "has the column 'path' twice; keep one"),
    ],
)
def test_a_table_of_one_s_own_is_to_be_mended_and_not_fetched(root, tmp_path, content, words):
    (root / "ecgs.csv").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        index(root, tmp_path / "cat")
    assert "etch it" not in str(caught.value)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(("name", "old"), [("ecgs", "ecg/two"), ("clips", "echo/b.avi"), ("views", "echo/b.avi")])
def test_paths_of_windows_are_refused_with_what_to_write(root, tmp_path, name, old):
    write_lines(root / "views.csv", ["path,view", "echo/a.dcm,A4C", "echo/b.avi,PLAX"])
    change(root, name, old, old.replace("/", "\\"))
    with pytest.raises(UserError, match=rf"{name}.csv: path in data row 2 holds a \\; write / in paths \(1 such row\)"):
        index(root, tmp_path / "cat")


def test_two_views_of_one_path_are_refused_and_a_repeat_is_counted(root, tmp_path):
    write_lines(root / "views.csv", ["path,view", "echo/a.dcm,A4C", "echo/b.avi,PLAX", "echo/a.dcm,A2C"])
    with pytest.raises(UserError, match=r"views.csv: data rows 1 and 3 give one path two views; keep the right one"):
        index(root, tmp_path / "cat")
    write_lines(root / "views.csv", ["path,view", "echo/a.dcm,A2C", "echo/a.dcm,A2C"])
    made = index(root, tmp_path / "cat")
    assert made.clips["view"].to_pylist() == ["A2C", None, None]
    assert defects(made)["views", "row_twice"] == 1


def test_zeros_before_a_number_make_no_second_person(tmp_path):
    root = write_tables(tmp_path / "root", {"clips": ["subject_id,study_id,path,time", "000012345,1,echo/a.dcm,2020-01-02"]})
    write_lines(
        root / "ecgs.csv", ["subject_id,path,time", "12345,ecg/one.hea,2020-01-01", "0A1,ecg/two.hea,", "A1,ecg/three.hea,"]
    )
    write_lines(root / "subjects.csv", ["subject_id,split", "012345,val", "0A1,train", "A1,test"])
    made = index(root, tmp_path / "cat")
    assert sorted(made.subjects["split"].to_pylist()) == ["test", "train", "val"]
    assert made.pairs["gap_days"].to_pylist() == [1, None, None]
    assert defects(made)["subjects", "leading_zeros"] == 1
    write_dicom(root / "echo" / "a.dcm", patient="0012345")
    folder = plugins.load("datasets", "folder")
    other = folder.build(folder.Config(key=str(tmp_path / "cat.key"))).index(
        root, tmp_path / "two", options=IndexOptions(workers=0)
    )
    assert made.clips["subject_id"][0].as_py() in other.clips["subject_id"].to_pylist()


def test_a_word_for_everyone_is_in_no_split_unless_the_tables_say_one(tmp_path):
    root = write_tables(
        tmp_path / "root", {"ecgs": ["subject_id,path", "De-Identified,ecg/one", "0000,ecg/two", "1111,ecg/three"]}
    )
    write_lines(root / "splits.csv", ["subject_id,split", "1111,train"])
    made = index(root, tmp_path / "cat")
    assert sorted(made.subjects["split"].to_pylist()) == ["none", "none", "train"]
    assert defects(made)["subjects", "placeholder_id"] == 2


def test_an_id_with_more_ecgs_than_a_patient_has_is_told(root, tmp_path, monkeypatch):
    monkeypatch.setattr(_private, "MANY_ECGS", 1)
    change(root, "ecgs", f"{B},{MARK}-E2", f"{A},{MARK}-E2")
    assert defects(index(root, tmp_path / "cat"))["subjects", "crowded_id"] == 1
