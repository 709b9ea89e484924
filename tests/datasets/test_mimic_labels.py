"""Labels of MIMIC-IV: diagnoses, graded words, structural disease, orders of LVEF, views; and what two versions would mix."""

import re

import numpy as np
import pyarrow as pa
import pytest
from mimic_tree import ECHOS, MEASUREMENTS, PUBLISHED, RECORDS, changed, write_tree

from ecgecho import keys, pairs, plugins, tasks
from ecgecho.catalog import IndexOptions
from ecgecho.datasets._icd import EEE_TABLE_2
from ecgecho.datasets._measurements import grade_of
from ecgecho.types import UsageError, UserError

mimic = plugins.load("datasets", "mimic-iv")

CCSR = [
    "'ICD-10-CM CODE','ICD-10-CM CODE DESCRIPTION','Default CCSR CATEGORY IP','Default CCSR CATEGORY DESCRIPTION IP',"
    + "'Default CCSR CATEGORY OP','Default CCSR CATEGORY DESCRIPTION OP',"
    + ",".join(f"'CCSR CATEGORY {k}','CCSR CATEGORY {k} DESCRIPTION'" for k in range(1, 7))
    + ",'Rationale for Default Assignment'",
    "'I5022',\"Chronic systolic (congestive) heart failure\"," + "'CIR019','Heart failure'," * 3
    + "'EXT001','Made for this test'," + "' ','  '," * 4 + "'06 Infectious conditions'",
    "'I481',\"Persistent, atrial fibrillation\"," + "'CIR017','Cardiac dysrhythmias'," * 3 + "' ','  '," * 5 + "'06 \u00e9'",
]  # fmt: skip
EXT_ICD = [
    "file_name,study_id,subject_id,ecg_time,ed_stay_id,ed_hadm_id,hosp_hadm_id,ed_diag_ed,ed_diag_hosp,hosp_diag_hosp,"
    "all_diag_hosp,all_diag_all,gender,age,anchor_year,anchor_age,dod,ecg_no_within_stay,ecg_taken_in_ed,ecg_taken_in_hosp,"
    "ecg_taken_in_ed_or_hosp,fold,strat_fold",
    "files/x,40000001,10000001,2150-01-10 08:00:00,,,20000001.0,[],[],\"['I5022', 'I481']\",\"['I5022', 'I481']\","
    "\"['I5022', 'I481']\",F,61.0,2149.0,60.0,,0,False,True,True,18,3",
    "files/x,40000002,10000001,2150-06-01 08:00:00,,,,[],[],[],[],[],F,61.0,2149.0,60.0,,0,False,False,False,18,3",
    "files/x,40000003,10000002,2160-01-01 12:00:00,1.0,,,\"['R079']\",[],[],[],\"['R079']\",missing,,,,,0,True,False,True,19,0",
    "files/x,40000004,10000003,,,,,[],[],[],[],[],M,,,,,-1,False,False,False,,4",
]


def index(root, out=None, options=IndexOptions(workers=0), **settings):
    return mimic.build(mimic.Config(**settings)).index(root, out or root / "catalog", options=options)


def tree(root, files=PUBLISHED, **more):
    return write_tree(root, {**files, **more})


def values(catalog, name):
    return {row["ecg_id"]: row["value"] for row in catalog.labels_named(name).to_pylist()}


def defects(catalog):
    return {(row["item"], row["code"]): row["count"] for row in catalog.defects.to_pylist()}


# Admissions


def test_ecgs_and_studies_belong_to_the_admission_that_holds_them(tmp_path):
    made = index(tree(tmp_path))
    assert made.ecgs["admission_id"].to_pylist() == ["20000001", "20000003", "20000004", None]
    assert made.clips["admission_id"].to_pylist() == ["20000001", "20000001", None]
    notes = made.texts.filter(pa.compute.equal(made.texts["source"], "discharge"))
    assert notes["admission_id"].to_pylist() == ["20000001"]
    assert defects(made)["ecg", "no_admission"] == 1


