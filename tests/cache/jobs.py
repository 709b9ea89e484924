"""Cache jobs by the library, decoded in this process: for laws of rows and files, where no worker need be started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecgecho import cache, catalog, plugins
from ecgecho.cache import CacheReport, EchoOptions


def echo_job(listed: Path, out: Path, *, teacher: object = "demo", workers: int = 0, **options: Any) -> CacheReport:
    """`ecgecho cache-echo`."""
    config = plugins.load("teachers", str(teacher)).Config()
    how = EchoOptions(workers=workers, device="cpu", **options)
    return cache.cache_echo(catalog.read(listed), str(teacher), config, out, options=how)


def ecg_job(listed: Path, out: Path, *, contract: str = "echoing_ecg") -> CacheReport:
    """`ecgecho cache-ecg`; contract "" keeps ECGs as recorded."""
    return cache.cache_ecg(catalog.read(listed), cache.find_contract(contract) if contract else None, out, workers=0)


def contract_job(raw: Path, out: Path) -> CacheReport:
    """`ecgecho cache-ecg` on a raw store."""
    return cache.contract_from_raw(raw, cache.find_contract("echoing_ecg"), out)
