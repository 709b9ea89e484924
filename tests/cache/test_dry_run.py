"""A dry run says what the job would do, and leaves every file as it was."""

import hashlib
import shutil
from pathlib import Path

import pytest
from command_line import must
from jobs import commits, ecg_job, echo_job

from ecgecho import cache, catalog, plugins
from ecgecho.cache import EchoOptions
from ecgecho.job import Preview


def tree(*roots: Path) -> dict[str, str]:
    files = [path for root in roots for path in sorted(root.rglob("*"))]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in files}


def preview(listed: Path, out: Path) -> Preview:
    config = plugins.load("teachers", "demo").Config()
    return cache.echo_job(catalog.read(listed), "demo", config, out, options=EchoOptions(workers=0, device="cpu")).preview()


def test_counts_bytes_and_a_time_before_and_after_the_job(listed, cines, tmp_path):
    before = preview(listed, tmp_path / "e.zarr")
    assert (before.num_new, before.num_again, before.num_unfinished) == (12, 0, 0)
    assert before.bytes_to_read == sum(path.stat().st_size for path in cines.rglob("*.dcm"))
    assert before.seconds > 0
    assert before.num_sampled == 12
    assert list(tmp_path.iterdir()) == []
    echo_job(listed, tmp_path / "e.zarr")
    made = tree(tmp_path)
    after = preview(listed, tmp_path / "e.zarr")
    assert (after.num_wanted, after.bytes_to_read, after.seconds) == (0, 0, 0.0)
    assert sum(after.by_status.values()) == 12
    assert tree(tmp_path) == made


def test_what_a_stopped_job_left_is_counted_and_not_touched(listed, tmp_path, monkeypatch):
    import embed_cache

    real = embed_cache.Writer.commit

    def stop(writer, *args):
        if commits(tmp_path) == 2:
            raise KeyboardInterrupt
        return real(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(embed_cache.Writer, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            echo_job(listed, tmp_path / "e.zarr", part_rows=2)
    made = tree(tmp_path)
    assert preview(listed, tmp_path / "e.zarr").num_unfinished == 8
    assert tree(tmp_path) == made


def test_a_changed_file_and_a_new_one_are_told_apart(cines, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(cines, root)
    held = next(root.rglob("3.dcm"))
    whole = held.read_bytes()
    held.unlink()
    must("index", "folder", root, "--out", tmp_path / "c")
    echo_job(tmp_path / "c", tmp_path / "e.zarr")
    held.write_bytes(whole)
    other = next(root.rglob("5.dcm"))
    other.write_bytes(other.read_bytes()[:-2000])
    must("index", "folder", root, "--out", tmp_path / "c")
    found = preview(tmp_path / "c", tmp_path / "e.zarr")
    assert (found.num_new, found.num_again) == (1, 1)


def test_a_folder_is_indexed_elsewhere(cines, tmp_path):
    shutil.copytree(cines, tmp_path / "data")
    before = tree(tmp_path)
    told = must("cache-echo", tmp_path / "data", "--out", tmp_path / "e.zarr", "--workers", 1, "--dry-run")
    assert "to compute       12 clips" in told
    assert tree(tmp_path) == before


def test_ecgs_too(cohort, tmp_path):
    told = must("cache-ecg", cohort.catalog, "--out", tmp_path / "raw.zarr", "--workers", 1, "--dry-run")
    assert "nothing is written" in told
    assert list(tmp_path.iterdir()) == []
    ecg_job(cohort.catalog, tmp_path / "raw.zarr", contract="")
    size = sum(path.stat().st_size for path in (tmp_path / "raw.zarr").rglob("*") if path.is_file())
    stated = cache.ecg_job(catalog.read(cohort.catalog), None, tmp_path / "other.zarr", workers=0).preview().bytes_to_write
    assert 0.8 < stated / size < 1.25