def test_of_two_admissions_at_once_the_later_is_taken_and_it_is_said(tmp_path):
    def change(lines):
        rest = lines[1].partition(",2150-01-20 12:00:00")[2]
        return [
            *lines,
            f"10000001,20000009,2150-01-10 00:00:00,2150-01-11 00:00:00{rest}",
            f"10000003,20000010,2150-01-10 00:00:00,2149-01-11 00:00:00{rest}",
            f"10000003,20000011,,2150-01-11 00:00:00{rest}",
        ]

    made = index(tree(tmp_path, changed("admissions", change)))
    assert made.ecgs["admission_id"].to_pylist()[0] == "20000009"
    assert made.clips["admission_id"].to_pylist()[0] == "20000001"
    found = defects(made)
    assert found["admissions", "overlap"] == found["admissions", "ends_before_it_begins"] == 1
    assert found["admissions", "time_missing"] == 1


def test_pairs_of_the_same_admission_alone(tmp_path):
    tree(tmp_path)
    wide = IndexOptions(window_days=(-200, 200), match="all", workers=0)
    free = [(p["ecg_id"], p["study_id"]) for p in index(tmp_path, options=wide).pairs.to_pylist() if p["study_id"]]
    assert free == [("40000001", "90000001"), ("40000002", "90000001"), ("40000003", "90000002")]
    strict = IndexOptions(window_days=(-200, 200), match="all", same_admission=True, workers=0)
    made = index(tmp_path, options=strict)
    assert [(p["ecg_id"], p["study_id"]) for p in made.pairs.to_pylist() if p["study_id"]] == [("40000001", "90000001")]
    assert made.meta["pairing"] == {"window_days": [-200, 200], "match": "all", "same_admission": True}


def test_the_same_admission_cannot_be_asked_where_none_is_known(tmp_path):
    files = {name: lines for name, lines in PUBLISHED.items() if "admissions" not in name}
    with pytest.raises(UserError, match="name no admission, so --same-admission would pair none"):
        index(tree(tmp_path, files), options=IndexOptions(same_admission=True, workers=0))


def test_pseudonyms_keep_what_belongs_together_and_no_id(tmp_path):
    tree(tmp_path / "root")
    keys.make(tmp_path / "key")
    private, plain = (
        index(
            tmp_path / "root",
            tmp_path / f"cat{len(file)}",
            IndexOptions(same_admission=True, match="all", workers=0, pseudonymise=file),
            diagnoses=("icd10.I50",),
        )
        for file in (str(tmp_path / "key"), "")
    )
    assert private.pairs["gap_days"].to_pylist() == plain.pairs["gap_days"].to_pylist()
    assert private.pairs["study_id"].null_count == plain.pairs["study_id"].null_count == 3
    assert private.labels_named("icd10.I50").num_rows == plain.labels_named("icd10.I50").num_rows == 2
    for name in ("subjects", "labels", "pairs"):
        assert not re.search(r"\b[1-9]000000\d\b", str(private.table(name).to_pylist()))
    assert not {"20000001", "20000003"} & set(private.ecgs["admission_id"].to_pylist())


# Diagnoses


