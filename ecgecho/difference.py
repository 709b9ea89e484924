"""What differs between two stores: identity, columns, rows, statuses, values. Shape letters: M rows compared at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import embed_cache
from ecgecho.parts import I64, PartReader
from embed_cache import Column

NUM_EXAMPLES = 5
BLOCK_BYTES = 32 << 20
COMPARED = ("group", "status", "reason", "permanent", "fingerprint")


@dataclass(slots=True)
class Some:
    """How many, and a few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, names: Sequence[str]) -> None:
        self.count += len(names)
        self.examples += names[: NUM_EXAMPLES - len(self.examples)]


@dataclass(slots=True, kw_only=True)
class ColumnDifference:
    """Rows that are ok in both stores and hold other values, and how far these are apart."""

    rows: Some = field(default_factory=Some)
    max_abs: float = 0.0
    max_cosine_distance: float = 0.0
    other_length: int = 0
    """Of a ragged column: rows with another number of entries, which the distances leave out."""
    max_abs_row: str = ""


@dataclass(slots=True, kw_only=True)
class Difference:
    """A is the first store, B the second. Only live rows count; where they lie in the store plays no part."""

    content_hash: tuple[str, str]
    schema: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Kind, identity fields by dotted name, columns and counts that differ; None where a store has none."""
    rows: tuple[int, int] = (0, 0)
    only_a: Some = field(default_factory=Some)
    only_b: Some = field(default_factory=Some)
    index: dict[str, Some] = field(default_factory=dict)
    """Rows of both whose group, status, reason, permanent, fingerprint or count is another one."""
    columns: dict[str, ColumnDifference] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Nothing differs that a reader of live rows could notice."""
        parts = [self.only_a.count, self.only_b.count, *(s.count for s in self.index.values())]
        return not self.schema and not any(parts) and not any(c.rows.count for c in self.columns.values())

    def to_json(self) -> dict[str, Any]:
        return {"equal": self.equal, **asdict(self)}


def difference(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, progress: Callable[[int, int], Any] | None = None
) -> Difference:
    """Compare the live rows of two stores by id. Rows in files with equal checksums are not read."""
    stores = (embed_cache.open(a), embed_cache.open(b))
    first, second = (store.manifest for store in stores)
    found = Difference(content_hash=(stores[0].content_hash(), stores[1].content_hash()), schema=_schema(stores))
    indices = [_live(store) for store in stores]
    found.rows = (len(indices[0]["id"]), len(indices[1]["id"]))
    if found.content_hash[0] == found.content_hash[1]:
        return found
    place = {item: k for k, item in enumerate(indices[1]["id"])}
    pairs = [(k, place[item]) for k, item in enumerate(indices[0]["id"]) if item in place]
    found.only_a.add([item for item in indices[0]["id"] if item not in place])
    known = set(indices[0]["id"])
    found.only_b.add([item for item in indices[1]["id"] if item not in known])
    counts = [name for name in first.counts if name in second.counts]
    for name in (*COMPARED, *counts):
        left, right = indices[0][name], indices[1][name]
        other = [indices[0]["id"][i] for i, j in pairs if left[i] != right[j]]
        if other:
            found.index.setdefault(name, Some()).add(other)
    both = [(i, j) for i, j in pairs if indices[0]["status"][i] == indices[1]["status"][j] == "ok"]
    rows = [np.array([index["row"][pair[k]] for pair in both], np.int64) for k, index in enumerate(indices)]
    ids = [indices[0]["id"][i] for i, _ in both]
    columns = [column for column in first.columns if column in second.columns]
    readers = [PartReader(store) for store in stores]
    for number, column in enumerate(columns):

        def told(done: int, number: int = number) -> None:
            if progress is not None:
                progress(number * len(ids) + done, len(columns) * len(ids))

        compared = _compare(column, readers, rows, ids, told)
        if compared.rows.count:
            found.columns[column.name] = compared
    return found


def _compare(
    column: Column, readers: Sequence[PartReader], rows: Sequence[I64], ids: Sequence[str], told: Callable[[int], None]
) -> ColumnDifference:
    result = ColumnDifference()
    step = max(1, BLOCK_BYTES // column.row_bytes)
    if column.ragged:
        step = 64
    for start in range(0, len(ids), step):
        left, right = (numbers[start : start + step] for numbers in rows)
        names = ids[start : start + step]
        told(start)
        stored = [reader.checksums(column, numbers) for reader, numbers in zip(readers, (left, right), strict=True)]
        wanted = np.flatnonzero([p != q for p, q in zip(*stored, strict=True)])
        if not len(wanted):
            continue
        left, right, names = left[wanted], right[wanted], [names[k] for k in wanted.tolist()]
        if not column.ragged:
            _note(result, names, readers[0].take(column, left), readers[1].take(column, right))
            continue
        values = [reader.take_ragged(column, part) for reader, part in zip(readers, (left, right), strict=True)]
        for name, x, y in zip(names, *values, strict=True):
            if len(x) != len(y):
                result.rows.add([name])
                result.other_length += 1
            else:
                _note(result, [name], x[None], y[None])
    return result


def _note(result: ColumnDifference, names: Sequence[str], x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    """Add M rows of both stores, (M, ...), to what is known of a column."""
    x, y = (np.ascontiguousarray(v).reshape(len(names), -1) for v in (x, y))
    other = np.flatnonzero((x.view(np.uint8) != y.view(np.uint8)).any(1)) if x.size else np.zeros(0, np.int64)
    if not len(other):
        return
    result.rows.add([names[k] for k in other.tolist()])
    p, q = x[other].astype(np.float64), y[other].astype(np.float64)
    apart = np.abs(p - q).max(1)
    worst = int(apart.argmax())
    if apart[worst] >= result.max_abs:
        result.max_abs, result.max_abs_row = float(apart[worst]), names[int(other[worst])]
    norms = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    cosine = np.where(norms > 0, (p * q).sum(1) / np.where(norms > 0, norms, 1), 0.0)
    result.max_cosine_distance = max(result.max_cosine_distance, float((1 - cosine).max()))


def _live(store: embed_cache.EmbeddingStore) -> dict[str, list[Any]]:
    index = store.index.filter(store.index["live"])
    return {name: index[name].to_pylist() for name in ("id", "row", *COMPARED, *store.manifest.counts)}


def _schema(stores: Sequence[embed_cache.EmbeddingStore]) -> dict[str, tuple[Any, Any]]:
    flat = []
    for store in stores:
        manifest = store.manifest
        fields = {"kind": manifest.kind, **_flat(manifest.identity, "identity.")}
        for column in manifest.columns:
            ragged = ", ragged" if column.ragged else ""
            fields[f"column {column.name}"] = f"{column.dtype} {list(column.shape)}{ragged}"
        flat.append(fields | {f"count {name}": "int64" for name in manifest.counts})
    names = [*flat[0], *(name for name in flat[1] if name not in flat[0])]
    return {name: (flat[0].get(name), flat[1].get(name)) for name in names if flat[0].get(name) != flat[1].get(name)}


def _flat(value: dict[str, Any], prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, item in value.items():
        result |= _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {f"{prefix}{name}": item}
    return result
