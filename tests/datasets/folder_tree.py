"""A small private folder, written by the tests: cines of two patients, a still, a video, ECGs, and things that are neither."""

from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MARK = "MARKED"
"""Every identifier in these files holds this word."""


def write_dicom(
    path: Path,
    *,
    patient: str = f"{MARK}-P1",
    study: str = "1.2.826.777001",
    frames: int = 3,
    time: str = "20200102101500",
    **tags,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    meta.MediaStorageSOPInstanceUID = f"{study}.{abs(hash(path.name)) % 10**6}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality = "US"
    ds.PatientID, ds.PatientName, ds.StudyInstanceUID = patient, f"{MARK}^NAME", study
    ds.AccessionNumber, ds.InstitutionName = f"{MARK}7", f"{MARK} HOSPITAL"
    ds.AcquisitionDateTime = time
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.NumberOfFrames, ds.FrameTime = frames, "33.3"
    ds.PixelData = np.random.default_rng(0).integers(0, 255, (frames, 16, 16, 3), np.uint8).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_video(path: Path, frames: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (32, 32))
    for i in range(frames):
        writer.write(np.full((32, 32, 3), 20 * i, np.uint8))
    writer.release()
    return path


def write_ecg(path: Path, *, time: str = "10:00:00 01/01/2020") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.zeros((50, 2), "<i2")
    path.with_suffix(".dat").write_bytes(samples.tobytes())
    lines = [f"{path.stem} 2 500 50 {time}".strip(), *(f"{path.stem}.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in ("I", "II"))]
    path.with_suffix(".hea").write_text("\n".join([*lines, f"# patient {MARK}"]) + "\n")
    return path.with_suffix(".hea")


def write_folder(root: Path) -> Path:
    write_dicom(root / "p1" / "a.dcm")
    write_dicom(root / "p1" / "more" / "IM_0002")
    write_dicom(root / "p1" / "still.dcm", frames=1)
    write_dicom(root / "p2" / "b.dcm", patient=f"{MARK}-P2", study="1.2.826.777002", time="20200302101500")
    write_dicom(root / "p3" / "c.dcm", patient="ANONYMOUS", study="1.2.826.777003")
    write_video(root / "p4" / "loop.avi")
    write_ecg(root / "p1" / "ecg1.hea")
    write_ecg(root / "p2" / "ecg2.hea", time="")
    (root / "p1" / "fake.dcm").write_text("hello, I am text")
    (root / "p1" / "report.txt").write_text("x")
    (root / "p1" / "odd.hea").write_text("# only a comment\n")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 32)
    (root / ".hidden").mkdir()
    write_dicom(root / ".hidden" / "h.dcm")
    write_dicom(root / "old.zarr" / "h.dcm")
    return root