def test_a_diagnosis_is_one_or_none_or_unknown(tmp_path):
    wanted = ("icd10.I50", "icd10.E11", "eee_table2.*", "ccsr.CIR*", "ccsr.EXT001")
    made = index(tree(tmp_path, **{"DXCCSR_v2025-1.csv": CCSR}), diagnoses=wanted)
    assert values(made, "icd10.I50") == {"40000001": 1.0, "40000002": 0.0}  # the third stay has ICD-9 alone, the fourth is none
    assert values(made, "icd10.E11") == {"40000001": 0.0, "40000002": 1.0}
    assert values(made, "eee_table2.CIR022") == values(made, "ccsr.CIR019") == {"40000001": 1.0, "40000002": 0.0}
    assert values(made, "eee_table2.CIR019") == {"40000001": 0.0, "40000002": 0.0}  # not HCUP's numbering
    assert values(made, "ccsr.EXT001") == {"40000001": 1.0, "40000002": 0.0}  # every category of a code counts
    assert set(EEE_TABLE_2) == {n.partition(".")[2] for n in made.meta["counts"]["label_names"] if n.startswith("eee_table2")}
    row = made.labels_named("ccsr.CIR017").to_pylist()[0]
    assert (row["source"], row["definition"][:50]) == ("hosp/diagnoses_icd", "1 where a diagnosis is in category CIR017 of HCUP'")
    assert defects(made)["diagnoses", "not_all_icd_10"] == 1
    assert defects(made)["ccsr", "unknown_code"] == 1  # E119
    assert tasks.answers(made, ["40000003", "40000001"], tasks.find("ccsr.CIR019", [made])).tolist() == [-1, 1]


def test_a_stay_with_both_versions_can_only_be_positive(tmp_path):
    made = index(
        tree(tmp_path, changed("diagnoses", lambda lines: [*lines, "10000001,20000001,3,4019,9"])),
        diagnoses=("icd10.I50", "icd10.E11"),
    )
    assert values(made, "icd10.I50") == {"40000001": 1.0, "40000002": 0.0}
    assert values(made, "icd10.E11") == {"40000002": 1.0}


@pytest.mark.parametrize("line", ["10000001,20000003,2,?I5020,10", "10000001,20000003,2,I5020,11", "10000001,20000003,2,NoDx,10"])
def test_a_code_that_cannot_be_read_may_be_any(tmp_path, line):
    made = index(tree(tmp_path, changed("diagnoses", lambda lines: [*lines, line])), diagnoses=("icd10.I50", "icd10.E11"))
    assert values(made, "icd10.I50") == {"40000001": 1.0}  # of the second ECG's stay 0 is not known
    assert values(made, "icd10.E11") == {"40000001": 0.0, "40000002": 1.0}
    assert defects(made)["diagnoses", "not_all_icd_10"] == 2  # the third ECG's stay is of ICD-9


def test_a_list_with_a_word_that_is_no_code_can_only_be_positive(tmp_path):
    lines = [line.replace("['R079']", "['NoDx', 'R079']") for line in EXT_ICD]
    root = tree(tmp_path, **{"ext/records_w_diag_icd10.csv": lines})
    made = index(root, diagnoses=("icd10.I50", "icd10.R07"), diagnoses_of="all_diag_all")
    assert values(made, "icd10.I50") == {"40000001": 1.0}
    assert values(made, "icd10.R07") == {"40000001": 0.0, "40000003": 1.0}


def test_an_icd_9_code_that_looks_like_icd_10_is_none(tmp_path):
    made = index(
        tree(tmp_path, changed("diagnoses", lambda lines: [*lines, "10000002,20000004,2,V4501,9"])), diagnoses=("icd10.V45",)
    )
    assert values(made, "icd10.V45") == {"40000001": 0.0, "40000002": 0.0}


def test_no_diagnosis_is_a_label_unless_it_is_asked_for(made_with_everything):
    names = made_with_everything.meta["counts"]["label_names"]
    assert not [name for name in names if name.startswith(("ccsr", "icd10", "eee"))]


