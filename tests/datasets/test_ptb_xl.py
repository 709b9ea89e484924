"""PTB-XL -> a catalog: its folds, its six label sets, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptb_xl_tree import RECORDS, STATEMENTS, changed, samples_of, table, write_ptb_xl
from snomed_tree import write_chapman

from ecgecho import catalog, pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, UsageError, UserError

ptb_xl = plugins.load("datasets", "ptb_xl")


def index(root, out=None, **settings):
    dataset = ptb_xl.build(ptb_xl.Config(**settings))
    return dataset.index(root, out or root.parent / "catalog", options=IndexOptions(workers=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return index(write_ptb_xl(tmp_path_factory.mktemp("ptb") / "root"))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def plain(ecg_id):
    """HR00001 -> the table's 1."""
    assert ecg_id[:2] == "HR"
    assert len(ecg_id) == 7
    return str(int(ecg_id[2:]))


def named(made, name):
    return {plain(row["ecg_id"]): row["value"] for row in made.labels_named(name).to_pylist()}


def splits(made):
    return {row["subject_id"]: row["split"] for row in made.subjects.to_pylist()}


def test_folds_are_the_splits_and_patients_the_subjects(made):
    assert splits(made) == {"ptbxl-15709": "train", "ptbxl-13243": "val", "ptbxl-18792": "test", "ptbxl-9999": "train"}
    assert made.ecgs["ecg_id"].to_pylist() == ["HR00001", "HR00002", "HR00039", "HR00040", "HR21837"]
    assert made.family == "cinc"


@pytest.mark.parametrize("rate", [500, 100])
def test_the_files_it_lists_are_read_as_millivolts_with_leads_by_name(tmp_path, rate):
    made = index(write_ptb_xl(tmp_path / "root"), rate=rate)
    for row in made.ecgs.to_pylist():
        record = read_ecg(made.file(row["path"]))
        assert (record.leads, record.fs_hz, record.unit) == (STANDARD_LEADS, rate, "mv")
        np.testing.assert_allclose(record.signal, samples_of(int(plain(row["ecg_id"])), rate).T / 1000, atol=1e-6)
    assert not {code for _, code in defects(made)} & {"missing_file"}


def test_statements_count_with_any_likelihood_in_the_sets_that_were_assessed(made):
    assert named(made, "ptbxl.all.SR") == {"1": 1, "2": 0, "39": 0, "40": 1}
    assert named(made, "ptbxl.rhythm.SR") == {"1": 1, "2": 0, "40": 1}
    assert named(made, "ptbxl.form.LVOLT") == {"1": 1, "39": 0}
    assert named(made, "ptbxl.diagnostic.1AVB") == {"1": 0, "2": 0, "39": 1}
    assert named(made, "ptbxl.superclass.MI") == {"1": 0, "2": 0, "39": 1}
    assert named(made, "ptbxl.superclass.CD")["39"] == 1
    assert named(made, "ptbxl.subclass._AVB")["39"] == named(made, "ptbxl.form.NDT")["39"] == 1


def test_every_set_holds_the_statements_that_the_table_gives_it(made):
    names = made.meta["counts"]["label_names"]
    number = {name: sum(label.startswith(f"ptbxl.{name}.") for label in names) for name in ptb_xl.SETS}
    assert number == {"all": 9, "diagnostic": 5, "form": 3, "rhythm": 2, "subclass": 5, "superclass": 4}


def test_a_statement_graded_below_the_threshold_is_neither_present_nor_absent(tmp_path):
    made = index(write_ptb_xl(tmp_path / "root"), min_likelihood=50)
    assert named(made, "ptbxl.diagnostic.IMI") == {"1": 0, "2": 0}
    assert named(made, "ptbxl.diagnostic.1AVB")["39"] == 1  # not graded
    assert named(made, "ptbxl.superclass.MI")["39"] == 1  # the lateral infarct is sure
    assert named(made, "ptbxl.subclass.IMI") == {"1": 0, "2": 0}
    assert defects(made)["scp_codes", "below_min_likelihood"] == 1
    high = index(tmp_path / "root", min_likelihood=90)
    assert named(high, "ptbxl.superclass.NORM") == {"1": 1, "39": 0}
    assert named(index(tmp_path / "root", min_likelihood=80), "ptbxl.superclass.NORM")["2"] == 1  # from 80 on


