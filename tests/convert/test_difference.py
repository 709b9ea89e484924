"""`difference` finds every planted difference, and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from vector_files import IDENTITY, extend_store, make_store

import embed_cache
from ecgecho import difference as differences
from ecgecho.difference import difference
from embed_cache import Row


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("plain") / "a.zarr")


def changed(item: str, **values):
    """A change of one row's values."""

    def change(name: str, row: Row) -> Row:
        if name != item:
            return row
        return Row(row.status, row.reason, fingerprint=row.fingerprint, values={**row.values, **values}, counts=row.counts)

    return change


def test_a_store_equals_itself_and_its_copy(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "b.zarr")
    assert difference(plain, plain).equal
    assert difference(plain, tmp_path / "b.zarr").equal


def test_equal_rows_in_other_places_are_equal(plain, tmp_path):
    for k, options in enumerate(({"part_rows": 7}, {"seed": 9}, {"seed": 11, "part_rows": 64})):
        found = difference(plain, make_store(tmp_path / f"{k}.zarr", **options))
        assert found.equal
        assert found.content_hash[0] != found.content_hash[1]


def test_superseded_rows_play_no_part(plain, tmp_path):
    grown = extend_store(make_store(tmp_path / "b.zarr"))
    found = difference(plain, grown)
    assert (found.rows, found.only_a.count, found.only_b.count) == ((40, 42), 0, 2)
    assert found.only_b.examples == ["clip 901", "clip 902"] or set(found.only_b.examples) == {"clip 901", "clip 902"}
    assert (found.index, found.columns, found.schema) == ({}, {}, {})
    back = difference(grown, plain)
    assert (back.only_a.count, back.only_b.count) == (2, 0)


@pytest.mark.parametrize("part_rows", [4, 7])
def test_a_changed_value_is_found_with_its_distance(part_rows, plain, tmp_path):
    store = embed_cache.open(plain)
    old = store.read("moments", store.rows(["clip 004"]))[0]
    new = old.copy()
    new[0, 0] = old[0, 0] + np.float16(0.5)
    found = difference(plain, make_store(tmp_path / "b.zarr", part_rows=part_rows, change=changed("clip 004", moments=new)))
    column = found.columns.pop("moments")
    assert (column.rows.count, column.rows.examples, column.max_abs_row) == (1, ["clip 004"], "clip 004")
    p, q = old.astype(np.float64).ravel(), new.astype(np.float64).ravel()
    assert column.max_abs == np.abs(p - q).max()
    assert column.max_cosine_distance == pytest.approx(1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    assert (found.columns, found.index, found.equal) == ({}, {}, True) or not found.columns


def test_ragged_values_and_lengths_are_compared(plain, tmp_path):
    item = "clip 002"
    found = difference(plain, make_store(tmp_path / "b.zarr", change=changed(item, signal=np.ones((9, 2), np.int16))))
    assert (found.columns["signal"].rows.count, found.columns["signal"].other_length) == (1, 1)
    found = difference(plain, make_store(tmp_path / "c.zarr", change=changed(item, signal=np.full((2, 2), 500, np.int16))))
    assert found.columns["signal"].max_abs > 400
    assert set(found.columns) == {"signal"}


def test_other_outcomes_and_sources_are_counted(plain, tmp_path):
    def change(item: str, row: Row) -> Row:
        if item == "clip 000":
            return Row("failed", "timeout")
        if item == "clip 001":
            return Row("ok", row.reason, fingerprint="other", values=row.values, counts={"num_frames": 77})
        return row

    found = difference(plain, make_store(tmp_path / "b.zarr", change=change))
    assert {name: some.count for name, some in found.index.items()} == {
        "status": 1, "reason": 1, "fingerprint": 2, "num_frames": 2,
    }  # fmt: skip
    assert found.index["status"].examples == ["clip 000"]
    assert not found.columns
    assert not found.equal


def test_rows_of_one_store_alone_are_named(plain, tmp_path):
    found = difference(plain, make_store(tmp_path / "b.zarr", skip={"clip 000", "clip 001"}))
    assert (found.only_a.count, sorted(found.only_a.examples), found.only_b.count) == (2, ["clip 000", "clip 001"], 0)


def test_identity_is_compared_field_by_field(plain, tmp_path):
    other = make_store(tmp_path / "b.zarr", identity={**IDENTITY, "teacher": {"name": "other", "licence": "x"}, "more": 1})
    assert difference(plain, other).schema == {
        "identity.teacher.name": ("hash", "other"),
        "identity.teacher.licence": ("not to be passed on", "x"),
        "identity.more": (None, 1),
    }


def test_files_with_equal_checksums_are_not_read(plain, tmp_path, monkeypatch):
    store = embed_cache.open(plain)
    other = make_store(tmp_path / "b.zarr", change=changed("clip 004", scale=np.zeros(3, np.float32)))
    read = []
    part = differences.PartReader._part

    def noted(self, column, number, place):
        read.append((column.name, place))
        return part(self, column, number, place)

    monkeypatch.setattr(differences.PartReader, "_part", noted)
    assert difference(plain, other).columns["scale"].rows.count == 1
    row = int(store.rows(["clip 004"])[0])
    assert set(read) == {("scale", row // 4)}


def test_damage_is_told_as_damage(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "b.zarr")
    other = make_store(tmp_path / "c.zarr", part_rows=7)
    chunk = sorted((tmp_path / "b.zarr").rglob("moments/c.*"))[2]
    data = bytearray(chunk.read_bytes())
    data[0] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(embed_cache.DamagedStore, match="moments"):
        difference(tmp_path / "b.zarr", other)
