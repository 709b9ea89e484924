"""Decoding in processes that can be killed: a time and a memory bound for every task.

A decoder that hangs, crashes or eats memory on hostile bytes costs one item, never the job. Processes are spawned (the parent
may hold torch's threads; a fork of those can lock up), stay alive between tasks, and import only the module of `function`,
so keep torch out of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
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


Result = Done[R] | ItemFailure | BaseException
"""What a task comes to; an exception is the pool's own, of a job that cannot go on."""
Deliver = Callable[[Result[R]], None]


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
    consumer stops the workers; `tasks` is read only as far as that. `timeout_s` bounds one task, `memory_bytes` what a process
    may allocate beyond what it held when it was ready (0: no bound). workers=0 runs inline, without bounds.
    """
    results: queue.SimpleQueue[tuple[int, Result[R]]] = queue.SimpleQueue()
    pool = Pool(function, workers=workers, timeout_s=timeout_s, memory_bytes=memory_bytes, initializer=initializer)
    waiting = enumerate(tasks)
    begun = taken = 0
    with pool:
        while True:
            while begun - taken < max(2 * workers, 1) and (task := next(waiting, None)) is not None:
                pool.submit(task[1], _Put(results, task[0]))
                begun += 1
            if begun == taken:
                return
            pool.work()
            position, result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield position, result
            taken += 1


@dataclass(frozen=True, slots=True)
class _Put(Generic[R]):
    results: queue.SimpleQueue[tuple[int, Result[R]]]
    position: int

    def __call__(self, result: Result[R]) -> None:
        self.results.put((self.position, result))


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


class Pool(Generic[T, R]):
    """Processes that stay for a whole job; one thread feeds and reaps them.

    `submit` may be called from any thread. Each result goes to its `deliver`, on the pool's thread, which may submit again; a
    pool that cannot go on delivers its error to every task that is left. A process is started when a task has none to wait
    for, a lost one is replaced. With workers=0 nothing is started: `work` runs the next task here, without bounds.
    """

    def __init__(
        self,
        function: Callable[[T], R],
        *,
        workers: int,
        timeout_s: float,
        memory_bytes: int,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        if workers < 0 or not timeout_s > 0 or memory_bytes < 0:
            raise ValueError(
                f"workers={workers}, timeout_s={timeout_s}, memory_bytes={memory_bytes}: none may be negative, time not 0"
            )
        self.workers = workers
        self.busy_s = 0.0
        """Seconds that tasks took, summed over the processes."""
        self._serve = _Serve(function, timeout_s, memory_bytes, initializer)
        self._tasks: deque[tuple[T, Deliver[R]]] = deque()
        self._error: BaseException | None = None
        self._stop = False
        self._wake_read, self._wake_write = multiprocessing.Pipe(duplex=False)
        self._alive: list[_Worker] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def submit(self, task: T, deliver: Deliver[R], *, first: bool = False) -> None:
        """Queues a task, before all others when `first`."""
        with self._lock:
            error = self._error
            if error is None:
                self._tasks.appendleft((task, deliver)) if first else self._tasks.append((task, deliver))
                if self.workers and self._thread is None:
                    self._thread = threading.Thread(target=self._pump, name="ecgecho-workers", daemon=True)
                    self._thread.start()
        if error is not None:
            deliver(error)
        elif self.workers and threading.current_thread() is not self._thread:
            self._wake()

    def work(self) -> None:
        """Without processes: runs the next task here and delivers it. With them there is nothing to do."""
        if self.workers or not self._tasks:
            return
        task, deliver = self._tasks.popleft()
        began = time.monotonic()
        if self._serve.initializer is not None:
            self._serve.initializer()
            self._serve = _Serve(self._serve.function, self._serve.timeout_s, self._serve.memory_bytes, None)
        result = _outcome(self._serve.function, task)
        self.busy_s += time.monotonic() - began
        deliver(result)

    def close(self) -> None:
        """Ends every process, whatever it is doing, and leaves none behind."""
        self._stop = True
        if self._thread is not None:
            self._wake()
            self._thread.join()
        self._wake_read.close()
        self._wake_write.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send_bytes(b"w")

    def _pump(self) -> None:
        try:
            while not self._stop:
                self._give()
                self._wait()
                for worker in list(self._alive):
                    self._reap(worker)
        except BaseException as err:
            left = [worker.task[1] for worker in self._alive if worker.task is not None]
            with self._lock:
                self._error = err
                left += [deliver for _, deliver in self._tasks]
                self._tasks.clear()
            for deliver in left:
                deliver(err)
        finally:
            for worker in self._alive:
                worker.end()

    def _give(self) -> None:
        for worker in self._alive:
            if worker.ready and worker.task is None and self._tasks:
                worker.give(*self._tasks.popleft())
        starting = sum(not worker.ready for worker in self._alive)
        while len(self._alive) < self.workers and len(self._tasks) > starting:
            self._alive.append(_Worker(self._serve))
            starting += 1

    def _wait(self) -> None:
        deadlines = [worker.deadline for worker in self._alive if worker.task is not None or not worker.ready]
        left = min(deadlines) - time.monotonic() if deadlines else None
        watched = [self._wake_read, *(worker.connection for worker in self._alive)]
        if self._wake_read in wait(watched, None if left is None else max(left, 0.0)):
            while self._wake_read.poll():
                self._wake_read.recv_bytes()

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
            self._deliver(worker, cast("Done[R] | ItemFailure", message))
        elif time.monotonic() > worker.deadline and (worker.task is not None or not worker.ready):
            self._lost(worker, late=True)

    def _deliver(self, worker: _Worker, result: Done[R] | ItemFailure) -> None:
        assert worker.task is not None
        (began, deliver), worker.task = worker.task, None
        self.busy_s += time.monotonic() - began
        deliver(result)
        self._give()  # before the next result is read, which takes its time

    def _lost(self, worker: _Worker, *, late: bool) -> None:
        # A process that hung up is ending; its own exit status tells why.
        status = worker.end(patience_s=0.0 if late else 2.0)
        self._alive.remove(worker)
        if not worker.ready:
            raise RuntimeError(
                f"a worker did not start: {'no answer' if late else 'it ended'} (exit status {status}). `function` must be "
                "importable, and a script that starts workers needs `if __name__ == '__main__':`"
            )
        if worker.task is None:
            return
        if late or status == -signal.SIGALRM:
            told = f"not done after {self._serve.timeout_s:g} s; the process was killed"
            failure = ItemFailure(code="timeout", message=told)
        elif status == -signal.SIGKILL:
            failure = ItemFailure(code="out_of_memory", message="the system killed the process, most likely for its memory")
        else:
            by = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
            failure = ItemFailure(code="decoder_died", message=f"the process ended while decoding ({by})")
        self._deliver(worker, failure)


class _Worker:
    """One process and the connection to it."""

    def __init__(self, serve: _Serve[Any, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, serve), daemon=True)
        # Ctrl-C reaches the whole group, and would find the process half imported: it inherits a mask. The resource tracker
        # is started before, because its start takes SIGINT out of the mask.
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        theirs.close()
        self.ready = False
        self.task: tuple[float, Deliver[Any]] | None = None
        """When the task that it works at was given, and who waits for it."""
        self.timeout_s = serve.timeout_s
        self.deadline = time.monotonic() + START_S

    def give(self, task: Any, deliver: Deliver[Any]) -> None:
        now = time.monotonic()
        self.task = (now, deliver)
        self.deadline = now + self.timeout_s
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
