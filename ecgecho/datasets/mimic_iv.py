"""MIMIC-IV: ECG 1.0, ECHO 0.1 and 1.0, Note 2.2, hosp, ECG-Ext-ICD and ECHOVIEW, one subject-id space and one catalog.

The parts are known by the tables they hold, at most three folders below ROOT, whatever the folders are called; any of them
may be absent, and what is absent is said. There is no official split: the subject decides, unless the folds of ECG-Ext-ICD are
asked for.

Never run on the real files, only on trees in their published layout. Sources of names, units and traps: the MIMIC
documentation and public code that read the data (datasets.md cards 1 to 3); what they disagree on is an option of `Config` or a
row in `defects`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import catalog
from ecgecho.catalog import SCHEMAS, nearest
from ecgecho.datasets import _headers, _icd, _measurements, _tables
from ecgecho.datasets._admissions import Admissions
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.datasets._measurements import LVEF_MID, LVEF_NAMES, LVEF_PRIORITIES
from ecgecho.types import I64, UsageError, UserError

DATASET = "mimic_iv"

NUM_REPORTS = 18
ECG_MEASUREMENTS = {  # machine_measurements.csv; unit
    "rr_interval": "ms",
    "p_onset": "ms",
    "p_end": "ms",
    "qrs_onset": "ms",
    "qrs_end": "ms",
    "t_end": "ms",
    "p_axis": "deg",
    "qrs_axis": "deg",
    "t_axis": "deg",
}
SENTINELS = (29999.0, 32767.0, -32767.0, 32768.0, -32768.0, 65535.0)  # "not measured", never blank; datasets.md card 1
OLDEST_ANCHOR_AGE = 91  # stands for "> 89"
NUM_VIEWS = 23  # of ECHOVIEW's classifier
VIEW_SUM = (0.98, 1.02)  # of the probabilities of a file; rounding
FILE_COLUMNS = ("dicomfilepath", "dicompath", "filepath", "path", "filename", "file", "dicomid", "dicom", "clipid")
FOLDS = {**{str(k): "train" for k in range(18)}, "18": "val", "19": "test"}  # ECG-Ext-ICD's paper, on `fold`
Lists = Literal["all_diag_all", "all_diag_hosp", "hosp_diag_hosp", "ed_diag_hosp", "ed_diag_ed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index mimic-iv`."""

    lvef_priority: tuple[str, ...] | str = "lvef_first"
    """The label `lvef` of a report is the first of these names that it has; which one, is its `definition`. "lvef_first" and
    "biplane_first" are two orders in use."""
    scan_headers: bool = False
    """Open every DICOM for its kind and frame count (hours on the full set), also one that was replaced since the last index;
    without, they are null."""
    diagnoses: tuple[str, ...] = ()
    """0/1 labels of ECGs: "ccsr.CIR019" (HCUP), "eee_table2.CIR022", "icd10.I50" (codes that begin so); "ccsr.CIR*" for all."""
    diagnoses_of: Literal["admission"] | Lists = "admission"
    """Whose codes: those of the admission that holds the ECG (hosp/diagnoses_icd), or a list of ECG-Ext-ICD."""
    ccsr: str = ""
    """HCUP's table of ICD-10-CM codes, where no DXCCSR_v*.csv lies below ROOT; a relative path begins at ROOT."""
    views: str = ""
    """ECHOVIEW's table of view probabilities, where its name does not begin with echoview; a relative path begins at ROOT."""
    split: Literal["subject", "fold", "strat_fold"] = "subject"
    """"fold" and "strat_fold" are ECG-Ext-ICD's: 0 to 17 train, 18 val, 19 test."""

    def __post_init__(self) -> None:
        names = self.priority
        known = (*LVEF_NAMES, *LVEF_MID)
        for name in names:
            if name not in known:
                raise UsageError(f"lvef_priority names {name!r}.{nearest(name, [*LVEF_PRIORITIES, *known])}")
        if not names or len(set(names)) < len(names):
            raise UsageError("lvef_priority must name at least one of LVEF's names, each once.")
        _icd.check(self.diagnoses)

    @property
    def priority(self) -> tuple[str, ...]:
        """Names of LVEF in order."""
        if isinstance(self.lvef_priority, str):
            return LVEF_PRIORITIES.get(self.lvef_priority, (self.lvef_priority,))
        return self.lvef_priority


