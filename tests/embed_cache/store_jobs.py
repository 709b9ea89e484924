"""Jobs on one small store, in processes that can be killed: 82 rows in 21 parts, and a teacher that takes a moment for a part.

python store_jobs.py alone PATH
python store_jobs.py together PATH SEED
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from store_cases import begin, heal, items, row_of

import embed_cache
from embed_cache import Writer, make_plan

ROWS = 82
PARTS = 21
TEACHER_S = 0.003
MEMORY = Path("/dev/shm")


@contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """For tests that write and remove hundreds of stores, or sync each file of many."""
    if not os.access(MEMORY, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="ecgecho-test-", dir=MEMORY, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def plan(rows: int = ROWS) -> embed_cache.Plan:
    return make_plan(*items(rows), seed=7, part_rows=4)


def commit(writer: Writer, part: int, salt: str = "") -> bool:
    rows = {name: row_of(name, salt) for name, _, compute in writer.rows_of(part) if compute}
    time.sleep(TEACHER_S)
    return writer.commit(part, rows, {"pid": os.getpid()})


def alone(path: Path) -> None:
    """Two segments: all rows, then those that failed once more."""
    writer = begin(path, plan=plan()) if not is_sealed(path) else None
    for part in writer.pending() if writer else []:
        commit(writer, part)
    if writer:
        writer.seal({})
    heal(path)


def is_sealed(path: Path) -> bool:
    return (path / "head.json").exists()


def together(path: Path, seed: int, salt: str = "") -> int:
    """One of several writers: on from a random part, elsewhere when another one was there first. Gives the parts it won."""
    rng = random.Random(seed)
    writer = begin(path, plan=plan())
    won = 0
    while pending := writer.refresh():
        start = rng.randrange(len(pending))
        for part in pending[start:] + pending[:start]:
            if part not in writer.refresh():
                continue
            if not commit(writer, part, salt):
                break
            won += 1
    writer.seal({"pid": os.getpid()})
    return won


def fork(job: Callable[[], int | None]) -> int:
    """A child that runs the job; it ends with what the job gives, or 99 with a traceback."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = job() or 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def names_in(path: Path) -> set[str]:
    return {found.relative_to(path).as_posix() for found in path.rglob("*")}


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        alone(Path(sys.argv[2]))
    else:
        print(together(Path(sys.argv[2]), int(sys.argv[3])))
