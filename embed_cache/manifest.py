"""The JSON side of a store: self-checking documents, the manifest (the content of the head), commit records, and comparison.

Nothing here is trusted because it is there: every field that is read is checked for its type, range and safety first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from embed_cache.errors import DamagedStore, StaleStore, StoreError
from embed_cache.layout import (
    DTYPES,
    ERASURES,
    FORMAT_VERSION,
    STATUS,
    Column,
    SegmentShape,
    check_name,
    is_safe_path,
    root_files,
)

Json = dict[str, Any]
_SEAL = b'{"sha256":"'
_SEAL_END = len(_SEAL) + 64
MAX_ROWS = 1 << 40


class FileEntry(NamedTuple):
    """One file as the head lists it."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What rows are of, and how they were made; compared field by field before anything is added."""

    kind: str
    identity: Json
    columns: tuple[Column, ...]
    counts: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        for name in self.counts:
            check_name(name, "count")
        if len({*names, *self.counts}) != len(names) + len(self.counts):
            raise StoreError(f"a name is used twice among the columns {names} and counts {list(self.counts)}.")
        if not names:
            raise StoreError("a store needs at least one column.")

    def to_json(self) -> Json:
        """As in plans and heads."""
        return {
            "kind": self.kind,
            "identity": self.identity,
            "columns": [column.to_json() for column in self.columns],
            "counts": list(self.counts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the head says of a store."""

    format_version: int
    kind: str
    identity: Json
    provenance: list[Json]
    """One entry a segment, oldest first: whatever the writer was given at `seal`."""
    columns: tuple[Column, ...]
    counts: tuple[str, ...]
    segments: tuple[SegmentShape, ...]
    files: Mapping[str, FileEntry]
    erasures: tuple[str, ...]
    """Erasure records that were carried out."""
    seeds: tuple[int, ...]
    """Seed of each segment's plan."""

    @property
    def schema(self) -> Schema:
        """The part that must be equal for rows to be added."""
        return Schema(kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts)

    @property
    def num_rows(self) -> int:
        """Rows of all segments, superseded ones included."""
        return sum(segment.num_rows for segment in self.segments)

    def content_hash(self) -> str:
        """sha256 over schema and, segment by segment, every array's path, shape, dtype and chunk checksums (FORMAT.md, 9)."""
        segments = []
        for shape in self.segments:
            arrays: list[list[Any]] = []
            for name, (dtype, width) in shape.index_arrays().items():
                entry = self.files[shape.index_chunk(name)]
                sizes = [shape.num_rows] if width is None else [shape.num_rows, entry.size // shape.num_rows]
                arrays.append([f"index/{name}", sizes, dtype, [entry.sha256]])
            for column in shape.columns:
                if column.ragged:
                    for part in range(shape.num_parts):
                        found = self.files.get(shape.chunk(column, part))
                        length = found.size // column.row_bytes if found else 0
                        path = shape.ragged_folder(column, part)[len(shape.folder) + 1 :]
                        arrays.append([path, [length, *column.shape], column.dtype, [found.sha256] if found else []])
                else:
                    chunks = [self.files[shape.chunk(column, part)].sha256 for part in range(shape.num_parts)]
                    arrays.append([f"columns/{column.name}", [shape.num_rows, *column.shape], column.dtype, chunks])
            segments.append(sorted(arrays))
        return hashlib.sha256(canonical({**self.schema.to_json(), "segments": segments})).hexdigest()

    def encode(self) -> bytes:
        """The bytes of the head file."""
        return seal_json(
            {
                "format": "embed_cache",
                "format_version": self.format_version,
                **self.schema.to_json(),
                "segments": [
                    {"num_rows": shape.num_rows, "part_rows": shape.part_rows, "seed": seed, "provenance": provenance}
                    for shape, seed, provenance in zip(self.segments, self.seeds, self.provenance, strict=True)
                ],
                "erasures": list(self.erasures),
                "files": [list(self.files[path]) for path in sorted(self.files)],
            }
        )


def parse_head(data: bytes, where: str) -> Manifest:
    """The manifest in a head file's bytes; every list in it agrees with every other, or DamagedStore."""
    body = unseal_json(data, where)
    check_version(body, where)
    schema = parse_schema(body, where)
    shapes, seeds, provenance = [], [], []
    for number, item in enumerate(_list(body, "segments", where)):
        if not isinstance(item, dict):
            raise _malformed(where, "segments")
        num_rows = _int(item, "num_rows", where, 1, MAX_ROWS)
        shape = SegmentShape(number, num_rows, _int(item, "part_rows", where, 1, MAX_ROWS), schema.columns, schema.counts)
        shapes.append(shape)
        seeds.append(_int(item, "seed", where, -(1 << 63), 1 << 64))
        provenance.append(_dict(item, "provenance", where))
    if not shapes:
        raise _malformed(where, "segments")
    files = parse_files(body, where)
    erasures = _list(body, "erasures", where)
    expected: dict[str, int | None] = {path: len(text) for path, text in root_files().items()}
    for path in erasures:
        if not isinstance(path, str) or not path.startswith(f"{ERASURES}/"):
            raise _malformed(where, "erasures")
        expected[path] = None
    # Before anything of the claimed size is built: a part has its record and a file for every column.
    if sum(shape.num_parts for shape in shapes) * (1 + len(schema.columns)) > len(files):
        raise _malformed(where, "files")
    for shape in shapes:
        expected |= shape.expected_files()
    optional = {shape.chunk(column, part) for shape in shapes for column in shape.ragged() for part in range(shape.num_parts)}
    for path, size in expected.items():
        found = files.get(path)
        if (found is None and path not in optional) or (found is not None and size is not None and found.size != size):
            raise DamagedStore(f"{where} does not list {path} with the size its rows need. Restore {where} from a copy.")
    if len(files.keys() - expected.keys()):
        raise DamagedStore(
            f"{where} lists {min(files.keys() - expected.keys())!r}, which is no part of a store. Restore it from a copy."
        )
    for shape in shapes:
        for name, (_, width) in shape.index_arrays().items():
            if width == 0 and (files[shape.index_chunk(name)].size % shape.num_rows or not files[shape.index_chunk(name)].size):
                raise _malformed(where, shape.index_chunk(name))
        for column in shape.ragged():
            for part in range(shape.num_parts):
                found = files.get(shape.chunk(column, part))
                if found and (found.size % column.row_bytes or not found.size):
                    raise _malformed(where, found.path)
    return Manifest(
        format_version=FORMAT_VERSION,
        kind=schema.kind,
        identity=schema.identity,
        provenance=provenance,
        columns=schema.columns,
        counts=schema.counts,
        segments=tuple(shapes),
        files=files,
        erasures=tuple(erasures),
        seeds=tuple(seeds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The commit record of one part: a list entry a row for everything the index will hold."""

    plan: str
    """sha256 of the plan this part belongs to."""
    part: int
    writer: str
    """Digits: until the files lie in their places they are NAME.<writer>.tmp."""
    id: list[str]
    group: list[str]
    source: list[int]
    status: list[int]
    permanent: list[int]
    reason: list[str]
    fingerprint: list[str]
    counts: dict[str, list[int]]
    ragged_start: dict[str, list[int]]
    ragged_count: dict[str, list[int]]
    files: tuple[FileEntry, ...]
    provenance: Json

    def encode(self) -> bytes:
        """The bytes of the record file."""
        fields = (
            "plan",
            "part",
            "writer",
            "id",
            "group",
            "source",
            "status",
            "permanent",
            "reason",
            "fingerprint",
            "counts",
            "ragged_start",
            "ragged_count",
            "provenance",
        )
        body = {name: getattr(self, name) for name in fields}
        return seal_json({"format_version": FORMAT_VERSION, **body, "files": [list(entry) for entry in self.files]})


def parse_record(data: bytes, where: str, shape: SegmentShape) -> Record:
    """The record in a file's bytes; DamagedStore unless it fits the segment."""
    body = unseal_json(data, where)
    check_version(body, where)
    part = _int(body, "part", where, 0, shape.num_parts - 1)
    rows = shape.part(part)
    length = rows.stop - rows.start

    def numbers(name: str, low: int, high: int, holder: Json = body) -> list[int]:
        values = _list(holder, name, where)
        if len(values) != length or not all(type(value) is int and low <= value <= high for value in values):
            raise _malformed(where, name)
        return values

    def strings(name: str) -> list[str]:
        values = _list(body, name, where)
        if len(values) != length or not all(isinstance(value, str) for value in values):
            raise _malformed(where, name)
        return values

    writer = _str(body, "writer", where)
    if not writer.isascii() or not writer.isdigit() or len(writer) > 64:
        raise _malformed(where, "writer")
    int64 = (-(1 << 63), (1 << 63) - 1)
    ragged = [column.name for column in shape.ragged()]
    return Record(
        plan=_str(body, "plan", where),
        part=part,
        writer=writer,
        id=strings("id"),
        group=strings("group"),
        source=numbers("source", -1, MAX_ROWS),
        status=numbers("status", 0, len(STATUS) - 1),
        permanent=numbers("permanent", 0, 1),
        reason=strings("reason"),
        fingerprint=strings("fingerprint"),
        counts={name: numbers(name, *int64, _dict(body, "counts", where)) for name in shape.counts},
        ragged_start={name: numbers(name, 0, MAX_ROWS, _dict(body, "ragged_start", where)) for name in ragged},
        ragged_count={name: numbers(name, 0, MAX_ROWS, _dict(body, "ragged_count", where)) for name in ragged},
        files=tuple(parse_files(body, where).values()),
        provenance=_dict(body, "provenance", where),
    )


def refuse_stale(old: Schema, new: Schema, where: str) -> None:
    """Raises StaleStore naming each field that differs, with both values."""
    found = _differences(_by_name(old), _by_name(new), "")
    if found:
        shown = "; ".join(f"{name} is {_short(was)} there but {_short(now)} in this run" for name, was, now in found[:8])
        more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
        raise StaleStore(
            f"{where} was made otherwise: {shown}{more}. Choose another output, or run with the values it was made with."
        )


def plain_json(value: Any, what: str) -> Json:
    """A copy of `value` as it will be read back from JSON; refuses what JSON cannot hold."""
    try:
        text = json.dumps(value, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{what} cannot be written as JSON ({error}); use only strings, finite numbers, lists and dicts."
        ) from error
    result = json.loads(text)
    if not isinstance(result, dict):
        raise StoreError(f"{what} must be a dict, not {type(value).__name__}.")
    return result


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def seal_json(body: Json) -> bytes:
    """A document that carries its own checksum: sha256 of its bytes with the 64 digits of the first field read as zeros."""
    text = canonical(body)[1:] + b"\n"
    digest = hashlib.sha256(_SEAL + b"0" * 64 + b'",' + text).hexdigest()
    return _SEAL + digest.encode() + b'",' + text


def unseal_json(data: bytes, where: str) -> Json:
    """The body of such a document, or DamagedStore."""
    zeroed = _SEAL + b"0" * 64 + data[_SEAL_END:]
    if data[: len(_SEAL)] != _SEAL or data[len(_SEAL) : _SEAL_END] != hashlib.sha256(zeroed).hexdigest().encode():
        raise DamagedStore(f"{where} is damaged: its bytes do not match the checksum it carries. Restore it from a copy.")
    try:
        body = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(where, "JSON") from error
    if not isinstance(body, dict):
        raise _malformed(where, "JSON")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def sealed_hash(data: bytes) -> str:
    """The checksum a sealed document carries."""
    return data[len(_SEAL) : _SEAL_END].decode("ascii", "replace")


def check_version(body: Json, where: str) -> None:
    """Refuses what a later version of the format wrote."""
    version = body.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        raise StoreError(
            f"{where} has format version {version!r}; this program reads version {FORMAT_VERSION}. Update the program."
        )


def parse_schema(body: Json, where: str) -> Schema:
    """Schema fields of a head or plan."""
    columns = []
    for item in _list(body, "columns", where):
        if not isinstance(item, dict):
            raise _malformed(where, "columns")
        sizes = _list(item, "shape", where)
        dtype = _str(item, "dtype", where)
        if len(sizes) > 16 or not all(type(size) is int and 1 <= size <= MAX_ROWS for size in sizes) or dtype not in DTYPES:
            raise _malformed(where, "columns")
        ragged = item.get("ragged")
        if not isinstance(ragged, bool):
            raise _malformed(where, "columns")
        columns.append(Column(_str(item, "name", where), tuple(sizes), dtype, ragged))
    counts = _list(body, "counts", where)
    if not all(isinstance(name, str) for name in counts):
        raise _malformed(where, "counts")
    return Schema(
        kind=_str(body, "kind", where), identity=_dict(body, "identity", where), columns=tuple(columns), counts=tuple(counts)
    )


def parse_files(body: Json, where: str) -> dict[str, FileEntry]:
    """The `files` list: unique safe relative paths, sizes and checksums."""
    files: dict[str, FileEntry] = {}
    for item in _list(body, "files", where):
        if not isinstance(item, list) or len(item) != 3:
            raise _malformed(where, "files")
        path, size, digest = item
        if not isinstance(path, str) or not is_safe_path(path) or path in files:
            raise DamagedStore(
                f"{where} lists the file {path!r}, which is not a plain path inside the store. Do not use this store."
            )
        if type(size) is not int or not 0 <= size < 1 << 63 or not isinstance(digest, str) or len(digest) != 64:
            raise _malformed(where, path)
        files[path] = FileEntry(path, size, digest)
    return files


def parse_int(body: Json, name: str, where: str, low: int, high: int) -> int:
    """An integer field within bounds."""
    return _int(body, name, where, low, high)


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            inner = f"{name}.{key}" if name else str(key)
            found += _differences(old.get(key, "absent"), new.get(key, "absent"), inner)
        return found
    return [] if type(old) is type(new) and old == new else [(name, old, new)]


def _by_name(schema: Schema) -> Json:
    body = schema.to_json()
    return {
        **body,
        "columns": {item["name"]: item for item in body["columns"]},
        "order": [item["name"] for item in body["columns"]],
    }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _malformed(where: str, field: str) -> DamagedStore:
    return DamagedStore(f"{where} is not well formed at {field!r}. Restore it from a copy, or make the store again.")


def _int(body: Json, name: str, where: str, low: int, high: int) -> int:
    value = body.get(name)
    if type(value) is not int or not low <= value <= high:
        raise _malformed(where, name)
    return value


def _str(body: Json, name: str, where: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _malformed(where, name)
    return value


def _list(body: Json, name: str, where: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list):
        raise _malformed(where, name)
    return value


def _dict(body: Json, name: str, where: str) -> Json:
    value = body.get(name)
    if not isinstance(value, dict):
        raise _malformed(where, name)
    return value


def check_identity(kind: str, identity: Json, columns: Sequence[Column], counts: Sequence[str]) -> Schema:
    """A schema from what a caller hands in."""
    return Schema(kind=kind, identity=plain_json(identity, "identity"), columns=tuple(columns), counts=tuple(counts))
