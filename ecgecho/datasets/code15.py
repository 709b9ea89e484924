"""CODE-15%: 345,779 12-lead ECGs of 233,770 patients of a Brazilian telehealth network at 400 Hz (Zenodo 4916206, 1.0.0).

Needs on disk: exams.csv and exams_part0.hdf5 to exams_part17.hdf5 (as many as there are, in one folder or one each), each with
`exam_id` (N,) and `tracings` (N, 4096, 12) float32. A row is found by its exam_id, never by its place: the table is in another
order, and every part ends with a row of zeros whose exam_id is 0. ECGs of a part that is not there are left out.

Signals: leads in the order DI, DII, DIII, AVR, AVL, AVF, V1 to V6 (Zenodo; the limb leads agree by Einthoven's law in a public
recount). They are in mV: a median R wave of 1.75 mV in lead II was measured there; the README of the sister set CODE-test says
1e-4 V, which cannot be. ECGs of 10 s (4,000 samples) and of 7 s (2,800) lie in the middle of zeros, which `io.hdf5` cuts off:
they are read as 10 s and as 7 s. CODE-test has another order of leads: it is not this.

Splits: there is no official one; people use their own. Here it is the hash of the patient. A few recordings stand byte by byte
under two patients (47 of the 20,000 of part 0 in that recount): no split by patient can keep them apart, and only reading all
waveforms finds them.

Labels. 1dAVb, RBBB, LBBB, SB, AF, ST (1 and 0 for every exam) come out of the telehealth cardiologists' reports by text mining
together with automatic codes; `code15.normal_ecg` is what an automatic annotation says. Six zeros are not a normal ECG: 173,347
exams have neither. Death and the years of follow-up are given for the first exam of a patient only; elsewhere, and where they
are empty, there is no label. nn_predicted_age is the output of a model and is not read. There are no dates.

Licence: CC BY 4.0, open. Source: zenodo.org/record/4916206; shared/specs/datasets.md section 8. Never run on the real files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _columns
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import constant, label_rows, require
from ecgecho.io.files import size_of
from ecgecho.types import STANDARD_LEADS, ItemError, Json

DATASET = "code15"
FS_HZ = 400.0
SAMPLES, LEADS = 4096, 12
NUM_PARTS = 18
PARTS = tuple(f"exams_part{number}" for number in range(NUM_PARTS))
MAX_ROWS = 1 << 20
"""A part has 20,001; the ids of more are not read."""
PADDING_ID = 0
SEXES = {"true": "male", "false": "female", "1": "male", "0": "female"}
FINDINGS = {
    "1dAVb": "first degree AV block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "AF": "atrial fibrillation",
    "ST": "sinus tachycardia",
}
HOW = "from the cardiologist's report by text mining and automatic codes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """CODE-15% has no settings."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Tables of all exams whose tracing is there."""
    rows = _exams(reading)
    rows = _placed(reading, rows)
    number = rows.num_rows
    ecgs = pa.table(
        {
            "ecg_id": rows["ecg_id"],
            "subject_id": rows["patient_id"],
            "path": rows["path"],
            "row": rows["row"],
            "leads": constant(",".join(STANDARD_LEADS), number),
            "fs_hz": np.full(number, FS_HZ),
            "unit": constant("mv", number),
        }
    )
    sexes = _columns.people(reading, "exams", rows["patient_id"], rows["is_male"], SEXES)
    return Tables(ecgs=ecgs, labels=_labels(reading, rows), people=sexes)


def look(path: str) -> Json:
    """The exam_id of each row of a part; no tracing is read."""
    file = Path(path)
    size_of(file, most=1 << 42)
    try:
        with h5py.File(file, "r") as stream:
            ids, tracings = _own(stream, "exam_id", file.name), _own(stream, "tracings", file.name)
            if tracings.ndim != 3 or tracings.shape[1:] != (SAMPLES, LEADS) or tracings.dtype.kind != "f":
                raise ItemError("unsupported_format", f"{file.name}: tracings are {tracings.dtype} of shape {tracings.shape}")
            if ids.shape != (len(tracings),) or ids.dtype.kind not in "iu":
                raise ItemError("unsupported_format", f"{file.name}: {ids.shape} exam ids for {tracings.shape} tracings")
            if len(ids) > MAX_ROWS:
                raise ItemError("too_large", f"{file.name} has {len(ids)} rows, more than the {MAX_ROWS} that are looked at")
            return {"ids": [int(value) for value in ids[:]]}
    except ItemError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # what h5py makes of damaged bytes
        raise ItemError("damaged_header", f"{file.name} cannot be read as HDF5") from error


def _own(stream: h5py.File, name: str, file: str) -> h5py.Dataset:
    """A dataset that lies in the file itself: a link could lead to any other file of this machine."""
    if not isinstance(stream.get(name, getlink=True), h5py.HardLink) or not isinstance(stream[name], h5py.Dataset):
        raise ItemError("unsupported_format", f"{file} has no dataset {name}")
    found = stream[name]
    if found.external or found.is_virtual:
        raise ItemError("unsafe_file_name", f"{file}: {name} lies in another file")
    return found


