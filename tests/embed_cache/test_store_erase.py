"""A subject who withdraws is forgotten: in every segment and log, whenever the erasure is cut short, and for good."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_cases import IDENTITY, begin, finish, heal, items, make, row_of
from test_store_crash import Death, Faults

import embed_cache
from embed_cache import StoreError, Writer, disk

GONE = ["clip006", "clip007", "clip008"]  # one study; clip006 and clip007 have values
HASH = "ef" * 32


def secrets(names=GONE) -> list[bytes]:
    """Everything that a store held of these clips: values, ids, groups, fingerprints."""
    found = [b"study002"]
    for name in names:
        for healed in (False, True):
            row = row_of(name, healed=healed)
            found += [name.encode(), row.fingerprint.encode()]
            found += [value.tobytes() for value in row.values.values() if value.size]
    return [secret for secret in found if len(secret) > 3]


def bytes_of(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file())


def held(store: Path) -> list[bytes]:
    data = bytes_of(store)
    return [secret for secret in secrets() if secret in data]


def live_rows(store) -> dict:
    table = store.index.filter(store.index["live"]).to_pydict()
    return {
        name: [np.asarray(store.read("moments", np.array([row]))).tobytes(), store.read_ragged("signal", row).tobytes()]
        for name, row in zip(table["id"], table["row"], strict=True)
    }


def two_segments(path: Path) -> Path:
    make(path)
    heal(path)
    return path


@pytest.fixture(scope="module")
def healed(tmp_path_factory):
    return two_segments(tmp_path_factory.mktemp("erase") / "store")


@pytest.fixture
def copied(healed, tmp_path):
    return shutil.copytree(healed, tmp_path / "store")


def test_erased_rows_are_in_no_file_and_all_others_are_as_they_were(copied):
    before = live_rows(embed_cache.open(copied))
    assert len(held(copied)) > 6
    erasure = embed_cache.erase(copied, ids=GONE, keyed_hash=HASH)
    assert not held(copied)
    store = embed_cache.open(copied)
    after = live_rows(store)
    assert after == {name: value for name, value in before.items() if name not in GONE}
    index = store.index.to_pydict()
    for row in erasure.rows:
        assert (index["status"][row], index["id"][row], index["group"][row], index["fingerprint"][row]) == ("erased", "", "", "")
        assert np.isnan(store.read("moments", np.array([row]))).all()
        assert not len(store.read_ragged("signal", row))
    assert len(erasure.rows) >= 3
    assert embed_cache.verify(copied).ok
    assert [found.keyed_hash for found in embed_cache.erasures(copied)] == [HASH]


def test_erased_ids_are_unknown_and_a_second_erasure_finds_nothing(copied):
    embed_cache.erase(copied, ids=GONE, keyed_hash=HASH)
    store = embed_cache.open(copied)
    with pytest.raises(StoreError, match="no live row"):
        store.rows(GONE[:1])
    with pytest.raises(StoreError, match="no group"):
        store.group("study002")
    assert embed_cache.erase(copied, ids=GONE, keyed_hash=HASH).rows == ()
    assert embed_cache.verify(copied).ok


def test_an_erasure_killed_at_any_operation_is_finished_by_whoever_opens_the_store(copied, tmp_path, monkeypatch):
    whole = shutil.copytree(copied, tmp_path / "whole")
    faults = Faults(monkeypatch)
    embed_cache.erase(whole, ids=GONE, keyed_hash=HASH)
    expected = embed_cache.open(whole).content_hash()
    others = {name: value for name, value in live_rows(embed_cache.open(copied)).items() if name not in GONE}
    chosen = [at for at, (name, _) in enumerate(faults.log) if name != "_fsync" or at % 7 == 0]
    assert len(chosen) > 60
    recorded = False
    for number, at in enumerate(chosen):
        if recorded and number % 3 and at != chosen[-1]:
            continue  # once it is written down that rows are to go, every death leaves the same to do
        path = shutil.copytree(copied, tmp_path / f"s{at}")
        faults.start(at)
        with pytest.raises(Death):
            embed_cache.erase(path, ids=GONE, keyed_hash=HASH)
        faults.start(-1)
        store = embed_cache.open(path)  # finishes what was begun
        assert recorded <= bool(embed_cache.erasures(path)), "a later death left less than an earlier one"
        recorded = bool(embed_cache.erasures(path))
        if recorded:
            assert store.content_hash() == expected, f"died at operation {at}"
            assert not held(path), f"died at operation {at}"
        assert others.items() <= live_rows(store).items()
        if at % 4 == 0 or not recorded:
            embed_cache.erase(path, ids=GONE, keyed_hash=HASH)
            assert not held(path)
            assert embed_cache.verify(path).ok
        shutil.rmtree(path)
    assert recorded


def test_an_open_segment_forgets_too_and_is_finished_without_the_erased_rows(store_path):
    writer = begin(store_path)
    for part in writer.pending()[:4]:
        writer.commit(part, {n: row_of(n) for n, _, compute in writer.rows_of(part) if compute}, {})
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    assert not held(store_path)
    part = writer.pending()[0]
    with pytest.raises(StoreError, match="was changed meanwhile"):
        writer.commit(part, {n: row_of(n) for n, _, compute in writer.rows_of(part) if compute}, {})
    assert not held(store_path)
    again = Writer.resume(store_path, identity=IDENTITY)
    assert again is not None
    assert len(again.pending()) == again.plan.num_parts - 4
    assert not any(name in GONE for part in again.pending() for name, _, _ in again.rows_of(part))
    finish(again)
    assert not held(store_path)
    store = embed_cache.open(store_path)
    assert embed_cache.verify(store_path).ok
    assert store.index["status"].to_pylist().count("erased") == 3
    assert set(store.index["id"].to_pylist()) == {*items()[0], ""} - {*GONE}


def test_an_erasure_in_an_open_segment_survives_death_at_any_operation(store_path, tmp_path, monkeypatch):
    writer = begin(store_path)
    for part in writer.pending():
        writer.commit(part, {n: row_of(n) for n, _, compute in writer.rows_of(part) if compute}, {})
    faults = Faults(monkeypatch)
    whole = shutil.copytree(store_path, tmp_path / "whole")
    embed_cache.erase(whole, ids=GONE, keyed_hash=HASH)
    finish(Writer.resume(whole, identity=IDENTITY))
    expected, count = embed_cache.open(whole).content_hash(), faults.count
    for at in range(2, count, 5):
        path = shutil.copytree(store_path, tmp_path / f"s{at}")
        faults.start(at)
        with contextlib.suppress(Death):
            embed_cache.erase(path, ids=GONE, keyed_hash=HASH)
        faults.start(-1)
        embed_cache.erase(path, ids=GONE, keyed_hash=HASH)
        assert not held(path), f"died at operation {at}"
        again = Writer.resume(path, identity=IDENTITY)
        if again is not None:
            finish(again)
        assert embed_cache.open(path).content_hash() == expected, f"died at operation {at}"
        assert embed_cache.verify(path).ok
        shutil.rmtree(path)


def test_healing_after_an_erasure_copies_the_others_and_brings_nobody_back(store_path):
    make(store_path)
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    heal(store_path)
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok


def test_items_of_a_group_are_erased_together(copied):
    with pytest.raises(StoreError, match="erased together"):
        embed_cache.erase(copied, ids=GONE[:1], keyed_hash=HASH)
    assert embed_cache.erasures(copied) == []


def test_damage_that_was_there_before_stays_reported(copied):
    manifest = embed_cache.open(copied).manifest
    shape = manifest.segments[0]
    row = embed_cache.open(copied).index["id"].to_pylist().index(GONE[0])
    name = shape.chunk(shape.columns[1], row // shape.part_rows)
    data = bytearray((copied / name).read_bytes())
    data[-1] ^= 1
    (copied / name).write_bytes(data)
    embed_cache.erase(copied, ids=GONE, keyed_hash=HASH)
    assert not held(copied)
    assert [damage.path for damage in embed_cache.verify(copied).damages] == [name]


def test_temporaries_that_hold_erased_rows_are_wiped(copied):
    (copied / "segments/00000/columns/scale/c.0.0.99.tmp").write_bytes(b"".join(secrets()))
    embed_cache.erase(copied, ids=GONE, keyed_hash=HASH)
    assert not held(copied)
    assert embed_cache.verify(copied).ok


def test_a_store_that_is_not_there_is_said(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        embed_cache.erase(tmp_path / "a", ids=GONE, keyed_hash=HASH)
    assert embed_cache.erasures(tmp_path / "a") == []


def test_old_blocks_are_overwritten_not_only_unlinked(copied, monkeypatch):
    written: list[bytes] = []
    original = disk._write
    monkeypatch.setattr(disk, "_write", lambda handle, data: (written.append(bytes(data)), original(handle, data))[1])
    record = copied / "segments/00000/log"
    sizes = {path.stat().st_size for path in record.iterdir() if GONE[0].encode() in path.read_bytes()}
    embed_cache.erase(copied, ids=GONE, keyed_hash=HASH)
    assert sizes <= {len(data) for data in written if data.strip(b"\0") == b""}
