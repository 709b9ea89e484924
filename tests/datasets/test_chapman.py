"""Chapman-Shaoxing-Ningbo -> a catalog; what is wrong in its headers is mended, counted or refused."""

import numpy as np
import pytest
from snomed_tree import samples_of, write_chapman, write_georgia, write_record

from ecgecho import pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.config import DataOptions
from ecgecho.data.examples import join
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, UsageError, UserError

chapman = plugins.load("datasets", "chapman")
INLINE = IndexOptions(workers=0)


def index(root, out=None, **settings):
    return chapman.build(chapman.Config(**settings)).index(root, out or root.parent / "catalog", options=INLINE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return index(write_chapman(tmp_path_factory.mktemp("chapman") / "root"))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def named(made, name):
    return {row["ecg_id"]: row["value"] for row in made.labels_named(name).to_pylist()}


def test_every_header_is_a_record_by_the_name_of_its_file(made):
    assert made.ecgs["ecg_id"].to_pylist() == [
        "JS00001", "JS00002", "JS00004", "JS00005", "JS00006", "JS23074", "JS23075", "JS23076",
    ]  # fmt: skip
    assert made.ecgs["path"].to_pylist()[0] == "WFDBRecords/01/010/JS00001"
    assert (made.dataset, made.family) == ("chapman", "cinc")


def test_two_lines_in_one_are_mended_and_a_line_that_is_lost_leaves_the_record_out(made):
    found = defects(made)
    assert found["headers", "header_line_fused"] == found["headers", "damaged_header"] == 1
    assert found["headers", "record_name_differs"] == 1


def test_the_files_it_lists_are_read_as_millivolts_with_leads_by_name(made):
    for row in made.ecgs.to_pylist():
        record = read_ecg(made.file(row["path"]))
        assert (record.leads, record.fs_hz, record.unit) == (STANDARD_LEADS, 500.0, "mv")
    record = read_ecg(made.file("WFDBRecords/01/010/JS00001"))
    np.testing.assert_allclose(record.signal, samples_of(1, 5000) / 1000, atol=1e-6)


def test_codes_are_whole_tokens_and_two_lists_name_them_each_its_way(made):
    assert named(made, "cinc2021.AF") == {"JS00001": 1, "JS00002": 0, "JS00004": 0, "JS00006": 0}
    assert named(made, "chapman.AFIB") == named(made, "cinc2021.AF")
    assert named(made, "chapman.AF") == named(made, "cinc2021.AFL") == {"JS00001": 0, "JS00002": 0, "JS00004": 1, "JS00006": 0}
    assert named(made, "chapman.LBBB+LBBBB")["JS00006"] == 1


def test_a_class_that_a_cohort_never_has_says_nothing_of_it(made):
    assert named(made, "cinc2021.PR") == {"JS23074": 0, "JS23075": 1, "JS23076": 0}
    assert set(named(made, "cinc2021.SB")) == {"JS00001", "JS00002", "JS00004", "JS00006", "JS23074", "JS23075", "JS23076"}
    assert not named(made, "cinc2021.PRWP")


def test_a_record_without_diagnoses_has_no_labels(made):
    assert defects(made)["labels", "dx_empty"] == 1
    names = {row["name"] for row in made.labels.to_pylist() if row["ecg_id"] == "JS00005"}
    assert names == {"age_years"}


def test_a_code_without_a_name_is_counted_by_itself(made):
    details = {row["detail"]: row["count"] for row in made.defects.to_pylist() if row["code"] == "code_unknown"}
    assert list(details.values()) == [1]
    assert "99999999999" in next(iter(details))


def test_ages_that_are_none_or_cannot_be_make_no_label(made):
    assert named(made, "age_years") == {
        "JS00001": 85, "JS00002": 59, "JS00005": 66, "JS23074": 40, "JS23075": 41, "JS23076": 42,
    }  # fmt: skip
    found = defects(made)
    assert (found["headers", "age_missing"], found["headers", "out_of_range"], found["headers", "sex_missing"]) == (1, 1, 1)


def test_copies_of_a_recording_are_one_subject(made):
    subject = dict(zip(made.ecgs["ecg_id"].to_pylist(), made.ecgs["subject_id"].to_pylist(), strict=True))
    assert subject["JS23076"] == subject["JS00002"] == "JS00002"
    assert len(set(subject.values())) == 7
    assert defects(made)["signals", "same_signal"] == 1
    sexes = {row["subject_id"]: row["sex"] for row in made.subjects.to_pylist()}
    assert (sexes["JS00001"], sexes["JS00002"], sexes["JS00004"]) == ("male", "female", None)


def test_recordings_that_are_flat_are_not_taken_for_copies(tmp_path):
    folder = tmp_path / "root" / "WFDBRecords" / "01" / "010"
    for name in ("JS00001", "JS00002"):
        path = write_record(folder, name)
        lines = path.read_text().splitlines()
        lines[1:13] = [" ".join([*line.split()[:5], "0", "0", *line.split()[7:]]) for line in lines[1:13]]
        path.write_text("\n".join(lines) + "\n")
    assert len(set(index(tmp_path / "root").ecgs["subject_id"].to_pylist())) == 2


def test_without_its_own_list_the_names_are_those_of_the_challenge(tmp_path):
    write_chapman(tmp_path / "root")
    (tmp_path / "root" / "ConditionNames_SNOMED-CT.csv").unlink()
    made = index(tmp_path / "root")
    assert {name.partition(".")[0] for name in made.meta["counts"]["label_names"]} == {"age_years", "cinc2021"}
    assert any(line.startswith("names: no labels") for line in made.meta["missing"])
    assert any("164873001" in (row["detail"] or "") for row in made.defects.to_pylist())


def test_a_table_of_the_challenge_in_the_root_goes_before_the_built_in_names(tmp_path):
    write_chapman(tmp_path / "root")
    columns = "Dx,SNOMEDCTCode,Abbreviation,CPSC,CPSC_Extra,StPetersburg,PTB,PTB_XL,Georgia,Chapman_Shaoxing,Ningbo,Total"
    (tmp_path / "root" / "dx_mapping_unscored.csv").write_text(
        f"{columns}\nleft ventricular hypertrophy,164873001,LVH,0,158,10,0,2359,1232,15,632,4406\n"
    )
    (tmp_path / "root" / "dx_mapping_scored.csv").write_text(
        f"{columns},Notes\natrial fibrillation,164889003,AFib,1221,153,2,15,1514,570,1780,0,5255,\n"
    )
    made = index(tmp_path / "root")
    assert named(made, "cinc2021.LVH") == {"JS00001": 0, "JS00002": 1, "JS00004": 0, "JS00006": 0}
    assert named(made, "cinc2021.AFib")["JS00001"] == 1
    assert not named(made, "cinc2021.AF")


def test_codes_that_the_challenge_scores_as_one_are_one_class(tmp_path):
    folder = tmp_path / "root" / "WFDBRecords" / "23" / "236"
    for number, code in enumerate(("733534002", "164909002", "713427006", "63593006", "17338001", "426783006")):
        write_record(folder, f"JS{20000 + number}", dx=code)
    made = index(tmp_path / "root")
    ones = {name: [k[-1] for k, v in named(made, f"cinc2021.{name}").items() if v] for name in ("LBBB", "RBBB", "PAC", "PVC")}
    assert ones == {"LBBB": ["0", "1"], "RBBB": ["2"], "PAC": ["3"], "PVC": ["4"]}
    assert not named(made, "cinc2021.CLBBB")


def test_a_word_among_the_codes_leaves_the_record_without_labels(tmp_path):
    folder = tmp_path / "root" / "WFDBRecords" / "01" / "010"
    write_record(folder, "JS00001", dx="426783006")
    write_record(folder, "JS00002", dx="426783006,Unknown")
    made = index(tmp_path / "root")
    assert named(made, "cinc2021.NSR") == {"JS00001": 1}
    assert defects(made)["labels", "dx_not_a_code"] == 1


def test_a_half_download_is_counted_and_found_again_when_it_is_whole(tmp_path):
    root = write_chapman(tmp_path / "root")
    mat = root / "WFDBRecords/01/010/JS00001.mat"
    content = mat.read_bytes()
    mat.unlink()
    made = index(root)
    assert "JS00001" not in made.ecgs["ecg_id"].to_pylist()
    assert defects(made)["signals", "missing_file"] == 1
    mat.write_bytes(content)
    again = index(root)
    assert not again.unchanged
    assert "JS00001" in again.ecgs["ecg_id"].to_pylist()
    assert index(root).unchanged


def challenge(root):
    """The same records as Challenge 2021 packs them, with its misnamed header."""
    write_record(root / "training" / "chapman_shaoxing" / "g1", "JS00001", dx="59118001,164889003,164934002", age="85")
    path = write_record(root / "training" / "ningbo" / "g13", "JS23074", first="S23074", age="40")
    path.rename(path.with_name("S23074.hea"))
    return root


def test_the_challenge_s_copy_has_the_same_records_subjects_and_splits(made, tmp_path):
    copy = index(challenge(tmp_path / "root"))
    assert copy.ecgs["ecg_id"].to_pylist() == ["JS00001", "JS23074"]
    assert read_ecg(copy.file(copy.ecgs["path"][1].as_py())).leads == STANDARD_LEADS
    assert pairs.check_together([made, copy]) == []
    splits = {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}
    assert all(splits[row["subject_id"]] == row["split"] for row in copy.subjects.to_pylist())


def test_two_copies_below_one_root_are_refused_by_record(tmp_path):
    challenge(write_chapman(tmp_path / "root"))
    with pytest.raises(UserError, match="the record JS00001 is there twice"):
        index(tmp_path / "root")


MERL_CLASSES = (
    "AQW,UW,SR,WPW,2AVB,AT,VB,ARS,STTC,SA,STE,VPB,TWO,STTU,ALS,APB,2AVB1,PRIE,CCR,CR,AF,AVB,QTIE,LBBB,VEB,SVT,RBBB,1AVB,STDD,MI,"
    "AFIB,TWC,PWC,ERV,RVH,LVH,ST,JEB"
)


def merl(root, **rows):
    """MERL's files as published: every age is 12, and a label is 1 where the joined diagnoses hold its letters."""
    for split in ("train", "val", "test"):
        lines = [f"ecg_path,age,diagnose,{MERL_CLASSES}"]
        for name, said in rows.get(split, {"JS99999": "SR"}).items():
            flags = ",".join(str(int(word in said)) for word in MERL_CLASSES.split(","))
            lines.append(f'/chapman/WFDBRecords/01/010/{name}.mat,12,"{said}",{flags}')
        (root / f"chapman_{split}.csv").write_text("\n".join(lines) + "\n")
    return root


SAID = {
    "train": {"JS00001": "AFIB,RBBB", "JS00002": "SB", "JS99999": "SR"},
    "val": {"JS00004": "AF"},
    "test": {"JS00006": "ST,LVQRSAL", "JS23076": "SB"},
}


def test_merl_s_split_is_taken_when_asked(tmp_path):
    root = merl(write_chapman(tmp_path / "root"), **SAID)
    made = index(root, split="merl")
    splits = {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}
    assert splits == {"JS00001": "train", "JS00004": "val", "JS00006": "test"}
    assert set(made.labels["subject_id"].to_pylist()) == set(splits) == set(made.ecgs["ecg_id"].to_pylist())
    found = defects(made)
    default = index(root)
    assert found["merl", "record_unknown"] == 1
    assert found["merl", "in_two_splits"] == 2  # JS00002 and its copy JS23076
    assert found["merl", "not_in_split"] == default.ecgs.num_rows - 2 - 3
    assert all(row["split"] == pairs.split_of("cinc", row["subject_id"]) for row in default.subjects.to_pylist())
    assert not named(default, "merl.AF")


def test_merl_s_classes_are_whole_words_unless_its_own_columns_are_asked_for(tmp_path):
    root = merl(write_chapman(tmp_path / "root"), **SAID)
    made = index(root, split="merl")
    assert named(made, "merl.AF") == {"JS00001": 0, "JS00004": 1, "JS00006": 0}
    assert named(made, "merl.SA")["JS00006"] == 0
    assert defects(made)["merl", "label_differs"] == 2
    as_is = index(root, split="merl", merl_labels="published")
    assert named(as_is, "merl.AF")["JS00001"] == named(as_is, "merl.SA")["JS00006"] == 1
    assert "wrong in 16.6 %" in as_is.labels_named("merl.AF")["definition"][0].as_py()
    assert sum(name.startswith("merl.") for name in made.meta["counts"]["label_names"]) == 38


def test_a_record_in_two_of_merl_s_files_is_left_out_and_one_twice_in_a_file_has_its_labels_once(tmp_path):
    root = merl(write_chapman(tmp_path / "root"), train={"JS00001": "AFIB", "JS00004": "AF"}, test={"JS00001": "AF"})
    made = index(root, split="merl")
    assert {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()} == {"JS00004": "train"}
    assert (defects(made)["merl", "row_twice"], defects(made)["merl", "in_two_splits"]) == (1, 1)
    path = root / "chapman_train.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("AF,", "SB,") + "\n")
    again = index(root, split="merl")
    assert again.labels_named("merl.AF")["value"].to_pylist() == [1]
    assert defects(again)["merl", "row_twice"] == 2


def test_a_catalog_of_merl_s_split_can_be_trained_on(tmp_path):
    made = index(merl(write_chapman(tmp_path / "root"), **SAID), split="merl")
    rows = {name: row for row, name in enumerate(made.ecgs["ecg_id"].to_pylist())}
    splits = join([made], rows, {}, DataOptions()).splits
    assert {name: len(of.ecg_id) for name, of in splits.items()} == {"train": 1, "val": 1, "test": 1}


def test_merl_s_files_of_other_records_are_refused(tmp_path):
    root = merl(write_chapman(tmp_path / "root"), train={"JS99999": "SR"})
    with pytest.raises(UserError, match=r"none of its records is in MERL's csv files"):
        index(root, split="merl")


def test_merl_s_files_that_are_not_there_or_differ_are_refused(tmp_path):
    root = write_chapman(tmp_path / "root")
    with pytest.raises(UserError, match=r"there is no chapman_train\.csv"):
        index(root, split="merl")
    merl(root, **SAID)
    path = root / "chapman_val.csv"
    path.write_text(path.read_text().replace(",JEB", ",JEBX"))
    with pytest.raises(UserError, match=r"chapman_val\.csv has other classes"):
        index(root, split="merl")
    path.write_text(path.read_text().replace(",JEBX", ",JEB").replace("diagnose", "diagnosis"))
    with pytest.raises(UserError):
        index(root, split="merl")
    with pytest.raises(UsageError, match="split is 'official'"):
        chapman.Config(split="official")
    with pytest.raises(UsageError, match="merl_labels is 'x'"):
        chapman.Config(merl_labels="x")


def test_another_dataset_s_root_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"is not chapman: .* It looks like (cpsc2018|georgia)"):
        index(write_georgia(tmp_path / "root"))


