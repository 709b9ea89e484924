"""Nothing can change under a store unseen: every file, damaged in every way, is named by verify, with the rows it concerns."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_cases import IDENTITY, Row, items, row_of
from store_jobs import folder_in_memory

import embed_cache
from embed_cache import Column, StoreError, Writer, make_plan

COLUMNS = (Column("scale", (3,), "float32"), Column("signal", (2,), "int16", ragged=True))


def small(row: Row) -> Row:
    values = {name: value for name, value in row.values.items() if name != "moments"}
    return Row(row.status, row.reason, row.permanent, row.fingerprint, values)


def complete(writer: Writer, healed: bool = False) -> None:
    for part in writer.pending():
        rows = {name: row_of(name, healed=healed) for name, _, compute in writer.rows_of(part) if compute}
        writer.commit(part, {name: small(row) for name, row in rows.items()}, {})
    writer.seal({})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two segments, of two parts and of one, and an erasure."""
    with folder_in_memory(tmp_path_factory.mktemp("every_byte")) as folder:
        path = folder / "store"
        ids, groups = items(8)
        plan = make_plan(ids, groups, seed=7, part_rows=4)
        complete(Writer.create_or_resume(path, kind="echo", identity=IDENTITY, columns=COLUMNS, plan=plan))
        again = {"ids": ids[3:6], "groups": groups[3:6], "recompute": {ids[5]}}
        complete(Writer.extend(path, identity=IDENTITY, **again, part_rows=4, seed=8), healed=True)
        embed_cache.erase(path, ids=ids[6:8], keyed_hash="ef")
        assert embed_cache.verify(path).ok
        yield path


@pytest.fixture
def store(whole, tmp_path):
    with folder_in_memory(tmp_path) as folder:
        path = shutil.copytree(whole, folder / "store")
        yield path
        assert embed_cache.verify(path).ok, "the test did not put back what it damaged"


def files_of(store: Path) -> list[str]:
    return sorted(found.relative_to(store).as_posix() for found in store.rglob("*") if found.is_file())


def rows_of_file(name: str) -> slice | None:
    """By FORMAT.md, 2: segment 0 has rows 0 to 7 in parts of 4, segment 1 rows 8 to 10 in one."""
    segment = re.match(r"segments/(\d+)/", name)
    if segment is None:
        return None
    first, last = ((0, 8), (8, 11))[int(segment[1])]
    if re.search(r"/index/.*/c\.", name):
        return slice(first, last)
    part = re.search(r"/p(\d{5})[./]", name) or re.search(r"/columns/scale/c\.(\d+)\.", name)
    return slice(first + 4 * int(part[1]), min(first + 4 * int(part[1]) + 4, last)) if part else None


def found(store: Path) -> dict[str, slice | None]:
    """What verify names; nothing that looks at the store raises anything but StoreError."""
    for look in (embed_cache.open, lambda path: embed_cache.open(path).index, embed_cache.info):
        with contextlib.suppress(StoreError):
            look(store)
    return verified(store)


def verified(store: Path) -> dict[str, slice | None]:
    head = store / "head.json"
    if not os.path.lexists(head) or head.is_dir() or head.is_symlink():  # nothing says what should be there
        with pytest.raises(StoreError, match=r"head\.json"):
            embed_cache.verify(store)
        return {"head.json": None}
    report = embed_cache.verify(store)
    assert not report.ok
    return {damage.path: damage.rows for damage in report.damages} | dict.fromkeys(report.unlisted)


ROUNDS = 240
"""Every byte of a file of at most so many, all arrays among them; of a longer one so many, at even distances."""


