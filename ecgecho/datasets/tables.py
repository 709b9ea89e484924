"""Private data listed in tables of your own: subjects, clips, ecgs, texts, labels as CSV, TSV or Parquet, with raw ids.

Needs, in ROOT or in its folder `tables` (setting), at least one of `clips` and `ecgs` as .csv, .csv.gz, .tsv or .parquet, with
the columns of docs/catalog.md; order and the case of names play no part, further columns are ignored. Besides: `subjects`,
`texts`, `labels`, `views` (path, view) and `splits` (subject_id, split). Paths of files are relative to ROOT. Dates are
YYYY-MM-DD HH:MM:SS.

    subjects  subject_id, [split, sex, birth_year]          clips  subject_id, study_id, path, [clip_id, time, kind, ...]
    texts     subject_id, text, [text_id, source, ...]      ecgs   subject_id, path, [ecg_id, time, row, leads, fs_hz, unit, ...]
    labels    subject_id, name, value, [study_id, ecg_id, time, unit, source, definition]

Every id becomes an HMAC-SHA256 under a key that lies beside the catalog (mode 600) or is given, so raw ids of a hospital may
stand in the tables; none is stored or shown. Under one key a patient has the same subject here and in `folder`. What breaks a
promise of the catalog is refused with file, row and column. Texts are stored as they are: take names out of them before.

Splits: the column split of `subjects`, or the table `splits`; a subject in two is refused by its hash. Who has none falls where
the hash of the subject says. Labels that the tasks know (`lvef`, `wall_mm`, ...) must be in their unit and range; a label needs
an ECG, a time, or a study that has one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgecho import catalog
from ecgecho.catalog import SPLITS, Catalog, IndexOptions, Progress, nearest, subject_tag
from ecgecho.datasets import _echonet, _indexing, _private, _tables
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.keys import Key
from ecgecho.pairs import private_family
from ecgecho.tasks import TASKS
from ecgecho.types import ClipKind, Json, UserError

DATASET = "tables"
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
SHEETS = ("xlsx", "xls", "ods", "txt")
IDS = ("subject_id", "study_id", "clip_id", "ecg_id", "text_id", "admission_id")
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # table -> columns needed, columns taken where they are
    "subjects": (("subject_id",), ("split", "sex", "birth_year")),
    "clips": (("subject_id", "study_id", "path"), ("clip_id", "time", "kind", "num_frames", "view", "admission_id")),
    "ecgs": (
        ("subject_id", "path"),
        ("ecg_id", "time", "row", "start_s", "duration_s", "leads", "fs_hz", "unit", "admission_id"),
    ),
    "texts": (("subject_id", "text"), ("text_id", "ecg_id", "study_id", "time", "source")),
    "labels": (("subject_id", "name", "value"), ("study_id", "ecg_id", "time", "unit", "source", "definition")),
    "views": (("path", "view"), ()),
    "splits": (("subject_id", "split"), ()),
}
KNOWN = {  # label -> unit, lowest and highest value that can be
    "lvef": ("%", 5.0, 100.0),
    "wall_mm": ("mm", 4.0, 60.0),
    "ivsd_mm": ("mm", 4.0, 60.0),
    "lvpwd_mm": ("mm", 4.0, 60.0),
    "lvedd_mm": ("mm", 10.0, 120.0),
    "esv_ml": ("ml", 1.0, 1000.0),
    "edv_ml": ("ml", 1.0, 1000.0),
}
SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}
WORDS = {"split": SPLITS, "kind": get_args(ClipKind), "unit": ("mv", "uv", "zscore")}
BIRTH_YEARS = (1850, 2100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index tables`."""

    key: str = ""
    """File with the key of the ids; empty makes one beside the catalog, `<catalog>.key`, or uses the one there."""
    tables: str = ""
    """Folder of the tables, below ROOT; empty is ROOT itself."""
    scan_headers: bool = False
    """Open every clip for its kind and frame count."""


