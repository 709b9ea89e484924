"""Stores out to the files that other programs read, and embeddings that somebody else computed into a store.

`export` writes one HDF5 file, one safetensors file, or a folder with a safetensors file a study; `import_embeddings` takes a
folder of .npy, .npz, .pt, .h5 or .safetensors files, or an export of ours. Names of arrays in an export:

    id, group, reason, fingerprint, row, counts/NAME, columns/NAME       rows that are ok, in the store's order
    columns/NAME/values, columns/NAME/start, columns/NAME/count          of a ragged column
    others/id, others/group, others/status, others/reason, others/permanent, others/fingerprint, others/row, others/counts/NAME

Text is fixed-width UTF-8, in safetensors as uint8 (rows, width) padded with zeros. `about` is JSON: kind, identity (with the
teacher's licence), columns, content hash, and what made each segment.

Shape letters: N rows, T frames, D embedding.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

import embed_cache
from ecgecho.echo.moments import moments
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.vectors import MAX_BYTES, READERS, read_vectors
from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.parts import PartReader
from ecgecho.types import I64, ItemError, Json, UsageError, UserError
from embed_cache import Column, Row, Writer

EXPORT_FORMAT, EXPORT_VERSION = "ecgecho-export", 1
SUFFIXES: Mapping[str, tuple[str, ...]] = {"hdf5": (".h5", ".hdf5"), "safetensors": (".safetensors",), "studies": ("",)}
INDEX_FILE = "export.json"
BLOCK_BYTES = 32 << 20  # of values in memory at once
PLAN_SEED = 20_240_229  # as cache-echo: the same studies stand in the same order
FILE_TIMEOUT_S = 120.0
FILE_MEMORY_BYTES = 6 << 30  # the file's bytes, its array, and that in fp64
WANTED_VOTES, MOST_TRIED = 8, 256  # files that decide the size of the vectors
MAX_ABOUT_BYTES = 1 << 28
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_SAFETENSORS = {
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32",
    "int64": "I64", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did."""

    num_rows: int
    by_status: Mapping[str, int]
    by_reason: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    """Up to three ids of each reason."""
    num_computed: int
    already_done: bool

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 3 some failed, 1 nothing usable."""
        if not self.by_status.get("ok"):
            return 1
        return 3 if self.by_status.get("failed") else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file to import: its clip and its study."""

    id: str
    study: str
    path: Path


# ---- out


def export(store: str | os.PathLike[str], out: Path, to: str = "auto", *, progress: Progress | None = None) -> ExportReport:
    """Write the live rows of a store to `out`: "hdf5", "safetensors", "studies", or "auto" by the ending of `out`.

    Appears whole or not at all. Replaces an export of the same store, and nothing else.
    """
    to = _format_of(out, to)
    opened = embed_cache.open(store)
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


def file_name(study: str) -> str:
    """A study's id as a file name that gives the id back: letters, digits, _ and - stay, other bytes are %XX."""
    return "".join(char if char in _SAFE else "".join(f"%{byte:02X}" for byte in char.encode()) for char in study)


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


