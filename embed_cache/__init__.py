"""Rows with ids, groups and columns on disk: planned before they are computed, committed in parts, verified to the byte.

The on-disk format is FORMAT.md. This package knows rows and columns, and nothing of what they mean.
"""

from embed_cache.erase import Erasure, erase, erasures, finish_erasures
from embed_cache.errors import DamagedStore, IncompleteStore, StaleStore, StoreError
from embed_cache.layout import FORMAT_VERSION, Column
from embed_cache.manifest import Manifest
from embed_cache.place import is_remote
from embed_cache.plan import Plan, make_plan
from embed_cache.progress import Progress, progress
from embed_cache.repair import RepairReport, repair
from embed_cache.store import EmbeddingStore
from embed_cache.store import open_store as open
from embed_cache.verify import Damage, VerifyReport, info, verify
from embed_cache.writer import Row, Writer

__all__ = [
    "FORMAT_VERSION",
    "Column",
    "Damage",
    "DamagedStore",
    "EmbeddingStore",
    "Erasure",
    "IncompleteStore",
    "Manifest",
    "Plan",
    "Progress",
    "RepairReport",
    "Row",
    "StaleStore",
    "StoreError",
    "VerifyReport",
    "Writer",
    "erase",
    "erasures",
    "finish_erasures",
    "info",
    "is_remote",
    "make_plan",
    "open",
    "progress",
    "repair",
    "verify",
]
