"""Stores out to the files that other programs read: one HDF5 file, one safetensors file, or a folder with a file a study."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import embed_cache
from ecgecho.exchange import EXPORT_FORMAT, EXPORT_VERSION, INDEX_FILE, SINKS, SUFFIXES, about_of, file_name, object_of, sync
from ecgecho.parts import PartReader
from ecgecho.types import I64, Json, UsageError, UserError

BLOCK_BYTES = 32 << 20  # of values in memory at once

Progress = Callable[[int, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    to: str
    by_status: Mapping[str, int]
    """Rows with values are the ok ones; the others are listed."""
    num_files: int
    num_bytes: int
    content_hash: str
    replaced: bool
    """An older export of this store stood there."""


def export(
    store: str | os.PathLike[str],
    out: Path,
    to: str = "auto",
    *,
    contains_text: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the live rows of a store to `out`: "hdf5", "safetensors", "studies", or "auto" by the ending of `out`.

    Appears whole or not at all. Replaces an export of the same store, and nothing else. A store whose identity says
    `contains_text` is refused unless `contains_text` says that the clinical words may leave it.
    """
    to = _format_of(out, to)
    opened = embed_cache.open(store)
    if opened.manifest.identity.get("contains_text") and not contains_text:
        raise UserError(
            f"{store} contains clinical text. Where the copy may hold patients' words, give --contains-text; "
            "vectors alone are in the stores of echo clips and ECGs."
        )
    about = _about(opened)
    replaced = _refuse_other(out, about)
    rows = _LiveRows(opened)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        if to == "studies":
            num_files = _write_studies(opened, rows, partial, about, progress)
        else:
            num_files = 1
            _write_arrays(opened, rows.ok, rows.others, rows, partial, to, about, progress)
        num_bytes = sum(f.stat().st_size for f in partial.rglob("*")) if to == "studies" else partial.stat().st_size
        _put_in_place(partial, out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"{out.parent} has no room for the export, and nothing of it was kept. Free some, or choose another --out."
        ) from error
    finally:
        _remove(partial)
    return ExportReport(
        to=to,
        by_status=rows.by_status,
        num_files=num_files,
        num_bytes=num_bytes,
        content_hash=about["content_hash"],
        replaced=replaced,
    )


class _LiveRows:
    """Row numbers and index columns of what is to be written."""

    def __init__(self, store: embed_cache.EmbeddingStore) -> None:
        index = store.index
        live = np.array(index["live"].to_numpy(zero_copy_only=False), bool)
        status = np.array(index["status"].to_pylist(), dtype="S")
        self.ok: I64 = np.flatnonzero(live & (status == b"ok"))
        self.others: I64 = np.flatnonzero(live & (status != b"ok"))
        self.by_status = {k.decode(): n for k, n in sorted(Counter(status[live].tolist()).items())}
        self.values: dict[str, npt.NDArray[Any]] = {"status": status, "row": np.arange(len(status), dtype=np.int64)}
        for name in ("id", "group", "reason", "fingerprint"):
            self.values[name] = np.array([text.encode() for text in index[name].to_pylist()], dtype="S")
        self.values["permanent"] = index["permanent"].to_numpy(zero_copy_only=False).astype(np.uint8)
        for name in store.manifest.counts:
            self.values[f"counts/{name}"] = index[name].to_numpy(zero_copy_only=False).astype(np.int64)

    def arrays(self, ok: I64, others: I64) -> dict[str, npt.NDArray[Any]]:
        """Everything about some rows but their values, by name."""
        made = {}
        for name, values in self.values.items():
            if name not in ("status", "permanent"):
                made[name] = values[ok]
            made[f"others/{name}"] = values[others]
        return made


def licence_of(identity: Mapping[str, Any]) -> str:
    """What the teacher's weights allow of a store's rows, and behind it what those of its views allow; "" where unknown."""
    teacher = identity.get("teacher")
    told = [str(teacher.get(name, "")) for name in ("licence", "view_licence")] if isinstance(teacher, dict) else []
    return "; views: ".join(text for text in told if text)


def _about(store: embed_cache.EmbeddingStore) -> Json:
    manifest = store.manifest
    return {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "kind": manifest.kind,
        "identity": manifest.identity,
        "licence": licence_of(manifest.identity),
        "columns": [column.to_json() for column in manifest.columns],
        "counts": list(manifest.counts),
        "content_hash": store.content_hash(),
        "segments": [
            {"num_rows": shape.num_rows, "part_rows": shape.part_rows, "seed": seed, "provenance": note}
            for shape, seed, note in zip(manifest.segments, manifest.seeds, manifest.provenance, strict=True)
        ],
    }


