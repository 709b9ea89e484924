"""Who was erased from a store does not come back: neither by the same catalog, nor by one that cannot tell who it was."""

import shutil
import time

import pytest
from jobs import contract_job, ecg_job, echo_job

import embed_cache
from ecgecho import cache
from ecgecho import catalog as tables
from ecgecho.types import UserError


@pytest.fixture
def listed(cohort, tmp_path) -> tables.Catalog:
    """A catalog of one's own, over the shared files."""
    shutil.copytree(cohort.catalog, cohort.catalog.with_name(tmp_path.name))
    yield tables.read(cohort.catalog.with_name(tmp_path.name))
    shutil.rmtree(cohort.catalog.with_name(tmp_path.name))
    cohort.catalog.with_name(f"{tmp_path.name}.key").unlink(missing_ok=True)


def erase(out, catalog: tables.Catalog, table, name: str) -> str:
    subject = table["subject_id"][0].as_py()
    ids = [item for item, who in zip(table[name].to_pylist(), table["subject_id"].to_pylist()) if who == subject]
    embed_cache.erase(out, ids=ids, keyed_hash=cache.subject_hash(catalog, subject), provenance={"time": round(time.time())})
    return subject


def live(out) -> int:
    index = embed_cache.open(out).index
    return index.filter(index["live"]).num_rows


def test_an_erased_subject_is_neither_planned_nor_computed_again(listed, tmp_path):
    out = tmp_path / "echo.zarr"
    echo_job(listed.path, out)
    subject = erase(out, listed, listed.clips, "clip_id")
    gone = listed.clips["subject_id"].to_pylist().count(subject)
    assert live(out) == listed.clips.num_rows - gone
    assert echo_job(listed.path, out).already_done
    assert live(out) == listed.clips.num_rows - gone


def test_a_catalog_without_the_key_or_with_another_is_refused(listed, tmp_path):
    out = tmp_path / "ecg.zarr"
    ecg_job(listed.path, out)
    erase(out, listed, listed.ecgs, "ecg_id")
    key = listed.path.with_name(f"{listed.path.name}.key")
    assert key.stat().st_mode & 0o777 == 0o600
    whole = key.read_bytes()
    key.unlink()
    with pytest.raises(UserError, match="only the key of its catalog"):
        ecg_job(listed.path, out)
    assert not key.exists()
    key.write_text("0" * 64)
    key.chmod(0o600)
    with pytest.raises(UserError, match="another key"):
        ecg_job(listed.path, out)
    key.write_bytes(whole)
    assert ecg_job(listed.path, out).already_done


def test_a_raw_store_does_not_bring_an_erased_subject_back(listed, tmp_path):
    raw, under = tmp_path / "raw.zarr", tmp_path / "ecg.zarr"
    ecg_job(listed.path, raw, contract="")
    contract_job(raw, under)
    erase(under, listed, listed.ecgs, "ecg_id")
    with pytest.raises(UserError, match="bring them back"):
        contract_job(raw, under)
    erase(raw, listed, listed.ecgs, "ecg_id")
    assert contract_job(raw, under).already_done
