"""MUSIC: excerpts behind the square wave, records that cannot be used, labels without dates; trees in the published layout."""

import numpy as np
import pytest
from music_tree import COLUMNS, PATIENTS, write_music, write_people, write_record

from ecgecho import pairs
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import music
from ecgecho.io import read_ecg
from ecgecho.io.wfdb import read as read_wfdb
from ecgecho.simulate import simulate
from ecgecho.types import UserError


@pytest.fixture
def root(tmp_path):
    return write_music(tmp_path / "music-1.0.1")


def index(root, out, **settings):
    return music.build(music.Config(**settings)).index(root, out, options=IndexOptions(workers=0))


def labels(made):
    return {(one["ecg_id"], one["name"]): one["value"] for one in made.labels.to_pylist()}


def defects(made):
    found = {}
    for one in made.defects.to_pylist():
        found[one["item"], one["code"]] = found.get((one["item"], one["code"]), 0) + one["count"]
    return found


def test_an_ecg_is_an_excerpt_behind_the_square_wave(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert made.ecgs["ecg_id"].to_pylist() == ["P0001_H", "P0002_H", "P0071_H"]
    assert made.ecgs["subject_id"].to_pylist() == ["P0001", "P0002", "P0071"]
    source = made.ecg_sources(made.ecgs)["P0001_H"]
    assert (source.start_s, source.duration_s, source.leads, source.unit) == (30.0, 10.0, (), None)
    record = read_wfdb(made.file("High-resolution_ECG/P0001_H"))
    assert record.leads == ("X", "Y", "Z")
    excerpt = record.signal[:, 30_000:40_000]
    np.testing.assert_array_equal(np.unique(excerpt), (np.arange(30, 40) / 100).astype(np.float32))
    assert set(np.unique(record.signal[:, :30_000])) == {0, 1}
    np.testing.assert_array_equal(read_ecg(made.file("High-resolution_ECG/P0001_H"), source).signal, excerpt)


def test_several_excerpts_have_ids_of_their_own_and_the_labels_of_their_patient(root, tmp_path):
    made = index(root, tmp_path / "cat", excerpts=4, every_s=25.0)
    assert made.ecgs["ecg_id"].to_pylist()[:4] == ["P0001_H@30s", "P0001_H@55s", "P0001_H@80s", "P0002_H@30s"]
    assert made.ecgs["start_s"].to_pylist()[:3] == [30, 55, 80]
    assert defects(made)["ecgs", "excerpt_outside"] == 3
    assert [labels(made)[f"P0001_H@{start}s", "lvef"] for start in (30, 55, 80)] == [37.5] * 3


def test_the_holter_is_another_folder_and_its_records_without_z_are_left_out(root, tmp_path):
    made = index(root, tmp_path / "cat", recording="holter")
    assert made.ecgs["path"].to_pylist() == ["Holter_ECG/P0001", "Holter_ECG/P0002", "Holter_ECG/P0071"]
    found = defects(made)
    assert (found["holter", "no_frank_leads"], found["holter", "trailing_bytes"]) == (2, 1)
    assert ("holter", "lists_differ") not in found
    write_record(root / "Holter_ECG", "P0071", fs=200, seconds=60, leads="XY")
    assert defects(index(root, tmp_path / "cat", recording="holter"))["holter", "lists_differ"] == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seconds": 120, "said": 80_000}, "length_disagrees"),
        ({"seconds": 60, "said": 80_000}, "truncated"),
        ({"seconds": 60, "said": 0}, "length_disagrees"),
        ({"seconds": 60, "leads": "XY"}, "no_frank_leads"),
        ({"seconds": 60, "leads": ("I", "II", "V1")}, "no_frank_leads"),
        ({"seconds": 60, "trailing": 2}, "length_disagrees"),
    ],
)
def test_records_that_are_not_what_their_header_says_are_left_out(root, tmp_path, change, code):
    write_record(root / "High-resolution_ECG", "P0001_H", fs=1000, **change)
    made = index(root, tmp_path / "cat")
    assert made.ecgs["ecg_id"].to_pylist() == ["P0002_H", "P0071_H"]
    assert defects(made)["high_resolution", code] >= 1
    assert defects(made)["subjects", "no_waveforms"] == 2  # P0070 is one as it is


