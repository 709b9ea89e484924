"""EchoNet-Pediatric: A4C and PSAX videos of children with ejection fraction; echo alone, no ECG.

Needs, for at least one of the views A4C and PSAX, `<view>/FileList.csv` (FileName, EF, Sex, Age, Weight, Height, Split from 0
to 9) and `<view>/Videos/*.avi`, 112 x 112; any folders above (`pediatric_echo_avi/pediatric_echo_avi/`) are tolerated.
`<view>/VolumeTracings.csv` (FileName, X, Y, Frame, where Frame may be "No Systolic" or "No Diastolic") is looked at for what
it lacks.

Who: by the authors' script a file is called <patient>-<study>-<instance>.avi (anonymous ids of their own), so the subject is
the first part of its name, the study the first two, over both views. A name of another form is a subject of its own, counted.

Splits: the folds of the column Split, by the same script int(sha1(patient), 16) % 10; a fold that is not this hash is counted.
Papers train on folds 0-7, take 8 for validation and 9 for the test; others use 0-6 / 7 / 8-9 (`train`, `val`, `test`).
Leakage: none by patient as far as the names say who it is; a patient in two splits is refused.

Label: `lvef` (%), one a study: the column EF, by the authors' script the bullet method's of the report. Studies whose rows
disagree have none. Age, weight and height have no unit in the table (UNVERIFIED) and are not taken.

Pictures: A4C clips are stored upside down in their DICOM files and were flipped back by the authors, so apex up as elsewhere.
The frame rate of a video is the CineRate of its DICOM or 50 where that was missing: do not trust it (counted as a defect).

Licence and access: Stanford AIMI research use agreement, non-commercial, after registration; may not be passed on.

Never run on the real files, only on a tree in their published layout. Sources: the authors' script that wrote FileList.csv
(echonet, a copy of it), public code that reads the files. UNVERIFIED: how many videos there are (3,284 A4C and 4,526 PSAX).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _echonet
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows
from ecgecho.types import UsageError

DATASET = "echonet_pediatric"
VIEWS = ("A4C", "PSAX")
NUM_FOLDS = 10
NAME = r"^([^-]+)-([^-]+)-(\d+)$"
NO_PHASE = ("No Systolic", "No Diastolic")
SEX = {"f": "female", "m": "male"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index echonet-pediatric`."""

    train: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Folds to train on; a fold that is in none of the three is kept out of every split."""
    val: tuple[int, ...] = (8,)
    test: tuple[int, ...] = (9,)
    scan_headers: bool = False
    """Open every video for its frame count; without, it is null: the table does not give it."""

    def __post_init__(self) -> None:
        folds = (*self.train, *self.val, *self.test)
        if not set(folds) <= set(range(NUM_FOLDS)):
            raise UsageError(f"train, val and test name the folds {folds}; they are 0 to {NUM_FOLDS - 1}.")
        if len(set(folds)) < len(folds):
            raise UsageError(f"a fold stands twice in train, val and test ({folds}); that leaks.")


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """See the module's docstring."""
    views = [view for view in VIEWS if view in reading.parts]
    rows = pa.concat_tables([_view(reading, view) for view in views])
    subject, study = _persons(reading, rows["FileName"])
    rows = rows.append_column("subject_id", subject).append_column("study_id", study)
    _check_folds(reading, rows)
    clips = pa.table(
        {
            "clip_id": pc.binary_join_element_wise(rows["FileName"], rows["view"], "-"),
            "study_id": rows["study_id"],
            "subject_id": rows["subject_id"],
            "path": rows["path"],
            "view": rows["view"],
        }
    )
    reading.defect("clips", "frame_rate_unreliable", "the DICOM's CineRate, or 50 where it had none", clips.num_rows)
    return Tables(
        clips=_echonet.with_headers(reading, clips, reading.config.scan_headers),
        labels=[_lvef(reading, rows)],
        people=_people(reading, rows),
        official=pa.table({"subject_id": rows["subject_id"], "split": rows["split"]}),
    )


def _view(reading: Reading, view: str) -> pa.Table:
    """The rows of a view whose videos are there."""
    rows = reading.table(view, ("FileName", "EF", "Split"), ("Sex",))
    rows = rows.set_column(0, "FileName", _echonet.stems(rows["FileName"]))
    rows = reading.once(view, rows, "FileName")
    config = reading.config
    fold = {str(n): name for name, folds in (("train", config.train), ("val", config.val), ("test", config.test)) for n in folds}
    known = {str(n): fold.get(str(n), "none") for n in range(NUM_FOLDS)}
    rows = rows.append_column("split", _echonet.splits_of(reading, view, "Split", rows["Split"], known))
    rows = rows.append_column("path", _echonet.paths_of(reading, view, rows["FileName"]))
    _tracings(reading, view, rows["FileName"])
    rows = rows.append_column("ef", reading.within(view, "EF", reading.numbers(view, "EF", rows["EF"]), 0, 100))
    rows = rows.append_column("view", pa.array([view] * rows.num_rows, pa.string()))
    return rows.filter(pc.is_valid(rows["path"]))