def build(config: Config) -> PrivateTables:
    """The dataset."""
    return PrivateTables(spec=_SPEC, config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTables(Indexed):
    """See `catalog.Dataset`."""

    def index(self, root: Path, out: Path, progress: Progress | None = None, options: IndexOptions = IndexOptions()) -> Catalog:
        """Write the catalog; when it was made from the same tables and key it is returned as it is."""
        root, out = Path(root), Path(out)
        catalog.check_place(out)
        reading = self._reading(root, out, self._parts(root), options, progress)
        key = _private.key_of(self.config.key, options, out, make=True)
        inputs = self._inputs(reading)
        if (made := catalog.unchanged(out, inputs)) is not None:
            return made
        return _indexing.write(
            reading,
            _hashed(_read(reading), key),
            dataset=DATASET,
            family=private_family(key.key_id),
            key=key,
            meta={
                "parts": {name: path.relative_to(root).as_posix() for name, path in reading.parts.items()},
                "missing": self._missing(reading.parts),
                "inputs": inputs if reading.whole else None,
            },
        )

    def _parts(self, root: Path) -> dict[str, Path]:
        folder = root / self.config.tables
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder that holds the tables.")
        files = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.is_file())
        parts = {}
        for name in COLUMNS:
            there = [file for file in files if file.lower() in {f"{name}{suffix}" for suffix in SUFFIXES}]
            if len(there) > 1:
                raise UserError(f"{folder} holds {' and '.join(there)}; keep one of them.")
            if there:
                parts[name] = folder / there[0]
        for file, name in _near(folder).items():
            if name not in parts:
                raise UserError(
                    f"{folder}: {file} is not read. Did you mean {name}.csv (.tsv, .parquet)? Save it so, or take it away."
                )
        if not {"clips", "ecgs"} & set(parts):
            near = nearest("clips.csv", files) if files else " There is no table in it."
            raise UserError(f"{folder} holds no clips.csv and no ecgs.csv (.tsv, .parquet).{near}")
        return parts

    def _inputs(self, reading: Reading) -> Json:
        found = Indexed._inputs(self, reading)
        found["settings"] = {name: value for name, value in dataclasses.asdict(self.config).items() if name != "key"}
        if _private.key_file(self.config.key, reading.options, reading.out).is_file():  # its id stands for its file
            found["key_id"] = _private.key_of(self.config.key, reading.options, reading.out, make=False).key_id
        return found


def _read(reading: Reading) -> Tables:
    """The tables with raw ids, every promise kept."""
    found = _one_writing(reading, {name: _table(reading, name) for name in reading.parts})
    if not any(found[name].num_rows for name in ("clips", "ecgs") if name in found):
        named = " and ".join(str(reading.parts[name]) for name in ("clips", "ecgs") if name in found)
        raise UserError(f"{named}: a header and no rows, so there is nothing to index. Write the rows, and index again.")
    for name, table in found.items():
        reading.defect(name, "no_rows", f"a header and no rows: {_SPEC.meaning[name]}", int(not table.num_rows))
    for name in _near(next(iter(reading.parts.values())).parent).values():
        reading.defect(name, "not_read", "a file beside it has nearly its name", 1)
    subjects, clips, ecgs, texts = (found.get(name) for name in ("subjects", "clips", "ecgs", "texts"))
    if clips is not None:
        clips = _clips(reading, clips, found.get("views"))
        found["clips"] = clips
    if ecgs is not None:
        ecgs = _ecgs(reading, ecgs)
        found["ecgs"] = ecgs
    if texts is not None:
        numbers = pa.array([f"text {row}" for row in range(texts.num_rows)], pa.string())
        texts = _set(texts, "text_id", pc.coalesce(texts["text_id"], numbers))
        texts = _set(texts, "source", pc.coalesce(texts["source"], pa.scalar("text")))
        found["texts"] = texts = _set(texts, "time", reading.times("texts", "time", texts["time"]))
    for name, column in (("clips", "clip_id"), ("ecgs", "ecg_id"), ("texts", "text_id")):
        if name in found:
            _unique(reading, name, found[name], column)
    for name, table in found.items():
        for column, owner in (("subject_id", subjects), ("study_id", clips), ("ecg_id", ecgs)):
            if column in table.column_names and table is not owner:
                _known(reading, name, table, column, owner)
    official = [_splits(reading, name, found[name]) for name in ("subjects", "splits") if name in found]
    official.append(_nobody(reading, found, official))
    _private.note_crowds(reading, clips, ecgs)
    return Tables(
        clips=clips,
        ecgs=ecgs,
        texts=texts,
        labels=[_labels(reading, found["labels"], clips)] if "labels" in found else [],
        people=None if subjects is None else _people(reading, subjects),
        official=_agreed(reading, pa.concat_tables(official)),
    )


