"""CPSC2018 (ICBEB): 6,877 twelve-lead ECGs of 6 to 144 s at 500 Hz with nine classes; no echo.

On disk, either packaging, at most three folders below ROOT (which may be a whole Challenge 2020 or 2021):
- the original: ANNNN.mat (a struct ECG with sex, age and data in mV), in TrainingSet1 to 3, and REFERENCE.csv with Recording,
  First_label, Second_label, Third_label, once or in several of the folders. Its .mat files say neither rate nor leads: 500 Hz
  and I, II, III, aVR, aVL, aVF, V1-V6 are given. Sex and age inside them are not read.
- the WFDB copy: ANNNN.{hea,mat} with the classes as SNOMED-CT codes in #Dx, sorted by class: which label was the first is lost.
With both, the signals are those of the WFDB copy, the labels those of REFERENCE.csv, and disagreements are counted.

Labels, 1 and 0, for every record with labels (any of the three): `cpsc2018.<class>`, the Challenge's names: Normal, AF, I-AVB,
LBBB, RBBB, PAC, PVC, STD, STE (NORM, AFIB, 1AVB, CLBBB, CRBBB, PAC, VPC, STD_, STE_ in the code of others). From REFERENCE.csv
also `cpsc2018.first_label`, 1 to 9 in that order. `cinc2021.<abbreviation>` for the six classes that Challenge 2021 scored.
470 records have two labels, 6 three; STD, STE and PVC (164884008) are not among the scored codes.

Split: none official, the Challenge's own test set stayed private. There are no patient ids: one record is taken for one
patient, as everyone does (MERL and ecg_ptbxl_benchmarking split by record, differently). The hash of the family is used.
Leakage: the waveforms are byte for byte in Challenge 2020 and 2021 (family "cinc"); lengths differ by class, so a model that
sees the length can guess.

Defects: age -1 (4 records) and no age (5), no label of it. Challenge 2020 and 2021 write ages above 89 as 92.

Access: open, the links of icbeb.org are dead; CC BY 4.0 by way of PhysioNet challenge-2021. Never run on the real files.
UNVERIFIED: in which of the original's folders REFERENCE.csv lies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from ecgecho.datasets import _snomed
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows, once, plain_name, read_table, require
from ecgecho.types import STANDARD_LEADS

DATASET = "cpsc2018"
SECONDS = (6.0, 144.0)
FS_HZ = 500.0
CLASSES: dict[str, str] = {
    "Normal": "426783006",
    "AF": "164889003",
    "I-AVB": "270492004",
    "LBBB": "164909002",
    "RBBB": "59118001",
    "PAC": "284470004",
    "PVC": "164884008",
    "STD": "429622005",
    "STE": "164931005",
}
"""In the order of REFERENCE.csv's numbers, with the codes of the WFDB copy."""
LABELS = ("First_label", "Second_label", "Third_label")
_NAME = re.compile(r"A\d{4}")
_DEFINITION = "any of First, Second and Third_label of REFERENCE.csv; 1 or 0"
_SORTED = "1 where #Dx holds SNOMED-CT {code}, else 0; #Dx is sorted by class, which label was the first is lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """There is nothing to set."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Records by their headers, or by their .mat files where there are none; labels by REFERENCE.csv where it is there."""
    own = _references(reading) if "references" in reading.parts else {}
    wfdb = "headers" in reading.parts
    if not wfdb and not own:
        raise reading.refuse("recordings without labels: there is no header beside them and no REFERENCE.csv. Fetch these too.")
    found = _snomed.records(reading, ["headers"], _NAME, SECONDS) if wfdb else _originals(reading)
    source = "CPSC2018 REFERENCE.csv" if own else "CPSC2018 headers"
    said = [own.get(name, ()) for name in found.name] if own else [_classes(codes) for codes in found.codes]
    if own:
        reading.defect("references", "record_unknown", "in REFERENCE.csv, its signals not here", len(set(own) - set(found.name)))
        differs = sum(bool(a and b) and set(a) != set(_classes(b)) for a, b in zip(said, found.codes, strict=True))
        reading.defect("labels", "label_differs", "#Dx and REFERENCE.csv; the latter is taken", differs)
        reading.defect("labels", "label_missing", "record without labels", sum(not one for one in said))
        found = found.with_codes([tuple(CLASSES[name] for name in one) for one in said])
        valid = np.array([bool(one) for one in said], bool)
    else:
        found = found.with_codes([_snomed_codes(codes) for codes in found.codes])
        valid = _snomed.assessed(reading, found)
    names = _snomed.challenge_names(reading)
    _snomed.tell_unknown(reading, found, {**names, **dict.fromkeys(CLASSES.values())})
    labels = [_snomed.age_labels(found, source)] if wfdb else []
    for name, code in CLASSES.items():
        rows = np.flatnonzero(valid)
        value = np.array([float(name in said[row]) for row in rows])
        definition = _DEFINITION if own else _SORTED.format(code=code)
        labels.append(label_rows(f"{DATASET}.{name}", value, unit=None, source=source, definition=definition, **found.ids(rows)))
    if own:
        rows = np.flatnonzero(valid)
        first = np.array([float(list(CLASSES).index(said[row][0]) + 1) for row in rows])
        labels.append(
            label_rows(
                f"{DATASET}.first_label", first, unit=None, source=source, definition="First_label, 1 to 9", **found.ids(rows)
            )
        )
    classes = _snomed.classes_of(names, _snomed.SAME)
    labels += _snomed.labels(found, "cinc2021", classes, valid, [DATASET] * len(found.name), source)
    ecgs = found.ecgs
    if not wfdb:
        ecgs = pa.table(
            {
                "ecg_id": found.name,
                "subject_id": found.subject,
                "path": found.path,
                "leads": [",".join(STANDARD_LEADS)] * len(found.name),
                "fs_hz": [FS_HZ] * len(found.name),
                "unit": ["mv"] * len(found.name),
            }
        )
    return Tables(ecgs=ecgs, labels=labels, people=found.people if wfdb else None)