@pytest.fixture(scope="module")
def made_with_everything(tmp_path_factory):
    return index(tree(tmp_path_factory.mktemp("all"), **{"ext/records_w_diag_icd10.csv": EXT_ICD, "DXCCSR_v2025-1.csv": CCSR}))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["code,category", "I5022,CIR019"], "no column 'ICD-10-CM CODE'"),
        ([CCSR[0], CCSR[1].replace("'EXT001'", "'heart'")], "does not look like HCUP's DXCCSR"),
        ([CCSR[0], CCSR[1].replace("'I5022'", "'428'")], "does not look like HCUP's DXCCSR"),
        ([CCSR[0]], "has a header and no rows"),
    ],
)
def test_a_table_that_is_not_hcups_is_refused(tmp_path, lines, words):
    with pytest.raises(UserError, match=words):
        index(tree(tmp_path, **{"dxccsr_v2024.csv": lines}), diagnoses=("ccsr.CIR019",))


def test_what_a_label_needs_and_is_not_there_is_said(tmp_path):
    tree(tmp_path)
    with pytest.raises(UsageError, match=r"need HCUP's table .* or set ccsr=FILE"):
        index(tmp_path, diagnoses=("ccsr.CIR019",))
    with pytest.raises(UsageError, match="needs records_w_diag_icd10.csv"):
        index(tmp_path, diagnoses=("icd10.I50",), diagnoses_of="all_diag_all")
    with pytest.raises(UsageError, match="there is no such file"):
        index(tmp_path, ccsr="nowhere.csv")
    (tmp_path / "mimiciv/3.1/hosp/diagnoses_icd.csv.gz").unlink()
    with pytest.raises(UsageError, match="needs hosp/diagnoses_icd.csv"):
        index(tmp_path, diagnoses=("icd10.I50",))


def test_a_setting_that_names_a_file_is_kept_by_content_and_not_by_place(tmp_path):
    tree(tmp_path / "root")
    elsewhere = tmp_path / "elsewhere" / "table.csv"
    write_tree(elsewhere.parent, {elsewhere.name: CCSR})
    first = index(tmp_path / "root", diagnoses=("ccsr.CIR019",), ccsr=str(elsewhere))
    assert values(first, "ccsr.CIR019") == {"40000001": 1.0, "40000002": 0.0}
    assert str(tmp_path) not in (first.path / "catalog.json").read_text()
    assert index(tmp_path / "root", diagnoses=("ccsr.CIR019",), ccsr=str(elsewhere)).unchanged
    elsewhere.write_text("\n".join(CCSR).replace("I5022", "I5023"))
    again = index(tmp_path / "root", diagnoses=("ccsr.CIR019",), ccsr=str(elsewhere))
    assert values(again, "ccsr.CIR019") == {"40000001": 0.0, "40000002": 0.0}


# ECG-Ext-ICD


def test_lists_of_ext_icd_are_diagnoses_and_an_empty_list_says_nothing(tmp_path):
    root = tree(tmp_path, **{"ext/records_w_diag_icd10.csv": EXT_ICD})
    made = index(root, diagnoses=("icd10.I50", "icd10.R07"), diagnoses_of="all_diag_all")
    assert values(made, "icd10.I50") == {"40000001": 1.0, "40000003": 0.0}
    assert values(made, "icd10.R07") == {"40000001": 0.0, "40000003": 1.0}
    assert made.labels_named("icd10.I50")["source"].to_pylist()[0] == "mimic-iv-ecg-ext-icd/all_diag_all"
    assert values(index(root, diagnoses=("icd10.I50",), diagnoses_of="all_diag_hosp"), "icd10.I50") == {"40000001": 1.0}


def test_folds_are_a_split_when_asked_and_the_rest_stays_with_the_subject(tmp_path):
    root = tree(tmp_path, **{"ext/records_w_diag_icd10.csv": EXT_ICD})
    split = {row["subject_id"]: row["split"] for row in index(root, split="fold").subjects.to_pylist()}
    assert (split["10000001"], split["10000002"]) == ("val", "test")
    assert split["10000003"] == pairs.split_of("mimic-iv", "10000003")
    own = {row["subject_id"]: row["split"] for row in index(root).subjects.to_pylist()}
    assert own == {who: pairs.split_of("mimic-iv", who) for who in own}


