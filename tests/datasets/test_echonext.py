"""EchoNext: rows of arrays, splits that do not leak, flags that were measured; trees in the published layout."""

import shutil

import numpy as np
import pytest
from echonext_tree import COLUMNS, ECGS, NAMES, VALVES, row, write_echonext, write_table

from ecgecho import pairs
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import echonext
from ecgecho.io import read_ecg
from ecgecho.simulate import simulate
from ecgecho.types import STANDARD_LEADS, UserError

TABLE = "echonext_metadata_100k.csv"


@pytest.fixture
def root(tmp_path):
    return write_echonext(tmp_path / "echonext" / "1.1.0")


def index(root, out, **settings):
    return echonext.build(echonext.Config(**settings)).index(root, out, options=IndexOptions(workers=0))


def key_of(ecg_id):
    assert ecg_id.startswith("echonext-")
    return ecg_id.removeprefix("echonext-")


def labels(made):
    return {(key_of(one["ecg_id"]), one["name"]): one["value"] for one in made.labels.to_pylist()}


def defects(made):
    found = {}
    for one in made.defects.to_pylist():
        found[one["item"], one["code"]] = found.get((one["item"], one["code"]), 0) + one["count"]
    return found


def rows_of(changes=(), ecgs=ECGS):
    made = [row(*ecg) for ecg in ecgs]
    for key, values in changes:
        next(one for one in made if one["ecg_key"] == key).update(values)
    return made


def test_an_ecg_is_the_row_of_its_split_in_the_order_of_the_table(root, tmp_path):
    made = index(root, tmp_path / "cat")
    found = {key_of(one["ecg_id"]): one for one in made.ecgs.to_pylist()}
    assert {key: (one["path"], one["row"]) for key, one in found.items()} == {
        "e10": (NAMES["train"], 0),
        "e11": (NAMES["train"], 1),
        "e40": (NAMES["train"], 2),
        "e20": (NAMES["val"], 0),
        "e30": (NAMES["test"], 0),
    }
    for one in found.values():
        array = np.load(made.file(one["path"]), mmap_mode="r")
        assert array[one["row"], 0, 0, 0] == float(key_of(one["ecg_id"])[1:]) / 10
        record = read_ecg(made.file(one["path"]), made.ecg_sources(made.ecgs)[one["ecg_id"]])
        assert (record.unit, record.fs_hz, record.signal.shape, record.leads) == ("zscore", 250, (12, 2500), STANDARD_LEADS)
        np.testing.assert_allclose(record.signal, np.broadcast_to(array[one["row"], 0].T, (12, 2500)), rtol=1e-6)
        assert (one["fs_hz"], one["unit"], one["leads"]) == (250.0, "zscore", ",".join(STANDARD_LEADS))
        assert one["time"] is None
    assert made.ecg_sources(made.ecgs)["echonext-e11"].row == 1


