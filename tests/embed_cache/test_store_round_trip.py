from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_cases import COLUMNS, COUNTS, begin, finish, items, make, row_of

import embed_cache
from embed_cache import Column, Row, StoreError, Writer, make_plan, mapping

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "int16", "int64", "uint8", "uint32", "bool"])
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@st.composite
def stores(draw):
    """Columns, plan and rows of any small store."""
    columns = [
        Column(f"c{k}", draw(SHAPES), draw(DTYPES), ragged)
        for k, ragged in enumerate(draw(st.lists(st.booleans(), min_size=1, max_size=3)))
    ]
    ids = draw(st.lists(NAMES, min_size=1, max_size=10, unique=True))
    groups = [draw(st.sampled_from(["g", "hh", "ü"])) for _ in ids]
    rows = {}
    for name in ids:
        status = draw(st.sampled_from(["ok", "ok", "excluded", "failed"]))
        counts = {"n": draw(st.integers(-(1 << 63), (1 << 63) - 1))}
        if status != "ok":
            rows[name] = Row(status, draw(NAMES), draw(st.booleans()), draw(NAMES), counts=counts)
            continue
        values = {}
        for column in columns:
            shape = (draw(st.integers(0, 3)), *column.shape) if column.ragged else column.shape
            finite = {"allow_nan": False, "allow_infinity": False} if column.dtype.startswith("float") else None
            values[column.name] = draw(hnp.arrays(column.dtype, shape, elements=finite))
        rows[name] = Row("ok", fingerprint=draw(st.just("") | NAMES), values=values, counts=counts)
    return columns, make_plan(ids, groups, seed=draw(st.integers(0, 99)), part_rows=draw(st.integers(1, 5))), rows


@settings(max_examples=25, deadline=None)
@given(stores(), st.randoms(use_true_random=False))
def test_what_is_written_is_what_is_read_whatever_the_order_of_parts(case, random):
    columns, plan, rows = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        writer = Writer.create_or_resume(path, kind="any", identity={"a": [1, None]}, columns=columns, counts=["n"], plan=plan)
        parts = writer.pending()
        random.shuffle(parts)
        for part in parts:
            writer.commit(part, {name: rows[name] for name, _, _ in writer.rows_of(part)}, {})
        writer.seal({})
        store = embed_cache.open(path)
        assert embed_cache.verify(path).ok
        assert len(store) == len(rows)
        assert store.rows(plan.ids).tolist() == list(range(len(rows)))
        for group in set(plan.groups):
            assert plan.groups[store.group(group)] == (group,) * plan.groups.count(group)
        for number, line in enumerate(store.index.to_pylist()):
            row = rows[line["id"]]
            assert (line["id"], line["group"]) == (plan.ids[number], plan.groups[number])
            assert (line["status"], line["reason"], line["permanent"]) == (row.status, row.reason, row.permanent)
            assert (line["fingerprint"], line["n"], line["live"]) == (row.fingerprint, row.counts["n"], True)
            for column in columns:
                got = store.read_ragged(column.name, number) if column.ragged else store.read(column.name, np.array([number]))[0]
                expected = row.values[column.name] if row.status == "ok" else column.empty(0 if column.ragged else 1)
                np.testing.assert_array_equal(got, expected if row.status == "ok" or column.ragged else expected[0])
                assert got.dtype == np.dtype(column.dtype)


