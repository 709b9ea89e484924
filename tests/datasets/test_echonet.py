"""The three EchoNet sets, each on a small tree in its published layout."""

import shutil

import pytest
from echo_trees import (
    DYNAMIC,
    LVH,
    PATIENTS,
    PEDIATRIC,
    fold_of,
    pediatric_row,
    write_camus,
    write_dynamic,
    write_lines,
    write_lvh,
    write_pediatric,
)

from ecgecho import plugins
from ecgecho.catalog import IndexOptions
from ecgecho.types import UsageError, UserError

WRITE = {"echonet_dynamic": write_dynamic, "echonet_lvh": write_lvh, "echonet_pediatric": write_pediatric, "camus": write_camus}
TABLE = {
    "echonet_dynamic": "EchoNet-Dynamic/FileList.csv",
    "echonet_lvh": "MeasurementsList.csv",
    "echonet_pediatric": "pediatric_echo_avi/pediatric_echo_avi/A4C/FileList.csv",
}


def index(name, root, out, **settings):
    module = plugins.load("datasets", name)
    return module.build(module.Config(**settings)).index(root, out, options=IndexOptions(workers=0))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def labels(made, name):
    return {row["study_id"]: row["value"] for row in made.labels.to_pylist() if row["name"] == name}


def splits(made):
    return {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}


@pytest.fixture
def dynamic(tmp_path):
    return write_dynamic(tmp_path / "root")


@pytest.fixture
def lvh(tmp_path):
    return write_lvh(tmp_path / "root")


@pytest.fixture
def pediatric(tmp_path):
    return write_pediatric(tmp_path / "root")


def test_dynamic_has_its_table_s_splits_frames_and_labels(dynamic, tmp_path):
    made = index("echonet_dynamic", dynamic, tmp_path / "cat")
    for line in DYNAMIC[1:]:
        name, ef, esv, edv, _, _, _, frames, split = line.split(",")
        clip = next(row for row in made.clips.to_pylist() if row["clip_id"] == name)
        assert (clip["view"], clip["kind"], clip["num_frames"]) == ("A4C", "b_mode", int(frames))
        assert made.file(clip["path"]).is_file()
        assert splits(made)[name] == split.lower()
        assert [labels(made, label)[name] for label in ("lvef", "esv_ml", "edv_ml")] == [float(ef), float(esv), float(edv)]
    units = {(row["name"], row["unit"]) for row in made.labels.to_pylist()}
    assert units == {("lvef", "%"), ("esv_ml", "mL"), ("edv_ml", "mL")}


def test_videos_may_lie_behind_a_link_even_one_that_leads_into_itself(dynamic, tmp_path):
    videos = dynamic / "EchoNet-Dynamic" / "Videos"
    videos.rename(tmp_path / "elsewhere")
    videos.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    made = index("echonet_dynamic", dynamic, tmp_path / "cat")
    assert made.clips.num_rows == 4
    assert ("clips", "file_twice") not in defects(made)


def test_dynamic_counts_what_the_tracings_lack(dynamic, tmp_path):
    found = defects(index("echonet_dynamic", dynamic, tmp_path / "cat"))
    assert found["tracings", "not_traced"] == 1
    assert found["tracings", "traced_frames"] == 1


@pytest.mark.parametrize(
    ("old", "new", "code", "kept"),
    [
        ("59.10198799", "40.0", "ef_volumes_disagree", (40.0, 40.38387597, 98.74288406)),
        ("59.10198799", "591.0198799", "out_of_range", (None, 40.38387597, 98.74288406)),
        ("59.10198799", "n/a", "not_a_number", (None, 40.38387597, 98.74288406)),
        ("40.38387597,98.74288406", "98.74288406,40.38387597", "esv_above_edv", (59.10198799, None, None)),
        ("98.74288406", "98742.88406", "out_of_range", (59.10198799, 40.38387597, None)),
    ],
)
def test_dynamic_says_which_values_it_does_not_believe(dynamic, tmp_path, old, new, code, kept):
    write_lines(dynamic / TABLE["echonet_dynamic"], [line.replace(old, new) for line in DYNAMIC])
    made = index("echonet_dynamic", dynamic, tmp_path / "cat")
    assert defects(made)["list", code] == 1
    name = DYNAMIC[2].split(",")[0]
    assert tuple(labels(made, label).get(name) for label in ("lvef", "esv_ml", "edv_ml")) == kept