@pytest.mark.parametrize("cell", ["{'IMI': 35.0, 'LMI': 100.0}", "{'LMI': 100.0, 'IMI': 35.0}"])
def test_a_sure_statement_makes_its_class_sure_whatever_the_order(tmp_path, cell):
    made = index(write_ptb_xl(tmp_path / "root", changed("39", scp_codes=cell)), min_likelihood=50)
    assert named(made, "ptbxl.superclass.MI")["39"] == 1


def test_a_statement_that_the_table_does_not_know_is_counted(made):
    assert defects(made)["scp_codes", "code_unknown"] == 1
    assert any("'XYZ'" in (row["detail"] or "") for row in made.defects.to_pylist())
    assert defects(made)["scp_codes", "scp_codes_empty"] == 1


def test_ages_and_sexes_are_those_of_the_table_and_300_is_none(made):
    assert named(made, "age_years") == {"1": 56, "2": 19}
    people = {row["subject_id"]: (row["sex"], row["birth_year"]) for row in made.subjects.to_pylist()}
    assert people == {
        "ptbxl-15709": ("female", 1928), "ptbxl-13243": ("male", 1965), "ptbxl-18792": ("male", None),
        "ptbxl-9999": ("female", None),
    }  # fmt: skip
    assert (defects(made)["records", "age_above_89"], defects(made)["records", "age_missing"]) == (2, 1)


def test_reports_are_texts_of_their_ecg(made):
    texts = {plain(row["ecg_id"]): row for row in made.texts.to_pylist()}
    assert set(texts) == {"1", "2", "39", "21837"}
    assert (texts["1"]["source"], texts["1"]["text"]) == ("report", "sinusrhythmus periphere niederspannung")
    assert defects(made)["records", "report_empty"] == 1
    assert {row["ecg_id"]: row["text_id"] for row in made.pairs.to_pylist()}["HR00040"] is None


def test_notes_on_the_signal_are_counted_and_labels(made):
    assert named(made, "ptbxl.quality.static_noise") == {"1": 1, "2": 0, "39": 0, "40": 0, "21837": 0}
    assert named(made, "ptbxl.validated_by_human") == {"1": 1, "2": 0, "39": 1, "40": 1}
    found = defects(made)
    assert [found["signals", name] for name in ("static_noise", "baseline_drift", "pacemaker", "extra_beats")] == [1, 1, 1, 1]


def test_a_report_over_several_lines_is_one_cell(tmp_path):
    records = changed("2", report='erste zeile\n"zweite", zeile')
    made = index(write_ptb_xl(tmp_path / "root", records))
    assert made.texts["text"].to_pylist()[1] == 'erste zeile\n"zweite", zeile'


