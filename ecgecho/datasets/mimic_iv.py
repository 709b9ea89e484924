"""MIMIC-IV: ECG 1.0, ECHO 0.1 and 1.0, Note 2.2 and the patients table, one subject-id space and one catalog.

The parts are known by the tables they hold, at most three folders below ROOT, whatever the folders are called; any of them
may be absent, and what is absent is said. There is no official split: the subject decides.

Never run on the real files, only on trees in their published layout. Sources of names, units and traps: the MIMIC
documentation and public code that read the data; what they disagree on is an option of `Config` or a row in `defects`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import catalog
from ecgecho.catalog import SCHEMAS, Catalog, Progress, nearest
from ecgecho.datasets import _headers, _tables
from ecgecho.io.scan import File
from ecgecho.pairs import SPLIT_VERSION, WINDOW_DAYS, assign_splits, check_window, family_of, make_pairs
from ecgecho.types import Json, UsageError, UserError

DATASET = "mimic_iv"
INDEX_VERSION = 2  # raised when the same tables would make another catalog

# Names of the table of each part; case, separators and .gz play no part.
PARTS: dict[str, tuple[str, ...]] = {
    "ecg": ("record_list.csv",),
    "ecg reports": ("machine_measurements.csv",),
    "echo": ("echo-record-list.csv",),
    "echo studies": ("echo-study-list.csv",),
    "echo measurements": ("structured-measurement.csv", "structured-measurements.csv"),
    "patients": ("patients.csv",),
    "notes": ("discharge.csv",),
}
MEANING = {
    "ecg": "no ECG waveforms (record_list.csv)",
    "ecg reports": "no texts of the ECGs (machine_measurements.csv)",
    "echo": "no echo clips (echo-record-list.csv)",
    "echo studies": "measurements are not linked to echo studies (echo-study-list.csv)",
    "echo measurements": "no labels such as lvef (structured-measurement.csv[.gz], since MIMIC-IV-ECHO 1.0)",
    "patients": "sex and year of birth unknown (hosp/patients.csv[.gz])",
    "notes": "no discharge notes (note/discharge.csv[.gz])",
}

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
SENTINELS = (29999.0, 32767.0, -32767.0, 32768.0, -32768.0, 65535.0)  # "not measured", never blank; datasets.md section 1

LVEF_NAMES = ("lvef", "biplane_lvef", "rest_lvef", "rest_biplane_lvef", "lvef_3d", "lvef_upper", "rest_lvef_upper")
LVEF_EXCLUDED = "stress_lvef"  # of another heart rate
WALLS = ("septal_thickness", "inf_lat_thickness")
LENGTHS = (*WALLS, "tapse")  # reported in cm or in mm by era; given here in mm
CM_AT_MOST = 3.0  # no wall is 3 cm, none is 3 mm: a larger number is in mm, whatever its unit says (datasets.md card 2)
LENGTH_MM_AT_MOST = 60.0
DIAMETER = "lvedd"
DIAMETER_CM_AT_MOST = 12.0  # no ventricle is 12 cm wide, none is 12 mm
DIAMETER_MM_AT_MOST = 110.0
MAX_LVEF = 100.0
SAMPLED_FILES = 256
OLDEST_ANCHOR_AGE = 91  # stands for "> 89"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index mimic-iv`."""

    window_days: float = WINDOW_DAYS
    """An ECG is paired with the nearest echo study at most this many days away."""
    lvef_priority: tuple[str, ...] = LVEF_NAMES
    """The label `lvef` of a report is the first of these names that it has; which one, is its `definition`."""
    scan_headers: bool = False
    """Open every DICOM for its kind and frame count (hours on the full set); without, they are null."""
    workers: int = 2
    """Processes that read headers."""

    def __post_init__(self) -> None:
        check_window(self.window_days)
        for name in self.lvef_priority:
            if name not in LVEF_NAMES:
                raise UsageError(f"lvef_priority names {name!r}.{nearest(name, LVEF_NAMES)}")
        if not self.lvef_priority or len(set(self.lvef_priority)) < len(self.lvef_priority):
            raise UsageError("lvef_priority must name at least one of LVEF's names, each once.")


