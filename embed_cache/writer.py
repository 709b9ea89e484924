"""Writing a segment: the plan, then parts in any order, then the seal. A killed writer goes on by the same call.

What exists is judged by commit records and checksums, never by the presence of a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embed_cache.erase import carry_out, finish_at
from embed_cache.errors import DamagedStore, IncompleteStore, StoreError
from embed_cache.layout import (
    ERASURES,
    FORMAT_VERSION,
    HEAD,
    ROOT,
    SEGMENTS,
    STATUS,
    STRINGS_PLANNED,
    STRINGS_SEALED,
    UNKNOWN_COUNT,
    Column,
    SegmentShape,
    root_files,
    zarr_array,
)
from embed_cache.manifest import (
    Json,
    Manifest,
    Record,
    Schema,
    check_identity,
    parse_files,
    parse_head,
    parse_record,
    parse_schema,
    plain_json,
    refuse_stale,
    sealed_hash,
    unseal_json,
)
from embed_cache.place import TEMPORARY, Place, place_of
from embed_cache.plan import Plan, encode_name, make_plan
from embed_cache.segment import (
    entry_of,
    index_files,
    plan_file,
    plan_files,
    planned_strings,
    read_or_none,
    read_plan,
    settle,
    shape_of,
)
from embed_cache.store import EmbeddingStore, erasure_names, is_store, open_at, read_head

MAX_TEXT_BYTES = 256  # of a reason or a fingerprint
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
    """One open segment. Made by `create_or_resume`, `extend` or `resume`; several processes may hold the same one."""

    def __init__(self, place: Place, schema: Schema, shape: SegmentShape, plan: Plan) -> None:
        self.place = place
        self.path = place.label()
        self.plan = plan
        self.sealed = False
        self._schema = schema
        self._shape = shape
        self._source: npt.NDArray[np.int64] = np.full(plan.num_rows, -1, dtype=np.int64)
        self._plan_hash = ""
        self._store: EmbeddingStore | None = None
        self._checked: set[str] = set()
        self._done: set[int] = set()
        self._refused: dict[int, bytes] = {}
        """Commit records that were found without the files they list: what a new commit replaces."""

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
        erased: Collection[str] | None = None,
    ) -> Writer:
        """The first segment, new or half done; sealed and nothing pending where a segment with this plan is complete.

        `erased` are the names of the erasures that the plan was made by: where there are others by now, it is refused.
        """
        place = place_of(uri)
        schema = check_identity(kind, identity, columns, counts)
        _begin(place)
        manifest = read_head(place)
        if manifest is None:
            chosen_by = erasure_names(place) if erased is None else erased
            source = np.full(plan.num_rows, -1, dtype=np.int64)
            return cls._open_segment(place, schema, 0, plan, source, planned_on=(None, chosen_by))
        refuse_stale(manifest.schema, schema, place.label())
        if plan_file(place, len(manifest.segments)) is not None:
            raise StoreError(
                f"{place.label()} has an unfinished extension (segment {len(manifest.segments)}). "
                "Finish it first: Writer.resume opens it with the plan it has."
            )
        return cls._sealed(place, manifest, plan)

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
        erased: Collection[str] | None = None,
    ) -> Writer:
        """The next segment, with all items of every group in it; items not in `recompute` are copied from their live rows.

        `erased` are the names of the erasures that `ids` were chosen by: where there are others by now, it is refused.
        """
        place = place_of(uri)
        store = open_at(place)
        manifest = store.manifest
        refuse_stale(manifest.schema, check_identity(manifest.kind, identity, manifest.columns, manifest.counts), place.label())
        plan = make_plan(ids, groups, seed=seed, part_rows=part_rows)
        source = _sources(store, plan, set(recompute))
        chosen_by = erasure_names(place) if erased is None else erased
        return cls._open_segment(place, manifest.schema, len(manifest.segments), plan, source, planned_on=(manifest, chosen_by))

    @classmethod
    def resume(cls, uri: str | os.PathLike[str], *, identity: Json) -> Writer | None:
        """The unsealed segment with the plan it has on disk, whatever would be planned today.

        None where there is none, and where its plan cannot be read: planning it again mends that.
        """
        place = place_of(uri)
        if not is_store(place):
            return None
        finish_at(place)
        manifest = read_head(place)
        number = len(manifest.segments) if manifest else 0
        found = read_plan(place, number)
        if found is None:
            return None
        refuse_stale(
            found.schema, check_identity(found.schema.kind, identity, found.schema.columns, found.schema.counts), place.label()
        )
        return cls._open_segment(place, found.schema, number, found.plan, found.source, found.widths)

    @classmethod
    def repair(cls, uri: str | os.PathLike[str], *, identity: Json) -> Writer | None:
        """A writer of the damaged parts of a sealed segment, the oldest first; None where no part is damaged.

        What follows from other files of the store is mended on the way (`embed_cache.repair`).
        """
        from embed_cache.repair import repairer

        return repairer(uri, identity)

    def pending(self) -> list[int]:
        """Parts without a valid commit record, as far as this writer has looked."""
        return [part for part in range(self.plan.num_parts) if part not in self._done]

    def refresh(self) -> list[int]:
        """`pending` after a look at what other writers committed meanwhile. Reads new records; checks sizes, hashes nothing."""
        names = {self._shape.record(part): part for part in self.pending()}
        if self.sealed or not names:
            return self.pending()
        for name in list(self.place.walk(f"{self._shape.folder}/log")):
            part = names.get(name)
            if part is None:
                continue
            if self._counts(part, read_or_none(self.place, name)):
                self._done.add(part)
        return self.pending()

    def rows_of(self, part: int) -> list[tuple[str, str, bool]]:
        """(id, group, must be computed) of each row of a part; the others are copied, or erased, when the part is committed."""
        rows = self.plan.part(part)
        computed = [source < 0 and name != "" for source, name in zip(self._source[rows], self.plan.ids[rows], strict=True)]
        return list(zip(self.plan.ids[rows], self.plan.groups[rows], computed, strict=True))

    def commit(self, part: int, rows: Mapping[str, Row], provenance: Json) -> bool:
        """Writes a part whole: its column files beside their places, its record, then the files into their places.

        The record decides: of several writers of one part the first to create it is the one that counts (True); the
        others leave no trace (False). A part that is committed already is left as it is.
        """
        span = self.plan.part(part)
        if part in self._done:
            return False
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
        if self.place.sizes([self._shape.plan])[self._shape.plan] is None:
            raise StoreError(
                f"{self.place.label(self._shape.plan)} has vanished. Put the folder back and run the same command again."
            )
        files, record = self._columns_of(part, [rows.get(name) for name in self.plan.ids[span]], note)
        first = self._commit(part, files, record.encode())
        self._done.add(part)
        return first

    def _commit(self, part: int, files: Mapping[str, bytes], record: bytes) -> bool:
        place, name = self.place, self._shape.record(part)
        place.stage(files)
        with place.locked():
            self._refuse_changed_plan(files)
            while not place.create(name, record):
                old = read_or_none(place, name)
                if self._is_of_another_plan(part, old):
                    self._refuse_changed_plan(files)
                if self._counts(part, old):
                    place.remove([f"{path}.{place.number}.tmp" for path in files])
                    return False
                if old is not None and place.replace(name, record, old):
                    break
        place.adopt(files, place.number)
        missing = {path: files[path] for path, size in place.sizes(files).items() if size != len(files[path])}
        if missing:  # a staged file was taken for a dead writer's and removed
            with place.locked():
                if read_or_none(place, name) == record:
                    place.write(missing)
        return True

    def _refuse_changed_plan(self, staged: Iterable[str] = ()) -> None:
        """An erasure changes the plan: what was computed by the old one may hold who is forgotten."""
        if sealed_hash(read_or_none(self.place, self._shape.plan) or b"") != self._plan_hash:
            self.place.remove([f"{path}.{self.place.number}.tmp" for path in staged])
            raise StoreError(
                f"{self.place.label(self._shape.plan)} was changed meanwhile (an erasure does that). "
                "What was finished is kept; run the same command again."
            )

    def _is_of_another_plan(self, part: int, data: bytes | None) -> bool:
        try:
            record = parse_record(data or b"", self.place.label(self._shape.record(part)), self._shape)
        except StoreError:
            return False
        return record.plan != self._plan_hash

    def _counts(self, part: int, data: bytes | None) -> bool:
        """Whether a commit record that another writer left is whole, of this plan, and has its files, by size."""
        record = self._parsed(part, data)
        return record is not None and self._refused.get(part) != data and self._has_files(record)

    def seal(self, provenance: Json) -> None:
        """Writes the index arrays, then the head; from then on the segment is read. All parts must be committed.

        Of several writers that seal, the first writes the head; the others find it.
        """
        if self.sealed:
            return
        note = plain_json(provenance, "provenance")
        if self.refresh():
            raise IncompleteStore(f"{self.path} has {len(self.pending())} parts left; commit all of pending() before seal.")
        with self.place.locked():
            carry_out(self.place)
            old_head = read_or_none(self.place, HEAD)
            old = parse_head(old_head, self.place.label(HEAD)) if old_head else None
            if old is None or len(old.segments) <= self._shape.number:
                self._seal(note, old_head, old)
        self.sealed = True

    def _seal(self, note: Json, old_head: bytes | None, old: Manifest | None) -> None:
        shape, place = self._shape, self.place
        plan = self._read(shape.plan)
        if sealed_hash(plan) != self._plan_hash:
            raise StoreError(f"{place.label(shape.plan)} was changed while the store was written. Run the same command again.")
        files = {path: entry_of(path, data) for path, data in root_files().items()}
        planned = parse_files(unseal_json(plan, shape.plan), place.label(shape.plan))
        files |= {shape.plan: entry_of(shape.plan, plan), **planned}
        wrong = [name for name, found in zip(planned, place.checksums(planned), strict=True) if found != planned[name].sha256]
        if wrong:  # without locks, a writer of another plan may put its own arrays there before it finds this plan
            widths = {name: planned[shape.index_chunk(name)].size // shape.num_rows for name in STRINGS_PLANNED}
            skeleton, _ = plan_files(shape, self._schema, self.plan, self._source, widths)
            place.write({name: skeleton[name] for name in wrong})
        records = []
        for part in range(shape.num_parts):
            name = shape.record(part)
            data = self._read(name)
            records.append(parse_record(data, place.label(name), shape))
            if records[-1].plan != self._plan_hash:
                raise StoreError(f"{place.label(name)} is of another plan. Run the same command again.")
            files |= {name: entry_of(name, data), **{entry.path: entry for entry in records[-1].files}}
            settle(place, records[-1])
        index = index_files(shape, records)
        place.write(index)
        # What was erased while there was no head is listed by the first one.
        done = old.erasures if old else tuple(erasure_names(place))
        files |= {name: entry_of(name, place.read(name)) for name in done if old is None}
        files |= {path: entry_of(path, data) for path, data in index.items()}
        place.remove(name for name in list(place.walk(shape.folder)) if name not in files)
        changed = [path for path, size in place.sizes(files).items() if size != files[path].size]
        if changed:
            raise DamagedStore(
                f"{place.label(min(changed))} was changed while the store was written. Run the same command again."
            )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            kind=self._schema.kind,
            identity=self._schema.identity,
            provenance=[*(old.provenance if old else []), note],
            columns=self._schema.columns,
            counts=self._schema.counts,
            segments=(*(old.segments if old else ()), shape),
            files={**(old.files if old else {}), **files},
            erasures=done,
            seeds=(*(old.seeds if old else ()), self.plan.seed),
        )
        head = manifest.encode()
        parse_head(head, place.label(HEAD))  # never replace a head by one that will be refused
        if not place.replace(HEAD, head, old_head):
            raise StoreError(f"{place.label(HEAD)} was changed by another writer just now. Run the same command again.")

    @classmethod
    def _open_segment(
        cls,
        place: Place,
        schema: Schema,
        number: int,
        plan: Plan,
        source: npt.NDArray[np.int64],
        widths: Mapping[str, int] | None = None,
        planned_on: tuple[Manifest | None, Collection[str]] | None = None,
    ) -> Writer:
        shape = SegmentShape(number, plan.num_rows, plan.part_rows, schema.columns, schema.counts)
        skeleton, encoded = plan_files(shape, schema, plan, source, widths)
        with place.locked():
            if planned_on is not None:
                _refuse_other_store(place, *planned_on)
            found = plan_file(place, number)
            if found != encoded:
                _refuse_other_plan(place, shape, found, encoded, plan)
            place.write({name: data for name, data in {**root_files(), **skeleton}.items() if not _holds(place, name, data)})
            if found is None:
                if not place.create(shape.plan, encoded) and (found := plan_file(place, number)) != encoded:
                    _refuse_other_plan(place, shape, found, encoded, plan)
            elif found != encoded:
                place.write({shape.plan: encoded})
        writer = cls(place, schema, shape, plan)
        writer._source = source
        writer._plan_hash = sealed_hash(encoded)
        writer._look()
        place.clean()
        if (source >= 0).any():
            writer._store = open_at(place)
        return writer

    @classmethod
    def _sealed(cls, place: Place, manifest: Manifest, plan: Plan) -> Writer:
        store = EmbeddingStore(place, manifest)
        for number, shape in enumerate(manifest.segments):
            ids, groups = ([name.decode() for name in store.segment_index(number)[what].tolist()] for what in STRINGS_PLANNED)
            if (tuple(ids), tuple(groups), shape.part_rows) == (plan.ids, plan.groups, plan.part_rows):
                writer = cls(place, manifest.schema, shape, plan)
                writer._done, writer.sealed = set(range(shape.num_parts)), True
                place.clean()
                return writer
        raise StoreError(
            f"{place.label()} is complete and holds other rows than this plan "
            f"({manifest.num_rows} there, {plan.num_rows} planned). "
            "Add or heal rows with Writer.extend, or choose another output."
        )

    def _look(self) -> None:
        """Finds what is committed: records that are whole and of this plan, with the recorded bytes in place or staged."""
        records: dict[int, tuple[Record, bytes]] = {}
        for part in range(self._shape.num_parts):
            data = read_or_none(self.place, self._shape.record(part))
            record = self._parsed(part, data)
            if record is not None:
                records[part] = record, data or b""
        waiting = [(part, entry) for part, (record, _) in records.items() for entry in record.files]
        settled = True
        for again in (False, True):
            hashes = self.place.checksums(entry.path for _, entry in waiting)
            wrong = [(part, entry) for (part, entry), digest in zip(waiting, hashes, strict=True) if digest != entry.sha256]
            if not wrong:
                break
            if again:
                settled = False
                break
            for part in {part for part, _ in wrong}:
                record = records[part][0]
                self.place.adopt([e.path for p, e in wrong if p == part], record.writer)
            waiting = wrong
        bad = set() if settled else {part for part, _ in wrong}
        self._done = records.keys() - bad
        self._refused = {part: records[part][1] for part in bad}

    def _parsed(self, part: int, data: bytes | None) -> Record | None:
        """A commit record of a part of this plan, None where the bytes are none."""
        try:
            record = parse_record(data or b"", self.place.label(self._shape.record(part)), self._shape)
        except StoreError:
            return None
        return record if record.plan == self._plan_hash and record.part == part else None

    def _has_files(self, record: Record) -> bool:
        """Whether the files of a record are there, by size, in place or staged."""
        staged = {entry.path: f"{entry.path}.{record.writer}.tmp" for entry in record.files}
        # Staged first: a file that gets its name between two looks is seen at the second.
        sizes = self.place.sizes([*staged.values(), *staged])
        return all(entry.size in (sizes[entry.path], sizes[staged[entry.path]]) for entry in record.files)

    def _read(self, name: str) -> bytes:
        try:
            return self.place.read(name)
        except OSError as error:
            raise DamagedStore(
                f"{self.place.label(name)} was changed while the store was written ({error.strerror}). "
                "Run the same command again."
            ) from error

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

    def _columns_of(self, part: int, rows: Sequence[Row | None], provenance: Json) -> tuple[dict[str, bytes], Record]:
        """The column files of a part, and the record that will make them count; `None` rows are copied, or erased."""
        shape, span = self._shape, self.plan.part(part)
        outcomes = self._outcomes(part, rows)
        files: dict[str, bytes] = {}
        starts: dict[str, list[int]] = {}
        lengths: dict[str, list[int]] = {}
        for column in shape.columns:
            if column.ragged:
                pieces = [self._ragged_value(column, row, origin) for row, origin in outcomes]
                lengths[column.name] = [len(piece) for piece in pieces]
                starts[column.name] = np.cumsum([0, *lengths[column.name][:-1]]).tolist()
                values = np.concatenate(pieces)
                meta = zarr_array(values.shape, max(len(values), 1), column.dtype, column.fill)
                files[f"{shape.ragged_folder(column, part)}/zarr.json"] = meta
                if len(values):
                    files[shape.chunk(column, part)] = values.tobytes()
            else:
                values = column.empty(shape.part_rows)
                for place, (row, origin) in enumerate(outcomes):
                    if origin is not None:
                        source, inner = origin[0], origin[1]
                        trusted = self._trusted(column, origin).fixed_part(source, column, inner // source.part_rows)
                        values[place] = trusted[inner % source.part_rows]
                    elif row is not None and row.status == "ok":
                        values[place] = row.values[column.name]
                files[shape.chunk(column, part)] = values.tobytes()
        numbers = [self._numbers(row, origin) for row, origin in outcomes]
        return files, Record(
            plan=self._plan_hash,
            part=part,
            writer=self.place.number,
            id=list(self.plan.ids[span]),
            group=list(self.plan.groups[span]),
            source=self._source[span].tolist(),
            status=[item[0] for item in numbers],
            permanent=[item[1] for item in numbers],
            reason=[item[2] for item in numbers],
            fingerprint=[item[3] for item in numbers],
            counts={name: [item[4][place] for item in numbers] for place, name in enumerate(shape.counts)},
            ragged_start=starts,
            ragged_count=lengths,
            files=tuple(entry_of(name, data) for name, data in files.items()),
            provenance=provenance,
        )

    def _outcomes(self, part: int, rows: Sequence[Row | None]) -> list[tuple[Row | None, _Origin | None]]:
        """What each row of a part becomes: what was computed, or where it is copied from; neither, where it is erased."""
        sources = self._source[self.plan.part(part)].tolist()
        return [(row, self._origin(source) if source >= 0 else None) for row, source in zip(rows, sources, strict=True)]

    def _origin(self, row: int) -> _Origin:
        assert self._store is not None
        inner = row
        for shape in self._store.manifest.segments:
            if inner < shape.num_rows:
                return shape, inner, row
            inner -= shape.num_rows
        raise DamagedStore(
            f"the plan in {self.place.label(self._shape.folder)} copies row {row}, which is not there. Remove that folder."
        )

    def _trusted(self, column: Column, origin: _Origin) -> EmbeddingStore:
        """The store, once the file that holds a row was found to be what the head says: damage is never copied."""
        assert self._store is not None
        name = origin[0].chunk(column, origin[1] // origin[0].part_rows)
        entry = self._store.manifest.files.get(name)
        if entry is not None and name not in self._checked and next(self.place.checksums([name])) != entry.sha256:
            raise DamagedStore(
                f"{self.place.label(name)} is damaged, so its rows cannot be copied into the new segment. "
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
        if row is None:
            return STATUS.index("erased"), 1, "", "", [UNKNOWN_COUNT] * len(self._shape.counts)
        counts = [int(row.counts.get(name, UNKNOWN_COUNT)) for name in self._shape.counts]
        return STATUS.index(row.status), int(row.permanent), row.reason, row.fingerprint, counts


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


def _begin(place: Place) -> None:
    """The place of a store, new or found; any other folder that holds something is refused."""
    names = place.top()
    if names is not None:
        foreign = [name for name in names if name not in _OURS and not TEMPORARY.search(name)]
        if foreign and not is_store(place):
            raise StoreError(f"{place.label()} holds other files ({foreign[0]!r}) and is not a store. Choose another output.")
    if not is_store(place):
        if names and ROOT in names:
            raise StoreError(f"{place.label()} is a Zarr group made by another program. Choose another output.")
        # Created, not written: another file in its place would be another lock.
        for name, data in root_files().items():
            place.create(name, data)
    finish_at(place)


def _refuse_other_store(place: Place, manifest: Manifest | None, erased: Collection[str]) -> None:
    """What was planned on a store that has changed since is not begun: it may bring back who was erased."""
    now = read_head(place)
    same = (
        (now.erasures, len(now.segments)) == (manifest.erasures, len(manifest.segments)) if now and manifest else now is manifest
    )
    if not same or set(erasure_names(place)) != set(erased):
        raise StoreError(f"{place.label()} was changed by another writer while this one planned. Run the same command again.")


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


def _refuse_other_plan(place: Place, shape: SegmentShape, found: bytes | None, encoded: bytes, plan: Plan) -> None:
    """Says how the open segment was planned otherwise. A lost or damaged plan is written again if no record is of another one."""
    path, where = place.label(), place.label(shape.plan)
    schema = parse_schema(unseal_json(encoded, where), where)
    try:
        body = unseal_json(found or b"", where)
    except DamagedStore as error:
        if _plans_of_records(place, f"{shape.folder}/log") <= {sealed_hash(encoded)}:
            return
        raise DamagedStore(
            f"{where} is {'damaged' if found else 'missing'}, and finished parts beside it belong to another plan than this one. "
            f"Run as it was begun, or remove {place.label(shape.folder)}; sealed segments are not touched by that."
        ) from error
    refuse_stale(parse_schema(body, where), schema, str(path))
    for name, now in (("part_rows", plan.part_rows), ("seed", plan.seed)):
        was = body.get(name)
        if was != now:
            raise StoreError(
                f"{path} was begun with {name} {was}, and this run has {now}. Run with {was}, or choose another output."
            )
    try:
        old = set(planned_strings(place, shape_of(body, schema, shape.number, where), body, "id"))
    except DamagedStore:  # or just being written
        old = set(plan.ids)
    added, gone = sorted(set(plan.ids) - old)[:3], sorted(old - set(plan.ids))[:3]
    raise StoreError(
        f"{path} was begun with other rows, another order or other rows to copy "
        f"(new now: {added or 'none'}, gone: {gone or 'none'}). "
        "Finish it as it was planned (Writer.resume) and extend it afterwards, or choose another output."
    )


def _plans_of_records(place: Place, log: str) -> set[str]:
    """Plan hashes of the readable records in a log folder."""
    plans = set()
    for name in list(place.walk(log)):
        if not name.endswith(".json"):
            continue
        with contextlib.suppress(OSError, DamagedStore):
            plans.add(str(unseal_json(place.read(name), place.label(name)).get("plan")))
    return plans


def _holds(place: Place, name: str, data: bytes) -> bool:
    return place.sizes([name])[name] == len(data) and read_or_none(place, name) == data
