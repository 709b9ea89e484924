"""The files of the cohort: WFDB records, ultrasound DICOM, text tables and truth.parquet, each written whole or not at all.

Sources: WFDB header(5) and signal(5); DICOM PS3.3 A.6 and A.7 (ultrasound image IODs), C.7.6.5, C.7.6.6, C.8.5.5, C.8.5.6.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from ecgecho.simulate.ecg import FS_HZ, LEADS
from ecgecho.simulate.echo import Cine
from ecgecho.simulate.layouts import Table
from ecgecho.types import F32, U8

GAIN = 200
"""Units a millivolt, as MIMIC-IV-ECG has."""
INVALID = -32768
"""A sample that is not there: WFDB format 16."""
ULTRASOUND_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
JPEG_QUALITY = 88
ROW_GROUP = 1 << 16

Quirk = Literal["colour_tag_wrong", "no_regions", "frame_time_vector", "cine_rate_only"]
QUIRKS: dict[Quirk, float] = {"colour_tag_wrong": 0.04, "no_regions": 0.04, "frame_time_vector": 0.05, "cine_rate_only": 0.03}
"""Share of the multi-frame files that have it: shares are ours, the quirks are met in real files."""


class Tags(TypedDict):
    """Whose file it is."""

    subject_id: int
    study_id: int
    instance: int
    time: datetime


RegionRow = tuple[int, int, int, int, int, int, int, int, float, float]
"""x0, y0, x1, y1 inclusive, spatial format, data type, units x and y, size of a pixel x and y."""


def atomic(path: Path, content: bytes) -> None:
    """Write beside, then rename: a path that exists is complete. What a killed job leaves beside it, the next one overwrites."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def complete(path: Path, *, size: int | None = None) -> bool:
    """Whether a file is there, with `size` bytes where that is known."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return False
    return found == size if size is not None else found > 0


def ecg(folder: Path, name: str, signal: F32, *, subject_id: int, time: datetime) -> None:
    """NAME.dat and NAME.hea as MIMIC-IV-ECG has them, of (12, L) mV in the order `LEADS`; NaN is a sample that is not there."""
    wfdb(folder, name, signal, leads=LEADS, fs_hz=FS_HZ, gain=GAIN, time=time, comments=(f"<subject_id>: {subject_id}",))


def wfdb(
    folder: Path,
    name: str,
    signal_mv: F32,
    *,
    leads: Sequence[str],
    fs_hz: int,
    gain: int,
    time: datetime | None = None,
    comments: Sequence[str] = (),
    said_samples: int | None = None,
) -> None:
    """NAME.dat in format 16 of (C, L) mV, and NAME.hea last. `said_samples` is what a wrong header says."""
    raw = np.clip(np.round(np.nan_to_num(signal_mv.T) * gain), -32767, 32767).astype("<i2")
    raw[np.isnan(signal_mv.T)] = INVALID
    when = f" {time:%H:%M:%S} {time:%d/%m/%Y}" if time is not None else ""
    lines = [f"{name} {len(leads)} {fs_hz} {said_samples or len(raw)}{when}"]
    for lead, column in zip(leads, raw.T, strict=True):
        checksum = int(column.astype(np.int64).sum() + 32768) % 65536 - 32768
        lines.append(f"{name}.dat 16 {gain}.0(0)/mV 16 0 {column[0]} {checksum} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    atomic(folder / f"{name}.dat", raw.tobytes())
    atomic(folder / f"{name}.hea", ("\n".join(lines) + "\n").encode("ascii"))


def dicom(
    path: Path,
    cine: Cine,
    *,
    subject_id: int,
    study_id: int,
    instance: int,
    time: datetime,
    quirks: Sequence[Quirk] = (),
) -> None:
    """One cine as Ultrasound Multi-frame Image Storage, JPEG baseline 4:2:2 with JFIF markers, one 2-D tissue region."""
    box = cine.shot.geometry.box
    per_px = cine.shot.geometry.cm_per_px
    picture(
        path,
        cine.frames,
        regions=((*box, 1, 1, 3, 3, per_px, per_px),),
        frame_time_ms=cine.shot.frame_time_ms,
        hr_bpm=cine.shot.hr_bpm,
        subject_id=subject_id,
        study_id=study_id,
        instance=instance,
        time=time,
        quirks=quirks,
    )


def picture(
    path: Path,
    frames: U8,
    *,
    regions: Sequence[RegionRow],
    frame_time_ms: float,
    hr_bpm: float,
    subject_id: int,
    study_id: int,
    instance: int,
    time: datetime,
    quirks: Sequence[Quirk] = (),
) -> None:
    """(T, H, W, 3) RGB as an ultrasound DICOM file: multi-frame, or one image where T is 1."""
    multi_frame = len(frames) > 1
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ULTRASOUND_MULTI_FRAME if multi_frame else ULTRASOUND
    meta.MediaStorageSOPInstanceUID = uid(subject_id, study_id, instance)
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds = Dataset()
    ds.file_meta = meta
    colour = any(region[5] == 2 for region in regions)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "", "0011" if colour else "0001"]
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.ContentDate = f"{time:%Y%m%d}"
    ds.StudyTime = ds.ContentTime = f"{time:%H%M%S}"
    ds.AcquisitionDateTime = f"{time:%Y%m%d%H%M%S}"
    ds.AccessionNumber = ""
    ds.Modality = "US"
    ds.Manufacturer = "ecgecho simulator"
    ds.ReferringPhysicianName = ""
    ds.PatientName = "SIMULATED^HEART"
    ds.PatientID = str(subject_id)
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyInstanceUID = uid(subject_id, study_id)
    ds.SeriesInstanceUID = uid(subject_id, study_id, 0)
    ds.StudyID = str(study_id)
    ds.SeriesNumber = 1
    ds.InstanceNumber = instance
    ds.Laterality = ds.PatientOrientation = ""  # type 2C: present and empty
    ds.HeartRate = round(hr_bpm)
    ds.UltrasoundColorDataPresent = int(colour)
    if multi_frame:
        ds.NumberOfFrames = len(frames)
        _timing(ds, frame_time_ms, quirks)
    if "no_regions" not in quirks:
        ds.SequenceOfUltrasoundRegions = [_region(region) for region in regions]
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB" if "colour_tag_wrong" in quirks else "YBR_FULL_422"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = frames.shape[1:3]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "YES"
    codes = jpegs(frames)
    if "colour_tag_wrong" in quirks:
        codes = [_without_jfif(code) for code in codes]
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio = f"{frames.nbytes / sum(map(len, codes)):.2f}"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.PixelData = encapsulate(codes)
    ds["PixelData"].is_undefined_length = True
    target = io.BytesIO()
    ds.save_as(target, enforce_file_format=True)
    atomic(path, target.getvalue())


def _timing(ds: Dataset, frame_time_ms: float, quirks: Sequence[Quirk]) -> None:
    ds.CineRate = ds.RecommendedDisplayFrameRate = max(round(1000 / frame_time_ms), 1)
    if "cine_rate_only" in quirks:
        ds.FrameIncrementPointer = 0x00180040
        del ds.RecommendedDisplayFrameRate
    elif "frame_time_vector" in quirks:
        ds.FrameTimeVector = ["0", *[f"{frame_time_ms:.3f}"] * (ds.NumberOfFrames - 1)]
        ds.FrameIncrementPointer = 0x00181065
    else:
        ds.FrameTime = f"{frame_time_ms:.3f}"
        ds.FrameIncrementPointer = 0x00181063


def _region(row: RegionRow) -> Dataset:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = row[:4]
    region.RegionSpatialFormat, region.RegionDataType = row[4:6]
    region.RegionFlags = 0
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = row[6:8]
    region.PhysicalDeltaX, region.PhysicalDeltaY = row[8:10]
    return region


def jpegs(frames: U8) -> list[bytes]:
    """(T, H, W, 3) RGB -> one JPEG a frame, chroma halved across, with a JFIF marker."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
    found = []
    for frame in frames:
        done, code = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
        assert done
        found.append(code.tobytes())
    return found


