"""The catalog: Parquet tables in a folder that list what there is and how it belongs together.

`catalog.json` says which dataset, which overlap family, where the root of the files lies (relative to the folder) and how
many rows there are; each table of `SCHEMAS` is `<name>.parquet`. A hospital may write the same tables with pandas: only
`subjects.parquet` and `catalog.json` (`{"version": 1, "dataset": ..., "family": ..., "root": ".."}`) must be there, a table
that is missing is empty, further columns are ignored. What breaks a promise below is refused when the catalog is read:

- ids are unique strings of at most 64 bytes; a study belongs to one subject; a subject stands in one split
- every subject, ECG, study and text that a table names is in the table that lists it
- paths are relative to the root and stay inside it

A catalog is written into a folder beside its place and renamed, so it is there as a whole or not at all.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgecho.types import EcgSource, Json, UserError

VERSION = 1
SPLITS = ("train", "val", "test", "none")
"""`none` is a subject who is unknown, or whom the dataset keeps out of every split; `train` refuses it."""
WAVEFORMS = "waveforms.jsonl"
"""What looks at the signals remember of them, kept when the catalog is written anew."""
MAX_ID_BYTES = 64  # embed_cache keeps ids in fixed columns of at most this width

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); total is 0 where it is not known."""

_TEXT, _TIME = pa.string(), pa.timestamp("us")
_WORD = pa.dictionary(pa.int32(), pa.string())  # few distinct values in millions of rows; compares like a string


def _schema(**types: pa.DataType) -> pa.Schema:
    """Fields in order; a name that ends in `_or_null` is nullable and loses that ending."""
    return pa.schema([pa.field(n.removesuffix("_or_null"), t, nullable=n.endswith("_or_null")) for n, t in types.items()])