def test_a_subject_in_two_folds_is_a_leak(tmp_path):
    lines = [*EXT_ICD[:2], EXT_ICD[2].replace(",18,3", ",19,3"), *EXT_ICD[3:]]
    with pytest.raises(UserError, match="that leaks"):
        index(tree(tmp_path, **{"ext/records_w_diag_icd10.csv": lines}), split="fold")


def test_without_patients_the_people_are_those_of_ext_icd(tmp_path):
    files = {name: lines for name, lines in PUBLISHED.items() if "patients" not in name}
    made = index(tree(tmp_path, files, **{"ext/records_w_diag_icd10.csv": EXT_ICD}))
    people = {row["subject_id"]: (row["sex"], row["birth_year"]) for row in made.subjects.to_pylist()}
    assert people["10000001"] == ("female", 2089)
    assert people["10000002"] == (None, None)  # "missing"
    assert people["10000003"] == ("male", None)


# Measurements


@pytest.mark.parametrize(
    ("name", "words", "grade"),
    [
        ("phtn_severity", "Normal (TR<26mmHg)", 0.0),
        ("phtn_severity", "Mild (TR 26-36mmHg)", 1.0),
        ("phtn_severity", "Mod (TR 37-60mmHg)", 2.0),
        ("phtn_severity", "Severe (TR >60mmHg)", 3.0),
        ("pericardial_effusion", "Trivial", 0.5),
        ("pericardial_effusion", "Small (<1.0cm)", 1.0),
        ("pericardial_effusion", "Moderate (1.0-2.0cm)", 2.0),
        ("pericardial_effusion", "Large (>2.0cm)", 3.0),
        ("rv_function", "Nl RV function", 0.0),
        ("rv_function", "Severe global hypo", 3.0),
        ("mitral_regurg", "Mild to moderate (1-2+)", 1.5),
        ("mitral_regurg", "Moderate-severe", 2.5),
        ("tricuspid_regurg", "3+", 2.5),
        ("diastolic_grade", "Grade II", 2.0),
        ("aortic_stenosis", "No AS", 0.0),
        ("aortic_stenosis", "no severe AS", None),
        ("aortic_stenosis", "not assessed", None),
        ("aortic_stenosis", "cannot exclude severe", None),
        ("la_size", "large", None),
        ("mitral_regurg", "II", None),
        ("mitral_regurg", "26", None),
    ],
)
def test_a_grade_is_read_only_where_every_word_is_known(name, words, grade):
    found = grade_of(name, words)
    assert np.isnan(found) if grade is None else found == grade


HEADER = MEASUREMENTS[0]
NORMAL = {
    "lvef": "60", "septal_thickness": "1.0", "tr_mmhg": "22", "aortic_stenosis": "None", "aortic_regurg": "Mild",
    "mitral_regurg": "Trivial", "tricuspid_regurg": "Mild", "rv_function": "Nl RV function", "pericardial_effusion": "None",
}  # fmt: skip
COMPONENTS = {
    "lvef": "45", "septal_thickness": "13", "tr_mmhg": "41", "aortic_stenosis": "Moderate", "aortic_regurg": "Severe",
    "mitral_regurg": "Moderate (2+)", "tricuspid_regurg": "Mod-severe", "rv_function": "Mod global hypo",
    "pericardial_effusion": "Moderate (1.0-2.0cm)",
}  # fmt: skip


def reports(*several):
    lines = [HEADER]
    for number, found in enumerate(several):
        at = f"10000001,7000{number:04d},2150-01-12 11:00:00,tte"
        lines += [f"{at},{name},{name},{result}," for name, result in found.items()]
    return lines


def shd_of(tmp_path, *several):
    made = index(write_tree(tmp_path, {"structured-measurement.csv": reports(*several)}))
    rows = made.labels_named("shd").to_pylist()
    assert all("0 if all of these are known" in row["definition"] for row in rows)
    return [row["value"] for row in rows]


