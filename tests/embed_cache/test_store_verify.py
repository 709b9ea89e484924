"""Verification finds any damaged byte, says which rows it concerns, and reads nothing wrong into a healthy store."""

from __future__ import annotations

import shutil

import pytest
from store_cases import heal, items, make

import embed_cache
from embed_cache import DamagedStore, make_plan


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    path = tmp_path_factory.mktemp("healthy") / "store"
    make(path)
    heal(path)
    return path


@pytest.fixture
def store(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "store")


@pytest.fixture(scope="module")
def healthy_small(tmp_path_factory):
    """Two segments of two parts and one: every kind of file there is."""
    path = tmp_path_factory.mktemp("healthy") / "small"
    make(path, plan=make_plan(*items(7), seed=7, part_rows=4))
    heal(path)
    return path


@pytest.fixture
def small(healthy_small, tmp_path):
    return shutil.copytree(healthy_small, tmp_path / "small")


def every_file(store):
    return sorted(path for path in store.rglob("*") if path.is_file())


def test_a_healthy_store_is_ok_and_every_file_was_read(store):
    report = embed_cache.verify(store)
    assert report.ok
    assert report.num_files == len(every_file(store))


def test_one_flipped_bit_in_any_file_is_found_and_named(small):
    for place, path in enumerate(every_file(small)):
        data = path.read_bytes()
        for position in {len(data) - 1, (place * 7919) % len(data)}:
            wrong = bytearray(data)
            wrong[position] ^= 1 << (place % 8)
            path.write_bytes(wrong)
            report = embed_cache.verify(small)
            assert not report.ok
            assert [damage.path for damage in report.damages] == [path.relative_to(small).as_posix()]
        path.write_bytes(data)


@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "swapped"])
def test_any_file_truncated_longer_missing_or_swapped_is_found_and_a_changed_size_already_on_opening(small, damage):
    files = [path for path in every_file(small) if path.name != "head.json"]
    for path, other in zip(files, files[1:] + files[:1], strict=True):
        data, others = path.read_bytes(), other.read_bytes()
        if data == others:
            continue
        if damage == "missing":
            path.unlink()
        elif damage == "swapped":
            path.write_bytes(others)
            other.write_bytes(data)
        else:
            path.write_bytes(data[:-1] if damage == "truncated" else data + b"\0")
        assert path.relative_to(small).as_posix() in {found.path for found in embed_cache.verify(small).damages}
        if damage != "swapped" or len(data) != len(others):
            with pytest.raises(DamagedStore):
                embed_cache.open(small)
        path.write_bytes(data)
        other.write_bytes(others)
    assert embed_cache.verify(small).ok


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("segments/00000/columns/moments/c.2.0.0", slice(8, 12)),
        ("segments/00000/columns/moments/c.5.0.0", slice(20, 22)),
        ("segments/00000/columns/signal/p00001/c.0.0", slice(4, 8)),
        ("segments/00000/columns/signal/p00001/zarr.json", slice(4, 8)),
        ("segments/00001/log/p00001.json", slice(26, 30)),
        ("segments/00001/index/status/c.0", slice(22, 31)),
        ("segments/00000/plan.json", None),
        ("zarr.json", None),
    ],
)
def test_the_rows_that_a_damage_concerns_are_named(store, name, rows):
    ids = embed_cache.open(store).index["id"].to_pylist()
    flip(store / name)
    (damage,) = embed_cache.verify(store).damages
    assert damage.rows == rows
    if rows is not None and "/index/" not in name:
        assert list(damage.ids) == ids[rows]


def test_a_damaged_index_is_refused_when_it_is_used(store):
    flip(store / "segments/00000/index/fingerprint/c.0.0")
    with pytest.raises(DamagedStore, match="index/fingerprint"):
        _ = embed_cache.open(store).index


def test_files_the_head_does_not_list_are_reported_without_being_damage(store):
    (store / "segments/00000/columns/moments/c.6.0.0").write_bytes(b"x")
    (store / "notes.txt").write_text("mine")
    report = embed_cache.verify(store)
    assert report.unlisted == ("notes.txt", "segments/00000/columns/moments/c.6.0.0")
    assert report.damages == ()
    assert not report.ok


def test_a_sample_reads_the_index_and_that_many_parts_and_another_seed_other_ones(store):
    whole = embed_cache.verify(store)
    none, one = (embed_cache.verify(store, sample_parts=k) for k in (0, 1))
    assert none.num_files < one.num_files < whole.num_files
    everything = embed_cache.verify(store, sample_parts=99)
    assert everything.num_files == whole.num_files
    flip(store / "segments/00000/columns/moments/c.2.0.0")
    found = [not embed_cache.verify(store, sample_parts=4, seed=seed).ok for seed in range(12)]
    assert any(found)
    assert not all(found)
    assert not embed_cache.verify(store, sample_parts=9).ok
