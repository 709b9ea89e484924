"""MUSIC: 992 patients with chronic heart failure, Frank leads X, Y, Z, an echo and who died (PhysioNet 1.0.0 and 1.0.1).

Needs on disk: subject-info.csv and, for `recording=high_resolution`, High-resolution_ECG/P0001_H.{hea,dat} (687 records of
about 20 minutes at 1000 Hz), for `recording=holter` Holter_ECG/P0001.{hea,dat} (936 of 8 to 24 h at 200 Hz). There is no
12-lead file. The table is separated by semicolons with decimal commas, in UTF-8 or cp1252, with blanks in its column names and
two columns `Average RR (ms)`.

An ECG is an excerpt: 10 s from 30 s on, because every record starts with a square wave of zeros and ones for 10 s or more (30 s
are what public pipelines skip). `excerpts=N` gives N of them, `every_s` apart, with ids like P0001_H@30s. Gain and unit are
those of the headers, which nobody of us has seen. Left out: records without Z (by header; 38 Holter records are known to be
so), and high-resolution records whose .dat is not as long as the header says: 20 are known, 1.5 times as long, whose channels
or samples are therefore unknown. Holter files with up to 5 % of trailing bytes are kept, and counted.

Splits: there is no official one. Here it is the hash of the patient; all records of a patient share an id, so none leaks.

Labels are of enrolment and have no date; each names its ECG. `lvef` (%), `wall_mm` (the thicker of septum and posterior wall,
or the one that was measured), `lvedd_mm`; deaths by the column "Cause of death" (3 sudden, 6 and 7 pump failure, 1 not cardiac,
0 none) where "Exit of the study" (3 death) does not contradict it. `music.death` is 0 for all who were alive when their
follow-up ended, which for some was early (lost, or a transplant): see `music.follow_up_days`. THE COLUMN "Left ventricular
hypertrophy" IS IN THE ECG'S BLOCK: criteria of an ECG, circular for a model of one. It is `music.ecg_lvh`, never a label of the
wall. Values of 999 and more are sentinels. An age of ">89" has no number.

Access: open on PhysioNet; the text of the licence is UNVERIFIED, as are the header's gain and unit and the polarity of Z.
Source: shared/specs/datasets.md section 4 (a public audit of all headers). Nothing here was ever run on the real files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _columns
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.wfdb import MAX_HEADER_BYTES, parse_header
from ecgecho.types import ItemError, Json

DATASET = "music"
FRANK = {"X", "Y", "Z"}
NO_Z = frozenset(
    f"P{number:04d}"
    for number in (
        70, 125, 174, 247, 258, 302, 305, 310, 384, 421, 424, 425, 427, 448, 460, 462, 466, 489, 490, 493, 494, 495, 588, 592,
        628, 661, 674, 706, 738, 792, 813, 814, 829, 831, 832, 898, 962, 1073,
    )
)  # fmt: skip
"""Whose Holter record has X and Y alone, by the public audit. The headers decide; this only tells when they say another thing."""
TRAILING = 0.05
"""Share of a Holter file that may follow what its header promises; 2 % is the most that was seen."""
SENTINEL = 999.0
RECORD = re.compile(r"^(P\d{4})(_H)?$")
SEXES = {"1": "male", "0": "female", "1.0": "male", "0.0": "female"}

PATIENT, EXIT, CAUSE = "Patient ID", "Exit of the study", "Cause of death"
SEPTUM, POSTERIOR = "Septal thickness (mm)", "Left ventricular posterior wall thickness (mm)"
SEX, AGE = "Gender (male=1)", "Age"
MEASURED = {  # column -> label, unit, plausible values
    "LVEF (%)": ("lvef", "%", 5, 95),
    "Left ventricle end-diastolic diameter (mm)": ("lvedd_mm", "mm", 20, 130),
    "Left ventricle end-systolic diameter (mm)": ("music.lvesd_mm", "mm", 10, 120),
    "Left atrial size (mm)": ("music.left_atrium_mm", "mm", 10, 120),
    "Right ventricle end-diastolic diameter (mm)": ("music.rvedd_mm", "mm", 5, 100),
    "NYHA class": ("music.nyha", "class", 1, 4),
    "Follow-up period from enrollment (days)": ("music.follow_up_days", "day", 0, 10_000),
}
WALL_MM = (2, 50)
FLAGS = {
    "Left ventricular hypertrophy (yes=1)": ("music.ecg_lvh", "by criteria of the ECG; nothing is known of the wall"),
    "Right ventricle contractility (altered=1)": ("music.rv_altered", "by the echo"),
    "Prior Myocardial Infarction (yes=1)": ("music.prior_infarct", "history"),
    "Diabetes (yes=1)": ("music.diabetes", "history"),
    "History of hypertension (yes=1)": ("music.hypertension", "history"),
}
DEATHS = {
    "music.death": ({1, 3, 6, 7}, "died during follow-up"),
    "music.sudden_cardiac_death": ({3}, "died suddenly during follow-up; 0 for other deaths too"),
    "music.pump_failure_death": ({6, 7}, "died of pump failure during follow-up (codes 6 and 7); 0 for other deaths too"),
}
CAUSES = {0, 1, 3, 6, 7}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index music`."""

    recording: Literal["high_resolution", "holter"] = "high_resolution"
    """Which records are indexed."""
    start_s: float = 30.0
    """Where the first excerpt starts: behind the square wave."""
    duration_s: float = 10.0
    excerpts: int = 1
    """How many ECGs are made of a record, as far as it is long enough."""
    every_s: float = 60.0
    """From the start of one excerpt to that of the next."""

    def __post_init__(self) -> None:
        if self.recording not in ("high_resolution", "holter"):
            raise ValueError(f"recording is {self.recording!r}; it must be high_resolution or holter.")
        if not (math.isfinite(self.start_s) and self.start_s >= 0 and 0 < self.duration_s <= 3600):
            raise ValueError(f"an excerpt from {self.start_s} s of {self.duration_s} s cannot be.")
        if not 1 <= self.excerpts <= 10_000 or not self.duration_s <= self.every_s < math.inf:
            raise ValueError(f"{self.excerpts} excerpts every {self.every_s} s: at least 1, and {self.duration_s:g} s apart.")


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Tables of the excerpts of one kind of record."""
    if reading.config.recording not in reading.parts:
        raise reading.refuse(
            f"there is no folder {FOLDERS[reading.config.recording]}, where recording={reading.config.recording} lies."
        )
    people = _people(reading)
    excerpts = _excerpts(reading, _records(reading), set(people[PATIENT].to_pylist()))
    sexes = _columns.people(reading, "subjects", people[PATIENT], people[SEX], SEXES)
    return Tables(ecgs=excerpts, labels=_labels(reading, people, excerpts), people=sexes)


def look(path: str) -> Json:
    """What the header of a record promises. Its .dat is not looked at here: what is seen is remembered by the header alone."""
    file = Path(path)
    if size_of(file) > MAX_HEADER_BYTES:
        raise ItemError("too_large", f"{file.name} is larger than any header")
    try:
        header = parse_header(read_bytes(file).decode("latin-1"), file.name)
    except (ValueError, OverflowError) as error:
        if isinstance(error, ItemError):
            raise
        raise ItemError("damaged_header", f"{file.name} cannot be read as a header") from error
    names = {signal.file for signal in header.signals}
    if len(names) != 1 or any(signal.format != 16 or not signal.plain for signal in header.signals):
        raise ItemError("unsupported_format", f"{file.name}: not one file of format 16")
    name = names.pop()
    if Path(name).name != name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise ItemError("unsafe_file_name", f"{file.name} names a file that is not beside it")
    return {
        "leads": [signal.name.strip().upper() for signal in header.signals],
        "fs_hz": header.fs_hz,
        "samples": header.num_samples,
        "promised": header.signals[0].byte_offset + 2 * len(header.signals) * header.num_samples,
        "file": name,
    }


def _people(reading: Reading) -> pa.Table:
    """The table, a patient a row."""
    path = reading.parts["subjects"]
    data = path.read_bytes()
    encoding = "utf-8"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        encoding = "cp1252" if not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"  # what cp1252 leaves undefined
    needed = (PATIENT, EXIT, CAUSE, SEPTUM, POSTERIOR, "LVEF (%)", "Left ventricle end-diastolic diameter (mm)")
    known = (SEX, AGE, AVAILABLE[reading.config.recording], *FLAGS, *(name for name in MEASURED if name not in needed))
    rows = reading.table("subjects", needed, known, delimiter=";", encoding=encoding)
    return reading.once("subjects", rows, PATIENT)


def _records(reading: Reading) -> dict[str, Json]:
    """Record name -> what its header says, of the records that can be used; with `path`."""
    kind = reading.config.recording
    paths = {path.rpartition("/")[2].removesuffix(".hea"): path for path in reading.walk(kind, (".hea",))}
    good = {
        name: path for name, path in paths.items() if RECORD.match(name) and name.endswith("_H") == (kind == "high_resolution")
    }
    reading.defect(kind, "not_a_record", "a header of another name", len(paths) - len(good))
    seen = reading.scan(kind, list(good.values()), look)
    usable, left = {}, Counter[tuple[str, str]]()
    for name, path in good.items():
        if (one := seen.get(path)) is None:
            continue
        patient = name.removesuffix("_H")
        no_z = set(one["leads"]) != FRANK
        left["lists_differ", "leads are not as in the public audit"] += kind == "holter" and no_z != (patient in NO_Z)
        dat = reading.root / path.rpartition("/")[0] / one["file"]
        longer = (dat.stat().st_size if dat.is_file() else 0) - one["promised"]
        if no_z:
            left["no_frank_leads", "not X, Y and Z: no 12 leads can be made; left out"] += 1
        elif not dat.is_file():
            left["missing_file", "a header without its .dat; left out"] += 1
        elif longer < 0:
            left["truncated", "the .dat is shorter than the header says; left out"] += 1
        elif one["samples"] < 1 or longer > (TRAILING * one["promised"] if kind == "holter" else 0):
            left["length_disagrees", "the .dat is longer than the header says; left out"] += 1
        else:
            left["trailing_bytes", "the .dat goes on after what the header says; kept"] += longer > 0
            usable[name] = {**one, "path": path.removesuffix(".hea")}
    for (code, detail), count in left.items():
        reading.defect(kind, code, detail, count)
    return usable


def _excerpts(reading: Reading, records: dict[str, Json], known: set[str]) -> pa.Table:
    """The table of ECGs."""
    config = reading.config
    rows, outside = [], 0
    for name, record in sorted(records.items()):
        for number in range(config.excerpts):
            start_s = config.start_s + number * config.every_s
            if start_s + config.duration_s > record["samples"] / record["fs_hz"]:
                outside += 1
                continue
            patient, ecg = name.removesuffix("_H"), name if config.excerpts == 1 else f"{name}@{start_s:g}s"
            rows.append((ecg, patient, record["path"], start_s))
    reading.defect("ecgs", "excerpt_outside", "the record ends before; not made", outside)
    if not rows:
        raise reading.refuse(f"no record of {FOLDERS[config.recording]} can be used: {_told(reading)}")
    reading.defect("ecgs", "subject_unknown", "of a patient who is not in the table", sum(row[1] not in known for row in rows))
    columns = list(zip(*rows, strict=True))
    table = pa.table(dict(zip(("ecg_id", "subject_id", "path", "start_s"), map(pa.array, columns), strict=True)))
    return table.append_column("duration_s", pa.array(np.full(len(rows), config.duration_s)))


def _told(reading: Reading) -> str:
    return "; ".join(f"{code} {count}" for _, code, _, count in reading.defects) or "there is none"


def _labels(reading: Reading, people: pa.Table, ecgs: pa.Table) -> list[pa.Table]:
    """Labels of the patients for each of their ECGs; what has no ECG has no label."""
    available = AVAILABLE[reading.config.recording]
    owner = pc.index_in(ecgs["subject_id"], value_set=people[PATIENT].combine_chunks())
    said = pc.filter(people[PATIENT], pc.equal(_columns.yes_or_no(reading, "subjects", available, people[available]), 1))
    lacking = pc.invert(pc.is_in(said, value_set=ecgs["subject_id"].combine_chunks()))
    reading.defect("subjects", "no_waveforms", f"{available}, but none that can be used", int(pc.sum(lacking).as_py() or 0))

    def of(
        name: str, values: npt.NDArray[np.float64] | pa.ChunkedArray, unit: str | None, definition: str | pa.Array
    ) -> pa.Table:
        column = pa.chunked_array([pa.array(values)]) if isinstance(values, np.ndarray) else values
        words = definition if isinstance(definition, str) else definition.take(owner)
        return label_rows(
            name, column.take(owner), subject_id=ecgs["subject_id"], ecg_id=ecgs["ecg_id"], unit=unit, source="subject-info",
            definition=words,
        )  # fmt: skip

    made = []
    for column, (name, unit, low, high) in MEASURED.items():
        made.append(of(name, _number(reading, people, column, low, high), unit, f"column {column}"))
    walls = [_number(reading, people, column, *WALL_MM).to_numpy() for column in (SEPTUM, POSTERIOR)]
    septal, posterior = (np.isfinite(wall) for wall in walls)
    kind = np.where(septal & posterior, 0, np.where(septal, 1, 2)).astype(np.int32)
    words = pa.array(["the thicker of septum and posterior wall", "septum alone", "posterior wall alone"]).take(pa.array(kind))
    made.append(of("wall_mm", np.fmax(*walls), "mm", words))
    for column, (name, definition) in FLAGS.items():
        made.append(of(name, _columns.yes_or_no(reading, "subjects", column, people[column]), None, definition))
    age = people[AGE]
    old = pc.fill_null(pc.match_substring_regex(age, r"^>"), False)
    reading.defect("subjects", "age_capped", "more than 89 years; no label", int(pc.sum(old).as_py() or 0))
    people = people.set_column(people.column_names.index(AGE), AGE, pc.if_else(old, pa.scalar(None, pa.string()), age))
    made.append(of("music.age_years", _number(reading, people, AGE, 18, 120), "year", "age at enrolment"))
    cause = _cause(reading, people)
    for name, (codes, definition) in DEATHS.items():
        value = np.where(np.isfinite(cause), np.isin(cause, list(codes)).astype(np.float64), np.nan)
        made.append(of(name, value, None, definition))
    return made


def _number(reading: Reading, people: pa.Table, column: str, low: float, high: float) -> pa.ChunkedArray:
    values = reading.numbers("subjects", column, people[column], decimal=",")
    if column.startswith("Follow-up"):  # days go beyond it
        return reading.within("subjects", column, values, low, high)
    sentinel = pc.fill_null(pc.greater_equal(values, SENTINEL), False)
    reading.defect("subjects", "sentinel", f"{column}: means not measured", int(pc.sum(sentinel).as_py() or 0))
    return reading.within("subjects", column, pc.if_else(sentinel, pa.scalar(None, pa.float64()), values), low, high)


def _cause(reading: Reading, people: pa.Table) -> npt.NDArray[np.float64]:
    """The code of the cause of death, 0 where there was none; NaN where the two columns do not agree, or a code is unknown."""
    leaves, cause = (
        reading.numbers("subjects", column, people[column], decimal=",").to_numpy().astype(np.float64) for column in (EXIT, CAUSE)
    )
    strange = np.isfinite(cause) & ~np.isin(cause, list(CAUSES))
    differs = np.isfinite(cause) & ~strange & ((leaves == 3) != (cause > 0))
    reading.defect("subjects", "unknown_code", f"{CAUSE}: no label of death", int(strange.sum()))
    reading.defect("subjects", "columns_differ", f"{EXIT} and {CAUSE}: no label of death", int(differs.sum()))
    return np.where(strange | differs, np.nan, cause)


FOLDERS = {"high_resolution": "High-resolution_ECG", "holter": "Holter_ECG"}
AVAILABLE = {"high_resolution": "Hig-resolution ECG available", "holter": "Holter available"}
SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"subjects": ("subject-info.csv",), **{name: (f"{folder}/",) for name, folder in FOLDERS.items()}},
    needs=("subjects",),
    meaning={name: f"no recording={name}" for name in FOLDERS},
    listed=lambda reading: (
        reading.walk(reading.config.recording, (".hea", ".dat")) if reading.config.recording in reading.parts else ()
    ),
    read=read,
)
