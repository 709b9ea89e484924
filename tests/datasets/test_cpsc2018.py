"""CPSC2018 in both packagings -> the same records, classes and splits."""

import gzip

import numpy as np
import pytest
from snomed_tree import REFERENCE, samples_of, write_cpsc, write_cpsc_original, write_georgia

from ecgecho import pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, UserError

cpsc = plugins.load("datasets", "cpsc2018")
NAMES = ["A0001", "A0002", "A0003", "A0004"]


def index(root, out=None):
    return cpsc.build(cpsc.Config()).index(root, out or root.parent / "catalog", options=IndexOptions(workers=0))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return index(write_cpsc(tmp_path_factory.mktemp("copy") / "root"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return index(write_cpsc_original(tmp_path_factory.mktemp("original") / "root"))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def named(made, name):
    return {row["ecg_id"]: row["value"] for row in made.labels_named(name).to_pylist()}


def read(made, row):
    ecg = made.ecgs.slice(row, 1)
    source = made.ecg_sources(ecg).get(ecg["ecg_id"][0].as_py())
    return read_ecg(made.file(ecg["path"][0].as_py()), source)


def test_both_packagings_say_the_same_of_every_class(copy, original):
    for name in cpsc.CLASSES:
        assert named(copy, f"cpsc2018.{name}") == named(original, f"cpsc2018.{name}") != {}, name
    assert named(copy, "cpsc2018.STD") == {"A0001": 0, "A0002": 0, "A0003": 0, "A0004": 1}
    assert copy.ecgs["ecg_id"].to_pylist() == original.ecgs["ecg_id"].to_pylist() == NAMES
    assert pairs.check_together([copy, original]) == []


def test_the_first_label_is_there_in_the_original_alone(copy, original):
    assert named(original, "cpsc2018.first_label") == {"A0001": 5, "A0002": 1, "A0003": 5, "A0004": 8}
    assert not named(copy, "cpsc2018.first_label")
    assert "first is lost" in copy.labels_named("cpsc2018.AF")["definition"][0].as_py()


def test_both_packagings_are_read_as_millivolts_of_twelve_leads(copy, original):
    one, two = read(copy, 0), read(original, 0)
    assert (one.fs_hz, two.fs_hz) == (500, 500)
    assert one.leads == two.leads == STANDARD_LEADS
    np.testing.assert_allclose(one.signal, samples_of(1, 7500) / 1000, atol=1e-6)
    np.testing.assert_allclose(two.signal, samples_of(1, 3000) / 1000, atol=1e-6)


def test_ages_and_sexes_come_from_the_headers_and_minus_one_is_none(copy, original):
    assert named(copy, "age_years") == {"A0001": 74, "A0002": 49}
    assert (defects(copy)["headers", "sentinel"], defects(copy)["headers", "age_missing"]) == (1, 1)
    assert copy.subjects["sex"].to_pylist() == ["male", "female", "male", "male"]
    assert original.subjects["sex"].null_count == 4
    assert not named(original, "age_years")


def test_classes_that_the_challenge_scored_have_its_names_too(copy):
    assert named(copy, "cinc2021.RBBB") == {"A0001": 1, "A0002": 0, "A0003": 1, "A0004": 0}
    assert not named(copy, "cinc2021.PVC")  # 164884008 is no scored code
    assert ("labels", "code_unknown") not in defects(copy)


def test_with_both_the_reference_wins_and_disagreements_are_counted(tmp_path):
    root = write_cpsc(tmp_path / "root")
    (root / "REFERENCE.csv").write_text(REFERENCE.replace("A0002,1", "A0002,9") + "A0009,1,,\n")
    made = index(root)
    assert named(made, "cpsc2018.STE")["A0002"] == 1
    assert named(made, "cpsc2018.Normal")["A0002"] == 0
    found = defects(made)
    assert (found["labels", "label_differs"], found["references", "record_unknown"]) == (1, 1)
    assert named(made, "age_years")["A0001"] == 74


def test_names_of_classes_in_the_first_copies_are_read_as_whole_words(tmp_path):
    root = write_cpsc(tmp_path / "root")
    for name, old, new in (("A0003", "164889003,59118001", "AF,RBBB"), ("A0002", "426783006", "Normal")):
        path = root / "Training_WFDB" / f"{name}.hea"
        path.write_text(path.read_text().replace(old, new))
    made = index(root)
    assert named(made, "cpsc2018.AF") == {"A0001": 0, "A0002": 0, "A0003": 1, "A0004": 0}
    assert named(made, "cinc2021.NSR")["A0002"] == 1


@pytest.mark.parametrize("bad", ["A0002,10,,", "A0002,,5,", "A0002,RBBB,,", "A0002,1,x,"])
def test_a_label_that_is_no_class_leaves_its_record_without_labels(tmp_path, bad):
    made = index(write_cpsc_original(tmp_path / "root", REFERENCE.replace("A0002,1,,", bad)))
    assert set(named(made, "cpsc2018.Normal")) == {"A0001", "A0003", "A0004"}
    assert (defects(made)["references", "label_unknown"], defects(made)["labels", "label_missing"]) == (1, 1)
    assert made.ecgs["ecg_id"].to_pylist() == NAMES


def test_the_same_table_in_several_folders_is_one_and_a_contradiction_is_refused(tmp_path):
    root = write_cpsc_original(tmp_path / "root")
    (root / "TrainingSet1" / "REFERENCE.csv").write_text("\n".join(REFERENCE.splitlines()[:3]) + "\n")
    made = index(root)
    assert defects(made)["references", "row_twice"] == 2
    (root / "TrainingSet1" / "REFERENCE.csv").write_text("Recording,First_label,Second_label,Third_label\nA0001,6,,\n")
    with pytest.raises(UserError, match="Recording A0001 stands twice with different 'First_label'"):
        index(root)


def test_a_packed_reference_is_read_too(tmp_path):
    root = write_cpsc_original(tmp_path / "root")
    (root / "TrainingSet3" / "REFERENCE.csv").unlink()
    (root / "TrainingSet1" / "REFERENCE.csv.gz").write_bytes(gzip.compress(REFERENCE.encode()))
    assert named(index(root), "cpsc2018.STD")["A0004"] == 1


def test_a_column_renamed_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"has no column 'Third_label'\. Did you mean"):
        index(write_cpsc_original(tmp_path / "root", REFERENCE.replace("Third_label", "Third_lable")))


def test_recordings_alone_are_refused(tmp_path):
    root = write_cpsc_original(tmp_path / "root")
    (root / "TrainingSet3" / "REFERENCE.csv").unlink()
    with pytest.raises(UserError, match=r"no header beside them and no REFERENCE\.csv"):
        index(root)


def test_headers_without_signals_and_other_records_are_no_records(tmp_path):
    root = write_cpsc(write_georgia(tmp_path / "root"), "training/cpsc_2018/g1")
    (root / "training/cpsc_2018/g1/A0002.mat").unlink()
    made = index(root)
    assert made.ecgs["ecg_id"].to_pylist() == ["A0001", "A0003", "A0004"]
    assert defects(made)["signals", "missing_file"] == 1


def test_a_record_in_two_folders_is_refused(tmp_path):
    root = write_cpsc_original(tmp_path / "root")
    (root / "TrainingSet3" / "A0001.mat").write_bytes((root / "TrainingSet1" / "A0001.mat").read_bytes())
    with pytest.raises(UserError, match="A0001 is there twice"):
        index(root)
    write_cpsc(tmp_path / "other", "a")
    write_cpsc(tmp_path / "other", "b")
    with pytest.raises(UserError, match="A0001 is there twice"):
        index(tmp_path / "other")


def test_another_dataset_s_root_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "REFERENCE.csv").write_text("A00001,N\n")  # Challenge 2017
    with pytest.raises(UserError, match="is not cpsc2018"):
        index(tmp_path / "root")
