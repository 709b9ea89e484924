"""A reader written from FORMAT.md alone, with zarr, json and hashlib, sees what EmbeddingStore sees."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_cases import IDENTITY, begin, finish, heal, items, make, row_of

import embed_cache
from embed_cache import Writer

STATUS = ("ok", "excluded", "failed", "erased")
FILL = {"f": np.nan, "b": False, "u": 0}


class Reader:
    """FORMAT.md, section by section; nothing of embed_cache is used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 11: head.json and plan.json are no Zarr nodes
            self.group = zarr.open_group(str(root), mode="r")
        assert self.group.attrs["embed_cache"]["format_version"] == 1  # 2
        self.head = self.unsealed("head.json")
        assert (self.head["format"], self.head["format_version"]) == ("embed_cache", 1)  # 5
        self.check_files()
        self.rows: list[dict] = []
        for number, segment in enumerate(self.head["segments"]):
            self.read_segment(number, segment)
        self.mark_live()

    def unsealed(self, name: str) -> dict:
        """6."""
        data = (self.root / name).read_bytes()
        assert data.startswith(b'{"sha256":"')
        data.decode("ascii")
        body = json.loads(data)
        assert hashlib.sha256(data[:11] + b"0" * 64 + data[75:]).hexdigest() == body["sha256"]
        return body

    def check_files(self) -> None:
        """2, 5, 6: every listed file with its bytes, no other file, and no open erasure (8)."""
        listed = {name: (size, digest) for name, size, digest in self.head["files"]}
        there = set()
        for folder, folders, names in os.walk(self.root):
            assert not any(Path(folder, name).is_symlink() for name in folders + names)
            there |= {Path(folder, name).relative_to(self.root).as_posix() for name in names}
        unfinished = f"segments/{len(self.head['segments']):05d}/"
        there = {name for name in there if not name.startswith(unfinished) and not name.endswith(".tmp")}
        records = {name for name in there if name.startswith("erasures/")}
        assert records == {*self.head["erasures"]}, "an erasure is open"
        assert there == {*listed, "head.json"}
        for name, (size, digest) in listed.items():
            data = (self.root / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest), name

    def read_segment(self, number: int, segment: dict) -> None:
        """3, 4."""
        group = self.group[f"segments/{number:05d}"]
        arrays = {name: self.lines(group[f"index/{name}"]) for name in ("id", "group", "reason", "fingerprint")}
        arrays |= {name: group[f"index/{name}"][:].tolist() for name in ("source", "status", "permanent")}
        counts = {name: group[f"index/counts/{name}"][:].tolist() for name in self.head["counts"]}
        fixed = {c["name"]: group[f"columns/{c['name']}"][:] for c in self.head["columns"] if not c["ragged"]}
        ragged = [c["name"] for c in self.head["columns"] if c["ragged"]]
        starts = {name: group[f"index/ragged_start/{name}"][:].tolist() for name in ragged}
        lengths = {name: group[f"index/ragged_count/{name}"][:].tolist() for name in ragged}
        parts = -(-segment["num_rows"] // segment["part_rows"])
        entries = {name: [group[f"columns/{name}/p{part:05d}"][:] for part in range(parts)] for name in ragged}
        for row in range(segment["num_rows"]):
            part = row // segment["part_rows"]
            line = {name: values[row] for name, values in arrays.items()}
            line |= {"segment": number, "part": part, "counts": {name: values[row] for name, values in counts.items()}}
            line["values"] = {name: values[row] for name, values in fixed.items()}
            for name in ragged:
                line["values"][name] = entries[name][part][starts[name][row] :][: lengths[name][row]]
            self.rows.append(line)
        self.check_records(number, segment)

    def check_records(self, number: int, segment: dict) -> None:
        """5: the plan and the commit records say the same as the arrays."""
        plan = self.unsealed(f"segments/{number:05d}/plan.json")
        for name in ("kind", "identity", "columns", "counts"):
            assert plan[name] == self.head[name]
        assert [plan[name] for name in ("segment", "num_rows", "part_rows", "seed")] == [
            number,
            *(segment[name] for name in ("num_rows", "part_rows", "seed")),
        ]
        mine = [line for line in self.rows if line["segment"] == number]
        for part in range(-(-segment["num_rows"] // segment["part_rows"])):
            record = self.unsealed(f"segments/{number:05d}/log/p{part:05d}.json")
            assert (record["plan"], record["part"], record["format_version"]) == (plan["sha256"], part, 1)
            assert record["writer"].isdigit()
            lines = [line for line in mine if line["part"] == part]
            for name in ("id", "group", "source", "status", "permanent", "reason", "fingerprint"):
                assert record[name] == [line[name] for line in lines]
            for name in self.head["counts"]:
                assert record["counts"][name] == [line["counts"][name] for line in lines]
            listed = {name: [name, size, digest] for name, size, digest in self.head["files"]}
            assert record["files"]
            assert all(listed[entry[0]] == entry for entry in record["files"])

    @staticmethod
    def lines(array) -> list[str]:
        return [bytes(line).rstrip(b"\0").decode() for line in array[:]]

    def mark_live(self) -> None:
        """7, 8: a group is read from the newest segment that has it; erased rows belong to none."""
        newest = {line["group"]: line["segment"] for line in self.rows if line["group"]}
        for line in self.rows:
            line["live"] = line["status"] != 3 and newest.get(line["group"]) == line["segment"]

    def content_hash(self) -> str:
        """9, from head.json and the metadata of the arrays."""
        listed = {name: digest for name, _, digest in self.head["files"]}
        segments = []
        for number in range(len(self.head["segments"])):
            prefix = f"segments/{number:05d}/"
            arrays = []
            for name in listed:
                if not name.startswith(prefix) or not name.endswith("/zarr.json"):
                    continue
                meta = json.loads((self.root / name).read_bytes())
                if meta["node_type"] == "array":
                    folder = name.removesuffix("/zarr.json")
                    chunks = [other for other in listed if other.startswith(f"{folder}/c.")]
                    chunks.sort(key=lambda chunk: int(chunk.rpartition("/c.")[2].split(".")[0]))
                    arrays.append([folder[len(prefix) :], meta["shape"], meta["data_type"], [listed[c] for c in chunks]])
            segments.append(sorted(arrays))
        body = {name: self.head[name] for name in ("kind", "identity", "columns", "counts")} | {"segments": segments}
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def erased(self) -> dict[str, list[int]]:
        """8: keyed hash -> global rows."""
        records = [self.unsealed(name) for name in self.head["erasures"]]
        assert all({"rows", "keyed_hash", "segments", "provenance", "format_version"} <= record.keys() for record in records)
        return {record["keyed_hash"]: record["rows"] for record in records}


def healed(path: Path) -> None:
    make(path)
    heal(path)


def erased_after_healing(path: Path) -> None:
    healed(path)
    embed_cache.erase(path, ids=["clip006", "clip007", "clip008"], keyed_hash="a")
    embed_cache.erase(path, ids=["clip000", "clip001", "clip002"], keyed_hash="b")


def healed_after_erasing(path: Path) -> None:
    make(path)
    embed_cache.erase(path, ids=["clip003", "clip004", "clip005"], keyed_hash="a")
    heal(path)


def erased_before_the_first_seal(path: Path) -> None:
    writer = begin(path)
    for part in writer.pending()[:4]:
        writer.commit(part, {name: row_of(name) for name, _, compute in writer.rows_of(part) if compute}, {})
    embed_cache.erase(path, ids=["clip006", "clip007", "clip008"], keyed_hash="a")
    finish(Writer.resume(path, identity=IDENTITY))


def with_a_segment_begun(path: Path) -> None:
    healed(path)
    ids, groups = (names[3:6] for names in items())
    writer = Writer.extend(path, identity=IDENTITY, ids=ids, groups=groups, recompute={ids[0]}, part_rows=2, seed=3)
    writer.commit(0, {name: row_of(name) for name, _, compute in writer.rows_of(0) if compute}, {})
    (path / "segments/00002/columns/scale/c.1.0.17.tmp").write_bytes(b"torn")


@pytest.mark.parametrize(
    "make_it", [healed, erased_after_healing, healed_after_erasing, erased_before_the_first_seal, with_a_segment_begun]
)
def test_a_reader_made_from_the_specification_sees_the_same_store(store_path, make_it):
    make_it(store_path)
    reader, store = Reader(store_path), embed_cache.open(store_path)
    index = store.index.to_pylist()
    assert len(reader.rows) == len(index)
    assert any(not line["live"] for line in reader.rows)
    for number, (mine, theirs) in enumerate(zip(reader.rows, index, strict=True)):
        for name in ("id", "group", "reason", "fingerprint", "segment", "part", "live"):
            assert mine[name] == theirs[name], (number, name)
        assert (STATUS[mine["status"]], bool(mine["permanent"])) == (theirs["status"], theirs["permanent"])
        assert mine["counts"] == {name: theirs[name] for name in store.manifest.counts}
        for name, column in store.columns.items():
            value = store.read_ragged(name, number) if column.ragged else store.read(name, np.array([number]))[0]
            np.testing.assert_array_equal(mine["values"][name], value)
            assert mine["values"][name].dtype == value.dtype
            if mine["status"] and not column.ragged:  # 3: a row that is not ok holds the fill value
                assert np.isnan(mine["values"][name]).all()
        if mine["source"] >= 0 and mine["status"] != 3:  # 7: copied byte for byte
            origin = reader.rows[mine["source"]]
            for name in ("status", "reason", "permanent", "fingerprint", "counts"):
                assert mine[name] == origin[name]
            assert all(mine["values"][name].tobytes() == origin["values"][name].tobytes() for name in store.columns)
    assert reader.content_hash() == store.content_hash()
    assert reader.erased() == {found.keyed_hash: [*found.rows] for found in embed_cache.erasures(store_path)}
    gone = {row for rows in reader.erased().values() for row in rows}
    assert gone == {number for number, line in enumerate(reader.rows) if line["status"] == 3}


def test_every_array_opens_by_zarr_alone_and_has_its_metadata_filled(store_path):
    healed(store_path)
    opened = 0
    for meta in store_path.rglob("zarr.json"):
        described = json.loads(meta.read_bytes())
        if described["node_type"] != "array":
            continue
        array = zarr.open_array(str(meta.parent), mode="r")
        values = array[:]
        assert list(values.shape) == described["shape"]
        assert str(values.dtype) == described["data_type"]
        if "columns" in meta.parts:
            fill = FILL.get(values.dtype.kind, np.iinfo(values.dtype).min if values.dtype.kind == "i" else None)
            np.testing.assert_array_equal(array.fill_value, fill)
        opened += 1
    assert opened > 30


def test_an_erasure_that_is_open_is_seen_by_the_reader(store_path):
    healed(store_path)
    aside = shutil.copytree(store_path, store_path.with_name("aside"))
    embed_cache.erase(aside, ids=["clip006", "clip007", "clip008"], keyed_hash="a")
    shutil.copytree(aside / "erasures", store_path / "erasures")
    with pytest.raises(AssertionError, match="an erasure is open"):
        Reader(store_path)
    embed_cache.finish_erasures(store_path)
    assert Reader(store_path).content_hash() == Reader(aside).content_hash()