def build(config: Config) -> Indexed:
    """The dataset."""
    return Indexed(spec=SPEC, config=config)


def read(reading: Reading) -> Tables:
    """All parts that are there."""
    config, tell = reading.config, reading.progress
    tell("ECG tables", 0, 6)
    stays = _stays(reading)
    ecgs = _ecgs(reading, stays)
    reports, labels = _reports(reading, ecgs)
    tell("echo tables", 1, 6)
    clips = _clips(reading, stays)
    studies = _studies(reading, clips)
    tell("echo measurements", 2, 6)
    if "echo measurements" in reading.parts:
        labels += _measurements.labels(reading, "echo measurements", studies, config.priority)
    tell("files", 3, 6)
    reading.sample("ecgs", ecgs["path"], ".hea")
    if config.scan_headers:
        clips = _with_headers(reading, clips)
    else:
        reading.sample("clips", clips["path"])
    clips = _with_views(reading, clips)
    tell("diagnoses", 4, 6)
    lists = _ext_icd(reading, ecgs)
    diagnoses = _diagnoses(reading, ecgs, lists)
    tell("people", 5, 6)
    return Tables(
        ecgs=ecgs,
        clips=clips,
        texts=reports,
        more_texts=(lambda known: _notes(reading, known)) if "notes" in reading.parts else None,
        labels=labels,
        more_labels=diagnoses,
        people=_people(reading, lists),
        official=_folds(reading, lists),
    )


def _stays(reading: Reading) -> Admissions | None:
    if "admissions" not in reading.parts:
        return None
    columns = ("subject_id", "hadm_id", "admittime", "dischtime")
    rows = reading.once("admissions", reading.table("admissions", columns), "hadm_id")
    rows = _tables.require(rows, ("subject_id",), reading.parts["admissions"])
    begin, end = (reading.times("admissions", name, rows[name]) for name in ("admittime", "dischtime"))
    rows = pa.table({"subject_id": rows["subject_id"], "admission_id": rows["hadm_id"], "begin": begin, "end": end})
    known = pc.and_(pc.is_valid(begin), pc.is_valid(end))
    backwards = pc.and_(known, pc.fill_null(pc.less(end, begin), False))
    reading.defect("admissions", "ends_before_it_begins", "holds no time", pc.sum(backwards).as_py() or 0)
    stays = Admissions.of(rows.filter(pc.and_(known, pc.invert(backwards))))
    detail = "begins before an earlier one has ended; what both hold belongs to the one that began last"
    reading.defect("admissions", "overlap", detail, stays.overlapping)
    return stays


def _ecgs(reading: Reading, stays: Admissions | None) -> pa.Table:
    if "ecg" not in reading.parts:
        return SCHEMAS["ecgs"].empty_table()
    path = reading.parts["ecg"]
    rows = reading.table("ecg", ("subject_id", "study_id", "ecg_time", "path"))
    rows = reading.once("ecg", _tables.require(rows, ("subject_id", "path"), path), "study_id")
    time = reading.times("ecg", "ecg_time", rows["ecg_time"])
    made = {
        "ecg_id": rows["study_id"],
        "subject_id": rows["subject_id"],
        "path": reading.below("ecg", rows["path"]),
        "time": time,
    }
    if stays is not None:
        made["admission_id"] = stays.at(rows["subject_id"], time)
        outside = made["admission_id"].null_count
        reading.defect("ecg", "no_admission", "taken outside every admission, or without a time", outside)
    return catalog.conform("ecgs", pa.table(made), str(path))


