"""Tests here are about content; that files are synced before they count is tested beside the store."""

import pytest

from embed_cache import disk


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch):
    monkeypatch.setattr(disk, "_fsync", lambda handle: None)