def build(config: Config) -> MimicIv:
    """The dataset."""
    return MimicIv(config=config)


@dataclass(slots=True)
class _Found:
    """What was read so far: tables of the catalog, rows of defects."""

    parts: dict[str, Path]
    defects: list[tuple[str, str, str, int]] = field(default_factory=list)

    def defect(self, item: str, code: str, detail: str, count: int) -> None:
        if count:
            self.defects.append((item, code, detail, int(count)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MimicIv:
    """See `catalog.Dataset`."""

    config: Config

    def inspect(self, root: Path, out: Path, options: catalog.IndexOptions = catalog.IndexOptions()) -> Json:
        """The parts found and missing; writes nothing."""
        parts = _parts(Path(root))
        return {
            "dataset": DATASET,
            "parts": {name: str(path) for name, path in parts.items()},
            "missing": _missing(parts),
            "bytes": sum(path.stat().st_size for path in parts.values()),
            "unchanged": catalog.unchanged(out, self._inputs(Path(root), Path(out), parts)) is not None,
        }

    def index(
        self, root: Path, out: Path, progress: Progress | None = None, options: catalog.IndexOptions = catalog.IndexOptions()
    ) -> Catalog:
        """Write the catalog; when it was made from the same tables and settings it is returned as it is."""
        root, out = Path(root), Path(out)
        catalog.check_place(out)
        parts = _parts(root)
        inputs = self._inputs(root, out, parts)
        if (made := catalog.unchanged(out, inputs)) is not None:
            return made
        found = _Found(parts)
        tell = progress or (lambda what, done, total: None)
        tell("ECG tables", 0, 4)
        ecgs = _ecgs(found, root)
        texts, ecg_labels = _reports(found, ecgs)
        tell("echo tables", 1, 4)
        clips = _clips(found, root)
        echo_labels = _measurements(found, clips, self.config.lvef_priority)
        _sample_files(found, root, {"ecgs": ecgs} if self.config.scan_headers else {"ecgs": ecgs, "clips": clips})
        lines, complete = b"", True
        if self.config.scan_headers:
            clips, lines, complete = self._with_headers(found, clips, root, out, progress)
        tell("subjects and pairs", 2, 4)
        labels = pa.concat_tables([*echo_labels, *ecg_labels]).unify_dictionaries() if echo_labels or ecg_labels else None
        subjects = _subjects(found, [ecgs, clips, *([labels] if labels is not None else [])])
        pairs = make_pairs(ecgs, clips, texts, subjects, _window(self.config.window_days))
        tell("writing", 3, 4)
        result = catalog.write(
            out,
            root=root,
            dataset=DATASET,
            family=family_of(DATASET),
            tables={
                "subjects": subjects,
                "clips": clips,
                "ecgs": ecgs,
                "texts": _all_texts(found, texts, subjects),
                "labels": labels if labels is not None else (),
                "pairs": pairs,
                "defects": _DefectsLater(found),  # the notes are counted while they are written
            },
            meta={
                "split_version": SPLIT_VERSION,
                "parts": {name: path.relative_to(root).as_posix() for name, path in parts.items()},
                "missing": _missing(parts),
                "inputs": inputs if complete else None,  # None: the next index tries again
            },
            keep={"headers.jsonl": lines} if lines else {},
        )
        _memory(out)[-1].unlink(missing_ok=True)
        tell("done", 4, 4)
        return result

    def _inputs(self, root: Path, out: Path, parts: dict[str, Path]) -> Json:
        settings = dataclasses.asdict(self.config)
        del settings["workers"]
        tables = {name: {"path": path.relative_to(root).as_posix(), **_tables.fingerprint(path)} for name, path in parts.items()}
        return {
            "dataset": DATASET,
            "index_version": INDEX_VERSION,
            "root": catalog.relative(root, out),
            "settings": settings,
            "split_version": SPLIT_VERSION,
            "tables": tables,
        }

    def _with_headers(
        self, found: _Found, clips: pa.Table, root: Path, out: Path, progress: Progress | None
    ) -> tuple[pa.Table, bytes, bool]:
        paths = clips["path"].to_pylist()
        files, missing = [], 0
        for path in paths:
            try:
                stat = (root / path).stat()
                files.append(File(path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
            except OSError:
                missing += 1
        found.defect("clips", "missing_file", "listed, not there", missing)
        keep = ("kind", "num_frames", "code", "defects")
        scan = _headers.scan_headers(
            root,
            files,
            memory=_memory(out),
            remember=lambda header: {key: header[key] for key in keep},
            workers=self.config.workers,
            progress=progress,
        )
        headers = scan.headers
        found.defects += _headers.defects_of(list(headers.values()))
        unread = {"kind": None, "num_frames": 0}
        for name, nothing in unread.items():
            found_here = [nothing if path not in headers or headers[path]["code"] else headers[path][name] for path in paths]
            clips = clips.set_column(
                clips.column_names.index(name), name, pa.array(found_here, SCHEMAS["clips"].field(name).type)
            )
        return clips, scan.lines, not scan.retry and not missing


@dataclass(frozen=True, slots=True)
class _DefectsLater:
    """The defects table, made when it is written, after all other tables."""

    found: _Found

    def __iter__(self) -> Iterator[pa.Table]:
        columns = list(zip(*self.found.defects, strict=True)) or [(), (), (), ()]
        yield pa.table(
            [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMAS["defects"], strict=True)],
            SCHEMAS["defects"].names,
        )


def _parts(root: Path) -> dict[str, Path]:
    parts = _tables.find_parts(root, PARTS)
    if not {"ecg", "echo", "echo measurements"} & set(parts):
        raise UserError(
            f"no table of MIMIC-IV lies in {root} or up to {_tables.MAX_DEPTH} folders below: looked for record_list.csv, "
            f"echo-record-list.csv and structured-measurement.csv[.gz]. Give the folder that holds the modules."
        )
    return parts


def _missing(parts: dict[str, Path]) -> list[str]:
    return [f"{name}: {MEANING[name]}" for name in PARTS if name not in parts]


def _memory(out: Path) -> list[Path]:
    """Headers remembered by the catalog that is there, and those of a scan that was stopped."""
    return [out / "headers.jsonl", out.with_name(f".{out.name}.headers.jsonl")]


def _ecgs(found: _Found, root: Path) -> pa.Table:
    if "ecg" not in found.parts:
        return SCHEMAS["ecgs"].empty_table()
    path = found.parts["ecg"]
    columns = ("subject_id", "study_id", "ecg_time", "path")
    rows = _once(
        found,
        "ecg",
        _tables.require(_tables.read_table(path, columns), ("subject_id", "study_id", "path"), path),
        "study_id",
        path,
    )
    return catalog.conform(
        "ecgs",
        pa.table(
            {
                "ecg_id": rows["study_id"],
                "subject_id": rows["subject_id"],
                "path": _below(root, path, rows["path"]),
                "time": _times(found, "ecg", "ecg_time", rows["ecg_time"]),
            }
        ),
        str(path),
    )


def _reports(found: _Found, ecgs: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Texts and labels of machine_measurements.csv."""
    if "ecg reports" not in found.parts or not ecgs.num_rows:
        return SCHEMAS["texts"].empty_table(), []
    path = found.parts["ecg reports"]
    lines = [f"report_{i}" for i in range(NUM_REPORTS)]
    rows = _tables.read_table(path, ("subject_id", "study_id", *lines, *ECG_MEASUREMENTS))
    rows = _once(found, "ecg reports", _tables.require(rows, ("subject_id", "study_id"), path), "study_id", path)
    place = pc.index_in(rows["study_id"], value_set=ecgs["ecg_id"].combine_chunks())
    owner = ecgs["subject_id"].combine_chunks().take(place.combine_chunks())
    found.defect("ecg reports", "report_without_ecg", "study_id is not in record_list.csv", place.null_count)
    other = pc.fill_null(pc.not_equal(rows["subject_id"], owner), False)
    found.defect("ecg reports", "subject_disagrees", "another subject than in record_list.csv", pc.sum(other).as_py() or 0)
    good = pc.and_(pc.is_valid(place), pc.invert(other))
    rows, place = rows.filter(good), place.filter(good)
    when = ecgs["time"].combine_chunks().take(place.combine_chunks())

    # "skip" loses a row whose values are all null (pyarrow 26), so an empty word goes first and its separator is cut off.
    joined = pc.binary_join_element_wise("", *[_without_stop(rows[line]) for line in lines], ". ", null_handling="skip")
    joined = pc.utf8_slice_codeunits(joined, 2)
    texts = pa.table(
        {
            "text_id": pc.binary_join_element_wise("ecg", rows["study_id"], "-"),
            "subject_id": rows["subject_id"],
            "ecg_id": rows["study_id"],
            "study_id": pa.nulls(rows.num_rows, pa.string()),
            "time": when,
            "source": pa.array(["machine_report"] * rows.num_rows, pa.string()),
            "text": joined,
        }
    )
    filled = pc.greater(pc.binary_length(joined), 0)
    found.defect("ecg reports", "report_empty", "no line", rows.num_rows - int(pc.sum(filled).as_py() or 0))
    labels = [_ecg_labels(found, name, unit, rows, when) for name, unit in ECG_MEASUREMENTS.items()]
    return texts.filter(filled), labels


def _ecg_labels(found: _Found, name: str, unit: str, rows: pa.Table, when: pa.Array) -> pa.Table:
    value = _tables.numbers(rows[name])
    found.defect(name, "not_a_number", "machine_measurements", value.null_count - rows[name].null_count)
    sentinel = pc.fill_null(pc.is_in(value, value_set=pa.array(SENTINELS)), False)
    found.defect(name, "sentinel", "means not measured", pc.sum(sentinel).as_py() or 0)
    good = pc.and_(pc.is_valid(value), pc.invert(sentinel))
    return _label_rows(
        subject_id=rows["subject_id"].filter(good),
        study_id=None,
        ecg_id=rows["study_id"].filter(good),
        time=when.filter(good.combine_chunks()),
        name=name,
        value=value.filter(good),
        unit=unit,
        source="machine_measurements",
        definition="as the cart measured it",
    )


def _clips(found: _Found, root: Path) -> pa.Table:
    if "echo" not in found.parts:
        return SCHEMAS["clips"].empty_table()
    path = found.parts["echo"]
    columns = ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath")
    rows = _tables.require(_tables.read_table(path, columns), ("subject_id", "study_id", "dicom_filepath"), path)
    clip_id = pc.replace_substring_regex(rows["dicom_filepath"], r"^.*/|\.[Dd][Cc][Mm]$", "")
    rows = _once(found, "echo", rows.append_column("clip_id", clip_id), "clip_id", path)
    owner = rows.select(["study_id", "subject_id"]).group_by(["study_id", "subject_id"]).aggregate([])
    if owner.num_rows > len(pc.unique(owner["study_id"])):
        raise UserError(f"{path}: a study_id stands with two subjects; two versions may be mixed. Fetch the table again.")
    return catalog.conform(
        "clips",
        pa.table(
            {
                "clip_id": rows["clip_id"],
                "study_id": rows["study_id"],
                "subject_id": rows["subject_id"],
                "path": _below(root, path, rows["dicom_filepath"]),
                "time": _times(found, "echo", "acquisition_datetime", rows["acquisition_datetime"]),
            }
        ),
        str(path),
    )


def _measurements(found: _Found, clips: pa.Table, priority: Sequence[str]) -> list[pa.Table]:
    """Labels of the structured measurements: the raw ones by name; `lvef`, `wall_mm` and `lvedd_mm` derived from them."""
    if "echo measurements" not in found.parts:
        return []
    path = found.parts["echo measurements"]
    ids = ("subject_id", "measurement_id", "measurement_datetime", "measurement", "result")
    rows = _tables.require(
        _tables.read_table(path, ids, ("test_type", "unit")), ("subject_id", "measurement_id", "measurement"), path
    )
    name = pc.utf8_lower(rows["measurement"]).combine_chunks().dictionary_encode()
    value = _tables.numbers(rows["result"])
    text = pc.and_(pc.is_valid(rows["result"]), pc.is_null(value)).combine_chunks()
    for entry in pc.value_counts(name.filter(text).cast(pa.string())).to_pylist():
        found.defect(entry["values"], "not_a_number", "structured measurement; not in labels", entry["counts"])
    rows = rows.set_column(rows.column_names.index("measurement"), "measurement", name).append_column("value", value)
    rows = rows.append_column("time", _times(found, "echo measurements", "measurement_datetime", rows["measurement_datetime"]))
    rows = rows.filter(pc.is_valid(rows["value"])).combine_chunks()
    rows = rows.append_column("study_id", _study_of(found, rows, clips))
    rows = _repaired(found, rows)
    stress = pc.equal(rows["measurement"], LVEF_EXCLUDED)
    found.defect(LVEF_EXCLUDED, "not_at_rest", "kept under its name, never used for lvef", pc.sum(stress).as_py() or 0)
    raw = rows.filter(pc.not_equal(rows["measurement"], "lvef"))  # that name is the derived one's
    derived = (_lvef(found, rows, priority), _wall(rows), _diameter(found, rows))
    plain = pc.if_else(pc.is_in(raw["measurement"].cast(pa.string()), value_set=pa.array(LENGTHS)), "in mm", "as reported")
    return [
        *(table for table in derived if table.num_rows),
        _measured(raw, raw["measurement"], raw["value"], raw["unit"], plain),
    ]


def _repaired(found: _Found, rows: pa.Table) -> pa.Table:
    """Lengths in mm, and no value that cannot be: LVEF outside (0, 100], a length of none or of 6 cm."""
    names = rows["measurement"].cast(pa.string())
    value = rows["value"].to_numpy().copy()
    unit = pc.fill_null(pc.utf8_lower(rows["unit"]), "")
    lvef = pc.is_in(names, value_set=pa.array([*LVEF_NAMES, LVEF_EXCLUDED])).to_numpy()
    length = pc.is_in(names, value_set=pa.array(LENGTHS)).to_numpy()
    in_cm = length & (value <= CM_AT_MOST)
    for said, means_cm in (("cm", True), ("mm", False)):
        wrong = length & pc.equal(unit, said).to_numpy() & (in_cm != means_cm)
        for name in LENGTHS:
            number = int((wrong & pc.equal(names, name).to_numpy()).sum())
            found.defect(name, "unit_drift", f"said {said}, is {'mm' if means_cm else 'cm'}; repaired to mm", number)
    found.defect(
        "lengths",
        "unit_missing",
        "told by size; given in mm",
        int((length & ~pc.is_in(unit, value_set=pa.array(["cm", "mm"])).to_numpy()).sum()),
    )
    value[in_cm] *= 10
    good = (
        np.isfinite(value)
        & ~(lvef & ~((value > 0) & (value <= MAX_LVEF)))
        & ~(length & ~((value > 0) & (value <= LENGTH_MM_AT_MOST)))
    )
    for entry in pc.value_counts(names.filter(pa.array(~good))).to_pylist():
        found.defect(entry["values"], "out_of_range", "left out", entry["counts"])
    said_unit = pc.if_else(pa.array(length), "mm", pc.if_else(pa.array(lvef), "%", rows["unit"]))
    rows = rows.set_column(rows.column_names.index("value"), "value", pa.array(value))
    return rows.set_column(rows.column_names.index("unit"), "unit", said_unit).filter(pa.array(good)).combine_chunks()


def _lvef(found: _Found, rows: pa.Table, priority: Sequence[str]) -> pa.Table:
    """One `lvef` a report: the first name by `priority` that it has, in file order where it has that twice."""
    rank = pc.index_in(rows["measurement"].cast(pa.string()), value_set=pa.array(list(priority)))
    rows = rows.append_column("rank", rank).filter(pc.is_valid(rank)).combine_chunks()
    report, rank = _codes(rows["measurement_id"]), rows["rank"].to_numpy()
    order = np.lexsort((rank, report))
    _, first = np.unique(report[order], return_index=True)
    same = (np.diff(report[order]) == 0) & (np.diff(rank[order]) == 0)
    values = rows["value"].to_numpy()[order]
    found.defect(
        "lvef",
        "measured_twice",
        "one report has a name twice with two values; the first is used",
        int((same & (np.diff(values) != 0)).sum()),
    )
    chosen = rows.take(pa.array(np.sort(order[first])))
    how = pc.binary_join_element_wise("measurement", chosen["measurement"].cast(pa.string()), " ")
    return _measured(
        chosen, _tables.constant("lvef", chosen.num_rows), chosen["value"], _tables.constant("%", chosen.num_rows), how
    )


def _wall(rows: pa.Table) -> pa.Table:
    """One `wall_mm` a report: the thicker of septum and inferolateral wall, or the one that was measured."""
    rows = rows.filter(pc.is_in(rows["measurement"].cast(pa.string()), value_set=pa.array(WALLS))).combine_chunks()
    report, values = _codes(rows["measurement_id"]), rows["value"].to_numpy()
    septal = pc.equal(rows["measurement"], WALLS[0]).to_numpy()
    order = np.lexsort((-values, report))
    groups, first, inverse = np.unique(report[order], return_index=True, return_inverse=True)
    has = np.zeros((2, len(groups)), bool)
    has[0, inverse[septal[order]]] = True
    has[1, inverse[~septal[order]]] = True
    row = order[first]
    place = np.argsort(row)
    words = np.array([f"max({WALLS[0]}, {WALLS[1]})", f"{WALLS[0]} alone", f"{WALLS[1]} alone"])
    kind = np.where(has.all(0), 0, np.where(has[0], 1, 2))[place]
    chosen = rows.take(pa.array(row[place]))
    n = chosen.num_rows
    return _measured(
        chosen, _tables.constant("wall_mm", n), chosen["value"], _tables.constant("mm", n), pa.array(words[kind], pa.string())
    )


def _diameter(found: _Found, rows: pa.Table) -> pa.Table:
    """`lvedd_mm`, the inner diameter of the left ventricle at end-diastole, whether it was written in cm or in mm."""
    rows = rows.filter(pc.equal(rows["measurement"].cast(pa.string()), DIAMETER)).combine_chunks()
    value = rows["value"].to_numpy()
    value = np.where(value <= DIAMETER_CM_AT_MOST, 10 * value, value)
    good = np.isfinite(value) & (value > DIAMETER_CM_AT_MOST) & (value <= DIAMETER_MM_AT_MOST)
    found.defect("lvedd_mm", "out_of_range", "left out", int((~good).sum()))
    chosen, n = rows.filter(pa.array(good)), int(good.sum())
    how = _tables.constant(f"measurement {DIAMETER} in mm", n)
    return _measured(chosen, _tables.constant("lvedd_mm", n), pa.array(value[good]), _tables.constant("mm", n), how)


def _measured(rows: pa.Table, name: pa.Array, value: pa.Array, unit: pa.Array, definition: pa.Array) -> pa.Table:
    source = pc.binary_join_element_wise("structured_measurement", pc.utf8_lower(rows["test_type"]), "/", null_handling="skip")
    return catalog.conform(
        "labels",
        pa.table(
            {
                "subject_id": rows["subject_id"],
                "study_id": rows["study_id"],
                "time": rows["time"],
                "name": name,
                "value": value,
                "unit": unit,
                "source": source,
                "definition": definition,
            }
        ),
        "structured measurements",
    )


def _label_rows(
    *,
    subject_id: pa.ChunkedArray,
    study_id: pa.ChunkedArray | None,
    ecg_id: pa.ChunkedArray,
    time: pa.Array,
    name: str,
    value: pa.ChunkedArray,
    unit: str,
    source: str,
    definition: str,
) -> pa.Table:
    n = len(subject_id)
    return pa.table(
        {
            "subject_id": subject_id,
            "study_id": pa.nulls(n, pa.string()) if study_id is None else study_id,
            "ecg_id": ecg_id,
            "time": time,
            "name": _tables.constant(name, n),
            "value": value,
            "unit": _tables.constant(unit, n),
            "source": _tables.constant(source, n),
            "definition": _tables.constant(definition, n),
        },
        schema=SCHEMAS["labels"],
    )


def _study_of(found: _Found, rows: pa.Table, clips: pa.Table) -> pa.Array:
    """The echo study of each measurement, by the study list of MIMIC-IV-ECHO 1.0; null where there is none with clips."""
    nothing = pa.nulls(rows.num_rows, pa.string())
    if "echo studies" not in found.parts:
        return nothing
    path = found.parts["echo studies"]
    studies = _tables.read_table(path, ("subject_id", "study_id"), ("measurement_id",))
    studies = studies.filter(
        pc.and_(
            pc.is_valid(studies["measurement_id"]), pc.is_in(studies["study_id"], value_set=clips["study_id"].combine_chunks())
        )
    )
    if not studies.num_rows:
        return nothing
    studies = studies.combine_chunks()
    place = pc.index_in(rows["measurement_id"].combine_chunks(), value_set=studies["measurement_id"].combine_chunks())
    owner = studies["subject_id"].combine_chunks().take(place)
    other = pc.fill_null(pc.not_equal(owner, rows["subject_id"].combine_chunks()), False)
    found.defect("echo studies", "subject_disagrees", "a measurement of another subject; not linked", pc.sum(other).as_py() or 0)
    return pc.if_else(other, pa.scalar(None, pa.string()), studies["study_id"].combine_chunks().take(place))


def _subjects(found: _Found, tables: Sequence[pa.Table]) -> pa.Table:
    ids = pc.unique(pa.chunked_array([chunk for table in tables for chunk in table["subject_id"].chunks], pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    splits = pa.array(assign_splits(family_of(DATASET), ids.to_pylist()), pa.string())
    columns = {"subject_id": ids, "split": splits}
    if "patients" in found.parts:
        path = found.parts["patients"]
        people = _tables.read_table(path, ("subject_id", "gender", "anchor_age", "anchor_year")).combine_chunks()
        place = pc.index_in(ids, value_set=people["subject_id"].combine_chunks())
        found.defect("patients", "subject_unknown", "not in the patients table", place.null_count)
        age, year = (_tables.numbers(people[name]).combine_chunks().take(place) for name in ("anchor_age", "anchor_year"))
        old = pc.fill_null(pc.greater_equal(age, OLDEST_ANCHOR_AGE), False)
        found.defect("patients", "age_above_89", "year of birth left out", pc.sum(old).as_py() or 0)
        born = pc.if_else(old, None, pc.subtract(year, age))
        gender = pc.utf8_upper(people["gender"]).combine_chunks().take(place)
        sex = pc.if_else(pc.equal(gender, "F"), "female", pc.if_else(pc.equal(gender, "M"), "male", pa.scalar(None, pa.string())))
        columns |= {"sex": sex, "birth_year": born.cast(pa.int32())}
    return catalog.conform("subjects", pa.table(columns), "patients")


def _all_texts(found: _Found, reports: pa.Table, subjects: pa.Table) -> Iterable[pa.Table]:
    """The reports, then the discharge notes of subjects who have an ECG, a clip or a label, a block at a time."""
    yield reports
    if "notes" not in found.parts:
        return
    path = found.parts["notes"]
    others, known = 0, subjects["subject_id"].combine_chunks()
    for block in _tables.stream_table(path, ("note_id", "subject_id", "charttime", "text")):
        _tables.require(block, ("note_id", "subject_id"), path)
        wanted = pc.and_(pc.is_in(block["subject_id"], value_set=known), pc.is_valid(block["text"]))
        notes = block.filter(wanted)
        others += block.num_rows - notes.num_rows
        yield catalog.conform(
            "texts",
            pa.table(
                {
                    "text_id": notes["note_id"],
                    "subject_id": notes["subject_id"],
                    "time": _tables.times(notes["charttime"]),
                    "source": pa.array(["discharge"] * notes.num_rows, pa.string()),
                    "text": notes["text"],
                }
            ),
            str(path),
        )
    found.defect("notes", "subject_unknown", "no ECG, clip or label, or no text; left out", others)


def _sample_files(found: _Found, root: Path, tables: Mapping[str, pa.Table]) -> None:
    """Look for a few of the listed files: tables alone, or half a download, are worth knowing before a long job."""
    for item, table in tables.items():
        if table.num_rows:
            rows = np.unique(np.linspace(0, table.num_rows - 1, min(SAMPLED_FILES, table.num_rows)).astype(np.int64))
            paths = table["path"].take(pa.array(rows)).to_pylist()
            missing = sum(not (root / (path + (".hea" if item == "ecgs" else ""))).is_file() for path in paths)
            found.defect(item, "missing_file", f"of {len(paths)} looked for", missing)


def _once(found: _Found, part: str, rows: pa.Table, key: str, path: Path) -> pa.Table:
    """`rows` without repeats of the same row; one id for two different rows is refused."""
    rows = rows.combine_chunks()
    ids = _codes(rows[key])
    kept, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    if len(kept) == len(ids):
        return rows
    twin = pa.array(first[inverse])
    for name in rows.column_names:
        column = rows[name].combine_chunks()
        differs = pc.fill_null(pc.not_equal(column, column.take(twin)), False)
        if (row := int(pc.index(differs, True).as_py())) >= 0:
            raise UserError(
                f"{path}: {key} {rows[key][row]} stands twice with different {name!r}; two versions may be mixed. Fetch it again."
            )
    found.defect(part, "row_twice", f"same {key}; kept once", len(ids) - len(kept))
    return rows.take(pa.array(np.sort(first)))


def _below(root: Path, table: Path, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths beside a table -> paths below the root."""
    bad = pc.match_substring_regex(paths, r"^[/\\]|(^|[/\\])\.\.([/\\]|$)")
    if (row := int(pc.index(bad, True).as_py())) >= 0:
        raise UserError(
            f"{table}: the path {paths[row].as_py()!r} in data row {row + 1} leaves the folder of the table. Fetch it again."
        )
    folder = table.parent.relative_to(root).as_posix()
    return paths if folder == "." else pc.binary_join_element_wise(folder, paths, "/")


def _times(found: _Found, item: str, column: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
    made = _tables.times(text)
    found.defect(item, "time_unreadable", f"{column} left out", made.null_count - text.null_count)
    found.defect(item, "time_missing", f"{column} is empty", text.null_count)
    return made


def _without_stop(lines: pa.ChunkedArray) -> pa.ChunkedArray:
    """A report line without the full stops at its end, so that joining adds one; null when nothing is left."""
    bare = pc.utf8_rtrim(lines, ". ")
    return pc.if_else(pc.equal(pc.binary_length(bare), 0), pa.scalar(None, pa.string()), bare)


def _codes(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(ids.combine_chunks().dictionary_encode().indices, np.int64)


def _window(days: float) -> catalog.IndexOptions:
    return catalog.IndexOptions(window_days=(-days, days))
