"""Laws of the cohort on disk in the layout of MIMIC-IV, and of the job that writes it."""

from __future__ import annotations

import csv
import fcntl
import gzip
import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import wfdb
from command_line import ecgecho

from ecgecho.io import scan_echo
from ecgecho.simulate import USER_SEEDS, draw_heart, simulate, stream, write
from ecgecho.simulate.ecg import LEADS
from ecgecho.simulate.echo import VIEWS
from ecgecho.simulate.layouts import mimic_iv
from ecgecho.types import UsageError, UserError

SMALL = {
    "subjects": 50,
    "seed": 21,
    "echo_share": 0.04,
    "frames": 6,
    "size": (150, 200),
    "views": ("a4c", "plax"),
    "ecgs_per_subject": 2,
    "enrich": True,
}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "c"
    simulate(out, workers=1, **SMALL)  # type: ignore[arg-type]
    return out


def rows(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return list(csv.DictReader(text.splitlines(keepends=True)))


def truth(cohort: Path, kind: str) -> list[dict]:
    return [row for row in pq.read_table(cohort / "truth.parquet").to_pylist() if row["kind"] == kind]


def test_any_number_of_workers_writes_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "c", workers=2, **SMALL)  # type: ignore[arg-type]
    assert digest(tmp_path / "c") == digest(cohort)


