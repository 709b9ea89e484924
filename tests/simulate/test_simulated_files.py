"""Laws of the cohort on disk."""

from __future__ import annotations

import csv
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import wfdb

from ecgecho.simulate import USER_SEEDS, draw_heart, simulate, stream
from ecgecho.simulate.cohort import ECHO_STUDIES, MACHINE
from ecgecho.simulate.ecg import LEADS
from ecgecho.types import UsageError, UserError

SMALL = {"subjects": 50, "seed": 21, "echo_share": 0.04, "frames": 6, "size": (150, 200), "ecgs_per_subject": 2, "enrich": True}


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
    return list(csv.DictReader(text.splitlines()))


def test_any_number_of_workers_writes_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "c", workers=2, **SMALL)  # type: ignore[arg-type]
    assert digest(tmp_path / "c") == digest(cohort)


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
    assert simulate(out, workers=1, **plan)["files_written"] == 2  # type: ignore[arg-type]
    assert digest(out) == before


def test_another_cohort_or_a_strange_folder_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another simulated cohort"):
        simulate(cohort, workers=1, **(SMALL | {"seed": 22}))  # type: ignore[arg-type]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        simulate(tmp_path, workers=1, **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"seed": USER_SEEDS}, {"seed": -1}, {"subjects": 1}, {"echo_share": 1.5}, {"frames": 1}, {"ecgs_per_subject": 0}]
)
def test_what_cannot_be_simulated_is_refused_before_anything_is_written(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        simulate(tmp_path / "c", **(SMALL | change))  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()


def test_users_cannot_take_the_shipped_seeds_and_training_cannot_take_the_users(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        simulate(tmp_path / "c", shipped_training=True, **SMALL)  # type: ignore[arg-type]


def test_tables_and_files_agree(cohort: Path) -> None:
    ecgs = rows(cohort / "mimic-iv-ecg" / "record_list.csv")
    machine = rows(cohort / "mimic-iv-ecg" / "machine_measurements.csv")
    assert [row["study_id"] for row in ecgs] == [row["study_id"] for row in machine]
    assert tuple(machine[0]) == MACHINE
    assert all(row["report_0"] for row in machine)
    assert len({row["study_id"] for row in ecgs}) == len(ecgs)
    for row in ecgs:
        for suffix in (".hea", ".dat"):
            assert (cohort / "mimic-iv-ecg" / (row["path"] + suffix)).is_file()
    clips = rows(cohort / "mimic-iv-echo" / "echo-record-list.csv")
    studies = rows(cohort / "mimic-iv-echo" / "echo-study-list.csv")
    assert tuple(studies[0]) == ECHO_STUDIES
    assert len(studies) == 2
    assert len(clips) == 4
    assert all((cohort / "mimic-iv-echo" / row["dicom_filepath"]).is_file() for row in clips)
    patients = {row["subject_id"] for row in rows(cohort / "hosp" / "patients.csv.gz")}
    measured = {row["subject_id"] for row in rows(cohort / "mimic-iv-echo" / "structured-measurement.csv.gz")}
    assert len(patients) == 50
    assert measured == patients
    assert {row["subject_id"] for row in ecgs} == patients
    assert {row["subject_id"] for row in clips} <= patients


def test_the_reported_lvef_and_wall_are_the_truth_within_their_rounding(cohort: Path) -> None:
    truth = {row["subject_id"]: row for row in pq.read_table(cohort / "truth.parquet").to_pylist() if row["kind"] == "subject"}
    walls: dict[str, float] = {}
    for row in rows(cohort / "mimic-iv-echo" / "structured-measurement.csv.gz"):
        heart = truth[row["subject_id"]]
        if row["measurement"] in ("lvef", "biplane_lvef"):
            assert abs(float(row["result"].rstrip("%")) - heart["lvef"]) <= 1.5
        elif row["measurement"] in ("septal_thickness", "inf_lat_thickness"):
            value = float(row["result"])
            assert (row["unit"] in ("mm", "")) if value > 3 else (row["unit"] in ("cm", ""))
            walls[row["subject_id"]] = max(walls.get(row["subject_id"], 0), value if value > 3 else 10 * value)
    assert np.median([abs(walls[who] - truth[who]["wall_mm"]) for who in walls]) <= 0.5


def test_wfdb_reads_a_record_with_leads_gain_checksum_and_beats(cohort: Path) -> None:
    row = rows(cohort / "mimic-iv-ecg" / "record_list.csv")[0]
    path = cohort / "mimic-iv-ecg" / row["path"]
    found = wfdb.rdrecord(str(path))
    assert found.sig_name == list(LEADS)
    assert (found.fs, found.sig_len, set(found.adc_gain), set(found.units)) == (500, 5000, {200.0}, {"mV"})
    digital = wfdb.rdrecord(str(path), physical=False).d_signal
    assert [int(column.astype(np.int64).sum() + 32768) % 65536 - 32768 for column in digital.T] == list(found.checksum)
    truth = next(r for r in pq.read_table(cohort / "truth.parquet").to_pylist() if r["ecg_id"] == row["study_id"])
    assert 5 <= len(truth["r_times_s"]) <= 26


def test_pydicom_reads_a_cine_as_it_was_drawn(cohort: Path) -> None:
    row = next(r for r in pq.read_table(cohort / "truth.parquet").to_pylist() if r["kind"] == "clip")
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


def test_enriched_hearts_are_positive_in_about_fifteen_of_a_hundred_and_plain_ones_in_fewer() -> None:
    shares = {}
    for enrich in (True, False):
        hearts = [draw_heart(stream(31, i, "heart"), enrich=enrich) for i in range(2000)]
        shares[enrich] = np.mean([heart.lvef < 40 for heart in hearts]), np.mean([heart.wall_mm >= 16 for heart in hearts])
    assert all(0.12 < share < 0.19 for share in shares[True])
    assert all(0.02 < share < 0.10 for share in shares[False])