def test_a_dat_that_comes_later_is_found(root, tmp_path):
    dat = root / "High-resolution_ECG" / "P0001_H.dat"
    dat.rename(tmp_path / "later")
    made = index(root, tmp_path / "cat")
    assert "P0001_H" not in made.ecgs["ecg_id"].to_pylist()
    assert defects(made)["high_resolution", "missing_file"] == 1
    (tmp_path / "later").rename(dat)
    assert "P0001_H" in index(root, tmp_path / "cat").ecgs["ecg_id"].to_pylist()


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "P0001_H x 1000 5\n", "P0001_H 3 1000 99999999999\n", "P0001_H/2 3 1000 5\n"]
)
def test_a_damaged_header_leaves_its_record_out(root, tmp_path, text):
    (root / "High-resolution_ECG" / "P0001_H.hea").write_text(text)
    made = index(root, tmp_path / "cat")
    assert made.ecgs["ecg_id"].to_pylist() == ["P0002_H", "P0071_H"]


def test_a_header_may_name_no_file_elsewhere(root, tmp_path):
    header = root / "High-resolution_ECG" / "P0001_H.hea"
    header.write_text(header.read_text().replace("P0001_H.dat", "../secret.dat"))
    assert defects(index(root, tmp_path / "cat"))["high_resolution", "unsafe_file_name"] == 1


def test_labels_have_decimal_commas_no_sentinels_and_no_wall_from_the_ecg(root, tmp_path):
    made = index(root, tmp_path / "cat")
    found = labels(made)
    assert found["P0001_H", "lvef"] == 37.5
    assert (found["P0001_H", "wall_mm"], found["P0002_H", "wall_mm"], found["P0071_H", "wall_mm"]) == (11, 16.5, 10.2)
    assert found["P0001_H", "lvedd_mm"] == 61
    assert ("P0002_H", "lvef") not in found
    assert ("P0002_H", "music.age_years") not in found
    assert (defects(made)["subjects", "sentinel"], defects(made)["subjects", "age_capped"]) == (1, 1)
    assert found["P0001_H", "music.follow_up_days"] == 1805
    assert not {name for _, name in found if "lvh" in name} - {"music.ecg_lvh"}
    words = {one["ecg_id"]: one["definition"] for one in made.labels_named("wall_mm").to_pylist()}
    assert words == {
        "P0001_H": "the thicker of septum and posterior wall",
        "P0002_H": "the thicker of septum and posterior wall",
        "P0071_H": "posterior wall alone",
    }


def test_labels_without_a_date_reach_every_ecg_of_their_patient(root, tmp_path):
    made = index(root, tmp_path / "cat", excerpts=2)
    np.testing.assert_array_equal(
        pairs.label_values(made, ["P0001_H@90s", "P0002_H@30s", "P0071_H@90s"], "lvef"), [37.5, np.nan, 37.5]
    )


def test_deaths_are_by_code_and_the_lost_are_alive_at_the_end(root, tmp_path):
    found = labels(index(root, tmp_path / "cat"))
    sudden, pump = "music.sudden_cardiac_death", "music.pump_failure_death"
    assert [found["P0002_H", name] for name in ("music.death", sudden, pump)] == [1, 1, 0]
    assert [found["P0071_H", name] for name in ("music.death", sudden, pump)] == [0, 0, 0]
    holter = PATIENTS | {"P0001": {"Exit of the study": "3", "Cause of death": "7"}}
    write_people(root / "subject-info.csv", holter)
    found = labels(index(root, tmp_path / "cat2", recording="holter"))
    assert [found["P0001", name] for name in ("music.death", sudden, pump)] == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"Exit of the study": "0", "Cause of death": "3"}, "columns_differ"),
        ({"Exit of the study": "3", "Cause of death": "0"}, "columns_differ"),
        ({"Exit of the study": "3", "Cause of death": "5"}, "unknown_code"),
        ({"Exit of the study": "", "Cause of death": ""}, ""),
    ],
)
def test_a_death_that_the_columns_do_not_agree_on_is_no_label(root, tmp_path, values, code):
    write_people(root / "subject-info.csv", PATIENTS | {"P0001": values})
    made = index(root, tmp_path / "cat")
    assert not {name for ecg, name in labels(made) if ecg == "P0001_H"} & set(music.DEATHS)
    assert not code or defects(made)["subjects", code] == 1