def test_headers_are_held_against_the_table_when_asked(dynamic, tmp_path):
    write_lines(dynamic / TABLE["echonet_dynamic"], [*DYNAMIC[:-1], DYNAMIC[-1].replace(",4,TEST", ",40,TEST")])
    video = dynamic / "EchoNet-Dynamic" / "Videos" / f"{DYNAMIC[1].split(',')[0]}.avi"
    video.write_bytes(video.read_bytes()[:200])
    believed = index("echonet_dynamic", dynamic, tmp_path / "cat")
    assert sorted(believed.clips["num_frames"].to_pylist()) == [4, 4, 4, 40]
    assert "headers" not in believed.meta
    made = index("echonet_dynamic", dynamic, tmp_path / "cat", scan_headers=True)
    assert defects(made)["clips", "frame_count_differs"] == 1
    assert sorted(made.clips["num_frames"].to_pylist()) == [0, 4, 4, 4]
    assert made.clips["kind"].null_count == 1  # the cut one, by its reason
    assert made.meta["headers"]["transfer_syntax"] == {"avi": 3}
    assert made.meta["headers"]["frame_time_source"] == {"container": 3}


def test_lvh_makes_one_row_a_video_of_its_calipers(lvh, tmp_path):
    made = index("echonet_lvh", lvh, tmp_path / "cat")
    first, second, third = sorted({line.split(",")[1] for line in LVH[1:]})
    assert {row["clip_id"]: (row["view"], row["num_frames"], row["path"].split("/")[0]) for row in made.clips.to_pylist()} == {
        first: ("PLAX", 4, "Batch1"),
        second: ("PLAX", 4, "Batch2"),
        third: ("PLAX", 4, "Batch3"),
    }
    assert splits(made) == {first: "train", second: "val", third: "test"}
    assert labels(made, "ivsd_mm") == {first: 9.1, second: 16.5, third: 10.0}  # the mean of 1.6 and 1.7 cm
    assert labels(made, "lvpwd_mm") == {first: 11.3, second: 12.0}
    assert labels(made, "lvedd_mm") == {first: 48.6, third: 56.0}
    assert labels(made, "wall_mm") == {first: 11.3, second: 16.5}  # the third has one wall only
    assert {row["unit"] for row in made.labels.to_pylist()} == {"mm"}
    assert defects(made)["calipers", "several_calipers"] == 1
    assert defects(made)["calipers", "one_wall"] == 1


def test_lvh_leaves_out_a_wall_that_is_none_and_refuses_a_table_in_mm(lvh, tmp_path):
    write_lines(lvh / TABLE["echonet_lvh"], [line.replace(",0.91,", ",9.1,") for line in LVH])
    made = index("echonet_lvh", lvh, tmp_path / "cat")
    assert defects(made)["calipers", "out_of_range"] == 1
    assert len(labels(made, "ivsd_mm")) == 2
    write_lines(lvh / TABLE["echonet_lvh"], [line.replace(",4.86,", ",48.6,").replace(",5.60,", ",56.0,") for line in LVH])
    with pytest.raises(UserError, match="median of LVIDd is .* no diameter in cm"):
        index("echonet_lvh", lvh, tmp_path / "cat")


