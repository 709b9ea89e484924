"""Forgetting: rows of people who withdraw are overwritten in place, in every segment and log, and never computed again.

The erasure record comes first and decides; what follows can be cut short anywhere and is finished by whoever opens the
store next (FORMAT.md, 8). It says beforehand what every file will be, so that damage never becomes truth on the way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from embed_cache.errors import DamagedStore, StoreError
from embed_cache.layout import (
    ERASURES,
    FORMAT_VERSION,
    HEAD,
    PLAN,
    SEGMENTS,
    STATUS,
    STRINGS_PLANNED,
    UNKNOWN_COUNT,
    SegmentShape,
    is_safe_path,
)
from embed_cache.manifest import (
    MAX_ROWS,
    FileEntry,
    Json,
    Manifest,
    Record,
    check_version,
    parse_files,
    parse_head,
    parse_record,
    parse_schema,
    plain_json,
    seal_json,
    sealed_hash,
    unseal_json,
)
from embed_cache.place import TEMPORARY, Place, place_of
from embed_cache.segment import PlannedSegment, entry_of, plan_file, plan_files, read_or_none, read_plan, settle, shape_of
from embed_cache.store import erasure_names, is_store, read_head

T = TypeVar("T")
ERASED = STATUS.index("erased")
ATTEMPTS = 5
MAX_BYTES = 1 << 34
UNKNOWN_SHA256 = "0" * 64
"""Of a file that was damaged before it was erased: verification goes on reporting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentErasure:
    """What an erasure does in one segment."""

    segment: int
    plan_before: str
    plan_after: str
    rows: tuple[int, ...]
    """Within the segment."""
    spans: tuple[tuple[str, int, int], ...]
    """(column file, first row or entry, how many) that get the fill value."""
    after: Mapping[str, str]
    """File -> sha256 that it will have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One subject that withdrew."""

    name: str
    rows: tuple[int, ...]
    """Global numbers, of superseded rows and of a segment that is not sealed yet too."""
    keyed_hash: str
    segments: tuple[SegmentErasure, ...]

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files that held these rows and were not what they should be when they were erased."""
        return tuple(sorted(p for item in self.segments for p, digest in item.after.items() if digest == UNKNOWN_SHA256))


def erasures(uri: str | os.PathLike[str]) -> list[Erasure]:
    """Every erasure of a store, carried out or not; none where there is no store."""
    place = place_of(uri)
    return [_read(place, name) for name in erasure_names(place)]


def erase(uri: str | os.PathLike[str], *, ids: Collection[str], keyed_hash: str, provenance: Json | None = None) -> Erasure:
    """Erases every row of the items `ids`, and records `keyed_hash` (of their subject, the key kept elsewhere).

    A subject with no row yet is recorded too. Afterwards the old bytes are in no file of the store; an object store
    that keeps versions must be told to expire them, and nobody else may write there meanwhile: it has no locks.
    """
    place = place_of(uri)
    if not is_store(place):
        raise StoreError(f"there is no store at {place.label()}. Check the path.")
    if not keyed_hash or len(keyed_hash) > 256 or not keyed_hash.isascii():
        raise StoreError("an erasure needs the keyed hash of its subject: at most 256 ASCII characters.")
    note = plain_json(provenance or {}, "provenance")
    with place.locked():
        carry_out(place)
        manifest = read_head(place)
        settle_open(place, len(manifest.segments) if manifest else 0)
        record = seal_json(_plan_erasure(place, manifest, set(ids), keyed_hash, note))
        numbers = [int(name.rpartition("/")[2].partition(".")[0]) for name in erasure_names(place)]
        name = f"{ERASURES}/{max(numbers, default=-1) + 1:05d}.json"
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
    for _ in range(ATTEMPTS):
        head = read_or_none(place, HEAD)
        manifest = parse_head(head, place.label(HEAD)) if head else None
        names = open_erasures(place, manifest)
        if not names:
            return
        settle_open(place, len(manifest.segments) if manifest else 0)
        _discard_temporaries(place)
        changed: dict[str, FileEntry] = {}
        for name in names:
            erasure = _read(place, name)
            for item in erasure.segments:
                changed |= _overwrite(place, manifest, item)
        if manifest is None:
            return  # the first head will list the records
        changed |= {name: entry_of(name, place.read(name)) for name in names}
        new = dataclasses.replace(
            manifest,
            files={
                **manifest.files,
                **{path: entry for path, entry in changed.items() if path in manifest.files or path in names},
            },
            erasures=tuple(sorted({*manifest.erasures, *names})),
        ).encode()
        parse_head(new, place.label(HEAD))
        if place.replace(HEAD, new, head):
            return
    raise StoreError(f"{place.label(HEAD)} is being changed by another writer. Run the same command again.")


def open_erasures(place: Place, manifest: Manifest | None) -> list[str]:
    """Erasure records that are not carried out: by the head, or, where there is none, by the plans, which are written last."""
    names = erasure_names(place)
    if manifest is not None:
        return [name for name in names if name not in manifest.erasures]
    return [name for name in names if any(_is_open(place, item) for item in _read(place, name).segments)]


def _is_open(place: Place, item: SegmentErasure) -> bool:
    data = plan_file(place, item.segment)
    if data is None:
        return next(iter(place.walk(f"{SEGMENTS}/{item.segment:05d}/columns")), None) is not None
    try:
        unseal_json(data, item.plan_before)
    except DamagedStore:
        return True
    return sealed_hash(data) == item.plan_before


def settle_open(place: Place, number: int) -> None:
    """Staged files of committed parts of a segment that is not sealed get their places."""
    shape = _open_shape(place, number)
    if shape is None:
        return
    for part in range(shape.num_parts):
        record = _record(place, shape, part)
        if record is not None:
            settle(place, record)


def _open_shape(place: Place, number: int) -> SegmentShape | None:
    data = plan_file(place, number)
    where = place.label(f"{SEGMENTS}/{number:05d}/{PLAN}")
    try:
        body = unseal_json(data or b"", where)
        shape = shape_of(body, parse_schema(body, where), number, where)
    except StoreError:
        return None
    source = shape.index_chunk("source")
    return shape if place.sizes([source])[source] == shape.num_rows * 8 else None


def _plan_erasure(place: Place, manifest: Manifest | None, ids: set[str], keyed_hash: str, note: Json) -> Json:
    """The body of an erasure record: which rows of which segments, and what their files will be."""
    sealed = len(manifest.segments) if manifest else 0
    segments: list[Json] = []
    newest: dict[str, int] = {}
    found: list[PlannedSegment] = []
    for number in range(sealed + 1):
        planned = read_plan(place, number)
        if planned is None and (number < sealed or plan_file(place, number) is not None):
            folder = place.label(f"{SEGMENTS}/{number:05d}")
            raise DamagedStore(
                f"{folder}: its plan or the ids of its rows are damaged, so rows cannot be found by id. Nothing was erased. "
                + ("Repair the store first." if number < sealed else f"Remove {folder} (it is not sealed), and erase then.")
            )
        if planned is not None:
            found.append(planned)
            newest |= dict.fromkeys(planned.plan.groups, planned.shape.number)
    offset = 0
    rows: list[int] = []
    for planned in found:
        shape, plan = planned.shape, planned.plan
        inner = [row for row, name in enumerate(plan.ids) if name in ids]
        groups = {plan.groups[row] for row in inner if newest[plan.groups[row]] == shape.number}
        torn = next((row for row, group in enumerate(plan.groups) if group in groups and plan.ids[row] not in ids), None)
        if torn is not None:
            raise StoreError(
                f"group {plan.groups[torn]!r} of {place.label()} also has {plan.ids[torn]!r}. "
                "The items of a group are erased together: give all their ids."
            )
        rows += [offset + row for row in inner]
        offset += shape.num_rows
        if inner:
            segments.append(_plan_segment(place, manifest if shape.number < sealed else None, planned, inner))
    return {
        "format_version": FORMAT_VERSION,
        "keyed_hash": keyed_hash,
        "rows": rows,
        "segments": segments,
        "provenance": note,
    }


def _plan_segment(place: Place, manifest: Manifest | None, planned: PlannedSegment, rows: list[int]) -> Json:
    """What is overwritten in a segment, and sizes and checksums afterwards: damage that is there now stays damage."""
    shape = planned.shape
    parts = sorted({row // shape.part_rows for row in rows})
    spans: list[tuple[str, int, int]] = []
    listed: dict[str, FileEntry] = {}
    for part in parts:
        start = shape.part(part).start
        inner = [row - start for row in rows if row // shape.part_rows == part]
        record = _record(place, shape, part)
        if record is None and manifest is not None:
            raise DamagedStore(f"{place.label(shape.record(part))} is damaged. Repair the store first.")
        if record is None:
            continue  # what lies there is discarded
        listed |= {entry.path: entry for entry in record.files}
        for column in shape.columns:
            name = shape.chunk(column, part)
            entry = listed.get(name)
            size = entry.size if entry else 0
            for row in inner:
                first = record.ragged_start[column.name][row] if column.ragged else row
                count = record.ragged_count[column.name][row] if column.ragged else 1
                if (first + count) * column.row_bytes > size:
                    raise DamagedStore(f"{place.label(shape.record(part))} points outside {name}. Do not use this store.")
                if count:
                    spans.append((name, first, count))
    if manifest is not None:
        listed |= {shape.index_chunk(name): manifest.files[shape.index_chunk(name)] for name in shape.index_arrays()}
    after: dict[str, str] = {}
    by_file: dict[str, list[tuple[int, bytes]]] = {name: [] for name, _, _ in spans}
    fills = {shape.chunk(column, part): column for column in shape.columns for part in parts}
    for name, first, count in spans:
        column = fills[name]
        by_file[name].append((first * column.row_bytes, column.empty(1).tobytes() * count))
    for field in shape.index_arrays():
        chunk = shape.index_chunk(field)
        found = place.sizes([chunk])[chunk]
        if field != "source" and found:
            width = found // shape.num_rows
            by_file[chunk] = [(row * width, _blank(field, width)) for row in rows]
    for name, changes in by_file.items():
        after[name] = _after(place, name, changes, listed.get(name))
    blank = {row: "" for row in rows}
    names = tuple(blank.get(row, name) for row, name in enumerate(planned.plan.ids))
    groups = tuple(blank.get(row, name) for row, name in enumerate(planned.plan.groups))
    plan = dataclasses.replace(planned.plan, ids=names, groups=groups)
    _, encoded = plan_files(shape, planned.schema, plan, planned.source, planned.widths)
    entries = {entry.path: entry.sha256 for entry in parse_files(unseal_json(encoded, shape.plan), shape.plan).values()}
    after |= {shape.index_chunk(field): entries[shape.index_chunk(field)] for field in STRINGS_PLANNED}
    after[shape.plan] = hashlib.sha256(encoded).hexdigest()
    return {
        "segment": shape.number,
        "plan_before": planned.plan_hash,
        "plan_after": sealed_hash(encoded),
        "rows": rows,
        "spans": [list(span) for span in spans],
        "after": after,
    }


def _after(place: Place, name: str, changes: list[tuple[int, bytes]], entry: FileEntry | None) -> str:
    """sha256 that a file will have; one that it never has where the file is damaged already."""
    try:
        data = bytearray(place.read(name, MAX_BYTES))
    except (OSError, StoreError):
        return UNKNOWN_SHA256
    if entry is not None and hashlib.sha256(data).hexdigest() != entry.sha256:
        return UNKNOWN_SHA256
    for offset, new in changes:
        data[offset : offset + len(new)] = new
    return hashlib.sha256(data).hexdigest()


def _overwrite(place: Place, manifest: Manifest | None, item: SegmentErasure) -> dict[str, FileEntry]:
    """One segment: columns, commit records, index arrays, plan, in this order. Gives the entries of what changed."""
    sealed = manifest is not None and item.segment < len(manifest.segments)
    folder = f"{SEGMENTS}/{item.segment:05d}"
    data = plan_file(place, item.segment)
    where = place.label(f"{folder}/{PLAN}")
    try:
        body = unseal_json(data or b"", where)
    except DamagedStore:
        status = f"{folder}/index/status/c.0"
        if not sealed and place.sizes([status])[status] is not None:
            raise DamagedStore(
                f"{where} and the head are damaged: who is to be forgotten cannot be. Restore one from a copy."
            ) from None
        if not sealed:  # nothing says any longer what is in it
            for name in list(place.walk(folder)):
                place.discard(name)
            return {}
        body = None
    if body is not None and sealed_hash(data or b"") not in (item.plan_before, item.plan_after):
        return {}  # planned anew, without these rows; or erased from again since
    if manifest is not None and sealed:
        shape, schema = manifest.segments[item.segment], manifest.schema
    else:
        assert body is not None
        schema = parse_schema(body, where)
        shape = shape_of(body, schema, item.segment, where)
    columns = {shape.chunk(column, part): column for column in shape.columns for part in range(shape.num_parts)}
    changed: dict[str, FileEntry] = {}
    spans: dict[str, list[tuple[int, bytes]]] = {}
    for name, first, count in item.spans:
        if name not in columns:
            raise DamagedStore(f"{place.label(name)} is no column file of {folder}. Do not use this store.")
        column = columns[name]
        spans.setdefault(name, []).append((first * column.row_bytes, column.empty(1).tobytes() * count))
    for name, changes in spans.items():
        size = place.sizes([name])[name]
        kept = [(at, new) for at, new in changes if size is not None and at + len(new) <= size]
        if kept:
            place.overwrite(name, kept)
    for name, digest in item.after.items():
        if not name.startswith(f"{folder}/"):
            raise DamagedStore(f"{place.label(name)} is no file of {folder}. Do not use this store.")
        size = place.sizes([name])[name]
        listed = manifest.files.get(name) if manifest else None
        changed[name] = FileEntry(name, listed.size if listed else size or 0, digest)
    rows = set(item.rows)
    touched = {row // shape.part_rows for row in rows}
    for part in range(shape.num_parts):
        name = shape.record(part)
        record = _record(place, shape, part)
        if record is None or record.plan not in (item.plan_before, item.plan_after):
            if place.sizes([name])[name] is not None and (part in touched or not sealed):
                place.discard(name)
                record = None
            if record is None and part in touched and not sealed:  # of a part that is not committed
                for path in [shape.chunk(column, part) for column in shape.columns]:
                    place.discard(path)
            continue
        new = _erased(record, shape, rows if part in touched else set(), item.plan_after, changed).encode()
        if place.read(name) != new:
            place.wipe(name, new)
        changed[name] = entry_of(name, new)
    for field in shape.index_arrays():
        chunk = shape.index_chunk(field)
        size = place.sizes([chunk])[chunk]
        if size and field != "source" and not size % shape.num_rows:
            width = size // shape.num_rows
            place.overwrite(chunk, [(row * width, _blank(field, width)) for row in item.rows])
    if body is not None:
        files = [
            list(entry._replace(sha256=item.after.get(entry.path, entry.sha256))) for entry in parse_files(body, where).values()
        ]
        encoded = seal_json({**{key: value for key, value in body.items() if key != "sha256"}, "files": files})
        if sealed_hash(encoded) != item.plan_after:
            raise DamagedStore(f"{place.label(shape.plan)} does not fit its erasure. Restore it from a copy.")
        if data != encoded:
            place.wipe(shape.plan, encoded)
        changed[shape.plan] = entry_of(shape.plan, encoded)
    return changed


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


def _discard_temporaries(place: Place) -> None:
    """What lies staged may hold the rows; other writers write theirs again."""
    for name in list(place.walk()):
        if TEMPORARY.search(name):
            place.discard(name)


def _read(place: Place, name: str) -> Erasure:
    where = place.label(name)
    advice = f"Restore {where} from a copy; or remove it, and erase the subject again."
    try:
        body = unseal_json(place.read(name), where)
    except (OSError, DamagedStore) as error:
        raise DamagedStore(f"{where} is damaged. {advice}") from error
    check_version(body, where)
    try:
        segments = tuple(_segment_of(item) for item in body["segments"])
        rows, keyed_hash = body["rows"], body["keyed_hash"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedStore(f"{where} is not well formed. {advice}") from error
    if not _whole_numbers(rows) or not isinstance(keyed_hash, str):
        raise DamagedStore(f"{where} is not well formed. {advice}")
    return Erasure(name=name, rows=tuple(rows), keyed_hash=keyed_hash, segments=segments)


def _segment_of(item: Json) -> SegmentErasure:
    """One entry of `segments`; KeyError, TypeError or ValueError where it is not as it must be."""
    spans, after = item["spans"], item["after"]
    texts = [item["plan_before"], item["plan_after"], *after, *after.values(), *(span[0] for span in spans)]
    numbers = [item["segment"], *item["rows"], *(value for span in spans for value in span[1:])]
    paths = [*after, *(span[0] for span in spans)]
    if not all(isinstance(text, str) for text in texts) or not _whole_numbers(numbers) or not all(map(is_safe_path, paths)):
        raise ValueError
    if any(len(span) != 3 for span in spans):
        raise ValueError
    return SegmentErasure(
        segment=item["segment"],
        plan_before=item["plan_before"],
        plan_after=item["plan_after"],
        rows=tuple(item["rows"]),
        spans=tuple((path, first, count) for path, first, count in spans),
        after=dict(after),
    )


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_ROWS for value in values)