def test_tables_alone_are_the_tables_of_the_whole_and_the_files_can_be_added(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    simulate(out, workers=1, tables_only=True, **SMALL)  # type: ignore[arg-type]
    assert not [path for path in out.rglob("*") if path.suffix in (".dat", ".hea", ".dcm")]
    whole = digest(cohort)
    assert all(whole[path] == value for path, value in digest(out).items())
    simulate(out, workers=1, **SMALL)  # type: ignore[arg-type]
    assert digest(out) == whole


def test_a_rerun_writes_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "c"
    plan = SMALL | {"subjects": 6, "echo_share": 0.34}
    assert simulate(out, workers=1, **plan)["files_written"] > 0  # type: ignore[arg-type]
    before = digest(out)
    assert simulate(out, workers=1, **plan)["files_written"] == 0  # type: ignore[arg-type]
    next(out.rglob("*.dcm")).unlink()
    data = next(out.rglob("*.dat"))
    data.write_bytes(data.read_bytes()[:1000])
    (out / "truth.parquet").unlink()
    (out / "note" / ".discharge.csv.gz.tmp").write_bytes(b"what a killed job leaves")
    assert simulate(out, workers=1, **plan)["files_written"] == 3  # type: ignore[arg-type]
    assert digest(out) == before


def test_a_job_that_stops_leaves_no_table_and_the_next_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "c"
    plan = SMALL | {"subjects": 8}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(out, workers=1, progress=stop, **plan)  # type: ignore[arg-type]
    assert not [path for path in out.rglob("*") if ".csv" in path.name or path.suffix == ".parquet"]
    kept = digest(out)
    simulate(out, workers=1, **plan)  # type: ignore[arg-type]
    assert kept.items() <= digest(out).items()


def test_another_cohort_or_a_strange_folder_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another simulated cohort"):
        simulate(cohort, workers=1, **(SMALL | {"seed": 22}))  # type: ignore[arg-type]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        simulate(tmp_path, workers=1, **SMALL)  # type: ignore[arg-type]
    old = tmp_path / "old"
    old.mkdir()
    (old / "simulated.json").write_text('{"version": 1}')
    with pytest.raises(UserError, match="version 1 of the simulator"):
        simulate(old, workers=1, **SMALL)  # type: ignore[arg-type]
    (old / "simulated.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        simulate(old, workers=1, **SMALL)  # type: ignore[arg-type]


def test_two_jobs_cannot_write_one_folder(cohort: Path) -> None:
    with (cohort / "simulated.json").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another job"):
            simulate(cohort, workers=1, **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": USER_SEEDS},
        {"seed": -1},
        {"subjects": 1},
        {"echo_share": 1.5},
        {"frames": 1},
        {"size": (8, 8)},
        {"ecgs_per_subject": 0},
        {"difficulty": 1.2},
        {"years": -1},
        {"views": ("a4d",)},
        {"views": ()},
        {"views": ("a4c", "a4c")},
        {"layout": "mimic"},
    ],
)
def test_what_cannot_be_simulated_is_refused_before_anything_is_written(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        simulate(tmp_path / "c", **(SMALL | change))  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--views", "a4c,plaax"), "Did you mean 'plax'?"),
        (("--layout", "mimic-vi"), "Did you mean 'mimic-iv'?"),
        (("--resolution", "big"), "300x400"),
        (("--resolution", "30x40"), "from 64 to 2048"),
    ],
)
def test_a_misspelt_option_is_told_what_was_meant(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = ecgecho("simulate", tmp_path / "c", "--subjects", 4, "--tables-only", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_the_next_command_is_named_only_where_it_works(tmp_path: Path) -> None:
    for layout, told in (("mimic-iv", True), ("ptb-xl", True), ("music", False)):
        done = ecgecho("simulate", tmp_path / layout, "--subjects", 2, "--layout", layout, "--tables-only")
        assert done.returncode == 0
        assert ("next: " in done.stdout) == told


def test_users_cannot_take_the_shipped_seeds_and_training_cannot_take_the_users(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        simulate(tmp_path / "c", shipped_training=True, **SMALL)  # type: ignore[arg-type]


def test_tables_and_files_agree(cohort: Path) -> None:
    ecgs = rows(cohort / "mimic-iv-ecg" / "record_list.csv")
    machine = rows(cohort / "mimic-iv-ecg" / "machine_measurements.csv")
    assert [row["study_id"] for row in ecgs] == [row["study_id"] for row in machine]
    assert tuple(machine[0]) == mimic_iv.MACHINE
    assert all(row["report_0"] for row in machine)
    assert len({row["study_id"] for row in ecgs}) == len(ecgs)
    for row in ecgs:
        for suffix in (".hea", ".dat"):
            assert (cohort / "mimic-iv-ecg" / (row["path"] + suffix)).is_file()
    clips = rows(cohort / "mimic-iv-echo" / "echo-record-list.csv")
    studies = rows(cohort / "mimic-iv-echo" / "echo-study-list.csv")
    assert len({row["subject_id"] for row in studies}) == 2
    assert all((cohort / "mimic-iv-echo" / row["dicom_filepath"]).is_file() for row in clips)
    assert {row["study_id"] for row in clips} == {row["study_id"] for row in studies}
    patients = {row["subject_id"] for row in rows(cohort / "hosp" / "patients.csv.gz")}
    measured = rows(cohort / "mimic-iv-echo" / "structured-measurement.csv.gz")
    assert len(patients) == 50
    assert {row["subject_id"] for row in measured} == patients
    assert {row["measurement_id"] for row in studies} <= {row["measurement_id"] for row in measured}
    assert {row["subject_id"] for row in ecgs} == patients
    stays = {row["hadm_id"] for row in rows(cohort / "hosp" / "admissions.csv.gz")}
    assert {row["hadm_id"] for row in rows(cohort / "note" / "discharge.csv.gz")} <= stays
    assert {row["hadm_id"] for row in rows(cohort / "hosp" / "diagnoses_icd.csv.gz")} == stays
    named = {row["icd_code"] for row in rows(cohort / "hosp" / "d_icd_diagnoses.csv.gz")}
    assert {row["icd_code"] for row in rows(cohort / "hosp" / "diagnoses_icd.csv.gz")} <= named


def test_every_event_has_the_state_of_its_day(cohort: Path) -> None:
    """A heart that drifts differs between events; on day 0 it is the subject's."""
    subjects = {row["subject_id"]: row for row in truth(cohort, "subject")}
    assert len(subjects) == 50
    events = truth(cohort, "ecg") + truth(cohort, "clip") + truth(cohort, "note")
    assert {row["ecg_id"] for row in events if row["ecg_id"]} == {
        row["study_id"] for row in rows(cohort / "mimic-iv-ecg" / "record_list.csv")
    }
    for row in events:
        assert abs(row["lvef"] - subjects[row["subject_id"]]["lvef"]) <= 12 + 10 + 0.1
        assert row["esv_ml"] == pytest.approx(row["edv_ml"] * (1 - row["lvef"] / 100), abs=0.02)
    assert any(row["lvef"] != subjects[row["subject_id"]]["lvef"] for row in events)
    assert all(row["lvef"] == subjects[row["subject_id"]]["lvef"] for row in events if row["days"] == 0)


def test_the_reported_lvef_and_wall_are_the_truth_within_their_error(cohort: Path) -> None:
    hearts = {row["subject_id"]: row for row in truth(cohort, "subject")}
    first = {
        row["subject_id"]: row["measurement_id"]
        for row in reversed(rows(cohort / "mimic-iv-echo" / "structured-measurement.csv.gz"))
    }
    walls: dict[str, float] = {}
    for row in rows(cohort / "mimic-iv-echo" / "structured-measurement.csv.gz"):
        heart = hearts[row["subject_id"]]
        if row["measurement_id"] != first[row["subject_id"]]:
            continue
        if row["measurement"] in ("lvef", "biplane_lvef", "lvef_3d"):
            assert abs(float(row["result"].rstrip("%")) - heart["lvef"]) <= 10.5
        elif row["measurement"] in ("septal_thickness", "inf_lat_thickness"):
            value = float(row["result"])
            walls[row["subject_id"]] = max(walls.get(row["subject_id"], 0), value if value > 3 else 10 * value)
    assert np.median([abs(walls[who] - hearts[who]["wall_mm"]) for who in walls]) <= 0.8


def test_wfdb_reads_a_record_with_leads_gain_checksum_beats_and_artefacts(cohort: Path) -> None:
    row = rows(cohort / "mimic-iv-ecg" / "record_list.csv")[0]
    path = cohort / "mimic-iv-ecg" / row["path"]
    found = wfdb.rdrecord(str(path))
    assert found.sig_name == list(LEADS)
    assert (found.fs, found.sig_len, set(found.adc_gain), set(found.units)) == (500, 5000, {200.0}, {"mV"})
    digital = wfdb.rdrecord(str(path), physical=False).d_signal
    assert [int(column.astype(np.int64).sum() + 32768) % 65536 - 32768 for column in digital.T] == list(found.checksum)
    assert all(4 <= len(event["r_times_s"]) <= 30 for event in truth(cohort, "ecg"))
    artefacts = [(event["path"], a) for event in truth(cohort, "ecg") for a in event["artefacts_s"]]
    assert artefacts
    for path, artefact in artefacts:
        signal = wfdb.rdrecord(str(cohort / path)).p_signal[:, LEADS.index(artefact["lead"])]
        inside = signal[round(artefact["start_s"] * 500) + 1 : round(artefact["stop_s"] * 500) - 1]
        if artefact["kind"] == "invalid":
            assert np.isnan(inside).all()
        elif artefact["kind"] == "lead_off":
            assert np.isnan(inside).any() or np.ptp(inside) == 0


def test_pydicom_reads_a_cine_as_it_was_drawn(cohort: Path) -> None:
    row = next(r for r in truth(cohort, "clip") if r["content"] == "cine" and not r["quirks"])
    ds = pydicom.dcmread(cohort / row["path"])
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.3.1"
    assert ds.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
    assert ds.PhotometricInterpretation == "YBR_FULL_422"
    assert float(ds.FrameTime) == row["frame_time_ms"]
    assert b"JFIF" in next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))[:20]
    frames = ds.pixel_array
    assert frames.shape == (6, 150, 200, 3)
    region = ds.SequenceOfUltrasoundRegions[0]
    polygon = np.array(row["sector_polygon"]).reshape(-1, 2)
    assert region.RegionLocationMinX0 <= polygon[:, 0].min() + 1
    assert region.RegionLocationMaxX1 >= polygon[:, 0].max() - 1
    assert (region.RegionSpatialFormat, region.RegionDataType, region.PhysicalUnitsXDirection) == (1, 1, 3)
    red, green = frames[..., 0].astype(int), frames[..., 1].astype(int)
    assert ((green - red) > 60).any(), "the trace is green, so colours were decoded right"
    assert len(row["volume_ml"]) == 6


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with stills, Doppler, M-mode and all quirks among its cines."""
    out = tmp_path_factory.mktemp("kinds") / "c"
    simulate(out, workers=1, **(SMALL | {"subjects": 12, "echo_share": 1.0, "frames": 3, "size": (100, 120), "seed": 3}))  # type: ignore[arg-type]
    return out


def test_a_study_holds_every_kind_of_file_and_every_quirk_somewhere(every_kind: Path) -> None:
    clips = truth(every_kind, "clip")
    assert {row["content"] for row in clips} == {"cine", "still", "spectral", "colour", "m_mode"}
    assert {quirk for row in clips for quirk in row["quirks"] or ()} == set(write.QUIRKS)
    for row in clips:
        header = scan_echo(every_kind / row["path"])
        assert header.kind == {"cine": "b_mode", "colour": "colour"}.get(row["content"], header.kind)
        assert row["content"] in ("cine", "colour") or header.kind in (row["content"], "still")
        assert ("no_regions" in header.defects) == ("no_regions" in (row["quirks"] or ()))
        if row["content"] == "cine":
            assert header.frame_time_ms == pytest.approx(row["frame_time_ms"], rel=0.1)
        regions = pydicom.dcmread(every_kind / row["path"], stop_before_pixels=True).get("SequenceOfUltrasoundRegions", [])
        formats = {region.RegionSpatialFormat for region in regions}
        if row["content"] in ("spectral", "m_mode"):
            assert {"spectral": 3, "m_mode": 2}[row["content"]] in formats
        else:
            assert formats <= {1}
        if row["content"] == "spectral":
            assert {region.RegionDataType for region in regions if region.RegionSpatialFormat == 3} <= {3, 4}


def test_the_order_in_which_views_are_asked_for_changes_nothing(tmp_path: Path) -> None:
    plan = SMALL | {"subjects": 4, "tables_only": True}
    simulate(tmp_path / "c", workers=1, **(plan | {"views": ("plax", "a4c")}))  # type: ignore[arg-type]
    assert simulate(tmp_path / "c", workers=1, **(plan | {"views": ("a4c", "plax")}))["files_written"] == 0  # type: ignore[arg-type]


def test_the_cines_of_studies_come_in_many_orders(tmp_path: Path) -> None:
    plan = SMALL | {"subjects": 40, "echo_share": 1.0, "tables_only": True, "views": VIEWS}
    simulate(tmp_path / "c", workers=1, **plan)  # type: ignore[arg-type]
    studies: dict[str, list[str]] = {}
    for row in truth(tmp_path / "c", "clip"):
        if row["content"] == "cine":
            studies.setdefault(row["study_id"], []).append(row["view"])
    assert all(sorted(views) == sorted(VIEWS) for views in studies.values())
    assert {views[0] for views in studies.values()} == set(VIEWS)


@pytest.mark.parametrize("tool", ["dcmftest", "dciodvfy"])
def test_every_dicom_file_is_accepted_by_the_tools_of_the_distribution(every_kind: Path, tool: str) -> None:
    """Except for the wrong colour tag, which is what the tool finds there."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (packages dcmtk and dicom3tools)")
    for row in truth(every_kind, "clip"):
        told = subprocess.run([tool, every_kind / row["path"]], capture_output=True, text=True)
        errors = [line for line in (told.stdout + told.stderr).splitlines() if "Error" in line]
        if tool == "dciodvfy" and "colour_tag_wrong" in (row["quirks"] or ()):
            assert all("Photometric Interpretation" in line for line in errors)
        else:
            assert (told.returncode, errors) == (0, []), row


def test_enriched_hearts_are_positive_in_about_fifteen_of_a_hundred_and_plain_ones_in_fewer() -> None:
    shares = {}
    for enrich in (True, False):
        hearts = [draw_heart(stream(31, i, "heart"), enrich=enrich) for i in range(2000)]
        shares[enrich] = np.mean([heart.lvef < 40 for heart in hearts]), np.mean([heart.wall_mm >= 16 for heart in hearts])
    assert all(0.12 < share < 0.19 for share in shares[True])
    assert all(0.02 < share < 0.10 for share in shares[False])
