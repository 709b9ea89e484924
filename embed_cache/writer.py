"""Writing a segment: the plan, then parts in any order, then the seal. A killed writer goes on by the same call.

What exists is judged by commit records and checksums, never by the presence of a file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embed_cache import disk
from embed_cache.errors import DamagedStore, IncompleteStore, StoreError
from embed_cache.layout import (
    ERASURES,
    FORMAT_VERSION,
    HEAD,
    PLAN,
    SEGMENTS,
    STATUS,
    STRINGS_PLANNED,
    STRINGS_SEALED,
    Column,
    SegmentShape,
    root_files,
    zarr_array,
)
from embed_cache.manifest import (
    FileEntry,
    Json,
    Manifest,
    Record,
    Schema,
    check_identity,
    parse_files,
    parse_head,
    parse_int,
    parse_record,
    parse_schema,
    plain_json,
    refuse_stale,
    seal_json,
    sealed_hash,
    unseal_json,
)
from embed_cache.plan import Plan, encode_name, make_plan
from embed_cache.store import EmbeddingStore, is_store, local_path, open_store, read_head

MAX_TEXT_BYTES = 256  # of a reason or a fingerprint
UNKNOWN_COUNT = -1
_OURS = frozenset({"zarr.json", HEAD, SEGMENTS, ERASURES})
_Origin = tuple[SegmentShape, int, int]  # where a copied row lies: segment, row within it, global row


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one item: `ok` with a value for every column, or a reason and no values."""

    status: Literal["ok", "excluded", "failed"]
    reason: str = ""
    permanent: bool = True
    """Of a failure: it follows from the bytes, so that trying again cannot help."""
    fingerprint: str = ""
    """Of the source, e.g. "size:sha256"."""
    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUS[:3]:
            raise StoreError(f"status {self.status!r} is none of {', '.join(STATUS[:3])}.")
        if self.status != "ok" and not self.reason:
            raise StoreError(f"a row is {self.status} without a reason; say why.")
        if self.status != "ok" and self.values:
            raise StoreError(f"a row that is {self.status} ({self.reason}) has values; only rows that are ok may.")
        encode_name(self.reason, "reason", MAX_TEXT_BYTES)
        encode_name(self.fingerprint, "fingerprint", MAX_TEXT_BYTES)


