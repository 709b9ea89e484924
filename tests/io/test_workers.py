"""Laws of the killable workers. The functions below run in spawned processes, which import this file."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.types import ItemError

GIB = 1 << 30


def square(task: int) -> int:
    return task * task


def act(task: str) -> object:
    if task == "hang":
        while True:
            time.sleep(60)
    if task == "hang in C":
        ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock, as a decoder's loop does
    if task == "exit":
        os._exit(3)
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "eat":
        return len(np.ones(4 * GIB, np.uint8))
    if task == "refuse":
        raise ItemError("still", "one frame", outcome="excluded")
    if task == "signals":
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if task == "bug":
        raise TypeError("no such thing")
    if task == "unsendable":
        return lambda: None
    if task == "big":
        return np.arange(20_000_000, dtype=np.uint8)
    return os.getpid()


def mark(task: tuple[str, int]) -> int:
    Path(task[0], str(task[1])).touch()
    return task[1]


def fail_to_start() -> None:
    raise RuntimeError("no weights")


def imported(task: int) -> bool:
    return "torch" in sys.modules


def children() -> set[int]:
    # multiprocessing's resource tracker serves the whole life of the parent.
    return {
        child.pid for child in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(child.cmdline())
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_every_task_has_one_result_with_its_position(workers):
    results = dict(run_bounded(square, range(20), workers=workers, timeout_s=30, memory_bytes=GIB))
    assert results == {n: Done(value=n * n) for n in range(20)}


def test_ctrl_c_is_for_the_parent_alone():
    """The terminal sends it to the whole group: a worker that is still importing would print its traceback."""
    code = (
        "from ecgecho.io.workers import run_bounded\nfrom test_workers import act\n"
        "if __name__ == '__main__':\n"
        "    print([r.value for _, r in run_bounded(act, ['signals'] * 4, workers=2, timeout_s=60, memory_bytes=0)])\n"
    )
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[True, True, True, True]"


def test_hang_crash_memory_and_refusal_cost_one_item_each_and_no_process_stays():
    before = children()
    tasks = ["ok", "hang", "exit", "eat", "refuse", "crash", "bug", "killed", "unsendable", "big", "hang in C", "ok"]
    results = dict(run_bounded(act, tasks, workers=2, timeout_s=3.0, memory_bytes=GIB))
    codes = [result.code if isinstance(result, ItemFailure) else "ok" for _, result in sorted(results.items())]
    assert codes == [
        "ok",
        "timeout",
        "decoder_died",
        "out_of_memory",
        "still",
        "decoder_died",
        "unexpected_error",
        "out_of_memory",
        "unexpected_error",
        "ok",
        "timeout",
        "ok",
    ]
    refused, hung, big = results[4], results[1], results[9]
    assert isinstance(refused, ItemFailure)
    assert (refused.outcome, refused.permanent) == ("excluded", True)
    assert isinstance(hung, ItemFailure)
    assert not hung.permanent
    assert isinstance(big, Done)
    np.testing.assert_array_equal(big.value, np.arange(20_000_000, dtype=np.uint8))
    assert children() <= before


def test_a_slow_consumer_stops_the_workers(tmp_path):
    begun = itertools.count()
    tasks = ((str(tmp_path), n) for n in iter(lambda: next(begun), 1000))
    results = run_bounded(mark, tasks, workers=1, timeout_s=30, memory_bytes=0)
    next(results)
    time.sleep(0.7)
    assert len(list(tmp_path.iterdir())) <= 3
    results.close()
    assert next(begun) <= 5


def test_leaving_the_loop_early_ends_every_process():
    before = children()
    for _ in run_bounded(act, ["ok", "hang", "hang", "ok"], workers=2, timeout_s=60, memory_bytes=0):
        break
    assert children() <= before


def test_a_failing_initializer_is_an_error_of_the_job_not_of_its_items():
    with pytest.raises(RuntimeError, match="no weights"):
        list(run_bounded(square, [1], workers=1, timeout_s=5, memory_bytes=0, initializer=fail_to_start))


def test_an_error_of_the_task_list_reaches_the_consumer():
    def tasks():
        yield 1
        raise KeyError("table")

    with pytest.raises(KeyError, match="table"):
        list(run_bounded(square, tasks(), workers=1, timeout_s=5, memory_bytes=0))


def test_no_tasks_start_no_process():
    start = time.monotonic()
    assert list(run_bounded(square, [], workers=2, timeout_s=5, memory_bytes=0)) == []
    assert time.monotonic() - start < 0.5


def test_a_worker_does_not_load_torch():
    assert [result for _, result in run_bounded(imported, [0], workers=1, timeout_s=30, memory_bytes=0)] == [Done(value=False)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_parent_ends_its_workers(tmp_path, how):
    script = tmp_path / "parent.py"
    script.write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_workers import hang_after_telling\n"
        "from ecgecho.io.workers import run_bounded\n"
        "if __name__ == '__main__':\n"
        f"    list(run_bounded(hang_after_telling, [{str(tmp_path)!r}] * 2, workers=2, timeout_s=100, memory_bytes=0))\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL)
    _until(lambda: len(list(tmp_path.glob("pid*"))) == 2, 60)
    pids = [int(path.name[3:]) for path in tmp_path.glob("pid*")]
    parent.send_signal(how)
    assert parent.wait(20) != 0
    _until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids), 20)


def hang_after_telling(folder: str) -> None:
    Path(folder, f"pid{os.getpid()}").touch()
    time.sleep(100)


def _until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
