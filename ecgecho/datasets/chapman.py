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
`--set split=merl`; everyone else is then in none. Its 38 label columns are not read: they were made by substrings of the
diagnoses and are wrong in 16.6 % of the records.

Leakage: all of it is in Challenge 2021 (family "cinc"). Some recordings are in the dataset more than once; headers with the
same checksums become one subject. ESI was pretrained on all of it.

Defects: JS23074.hea has its first two lines in one (read); JS01052.hea has lost the name of its first signal file (left out).
5 % of the records have flat leads (`--waveforms` counts them). Age NaN: no label.

Access: open, PhysioNet ecg-arrhythmia 1.0.0, CC BY 4.0. Never run on the real files. UNVERIFIED: the column names of
ConditionNames_SNOMED-CT.csv (two spellings are met in public copies; both are read).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa

from ecgecho.datasets import _snomed
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.types import UsageError

DATASET = "chapman"
SOURCE = "Chapman-Shaoxing-Ningbo headers"
SECONDS = (10.0, 10.0)
FOLDERS = ("headers", "chapman_shaoxing", "ningbo")
MERL = {"train": "merl train", "val": "merl val", "test": "merl test"}
LAST_OF_CHAPMAN = 10_646  # JS00001-JS10646 are Chapman-Shaoxing, the rest Ningbo; Challenge 2021 keeps them apart
_NAME = re.compile(r"JS\d{5}|S23074")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the index."""

    split: Literal["hash", "merl"] = "hash"
    """"merl" takes the split of MERL's csv files, which must lie in ROOT."""

    def __post_init__(self) -> None:
        if self.split not in ("hash", "merl"):
            raise UsageError(f"split is {self.split!r}; it must be hash or merl.")


def build(config: Config) -> Indexed:
    """The dataset for these settings."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Records by their headers."""
    found = _snomed.records(reading, [part for part in FOLDERS if part in reading.parts], _NAME, SECONDS)
    valid = _snomed.assessed(reading, found)
    cohort = ["chapman" if int(name[2:]) <= LAST_OF_CHAPMAN else "ningbo" for name in found.name]
    names = _snomed.challenge_names(reading)
    own = _snomed.condition_names(reading, "names") if "names" in reading.parts else {}
    _snomed.tell_unknown(reading, found, {**names, **own})
    return Tables(
        ecgs=found.ecgs,
        labels=[
            _snomed.age_labels(found, SOURCE),
            *_snomed.labels(found, "cinc2021", _snomed.classes_of(names, _snomed.SAME), valid, cohort, SOURCE),
            *_snomed.labels(found, "chapman", _snomed.classes_of(own, {}), valid, cohort, SOURCE),
        ],
        people=found.people,
        official=_merl(reading, found) if reading.config.split == "merl" else None,
    )


def _merl(reading: Reading, found: _snomed.Records) -> pa.Table:
    """MERL's split of the subjects; who is not in it, or in two of its parts, is in none."""
    for part in MERL.values():
        if part not in reading.parts:
            raise reading.refuse(f"there is no {SPEC.parts[part][0]}; put MERL's three csv files there, or leave split=hash.")
    splits: dict[str, set[str]] = {subject: set() for subject in found.subject}
    subject_of = dict(zip(found.name, found.subject, strict=True))
    unknown = 0
    for split, part in MERL.items():
        for path in reading.table(part, ("ecg_path",))["ecg_path"].to_pylist():
            name = PurePosixPath(path or "").name.removesuffix(".mat").removesuffix(".hea")
            if (subject := subject_of.get(name)) is None:
                unknown += 1
            else:
                splits[subject].add(split)
    reading.defect("merl", "record_unknown", "in MERL's split, not here", unknown)
    reading.defect("merl", "not_in_split", "subjects whom MERL's split leaves out; none", sum(not of for of in splits.values()))
    reading.defect(
        "merl", "in_two_splits", "the same recording in two parts of it; none", sum(len(of) > 1 for of in splits.values())
    )
    chosen = [next(iter(of)) if len(of) == 1 else "none" for of in splits.values()]
    return pa.table({"subject_id": list(splits), "split": chosen})


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        "headers": ("WFDBRecords/",),
        "chapman_shaoxing": ("chapman_shaoxing/",),
        "ningbo": ("ningbo/",),
        "names": ("ConditionNames_SNOMED-CT.csv",),
        **_snomed.MAPPING,
        **{part: (f"chapman_{split}.csv",) for split, part in MERL.items()},
    },
    needs=FOLDERS,
    any_of=True,
    meaning={
        "headers": "the release ecg-arrhythmia 1.0.0",
        "chapman_shaoxing": "the first half as Challenge 2021 packs it",
        "ningbo": "the second half as Challenge 2021 packs it",
        "names": "no labels chapman.<acronym>",
        **_snomed.MAPPING_MEANING,
        **{part: "needed for split=merl only" for part in MERL.values()},
    },
    read=read,
    listed=_snomed.listed(FOLDERS),
)