REFUSED = {
    "a patient in two folds": (changed("40", strat_fold="9"), r"patient #[0-9a-f]{8} is in the folds 10 and 9"),
    "a patient in two training folds": (changed("40", strat_fold="3"), r"patient #[0-9a-f]{8} is in the folds"),
    "a fold that is none": (changed("1", strat_fold="11"), "strat_fold is 11"),
    "no fold": (changed("1", strat_fold=""), "column 'strat_fold' is empty in data row 1"),
    "no patient": (changed("1", patient_id=""), "column 'patient_id' is empty in data row 1"),
    "a patient that is no number": (changed("1", patient_id="15709.5"), "patient_id in data row 1 is no whole number"),
    "a record twice": ([*RECORDS, {**RECORDS[0], "age": "57.0"}], "ecg_id 1 stands twice with different 'age'"),
    "a path out of the root": (changed("1", filename_hr="../../etc/passwd"), "leaves the folder of the table"),
    "no path": (changed("1", filename_hr=""), "column 'filename_hr' is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, case):
    records, message = REFUSED[case]
    root = write_ptb_xl(tmp_path / "root", RECORDS, rates=())
    (root / "ptbxl_database.csv").write_text(table(records))
    with pytest.raises(UserError, match=message) as caught:
        index(root)
    assert "15709" not in str(caught.value)
    assert "18792" not in str(caught.value)


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_table_of_a_header_alone_is_refused(tmp_path, name):
    root = write_ptb_xl(tmp_path / "root", rates=())
    (root / name).write_text((root / name).read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=rf"{name} has a header and no rows; fetch it again"):
        index(root)


@pytest.mark.parametrize("column", ["patient_id", "scp_codes", "strat_fold", "filename_hr", "pacemaker"])
def test_a_column_renamed_is_refused_by_name(tmp_path, column):
    root = write_ptb_xl(tmp_path / "root", rates=())
    path = root / "ptbxl_database.csv"
    path.write_text(path.read_text().replace(column, f"{column[:-1]}x", 1))
    with pytest.raises(UserError, match=rf"ptbxl_database\.csv has no column '{column}'\. Did you mean"):
        index(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",description", "code,description", "has no column ''"),
        ("LMI,lateral myocardial infarction,1.0", "LMI,lateral myocardial infarction,yes", "diagnostic = 'yes'"),
        ("1.0,,,MI,LMI", "1.0,,,,LMI", "statement LMI has no diagnostic_class"),
        ("LMI,lateral", "IMI,lateral", "stands twice"),
    ],
)
def test_a_list_of_statements_that_cannot_be_is_refused(tmp_path, old, new, message):
    root = write_ptb_xl(tmp_path / "root", rates=())
    (root / "scp_statements.csv").write_text(STATEMENTS.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        index(root)


def test_cells_that_are_out_of_range_or_no_list_are_counted_and_left_out(tmp_path):
    records = [
        {**RECORDS[0], "age": "150", "sex": "2"}, {**RECORDS[1], "scp_codes": "{'NORM': 101.0}"},
        {**RECORDS[2], "scp_codes": "__import__('os')"},
    ]  # fmt: skip
    made = index(write_ptb_xl(tmp_path / "root", records))
    found = defects(made)
    assert (found["records", "out_of_range"], found["scp_codes", "scp_codes_unreadable"], found["records", "sex_unknown"]) == (
        1,
        2,
        1,
    )
    assert set(named(made, "ptbxl.all.NORM")) == {"1"}
    assert not named(made, "age_years").get("1")


def test_the_same_row_twice_is_one(tmp_path):
    made = index(write_ptb_xl(tmp_path / "root", [*RECORDS, RECORDS[0]]))
    assert (made.ecgs.num_rows, defects(made)["records", "row_twice"]) == (5, 1)


def test_a_half_download_is_counted_and_the_other_rate_is_named(tmp_path):
    root = write_ptb_xl(tmp_path / "root", rates=(100,))
    with pytest.raises(UserError, match=r"there are records100 and no records500; index with --set rate=100"):
        index(root)
    (root / "records100" / "00000" / "00039_lr.dat").unlink()
    found = defects(index(root, rate=100))
    assert found["signals .dat", "missing_file"] == 1
    assert ("signals .hea", "missing_file") not in found


def many(number):
    blank = {**RECORDS[0], "report": "", "scp_codes": "{}"}
    return [{**blank, "ecg_id": str(k + 1), "patient_id": f"{k}.0"} for k in range(number)]


@pytest.fixture
def small_versions(monkeypatch):
    """Versions of 7 and 5 records, so that a test need not write 21,837."""
    monkeypatch.setattr(ptb_xl, "ROWS", {7: "1.0.1 or 1.0.2", 5: "1.0.3"})


def listing(number):
    rows = [f"records{r}/00000/{k:05d}_{e}" for k in range(number) for r, e in ((100, "lr"), (500, "hr"))]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(("number", "version"), [(7, "1.0.1 or 1.0.2"), (5, "1.0.3"), (6, "of an unknown version")])
def test_the_version_is_told_by_the_number_of_records(tmp_path, small_versions, number, version):
    root = write_ptb_xl(tmp_path / "root", many(number), rates=())
    (root / "RECORDS").write_text(listing(number))
    made = index(root)
    assert made.meta["dataset_version"] == version
    assert {row["source"] for row in made.labels.to_pylist()} == {f"PTB-XL {version}"}
    assert (("records", "part_of_a_version") in defects(made)) == (number == 6)
    assert defects(made).get(("records", "copies")) == (38 if number == 7 else None)
    (root / "ptbxl_v102_changelog.txt").write_text("x")
    again = index(root)
    assert not again.unchanged
    assert again.meta["dataset_version"] == ("1.0.2" if number == 7 else version)


def test_two_versions_mixed_are_refused(tmp_path, small_versions):
    root = write_ptb_xl(tmp_path / "root", many(7), rates=())
    (root / "RECORDS").write_text(listing(5))
    with pytest.raises(UserError, match=r"two versions of PTB-XL are mixed: .* 7 rows is of 1\.0\.1 .* 5 records is of 1\.0\.3"):
        index(root)
    (root / "RECORDS").unlink()
    (root / "ptbxl_v103_changelog.txt").write_text("x")
    with pytest.raises(UserError, match=r"ptbxl_v103_changelog\.txt is of 1\.0\.3"):
        index(root)
    write_ptb_xl(root / "1.0.3", rates=())
    with pytest.raises(UserError, match="two candidates for the part"):
        index(root)


def test_another_dataset_s_root_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"is not ptb_xl: .* It looks like chapman"):
        index(write_chapman(tmp_path / "root"))


