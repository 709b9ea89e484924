"""Exports hold every live row, appear whole or not at all, and come back as an equal store."""

import errno
import json
import os
import subprocess
import tracemalloc
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from command_line import must
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from vector_files import IDENTITY, STUDIES, extend_store, live_rows, make_store

import embed_cache
from ecgecho import convert, exchange, export
from ecgecho.difference import difference
from ecgecho.types import UsageError, UserError

PLACES = {"hdf5": "out.h5", "safetensors": "out.safetensors", "studies": "out"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    return extend_store(make_store(tmp_path_factory.mktemp("grown") / "store.zarr"))


@pytest.mark.parametrize("to", PLACES)
def test_an_export_comes_back_as_an_equal_store(to, grown, tmp_path):
    report = export.export(grown, tmp_path / PLACES[to], to)
    convert.import_embeddings(tmp_path / PLACES[to], tmp_path / "back.zarr")
    assert live_rows(tmp_path / "back.zarr") == live_rows(grown)
    found = difference(grown, tmp_path / "back.zarr")
    assert found.schema == {"identity.origin": (None, "imported")}
    assert not found.columns
    assert not found.index
    assert report.by_status == {"excluded": 6, "failed": 6, "ok": 30}


@pytest.mark.parametrize("to", PLACES)
def test_a_store_of_one_segment_keeps_its_rows_in_their_places(to, tmp_path):
    store = make_store(tmp_path / "store.zarr")
    export.export(store, tmp_path / PLACES[to], to)
    convert.import_embeddings(tmp_path / PLACES[to], tmp_path / "back.zarr")
    first, second = (embed_cache.open(path) for path in (store, tmp_path / "back.zarr"))
    assert first.index.equals(second.index)
    assert [s.part_rows for s in first.manifest.segments] == [s.part_rows for s in second.manifest.segments]
    assert difference(store, tmp_path / "back.zarr").to_json()["columns"] == {}


def test_hdf5_is_read_without_us(grown, tmp_path):
    export.export(grown, tmp_path / "x.h5")
    rows = live_rows(grown)
    with h5py.File(tmp_path / "x.h5") as file:
        ids = [text.decode() for text in file["id"]]
        assert set(ids) == {i for i, row in rows.items() if row["status"] == "ok"}
        assert set(file["others/status"].asstr()[:]) == {"excluded", "failed"}
        start, count = file["columns/signal/start"][:], file["columns/signal/count"][:]
        for k, item in enumerate(ids):
            assert file["columns/moments"][k].tolist() == rows[item]["moments"]
            assert file["columns/signal/values"][start[k] : start[k] + count[k]].tolist() == rows[item]["signal"]
            assert file["group"].asstr()[k] == rows[item]["group"]
        assert json.loads(file["about"][()])["licence"] == IDENTITY["teacher"]["licence"]


def test_safetensors_is_read_without_us(grown, tmp_path):
    export.export(grown, tmp_path / "x.safetensors")
    rows = live_rows(grown)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        ids = [bytes(line).rstrip(b"\0").decode() for line in file.get_tensor("id").numpy()]
        moments = file.get_tensor("columns/moments").numpy()
        assert {i: m.tolist() for i, m in zip(ids, moments, strict=True)} == {
            i: row["moments"] for i, row in rows.items() if row["status"] == "ok"
        }
    assert about["content_hash"] == embed_cache.open(grown).content_hash()
    assert about["identity"] == IDENTITY


def test_a_study_is_a_file_below_the_folder_whatever_its_name(grown, tmp_path):
    export.export(grown, tmp_path / "in/out")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}
    assert {p.name for p in (tmp_path / "in").iterdir()} == {"out"}
    files = json.loads((tmp_path / "in/out/export.json").read_text())["studies"]
    assert set(files) == set(STUDIES)
    assert {p.name for p in (tmp_path / "in/out").iterdir()} == {"export.json", *files.values()}
    rows = live_rows(grown)
    for study, name in files.items():
        with safe_open(tmp_path / "in/out" / name, framework="numpy") as file:
            ids = {bytes(line).rstrip(b"\0").decode() for part in ("id", "others/id") for line in file.get_tensor(part)}
        assert ids == {item for item, row in rows.items() if row["group"] == study}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
def test_a_file_name_gives_the_study_back(study):
    name = exchange.file_name(study)
    assert unquote(name) == study
    assert set(name) <= exchange._SAFE | {"%"}


