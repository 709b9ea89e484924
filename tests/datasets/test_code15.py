"""CODE-15%: rows by exam_id and never by order, halves of a download, labels that are known; trees in the published layout."""

import h5py
import numpy as np
import pytest
from code15_tree import COLUMNS, EXAMS, PARTS, SHORT, row, write_code15, write_exams, write_part

from ecgecho import keys, pairs
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import code15
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, UserError


@pytest.fixture
def root(tmp_path):
    return write_code15(tmp_path / "code-15")


def index(root, out, workers=0):
    return code15.build(code15.Config()).index(root, out, options=IndexOptions(workers=workers))


def key_of(ecg_id):
    assert ecg_id.startswith("code15-")
    return ecg_id.removeprefix("code15-")


def labels(made):
    return {(key_of(one["ecg_id"]), one["name"]): one["value"] for one in made.labels.to_pylist()}


def defects(made):
    found = {}
    for one in made.defects.to_pylist():
        found[one["item"], one["code"]] = found.get((one["item"], one["code"]), 0) + one["count"]
    return found


def with_changes(root, changes):
    rows = [row(*exam) for exam in EXAMS]
    for exam, values in changes.items():
        next(one for one in rows if one["exam_id"] == str(exam)).update(values)
    write_exams(root / "exams.csv", rows)


def rows_of(made):
    return {key_of(one["ecg_id"]): (one["path"], one["row"]) for one in made.ecgs.to_pylist()}


def test_an_exam_is_the_row_that_has_its_id(root, tmp_path):
    made = index(root, tmp_path / "cat", workers=1)
    assert made.ecgs.num_rows == 5
    for ecg, (path, place) in rows_of(made).items():
        with h5py.File(made.file(path)) as part:
            assert part["exam_id"][place] == int(ecg)
        record = read_ecg(made.file(path), made.ecg_sources(made.ecgs)[f"code15-{ecg}"])
        assert (record.unit, record.fs_hz, record.leads) == ("mv", 400, STANDARD_LEADS)
        assert record.signal.shape == (12, 2800 if int(ecg) == SHORT else 4000)
        assert (record.signal == np.float32(int(ecg) / 1000)).all()
    one = made.ecgs.to_pylist()[0]
    assert (one["fs_hz"], one["unit"], one["leads"], one["time"]) == (400.0, "mv", ",".join(STANDARD_LEADS), None)
    assert defects(made)["tracings", "padding_row"] == 2


def test_the_order_of_the_table_and_of_a_part_plays_no_part(root, tmp_path):
    before = labels(index(root, tmp_path / "cat"))
    write_exams(root / "exams.csv", [row(*exam) for exam in EXAMS[::-1]], columns=COLUMNS[::-1])
    write_part(root / "exams_part0.hdf5", (0, *PARTS["exams_part0.hdf5"][2::-1]))
    after = index(root, tmp_path / "cat2")
    assert labels(after) == before
    assert rows_of(after)["1169160"] == ("exams_part0.hdf5", 3)


def test_parts_in_folders_of_their_own_are_found(root, tmp_path):
    for name in PARTS:
        (root / name[:-5]).mkdir()
        (root / name).rename(root / name[:-5] / name)
    assert rows_of(index(root, tmp_path / "cat"))["384368"] == ("exams_part13/exams_part13.hdf5", 1)