def _table(reading: Reading, name: str) -> pa.Table:
    """A table as trimmed strings, whatever its file is; a column that is needed has no empty row."""
    path = reading.parts[name]
    required, optional = COLUMNS[name]
    if path.name.lower().endswith(".parquet"):
        table = _parquet(reading, path, required, optional)
    else:
        delimiter = "\t" if ".tsv" in path.name.lower() else ","
        table = _tables.read_table(path, required, optional, delimiter=delimiter, quoted_lines=name == "texts", own=True)
    needed = tuple(column for column in required if column != "value")
    return _tables.require(table, needed, path).combine_chunks()


def _one_writing(reading: Reading, found: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables with one writing of each subject's id: one program keeps the zeros before a number, another does not."""
    given: dict[str, set[str]] = {}
    made = {}
    for name, table in found.items():
        made[name] = table
        if "subject_id" in table.column_names:
            encoded = table["subject_id"].combine_chunks().dictionary_encode()
            words = encoded.dictionary.to_pylist()
            for word in words:
                given.setdefault(_private.written(word), set()).add(word)
            plain = pa.array([_private.written(word) for word in words], pa.string())
            made[name] = _set(table, "subject_id", plain.take(encoded.indices))
    reading.defect("subjects", "leading_zeros", _private.LEADING_ZEROS, sum(len(words) > 1 for words in given.values()))
    return made


def _parquet(reading: Reading, path: Path, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    try:
        there = pq.read_schema(path).names
        for column in required:
            if column not in there:
                raise UserError(f"{path} has no column {column!r}.{nearest(column, there)}")
        table = pq.read_table(path, columns=[name for name in (*required, *optional) if name in there])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).partition(chr(10))[0]}. Write it again.") from error
    nothing = pa.chunked_array([pa.nulls(table.num_rows, pa.string())], pa.string())
    columns = {name: _words(reading, path, name, table[name]) if name in there else nothing for name in (*required, *optional)}
    return pa.table(columns)


def _words(reading: Reading, path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is None or pa.types.is_date(kind):
        return pc.strftime(column.cast(pa.timestamp("s"), safe=False), format="%Y-%m-%d %H:%M:%S")
    if pa.types.is_floating(kind) and name in ("birth_year", "num_frames", "row"):  # pandas: integers with gaps
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind)).cast(pa.int64())
    elif pa.types.is_floating(kind) and name not in IDS:
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    elif pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        advice = "ids are strings or integers" if name in IDS else "give strings, numbers, or times without a time zone"
        raise UserError(f"{path}: column {name!r} is {kind}; {advice}.")
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(pc.binary_length(text), 0), pa.scalar(None, pa.string()), text)


def _clips(reading: Reading, rows: pa.Table, views: pa.Table | None) -> pa.Table:
    _check_paths(reading, "clips", rows["path"])
    rows = _set(rows, "clip_id", pc.coalesce(rows["clip_id"], rows["path"]))
    rows = _set(rows, "time", reading.times("clips", "time", rows["time"]))
    rows = _set(rows, "kind", _word(reading, "clips", "kind", rows["kind"]))
    frames = reading.within("clips", "num_frames", reading.numbers("clips", "num_frames", rows["num_frames"]), 0, 1e6)
    rows = _set(rows, "num_frames", pc.round(frames).cast(pa.int32()))
    owners = rows.select(["study_id", "subject_id"]).group_by(["study_id", "subject_id"], use_threads=False).aggregate([])
    shared = _twice(owners["study_id"])
    if len(shared):
        bad = pc.is_in(rows["study_id"], value_set=shared)
        raise _refusal(reading, "clips", "study_id", bad, "belongs to two subjects; a study belongs to one")
    if views is not None:
        views = _private.views(reading, views)
        place = pc.index_in(rows["path"], value_set=views["path"].combine_chunks())
        there = pc.is_in(views["path"], value_set=rows["path"].combine_chunks())
        reading.defect("views", "not_there", "a path that no clip has", int(pc.sum(pc.invert(there)).as_py() or 0))
        rows = _set(rows, "view", pc.coalesce(views["view"].combine_chunks().take(place.combine_chunks()), rows["view"]))
    _sample(reading, "clips", rows["path"].to_pylist())
    if reading.config.scan_headers:
        rows = _echonet.with_headers(reading, rows.drop_columns(["kind"]), scan=True)
    return rows


