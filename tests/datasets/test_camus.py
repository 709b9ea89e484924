"""CAMUS in both its releases, on small trees in their layout."""

import shutil

import pytest
from echo_trees import NEW_CFG, OLD_CFG, write_camus, write_lines, write_patient

from ecgecho import plugins
from ecgecho.catalog import IndexOptions
from ecgecho.types import UserError


def index(root, out, **settings):
    module = plugins.load("datasets", "camus")
    return module.build(module.Config(**settings)).index(root, out, options=IndexOptions(workers=0))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def labels(made, name):
    return {row["subject_id"]: row["value"] for row in made.labels.to_pylist() if row["name"] == name}


def splits(made):
    return {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}


@pytest.fixture
def root(tmp_path):
    return write_camus(tmp_path / "root")


@pytest.fixture
def nifti(root):
    return root / "CAMUS_public" / "database_nifti"


def test_a_patient_has_one_study_of_two_views(root, tmp_path):
    made = index(root, tmp_path / "cat", scan_headers=True)
    rows = [row for row in made.clips.to_pylist() if row["subject_id"] == "patient0002"]
    assert [(row["clip_id"], row["view"], row["num_frames"], row["study_id"]) for row in rows] == [
        ("patient0002_2CH", "A2C", 4, "patient0002"),
        ("patient0002_4CH", "A4C", 4, "patient0002"),
    ]
    assert rows[0]["path"].endswith("database_nifti/patient0002/patient0002_2CH_half_sequence.nii.gz")
    assert {row["kind"] for row in rows} == {"b_mode"}
    assert made.meta["headers"]["transfer_syntax"] == {"nifti": 10}


def test_the_split_files_decide_whatever_the_numbers_say(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert splits(made) == {
        "patient0001": "train",
        "patient0002": "test",
        "patient0401": "val",
        "patient0451": "train",
        "patient0452": "none",
    }
    assert defects(made)["splits", "split_missing"] == 1


def test_without_split_files_the_stated_fallback_is_by_number(nifti, tmp_path):
    made = index(nifti, tmp_path / "cat")
    assert splits(made) == {
        "patient0001": "train",
        "patient0002": "train",
        "patient0401": "val",
        "patient0451": "test",
        "patient0452": "test",
    }
    assert defects(made)["splits", "not_official"] == 5
    assert any("subgroup_training.txt" in what for what in made.meta["missing"])


def test_a_patient_in_two_lists_and_half_of_the_lists_are_refused(root, tmp_path):
    lists = root / "CAMUS_public" / "database_split"
    write_lines(lists / "subgroup_testing.txt", ["patient0002", "patient0001"])
    with pytest.raises(UserError, match=r"subgroup_testing.txt: patient #\w{8} is also in the train list; that leaks"):
        index(root, tmp_path / "cat")
    (lists / "subgroup_testing.txt").unlink()
    with pytest.raises(UserError, match=r"subgroup_testing\.txt is missing"):
        index(root, tmp_path / "cat")


def test_labels_of_the_new_release(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert labels(made, "lvef")["patient0002"] == 38.0
    assert labels(made, "age_years")["patient0001"] == 56.0
    assert labels(made, "edv_ml") == {}
    for view in ("2CH", "4CH"):
        quality = labels(made, f"camus.image_quality.{view}")
        assert (quality["patient0001"], quality["patient0451"], quality["patient0002"]) == (2.0, 1.0, 0.0)
    sexes = {row["subject_id"]: row["sex"] for row in made.subjects.to_pylist()}
    assert (sexes["patient0001"], sexes["patient0401"]) == ("female", "male")


def test_the_older_release_has_volumes_and_its_testing_folder_other_patients(tmp_path):
    for name in ("training", "testing"):
        folder = tmp_path / name
        place = write_patient(folder, 1, OLD_CFG)
        for view in ("2CH", "4CH"):
            (place / f"patient0001_{view}_half_sequence.nii.gz").unlink()
            (place / f"patient0001_{view}_sequence.mhd").write_text("ObjectType = Image\n")
    made = index(tmp_path / "training", tmp_path / "one")
    assert (labels(made, "lvef"), labels(made, "edv_ml"), labels(made, "esv_ml")) == (
        {"patient0001": 51.1},
        {"patient0001": 94.3},
        {"patient0001": 46.1},
    )
    assert made.clips["path"].to_pylist()[0] == "patient0001/patient0001_2CH_sequence.mhd"
    assert splits(index(tmp_path / "testing", tmp_path / "two")) == {"testing-patient0001": "test"}
    with pytest.raises(UserError, match="two candidates for the part 'patients'"):
        index(tmp_path, tmp_path / "three")


@pytest.mark.parametrize(
    ("more", "code"),
    [({"EF": 540}, "out_of_range"), ({"EF": "54,0"}, "not_a_number")],
)
def test_values_that_are_none_are_counted_and_left_out(nifti, tmp_path, more, code):
    write_patient(nifti, 1, NEW_CFG, **more)
    made = index(nifti, tmp_path / "cat")
    assert defects(made)["labels", code] >= 1
    assert "patient0001" not in labels(made, "lvef")


def test_views_that_disagree_have_no_label(nifti, tmp_path):
    path = nifti / "patient0001" / "Info_4CH.cfg"
    path.write_text(path.read_text().replace("EF: 54", "EF: 45").replace("Sex: F", "Sex: M"))
    made = index(nifti, tmp_path / "cat")
    assert defects(made)["labels", "views_disagree"] == 1
    assert defects(made)["subjects", "sex_differs"] == 1
    assert "patient0001" not in labels(made, "lvef")


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 100, b"EF: 54\n", b"x" * 70000])
def test_a_damaged_cfg_is_a_defect_and_the_other_view_still_speaks(nifti, tmp_path, content):
    (nifti / "patient0001" / "Info_4CH.cfg").write_bytes(content)
    made = index(nifti, tmp_path / "cat")
    assert defects(made)["Info_4CH.cfg", "damaged_header"] == 1
    assert labels(made, "lvef")["patient0001"] == 54.0


def test_without_sequences_the_root_is_refused_and_one_missing_is_counted(nifti, tmp_path):
    (nifti / "patient0001" / "patient0001_4CH_half_sequence.nii.gz").unlink()
    shutil.rmtree(nifti / "patient0452")
    assert defects(index(nifti, tmp_path / "cat"))["clips", "missing_file"] == 1
    for path in nifti.rglob("*_half_sequence.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match="fetch the sequences, not only the ED and ES frames"):
        index(nifti, tmp_path / "cat")


def test_a_damaged_clip_has_no_frames_when_headers_are_read(nifti, tmp_path):
    path = nifti / "patient0001" / "patient0001_4CH_half_sequence.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    made = index(nifti, tmp_path / "cat", scan_headers=True)
    clip = next(row for row in made.clips.to_pylist() if row["clip_id"] == "patient0001_4CH")
    assert (clip["kind"], clip["num_frames"]) == (None, 0)