SCHEMAS: dict[str, pa.Schema] = {
    # sex is female, male or null
    "subjects": _schema(subject_id=_TEXT, split=_TEXT, sex_or_null=_TEXT, birth_year_or_null=pa.int32()),
    # kind and num_frames are null until a header was read, num_frames is 0 where the header cannot be; kind is a
    # `types.ClipKind`; view is null unless a table gives it
    "clips": _schema(
        clip_id=_TEXT,
        study_id=_TEXT,
        subject_id=_TEXT,
        path=_TEXT,
        time_or_null=_TIME,
        kind_or_null=_TEXT,
        num_frames_or_null=pa.int32(),
        view_or_null=_TEXT,
        admission_id_or_null=_TEXT,
    ),
    # path is that of the WFDB header without `.hea`, or of any other file that `io.read_ecg` takes; row is that of an array
    # which holds many recordings; start_s and duration_s name an excerpt; leads ("I,II,..."), fs_hz and unit (mv, uv, zscore)
    # are given where the file does not say them
    "ecgs": _schema(
        ecg_id=_TEXT,
        subject_id=_TEXT,
        path=_TEXT,
        time_or_null=_TIME,
        row_or_null=pa.int64(),
        start_s_or_null=pa.float64(),
        duration_s_or_null=pa.float64(),
        leads_or_null=_WORD,
        fs_hz_or_null=pa.float64(),
        unit_or_null=_WORD,
        admission_id_or_null=_TEXT,
    ),
    # ecg_id where the text is the report of that ECG; source is machine_report, discharge, ...
    "texts": _schema(
        text_id=_TEXT,
        subject_id=_TEXT,
        ecg_id_or_null=_TEXT,
        study_id_or_null=_TEXT,
        time_or_null=_TIME,
        source=_TEXT,
        text=_TEXT,
        admission_id_or_null=_TEXT,
    ),
    # a long table: `lvef` (%), `wall_mm` (mm), and measurements under their own names; definition says how the value came about
    "labels": _schema(
        subject_id=_TEXT,
        study_id_or_null=_TEXT,
        ecg_id_or_null=_TEXT,
        time_or_null=_TIME,
        name=_WORD,
        value=pa.float64(),
        unit_or_null=_WORD,
        source_or_null=_WORD,
        definition_or_null=_WORD,
    ),
    # a row per ECG, or per ECG and study: each study of an ECG once, with the same text; an ECG without a study has one row;
    # gap_days = time of the study minus time of the ECG, in days; weight is one over the number of rows of the ECG
    "pairs": _schema(
        ecg_id=_TEXT,
        subject_id=_TEXT,
        study_id_or_null=_TEXT,
        text_id_or_null=_TEXT,
        gap_days_or_null=pa.float64(),
        split=_TEXT,
        weight=pa.float64(),
    ),
    # what was found and what became of it: part or file group, code, words, number of rows
    "defects": _schema(item=_TEXT, code=_TEXT, detail_or_null=_TEXT, count=pa.int64()),
}
_IDS = {"subjects": "subject_id", "clips": "clip_id", "ecgs": "ecg_id", "texts": "text_id"}
_OWNERS = {"subject_id": "subjects", "study_id": "clips", "ecg_id": "ecgs", "text_id": "texts"}
_OWN_JSON = ("version", "dataset", "family", "root", "key_id", "contains_text", "counts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """A catalog that was read and found in order. Tables are loaded when first asked for."""

    path: Path
    """The folder of the tables."""
    root: Path
    """The folder that the paths in `clips` and `ecgs` are relative to."""
    dataset: str
    family: str
    """The overlap family: the same subject id in the same family is the same person."""
    key_id: str | None
    """Which key made the ids; None where they are the dataset's own."""
    meta: Json
    """All of catalog.json."""
    unchanged: bool = False
    """True when `index` found this catalog already made from the same inputs."""

    @property
    def origin(self) -> str:
        """The family of the ids before they became pseudonyms; else the family."""
        return str(self.meta.get("origin") or self.family)

    @cached_property
    def subjects(self) -> pa.Table:
        return self.table("subjects")

    @cached_property
    def clips(self) -> pa.Table:
        return self.table("clips")

    @cached_property
    def ecgs(self) -> pa.Table:
        return self.table("ecgs")

    @cached_property
    def texts(self) -> pa.Table:
        """All texts; with clinical notes this can be gigabytes, `texts_of` reads the needed ones."""
        table = self.table("texts")
        _check_texts(self, table)
        return table

    @cached_property
    def labels(self) -> pa.Table:
        """All labels; `labels_named` reads one name."""
        table = self.table("labels")
        _check_labels(self, table)
        return table

    @cached_property
    def pairs(self) -> pa.Table:
        return self.table("pairs")

    @cached_property
    def defects(self) -> pa.Table:
        return self.table("defects")

    def table(self, name: str, *, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """A table in its schema, or some of its columns, or the rows that an expression keeps."""
        path = self.path / f"{name}.parquet"
        if not path.is_file():
            empty = SCHEMAS[name].empty_table()
            return empty if columns is None else empty.select(list(columns))
        try:
            head = pq.read_schema(path)
            wanted = [f.name for f in SCHEMAS[name] if columns is None or f.name in columns]
            found = pq.read_table(path, columns=[c for c in wanted if c in head.names], filters=where)
            found.validate(full=True)  # words that are no UTF-8
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{path} cannot be read as Parquet: {_first_line(error)}. Index again, or write the table again."
            ) from error
        table = conform(name, found, str(path), columns=wanted, known=head.names)
        return table if columns is None else table.select(list(columns))

    def texts_of(self, text_ids: Sequence[str] | pa.Array) -> pa.Table:
        """text_id and text of the texts named, in no promised order."""
        wanted = pa.array(text_ids, pa.string()) if not isinstance(text_ids, (pa.Array, pa.ChunkedArray)) else text_ids
        wanted = wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted
        return self.table("texts", columns=("text_id", "text"), where=pc.field("text_id").isin(wanted.drop_null()))

    def labels_named(self, name: str) -> pa.Table:
        """The labels of one name."""
        table = self.table("labels", where=pc.field("name") == name)
        _check_labels(self, table)
        return table

    def ecg_sources(self, ecgs: pa.Table) -> dict[str, EcgSource]:
        """For each of these rows of `ecgs` that is not simply all of its file: by id, what to read of it."""
        names = ("row", "start_s", "duration_s", "leads", "fs_hz", "unit")
        given = [ecgs[name] for name in names]
        if all(column.null_count == len(column) for column in given):
            return {}
        found = {}
        for ecg_id, row, start_s, duration_s, leads, fs_hz, unit in zip(
            ecgs["ecg_id"].to_pylist(), *(column.to_pylist() for column in given), strict=True
        ):
            try:
                found[ecg_id] = EcgSource(
                    row=row,
                    start_s=start_s or 0.0,
                    duration_s=duration_s,
                    leads=tuple(lead.strip() for lead in leads.split(",")) if leads else (),
                    fs_hz=fs_hz,
                    unit=unit,
                )
            except ValueError as error:
                raise UserError(f"{self.path / 'ecgs.parquet'}: ECG {ecg_id}: {error}.") from error
        return found

    def file(self, path: str) -> Path:
        """Where a path of `clips` or `ecgs` lies on this machine."""
        return self.root / path


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What `ecgecho index` takes for every dataset."""

    window_days: tuple[float, float] = (-30.0, 30.0)
    """A study belongs to an ECG when its time minus that of the ECG lies between these, ends included."""
    match: Literal["nearest", "all"] = "nearest"
    """One study an ECG, or one row of `pairs` for every study in the window."""
    same_admission: bool = False
    """Only studies of the admission that the ECG belongs to."""
    pseudonymise: str = ""
    """File with a key: ids become keyed hashes, dates are shifted by subject. Empty leaves a dataset's public ids."""
    workers: int = 2
    """Processes that read headers and waveforms; 0 reads in this one."""


class Dataset(Protocol):
    """What `build(config)` of a dataset module returns."""

    def index(self, root: Path, out: Path, progress: Progress | None = None, options: IndexOptions = IndexOptions()) -> Catalog:
        """Write the catalog of the files under `root` into the folder `out`, or find it made already."""

    def inspect(self, root: Path, out: Path, options: IndexOptions = IndexOptions()) -> Json:
        """What `index` would find; writes nothing."""


def read(path: Path | str) -> Catalog:
    """The catalog in a folder; one that breaks a promise of this module is a UserError."""
    path = Path(path)
    about = path / "catalog.json"
    if not about.is_file():
        old = _old(path)
        if not path.exists() and old.exists():
            raise UserError(f"{path} was being replaced when its index was stopped; run the same `ecgecho index` again.")
        what = "is not there" if not path.exists() else "is no catalog (it has no catalog.json)"
        raise UserError(f"{path} {what}. Make one with `ecgecho index DATASET ROOT --out {path}`.")
    try:
        meta = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{about} cannot be read as JSON: {_first_line(error)}. Index again.") from error
    if not isinstance(meta, dict):
        raise UserError(f"{about} holds no JSON object; it needs version, dataset, family and root.")
    for key in ("version", "dataset", "family", "root"):
        if key not in meta:
            raise UserError(f"{about} has no {key!r}.{nearest(key, list(meta))}")
        if key != "version" and (not isinstance(meta[key], str) or not meta[key]):
            raise UserError(f"{about} has {key} = {meta[key]!r}; it must be a word.")
    if meta["version"] != VERSION:
        raise UserError(f"{about} has version {meta['version']!r}; this ecgecho reads version {VERSION}. Index again.")
    if not (path / "subjects.parquet").is_file():
        raise UserError(f"{path} has no subjects.parquet; every catalog lists its subjects with their splits.")
    key_id = meta.get("key_id")
    catalog = Catalog(
        path=path,
        root=(path.resolve() / meta["root"]).resolve(),
        dataset=meta["dataset"],
        family=meta["family"],
        key_id=None if key_id is None else str(key_id),
        meta=meta,
    )
    _check(catalog)
    return catalog


def write(
    path: Path | str,
    *,
    root: Path | str,
    dataset: str,
    family: str,
    tables: Mapping[str, pa.Table | Iterable[pa.Table]],
    key_id: str | None = None,
    meta: Mapping[str, object] | None = None,
    keep: Mapping[str, bytes] | None = None,
) -> Catalog:
    """Write a catalog as a whole and return it as read; an older catalog in that folder is replaced.

    A table may be an iterable of tables, written one after the other, so that it never stands in memory. `meta` joins
    catalog.json; `keep` are further small files of the dataset module by name.
    """
    path = Path(path)
    check_place(path)
    for name in tables:
        if name not in SCHEMAS:
            raise UserError(f"a catalog has no table {name!r}.{nearest(name, list(SCHEMAS))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-{os.getpid()}-", dir=path.parent))
    try:
        for name in SCHEMAS:
            given = tables.get(name, ())
            _write_table(partial / f"{name}.parquet", name, [given] if isinstance(given, pa.Table) else given)
        about: Json = {
            "version": VERSION,
            "dataset": dataset,
            "family": family,
            "root": relative(Path(root), path),
            "key_id": key_id,
            **{key: value for key, value in (meta or {}).items() if key not in _OWN_JSON},
        }
        for name, content in (keep or {}).items():
            _write_bytes(partial / name, content)
        _write_bytes(partial / "catalog.json", _json_bytes(about))
        fresh = read(partial)
        _check_texts(fresh, fresh.table("texts", columns=("text_id", "subject_id", "ecg_id")))
        _check_labels(fresh, fresh.table("labels", columns=("subject_id", "ecg_id", "study_id")))
        about |= {"contains_text": pq.read_metadata(partial / "texts.parquet").num_rows > 0, "counts": counts(fresh)}
        _write_bytes(partial / "catalog.json", _json_bytes(about))
        if (path / WAVEFORMS).is_file() and _same_ids(path, family, key_id):
            shutil.copyfile(path / WAVEFORMS, partial / WAVEFORMS)
        os.chmod(partial, 0o755 & ~_umask())  # mkdtemp makes it 700
        _swap(partial, path)
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(path))) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(f"{path} cannot be written: {error.strerror}. Free some space, or choose another --out.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dataclasses.replace(fresh, path=path, meta=json.loads(json.dumps(about)))  # it was checked before it was renamed


def unchanged(path: Path | str, inputs: Json) -> Catalog | None:
    """The catalog in `path` when it was made from just these `inputs` and is in order, else None."""
    path = Path(path)
    if path.parent.is_dir():
        _recover(path)
    if not (path / "catalog.json").is_file():
        return None
    try:
        catalog = read(path)
    except UserError:
        return None
    same = catalog.meta.get("inputs") == json.loads(json.dumps(inputs))
    whole = all((path / f"{name}.parquet").is_file() for name in SCHEMAS)
    return dataclasses.replace(catalog, unchanged=True) if same and whole else None


def replace_defects(
    catalog: Catalog, item: str, rows: Sequence[tuple[str, str, int]], facts: Mapping[str, object] | None = None
) -> Catalog:
    """The catalog with other rows (code, detail, count) of one `item` in its table of defects, and `facts` under that name in
    catalog.json; nothing else changes.
    """
    rows = [row for row in rows if row[2]]
    kept = catalog.defects.filter(pc.not_equal(catalog.defects["item"], item))
    new = pa.table(
        {
            "item": pa.array([item] * len(rows), _TEXT),
            "code": pa.array([code for code, _, _ in rows], _TEXT),
            "detail": pa.array([detail for _, detail, _ in rows], _TEXT),
            "count": pa.array([count for _, _, count in rows], pa.int64()),
        },
        schema=SCHEMAS["defects"],
    )
    table = pa.concat_tables([kept, new])
    told = {**catalog.meta, **({} if facts is None else {item: dict(facts)})}
    if table.equals(catalog.defects) and told == catalog.meta:
        return catalog
    if isinstance(told.get("counts"), dict):
        told["counts"] = {**told["counts"], "defects": int(pc.sum(table["count"]).as_py() or 0)}
    for name, content in (("defects.parquet", None), ("catalog.json", _json_bytes(told))):
        partial = catalog.path / f".{name}.{os.getpid()}"
        try:
            if content is None:
                _write_table(partial, "defects", [table])
            else:
                _write_bytes(partial, content)
            os.replace(partial, catalog.path / name)
        finally:
            partial.unlink(missing_ok=True)
    return read(catalog.path)


def check_place(path: Path) -> None:
    """Refuse to write a catalog over something that is none."""
    if path.is_dir():
        if not (path / "catalog.json").is_file() and any(path.iterdir()):
            raise UserError(f"{path} is a folder with other files in it; choose another --out.")
    elif path.exists():
        raise UserError(f"{path} is a file; choose another --out.")
    near = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(near, os.W_OK):
        raise UserError(f"{near} cannot be written to; choose another --out.")


def conform(
    name: str, table: pa.Table, where: str, *, columns: Sequence[str] | None = None, known: Sequence[str] | None = None
) -> pa.Table:
    """`table` in the schema of table `name` (or in some columns of it); what does not fit is a UserError that names it."""
    fields = [field for field in SCHEMAS[name] if columns is None or field.name in columns]
    made = []
    for field in fields:
        if field.name in table.column_names:
            made.append(_cast(table.column(field.name), field, where))
        elif field.nullable:
            made.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)], field.type))
        else:
            raise UserError(f"{where} has no column {field.name!r}.{nearest(field.name, list(known or table.column_names))}")
    return pa.table(made, schema=pa.schema(fields))


