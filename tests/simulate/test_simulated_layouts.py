"""Laws of the layouts: names, columns, encodings and quirks of each dataset, and that its own tools read it."""

from __future__ import annotations

import ast
import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wfdb

from ecgecho.io import ItemError
from ecgecho.io.wfdb import read as read_wfdb
from ecgecho.simulate import draw_heart, layouts, measurements, simulate, stream
from ecgecho.simulate.layouts import echonext, music, ptb_xl
from ecgecho.types import STANDARD_LEADS, UsageError

SMALL = {"seed": 5, "workers": 1, "echo_share": 0.1, "frames": 4, "size": (100, 120), "views": ("a4c",), "ecgs_per_subject": 3}


def made(base: Path, layout: str, subjects: int) -> Path:
    simulate(base / layout, layout=layout, subjects=subjects, **SMALL)  # type: ignore[arg-type]
    return base / layout


@pytest.fixture(scope="module")
def ptb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("l"), "ptb-xl", 40)


@pytest.fixture(scope="module")
def next_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("l"), "echonext", 30)


@pytest.fixture(scope="module")
def musical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("l"), "music", 3)


def plan_of(root: Path) -> layouts.Plan:
    said = json.loads((root / "simulated.json").read_text())
    said.pop("what")
    return layouts.Plan(**(said | {"size": tuple(said["size"]), "views": tuple(said["views"])}))


def table(path: Path, **words: str) -> list[dict[str, str]]:
    with path.open(newline="", encoding=words.pop("encoding", "utf-8")) as file:
        return list(csv.DictReader(file, **words))  # type: ignore[call-overload]


def truth(root: Path, kind: str) -> list[dict]:
    return [row for row in pq.read_table(root / "truth.parquet").to_pylist() if row["kind"] == kind]


def test_a_layout_is_found_by_its_name_and_a_near_miss_is_told() -> None:
    assert layouts.names() == ["echonext", "mimic-iv", "mimic-iv-echo-0.1", "music", "ptb-xl"]
    assert all(name == layouts.load(name).NAME for name in layouts.names())
    assert layouts.load("MIMIC_IV_ECHO_0.1").NAME == "mimic-iv-echo-0.1"
    with pytest.raises(UsageError, match="Did you mean 'ptb-xl'"):
        layouts.load("ptb-xxl")


def test_a_rerun_of_any_layout_finds_it_complete(ptb: Path, next_: Path, musical: Path) -> None:
    for root in (ptb, next_, musical):
        subjects = json.loads((root / "simulated.json").read_text())["subjects"]
        assert simulate(root, layout=root.name, subjects=subjects, **SMALL)["files_written"] == 0  # type: ignore[arg-type]


def test_ptb_xl_has_its_columns_codes_folds_and_two_rates(ptb: Path) -> None:
    rows = table(ptb / "ptbxl_database.csv")
    assert len(rows[0]) == 28
    assert list(rows[0])[:4] == ["ecg_id", "patient_id", "age", "sex"]
    statements = {row[""] for row in table(ptb / "scp_statements.csv")}
    folds: dict[str, set[str]] = {}
    for row in rows:
        codes = ast.literal_eval(row["scp_codes"])
        assert codes
        assert set(codes) <= statements
        assert all(isinstance(share, float) for share in codes.values())
        folds.setdefault(row["patient_id"], set()).add(row["strat_fold"])
        assert float(row["age"]) <= 89 or float(row["age"]) == 300
    assert all(len(fold) == 1 for fold in folds.values())
    for row in rows[:3]:
        high, low = wfdb.rdrecord(str(ptb / row["filename_hr"])), wfdb.rdrecord(str(ptb / row["filename_lr"]))
        assert (high.fs, high.sig_len, low.fs, low.sig_len) == (500, 5000, 100, 1000)
        assert high.sig_name == [lead.upper() for lead in STANDARD_LEADS]
        assert np.corrcoef(high.p_signal[::5, 1], low.p_signal[:, 1])[0, 1] > 0.9
        limb = high.p_signal
        flat = any(a["kind"] == "lead_off" for r in truth(ptb, "ecg") if r["ecg_id"] == row["ecg_id"] for a in r["artefacts_s"])
        assert flat or np.abs(limb[:, 0] + limb[:, 2] - limb[:, 1]).max() < 0.003
    assert not any(np.isnan(wfdb.rdrecord(str(ptb / row["filename_hr"])).p_signal).any() for row in rows)


def test_ptb_xl_codes_follow_the_heart(ptb: Path) -> None:
    hearts = {row["ecg_id"]: row for row in truth(ptb, "ecg")}
    for row in table(ptb / "ptbxl_database.csv"):
        codes, heart = ast.literal_eval(row["scp_codes"]), hearts[row["ecg_id"]]
        assert ("AFIB" in codes) == (heart["rhythm"] == "af")
        assert ("PACE" in codes) == (heart["rhythm"] == "paced")
        assert "NORM" not in codes or {ptb_xl.STATEMENTS[code][1] for code in codes} <= {"NORM", "form", "rhythm"}
    assert all(code in ptb_xl.STATEMENTS for _, code, _, _ in ptb_xl.PHRASES)


