"""The stages of a cache job: decode in worker processes, teach in this thread, write in another, all at the same time.

Between two stages lies a bounded queue, so the slowest stage sets the pace and memory stays flat. What the stages may not
change is the result: teacher batches are a pure function of the plan and of a part's decoded frames. They take a part's clips
in row order and cross clip borders, never part borders, whatever the number of workers and the order in which they end.

Shape letters: U units (frames, or sampled clips), D embedding.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

import embed_cache
from ecgecho.io.workers import Done, ItemFailure, Pool, Result
from ecgecho.types import Json, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ecgecho.types import Teacher

R = TypeVar("R")
Precision = Literal["fp32", "bf16"]

BATCH_UNITS = 64
"""Frames in a batch of the teacher."""
BATCH_CLIPS = 8
"""The same of a teacher of clips: as much work; over 64 clips MViT's first attention alone holds 2.5 GB of scores (computed)."""
HELD_PER_PART = 2
"""Clips of one part that are begun and not taken, per worker: how far a part is decoded behind a clip that hangs."""
HELD = 10
"""The same of all parts: then the workers wait for the clip that hangs."""
ROWS_WAITING = 256
"""Taught clips that wait for the writer; a few KB to a few hundred KB each."""
STAGES = ("decode", "teach", "write")


@dataclass(slots=True, eq=False)
class Part(Generic[R]):
    """One part on its way: its items are decoded in any order and taken in row order."""

    number: int
    items: Sequence[str]
    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    taken: int = 0
    arrived: dict[int, Done[R] | ItemFailure] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)

    @property
    def ready(self) -> int:
        """Items that can be taken now."""
        at = self.taken
        while at in self.arrived:
            at += 1
        return at - self.taken


Event = tuple[Part[R], str, Done[R] | ItemFailure | None]


class Decoding(Generic[R]):
    """Decodes `parts`, (number, items), which are read when there is room for the next.

    Iterates over (part, item, result), the items of a part in row order; after the last one the part comes with item "".

    A failure for a passing reason is tried once more, in another process. While a part waits for such a clip, or for one that
    hangs, the workers go on with the next part: their number times HELD clips are held at most.
    """

    def __init__(
        self,
        pool: Pool[Any, R],
        task_of: Callable[[str], Any],
        parts: Iterator[tuple[int, Sequence[str]]],
    ) -> None:
        self._pool = pool
        self._task_of = task_of
        self._choice = parts
        self._workers = max(pool.workers, 1)
        self._parts: list[Part[R]] = []
        self._in_flight = 0
        self._exhausted = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Event[R]]:
        try:
            yield from self._events()
        finally:
            self._exhausted = self._stopped = True  # what still arrives asks for nothing more

    def _events(self) -> Iterator[Event[R]]:
        event: Event[R]
        while True:
            with self._changed:
                self._fill()
                part = self._next()
                while part is None and self._error is None and self._parts:
                    if self._pool.workers == 0:
                        break
                    self._changed.wait()
                    part = self._next()
                if self._error is not None:
                    raise self._error
                if part is None and not self._parts:
                    return
                if part is not None and part.taken == len(part.items):
                    self._parts.remove(part)
                    event = part, "", None
                elif part is not None:
                    event = part, part.items[part.taken], part.arrived.pop(part.taken)
                    part.taken += 1
            if part is None:
                self._pool.work()
            else:
                yield event

    def _next(self) -> Part[R] | None:
        return next((part for part in self._parts if part.taken == len(part.items) or part.taken in part.arrived), None)

    def _fill(self) -> None:
        """Gives the workers as much as they and the memory can hold. Called with the lock held."""
        while (
            not self._stopped and self._in_flight < self._workers and sum(part.ready for part in self._parts) < self._workers + 2
        ):
            if sum(part.sent - part.taken for part in self._parts) >= HELD * self._workers:
                return
            part = next((part for part in self._parts if self._has_room(part)), None) or self._open()
            if part is None:
                return
            if part.items:
                self._send(part, part.sent)
                part.sent += 1

    def _has_room(self, part: Part[R]) -> bool:
        return part.sent < len(part.items) and part.sent - part.taken < HELD_PER_PART * self._workers

    def _open(self) -> Part[R] | None:
        chosen = None if self._exhausted else next(self._choice, None)
        if chosen is None:
            self._exhausted = True
            return None
        part: Part[R] = Part(*chosen)
        self._parts.append(part)
        return part

    def _send(self, part: Part[R], at: int, *, first: bool = False) -> None:
        self._in_flight += 1
        self._pool.submit(self._task_of(part.items[at]), lambda result: self._arrive(part, at, result), first=first)

    def _arrive(self, part: Part[R], at: int, result: Result[R]) -> None:
        with self._changed:
            try:
                self._in_flight -= 1
                if isinstance(result, BaseException):
                    raise result
                if isinstance(result, ItemFailure) and not result.permanent and at not in part.retried:
                    part.retried.add(at)
                    self._send(part, at, first=True)
                    return
                part.arrived[at] = result
                self._fill()
            except BaseException as error:
                self._error = error
            finally:
                self._changed.notify_all()


