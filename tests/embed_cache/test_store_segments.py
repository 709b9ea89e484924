"""A healing segment: the study is what is superseded, unchanged rows are copied byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from store_cases import COLUMNS, IDENTITY, finish, heal, items, make, row_of

import embed_cache
from embed_cache import DamagedStore, StaleStore, StoreError, Writer


def extend(path, ids, groups, recompute, **changes):
    options = {"identity": IDENTITY, "ids": ids, "groups": groups, "recompute": recompute, "part_rows": 4, "seed": 8}
    return Writer.extend(path, **options | changes)


def lines(store, **wanted):
    return [line for line in store.index.to_pylist() if all(line[key] == value for key, value in wanted.items())]


def test_healing_a_clip_supersedes_its_study_and_nothing_else(store_path):
    old = make(store_path)
    heal(store_path)
    new = embed_cache.open(store_path)
    healed = {line["group"] for line in lines(old, status="failed")}
    assert {line["group"] for line in lines(new, segment=1)} == healed
    assert {line["group"] for line in lines(new, live=False)} == healed
    assert not lines(new, live=True, status="failed")
    assert sorted(line["id"] for line in lines(new, live=True)) == items()[0]
    assert sorted(line["group"] for line in lines(new, live=True)) == sorted(items()[1])
    for group in set(items()[1]):
        rows = new.group(group)
        assert [line["segment"] for line in new.index.to_pylist()[rows]] == [int(group in healed)] * (rows.stop - rows.start)
        assert [line["id"] for line in new.index.to_pylist()[rows]] == [
            line["id"] for line in old.index.to_pylist()[old.group(group)]
        ]
    names = items()[0]
    assert [new.index["id"][row].as_py() for row in new.rows(names).tolist()] == names


def test_unchanged_rows_are_copied_byte_for_byte_and_healed_ones_hold_what_was_computed(store_path):
    old = make(store_path)
    failed = {line["id"] for line in lines(old, status="failed")}
    heal(store_path)
    new = embed_cache.open(store_path)
    for line in lines(new, segment=1):
        row = line["row"]
        before = int(old.rows([line["id"]])[0])
        if line["id"] in failed:
            expected = row_of(line["id"], healed=True)
            assert (line["status"], line["num_frames"]) == ("ok", expected.counts["num_frames"])
            np.testing.assert_array_equal(new.array("moments")[row], expected.values["moments"])
            np.testing.assert_array_equal(new.read_ragged("signal", row), expected.values["signal"])
            continue
        for column in COLUMNS:
            read = (
                (lambda s, r, n=column.name: s.read_ragged(n, r))
                if column.ragged
                else (lambda s, r, n=column.name: s.array(n)[r])
            )
            assert read(new, row).tobytes() == read(old, before).tobytes()
        same = ("id", "group", "status", "reason", "permanent", "fingerprint", "num_frames")
        assert {key: line[key] for key in same} == {key: old.index.to_pylist()[before][key] for key in same}
    source = new.segment_index(1)["source"]
    assert (source < 0).sum() == len(failed)


def test_older_rows_stay_readable_by_their_number_and_old_files_are_untouched(store_path):
    old = make(store_path)
    before = {path: path.read_bytes() for path in (store_path / "segments/00000").rglob("*") if path.is_file()}
    values = old.array("moments").copy()
    heal(store_path)
    assert {path: path.read_bytes() for path in (store_path / "segments/00000").rglob("*") if path.is_file()} == before
    np.testing.assert_array_equal(embed_cache.open(store_path).array("moments")[: len(old)], values)


def test_new_studies_are_added_as_a_segment(store_path):
    make(store_path)
    finish(extend(store_path, ["new100", "new101"], ["s9", "s9"], {"new100", "new101"}))
    store = embed_cache.open(store_path)
    assert len(store) == 24
    assert all(line["live"] for line in store.index.to_pylist())
    assert embed_cache.verify(store_path).ok


def test_a_third_segment_copies_from_the_second(store_path):
    make(store_path)
    heal(store_path)
    first = embed_cache.open(store_path)
    index = [line for line in first.index.to_pylist() if line["group"] == "study001" and line["live"]]
    finish(extend(store_path, [line["id"] for line in index], ["study001"] * 3, set()))
    store = embed_cache.open(store_path)
    assert store.segment_index(2)["source"].tolist() == [line["row"] for line in index]
    rows = store.group("study001")
    np.testing.assert_array_equal(store.array("scale")[rows], first.array("scale")[first.group("study001")])
    assert embed_cache.verify(store_path).ok


def test_readers_go_on_with_the_old_segment_while_the_next_is_written(store_path):
    old = make(store_path)
    writer = extend(store_path, ["new100"], ["s9"], {"new100"})
    writer.commit(0, {"new100": row_of("new100")}, {})
    assert embed_cache.open(store_path).content_hash() == old.content_hash()
    report = embed_cache.verify(store_path)
    assert report.ok
    assert report.open_segment == 1
    summary = embed_cache.info(store_path)
    assert (summary["open_segment"], summary["parts_done"], summary["parts_planned"]) == (1, 7, 7)


def test_an_unfinished_extension_is_resumed_with_the_plan_it_has(store_path):
    make(store_path)
    extend(store_path, ["new100", "new101"], ["s9", "s8"], {"new100", "new101"})
    with pytest.raises(StoreError, match="Writer.resume"):
        extend(store_path, ["new100"], ["s9"], {"new100"})
    from store_cases import begin

    with pytest.raises(StoreError, match=r"unfinished extension \(segment 1\)"):
        begin(store_path)
    writer = Writer.resume(store_path, identity=IDENTITY)
    assert sorted(writer.plan.ids) == ["new100", "new101"]
    finish(writer)
    assert Writer.resume(store_path, identity=IDENTITY) is None
    assert len(embed_cache.open(store_path)) == 24


@pytest.mark.parametrize(
    ("ids", "groups", "recompute", "message"),
    [
        (["clip003", "clip004"], ["study001"] * 2, {"clip003"}, "also has 'clip005'"),
        (["clip003", "clip004", "clip005", "new1"], ["study001"] * 4, {"clip003"}, "'new1' has no live row"),
        (["clip003", "clip004", "clip005"], ["study001"] * 3, {"clip009"}, "'clip009' is to be recomputed but is not"),
        (["clip003"], ["elsewhere"], {"clip003"}, "belongs to group 'study001'"),
    ],
)
def test_a_study_is_extended_whole_or_not_at_all(store_path, ids, groups, recompute, message):
    make(store_path)
    with pytest.raises(StoreError, match=message):
        extend(store_path, ids, groups, recompute)
    assert embed_cache.verify(store_path).open_segment is None


def test_damage_is_never_copied_into_a_new_segment(store_path):
    make(store_path)
    for path in (store_path / "segments/00000/columns/moments").glob("c.*"):
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
    with pytest.raises(DamagedStore, match="cannot be copied"):
        heal(store_path)


def test_an_extension_by_another_teacher_is_refused(store_path):
    make(store_path)
    with pytest.raises(StaleStore, match=r"teacher.name is \"hash\" there but \"other\" in this run"):
        extend(store_path, ["new1"], ["g"], {"new1"}, identity={**IDENTITY, "teacher": {**IDENTITY["teacher"], "name": "other"}})


def test_content_hash_of_a_healed_store_differs_from_before_and_is_repeatable(tmp_path):
    hashes = []
    for name in "ab":
        before = make(tmp_path / name).content_hash()
        heal(tmp_path / name)
        hashes.append((before, embed_cache.open(tmp_path / name).content_hash()))
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[0][1]
