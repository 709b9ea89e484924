"""No disk syncs in these tests, except where a test asks whether they are made: a kill of a process needs none to be survived."""

from __future__ import annotations

import pytest

from embed_cache import disk


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch):
    monkeypatch.setattr(disk, "_fsync", lambda handle: None)


@pytest.fixture
def store_path(tmp_path):
    return tmp_path / "a.zarr"