def _exams(reading: Reading) -> pa.Table:
    """The table, an exam a row."""
    columns = ("exam_id", "patient_id", *FINDINGS, "normal_ecg", "trace_file")
    rows = reading.table("exams", columns, ("age", "is_male", "death", "timey"))
    rows = reading.once("exams", require(rows, ("exam_id", "patient_id"), reading.parts["exams"]), "exam_id")
    whole = pc.match_substring_regex(rows["exam_id"], r"^[1-9]\d{0,17}$")
    if (row := int(pc.index(whole, False).as_py())) >= 0:
        raise reading.refuse(
            f"{reading.parts['exams'].name}: exam_id is {rows['exam_id'][row].as_py()!r} in data row {row + 1}; it is a number."
        )
    return rows


def _placed(reading: Reading, rows: pa.Table) -> pa.Table:
    """The exams that stand once in the parts which are there, with path and row."""
    paths = {name: reading.parts[name].relative_to(reading.root).as_posix() for name in PARTS if name in reading.parts}
    if not paths:
        raise reading.refuse("none of exams_part0.hdf5 to exams_part17.hdf5 is there; unpack at least one.")
    seen = reading.scan("tracings", list(paths.values()), look)
    if reading.options.pseudonymise:  # the ids of exams may not lie beside those that stand for them
        reading.scans["tracings"] = replace(reading.scans["tracings"], lines=b"")
    found = {name: np.asarray(seen[path]["ids"], np.int64) for name, path in paths.items() if path in seen}
    ids = np.concatenate([np.empty(0, np.int64), *found.values()])
    part = np.repeat(np.array([PARTS.index(name) for name in found], np.int64), [len(one) for one in found.values()])
    place = np.concatenate([np.empty(0, np.int64), *(np.arange(len(one)) for one in found.values())])
    real = ids != PADDING_ID
    reading.defect("tracings", "padding_row", "a row of zeros with exam_id 0", int((~real).sum()))
    ids, part, place = ids[real], part[real], place[real]
    order = np.argsort(ids, kind="stable")
    ids, part, place = ids[order], part[order], place[order]

    wanted = rows["exam_id"].cast(pa.int64()).to_numpy()
    first, after = np.searchsorted(ids, wanted, "left"), np.searchsorted(ids, wanted, "right")
    named = _named(reading, rows)
    absent = after == first
    gone = absent & np.isin(named, [number for number, name in enumerate(PARTS) if name not in found])
    reading.defect("ecgs", "no_waveforms", "of a part that is not there, or cannot be read: left out", int(gone.sum()))
    reading.defect("ecgs", "not_in_file", "no part has its exam_id: left out", int((absent & ~gone).sum()))
    reading.defect("ecgs", "id_twice", "exam_id in two rows of the parts: left out", int((after - first > 1).sum()))
    unlisted = ~np.isin(ids, wanted)
    reading.defect("tracings", "not_listed", "in a part, not in exams.csv", int(unlisted.sum()))
    good = after - first == 1
    if not good.any():
        raise reading.refuse(
            f"no exam of {reading.parts['exams'].name} is in the parts that are there; they are of other versions."
        )
    at = first[good]
    elsewhere = (named[good] >= 0) & (named[good] != part[at])
    reading.defect("ecgs", "file_differs", "in another part than trace_file says", int(elsewhere.sum()))
    names = pa.array([paths.get(name) for name in PARTS], pa.string())
    rows = rows.filter(pa.array(good))
    # A bare number would be an ECG of another dataset too, in a run over several catalogs.
    rows = rows.append_column("ecg_id", pc.binary_join_element_wise(DATASET, rows["exam_id"], "-"))
    return rows.append_column("path", names.take(pa.array(part[at]))).append_column("row", pa.array(place[at]))


def _named(reading: Reading, rows: pa.Table) -> npt.NDArray[np.int64]:
    """Which part `trace_file` names; -1 where it names none."""
    stem = pc.replace_substring_regex(pc.utf8_lower(rows["trace_file"]), r"^.*/|\.(hdf5|h5)$", "")
    place = pc.index_in(stem, value_set=pa.array(PARTS))
    reading.defect("exams", "unknown_file", "trace_file names no part", place.null_count - stem.null_count)
    return np.asarray(pc.fill_null(place, -1).to_numpy(), np.int64)


def _labels(reading: Reading, rows: pa.Table) -> list[pa.Table]:
    def of(name: str, value: object, unit: str | None, definition: str) -> pa.Table:
        return label_rows(
            f"code15.{name}",
            value,
            subject_id=rows["patient_id"],
            ecg_id=rows["ecg_id"],
            unit=unit,
            source="exams",
            definition=definition,
        )

    def flag(column: str) -> pa.ChunkedArray:
        return _columns.yes_or_no(reading, "exams", column, rows[column])

    age = reading.within("exams", "age", reading.numbers("exams", "age", rows["age"]), 0, 120)
    years = reading.within("exams", "timey", reading.numbers("exams", "timey", rows["timey"]), 0, 60)
    death = flag("death")
    reading.defect("exams", "no_follow_up", "death is empty: unknown, no label", death.null_count)
    return [
        *(of(column, flag(column), None, f"{words}; {HOW}") for column, words in FINDINGS.items()),
        of("normal_ecg", flag("normal_ecg"), None, "the automatic annotation says that the ECG is normal"),
        of("death", death, None, "died during follow-up; given for a patient's first exam"),
        of(
            "follow_up_years",
            years,
            "year",
            "years (by the column's name) to death or to the end of follow-up; given for a patient's first exam",
        ),
        of("age_years", age, "year", "age at the exam"),
    ]


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"exams": ("exams.csv",), **{name: (f"{name}.hdf5",) for name in PARTS}},
    needs=("exams",),
    meaning={name: "no ECGs of this part" for name in PARTS},
    read=read,
)
