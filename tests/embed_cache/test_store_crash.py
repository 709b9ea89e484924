"""A store survives being killed anywhere: the same command again gives the same content."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from store_cases import IDENTITY, Row, begin, finish, heal, items, make, row_of

import embed_cache
from embed_cache import Column, IncompleteStore, StoreError, Writer, disk, make_plan

SMALL = (Column("scale", (3,), "float32"), Column("signal", (2,), "int16", ragged=True))
OPERATIONS = ("_write", "_fsync", "_rename", "_link", "_mkdir", "_remove")


class Death(BaseException):
    """The process ends here: nothing after it runs, nothing is tidied up."""


class Faults:
    """Counts the operations of the disk layer and makes number `at` of them fail, half of a write done."""

    def __init__(self, monkeypatch, error=Death):
        self.count, self.at, self.error, self.log = 0, -1, error, []
        # Writers die within this process, which lives on.
        monkeypatch.setattr(disk, "is_gone", lambda number: True)
        for name in OPERATIONS:
            monkeypatch.setattr(disk, name, self._wrap(name, getattr(disk, name)))

    def _wrap(self, name, original):
        def operation(*arguments):
            self.count += 1
            self.log.append((name, arguments))
            if self.count - 1 == self.at:
                if name == "_write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise self.error
            return original(*arguments)

        return operation

    def start(self, at):
        self.count, self.at, self.log = 0, at, []


def small_row(name: str, healed: bool = False) -> Row:
    row = row_of(name, healed=healed)
    return Row(row.status, row.reason, row.permanent, row.fingerprint, {k: v for k, v in row.values.items() if k != "moments"})


def first_segment(path: Path) -> str:
    """Two parts."""
    ids, groups = items(7)
    plan = make_plan(ids, groups, seed=1, part_rows=4)
    complete(Writer.create_or_resume(path, kind="echo", identity=IDENTITY, columns=SMALL, plan=plan), healed=False)
    return embed_cache.open(path).content_hash()


def healing_segment(path: Path) -> str:
    """One study again, of which one clip is computed; does nothing where that is done."""
    ids, groups = ["clip003", "clip004", "clip005"], ["study001"] * 3
    if len(embed_cache.open(path)) == 7:
        complete(Writer.extend(path, identity=IDENTITY, ids=ids, groups=groups, recompute={"clip005"}, seed=2), healed=True)
    return embed_cache.open(path).content_hash()


def complete(writer: Writer, healed: bool) -> None:
    for part in writer.pending():
        writer.commit(part, {n: small_row(n, healed) for n, _, compute in writer.rows_of(part) if compute}, {})
    writer.seal({})


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A store with its first segment, to be copied and healed."""
    path = tmp_path_factory.mktemp("healthy") / "store"
    first_segment(path)
    return path


@pytest.mark.parametrize("job", [first_segment, healing_segment])
def test_death_at_any_operation_and_the_same_command_again_give_the_same_content(tmp_path, monkeypatch, healthy, job):
    def fresh(name):
        if job is healing_segment:
            shutil.copytree(healthy, tmp_path / name)
        return tmp_path / name

    whole = fresh("whole")
    faults = Faults(monkeypatch)
    expected = job(whole)
    # A death in a sync leaves what a death at the next operation leaves: one in five is tried nevertheless.
    chosen = [at for at, (name, _) in enumerate(faults.log) if name != "_fsync" or at % 5 == 0]
    assert len(chosen) > 60
    for at in chosen:
        path = fresh(f"s{at}")
        faults.start(at)
        with pytest.raises(Death):
            job(path)
        faults.start(-1)
        assert job(path) == expected, f"died at operation {at}"
        left = {item.relative_to(path) for item in path.rglob("*")} ^ {item.relative_to(whole) for item in whole.rglob("*")}
        assert not left, f"died at operation {at}"
        if at % 5 == 0:
            assert embed_cache.verify(path).ok