def _persons(reading: Reading, names: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Subject and study of each file, by its name."""
    usual = pc.match_substring_regex(names, NAME)
    reading.defect("clips", "name_unusual", "not <patient>-<study>-<instance>; a subject of its own", _number(pc.invert(usual)))
    subject = pc.if_else(usual, pc.replace_substring_regex(names, NAME, r"\1"), names)
    study = pc.if_else(usual, pc.replace_substring_regex(names, NAME, r"\1-\2"), names)
    return subject, study


def _check_folds(reading: Reading, rows: pa.Table) -> None:
    """Count the rows whose fold is not the one that the authors' script gives to the patient in the name."""
    fold = {
        subject: str(int(hashlib.sha1(subject.encode(), usedforsecurity=False).hexdigest(), 16) % NUM_FOLDS)
        for subject in pc.unique(rows["subject_id"]).to_pylist()
    }
    pairs = zip(rows["subject_id"].to_pylist(), rows["Split"].to_pylist(), strict=True)
    differ = sum(word is not None and word != fold[subject] for subject, word in pairs)
    reading.defect(
        "clips", "fold_not_of_name", "Split is not sha1(patient) % 10: is the patient the first part of the name?", differ
    )


def _lvef(reading: Reading, rows: pa.Table) -> pa.Table:
    """One value a study; none where its rows disagree."""
    known = rows.filter(pc.is_valid(rows["ef"]))
    values = known.group_by("study_id", use_threads=False).aggregate([("ef", "min"), ("ef", "max"), ("subject_id", "min")])
    same = pc.equal(values["ef_min"], values["ef_max"])
    reading.defect("studies", "ef_differs", "between the rows of a study; no lvef", _number(pc.invert(same)))
    values = values.filter(same)
    return label_rows(
        "lvef",
        values["ef_min"],
        subject_id=values["subject_id_min"],
        study_id=values["study_id"],
        unit="%",
        source="FileList.csv",
        definition="column EF: bullet method, of the report",
    )


def _people(reading: Reading, rows: pa.Table) -> pa.Table:
    word = pc.utf8_lower(pc.utf8_slice_codeunits(rows["Sex"], 0, 1))
    row = pc.index_in(word.combine_chunks(), value_set=pa.array(list(SEX)))
    sexes = pa.table({"subject_id": rows["subject_id"], "sex": pa.array(list(SEX.values())).take(row)})
    people = sexes.group_by("subject_id", use_threads=False).aggregate([("sex", "min"), ("sex", "max")])
    agree = pc.fill_null(pc.equal(people["sex_min"], people["sex_max"]), True)
    reading.defect("subjects", "sex_differs", "between the rows of a patient; unknown", _number(pc.invert(agree)))
    return pa.table(
        {"subject_id": people["subject_id"], "sex": pc.if_else(agree, people["sex_min"], pa.scalar(None, pa.string()))}
    )


def _tracings(reading: Reading, view: str, names: pa.ChunkedArray) -> None:
    part = f"{view} tracings"
    if part not in reading.parts:
        return
    rows = reading.table(part, ("FileName", "X", "Y", "Frame"))
    frames = rows.select(["FileName", "Frame"]).group_by(["FileName", "Frame"]).aggregate([])
    files = pc.unique(_echonet.stems(frames["FileName"]))
    not_traced = pc.invert(pc.is_in(names, value_set=files))
    reading.defect(part, "not_traced", "a listed video without tracings", _number(not_traced))
    not_listed = pc.invert(pc.is_in(files, value_set=names.combine_chunks()))
    reading.defect(part, "not_listed", "tracings of a video that is not listed", _number(not_listed))
    for word in NO_PHASE:
        there = pc.fill_null(pc.equal(pc.utf8_lower(frames["Frame"]), word.lower()), False)
        reading.defect(part, word.lower().replace(" ", "_"), "that phase is not traced", _number(there))


def _number(mask: pa.ChunkedArray | pa.Array) -> int:
    return pc.sum(mask).as_py() or 0


def _listed(reading: Reading) -> Iterable[str]:
    return (path for view in VIEWS if view in reading.parts for path in reading.walk(view, (_echonet.SUFFIX,)))


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        **{view: (f"{view}/FileList.csv",) for view in VIEWS},
        **{f"{view} tracings": (f"{view}/VolumeTracings.csv",) for view in VIEWS},
    },
    needs=VIEWS,
    any_of=True,
    read=read,
    meaning={
        **{view: f"no {view} videos ({view}/FileList.csv)" for view in VIEWS},
        **{f"{view} tracings": f"it is not known which {view} videos are traced" for view in VIEWS},
    },
    listed=_listed,
)
