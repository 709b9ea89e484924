"""CAMUS: half a heart beat of 500 patients in the views A2C and A4C; echo alone, no ECG.

Needs `database_nifti/patientNNNN/` with `Info_2CH.cfg`, `Info_4CH.cfg` ("Key: value" lines) and
`patientNNNN_{2CH,4CH}_half_sequence.nii.gz`; or the folder `training` (or `testing`) of the older release with
`patientNNNN_{2CH,4CH}_sequence.mhd` (and .raw). The clips run from end-diastole to end-systole only: half a cycle.

Both schemas of the cfg are read: EF (new), or LVedv, LVesv and LVef (old); ED, ES, NbFrame, Sex, Age, ImageQuality in both.

Splits: `database_split/subgroup_{training,validation,testing}.txt`, a patient a line; lists that overlap are refused, a
patient in none of them is in no split. Where the three files are not there: patients 1-400, 401-450, 451-500, the fallback of
public code (not official). A patient is a subject, both views are one study. Leakage: none by patient. The folder `testing` of
the older release counts from 1 again (UNVERIFIED): its patients are called `testing-patientNNNN`, all in the test split.

Labels, one a patient: `lvef` (%), and `edv_ml`, `esv_ml` (mL) in the older release, where both views say the same;
`camus.image_quality.2CH` and `.4CH` (0 poor, 1 medium, 2 good, as an expert saw it); `age_years`.

Licence and access: after registration at CREATIS; CC BY-NC-SA 4.0 by third-party pages (UNVERIFIED), scientific use only.

Never run on the real files, only on a tree in their published layout (datasets.md section 7; public code that reads both
releases). UNVERIFIED: where the split files come from, and that the pixel spacing of the NIfTI header is right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from ecgecho.catalog import subject_tag
from ecgecho.datasets import _echonet
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows
from ecgecho.types import Json

DATASET = "camus"
VIEWS = {"2CH": "A2C", "4CH": "A4C"}
CLIPS = ("{patient}_{view}_half_sequence.nii.gz", "{patient}_{view}_half_sequence.nii", "{patient}_{view}_sequence.mhd")
QUALITY = {"poor": 0.0, "medium": 1.0, "good": 2.0}
SEX = {"f": "female", "m": "male"}
KEYS = {  # label -> keys of the cfg, unit, lowest and highest value
    "lvef": (("EF", "LVef"), "%", 0.0, 100.0),
    "edv_ml": (("LVedv",), "mL", 1.0, 1000.0),
    "esv_ml": (("LVesv",), "mL", 1.0, 1000.0),
    "age_years": (("Age",), "years", 0.0, 120.0),
}
SUBGROUPS = {"training": "train", "validation": "val", "testing": "test"}
FALLBACK = ((400, "train"), (450, "val"), (500, "test"))
MAX_CFG_BYTES = 1 << 16
Infos: TypeAlias = dict[tuple[str, str], dict[str, str]]
"""By patient and view: the keys of a cfg file in lower case."""
_PATIENT = re.compile(r"^patient(\d{4})$", re.IGNORECASE)
_NUMBER = re.compile(r"^[-+]?\d+(\.\d*)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index camus`."""

    scan_headers: bool = False
    """Open every clip and hold its frame count against the cfg's NbFrame; without, the cfg is believed."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """See the module's docstring."""
    patients = sorted(place.name for place in reading.parts["patients"].iterdir() if _PATIENT.match(place.name))
    subjects = {name: _subject(reading, name) for name in patients}
    infos = {(name, view): _info(reading, name, view) for name in patients for view in VIEWS}
    clips = _clips(reading, subjects, infos)
    return Tables(
        clips=_echonet.with_headers(reading, clips, reading.config.scan_headers),
        labels=list(_labels(reading, subjects, infos, set(clips["subject_id"].to_pylist()))),
        people=_people(reading, subjects, infos),
        official=_splits(reading, subjects),
    )


def _subject(reading: Reading, name: str) -> str:
    return f"testing-{name}" if reading.parts["patients"].name.lower() == "testing" else name


def _info(reading: Reading, name: str, view: str) -> dict[str, str]:
    """The keys of a cfg file; none where it is missing or is no such file."""
    path = reading.parts["patients"] / name / f"Info_{view}.cfg"
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CFG_BYTES + 1)
    except OSError:
        reading.defect(f"Info_{view}.cfg", "missing_file", "no labels of that view", 1)
        return {}
    found: dict[str, str] = {}
    for line in text.decode("latin-1").splitlines() if len(text) <= MAX_CFG_BYTES else []:
        key, colon, value = line.partition(":")
        if colon and key.strip().isalnum():
            found[key.strip().lower()] = value.strip()
    if "nbframe" not in found:
        reading.defect(f"Info_{view}.cfg", "damaged_header", "no NbFrame in it; not believed", 1)
        return {}
    return found