def counts(catalog: Catalog) -> Json:
    """How many rows there are, per split where that has a meaning."""
    split = _split_lookup(catalog)
    clips, pairs = catalog.clips, catalog.pairs
    has_echo, has_text = pc.is_valid(pairs["study_id"]), pc.is_valid(pairs["text_id"])
    first = pc.invert(_repeated(pairs["ecg_id"]))  # a row for each study repeats its ECG
    cines = clips.filter(cine_rows(clips)).group_by("study_id").aggregate([("subject_id", "min")])
    named = catalog.table("labels", columns=("name",))["name"].value_counts()
    labels = {str(entry["values"]): int(entry["counts"]) for entry in named.to_pylist()}
    return {
        "subjects": split(catalog.subjects["subject_id"]),
        "ecgs": split(catalog.ecgs["subject_id"]),
        "texts": split(catalog.table("texts", columns=("subject_id",))["subject_id"]),
        "studies": split(clips.group_by("study_id").aggregate([("subject_id", "min")])["subject_id_min"]),
        "studies_with_cines": split(cines["subject_id_min"]),
        "clips": split(clips["subject_id"]),
        "labels": split(catalog.table("labels", columns=("subject_id",))["subject_id"]),
        "ecgs_with_text": split(pairs.filter(pc.and_(has_text, first))["subject_id"]),
        "ecgs_with_echo": split(pairs.filter(pc.and_(has_echo, first))["subject_id"]),
        "pairs_with_echo": split(pairs.filter(has_echo)["subject_id"]),
        "label_names": dict(sorted(labels.items())),
        "defects": int(pc.sum(catalog.defects["count"]).as_py() or 0),
    }


