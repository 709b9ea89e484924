"""UK Biobank: 12-lead ECGs at rest of the imaging visits (field 20205), CardioSoft XML, 10 s at 500 Hz.

Needs on disk: files named <eid>_20205_<instance>_<array>.xml, in one folder or in folders below it (the Research Analysis
Platform's Bulk/Electrocardiogram/Resting/10 ...). Files of field 6025, the exercise test of three leads, are told and not read.
A list withdrawn.csv, an eid a line, leaves those participants out, as UK Biobank asks of everyone.

Labels come from a table of your own, beside the files: labels.csv, participant.csv or data_participant.csv, with a column of
eids. Which of its columns holds what is a setting (`lvef=p22420_i2`): the field ids of the heart's MRI are UNVERIFIED here, so
none is built in. Its values are taken for the ECGs of one visit (`instance`, 2 is the first imaging visit). Units are as the
names of the settings say; 0.6 is no LVEF of 60 %. The cart's own measurements become labels `uk_biobank.*` where their unit is
known.

Of the XML only the date and time, the sex and those measurements are read here; PID, names, birth date and statements are not.
The signal is read by `io.cardiosoft`, in mV by the file's own resolution.

Splits: there is no official one. Here it is the hash of the eid. Two visits of a participant share an eid, so they do not leak.
But eids are of one project: catalogs made from the files of two projects hold the same people under other ids, and nothing can
tell. The cohort is healthier than its country, and nearly all in sinus rhythm.

Access: by application and material transfer agreement; ids and catalogs stay within the project. Source:
shared/specs/datasets.md section 8, public readers of these files. Nothing here was ever run on the real files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _columns
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._tables import label_rows
from ecgecho.io import xml
from ecgecho.types import Json

DATASET = "uk_biobank"
NAME = re.compile(r"^(\d{1,12})_20205_(\d{1,2})_(\d{1,3})\.xml$")
EXERCISE = re.compile(r"^\d+_6025_\d+_\d+\.xml$")
RESTING = "restecg"
SEXES = {"male": "male", "female": "female", "m": "male", "f": "female"}
INTERVAL, RATE, ANGLE = ("ms", "msec", "milliseconds"), ("bpm", "1/min", "/min"), ("degrees", "degree", "deg", "\u00b0")
MEASUREMENTS = {  # element -> label, unit, how that unit is written, plausible values
    "VentricularRate": ("ventricular_rate", "1/min", RATE, 20, 300),
    "PQInterval": ("pq_interval", "ms", INTERVAL, 40, 600),
    "PDuration": ("p_duration", "ms", INTERVAL, 20, 300),
    "QRSDuration": ("qrs_duration", "ms", INTERVAL, 30, 300),
    "QTInterval": ("qt_interval", "ms", INTERVAL, 150, 800),
    "QTCInterval": ("qtc_interval", "ms", INTERVAL, 150, 800),
    "PAxis": ("p_axis", "degree", ANGLE, -180, 360),
    "RAxis": ("r_axis", "degree", ANGLE, -180, 360),
    "TAxis": ("t_axis", "degree", ANGLE, -180, 360),
}
OF_THE_TABLE = {  # setting, which is the label -> unit, plausible values
    "lvef": ("%", 5, 95),
    "edv_ml": ("ml", 20, 600),
    "esv_ml": ("ml", 5, 500),
    "wall_mm": ("mm", 2, 50),
    "lvedd_mm": ("mm", 20, 130),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index uk_biobank`: which columns of your table hold what; an empty one is not read."""

    eid: str = "eid"
    lvef: str = ""
    """Left ventricular ejection fraction, %."""
    edv_ml: str = ""
    esv_ml: str = ""
    wall_mm: str = ""
    """The thickest wall at end-diastole, mm."""
    lvedd_mm: str = ""
    instance: int = 2
    """Of which visit the table's values are; its ECGs get them."""

    def __post_init__(self) -> None:
        if not self.eid:
            raise ValueError("eid is empty; it must name the table's column of participants.")
        if not 0 <= self.instance <= 99:
            raise ValueError(f"instance is {self.instance}; visits count from 0.")


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """Tables of all ECGs at rest."""
    files = _files(reading)
    seen = reading.scan("ecg", list(files), look)
    if reading.options.pseudonymise:  # times as they are may not lie beside times that were shifted
        reading.scans["ecg"] = replace(reading.scans["ecg"], lines=b"")
    rows = [(path, *files[path]) for path in files if path in seen]
    resting = [row for row in rows if seen[row[0]]["type"] in ("", RESTING)]
    reading.defect("ecg", "not_resting", "another kind of ECG under this field's name: left out", len(rows) - len(resting))
    if not resting:
        raise reading.refuse("none of the files <eid>_20205_<instance>_<array>.xml is an ECG at rest that can be read.")
    eids = pa.chunked_array([pa.array([row[1] for row in resting])])
    ids = [f"{eid}_20205_{instance}_{array}" for _, eid, instance, array in resting]
    looks = [seen[row[0]] for row in resting]
    ecgs = pa.table(
        {
            "ecg_id": ids,
            "subject_id": eids,
            "path": [row[0] for row in resting],
            "time": pa.array(
                [None if one["time"] is None else datetime.fromisoformat(one["time"]) for one in looks], pa.timestamp("us")
            ),
        }
    )
    reading.defect("ecg", "time_missing", "no date and time that can be read", ecgs["time"].null_count)
    sexes = pa.chunked_array([pa.array([one["sex"] or None for one in looks], pa.string())])
    labels = [
        label_rows(
            f"uk_biobank.{name}",
            _measured(reading, element, [one["measured"].get(element) for one in looks], low, high),
            subject_id=eids,
            ecg_id=ecgs["ecg_id"],
            time=ecgs["time"],
            unit=unit,
            source="ecg",
            definition=f"{element} by the cart",
        )
        for element, (name, unit, _, low, high) in MEASUREMENTS.items()
    ]
    visit = ecgs.filter(pa.array([int(row[2]) == reading.config.instance for row in resting]))
    return Tables(
        ecgs=ecgs, labels=[*labels, *_table(reading, visit)], people=_columns.people(reading, "ecg", eids, sexes, SEXES)
    )


