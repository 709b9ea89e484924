"""What a later call computes anew: items whose files, or whose rows in a raw store, are no longer those that were read."""

import shutil
from pathlib import Path

import pytest
from command_line import ecgecho, must

import embed_cache
from ecgecho import catalog as tables


@pytest.fixture
def listed(cohort, tmp_path) -> tables.Catalog:
    shutil.copytree(cohort.root / "mimic-iv-ecg", tmp_path / "data/mimic-iv-ecg")
    must("index", "mimic-iv", tmp_path / "data", "--out", tmp_path / "catalog")
    return tables.read(tmp_path / "catalog")


def failed_of(store: Path) -> int:
    index = embed_cache.open(store).index
    return index.filter(index["live"])["status"].to_pylist().count("failed")


def test_a_repaired_header_heals_its_recording(listed, tmp_path):
    header = listed.root / f"{listed.ecgs['path'][0].as_py()}.hea"
    whole = header.read_text()
    header.write_text(whole.replace(" 12 ", " 13 ", 1))
    words = ("cache-ecg", listed.path, "--contract", "echoing_ecg", "--out", tmp_path / "ecg.zarr")
    assert ecgecho(*words).returncode == 3
    header.write_text(whole)
    assert "computed now 1," in must(*words)
    assert failed_of(tmp_path / "ecg.zarr") == 0


def test_a_contract_store_follows_its_raw_store(listed, tmp_path):
    data = listed.root / f"{listed.ecgs['path'][0].as_py()}.dat"
    whole = data.read_bytes()
    data.write_bytes(whole[:1000])
    raw = ("cache-ecg", listed.path, "--out", tmp_path / "raw.zarr")
    under = ("cache-ecg", tmp_path / "raw.zarr", "--contract", "echoing_ecg", "--out", tmp_path / "ecg.zarr")
    assert [ecgecho(*words).returncode for words in (raw, under)] == [3, 3]
    assert "is done" in ecgecho(*under).stdout
    data.write_bytes(whole)
    must(*raw)
    assert "computed now 1," in must(*under)
    assert failed_of(tmp_path / "ecg.zarr") == 0
    assert "is done" in must(*under)


def test_an_empty_file_is_not_tried_again_until_it_is_filled(listed, tmp_path):
    data = listed.root / f"{listed.ecgs['path'][0].as_py()}.dat"
    whole = data.read_bytes()
    data.write_bytes(b"")
    words = ("cache-ecg", listed.path, "--contract", "echoing_ecg", "--out", tmp_path / "ecg.zarr")
    assert ecgecho(*words).returncode == 3
    assert "is done" in ecgecho(*words).stdout
    data.write_bytes(whole)
    must(*words)
    assert failed_of(tmp_path / "ecg.zarr") == 0


def test_a_file_changed_at_equal_size_is_noticed(cohort, tmp_path):
    """One byte of the pixel data of one cine; its time tells that the bytes have to be read again."""
    shutil.copytree(cohort.root / "mimic-iv-echo", tmp_path / "data/mimic-iv-echo")
    must("index", "mimic-iv", tmp_path / "data", "--out", tmp_path / "catalog")
    words = ("cache-echo", tmp_path / "catalog", "--out", tmp_path / "echo.zarr")
    must(*words)
    victim = sorted((tmp_path / "data").rglob("*.dcm"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    again = ecgecho(*words)
    assert "computed now 1," in again.stdout, again.stdout + again.stderr
    assert "is done" in ecgecho(*words).stdout
