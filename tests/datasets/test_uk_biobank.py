"""UK Biobank: names of files, times out of the XML and nothing else, labels of a table of one's own."""

from datetime import datetime

import numpy as np
import pytest
from uk_biobank_tree import FILES, MARK, document, write_uk_biobank

from ecgecho import catalog, keys, pairs
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import uk_biobank
from ecgecho.io import read_ecg
from ecgecho.types import UserError

FIRST = "1000037_20205_2_0"


@pytest.fixture
def root(tmp_path):
    return write_uk_biobank(tmp_path / "Resting")


def index(root, out, options=None, **settings):
    return uk_biobank.build(uk_biobank.Config(**settings)).index(root, out, options=options or IndexOptions(workers=0))


def labels(made):
    return {(one["ecg_id"], one["name"]): one["value"] for one in made.labels.to_pylist()}


def defects(made):
    found = {}
    for one in made.defects.to_pylist():
        found[one["item"], one["code"]] = found.get((one["item"], one["code"]), 0) + one["count"]
    return found


def test_an_ecg_is_a_file_of_field_20205_with_the_time_in_it(root, tmp_path):
    made = index(root, tmp_path / "cat")
    rows = {one["ecg_id"]: one for one in made.ecgs.to_pylist()}
    assert sorted(rows) == [FIRST, "1000037_20205_3_0", "2000011_20205_2_0", "2000022_20205_2_0"]
    assert rows[FIRST]["subject_id"] == "1000037"
    assert rows[FIRST]["path"] == f"10/{FIRST}.xml"
    assert rows[FIRST]["time"] == datetime(2015, 6, 14, 9, 31, 5)
    assert rows["2000022_20205_2_0"]["time"] is None
    found = defects(made)
    assert (found["ecg", "time_missing"], found["ecg", "exercise_ecg"], found["ecg", "out_of_range"]) == (1, 1, 1)
    sexes = dict(zip(made.subjects["subject_id"].to_pylist(), made.subjects["sex"].to_pylist(), strict=True))
    assert sexes == {"1000037": "female", "2000011": "male", "2000022": "female"}


@pytest.mark.parametrize(
    ("day", "time"),
    [
        ("14</Day><Day>", datetime(2015, 6, 14, 9, 31, 5)),
        ("", None),
        ("14.5", None),
        ("0", None),
    ],
)
def test_a_day_that_is_none_gives_no_time(root, tmp_path, day, time):
    (root / "10" / f"{FIRST}.xml").write_bytes(document(day=day))
    assert index(root, tmp_path / "cat").ecgs["time"][0].as_py() == time


def test_an_hour_without_minutes_is_that_hour(root, tmp_path):
    content = document().replace(b"<Minute>31</Minute><Second>5</Second>", b"")
    (root / "10" / f"{FIRST}.xml").write_bytes(content)
    assert index(root, tmp_path / "cat").ecgs["time"][0].as_py() == datetime(2015, 6, 14, 9)


def test_the_signal_of_an_ecg_is_that_of_its_file(root, tmp_path):
    made = index(root, tmp_path / "cat")
    for number, path in enumerate(made.ecgs["path"].to_pylist(), start=1):
        record = read_ecg(made.file(path))
        np.testing.assert_allclose(record.signal[0], (number * 10 + np.arange(500)) * 5 / 1000, rtol=1e-6)


def test_nothing_but_time_sex_and_measurements_leaves_the_file(root, tmp_path):
    made = index(root, tmp_path / "cat")
    for file in made.path.iterdir():
        content = file.read_bytes()
        assert MARK.encode() not in content
        assert b"1951" not in content
        assert b"Sinusrhythmus" not in content
    for name in catalog.SCHEMAS:
        words = str(made.table(name).to_pylist())
        assert not any(word in words for word in (MARK, "Sinusrhythmus", "1951", "ller"))


def test_the_carts_measurements_are_labels_where_their_unit_is_known(root, tmp_path):
    (root / "20" / "2000011_20205_2_0.xml").write_bytes(document(unit="1/s", rate="61"))
    found = labels(index(root, tmp_path / "cat"))
    assert found[FIRST, "uk_biobank.ventricular_rate"] == 61
    assert (found[FIRST, "uk_biobank.qtc_interval"], found[FIRST, "uk_biobank.r_axis"]) == (403, -12)
    assert ("2000011_20205_2_0", "uk_biobank.ventricular_rate") not in found
    assert ("2000011_20205_2_0", "uk_biobank.qt_interval") in found