def _ecgs(reading: Reading, rows: pa.Table) -> pa.Table:
    _check_paths(reading, "ecgs", rows["path"])
    numbered = pc.binary_join_element_wise(rows["path"], rows["row"], "#")
    rows = _set(rows, "ecg_id", pc.coalesce(rows["ecg_id"], numbered, rows["path"]))
    rows = _set(rows, "time", reading.times("ecgs", "time", rows["time"]))
    rows = _set(rows, "unit", _word(reading, "ecgs", "unit", rows["unit"]))
    for name, low, high in (("row", 0, 1e12), ("start_s", 0, 1e7), ("duration_s", 0, 1e7), ("fs_hz", 1, 1e5)):
        values = _tables.numbers(rows[name])
        bad = pc.and_(
            pc.is_valid(rows[name]),
            pc.fill_null(pc.invert(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))), True),
        )
        if pc.any(bad).as_py():
            raise _refusal(reading, "ecgs", name, bad, f"is no number from {low:g} to {high:g}")
        rows = _set(rows, name, pc.round(values).cast(pa.int64()) if name == "row" else values)
    rows = _set(rows, "path", pc.replace_substring_regex(rows["path"], r"\.hea$", ""))
    _sample(reading, "ecgs", rows["path"].to_pylist())
    return rows


def _labels(reading: Reading, rows: pa.Table, clips: pa.Table | None) -> pa.Table:
    """One row for each value; that of a study without a time of its own has the time of the study's first clip."""
    empty = rows["value"].null_count
    _check_names(reading, rows["name"])
    values = reading.numbers("labels", "value", rows["value"])
    for name, (unit, low, high) in KNOWN.items():
        here = pc.equal(rows["name"], name)
        other = pc.and_(here, pc.fill_null(pc.not_equal(pc.utf8_lower(rows["unit"]), unit), False))
        if pc.any(other).as_py():
            raise _refusal(reading, "labels", "unit", other, f"is not {unit!r}, the unit of {name!r}; bring the values to it")
        mine = values.filter(pc.and_(here, pc.is_valid(values)))
        middle = float(np.median(mine.to_numpy())) if len(mine) else None  # in another unit it is so for nearly all rows
        if name == "lvef" and middle is not None and middle <= 1.0:
            raise _refusal(reading, "labels", "value", here, "is a fraction: lvef is in %; multiply by 100")
        if unit == "mm" and middle is not None and middle < low:
            what = f"is in another unit: the median of {name!r} is below {low:g}, lengths are in mm; multiply cm by 10"
            raise _refusal(reading, "labels", "value", here, what)
        wrong = pc.and_(here, pc.invert(pc.fill_null(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)), True)))
        reading.defect("labels", "out_of_range", f"{name}: not from {low:g} to {high:g}; left out", pc.sum(wrong).as_py() or 0)
        values = pc.if_else(wrong, pa.scalar(None, pa.float64()), values)
        rows = _set(rows, "unit", pc.if_else(here, pa.scalar("mL" if unit == "ml" else unit), rows["unit"]))
    rows = _set(_set(rows, "value", values), "time", _label_times(reading, rows, clips))
    kept = _agreeing(reading, rows.filter(pc.is_finite(pc.fill_null(values, float("nan")))), values)
    reading.defect("labels", "no_value", "value is empty; left out", empty)
    lost = pc.and_(pc.is_null(kept["time"]), pc.is_null(kept["ecg_id"]))
    reading.defect(
        "labels", "time_missing", "neither a time, nor a study that has one, nor an ECG: no ECG's", pc.sum(lost).as_py()
    )
    source = pc.coalesce(kept["source"], pa.scalar(reading.parts["labels"].name))
    return _set(kept, "source", source)


