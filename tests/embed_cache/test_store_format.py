"""FORMAT.md is enough: a reader written from it with zarr alone sees the same store."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_cases import heal, make

import embed_cache
from embed_cache import layout

FORMAT = Path(embed_cache.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")


@pytest.fixture
def healed(store_path):
    make(store_path)
    heal(store_path)
    return store_path


def text(array):
    return [bytes(line).rstrip(b"\0").decode() for line in array[:]]


def head_of(path):
    """Section 6."""
    data = (path / "head.json").read_bytes()
    assert data.startswith(b'{"sha256":"')
    assert hashlib.sha256(data[:11] + b"0" * 64 + data[75:]).hexdigest().encode() == data[11:75]
    return json.loads(data)


def test_a_reader_with_zarr_alone_sees_every_row_of_every_column(healed):
    store = embed_cache.open(healed)
    index = store.index.to_pylist()
    offset = 0
    newest = {}
    for number, segment in enumerate(head_of(healed)["segments"]):
        group = zarr.open_group(str(healed), mode="r")[f"segments/{number:05d}"]
        ids, groups = text(group["index/id"]), text(group["index/group"])
        assert len(ids) == segment["num_rows"]
        for column in store.manifest.columns:
            for row in range(len(ids)):
                if column.ragged:
                    start = group[f"index/ragged_start/{column.name}"][:][row]
                    count = group[f"index/ragged_count/{column.name}"][:][row]
                    part = group[f"columns/{column.name}/p{row // segment['part_rows']:05d}"]
                    np.testing.assert_array_equal(part[start : start + count], store.read_ragged(column.name, offset + row))
            if not column.ragged:
                values = group[f"columns/{column.name}"]
                assert values.shape == (len(ids), *column.shape)
                np.testing.assert_array_equal(values[:], store.array(column.name)[offset : offset + len(ids)])
        for row, line in enumerate(index[offset : offset + len(ids)]):
            assert (line["id"], line["group"], line["row"]) == (ids[row], groups[row], offset + row)
            assert line["status"] == ("ok", "excluded", "failed", "erased")[group["index/status"][row]]
            assert (line["reason"], line["fingerprint"]) == (
                text(group["index/reason"])[row],
                text(group["index/fingerprint"])[row],
            )
            assert line["permanent"] == bool(group["index/permanent"][row])
            assert line["num_frames"] == group["index/counts/num_frames"][row]
            newest[groups[row]] = number
        offset += len(ids)
    assert [line["live"] for line in index] == [newest[line["group"]] == line["segment"] for line in index]


def test_every_file_is_listed_with_its_bytes(healed):
    listed = head_of(healed)["files"]
    assert [path for path, _, _ in listed] == sorted(path for path, _, _ in listed)
    found = {path.relative_to(healed).as_posix(): path.read_bytes() for path in healed.rglob("*") if path.is_file()}
    del found["head.json"]
    assert {path: (size, digest) for path, size, digest in listed} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in found.items()
    }


def test_the_content_hash_follows_from_the_arrays_as_section_9_says(healed):
    head = head_of(healed)
    segments = []
    for number in range(len(head["segments"])):
        root = healed / f"segments/{number:05d}"
        arrays = []
        for meta in root.rglob("zarr.json"):
            described = json.loads(meta.read_bytes())
            if described["node_type"] == "array":
                chunks = sorted(meta.parent.glob("c.*"), key=lambda path: int(path.name.split(".")[1]))
                digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in chunks]
                arrays.append([meta.parent.relative_to(root).as_posix(), described["shape"], described["data_type"], digests])
        segments.append(sorted(arrays))
    body = {name: head[name] for name in ("kind", "identity", "columns", "counts")} | {"segments": segments}
    expected = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert embed_cache.open(healed).content_hash() == expected


def test_the_code_in_the_specification_runs(healed, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", FORMAT, flags=re.DOTALL)
    healed.rename(tmp_path / "store.zarr")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    assert len(scope["ids"]) == 9
    assert scope["entries"].shape[1:] == (2,)


def test_the_specification_names_every_dtype_status_and_index_array(healed):
    for word in (
        *layout.DTYPES,
        *layout.STATUS,
        *(name.split("/")[0] for name in layout.SegmentShape(0, 1, 1, (), ()).index_arrays()),
    ):
        assert word in FORMAT
    assert f"version {layout.FORMAT_VERSION}" in FORMAT.splitlines()[0]


def test_a_chunk_that_is_lost_reads_as_nan_through_zarr_and_is_refused_by_us(healed):
    (healed / "segments/00000/columns/scale/c.1.0").unlink()
    values = zarr.open_array(str(healed / "segments/00000/columns/scale"), mode="r")[:]
    assert np.isnan(values[4:8]).all()
    with pytest.raises(embed_cache.DamagedStore, match="c.1.0"):
        embed_cache.open(healed)


def test_padding_behind_the_last_row_is_the_fill_value(healed):
    raw = np.frombuffer((healed / "segments/00000/columns/scale/c.5.0").read_bytes(), dtype="<f4").reshape(4, 3)
    assert np.isnan(raw[2:]).all()
    assert np.isfinite(raw[:2]).any()


def test_erased_rows_of_another_program_are_neither_found_nor_live(store_path):
    """Section 8, done by hand: reading must know it from the first version on."""
    store = make(store_path)
    rows = store.group("study002")
    shape = store.manifest.segments[0]
    changed = {}

    def edit(name, row_bytes, value):
        path = store_path / name
        data = bytearray(path.read_bytes())
        for row in range(rows.start, rows.stop):
            data[row * row_bytes : (row + 1) * row_bytes] = value
        path.write_bytes(data)
        changed[name] = bytes(data)

    for name in ("id", "group", "reason", "fingerprint"):
        width = store.manifest.files[shape.index_chunk(name)].size // shape.num_rows
        edit(shape.index_chunk(name), width, bytes(width))
    edit(shape.index_chunk("status"), 1, b"\3")
    for name in ("ragged_start/signal", "ragged_count/signal"):
        edit(shape.index_chunk(name), 8, bytes(8))
    record = embed_cache.manifest.seal_json(
        {"format_version": 1, "rows": [*range(rows.start, rows.stop)], "keyed_hash": "0", "provenance": {}}
    )
    (store_path / "erasures").mkdir()
    (store_path / "erasures/00000.json").write_bytes(record)
    changed["erasures/00000.json"] = record
    head = head_of(store_path)
    del head["sha256"]
    kept = [entry for entry in head["files"] if entry[0] not in changed]
    head["files"] = sorted(kept + [[name, len(data), hashlib.sha256(data).hexdigest()] for name, data in changed.items()])
    head["erasures"] = ["erasures/00000.json"]
    (store_path / "head.json").write_bytes(embed_cache.manifest.seal_json(head))

    store = embed_cache.open(store_path)
    assert embed_cache.verify(store_path).ok
    lines = store.index.to_pylist()[rows]
    assert [(line["id"], line["group"], line["status"], line["live"]) for line in lines] == [("", "", "erased", False)] * 3
    assert len(store.read_ragged("signal", rows.start)) == 0
    for call in (lambda: store.rows(["clip006"]), lambda: store.group("study002"), lambda: store.group("")):
        with pytest.raises(embed_cache.StoreError):
            call()
    assert embed_cache.info(store_path)["rows"] == 19
