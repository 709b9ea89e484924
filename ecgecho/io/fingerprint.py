"""What identifies the bytes of source files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ecgecho.io.files import size_of
from ecgecho.types import ItemError

CHUNK_BYTES = 1 << 20


def fingerprint(*paths: Path | str) -> str:
    """ "SIZE:SHA256" of the bytes of a file, or of several one after the other. The modification time plays no part."""
    size, digest = 0, hashlib.sha256()
    for path in map(Path, paths):
        size += size_of(path)
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as err:
            raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    return f"{size}:{digest.hexdigest()}"