def _about(store: embed_cache.EmbeddingStore) -> Json:
    manifest = store.manifest
    teacher = manifest.identity.get("teacher")
    return {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "kind": manifest.kind,
        "identity": manifest.identity,
        "licence": str(teacher.get("licence", "")) if isinstance(teacher, dict) else "",
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
    found = {"kind": old.get("kind"), **_object(old.get("identity"))}
    differs = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if differs:
        raise UserError(f"{out} is the export of another store: they differ in {', '.join(differs)}. Choose another --out.")
    return True


def about_of(path: Path) -> Json | None:
    """What an export of ours says of itself, None for any other file or folder."""
    try:
        if path.is_dir():
            text = _bounded(path / INDEX_FILE)
        elif path.suffix.lower() in SUFFIXES["safetensors"]:
            text = str(_safetensors_header(path)[0].get("__metadata__", {}).get("about", ""))
        else:
            import h5py

            with h5py.File(path, "r") as file:
                found = file["about"][()] if "about" in file else b""
            text = found.decode() if isinstance(found, bytes) else str(found)
        about = json.loads(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError):
        return None
    return about if isinstance(about, dict) and about.get("format") == EXPORT_FORMAT else None


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
    _sync(folder)
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
    sink = _SINKS[to](path, about, shapes)
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


class _Sink(Protocol):
    """A file whose arrays are all declared when it is made."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None: ...
    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None: ...
    def close(self) -> None: ...


class _Hdf5Sink:
    """Contiguous datasets, so that another program may map them at their offset."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        import h5py

        self.path = path
        self.file = h5py.File(path, "w")
        self.file["about"] = json.dumps(about)
        for name, (dtype, shape) in shapes.items():
            kind = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
            self.file.create_dataset(name, shape, kind)

    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None:
        if len(values):
            target = self.file[name]
            target[start : start + len(values)] = values.astype(target.dtype) if values.dtype.kind == "S" else values

    def close(self) -> None:
        self.file.close()
        _sync(self.path)


class _SafetensorsSink:
    """Header first, then every array at its offset. Source of the layout: huggingface/safetensors README, "Format"."""

    def __init__(self, path: Path, about: Json, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        header: Json = {"__metadata__": {"about": json.dumps(about)}}
        self.offsets: dict[str, tuple[int, int]] = {}
        at = 0
        # Wide numbers first, so that every array begins at a multiple of its item.
        for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: (-_plain(*item[1])[0].itemsize, item[0])):
            plain, sizes = _plain(dtype, shape)
            row_bytes = plain.itemsize * int(np.prod(sizes[1:], dtype=np.int64))
            size = row_bytes * sizes[0]
            header[name] = {"dtype": _SAFETENSORS[plain.name], "shape": list(sizes), "data_offsets": [at, at + size]}
            self.offsets[name] = (at, row_bytes)
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.begin = 8 + len(text)
        self.path = path
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.file.truncate(self.begin + at)

    def put(self, name: str, start: int, values: npt.NDArray[Any]) -> None:
        at, row_bytes = self.offsets[name]
        self.file.seek(self.begin + at + start * row_bytes)
        self.file.write(np.ascontiguousarray(values).tobytes())

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


_SINKS: Mapping[str, type[_Sink]] = {"hdf5": _Hdf5Sink, "safetensors": _SafetensorsSink}


def _plain(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Text (N,) of width W is uint8 (N, W) where a format has numbers only."""
    return (np.dtype(np.uint8), (*shape, dtype.itemsize)) if dtype.kind == "S" else (dtype, shape)


# ---- in


def import_embeddings(
    source: Path,
    out: str | os.PathLike[str],
    *,
    teacher_name: str = "",
    frame_norm: Literal["l2", "none"] = "none",
    weights_sha256: str = "",
    licence: str = "",
    items: Sequence[Item] | None = None,
    key: str = "",
    dim: int = 0,
    part_rows: int | None = None,
    workers: int = 0,
    skip: Collection[str] = (),
    repair: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """A folder of embeddings, or an export of ours, -> a store. The same call again resumes, adds, and tries failures again.

    Files of frame vectors (T, D) become the columns of cache-echo: `moments` (2, D) and `pooled` (D,), with `num_frames`;
    files of one vector (D,) become `pooled` alone. Most of the files decide which of both, and D. A file that cannot be used
    becomes a failed row with its reason. The identity says that the rows were imported, and what the user states of them.
    `workers=0` reads in this process, without bounds of time and memory. Ids in `skip` are left out. With `repair`, all of the
    store is verified first, and what is damaged is made again from the source.
    """
    about = about_of(source)
    if about is not None:
        return _import_export(source, about, out, part_rows=part_rows, repair=repair, progress=progress)
    if not teacher_name:
        raise UsageError("say with --teacher-name which model made these embeddings; the store keeps it as your statement.")
    found = [item for item in (list_items(source) if items is None else items) if item.id not in skip]
    if not found:
        raise UserError(f"{source} holds none of {', '.join(READERS)}. Check the folder.")
    num_axes, size = _form(found, key, workers) if not dim else (_form(found, key, workers)[0], dim)
    job = _VectorImport(
        items={item.id: item for item in found},
        key=key,
        form="frames" if num_axes == 2 else "vectors",
        dim=size,
        frame_norm=frame_norm,
        workers=workers,
    )
    identity: Json = {
        "origin": "imported",
        "teacher": {"name": teacher_name, "dim": size, "frame_norm": frame_norm, "licence": licence},
        "weights_sha256": weights_sha256,
        "form": job.form,
    }
    pooled = Column("pooled", (size,), "float16")
    frames = job.form == "frames"
    return _fill(
        out,
        kind="echo",
        identity=identity,
        columns=(Column("moments", (2, size), "float16"), pooled) if frames else (pooled,),
        counts=("num_frames",) if frames else (),
        ids=[item.id for item in found],
        groups=[item.study for item in found],
        source=job,
        seed=PLAN_SEED,
        part_rows=part_rows,
        repair=repair,
        progress=progress,
    )


def list_items(source: Path, table: Path | None = None, separator: str = "") -> list[Item]:
    """The files of a folder, sorted, or those that a CSV table with the columns id, study, path lists.

    Without a table the id is the file's name without its ending; the study is the name of the folder the file lies in, and
    for files directly in `source` what stands before the last `separator` of the id (the whole id without a separator).
    """
    if not source.is_dir():
        raise UserError(f"{source} is neither a folder of embeddings nor an export of a store. Check the path.")
    if table is not None:
        return _listed(source, table)
    items: dict[str, Item] = {}
    for folder, inner, files in os.walk(source):
        inner.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() not in READERS:
                continue
            item = path.stem
            study = Path(folder).name if Path(folder) != source else item.rpartition(separator)[0] or item if separator else item
            if item in items:
                first, second = (str(p.relative_to(source)) for p in (items[item].path, path))
                raise UserError(f"{first} and {second} would both be {item!r}. List id, study, path in a table and give --table.")
            items[item] = Item(id=item, study=study, path=path)
    return list(items.values())


def _listed(source: Path, table: Path) -> list[Item]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            missing = [name for name in ("id", "study", "path") if name not in (lines.fieldnames or ())]
            if missing:
                raise UserError(f"{table} has no column {missing[0]!r}; it needs id, study and path.")
            listed = [(line["id"] or "", line["study"] or "", line["path"] or "") for line in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a CSV table in UTF-8: {error}.") from error
    items = []
    for number, (item, study, path) in enumerate(listed, start=2):
        inside = Path(path)
        if not item or not study or not path or inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{table} line {number}: id, study and path must be there, and the path must be inside {source}.")
        items.append(Item(id=item, study=study, path=source / inside))
    twice = [item for item, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise UserError(f"{table} lists the id {twice[0]!r} twice; ids must be unique.")
    return items


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorTask:
    """One file for a worker."""

    path: str
    key: str
    form: str = ""
    dim: int = 0
    frame_norm: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadItem:
    """One file back from a worker: values by column, and the fingerprint of the bytes they were made from."""

    values: Mapping[str, npt.NDArray[np.float16]]
    num_frames: int
    fingerprint: str


def shape_of(task: VectorTask) -> tuple[int, ...]:
    """The shape of the vectors in a file. Runs in a worker; raises ItemError."""
    return read_vectors(Path(task.path), task.key)[0].shape


def read_item(task: VectorTask) -> ReadItem:
    """A file's vectors as rows of the store. Runs in a worker; raises ItemError."""
    vectors, data = read_vectors(Path(task.path), task.key)
    if vectors.ndim != (2 if task.form == "frames" else 1) or vectors.shape[-1] != task.dim:
        wanted = f"(frames, {task.dim})" if task.form == "frames" else f"({task.dim},)"
        raise ItemError("shape_differs", f"{Path(task.path).name} holds {vectors.shape}, most of the files hold {wanted}")
    stat = moments(vectors, task.frame_norm) if task.form == "frames" else vectors[None]
    with np.errstate(over="ignore"):
        made = {"moments": stat.astype(np.float16), "pooled": stat[0].astype(np.float16)}
    if task.form != "frames":
        del made["moments"]
    if not all(np.isfinite(value).all() for value in made.values()):
        raise ItemError("beyond_fp16", f"{Path(task.path).name} holds values beyond fp16")
    mark = f"{len(data)}:{hashlib.sha256(data).hexdigest()}"
    return ReadItem(values=made, num_frames=len(vectors) if task.form == "frames" else 1, fingerprint=mark)


def _form(items: Sequence[Item], key: str, workers: int) -> tuple[int, int]:
    """(axes, D) of most of the files, by a sample in an order that only the ids decide."""
    order = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:MOST_TRIED]
    votes: Counter[tuple[int, int]] = Counter()
    first: ItemFailure | None = None
    tasks = [VectorTask(path=str(item.path), key=key) for item in order]
    with closing(_in_order(shape_of, tasks, workers)) as results:
        for result in results:
            if isinstance(result, Done):
                votes[len(result.value), result.value[-1]] += 1
            else:
                first = first or result
            if votes.total() >= WANTED_VOTES:
                break
    if not votes:
        assert first is not None
        raise UserError(f"none of the {len(order)} files that were tried holds usable vectors: {first.message} ({first.code}).")
    return min(votes, key=lambda form: (-votes[form], form))


class _Source(Protocol):
    """Where the rows of an import come from."""

    def rows(self, ids: Sequence[str]) -> Generator[Row, None, None]:
        """The row of each id, in order."""

    def stale(self, item: str, status: str, mark: str, since: float) -> bool:
        """Whether what was read for a row is no longer what there is."""


@dataclass(slots=True, kw_only=True)
class _VectorImport:
    """Rows from a folder of files."""

    items: Mapping[str, Item]
    key: str
    form: str
    dim: int
    frame_norm: str
    workers: int

    def rows(self, ids: Sequence[str]) -> Generator[Row, None, None]:
        tasks = [
            VectorTask(
                path=str(self.items[i].path) if i in self.items else "", key=self.key, form=self.form, dim=self.dim,
                frame_norm=self.frame_norm,
            )
            for i in ids
        ]  # fmt: skip
        with closing(_in_order(read_item, tasks, self.workers)) as results:
            for item, result in zip(ids, results, strict=True):
                if isinstance(result, Done):
                    made = result.value
                    counts = {"num_frames": made.num_frames} if self.form == "frames" else {}
                    yield Row("ok", fingerprint=made.fingerprint, values=made.values, counts=counts)
                else:
                    code = "missing_file" if item not in self.items else result.code
                    counts = {"num_frames": 0} if self.form == "frames" else {}
                    yield Row("failed", code, permanent=result.permanent, fingerprint=self._mark(item), counts=counts)

    def stale(self, item: str, status: str, mark: str, since: float) -> bool:
        try:
            found = self.items[item].path.stat()
        except OSError:
            return False
        younger = max(found.st_mtime, found.st_ctime) >= since or not mark.startswith(f"{found.st_size}:")
        return (status == "failed" or younger) and self._mark(item) != mark

    def _mark(self, item: str) -> str:
        """The fingerprint of a file, the size alone of one that is not read, "" of what is not there."""
        try:
            path = self.items[item].path
            return fingerprint(path) if path.stat().st_size <= MAX_BYTES else f"{path.stat().st_size}:"
        except (KeyError, OSError, ItemError):
            return ""


def _fill(
    out: str | os.PathLike[str],
    *,
    kind: str,
    identity: Json,
    columns: Sequence[Column],
    counts: Sequence[str],
    ids: Sequence[str],
    groups: Sequence[str],
    source: _Source,
    seed: int,
    part_rows: int | None,
    repair: bool,
    progress: Progress | None,
) -> ImportReport:
    """Plan, commit and seal what is missing: the first segment, one that was left unfinished, or one that adds and heals."""
    _check_place(out, columns, len(ids))
    computed = rounds = 0
    while repair and (damaged := Writer.repair(out, identity=identity)) is not None:
        computed += _commit(damaged, source, progress)
    while True:
        writer = Writer.resume(out, identity=identity)
        left_over = writer is not None
        store = None if writer is not None else _sealed(out)
        if writer is None and store is None:
            plan = embed_cache.make_plan(ids, groups, seed=seed, part_rows=part_rows)
            writer = Writer.create_or_resume(
                out, kind=kind, identity=identity, columns=columns, counts=counts, plan=plan
            )  # fmt: skip
        if writer is None and store is not None:
            store.require(kind=kind, identity=identity, columns=columns, counts=counts)
            stale = _stale(store, ids, source)
            studies = {group for item, group in zip(ids, groups, strict=True) if item in stale}
            chosen = [(item, group) for item, group in zip(ids, groups, strict=True) if group in studies]
            if stale and rounds < 2:
                writer = Writer.extend(
                    out, identity=identity, ids=[i for i, _ in chosen], groups=[g for _, g in chosen], recompute=stale,
                    part_rows=part_rows, seed=seed,
                )  # fmt: skip
        if writer is None:
            return _import_report(_sealed(out), computed, already_done=computed == rounds == 0)
        computed += _commit(writer, source, progress)
        rounds += 1
        if not left_over:
            return _import_report(_sealed(out), computed, already_done=False)


def _commit(writer: Writer, source: _Source, progress: Progress | None) -> int:
    wanted = [(part, [item for item, _, needed in writer.rows_of(part) if needed]) for part in writer.pending()]
    ids = [item for _, items in wanted for item in items]
    done = 0
    with closing(source.rows(ids)) as rows:
        for part, items in wanted:
            made = {}
            for item in items:
                made[item] = next(rows)
                done += 1
                if progress is not None:
                    progress(done, len(ids))
            writer.commit(part, made, _versions())
    writer.seal(_versions())
    return done


def _stale(store: embed_cache.EmbeddingStore, ids: Sequence[str], source: _Source) -> set[str]:
    """Ids that are new, failed for a passing reason, or whose file is another one now."""
    index = store.index.filter(store.index["live"])
    begun = [store.begun(number) for number in range(len(store.manifest.segments))]
    names = ("id", "status", "permanent", "fingerprint", "segment")
    old = {line[0]: line[1:] for line in zip(*(index[name].to_pylist() for name in names), strict=True)}
    stale = set()
    for item in ids:
        if item not in old:
            stale.add(item)
            continue
        status, permanent, mark, segment = old[item]
        if (status == "failed" and not permanent) or source.stale(item, status, mark, begun[segment]):
            stale.add(item)
    return stale


def _sealed(out: str | os.PathLike[str]) -> embed_cache.EmbeddingStore | None:
    """The store, None where none is finished yet; damage is told."""
    try:
        return embed_cache.open(out)
    except embed_cache.DamagedStore:
        raise
    except embed_cache.StoreError:
        return None


def _import_report(store: embed_cache.EmbeddingStore | None, computed: int, *, already_done: bool) -> ImportReport:
    assert store is not None
    live = store.index.filter(store.index["live"])
    by_reason: Counter[str] = Counter()
    examples: dict[str, tuple[str, ...]] = {}
    for item, status, reason in zip(*(live[name].to_pylist() for name in ("id", "status", "reason")), strict=True):
        if status != "ok":
            by_reason[f"{status}: {reason}"] += 1
            examples[f"{status}: {reason}"] = (*examples.get(f"{status}: {reason}", ()), item)[:3]
    return ImportReport(
        num_rows=live.num_rows,
        by_status=Counter(live["status"].to_pylist()),
        by_reason=by_reason,
        examples=examples,
        num_computed=computed,
        already_done=already_done,
    )


def _in_order(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    """Results in the order of `tasks`; those that came early wait."""
    early: dict[int, Any] = {}
    wanted = 0
    for position, result in run_bounded(
        function, tasks, workers=workers, timeout_s=FILE_TIMEOUT_S, memory_bytes=FILE_MEMORY_BYTES
    ):
        early[position] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _check_place(out: str | os.PathLike[str], columns: Sequence[Column], num_rows: int) -> None:
    if embed_cache.is_remote(out):
        return
    near = next(parent for parent in (Path(out).absolute(), *Path(out).absolute().parents) if parent.exists())
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise UserError(f"{near} is not a folder that can be written to; choose another --out.")
    need = sum(column.row_bytes for column in columns if not column.ragged) * num_rows
    free = shutil.disk_usage(near).free
    if free < 1.1 * need and not Path(out).exists():
        raise UserError(f"{near} has {free / 1e9:.1f} GB free, the store needs about {need / 1e9:.1f} GB; free some.")


# ---- our own exports, read back


@dataclass(slots=True)
class _ExportImport:
    """Rows from an export of ours."""

    columns: Sequence[Column]
    counts: Sequence[str]
    files: Sequence[Path]
    places: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    """Id -> file, "" or "others/", position."""
    groups: dict[str, str] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    """Id -> row in the store that was exported."""
    _open: tuple[int, Any] | None = None

    def arrays(self, number: int) -> Any:
        if self._open is None or self._open[0] != number:
            path = self.files[number]
            kind = _SafetensorsArrays if path.suffix.lower() in SUFFIXES["safetensors"] else _Hdf5Arrays
            self._open = (number, kind(path))
        return self._open[1]

    def index(self) -> None:
        for number in range(len(self.files)):
            arrays = self.arrays(number)
            for section in ("", "others/"):
                ids, groups = arrays.texts(f"{section}id"), arrays.texts(f"{section}group")
                rows = [int(row) for row in arrays.values(f"{section}row", 0, len(ids))]
                for place, (item, group, row) in enumerate(zip(ids, groups, rows, strict=True)):
                    if item in self.places:
                        raise UserError(f"{self.files[number].name} lists {item!r} for a second time; export the store again.")
                    self.places[item] = (number, section, place)
                    self.groups[item] = group
                    self.order[item] = row

    def rows(self, ids: Sequence[str]) -> Generator[Row, None, None]:
        for item in ids:
            number, section, place = self.places[item]
            arrays = self.arrays(number)
            reason, mark = (arrays.text(f"{section}{name}", place) for name in ("reason", "fingerprint"))
            counts = {name: int(arrays.value(f"{section}counts/{name}", place)) for name in self.counts}
            if section:
                status = arrays.text("others/status", place)
                permanent = bool(arrays.value("others/permanent", place))
                yield Row(status, reason, permanent=permanent, fingerprint=mark, counts=counts)
                continue
            values = {}
            for column in self.columns:
                name = f"columns/{column.name}"
                if column.ragged:
                    start, count = (int(arrays.value(f"{name}/{what}", place)) for what in ("start", "count"))
                    values[column.name] = arrays.values(f"{name}/values", start, start + count)
                else:
                    values[column.name] = arrays.value(name, place)
            yield Row("ok", reason, fingerprint=mark, values=values, counts=counts)

    def stale(self, item: str, status: str, mark: str, since: float) -> bool:
        return False


def _import_export(
    source: Path, about: Json, out: str | os.PathLike[str], *, part_rows: int | None, repair: bool, progress: Progress | None
) -> ImportReport:
    """An export of ours -> a store with equal rows. Its identity says that they were imported."""
    try:
        if about["version"] != EXPORT_VERSION:
            raise UserError(f"{source} is an export of version {about['version']}; this ecgecho reads {EXPORT_VERSION}.")
        columns = [Column(c["name"], tuple(c["shape"]), c["dtype"], bool(c["ragged"])) for c in about["columns"]]
        files = [source]
        if source.is_dir():
            files = [source / _plain_name(name) for name in about["studies"].values()]
        job = _ExportImport(columns, [str(name) for name in about["counts"]], files)
        job.index()
        ids = sorted(job.places, key=lambda item: (job.order[item], item))
        segments = about["segments"]
        single: Json = segments[0] if len(segments) == 1 else {"part_rows": None, "seed": PLAN_SEED}
        report = _fill(
            out,
            kind=str(about["kind"]),
            identity={**_object(about["identity"]), "origin": "imported"},
            columns=columns,
            counts=job.counts,
            ids=ids,
            groups=[job.groups[item] for item in ids],
            source=job,
            seed=int(single["seed"]),
            part_rows=part_rows or single["part_rows"],
            repair=repair,
            progress=progress,
        )
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is an export that was changed or cut short ({error}). Export the store again.") from error
    return report


class _Hdf5Arrays:
    """Arrays of an HDF5 export. Nothing outside the file is followed."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.file = h5py.File(path, "r")
        self.path = path

    def _node(self, name: str) -> Any:
        import h5py

        group: Any = self.file
        for part in name.split("/"):
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                raise KeyError(name)
            group = group[part]
        if not isinstance(group, h5py.Dataset) or group.external or group.is_virtual or group.nbytes > self.path.stat().st_size:
            raise KeyError(name)
        return group

    def texts(self, name: str) -> list[str]:
        return [bytes(text).rstrip(b"\0").decode() for text in self._node(name)[()]]

    def text(self, name: str, place: int) -> str:
        return bytes(self._node(name)[place]).rstrip(b"\0").decode()

    def value(self, name: str, place: int) -> Any:
        return self._node(name)[place]

    def values(self, name: str, start: int, stop: int) -> Any:
        return self._node(name)[start:stop]


class _SafetensorsArrays:
    """Arrays of a safetensors export, mapped."""

    def __init__(self, path: Path) -> None:
        import safetensors

        try:
            with safetensors.safe_open(path, framework="numpy"):
                pass  # refuses a header that does not fit the file
        except Exception as error:
            raise UserError(f"{path} is damaged ({str(error)[:200]}). Export the store again.") from error
        self.path = path
        self.header, self.begin = _safetensors_header(path)
        self.maps: dict[str, npt.NDArray[Any]] = {}

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self.maps:
            entry = self.header[name]
            dtype = next(np.dtype(plain) for plain, code in _SAFETENSORS.items() if code == entry["dtype"])
            shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
            if start == stop:
                self.maps[name] = np.empty(shape, dtype)
            else:
                self.maps[name] = np.memmap(self.path, dtype.newbyteorder("<"), "r", self.begin + start, shape)
        return self.maps[name]

    def texts(self, name: str) -> list[str]:
        return [bytes(text).rstrip(b"\0").decode() for text in self._array(name)]

    def text(self, name: str, place: int) -> str:
        return bytes(self._array(name)[place]).rstrip(b"\0").decode()

    def value(self, name: str, place: int) -> Any:
        return np.array(self._array(name)[place])

    def values(self, name: str, start: int, stop: int) -> Any:
        return np.array(self._array(name)[start:stop])


def _safetensors_header(path: Path) -> tuple[Json, int]:
    """The header, and where the values begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_ABOUT_BYTES:
            raise ValueError(f"{path} has a header of {size} bytes")
        return _object(json.loads(file.read(size))), 8 + size


def _plain_name(name: str) -> str:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise KeyError(f"{name!r} is no file name")
    return name


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _bounded(path: Path) -> str:
    if path.stat().st_size > MAX_ABOUT_BYTES:
        raise ValueError(f"{path} is too large")
    return path.read_text(encoding="utf-8")


# ---- files


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
    _sync(out.parent)
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
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _versions() -> Json:
    from importlib.metadata import PackageNotFoundError, version

    found: Json = {"embed_cache_format": embed_cache.FORMAT_VERSION, "command": "store import"}
    with suppress(PackageNotFoundError):
        found["ecgecho"] = version("ecgecho")
    return found
