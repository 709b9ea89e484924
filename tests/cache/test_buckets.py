"""A cache job whose store lies in a bucket, against a real S3 server on loopback."""

from __future__ import annotations

from command_line import must
from jobs import echo_job

import embed_cache


def test_a_job_into_a_bucket_gives_the_rows_of_one_into_a_folder(listed, bucket, tmp_path):
    echo_job(listed, tmp_path / "e.zarr", part_rows=2)
    words = ("cache-echo", listed, "--out", f"{bucket}/echo.zarr", "--part-rows", 2, "--workers", 1)
    before = must(*words, "--dry-run", cwd=tmp_path)
    assert "12 clips (new 12" in before
    told = must(*words, cwd=tmp_path)
    assert f"{bucket}/ecg.zarr" in told or "next:" not in told
    assert embed_cache.open(f"{bucket}/echo.zarr").content_hash() == embed_cache.open(tmp_path / "e.zarr").content_hash()
    assert f"{bucket}/echo.zarr is done" in must(*words, cwd=tmp_path)
    assert f"{bucket}/echo.zarr: echo, complete" in must("status", f"{bucket}/echo.zarr", cwd=tmp_path)
    assert not (tmp_path / "s3:").exists()
