"""Checks every byte of a store against its head, and says which rows a damage concerns. Also a summary for people."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embed_cache.erase import finish_at
from embed_cache.errors import DamagedStore, IncompleteStore, StoreError
from embed_cache.layout import HEAD, PLAN, SEGMENTS, STATUS
from embed_cache.manifest import FileEntry, Manifest, parse_record, parse_schema, unseal_json
from embed_cache.place import TEMPORARY, Place, place_of
from embed_cache.segment import plan_file, read_plan, shape_of
from embed_cache.store import is_store, open_at, parts_done, read_head


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One file that is not what the head says."""

    path: str
    problem: str
    rows: slice | None = None
    """Global rows that it concerns; None where no row is."""
    ids: tuple[str, ...] = ()
    """Ids of these rows where they are known; at most 1,024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read, and what was wrong."""

    path: str
    num_files: int
    num_bytes: int
    damages: tuple[Damage, ...]
    unlisted: tuple[str, ...]
    """Files in the store that its head does not list; of an unfinished segment only what a killed writer left."""
    open_segment: int | None
    """Number of a segment that is begun and not sealed."""

    @property
    def ok(self) -> bool:
        """Nothing damaged and nothing foreign."""
        return not self.damages and not self.unlisted


def verify(uri: str | os.PathLike[str], *, sample_parts: int | None = None, seed: int = 0) -> VerifyReport:
    """Reads all files (or the index and `sample_parts` random parts) and compares size and checksum with the head."""
    place = place_of(uri)
    try:
        manifest = read_head(place)
        if manifest is not None:
            finish_at(place)
            manifest = read_head(place)
    except DamagedStore as error:
        return VerifyReport(
            path=place.label(),
            num_files=1,
            num_bytes=0,
            damages=(Damage(path=HEAD, problem=str(error)),),
            unlisted=(),
            open_segment=None,
        )
    if manifest is None:
        open_at(place)  # explains what is there instead
        raise IncompleteStore(f"{place.label()} has no {HEAD}. Run the command that makes it again.")
    owners = _owners(manifest)
    chosen = list(manifest.files.values())
    if sample_parts is not None:
        parts = sorted({owner for owner in owners.values() if owner[1] is not None})
        picks = np.random.Generator(np.random.PCG64(seed)).permutation(len(parts))[:sample_parts]
        sampled = {parts[pick] for pick in picks.tolist()}
        chosen = [entry for entry in chosen if owners.get(entry.path, (0, None))[1] is None or owners[entry.path] in sampled]
    bad = []
    num_bytes = 0
    sizes = place.sizes([entry.path for entry in chosen])
    for entry, digest in zip(chosen, place.checksums(entry.path for entry in chosen), strict=True):
        num_bytes += entry.size
        problem = _problem(sizes[entry.path], entry, digest)
        if problem:
            bad.append((entry, problem))
    names = _ids(place, manifest) if bad else []
    damages = tuple(_damage(manifest, owners, entry, problem, names) for entry, problem in bad)
    unlisted, is_open = _unlisted(place, manifest)
    if is_open and sample_parts is None:
        damages += tuple(_open_damages(place, len(manifest.segments), manifest.num_rows))
    return VerifyReport(
        path=place.label(),
        num_files=len(chosen) + 1,
        num_bytes=num_bytes,
        damages=damages,
        unlisted=unlisted,
        open_segment=len(manifest.segments) if is_open else None,
    )


def info(uri: str | os.PathLike[str]) -> dict[str, Any]:
    """What a store is and how far it is, complete or not, as plain JSON."""
    place = place_of(uri)
    manifest = read_head(place)
    if manifest is None:
        if not is_store(place):
            open_at(place)
        return _info_of_open(place)
    store = open_at(place)
    index = store.index
    live = index.filter(index["live"])
    counts = Counter(zip(live["status"].to_pylist(), live["reason"].to_pylist(), strict=True))
    open_parts = parts_done(place, len(manifest.segments))
    return {
        "path": place.label(),
        "complete": True,
        "format_version": manifest.format_version,
        "kind": manifest.kind,
        "identity": manifest.identity,
        "columns": [column.to_json() for column in manifest.columns],
        "rows": live.num_rows,
        "rows_superseded": len(store) - live.num_rows,
        "groups": len(set(live["group"].to_pylist())),
        **_outcomes(counts),
        "segments": [
            {
                "rows": shape.num_rows,
                "parts": shape.num_parts,
                "part_rows": shape.part_rows,
                "seed": seed,
                "provenance": provenance,
            }
            for shape, seed, provenance in zip(manifest.segments, manifest.seeds, manifest.provenance, strict=True)
        ],
        "parts_done": sum(shape.num_parts for shape in manifest.segments) + (open_parts[0] if open_parts else 0),
        "parts_planned": sum(shape.num_parts for shape in manifest.segments) + (open_parts[1] if open_parts else 0),
        "open_segment": None if open_parts is None else len(manifest.segments),
        "files": len(manifest.files) + 1,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "content_hash": store.content_hash(),
    }