def test_wrong_settings_are_refused():
    with pytest.raises(UsageError, match="rate is 250"):
        ptb_xl.Config(rate=250)
    with pytest.raises(UsageError, match="min_likelihood is 101"):
        ptb_xl.Config(min_likelihood=101)


def challenge_catalog(path, split):
    """A catalog of Challenge records as a user may write it: HR00001 under its patient's name in the family."""
    subjects = pa.table({"subject_id": ["ptbxl-13243", "A0001"], "split": [split, pairs.split_of("cinc", "A0001")]})
    ecgs = pa.table({"ecg_id": ["HR00002", "A0001"], "subject_id": ["ptbxl-13243", "A0001"], "path": ["g1/HR00002", "g1/A0001"]})
    return catalog.write(path, root=path.parent, dataset="cinc2021", family="cinc", tables={"subjects": subjects, "ecgs": ecgs})


def test_the_official_fold_holds_for_overlapping_catalogs_too(made, tmp_path):
    assert pairs.check_together([made, challenge_catalog(tmp_path / "same", "val")]) == []
    with pytest.raises(
        UserError, match=r"\(family cinc\) put 1 subjects into different splits, first #[0-9a-f]{8}: val and train"
    ):
        pairs.check_together([made, challenge_catalog(tmp_path / "other", "train")])


def test_names_of_subjects_in_the_family_never_collide(made, tmp_path):
    chapman = plugins.load("datasets", "chapman")
    other = chapman.build(chapman.Config()).index(
        write_chapman(tmp_path / "root"), tmp_path / "cat", options=IndexOptions(workers=0)
    )
    assert other.family == made.family
    assert not set(other.subjects["subject_id"].to_pylist()) & set(splits(made))
    assert pairs.check_together([made, other]) == []


CODES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/()", min_size=1, max_size=16)


@given(st.dictionaries(CODES, st.sampled_from([0.0, 15.0, 35.0, 50.0, 80.0, 100.0]), max_size=12))
def test_a_dictionary_as_python_writes_it_is_read_back(codes):
    assert ptb_xl.parse_codes(str(codes)) == codes


@pytest.mark.parametrize(
    "cell",
    [None, "[]", "{'A'}", "{'A': 'B'}", "{'A': -1}", "{'A': 1e9}", "{'A': 100.1}", "{'A': 1, 'A': 2}", "{'A': 1,}x", "{,}",
     "{'A' 1}", "{'A\\n': 1}", "{" + "'A': 1, " * 400 + "}", "{'A': ().__class__}"],
)  # fmt: skip
def test_anything_else_is_no_list_of_statements(cell):
    assert ptb_xl.parse_codes(cell) is None
