"""Chapman-Shaoxing-Ningbo 1.0.0: 45,152 twelve-lead ECGs of 10 s at 500 Hz with SNOMED-CT codes; no echo.

On disk: WFDBRecords/NN/NNN/JSNNNNN.{hea,mat}, and ConditionNames_SNOMED-CT.csv beside it. Age, sex and diagnoses stand in the
headers alone. The same records as Challenge 2021 packs them (training/chapman_shaoxing/gN, training/ningbo/gN) are read too.

Labels, 1 and 0, for every record with diagnoses: `cinc2021.<abbreviation>` (the 26 classes of Challenge 2021, more with its
dx_mapping_unscored.csv in ROOT) and `chapman.<acronyms>` by the dataset's own list, where several acronyms of one code cannot
be told apart and are joined (`chapman.LBBB+LBBBB+LFBBB`). Mind that the lists differ: `cinc2021.AF` is atrial fibrillation,
`chapman.AF` atrial flutter (`chapman.AFIB` is fibrillation), `chapman.STE` is 164930006 and not the ST elevation of the
Challenge. Codes without a name are counted. JS00001-JS10646 (Chapman-Shaoxing) and the rest (Ningbo) count as two cohorts, see
_snomed.py; each has codes that the other never gives.

Split: none official. One record is one patient, so the literature splits by record; the hash of the family is used. MERL's
published split (chapman_train.csv, chapman_val.csv, chapman_test.csv; 23,026 of the records) is taken with
`--set split=merl`; the other records are then left out, and counted. Its 38 classes are then labels too, `merl.<acronym>`:
from the whole words of its column `diagnose`. Its own label columns were made by substrings (AF also where AFIB stands, SA
where LVQRSAL does) and are wrong in 16.6 % of the records; `--set merl_labels=published` takes them, to be held against
published numbers only.

Leakage: all of it is in Challenge 2021 (family "cinc"). Some recordings are in the dataset more than once; headers with the
same checksums become one subject. ESI was pretrained on all of it.

Defects: JS23074.hea has its first two lines in one (read); JS01052.hea has lost the name of its first signal file (left out).
5 % of the records have flat leads (`--waveforms` counts them). Age NaN: no label.

Access: open, PhysioNet ecg-arrhythmia 1.0.0, CC BY 4.0. Never run on the real files; the columns of the csv files are those
of public code that reads ConditionNames_SNOMED-CT.csv and of MERL's repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _snomed
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import header_of, label_rows
from ecgecho.types import UsageError

DATASET = "chapman"
SOURCE = "Chapman-Shaoxing-Ningbo headers"
SECONDS = (10.0, 10.0)
MERL = {"train": "merl train", "val": "merl val", "test": "merl test"}
MERL_COLUMNS = ("ecg_path", "age", "diagnose")
LAST_OF_CHAPMAN = 10_646  # JS00001-JS10646 are Chapman-Shaoxing, the rest Ningbo; Challenge 2021 keeps them apart
_NAME = re.compile(r"JS\d{5}|S23074")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the index."""

    split: Literal["hash", "merl"] = "hash"
    """"merl" takes the split of MERL's csv files, which must lie in ROOT, and no record that is not in it."""

    merl_labels: Literal["exact", "published"] = "exact"
    """With split=merl: whole words of the diagnoses, or MERL's label columns as they are, of which many are wrong."""

    def __post_init__(self) -> None:
        if self.merl_labels not in ("exact", "published"):
            raise UsageError(f"merl_labels is {self.merl_labels!r}; it must be exact or published.")
        if self.split not in ("hash", "merl"):
            raise UsageError(f"split is {self.split!r}; it must be hash or merl.")


def build(config: Config) -> Indexed:
    """The dataset for these settings."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Records by their headers."""
    found = _snomed.records(reading, ["headers"], _NAME, SECONDS)
    valid = _snomed.assessed(reading, found)
    cohort = ["chapman" if int(name[2:]) <= LAST_OF_CHAPMAN else "ningbo" for name in found.name]
    names = _snomed.challenge_names(reading)
    own = _snomed.condition_names(reading, "names") if "names" in reading.parts else {}
    _snomed.tell_unknown(reading, found, {**names, **own})
    merl = _merl(reading, found) if reading.config.split == "merl" else None
    ecgs = found.ecgs
    labels = [
        _snomed.age_labels(found, SOURCE),
        *_snomed.labels(found, "cinc2021", _snomed.classes_of(names, _snomed.SAME), valid, cohort, SOURCE),
        *_snomed.labels(found, "chapman", _snomed.classes_of(own, {}), valid, cohort, SOURCE),
    ]
    if merl is None:
        return Tables(ecgs=ecgs, labels=labels, people=found.people)
    labels = [_of(table, merl.official["subject_id"]) for table in (*labels, *merl.labels)]
    ecgs = _of(ecgs, merl.official["subject_id"])
    return Tables(ecgs=ecgs, labels=labels, people=found.people, official=merl.official)