def test_two_deaths_in_one_job_are_survived(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    expected = first_segment(tmp_path / "whole")
    for first in range(3, faults.count, 37):
        for second in range(5, 120, 43):
            path = tmp_path / f"s{first}-{second}"
            for at in (first, second):
                faults.start(at)
                with contextlib.suppress(Death):
                    first_segment(path)
            faults.start(-1)
            assert first_segment(path) == expected
            assert embed_cache.verify(path).ok


def test_a_full_disk_at_any_operation_is_said_in_one_message_and_survived(tmp_path, monkeypatch):
    faults = Faults(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    expected = first_segment(tmp_path / "whole")
    for at in range(0, faults.count, 11):
        path = tmp_path / f"s{at}"
        faults.start(at)
        with pytest.raises(StoreError, match=r"No space left on device\. What was finished is kept; free disk space and run"):
            first_segment(path)
        faults.start(-1)
        assert first_segment(path) == expected


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import store_cases as cases
import embed_cache
from embed_cache import disk
disk._fsync = lambda handle: None
target, kills = Path(sys.argv[1]), int(sys.argv[2])
def job(path):
    try:
        embed_cache.open(path)
    except embed_cache.StoreError:
        ids, groups = cases.items(42)
        cases.finish(cases.begin(path, plan=embed_cache.make_plan(ids, groups, seed=7, part_rows=4)))
    cases.heal(path)
def fork(function, path):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(path)
            code = 0
        finally:
            os._exit(code)
    return pid
def check(path):
    job(path)
    assert embed_cache.verify(path).ok, embed_cache.verify(path)
    Path(f"{path}.hash").write_text(embed_cache.open(path).content_hash())
def checked(path):
    assert os.waitpid(fork(check, path), 0)[1] == 0, path
    return Path(f"{path}.hash").read_text()
started = time.monotonic()
expected = checked(target / "whole")
seconds = time.monotonic() - started
rng = random.Random(5)
done = number = 0
while done < kills:
    path = target / f"s{number}"
    number += 1
    for _ in range(3):
        pid = fork(job, path)
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        done += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert checked(path) == expected, path
print(done, number)
"""


def test_kill_9_at_random_moments_and_the_same_command_again_give_the_same_content(tmp_path):
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parents[1])])}
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), "12"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[0]) >= 12


def test_every_file_is_synced_before_it_gets_its_name_and_every_name_before_a_record_or_head_relies_on_it(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    paths: dict[int, str] = {}
    real_open = os.open

    def remember(path, *arguments, **options):
        handle = real_open(path, *arguments, **options)
        paths[handle] = os.fspath(path)
        return handle

    monkeypatch.setattr(os, "open", remember)
    synced: set[str] = set()
    unsynced_folders: set[str] = set()
    inner_fsync, inner_rename, inner_mkdir = disk._fsync, disk._rename, disk._mkdir

    def fsync(handle):
        synced.add(paths[handle])
        unsynced_folders.discard(paths[handle])
        inner_fsync(handle)

    def rename(source, target):
        assert str(source) in synced, source
        if target.name in ("head.json", "plan.json") or target.parent.name == "log":
            assert not unsynced_folders, (target, unsynced_folders)
        unsynced_folders.add(str(target.parent))
        inner_rename(source, target)

    def mkdir(path):
        unsynced_folders.add(str(path.parent))
        inner_mkdir(path)

    for name, function in (("_fsync", fsync), ("_rename", rename), ("_mkdir", mkdir)):
        monkeypatch.setattr(disk, name, function)
    first_segment(tmp_path / "s")
    healing_segment(tmp_path / "s")
    assert not unsynced_folders
    assert faults.count > 150


def test_a_committed_part_is_kept_and_only_the_others_are_pending(store_path):
    writer = begin(store_path)
    for part in (4, 1):
        writer.commit(part, {n: row_of(n) for n, _, _ in writer.rows_of(part)}, {})
    assert begin(store_path).pending() == [0, 2, 3, 5]


@pytest.mark.parametrize(
    "victim", ["columns/moments/c.1.0.0", "columns/signal/p00001/c.0.0", "columns/signal/p00001/zarr.json", "log/p00001.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_to_a_half_done_store_costs_only_its_part(store_path, victim, damage):
    writer = begin(store_path)
    for part in range(3):
        writer.commit(part, {n: row_of(n) for n, _, _ in writer.rows_of(part)}, {})
    path = store_path / "segments" / "00000" / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    writer = begin(store_path)
    assert writer.pending() == [1, 3, 4, 5]
    finish(writer)
    assert embed_cache.verify(store_path).ok
    assert embed_cache.open(store_path).content_hash() == make(store_path.parent / "b").content_hash()


@pytest.mark.parametrize(
    "victim", ["plan.json", "index/id/c.0.0", "index/source/zarr.json", "columns/moments/zarr.json", "zarr.json"]
)
def test_damage_to_what_follows_from_the_plan_is_mended_without_losing_a_part(store_path, victim):
    writer = begin(store_path)
    writer.commit(2, {n: row_of(n) for n, _, _ in writer.rows_of(2)}, {})
    path = store_path / "segments" / "00000" / victim
    path.write_bytes(path.read_bytes()[:-3])
    writer = Writer.resume(store_path, identity=IDENTITY) or begin(store_path)
    assert writer.pending() == [0, 1, 3, 4, 5]
    finish(writer)
    assert embed_cache.verify(store_path).ok


def test_a_lost_plan_beside_parts_of_another_plan_is_refused(store_path):
    writer = begin(store_path)
    writer.commit(2, {n: row_of(n) for n, _, _ in writer.rows_of(2)}, {})
    (store_path / "segments/00000/plan.json").unlink()
    with pytest.raises(StoreError, match="belong to another plan"):
        begin(store_path, identity={"teacher": "other"})


def test_a_store_without_its_head_is_refused_and_says_how_far_it_is(store_path):
    make(store_path)
    (store_path / "head.json").unlink()
    for function in (embed_cache.open, embed_cache.verify):
        with pytest.raises(IncompleteStore, match="no head.json, 6 of 6 parts are finished. Run the command"):
            function(store_path)
    writer = begin(store_path)
    assert writer.pending() == []
    writer.seal({})
    assert embed_cache.verify(store_path).ok


def test_leftovers_of_killed_writers_are_removed(store_path, monkeypatch):
    monkeypatch.setattr(disk, "STALE_S", -1.0)
    begin(store_path)
    (store_path / "segments/00000/log").mkdir()
    for name in ("head.json.77.tmp", "segments/00000/columns/moments/c.3.0.0.123.tmp", "segments/00000/log/p00009.json"):
        (store_path / name).write_bytes(b"torn")
    finish(begin(store_path))
    assert embed_cache.verify(store_path).ok


def test_a_folder_that_vanishes_in_mid_job_is_said_and_nothing_is_written_elsewhere(store_path):
    writer = begin(store_path)
    store_path.rename(store_path.parent / "elsewhere")
    with pytest.raises(StoreError, match="has vanished. Put the folder back"):
        writer.commit(0, {n: row_of(n) for n, _, _ in writer.rows_of(0)}, {})
    assert not store_path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="make the folder writable"):
        begin(tmp_path / "a")


def test_running_a_finished_job_again_has_nothing_to_do(store_path):
    before = make(store_path).content_hash()
    writer = begin(store_path)
    assert writer.sealed
    assert writer.pending() == []
    finish(writer)
    assert embed_cache.open(store_path).content_hash() == before
    heal(store_path)
    assert begin(store_path).sealed