class Writer:
    """One open segment. Made by `create_or_resume`, `extend` or `resume`."""

    def __init__(self, path: Path, schema: Schema, shape: SegmentShape, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.sealed = False
        self._schema = schema
        self._shape = shape
        self._source: npt.NDArray[np.int64] = np.full(plan.num_rows, -1, dtype=np.int64)
        self._plan_hash = ""
        self._store: EmbeddingStore | None = None
        self._checked: set[str] = set()
        self._done: set[int] = set()

    @classmethod
    def create_or_resume(
        cls,
        uri: str | os.PathLike[str],
        *,
        kind: str,
        identity: Json,
        columns: Sequence[Column],
        counts: Sequence[str] = (),
        plan: Plan,
    ) -> Writer:
        """The first segment, new or half done; sealed and nothing pending where a segment with this plan is complete."""
        path = local_path(uri)
        schema = check_identity(kind, identity, columns, counts)
        _begin(path)
        manifest = read_head(path)
        if manifest is None:
            return cls._open_segment(path, schema, 0, plan, np.full(plan.num_rows, -1, dtype=np.int64))
        refuse_stale(manifest.schema, schema, str(path))
        if _plan_file(path, len(manifest.segments)) is not None:
            raise StoreError(
                f"{path} has an unfinished extension (segment {len(manifest.segments)}). "
                "Finish it first: Writer.resume opens it with the plan it has."
            )
        return cls._sealed(path, manifest, plan)

    @classmethod
    def extend(
        cls,
        uri: str | os.PathLike[str],
        *,
        identity: Json,
        ids: Sequence[str],
        groups: Sequence[str],
        recompute: Collection[str],
        part_rows: int | None = None,
        seed: int,
    ) -> Writer:
        """The next segment, with all items of every group in it; items not in `recompute` are copied from their live rows."""
        path = local_path(uri)
        store = open_store(path)
        manifest = store.manifest
        refuse_stale(manifest.schema, check_identity(manifest.kind, identity, manifest.columns, manifest.counts), str(path))
        disk.remove_temporaries(path)
        plan = make_plan(ids, groups, seed=seed, part_rows=part_rows)
        return cls._open_segment(path, manifest.schema, len(manifest.segments), plan, _sources(store, plan, set(recompute)))

    @classmethod
    def resume(cls, uri: str | os.PathLike[str], *, identity: Json) -> Writer | None:
        """The unsealed segment with the plan it has on disk, whatever would be planned today.

        None where there is none, and where its plan cannot be read: planning it again mends that.
        """
        path = local_path(uri)
        if not is_store(path):
            return None
        manifest = read_head(path)
        number = len(manifest.segments) if manifest else 0
        data = _plan_file(path, number)
        where = str(path / SEGMENTS / f"{number:05d}" / PLAN)
        try:
            body = unseal_json(data or b"", where)
            schema = parse_schema(body, where)
            shape = _shape_of(body, schema, number, where)
            ids, groups = (_planned_strings(path, shape, body, name) for name in STRINGS_PLANNED)
            source = np.frombuffer(_planned_bytes(path, shape, body, "source"), dtype="<i8")
        except DamagedStore:
            return None
        refuse_stale(schema, check_identity(schema.kind, identity, schema.columns, schema.counts), str(path))
        disk.remove_temporaries(path)
        plan = Plan(
            ids=tuple(ids), groups=tuple(groups), part_rows=shape.part_rows, seed=parse_int(body, "seed", where, 0, 1 << 63)
        )
        return cls._open_segment(path, schema, number, plan, source)

    def pending(self) -> list[int]:
        """Parts without a valid commit record."""
        return [part for part in range(self.plan.num_parts) if part not in self._done]

    def rows_of(self, part: int) -> list[tuple[str, str, bool]]:
        """(id, group, must be computed) of each row of a part; the others are copied when the part is committed."""
        rows = self.plan.part(part)
        computed = (self._source[rows] < 0).tolist()
        return list(zip(self.plan.ids[rows], self.plan.groups[rows], computed, strict=True))

    def commit(self, part: int, rows: Mapping[str, Row], provenance: Json) -> None:
        """Writes a part whole: its column files, then its record. A part that is committed already is left as it is."""
        span = self.plan.part(part)
        if part in self._done:
            return
        wanted = {name for name, _, computed in self.rows_of(part) if computed}
        if rows.keys() != wanted:
            missing, extra = sorted(wanted - rows.keys())[:3], sorted(rows.keys() - wanted)[:3]
            raise StoreError(
                f"part {part} of {self.path} was given other rows than planned: missing {missing}, not asked for {extra}. "
                "Give exactly the rows of rows_of(part) that must be computed."
            )
        note = plain_json(provenance, "provenance")
        for name, row in rows.items():
            self._check(name, part, row)
        if not (self.path / self._shape.plan).is_file():
            raise StoreError(f"{self.path / self._shape.plan} has vanished. Put the folder back and run the same command again.")
        record = self._write_columns(part, [rows.get(name) for name in self.plan.ids[span]], note)
        _write_all(self.path, {self._shape.record(part): record.encode()})
        self._done.add(part)

    def seal(self, provenance: Json) -> None:
        """Writes the index arrays, then the head; from then on the segment is read. All parts must be committed."""
        if self.sealed:
            return
        note = plain_json(provenance, "provenance")
        if self.pending():
            raise IncompleteStore(f"{self.path} has {len(self.pending())} parts left; commit all of pending() before seal.")
        shape = self._shape
        plan = _read(self.path / shape.plan)
        where = str(self.path / shape.plan)
        files = {path: _entry(path, data) for path, data in root_files().items()}
        files |= {shape.plan: _entry(shape.plan, plan), **parse_files(unseal_json(plan, where), where)}
        records = []
        for part in range(shape.num_parts):
            name = shape.record(part)
            data = _read(self.path / name)
            records.append(parse_record(data, str(self.path / name), shape))
            files |= {name: _entry(name, data), **{entry.path: entry for entry in records[-1].files}}
        index = self._index_files(records)
        _write_all(self.path, index)
        files |= {path: _entry(path, data) for path, data in index.items()}
        disk.remove_unlisted(self.path / shape.folder, {self.path / name for name in files})
        changed = [entry.path for entry in files.values() if disk.regular_size(self.path / entry.path) != entry.size]
        if changed:
            raise DamagedStore(f"{self.path / min(changed)} was changed while the store was written. Run the same command again.")
        old = read_head(self.path)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            kind=self._schema.kind,
            identity=self._schema.identity,
            provenance=[*(old.provenance if old else []), note],
            columns=self._schema.columns,
            counts=self._schema.counts,
            segments=(*(old.segments if old else ()), shape),
            files={**(old.files if old else {}), **files},
            erasures=old.erasures if old else (),
            seeds=(*(old.seeds if old else ()), self.plan.seed),
        )
        head = manifest.encode()
        parse_head(head, str(self.path / HEAD))  # never replace a head by one that will be refused
        _write_all(self.path, {HEAD: head})
        self.sealed = True

    @classmethod
    def _open_segment(cls, path: Path, schema: Schema, number: int, plan: Plan, source: npt.NDArray[np.int64]) -> Writer:
        shape = SegmentShape(number, plan.num_rows, plan.part_rows, schema.columns, schema.counts)
        skeleton = {**shape.skeleton(), **_planned_files(shape, plan, source)}
        body = {
            "format_version": FORMAT_VERSION,
            **schema.to_json(),
            "segment": number,
            "num_rows": plan.num_rows,
            "part_rows": plan.part_rows,
            "seed": plan.seed,
            "files": [list(_entry(name, skeleton[name])) for name in sorted(skeleton)],
        }
        encoded = seal_json(body)
        found = _plan_file(path, number)
        if found != encoded:
            _refuse_other_plan(path, shape, found, encoded, plan)
        _write_all(path, {name: data for name, data in {**root_files(), **skeleton}.items() if not _holds(path / name, data)})
        disk.make_directory(path / shape.folder / "log")
        if found != encoded:
            _write_all(path, {shape.plan: encoded})
        writer = cls(path, schema, shape, plan)
        writer._source = source
        writer._plan_hash = sealed_hash(encoded)
        writer._done = writer._committed_parts()
        if (source >= 0).any():
            writer._store = open_store(path)
        return writer

    @classmethod
    def _sealed(cls, path: Path, manifest: Manifest, plan: Plan) -> Writer:
        store = EmbeddingStore(path, manifest)
        for number, shape in enumerate(manifest.segments):
            ids, groups = ([name.decode() for name in store.segment_index(number)[what].tolist()] for what in STRINGS_PLANNED)
            if (tuple(ids), tuple(groups), shape.part_rows) == (plan.ids, plan.groups, plan.part_rows):
                writer = cls(path, manifest.schema, shape, plan)
                writer._done, writer.sealed = set(range(shape.num_parts)), True
                return writer
        raise StoreError(
            f"{path} is complete and holds other rows than this plan ({manifest.num_rows} there, {plan.num_rows} planned). "
            "Add or heal rows with Writer.extend, or choose another output."
        )

    def _committed_parts(self) -> set[int]:
        """Parts whose record is whole, belongs to this plan, and whose files have the recorded bytes."""
        found: list[tuple[int, FileEntry]] = []
        done = set()
        for part in range(self._shape.num_parts):
            path = self.path / self._shape.record(part)
            try:
                record = parse_record(disk.read_file(path), str(path), self._shape)
            except (OSError, StoreError):
                continue
            if record.plan == self._plan_hash and record.part == part:
                done.add(part)
                found += [(part, entry) for entry in record.files]
        hashes = disk.checksums(self.path / entry.path for _, entry in found)
        for (part, entry), digest in zip(found, hashes, strict=True):
            if digest != entry.sha256:
                done.discard(part)
        return done

    def _check(self, name: str, part: int, row: Row) -> None:
        where = f"row {name!r} (part {part} of {self.path})"
        columns = [column.name for column in self._schema.columns]
        unknown = row.counts.keys() - set(self._schema.counts)
        if unknown:
            raise StoreError(f"{where} has a count {min(unknown)!r}; this store has {list(self._schema.counts)}.")
        for count, value in row.counts.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -(1 << 63) <= value < 1 << 63:
                raise StoreError(f"{where} has {count} = {value!r}; counts are 64-bit integers.")
        if row.status != "ok":
            return
        if row.values.keys() != set(columns) or row.counts.keys() != set(self._schema.counts):
            raise StoreError(
                f"{where} is ok with columns {sorted(row.values)} and counts {sorted(row.counts)}; "
                f"a row that is ok has all of {columns} and {list(self._schema.counts)}."
            )
        for column in self._schema.columns:
            _check_value(column, np.asarray(row.values[column.name]), where)

    def _write_columns(self, part: int, rows: Sequence[Row | None], provenance: Json) -> Record:
        """Writes the column files of a part; `None` rows are copied. Returns the record that will make them count."""
        shape = self._shape
        sources = self._source[self.plan.part(part)].tolist()
        outcomes = [(row, self._origin(source) if source >= 0 else None) for row, source in zip(rows, sources, strict=True)]
        written: list[FileEntry] = []
        starts: dict[str, list[int]] = {}
        lengths: dict[str, list[int]] = {}
        for column in shape.columns:
            if column.ragged:
                pieces = [self._ragged_value(column, row, origin) for row, origin in outcomes]
                lengths[column.name] = [len(piece) for piece in pieces]
                starts[column.name] = np.cumsum([0, *lengths[column.name][:-1]]).tolist()
                values = np.concatenate(pieces)
                meta = zarr_array(values.shape, max(len(values), 1), column.dtype, column.fill)
                files = {f"{shape.ragged_folder(column, part)}/zarr.json": meta}
                if len(values):
                    files[shape.chunk(column, part)] = values.tobytes()
                else:
                    disk.remove_file(self.path / shape.chunk(column, part))
            else:
                values = column.empty(shape.part_rows)
                for place, (row, origin) in enumerate(outcomes):
                    if origin is not None:
                        values[place] = self._trusted(column, origin).array(column.name)[origin[2]]
                    elif row is not None and row.status == "ok":
                        values[place] = row.values[column.name]
                files = {shape.chunk(column, part): values.tobytes()}
            _write_all(self.path, files)
            written += [_entry(name, data) for name, data in files.items()]
        numbers = [self._numbers(row, origin) for row, origin in outcomes]
        return Record(
            plan=self._plan_hash,
            part=part,
            status=[item[0] for item in numbers],
            permanent=[item[1] for item in numbers],
            reason=[item[2] for item in numbers],
            fingerprint=[item[3] for item in numbers],
            counts={name: [item[4][place] for item in numbers] for place, name in enumerate(shape.counts)},
            ragged_start=starts,
            ragged_count=lengths,
            files=tuple(written),
            provenance=provenance,
        )

    def _origin(self, row: int) -> _Origin:
        assert self._store is not None
        inner = row
        for shape in self._store.manifest.segments:
            if inner < shape.num_rows:
                return shape, inner, row
            inner -= shape.num_rows
        raise DamagedStore(
            f"the plan in {self.path / self._shape.folder} copies row {row}, which is not there. Remove that folder."
        )

    def _trusted(self, column: Column, origin: _Origin) -> EmbeddingStore:
        """The store, once the file that holds a row was found to be what the head says: damage is never copied."""
        assert self._store is not None
        name = origin[0].chunk(column, origin[1] // origin[0].part_rows)
        entry = self._store.manifest.files.get(name)
        if entry is not None and name not in self._checked and disk.checksum(self.path / name) != entry.sha256:
            raise DamagedStore(
                f"{self.path / name} is damaged, so its rows cannot be copied into the new segment. "
                "Verify the store to see which rows these are, and compute them anew."
            )
        self._checked.add(name)
        return self._store

    def _ragged_value(self, column: Column, row: Row | None, origin: _Origin | None) -> npt.NDArray[Any]:
        if origin is not None:
            return self._trusted(column, origin).read_ragged(column.name, origin[2])
        if row is not None and row.status == "ok":
            return np.asarray(row.values[column.name]).astype(column.numpy_dtype, copy=False)
        return column.empty(0)

    def _numbers(self, row: Row | None, origin: _Origin | None) -> tuple[int, int, str, str, list[int]]:
        """status, permanent, reason, fingerprint and counts of a row."""
        if origin is not None:
            assert self._store is not None
            index, place = self._store.segment_index(origin[0].number), origin[1]
            reason, fingerprint = (bytes(index[name][place]).decode() for name in STRINGS_SEALED)
            counts = [int(index[f"counts/{name}"][place]) for name in self._shape.counts]
            return int(index["status"][place]), int(index["permanent"][place]), reason, fingerprint, counts
        assert row is not None
        counts = [int(row.counts.get(name, UNKNOWN_COUNT)) for name in self._shape.counts]
        return STATUS.index(row.status), int(row.permanent), row.reason, row.fingerprint, counts

    def _index_files(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Index arrays that are known only now, with their metadata and groups."""
        shape = self._shape
        texts = {name: [text.encode() for record in records for text in getattr(record, name)] for name in STRINGS_SEALED}
        arrays: dict[str, npt.NDArray[Any]] = {name: _strings(values) for name, values in texts.items()}
        for name in ("status", "permanent"):
            arrays[name] = np.array([value for record in records for value in getattr(record, name)], dtype=np.uint8)
        for field_name, names in (
            ("counts", shape.counts),
            ("ragged_start", [column.name for column in shape.ragged()]),
            ("ragged_count", [column.name for column in shape.ragged()]),
        ):
            for name in names:
                values = [value for record in records for value in getattr(record, field_name)[name]]
                arrays[f"{field_name}/{name}"] = np.array(values, dtype="<i8")
        return _index_arrays(shape, arrays)


def _check_value(column: Column, value: npt.NDArray[Any], where: str) -> None:
    inner = value.shape[1:] if column.ragged else value.shape
    if (column.ragged and not value.ndim) or inner != column.shape or value.dtype.newbyteorder("=") != np.dtype(column.dtype):
        wanted = f"{column.dtype} {('n', *column.shape) if column.ragged else column.shape}"
        raise StoreError(
            f"{where}: column {column.name!r} is {value.dtype} {value.shape}; it must be {wanted}. Convert it first."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise StoreError(
            f"{where} is ok but column {column.name!r} holds a value that is not finite. Make it a failed row with a reason."
        )


def _begin(path: Path) -> None:
    """The folder of a store, new or found; any other folder that holds something is refused."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file, not a folder. Choose another output.")
    if path.is_dir():
        foreign = sorted(item.name for item in path.iterdir() if item.name not in _OURS and not disk.TEMPORARY.search(item.name))
        if foreign and not is_store(path):
            raise StoreError(f"{path} holds other files ({foreign[0]!r}) and is not a store. Choose another output.")
        disk.remove_temporaries(path)
    if not is_store(path):
        if path.is_dir() and any(path.iterdir()) and (path / "zarr.json").exists():
            raise StoreError(f"{path} is a Zarr group made by another program. Choose another output.")
        _write_all(path, root_files())


def _sources(store: EmbeddingStore, plan: Plan, recompute: set[str]) -> npt.NDArray[np.int64]:
    """(N,) the live row each planned row is copied from, -1 where it is computed. Checks that whole groups are superseded."""
    unknown = recompute - set(plan.ids)
    if unknown:
        raise StoreError(
            f"{min(unknown)!r} is to be recomputed but is not among the ids of the new segment. Add it to ids and groups."
        )
    index = store.index
    live = index.filter(index["live"]) if index.num_rows else index
    rows_by_id = dict(zip(live["id"].to_pylist(), live["row"].to_pylist(), strict=True))
    group_by_id = dict(zip(live["id"].to_pylist(), live["group"].to_pylist(), strict=True))
    planned, groups = set(plan.ids), set(plan.groups)
    for name, group in group_by_id.items():
        if group in groups and name not in planned:
            raise StoreError(
                f"group {group!r} of {store.path} also has {name!r}, which the new segment leaves out. "
                "A group is superseded as a whole: pass all its ids."
            )
        if name in planned and group not in groups:
            raise StoreError(
                f"{name!r} belongs to group {group!r} in {store.path}, which the new segment does not hold. Pass that group too."
            )
    source = np.array([-1 if name in recompute else rows_by_id.get(name, -2) for name in plan.ids], dtype=np.int64)
    if (source == -2).any():
        name = plan.ids[int(np.flatnonzero(source == -2)[0])]
        raise StoreError(f"{name!r} has no live row in {store.path} to copy. Put it into recompute.")
    return source


def _plan_file(path: Path, number: int) -> bytes | None:
    try:
        return disk.read_file(path / SEGMENTS / f"{number:05d}" / PLAN)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _planned_files(shape: SegmentShape, plan: Plan, source: npt.NDArray[np.int64]) -> dict[str, bytes]:
    ids, groups = ([name.encode() for name in names] for names in (plan.ids, plan.groups))
    return _index_arrays(shape, {"id": _strings(ids), "group": _strings(groups), "source": source.astype("<i8")})


def _index_arrays(shape: SegmentShape, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, bytes]:
    files = {}
    for name, values in arrays.items():
        dtype, width = shape.index_arrays()[name]
        fill = 0 if width == 0 else int(np.iinfo(dtype).min)
        files[shape.index_meta(name)] = zarr_array(values.shape, shape.num_rows, dtype, fill)
        files[shape.index_chunk(name)] = values.tobytes()
    return files


def _strings(values: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Byte strings -> (N, W) uint8, zero-padded."""
    width = max(map(len, values)) or 1
    return np.array(values, dtype=f"S{width}").view(np.uint8).reshape(len(values), width)


def _planned_bytes(path: Path, shape: SegmentShape, body: Json, name: str) -> bytes:
    where = str(path / shape.plan)
    entry = parse_files(body, where).get(shape.index_chunk(name))
    try:
        data = disk.read_file(path / entry.path) if entry else b""
    except OSError:
        data = b""
    if entry is None or hashlib.sha256(data).hexdigest() != entry.sha256 or len(data) % shape.num_rows:
        raise DamagedStore(
            f"{path / shape.index_chunk(name)} is damaged. Remove {path / shape.folder} and run the same command again."
        )
    return data


def _planned_strings(path: Path, shape: SegmentShape, body: Json, name: str) -> list[str]:
    data = _planned_bytes(path, shape, body, name)
    return [item.decode() for item in np.frombuffer(data, dtype=f"S{len(data) // shape.num_rows}").tolist()]


def _shape_of(body: Json, schema: Schema, number: int, where: str) -> SegmentShape:
    num_rows, part_rows = (parse_int(body, name, where, 1, 1 << 40) for name in ("num_rows", "part_rows"))
    return SegmentShape(number, num_rows, part_rows, schema.columns, schema.counts)


def _refuse_other_plan(path: Path, shape: SegmentShape, found: bytes | None, encoded: bytes, plan: Plan) -> None:
    """Says how the open segment was planned otherwise. A lost or damaged plan is written again if no record is of another one."""
    where = str(path / shape.plan)
    schema = parse_schema(unseal_json(encoded, where), where)
    try:
        body = unseal_json(found or b"", where)
    except DamagedStore as error:
        if _plans_of_records(path / shape.folder / "log") <= {sealed_hash(encoded)}:
            return
        raise DamagedStore(
            f"{where} is {'damaged' if found else 'missing'}, and finished parts beside it belong to another plan than this one. "
            f"Run as it was begun, or remove {path / shape.folder}; sealed segments are not touched by that."
        ) from error
    refuse_stale(parse_schema(body, where), schema, str(path))
    for name, now in (("part_rows", plan.part_rows), ("seed", plan.seed)):
        was = body.get(name)
        if was != now:
            raise StoreError(
                f"{path} was begun with {name} {was}, and this run has {now}. Run with {was}, or choose another output."
            )
    old = set(_planned_strings(path, _shape_of(body, schema, shape.number, where), body, "id"))
    added, gone = sorted(set(plan.ids) - old)[:3], sorted(old - set(plan.ids))[:3]
    raise StoreError(
        f"{path} was begun with other rows, another order or other rows to copy "
        f"(new now: {added or 'none'}, gone: {gone or 'none'}). "
        "Finish it as it was planned (Writer.resume) and extend it afterwards, or choose another output."
    )


def _plans_of_records(log: Path) -> set[str]:
    """Plan hashes of the readable records in a log folder."""
    plans = set()
    for path in sorted(log.glob("p*.json")):
        try:
            plans.add(str(unseal_json(disk.read_file(path), str(path)).get("plan")))
        except (OSError, DamagedStore):
            continue
    return plans


def _read(path: Path) -> bytes:
    try:
        return disk.read_file(path)
    except OSError as error:
        raise DamagedStore(
            f"{path} was changed while the store was written ({error.strerror}). Run the same command again."
        ) from error


def _write_all(root: Path, files: Mapping[str, bytes]) -> None:
    """Files, then their directories, durable."""
    for name, data in files.items():
        disk.make_directory((root / name).parent)
        disk.write_file(root / name, data)
    for folder in sorted({(root / name).parent for name in files}):
        disk.sync_directory(folder)


def _holds(path: Path, data: bytes) -> bool:
    return disk.regular_size(path) == len(data) and disk.read_file(path, len(data)) == data


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())