def _without_jfif(code: bytes) -> bytes:
    """A JPEG without its APP0 segment, so that nothing but the tag tells its colours."""
    assert code[:4] == b"\xff\xd8\xff\xe0"
    return code[:2] + code[4 + int.from_bytes(code[4:6], "big") :]


def uid(*parts: int) -> str:
    """A UID under the 2.25 arc that is a pure function of the parts."""
    digest = hashlib.sha256(b"ecgecho.simulate/" + "/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def lines(table: Table, rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as they stand in a table."""
    text = io.StringIO()
    csv.writer(text, delimiter=table.delimiter, lineterminator=table.line_end).writerows(rows)
    return text.getvalue().encode(table.encoding)


def table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV; gzip without a time stamp when the name ends in .gz, so that equal tables are equal bytes."""
    content = lines(Table(path=path.name, columns=tuple(columns)), [columns, *rows])
    atomic(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


class Tables:
    """The tables of a cohort and its truth.parquet while they grow; `keep` gives them their names, at the end.

    Until then they lie beside under temporary names; leaving without `keep` removes those.
    """

    def __init__(self, out: Path, tables: Mapping[str, Table]) -> None:
        self._paths = [out / table.path for table in tables.values()] + [out / "truth.parquet"]
        self._streams: dict[str, IO[bytes]] = {}
        self._close: list[Callable[[], object]] = []
        for name, described in tables.items():
            path = out / described.path
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _beside(path).open("wb")
            self._close.append(file.close)
            stream: IO[bytes] = file
            if path.suffix == ".gz":
                stream = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)  # type: ignore[assignment]
                self._close.append(stream.close)
            if described.columns:
                stream.write(lines(described, [described.columns]))
            self._streams[name] = stream
        self._truth = pq.ParquetWriter(_beside(self._paths[-1]), TRUTH, compression="zstd")
        self._close.append(self._truth.close)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Tables:
        return self

    def add(self, name: str, content: bytes) -> None:
        self._streams[name].write(content)

    def add_truth(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        if sum(part.num_rows for part in self._waiting) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._truth.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []

    def keep(self) -> int:
        """The number of tables that were not there before."""
        self._flush()
        self._end()
        new = sum(not path.exists() for path in self._paths)
        for path in self._paths:
            _beside(path).replace(path)
        return new

    def _end(self) -> None:
        while self._close:
            self._close.pop()()

    def __exit__(self, *exc: object) -> None:
        self._end()
        for path in self._paths:
            _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def floats(values: npt.NDArray[np.float64], digits: int) -> list[float]:
    """Rounded, as Python's floats."""
    rounded: list[float] = np.round(values, digits).ravel().tolist()
    return rounded


_STATE = ("lvef", "edv_ml", "esv_ml", "wall_mm", "mass_g", "bsa_m2", "la_ml", "rv_mm", "rvsp_mmhg", "hr_bpm")
TRUTH = pa.schema(
    [
        ("kind", pa.string()),  # subject, ecg, clip or note
        ("subject_id", pa.string()),
        ("ecg_id", pa.string()),
        ("study_id", pa.string()),
        ("clip_id", pa.string()),
        ("note_id", pa.string()),
        ("hadm_id", pa.string()),
        ("path", pa.string()),
        ("days", pa.float64()),  # since the first echo visit; the state below is that day's
        ("age", pa.int16()),
        ("sex", pa.string()),
        ("view", pa.string()),
        ("content", pa.string()),  # cine, still, spectral, colour or m_mode
        ("quirks", pa.list_(pa.string())),
        *((name, pa.float64()) for name in _STATE),
        ("rhythm", pa.string()),
        ("ectopy", pa.string()),
        ("conduction", pa.string()),
        ("infarct", pa.string()),
        ("infarct_size", pa.float64()),
        ("aortic_stenosis", pa.int8()),  # valves: 0 none to 3 severe
        ("aortic_regurgitation", pa.int8()),
        ("mitral_regurgitation", pa.int8()),
        ("tricuspid_regurgitation", pa.int8()),
        ("frame_time_ms", pa.float64()),
        ("r_times_s", pa.list_(pa.float64())),
        (
            "artefacts_s",
            pa.list_(
                pa.struct([("kind", pa.string()), ("lead", pa.string()), ("start_s", pa.float64()), ("stop_s", pa.float64())])
            ),
        ),
        ("volume_ml", pa.list_(pa.float64())),  # of each frame
        ("sector_polygon", pa.list_(pa.float64())),  # x0, y0, x1, y1, ... in pixels
        ("stated_lvef_low", pa.float64()),  # what a note says of now; null where it says nothing
        ("stated_lvef_high", pa.float64()),
    ]
)
"""truth.parquet."""
