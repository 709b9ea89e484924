"""Forgetting: rows of people who withdraw are overwritten in place, in every segment and log, and never computed again.

The erasure record comes first and decides; what follows can be cut short anywhere and is finished by whoever opens the
store next (FORMAT.md, 8).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from embed_cache.errors import DamagedStore, StoreError
from embed_cache.layout import ERASURES, FORMAT_VERSION, HEAD, PLAN, SEGMENTS, STATUS, STRINGS_PLANNED, SegmentShape
from embed_cache.manifest import (
    MAX_ROWS,
    FileEntry,
    Json,
    Manifest,
    Record,
    Schema,
    check_version,
    parse_head,
    parse_int,
    parse_record,
    parse_schema,
    plain_json,
    seal_json,
    sealed_hash,
    unseal_json,
)
from embed_cache.place import TEMPORARY, Place, place_of
from embed_cache.plan import Plan
from embed_cache.segment import entry_of, plan_files, read_plan
from embed_cache.store import is_store, open_erasures, read_head
from embed_cache.writer import UNKNOWN_COUNT

T = TypeVar("T")
ERASED = STATUS.index("erased")
UNKNOWN_SHA256 = "0" * 64
"""Of a file that was damaged before it was erased: verification goes on reporting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One subject that withdrew."""

    name: str
    rows: tuple[int, ...]
    """Global numbers, of superseded rows and of a segment that is not sealed yet too."""
    keyed_hash: str
    damaged: tuple[str, ...]
    """Files that held these rows and were not what the head says when they were erased."""


def erasures(uri: str | os.PathLike[str]) -> list[Erasure]:
    """Every erasure of a store, carried out or not; none where there is no store."""
    place = place_of(uri)
    return [_read(place, name) for name in place.walk(ERASURES) if not TEMPORARY.search(name)]


def erase(uri: str | os.PathLike[str], *, ids: Collection[str], keyed_hash: str, provenance: Json | None = None) -> Erasure:
    """Erases every row of the items `ids`, and records `keyed_hash` (of their subject, the key kept elsewhere).

    A subject with no row yet is recorded too. Afterwards the old bytes are in no file of the store; an object store
    that keeps versions must be told to expire them.
    """
    place = place_of(uri)
    if not is_store(place):
        raise StoreError(f"there is no store at {place.label()}. Check the path.")
    if not keyed_hash or len(keyed_hash) > 256 or not keyed_hash.isascii():
        raise StoreError("an erasure needs the keyed hash of its subject: at most 256 ASCII characters.")
    note = plain_json(provenance or {}, "provenance")
    with place.locked():
        carry_out(place)
        record = seal_json(_plan_erasure(place, read_head(place), set(ids), keyed_hash, note))
        taken = [name for name in place.walk(ERASURES) if not TEMPORARY.search(name)]
        name = f"{ERASURES}/{len(taken):05d}.json"
        if not place.create(name, record):
            raise StoreError(f"{place.label(name)} was written by another process just now. Run the same command again.")
        carry_out(place)
    return _read(place, name)


def finish_erasures(uri: str | os.PathLike[str]) -> None:
    """Carries out what was begun."""
    finish_at(place_of(uri))


def finish_at(place: Place) -> None:
    """`finish_erasures` of a place."""
    if open_erasures(place, read_head(place)):
        with place.locked():
            carry_out(place)


def carry_out(place: Place) -> None:
    """Overwrites, then writes new checksums; a second time changes nothing. The caller holds the lock."""
    manifest = read_head(place)
    names = open_erasures(place, manifest)
    if not names:
        return
    todo = [_read(place, name) for name in names]
    wanted = np.array(sorted({row for erasure in todo for row in erasure.rows}), dtype=np.int64)
    damaged = {name for erasure in todo for name in erasure.damaged}
    changed: dict[str, FileEntry] = {}
    offset = 0
    _wipe_temporaries(place, manifest)
    for number in range(len(manifest.segments) + 1 if manifest else 1):
        found = _load(place, number)
        if found is None:
            continue
        inner = wanted[(wanted >= offset) & (wanted < offset + found.shape.num_rows)] - offset
        offset += found.shape.num_rows
        if inner.size:
            entries = _overwrite(place, found, inner.tolist(), damaged)
            changed |= entries if manifest and number < len(manifest.segments) else {}
    if manifest is None:
        return  # the head that the seal writes will list the records
    changed |= {name: entry_of(name, place.read(name)) for name in names}
    head = dataclasses.replace(
        manifest, files={**manifest.files, **changed}, erasures=(*manifest.erasures, *sorted(names))
    ).encode()
    parse_head(head, place.label(HEAD))
    place.write({HEAD: head})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A segment as its files are just now, erased or half erased."""

    schema: Schema
    shape: SegmentShape
    plan_hash: str
    seed: int
    strings: dict[str, npt.NDArray[np.uint8]]
    """id and group, (N, W)."""
    source: npt.NDArray[np.int64]


