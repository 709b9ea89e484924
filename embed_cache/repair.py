"""Mending a store: what follows from other files is put back at once, what does not is computed again, part by part.

Commit records and index arrays say the same twice, so either gives the other; metadata and plans follow from the head;
the head from plans and records. Only column files need their sources.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_cache.erase import carry_out, open_erasures, settle_open
from embed_cache.errors import DamagedStore, StoreError
from embed_cache.layout import (
    ERASURES,
    FORMAT_VERSION,
    HEAD,
    SEGMENTS,
    STATUS,
    STRINGS_PLANNED,
    STRINGS_SEALED,
    SegmentShape,
    root_files,
    zarr_array,
)
from embed_cache.manifest import (
    FileEntry,
    Json,
    Manifest,
    Record,
    check_identity,
    parse_files,
    parse_head,
    parse_record,
    refuse_stale,
    sealed_hash,
    unseal_json,
)
from embed_cache.place import Place, place_of
from embed_cache.plan import Plan
from embed_cache.segment import entry_of, index_files, plan_files, read_plan
from embed_cache.store import EmbeddingStore, erasure_names, is_store, read_head
from embed_cache.writer import Row, Writer

REBUILT: Json = {"rebuilt": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What a repair did, and what it leaves."""

    mended: tuple[str, ...]
    """Files that were put back or written anew."""
    pending: Mapping[int, tuple[int, ...]]
    """Segment -> parts whose values must be computed again (`Writer.repair`)."""
    lost: tuple[str, ...]
    """Files that follow from nothing else: restore them from a copy, or make the store again."""

    unlisted: tuple[str, ...] = ()
    """Files that are not of the store: look at them, and remove them."""

    @property
    def ok(self) -> bool:
        """Nothing is left to do."""
        return not self.pending and not self.lost and not self.unlisted


def repair(uri: str | os.PathLike[str]) -> RepairReport:
    """Puts back all that follows from other files of the store; a sound store is left as it is."""
    place = place_of(uri)
    if not is_store(place) and not list(place.walk("segments")):
        raise StoreError(f"there is no store at {place.label()}. Check the path.")
    mended: list[str] = []
    for name, data in root_files().items():
        if _bytes(place, name) != data:
            place.write({name: data})
            mended.append(name)
    with place.locked():
        try:
            manifest = read_head(place)
        except DamagedStore:
            old = _bytes(place, HEAD)
            manifest = _rebuilt_head(place)
            if old is None:
                place.discard(HEAD)
            if not place.replace(HEAD, manifest.encode(), old):
                raise StoreError(f"{place.label(HEAD)} is being changed by another writer. Run the same command again.") from None
            mended.append(HEAD)
        if manifest is None:
            raise StoreError(f"{place.label()} is not complete. Run the command that makes it again to finish it.")
        carry_out(place)
        settle_open(place, len(manifest.segments))
        place.clean()
        head_bytes = place.read(HEAD)
        manifest = parse_head(head_bytes, place.label(HEAD))
        changed: dict[str, FileEntry] = {}
        pending: dict[int, tuple[int, ...]] = {}
        bad = _bad(place, manifest)
        lost = sorted(name for name in bad if name.startswith(f"{ERASURES}/"))
        for shape in manifest.segments:
            found = _Segment(place, manifest, shape, bad)
            found.mend()
            mended += found.mended
            lost += found.lost
            changed |= found.changed
            if found.parts:
                pending[shape.number] = tuple(sorted(found.parts))
        if changed:
            head = dataclasses.replace(manifest, files={**manifest.files, **changed}).encode()
            parse_head(head, place.label(HEAD))
            if not place.replace(HEAD, head, head_bytes):
                raise StoreError(f"{place.label(HEAD)} is being changed by another writer. Run the same command again.")
        prefix = f"{SEGMENTS}/{len(manifest.segments):05d}/"
        foreign = [name for name in place.walk() if name not in manifest.files and name != HEAD and not name.startswith(prefix)]
    return RepairReport(mended=tuple(mended), pending=pending, lost=tuple(lost), unlisted=tuple(foreign))