def test_the_columns_of_a_table_are_labels_of_one_visit_when_they_are_named(root, tmp_path):
    assert not {"lvef", "edv_ml"} & {name for _, name in labels(index(root, tmp_path / "cat"))}
    made = index(root, tmp_path / "cat2", lvef="p22420_i2", edv_ml="p22421_i2")
    found = {key: value for key, value in labels(made).items() if not key[1].startswith("uk_biobank.")}
    assert found == {(FIRST, "lvef"): 61.5, (FIRST, "edv_ml"): 140}
    assert defects(made)["labels", "out_of_range"] == 1  # a share is no percentage
    assert defects(made)["labels", "not_listed"] == 1
    assert "p22420_i2 of labels.csv" in made.labels_named("lvef")["definition"][0].as_py()
    later = index(root, tmp_path / "cat3", lvef="p22420_i2", instance=3)
    assert {key for key in labels(later) if key[1] == "lvef"} == {("1000037_20205_3_0", "lvef")}


def test_labels_reach_an_ecg_without_a_time(root, tmp_path):
    (root / "labels.csv").write_text("participant.eid,participant.p22420_i2\n2000022,48\n")
    made = index(root, tmp_path / "cat", eid="participant.eid", lvef="participant.p22420_i2")
    np.testing.assert_array_equal(pairs.label_values(made, ["2000022_20205_2_0", FIRST], "lvef"), [48, np.nan])


def test_who_withdrew_is_left_out(root, tmp_path):
    (root / "withdrawn.csv").write_text("1000037\n-1\n")
    made = index(root, tmp_path / "cat")
    assert "1000037" not in made.subjects["subject_id"].to_pylist()
    assert defects(made)["ecg", "withdrawn"] == 2


def test_two_visits_stand_in_one_split(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert {one["split"] for one in made.pairs.to_pylist() if one["subject_id"] == "1000037"} == {
        pairs.split_of("uk-biobank", "1000037")
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (document()[:500], "damaged_header"),
        (b"<RestingECG></RestingECG>", "not_ecg"),
        (document(kind="Exercise ECG"), "not_resting"),
        (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><CardiologyXML>&b;</CardiologyXML>', "unsafe_xml"),
    ],
)
def test_a_damaged_file_leaves_only_itself_out(root, tmp_path, content, code):
    (root / "10" / f"{FIRST}.xml").write_bytes(content)
    made = index(root, tmp_path / "cat")
    assert made.ecgs.num_rows == 3
    assert defects(made)["ecg", code] == 1


def test_a_file_that_is_added_is_found_and_the_others_are_not_read_again(root, tmp_path, monkeypatch):
    index(root, tmp_path / "cat")
    read = []
    parse = uk_biobank.xml.parse
    monkeypatch.setattr(uk_biobank.xml, "parse", lambda path, roots: (read.append(path.name), parse(path, roots))[1])
    assert index(root, tmp_path / "cat").unchanged
    (root / "10" / "1000099_20205_2_0.xml").write_bytes(document())
    assert index(root, tmp_path / "cat").ecgs.num_rows == 5
    assert read == ["1000099_20205_2_0.xml"]


def test_times_that_were_not_shifted_are_kept_nowhere_beside_pseudonyms(root, tmp_path):
    keys.make(tmp_path / "key")
    made = index(root, tmp_path / "cat", IndexOptions(workers=0, pseudonymise=str(tmp_path / "key")))
    assert made.ecgs["time"][0].as_py() != datetime(2015, 6, 14, 9, 31, 5)
    for file in made.path.iterdir():
        assert b"2015-06-1" not in file.read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lvef": "p22420"}, "no column 'p22420'.*Did you mean 'p22420_i2'"),
        ({"eid": "id", "lvef": "p22420_i2"}, "no column 'id'"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_a_near_miss(root, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        index(root, tmp_path / "cat", **settings)


def test_a_setting_without_a_table_a_file_twice_and_another_root_are_refused(root, tmp_path):
    (root / "labels.csv").write_text("eid,ef\n1000037,60\n1000037,61\n")
    with pytest.raises(UserError, match="eid 1000037 stands twice"):
        index(root, tmp_path / "cat", lvef="ef")
    (root / "labels.csv").unlink()
    with pytest.raises(UserError, match="there is no table for ef"):
        index(root, tmp_path / "cat", lvef="ef")
    (root / "20" / f"{FIRST}.xml").write_bytes(FILES[f"10/{FIRST}.xml"])
    with pytest.raises(UserError, match=f"two files are named {FIRST}.xml"):
        index(root, tmp_path / "cat")
    (tmp_path / "exercise").mkdir()
    (tmp_path / "exercise" / "1000037_6025_0_0.xml").write_bytes(document())
    with pytest.raises(UserError, match="is not uk_biobank"):
        index(tmp_path / "exercise", tmp_path / "cat")