def _format_of(out: Path, to: str) -> str:
    if embed_cache.is_remote(out):
        raise UsageError(f"{out} is in a bucket; an export is written to a local place, from where any tool can copy it.")
    suffix = out.suffix.lower()
    by_suffix = next((name for name, known in SUFFIXES.items() if suffix in known), "")
    if to == "auto":
        if not by_suffix:
            raise UsageError(f"{out} ends in {suffix!r}: end it in .h5, .safetensors or nothing (a folder), or say --to.")
        return by_suffix
    if to not in SUFFIXES:
        raise UsageError(f"there is no export to {to!r}; there is: {', '.join(SUFFIXES)}.")
    if by_suffix not in ("", "studies", to):
        raise UsageError(f"{out} ends in {suffix!r}, but --to is {to}; end it in {SUFFIXES[to][0] or 'nothing'}.")
    return to


def _refuse_other(out: Path, about: Json) -> bool:
    """True where an export of this store stands at `out`; anything else there is refused."""
    if not os.path.lexists(out):
        near = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
        if not near.is_dir() or not os.access(near, os.W_OK):
            raise UserError(f"{near} is not a folder that can be written to; choose another --out.")
        return False
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return True
    old = None if out.is_symlink() else about_of(out)
    if old is None:
        raise UserError(f"{out} is there and is no export of a store. Choose another --out, or remove it.")
    wanted = {"kind": about["kind"], **about["identity"]}
    found = {"kind": old.get("kind"), **object_of(old.get("identity"))}
    differs = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if differs:
        raise UserError(f"{out} is the export of another store: they differ in {', '.join(differs)}. Choose another --out.")
    return True


def _write_studies(
    store: embed_cache.EmbeddingStore, rows: _LiveRows, folder: Path, about: Json, progress: Progress | None
) -> int:
    """A safetensors file a study, and what they are in export.json. Returns the number of files."""
    folder.mkdir()
    live = np.sort(np.concatenate([rows.ok, rows.others]))
    groups = rows.values["group"][live]
    edges = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1], True]) if len(live) else np.zeros(1, np.int64)
    names: dict[str, str] = {}
    ok = np.zeros(len(store), bool)
    ok[rows.ok] = True
    reader = PartReader(store)
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        study = groups[first].decode()
        names[study] = f"{file_name(study)}.safetensors"
        here = live[first:last]
        path = folder / names[study]
        if path.exists():  # where the file system takes A for a
            names[study] = f"{file_name(study)}-{hashlib.sha256(study.encode()).hexdigest()[:16]}.safetensors"
            path = folder / names[study]
        _write_arrays(store, here[ok[here]], here[~ok[here]], rows, path, "safetensors", about, None, reader)
        if progress is not None:
            progress(last, len(live))
    _write_file(folder / INDEX_FILE, json.dumps({**about, "studies": names}, indent=1).encode())
    sync(folder)
    return len(names) + 1


def _write_arrays(
    store: embed_cache.EmbeddingStore,
    ok: I64,
    others: I64,
    rows: _LiveRows,
    path: Path,
    to: str,
    about: Json,
    progress: Progress | None,
    reader: PartReader | None = None,
) -> None:
    """One file with the values of the rows `ok`; the file is as large as it will be before the first value is read."""
    reader = reader or PartReader(store)
    small = rows.arrays(ok, others)
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    starts: dict[str, I64] = {}
    row_bytes = 1
    for column in store.manifest.columns:
        name = f"columns/{column.name}"
        if column.ragged:
            counts = reader.lengths(column, ok)
            starts[column.name] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            small |= {f"{name}/start": starts[column.name][:-1], f"{name}/count": counts.astype(np.int64)}
            shapes[f"{name}/values"] = (column.numpy_dtype, (int(counts.sum()), *column.shape))
            row_bytes += column.row_bytes * int(np.ceil(counts.mean() if len(counts) else 0))
        else:
            shapes[name] = (column.numpy_dtype, (len(ok), *column.shape))
            row_bytes += column.row_bytes
    shapes = {name: (values.dtype, values.shape) for name, values in small.items()} | shapes
    sink = SINKS[to](path, about, shapes)
    try:
        for name, values in small.items():
            sink.put(name, 0, values)
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, len(ok), step):
            block = ok[first : first + step]
            for column in store.manifest.columns:
                name = f"columns/{column.name}"
                if column.ragged:
                    entries = np.concatenate([column.empty(0), *reader.take_ragged(column, block)])
                    sink.put(f"{name}/values", int(starts[column.name][first]), entries)
                else:
                    sink.put(name, first, reader.take(column, block))
            if progress is not None:
                progress(first + len(block), len(ok))
    finally:
        sink.close()


def _put_in_place(partial: Path, out: Path) -> None:
    """`partial` under the name `out`. A folder that stood there is moved aside first, and put back should that fail."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old.partial")
    if out.is_dir():
        os.replace(out, old)
    try:
        os.replace(partial, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    sync(out.parent)
    _remove(old)


def _remove_abandoned(out: Path) -> None:
    """Partial exports to this place whose process has ended."""
    for path in _abandoned(out):
        _remove(path)


def _abandoned(out: Path) -> Iterator[Path]:
    for path in out.parent.glob(f".{_no_pattern(out.name)}.*.partial"):
        pid = path.name[len(out.name) + 2 :].partition(".")[0]
        if not pid.isdigit():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            yield path
        except OSError:
            continue


def _no_pattern(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync(path)