def test_an_export_replaces_only_an_export_of_the_same_store(grown, tmp_path):
    other = make_store(tmp_path / "other.zarr", identity={**IDENTITY, "mask": "none"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("x")
    (tmp_path / "thesis.h5").write_text("x")
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = 1
    for place in ("thesis.h5", "theirs.h5", "full"):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with pytest.raises(UserError, match="no export"):
            export.export(grown, tmp_path / place)
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for place in PLACES.values():
        export.export(grown, tmp_path / place)
        assert export.export(grown, tmp_path / place).replaced
        with pytest.raises(UserError, match=r"identity|mask"):
            export.export(other, tmp_path / place)


@pytest.mark.parametrize("to", PLACES)
def test_an_export_that_is_stopped_leaves_what_was_there(to, grown, tmp_path, monkeypatch):
    place = tmp_path / PLACES[to]
    take, calls = export.PartReader.take, []

    def stopped(self, column, rows):
        calls.append(len(rows))
        if len(calls) > 3:
            raise KeyboardInterrupt
        return take(self, column, rows)

    monkeypatch.setattr(export, "BLOCK_BYTES", 200)
    with monkeypatch.context() as patch:
        patch.setattr(export.PartReader, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.export(grown, place)
    assert list(tmp_path.iterdir()) == []
    export.export(grown, place)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(export.PartReader, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.export(grown, place)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("to", PLACES)
def test_an_export_onto_a_full_disk_says_so_and_leaves_nothing(to, grown, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "a parser's own words")

    monkeypatch.setattr(export, "_put_in_place", lambda partial, out: full(out))
    with pytest.raises(UserError, match="no room for the export"):
        export.export(grown, tmp_path / PLACES[to])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_by_the_next(grown, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".x.h5.{ended.pid}.partial").write_text("half")
    (tmp_path / f".x.h5.{os.getpid()}1.txt").write_text("not ours")
    export.export(grown, tmp_path / "x.h5")
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", f".x.h5.{os.getpid()}1.txt"}


@pytest.mark.parametrize("column", ["moments", "signal"])
def test_damaged_values_are_never_exported(column, tmp_path):
    store = make_store(tmp_path / "store.zarr")
    chunk = sorted(p for p in store.rglob(f"columns/{column}/**/c.*"))[1]
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(embed_cache.DamagedStore, match=column):
        export.export(store, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_the_memory_of_an_export_does_not_grow_with_the_values(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "BLOCK_BYTES", 1 << 18)
    peaks = []
    for num in (64, 512):
        ids = [f"{k}" for k in range(num)]
        plan = embed_cache.make_plan(ids, ids, seed=0, part_rows=16)
        columns = (embed_cache.Column("wide", (4096,), "float32"), embed_cache.Column("many", (1024,), "float32", ragged=True))
        writer = embed_cache.Writer.create_or_resume(tmp_path / f"{num}", kind="x", identity={}, columns=columns, plan=plan)
        for part in writer.pending():
            values = {"wide": np.zeros(4096, np.float32), "many": np.zeros((4, 1024), np.float32)}
            writer.commit(part, {i: embed_cache.Row("ok", values=values) for i, *_ in writer.rows_of(part)}, {})
        writer.seal({})
        export.export(tmp_path / f"{num}", tmp_path / f"{num}.safetensors")
        tracemalloc.start()
        export.export(tmp_path / f"{num}", tmp_path / f"{num}.safetensors")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)
    assert (tmp_path / "512.safetensors").stat().st_size > 16 << 20


def test_formats_are_named_by_the_ending_or_by_hand(grown, tmp_path):
    assert export.export(grown, tmp_path / "x.bin", "hdf5").to == "hdf5"
    for place, to in (("x.dat", "auto"), ("x.h5", "safetensors"), ("x", "parquet")):
        with pytest.raises(UsageError):
            export.export(grown, tmp_path / place, to)


def test_an_export_that_was_changed_is_refused(grown, tmp_path):
    export.export(grown, tmp_path / "x")
    about = json.loads((tmp_path / "x/export.json").read_text())
    for change in ({"studies": {"s": "../../etc/passwd"}}, {"columns": 3}, {"segments": 3}, {"version": 2}, {"studies": []}):
        (tmp_path / "x/export.json").write_text(json.dumps({**about, **change}))
        with pytest.raises((UserError, embed_cache.StoreError)):
            convert.import_embeddings(tmp_path / "x", tmp_path / "back.zarr")
    (tmp_path / "x/export.json").write_text(json.dumps(about))
    file = next((tmp_path / "x").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError):
        convert.import_embeddings(tmp_path / "x", tmp_path / "back.zarr")


def test_a_store_with_clinical_text_leaves_only_when_asked(tmp_path):
    store = make_store(tmp_path / "store.zarr", identity={**IDENTITY, "contains_text": True})
    with pytest.raises(UserError, match="contains clinical text.*--contains-text"):
        export.export(store, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()
    must("store", "export", store, "--out", tmp_path / "x.h5", "--contains-text")
    assert (tmp_path / "x.h5").is_file()