def test_lvh_refuses_a_video_in_two_splits(lvh, tmp_path):
    write_lines(lvh / TABLE["echonet_lvh"], [*LVH[:-1], LVH[-1].replace(",test", ",train")])
    with pytest.raises(UserError, match=r"subject #[0-9a-f]{8} is in 't\w+' and in 't\w+'; that leaks"):
        index("echonet_lvh", lvh, tmp_path / "cat")


def test_pediatric_knows_patient_and_study_by_the_name_over_both_views(pediatric, tmp_path):
    made = index("echonet_pediatric", pediatric, tmp_path / "cat")
    assert set(splits(made)) == set(PATIENTS)
    of_first = [row for row in made.clips.to_pylist() if row["subject_id"] == PATIENTS[0]]
    assert {(row["study_id"], row["view"]) for row in of_first} == {
        (f"{PATIENTS[0]}-CR32a7582", "A4C"),
        (f"{PATIENTS[0]}-CR32a7582", "PSAX"),
        (f"{PATIENTS[0]}-CR32a7600", "PSAX"),
    }
    assert labels(made, "lvef") == {
        **{f"{patient}-CR32a7582": 61.2 for patient in PATIENTS},
        f"{PATIENTS[0]}-CR32a7600": 48.0,
    }
    sexes = {row["subject_id"]: row["sex"] for row in made.subjects.to_pylist()}
    assert sexes == {**dict.fromkeys(PATIENTS, "female"), PATIENTS[1]: None}  # F in one view, M in the other
    assert defects(made)["clips", "frame_rate_unreliable"] == 7
    assert defects(made)["A4C tracings", "no_systolic"] == 4


def test_pediatric_folds_make_the_splits_that_the_settings_say(pediatric, tmp_path):
    made = index("echonet_pediatric", pediatric, tmp_path / "cat")
    standard = {**dict.fromkeys(range(8), "train"), 8: "val", 9: "test"}
    assert splits(made) == {patient: standard[fold_of(patient)] for patient in PATIENTS}
    one = fold_of(PATIENTS[0])
    others = tuple(n for n in range(10) if n != one)
    made = index("echonet_pediatric", pediatric, tmp_path / "cat", train=others[:4], val=others[4:5], test=(one,))
    other = {**dict.fromkeys(others[:4], "train"), others[4]: "val", one: "test"}
    assert splits(made) == {patient: other.get(fold_of(patient), "none") for patient in PATIENTS}


def test_pediatric_settings_that_leak_or_name_no_fold_are_refused():
    config = plugins.load("datasets", "echonet_pediatric").Config
    with pytest.raises(UsageError, match="stands twice"):
        config(train=(0, 8))
    with pytest.raises(UsageError, match="0 to 9"):
        config(test=(10,))


def test_pediatric_refuses_a_patient_in_two_folds_and_counts_folds_that_are_not_the_hash(pediatric, tmp_path):
    moved = [pediatric_row(patient, 39)[:-1] + str((fold_of(patient) + 1) % 10) for patient in PATIENTS]
    table = pediatric / TABLE["echonet_pediatric"]
    write_lines(table, [PEDIATRIC["A4C"][0], *moved])
    shutil.rmtree(table.parent.parent / "PSAX")
    assert defects(index("echonet_pediatric", pediatric, tmp_path / "cat"))["clips", "fold_not_of_name"] == 4
    wrong = pediatric_row(PATIENTS[0], 40)[:-1] + ("9" if fold_of(PATIENTS[0]) != 9 else "0")
    write_lines(table, [*PEDIATRIC["A4C"], wrong])
    (table.parent / "Videos" / f"{PATIENTS[0]}-CR32a7582-000040.avi").write_bytes(b"x")
    with pytest.raises(UserError, match=r"subject #[0-9a-f]{8} is in .* that leaks"):
        index("echonet_pediatric", pediatric, tmp_path / "cat")


