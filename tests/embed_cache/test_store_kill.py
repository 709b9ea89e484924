"""Processes that are really killed, at random moments: the same command again gives the content of an undisturbed job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_jobs import PARTS, folder_in_memory

import embed_cache

# Children of a process that has imported everything: what is killed is the job, not the start of the interpreter.
KILLER = """
import json, os, random, signal, sys, time
from functools import partial
from pathlib import Path
from store_jobs import alone, ended, fork, is_sealed, names_in
import embed_cache
target, kills, number = Path(sys.argv[1]), int(sys.argv[2]), getattr(signal, sys.argv[3])
whole = target / "whole"
started = time.monotonic()
assert ended(fork(partial(alone, whole))) == 0
seconds = time.monotonic() - started
rng, done, stores, moments, statuses = random.Random(5), 0, 0, set(), set()
while done < kills:
    path = target / f"s{stores}"
    stores += 1
    for _ in range(4):
        pid = fork(partial(alone, path))
        time.sleep(rng.uniform(0, seconds * 0.6))
        os.kill(pid, number)
        status = ended(pid)
        statuses.add(status)
        done += status != 0
        moments.add((is_sealed(path), len(list(path.glob("segments/*/log/p*.json")))))
    assert ended(fork(partial(alone, path))) == 0, path
    report = embed_cache.verify(path)
    assert report.ok, report
    assert embed_cache.open(path).content_hash() == embed_cache.open(whole).content_hash(), path
    assert not names_in(path) ^ names_in(whole), names_in(path) ^ names_in(whole)
print(json.dumps({"kills": done, "moments": len(moments), "statuses": sorted(statuses)}))
"""


@pytest.fixture
def tmp_path(tmp_path):
    with folder_in_memory(tmp_path) as folder:
        yield folder


def environment() -> dict[str, str]:
    tests = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parents[1])])}


@pytest.mark.parametrize(("number", "status", "kills"), [("SIGKILL", -9, 20), ("SIGINT", 130, 8)])
def test_a_job_ended_at_random_moments_and_begun_again_has_the_content_of_an_undisturbed_one(tmp_path, number, status, kills):
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), str(kills), number],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["kills"] >= kills
    assert {*told["statuses"]} <= {0, status}
    assert told["moments"] > kills // 3, "the kills fell on few moments"


def test_a_command_that_is_killed_is_finished_by_the_same_command(tmp_path):
    """The whole command in a process of its own, killed when a third of the parts is committed."""
    line = [sys.executable, str(Path(__file__).with_name("store_jobs.py")), "alone"]
    path = tmp_path / "s"
    killed = subprocess.Popen([*line, str(path)], env=environment())
    log = path / "segments/00000/log"
    until = time.monotonic() + 60
    while len(list(log.glob("p*.json"))) < PARTS // 3 and time.monotonic() < until and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    with pytest.raises(embed_cache.IncompleteStore):
        embed_cache.open(path)
    for target in (path, tmp_path / "whole"):
        subprocess.run([*line, str(target)], env=environment(), check=True, timeout=100)
    assert embed_cache.verify(path).ok
    assert embed_cache.open(path).content_hash() == embed_cache.open(tmp_path / "whole").content_hash()
