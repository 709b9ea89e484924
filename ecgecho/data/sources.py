"""The catalogs and stores a run reads, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import embed_cache
from ecgecho import catalog as tables
from ecgecho.catalog import Catalog
from ecgecho.pairs import SPLIT_VERSION
from ecgecho.types import Json, UsageError

HASHED = ("subjects", "clips", "ecgs", "texts", "labels", "pairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Opened, read-only; paths as the user gave them."""

    catalogs: tuple[Catalog, ...]
    ecgs: tuple[embed_cache.EmbeddingStore, ...]
    echos: tuple[embed_cache.EmbeddingStore, ...]
    ecg_paths: tuple[str, ...]
    echo_paths: tuple[str, ...]

    def identity(self) -> Json:
        """What must be the same for a run to go on; no paths."""
        return {
            "catalogs": [{"dataset": c.dataset, "family": c.family, "sha256": catalog_hash(c.path)} for c in self.catalogs],
            "ecgs": [store.content_hash() for store in self.ecgs],
            "echos": [store.content_hash() for store in self.echos],
            "split_version": SPLIT_VERSION,
        }

    def paths(self, run: Path) -> Json:
        """Where they lie, relative to the run's directory."""
        catalogs = [str(c.path) for c in self.catalogs]
        kinds = {"catalogs": catalogs, "ecgs": self.ecg_paths, "echos": self.echo_paths}
        return {kind: [path if "://" in path else os.path.relpath(path, run) for path in paths] for kind, paths in kinds.items()}


def open_sources(catalogs: Sequence[Path], ecgs: Sequence[Path], echos: Sequence[Path]) -> Sources:
    """Open everything before any work; a store without a head, or a folder that is no catalog, is refused."""
    if not catalogs or not ecgs:
        raise UsageError("train needs at least one --catalog and one --ecg store.")
    return Sources(
        catalogs=tuple(tables.read(path) for path in catalogs),
        ecgs=tuple(embed_cache.open(path) for path in ecgs),
        echos=tuple(embed_cache.open(path) for path in echos),
        ecg_paths=tuple(str(path) for path in ecgs),
        echo_paths=tuple(str(path) for path in echos),
    )


def catalog_hash(path: Path) -> str:
    """SHA-256 of the bytes of a catalog's tables."""
    result = hashlib.sha256()
    for name in HASHED:
        file = path / f"{name}.parquet"
        if file.is_file():
            with file.open("rb") as data:
                result.update(f"{name}:{hashlib.file_digest(data, 'sha256').hexdigest()};".encode())
    return result.hexdigest()