def test_a_report_has_structural_disease_if_any_part_says_so_and_none_if_all_deny_it(tmp_path):
    positive = [{**NORMAL, name: result} for name, result in COMPONENTS.items()]
    assert shd_of(tmp_path, NORMAL, *positive) == [0.0, *[1.0] * len(positive)]


def test_one_sign_is_enough_and_one_silence_forbids_a_nought(tmp_path):
    silent = [{key: value for key, value in NORMAL.items() if key != name} for name in NORMAL]
    blank = [{**NORMAL, "aortic_stenosis": ""}, {**NORMAL, "mitral_regurg": "see text"}]
    alone = [{name: result} for name, result in COMPONENTS.items()]
    assert shd_of(tmp_path, *silent, *blank, *alone) == [1.0] * len(alone)


def test_pressure_is_told_by_the_gradient_or_else_by_words_that_lie_on_one_side_of_the_bound(tmp_path):
    rest = {key: value for key, value in NORMAL.items() if key != "tr_mmhg"}
    words = ["Normal (TR<26mmHg)", "Mild (TR 26-36mmHg)", "Mod (TR 37-60mmHg)", "Severe (TR >60mmHg)"]
    assert shd_of(tmp_path, *({**rest, "phtn_severity": word} for word in words)) == [0.0, 0.0, 1.0]
    (tmp_path / "b").mkdir()
    assert shd_of(tmp_path / "b", {**NORMAL, "phtn_severity": words[3]}) == [0.0]


LVEFS = [
    {"lvef": "50", "lvef_upper": "60", "biplane_lvef": "52", "lvef_3d": "54"},
    {"lvef": "50", "lvef_upper": "60"},
    {"lvef_upper": "60"},
    {"rest_lvef": "40", "lvef_3d": "54"},
    {"rest_lvef_upper": "44", "rest_lvef": "40"},
    {"stress_lvef": "70"},
]
ORDERS = {
    "lvef_first": [("lvef", 50), ("lvef", 50), ("lvef_upper", 60), ("rest_lvef", 40), ("rest_lvef", 40)],
    "biplane_first": [
        ("biplane_lvef", 52), ("middle of lvef and lvef_upper", 55), ("lvef_upper", 60), ("lvef_3d", 54),
        ("middle of rest_lvef and rest_lvef_upper", 42),
    ],
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_of_lvef_have_a_name_and_what_was_used_is_said(tmp_path, order):
    made = index(write_tree(tmp_path, {"structured-measurement.csv": reports(*LVEFS)}), lvef_priority=order)
    rows = made.labels_named("lvef").to_pylist()
    assert [(row["definition"].removeprefix("measurement "), row["value"]) for row in rows] == ORDERS[order]


def test_a_fraction_or_what_no_heart_has_is_no_lvef_and_no_disease(tmp_path):
    said = ["0.6", "4.9", "5", "95", "95.1", "0", "-60"]
    made = index(write_tree(tmp_path, {"structured-measurement.csv": reports(*({**NORMAL, "lvef": one} for one in said))}))
    assert made.labels_named("lvef")["value"].to_pylist() == [5.0, 95.0]
    assert made.labels_named("shd")["value"].to_pylist() == [1.0, 0.0]
    assert defects(made)["lvef", "out_of_range"] == 5


def test_a_report_of_two_subjects_is_refused_and_two_times_are_told(tmp_path):
    with pytest.raises(UserError, match="measurement_id 70000001 stands with two subjects; two versions may be mixed"):
        index(tree(tmp_path, changed("structured", lambda x: [*x, x[1].replace("10000001,", "10000002,")])))
    made = index(tree(tmp_path, changed("structured", lambda x: [*x, x[1].replace("01-12", "01-13").replace("biplane_", "x_")])))
    assert defects(made)["echo measurements", "time_differs"] == 1


# Views


def echoview(names, rows):
    return [",".join(["dicom_filepath", *names]), *(",".join(map(str, row)) for row in rows)]


VIEWS = [f"view_{k}" for k in range(23)]
PATHS = [line.split(",")[3] for line in ECHOS[1:]]


def sure(k):
    found = np.full(23, 0.01)
    found[k] = 0.78
    return found.tolist()


def test_the_most_probable_view_is_that_of_a_clip(tmp_path):
    made = index(
        tree(tmp_path, **{"echoview/echoview_probabilities.csv": echoview(VIEWS, [[PATHS[1], *sure(4)], ["x.dcm", *sure(0)]])})
    )
    assert made.clips["view"].to_pylist() == [None, "view_4", None]
    assert defects(made)["echo views", "file_unknown"] == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (echoview(VIEWS[:22], [[PATHS[0], *sure(4)[:22]]]), "22 of its columns hold probabilities"),
        (echoview(VIEWS, [[PATHS[0], *[0.2] * 23]]), "that add up to 1"),
        (echoview(VIEWS, [[PATHS[0], *sure(1)], [PATHS[0], *sure(2)]]), "a file stands twice"),
        (
            [line.replace("dicom_filepath", "who") for line in echoview(VIEWS, [[PATHS[0], *sure(1)]])],
            "no column that names the file",
        ),
        (echoview(VIEWS, []), "has a header and no rows"),
    ],
)
def test_a_table_of_views_of_another_layout_is_refused(tmp_path, lines, words):
    with pytest.raises(UserError, match=words):
        index(tree(tmp_path, **{"echoview.csv": lines}))