def _load(place: Place, number: int) -> _Segment | None:
    """What a plan says. Its arrays may be half overwritten, so their checksums are not asked; None where nothing is planned."""
    name = f"{SEGMENTS}/{number:05d}/{PLAN}"
    try:
        data = place.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    where = place.label(name)
    body = unseal_json(data, where)
    schema = parse_schema(body, where)
    num_rows, part_rows = (parse_int(body, field, where, 1, MAX_ROWS) for field in ("num_rows", "part_rows"))
    shape = SegmentShape(number, num_rows, part_rows, schema.columns, schema.counts)
    strings = {}
    for field in STRINGS_PLANNED:
        raw = np.frombuffer(place.read(shape.index_chunk(field)), dtype=np.uint8)
        if not raw.size or raw.size % num_rows:
            raise DamagedStore(
                f"{place.label(shape.index_chunk(field))} is damaged. Repair the store, then run the command again."
            )
        strings[field] = raw.reshape(num_rows, -1)
    source = np.frombuffer(place.read(shape.index_chunk("source")), dtype="<i8")
    seed = parse_int(body, "seed", where, 0, 1 << 63)
    return _Segment(schema=schema, shape=shape, plan_hash=sealed_hash(data), seed=seed, strings=strings, source=source)


def _plan_erasure(place: Place, manifest: Manifest | None, ids: set[str], keyed_hash: str, note: Json) -> Json:
    """The body of an erasure record: which rows, and which of their files were damaged already."""
    rows: list[int] = []
    listed: dict[str, str] = {}
    offset = 0
    sealed = len(manifest.segments) if manifest else 0
    for number in range(sealed + 1):
        found = read_plan(place, number)
        if found is None and number < sealed:
            raise DamagedStore(
                f"{place.label(f'{SEGMENTS}/{number:05d}')}: the ids of its rows are damaged, so they cannot be found by id. "
                "Repair the store first."
            )
        if found is None:
            continue
        shape = found.shape
        inner = [row for row, name in enumerate(found.plan.ids) if name in ids]
        groups = {found.plan.groups[row] for row in inner}
        torn = [row for row, group in enumerate(found.plan.groups) if group in groups and found.plan.ids[row] not in ids]
        if torn:
            raise StoreError(
                f"group {found.plan.groups[torn[0]]!r} of {place.label()} also has {found.plan.ids[torn[0]]!r}. "
                "The items of a group are erased together: give all their ids."
            )
        rows += [offset + row for row in inner]
        offset += shape.num_rows
        for part in sorted({row // shape.part_rows for row in inner}):
            record = _record(place, shape, part)
            if record is not None:
                listed |= {entry.path: entry.sha256 for entry in record.files}
            elif number < sealed:
                raise DamagedStore(f"{place.label(shape.record(part))} is damaged. Repair the store first.")
        if inner and manifest is not None and number < sealed:
            chunks = [shape.index_chunk(name) for name in shape.index_arrays()]
            listed |= {name: manifest.files[name].sha256 for name in chunks}
    digests = zip(listed, place.checksums(listed), strict=True)
    damaged = [name for name, digest in digests if digest is not None and digest != listed[name]]
    return {
        "format_version": FORMAT_VERSION,
        "rows": rows,
        "keyed_hash": keyed_hash,
        "damaged": sorted(damaged),
        "provenance": note,
    }


def _overwrite(place: Place, found: _Segment, rows: list[int], damaged: set[str]) -> dict[str, FileEntry]:
    """One segment: columns, commit records, index arrays, plan, in this order. Gives the entries of what changed."""
    shape = found.shape
    records = {}
    blank = _blanked(found, rows)
    _, encoded = plan_files(shape, found.schema, blank, found.source, {k: v.shape[1] for k, v in found.strings.items()})
    plan_hash = sealed_hash(encoded)
    for part in range(shape.num_parts):
        record = _record(place, shape, part)
        if record is not None and record.plan in (found.plan_hash, plan_hash):
            records[part] = record
            staged = {f"{entry.path}.{record.writer}.tmp": entry.path for entry in record.files}
            sizes = place.sizes(list(staged))
            place.adopt([path for name, path in staged.items() if sizes[name] is not None], record.writer)
    changed: dict[str, FileEntry] = {}

    def note(name: str) -> None:
        size, digest = place.sizes([name])[name], next(iter(place.checksums([name])))
        if size is not None and digest is not None:
            changed[name] = FileEntry(name, size, UNKNOWN_SHA256 if name in damaged else digest)

    for part in sorted({row // shape.part_rows for row in rows}):
        start, stop = shape.part(part).start, shape.part(part).stop
        inner = [row - start for row in rows if start <= row < stop]
        for column in shape.columns:
            name, fill = shape.chunk(column, part), column.empty(1).tobytes()
            if place.sizes([name])[name] is None:
                continue
            if not column.ragged:
                place.overwrite(name, [(row * column.row_bytes, fill) for row in inner])
            elif part in records:
                first, count = records[part].ragged_start[column.name], records[part].ragged_count[column.name]
                spans = [(first[row] * column.row_bytes, fill * count[row]) for row in inner if count[row]]
                if spans:
                    place.overwrite(name, spans)
            note(name)
    for part, record in records.items():
        data = _erased(record, shape, set(rows), plan_hash, changed).encode()
        if place.read(shape.record(part)) != data:
            place.wipe(shape.record(part), data)
        changed[shape.record(part)] = entry_of(shape.record(part), data)
    for name in shape.index_arrays():
        chunk = shape.index_chunk(name)
        size = place.sizes([chunk])[chunk]
        if size is None or name == "source":
            continue
        width = size // shape.num_rows
        place.overwrite(chunk, [(row * width, _blank(name, width)) for row in rows])
        note(chunk)
    if place.read(shape.plan) != encoded:
        place.wipe(shape.plan, encoded)
    changed[shape.plan] = entry_of(shape.plan, encoded)
    return changed


def _blanked(found: _Segment, rows: list[int]) -> Plan:
    """The plan without the ids and groups of these rows."""
    names = {}
    for field, values in found.strings.items():
        kept = values.copy()
        kept[rows] = 0
        names[field] = tuple(bytes(line).rstrip(b"\0").decode() for line in kept)
    return Plan(ids=names["id"], groups=names["group"], part_rows=found.shape.part_rows, seed=found.seed)


def _erased(record: Record, shape: SegmentShape, rows: set[int], plan_hash: str, changed: dict[str, FileEntry]) -> Record:
    """A commit record without these rows, of the new plan, with the new checksums."""
    gone = [shape.part(record.part).start + place in rows for place in range(len(record.status))]

    def without(values: list[T], blank: T) -> list[T]:
        return [blank if erased else value for value, erased in zip(values, gone, strict=True)]

    return dataclasses.replace(
        record,
        plan=plan_hash,
        id=without(record.id, ""),
        group=without(record.group, ""),
        status=without(record.status, ERASED),
        permanent=without(record.permanent, 1),
        reason=without(record.reason, ""),
        fingerprint=without(record.fingerprint, ""),
        counts={name: without(values, UNKNOWN_COUNT) for name, values in record.counts.items()},
        ragged_start={name: without(values, 0) for name, values in record.ragged_start.items()},
        ragged_count={name: without(values, 0) for name, values in record.ragged_count.items()},
        files=tuple(changed.get(entry.path, entry) for entry in record.files),
    )


def _blank(name: str, width: int) -> bytes:
    """One erased row of an index array."""
    if name in ("status", "permanent"):
        return bytes([ERASED if name == "status" else 1])
    return b"\xff" * width if name.startswith("counts/") else bytes(width)


def _record(place: Place, shape: SegmentShape, part: int) -> Record | None:
    name = shape.record(part)
    try:
        return parse_record(place.read(name), place.label(name), shape)
    except (OSError, StoreError):
        return None


def _wipe_temporaries(place: Place, manifest: Manifest | None) -> None:
    """What lies staged may hold the rows. Files of a committed part get their places; other writers write theirs again."""
    found = _load(place, len(manifest.segments) if manifest else 0)
    for part in range(found.shape.num_parts) if found else ():
        record = _record(place, found.shape, part) if found else None
        if record is not None:
            staged = {f"{entry.path}.{record.writer}.tmp": entry.path for entry in record.files}
            sizes = place.sizes(list(staged))
            place.adopt([path for name, path in staged.items() if sizes[name] is not None], record.writer)
    for name in list(place.walk()):
        if TEMPORARY.search(name):
            place.discard(name)


def _read(place: Place, name: str) -> Erasure:
    where = place.label(name)
    body = unseal_json(place.read(name), where)
    check_version(body, where)
    rows, damaged, keyed_hash = body.get("rows"), body.get("damaged"), body.get("keyed_hash")
    if (
        not isinstance(rows, list)
        or not all(type(row) is int and 0 <= row < MAX_ROWS for row in rows)
        or not isinstance(damaged, list)
        or not all(isinstance(path, str) for path in damaged)
        or not isinstance(keyed_hash, str)
    ):
        raise DamagedStore(f"{where} is not well formed. Restore it from a copy, or erase the subject again.")
    return Erasure(name=name, rows=tuple(rows), keyed_hash=keyed_hash, damaged=tuple(damaged))