def _of(table: pa.Table, subjects: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["subject_id"], value_set=subjects.combine_chunks()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merl:
    """MERL's files: the split of every subject who is in one, and labels."""

    official: pa.Table
    labels: list[pa.Table]


def _merl(reading: Reading, found: _snomed.Records) -> _Merl:
    """MERL's split of the subjects, without who is not in it, or in two of its parts; and its 38 classes."""
    for part in MERL.values():
        if part not in reading.parts:
            raise reading.refuse(f"there is no {SPEC.parts[part][0]}; put MERL's three csv files there, or leave split=hash.")
    splits: dict[str, set[str]] = {subject: set() for subject in found.subject}
    row_of = {name: row for row, name in enumerate(found.name)}
    rows: list[int] = []
    words: list[str | None] = []
    published: dict[str, list[str | None]] = {}
    taken: set[str] = set()
    unknown = twice = 0
    for split, part in MERL.items():
        classes = [name for name in header_of(reading.parts[part]) if name not in MERL_COLUMNS]
        if published and set(classes) != set(published):
            raise reading.refuse(
                f"{reading.parts[part].name} has other classes than {SPEC.parts['merl train'][0]}; two versions?"
            )
        table = reading.table(part, [*MERL_COLUMNS, *classes])
        names = [PurePosixPath(path or "").name.removesuffix(".mat") for path in table["ecg_path"].to_pylist()]
        here: list[int] = []
        for place, name in enumerate(names):
            if (row := row_of.get(name)) is None:
                unknown += 1
                continue
            splits[found.subject[row]].add(split)
            if name in taken:
                twice += 1
                continue
            taken.add(name)
            here.append(place)
        rows += [row_of[names[place]] for place in here]
        kept = table.take(pa.array(here, pa.int64()))
        words += kept["diagnose"].to_pylist()
        for name in classes:
            published.setdefault(name, []).extend(kept[name].to_pylist())
    reading.defect("merl", "row_twice", "a record again; the labels of its first row count", twice)
    reading.defect("merl", "record_unknown", "in MERL's split, not here", unknown)
    parts_of = np.array([len(splits[subject]) for subject in found.subject], np.int64)
    reading.defect("merl", "not_in_split", "records that MERL's split leaves out; left out", (parts_of == 0).sum())
    reading.defect("merl", "in_two_splits", "records of a subject in two parts of it; left out", (parts_of > 1).sum())
    if not (parts_of == 1).any():
        raise reading.refuse("none of its records is in MERL's csv files; are they those of this dataset? Or leave split=hash.")
    chosen = {subject: next(iter(of)) for subject, of in splits.items() if len(of) == 1}
    exact = [{word.strip() for word in (text or "").split(",")} for text in words]
    ids = found.ids(np.array(rows, np.int64))
    definition = "1 where the column diagnose of MERL's csv holds the word, else 0"
    if reading.config.merl_labels == "published":
        definition = "the label column of MERL's csv as published, made by substrings; wrong in 16.6 % of the records"
    labels = []
    wrong = np.zeros(len(rows), bool)
    for name, flags in published.items():
        own = np.array([name in said for said in exact], np.float64)
        given = np.array([{"1": 1.0, "0": 0.0}.get(flag or "", np.nan) for flag in flags])
        wrong |= own != given
        value = own if reading.config.merl_labels == "exact" else given
        labels.append(label_rows(f"merl.{name}", value, unit=None, source="MERL csv files", definition=definition, **ids))
    reading.defect("merl", "label_differs", "records with a label column that the diagnoses contradict", int(wrong.sum()))
    return _Merl(official=pa.table({"subject_id": list(chosen), "split": list(chosen.values())}), labels=labels)


SPEC = Spec(
    name=DATASET,
    version=2,
    parts={
        "headers": ("**/WFDBRecords/", "**/chapman_shaoxing/", "**/ningbo/"),  # the last two are those of Challenge 2021
        "names": ("ConditionNames_SNOMED-CT.csv",),
        **_snomed.MAPPING,
        **{part: (f"chapman_{split}.csv",) for split, part in MERL.items()},
    },
    needs=("headers",),
    meaning={
        "names": "no labels chapman.<acronym>",
        **_snomed.MAPPING_MEANING,
        **{part: "needed for split=merl only" for part in MERL.values()},
    },
    read=read,
    listed=_snomed.listed(("headers",)),
)