def test_a_list_of_names_with_a_column_renamed_is_refused(tmp_path):
    root = write_chapman(tmp_path / "root")
    table = root / "ConditionNames_SNOMED-CT.csv"
    table.write_text(table.read_text().replace("Snomed_CT", "Snomed"))
    with pytest.raises(UserError, match=r"has no column 'Snomed_CT'\. Did you mean 'Snomed'"):
        index(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.replace("JS00001 12 500 5000", "JS00001 twelve 500 5000"),
        lambda text: text.replace("500 5000", "0 5000"),
        lambda text: text.replace("12 500 5000", "12 500 99999999999999"),
        lambda text: "\n".join(text.splitlines()[:7]),
        lambda text: text.replace("#Dx: 4", "#Dx: " + "426783006," * 80 + "4"),
        lambda text: text + "#Dx: 164889003\n",
        lambda text: text + "#" + "x" * 70_000,
    ],
)
def test_a_damaged_header_costs_its_record_alone(tmp_path, change):
    folder = tmp_path / "root" / "WFDBRecords" / "01" / "010"
    path = write_record(folder, "JS00001")
    path.write_text(change(path.read_text()))
    write_record(folder, "JS00002")
    made = index(tmp_path / "root")
    assert made.ecgs["ecg_id"].to_pylist() == ["JS00002"]
    assert sum(row["count"] for row in made.defects.to_pylist() if row["detail"] == "cannot be read; left out") == 1