def test_labels_are_those_of_the_exam_and_unknown_is_no_label(root, tmp_path):
    made = index(root, tmp_path / "cat")
    found = labels(made)
    assert {name for ecg, name in found if ecg == "271011"} == {
        *(f"code15.{name}" for name in ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg", "age_years")),
    }
    assert found["168405", "code15.1dAVb"] == found["168405", "code15.death"] == 1
    assert found["1169160", "code15.death"] == found["1169160", "code15.1dAVb"] == 0
    assert found["1169160", "code15.normal_ecg"] == 1
    assert found["384368", "code15.AF"] == found["384368", "code15.RBBB"] == 1
    assert found["2873686", "code15.normal_ecg"] == 0
    assert defects(made)["exams", "no_follow_up"] == 1
    np.testing.assert_array_equal(pairs.label_values(made, ["code15-271011", "code15-168405"], "code15.death"), [np.nan, 1])
    assert {one["split"] for one in made.pairs.to_pylist() if one["subject_id"] == "7"} == {pairs.split_of("code15", "7")}
    assert dict(zip(made.subjects["subject_id"].to_pylist(), made.subjects["sex"].to_pylist(), strict=True))["8"] == "female"


def test_half_a_download_is_counted_and_the_rest_comes_later(root, tmp_path):
    (root / "exams_part13.hdf5").rename(tmp_path / "later")
    made = index(root, tmp_path / "cat")
    assert sorted(rows_of(made)) == ["1169160", "168405", "2873686"]
    assert defects(made)["ecgs", "no_waveforms"] == 2
    assert ("ecgs", "not_in_file") not in defects(made)
    assert any(what.startswith("exams_part13:") for what in made.meta["missing"])
    (tmp_path / "later").rename(root / "exams_part13.hdf5")
    assert index(root, tmp_path / "cat").ecgs.num_rows == 5


def test_exams_that_no_part_or_two_rows_have_are_left_out(root, tmp_path):
    write_part(root / "exams_part0.hdf5", (1169160, 168405, 168405, 99, 0))
    made = index(root, tmp_path / "cat")
    assert sorted(rows_of(made)) == ["1169160", "271011", "384368"]
    found = defects(made)
    assert (found["ecgs", "id_twice"], found["ecgs", "not_in_file"], found["tracings", "not_listed"]) == (1, 1, 1)


def test_trace_file_may_be_empty_and_is_only_a_check(root, tmp_path):
    changes = {271011: {"trace_file": ""}, 168405: {"trace_file": "exams_part13.hdf5"}, 1169160: {"trace_file": "../x.hdf5"}}
    with_changes(root, changes)
    made = index(root, tmp_path / "cat")
    assert rows_of(made)["168405"] == ("exams_part0.hdf5", 2)
    assert rows_of(made)["271011"] == ("exams_part13.hdf5", 0)
    assert (defects(made)["ecgs", "file_differs"], defects(made)["exams", "unknown_file"]) == (1, 1)


@pytest.mark.parametrize("ids", [[1169160, 0], [[1169160], [0]], [1.5, 2.5, 3.5, 0.0], [b"1", b"2", b"3", b"0"]])
def test_ids_that_do_not_fit_the_tracings_leave_the_part_out(root, tmp_path, ids):
    with h5py.File(root / "exams_part0.hdf5", "a") as file:
        del file["exam_id"]
        file["exam_id"] = np.array(ids)
    assert sorted(rows_of(index(root, tmp_path / "cat"))) == ["271011", "384368"]


def damaged(data, kind):
    return {"cut": data[: len(data) // 2], "head": b"\0" * 64 + data[64:], "none": b"", "junk": b"not HDF5" * 100}[kind]


@pytest.mark.parametrize("kind", ["cut", "head", "none", "junk"])
def test_a_damaged_part_leaves_only_its_own_exams_out(root, tmp_path, kind):
    path = root / "exams_part0.hdf5"
    path.write_bytes(damaged(path.read_bytes(), kind))
    made = index(root, tmp_path / "cat")
    assert sorted(rows_of(made)) == ["271011", "384368"]
    assert defects(made)["ecgs", "no_waveforms"] == 3


@pytest.mark.parametrize("way", ["link", "raw file", "virtual"])
def test_ids_that_lie_in_another_file_are_not_read(root, tmp_path, way):
    write_part(tmp_path / "elsewhere.hdf5", PARTS["exams_part13.hdf5"])
    (tmp_path / "raw").write_bytes(np.array(PARTS["exams_part13.hdf5"], np.int64).tobytes())
    with h5py.File(root / "exams_part13.hdf5", "a") as file:
        del file["exam_id"]
        if way == "link":
            file["exam_id"] = h5py.ExternalLink(str(tmp_path / "elsewhere.hdf5"), "/exam_id")
        elif way == "raw file":
            file.create_dataset("exam_id", (3,), "i8", external=[(str(tmp_path / "raw"), 0, 24)])
        else:
            layout = h5py.VirtualLayout((3,), "i8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.hdf5"), "exam_id", (3,))
            file.create_virtual_dataset("exam_id", layout)
        assert file["exam_id"][0] == 271011
    assert sorted(rows_of(index(root, tmp_path / "cat"))) == ["1169160", "168405", "2873686"]


def test_tracings_of_another_shape_are_refused(root, tmp_path):
    for name, ids in PARTS.items():
        with h5py.File(root / name, "a") as file:
            del file["tracings"]
            file["tracings"] = np.zeros((len(ids), 4096, 8), "f4")
    with pytest.raises(UserError, match="no exam of exams.csv is in the parts"):
        index(root, tmp_path / "cat")


def test_values_out_of_range_and_words_that_are_no_flag_are_counted_and_left_out(root, tmp_path):
    with_changes(root, {168405: {"age": "300", "AF": "maybe"}, 384368: {"timey": "-1"}, 271011: {"is_male": "False"}})
    made = index(root, tmp_path / "cat")
    assert not {("168405", "code15.age_years"), ("168405", "code15.AF"), ("384368", "code15.follow_up_years")} & set(labels(made))
    found = defects(made)
    assert (found["exams", "out_of_range"], found["exams", "not_a_flag"], found["exams", "sex_differs"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({168405: {"exam_id": "1169160"}}, "exam_id 1169160 stands twice"),
        ({168405: {"exam_id": "x1"}}, r"exam_id is 'x1' in data row 2"),
        ({168405: {"exam_id": "0"}}, r"exam_id is '0'"),
        ({168405: {"patient_id": ""}}, "'patient_id' is empty"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(root, tmp_path, changes, words):
    with_changes(root, changes)
    with pytest.raises(UserError, match=words):
        index(root, tmp_path / "cat")


def test_a_renamed_column_a_table_alone_and_another_root_are_refused(root, tmp_path):
    rows = [{("AFIB" if name == "AF" else name): value for name, value in row(*exam).items()} for exam in EXAMS]
    write_exams(root / "exams.csv", rows, ["AFIB" if name == "AF" else name for name in COLUMNS])
    with pytest.raises(UserError, match="no column 'AF'"):
        index(root, tmp_path / "cat")
    for name in PARTS:
        (root / name).unlink()
    write_exams(root / "exams.csv", [row(*exam) for exam in EXAMS])
    with pytest.raises(UserError, match="none of exams_part0.hdf5"):
        index(root, tmp_path / "cat")
    (root / "exams.csv").unlink()
    with pytest.raises(UserError, match="is not code15: there is no exams.csv"):
        index(root, tmp_path / "cat")


def test_a_changed_table_does_not_open_the_parts_again(root, tmp_path, monkeypatch):
    index(root, tmp_path / "cat")
    monkeypatch.setattr(code15.h5py, "File", None)
    assert index(root, tmp_path / "cat").unchanged
    with_changes(root, {384368: {"AF": "False"}})
    assert labels(index(root, tmp_path / "cat"))["384368", "code15.AF"] == 0


def test_ids_of_exams_are_kept_nowhere_beside_pseudonyms(root, tmp_path):
    keys.make(tmp_path / "key")
    options = IndexOptions(workers=0, pseudonymise=str(tmp_path / "key"))
    made = code15.build(code15.Config()).index(root, tmp_path / "cat", options=options)
    assert made.ecgs.num_rows == 5
    for file in made.path.iterdir():
        assert b"2873686" not in file.read_bytes()