def describe(catalog: Catalog) -> Json:
    """All that `index` prints: dataset, parts found and missing, counts and defects, as plain values."""
    return {
        "dataset": catalog.dataset,
        "family": catalog.family,
        "catalog": str(catalog.path),
        "root": str(catalog.root),
        "unchanged": catalog.unchanged,
        "parts": catalog.meta.get("parts", {}),
        "missing": catalog.meta.get("missing", []),
        "headers": catalog.meta.get("headers", {}),
        "waveforms": catalog.meta.get("waveforms", {}),
        "unread": catalog.meta.get("unread", {}),
        "counts": catalog.meta.get("counts") or counts(catalog),
        "defects": catalog.defects.to_pylist(),
    }


def render(description: Json, max_defects: int = 20) -> str:
    """A description as text for a terminal."""
    total = description["counts"]
    lines = [
        f"{description['dataset']} (family {description['family']})",
        f"{'':<20}" + "".join(f"{s:>10}" for s in ("all", *SPLITS)),
    ]
    for key, row in total.items():
        if isinstance(row, dict) and key != "label_names":
            lines.append(f"{key.replace('_', ' '):<20}" + "".join(f"{row[s]:>10,}" for s in ("all", *SPLITS)))
    if total["label_names"]:
        lines.append("labels: " + ", ".join(f"{name} {n:,}" for name, n in _label_sets(total["label_names"]).items()))
    lines += [f"found {part}: {path}" for part, path in description["parts"].items()]
    lines += [f"missing: {what}" for what in description["missing"]]
    for fact, values in description.get("headers", {}).items():
        lines.append(f"headers, {fact.replace('_', ' ')}: " + ", ".join(f"{value} {n:,}" for value, n in values.items()))
    if read := description.get("waveforms"):
        lines.append("signals read: " + ", ".join(f"{what.replace('_', ' ')} {n:,}" for what, n in read.items()))
    defects = sorted(description["defects"], key=lambda row: -row["count"])
    if defects:
        shown = defects[:max_defects]
        code, item = (max(len(row[name]) for row in shown) for name in ("code", "item"))
        lines.append("defects:")
        lines += [
            f"{row['count']:>10,}  {row['code']:<{code}}  {row['item']:<{item}}  {row['detail'] or ''}".rstrip() for row in shown
        ]
        for reason, paths in sorted(description.get("unread", {}).items()):
            lines.append(f"            {reason}, for example: {', '.join(paths)}")
        if len(defects) > max_defects:
            lines.append(f"            and {len(defects) - max_defects} more in defects.parquet")
    return "\n".join(lines)