def test_splits_are_the_publishers_and_earlier_ecgs_of_test_patients_are_in_none(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert {key_of(one["ecg_id"]): one["split"] for one in made.pairs.to_pylist()} == {
        "e10": "train", "e11": "train", "e40": "train", "e20": "val", "e30": "test",
    }  # fmt: skip
    assert defects(made)["ecgs", "no_split"] == 2
    kept = index(root, tmp_path / "kept", no_split="none")
    split = {key_of(one["ecg_id"]): (one["subject_id"], one["split"]) for one in kept.pairs.to_pylist()}
    assert split["e31"] == split["e32"] == ("3.earlier", "none")
    assert split["e30"] == ("3", "test")
    assert {key: at for key, at in split.items() if at[1] != "none"} == {
        key_of(one["ecg_id"]): (one["subject_id"], one["split"]) for one in made.pairs.to_pylist()
    }


def test_a_flag_is_a_label_only_where_its_value_was_measured(root, tmp_path):
    found = labels(index(root, tmp_path / "cat"))
    of = {
        key: {name.removeprefix("echonext."): value for (ecg, name), value in found.items() if ecg == key}
        for key in ("e11", "e30")
    }
    assert set(of["e11"]) == {"shd", "age_years", "ventricular_rate"}
    assert of["e11"]["shd"] == 0
    assert not {"pasp_gte_45", "pasp_mmhg", "lvwt_gte_13", "aortic_stenosis", "aortic_stenosis_moderate_or_greater"} & set(
        of["e30"]
    )
    assert of["e30"]["mitral_regurgitation_moderate_or_greater"] == of["e30"]["mitral_regurgitation"] == 0
    assert of["e30"]["wall_mm"] == 9
    assert {name: found["e20", name] for name in ("lvef", "wall_mm", "echonext.lvef_lte_45", "echonext.lvwt_gte_13")} == {
        "lvef": 45, "wall_mm": 17, "echonext.lvef_lte_45": 1, "echonext.lvwt_gte_13": 1,
    }  # fmt: skip
    assert found["e40", "echonext.aortic_stenosis"] == 3
    assert found["e40", "echonext.aortic_stenosis_moderate_or_greater"] == found["e40", "echonext.shd"] == 1
    assert found["e10", "echonext.shd"] == found["e10", "echonext.tr_max_gte_32"] == 0


def test_the_definition_tells_composites_without_any_value(root, tmp_path):
    made = index(root, tmp_path / "cat")
    said = {key_of(one["ecg_id"]): one["definition"] for one in made.labels_named("echonext.shd").to_pylist()}
    assert "no value is given" in said["e11"]
    assert all("no value" not in said[key] for key in ("e10", "e20", "e30", "e40"))
    walls = {key_of(one["ecg_id"]): one["definition"] for one in made.labels_named("wall_mm").to_pylist()}
    assert walls["e30"] == "ivs_measurement alone, cm to mm"
    assert walls["e10"] == "max(ivs_measurement, lvpw_measurement), cm to mm"


def test_labels_reach_their_ecg_without_any_time(root, tmp_path):
    made = index(root, tmp_path / "cat")
    values = pairs.label_values(made, [f"echonext-{key}" for key in ("e20", "e11", "e10")], "lvef")
    np.testing.assert_array_equal(values, [45, np.nan, 60])


@pytest.mark.parametrize(
    ("value", "flag", "kept"),
    [("45", "1", True), ("45", "0", False), ("46", "1", False), ("0.45", "1", False), ("450", "0", False), ("", "1", False)],
)
def test_a_flag_that_its_value_contradicts_and_values_out_of_range_are_no_labels(root, tmp_path, value, flag, kept):
    write_table(root / TABLE, rows_of([("e20", {"lvef_value": value, "lvef_lte_45_flag": flag})]))
    made = index(root, tmp_path / "cat")
    assert (("e20", "echonext.lvef_lte_45") in labels(made)) == kept
    codes = {code for item, code in defects(made) if item == "metadata"}
    assert kept or codes & {"flag_contradicts_value", "out_of_range", "flag_without_value"}


def test_an_unknown_word_is_counted_and_no_grade(root, tmp_path):
    write_table(root / TABLE, rows_of([("e10", {"mitral_regurgitation_value": "mild-moderate", "lvwt_gte_13_flag": "2"})]))
    made = index(root, tmp_path / "cat")
    assert ("e10", "echonext.mitral_regurgitation") not in labels(made)
    assert defects(made)["metadata", "unknown_word"] == 1
    assert defects(made)["metadata", "not_a_flag"] == 1
    assert defects(made)["metadata", "presumed_none"] == 1


def test_every_word_of_a_grade_has_its_number(root, tmp_path):
    words = {"e10": ("mild", "mildly_reduced", "trace"), "e40": ("moderate", "moderately_reduced", "large")}
    columns = ("tricuspid_regurgitation_value", "rv_systolic_function_value", "pericardial_effusion_value")
    write_table(root / TABLE, rows_of((key, dict(zip(columns, said, strict=True))) for key, said in words.items()))
    found = labels(index(root, tmp_path / "cat"))
    names = [f"echonext.{name.removesuffix('_value')}" for name in columns]
    assert [found["e10", name] for name in names] == [1, 1, 1]
    assert [found["e40", name] for name in names] == [2, 2, 4]
    assert [found["e20", name] for name in names] == [0, 0, 0]
    assert found["e20", "echonext.aortic_stenosis"] == 3
    assert ("e40", "echonext.rv_systolic_dysfunction_moderate_or_greater") not in found  # its flag says 0


def test_a_name_in_capitals_and_other_column_orders_are_the_same(root, tmp_path):
    before = index(root, tmp_path / "cat")
    (root / TABLE).unlink()
    write_table(root / "EchoNext_metadata_100k.csv", rows_of(), columns=COLUMNS[::-1])
    after = index(root, tmp_path / "cat2")
    assert labels(before) == labels(after)
    assert before.ecgs.equals(after.ecgs)


def test_a_version_without_keys_has_rows_as_ids(root, tmp_path):
    rows = [{name: one[name] for name in COLUMNS[1:]} for one in rows_of()]
    write_table(root / TABLE, rows, columns=COLUMNS[1:])
    assert sorted(map(key_of, index(root, tmp_path / "cat").ecgs["ecg_id"].to_pylist())) == [
        "test.0",
        "train.0",
        "train.1",
        "train.2",
        "val.0",
    ]


def test_half_a_download_leaves_its_ecgs_out_until_the_rest_is_there(root, tmp_path):
    (root / NAMES["train"]).rename(tmp_path / "later.npy")
    made = index(root, tmp_path / "cat")
    assert sorted(map(key_of, made.ecgs["ecg_id"].to_pylist())) == ["e20", "e30"]
    assert defects(made)["ecgs", "no_waveforms"] == 3
    assert any(what.startswith("train:") for what in made.meta["missing"])
    shutil.move(tmp_path / "later.npy", root / NAMES["train"])
    assert index(root, tmp_path / "cat").ecgs.num_rows == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"junk" + data,
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data.replace(b"2500", b"2499"),
        lambda data: data.replace(b"'<f8'", b"'|O8'"),
        lambda data: data.replace(b"False", b"True "),
        lambda data: data.replace(b"(3, 1, 2500, 12)", b"(9999999999, 12)"),
    ],
)
def test_a_damaged_array_leaves_only_its_own_ecgs_out(root, tmp_path, damage):
    path = root / NAMES["train"]
    path.write_bytes(damage(path.read_bytes()))
    made = index(root, tmp_path / "cat")
    assert sorted(map(key_of, made.ecgs["ecg_id"].to_pylist())) == ["e20", "e30"]
    assert defects(made)["ecgs", "no_waveforms"] == 3
    assert any(item == "waveforms" for item, _ in defects(made))


