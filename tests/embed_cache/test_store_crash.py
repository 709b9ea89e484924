"""A store survives being stopped at any operation: the same command again gives the same content, and keeps what was finished."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest
from store_cases import IDENTITY, Row, begin, finish, heal, items, make, row_of
from store_jobs import folder_in_memory

import embed_cache
from embed_cache import Column, IncompleteStore, StoreError, Writer, disk, make_plan

SMALL = (Column("scale", (3,), "float32"), Column("signal", (2,), "int16", ragged=True))
ROWS = 38
OPERATIONS = ("_write", "_fsync", "_rename", "_link", "_mkdir", "_remove")
SHARDS = 3


class Death(BaseException):
    """The process ends here: nothing after it runs, nothing is tidied up."""


class Faults:
    """Counts the operations of the disk layer and makes number `at` fail, half of a write done; with `on`, all that follow."""

    def __init__(self, monkeypatch, error=Death):
        self.count, self.at, self.on, self.error, self.log = 0, -1, False, error, []
        # Writers die within this process, which lives on.
        monkeypatch.setattr(disk, "is_gone", lambda number: True)
        for name in OPERATIONS:
            monkeypatch.setattr(disk, name, self._wrap(name, getattr(disk, name)))

    def _wrap(self, name, original):
        def operation(*arguments):
            self.count += 1
            self.log.append((name, arguments))
            number = self.count - 1
            if number == self.at or (self.on and 0 <= self.at < number):
                if name == "_write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise self.error
            return original(*arguments)

        return operation

    def start(self, at, on=False):
        self.count, self.at, self.on, self.log = 0, at, on, []


class Deaths:
    """Hands a copy of the store as a death at each operation leaves it to `tried`, one in `SHARDS` of them.

    A death before, or in the middle of, an operation leaves the tree as it is at that moment; nothing in the process
    can change that any more, so a copy is a truer death than an exception. Where no operation changed the tree since
    the last copy (a sync), there is nothing new to try.
    """

    def __init__(self, monkeypatch, path, shard, tried):
        self.path, self.shard, self.tried = path, shard, tried
        self.moments, self.kinds, self.busy, self.changed = 0, set(), False, True
        monkeypatch.setattr(disk, "is_gone", lambda number: True)
        for name in OPERATIONS:
            monkeypatch.setattr(disk, name, self._wrap(name, getattr(disk, name)))

    def _wrap(self, name, original):
        def operation(*arguments):
            if self.busy:
                return original(*arguments)
            self.kinds.add(name)
            if name == "_fsync":
                return original(*arguments)
            self._die(f"before {name}")
            if name == "_write":
                half = len(arguments[1]) // 2
                os.write(arguments[0], arguments[1][:half])
                self._die("in the middle of _write")
                arguments = (arguments[0], arguments[1][half:])
            return original(*arguments)

        return operation

    def _die(self, what):
        self.moments += 1
        if self.moments % SHARDS != self.shard:
            return
        copy = self.path.with_name(f"{self.path.name}-{self.moments}")
        copy_tree(self.path, copy)
        self.busy = True
        try:
            self.tried(copy, f"death {self.moments}, {what}")
        finally:
            self.busy = False
            shutil.rmtree(copy, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """With hard links kept: a record that is linked to its name still has its temporary one."""
    if not source.exists():
        return
    first: dict[int, Path] = {}
    for folder, _, names in os.walk(source):
        into = target / Path(folder).relative_to(source)
        into.mkdir()
        for name in names:
            found = os.stat(os.path.join(folder, name))
            if found.st_nlink > 1 and found.st_ino in first:
                os.link(first[found.st_ino], into / name)
                continue
            first[found.st_ino] = into / name
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read()
            with open(into / name, "wb") as file:
                file.write(data)


def small_row(name: str, healed: bool = False) -> Row:
    row = row_of(name, healed=healed)
    return Row(row.status, row.reason, row.permanent, row.fingerprint, {k: v for k, v in row.values.items() if k != "moments"})


def complete(writer: Writer, healed: bool) -> list[int]:
    """The parts that were computed."""
    pending = writer.pending()
    for part in pending:
        writer.commit(part, {n: small_row(n, healed) for n, _, compute in writer.rows_of(part) if compute}, {})
    writer.seal({})
    return pending


def first_segment(path: Path, rows: int = ROWS) -> list[int]:
    """10 parts of 4 rows, the last of 2."""
    ids, groups = items(rows)
    plan = make_plan(ids, groups, seed=1, part_rows=4)
    return complete(Writer.create_or_resume(path, kind="echo", identity=IDENTITY, columns=SMALL, plan=plan), healed=False)


def two_parts(path: Path) -> list[int]:
    return first_segment(path, 7)


def healing_segment(path: Path) -> list[int]:
    """Eight studies again, of which seven clips are computed: 6 parts; does nothing where that is done."""
    if len(embed_cache.open(path).manifest.segments) > 1:
        return []
    ids, groups = (names[3:27] for names in items(28))
    recompute = {name for name in ids if row_of(name).reason == "timeout"}
    return complete(
        Writer.extend(path, identity=IDENTITY, ids=ids, groups=groups, recompute=recompute, seed=2, part_rows=4), healed=True
    )


def content(path: Path) -> str:
    return embed_cache.open(path).content_hash()


def names_in(path: Path) -> set[str]:
    return {os.path.relpath(os.path.join(folder, name), path) for folder, inner, files in os.walk(path) for name in inner + files}


def records(path: Path) -> set[Path]:
    return {found.relative_to(path) for found in path.glob("segments/*/log/p*.json")}


@pytest.fixture
def tmp_path(tmp_path):
    with folder_in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture
def store_path(tmp_path):
    return tmp_path / "a.zarr"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A store with its first segment, to be copied and healed."""
    path = tmp_path_factory.mktemp("healthy") / "store"
    first_segment(path, 28)
    return path


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("job", [first_segment, healing_segment])
def test_death_at_any_operation_and_the_same_command_again_give_the_same_content(tmp_path, monkeypatch, healthy, job, shard):
    whole, path = tmp_path / "whole", tmp_path / "s"
    if job is healing_segment:
        copy_tree(healthy, whole)
        copy_tree(healthy, path)
    computed = job(whole)
    number = "00001" if job is healing_segment else "00000"
    expected, names = content(whole), names_in(whole)

    def again(copy, what):
        kept = {int(found.stem[1:]) for found in records(copy) if number in found.parts}
        try:
            assert job(copy) == [part for part in computed if part not in kept], "finished parts were computed again"
            assert content(copy) == expected
            assert not names_in(copy) ^ names
            if deaths.moments % 5 == 0:
                assert embed_cache.verify(copy).ok
        except BaseException as error:
            error.add_note(what)
            raise

    deaths = Deaths(monkeypatch, path, shard, again)
    job(path)
    assert content(path) == expected
    assert deaths.kinds == {*OPERATIONS}
    assert deaths.moments > (200 if job is first_segment else 150)


