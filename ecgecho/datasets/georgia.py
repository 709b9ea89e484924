"""Georgia 12-lead ECG (G12EC): 10,344 ECGs of 5 to 10 s at 500 Hz with SNOMED-CT codes; no echo.

On disk, inside Challenge 2020 or 2021 only: training/georgia/gN/ENNNNN.{hea,mat}. The headers are found by their names at most
three folders below ROOT, which may be the whole Challenge; its other records are left alone.

Labels, 1 and 0, for every record with diagnoses: `cinc2021.<abbreviation>`, the 26 classes of Challenge 2021, more with its
dx_mapping_unscored.csv in ROOT; see _snomed.py. Challenge 2020 repeats a code in 628 of these records; it counts once. Codes
without a name are counted.

Split: none official, and no patient ids: one record is taken for one patient, as the literature does. The hash of the family
is used. Leakage: Challenge 2020 and 2021 hold all of it (family "cinc").

Access: open, PhysioNet challenge-2021 1.0.3, CC BY 4.0. Never run on the real files. UNVERIFIED: the names of the folders gN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ecgecho.datasets import _snomed
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables

DATASET = "georgia"
SOURCE = "Georgia 12-lead headers"
SECONDS = (5.0, 10.0)
_NAME = re.compile(r"E\d{5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """There is nothing to set."""


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Records by their headers."""
    found = _snomed.records(reading, ["headers"], _NAME, SECONDS)
    valid = _snomed.assessed(reading, found)
    names = _snomed.challenge_names(reading)
    _snomed.tell_unknown(reading, found, names)
    classes = _snomed.classes_of(names, _snomed.SAME)
    return Tables(
        ecgs=found.ecgs,
        labels=[
            _snomed.age_labels(found, SOURCE),
            *_snomed.labels(found, "cinc2021", classes, valid, [DATASET] * len(found.name), SOURCE),
        ],
        people=found.people,
    )


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={"headers": ("**/E[0-9][0-9][0-9][0-9][0-9].hea",), **_snomed.MAPPING},
    needs=("headers",),
    meaning=_snomed.MAPPING_MEANING,
    read=read,
    listed=_snomed.listed(("headers",)),
)
