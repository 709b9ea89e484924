"""MIMIC-IV in its published layout and with its quirks -> the catalog; what cannot be trusted is refused by file and column."""

import gzip
from datetime import datetime

import pytest
from folder_tree import write_dicom
from mimic_tree import ECHOS, MEASUREMENTS, PUBLISHED, RECORDS, changed, write_tree

from ecgecho import pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.types import UsageError, UserError

mimic = plugins.load("datasets", "mimic-iv")


def index(root, out=None, options=IndexOptions(workers=0), **settings):
    return mimic.build(mimic.Config(**settings)).index(root, out or root / "catalog", options=options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return index(write_tree(tmp_path_factory.mktemp("mimic")))


def defects(catalog):
    return {(row["item"], row["code"]): row["count"] for row in catalog.defects.to_pylist()}


def named(catalog, name):
    return {row["subject_id"]: row for row in catalog.labels_named(name).to_pylist()}


def test_ecgs_keep_ids_time_and_a_path_from_the_root(made):
    first = made.ecgs.to_pylist()[0]
    assert {name: value for name, value in first.items() if value is not None} == {
        "ecg_id": "40000001",
        "subject_id": "10000001",
        "path": "mimic-iv-ecg/1.0/files/p1000/p10000001/s40000001/40000001",
        "time": datetime(2150, 1, 10, 8),
        "admission_id": "20000001",
    }
    assert made.ecgs["time"].to_pylist()[3] is None
    assert defects(made)["ecg", "time_missing"] == 1


def test_clips_are_named_by_their_file(made):
    assert made.clips["clip_id"].to_pylist() == ["90000001_0001", "90000001_0002", "90000002_0001"]
    assert made.clips["path"].to_pylist()[0] == "mimic-iv-echo/1.0/files/p10/p10000001/s90000001/90000001_0001.dcm"
    assert made.clips["kind"].null_count == 3


def test_report_lines_are_joined_without_the_empty_ones(made):
    texts = {row["ecg_id"]: row["text"] for row in made.texts.to_pylist() if row["source"] == "machine_report"}
    assert texts == {"40000001": "Sinus rhythm. Possible LVH", "40000002": "Atrial fibrillation, rapid. Abnormal ECG"}
    assert defects(made)["ecg reports", "report_empty"] == 1
    assert defects(made)["ecg reports", "report_without_ecg"] == 1


def test_texts_stay_with_their_ecgs_when_a_report_in_the_middle_has_no_line(tmp_path):
    def change(lines):
        return [
            lines[0],
            lines[3].replace("10000002,40000003", "10000001,40000001"),
            lines[2],
            lines[1].replace("40000001", "40000005"),
        ]

    made = index(
        write_tree(
            tmp_path,
            {
                **changed("machine", change),
                "mimic-iv-ecg/1.0/record_list.csv": [*RECORDS, RECORDS[1].replace("40000001", "40000005")],
            },
        )
    )
    texts = {row["ecg_id"]: row["text"] for row in made.texts.to_pylist() if row["source"] == "machine_report"}
    assert texts == {"40000002": "Atrial fibrillation, rapid. Abnormal ECG", "40000005": "Sinus rhythm. Possible LVH"}


def test_notes_of_subjects_with_data_are_texts(made):
    notes = [row for row in made.texts.to_pylist() if row["source"] == "discharge"]
    assert [(n["text_id"], n["subject_id"], n["ecg_id"]) for n in notes] == [("10000001-DS-1", "10000001", None)]
    assert notes[0]["text"] == 'Name: ___\n\nTTE: EF "55%", no AS'
    assert defects(made)["notes", "subject_unknown"] == 1


def test_sentinels_are_no_measurements(made):
    assert {row["ecg_id"]: row["value"] for row in made.labels_named("rr_interval").to_pylist()} == {
        "40000001": 800.0,
        "40000003": 1000.0,
    }
    assert made.labels_named("p_axis")["value"].to_pylist() == [12.0]
    assert made.labels_named("p_onset")["value"].to_pylist() == [40.0]
    assert defects(made)["p_onset", "sentinel"] == 2
    assert defects(made)["p_axis", "sentinel"] == 2
    assert defects(made)["rr_interval", "sentinel"] == 1


def test_lvef_is_the_first_name_by_priority_and_says_which(made):
    found = named(made, "lvef")
    assert (found["10000001"]["value"], found["10000001"]["definition"]) == (55.0, "measurement lvef")
    assert (found["10000002"]["value"], found["10000002"]["definition"]) == (35.0, "measurement rest_lvef")
    assert (found["10000004"]["value"], found["10000004"]["definition"]) == (30.0, "measurement lvef_3d")  # 130 % cannot be
    assert found["10000002"]["source"] == "structured_measurement/stress"
    assert defects(made)["lvef", "out_of_range"] == 1


def test_the_priority_of_lvef_is_an_option(tmp_path):
    found = named(index(write_tree(tmp_path), lvef_priority=("biplane_lvef", "lvef")), "lvef")
    assert (found["10000001"]["value"], found["10000001"]["definition"]) == (52.0, "measurement biplane_lvef")
    assert set(found) == {"10000001"}


def test_lvef_at_stress_is_never_lvef(made):
    assert named(made, "stress_lvef")["10000002"]["value"] == 70.0
    assert defects(made)["stress_lvef", "not_at_rest"] == 1
    with pytest.raises(UsageError, match="stress_lvef"):
        mimic.Config(lvef_priority=("stress_lvef",))


def test_walls_are_in_mm_whatever_the_era_wrote(made):
    found = named(made, "wall_mm")
    assert (found["10000001"]["value"], found["10000001"]["definition"]) == (17.0, "max(septal_thickness, inf_lat_thickness)")
    assert (found["10000002"]["value"], found["10000002"]["definition"]) == (11.0, "septal_thickness alone")
    assert (found["10000004"]["value"], found["10000004"]["definition"]) == (16.0, "inf_lat_thickness alone")
    assert {row["unit"] for row in found.values()} == {"mm"}
    assert defects(made)["septal_thickness", "unit_drift"] == 1
    assert named(made, "tapse")["10000004"]["value"] == 21.0
    assert defects(made)["lengths", "unit_missing"] == 1


def test_the_diameter_of_the_ventricle_is_in_mm_whatever_the_era_wrote(tmp_path):
    def change(lines):
        at = "2150-01-12 11:00:00,tte,lvedd,LVEDD"
        return [
            *lines,
            f"10000001,70000001,{at},5.6,cm",
            f"10000002,70000002,{at},48,cm",
            f"10000004,70000003,{at},130,mm",
        ]

    made = index(write_tree(tmp_path, changed("structured", change)))
    found = named(made, "lvedd_mm")
    assert {name: row["value"] for name, row in found.items()} == {"10000001": pytest.approx(56.0), "10000002": 48.0}
    assert {row["unit"] for row in found.values()} == {"mm"}
    assert defects(made)["lvedd_mm", "out_of_range"] == 1


def test_results_in_words_are_grades_or_counted_not_guessed(tmp_path):
    def change(lines):
        at = "10000001,70000001,2150-01-12 11:00:00,tte"
        return [
            *lines,
            f"{at},mitral_regurg,MR,SECRETWORD of a free text,",
            f"{at},tapse,TAPSE,SECRETWORD,",
            f"{at},la_size,LA,,",
        ]

    made = index(write_tree(tmp_path, changed("structured", change)))
    assert [(row["value"], row["definition"][:26]) for row in made.labels_named("rv_function").to_pylist()] == [
        (0.0, "graded words: 0 none or no")
    ]
    found = defects(made)
    assert (found["mitral_regurg", "unknown_grade"], found["tapse", "not_a_number"]) == (1, 1)
    names = made.meta["counts"]["label_names"]
    assert not {"mitral_regurg", "la_size"} & set(names)  # blank is not "none"
    assert "SECRETWORD" not in str(made.defects.to_pylist()) + str(made.labels.to_pylist())


def test_measurements_find_their_study_when_it_has_clips(made):
    assert named(made, "lvef")["10000001"]["study_id"] == "90000001"
    assert named(made, "lvef")["10000004"]["study_id"] is None


def test_each_ecg_gets_its_text_and_the_study_within_the_window(made):
    rows = {row["ecg_id"]: row for row in made.pairs.to_pylist()}
    assert list(rows) == ["40000001", "40000002", "40000003", "40000004"]
    assert rows["40000001"]["study_id"] == "90000001"
    assert rows["40000001"]["gap_days"] == pytest.approx(2 + 2 / 24)
    assert rows["40000001"]["text_id"] == "ecg-40000001"
    assert rows["40000002"]["study_id"] is rows["40000003"]["study_id"] is None  # 4.6 months, 60 days


def test_the_window_is_an_option(tmp_path):
    options = IndexOptions(window_days=(-61, 61), workers=0)
    rows = {row["ecg_id"]: row for row in index(write_tree(tmp_path), options=options).pairs.to_pylist()}
    assert rows["40000003"]["study_id"] == "90000002"
    assert rows["40000003"]["gap_days"] > 59


def test_labels_reach_the_ecgs_of_their_subject_within_the_window(made):
    values = pairs.label_values(made, ["40000001", "40000002", "40000003"], "lvef")
    assert values[0] == 55.0
    assert str(values[1:]) == "[nan nan]"


def test_sex_and_birth_come_from_the_patients(made):
    people = {row["subject_id"]: row for row in made.subjects.to_pylist()}
    assert (people["10000001"]["sex"], people["10000001"]["birth_year"]) == ("female", 2089)
    assert (people["10000002"]["sex"], people["10000002"]["birth_year"]) == ("male", None)  # above 89
    assert (people["10000004"]["sex"], people["10000004"]["split"]) == (None, pairs.split_of("mimic-iv", "10000004"))


def test_what_is_missing_is_said(tmp_path):
    made = index(write_tree(tmp_path, {"any/name/record_list.csv": RECORDS}))
    assert [line.partition(":")[0] for line in made.meta["missing"]] == [
        "ecg reports",
        "ecg diagnoses",
        "echo",
        "echo studies",
        "echo measurements",
        "echo views",
        "patients",
        "admissions",
        "diagnoses",
        "ccsr",
        "notes",
    ]
    assert made.meta["parts"] == {"ecg": "any/name/record_list.csv"}
    assert defects(made)["ecgs", "missing_file"] == 4  # tables alone


@pytest.mark.parametrize(
    "name",
    [
        "structured-measurement.csv",
        "structured_measurement.csv.gz",
        "Structured_Measurements.CSV",
        "x/y/z/STRUCTURED-MEASUREMENT.csv.gz",
    ],
)
def test_the_measurements_are_found_whatever_their_case_separator_and_packing(tmp_path, name):
    made = index(write_tree(tmp_path, {name: MEASUREMENTS}))
    assert made.meta["counts"]["label_names"]["lvef"] == 3
    assert made.ecgs.num_rows == 0


def test_an_older_echo_module_without_measurements_is_read(tmp_path):
    old = {
        "0.1/echo-record-list.csv": ECHOS,
        "0.1/echo-study-list.csv": [
            "subject_id,study_id,study_datetime,note_id,note_seq,note_charttime",
            "10000001,90000001,2150-01-12 10:00:00,,,",
        ],
        "1.0/structured-measurement.csv": MEASUREMENTS,
    }
    made = index(write_tree(tmp_path, old))
    assert made.clips.num_rows == 3
    assert named(made, "lvef")["10000001"]["study_id"] is None


def test_column_order_case_and_further_columns_play_no_part(tmp_path):
    def change(lines):
        lines = [",".join(line.split(",")[::-1]) + ",more" for line in lines]
        return ["\ufeff" + lines[0].upper(), *lines[1:]]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = index(write_tree(tmp_path / "a"))
    two = index(write_tree(tmp_path / "b", changed("record_list", change)))
    assert one.ecgs.equals(two.ecgs)


def without(column):
    def change(lines):
        head = lines[0].split(",")
        place = head.index(column)
        return [",".join([*head[:place], column[:-1] + "x", *head[place + 1 :]]), *lines[1:]]

    return change


def replaced(old, new):
    return lambda lines: [line.replace(old, new) for line in lines]


REFUSED = {
    "a note twice": (
        changed("discharge", lambda lines: [*lines, lines[1]]),
        "catalog/texts.parquet: rows 2 and 3 have the same text_id",
    ),
    "an ECG column renamed": (
        changed("record_list", without("ecg_time")),
        "record_list.csv has no column 'ecg_time'. Did you mean 'ecg_timx'?",
    ),
    "a report column renamed": (changed("machine", without("report_7")), "machine_measurements.csv has no column 'report_7'"),
    "an echo column renamed": (changed("echo-record", without("dicom_filepath")), "has no column 'dicom_filepath'"),
    "a result column renamed": (changed("structured", without("result")), "has no column 'result'"),
    "a patient column renamed": (changed("patients", without("anchor_age")), "has no column 'anchor_age'"),
    "a note column renamed": (changed("discharge", without("text")), "has no column 'text'"),
    "a row cut off": (changed("echo-record", lambda lines: [*lines, "10000003,900"]), "a row has 2 columns, the header has 4"),
    "an id missing": (
        changed("record_list", replaced("10000002,40000003", ",40000003")),
        "column 'subject_id' is empty in data row 3",
    ),
    "an ECG twice": (
        changed("record_list", lambda lines: [*lines, lines[1].replace("2150", "2151")]),
        "study_id 40000001 stands twice",
    ),
    "a study of two subjects": (
        changed("echo-record", lambda lines: [*lines, "10000002,90000001,,files/p10/x/90000001_0009.dcm"]),
        "a study_id stands with two subjects",
    ),
    "a path out of the root": (
        changed("echo-record", replaced("files/p10/", "../../../../p10/")),
        "echo-record-list.csv: the path",
    ),
    "an empty table": (changed("record_list", lambda lines: []), "record_list.csv"),
    **{
        f"no row in {name}": (changed(name, lambda lines: lines[:1]), "has a header and no rows; fetch it again")
        for name in ("record_list", "machine", "echo-record", "echo-study", "structured", "patients", "admissions", "discharge")
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_trusted_is_refused_and_nothing_is_written(tmp_path, case):
    files, message = REFUSED[case]
    write_tree(tmp_path / "root", files)
    with pytest.raises(UserError) as caught:
        index(tmp_path / "root", tmp_path / "catalog")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_refusal_never_quotes_a_row(tmp_path):
    write_tree(tmp_path / "root", changed("discharge", lambda lines: [*lines, "10000001-DS-2,SECRETWORD of a patient"]))
    with pytest.raises(UserError) as caught:
        index(tmp_path / "root", tmp_path / "catalog")
    assert "SECRETWORD" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "mimiciv/3.1/hosp/patients.csv.gz",
            gzip.compress(b"subject_id,gender,anchor_age,anchor_year\n" * 5000)[:-30],
            "damaged or cut off",
        ),
        ("mimiciv/3.1/hosp/patients.csv.gz", b"", "empty"),
        ("mimiciv/3.1/hosp/patients.csv.gz", b"not gzip", "damaged or cut off"),
        ("mimic-iv-ecg/1.0/record_list.csv", b"subject_id,study_id,ecg_time,path\n1,2,3,\xff\xfe\n", "not UTF-8"),
        ("mimic-iv-ecg/1.0/record_list.csv", b"", "is empty"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, name, content, message):
    write_tree(tmp_path / "root")
    (tmp_path / "root" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        index(tmp_path / "root", tmp_path / "catalog")
    assert name in str(caught.value)


def test_two_tables_for_one_part_are_refused_and_both_are_named(tmp_path):
    write_tree(tmp_path, {**PUBLISHED, "mimic-iv-echo/0.1/echo-record-list.csv": ECHOS})
    with pytest.raises(UserError) as caught:
        index(tmp_path)
    assert "0.1/echo-record-list.csv" in str(caught.value)
    assert "1.0/echo-record-list.csv" in str(caught.value)


def test_a_table_and_its_packed_copy_are_two_tables(tmp_path):
    write_tree(tmp_path, {**PUBLISHED, "mimiciv/3.1/hosp/patients.csv": PUBLISHED["mimiciv/3.1/hosp/patients.csv.gz"]})
    with pytest.raises(UserError, match="two candidates for the part 'patients'"):
        index(tmp_path)


@pytest.mark.parametrize("tree", [{"a/readme.csv": ["x"]}, {"a/b/c/d/record_list.csv": RECORDS}])
def test_a_root_without_the_dataset_is_refused(tmp_path, tree):
    with pytest.raises(UserError, match=r"is not mimic_iv: there is no record_list.csv, echo-record-list.csv, structured"):
        index(write_tree(tmp_path, tree))
    with pytest.raises(UserError, match="is not a folder"):
        index(tmp_path / "nowhere")


def test_the_same_call_again_says_done_and_a_changed_table_is_read_again(tmp_path):
    write_tree(tmp_path)
    first = index(tmp_path)
    stamp = (tmp_path / "catalog" / "catalog.json").stat().st_mtime_ns
    write_tree(tmp_path)  # the same bytes at another time
    again = index(tmp_path)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (tmp_path / "catalog" / "catalog.json").stat().st_mtime_ns == stamp
    week = IndexOptions(window_days=(-7, 7), workers=0)
    assert not index(tmp_path, options=week).unchanged
    write_tree(tmp_path, changed("record_list", lambda lines: lines[:-1]))
    third = index(tmp_path, options=week)
    assert (third.unchanged, third.ecgs.num_rows) == (False, 3)


def test_the_same_tables_make_the_same_bytes(tmp_path):
    write_tree(tmp_path / "root")
    one, two = index(tmp_path / "root", tmp_path / "one"), index(tmp_path / "root", tmp_path / "two")
    for file in one.path.iterdir():
        assert file.read_bytes() == (two.path / file.name).read_bytes(), file.name


def test_headers_are_read_when_asked_and_a_study_of_stills_has_no_cine(tmp_path):
    write_tree(tmp_path)
    echo = tmp_path / "mimic-iv-echo/1.0/files/p10/p10000001/s90000001"
    write_dicom(echo / "90000001_0001.dcm", frames=1)
    (echo / "90000001_0002.dcm").write_text("no DICOM")
    made = index(tmp_path, scan_headers=True)
    assert made.clips["kind"].to_pylist() == ["still", None, None]
    assert made.clips["num_frames"].to_pylist() == [1, 0, 0]
    found = defects(made)
    assert (found["clips", "not_dicom"], found["clips", "still"], found["clips", "missing_file"]) == (1, 1, 1)
    assert made.pairs["study_id"].null_count == 4
    write_dicom(echo / "90000001_0002.dcm")  # mended
    again = index(tmp_path, scan_headers=True)
    assert again.clips["kind"].to_pylist() == ["still", "b_mode", None]
    assert again.pairs["study_id"].to_pylist()[0] == "90000001"


def test_a_file_that_was_replaced_is_read_again_where_headers_are(tmp_path):
    write_tree(tmp_path, {"1.0/echo-record-list.csv": ECHOS})
    files = [tmp_path / "1.0" / line.split(",")[3] for line in ECHOS[1:]]
    for file in files:
        write_dicom(file, frames=3)
    assert index(tmp_path, scan_headers=True).clips["num_frames"].to_pylist() == [3, 3, 3]
    assert index(tmp_path, scan_headers=True).unchanged
    write_dicom(files[1], frames=12)
    again = index(tmp_path, scan_headers=True)
    assert (again.unchanged, again.clips["num_frames"].to_pylist()) == (False, [3, 12, 3])
    assert index(tmp_path, tmp_path / "tables").clips["kind"].null_count == 3
    write_dicom(files[0], frames=5)
    assert index(tmp_path, tmp_path / "tables").unchanged  # nothing of the files is in it


def test_a_look_before_writes_nothing(tmp_path):
    write_tree(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    report = mimic.build(mimic.Config()).inspect(tmp_path, tmp_path / "catalog")
    assert sorted(tmp_path.rglob("*")) == before
    assert set(report["parts"]) == set(mimic.SPEC.parts) - {"ecg diagnoses", "echo views", "ccsr"}
    assert (len(report["missing"]), report["unchanged"]) == (3, False)


def test_a_subject_has_one_split_in_all_parts(tmp_path):
    """The split hangs on the subject, not on which parts are there."""
    whole = index(write_tree(tmp_path / "whole"))
    parts = index(write_tree(tmp_path / "part", {"x/echo-record-list.csv": ECHOS}))
    assert pairs.check_together([whole, parts]) == []
    splits = {row["subject_id"]: row["split"] for row in whole.subjects.to_pylist()}
    assert all(splits[row["subject_id"]] == row["split"] for row in parts.subjects.to_pylist())


@pytest.mark.parametrize(
    "settings",
    [
        {"lvef_priority": ()},
        {"lvef_priority": ("lvef", "lvef")},
        {"lvef_priority": ("ef",)},
        {"lvef_priority": "biplane"},
        {"diagnoses": ("CIR019",)},
        {"diagnoses": ("ccs.CIR019",)},
        {"diagnoses": ("icd10.i50",)},
        {"diagnoses": ("icd10.I50*",)},
        {"diagnoses": ("eee_table2.CIR002",)},
        {"diagnoses": ("ccsr.",)},
    ],
)
def test_a_wrong_setting_is_refused(settings):
    with pytest.raises(UsageError):
        mimic.Config(**settings)
