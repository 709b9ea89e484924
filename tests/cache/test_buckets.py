"""A cache job whose store lies in a bucket, against a real S3 server on loopback."""

from __future__ import annotations

import uuid

import pytest
from command_line import must
from jobs import echo_job

import embed_cache

moto_server = pytest.importorskip("moto.server", reason="needs the extra dev: moto[server]")


@pytest.fixture
def bucket(monkeypatch):
    """A new bucket, found through the environment alone."""
    import logging

    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    where = "http://{}:{}".format(*server.get_host_and_port())
    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": where, **secrets}.items():
        monkeypatch.setenv(name, value)
    name = f"lab-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=where, region_name="us-east-1").create_bucket(Bucket=name)
    yield f"s3://{name}"
    server.stop()


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