def places(size: int) -> list[int]:
    """Which bytes are flipped: all where they are few, else evenly, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, size - 1, min(size, ROUNDS))})


@pytest.mark.parametrize("shard", range(2))
def test_every_flipped_byte_of_every_file_is_named(store, shard):
    """One byte in each file at once: the checksum of a file does not see the others."""
    files = {name: (store / name).read_bytes() for name in files_of(store) if name != "head.json"}
    assert all(len(data) <= ROUNDS for name, data in files.items() if not name.endswith(".json"))
    chosen = {name: places(len(data)) for name, data in files.items()}
    for number in range(shard, ROUNDS, 2):
        flipped = {name: files[name] for name, positions in chosen.items() if number < len(positions)}
        for name, data in flipped.items():
            position = chosen[name][number]
            wrong = bytearray(data)
            wrong[position] ^= 1 << (position % 8)
            (store / name).write_bytes(wrong)
        assert verified(store) == {name: rows_of_file(name) for name in flipped}, number
        for name, data in flipped.items():
            (store / name).write_bytes(data)
    head = store / "head.json"
    data = head.read_bytes()
    for position in range(shard, len(data), 2):
        wrong = bytearray(data)
        wrong[position] ^= 1 << (position % 8)
        head.write_bytes(wrong)
        assert verified(store) == {"head.json": None}, position
    head.write_bytes(data)


def test_one_flipped_bit_of_a_column_is_named_alone_and_so_are_the_items_of_its_rows(store):
    ids = embed_cache.open(store).index["id"].to_pylist()
    rng = np.random.default_rng(3)
    columns = [name for name in files_of(store) if "/columns/" in name and rows_of_file(name) is not None]
    assert len(columns) >= 6
    for name in columns:
        path, data = store / name, (store / name).read_bytes()
        wrong = bytearray(data)
        wrong[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(wrong)
        assert found(store) == {name: rows_of_file(name)}
        (damage,) = embed_cache.verify(store).damages
        assert list(damage.ids) == [name for name in ids[damage.rows] if name]  # erased rows have no id
        path.write_bytes(data)


def folder_instead(path: Path, data: bytes) -> None:
    path.unlink()
    path.mkdir()


def link_instead(path: Path, data: bytes) -> None:
    """To a file with the very bytes: nothing outside a store may be part of it."""
    outside = next(parent for parent in path.parents if parent.name == "store").with_name("outside")
    outside.write_bytes(data)
    path.unlink()
    path.symlink_to(outside)


DAMAGES = {
    "missing": lambda path, data: path.unlink(),
    "one byte less": lambda path, data: path.write_bytes(data[:-1]),
    "first byte lost": lambda path, data: path.write_bytes(data[1:]),
    "one byte more": lambda path, data: path.write_bytes(data + b"\0"),
    "emptied": lambda path, data: path.write_bytes(b""),
    "zeros": lambda path, data: path.write_bytes(bytes(len(data))),
    "a folder": folder_instead,
    "a link": link_instead,
    "a pipe": lambda path, data: (path.unlink(), os.mkfifo(path)),
}


ALONE = ("zeros", "a link")
"""What leaves a file its size: opening the store does not see it, so each file is read with that damage and no other."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_that_is_not_the_file_that_was_written_is_named(store, damage):
    names = [name for name in files_of(store) if name != "head.json"]
    rounds = [[name] for name in names] if damage in ALONE else [names[k::4] for k in range(4)]
    for damaged in (["head.json"], *rounds):
        files = {name: (store / name).read_bytes() for name in damaged}
        files = {name: data for name, data in files.items() if damage != "zeros" or any(data)}
        if not files:
            continue
        for name, data in files.items():
            DAMAGES[damage](store / name, data)
        assert found(store) == {name: rows_of_file(name) for name in files}
        for name, data in files.items():
            path = store / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            path.write_bytes(data)


@pytest.mark.parametrize("by", [1, 2, 5])
def test_files_of_one_size_that_changed_places_are_named(store, by):
    files = {name: (store / name).read_bytes() for name in files_of(store)}
    alike: dict[int, list[str]] = {}
    for name, data in files.items():
        alike.setdefault(len(data), []).append(name)
    given = {name: files[names[(k + by) % len(names)]] for names in alike.values() for k, name in enumerate(names)}
    wrong = {name: data for name, data in given.items() if data != files[name]}
    assert len(wrong) > 20
    for name, data in wrong.items():
        (store / name).write_bytes(data)
    assert verified(store) == {name: rows_of_file(name) for name in wrong}
    for name in wrong:
        (store / name).write_bytes(files[name])


def test_a_folder_that_is_missing_is_named_by_all_its_files(store):
    aside = store.with_name("aside")
    for folder in ("segments", "segments/00000", "segments/00001/columns", "segments/00000/index/id", "erasures"):
        lost = [name for name in files_of(store) if name.startswith(f"{folder}/")]
        shutil.move(store / folder, aside)
        named = found(store)
        assert named == {name: rows_of_file(name) for name in lost}
        (store / folder).symlink_to(aside)
        assert {*lost} <= {*found(store)}, "a folder behind a link is no part of a store"
        (store / folder).unlink()
        shutil.move(aside, store / folder)


@pytest.mark.parametrize("name", ["c.9", "zarr.json.1.tmp", ".hidden", "c.7.0"])
def test_a_file_too_many_is_named_wherever_it_lies(store, name):
    folders = [store, *sorted(found for found in store.rglob("*") if found.is_dir())]
    for folder in folders:
        (folder / name).write_bytes(b"x")
    assert found(store) == {(folder / name).relative_to(store).as_posix(): None for folder in folders}
    for folder in folders:
        (folder / name).unlink()