@pytest.mark.parametrize(
    ("column", "value", "name", "left"),
    [
        ("LVEF (%)", "0,35", "lvef", None),
        ("LVEF (%)", "120", "lvef", None),
        ("LVEF (%)", "ca. 40", "lvef", None),
        ("Septal thickness (mm)", "1,1", "wall_mm", 10.2),
    ],
)
def test_a_label_out_of_its_range_is_a_defect(root, tmp_path, column, value, name, left):
    write_people(root / "subject-info.csv", PATIENTS | {"P0001": {column: value}})
    made = index(root, tmp_path / "cat")
    assert labels(made).get(("P0001_H", name)) == left
    assert {("subjects", "out_of_range"), ("subjects", "not_a_number")} & set(defects(made))


def test_the_table_may_be_in_either_encoding_with_or_without_a_mark(root, tmp_path):
    before = labels(index(root, tmp_path / "cat"))
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "latin-1")):
        write_people(root / "subject-info.csv", PATIENTS, encoding)
        assert labels(index(root, tmp_path / f"cat{number}")) == before
    path = root / "subject-info.csv"
    path.write_bytes(path.read_bytes().replace(b"Weight (kg)", b"Weight\x81 (kg)"))  # of neither encoding
    assert labels(index(root, tmp_path / "odd")) == before


def test_two_rows_of_a_patient_that_differ_are_refused_and_equal_ones_are_one(root, tmp_path):
    path = root / "subject-info.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[2]]))
    assert defects(index(root, tmp_path / "cat"))["subjects", "row_twice"] == 1
    path.write_bytes(b"".join([*lines, lines[2].replace(b"16,5", b"9,5")]))
    with pytest.raises(UserError, match="P0002 stands twice"):
        index(root, tmp_path / "cat")


def test_a_record_of_an_unknown_patient_has_no_labels(root, tmp_path):
    write_people(root / "subject-info.csv", {name: PATIENTS[name] for name in ("P0001", "P0002")})
    made = index(root, tmp_path / "cat")
    assert "P0071_H" in made.ecgs["ecg_id"].to_pylist()
    assert not {name for ecg, name in labels(made) if ecg == "P0071_H"}
    assert defects(made)["ecgs", "subject_unknown"] == 1


def test_a_renamed_column_a_missing_folder_and_another_root_are_refused(root, tmp_path):
    write_people(root / "subject-info.csv", PATIENTS, columns=["EF" if name == "LVEF (%)" else name for name in COLUMNS])
    with pytest.raises(UserError, match=r"no column 'LVEF \(%\)'"):
        index(root, tmp_path / "cat")
    write_people(root / "subject-info.csv", PATIENTS)
    (root / "Holter_ECG").rename(root / "holters")
    with pytest.raises(UserError, match="there is no folder Holter_ECG"):
        index(root, tmp_path / "cat", recording="holter")
    write_music(root / "music-1.0.0")
    with pytest.raises(UserError, match="two candidates for the part"):
        index(root, tmp_path / "cat")
    with pytest.raises(UserError, match="is not music: there is no subject-info.csv"):
        index(root / "holters", tmp_path / "cat")


@pytest.mark.parametrize(
    "settings", [{"start_s": -1}, {"duration_s": 0}, {"excerpts": 0}, {"every_s": 5}, {"recording": "Holter"}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError):  # noqa: PT011  # each has words of its own
        music.Config(**settings)


def test_the_simulated_layout_is_read(tmp_path):
    simulate(tmp_path / "sim", layout="music", subjects=3, seed=5, workers=1)
    made = index(tmp_path / "sim", tmp_path / "cat")
    assert "P0001_H" not in made.ecgs["ecg_id"].to_pylist()
    assert defects(made)["high_resolution", "length_disagrees"] == 1
    assert made.ecgs.num_rows >= 1
    assert {"lvef", "wall_mm", "lvedd_mm", "music.ecg_lvh", "music.death"} <= {name for _, name in labels(made)}
