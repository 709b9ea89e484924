"""Several writers on one store: no row is lost, no part is of two writers, nothing is left behind, no lock stays."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
from store_cases import IDENTITY, Row, begin, finish, heal, items, make, row_of
from store_jobs import PARTS, folder_in_memory, names_in, plan
from test_store_erase import GONE, HASH, held
from test_store_kill import environment

import embed_cache
from embed_cache import StoreError, Writer, disk, make_plan

SALTS = ("", "b", "c", "d")


@pytest.fixture
def tmp_path(tmp_path):
    with folder_in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture
def store_path(tmp_path):
    return tmp_path / "a.zarr"


def rows_for(writer, part, salt=""):
    return {name: row_of(name, salt) for name, _, compute in writer.rows_of(part) if compute}


def salts_of(path) -> list[str]:
    """Which writer each part is of, told by its values; every row of a part and its record agree."""
    store = embed_cache.open(path)
    assert embed_cache.verify(path).ok
    index = store.index.to_pylist()
    found = []
    for part in range(store.manifest.segments[0].num_parts):
        lines = [line for line in index if line["segment"] == 0 and line["part"] == part]
        fits = [salt for salt in SALTS if all(is_row(store, line, row_of(line["id"], salt)) for line in lines)]
        assert fits, f"part {part} is of several writers"
        found.append(fits[0])
    return found


def is_row(store, line, row) -> bool:
    if (line["status"], line["fingerprint"]) != (row.status, row.fingerprint):
        return False
    if row.status != "ok":
        return True
    number = np.array([line["row"]])
    return all(np.array_equal(store.read(name, number)[0], row.values[name]) for name in ("moments", "scale")) and np.array_equal(
        store.read_ragged("signal", line["row"]), row.values["signal"]
    )


SEVERAL = """
import json, os, random, signal, sys, time
from functools import partial
from pathlib import Path
from store_jobs import ended, fork, together
path, kills, salts = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
pids = [fork(partial(together, path, seed, salt)) for seed, salt in enumerate(salts)]
rng = random.Random(3)
log = path / "segments/00000/log"
for pid in pids[:kills]:
    wanted = rng.randrange(2, 12)
    until = time.monotonic() + 60
    while len(list(log.glob("p*.json"))) < wanted and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