def test_pediatric_studies_whose_rows_disagree_have_no_label(pediatric, tmp_path):
    rows = [PEDIATRIC["A4C"][0], pediatric_row(PATIENTS[0], 39, ef="30.1"), *PEDIATRIC["A4C"][2:]]
    write_lines(pediatric / TABLE["echonet_pediatric"], rows)
    made = index("echonet_pediatric", pediatric, tmp_path / "cat")
    assert defects(made)["studies", "ef_differs"] == 1
    assert f"{PATIENTS[0]}-CR32a7582" not in labels(made, "lvef")


def test_a_name_of_another_form_is_a_subject_of_its_own(pediatric, tmp_path):
    table = pediatric / TABLE["echonet_pediatric"]
    write_lines(table, [*PEDIATRIC["A4C"], "odd.avi,55,F,1,1,1,3"])
    shutil.copy(next((table.parent / "Videos").iterdir()), table.parent / "Videos" / "odd.avi")
    made = index("echonet_pediatric", pediatric, tmp_path / "cat")
    assert defects(made)["clips", "name_unusual"] == 1
    assert splits(made)["odd"] == "train"


@pytest.mark.parametrize("name", TABLE)
def test_half_a_download_is_counted_and_none_of_it_is_refused(name, tmp_path):
    root = WRITE[name](tmp_path / "root")
    videos = sorted(root.rglob("*.avi"))
    whole = index(name, root, tmp_path / "cat").clips.num_rows
    videos[0].unlink()
    made = index(name, root, tmp_path / "cat")
    assert not made.unchanged
    assert defects(made)["clips", "missing_file"] == 1
    assert made.clips.num_rows == whole - 1
    for video in videos[1:]:
        video.unlink()
    with pytest.raises(UserError, match=r"not one of the \d videos .* is there; unpack them"):
        index(name, root, tmp_path / "cat")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("echonet_dynamic", "ESV", "EndSystolicVol"),
        ("echonet_lvh", "CalcValue", "CalcVal"),
        ("echonet_pediatric", "Split", "Splits"),
    ],
)
def test_a_renamed_column_is_named_with_what_is_there(name, old, new, tmp_path):
    root = WRITE[name](tmp_path / "root")
    path = root / TABLE[name]
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=rf"has no column '{old}'\..*{new}"):
        index(name, root, tmp_path / "cat")


@pytest.mark.parametrize(("name", "split"), [("echonet_dynamic", ",TEST"), ("echonet_lvh", ",test")])
def test_an_unknown_split_is_refused_with_its_row(name, split, tmp_path):
    root = WRITE[name](tmp_path / "root")
    path = root / TABLE[name]
    path.write_text(path.read_text().replace(split, ",holdout"))
    with pytest.raises(UserError, match="is 'holdout' in data row [34578]; it must be one of train, val, test"):
        index(name, root, tmp_path / "cat")


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("damage", ["cut", "bytes", "empty"])
def test_a_damaged_table_is_refused_by_its_name(name, damage, tmp_path):
    root = WRITE[name](tmp_path / "root")
    path = root / TABLE[name]
    data = path.read_bytes()
    path.write_bytes({"cut": data[: -len(data.splitlines()[-1]) // 2], "bytes": data[:-9] + b"\xff\xfe\n", "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"{path.name} (cannot be read|is empty)"):
        index(name, root, tmp_path / "cat")


def test_two_rows_of_one_video_that_differ_are_refused(dynamic, tmp_path):
    write_lines(dynamic / TABLE["echonet_dynamic"], [*DYNAMIC, DYNAMIC[1].replace("VAL", "TEST")])
    with pytest.raises(UserError, match="stands twice with different 'Split'"):
        index("echonet_dynamic", dynamic, tmp_path / "cat")


def test_a_root_of_another_dataset_is_refused_by_its_name(tmp_path):
    for mine, write in WRITE.items():
        write(tmp_path / mine)
    for asked in WRITE:
        for given in set(WRITE) - {asked}:
            with pytest.raises(UserError, match=f"It looks like {given}: `ecgecho index {given}"):
                index(asked, tmp_path / given, tmp_path / "cat")
