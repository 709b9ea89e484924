"""How far a store is, complete or not, without reading what a million rows hold: for people who wait.

Commit records are looked at, not checked; `verify` checks.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from embed_cache.errors import DamagedStore, IncompleteStore
from embed_cache.layout import ERASURES, SEGMENTS, STATUS, SegmentShape
from embed_cache.manifest import Manifest, parse_schema, sealed_hash, unseal_json
from embed_cache.place import TEMPORARY, Place, place_of
from embed_cache.segment import plan_file, shape_of
from embed_cache.store import EmbeddingStore, is_store, open_at, read_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A look at a store."""

    kind: str
    complete: bool
    """Sealed, and no further segment begun."""
    rows_planned: int
    """Live rows of sealed segments and planned rows of an open one."""
    rows_done: int
    status: dict[str, int]
    reasons: dict[str, dict[str, int]]
    """Status other than ok -> reason -> rows."""
    parts_planned: int
    parts_done: int
    part_rows: int
    """Of the segment that was begun last."""
    erasures: int
    num_bytes: int
    """Of all files of sealed segments, and of committed parts of an open one."""
    last_commit: float | None
    """Seconds since 1970."""


def progress(uri: str | os.PathLike[str]) -> Progress:
    """What is done and what is missing, of a complete store or of one in the making."""
    place = place_of(uri)
    manifest = read_head(place)
    sealed = len(manifest.segments) if manifest else 0
    data = plan_file(place, sealed)
    if manifest is None and data is None:
        if not is_store(place):
            open_at(place)  # says what is there instead
        raise IncompleteStore(f"{place.label()} is begun, and nothing is planned yet. Run the command that makes it again.")
    counts: Counter[tuple[str, str]] = Counter()
    parts_planned = parts_done = num_bytes = rows_planned = part_rows = 0
    kind, last = "", None
    if manifest is not None:
        kind, part_rows = manifest.kind, manifest.segments[-1].part_rows
        parts_planned = parts_done = sum(shape.num_parts for shape in manifest.segments)
        num_bytes = sum(entry.size for entry in manifest.files.values())
        counts = _sealed_counts(place, manifest)
        rows_planned = sum(counts.values())
        last = place.modified("head.json")
    if data is not None:
        where = place.label(f"{SEGMENTS}/{sealed:05d}/plan.json")
        body = unseal_json(data, where)
        schema = parse_schema(body, where)
        shape = shape_of(body, schema, sealed, where)
        source = shape.index_chunk("source")
        if place.sizes([source])[source] != shape.num_rows * 8:
            raise DamagedStore(
                f"{place.label(source)} has not one number a planned row. Run the command that makes the store again."
            )
        kind, part_rows = schema.kind, shape.part_rows
        parts_planned += shape.num_parts
        rows_planned += shape.num_rows
        for number, found, size in _open_parts(place, shape, sealed_hash(data)):
            counts += found
            num_bytes += size
            parts_done += 1
            time = place.modified(shape.record(number))
            last = time if last is None else max(last, time)
    status: Counter[str] = Counter()
    reasons: dict[str, dict[str, int]] = {}
    for (outcome, reason), number in sorted(counts.items()):
        status[outcome] += number
        if outcome != "ok" and reason:
            reasons.setdefault(outcome, {})[reason] = number
    return Progress(
        kind=kind,
        complete=manifest is not None and data is None,
        rows_planned=rows_planned,
        rows_done=sum(counts.values()),
        status=dict(status),
        reasons=reasons,
        parts_planned=parts_planned,
        parts_done=parts_done,
        part_rows=part_rows,
        erasures=sum(1 for name in place.walk(ERASURES) if not TEMPORARY.search(name)),
        num_bytes=num_bytes,
        last_commit=last,
    )


def _sealed_counts(place: Place, manifest: Manifest) -> Counter[tuple[str, str]]:
    """(status, reason) -> live rows; the reasons of rows that are ok (what was mended) are left out."""
    live = EmbeddingStore(place, manifest).live_rows() if len(manifest.segments) > 1 else None
    counts: Counter[tuple[str, str]] = Counter()
    offset = 0
    for shape in manifest.segments:
        status = np.frombuffer(place.read(shape.index_chunk("status")), dtype=np.uint8)
        if len(status) != shape.num_rows or status.max() >= len(STATUS):
            raise DamagedStore(f"{place.label(shape.index_chunk('status'))} is damaged. Verify the store.")
        wanted = np.ones(shape.num_rows, bool) if live is None else live[offset : offset + shape.num_rows]
        wanted = wanted & (status != STATUS.index("erased"))
        offset += shape.num_rows
        counts[STATUS[0], ""] += int((wanted & (status == 0)).sum())
        other = np.flatnonzero(wanted & (status != 0))
        data = place.read(shape.index_chunk("reason"))
        reasons = np.frombuffer(data, dtype=f"S{len(data) // shape.num_rows}")[other]
        for code in range(1, len(STATUS)):
            names, numbers = np.unique(reasons[status[other] == code], return_counts=True)
            for name, number in zip(names.tolist(), numbers.tolist(), strict=True):
                counts[STATUS[code], name.decode(errors="replace")] += number
    return counts


def _open_parts(place: Place, shape: SegmentShape, plan_hash: str) -> list[tuple[int, Counter[tuple[str, str]], int]]:
    """(part, (status, reason) -> rows, bytes) of each commit record; its last two fields say the outcomes."""
    sizes = {column.name: shape.part_rows * column.row_bytes for column in shape.columns if not column.ragged}
    names = {shape.record(part): part for part in range(shape.num_parts)}
    found = []
    for name in place.walk(f"{shape.folder}/log"):
        if name not in names:
            continue
        try:
            data = place.read(name)
        except OSError:
            continue
        at = data.rfind(b',"reason":[')
        if at < 0 or b'"plan":"' + plan_hash.encode() + b'"' not in data:
            continue
        try:
            tail = json.loads(b"{" + data[at + 1 :])
            pairs = zip(tail["status"], tail["reason"], strict=True)
            counts = Counter((STATUS[code], reason if code else "") for code, reason in pairs)
        except (ValueError, KeyError, TypeError, IndexError):
            continue
        found.append((names[name], counts, len(data) + sum(sizes.values())))
    return found
