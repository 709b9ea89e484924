"""Whoever was forgotten stays forgotten, and nobody else is: whatever ran, died or decayed beside an erasure."""

from __future__ import annotations

import contextlib
import shutil
import sys

import pytest
from store_cases import IDENTITY, begin, finish, heal, make, row_of
from test_store_erase import GONE, HASH, held, live_rows

import embed_cache
from embed_cache import DamagedStore, StoreError, Writer, make_plan

ERASE = sys.modules["embed_cache.erase"]


class Death(BaseException):
    pass


def begun(path, ids=GONE) -> None:
    """An erasure that was killed between its record and its first overwriting."""
    with pytest.MonkeyPatch.context() as patch:

        def die(*_):
            raise Death

        patch.setattr(ERASE, "_overwrite", die)
        with contextlib.suppress(Death):
            embed_cache.erase(path, ids=ids, keyed_hash=HASH)
    assert held(path)


def flip(path, at=None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)


def rows_for(writer, part, **options) -> dict:
    return {name: row_of(name, **options) for name, _, compute in writer.rows_of(part) if compute}


def chunk_of(path, name, column=0):
    store = embed_cache.open(path)
    row = store.index["id"].to_pylist().index(name)
    shape = store.manifest.segments[0]
    return path / shape.chunk(shape.columns[column], row // shape.part_rows)


def test_an_open_erasure_is_carried_out_by_the_repair_of_a_damaged_head(store_path):
    make(store_path)
    begun(store_path)
    flip(store_path / "head.json", 200)
    embed_cache.repair(store_path)
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok


def test_an_erasure_that_was_begun_is_carried_out_by_the_first_seal(store_path):
    writer = begin(store_path)
    for part in writer.pending():
        writer.commit(part, rows_for(writer, part), {})
    begun(store_path)
    with pytest.raises(StoreError, match="was changed"):
        writer.seal({})
    finish(Writer.resume(store_path, identity=IDENTITY))
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok
    assert not {*embed_cache.open(store_path).index["id"].to_pylist()} & {*GONE}


def test_a_repair_begun_before_an_erasure_brings_nobody_back(store_path):
    make(store_path)
    flip(chunk_of(store_path, GONE[0]))
    writer = Writer.repair(store_path, identity=IDENTITY)
    part = writer.pending()[0]
    rows = rows_for(writer, part)
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    with pytest.raises(StoreError, match="was changed meanwhile"):
        writer.commit(part, rows, {})
    assert not held(store_path)


@pytest.mark.parametrize("recompute", [(), GONE])
def test_an_extension_planned_before_an_erasure_is_refused(store_path, monkeypatch, recompute):
    make(store_path)
    import embed_cache.writer as module

    planned = module.make_plan

    def erased_meanwhile(*arguments, **options):
        embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
        return planned(*arguments, **options)

    monkeypatch.setattr(module, "make_plan", erased_meanwhile)
    with pytest.raises(StoreError):
        Writer.extend(store_path, identity=IDENTITY, ids=GONE, groups=["study002"] * 3, recompute=recompute, seed=2, part_rows=4)
    assert not held(store_path)
    assert embed_cache.verify(store_path).ok


def test_items_that_were_chosen_before_an_erasure_are_not_planned(store_path):
    make(store_path)
    known = [erasure.name for erasure in embed_cache.erasures(store_path)]
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    options = {"ids": GONE, "groups": ["study002"] * 3, "recompute": GONE, "seed": 2, "part_rows": 4}
    with pytest.raises(StoreError, match="changed by another writer"):
        Writer.extend(store_path, identity=IDENTITY, **options, erased=known)
    assert not held(store_path)


def test_rows_of_another_segment_are_not_taken_for_those_of_one_without_plan(store_path):
    make(store_path)
    heal(store_path)
    before = live_rows(embed_cache.open(store_path))
    begun(store_path)
    (store_path / "segments/00000/plan.json").unlink()
    embed_cache.repair(store_path)
    assert not held(store_path)
    assert live_rows(embed_cache.open(store_path)) == {name: value for name, value in before.items() if name not in GONE}
    assert embed_cache.verify(store_path).ok


def test_a_segment_planned_anew_after_an_erasure_loses_nobody_else(store_path):
    writer = begin(store_path)
    writer.commit(0, rows_for(writer, 0), {})
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    shutil.rmtree(store_path / "segments/00000")
    ids = [name for name in writer.plan.ids if name not in GONE]
    groups = [group for name, group in zip(writer.plan.ids, writer.plan.groups, strict=True) if name not in GONE]
    finish(begin(store_path, plan=make_plan(ids, groups, seed=7, part_rows=4)))
    index = embed_cache.open(store_path).index
    assert set(index["id"].to_pylist()) == {*ids}
    assert "erased" not in index["status"].to_pylist()
    assert embed_cache.verify(store_path).ok


def test_damage_that_happens_while_an_erasure_is_open_stays_damage(store_path):
    make(store_path)
    begun(store_path)
    secret = row_of(GONE[0]).values["scale"].tobytes()
    chunk = next(path for path in store_path.glob("segments/00000/columns/scale/c.*") if secret in path.read_bytes())
    flip(chunk, chunk.stat().st_size - 1)
    embed_cache.open(store_path)
    assert not held(store_path)
    assert [damage.path for damage in embed_cache.verify(store_path).damages] == [chunk.relative_to(store_path).as_posix()]


def test_what_lies_in_an_open_segment_without_a_sound_record_is_discarded(store_path):
    writer = begin(store_path)
    for part in writer.pending():
        writer.commit(part, rows_for(writer, part), {})
    for record in (store_path / "segments/00000/log").iterdir():
        flip(record)
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    assert not held(store_path)


def test_an_erasure_that_cannot_find_its_rows_is_not_begun(store_path):
    make(store_path)
    options = {"ids": GONE, "groups": ["study002"] * 3, "recompute": GONE, "seed": 2, "part_rows": 4}
    Writer.extend(store_path, identity=IDENTITY, **options)
    flip(store_path / "segments/00001/plan.json")
    with pytest.raises(DamagedStore, match="Remove .*00001"):
        embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    shutil.rmtree(store_path / "segments/00001")
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    assert not held(store_path)


def test_a_head_that_cannot_be_made_whole_again_is_not_made(store_path):
    make(store_path)
    heal(store_path)
    flip(store_path / "head.json", 200)
    (store_path / "segments/00001/log/p00000.json").unlink()
    with pytest.raises(DamagedStore, match="Restore it from a copy"):
        embed_cache.repair(store_path)


def test_links_inside_a_store_lead_nowhere(store_path, tmp_path):
    make(store_path)
    folder = store_path / "segments/00000/index"
    shutil.move(folder, tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    flip(tmp_path / "outside/status/c.0")
    before = (tmp_path / "outside/status/c.0").read_bytes()
    for action in (embed_cache.repair, lambda path: embed_cache.erase(path, ids=GONE, keyed_hash=HASH)):
        with pytest.raises(StoreError):
            action(store_path)
    assert (tmp_path / "outside/status/c.0").read_bytes() == before
    assert not embed_cache.verify(store_path).ok


def test_other_names_beside_erasure_records_do_no_harm(store_path):
    make(store_path)
    embed_cache.erase(store_path, ids=GONE, keyed_hash=HASH)
    (store_path / "erasures/.DS_Store").write_bytes(b"\0")
    assert len(embed_cache.open(store_path)) == 22
    assert embed_cache.verify(store_path).unlisted == ("erasures/.DS_Store",)
    (store_path / "erasures/00000.json").unlink()
    report = embed_cache.repair(store_path)
    assert (report.lost, report.unlisted, report.ok) == (("erasures/00000.json",), ("erasures/.DS_Store",), False)
