"""Structured measurements of MIMIC-IV-ECHO 1.0 -> labels: numbers in one unit, graded words as ordinals, what follows from them.

The table is long: a row for each measurement of a report. Names, units and words vary by era and reporting system; what was
not written down is unknown, never "none". Never run on the real table; sources: datasets.md card 2.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.catalog import conform
from ecgecho.datasets import _tables
from ecgecho.datasets._indexing import Reading
from ecgecho.types import I64, Bool

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

LVEF_NAMES = ("lvef", "biplane_lvef", "rest_lvef", "rest_biplane_lvef", "lvef_3d", "lvef_upper", "rest_lvef_upper")
LVEF_MID = {"lvef_mid": ("lvef", "lvef_upper"), "rest_lvef_mid": ("rest_lvef", "rest_lvef_upper")}
"""Middle of a range of which a report has both ends."""
LVEF_PRIORITIES = {
    "lvef_first": LVEF_NAMES,
    "biplane_first": (
        "biplane_lvef", "lvef_3d", "lvef_mid", "lvef", "lvef_upper",
        "rest_biplane_lvef", "rest_lvef_mid", "rest_lvef", "rest_lvef_upper",
    ),
}  # fmt: skip
"""Two orders found in public code; the second says nothing of the names at rest, they come last here."""
LVEF_EXCLUDED = "stress_lvef"  # of another heart rate
LVEF_PERCENT = (5.0, 95.0)  # no heart's is outside, so 0.6 is no percent: a fraction, which is not guessed at

WALLS = ("septal_thickness", "inf_lat_thickness")
LENGTHS = (*WALLS, "tapse")  # reported in cm or in mm by era; given here in mm
CM_AT_MOST = 3.0  # no wall is 3 cm, none is 3 mm: a larger number is in mm, whatever its unit says (datasets.md card 2)
LENGTH_MM_AT_MOST = 60.0
DIAMETER = "lvedd"
DIAMETER_CM_AT_MOST = 12.0  # no ventricle is 12 cm wide, none is 12 mm
DIAMETER_MM_AT_MOST = 110.0

GRADED = (
    "lv_wall_thickness", "lv_chamber_size", "la_size", "ra_size", "rv_chamber_size", "rv_function", "phtn_severity",
    "tricuspid_regurg", "aortic_regurg", "mitral_regurg", "aortic_stenosis", "mitral_stenosis", "pericardial_effusion",
    "mac_severity", "diastolic_grade",
)  # fmt: skip
GRADES = {
    "none": 0.0, "no": 0.0, "normal": 0.0, "nl": 0.0,
    "trivial": 0.5, "trace": 0.5, "physiologic": 0.5, "minimal": 0.5,
    "mild": 1.0, "mildly": 1.0, "1+": 1.0,
    "moderate": 2.0, "moderately": 2.0, "mod": 2.0, "2+": 2.0,
    "3+": 2.5,
    "severe": 3.0, "severely": 3.0, "4+": 3.0,
}  # fmt: skip
OWN_GRADES: Mapping[str, Mapping[str, float]] = {
    "pericardial_effusion": {"small": 1.0, "large": 3.0},
    "diastolic_grade": {"i": 1.0, "ii": 2.0, "iii": 3.0, "1": 1.0, "2": 2.0, "3": 3.0},
}
SILENT = frozenset(
    ("to", "and", "global", "hypo", "hypokinesis", "function", "dysfunction", "size", "dilated", "dilation", "enlarged",
     "enlargement", "lvh", "hypertrophy", "thickness", "regurgitation", "stenosis", "effusion", "systolic", "diastolic",
     "grade", "lv", "rv", "la", "ra", "as", "ar", "mr", "tr", "ms", "mac", "phtn", "pulmonary", "hypertension")
)  # fmt: skip
"""Words that say what is graded."""
GRADE_WORDS = (
    "graded words: 0 none or normal, 0.5 trivial, 1 mild (1+), 2 moderate (2+), 2.5 (3+), 3 severe (4+), between two of them the "
    "middle; what is not written down is unknown, not none"
)
OWN_WORDS = {
    "pericardial_effusion": "graded words: 0 none, 0.5 trivial, 1 small, 2 moderate, 3 large; not written down is unknown",
    "diastolic_grade": "graded words: 0 normal, 1 to 3 grade I to III; not written down is unknown",
}

VALVES = ("aortic_stenosis", "aortic_regurg", "mitral_regurg", "tricuspid_regurg")
MODERATE = 2.0
SHD_LVEF, SHD_WALL_MM, SHD_TR_MMHG = 45.0, 13.0, 41.0  # a jet of 3.2 m/s is a gradient of 4 x 3.2^2 = 41 mmHg
SHD = (
    "1 if any: lvef <= 45 %, wall_mm >= 13, aortic stenosis, aortic, mitral or tricuspid regurgitation or dysfunction of the "
    "right ventricle graded moderate or worse, tricuspid gradient >= 41 mmHg (3.2 m/s) or else severe pulmonary hypertension, "
    "pericardial effusion moderate or larger; 0 if all of these are known and none is there; else no label. EchoNext's "
    "composite without pulmonary regurgitation, and with the gradient for PASP, which are not in the table"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Long:
    """Rows of the long table; R reports."""

    report: I32
    name: I32
    """In `names`."""
    value: F64
    """NaN where the result is no number."""
    unit: I32
    """In `units`; -1 where none is said."""
    names: list[str]
    units: list[str]

    def of(self, *names: str) -> Bool:
        """Rows of these names."""
        return np.isin(self.name, [self.names.index(name) for name in names if name in self.names])

    def take(self, rows: I64 | Bool) -> _Long:
        return _Long(
            report=self.report[rows],
            name=self.name[rows],
            value=self.value[rows],
            unit=self.unit[rows],
            names=self.names,
            units=self.units,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reports:
    """(R,) what all rows of a report share."""

    subject_id: pa.Array
    study_id: pa.Array
    time: pa.Array
    source: pa.DictionaryArray

    def labels(self, report: I32 | I64, name: Any, value: F64, unit: Any, definition: Any) -> pa.Table:
        """Rows of the labels table; a name, a unit and a definition are one word for all, or an array of words."""
        n, place = len(report), pa.array(report)

        def words(given: Any) -> Any:
            return _tables.constant(given, n) if isinstance(given, str) else given

        return conform(
            "labels",
            pa.table(
                {
                    "subject_id": self.subject_id.take(place),
                    "study_id": self.study_id.take(place),
                    "time": self.time.take(place),
                    "name": words(name),
                    "value": pa.array(value),
                    "unit": words(unit),
                    "source": self.source.take(place),
                    "definition": words(definition),
                }
            ),
            "structured measurements",
        )


def labels(reading: Reading, part: str, studies: pa.Table | None, priority: Sequence[str]) -> list[pa.Table]:
    """Labels of all reports: the raw numbers by their names, ordinals of graded words, and lvef, wall_mm, lvedd_mm and shd.

    `studies` (measurement_id, study_id, subject_id) says which echo study a report is of; `priority` are names of LVEF.
    """
    long, reports, results = _read(reading, part, studies)
    graded = _graded(reading, long, results)
    del results
    long = _repaired(reading, long.take(np.isfinite(long.value) & ~long.of(*GRADED)))
    stress = long.of(LVEF_EXCLUDED)
    reading.defect(LVEF_EXCLUDED, "not_at_rest", "kept under its name, never used for lvef", stress.sum())
    found: dict[str, F64] = {}

    def by_report(name: str, report: I32, value: F64) -> None:
        found[name] = np.full(len(reports.subject_id), np.nan)
        found[name][report] = value

    tables = []
    ef, which = _lvef(reading, long, priority)
    by_report("lvef", ef.report, ef.value)
    how = pa.DictionaryArray.from_arrays(pa.array(which), [_lvef_words(name) for name in priority])
    tables.append(reports.labels(ef.report, "lvef", ef.value, "%", how))
    wall, how = _wall(long)
    by_report("wall", wall.report, wall.value)
    tables.append(reports.labels(wall.report, "wall_mm", wall.value, "mm", how))
    wide = _diameter(reading, long)
    tables.append(reports.labels(wide.report, "lvedd_mm", wide.value, "mm", f"measurement {DIAMETER} in mm"))
    for name, grade in graded.items():
        known = np.flatnonzero(np.isfinite(grade))
        nothing = pa.nulls(len(known), _tables.WORD)
        tables.append(reports.labels(known, name, grade[known], nothing, OWN_WORDS.get(name, GRADE_WORDS)))
    shd = _structural_disease(len(reports.subject_id), long, found, graded)
    known = np.flatnonzero(np.isfinite(shd))
    tables.append(reports.labels(known, "shd", shd[known], pa.nulls(len(known), _tables.WORD), SHD))

    raw = long.take(~long.of("lvef"))  # that name is the derived one's
    unit = pa.DictionaryArray.from_arrays(pa.array(raw.unit, mask=raw.unit < 0), raw.units or [""])
    name = pa.DictionaryArray.from_arrays(pa.array(raw.name), raw.names or [""])
    how = pa.DictionaryArray.from_arrays(pa.array(raw.of(*LENGTHS).astype(np.int32)), ["as reported", "in mm"])
    return [table for table in (*tables, reports.labels(raw.report, name, raw.value, unit, how)) if table.num_rows]


def _read(reading: Reading, part: str, studies: pa.Table | None) -> tuple[_Long, _Reports, pa.DictionaryArray]:
    """The rows with a result, their reports, and the results as words."""
    needed = ("subject_id", "measurement_id", "measurement_datetime", "measurement", "result")
    path = reading.parts[part]
    rows = reading.table(part, needed, ("test_type", "unit"), words=(*needed, "test_type", "unit"))
    rows = _tables.require(rows, ("subject_id", "measurement_id", "measurement"), path).combine_chunks()
    columns = {name: _word(rows[name]) for name in rows.column_names}
    del rows
    report = columns["measurement_id"].indices.to_numpy().astype(np.int32)
    ids = columns["measurement_id"].dictionary
    first = np.zeros(len(ids), np.int64)
    first[report[::-1]] = np.arange(len(report))[::-1]
    for name in ("subject_id", "measurement_datetime"):
        codes = pc.fill_null(columns[name].indices, -1).to_numpy()
        differs = codes != codes[first][report]
        if name == "subject_id" and differs.any():
            raise reading.refuse(
                f"{path.name}: measurement_id {ids[int(report[np.argmax(differs)])]} stands with two subjects; two versions may "
                "be mixed. Fetch the table again."
            )
        reading.defect(part, "time_differs", "another measurement_datetime within a report; the first is used", differs.sum())
    at = pa.array(first)
    subject = columns["subject_id"].take(at).dictionary_decode()
    test = pc.utf8_lower(columns["test_type"].dictionary).dictionary_encode()
    source = pc.binary_join_element_wise("structured_measurement", test.dictionary, "/")
    kinds = pc.fill_null(test.indices.take(columns["test_type"].indices.take(at)), len(source))
    reports = _Reports(
        subject_id=subject,
        study_id=_study_of(reading, ids, subject, studies),
        time=reading.times(part, "measurement_datetime", columns["measurement_datetime"].take(at).dictionary_decode()),
        source=pa.DictionaryArray.from_arrays(kinds, pa.concat_arrays([source, pa.array(["structured_measurement"])])),
    )
    results = columns["result"]
    number = _tables.numbers(results.dictionary).to_numpy(zero_copy_only=False).astype(np.float64)
    codes = pc.fill_null(results.indices, -1).to_numpy()
    value = np.where(codes >= 0, np.r_[number, np.nan][codes], np.nan)
    code, names = _lowered(columns["measurement"])
    unit = pc.fill_null(columns["unit"].indices, -1).to_numpy().astype(np.int32)
    units = columns["unit"].dictionary.to_pylist()
    long = _Long(report=report, name=code, value=value, unit=unit, names=names, units=units)
    words = (codes >= 0) & np.isnan(value) & ~long.of(*GRADED)
    for number_of, count in zip(*np.unique(long.name[words], return_counts=True), strict=True):
        reading.defect(names[number_of], "not_a_number", "structured measurement; not in labels", count)
    return long, reports, results


def _study_of(reading: Reading, ids: pa.Array, subject: pa.Array, studies: pa.Table | None) -> pa.Array:
    """The echo study of each report, by the study list of MIMIC-IV-ECHO 1.0; null where there is none with clips."""
    if studies is None or not studies.num_rows:
        return pa.nulls(len(ids), pa.string())
    studies = studies.combine_chunks()
    place = pc.index_in(ids, value_set=_flat(studies["measurement_id"]))
    other = pc.fill_null(pc.not_equal(_flat(studies["subject_id"]).take(place), subject), False)
    reading.defect("echo studies", "subject_disagrees", "a report of another subject; not linked", pc.sum(other).as_py() or 0)
    absent = studies.num_rows - len(pc.unique(place.drop_null()))
    reading.defect("echo studies", "measurement_unknown", "a study's report is not among the measurements", absent)
    return pc.if_else(other, pa.scalar(None, pa.string()), _flat(studies["study_id"]).take(place))


def _graded(reading: Reading, long: _Long, results: pa.DictionaryArray) -> dict[str, F64]:
    """Name -> (R,) the grade of each report, NaN where none is written down; of two the worse."""
    num_reports = int(long.report.max(initial=-1)) + 1
    codes = pc.fill_null(results.indices, -1).to_numpy()
    words = results.dictionary.to_pylist()
    found = {}
    for name in GRADED:
        rows = np.flatnonzero(long.of(name) & (codes >= 0))
        if not len(rows):
            continue
        used = np.unique(codes[rows])
        grades = np.full(len(words), np.nan)
        grades[used] = [grade_of(name, words[code]) for code in used]  # the distinct words, not the rows
        here = grades[codes[rows]]
        reading.defect(name, "unknown_grade", "words that are no known grade; not in labels", np.isnan(here).sum())
        found[name] = np.full(num_reports, np.nan)
        np.fmax.at(found[name], long.report[rows], here)
    return found


def grade_of(name: str, words: str) -> float:
    """The grade that a result of a graded field says, NaN where it is not known to say one."""
    bare = re.sub(r"\([^)]*\)", " ", words.lower())
    own = OWN_GRADES.get(name, {})
    said = []
    for word in re.findall(r"\d\+?|[a-z]+|[^\sa-z\d]", bare):
        if word in own or word in GRADES:
            said.append(own.get(word, GRADES.get(word, np.nan)))
        elif word not in SILENT and word not in "-/,.":
            return float("nan")
    if len(said) == 1 or (len(said) == 2 and 0 < said[0] < said[1]):
        return float(sum(said) / len(said))
    return float("nan")


def _repaired(reading: Reading, long: _Long) -> _Long:
    """Lengths in mm, and no value that cannot be: LVEF outside 5 to 95 %, a length of none or of 6 cm."""
    units = [unit.lower() for unit in long.units]
    cm, mm = (np.isin(long.unit, [k for k, unit in enumerate(units) if unit == word]) for word in ("cm", "mm"))
    lvef, length = long.of(*LVEF_NAMES, LVEF_EXCLUDED), long.of(*LENGTHS)
    in_cm = length & (long.value <= CM_AT_MOST)
    for said, means_cm in ((cm, True), (mm, False)):
        wrong = length & said & (in_cm != means_cm)
        for name in LENGTHS:
            detail = f"said {'cm' if means_cm else 'mm'}, is {'mm' if means_cm else 'cm'}; repaired to mm"
            reading.defect(name, "unit_drift", detail, (wrong & long.of(name)).sum())
    reading.defect("lengths", "unit_missing", "told by size; given in mm", (length & ~cm & ~mm).sum())
    value = np.where(in_cm, 10 * long.value, long.value)
    least, most = LVEF_PERCENT
    good = ~(lvef & ~((value >= least) & (value <= most))) & ~(length & ~((value > 0) & (value <= LENGTH_MM_AT_MOST)))
    for code, count in zip(*np.unique(long.name[~good], return_counts=True), strict=True):
        reading.defect(long.names[code], "out_of_range", "left out", count)
    # Each word once: of a dictionary with repeats Parquet writes more bytes than there are, and they are whatever was in memory.
    words = list(dict.fromkeys((*long.units, "mm", "%")))
    unit = np.where(length, words.index("mm"), np.where(lvef, words.index("%"), long.unit)).astype(np.int32)
    return dataclasses.replace(long, value=value, unit=unit, units=words).take(good)


def _lvef(reading: Reading, long: _Long, priority: Sequence[str]) -> tuple[_Long, I32]:
    """One LVEF a report: the first name by `priority` that it has, in file order where it has that twice; and which name."""
    names = {name: rank for rank, name in enumerate(priority)}
    ranks = np.full(len(long.names) + 1, len(priority), np.int32)
    for code, name in enumerate(long.names):
        ranks[code] = names.get(name, len(priority))
    rank = ranks[long.name]
    asked = rank < len(priority)
    report, value, rank = long.report[asked], long.value[asked], rank[asked]
    for name, (low, high) in LVEF_MID.items():
        if name in names:
            middle_of, middle = _middles(long, low, high)
            report, value = np.r_[report, middle_of], np.r_[value, middle]
            rank = np.r_[rank, np.full(len(middle), names[name], np.int32)]
    order = np.lexsort((rank, report))
    report, value, rank = report[order], value[order], rank[order]
    _, first = np.unique(report, return_index=True)
    same = (np.diff(report) == 0) & (np.diff(rank) == 0) & (np.diff(value) != 0)
    reading.defect("lvef", "measured_twice", "one report has a name twice with two values; the first is used", same.sum())
    nothing = np.zeros(len(first), np.int32)
    chosen = _Long(report=report[first], name=nothing, value=value[first], unit=nothing, names=["lvef"], units=["%"])
    return chosen, rank[first]


def _lvef_words(name: str) -> str:
    return f"middle of {' and '.join(LVEF_MID[name])}" if name in LVEF_MID else f"measurement {name}"


def _middles(long: _Long, low: str, high: str) -> tuple[I32, F64]:
    """Reports that have both ends of a range, and its middle."""
    ends = []
    for name in (low, high):
        rows = np.flatnonzero(long.of(name))
        report, first = np.unique(long.report[rows], return_index=True)
        ends.append((report, long.value[rows[first]]))
    both, one, two = np.intersect1d(ends[0][0], ends[1][0], assume_unique=True, return_indices=True)
    return both.astype(np.int32), (ends[0][1][one] + ends[1][1][two]) / 2


def _wall(long: _Long) -> tuple[_Long, pa.DictionaryArray]:
    """One thickness a report: the thicker of septum and inferolateral wall, or the one that was measured; and which."""
    rows = np.flatnonzero(long.of(*WALLS))
    order = rows[np.lexsort((-long.value[rows], long.report[rows]))]
    _, first, inverse = np.unique(long.report[order], return_index=True, return_inverse=True)
    has = np.zeros((2, len(first)), bool)
    septal = long.of(WALLS[0])[order]
    has[0, inverse[septal]] = has[1, inverse[~septal]] = True
    kind = np.where(has.all(0), 0, np.where(has[0], 1, 2)).astype(np.int32)
    words = [f"max({WALLS[0]}, {WALLS[1]})", f"{WALLS[0]} alone", f"{WALLS[1]} alone"]
    return long.take(order[first]), pa.DictionaryArray.from_arrays(pa.array(kind), words)


def _diameter(reading: Reading, long: _Long) -> _Long:
    """The inner diameter of the left ventricle at end-diastole in mm, whether it was written in cm or in mm."""
    found = long.take(long.of(DIAMETER))
    value = np.where(found.value <= DIAMETER_CM_AT_MOST, 10 * found.value, found.value)
    good = (value > DIAMETER_CM_AT_MOST) & (value <= DIAMETER_MM_AT_MOST)
    reading.defect("lvedd_mm", "out_of_range", "left out", (~good).sum())
    return dataclasses.replace(found, value=value).take(good)


def _structural_disease(num_reports: int, long: _Long, found: Mapping[str, F64], graded: Mapping[str, F64]) -> F64:
    """(R,) 1, 0, or NaN; see SHD."""
    unknown = np.full(num_reports, np.nan)

    def grade(name: str) -> F64:
        return np.r_[graded[name], unknown[len(graded[name]) :]] if name in graded else unknown

    def judged(values: F64, positive: Bool) -> F64:
        return np.where(np.isnan(values), np.nan, positive)

    gradient = unknown.copy()
    rows = long.of("tr_mmhg")
    np.fmax.at(gradient, long.report[rows], long.value[rows])
    pressure = judged(gradient, gradient >= SHD_TR_MMHG)
    # "Mod (TR 37-60mmHg)" lies on both sides of the bound: without the gradient it is unknown.
    severity = grade("phtn_severity")
    by_words = np.where(severity >= 3, 1.0, np.where(severity <= 1, 0.0, np.nan))
    signs = [
        judged(found["lvef"], found["lvef"] <= SHD_LVEF),
        judged(found["wall"], found["wall"] >= SHD_WALL_MM),
        *(judged(grade(name), grade(name) >= MODERATE) for name in (*VALVES, "rv_function", "pericardial_effusion")),
        np.where(np.isnan(pressure), by_words, pressure),
    ]
    stacked = np.stack(signs)
    return np.where((stacked == 1).any(0), 1.0, np.where(np.isnan(stacked).any(0), np.nan, 0.0))


def _lowered(column: pa.DictionaryArray) -> tuple[I32, list[str]]:
    """Names in lower case, and which each row has."""
    lower = pc.utf8_lower(column.dictionary).dictionary_encode()
    codes = lower.indices.take(column.indices).to_numpy(zero_copy_only=False)
    return codes.astype(np.int32), lower.dictionary.to_pylist()


def _word(column: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = _flat(column)
    return whole if isinstance(whole, pa.DictionaryArray) else whole.dictionary_encode()


def _flat(column: pa.ChunkedArray | pa.Array) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
