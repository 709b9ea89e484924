"""Reading a store: opened by its head alone, columns mapped, rows found by id and by group.

Opening checks that every file the head lists is there with its size (stat only). Index arrays are checked by checksum
when they are first used; columns are checked by `verify`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_cache.errors import DamagedStore, IncompleteStore, StoreError
from embed_cache.layout import ERASURES, HEAD, PLAN, ROOT, SEGMENTS, STATUS, Column, SegmentShape
from embed_cache.manifest import Json, Manifest, check_identity, parse_head, parse_int, refuse_stale, unseal_json
from embed_cache.place import Place, place_of

I64 = npt.NDArray[np.int64]
ERASED = STATUS.index("erased")
ERASURE = re.compile(ERASURES + r"/[0-9]{5,}\.json")


class Piece(NamedTuple):
    """`used` leading bytes of the file `path` (which has `size` bytes) belong at `start` of a flat array."""

    path: str
    start: int
    used: int
    size: int


def open_store(uri: str | os.PathLike[str]) -> EmbeddingStore:
    """The store at `uri`, read-only. Refused without a head, or when a file is missing; an erasure that was begun is finished."""
    return open_at(place_of(uri))


def open_at(place: Place) -> EmbeddingStore:
    """`open_store` of a place."""
    from embed_cache.erase import finish_at

    finish_at(place)
    manifest = read_head(place)
    if manifest is None:
        raise _no_head(place)
    _check_sizes(place, manifest)
    return EmbeddingStore(place, manifest)


class EmbeddingStore:
    """Sealed segments one after another, global row numbers from 0. Rows that are not `ok` hold fill values."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place = place
        self.path = place.label()
        self.manifest = manifest
        self.columns: dict[str, Column] = {column.name: column for column in manifest.columns}
        self._offsets = np.cumsum([0] + [shape.num_rows for shape in manifest.segments])
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._ragged_parts: dict[str, npt.NDArray[Any]] = {}
        self._last_part: dict[str, tuple[str, npt.NDArray[Any]]] = {}
        self._segment_indices: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def __len__(self) -> int:
        return self.manifest.num_rows

    def __repr__(self) -> str:
        return f"EmbeddingStore({self.path!r}, {len(self)} rows, columns {list(self.columns)})"

    @cached_property
    def index(self) -> pa.Table:
        """One line a row, in row order: id, group, status, reason, permanent, fingerprint, live, segment, part, row, counts."""
        arrays = self._merged
        segment = np.repeat(np.arange(len(self.manifest.segments)), np.diff(self._offsets))
        parts = [np.arange(shape.num_rows) // shape.part_rows for shape in self.manifest.segments]
        table = {
            "id": _arrow_strings(arrays["id"], self.path),
            "group": _arrow_strings(arrays["group"], self.path),
            "status": _arrow_strings(np.array(STATUS, dtype=bytes)[arrays["status"]], self.path),
            "reason": _arrow_strings(arrays["reason"], self.path),
            "permanent": _arrow_flags(arrays["permanent"]),
            "fingerprint": _arrow_strings(arrays["fingerprint"], self.path),
            "live": _arrow_flags(self._live),
            "segment": _arrow_numbers(segment),
            "part": _arrow_numbers(np.concatenate(parts)),
            "row": _arrow_numbers(np.arange(len(self))),
        }
        return pa.table(table | {name: _arrow_numbers(arrays[f"counts/{name}"]) for name in self.manifest.counts})

    def rows(self, ids: Iterable[str]) -> I64:
        """Global row numbers of the live rows of `ids`."""
        found = []
        for name in ids:
            row = self._row_of.get(name)
            if row is None:
                example = next(iter(self._row_of), "")
                raise StoreError(
                    f"{self.path} holds no live row {name!r} (it holds {len(self._row_of)}, such as {example!r}). Cache it first."
                )
            found.append(row)
        return np.array(found, dtype=np.int64)

    def group(self, study: str) -> slice:
        """The rows of a group in the newest segment that has it."""
        found = self._groups.get(study)
        if found is None:
            example = next(iter(self._groups), "")
            raise StoreError(
                f"{self.path} holds no group {study!r} (it holds {len(self._groups)}, such as {example!r}). Cache it first."
            )
        return slice(*found)

    def live_rows(self) -> npt.NDArray[np.bool_]:
        """(len,) False for rows that a newer segment supersedes, and for erased ones."""
        return self._live

    def read(self, column: str, rows: slice | I64) -> npt.NDArray[Any]:
        """Rows of a fixed column: a view for a slice, a copy for row numbers."""
        values = self.array(column)
        if isinstance(rows, slice):
            return values[rows]
        numbers = np.asarray(rows)
        if numbers.dtype.kind not in "iu":
            raise StoreError(f"rows must be a slice or whole numbers, not {numbers.dtype}; find them with rows(ids).")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise StoreError(
                f"rows {numbers.min()} to {numbers.max()} were asked of {self.path}, which has rows 0 to {len(self) - 1}."
            )
        result: npt.NDArray[Any] = values.take(numbers, axis=0)
        return result

    def array(self, column: str) -> npt.NDArray[Any]:
        """All rows of a fixed column, (len, *shape), read-only: mapped where full chunks are whole pages, else in memory."""
        if column not in self._arrays:
            found = self._column(column, ragged=False)
            pieces = []
            for shape, offset in zip(self.manifest.segments, self._offsets, strict=False):
                for part in range(shape.num_parts):
                    rows = shape.part(part)
                    start, used = (int(offset) + rows.start) * found.row_bytes, (rows.stop - rows.start) * found.row_bytes
                    pieces.append(Piece(shape.chunk(found, part), start, used, shape.part_rows * found.row_bytes))
            values = self.place.flat(pieces, len(self) * found.row_bytes).view(found.numpy_dtype)
            self._arrays[column] = values.reshape(len(self), *found.shape)
        return self._arrays[column]

    def read_ragged(self, column: str, row: int) -> npt.NDArray[Any]:
        """The entries of one row of a ragged column, (n, *shape), read-only; none for a row that is not `ok`."""
        found = self._column(column, ragged=True)
        if not 0 <= row < len(self):
            raise StoreError(f"row {row} was asked of {self.path}, which has rows 0 to {len(self) - 1}.")
        segment = int(np.searchsorted(self._offsets, row, side="right")) - 1
        inner = int(row) - int(self._offsets[segment])
        shape, index = self.manifest.segments[segment], self.segment_index(segment)
        start, count = int(index[f"ragged_start/{column}"][inner]), int(index[f"ragged_count/{column}"][inner])
        return self.ragged_part(shape, found, inner // shape.part_rows)[start : start + count]

    def require(self, *, kind: str, identity: Json, columns: Sequence[Column], counts: Sequence[str]) -> None:
        """Refuse, naming each field that differs, a store that was not made as said."""
        refuse_stale(self.manifest.schema, check_identity(kind, identity, columns, counts), self.path)

    def begun(self, segment: int) -> float:
        """When a segment was planned, in seconds since 1970 by the files' times: a source changed since may be another one.

        An erasure or a repair writes some of the files again; the oldest tells.
        """
        shape = self.manifest.segments[segment]
        return min(
            self.place.modified(name) for name in [shape.plan, f"{shape.folder}/zarr.json", f"{shape.folder}/index/zarr.json"]
        )

    def content_hash(self) -> str:
        """Equal for equal content, whatever the times, hosts and interruptions (FORMAT.md, 9). From the head alone."""
        return self.manifest.content_hash()

    def segment_index(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Index arrays of a segment, checked: strings as zero-padded bytes (N,), the rest as numbers (N,)."""
        if number not in self._segment_indices:
            shape = self.manifest.segments[number]
            arrays: dict[str, npt.NDArray[Any]] = {}
            for name in shape.index_arrays():
                arrays[name] = self._index_array(number, name)
            _check_index(arrays, shape, self.manifest, self.place.label(f"{shape.folder}/index"))
            self._segment_indices[number] = arrays
        return self._segment_indices[number]

    def _index_array(self, number: int, name: str) -> npt.NDArray[Any]:
        shape = self.manifest.segments[number]
        entry = self.manifest.files[shape.index_chunk(name)]
        data = self.place.read(entry.path, entry.size)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedStore(
                f"{self.place.label(entry.path)} is damaged: its bytes do not match the head. "
                "Repair the store, or restore the file from a copy."
            )
        dtype, width = shape.index_arrays()[name]
        kind = np.dtype(f"S{entry.size // shape.num_rows}") if width == 0 else np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(data, dtype=kind)

    def fixed_part(self, shape: SegmentShape, column: Column, part: int) -> npt.NDArray[Any]:
        """One part of a fixed column, padding included, (part_rows, *shape), from its own file alone."""
        key = shape.chunk(column, part)
        if self._last_part.get(column.name, ("",))[0] != key:
            size = shape.part_rows * column.row_bytes
            raw = self.place.flat([Piece(key, 0, size, size)], size)
            self._last_part[column.name] = key, raw.view(column.numpy_dtype).reshape(shape.part_rows, *column.shape)
        return self._last_part[column.name][1]

    def ragged_part(self, shape: SegmentShape, column: Column, part: int) -> npt.NDArray[Any]:
        """All entries of one part of a ragged column, (F_p, *shape)."""
        path = shape.chunk(column, part)
        if path not in self._ragged_parts:
            entry = self.manifest.files.get(path)
            size = entry.size if entry else 0
            raw = self.place.flat([Piece(path, 0, size, size)] if entry else [], size)
            self._ragged_parts[path] = raw.view(column.numpy_dtype).reshape(size // column.row_bytes, *column.shape)
        return self._ragged_parts[path]

    @cached_property
    def _merged(self) -> dict[str, npt.NDArray[Any]]:
        indices = [self.segment_index(number) for number in range(len(self.manifest.segments))]
        return {name: np.concatenate([index[name] for index in indices]) for name in indices[0]}

    @cached_property
    def _runs(self) -> list[tuple[bytes, int, int]]:
        """(group, first row, last row + 1) of every group in every segment, oldest first; erased rows belong to none."""
        runs = []
        for number, offset in enumerate(self._offsets[:-1].tolist()):
            index = self.segment_index(number)
            groups = index["group"]
            edges = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1], True])
            runs += [
                (bytes(groups[first]), offset + first, offset + last)
                for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
                if groups[first]
            ]
        return runs

    @cached_property
    def _groups(self) -> dict[str, tuple[int, int]]:
        return {group.decode(): (first, last) for group, first, last in self._runs}

    @cached_property
    def _live(self) -> npt.NDArray[np.bool_]:
        """From groups and status alone, so that a look at a store of a million rows takes no second."""
        live = np.zeros(len(self), dtype=bool)
        newer: npt.NDArray[np.bytes_] = np.array([], dtype="S1")
        for number in reversed(range(len(self.manifest.segments))):
            offset = int(self._offsets[number])
            groups = self._index_array(number, "group")
            edges = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
            names = groups[edges]
            kept = (names != b"") & ~np.isin(names, newer)
            newer = np.union1d(newer, names)
            span = slice(offset, offset + len(groups))
            live[span] = np.repeat(kept, np.diff(np.r_[edges, len(groups)]))
            live[span] &= self._index_array(number, "status") != ERASED
        return live

    @cached_property
    def _row_of(self) -> dict[str, int]:
        rows = np.flatnonzero(self._live)
        ids = self._merged["id"][rows]
        try:
            return {name.decode(): row for name, row in zip(ids.tolist(), rows.tolist(), strict=True)}
        except UnicodeDecodeError as error:
            raise DamagedStore(f"{self.path} holds an id that is not UTF-8. Make the store again.") from error

    def _column(self, name: str, *, ragged: bool) -> Column:
        found = self.columns.get(name)
        if found is None:
            raise StoreError(f"{self.path} has no column {name!r}. There is: {', '.join(self.columns)}.")
        if found.ragged != ragged:
            how = "read_ragged(column, row)" if found.ragged else "array(column) or read(column, rows)"
            raise StoreError(f"column {name!r} of {self.path} is {'' if found.ragged else 'not '}ragged; read it with {how}.")
        return found


def read_head(place: Place) -> Manifest | None:
    """The head of a store, None where there is none."""
    try:
        data = place.read(HEAD)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {place.label(HEAD)}: {error.strerror}. Mend that and run again.") from error
    return parse_head(data, place.label(HEAD))


def parts_done(place: Place, segment: int) -> tuple[int, int] | None:
    """(parts with a commit record, parts planned) of the open segment, None where none is planned."""
    folder = f"{SEGMENTS}/{segment:05d}"
    where = place.label(f"{folder}/{PLAN}")
    try:
        body = unseal_json(place.read(f"{folder}/{PLAN}"), where)
    except (FileNotFoundError, NotADirectoryError):
        return None
    rows = parse_int(body, "num_rows", where, 1, 1 << 40)
    done = sum(1 for name in place.walk(f"{folder}/log") if name.endswith(".json"))
    return done, -(-rows // parse_int(body, "part_rows", where, 1, 1 << 40))


def is_store(place: Place) -> bool:
    """True where a store was begun: its root group carries the mark of the format."""
    try:
        return b'"embed_cache"' in place.read(ROOT, 1 << 20)
    except (OSError, DamagedStore):
        return False


def erasure_names(place: Place) -> list[str]:
    """Erasure records, oldest first."""
    return [name for name in place.walk(ERASURES) if ERASURE.fullmatch(name)]


def _no_head(place: Place) -> StoreError:
    path = place.label()
    if place.top() is None:
        return StoreError(f"there is no store at {path}. Check the path, or make one first.")
    if not is_store(place):
        return StoreError(f"{path} is not a store. Check the path, or make one first.")
    found = parts_done(place, 0)
    how_far = "no part is finished" if found is None else f"{found[0]} of {found[1]} parts are finished"
    return IncompleteStore(
        f"{path} is not complete: it has no {HEAD}, {how_far}. Run the command that makes it again to finish it."
    )


def _check_sizes(place: Place, manifest: Manifest) -> None:
    sizes = place.sizes(manifest.files)
    wrong = [entry.path for entry in manifest.files.values() if sizes[entry.path] != entry.size]
    if wrong:
        more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
        raise DamagedStore(
            f"{place.label(min(wrong))}{more}: missing, or not of the size the head lists. "
            "Verify the store to see which rows are lost, then repair it, restore the files from a copy or make it again."
        )


def _check_index(arrays: dict[str, npt.NDArray[Any]], shape: SegmentShape, manifest: Manifest, where: str) -> None:
    """What later code relies on; equal checksums do not make a foreign writer's numbers sensible."""
    if arrays["status"].max() >= len(STATUS) or arrays["permanent"].max() > 1:
        raise DamagedStore(f"{where} holds a status this version does not know. Update the program, or make the store again.")
    parts = np.arange(shape.num_rows) // shape.part_rows
    for column in shape.ragged():
        start, count = arrays[f"ragged_start/{column.name}"], arrays[f"ragged_count/{column.name}"]
        files = [manifest.files.get(shape.chunk(column, part)) for part in range(shape.num_parts)]
        lengths = np.array([entry.size // column.row_bytes if entry else 0 for entry in files])
        if (start < 0).any() or (count < 0).any() or (start > lengths[parts]).any() or (count > lengths[parts] - start).any():
            raise DamagedStore(f"{where} points outside column {column.name!r}. Make the store again.")


def _arrow_numbers(values: npt.NDArray[np.int64]) -> pa.Array:
    """(N,) -> Arrow int64 from its bytes (`pa.array` of an ndarray would import pandas, half a second)."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values.astype("<i8").tobytes())])


def _arrow_flags(values: npt.NDArray[Any]) -> pa.Array:
    packed = np.packbits(values.astype(bool), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed.tobytes())])


def _arrow_strings(values: npt.NDArray[np.bytes_], path: str) -> pa.Array:
    """Zero-padded UTF-8 (N,) -> Arrow strings, without a Python object a row."""
    width = values.dtype.itemsize
    raw = np.frombuffer(values.tobytes(), dtype=np.uint8).reshape(len(values), width)
    used = raw != 0
    lengths = used.sum(1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    wide = int(offsets[-1]) >= 1 << 31
    kind = pa.large_string() if wide else pa.string()
    buffers = [None, pa.py_buffer(offsets.astype(np.int64 if wide else np.int32).tobytes()), pa.py_buffer(raw[used].tobytes())]
    result = pa.Array.from_buffers(kind, len(values), buffers)
    try:
        result.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DamagedStore(
            f"{path} holds an id, group, reason or fingerprint that is not UTF-8. Make the store again."
        ) from error
    return result
