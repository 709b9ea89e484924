"""Decoding in processes that can be killed: a time and a memory bound for every task.

A decoder that hangs, crashes or eats memory on hostile bytes costs one item, never the job. Processes are spawned (the parent
may hold torch's threads; a fork of those can lock up), stay alive between tasks, and import only the module of `function`,
so keep torch out of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from operator import length_hint
from typing import Any, Generic, Literal, TypeVar, cast

from ecgecho.types import ItemError

T = TypeVar("T")
R = TypeVar("R")

START_S = 120.0
"""A process that is not ready by then never will be: imports, even on a busy machine and a slow disk."""
GRACE_S = 5.0
"""After the deadline the parent kills; the process's own alarm follows so much later, for when the parent is gone or busy."""
OUT_OF_BAND = 1 << 16
"""Buffers from this size on are sent as they are, not copied through pickle's stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[R]):
    """A task's value."""

    value: R


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailure:
    """Why a task has no value."""

    code: str
    message: str
    outcome: Literal["excluded", "failed"] = "failed"
    permanent: bool = False


def run_bounded(
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    workers: int,
    timeout_s: float,
    memory_bytes: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Done[R] | ItemFailure]]:
    """`function` of every task, as (position in `tasks`, result), in the order of completion.

    `function` and `initializer` are module-level callables. At most 2 * workers tasks are begun and not yet taken, so a slow
    consumer stops the workers; `tasks` is read only as far as that (by a thread, unless workers is 0). `timeout_s` bounds one
    task, `memory_bytes` what a process may allocate beyond what it held when it was ready (0: no bound).
    workers=0 runs inline, without bounds.
    """
    if workers < 0 or not timeout_s > 0 or memory_bytes < 0:
        raise ValueError(
            f"workers={workers}, timeout_s={timeout_s}, memory_bytes={memory_bytes}: none may be negative, time not 0"
        )
    if workers == 0:
        if initializer is not None:
            initializer()
        for position, task in enumerate(tasks):
            yield position, _outcome(function, task)
        return
    pool = _Pool(_Serve(function, timeout_s, memory_bytes, initializer), tasks, workers=workers)
    try:
        yield from pool.results()
    finally:
        pool.close()