def decode_one(pool: Pool[Any, R], task: Any) -> Done[R] | ItemFailure:
    """One task through a pool that has nothing else to do."""
    results: queue.SimpleQueue[Result[R]] = queue.SimpleQueue()
    pool.submit(task, results.put, first=True)
    pool.work()
    result = results.get()
    if isinstance(result, BaseException):
        raise result
    return result


class Passing:
    """The stage of a job without a teacher: what was decoded is what is written."""

    def add(self, item: str, decoded: Any) -> Iterator[tuple[str, Any]]:
        yield item, decoded

    def finish(self) -> Iterator[tuple[str, Any]]:
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What is known of a clip, and the vectors of its units, (U, D)."""

    facts: Any
    vectors: npt.NDArray[np.float32]
    """(U, D + K) where the teacher tells K views apart: their probabilities come last."""


class Teaching:
    """One part's clips through the teacher, in row order; batches cross clip borders and end at the part's border."""

    def __init__(self, forward: Forward, batch: int = BATCH_UNITS) -> None:
        self._forward = forward
        self._batch = batch
        self._waiting: list[tuple[str, npt.NDArray[np.uint8]]] = []
        self._num_waiting = 0
        self._running: deque[tuple[list[tuple[str, int]], Callable[[], npt.NDArray[np.float32]]]] = deque()
        self._clips: dict[str, tuple[Any, list[npt.NDArray[np.float32]], int]] = {}

    def add(self, item: str, decoded: Any) -> Iterator[tuple[str, Any]]:
        """Gives the clips that are whole by now."""
        values = decoded.prepared.values
        self._clips[item] = decoded.facts, [], len(values)
        while len(values):
            take = values[: self._batch - self._num_waiting]
            self._waiting.append((item, take))
            self._num_waiting += len(take)
            values = values[len(take) :]
            if self._num_waiting == self._batch:
                self._send()
                yield from self._receive(1)

    def finish(self) -> Iterator[tuple[str, Any]]:
        """Gives the others."""
        if self._waiting:
            self._send()
        yield from self._receive(0)

    def _send(self) -> None:
        batch = np.concatenate([values for _, values in self._waiting])
        self._running.append(([(item, len(values)) for item, values in self._waiting], self._forward(batch)))
        self._waiting, self._num_waiting = [], 0

    def _receive(self, running: int) -> Iterator[tuple[str, Any]]:
        while len(self._running) > running:
            pieces, wait = self._running.popleft()
            vectors = wait()
            at = 0
            for item, count in pieces:
                facts, have, missing = self._clips[item]
                have.append(vectors[at : at + count].reshape(-1, vectors.shape[-1]))
                at += count
                self._clips[item] = facts, have, missing - count
                if missing == count:
                    yield item, Taught(facts=facts, vectors=np.concatenate(have))
                    del self._clips[item]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOptions:
    """How the teacher is run. Only `precision` changes what a row says beyond the rounding of another machine."""

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if not self.device.startswith("cuda") and (self.precision != "fp32" or self.channels_last or self.compile):
            raise UserError(f"bf16, channels-last and compiling are for CUDA; on {self.device} leave them out.")


class Forward:
    """The teacher's forward pass on its device: `forward(batch)` begins, and calling what it gives waits for the vectors.

    On CUDA a batch is on its way while the one before is fetched. A compiled teacher sees one shape: the last batch of a part
    is filled up with black.
    """

    def __init__(self, teacher: Teacher, options: ForwardOptions) -> None:
        import torch

        self.teacher = teacher.to(options.device)
        self.options = options
        self.batch = BATCH_UNITS if teacher.spec.unit == "frame" else BATCH_CLIPS
        """Units of a full batch."""
        self._cuda = torch.device(options.device).type == "cuda"
        for module in _modules(self.teacher) if options.channels_last else ():
            if any(parameter.ndim == 5 for parameter in module.parameters()):
                raise UserError(f"--channels-last is for pictures; {teacher.spec.name} is a network of videos. Leave it out.")
            module.to(memory_format=torch.channels_last)
        for module in _modules(self.teacher) if options.compile else ():
            for part in (module, *module.children()):
                part.compile(dynamic=False)

    def __call__(self, values: npt.NDArray[np.uint8]) -> Callable[[], npt.NDArray[np.float32]]:
        """Units (U, 3, ...) uint8 -> their vectors (U, 1, D), or (U, T, D) where tokens are frames; views come behind them."""
        import torch

        count = len(values)
        if self.options.compile and count < self.batch:
            values = np.concatenate([values, np.zeros((self.batch - count, *values.shape[1:]), np.uint8)])
        batch = torch.from_numpy(values)
        if self._cuda:
            batch = batch.pin_memory().to(self.options.device, non_blocking=True)
        if self.options.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            output = self.teacher.forward(batch)
        if self.teacher.spec.tokens_are_frames and output.tokens is not None:
            vectors = output.tokens.float()[:count]
        else:
            vectors = output.pooled.float()[:count, None]
        if self.teacher.spec.view_names:
            if "view" not in output.aux:
                raise ValueError(f"the teacher {self.teacher.spec.name} names views and its forward gives no aux['view']")
            view = output.aux["view"].float()[:count, None]
            vectors = torch.cat([vectors, view.expand(-1, vectors.shape[1], -1)], dim=-1)
        if not self._cuda:
            return vectors.numpy
        host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        there.record(torch.cuda.current_stream(vectors.device))
        return lambda: _fetched(there, host)


def _fetched(there: Any, host: Tensor) -> npt.NDArray[np.float32]:
    there.synchronize()
    return host.numpy()


def _modules(teacher: Teacher) -> list[Any]:
    """The networks that a teacher holds."""
    from torch import nn

    return [value for value in vars(teacher).values() if isinstance(value, nn.Module)]


class Writing:
    """A thread that makes rows and commits parts. Leaving the block waits for what is finished; an error of its own is raised."""

    def __init__(self, writer: embed_cache.Writer, row_of: Callable[[str, Any], embed_cache.Row]) -> None:
        self.busy_s = 0.0
        self.num_rows = 0
        """Of the parts that it committed."""
        self.superseded = threading.Event()
        """Set when another writer had committed a part first."""
        self._writer = writer
        self._row_of = row_of
        self._queue: queue.Queue[tuple[int, str, Any] | None] = queue.Queue(ROWS_WAITING)
        self._rows: dict[int, dict[str, embed_cache.Row]] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ecgecho-writer", daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=None if kind is None else 1.0)
        self._thread.join(None if kind is None else 3.0)
        if kind is None and self._error is not None:
            raise self._error

    def put(self, part: int, item: str, value: Any) -> None:
        """A row of a part, or its end (item "") with the provenance of the part."""
        while True:
            if self._error is not None:
                raise self._error
            with suppress(queue.Full):
                return self._queue.put((part, item, value), timeout=1.0)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            if self._error is not None:
                continue  # nobody may wait for a queue that nobody empties
            began = time.monotonic()
            try:
                self._write(*message)
            except BaseException as error:
                self._error = error
            self.busy_s += time.monotonic() - began

    def _write(self, part: int, item: str, value: Any) -> None:
        rows = self._rows.setdefault(part, {})
        if item:
            rows[item] = value if isinstance(value, embed_cache.Row) else self._row_of(item, value)
            return
        del self._rows[part]
        if self._writer.commit(part, rows, value):
            self.num_rows += len(rows)
        else:
            self.superseded.set()


@dataclass(slots=True)
class Busy:
    """Seconds that each stage worked, of `wall_s` seconds and so many decode processes."""

    workers: int = 1
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, other: Mapping[str, Any]) -> None:
        """Another process's, from its `to_json`."""
        self.workers = int(other["workers"])
        self.wall_s += float(other["wall_s"])
        for stage, seconds in other["seconds"].items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + float(seconds)

    def to_json(self) -> Json:
        return {"workers": self.workers, "wall_s": self.wall_s, "seconds": self.seconds}

    def shares(self) -> dict[str, float]:
        """The busy share of each stage: of all decode processes, of the teacher, of the writer."""
        if self.wall_s <= 0:
            return {}
        each = {"decode": self.workers}
        return {stage: round(seconds / self.wall_s / each.get(stage, 1), 3) for stage, seconds in self.seconds.items() if seconds}
