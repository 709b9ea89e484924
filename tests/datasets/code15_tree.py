"""CODE-15% as it is published: exams.csv in an order of its own, and parts of HDF5 that end with a row of zeros."""

import csv
from pathlib import Path

import h5py
import numpy as np

COLUMNS = (
    "exam_id", "age", "is_male", "nn_predicted_age", "1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "patient_id", "death", "timey",
    "normal_ecg", "trace_file",
)  # fmt: skip
PARTS = {"exams_part0.hdf5": (1169160, 2873686, 168405, 0), "exams_part13.hdf5": (271011, 384368, 0)}
SHORT = 384368
EXAMS = (  # exam, patient, part, what differs
    (271011, 7, "exams_part13.hdf5", {"death": "", "timey": ""}),
    (168405, 7, "exams_part0.hdf5", {"1dAVb": "True", "death": "True", "timey": "2.3"}),
    (1169160, 8, "exams_part0.hdf5", {"normal_ecg": "True", "is_male": "False"}),
    (384368, 9, "exams_part13.hdf5", {"AF": "True", "RBBB": "True"}),
    (2873686, 10, "exams_part0.hdf5", {}),
)


def row(exam: int, patient: int, part: str, changes: dict[str, str]) -> dict[str, str]:
    flags = dict.fromkeys(("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg"), "False")
    given = {"exam_id": str(exam), "age": "38", "is_male": "True", "nn_predicted_age": "40.160484", "patient_id": str(patient)}
    return {**given, **flags, "death": "False", "timey": "2.098628", "trace_file": part, **changes}


def write_exams(path: Path, rows: list[dict[str, str]], columns=COLUMNS) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_part(path: Path, ids) -> None:
    """Each tracing has its exam_id / 1000 in every sample between the zeros, SHORT for 7 s; the last row is all zeros."""
    tracings = np.zeros((len(ids), 4096, 12), "f4")
    for tracing, exam in zip(tracings, ids, strict=True):
        tracing[slice(648, 3448) if exam == SHORT else slice(48, 4048)] = exam / 1000
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array(ids, np.int64)
        file.create_dataset("tracings", data=tracings, chunks=(1, 4096, 12), compression="gzip", compression_opts=1)


def write_code15(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    write_exams(root / "exams.csv", [row(*exam) for exam in EXAMS])
    for name, ids in PARTS.items():
        write_part(root / name, ids)
    return root