class _Segment:
    """One sealed segment while it is mended."""

    def __init__(self, place: Place, manifest: Manifest, shape: SegmentShape, bad: Collection[str]) -> None:
        self.place, self.manifest, self.shape = place, manifest, shape
        self.mended: list[str] = []
        self.lost: list[str] = []
        self.parts: set[int] = set()
        self.changed: dict[str, FileEntry] = {}
        self.bad = {name for name in bad if name.startswith(f"{shape.folder}/")}

    def mend(self) -> None:
        if not self.bad:
            return
        shape = self.shape
        for name, data in {**shape.skeleton(), **self._metadata()}.items():
            self._put_back(name, data)
        records = [self._record(part) for part in range(shape.num_parts)]
        whole = [record for record in records if record is not None]
        if len(whole) == shape.num_parts:
            for name, data in self._arrays(whole).items():
                self._put_back(name, data)
        self._mend_plan()
        for part in range(shape.num_parts):
            if shape.record(part) in self.bad:
                self._mend_record(part)
        for part in range(shape.num_parts):
            self._mend_columns(part, records[part])
        self.lost += sorted(self.bad)

    def _put_back(self, name: str, data: bytes) -> None:
        """Writes what a file must have been, if it is the bytes that the head lists."""
        if name in self.bad and entry_of(name, data) == self.manifest.files[name]:
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        if self.place.sizes([name])[name] is None:
            self.place.discard(name)  # a link or a folder in its place
        self.place.write({name: data})
        self.bad.discard(name)
        self.mended.append(name)

    def _metadata(self) -> dict[str, bytes]:
        """zarr.json of index arrays and of parts of ragged columns, by the sizes that the head lists."""
        shape, files = self.shape, {}
        for name, (dtype, width) in shape.index_arrays().items():
            size = self.manifest.files[shape.index_chunk(name)].size
            sizes = (shape.num_rows,) if width is None else (shape.num_rows, size // shape.num_rows)
            fill = 0 if width == 0 else int(np.iinfo(dtype).min)
            files[shape.index_meta(name)] = zarr_array(sizes, shape.num_rows, dtype, fill)
        for column in shape.ragged():
            for part in range(shape.num_parts):
                found = self.manifest.files.get(shape.chunk(column, part))
                length = found.size // column.row_bytes if found else 0
                meta = zarr_array((length, *column.shape), max(length, 1), column.dtype, column.fill)
                files[f"{shape.ragged_folder(column, part)}/zarr.json"] = meta
        return files

    def _widths(self) -> dict[str, int]:
        names = STRINGS_PLANNED + STRINGS_SEALED
        return {name: self.manifest.files[self.shape.index_chunk(name)].size // self.shape.num_rows for name in names}

    def _record(self, part: int) -> Record | None:
        name = self.shape.record(part)
        if name in self.bad:
            return None
        return parse_record(self.place.read(name), self.place.label(name), self.shape)

    def _arrays(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Every index array, from the commit records."""
        names = {field: tuple(text for record in records for text in getattr(record, field)) for field in STRINGS_PLANNED}
        source = np.array([value for record in records for value in record.source], dtype=np.int64)
        return {**index_files(self.shape, records, self._widths()), **self._planned(names["id"], names["group"], source)[0]}

    def _planned(
        self, ids: tuple[str, ...], groups: tuple[str, ...], source: npt.NDArray[np.int64]
    ) -> tuple[dict[str, bytes], bytes]:
        seed = self.manifest.seeds[self.shape.number]
        plan = Plan(ids=ids, groups=groups, part_rows=self.shape.part_rows, seed=seed)
        return plan_files(self.shape, self.manifest.schema, plan, source, self._widths())

    def _array(self, name: str) -> npt.NDArray[Any] | None:
        """An index array that is sound: strings as (N,) bytes, the rest as numbers."""
        chunk = self.shape.index_chunk(name)
        if chunk in self.bad:
            return None
        dtype, width = self.shape.index_arrays()[name]
        data = self.place.read(chunk)
        return np.frombuffer(data, dtype=f"S{len(data) // self.shape.num_rows}" if width == 0 else np.dtype(dtype))

    def _mend_plan(self) -> None:
        if self.shape.plan not in self.bad:
            return
        ids, groups, source = (self._array(name) for name in ("id", "group", "source"))
        if ids is None or groups is None or source is None:
            return
        names, their_groups = (tuple(item.decode() for item in values.tolist()) for values in (ids, groups))
        self._put_back(self.shape.plan, self._planned(names, their_groups, source)[1])

    def _mend_record(self, part: int) -> None:
        """From the index arrays; its provenance is gone. Where these are damaged too, the part is computed again."""
        shape, span = self.shape, self.shape.part(part)
        arrays = {name: self._array(name) for name in shape.index_arrays()}
        if any(values is None for values in arrays.values()) or shape.plan in self.bad:
            self.parts.add(part)
            return
        found = {name: values[span] for name, values in arrays.items() if values is not None}
        texts = {name: [item.decode() for item in found[name].tolist()] for name in STRINGS_PLANNED + STRINGS_SEALED}
        record = Record(
            plan=sealed_hash(self.place.read(shape.plan)),
            part=part,
            writer="0",
            source=found["source"].tolist(),
            status=found["status"].tolist(),
            permanent=found["permanent"].tolist(),
            counts={name: found[f"counts/{name}"].tolist() for name in shape.counts},
            ragged_start={column.name: found[f"ragged_start/{column.name}"].tolist() for column in shape.ragged()},
            ragged_count={column.name: found[f"ragged_count/{column.name}"].tolist() for column in shape.ragged()},
            files=tuple(self.manifest.files[name] for name in self._files(part)),
            provenance=REBUILT,
            **texts,
        )
        name, data = shape.record(part), record.encode()
        self._write(name, data)
        self.changed[name] = entry_of(name, data)

    def _files(self, part: int) -> list[str]:
        """The column files of a part, in the order in which a writer lists them."""
        names = []
        for column in self.shape.columns:
            if column.ragged:
                names.append(f"{self.shape.ragged_folder(column, part)}/zarr.json")
            if self.shape.chunk(column, part) in self.manifest.files:
                names.append(self.shape.chunk(column, part))
        return names

    def _mend_columns(self, part: int, record: Record | None) -> None:
        """A part without values holds fill values; any other must be computed again."""
        for column in self.shape.columns:
            name = self.shape.chunk(column, part)
            if name not in self.bad:
                continue
            self._put_back(name, column.empty(self.shape.part_rows).tobytes())
            if name in self.bad:
                self.parts.add(part)
        if part in self.parts:
            self.bad -= {*self._files(part), self.shape.record(part)}


class Repairer(Writer):
    """A writer over a sealed segment: pending are the parts that are damaged, computed anew are their rows with values."""

    def __init__(self, store: EmbeddingStore, number: int, parts: Collection[int]) -> None:
        manifest, place = store.manifest, store.place
        found = read_plan(place, number)
        if found is None:
            raise DamagedStore(f"{place.label(manifest.segments[number].folder)}: its plan is damaged. Repair the store first.")
        super().__init__(place, manifest.schema, found.shape, found.plan)
        self._source = found.source
        self._store = store
        self._plan_hash = sealed_hash(place.read(found.shape.plan))
        self._done = set(range(found.plan.num_parts)) - set(parts)
        self._repaired = tuple(sorted(parts))

    def refresh(self) -> list[int]:
        return self.pending()

    def rows_of(self, part: int) -> list[tuple[str, str, bool]]:
        first = self.plan.part(part).start
        return [
            (name, group, computed and self._had_values(first + place))
            for place, (name, group, computed) in enumerate(super().rows_of(part))
        ]

    def _had_values(self, row: int) -> bool:
        """Excluded and failed rows stay what they are; where the index is damaged too, every row is computed."""
        assert self._store is not None
        try:
            index = self._store.segment_index(self._shape.number)
        except (OSError, StoreError):
            return True
        return bool(index["status"][row] == STATUS.index("ok"))

    def _outcomes(self, part: int, rows: Sequence[Row | None]) -> list[tuple[Row | None, Any]]:
        assert self._store is not None
        first = self.plan.part(part).start
        kept: list[tuple[Row | None, Any]] = []
        for place, (row, origin) in enumerate(super()._outcomes(part, rows)):
            if row is None and origin is None and self.plan.ids[first + place]:
                index = self._store.segment_index(self._shape.number)
                at = first + place
                outcome: Any = STATUS[int(index["status"][at])]
                kept.append(
                    (
                        Row(
                            outcome,
                            bytes(index["reason"][at]).decode(),
                            bool(index["permanent"][at]),
                            bytes(index["fingerprint"][at]).decode(),
                            counts={name: int(index[f"counts/{name}"][at]) for name in self._shape.counts},
                        ),
                        None,
                    )
                )
            else:
                kept.append((row, origin))
        return kept

    def _commit(self, part: int, files: Mapping[str, bytes], record: bytes) -> bool:
        assert self._store is not None
        listed = self._store.manifest.files
        name = self._shape.record(part)
        same = all(listed.get(path) == entry_of(path, data) for path, data in files.items())
        with self.place.locked():
            self._refuse_changed_plan()
            if same and next(iter(self.place.checksums([name]))) == listed[name].sha256:
                self.place.write(files)
                return True
            self.place.write(files)
            self.place.write({name: record})
            chunks = [self._shape.chunk(column, part) for column in self._shape.ragged()]
            self.place.remove([path for path in chunks if path not in files])
        return True

    def seal(self, provenance: Json) -> None:
        """New checksums of what was computed anew, where bytes differ from the old ones."""
        if self.pending():
            raise StoreError(f"{self.path} has {len(self.pending())} damaged parts left; commit all of pending() before seal.")
        shape, place = self._shape, self.place
        with place.locked():
            self._refuse_changed_plan()
            old_head = place.read(HEAD)
            manifest = parse_head(old_head, place.label(HEAD))
            prefix = f"{shape.folder}/"
            files = {path: entry for path, entry in manifest.files.items() if not path.startswith(prefix)}
            plan = self._read(shape.plan)
            files |= {shape.plan: entry_of(shape.plan, plan), **parse_files(unseal_json(plan, shape.plan), shape.plan)}
            records = []
            for part in range(shape.num_parts):
                name = shape.record(part)
                data = self._read(name)
                records.append(parse_record(data, place.label(name), shape))
                files |= {name: entry_of(name, data), **{entry.path: entry for entry in records[-1].files}}
            widths = {
                name: manifest.files[shape.index_chunk(name)].size // shape.num_rows for name in STRINGS_PLANNED + STRINGS_SEALED
            }
            index = index_files(shape, records, widths)
            place.write({name: data for name, data in index.items() if _bytes(place, name) != data})
            files |= {path: entry_of(path, data) for path, data in index.items()}
            notes = list(manifest.provenance)
            old = notes[shape.number]
            notes[shape.number] = {**old, "repairs": [*old.get("repairs", []), {"parts": list(self._repaired), **provenance}]}
            head = dataclasses.replace(manifest, files=files, provenance=notes).encode()
            parse_head(head, place.label(HEAD))
            if not place.replace(HEAD, head, old_head):
                raise StoreError(f"{place.label(HEAD)} is being changed by another writer. Run the same command again.")
        self.sealed = True


def repairer(uri: str | os.PathLike[str], identity: Json) -> Repairer | None:
    """A writer of the damaged parts of the oldest segment that has some; None where no part is damaged."""
    place = place_of(uri)
    report = repair(uri)
    manifest = read_head(place)
    if not report.pending or manifest is None:
        return None
    schema = check_identity(manifest.kind, identity, manifest.columns, manifest.counts)
    refuse_stale(manifest.schema, schema, place.label())
    number = min(report.pending)
    return Repairer(EmbeddingStore(place, manifest), number, report.pending[number])


def _bad(place: Place, manifest: Manifest) -> set[str]:
    """Files that are not what the head lists."""
    listed = list(manifest.files.values())
    digests = place.checksums(entry.path for entry in listed)
    return {entry.path for entry, digest in zip(listed, digests, strict=True) if digest != entry.sha256}


def _bytes(place: Place, name: str) -> bytes | None:
    try:
        return place.read(name)
    except (OSError, StoreError):
        return None


def _rebuilt_head(place: Place) -> Manifest:
    """From plans and commit records, which must be sound: every segment whose parts are all committed."""
    shapes, seeds, schema = [], [], None
    files = {path: entry_of(path, data) for path, data in root_files().items()}
    number = 0
    while (found := read_plan(place, number)) is not None:
        shape, records = found.shape, []
        plan = place.read(shape.plan)
        for part in range(shape.num_parts):
            name = shape.record(part)
            try:
                data = place.read(name)
                record = parse_record(data, place.label(name), shape)
            except (OSError, StoreError):
                break
            if record.plan != sealed_hash(plan):
                break
            records.append(record)
            files |= {name: entry_of(name, data), **{entry.path: entry for entry in record.files}}
        if len(records) < shape.num_parts:
            files = {path: entry for path, entry in files.items() if not path.startswith(f"{shape.folder}/")}
            break
        settle_open(place, number)
        widths = _widths_on_disk(place, shape)
        index = index_files(shape, records, widths)
        place.write({name: data for name, data in index.items() if _bytes(place, name) != data})
        files |= {shape.plan: entry_of(shape.plan, plan), **parse_files(unseal_json(plan, shape.plan), place.label(shape.plan))}
        files |= {path: entry_of(path, data) for path, data in index.items()}
        shapes.append(shape)
        seeds.append(found.plan.seed)
        schema = found.schema
        number += 1
    # Index arrays are written when a segment is sealed: what has them was in the head.
    left = [name for name in place.walk(SEGMENTS) if name >= f"{SEGMENTS}/{number:05d}" and "/index/status/" in name]
    if schema is None or left:
        raise DamagedStore(
            f"{place.label(HEAD)} is damaged, and so are the plan or the commit records that it could be made from. "
            "Restore it from a copy, or make the store again."
        )
    # What is open is carried out afterwards, and then is listed.
    begun = open_erasures(place, None)
    erased = tuple(name for name in erasure_names(place) if name not in begun)
    files |= {name: entry_of(name, place.read(name)) for name in erased}
    return Manifest(
        format_version=FORMAT_VERSION,
        kind=schema.kind,
        identity=schema.identity,
        provenance=[dict(REBUILT) for _ in shapes],
        columns=schema.columns,
        counts=schema.counts,
        segments=tuple(shapes),
        files=files,
        erasures=erased,
        seeds=tuple(seeds),
    )


def _widths_on_disk(place: Place, shape: SegmentShape) -> dict[str, int]:
    """Widths of the strings as they are there; an erasure may have left them wider than the longest."""
    sizes = place.sizes([shape.index_chunk(name) for name in STRINGS_SEALED])
    found = {name: sizes[shape.index_chunk(name)] or 0 for name in STRINGS_SEALED}
    return {name: size // shape.num_rows for name, size in found.items() if size and not size % shape.num_rows}