def test_an_array_of_another_version_than_the_table_is_refused(root, tmp_path):
    np.save(root / NAMES["train"], np.zeros((4, 1, 2500, 12), np.float32))
    with pytest.raises(UserError, match=r"holds 4 ECGs.*lists 3 with split train"):
        index(root, tmp_path / "cat")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("e11", {"patient_key": "2"})], "in 'val' and in 'train'|in 'train' and in 'val'"),
        ([("e11", {"split": "training"})], "split is 'training' in data row 3"),
        ([("e11", {"ecg_key": "e10"})], "stands twice"),
        ([("e11", {"patient_key": ""})], "'patient_key' is empty in data row 3"),
    ],
)
def test_a_table_that_leaks_or_cannot_be_trusted_is_refused(root, tmp_path, changes, words):
    write_table(root / TABLE, rows_of(changes))
    with pytest.raises(UserError, match=words):
        index(root, tmp_path / "cat")


def test_a_renamed_column_is_named_with_a_near_miss(root, tmp_path):
    columns = ["lvef_percent" if name == "lvef_value" else name for name in COLUMNS]
    write_table(
        root / TABLE, [{("lvef_percent" if k == "lvef_value" else k): v for k, v in one.items()} for one in rows_of()], columns
    )
    with pytest.raises(UserError, match="no column 'lvef_value'"):
        index(root, tmp_path / "cat")


def test_tables_alone_and_another_root_are_refused_with_what_is_wanted(root, tmp_path):
    for path in root.glob("*.npy"):
        path.unlink()
    with pytest.raises(UserError, match="waveforms.npy is there"):
        index(root, tmp_path / "cat")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is not echonext: there is no echonext_metadata_100k.csv"):
        index(tmp_path / "other", tmp_path / "cat")


def test_a_person_of_two_sexes_has_none(root, tmp_path):
    write_table(root / TABLE, rows_of([("e11", {"sex": "female"}), ("e20", {"sex": "?"})]))
    made = index(root, tmp_path / "cat")
    sexes = dict(zip(made.subjects["subject_id"].to_pylist(), made.subjects["sex"].to_pylist(), strict=True))
    assert sexes == {"1": None, "2": None, "3": "female", "4": "female"}


def test_the_simulated_layout_is_read_and_its_flags_agree_with_its_values(tmp_path):
    simulate(tmp_path / "sim", layout="echonext", subjects=12, seed=5, workers=1, ecgs_per_subject=2)
    made = index(tmp_path / "sim", tmp_path / "cat", no_split="none")
    assert made.ecgs.num_rows == 24
    found = defects(made)
    assert not {code for _, code in found} & {"flag_contradicts_value", "flag_without_value", "unknown_word", "out_of_range"}
    path = tmp_path / "sim" / NAMES["train"]
    array = np.load(path)
    array[1:] = array[1:][..., [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    np.save(path, array)
    with pytest.raises(UserError, match=r"do not obey Einthoven and Goldberger"):
        index(tmp_path / "sim", tmp_path / "cat2", no_split="none")
    assert set(VALVES) <= {name.removeprefix("echonext.") for _, name in labels(made)} | {"pulmonary_regurgitation"}