def test_a_changed_table_of_views_makes_another_catalog(tmp_path):
    tree(tmp_path, **{"echoview.csv": echoview(VIEWS, [[PATHS[0], *sure(4)]])})
    index(tmp_path)
    assert index(tmp_path).unchanged
    write_tree(tmp_path, {"echoview.csv": echoview(VIEWS, [[PATHS[0], *sure(15)]])})
    again = index(tmp_path)
    assert (again.unchanged, again.clips["view"].to_pylist()[0]) == (False, "view_15")


# Versions


def test_two_versions_of_one_module_are_refused_or_what_does_not_fit_is_counted(tmp_path):
    two = {"mimic-iv-ecg/0.3/record_list.csv": RECORDS}
    with pytest.raises(UserError, match="two candidates for the part 'ecg'"):
        index(tree(tmp_path / "a", **two))
    other = changed("echo-study", lambda lines: [lines[0], lines[1].replace("10000001", "10000009"), lines[2]])
    with pytest.raises(UserError, match="give studies to different subjects; two versions may be mixed"):
        index(tree(tmp_path / "b", other))
    fewer = changed("echo-study", lambda lines: [*lines[:2], "10000003,90000009,2150-01-01 00:00:00,,,,79999999,"])
    found = defects(index(tree(tmp_path / "c", fewer)))
    assert found["echo studies", "study_unlisted"] == found["echo studies", "study_without_clips"] == 1
    unknown = changed("echo-study", lambda lines: [lines[0], lines[1].replace("70000001", "79999999"), lines[2]])
    assert defects(index(tree(tmp_path / "d", unknown)))["echo studies", "measurement_unknown"] == 1


def test_a_list_without_its_files_is_told(tmp_path):
    """As when the list of one version lies above the files of another."""
    found = defects(index(tree(tmp_path)))
    assert (found["ecgs", "missing_file"], found["clips", "missing_file"]) == (4, 3)


def test_an_ecg_of_another_subject_in_ext_icd_is_another_version(tmp_path):
    lines = [EXT_ICD[0], EXT_ICD[1].replace("10000001", "10000009")]
    with pytest.raises(UserError, match="other subjects than record_list.csv; two versions may be mixed"):
        index(tree(tmp_path, **{"ext/records_w_diag_icd10.csv": lines}))
