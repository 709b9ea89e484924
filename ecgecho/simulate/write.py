"""The files of the cohort: WFDB records, ultrasound DICOM, CSV tables and truth.parquet, each written whole or not at all."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from ecgecho.simulate.ecg import F32, FS_HZ, LEADS
from ecgecho.simulate.echo import Cine
from ecgecho.types import U8

GAIN = 200
"""Units a millivolt, as MIMIC-IV-ECG has."""
ULTRASOUND_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
JPEG_QUALITY = 88


def atomic(path: Path, content: bytes) -> None:
    """Write beside, then rename: a path that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def ecg(folder: Path, name: str, signal: F32, *, subject_id: int, time: datetime) -> None:
    """NAME.dat and NAME.hea: format 16, the header last.

    Source: the WFDB header and signal formats (header(5), signal(5)); the shape of a header of MIMIC-IV-ECG.
    """
    samples = np.clip(np.round(signal.T * GAIN), -32767, 32767).astype("<i2")
    lines = [f"{name} {len(LEADS)} {FS_HZ} {len(samples)} {time:%H:%M:%S} {time:%d/%m/%Y}"]
    for lead, column in zip(LEADS, samples.T, strict=True):
        checksum = int(column.astype(np.int64).sum() + 32768) % 65536 - 32768
        lines.append(f"{name}.dat 16 {GAIN}.0(0)/mV 16 0 {column[0]} {checksum} 0 {lead}")
    lines.append(f"# <subject_id>: {subject_id}")
    atomic(folder / f"{name}.dat", samples.tobytes())
    atomic(folder / f"{name}.hea", ("\n".join(lines) + "\n").encode("ascii"))


def dicom(path: Path, cine: Cine, *, subject_id: int, study_id: int, instance: int, time: datetime) -> None:
    """One cine as Ultrasound Multi-frame Image Storage, JPEG baseline 4:2:2 with JFIF markers, one 2-D tissue region."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ULTRASOUND_MULTI_FRAME
    meta.MediaStorageSOPInstanceUID = uid(subject_id, study_id, instance)
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds = Dataset()
    ds.file_meta = meta
    ds.ImageType = ["ORIGINAL", "PRIMARY", "", "0001"]
    ds.SOPClassUID = ULTRASOUND_MULTI_FRAME
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.ContentDate = f"{time:%Y%m%d}"
    ds.StudyTime = ds.ContentTime = f"{time:%H%M%S}"
    ds.AcquisitionDateTime = f"{time:%Y%m%d%H%M%S}"
    ds.AccessionNumber = ""
    ds.Modality = "US"
    ds.Manufacturer = "ecgecho simulator"
    ds.ReferringPhysicianName = ""
    ds.PatientName = "SIMULATED"
    ds.PatientID = str(subject_id)
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyInstanceUID = uid(subject_id, study_id)
    ds.SeriesInstanceUID = uid(subject_id, study_id, 0)
    ds.StudyID = str(study_id)
    ds.SeriesNumber = 1
    ds.InstanceNumber = instance
    ds.FrameTime = f"{cine.shot.frame_time_ms:.3f}"
    rate_hz = max(round(1000 / cine.shot.frame_time_ms), 1)
    ds.CineRate = ds.RecommendedDisplayFrameRate = rate_hz
    ds.HeartRate = round(cine.shot.hr_bpm)
    ds.SequenceOfUltrasoundRegions = [_region(cine)]
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PlanarConfiguration = 0
    ds.NumberOfFrames = len(cine.frames)
    ds.FrameIncrementPointer = 0x00181063
    ds.Rows, ds.Columns = cine.frames.shape[1:3]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "YES"
    ds.LossyImageCompression = "01"
    ds.PixelData = encapsulate(jpegs(cine.frames))
    ds["PixelData"].is_undefined_length = True
    target = io.BytesIO()
    ds.save_as(target, enforce_file_format=True)
    atomic(path, target.getvalue())


def jpegs(frames: U8) -> list[bytes]:
    """(T, H, W, 3) RGB -> one JPEG a frame, chroma halved across, with a JFIF marker."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
    found = []
    for frame in frames:
        done, code = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
        assert done
        found.append(code.tobytes())
    return found


def _region(cine: Cine) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 0
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = (
        cine.shot.geometry.box
    )
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = cine.shot.geometry.cm_per_px
    return region


def uid(*parts: int) -> str:
    """A UID under the 2.25 arc that is a pure function of the parts."""
    digest = hashlib.sha256(b"ecgecho.simulate/" + "/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV; gzip without a time stamp when the name ends in .gz, so that equal tables are equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    content = text.getvalue().encode("utf-8")
    atomic(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


def truth(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """truth.parquet: one row a subject, ECG and clip."""
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=TRUTH), target, compression="zstd")
    atomic(path, target.getvalue())


TRUTH = pa.schema(
    [
        ("kind", pa.string()),  # subject, ecg or clip
        ("subject_id", pa.string()),
        ("ecg_id", pa.string()),
        ("study_id", pa.string()),
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("view", pa.string()),
        ("lvef", pa.float64()),
        ("edv_ml", pa.float64()),
        ("esv_ml", pa.float64()),
        ("wall_mm", pa.float64()),
        ("hr_bpm", pa.float64()),
        ("rhythm", pa.string()),
        ("conduction", pa.string()),
        ("infarct", pa.string()),
        ("frame_time_ms", pa.float64()),
        ("r_times_s", pa.list_(pa.float64())),
        ("volume_ml", pa.list_(pa.float64())),
        ("sector_polygon", pa.list_(pa.float64())),  # x0, y0, x1, y1, ... in pixels
    ]
)
