"""One small simulated cohort with its catalog, stores and a run, made once a session through the command line."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import must
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script: children would not hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)
CLIPS = ("--views", "a4c,plax", "--frames", 24)  # as few pictures as the laws need


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Paths of the session's cohort; read-only for tests."""

    root: Path
    catalog: Path
    echo: Path
    ecg: Path
    raw: Path
    run: Path

    @property
    def cines(self) -> list[Path]:
        """Its plain cines, without the stills and Doppler files among them."""
        rows = pq.read_table(self.root / "truth.parquet", columns=["content", "path"]).to_pylist()
        return sorted(self.root / row["path"] for row in rows if row["content"] == "cine")


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 server on loopback."""
    moto_server = pytest.importorskip("moto.server", reason="needs the extra dev: moto[s3]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    found = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    yield "http://{}:{}".format(*found.get_host_and_port())
    found.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A new bucket, found through the environment alone."""
    import boto3

    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": s3_server, **secrets}.items():
        monkeypatch.setenv(name, value)
    name = f"lab-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Cohort:
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    root = base / "shared_cohort"
    places = {name: root / f"{name}.zarr" for name in ("echo", "ecg", "raw")}
    made = Cohort(root=root, catalog=root / "catalog", run=root / "run", **places)
    with FileLock(str(base / "shared_cohort.lock")):
        if not (root / "complete").exists():
            must("simulate", root, "--subjects", 60, "--seed", 7, "--echo-share", 0.3, "--enrich", *CLIPS)
            must("index", "mimic-iv", root, "--out", made.catalog)
            must("cache-echo", made.catalog, "--teacher", "demo", "--out", made.echo)
            must("cache-ecg", made.catalog, "--contract", "echoing_ecg", "--out", made.ecg)
            must("cache-ecg", made.catalog, "--out", made.raw)
            stores = ("--catalog", made.catalog, "--echo", made.echo, "--ecg", made.ecg)
            must("train", "echoing_ecg", "--recipe", "small", *stores, "--out", made.run, "--set", "optim.steps=3")
            (root / "complete").touch()
    return made