def _reports(reading: Reading, ecgs: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Texts and labels of machine_measurements.csv."""
    part = "ecg reports"
    if part not in reading.parts or not ecgs.num_rows:
        return SCHEMAS["texts"].empty_table(), []
    lines = [f"report_{i}" for i in range(NUM_REPORTS)]
    words = (*lines, *ECG_MEASUREMENTS)
    rows = reading.table(part, ("subject_id", "study_id", *lines, *ECG_MEASUREMENTS), words=words)
    rows = reading.once(part, _tables.require(rows, ("subject_id",), reading.parts[part]), "study_id").combine_chunks()
    place = pc.index_in(_flat(rows["study_id"]), value_set=_flat(ecgs["ecg_id"]))
    owner = _flat(ecgs["subject_id"]).take(place)
    reading.defect(part, "report_without_ecg", "study_id is not in record_list.csv", place.null_count)
    other = pc.fill_null(pc.not_equal(_flat(rows["subject_id"]), owner), False)
    reading.defect(part, "subject_disagrees", "another subject than in record_list.csv", pc.sum(other).as_py() or 0)
    good = pc.and_(pc.is_valid(place), pc.invert(other))
    if not pc.all(good).as_py():
        rows, place = rows.filter(good).combine_chunks(), place.filter(good)
    reading.defect(part, "ecg_without_report", "no row of its study_id", ecgs.num_rows - len(pc.unique(place)))
    when = _flat(ecgs["time"]).take(place)
    joined = _joined([_flat(rows[line]) for line in lines])
    texts = pa.table(
        {
            "text_id": pc.binary_join_element_wise("ecg", rows["study_id"], "-"),
            "subject_id": rows["subject_id"],
            "ecg_id": rows["study_id"],
            "time": when,
            "source": pa.array(["machine_report"] * rows.num_rows, pa.string()),
            "text": joined,
            "admission_id": _flat(ecgs["admission_id"]).take(place),
        }
    )
    filled = pc.greater(pc.binary_length(joined), 0)
    reading.defect(part, "report_empty", "no line", rows.num_rows - int(pc.sum(filled).as_py() or 0))
    labels = [_ecg_labels(reading, name, unit, rows, when) for name, unit in ECG_MEASUREMENTS.items()]
    return catalog.conform("texts", texts.filter(filled), part), labels


def _joined(lines: list[pa.DictionaryArray]) -> pa.Array:
    """The lines of each report that are not empty, each without the full stops at its end, with ". " between them."""
    whole = pa.array([""] * len(lines[0]), pa.string())
    for line in lines:
        if line.null_count == len(line):
            continue
        bare = pc.utf8_rtrim(line.dictionary, ". ").take(line.indices)
        there = pc.fill_null(pc.greater(pc.binary_length(bare), 0), False)
        rows = pa.array(np.flatnonzero(there.to_numpy(zero_copy_only=False)))
        before = whole.take(rows)
        gap = pc.if_else(pc.equal(pc.binary_length(before), 0), "", ". ")
        whole = pc.replace_with_mask(whole, there, pc.binary_join_element_wise(before, gap, bare.take(rows), ""))
    return whole


def _ecg_labels(reading: Reading, name: str, unit: str, rows: pa.Table, when: pa.Array) -> pa.Table:
    column = _flat(rows[name])
    number = _tables.numbers(column.dictionary)
    sentinel = pc.fill_null(pc.is_in(number, value_set=pa.array(SENTINELS)), False)

    def count(words: pa.Array) -> int:
        return int(pc.sum(words.take(column.indices)).as_py() or 0)

    reading.defect(name, "not_a_number", "machine_measurements", count(pc.is_null(number)))
    reading.defect(name, "sentinel", "means not measured", count(sentinel))
    value = pc.if_else(sentinel, pa.scalar(None, pa.float64()), number).take(column.indices)
    return _tables.label_rows(
        name,
        value,
        subject_id=rows["subject_id"],
        ecg_id=rows["study_id"],
        time=when,
        unit=unit,
        source="machine_measurements",
        definition="as the cart measured it",
    )


def _clips(reading: Reading, stays: Admissions | None) -> pa.Table:
    if "echo" not in reading.parts:
        return SCHEMAS["clips"].empty_table()
    path = reading.parts["echo"]
    rows = reading.table("echo", ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath"))
    rows = _tables.require(rows, ("subject_id", "study_id", "dicom_filepath"), path)
    rows = reading.once("echo", rows.append_column("clip_id", _clip_id(rows["dicom_filepath"])), "clip_id")
    owner = rows.select(["study_id", "subject_id"]).group_by(["study_id", "subject_id"]).aggregate([])
    if owner.num_rows > len(pc.unique(owner["study_id"])):
        raise UserError(f"{path}: a study_id stands with two subjects; two versions may be mixed. Fetch the table again.")
    made = pa.table(
        {
            "clip_id": rows["clip_id"],
            "study_id": rows["study_id"],
            "subject_id": rows["subject_id"],
            "path": reading.below("echo", rows["dicom_filepath"]),
            "time": reading.times("echo", "acquisition_datetime", rows["acquisition_datetime"]),
        }
    )
    if stays is not None:
        # All clips of a study are of the admission that holds its first one, also where it ends in between.
        first = made.group_by("study_id").aggregate([("subject_id", "min"), ("time", "min")])
        stay = stays.at(first["subject_id_min"], first["time_min"])
        place = pc.index_in(_flat(made["study_id"]), value_set=_flat(first["study_id"]))
        made = made.append_column("admission_id", stay.take(place))
        reading.defect("echo", "no_admission", "studies outside every admission, or without a time", stay.null_count)
    return catalog.conform("clips", made, str(path))


def _clip_id(paths: pa.ChunkedArray | pa.Array) -> Any:
    return pc.replace_substring_regex(paths, r"^.*[/\\]|\.[Dd][Cc][Mm]$", "")


def _studies(reading: Reading, clips: pa.Table) -> pa.Table | None:
    """measurement_id, study_id and subject_id of the studies that have clips and a report."""
    part = "echo studies"
    if part not in reading.parts:
        return None
    path = reading.parts[part]
    rows = reading.table(part, ("subject_id", "study_id"), ("measurement_id",))
    rows = reading.once(part, _tables.require(rows, ("subject_id",), path), "study_id")
    if not clips.num_rows:
        return None
    place = pc.index_in(_flat(clips["study_id"]), value_set=_flat(rows["study_id"]))
    unlisted = len(pc.unique(_flat(clips["study_id"]).filter(pc.is_null(place))))
    reading.defect(part, "study_unlisted", "studies of the record list that the study list lacks", unlisted)
    owner = _flat(rows["subject_id"]).take(place)
    if pc.any(pc.not_equal(owner, _flat(clips["subject_id"]))).as_py():
        raise UserError(
            f"{path} and {reading.parts['echo']} give studies to different subjects; two versions may be mixed. Keep the tables "
            "of one version."
        )
    here = pc.is_in(_flat(rows["study_id"]), value_set=_flat(clips["study_id"]))
    reading.defect(part, "study_without_clips", "listed, no clip in the record list", rows.num_rows - (pc.sum(here).as_py() or 0))
    return rows.filter(pc.and_(here, pc.is_valid(_flat(rows["measurement_id"]))))


def _with_headers(reading: Reading, clips: pa.Table) -> pa.Table:
    paths = clips["path"].to_pylist()
    seen = _headers.scan_clips(reading, paths)
    nothing = {"kind": None, "num_frames": 0}  # no frames: a file that cannot be read is no cine
    found = [seen[path] if path in seen and not seen[path]["code"] else nothing for path in paths]
    for name in nothing:
        values = pa.array([header[name] for header in found], SCHEMAS["clips"].field(name).type)
        clips = clips.set_column(clips.column_names.index(name), name, values)
    return clips


def _with_views(reading: Reading, clips: pa.Table) -> pa.Table:
    """The most probable view of each file that ECHOVIEW knows. Its layout is unverified: what is not recognised is refused."""
    path = _table_at(reading, "echo views", reading.config.views, "echoview")
    if path is None or not clips.num_rows:
        return clips
    header = _tables.header_of(path)
    plain = {"".join(c for c in name.lower() if c.isalnum()): name for name in header}
    file = next((plain[name] for name in FILE_COLUMNS if name in plain), None)
    if file is None:
        raise UserError(f"{path} has no column that names the file, as dicom_filepath does.{nearest('dicom_filepath', header)}")
    rows = _tables.read_table(path, header)
    names, values = [], []
    for name in header:
        number = _tables.numbers(rows[name])
        ends = pc.min_max(number).as_py()
        if number.null_count == 0 and rows.num_rows and ends["min"] >= 0 and ends["max"] <= 1:
            names.append(name)
            values.append(number.to_numpy())
    total = np.sum(values, axis=0) if values else np.zeros(rows.num_rows)
    if len(names) != NUM_VIEWS or not ((total >= VIEW_SUM[0]) & (total <= VIEW_SUM[1])).all():
        raise UserError(
            f"{path}: {len(names)} of its columns hold probabilities where ECHOVIEW 0.1 has {NUM_VIEWS} that add up to 1. "
            "Leave it out, or give a table of a known layout."
        )
    best = pa.DictionaryArray.from_arrays(pa.array(np.argmax(values, axis=0).astype(np.int32)), names).dictionary_decode()
    ids = _flat(_clip_id(rows[file]))
    if len(pc.unique(ids)) < len(ids):
        raise UserError(f"{path}: a file stands twice; two versions may be mixed.")
    place = pc.index_in(_flat(clips["clip_id"]), value_set=ids)
    strangers = len(ids) - (len(place) - place.null_count)
    reading.defect("echo views", "file_unknown", "not in the record list", strangers)
    return clips.set_column(clips.column_names.index("view"), "view", best.take(place))


def _table_at(reading: Reading, part: str, setting: str, begins: str) -> Path | None:
    """The one table of a part that is known by the beginning of its name, or that a setting names."""
    if setting:
        return reading.root / setting
    if part not in reading.parts:
        return None
    found = _tables_in(reading.parts[part], begins)
    if len(found) > 1:
        raise UserError(f"two candidates for the part {part!r}: {found[0]} and {found[1]}. Keep one of them.")
    return found[0]


def _tables_in(folder: Path, begins: str) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.name.lower().startswith(begins) and p.name.lower().endswith((".csv", ".csv.gz"))
    )


def _listed(reading: Reading) -> Iterable[str]:
    for part, begins in (("echo views", "echoview"), ("ccsr", "dxccsr")):
        if part in reading.parts:
            for path in _tables_in(reading.parts[part], begins):
                yield path.relative_to(reading.root).as_posix()
    if reading.config.scan_headers and "echo" in reading.parts:  # what the headers say is in the catalog, so they are
        named = reading.table("echo", ("dicom_filepath",))["dicom_filepath"]
        yield from reading.below("echo", named).drop_null().to_pylist()


def _ext_icd(reading: Reading, ecgs: pa.Table) -> pa.Table | None:
    """ECG-Ext-ICD's rows of our ECGs, by `ecg` (place in `ecgs`)."""
    part = "ecg diagnoses"
    if part not in reading.parts:
        return None
    wanted = reading.config.diagnoses_of
    lists = (wanted,) if reading.config.diagnoses and wanted != "admission" else ()
    folds = () if reading.config.split == "subject" else (reading.config.split,)
    people = ("gender", "anchor_year", "anchor_age")
    rows = reading.table(part, ("subject_id", "study_id", *lists, *folds), people, words=(*folds, *people))
    rows = reading.once(part, _tables.require(rows, ("subject_id",), reading.parts[part]), "study_id").combine_chunks()
    place = pc.index_in(_flat(rows["study_id"]), value_set=_flat(ecgs["ecg_id"]))
    reading.defect(part, "record_without_ecg", "study_id is not in record_list.csv", place.null_count)
    other = pc.fill_null(pc.not_equal(_flat(rows["subject_id"]), _flat(ecgs["subject_id"]).take(place)), False)
    if pc.any(other).as_py():
        raise UserError(f"{reading.parts[part]} gives ECGs to other subjects than record_list.csv; two versions may be mixed.")
    return rows.append_column("ecg", place).filter(pc.is_valid(place))


def _diagnoses(reading: Reading, ecgs: pa.Table, lists: pa.Table | None) -> Iterable[pa.Table]:
    config = reading.config
    if not config.diagnoses or not ecgs.num_rows:
        return ()
    ccsr = _table_at(reading, "ccsr", config.ccsr, "dxccsr")
    stay: I64 = np.full(ecgs.num_rows, -1, np.int64)
    if config.diagnoses_of != "admission":
        if lists is None:
            raise UsageError(
                f"diagnoses_of={config.diagnoses_of} needs records_w_diag_icd10.csv of MIMIC-IV-ECG-Ext-ICD below ROOT."
            )
        coded = _icd.by_ecg(reading, "ecg diagnoses", lists[config.diagnoses_of], config.diagnoses_of)
        stay[lists["ecg"].to_numpy()] = np.arange(lists.num_rows)
    else:
        for part, table in (("admissions", "hosp/admissions.csv"), ("diagnoses", "hosp/diagnoses_icd.csv")):
            if part not in reading.parts:
                raise UsageError(
                    f"diagnoses needs {table}[.gz] below ROOT, or diagnoses_of=all_diag_all with MIMIC-IV-ECG-Ext-ICD."
                )
        held = _flat(ecgs["admission_id"])
        admissions = pc.unique(held).drop_null()
        coded = _icd.by_admission(reading, "diagnoses", admissions)
        stay = pc.fill_null(pc.index_in(held, value_set=admissions), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        stay[held.is_null().to_numpy(zero_copy_only=False)] = -1
    return _icd.labels(reading, coded, stay, ecgs, config.diagnoses, ccsr)


def _folds(reading: Reading, lists: pa.Table | None) -> pa.Table | None:
    column = reading.config.split
    if column == "subject":
        return None
    if lists is None:
        raise UsageError(f"split={column} needs records_w_diag_icd10.csv of MIMIC-IV-ECG-Ext-ICD below ROOT.")
    fold = _flat(lists[column])
    word = [FOLDS.get(value.removesuffix(".0")) for value in fold.dictionary.to_pylist()]
    split = pa.array(word, pa.string()).take(fold.indices)
    reading.defect("ecg diagnoses", "no_fold", f"{column} is none of 0 to 19; split by subject", split.null_count)
    return pa.table({"subject_id": lists["subject_id"], "split": split}).filter(pc.is_valid(split))


def _people(reading: Reading, lists: pa.Table | None) -> pa.Table | None:
    """Sex and year of birth: of hosp/patients, or else of ECG-Ext-ICD, whose gender may be the word "missing"."""
    if "patients" in reading.parts:
        part, columns = "patients", ("subject_id", "gender", "anchor_age", "anchor_year")
        rows = reading.once(part, reading.table(part, columns), "subject_id")
    elif lists is not None:
        part = "ecg diagnoses"
        rows = lists.select(["subject_id", "gender", "anchor_age", "anchor_year"])
        rows = rows.take(pa.array(_first_rows(_flat(rows["subject_id"]))))
    else:
        return None
    rows = rows.combine_chunks()
    age, year = (_tables.numbers(_flat(rows[name]).cast(pa.string())) for name in ("anchor_age", "anchor_year"))
    old = pc.fill_null(pc.greater_equal(age, OLDEST_ANCHOR_AGE), False)
    reading.defect(part, "age_above_89", "year of birth left out", pc.sum(old).as_py() or 0)
    born = pc.if_else(old, None, pc.subtract(year, age))
    gender = pc.utf8_upper(_flat(rows["gender"]).cast(pa.string()))
    nothing = pa.scalar(None, pa.string())
    sex = pc.if_else(pc.equal(gender, "F"), "female", pc.if_else(pc.equal(gender, "M"), "male", nothing))
    return pa.table({"subject_id": rows["subject_id"], "sex": sex, "birth_year": born.cast(pa.int32(), safe=False)})


def _first_rows(ids: pa.Array) -> npt.NDArray[np.int64]:
    return np.sort(np.unique(ids.dictionary_encode().indices.to_numpy(), return_index=True)[1])


def _notes(reading: Reading, known: pa.Array) -> Iterable[pa.Table]:
    """The discharge notes of subjects who have an ECG, a clip or a label, a block at a time."""
    path, others = reading.parts["notes"], 0
    for block in _tables.stream_table(path, ("note_id", "subject_id", "hadm_id", "charttime", "text")):
        _tables.require(block, ("note_id", "subject_id"), path)
        notes = block.filter(pc.and_(pc.is_in(block["subject_id"], value_set=known), pc.is_valid(block["text"])))
        others += block.num_rows - notes.num_rows
        yield pa.table(
            {
                "text_id": notes["note_id"],
                "subject_id": notes["subject_id"],
                "time": _tables.times(notes["charttime"]),
                "source": pa.array(["discharge"] * notes.num_rows, pa.string()),
                "text": notes["text"],
                "admission_id": notes["hadm_id"],
            }
        )
    reading.defect("notes", "subject_unknown", "no ECG, clip or label, or no text; left out", others)


def _flat(column: pa.ChunkedArray | pa.Array) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


SPEC = Spec(
    name=DATASET,
    version=4,
    # Names of the table of each part; case, separators and .gz play no part.
    parts={
        "ecg": ("record_list.csv",),
        "ecg reports": ("machine_measurements.csv",),
        "ecg diagnoses": ("records_w_diag_icd10.csv",),
        "echo": ("echo-record-list.csv",),
        "echo studies": ("echo-study-list.csv",),
        "echo measurements": ("structured-measurement.csv", "structured-measurements.csv"),
        "echo views": ("echoview*.csv*",),
        "patients": ("patients.csv",),
        "admissions": ("admissions.csv",),
        "diagnoses": ("diagnoses_icd.csv",),
        "ccsr": ("dxccsr*.csv*",),
        "notes": ("discharge.csv",),
    },
    needs=("ecg", "echo", "echo measurements"),
    any_of=True,
    meaning={
        "ecg": "no ECG waveforms (record_list.csv)",
        "ecg reports": "no texts of the ECGs (machine_measurements.csv)",
        "ecg diagnoses": "no folds and lists of diagnoses of MIMIC-IV-ECG-Ext-ICD (records_w_diag_icd10.csv)",
        "echo": "no echo clips (echo-record-list.csv)",
        "echo studies": "measurements are not linked to echo studies (echo-study-list.csv)",
        "echo measurements": "no labels such as lvef (structured-measurement.csv[.gz], since MIMIC-IV-ECHO 1.0)",
        "echo views": "no views of the clips (ECHOVIEW, echoview*.csv)",
        "patients": "sex and year of birth unknown (hosp/patients.csv[.gz])",
        "admissions": "no admissions, so no --same-admission (hosp/admissions.csv[.gz])",
        "diagnoses": "no diagnoses of admissions (hosp/diagnoses_icd.csv[.gz])",
        "ccsr": "no labels ccsr.* (HCUP's DXCCSR_v*.csv)",
        "notes": "no discharge notes (note/discharge.csv[.gz])",
    },
    read=read,
    file_settings=("ccsr", "views"),
    listed=_listed,
)
