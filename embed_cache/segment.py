"""The files of a segment beside its columns: made from a plan or from commit records, and read back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_cache.errors import DamagedStore
from embed_cache.layout import FORMAT_VERSION, PLAN, SEGMENTS, STRINGS_PLANNED, STRINGS_SEALED, SegmentShape, zarr_array
from embed_cache.manifest import (
    FileEntry,
    Json,
    Record,
    Schema,
    parse_files,
    parse_int,
    parse_schema,
    seal_json,
    sealed_hash,
    unseal_json,
)
from embed_cache.place import Place
from embed_cache.plan import Plan


def index_files(shape: SegmentShape, records: Sequence[Record], widths: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Index arrays that follow from all commit records of a segment, with their metadata; strings at least `widths` wide."""
    texts = {name: [text.encode() for record in records for text in getattr(record, name)] for name in STRINGS_SEALED}
    arrays: dict[str, npt.NDArray[Any]] = {name: _strings(values, (widths or {}).get(name, 1)) for name, values in texts.items()}
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


def settle(place: Place, record: Record) -> None:
    """Puts the staged files of a committed part into their places, whoever staged them."""
    staged = {entry.path: f"{entry.path}.{record.writer}.tmp" for entry in record.files}
    sizes = place.sizes(list(staged.values()))
    place.adopt([path for path, name in staged.items() if sizes[name] is not None], record.writer)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSegment:
    """What plan.json and the arrays it lists say."""

    schema: Schema
    shape: SegmentShape
    plan: Plan
    source: npt.NDArray[np.int64]
    widths: Mapping[str, int]
    """Of the strings `id` and `group`: an erasure leaves arrays as wide as they were."""
    plan_hash: str


def read_plan(place: Place, number: int) -> PlannedSegment | None:
    """The plan of a segment as it is on disk; None where there is none that can be read."""
    where = place.label(f"{SEGMENTS}/{number:05d}/{PLAN}")
    try:
        data = plan_file(place, number) or b""
        body = unseal_json(data, where)
        schema = parse_schema(body, where)
        shape = shape_of(body, schema, number, where)
        ids, groups = (planned_strings(place, shape, body, name) for name in STRINGS_PLANNED)
        source = np.frombuffer(_planned_bytes(place, shape, body, "source"), dtype="<i8")
        listed = parse_files(body, where)
        widths = {name: listed[shape.index_chunk(name)].size // shape.num_rows for name in STRINGS_PLANNED}
    except DamagedStore:
        return None
    seed = parse_int(body, "seed", where, 0, 1 << 63)
    plan = Plan(ids=tuple(ids), groups=tuple(groups), part_rows=shape.part_rows, seed=seed)
    return PlannedSegment(schema=schema, shape=shape, plan=plan, source=source, widths=widths, plan_hash=sealed_hash(data))


def plan_files(
    shape: SegmentShape,
    schema: Schema,
    plan: Plan,
    source: npt.NDArray[np.int64],
    widths: Mapping[str, int] | None = None,
) -> tuple[dict[str, bytes], bytes]:
    """All that is known of a segment before its first part: metadata and planned arrays, and the plan that lists them."""
    strings = {
        name: _strings([text.encode() for text in values], (widths or {}).get(name, 1))
        for name, values in zip(STRINGS_PLANNED, (plan.ids, plan.groups), strict=True)
    }
    skeleton = {**shape.skeleton(), **_index_arrays(shape, {**strings, "source": source.astype("<i8")})}
    body = {
        "format_version": FORMAT_VERSION,
        **schema.to_json(),
        "segment": shape.number,
        "num_rows": plan.num_rows,
        "part_rows": plan.part_rows,
        "seed": plan.seed,
        "files": [list(entry_of(name, skeleton[name])) for name in sorted(skeleton)],
    }
    return skeleton, seal_json(body)


def plan_file(place: Place, number: int) -> bytes | None:
    """The bytes of a segment's plan, None where nothing is planned."""
    return read_or_none(place, f"{SEGMENTS}/{number:05d}/{PLAN}")


def read_or_none(place: Place, name: str) -> bytes | None:
    """The bytes of a file, None where it is not there."""
    try:
        return place.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _index_arrays(shape: SegmentShape, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, bytes]:
    files = {}
    for name, values in arrays.items():
        dtype, width = shape.index_arrays()[name]
        fill = 0 if width == 0 else int(np.iinfo(dtype).min)
        files[shape.index_meta(name)] = zarr_array(values.shape, shape.num_rows, dtype, fill)
        files[shape.index_chunk(name)] = values.tobytes()
    return files


def _strings(values: Sequence[bytes], width: int = 1) -> npt.NDArray[np.uint8]:
    """Byte strings -> (N, W) uint8, zero-padded; W at least `width`."""
    width = max(width, *map(len, values))
    return np.array(values, dtype=f"S{width}").view(np.uint8).reshape(len(values), width)


def _planned_bytes(place: Place, shape: SegmentShape, body: Json, name: str) -> bytes:
    entry = parse_files(body, place.label(shape.plan)).get(shape.index_chunk(name))
    try:
        data = place.read(entry.path) if entry else b""
    except OSError:
        data = b""
    if entry is None or hashlib.sha256(data).hexdigest() != entry.sha256 or len(data) % shape.num_rows:
        raise DamagedStore(
            f"{place.label(shape.index_chunk(name))} is damaged. "
            f"Remove {place.label(shape.folder)} and run the same command again."
        )
    return data


def planned_strings(place: Place, shape: SegmentShape, body: Json, name: str) -> list[str]:
    """`id` or `group` of an open segment, checked against its plan."""
    data = _planned_bytes(place, shape, body, name)
    return [item.decode() for item in np.frombuffer(data, dtype=f"S{len(data) // shape.num_rows}").tolist()]


def shape_of(body: Json, schema: Schema, number: int, where: str) -> SegmentShape:
    """The shape that a plan's body says."""
    num_rows, part_rows = (parse_int(body, name, where, 1, 1 << 40) for name in ("num_rows", "part_rows"))
    return SegmentShape(number, num_rows, part_rows, schema.columns, schema.counts)


def entry_of(name: str, data: bytes) -> FileEntry:
    """A file as heads and records list it."""
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())