def _check_names(reading: Reading, names: pa.ChunkedArray) -> None:
    """Refuse LVEF, lv_ef and the like: no task asks for such a name, and nothing checks its values."""
    known = {_plain(name): name for name in (*KNOWN, *(label for task in TASKS.values() for label in (task.label, *task.also)))}
    for word in pc.unique(names).to_pylist():
        meant = known.get(_plain(word))
        if meant not in (None, word):
            raise _refusal(
                reading, "labels", "name", pc.equal(names, word), f"is no label that is known; did you mean {meant!r}?"
            )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _near(folder: Path) -> dict[str, str]:
    """Files that are no table and look like one, and which: label.csv, ecgs_2019.tsv, clips.xlsx."""
    found = {}
    for path in sorted(folder.iterdir()):
        stem, _, suffix = path.name.lower().partition(".")
        if not path.is_file() or (stem in COLUMNS and f".{suffix}" in SUFFIXES):
            continue
        if path.name.lower().endswith(SUFFIXES):
            word = re.sub(r"[^a-z]", "", re.sub(r"(\.csv|\.tsv|\.parquet)(\.gz)?$", "", path.name.lower()))
            if near := difflib.get_close_matches(word, list(COLUMNS), n=1, cutoff=0.8):
                found[path.name] = near[0]
        elif stem in COLUMNS and suffix in SHEETS:
            found[path.name] = stem
    return found


def _label_times(reading: Reading, rows: pa.Table, clips: pa.Table | None) -> pa.ChunkedArray:
    times = _tables.times(rows["time"])
    reading.defect("labels", "time_unreadable", "time left out", times.null_count - rows["time"].null_count)
    if clips is None:
        return times
    studies = clips.group_by("study_id", use_threads=False).aggregate([("time", "min")])
    place = pc.index_in(rows["study_id"].combine_chunks(), value_set=studies["study_id"].combine_chunks())
    return pc.coalesce(times, studies["time_min"].combine_chunks().take(place))


def _agreeing(reading: Reading, rows: pa.Table, values: pa.ChunkedArray) -> pa.Table:
    """Labels without repeats; two values of one label are refused, for the answer would be that of the first row.

    What belongs to an ECG is that ECG's whatever its time and study (`pairs.labels_of`), so these tell no two such rows apart.
    """
    of_ecg = pc.is_valid(rows["ecg_id"])
    keyed = rows
    for name in ("study_id", "time"):
        keyed = _set(keyed, name, pc.if_else(of_ecg, pa.scalar(None, rows[name].type), rows[name]))
    first, clash = _private.one_each(keyed, ("subject_id", "study_id", "ecg_id", "time", "name"), "value")
    if clash:
        at = np.flatnonzero(np.isfinite(values.to_numpy()))
        a, b = (int(at[row]) + 1 for row in clash)
        raise UserError(
            f"{reading.parts['labels']}: data rows {a} and {b} give one label of one ECG, or of one study or subject at one "
            f"time, two values; keep the right one, or give the other a name of its own."
        )
    reading.defect("labels", "row_twice", "the same value again; kept once", rows.num_rows - len(first))
    return rows.take(first)


