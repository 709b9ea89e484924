"""One cache-echo job by several processes: those of this machine, or Ray tasks on a cluster.

The process that was called plans, watches, computes what nobody else could, seals and verifies. The others are members: they
compute parts of the plan by the same code as a job of one process. A member that dies costs the part it was at; there is no
lock, no claim and no queue of our own. Ray retries and places its tasks; all hosts see the catalog, the files and the store
under the same paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import embed_cache
from ecgecho import cache, job, plugins
from ecgecho import catalog as tables
from ecgecho import config as configuration
from ecgecho.types import Json, UserError

LOOK_S = 0.5
PATIENCE_S = 5.0
"""For members to end when nothing is left; what they are at then is of no use."""
TASK_RETRIES = 4
MAX_PARTS_A_TASK = 8
TASKS_A_SLOT = 4

Progress = Callable[[int, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a member is told."""

    catalog: str
    teacher: str
    config: Json
    out: str
    options: Json

    @classmethod
    def of(cls, catalog: tables.Catalog, teacher: str, config: Any, out: Path, options: cache.EchoOptions) -> Work:
        """With paths that hold in another folder."""
        teacher = str(Path(teacher).resolve()) if teacher.endswith(".py") else teacher
        key = str(Path(options.key).resolve()) if options.key else ""
        how = dataclasses.asdict(dataclasses.replace(options, key=key))
        place = str(out) if embed_cache.is_remote(out) else str(out.resolve())
        return cls(
            catalog=str(catalog.path.resolve()), teacher=teacher, config=configuration.to_json(config), out=place, options=how
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def member(self) -> cache.EchoMember:
        """The member itself, in the process that computes."""
        return cache.EchoMember(
            tables.read(self.catalog),
            self.teacher,
            configuration.from_json(plugins.load("teachers", self.teacher).Config, self.config),
            Path(self.out),
            cache.EchoOptions(**self.options),
        )


class _Watch:
    """How far the open segment is, by the commits of everybody."""

    def __init__(self, writer: embed_cache.Writer, progress: Progress | None) -> None:
        self._writer = writer
        self._progress = progress
        self._sizes = {part: job.num_wanted(writer, part) for part in job.parts_left(writer)}

    def look(self) -> bool:
        """Whether anything is left."""
        left = set(job.parts_left(self._writer))
        if self._progress is not None:
            total = sum(self._sizes.values())
            self._progress(total - sum(self._sizes[part] for part in left), total)
        return bool(left)


def by_processes(work: Work, processes: int, *, say: Callable[[str], None]) -> job.Members:
    """Members on this machine, on its GPUs in turn; its cores are shared out."""

    def run(writer: embed_cache.Writer, progress: Progress | None) -> list[Json]:
        watch = _Watch(writer, progress)
        count = min(processes, len(job.parts_left(writer)))
        if count < 2:
            return []  # one part is done sooner here
        with contextlib.ExitStack() as stack:
            members = [stack.enter_context(_Member(work, number, count)) for number in range(count)]
            while watch.look() and any(member.is_running for member in members):
                time.sleep(LOOK_S)
                for member in members:
                    if lost := member.lost():
                        say(f"a member {lost}; the others go on")
            patience = time.monotonic() + PATIENCE_S
            while any(member.is_running for member in members) and time.monotonic() < patience:
                time.sleep(0.05)
            return [told for member in members if (told := member.told())]

    return run


class _Member:
    """One process of this machine. It ends when this one does, because the other end of its standard input is gone."""

    def __init__(self, work: Work, number: int, of: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = max((work.options["workers"] or cores) // of, 1)
        options = {**work.options, "workers": share, "device": _device(work.options["device"], number)}
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._error: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._told_loss = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ecgecho.cluster"],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._error,
            env={"OMP_NUM_THREADS": str(max(cores // of, 1)), **os.environ},
            start_new_session=True,  # Ctrl-C is for the process that was called; it ends its members
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(dataclasses.replace(work, options=options).to_json().encode() + b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.is_running:
            self._process.terminate()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._out.close()
        self._error.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def lost(self) -> str:
        """How it ended before its time, said once."""
        status = self._process.poll()
        if status in (None, 0) or self._told_loss:
            return ""
        self._told_loss = True
        self._error.seek(0)
        lines = self._error.read().decode(errors="replace").strip().splitlines()
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}: {lines[-1] if lines else ''}"

    def told(self) -> Json | None:
        """What it did; None where it did not come to the end."""
        if self._process.poll() != 0:
            return None
        self._out.seek(0)
        found: Json = json.loads(self._out.read().splitlines()[-1])
        return found


def _device(device: str, number: int) -> str:
    """The GPUs in turn, where it is for us to choose."""
    if device != "auto":
        return device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count else "cpu"


def by_ray(work: Work, address: str, *, say: Callable[[str], None]) -> job.Members:
    """Members as Ray tasks, each of some parts; a task that a lost node had is done by another."""
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed here: pip install 'ecgecho[ray]'") from error

    def run(writer: embed_cache.Writer, progress: Progress | None) -> list[Json]:
        watch = _Watch(writer, progress)
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        cpus = max(work.options["workers"] or 1, 1)
        device = work.options["device"]
        there_is: Json = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        with_gpu = device.startswith("cuda") or (device == "auto" and there_is.get("GPU", 0) > 0)
        there = dataclasses.replace(work, options={**work.options, "workers": cpus, "device": "auto" if with_gpu else "cpu"})
        slots = max(int(there_is.get("GPU" if with_gpu else "CPU", 1) // (1 if with_gpu else cpus)), 1)
        task = ray.remote(num_cpus=cpus, num_gpus=int(with_gpu), max_retries=TASK_RETRIES)(_task)
        left = job.parts_left(writer)
        size = min(max(len(left) // (slots * TASKS_A_SLOT), 1), MAX_PARTS_A_TASK)
        waiting = [task.remote(there.to_json(), left[at : at + size]) for at in range(0, len(left), size)]
        told = []
        while waiting:
            done, waiting = ray.wait(waiting, timeout=LOOK_S)
            for reference in done:
                try:
                    told.append(ray.get(reference))
                except ray.exceptions.RayError as error:
                    say(f"a task was lost for good ({type(error).__name__}); what it had is computed here")
            watch.look()
        return told

    return run


_here: list[tuple[str, cache.EchoMember]] = []
"""The member of this process: Ray gives a process one task after another, and its teacher is loaded once."""


def _task(work: str, parts: Sequence[int]) -> Json:
    if not _here or _here[0][0] != work:
        for _, member in _here:
            member.close()
        _here[:] = [(work, Work(**json.loads(work)).member())]
    return _here[0][1].compute(parts)


def _main() -> None:
    """A member as a process: its work is the first line of its input, what it did the last line of its output."""
    work = Work(**json.loads(sys.stdin.buffer.readline()))

    def end_with_parent() -> None:
        while os.read(sys.stdin.fileno(), 1024):  # not by sys.stdin, whose lock Python wants when it ends
            pass
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with work.member() as member:
        told = member.compute(None)
    print(json.dumps(told))


if __name__ == "__main__":
    _main()