statuses = [ended(pid) for pid in pids]
print(json.dumps({"statuses": statuses, "again": ended(fork(partial(together, path, 9)))}))
"""


def several(path, kills=0, salts=("", "", "", "")) -> dict:
    line = [sys.executable, "-c", SEVERAL, str(path), str(kills), ",".join(salts)]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kills", [0, 2])
def test_four_processes_at_once_lose_no_row_and_leave_nothing_behind(tmp_path, kills):
    whole = make(tmp_path / "whole", plan=plan())
    for number in range(3):
        path = tmp_path / f"s{number}"
        told = several(path, kills)
        assert told["statuses"][:kills] == [-9] * kills
        won = told["statuses"][kills:]
        assert all(0 <= parts <= PARTS for parts in won)
        if not kills:
            assert sum(won) == PARTS
        assert told["again"] == 0
        assert embed_cache.open(path).content_hash() == whole.content_hash()
        assert embed_cache.verify(path).ok
        assert names_in(path) == names_in(tmp_path / "whole")


@pytest.mark.parametrize("kills", [0, 2])
def test_processes_with_other_values_make_whole_parts(tmp_path, kills):
    path = tmp_path / "s"
    several(path, kills, SALTS)
    assert len(salts_of(path)) == PARTS
    assert not [name for name in names_in(path) if name.endswith(".tmp")]


def at(monkeypatch, writer, moment: str, action) -> None:
    """Runs `action` once, when `writer` comes to a moment such as "before adopt", "after stage" or "within stage"."""
    when, name = moment.split()
    original = getattr(writer.place, name)
    ran = []

    def once():
        if not ran:
            ran.append(True)
            action()

    def method(*arguments):
        if when == "before":
            once()
        with within(name, once) if when == "within" else contextlib.nullcontext():
            result = original(*arguments)
        if when == "after":
            once()
        return result

    @contextlib.contextmanager
    def within(name, once):
        """Between the first file and the second."""
        inner = "_write_whole" if name == "stage" else "_rename"
        function = getattr(disk, inner)
        calls = []

        def second(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                once()
            return function(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(disk, inner, second)
            yield

    monkeypatch.setattr(writer.place, name, method)


OUTSIDE = ["before stage", "within stage", "after stage", "before adopt", "within adopt", "after adopt"]
INSIDE = ["before create", "after create"]


@contextlib.contextmanager
def no_lock(self):
    """As on a file system that knows none."""
    yield


@pytest.mark.parametrize("sealing", [False, True])
@pytest.mark.parametrize(("moment", "locks"), [(m, True) for m in OUTSIDE] + [(m, False) for m in OUTSIDE + INSIDE])
def test_a_part_is_of_one_writer_wherever_the_other_commits_it_too(store_path, monkeypatch, moment, locks, sealing):
    if not locks:
        monkeypatch.setattr(disk.LocalPlace, "locked", no_lock)
    a, b = begin(store_path), begin(store_path)
    won = {}

    def other():
        won["b"] = b.commit(0, rows_for(b, 0, "b"), {})
        if sealing:
            finish(b, "b")

    at(monkeypatch, a, moment, other)
    won["a"] = a.commit(0, rows_for(a, 0), {})
    assert won["a"] != won["b"]
    monkeypatch.undo()
    finish(a)
    finish(b, "b")
    assert salts_of(store_path)[0] == ("" if won["a"] else "b")
    assert not [name for name in names_in(store_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("moment", OUTSIDE)
def test_two_writers_interleaved_over_all_parts_make_whole_parts(store_path, monkeypatch, moment):
    a, b = begin(store_path), begin(store_path)
    for part in range(6):
        first, second, salts = (a, b, ("", "b")) if part % 2 else (b, a, ("b", ""))
        with monkeypatch.context() as patch:
            at(patch, first, moment, lambda w=second, p=part, s=salts[1]: w.commit(p, rows_for(w, p, s), {}))
            first.commit(part, rows_for(first, part, salts[0]), {})
    a.seal({})
    b.seal({})
    assert {*salts_of(store_path)} == {"", "b"}


def test_a_file_that_gets_its_name_while_another_writer_looks_for_it_is_not_missed(store_path, monkeypatch):
    a, b = begin(store_path), begin(store_path)
    renamed = []

    def other():
        look = disk._regular_size

        def moving(path):
            found = look(path)
            if "columns/moments/c.0" in str(path) and not renamed:
                renamed.append(path)
                for staged in store_path.rglob(f"*.{a.place.number}.tmp"):
                    if "/columns/moments/" in str(staged):
                        staged.rename(str(staged)[: -len(f".{a.place.number}.tmp")])
            return found

        with monkeypatch.context() as patch:
            patch.setattr(disk, "_regular_size", moving)
            assert not b.commit(0, rows_for(b, 0, "b"), {})

    at(monkeypatch, a, "before adopt", other)
    assert a.commit(0, rows_for(a, 0), {})
    assert renamed
    finish(a)
    assert salts_of(store_path)[0] == ""


def test_a_writer_without_entries_leaves_those_of_another_writer_alone(store_path):
    """All rows of its part failed there: the files of a ragged column are the other writer's."""
    a, b = begin(store_path), begin(store_path)
    part = next(p for p in a.pending() if sum(len(r.values.get("signal", ())) for r in rows_for(a, p).values()))
    finish(a)
    failed = {name: Row("failed", "timeout", permanent=False) for name in rows_for(b, part)}
    assert not b.commit(part, failed, {})
    assert embed_cache.verify(store_path).ok
    assert salts_of(store_path)[part] == ""