def _originals(reading: Reading) -> _snomed.Records:
    """The .mat files that are recordings by their names."""
    paths: dict[str, str] = {}
    for path in reading.walk("originals", (".mat",)):
        stem = PurePosixPath(path).stem
        if not _NAME.fullmatch(stem):
            continue
        if stem in paths:
            raise reading.refuse(f"the record {stem} is there twice, {paths[stem]} and {path}. Keep one copy.")
        paths[stem] = path
    names = sorted(paths)
    return _snomed.Records(
        name=names,
        path=[paths[name] for name in names],
        subject=names,
        codes=[()] * len(names),
        age=pa.chunked_array([pa.nulls(len(names), pa.float64())]),
        sex=[None] * len(names),
    )


def _references(reading: Reading) -> dict[str, tuple[str, ...]]:
    """The classes of every recording, the first label first; a number that is no class makes them unknown."""
    files = [path for path in reading.walk("references", (".csv", ".csv.gz")) if plain_name(path) == "reference"]
    tables = [read_table(reading.root / path, ("Recording", *LABELS)) for path in files]
    place = reading.root / files[0]
    rows, repeats = once(require(pa.concat_tables(tables), ("Recording",), place), "Recording", place)
    reading.defect("references", "row_twice", "same Recording; kept once", repeats)
    names = list(CLASSES)
    made: dict[str, tuple[str, ...]] = {}
    wrong = 0
    for record, *labels in zip(*(rows[column].to_pylist() for column in ("Recording", *LABELS)), strict=True):
        given = [label.removesuffix(".0") for label in labels if label is not None]
        known = [names[int(label) - 1] for label in given if re.fullmatch(r"[1-9]", label)]
        if labels[0] is None or len(known) < len(given):
            wrong += 1
        made[record] = tuple(dict.fromkeys(known)) if labels[0] is not None and len(known) == len(given) else ()
    reading.defect("references", "label_unknown", "no First_label, or a label that is not 1 to 9; no labels", wrong)
    return made


def _classes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the nine classes that a list of codes, or of the Challenge's names, holds."""
    given = set(_snomed_codes(codes))
    return tuple(name for name, code in CLASSES.items() if code in given)


def _snomed_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """The first copies of Challenge 2020 wrote the classes' names (#Dx: RBBB) where later ones write codes."""
    return tuple(CLASSES.get(code, code) for code in codes)


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        "headers": ("**/A[0-9][0-9][0-9][0-9].hea",),
        "originals": ("**/A[0-9][0-9][0-9][0-9].mat",),
        "references": ("**/REFERENCE.csv",),
        **_snomed.MAPPING,
    },
    needs=("originals",),
    meaning={
        "headers": "the original packaging: no sex, no age",
        "references": "the WFDB copy: which label was the first is lost",
        **_snomed.MAPPING_MEANING,
    },
    read=read,
    listed=_snomed.listed(("headers", "originals", "references")),
)