def _info_of_open(place: Place) -> dict[str, Any]:
    found = parts_done(place, 0)
    summary: dict[str, Any] = {"path": place.label(), "complete": False, "parts_done": 0, "parts_planned": 0, "open_segment": 0}
    if found is None:
        return summary | {"rows": 0, "status": {}, "reasons": {}, "segments": [], "bytes": 0}
    folder = place.label(f"{SEGMENTS}/00000")
    body = unseal_json(place.read(f"{SEGMENTS}/00000/{PLAN}"), folder)
    schema = parse_schema(body, folder)
    shape = shape_of(body, schema, 0, folder)
    num_rows, source = shape.num_rows, shape.index_chunk("source")
    if place.sizes([source])[source] != num_rows * 8:
        raise DamagedStore(f"{place.label(source)} has not one number a planned row. Run the command that makes the store again.")
    counts: Counter[tuple[str, str]] = Counter()
    num_bytes = done = 0
    for part in range(shape.num_parts):
        name = shape.record(part)
        try:
            record = parse_record(place.read(name), place.label(name), shape)
        except (FileNotFoundError, DamagedStore):
            continue
        counts.update((STATUS[status], reason) for status, reason in zip(record.status, record.reason, strict=True))
        num_bytes += sum(entry.size for entry in record.files)
        done += 1
    return {
        **summary,
        "kind": schema.kind,
        "identity": schema.identity,
        "columns": [column.to_json() for column in schema.columns],
        "rows": sum(counts.values()),
        "rows_planned": num_rows,
        **_outcomes(counts),
        "segments": [],
        "parts_done": done,
        "parts_planned": found[1],
        "bytes": num_bytes,
    }


def _outcomes(counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    status: Counter[str] = Counter()
    reasons: dict[str, dict[str, int]] = {}
    for (outcome, reason), number in sorted(counts.items()):
        status[outcome] += number
        if reason:
            reasons.setdefault(outcome, {})[reason] = number
    return {"status": dict(status), "reasons": reasons}


def _owners(manifest: Manifest) -> dict[str, tuple[int, int | None]]:
    """File -> (segment, part), part None for index arrays, which concern all rows of their segment."""
    owners: dict[str, tuple[int, int | None]] = {}
    for shape in manifest.segments:
        for name in shape.index_arrays():
            owners[shape.index_chunk(name)] = (shape.number, None)
        for part in range(shape.num_parts):
            owners[shape.record(part)] = (shape.number, part)
            for column in shape.columns:
                owners[shape.chunk(column, part)] = (shape.number, part)
                if column.ragged:
                    owners[f"{shape.ragged_folder(column, part)}/zarr.json"] = (shape.number, part)
    return owners


def _problem(size: int | None, entry: FileEntry, digest: str | None) -> str:
    if size is None:
        return "missing, or not a regular file"
    if size != entry.size:
        return f"{size} bytes instead of {entry.size}"
    if digest is None:
        return "cannot be read"
    return "" if digest == entry.sha256 else "bytes differ from those that were written"


def _damage(
    manifest: Manifest, owners: dict[str, tuple[int, int | None]], entry: FileEntry, problem: str, names: list[str]
) -> Damage:
    owner = owners.get(entry.path)
    if owner is None:
        return Damage(path=entry.path, problem=problem)
    number, part = owner
    shape = manifest.segments[number]
    offset = sum(before.num_rows for before in manifest.segments[:number])
    inner = slice(0, shape.num_rows) if part is None else shape.part(part)
    rows = slice(offset + inner.start, offset + inner.stop)
    return Damage(path=entry.path, problem=problem, rows=rows, ids=tuple(filter(None, names[rows][:1024])))


def _ids(place: Place, manifest: Manifest) -> list[str]:
    """Ids of all rows, whatever else is damaged; "" for erased rows and in segments whose array of ids is damaged itself."""
    ids: list[str] = []
    for shape in manifest.segments:
        entry = manifest.files[shape.index_chunk("id")]
        try:
            data = place.read(entry.path, entry.size)
        except (StoreError, OSError):
            data = b""
        if hashlib.sha256(data).hexdigest() == entry.sha256:
            ids += [name.decode() for name in np.frombuffer(data, f"S{len(data) // shape.num_rows}").tolist()]
        else:
            ids += [""] * shape.num_rows
    return ids


def _open_damages(place: Place, number: int, offset: int) -> Iterator[Damage]:
    """What is wrong in a segment that is not sealed yet; the command that makes the store computes it again."""
    planned = read_plan(place, number)
    plan = f"{SEGMENTS}/{number:05d}/{PLAN}"
    if planned is None:
        if plan_file(place, number) is not None:
            yield Damage(path=plan, problem="the plan of an unfinished segment, or the ids it lists, are damaged")
        return
    shape = planned.shape
    names = {shape.record(part): part for part in range(shape.num_parts)}
    for name in place.walk(f"{shape.folder}/log"):
        part = names.get(name)
        if part is None:
            continue
        rows = shape.part(part)
        span = slice(offset + rows.start, offset + rows.stop)
        ids = tuple(planned.plan.ids[rows][:1024])
        try:
            record = parse_record(place.read(name), place.label(name), shape)
        except (OSError, StoreError):
            yield Damage(path=name, problem="a commit record that is damaged", rows=span, ids=ids)
            continue
        staged = [f"{entry.path}.{record.writer}.tmp" for entry in record.files]
        found = place.checksums([entry.path for entry in record.files] + staged)
        digests = list(found)
        for entry, here, waiting in zip(record.files, digests, digests[len(staged) :], strict=False):
            if entry.sha256 not in (here, waiting):
                yield Damage(path=entry.path, problem="bytes differ from those that were committed", rows=span, ids=ids)


def _unlisted(place: Place, manifest: Manifest) -> tuple[tuple[str, ...], bool]:
    open_folder = f"{SEGMENTS}/{len(manifest.segments):05d}/"
    unlisted = []
    is_open = False
    for name in place.walk():
        is_open |= name.startswith(open_folder)
        if name in manifest.files or name == HEAD:
            continue
        if name.startswith(open_folder) and not TEMPORARY.search(name):
            continue
        unlisted.append(name)
    return tuple(unlisted), is_open