@pytest.mark.parametrize("locks", [True, False])
def test_a_writer_that_seals_late_loses_nothing_that_came_meanwhile(store_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(disk.LocalPlace, "locked", no_lock)
    a, b = begin(store_path), begin(store_path)
    for part in a.pending():
        a.commit(part, rows_for(a, part), {})

    def other():
        b.seal({})
        heal(store_path)

    other()
    two = embed_cache.open(store_path).content_hash()
    a.seal({})
    assert embed_cache.open(store_path).content_hash() == two
    assert len(embed_cache.open(store_path).manifest.segments) == 2
    assert embed_cache.verify(store_path).ok


@pytest.mark.parametrize(
    "moment", ["before locked", "before write", "after write", "before remove", "after remove", "before replace"]
)
def test_a_writer_stopped_in_its_seal_loses_nothing_that_came_meanwhile(store_path, monkeypatch, moment):
    if moment != "before locked":
        monkeypatch.setattr(disk.LocalPlace, "locked", no_lock)
    a, b = begin(store_path), begin(store_path)
    for part in a.pending():
        a.commit(part, rows_for(a, part), {})
    seen = []

    def other():
        b.seal({})
        heal(store_path)
        seen.append(embed_cache.open(store_path).content_hash())

    at(monkeypatch, a, moment, other)
    with contextlib.suppress(StoreError):  # "changed by another writer just now"
        a.seal({})
    assert [embed_cache.open(store_path).content_hash()] == seen
    assert len(embed_cache.open(store_path).manifest.segments) == 2
    assert embed_cache.verify(store_path).ok


def other_plan():
    """As many rows, other names."""
    ids, groups = items()
    return make_plan([f"x{name}" for name in ids], [f"x{name}" for name in groups], seed=7, part_rows=4)


@pytest.mark.parametrize("moment", ["before locked", "before write", "before create"])
def test_of_writers_that_plan_other_rows_at_once_one_is_first_and_the_other_is_told(store_path, monkeypatch, moment):
    if moment != "before locked":
        monkeypatch.setattr(disk.LocalPlace, "locked", no_lock)
    name = moment.split()[1]
    original, running = getattr(disk.LocalPlace, name), []
    winner = []

    def paused(self, *arguments):
        if name == "write" and not any("/index/id/" in path for path in arguments[0]):
            return original(self, *arguments)
        if not running:
            running.append(True)
            winner.append(begin(store_path))
        return original(self, *arguments)

    monkeypatch.setattr(disk.LocalPlace, name, paused)
    with pytest.raises(StoreError, match="was begun with other rows"):
        begin(store_path, plan=other_plan())
    monkeypatch.undo()
    finish(winner[0])
    assert embed_cache.verify(store_path).ok
    assert salts_of(store_path) == [""] * 6


def test_writers_that_plan_the_same_rows_at_once_both_go_on_with_them(store_path, monkeypatch):
    monkeypatch.setattr(disk.LocalPlace, "locked", no_lock)
    original, others = disk.LocalPlace.create, []

    def paused(self, name, data):
        if name.endswith("plan.json") and not others:
            others.append(None)
            others[0] = begin(store_path)
        return original(self, name, data)

    monkeypatch.setattr(disk.LocalPlace, "create", paused)
    a = begin(store_path)
    assert a.commit(0, rows_for(a, 0), {})
    assert others[0].refresh() == [1, 2, 3, 4, 5]


def test_the_file_that_writers_lock_is_not_replaced_by_one_that_begins_at_the_same_time(store_path, monkeypatch):
    original, found = disk.LocalPlace.create, []

    def paused(self, name, data):
        if name == "zarr.json" and not found:
            found.append(0)
            begin(store_path)
            found[0] = (store_path / "zarr.json").stat().st_ino
        return original(self, name, data)

    monkeypatch.setattr(disk.LocalPlace, "create", paused)
    begin(store_path)
    assert (store_path / "zarr.json").stat().st_ino == found[0]


def test_a_second_writer_with_other_rows_or_parts_is_told_what_differs(store_path):
    begin(store_path)
    with pytest.raises(StoreError, match="begun with other rows"):
        begin(store_path, plan=other_plan())
    with pytest.raises(StoreError, match="begun with part_rows 4, and this run has 8"):
        begin(store_path, plan=make_plan(*items(), seed=7, part_rows=8))
    with pytest.raises(StoreError, match="begun with seed 7, and this run has 9"):
        begin(store_path, plan=make_plan(*items(), seed=9, part_rows=4))


@pytest.mark.parametrize("moment", OUTSIDE)
def test_an_erasure_while_a_writer_is_open_leaves_no_erased_byte_and_refuses_its_next_part(store_path, monkeypatch, moment):
    a = begin(store_path)
    parts = sorted({a.plan.ids.index(name) // 4 for name in GONE})
    at(monkeypatch, a, moment, lambda: embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH))
    committed = moment.endswith("adopt")
    if committed:
        assert a.commit(parts[0], rows_for(a, parts[0]), {})
    else:
        with pytest.raises(StoreError, match="was changed meanwhile"):
            a.commit(parts[0], rows_for(a, parts[0]), {})
    assert not held(store_path)
    for part in a.refresh():
        with pytest.raises(StoreError, match="was changed meanwhile"):
            a.commit(part, rows_for(a, part), {})
    assert not held(store_path)
    again = Writer.resume(store_path, identity=IDENTITY)
    assert again is not None
    assert (parts[0] in again.pending()) != committed
    finish(again)
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok
    live = embed_cache.open(store_path).index.to_pylist()
    assert {line["id"] for line in live if line["live"]} == {*items()[0]} - {*GONE}


def test_an_erasure_between_a_commit_and_its_seal_is_in_the_sealed_store(store_path, monkeypatch):
    a = begin(store_path)
    for part in a.pending():
        a.commit(part, rows_for(a, part), {})
    at(monkeypatch, a, "before locked", lambda: embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH))
    with pytest.raises(StoreError, match="Run the same command again"):
        a.seal({})
    finish(Writer.resume(store_path, identity=IDENTITY))
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok
