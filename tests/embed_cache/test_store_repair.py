"""A damaged store is mended: what follows from other files at once, the rest by computing the damaged parts again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_cases import IDENTITY, heal, make, row_of
from store_jobs import folder_in_memory
from test_store_erase import GONE, HASH, held, live_rows

import embed_cache
from embed_cache import StoreError, Writer


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("repair") / "store"
    make(path)
    heal(path)
    embed_cache.erase(path, ids=GONE, keyed_hash=HASH)
    return path


@pytest.fixture
def in_memory(tmp_path):
    with folder_in_memory(tmp_path) as folder:
        yield folder


@pytest.fixture
def copied(sound, in_memory):
    return shutil.copytree(sound, in_memory / "store")


def mend(path: Path) -> tuple[embed_cache.RepairReport, set[str]]:
    """Repairs, computing again what must be; gives the report and the ids that were computed."""
    report, computed = embed_cache.repair(path), set()
    while (writer := Writer.repair(path, identity=IDENTITY)) is not None:
        healed = writer._shape.number > 0
        for part in writer.pending():
            names = [name for name, _, compute in writer.rows_of(part) if compute]
            computed |= {*names}
            writer.commit(part, {name: row_of(name, healed=healed) for name in names}, {"host": "b"})
        writer.seal({"version": "2"})
    return report, computed


def files_of(path: Path) -> list[str]:
    return sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())


def one_of_each(names: list[str]) -> list[tuple[str, str]]:
    """Both damages of every kind of file, in the one segment or the other; of a column's parts the first and the last.

    The descriptions of arrays are alike and follow from the plan: of each kind of them one, damaged one way or the other.
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    chosen = []
    for number, (kind, alike) in enumerate(kinds.items()):
        if kind.endswith("zarr.json") and len(alike) == 2:
            chosen.append((alike[number % 2], ("flipped", "missing")[number // 2 % 2]))
            continue
        some = [*alike[:2], *alike[2:][-2:]] if len(alike) > 1 else alike * 2
        chosen += [(name, ("flipped", "missing")[k % 2]) for k, name in enumerate(some)]
    return chosen


def test_any_one_file_that_is_flipped_or_missing_is_mended(sound, in_memory):
    store = embed_cache.open(sound)
    expected, lost = store.content_hash(), []
    for number, (name, how) in enumerate(one_of_each(files_of(sound))):
        if (name, how) == ("head.json", "missing"):
            continue  # the command that makes the store writes it again
        path = shutil.copytree(sound, in_memory / f"{number}-{how}")
        if how == "missing":
            (path / name).unlink()
        else:
            data = bytearray((path / name).read_bytes())
            data[len(data) // 2] ^= 4
            (path / name).write_bytes(data)
        assert not _verified(path), f"{name} {how} was not found"
        if name.startswith("erasures/"):
            lost.append(name)
            continue
        report, computed = mend(path)
        assert report.lost == (), f"{name} {how}"
        found = embed_cache.open(path)
        # Entries of an erased row of a ragged column are not kept when their part is computed again.
        if found.content_hash() != expected:
            assert computed, f"{name} {how}"
            assert live_rows(found) == live_rows(store), f"{name} {how}"
            changed = {p.rsplit("/p", 1)[0] for p, entry in found.manifest.files.items() if store.manifest.files[p] != entry}
            assert any("/columns/signal" in p for p in changed), f"{name} {how}"
        assert _verified(path), f"{name} {how}"
        assert not held(path)
        if "/columns/" not in name or name.endswith("zarr.json"):
            assert not computed, f"{name} {how}: rows were computed that follow from other files"
        else:
            part = next(p for shape in store.manifest.segments for p in range(shape.num_parts) for c in shape.columns
                        if shape.chunk(c, p) == name)  # fmt: skip
            assert len(computed) <= 4, f"{name}: more than part {part} was computed"
        shutil.rmtree(path)
    assert lost == ["erasures/00000.json"] * 2


def _verified(path: Path) -> bool:
    try:
        return embed_cache.verify(path).ok
    except StoreError:
        return False


def test_a_sound_store_is_left_as_it_is(copied):
    before = {name: (copied / name).read_bytes() for name in files_of(copied)}
    report = embed_cache.repair(copied)
    assert report.ok
    assert report.mended == ()
    assert Writer.repair(copied, identity=IDENTITY) is None
    assert {name: (copied / name).read_bytes() for name in files_of(copied)} == before


def test_all_records_or_all_index_arrays_may_be_lost(copied):
    expected = embed_cache.open(copied).content_hash()
    for folder in ("log", "index"):
        shutil.rmtree(copied / "segments/00000" / folder)
        assert embed_cache.repair(copied).ok
        assert embed_cache.verify(copied).ok
        assert embed_cache.open(copied).content_hash() == expected


def test_other_values_than_before_get_new_checksums_and_a_note(copied):
    store = embed_cache.open(copied)
    shape = store.manifest.segments[0]
    (copied / shape.chunk(shape.columns[1], 0)).unlink()
    writer = Writer.repair(copied, identity=IDENTITY)
    assert writer.pending() == [0]
    rows = {name: row_of(name, salt="another device") for name, _, compute in writer.rows_of(0) if compute}
    writer.commit(0, rows, {})
    writer.seal({"version": "2"})
    after = embed_cache.open(copied)
    assert embed_cache.verify(copied).ok
    assert after.content_hash() != store.content_hash()
    assert after.manifest.provenance[0]["repairs"] == [{"parts": [0], "version": "2"}]
    for name in rows:
        found = after.index["id"].to_pylist().index(name)
        np.testing.assert_array_equal(after.read("scale", np.array([found]))[0], rows[name].values["scale"])
    part = shape.part(1)
    np.testing.assert_array_equal(after.array("scale")[part], store.array("scale")[part])


def test_a_row_that_can_no_longer_be_computed_becomes_a_failed_row(copied):
    store = embed_cache.open(copied)
    shape = store.manifest.segments[0]
    (copied / shape.chunk(shape.columns[1], 0)).unlink()
    writer = Writer.repair(copied, identity=IDENTITY)
    names = [name for name, _, compute in writer.rows_of(0) if compute]
    writer.commit(0, {name: embed_cache.Row("failed", "unreadable", permanent=False) for name in names}, {})
    writer.seal({})
    index = embed_cache.open(copied).index.to_pydict()
    assert {index["status"][index["id"].index(name)] for name in names} == {"failed"}
    assert embed_cache.verify(copied).ok


def test_a_repair_cut_short_is_repaired_again(copied, monkeypatch):
    from test_store_crash import Death, Faults

    expected = embed_cache.open(copied).content_hash()
    shape = embed_cache.open(copied).manifest.segments[0]

    def break_it(path):
        for name in (shape.chunk(shape.columns[0], 1), shape.record(2), shape.plan, shape.index_chunk("status")):
            (path / name).unlink(missing_ok=True)

    faults = Faults(monkeypatch)
    whole = shutil.copytree(copied, copied.parent / "whole")
    break_it(whole)
    mend(whole)
    assert faults.count > 20
    for at in range(0, faults.count, 3):
        path = shutil.copytree(copied, copied.parent / f"s{at}")
        break_it(path)
        faults.start(at)
        try:
            mend(path)
        except Death:
            faults.start(-1)
            mend(path)
        faults.start(-1)
        assert embed_cache.open(path).content_hash() == expected, f"died at {at}"
        assert embed_cache.verify(path).ok, f"died at {at}"


def test_another_identity_does_not_mend(copied):
    shape = embed_cache.open(copied).manifest.segments[0]
    (copied / shape.chunk(shape.columns[0], 1)).unlink()
    with pytest.raises(embed_cache.StaleStore, match="mask"):
        Writer.repair(copied, identity={**IDENTITY, "mask": "none"})


def test_what_is_no_store_is_not_mended(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        embed_cache.repair(tmp_path / "a")
