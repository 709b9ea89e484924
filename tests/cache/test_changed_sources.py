"""What a later call computes anew: items whose files, or whose rows in a raw store, are no longer those that were read."""

import shutil
from pathlib import Path

import pytest
from command_line import must
from jobs import contract_job, ecg_job, echo_job

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
    assert ecg_job(listed.path, tmp_path / "ecg.zarr").exit_status == 3
    header.write_text(whole)
    again = ecg_job(listed.path, tmp_path / "ecg.zarr")
    assert (again.num_computed, again.exit_status) == (1, 0)
    assert failed_of(tmp_path / "ecg.zarr") == 0


def test_a_contract_store_follows_its_raw_store(listed, tmp_path):
    data = listed.root / f"{listed.ecgs['path'][0].as_py()}.dat"
    whole = data.read_bytes()
    data.write_bytes(whole[:1000])
    raw, under = tmp_path / "raw.zarr", tmp_path / "ecg.zarr"
    assert [ecg_job(listed.path, raw, contract="").exit_status, contract_job(raw, under).exit_status] == [3, 3]
    assert contract_job(raw, under).already_done
    data.write_bytes(whole)
    assert ecg_job(listed.path, raw, contract="").exit_status == 0
    again = contract_job(raw, under)
    assert (again.num_computed, again.exit_status) == (1, 0)
    assert failed_of(under) == 0
    assert contract_job(raw, under).already_done


def test_an_empty_file_is_not_tried_again_until_it_is_filled(listed, tmp_path):
    data = listed.root / f"{listed.ecgs['path'][0].as_py()}.dat"
    whole = data.read_bytes()
    data.write_bytes(b"")
    assert ecg_job(listed.path, tmp_path / "ecg.zarr").exit_status == 3
    assert ecg_job(listed.path, tmp_path / "ecg.zarr").already_done
    data.write_bytes(whole)
    assert ecg_job(listed.path, tmp_path / "ecg.zarr").exit_status == 0
    assert failed_of(tmp_path / "ecg.zarr") == 0


def test_a_file_changed_at_equal_size_is_noticed(cohort, tmp_path):
    """One byte of the pixel data of one cine; its time tells that the bytes have to be read again."""
    shutil.copytree(cohort.root / "mimic-iv-echo", tmp_path / "data/mimic-iv-echo")
    must("index", "mimic-iv", tmp_path / "data", "--out", tmp_path / "catalog")
    assert echo_job(tmp_path / "catalog", tmp_path / "echo.zarr").exit_status == 0
    victim = sorted((tmp_path / "data").rglob("*.dcm"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    assert echo_job(tmp_path / "catalog", tmp_path / "echo.zarr").num_computed == 1
    assert echo_job(tmp_path / "catalog", tmp_path / "echo.zarr").already_done