def _label_sets(names: Mapping[str, int]) -> dict[str, int]:
    """Labels by name; those of a set with dots in their names (`ptbxl.form.ABQRS`) together."""
    sets: dict[str, list[int]] = {}
    for name, number in names.items():
        sets.setdefault(name.rpartition(".")[0] or name, []).append(number)
    return {name if name in names else f"{name}.* ({len(numbers)} names)": sum(numbers) for name, numbers in sets.items()}


def cine_rows(clips: pa.Table) -> pa.Array:
    """True for clips that are, or by all that is known may be, B-mode cines: the header was not read, or says so."""
    kind = pc.fill_null(pc.equal(clips["kind"], "b_mode"), True)
    moving = pc.fill_null(pc.greater(clips["num_frames"], 1), True)
    return pc.and_(kind, moving)


def relative(root: Path, path: Path) -> str:
    """The way from the catalog folder `path` to `root`; no absolute path is ever written into a catalog."""
    return Path(os.path.relpath(root.resolve(), path.parent.resolve() / path.name)).as_posix()


def nearest(word: str, known: Sequence[str]) -> str:
    """' Did you mean X?' and at most 10 of what there is."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.5)
    hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
    return f"{hint} There is: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}."


def subject_tag(subject_id: str) -> str:
    """A short hash that names a subject in messages without the id."""
    return "#" + hashlib.sha256(subject_id.encode()).hexdigest()[:8]


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    have, want = column.type, field.type
    words = pa.types.is_dictionary(have) and _is_text(have.value_type)
    advice = ""
    if have == want:
        cast = column
    elif pa.types.is_null(have):
        cast = pa.chunked_array([pa.nulls(len(column), want)], want)
    elif want == _TEXT:
        cast = column.cast(_TEXT) if _is_text(have) or words else None
        advice = "; ids and words are strings (pandas: .astype('string'))"
    elif want == _WORD:
        cast = column.cast(_TEXT).dictionary_encode().cast(_WORD) if _is_text(have) or words else None
    elif want == _TIME:
        plain = pa.types.is_date(have) or (pa.types.is_timestamp(have) and have.tz is None)
        cast = column.cast(_TIME, safe=False) if plain else None
        advice = " without a time zone (pandas: pd.to_datetime)"
    else:
        cast = _number(column, want)
    if cast is None:
        raise UserError(f"{where}: column {field.name!r} is {have}; it must be {want}{advice}.")
    if not field.nullable and cast.null_count:
        row = int(np.flatnonzero(cast.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{where}: column {field.name!r} is empty in row {row}; every row needs one.")
    return cast


def _number(column: pa.ChunkedArray, want: pa.DataType) -> pa.ChunkedArray | None:
    have = column.type
    if not (pa.types.is_integer(have) or pa.types.is_floating(have)):
        return None
    try:
        if pa.types.is_floating(have) and pa.types.is_integer(want):  # pandas makes floats of integers with gaps
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(want)
    except pa.ArrowInvalid:
        return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check(catalog: Catalog) -> None:
    for name, table in (
        ("subjects", catalog.subjects),
        ("clips", catalog.clips),
        ("ecgs", catalog.ecgs),
    ):
        _check_ids(catalog, name, table)
    subjects = catalog.subjects
    bad = pc.invert(pc.is_in(subjects["split"], value_set=pa.array(SPLITS)))
    if row := _first(bad):
        value = subjects["split"][row - 1].as_py()
        raise UserError(
            f"{catalog.path / 'subjects.parquet'}: split is {value!r} in row {row - 1}; it must be {', '.join(SPLITS)}."
        )
    for name in ("clips", "ecgs", "pairs"):
        _check_known(catalog, name, getattr(catalog, name), "subject_id", subjects["subject_id"])
    for name in ("clips", "ecgs"):
        _check_paths(catalog, name)
    owners = catalog.clips.select(["study_id", "subject_id"]).group_by(["study_id", "subject_id"]).aggregate([])
    if row := _first(_repeated(owners["study_id"])):
        study = owners["study_id"][row - 1].as_py()
        raise UserError(f"{catalog.path / 'clips.parquet'}: study {study} has clips of two subjects; a study belongs to one.")
    pairs = catalog.pairs
    _check_known(catalog, "pairs", pairs, "ecg_id", catalog.ecgs["ecg_id"])
    _check_known(catalog, "pairs", pairs, "study_id", catalog.clips["study_id"])
    if pairs.num_rows:
        _check_known(catalog, "pairs", pairs, "text_id", catalog.table("texts", columns=("text_id",))["text_id"])
        _check_repeated_pairs(catalog)
        _check_pairs(catalog, owners)


def _check_repeated_pairs(catalog: Catalog) -> None:
    """An ECG that stands in several rows has another study in each, and one text."""
    pairs, where = catalog.pairs, catalog.path / "pairs.parquet"
    repeated = pairs["ecg_id"].filter(_repeated(pairs["ecg_id"]))
    several = pairs.filter(pc.is_in(pairs["ecg_id"], value_set=repeated.combine_chunks()))
    if not several.num_rows:
        return
    if row := _first(pc.is_null(several["study_id"])):
        raise UserError(f"{where}: ECG {several['ecg_id'][row - 1]} has a row without a study beside others; one row is enough.")
    if row := _first(_repeated(pc.binary_join_element_wise(several["ecg_id"], several["study_id"], "\x1f"))):
        ecg, study = several["ecg_id"][row - 1], several["study_id"][row - 1]
        raise UserError(f"{where}: ECG {ecg} stands with study {study} twice; a pair must be unique.")
    texts = several.select(["ecg_id", "text_id"]).group_by(["ecg_id", "text_id"]).aggregate([])
    if row := _first(_repeated(texts["ecg_id"])):
        raise UserError(f"{where}: ECG {texts['ecg_id'][row - 1]} has two texts; name one in all its rows.")


def _check_pairs(catalog: Catalog, owners: pa.Table) -> None:
    pairs, where = catalog.pairs, catalog.path / "pairs.parquet"
    split = _lookup(pairs["subject_id"], catalog.subjects["subject_id"], catalog.subjects["split"])
    if row := _first(pc.not_equal(pairs["split"], split)):
        have, want = pairs["split"][row - 1].as_py(), split[row - 1].as_py()
        raise UserError(
            f"{where}: row {row - 1} is in split {have!r}, its subject in {want!r}; a pair has the split of its subject."
        )
    for key, table, column in (("ecg_id", catalog.ecgs, "ecg_id"), ("study_id", owners, "study_id")):
        owner = _lookup(pairs[key], table[column], table["subject_id"])
        if row := _first(pc.not_equal(pairs["subject_id"], owner)):
            raise UserError(f"{where}: row {row - 1} names a subject to whom its {key} does not belong.")


def _check_texts(catalog: Catalog, table: pa.Table) -> None:
    _check_ids(catalog, "texts", table)
    _check_known(catalog, "texts", table, "subject_id", catalog.subjects["subject_id"])
    _check_known(catalog, "texts", table, "ecg_id", catalog.ecgs["ecg_id"])


def _check_labels(catalog: Catalog, table: pa.Table) -> None:
    _check_known(catalog, "labels", table, "subject_id", catalog.subjects["subject_id"])
    _check_known(catalog, "labels", table, "ecg_id", catalog.ecgs["ecg_id"])


def _check_ids(catalog: Catalog, name: str, table: pa.Table) -> None:
    column, where = _IDS[name], catalog.path / f"{name}.parquet"
    ids = table[column]
    if row := _first(_repeated(ids)):
        same = np.flatnonzero(pc.equal(ids, ids[row - 1]).to_numpy(zero_copy_only=False))[:2]
        what = f"{where}: rows {same[0]} and {same[1]} have the same {column}"
        if name == "subjects" and len(pc.unique(table["split"].take(pa.array(same)))) > 1:
            raise UserError(f"{what} {subject_tag(ids[row - 1].as_py())} in two splits; that leaks. Keep one row a subject.")
        raise UserError(f"{what}; it must be unique.")
    for key in dict.fromkeys((column, "study_id" if name == "clips" else column)):
        length = pc.binary_length(table[key])
        if row := _first(pc.or_(pc.equal(length, 0), pc.greater(length, MAX_ID_BYTES))):
            raise UserError(f"{where}: {key} in row {row - 1} has {length[row - 1]} bytes; 1 to {MAX_ID_BYTES} are allowed.")


def _check_known(catalog: Catalog, name: str, table: pa.Table, column: str, known: pa.ChunkedArray) -> None:
    """Every value of `column` that is not null is in `known`, the ids of the table that lists them."""
    values = table[column]
    owner = _OWNERS[column]
    unknown = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=known.combine_chunks())))
    if row := _first(unknown):
        tag = subject_tag(values[row - 1].as_py()) if column == "subject_id" else values[row - 1].as_py()
        number = int(pc.sum(unknown).as_py())
        raise UserError(
            f"{catalog.path / (name + '.parquet')}: {column} {tag} in row {row - 1} is not in {owner}.parquet "
            f"({number} such rows). Add it there, or leave these rows out."
        )


def _check_paths(catalog: Catalog, name: str) -> None:
    paths = getattr(catalog, name)["path"]
    bad = pc.match_substring_regex(paths, r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|^$|\x00")
    if row := _first(bad):
        raise UserError(
            f"{catalog.path / (name + '.parquet')}: path {paths[row - 1].as_py()!r} in row {row - 1} leaves the root; "
            f"paths are relative to it."
        )


def _first(mask: pa.ChunkedArray | pa.Array) -> int:
    """Row of the first True, plus one; 0 where there is none."""
    return int(pc.index(pc.fill_null(mask, False), True).as_py()) + 1


def _repeated(ids: pa.ChunkedArray) -> pa.Array:
    """True on every value that was there in an earlier row."""
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return pa.array(~first)


def _lookup(keys: pa.ChunkedArray, known: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Array:
    """values at the place where each key stands in `known`; null for a null key."""
    return values.combine_chunks().take(pc.index_in(keys.combine_chunks(), value_set=known.combine_chunks()))


def _split_lookup(catalog: Catalog) -> Callable[[pa.ChunkedArray], dict[str, int]]:
    subjects = catalog.subjects

    def count(column: pa.ChunkedArray) -> dict[str, int]:
        split = _lookup(column, subjects["subject_id"], subjects["split"])
        by = {entry["values"]: int(entry["counts"]) for entry in pc.value_counts(split).to_pylist()}
        return {"all": len(column), **{name: by.get(name, 0) for name in SPLITS}}

    return count


def _write_table(path: Path, name: str, chunks: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(path, SCHEMAS[name], compression="zstd") as writer:
        for chunk in chunks:
            writer.write_table(_clean_words(conform(name, chunk, f"table {name}")), row_group_size=1 << 17)
    _sync(path)


def _clean_words(table: pa.Table) -> pa.Table:
    """The same words with each once in its dictionary and 0 under every null.

    Of a dictionary that holds a word twice, Arrow (26.0) writes bytes that it never filled: whatever memory held before.
    """
    for place, field in enumerate(table.schema):
        if field.type == _WORD:
            table = table.set_column(place, field, _one_dictionary(table.column(place)))
    return table


def _one_dictionary(words: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = words.unify_dictionaries().combine_chunks()
    if len(pc.unique(whole.dictionary)) < len(whole.dictionary):
        whole = whole.cast(_TEXT).dictionary_encode()
    if not whole.null_count:
        return whole
    missing = whole.is_null().to_numpy(zero_copy_only=False)
    indices = np.where(missing, 0, pc.fill_null(whole.indices, 0).to_numpy(zero_copy_only=False)).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=missing), whole.dictionary)


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _json_bytes(value: Json) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def told(path: Path | str) -> Json:
    """What the catalog.json in a folder says, {} where there is none that can be read; nothing is checked."""
    try:
        found = json.loads((Path(path) / "catalog.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _same_ids(path: Path, family: str, key_id: str | None) -> bool:
    before = told(path)
    return (before.get("family"), before.get("key_id")) == (family, key_id)


def _swap(partial: Path, path: Path) -> None:
    """Put `partial` in the place of `path`. Stopped in between, the old catalog waits under its other name for `_recover`."""
    _sync(partial)
    if path.exists():
        shutil.rmtree(_old(path), ignore_errors=True)
        os.rename(path, _old(path))
    os.rename(partial, path)
    _sync(path.parent)
    shutil.rmtree(_old(path), ignore_errors=True)


def _recover(path: Path) -> None:
    """Mend what a killed writer left: put the old catalog back, drop unfinished ones whose process is gone."""
    if not path.exists() and _old(path).exists():
        os.rename(_old(path), path)
    for left in path.parent.glob(f".{path.name}.partial-*"):
        pid = left.name.removeprefix(f".{path.name}.partial-").partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")
