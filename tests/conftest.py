"""One small simulated cohort with its catalog, stores and a run, made once a session through the command line."""

from __future__ import annotations

import os
import signal
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