def look(path: str) -> Json:
    """Kind, time, sex and the cart's measurements of an ECG; nothing else leaves the file."""
    root = xml.parse(Path(path), ("cardiologyxml",))
    measured = {}
    at_rest = xml.child(root, "RestingECGMeasurements")
    for element, (_, _, units, _, _) in MEASUREMENTS.items():
        found = xml.child(at_rest, element)
        value = xml.number(xml.text(found))
        if found is not None and value is not None and found.get("units", "").strip().lower() in units:
            measured[element] = value
    sex = xml.text(root, "PatientInfo/Gender").lower()
    return {
        "type": re.sub(r"[^a-z]", "", xml.text(root, "ObservationType").lower())[:32],
        "time": _time(xml.child(root, "ObservationDateTime")),
        "sex": sex if sex in SEXES else "",
        "measured": measured,
    }


def _time(element: Element | None) -> str | None:
    """Date and time in ISO form; None where there is none, or none that can be."""
    words = [xml.text(element, name) for name in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
    if not all(re.fullmatch(r"\d{1,4}", word) for word in words[:3]):
        return None
    try:
        moment = datetime(*(int(word) if re.fullmatch(r"\d{1,4}", word) else 0 for word in words))  # type: ignore[arg-type]
    except ValueError:
        return None
    return moment.isoformat() if 1980 <= moment.year <= 2100 else None


def _files(reading: Reading) -> dict[str, tuple[str, str, str]]:
    """Path -> eid, instance, array, of all participants who did not withdraw."""
    withdrawn = set()
    if "withdrawn" in reading.parts:
        text = reading.parts["withdrawn"].read_bytes().decode("utf-8-sig", "replace")
        withdrawn = {line.strip().strip('"') for line in text.splitlines()}
    found: dict[str, tuple[str, str, str]] = {}
    names: set[str] = set()
    left, exercise = 0, 0
    for path in _walk(reading):
        name = path.rpartition("/")[2]
        exercise += EXERCISE.match(name) is not None
        if (match := NAME.match(name)) is None:
            continue
        if match[1] in withdrawn:
            left += 1
            continue
        if name in names:
            raise reading.refuse(f"two files are named {name}; keep one copy of the download, or give a narrower ROOT.")
        names.add(name)
        found[path] = (match[1], match[2], match[3])
    reading.defect("ecg", "withdrawn", "of participants in withdrawn.csv: left out", left)
    reading.defect("ecg", "exercise_ecg", "field 6025 is not read", exercise)
    return found


def _walk(reading: Reading) -> list[str]:
    return reading.walk("ecg", (".xml",))


def _measured(reading: Reading, element: str, values: list[float | None], low: float, high: float) -> pa.ChunkedArray:
    return reading.within("ecg", element, pa.chunked_array([pa.array(values, pa.float64())]), low, high)


def _table(reading: Reading, ecgs: pa.Table) -> list[pa.Table]:
    """Labels of the table for these ECGs."""
    columns = {name: getattr(reading.config, name) for name in OF_THE_TABLE if getattr(reading.config, name)}
    if not columns:
        reading.defect(
            "labels", "columns_not_named", "there is a table; no setting names a column of it", "labels" in reading.parts
        )
        return []
    if "labels" not in reading.parts:
        raise reading.refuse(f"there is no table for {', '.join(columns.values())}; put labels.csv beside the files.")
    path, eid = reading.parts["labels"], reading.config.eid
    rows = reading.once("labels", reading.table("labels", (eid, *columns.values())), eid)
    place = pc.index_in(ecgs["subject_id"], value_set=rows[eid].combine_chunks())
    reading.defect("labels", "not_listed", f"ECGs of instance {reading.config.instance} without a row", place.null_count)
    made = []
    for name, column in columns.items():
        unit, low, high = OF_THE_TABLE[name]
        values = reading.within("labels", column, reading.numbers("labels", column, rows[column]), low, high)
        made.append(
            label_rows(
                name,
                values.take(place),
                subject_id=ecgs["subject_id"],
                ecg_id=ecgs["ecg_id"],
                time=ecgs["time"],
                unit=unit,
                source="table",
                definition=f"column {column} of {path.name}, named by its user; which field that is, is not checked",
            )
        )
    return made


SPEC = Spec(
    name=DATASET,
    version=1,
    parts={
        "ecg": ("**/*_20205_*.xml",),
        "labels": ("labels.csv", "participant.csv", "data_participant.csv"),
        "withdrawn": ("withdrawn.csv",),
    },
    needs=("ecg",),
    meaning={"labels": "no labels but the cart's", "withdrawn": "nobody is left out"},
    listed=_walk,
    read=read,
)
