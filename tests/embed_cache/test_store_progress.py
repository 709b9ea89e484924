"""How far a store is: the same numbers as its index says, before and after it is complete."""

from __future__ import annotations

from collections import Counter

import pytest
from store_cases import begin, finish, heal, make, row_of

import embed_cache
from embed_cache import IncompleteStore, StoreError


def counts_of(path) -> tuple[dict, dict]:
    index = embed_cache.open(path).index
    live = index.filter(index["live"]).to_pydict()
    reasons: dict = {}
    for status, reason in zip(live["status"], live["reason"], strict=True):
        if status != "ok":
            reasons.setdefault(status, Counter())[reason] += 1
    return dict(Counter(live["status"])), {status: dict(found) for status, found in reasons.items()}


def test_every_part_counts_once_it_is_committed(store_path):
    writer = begin(store_path)
    done = 0
    for number, part in enumerate(writer.pending()):
        found = embed_cache.progress(store_path)
        assert (found.parts_done, found.rows_done, found.complete) == (number, done, False)
        assert (found.parts_planned, found.rows_planned, found.part_rows) == (6, 22, 4)
        done += len(writer.rows_of(part))
        writer.commit(part, {n: row_of(n) for n, _, compute in writer.rows_of(part) if compute}, {})
    before = embed_cache.progress(store_path)
    assert not before.complete
    writer.seal({})
    after = embed_cache.progress(store_path)
    assert after.complete
    assert (after.status, after.reasons) == (before.status, before.reasons) == counts_of(store_path)


def test_superseded_and_erased_rows_do_not_count(store_path):
    make(store_path)
    heal(store_path)
    assert (embed_cache.progress(store_path).status, embed_cache.progress(store_path).reasons) == counts_of(store_path)
    embed_cache.erase(store_path, ids=["clip006", "clip007", "clip008"], keyed_hash="ab" * 32)
    found = embed_cache.progress(store_path)
    assert (found.status, found.erasures) == (counts_of(store_path)[0], 1)
    assert found.num_bytes == sum(entry.size for entry in embed_cache.open(store_path).manifest.files.values())


def test_an_extension_that_is_begun_is_seen(store_path):
    make(store_path)
    ids, groups = ["clip003", "clip004", "clip005", "new1"], ["study001"] * 3 + ["study9"]
    writer = embed_cache.Writer.extend(
        store_path, identity=embed_cache.open(store_path).manifest.identity, ids=ids, groups=groups, recompute={"new1"}, seed=2
    )
    found = embed_cache.progress(store_path)
    assert not found.complete
    assert (found.rows_planned, found.rows_done) == (22 + 4, 22)
    finish(writer)
    assert embed_cache.progress(store_path).complete


def test_what_is_no_store_is_said(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        embed_cache.progress(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(StoreError, match="is not a store"):
        embed_cache.progress(tmp_path / "b")
    begin(tmp_path / "c")
    (tmp_path / "c/segments/00000/plan.json").unlink()
    with pytest.raises(IncompleteStore, match="nothing is planned"):
        embed_cache.progress(tmp_path / "c")
