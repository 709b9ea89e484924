"""Georgia 12-lead -> a catalog, out of a whole Challenge tree or a part of it."""

import numpy as np
import pytest
from snomed_tree import samples_of, write_chapman, write_georgia, write_record

from ecgecho import pairs, plugins
from ecgecho.catalog import IndexOptions
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, UserError

georgia = plugins.load("datasets", "georgia")


def index(root, out=None):
    return georgia.build(georgia.Config()).index(root, out or root.parent / "catalog", options=IndexOptions(workers=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return index(write_georgia(tmp_path_factory.mktemp("georgia") / "root"))


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def named(made, name):
    return {row["ecg_id"]: row["value"] for row in made.labels_named(name).to_pylist()}


def test_its_own_records_are_taken_and_no_other_cohort_s(made):
    assert made.ecgs["ecg_id"].to_pylist() == ["E00001", "E00015", "E01000", "E10344"]
    assert made.meta["parts"]["headers"] == "training/georgia"
    assert made.ecgs["subject_id"].to_pylist() == made.ecgs["ecg_id"].to_pylist()
    assert [row["split"] for row in made.subjects.to_pylist()] == pairs.splits_of("cinc", made.ecgs["ecg_id"].to_pylist())


@pytest.mark.parametrize("narrower", ["training", "training/georgia"])
def test_a_narrower_root_finds_the_same(made, tmp_path, narrower):
    write_georgia(tmp_path / "root")
    assert index(tmp_path / "root" / narrower, tmp_path / "cat").ecgs["ecg_id"].equals(made.ecgs["ecg_id"])


def test_one_folder_of_it_is_a_part_of_it(tmp_path):
    write_georgia(tmp_path / "root")
    made = index(tmp_path / "root" / "training" / "georgia" / "g2", tmp_path / "cat")
    assert made.ecgs["path"].to_pylist() == ["E01000"]


def test_a_code_that_is_repeated_counts_once_and_two_codes_may_be_one_class(made):
    assert named(made, "cinc2021.PAC") == {"E00001": 0, "E00015": 1, "E01000": 1, "E10344": 0}
    assert named(made, "cinc2021.LQRSV")["E00015"] == 1
    assert named(made, "cinc2021.RBBB")["E10344"] == 1


def test_a_code_inside_another_is_not_that_code_and_an_unknown_one_counts_once_a_record(tmp_path):
    folder = tmp_path / "root"
    write_record(folder, "E00001", dx="1637400201,426783006,1637400201")  # holds the digits of 6374002
    write_record(folder, "E00002", dx="6374002")
    made = index(folder)
    assert named(made, "cinc2021.BBB") == {"E00001": 0, "E00002": 1}
    assert [row["count"] for row in made.defects.to_pylist() if row["code"] == "code_unknown"] == [1]


def test_records_of_other_cohorts_in_the_same_folder_are_left_alone(tmp_path):
    for name in ("E00001", "A0001", "Q0001", "HR00001", "E000011"):
        write_record(tmp_path / "root", name)
    made = index(tmp_path / "root")
    assert made.ecgs["ecg_id"].to_pylist() == ["E00001"]
    assert defects(made)["headers", "other_headers"] == 4


def test_ages_lengths_and_names_are_as_the_headers_say(made):
    assert named(made, "age_years") == {"E00001": 53, "E01000": 71, "E10344": 66}
    assert "record_name_differs" not in {code for _, code in defects(made)}  # E01000.mat in the header is E01000
    record = read_ecg(made.file(made.ecgs["path"][1].as_py()))
    assert (record.signal.shape, record.leads) == ((12, 2500), STANDARD_LEADS)
    np.testing.assert_allclose(record.signal, samples_of(15, 2500) / 1000, atol=1e-6)
    assert defects(made)["headers", "age_missing"] == 1


def test_lengths_and_leads_that_nobody_described_are_counted(tmp_path):
    write_record(tmp_path / "root", "E00001", num=2000)
    path = write_record(tmp_path / "root", "E00002")
    path.write_text(path.read_text().replace(" 0 V6\n", " 0 V7\n"))
    found = defects(index(tmp_path / "root"))
    assert found["headers", "duration_unusual"] == found["headers", "leads_unexpected"] == 1


def test_a_record_that_is_there_twice_is_refused(tmp_path):
    write_record(tmp_path / "root" / "g1", "E00001")
    write_record(tmp_path / "root" / "g2", "E00001")
    with pytest.raises(UserError, match=r"E00001 is there twice, g1/E00001\.hea and g2/E00001\.hea"):
        index(tmp_path / "root")


def test_another_dataset_s_root_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"is not georgia: .* It looks like chapman"):
        index(write_chapman(tmp_path / "root"))
    with pytest.raises(UserError, match="is not a folder"):
        index(tmp_path / "nowhere")


def test_the_same_files_make_the_same_bytes(made, tmp_path):
    again = index(write_georgia(tmp_path / "root"))
    for file in again.path.glob("*.parquet"):
        assert file.read_bytes() == (made.path / file.name).read_bytes(), file.name