def _people(reading: Reading, rows: pa.Table) -> pa.Table:
    word = pc.utf8_lower(rows["sex"])
    place = pc.index_in(word.combine_chunks(), value_set=pa.array(list(SEX)))
    unknown = pc.and_(pc.is_valid(word), pc.is_null(pc.index_in(word, value_set=pa.array(list(SEX)))))
    reading.defect("subjects", "unknown_word", f"sex is none of {', '.join(SEX)}; left out", pc.sum(unknown).as_py() or 0)
    years = reading.within("subjects", "birth_year", reading.numbers("subjects", "birth_year", rows["birth_year"]), *BIRTH_YEARS)
    people = pa.table(
        {
            "subject_id": rows["subject_id"],
            "sex": pa.array(list(SEX.values())).take(place),
            "birth_year": pc.round(years).cast(pa.int32()),
        }
    )
    whole = people.num_rows
    people = people.group_by(people.column_names, use_threads=False).aggregate([])
    reading.defect("subjects", "row_twice", "the same subject; kept once", whole - people.num_rows)
    twice = _twice(people["subject_id"])
    if len(twice):
        bad = pc.is_in(rows["subject_id"], value_set=twice)
        raise _refusal(reading, "subjects", "subject_id", bad, "has two different rows; keep one a subject")
    return people


def _splits(reading: Reading, name: str, rows: pa.Table) -> pa.Table:
    """subject_id, split, and where that stands, of the rows that say it."""
    split = pc.replace_substring_regex(pc.utf8_lower(rows["split"]), r"^valid(ation)?$", "val")
    bad = pc.and_(pc.is_valid(split), pc.invert(pc.is_in(split, value_set=pa.array(SPLITS))))
    if pc.any(bad).as_py():
        raise _refusal(reading, name, "split", bad, f"is none of {', '.join(SPLITS)}")
    where = pa.array([f"{reading.parts[name].name} data row {row + 1}" for row in range(len(split))], pa.string())
    found = pa.table({"subject_id": rows["subject_id"], "split": split, "where": where})
    return found.filter(pc.is_valid(found["split"]))


def _nobody(reading: Reading, found: dict[str, pa.Table], official: Sequence[pa.Table]) -> pa.Table:
    """The split none for ids that stand for everyone (UNKNOWN, 0000) and whom no table puts into a split."""
    tables = [table for table in found.values() if "subject_id" in table.column_names]
    named, placed = (
        {word for table in group for word in pc.unique(table["subject_id"]).to_pylist()} for group in (tables, official)
    )
    words = sorted(word for word in named - placed if _private.is_nobody(word))
    reading.defect("subjects", "placeholder_id", "a word for everyone; in no split; train refuses it", len(words))
    columns = {"subject_id": words, "split": ["none"] * len(words), "where": [""] * len(words)}
    return pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})


def _agreed(reading: Reading, rows: pa.Table) -> pa.Table:
    """The splits, none of which contradicts another."""
    first: dict[str, tuple[str, str]] = {}
    for subject, split, where in zip(*(rows[name].to_pylist() for name in ("subject_id", "split", "where")), strict=True):
        known = first.setdefault(subject, (split, where))
        if known[0] != split:
            raise UserError(
                f"{reading.root}: {known[1]} and {where} put subject {subject_tag(_tag_word(reading, subject))} "
                f"into {known[0]!r} and into {split!r}; that leaks. Keep one of them."
            )
    return rows.select(["subject_id", "split"])


def _tag_word(reading: Reading, subject: str) -> str:
    """What names a subject in messages: made with the key, so that a short patient number cannot be guessed from it."""
    return _private.key_of(reading.config.key, reading.options, reading.out, make=False).of("subject", subject)


def _hashed(tables: Tables, key: Key) -> Tables:
    """The same with keyed hashes in the place of ids."""

    def private(table: pa.Table | None) -> pa.Table | None:
        if table is None:
            return None
        for name in IDS:
            if name in table.column_names:
                table = _set(table, name, _private.hashed(key, name.removesuffix("_id"), _chunked(table[name])))
        return table

    assert tables.texts is None or isinstance(tables.texts, pa.Table)
    return Tables(
        clips=private(tables.clips),
        ecgs=private(tables.ecgs),
        texts=private(tables.texts),
        labels=[table for table in map(private, tables.labels) if table is not None],
        people=private(tables.people),
        official=private(tables.official),
    )