def test_echonext_rows_and_arrays_agree_and_values_are_standardised(next_: Path) -> None:
    rows = table(next_ / "echonext_metadata_100k.csv")
    arrays = {split: np.load(next_ / f"EchoNext_{split}_waveforms.npy", mmap_mode="r") for split in echonext.SPLITS}
    for split, array in arrays.items():
        mine = [row for row in rows if row["split"] == split]
        assert array.shape == (len(mine), 1, 2500, 12)
        assert array.dtype == np.float64
        assert np.load(next_ / f"EchoNext_{split}_tabular_features.npy").shape == (len(mine), 7)
    whole = np.concatenate([array[:, 0] for array in arrays.values()]).reshape(-1, 12)
    np.testing.assert_allclose(whole.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(whole.std(0), 1, atol=1e-6)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient_key"], set()).add(row["split"])
        assert row["split"] not in ("val", "test") or row["most_recent_ecg"] == "True"
    assert not any({"train"} < split for split in splits.values())
    age = np.concatenate([np.load(next_ / f"EchoNext_{split}_tabular_features.npy")[:, 1] for split in echonext.SPLITS])
    said = [float(row["age_at_ecg"]) for split in echonext.SPLITS for row in rows if row["split"] == split]
    assert np.corrcoef(age, said)[0, 1] > 0.999


def test_echonext_flags_are_those_of_the_values_beside_them_and_zero_where_nothing_was_measured() -> None:
    values = ("lvef_value", "ivs_measurement", "lvpw_measurement", "pasp_value", "tr_max_velocity_value")
    names = [*echonext.FLAGS, *values]
    seen: Counter[tuple[str, bool, bool]] = Counter()
    for index in range(800):
        heart = draw_heart(stream(5, index, "heart"), enrich=True)
        reading = measurements.read(heart, stream(5, index, "measurement"))
        row = dict(zip(names, echonext._labels(heart, reading, stream(5, index, "text")), strict=False))
        lvef, septum, posterior, pressure, velocity = (float(str(row[name]) or "nan") for name in values)
        wanted = {
            "lvef_lte_45_flag": (lvef, lvef <= 45),
            "lvwt_gte_13_flag": (septum, max(septum, posterior) >= 1.3),
            "pasp_gte_45_flag": (pressure, pressure >= 45),
            "tr_max_gte_32_flag": (velocity, velocity >= 3.2),
        }
        for name, (value, flag) in wanted.items():
            assert row[name] == int(flag), (name, value)
            seen[name, bool(np.isnan(value)), flag] += 1
        assert row["shd_moderate_or_greater_flag"] == int(any(row[flag] for flag in echonext.FLAGS[:-1]))
    for name in wanted:
        assert min(seen[name, False, True], seen[name, False, False], seen[name, True, False]) >= 5, name
        assert seen[name, True, True] == 0


def test_echonext_years_are_those_of_the_calendar(next_: Path) -> None:
    job = layouts.Job(out=next_, plan=plan_of(next_), tables_only=True)
    years = {}
    for index in range(30):
        who = job.person(index)
        years |= {str(ecg.ecg_id): str(who.year_0 + ecg.time.year - who.day_0.year) for ecg in who.ecgs}
    assert {row["ecg_key"]: row["acquisition_year"] for row in table(next_ / "echonext_metadata_100k.csv")} == years


def test_music_has_semicolons_decimal_commas_and_twenty_minutes_of_three_leads(musical: Path) -> None:
    content = (musical / "subject-info.csv").read_bytes()
    assert content.split(b"\r\n")[0].count(b";") == 104
    row = table(musical / "subject-info.csv", encoding="cp1252", delimiter=";")[1]
    assert "," in row["Weight (kg)"]
    heart = truth(musical, "subject")[1]
    assert abs(float(row["LVEF (%)"]) - heart["lvef"]) <= 4.5
    assert row["Holter available"] == "0"
    with pytest.raises(UnicodeDecodeError):
        (musical / "subject-info_definitions.csv").read_text(encoding="utf-8")
    names = (musical / "RECORDS").read_text().split()
    assert names[0] == "High-resolution_ECG/P0001_H"
    found = wfdb.rdrecord(str(musical / names[1]))
    assert (found.fs, found.sig_len, found.sig_name) == (1000, music.SAMPLES, ["X", "Y", "Z"])
    assert set(np.unique(found.p_signal[:9000])) == {0.0, 1.0}
    told = {row["path"]: row for row in truth(musical, "ecg")}
    assert 900 < len(told[names[1]]["r_times_s"]) < 3200
    for row in told.values():  # under the square wave nothing is left of the heart
        assert min(row["r_times_s"]) >= music.CALIBRATION_S
        assert all(artefact["start_s"] >= music.CALIBRATION_S for artefact in row["artefacts_s"])


def test_what_the_square_wave_of_music_covers_is_not_in_the_truth() -> None:
    row = {
        "r_times_s": [9.5, 10.2],
        "artefacts_s": [{"start_s": 2.0, "stop_s": 8.0}, {"start_s": 9.0, "stop_s": 12.0}, {"start_s": 20.0, "stop_s": 21.0}],
    }
    found = music._uncovered(row)
    assert found["r_times_s"] == [10.2]
    assert found["artefacts_s"] == [{"start_s": 10.0, "stop_s": 12.0}, {"start_s": 20.0, "stop_s": 21.0}]


def test_the_suspect_header_of_music_promises_two_thirds_of_its_file(musical: Path) -> None:
    header = musical / "High-resolution_ECG" / "P0001_H.hea"
    assert header.read_text().split()[3] == "797333"
    assert header.with_suffix(".dat").stat().st_size == 7_176_000
    with pytest.raises(ItemError):
        read_wfdb(header)


def test_version_0_1_of_the_echo_module_has_no_measurements(tmp_path: Path) -> None:
    root = made(tmp_path, "mimic-iv-echo-0.1", 20)
    assert not list(root.rglob("structured*"))
    studies = table(root / "mimic-iv-echo" / "echo-study-list.csv")
    assert list(studies[0]) == ["subject_id", "study_id", "study_datetime", "note_id", "note_seq", "note_charttime"]
    assert {row["study_id"] for row in truth(root, "clip")} == {row["study_id"] for row in studies}
    assert gzip.decompress((root / "hosp" / "patients.csv.gz").read_bytes()).count(b"\n") == 21