def test_two_deaths_in_one_job_are_survived(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    two_parts(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    for first in range(3, faults.count, 37):
        for second in range(5, 120, 43):
            path = tmp_path / f"s{first}-{second}"
            for at in (first, second):
                faults.start(at)
                with contextlib.suppress(Death):
                    two_parts(path)
            faults.start(-1)
            two_parts(path)
            assert content(path) == expected
            assert embed_cache.verify(path).ok


def erasing(path: Path) -> None:
    """Of the first study of a healthy store."""
    embed_cache.erase(path, ids=items(3)[0], keyed_hash="ef")


@pytest.mark.parametrize("job", [two_parts, healing_segment, erasing])
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EROFS, "make the file system writable"),
        (errno.ENOENT, "put the folder back"),
        (errno.EIO, "mend that"),
    ],
)
def test_an_error_at_any_kind_of_operation_is_said_in_one_message_and_survived(tmp_path, monkeypatch, healthy, job, code, advice):
    def fresh(name):
        if job is not two_parts:
            copy_tree(healthy, tmp_path / name)
        return tmp_path / name

    faults = Faults(monkeypatch, OSError(code, os.strerror(code)))
    job(fresh("whole"))
    expected = content(tmp_path / "whole")
    places: dict[str, list[int]] = {}
    for at, (name, arguments) in enumerate(faults.log):
        target = next((Path(word).suffix for word in reversed(arguments) if isinstance(word, Path)), "")
        places.setdefault(f"{name}{target}", []).append(at)
    # The first and the last of every kind of operation on every kind of file.
    chosen = sorted({at for found in places.values() for at in (found[0], found[-1])})
    assert len({faults.log[at][0] for at in chosen}) == len(OPERATIONS)
    if code in (errno.EROFS, errno.EIO):  # taken like ENOSPC but for the advice
        chosen = chosen[::4]
    for at, on in itertools.product(chosen, (False, True)):
        path = fresh(f"s{at}{on}")
        faults.start(at, on)
        told = ""
        try:
            job(path)
        except StoreError as error:
            told = str(error)
        faults.start(-1)
        # One temporary that vanished is written again, one folder that cannot be removed stays: then the job is done.
        assert told or (not on and content(path) == expected), f"{faults.log[-1]} failed and nothing was said"
        if told:
            assert f"{os.strerror(code)}. What was finished is kept; {advice} and run the same command again." in told
            assert str(tmp_path) in told
        before = records(path)
        job(path)
        assert before <= records(path)
        assert content(path) == expected
        assert embed_cache.verify(path).ok
        shutil.rmtree(path)


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
    assert faults.count > 500


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
