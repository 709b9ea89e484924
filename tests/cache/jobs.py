"""Cache jobs by the library, decoded in this process: for laws of rows and files, where no worker need be started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from ecgecho import cache, catalog, plugins
from ecgecho.cache import EchoOptions
from ecgecho.job import CacheReport


def echo_job(listed: Path, out: Path, *, teacher: object = "demo", workers: int = 0, **options: Any) -> CacheReport:
    """`ecgecho cache-echo`."""
    config = plugins.load("teachers", str(teacher)).Config()
    how = EchoOptions(workers=workers, device="cpu", **options)
    return cache.echo_job(catalog.read(listed), str(teacher), config, out, options=how).run()


def ecg_job(listed: Path, out: Path, *, contract: str = "echoing_ecg") -> CacheReport:
    """`ecgecho cache-ecg`; contract "" keeps ECGs as recorded."""
    wanted = cache.find_contract(contract) if contract else None
    return cache.ecg_job(catalog.read(listed), wanted, out, workers=0).run()


def contract_job(raw: Path, out: Path) -> CacheReport:
    """`ecgecho cache-ecg` on a raw store."""
    return cache.contract_job(raw, cache.find_contract("echoing_ecg"), out).run()


def start(*words: object) -> subprocess.Popen[str]:
    """`ecgecho` in a session of its own, so that a kill of its group is a kill of all that it started there."""
    line = [sys.executable, "-m", "ecgecho", *(str(w) for w in words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def commits(store: Path) -> int:
    """Commit records of a store, whole or not."""
    return len(list(store.rglob("log/*.json")))
