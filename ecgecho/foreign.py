"""Files of vectors that somebody else computed: which there are, and the rows they become. Shapes: T frames, D embedding."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.echo.moments import moments
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.vectors import MAX_BYTES, READERS, read_vectors
from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.types import ItemError, UserError
from embed_cache import Row

FILE_TIMEOUT_S = 120.0
FILE_MEMORY_BYTES = 6 << 30  # the file's bytes, its array, and that in fp64
WANTED_VOTES, MOST_TRIED = 8, 256  # files that decide the size of the vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file to import: its clip and its study."""

    id: str
    study: str
    path: Path


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


def form_of(items: Sequence[Item], key: str, workers: int) -> tuple[int, int]:
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


@dataclass(slots=True, kw_only=True)
class VectorImport:
    """Rows from a folder of files."""

    items: Mapping[str, Item]
    key: str
    form: str
    dim: int
    frame_norm: str
    workers: int

    def rows(self, ids: Iterable[str]) -> Generator[Row, None, None]:
        begun: deque[str] = deque()

        def tasks() -> Iterator[VectorTask]:
            for item in ids:
                begun.append(item)
                path = str(self.items[item].path) if item in self.items else ""
                yield VectorTask(path=path, key=self.key, form=self.form, dim=self.dim, frame_norm=self.frame_norm)

        with closing(_in_order(read_item, tasks(), self.workers)) as results:
            for result in results:
                item = begun.popleft()
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


def _in_order(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    """Results in the order of `tasks`, which are taken as the workers ask for them; results that came early wait."""
    early: dict[int, Any] = {}
    wanted = 0
    for position, result in run_bounded(
        function, tasks, workers=workers, timeout_s=FILE_TIMEOUT_S, memory_bytes=FILE_MEMORY_BYTES
    ):
        early[position] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1