def _outcome(function: Callable[[T], R], task: T) -> Done[R] | ItemFailure:
    try:
        return Done(value=function(task))
    except ItemError as err:
        return ItemFailure(code=err.code, message=str(err), outcome=err.outcome, permanent=err.permanent)
    except MemoryError:
        return ItemFailure(code="out_of_memory", message="the memory bound was reached")
    except OSError as err:
        return ItemFailure(code="unreadable", message=f"{type(err).__name__}: {err.strerror or err}")
    except Exception as err:
        place = traceback.extract_tb(err.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        return ItemFailure(code="unexpected_error", message=f"{type(err).__name__} at {where}: {err}")


@dataclass(frozen=True, slots=True)
class _Serve(Generic[T, R]):
    """What a process is started with."""

    function: Callable[[T], R]
    timeout_s: float
    memory_bytes: int
    initializer: Callable[[], None] | None


class _Pool(Generic[T, R]):
    """The parent's side: one thread feeds and reaps the processes; the consumer takes from a queue."""

    def __init__(self, serve: _Serve[T, R], tasks: Iterable[T], *, workers: int) -> None:
        self.serve = serve
        self.tasks = enumerate(tasks)
        self.num_workers = min(workers, known) if (known := length_hint(tasks, 0)) else workers
        self.out: queue.SimpleQueue[tuple[int, Done[R] | ItemFailure] | BaseException | None] = queue.SimpleQueue()
        self.taken = 0
        self.stop = False
        self.wake_read, self.wake_write = multiprocessing.Pipe(duplex=False)
        self.alive: list[_Worker] = []
        self.thread = threading.Thread(target=self._pump, name="ecgecho-workers", daemon=True)
        self.thread.start()

    def results(self) -> Iterator[tuple[int, Done[R] | ItemFailure]]:
        while (item := self.out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            self.taken += 1
            self._wake()

    def close(self) -> None:
        """Ends every process, whatever it is doing, and leaves none behind."""
        self.stop = True
        self._wake()
        self.thread.join()
        self.wake_read.close()
        self.wake_write.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self.wake_write.send_bytes(b"w")

    def _pump(self) -> None:
        try:
            self._feed_and_reap()
            self.out.put(None)
        except BaseException as err:
            self.out.put(err)
        finally:
            for worker in self.alive:
                worker.end()

    def _feed_and_reap(self) -> None:
        begun, exhausted = 0, False
        task: tuple[int, T] | None = None
        while not self.stop:
            while not exhausted and begun - self.taken < 2 * self.num_workers:
                task = task or next(self.tasks, None)
                if task is None:
                    exhausted = True
                    break
                idle = [worker for worker in self.alive if worker.ready and worker.task is None]
                if not idle:
                    break
                idle[0].give(*task)
                begun, task = begun + 1, None
            while task is not None and len(self.alive) < self.num_workers:
                self.alive.append(_Worker(self.serve))
            if exhausted and all(worker.task is None for worker in self.alive):
                return
            self._wait()
            for worker in list(self.alive):
                self._reap(worker)

    def _wait(self) -> None:
        deadlines = [worker.deadline for worker in self.alive if worker.task is not None or not worker.ready]
        left = min(deadlines) - time.monotonic() if deadlines else None
        ready = wait([self.wake_read, *(worker.connection for worker in self.alive)], None if left is None else max(left, 0.0))
        if self.wake_read in ready:
            while self.wake_read.poll():
                self.wake_read.recv_bytes()

    def _reap(self, worker: _Worker) -> None:
        """Takes what a worker sent; or ends it when it is dead or late."""
        if worker.connection.poll():
            try:
                message = worker.receive()
            except (EOFError, OSError):
                self._lost(worker, late=False)
                return
            if not worker.ready:
                if message is not None:
                    raise RuntimeError(f"a worker could not start: {message}")
                worker.ready = True
                return
            assert worker.task is not None
            self.out.put((worker.task, cast("Done[R] | ItemFailure", message)))
            worker.task = None
        elif time.monotonic() > worker.deadline and (worker.task is not None or not worker.ready):
            self._lost(worker, late=True)

    def _lost(self, worker: _Worker, *, late: bool) -> None:
        # A process that hung up is ending; its own exit status tells why.
        status = worker.end(patience_s=0.0 if late else 2.0)
        self.alive.remove(worker)
        if not worker.ready:
            raise RuntimeError(
                f"a worker did not start: {'no answer' if late else 'it ended'} (exit status {status}). `function` must be "
                "importable, and a script that starts workers needs `if __name__ == '__main__':`"
            )
        if worker.task is None:
            return
        if late or status == -signal.SIGALRM:
            failure = ItemFailure(code="timeout", message=f"not done after {self.serve.timeout_s:g} s; the process was killed")
        elif status == -signal.SIGKILL:
            failure = ItemFailure(code="out_of_memory", message="the system killed the process, most likely for its memory")
        else:
            by = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
            failure = ItemFailure(code="decoder_died", message=f"the process ended while decoding ({by})")
        self.out.put((worker.task, failure))


class _Worker:
    """One process and the connection to it."""

    def __init__(self, serve: _Serve[Any, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, serve), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.task: int | None = None
        self.timeout_s = serve.timeout_s
        self.deadline = time.monotonic() + START_S

    def give(self, position: int, task: Any) -> None:
        self.task = position
        self.deadline = time.monotonic() + self.timeout_s
        # A worker that died while idle is found by the next poll, as a death in this task.
        with contextlib.suppress(OSError):
            self.connection.send(task)

    def receive(self) -> Any:
        sizes = self.connection.recv()
        head = self.connection.recv_bytes()
        buffers = []
        for size in sizes:
            buffer = bytearray(size)
            self.connection.recv_bytes_into(buffer)
            buffers.append(buffer)
        return pickle.loads(head, buffers=buffers)  # noqa: S301  written by our own process

    def end(self, *, patience_s: float = 0.0) -> int | None:
        """Kills the process, unless it ends by itself in time, waits for it, and gives its exit status."""
        self.process.join(patience_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        status = self.process.exitcode
        self.connection.close()
        self.process.close()
        return status


def _serve(connection: Connection[Any, Any], serve: _Serve[Any, Any]) -> None:
    """The process's side: tasks in, results out, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _end_with_parent()
    try:
        if serve.initializer is not None:
            serve.initializer()
        _bound_memory(serve.memory_bytes)
    except Exception as err:
        _send(connection, f"{type(err).__name__}: {err}")
        return
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)  # one process a core; threads inside would only fight
    _send(connection, None)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        # The kernel's alarm ends even a decoder that never gives Python the floor again.
        signal.setitimer(signal.ITIMER_REAL, serve.timeout_s + GRACE_S)
        result = _outcome(serve.function, task)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del task
        try:
            _send(connection, result)
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as err:  # a value that cannot be sent, or no memory left to send it
            code = "out_of_memory" if isinstance(err, MemoryError) else "unexpected_error"
            _send(connection, ItemFailure(code=code, message=f"the result could not be sent: {type(err).__name__}: {err}"))
        del result


def _send(connection: Connection[Any, Any], message: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []

    def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < OUT_OF_BAND:
            return True
        buffers.append(buffer)
        return False

    head = pickle.dumps(message, protocol=5, buffer_callback=keep_in_stream)
    raw = [buffer.raw() for buffer in buffers]
    connection.send([view.nbytes for view in raw])
    connection.send_bytes(head)
    for view in raw:
        connection.send_bytes(view)


def _bound_memory(memory_bytes: int) -> None:
    if memory_bytes == 0 or sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    bound = held + memory_bytes if hard == resource.RLIM_INFINITY else min(held + memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


def _end_with_parent() -> None:
    """A killed parent must not leave decoders behind."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