def _word(reading: Reading, name: str, column: str, words: pa.ChunkedArray) -> pa.ChunkedArray:
    """One of the words that a column may hold, in any case."""
    lower = pc.utf8_lower(words)
    bad = pc.and_(pc.is_valid(lower), pc.invert(pc.is_in(lower, value_set=pa.array(WORDS[column]))))
    if pc.any(bad).as_py():
        raise _refusal(reading, name, column, bad, f"is none of {', '.join(WORDS[column])}")
    return lower


def _check_paths(reading: Reading, name: str, paths: pa.ChunkedArray) -> None:
    bad = pc.match_substring_regex(paths, r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")
    if pc.any(bad).as_py():
        raise _refusal(reading, name, "path", bad, "leaves ROOT; paths are relative to it")
    _private.check_slashes(reading.parts[name], paths)


def _sample(reading: Reading, name: str, paths: list[str]) -> None:
    """Look for a few of the files; a WFDB record goes by its header's name without the ending."""
    if not paths:
        return
    rows = np.unique(np.linspace(0, len(paths) - 1, min(_indexing.SAMPLED_FILES, len(paths))).astype(np.int64))
    chosen = [paths[row] for row in rows]
    missing = sum(not (reading.root / path).is_file() and not (reading.root / f"{path}.hea").is_file() for path in chosen)
    reading.defect(name, "missing_file", f"of {len(chosen)} looked for", missing)
    if missing == len(chosen):
        raise reading.refuse(f"{reading.parts[name].name}: not one of the files looked for is there; paths are relative to ROOT.")


def _unique(reading: Reading, name: str, rows: pa.Table, column: str) -> None:
    ids = rows[column].combine_chunks()
    codes = np.asarray(ids.dictionary_encode().indices, np.int64)
    later = np.ones(len(codes), bool)
    later[np.unique(codes, return_index=True)[1]] = False
    if later.any():
        raise _refusal(reading, name, column, pa.array(later), "stands in two rows; it must be unique")


def _twice(column: pa.ChunkedArray) -> pa.Array:
    """The values that occur more than once."""
    counts = pc.value_counts(column)
    return pc.struct_field(counts.filter(pc.greater(pc.struct_field(counts, 1), 1)), 0)


def _known(reading: Reading, name: str, rows: pa.Table, column: str, owner: pa.Table | None) -> None:
    """Refuse a row whose subject, study or ECG is in no row of the table that lists them."""
    table = {"subject_id": "subjects", "study_id": "clips", "ecg_id": "ecgs"}[column]
    if owner is None and column == "subject_id":
        return  # no table of subjects: whoever is named is one
    known = pa.array([], pa.string()) if owner is None else owner[column].combine_chunks()
    bad = pc.and_(pc.is_valid(rows[column]), pc.invert(pc.is_in(rows[column], value_set=known)))
    if pc.any(bad).as_py():
        raise _refusal(reading, name, column, bad, f"is not in {table}; add it there, or leave these rows out")


def _refusal(reading: Reading, name: str, column: str, bad: Any, what: str) -> UserError:
    """File, column and first row of what is refused, never the value: it may be a patient's."""
    row, number = int(pc.index(bad, True).as_py()), int(pc.sum(bad).as_py())
    return UserError(f"{reading.parts[name]}: {column} in data row {row + 1} {what} ({number} such row{'s' * (number > 1)}).")


def _set(table: pa.Table, name: str, column: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _chunked(column: Any) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _listed(reading: Reading) -> list[str]:
    """The clips that are opened."""
    if not reading.config.scan_headers or "clips" not in reading.parts:
        return []
    return sorted(set(_table(reading, "clips")["path"].to_pylist()))


def _never(reading: Reading) -> Tables:
    raise AssertionError("these tables are read by PrivateTables")


_SPEC = Spec(
    name=DATASET,
    version=3,
    listed=_listed,
    parts={name: (f"{name}.csv",) for name in COLUMNS},
    needs=(),
    read=_never,
    meaning={
        "subjects": "everyone named in the other tables is a subject; sex and year of birth unknown",
        "clips": "no echo",
        "ecgs": "no ECGs",
        "texts": "no texts",
        "labels": "no labels",
        "views": "views as in clips",
        "splits": "splits as in subjects, else by the hash of the subject",
    },
)
