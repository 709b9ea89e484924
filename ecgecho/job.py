"""A cache job, whatever it caches: finds what is missing, computes it part by part, seals, verifies, reports.

What exists is judged by the store alone. A job that was killed, or that runs several times at once, goes on from there.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import embed_cache
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.workers import Done, ItemFailure, Pool
from ecgecho.pipeline import Busy, Decoding, Part, Passing, Teaching, Writing, decode_one
from ecgecho.types import ItemError, Json, UserError

PLAN_SEED = 20_240_229  # any constant: the order of studies must only be the same on every machine
ITEM_MEMORY_BYTES = 4 << 30
RECOMPUTED_COSINE = 0.999
LOOK_S = 1.0
"""Between two looks at what other writers have committed."""
SAMPLE_ITEMS = 32
SAMPLE_S = 20.0
INDEX_BYTES = 256
"""About what ids, status, reason and fingerprint of a row take."""
Progress = Callable[[int, int], Any]
Members = Callable[[embed_cache.Writer, Progress | None], list[Json]]
"""Computes parts of an open segment in other processes; gives what each did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What a cache job did; `exit_status` as the user's page defines it."""

    kind: str
    num_rows: int
    by_status: Mapping[str, int]
    by_reason: Mapping[str, int]
    """Reasons of excluded and failed rows."""
    examples: Mapping[str, tuple[str, ...]]
    """Up to three ids of each of these reasons."""
    defects: Mapping[str, int]
    """What was mended in rows that are ok."""
    num_computed: int
    seconds: float
    device: str
    already_done: bool
    verified_files: int
    recomputed: int
    """Random rows computed again, alone, and found equal within fp16."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """Share of the time that each stage worked; 1 is all of it."""

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 3 some failed, 1 nothing usable."""
        if not self.by_status.get("ok"):
            return 1
        return 3 if self.by_status.get("failed") else 0

    @property
    def slowest(self) -> str:
        """The stage that set the pace, "" where nothing was computed."""
        return max(self.busy, key=lambda stage: self.busy[stage], default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a job would do, and how long it would take; nothing was written."""

    by_status: Mapping[str, int]
    """Rows that are there."""
    num_new: int
    num_again: int
    """Failed for a passing reason, or their file was changed."""
    num_unfinished: int
    """Of a segment that was begun and not sealed, together with the rows of it that are copied."""
    bytes_to_read: int
    bytes_to_write: int
    num_sampled: int
    seconds: float
    """Estimated from the sample; 0 where nothing was sampled."""
    busy: Mapping[str, float]
    """Share of the sample's time that each stage worked."""

    @property
    def num_wanted(self) -> int:
        return self.num_new + self.num_again + self.num_unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What a repair did."""

    files: tuple[str, ...]
    """Put back from what the store's other files say."""
    num_parts: int
    """Computed again."""
    num_rows: int


@dataclass(slots=True)
class Target:
    """Where a job writes, and what it would write from scratch."""

    out: Path
    kind: str
    identity: Json
    columns: Sequence[embed_cache.Column]
    counts: Sequence[str]
    ids: Sequence[str]
    groups: Sequence[str]
    files_of: Callable[[str], Sequence[str]]
    """The files that an item is made from; none for what the catalog does not list."""
    part_rows: int | None
    erased: Collection[str]
    """Names of the erasures that the items were chosen by; where the store knows others by then, planning is refused."""
    tag_of: Callable[[str], str] = lambda _: ""
    """What of its files an item is, in its fingerprint "SIZE:TAG:SHA256"; "" is all of them, "SIZE:SHA256"."""
    is_part: Callable[[str], bool] = lambda _: False
    """Whether an item is a part of its files, whose fingerprint is one of values. No such file is opened by this process."""
    marks_of: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    """The fingerprints of such items, computed by workers; without those that cannot be read."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints that are known without reading: those of a raw store."""
    resumed: bool = False
    """Whether the last `writer` is of a segment that an earlier call began."""

    def writer(self) -> embed_cache.Writer | None:
        """The writer of what is missing, or None where nothing is."""
        if not self.ids:
            raise UserError(f"there is nothing to cache for {self.out}: the catalog lists no {self.kind} item.")
        self._check_place()
        embed_cache.finish_erasures(self.out)
        open_segment = embed_cache.Writer.resume(self.out, identity=self.identity)
        self.resumed = open_segment is not None
        if open_segment is not None:
            if self.part_rows not in (None, open_segment.plan.part_rows):
                raise UserError(
                    f"{self.out} was planned with parts of {open_segment.plan.part_rows} rows, not {self.part_rows}. "
                    f"Leave --part-rows out, or choose another --out."
                )
            return open_segment
        if not is_sealed(self.out):
            plan = embed_cache.make_plan(self.ids, self.groups, seed=PLAN_SEED, part_rows=self.part_rows)
            return embed_cache.Writer.create_or_resume(
                self.out, kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts, plan=plan,
                erased=self.erased,
            )  # fmt: skip
        store = embed_cache.open(self.out)
        store.require(kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts)
        stale = self._stale(store)
        if not stale:
            return None
        studies = {group for item, group in zip(self.ids, self.groups, strict=True) if item in stale}
        chosen = [(i, g) for i, g in zip(self.ids, self.groups, strict=True) if g in studies]
        return embed_cache.Writer.extend(
            self.out, identity=self.identity, ids=[i for i, _ in chosen], groups=[g for _, g in chosen],
            recompute=stale, part_rows=self.part_rows, seed=PLAN_SEED, erased=self.erased,
        )  # fmt: skip

    def wanted(self) -> tuple[set[str], Mapping[str, int], int, int]:
        """Items that a job would compute, rows there by status, how many of the items are there, rows left of a begun segment."""
        try:
            found = embed_cache.progress(self.out)
        except (embed_cache.DamagedStore, embed_cache.StaleStore):
            raise
        except embed_cache.StoreError:  # nothing there, or nothing planned
            return set(self.ids), {}, 0, 0
        if not found.complete:
            return set(), found.status, 0, found.rows_planned - found.rows_done
        store = embed_cache.open(self.out)
        store.require(kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts)
        stale = self._stale(store)
        return stale, found.status, len(stale & set(store.index["id"].to_pylist())), 0

    @property
    def row_bytes(self) -> int:
        """Of the columns that are not ragged."""
        return sum(int(np.prod(c.shape)) * np.dtype(c.dtype).itemsize for c in self.columns if not c.ragged)

    def num_bytes(self, items: Collection[str]) -> int:
        """Of the files that items are made from, as far as they are there."""
        total, shared = 0, set[str]()
        for item in items:
            if self.tag_of(item):  # many items of one file
                shared.update(self.files_of(item))
                continue
            for file in self.files_of(item):
                with suppress(OSError):
                    total += os.stat(file).st_size
        for file in shared:
            with suppress(OSError):
                total += os.stat(file).st_size
        return total

    def _stale(self, store: embed_cache.EmbeddingStore) -> set[str]:
        """Items that are new, failed for a passing reason, or whose file is no longer the one that was read."""
        index = store.index.to_pydict()
        # A copied store has younger files; the time that its manifest tells is not moved by that.
        sealed = [float(note.get("time", 0)) for note in store.manifest.provenance]
        begun = [min(store.begun(number), time) for number, time in enumerate(sealed)]
        old = {
            item: (status, permanent, mark, begun[segment])
            for item, status, permanent, mark, segment, live in zip(
                *(index[name] for name in ("id", "status", "permanent", "fingerprint", "segment", "live")), strict=True
            )
            if live
        }
        stale = set()
        doubtful: dict[str, str] = {}
        for item in self.ids:
            if item not in old:
                stale.add(item)
                continue
            status, permanent, mark, since = old[item]
            if status == "erased":  # its clip keeps a number, and is nobody's
                continue
            if status == "failed" and not permanent:
                changed = True
            elif item in self.marks:
                changed = self.marks[item] != mark
            elif self.is_part(item):
                changed = False
                if self._doubtful(item, mark, since):
                    doubtful[item] = mark
            else:
                changed = (status == "failed" or self._doubtful(item, mark, since)) and self._changed(item, mark)
            if changed:
                stale.add(item)
        # Many rows of one file are younger together; workers read them, as fast as a job does.
        marks = self.marks_of(list(doubtful)) if doubtful else {}
        stale.update(item for item, mark in doubtful.items() if (marks.get(item) or self._unread_mark(item)) != mark)
        return stale

    def mark(self, item: str) -> str:
        """The fingerprint of an item that could not be read. What killed a worker is not opened here."""
        if item in self.marks:
            return self.marks[item]
        return self._unread_mark(item) if self.is_part(item) else self._mark(item)

    def _doubtful(self, item: str, mark: str, since: float) -> bool:
        """Whether the files of an item are of another size than fingerprint `mark` tells, or younger, or it is another part."""
        try:
            found = [os.stat(file) for file in self.files_of(item)]
        except OSError:
            return False
        if not found:
            return False
        same_head = mark.rpartition(":")[0] == self._head(item, sum(stat.st_size for stat in found))
        return not same_head or any(max(stat.st_mtime, stat.st_ctime) >= since for stat in found)

    def _changed(self, item: str, mark: str) -> bool:
        """Whether the files of an item, as they are there, are no longer those that fingerprint `mark` tells."""
        files = self.files_of(item)
        return bool(files) and all(os.path.exists(file) for file in files) and self._mark(item) != mark

    def _mark(self, item: str) -> str:
        """The fingerprint; of what no reader takes (empty, too large) all but the hash; "" for what is not there."""
        files = self.files_of(item)
        if not files:
            return ""
        with suppress(OSError, ItemError):
            size, _, found = fingerprint(*files).rpartition(":")
            return f"{self._head(item, int(size))}:{found}"
        return self._unread_mark(item)

    def _unread_mark(self, item: str) -> str:
        """All of a fingerprint but the hash; "" for what is not there."""
        files = self.files_of(item)
        try:
            return f"{self._head(item, sum(os.stat(file).st_size for file in files))}:" if files else ""
        except OSError:
            return ""

    def _head(self, item: str, size: int) -> str:
        tag = self.tag_of(item)
        return f"{size}:{tag}" if tag else str(size)

    def _check_place(self) -> None:
        if embed_cache.is_remote(self.out):
            return
        parent = self.out.parent
        parent.mkdir(parents=True, exist_ok=True)
        if not os.access(parent, os.W_OK):
            raise UserError(f"{parent} is not writable; choose another --out.")
        need = self.row_bytes * len(self.ids)
        free = shutil.disk_usage(parent).free
        if not self.out.exists() and free < 1.1 * need + (16 << 20):
            raise UserError(
                f"{parent} has {free / 1e9:.1f} GB free, the store needs about {need / 1e9:.1f} GB; "
                f"free some, or choose another --out."
            )


class Walk:
    """Which part is next: on from a random one that is left, and elsewhere where another writer is at work.

    So several writers meet seldom, without locks or claims. With `only`, the parts that somebody else has dealt out.
    """

    def __init__(self, writer: embed_cache.Writer, only: Collection[int] | None) -> None:
        self._writer = writer
        self._left = {part for part in parts_left(writer) if only is None or part in only}
        self._looked = time.monotonic()
        self._complete = not self._left
        self._sizes = {part: num_wanted(writer, part) for part in self._left}
        self._last = -1
        self.num_parts = len(self._left)
        self.total = sum(self._sizes.values())
        self.by_others = 0
        """Rows that other writers have committed in the meantime."""

    def look(self, *, now: bool = False) -> bool:
        """Whether nobody has anything left to commit, by a look that is at most LOOK_S old."""
        if now or time.monotonic() - self._looked > LOOK_S:
            left = set(parts_left(self._writer))
            gone = self._left - left
            self._left -= gone
            self.by_others += sum(self._sizes[part] for part in gone)
            self._complete = not left
            self._looked = time.monotonic()
        return self._complete

    def next(self, elsewhere: bool = False) -> tuple[int, list[str]] | None:
        """A part's number and the items to compute, or None where nothing is left."""
        self.look(now=elsewhere)
        if not self._left:
            return None
        part = self._last + 1
        if elsewhere or self._last < 0 or part not in self._left:
            part = random.choice(sorted(self._left))
        self._last = part
        self._left.discard(part)
        return part, [item for item, _, needs in self._writer.rows_of(part) if needs and item]


def parts_left(writer: embed_cache.Writer) -> list[int]:
    """Parts that nobody has committed yet."""
    return writer.refresh()


def num_wanted(writer: embed_cache.Writer, part: int) -> int:
    """Rows of a part that are computed, not copied, and not erased."""
    return sum(needs and bool(item) for item, _, needs in writer.rows_of(part))


@dataclass(slots=True, kw_only=True)
class Job:
    """One cache job: what is decoded where, what becomes of it, and where it is written."""

    target: Target
    stage: Callable[[], Passing | Teaching]
    """What a part's decoded items go through, in this thread; a new one for each part."""
    row_of: Callable[[Any], embed_cache.Row]
    decode: Callable[[Any], Any]
    task_of: Callable[[str], Any]
    workers: int
    timeout_s: float
    notes: Json = field(default_factory=dict)
    """For the provenance of the parts."""
    progress: Progress | None = None
    num_computed: int = 0
    busy: Busy = field(default_factory=Busy)
    _taught_s: float = 0.0

    def run(self, members: Members | None = None) -> CacheReport:
        """All of it: resumes or plans, computes, seals, verifies."""
        began = time.monotonic()
        with self.pool() as pool:
            writer = self.target.writer()
            already_done = writer is None
            if writer is not None:
                self._complete(pool, writer, members)
                # A segment that an earlier call had planned may be older than the catalog.
                writer = self.target.writer() if self.target.resumed else None
                if writer is not None:
                    self._complete(pool, writer, members)
            return self._report(pool, began, already_done)

    def preview(self) -> Preview:
        """What `run` would do. Computes a sample to see how long it takes, and writes nothing."""
        target = self.target
        if not target.ids:
            raise UserError(f"there is nothing to cache for {target.out}: the catalog lists no {target.kind} item.")
        wanted, by_status, again, unfinished = target.wanted()
        among = sorted(wanted or (target.ids if unfinished else ()))
        count, seconds, ragged_bytes, busy = self._measure(random.Random(PLAN_SEED).sample(among, min(len(among), SAMPLE_ITEMS)))
        total = unfinished or len(wanted)
        studies = {group for item, group in zip(target.ids, target.groups, strict=True) if item in wanted}
        rows = unfinished or sum(group in studies for group in target.groups)
        return Preview(
            by_status=by_status,
            num_new=0 if unfinished else total - again,
            num_again=again,
            num_unfinished=unfinished,
            bytes_to_read=round((unfinished / len(among) if unfinished else 1) * target.num_bytes(among)),
            bytes_to_write=round(rows * (target.row_bytes + ragged_bytes + INDEX_BYTES)),
            num_sampled=count,
            seconds=total * seconds / count if count else 0.0,
            busy=busy,
        )

    def _measure(self, items: Sequence[str]) -> tuple[int, float, float, Mapping[str, float]]:
        """Number of items computed, seconds for them, ragged bytes of a row, busy shares; without the start of the processes."""
        if not items:
            return 0, 0.0, 0.0, {}
        ragged = [column.name for column in self.target.columns if column.ragged]
        with self.pool() as pool:
            for _ in self._computed(pool, iter([(0, items[: max(pool.workers, 1)])])):
                pass
            began, decoded, taught, count, size = time.monotonic(), pool.busy_s, self._taught_s, 0, 0
            for _, item, value in self._computed(pool, iter([(0, items)])):
                if item:
                    count += 1
                    values = self._row(item, value).values
                    size += sum(values[name].nbytes for name in ragged if name in values)
                if time.monotonic() - began > SAMPLE_S:
                    break
            busy = Busy()
            self._tally(busy, pool, began, decoded, taught, {})
        return count, busy.wall_s, size / max(count, 1), busy.shares()

    def repair(self) -> Repaired:
        """Mends a damaged store: what follows from its other files, then the damaged parts, decoded and taught again."""
        out = self.target.out
        found = embed_cache.repair(out)
        if found.lost:
            raise UserError(f"{out} lost what nothing else tells: {', '.join(found.lost[:3])}. Take it from a copy.")
        num_parts = 0
        with self.pool() as pool:
            while (writer := embed_cache.Writer.repair(out, identity=self.target.identity)) is not None:
                num_parts += len(writer.pending())
                self.fill(pool, writer)
                writer.seal({**_versions(), **self.notes})
        num_rows, self.num_computed = self.num_computed, 0
        return Repaired(files=found.mended, num_parts=num_parts, num_rows=num_rows)

    def _complete(self, pool: Pool[Any, Any], writer: embed_cache.Writer, members: Members | None) -> None:
        for told in members(writer, self.progress) if members is not None else ():
            self.num_computed += told["num_computed"]
            self.busy.add(told["busy"])
        self.fill(pool, writer)
        writer.seal({**_versions(), **self.notes})

    def pool(self) -> Pool[Any, Any]:
        """Decode processes for the whole job; none is started before there is something to decode."""
        return Pool(self.decode, workers=self.workers, timeout_s=self.timeout_s, memory_bytes=ITEM_MEMORY_BYTES)

    def fill(self, pool: Pool[Any, Any], writer: embed_cache.Writer, parts: Sequence[int] | None = None) -> None:
        """Computes and commits the parts that are left, all or those named."""
        walk = Walk(writer, parts)
        if not walk.num_parts:
            return
        done, total = self.num_computed, self.num_computed + walk.total
        began, decoded, taught = time.monotonic(), pool.busy_s, self._taught_s
        with Writing(writer, self._row) as writing:

            def chosen() -> Iterator[tuple[int, Sequence[str]]]:
                while (part := walk.next(writing.superseded.is_set())) is not None:
                    writing.superseded.clear()
                    yield part

            for part, item, value in self._computed(pool, chosen()):
                if not item:
                    seconds = round(time.monotonic() - part.began, 3)
                    note = {**_versions(), **self.notes, "retried": len(part.retried), "seconds": seconds}
                    writing.put(part.number, "", note)
                    continue
                if walk.look():
                    break  # of what is begun here, others were faster
                writing.put(part.number, item, value)
                done += 1
                if self.progress is not None:
                    self.progress(min(done + walk.by_others, total), total)
        self.num_computed += writing.num_rows
        self._tally(self.busy, pool, began, decoded, taught, {"write": writing.busy_s})

    def _computed(self, pool: Pool[Any, Any], parts: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[Part[Any], str, Any]]:
        """(part, item, what its row is made of), and at the end of a part (part, "", None)."""
        stages: dict[int, Passing | Teaching] = {}
        for part, item, result in Decoding(pool, self.task_of, parts):
            if part.number not in stages:
                stages[part.number] = self.stage()
            stage = stages[part.number]
            if isinstance(result, ItemFailure):
                yield part, item, result
                continue
            start = time.monotonic()
            done = list(stage.finish() if result is None else stage.add(item, result.value))
            self._taught_s += time.monotonic() - start
            for name, value in done:
                yield part, name, value
            if result is None:
                del stages[part.number]
                yield part, "", None

    def _tally(
        self, busy: Busy, pool: Pool[Any, Any], began: float, decoded: float, taught: float, others: Mapping[str, float]
    ) -> None:
        seconds = {"decode": pool.busy_s - decoded, "teach": self._taught_s - taught, **others}
        if isinstance(self.stage(), Passing):
            del seconds["teach"]
        busy.add({"workers": max(pool.workers, 1), "wall_s": time.monotonic() - began, "seconds": seconds})

    def _row(self, item: str, value: Any) -> embed_cache.Row:
        if not isinstance(value, ItemFailure):
            return self.row_of(value)
        return embed_cache.Row(
            status=value.outcome,
            reason=value.code,
            permanent=value.permanent,
            fingerprint=self.target.mark(item),
            counts=dict.fromkeys(self.target.counts, 0),
        )

    def _report(self, pool: Pool[Any, Any], began: float, already_done: bool) -> CacheReport:
        out = self.target.out
        seconds = time.monotonic() - began
        checked = embed_cache.verify(out, sample_parts=8, seed=self.num_computed)
        if checked.damages:  # files that are not listed may be another writer's, who is still at work
            what = "; ".join(f"{damage.path}: {damage.problem}" for damage in checked.damages[:3])
            raise UserError(f"{out} is damaged ({what}). The same command with --repair computes such parts again.")
        opened = embed_cache.open(out)
        live = opened.index.filter(opened.index["live"])
        by_status = _counted(live["status"])
        defects: Counter[str] = Counter()
        for reasons, count in _counted(live.filter(pc.equal(live["status"], "ok"))["reason"]).items():
            defects.update(dict.fromkeys(filter(None, reasons.split(";")), count))
        by_reason, examples = {}, {}
        for status in by_status:
            rows = live.filter(pc.equal(live["status"], status)) if status != "ok" else live.slice(0, 0)
            for reason, count in _counted(rows["reason"]).items():
                name = f"{status}: {reason}"
                by_reason[name] = count
                examples[name] = tuple(rows.filter(pc.equal(rows["reason"], reason))["id"].slice(0, 3).to_pylist())
        return CacheReport(
            kind=self.target.kind,
            num_rows=live.num_rows,
            by_status=by_status,
            by_reason=by_reason,
            examples=examples,
            defects=defects,
            num_computed=self.num_computed,
            seconds=seconds,
            device=str(self.notes.get("device", "cpu")),
            already_done=already_done,
            verified_files=checked.num_files,
            recomputed=0 if already_done else self._recompute(pool, opened),
            busy=self.busy.shares(),
        )

    def _recompute(self, pool: Pool[Any, Any], store: embed_cache.EmbeddingStore) -> int:
        """Two random ok rows, computed again alone, must be the stored ones; gives how many could be."""
        index = store.index
        usable = np.flatnonzero(pc.and_(pc.equal(index["status"], "ok"), index["live"]).to_numpy())
        column = "pooled" if "pooled" in store.columns else "signal"
        done = 0
        for row in np.random.default_rng(len(usable)).permutation(usable)[:2].tolist():
            item = index["id"][row].as_py()
            result = decode_one(pool, self.task_of(item))
            if not isinstance(result, Done):
                continue  # the machine is short of time or memory just now; the row itself was checked by its checksum
            stage = self.stage()
            (made,) = [value for _, value in (*stage.add(item, result.value), *stage.finish())]
            new = np.asarray(self.row_of(made).values[column], np.float64).ravel()
            ragged = store.columns[column].ragged
            old = store.read_ragged(column, row) if ragged else store.read(column, np.array([row]))[0]
            old = np.asarray(old, np.float64).ravel()
            cosine = 1.0 if np.array_equal(new, old) else float(new @ old / (np.linalg.norm(new) * np.linalg.norm(old) + 1e-30))
            if not cosine > RECOMPUTED_COSINE:
                raise UserError(
                    f"row {row} ({item}) computed again differs from the store (cosine {cosine:.5f}): the machine or a file "
                    f"changed during the job. Run the command again with another --out."
                )
            done += 1
        return done


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    return {count["values"]: count["counts"] for count in pc.value_counts(values).to_pylist()}


def is_sealed(out: Path) -> bool:
    """Whether a finished store lies there."""
    if not embed_cache.is_remote(out):
        return (out / "head.json").exists()
    try:
        embed_cache.open(out)
    except (embed_cache.DamagedStore, embed_cache.StaleStore):
        return True
    except embed_cache.StoreError:
        return False
    return True


def _versions() -> Json:
    import ecgecho

    return {"ecgecho": ecgecho.__version__, "embed_cache_format": embed_cache.FORMAT_VERSION, "time": round(time.time())}