def _clips(reading: Reading, subjects: Json, infos: Infos) -> pa.Table:
    rows: list[Json] = []
    folder = reading.parts["patients"]
    below = "" if folder == reading.root else f"{folder.relative_to(reading.root).as_posix()}/"
    for (name, view), info in infos.items():
        there = [clip for pattern in CLIPS if (folder / name / (clip := pattern.format(patient=name, view=view))).is_file()]
        if not there:
            reading.defect("clips", "missing_file", f"no sequence in {view}", 1)
            continue
        frames = info.get("nbframe", "")
        rows.append(
            {
                "clip_id": f"{subjects[name]}_{view}",
                "study_id": subjects[name],
                "subject_id": subjects[name],
                "path": f"{below}{name}/{there[0]}",
                "num_frames": int(frames) if frames.isdigit() and 0 < int(frames) < 1e4 else None,
                "view": VIEWS[view],
            }
        )
    if infos and not rows:
        raise reading.refuse(
            f"there is no patientNNNN_2CH_half_sequence.nii.gz (nor _sequence.mhd) in the {len(subjects)} folders of "
            f"{folder.name}; fetch the sequences, not only the ED and ES frames."
        )
    words = ("clip_id", "study_id", "subject_id", "path", "view")
    return pa.Table.from_pylist(rows, pa.schema([*((word, pa.string()) for word in words), ("num_frames", pa.int32())]))


def _labels(reading: Reading, subjects: Json, infos: Infos, with_clips: set[str]) -> Iterator[pa.Table]:
    names = [name for name in subjects if subjects[name] in with_clips]
    ids = pa.array([subjects[name] for name in names], pa.string())
    for label, (keys, unit, low, high) in KEYS.items():
        values: list[float | None] = []
        for name in names:
            words: list[str] = [infos[name, view].get(key.lower(), "") for view in VIEWS for key in keys]
            values.append(_one(reading, label, [word for word in words if word], low, high))
        yield label_rows(
            label, values, subject_id=ids, study_id=ids, unit=unit, source="Info_*.cfg", definition=" or ".join(keys)
        )
    for view in VIEWS:
        seen = [infos[name, view].get("imagequality", "").lower() for name in names]
        for word, number in Counter(seen).items():
            if word and word not in QUALITY:
                reading.defect(f"Info_{view}.cfg", "unknown_word", "ImageQuality left out", number)
        yield label_rows(
            f"camus.image_quality.{view}",
            pa.array([QUALITY.get(word) for word in seen], pa.float64()),
            subject_id=ids,
            study_id=ids,
            unit=None,
            source=f"Info_{view}.cfg",
            definition="0 poor, 1 medium, 2 good, as an expert saw it",
        )


def _one(reading: Reading, label: str, words: list[str], low: float, high: float) -> float | None:
    """The value that both views give; None where there is none, or two."""
    values = {float(word) for word in words if _NUMBER.match(word)}
    reading.defect("labels", "not_a_number", f"{label} left out", sum(not _NUMBER.match(word) for word in words))
    good = {value for value in values if low <= value <= high}
    reading.defect("labels", "out_of_range", f"{label}: not from {low:g} to {high:g}; left out", len(values - good))
    reading.defect("labels", "views_disagree", f"{label} left out", int(len(good) > 1))
    return good.pop() if len(good) == 1 else None


def _people(reading: Reading, subjects: Json, infos: Infos) -> pa.Table:
    sexes = []
    for name in subjects:
        said = {SEX.get(infos[name, view].get("sex", "")[:1].lower()) for view in VIEWS} - {None}
        reading.defect("subjects", "sex_differs", "between the views of a patient; unknown", int(len(said) > 1))
        sexes.append(said.pop() if len(said) == 1 else None)
    return pa.table({"subject_id": pa.array(list(subjects.values()), pa.string()), "sex": pa.array(sexes, pa.string())})


def _splits(reading: Reading, subjects: Json) -> pa.Table:
    """The split of every patient here; from the subgroup files, else by number."""
    lists = {split: reading.parts[name] for name, split in SUBGROUPS.items() if name in reading.parts}
    split: dict[str, str] = {}
    if len(lists) == len(SUBGROUPS):
        for word, path in lists.items():
            for name in _names(path):
                if split.setdefault(name, word) != word:
                    raise reading.refuse(
                        f"{path.name}: patient {subject_tag(name)} is also in the {split[name]} list; that leaks."
                    )
        reading.defect("splits", "not_there", "a patient of the lists has no folder", len(set(split) - set(subjects)))
    elif lists:
        absent = ", ".join(f"subgroup_{name}.txt" for name in SUBGROUPS if name not in reading.parts)
        raise reading.refuse(f"of the split files {absent} is missing; fetch it, or remove the others.")
    elif reading.parts["patients"].name.lower() == "testing":
        split = dict.fromkeys(subjects, "test")
    else:
        reading.defect("splits", "not_official", "no subgroup files: patients 1-400, 401-450, 451-500", len(subjects))
        split = {name: _by_number(name) for name in subjects}
    found = [split.get(name, "none") for name in subjects]
    reading.defect("splits", "split_missing", "a patient in no list; in no split", found.count("none"))
    return pa.table({"subject_id": pa.array(list(subjects.values()), pa.string()), "split": pa.array(found, pa.string())})


def _names(path: Path) -> list[str]:
    with path.open("rb") as stream:
        text = stream.read(MAX_CFG_BYTES).decode("latin-1")
    return [word for word in text.lower().split() if _PATIENT.match(word)]


def _by_number(name: str) -> str:
    number = int(_PATIENT.sub(r"\1", name))
    return next((split for last, split in FALLBACK if 1 <= number <= last), "none")


def _listed(reading: Reading) -> Iterable[str]:
    return reading.walk("patients", (".cfg", ".nii.gz", ".nii", ".mhd", ".raw"))


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        "patients": ("patient[0-9][0-9][0-9][0-9]*/",),
        **{name: (f"subgroup_{name}.txt",) for name in SUBGROUPS},
    },
    needs=("patients",),
    read=read,
    meaning={name: f"splits are by patient number (database_split/subgroup_{name}.txt)" for name in SUBGROUPS},
    listed=_listed,
)