def test_full_pages_are_mapped_into_one_range_and_other_columns_are_loaded(store_path):
    store = make(store_path)
    for column in ("moments", "scale"):
        values = store.array(column)
        assert values.shape == (len(store), *store.columns[column].shape)
        assert values.flags.c_contiguous
        assert not values.flags.writeable
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(store_path) in line]
    assert len([line for line in mapped if "/moments/c." in line]) == -(-len(store) // 4)
    assert not [line for line in mapped if "/scale/" in line]
    addresses = sorted(int(line.split("-")[0], 16) for line in mapped)
    assert np.diff(addresses).tolist() == [4096] * (len(addresses) - 1)


def test_mapped_and_loaded_values_are_equal_also_across_segments_that_end_within_a_chunk(store_path, monkeypatch):
    from store_cases import heal

    make(store_path)
    heal(store_path)
    mapped = embed_cache.open(store_path).array("moments").copy()
    monkeypatch.setattr(mapping, "MAX_MAPPINGS", 0)
    np.testing.assert_array_equal(mapped, embed_cache.open(store_path).array("moments"))


def test_a_mapping_is_given_back_with_its_last_array(store_path):
    store = make(store_path)
    view = store.array("moments")[3:5]
    expected = view.copy()
    del store
    np.testing.assert_array_equal(view, expected)
    del view
    assert str(store_path) not in Path("/proc/self/maps").read_text()


def test_a_row_that_is_not_ok_reads_as_nan_and_owns_no_entries(store_path):
    store = make(store_path)
    status = np.array(store.index["status"])
    finite = np.isfinite(store.array("moments").astype(np.float32)).reshape(len(store), -1)
    assert (finite.all(1) == (status == "ok")).all()
    assert (finite.any(1) == (status == "ok")).all()
    for row in np.flatnonzero(status != "ok"):
        assert store.read_ragged("signal", int(row)).shape == (0, 2)


def test_reading_rows_equals_reading_all_and_choosing(store_path):
    store = make(store_path)
    rows = np.random.default_rng(0).permutation(len(store))[:9]
    np.testing.assert_array_equal(store.read("scale", rows), store.array("scale")[rows])
    np.testing.assert_array_equal(
        store.read("scale", store.group("study002")), store.array("scale")[store.rows(["clip006", "clip007", "clip008"])]
    )


@pytest.mark.parametrize("rows", [np.array([-1]), np.array([22]), np.array([0.5])])
def test_rows_that_do_not_exist_are_refused_not_wrapped(store_path, rows):
    with pytest.raises(StoreError, match="rows"):
        make(store_path).read("scale", rows)


def test_unknown_ids_groups_columns_and_the_wrong_reader_are_explained(store_path):
    store = make(store_path)
    for call, message in (
        (lambda: store.rows(["nobody"]), "no live row 'nobody'"),
        (lambda: store.group("nobody"), "no group 'nobody'"),
        (lambda: store.array("moment"), "no column 'moment'.*moments"),
        (lambda: store.array("signal"), "read_ragged"),
        (lambda: store.read_ragged("scale", 0), "array"),
        (lambda: store.read_ragged("signal", 99), "rows 0 to 21"),
    ):
        with pytest.raises(StoreError, match=message):
            call()


def test_provenance_does_not_change_the_content_hash_but_a_single_value_does(tmp_path):
    def job(path, provenance, salt=""):
        writer = begin(path)
        for part in reversed(writer.pending()):
            writer.commit(part, {n: row_of(n, salt if n == "clip004" else "") for n, _, _ in writer.rows_of(part)}, provenance)
        writer.seal(provenance)
        return embed_cache.open(path).content_hash()

    reference = make(tmp_path / "a").content_hash()
    assert job(tmp_path / "b", {"host": "other", "seconds": 9}) == reference
    assert job(tmp_path / "c", {}, salt="x") != reference


def test_info_counts_outcomes_of_half_done_and_finished_stores(store_path):
    writer = begin(store_path)
    part = writer.pending()[0]
    writer.commit(part, {n: row_of(n) for n, _, _ in writer.rows_of(part)}, {})
    half = embed_cache.info(store_path)
    assert (half["complete"], half["parts_done"], half["parts_planned"], half["rows"]) == (False, 1, 6, 4)
    finish(begin(store_path))
    done = embed_cache.info(store_path)
    assert (done["complete"], done["rows"], done["open_segment"]) == (True, 22, None)
    assert done["status"] == {"ok": 16, "excluded": 3, "failed": 3}
    assert done["reasons"] == {"excluded": {"still": 3}, "failed": {"timeout": 3}}
    assert done["segments"][0]["provenance"] == {"version": "1"}


def test_the_manifest_says_what_was_written(store_path):
    store = make(store_path)
    assert (store.manifest.kind, store.manifest.format_version) == ("echo", 1)
    assert tuple(store.columns.values()) == COLUMNS
    assert store.manifest.counts == COUNTS
    assert sorted(store.index["id"].to_pylist()) == items()[0]
